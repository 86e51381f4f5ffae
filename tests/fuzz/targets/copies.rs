//! Answers about copied items: from a server with versions, and from one without.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memring_pool::replica::words::Words;
use memring_pool::replica::{Command, Reply};
use memring_pool::wire::{Parsed, meta};

fuzz_target!(|bytes: &[u8]| {
    let Parsed::Reply(_, reply) = meta::parse(bytes, 0) else {
        return;
    };
    for has_e in [true, false] {
        let words = Words { key: b"a", record_key: b"~r", has_e };
        for value in [true, false] {
            let command = Command::Read { value, token: value };
            if let Ok(Reply::Item(item)) = words.read(&command, 7, reply, bytes) {
                assert!(item.cas != 0 && item.stamp.is_none_or(|stamp| stamp.inc != 0));
            }
        }
        let _ = words.read(&Command::ReadRecord, 7, reply, bytes);
    }
});
