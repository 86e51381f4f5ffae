//! The first words on a connection: who we are, and which database we mean.

use super::{command, info, ping};
use crate::config::Redis;
use std::fmt;
use std::sync::LazyLock;

/// The step of a greeting that asks for the process.
pub const PROCESS: &str = "question for its run_id (INFO)";

/// What is said first on a connection, and waited for: what follows a refused password or
/// database must not reach the server.
pub struct Greeting {
    /// The commands.
    pub words: Vec<u8>,
    /// What each of them is about, for the message that says which was refused.
    pub steps: Vec<&'static str>,
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
            ping(&mut words);
            Greeting {
                words,
                steps: vec!["question whether it is a Redis"],
            }
        });
        &PING
    }

    /// The greeting of a Redis node; `None` where a connection is good as it is.
    pub fn of(redis: &Redis) -> Option<Greeting> {
        let mut greeting = Greeting {
            words: Vec::new(),
            steps: Vec::new(),
        };
        let mut say = |about, words: &[&[u8]]| {
            command(&mut greeting.words, words);
            greeting.steps.push(about);
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

    /// Adds the question which process answers; it is the last step.
    pub fn identify(greeting: &mut Option<Greeting>) {
        let greeting = greeting.get_or_insert(Greeting {
            words: Vec::new(),
            steps: Vec::new(),
        });
        info(&mut greeting.words, b"server");
        greeting.steps.push(PROCESS);
    }

    /// Does it ask which process answers?
    pub fn identifies(&self) -> bool {
        self.steps.last() == Some(&PROCESS)
    }
}
