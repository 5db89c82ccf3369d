//! The JSON scanner agrees with serde_json on what is JSON, and on the text of strings and numbers.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pipe_fuzz::parsers::json::{Scanner, Value};

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
                    inner.push(read(scanner).map_err(|()| pipe_fuzz::parsers::Fault::new(0, ""))?);
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
                    items.push(read(scanner).map_err(|()| pipe_fuzz::parsers::Fault::new(0, ""))?);
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

fuzz_target!(|data: &[u8]| {
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
});
