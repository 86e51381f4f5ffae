//! Key tags: what stands between two characters is hashed for the whole key, so that keys
//! with one tag lie on one node.
//!
//! | key, tag `{}` | Redis Cluster, and all placements but Jedis' | Jedis |
//! |---|---|---|
//! | `{user1}.cart`, `a{user1}{b}` | `user1` | `user1` |
//! | `{user1`, `user1}` | the whole key | the whole key |
//! | `{}{user1}` | the whole key | `}{user1` |
//! | `{a⏎b}{c}` (a line's end within) | `a⏎b` | `c` |
//!
//! Redis Cluster's is the rule of its specification ("hash tags"). Jedis' is what the regular
//! expression of Sharded.DEFAULT_KEY_TAG_PATTERN, `\{(.+?)\}`, finds: at least one character,
//! even a closing one, and none that ends a line. Another pair stands for the same expression
//! with its two characters. Jedis takes a tag from keys that are strings only, never from
//! `byte[]`.

/// The two characters, and who reads them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tag {
    pub(super) open: u8,
    pub(super) close: u8,
    /// As Jedis does, rather than as Redis Cluster.
    pub(super) jedis: bool,
}

impl Tag {
    /// The part of `key` that is hashed: what stands between the two, else all of it.
    pub(super) fn of<'k>(&self, key: &'k [u8]) -> &'k [u8] {
        let found = if self.jedis {
            self.pattern(key)
        } else {
            self.first(key)
        };
        found.unwrap_or(key)
    }

    fn first<'k>(&self, key: &'k [u8]) -> Option<&'k [u8]> {
        let rest = key.get(memchr::memchr(self.open, key)? + 1..)?;
        let end = memchr::memchr(self.close, rest)?;
        rest.get(..end).filter(|tag| !tag.is_empty())
    }

    fn pattern<'k>(&self, mut key: &'k [u8]) -> Option<&'k [u8]> {
        loop {
            key = key.get(memchr::memchr(self.open, key)? + 1..)?;
            // The first character belongs to the tag whatever it is. One of several bytes has
            // no ASCII among them, so that a search from its second byte misses nothing.
            let end = memchr::memchr(self.close, key.get(1..)?)? + 1;
            let tag = key.get(..end)?;
            match line_end(tag) {
                None => return Some(tag),
                // Whatever opens before it would have to go over it, too.
                Some(after) => key = key.get(after..)?,
            }
        }
    }
}

/// Where the first end of a line in `text` is over, as Java's `.` sees one
/// (java.util.regex.Pattern, "Line terminators"): LF, CR, U+0085, U+2028, U+2029.
fn line_end(text: &[u8]) -> Option<usize> {
    let mut rest = text;
    loop {
        let length = match rest {
            [] => return None,
            [b'\n' | b'\r', ..] => 1,
            [0xc2, 0x85, ..] => 2,
            [0xe2, 0x80, 0xa8 | 0xa9, ..] => 3,
            [_, after @ ..] => {
                rest = after;
                continue;
            }
        };
        return Some(text.len() - rest.len() + length);
    }
}
