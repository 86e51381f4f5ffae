//! What a node says of itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memring_pool::replica::Record;

fuzz_target!(|bytes: &[u8]| {
    if let Some(record) = Record::decode(bytes) {
        assert_eq!(Record::decode(&record.encode()), Some(record));
    }
});
