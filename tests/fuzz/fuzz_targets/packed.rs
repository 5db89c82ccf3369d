//! Packed files, whole and damaged: the same rows as unpacked, or a message.

#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use pipe_fuzz::{format, in_chunks, in_parallel, settings};

fuzz_target!(|data: &[u8]| {
    let [kind, damage, content @ ..] = data else { return };
    let format = format(*kind >> 1);
    let plain = in_chunks(&settings(content, format), 64);
    let mut packed = if kind & 1 == 0 {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(content).expect("memory");
        out.finish().expect("memory")
    } else {
        zstd::encode_all(content, 1).expect("memory")
    };
    let again = settings(&packed, format);
    assert_eq!(plain, in_chunks(&again, 64));
    assert_eq!(plain, in_parallel(&again, 64));
    let at = *damage as usize % packed.len();
    packed[at] ^= damage | 1;
    let _ = in_chunks(&settings(&packed, format), 64);
    packed.truncate(at);
    let _ = in_chunks(&settings(&packed, format), 64);
});
