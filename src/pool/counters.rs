//! WHAT IS COUNTED on a host: names that stay, in an order that stays.
//!
//! The numbers themselves lie in the region (`shared::count`). A counter is only ever added
//! at the end, since processes of two versions may share one region.

/// Room for counters in the region.
pub const COUNTERS: usize = 64;

/// One thing that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counter {
    /// Copies that a read stored again.
    Repairs,
    /// Writes that were fenced: the turn had been taken over.
    Fences,
    /// Sessions not stored, since somebody else wrote meanwhile.
    Conflicts,
    /// Tombstones stored.
    Tombstones,
    /// Keys kept for a node that missed them.
    MissedKeys,
    /// Keys that could not be kept, so that the node gets a full pass.
    MissedOverflow,
    /// Writes acknowledged with one copy only.
    OneCopyWrites,
    /// Reads refused, since too few trusted nodes answered.
    Doubts,
    /// Values served though fewer than two trusted nodes answered.
    KnownHitsServed,
    /// Items met that somebody else stored.
    ForeignItems,
    /// Probes of a node that was out.
    Probes,
    /// Times that a node was put out.
    Ejections,
    /// Copies that followed the answer (mode async).
    LateCopies,
    /// Those of them that their node does not have.
    LateMissed,
    /// Passes over a returned node that workers brought to their end.
    WorkerPasses,
    /// Times that a process said of a session pool's nodes that they evict.
    EvictionWarnings,
    /// Bytes that memcached nodes counted for those tombstones when they were stored, all copies. Each
    /// ends with its session's life and two minutes: what was added in so long is there now.
    TombstoneBytes,
}

impl Counter {
    /// All of them, in the order they lie in.
    pub const ALL: [Counter; 17] = [
        Counter::Repairs,
        Counter::Fences,
        Counter::Conflicts,
        Counter::Tombstones,
        Counter::MissedKeys,
        Counter::MissedOverflow,
        Counter::OneCopyWrites,
        Counter::Doubts,
        Counter::KnownHitsServed,
        Counter::ForeignItems,
        Counter::Probes,
        Counter::Ejections,
        Counter::LateCopies,
        Counter::LateMissed,
        Counter::WorkerPasses,
        Counter::EvictionWarnings,
        Counter::TombstoneBytes,
    ];

    /// Its place among the region's counters.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Its name, as it stands in status; names are never changed.
    pub const fn name(self) -> &'static str {
        match self {
            Counter::Repairs => "repairs",
            Counter::Fences => "fences",
            Counter::Conflicts => "conflicts",
            Counter::Tombstones => "tombstones",
            Counter::MissedKeys => "missed_keys",
            Counter::MissedOverflow => "missed_overflow",
            Counter::OneCopyWrites => "one_copy_writes",
            Counter::Doubts => "doubts",
            Counter::KnownHitsServed => "known_hits_served",
            Counter::ForeignItems => "foreign_items",
            Counter::Probes => "probes",
            Counter::Ejections => "ejections",
            Counter::LateCopies => "late_copies",
            Counter::LateMissed => "late_copies_missed",
            Counter::WorkerPasses => "passes_by_workers",
            Counter::EvictionWarnings => "eviction_warnings",
            Counter::TombstoneBytes => "tombstone_bytes",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_its_own_name_and_lies_where_it_is_listed() {
        let names: std::collections::HashSet<_> = Counter::ALL.iter().map(|c| c.name()).collect();
        assert_eq!(names.len(), Counter::ALL.len());
        for (place, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(counter.index(), place);
        }
        assert!(Counter::ALL.len() <= COUNTERS);
    }
}
