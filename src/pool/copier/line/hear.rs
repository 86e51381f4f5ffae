//! What a node says to the copies it was given: which are stored, which are missed.

use super::{Ask, Line, Lost, REFUSALS};
use crate::config::Engine;
use crate::copier::{Copy, What, tell_missed};
use crate::wire::meta::{self, Status};
use crate::wire::{self, Parsed, Reply, VALUE_MAX, copied, redis};

impl Line {
    /// Reads every whole answer out of what arrived.
    pub(super) fn digest(&mut self) -> Result<(), Lost> {
        let mut read = std::mem::take(&mut self.read);
        let mut at = 0;
        let mut verdict = Ok(());
        while let Some((ask, expect)) = self.asks.front().copied() {
            match wire::parse(&read, at, expect) {
                Parsed::More(_) => break,
                Parsed::Garbage(what) => {
                    verdict = Err(Lost::Garbage(what));
                    break;
                }
                Parsed::Reply(used, reply) => {
                    at += used;
                    self.asks.pop_front();
                    verdict = self.hear(ask, reply, &read);
                    if verdict.is_err() {
                        break;
                    }
                }
            }
        }
        let rest = read.get(at..).unwrap_or_default();
        if verdict.is_ok() && self.asks.is_empty() && !rest.is_empty() {
            verdict = Err(Lost::Garbage("more answers than questions"));
        }
        if rest.len() > VALUE_MAX {
            verdict = Err(Lost::Garbage("an answer longer than any value"));
        }
        read.drain(..at);
        self.read = read;
        verdict
    }

    /// Takes one answer; `read` is where its spans lie.
    fn hear(&mut self, ask: Ask, reply: Reply, read: &[u8]) -> Result<(), Lost> {
        if let Ask::First(about) = ask {
            if let Some(line) = reply.refusal() {
                let text = String::from_utf8_lossy(line.of(read)).into_owned();
                return Err(Lost::Refused(about, text));
            }
            if self.engine == Engine::Redis && self.asks.is_empty() {
                self.versions = Some(false);
            }
            return Ok(());
        }
        if ask == Ask::Version {
            let takes = match reply {
                Reply::Version(text) if meta::is_spoken_by(text.of(read)) => {
                    copied::takes_versions(text.of(read))
                }
                Reply::Version(_) => {
                    return Err(Lost::Garbage(
                        "a memcached before 1.6.18, which takes no copies",
                    ));
                }
                _ => return Err(Lost::Garbage("no version")),
            };
            let before = self.versions.replace(takes);
            // What was said in the other way is refused, or has no version where one is looked for.
            if before.is_some_and(|before| before != takes) && !self.said.is_empty() {
                // Behind one address may be servers of both: the next one is asked first.
                self.versions = None;
                return Err(Lost::Stranger);
            }
            return Ok(());
        }
        let (found, done) = match reply {
            Reply::Meta(answer) => {
                // memcached leaves the opaque out of a plain miss (EN).
                let own = answer
                    .opaque
                    .map_or(answer.status == Status::Miss, |o| o == self.heard);
                if !own {
                    return Err(Lost::Garbage("the answer to another question"));
                }
                let found = copied::version_of(answer, read);
                (found, answer.status == Status::Done)
            }
            Reply::List(list) => match redis::copied::Shown::of(read, list) {
                Some(shown) => (shown.version(read), false),
                None => return Err(Lost::Garbage("an item without its particulars")),
            },
            Reply::Done => (0, true),
            Reply::NotStored | Reply::Exists | Reply::NotFound => (0, false),
            _ => return self.refused(),
        };
        self.heard += 1;
        if ask == Ask::Look {
            if let Some(said) = self.said.front_mut() {
                // Where it is already, nobody knows what it went over the first time.
                said.overtaken = matches!(said.copy.what, What::Put { version, .. }
                    if version < found || version == found && said.twice);
            }
            return Ok(());
        }
        let Some(said) = self.said.pop_front() else {
            return Err(Lost::Garbage("more answers than questions"));
        };
        // A look is no answer: who closes at each store would be asked for ever.
        (self.again, self.refusals) = (false, 0);
        self.over(&said.copy);
        if said.overtaken && done {
            tell_missed(said.copy);
        }
        Ok(())
    }

    /// A copy is on its way no longer.
    fn over(&mut self, copy: &Copy) {
        self.held -= copy.size();
        if let Some(count) = self.keys.get_mut(&copy.key) {
            *count -= 1;
            if *count == 0 {
                self.keys.remove(&copy.key);
            }
        }
    }

    /// The server refused a command: that copy is missed. A value it did not take may still
    /// be in the stream, so the others are said on a new connection.
    fn refused(&mut self) -> Result<(), Lost> {
        if let Some(said) = self.said.pop_front() {
            self.over(&said.copy);
            tell_missed(said.copy);
        }
        self.refusals += 1;
        if self.refusals >= REFUSALS {
            self.give_up();
        }
        Err(Lost::Stranger)
    }
}
