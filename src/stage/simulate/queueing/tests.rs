//! Queueing stages over a store in a temporary folder.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, Int64Type};

use crate::diag::Exit;
use crate::stage::simulate::tests::{Bench, ints};

const SWEEP: &str = "
  sim:
    simulate:
      deployment:
        queueing: { sim_seconds: 100, warmup_seconds: 10 }
      sweep:
        grid:
          deployment.queueing.mode: [mono, disagg]
          deployment.queueing.arrival.rate_per_s: [1, 2.5]
        zip:
          deployment.queueing.cluster_mono.num_gpus: [2, 6]
          deployment.queueing.cluster_disagg.prefill_gpus: [1, 2]
          deployment.queueing.cluster_disagg.decode_gpus: [1, 4]
        where: \"gpus > 2 or deployment_queueing_mode = 'mono'\"
";

fn stage(settings: &str) -> String {
    format!("\n  sim:\n    simulate:\n      deployment: {settings}\n")
}

#[test]
fn a_sweep_gives_its_tables_in_order_whatever_the_threads() {
    let bench = Bench::new(1, true);
    assert_eq!(bench.check(SWEEP, "sim"), []);
    let ran = bench.run(SWEEP, "sim", 3).unwrap();
    let sim = ran.rows("sim");
    assert_eq!(ints(&sim, "scenario_id"), [0, 1, 2, 3, 4, 5]);
    assert_eq!(ints(&sim, "gpus"), [2, 6, 2, 6, 6, 6]);
    let texts = |name: &str| -> Vec<String> {
        sim.column_by_name(name).unwrap().as_string::<i32>().iter().map(|t| t.unwrap().to_string()).collect()
    };
    let modes = ["mono", "mono", "mono", "mono", "disagg", "disagg"];
    assert_eq!((texts("mode"), texts("deployment_queueing_mode")), (modes.map(String::from).into(), texts("mode")));
    assert_eq!(texts("deployment"), ["queueing"; 6]);
    let floats = |name: &str| sim.column_by_name(name).unwrap().as_primitive::<Float64Type>().clone();
    assert_eq!(floats("arrival_rate_per_s").values().to_vec(), [1.0, 1.0, 2.5, 2.5, 1.0, 2.5]);
    assert_eq!(floats("utilization_gpu").iter().filter(Option::is_some).count(), 4);
    assert_eq!(floats("occupancy_decode").iter().filter(Option::is_some).count(), 2);
    assert_eq!(floats("prompt_tokens_log_mu").values().to_vec(), [6.0; 6]);
    let shapes = bench.tables(SWEEP, "sim");
    assert_eq!(shapes.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["sim", "sim_requests"]);
    assert_eq!(shapes[0].schema.as_ref().unwrap(), &sim.schema());

    let requests = ran.rows("sim_requests");
    assert_eq!(shapes[1].schema.as_ref().unwrap(), &requests.schema());
    let ids: Vec<(i64, i64)> = ints(&requests, "scenario_id").into_iter().zip(ints(&requests, "request_id")).collect();
    assert!(ids.is_sorted());
    let of = |scenario: i64| ids.iter().filter(|(id, _)| *id == scenario).count() as i64;
    assert_eq!((0..6).map(of).collect::<Vec<_>>(), ints(&sim, "arrived_requests"));
    assert_eq!(ran.outcome.answer, [format!("sim: 6 scenarios, {} requests", ids.len())]);
    assert_eq!(ran.warnings, [""; 0]);

    let elsewhere = Bench::new(1, true);
    let again = elsewhere.run(SWEEP, "sim", 1).unwrap();
    assert_eq!(ran.hash("sim"), again.hash("sim"));
    assert_eq!(ran.hash("sim_requests"), again.hash("sim_requests"));
}

#[test]
fn rows_end_at_the_end_and_add_up_to_the_figures() {
    let bench = Bench::new(1, true);
    let text = stage("{ queueing: { sim_seconds: 40, warmup_seconds: 5, arrival: { rate_per_s: 6 } } }");
    let ran = bench.run(&text, "sim", 1).unwrap();
    let (sim, rows) = (ran.rows("sim"), ran.rows("sim_requests"));
    let times = |name: &str| rows.column_by_name(name).unwrap().as_primitive::<Int64Type>().clone();
    let end = 40_000_000_000;
    let mut missing = 0;
    let chain =
        ["arrival_ns", "prefill_start_ns", "prefill_end_ns", "decode_start_ns", "first_token_ns", "finished_ns"];
    for pair in chain.windows(2) {
        for (earlier, later) in times(pair[0]).iter().zip(&times(pair[1])) {
            assert!(
                later.is_none_or(|later| earlier.is_some_and(|earlier| earlier <= later && later < end)),
                "{pair:?}"
            );
        }
    }
    let status = rows.column_by_name("status").unwrap().as_string::<i32>();
    let measured = rows.column_by_name("measured").unwrap().as_boolean();
    let (first, finished, arrival) = (times("first_token_ns"), times("finished_ns"), times("arrival_ns"));
    let mut ttft = 0.0;
    for i in 0..rows.num_rows() {
        assert_eq!(status.value(i) == "finished", finished.is_valid(i));
        assert_eq!(measured.value(i), first.is_valid(i) && first.value(i) >= 5_000_000_000);
        missing += usize::from(first.is_null(i));
        ttft += if measured.value(i) { (first.value(i) - arrival.value(i)) as f64 / 1e9 } else { 0.0 };
    }
    assert!(missing > 0, "the load is too low to leave anybody waiting");
    let samples = ints(&sim, "num_samples")[0];
    assert_eq!(samples as usize, measured.true_count());
    assert_eq!(ints(&sim, "completed_requests")[0] as usize, rows.num_rows() - finished.null_count());
    let mean = sim.column_by_name("mean_ttft_s").unwrap().as_primitive::<Float64Type>().value(0);
    assert!((ttft / samples as f64 - mean).abs() < 1e-9);
}

#[test]
fn equal_scenarios_have_equal_recipes() {
    let bench = Bench::new(1, true);
    let recipe = |settings: &str| bench.recipe(&stage(settings), "sim");
    let all = recipe("queueing");
    assert_eq!(recipe("{ queueing: }"), all);
    assert_eq!(recipe("{ queueing: { random_seed: 42, prompt_tokens: { mode: log, mean: 6 } } }"), all);
    assert_eq!(all["base"]["deployment"]["queueing"]["output_tokens"]["sigma"], 1.0);
    assert_ne!(recipe("{ queueing: { random_seed: 43 } }"), all);
    let swept = |rates: &str| {
        let sweep = format!("      sweep: {{ grid: {{ deployment.queueing.arrival.rate_per_s: {rates} }} }}\n");
        bench.recipe(&format!("{}{sweep}", stage("queueing")), "sim")
    };
    assert_ne!(swept("[1, 2]"), swept("[1, 3]"));
    assert!(swept("[1, 2]")["base"]["deployment"]["queueing"]["arrival"]["rate_per_s"].is_null());
    // The same scenario, whatever it was written with.
    let scenario = |settings: &str| {
        let rows = Bench::new(1, true).run(&stage(settings), "sim", 1).unwrap().rows("sim");
        rows.column_by_name("scenario").unwrap().as_string::<i32>().value(0).to_string()
    };
    assert_eq!(scenario("queueing"), scenario("{ queueing: { prompt_tokens: { sigma: 1 } } }"));
    assert_ne!(scenario("queueing"), scenario("{ queueing: { random_seed: 0 } }"));
}

#[test]
fn the_sweep_alone_may_choose_it() {
    let bench = Bench::new(1, true);
    let text = stage("{}")
        + "      sweep: { list: [ { deployment.queueing.mode: mono }, { deployment.queueing.mode: disagg } ] }\n";
    let sim = bench.run(&text, "sim", 2).unwrap().rows("sim");
    assert_eq!(ints(&sim, "gpus"), [4, 4]);
}

#[test]
fn nothing_measured_is_null_and_said() {
    let bench = Bench::new(1, true);
    let text = stage("{ queueing: { sim_seconds: 1, warmup_seconds: 0.999999 } }");
    let ran = bench.run(&text, "sim", 1).unwrap();
    assert!(ran.rows("sim").column_by_name("p99_ttft_s").unwrap().is_null(0));
    assert_eq!(
        ran.warnings,
        ["1 scenario has no times to first token: no first token comes from the warm-up to the end"]
    );
}

#[test]
fn a_run_can_be_stopped() {
    let bench = Bench::new(1, true);
    let rates: Vec<String> = (1..=50).map(|r| r.to_string()).collect();
    let sweep = SWEEP.replace("[1, 2.5]", &format!("[{}]", rates.join(", ")));
    let stopped = bench.run_until(&sweep, "sim", 2, Some(3)).map(|_| ()).unwrap_err();
    assert_eq!(stopped.exit, Exit::Interrupted);
}

#[test]
fn problems_have_words_and_places() {
    let bench = Bench::new(1, true);
    let check = |text: &str| -> Vec<(String, String)> {
        let found = bench.check(text, "sim").into_iter();
        found
            .map(|d| (d.message, d.at.map_or_else(String::new, |at| format!("{}:{}", at.line - 6, at.column))))
            .collect()
    };
    let found =
        check(&stage("{ queueing: { warmup_seconds: 600, prompt_tokens: { mode: p50_p90, p50: 9, p90: 9 } } }"));
    assert_eq!(
        found,
        [
            (
                "`deployment.queueing.warmup_seconds` is 600, and the simulation ends at 600 s: nothing would be measured"
                    .to_string(),
                "3:49".to_string()
            ),
            ("`deployment.queueing.prompt_tokens.p90` is 9; must be above the median, 9".to_string(), "3:99".to_string()),
        ]
    );
    let swept =
        stage("queueing") + "      sweep: { grid: { deployment.queueing.cluster_disagg.decode_gpus: [0, 2] } }\n";
    let found = bench.check(&swept, "sim");
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].message,
        "`deployment.queueing.cluster_disagg.decode_gpus` is 0; mode `disagg` needs at least 1"
    );
    assert_eq!(found[0].at.as_ref().map(|at| (at.line - 6, at.column)), Some((4, 73)));
    assert!(found[0].help.as_ref().unwrap().contains("sweep.where"));
}
