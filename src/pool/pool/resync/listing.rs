//! Which keys a node holds, as it lists them itself.

use super::super::Pool;
use crate::call::Call;
use crate::config::Engine;
use crate::item::Span;
use crate::wire::redis::{self, FIRST_PAGE};
use crate::wire::{Expect, Reply, classic};
use std::collections::HashMap;
use std::time::Duration;

/// A node with millions of keys needs longer to list them than for any other answer.
pub(super) const LISTING: Duration = Duration::from_secs(60);

impl Pool {
    /// The keys that all nodes but those in `without` hold, each once, with the bytes of one copy; the index of a
    /// node that does not tell.
    pub(in super::super) fn keys_elsewhere(
        &mut self,
        without: &[usize],
        record_key: &[u8],
        call: &mut Call,
    ) -> Result<HashMap<Vec<u8>, usize>, usize> {
        let mut keys = HashMap::new();
        for index in (0..self.members.len()).filter(|index| !without.contains(index)) {
            self.keys_of(index, record_key, &mut keys, call)
                .ok_or(index)?;
        }
        Ok(keys)
    }

    /// Puts the keys that node `index` holds into `keys`; nothing when it does not tell.
    pub(super) fn keys_of(
        &mut self,
        index: usize,
        record_key: &[u8],
        keys: &mut HashMap<Vec<u8>, usize>,
        call: &mut Call,
    ) -> Option<()> {
        let first = call.used;
        if self.engine(index) == Engine::Redis {
            let mut cursor = Some(FIRST_PAGE.to_vec());
            while let Some(at) = cursor {
                cursor = self.page(index, &at, keys, call)?;
            }
            return Some(());
        }
        let limit = self.set_limit(index, |limit| limit.max(LISTING));
        let listed = self.exchange(index, call, |out, asks| {
            classic::list_keys(out);
            asks.push(Expect::Keys);
        });
        self.set_limit(index, |_| limit);
        let lane = listed
            .and_then(|lane| call.lanes.get(lane))
            .filter(|lane| !lane.refused)?;
        let line = |span: Span| span.of(lane.received());
        for reply in &lane.answers {
            if let Reply::Stat(span) = reply
                && let Some((key, size)) = key_and_size(line(*span))
                && key != record_key
            {
                // Of a witness it is that of a write's word.
                let largest = keys.entry(key).or_insert(size);
                *largest = size.max(*largest);
            }
        }
        call.used = first;
        Some(())
    }

    /// Puts a page of the keys that node `index`, a Redis, holds into `keys`; the cursor of the
    /// next page, nothing after the last one, and nothing at all when it does not tell.
    ///
    /// What is there from the first page to the last is told; what comes and goes meanwhile may
    /// be. So it is with memcached's listing, and records say when that does not do.
    pub(crate) fn page(
        &mut self,
        index: usize,
        cursor: &[u8],
        keys: &mut HashMap<Vec<u8>, usize>,
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
                let mut take = |key: &[u8], size: usize| {
                    let largest = keys.entry(key.to_vec()).or_insert(size);
                    *largest = size.max(*largest);
                };
                next = redis::page(lane.received(), list, &mut take).ok();
            }
            call.used = first;
            if next.is_some() {
                break;
            }
        }
        next
    }

    /// Changes the limit of one exchange with a node; what it was.
    fn set_limit(&mut self, index: usize, how: impl Fn(Duration) -> Duration) -> Duration {
        self.members.get_mut(index).map_or(LISTING, |member| {
            let new = how(member.spec.op_timeout);
            std::mem::replace(&mut member.spec.op_timeout, new)
        })
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
