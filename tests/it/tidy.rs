//! The rules of the house that no compiler holds: who may use whom, how a file opens, how long it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::project::repository;

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn all() -> Vec<(String, String)> {
    let root = repository();
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    files
        .into_iter()
        .map(|f| {
            let text = std::fs::read_to_string(&f).expect("a source file");
            (f.strip_prefix(root).expect("under the root").display().to_string(), text)
        })
        .collect()
}

/// The part of a file that is not its tests.
fn code(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

#[test]
fn modules_keep_their_directions() {
    // module -> modules that it must not use
    let forbidden: BTreeMap<&str, &[&str]> = BTreeMap::from([
        (
            "diag",
            &["spec", "table", "trace", "stage", "plan", "store", "run", "query", "report", "cli", "serve", "catalog"]
                [..],
        ),
        ("spec", &["table", "trace", "stage", "plan", "store", "run", "query", "report", "cli", "serve", "catalog"]),
        ("table", &["spec", "trace", "stage", "plan", "run", "query", "report", "cli", "serve"]),
        ("trace", &["stage", "plan", "run", "query", "report", "cli", "serve"]),
        ("store", &["trace", "stage", "plan", "run", "query", "report", "cli", "serve"]),
        ("query", &["trace", "plan", "run", "report", "cli", "serve"]),
        ("report", &["spec", "trace", "stage", "plan", "store", "run", "query", "cli", "serve"]),
        ("stage", &["plan", "run", "cli", "serve"]),
        ("plan", &["run", "query", "report", "cli", "serve", "trace"]),
        ("run", &["cli", "serve", "query", "report", "trace"]),
        ("serve", &["cli", "spec", "trace", "stage", "plan", "run"]),
    ]);
    let mut wrong = Vec::new();
    for (file, text) in all() {
        if file.ends_with("tests.rs") {
            continue;
        }
        let Some(module) = file.strip_prefix("src/").and_then(|f| f.split(['/', '.']).next()) else { continue };
        for other in forbidden.get(module).copied().unwrap_or_default() {
            if code(&text).contains(&format!("crate::{other}::")) || code(&text).contains(&format!("crate::{other};")) {
                wrong.push(format!("{file} uses {other}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_kernel_is_pure() {
    let mut wrong = Vec::new();
    for (file, text) in all() {
        let of_tests = file.contains("/tests/") || file.ends_with("_tests.rs");
        if !file.starts_with("src/kernel/") || file.contains("/examples/") || of_tests {
            continue;
        }
        for word in [
            "std::fs",
            "std::thread",
            "std::time",
            "std::env",
            "std::process",
            "arrow::",
            "tokio::",
            "rayon::",
            "println!",
        ] {
            if code(&text).contains(word) {
                wrong.push(format!("{file} uses {word}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_say_what_they_are_and_stay_readable() {
    let mut wrong = Vec::new();
    for (file, text) in all() {
        if !text.starts_with("//!") {
            wrong.push(format!("{file} does not open with //!"));
        }
        for word in ["todo!", "unimplemented!", "FIXME", "dbg!("] {
            if text.contains(word) {
                wrong.push(format!("{file} contains {word}"));
            }
        }
        if code(&text).lines().count() > 800 {
            wrong.push(format!("{file} is longer than 800 lines"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_schema_for_editors_is_current() {
    let schema = format!("{:#}\n", pipe::spec::json_schema());
    let file = repository().join("data/pipeline.schema.json");
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(schema == committed, "run `pipe schema > data/pipeline.schema.json`");
}
