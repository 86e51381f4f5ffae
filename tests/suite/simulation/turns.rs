//! Whose turn it truly was, and when: is who is told that somebody else wrote told the truth?

use std::collections::BTreeMap;

use super::node::Key;

/// A takeover that was on its way to who had his turn for a whole lease reaches who got it so many
/// milliseconds after him: nothing on a server tells the two apart.
const ON_ITS_WAY: u64 = 100;

/// What a fault leaves behind is mended after so many milliseconds.
const AFTERMATH: u64 = 1000;

/// All turns of all keys.
#[derive(Debug, Default)]
pub(super) struct Turns {
    by_key: BTreeMap<Key, Vec<Turn>>,
    /// When a clock jumped last.
    jumped: Option<u64>,
    /// Faults that are there, and when one came or went last.
    faults: (usize, u64),
}

/// A turn that a client got.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) key: Key,
    number: usize,
    /// Since when it had a token, which may be long before it had the turn.
    pub(super) since: u64,
    /// When it had the turn.
    granted: u64,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    since: u64,
    granted: u64,
    /// It came to an ending that changes something.
    wrote: bool,
    /// When its ending began, which may let the next one in before all of it is done.
    ending: Option<u64>,
    /// When it was over.
    end: Option<u64>,
}

impl Turn {
    fn lasted(self, lease: u64) -> Option<u64> {
        let end = self.end?;
        (end >= self.since + lease).then_some(end)
    }
}

impl Turns {
    /// A client got the turn at `granted`, and its first token at `since`.
    pub(super) fn begin(&mut self, since: u64, granted: u64, key: Key) -> Held {
        let turns = self.by_key.entry(key).or_default();
        turns.push(Turn {
            since,
            granted,
            wrote: false,
            ending: None,
            end: None,
        });
        Held {
            key,
            number: turns.len() - 1,
            since,
            granted,
        }
    }

    /// Who had this turn begins to end it, and changes something with that or not.
    pub(super) fn ending(&mut self, time: u64, held: Held, writes: bool) {
        if let Some(turn) = self.turn(held) {
            turn.ending = Some(time);
            turn.wrote = writes;
        }
    }

    /// A turn is over.
    pub(super) fn end(&mut self, time: u64, held: Held) {
        if let Some(turn) = self.turn(held) {
            turn.end = Some(time);
        }
    }

    fn turn(&mut self, held: Held) -> Option<&mut Turn> {
        self.by_key.get_mut(&held.key)?.get_mut(held.number)
    }

    /// A client's clock jumps.
    pub(super) fn jump(&mut self, time: u64) {
        self.jumped = Some(time);
    }

    /// A fault begins, or is over.
    pub(super) fn trouble(&mut self, time: u64, begins: bool) {
        let (there, last) = &mut self.faults;
        *last = time;
        *there = if begins {
            *there + 1
        } else {
            there.saturating_sub(1)
        };
    }

    /// Who had this turn is told at its end that somebody else wrote: had nobody, and might
    /// nobody have taken it from him? Or was somebody's turn not over when this one was given,
    /// and no fault to explain that? `lease`: milliseconds.
    pub(super) fn is_needless(&self, time: u64, held: Held, lease: u64) -> bool {
        // A clock that jumps ends a lease early.
        let jumped = self.jumped.is_some_and(|at| at + lease >= held.since);
        let others = self.by_key.get(&held.key).into_iter().flatten().enumerate();
        let others = others.filter(|(number, _)| *number != held.number);
        let others: Vec<Turn> = others.map(|(_, turn)| *turn).collect();
        let explains = |turn: &Turn| {
            let overlaps = turn.end.is_none_or(|end| end >= held.since);
            let on_its_way = turn
                .lasted(lease)
                .is_some_and(|end| held.since < end + ON_ITS_WAY);
            overlaps && turn.wrote || on_its_way
        };
        let (there, last) = self.faults;
        let given_twice = |turn: &Turn| {
            let calm = there == 0 && last + AFTERMATH < turn.since;
            let over = turn.ending.or(turn.end);
            let not_over = over.is_none_or(|over| over > held.granted);
            let in_time = held.granted < turn.since + lease;
            calm && turn.granted < held.granted && not_over && in_time
        };
        let in_time = time < held.since + lease;
        !jumped && in_time && (!others.iter().any(explains) || others.iter().any(given_twice))
    }
}
