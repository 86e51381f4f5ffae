//! Whose turn is taken over when, said to a read by hand.

use super::super::{Close, Ending, Item, Record, Stamp, Token};
use super::*;

const LEASE: u64 = 30_000;

/// Of the item on the first node.
const CAS: u64 = 40;

const STAMP: Stamp = Stamp {
    version: Version(9),
    inc: 3,
    tombstone: false,
    mended: false,
    witness: false,
};

/// Both nodes of a pool answer: trusted, with an item whose token is as said, and which was given
/// its life of 100 seconds at `renewed`.
fn answer(open: &mut Open, times: [u64; 2], token: Token, out: &mut Vec<Send>) {
    answer_of(open, times, token, CAS, out);
}

/// The same of items with this cas value and the next.
fn answer_of(
    open: &mut Open,
    [renewed, now]: [u64; 2],
    token: Token,
    cas: u64,
    out: &mut Vec<Send>,
) {
    for send in std::mem::take(out) {
        let replies = send.commands.iter().map(|command| match command {
            Command::ReadRecord => Reply::Record {
                record: Record::new(3, 7).trusted(),
                cas: 1,
            },
            Command::Read { .. } => Reply::Item(Item {
                cas: cas + send.place as u64,
                stamp: Some(STAMP),
                data: Some(Arc::from(*b"data")),
                left: 100 - ((now - renewed) / 1000) as u32,
                token,
            }),
            _ => Reply::Done { cas: 99 },
        });
        open.heard(now, send.place, Ok(replies.collect()), out);
    }
}

fn begun(out: &mut Vec<Send>) -> Open {
    let turn = Turn {
        wait: 2 * LEASE,
        lease: LEASE,
    };
    begun_at(0, turn, out)
}

fn begun_at(now: u64, turn: Turn, out: &mut Vec<Send>) -> Open {
    let wish = Wish {
        nodes: vec!["a".into(), "b".into()],
        asked: 2,
        copies: 3,
        rules: Rules::ALL,
        turn: Some(turn),
        fresh: false,
        epoch: None,
        host: "web".into(),
        random: 5,
    };
    Open::new(wish, now, out)
}

/// The marks that the holder of the turn on those items has.
fn marks() -> [u64; 2] {
    let mut out = Vec::new();
    let mut open = begun(&mut out);
    answer(&mut open, [0, 0], Token::Won, &mut out);
    open.outcome().map_or([0; 2], |opened| opened.grips.marks())
}

fn unlocks(out: &[Send]) -> Vec<&Command> {
    let commands = out.iter().flat_map(|send| &send.commands);
    let unlocks = commands.filter(|command| matches!(command, Command::Unlock { .. }));
    unlocks.collect()
}

/// Does a waiter take the turn over at `now`, when the neighbour is as said and the item was
/// given a new life at `renewed`?
fn takes_over_from(renewed: u64, now: u64, neighbour: Option<Neighbour>) -> bool {
    let mut out = Vec::new();
    let mut open = begun(&mut out);
    answer(&mut open, [0, 0], Token::Taken, &mut out);
    assert!(open.wait().is_some() && out.is_empty());
    open.hurry(now, neighbour);
    open.wake(now, &mut out);
    let at_once = unlocks(&out).len();
    // Of whom nothing is known it is taken only as a look just now shows him.
    assert!(at_once == 0 || neighbour.is_some_and(|neighbour| neighbour.over));
    if at_once == 0 {
        answer(&mut open, [renewed, now], Token::Taken, &mut out);
    }
    at_once.max(unlocks(&out).len()) == 2
}

fn takes_over(now: u64, neighbour: Option<Neighbour>) -> bool {
    takes_over_from(0, now, neighbour)
}

#[test]
fn the_turn_of_who_got_it_during_a_lease_from_somebody_who_changed_nothing_is_left_to_him() {
    assert!(takes_over(LEASE, None));
    assert!(!takes_over(LEASE - 1, None));
    assert!(
        !takes_over_from(3000, LEASE, None),
        "whose life was renewed"
    );
    assert!(!takes_over_from(LEASE - 1000, LEASE, None));
}

/// Does who looks again and again take the turn over at the last of these looks? Each is when it is,
/// and when the item was given a new life.
fn takes_over_after(looks: impl IntoIterator<Item = [u64; 2]>, first_cas: u64) -> bool {
    let (mut watch, mut cas) = (Watch::default(), first_cas);
    let mut took = false;
    for [now, renewed] in looks {
        assert!(!took, "before {now}");
        let mut out = Vec::new();
        let mut open = begun_at(now, Turn::to_bring(LEASE), &mut out);
        open.go_on(std::mem::take(&mut watch));
        answer_of(&mut open, [renewed, now], Token::Taken, cas, &mut out);
        cas = CAS;
        took = unlocks(&out).len() == 2;
        if !took {
            let opened = open.outcome().unwrap();
            assert_eq!(opened.found, Found::Locked);
            watch = opened.grips.watch();
        }
    }
    took
}

#[test]
fn a_turn_is_taken_over_from_who_had_it_for_a_lease_in_many_looks() {
    let every = |pause: usize| (0..=LEASE).step_by(pause);
    let looks = |pause| every(pause).map(|now| [now, 0]);
    assert!(takes_over_after(looks(1000), CAS));
    assert!(takes_over_after(looks(3000), CAS));
    let early = looks(1000).filter(|[now, _]| *now < LEASE);
    assert!(!takes_over_after(early.chain([[LEASE - 1, 0]]), CAS));
    assert!(!takes_over_after(looks(1000), CAS - 1), "another item");
    let renewed = every(1000).map(|now| [now, if now < 5000 { 0 } else { 3000 }]);
    assert!(!takes_over_after(renewed, CAS));
    assert!(!takes_over_after(looks(5000), CAS), "looked away too long");
    let set_back = [[0, 0], [2000, 0], [1000, 0]];
    let after = every(1000).skip(2).map(|now| [now, 0]);
    assert!(!takes_over_after(set_back.into_iter().chain(after), CAS));
}

/// Two nodes answer so many milliseconds after they were asked, a lease after both were seen to be
/// taken; how many of them are then told that the turn is taken over, and how many after a second
/// look, which takes as long, and by which the first one is somebody else's.
fn behind_slow_nodes(takes: u64) -> (usize, usize) {
    let mut out = Vec::new();
    let mut open = begun(&mut out);
    answer(&mut open, [0, 0], Token::Taken, &mut out);
    open.wake(LEASE, &mut out);
    answer(&mut open, [0, LEASE + takes], Token::Taken, &mut out);
    let at_once = unlocks(&out).len();
    if at_once > 0 {
        return (at_once, 0);
    }
    assert_eq!(out.len(), 2, "both are looked at again");
    let now = LEASE + 2 * takes;
    let mut first = vec![out.remove(0)];
    answer_of(&mut open, [0, now], Token::Taken, CAS + 7, &mut first);
    answer(&mut open, [0, now], Token::Taken, &mut out);
    (0, unlocks(&out).len())
}

#[test]
fn a_turn_is_taken_over_from_who_has_it_now_and_not_when_its_nodes_were_asked() {
    assert_eq!(behind_slow_nodes(20), (2, 0));
    assert_eq!(behind_slow_nodes(21), (0, 1));
    assert_eq!(behind_slow_nodes(500), (0, 1), "once is enough");
}

#[test]
fn an_item_that_was_held_and_not_changed_lives_on_as_long_as_it_would_have() {
    let mut out = Vec::new();
    let mut open = begun(&mut out);
    answer(&mut open, [0, 0], Token::Won, &mut out);
    let grips = open.outcome().map(|opened| opened.grips);
    let _ = grips.map(|grips| Close::new(grips, Ending::Release, 1, 9000, 1, &mut out));
    let lives = unlocks(&out).into_iter().map(|command| match command {
        Command::Unlock { life, .. } => *life,
        _ => None,
    });
    assert_eq!(lives.collect::<Vec<_>>(), [Some(100), Some(100)]);
}

#[test]
fn the_turn_of_a_neighbour_that_is_gone_is_taken_over_at_once_and_no_others() {
    let marks = marks();
    assert!(marks.iter().all(|mark| *mark != 0) && marks[0] != marks[1]);
    let of = |marks, over| Some(Neighbour { marks, over });
    assert!(takes_over(1, of(marks, true)));
    assert!(takes_over(1, of([0, marks[1]], true)));
    assert!(!takes_over(1, of([8, 9], true)), "another holds it now");
    assert!(!takes_over(1, of(marks, false)) && !takes_over(1, None));
}

#[test]
fn a_neighbour_that_works_keeps_its_turn_beyond_what_others_believe() {
    let works = Neighbour {
        marks: marks(),
        over: false,
    };
    let stale = Neighbour {
        marks: [8, 9],
        ..works
    };
    assert!(takes_over(LEASE, None));
    assert!(!takes_over(LEASE, Some(works)));
    assert!(takes_over(LEASE, Some(stale)));
}

/// What a read does to records over an old list (b, c, d) and a new one (a, b, c), when the
/// list has this epoch, the records say this of epochs and d still says that b missed a write.
fn told(own: u32, announced: u32, committed: u32) -> (Option<Found>, usize) {
    let mut out = Vec::new();
    let wish = Wish {
        nodes: ["a", "b", "c", "d"].map(Box::from).to_vec(),
        asked: 3,
        copies: 3,
        rules: Rules::ALL,
        turn: None,
        fresh: false,
        epoch: Some(own),
        host: "web".into(),
        random: 5,
    };
    let lists = vec![vec![0, 1, 2], vec![1, 2, 3]];
    let mut open = Open::over(wish, lists, 0, &mut out);
    let mut record = Record::new(3, 7).trusted();
    (record.epoch, record.committed) = (announced, committed);
    let mut records = vec![record; 4];
    records[3].say("b", "web", 1, super::super::Kept::No);
    let mut changes = 0;
    while let Some(Send { place, commands }) = out.pop() {
        let replies = commands.iter().map(|command| match command {
            Command::ReadRecord => Reply::Record {
                record: records[place].clone(),
                cas: 1,
            },
            Command::SetRecord { record, .. } => {
                changes += 1;
                records[place] = record.clone();
                Reply::Done { cas: 0 }
            }
            _ => Reply::Miss,
        });
        let replies = replies.collect();
        open.heard(1, place, Ok(replies), &mut out);
    }
    (open.outcome().map(|opened| opened.found), changes)
}

#[test]
fn what_a_node_says_that_left_the_pool_counts_until_the_step_is_committed() {
    assert_eq!(told(4, 4, 3).1, 1);
    assert_eq!(told(4, 4, 4), (Some(Found::Nothing), 0));
}

#[test]
fn who_reads_with_a_list_that_is_no_longer_the_newest_changes_nothing() {
    assert_eq!(told(4, 5, 3), (Some(Found::Doubt), 0));
    // A file without a number has 0.
    assert_eq!(told(0, 1, 0), (Some(Found::Doubt), 0));
}

/// Who has the turn over a new list (a, b, new) and an old one (a, b, old), when b is away and
/// the other three names are of so many servers; what they have was brought by a mend or not.
fn has_turn(servers: u64, mended: bool) -> bool {
    let mut out = Vec::new();
    let wish = Wish {
        nodes: ["a", "b", "new", "old"].map(Box::from).to_vec(),
        asked: 3,
        copies: 3,
        rules: Rules::ALL,
        turn: Some(Turn {
            wait: 2 * LEASE,
            lease: LEASE,
        }),
        fresh: false,
        epoch: Some(4),
        host: "web".into(),
        random: 5,
    };
    let mut open = Open::over(wish, vec![vec![0, 1, 2], vec![0, 1, 3]], 0, &mut out);
    while let Some(Send { place, commands }) = out.pop() {
        if place == 1 {
            open.heard(
                1,
                place,
                Err(super::super::Lost { maybe_done: false }),
                &mut out,
            );
            continue;
        }
        let server = (place as u64).min(servers - 1);
        let replies = commands.iter().map(|command| match command {
            Command::ReadRecord => Reply::Record {
                record: Record::new(3, 7 + server).trusted(),
                cas: 1,
            },
            Command::Read { .. } => Reply::Item(Item {
                cas: 40,
                stamp: Some(Stamp { mended, ..STAMP }),
                data: Some(Arc::from(*b"data")),
                left: 100,
                // The server gave it to the one of its two names that came first.
                token: if place == 3 { Token::Taken } else { Token::Won },
            }),
            _ => Reply::Done { cas: 99 },
        });
        let replies = replies.collect();
        open.heard(1, place, Ok(replies), &mut out);
    }
    open.outcome().is_some()
}

#[test]
fn a_renamed_server_gives_its_turn_for_both_of_its_names() {
    for mended in [false, true] {
        assert!(has_turn(3, mended), "new and old are one server");
        assert!(
            !has_turn(4, mended),
            "somebody else has the turn on another one"
        );
    }
}
