//! The bytes on the wire: our requests against the recorded requests of the original, as one joined stream.
//!
//! Only requests are compared; what a server answers is the server's affair. How the stream is cut into packets
//! does not matter. Random values, expiries and generated ids are put into one form on both sides.

use crate::golden;
use harness::{Memcached, Php, Proxy};
use std::io::Read;
use std::time::Duration;

/// A request of the stream that we send otherwise on purpose.
pub(crate) struct Difference {
    /// The request as recorded, in its normal form.
    pub(crate) recorded: &'static str,
    /// What stands in its place.
    pub(crate) ours: &'static [&'static str],
    /// The row of the compatibility table.
    pub(crate) row: &'static str,
}

/// The calls behind `wire-ascii.txt`.
const CALLS: &str = r#"
$m = new Memcache; $m->connect('127.0.0.1', (int)getenv('PORT'));
$m->set('i', -5); $m->set('b', true); $m->set('d', 0.1 + 0.2); $m->set('d2', 1e15); $m->set('d3', NAN);
$m->set('d4', -INF); $m->set('d5', 100000.0); $m->set('n', null); $m->set('a', [1, 'x' => 2.5]);
$m->set('o', new ArrayObject([1])); $m->set('c', str_repeat('a', 100), MEMCACHE_COMPRESSED);
$m->set('c2', 'abc', MEMCACHE_COMPRESSED); $m->set('ci', 5, MEMCACHE_COMPRESSED, 10);
$m->set('neg', 'v', 0, -1); $m->set('big', 'v', 0, 4294967295);
$m->set('auto', str_repeat('a', 20000)); $m->set('auto0', str_repeat('a', 19999)); $m->set('rand', random_bytes(20001));
$m->get('i'); $m->get(['i', 'b', 'nokey']); $f = $c = null; $m->get('i', $f, $c); $m->cas('i', 6, 0, 60, $c);
$m->delete('i', 5); $m->increment('i', 1, 10, 60); $m->increment('i', -3); $m->decrement('i', 3);
$m->append('a1', 'x', 0, 10); $m->flush(); $m->flush(50); $m->getVersion();
$m->getStats('cachedump', 1, 5); $m->getStats('items'); $m->getStats('slabs', 1);
$m->set(['k1' => 1, 'k2' => 2]); $m->delete(['k1', 'k2']); $x = 'ref'; $m->set(['zz' => &$x]); $m->get('zz');
"#;

/// What our calls send, in normal form.
fn ascii_requests(php: Php) -> Vec<String> {
    let server = Memcached::start();
    let proxy = Proxy::start(server.port());
    php.env("PORT", proxy.port()).run(CALLS).ok();
    proxy.settle(Duration::from_millis(50));
    requests(&proxy.requests())
}

/// The requests of a record: the lines that start with `>`.
pub(crate) fn recorded(name: &str) -> Vec<String> {
    let text = golden::read(name);
    let stream: Vec<u8> = text
        .lines()
        .filter_map(|line| line.strip_prefix("> "))
        .flat_map(|line| literal(line.trim_end()))
        .collect();
    requests(&stream)
}

/// Reads a byte literal `b'…'`. A long one is cut in the record as `b'…'...LENGTH`; what was cut off is filled
/// with `?`, since a long value enters the comparison with its length only.
fn literal(text: &str) -> Vec<u8> {
    let quote = text.as_bytes()[1] as char;
    let end = text.rfind(quote).unwrap();
    let mut bytes = Vec::new();
    let mut characters = text[2..end].chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            bytes.push(u8::try_from(u32::from(character)).unwrap());
            continue;
        }
        match characters.next().unwrap() {
            'r' => bytes.push(b'\r'),
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            'x' => {
                let digits: String = characters.by_ref().take(2).collect();
                bytes.push(u8::from_str_radix(&digits, 16).unwrap());
            }
            other => bytes.push(other as u8),
        }
    }
    if let Some(length) = text[end + 1..].strip_prefix("...") {
        bytes.resize(length.parse::<usize>().unwrap() - 2, b'?');
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Cuts a stream of classic requests into one normal text per request.
pub(crate) fn requests(stream: &[u8]) -> Vec<String> {
    let mut requests = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        let end = rest
            .windows(2)
            .position(|pair| pair == b"\r\n")
            .unwrap_or_else(|| {
                panic!(
                    "the stream ends inside a line: {:?}",
                    String::from_utf8_lossy(rest)
                );
            });
        let line = String::from_utf8_lossy(&rest[..end]).to_string();
        rest = &rest[end + 2..];
        let mut words: Vec<String> = line.split(' ').map(normal_word).collect();
        if matches!(
            words[0].as_str(),
            "set" | "add" | "replace" | "append" | "prepend" | "cas"
        ) {
            let length: usize = words[4].parse().unwrap();
            let data = &rest[..length];
            assert_eq!(
                &rest[length..length + 2],
                b"\r\n",
                "the data of `{line}` is longer than it says"
            );
            rest = &rest[length + 2..];
            if words[0] == "cas" {
                words[5] = "<cas>".to_string();
            }
            let flags: u32 = words[2].parse().unwrap();
            words.push(normal_value(data, flags));
            if flags & 2 != 0 {
                words[4] = "<length>".to_string(); // another zlib may need a byte more or less
            }
        }
        requests.push(words.join(" "));
    }
    requests
}

/// Absolute times and generated session ids.
fn normal_word(word: &str) -> String {
    let (id, tail) = word
        .strip_suffix(".lock")
        .map_or((word, ""), |id| (id, ".lock"));
    if id.len() >= 22 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return format!("<id>{tail}");
    }
    match word.parse::<u32>() {
        Ok(time) if (1_000_000_000..u32::MAX).contains(&time) => "<expiry>".to_string(),
        _ => word.to_string(),
    }
}

/// A value as text: inflated when its flags say so, its length only when it is long.
fn normal_value(data: &[u8], flags: u32) -> String {
    if flags & 2 != 0 {
        let mut value = Vec::new();
        flate2::read::ZlibDecoder::new(data)
            .read_to_end(&mut value)
            .expect("a zlib stream");
        assert_eq!(
            &data[..2],
            b"\x78\x9c",
            "the zlib header of the default level"
        );
        return format!("inflates to {}", normal_value(&value, 0));
    }
    match data.len() {
        0..1000 => String::from_utf8_lossy(data).to_string(),
        length => format!("{length} bytes"),
    }
}

/// Fails with the first place where the streams part.
#[track_caller]
pub(crate) fn compare(recorded: &[String], ours: &[String], differences: &[Difference]) {
    let mut expected: Vec<String> = Vec::new();
    let mut used = vec![false; differences.len()];
    for request in recorded {
        // Each difference stands for one place, so the next unused one is taken.
        let found =
            (0..differences.len()).find(|at| !used[*at] && differences[*at].recorded == request);
        match found {
            Some(at) => {
                used[at] = true;
                expected.extend(
                    differences[at]
                        .ours
                        .iter()
                        .map(|request| request.to_string()),
                );
            }
            None => expected.push(request.clone()),
        }
    }
    for (difference, used) in differences.iter().zip(used) {
        assert!(
            used,
            "\"{}\": `{}` is not in the record",
            difference.row, difference.recorded
        );
    }
    let place = expected
        .iter()
        .zip(ours)
        .position(|(expected, ours)| expected != ours);
    if place.is_some() || expected.len() != ours.len() {
        let place = place.unwrap_or(expected.len().min(ours.len()));
        let show = |list: &[String]| {
            list.iter()
                .skip(place)
                .take(6)
                .map(|line| format!("    {line}\n"))
                .collect::<String>()
        };
        panic!(
            "request {place} differs; from there\n  expected:\n{}  ours:\n{}",
            show(&expected),
            show(ours)
        );
    }
}

const ASCII_DIFFERENCES: &[Difference] = &[
    Difference {
        recorded: "set d 1792 0 3 0.3",
        ours: &["set d 1792 0 19 0.30000000000000004"],
        row: golden::FLOATS,
    },
    Difference {
        recorded: "incr i 1",
        ours: &["incr i 1", "add i 768 60 2 10"],
        row: golden::DEFAULTS,
    },
];

#[test]
fn classic_requests_equal_the_originals_byte_for_byte() {
    compare(
        &recorded("wire-ascii.txt"),
        &ascii_requests(Php::new()),
        ASCII_DIFFERENCES,
    );
}

#[test]
fn the_original_repeats_its_own_wire_record() {
    let Some(original) = golden::original() else {
        return;
    };
    let php = Php::bare().extension(original);
    compare(&recorded("wire-ascii.txt"), &ascii_requests(php), &[]);
}
