//! Stored values and their flags, in both layouts; every stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memring_pool::codec::{Compression, Format, Layout, Stream};
use memring_pool::item::Flags;

fuzz_target!(|data: (u32, &[u8])| {
    let (flags, bytes) = data;
    let mut room = Vec::new();
    for layout in [Layout::Pecl, Layout::PhpMemcached] {
        let _ = layout.decode(Flags(flags), bytes, 1 << 20, &mut room);
    }
    for stream in [Stream::Zlib, Stream::Zstd, Stream::Lz4, Stream::FastLz] {
        let mut plain = vec![7];
        match stream.unpack(bytes, 1 << 20, &mut plain) {
            Ok(()) => assert!(plain.len() <= (1 << 20) + 1),
            Err(_) => assert_eq!(plain, [7], "a failure leaves the buffer as it was"),
        }
    }
    let when = Compression::new(1, 0.0).expect("in range");
    for (_, stream) in Format::STREAMS {
        let format = Format { stream, ..Format::default() };
        let mut packed = Vec::new();
        if let Some(stream) = format.pack(when, bytes, true, &mut packed) {
            let mut back = Vec::new();
            stream.unpack(&packed, bytes.len(), &mut back).expect("our own stream");
            assert_eq!(back, bytes);
        }
    }
});
