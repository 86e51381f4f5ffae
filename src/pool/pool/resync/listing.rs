//! Which keys a node holds, as it lists them itself.

use super::super::turn::Turn;
use super::super::{Pool, event};
use super::held::Held;
use super::stream::Listing;
use crate::call::Call;
use crate::error::Error;
use crate::transport;
use crate::wire::Reply;
use crate::wire::redis::{self, FIRST_PAGE};
use std::collections::HashMap;
use std::time::Duration;

/// So long is read from a node before anything else is looked after. No longer: who lists must not be
/// kept waiting (`stream`).
const STEP: Duration = Duration::from_millis(500);

/// Why it is not known which keys a node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unlisted {
    /// It does not tell; the call's events say why.
    Silent,
    /// The turn is gone for which it was asked.
    Lost,
}

impl Pool {
    /// The keys that all nodes but those in `without` hold, each once, with the bytes of one copy; the index of a
    /// node that does not tell.
    pub(in super::super) fn keys_elsewhere(
        &mut self,
        without: &[usize],
        record_key: &[u8],
        call: &mut Call,
    ) -> Result<HashMap<Vec<u8>, usize>, usize> {
        let mut held = Held::new(usize::MAX);
        for index in (0..self.members.len()).filter(|index| !without.contains(index)) {
            self.keys_of(index, record_key, &mut held, None, call)
                .map_err(|_| index)?;
        }
        Ok(held.keys)
    }

    /// Puts the keys that node `index` lists into `held`, in the turn that was taken for it.
    ///
    /// # Errors
    /// When it does not tell, or the turn is gone.
    pub(super) fn keys_of(
        &mut self,
        index: usize,
        record_key: &[u8],
        held: &mut Held,
        mut turn: Option<&mut Turn>,
        call: &mut Call,
    ) -> Result<(), Unlisted> {
        let mut take = |key: Vec<u8>, size: usize| {
            if key != record_key {
                held.take(key, size);
            }
        };
        let mut cursor = Some(FIRST_PAGE.to_vec());
        let mut listing = match self.spec(index) {
            Some(spec) if spec.redis.is_none() => {
                Some(self.told_by(index, Listing::new(spec), call)?)
            }
            _ => None,
        };
        loop {
            let over = match &mut listing {
                Some(listing) => {
                    let listed = listing.step(transport::now() + STEP, &mut take);
                    self.told_by(index, listed, call)?
                }
                None => {
                    let at = cursor.take().unwrap_or_default();
                    cursor = self
                        .page(index, &at, &mut take, call)
                        .ok_or(Unlisted::Silent)?;
                    cursor.is_none()
                }
            };
            if over {
                return Ok(());
            }
            if let Some(turn) = turn.as_deref_mut().filter(|turn| turn.is_due())
                && !self.sign(turn, Duration::ZERO, call)
            {
                return Err(Unlisted::Lost);
            }
        }
    }

    /// What a listing came to; an event of the call, where that is an error.
    fn told_by<T>(
        &mut self,
        index: usize,
        listed: Result<T, Error>,
        call: &mut Call,
    ) -> Result<T, Unlisted> {
        listed.map_err(|error| {
            let member = self.members.get(index);
            call.events
                .extend(member.map(|member| event(index, member, error)));
            Unlisted::Silent
        })
    }

    /// Gives a page of the keys that node `index`, a Redis, holds to `take`; the cursor of the next page, nothing after the last one, and nothing at all when it does not tell.
    ///
    /// What is there from the first page to the last is told; what comes and goes meanwhile may
    /// be. So it is with memcached's listing, and records say when that does not do.
    pub(crate) fn page(
        &mut self,
        index: usize,
        cursor: &[u8],
        take: &mut dyn FnMut(Vec<u8>, usize),
        call: &mut Call,
    ) -> Option<Option<Vec<u8>>> {
        let first = call.used;
        let mut next = None;
        // By its name at first; then in full, if the server does not know it.
        for whole in [false, true] {
            let lane = self.exchange_lane(index, call, |lane| {
                lane.ask_redis(|out| redis::list_keys(out, cursor, whole));
            });
            let lane = call.lanes.get(lane?)?;
            if let [Reply::List(list)] = *lane.answers.as_slice() {
                let mut each = |key: &[u8], size: usize| take(key.to_vec(), size);
                next = redis::page(lane.received(), list, &mut each).ok();
            }
            call.used = first;
            if next.is_some() {
                break;
            }
        }
        next
    }
}

/// The bytes of the item in a line "key=… size=…"; 0 where they are not told.
fn size_of_item(line: &[u8]) -> usize {
    let size = line
        .split(|byte| *byte == b' ')
        .find_map(|word| word.strip_prefix(b"size="));
    size.and_then(|digits| std::str::from_utf8(digits).ok()?.trim_end().parse().ok())
        .unwrap_or(0)
}

/// The key of such a line, and the bytes of its item; `None` for a line that is none.
pub(crate) fn key_and_size(line: &[u8]) -> Option<(Vec<u8>, usize)> {
    Some((key_of(line)?, size_of_item(line)))
}

/// The key of a line "key=… exp=…"; memcached writes it as in a URL.
fn key_of(line: &[u8]) -> Option<Vec<u8>> {
    let rest = line.strip_prefix(b"key=")?;
    let text = rest.split(|byte| *byte == b' ').next()?;
    let mut key = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let escaped = text
            .get(at + 1..at + 3)
            .filter(|_| *byte == b'%')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        key.push(escaped.unwrap_or(*byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::{key_of, size_of_item};

    #[test]
    fn a_listed_key_is_read_as_it_was_stored() {
        let line = b"key=a%25b%C4%BE%7e exp=-1 la=1 cas=2 fetch=no cls=1 size=64";
        assert_eq!(key_of(line).as_deref(), Some("a%bľ~".as_bytes()));
        assert_eq!(size_of_item(line), 64);
        assert_eq!(
            key_of(b"key=100% exp=1").as_deref(),
            Some(b"100%".as_slice())
        );
        assert_eq!(key_of(b"END"), None);
    }
}
