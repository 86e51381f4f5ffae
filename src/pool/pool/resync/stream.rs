//! The keys of one memcached, read a piece at a time on a connection of its own, so that nobody holds
//! the text of all of them: a node with millions of keys lists a gigabyte.
//!
//! Who lists is read to the end without a pause wherever that can be done: by its source a server whose
//! text nobody takes for a second may say END over what it has not said yet (crawler.c
//! lru_crawler_write, crawler_metadump_finalize). 1.6.18 and 1.6.38 did not in readings with pauses of
//! up to twelve seconds.

use super::listing::key_and_size;
use crate::config::{Login, NodeSpec};
use crate::error::{Error, Kind};
use crate::node::{Node, Open};
use crate::transport::{self, Wish};
use crate::wire::classic;
use crate::wire::greeting::Greeting;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::time::{Duration, Instant};

/// What is received at a time, bytes.
const READ: usize = 64 << 10;
/// A node that says nothing for so long does not list.
const SILENCE: Duration = Duration::from_secs(30);
/// Longest line of a listing, bytes: a key of 250, each byte of it escaped, and its particulars.
const LINE: usize = 4096;

/// A node that is listing its keys.
#[derive(Debug)]
pub(crate) struct Listing {
    node: Node,
    stage: Stage,
    limit: Duration,
    /// Who we are there, and said before the question.
    login: Option<Login>,
    /// When it was heard last.
    heard: Instant,
    /// The beginning of a line.
    rest: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    Connected,
    Entering,
    Asked,
}

impl Listing {
    /// Begins to connect.
    ///
    /// # Errors
    /// `Resolve` or `Connect`, when that fails at once.
    pub(crate) fn new(spec: &NodeSpec) -> Result<Listing, Error> {
        let mut listing = Listing {
            node: Node::new(spec),
            stage: Stage::Connecting,
            limit: spec.op_timeout,
            login: spec.login.clone(),
            heard: transport::now(),
            rest: Vec::new(),
        };
        let opened = listing.node.open(spec.op_timeout);
        listing.opened(opened)?;
        Ok(listing)
    }

    /// Reads on until `end`; `take` gets each key and the bytes of its item. True when that was all.
    ///
    /// # Errors
    /// The node fell silent, closed, or does not list its keys.
    pub(crate) fn step(
        &mut self,
        end: Instant,
        take: &mut dyn FnMut(Vec<u8>, usize),
    ) -> Result<bool, Error> {
        loop {
            if self.stage == Stage::Connecting && self.node.is_ready() {
                let opened = self.node.open_further(self.limit);
                self.opened(opened)?;
            }
            if self.stage == Stage::Connected {
                self.ask()?;
            }
            if matches!(self.stage, Stage::Entering | Stage::Asked) && self.read(take)? {
                return Ok(true);
            }
            if transport::since(self.heard) > SILENCE {
                return Err(Error::new(Kind::Timeout, "Network timeout"));
            }
            if !self.wait(end) {
                return Ok(false);
            }
        }
    }

    fn opened(&mut self, opened: Result<Open, Error>) -> Result<(), Error> {
        if opened? == Open::Ready {
            self.stage = Stage::Connected;
        }
        Ok(())
    }

    fn ask(&mut self) -> Result<(), Error> {
        // memcached lists to nobody who said something on the connection that is not answered yet.
        let (question, next) = match &self.login {
            Some(login) => (Greeting::of_memcached(login).words, Stage::Entering),
            None => {
                let mut question = Vec::new();
                classic::list_keys(&mut question);
                (question, Stage::Asked)
            }
        };
        let socket = self.node.socket().ok_or_else(closed)?;
        match socket.send(&question, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(count) if count == question.len() => {
                self.stage = next;
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            _ => Err(closed()),
        }
    }

    /// Reads what has arrived; true at the end of the listing.
    fn read(&mut self, take: &mut dyn FnMut(Vec<u8>, usize)) -> Result<bool, Error> {
        let mut piece = [0u8; READ];
        let socket = self.node.socket().ok_or_else(closed)?;
        let count = match socket.receive(&mut piece, RecvFlags::DONTWAIT) {
            Ok(0) => return Err(closed()),
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(errno) => return Err(self.node.broken(errno)),
        };
        self.heard = transport::now();
        self.rest
            .extend_from_slice(piece.get(..count).unwrap_or_default());
        let mut from = 0;
        while let Some(length) = memchr::memchr(b'\n', self.rest.get(from..).unwrap_or_default()) {
            let line = self.rest.get(from..from + length).unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            from += length + 1;
            match key_and_size(line) {
                Some((key, size)) => take(key, size),
                None if line == b"STORED" && self.login.take().is_some() => {
                    self.stage = Stage::Connected;
                }
                // The word may have been written over text that was not sent yet (crawler.c
                // crawler_metadump_finalize); then the rest of that text is behind it.
                None if line == b"END" && from == self.rest.len() => return Ok(true),
                None => {
                    let what = String::from_utf8_lossy(line).into_owned();
                    return Err(Error::new(Kind::Server, what));
                }
            }
        }
        self.rest.drain(..from);
        if self.rest.len() > LINE {
            let what = "Malformed server response: a line without an end";
            return Err(Error::new(Kind::Protocol, what));
        }
        Ok(false)
    }

    /// Waits for the node until `end`; false when that is over.
    fn wait(&self, end: Instant) -> bool {
        let left = end.saturating_duration_since(transport::now());
        let (false, Some(socket)) = (left.is_zero(), self.node.socket()) else {
            return false;
        };
        let flags = match self.stage {
            Stage::Entering | Stage::Asked => PollFlags::IN,
            Stage::Connecting => self.node.awaits(),
            Stage::Connected => PollFlags::OUT,
        };
        // Whatever became of it, the next step looks at the socket itself.
        transport::poll(&mut [Wish::new(socket, flags)], Some(left));
        true
    }
}

fn closed() -> Error {
    Error::new(Kind::Closed, "Connection closed by the server")
}
