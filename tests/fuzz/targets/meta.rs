//! Replies of the meta commands.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memring_pool::wire::{Parsed, Reply, meta};

fuzz_target!(|bytes: &[u8]| {
    match meta::parse(bytes, 0) {
        Parsed::More(missing) => assert!(missing > 0),
        Parsed::Garbage(_) => {}
        Parsed::Reply(used, reply) => {
            assert!(used > 0 && used <= bytes.len());
            if let Reply::Meta(answer) = reply {
                let inside = |span: memring_pool::item::Span| span.at + span.len <= used;
                assert!(answer.key.is_none_or(inside) && inside(answer.data));
            }
            for cut in 0..used {
                assert!(matches!(meta::parse(&bytes[..cut], 0), Parsed::More(_)), "cut at {cut}");
            }
        }
    }
});
