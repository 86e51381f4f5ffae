//! A node is another process than it was, and says all the same that it has missed nothing.
//!
//! Its record came back with a copy of its memory, as a warm restart or a snapshot brings it,
//! and what was written since that was made is not there. When no write went without the node
//! nobody else says so either. It goes on in a new life, and gets what it missed.

use super::view::View;
use super::{Command, Lost, Machine, Reply, Send, Trust};

/// How often a record is changed again that somebody else changed meanwhile.
const RETRIES: u32 = 20;

/// The end of a node's trust under way.
#[derive(Debug)]
pub struct Distrust {
    view: View,
    id: u64,
    tries: u32,
    result: Option<bool>,
}

impl Distrust {
    /// Begins to take the trust from `node`, which has place 0, if it has it in the life of
    /// this name.
    pub fn new(node: Box<str>, id: u64, out: &mut Vec<Send>) -> Distrust {
        let mut view = View::new(node);
        view.ask(0, vec![Command::ReadRecord], out);
        Distrust {
            view,
            id,
            tries: 0,
            result: None,
        }
    }

    /// True when it is not trusted in that life any more, once [`Machine::is_done`].
    pub fn result(&self) -> Option<bool> {
        self.result
    }

    fn plan(&mut self, out: &mut Vec<Send>) {
        self.tries += 1;
        if !self.view.is_able() || self.tries > RETRIES {
            self.result = Some(false);
            return;
        }
        let command = match &self.view.record {
            _ if self.view.stale => Command::ReadRecord,
            Some((record, cas)) if record.id == self.id && record.trust == Trust::Trusted => {
                Command::SetRecord {
                    cas: *cas,
                    record: record.reborn(),
                }
            }
            _ => {
                self.result = Some(true);
                return;
            }
        };
        self.view.ask(0, vec![command], out);
    }
}

impl Machine for Distrust {
    fn heard(
        &mut self,
        now: u64,
        _place: usize,
        replies: Result<Vec<Reply>, Lost>,
        out: &mut Vec<Send>,
    ) {
        self.view.heard(now, replies);
        if self.result.is_none() {
            self.plan(out);
        }
    }

    fn is_done(&self) -> bool {
        self.result.is_some()
    }
}
