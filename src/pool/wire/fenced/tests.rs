//! The fenced lines as tables of what is said, and the header in front of a value.

use super::*;
use crate::wire::{Parsed, Reply, meta};

fn said(build: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    build(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn every_line_carries_its_opaque_and_asks_for_its_key() {
    assert_eq!(said(|o| record(o, b"~r", 1)), "mg ~r v c u O1 k\r\n");
    assert_eq!(said(|o| probe(o, b"~r", 1)), "mg ~r v c u E1 O1 k\r\n");
    assert_eq!(
        said(|o| read(o, b"a", true, Some(30), 2)),
        "mg a v c f s t N30 R2147483647 O2 k\r\n"
    );
    assert_eq!(
        said(|o| read(o, b"a", false, None, 3)),
        "mg a c f s t O3 k\r\n"
    );
    let put = |over, version, flags| Put {
        key: b"a",
        len: 3,
        over,
        version,
        flags,
        life: 60,
    };
    assert_eq!(
        said(|o| store(o, put(Over::Cas(9), Some(u64::MAX), Some(1 << 20)), 4)),
        "ms a 3 C9 E18446744073709551615 F1048576 T60 c O4 k\r\n"
    );
    assert_eq!(
        said(|o| store(o, put(Over::Nothing, None, None), 5)),
        "ms a 3 ME T60 c O5 k\r\n"
    );
    assert_eq!(
        said(|o| unlock(o, b"a", 9, Some(8), Some(60), 6)),
        "md a I C9 E8 T60 O6 k\r\n"
    );
    assert_eq!(
        said(|o| unlock(o, b"a", 9, None, None, 7)),
        "md a I C9 O7 k\r\n"
    );
    assert_eq!(said(|o| remove(o, b"a", 9, 8)), "md a C9 O8 k\r\n");
}

fn shown(bytes: &str, at: usize) -> Option<Shown> {
    match meta::parse(bytes.as_bytes(), at) {
        Parsed::Reply(_, Reply::Meta(answer)) => Shown::of(answer, bytes.as_bytes()),
        _ => None,
    }
}

#[test]
fn size_life_and_token_are_read_from_the_answers_own_line() {
    let expected = Shown {
        size: 3,
        ttl: 100,
        won: true,
        taken: false,
        stale: true,
    };
    let line = "VA 3 c3 f1048576 s3 t100 O7 ka X W\r\nxyz\r\n";
    assert_eq!(shown(line, 0), Some(expected));
    // Between others' lines, and a value that looks like one.
    let before = "VA 9 ka s7 O6\r\n\r\nHD s8 Z\r\n";
    let all = format!("{before}{line}HD c3 f0 s9 t9 O8 ka Z\r\n");
    assert_eq!(shown(&all, before.len()), Some(expected));
    let taken = shown("HD c1 f0 s0 t30 O2 ka Z\r\n", 0).unwrap();
    assert!(taken.taken && !taken.won && !taken.stale);
    for (text, ttl) in [("-1", FOR_EVER), ("0", 0), ("4294967295", 0)] {
        let line = format!("HD c3 f0 s0 t{text} ka\r\n");
        assert_eq!(shown(&line, 0).map(|shown| shown.ttl), Some(ttl));
    }
    for wrong in [
        "HD c3 f0 s0 t9",
        "HD c3 f0 s0 ka",
        "HD c3 f0 t9 ka",
        "HD c3 s0 t9 ka",
        "HD f0 s0 t9 ka",
        "HD c3 f0 s0 t-2 ka",
        "HD c3 f0 s0 t ka",
        "HD c3 f0 s-1 t9 ka",
        "HD c3 f0 s4294967296 t9 ka",
    ] {
        assert_eq!(shown(&format!("{wrong}\r\n"), 0), None, "{wrong}");
    }
}

#[test]
fn life_and_kind_come_back_from_the_flag_word() {
    for (inc, tombstone, mended, witness, word) in [
        (1, false, false, false, 1 << 20),
        (17, true, false, false, 17 << 20 | 4096),
        (18, false, true, false, 18 << 20 | 16384),
        (19, false, false, true, 19 << 20 | 32768),
        (4095, true, true, true, 0xfff0_d000),
    ] {
        let flags = Flags {
            inc,
            tombstone,
            mended,
            witness,
        };
        assert_eq!(flags.word(), word);
        // The value's own bits change nothing.
        for word in [word, word | 0xfff] {
            assert_eq!(Flags::of(word), flags);
        }
    }
    assert_eq!(Flags::of(0x300), Flags::default());
}

#[test]
fn a_header_reads_back_and_one_changed_bit_is_somebody_elses_value() {
    for tombstone in [false, true] {
        let header = Header {
            version: 0x0123_4567_89ab_cdef,
            inc: 4095,
            tombstone,
        };
        let mut stored = b"before".to_vec();
        header.append(&mut stored);
        stored.drain(..6);
        assert_eq!(stored.len(), HEADER);
        assert_eq!(stored[..8], 0x0123_4567_89ab_cdef_u64.to_be_bytes());
        stored.extend_from_slice(b"value");
        assert_eq!(Header::split(&stored), Some((header, b"value".as_slice())));
        assert_eq!(
            Header::split(&stored[..HEADER]),
            Some((header, b"".as_slice()))
        );
        for cut in 0..HEADER {
            assert_eq!(Header::split(&stored[..cut]), None);
        }
        for bit in 0..HEADER * 8 {
            let mut other = stored.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::split(&other), None, "bit {bit}");
        }
    }
}
