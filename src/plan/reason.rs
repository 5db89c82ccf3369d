//! Why a stage runs again: the parts of its recipe that differ from the last one.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::store::{Hash, Recipe};

/// Paths named at most, before the rest is only counted.
const NAMED: usize = 6;
/// Characters of a value that are shown.
const SHOWN: usize = 32;

/// What differs between the recipe of a stage and its last one; at least one reason.
pub(super) fn reasons(now: &Recipe, last: Option<&Recipe>) -> Vec<String> {
    let Some(last) = last else { return vec!["never ran".to_string()] };
    let found = differences(now, last);
    if found.is_empty() { vec!["result is gone from the store".to_string()] } else { found }
}

/// What differs between two recipes, from `last` to `now`.
pub fn differences(now: &Recipe, last: &Recipe) -> Vec<String> {
    // Without `..`: a new part of the recipe does not compile until it has a reason here.
    let Recipe { kind, version, config, seed, inputs, files } = now;
    if *kind != last.kind {
        return vec![format!("kind changed from `{}` to `{kind}`", last.kind)];
    }
    let mut out = Vec::new();
    if *version != last.version {
        out.push(format!("stage kind `{kind}` is now version {version}"));
    }
    let mut paths = Vec::new();
    diff(&last.config, config, &mut String::new(), &mut paths);
    let more = paths.len().saturating_sub(NAMED);
    out.extend(paths.into_iter().take(NAMED));
    if more > 0 {
        out.push(format!("{more} more of config changed"));
    }
    if *seed != last.seed {
        out.push(format!("seed changed from {} to {seed}", last.seed));
    }
    changed("input", &last.inputs, inputs, &mut out);
    changed("file", &last.files, files, &mut out);
    out
}

fn changed(what: &str, last: &BTreeMap<String, Hash>, now: &BTreeMap<String, Hash>, out: &mut Vec<String>) {
    for (name, hash) in now {
        match last.get(name) {
            Some(old) if old == hash => {}
            Some(_) => out.push(format!("{what} `{name}` changed")),
            None => out.push(format!("{what} `{name}` is new")),
        }
    }
    out.extend(last.keys().filter(|name| !now.contains_key(*name)).map(|name| format!("{what} `{name}` is gone")));
}

fn diff(last: &Value, now: &Value, path: &mut String, out: &mut Vec<String>) {
    match (last, now) {
        (a, b) if a == b => {}
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let len = path.len();
                if len > 0 {
                    path.push('.');
                }
                path.push_str(key);
                diff(a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), path, out);
                path.truncate(len);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() && a.iter().any(Value::is_object) => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                let len = path.len();
                path.push_str(&format!("[{i}]"));
                diff(a, b, path, out);
                path.truncate(len);
            }
        }
        (a, b) => {
            let what = if path.is_empty() { "config".to_string() } else { format!("config `{path}`") };
            out.push(match (shown(a), shown(b)) {
                (Some(a), Some(b)) => format!("{what} changed ({a} -> {b})"),
                _ => format!("{what} changed"),
            });
        }
    }
}

/// A short value, for the message.
fn shown(value: &Value) -> Option<String> {
    let text = value.to_string();
    (!value.is_object() && text.chars().count() <= SHOWN).then_some(text)
}
