//! The same jobs, said to Redis.

use super::{FLAGS_INTEGER, Words};
use crate::call::{Details, Step, Verb};
use crate::fanout::Lane;
use crate::item::Span;
use crate::wire::redis::{self, Count, Put, Shape};
use crate::wire::{Expect, Store};

/// A value up to this size is copied behind its line, bytes; a longer one that goes alone is
/// sent from where it lies.
const COPY_MAX: usize = 2048;

impl Words {
    /// Appends the request and the shape of its answer.
    pub(super) fn say_redis(&self, lane: &mut Lane, arena: &[u8], key: Span, entry: &Details) {
        // A server that did not know the script is given it in full.
        let whole = self.step == Step::Again;
        let (out, key_at, key) = (&mut lane.out, key, key.of(arena));
        lane.lasting |= !matches!(
            self.verb,
            Verb::Get | Verb::Gets | Verb::GetAndTouch | Verb::Touch
        );
        let shape = match self.verb {
            Verb::Get | Verb::Gets if lane.apart => redis::get(out, key, self.verb == Verb::Gets),
            Verb::Get | Verb::Gets => {
                // Which keys a node is asked for is only known when all are; see `end_gets`.
                lane.keys.push(key_at);
                return;
            }
            Verb::GetAndTouch => redis::get_and_touch(out, key, entry.ttl),
            Verb::Store(verb) => {
                let put = Put {
                    verb,
                    key,
                    flags: entry.flags,
                    ttl: entry.ttl,
                    cas: entry.cas,
                    value: entry.value.of(arena),
                    whole,
                };
                lane.stores = true;
                if verb == Store::Set
                    && self.alone
                    && put.value.len() > COPY_MAX
                    && redis::store_head(out, &put)
                {
                    lane.tail = entry.value;
                    Shape::Stored
                } else {
                    redis::store(out, &put)
                }
            }
            Verb::Delete => redis::delete(out, key),
            Verb::Increment | Verb::Decrement => {
                let count = Count {
                    key,
                    up: self.verb == Verb::Increment,
                    delta: entry.delta,
                    initial: entry.initial.map(|n| (n, FLAGS_INTEGER, entry.ttl)),
                    whole,
                };
                redis::count(out, &count)
            }
            Verb::Touch => redis::touch(out, key, entry.ttl, whole),
        };
        lane.asks.push(Expect::Redis(shape));
    }
}

/// Appends what asks a Redis node for all keys of its lane.
pub(crate) fn ask_all(lane: &mut Lane, arena: &[u8], verb: Verb) {
    let shape = redis::get_all(&mut lane.out, arena, &lane.keys, verb == Verb::Gets);
    lane.asks.push(Expect::Redis(shape));
}
