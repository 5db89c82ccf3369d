//! Rules against the two scenarios of [`crate::query::testing`], and the problems that are found in rules.
//!
//! Scenario 0: TTFT 100, 250, 150 ms and one request without an answer; TPOT 50, none, 40 ms. Scenario 1: TTFT 600
//! (class a), 400 (class b); TPOT 200, 100.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Schema};

use super::*;
use crate::query::testing::{floats, requests, run_cx, scenarios, simulation, store};
use crate::spec::{Limit, Ref, Simulate, Stage, StageSpec, Tree, TreeValue};
use crate::store::TableHandle;

fn text(s: &str) -> Text {
    Text::new(s.to_string(), None)
}

fn limit(metric: &str, max: Option<f64>, min: Option<f64>) -> Limit {
    Limit { metric: text(metric), max, min }
}

fn rule(name: &str, quantile: Option<f64>, fraction: Option<f64>, all: Vec<Limit>) -> Rule {
    Rule { name: text(name), quantile, fraction, all, any: vec![], class: None }
}

fn slo(rules: Vec<Rule>) -> Slo {
    Slo { from: Ref(text("sim")), rules, assert: true }
}

async fn judged(slo: &Slo) -> (Vec<Verdict>, Outcome) {
    let dir = tempfile::tempdir().unwrap();
    judged_over(slo, simulation(dir.path())).await
}

async fn judged_over(slo: &Slo, tables: Vec<TableHandle>) -> (Vec<Verdict>, Outcome) {
    let ctx = session::context(&SessionOptions { target_partitions: 1, memory_bytes: 1 << 28 }).unwrap();
    for handle in tables {
        session::register(&ctx, SCHEMA, &handle.name, session::provider(&handle).unwrap()).unwrap();
    }
    let (verdicts, rules) = slo.verdicts(&ctx, &Cancel::default(), &|_| ()).await.unwrap();
    let metrics = metrics(&slo.rules);
    verdict_batch(&verdicts, &rules).unwrap();
    let batch = rules_batch(&verdicts, &rules, &metrics).unwrap();
    assert_eq!(batch.num_rows(), verdicts.iter().map(|v| v.findings.len()).sum::<usize>());
    let margins = batch.column_by_name("margin").unwrap().as_primitive::<Float64Type>();
    assert_eq!(margins.len(), batch.num_rows());
    let scenarios = Scenarios::read(&ctx, "sim").await.unwrap();
    let outcome = answer::outcome("verdict", &verdicts, &rules, &metrics, &scenarios, slo.assert);
    (verdicts, outcome)
}

/// Per finding: value, margin, pass.
fn findings(verdict: &Verdict) -> Vec<(Option<f64>, Option<f64>, bool)> {
    verdict.findings.iter().map(|f| (f.value, f.margin, f.pass)).collect()
}

const NONE: Option<f64> = Some(f64::NEG_INFINITY);

#[tokio::test]
async fn rules_by_hand() {
    let any = |mut r: Rule| {
        r.any = std::mem::take(&mut r.all);
        r
    };
    let class = |mut r: Rule, c: &str| {
        r.class = Some(c.to_string());
        r
    };
    type Row = (Option<f64>, Option<f64>, bool);
    let inf = Some(f64::INFINITY);
    let cases: Vec<(Rule, [Vec<Row>; 2], [bool; 2])> = vec![
        // 100, 150, 250, inf: the median is 200.
        (
            rule("r", Some(0.5), None, vec![limit("ttft_ms", Some(250.0), None)]),
            [vec![(Some(200.0), Some(0.2), true)], vec![(Some(500.0), Some(-1.0), false)]],
            [true, false],
        ),
        (
            rule("r", Some(0.99), None, vec![limit("ttft_ms", Some(250.0), None)]),
            [vec![(inf, NONE, false)], vec![(Some(598.0), Some(-1.392), false)]],
            [false, false],
        ),
        // 40, 50, inf; the reply of one token is left out.
        (
            rule("r", Some(0.5), None, vec![limit("tpot_ms", Some(200.0), Some(25.0))]),
            [vec![(Some(50.0), Some(0.75), true)], vec![(Some(150.0), Some(0.25), true)]],
            [true, true],
        ),
        (
            rule(
                "r",
                Some(0.0),
                None,
                vec![limit("ttft_ns", Some(2e8), None), limit("output_tokens", None, Some(2.0))],
            ),
            [
                vec![(Some(1e8), Some(0.5), true), (Some(1.0), Some(-0.5), false)],
                vec![(Some(4e8), Some(-1.0), false), (Some(2.0), Some(0.0), true)],
            ],
            [false, false],
        ),
        (
            any(rule(
                "r",
                Some(0.0),
                None,
                vec![limit("ttft_ms", Some(200.0), None), limit("output_tokens", None, Some(2.0))],
            )),
            [
                vec![(Some(100.0), Some(0.5), true), (Some(1.0), Some(-0.5), false)],
                vec![(Some(400.0), Some(-1.0), false), (Some(2.0), Some(0.0), true)],
            ],
            [true, true],
        ),
        // The one-token reply meets any TPOT, the one without an answer none.
        (
            rule("r", None, Some(0.5), vec![limit("ttft_ms", Some(500.0), None), limit("tpot_ms", Some(100.0), None)]),
            [vec![(Some(0.75), Some(0.25), true)], vec![(Some(0.5), Some(0.0), true)]],
            [true, true],
        ),
        (
            any(rule(
                "r",
                None,
                Some(1.0),
                vec![limit("ttft_ms", Some(120.0), None), limit("tpot_ms", Some(40.0), None)],
            )),
            [vec![(Some(0.75), Some(-0.25), false)], vec![(Some(0.0), Some(-1.0), false)]],
            [false, false],
        ),
        // Nobody of the class: nothing to praise.
        (
            class(rule("r", None, Some(0.5), vec![limit("ttft_ms", Some(500.0), None)]), "b"),
            [vec![(None, NONE, false)], vec![(Some(1.0), Some(0.5), true)]],
            [false, true],
        ),
        (
            class(rule("r", Some(1.0), None, vec![limit("ttft_ms", Some(500.0), None)]), "a"),
            [vec![(None, NONE, false)], vec![(Some(600.0), Some(-0.2), false)]],
            [false, false],
        ),
    ];
    for (rule, expect, pass) in cases {
        let shown = format!("{rule:?}");
        let (verdicts, _) = judged(&slo(vec![rule])).await;
        for (verdict, expect) in verdicts.iter().zip(&expect) {
            let close = |a: Option<f64>, b: Option<f64>| {
                a == b || a.zip(b).is_some_and(|(a, b)| (a - b).abs() < 1e-12 * b.abs().max(1.0))
            };
            let got = findings(verdict);
            let same = got.len() == expect.len()
                && got.iter().zip(expect).all(|(g, e)| close(g.0, e.0) && close(g.1, e.1) && g.2 == e.2);
            assert!(same, "{shown}: scenario {} has {got:?}", verdict.scenario);
        }
        assert_eq!(verdicts.iter().map(|v| v.pass).collect::<Vec<_>>(), pass, "{shown}");
    }
}

#[tokio::test]
async fn answers_are_readable() {
    let fast = rule("fast", Some(0.5), None, vec![limit("ttft_ms", Some(250.0), None)]);
    let most = rule("most", None, Some(0.75), vec![limit("e2e_ms", Some(700.0), None)]);
    let (verdicts, outcome) = judged(&slo(vec![fast.clone(), most])).await;
    assert_eq!((verdicts[0].margin, verdicts[0].worst), (Some(0.0), Some(1)));
    assert_eq!((verdicts[1].margin, verdicts[1].worst), (Some(-1.0), Some(0)));
    assert_eq!(outcome.violated, None);
    assert_eq!(
        outcome.answer,
        [
            "verdict: 1 of 2 scenarios meet fast, most",
            "  fast: met by 1 of 2: ttft_ms <= 250 at quantile 0.5",
            "  most: met by 1 of 2: e2e_ms <= 700 for 0.75 of the requests",
            "  fewest GPUs: scenario 0: 2 GPUs (deployment_replicas = 2, rate_rps = 4.0), margin +0.0%",
        ]
    );
    let strict = rule("strict", None, Some(0.9), vec![limit("tpot_ms", Some(100.0), None)]);
    let (_, outcome) = judged(&slo(vec![fast, strict])).await;
    assert_eq!(
        outcome.answer[3],
        "  closest: scenario 0: 2 GPUs (deployment_replicas = 2, rate_rps = 4.0), margin -15.0%"
    );
    assert_eq!(
        outcome.violated.unwrap(),
        "verdict: no scenario meets every rule; closest is scenario 0: 2 GPUs (deployment_replicas = 2, rate_rps = 4.0)\n  \
         rule    metric                 value    limit   margin\n  \
         fast    ttft_ms at 0.5         200.000  <= 250  +20.0%  met\n  \
         strict  fraction with tpot_ms  0.750    >= 0.9  -15.0%  violated"
    );
}

fn stages() -> Vec<Stage> {
    let nothing = Tree::new(TreeValue::Null, None);
    let simulate = Simulate {
        requests: Some(Ref(text("t"))),
        deployment: nothing,
        workload: None,
        measure: None,
        seed: None,
        sweep: None,
        calibration: None,
        routes: false,
        steps: false,
    };
    let other = slo(vec![]);
    vec![
        Stage { name: text("sim"), spec: StageSpec::Simulate(simulate) },
        Stage { name: text("other"), spec: StageSpec::Slo(other) },
    ]
}

fn found(slo: &Slo, schema: Option<Arc<Schema>>) -> Vec<(String, String)> {
    let name = "sim_requests".to_string();
    let tables = BTreeMap::from([(name.clone(), TableShape { name, schema })]);
    let stages = stages();
    let cx = CheckCx { stages: &stages, tables: &tables, seed: 0, project: Path::new(".") };
    slo.check("verdict", &cx).into_iter().map(|d| (d.message, d.help.unwrap_or_default())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let cx = run_cx(dir.path(), "verdict");
    let stage = slo(vec![
        rule("fast", Some(0.5), None, vec![limit("ttft_ms", Some(250.0), None), limit("e2e_ms", Some(1e4), None)]),
        rule("most", None, Some(0.75), vec![limit("e2e_ms", Some(700.0), None)]),
    ]);
    let out = cx.out.clone();
    let outcome = stage.run(cx).await.unwrap();
    assert!(outcome.answer[0].starts_with("verdict: 1 of 2") && outcome.violated.is_none());
    let tables = vec![
        ("p".to_string(), out.handle("verdict").unwrap()),
        ("p".to_string(), out.handle("verdict_rules").unwrap()),
    ];
    let engine = crate::query::Engine::open(dir.path(), tables, None, 2).await.unwrap();
    let rows = engine.rows("SELECT * FROM verdict").await.unwrap();
    assert_eq!(floats(&rows, "margin"), [Some(0.0), Some(-1.0)]);
    assert_eq!(floats(&rows, "rules_passed"), [Some(2.0), Some(0.0)]);
    let rows = engine.rows("SELECT * FROM verdict_rules WHERE scenario_id = 0").await.unwrap();
    assert_eq!(floats(&rows, "threshold"), [0.5, 0.5, 0.75].map(Some));
    assert_eq!(floats(&rows, "value"), [200.0, 425.0, 0.75].map(Some));
    assert_eq!(floats(&rows, "max"), [Some(250.0), Some(1e4), None]);
    assert_eq!(floats(&rows, "min"), [None, None, Some(0.75)]);
}

#[test]
fn problems_of_rules() {
    let good = || vec![limit("ttft_ms", Some(1.0), None)];
    let one = |r: Rule| slo(vec![r]);
    let mut both_lists = rule("r", Some(0.5), None, good());
    both_lists.any = good();
    let from = |name: &str| Slo { from: Ref(text(name)), ..one(rule("r", Some(0.5), None, good())) };
    let cases = [
        (one(rule("r", Some(0.5), None, good())), ""),
        (one(rule("r", Some(0.5), None, vec![limit("itl_ms_p99", Some(1.0), None)])), ""),
        (slo(vec![]), "there are no rules"),
        (from("other"), "`other` is not a `simulate` stage"),
        (from("sin"), "there is no stage `sin`"),
        (one(rule("r", None, None, good())), "rule `r` has neither `quantile` nor `fraction`"),
        (one(rule("r", Some(0.5), Some(0.5), good())), "rule `r` has both `quantile` and `fraction`"),
        (one(rule("r", Some(99.0), None, good())), "rule `r`: 99 is not from 0 to 1"),
        (one(rule("r", Some(0.5), None, vec![])), "rule `r` has no limits"),
        (one(both_lists), "rule `r` has both `all` and `any`"),
        (one(rule("r", Some(0.5), None, vec![limit("ttft_ms", None, None)])), "`ttft_ms` has no limit"),
        (
            one(rule("r", Some(0.5), None, vec![limit("ttft_ms", Some(1.0), Some(2.0))])),
            "`ttft_ms`: nothing is above 2 and below 1",
        ),
        (
            one(rule("r", Some(0.5), None, vec![limit("ttft_ms", Some(f64::NAN), None)])),
            "`ttft_ms`: a limit is a finite number",
        ),
        (one(rule("r", Some(0.5), None, vec![limit("ttft", Some(1.0), None)])), "there is no metric `ttft`"),
        (one(rule("r", Some(0.5), None, vec![limit("status", Some(1.0), None)])), "there is no metric `status`"),
        (
            slo(vec![rule("r", Some(0.5), None, good()), rule("r", Some(0.9), None, good())]),
            "there are two rules named `r`",
        ),
    ];
    for (slo, expect) in cases {
        for schema in [Some(requests().schema()), None] {
            let messages: Vec<String> = found(&slo, schema).into_iter().map(|f| f.0).collect();
            assert_eq!(messages.join("; "), expect);
        }
    }
    assert_eq!(found(&from("sin"), None)[0].1, "did you mean `sim`?");
    let near = one(rule("r", Some(0.5), None, vec![limit("tftt_ms", Some(1.0), None)]));
    assert_eq!(found(&near, Some(requests().schema()))[0].1, "did you mean `ttft_ms`?");
}

#[test]
fn recipes_hold_what_changes_rows() {
    let cx = CheckCx { stages: &[], tables: &BTreeMap::new(), seed: 0, project: Path::new(".") };
    let recipe = |max| slo(vec![rule("r", Some(0.5), None, vec![limit("ttft_ms", Some(max), None)])]).recipe(&cx);
    assert_ne!(recipe(1.0), recipe(2.0));
    let inputs = slo(vec![]).inputs().unwrap().into_iter().map(|t| t.value).collect::<Vec<_>>();
    assert_eq!(inputs, ["sim", "sim_requests"]);
}

#[tokio::test]
async fn only_measured_requests_are_judged() {
    let dir = tempfile::tempdir().unwrap();
    let all = requests();
    let at = all.schema().index_of("measured").unwrap();
    let mut columns = all.columns().to_vec();
    // Of the first scenario the second and the third request, of the second none.
    columns[at] = Arc::new(BooleanArray::from(vec![false, true, true, false, false, false]));
    let batch = RecordBatch::try_new(all.schema(), columns).unwrap();
    let tables = vec![store(dir.path(), "sim", &scenarios()), store(dir.path(), "sim_requests", &batch)];
    let half = rule("half", Some(0.5), None, vec![limit("ttft_ms", Some(300.0), None)]);
    let (verdicts, _) = judged_over(&slo(vec![half]), tables).await;
    assert_eq!(verdicts.len(), 2);
    assert_eq!(findings(&verdicts[0]), [(Some(200.0), Some(1.0 / 3.0), true)]);
    assert_eq!(findings(&verdicts[1]), [(None, NONE, false)]);
}

#[test]
fn metrics_are_columns_in_another_unit() {
    let cases = [
        ("ttft_ms", "ttft_ns", 1e6),
        ("itl_ms_p99", "itl_ns_p99", 1e6),
        ("ttft_ns", "ttft_ns", 1.0),
        ("preemptions", "preemptions", 1.0),
    ];
    for (name, column, divisor) in cases {
        let rules = [rule("r", Some(0.5), None, vec![limit(name, Some(1.0), None)])];
        let found = metrics(&rules);
        assert_eq!((found[0].columns[0].as_str(), found[0].divisor), (column, divisor), "{name}");
    }
}

#[test]
fn the_explorers_metrics_are_in_seconds_and_per_token() {
    let int = |values: [Option<i64>; 2]| Arc::new(Int64Array::from(values.to_vec())) as ArrayRef;
    let requests = RecordBatch::try_from_iter(vec![
        ("prefill_ns", int([Some(500_000_000), Some(1)])),
        ("decode_ns", int([Some(1_500_000_000), None])),
        ("output_tokens", int([Some(3), Some(1)])),
    ])
    .unwrap();
    let value = |name: &str| {
        let rules = [rule("r", Some(0.5), None, vec![limit(name, Some(1.0), None)])];
        let metric = metrics(&rules).remove(0);
        let values = metric.values(&requests).unwrap();
        [0, 1].map(|i| values.is_valid(i).then(|| values.value(i) / metric.divisor))
    };
    assert_eq!(value("decode_time_execution_plus_preemption_normalized"), [Some(0.5), None]);
    assert_eq!(value("request_execution_plus_preemption_time"), [Some(2.0), None]);
    assert_eq!(value("prefill_time_execution_plus_preemption"), [Some(0.5), Some(1e-9)]);
}

#[test]
fn a_cut_reply_is_an_answer() {
    let served = ["finished", "length_capped", "rejected", "timed_out", "cancelled", "in_flight"].map(super::served);
    assert_eq!(served, [true, true, false, false, false, false]);
}
