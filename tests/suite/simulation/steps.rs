//! One node list after another, under faults: hosts get the new file one by one, sessions go on
//! meanwhile, and nothing is lost.

use super::clients::{Act, Pool, Role, play};
use super::faults::{Fault, Plan};
use super::files::Step;
use super::promises::{APART, keeps};
use super::rules::{role, script};
use super::sweep;

fn pool(step: Step, copies: usize, plan: Plan) -> Pool {
    // Old and new servers, as an upgrade leaves them.
    let nodes = match step {
        Step::Adds | Step::Renames => [true; 4],
        Step::Removes | Step::Reweights => [false; 4],
        Step::Replaces => [true, false, true, false],
    };
    Pool {
        step: Some(step),
        ..Pool::new(&nodes, copies, plan)
    }
}

#[test]
fn a_step_without_faults_loses_nothing() {
    for step in Step::ALL {
        keeps("calm step", 1, &pool(step, 3, Plan::Calm));
    }
}

#[test]
fn a_step_loses_nothing_to_one_fault_at_a_time() {
    for step in Step::ALL {
        keeps("step", 4, &pool(step, 3, APART));
    }
}

#[test]
fn a_step_of_a_pool_with_two_copies_and_word_on_a_third_node_loses_nothing_either() {
    for step in Step::ALL {
        keeps("step, two copies", 4, &pool(step, 2, APART));
    }
}

/// A process is killed between its writes, and nobody visits the session again.
#[test]
fn a_step_ends_though_only_the_third_node_has_word_of_a_write() {
    for key in [0, 1] {
        let write = |open| [(open, Act::Open(key)), (open + 100, Act::Write)];
        let with_file = |acts: &[(u64, Act)]| Role {
            file: 4000,
            ..role(0, acts)
        };
        let cast = vec![
            with_file(&[write(1000), write(1900)].concat()),
            with_file(&[(20_000, Act::Look(key + 10))]),
        ];
        let kills = (0..4).map(|step| (2000 + step, Fault::Kill { client: 0 }, 0));
        let pool = Pool {
            copies: 2,
            nodes: vec![true; 4],
            step: Some(Step::Replaces),
            ..script(kills.collect(), cast)
        };
        let tally = sweep(20, |seed, trace| play(&pool, seed, trace));
        assert!(tally.single || tally.bad == 0, "{tally}");
    }
}
