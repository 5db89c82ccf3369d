//! Every format of text, named or found, on any content: rows or messages, never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pipe_fuzz::{format, in_chunks, settings};

fuzz_target!(|data: &[u8]| {
    let [format_of, step, content @ ..] = data else { return };
    let settings = settings(content, format(*format_of));
    let whole = in_chunks(&settings, 1 << 20);
    if let Ok(read) = &whole {
        let lines = content.iter().filter(|b| **b == b'\n').count() as u64 + 1;
        assert!(read.lines.iter().all(|line| (1..=lines).contains(line)));
        assert!(read.problems.iter().all(|p| (1..=lines).contains(&p.line) && p.column > 0 && !p.reason.is_empty()));
    }
    assert_eq!(whole, in_chunks(&settings, 1 + *step as usize));
});
