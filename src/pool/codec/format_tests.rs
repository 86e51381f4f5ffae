//! Every way to write a value, read under every other; foreign bytes; bombs and damage.

use super::format::{Content, Decoded, Format, Layout, Serializer};
use super::stream::{INFLATE_MAX, Stream, TOO_LONG, damaged};
use super::{Compression, fastlz};
use crate::error::Kind;
use crate::item::Flags;

const LAYOUTS: [Layout; 2] = [Layout::Pecl, Layout::PhpMemcached];

fn formats() -> Vec<Format> {
    let mut all = Vec::new();
    for layout in LAYOUTS {
        for (_, serializer) in Serializer::WORDS {
            for (_, stream) in Format::STREAMS {
                all.extend(
                    Format {
                        layout,
                        serializer,
                        stream,
                    }
                    .check(),
                );
            }
        }
    }
    all
}

/// What `format` stores for these bytes; compressed where it can.
fn stored(format: Format, content: Content, bytes: &[u8]) -> (Flags, Vec<u8>) {
    let mut out = Vec::new();
    let when = Compression::new(1, 0.0).unwrap();
    let stream = format.pack(when, bytes, false, &mut out);
    if stream.is_none() {
        assert!(out.is_empty());
        out.extend_from_slice(bytes);
    }
    (
        Flags(0x0a0b_0000 | format.layout.flags(content, stream)),
        out,
    )
}

fn text() -> Vec<u8> {
    let lines: String = (0..400)
        .map(|n| format!("i:{n};s:7:\"line {:02}\";", n % 37))
        .collect();
    format!("a:400:{{{lines}}}").into_bytes()
}

#[test]
fn the_flags_are_those_that_are_promised() {
    use Content::{Bool, Float, Int, Serialized, Text};
    let pecl = |content, stream| Layout::Pecl.flags(content, stream);
    let other = |content, stream| Layout::PhpMemcached.flags(content, stream);
    let contents = [
        (Text, 0, 0),
        (Int, 0x300, 1),
        (Float, 0x700, 2),
        (Bool, 0x100, 3),
        (Serialized(Serializer::Php), 1, 4),
        (Serialized(Serializer::Igbinary), 5, 5),
        (Serialized(Serializer::Msgpack), 9, 7),
        (Serialized(Serializer::Json), 13, 6),
        (Serialized(Serializer::JsonObject), 13, 6),
    ];
    for (content, one, two) in contents {
        assert_eq!((pecl(content, None), other(content, None)), (one, two));
    }
    for (stream, one, two) in [
        (Stream::Zlib, 0x02, 0x30),
        (Stream::Zstd, 0x12, 0x90),
        (Stream::Lz4, 0x22, 0),
        (Stream::FastLz, 0, 0x50),
    ] {
        assert_eq!(
            (pecl(Text, Some(stream)), other(Text, Some(stream))),
            (one, two)
        );
    }
}

#[test]
fn what_one_format_writes_every_layout_reads() {
    let mut room = Vec::new();
    for format in formats() {
        for bytes in [text(), b"a:1:{i:0;i:5;}".to_vec()] {
            let content = Content::Serialized(format.serializer);
            let (flags, written) = stored(format, content, &bytes);
            assert_eq!(
                written == bytes,
                format.stream.is_none() || bytes.len() < 100
            );
            let serializer = match format.serializer {
                Serializer::JsonObject => Serializer::Json,
                other => other,
            };
            // pecl's own reader knows nothing of php-memcached's flags, and is not asked to.
            for reader in LAYOUTS
                .iter()
                .filter(|r| **r != Layout::Pecl || **r == format.layout)
            {
                let read = reader.decode(flags, &written, INFLATE_MAX, &mut room);
                assert_eq!(
                    read,
                    Ok(Decoded::Serialized(serializer, &bytes)),
                    "{format:?} read as {reader:?}"
                );
            }
            let (flags, written) = stored(format, Content::Text, &bytes);
            let read = format
                .layout
                .decode(flags, &written, INFLATE_MAX, &mut room);
            assert_eq!(read, Ok(Decoded::Bytes(&bytes)), "{format:?}");
        }
    }
}

#[test]
fn numbers_and_bools_of_one_layout_are_read_by_the_same_and_by_php_memcacheds() {
    let mut room = Vec::new();
    for format in formats() {
        for reader in LAYOUTS
            .iter()
            .filter(|r| **r != Layout::Pecl || **r == format.layout)
        {
            let mut read = |write: &dyn Fn(&mut Vec<u8>) -> u32| {
                let mut out = Vec::new();
                let flags = Flags(write(&mut out));
                let decoded = reader.decode(flags, &out, 100, &mut room).unwrap();
                format!("{decoded:?}")
            };
            for number in [0, -7, 5, i64::MAX, i64::MIN] {
                assert_eq!(
                    read(&|out| format.int(number, out)),
                    format!("Int({number})")
                );
            }
            for number in [0.5, -1e300, f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
                assert_eq!(
                    read(&|out| format.float(number, out)),
                    format!("Float({number:?})")
                );
            }
            for yes in [true, false] {
                assert_eq!(read(&|out| format.bool(yes, out)), format!("Bool({yes})"));
            }
        }
    }
}

#[test]
fn php_memcacheds_own_texts_are_read() {
    let mut room = Vec::new();
    let mut read = |flags, bytes: &[u8]| {
        let layout = Layout::PhpMemcached;
        let decoded = layout.decode(Flags(flags), bytes, 1000, &mut room);
        format!("{:?}", decoded.map_err(|error| error.kind()))
    };
    for (flags, bytes, expected) in [
        (1, &b"-12"[..], "Ok(Int(-12))"),
        // A counter that memcached padded when it grew shorter.
        (1, b"9 ", "Ok(Int(9))"),
        (2, b".25", "Ok(Float(0.25))"),
        (2, b"1.5e+300", "Ok(Float(1.5e300))"),
        (2, b"-Infinity", "Ok(Float(-inf))"),
        (2, b"NaN", "Ok(Float(NaN))"),
        (3, b"", "Ok(Bool(false))"),
        (3, b"1", "Ok(Bool(true))"),
        // pecl-memcache's serialized array under the same flags.
        (1, b"N;", "Ok(Serialized(Php, [78, 59]))"),
        (768, b"5", "Ok(Int(5))"),
        // What nobody writes is refused, and is no string.
        (8, b"5", "Err(Value)"),
        (0x10, b"\0\0\0\0", "Err(Value)"),
        (0x70, b"\0\0\0\0", "Err(Value)"),
        (0x31, b"\0\0\0\0", "Err(Value)"),
        (15 << 4, b"", "Err(Value)"),
    ] {
        assert_eq!(read(flags, bytes), expected, "flags {flags}, {bytes:?}");
    }
    let error = Layout::Pecl
        .decode(Flags(0x32), b"", 0, &mut room)
        .unwrap_err();
    assert!(error.to_string().contains("flags 50"), "{error}");
}

#[test]
fn fastlz_blocks_are_read_as_its_own_decoder_reads_them() {
    let mut level_two = vec![0x20 | 3, b'a', b'b', b'c', b'!'];
    // 19,996 dots: the first as it is, then 9 + 255 × 78 + 96 from 1 back.
    level_two.extend([0, b'.', 7 << 5]);
    level_two.extend([255; 78]);
    level_two.extend([96, 0]);
    // 3 bytes from 19,997 back: 16 bits, and 8,191 and 1.
    level_two.extend([
        31 | 1 << 5,
        255,
        ((19_997 - 8192) >> 8) as u8,
        ((19_997 - 8192) & 255) as u8,
    ]);
    let mut told = b"abc!".to_vec();
    told.extend([b'.'; 19_996]);
    told.extend(b"!..");
    for (block, expected) in [
        (&b"\x02abc"[..], &b"abc"[..]),
        // "abc", then 5 from 3 back, then "x".
        (b"\x02abc\x60\x02\x00x", b"abcabcabx"),
        // A run, with a length byte: 7 + 2 + 4 times "a".
        (b"\x00a\xe0\x04\x00", b"aaaaaaaaaaaaaa"),
        (&level_two, &told),
    ] {
        let mut out = b"before".to_vec();
        assert_eq!(
            fastlz::unpack(block, expected.len(), &mut out),
            Some(()),
            "{block:?}"
        );
        assert_eq!(&out[6..], expected);
        for (cut, limit) in [
            (block.len() - 1, expected.len()),
            (block.len(), expected.len() - 1),
        ] {
            assert_eq!(fastlz::unpack(&block[..cut], limit, &mut Vec::new()), None);
        }
    }
    for bad in [&b""[..], b"\x40a", b"\x00a\x20\x01", b"\x00a\x20", b"\x05a"] {
        assert_eq!(fastlz::unpack(bad, 1000, &mut Vec::new()), None, "{bad:?}");
    }
}

#[test]
fn a_bomb_of_any_stream_stops_at_the_limit_and_an_announced_length_is_not_believed() {
    let raw = vec![0; 3_000_000];
    for stream in [Stream::Zlib, Stream::Zstd, Stream::Lz4] {
        let mut packed = Vec::new();
        assert!(stream.pack(&raw, raw.len(), &mut packed));
        assert!(packed.len() < 20_000, "{stream:?}");
        for (limit, fits) in [
            (raw.len(), true),
            (raw.len() - 1, false),
            (1000, false),
            (0, false),
        ] {
            let mut out = b"before".to_vec();
            let unpacked = stream.unpack(&packed, limit, &mut out);
            let wanted = match fits {
                true => Ok(()),
                // FastLZ is read behind a length of its own alone.
                false if stream == Stream::FastLz => Err(damaged()),
                false => Err(damaged().code(TOO_LONG)),
            };
            assert_eq!(unpacked, wanted, "{stream:?} {limit}");
            assert_eq!(out.len(), 6 + if fits { raw.len() } else { 0 });
        }
    }
    let mut out = Vec::new();
    // LZ4: four bytes that say 4 GB, and nothing to make them of.
    assert_eq!(
        Stream::Lz4.unpack(b"\xff\xff\xff\xff\x00", INFLATE_MAX, &mut out),
        Err(damaged())
    );
    assert_eq!(
        Stream::Lz4.unpack(b"\xff\xff\xff\x3f\x10ab", INFLATE_MAX, &mut out),
        Err(damaged())
    );
    assert!(
        out.capacity() < 1 << 20,
        "{} bytes for nothing",
        out.capacity()
    );
    // A zstd frame of one segment that says 1 GB minus 1, and holds one byte.
    let frame = b"\x28\xb5\x2f\xfd\xa0\xff\xff\xff\x3f\x09\0\0a";
    let said = zstd_safe::get_frame_content_size(frame).unwrap();
    assert_eq!(said, Some((1 << 30) - 1));
    assert_eq!(
        Stream::Zstd.unpack(frame, INFLATE_MAX, &mut out),
        Err(damaged())
    );
    assert!(out.is_empty());
    // php-memcached's length: more than there is, less, and more than the limit.
    let (flags, whole) = stored(
        Format {
            layout: Layout::PhpMemcached,
            ..Format::default()
        },
        Content::Text,
        &raw,
    );
    let length = raw.len() as u32;
    for (length, number) in [
        (length - 1, 0),
        (length + 1, 0),
        (u32::MAX, TOO_LONG),
        (0, 0),
    ] {
        let mut bytes = whole.clone();
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let read = Layout::PhpMemcached.decode(flags, &bytes, INFLATE_MAX, &mut out);
        assert_eq!(read, Err(damaged().code(number)), "{length}");
    }
}

#[test]
fn a_stream_with_one_byte_changed_or_cut_off_is_refused_or_is_as_long_as_before() {
    let raw = text();
    for stream in [Stream::Zlib, Stream::Zstd, Stream::Lz4] {
        let mut packed = Vec::new();
        assert!(stream.pack(&raw, raw.len(), &mut packed));
        for cut in 0..packed.len() {
            let mut out = b"before".to_vec();
            assert_eq!(
                stream.unpack(&packed[..cut], INFLATE_MAX, &mut out),
                Err(damaged())
            );
            let mut bad = packed.clone();
            bad[cut] ^= 0x41;
            if stream.unpack(&bad, raw.len(), &mut out).is_err() {
                assert_eq!(out, b"before");
            }
        }
    }
}

#[test]
fn lz4_and_php_memcacheds_flags_do_not_go_together() {
    let format = Format {
        layout: Layout::PhpMemcached,
        stream: Some(Stream::Lz4),
        ..Format::default()
    };
    assert_eq!(format.check().unwrap_err().kind(), Kind::Config);
    assert_eq!(formats().len(), 2 * 5 * 4 - 5);
}
