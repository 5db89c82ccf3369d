//! Whole searches over a store in a temporary folder.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type};

use pipe_kernel::rng;

use crate::stage::simulate::tests::{Bench, Ran, ints};

const CAPACITY: &str = "
  capacity:
    search:
      requests: trace
      deployment: { model: llama-3.1-8b, gpu: h100-sxm }
      workload: { arrivals: poisson }
      sweep: { grid: { deployment.replicas: [1, 3], deployment.router: [round_robin, least_outstanding] } }
      find: { qps: { start: 8, tolerance: 0.05 } }
      slos:
        - { name: first, quantile: 0.99, all: [{ metric: ttft_ms, max: 60 }] }
        - { name: both, fraction: 0.9, all: [{ metric: prefill_e2e_time, max: 0.06 }, { metric: tpot_ms, max: 9 }] }
      prices: { h100: 2.5 }
";

fn floats(ran: &Ran, table: &str, column: &str) -> Vec<Option<f64>> {
    let rows = ran.rows(table);
    rows.column_by_name(column).unwrap().as_primitive::<Float64Type>().iter().collect()
}

fn texts(ran: &Ran, table: &str, column: &str) -> Vec<String> {
    let rows = ran.rows(table);
    rows.column_by_name(column).unwrap().as_string::<i32>().iter().map(|t| t.unwrap_or("").to_string()).collect()
}

#[test]
fn the_highest_load_passes_and_the_next_one_does_not() {
    let bench = Bench::new(400, true);
    assert_eq!(bench.check(CAPACITY, "capacity"), []);
    let ran = bench.run(CAPACITY, "capacity", 2).unwrap();
    let rows = ran.rows("capacity");
    assert_eq!(ints(&rows, "configuration_id"), [0, 0, 1, 1, 2, 2, 3, 3]);
    assert_eq!(texts(&ran, "capacity", "slo"), ["first", "both"].repeat(4));
    assert_eq!(texts(&ran, "capacity", "state"), ["found"; 8]);
    let shapes = bench.tables(CAPACITY, "capacity");
    for shape in &shapes {
        assert_eq!(shape.schema.as_ref().unwrap(), &ran.rows(&shape.name).schema(), "{}", shape.name);
    }
    // The same loads, simulated by themselves.
    let (values, failing) = (floats(&ran, "capacity", "value"), floats(&ran, "capacity", "failing"));
    for (at, limit) in [(0, 60.0), (2, 60.0), (4, 60.0), (6, 60.0)] {
        let (passes, fails) = (values[at].unwrap(), failing[at].unwrap());
        assert!(passes < fails && fails - passes <= 0.05 * fails, "{passes} {fails}");
        let alone = format!(
            "
  sim:
    simulate:
      requests: trace
      deployment: {{ model: llama-3.1-8b, gpu: h100-sxm, replicas: {}, router: {} }}
      workload: {{ arrivals: poisson }}
      sweep: {{ grid: {{ workload.rate_rps: [{passes}, {fails}] }} }}
",
            [1, 3][at / 4],
            ["round_robin", "least_outstanding"][at / 2 % 2]
        );
        let alone = bench.run(&alone, "sim", 1).unwrap();
        let ttft = floats(&alone, "sim", "ttft_ms_p99");
        assert!(ttft[0].unwrap() <= limit && limit < ttft[1].unwrap(), "{ttft:?}");
        // The same simulations: nothing is simulated again, and the answer's row has its figures.
        assert!(alone.outcome.answer[0].ends_with("2 reused"), "{:?}", alone.outcome.answer);
        assert_eq!(floats(&ran, "capacity", "ttft_ms_p99")[at], ttft[0]);
    }
    // What one SLO's search tried the other one's knows.
    let tried = ran.rows("capacity_sequence").num_rows();
    let probes = ran.rows("capacity_probes");
    assert!(probes.num_rows() < tried, "{} {tried}", probes.num_rows());
    let pairs: Vec<_> =
        ints(&probes, "configuration_id").into_iter().zip(floats(&ran, "capacity_probes", "value")).collect();
    assert!((1..pairs.len()).all(|i| !pairs[..i].contains(&pairs[i])), "{pairs:?}");
    // Prices and ranks.
    let per_usd = floats(&ran, "capacity", "qps_per_usd");
    let gpus = ints(&rows, "gpus");
    for (at, per_usd) in per_usd.iter().enumerate() {
        assert_eq!(*per_usd, Some(values[at].unwrap() / (2.5 * gpus[at] as f64)));
        let rank = ints(&rows, "rank")[at];
        let better = per_usd_of(&values, &gpus, at % 2).into_iter().filter(|x| *x > per_usd.unwrap()).count();
        assert_eq!(rank, 1 + better as i64);
    }
    // Threads change nothing; a run that was stopped goes on.
    let other = Bench::new(400, true);
    assert!(other.run_until(CAPACITY, "capacity", 2, Some(6)).is_err());
    let again = other.run(CAPACITY, "capacity", 1).unwrap();
    for table in ["capacity", "capacity_probes", "capacity_sequence"] {
        assert_eq!(ran.hash(table), again.hash(table), "{table}");
    }
}

fn per_usd_of(values: &[Option<f64>], gpus: &[i64], slo: usize) -> Vec<f64> {
    (0..values.len()).filter(|i| i % 2 == slo).map(|i| values[i].unwrap() / (2.5 * gpus[i] as f64)).collect()
}

#[test]
fn the_fewest_replicas_are_those_of_all_numbers() {
    let bench = Bench::new(400, true);
    let fewest = CAPACITY
        .replace("arrivals: poisson", "arrivals: poisson, rate_rps: 150")
        .replace("deployment.replicas: [1, 3], ", "")
        .replace("qps: { start: 8, tolerance: 0.05 }", "replicas: { start: 2, max: 16 }");
    assert_eq!(bench.check(&fewest, "capacity"), []);
    let ran = bench.run(&fewest, "capacity", 2).unwrap();
    let all = "
  sim:
    simulate:
      requests: trace
      deployment: { model: llama-3.1-8b, gpu: h100-sxm }
      workload: { arrivals: poisson, rate_rps: 150 }
      sweep:
        grid:
          deployment.router: [round_robin, least_outstanding]
          deployment.replicas: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
";
    let all = bench.run(all, "sim", 2).unwrap();
    let ttft = floats(&all, "sim", "ttft_ms_p99");
    let found = floats(&ran, "capacity", "value");
    for (router, found) in [found[0], found[2]].into_iter().enumerate() {
        let of_router = &ttft[16 * router..16 * (router + 1)];
        let last_failure = of_router.iter().rposition(|t| t.unwrap() > 60.0).expect("one replica is not enough");
        assert_eq!(found, Some(last_failure as f64 + 2.0), "{of_router:?}");
        assert!(found.unwrap() > 1.0);
    }
    // The cheapest is the best where the load is given.
    assert_eq!(floats(&ran, "capacity", "qps")[0], Some(150.0));
    let usd = floats(&ran, "capacity", "usd_per_hour");
    assert_eq!(usd[0], found[0].map(|n| 2.5 * n));

    // No number of replicas makes a prompt faster than it is alone: the answer says how much is lacking.
    let ran = bench.run(&fewest.replace("max: 60", "max: 1"), "capacity", 2).unwrap();
    let margins = floats(&ran, "capacity_sequence", "margin");
    let of_first = texts(&ran, "capacity_sequence", "slo").into_iter().map(|slo| slo == "first");
    let of_first = margins.into_iter().zip(of_first).filter_map(|(margin, is)| margin.filter(|_| is));
    let lacking = of_first.map(|m| -100.0 * m).fold(f64::INFINITY, f64::min);
    let told = format!("no configuration meets it; the nearest misses it by {lacking:.1}% (`capacity_sequence`)");
    assert!(lacking > 0.0 && ran.outcome.answer.iter().any(|line| line.ends_with(&told)), "{:?}", ran.outcome.answer);
}

/// Two servers, Poisson arrivals, exponential service: the share of requests that wait longer than t is
/// C(2, a) exp(-(2 mu - lambda) t), with Erlang's C = a^2 / (2 + a) * 1 / (...) for two servers: a^2 / (2 + a).
#[test]
fn capacity_is_that_of_the_queueing_formula() {
    let n = 30_000;
    let stream = &mut rng::stream(5, "service");
    let tokens: Vec<i64> = (0..n).map(|_| (rng::exponential(stream, 10_000.0) as i64).max(1)).collect();
    let column = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
    let requests = RecordBatch::try_from_iter(vec![
        ("request_id", column((0..n).collect())),
        ("arrival_ns", column((0..n).map(|i| i * 1_000_000).collect())),
        ("input_tokens", column(vec![1; n as usize])),
        ("output_tokens", column(tokens)),
    ])
    .unwrap();
    let bench = Bench::of(&requests);
    let search = "
  capacity:
    search:
      requests: trace
      deployment:
        model: llama-3.1-8b
        gpu: h100-sxm
        max_model_len: 1000000
        allow_long_max_model_len: true
        scheduler: { exclusive: { servers: 2 } }
        latency: { rates: { prefill_tokens_per_s: 1e9, decode_tokens_per_s: 10000 } }
      workload: { arrivals: poisson }
      find: { qps: { start: 1, tolerance: 0.005 } }
      slos: [{ name: waits, fraction: 0.9, all: [{ metric: queue_ms, max: 1000 }] }]
";
    assert_eq!(bench.check(search, "capacity"), []);
    let ran = bench.run(search, "capacity", 2).unwrap();
    let found = floats(&ran, "capacity", "value")[0].unwrap();
    let waiting = |lambda: f64| lambda * lambda / (2.0 + lambda) * (-(2.0 - lambda)).exp();
    let (mut low, mut high) = (0.0, 2.0);
    while high - low > 1e-9 {
        let middle: f64 = (low + high) / 2.0;
        if waiting(middle) <= 0.1 { low = middle } else { high = middle }
    }
    assert!((found - low).abs() < 0.03 * low, "{found} against {low}");
}

#[test]
fn what_cannot_be_simulated_or_cannot_win_is_told() {
    let bench = Bench::new(200, true);
    let models = CAPACITY
        .replace("deployment.replicas: [1, 3], ", "deployment.tp: [1, 4], deployment.replicas: [1, 2], ")
        .replace("model: llama-3.1-8b", "model: llama-3.1-70b");
    assert_eq!(bench.check(&models, "capacity"), []);
    let ran = bench.run(&models, "capacity", 2).unwrap();
    let states = texts(&ran, "capacity", "state");
    assert_eq!(states[..8], vec!["impossible"; 8]);
    assert!(states[8..].iter().all(|s| s != "impossible"), "{states:?}");
    let reasons = texts(&ran, "capacity", "reason");
    assert!(reasons[0].contains("memory") || reasons[0].contains("fit"), "{}", reasons[0]);
    let rank = ran.rows("capacity");
    assert!(rank.column_by_name("rank").unwrap().as_primitive::<Int64Type>().is_null(0));
    assert!(ran.outcome.answer[0].contains("8 impossible"), "{:?}", ran.outcome.answer);
    // With none that can be simulated, it is a mistake.
    let none = models.replace("deployment.tp: [1, 4]", "deployment.tp: [1]");
    assert_eq!(bench.check(&none, "capacity")[0].code, "simulate::impossible");

    // Who cannot become the best any more is not searched to the end; the best stay who they are.
    let all = bench.run(CAPACITY, "capacity", 2).unwrap();
    let dropping = format!("{CAPACITY}      drop_hopeless: true\n");
    let fewer = bench.run(&dropping, "capacity", 2).unwrap();
    let best = |ran: &Ran| -> Vec<(i64, Option<f64>)> {
        let rows = ran.rows("capacity");
        let rank = rows.column_by_name("rank").unwrap().as_primitive::<Int64Type>().clone();
        let values = floats(ran, "capacity", "value");
        let ids = ints(&rows, "configuration_id");
        (0..rows.num_rows()).filter(|i| rank.is_valid(*i) && rank.value(*i) == 1).map(|i| (ids[i], values[i])).collect()
    };
    assert_eq!(best(&all), best(&fewer));
    assert!(texts(&fewer, "capacity", "state").contains(&"dropped".to_string()));
    assert!(fewer.rows("capacity_probes").num_rows() < all.rows("capacity_probes").num_rows());
}

#[test]
fn listed_loads_are_judged_as_they_are_and_replications_make_them_sure() {
    let bench = Bench::new(200, true);
    let iso = CAPACITY.replace("qps: { start: 8, tolerance: 0.05 }", "iso_qps: { qps: 16, multipliers: [1, 4] }");
    let iso = format!("{iso}      replications: 4\n      confidence: 0.9\n");
    assert_eq!(bench.check(&iso, "capacity"), []);
    let ran = bench.run(&iso, "capacity", 2).unwrap();
    let rows = ran.rows("capacity");
    assert_eq!(rows.num_rows(), 4 * 2 * 2);
    assert!(texts(&ran, "capacity", "state").iter().all(|s| s == "passes" || s == "fails"));
    let probes = ran.rows("capacity_probes");
    assert_eq!(ints(&probes, "replication"), [0, 1, 2, 3].repeat(8));
    assert_eq!(ints(&probes, "seed"), [7, 8, 9, 10].repeat(8));
    let (margin, low) = (floats(&ran, "capacity_sequence", "margin"), floats(&ran, "capacity_sequence", "margin_low"));
    let sequence = ran.rows("capacity_sequence");
    let pass = sequence.column_by_name("pass").unwrap().as_boolean();
    for (at, (margin, low)) in margin.iter().zip(&low).enumerate() {
        assert!(low <= margin, "{low:?} {margin:?}");
        assert_eq!(pass.value(at), low.unwrap() >= 0.0);
    }
    assert!(pass.has_true() && pass.has_false());
    assert!(margin.iter().zip(&low).any(|(margin, low)| low < margin), "replications must differ");
}

#[test]
fn a_search_takes_the_settings_of_a_simulation() {
    let bench = Bench::new(200, true);
    let over = "
  sim:
    simulate:
      requests: trace
      deployment: { model: llama-3.1-8b, gpu: h100-sxm }
      workload: { arrivals: poisson }
      sweep: { grid: { workload.rate_rps: [1, 2], deployment.replicas: [1, 3] } }
  capacity:
    search:
      over: sim
      find: { qps: { start: 8 } }
      slos: [{ name: first, quantile: 0.99, all: [{ metric: ttft_ms, max: 60 }] }]
";
    assert_eq!(bench.check(over, "capacity"), []);
    let ran = bench.run(over, "capacity", 2).unwrap();
    assert_eq!(ints(&ran.rows("capacity"), "deployment_replicas"), [1, 3]);
    assert_ne!(bench.recipe(over, "capacity"), bench.recipe(&over.replace("[1, 3]", "[1, 2]"), "capacity"));
    assert_ne!(bench.recipe(over, "capacity"), bench.recipe(&over.replace("max: 60", "max: 61"), "capacity"));
    assert_eq!(bench.recipe(over, "capacity"), bench.recipe(&over.replace("[1, 2]", "[1, 4]"), "capacity"));
}

#[test]
fn mistakes_have_a_place_and_a_remedy() {
    let bench = Bench::new(20, true);
    let cases = [
        ("metric: ttft_ms, max: 60", "metric: ttft_s, max: 60", "there is no metric `ttft_s`"),
        (
            "start: 8",
            "start: 0",
            "`qps`: from 0.01 to 1000000, first 0; loads are above 0, and `min` is not above `max`",
        ),
        ("tolerance: 0.05", "tolerance: 1.5", "`tolerance` is 1.5; must be 0.000001 or more, and below 1"),
        (
            "start: 8",
            "path: deployment.router, start: 8",
            "`deployment.router` is no number, so there is no highest or lowest of it",
        ),
        ("h100: 2.5", "h100: -1", "the price of `h100` is -1; must be above 0, in US dollars of a GPU per hour"),
        (
            "prices: { h100: 2.5 }",
            "prices: { a100-80-sxm: 2 }\n      rank: qps_per_usd",
            "`rank` needs the price of h100-sxm",
        ),
        ("prices: { h100: 2.5 }", "replications: 0", "`replications` is 0; must be 1 to 1000"),
        ("prices: { h100: 2.5 }", "confidence: 1", "`confidence` is 1; must be above 0.5 and below 1"),
        ("requests: trace\n", "requests: trice\n", "there is no table `trice`"),
        ("requests: trace\n", "over: sim\n", "there is no stage `sim`"),
        ("deployment.router: [", "deployment.routr: [", "no setting `deployment.routr` in a scenario"),
    ];
    for (from, to, expect) in cases {
        assert!(CAPACITY.contains(from), "{from}");
        let found = bench.check(&CAPACITY.replace(from, to), "capacity");
        assert!(!found.is_empty() && found[0].message.starts_with(expect), "{to}: {found:?}");
        assert!(found[0].at.is_some(), "{found:?}");
    }
}

/// SLO, configuration, state, values tried, whether it is the best, and the answer.
type Answer = (String, i64, String, i64, bool, Option<f64>);

#[test]
fn what_cannot_win_even_at_its_peak_is_not_simulated() {
    let bench = Bench::new(400, true);
    let search = "
  capacity:
    search:
      requests: trace
      deployment: { model: llama-3.1-8b, gpu: h100-sxm, kv: { enable_prefix_caching: false } }
      workload: { arrivals: poisson }
      sweep: { grid: { deployment.gpu: [l40s, a100-80-sxm, h100-sxm, h200-sxm], deployment.tp: [1, 2] } }
      find: { qps: { start: 8, tolerance: 0.05 } }
      slos:
        - { name: whole, quantile: 0.95, all: [{ metric: e2e_ms, max: 2500 }] }
        - { name: first, fraction: 0.9, any: [{ metric: ttft_ms, max: 200 }, { metric: request_e2e_time, value: 3 }] }
      rank: qps
";
    let search = search.replace("value: 3", "max: 3");
    assert_eq!(bench.check(&search, "capacity"), []);
    let all = bench.run(&search, "capacity", 2).unwrap();
    let fewer = bench.run(&format!("{search}      drop_hopeless: true\n"), "capacity", 2).unwrap();
    let rows = |ran: &Ran| -> Vec<Answer> {
        let rows = ran.rows("capacity");
        let rank = rows.column_by_name("rank").unwrap().as_primitive::<Int64Type>().clone();
        let tried = ints(&rows, "values_tried");
        let id = ints(&rows, "configuration_id");
        let (slo, state, value) =
            (texts(ran, "capacity", "slo"), texts(ran, "capacity", "state"), floats(ran, "capacity", "value"));
        (0..rows.num_rows())
            .map(|i| {
                (slo[i].clone(), id[i], state[i].clone(), tried[i], rank.is_valid(i) && rank.value(i) == 1, value[i])
            })
            .collect()
    };
    let best = |rows: &[Answer]| rows.iter().filter(|r| r.4).map(|r| (r.0.clone(), r.1, r.5)).collect::<Vec<_>>();
    let (all, fewer) = (rows(&all), rows(&fewer));
    assert_eq!(best(&all), best(&fewer));
    let unseen = fewer.iter().filter(|r| r.2 == "dropped" && r.3 == 0).count();
    assert!(unseen > 0, "{fewer:?}");

    // What is found lies below what the hardware promises, everywhere.
    let sweep = "
  sim:
    simulate:
      requests: trace
      deployment: { model: llama-3.1-8b, gpu: h100-sxm, kv: { enable_prefix_caching: false } }
      workload: { arrivals: poisson }
      sweep: { grid: { deployment.gpu: [l40s, a100-80-sxm, h100-sxm, h200-sxm], deployment.tp: [1, 2] } }
";
    let pipeline = bench.pipeline(&search);
    let spec = pipeline.stages.iter().find_map(|s| match &s.spec {
        crate::spec::StageSpec::Search(search) => Some(search.slos.clone()),
        _ => None,
    });
    let workload = bench.workload().unwrap();
    let mut bounded = 0;
    for (id, scenario) in bench.scenarios(sweep, "sim").iter().enumerate() {
        for rule in spec.as_ref().unwrap() {
            let Some(at_best) = super::bound::highest_qps(scenario, &workload.requests, rule) else { continue };
            let found = all.iter().find(|r| r.0 == rule.name.value && r.1 == id as i64).unwrap();
            assert!(found.5.is_none_or(|value| value <= at_best), "{id} {}: {found:?} {at_best}", rule.name.value);
            bounded += 1;
        }
    }
    assert!(bounded >= 8, "{bounded}");
}
