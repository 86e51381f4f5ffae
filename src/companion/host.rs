//! This host's hold on one pool: its connections, and what machines need from outside.

use crate::wish::Kept;
use memring_pool::call::Call;
use memring_pool::config::Care;
use memring_pool::error::Error;
use memring_pool::node::Directory;
use memring_pool::pool::Pool;
use memring_pool::replica::{Epochs, Survey};

/// One pool as this thread uses it.
#[derive(Debug)]
pub(crate) struct Host {
    /// The pool.
    pub(crate) pool: Pool,
    /// What its operations work in.
    pub(crate) call: Call,
    /// The key of its nodes' records.
    pub(crate) record_key: Vec<u8>,
}

impl Host {
    /// A pool without a connection yet.
    pub(crate) fn new(kept: &Kept) -> Host {
        let mut pool = Pool::new(kept.topology.policy.clone());
        let mut directory = Directory::new();
        for spec in &kept.topology.nodes {
            let mut spec = spec.clone();
            // Who looks every second decides when to try again; workers wait for that.
            spec.retry_interval = 0;
            spec.care = Care::Prober;
            pool.add(spec, &mut directory);
        }
        let mut previous = kept.topology.previous.clone();
        for spec in &mut previous {
            spec.retry_interval = 0;
            spec.care = Care::Prober;
        }
        pool.came_from(&previous, &mut directory);
        Host {
            pool,
            call: Call::new(),
            record_key: kept.record_key.clone(),
        }
    }

    /// Looks at every node; those of the list before, too, until its epoch is over.
    pub(crate) fn survey(&mut self) -> Survey {
        let survey = self.pool.records(&self.record_key, &mut self.call);
        let over = |epochs: Epochs| {
            epochs.committed >= self.pool.policy().epoch && self.pool.stands(epochs).is_ok()
        };
        if self.pool.has_window() && survey.epochs().is_some_and(over) {
            self.pool.end_window();
            return self.survey();
        }
        survey
    }

    /// As [`Pool::fits`].
    pub(crate) fn fits(&self, survey: &Survey) -> Result<(), Error> {
        self.pool.fits(survey)
    }
}

/// This host's name, for records; without blanks, which part the words of one.
pub(crate) fn name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let first = name.split_whitespace().next();
    first.unwrap_or("unnamed").to_owned()
}
