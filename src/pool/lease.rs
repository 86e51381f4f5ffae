//! WHOSE TURN: what the processes of a host tell each other of it, and waiting for it.
//!
//! The turn itself is the token on the nodes, and a lease is what others believe of it: so
//! long a turn lasts though its holder says nothing. On its own host a holder notes the end
//! of it, and moves that on with each call; there it is also seen when the holder is gone,
//! and there a bell rings when it lets go.
//!
//! ```text
//!   holder  note ─► call, call … ─► leave (struck out) ─► token back to the nodes ─► ring
//!   waiter  bell read ─► nodes asked ─► taken: wait for the bell, for the pause, for an end
//!                            ▲                                        │
//!                            └────────────────────────────────────────┘
//! ```
//!
//! Of several waiters of a host one asks the nodes in pauses, for those whose holder is on
//! another host; the others sleep until the bell wakes one of them, or that one has stopped.
//! Without a shared region all of them ask, and a turn ends with its lease.

use crate::replica::Neighbour;
use crate::shared::turns::{Bench, Entry, Holder, Process, Turns, Woken};
use crate::shared::{self, generation, now};
use crate::transport;
use std::cell::Cell;
use std::time::Duration;

/// A lease is no shorter, whatever the settings: a request may run for PHP's own 30 s
/// (php.ini max_execution_time).
pub const LEAST: Duration = Duration::from_secs(30);
/// What max_execution_time may make of it at most: who is killed keeps others out so long,
/// unless they are on his own host.
pub const MOST: Duration = Duration::from_secs(300);
/// A waiter that has not asked the nodes for so long after it should have is gone.
const LATE: u64 = 100;
/// A look at the holder's process every so often, while the bell is waited for.
const LOOK: u64 = 50;

/// How long a turn lasts though its holder says nothing: `lock_timeout`, `time_limit` (PHP's
/// max_execution_time, 0 for none; counted up to [`MOST`]) and [`LEAST`], whichever is most.
pub fn term(lock_timeout: Duration, time_limit: Duration) -> Duration {
    lock_timeout.max(time_limit.min(MOST)).max(LEAST)
}

/// The name of a turn on this host: a hash of all that tells it from others.
pub fn name<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.iter().chain(&[0]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    hash
}

thread_local! {
    /// This process, by its generation: a forked child is another one.
    static OWN: Cell<Option<(u64, Process)>> = const { Cell::new(None) };
    /// The turn that is held in this thread, which process took it, and its term in milliseconds.
    static HELD: Cell<Option<(&'static Holder, Process, u64)>> = const { Cell::new(None) };
}

fn own() -> Process {
    let generation = generation();
    match OWN.get() {
        Some((known, process)) if known == generation => process,
        _ => {
            let process = Process::own();
            OWN.set(Some((generation, process)));
            process
        }
    }
}

/// Notes that this thread made a call: the lease of a turn it holds begins anew.
#[inline]
pub fn call() {
    if let Some((holder, process, term)) = HELD.get()
        // A forked child has it, too, but it is not its own; nor is that of who took it over.
        && process == own()
    {
        holder.extend(process, now() + term);
    }
}

/// A turn as it is noted on this host.
#[derive(Debug)]
pub struct Lease {
    key: u64,
    noted: Option<(&'static Holder, Process)>,
}

impl Lease {
    /// Notes a turn that was just got; `marks` tell its items from others.
    pub fn note(key: u64, marks: [u64; 2], term: Duration) -> Lease {
        let term = u64::try_from(term.as_millis()).unwrap_or(u64::MAX);
        let entry = Entry {
            process: own(),
            until: now().saturating_add(term),
            marks,
        };
        let noted = shared::turns().and_then(|turns| turns.hold(key, entry));
        HELD.set(noted.map(|holder| (holder, entry.process, term)));
        Lease {
            key,
            noted: noted.map(|holder| (holder, entry.process)),
        }
    }

    /// Strikes it out; the bell is to be rung when the nodes have the token back.
    pub fn leave(self) -> Bell {
        if let Some((holder, process)) = self.noted {
            HELD.set(None);
            // A forked child has it, too, but it is not its own.
            if process == own() {
                holder.leave(process);
            }
        }
        Bell { key: self.key }
    }
}

/// What wakes a waiter of a turn.
#[derive(Debug)]
pub struct Bell {
    key: u64,
}

impl Bell {
    /// Wakes one waiter of this host.
    pub fn ring(self) {
        if let Some(bench) = shared::turns().and_then(|turns| turns.bench(self.key)) {
            bench.ring(self.key);
        }
    }
}

/// One waiter for a turn.
#[derive(Debug)]
pub struct Queue {
    at: Option<(&'static Turns, &'static Bench)>,
    key: u64,
    bell: u32,
    /// It asks the nodes for all waiters of this host.
    polls: bool,
    /// Milliseconds as `shared::now`.
    end: u64,
    /// The turn of which it was said that it is over: said once, or the nodes would be asked
    /// without a pause where theirs is another.
    told: Option<[u64; 2]>,
}

impl Queue {
    /// A waiter who gives up after `wait`; to be made before the nodes are asked.
    pub fn new(key: u64, wait: Duration) -> Queue {
        Queue::at(shared::turns(), key, wait)
    }

    fn at(turns: Option<&'static Turns>, key: u64, wait: Duration) -> Queue {
        let at = turns.and_then(|turns| Some((turns, turns.bench(key)?)));
        let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Queue {
            bell: at.map_or(0, |(_, bench)| bench.bell()),
            at,
            key,
            polls: false,
            end: now().saturating_add(wait),
            told: None,
        }
    }

    /// Waits until the nodes should be asked again: after `limit`, where this waiter is the
    /// one who asks for all; sooner, when a holder of this host lets go, is gone, or is past
    /// its lease. Says what is known of that holder.
    ///
    /// Who `holds` a part of the turn asks beside the one who asks for all: that one would
    /// never get the rest, and no bell would ring for the holder of a part.
    pub fn wait(&mut self, limit: Duration, holds: bool) -> Option<Neighbour> {
        let Some((turns, bench)) = self.at else {
            transport::pause(limit);
            return None;
        };
        let begun = now();
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        loop {
            let now = now();
            let neighbour = neighbour(turns, self.key, now);
            // Whose holder works on this host hears the bell; the nodes are asked only in case
            // that another host took the turn over.
            let works = neighbour.is_some_and(|neighbour| !neighbour.over);
            let until = begun.saturating_add(if works { limit.max(LOOK) } else { limit });
            let over = neighbour.filter(|neighbour| neighbour.over);
            let over = over.map(|neighbour| neighbour.marks);
            if over.is_some() && over != self.told {
                self.told = over;
                return neighbour;
            }
            if now >= self.end || (self.polls || holds) && now >= until {
                return neighbour;
            }
            let claim = until.max(now) + LATE;
            let pause = if self.polls {
                bench.poll_on(self.key, claim);
                until - now
            } else if holds {
                until - now
            } else {
                match bench.poll(self.key, now, claim) {
                    Ok(()) => {
                        self.polls = true;
                        continue;
                    }
                    Err(other) => other.saturating_sub(now).clamp(1, LOOK),
                }
            };
            let pause = Duration::from_millis(pause.min(self.end - now));
            let woken = bench.wait(self.key, self.bell, pause);
            self.bell = bench.bell();
            if woken == Woken::Rung {
                return self::neighbour(turns, self.key, shared::now());
            }
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // Who breaks off in the middle says no more than who is killed: others are late to ask.
        if let (true, Some((_, bench))) = (self.polls && !std::thread::panicking(), self.at) {
            bench.poll_on(self.key, 0);
        }
    }
}

/// What this host knows of who holds `key`.
fn neighbour(turns: &Turns, key: u64, now: u64) -> Option<Neighbour> {
    let entry = turns.holder(key)?;
    Some(Neighbour {
        marks: entry.marks,
        over: entry.until <= now || entry.process.is_gone(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::shared::turns::empty;
    use std::time::Instant;

    const LONG: Duration = Duration::from_secs(60);
    const KEY: u64 = 77;

    fn entry(until: u64) -> Entry {
        Entry {
            process: Process::own(),
            until,
            marks: [4, 0],
        }
    }

    #[test]
    fn a_lease_is_as_long_as_the_longest_that_counts() {
        let seconds = Duration::from_secs;
        assert_eq!(term(seconds(15), seconds(0)), LEAST);
        assert_eq!(term(seconds(90), seconds(60)), seconds(90));
        assert_eq!(term(seconds(15), seconds(60)), seconds(60));
        assert_eq!(term(seconds(15), seconds(86_400)), MOST);
    }

    #[test]
    fn names_differ_when_any_part_does() {
        let of = |parts: &[&str]| name(parts.iter().map(|part| part.as_bytes()));
        assert_ne!(of(&["~r", "ab", "c"]), of(&["~r", "a", "bc"]));
        assert_ne!(of(&["~r", "ab"]), of(&["~r:x", "ab"]));
        assert_eq!(of(&["~r", "ab"]), of(&["~r", "ab"]));
    }

    #[test]
    fn who_waits_hears_at_once_that_the_holder_is_past_its_lease_and_only_once() {
        let turns = empty();
        turns.hold(KEY, entry(1)).unwrap();
        let mut queue = Queue::at(Some(turns), KEY, LONG);
        let over = Neighbour {
            marks: [4, 0],
            over: true,
        };
        assert_eq!(queue.wait(LONG, false), Some(over));
        // Where the nodes say that another has it, they are asked in pauses as ever.
        let pause = Duration::from_millis(20);
        let since = Instant::now();
        assert_eq!(queue.wait(pause, false), Some(over));
        assert!(since.elapsed() >= Duration::from_millis(19));
    }

    #[test]
    fn a_holder_that_works_and_calls_keeps_its_turn() {
        let turns = empty();
        let place = turns.hold(KEY, entry(now() + 10)).unwrap();
        let mut queue = Queue::at(Some(turns), KEY, LONG);
        HELD.set(Some((place, own(), 60_000)));
        call();
        HELD.set(None);
        let pause = Duration::from_millis(1);
        let works = Neighbour {
            marks: [4, 0],
            over: false,
        };
        let since = Instant::now();
        assert_eq!(queue.wait(pause, false), Some(works));
        assert!(since.elapsed() >= Duration::from_millis(LOOK - 1));
        place.leave(Process::own());
        assert_eq!(queue.wait(pause, false), None);
    }

    #[test]
    fn the_bell_ends_a_wait_even_if_it_rang_before() {
        let turns = empty();
        let mut queue = Queue::at(Some(turns), KEY, LONG);
        turns.bench(KEY).unwrap().ring(KEY);
        assert_eq!(queue.wait(LONG, false), None);
    }

    #[test]
    fn only_one_waiter_of_a_host_comes_back_to_ask_until_it_stops() {
        let turns = empty();
        let mut first = Queue::at(Some(turns), KEY, LONG);
        let pause = Duration::from_millis(5);
        first.wait(pause, false);
        assert!(first.polls);
        let second = std::thread::spawn(move || {
            Queue::at(Some(turns), KEY, LONG).wait(Duration::from_millis(5), false);
        });
        for _ in 0..20 {
            first.wait(pause, false);
            assert!(!second.is_finished(), "it asks beside the first");
        }
        drop(first);
        second.join().unwrap();
    }

    #[test]
    fn a_wait_ends_when_its_time_is_up_though_another_asks() {
        let turns = empty();
        let mut first = Queue::at(Some(turns), KEY, LONG);
        first.wait(Duration::from_millis(1), false);
        let limit = Duration::from_millis(30);
        let mut second = Queue::at(Some(turns), KEY, limit);
        let since = Instant::now();
        second.wait(Duration::from_millis(1), false);
        assert!(since.elapsed() < Duration::from_secs(30) && !second.polls);
    }

    #[test]
    fn who_holds_a_part_of_the_turn_asks_beside_the_one_who_asks_for_all() {
        let turns = empty();
        let pause = Duration::from_millis(5);
        let mut first = Queue::at(Some(turns), KEY, LONG);
        first.wait(pause, false);
        let mut second = Queue::at(Some(turns), KEY, LONG);
        let since = Instant::now();
        assert_eq!(second.wait(pause, true), None);
        assert!(since.elapsed() < Duration::from_secs(30) && !second.polls);
    }
}
