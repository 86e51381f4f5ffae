//! Answers of Redis, of every shape.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memring_pool::wire::redis::{Shape, answer};
use memring_pool::wire::{Parsed, Reply};

fuzz_target!(|bytes: &[u8]| {
    let shapes = [Shape::Stored, Shape::Word, Shape::Number, Shape::Item(true), Shape::Text, Shape::Greeting];
    for shape in shapes {
        match answer::parse(bytes, 0, shape) {
            Parsed::More(missing) => assert!(missing > 0),
            Parsed::Garbage(_) => {}
            Parsed::Reply(used, reply) => {
                assert!(used > 0 && used <= bytes.len());
                if let Reply::Item { data: span, .. } | Reply::Text(span) = reply {
                    assert!(span.at + span.len <= used);
                }
                for cut in 0..used {
                    assert!(matches!(answer::parse(&bytes[..cut], 0, shape), Parsed::More(_)), "cut at {cut}");
                }
            }
        }
    }
    for keys in 1..4 {
        let (mut at, mut progress, mut hits) = (0, answer::Progress::default(), Vec::new());
        answer::values(bytes, &mut at, keys, true, &mut progress, &mut hits);
        assert!(at <= bytes.len());
        assert!(hits.iter().all(|hit| hit.place < keys && hit.data.at + hit.data.len <= at));
    }
});
