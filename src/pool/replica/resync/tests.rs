//! A target that has no room, said to the mend of a key by hand.

use super::super::{Item, Stamp, Token, Version};
use super::*;
use std::sync::Arc;

/// Node 0 has a value and is believed; node 1, the target, has nothing and refuses stores.
fn answer(mend: &mut Mend, refuses: bool, said: &mut Vec<Command>, out: &mut Vec<Send>) {
    for send in std::mem::take(out) {
        let target = send.place == 1;
        let reply = |command: &Command| match command {
            Command::ReadRecord if target => Reply::Record {
                record: Record::new(4, 8),
                cas: 2,
            },
            Command::ReadRecord => Reply::Record {
                record: Record::new(3, 7).trusted(),
                cas: 1,
            },
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
