//! Answers of Redis, of every shape.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memring_pool::item::Span;
use memring_pool::wire::redis::fenced::{Shown, Told};
use memring_pool::wire::redis::{self, Shape, answer, cluster, copied};
use memring_pool::wire::{Parsed, Reply};

fuzz_target!(|bytes: &[u8]| {
    let shapes = [Shape::Stored, Shape::Word, Shape::Number, Shape::Item(true), Shape::Text, Shape::List, Shape::Count, Shape::Greeting];
    for shape in shapes {
        match answer::parse(bytes, 0, shape) {
            Parsed::More(missing) => assert!(missing > 0),
            Parsed::Garbage(_) => {}
            Parsed::Reply(used, reply) => {
                assert!(used > 0 && used <= bytes.len());
                if let Reply::Item { data: span, .. } | Reply::Text(span) | Reply::List(span) = reply {
                    assert!(span.at + span.len <= used);
                }
                if let Reply::List(list) = reply {
                    copies(bytes, list);
                    for count in 0..5 {
                        if let Some(replies) = answer::each(bytes, list, &shapes[..count]) {
                            assert_eq!(replies.len(), count);
                        }
                    }
                }
                for cut in 0..used {
                    assert!(matches!(answer::parse(&bytes[..cut], 0, shape), Parsed::More(_)), "cut at {cut}");
                }
            }
        }
    }
    let _ = cluster::redirect(bytes);
    for keys in 1..4 {
        let (mut at, mut progress, mut hits) = (0, answer::Progress::default(), Vec::new());
        answer::values(bytes, &mut at, keys, true, &mut progress, &mut hits);
        assert!(at <= bytes.len());
        assert!(hits.iter().all(|hit| hit.place < keys && hit.data.at + hit.data.len <= at));
    }
});

/// A list as what copied items and records are answered with, and as a page of keys.
fn copies(bytes: &[u8], list: Span) {
    if let Some(shown) = Shown::of(bytes, list) {
        assert!(shown.cas != 0 && shown.value.is_none_or(|value| value.at + value.len <= bytes.len()));
    }
    if let Ok(Some(told)) = Told::of(bytes, list) {
        assert!(told.cas != 0 && told.text.at + told.text.len <= bytes.len());
    }
    if let Some(shown) = copied::Shown::of(bytes, list) {
        assert!(shown.data.at + shown.data.len <= bytes.len());
        let _ = shown.version(bytes);
    }
    if let Some(table) = cluster::table(bytes, list, "asked") {
        assert!((0..16384).all(|slot| table.owner(slot).is_none_or(|node| node < table.nodes().len())));
    }
    let _ = redis::page(bytes, list, |key, _| assert!(key.len() <= bytes.len()));
}
