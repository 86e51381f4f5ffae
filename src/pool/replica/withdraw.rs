//! The keys are mended: this host takes back what the records say of the node.
//!
//! Only by the cas value of the record as it was read after nobody kept a key any more: who
//! keeps one meanwhile writes the record anew, and then this fails.

use super::view::{self, Contact, View};
use super::{Command, Lost, Machine, Reply, Send, Trust};

/// What became of a withdrawal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawn {
    /// No record says it any more for this host.
    Done,
    /// A record changed meanwhile, or a node did not answer: nothing is lost, try again.
    Again,
    /// A record's change may still be on its way.
    Unsure,
    /// The node is not what it was: another life, or it needs a full pass.
    Other,
}

/// A withdrawal under way.
#[derive(Debug)]
pub struct Withdraw {
    views: Vec<View>,
    target: usize,
    /// Name of the memory life in which the node missed the keys.
    id: u64,
    host: Box<str>,
    changing: bool,
    result: Option<Withdrawn>,
}

impl Withdraw {
    /// Begins to take back what `host` said of node number `target`, in its life `id`; places
    /// are indices of `nodes`.
    pub fn new(
        nodes: &[Box<str>],
        target: usize,
        id: u64,
        host: &str,
        out: &mut Vec<Send>,
    ) -> Withdraw {
        Withdraw {
            views: view::of_records(nodes, out),
            target,
            id,
            host: host.into(),
            changing: false,
            result: None,
        }
    }

    /// The outcome, once [`Machine::is_done`].
    pub fn result(&self) -> Option<Withdrawn> {
        self.result
    }

    fn plan(&mut self, out: &mut Vec<Send>) {
        let maybe = |view: &View| view.contact == Contact::Down { maybe: true };
        if self.views.iter().any(maybe) {
            self.result = Some(Withdrawn::Unsure);
        } else if self.views.iter().any(|view| !view.is_able() || view.stale) {
            self.result = Some(Withdrawn::Again);
        } else if self.changing {
            self.result = Some(Withdrawn::Done);
        } else {
            self.change(out);
        }
    }

    fn change(&mut self, out: &mut Vec<Send>) {
        self.changing = true;
        let target = self.views.get(self.target);
        let name = target.map(|view| view.name.clone()).unwrap_or_default();
        let same = target
            .and_then(|view| view.record.as_ref())
            .is_some_and(|(record, _)| record.trust == Trust::Trusted && record.id == self.id);
        let mut records = self.views.iter().filter_map(|view| view.record.as_ref());
        if !same || records.any(|(record, _)| record.lists_for_good(&name)) {
            self.result = Some(Withdrawn::Other);
            return;
        }
        for (place, view) in self.views.iter_mut().enumerate() {
            let Some((record, cas)) = &view.record else {
                continue;
            };
            let without = record.without(&name, &self.host);
            if without != *record {
                let command = Command::SetRecord {
                    cas: *cas,
                    record: without,
                };
                view.ask(place, vec![command], out);
            }
        }
        if out.is_empty() {
            self.result = Some(Withdrawn::Done);
        }
    }
}

impl Machine for Withdraw {
    fn heard(
        &mut self,
        now: u64,
        place: usize,
        replies: Result<Vec<Reply>, Lost>,
        out: &mut Vec<Send>,
    ) {
        let quiet = view::heard(&mut self.views, now, place, replies);
        if self.result.is_none() && quiet {
            self.plan(out);
        }
    }

    fn is_done(&self) -> bool {
        self.result.is_some()
    }
}
