//! A read: newest value, from trusted nodes, repaired; and the turn, where it is wanted.
//!
//! ```text
//!  ask ─► records in order? ─► enough trusted? ─► our turn? ─► value at hand? ─► repaired? ─► opened
//!   ▲          │ mend            │ ask the third     │ wait       │ fetch          │ write
//!   └──────────┴─────────────────┴───────────────────┴────────────┴────────────────┘
//! ```
//!
//! Every answer leads back to the first question, so a node that changes meanwhile is
//! looked at again and nothing is decided on what was true a moment ago.

mod mistrust;
mod moment;
mod repair;
mod turn;

use super::view::{self, Contact, Newest, View, Watch};
use super::{Command, Grips, Lost, Machine, PREFERRED, Reply, Rules, Send, Version};
use std::sync::Arc;
use turn::POLL_FIRST;

/// Rounds without a pause after which a read gives up: each is one trip, and a calm pool
/// needs three at most.
const ROUNDS: u32 = 400;

/// What is wanted of a read.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The key's nodes in order of preference, at most [`PREFERRED`].
    pub nodes: Vec<Box<str>>,
    /// How many nodes of a list are asked at once, 2 or 3; a third of those left out only when it
    /// is needed.
    pub asked: usize,
    /// How many nodes of a list get a value; the others get word of it.
    pub copies: usize,
    /// Which rules protect it.
    pub rules: Rules,
    /// Take the turn; wait for it as long as this, and take it over from who held it longer
    /// than a lease. Milliseconds both.
    pub turn: Option<Turn>,
    /// The key was made by ourselves just now: nothing can be stored under it.
    pub fresh: bool,
    /// Epoch of the host's list. Where there are two it is the new one's: that counts alone once a
    /// record says that it is committed. No key is read by a list before the newest. `None` where
    /// the list has no name, and so no epochs.
    pub epoch: Option<u32>,
    /// This host's name, for people.
    pub host: Box<str>,
    /// Random bits, for the names of memory lives.
    pub random: u64,
}

/// How a turn is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// How long at most, milliseconds.
    pub wait: u64,
    /// How long somebody else may have it, milliseconds.
    pub lease: u64,
}

impl Turn {
    /// For who brings a key to its new nodes: he asks again and again ([`Open::go_on`]), and whoever
    /// has had the turn for `lease`, milliseconds, loses it.
    pub const fn to_bring(lease: u64) -> Turn {
        Turn { wait: 0, lease }
    }
}

/// What is known without asking the nodes of who has the turn: somebody on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Marks of the items whose token it has, as [`Grips::marks`]; 0 for none.
    pub marks: [u64; 2],
    /// It is gone, or its lease is over; false while it surely works.
    pub over: bool,
}

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A value.
    Value(Arc<[u8]>),
    /// Proven: nothing is stored, or it was destroyed.
    Nothing,
    /// Fewer than two trusted nodes answered and nobody had it: it may exist.
    Doubt,
    /// Somebody else kept the turn past the limit.
    Locked,
}

/// The outcome of a read.
#[derive(Clone, Debug)]
pub struct Opened {
    /// What was found.
    pub found: Found,
    /// For the write that ends it.
    pub grips: Grips,
    /// Copies that were stored again.
    pub repairs: u32,
    /// Served though fewer than two trusted nodes answered.
    pub unsure: bool,
    /// Nodes met without trust, by place.
    pub joining: Vec<usize>,
}

/// A read under way.
#[derive(Debug)]
pub struct Open {
    wish: Wish,
    /// The preference lists, each as places in order; more than one while nodes change.
    lists: Vec<Vec<usize>>,
    views: Vec<View>,
    begun: u64,
    pause: u64,
    wake_at: Option<u64>,
    neighbour: Option<Neighbour>,
    /// Whose turns the last read of the same waiter saw.
    watch: Watch,
    rounds: u32,
    repairs: u32,
    /// Who is not believed was asked again since the last pause.
    asked_again: bool,
    /// A record or an older item that was seen, by place and cas value, and then looked for
    /// again before something follows from it.
    suspect: Option<(usize, u64)>,
    /// Since when, our clock.
    suspected: u64,
    /// When a turn was taken over, on one node at least: our clock.
    took_over: Option<u64>,
    /// That was tried since the last pause.
    tried: bool,
    /// Before that it was looked once more whose they are.
    looked_again: bool,
    /// Since when a token is held, our clock.
    held_since: Option<u64>,
    /// What is given a moment: its place and cas value, and since when, our clock.
    alone: Option<(usize, u64, u64)>,
    /// The newest write whose word was taken away or written over.
    forgotten: Version,
    opened: Option<Opened>,
}

impl Opened {
    /// Was it surely read, and does every one of these places have what was found?
    pub fn is_whole(&self, places: &[usize]) -> bool {
        !matches!(self.found, Found::Doubt | Found::Locked)
            && !self.unsure
            && self.grips.is_whole(places)
    }
}

impl Open {
    /// Begins a read at `now`.
    pub fn new(wish: Wish, now: u64, out: &mut Vec<Send>) -> Open {
        Open::over(wish, Vec::new(), now, out)
    }

    /// Begins a read at `now` over several preference lists, a quorum in each: `lists` has the
    /// places of their nodes, in order. None stands for one list of all nodes.
    pub fn over(mut wish: Wish, lists: Vec<Vec<usize>>, now: u64, out: &mut Vec<Send>) -> Open {
        let most = if lists.is_empty() {
            PREFERRED
        } else {
            PREFERRED * lists.len()
        };
        let names = std::mem::take(&mut wish.nodes);
        let views: Vec<View> = names.into_iter().take(most).map(View::new).collect();
        let lists = if lists.is_empty() {
            vec![(0..views.len()).collect()]
        } else {
            lists
        };
        let mut open = Open {
            views,
            lists,
            begun: now,
            pause: POLL_FIRST,
            wake_at: None,
            neighbour: None,
            watch: Watch::default(),
            rounds: 0,
            repairs: 0,
            asked_again: true,
            suspect: None,
            suspected: 0,
            took_over: None,
            tried: false,
            looked_again: false,
            held_since: None,
            alone: None,
            forgotten: Version::default(),
            opened: None,
            wish,
        };
        let first = match open.lists.len() {
            1 => open.wish.asked.max(2),
            _ => open.views.len(),
        };
        for place in 0..open.views.len().min(first) {
            open.look(place, place == 0, out);
        }
        open.asked(now, out);
        open
    }

    /// Goes on with the waiting of a read that did not get its turn; before the first answer. Of who
    /// had it then, and seems to have it still, it is taken a lease after he was seen first.
    pub fn go_on(&mut self, watch: Watch) {
        self.watch = watch;
    }

    /// The outcome, once [`Machine::is_done`].
    pub fn outcome(self) -> Option<Opened> {
        self.opened
    }

    /// Notes when these are asked whose turn it is.
    fn asked(&mut self, now: u64, sends: &[Send]) {
        let token = |command: &Command| matches!(command, Command::Read { token: true, .. });
        for send in sends.iter().filter(|send| send.commands.iter().any(token)) {
            if let Some(view) = self.views.get_mut(send.place) {
                view.asked_at = now;
            }
        }
    }

    /// Asks for record and item.
    fn look(&mut self, place: usize, value: bool, out: &mut Vec<Send>) {
        let token = self.wish.turn.is_some();
        if let Some(view) = self.views.get_mut(place) {
            let commands = vec![Command::ReadRecord, Command::Read { value, token }];
            view.ask(place, commands, out);
        }
    }

    /// Goes from question to question until one needs an answer.
    fn plan(&mut self, now: u64, out: &mut Vec<Send>) {
        if self.views.iter().any(View::is_busy) || self.opened.is_some() {
            return;
        }
        self.rounds += 1;
        self.wake_at = None;
        self.leave_old_list(out);
        if self.rounds > ROUNDS || self.is_behind() {
            return self.end(now, Found::Doubt, None, out);
        }
        let before = out.len();
        self.look_again(out);
        if out.len() == before {
            let rules = self.wish.rules;
            for (place, view) in self.views.iter_mut().enumerate() {
                view.doubt_dropped(place, rules, out);
            }
        }
        if out.len() == before {
            self.mend_records(out);
        }
        if out.len() == before {
            self.ask_third(out);
        }
        if out.len() > before {
            return;
        }
        let rules = self.wish.rules;
        let trusted = self.places(|open, place| view::is_trusted(&open.views, place, rules));
        let sure = view::is_enough(&self.lists, &trusted);
        if !sure && self.ask_doubtful(out) {
            return;
        }
        // A trusted node that nobody lists has all that was acknowledged: beside one, what
        // another kept from an earlier life is no more than a rest of something that failed.
        let newest = view::newest(&self.views, trusted.is_empty(), rules);
        let live = self
            .views
            .iter()
            .any(|view| view.is_known() && view.record.is_some());
        if newest.is_none() && !sure && !(self.wish.fresh && live) {
            return self.end(now, Found::Doubt, None, out);
        }
        if !self.has_turn(now, out) {
            return;
        }
        let Some((place, stamp)) = newest else {
            return self.end(now, Found::Nothing, None, out);
        };
        if self.gives_a_moment(now, place, stamp.version) {
            return;
        }
        self.list_behind(now, stamp.version, out);
        if out.len() > before || self.wake_at.is_some() {
            return;
        }
        let counts = |version| self.counts(now, version);
        let newest = (place, stamp);
        let hints = trusted.is_empty();
        let (place, stamp) = match view::newest_value(&self.views, newest, hints, rules, counts) {
            Newest::At(place, stamp) => (place, stamp),
            Newest::Elsewhere(..) => return self.end(now, Found::Doubt, None, out),
            Newest::Nothing => {
                self.forget_words(out);
                if out.len() == before {
                    self.end(now, Found::Nothing, None, out);
                }
                return;
            }
        };
        let data = self
            .views
            .get(place)
            .and_then(|view| view.item.as_ref()?.data.clone());
        let Some(data) = data.or_else(|| stamp.tombstone.then(|| Arc::from([]))) else {
            if let Some(view) = self.views.get_mut(place) {
                let read = Command::Read {
                    value: true,
                    token: false,
                };
                view.ask(place, vec![read], out);
            }
            return;
        };
        if rules.repair {
            self.repair(stamp, &data, place, out);
        }
        if out.len() == before {
            let found = if stamp.tombstone {
                Found::Nothing
            } else {
                Found::Value(data.clone())
            };
            self.end(now, found, Some((stamp.version, data, !sure)), out);
        }
    }

    /// Lets go of the old list once the step is over: nobody keeps the nodes that went up to date.
    fn leave_old_list(&mut self, out: &mut Vec<Send>) {
        let own = self.wish.epoch.unwrap_or(0);
        if self.lists.len() == 1 || view::epochs(&self.views).committed < own {
            return;
        }
        self.lists.truncate(1);
        let stay = self.lists.first().map_or(0, Vec::len);
        for (place, view) in self.views.iter_mut().enumerate().skip(stay) {
            view.release(place, 0, out);
        }
        // The new list's nodes stand first.
        self.views.truncate(stay);
    }

    /// Has a higher epoch been announced than this host's file has? Then it is let in nowhere, and mends
    /// nothing: a node that only its list names may have what nobody else heard of.
    fn is_behind(&self) -> bool {
        self.wish.rules.admits && view::epochs(&self.views).are_ahead_of(self.wish.epoch)
    }

    fn places(&self, fits: impl Fn(&Open, usize) -> bool) -> Vec<usize> {
        (0..self.views.len())
            .filter(|place| fits(self, *place))
            .collect()
    }

    /// Looks again at nodes that did something unexpected.
    fn look_again(&mut self, out: &mut Vec<Send>) {
        for place in self.places(|open, place| {
            open.views
                .get(place)
                .is_some_and(|view| view.stale && view.is_known())
        }) {
            self.look(place, true, out);
        }
    }

    /// Asks those that are not believed once more after each pause: a turn may take seconds to
    /// come, and what was known of them before it is then no ground to decide on.
    fn ask_doubtful(&mut self, out: &mut Vec<Send>) -> bool {
        if std::mem::replace(&mut self.asked_again, true) {
            return false;
        }
        let rules = self.wish.rules;
        let doubtful = self.places(|open, place| {
            !view::is_trusted(&open.views, place, rules)
                && (open.views.get(place)).is_some_and(|view| view.contact != Contact::Unasked)
        });
        for place in &doubtful {
            self.look(*place, false, out);
        }
        !doubtful.is_empty()
    }

    /// Asks a node not asked so far, when those asked are not enough.
    fn ask_third(&mut self, out: &mut Vec<Send>) {
        let rules = self.wish.rules;
        let wanted = self.wish.asked.clamp(2, PREFERRED);
        let trusted = self.places(|open, place| view::is_trusted(&open.views, place, rules));
        let live = self.places(|open, place| open.views.get(place).is_some_and(View::is_known));
        if !rules.third_read || (trusted.len() >= 2 && live.len() >= wanted) {
            return;
        }
        let next = self
            .views
            .iter()
            .position(|view| view.contact == Contact::Unasked);
        if let Some(place) = next {
            self.look(place, false, out);
        }
    }

    /// Takes away what is word of a write that nobody has the value of, and that was never
    /// acknowledged or is lost: what comes next goes over it. Who has no turn leaves it.
    fn forget_words(&mut self, out: &mut Vec<Send>) {
        if self.wish.turn.is_none() {
            return;
        }
        for (place, view) in self.views.iter_mut().enumerate() {
            let word = view
                .stamp()
                .filter(|stamp| stamp.witness && view.is_known());
            if let (Some(word), Some(item)) = (word, &view.item) {
                self.forgotten = self.forgotten.max(word.version);
                let take = Command::Read {
                    value: false,
                    token: true,
                };
                let remove = Command::Remove { cas: item.cas };
                view.ask(place, vec![remove, take], out);
            }
        }
    }

    fn end(
        &mut self,
        now: u64,
        found: Found,
        value: Option<(Version, Arc<[u8]>, bool)>,
        out: &mut Vec<Send>,
    ) {
        if matches!(found, Found::Doubt | Found::Locked) || self.wish.turn.is_none() {
            self.release(out);
        }
        let rules = self.wish.rules;
        let joining = self.places(|open, place| {
            open.views.get(place).is_some_and(View::is_known)
                && !view::is_trusted(&open.views, place, rules)
        });
        let destroyed = value.is_some() && found == Found::Nothing;
        let unsure = value.as_ref().is_some_and(|(_, _, unsure)| *unsure);
        let (base, data) = value.map_or_else(
            || (Version::default(), Arc::from([])),
            |(version, data, _)| (version, data),
        );
        let seen = self.views.iter().filter_map(View::stamp);
        let seen = seen.map(|stamp| stamp.version).max().unwrap_or_default();
        let seen = seen.max(self.forgotten);
        self.opened = Some(Opened {
            found,
            grips: Grips {
                nodes: std::mem::take(&mut self.views),
                lists: std::mem::take(&mut self.lists),
                copies: self.wish.copies,
                rules,
                host: std::mem::take(&mut self.wish.host),
                base,
                destroyed,
                seen,
                read_at: now,
                held_since: self.held_since,
                sure_until: self.sure_until(),
                data,
            },
            repairs: self.repairs,
            unsure,
            joining,
        });
    }
}

impl Machine for Open {
    fn heard(
        &mut self,
        now: u64,
        place: usize,
        replies: Result<Vec<Reply>, Lost>,
        out: &mut Vec<Send>,
    ) {
        if self.opened.is_some() {
            return;
        }
        let before = out.len();
        if let Some(view) = self.views.get_mut(place) {
            view.heard(now, replies);
            view.recall(now, &self.watch);
            view.ask_again(place, self.wish.turn.is_some(), out);
            // From the first answer on, or the turn would seem to last longer than it does.
            if view.token {
                self.held_since.get_or_insert(now);
            }
        }
        // While a pause runs, an answer is only that to a release.
        if self.wake_at.is_none() {
            self.plan(now, out);
        }
        self.asked(now, out.get(before..).unwrap_or_default());
    }

    fn wait(&self) -> Option<u64> {
        self.wake_at.filter(|_| self.opened.is_none())
    }

    fn holds(&self) -> bool {
        self.views.iter().any(|view| view.token)
    }

    fn hurry(&mut self, now: u64, neighbour: Option<Neighbour>) {
        if let Some(at) = self.wake_at {
            if now < at {
                self.pause = POLL_FIRST;
            }
            self.wake_at = Some(now.min(at));
        }
        self.neighbour = neighbour;
    }

    fn wake(&mut self, now: u64, out: &mut Vec<Send>) {
        if self.wake_at.is_none_or(|at| now < at) || self.opened.is_some() {
            return;
        }
        if self.views.iter().any(View::is_busy) {
            // A release is still unanswered: a moment later.
            self.wake_at = Some(now + POLL_FIRST);
            return;
        }
        let before = out.len();
        self.wake_at = None;
        // Waiting has its own end; it is not what makes a read go round in circles.
        self.rounds = 0;
        self.asked_again = false;
        (self.tried, self.looked_again) = (false, false);
        match self.wish.turn {
            Some(_) => self.poll(now, out),
            None => self.look_all(out),
        }
        if out.is_empty() {
            self.plan(now, out);
        }
        self.asked(now, out.get(before..).unwrap_or_default());
    }

    fn is_done(&self) -> bool {
        self.opened.is_some()
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]
mod tests;
