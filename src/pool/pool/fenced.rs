//! What the Memcache class may do on a pool of copied sessions: read.
//!
//! A session is read as any request reads it, but without its turn: newest trusted version,
//! repaired where a node has less, a destroyed one not there. Written it is by whoever has
//! its turn, which is the session handler; anything else would overwrite a request that does.

use super::Pool;
use super::copies::{Task, clock, host_name};
use crate::call::{Call, Outcome, Verb};
use crate::error::{Error, Kind};
use crate::replica::{Found, Open, PREFERRED, Wish, record_key};
use crate::shared;

/// Stands behind the data of a session that pecl's place has, too (`session::migrate`); PHP's
/// own formats never end so.
pub(crate) const NOTE: &[u8] = b"\0memring:pecl";

impl Pool {
    /// How many of a session's nodes have its value; the others have word of it.
    pub fn copies(&self) -> usize {
        self.policy.copies.unwrap_or(PREFERRED)
    }

    /// Runs a call on a pool of copied sessions.
    pub(super) fn run_fenced(&mut self, call: &mut Call, verb: Verb) {
        if !verb.is_read() {
            self.refuse_call(call, "only get() works on it");
            return;
        }
        for entry in 0..call.entries.len() {
            let outcome = self.read_session(call, entry);
            call.settle_anew(entry, outcome);
        }
    }

    fn read_session(&mut self, call: &mut Call, entry: usize) -> Outcome {
        let key = call.wire_key(entry).to_vec();
        let lists = self.lists(&key);
        let nodes = &lists.nodes;
        let wish = Wish {
            nodes: nodes.iter().map(|node| self.ring_name(*node)).collect(),
            asked: PREFERRED,
            copies: self.copies(),
            rules: self.rules.machines,
            turn: None,
            fresh: false,
            epoch: self.policy.list_epoch(),
            host: host_name(),
            random: shared::throw(),
        };
        let name = &self.policy.name;
        let record_key = record_key((!name.is_empty()).then_some(name.as_str()));
        let mut out = Vec::new();
        let mut open = Open::over(wish, lists.parts.clone(), clock(), &mut out);
        let task = Task {
            key: &key,
            record_key: &record_key,
            nodes,
        };
        self.drive(&mut open, out, task, call);
        match open.outcome().map(|opened| opened.found) {
            Some(Found::Value(data)) => Outcome::Hit {
                flags: 0,
                cas: 0,
                value: call.keep_value(data.strip_suffix(NOTE).unwrap_or(&data)),
            },
            Some(Found::Nothing) => Outcome::NotFound,
            _ => Outcome::Lost,
        }
    }

    /// Makes an event of what this pool does not do.
    pub(super) fn refuse_call(&self, call: &mut Call, why: &str) {
        if let Some(member) = self.members.first() {
            let name = match self.policy.name.as_str() {
                "" => "this pool".to_owned(),
                name => format!("pool:{name}"),
            };
            let error = Error::new(
                Kind::Config,
                format!("{name} keeps sessions (mode = \"fenced\"), and {why}"),
            )
            .hint("Use a pool of mode \"sync\" or \"single\" for a cache");
            call.events.push(super::event(0, member, error));
        }
    }
}
