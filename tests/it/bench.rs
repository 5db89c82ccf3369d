//! `pipe bench`: what it counts is right and the same in every run, and its figures follow from what was measured.

use crate::project::{Project, repository};

fn measured(project: &Project, args: &[&str]) -> Vec<serde_json::Value> {
    let mut all = vec!["bench", "--json"];
    all.extend_from_slice(args);
    let ran = project.run(&all).ok();
    ran.out.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{l}: {e}"))).collect()
}

fn number(row: &serde_json::Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or_else(|| panic!("{key} of {row}"))
}

#[test]
fn every_case_is_measured_and_its_figures_agree() {
    let project = Project::new();
    let rows = measured(&project, &["--scale", "0.02", "--repeat", "1"]);
    let letters: Vec<&str> = rows.iter().filter_map(|r| r["case"].as_str()).collect();
    assert_eq!(letters, ["a", "b", "c", "d", "e", "f", "g", "h"]);
    let requests: Vec<f64> = rows.iter().map(|r| number(r, "requests")).collect();
    assert_eq!(requests, [2_000.0, 2_000.0, 240.0, 20_000.0, 2_000.0, 4_000.0, 20_000.0, 240.0]);
    for row in &rows {
        let seconds = number(row, "seconds");
        assert!(seconds > 0.0, "{row}");
        for (rate, of) in
            [("requests_per_s", "requests"), ("output_tokens_per_s", "output_tokens"), ("steps_per_s", "steps")]
        {
            let expected = number(row, of) / seconds;
            assert!((number(row, rate) / expected - 1.0).abs() < 1e-9, "{rate} of {row}");
        }
        if cfg!(target_os = "linux") {
            assert_eq!(row["clock"], "cpu", "{row}");
        }
        assert_eq!(row["workload"], "synthetic");
    }
    assert_eq!(number(&rows[4], "output_tokens"), 2.0 * number(&rows[0], "output_tokens"));
    assert_eq!((number(&rows[0], "preemptions"), number(&rows[0], "hit_rate")), (0.0, 0.0));
    assert!(number(&rows[2], "hit_rate") > 0.01, "{}", rows[2]);
    let ratio = number(&rows[4], "seconds") / number(&rows[0], "seconds");
    assert_eq!(number(&rows[4], "seconds_over_case_a"), ratio);
    assert!(rows[0]["seconds_over_case_a"].is_null());
}

#[test]
fn counts_are_those_of_every_run_and_preemptions_are_among_them() {
    let project = Project::new();
    let counts = || {
        let row = measured(&project, &["--case", "b", "--scale", "0.1", "--repeat", "2"]).remove(0);
        ["requests", "output_tokens", "steps", "preemptions"].map(|key| number(&row, key))
    };
    let first = counts();
    assert_eq!(first, counts());
    assert!(first[3] > 0.02 * first[0] && first[3] < 0.2 * first[0], "{first:?}");
}

#[test]
fn a_trace_takes_the_place_of_the_conversations() {
    let project = Project::new();
    let file = repository().join("data/samples/mooncake.jsonl");
    let rows = std::fs::read_to_string(&file).expect("the sample").lines().count();
    let path = file.display().to_string();
    let row = measured(&project, &["--case", "c", "--trace", &path, "--repeat", "1"]).remove(0);
    assert_eq!((number(&row, "requests"), row["workload"].as_str()), (rows as f64, Some(path.as_str())));
    assert!(number(&row, "hit_rate") > 0.0, "{row}");
    let text = project.run(&["bench", "--case", "c", "--trace", &path, "--repeat", "1"]).ok().out;
    assert!(text.contains("hit rate") && text.contains(&path), "{text}");
}

#[test]
fn the_command_is_documented_in_its_own_help_only() {
    let project = Project::new();
    assert!(!project.run(&["--help"]).ok().out.contains("bench"));
    let help = project.run(&["bench", "--help"]).ok().out;
    for word in ["--case", "--repeat", "--trace", "--json", "13,800 KV blocks", "four replicas"] {
        assert!(help.contains(word), "{word} in:\n{help}");
    }
    assert!(!help.contains("--child"), "{help}");
}

#[test]
fn mistakes_are_told_once() {
    let project = Project::new();
    for (args, code, says) in [
        (&["--case", "z"][..], 2, "cases are a, b, c, d, e, f"),
        (&["--scale", "2"], 2, "above 0, at most 1"),
        (&["--repeat", "0"], 2, "repeat"),
        (&["--case", "a", "--trace", "x.jsonl"], 2, "`--trace` is for cases c and h"),
        (&["--case", "c", "--trace", "nowhere.jsonl"], 2, "nowhere.jsonl"),
        (&["--case", "c", "--trace", "data/samples/sharegpt.json"], 2, "holds texts"),
    ] {
        let mut all = vec!["bench"];
        all.extend_from_slice(args);
        let ran = project.run(&all);
        assert_eq!((ran.code, ran.out.as_str()), (Some(code), ""), "{args:?}: {}", ran.err);
        assert_eq!(ran.err.matches(says).count(), 1, "{args:?}: {}", ran.err);
    }
}
