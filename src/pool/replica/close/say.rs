//! Who has a write says in its record who missed it, before the write is acknowledged.

use super::super::{Command, Kept, Send};
use super::{Close, RECORD_RETRIES, Step};

impl Close {
    /// Has node number `place` say that these missed a write, if it does not yet.
    pub(super) fn list(&mut self, place: usize, absent: &[(Box<str>, Kept)], out: &mut Vec<Send>) {
        let since = self.since;
        let host = self.grips.host.clone();
        let anew = absent.iter().any(|(_, kept)| *kept == Kept::Anew)
            && self.nodes.get(place).is_some_and(|node| !node.said);
        let tries = self.nodes.get_mut(place).map_or(0, |node| {
            node.record_tries += 1;
            node.record_tries
        });
        let Some(view) = self.grips.nodes.get_mut(place) else {
            return;
        };
        let Some((record, cas)) = &view.record else {
            return self.set(place, Step::Missed);
        };
        let mut changed = record.clone();
        for (node, kept) in absent {
            changed.say(node, &host, since, *kept);
        }
        if changed == *record && !anew {
            return;
        }
        if tries > RECORD_RETRIES {
            return self.set(place, Step::Missed);
        }
        let command = Command::SetRecord {
            cas: *cas,
            record: changed,
        };
        view.ask(place, vec![command], out);
        if let Some(node) = self.nodes.get_mut(place) {
            node.said = true;
        }
    }
}
