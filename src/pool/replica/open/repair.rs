//! What a read brings back to the nodes that it asked.

use super::super::view;
use super::super::{Command, Send, Stamp, Trust};
use super::Open;
use std::sync::Arc;

impl Open {
    /// Stores the newest value on every node that answers and has another, or has it from
    /// an earlier life; word of it over an older value last, when nobody is left who may refuse
    /// the new one.
    pub(super) fn repair(
        &mut self,
        newest: Stamp,
        data: &Arc<[u8]>,
        from: usize,
        out: &mut Vec<Send>,
    ) {
        let before = out.len();
        for last in [false, true] {
            if out.len() == before {
                self.repair_those(last, (newest, data, from), out);
            }
        }
    }

    /// Those that come `last`, or those before.
    fn repair_those(
        &mut self,
        last: bool,
        (newest, data, from): (Stamp, &Arc<[u8]>, usize),
        out: &mut Vec<Send>,
    ) {
        let rules = self.wish.rules;
        let left = self
            .views
            .get(from)
            .and_then(|view| view.item.as_ref())
            .map_or(1, |item| item.left.max(1));
        for place in 0..self.views.len() {
            let trust = self.views.get(place).and_then(|view| {
                let record = view.record.as_ref();
                record.map(|(record, _)| record.trust)
            });
            // Who waits for kept keys goes on in its life: what it has may be newer than all
            // that is believed here, and nobody would mend it again.
            let waits = trust == Some(Trust::Trusted)
                && (self.views.get(place))
                    .is_some_and(|view| view::is_listed(&self.views, &view.name, rules));
            let (lists, copies) = (&self.lists, self.wish.copies);
            let value = view::gets_value(&self.views, lists, copies, rules, place);
            // Word of a later write, which was not acknowledged: its writer may still be at it.
            let later = |stamp: Stamp| stamp.witness && stamp.version > newest.version;
            let turn = self.wish.turn.is_some();
            let Some(view) = self.views.get_mut(place).filter(|view| {
                view.is_known() && !waits && (turn || !view.stamp().is_some_and(later))
            }) else {
                continue;
            };
            let Some(inc) = view.inc().filter(|_| !view.full) else {
                continue;
            };
            // Who has no turn leaves word of it as it is: the write would free the token of who has.
            if view.has(newest.version, value && turn, rules) {
                continue;
            }
            let witness = !value && !newest.tombstone;
            let over_value = witness && view.stamp().is_some_and(Stamp::has_value);
            if (rules.word_last && over_value) != last {
                continue;
            }
            if let Some(later) = view.stamp().filter(|stamp| later(*stamp)) {
                self.forgotten = self.forgotten.max(later.version);
            }
            let stamp = Stamp {
                inc,
                // Who is trusted has not forgotten whose turn it is.
                mended: trust == Some(Trust::Joining),
                witness,
                ..newest
            };
            let mut commands = vec![view.store(stamp, left, data)];
            if turn {
                commands.push(Command::Read {
                    value: false,
                    token: true,
                });
            }
            self.repairs += 1;
            view.ask(place, commands, out);
        }
    }
}
