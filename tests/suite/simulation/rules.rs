//! Each protective rule, switched off: something goes wrong that does not with it.
//!
//! Chance finds some of it only in thousands of seeds, so each rule has a script that leads
//! straight there; only the network's delays and the order of events are left to chance. The
//! same script must hold with the rule, on servers with versions and without.
//!
//! Key 0 prefers the nodes 0, 1, 2 in this order, and so does key 3; key 1 begins with node 1.

use memring_pool::replica::Rules;

use super::clients::{Act, LEASE, Pool, Role, play};
use super::faults::{Fault, Plan, Way};
use super::files::Step;
use super::history::Violation;
use super::sweep;

mod admission;

/// Seeds of each script.
const SEEDS: u64 = 40;

/// A script on three nodes: what goes wrong, and who does what meanwhile.
pub(super) fn script(faults: Vec<(u64, Fault, u64)>, cast: Vec<Role>) -> Pool {
    let last = |role: &Role| role.acts.last().map_or(0, |(time, _)| *time);
    let duration = cast.iter().map(last).max().unwrap_or(0) + 500;
    Pool {
        cast,
        duration,
        ..Pool::new(&[true; 3], 3, Plan::Script(faults))
    }
}

/// A worker whose clock is off by so many milliseconds.
pub(super) fn role(clock: i64, acts: &[(u64, Act)]) -> Role {
    Role {
        clock,
        acts: acts.to_vec(),
        file: u64::MAX,
    }
}

/// The two nodes that are up die one after the other, with no time to mend in between.
pub(super) fn two_die(begin: u64, nodes: [usize; 2]) -> [(u64, Fault, u64); 2] {
    let [one, two] = nodes;
    [
        (begin, Fault::Crash { node: one }, 100),
        (begin + 110, Fault::Crash { node: two }, 100),
    ]
}

/// These clients' requests do not reach the node.
pub(super) fn unheard(node: usize, clients: &[usize]) -> Fault {
    Fault::Partition {
        node,
        clients: clients.to_vec(),
        ways: vec![Way::There],
    }
}

fn needs(name: &str, switch: fn(&mut Rules), kinds: &[Violation], pool: &Pool) {
    for has_e in [true, false] {
        needs_on(has_e, name, switch, kinds, pool);
    }
}

/// On servers of one kind: with versions, or without.
fn needs_on(has_e: bool, name: &str, switch: fn(&mut Rules), kinds: &[Violation], pool: &Pool) {
    let count = if pool.step.is_some() { 4 } else { 3 };
    let nodes = vec![has_e; count];
    let mut pool = Pool {
        nodes: nodes.clone(),
        ..pool.clone()
    };
    let with = sweep(SEEDS, |seed, trace| play(&pool, seed, trace));
    println!("with {name} {nodes:?}: {with}");
    switch(&mut pool.rules);
    let without = sweep(SEEDS, |seed, trace| play(&pool, seed, trace));
    println!("without {name} {nodes:?}: {without}");
    // The scripts break more than one thing at a time, which may cost two writers both their turns.
    assert!(with.single || with.keeps_all(), "with {name}: {with}");
    for kind in kinds {
        assert!(
            without.single || without.of(*kind) > 0,
            "without {name} nothing is {kind}: {without}"
        );
    }
}

/// A write that failed lies on a node alone with a version from a clock that is ahead; the
/// node is away while others write on. What it has when it is back is of an earlier life.
#[test]
fn without_incarnations_a_failed_write_wins_over_later_ones() {
    let pool = script(
        vec![
            (2000, unheard(1, &[1]), 700),
            (2000, unheard(2, &[1]), 700),
            (2250, Fault::Hang { node: 0 }, LEASE + 2000),
        ],
        vec![
            role(-300_000, &[(1000, Act::Open(0)), (1010, Act::Write)]),
            role(300_000, &[(1900, Act::Open(0)), (2100, Act::Write)]),
            role(-300_000, &[(2900, Act::Open(0)), (2910, Act::Write)]),
            role(0, &[(6000 + LEASE, Act::Look(0))]),
        ],
    );
    needs(
        "incarnation",
        |rules| rules.incarnation = false,
        &[Violation::Older],
        &pool,
    );
}

/// Two whose clocks are behind write on the same value, one of them after he lost his turn.
#[test]
fn without_tags_two_writers_of_one_version_both_believe_they_wrote() {
    let pool = script(
        vec![],
        vec![
            role(300_000, &[(1000, Act::Open(0)), (1010, Act::Write)]),
            role(0, &[(1500, Act::Open(0)), (2100 + LEASE, Act::Write)]),
            role(
                -300_000,
                &[(1600, Act::Open(0)), (2000 + LEASE, Act::Write)],
            ),
        ],
    );
    needs(
        "tag",
        |rules| rules.tag = false,
        &[Violation::TwoOwners],
        &pool,
    );
}

/// A node is emptied while it is being mended, and somebody gives it a record again: what was
/// copied to it before is gone. The other two die later.
#[test]
fn without_a_comparison_on_trust_a_node_is_believed_that_lost_its_copies_again() {
    let mut faults = vec![
        (2000, Fault::Crash { node: 0 }, 50),
        (2000, Fault::Slow { node: 0, by: 60 }, 2500),
        (2700, Fault::Flush { node: 0 }, 0),
    ];
    faults.extend(two_die(9000, [1, 2]));
    let fill = (0..24).flat_map(|step| {
        let (key, time) = (step / 3, 300 + u64::from(step) * 50);
        [(time, Act::Open(key)), (time, Act::Write)]
    });
    let looks = (0..40).map(|step| (2200 + step * 40, Act::Look(7)));
    let pool = script(
        faults,
        vec![
            role(0, &fill.collect::<Vec<_>>()),
            role(0, &looks.collect::<Vec<_>>()),
            role(0, &[(9600, Act::Look(0))]),
        ],
    );
    needs(
        "cas_on_trust",
        |rules| rules.cas_on_trust = false,
        &[Violation::Lost],
        &pool,
    );
}

/// A write goes without a node that hangs; later the two that have it die.
#[test]
fn without_the_list_of_absent_nodes_an_older_value_is_believed() {
    let mut faults = vec![(2000, Fault::Hang { node: 0 }, 1500)];
    faults.extend(two_die(7000, [1, 2]));
    let pool = script(
        faults,
        vec![
            role(0, &[(1000, Act::Open(0)), (1010, Act::Write)]),
            role(0, &[(2100, Act::Open(0)), (2110, Act::Write)]),
            role(0, &[(7250, Act::Look(0))]),
        ],
    );
    needs(
        "absent",
        |rules| rules.absent = false,
        &[Violation::Older],
        &pool,
    );
}

/// A write that reached one node only is read, and then that node is away.
#[test]
fn without_repair_what_was_read_once_is_gone_with_the_node_that_had_it() {
    let pool = script(
        vec![
            (2000, unheard(1, &[1]), 500),
            (2000, unheard(2, &[1]), 500),
            (4000, Fault::Hang { node: 0 }, 1500),
        ],
        vec![
            role(0, &[(1000, Act::Open(0)), (1010, Act::Write)]),
            role(0, &[(1900, Act::Open(0)), (2100, Act::Write)]),
            role(0, &[(3000, Act::Look(0)), (4500, Act::Look(0))]),
        ],
    );
    needs(
        "repair",
        |rules| rules.repair = false,
        &[Violation::Older],
        &pool,
    );
}

/// Two copies on three nodes: one of the two asked first is away. (Of three copies all are
/// asked at once, so there the rule has nothing to do.)
#[test]
fn without_a_third_read_a_visitor_is_refused_though_two_nodes_could_tell() {
    let pool = script(
        vec![(2000, Fault::Hang { node: 0 }, 1500)],
        vec![role(0, &[(2500, Act::Look(0)), (3000, Act::Look(3))])],
    );
    needs(
        "third_read",
        |rules| rules.third_read = false,
        &[Violation::Refused],
        &Pool { asked: 2, ..pool },
    );
}

/// A turn is taken over and the session written. One of its nodes was empty meanwhile and has counted
/// up again, to what who lost the turn read there: he comes back, and then the other one dies.
#[test]
fn without_a_look_first_a_late_write_goes_over_a_cas_value_that_a_server_has_counted_up_to_again() {
    let rounds = |begin: u64, count: u64, key| {
        let each = move |round| {
            let time = begin + 40 * round;
            [(time, Act::Open(key)), (time + 20, Act::Write)]
        };
        (0..count).flat_map(each).collect::<Vec<_>>()
    };
    let late = 2000 + LEASE;
    // One write fewer than before: what mended the node and who took the turn counted, too.
    let pool = script(
        vec![
            (1600, Fault::Crash { node: 0 }, 100),
            (late + 1040, Fault::Crash { node: 1 }, 100),
        ],
        vec![
            role(0, &rounds(300, 12, 0)),
            role(0, &[(1500, Act::Open(0)), (late + 1000, Act::Write)]),
            role(0, &rounds(1550, 11, 0)),
            role(0, &[(late + 3000, Act::Look(0))]),
        ],
    );
    needs_on(
        false,
        "confirm",
        |rules| rules.confirm = false,
        &[Violation::Lost],
        &Pool { copies: 2, ..pool },
    );
}

/// Of two copies one does not get there, and the node of the other dies before it does.
#[test]
fn without_the_value_in_place_of_word_a_session_is_gone_with_the_one_node_that_had_it() {
    let pool = script(
        vec![
            (2050, Fault::Hang { node: 1 }, 1500),
            (2600, Fault::Crash { node: 0 }, 100),
        ],
        vec![
            role(0, &[(2000, Act::Open(0)), (2100, Act::Write)]),
            role(0, &[(9000, Act::Look(0))]),
        ],
    );
    needs(
        "fill",
        |rules| rules.fill = false,
        &[Violation::Lost],
        &Pool { copies: 2, ..pool },
    );
}

/// A host with the new list gave the value to all but the last of it. By the old one the last but
/// one gets word: of the two that are to have the next value one was mended meanwhile and is full, and
/// one leaves and dies.
#[test]
fn without_the_values_before_word_that_takes_one_away_a_session_is_gone() {
    let with = |file, acts: &[(u64, Act)]| Role {
        file,
        ..role(0, acts)
    };
    let pool = script(
        vec![
            (2050, Fault::Crash { node: 2 }, 100),
            (4000, Fault::Full { node: 2 }, 300),
            (4000, Fault::Crash { node: 3 }, 500),
        ],
        vec![
            with(500, &[(1000, Act::Open(0)), (1100, Act::Write)]),
            with(u64::MAX, &[(2000, Act::Open(0)), (4100, Act::Write)]),
            with(500, &[(9000, Act::Look(0))]),
        ],
    );
    needs(
        "word_last",
        |rules| rules.word_last = false,
        &[Violation::Lost],
        &Pool {
            copies: 2,
            step: Some(Step::Removes),
            ..pool
        },
    );
}

/// Both nodes that have the value are away; the third has word of it.
#[test]
fn without_word_of_a_write_who_has_none_of_its_value_says_that_there_is_nothing() {
    let pool = script(
        vec![
            (2000, Fault::Hang { node: 0 }, 1500),
            (2000, Fault::Hang { node: 1 }, 1500),
        ],
        vec![
            role(0, &[(1000, Act::Open(0)), (1100, Act::Write)]),
            role(0, &[(2500, Act::Look(0))]),
        ],
    );
    needs(
        "word",
        |rules| rules.word = false,
        &[Violation::Lost],
        &Pool { copies: 2, ..pool },
    );
}

/// Two nodes come back empty, one long after the other, and nobody mends them.
#[test]
fn without_resync_nodes_that_were_empty_once_are_never_believed_again() {
    let pool = script(
        vec![
            (2000, Fault::Crash { node: 0 }, 100),
            (5000, Fault::Crash { node: 1 }, 100),
        ],
        vec![role(
            0,
            &[
                (1000, Act::Open(0)),
                (1010, Act::Write),
                (8000, Act::Look(3)),
            ],
        )],
    );
    needs(
        "resync",
        |rules| rules.resync = false,
        &[Violation::Refused],
        &pool,
    );
}

/// A node comes back with a dump as old as its record, in which it is trusted, and no write
/// went without it. Then the two that had the newest die.
fn old_dump(also: &[(u64, Fault, u64)], visits: Vec<Role>) -> Pool {
    let mut faults = vec![(2000, Fault::Old { node: 0, age: 600 }, 200)];
    faults.extend(also.iter().cloned());
    faults.extend(two_die(7000, [1, 2]));
    let writes = role(
        0,
        &[
            (900, Act::Open(0)),
            (910, Act::Write),
            (1000, Act::Open(3)),
            (1010, Act::Write),
            (2100, Act::Open(0)),
            (2110, Act::Write),
            (2200, Act::Open(3)),
            (2210, Act::Write),
        ],
    );
    let cast = [writes].into_iter().chain(visits);
    let looks = role(0, &[(7250, Act::Look(3))]);
    script(faults, cast.chain([looks]).collect())
}

/// Nobody visits a session that would show it, but tend sees another process.
#[test]
fn without_the_look_at_processes_an_old_dump_that_no_visit_shows_is_believed() {
    needs(
        "process",
        |rules| rules.process = false,
        &[Violation::Older],
        &old_dump(&[], vec![]),
    );
}

/// Tend began anew and knows of no other process. One session shows it, all are mended.
#[test]
fn without_the_look_at_who_is_behind_an_old_dump_with_its_old_record_is_believed() {
    let tend_begins_anew = (2700, Fault::Kill { client: 3 }, 50);
    let visit = role(0, &[(3500, Act::Open(0)), (3510, Act::Touch)]);
    needs(
        "behind",
        |rules| rules.behind = false,
        &[Violation::Older],
        &old_dump(&[tend_begins_anew], vec![visit]),
    );
}

/// A turn is taken over, and its old owner closes late, with a clock that is ahead: he loses.
/// One node came back empty and takes what he says; before he has heard it from all nodes and
/// takes it back, others read it.
#[test]
fn without_the_last_turn_for_reborn_nodes_the_loser_of_a_race_is_read_there() {
    let taken = 1500 + LEASE;
    let looks = (0..8).map(|look| (taken + 90 + look * 10, Act::Look(0)));
    let pool = script(
        vec![
            (taken, Fault::Crash { node: 0 }, 50),
            (taken + 75, Fault::Slow { node: 1, by: 80 }, 500),
        ],
        vec![
            role(
                300_000,
                &[
                    (900, Act::Open(0)),
                    (910, Act::Write),
                    (1000, Act::Open(0)),
                    (taken + 80, Act::Write),
                ],
            ),
            role(-300_000, &[(1010, Act::Open(0)), (taken - 50, Act::Write)]),
            // This one gives the node its record.
            role(0, &[(taken + 55, Act::Look(3))]),
            role(0, &looks.collect::<Vec<_>>()),
        ],
    );
    // Who looks before a late write sees that the node came back, as long as it is back by then.
    let rules = Rules {
        confirm: false,
        ..pool.rules
    };
    needs(
        "late",
        |rules| rules.late = false,
        &[Violation::Older],
        &Pool { rules, ..pool },
    );
}

/// A turn is taken over, and its old owner, whose clock is ahead, closes while the new one does.
/// Many look meanwhile, and later.
fn late_owner(faults: &[(u64, Fault, u64)], also: Option<Role>) -> Pool {
    let writes = |clock, open, write| role(clock, &[(open, Act::Open(1)), (write, Act::Write)]);
    let cast = [
        writes(0, 900, 910),
        writes(300_000, 1520, TAKEN + 200),
        writes(0, 1700, TAKEN + 205),
    ];
    let looks = (200..=212).step_by(2).map(|at| {
        let at = TAKEN + at;
        role(0, &[(at, Act::Look(1)), (at + 400, Act::Look(1))])
    });
    let slow = (TAKEN + 198, Fault::Slow { node: 0, by: 40 }, 60);
    let faults = [faults, &[slow]].concat();
    script(faults, cast.into_iter().chain(also).chain(looks).collect())
}

/// When the turn of the old owner is over.
const TAKEN: u64 = 1700 + LEASE;

/// The turn was his on two nodes. On the third somebody who waited touched the item, so there he
/// has to write again, over what is no newer than what he read. (With versions a takeover shows.)
#[test]
fn without_the_last_turn_for_what_was_not_held_the_loser_of_a_race_is_read_there() {
    let alone = [(1490, unheard(1, &[3]), 15), (1490, unheard(0, &[3]), 15)];
    let waits = role(0, &[(1500, Act::Open(1)), (1650, Act::Touch)]);
    needs_on(
        false,
        "late",
        |rules| rules.late = false,
        &[Violation::Older],
        &at_once(late_owner(&alone, Some(waits))),
    );
}

/// One node was late to say that the turn on it was taken, so there it is not yet over. (With
/// versions a takeover makes one that is not there, and it is repaired.)
#[test]
fn without_takeovers_on_all_nodes_the_old_owner_is_read_on_the_last() {
    let late = [(1698, Fault::Slow { node: 0, by: 90 }, 20)];
    needs_on(
        false,
        "takeover",
        |rules| rules.takeover = false,
        &[Violation::Older],
        &at_once(late_owner(&late, None)),
    );
}

/// One node cannot be told that the turn is over: the new owner does not reach it.
#[test]
fn without_a_moment_for_what_lies_on_one_node_the_old_owner_is_read_there() {
    needs(
        "moment",
        |rules| rules.moment = false,
        &[Violation::Older],
        &late_owner(&[(TAKEN - 100, unheard(0, &[2]), 700)], None),
    );
}

/// Nobody waits for what lies on one node alone, nor looks before a late write: the other rules have
/// to do.
fn at_once(pool: Pool) -> Pool {
    let rules = Rules {
        moment: false,
        confirm: false,
        ..pool.rules
    };
    Pool { rules, ..pool }
}

/// Somebody has the turn on two nodes, of which one loses its memory and is mended. Another
/// gets the turn there and on the third, and writes. The first one's write reaches the one node
/// that still knows him, from where readers bring it further before he takes it back.
fn given_twice(first: Option<Role>) -> Pool {
    let look = |at: u64| role(0, &[(at, Act::Look(1)), (at + 300, Act::Look(1))]);
    let first = first.unwrap_or_else(|| role(0, &[]));
    let pool = script(
        vec![
            (1450, unheard(2, &[1]), 300),
            (2000, Fault::Crash { node: 0 }, 50),
            (3600, unheard(1, &[2]), 200),
        ],
        vec![
            first,
            role(300_000, &[(1500, Act::Open(1)), (3608, Act::Write)]),
            role(0, &[(3500, Act::Open(1)), (3605, Act::Write)]),
            look(3610),
            look(3612),
            look(3614),
        ],
    );
    at_once(pool)
}

#[test]
fn without_a_word_for_elders_a_turn_is_given_twice_after_a_mend() {
    let first = role(0, &[(900, Act::Open(1)), (910, Act::Write)]);
    // A session that is there, and one of which there is only the turn.
    for first in [Some(first), None] {
        needs(
            "elders",
            |rules| rules.elders = false,
            &[Violation::Older],
            &given_twice(first),
        );
    }
}

/// A host with the old list writes while one node is away, and then another one is: of the new
/// list are left the one that missed it, and one that nobody with the old list knows.
#[test]
fn without_both_lists_what_a_host_with_the_old_file_wrote_is_not_found() {
    let with = |file, acts: &[(u64, Act)]| Role {
        file,
        ..role(0, acts)
    };
    let never = u64::MAX;
    let faults = vec![
        (6000, Fault::Hang { node: 1 }, 500),
        (6500, Fault::Hang { node: 0 }, 1500),
    ];
    let pool = script(
        faults,
        vec![
            with(never, &[(1000, Act::Open(0)), (1010, Act::Write)]),
            with(never, &[(6100, Act::Open(0)), (6110, Act::Write)]),
            with(2000, &[(6600, Act::Look(0)), (7000, Act::Look(0))]),
        ],
    );
    let pool = Pool {
        step: Some(Step::Replaces),
        ..pool
    };
    needs(
        "double_list",
        |rules| rules.double_list = false,
        &[Violation::Older],
        &pool,
    );
}
