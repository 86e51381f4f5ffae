//! Nodes that list their keys to nobody: who lost its memory is trusted when all that it may lack has
//! ended, and not before.

use memring_pool::replica::TOMBSTONE_EXTRA;

use super::clients::{Act, Pool, Role, play};
use super::faults::{Fault, Plan};
use super::history::Violation;
use super::promises::keeps;
use super::sweep;

/// Seconds a session lives here, and how long a node waits for that.
const LIFE: u32 = 20;
const WAIT: u64 = LIFE as u64 + TOMBSTONE_EXTRA as u64 + 10;

/// Three nodes of which each crashes in turn, at these milliseconds.
fn crashes(times: [u64; 3], nodes: [bool; 3], wait: u64) -> Pool {
    let crash = |(node, at)| (at, Fault::Crash { node }, 500);
    let script = (0..).zip(times).map(crash).collect();
    Pool {
        life: LIFE,
        mute: Some(wait),
        duration: times[2] + 20_000,
        ..Pool::new(&nodes, 3, Plan::Script(script))
    }
}

#[test]
fn each_node_in_turn_comes_back_empty_and_waits_and_nothing_is_lost() {
    // Each is trusted some ten seconds before the next one goes.
    let round = (WAIT + 10) * 1000;
    let times = [5000, 5000 + round, 5000 + 2 * round];
    for nodes in [[true; 3], [false; 3]] {
        keeps("waits", 2, &crashes(times, nodes, WAIT));
    }
}

/// A session that nobody visits, and a look at it when all nodes have lost their memory: whether there was
/// one nobody knows then, and who says that there was none has it lost.
#[test]
fn without_the_wait_sessions_are_lost_that_nobody_visits() {
    for (wait, lost) in [(WAIT, false), (0, true)] {
        let mut pool = crashes([3000, 6000, 9000], [true; 3], wait);
        pool.cast = vec![Role {
            clock: 0,
            acts: vec![
                (1000, Act::New(0)),
                (1010, Act::Write),
                (12_000, Act::Look(0)),
            ],
            file: 0,
        }];
        let tally = sweep(6, |seed, trace| play(&pool, seed, trace));
        let found = tally.of(Violation::Lost) > 0;
        assert!(tally.single || found == lost, "{wait} s: {tally}");
    }
}
