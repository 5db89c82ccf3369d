//! What each target does with some bytes. A panic is a find.

use crate::json::{Scanner, Value};
use crate::spec::Format;
use crate::{Fault, columns, format, in_chunks, in_parallel, measured, number, settings, unit};

/// The JSON scanner agrees with serde_json on what is JSON, and on the text of strings and numbers.
pub fn scanner(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut scanner = Scanner::new(text);
    let skipped = scanner.skip().and_then(|()| scanner.end()).is_ok();
    let mut scanner = Scanner::new(text);
    let ours = read(&mut scanner).and_then(|value| scanner.end().map(|()| value).map_err(|_| ()));
    // Whoever reads more than skipping does finds more.
    assert!(skipped || ours.is_err(), "{text:?}");
    // serde_json refuses numbers that no float can hold, halves of surrogate pairs, and its own depth.
    if depth(text) < 100
        && let Ok(theirs) = serde_json::from_str::<serde_json::Value>(text)
    {
        let ours = ours.unwrap_or_else(|()| panic!("{text:?} is JSON"));
        if let (serde_json::Value::String(a), serde_json::Value::String(b)) = (&ours, &theirs) {
            assert_eq!(a, b);
        }
    } else if let Ok(_value) = ours {
        let lenient = text.contains("\\u") || text.contains(['e', 'E']) || depth(text) >= 100 || text.len() > 300;
        assert!(lenient, "{text:?} is no JSON");
    }
}

/// Reads a value to its last string.
fn read(scanner: &mut Scanner) -> Result<serde_json::Value, ()> {
    use serde_json::Value as Json;
    match scanner.value().map_err(|_| ())? {
        Value::Null => Ok(Json::Null),
        Value::Bool => Ok(Json::Bool(true)),
        Value::Number(text) => Ok(Json::String(text.to_string())),
        Value::Text(text) => Ok(Json::String(text.into_owned())),
        Value::List => {
            let mut items = Vec::new();
            let inner = &mut items;
            scanner
                .items(|scanner| {
                    inner.push(read(scanner).map_err(|()| Fault::new(0, ""))?);
                    Ok(())
                })
                .map_err(|_| ())?;
            Ok(Json::Array(items))
        }
        Value::Object => {
            let mut items = Vec::new();
            scanner
                .members(|scanner, key| {
                    items.push(Json::String(key.into_owned()));
                    items.push(read(scanner).map_err(|()| Fault::new(0, ""))?);
                    Ok(())
                })
                .map_err(|_| ())?;
            Ok(Json::Array(items))
        }
    }
}

fn depth(text: &str) -> usize {
    text.bytes().filter(|b| matches!(b, b'[' | b'{')).count()
}

/// Numbers and times: no panic, and close to what floats say.
pub fn number(data: &[u8]) {
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
}

/// Rows do not depend on where a file is cut, or on how many threads read it.
pub fn cut(data: &[u8]) {
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
}

/// Every format of text, named or found, on any content: rows or messages, never a panic.
pub fn formats(data: &[u8]) {
    let [format_of, step, content @ ..] = data else { return };
    let settings = settings(content, format(*format_of));
    let whole = in_chunks(&settings, 1 << 20);
    if let Ok(read) = &whole {
        let lines = content.iter().filter(|b| **b == b'\n').count() as u64 + 1;
        assert!(read.lines.iter().all(|line| (1..=lines).contains(line)));
        assert!(read.problems.iter().all(|p| (1..=lines).contains(&p.line) && p.column > 0 && !p.reason.is_empty()));
    }
    assert_eq!(whole, in_chunks(&settings, 1 + *step as usize));
}

/// Generic files with columns, units and measured times of the user's choice.
pub fn generic(data: &[u8]) {
    let [format_of, names, more, content @ ..] = data else { return };
    let format = [Format::Auto, Format::Jsonl, Format::Csv][*format_of as usize % 3];
    let mut settings = settings(content, format);
    settings.columns = columns(*names);
    settings.time_unit = unit(*more);
    settings.measured = measured(more >> 2);
    settings.block_tokens = (more & 64 != 0).then_some(16);
    let _ = in_chunks(&settings, 1 << 20);
}

/// Packed files, whole and damaged: the same rows as unpacked, or a message.
pub fn packed(data: &[u8]) {
    use std::io::Write;

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
}

/// The YAML header beside a TraceV2 file.
pub fn header(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = crate::trace::trace_v2_header(text, "t");
    }
}
