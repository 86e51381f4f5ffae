//! What sessions promise by the real code, on hosts of several processes each, from the pool
//! and its host's memory to the extension's calls: by chance, under faults of every kind.
//!
//! The seed draws two to five nodes with and without versions, one to three hosts with clocks of
//! their own, each with workers and a tend or without. What only this code does and no machine
//! of `replica` knows of has its switch here: what a host keeps for a node and hands over,
//! neighbours, waiting, and who asks whom again.

use memring_pool::config::Care;
use memring_pool::node::Directory;
use memring_pool::pool::rules::Rules;

use super::faults::{Fault, Kind, Plan, Way};
use super::history::Violation;
use super::node::Key;
use super::requests::{Do, Role, Service, homes, serve};
use super::{Tally, sweep};

/// One fault at a time, far enough apart for what calm does not show: tend looks each second, and
/// asks who answered at the look before which process he is, so a node with an old dump and its
/// old record is found out with the second look.
const fn apart(kinds: &'static [Kind]) -> Plan {
    Plan::Draw {
        kinds,
        row: 1,
        pause: 3000,
    }
}

/// A service with so many nodes, and the faults that its promises hold for.
fn drawn(seed: u64, nodes: [u64; 2]) -> Service {
    let mut service = Service::drawn(seed, nodes, Plan::Calm);
    let tends = service.hosts.iter().any(|host| host.tends);
    service.plan = apart(match tends {
        true => Kind::OF_HOSTS,
        false => Kind::OF_HOSTS_ALONE,
    });
    service.duration = 16_000;
    service
}

/// What `count` seeds of services with so many nodes come to.
fn seeds(name: &str, count: u64, nodes: [u64; 2], draw: fn(u64, [u64; 2]) -> Service) -> Tally {
    let tally = sweep(count, |seed, trace| serve(&draw(seed, nodes), seed, trace));
    println!("{name} {nodes:?}: {tally}");
    tally
}

/// No seed may show a violation, and most changes must succeed.
fn keeps(name: &str, count: u64, nodes: [u64; 2], draw: fn(u64, [u64; 2]) -> Service) {
    let tally = seeds(name, count, nodes, draw);
    assert!(
        tally.single || tally.counts.acked * 2 > tally.counts.changes,
        "{name}: {tally}"
    );
    assert!(tally.single || tally.bad == 0, "{name}: {tally}");
}

/// Threads and all.
#[test]
fn a_seed_of_hosts_is_the_same_run_each_time() {
    let service = drawn(7, [3, 5]);
    let once = || format!("{:?}", serve(&service, 7, false));
    assert!(once() == once());
}

#[test]
fn hosts_without_faults_lose_nothing_and_refuse_nobody() {
    keeps("calm hosts", 3, [2, 5], |seed, nodes| {
        Service::drawn(seed, nodes, Plan::Calm)
    });
}

#[test]
fn hosts_lose_nothing_to_one_fault_at_a_time() {
    keeps("hosts", 6, [3, 5], drawn);
}

/// Two of three copies outlive two faults of which the second begins when the first ends.
#[test]
fn three_copies_on_hosts_lose_nothing_to_two_faults_in_a_row() {
    let plan = Plan::Draw {
        kinds: Kind::MODEL,
        row: 2,
        pause: 1000,
    };
    let tally = sweep(6, |seed, trace| {
        let drawn = Service::drawn(seed, [3, 5], plan.clone());
        serve(&Service { copies: 3, ..drawn }, seed, trace)
    });
    println!("hosts, two in a row: {tally}");
    assert!(tally.single || tally.bad == 0, "{tally}");
}

/// Two nodes are no majority: the limit as it is.
#[test]
fn hosts_on_two_nodes_lose_a_session_in_few_runs() {
    let tally = sweep(6, |seed, trace| {
        let drawn = drawn(seed, [2, 2]);
        let service = Service {
            apart: false,
            ..drawn
        };
        serve(&service, seed, trace)
    });
    println!("hosts, two nodes: {tally}");
    assert!(tally.single || tally.bad <= 2, "{tally}");
}

/// Seeds of each script.
const SEEDS: u64 = 12;

/// A worker of a script on that host.
fn role(host: usize, acts: &[(u64, Do)]) -> Role {
    Role {
        host,
        acts: acts.to_vec(),
    }
}

/// A script on so many nodes: what goes wrong, and who does what meanwhile.
fn script(nodes: usize, faults: Vec<(u64, Fault, u64)>, cast: Vec<Role>) -> Service {
    let last = |role: &Role| role.acts.last().map_or(0, |(time, _)| *time);
    let duration = cast.iter().map(last).max().unwrap_or(0) + 100;
    let hosts = cast.iter().map(|role| role.host + 1).max().unwrap_or(1);
    let one = Service::new(nodes, Plan::Script(faults));
    Service {
        hosts: vec![one.hosts[0]; hosts],
        duration,
        cast,
        ..one
    }
}

/// Switches a rule off; a violation of that kind must be found, and none with it.
fn needs(name: &str, switch: fn(&mut Rules), kind: Violation, service: &Service) {
    needs_in(SEEDS, name, switch, kind, service);
}

/// The same in so many seeds.
fn needs_in(seeds: u64, name: &str, switch: fn(&mut Rules), kind: Violation, service: &Service) {
    for has_e in [true, false] {
        let mut service = service.clone();
        service.nodes.fill(has_e);
        let with = sweep(seeds, |seed, trace| serve(&service, seed, trace));
        println!("with {name}: {with}");
        assert!(with.single || with.bad == 0, "with {name}: {with}");
        switch(&mut service.rules);
        let without = sweep(seeds, |seed, trace| serve(&service, seed, trace));
        println!("without {name}: {without}");
        let found = without.single || without.of(kind) > 0;
        assert!(found, "without {name} nothing is {kind}: {without}");
    }
}

/// A request is killed while it has the turn; one on the same host waits for less than a lease.
#[test]
fn without_a_look_at_the_neighbour_who_waits_for_a_request_that_was_killed_is_refused() {
    let cast = vec![
        role(
            0,
            &[
                (1000, Do::Open(0)),
                (1010, Do::Write),
                (1400, Do::Open(0)),
                (9000, Do::Write),
            ],
        ),
        role(0, &[(1450, Do::Open(0)), (3500, Do::Write)]),
    ];
    let killed = vec![(1500, Fault::Kill { client: 0 }, 0)];
    let service = Service {
        prompt: true,
        ..script(3, killed, cast)
    };
    needs(
        "neighbour",
        |rules| rules.neighbour = false,
        Violation::Refused,
        &service,
    );
}

/// One waits for a request of its own host that works.
#[test]
fn a_neighbour_that_works_keeps_its_turn() {
    let cast = vec![
        role(
            0,
            &[
                (1000, Do::Open(0)),
                (1010, Do::Write),
                (1400, Do::Open(0)),
                (2400, Do::Write),
            ],
        ),
        role(0, &[(1500, Do::Open(0)), (2500, Do::Write)]),
    ];
    let service = script(3, Vec::new(), cast);
    needs(
        "works",
        |rules| rules.works = false,
        Violation::Needless,
        &service,
    );
}

/// These processes do not reach the node.
fn unreachable(node: usize, clients: &[usize]) -> Fault {
    Fault::Partition {
        node,
        clients: clients.to_vec(),
        ways: vec![Way::There],
    }
}

/// A node hangs while it is asked for a turn, gives it to nobody when it goes on, and has nothing to be told:
/// the request leaves the session as it is. Then another node is away.
#[test]
fn a_turn_that_a_node_gives_away_when_nobody_waits_any_more_keeps_no_one_out() {
    let opens = |time| [(time, Do::Open(0)), (time + 200, Do::Touch)];
    let acts = [
        &[(500, Do::Open(0)), (510, Do::Write)][..],
        &opens(900),
        &opens(4200),
    ]
    .concat();
    let mut pool = Service::new(3, Plan::Calm).pool(Care::Probed, &mut Directory::new());
    let homes = homes(&mut pool, 0);
    let faults = vec![
        (800, Fault::Hang { node: homes[0] }, 700),
        (4000, Fault::Crash { node: homes[1] }, 3000),
    ];
    let service = Service {
        prompt: true,
        ..script(3, faults, vec![role(0, &acts)])
    };
    needs(
        "vacate",
        |rules| rules.machines.vacate = false,
        Violation::Refused,
        &service,
    );
}

/// One worker does not reach a node that tend does: tend hands over what the worker left out, and
/// takes the word of it back, while the worker leaves out more, for the last time.
#[test]
fn who_keeps_a_key_for_a_node_while_that_is_believed_again_says_so_anew() {
    let writes = |time| [(time, Do::Open(0)), (time + 100, Do::Write)];
    let acts = [writes(500), writes(1000), writes(1900)].concat();
    let crash = |at, node| (at, Fault::Crash { node }, 50);
    let faults = vec![
        (800, unreachable(0, &[0]), 3000),
        (1200, Fault::Slow { node: 2, by: 70 }, 1500),
        crash(5000, 1),
        crash(5100, 2),
    ];
    let looks = role(0, &[(5400, Do::Look(0))]);
    let service = script(3, faults, vec![role(0, &acts), looks]);
    needs_in(
        50,
        "anew",
        |rules| rules.anew = false,
        Violation::Older,
        &service,
    );
}

/// The worker leaves out a node that tend reaches, and his host has no room to keep the key.
#[test]
fn a_node_that_missed_more_keys_than_there_is_room_for_gets_all_it_has_not() {
    let write = |time| [(time, Do::Open(0)), (time + 100, Do::Write)];
    let acts = [&write(500)[..], &[(700, Do::Fill(0))], &write(1200)].concat();
    let crash = |at, node| (at, Fault::Crash { node }, 50);
    let faults = vec![
        (800, unreachable(0, &[0]), 3000),
        crash(6500, 1),
        crash(6600, 2),
    ];
    let looks = role(0, &[(6900, Do::Look(0))]);
    let service = script(3, faults, vec![role(0, &acts), looks]);
    needs(
        "overflow",
        |rules| rules.overflow = false,
        Violation::Older,
        &service,
    );
}

/// One host does not reach two nodes, by a fault of its own, and writes on the two that it reaches.
#[test]
fn a_host_that_alone_cannot_reach_two_nodes_leaves_them_trusted_by_the_others() {
    let mut pool = Service::new(4, Plan::Calm).pool(Care::Probed, &mut Directory::new());
    let mut with = |has: &[usize], lacks: &[usize]| {
        let fits = |key: &Key| {
            let homes = homes(&mut pool, *key);
            let there = |node: &usize| homes.contains(node);
            has.iter().all(there) && !lacks.iter().any(there)
        };
        (0..).find(fits).expect("such a session")
    };
    let (one, other, both) = (with(&[0], &[1]), with(&[1], &[0]), with(&[0, 1], &[]));
    let write = |time, key| [(time, Do::Open(key)), (time + 600, Do::Write)];
    // The first worker, and the tend of his host.
    let cut = |node| (1500, unreachable(node, &[0, 2]), 5000);
    let acts = [write(500, one), write(2000, one), write(3000, other)].concat();
    let looks = [4000, 4300, 4600].map(|at| (at, Do::Look(both)));
    let service = Service {
        prompt: true,
        ..script(
            4,
            vec![cut(0), cut(1)],
            vec![role(0, &acts), role(1, &looks)],
        )
    };
    needs(
        "broken",
        |rules| rules.broken = false,
        Violation::Refused,
        &service,
    );
}

/// Two nodes need longer than they are given at first.
#[test]
fn who_asks_but_once_and_shortly_is_refused_where_two_nodes_are_slow() {
    let slow = |node| (1500, Fault::Slow { node, by: 220 }, 1000);
    let acts = [(1000, Do::Open(0)), (1010, Do::Write), (1600, Do::Look(0))];
    let service = Service {
        prompt: true,
        ..script(3, vec![slow(0), slow(1)], vec![role(0, &acts)])
    };
    needs(
        "patient",
        |rules| rules.patient = false,
        Violation::Refused,
        &service,
    );
}

/// The clock of a host is set back while one of its requests waits for a turn that is never given back.
#[test]
fn who_waits_for_a_turn_waits_no_longer_because_the_clock_was_set_back() {
    let cast = vec![
        role(
            0,
            &[(500, Do::Open(0)), (510, Do::Write), (1000, Do::Open(0))],
        ),
        role(1, &[(1500, Do::Open(0)), (4000, Do::Look(0))]),
    ];
    let back = Fault::Clock {
        client: 1,
        by: -200_000,
    };
    let service = script(3, vec![(1800, back, 0)], cast);
    let tally = sweep(SEEDS, |seed, trace| serve(&service, seed, trace));
    assert!(tally.single || tally.bad == 0, "{tally}");
}

/// A node hung for a while, and its next probe is a while off; another one lost its memory, and answers.
#[test]
fn a_node_that_is_well_again_is_asked_in_spite_of_its_mark_where_the_others_do_not_suffice() {
    let mut acts = vec![(500, Do::Open(0)), (510, Do::Write)];
    acts.extend((0..16).map(|look| (1010 + look * 50, Do::Look(0))));
    let faults = vec![
        (1000, Fault::Hang { node: 1 }, 850),
        (1900, Fault::Flush { node: 2 }, 0),
    ];
    let look = role(0, &[(1910, Do::Look(0))]);
    let mut service = Service {
        prompt: true,
        ..script(3, faults, vec![role(0, &acts), look])
    };
    service.hosts[0].tends = false;
    needs(
        "passed",
        |rules| rules.passed = false,
        Violation::Refused,
        &service,
    );
}

/// Two nodes come back empty while the one that has all does not answer: nothing on them says that the pool was there before.
#[test]
fn a_pool_is_not_taken_for_new_while_one_of_its_nodes_does_not_answer() {
    let faults = vec![
        (2000, Fault::Hang { node: 2 }, 6000),
        (2100, Fault::Crash { node: 0 }, 100),
        (2100, Fault::Crash { node: 1 }, 100),
    ];
    let mut acts = vec![(1000, Do::Open(0)), (1010, Do::Write)];
    acts.extend((0..16).map(|look| (2300 + look * 350, Do::Look(0))));
    acts.extend([
        (9500, Do::Look(0)),
        (10_000, Do::Open(0)),
        (10_010, Do::Touch),
    ]);
    for tends in [true, false] {
        let mut service = script(3, faults.clone(), vec![role(0, &acts)]);
        service.hosts[0].tends = tends;
        let tally = sweep(SEEDS, |seed, trace| serve(&service, seed, trace));
        println!("tends {tends}: {tally}");
        assert!(tally.single || tally.bad == 0, "{tally}");
        // Of each run's looks those that nobody could answer.
        assert!(
            tally.single || tally.counts.refused >= 10 * tally.seeds,
            "{tally}"
        );
    }
}

/// The first of all requests, on three hosts, at the same time.
#[test]
fn of_many_who_found_a_pool_at_once_nobody_is_taken_for_the_only_one() {
    let cast = (0..6).map(|worker| {
        let key = worker / 2;
        let begin = 1 + u64::from(worker);
        role(
            worker as usize % 3,
            &[
                (begin, Do::Open(key)),
                (begin + 40, Do::Write),
                (1500, Do::Look(key)),
            ],
        )
    });
    let faults = vec![(0, Fault::Slow { node: 0, by: 60 }, 500)];
    let service = Service {
        prompt: true,
        wait: 5000,
        ..script(3, faults, cast.collect())
    };
    let tally = sweep(SEEDS, |seed, trace| serve(&service, seed, trace));
    println!("{tally}");
    // Where an unknown id is replaced (strict mode) nothing is written.
    let acked = tally.counts.acked;
    let all = acked == tally.counts.changes && acked > 3 * tally.seeds;
    assert!(tally.single || tally.bad == 0 && all, "{tally}");
}

#[test]
fn a_turn_lasts_beyond_its_lease_on_its_own_host_while_its_holder_uses_memring() {
    let mut holder = vec![(500, Do::Open(0)), (510, Do::Write), (1000, Do::Open(0))];
    holder.extend((0..12).map(|call| (1500 + call * 500, Do::Call)));
    holder.extend([(7600, Do::Write), (9000, Do::Open(0)), (9010, Do::Touch)]);
    let cast = vec![
        role(0, &holder),
        role(0, &[(1100, Do::Open(0)), (7800, Do::Destroy)]),
    ];
    let service = Service {
        wait: 20_000,
        ..script(3, Vec::new(), cast)
    };
    let tally = sweep(SEEDS, |seed, trace| serve(&service, seed, trace));
    let all = tally.counts.acked == tally.counts.changes;
    assert!(tally.single || tally.bad == 0 && all, "{tally}");
}
