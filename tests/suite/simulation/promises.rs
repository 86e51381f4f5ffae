//! What copied sessions promise, by chance: many seeds, faults of every kind, nothing lost.
//!
//! The limits stand beside the promises: what is not promised is tried, too, so that it is
//! known how much goes wrong there.

use memring_pool::replica::Rules;

use super::clients::{Pool, play};
use super::faults::{Fault, Kind, Plan};
use super::{Tally, sweep};

/// A rule's name, and what switches it off.
type Switch = (&'static str, fn(&mut Rules));

/// Far enough apart for a resync.
pub(super) const APART: Plan = Plan::Draw {
    kinds: Kind::PROMISED,
    row: 1,
    pause: 1000,
};

/// What `count` seeds come to.
pub(super) fn seeds(name: &str, count: u64, pool: &Pool) -> Tally {
    let tally = sweep(count, |seed, trace| play(pool, seed, trace));
    println!("{name} {:?}: {tally}", pool.nodes);
    tally
}

/// No seed may show a violation, and most changes must succeed.
pub(super) fn keeps(name: &str, count: u64, pool: &Pool) {
    let tally = seeds(name, count, pool);
    assert!(
        tally.single || tally.counts.acked * 2 > tally.counts.changes,
        "{name}: {tally}"
    );
    assert!(tally.single || tally.bad == 0, "{name}: {tally}");
}

#[test]
fn without_faults_nothing_is_lost_and_nothing_refused() {
    for nodes in [&[true; 3], &[false; 3]] {
        keeps("calm", 6, &Pool::new(nodes, 3, Plan::Calm));
    }
}

#[test]
fn three_copies_lose_nothing_to_one_fault_at_a_time() {
    keeps("three copies", 15, &Pool::new(&[true; 3], 3, APART));
}

#[test]
fn three_copies_lose_nothing_on_servers_without_versions() {
    keeps("three copies", 15, &Pool::new(&[false; 3], 3, APART));
}

#[test]
fn three_copies_lose_nothing_on_old_and_new_servers_mixed() {
    let mixed = [true, false, true];
    keeps("three copies", 15, &Pool::new(&mixed, 3, APART));
}

/// The third node has word of each write, not its value.
#[test]
fn two_copies_and_word_on_a_third_node_lose_nothing_to_one_fault_at_a_time() {
    keeps("two copies", 15, &Pool::new(&[true; 3], 2, APART));
}

#[test]
fn two_copies_and_word_on_a_third_node_lose_nothing_on_servers_without_versions() {
    keeps("two copies", 15, &Pool::new(&[false; 3], 2, APART));
}

/// The second fault begins when the first ends, before anything was mended.
#[test]
fn three_copies_lose_nothing_to_two_faults_in_a_row() {
    let plan = Plan::Draw {
        kinds: Kind::MODEL,
        row: 2,
        pause: 1000,
    };
    let old_and_new = [&[true; 3], &[false; 3]];
    for nodes in old_and_new {
        keeps("two in a row", 12, &Pool::new(nodes, 3, plan.clone()));
    }
}

#[test]
fn three_copies_outlive_the_evictions_of_one_node() {
    let evict = (7000, Fault::Evict { node: 1 }, 0);
    let plan = Plan::Script(vec![evict]);
    keeps("evictions", 15, &Pool::new(&[true; 3], 3, plan));
}

/// Two nodes are no majority: the limit as it is.
#[test]
fn two_nodes_killed_in_turn_lose_a_session_in_few_runs() {
    let plan = Plan::Draw {
        kinds: &[Kind::Crash],
        row: 1,
        pause: 1000,
    };
    let tally = seeds("two nodes", 40, &Pool::new(&[true, false], 2, plan));
    assert!(tally.single || tally.bad <= 2, "{tally}");
}

#[test]
fn without_fences_tombstones_or_their_long_life_sessions_are_lost_or_revived() {
    let off: [Switch; 3] = [
        ("fence", |rules| rules.fence = false),
        ("tombstone", |rules| rules.tombstone = false),
        ("tombstone_life", |rules| rules.tombstone_life = false),
    ];
    for (name, switch) in off {
        let mut pool = Pool::new(&[true; 3], 3, APART);
        switch(&mut pool.rules);
        let tally = seeds(name, 25, &pool);
        assert!(
            tally.single || tally.bad > 0,
            "nothing goes wrong without {name}"
        );
    }
}
