//! See [`pipe_fuzz::targets::formats`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pipe_fuzz::targets::formats(data));
