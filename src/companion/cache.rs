//! What tend does for the pool of a cache: it asks the nodes, and has those that come back give up
//! what they missed.
//!
//! There are no records and no passes. A node is out for this host while it does not answer,
//! and the keys written meanwhile are in the host's memory; workers would hand them over, too,
//! but only when a request comes.

use crate::host::Host;
use crate::tell;
use crate::wish::Kept;
use memring_pool::shared;
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
        self.look() && !self.host.pool.has_debts()
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
