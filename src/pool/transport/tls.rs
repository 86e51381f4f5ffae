//! TLS over a socket: the handshake in steps that never wait, then bytes as on any other socket.
//!
//! ```text
//!   connected ──► shake ⇄ poll ──► open: send, receive     one record, one system call each
//!                   └──► why not, with what to do
//! ```
//!
//! Three things differ from a plain socket. Bytes count as sent when their whole record is with
//! the kernel, so that what counts as not sent was not read by anybody; who is told to wait
//! repeats the same bytes. Decrypted bytes may lie here while the socket is silent ([`Session::has_more`]).
//! And a closed session says nothing: after a fork its end is nobody else's business.

mod trust;

pub use trust::PLAIN;

use crate::config::Tls;
use crate::error::Error;
use rustix::event::PollFlags;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use std::cell::RefCell;
use std::fmt;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::rc::Rc;
use trust::{Server, cut, refuse, said, server};

/// Most that goes into one record, bytes (RFC 8446 5.1).
const RECORD: usize = 16 << 10;
/// What is received at a time, bytes: a record and what comes with it.
const INBOX: usize = RECORD + 512;
/// So many pieces for nobody may lie unread in an idle connection: session tickets.
const UNREAD: u32 = 16;
/// How far a handshake got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shake {
    /// It is over, and the connection is open.
    Over,
    /// Wait for what the session waits for.
    Waiting,
    /// The server does not go on with what was agreed before: it is worth a new connection.
    Anew,
}

/// One TLS connection, or one that is coming about.
pub struct Session {
    fd: OwnedFd,
    server: Rc<Server>,
    /// It began when the server had a session of ours to take up.
    resumes: bool,
    talk: RefCell<Talk>,
}

struct Talk {
    tls: ClientConnection,
    /// Bytes from the network that are not decrypted yet, from `at` on.
    inbox: Vec<u8>,
    at: usize,
    /// Decrypted bytes nobody took yet.
    plain: usize,
    /// Bytes of the caller in the record that is on its way to the kernel.
    owed: usize,
    /// Is the handshake under way?
    shaking: bool,
    /// The server said that it will say no more.
    closed: bool,
    /// Why the session is of no more use.
    trouble: Option<Error>,
}

impl fmt::Debug for Session {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Session")
            .field("fd", &self.fd)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Begins on a connected socket that does not block; `host` and `port` are the server's.
    ///
    /// # Errors
    /// `Tls`: a file that cannot be read or used, a host no certificate can be for.
    pub fn new(fd: OwnedFd, wish: &Tls, host: &str, port: u16) -> Result<Session, Error> {
        let name = wish.name.as_deref().unwrap_or(host).trim_end_matches('.');
        let name = ServerName::try_from(name.to_owned()).map_err(|_| {
            refuse(
                "no certificate can be for a host of this name",
                "Write server_name=NAME with the name in its certificate",
            )
        })?;
        let server = server(wish, host, port)?;
        let tls =
            ClientConnection::new(server.config(), name).map_err(|error| said(&error, wish))?;
        Ok(Session {
            fd,
            resumes: server.has_agreed(),
            server,
            talk: RefCell::new(Talk {
                tls,
                inbox: Vec::new(),
                at: 0,
                plain: 0,
                owed: 0,
                shaking: true,
                closed: false,
                trouble: None,
            }),
        })
    }

    /// The socket below.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Is the handshake not over yet?
    pub fn is_shaking(&self) -> bool {
        self.talk.borrow().shaking
    }

    /// Goes on with the handshake as far as that needs no waiting.
    ///
    /// # Errors
    /// `Tls`, with what to do about it.
    pub fn shake(&self, wish: &Tls) -> Result<Shake, Error> {
        let talk = &mut *self.talk.borrow_mut();
        loop {
            match talk.flush(&self.fd) {
                Ok(()) => {}
                Err(Errno::AGAIN) => return Ok(Shake::Waiting),
                Err(errno) => return Err(cut(errno)),
            }
            if !talk.tls.is_handshaking() {
                talk.shaking = false;
                self.server.agreed();
                return Ok(Shake::Over);
            }
            match talk.fill(&self.fd, RecvFlags::DONTWAIT) {
                Ok(0) => return Err(cut(Errno::CONNRESET)),
                Ok(_) => {}
                Err(Errno::AGAIN | Errno::INTR) => return Ok(Shake::Waiting),
                Err(errno) => return Err(cut(errno)),
            }
            while talk.at < talk.inbox.len() {
                if let Err(error) = talk.digest() {
                    let alert = matches!(error, rustls::Error::AlertReceived(_));
                    if alert && (self.server.give_up_resumption() || self.resumes) {
                        return Ok(Shake::Anew);
                    }
                    // The other side may want to know why.
                    let _ = talk.flush(&self.fd);
                    return Err(said(&error, wish));
                }
            }
        }
    }

    /// What to wait for at the socket, of who wishes `flags`.
    pub fn wish(&self, flags: PollFlags) -> PollFlags {
        let talk = self.talk.borrow();
        match (talk.shaking, talk.tls.wants_write()) {
            (true, true) => PollFlags::OUT,
            (true, false) => PollFlags::IN,
            (false, _) => flags,
        }
    }

    /// Are there bytes to read although the socket may be silent?
    pub fn has_more(&self) -> bool {
        let talk = self.talk.borrow();
        !talk.shaking && (talk.plain > 0 || talk.at < talk.inbox.len())
    }

    /// Why the connection broke, where TLS knows it.
    pub fn trouble(&self) -> Option<Error> {
        self.talk.borrow().trouble.clone()
    }

    /// Sends the beginning of `bytes`, one record at most; how much.
    ///
    /// # Errors
    /// As a send's. After `AGAIN` the same bytes have to come again.
    pub fn send(&self, bytes: &[u8], flags: SendFlags) -> rustix::io::Result<usize> {
        let talk = &mut *self.talk.borrow_mut();
        if talk.trouble.is_some() {
            return Err(Errno::PROTO);
        }
        if talk.owed == 0 {
            let record = bytes.get(..RECORD).unwrap_or(bytes);
            talk.owed = talk.tls.writer().write(record).map_err(|_| Errno::NOBUFS)?;
        }
        talk.flush_with(&self.fd, flags)?;
        Ok(std::mem::take(&mut talk.owed))
    }

    /// The same for bytes that lie in several places.
    ///
    /// # Errors
    /// As [`Session::send`].
    pub fn send_parts(&self, parts: &[IoSlice<'_>], flags: SendFlags) -> rustix::io::Result<usize> {
        let mut record = Vec::new();
        for part in parts {
            let room = RECORD - record.len();
            record.extend_from_slice(part.get(..room).unwrap_or(part));
        }
        self.send(&record, flags)
    }

    /// Receives into `room` what there is, after one system call at most; with `PEEK` only says
    /// whether there is something.
    ///
    /// # Errors
    /// As a receive's; `INTR` where something came, and nothing of it for the caller; `PROTO`
    /// when the session is spoilt ([`Session::trouble`]).
    pub fn receive(&self, room: &mut [u8], flags: RecvFlags) -> rustix::io::Result<usize> {
        let talk = &mut *self.talk.borrow_mut();
        if flags.contains(RecvFlags::PEEK) {
            return talk.peek(&self.fd);
        }
        let count = talk.take(room)?;
        if count > 0 || talk.closed || talk.fill(&self.fd, flags)? == 0 {
            return Ok(count);
        }
        match talk.take(room)? {
            // A session ticket, or the beginning of a record.
            0 if !talk.closed => Err(Errno::INTR),
            count => Ok(count),
        }
    }
}

impl Talk {
    /// Is there something for the caller, or an end? `AGAIN` where there is neither.
    fn peek(&mut self, fd: &OwnedFd) -> rustix::io::Result<usize> {
        for _ in 0..UNREAD {
            self.take(&mut [])?;
            if self.plain > 0 || self.closed || self.fill(fd, RecvFlags::DONTWAIT)? == 0 {
                return Ok(self.plain);
            }
        }
        // Who says so much that is for nobody is not silent.
        Ok(1)
    }

    /// Decrypts what is here and moves it into `room`; how much.
    fn take(&mut self, room: &mut [u8]) -> rustix::io::Result<usize> {
        let mut filled = 0;
        loop {
            while self.plain > 0 {
                let rest = room.get_mut(filled..).unwrap_or_default();
                let count = self.tls.reader().read(rest).unwrap_or(0);
                if count == 0 {
                    break;
                }
                self.plain = self.plain.saturating_sub(count);
                filled += count;
            }
            // Of a look nothing is moved, and what is decrypted is enough.
            let full = filled == room.len() && self.plain > 0;
            if full || self.at >= self.inbox.len() {
                return Ok(filled);
            }
            if let Some(error) = self.digest().err() {
                self.trouble = Some(said(&error, &Tls::default()));
                return match filled {
                    0 => Err(Errno::PROTO),
                    // What came before it is good.
                    filled => Ok(filled),
                };
            }
        }
    }

    /// Gives the session some of the inbox.
    fn digest(&mut self) -> Result<(), rustls::Error> {
        let mut rest = self.inbox.get(self.at..).unwrap_or_default();
        let before = rest.len();
        if self.tls.read_tls(&mut rest).is_err() || rest.len() == before {
            let what = "bytes after the end of the session";
            return Err(rustls::Error::General(what.to_owned()));
        }
        self.at += before - rest.len();
        let state = self.tls.process_new_packets()?;
        self.plain = state.plaintext_bytes_to_read();
        self.closed = state.peer_has_closed();
        if self.closed {
            // Nothing behind it counts.
            self.at = self.inbox.len();
        }
        Ok(())
    }

    /// Receives once into the empty inbox.
    fn fill(&mut self, fd: &OwnedFd, flags: RecvFlags) -> rustix::io::Result<usize> {
        if self.trouble.is_some() {
            return Err(Errno::PROTO);
        }
        self.at = 0;
        self.inbox.resize(INBOX, 0);
        let got = rustix::net::recv(fd, self.inbox.as_mut_slice(), flags);
        let count = got.as_ref().map_or(0, |(_, count)| *count);
        self.inbox.truncate(count);
        got.map(|(_, count)| count)
    }

    fn flush(&mut self, fd: &OwnedFd) -> rustix::io::Result<()> {
        self.flush_with(fd, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
    }

    /// Hands all records to the kernel.
    fn flush_with(&mut self, fd: &OwnedFd, flags: SendFlags) -> rustix::io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Wire { fd, flags }) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            }
        }
        Ok(())
    }
}

/// The socket as rustls writes to it.
struct Wire<'a> {
    fd: &'a OwnedFd,
    flags: SendFlags,
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(rustix::net::send(self.fd, bytes, self.flags)?)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> std::io::Result<usize> {
        let mut nothing = SendAncillaryBuffer::default();
        Ok(rustix::net::sendmsg(
            self.fd,
            parts,
            &mut nothing,
            self.flags,
        )?)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
