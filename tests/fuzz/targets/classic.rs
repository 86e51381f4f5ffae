//! Replies of the classic commands.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memring_pool::wire::{Expect, Parsed, Reply, classic};

const ASKED: [Expect; 8] = [
    Expect::Stored,
    Expect::Deleted,
    Expect::Touched,
    Expect::Flushed,
    Expect::Number,
    Expect::Values,
    Expect::Stats,
    Expect::Version,
];

fuzz_target!(|data: (u8, &[u8])| {
    let (which, bytes) = data;
    let expect = ASKED[usize::from(which) % ASKED.len()];
    match classic::parse(bytes, 0, expect) {
        Parsed::More(missing) => assert!(missing > 0),
        Parsed::Garbage(_) => {}
        Parsed::Reply(used, reply) => {
            assert!(used > 0 && used <= bytes.len());
            if let Reply::Value { key, data, .. } = reply {
                assert!(key.at + key.len <= used && data.at + data.len + 2 <= used);
            }
            for cut in 0..used {
                assert!(matches!(classic::parse(&bytes[..cut], 0, expect), Parsed::More(_)), "cut at {cut}");
            }
        }
    }
});
