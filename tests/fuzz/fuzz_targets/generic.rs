//! Generic files with columns, units and measured times of the user's choice.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pipe_fuzz::spec::Format;
use pipe_fuzz::{columns, in_chunks, measured, settings, unit};

fuzz_target!(|data: &[u8]| {
    let [format_of, names, more, content @ ..] = data else { return };
    let format = [Format::Auto, Format::Jsonl, Format::Csv][*format_of as usize % 3];
    let mut settings = settings(content, format);
    settings.columns = columns(*names);
    settings.time_unit = unit(*more);
    settings.measured = measured(more >> 2);
    settings.block_tokens = (more & 64 != 0).then_some(16);
    let _ = in_chunks(&settings, 1 << 20);
});
