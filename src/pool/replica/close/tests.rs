//! A node without room, answer by answer.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

use super::super::{Item, Over, Record, Rules, Token};
use super::*;
use crate::wire::copied::VERSION_LEAST;

mod late;

const BASE: Version = Version(7 << 20);

/// What those nodes' record is told as.
fn trusted() -> Reply {
    Reply::Record {
        record: Record::new(1, 9).trusted(),
        cas: 3,
    }
}

/// What was read on three nodes that have it, all in their first life, with the turn on each.
fn grips(sure_until: u64) -> Grips {
    let stamp = Stamp {
        version: BASE,
        inc: 1,
        tombstone: false,
        mended: false,
        witness: false,
    };
    let view = |name: &str| {
        let mut view = View::new(name.into());
        view.contact = Contact::Known;
        view.record = Some((Record::new(1, 9).trusted(), 3));
        view.token = true;
        view.item = Some(Item {
            cas: 5,
            stamp: Some(stamp),
            data: Some(Arc::from(*b"old")),
            left: 100,
            token: Token::Won,
        });
        view
    };
    Grips {
        nodes: ["a", "b", "c"].map(view).to_vec(),
        lists: vec![vec![0, 1, 2]],
        copies: 3,
        rules: Rules::ALL,
        host: "web".into(),
        base: BASE,
        destroyed: false,
        seen: BASE,
        read_at: 1000,
        held_since: Some(1000),
        sure_until,
        data: Arc::from(*b"old"),
    }
}

/// The same on servers with `E`, where nobody looks first.
fn with_versions(mut grips: Grips) -> Grips {
    for view in &mut grips.nodes {
        view.item
            .iter_mut()
            .for_each(|item| item.cas = VERSION_LEAST);
    }
    grips
}

/// Writes at `now` on nodes that refuse as many stores as this and then take them; each node's
/// commands after the first pipeline, reads of the record left out, and how it ended.
fn on_full_nodes(sure_until: u64, refusals: usize) -> (Vec<Command>, Option<Closed>) {
    let mut out = Vec::new();
    let write = Ending::Write(Arc::from(*b"new"));
    let grips = grips(sure_until);
    let item = grips.nodes[0].item.clone();
    let mut close = Close::new(grips, write, 100, 1000, 1, &mut out);
    let (mut said, mut refused) = (Vec::new(), [0; 3]);
    while !out.is_empty() {
        let Send { place, commands } = out.remove(0);
        let replies = commands.iter().map(|command| match command {
            Command::Write { .. } if refused[place] < refusals => {
                refused[place] += 1;
                Reply::Refused
            }
            Command::Write { .. } | Command::DoubtRecord { .. } => Reply::Done { cas: 6 },
            Command::ReadRecord => trusted(),
            Command::Read { .. } => item.clone().map_or(Reply::Miss, Reply::Item),
            other => panic!("{other:?}"),
        });
        let replies = replies.collect();
        let reads =
            |command: &Command| matches!(command, Command::ReadRecord | Command::Read { .. });
        let about = |command: &Command| place == 0 && !reads(command);
        said.extend(commands.into_iter().filter(about));
        close.heard(1000, place, Ok(replies), &mut out);
    }
    (said.split_off(1), close.outcome())
}

/// An ending at `now` of a turn that was got then, when the third node had not answered at 1000, or
/// a change to it was lost: is it asked at once, does it get what the ending is, and how many nodes
/// say that it missed something?
fn back(now: u64, maybe: bool, ending: Ending) -> (bool, bool, usize) {
    let mut out = Vec::new();
    let mut grips = grips(now + 1);
    let item = grips.nodes[2].item.take();
    grips.nodes[2].contact = Contact::Down { maybe };
    (grips.nodes[2].token, grips.nodes[2].lost_at) = (false, 1000);
    grips.read_at = now;
    let mut close = Close::new(grips, ending, 100, now, 1, &mut out);
    let asked = out.iter().any(|send| send.place == 2);
    let (mut gets, mut lists) = (false, 0);
    while !out.is_empty() && lists == 0 {
        let Send { place, commands } = out.remove(0);
        let replies = commands.iter().map(|command| match command {
            Command::Write { .. } | Command::Unlock { .. } => {
                gets |= place == 2;
                Reply::Done { cas: 6 }
            }
            Command::SetRecord { .. } => {
                lists += 1;
                Reply::Done { cas: 0 }
            }
            Command::Read { .. } | Command::Touch { .. } => {
                gets |= place == 2 && matches!(command, Command::Touch { life } if *life > 100);
                Reply::Item(item.clone().unwrap_or_else(|| panic!("once")))
            }
            Command::ReadRecord => trusted(),
            other => panic!("{other:?}"),
        });
        let replies = replies.collect();
        close.heard(now, place, Ok(replies), &mut out);
    }
    assert!(lists > 0 || close.outcome() == Some(Closed::Done { copies: 3 }));
    (asked, gets, lists)
}

#[test]
fn a_node_that_was_away_when_a_long_turn_began_is_written_to_when_it_is_back() {
    for ending in [Ending::Write(Arc::from(*b"new")), Ending::Touch] {
        let back = |now, maybe| back(now, maybe, ending.clone());
        assert_eq!(back(1999, false), (false, false, 1));
        assert_eq!(back(2000, false), (true, true, 0), "{ending:?}");
        assert_eq!(back(9000, true), (false, false, 1), "it may still do that");
    }
}

fn versions(said: &[Command]) -> Vec<Option<bool>> {
    let kinds = said.iter().map(|command| match command {
        Command::Write {
            over: Over::Nothing,
            stamp,
            ..
        } => Some(stamp.version == BASE),
        Command::DoubtRecord { cas: 3 } => None,
        other => panic!("{other:?}"),
    });
    kinds.collect()
}

#[test]
fn a_store_goes_where_the_old_item_was_while_the_turn_is_surely_ours() {
    let (said, closed) = on_full_nodes(1001, 1);
    assert_eq!(versions(&said), [Some(false)]);
    assert_eq!(closed, Some(Closed::Done { copies: 3 }));
}

#[test]
fn what_two_refusals_took_away_is_put_back() {
    let (said, closed) = on_full_nodes(1001, 2);
    assert_eq!(versions(&said), [Some(false), Some(true)]);
    assert_eq!(closed, Some(Closed::Failed));
}

#[test]
fn who_cannot_take_back_what_it_dropped_is_doubted() {
    let (said, closed) = on_full_nodes(1001, 3);
    assert_eq!(versions(&said), [Some(false), Some(true), None]);
    assert_eq!(closed, Some(Closed::Failed));
}

#[test]
fn what_a_refusal_took_away_after_half_a_lease_may_be_anybodys_and_nothing_goes_in_its_place() {
    let (said, closed) = on_full_nodes(1000, 1);
    assert_eq!(versions(&said), [None]);
    assert_eq!(closed, Some(Closed::Failed));
}

/// Writes so many copies while the node `silent` is, with word for the rest. On the other two the
/// write goes through; then, as the records are to say who missed it, somebody was there first, who left
/// `over` behind, in records of these lives and names: how the ending ends.
fn overtaken(
    copies: usize,
    silent: usize,
    over: [Version; 2],
    records: [(u16, u64); 2],
) -> Option<Closed> {
    let mut out = Vec::new();
    let write = Ending::Write(Arc::from(*b"new"));
    let mut grips = grips(1001);
    grips.copies = copies;
    if let Some(stamp) = grips.nodes[2].item.as_mut().and_then(|i| i.stamp.as_mut()) {
        stamp.witness = copies == 2;
    }
    let mut close = Close::new(grips, write, 100, 1000, 1, &mut out);
    let (mut first, mut words) = ([true; 2], [false; 2]);
    let mut kept = [Record::new(1, 9).trusted(), Record::new(1, 9).trusted()];
    while !out.is_empty() {
        let Send { place, commands } = out.remove(0);
        if place == silent {
            close.heard(1000, place, Err(Lost { maybe_done: true }), &mut out);
            continue;
        }
        let at = if silent == 0 { place - 1 } else { place };
        let replies = commands.iter().map(|command| match command {
            Command::Write { stamp, .. } => {
                words[at] = stamp.witness;
                Reply::Done { cas: 6 }
            }
            Command::SetRecord { .. } if std::mem::take(&mut first[at]) => {
                kept[at] = Record::new(records[at].0, records[at].1).trusted();
                Reply::Exists
            }
            Command::SetRecord { record, .. } => {
                kept[at] = record.clone();
                Reply::Done { cas: 4 }
            }
            Command::Read { .. } => Reply::Item(Item {
                cas: 9,
                stamp: Some(Stamp {
                    version: over[at],
                    inc: records[at].0,
                    tombstone: false,
                    mended: false,
                    witness: words[at],
                }),
                data: None,
                left: 100,
                token: Token::Taken,
            }),
            Command::ReadRecord => Reply::Record {
                record: kept[at].clone(),
                cas: 3,
            },
            other => panic!("{other:?}"),
        });
        let replies = replies.collect();
        close.heard(1000, place, Ok(replies), &mut out);
    }
    let closed = close.outcome();
    if matches!(closed, Some(Closed::Done { .. })) {
        let lists = |record: &Record| record.lists(["a", "b", "c"][silent]);
        assert!(kept.iter().all(lists), "who missed it is listed");
    }
    closed
}

#[test]
fn who_wrote_over_a_write_that_had_won_before_it_said_who_missed_it_takes_nothing_from_it() {
    let ours = Version::fenced(1000, BASE, 1);
    let next = Version::fenced(1001, ours, 2);
    let won = Some(Closed::Done { copies: 2 });
    let lost = Some(Closed::Conflict);
    let same = [(1, 9); 2];
    assert_eq!(overtaken(3, 2, [next, next], same), won);
    assert_eq!(overtaken(3, 2, [next, ours], same), won);
    let older = Version(BASE.0 + 1);
    assert!(older < ours, "who had not read it");
    assert_eq!(overtaken(3, 2, [older, older], same), lost);
    assert_eq!(
        overtaken(3, 2, [next, next], [(2, 9); 2]),
        lost,
        "in another life"
    );
    assert_eq!(
        overtaken(3, 2, [next, next], [(1, 8); 2]),
        lost,
        "a full node dropped it"
    );
    // The second node has the value, the third has word of it.
    assert_eq!(overtaken(2, 0, [next, next], same), won);
    assert_eq!(overtaken(2, 0, [next, ours], same), won);
    assert_eq!(
        overtaken(2, 0, [ours, next], same),
        lost,
        "word needs no reading"
    );
}

#[test]
fn a_write_is_not_acknowledged_where_nobody_could_be_told_who_missed_it() {
    let mut out = Vec::new();
    let write = Ending::Write(Arc::from(*b"new"));
    let mut close = Close::new(grips(1001), write, 100, 1000, 1, &mut out);
    let mut written = None;
    while !out.is_empty() {
        let Send { place, commands } = out.remove(0);
        if place == 2 {
            close.heard(1000, place, Err(Lost { maybe_done: true }), &mut out);
            continue;
        }
        let replies = commands.iter().map(|command| match command {
            Command::Write { stamp, .. } => {
                written = Some(*stamp);
                Reply::Done { cas: 6 }
            }
            // Somebody else is always a moment earlier.
            Command::SetRecord { .. } => Reply::Exists,
            Command::Read { .. } => Reply::Item(Item {
                cas: 6,
                stamp: written,
                data: None,
                left: 100,
                token: Token::Free,
            }),
            Command::ReadRecord => trusted(),
            other => panic!("{other:?}"),
        });
        let replies = replies.collect();
        close.heard(1000, place, Ok(replies), &mut out);
    }
    assert_eq!(close.outcome(), Some(Closed::Failed));
}

/// With two copies a server has only word in the new list and the value in the old one.
#[test]
fn a_server_with_two_names_is_given_the_value_under_both_where_one_list_says_so() {
    let mut grips = grips(2000);
    let mut twin = grips.nodes[2].clone();
    twin.name = "old c".into();
    for (id, view) in (1..).zip(&mut grips.nodes) {
        view.record = Some((Record::new(1, id).trusted(), 3));
    }
    twin.record = grips.nodes[2].record.clone();
    grips.nodes.push(twin);
    (grips.copies, grips.lists) = (2, vec![vec![0, 1, 2], vec![0, 3, 1]]);
    let mut out = Vec::new();
    let write = Ending::Write(Arc::from(*b"new"));
    let _ = Close::new(grips, write, 100, 1000, 1, &mut out);
    let word = |send: &Send| match &send.commands[..] {
        [Command::Write { stamp, .. }, ..] => stamp.witness,
        other => panic!("{other:?}"),
    };
    let words: Vec<bool> = out.iter().map(word).collect();
    assert_eq!(words, [false; 4]);
}

/// The third of three nodes has the value though it is to have only word, as another list said: is
/// that left alone until one of the first two has the next value? What it gets then, if anything.
fn over_a_value(refuses: [bool; 2]) -> Option<bool> {
    let mut grips = with_versions(grips(0));
    grips.copies = 2;
    let mut out = Vec::new();
    let write = Ending::Write(Arc::from(*b"new"));
    let mut close = Close::new(grips, write, 100, 1000, 1, &mut out);
    assert!(out.iter().all(|send| send.place < 2));
    while !out.is_empty() {
        let Send { place, commands } = out.remove(0);
        if let (2, Some(Command::Write { stamp, .. })) = (place, commands.first()) {
            return Some(stamp.witness);
        }
        let replies = commands.iter().map(|command| match command {
            Command::Write { .. } if refuses[place] => Reply::Refused,
            Command::ReadRecord => trusted(),
            _ => Reply::Done { cas: 6 },
        });
        let replies = replies.collect();
        close.heard(1000, place, Ok(replies), &mut out);
    }
    None
}

#[test]
fn a_value_gives_way_to_word_only_where_others_took_the_next_value() {
    assert_eq!(over_a_value([false, false]), Some(true));
    assert_eq!(over_a_value([true, false]), Some(false), "the value");
    assert_eq!(over_a_value([true, true]), None);
}

/// The same where the second node was without our turn and changed, so that it comes last, too, and
/// `refuses` then: which nodes are written to in which order, and is it only word?
fn behind_a_late_node(refuses: bool) -> Vec<(usize, bool)> {
    let mut grips = with_versions(grips(0));
    // Versions, so that nobody looks first.
    for view in &mut grips.nodes {
        view.item
            .iter_mut()
            .for_each(|item| item.cas = VERSION_LEAST);
    }
    let item = grips.nodes[1].item.clone();
    (grips.copies, grips.nodes[1].token) = (2, false);
    let mut out = Vec::new();
    let write = Ending::Write(Arc::from(*b"new"));
    let mut close = Close::new(grips, write, 100, 1000, 1, &mut out);
    let mut order = Vec::new();
    while !out.is_empty() {
        let Send { place, commands } = out.remove(0);
        let replies = commands.iter().map(|command| match command {
            Command::Write { stamp, .. } => {
                order.push((place, stamp.witness));
                let seconds = order.iter().filter(|(other, _)| *other == place).count();
                match (place, seconds) {
                    (1, 1) => Reply::Exists,
                    (1, _) if refuses => Reply::Refused,
                    _ => Reply::Done { cas: 6 },
                }
            }
            Command::Read { .. } => item.clone().map_or(Reply::Miss, |item| {
                Reply::Item(Item {
                    cas: 7,
                    token: Token::Free,
                    ..item
                })
            }),
            Command::ReadRecord => trusted(),
            _ => Reply::Done { cas: 6 },
        });
        let replies = replies.collect();
        close.heard(1000, place, Ok(replies), &mut out);
        if order.last().is_some_and(|(place, _)| *place == 2) {
            break;
        }
    }
    order
}

#[test]
fn a_value_gives_way_to_word_after_whoever_else_comes_last() {
    let first = [(0, false), (1, false), (1, false)];
    assert_eq!(
        behind_a_late_node(false),
        [&first[..], &[(2, true)]].concat()
    );
    assert_eq!(
        behind_a_late_node(true),
        [&first[..], &[(2, false)]].concat()
    );
}

/// A write on nodes that count cas values up, of which a mender gives the first what it lacked, while
/// the turn is surely ours or may be another's by now.
fn on_a_mended_node(sure_until: u64, rules: Rules) -> Option<Closed> {
    let mut out = Vec::new();
    let mut grips = grips(sure_until);
    grips.rules = rules;
    let mut mended = grips.nodes[0]
        .item
        .clone()
        .unwrap_or_else(|| panic!("it has one"));
    (mended.cas, mended.token) = (8, Token::Free);
    let older = grips.nodes[0]
        .item
        .as_mut()
        .and_then(|item| item.stamp.as_mut());
    older.unwrap_or_else(|| panic!("ours")).version = Version(6 << 20);
    let write = Ending::Write(Arc::from(*b"new"));
    let mut close = Close::new(grips, write, 100, 1000, 1, &mut out);
    while !out.is_empty() {
        let Send { place, commands } = out.remove(0);
        let replies = commands.iter().map(|command| match command {
            Command::Write { over, .. } if place == 0 && *over != Over::Cas(8) => Reply::Exists,
            Command::Write { .. } | Command::Unlock { .. } => Reply::Done { cas: 9 },
            Command::SetRecord { .. } => Reply::Done { cas: 0 },
            Command::ReadRecord => trusted(),
            Command::Read { .. } => Reply::Item(mended.clone()),
            other => panic!("{other:?}"),
        });
        let replies = replies.collect();
        close.heard(1000, place, Ok(replies), &mut out);
    }
    close.outcome()
}

#[test]
fn what_a_mender_stores_under_a_turn_that_is_surely_ours_is_no_turn_that_was_taken_over() {
    let done = Some(Closed::Done { copies: 3 });
    assert_eq!(on_a_mended_node(2000, Rules::ALL), done);
    assert_eq!(on_a_mended_node(500, Rules::ALL), Some(Closed::Conflict));
    let without = Rules {
        sure: false,
        ..Rules::ALL
    };
    assert_eq!(on_a_mended_node(2000, without), Some(Closed::Conflict));
}
