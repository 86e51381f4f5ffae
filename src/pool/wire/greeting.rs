//! The first words on a connection: who we are, and which database we mean.

use super::redis::{Shape, command, info, ping};
use super::{Expect, Store, classic, remedy};
use crate::config::{Login, NodeSpec, Redis, Secret, Target};
use crate::error::{Error, Kind};
use std::fmt;
use std::sync::LazyLock;

/// The step of a greeting that asks for the process.
pub const PROCESS: &str = "question for its run_id (INFO)";
/// The step of a greeting that asks whether it is a master.
pub const ROLE: &str = "question for its role (ROLE)";

/// What is said first on a connection, and waited for: what follows a refused password or
/// database must not reach the server.
#[derive(Default)]
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
        let mut greeting = match (&spec.redis, &spec.login) {
            (Some(redis), _) => Greeting::of_redis(redis),
            (None, Some(login)) => Some(Greeting::of_memcached(login)),
            (None, None) => None,
        };
        if let Target::Master(_) = &spec.target {
            // What Sentinels say may be of yesterday.
            let greeting = greeting.get_or_insert_default();
            greeting.say(ROLE, Shape::List, &[b"ROLE"]);
        }
        greeting
    }

    /// What is said to a Sentinel: who we are there, and the question where the master `name`
    /// is, which is the last step. Its answer is a list of host and port, or nothing.
    ///
    /// Source: redis.io "Sentinel client spec".
    pub fn of_sentinel(redis: &Redis, name: &str) -> Greeting {
        let mut greeting = Greeting::default();
        let user = redis.sentinel_user.as_deref();
        greeting.enter(user, redis.sentinel_password.as_ref());
        let words: [&[u8]; 3] = [b"SENTINEL", b"get-master-addr-by-name", name.as_bytes()];
        greeting.say("question for its master", Shape::List, &words);
        greeting
    }

    fn say(&mut self, about: &'static str, shape: Shape, words: &[&[u8]]) {
        command(&mut self.words, words);
        self.steps.push((about, Expect::Redis(shape)));
    }

    fn enter(&mut self, user: Option<&str>, password: Option<&Secret>) {
        match (user, password) {
            (Some(user), password) => {
                let password = password.map_or("", Secret::open);
                let words: [&[u8]; 3] = [b"AUTH", user.as_bytes(), password.as_bytes()];
                self.say("user and password", Shape::Greeting, &words);
            }
            (None, Some(password)) => {
                let words: [&[u8]; 2] = [b"AUTH", password.open().as_bytes()];
                self.say("password", Shape::Greeting, &words);
            }
            (None, None) => {}
        }
    }

    fn of_redis(redis: &Redis) -> Option<Greeting> {
        let mut greeting = Greeting::default();
        greeting.enter(redis.user.as_deref(), redis.password.as_ref());
        let mut say = |about, words: &[&[u8]]| greeting.say(about, Shape::Greeting, words);
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
        let greeting = greeting.get_or_insert_default();
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
        PROCESS | ROLE => text.starts_with("NOPERM"),
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
        ROLE => "Allow it to that user (ACL SETUSER … +role): behind Sentinels it is needed",
        "client name" => "Take client= out, or choose a name without blanks",
        _ if text.contains("without any password") => {
            "This server asks for no password. Take it out"
        }
        _ => "Compare it with requirepass, or with ACL LIST, of that server",
    }
}
