//! Many clients, faulty nodes, one virtual clock: every schedule can be played again.
//!
//! The machines of `memring_pool::replica` are run here as they are on sockets, only that
//! time, network and nodes are simulated and every command of every client may fall between
//! any two of another's. A cache's copies have no machines, and of sessions there is more than
//! machines: there whole processes are run, each a thread, on the sockets, clocks and bells of a
//! player (`memring_pool::transport`). A history checker knows what may be seen. So that it is known to
//! see, the policies of other clients are run too, and must fail.
//!
//! ```text
//! MEMRING_SEEDS=100000 cargo test -p memring-tests --release --test suite simulation:: -- --nocapture
//! MEMRING_FIRST=5000   the first seed of a sweep, so that several can share the work
//! MEMRING_SEED=4711    cargo test … simulation::rivals::who_reads_the_owner -- --nocapture    one seed, with a trace
//! ```
//!
//! The long soak is the tests of `promises`, `steps` and `hosts`, each on its own and in blocks, from a
//! copy of the test binary that the next build does not replace. A seed takes about 20 ms of a core,
//! one of `caches` 30 ms, one of `hosts` 80 ms.
//!
//! ```text
//! cargo test -p memring-tests --release --test suite --no-run     says where the binary is
//! for first in $(seq 1 10000 100000); do
//!     MEMRING_FIRST=$first MEMRING_SEEDS=10000 nice -n 19 ./suite --nocapture --exact \
//!         simulation::promises::three_copies_lose_nothing_to_one_fault_at_a_time
//! done
//! ```
//! A seed that fails is printed when it does; the sweep goes on, and the test fails at its end.
//! A trace of one seed names each command, fault and answer with its virtual millisecond.
//!
//! | file | what it is |
//! |---|---|
//! | `random` | chance from a seed |
//! | `node` | a memcached server |
//! | `faults` | what goes wrong |
//! | `world` | time, network, clients |
//! | `history` | what happened, and whether it may |
//! | `files` | the node lists of hosts |
//! | `clients` | sessions as we keep them |
//! | `workers` | who serves requests |
//! | `tenders` | who brings nodes back, and ends a step |
//! | `checker` | the checker itself, tried |
//! | `processes` | the same for the real code of caches and sessions: threads, sockets, one clock |
//! | `wires` | bytes on their way between them, and what goes wrong |
//! | `memcached` | a server, in bytes |
//! | `visitors` | who uses a cache |
//! | `values` | what may be seen of it |
//! | `caches` | what its copies promise, each rule switched off, and the limits |
//! | `requests` | who serves sessions by the real code |
//! | `mending` | its tend |
//! | `hosts` | what these promise on several hosts, and what only that code does switched off |
//! | `rivals` | policies that lose |
//! | `promises` | ours do not, by chance; and the limits |
//! | `steps` | nor while the node list changes |
//! | `waits` | nor where no node lists its keys |
//! | `rules` | each protective rule, switched off |
//! | `traps` | schedules that cost somebody a session once |

mod caches;
mod checker;
mod clients;
mod faults;
mod files;
mod history;
mod hosts;
mod memcached;
mod mending;
mod node;
mod processes;
mod promises;
mod random;
mod requests;
mod rivals;
mod rules;
mod steps;
mod tenders;
mod traps;
mod turns;
mod values;
mod visitors;
mod waits;
mod wires;
mod workers;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use history::{Counts, History, Violation};
use values::Values;

/// What many seeds came to.
#[derive(Debug, Default)]
struct Tally {
    seeds: u64,
    /// Seeds with a violation of any kind.
    bad: u64,
    /// How many of each kind, and the first seed and words of it.
    kinds: BTreeMap<Violation, (u64, u64, String)>,
    counts: Counts,
    /// One seed was asked for: nothing is to be concluded from it.
    single: bool,
    took: Duration,
}

/// What a run came to: what was found, and how much was done.
type Told = (Vec<(u64, Violation, String)>, Counts);

/// Plays seeds 1 to `count` (`MEMRING_SEEDS`), or the one of `MEMRING_SEED` with a trace.
fn sweep(count: u64, play: impl Fn(u64, bool) -> History) -> Tally {
    tally(count, |seed, trace| {
        let history = play(seed, trace);
        (history.found, history.counts)
    })
}

/// The same for runs on values of a cache.
fn sweep_values(count: u64, play: impl Fn(u64, bool) -> Values) -> Tally {
    tally(count, |seed, trace| {
        let values = play(seed, trace);
        (values.found, values.counts)
    })
}

fn tally(count: u64, play: impl Fn(u64, bool) -> Told) -> Tally {
    let asked = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text: String| text.parse().ok())
    };
    let single: Option<u64> = asked("MEMRING_SEED");
    let first = asked("MEMRING_FIRST").unwrap_or(1);
    let seeds = match single {
        Some(seed) => seed..seed + 1,
        None => first..first + asked("MEMRING_SEEDS").unwrap_or(count),
    };
    let mut tally = Tally {
        single: single.is_some(),
        ..Tally::default()
    };
    let begun = Instant::now();
    for seed in seeds {
        let (found, counts) = play(seed, single.is_some());
        tally.seeds += 1;
        tally.bad += u64::from(!found.is_empty());
        tally.counts.add(counts);
        for (time, kind, words) in found {
            if single.is_some() {
                eprintln!("{time:>8} VIOLATION {kind}: {words}");
            }
            if single.is_none() {
                // A long sweep says at once what it found.
                println!("seed {seed}, at {time}: {kind}: {words}");
            }
            let entry = tally
                .kinds
                .entry(kind)
                .or_insert((0, seed, format!("at {time}: {words}")));
            entry.0 += 1;
        }
    }
    tally.took = begun.elapsed();
    tally
}

impl Tally {
    fn of(&self, kind: Violation) -> u64 {
        self.kinds.get(&kind).map_or(0, |(count, ..)| *count)
    }

    /// Nothing went wrong, but that somebody may have been told of a turn that nobody took.
    fn keeps_all(&self) -> bool {
        self.kinds.keys().all(|kind| *kind == Violation::Needless)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            reads,
            refused,
            changes,
            acked,
        } = self.counts;
        write!(
            out,
            "{} of {} seeds ({:.0} per second); {reads} reads, {refused} refused; {changes} changes, {acked} acknowledged",
            self.bad,
            self.seeds,
            self.seeds as f64 / self.took.as_secs_f64().max(0.001),
        )?;
        for (kind, (count, seed, words)) in &self.kinds {
            let million = count * 1_000_000 / reads.max(1);
            write!(
                out,
                "\n  {kind}: {count}, {million} per million reads; first in seed {seed} {words}"
            )?;
        }
        Ok(())
    }
}
