//! One node list after another, under faults: hosts get the new file one by one, sessions go on
//! meanwhile, and nothing is lost.

use super::clients::Pool;
use super::faults::Plan;
use super::files::Step;
use super::promises::{APART, keeps};

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
