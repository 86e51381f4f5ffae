//! Two mappings of one file, marks of the past, files that are not ours, missed keys.

use super::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

/// A directory of this test alone, removed with it.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("memring-test-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    fn file(&self) -> PathBuf {
        self.0
            .join(format!("memring-{}.{LAYOUT}", geteuid().as_raw()))
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_generation_stays_within_one_process() {
    let first = generation();
    assert_ne!(first, 0);
    assert_eq!(first, generation());
}

#[test]
fn two_mappings_of_one_file_see_the_same_marks() {
    let dir = Dir::new("same");
    let (one, two) = (file(&dir.0).unwrap(), file(&dir.0).unwrap());
    let slot = |region: &'static Region| region.slot.get(5).unwrap();
    assert!(slot(one).fail(1000, 111));
    assert!(!slot(two).fail(1500, 111));
    assert_eq!(slot(one).failed_at(2000), Some(1500));
    assert!(slot(two).claim(1500, 2000));
    assert!(!slot(one).claim(1500, 2000), "one try is due, not two");
    assert!(slot(one).recover());
    assert!(!slot(two).recover());
    assert_eq!(slot(two).failed_at(3000), None);
    assert_eq!(
        fs::metadata(dir.file()).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn a_mark_from_before_a_reboot_counts_as_up() {
    let dir = Dir::new("boot");
    let slot = file(&dir.0).unwrap().slot.first().unwrap();
    slot.fail(1_000_000, 0);
    assert_eq!(slot.failed_at(5), None);
}

#[test]
fn what_is_not_ours_alone_is_refused_and_named() {
    let dir = Dir::new("refused");
    symlink("/etc/hostname", dir.file()).unwrap();
    assert!(file(&dir.0).is_err());
    fs::remove_file(dir.file()).unwrap();
    fs::create_dir(dir.file()).unwrap();
    assert!(file(&dir.0).is_err());
    fs::remove_dir(dir.file()).unwrap();
    fs::write(dir.file(), b"").unwrap();
    fs::set_permissions(dir.file(), fs::Permissions::from_mode(0o644)).unwrap();
    let error = file(&dir.0).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), Kind::State);
    assert!(
        error.to_string().contains("open to other users") && error.to_string().contains("chmod"),
        "{error}"
    );
    fs::set_permissions(dir.file(), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(dir.file(), b"memring\0\x63\0\0\0\0\0\0\0").unwrap();
    assert!(
        file(&dir.0)
            .map(|_| ())
            .unwrap_err()
            .to_string()
            .contains("another layout")
    );
    assert!(
        file(&dir.0.join("nowhere"))
            .map(|_| ())
            .unwrap_err()
            .to_string()
            .contains("memring.state_dir")
    );
}

#[test]
fn what_is_another_users_is_refused_and_both_are_named() {
    // Only root may give a file away.
    if !geteuid().is_root() {
        return;
    }
    let dir = Dir::new("given");
    let before = file(&dir.0).unwrap().life.load(Relaxed);
    std::os::unix::fs::chown(dir.file(), Some(65534), None).unwrap();
    let error = file(&dir.0).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), Kind::State);
    let text = error.to_string();
    for wanted in [
        "owned by user 65534, not 0",
        "Remove it",
        "memring.state_dir",
    ] {
        assert!(text.contains(wanted), "{wanted} is not in {text}");
    }
    std::os::unix::fs::chown(dir.file(), Some(0), None).unwrap();
    assert_eq!(file(&dir.0).unwrap().life.load(Relaxed), before);
}

#[test]
fn a_missed_key_is_kept_once_and_let_go_unless_it_was_missed_again() {
    let dir = Dir::new("missed");
    let (one, two) = (file(&dir.0).unwrap(), file(&dir.0).unwrap());
    let now = now();
    for _ in 0..3 {
        assert_eq!(one.missed.keep(7, b"s1", now), Kept::Yes);
    }
    assert_eq!(one.missed.keep(7, &[b'k'; 80], now), Kept::Yes);
    assert_eq!(one.missed.keep(8, b"s1", now), Kept::Yes);
    let kept = two.missed.keys(7, 10);
    let mut names: Vec<usize> = kept.iter().map(|miss| miss.key.len()).collect();
    names.sort_unstable();
    assert_eq!(names, [2, 80]);
    let short = kept.iter().find(|miss| miss.key == b"s1").unwrap();
    assert_eq!(one.missed.keep(7, b"s1", now), Kept::Yes);
    two.missed.mended(7, short, now);
    assert_eq!(one.missed.count(7), 2);
    for miss in two.missed.keys(7, 10) {
        two.missed.mended(7, &miss, now);
    }
    assert_eq!((one.missed.count(7), one.missed.count(8)), (0, 1));
    one.missed.forget(8, now);
    assert_eq!(two.missed.count(8), 0);
}

/// A place has 80 bytes of a key.
#[test]
fn a_long_key_is_kept_whole_and_leaves_nothing_behind() {
    let dir = Dir::new("long");
    let (one, two) = (file(&dir.0).unwrap(), file(&dir.0).unwrap());
    let now = now();
    let key = |len: usize| -> Vec<u8> { (0..len).map(|n| b'a' + (n % 26) as u8).collect() };
    let lengths = [80, 81, 160, 161, 240, 241, 250, 255];
    for _ in 0..2 {
        for len in lengths {
            assert_eq!(one.missed.keep(7, &key(len), now), Kept::Yes, "{len}");
        }
        let mut other = key(250);
        other.pop();
        other.push(b'!');
        assert_eq!(one.missed.keep(8, &other, now), Kept::Yes);
    }
    assert_eq!(one.missed.keep(7, &key(256), now), Kept::NoRoom);
    assert_eq!((two.missed.count(7), two.missed.kept()), (lengths.len(), 9));
    let mut kept = two.missed.keys(7, 100);
    kept.sort_unstable_by_key(|miss| miss.key.len());
    assert!(kept.iter().map(|miss| &miss.key).eq(&lengths.map(key)));
    assert!(
        two.missed
            .keys(8, 100)
            .iter()
            .all(|miss| miss.key.ends_with(b"o!"))
    );
    for miss in &kept {
        two.missed.mended(7, miss, now);
    }
    one.missed.forget(8, now);
    assert_eq!(two.missed.kept(), 0);
    assert_eq!(two.missed.taken(), 0, "parts of keys are left");
}

#[test]
fn a_key_without_a_place_is_refused() {
    let region = anonymous().unwrap();
    let now = now();
    // Keys that all begin at one of 64 neighbours, each of which reaches 64 places.
    let close = (0..400_000u32)
        .map(u32::to_le_bytes)
        .filter(|key| missed::start_of(1, key) < 64);
    let (kept, refused): (Vec<_>, Vec<_>) =
        close.partition(|key| region.missed.keep(1, key, now) == Kept::Yes);
    assert!((64..128).contains(&kept.len()), "{}", kept.len());
    assert!(!refused.is_empty());
    assert_eq!(region.missed.count(1), kept.len());
}

#[test]
fn who_keeps_a_key_while_a_listing_is_withdrawn_is_told() {
    let region = anonymous().unwrap();
    let (missed, now) = (&region.missed, now());
    let before = missed.look(now);
    assert_eq!(missed.keep(7, b"s", now), Kept::Yes);
    assert!(missed.is_calm(before, now));
    assert!(!missed.announce(7, now + 10, now), "a key is left");
    missed.forget(7, now);
    // Whether it is under way or over since: whoever looked before must say it anew.
    let before = missed.look(now);
    assert!(missed.announce(7, now + 10, now));
    assert!(!missed.is_calm(before, now));
    assert!(!missed.announce(7, now + 10, now), "one at a time");
    let amid = missed.look(now);
    missed.withdrawn(0);
    assert!(!missed.is_calm(before, now) && !missed.is_calm(amid, now));
    assert!(missed.is_calm(missed.look(now), now));
}

#[test]
fn a_lock_left_behind_is_taken_over_and_one_held_is_not() {
    let region = anonymous().unwrap();
    let at = now();
    region.missed.hold(at);
    assert_eq!(region.missed.keep(7, b"s", at), Kept::Busy);
    assert_eq!(region.missed.keep(7, b"s", at + 5000), Kept::Yes);
}

#[test]
fn what_is_counted_by_one_is_seen_by_all() {
    let dir = Dir::new("counted");
    let (one, two) = (file(&dir.0).unwrap(), file(&dir.0).unwrap());
    let word = |region: &'static Region| region.counters.get(Counter::Repairs.index()).unwrap();
    word(one).fetch_add(2, Relaxed);
    assert_eq!(word(two).load(Relaxed), 2);
    assert_ne!(one.life.load(Relaxed), 0);
    assert_eq!(one.life.load(Relaxed), two.life.load(Relaxed));
}

/// Else each look for one node's keys goes through all places while another one is away.
#[test]
fn nodes_whose_names_end_differently_have_counts_of_their_own() {
    let whose = |port| name_of(format!("cache\0 10.0.0.1:{port}").as_bytes());
    let numbers = (11_211..11_219).map(|port| missed::number(whose(port)));
    let numbers: std::collections::BTreeSet<usize> = numbers.collect();
    // Two may meet by chance.
    assert!(numbers.len() >= 6, "{numbers:?}");
}

#[test]
fn one_process_at_a_time_empties_a_node_and_who_died_at_it_keeps_it_for_two_seconds() {
    let dir = Dir::new("claim");
    let (one, two) = (file(&dir.0).unwrap(), file(&dir.0).unwrap());
    let claim = one.missed.claim_emptying(1, 5000).unwrap();
    assert_eq!(two.missed.claim_emptying(1, 5001), None);
    // By a clock that was read before the other's.
    assert_eq!(two.missed.claim_emptying(1, 4999), None);
    assert!(two.missed.claim_emptying(2, 5001).is_some(), "another node");
    one.missed.emptied(1, claim);
    let second = two.missed.claim_emptying(1, 5002).unwrap();
    assert_eq!(one.missed.claim_emptying(1, 7002), None);
    let third = one.missed.claim_emptying(1, 7003).unwrap();
    two.missed.emptied(1, second);
    assert_eq!(two.missed.claim_emptying(1, 7004), None, "it is not his");
    one.missed.emptied(1, third);
    assert!(two.missed.claim_emptying(1, 7004).is_some());
}

#[test]
fn who_keeps_a_key_is_seen_at_once_by_who_looks_for_that_node_and_by_nobody_else() {
    let dir = Dir::new("new");
    let (one, two) = (file(&dir.0).unwrap(), file(&dir.0).unwrap());
    let (a, b) = (1 << 60, 2 << 60);
    let (mut seen_a, mut seen_b) = (0, 0);
    assert!(!two.missed.has_new(a, &mut seen_a));
    assert_eq!(one.missed.keep(a, b"k", 1000), Kept::Yes);
    assert!(two.missed.has_new(a, &mut seen_a));
    assert!(!two.missed.has_new(a, &mut seen_a), "nothing since");
    assert!(!two.missed.has_new(b, &mut seen_b));
    assert_eq!(one.missed.keep(a, b"other", 1000), Kept::Yes);
    assert!(two.missed.has_new(a, &mut seen_a));
    for miss in two.missed.keys(a, 10) {
        two.missed.mended(a, &miss, 1000);
    }
    assert_eq!(one.missed.kept(), 0);
    assert!(!one.missed.has_new(a, &mut 0), "all are mended");
    assert_eq!(one.missed.keep(b, b"k", 1000), Kept::Yes);
    assert!(two.missed.has_new(b, &mut seen_b));
    assert!(!two.missed.has_new(a, &mut seen_a));
}
