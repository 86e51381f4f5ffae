//! Whom a read finds out to have missed something: its record is changed before all else.
//!
//! Nothing follows from one look. What a read remembers of a node may be older than what it
//! remembers of another, so a listing, or an older item, is looked for once more first.

use super::super::view::{self, View};
use super::super::{Command, Kept, PREFERRED, Record, Send, Trust, Version, record};
use super::Open;
use crate::chance::mix;

/// So long a node may be behind that was just written to, milliseconds.
const GRACE: u64 = 50;

impl Open {
    /// Has two nodes list the third when it has an older value than they have.
    ///
    /// The turn is ours on all three, so nobody's write is still on its way: the third missed
    /// one, and nobody knew. So it is with a node that came back with an old dump, whose record is as
    /// old and says that it is trusted.
    pub(super) fn list_behind(&mut self, now: u64, newest: Version, out: &mut Vec<Send>) {
        let rules = self.wish.rules;
        if !rules.behind || self.wish.turn.is_none() || self.views.len() != PREFERRED {
            return;
        }
        // Ticks of turns that were taken over are no writes.
        let newest = newest.milliseconds();
        let mut holders = Vec::new();
        let mut behind = None;
        for place in 0..self.views.len() {
            let stamp = view::believed(&self.views, place, rules);
            let trusted = view::is_trusted(&self.views, place, rules)
                && self.views.get(place).is_some_and(|view| view.token);
            match stamp.map(|stamp| stamp.version.milliseconds()) {
                Some(version) if trusted && version == newest => holders.push(place),
                Some(_) if trusted => behind = Some(place),
                _ => return,
            }
        }
        let Some(name) = behind.and_then(|place| Some(self.views.get(place)?.name.clone())) else {
            return;
        };
        if holders.len() + 1 < PREFERRED {
            return;
        }
        // The last write may have come between the looks.
        let seen =
            behind.and_then(|place| Some((place, self.views.get(place)?.item.as_ref()?.cas)));
        if let (Some((place, _)), true) = (seen, self.suspect != seen) {
            (self.suspect, self.suspected) = (seen, now);
            return self.look(place, true, out);
        }
        if now < self.suspected.saturating_add(GRACE) {
            // Whoever wrote may still be at it: others' polls change the cas value under him.
            self.wake_at = Some(self.suspected + GRACE);
            return;
        }
        let full = |place: &usize| self.views.get(*place).is_some_and(|view| !view.is_able());
        if holders.iter().any(full) {
            // They cannot say so: then it has to be the node itself.
            let behind = behind.and_then(|place| Some((place, self.views.get_mut(place)?)));
            if let Some((place, view)) = behind {
                view.dropped = true;
                view.doubt_dropped(place, rules, out);
            }
            return;
        }
        for place in holders {
            let Some(view) = self.views.get_mut(place) else {
                continue;
            };
            if let Some((record, cas)) = &view.record {
                let mut record = record.clone();
                // Which keys it lacks nobody knows.
                record.say(&name, &self.wish.host, now / 1000, Kept::No);
                let cas = *cas;
                view.ask(place, vec![Command::SetRecord { cas, record }], out);
            }
        }
    }

    /// Gives a record to a node without one, and takes the trust from one that missed a write.
    pub(super) fn mend_records(&mut self, out: &mut Vec<Send>) {
        let rules = self.wish.rules;
        let trusted = |view: &View| {
            let record = view.record.as_ref();
            record.is_some_and(|(record, _)| record.trust == Trust::Trusted)
        };
        if !self.views.iter().any(trusted) {
            // The pool may be new or about to be founded, which takes all of its nodes to say
            // (`Founding`), and a record from here would stop whoever is at it.
            return;
        }
        for place in 0..self.views.len() {
            let Some(view) = self.views.get(place).filter(|view| view.is_known()) else {
                continue;
            };
            let command = match &view.record {
                None if view.record_full => continue,
                None => Command::AddRecord(self.fresh_record(place)),
                Some((record, cas))
                    if record.trust == Trust::Trusted
                        && view::is_listed_for_good(&self.views, &view.name, rules) =>
                {
                    let (name, cas, reborn) = (view.name.clone(), *cas, record.reborn());
                    if self.suspect.replace((place, cas)) != Some((place, cas)) {
                        // A pass may have cleared the entry since it was read. Seen after
                        // this record, it is of after the pass.
                        return self.look_at_lists(&name, out);
                    }
                    match self.views.get(place).is_some_and(View::is_able) {
                        true => Command::SetRecord {
                            cas,
                            record: reborn,
                        },
                        false => Command::DoubtRecord { cas },
                    }
                }
                Some(_) => continue,
            };
            if let Some(view) = self.views.get_mut(place) {
                view.ask(place, vec![command], out);
            }
        }
    }

    /// Reads the records that list `name` again.
    fn look_at_lists(&mut self, name: &str, out: &mut Vec<Send>) {
        let lists = self.places(|open, place| {
            (open.views.get(place)).is_some_and(|view| {
                view.is_known()
                    && view
                        .record
                        .as_ref()
                        .is_some_and(|(record, _)| record.lists(name))
            })
        });
        for place in lists {
            if let Some(view) = self.views.get_mut(place).filter(|view| !view.is_busy()) {
                view.ask(place, vec![Command::ReadRecord], out);
            }
        }
    }

    /// A record in a life that no item and no other record knows.
    fn fresh_record(&self, place: usize) -> Record {
        let random = mix(self.wish.random, u64::from(self.rounds) << 8 | place as u64);
        // Any number will do that what was on its way to the node before does not carry.
        let inc = u16::try_from(random % u64::from(record::INC_MAX)).unwrap_or(0) + 1;
        Record::new(inc, random).with(view::epochs(&self.views))
    }
}
