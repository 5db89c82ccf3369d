//! Whole calibrations over a store in a temporary folder, of measurements made with known coefficients.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Float64Type, Int64Type};

use crate::stage::simulate::tests::{Bench, Ran};

/// Made with these, in microseconds.
const TRUE: &str = "{ base_us: 6000, per_prefill_token_us: 20, per_decode_token_us: 60 }";

const STAGES: &str = "
  sim:
    simulate:
      requests: trace
      deployment: { model: llama-3.1-8b, gpu: h100-sxm, latency: { linear: LINEAR } }
  fit:
    calibrate:
      requests:
        over: sim
        cases: CASES
        parameters:
          deployment.latency.linear.base_us: [1000, 20000]
          deployment.latency.linear.per_prefill_token_us: { bounds: [1, 100], log: true }
          deployment.latency.linear.per_decode_token_us: { bounds: [0, 1], scaling: 200 }
        trials: 500
";

fn stages(linear: &str, cases: &str) -> String {
    STAGES.replace("LINEAR", linear).replace("CASES", cases)
}

fn floats(ran: &Ran, table: &str, column: &str) -> Vec<Option<f64>> {
    ran.rows(table).column_by_name(column).unwrap().as_primitive::<Float64Type>().iter().collect()
}

fn texts(ran: &Ran, table: &str, column: &str) -> Vec<String> {
    let rows = ran.rows(table);
    rows.column_by_name(column).unwrap().as_string::<i32>().iter().map(|t| t.unwrap().to_string()).collect()
}

/// A log of a benchmark as vLLM prints it, of the requests of a simulation.
fn log(bench: &Bench, workload: &str) -> String {
    let linear = TRUE.to_string();
    let measured =
        stages(&linear, "[]").replace("      deployment:", &format!("      workload: {workload}\n      deployment:"));
    let ran = bench.run(&measured, "sim", 2).unwrap();
    let rows = ran.rows("sim_requests");
    let list = |name: &str| {
        let column = rows.column_by_name(name).unwrap().as_primitive::<Int64Type>();
        column.iter().flatten().map(|ns| format!("{:.9}", ns as f64 / 1e9)).collect::<Vec<_>>().join(", ")
    };
    format!("TTFTs: [{}]\nTPOTs: [{}]\ne2els: [{}]\n", list("ttft_ns"), list("tpot_ns"), list("e2e_ns"))
}

#[test]
fn a_search_finds_the_coefficients_that_made_the_logs() {
    let bench = Bench::new(60, true);
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let slow = write("slow.txt", &log(&bench, "{ rate_rps: 5 }"));
    let fast = write("fast.txt", &log(&bench, "{ rate_rps: 40 }"));
    let held = write("held.txt", &log(&bench, "{ rate_rps: 20 }"));
    let cases = format!(
        "[{{ name: slow, log: '{slow}', set: {{ workload.rate_rps: 5 }} }}, \
          {{ name: fast, log: '{fast}', set: {{ workload.rate_rps: 40 }} }}, \
          {{ name: held, log: '{held}', set: {{ workload.rate_rps: 20 }}, role: test }}]"
    );
    let guess = "{ base_us: 1, per_prefill_token_us: 1, per_decode_token_us: 1 }";
    let text = stages(guess, &cases);
    assert_eq!(bench.check(&text, "fit"), []);
    let ran = bench.run(&text, "fit", 2).unwrap();
    let found: Vec<f64> = floats(&ran, "fit", "value").into_iter().flatten().collect();
    // Few requests decode at once, so that the last is the least sure.
    for (value, (expect, share)) in found.iter().zip([(6000.0, 0.01), (20.0, 0.02), (60.0, 0.08)]) {
        assert!((value / expect - 1.0).abs() < share, "{found:?}");
    }
    assert_eq!(floats(&ran, "fit", "high"), [Some(20000.0), Some(100.0), Some(200.0)]);
    let trials = ran.rows("fit_trials");
    assert_eq!(trials.num_rows(), 500);
    let best: Vec<f64> = floats(&ran, "fit_trials", "best_error").into_iter().flatten().collect();
    assert!(best.is_sorted_by(|a, b| a >= b) && best[499] < 0.02, "{}", best[499]);
    // Eight features and their mean: of each case, and of all of a role.
    let cases = texts(&ran, "fit_errors", "case");
    assert_eq!(cases.len(), 9 * 5);
    assert_eq!(cases.iter().filter(|c| *c == "held").count(), 9);
    let errors = floats(&ran, "fit_errors", "error");
    let held = texts(&ran, "fit_errors", "role").iter().rposition(|r| r == "test").unwrap();
    assert!(errors[held].unwrap() < 0.03, "{errors:?}");
    let shapes = bench.tables(&text, "fit");
    for (shape, table) in shapes.iter().zip(["fit", "fit_errors", "fit_trials"]) {
        assert_eq!(shape.schema.as_ref().unwrap(), &ran.rows(table).schema(), "{table}");
    }
    assert!(ran.outcome.answer[0].contains("500 trials") && ran.outcome.answer[0].contains("on 1 held out"));

    // What was found is what a simulation with it has.
    let values: Vec<(String, f64)> = texts(&ran, "fit", "path").into_iter().zip(found).collect();
    assert_eq!(values[1].0, "deployment.latency.linear.per_prefill_token_us");

    // Neither batch nor threads change a trial.
    let again = bench.run(&text.replace("trials: 500", "trials: 500\n        batch: 3"), "fit", 1).unwrap();
    assert_eq!(again.hash("fit_trials"), ran.hash("fit_trials"));
    assert_eq!(again.hash("fit_errors"), ran.hash("fit_errors"));
}

#[test]
fn a_race_drops_trials_that_are_worse_beyond_chance_and_finds_the_same() {
    let bench = Bench::new(40, true);
    let folder = tempfile::tempdir().unwrap();
    let case = |i: i32| {
        let path = folder.path().join(format!("{i}.txt"));
        let rate = 5 * (i + 1);
        std::fs::write(&path, log(&bench, &format!("{{ rate_rps: {rate} }}"))).unwrap();
        format!("{{ log: '{}', set: {{ workload.rate_rps: {rate} }} }}", path.display())
    };
    let cases = format!("[{}]", (0..8).map(case).collect::<Vec<_>>().join(", "));
    let guess = "{ base_us: 1, per_prefill_token_us: 1, per_decode_token_us: 1 }";
    let text = stages(guess, &cases).replace("trials: 500", "trials: 240\n        racing: { block: 4, level: 0.1 }");
    assert_eq!(bench.check(&text, "fit"), []);
    let ran = bench.run(&text, "fit", 2).unwrap();
    let found: Vec<f64> = floats(&ran, "fit", "value").into_iter().flatten().collect();
    for (value, (expect, share)) in found.iter().zip([(6000.0, 0.05), (20.0, 0.05), (60.0, 0.2)]) {
        assert!((value / expect - 1.0).abs() < share, "{found:?}");
    }
    // Four cases say enough of most trials; what is dropped has no error of all.
    let errors = floats(&ran, "fit_trials", "error");
    let dropped = errors.iter().filter(|e| e.is_none()).count();
    assert!(dropped > 60 && dropped < 230, "{dropped}");
    let without = text.replace("\n        racing: { block: 4, level: 0.1 }", "");
    assert_ne!(bench.recipe(&text, "fit"), bench.recipe(&without, "fit"));
    let wrong = bench.check(&text.replace("level: 0.1", "level: 2"), "fit");
    assert!(wrong.len() == 1 && wrong[0].message.contains("level: a probability"), "{wrong:?}");
}

#[test]
fn published_aggregates_are_targets() {
    let bench = Bench::new(40, true);
    let cases = "[{ targets: { ttft_ms_mean: 25, tpot_ms_mean: 9 } }]";
    let text = stages("{ base_us: 1, per_prefill_token_us: 1, per_decode_token_us: 0 }", cases)
        .replace("trials: 500", "trials: 250");
    let ran = bench.run(&text, "fit", 2).unwrap();
    let errors = floats(&ran, "fit_errors", "fitted");
    assert!((errors[0].unwrap() / 25.0 - 1.0).abs() < 0.01 && (errors[1].unwrap() / 9.0 - 1.0).abs() < 0.01);
}

#[test]
fn lengths_that_do_not_fit_are_told_before_a_trial() {
    let bench = Bench::new(10, true);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.txt");
    let run = |n: usize, more: &str| {
        std::fs::write(&path, format!("TTFTs: {:?}\nTPOTs: {:?}\n", vec![0.02; n], vec![0.01; n])).unwrap();
        let cases = format!("[{{ name: one, log: '{}' }}]", path.display());
        let text = stages("{ base_us: 1, per_prefill_token_us: 1, per_decode_token_us: 1 }", &cases);
        bench.run(&text.replace("trials: 500", &format!("trials: 3{more}")), "fit", 2)
    };
    let failure = run(11, "").err().unwrap();
    assert!(
        failure.diagnostics[0].message.contains("one: 11 requests were measured, and 10 are simulated"),
        "{failure}"
    );
    assert!(failure.diagnostics[0].at.is_some());
    let ran = run(9, "").unwrap();
    assert!(ran.warnings[0].contains("9 requests were measured"), "{:?}", ran.warnings);
    let failure = run(9, "\n        objective: mse").err().unwrap();
    assert!(failure.diagnostics[0].message.contains("no request can be paired"), "{failure}");
    assert_eq!(run(10, "\n        objective: mse").unwrap().warnings, Vec::<String>::new());
}

#[test]
fn mistakes_have_a_place_and_a_remedy() {
    let bench = Bench::new(5, true);
    let good = stages(TRUE, "[{ targets: { ttft_ms_mean: 25 } }]");
    let case = |from: &str, to: &str| {
        let found = bench.check(&good.replace(from, to), "fit");
        let first = found.first().unwrap_or_else(|| panic!("{to}: nothing found"));
        assert!(first.at.is_some(), "{to}: {first:?}");
        format!("{} | {}", first.message, first.help.clone().unwrap_or_default())
    };
    assert_eq!(bench.check(&good, "fit"), []);
    for (from, to, expect) in [
        ("[1000, 20000]", "[20000, 1000]", "lower is not below the upper | write [1000, 20000]"),
        ("linear.base_us", "linear.base_su", "did you mean `deployment.latency.linear.base_us`"),
        ("deployment.latency.linear.base_us: [1000, 20000]", "deployment.model: [1, 2]", "is no number"),
        ("scaling: 200", "scaling: 0", "scaling"),
        ("log: true", "lag: true", "lag"),
        ("trials: 500", "trials: 0", "`trials` must be 1"),
        ("over: sim", "over: sin", "did you mean `sim`"),
        ("ttft_ms_mean: 25", "ttft_ms_maen: 25", "did you mean `ttft_ms_mean`"),
        ("ttft_ms_mean: 25", "ttft_ms_mean: 0", "above 0"),
        ("targets: { ttft_ms_mean: 25 }", "role: train", "one of `measured`, `log` and `targets`"),
        ("ttft_ms_mean: 25 }", "ttft_ms_mean: 25 }, role: test", "none to fit to"),
        ("ttft_ms_mean: 25 }", "ttft_ms_mean: 25 }, set: { deployment.tpp: 2 }", "did you mean `deployment.pp`"),
        ("[{ targets: { ttft_ms_mean: 25 } }]", "[]", "either `measured` or `cases`"),
        ("trials: 500", "trials: 5\n        sampler: { cma_es: { population: 2 } }", "at least 4"),
    ] {
        let told = case(from, to);
        assert!(told.contains(expect), "{to}: {told}");
    }
}

/// Steps of two machines, made with known coefficients.
fn steps(rows: usize) -> Bench {
    let decodes = |i: usize| (i * 7 % 64) as i64;
    let tokens = |i: usize| if i.is_multiple_of(3) { 0 } else { (i * 131 % 2048) as i64 };
    let ints = |f: &dyn Fn(usize) -> i64| Arc::new((0..rows).map(f).collect::<Int64Array>()) as ArrayRef;
    let us = |i: usize| {
        // What is off by turns is off by as much either way.
        let noise = if i.is_multiple_of(2) { 1.01 } else { 0.99 };
        (5000.0 + 20.0 * tokens(i) as f64 + 30.0 * decodes(i) as f64) * noise
    };
    let batch = RecordBatch::try_from_iter([
        ("machine", Arc::new((0..rows).map(|i| Some(format!("m{}", i % 5))).collect::<StringArray>()) as ArrayRef),
        ("latency_us", Arc::new((0..rows).map(|i| Some(us(i))).collect::<Float64Array>()) as ArrayRef),
        ("prefill_tokens", ints(&tokens)),
        ("prefill_requests", ints(&|i| i64::from(tokens(i) > 0))),
        ("prefill_context", ints(&|_| 0)),
        ("decode_requests", ints(&decodes)),
        ("decode_context", ints(&|i| decodes(i) * 500)),
    ]);
    Bench::of(&batch.unwrap())
}

const STEPS: &str = "
  fit:
    calibrate:
      steps: { from: trace, model: linear, split_by: machine }
";

#[test]
fn steps_give_coefficients_with_their_errors() {
    let bench = steps(400);
    assert_eq!(bench.check(STEPS, "fit"), []);
    let ran = bench.run(STEPS, "fit", 1).unwrap();
    let values: Vec<f64> = floats(&ran, "fit", "value").into_iter().flatten().collect();
    let errors: Vec<f64> = floats(&ran, "fit", "standard_error").into_iter().flatten().collect();
    assert_eq!(texts(&ran, "fit", "name"), ["base_us", "per_prefill_token_us", "per_decode_token_us"]);
    for ((value, error), expect) in values.iter().zip(&errors).zip([5000.0, 20.0, 30.0]) {
        assert!((value - expect).abs() < 4.0 * error && *error < 0.03 * expect, "{values:?} {errors:?}");
    }
    // Four of five machines to fit to, one held out: nothing of it among the others.
    let (roles, cases) = (texts(&ran, "fit_errors", "role"), texts(&ran, "fit_errors", "case"));
    let of = |role: &str| -> Vec<&String> {
        roles.iter().zip(&cases).filter(|(r, c)| *r == role && !c.is_empty()).map(|(_, c)| c).collect()
    };
    assert_eq!((of("train").len(), of("test").len()), (4, 1));
    assert!(!of("train").contains(&of("test")[0]));
    let totals = floats(&ran, "fit_errors", "error");
    assert!(totals.iter().flatten().all(|e| e.is_finite()), "{totals:?}");
    assert!((totals[0].unwrap() - 0.01).abs() < 0.002, "{totals:?}");
    assert!(ran.outcome.answer[0].contains("on 80 held out"), "{:?}", ran.outcome.answer);

    let named = STEPS.replace("split_by: machine", "split_by: machine, test: [m2, m3], weights: absolute");
    let ran = bench.run(&named, "fit", 1).unwrap();
    let test: Vec<String> =
        texts(&ran, "fit_errors", "case").into_iter().rev().filter(|c| !c.is_empty()).take(2).collect();
    assert_eq!(test, ["m3", "m2"]);
}

#[test]
fn the_polynomial_and_trained_models_are_fitted_alike() {
    let bench = steps(300);
    let terms = "terms: [intercept_us, sum_prefill_tokens_us, sum_decode_tokens_us, sum_decode_tokens_squared_us]";
    let text = STEPS.replace("linear, split_by: machine", &format!("regression, {terms}"));
    assert_eq!(bench.check(&text, "fit"), []);
    let ran = bench.run(&text, "fit", 1).unwrap();
    let by_name: Vec<(String, f64)> =
        texts(&ran, "fit", "path").into_iter().zip(floats(&ran, "fit", "value").into_iter().flatten()).collect();
    assert_eq!(by_name[0].0, "deployment.latency.regression.intercept_us");
    assert!((by_name[1].1 - 30.0).abs() < 3.0 && (by_name[2].1 - 20.0).abs() < 0.5, "{by_name:?}");

    // Every coefficient of a step is in the table: what is not fitted is 0 and not the published one.
    let over = "  sim:
    simulate: { requests: trace, deployment: { model: llama-3.1-8b, gpu: h100-sxm } }
";
    let text = format!("{over}{}", STEPS.replace("linear, split_by: machine", "trained_roofline, over: sim"));
    assert_eq!(bench.check(&text, "fit"), []);
    let ran = bench.run(&text, "fit", 1).unwrap();
    assert_eq!(texts(&ran, "fit", "name").len(), 6);
    // At peak, a prompt token of this model takes 14.1 us.
    let prefill = floats(&ran, "fit", "value")[texts(&ran, "fit", "name").iter().position(|n| n == "prefill").unwrap()];
    assert!((prefill.unwrap() - 20.0 / 14.1).abs() < 0.15, "{prefill:?}");
    assert!(bench.check(&STEPS.replace("linear, split", "cross_model, split"), "fit")[0].message.contains("`over`"));
}

#[test]
fn mistakes_of_steps_are_told() {
    let bench = steps(50);
    for (from, to, expect) in [
        ("split_by: machine", "train_share: 0.5", "`split_by`"),
        ("split_by: machine", "split_by: mashine", "mashine"),
        ("split_by: machine", "split_by: machine, train_share: 1.5", "below 1"),
        ("split_by: machine", "split_by: machine, test: [m1], train_share: 0.5", "exclude"),
        ("model: linear", "model: linear, terms: [base_u]", "did you mean `base_us`"),
    ] {
        let found = bench.check(&STEPS.replace(from, to), "fit");
        let told = format!("{:?}", found.first());
        assert!(told.contains(expect), "{to}: {told}");
    }
    let run = |to: &str| bench.run(&STEPS.replace("split_by: machine", to), "fit", 1).err().unwrap();
    assert!(run("split_by: machine, test: [m9]").diagnostics[0].message.contains("no step has `m9`"));
    assert!(run("split_by: prefill_context").diagnostics[0].message.contains("nothing can be held out"));
}
