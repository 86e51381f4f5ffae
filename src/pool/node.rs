//! WHO: one server, its connection, and what is known of its health.
//!
//! A connection is opened without blocking, so that `fanout` can open many at once;
//! once open it blocks, with the operation's limit as SO_RCVTIMEO, so that an
//! operation costs one send and one receive. A connection is either between
//! exchanges, with nothing unread, or busy; a busy one found later is closed.
//!
//! Which nodes a thread knows, and shares among its pools, is `directory`'s.

mod directory;
mod master;

use crate::config::{Care, NodeSpec, Redis, Target, Tls};
use crate::embedded;
use crate::error::{Error, Kind};
use crate::finder;
pub use crate::health::Change;
use crate::health::{self, Asker, Health};
use crate::shared::{self, Seat};
use crate::transport::{self, Address, Shake, Wish};
use crate::wire::greeting::Greeting;
use crate::wire::redis::fenced::Process;
pub use directory::{Cluster, ClusterRef, Directory, Door, Nodes};
use master::Behind;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A node as pools hold it: persistent ones are shared by all pools of a thread.
pub type NodeRef = Rc<RefCell<Node>>;

/// A connection unused this long is looked at before the next write goes out on it:
/// servers and firewalls close idle connections, and a write lost that way is not repeated.
const IDLE_CHECK: Duration = Duration::from_millis(5);

/// One server.
#[derive(Debug)]
pub struct Node {
    name: String,
    target: Target,
    idle_limit: Duration,
    care: Care,
    /// No mark stood when the exchange under way began, and a prober has the last word: an
    /// answer says nothing then of a failure that came later.
    unmarked: bool,
    socket: Option<Socket>,
    opening: Option<Opening>,
    /// Of a master behind Sentinels: how it is looked for.
    behind: Behind,
    /// What was begun on its connection ends with it: it is not given up in order to look whether
    /// another server is the master.
    pub stays: bool,
    /// What is known of it; shared by all pools that share the node.
    pub health: Health,
    /// It went down or came up since somebody asked, as far as the mark reaches.
    change: Option<Change>,
    /// What has to be said on a new connection before anything else.
    greeting: Option<Greeting>,
    /// The process behind the open connection of a Redis, where it was asked for.
    pub process: Option<Process>,
    /// How it is entered, if it is a Redis, as far as we were told.
    redis: Option<Redis>,
    /// How its TLS is spoken, if it is.
    tls: Option<Tls>,
    /// Does it speak meta commands? Unknown until it told its version.
    pub speaks_meta: Option<bool>,
    /// Does the server behind the open connection take versions (`E`)? Unknown on every new
    /// connection: a package upgrade changes it under a running pool.
    pub takes_versions: Option<bool>,
}

#[derive(Debug)]
struct Socket {
    fd: transport::Socket,
    generation: u64,
    exchanges: u64,
    last_used: Instant,
    limit: Duration,
    busy: bool,
    greeted: bool,
}

/// A unix socket whose queue of connections is full is tried again after this time: no system call waits for room there
/// without blocking.
const FULL_PAUSE: Duration = Duration::from_millis(2);

/// A connect under way: the socket and the addresses left to try.
#[derive(Debug)]
struct Opening {
    fd: transport::Socket,
    left: VecDeque<Address>,
    /// Its queue was full: the socket is a timer, and this address is next.
    full: Option<Address>,
}

/// How far an attempt to open a connection got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// Ready for an exchange.
    Ready,
    /// Wait until the socket is writable, or what a handshake waits for is there, then call
    /// [`Node::open_further`].
    Waiting,
}

impl Node {
    /// A node that is not connected yet.
    pub fn new(spec: &NodeSpec) -> Node {
        Node {
            name: spec.name(),
            target: spec.target.clone(),
            idle_limit: spec.idle_limit,
            care: spec.care,
            unmarked: false,
            socket: None,
            opening: None,
            behind: Behind::default(),
            stays: false,
            health: Health::new(Seat::of(&address(spec))),
            change: None,
            greeting: Greeting::of(spec),
            process: None,
            redis: spec.redis.clone(),
            tls: spec.tls.clone(),
            speaks_meta: None,
            takes_versions: None,
        }
    }

    /// "host:port" as the caller wrote it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True when there is a connection that may carry the next exchange.
    ///
    /// A connection inherited over fork, found busy, or idle and no longer silent is
    /// dropped here: closed by the peer, or holding bytes nobody asked for.
    pub fn is_open(&mut self, now: Instant) -> bool {
        let Some(socket) = &self.socket else {
            return false;
        };
        let idle = now.saturating_duration_since(socket.last_used);
        let fit = socket.generation == shared::generation()
            && !socket.busy
            && idle <= self.idle_limit
            && (idle < IDLE_CHECK || is_silent(&socket.fd))
            && (self.behind.server == 0 || self.is_master(now));
        if !fit {
            self.socket = None;
        }
        fit
    }

    /// True while there is a connection, fit or not.
    pub fn is_connected(&self) -> bool {
        self.socket.is_some()
    }

    /// Begins to open a connection.
    ///
    /// # Errors
    /// `Resolve` or `Connect` when there is no address left to try.
    pub fn open(&mut self, limit: Duration) -> Result<Open, Error> {
        self.close();
        if let Some(opened) = self.open_master(limit) {
            return opened;
        }
        if let Target::Embedded(place) = &self.target {
            // The remedy is part of what went wrong: of a node that fails only that is shown.
            let own = embedded::connect(&place.directory, place.size)
                .map_err(|error| Error::new(Kind::Connect, error.to_string()).at(&self.name))?;
            self.opened(transport::Socket::Own(own), limit)?;
            return Ok(Open::Ready);
        }
        let addresses = self.addresses()?;
        self.open_next(addresses, Errno::ADDRNOTAVAIL, limit)
    }

    /// Goes on with a connect whose socket is ready, or with a handshake.
    ///
    /// # Errors
    /// `Connect` when no address answered; `Tls`.
    pub fn open_further(&mut self, limit: Duration) -> Result<Open, Error> {
        match self.opening.take() {
            Some(Opening {
                mut left,
                full: Some(address),
                ..
            }) => {
                left.push_front(address);
                self.open_next(left, Errno::AGAIN, limit)
            }
            Some(Opening { fd, left, .. }) => match fd.connected() {
                Ok(()) => self.secured(fd, left, limit),
                Err(errno) => self.open_next(left, errno, limit),
            },
            None if self.behind.search.is_some() => self.search(limit),
            None => self.open(limit),
        }
    }

    /// Gives up the address a connect waits for and goes on with the next one.
    ///
    /// # Errors
    /// `Connect` when there is none, or none that can be tried.
    pub fn open_other(&mut self, limit: Duration) -> Result<Open, Error> {
        if let (None, Some(search)) = (&self.opening, &mut self.behind.search) {
            search.give_up();
            return self.search(limit);
        }
        let left = self.opening.take().map(|o| o.left).unwrap_or_default();
        let silent = match (&self.target, &self.behind.at) {
            (Target::Tcp { host, port }, _) | (_, Some((host, port))) => Some((host, *port)),
            _ => None,
        };
        if let Some((host, port)) = silent {
            finder::put_off(host, port);
        }
        self.open_next(left, Errno::TIMEDOUT, limit)
    }

    /// How many addresses a connect under way has not tried yet.
    pub fn addresses_left(&self) -> usize {
        self.opening.as_ref().map_or(0, |o| o.left.len()) + self.sentinels_left()
    }

    /// The socket of a connect under way or of the open connection.
    pub fn socket(&self) -> Option<&transport::Socket> {
        let search = || self.behind.search.as_ref().and_then(|s| s.socket());
        self.opening
            .as_ref()
            .map(|o| &o.fd)
            .or_else(|| self.socket.as_ref().map(|s| &s.fd))
            .or_else(search)
    }

    /// What a connect under way waits for at that socket.
    pub fn awaits(&self) -> PollFlags {
        match (&self.opening, &self.behind.search) {
            (None, Some(search)) => search.flags(),
            (Some(opening), _) if opening.full.is_some() => PollFlags::IN,
            _ => PollFlags::OUT,
        }
    }

    /// Is a connect under way over, one way or the other, or a step of it? True without a socket,
    /// too: who goes on is told what became of it.
    pub fn is_ready(&self) -> bool {
        self.socket().is_none_or(|socket| {
            let mut wishes = [Wish::new(socket, self.awaits())];
            transport::poll(&mut wishes, Some(Duration::ZERO));
            wishes.iter().any(|wish| wish.ready)
        })
    }

    /// What is to be said on the open connection before anything else, if it was not yet.
    ///
    /// A memcached behind the name of a Redis would carry out the lines of a value as commands:
    /// where none was spoken to before, `values` are sent to nobody who has not shown what he is.
    pub fn greeting(&self, values: bool) -> Option<&Greeting> {
        let socket = self.socket.as_ref()?;
        if socket.greeted {
            return None;
        }
        self.greeting
            .as_ref()
            .or_else(|| values.then(Greeting::ping))
    }

    /// From now on a connection begins with the question which process it leads to, for who
    /// must not take a Redis that came back with old data for the one that was there before.
    pub fn identify(&mut self) {
        if !self.greeting.as_ref().is_some_and(Greeting::identifies) {
            Greeting::identify(&mut self.greeting);
            self.close();
        }
    }

    /// Notes that all of the greeting was answered well.
    pub fn greeted(&mut self) {
        if let Some(socket) = &mut self.socket {
            socket.greeted = true;
            socket.busy = false;
        }
        self.believe();
    }

    /// Marks the beginning of an exchange that may take `limit`.
    pub fn begin(&mut self, limit: Duration) {
        self.health.used();
        self.unmarked = self.care == Care::Probed && self.health.is_unmarked();
        if let Some(socket) = &mut self.socket {
            socket.busy = true;
            if socket.limit != limit && socket.fd.set_limits(limit).is_ok() {
                socket.limit = limit;
            }
        }
    }

    /// Marks the end of an exchange that left nothing unread.
    pub fn finish(&mut self, now: Instant) {
        if let Some(socket) = &mut self.socket {
            socket.busy = false;
            socket.greeted = true;
            socket.exchanges += 1;
            socket.last_used = now;
        }
        if self.unmarked && !self.health.is_unmarked() {
            return;
        }
        self.recover();
    }

    /// Notes that the node answered.
    pub fn recover(&mut self) {
        if self.health.recover() {
            self.change = Some(Change::Up);
        }
    }

    /// Notes what a probe on a connection of its own found.
    pub fn probed(&mut self, found: Result<(), &Error>) {
        match found {
            Ok(()) => self.recover(),
            Err(error) => {
                self.close();
                if let Some(change) = self.health.fail(shared::now(), error, Asker::Probe) {
                    self.change = Some(change);
                }
            }
        }
    }

    /// Is there a change nobody took yet?
    pub fn has_changed(&self) -> bool {
        self.change.is_some()
    }

    /// The change since the last look, if there was one.
    pub fn take_change(&mut self) -> Option<Change> {
        self.change.take()
    }

    /// True when the open connection has carried an exchange before, so that finding it
    /// closed may mean no more than that it stood idle too long.
    pub fn is_reused(&self) -> bool {
        self.socket.as_ref().is_some_and(|s| s.exchanges > 0)
    }

    /// Closes the connection, if there is one.
    pub fn close(&mut self) {
        self.socket = None;
        self.opening = None;
        self.behind = Behind::default();
    }

    /// Notes a failure: closes the connection and forgets where the name led.
    #[cold]
    pub fn fail(&mut self, error: &Error) {
        let moved = self.has_moved(error);
        if let Some(socket) = &self.socket {
            // A write that nobody waits for any more must not come after a later one.
            socket.fd.abort();
        }
        self.demoted();
        if moved {
            return;
        }
        let asker = match self.care {
            Care::Prober => Asker::Tend,
            _ => Asker::Call,
        };
        if let Some(change) = self.health.fail(shared::now(), error, asker) {
            self.change = Some(change);
        }
    }

    /// The error of a connect that found nobody before its limit.
    #[cold]
    pub fn late(&self) -> Error {
        let errno = Errno::TIMEDOUT;
        let cause = match &self.opening {
            Some(opening) if opening.fd.is_shaking() => {
                let silent = "nobody answered the first words of TLS in time";
                format!("{silent}. Does this port speak TLS? {}", transport::PLAIN)
            }
            Some(opening) if opening.full.is_some() => {
                let full = "its queue of connections is full";
                format!("{}, {full}", strerror(Errno::AGAIN))
            }
            _ => strerror(errno),
        };
        self.refused(Kind::Connect, &cause, errno.raw_os_error())
    }

    /// The error of an exchange that `errno` broke off.
    #[cold]
    pub fn broken(&self, errno: Errno) -> Error {
        let trouble = self.socket().and_then(transport::Socket::trouble);
        let plain = || Error::new(Kind::Closed, strerror(errno)).code(errno.raw_os_error());
        trouble.unwrap_or_else(plain)
    }

    /// The error of a server that hung up without a word.
    #[cold]
    pub fn hung_up(&self) -> Error {
        let mut cause = "Connection closed by the server".to_owned();
        // Who listens for TLS, or for a certificate of ours, hangs up on who has none.
        if !self.is_reused() {
            cause.push_str(match self.tls {
                Some(_) => ". If it wants a certificate of ours, write cert=FILE and key=FILE",
                None => {
                    ". If it speaks TLS there, write rediss:// or memcacheds:// before its host"
                }
            });
        }
        Error::new(Kind::Closed, cause)
    }

    fn addresses(&self) -> Result<VecDeque<Address>, Error> {
        match &self.target {
            Target::Unix(path) => Ok(VecDeque::from([Address::Unix(path.clone())])),
            Target::Embedded(_) => Ok(VecDeque::new()),
            Target::Tcp { host, port: 0 } => {
                // The words PHP's streams use, which pecl-memcache passes on.
                Err(self.refused(
                    Kind::Connect,
                    &format!("Failed to parse address \"{host}\""),
                    0,
                ))
            }
            Target::Master(_) => Err(self.refused(Kind::Resolve, "it is looked up", 0)),
            Target::Tcp { host, port } => finder::resolve(host, *port)
                .map(|found| found.into_iter().map(Address::Ip).collect())
                .map_err(|cause| self.refused(Kind::Resolve, &cause, 0)),
        }
    }

    fn open_next(
        &mut self,
        mut left: VecDeque<Address>,
        mut last: Errno,
        limit: Duration,
    ) -> Result<Open, Error> {
        while let Some(address) = left.pop_front() {
            match transport::Socket::connect(&address) {
                Ok((fd, true)) => return self.secured(fd, left, limit),
                Ok((fd, false)) => {
                    self.opening = Some(Opening {
                        fd,
                        left,
                        full: None,
                    });
                    return Ok(Open::Waiting);
                }
                // It listens, and has more to do than it takes at a time: that passes.
                Err(Errno::AGAIN) if matches!(address, Address::Unix(_)) => {
                    match transport::Socket::later(FULL_PAUSE) {
                        Ok(fd) => {
                            self.opening = Some(Opening {
                                fd,
                                left,
                                full: Some(address),
                            });
                            return Ok(Open::Waiting);
                        }
                        Err(errno) => last = errno,
                    }
                }
                Err(errno) => last = errno,
            }
        }
        let why = self.refused(Kind::Connect, &strerror(last), last.raw_os_error());
        self.elsewhere(why, limit)
    }

    /// The server is reached: that is all, or there is TLS to begin or to go on with.
    fn secured(
        &mut self,
        fd: transport::Socket,
        left: VecDeque<Address>,
        limit: Duration,
    ) -> Result<Open, Error> {
        let server = match &self.target {
            Target::Tcp { host, port } => Some((host, port)),
            Target::Master(_) => self.behind.at.as_ref().map(|(host, port)| (host, port)),
            Target::Unix(_) | Target::Embedded(_) => None,
        };
        let fd = match (&self.tls, server) {
            (Some(tls), Some((host, port))) => {
                let fd = match fd.is_shaking() {
                    true => Ok(fd),
                    false => fd.secure(tls, host, *port),
                };
                let shaken = fd.and_then(|fd| Ok((fd.shake(tls)?, fd)));
                match shaken {
                    Ok((Shake::Over, fd)) => fd,
                    Ok((Shake::Anew, _)) => return self.open(limit),
                    Ok((Shake::Waiting, fd)) => {
                        self.opening = Some(Opening {
                            fd,
                            left,
                            full: None,
                        });
                        return Ok(Open::Waiting);
                    }
                    Err(error) => return self.elsewhere(error.at(&self.name), limit),
                }
            }
            _ => fd,
        };
        self.opened(fd, limit).map(|()| Open::Ready)
    }

    fn opened(&mut self, fd: transport::Socket, limit: Duration) -> Result<(), Error> {
        fd.prepare(limit, !matches!(self.target, Target::Unix(_)))
            .map_err(|e| self.refused(Kind::Connect, &strerror(e), e.raw_os_error()))?;
        (self.takes_versions, self.process) = (None, None);
        let now = transport::now();
        let generation = shared::generation();
        self.socket = Some(Socket {
            fd,
            generation,
            exchanges: 0,
            last_used: now,
            limit,
            busy: false,
            greeted: self.redis.is_none() && self.greeting.is_none(),
        });
        Ok(())
    }

    /// A connect that did not come about, in the words pecl-memcache shows.
    fn refused(&self, kind: Kind, cause: &str, code: i32) -> Error {
        Error::new(kind, format!("Connection failed: {cause}"))
            .at(&self.name)
            .code(code)
    }
}

/// The operating system's words for `errno`.
pub fn strerror(errno: Errno) -> String {
    health::strerror(errno.raw_os_error())
}

/// The name under which a host's processes know a node: where it is, whatever it was called.
///
/// Whom a server does not let in must not keep others from it, so who we are there belongs to it;
/// nor must who takes a memcached for a Redis.
fn address(spec: &NodeSpec) -> Vec<u8> {
    let mut text = match &spec.target {
        Target::Tcp { host, port } => format!("{host}:{port}").into_bytes(),
        Target::Unix(path) => path.as_os_str().as_encoded_bytes().to_vec(),
        Target::Master(watched) => watched.line().into_bytes(),
        Target::Embedded(place) => {
            [b"embedded:", place.directory.as_os_str().as_encoded_bytes()].concat()
        }
    };
    let mut greeting = Greeting::of(spec);
    if let (Target::Master(watched), Some(redis)) = (&spec.target, &spec.redis) {
        let words = Greeting::of_sentinel(redis, &watched.name).words;
        greeting.get_or_insert_default().words.extend(words);
    }
    let greeting = greeting.map(|greeting| crc32fast::hash(&greeting.words));
    match (&spec.redis, greeting) {
        (Some(_), words) => {
            text.extend_from_slice(format!("#redis{:08x}", words.unwrap_or(0)).as_bytes());
        }
        (None, Some(words)) => text.extend_from_slice(format!("#login{words:08x}").as_bytes()),
        (None, None) => {}
    }
    if let Some(tls) = &spec.tls {
        // Nor must whose certificate is not taken, or who trusts nobody there.
        let wish = crc32fast::hash(format!("{tls:?}").as_bytes());
        text.extend_from_slice(format!("#tls{wish:08x}").as_bytes());
    }
    text
}

/// True when the peer has neither closed the connection nor sent anything on it.
#[cold]
fn is_silent(fd: &transport::Socket) -> bool {
    let mut byte = [0u8; 1];
    matches!(
        fd.receive(&mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT),
        Err(Errno::AGAIN)
    )
}
