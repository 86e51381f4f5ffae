//! One key of a pass: what the others have of it is brought to the node that came back.

use super::super::view::{self, Newest, View};
use super::super::{Command, Lost, Machine, Reply, Rules, Send, Stamp};
use super::RETRIES;
use std::sync::Arc;

/// One key of a pass: the target gets the newest value that the others have.
#[derive(Debug)]
pub struct Mend {
    views: Vec<View>,
    target: usize,
    rules: Rules,
    /// How many nodes of the list get a value; the others get word of it.
    copies: usize,
    /// Places whose nodes have all that was acknowledged once they are trusted.
    whole: Vec<usize>,
    /// The target goes on in its life, and is not believed before it is mended.
    goes_on: bool,
    /// What the target was to get when it refused, if that made it drop what it had: it may have
    /// been the only copy.
    spare: Option<(Stamp, u32, Arc<[u8]>)>,
    tries: u32,
    result: Option<bool>,
}

impl Mend {
    /// Begins to mend a key on its preferred node number `target`, of which the first `copies`
    /// have its value.
    pub fn new(
        nodes: &[Box<str>],
        target: usize,
        copies: usize,
        rules: Rules,
        out: &mut Vec<Send>,
    ) -> Mend {
        let mut mend = Mend {
            views: nodes.iter().map(|name| View::new(name.clone())).collect(),
            target,
            rules,
            copies,
            whole: (0..nodes.len()).collect(),
            goes_on: false,
            spare: None,
            tries: 0,
            result: None,
        };
        for place in 0..mend.views.len() {
            mend.look(place, out);
        }
        mend
    }

    /// The same while nodes change: only those at `whole` have got every write so far.
    #[must_use]
    pub fn believing(mut self, whole: Vec<usize>) -> Mend {
        self.whole = whole;
        // In which list it stands where is not known here: nobody gets less than the value.
        self.copies = usize::MAX;
        self
    }

    /// The same for a node that goes on in its life: it gets a key that it missed, and keeps
    /// what is newer than all that the others have, which somebody is just writing.
    #[must_use]
    pub fn kept(mut self) -> Mend {
        self.goes_on = true;
        self
    }

    /// True when the target has the newest value, once [`Machine::is_done`].
    pub fn result(&self) -> Option<bool> {
        self.result
    }

    fn look(&mut self, place: usize, out: &mut Vec<Send>) {
        if let Some(view) = self.views.get_mut(place) {
            let read = Command::Read {
                value: true,
                token: false,
            };
            view.ask(place, vec![Command::ReadRecord, read], out);
        }
    }

    fn plan(&mut self, out: &mut Vec<Send>) {
        self.tries += 1;
        let all = self.views.iter().all(|view| view.is_known());
        if !all || self.tries > RETRIES {
            return self.end(false, out);
        }
        self.keep_spare();
        if self.views.get(self.target).is_some_and(|view| view.stale) {
            let again = if self.goes_on || self.spare.is_some() {
                0..self.views.len()
            } else {
                self.target..self.target + 1
            };
            return again.for_each(|place| self.look(place, out));
        }
        let others = self.whole.iter().filter(|place| **place != self.target);
        // One trusted node that nobody lists has all that was acknowledged.
        let trusted: Vec<&View> = others
            .filter(|place| view::is_trusted(&self.views, **place, self.rules))
            .filter_map(|place| self.views.get(*place))
            .collect();
        let sure = !trusted.is_empty();
        let own = self.views.get(self.target).and_then(View::stamp);
        let counts = |version| trusted.iter().all(|view| view.has_write(version));
        let newest = view::newest(&self.views, !sure, self.rules);
        let found = match newest
            .map(|newest| view::newest_value(&self.views, newest, !sure, self.rules, counts))
        {
            None | Some(Newest::Nothing) => None,
            Some(Newest::Elsewhere(..)) if self.goes_on => return self.end(false, out),
            Some(Newest::At(place, stamp) | Newest::Elsewhere(place, stamp)) => {
                Some((place, stamp))
            }
        };
        if self.goes_on
            && (!sure
                || own.is_some()
                    && own.map(|own| own.version) > found.map(|(_, newest)| newest.version))
        {
            // Nobody to believe, or a write under way, or the rest of one: not now.
            return self.end(false, out);
        }
        if !self.goes_on && self.tries <= RETRIES / 2 && self.is_written(found.map(|(_, at)| at)) {
            return (0..self.views.len()).for_each(|place| self.look(place, out));
        }
        let spare = self
            .spare
            .as_ref()
            .filter(|(spare, ..)| found.is_none_or(|(_, newest)| newest.version <= spare.version));
        if let (Some((stamp, life, data)), Some(view)) = (spare, self.views.get_mut(self.target))
            && view.stamp().is_none()
            && !view.full
        {
            let write = view.store(*stamp, *life, data);
            return view.ask(self.target, vec![write], out);
        }
        let Some((place, newest)) = found else {
            return self.keep_turn(out);
        };
        let source = self.views.get(place).and_then(|view| view.item.clone());
        let list = [(0..self.views.len()).collect()];
        let knows = (self.views.get(self.target))
            .is_some_and(|view| view.has(newest.version, false, self.rules));
        let value = view::gets_value(&self.views, &list, self.copies, self.rules, self.target)
            || self.rules.fill && !knows && self.values(newest) < self.copies;
        let Some(view) = self.views.get_mut(self.target) else {
            return;
        };
        let (Some(source), Some(inc)) = (source, view.inc()) else {
            return self.end(false, out);
        };
        let value = value && !newest.witness;
        let has = view.has(newest.version, value, self.rules);
        if has || view.full {
            return self.end(has, out);
        }
        let witness = !value && !newest.tombstone;
        let stamp = Stamp {
            inc,
            // Who goes on in its life has not forgotten whose turn it is.
            mended: !self.goes_on,
            witness,
            ..newest
        };
        let data = source.data.unwrap_or_else(|| Arc::from([]));
        let write = view.store(stamp, source.left.max(1), &data);
        view.ask(self.target, vec![write], out);
    }

    /// How many others that are believed have this value, and not only word of it?
    fn values(&self, newest: Stamp) -> usize {
        let others = (0..self.views.len()).filter(|place| *place != self.target);
        let has = |place: &usize| {
            let view = self.views.get(*place);
            view::is_trusted(&self.views, *place, self.rules)
                && view.is_some_and(|view| view.has(newest.version, true, self.rules))
        };
        others.filter(has).count()
    }

    /// Has the target, in its present life, a later write than was `found` elsewhere, while somebody
    /// has the turn there? He is about to write there, too, most likely, and another look shows it.
    fn is_written(&self, found: Option<Stamp>) -> bool {
        let target = self.views.get(self.target);
        let own =
            target.and_then(|view| Some(view.stamp()?).filter(|own| view.inc() == Some(own.inc)));
        let later = own.map(|own| own.version) > found.map(|found| found.version);
        let mut others = self.whole.iter().filter(|place| **place != self.target);
        let taken = others.any(|place| {
            let view = self.views.get(*place);
            view.is_some_and(|view| view.taken.is_some())
        });
        own.is_some() && later && taken
    }

    /// The target had no room, and dropped what it had: that made some. All are looked at again,
    /// since what was dropped may have been newer than what is known.
    fn keep_spare(&mut self) {
        let Some(view) = self.views.get_mut(self.target) else {
            return;
        };
        let Some(refusal) = view.refusal.take() else {
            return;
        };
        let write = refusal
            .commands
            .into_iter()
            .find_map(|command| match command {
                Command::Write {
                    stamp, life, data, ..
                } => Some((stamp, life, data)),
                _ => None,
            });
        if self.spare.is_none() && !self.goes_on {
            (self.spare, view.full, view.stale) = (write, false, true);
        } else {
            // What it dropped now may be what another runner, or a writer, had just brought.
            view.dropped = true;
        }
    }

    /// There is no value yet. A turn that somebody has on it elsewhere is his here, too: the
    /// placeholder made for it is not given back, and ends when his does.
    fn keep_turn(&mut self, out: &mut Vec<Send>) {
        let mut others = self.whole.iter().filter(|place| **place != self.target);
        let elder = others.any(|place| {
            let view = self.views.get(*place);
            view.is_some_and(|view| view.stamp().is_none() && view.taken.is_some())
        });
        let view = self.views.get_mut(self.target);
        let Some(view) = view.filter(|_| elder && !self.goes_on && self.rules.elders) else {
            return self.end(true, out);
        };
        if view.item.is_none() {
            let take = Command::Read {
                value: false,
                token: true,
            };
            return view.ask(self.target, vec![take], out);
        }
        view.token = false;
        self.end(true, out);
    }

    /// The end; a token that a read brought along goes back. A target that dropped what it had,
    /// and does not get it again, is not to be believed by another runner either.
    fn end(&mut self, result: bool, out: &mut Vec<Send>) {
        let before = out.len();
        let target = self.views.get_mut(self.target).filter(|_| !result);
        if let Some(view) = target.filter(|_| self.tries <= 2 * RETRIES) {
            view.doubt_dropped(self.target, self.rules, out);
        }
        if out.len() > before {
            return;
        }
        for (place, view) in self.views.iter_mut().enumerate() {
            view.release(place, 0, out);
        }
        self.result = Some(result);
    }
}

impl Machine for Mend {
    fn heard(
        &mut self,
        now: u64,
        place: usize,
        replies: Result<Vec<Reply>, Lost>,
        out: &mut Vec<Send>,
    ) {
        let quiet = view::heard(&mut self.views, now, place, replies);
        if self.result.is_none() && quiet {
            self.plan(out);
        }
    }

    fn is_done(&self) -> bool {
        self.result.is_some()
    }
}
