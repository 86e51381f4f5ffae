//! What one machine knows of each node, and what follows from all of it together.
//!
//! A node is believed as far as its own record goes, and as no other record that was seen
//! says that it missed a write. A trusted node that nobody lists has every acknowledged
//! write of its keys; that is what all decisions here rest on.

mod token;

use super::{
    Command, Epochs, Item, Lost, PREFERRED, Record, Reply, Rules, Send, Stamp, Token, Trust,
    Version,
};
use crate::chance::mix;
use crate::wire::copied::VERSION_LEAST;
use std::sync::Arc;
pub(super) use token::Taken;
pub use token::{LEASE_SLACK, Watch};

/// Which of its memory's lives a node is in, and the name of that: another one once it was doubted,
/// since it had dropped something, and with that perhaps a token.
pub(super) type Life = (u16, u64);

/// One node, as far as known.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// Its name, as the ring hashes it.
    pub(super) name: Box<str>,
    /// How far it was asked.
    pub(super) contact: Contact,
    /// When it failed to answer last: our clock.
    pub(super) lost_at: u64,
    /// When it was asked last for its item and the token of that: our clock.
    pub(super) asked_at: u64,
    /// Its record and the record's cas value.
    pub(super) record: Option<(Record, u64)>,
    /// Its item as last seen; `None` when it has none.
    pub(super) item: Option<Item>,
    /// We hold its token.
    pub(super) token: bool,
    /// How long the item was to live when we got that, seconds.
    won: u32,
    /// Somebody else has its token, on the item as it is.
    pub(super) taken: Option<Taken>,
    /// It may say so, and mean us: it was not heard what it gave, or did not hear what it was given back.
    left: bool,
    /// What the unanswered pipeline says.
    asked: Vec<Command>,
    /// Something failed that a new look at record and item will explain.
    pub(super) stale: bool,
    /// It has no room for another item.
    pub(super) full: bool,
    /// It has no room for another record; the one it has stays.
    pub(super) record_full: bool,
    /// A store that it refused took away what it had, and that was not put back: its word that
    /// there is nothing must not count.
    pub(super) dropped: bool,
    /// What its record became, which is read right behind the change.
    changed: Option<Record>,
    /// The store that the last pipeline had refused, if it had.
    pub(super) refusal: Option<Refusal>,
}

/// A store that found no room.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    /// The pipeline it was in.
    pub(super) commands: Vec<Command>,
    /// The turn on the item was ours.
    held: bool,
    /// There was an item, as far as known, and no placeholder.
    had: bool,
}

/// How far a node was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contact {
    /// Not at all.
    Unasked,
    /// It answered.
    Known,
    /// It does not answer, refuses, or has a record nobody can read. True when something
    /// that changes it may have been carried out all the same.
    Down { maybe: bool },
}

impl View {
    pub(super) fn new(name: Box<str>) -> View {
        View {
            name,
            contact: Contact::Unasked,
            lost_at: 0,
            asked_at: 0,
            record: None,
            item: None,
            token: false,
            won: 0,
            taken: None,
            left: false,
            asked: Vec::new(),
            stale: false,
            full: false,
            record_full: false,
            dropped: false,
            changed: None,
            refusal: None,
        }
    }

    /// Sends `commands` to this node, which is number `place`.
    ///
    /// Behind the change of a record it is read: only that tells its cas value.
    pub(super) fn ask(&mut self, place: usize, mut commands: Vec<Command>, out: &mut Vec<Send>) {
        let changes_record = |command: &Command| {
            matches!(
                command,
                Command::AddRecord(_) | Command::SetRecord { .. } | Command::DoubtRecord { .. }
            )
        };
        if commands.last().is_some_and(changes_record) {
            commands.push(Command::ReadRecord);
        }
        self.asked.clone_from(&commands);
        self.stale = false;
        out.push(Send { place, commands });
    }

    /// True while a pipeline is unanswered.
    pub(super) fn is_busy(&self) -> bool {
        !self.asked.is_empty()
    }

    /// True when it answered and can be read.
    pub(super) fn is_known(&self) -> bool {
        self.contact == Contact::Known
    }

    /// True when it answered, can be read, and its record can be changed.
    pub(super) fn is_able(&self) -> bool {
        self.is_known() && !self.record_full
    }

    /// Takes over what a pipeline came to.
    pub(super) fn heard(&mut self, now: u64, replies: Result<Vec<Reply>, Lost>) {
        let asked = std::mem::take(&mut self.asked);
        let (held, had) = (self.token, self.stamp().is_some());
        let refused = |(command, reply): (&Command, &Reply)| {
            matches!(command, Command::Write { .. }) && *reply == Reply::Refused
        };
        let refused = replies
            .as_ref()
            .is_ok_and(|replies| asked.iter().zip(replies).any(refused));
        let refusal = refused.then(|| Refusal {
            commands: asked.clone(),
            held,
            had,
        });
        self.learn_all(now, asked, replies);
        self.refusal = refusal;
    }

    /// A store found no room and took away what was there, whatever that was. Where the turn on it
    /// was surely ours, that was what we know: from then on there is room for as much, and it is
    /// asked once more. Otherwise the node is in doubt. True when it was asked.
    pub(super) fn ask_again(&mut self, place: usize, sure: bool, out: &mut Vec<Send>) -> bool {
        let Some(mut refusal) = self.refusal.take() else {
            return false;
        };
        let ours = sure && refusal.held;
        self.dropped |= refusal.had || !ours;
        // Whoever made a placeholder meanwhile has the turn there.
        let free = self.item.is_none() || (self.token && self.stamp().is_none());
        if !(ours && refusal.had && free) {
            return false;
        }
        for command in &mut refusal.commands {
            if let Command::Write { over, .. } = command {
                *over = self.over();
            }
        }
        self.full = false;
        self.ask(place, refusal.commands, out);
        true
    }

    fn learn_all(&mut self, now: u64, asked: Vec<Command>, replies: Result<Vec<Reply>, Lost>) {
        let replies = match replies {
            Ok(replies) => replies,
            Err(lost) => {
                let reads = |command: &Command| {
                    matches!(command, Command::ReadRecord | Command::Read { .. })
                };
                let changes = !asked.iter().all(reads);
                self.contact = Contact::Down {
                    maybe: lost.maybe_done && changes,
                };
                self.leave_turn(lost.maybe_done, &asked);
                (self.token, self.lost_at) = (false, now);
                return;
            }
        };
        self.contact = Contact::Known;
        for (command, reply) in asked.into_iter().zip(replies) {
            self.learn(now, command, reply);
        }
    }

    fn learn(&mut self, now: u64, command: Command, reply: Reply) {
        match (command, reply) {
            (_, Reply::StrangeRecord) => {
                (self.contact, self.lost_at) = (Contact::Down { maybe: false }, now);
            }
            (Command::ReadRecord, Reply::Record { record, cas }) => {
                // Somebody else changed it right behind us.
                self.stale |= (self.changed.take()).is_some_and(|changed| changed != record);
                self.record = Some((record, cas));
            }
            (Command::ReadRecord, Reply::NoRecord) => {
                self.stale |= self.changed.take().is_some();
                self.record = None;
            }
            (
                Command::AddRecord(record) | Command::SetRecord { record, .. },
                Reply::Done { .. },
            ) => {
                self.changed = Some(record);
            }
            (Command::Read { .. }, Reply::Item(item)) => self.see(now, item),
            (Command::Touch { life }, Reply::Item(mut item)) => {
                // memcached says what was left before.
                item.left = life;
                self.see(now, item);
            }
            (Command::Read { .. } | Command::Touch { .. }, Reply::Miss) => {
                // With the item its token is gone.
                self.item = None;
                self.free_turn();
            }
            (
                Command::Write {
                    stamp, life, data, ..
                },
                Reply::Done { cas },
            ) => {
                self.free_turn();
                self.dropped = false;
                self.item = Some(Item {
                    cas,
                    stamp: Some(stamp),
                    data: Some(data),
                    left: life,
                    token: Token::Free,
                });
            }
            (Command::Write { .. }, Reply::Refused) => {
                // memcached takes away what it had when a store fails for room or size.
                self.item = None;
                self.token = false;
                self.full = true;
            }
            (Command::AddRecord(_) | Command::SetRecord { .. }, Reply::Refused) => {
                self.record_full = true;
            }
            (Command::DoubtRecord { .. }, Reply::Done { .. }) => self.dropped = false,
            // It lost its record and all.
            (Command::DoubtRecord { .. }, Reply::NotFound) => self.dropped = false,
            (Command::Unlock { .. }, Reply::Done { .. }) => self.token = false,
            (Command::Remove { .. }, Reply::Done { .. } | Reply::NotFound) => self.item = None,
            // Whatever else it was, another look will tell.
            _ => self.stale = true,
        }
    }

    /// What tells the item from every other of its key in this life of the node: its cas value and stamp.
    pub(super) fn item_read(&self) -> Option<(u64, Option<Stamp>)> {
        let item = self.item.as_ref()?;
        Some((item.cas, item.stamp))
    }

    /// Is the item's cas value one of the server's own count, and no version?
    pub(super) fn counts_up(&self) -> bool {
        let item = self.item.as_ref();
        item.is_some_and(|item| item.cas < VERSION_LEAST)
    }

    /// What tells this node's item, as it is now, from every other: never 0.
    pub(super) fn mark(&self) -> Option<u64> {
        let item = self.item.as_ref()?;
        let name = self.name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
        });
        Some(mix(name, item.cas).max(1))
    }

    /// The item's stamp, if it has one.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        self.item.as_ref().and_then(|item| item.stamp)
    }

    /// What its item claims to be. One without a version is nothing; without that rule it is newer
    /// than all.
    fn claims(&self, rules: Rules) -> Option<Stamp> {
        self.stamp().or_else(|| {
            let data = self.item.as_ref()?.data.as_ref();
            let inc =
                (self.inc()).filter(|_| !rules.foreign && data.is_some_and(|d| !d.is_empty()));
            inc.map(|inc| Stamp {
                version: Version(u64::MAX >> 2),
                inc,
                tombstone: false,
                mended: false,
                witness: false,
            })
        })
    }

    /// Has it this version, written in its present life; and its value, if it is to have that?
    pub(super) fn has(&self, version: Version, value: bool, rules: Rules) -> bool {
        self.stamp().is_some_and(|stamp| {
            stamp.version == version
                && (self.inc() == Some(stamp.inc) || !rules.incarnation)
                && !(value && stamp.witness)
        })
    }

    /// Has it this write or a later one?
    pub(super) fn has_write(&self, version: Version) -> bool {
        self.stamp()
            .is_some_and(|stamp| stamp.version > version || stamp.version.is_of_write(version))
    }

    /// Takes the trust from a node that dropped what it had: it may be the last that had it. A
    /// node without trust is marked, too: who is about to trust it begins anew.
    pub(super) fn doubt_dropped(&mut self, place: usize, rules: Rules, out: &mut Vec<Send>) {
        let dropped = self.dropped && self.is_known() && rules.dropped;
        if let Some((_, cas)) = self.record.as_ref().filter(|_| dropped) {
            let cas = *cas;
            self.ask(place, vec![Command::DoubtRecord { cas }], out);
        }
    }

    /// The node's memory life, as far as its record is known.
    pub(super) fn inc(&self) -> Option<u16> {
        self.record.as_ref().map(|(record, _)| record.inc)
    }

    /// The same with the record's own name, which is another after the node was doubted.
    pub(super) fn life(&self) -> Option<Life> {
        self.record
            .as_ref()
            .map(|(record, _)| (record.inc, record.id))
    }

    /// Stores this on the node over what it has; of a value a witness gets no more than the stamp.
    pub(super) fn store(&self, stamp: Stamp, life: u32, data: &Arc<[u8]>) -> Command {
        Command::Write {
            over: self.over(),
            stamp,
            life,
            data: if stamp.witness {
                Arc::from([])
            } else {
                data.clone()
            },
        }
    }

    /// Over what a write to this node goes.
    pub(super) fn over(&self) -> super::Over {
        self.item
            .as_ref()
            .map_or(super::Over::Nothing, |item| super::Over::Cas(item.cas))
    }
}

/// Does any record that was seen say that `name` missed a write?
pub(super) fn is_listed(views: &[View], name: &str, rules: Rules) -> bool {
    rules.absent
        && views
            .iter()
            .filter(|view| view.is_known())
            .any(|view| view.record.as_ref().is_some_and(|(r, _)| r.lists(name)))
}

/// Does any record that was seen say that `name` needs a full pass?
pub(super) fn is_listed_for_good(views: &[View], name: &str, rules: Rules) -> bool {
    let known = views.iter().filter(|view| view.is_known());
    let mut records = known.filter_map(|view| view.record.as_ref());
    rules.absent && records.any(|(record, _)| record.lists_for_good(name))
}

/// Is the node number `place` believed when it has no item?
pub(super) fn is_trusted(views: &[View], place: usize, rules: Rules) -> bool {
    views.get(place).is_some_and(|view| {
        view.is_known()
            && view
                .record
                .as_ref()
                .is_some_and(|(record, _)| record.trust == Trust::Trusted)
            && !is_listed(views, &view.name, rules)
    })
}

/// The item's stamp when it is believed: written in the node's present life, and the node is
/// not among those that missed something.
pub(super) fn believed(views: &[View], place: usize, rules: Rules) -> Option<Stamp> {
    let view = views.get(place).filter(|view| view.is_known())?;
    let stamp = view.claims(rules)?;
    let current = !rules.incarnation || view.inc() == Some(stamp.inc);
    (current && !is_listed(views, &view.name, rules)).then_some(stamp)
}

/// Are these places one server under two names? One that is renamed stands in both lists.
fn is_one_server(views: &[View], place: usize, other: usize) -> bool {
    let id = |place: usize| Some(views.get(place)?.record.as_ref()?.0.id);
    id(place).is_some() && id(place) == id(other)
}

/// Is the turn on node number `place` ours under another name? A server gives its token to one of
/// its two names.
pub(super) fn is_held_beside(views: &[View], place: usize) -> bool {
    let held = |(other, view): (usize, &View)| view.token && is_one_server(views, place, other);
    views.iter().enumerate().any(held)
}

/// The item's stamp when it is believed, or as a hint when `hints`.
fn counted(views: &[View], place: usize, hints: bool, rules: Rules) -> Option<Stamp> {
    believed(views, place, rules).or_else(|| {
        views
            .get(place)
            .filter(|view| hints && view.is_known())
            .and_then(View::stamp)
    })
}

/// The newest version known and where it lies; hints, too, when `hints`.
pub(super) fn newest(views: &[View], hints: bool, rules: Rules) -> Option<(usize, Stamp)> {
    newest_of(views, hints, rules, |_| true)
}

fn newest_of(
    views: &[View],
    hints: bool,
    rules: Rules,
    fits: impl Fn(Version) -> bool,
) -> Option<(usize, Stamp)> {
    (0..views.len())
        .filter_map(|place| Some((place, counted(views, place, hints, rules)?)))
        .filter(|(_, stamp)| fits(stamp.version))
        // Of equals the first: its value was asked for.
        .reduce(|best, next| {
            if next.1.version > best.1.version {
                next
            } else {
                best
            }
        })
}

/// What a read can return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Newest {
    /// Nothing is known.
    Nothing,
    /// This value, which lies there.
    At(usize, Stamp),
    /// A newer write than any value at hand: who answered has only word of it.
    Elsewhere(usize, Stamp),
}

/// From the [`newest`] on down the first whose value can be had. Word of a write whose value
/// nobody has who answered is passed over unless it `counts`.
pub(super) fn newest_value(
    views: &[View],
    (mut place, mut best): (usize, Stamp),
    hints: bool,
    rules: Rules,
    counts: impl Fn(Version) -> bool,
) -> Newest {
    while best.witness {
        // In whatever life of its node: a write has one value. Its turn may have been taken over
        // since, here or there.
        let with_value = |place: usize| {
            let view = views.get(place).filter(|view| view.is_known());
            let stamp = view.and_then(View::stamp);
            let has = |stamp: &Stamp| stamp.version.is_of_write(best.version) && !stamp.witness;
            let stamp = stamp.filter(has)?;
            let version = best.version;
            Some((place, Stamp { version, ..stamp }))
        };
        if let Some((place, stamp)) = (0..views.len()).find_map(with_value) {
            return Newest::At(place, stamp);
        }
        if counts(best.version) {
            return Newest::Elsewhere(place, best);
        }
        match newest_of(views, hints, rules, |version| version < best.version) {
            Some(next) => (place, best) = next,
            None => return Newest::Nothing,
        }
    }
    Newest::At(place, best)
}

/// May a write of this version have been acknowledged, for all that is known of its key?
///
/// Not where so many trusted nodes are without it that it cannot lie on enough; and where all
/// nodes are trusted and none has its value, that is gone for good.
pub(super) fn may_count(
    views: &[View],
    lists: &[Vec<usize>],
    rules: Rules,
    version: Version,
) -> bool {
    let may = (0..views.len()).filter(|place| !lacks(views, rules, version, *place));
    let may: Vec<usize> = may.collect();
    let all = (0..views.len()).all(|place| is_trusted(views, place, rules));
    !all && is_enough(lists, &may)
}

/// Is node number `place` trusted, and has not this write nor a later one?
pub(super) fn lacks(views: &[View], rules: Rules, version: Version, place: usize) -> bool {
    let has = views.get(place).is_some_and(|view| view.has_write(version));
    is_trusted(views, place, rules) && !has
}

/// Does node number `place` get the value, and not only word of it? The first `copies` of each
/// list that can be relied on do, and whoever stands before them; of a server with two names both
/// say the same, or the second word would be refused since the first changed the item.
pub(super) fn gets_value(
    views: &[View],
    lists: &[Vec<usize>],
    copies: usize,
    rules: Rules,
    place: usize,
) -> bool {
    copies >= PREFERRED
        || lists.iter().any(|list| {
            let is_it = |other: &usize| {
                *other == place || lists.len() > 1 && is_one_server(views, place, *other)
            };
            let before = list.iter().take_while(|other| !is_it(other));
            let relied = before.filter(|other| {
                is_trusted(views, **other, rules)
                    && !views.get(**other).is_some_and(|view| view.full)
            });
            list.iter().any(is_it) && relied.count() < copies
        })
}

/// Trusted answers a read needs, and acknowledgements a write needs, of so many preferred nodes.
///
/// On two nodes one is enough while the other is away: no promise under split views
/// (`facts` of the protocol, rule 11).
pub(super) fn quorum(preferred: usize) -> usize {
    if preferred >= PREFERRED { 2 } else { 1 }
}

/// Are these places a quorum of every preference list?
pub(super) fn is_enough(lists: &[Vec<usize>], places: &[usize]) -> bool {
    lists.iter().all(|list| {
        let there = list.iter().filter(|place| places.contains(place));
        there.count() >= quorum(list.len())
    })
}

/// What all records that were seen say of the pool's node lists.
pub(super) fn epochs(views: &[View]) -> Epochs {
    let records = views.iter().filter_map(|view| view.record.as_ref());
    records.fold(Epochs::default(), |all, (record, _)| {
        all.joined(record.epochs())
    })
}

/// The views of these nodes, each asked for its record; places are their indices.
pub(super) fn of_records(nodes: &[Box<str>], out: &mut Vec<Send>) -> Vec<View> {
    let mut views: Vec<View> = nodes.iter().map(|name| View::new(name.clone())).collect();
    for (place, view) in views.iter_mut().enumerate() {
        view.ask(place, vec![Command::ReadRecord], out);
    }
    views
}

/// Takes over what a pipeline to one of these nodes came to; true when none is unanswered.
pub(super) fn heard(
    views: &mut [View],
    now: u64,
    place: usize,
    replies: Result<Vec<Reply>, Lost>,
) -> bool {
    if let Some(view) = views.get_mut(place) {
        view.heard(now, replies);
    }
    !views.iter().any(View::is_busy)
}
