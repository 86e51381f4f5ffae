//! Redis Cluster's placement: 16,384 slots, and who has each of them.
//!
//! A key's slot is the CRC-16 (XMODEM: polynomial 0x1021, from 0) of its tag, or of all of it,
//! modulo 16,384. The nodes of a cluster say who has which; nobody computes that.
//!
//! Source: redis.io "Redis cluster specification", "Key distribution model" and "Hash tags".

use super::tag::Tag;

/// Slots of a cluster.
pub const SLOTS: u16 = 16_384;

/// A cluster's own tags, which no setting changes.
pub(super) const TAG: Tag = Tag {
    open: b'{',
    close: b'}',
    jedis: false,
};

/// The slot of a key.
///
/// ```
/// use memring_pool::ring::slots::slot;
/// assert_eq!(slot(b"123456789"), 0x31c3);
/// assert_eq!(slot(b"{user1}.cart"), slot(b"user1"));
/// ```
pub fn slot(key: &[u8]) -> u16 {
    slot_of_tag(TAG.of(key))
}

/// The same for what is hashed of it.
pub(super) fn slot_of_tag(tag: &[u8]) -> u16 {
    let crc = tag.iter().fold(0_u16, |crc, byte| {
        let place = (crc >> 8) as u8 ^ byte;
        crc << 8 ^ CRC.get(usize::from(place)).copied().unwrap_or(0)
    });
    crc % SLOTS
}

/// The CRC of each byte alone.
static CRC: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                crc << 1 ^ 0x1021
            };
            bit += 1;
        }
        #[allow(clippy::indexing_slicing, reason = "the compiler itself runs this")]
        {
            table[byte] = crc;
        }
        byte += 1;
    }
    table
};

/// A key that lies in the slot of `key` and belongs to it: the same with `suffix` behind, in a
/// tag of its own where it has none.
pub fn beside(key: &[u8], suffix: &[u8]) -> Vec<u8> {
    let wanted = slot(key);
    let plain = [key, suffix].concat();
    if slot(&plain) == wanted && TAG.of(key).len() < key.len() {
        return plain;
    }
    let tagged = [b"{", key, b"}", suffix].concat();
    if slot(&tagged) == wanted && TAG.of(&tagged) == key {
        return tagged;
    }
    // Braces in the key itself: any short tag of that slot will do, and one in 16,384 is.
    let mut buffer = itoa::Buffer::new();
    let tag = (0_u32..).find(|tag| slot_of_tag(buffer.format(*tag).as_bytes()) == wanted);
    let tag = itoa::Buffer::new().format(tag.unwrap_or(0)).to_owned();
    [b"{", tag.as_bytes(), b"}", key, suffix].concat()
}

/// Who has which slot, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    nodes: Vec<(String, u16)>,
    /// For each slot the number of its node.
    owners: Box<[u16]>,
}

/// The number of no node.
const NOBODY: u16 = u16::MAX;

impl Default for Table {
    /// Nobody has anything.
    fn default() -> Table {
        Table {
            nodes: Vec::new(),
            owners: vec![NOBODY; usize::from(SLOTS)].into(),
        }
    }
}

impl Table {
    /// Gives the slots from `first` to `last` to the node at `host` and `port`.
    pub fn give(&mut self, first: u16, last: u16, host: &str, port: u16) {
        let same = |(h, p): &(String, u16)| h == host && *p == port;
        let node = self.nodes.iter().position(same).unwrap_or_else(|| {
            self.nodes.push((host.to_owned(), port));
            self.nodes.len() - 1
        });
        let node = u16::try_from(node).unwrap_or(NOBODY);
        let slots = usize::from(first)..usize::from(last.min(SLOTS - 1)) + 1;
        if let Some(owners) = self.owners.get_mut(slots) {
            owners.fill(node);
        }
    }

    /// Gives one slot to another node, and lets go of the one that had it if it was its last.
    pub fn hand_over(&mut self, slot: u16, host: &str, port: u16) {
        let before = self.owner(slot);
        self.give(slot, slot, host, port);
        let Some(before) = before else { return };
        let number = u16::try_from(before).unwrap_or(NOBODY);
        if self.owners.contains(&number) {
            return;
        }
        self.nodes.remove(before);
        for owner in &mut self.owners {
            if *owner > number && *owner != NOBODY {
                *owner -= 1;
            }
        }
    }

    /// The nodes that have slots, host and port of each.
    pub fn nodes(&self) -> &[(String, u16)] {
        &self.nodes
    }

    /// The number of the node that has `slot`, in the order of [`Table::nodes`].
    #[inline]
    pub fn owner(&self, slot: u16) -> Option<usize> {
        let owner = self.owners.get(usize::from(slot)).copied();
        owner.filter(|node| *node != NOBODY).map(usize::from)
    }

    /// The slots of node number `node`: first and last of each run.
    pub fn runs(&self, node: usize) -> Vec<(u16, u16)> {
        let mut runs: Vec<(u16, u16)> = Vec::new();
        for slot in (0..SLOTS).filter(|slot| self.owner(*slot) == Some(node)) {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == slot => *last = slot,
                _ => runs.push((slot, slot)),
            }
        }
        runs
    }
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    reason = "tests may stop at the first surprise"
)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_hashed_by_its_tag_as_the_specification_says() {
        // CLUSTER KEYSLOT of Redis 7.0.15.
        for (key, expected) in [
            ("", 0),
            ("foo", 12182),
            ("somekey", 11058),
            ("foo{hash_tag}", 2515),
            ("bar{hash_tag}", 2515),
            ("{user1000}.following", 3443),
            ("foo{}{bar}", 8363),
            ("foo{{bar}}zap", 4015),
            ("foo{bar}{zap}", 5061),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{{bar}"));
    }

    #[test]
    fn what_lies_beside_a_key_is_in_its_slot_whatever_braces_it_has() {
        for (key, expected) in [
            ("abc", "{abc}_LOCK"),
            ("P:abc", "{P:abc}_LOCK"),
            ("{app}abc", "{app}abc_LOCK"),
            ("x{app}", "x{app}_LOCK"),
        ] {
            assert_eq!(beside(key.as_bytes(), b"_LOCK"), expected.as_bytes());
        }
        let mut seen = std::collections::HashSet::new();
        for key in [
            "", "{", "}", "{}", "}{", "a}b", "a{b", "{}abc", "{}{abc}", "{{}}", "a}{b}",
        ] {
            let beside = beside(key.as_bytes(), b"_LOCK");
            assert_eq!(slot(&beside), slot(key.as_bytes()), "{key}");
            assert!(beside.ends_with(b"_LOCK") && seen.insert(beside), "{key}");
        }
    }

    #[test]
    fn a_table_knows_the_runs_of_each_node_and_forgets_who_gave_its_last_slot() {
        let mut table = Table::default();
        assert_eq!(table.owner(0), None);
        table.give(0, 9999, "a", 1);
        table.give(10000, u16::MAX, "b", 1);
        table.give(5000, 5000, "c", 1);
        assert_eq!(table.nodes().len(), 3);
        assert_eq!(table.runs(0), [(0, 4999), (5001, 9999)]);
        assert_eq!(table.owner(5000), Some(2));
        table.hand_over(5000, "a", 1);
        table.hand_over(16383, "d", 1);
        table.hand_over(16383, "e", 1);
        let names: Vec<&str> = table
            .nodes()
            .iter()
            .map(|(host, _)| host.as_str())
            .collect();
        assert_eq!(names, ["a", "b", "e"]);
        assert_eq!(table.runs(0), [(0, 9999)]);
        assert_eq!(table.runs(1), [(10000, 16382)]);
        assert_eq!(table.runs(2), [(16383, 16383)]);
    }
}
