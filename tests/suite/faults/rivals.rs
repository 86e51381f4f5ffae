//! The same scripts with php-memcached and one replica: what is lost there stands beside ours in the README.

use super::nothing_is_lost;
use super::scripts::{back_empty, killed};
use super::stage::{Handler, Plan, Servers};

/// What each fault costs either handler. It takes minutes, and what a rival loses is no failure of ours:
/// `cargo test --release -p memring-tests --test suite -- faults::rivals --ignored --nocapture`.
#[test]
#[ignore = "a comparison to be read, not a test of ours"]
fn the_same_faults_with_php_memcached() {
    let mut table = String::from(
        "nodes | fault | handler | visits | lost | older | alive again | refused or not stored\n",
    );
    for nodes in [2, 3] {
        for (name, script) in [
            ("F1 killed", killed as fn(&mut super::Scene<'_>)),
            ("F4 back empty", back_empty),
        ] {
            for handler in [Handler::PhpMemcached, Handler::Memring] {
                let plan = Plan {
                    nodes,
                    handler,
                    ..Plan::new(name, Servers::Own)
                };
                let tally = plan.play(script);
                if handler == Handler::Memring {
                    nothing_is_lost(&tally);
                }
                table.push_str(&format!(
                    "{nodes} | {name} | {handler:?} | {} | {} | {} | {} | {}\n",
                    tally.requests,
                    tally.lost,
                    tally.older,
                    tally.revived,
                    tally.refused + tally.unsure
                ));
            }
        }
    }
    println!("{table}");
}
