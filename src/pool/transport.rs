//! WHAT CARRIES: sockets, clocks and dice, the operating system's or those of a simulation.
//!
//! ```text
//!   node, fanout, probe, copier ─► Socket ─┬─► Real      one system call
//!                                          ├─► Tls       the same, in records (`tls`)
//!   all that asks for the time ─► now … ───┴─► a Player  what the thread was given (`play`)
//! ```
//!
//! Everything that a call is told by the machine it runs on comes through here, so the same
//! code that waits on sockets also runs on played ones, under a clock that jumps from event
//! to event: every schedule of it can be played again (`tests/suite/simulation`). A played
//! thread is a process to itself: what the pool keeps by thread, it keeps by process. What one
//! process of a host has of the others, its bells and who is gone, is played as well.
//!
//! The real way costs one branch for each system call. Files, name servers and memory that
//! processes share are not in here; for the last see `shared::Site`.

pub mod tls;

pub use tls::{PLAIN, Shake};

use crate::config::Tls;
use crate::error::Error;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, sockopt,
};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use std::cell::{Cell, RefCell};
use std::io::IoSlice;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant, SystemTime};

/// Who plays the operating system for one thread. Every method may let other threads' turns
/// pass; `pause`, `poll` and a `receive` that waits let virtual time pass, too.
pub trait Player {
    /// Time since some moment, which never goes back.
    fn now(&self) -> Duration;
    /// The host's clock, milliseconds since 1970.
    fn clock(&self) -> u64;
    /// Random bits.
    fn throw(&self) -> u64;
    /// Waits.
    fn pause(&self, time: Duration);
    /// The host's name.
    fn host(&self) -> Box<str>;
    /// The number of the process that the thread is, which no other one has or had; never 0.
    fn process(&self) -> u64;
    /// Is the process of that number gone?
    fn is_gone(&self, process: u64) -> bool;
    /// Waits for a ring of `bell` that is for one of `classes`, for `limit` at most; true when it
    /// was heard.
    fn listen(&self, bell: &AtomicU32, classes: NonZeroU32, limit: Duration) -> bool;
    /// Wakes one who listens to `bell` for one of `classes`.
    fn ring(&self, bell: &AtomicU32, classes: NonZeroU32);
    /// Begins to connect; the number of the socket.
    fn connect(&self, to: SocketAddr) -> u32;
    /// What became of a connect that is over.
    ///
    /// # Errors
    /// As a connect's.
    fn connected(&self, socket: u32) -> Result<(), Errno>;
    /// Hands all bytes over.
    ///
    /// # Errors
    /// As a send's.
    fn send(&self, socket: u32, bytes: &[u8]) -> Result<usize, Errno>;
    /// Takes bytes that arrived, waiting for them for `limit` at most; `peek` leaves them there.
    ///
    /// # Errors
    /// As a receive's, `AGAIN` when there are none.
    fn receive(
        &self,
        socket: u32,
        room: &mut [u8],
        limit: Duration,
        peek: bool,
    ) -> Result<usize, Errno>;
    /// Waits until one of these sockets can be read, or written where that is wished, for
    /// `limit` at most; which.
    fn poll(&self, wishes: &[(u32, PollFlags)], limit: Option<Duration>) -> Vec<bool>;
    /// Closes a socket; `abort` as [`Socket::abort`].
    fn close(&self, socket: u32, abort: bool);
}

/// Has any thread ever been played? Everybody else is spared the look at his own.
static PLAYED: AtomicBool = AtomicBool::new(false);
/// Where the time of players begins.
static BEGIN: OnceLock<Instant> = OnceLock::new();

thread_local! {
    static PLAYER: RefCell<Option<Rc<dyn Player>>> = const { RefCell::new(None) };
}

/// Gives this thread a player, or takes it away. What the thread still has of the player is
/// then let go of in silence.
pub fn play(player: Option<Rc<dyn Player>>) {
    PLAYED.store(true, Relaxed);
    PLAYER.with_borrow_mut(|own| *own = player);
}

/// Is this thread played?
#[inline]
pub fn is_played() -> bool {
    PLAYED.load(Relaxed) && player(|_| ()).is_some()
}

#[cold]
fn player<R>(ask: impl FnOnce(&dyn Player) -> R) -> Option<R> {
    // A thread that ends has none.
    let asked = PLAYER.try_with(|own| own.borrow().as_deref().map(ask));
    asked.ok().flatten()
}

/// What a player says, where there is one.
#[inline]
fn played<R>(ask: impl FnOnce(&dyn Player) -> R) -> Option<R> {
    if PLAYED.load(Relaxed) {
        player(ask)
    } else {
        None
    }
}

/// The time, for limits and intervals.
#[inline]
pub fn now() -> Instant {
    match played(|player| player.now()) {
        Some(since) => *BEGIN.get_or_init(Instant::now) + since,
        None => Instant::now(),
    }
}

/// Time since `then`.
#[inline]
pub fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// Milliseconds of the monotonic clock, which all processes of a host share; never 0.
pub fn monotonic() -> u64 {
    if let Some(since) = played(|player| player.now()) {
        return u64::try_from(since.as_millis()).unwrap_or(u64::MAX).max(1);
    }
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let fraction = u64::try_from(time.tv_nsec).unwrap_or(0);
    (seconds * 1000 + fraction / 1_000_000).max(1)
}

/// This host's clock, milliseconds since 1970.
pub fn clock() -> u64 {
    played(|player| player.clock()).unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |time| {
            u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
        })
    })
}

/// A player's random bits; nothing for everybody else, who throws his own.
#[inline]
pub fn throw() -> Option<u64> {
    played(|player| player.throw())
}

/// Waits for `time`.
pub fn pause(time: Duration) {
    if played(|player| player.pause(time)).is_none() {
        std::thread::sleep(time);
    }
}

/// A player's name of its host; nothing for everybody else, who reads his own.
pub fn host() -> Option<Box<str>> {
    played(|player| player.host())
}

/// A player's number of its process; nothing for everybody else, who has the operating system's.
pub fn process() -> Option<u64> {
    played(|player| player.process())
}

/// Is that process gone, which a player has numbered?
pub fn is_gone(process: u64) -> Option<bool> {
    played(|player| player.is_gone(process))
}

/// Waits for a ring of `bell` since it read `heard`, as a futex does; nothing where no player
/// does that, else whether it rang.
pub fn listen(bell: &AtomicU32, heard: u32, classes: NonZeroU32, limit: Duration) -> Option<bool> {
    played(|player| bell.load(SeqCst) != heard || player.listen(bell, classes, limit))
}

/// Wakes one who listens to `bell`; nothing where no player does that.
pub fn ring(bell: &AtomicU32, classes: NonZeroU32) -> Option<()> {
    played(|player| player.ring(bell, classes))
}

/// Where a node listens.
#[derive(Clone, Debug)]
pub enum Address {
    /// An address and a port.
    Ip(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// A connection, or one that is coming about.
#[derive(Debug)]
pub enum Socket {
    /// The operating system's.
    Real(OwnedFd),
    /// The operating system's, with TLS over it.
    Tls(Box<tls::Session>),
    /// A player's.
    Played(Played),
    /// No connection at all: what is sent is answered in this process.
    Own(Box<dyn Carrier>),
}

/// Who answers in this process what is sent to him.
pub trait Carrier: std::fmt::Debug {
    /// Takes all of `bytes`, and carries out what is whole in them.
    ///
    /// # Errors
    /// `CONNRESET` when there is nobody any more to do it.
    fn send(&self, bytes: &[u8]) -> Result<(), Errno>;
    /// Moves answers into `room`, or copies them there when they are only to be seen (`peek`).
    ///
    /// # Errors
    /// `AGAIN` when there are none: none will come until more is sent.
    fn receive(&self, room: &mut [u8], peek: bool) -> Result<usize, Errno>;
}

/// A player's socket.
#[derive(Debug)]
pub struct Played {
    number: u32,
    limit: Cell<Duration>,
    aborted: Cell<bool>,
}

impl Drop for Played {
    fn drop(&mut self) {
        player(|player| player.close(self.number, self.aborted.get()));
    }
}

/// What somebody waits for at a socket.
#[derive(Debug)]
pub struct Wish<'a> {
    /// The socket.
    pub socket: &'a Socket,
    /// Bytes to read, room to write; in a handshake whatever that waits for.
    pub flags: PollFlags,
    /// Something of it is there, or the connection is gone.
    pub ready: bool,
}

impl<'a> Wish<'a> {
    /// A wish for one of `flags`.
    pub fn new(socket: &'a Socket, flags: PollFlags) -> Wish<'a> {
        Wish {
            socket,
            flags,
            ready: false,
        }
    }

    /// Is it there without a look at the socket? TLS may have read ahead.
    fn is_there(&self) -> bool {
        matches!(self.socket, Socket::Tls(session) if self.flags.contains(PollFlags::IN) && session.has_more())
    }
}

impl Socket {
    /// Begins to connect without waiting; true when that is done already (unix sockets, often
    /// loopback).
    ///
    /// # Errors
    /// As the operating system's.
    pub fn connect(address: &Address) -> rustix::io::Result<(Socket, bool)> {
        if let Address::Ip(to) = address
            && let Some(number) = played(|player| player.connect(*to))
        {
            let own = Played {
                number,
                limit: Cell::new(Duration::ZERO),
                aborted: Cell::new(false),
            };
            return Ok((Socket::Played(own), false));
        }
        let family = match address {
            Address::Ip(SocketAddr::V4(_)) => AddressFamily::INET,
            Address::Ip(SocketAddr::V6(_)) => AddressFamily::INET6,
            Address::Unix(_) => AddressFamily::UNIX,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        let begun = match address {
            Address::Ip(ip) => rustix::net::connect(&fd, ip),
            Address::Unix(path) => rustix::net::connect(&fd, &SocketAddrUnix::new(path.as_path())?),
        };
        match begun {
            Ok(()) => Ok((Socket::Real(fd), true)),
            Err(Errno::INPROGRESS | Errno::INTR) => Ok((Socket::Real(fd), false)),
            Err(errno) => Err(errno),
        }
    }

    /// No connection, but what can be waited for like one: it is ready to be read after `time`.
    ///
    /// # Errors
    /// As the operating system's.
    pub fn later(time: Duration) -> rustix::io::Result<Socket> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let end = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec::try_from(time).map_err(|_| Errno::INVAL)?,
        };
        timerfd_settime(&fd, TimerfdTimerFlags::empty(), &end)?;
        Ok(Socket::Real(fd))
    }

    /// What became of a connect that is over.
    ///
    /// # Errors
    /// Why it did not come about.
    pub fn connected(&self) -> Result<(), Errno> {
        match self {
            Socket::Real(fd) => sockopt::socket_error(fd).unwrap_or_else(Err),
            Socket::Tls(_) => Ok(()),
            Socket::Played(own) => {
                player(|player| player.connected(own.number)).unwrap_or(Err(Errno::NOTCONN))
            }
            Socket::Own(_) => Ok(()),
        }
    }

    /// The connected socket with TLS over it, whose handshake [`Socket::shake`] goes on with; a
    /// player's stays as it is.
    ///
    /// # Errors
    /// `Tls`: a file that cannot be read or used, a host no certificate can be for.
    pub fn secure(self, wish: &Tls, host: &str, port: u16) -> Result<Socket, Error> {
        match self {
            Socket::Real(fd) => {
                let session = tls::Session::new(fd, wish, host, port)?;
                Ok(Socket::Tls(Box::new(session)))
            }
            other => Ok(other),
        }
    }

    /// Is a handshake under way?
    pub fn is_shaking(&self) -> bool {
        matches!(self, Socket::Tls(session) if session.is_shaking())
    }

    /// Goes on with the handshake without waiting.
    ///
    /// # Errors
    /// `Tls`, with what to do about it.
    pub fn shake(&self, wish: &Tls) -> Result<Shake, Error> {
        match self {
            Socket::Tls(session) => session.shake(wish),
            Socket::Real(_) | Socket::Played(_) | Socket::Own(_) => Ok(Shake::Over),
        }
    }

    /// Why the connection broke, where TLS knows more of it than an error number says.
    pub fn trouble(&self) -> Option<Error> {
        match self {
            Socket::Tls(session) => session.trouble(),
            Socket::Real(_) | Socket::Played(_) | Socket::Own(_) => None,
        }
    }

    /// The operating system's socket, if it is one.
    fn fd(&self) -> Option<&OwnedFd> {
        match self {
            Socket::Real(fd) => Some(fd),
            Socket::Tls(session) => Some(session.fd()),
            Socket::Played(_) | Socket::Own(_) => None,
        }
    }

    /// Lets an exchange on the connection wait, for `limit` at most, and makes a TCP socket send
    /// at once what it is given.
    ///
    /// # Errors
    /// As the operating system's.
    pub fn prepare(&self, limit: Duration, tcp: bool) -> rustix::io::Result<()> {
        if let Some(fd) = self.fd() {
            rustix::io::ioctl_fionbio(fd, false)?;
        }
        self.set_limits(limit)?;
        if let (Some(fd), true) = (self.fd(), tcp) {
            // Without it a request cut into two segments waits for an acknowledgement. A socket that
            // cannot do it still works.
            let _ = sockopt::set_tcp_nodelay(fd, true);
        }
        Ok(())
    }

    /// How long a receive or a send may wait.
    ///
    /// # Errors
    /// As the operating system's.
    #[cold]
    pub fn set_limits(&self, limit: Duration) -> rustix::io::Result<()> {
        // Zero would mean "for ever" to the kernel.
        let limit = limit.max(Duration::from_micros(1));
        if let Socket::Played(own) = self {
            own.limit.set(limit);
        }
        let Some(fd) = self.fd() else {
            return Ok(());
        };
        sockopt::set_socket_timeout(fd, sockopt::Timeout::Recv, Some(limit))?;
        sockopt::set_socket_timeout(fd, sockopt::Timeout::Send, Some(limit))
    }

    /// Lets nothing more of it go out once it is closed. What a silent network has not delivered
    /// would be sent again and again, and be carried out when everybody has given it up.
    pub fn abort(&self) {
        if let Socket::Played(own) = self {
            own.aborted.set(true);
        }
        if let Some(fd) = self.fd() {
            // A socket that cannot do it is closed all the same.
            let _ = sockopt::set_socket_linger(fd, Some(Duration::ZERO));
        }
    }

    /// Sends what it takes without waiting, or within its limit where `flags` say so; how much.
    ///
    /// # Errors
    /// As the operating system's. After `AGAIN` the same bytes have to come again.
    #[inline]
    pub fn send(&self, bytes: &[u8], flags: SendFlags) -> rustix::io::Result<usize> {
        match self {
            Socket::Real(fd) => rustix::net::send(fd, bytes, flags),
            Socket::Tls(session) => session.send(bytes, flags),
            Socket::Played(own) => own.send(bytes),
            Socket::Own(own) => own.send(bytes).map(|()| bytes.len()),
        }
    }

    /// The same for bytes that lie in several places.
    ///
    /// # Errors
    /// As the operating system's.
    pub fn send_parts(&self, parts: &[IoSlice<'_>], flags: SendFlags) -> rustix::io::Result<usize> {
        match self {
            Socket::Real(fd) => {
                rustix::net::sendmsg(fd, parts, &mut SendAncillaryBuffer::default(), flags)
            }
            Socket::Tls(session) => session.send_parts(parts, flags),
            Socket::Played(own) => {
                let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
                own.send(&bytes)
            }
            Socket::Own(own) => {
                let mut count = 0;
                for part in parts {
                    own.send(part)?;
                    count += part.len();
                }
                Ok(count)
            }
        }
    }

    /// Receives into `room`; how much.
    ///
    /// # Errors
    /// As the operating system's.
    #[inline]
    pub fn receive(&self, room: &mut [u8], flags: RecvFlags) -> rustix::io::Result<usize> {
        match self {
            Socket::Real(fd) => rustix::net::recv(fd, room, flags).map(|(count, _)| count),
            Socket::Tls(session) => session.receive(room, flags),
            Socket::Played(own) => own.receive(room, flags),
            Socket::Own(own) => own.receive(room, flags.contains(RecvFlags::PEEK)),
        }
    }
}

impl Played {
    #[cold]
    fn send(&self, bytes: &[u8]) -> rustix::io::Result<usize> {
        player(|player| player.send(self.number, bytes)).unwrap_or(Err(Errno::NOTCONN))
    }

    #[cold]
    fn receive(&self, room: &mut [u8], flags: RecvFlags) -> rustix::io::Result<usize> {
        let limit = match flags.contains(RecvFlags::DONTWAIT) {
            true => Duration::ZERO,
            false => self.limit.get(),
        };
        let peek = flags.contains(RecvFlags::PEEK);
        let received = player(|player| player.receive(self.number, room, limit, peek));
        received.unwrap_or(Err(Errno::NOTCONN))
    }
}

/// Waits until one of the wishes is ready, for `limit` at most; none is after an interruption:
/// whoever goes on looks at the clock, and at the sockets themselves.
pub fn poll(wishes: &mut [Wish<'_>], limit: Option<Duration>) {
    // Who answers in this process has done so already, and is alone in his pool.
    let own = |wish: &&mut Wish<'_>| matches!(wish.socket, Socket::Own(_));
    let mut answered = wishes.iter_mut().filter(own).peekable();
    if answered.peek().is_some() {
        return answered.for_each(|wish| wish.ready = true);
    }
    let ready: Vec<bool> = if is_played() {
        let wished = |wish: &Wish<'_>| match wish.socket {
            Socket::Played(own) => Some((own.number, wish.flags)),
            Socket::Real(_) | Socket::Tls(_) | Socket::Own(_) => None,
        };
        let mine: Vec<(u32, PollFlags)> = wishes.iter().filter_map(wished).collect();
        player(|player| player.poll(&mine, limit)).unwrap_or_default()
    } else {
        let mut limit = limit;
        let mut polled: Vec<PollFd<'_>> = wishes
            .iter()
            .filter_map(|wish| match wish.socket {
                Socket::Real(fd) => Some(PollFd::new(fd, wish.flags)),
                Socket::Tls(session) => {
                    if wish.is_there() {
                        limit = Some(Duration::ZERO);
                    }
                    Some(PollFd::new(session.fd(), session.wish(wish.flags)))
                }
                Socket::Played(_) | Socket::Own(_) => None,
            })
            .collect();
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let _ = rustix::event::poll(&mut polled, limit.as_ref());
        let polled = polled.iter().zip(wishes.iter());
        polled
            .map(|(polled, wish)| !polled.revents().is_empty() || wish.is_there())
            .collect()
    };
    for (wish, ready) in wishes.iter_mut().zip(ready) {
        wish.ready = ready;
    }
}
