//! The queueing deployment as a user runs it: the example pipeline with its queries, and, where they are at hand, complete
//! runs of llm-simulator from its own configuration files.

use std::path::{Path, PathBuf};

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::project::Project;
use crate::queueing::cases;

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

#[track_caller]
fn close(got: &Value, expect: f64, tolerance: f64) {
    let got = number(got);
    assert!((got - expect).abs() <= tolerance * expect.abs(), "{got}, not {expect}");
}

#[test]
fn the_example_compares_clusters_of_equal_size() {
    let project = Project::new();
    let file = "pipelines/mono_vs_disagg.yaml";
    let ran = project.run(&["run", file]).ok();
    assert!(ran.out.contains("versus: 16 scenarios, ") || ran.err.contains("versus: 16 scenarios, "), "{}", ran.out);

    // comparison.sql
    let rows = project.rows("SELECT * FROM mono_vs_disagg.comparison");
    assert_eq!(rows.len(), 16);
    for load in rows.chunks(4) {
        assert!(load.iter().all(|r| r["arrival_rate_per_s"] == load[0]["arrival_rate_per_s"] && r["gpus"] == 4));
        assert!(load.is_sorted_by_key(|r| number(&r["ttft_ms_p99"])), "{load:?}");
        assert_eq!(number(&load[0]["ttft_to_best"]), 1.0);
        let mut layouts: Vec<&str> = load.iter().map(|r| r["layout"].as_str().expect("a name")).collect();
        layouts.sort_unstable();
        assert_eq!(layouts, ["disagg 1+3", "disagg 2+2", "disagg 3+1", "mono 4"]);
    }
    // As llm-simulator prints them for the same settings; its monolithic figures are those of a separate computation.
    let of = |layout: &str| rows.iter().find(|r| r["layout"] == layout).expect("at 2 requests/s");
    close(&of("disagg 2+2")["ttft_ms_mean"], 131.6395467390771, 1e-12);
    close(&of("disagg 2+2")["ttft_ms_p99"], 332.0899999999923, 1e-12);
    close(&of("mono 4")["ttft_ms_mean"], 129.6213203332732, 1e-12);
    close(&of("mono 4")["throughput_rps"], 1.9416666666666667, 1e-12);

    // The figures follow from the requests.
    let again = project.rows(
        "SELECT v.num_samples, count(*) AS n, v.p99_ttft_s, quantile(r.ttft_ns, 0.99) / 1e9 AS p99, \
                v.mean_ttft_s - v.mean_prefill_wait_s - v.mean_decode_wait_s AS service_s, \
                avg(r.prompt_tokens) / 8000 + 1 / 2000e0 AS service \
         FROM mono_vs_disagg.versus v JOIN mono_vs_disagg.versus_requests r ON r.scenario_id = v.scenario_id \
         WHERE r.measured GROUP BY v.scenario_id, v.num_samples, v.p99_ttft_s, service_s ORDER BY v.scenario_id",
    );
    assert_eq!(again.len(), 16);
    for r in &again {
        assert_eq!(r["n"], r["num_samples"]);
        close(&r["p99"], number(&r["p99_ttft_s"]), 1e-8);
        close(&r["service_s"], number(&r["service"]), 1e-9);
    }

    // size.sql: more GPUs never make anybody wait longer, and at the least load there is hardly a queue for eight.
    let rows = project.rows("SELECT * FROM mono_vs_disagg.size");
    assert_eq!(rows.len(), 12);
    for load in rows.chunks(3) {
        assert_eq!(load.iter().map(|r| number(&r["gpus"])).collect::<Vec<_>>(), [2.0, 4.0, 8.0]);
        for column in ["mono_wait_ms_mean", "disagg_wait_ms_mean"] {
            assert!(load.is_sorted_by(|few, many| number(&few[column]) >= number(&many[column])), "{load:?}");
        }
    }
    assert!(number(&rows[2]["mono_wait_ms_mean"]) < 1.0 && number(&rows[9]["mono_wait_ms_mean"]) > 100.0, "{rows:?}");

    // prefill_rate.sql
    let rows = project.rows("SELECT * FROM mono_vs_disagg.prefill_rate");
    assert_eq!(rows.len(), 32);
    for speeds in rows.chunks(4) {
        assert_eq!(number(&speeds[0]["gain"]), 1.0);
        assert!(speeds.is_sorted_by_key(|r| number(&r["prefill_tokens_per_s"])));
        assert!(number(&speeds[3]["ttft_ms_p50"]) < number(&speeds[0]["ttft_ms_p50"]), "{speeds:?}");
        close(&speeds[3]["gain"], number(&speeds[0]["ttft_ms_p99"]) / number(&speeds[3]["ttft_ms_p99"]), 1e-12);
    }

    let verdict =
        project.rows("SELECT count(*) AS n, sum(CASE WHEN pass THEN 1 ELSE 0 END) AS met FROM mono_vs_disagg.verdict");
    assert_eq!(verdict[0]["n"], 16);
    assert!(number(&verdict[0]["met"]) > 0.0 && number(&verdict[0]["met"]) < 16.0, "{verdict:?}");

    let show = project.run(&["show", "versus", "--rows", "1"]).ok().out;
    for part in ["p99_ttft_s", "utilization_decode", "simulate", "requests with a first token"] {
        assert!(show.contains(part), "no `{part}` in:\n{show}");
    }

    // Nothing runs again, unless something changed.
    let actions = project.actions(&[file]);
    assert!(actions.iter().all(|(_, action)| action == "cached"), "{actions:?}");
    let seed = "stages.by_size.simulate.deployment.queueing.random_seed=43";
    let changed: Vec<String> = project
        .actions(&[file, "--set", seed])
        .into_iter()
        .filter(|(_, action)| action != "cached")
        .map(|(stage, _)| stage)
        .collect();
    assert_eq!(changed, ["by_size", "size"]);
}

/// One request of a case: times in seconds by column.
struct Expected {
    prompt_tokens: i64,
    output_tokens: i64,
    times: Vec<(&'static str, f64)>,
}

fn read(file: &Path) -> Vec<Expected> {
    let file = std::fs::File::open(file).expect("the case's table");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("a Parquet file").build().expect("a reader");
    let mut expected = Vec::new();
    for batch in reader {
        let batch = batch.expect("a batch");
        let times = |name: &str| Some(batch.column_by_name(name)?.as_primitive::<Float64Type>().values().to_vec());
        let counts =
            |name: &str| batch.column_by_name(name).expect("lengths").as_primitive::<Int64Type>().values().to_vec();
        let columns: Vec<(&str, Vec<f64>)> = [
            ("arrival_ns", "arrival_s"),
            ("prefill_start_ns", "prefill_start_s"),
            ("prefill_start_ns", "start_s"),
            ("prefill_end_ns", "prefill_end_s"),
            ("decode_start_ns", "decode_start_s"),
            ("first_token_ns", "first_token_s"),
            ("finished_ns", "finish_s"),
        ]
        .into_iter()
        .filter_map(|(ours, theirs)| Some((ours, times(theirs)?)))
        .collect();
        let (prompt, output) = (counts("prompt_tokens"), counts("output_tokens"));
        expected.extend((0..batch.num_rows()).map(|i| Expected {
            prompt_tokens: prompt[i],
            output_tokens: output[i],
            times: columns.iter().map(|(name, values)| (*name, values[i])).collect(),
        }));
    }
    expected
}

/// What llm-simulator prints, nested keys joined with `_`.
fn flattened(value: &Value, prefix: &str, found: &mut Vec<(String, Value)>) {
    for (key, value) in value.as_object().expect("an object") {
        let name = format!("{prefix}{key}");
        match value {
            Value::Object(_) => flattened(value, &format!("{name}_"), found),
            _ => found.push((name, value.clone())),
        }
    }
}

fn json(file: PathBuf) -> Vec<(String, Value)> {
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let mut found = Vec::new();
    flattened(&serde_json::from_str(&text).expect("JSON"), "", &mut found);
    found
}

#[test]
fn complete_runs_from_their_own_configuration_files() {
    let Some(dir) = cases() else {
        eprintln!("skipped: no folder shared/reference/cases/queueing at hand");
        return;
    };
    for (case, config, mode) in [
        ("disagg_default", None, "disagg"),
        ("cfg_seed_full", Some("seed_full"), "disagg"),
        ("cfg_example_config", Some("example_config"), "disagg"),
        ("cfg_light", Some("light"), "disagg"),
        ("mono_default", None, "mono"),
        ("seed_full_mono", Some("seed_full"), "mono"),
    ] {
        let text = match config {
            Some(name) => std::fs::read_to_string(dir.join(format!("cfg/{name}.yaml"))).expect("a configuration"),
            None => "sim_seconds: 600".to_string(),
        };
        let indented: String = text.lines().map(|line| format!("          {line}\n")).collect();
        let project = Project::new();
        let pipeline =
            format!("name: case\nstages:\n  sim:\n    simulate:\n      deployment:\n        queueing:\n{indented}");
        project.write("pipelines/case.yaml", &pipeline);
        let set = format!("stages.sim.simulate.deployment.queueing.mode={mode}");
        project.run(&["run", "pipelines/case.yaml", "--set", &set]).ok();

        // Its own monolithic mode prints no figures, as two arguments are swapped.
        let printed = if mode == "mono" { format!("{case}.oracle.json") } else { format!("{case}.out") };
        let row = &project.rows("SELECT * FROM case.sim")[0];
        let figures = json(dir.join(printed));
        assert!(figures.len() >= 7, "{case}");
        for (name, expect) in figures {
            match expect.as_f64() {
                Some(expect) => close(&row[&name], expect, 1e-12),
                None => assert_eq!(row[&name], expect, "{case} {name}"),
            }
        }

        let expected = read(&dir.join(format!("{case}.golden.parquet")));
        let rows = project.rows("SELECT * FROM case.sim_requests ORDER BY request_id");
        assert_eq!(rows.len(), expected.len(), "{case}");
        let end = number(&row["elapsed_s"]);
        for (e, row) in expected.iter().zip(&rows) {
            assert_eq!(
                (&row["prompt_tokens"], &row["output_tokens"]),
                (&e.prompt_tokens.into(), &e.output_tokens.into())
            );
            for (name, time) in &e.times {
                match row[name].as_i64() {
                    Some(ns) => assert!((ns as f64 / 1e9 - time).abs() < 1e-9, "{case}: {name} {ns}, not {time}"),
                    None => assert!(*time >= end, "{case}: no {name} in {row}"),
                }
            }
        }
    }
}
