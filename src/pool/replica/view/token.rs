//! The token of one node's item: whether it is ours, and how long it has been somebody else's.
//!
//! Nothing on a server tells one holder from the next when none of them changes the item. So who
//! lets go of an item that he held for long renews its life, and who waits sees that.

use super::super::{Command, Item, Send, Stamp, Token, Version};
use super::View;

/// A life that is longer than it should be by so many milliseconds was renewed: an item's seconds
/// are whole, and so are those of its server's clock.
const RENEWED: u64 = 2000;
/// Who held an item so many milliseconds renews its life. After less than that another's touch,
/// which takes no token, would be undone for nothing.
const LONG: u64 = 1000;
/// So many milliseconds of others' turns may go unseen that were over before the one that is
/// there: who waits adds them to the lease that he gives. Less than three seconds of a renewed
/// life are within what is rounded away.
pub const LEASE_SLACK: u64 = RENEWED + 1000;

/// Somebody else's token, as far as seen.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Taken {
    /// Since when it has been his, for all that was seen: our clock.
    pub(in super::super) since: u64,
    /// How long the item was to live then, seconds.
    left: u32,
    /// Before, it was seen to be free, ours, or somebody else's still.
    pub(in super::super) anew: bool,
}

impl Taken {
    /// Was the item given a new life since? Who ends a turn does that, though he changes nothing
    /// else; so another has it now.
    fn renewed(self, now: u64, item: &Item) -> bool {
        let elapsed = now.saturating_sub(self.since);
        let due = u64::from(self.left) * 1000 + RENEWED;
        self.left != u32::MAX && u64::from(item.left) * 1000 + elapsed >= due
    }
}

/// Others' turns on the items of one key as a read saw them at its end, for the next read of who
/// waits for them through many.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// When that was, our clock.
    at: u64,
    items: Vec<Watched>,
}

/// Somebody's token on one node's item.
#[derive(Clone, Debug)]
struct Watched {
    node: Box<str>,
    cas: u64,
    stamp: Option<Stamp>,
    taken: Taken,
}

impl Watch {
    pub(in super::super) fn of(views: &[View], at: u64) -> Watch {
        let watched = views.iter().filter_map(|view| {
            let item = view.item.as_ref()?;
            Some(Watched {
                node: view.name.clone(),
                cas: item.cas,
                stamp: item.stamp,
                taken: view.taken?,
            })
        });
        Watch {
            at,
            items: watched.collect(),
        }
    }
}

impl View {
    /// At the first look: was this very item taken when it was watched a moment ago, and has nobody
    /// given it a new life since it was seen so first? Then its turn counts from there.
    pub(in super::super) fn recall(&mut self, now: u64, watch: &Watch) {
        let (Some(item), Some(taken)) = (&self.item, &mut self.taken) else {
            return;
        };
        if taken.anew || taken.since != now {
            return;
        }
        // What was not looked at for longer may have been free and taken by somebody else, which the
        // item does not show. And the clock may have been set back.
        if !(watch.at..=watch.at.saturating_add(LEASE_SLACK)).contains(&now) {
            return;
        }
        let same = |watched: &&Watched| {
            (&watched.node, watched.cas, watched.stamp) == (&self.name, item.cas, item.stamp)
        };
        let before = (watch.items.iter().find(same)).map(|watched| watched.taken);
        let before = before.filter(|before| item.left <= before.left && !before.renewed(now, item));
        if let Some(before) = before {
            *taken = Taken {
                anew: false,
                ..before
            };
        }
    }

    /// Lets go of the token, if it is ours.
    ///
    /// An item that was unlocked and not written since gives its token to whoever reads it,
    /// asked or not (memcached `X` and `W`), so readers have some to give back, too.
    ///
    /// Held for `elapsed` milliseconds since it was seen last, or longer, it is left with as long
    /// a life as it had before: so who waits sees that the turn is in other hands, though the item
    /// is as it was.
    pub(in super::super) fn release(&mut self, place: usize, elapsed: u64, out: &mut Vec<Send>) {
        if let (true, Some(item)) = (self.token && self.is_known(), &self.item) {
            let long = self.won > item.left || elapsed >= LONG;
            let unlock = Command::Unlock {
                cas: item.cas,
                version: item.stamp.map_or(Version(item.cas), |stamp| stamp.version),
                life: (long && item.stamp.is_some() && item.left != u32::MAX)
                    .then(|| self.won.max(item.left).max(1)),
            };
            self.ask(place, vec![unlock], out);
        }
        self.token = false;
    }

    /// Takes over what a look at the item showed.
    pub(super) fn see(&mut self, now: u64, mut item: Item) {
        let known = self.item.as_ref();
        let same = known.filter(|known| known.cas == item.cas && known.stamp == item.stamp);
        if item.data.is_none() {
            item.data = same.and_then(|known| known.data.clone());
        }
        match item.token {
            Token::Won => {
                if !self.token {
                    self.won = item.left;
                }
                self.free_turn();
                self.token = true;
            }
            // Our own token shows as taken, too.
            Token::Taken if self.token && same.is_some() => {}
            Token::Taken => {
                self.token = false;
                let anew = same.is_none_or(|known| item.left > known.left);
                let since = self
                    .taken
                    .filter(|begun| !anew && !begun.renewed(now, &item));
                self.taken = since.or(Some(Taken {
                    since: now,
                    left: item.left,
                    anew: known.is_some(),
                }));
            }
            Token::Free => {
                let ours = self.token && same.is_some();
                self.free_turn();
                self.token = ours;
            }
        }
        self.item = Some(item);
    }

    /// Nobody has the token of what is there.
    pub(in super::super) fn free_turn(&mut self) {
        (self.token, self.taken, self.left) = (false, None, false);
    }

    /// The node did not answer to what it was `asked`; `sent` if it may have carried that out, or does so
    /// when it goes on.
    pub(in super::super) fn leave_turn(&mut self, sent: bool, asked: &[Command]) {
        let takes = |command: &Command| matches!(command, Command::Read { token: true, .. });
        self.left |= self.token || sent && asked.iter().any(takes);
    }

    /// May the node say that somebody has the turn, who is none but us?
    pub(in super::super) fn may_say_left(&self) -> bool {
        self.left
    }

    /// Ends the turn that somebody has on the node's item: his write no longer goes over it.
    pub(in super::super) fn take_over(&self) -> Option<Command> {
        let item = self.item.as_ref()?;
        let seen = item.stamp.map_or(Version(item.cas), |stamp| stamp.version);
        Some(Command::Unlock {
            cas: item.cas,
            version: seen.tick(),
            life: None,
        })
    }

    /// Has it an item on which nobody can ever get the token: somebody else's, without an end?
    pub(in super::super) fn is_endless(&self) -> bool {
        self.item
            .as_ref()
            .is_some_and(|item| item.stamp.is_none() && item.left == u32::MAX)
    }
}
