//! Stored values and their flags.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memring_pool::codec::{self, COMPRESSED, Compression};
use memring_pool::item::Flags;

fuzz_target!(|data: (u32, &[u8])| {
    let (flags, bytes) = data;
    let _ = codec::decode(Flags(flags), bytes);
    let mut plain = vec![7];
    if codec::inflate(bytes, 1 << 20, &mut plain).is_err() {
        assert_eq!(plain, [7], "a failure leaves the buffer as it was");
    }
    let mut flags = Flags(COMPRESSED);
    let mut packed = Vec::new();
    if Compression::new(1, 0.0).expect("in range").apply(bytes, &mut flags, &mut packed) {
        let mut back = Vec::new();
        codec::inflate(&packed, bytes.len(), &mut back).expect("our own stream");
        assert_eq!(back, bytes);
    }
});
