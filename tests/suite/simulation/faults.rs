//! What goes wrong, when, and for how long: one seed, one plan.
//!
//! A plan is drawn fault by fault while the run goes on. "One at a time" leaves a pause between
//! the end of one and the begin of the next (a node that was slow has got the last that it was sent
//! then), and waits until the pool is calm where the pool can tell; "in a row" leaves none between
//! so many (F14 of the fault matrix: two). A script is a schedule of its own, for one trap each.

use super::node::Key;
use super::random::Random;

/// Which direction of a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// Requests do not arrive.
    There,
    /// Replies do not arrive.
    Back,
}

/// One fault, with all that chance had to say about it. Times in virtual milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The node dies and comes back empty.
    Crash {
        /// Which.
        node: usize,
    },
    /// The node is stopped, and does late what it was told meanwhile.
    Hang {
        /// Which.
        node: usize,
    },
    /// The node dies and comes back with what it had `age` before that, its record included.
    Old {
        /// Which.
        node: usize,
        /// From the snapshot to the crash.
        age: u64,
    },
    /// An operator empties the node.
    Flush {
        /// Which.
        node: usize,
    },
    /// The node forgets every fourth item, but not its record.
    Evict {
        /// Which.
        node: usize,
    },
    /// Somebody who knows nothing of versions stores a value there.
    Foreign {
        /// Where.
        node: usize,
        /// Under which session's name.
        key: Key,
    },
    /// The node refuses most of what needs memory.
    Full {
        /// Which.
        node: usize,
    },
    /// The node's replies take up to so much longer.
    Slow {
        /// Which.
        node: usize,
        /// At most.
        by: u64,
    },
    /// Some clients and the node do not hear each other.
    Partition {
        /// Which node.
        node: usize,
        /// Which clients.
        clients: Vec<usize>,
        /// In which direction.
        ways: Vec<Way>,
    },
    /// A connection is reset: what was under way is unknown.
    Cut {
        /// Between this node …
        node: usize,
        /// … and this client.
        client: usize,
    },
    /// A client is killed wherever it was, and begins anew.
    Kill {
        /// Which.
        client: usize,
    },
    /// The host of a client is switched off and on again: all that its processes knew is gone.
    Reboot {
        /// Which client.
        client: usize,
    },
    /// A client's clock jumps.
    Clock {
        /// Which.
        client: usize,
        /// By so much.
        by: i64,
    },
}

/// A kind of fault that a plan may draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Crash,
    Hang,
    Old,
    Flush,
    Full,
    Slow,
    Partition,
    Cut,
    Kill,
    Reboot,
    Clock,
}

impl Kind {
    /// The faults no session may be lost in, one at a time.
    pub(super) const PROMISED: &[Kind] = &[
        Kind::Crash,
        Kind::Hang,
        Kind::Old,
        Kind::Flush,
        Kind::Full,
        Kind::Slow,
        Kind::Partition,
        Kind::Cut,
        Kind::Kill,
        Kind::Clock,
    ];
    /// The same with what only hosts of several processes know. A node that is back with a dump is
    /// told by tend, which asks it which process it is.
    pub(super) const OF_HOSTS: &[Kind] = &[
        Kind::Crash,
        Kind::Hang,
        Kind::Old,
        Kind::Flush,
        Kind::Full,
        Kind::Slow,
        Kind::Partition,
        Kind::Cut,
        Kind::Kill,
        Kind::Kill,
        Kind::Reboot,
        Kind::Clock,
    ];
    /// The same where no tend runs.
    pub(super) const OF_HOSTS_ALONE: &[Kind] = &[
        Kind::Crash,
        Kind::Hang,
        Kind::Flush,
        Kind::Full,
        Kind::Slow,
        Kind::Partition,
        Kind::Cut,
        Kind::Kill,
        Kind::Kill,
        Kind::Reboot,
        Kind::Clock,
    ];
    /// The faults of the model the rivals were first measured in (replication facts, 5.2).
    pub(super) const MODEL: &[Kind] = &[Kind::Crash, Kind::Hang, Kind::Partition];

    /// A fault of this kind.
    pub(super) fn draw(self, nodes: usize, clients: usize, random: &mut Random) -> Fault {
        let node = random.below(nodes);
        let client = random.below(clients);
        match self {
            Kind::Crash => Fault::Crash { node },
            Kind::Hang => Fault::Hang { node },
            Kind::Old => Fault::Old {
                node,
                age: random.between(1, 2000),
            },
            Kind::Flush => Fault::Flush { node },
            Kind::Full => Fault::Full { node },
            Kind::Slow => Fault::Slow {
                node,
                by: random.between(20, 2000),
            },
            Kind::Partition => Fault::Partition {
                node,
                clients: (0..clients)
                    .filter(|&other| other == client || random.chance(50))
                    .collect(),
                ways: match random.below(3) {
                    0 => vec![Way::There],
                    1 => vec![Way::Back],
                    _ => vec![Way::There, Way::Back],
                },
            },
            Kind::Cut => Fault::Cut { node, client },
            Kind::Kill => Fault::Kill { client },
            Kind::Reboot => Fault::Reboot { client },
            Kind::Clock => Fault::Clock {
                client,
                by: random.between(0, 600_000) as i64 - 300_000,
            },
        }
    }
}

impl Fault {
    /// How long one like this lasts.
    pub(super) fn lasts(&self, random: &mut Random) -> u64 {
        match self {
            Fault::Crash { .. } | Fault::Old { .. } => random.between(1, 3000),
            Fault::Hang { .. } | Fault::Slow { .. } => random.between(20, 3000),
            Fault::Full { .. } | Fault::Partition { .. } => random.between(50, 4000),
            Fault::Flush { .. } | Fault::Evict { .. } | Fault::Cut { .. } => 0,
            Fault::Kill { .. } | Fault::Reboot { .. } | Fault::Clock { .. } => 0,
            Fault::Foreign { .. } => 0,
        }
    }
}

/// What is to go wrong in a run.
#[derive(Clone, Debug)]
pub(super) enum Plan {
    /// Nothing.
    Calm,
    /// One after the other of these kinds, so long after the one before has ended.
    Draw {
        /// From which kinds.
        kinds: &'static [Kind],
        /// So many back to back, then a pause.
        row: u64,
        /// How long at least.
        pause: u64,
    },
    /// These, when, and for how long. They may overlap.
    Script(Vec<(u64, Fault, u64)>),
}
