//! Schedules that lead straight into the traps the protocol was built around.
//!
//! Each is the story of one way to lose a session, and each must end well, on servers with
//! versions, without, and mixed. What the same stories do without the rule that was made for
//! them stands in `rules`.

use std::ops::Range;

use memring_pool::replica::Rules;

use super::clients::{Act, LEASE, Pool, Role, play};
use super::faults::{Fault, Way};
use super::rules::{role, script, two_die, unheard};
use super::{Tally, sweep};

/// Seeds of each schedule.
const SEEDS: u64 = 6;

fn ends_well(pool: &Pool, acked: Range<u64>) {
    ends_well_in(SEEDS, pool, acked, |tally| tally.bad == 0);
}

fn ends_well_in(seeds: u64, pool: &Pool, acked: Range<u64>, fine: fn(&Tally) -> bool) {
    for nodes in [[true; 3], [false; 3], [false, true, false]] {
        let pool = Pool {
            nodes: nodes.to_vec(),
            ..pool.clone()
        };
        let tally = sweep(seeds, |seed, trace| play(&pool, seed, trace));
        println!("{nodes:?}: {tally}");
        assert!(tally.single || fine(&tally), "{nodes:?}: {tally}");
        // A schedule in which everything fails would prove nothing.
        let changes = tally.counts.acked;
        assert!(
            tally.single || acked.contains(&(changes / seeds)),
            "{changes} changes acknowledged in {seeds} seeds"
        );
    }
}

/// One after the other, each with its own write: keys, and the times of open and close.
fn writes(clock: i64, turns: &[(u32, u64, u64)]) -> Role {
    let acts = turns
        .iter()
        .flat_map(|(key, open, close)| [(*open, Act::Open(*key)), (*close, Act::Write)]);
    role(clock, &acts.collect::<Vec<_>>())
}

fn looks(times: impl IntoIterator<Item = u64>) -> Role {
    let acts: Vec<_> = times.into_iter().map(|time| (time, Act::Look(0))).collect();
    role(0, &acts)
}

#[test]
fn a_write_that_a_resumed_node_carries_out_late_wins_over_nothing() {
    let mut faults = vec![(2000, Fault::Hang { node: 0 }, 1500)];
    faults.extend(two_die(7000, [1, 2]));
    let cast = vec![
        writes(0, &[(0, 1000, 1010), (0, 1950, 2050)]),
        writes(0, &[(0, 2300, 2310), (0, 2700, 2710)]),
        looks((3450..3700).step_by(10).chain([7150, 7250, 7400])),
    ];
    ends_well(&script(faults, cast), 4..5);
}

#[test]
fn a_write_that_the_network_delivers_after_a_destroy_revives_nothing() {
    for node in 0..3 {
        let faults = vec![(2000, unheard(node, &[0]), 1500)];
        let cast = vec![
            writes(0, &[(0, 1950, 2050)]),
            role(0, &[(2400, Act::Open(0)), (2410, Act::Destroy)]),
            looks((3450..3700).step_by(10)),
        ];
        ends_well(&script(faults, cast), 2..3);
    }
}

#[test]
fn an_old_dump_with_its_old_record_brings_back_nothing() {
    // The second fault comes when the first is mended: in the dump, key 3 is not there at all.
    let faults = vec![
        (2000, Fault::Old { node: 0, age: 1500 }, 300),
        (9000, Fault::Hang { node: 1 }, 1000),
    ];
    let cast = vec![
        writes(0, &[(0, 1000, 1010), (0, 2500, 2510), (3, 2600, 2610)]),
        role(300_000, &[(3000, Act::Open(0)), (3010, Act::Destroy)]),
        looks((3750..4200).step_by(25).chain([9200, 9500, 9900])),
        role(0, &[(4300, Act::Look(3)), (9300, Act::Look(3))]),
    ];
    ends_well(&script(faults, cast), 4..5);
}

#[test]
fn whose_turn_was_taken_over_is_told_that_he_lost_whenever_he_closes() {
    // Before the taker has written, while he writes, and after.
    for close in [1100 + LEASE, 1599 + LEASE, 1600 + LEASE, 1700 + LEASE] {
        let cast = vec![
            writes(0, &[(0, 900, 950), (0, 1000, close)]),
            writes(-300_000, &[(0, 1010, 1600 + LEASE)]),
            looks([1800 + LEASE, 1900 + LEASE]),
        ];
        ends_well(&script(vec![], cast), 2..3);
    }
}

#[test]
fn a_taker_who_only_touches_fences_the_old_owner_all_the_same() {
    let cast = vec![
        writes(0, &[(0, 900, 950), (0, 1000, 1700 + LEASE)]),
        role(0, &[(1010, Act::Open(0)), (1400 + LEASE, Act::Touch)]),
        looks([1800 + LEASE, 1900 + LEASE]),
    ];
    // Whether or not the old owner is refused: whoever reads on reads one story.
    ends_well(&script(vec![], cast), 1..3);
}

#[test]
fn of_two_who_see_different_nodes_the_loser_is_never_acknowledged() {
    // One cannot hear the first node, the other cannot reach the last.
    let deaf = Fault::Partition {
        node: 0,
        clients: vec![0],
        ways: vec![Way::Back],
    };
    let faults = vec![(2000, deaf, 1500), (2000, unheard(2, &[1]), 1500)];
    let cast = vec![
        writes(300_000, &[(0, 2100, 2300), (0, 2800, 2810)]),
        writes(-300_000, &[(0, 2100, 2300), (0, 2800, 2810)]),
        looks((2200..4000).step_by(50)),
    ];
    ends_well(&script(faults, cast), 1..5);
}

#[test]
fn a_copy_that_comes_late_finds_the_tombstone_however_short_the_life() {
    let faults = vec![(2000, Fault::Hang { node: 0 }, 6000)];
    let cast = vec![
        writes(0, &[(0, 1000, 1010), (0, 1950, 2050)]),
        role(0, &[(2500, Act::Open(0)), (2510, Act::Destroy)]),
        looks((7900..9500).step_by(100)),
    ];
    let pool = Pool {
        life: 4,
        ..script(faults, cast)
    };
    ends_well(&pool, 3..4);
}

#[test]
fn a_hang_longer_than_a_session_lives_revives_nothing_and_loses_no_new_one() {
    let faults = vec![(2000, Fault::Hang { node: 0 }, 9000)];
    let cast = vec![
        writes(0, &[(0, 1000, 1010), (3, 1000, 1030)]),
        role(0, &[(2500, Act::Open(0)), (2510, Act::Destroy)]),
        writes(0, &[(0, 9500, 9510), (0, 11_500, 11_510)]),
        looks((10_900..12_000).step_by(100)),
    ];
    let pool = Pool {
        life: 3,
        ..script(faults, cast)
    };
    ends_well(&pool, 5..6);
}

#[test]
fn clocks_five_minutes_apart_keep_the_order_of_turns() {
    let cast = vec![
        writes(300_000, &[(0, 1000, 1010), (0, 1300, 1310)]),
        writes(-300_000, &[(0, 1100, 1110), (0, 1400, 1410)]),
        role(0, &[(1500, Act::Open(0)), (1510, Act::Destroy)]),
        role(-300_000, &[(1600, Act::New(0)), (1610, Act::Write)]),
        looks((1000..1800).step_by(20)),
    ];
    let clock = Fault::Clock {
        client: 0,
        by: -600_000,
    };
    ends_well(&script(vec![(1200, clock, 0)], cast), 6..7);
}

#[test]
fn a_new_visitor_is_served_though_two_nodes_do_not_answer() {
    let faults = vec![
        (2000, Fault::Hang { node: 0 }, 1500),
        (2000, Fault::Crash { node: 1 }, 1500),
    ];
    let cast = vec![
        role(0, &[(1000, Act::New(0)), (1010, Act::Write)]),
        role(0, &[(2500, Act::New(9)), (2900, Act::Write)]),
        role(0, &[(2600, Act::New(6)), (2700, Act::Touch)]),
    ];
    ends_well(&script(faults, cast), 1..2);
}

#[test]
fn a_flush_by_an_operator_costs_nothing_even_when_the_others_die_later() {
    let mut faults = vec![(2000, Fault::Flush { node: 1 }, 0)];
    faults.extend(two_die(7000, [0, 2]));
    let cast = vec![
        writes(0, &[(0, 900, 910), (1, 1000, 1010), (0, 1995, 2005)]),
        role(0, &[(1990, Act::Open(1)), (2010, Act::Destroy)]),
        looks((1990..2300).step_by(10).chain([7250, 7400])),
        role(0, &[(2050, Act::Look(1)), (7250, Act::Look(1))]),
    ];
    ends_well(&script(faults, cast), 4..5);
}

#[test]
fn a_node_full_of_tombstones_refuses_and_nothing_is_lost_or_revived() {
    for node in 0..3 {
        let faults = vec![
            (2000, Fault::Full { node }, 2000),
            (7000, Fault::Hang { node }, 1000),
        ];
        let cast = vec![
            writes(0, &[(0, 900, 910), (1, 1000, 1010), (0, 2500, 2510)]),
            role(0, &[(2200, Act::Open(1)), (2210, Act::Destroy)]),
            role(0, &[(2700, Act::Open(0)), (2710, Act::Touch)]),
            looks((2000..4000).step_by(100).chain([7500])),
            role(0, &[(2300, Act::Look(1)), (7500, Act::Look(1))]),
        ];
        ends_well(&script(faults, cast), 4..5);
    }
}

/// A store that finds no room takes away what was there: it makes room for what comes, and where
/// nothing came the node is not believed. (A token goes, too: now and then somebody is told so.)
#[test]
fn a_pool_that_is_full_refuses_and_nothing_is_lost() {
    let faults = (0..3).map(|node| (2000, Fault::Full { node }, 4000));
    let times = (0..40).map(|round| {
        let begin = 2050 + round * 100;
        (0, begin, begin + 20)
    });
    let times: Vec<_> = [(0, 900, 910), (1, 1000, 1010)]
        .into_iter()
        .chain(times)
        .collect();
    let cast = vec![
        writes(0, &times),
        role(0, &[(7400, Act::Look(0)), (7500, Act::Look(1))]),
    ];
    ends_well_in(
        200,
        &script(faults.collect(), cast),
        3..43,
        Tally::keeps_all,
    );
}

/// These nodes have no room from just before the old owner closes.
fn full_after_a_takeover(nodes: &[usize]) -> Vec<(u64, Fault, u64)> {
    let full = |node: &usize| (1650 + LEASE, Fault::Full { node: *node }, 1000);
    nodes.iter().map(full).collect()
}

/// What his write takes away on full nodes was not his.
#[test]
fn who_closes_after_his_lease_on_full_nodes_revives_nothing() {
    let cast = vec![
        writes(0, &[(0, 900, 950), (0, 1000, 1700 + LEASE)]),
        role(0, &[(1010, Act::Open(0)), (1600 + LEASE, Act::Destroy)]),
        looks([1800 + LEASE, 1900 + LEASE, 3000 + LEASE]),
    ];
    ends_well(&script(full_after_a_takeover(&[0, 1, 2]), cast), 1..3);
}

/// The session is new, so all that he knows of is a placeholder.
#[test]
fn who_loses_on_full_nodes_leaves_none_that_says_there_is_nothing() {
    let mut faults = full_after_a_takeover(&[0, 1]);
    faults.push((1900 + LEASE, Fault::Crash { node: 2 }, 500));
    let looks = [1920, 2000, 2300].map(|time| (time + LEASE, Act::Look(9)));
    let cast = vec![
        role(0, &[(1000, Act::New(9)), (1700 + LEASE, Act::Write)]),
        writes(0, &[(9, 1010, 1600 + LEASE)]),
        role(0, &looks),
    ];
    ends_well(&script(faults, cast), 1..2);
}

/// On one node or on two; those that have it still die right after the others are mended.
#[test]
fn a_value_without_a_version_wins_over_no_copy_and_its_nodes_get_theirs_again() {
    for (nodes, die) in [(&[0][..], [1, 2]), (&[0, 1], [2, 0])] {
        let foreign = nodes.iter().map(|node| {
            (
                1500,
                Fault::Foreign {
                    node: *node,
                    key: 0,
                },
                0,
            )
        });
        let mut faults: Vec<_> = foreign.collect();
        faults.extend(two_die(5000, die));
        let cast = vec![
            writes(0, &[(0, 1000, 1010)]),
            looks((1510..1800).step_by(20).chain([5250, 5400])),
        ];
        ends_well(&script(faults, cast), 1..2);
    }
}

/// He opened it before, or opens it only now, and somebody who sees them all waits for the turn he left there.
#[test]
fn who_alone_does_not_reach_two_nodes_writes_nothing_and_nobody_else_notices() {
    let deaf = |node| {
        let apart = Fault::Partition {
            node,
            clients: vec![0],
            ways: vec![Way::There, Way::Back],
        };
        (1500, apart, 3000 + LEASE)
    };
    for nodes in [[0, 1], [1, 2], [0, 2]] {
        let cast = vec![
            writes(
                0,
                &[
                    (0, 500, 510),
                    (0, 1000, 1600),
                    (0, 1700, 1710),
                    (6, 1800, 1810),
                ],
            ),
            writes(
                0,
                &[(0, 1900, 2000 + LEASE), (0, 2100 + LEASE, 2110 + LEASE)],
            ),
            looks((1520..2400).step_by(40).chain([2500 + LEASE, 5000 + LEASE])),
        ];
        ends_well(&script(nodes.map(deaf).to_vec(), cast), 3..4);
    }
}

/// Nobody destroyed it: what he changed is stored anew.
#[test]
fn whose_session_ends_while_he_has_the_turn_stores_what_he_changed() {
    let cast = vec![
        writes(0, &[(0, 900, 910), (0, 2500, 3200)]),
        looks((3250..3900).step_by(50)),
    ];
    let pool = Pool {
        life: 3,
        ..script(vec![], cast)
    };
    ends_well(&pool, 2..3);
}

#[test]
fn whose_session_ends_while_he_has_the_turn_overwrites_nobody_who_began_it_anew() {
    let cast = vec![
        writes(0, &[(0, 900, 910), (0, 2500, 3400)]),
        writes(0, &[(0, 3050, 3200)]),
        looks((3250..3900).step_by(50)),
    ];
    let pool = Pool {
        life: 3,
        ..script(vec![], cast)
    };
    ends_well(&pool, 2..3);
}

#[test]
fn many_who_open_at_once_all_get_their_turn() {
    let cast = (0..6).map(|_| writes(0, &[(0, 1000, 1001), (0, 1001, 1002)]));
    ends_well(&script(vec![], cast.collect()), 12..13);
}

#[test]
fn an_empty_node_is_not_believed_while_another_hangs() {
    let faults = vec![
        (2000, Fault::Crash { node: 0 }, 10),
        (2012, Fault::Hang { node: 1 }, 1500),
    ];
    let cast = vec![
        writes(0, &[(0, 1000, 1010)]),
        looks((2000..3600).step_by(50)),
    ];
    ends_well(&script(faults, cast), 1..2);
}

#[test]
fn a_process_killed_between_its_writes_leaves_one_story() {
    let kills = (0..4).map(|step| (1010 + step, Fault::Kill { client: 0 }, 0));
    let mut faults: Vec<_> = kills.collect();
    faults.push((1300, Fault::Hang { node: 0 }, 1500));
    let cast = vec![
        writes(300_000, &[(0, 900, 910), (0, 1000, 1010)]),
        looks([1050, 1100, 1150, 1500, 2000, 3000]),
        writes(-300_000, &[(0, 1400, 1600 + LEASE)]),
    ];
    ends_well(&script(faults, cast), 2..4);
}

/// With two copies the third node gets the value when another is away: not by a write under him
/// who has the turn.
#[test]
fn who_reads_without_a_turn_while_a_node_is_away_takes_none_from_who_has_it() {
    for fault in [
        Fault::Crash { node: 0 },
        Fault::Flush { node: 0 },
        Fault::Hang { node: 0 },
    ] {
        let cast = vec![writes(0, &[(0, 500, 510), (0, 1000, 1700)]), looks([1600])];
        let pool = script(vec![(1500, fault, 1200)], cast);
        ends_well(&Pool { copies: 2, ..pool }, 2..3);
    }
}

/// Who waits opens while the write before him still waits for a node that it does not reach.
#[test]
fn who_opens_before_the_third_node_has_the_value_behind_its_word_keeps_his_turn() {
    let cast = vec![
        writes(0, &[(0, 500, 510), (0, 2000, 2100)]),
        writes(0, &[(0, 2050, 2400)]),
        looks((2180..2400).step_by(10)),
    ];
    let pool = script(vec![(2080, unheard(1, &[0]), 300)], cast);
    ends_well(&Pool { copies: 2, ..pool }, 3..4);
}

/// Somebody waits through a slow node until a turn may be taken over. Meanwhile that is over, and who
/// reaches the other two only has the next. (Without versions its end shows in the cas value.)
#[test]
fn without_a_second_question_a_turn_is_taken_from_who_got_it_just_now() {
    let waits = 1100 + LEASE;
    let slow = Fault::Slow { node: 2, by: 60 };
    let apart = Fault::Partition {
        node: 2,
        clients: vec![2],
        ways: vec![Way::There, Way::Back],
    };
    let pool = script(
        vec![(4000, apart, waits), (waits - 100, slow, 400)],
        vec![
            role(
                0,
                &[
                    (500, Act::Open(0)),
                    (600, Act::Write),
                    (1000, Act::Open(0)),
                    (waits - 20, Act::Touch),
                ],
            ),
            role(0, &[(1100, Act::Open(0)), (waits + 400, Act::Touch)]),
            role(0, &[(5000, Act::Open(0)), (waits + 200, Act::Write)]),
        ],
    );
    let acked = |fresh| {
        let rules = Rules {
            fresh,
            ..pool.rules
        };
        let pool = Pool {
            rules,
            ..pool.clone()
        };
        let tally = sweep(40, |seed, trace| play(&pool, seed, trace));
        println!("fresh {fresh}: {tally}");
        assert!(tally.single || tally.bad == 0, "{tally}");
        (tally.counts.acked, tally.single)
    };
    // Nothing is lost, and that somebody is told is no violation behind so long a turn.
    let ((with, single), (without, _)) = (acked(true), acked(false));
    assert!(
        single || with > without + 5,
        "{with} and {without} writes of 80"
    );
}
