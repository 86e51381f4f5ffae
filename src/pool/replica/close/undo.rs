//! What an ending takes back: a write that lost, a value that was refused, an item that gets
//! no tombstone.

use super::super::view::{Contact, View};
use super::super::{Closed, Command, Ending, Over, Send, Stamp, Version};
use super::{Close, RECORD_RETRIES, Step};

impl Close {
    /// Takes back what was stored: a clock that is ahead would have it win later over what
    /// others had acknowledged.
    pub(super) fn lose(&mut self, stored: &[usize], out: &mut Vec<Send>) {
        self.conflict = true;
        for place in stored {
            self.withdraw(*place, out);
        }
        self.end_badly(Closed::Conflict, out);
    }

    /// Ends without having been acknowledged. Who dropped what it had and did not get it back is
    /// doubted first: nobody else says that it missed anything.
    pub(super) fn end_badly(&mut self, closed: Closed, out: &mut Vec<Send>) {
        let rules = self.grips.rules;
        let dropped = |view: &View| view.dropped && view.is_known() && !view.is_busy();
        for place in 0..self.nodes.len() {
            let tries = self
                .nodes
                .get_mut(place)
                .map_or(0, |node| node.record_tries);
            let view = self.grips.nodes.get_mut(place);
            if let Some(view) = view.filter(|view| dropped(view) && tries < RECORD_RETRIES) {
                view.doubt_dropped(place, rules, out);
                if let Some(node) = self.nodes.get_mut(place) {
                    node.record_tries += 1;
                }
            }
        }
        if out.is_empty() {
            self.end(closed, out);
        }
    }

    /// Puts back on one node what was there before our write, which lost.
    fn withdraw(&mut self, place: usize, out: &mut Vec<Send>) {
        let (base, life, data) = (self.grips.base, self.life, self.grips.data.clone());
        let (tombstone, version) = (self.grips.destroyed, self.version);
        let touch = self.ending == Ending::Touch;
        self.set(place, Step::Missed);
        let Some(view) = self
            .grips
            .nodes
            .get_mut(place)
            .filter(|view| view.is_known() && !touch)
        else {
            return;
        };
        let ours = view.stamp().filter(|stamp| stamp.version == version);
        let (Some(stamp), Some(item)) = (ours, &view.item) else {
            return;
        };
        let command = if base == Version::default() {
            Command::Remove { cas: item.cas }
        } else {
            let stamp = Stamp {
                version: base,
                inc: stamp.inc,
                tombstone,
                mended: false,
                witness: false,
            };
            view.store(stamp, life, &data)
        };
        view.ask(place, vec![command], out);
        self.set(place, Step::Withdrawing);
    }

    /// A value that is refused, for its size or for want of room, takes the old one with it
    /// (memcached unlinks before it answers). That is still the session: back with it.
    pub(super) fn restore(&mut self, place: usize, out: &mut Vec<Send>) {
        let (base, life, data) = (self.grips.base, self.life, self.grips.data.clone());
        let changes = matches!(self.ending, Ending::Write(_) | Ending::Destroy);
        let had = base != Version::default() && changes;
        let inc = self.view(place).and_then(View::inc);
        match (self.grips.nodes.get_mut(place), inc) {
            (Some(view), Some(inc)) if had && !self.grips.destroyed => {
                let write = Command::Write {
                    over: Over::Nothing,
                    stamp: Stamp {
                        version: base,
                        inc,
                        tombstone: false,
                        mended: false,
                        witness: false,
                    },
                    life,
                    data,
                };
                view.ask(place, vec![write, Command::ReadRecord], out);
                self.set(place, Step::Restoring);
            }
            _ => self.set(place, Step::Missed),
        }
    }

    /// No room for a tombstone: taking the item away needs none, and says as much while all
    /// nodes answer. Otherwise what the refusal took away goes back.
    pub(super) fn remove(&mut self, place: usize, out: &mut Vec<Send>) {
        let all = self
            .grips
            .nodes
            .iter()
            .all(|view| view.is_known() || view.contact == Contact::Unasked);
        let item = self.view(place).and_then(|view| view.item.as_ref());
        match (all, item.map(|item| item.cas)) {
            (true, Some(cas)) => {
                if let Some(view) = self.grips.nodes.get_mut(place) {
                    let commands = vec![Command::Remove { cas }, Command::ReadRecord];
                    view.ask(place, commands, out);
                }
                self.set(place, Step::Removing);
            }
            (true, None) => self.set(place, Step::Stored),
            (false, _) => self.restore(place, out),
        }
    }
}
