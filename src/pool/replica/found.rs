//! The first records of a pool.
//!
//! A pool is new only if every node answered and none had a record before ours: only then
//! can all be trusted to have missed nothing. A node without a record beside others that
//! have one has lost its memory, and joins.

use super::open::mix;
use super::view::View;
use super::{Command, Lost, Machine, Record, Reply, Send};

/// What became of a pool's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Founded {
    /// Every node has one.
    Nothing,
    /// The pool was new and all its nodes are trusted.
    New,
    /// Nodes without a record got one and are joining.
    Joined,
    /// Somebody else is at it; look again in a moment.
    Again,
    /// A node does not answer, so nobody can say whether the pool is new.
    Stopped {
        /// Its place among the pool's nodes.
        place: usize,
    },
}

/// The founding of a pool under way.
#[derive(Debug)]
pub struct Founding {
    views: Vec<View>,
    random: u64,
    stage: Stage,
    result: Option<Founded>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Reading,
    Adding { all: bool },
    Trusting,
}

impl Founding {
    /// Begins to found the pool of these nodes; places are their indices.
    pub fn new(nodes: &[Box<str>], random: u64, out: &mut Vec<Send>) -> Founding {
        let mut views: Vec<View> = nodes.iter().map(|name| View::new(name.clone())).collect();
        for (place, view) in views.iter_mut().enumerate() {
            view.ask(place, vec![Command::ReadRecord], out);
        }
        Founding {
            views,
            random,
            stage: Stage::Reading,
            result: None,
        }
    }

    /// The outcome, once [`Machine::is_done`].
    pub fn result(&self) -> Option<Founded> {
        self.result
    }

    fn plan(&mut self, out: &mut Vec<Send>) {
        let unknown = self.views.iter().position(|view| !view.is_known());
        match (self.stage, unknown) {
            (_, Some(place)) => self.result = Some(Founded::Stopped { place }),
            (Stage::Reading, None) => self.add(out),
            (Stage::Adding { .. } | Stage::Trusting, None)
                if self.views.iter().any(|view| view.stale) =>
            {
                self.result = Some(Founded::Again);
            }
            (Stage::Adding { all: false }, None) => self.result = Some(Founded::Joined),
            (Stage::Adding { all: true }, None) => {
                self.stage = Stage::Trusting;
                for (place, view) in self.views.iter_mut().enumerate() {
                    if let Some((record, cas)) = &view.record {
                        let command = Command::SetRecord {
                            cas: *cas,
                            record: record.trusted(),
                        };
                        view.ask(place, vec![command], out);
                    }
                }
            }
            (Stage::Trusting, None) => self.result = Some(Founded::New),
        }
    }

    fn add(&mut self, out: &mut Vec<Send>) {
        let all = self.views.iter().all(|view| view.record.is_none());
        self.stage = Stage::Adding { all };
        for (place, view) in self.views.iter_mut().enumerate() {
            if view.record.is_none() {
                let random = mix(self.random, place as u64);
                let inc = u16::try_from(random >> 8 & 0xfff).unwrap_or(0);
                let command = Command::AddRecord(Record::new(inc, random));
                view.ask(place, vec![command], out);
            }
        }
        if out.is_empty() {
            self.result = Some(Founded::Nothing);
        }
    }
}

impl Machine for Founding {
    fn heard(
        &mut self,
        now: u64,
        place: usize,
        replies: Result<Vec<Reply>, Lost>,
        out: &mut Vec<Send>,
    ) {
        if let Some(view) = self.views.get_mut(place) {
            view.heard(now, replies);
        }
        if self.result.is_none() && !self.views.iter().any(View::is_busy) {
            self.plan(out);
        }
    }

    fn wait(&self) -> Option<u64> {
        None
    }

    fn wake(&mut self, _now: u64, _out: &mut Vec<Send>) {}

    fn is_done(&self) -> bool {
        self.result.is_some()
    }
}
