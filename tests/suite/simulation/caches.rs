//! What the copies of a cache promise, by chance and under faults of every kind; and what they
//! do not, so that it is known how much goes wrong there.
//!
//! Promised are the rows of README's table. Faults come one at a time, and what the second of two
//! takes with it is excused (`values`). A cut-off node is cut off from everybody: hosts that
//! see different nodes are not promised anything (F13), nor is anything promised of a node that
//! comes back with a dump (F5), of hosts whose clocks are apart, or of two faults in a row (F14).

use memring_pool::config::Mode;
use memring_pool::pool::rules::Rules;

use super::faults::{Fault, Kind, Plan};
use super::history::Violation;
use super::visitors::{Cache, Do, Role, visit};
use super::{Tally, sweep_values};

/// What old copies show, and what they let happen.
const STALE: &[Violation] = &[
    Violation::Lost,
    Violation::Older,
    Violation::Revived,
    Violation::TwoOwners,
];

/// One fault, and time until what it cost is made good.
const APART: Plan = faults(&[
    Kind::Crash,
    Kind::Hang,
    Kind::Flush,
    Kind::Slow,
    Kind::Partition,
    Kind::Cut,
    Kind::Kill,
]);

const fn faults(kinds: &'static [Kind]) -> Plan {
    Plan::Draw {
        kinds,
        row: 1,
        pause: 2000,
    }
}

fn seeds(name: &str, count: u64, cache: &Cache) -> Tally {
    let tally = sweep_values(count, |seed, trace| visit(cache, seed, trace));
    println!("{name} {:?}: {tally}", cache.nodes);
    tally
}

/// No seed may show a violation, and most changes must succeed.
fn keeps(name: &str, count: u64, cache: &Cache) {
    let tally = seeds(name, count, cache);
    assert!(
        tally.single || tally.counts.acked * 2 > tally.counts.changes,
        "{name}: {tally}"
    );
    assert!(tally.single || tally.bad == 0, "{name}: {tally}");
}

/// Of these kinds and of no others there may be violations.
fn gives_up(name: &str, count: u64, cache: &Cache, kinds: &[Violation]) -> Tally {
    let tally = seeds(name, count, cache);
    let others = tally.kinds.keys().filter(|kind| !kinds.contains(kind));
    assert!(tally.single || others.count() == 0, "{name}: {tally}");
    tally
}

/// The same, and there must be some.
fn loses(name: &str, count: u64, cache: &Cache, kinds: &[Violation]) {
    let tally = gives_up(name, count, cache, kinds);
    assert!(tally.single || tally.bad > 0, "{name}: nothing goes wrong");
}

/// Threads and all.
#[test]
fn a_seed_is_the_same_run_each_time() {
    for mode in [Mode::Sync, Mode::Async] {
        let cache = Cache::new(mode, &[true, false, true], 2, APART);
        let once = || format!("{:?}", visit(&cache, 7, false));
        assert!(once() == once());
    }
}

#[test]
fn without_faults_copies_are_right_in_both_modes() {
    for mode in [Mode::Sync, Mode::Async] {
        for hosts in [1, 2] {
            let cache = Cache::new(mode, &[true, false, true], hosts, Plan::Calm);
            keeps("calm", 2, &cache);
        }
    }
}

#[test]
fn sync_loses_nothing_and_shows_nothing_old_with_one_fault_at_a_time() {
    keeps("sync", 14, &Cache::new(Mode::Sync, &[true; 3], 1, APART));
}

#[test]
fn sync_loses_nothing_on_servers_without_versions() {
    let mixed = [true, false, false];
    keeps("sync", 7, &Cache::new(Mode::Sync, &[false; 3], 1, APART));
    keeps("sync", 7, &Cache::new(Mode::Sync, &mixed, 1, APART));
}

#[test]
fn sync_loses_nothing_on_two_nodes() {
    keeps("sync", 10, &Cache::new(Mode::Sync, &[true; 2], 1, APART));
}

/// What one host knows that a node missed, another one does not: a probe's interval and a round
/// trip after the node's return it is given that.
#[test]
fn sync_on_two_hosts_shows_nothing_old_for_longer_than_a_probes_interval() {
    keeps(
        "two hosts",
        10,
        &Cache::new(Mode::Sync, &[true; 3], 2, APART),
    );
}

#[test]
fn async_gives_up_last_writes_and_old_copies_and_nothing_else() {
    for hosts in [1, 2] {
        let cache = Cache::new(Mode::Async, &[true, true, false], hosts, APART);
        gives_up("async", 7, &cache, STALE);
    }
}

/// A worker of a script, on the first host.
fn role(acts: &[(u64, Do)]) -> Role {
    Role {
        host: 0,
        acts: acts.to_vec(),
    }
}

fn script(mode: Mode, faults: Vec<(u64, Fault, u64)>, cast: Vec<Role>) -> Cache {
    let last = |role: &Role| role.acts.last().map_or(0, |(time, _)| *time);
    Cache {
        duration: cast.iter().map(last).max().unwrap_or(0) + 100,
        cast,
        strict: true,
        ..Cache::new(mode, &[true; 3], 1, Plan::Script(faults))
    }
}

/// Key 2 lies on node 1, and its copy on node 0.
const KEY: usize = 2;
const OWNER: usize = 1;
const COPY: usize = 0;

/// A worker dies before the copies of its last request are out, and with it the node that has them.
#[test]
fn async_loses_the_last_writes_before_a_crash() {
    let writes: Vec<(u64, Do)> = (0..50).map(|n| (500 + n, Do::Sets(KEY))).collect();
    let faults = vec![
        (545, Fault::Kill { client: 0 }, 0),
        (570, Fault::Crash { node: OWNER }, 100),
    ];
    let cast = vec![role(&writes), role(&[(1000, Do::Get(KEY))])];
    let cache = |mode| script(mode, faults.clone(), cast.clone());
    loses("async, a crash", 40, &cache(Mode::Async), STALE);
    keeps("sync, a crash", 40, &cache(Mode::Sync));
}

/// F14, before anybody read or wrote.
#[test]
fn sync_loses_what_two_nodes_in_a_row_had() {
    let crash = |at, node| (at, Fault::Crash { node }, 50);
    let faults = vec![crash(600, OWNER), crash(700, COPY)];
    let acts = [(500, Do::Set(KEY)), (2000, Do::Get(KEY))];
    let cache = script(Mode::Sync, faults, vec![role(&acts)]);
    loses("two in a row", 5, &cache, &[Violation::Lost]);
}

/// F5.
#[test]
fn sync_shows_what_a_node_has_that_is_back_with_a_dump() {
    let old = Fault::Old {
        node: OWNER,
        age: 300,
    };
    let acts = [
        (500, Do::Set(KEY)),
        (700, Do::Set(KEY)),
        (2000, Do::Get(KEY)),
    ];
    let cache = script(Mode::Sync, vec![(600, old, 50)], vec![role(&acts)]);
    loses("a dump", 5, &cache, &[Violation::Older]);
}

/// F13: one host does not reach the owner, and writes; the other one reads there.
#[test]
fn sync_on_hosts_that_see_different_nodes_serves_what_each_wrote() {
    let cut = Fault::Partition {
        node: OWNER,
        clients: vec![0, 2],
        ways: vec![super::faults::Way::There],
    };
    let reads = Role {
        host: 1,
        acts: vec![(1500, Do::Get(KEY))],
    };
    let writes = role(&[
        (500, Do::Set(KEY)),
        (800, Do::Set(KEY)),
        (1000, Do::Set(KEY)),
    ]);
    let cache = Cache {
        hosts: 2,
        apart: true,
        ..script(Mode::Sync, vec![(600, cut, 2000)], vec![writes, reads])
    };
    loses("split views", 5, &cache, &[Violation::Older]);
}

/// Seeds of each script.
const SEEDS: u64 = 60;

/// Switches a rule off; a violation of one of these kinds must be found, and none with it.
fn needs(name: &str, switch: fn(&mut Rules), kinds: &[Violation], cache: &Cache) {
    let mut cache = cache.clone();
    keeps(name, SEEDS, &cache);
    switch(&mut cache.rules);
    loses(&format!("without {name}"), SEEDS, &cache, kinds);
}

/// Readers who find nothing at the owner, and give it the copy's value, while somebody does this.
fn refills(act: Do) -> Cache {
    let flush = vec![(600, Fault::Flush { node: OWNER }, 0)];
    let reads = role(&[500, 800, 900].map(|at| (at, Do::Get(KEY))));
    let writes = role(&[(500, Do::Set(KEY)), (800, act)]);
    let cast = vec![writes, reads.clone(), reads.clone(), reads];
    script(Mode::Sync, flush, cast)
}

#[test]
fn without_tombstones_a_read_brings_back_what_was_deleted() {
    needs(
        "tombstone",
        |rules| rules.tombstone = false,
        &[Violation::Revived],
        &refills(Do::Delete(KEY)),
    );
}

#[test]
fn a_read_that_repairs_over_anything_takes_a_newer_value_away() {
    needs(
        "repair_over_seen",
        |rules| rules.repair_over_seen = false,
        &[Violation::Older],
        &refills(Do::Set(KEY)),
    );
}

/// The owner hangs, misses what these do, and goes on; then the value is read.
fn hangs(acts: &[(u64, Do)], reads: &[u64]) -> Cache {
    let hang = vec![(600, Fault::Hang { node: OWNER }, 1000)];
    let all = [&[(500, Do::Set(KEY))], acts].concat();
    let mut cast = vec![role(&all)];
    cast.extend(reads.iter().map(|at| role(&[(*at, Do::Get(KEY))])));
    script(Mode::Sync, hang, cast)
}

#[test]
fn without_hints_a_node_that_is_back_shows_what_it_had() {
    needs(
        "hint",
        |rules| rules.hint = false,
        &[Violation::Older],
        &hangs(&[(700, Do::Set(KEY)), (900, Do::Set(KEY))], &[2500]),
    );
}

#[test]
fn without_a_hint_of_the_flush_a_node_that_is_back_shows_what_was_flushed() {
    needs(
        "hint_of_flush",
        |rules| rules.hint_of_flush = false,
        &[Violation::Revived],
        &hangs(&[(700, Do::Get(KEY)), (900, Do::Flush)], &[2500]),
    );
}

/// The copy hears of a flush late. Who reads meanwhile gives the owner again what it still has.
#[test]
fn a_flush_that_one_node_hears_of_late_leaves_nothing_that_was_read_there_meanwhile() {
    let cut = Fault::Partition {
        node: COPY,
        clients: (0..40).collect(),
        ways: vec![super::faults::Way::There],
    };
    let mut cast = vec![role(&[(500, Do::Set(KEY)), (605, Do::Flush)])];
    cast.extend((0..10).map(|n| role(&[(500, Do::Get(KEY)), (686 + n * 2, Do::Get(KEY))])));
    cast.push(role(&[(2000, Do::Get(KEY))]));
    needs(
        "flush_again",
        |rules| rules.flush_again = false,
        &[Violation::Revived],
        &script(Mode::Sync, vec![(600, cut, 80)], cast),
    );
}

#[test]
fn a_node_that_is_given_what_it_missed_at_once_puts_what_lay_in_its_buffers_over_it() {
    let reads: Vec<u64> = (1600..1606).chain([1700, 1800]).collect();
    needs(
        "late",
        |rules| rules.late = false,
        &[Violation::Older],
        &hangs(&[(700, Do::Set(KEY)), (900, Do::Set(KEY))], &reads),
    );
}

#[test]
fn a_connection_that_is_given_up_and_not_aborted_brings_a_write_after_later_ones() {
    let cut = Fault::Partition {
        node: OWNER,
        clients: (0..3).collect(),
        ways: vec![super::faults::Way::There],
    };
    let acts = [
        (500, Do::Set(KEY)),
        (700, Do::Set(KEY)),
        (900, Do::Set(KEY)),
    ];
    let cast = vec![role(&acts), role(&[(6000, Do::Get(KEY))])];
    let mut cache = script(Mode::Sync, vec![(600, cut, 1000)], cast);
    keeps("abort", SEEDS, &cache);
    cache.deaf = true;
    loses("without abort", SEEDS, &cache, &[Violation::Older]);
}

/// The owner is slow to answer, is emptied before it did, and a read gives it what the copy still has.
#[test]
fn a_slow_write_is_looked_at_again_since_a_copy_may_have_lost_it_meanwhile() {
    let slow = Fault::Slow {
        node: OWNER,
        by: 90,
    };
    let acts = [
        (500, Do::Set(KEY)),
        (550, Do::Delete(KEY)),
        (650, Do::Add(KEY)),
    ];
    let mut cast = vec![role(&acts)];
    cast.extend((0..20).map(|n| role(&[(743 + n, Do::Get(KEY))])));
    cast.push(role(&[(2000, Do::Get(KEY))]));
    let faults = vec![(600, slow, 500), (742, Fault::Flush { node: OWNER }, 0)];
    needs(
        "confirm",
        |rules| rules.confirm = false,
        &[Violation::Lost],
        &script(Mode::Sync, faults, cast),
    );
}

/// A node that hung, and that tend has just seen answer, in the middle of a get that waits for another one.
#[test]
fn a_node_that_is_back_in_the_middle_of_a_call_is_not_asked_before_it_was_given_what_it_missed() {
    let hang = Fault::Hang { node: COPY };
    let slow = Fault::Slow {
        node: OWNER,
        by: 90,
    };
    let mut cast = vec![role(&[
        (500, Do::Set(KEY)),
        (700, Do::Get(KEY)),
        (900, Do::Flush),
    ])];
    cast.extend((0..40).map(|n| role(&[(980 + n * 10, Do::Get(KEY))])));
    let faults = vec![(600, hang, 500), (950, slow, 1000)];
    needs(
        "meanwhile",
        |rules| rules.meanwhile = false,
        &[Violation::Revived],
        &script(Mode::Sync, faults, cast),
    );
}

/// Some who count at the same time, and then the first node of that counter dies.
fn counts() -> Cache {
    let mut cast = vec![role(&[(400, Do::Count(1)), (500, Do::Count(1))]); 6];
    cast.push(role(&[(1000, Do::Count(1)), (1100, Do::Count(1))]));
    let crash = vec![(800, Fault::Crash { node: COPY }, 50)];
    script(Mode::Sync, crash, cast)
}

#[test]
fn without_the_look_before_it_two_count_to_the_same_number() {
    needs(
        "over_seen",
        |rules| rules.over_seen = false,
        &[Violation::TwoOwners, Violation::Older],
        &counts(),
    );
}

#[test]
fn a_copy_that_goes_over_a_newer_one_counts_backwards_when_the_first_node_dies() {
    needs(
        "newest",
        |rules| rules.newest = false,
        &[Violation::TwoOwners, Violation::Older],
        &counts(),
    );
}

/// The host that writes without the node has a clock that is behind.
#[test]
fn a_node_whose_version_is_higher_gives_up_what_it_has_all_the_same() {
    let hang = vec![(600, Fault::Hang { node: OWNER }, 1000)];
    let other = Role {
        host: 1,
        acts: vec![(700, Do::Get(KEY)), (900, Do::Set(KEY))],
    };
    let cast = vec![role(&[(500, Do::Set(KEY)), (4000, Do::Get(KEY))]), other];
    let cache = Cache {
        hosts: 2,
        clock: -60_000,
        ..script(Mode::Sync, hang, cast)
    };
    needs(
        "behind",
        |rules| rules.behind = false,
        &[Violation::Older],
        &cache,
    );
}

/// What the host writes that is behind counts as older than what it goes over, for whoever meets
/// both in the moment of the write.
#[test]
fn sync_on_hosts_whose_clocks_are_apart_gives_up_no_more_than_old_copies() {
    let cache = Cache {
        clock: -300_000,
        ..Cache::new(Mode::Sync, &[true; 3], 2, APART)
    };
    gives_up("clocks apart", 10, &cache, STALE);
}
