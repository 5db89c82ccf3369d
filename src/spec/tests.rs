//! Pipelines as text, and what is said about them.

use std::path::Path;

use super::*;
use crate::diag::{Failure, render};

/// A valid pipeline with something of everything.
const GOOD: &str = r#"name: sweep
seed: 42
params: { trace: ../data/chat.jsonl, rates: [1, 2.5], tp: 2, table: "tok${suffix}", suffix: ens }
stages:
  trace:
    ingest: { path: "${trace}", format: sharegpt }
  tokens:
    tokenize: { from: trace, encoding: o200k_base }
  sim:
    simulate:
      requests: "${table}"
      deployment:
        gpu: h100-sxm
        tp: "${tp}"
        scheduler: { vllm_v1: { max_num_seqs: 256 } }
      sweep:
        grid:
          workload.rate_rps: "${rates}"
          deployment.model: [meta-llama/Llama-3.1-8B]
        where: "tp = 2"
  metrics:
    sql: SELECT '$${x}' FROM ${table}
  verdict:
    slo:
      from: sim
      rules:
        - { name: interactive, quantile: 1, all: [ { metric: ttft_ms, max: 500 } ] }
"#;

fn load_text(text: &str, set: &[(&str, &str)]) -> (std::result::Result<Pipeline, Failure>, Sources) {
    let folder = tempfile::tempdir().unwrap();
    load_files(folder.path(), &[("p.yaml", text)], set)
}

/// Writes the files, and loads the first.
fn load_files(
    folder: &Path,
    files: &[(&str, &str)],
    set: &[(&str, &str)],
) -> (std::result::Result<Pipeline, Failure>, Sources) {
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let set: Vec<(String, String)> = set.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let mut sources = Sources::default();
    let loaded = load_with(&folder.join(files[0].0), &set, &mut sources);
    (loaded, sources)
}

/// `line:column+len message | help` of every problem; the file only where it is not the pipeline itself.
fn lines(failure: &Failure) -> Vec<String> {
    let line = |d: &crate::diag::Diagnostic| {
        let at = d.at.as_ref().map_or("-".to_owned(), |at| {
            let file = if at.file.ends_with("/p.yaml") { "" } else { at.file.rsplit('/').next().unwrap() };
            let colon = if file.is_empty() { "" } else { ":" };
            format!("{file}{colon}{}:{}+{}", at.line, at.column, at.len)
        });
        let help = d.help.as_ref().map_or(String::new(), |h| format!(" | {h}"));
        format!("{at} {}{help}", d.message)
    };
    failure.diagnostics.iter().map(line).collect()
}

#[track_caller]
fn check(yaml: &str, expect: &[&str]) {
    check_set(yaml, &[], expect);
}

/// Every expectation begins a line of the result, and there are no other lines.
#[track_caller]
fn check_set(yaml: &str, set: &[(&str, &str)], expect: &[&str]) {
    let (loaded, sources) = load_text(yaml, set);
    let found = match &loaded {
        Ok(_) => Vec::new(),
        Err(failure) => lines(failure),
    };
    let same = found.len() == expect.len() && found.iter().zip(expect).all(|(f, e)| f.starts_with(e));
    let shown = loaded.as_ref().err().map(|f| render(f, &sources, false)).unwrap_or_default();
    assert!(same, "expected {expect:#?}\nfound {found:#?}\n{shown}");
}

fn stage<'a>(p: &'a Pipeline, name: &str) -> &'a StageSpec {
    &p.stages.iter().find(|s| s.name.value == name).unwrap().spec
}

#[test]
fn a_pipeline_loads() {
    let folder = tempfile::tempdir().unwrap();
    let (loaded, sources) = load_files(folder.path(), &[("pipes/p.yaml", GOOD)], &[]);
    let p = loaded.unwrap_or_else(|f| panic!("{}", render(&f, &sources, false)));
    assert_eq!((p.name.as_str(), p.seed, p.stages.len()), ("sweep", 42, 5));
    let StageSpec::Ingest(ingest) = stage(&p, "trace") else { panic!() };
    assert_eq!(ingest.path.0[0].path, folder.path().join("pipes/../data/chat.jsonl"));
    assert_eq!(ingest.path.0[0].written, "../data/chat.jsonl");
    let StageSpec::Simulate(sim) = stage(&p, "sim") else { panic!() };
    let requests = &sim.requests.as_ref().unwrap().0;
    assert_eq!(requests.value, "tokens");
    let at = requests.at.as_ref().unwrap();
    assert_eq!((at.line, at.column, at.len), (11, 17, 10));
    assert_eq!(sim.deployment.get_path("tp"), Some(&Tree::new(TreeValue::Int(2), None)));
    let grid = &sim.sweep.as_ref().unwrap().grid;
    let key = grid.keys().next().unwrap();
    assert_eq!(key.value, "workload.rate_rps");
    assert_eq!(key.at.as_ref().map(|at| (at.line, at.column, at.len)), Some((18, 11, 17)));
    assert_eq!(grid[0][1], Tree::new(TreeValue::Float(2.5), None));
    let StageSpec::Sql(sql) = stage(&p, "metrics") else { panic!() };
    assert_eq!(sql.query.as_ref().unwrap().value, "SELECT '${x}' FROM tokens");
    let StageSpec::Slo(slo) = stage(&p, "verdict") else { panic!() };
    assert_eq!((slo.rules[0].quantile, slo.rules[0].all[0].max), (Some(1.0), Some(500.0)));
}

#[test]
fn a_trace_is_a_file_or_several() {
    let of = |settings: &str| format!("name: p\nstages:\n  t:\n    ingest: {{ {settings} }}\n");
    let help = "unknown key `bad_rows` | it is called `on_error` now: `fail`, or `quarantine` in the place of `reject`";
    check(&of("path: [a.csv, b.csv], bad_rows: reject"), &[&format!("4:37+8 {help}")]);
    check(&of("path: 5"), &["4:21+1 expected text, found the number 5"]);
    check(&of("path: [a.csv, 5]"), &["4:29+1 expected text, found the number 5"]);
    check(&of("path: []"), &["4:21+2 a list of paths cannot be empty"]);
    let settings = |text: &str| {
        let p = load_text(&of(text), &[]).0.unwrap();
        let StageSpec::Ingest(ingest) = stage(&p, "t") else { panic!() };
        (ingest.path.0.iter().map(|f| f.written.clone()).collect::<Vec<_>>(), ingest.on_error)
    };
    let limits = Quarantine { max_rows: Some(5), max_share: Some(0.1) };
    let limited = settings("path: [a.csv, 'b-*'], on_error: { quarantine: { max_rows: 5, max_share: 0.1 } }");
    assert_eq!(limited, (vec!["a.csv".to_owned(), "b-*".to_owned()], OnError::Quarantine(limits)));
    let bare = settings("path: a.csv, on_error: quarantine");
    assert_eq!(bare, (vec!["a.csv".to_owned()], OnError::Quarantine(Quarantine::default())));
}

#[test]
fn set_overrides() {
    let set =
        [("trace", "a.jsonl"), ("stages.sim.simulate.deployment.kv.block_size", "32"), ("seed", "7"), ("rates", "[3]")];
    let (loaded, sources) = load_text(GOOD, &set);
    let p = loaded.unwrap_or_else(|f| panic!("{}", render(&f, &sources, false)));
    assert_eq!(p.seed, 7);
    let StageSpec::Ingest(ingest) = stage(&p, "trace") else { panic!() };
    assert_eq!(ingest.path.0[0].path, std::env::current_dir().unwrap().join("a.jsonl"));
    let StageSpec::Simulate(sim) = stage(&p, "sim") else { panic!() };
    let block = sim.deployment.get_path("kv.block_size").unwrap();
    assert_eq!(block.value, TreeValue::Int(32));
    let at = block.at.clone().unwrap();
    assert_eq!((&*at.file, at.line, at.column, at.len), ("command line", 2, 52, 2));
    assert_eq!(sim.sweep.as_ref().unwrap().grid[0].len(), 1);
    check_set(GOOD, &[("trce", "x")], &["command line:1:7+4 --set: unknown parameter `trce` | did you mean `trace`?"]);
    check_set(
        GOOD,
        &[("stages.smi.simulate.seed", "1")],
        &["command line:1:7+24 --set: unknown stage `smi` | did you mean `sim`?"],
    );
    check_set(GOOD, &[("stages.sim.sql.query", "x")], &["command line:1:7+20 --set: unknown kind of stage `sql`"]);
    check_set(
        GOOD,
        &[("seed", "x"), ("stages.sim.simulate.sede", "1")],
        &[
            "command line:1:12+1 expected a whole number, found text `x`",
            "command line:2:7+24 unknown key `sede` | did you mean `seed`?",
        ],
    );
    check_set(GOOD, &[("tp", "[1")], &["command line:1:"]);
}

#[test]
fn three_problems_are_reported_together() {
    let text = GOOD
        .replace("format: sharegpt", "fromat: sharegpt")
        .replace("tokenize: { from: trace, encoding: o200k_base }", "tokenise: { from: trace }")
        .replace("max: 500", "max: fast");
    check(
        &text,
        &[
            "6:33+6 unknown key `fromat` | did you mean `format`? its keys are `path`, `format`",
            "8:5+8 unknown kind of stage `tokenise` | did you mean `tokenize`? one of `ingest`",
            "27:76+4 expected a number, found text `fast`",
        ],
    );
}

#[test]
fn yaml_problems() {
    check("name: a\nname: b\nstages: {}\n", &["2:1+4 the key `name` stands here twice, first at line 1"]);
    check("a: 1\nb: {x: 1, x: 2}\na: 2\n", &["2:11+1 the key `x` stands here twice", "3:1+1 the key `a` stands"]);
    check("name: a\n\tstages: 1\n", &["2:1+1 a tab in the indentation | indent with spaces"]);
    check("stages: { a: { ingest: { path: ${x} } } }\n", &["1:"]);
    check("name: [a\n", &["1:7+0 unclosed bracket"]);
    check("", &["1:1+0 "]);
    check("# only words\n", &["1:1+0 "]);
    check("- a\n", &["1:1+0 a pipeline is a map with `name` and `stages`, found a list"]);
    check("name: *nowhere\nstages: {}\n", &["1:7+8 no anchor `&nowhere` before this alias"]);
    check("{[a]: 1}\n", &["1:2+1 a key must be text"]);
    check("name: !secret x\n", &["1:"]);
    check("seed: 99999999999999999999\n", &["1:7+20 `99999999999999999999` does not fit into 64 bits"]);
    check("name: a\n---\nname: b\n", &["2:1+3 a second document begins here"]);
    let deep = format!("a: {}{}\n", "[".repeat(100), "]".repeat(100));
    check(&deep, &["1:68+"]);
    let laughs = (1..20).fold("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned(), |all, i| {
        let below = format!("*a{} ", i - 1).repeat(9).trim().replace(' ', " , ");
        format!("{all}a{i}: &a{i} [{below} ]\n")
    });
    let (loaded, _) = load_text(&laughs, &[]);
    assert!(lines(&loaded.unwrap_err())[0].contains("more than 50000 values"));
}

#[test]
fn core_types_anchors_and_merges() {
    let text =
        "a: &x { n: 1, m: no, f: 1e3, h: 0x1F, s: '1', t: !!str 2, z: ~ }\nb: { <<: *x, n: 2 }\nc: |\n  two\n  lines\n";
    let tree = parse::parse(text, &"f".into(), None).unwrap();
    let want = serde_json::json!({ "n": 1, "m": "no", "f": 1000.0, "h": 31, "s": "1", "t": "2", "z": null });
    assert_eq!(tree.get_path("a").unwrap().to_json(), want);
    assert_eq!(tree.get_path("b.n").unwrap().value, TreeValue::Int(2));
    assert_eq!(tree.get_path("b.m"), tree.get_path("a.m"));
    assert_eq!(tree.get_path("c").unwrap().as_str(), Some("two\nlines\n"));
    assert_eq!(Tree::from_json(tree.to_json()), tree);
    let at = tree.get_path("a.s").unwrap().at.clone().unwrap();
    assert_eq!((at.line, at.column, at.len), (1, 42, 3));
}

#[test]
fn typed_problems() {
    let with = |stage: &str| format!("name: a\nstages:\n  s:\n{stage}");
    check("name: a\n", &["1:1+0 required key `stages` missing | its keys are `name`"]);
    check("name: a\nstages: {}\n", &["1:1+0 a pipeline needs at least one stage"]);
    check(&with("    tokenize: {}\n"), &["4:5+8 required key `from` missing | its keys are `from`"]);
    check(
        &with("    slo: { rules: [{}], assert: yes }\n"),
        &[
            "4:5+3 required key `from` missing",
            "4:20+2 required key `name` missing",
            "4:33+3 expected true or false, found text `yes` | write true",
        ],
    );
    check(
        &with("    ingest: { path: 5 }\n"),
        &["4:21+1 expected text, found the number 5 | quote it to make it text: \"5\""],
    );
    check(&with("    ingest: { path: a, limit: two }\n"), &["4:31+3 expected a whole number, found text `two`"]);
    check(
        &with("    ingest: { path: a, limit: '2' }\n"),
        &["4:31+3 expected a whole number, found text `2` | write 2 without quotes"],
    );
    check(
        &with("    ingest: { path: a, limit: -2 }\n"),
        &["4:31+2 expected a whole number of at least 0, found the number -2"],
    );
    check(
        &with("    ingest: { path: a, limit: 1e6 }\n"),
        &["4:31+3 expected a whole number, found the number 1000000.0 | write 1000000"],
    );
    check(
        &with("    ingest: { path: a, format: azur }\n"),
        &["4:32+4 unknown format `azur` | did you mean `azure`? one of `auto`"],
    );
    check(
        &with("    ingest: { path: a }\n    format: csv\n"),
        &[
            "5:5+6 a kind of stage is written with one key, found 2: `ingest`, `format` | its settings stand under `ingest`",
        ],
    );
    check(&with("    ingest:\n"), &["4:5+6 required key `path` missing"]);
    check(&with("    tokenize: { from: a, encoding: hugging_face }\n"), &["4:36+12 required key `path` missing"]);
    check(&with("    tokenize: { from: a, encoding: { cl100k_base: {} } }\n"), &[]);
    check(
        &with("    tokenize: { from: a, encoding: { cl100k_base: 1 } }\n"),
        &["4:51+1 expected nothing, found the number 1"],
    );
    check(
        &with("    simulate: { requests: a, deployment: {}, sweep: { grid: { tp: 1 } } }\n"),
        &["4:67+1 expected a list, found the number 1 | a list of one is written [1]"],
    );
    check(&with("    sql: { query: a, file: b }\n"), &["4:5+3 `s` needs either `query` or `file`, not both"]);
    check(&with("    sql: {}\n"), &["4:5+3 `s` needs either `query` or `file`"]);
}

#[test]
fn names() {
    let with = |name: &str, stage: &str| format!("name: {name}\nstages:\n  {stage}: {{ sql: SELECT 1 }}\n");
    check(&with("a-1", "b_2"), &[]);
    check(&with("A", "b-2"), &["1:7+1 `A` cannot name a pipeline", "3:3+3 `b-2` cannot name a stage"]);
    check(&with("a", "order"), &["3:3+5 `order` cannot name a stage: it is a word of SQL"]);
}

#[test]
fn parameters() {
    let with = |params: &str, sql: &str| format!("name: a\nparams: {params}\nstages:\n  s: {{ sql: \"{sql}\" }}\n");
    check(
        &with("{ table: x }", "SELECT ä FROM ${tabel}"),
        &["4:28+8 unknown parameter `tabel` | did you mean `table`?"],
    );
    check(&with("{ x: '${y}', y: '${x}' }", "${x}"), &["2:11+1 the parameter `x` is made from itself"]);
    check(&with("{ x: [1] }", "a ${x}"), &["4:16+4 `${x}` is a list or a map"]);
    check(&with("{ x: [1] }", "${x}"), &["4:13+6 expected a map, found a list"]);
    check(&with("{}", "a ${x"), &["4:16+3 `${` without `}`"]);
    check(
        &with("{}", "${env:PIPE_NO_SUCH_VARIABLE}"),
        &["4:14+28 the environment variable `PIPE_NO_SUCH_VARIABLE` is not set"],
    );
    check(&with("{}", "${env:PIPE_NO_SUCH_VARIABLE:-SELECT 1} + ${env:PATH}"), &[]);
    let item = |i: usize| format!(", a{i}: ['${{a{}}}']", i + 1);
    let (down, up): (String, String) = ((1..40).rev().map(item).collect(), (1..40).map(item).collect());
    check(&with(&format!("{{ a40: x{down} }}"), "SELECT 1"), &[]);
    check(&with(&format!("{{ a40: x{up} }}"), "SELECT 1"), &["2:"]);
    let bomb =
        (1..30).fold("{ a0: xxxxxxxxxx".to_owned(), |all, i| format!("{all}, a{i}: '${{a{0}}}${{a{0}}}'", i - 1));
    check(&with(&format!("{bomb} }}"), "${a29}"), &["2:"]);
}

#[test]
fn includes() {
    let folder = tempfile::tempdir().unwrap();
    let root = "name: a\ninclude: [lib/x.yaml, lib/y.yaml]\nparams: { p: own }\nstages: { c: { sql: 'SELECT ${p} FROM a' } }\n";
    let x = "params: { p: x, file: f.csv }\nstages:\n  a: { ingest: { path: \"${file}\" } }\n";
    let y = "include: [x.yaml]\nstages:\n  b: { sql: SELECT 2 }\n";
    let files = [("p.yaml", root), ("lib/x.yaml", x), ("lib/y.yaml", y)];
    let (loaded, sources) = load_files(folder.path(), &files, &[]);
    let p = loaded.unwrap_or_else(|f| panic!("{}", render(&f, &sources, false)));
    assert_eq!(p.stages.iter().map(|s| s.name.value.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(p.sources.0.len(), 3);
    let StageSpec::Ingest(ingest) = stage(&p, "a") else { panic!() };
    assert_eq!(ingest.path.0[0].path, folder.path().join("lib/f.csv"));
    let StageSpec::Sql(sql) = stage(&p, "c") else { panic!() };
    assert_eq!(sql.query.as_ref().unwrap().value, "SELECT own FROM a");

    let fails = |files: &[(&str, &str)], expect: &str| {
        let found = lines(&load_files(folder.path(), files, &[]).0.unwrap_err());
        assert!(found.len() == 1 && found[0].starts_with(expect), "{expect}: {found:#?}");
    };
    let twice = "stages:\n  a: { sql: SELECT 2 }\n";
    fails(&[files[0], files[1], ("lib/y.yaml", twice)], "y.yaml:2:3+1 the stage `a` stands in two included files");
    fails(&[files[0], files[1], ("lib/y.yaml", "include: [../p.yaml]\n")], "y.yaml:1:11+9 `");
    fails(&[files[0], files[1], ("lib/y.yaml", "name: y\n")], "y.yaml:1:1+4 `name` cannot stand in an included file");
    fails(&[("p.yaml", "name: a\ninclude: [lib/z.yaml]\nstages: {}\n")], "2:11+10 no file `");
}

#[test]
fn files_that_are_no_pipelines() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("sweep.yaml"), GOOD).unwrap();
    std::fs::write(folder.path().join("latin.yaml"), b"name: x\nseed: \xe4\n").unwrap();
    let fails = |name: &str| lines(&load(&folder.path().join(name), &[]).unwrap_err()).join("\n");
    assert!(fails("swep.yaml").ends_with("sweep.yaml`?"), "{}", fails("swep.yaml"));
    assert!(fails("sweep.yml").contains("did you mean"), "{}", fails("sweep.yml"));
    assert!(fails("").contains("is a folder"), "{}", fails(""));
    assert!(fails("latin.yaml").contains("yaml:2:7+0 "), "{}", fails("latin.yaml"));
}

#[test]
fn paths_into_trees() {
    let tree = |json| Tree::from_json(json);
    let mut t =
        tree(serde_json::json!({ "scheduler": "vllm_v1", "kv": { "block_size": 16 }, "latency": { "other": {} } }));
    t.set_path("scheduler.vllm_v1.max_num_seqs", tree(serde_json::json!(8)));
    t.set_path("scheduler.vllm_v1.max_num_batched_tokens", tree(serde_json::json!(9)));
    t.set_path("kv.num_gpu_blocks", tree(serde_json::json!(1)));
    t.set_path("latency.table.path", tree(serde_json::json!("x")));
    let want = serde_json::json!({
        "scheduler": { "vllm_v1": { "max_num_seqs": 8, "max_num_batched_tokens": 9 } },
        "kv": { "block_size": 16, "num_gpu_blocks": 1 },
        "latency": { "table": { "path": "x" } },
    });
    assert_eq!(t.to_json(), want);

    // A step may be called like a choice, and is none.
    let mut t = tree(serde_json::json!({ "steps": { "scheduler": { "after": ["a"] } } }));
    t.set_path("steps.scheduler.context", tree(serde_json::json!("fresh")));
    assert_eq!(t.to_json(), serde_json::json!({ "steps": { "scheduler": { "after": ["a"], "context": "fresh" } } }));
}

#[test]
fn a_scenario_points_at_the_swept_value() {
    let base = parse::parse("model: m\ngpu: g\nscheduler: vllm_v1\nrouter: { random: }\n", &"f".into(), None).unwrap();
    let deployment: pipe_kernel::scenario::Deployment = from_tree(&base).unwrap();
    assert_eq!(deployment.scheduler, pipe_kernel::sim::scheduler::Scheduler::default());
    let mut swept = base.clone();
    let values = parse::parse("[1, two]", &"s".into(), None).unwrap();
    swept.set_path("tp", values.get_path("1").unwrap().clone());
    swept.set_path("scheduler.vlm_v1.x", values.get_path("0").unwrap().clone());
    let problems = from_tree::<pipe_kernel::scenario::Deployment>(&swept).unwrap_err();
    let found = lines(&Failure::usage(problems));
    assert!(found[0].starts_with("s:1:2+1 unknown scheduler `vlm_v1` | did you mean `vllm_v1`?"), "{found:#?}");
    assert_eq!(found[1], "s:1:5+3 expected a whole number, found text `two`");
}

#[test]
fn the_schema_agrees() {
    let schema = json_schema();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let json = |text: &str| parse::parse(text, &"f".into(), None).unwrap().to_json();
    let errors: Vec<String> =
        validator.iter_errors(&json(GOOD)).map(|e| format!("{e} at {}", e.instance_path())).collect();
    assert_eq!(errors, Vec::<String>::new());
    for (right, wrong) in [
        ("format:", "fromat:"),
        ("sharegpt", "shargpt"),
        ("simulate:", "simulte:"),
        ("256", "lots"),
        ("  trace:", "  Trace:"),
    ] {
        assert!(GOOD.contains(right));
        assert!(!validator.is_valid(&json(&GOOD.replacen(right, wrong, 1))), "{wrong}");
    }
    assert!(validator.is_valid(&json(&GOOD.replace("{ vllm_v1: { max_num_seqs: 256 } }", "vllm_v1"))));
}
