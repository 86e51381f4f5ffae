//! Who is let in, and whose word counts: hosts with an old file, values without a version, nodes that
//! dropped what they had, founders who came late.

use memring_pool::replica::{Founded, Founding, Machine, Rules, Send, Trust};

use super::super::clients::{Act, LEASE, Pool, Role};
use super::super::faults::Fault;
use super::super::files::Step;
use super::super::history::Violation;
use super::super::node::{Memory, Node};
use super::super::random::Random;
use super::{needs, role, script};

/// The step is over when a host writes that never got its file, while one of the nodes of both lists
/// is away, and then the other one is.
#[test]
fn who_is_let_in_with_an_old_file_writes_what_nobody_finds_once_the_step_is_over() {
    let with = |file, acts: &[(u64, Act)]| Role {
        file,
        ..role(0, acts)
    };
    let faults = vec![
        (9000, Fault::Hang { node: 1 }, 500),
        (9500, Fault::Hang { node: 0 }, 1500),
    ];
    let pool = script(
        faults,
        vec![
            with(u64::MAX, &[(1000, Act::Open(0)), (1010, Act::Write)]),
            with(u64::MAX, &[(9100, Act::Open(0)), (9110, Act::Write)]),
            with(2000, &[(9600, Act::Look(0)), (10_000, Act::Look(0))]),
        ],
    );
    needs(
        "admits",
        |rules| rules.admits = false,
        &[Violation::Older],
        &Pool {
            step: Some(Step::Replaces),
            commit: Some(2500),
            ..pool
        },
    );
}

/// Somebody who knows of no versions stores under a session's key.
#[test]
fn what_has_no_version_is_read_where_it_counts_for_something() {
    let foreign = Fault::Foreign { node: 0, key: 0 };
    let pool = script(
        vec![(1500, foreign, 0)],
        vec![
            role(0, &[(1000, Act::Open(0)), (1010, Act::Write)]),
            role(0, &[(1600, Act::Look(0))]),
        ],
    );
    needs(
        "foreign",
        |rules| rules.foreign = false,
        &[Violation::Strange],
        &pool,
    );
}

/// A write that comes when its turn may have been taken over finds no room on two nodes, which drop what
/// they had. Then the third is away.
#[test]
fn who_dropped_what_it_had_and_is_believed_says_that_there_is_nothing() {
    let late = 1600 + LEASE;
    let full = |node| (late - 20, Fault::Full { node }, 400);
    let pool = script(
        vec![
            full(0),
            full(1),
            (late + 600, Fault::Hang { node: 2 }, 1500),
        ],
        vec![
            role(0, &[(1000, Act::Open(0)), (1010, Act::Write)]),
            role(0, &[(1500, Act::Open(0)), (late, Act::Write)]),
            role(0, &[(late + 800, Act::Look(0))]),
        ],
    );
    needs(
        "dropped",
        |rules| rules.dropped = false,
        &[Violation::Lost],
        &pool,
    );
}

/// Carries out what a founder said, and says what he says next.
fn answered(founding: &mut Founding, nodes: &mut [Node], said: Vec<Send>) -> Vec<Send> {
    let (mut random, mut next) = (Random::new(1), Vec::new());
    for Send { place, commands } in said {
        let commands = commands.iter();
        let replies = commands.map(|command| nodes[place].apply(0, 0, command, &mut random));
        founding.heard(0, place, Ok(replies.collect()), &mut next);
    }
    next
}

/// He found no record anywhere. Before he stores his, somebody else founds the pool, and a node loses
/// all it has: what he came to under these rules, and which nodes are trusted then.
fn founded_late(has_e: bool, rules: Rules) -> (Option<Founded>, [Option<Trust>; 3]) {
    let mut nodes = [(); 3].map(|()| Node::new(has_e, false));
    let names = ["a", "b", "c"].map(Box::from);
    let mut said = Vec::new();
    let mut late = Founding::new(&names, 1, &mut said).under(rules);
    let mut first_records = answered(&mut late, &mut nodes, said);
    assert!(!first_records.is_empty() && !late.is_done());
    let mut said = Vec::new();
    let mut prompt = Founding::new(&names, 2, &mut said);
    while !prompt.is_done() {
        said = answered(&mut prompt, &mut nodes, said);
    }
    assert_eq!(prompt.result(), Some(Founded::New));
    nodes[1].restart(Memory::default());
    while !late.is_done() {
        first_records = answered(&mut late, &mut nodes, first_records);
    }
    let trusts = |node: &Node| node.record().map(|record| record.trust);
    (late.result(), nodes.each_ref().map(trusts))
}

#[test]
fn a_founder_who_comes_late_trusts_no_node_that_came_back_empty() {
    let trusted = Some(Trust::Trusted);
    for has_e in [true, false] {
        let (founded, trusts) = founded_late(has_e, Rules::ALL);
        assert_eq!(founded, Some(Founded::Again));
        assert_eq!(trusts, [trusted, None, trusted]);
        let rules = Rules {
            founding: false,
            ..Rules::ALL
        };
        // What was stored on the empty node meanwhile is lost, and nobody is told.
        let (_, trusts) = founded_late(has_e, rules);
        assert_eq!(trusts, [trusted; 3]);
    }
}
