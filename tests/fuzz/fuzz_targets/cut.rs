//! Rows do not depend on where a file is cut, or on how many threads read it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pipe_fuzz::spec::Format;
use pipe_fuzz::{in_chunks, in_parallel, settings};

fuzz_target!(|data: &[u8]| {
    let [kind, step, rest @ ..] = data else { return };
    let (format, head): (_, &[u8]) = match kind % 3 {
        0 => (Format::Csv, b"arrival,input_tokens,output_tokens,class\n1,1,1,a\n"),
        1 => (Format::Jsonl, b"{\"arrival\":1,\"input_tokens\":1,\"output_tokens\":1}\n"),
        _ => (Format::Sharegpt, b"[{\"conversations\":[]},"),
    };
    let content = [head, rest].concat();
    let settings = settings(&content, format);
    let whole = in_chunks(&settings, 1 << 20);
    let step = 1 + *step as usize;
    assert_eq!(whole, in_chunks(&settings, step));
    assert_eq!(whole, in_parallel(&settings, step));
});
