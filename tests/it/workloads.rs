//! Traces as a user works with them: looked at, changed, written for others and read back, compared with a simulation.

use crate::project::{Project, shared};

/// Four requests. Blocks are of 512 tokens; the second and the third prompt begin as the first.
const TRACE: &str = r#"{"timestamp": 0, "input_length": 1100, "output_length": 10, "hash_ids": [1, 2, 3]}
{"timestamp": 1000, "input_length": 1024, "output_length": 20, "hash_ids": [1, 2]}
{"timestamp": 1000, "input_length": 700, "output_length": 30, "hash_ids": [1, 4]}
{"timestamp": 4000, "input_length": 100, "output_length": 40, "hash_ids": [5]}
"#;

fn close(value: &serde_json::Value, expected: f64) {
    let got = value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"));
    assert!((got - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{got}, expected {expected}");
}

#[test]
fn a_trace_is_characterized() {
    let project = Project::new();
    project.write("t.jsonl", TRACE);
    project.run(&["run", "pipelines/characterize.yaml", "--set", "trace=t.jsonl"]).ok();
    let summary = &project.rows("SELECT * FROM characterize.summary")[0];
    // Gaps of 1, 0 and 3 s: a mean of 4/3, a mean square of 10/3, so a variance of 14/9.
    close(&summary["rate_rps"], 0.75);
    close(&summary["gap_cv"], (14.0f64 / 9.0).sqrt() / (4.0 / 3.0));
    close(&summary["peak_rps"], 4.0 / 60.0);
    close(&summary["input_tokens_p50"], 862.0);
    assert_eq!((&summary["arrivals_tied"], &summary["input_tokens"]), (&1.into(), &2924.into()));
    assert!(summary["turns_mean"].is_null() && summary["sessions"] == 0);
    // Blocks 1 and 2 of the second, and 1 of the third, were there before: 3 of 8 blocks, 1024 + 512 of 2924 tokens.
    let prefixes = &project.rows("SELECT * FROM characterize.prefixes")[0];
    assert_eq!(
        (&prefixes["blocks"], &prefixes["blocks_distinct"], &prefixes["requests_hit"]),
        (&8.into(), &5.into(), &2.into())
    );
    close(&prefixes["blocks_hit_share"], 3.0 / 8.0);
    close(&prefixes["tokens_hit_share"], 1536.0 / 2924.0);
    // One block is used three times, one twice, three once.
    let reuse =
        project.rows("SELECT uses, blocks, uses_share, blocks_share FROM characterize.reuse ORDER BY uses DESC");
    let uses: Vec<_> = reuse.iter().map(|r| (r["uses"].as_i64().unwrap(), r["blocks"].as_i64().unwrap())).collect();
    assert_eq!(uses, [(3, 1), (2, 1), (1, 3)]);
    close(&reuse[1]["uses_share"], 5.0 / 8.0);
    close(&reuse[1]["blocks_share"], 2.0 / 5.0);
    // Windows of 40 ms: one request in the first, two in number 25, one in the last.
    let rate =
        project.rows("SELECT window_no, rate_rps, from_s FROM characterize.rate WHERE rate_rps > 0 ORDER BY window_no");
    let found: Vec<_> =
        rate.iter().map(|r| (r["window_no"].as_i64().unwrap(), r["rate_rps"].as_f64().unwrap())).collect();
    assert_eq!(found, [(0, 25.0), (25, 50.0), (99, 25.0)]);
    close(&rate[1]["from_s"], 1.0);
    let lengths = project.rows("SELECT * FROM characterize.lengths WHERE q = 0.5");
    close(&lengths[0]["output_tokens"], 25.0);
    close(&lengths[0]["gap_ms"], 1000.0);
    let shown = project.run(&["show", "characterize.trace", "--rows", "0"]).ok().out;
    for part in [
        "requests 4 in 4.0 s: 0.750 per second",
        "coefficient of variation 0.935 (1 is Poisson); 1 arrive with the one before",
        "prompts  731 tokens on average; p50 862, p90 1,077, p99 1,098, longest 1,100",
        "prefixes 52.53 % of the tokens and 37.50 % of the blocks of prompts were there before; 5 different blocks of 512",
    ] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }
    for file in ["load.svg", "tokens.png", "popularity.svg"] {
        assert!(project.path().join("data/figures/characterize").join(file).is_file(), "{file}");
    }
}

#[test]
fn sessions_are_characterized() {
    let project = Project::new();
    project.write(
        "t.csv",
        "arrival,input_tokens,output_tokens,session_id\n0,10,1,a\n2,30,1,a\n3,20,1,b\n10,50,1,a\n11,7,1,\n",
    );
    project.run(&["run", "pipelines/characterize.yaml", "--set", "trace=t.csv"]).ok();
    let rows = project.rows("SELECT * FROM characterize.sessions ORDER BY turns");
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[1]["turns"], &rows[1]["sessions"]), (&3.into(), &1.into()));
    close(&rows[1]["first_input_tokens_mean"], 10.0);
    close(&rows[1]["last_input_tokens_mean"], 50.0);
    close(&rows[1]["duration_s_mean"], 10.0);
    let summary = &project.rows("SELECT sessions, turns_mean FROM characterize.summary")[0];
    close(&summary["turns_mean"], 2.0);
}

/// The facts of Mooncake's and Azure's traces, as their publishers and others state them.
#[test]
fn published_traces_have_their_facts() {
    let Some(shared) = shared() else { return };
    let characterized = |trace: &str| {
        let file = shared.join("data/traces").join(trace);
        file.is_file().then(|| {
            let project = Project::new();
            let set = format!("trace={}", file.display());
            let stages = ["--only", "summary", "--only", "prefixes"];
            project.run(&[&["run", "pipelines/characterize.yaml", "--set", &set][..], &stages].concat()).ok();
            let row = |table: &str| project.rows(&format!("SELECT * FROM characterize.{table}")).remove(0);
            (row("summary"), row("prefixes"))
        })
    };
    let share = |value: &serde_json::Value| (value.as_f64().unwrap() * 1e4).round() / 100.0;
    for (trace, tokens, blocks, distinct) in [
        ("mooncake/conversation_trace.jsonl", 37.36, 36.64, 182_790),
        ("mooncake/synthetic_trace.jsonl", 65.12, 63.96, 43_924),
    ] {
        let Some((_, prefixes)) = characterized(trace) else { continue };
        let found = (share(&prefixes["tokens_hit_share"]), share(&prefixes["blocks_hit_share"]));
        assert_eq!((found, &prefixes["blocks_distinct"]), ((tokens, blocks), &distinct.into()), "{trace}");
    }
    for (trace, cv) in
        [("azure/AzureLLMInferenceTrace_conv.csv", 1.094), ("azure/AzureLLMInferenceTrace_code.csv", 13.15)]
    {
        let Some((summary, _)) = characterized(trace) else { continue };
        assert!((summary["gap_cv"].as_f64().unwrap() - cv).abs() < 0.005, "{trace}: {}", summary["gap_cv"]);
    }
}

const CHANGED: &str = r#"
name: changed
seed: 3
stages:
  trace:
    ingest: { path: ../t.jsonl }
  busy:
    transform:
      from: trace
      steps:
        - repeat: { times: 50 }
        - rescale: { rate_rps: 20 }
        - distribute: { column: tenant, weights: { acme: 3, globex: 1 } }
        - assign: { where: "input_tokens > 1000", class: batch }
  mooncake:
    export: { from: busy, format: mooncake, compression: gzip }
  vidur:
    export: { from: busy, format: vidur }
  lines:
    export: { from: busy, format: jsonl, compression: zstd }
"#;

#[test]
fn a_changed_trace_is_written_and_read_back() {
    let project = Project::new();
    project.write("t.jsonl", TRACE);
    project.write("pipelines/changed.yaml", CHANGED);
    project.run(&["run", "pipelines/changed.yaml"]).ok();
    let rows = project.rows(
        "SELECT count(*) AS n, count(DISTINCT tenant) AS tenants, count(class) AS batch, \
         (count(*) - 1) / s(max(arrival_ns)) AS rate FROM changed.busy",
    );
    assert_eq!((&rows[0]["n"], &rows[0]["tenants"], &rows[0]["batch"]), (&200.into(), &2.into(), &100.into()));
    assert!((rows[0]["rate"].as_f64().unwrap() - 20.0).abs() < 1e-6, "{}", rows[0]["rate"]);
    let second = project.actions(&["pipelines/changed.yaml"]);
    assert!(second.iter().all(|(_, action)| action == "cached"), "{second:?}");

    // What is written is read back, whatever the format, with the same blocks shared.
    let prefixes = |trace: &str| {
        let set = format!("trace={trace}");
        project.run(&["run", "pipelines/characterize.yaml", "--set", &set, "--only", "prefixes"]).ok();
        project.rows("SELECT blocks, blocks_distinct, blocks_hit_share, tokens_hit_share FROM characterize.prefixes")
    };
    let first = prefixes("data/exports/changed/mooncake.jsonl.gz");
    assert_eq!(first[0]["blocks"], 8 * 50);
    for file in ["vidur.csv", "lines.jsonl.zst"] {
        assert_eq!(prefixes(&format!("data/exports/changed/{file}")), first, "{file}");
    }
    let files = project.rows("SELECT file, rows, left_out FROM changed.mooncake");
    assert_eq!((&files[0]["file"], &files[0]["rows"]), (&"mooncake.jsonl.gz".into(), &200.into()));
    assert_eq!(files[0]["left_out"], "class, tenant");
    assert!(project.run(&["ls", "changed"]).ok().out.contains("data/exports/changed/vidur.csv"));

    // Another seed draws other tenants, and nothing else.
    let hashes = project.hashes("changed");
    project.write("pipelines/changed.yaml", &CHANGED.replace("seed: 3", "seed: 4"));
    project.run(&["run", "pipelines/changed.yaml"]).ok();
    let differ: Vec<String> =
        hashes.iter().zip(project.hashes("changed")).filter(|(a, b)| *a != b).map(|(a, _)| a.0.clone()).collect();
    assert_eq!(differ, ["busy", "lines"]);
}

/// What was observed stays with a request through the stages, and is compared with a simulation under its name there.
#[test]
fn a_part_of_an_observed_trace_is_compared() {
    let project = Project::new();
    let rows: Vec<String> =
        (0..40).map(|i| format!("{},{},{},{},{}", i, 100 + i, 10 + i % 5, 50_000_000 + i, 200_000_000 + i)).collect();
    let header = "arrival,input_tokens,output_tokens,ttft,e2e";
    project.write("t.csv", &format!("{header}\n{}\n", rows.join("\n")));
    project.write(
        "pipelines/part.yaml",
        r#"
name: part
stages:
  trace:
    ingest: { path: ../t.csv, measured: { unit: ns, ttft: ttft, e2e: e2e } }
  part:
    sql: |
      SELECT t.*, m.ttft_ns AS seen_ttft_ns, m.e2e_ns AS seen_e2e_ns
      FROM trace t JOIN trace_measured m ON m.request_id = t.request_id
      ORDER BY t.request_id
  observed:
    transform:
      from: part
      steps:
        - set: { observed_ttft_ns: seen_ttft_ns, observed_e2e_ns: seen_e2e_ns }
        - window: { from_s: 10, to_s: 30 }
  sim:
    simulate:
      requests: observed
      deployment: { model: meta-llama/Llama-3.1-8B, gpu: h100-sxm }
  check:
    compare: { measured: observed, simulated: sim, bootstrap: 0 }
"#,
    );
    project.run(&["run", "pipelines/part.yaml"]).ok();
    let rows = project.rows("SELECT observed_ttft_ns FROM part.observed WHERE request_id = 0");
    assert_eq!(rows[0]["observed_ttft_ns"], 50_000_010);
    let ttft = project.rows("SELECT * FROM part.check WHERE metric = 'ttft'");
    assert_eq!(ttft[0]["pairs"], 20, "{ttft:?}");
}
