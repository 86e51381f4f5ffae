//! The first records of a pool.
//!
//! A pool is new only if every node answered and none had a record before ours: only then
//! can all be trusted to have missed nothing. A node without a record beside others that
//! have one has lost its memory, and joins. Only a person can say that a pool is new though
//! a node does not answer ([`Founding::without`]).
//!
//! Many requests may come to a new pool at the same time. The first by name of its nodes
//! says who founds it: whoever stores the first record there goes on, the others wait until
//! he is done, or for so long that he must be gone ([`Founding::late`]).

use super::view::{self, View};
use super::{Absent, Command, Epochs, Lost, Machine, Record, Reply, Rules, Send, Trust};
use crate::chance::mix;

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
    /// By a person's word: who is left out, as it stands in the others' records.
    without: Vec<Absent>,
    /// What the first records of a new pool say of its node list.
    epochs: Epochs,
    /// Waited long enough for anybody else.
    late: bool,
    rules: Rules,
    stage: Stage,
    result: Option<Founded>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Reading,
    /// The first node gets its record.
    First,
    Adding {
        all: bool,
    },
    /// All but the first are to be trusted.
    Trusting,
    /// The first is: who sees that, sees the others trusted, too.
    TrustingFirst,
}

impl Founding {
    /// Begins to found the pool of these nodes; places are their indices.
    pub fn new(nodes: &[Box<str>], random: u64, out: &mut Vec<Send>) -> Founding {
        Founding {
            views: view::of_records(nodes, out),
            random,
            without: Vec::new(),
            epochs: Epochs::default(),
            late: false,
            rules: Rules::ALL,
            stage: Stage::Reading,
            result: None,
        }
    }

    /// Begins to found the pool of these nodes without those in `without`, by the word of a
    /// person who knows that there is nothing to lose.
    ///
    /// Those left out are not asked, and stand in all records as absent: what they have when
    /// they come back is not believed. [`Founded::Again`] when any other node has a record.
    pub fn without(
        nodes: &[Box<str>],
        without: Vec<Absent>,
        random: u64,
        out: &mut Vec<Send>,
    ) -> Founding {
        let mut all = Vec::new();
        let mut founding = Founding::new(nodes, random, &mut all);
        for send in all {
            if let Some(view) = founding.views.get_mut(send.place) {
                if without.iter().any(|absent| absent.node == view.name) {
                    *view = View::new(view.name.clone());
                } else {
                    out.push(send);
                }
            }
        }
        founding.without = without;
        founding
    }

    /// The same, where the records of a new pool say this of its node list.
    #[must_use]
    pub fn at(mut self, epochs: Epochs) -> Founding {
        self.epochs = epochs;
        self
    }

    /// The same for who has waited in vain for somebody else to finish: nodes without a
    /// record get one, and join.
    #[must_use]
    pub fn late(mut self) -> Founding {
        self.late = true;
        self
    }

    /// The same under these rules.
    #[must_use]
    pub fn under(mut self, rules: Rules) -> Founding {
        self.rules = rules;
        self
    }

    /// The outcome, once [`Machine::is_done`].
    pub fn result(&self) -> Option<Founded> {
        self.result
    }

    fn plan(&mut self, out: &mut Vec<Send>) {
        let unknown = self
            .views
            .iter()
            .position(|view| !view.is_able() && !self.leaves_out(&view.name));
        match (self.stage, unknown) {
            (_, Some(place)) => self.result = Some(Founded::Stopped { place }),
            (Stage::Reading, None) => self.begin(out),
            (
                Stage::First | Stage::Adding { .. } | Stage::Trusting | Stage::TrustingFirst,
                None,
            ) if self.rules.founding && self.views.iter().any(|view| view.stale) => {
                self.result = Some(Founded::Again);
            }
            (Stage::First, None) => {
                self.stage = Stage::Adding { all: true };
                self.add(out);
                if out.is_empty() {
                    // A pool of one node: that was all.
                    self.plan(out);
                }
            }
            (Stage::Adding { all: false }, None) => self.result = Some(Founded::Joined),
            (Stage::Adding { all: true }, None) => {
                self.stage = Stage::Trusting;
                let first = self.first();
                for place in (0..self.views.len()).filter(|place| Some(*place) != first) {
                    self.trust(place, out);
                }
                if out.is_empty() {
                    self.plan(out);
                }
            }
            (Stage::Trusting, None) => {
                self.stage = Stage::TrustingFirst;
                if let Some(first) = self.first() {
                    self.trust(first, out);
                }
            }
            (Stage::TrustingFirst, None) => self.result = Some(Founded::New),
        }
    }

    /// Who decides between several founders: the first by name of those here.
    fn first(&self) -> Option<usize> {
        let here = self.views.iter().enumerate();
        let here = here.filter(|(_, view)| !self.leaves_out(&view.name));
        let first = here.min_by(|(_, one), (_, other)| one.name.cmp(&other.name));
        first.map(|(place, _)| place)
    }

    fn trust(&mut self, place: usize, out: &mut Vec<Send>) {
        if let Some(view) = self.views.get_mut(place)
            && let Some((record, cas)) = &view.record
        {
            let command = Command::SetRecord {
                cas: *cas,
                record: record.trusted(),
            };
            view.ask(place, vec![command], out);
        }
    }

    fn leaves_out(&self, name: &str) -> bool {
        self.without.iter().any(|absent| *absent.node == *name)
    }

    fn begin(&mut self, out: &mut Vec<Send>) {
        let has = |view: &View| view.record.is_some();
        let all = !self.views.iter().any(has);
        if !all && !self.without.is_empty() {
            // Not new after all: then no word of a person makes anybody trusted.
            self.result = Some(Founded::Again);
            return;
        }
        let Some(first) = self.first() else {
            self.result = Some(Founded::Nothing);
            return;
        };
        if all {
            self.stage = Stage::First;
            self.add_at(first, self.epochs, out);
            return;
        }
        // It is trusted last, and records may be read in any order. A first node that came
        // back empty looks the same for a while; then whoever asks has waited in vain, and
        // only that.
        let is = |view: &View, trust: Trust| {
            let record = view.record.as_ref();
            record.is_some_and(|(record, _)| record.trust == trust)
        };
        let under_way = self.views.get(first).is_some_and(|view| {
            is(view, Trust::Joining)
                || (!has(view) && !self.views.iter().any(|view| is(view, Trust::Trusted)))
        });
        if under_way && !self.late {
            self.result = Some(Founded::Again);
            return;
        }
        self.stage = Stage::Adding { all: false };
        self.add(out);
        if out.is_empty() {
            self.result = Some(Founded::Nothing);
        }
    }

    /// Gives a record to each node without one.
    fn add(&mut self, out: &mut Vec<Send>) {
        let epochs = match self.stage {
            Stage::Adding { all: false } => view::epochs(&self.views),
            _ => self.epochs,
        };
        for place in 0..self.views.len() {
            self.add_at(place, epochs, out);
        }
    }

    fn add_at(&mut self, place: usize, epochs: Epochs, out: &mut Vec<Send>) {
        let without = &self.without;
        let Some(view) = self.views.get_mut(place).filter(|view| {
            view.record.is_none() && !without.iter().any(|absent| absent.node == view.name)
        }) else {
            return;
        };
        let random = mix(self.random, place as u64);
        let inc = u16::try_from(random >> 8 & 0xfff).unwrap_or(0);
        let command = Command::AddRecord(Record {
            absent: without.clone(),
            ..Record::new(inc, random).with(epochs)
        });
        view.ask(place, vec![command], out);
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
        let quiet = view::heard(&mut self.views, now, place, replies);
        if self.result.is_none() && quiet {
            self.plan(out);
        }
    }

    fn is_done(&self) -> bool {
        self.result.is_some()
    }
}
