//! The YAML header beside a TraceV2 file.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = pipe_fuzz::trace::trace_v2_header(text, "t");
    }
});
