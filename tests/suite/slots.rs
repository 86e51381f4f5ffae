//! Places for nodes in what the processes of a user share: 1,024, whatever came and went.

use harness::{ClosedPort, Memcached, Php, TempDir, wait_until};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

const SLOTS: usize = 1024;
/// Where they lie: behind eight words of head, 64 counters and eight words of a host.
const FIRST: usize = 640;

/// The shared file of a state directory.
fn region(state: &TempDir) -> PathBuf {
    let entries = std::fs::read_dir(state.path()).expect("the state directory");
    entries.flatten().next().expect("a region").path()
}

/// The name in each slot, and when that node failed.
fn slots(state: &TempDir) -> Vec<(u64, u64)> {
    let bytes = std::fs::read(region(state)).expect("the region");
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let places = (0..SLOTS).map(|slot| FIRST + 64 * slot);
    places.map(|at| (word(at), word(at + 8))).collect()
}

/// Makes a slot one that nobody asked for since before a reboot: their times are the last 8 KiB.
fn forget(state: &TempDir, slot: usize) {
    let path = region(state);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("the region");
    let length = file.metadata().expect("the region").len();
    let at = length - 8 * (SLOTS - slot) as u64;
    file.write_all_at(&[0xff; 8], at).expect("write");
}

#[test]
fn a_node_that_nobody_uses_any_more_makes_way_and_who_still_has_it_marks_no_other_one() {
    let (state, marks) = (TempDir::new("slots"), TempDir::new("marks"));
    let php = Php::new().ini("memring.state_dir", state.path().display());
    let closed = ClosedPort::new();
    let go = marks.path().join("go");
    let old = php.start(&format!(
        "$m = new Memcache; $m->addServer('127.0.0.1', {}, true, 1, 1, 0); @$m->get('k');
         touch('{}'); while (!file_exists('{}')) {{ usleep(1000); clearstatcache(); }}
         echo json_encode(@$m->get('k'));",
        closed.port(),
        marks.path().join("in").display(),
        go.display()
    ));
    let inside = marks.path().join("in");
    assert!(wait_until(Duration::from_secs(60), || inside.exists()));
    let place = slots(&state)
        .iter()
        .position(|(_, failed)| *failed != 0)
        .unwrap();
    let without = "echo Memring\\status()['host']['nodes_without_a_slot'];";
    let fill = "for ($port = 1; $port < 1024; $port++) { $m = new Memcache; $m->addServer('10.0.0.1', $port); }";
    assert_eq!(php.run(&format!("{fill} {without}")).ok(), "0");
    let before = slots(&state);
    assert!(before.iter().all(|(who, _)| *who != 0));
    // All are in use.
    let node = Memcached::start();
    let new = format!(
        "$m = new Memcache; $m->addServer('127.0.0.1', {}); $m->set('k', 1); echo $m->get('k'), ' '; {without}",
        node.port()
    );
    assert_eq!(php.run(&new).ok(), "1 1");
    assert_eq!(slots(&state), before);
    forget(&state, place);
    assert_eq!(php.run(&new).ok(), "1 1");
    let after = slots(&state);
    let changed: Vec<usize> = (0..SLOTS).filter(|at| after[*at] != before[*at]).collect();
    assert_eq!(changed, [place]);
    assert_eq!(
        after[place].1, 0,
        "a mark of the node that was there before"
    );
    // It goes on for itself.
    std::fs::write(&go, "").unwrap();
    assert_eq!(old.finish().text(), "false");
    assert_eq!(slots(&state), after);
}

#[test]
fn a_node_that_a_process_uses_keeps_its_place_however_long_ago_that_asked_for_it() {
    let (state, marks) = (TempDir::new("slots"), TempDir::new("marks"));
    let php = Php::new().ini("memring.state_dir", state.path().display());
    let (used, new) = (Memcached::start(), Memcached::start());
    let go = marks.path().join("go");
    let inside = marks.path().join("in");
    let old = php.start(&format!(
        "$m = new Memcache; $m->addServer('127.0.0.1', {}); $m->set('k', 1); touch('{}');
         while (!file_exists('{}')) {{ usleep(1000); clearstatcache(); }}
         for ($n = 0; $n < 2000; $n++) $m->get('k');
         echo $m->get('k');",
        used.port(),
        inside.display(),
        go.display()
    ));
    assert!(wait_until(Duration::from_secs(60), || inside.exists()));
    let place = slots(&state).iter().position(|(who, _)| *who != 0).unwrap();
    let fill = "for ($port = 1; $port < 1024; $port++) { $m = new Memcache; $m->addServer('10.0.0.1', $port); }";
    php.run(fill).ok();
    let before = slots(&state);
    assert!(before.iter().all(|(who, _)| *who != 0));
    forget(&state, place);
    std::fs::write(&go, "").unwrap();
    assert_eq!(old.finish().text(), "1");
    let late = format!(
        "$m = new Memcache; $m->addServer('127.0.0.1', {}); $m->set('k', 1);
         echo Memring\\status()['host']['nodes_without_a_slot'];",
        new.port()
    );
    assert_eq!(php.run(&late).ok(), "1");
    assert_eq!(slots(&state), before);
}
