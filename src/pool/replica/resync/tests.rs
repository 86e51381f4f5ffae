//! A target that has no room, said to the mend of a key by hand.

use super::super::{Item, Kept, Moment, Stamp, Token, Version};
use super::*;
use std::sync::Arc;

/// The record of the target, which is joining, or of another node, which is believed.
fn record_of(target: bool) -> Reply {
    match target {
        true => Reply::Record {
            record: Record::new(4, 8),
            cas: 2,
        },
        false => Reply::Record {
            record: Record::new(3, 7).trusted(),
            cas: 1,
        },
    }
}

/// Node 0 has a value and is believed; node 1, the target, has nothing and refuses stores.
fn answer(mend: &mut Mend, refuses: bool, said: &mut Vec<Command>, out: &mut Vec<Send>) {
    for send in std::mem::take(out) {
        let target = send.place == 1;
        let reply = |command: &Command| match command {
            Command::ReadRecord => record_of(target),
            Command::Read { .. } if target => Reply::Miss,
            Command::Read { .. } => Reply::Item(Item {
                cas: 40,
                stamp: Some(Stamp {
                    version: Version(1 << 30),
                    inc: 3,
                    tombstone: false,
                    mended: false,
                    witness: false,
                }),
                data: Some(Arc::from(*b"data")),
                left: 100,
                token: Token::Free,
            }),
            Command::Write { .. } if refuses => Reply::Refused,
            _ => Reply::Done { cas: 99 },
        };
        let replies = send.commands.iter().map(reply).collect();
        said.extend(send.commands);
        mend.heard(0, send.place, Ok(replies), out);
    }
}

/// What was said until the end, and whether the target has the value.
fn mended(refuses: bool, kept: bool) -> (Vec<Command>, Option<bool>) {
    let (mut out, mut said) = (Vec::new(), Vec::new());
    let nodes = ["a".into(), "b".into()];
    let mut mend = Mend::new(&nodes, 1, 2, Rules::ALL, &mut out);
    if kept {
        mend = mend.kept();
    }
    while !mend.is_done() && !out.is_empty() {
        answer(&mut mend, refuses, &mut said, &mut out);
    }
    (said, mend.result())
}

#[test]
fn a_target_that_dropped_what_others_may_have_brought_is_believed_by_no_runner() {
    let doubts = |said: &[Command]| {
        let doubt = |command: &&Command| matches!(command, Command::DoubtRecord { cas: 2 });
        said.iter().filter(doubt).count()
    };
    for kept in [false, true] {
        let (said, result) = mended(true, kept);
        assert_eq!((doubts(&said), result), (1, Some(false)), "kept: {kept}");
        let (said, result) = mended(false, kept);
        assert_eq!(doubts(&said), 0, "kept: {kept}");
        assert!(result.is_some());
    }
}

/// Two of three nodes are to have the value, and the second has it, or only word of it: does the
/// third, which is mended, get only word?
fn gets_word(second_has_word: bool) -> Option<bool> {
    let mut out = Vec::new();
    let nodes = ["a", "b", "c"].map(Box::from);
    let mut mend = Mend::new(&nodes, 2, 2, Rules::ALL, &mut out);
    while !out.is_empty() {
        let Send { place, commands } = out.remove(0);
        if let Some(Command::Write { stamp, .. }) = commands.first() {
            return Some(stamp.witness);
        }
        let replies = commands.iter().map(|command| match command {
            Command::ReadRecord => record_of(place == 2),
            _ if place == 2 => Reply::Miss,
            _ => Reply::Item(Item {
                cas: 40,
                stamp: Some(Stamp {
                    version: Version(1 << 30),
                    inc: 3,
                    tombstone: false,
                    mended: false,
                    witness: place == 1 && second_has_word,
                }),
                data: Some(Arc::from(*b"data")),
                left: 100,
                token: Token::Free,
            }),
        });
        let replies = replies.collect();
        mend.heard(0, place, Ok(replies), &mut out);
    }
    None
}

#[test]
fn a_node_that_should_have_word_gets_the_value_where_another_has_only_word_of_it() {
    assert_eq!(gets_word(false), Some(true));
    assert_eq!(gets_word(true), Some(false));
}

const NAMES: [&str; 2] = ["a:1", "b:1"];

/// A pass over node 0, which has this record, while node 1 has that one; what was said to the end
/// of its first half.
fn pass(record: &Record, other: &Record, waiting: Option<Waiting>) -> (Resync, Vec<Command>) {
    let mut out = Vec::new();
    let resync = Resync::new(&NAMES.map(Box::from), 0, Rules::ALL, 77, &mut out);
    let mut resync = resync.waiting(waiting);
    let mut records = [record.clone(), other.clone()];
    let mut said = Vec::new();
    play(&mut resync, &mut records, &mut said, out);
    (resync, said)
}

/// Nodes that have these records answer until nothing is said any more.
fn play(resync: &mut Resync, records: &mut [Record; 2], said: &mut Vec<Command>, out: Vec<Send>) {
    let mut out = out;
    while !out.is_empty() {
        for send in std::mem::take(&mut out) {
            let replies = send.commands.iter().map(|command| match command {
                Command::SetRecord { record, .. } => {
                    records[send.place] = record.clone();
                    Reply::Done { cas: 0 }
                }
                _ => Reply::Record {
                    record: records[send.place].clone(),
                    cas: 1,
                },
            });
            let replies = replies.collect();
            let changes = |command: &&Command| **command != Command::ReadRecord;
            said.extend(send.commands.iter().filter(changes).cloned());
            resync.heard(0, send.place, Ok(replies), &mut out);
        }
    }
}

#[test]
fn a_node_that_waits_keeps_its_name_until_it_is_trusted_under_it() {
    let now = Moment {
        process: 1,
        uptime: 1,
    };
    let (record, other) = (Record::new(4, 8), Record::new(3, 7).trusted());
    let waiting = Waiting::begin(&record, now);
    let (mut resync, said) = pass(&record, &other, Some(waiting.clone()));
    assert_eq!((resync.result(), said), (Some(Resynced::Copy), Vec::new()));
    assert!(resync.waits() && resync.record() == Some(&record));
    let (mut out, mut said) = (Vec::new(), Vec::new());
    resync.finish(&mut out);
    play(
        &mut resync,
        &mut [record.clone(), other.clone()],
        &mut said,
        out,
    );
    assert_eq!(resync.result(), Some(Resynced::Trusted));
    let trusted = record.trusted();
    assert!(matches!(&said[..], [Command::SetRecord { record, .. }] if *record == trusted));

    // Somebody wrote without it, it is in doubt, or nothing was noted: it begins anew.
    let mut lists = other.clone();
    lists.say("a:1", "web1", 5, Kept::No);
    for (record, other, noted) in [
        (record.clone(), &lists, Some(waiting.clone())),
        (record.doubted(), &other, Some(waiting)),
        (record, &other, None),
    ] {
        let (resync, said) = pass(&record, other, noted);
        assert!(!resync.waits() && resync.result() == Some(Resynced::Copy));
        let named = resync.record().map(|record| record.id);
        assert!(named.is_some() && named != Some(record.id) && !said.is_empty());
    }
}
