//! Quantiles, metrics and verdicts against numpy on the same rows.

use std::process::Command;

use crate::project::{Project, SMALL};
use crate::serving::has_python;

/// What a metric means, in the words of another library. Reads the requests as CSV on standard input, prints
/// `scenario metric value` with 17 digits.
const SCRIPT: &str = r#"
import csv, sys
import numpy as np
by = {}
for row in csv.DictReader(sys.stdin):
    by.setdefault(int(row["scenario_id"]), []).append(row)
for scenario, rows in sorted(by.items()):
    ttft = np.array([int(r["ttft_ns"]) for r in rows]) / 1e6
    e2e = np.array([int(r["e2e_ns"]) for r in rows]) / 1e6
    tpot = np.array([int(r["tpot_ns"]) for r in rows if r["tpot_ns"]]) / 1e6
    for name, q in (("p50", 50), ("p90", 90), ("p99", 99)):
        print(scenario, "ttft_ms_" + name, repr(float(np.percentile(ttft, q))))
        print(scenario, "tpot_ms_" + name, repr(float(np.percentile(tpot, q))))
        print(scenario, "e2e_ms_" + name, repr(float(np.percentile(e2e, q))))
    print(scenario, "ttft_ms_mean", repr(float(ttft.mean())))
    print(scenario, "e2e_ms_mean", repr(float(e2e.mean())))
    good = (ttft <= 200.0) & (np.array([int(r["tpot_ns"] or 0) for r in rows]) / 1e6 <= 10.0)
    print(scenario, "attained", repr(float(good.mean())))
"#;

#[test]
fn metrics_equal_numpy() {
    if !has_python(&["numpy"]) {
        return;
    }
    let project = Project::new();
    let file = "pipelines/small.yaml";
    let rules = "{ name: share, fraction: 0.5, all: [ { metric: ttft_ms, max: 200 }, { metric: tpot_ms, max: 10 } ] }";
    let text = SMALL
        .replace("{ name: fast, quantile: 0.99, all: [ { metric: ttft_ms, max: 400 } ] }", rules)
        .replace("sql: >\n", "sql: { file: ../queries/metrics.sql }\n  other:\n    sql: >\n");
    project.write(file, &text);
    project.run(&["run", file]).ok();

    let requests = project
        .run(&["sql", "SELECT scenario_id, ttft_ns, tpot_ns, e2e_ns FROM small.sim_requests", "--format", "csv"])
        .ok();
    let script = project.path().join("metrics.py");
    std::fs::write(&script, SCRIPT).expect("a script");
    let input = project.path().join("requests.csv");
    std::fs::write(&input, &requests.out).expect("rows");
    let out = Command::new("python3")
        .arg(&script)
        .stdin(std::fs::File::open(&input).expect("rows"))
        .output()
        .expect("python3 starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));

    let metrics = project.rows("SELECT * FROM small.metrics ORDER BY scenario_id");
    let rules = project.rows("SELECT scenario_id, value FROM small.verdict_rules ORDER BY scenario_id");
    let mut compared = 0;
    for line in String::from_utf8_lossy(&out.stdout).lines() {
        let mut words = line.split(' ');
        let scenario: i64 = words.next().and_then(|w| w.parse().ok()).expect("a scenario");
        let name = words.next().expect("a metric");
        let expected: f64 = words.next().and_then(|w| w.parse().ok()).expect("a value");
        let (rows, column) = if name == "attained" { (&rules, "value") } else { (&metrics, name) };
        let row = rows.iter().find(|r| r["scenario_id"] == scenario).unwrap_or_else(|| panic!("no row of {scenario}"));
        let got = row[column].as_f64().unwrap_or_else(|| panic!("{column} is {}", row[column]));
        assert!((got - expected).abs() <= 1e-9 * expected.abs(), "{name} of {scenario}: {got}, numpy says {expected}");
        compared += 1;
    }
    assert_eq!(compared, 6 * 12);
}

#[test]
fn a_query_agrees_with_the_simulators_own_sums() {
    let project = Project::new();
    project.write("pipelines/small.yaml", SMALL);
    project.run(&["run", "pipelines/small.yaml"]).ok();
    let rows = project.rows(
        "SELECT s.requests, s.output_tokens, count(*) AS n, sum(r.output_tokens) AS o \
         FROM small.sim s JOIN small.sim_requests r ON s.scenario_id = r.scenario_id \
         GROUP BY s.scenario_id, s.requests, s.output_tokens ORDER BY s.scenario_id",
    );
    assert_eq!(rows.len(), 6);
    for r in rows {
        assert_eq!(r["requests"], r["n"]);
        assert_eq!(r["output_tokens"], r["o"]);
    }
}
