//! Measured runs of real servers, where they are at hand: counts and means as numpy has them of the files.

use crate::project::{Project, shared};

/// Counts and means of the table that `ingest` (its settings as YAML) makes of what was measured.
fn facts(ingest: &str, file: &str) -> Option<serde_json::Value> {
    let folder = shared()?.join("data/measured");
    if !folder.join(file).is_file() {
        eprintln!("skipped: no {file}");
        return None;
    }
    let project = Project::new();
    let ingest = ingest.replace("$", &folder.display().to_string());
    let text = format!("name: m\nstages:\n  real:\n    ingest: {ingest}\n");
    project.write("pipelines/m.yaml", &text);
    project.run(&["run", "pipelines/m.yaml"]).ok();
    let query = "SELECT count(*) AS n, sum(m.input_tokens) AS input, sum(m.output_tokens) AS output, \
                 avg(ttft_ns) / 1e6 AS ttft, avg(tpot_ns) / 1e6 AS tpot, avg(e2e_ns) / 1e6 AS e2e, \
                 avg(queue_ns) / 1e6 AS queue, max(m.arrival_ns) / 1e9 AS last, min(m.arrival_ns) AS first, \
                 sum(CASE WHEN status = 'completed' THEN 1 ELSE 0 END) AS completed, \
                 sum(cardinality(block_hashes)) AS blocks \
                 FROM m.real_measured m JOIN m.real r ON r.request_id = m.request_id \
                 AND r.arrival_ns = m.arrival_ns AND r.input_tokens = m.input_tokens";
    project.rows(query).into_iter().next()
}

#[track_caller]
fn check(facts: &serde_json::Value, counts: [(&str, u64); 4], means: &[(&str, f64)]) {
    for (name, expected) in counts {
        assert_eq!(facts[name].as_u64(), Some(expected), "{name}: {facts}");
    }
    assert_eq!((facts["completed"].as_u64(), facts["first"].as_u64()), (facts["n"].as_u64(), Some(0)), "{facts}");
    for (name, expected) in means {
        let got = facts[*name].as_f64().unwrap_or_else(|| panic!("no {name}: {facts}"));
        assert!((got - expected).abs() <= 2e-6 * expected, "{name} is {got}, expected {expected}");
    }
}

/// LLMServingSim's benchmark of vLLM 0.19, Llama-3.1-8B on an RTX 4090.
#[test]
fn vllm_bench_rtx_4090() {
    let folder = "$/vllm-0.19";
    let ingest = format!(
        "{{ path: {folder}/RTX4090-llama-3.1-8b/requests.jsonl, tokens: {folder}/sharegpt-llama-3.1-8b-300-sps10.jsonl }}"
    );
    let Some(f) = facts(&ingest, "vllm-0.19/RTX4090-llama-3.1-8b/requests.jsonl") else { return };
    check(
        &f,
        [("n", 300), ("input", 257_239), ("output", 195_753), ("blocks", 28_168)],
        &[("ttft", 65_486.341), ("tpot", 32.446637), ("e2e", 86_608.021)],
    );
}

/// LLMServingSim's benchmark of vLLM 0.19, Llama-3.1-8B on an RTX PRO 6000.
#[test]
fn vllm_bench_rtx_pro_6000() {
    let file = "vllm-0.19/RTXPRO6000-llama-3.1-8b/requests.jsonl";
    let tokens = "$/vllm-0.19/sharegpt-llama-3.1-8b-300-sps10.jsonl";
    let Some(f) = facts(&format!("{{ path: $/{file}, tokens: {tokens} }}"), file) else { return };
    check(
        &f,
        [("n", 300), ("input", 257_239), ("output", 195_753), ("blocks", 28_168)],
        &[("ttft", 7_119.975), ("tpot", 32.458025), ("e2e", 28_223.565)],
    );
}

/// Request spans of vLLM 0.11 on an H100: two runs in one file.
#[test]
fn otel_spans() {
    let file = "vllm-0.11-h100/requests.parquet";
    let run = |run: &str| facts(&format!("{{ path: $/{file}, run: {run} }}"), file);
    let Some(f) = run("jan20-prefill-llama7b-tp1-1") else { return };
    check(
        &f,
        [("n", 197), ("input", 597_432), ("output", 6_224), ("completed", 197)],
        &[
            ("ttft", 1_319.977665915707),
            ("tpot", 71.30653073554666),
            ("e2e", 3_444.761442048901),
            ("queue", 900.4094125442963),
            ("last", 102.706627072),
        ],
    );
    let Some(f) = run("jan21-llama7b-train-1") else { return };
    check(
        &f,
        [("n", 282), ("input", 534_472), ("output", 122_941), ("completed", 282)],
        &[
            ("ttft", 88.11741179608285),
            ("tpot", 7.691161707643673),
            ("e2e", 3_450.0089207439557),
            ("queue", 26.010387298049973),
            ("last", 651.64719488),
        ],
    );
}

/// The second of those runs as inference-sim converted it, to whole microseconds.
#[test]
fn trace_v2() {
    let file = "vllm-0.11-h100/trace_jan21-llama7b-train-1.csv";
    let Some(f) = facts(&format!("{{ path: $/{file} }}"), file) else { return };
    check(
        &f,
        [("n", 282), ("input", 534_472), ("output", 122_941), ("completed", 282)],
        &[("ttft", 88.11692553191489), ("tpot", 7.691161805925562), ("e2e", 3_450.0084255319152), ("last", 651.647194)],
    );
}

/// Several runs, and none chosen.
#[test]
fn a_file_of_several_runs_says_which() {
    let Some(folder) = shared().map(|s| s.join("data/measured/vllm-0.11-h100/requests.parquet")) else { return };
    if !folder.is_file() {
        return;
    }
    let project = Project::new();
    let text = format!("name: m\nstages:\n  real:\n    ingest: {{ path: {} }}\n", folder.display());
    project.write("pipelines/m.yaml", &text);
    let ran = project.run(&["run", "pipelines/m.yaml"]);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("`jan20-prefill-llama7b-tp1-1` (197 requests), `jan21-llama7b-train-1`"), "{}", ran.err);
}

/// The example with more stages, as a file of its own.
fn example_with(project: &Project, file: &str, stages: &str) {
    let example = std::fs::read_to_string(project.path().join("pipelines/compare.yaml")).expect("the example");
    let name = file.trim_end_matches(".yaml");
    let text = example.replacen("name: compare", &format!("name: {name}"), 1);
    project.write(&format!("pipelines/{file}"), &format!("{text}\n{stages}\n"));
}

/// A run against itself has no error, and against a simulation of other requests nothing to say.
#[test]
fn the_example_tells_how_far_off_the_simulation_is() {
    let project = Project::new();
    let ran = project.run(&["run", "pipelines/compare.yaml", "--quiet"]).ok();
    assert!(ran.out.contains("check: sim_requests against real_measured, 45 requests"), "{}", ran.out);
    let rows = project.rows("SELECT * FROM compare.check WHERE metric = 'e2e' ORDER BY scenario_id");
    assert_eq!(rows.len(), 2);
    for row in &rows {
        let number = |name: &str| row[name].as_f64().unwrap_or(f64::NAN);
        assert!(number("mape_pct_low") <= number("mape_pct") && number("mape_pct") <= number("mape_pct_high"), "{row}");
        assert_eq!((row["pairs"].as_u64(), row["left_out"].as_u64()), (Some(45), Some(5)));
        assert!(number("arrival_error_ms_max") < 1e-6, "{row}");
    }
    // What the stage says is what a query over its pairs says.
    let query = "SELECT avg(abs(simulated_ms - measured_ms) / measured_ms) * 100 AS mape, \
                 corr(measured_ms, simulated_ms) AS r, \
                 (quantile(simulated_ms, 0.95) / quantile(measured_ms, 0.95) - 1) * 100 AS p95 \
                 FROM compare.check_requests WHERE metric = 'e2e' GROUP BY scenario_id ORDER BY scenario_id";
    for (row, expected) in rows.iter().zip(project.rows(query)) {
        for (name, other) in [("mape_pct", "mape"), ("pearson", "r"), ("p95_error_pct", "p95")] {
            let (got, expected) = (row[name].as_f64().unwrap_or(f64::NAN), expected[other].as_f64().unwrap_or(0.0));
            assert!((got - expected).abs() < 1e-9 * expected.abs().max(1.0), "{name} is {got}, expected {expected}");
        }
    }
    // Of two equal runs nothing is off.
    example_with(
        &project,
        "same.yaml",
        "  none:\n    compare: { measured: real_measured, simulated: real_measured, bootstrap: 0 }",
    );
    project.run(&["run", "pipelines/same.yaml", "--only", "none"]).ok();
    let rows = project.rows("SELECT * FROM same.none ORDER BY metric");
    assert_eq!(rows.len(), 6);
    assert!(rows.iter().all(|r| r["mean_error_pct"] == 0.0 && r["verdict"] == "excellent"), "{rows:?}");
}

/// Mistakes are found before anything runs.
#[test]
fn wrong_comparisons_are_refused_with_what_would_be_right() {
    let project = Project::new();
    let stage = |body: &str| {
        example_with(&project, "wrong.yaml", &format!("  bad:\n    compare: {body}"));
        let ran = project.run(&["check", "pipelines/wrong.yaml"]);
        assert_ne!(ran.code, Some(0), "{body} passes");
        ran.err
    };
    for (body, expected) in [
        ("{ measured: real_report, simulated: sim }", "has none of the columns `ttft_ns`"),
        ("{ measured: real_measured, simulated: sm }", "did you mean `sim`?"),
        ("{ measured: real_measured, simulated: sim, metrics: [] }", "nothing would be compared"),
        ("{ measured: real_measured, simulated: sim, metrics: [tftt] }", "ttft"),
        ("{ measured: real_measured, simulated: sim, confidence: 95 }", "between 0 and 1"),
        ("{ measured: real_measured, simulated: sim, network_rtt_ms: -1 }", "expected a time from 0 up"),
        ("{ measured: real_measured, simulated: sim, artefacts: [acknowledged_first_chunk] }", "`second_chunk_ns`"),
        ("{ measured: real_measured, simulated: sim, artefacts: [upload: { bandwidth_mbit_s: 0 }] }", "above 0"),
    ] {
        let err = stage(body);
        assert!(err.contains(expected), "{body}: {err}");
    }
}

/// Tables whose rows cannot be compared.
#[test]
fn rows_that_cannot_be_compared_say_why() {
    let project = Project::new();
    for (rows, expected) in [
        ("(0, 5e6), (0, 6e6)", "more than once, e.g. 0"),
        ("(0, -1.0)", "`ttft_ns` of request 0 is -1"),
        ("(0, 'NaN'::double)", "`ttft_ns` of request 0 is NaN"),
        ("(1000, 5e6)", "has a counterpart"),
        ("(0, NULL::double), (1, NULL::double)", "no request of `odd` has a latency"),
    ] {
        let query = format!("SELECT column1 AS request_id, column2 AS ttft_ns FROM (VALUES {rows}) ORDER BY 1, 2");
        let stages = format!("  odd:\n    sql: \"{query}\"\n  bad:\n    compare: {{ measured: odd, simulated: sim }}");
        example_with(&project, "rows.yaml", &stages);
        let ran = project.run(&["run", "pipelines/rows.yaml", "--only", "bad"]);
        assert_ne!(ran.code, Some(0), "{rows} passes");
        assert!(ran.err.contains(expected), "{rows}: {}", ran.err);
    }
}
