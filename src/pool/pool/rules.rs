//! The protective rules of copies, a cache's and sessions', each of which the simulation switches off.

use super::Pool;
use crate::replica;

/// What keeps copies right; everybody but the simulation uses [`Rules::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A delete leaves a tombstone.
    pub tombstone: bool,
    /// Keys that a node missed are kept for it.
    pub hint: bool,
    /// A flush that a node missed is kept for it.
    pub hint_of_flush: bool,
    /// Who flushed empties the nodes once more, which were not emptied in one moment.
    pub flush_again: bool,
    /// A node that is back in the middle of a call is not asked before it was given what it missed.
    pub meanwhile: bool,
    /// A write that took unusually long is looked at again: a copy may have lost it meanwhile.
    pub confirm: bool,
    /// A node that is back is given what it missed when it has carried out what lay in its buffers.
    pub late: bool,
    /// What was written without a node is what it missed, though its version be lower.
    pub behind: bool,
    /// Nothing goes over a copy that is newer.
    pub newest: bool,
    /// What a read gives back to a node goes over nothing but what was seen there.
    pub repair_over_seen: bool,
    /// What depends on what is stored goes over nothing but what was seen.
    pub over_seen: bool,
    /// Those of the machines that read and write sessions.
    pub machines: replica::Rules,
    /// Who keeps a key while a host takes its word of the node back says anew that it is absent.
    pub anew: bool,
    /// The turn of a process of this host that is gone is taken over at once.
    pub neighbour: bool,
    /// The turn of one that works is not.
    pub works: bool,
    /// Nodes passed over for a mark are asked all the same where the others do not suffice.
    pub passed: bool,
    /// Who reads a session asks again, and longer, before he doubts.
    pub patient: bool,
    /// A host that alone cannot reach two nodes of a pool stores no session.
    pub broken: bool,
    /// A node that missed more keys than there is room for gets a full pass.
    pub overflow: bool,
}

impl Rules {
    /// All of them.
    pub const ALL: Rules = Rules {
        tombstone: true,
        hint: true,
        hint_of_flush: true,
        flush_again: true,
        meanwhile: true,
        confirm: true,
        late: true,
        behind: true,
        newest: true,
        repair_over_seen: true,
        over_seen: true,
        machines: replica::Rules::ALL,
        anew: true,
        neighbour: true,
        works: true,
        passed: true,
        patient: true,
        broken: true,
        overflow: true,
    };
}

impl Default for Rules {
    fn default() -> Rules {
        Rules::ALL
    }
}

impl Pool {
    /// Switches rules of its copies off, to see that they are needed.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// Those that are switched on.
    pub(crate) fn rules(&self) -> Rules {
        self.rules
    }
}
