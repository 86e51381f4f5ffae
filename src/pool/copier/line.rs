//! One node's copies and the connection they go over: what was said on it, in which order, and
//! which of it is answered. It never waits; `copier` does.

mod hear;

use super::{Copy, What, tell_failed, tell_missed};
use crate::config::{Engine, Entrance, NodeSpec};
use crate::error::{Error, Kind};
use crate::node::{Node, Open};
use crate::transport::{self, Socket};
use crate::wire::greeting;
use crate::wire::{Expect, classic};
use crate::wire::{copied, fenced, redis};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// What is received at a time, bytes.
const READ: usize = 16 << 10;
/// So many copies go out, however short they have waited.
const TOGETHER: usize = 64;
/// After so many refusals in a row those that are left count as refused: each costs a connection.
const REFUSALS: u32 = 8;
/// A buffer larger than this is given back when it is empty, bytes.
const KEEP: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Closed,
    Connecting,
    Open,
}

/// A copy that was said, and whose answers are awaited.
#[derive(Debug)]
struct Said {
    copy: Copy,
    at: Instant,
    /// It was said on a connection before this one.
    twice: bool,
    /// The node had a newer one, or may have had.
    overtaken: bool,
}

/// What the next answer is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    /// One of the first words, and what it is about.
    First(&'static str),
    Version,
    /// What the first of `said` goes over.
    Look,
    /// The first of `said` itself.
    Write,
}

/// One node's copies and their connection.
#[derive(Debug)]
pub(super) struct Line {
    node: Node,
    /// Where it leads, and as whom.
    pub(super) entrance: Entrance,
    /// Of a connect, and of an answer.
    limits: (Duration, Duration),
    stage: Stage,
    engine: Engine,
    /// Does the server take versions, as far as it said so last? Of a Redis: it has let us in.
    versions: Option<bool>,
    waiting: VecDeque<Copy>,
    said: VecDeque<Said>,
    asks: VecDeque<(Ask, Expect)>,
    /// When what waits goes out, or went.
    due: Option<Instant>,
    /// Bytes of the values in `waiting` and `said`.
    held: usize,
    /// How many of those copies each key has: far nodes have thousands on their way.
    keys: HashMap<Rc<[u8]>, u32>,
    out: Vec<u8>,
    sent: usize,
    /// What arrived and is not digested.
    read: Vec<u8>,
    /// Where it arrives, [`READ`] bytes: made once, since to clear them costs more than to read.
    room: Box<[u8]>,
    /// Numbers of the next command and of the next answer on this connection.
    spoken: u64,
    heard: u64,
    /// When the connect, or the question for the version, began.
    began: Instant,
    /// A connection was lost with copies unanswered, and none was answered since.
    again: bool,
    /// Copies that were refused since one was taken.
    refusals: u32,
    /// Copies at the head of `waiting` that were said before.
    twice: usize,
    /// When somebody was here last; was there more to send, and has the node waited for it?
    pub(super) seen: Cell<Instant>,
    stalled: bool,
    moved: bool,
}

impl Line {
    pub(super) fn new(spec: &NodeSpec) -> Line {
        Line {
            node: Node::new(spec),
            entrance: Entrance::of(spec),
            limits: (spec.connect_timeout, spec.op_timeout),
            stage: Stage::Closed,
            engine: spec.engine(),
            versions: None,
            waiting: VecDeque::new(),
            said: VecDeque::new(),
            asks: VecDeque::new(),
            due: None,
            held: 0,
            keys: HashMap::new(),
            out: Vec::new(),
            sent: 0,
            read: Vec::new(),
            room: vec![0; READ].into(),
            spoken: 0,
            heard: 0,
            began: transport::now(),
            again: false,
            refusals: 0,
            twice: 0,
            seen: Cell::new(transport::now()),
            stalled: false,
            moved: false,
        }
    }

    /// Takes a copy, and the limits it is said under.
    pub(super) fn take(&mut self, spec: &NodeSpec, copy: Copy, hold: Duration, now: Instant) {
        self.limits = (spec.connect_timeout, spec.op_timeout);
        if self.waiting.is_empty() {
            // The first after a pause goes out at once.
            let last = self.due.filter(|due| now <= *due + hold);
            self.due = Some(last.map_or(now, |_| now + hold));
        }
        self.held += copy.size();
        *self.keys.entry(Rc::clone(&copy.key)).or_default() += 1;
        self.waiting.push_back(copy);
    }

    /// Is it time to go on with it?
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.waiting.len() >= TOGETHER || self.due.is_none_or(|due| due <= now)
    }

    /// Bytes of the values on their way.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Is a copy of `key` on its way?
    pub(super) fn has(&self, key: &[u8]) -> bool {
        self.keys.contains_key(key)
    }

    /// The socket, while there is one.
    pub(super) fn socket(&self) -> Option<&Socket> {
        self.node.socket()
    }

    /// What it waits for at the socket.
    pub(super) fn wish(&self) -> PollFlags {
        match self.stage {
            Stage::Connecting => PollFlags::OUT,
            _ if self.sent < self.out.len() => PollFlags::OUT | PollFlags::IN,
            _ => PollFlags::IN,
        }
    }

    /// True when nothing is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.said.is_empty()
    }

    /// Is there something that the kernel does not have yet?
    pub(super) fn is_unsent(&self) -> bool {
        !self.waiting.is_empty() || self.sent < self.out.len()
    }

    /// When who is awaited now is too late.
    pub(super) fn end(&self) -> Option<Instant> {
        let (connect, answer) = self.limits;
        match (self.stage, self.said.front()) {
            (Stage::Connecting, _) => Some(self.began + connect),
            (_, Some(said)) => Some(said.at + answer),
            (_, None) => Some(self.began + answer),
        }
    }

    /// Goes as far as it can without waiting.
    pub(super) fn step(&mut self, now: Instant) {
        if self.stage == Stage::Open && self.is_idle() {
            return;
        }
        loop {
            let before = self.state();
            match self.stage {
                Stage::Closed => {
                    if self.waiting.is_empty() {
                        return;
                    }
                    self.began = now;
                    let opened = self.node.open(self.limits.1);
                    self.opened(opened);
                }
                Stage::Connecting => {
                    if self.node.is_ready() {
                        let opened = self.node.open_further(self.limits.1);
                        self.opened(opened);
                        // A handshake may come piece by piece for ever.
                        if self.stage == Stage::Connecting && self.began + self.limits.0 <= now {
                            self.fail(&self.node.late());
                        }
                    } else if self.began + self.limits.0 <= now {
                        let opened = match self.node.addresses_left() {
                            0 => Err(self.node.late()),
                            _ => self.node.open_other(self.limits.1),
                        };
                        self.began = now;
                        self.opened(opened);
                    } else {
                        return;
                    }
                }
                Stage::Open => self.talk(now),
            }
            let said_all = self.stage == Stage::Open && self.waiting.is_empty();
            if said_all || self.is_idle() || before == self.state() {
                return;
            }
        }
    }

    /// Who finds it as it was has to wait. A version that was heard lets the first copies be said.
    fn state(&self) -> (Stage, [usize; 3]) {
        let (waiting, said) = (self.waiting.len(), self.said.len());
        (self.stage, [waiting, said, self.asks.len()])
    }

    fn opened(&mut self, opened: Result<Open, Error>) {
        match opened {
            Ok(Open::Waiting) => self.stage = Stage::Connecting,
            Ok(Open::Ready) => {
                self.stage = Stage::Open;
                (self.spoken, self.heard) = (0, 0);
                self.began = transport::now();
                if let Some(greeting) = self.node.greeting(true) {
                    self.out.extend_from_slice(&greeting.words);
                    let steps = greeting.steps.iter();
                    let steps = steps.map(|(about, expect)| (Ask::First(about), *expect));
                    self.asks.extend(steps);
                }
                match self.engine {
                    // Another server may stand there than last time.
                    Engine::Memcached | Engine::Embedded => {
                        classic::version(&mut self.out);
                        self.asks.push_back((Ask::Version, Expect::Version));
                    }
                    // Nothing may reach another database.
                    Engine::Redis => self.versions = None,
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    /// A socket's turn: say, send, hear.
    fn talk(&mut self, now: Instant) {
        let away = now.saturating_duration_since(self.seen.get());
        (self.stalled, self.moved) = (self.sent < self.out.len(), false);
        if self.said.is_empty() && self.asks.is_empty() {
            // Idle until now; the server may have closed it meanwhile.
            if !self.node.is_open(now) {
                self.shut();
                return;
            }
            self.node.begin(self.limits.1);
        }
        if self.versions.is_some() {
            while let Some(copy) = self.waiting.pop_front() {
                self.say(&copy);
                self.said.push_back(Said {
                    copy,
                    at: now,
                    twice: self.twice > 0,
                    overtaken: false,
                });
                self.twice = self.twice.saturating_sub(1);
            }
        }
        let exchanged = self.exchange();
        self.seen.set(now);
        match exchanged {
            Ok(()) => {
                if self.moved {
                    // It waited for a process that was elsewhere: that time is not its own.
                    for said in &mut self.said {
                        said.at = (said.at + away).min(now);
                    }
                }
                if self.asks.is_empty() {
                    self.node.finish(now);
                    self.rest();
                } else if self.end().is_some_and(|end| end <= transport::now()) {
                    self.fail(&Error::new(Kind::Timeout, "Network timeout"));
                }
            }
            Err(Lost::Cut(cause)) => {
                // Whoever stood idle may have been cut off: once it is worth a new connection.
                // A copy may be said twice, its version is the same.
                if self.again {
                    self.fail(&Error::new(Kind::Closed, cause));
                } else {
                    self.again = true;
                    self.say_anew();
                }
            }
            Err(Lost::Stranger) => self.say_anew(),
            Err(Lost::Refused(about, text)) => self.fail(&greeting::refused(about, &text)),
            Err(Lost::Garbage(what)) => self.fail(&Error::new(
                Kind::Protocol,
                format!("Malformed server response: {what}"),
            )),
        }
    }

    /// Appends a copy's commands.
    fn say(&mut self, copy: &Copy) {
        let versions = self.versions == Some(true);
        let (out, asks) = (&mut self.out, &mut self.asks);
        let redis = self.engine == Engine::Redis;
        // A script in full: what is on its way is not said twice for one that is not known.
        let whole = true;
        let written = match &copy.what {
            What::Touch(life) if redis => {
                Expect::Redis(redis::copied::touch(out, &copy.key, *life, whole))
            }
            What::Touch(life) => {
                copied::touch(out, &copy.key, *life, self.spoken);
                Expect::Meta
            }
            What::Put {
                over,
                version,
                flags,
                life,
                value,
            } => {
                let looked = if redis {
                    Expect::Redis(redis::copied::look(out, &copy.key, false, whole))
                } else {
                    // Without versions in the cas value they stand before the value.
                    fenced::read(out, &copy.key, !versions, None, self.spoken);
                    Expect::Meta
                };
                asks.push_back((Ask::Look, looked));
                self.spoken += 1;
                let put = copied::Put {
                    key: &copy.key,
                    over: *over,
                    version: *version,
                    flags: *flags,
                    life: *life,
                    value: value.as_deref(),
                };
                if redis {
                    Expect::Redis(redis::copied::store(out, put, whole))
                } else {
                    copied::store(out, put, versions, self.spoken);
                    Expect::Meta
                }
            }
        };
        asks.push_back((Ask::Write, written));
        self.spoken += 1;
    }

    /// Sends and receives what is possible now.
    fn exchange(&mut self) -> Result<(), Lost> {
        loop {
            let talks = self.sent < self.out.len();
            let sent = self.send()?;
            if talks && sent {
                // Nobody has answered to that yet: to look would be one system call more for each copy.
                return Ok(());
            }
            let heard = self.receive()?;
            // Who has room for more now was stopped by answers nobody had read.
            if !heard || sent {
                return Ok(());
            }
        }
    }

    /// Hands bytes to the kernel; true when it has all.
    fn send(&mut self) -> Result<bool, Lost> {
        while self.sent < self.out.len() {
            let rest = self.out.get(self.sent..).unwrap_or_default();
            let Some(socket) = self.node.socket() else {
                return Err(Lost::Cut("Connection closed".to_owned()));
            };
            match socket.send(rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => {
                    self.sent += count;
                    self.moved |= self.stalled;
                    if self.sent > KEEP {
                        // Where the node is always a little behind, it would grow and grow.
                        self.out.drain(..self.sent);
                        self.sent = 0;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(errno) => return Err(self.cut(errno)),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(true)
    }

    #[cold]
    fn cut(&self, errno: Errno) -> Lost {
        Lost::Cut(self.node.broken(errno).cause().to_owned())
    }

    /// Reads what has arrived; true when there was something.
    fn receive(&mut self) -> Result<bool, Lost> {
        let mut any = false;
        loop {
            let Some(socket) = self.node.socket() else {
                return Err(Lost::Cut("Connection closed".to_owned()));
            };
            let count = match socket.receive(&mut self.room, RecvFlags::DONTWAIT) {
                Ok(0) => {
                    return Err(Lost::Cut("Connection closed by the server".to_owned()));
                }
                Ok(count) => count,
                // With TLS something may have come that is nothing: the next look goes on.
                Err(Errno::AGAIN | Errno::INTR) => return Ok(any),
                Err(errno) => return Err(self.cut(errno)),
            };
            any = true;
            let arrived = self.room.get(..count).unwrap_or_default();
            self.read.extend_from_slice(arrived);
            self.digest()?;
            if count < READ {
                return Ok(any);
            }
            self.moved = true;
        }
    }

    /// Closes the connection and says everything unanswered on a new one.
    fn say_anew(&mut self) {
        self.shut();
        self.twice += self.said.len();
        while let Some(said) = self.said.pop_back() {
            self.waiting.push_front(said.copy);
        }
    }

    fn shut(&mut self) {
        self.node.close();
        self.stage = Stage::Closed;
        self.asks.clear();
        self.out.clear();
        self.read.clear();
        self.sent = 0;
        self.rest();
    }

    /// Gives back what a rare large value needed.
    fn rest(&mut self) {
        for buffer in [&mut self.out, &mut self.read] {
            if buffer.capacity() > KEEP {
                *buffer = Vec::new();
            }
        }
    }

    /// The node failed: nothing that is on its way is believed to arrive.
    #[cold]
    fn fail(&mut self, error: &Error) {
        self.node.fail(error);
        let change = self.node.take_change();
        tell_failed(self.node.name(), &self.entrance.target, change, error);
        self.give_up();
    }

    pub(super) fn give_up(&mut self) {
        self.shut();
        (self.again, self.twice) = (false, 0);
        self.held = 0;
        self.keys.clear();
        let said = self.said.drain(..).map(|said| said.copy);
        said.chain(self.waiting.drain(..)).for_each(tell_missed);
    }
}

/// Why a connection is of no more use.
#[derive(Debug)]
enum Lost {
    /// It broke.
    Cut(String),
    /// It is not to be used further, though nobody failed.
    Stranger,
    /// It does not let us in: what was refused, and its words.
    Refused(&'static str, String),
    /// What came answers nothing that was asked.
    Garbage(&'static str),
}
