//! A turn that lasts longer than a lease: the nodes hear that its holder works.
//!
//! The items whose token is held get their whole life again. Who waits on another host sees it
//! grow, and counts the lease anew (`view`); the cas value and the token stay as they are.

use super::{Command, Grips, Lost, Machine, PLACEHOLDER_LIFE, Reply, Send, TOMBSTONE_EXTRA};

/// An extension under way.
///
/// What the nodes answer is of no account: had somebody taken the turn over, the write that
/// ends it must still meet what was read and nothing newer.
#[derive(Debug)]
pub struct Extend {
    unanswered: usize,
}

impl Extend {
    /// Begins to extend what is held of the turn; the session lives for `life` seconds.
    pub fn new(grips: &Grips, life: u32, out: &mut Vec<Send>) -> Extend {
        let before = out.len();
        for (place, grip) in grips.nodes.iter().enumerate() {
            let view = &grip.view;
            let Some(item) = view.item.as_ref().filter(|_| view.token && view.is_known()) else {
                continue;
            };
            let life = match item.stamp {
                None => PLACEHOLDER_LIFE,
                Some(stamp) if stamp.tombstone => life.saturating_add(TOMBSTONE_EXTRA),
                Some(_) => life,
            };
            out.push(Send {
                place,
                commands: vec![Command::Touch {
                    life: life.max(item.left),
                }],
            });
        }
        Extend {
            unanswered: out.len() - before,
        }
    }
}

impl Machine for Extend {
    fn heard(
        &mut self,
        _now: u64,
        _place: usize,
        _replies: Result<Vec<Reply>, Lost>,
        _out: &mut Vec<Send>,
    ) {
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    fn is_done(&self) -> bool {
        self.unanswered == 0
    }
}
