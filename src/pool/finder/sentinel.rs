//! Which server is the master: asked of Sentinels, one after the other, without waiting.
//!
//! ```text
//!   known, looked at within LOOK ──────────────────────────► connect ─► ROLE ─► use
//!   else: a Sentinel ─► "it is at …" ─► not tried yet? ─────►   │         │
//!            ▲                               no │               │ refused │ a replica
//!            └── the next one ◄─────────────────┴───────────────┴─────────┘
//! ```
//!
//! Once in [`LOOK`] one process of a host looks anew, for a switch that nobody told it of: the
//! old master may go on serving for ten seconds. What it finds the others see at their next
//! call (`Health::server`). Where no Sentinel answers the server that is known is tried. Where the
//! master speaks TLS its Sentinels do, too.
//!
//! Source: redis.io "Sentinel client spec".

use super::{forget, resolve};
use crate::config::{Redis, Tls, Watched};
use crate::error::{Error, Kind};
use crate::health::{Health, strerror};
use crate::shared;
use crate::transport::{self, Address, Shake, Socket};
use crate::wire::greeting::{Greeting, refused};
use crate::wire::redis::answer;
use crate::wire::{self, LINE_MAX, Parsed, Reply};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How often a host looks whether another server is the master.
pub const LOOK: Duration = Duration::from_secs(1);
/// The same, at most, while no Sentinel answers: each time in vain after the first makes it twice as long.
const LOOK_LATER: Duration = Duration::from_secs(15);

/// Host and port of a server.
pub type Place = (String, u16);

/// What this thread knows of one master.
#[derive(Clone, Debug)]
struct Known {
    at: Option<Place>,
    /// When it was looked for last.
    looked: Instant,
    /// It is to be looked for, whatever is known.
    due: bool,
    /// The Sentinel to ask first.
    first: usize,
    /// How often it was looked for without an answer of any Sentinel, since the last one.
    in_vain: u32,
}

thread_local! {
    static MASTERS: RefCell<HashMap<Watched, Known>> = RefCell::default();
}

/// A number for a server, by which the processes of a host tell one master from another.
pub fn number(at: &Place) -> u64 {
    shared::name_of(format!("{}:{}", at.0, at.1).as_bytes())
}

/// Where the master is, if that was looked for just now, here or in another process.
pub fn known(wanted: &Watched, health: &Health) -> Option<Place> {
    let known = MASTERS.with_borrow(|masters| masters.get(wanted).cloned())?;
    let at = known.at?;
    let due = known.due || is_due(wanted, health, known.looked);
    let another = ![0, number(&at)].contains(&health.server());
    (!due && !another).then_some(at)
}

/// Is it this process that is to look again, which somebody did last at `looked`?
pub fn is_due(wanted: &Watched, health: &Health, looked: Instant) -> bool {
    let due = transport::since(looked) >= LOOK && health.claim_look(LOOK);
    if due {
        look_again(wanted);
    }
    due
}

/// Where the master was is not believed any more.
pub fn look_again(wanted: &Watched) {
    change(wanted, |known| known.due = true);
}

fn change(wanted: &Watched, how: impl FnOnce(&mut Known)) {
    MASTERS.with_borrow_mut(|masters| {
        how(masters.entry(wanted.clone()).or_insert(Known {
            at: None,
            looked: transport::now(),
            due: false,
            first: 0,
            in_vain: 0,
        }));
    });
}

/// A master that is being looked for.
#[derive(Debug)]
pub struct Search {
    wanted: Watched,
    tls: Option<Tls>,
    question: Greeting,
    /// The Sentinels that were not asked yet.
    left: VecDeque<usize>,
    /// The one that is asked, and its addresses that were not tried yet.
    asked: usize,
    addresses: VecDeque<SocketAddr>,
    stage: Stage,
    read: Vec<u8>,
    /// Servers that are not the master, whoever says so.
    tried: Vec<Place>,
    /// Who was the master before, for when no Sentinel names one.
    before: Option<Place>,
    /// A Sentinel named one.
    answered: bool,
    /// Why the last server that was named is not the master.
    rejected: Option<Error>,
    /// Why Sentinels named none.
    troubles: Vec<(String, Trouble)>,
}

#[derive(Debug)]
enum Stage {
    Idle,
    Connecting(Socket),
    Shaking(Socket),
    Asked(Socket),
}

/// How far a search got.
#[derive(Debug)]
pub enum Step {
    /// Wait for [`Search::flags`] at [`Search::socket`].
    Waiting,
    /// This is the master, if it says so, too.
    Found(Place),
    /// Nobody knows one that is.
    Nobody(Error),
}

/// Why a Sentinel named no master, in the order in which they are told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    Silent(String),
    Stranger(String),
    Unknown,
    Refused(String),
}

impl Trouble {
    fn cause(&self) -> &str {
        match self {
            Trouble::Silent(cause) | Trouble::Stranger(cause) | Trouble::Refused(cause) => cause,
            Trouble::Unknown => "it knows no master of that name",
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Trouble::Silent(_) => "Are Sentinels running there, and reachable?",
            Trouble::Stranger(_) => {
                "Name Sentinels, whose port is 26379, or write redis://HOST for a server that stands alone"
            }
            Trouble::Unknown => {
                "Compare the name with \"sentinel monitor\" in their configuration, or with SENTINEL MASTERS"
            }
            Trouble::Refused(_) => {
                "The password of Sentinels is their own: write sentinel_auth=PASSWORD behind the ?, and sentinel_user=NAME if they have users"
            }
        }
    }
}

impl Search {
    /// A search for `wanted`, whose master this host knows as `server` (0: not at all); nothing is
    /// sent yet.
    pub fn new(wanted: &Watched, redis: &Redis, tls: Option<&Tls>, server: u64) -> Search {
        let known = MASTERS.with_borrow(|masters| masters.get(wanted).cloned());
        let (before, first) = known.map_or((None, 0), |known| (known.at, known.first));
        let count = wanted.by.len();
        // Another process may know that this one's is the master no more.
        let before = before.filter(|at| [0, number(at)].contains(&server));
        Search {
            wanted: wanted.clone(),
            tls: tls.cloned(),
            question: Greeting::of_sentinel(redis, &wanted.name),
            left: (0..count).map(|at| (first + at) % count).collect(),
            asked: 0,
            addresses: VecDeque::new(),
            stage: Stage::Idle,
            read: Vec::new(),
            tried: Vec::new(),
            before,
            answered: false,
            rejected: None,
            troubles: Vec::new(),
        }
    }

    /// What is waited for; `None` when nothing is.
    pub fn socket(&self) -> Option<&Socket> {
        match &self.stage {
            Stage::Idle => None,
            Stage::Connecting(fd) | Stage::Shaking(fd) | Stage::Asked(fd) => Some(fd),
        }
    }

    /// In which way.
    pub fn flags(&self) -> PollFlags {
        match self.stage {
            Stage::Connecting(_) => PollFlags::OUT,
            // A handshake says itself what it waits for.
            Stage::Idle | Stage::Shaking(_) | Stage::Asked(_) => PollFlags::IN,
        }
    }

    /// How many more may have to be waited for: Sentinels, and addresses of the one that is asked.
    pub fn left(&self) -> usize {
        self.left.len() + self.addresses.len()
    }

    /// Goes on as far as it can without waiting; after [`Step::Waiting`] when the wait is over.
    pub fn step(&mut self) -> Step {
        loop {
            let stage = std::mem::replace(&mut self.stage, Stage::Idle);
            match stage {
                Stage::Idle => {
                    let Some(address) = self.addresses.pop_front() else {
                        match self.next() {
                            Some(step) => return step,
                            None => continue,
                        }
                    };
                    match Socket::connect(&Address::Ip(address)) {
                        Ok((fd, true)) => self.secure(fd),
                        Ok((fd, false)) => {
                            self.stage = Stage::Connecting(fd);
                            return Step::Waiting;
                        }
                        Err(errno) => self.silent(errno),
                    }
                }
                Stage::Connecting(fd) => match fd.connected() {
                    Ok(()) => self.secure(fd),
                    Err(errno) => self.silent(errno),
                },
                Stage::Shaking(fd) => {
                    if self.shake(fd) {
                        return Step::Waiting;
                    }
                }
                Stage::Asked(fd) => match self.hear(&fd) {
                    Some(Some(at)) => return Step::Found(at),
                    Some(None) => {}
                    None => {
                        self.stage = Stage::Asked(fd);
                        return Step::Waiting;
                    }
                },
            }
        }
    }

    /// Gives up who is asked: he is silent.
    pub fn give_up(&mut self) {
        self.silent(Errno::TIMEDOUT);
        let first = (self.asked + 1) % self.wanted.by.len().max(1);
        change(&self.wanted, |known| known.first = first);
        self.stage = Stage::Idle;
    }

    /// `at` is not the master, and `why`.
    pub fn reject(&mut self, at: Place, why: Error) {
        self.rejected = Some(why);
        self.tried.push(at);
    }

    /// The server at `at`, which was found, says that it is the master.
    pub fn confirm(self, at: Place, health: &Health) {
        let server = number(&at);
        let mut in_vain = 0;
        change(&self.wanted, |known| {
            known.in_vain = match self.answered {
                true => 0,
                false => known.in_vain.saturating_add(1),
            };
            in_vain = known.in_vain;
            (known.at, known.due) = (Some(at), false);
            known.looked = transport::now();
        });
        let next = LOOK * (1 << in_vain.saturating_sub(1).min(4));
        health.set_server(server, next.min(LOOK_LATER));
    }

    /// Makes the next Sentinel the one that is asked; a step when there is none.
    fn next(&mut self) -> Option<Step> {
        let Some(next) = self.left.pop_front() else {
            // Better than nobody, if it still says that it is the master.
            let before = self.before.take().filter(|at| !self.tried.contains(at));
            return Some(match before {
                Some(at) => Step::Found(at),
                None => Step::Nobody(self.verdict()),
            });
        };
        self.asked = next;
        self.read.clear();
        let (host, port) = self.wanted.by.get(next)?;
        match resolve(host, *port) {
            Ok(found) => self.addresses = found.into(),
            Err(cause) => self.trouble(Trouble::Silent(cause)),
        }
        None
    }

    /// Begins TLS where there is any, else asks.
    fn secure(&mut self, fd: Socket) {
        let place = self.wanted.by.get(self.asked);
        let (Some(tls), Some((host, port))) = (&self.tls, place) else {
            return self.ask(fd);
        };
        match fd.secure(tls, host, *port) {
            Ok(fd) => self.stage = Stage::Shaking(fd),
            Err(error) => self.unproven(&error),
        }
    }

    /// Goes on with the handshake; true when it has to be waited for.
    fn shake(&mut self, fd: Socket) -> bool {
        let Some(tls) = &self.tls else {
            return false;
        };
        match fd.shake(tls) {
            Ok(Shake::Over) => self.ask(fd),
            Ok(Shake::Waiting) => {
                self.stage = Stage::Shaking(fd);
                return true;
            }
            // It forgot what was agreed before: once more, from the beginning.
            Ok(Shake::Anew) => {
                self.addresses.clear();
                self.left.push_front(self.asked);
            }
            Err(error) => self.unproven(&error),
        }
        false
    }

    /// It does not prove who it is, and neither would it behind another address of its.
    fn unproven(&mut self, error: &Error) {
        self.addresses.clear();
        let cause = error.cause();
        let cause = cause.strip_prefix("Connection failed: ").unwrap_or(cause);
        self.trouble(Trouble::Stranger(cause.to_owned()));
    }

    fn ask(&mut self, fd: Socket) {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        // A new connection has room for a hundred questions.
        match fd.send(&self.question.words, flags) {
            Ok(_) => {
                self.addresses.clear();
                self.stage = Stage::Asked(fd);
            }
            Err(errno) => self.silent(errno),
        }
    }

    /// Reads what arrived: nothing while more is to come, else the server that was named, if
    /// there is one that was not tried.
    fn hear(&mut self, fd: &Socket) -> Option<Option<Place>> {
        let mut piece = [0u8; 1024];
        match fd.receive(&mut piece, RecvFlags::DONTWAIT) {
            Ok(0) => {
                self.trouble(Trouble::Silent("Connection closed".to_owned()));
                return Some(None);
            }
            Ok(count) => {
                let piece = piece.get(..count).unwrap_or_default();
                self.read.extend_from_slice(piece);
            }
            Err(Errno::AGAIN | Errno::INTR) => return None,
            Err(errno) => {
                self.silent(errno);
                return Some(None);
            }
        }
        let said = said(&self.question, &self.read)?;
        Some(match said {
            Ok(at) => {
                let asked = self.asked;
                change(&self.wanted, |known| known.first = asked);
                // What was known is not asked against its word.
                (self.before, self.answered) = (None, true);
                (!self.tried.contains(&at)).then_some(at)
            }
            Err(trouble) => {
                self.trouble(trouble);
                None
            }
        })
    }

    fn silent(&mut self, errno: Errno) {
        if self.addresses.is_empty() {
            if let Some((host, port)) = self.wanted.by.get(self.asked) {
                forget(host, *port);
            }
            self.trouble(Trouble::Silent(strerror(errno.raw_os_error())));
        }
    }

    fn trouble(&mut self, trouble: Trouble) {
        if let Some((host, port)) = self.wanted.by.get(self.asked) {
            self.troubles.push((format!("{host}:{port}"), trouble));
        }
    }

    /// Why there is no master.
    fn verdict(&self) -> Error {
        if let (true, Some(why)) = (self.answered, &self.rejected) {
            return why.clone();
        }
        let mut told: Vec<String> = Vec::new();
        for (sentinel, trouble) in &self.troubles {
            told.push(format!("{sentinel}: {}", trouble.cause()));
        }
        let told = told.join("; ");
        let worst = self.troubles.iter().map(|(_, trouble)| trouble).max();
        let kind = match worst {
            Some(Trouble::Refused(_)) => Kind::Auth,
            _ => Kind::Resolve,
        };
        let remedy = worst.map_or("", Trouble::remedy);
        let cause = format!("no Sentinel names the master ({told}). {remedy}");
        Error::new(kind, format!("Connection failed: {cause}"))
    }
}

/// What a Sentinel said, once it said all.
fn said(question: &Greeting, bytes: &[u8]) -> Option<Result<Place, Trouble>> {
    let stranger = |what: &str| Some(Err(Trouble::Stranger(what.to_owned())));
    let mut at = 0;
    for (about, shape) in &question.steps {
        match wire::parse(bytes, at, *shape) {
            Parsed::More(_) if bytes.len() < LINE_MAX => return None,
            Parsed::More(_) => return stranger("an answer longer than any to that question"),
            Parsed::Garbage(what) => return stranger(what),
            Parsed::Reply(_, Reply::Unknown(_)) => return stranger("it is no Sentinel"),
            Parsed::Reply(_, Reply::NotFound) => return Some(Err(Trouble::Unknown)),
            Parsed::Reply(_, Reply::List(list)) => {
                return match place(bytes, list) {
                    Some(at) => Some(Ok(at)),
                    None => stranger("an answer that is no address"),
                };
            }
            Parsed::Reply(used, reply) => {
                if let Some(line) = reply.refusal() {
                    let error = refused(about, &String::from_utf8_lossy(line.of(bytes)));
                    let cause = match error.cause().split_once(". ") {
                        Some((cause, _)) => cause,
                        None => error.cause(),
                    };
                    return Some(Err(Trouble::Refused(cause.to_owned())));
                }
                at += used;
            }
        }
    }
    None
}

/// Host and port, as a Sentinel says them.
fn place(bytes: &[u8], list: crate::item::Span) -> Option<Place> {
    let parts = answer::parts(bytes, list)?;
    let [answer::Part::Bytes(host), answer::Part::Bytes(port)] = parts.as_slice() else {
        return None;
    };
    let host = std::str::from_utf8(host.of(bytes)).ok()?;
    let port: u16 = std::str::from_utf8(port.of(bytes)).ok()?.parse().ok()?;
    (!host.is_empty() && port > 0).then(|| (host.to_owned(), port))
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]
mod tests {
    use super::*;

    fn question(password: bool) -> Greeting {
        let redis = Redis {
            sentinel_password: password.then(|| crate::config::Secret::new("p".to_owned())),
            ..Redis::default()
        };
        Greeting::of_sentinel(&redis, "m")
    }

    #[test]
    fn what_a_sentinel_says_is_a_place_or_says_what_is_wrong() {
        let asked = question(false);
        assert_eq!(
            asked.words,
            b"*3\r\n$8\r\nSENTINEL\r\n$23\r\nget-master-addr-by-name\r\n$1\r\nm\r\n"
        );
        let place = |host: &str, port| Ok((host.to_owned(), port));
        for (bytes, expected) in [
            (
                "*2\r\n$8\r\n10.0.0.1\r\n$4\r\n6379\r\n",
                place("10.0.0.1", 6379),
            ),
            ("*2\r\n$4\r\nhost\r\n$1\r\n1\r\n", place("host", 1)),
            ("*-1\r\n", Err(Trouble::Unknown)),
            ("_\r\n", Err(Trouble::Unknown)),
            (
                "-ERR unknown command 'SENTINEL', with args\r\n",
                Err(Trouble::Stranger("it is no Sentinel".to_owned())),
            ),
            (
                "*2\r\n$0\r\n\r\n$1\r\n1\r\n",
                Err(Trouble::Stranger("an answer that is no address".to_owned())),
            ),
        ] {
            for end in 0..bytes.len() {
                let part = said(&asked, &bytes.as_bytes()[..end]);
                assert_eq!(part, None, "{bytes} up to {end}");
            }
            assert_eq!(said(&asked, bytes.as_bytes()), Some(expected), "{bytes}");
        }
        let refused = said(&asked, b"-NOAUTH Authentication required.\r\n").unwrap();
        assert!(matches!(refused, Err(Trouble::Refused(_))), "{refused:?}");
        let refused = said(&question(true), b"-WRONGPASS no such\r\n").unwrap();
        assert!(matches!(refused, Err(Trouble::Refused(_))), "{refused:?}");
        let answer = said(&question(true), b"+OK\r\n*2\r\n$1\r\na\r\n$1\r\n2\r\n");
        assert_eq!(answer, Some(place("a", 2)));
        let memcached = said(&asked, b"ERROR\r\n").unwrap();
        assert!(
            matches!(memcached, Err(Trouble::Stranger(_))),
            "{memcached:?}"
        );
    }
}
