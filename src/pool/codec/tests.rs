//! The texts and streams pecl-memcache recorded, the digits of floats, and garbage.

use super::stream::damaged;
use super::*;

/// The flags of pecl-memcache, as any of these tests means them.
fn decode(flags: Flags, bytes: &[u8]) -> Decoded<'_> {
    let room = Box::leak(Box::default());
    Layout::Pecl
        .decode(flags, bytes, INFLATE_MAX, room)
        .unwrap()
}

fn deflate(raw: &[u8], limit: usize, out: &mut Vec<u8>) -> bool {
    Stream::Zlib.pack(raw, limit, out)
}

fn inflate(bytes: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), Error> {
    Stream::Zlib.unpack(bytes, limit, out)
}

fn text(write: impl Fn(&mut Vec<u8>) -> Flags) -> (u32, String) {
    let mut out = b"before|".to_vec();
    let flags = write(&mut out);
    (flags.0, String::from_utf8(out[7..].to_vec()).unwrap())
}

fn written(value: f64) -> String {
    text(|out| float(value, out)).1
}

#[test]
fn ints_and_bools_are_written_as_recorded() {
    assert_eq!(text(|out| int(-5, out)), (768, "-5".into()));
    assert_eq!(
        text(|out| int(i64::MIN, out)),
        (768, "-9223372036854775808".into())
    );
    assert_eq!(text(|out| bool(true, out)), (256, "1".into()));
    assert_eq!(text(|out| bool(false, out)), (256, "0".into()));
}

#[test]
fn a_float_that_fourteen_digits_hold_is_written_as_pecl_writes_it() {
    for (value, expected) in [
        (0.3, "0.3"),
        (1e15, "1.0e+15"),
        (1e14, "1.0e+14"),
        (99_999_999_999_999.0, "99999999999999"),
        (100_000.0, "100000"),
        (1.5, "1.5"),
        (-2.25, "-2.25"),
        (123.456, "123.456"),
        (0.0, "0"),
        (-0.0, "-0"),
        (0.0001, "0.0001"),
        (0.001_234, "0.001234"),
        (0.000_01, "1.0e-5"),
        (1.25e-7, "1.25e-7"),
        (1e100, "1.0e+100"),
        (-1.5e300, "-1.5e+300"),
        (f64::NAN, "NAN"),
        (f64::INFINITY, "INF"),
        (f64::NEG_INFINITY, "-INF"),
    ] {
        assert_eq!(text(|out| float(value, out)), (1792, expected.into()));
    }
}

#[test]
fn any_other_float_keeps_its_digits_in_the_same_style() {
    for (value, expected) in [
        (0.1 + 0.2, "0.30000000000000004"),
        (1.0 / 3.0, "0.3333333333333333"),
        (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
        (9_007_199_254_740_993.0, "9007199254740992"),
        (f64::MAX, "1.7976931348623157e+308"),
        (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
        (-std::f64::consts::PI, "-3.141592653589793"),
    ] {
        assert_eq!(written(value), expected);
    }
}

#[test]
fn every_float_reads_back_as_itself() {
    let mut random = Random(11);
    for _ in 0..100_000 {
        let value = f64::from_bits(random.next());
        let text = written(value);
        let back = read_float(text.as_bytes());
        assert!(
            back.to_bits() == value.to_bits() || (value.is_nan() && back.is_nan()),
            "{value:e} as {text}"
        );
    }
}

#[test]
fn ints_are_read_like_strtol() {
    for (bytes, expected) in [
        (&b"5"[..], 5),
        (b" \t\n\x0b\x0c\r-17xyz", -17),
        (b"+3", 3),
        (b"", 0),
        (b"-", 0),
        (b"abc", 0),
        (b"- 5", 0),
        (b"0x10", 0),
        (b"10   ", 10),
        (b"1.9", 1),
        (b"9223372036854775807", i64::MAX),
        (b"9223372036854775808", i64::MAX),
        (b"-9223372036854775808", i64::MIN),
        (b"-99999999999999999999999999", i64::MIN),
        (b"99999999999999999999999999", i64::MAX),
        (b"18446744073709551615", i64::MAX),
        (b"5\x006", 5),
        (b"\xff5", 0),
    ] {
        assert_eq!(
            decode(Flags(INT), bytes),
            Decoded::Int(expected),
            "{bytes:?}"
        );
    }
}

#[test]
fn floats_are_read_like_sscanf() {
    for (bytes, expected) in [
        (&b"0.3"[..], 0.3),
        (b"1.0e+15", 1e15),
        (b"1.0E+15", 1e15),
        (b" \n-2.5kg", -2.5),
        (b"+.5", 0.5),
        (b"5.", 5.0),
        (b".", 0.0),
        (b"-", 0.0),
        (b"", 0.0),
        (b"e5", 0.0),
        (b"1e", 1.0),
        (b"1e+", 1.0),
        (b"1e5e5", 1e5),
        (b"1..2", 1.0),
        (b"1e999", f64::INFINITY),
        (b"-1e999", f64::NEG_INFINITY),
        (b"1e-999", 0.0),
        (b"INF", f64::INFINITY),
        (b"-INF", f64::NEG_INFINITY),
        (b"infinity", f64::INFINITY),
        (b"in", 0.0),
        (b"abc", 0.0),
        (b"\xff", 0.0),
    ] {
        assert_eq!(
            decode(Flags(FLOAT), bytes),
            Decoded::Float(expected),
            "{bytes:?}"
        );
    }
    assert!(read_float(b"NAN").is_nan() && read_float(b"-nan").is_nan());
    assert!(read_float(b"-0").is_sign_negative());
}

#[test]
fn a_bool_is_true_only_as_a_single_1_and_the_serialized_bit_goes_before_the_type() {
    for (bytes, expected) in [
        (&b"1"[..], true),
        (b"0", false),
        (b"", false),
        (b"11", false),
        (b"x", false),
    ] {
        assert_eq!(decode(Flags(BOOL), bytes), Decoded::Bool(expected));
    }
    assert_eq!(
        decode(Flags(SERIALIZED | INT), b"i:1;"),
        Decoded::Serialized(Serializer::Php, b"i:1;")
    );
    assert_eq!(decode(Flags(0), b"5"), Decoded::Bytes(b"5"));
    assert_eq!(
        decode(Flags(0x0500), b"5"),
        Decoded::Bytes(b"5"),
        "a type nobody knows"
    );
    assert_eq!(
        decode(Flags(0x000f_0000 | INT), b"5"),
        Decoded::Int(5),
        "user bits do not matter"
    );
}

#[test]
fn compression_follows_pecls_rule() {
    let rule = Compression::default();
    let (short, long) = (vec![b'a'; 19_999], vec![b'a'; 20_000]);
    let mut random = Random(3);
    let noise: Vec<u8> = (0..20_001).map(|_| (random.next() >> 40) as u8).collect();
    for (raw, asked, compressed) in [
        (&short[..], false, false),
        (&long[..], false, true),
        (&short[..], true, true),
        (b"abc", true, false),
        (b"", true, false),
        (&noise[..], false, false),
        (&noise[..], true, false),
    ] {
        let mut out = b"before".to_vec();
        let stream = Format::default().pack(rule, raw, asked, &mut out);
        assert_eq!(stream, compressed.then_some(Stream::Zlib));
        assert!(out.starts_with(b"before") && (compressed || out.len() == 6));
        if compressed {
            assert!(out.len() - 6 <= raw.len() * 4 / 5);
            let mut back = Vec::new();
            inflate(&out[6..], INFLATE_MAX, &mut back).unwrap();
            assert_eq!(back, raw);
        }
    }
    let packs = |rule, raw: &[u8], asked| {
        let mut out = Vec::new();
        Format::default().pack(rule, raw, asked, &mut out).is_some()
    };
    let never = Compression::new(0, 0.2).unwrap();
    assert!(!packs(never, &[b'a'; 100_000], false));
    assert!(packs(never, &[b'a'; 100], true));
    let all = Compression::new(1, 1.0).unwrap();
    assert!(!packs(all, &long, false), "nothing saves everything");
}

#[test]
fn a_stream_that_just_fits_is_kept_and_one_byte_less_is_not() {
    let raw: Vec<u8> = (0..5000u32)
        .flat_map(|n| (n * n % 251).to_le_bytes())
        .collect();
    let mut out = Vec::new();
    assert!(deflate(&raw, raw.len(), &mut out));
    let size = out.len();
    for (limit, fits) in [(size, true), (size - 1, false), (10, false), (0, false)] {
        let mut out = vec![1, 2];
        assert_eq!(deflate(&raw, limit, &mut out), fits);
        assert_eq!(out.len(), if fits { size + 2 } else { 2 });
    }
}

#[test]
fn thresholds_out_of_range_are_refused() {
    for (threshold, savings) in [(-1, 0.2), (1, -0.1), (1, 1.1), (1, f64::NAN)] {
        assert_eq!(
            Compression::new(threshold, savings).unwrap_err().kind(),
            Kind::Config
        );
    }
}

#[test]
fn the_recorded_streams_are_read_and_ours_mean_the_same() {
    let mut seen = 0;
    for line in include_str!("../../../tests/golden/wire-ascii.txt").lines() {
        let Some(payload) = recorded_stream(line) else {
            continue;
        };
        let mut back = Vec::new();
        inflate(&payload, INFLATE_MAX, &mut back).unwrap();
        let mut ours = Vec::new();
        let stream = Format::default().pack(Compression::default(), &back, true, &mut ours);
        assert_eq!(stream, Some(Stream::Zlib), "{line}");
        // Not the same bytes: zlib-rs ends a block of 20,000 equal letters one byte later.
        assert!(
            ours.starts_with(b"\x78\x9c"),
            "the header of zlib's default level: {ours:?}"
        );
        let mut again = Vec::new();
        inflate(&ours, INFLATE_MAX, &mut again).unwrap();
        assert_eq!(again, back);
        seen += 1;
    }
    assert!(seen >= 2, "{seen} streams");
}

/// The bytes of a recorded compressed `set`, written there as a Python bytes literal.
fn recorded_stream(line: &str) -> Option<Vec<u8>> {
    let literal = line.strip_prefix("> b'set ")?.strip_suffix('\'')?;
    let bytes = unescape(literal);
    let head = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let words: Vec<_> = std::str::from_utf8(&bytes[..head])
        .ok()?
        .split(' ')
        .collect();
    let [_, flags, _, size] = words[..] else {
        return None;
    };
    let payload = &bytes[head + 2..bytes.len() - 2];
    let whole = size.parse() == Ok(payload.len());
    (flags.parse::<u32>().ok()? & COMPRESSED != 0 && whole).then(|| payload.to_vec())
}

fn unescape(literal: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = literal.chars();
    while let Some(next) = rest.next() {
        if next != '\\' {
            bytes.push(next as u8);
            continue;
        }
        bytes.push(match rest.next().unwrap() {
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'x' => {
                let hex: String = rest.by_ref().take(2).collect();
                u8::from_str_radix(&hex, 16).unwrap()
            }
            other => other as u8,
        });
    }
    bytes
}

#[test]
fn a_damaged_stream_is_refused_and_leaves_the_buffer_alone() {
    let raw = b"hello hello hello hello hello".repeat(50);
    let mut stream = Vec::new();
    assert!(deflate(&raw, raw.len(), &mut stream));
    let mut bad = vec![
        Vec::new(),
        b"x".to_vec(),
        b"not zlib at all".to_vec(),
        b"x\x9c".to_vec(),
    ];
    bad.extend((0..stream.len()).map(|cut| stream[..cut].to_vec()));
    let mut checksum = stream.clone();
    *checksum.last_mut().unwrap() ^= 1;
    bad.push(checksum);
    for bytes in bad {
        let mut out = b"before".to_vec();
        let error = inflate(&bytes, INFLATE_MAX, &mut out).unwrap_err();
        assert_eq!(error, damaged());
        assert_eq!(out, b"before");
    }
    let mut trailing = stream.clone();
    trailing.extend_from_slice(b"junk");
    let mut out = Vec::new();
    inflate(&trailing, INFLATE_MAX, &mut out).unwrap();
    assert_eq!(out, raw);
}

#[test]
fn a_bomb_stops_at_the_limit_and_what_just_fits_does_not() {
    let raw = vec![0; 3_000_000];
    let mut stream = Vec::new();
    assert!(deflate(&raw, raw.len(), &mut stream));
    assert!(stream.len() < 4000);
    for (limit, fits) in [
        (raw.len(), true),
        (raw.len() - 1, false),
        (1000, false),
        (0, false),
        (usize::MAX, true),
    ] {
        let mut out = Vec::new();
        assert_eq!(
            inflate(&stream, limit, &mut out).is_ok(),
            fits,
            "limit {limit}"
        );
        assert_eq!(out.len(), if fits { raw.len() } else { 0 });
        assert!(out.capacity() <= 8_000_000);
    }
    let mut empty = Vec::new();
    assert!(deflate(b"", 100, &mut empty));
    inflate(&empty, 0, &mut Vec::new()).unwrap();
}

#[test]
fn garbage_never_brings_a_decoder_down() {
    // Seed 5: the same garbage on every run.
    let mut random = Random(5);
    let alphabet = b" \t-+.eEinfaNx0123456789\0\xff";
    let mut good = Vec::new();
    assert!(deflate(
        &b"some text to be damaged ".repeat(20),
        4000,
        &mut good
    ));
    for _ in 0..20_000 {
        let size = random.next() as usize % 40;
        let bytes: Vec<u8> = (0..size)
            .map(|_| alphabet[random.next() as usize % alphabet.len()])
            .collect();
        let mut room = Vec::new();
        for layout in [Layout::Pecl, Layout::PhpMemcached] {
            for flags in [random.next() as u32, INT, FLOAT, BOOL, SERIALIZED] {
                let _ = layout.decode(Flags(flags), &bytes, 10_000, &mut room);
            }
        }
        let mut damaged = good.clone();
        for _ in 0..1 + random.next() % 4 {
            let at = random.next() as usize % damaged.len();
            damaged[at] = random.next() as u8;
        }
        let mut out = Vec::new();
        if inflate(&damaged, 10_000, &mut out).is_err() {
            assert!(out.is_empty());
        }
        assert!(inflate(&bytes, 10_000, &mut out).is_err());
    }
}

/// A small generator with a written seed: the same numbers on every run.
struct Random(u64);

impl Random {
    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}
