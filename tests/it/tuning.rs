//! Searches as a user runs them: capacity, the explorer's file, the 18 parameters of an engine, a server that answers.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::Value;

use crate::project::{Project, text};

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

fn study(project: &Project, pipeline: &str) -> Value {
    let path = project.path().join(format!("data/figures/{pipeline}/best_study.json"));
    serde_json::from_str(&std::fs::read_to_string(path).expect("a study")).expect("JSON")
}

#[test]
fn capacity_and_the_explorers_file_answer() {
    let project = Project::new();
    let ran = project.run(&["run", "pipelines/capacity.yaml", "--set", "load=20"]).ok();
    assert!(ran.out.contains("carries: ") && ran.out.contains("needs: "), "{}", ran.out);
    let best = project.rows("SELECT slo, state, \"value\" FROM capacity.carries WHERE rank = 1");
    assert!(best.len() == 2 && best.iter().all(|row| number(&row["value"]) > 1.0), "{best:?}");

    let explorer = ["pipelines/config_explorer.yaml", "--set", "requests=60"];
    project.run(&[&["run"], &explorer[..]].concat()).ok();
    assert!(project.actions(&explorer).iter().all(|(_, action)| action == "cached"));
}

#[test]
fn an_engine_is_tuned_under_its_rules_also_after_a_kill() {
    let arguments = ["pipelines/tune_engine.yaml", "--set", "trials=240", "--only", "best"];
    let whole = Project::new();
    let began = Instant::now();
    whole.run(&[&["run"], &arguments[..]].concat()).ok();
    let took = began.elapsed();
    let illegal = "SELECT count(*) AS n FROM tune_engine.best_trials WHERE state = 'illegal'
                   OR deployment_scheduler_sglang_tp_size * deployment_scheduler_sglang_pp_size
                      * deployment_scheduler_sglang_dp_size > 8
                   OR (deployment_scheduler_sglang_disable_overlap_schedule
                       AND deployment_scheduler_sglang_enable_two_batch_overlap)
                   OR deployment_scheduler_sglang_chunked_prefill_size > deployment_scheduler_sglang_max_prefill_tokens";
    assert_eq!(whole.rows(illegal)[0]["n"], 0);
    // What tuners of engines write: the same keys, so that what reads theirs reads this.
    let study = study(&whole, "tune_engine");
    let front = study["pareto_front"].as_array().expect("a front");
    assert!(!front.is_empty() && study["n_trials"] == 240);
    for entry in front {
        assert!(entry["ttft"].is_number() && entry["tps"].is_number() && entry["state"] == "COMPLETE", "{entry}");
        assert_eq!(entry["parameters"].as_object().expect("parameters").len(), 18);
    }
    let rules = whole.rows("SELECT rule, broken FROM tune_engine.best_rules");
    assert_eq!(rules.len(), 8);
    assert!(number(&rules[0]["broken"]) > 0.0, "{rules:?}");

    let killed = Project::new();
    for i in 1..4u32 {
        let all = [&["run"], &arguments[..], &["--quiet"]].concat();
        let mut child = killed.command(&all).spawn().expect("the binary starts");
        std::thread::sleep(took * i / 5);
        child.kill().expect("killed");
        child.wait().expect("gone");
    }
    killed.run(&[&["run"], &arguments[..]].concat()).ok();
    assert_eq!(killed.hashes("tune_engine"), whole.hashes("tune_engine"));
    // More trials begin with those that there were.
    let scenarios = |p: &Project| -> Vec<String> {
        let rows = p.rows("SELECT scenario FROM tune_engine.best_trials ORDER BY trial");
        rows.iter().map(|row| text(&row["scenario"])).collect()
    };
    let before = scenarios(&whole);
    whole.run(&["run", "pipelines/tune_engine.yaml", "--set", "trials=260", "--only", "best"]).ok();
    let after = scenarios(&whole);
    assert_eq!((after.len(), &after[..240]), (260, &before[..]));
    assert_eq!(after.iter().collect::<std::collections::BTreeSet<_>>().len(), 260);
}

#[test]
fn a_server_is_tuned_by_a_command_that_measures_it() {
    let project = Project::new();
    let file = "pipelines/tune_server.yaml";
    project.run(&["run", file, "--set", "trials=8"]).ok();
    let trials = project.rows("SELECT * FROM tune_server.best_trials ORDER BY trial");
    assert_eq!(trials.len(), 8);
    for row in &trials {
        assert_eq!(row["state"], "complete", "{row}");
        assert!(number(&row["ttft"]) > 0.0 && number(&row["throughput"]) > 0.0 && number(&row["seconds"]) > 0.1);
    }
    // One place for 24 requests is worst for the first token, wherever it was tried.
    let by_slots: BTreeMap<i64, f64> =
        trials.iter().filter_map(|r| Some((r["max_num_seqs"].as_i64()?, number(&r["ttft"])))).collect();
    if let (Some(one), Some(many)) = (by_slots.get(&1), by_slots.get(&32)) {
        assert!(one > many, "{by_slots:?}");
    }
    // Eight are remembered: what is measured is the two that are new.
    project.run(&["run", file, "--set", "trials=10"]).ok();
    let again = project.rows("SELECT * FROM tune_server.best_trials ORDER BY trial");
    let measured = |rows: &[Value]| -> Vec<(String, f64)> {
        rows.iter().map(|row| (text(&row["scenario"]), number(&row["ttft"]))).collect()
    };
    assert_eq!((again.len(), measured(&again[..8])), (10, measured(&trials)));
    assert!(project.actions(&[file, "--set", "trials=10"]).iter().all(|(_, action)| action == "cached"));
}
