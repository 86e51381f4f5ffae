//! A session whose place is another one by the node list before, while both lists are used.
//!
//! ```text
//!   read    the old places until one has it, then the new ones: a turn at each that is asked
//!   close   the new places, then the old ones, with our mark     so nobody who has the old file misses it
//! ```
//!
//! Which is the newer one? What is on a server of both lists is, since every host writes there.
//! Else an item at the old place without our mark was written by a host with the old file, and is; one with it is not
//! newer than what is at the new place, which a host that no longer has the old list may
//! have written since. The mark is left out where the new place did not take the session.

use super::super::Store;
use super::super::words::{self, Found, MARK, advised, value_of};
use super::{Error, Flags, Keys, Over, Sessions, Wait, Won};

/// A session as a node has it, or nothing there.
type Heard = (usize, Option<(Flags, Vec<u8>)>);

/// Two places of one session.
#[derive(Debug)]
pub(super) struct Moving {
    was: Vec<usize>,
    now: Vec<usize>,
    /// The session's keys with one for the mark.
    keys: Keys,
    /// The new place has what is said next to the old one.
    marks: bool,
}

impl Moving {
    /// The nodes of both places; one of both is named twice.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &usize> {
        self.was.iter().chain(&self.now)
    }

    /// Is it a place that only the list before names?
    fn is_old(&self, node: usize) -> bool {
        self.was.contains(&node) && !self.now.contains(&node)
    }

    /// Which of these is the newest; true beside it where all that was found is the same write.
    fn newest<'h>(&self, heard: &'h [Heard]) -> Option<(&'h (Flags, Vec<u8>), bool)> {
        let first = |row: &[usize]| {
            row.iter().find_map(|node| {
                let (_, found) = heard.iter().find(|(of, _)| of == node)?;
                Some((*node, found.as_ref()?))
            })
        };
        match (first(&self.was), first(&self.now)) {
            (Some((old, item)), Some((new, _))) if old == new => Some((item, true)),
            // Every host writes there.
            (Some((old, item)), Some(_)) if self.now.contains(&old) => Some((item, false)),
            (Some(_), Some((new, item))) if self.was.contains(&new) => Some((item, false)),
            (Some((_, (flags, _))), Some((_, item))) if flags.0 & MARK != 0 => Some((item, true)),
            (Some((_, item)), _) | (None, Some((_, item))) => Some((item, false)),
            (None, None) => None,
        }
    }

    /// Did a node of each place say what it has?
    fn is_known(&self, heard: &[Heard]) -> bool {
        let said = |row: &[usize]| heard.iter().any(|(node, _)| row.contains(node));
        said(&self.was) && said(&self.now)
    }
}

/// The keys of a session at `node`: those of a marked one at its old place.
pub(super) fn keys_at<'k>(moving: &'k Option<Moving>, node: usize, keys: &'k Keys) -> &'k Keys {
    match moving {
        Some(moving) if moving.marks && moving.is_old(node) => &moving.keys,
        _ => keys,
    }
}

impl Sessions {
    /// The session's places by the list before and by the pool's own, where there are two; `now`
    /// are the latter.
    pub(super) fn both_places(&mut self, keys: &Keys, now: Vec<usize>) -> Vec<usize> {
        let (copies, attempts) = (self.terms.copies, self.terms.attempts);
        let placed_by = keys.placed_by();
        let was = (self.pool).session_places_before(placed_by, copies, attempts, &now);
        self.moving = was.filter(|was| *was != now).map(|was| Moving {
            was,
            now: now.clone(),
            keys: keys.marking(),
            marks: true,
        });
        let Some(moving) = &self.moving else {
            return now;
        };
        let mut places = moving.was.clone();
        places.extend(now.iter().filter(|node| !moving.was.contains(node)));
        places
    }

    /// Takes the turn at both places of a session; what is stored, if anything.
    pub(super) fn take_both(
        &mut self,
        id: &[u8],
        keys: &Keys,
        wait: &mut Wait,
    ) -> Result<Option<Vec<u8>>, Error> {
        let rows = self.moving.as_ref().map(|m| [m.was.clone(), m.now.clone()]);
        let (mut heard, mut silent) = (Vec::<Heard>::new(), None);
        // As hosts with either list go, so that each is kept waiting, and at the old place first by all.
        for row in rows.into_iter().flatten() {
            for node in row {
                let known = heard.iter().find(|(of, _)| *of == node);
                let has = match known {
                    Some((_, found)) => found.is_some(),
                    None => match self.win(id, node, keys, wait)? {
                        Won::Silent(error) => {
                            silent = error.or(silent);
                            continue;
                        }
                        Won::Ours(None) if self.made.as_deref() == Some(id) => return Ok(None),
                        Won::Ours(found) => {
                            let has = found.is_some();
                            heard.push((node, found));
                            has
                        }
                    },
                };
                if has {
                    break;
                }
            }
        }
        match self.chosen(keys, &heard, silent) {
            Err(error) => {
                self.release();
                Err(error)
            }
            Ok(found) => self.unpacked(found),
        }
    }

    /// What is stored at either place, without a turn.
    pub(super) fn look_at_both(
        &mut self,
        keys: &Keys,
        places: &[usize],
    ) -> Result<Option<Vec<u8>>, Error> {
        self.fresh();
        let answered = self.tell(places, keys, |lane, lock| words::get(lane, lock.keys));
        let (mut heard, mut silent) = (Vec::<Heard>::new(), self.last_error());
        for (node, lane) in answered {
            let (answers, bytes) = self.call.answers(lane);
            match value_of(answers, bytes, keys_at(&self.moving, node, keys)) {
                Ok(found) => {
                    let own = |Found { flags, data, .. }: Found<'_>| (flags, data.to_vec());
                    heard.push((node, found.map(own)));
                }
                Err(error) => silent = Some(error.at(self.pool.name(node))),
            }
        }
        let found = self.chosen(keys, &heard, silent)?;
        self.unpacked(found)
    }

    /// The newest of what was heard; nothing only where a node of each place said so, and no guess without the old one.
    fn chosen(
        &mut self,
        keys: &Keys,
        heard: &[Heard],
        silent: Option<Error>,
    ) -> Result<Option<(Flags, Vec<u8>)>, Error> {
        let Some(moving) = &self.moving else {
            return Ok(None);
        };
        // Whatever the new place has, hosts with the old file may have written since.
        let old = heard.iter().any(|(node, _)| moving.was.contains(node));
        if let Some((item, same)) = moving.newest(heard).filter(|_| old) {
            if let Some(turn) = self.held.as_mut() {
                // A touch is not enough where the places differ.
                turn.lacking |= !same;
            }
            return Ok(Some(item.clone()));
        }
        if moving.is_known(heard) {
            return Ok(None);
        }
        Err(advised(silent.unwrap_or_else(|| self.nobody(keys))))
    }

    /// The same stages, with all that is at the new place before what is at the old one alone.
    pub(super) fn new_places_first(
        &self,
        stages: Vec<(Vec<usize>, Over)>,
    ) -> Vec<(Vec<usize>, Over)> {
        let Some(moving) = &self.moving else {
            return stages;
        };
        let pass = |old: bool| {
            let part = move |(nodes, over): &(Vec<usize>, Over)| {
                let nodes = nodes.iter().copied();
                let nodes: Vec<usize> = nodes.filter(|node| moving.is_old(*node) == old).collect();
                (!nodes.is_empty()).then_some((nodes, *over))
            };
            stages.iter().filter_map(part)
        };
        pass(false).chain(pass(true)).collect()
    }

    /// The flags of what is stored at `nodes`, one stage of them; `stored` says that a new place
    /// has it.
    pub(super) fn marked_for(&mut self, nodes: &[usize], flags: Flags, stored: bool) -> Flags {
        let Some(moving) = &mut self.moving else {
            return flags;
        };
        let old = nodes.iter().any(|node| moving.is_old(*node));
        moving.marks = stored || !old;
        Flags(flags.0 | if old && stored { MARK } else { 0 })
    }
}
