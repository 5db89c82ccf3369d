//! Numbers and times: no panic, and close to what floats say.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pipe_fuzz::parsers::number;
use pipe_fuzz::unit;

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let _ = number::tokens(text);
    if let Ok(n) = number::whole(text, u64::MAX) {
        assert_eq!(text.parse::<u64>(), Ok(n));
    }
    let unit = unit(*first);
    if let Ok(ns) = number::time_ns(text, unit) {
        assert!((0..=i64::MAX / 2 + 1).contains(&ns), "{text:?}");
        let factor = [1e9, 1e6, 1e3, 1.0][*first as usize % 4];
        if let Ok(float) = text.trim().parse::<f64>()
            && !text.trim().get(4..5).is_some_and(|c| c == "-")
        {
            let expect = float * factor;
            assert!((ns as f64 - expect).abs() <= 1.0 + expect * 1e-9, "{text:?}: {ns}, expected {expect}");
        }
    }
});
