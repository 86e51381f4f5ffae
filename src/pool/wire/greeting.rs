//! The first words on a connection: who we are, and which database we mean.

use super::redis::{Shape, command, info, ping};
use super::{Expect, Store, classic, remedy};
use crate::config::{Login, NodeSpec, Redis};
use crate::error::{Error, Kind};
use std::fmt;
use std::sync::LazyLock;

/// The step of a greeting that asks for the process.
pub const PROCESS: &str = "question for its run_id (INFO)";

/// What is said first on a connection, and waited for: what follows a refused password or
/// database must not reach the server.
pub struct Greeting {
    /// The commands.
    pub words: Vec<u8>,
    /// What each of them is about, for the message that says which was refused, and the shape
    /// of its answer.
    pub steps: Vec<(&'static str, Expect)>,
}

impl fmt::Debug for Greeting {
    /// Without the words: a password is among them.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Greeting")
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

impl Greeting {
    /// What shows that a server speaks RESP, and does nothing.
    pub fn ping() -> &'static Greeting {
        static PING: LazyLock<Greeting> = LazyLock::new(|| {
            let mut words = Vec::new();
            let shape = ping(&mut words);
            Greeting {
                words,
                steps: vec![("question whether it is a Redis", Expect::Redis(shape))],
            }
        });
        &PING
    }

    /// The greeting of a node; `None` where a connection is good as it is.
    pub fn of(spec: &NodeSpec) -> Option<Greeting> {
        match (&spec.redis, &spec.login) {
            (Some(redis), _) => Greeting::of_redis(redis),
            (None, Some(login)) => Some(Greeting::of_memcached(login)),
            (None, None) => None,
        }
    }

    fn of_redis(redis: &Redis) -> Option<Greeting> {
        let mut greeting = Greeting {
            words: Vec::new(),
            steps: Vec::new(),
        };
        let mut say = |about, words: &[&[u8]]| {
            command(&mut greeting.words, words);
            let shape = Expect::Redis(Shape::Greeting);
            greeting.steps.push((about, shape));
        };
        match (&redis.user, &redis.password) {
            (Some(user), password) => {
                let password = password.as_ref().map_or("", |password| password.open());
                say(
                    "user and password",
                    &[b"AUTH", user.as_bytes(), password.as_bytes()],
                );
            }
            (None, Some(password)) => say("password", &[b"AUTH", password.open().as_bytes()]),
            (None, None) => {}
        }
        if redis.resp3 {
            say("RESP3", &[b"HELLO", b"3"]);
        }
        if redis.database != 0 {
            let number = redis.database.to_string();
            say("database", &[b"SELECT", number.as_bytes()]);
        }
        if let Some(name) = &redis.client {
            say("client name", &[b"CLIENT", b"SETNAME", name.as_bytes()]);
        }
        (!greeting.steps.is_empty()).then_some(greeting)
    }

    /// memcached's (doc/protocol.txt "Authentication"): the first command is a store of user and
    /// password under any key. It has ended before it is stored, for a server that asks for none.
    pub(crate) fn of_memcached(login: &Login) -> Greeting {
        const ENDED: u32 = u32::MAX;
        let value = format!("{} {}", login.user, login.password.open());
        let mut words = Vec::new();
        classic::store(&mut words, Store::Set, b"~login", 0, ENDED, value.len(), 0);
        words.extend_from_slice(value.as_bytes());
        classic::end(&mut words);
        Greeting {
            words,
            steps: vec![(LOGIN, Expect::Stored)],
        }
    }

    /// Adds the question which process answers; it is the last step.
    pub fn identify(greeting: &mut Option<Greeting>) {
        let greeting = greeting.get_or_insert(Greeting {
            words: Vec::new(),
            steps: Vec::new(),
        });
        let shape = info(&mut greeting.words, b"server");
        greeting.steps.push((PROCESS, Expect::Redis(shape)));
    }

    /// Does it ask which process answers?
    pub fn identifies(&self) -> bool {
        self.steps
            .last()
            .is_some_and(|(about, _)| *about == PROCESS)
    }
}

/// The step of a greeting that says who we are to a memcached.
pub const LOGIN: &str = "user and password of memcached -Y";

/// Why a node does not let us in: the line `text`, with which it refused the step `about`.
pub fn refused(about: &str, text: &str) -> Error {
    // What it would say to any command is not about this one.
    let own = match about {
        LOGIN => text.starts_with("CLIENT_ERROR"),
        PROCESS => text.starts_with("NOPERM"),
        _ => false,
    };
    let general = remedy(text).filter(|_| !own);
    let nobody = general.is_some() && !text.starts_with("NOAUTH");
    let remedy = general.unwrap_or_else(|| advice(about, text));
    let (kind, cause) = match nobody {
        true => (
            Kind::Closed,
            format!("the server lets nobody in now: {text}"),
        ),
        false => (
            Kind::Auth,
            format!("the server refuses the {about}: {text}"),
        ),
    };
    let cause = cause.trim_end_matches('.');
    Error::new(kind, format!("{cause}. {remedy}"))
}

/// What to do about a refusal of one of the first words.
fn advice(about: &str, text: &str) -> &'static str {
    match about {
        "database" => {
            "Name one that this server has: they are numbered from 0 (databases in redis.conf)"
        }
        "RESP3" => "It is older than Redis 6. Take resp=3 out",
        LOGIN => {
            "Compare them with the file that it was started with (-Y FILE), which it reads again at a SIGHUP"
        }
        PROCESS => "Allow it to that user (ACL SETUSER … +info): copied sessions need it",
        "client name" => "Take client= out, or choose a name without blanks",
        _ if text.contains("without any password") => {
            "This server asks for no password. Take it out"
        }
        _ => "Compare it with requirepass, or with ACL LIST, of that server",
    }
}
