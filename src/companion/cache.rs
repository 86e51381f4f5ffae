//! The pool of a cache: tend asks its nodes, and has those that come back give up what they
//! missed; status tells how they stand.
//!
//! There are no records and no passes. A node is out for this host while it does not answer,
//! and the keys written meanwhile are in the host's memory; workers would hand them over, too,
//! but only when a request comes.

use crate::host::Host;
use crate::tell;
use crate::wish::Kept;
use memring_pool::fact::Fact;
use memring_pool::shared;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// One pool, looked at again and again.
pub(crate) struct Cache {
    label: String,
    host: Host,
    /// By node: did it answer at the last look?
    seen: Option<Vec<bool>>,
}

impl Cache {
    /// A pool that was not looked at yet.
    pub(crate) fn new(kept: &Kept) -> Cache {
        Cache {
            label: kept.label.clone(),
            host: Host::new(kept),
            seen: None,
        }
    }

    /// Looks and hands over, now and never again; true when every node answers and none owes
    /// anything.
    pub(crate) fn once(mut self) -> bool {
        self.look() && self.host.pool.debts().iter().all(|keys| *keys == 0)
    }

    /// Looks again and again.
    pub(crate) fn run(mut self, interval: Duration) {
        loop {
            let begin = Instant::now();
            self.look();
            std::thread::sleep(interval.saturating_sub(begin.elapsed()));
        }
    }

    /// Asks every node and says what changed; true when all answer.
    fn look(&mut self) -> bool {
        shared::tend(shared::now());
        let before = self.host.pool.counts();
        let answers = self.host.pool.look_after(&mut self.host.call);
        let after = self.host.pool.counts();
        let (up, all) = (answers.iter().filter(|up| **up).count(), answers.len());
        if self.seen.is_none() {
            self.say(&format!("{up} of {all} nodes answer"));
        }
        for (place, now) in answers.iter().enumerate() {
            let was = self.seen.as_ref().and_then(|seen| seen.get(place)).copied();
            let name = self.host.pool.name(place);
            match (was, now) {
                (Some(true) | None, false) => {
                    let mut events = self.host.call.events().iter();
                    let cause = events
                        .find(|event| event.node == place)
                        .map_or("no answer", |event| event.error.cause());
                    self.say(&format!("{name} is out: {cause}"));
                }
                (Some(false), true) => self.say(&format!("{name} answers again")),
                _ => {}
            }
        }
        let keys = after.handed_over - before.handed_over;
        if keys > 0 {
            self.say(&format!("{keys} missed keys were given up by their nodes"));
        }
        if after.emptied > before.emptied {
            self.say("a node that missed a flush, or more keys than can be kept, was emptied");
        }
        self.seen = Some(answers);
        up == all
    }

    fn say(&self, line: &str) {
        tell(&format!("memring tend: {}: {line}", self.label));
    }
}

/// How the nodes of a cache stand, as status tells it.
pub(crate) struct Standing {
    kept: Kept,
    host: Host,
    /// By node: why it does not answer, or nothing.
    silent: Vec<Option<String>>,
    /// Another user's processes keep the keys that nodes missed.
    blind: bool,
}

impl Standing {
    /// Asks every node.
    pub(crate) fn of(kept: Kept) -> Standing {
        let mut host = Host::new(&kept);
        let answers = host.pool.answers(&mut host.call);
        let why = |place: usize| {
            let mut events = host.call.events().iter();
            let found = events.find(|event| event.node == place);
            found.map_or("no answer", |event| event.error.cause())
        };
        let silent = (0..)
            .zip(answers)
            .map(|(place, answers)| (!answers).then(|| why(place).to_owned()))
            .collect();
        Standing {
            kept,
            host,
            silent,
            blind: false,
        }
    }

    /// The same for who cannot see which keys this host keeps.
    #[must_use]
    pub(crate) fn blind(self, blind: bool) -> Standing {
        Standing { blind, ..self }
    }

    /// True when every node answers, and this host keeps no key for one.
    pub(crate) fn is_safe(&self) -> bool {
        self.silent.iter().all(Option::is_none) && self.debts().iter().all(|n| *n == Some(0))
    }

    /// By node: how many keys this host keeps for it, if that can be seen.
    fn debts(&self) -> Vec<Option<usize>> {
        let debts = self.host.pool.debts().into_iter();
        debts.map(|keys| (!self.blind).then_some(keys)).collect()
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{}, a cache", self.kept.label);
        let names = (0..self.silent.len()).map(|place| self.host.pool.name(place));
        let width = names.map(|name| name.chars().count()).max().unwrap_or(0);
        let _ = write!(text, "\n  {:width$}  answers  missed keys", "node");
        let debts = self.debts();
        for ((place, silent), keys) in (0..).zip(&self.silent).zip(debts) {
            let (name, word) = (
                self.host.pool.name(place),
                if silent.is_none() { "yes" } else { "no" },
            );
            let keys = keys.map_or("unknown".to_owned(), |keys| keys.to_string());
            let _ = write!(text, "\n  {name:width$}  {word:7}  {keys}");
            if let Some(why) = silent {
                let _ = write!(text, "\n      {why}");
            }
        }
        text
    }

    /// For machines.
    pub(crate) fn fact(&self) -> Fact {
        let debts = self.debts();
        let nodes = (0..).zip(&self.silent).zip(debts);
        let nodes = nodes.map(|((place, silent), keys)| {
            Fact::Map(vec![
                ("node", self.host.pool.name(place).into()),
                ("answers", silent.is_none().into()),
                ("missed_keys", keys.into()),
                ("error", silent.as_deref().into()),
            ])
        });
        Fact::Map(vec![
            ("pool", self.kept.name.as_deref().into()),
            ("mode", self.kept.topology.policy.mode.word().into()),
            ("safe", self.is_safe().into()),
            ("nodes", nodes.collect()),
        ])
    }
}
