//! Who comes late, and who only seems to have lost his turn.

use super::*;

/// The commands to the first node of a write at `now` on a turn that was sure until 2000, where its
/// item has this cas value; it answers looks with an item of `version` in the life `inc` that has
/// the same, and takes all writes.
fn counted_up_to(now: u64, cas: u64, (version, inc): (Version, u16)) -> Vec<Command> {
    let (mut out, mut said) = (Vec::new(), Vec::new());
    let mut grips = grips(2000);
    let Some(item) = &mut grips.nodes[0].item else {
        panic!("it has one")
    };
    item.cas = cas;
    let mut shown = item.clone();
    (shown.token, shown.stamp) = (
        Token::Taken,
        shown.stamp.map(|stamp| Stamp {
            version,
            inc,
            ..stamp
        }),
    );
    let others = grips.nodes[1].item.clone();
    let write = Ending::Write(Arc::from(*b"new"));
    let mut close = Close::new(grips, write, 100, now, 1, &mut out);
    while !out.is_empty() {
        let Send { place, commands } = out.remove(0);
        let replies = commands.iter().map(|command| match (command, place) {
            (Command::Write { .. } | Command::Unlock { .. }, _) => Reply::Done { cas: 6 },
            (Command::SetRecord { .. }, _) => Reply::Done { cas: 0 },
            (Command::Read { .. }, 0) => Reply::Item(shown.clone()),
            (Command::Read { .. }, _) => Reply::Item(others.clone().unwrap_or_else(|| panic!())),
            (Command::ReadRecord, 0) => Reply::Record {
                record: Record::new(inc, 9).trusted(),
                cas: 3,
            },
            (Command::ReadRecord, _) => trusted(),
            (other, _) => panic!("{other:?}"),
        });
        let replies = replies.collect();
        said.extend(commands.into_iter().filter(|_| place == 0));
        close.heard(now, place, Ok(replies), &mut out);
    }
    assert_ne!(close.outcome(), None);
    said.retain(|command| !matches!(command, Command::ReadRecord | Command::SetRecord { .. }));
    said
}

#[test]
fn who_comes_late_does_not_write_over_what_a_server_has_counted_up_to_again() {
    let write = |command: &Command| matches!(command, Command::Write { over: Over::Cas(cas), .. } if *cas == 5);
    let look = |command: &Command| matches!(command, Command::Read { .. });
    let newer = BASE.tick().tick();
    let in_time = counted_up_to(1999, 5, (BASE, 1));
    assert!(write(&in_time[0]), "{in_time:?}");
    let as_it_was = counted_up_to(2000, 5, (BASE, 1));
    assert!(look(&as_it_was[0]) && write(&as_it_was[1]), "{as_it_was:?}");
    let of_another_life = counted_up_to(2000, 5, (newer, 2));
    assert!(
        look(&of_another_life[0]) && !of_another_life.iter().any(write),
        "{of_another_life:?}"
    );
    let version = counted_up_to(2000, VERSION_LEAST, (BASE, 1));
    assert!(!look(&version[0]), "no server counts that far: {version:?}");
}

/// A write with a turn that is sure, where the first node refuses it and a reader brings back what
/// was read before it is asked again, and the second one has the same under another cas value; with
/// cas values that are versions, or the server's own count.
fn beside_a_reader(first_cas: u64) -> Option<Closed> {
    let mut out = Vec::new();
    let mut grips = grips(2000);
    for view in &mut grips.nodes {
        view.item.iter_mut().for_each(|item| item.cas = first_cas);
    }
    let brought = grips.nodes[0].item.clone().map(|item| Item {
        cas: first_cas + 1,
        token: Token::Free,
        ..item
    });
    let write = Ending::Write(Arc::from(*b"new"));
    let mut close = Close::new(grips, write, 100, 1000, 1, &mut out);
    let mut refused = 0;
    while !out.is_empty() {
        let Send { place, commands } = out.remove(0);
        let replies = commands.iter().map(|command| match command {
            Command::Write { over, .. } if place == 0 => match over {
                Over::Cas(cas) if *cas == first_cas && refused == 0 => {
                    refused = 1;
                    Reply::Refused
                }
                Over::Cas(cas) if *cas == first_cas + 1 => Reply::Done { cas: 9 },
                Over::Nothing => Reply::NotStored,
                other => panic!("{other:?}"),
            },
            Command::Write { .. } if place == 1 && first_cas < VERSION_LEAST => {
                Reply::Done { cas: 9 }
            }
            Command::Write {
                over: Over::Cas(cas),
                ..
            } if place == 1 && *cas == first_cas => Reply::Exists,
            Command::Write { .. } => Reply::Done { cas: 9 },
            Command::Read { .. } => brought.clone().map_or(Reply::Miss, Reply::Item),
            Command::ReadRecord => trusted(),
            other => panic!("{other:?}"),
        });
        let replies = replies.collect();
        close.heard(1000, place, Ok(replies), &mut out);
    }
    close.outcome()
}

#[test]
fn who_brings_back_what_was_read_takes_no_turn() {
    let all = Some(Closed::Done { copies: 3 });
    assert_eq!(beside_a_reader(5), all, "behind a refusal");
    assert_eq!(beside_a_reader(VERSION_LEAST), all, "with the same version");
}

/// A touch at the end of a turn that is long over: the first two nodes have a write of this version by
/// now; the third was not asked, or has nothing and refuses what was read (`stores`). How it ends, and
/// whether that one is said to have missed it.
fn late_touch(version: Version, stores: bool) -> (Option<Closed>, bool) {
    let mut out = Vec::new();
    let mut grips = grips(2000);
    match stores {
        true => grips.nodes[2].item = None,
        false => grips.nodes[2].contact = Contact::Down { maybe: true },
    }
    let shown = grips.nodes[0].item.clone().map(|item| Item {
        cas: 8,
        stamp: item.stamp.map(|stamp| Stamp { version, ..stamp }),
        token: Token::Free,
        ..item
    });
    let mut close = Close::new(grips, Ending::Touch, 100, 90_000, 1, &mut out);
    let mut lists = false;
    while !out.is_empty() && !lists {
        let Send { place, commands } = out.remove(0);
        let replies = commands.iter().map(|command| match command {
            Command::Unlock { .. } => Reply::Exists,
            Command::SetRecord { .. } => {
                lists = true;
                Reply::Done { cas: 0 }
            }
            Command::Write { .. } => Reply::Refused,
            Command::Touch { .. } | Command::Read { .. } => match place {
                2 => Reply::Miss,
                _ => shown.clone().map_or(Reply::Miss, Reply::Item),
            },
            Command::ReadRecord => trusted(),
            other => panic!("{other:?}"),
        });
        let replies = replies.collect();
        close.heard(90_000, place, Ok(replies), &mut out);
    }
    (close.outcome(), lists)
}

#[test]
fn a_touch_behind_a_later_write_says_of_nobody_that_he_missed_it() {
    let later = Version(9 << 20);
    let done = Some(Closed::Done { copies: 2 });
    assert_eq!(late_touch(later, false), (done, false));
    assert_eq!(late_touch(BASE, false), (None, true));
    assert_eq!(
        late_touch(later, true),
        (None, true),
        "a store may have taken something away"
    );
}

/// A write with a turn that is sure, where the first node has what was read under another cas value
/// meanwhile, says `id` as the name of its life, and takes the next write; the third is away. How it ends.
fn brought_again(id: u64) -> Option<Closed> {
    let mut out = Vec::new();
    let mut grips = grips(2000);
    grips.nodes[2].contact = Contact::Down { maybe: true };
    let brought = grips.nodes[0].item.clone().map(|item| Item {
        cas: 8,
        token: Token::Free,
        ..item
    });
    let write = Ending::Write(Arc::from(*b"new"));
    let mut close = Close::new(grips, write, 100, 1000, 1, &mut out);
    let mut records = [id, 9].map(|id| Record::new(1, id).trusted());
    while !out.is_empty() {
        let Send { place, commands } = out.remove(0);
        let replies = commands.iter().map(|command| match command {
            Command::Write { over, .. } if place == 0 && *over != Over::Cas(8) => Reply::Exists,
            Command::Write { .. } => Reply::Done { cas: 9 },
            Command::SetRecord { record, .. } => {
                records[place] = record.clone();
                Reply::Done { cas: 0 }
            }
            Command::Read { .. } => brought.clone().map_or(Reply::Miss, Reply::Item),
            Command::ReadRecord => Reply::Record {
                record: records[place].clone(),
                cas: 3,
            },
            other => panic!("{other:?}"),
        });
        let replies = replies.collect();
        close.heard(1000, place, Ok(replies), &mut out);
    }
    close.outcome()
}

#[test]
fn a_node_that_was_doubted_and_mended_meanwhile_gave_the_turn_to_nobody() {
    assert_eq!(brought_again(7), Some(Closed::Done { copies: 2 }));
    assert_eq!(
        brought_again(9),
        Some(Closed::Conflict),
        "it was taken over"
    );
}

/// The ends of turns that who held one until `now` sends, sure until 2000, where servers that count have
/// this item life by then.
fn lets_go(now: u64, inc: u16) -> usize {
    let mut out = Vec::new();
    let grips = grips(2000);
    let mut shown = grips.nodes[0].item.clone().unwrap_or_else(|| panic!());
    shown.token = Token::Taken;
    shown.stamp = shown.stamp.map(|stamp| Stamp { inc, ..stamp });
    let mut close = Close::new(grips, Ending::Release, 100, now, 1, &mut out);
    let mut ends = 0;
    while !out.is_empty() {
        let Send { place, commands } = out.remove(0);
        let replies = commands.iter().map(|command| match command {
            Command::Unlock { .. } => {
                ends += 1;
                Reply::Done { cas: 6 }
            }
            Command::Read { .. } => Reply::Item(shown.clone()),
            Command::ReadRecord => Reply::Record {
                record: Record::new(inc, 9).trusted(),
                cas: 3,
            },
            other => panic!("{other:?}"),
        });
        let replies = replies.collect();
        close.heard(now, place, Ok(replies), &mut out);
    }
    assert_eq!(close.outcome(), Some(Closed::Done { copies: 0 }));
    ends
}

#[test]
fn who_ends_late_lets_go_of_what_is_his_still_and_of_nobody_elses() {
    assert_eq!(
        [lets_go(1999, 2), lets_go(2000, 1), lets_go(2000, 2)],
        [3, 3, 0]
    );
}
