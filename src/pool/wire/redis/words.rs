//! Words of a request: RESP arrays of bulk strings.

use crate::item::Span;

/// Appends the head of a request of `words` words.
pub(super) fn array(out: &mut Vec<u8>, words: usize) {
    out.push(b'*');
    out.extend_from_slice(itoa::Buffer::new().format(words).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends the length of a word of `bytes` bytes.
#[inline(always)] // a get has a hundred
pub(super) fn length(out: &mut Vec<u8>, bytes: usize) {
    let ten = b'0' + (bytes / 10 % 10) as u8;
    let one = b'0' + (bytes % 10) as u8;
    // Keys are short, and a get has a hundred of them.
    match bytes {
        0..10 => out.extend_from_slice(&[b'$', one, b'\r', b'\n']),
        10..100 => out.extend_from_slice(&[b'$', ten, one, b'\r', b'\n']),
        _ => long_length(out, bytes),
    }
}

/// Appends the words that lie at `words` in `arena`.
///
/// Room for some is made at once, and a short word is put there with what lies behind it, over which the next
/// one goes: a copy of known length takes no call.
pub(super) fn bulks(out: &mut Vec<u8>, arena: &[u8], words: &[Span]) {
    for some in words.chunks(AT_ONCE) {
        let (mut at, mut left) = (out.len(), some);
        out.resize(at + AT_ONCE * SHORT_ROOM, 0);
        while let Some((word, rest)) = left.split_first()
            && let Some(used) = short(out.get_mut(at..).unwrap_or_default(), arena, *word)
        {
            (at, left) = (at + used, rest);
        }
        out.truncate(at);
        left.iter().for_each(|word| bulk(out, word.of(arena)));
    }
}

/// Words that room is made for in one go.
const AT_ONCE: usize = 64;
/// Bytes of a short word.
const SHORT: usize = 16;
/// What one takes with its length of two digits and both CR LF, and one byte more.
const SHORT_ROOM: usize = 24;

/// Puts a word where `room` begins; the bytes that takes, or `None` for one that is long, or lies at the arena's end.
#[inline(always)]
fn short(room: &mut [u8], arena: &[u8], word: Span) -> Option<usize> {
    let bytes: &[u8; SHORT] = arena.get(word.at..)?.first_chunk()?;
    let room: &mut [u8; SHORT_ROOM] = room.first_chunk_mut()?;
    let head = match word.len {
        0..10 => {
            *room.first_chunk_mut()? = [b'$', b'0' + word.len as u8, b'\r', b'\n'];
            4
        }
        10..=SHORT => {
            *room.first_chunk_mut()? = [b'$', b'1', b'0' + (word.len - 10) as u8, b'\r', b'\n'];
            5
        }
        _ => return None,
    };
    *room.get_mut(head..)?.first_chunk_mut()? = *bytes;
    *room.get_mut(head + word.len..)?.first_chunk_mut()? = *b"\r\n";
    Some(head + word.len + 2)
}

#[inline(never)]
fn long_length(out: &mut Vec<u8>, bytes: usize) {
    out.push(b'$');
    out.extend_from_slice(itoa::Buffer::new().format(bytes).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends a word.
#[inline]
pub(super) fn bulk(out: &mut Vec<u8>, word: &[u8]) {
    out.reserve(word.len() + 8);
    length(out, word.len());
    out.extend_from_slice(word);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number as a word.
pub(super) fn number(out: &mut Vec<u8>, n: u64) {
    bulk(out, itoa::Buffer::new().format(n).as_bytes());
}
