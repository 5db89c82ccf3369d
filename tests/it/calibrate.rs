//! Coefficients from the logs of a server whose coefficients are known, and sweeps against what was measured.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::project::{Project, text};

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

#[test]
fn the_optimizer_configuration_finds_what_made_the_logs_and_a_simulation_uses_it() {
    let project = Project::new();
    let ran = project.run(&["run", "pipelines/calibrate.yaml"]).ok();
    assert!(ran.err.contains("`sim_dir`") || ran.out.contains("`sim_dir`"), "{}\n{}", ran.out, ran.err);
    let fit: BTreeMap<String, f64> = project
        .rows("SELECT name, value FROM calibrate.fit")
        .iter()
        .map(|row| (text(&row["name"]), number(&row["value"])))
        .collect();
    for (name, expect, share) in [
        ("sum_decode_tokens", 40.0, 0.15),
        ("sum_prefill_tokens", 25.0, 0.1),
        ("intercept", 4000.0, 0.05),
        ("vllm_overhead", 3000.0, 0.15),
    ] {
        assert!((fit[name] / expect - 1.0).abs() < share, "{name}: {fit:?}");
    }
    let totals = project.rows("SELECT role, error FROM calibrate.fit_errors WHERE \"case\" = '' AND feature = 'total'");
    assert_eq!(totals.len(), 2);
    assert!(totals.iter().all(|row| number(&row["error"]) < 0.06), "{totals:?}");
    // Eight features and their mean: of five logs, and of the two roles.
    assert_eq!(project.rows("SELECT * FROM calibrate.fit_errors").len(), 9 * (5 + 2));
    assert_eq!(project.rows("SELECT * FROM calibrate.fit_trials").len(), 400);

    let study = std::fs::read_to_string(project.path().join("data/figures/calibrate/fit_study.json")).expect("a study");
    let study: Value = serde_json::from_str(&study).expect("JSON");
    assert_eq!((study["seed"].as_u64(), study["n_trials"].as_u64()), (Some(10), Some(400)));
    assert!(number(&study["train_error"]) < 0.06 && number(&study["eval_error"]) < 0.06, "{study}");
    assert_eq!(study["train_config"]["request_rate"], serde_json::json!([8, 32]));

    // The simulation has the values, and its sweep goes over them.
    let sim = project.rows("SELECT * FROM calibrate.sim ORDER BY scenario_id");
    assert_eq!(sim.len(), 3);
    for row in &sim {
        assert_eq!(row["deployment_latency"], "regression");
        assert!((number(&row["deployment_latency_regression_intercept_us"]) - fit["intercept"]).abs() < 1e-6, "{row}");
    }
    // Another setting of the simulation does not fit again; another bound does.
    let file = project.path().join("pipelines/calibrate.yaml");
    let pipeline = std::fs::read_to_string(&file).expect("the pipeline");
    let actions = |args: &[&str]| -> BTreeMap<String, String> { project.actions(args).into_iter().collect() };
    std::fs::write(&file, pipeline.replace("[4, 16, 32]", "[4, 16]")).expect("a file");
    let again = actions(&["pipelines/calibrate.yaml"]);
    assert_eq!((again["fit"].as_str(), again["sim"].as_str()), ("cached", "ran"), "{again:?}");
    let config = project.path().join("data/samples/calibrate/optimizer_config.yaml");
    let written = std::fs::read_to_string(&config).expect("the configuration");
    std::fs::write(&config, written.replace("n_trials: 400", "n_trials: 12")).expect("a file");
    assert_eq!(actions(&["pipelines/calibrate.yaml", "--only", "fit"])["fit"], "ran");
}

#[test]
fn a_sweep_is_compared_with_what_was_measured() {
    let project = Project::new();
    project.run(&["run", "pipelines/blis_sweep_test.yaml"]).ok();
    let rows = project.rows("SELECT * FROM blis_sweep_test.accuracy");
    // Two workloads, rates and budgets, of six metrics each.
    assert_eq!(rows.len(), 48);
    for row in rows.iter().filter(|r| r["metric"] == "E2E mean") {
        // Steps of the sample are 4 % longer, and queues longer still.
        let (measured, simulated, ape) = (number(&row["measured"]), number(&row["simulated"]), number(&row["ape_pct"]));
        assert!((2.0..12.0).contains(&ape) && simulated < measured, "{row}");
        assert!((ape - 100.0 * (simulated - measured).abs() / measured).abs() < 1e-9, "{row}");
    }
    let table = project.rows("SELECT * FROM blis_sweep_test.by_workload");
    assert_eq!(table.len(), 12);
    assert!(table.iter().filter(|r| r["metric"] == "throughput").all(|r| number(&r["ape_pct_max"]) < 2.0), "{table:?}");
    assert!(project.path().join("data/figures/blis_sweep_test/errors_by_model.svg").exists());
}

#[test]
fn a_sweep_of_what_was_never_measured() {
    let project = Project::new();
    project.run(&["run", "pipelines/blis_sweep_inference.yaml"]).ok();
    let rows = project.rows("SELECT * FROM blis_sweep_inference.what_if ORDER BY hits, mbnt, rate_rps");
    assert_eq!(rows.len(), 3 * 4 * 3);
    let of = |hits: &str, rate: f64| {
        let row = rows.iter().find(|r| r["hits"] == hits && r["mbnt"] == 2048 && number(&r["rate_rps"]) == rate);
        number(&row.unwrap_or_else(|| panic!("{rows:?}"))["ttft_ms_mean"])
    };
    // What is in the cache is not computed; more requests wait longer.
    assert!(of("90 %", 32.0) < of("50 %", 32.0) && of("50 %", 32.0) < of("0 %", 32.0), "{rows:?}");
    assert!(of("0 %", 4.0) < of("0 %", 48.0));
}
