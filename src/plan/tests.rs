//! Plans of pipelines made of fake stages.

use serde_json::json;

use super::testing::{fake, pipeline};
use super::*;
use crate::diag::Failure;
use crate::spec::FilePath;

fn messages(failure: Failure) -> Vec<String> {
    failure
        .diagnostics
        .into_iter()
        .map(|d| format!("{}: {} ({})", d.code, d.message, d.help.unwrap_or_default()))
        .collect()
}

/// What is said of a pipeline with three stages, of which the last reads what the second makes.
fn said(second: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.yaml");
    let trace = "  trace: { synthesize: { requests: 2, rate_rps: 1, input: { constant: { tokens: 8 } }, output: { constant: { tokens: 8 } } } }\n";
    let slo = "  ok:\n    slo:\n      from: sim\n      rules: [{ name: fast, quantile: 0.9, all: [{ metric: ttft_ms, max: 100 }] }]\n";
    std::fs::write(&file, format!("name: p\nstages:\n{trace}  sim:\n    {second}\n{slo}")).unwrap();
    let (read, mut found) = crate::spec::load_mended(&file, &[], &mut crate::diag::Sources::default());
    let more = read.map(|read| more_problems(&read, dir.path(), &found)).unwrap_or_default();
    found.extend(more);
    found.into_iter().map(|d| d.message).collect()
}

#[test]
fn a_mistake_is_told_once_and_not_by_those_who_read_what_comes_of_it() {
    let rest = "{ requests: trace, deployment: { model: meta-llama/Llama-3.1-8B, gpu: h100-sxm } }";
    assert_eq!(said(&format!("simulate: {rest}")), Vec::<String>::new());
    assert_eq!(said(&format!("simulte: {rest}")), ["unknown kind of stage `simulte`"]);
    // Meant is what is nearest, and its settings are looked at as well.
    let both = said(&format!("simulte: {}", rest.replace("requests:", "request:")));
    assert_eq!(both, ["unknown kind of stage `simulte`", "unknown key `request`"]);
    // What no one knows is none of the files that a stage reads.
    let unknown = said(&format!("xyzzy: {rest}"));
    assert_eq!(unknown[0], "unknown kind of stage `xyzzy`");
    assert!(unknown.iter().all(|message| !message.contains("stand_in")), "{unknown:?}");
    let empty = said("ingest: { path: }");
    assert_eq!(empty[0], "expected text, found nothing");
    assert!(empty.iter().all(|message| !message.contains("stand_in")), "{empty:?}");
}

#[test]
fn everything_wrong_is_said_at_once() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("trace.csv"), "").unwrap();
    let mut trace = fake(&[], &[1]);
    trace.files = vec![FilePath { written: "trac.csv".into(), path: dir.path().join("trac.csv"), at: None }];
    let mut typo = fake(&["trase", "own"], &[]);
    typo.problem = Some("rate must be above 0".into());
    let mut echo = fake(&["gone"], &[]);
    echo.problem = Some("table `gone` is not known".into());
    let mut twice = fake(&[], &[]);
    twice.extra_table = Some("trace".into());
    let stages = vec![
        ("trace", trace),
        ("own", typo),
        ("a", fake(&["b"], &[])),
        ("b", fake(&["c"], &[])),
        ("c", fake(&["a", "trace"], &[])),
        ("behind", fake(&["c"], &[])),
        ("echo", echo),
        ("twice", twice),
    ];
    let found = messages(pipeline(dir.path(), stages).1.err().unwrap());
    let all = "a, b, behind, c, echo, own, trace, twice";
    let without = |name: &str| all.split(", ").filter(|n| *n != name).collect::<Vec<_>>().join(", ");
    assert_eq!(
        found,
        [
            "plan::missing_file: file `trac.csv` does not exist (did you mean `trace.csv`?)".to_string(),
            "fake: rate must be above 0 ()".to_string(),
            format!(
                "plan::unknown_table: stage `own` reads `trase`, which no stage makes (did you mean `trace`? tables: {})",
                without("own")
            ),
            "plan::own_table: stage `own` reads its own table `own` ()".to_string(),
            "plan::cycle: stages read from each other in a circle: `a` reads `b` reads `c` reads `a` (a stage can read only what does not depend on it)".to_string(),
            format!(
                "plan::unknown_table: stage `echo` reads `gone`, which no stage makes (tables: {})",
                without("echo")
            ),
            "plan::duplicate_table: stages `trace` and `twice` both make table `trace` (rename one of the stages)"
                .to_string(),
        ]
    );
}

#[test]
fn the_order_follows_the_file_where_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let stages = vec![
        ("d", fake(&["b", "c"], &[])),
        ("c", fake(&["a"], &[])),
        ("b", fake(&["a"], &[])),
        ("a", fake(&[], &[])),
        ("e", fake(&[], &[])),
    ];
    let dag = pipeline(dir.path(), stages).1.unwrap();
    let names: Vec<&str> = dag.order.iter().map(|&i| dag.nodes[i].name.as_str()).collect();
    assert_eq!(names, ["a", "c", "b", "d", "e"]);
    assert_eq!(dag.upstream(1), BTreeSet::from([1, 3]));
    assert_eq!(dag.downstream(2), BTreeSet::from([0, 2]));
    assert_eq!(dag.tables().count(), 5);
}

#[test]
fn names_of_stages_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let (p, dag) = pipeline(dir.path(), vec![("trace", fake(&[], &[1])), ("sim", fake(&["trace"], &[1]))]);
    let store = Store::open(dir.path()).unwrap();
    let options = Options { only: vec!["trase".into()], from: vec![], force: vec!["xyz".into()] };
    let found = messages(plan(&p, &dag.unwrap(), &store, &options).unwrap_err());
    assert_eq!(found.len(), 2);
    assert_eq!(found[0], "plan::unknown_stage: --only: there is no stage `trase` (did you mean `trace`?)");
    assert!(!dir.path().join("data").exists(), "a plan changes nothing");
}

#[test]
fn reasons_name_what_changed() {
    let base = Recipe {
        kind: "simulate".into(),
        version: 1,
        config: json!({ "sweep": { "grid": { "tp": [1, 2] } }, "rules": [{ "max": 5 }], "same": 1 }),
        seed: 1,
        inputs: BTreeMap::from([("trace".into(), Hash::of(b"1"))]),
        files: BTreeMap::from([("x.csv".into(), Hash::of(b"1"))]),
    };
    let changed = Recipe {
        version: 2,
        config: json!({ "sweep": { "grid": { "tp": [1, 2, 4] } }, "rules": [{ "max": 6 }], "same": 1, "new": "a" }),
        seed: 2,
        inputs: BTreeMap::from([("trace".into(), Hash::of(b"2")), ("extra".into(), Hash::of(b"2"))]),
        files: BTreeMap::new(),
        ..base.clone()
    };
    assert_eq!(reason::reasons(&base, None), ["never ran"]);
    assert_eq!(reason::reasons(&base, Some(&base)), ["result is gone from the store"]);
    assert_eq!(
        reason::reasons(&changed, Some(&base)),
        [
            "stage kind `simulate` is now version 2",
            "config `new` changed (null -> \"a\")",
            "config `rules[0].max` changed (5 -> 6)",
            "config `sweep.grid.tp` changed ([1,2] -> [1,2,4])",
            "seed changed from 1 to 2",
            "input `extra` is new",
            "input `trace` changed",
            "file `x.csv` is gone",
        ]
    );
}
