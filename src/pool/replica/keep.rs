//! What the record says of a node that missed a write, and who keeps the key.
//!
//! ```text
//!   -10.0.0.2:11211 web4 1767225600                     a full pass mends it, in a new life
//!   -10.0.0.2:11211 web4/5f3a09c2d81e6b47 1767225600    web4 keeps the keys, in that region
//! ```
//!
//! A host that keeps the keys may withdraw what it said once they are mended, and the node
//! goes on in the life it has. That is sound only if nothing this host ever sent to the node
//! is still on its way there: a write that timed out may be carried out late, over what was
//! mended or after all that was known of it is gone. So who sent something and was not
//! answered says the first line, and the new life makes whatever comes late a hint.

use super::view::{self, Contact, View};
use super::{Absent, Record, Rules};

/// Hosts that may keep keys for one node; more of them say that it was really away, and a
/// record must stay short.
const HOSTS: usize = 4;

/// Whoever keeps the keys that nodes missed, on this host.
pub trait Keep: std::fmt::Debug {
    /// Keeps the key of the write under way, which `node` missed; `sent` when the write may
    /// be carried out there later. Asked when the others have the write.
    fn keep(&mut self, node: &str, sent: bool) -> Kept;
}

/// Whether a key was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It was, and what the records say of the node stands.
    Yes,
    /// It was, but what the records say may just be withdrawn: it is to be said anew.
    Anew,
    /// It was not: the node needs a full pass.
    No,
}

/// The nodes that missed a write.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Who keeps the key.
    pub(super) keeper: Option<Box<dyn Keep>>,
    missed: Vec<(Box<str>, Kept)>,
}

impl Notes {
    /// What is to be said of nodes that missed the write, and of those that have it and are
    /// said to have missed another. The key is kept once for each.
    pub(super) fn absent(
        &mut self,
        missed: &[usize],
        listed: &[usize],
        views: &[View],
        rules: Rules,
    ) -> Vec<(Box<str>, Kept)> {
        for view in missed.iter().filter_map(|place| views.get(*place)) {
            if self.missed.iter().any(|(name, _)| *name == view.name) {
                continue;
            }
            let sent = view.contact == Contact::Down { maybe: true };
            let keeper = self.keeper.as_mut();
            let kept = keeper.map_or(Kept::No, |keeper| keeper.keep(&view.name, sent));
            self.missed.push((view.name.clone(), kept));
        }
        let listed = listed
            .iter()
            .filter_map(|place| views.get(*place))
            // Who took this write and waits for kept keys gets them from whoever keeps them.
            .filter(|view| view::is_listed_for_good(views, &view.name, rules))
            .map(|view| (view.name.clone(), Kept::No));
        self.missed.iter().cloned().chain(listed).collect()
    }
}

impl Absent {
    /// The host's name, for people.
    pub fn people(&self) -> &str {
        self.host.split('/').next().unwrap_or_default()
    }

    /// True when the host keeps the keys and will withdraw this.
    pub fn is_kept(&self) -> bool {
        self.host.contains('/')
    }
}

impl Record {
    /// Is `node` among those that need a full pass?
    pub fn lists_for_good(&self, node: &str) -> bool {
        let mut of_node = self.absent.iter().filter(|absent| *absent.node == *node);
        of_node.any(|absent| !absent.is_kept())
    }

    /// The same, without what `host` said of `node`.
    #[must_use]
    pub fn without(&self, node: &str, host: &str) -> Record {
        let stays = |absent: &&Absent| *absent.node != *node || *absent.host != *host;
        Record {
            absent: self.absent.iter().filter(stays).cloned().collect(),
            ..self.clone()
        }
    }

    /// Adds that `node` missed a write of `host` (its name, and where it keeps keys).
    pub(super) fn say(&mut self, node: &str, host: &str, since: u64, kept: Kept) {
        if self.lists_for_good(node) {
            return;
        }
        let of_node = |absent: &&Absent| *absent.node == *node;
        let own = |absent: &Absent| *absent.host == *host;
        let crowded = self.absent.iter().filter(of_node).count() >= HOSTS;
        let known = self.absent.iter().filter(of_node).any(own);
        let keeps = kept != Kept::No && host.contains('/');
        if keeps && known {
            return;
        }
        let mut said = Absent {
            node: node.into(),
            host: host.into(),
            since,
        };
        if !keeps || crowded {
            // Nobody withdraws it now, whoever kept what.
            said.host = said.people().into();
            self.absent.retain(|absent| *absent.node != *node);
        }
        self.absent.push(said);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(record: &Record) -> Vec<&str> {
        record.absent.iter().map(|absent| &*absent.host).collect()
    }

    #[test]
    fn a_host_that_keeps_the_key_says_so_once_and_takes_back_its_own_word_only() {
        let mut record = Record::new(1, 1);
        for host in ["a/1", "a/1", "b/2"] {
            record.say("n:1", host, 5, Kept::Yes);
        }
        assert_eq!(hosts(&record), ["a/1", "b/2"]);
        assert!(record.lists("n:1") && !record.lists_for_good("n:1"));
        assert_eq!(hosts(&record.without("n:1", "a/1")), ["b/2"]);
        assert_eq!(hosts(&record.without("n:2", "a/1")), ["a/1", "b/2"]);
    }

    #[test]
    fn who_cannot_keep_it_asks_for_a_full_pass_and_nobody_takes_that_back() {
        let mut record = Record::new(1, 1);
        record.say("n:1", "a/1", 5, Kept::Yes);
        record.say("n:1", "b/2", 6, Kept::No);
        record.say("n:1", "c/3", 7, Kept::Yes);
        assert_eq!(hosts(&record), ["b"]);
        assert!(record.lists_for_good("n:1"));
        assert_eq!(hosts(&record.without("n:1", "b/2")), ["b"]);
    }

    #[test]
    fn too_many_hosts_mean_a_full_pass() {
        let mut record = Record::new(1, 1);
        for host in ["a/1", "b/2", "c/3", "d/4"] {
            record.say("n:1", host, 5, Kept::Yes);
        }
        assert!(!record.lists_for_good("n:1"));
        record.say("n:1", "e/5", 5, Kept::Yes);
        assert_eq!(hosts(&record), ["e"]);
    }
}
