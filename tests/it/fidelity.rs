//! Reports of fidelity: over what was measured, where it is at hand, and over small sets of their own.

use std::collections::BTreeSet;

use crate::project::{Project, shared};

/// Aims of the example that are not met, with what is known about each in the example itself: set, metric and figure.
const MISSED: [(&str, &str, &str); 5] = [
    ("rtxpro6000", "ttft", "mean"),
    ("h100_slow", "e2e", "mape"),
    ("h100_steps", "step", "mape"),
    ("gap_analysis h200_sxm", "ttft", "mape"),
    ("gap_analysis h200_sxm", "tpot", "mape"),
];

#[test]
fn what_was_measured_is_met_where_the_report_says_so() {
    let Some(data) = shared().map(|dir| dir.join("data")).filter(|dir| dir.join("measured").is_dir()) else {
        eprintln!("skipped: nothing was measured here");
        return;
    };
    let project = Project::new();
    let set = format!("data={}", data.display());
    project.run(&["run", "pipelines/fidelity.yaml", "--set", &set]).ok();
    let missed =
        project.rows("SELECT measured_set, metric, figure, why FROM fidelity.report_aims WHERE NOT met ORDER BY 1, 2");
    let found: BTreeSet<(String, String, String)> = missed
        .iter()
        .map(|row| {
            let text = |name: &str| row[name].as_str().expect("text").to_string();
            assert!(!text("why").is_empty(), "nothing is known about {row}");
            (text("measured_set"), text("metric"), text("figure"))
        })
        .collect();
    let expected: BTreeSet<(String, String, String)> =
        MISSED.iter().map(|(a, b, c)| (a.to_string(), b.to_string(), c.to_string())).collect();
    assert_eq!(found, expected);
    let all = project.rows("SELECT count(*) AS n FROM fidelity.report_aims");
    assert_eq!(all[0]["n"], 24);
    // The published errors are as many as their file says.
    let published =
        project.rows("SELECT count(*) AS n, count(DISTINCT experiment) AS experiments FROM fidelity.report_published");
    assert_eq!((published[0]["n"].as_i64(), published[0]["experiments"].as_i64()), (Some(150), Some(13)));
    // What is fitted saw the half for fitting alone: both halves are there, and neither is empty.
    let halves = project.rows(
        "SELECT part, count(*) AS n FROM fidelity.report_configurations WHERE fitted GROUP BY part ORDER BY part",
    );
    assert!(halves.len() == 2 && halves.iter().all(|half| half["n"].as_i64() > Some(20)), "{halves:?}");
}

const SMALL: &str = r#"
name: small
seed: 3
stages:
  run:
    ingest: { path: ../data/samples/vllm_bench.jsonl, format: vllm_bench }
  report:
    fidelity:
      trials: 40
      runs:
        sample:
          requests: run
          idle_s: 0.5
          deployment: { model: meta-llama/Llama-3.1-8B, gpu: h100-sxm, max_model_len: 8192 }
          models:
            line: { latency: { linear: { base_us: 3000, per_prefill_token_us: 10, per_decode_token_us: 10 } }, fit: { deployment.latency.linear.base_us: [1000, 30000] } }
            roofline: { latency: roofline }
          aims: [ { model: line, metric: e2e, figure: mape, max_pct: 0.001, why: "nobody is so good" } ]
"#;

#[test]
fn a_report_has_errors_parameters_and_aims() {
    let project = Project::new();
    project.write("pipelines/small.yaml", SMALL);
    let ran = project.run(&["run", "pipelines/small.yaml", "--quiet"]).ok();
    assert!(ran.out.contains("report: 0 of 1 aims met") && ran.out.contains("nobody is so good"), "{}", ran.out);
    let figures = project.rows(
        "SELECT latency_model, fitted, part, metric, pairs, mape_pct FROM small.report WHERE metric = 'e2e' ORDER BY 1, 2, 3",
    );
    let of = |model: &str, fitted: bool, part: &str| {
        let row = figures.iter().find(|r| r["latency_model"] == model && r["fitted"] == fitted && r["part"] == part);
        row.map(|r| r["mape_pct"].as_f64().expect("a number"))
    };
    let before = of("line", false, "all").expect("as it is");
    assert!(of("roofline", false, "all").is_some() && of("roofline", true, "test").is_none());
    match of("line", true, "train") {
        // The sample may be one configuration; then nothing is held out, and nothing fitted.
        None => assert!(of("line", false, "train").is_none()),
        Some(train) => assert!(train <= of("line", false, "train").expect("the same half"), "{train} {before}"),
    }
    // The same again, from the store or not.
    let again = Project::new();
    again.write("pipelines/small.yaml", SMALL);
    again.run(&["run", "pipelines/small.yaml", "--quiet", "-j", "1"]).ok();
    let sql = "SELECT * FROM small.report";
    assert_eq!(project.rows(sql), again.rows(sql));
}

#[test]
fn mistakes_of_a_report_are_found_before_it_runs() {
    let project = Project::new();
    for (from, to, expect) in [
        ("model: line, metric", "model: lime, metric", "did you mean `line`?"),
        ("[1000, 30000]", "[30000, 1000]", "the lower end 30000 must be below the upper end 1000"),
        ("linear.base_us: [", "linear.bose_us: [", "did you mean `deployment.latency.linear.base_us`?"),
        ("idle_s: 0.5", "idle_s: -1", "`idle_s` must be a number above 0"),
        ("gpu: h100-sxm", "gpu: h100-smx", "did you mean `h100-sxm`?"),
        ("latency: roofline", "latency: { operators: { profile: nowhere } }", "nowhere"),
        ("trials: 40", "trials: 0", "`trials` is 0"),
    ] {
        assert!(SMALL.contains(from), "{from}");
        project.write("pipelines/wrong.yaml", &SMALL.replace(from, to));
        let checked = project.run(&["check", "pipelines/wrong.yaml"]);
        assert!(checked.code != Some(0) && checked.err.contains(expect), "{to}:\n{}", checked.err);
    }
}

#[test]
fn tables_of_configurations_are_read_row_by_row() {
    const HEAD: &str = "backend,model_path,system,tp_size,pp_size,attention_dp_size,moe_ep_size,isl,osl,batch_size,\
                        gemm_quant_mode,moe_quant_mode,silicon_ttft_ms,silicon_tpot_ms\n";
    let project = Project::new();
    let rows_of = |n: u32| {
        let row = |i: u32| format!("vllm,meta-llama/Llama-3.1-8B,h100_sxm,1,1,,,256,32,{},,,{}.0,8.5\n", i + 1, 20 + i);
        (0..n).map(row).collect::<String>()
    };
    let text = format!(
        "{HEAD}{}vllm,nobody/knows,h100_sxm,1,1,,,256,32,4,,,20,8\nsglang,meta-llama/Llama-3.1-8B,h100_sxm,1,1,,,256,32,4,,,20,8\n",
        rows_of(6)
    );
    project.write("data/silicon.csv", &text);
    let pipeline = |file: &str| {
        format!(
            "name: tables\nstages:\n  report:\n    fidelity:\n      configurations:\n        t:\n          path: ../data/{file}\n          only: {{ backend: [vllm] }}\n          systems:\n            h100_sxm: {{ gpu: h100-sxm, models: {{ roofline: {{ latency: roofline }} }} }}\n"
        )
    };
    project.write("pipelines/tables.yaml", &pipeline("silicon.csv"));
    project.run(&["run", "pipelines/tables.yaml"]).ok();
    let found =
        project.rows("SELECT line, users, simulated_tpot_ms, left_out FROM tables.report_configurations ORDER BY line");
    assert_eq!(found.len(), 7);
    assert!(found[..6].iter().all(|r| r["simulated_tpot_ms"].as_f64() > Some(1.0) && r["left_out"] == ""), "{found:?}");
    assert!(found[6]["left_out"].as_str().is_some_and(|why| why.contains("nobody/knows")), "{}", found[6]);
    for (bad, expect) in [
        (text.replace("8.5", "-1"), ":2: `silicon_tpot_ms` is `-1`"),
        (text.replace("silicon_ttft_ms", "ttft"), "no column `silicon_ttft_ms`"),
        (text.replace("vllm,", "other,"), "no row is asked for"),
    ] {
        project.write("data/bad.csv", &bad);
        project.write("pipelines/bad.yaml", &pipeline("bad.csv"));
        let ran = project.run(&["run", "pipelines/bad.yaml"]);
        assert!(ran.code != Some(0) && ran.err.contains(expect), "{expect}:\n{}", ran.err);
    }
}
