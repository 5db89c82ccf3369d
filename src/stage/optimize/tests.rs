//! Whole searches over a store in a temporary folder.

use arrow::array::AsArray;
use arrow::datatypes::Float64Type;

use crate::stage::simulate::tests::{Bench, ints};

const SEARCH: &str = "
  sim:
    simulate:
      requests: trace
      deployment: { gpu: h100-sxm }
      workload: { rate_rps: 20 }
      sweep: { grid: { deployment.model: [llama-3.1-8b, llama-3.1-70b] } }
  best:
    optimize:
      over: sim
      space:
        deployment.tp: [1, 2, 4, 8]
        deployment.scheduler.vllm_v1.max_num_seqs: { int: [4, 256], log: true }
        deployment.router: [round_robin, least_outstanding]
      where: deployment_tp * deployment_pp <= 4
      minimize: { ttft_ms_p99: \"quantile(ttft_ns, 0.99) / 1e6\", cost: gpus }
      maximize: { tps: \"output_tps + 0 * max(replica)\" }
      trials: 24
      sampler: { nsga2: { population: 6 } }
";

#[test]
fn a_search_finds_a_front_whatever_batch_and_threads() {
    let bench = Bench::new(120, true);
    assert_eq!(bench.check(SEARCH, "best"), []);
    let ran = bench.run(SEARCH, "best", 2).unwrap();
    let trials = ran.rows("best_trials");
    assert_eq!(ints(&trials, "trial"), (0..24).collect::<Vec<i64>>());
    assert!(ints(&trials, "deployment_tp").iter().all(|tp| *tp <= 4));
    let front = ran.rows("best");
    let cost = front.column_by_name("cost").unwrap().as_primitive::<Float64Type>().values().to_vec();
    let tps: Vec<i64> = ints(&front, "deployment_tp");
    assert_eq!(cost, tps.iter().map(|tp| *tp as f64).collect::<Vec<_>>());
    let ttft = front.column_by_name("ttft_ms_p99").unwrap().as_primitive::<Float64Type>().values().to_vec();
    assert!(ttft.is_sorted() && ttft[0] > 0.0, "{ttft:?}");
    let on_front = trials.column_by_name("on_front").unwrap().as_boolean();
    assert_eq!(on_front.true_count(), front.num_rows());
    let shapes = bench.tables(SEARCH, "best");
    assert_eq!(shapes[0].schema.as_ref().unwrap(), &front.schema());
    assert_eq!(shapes[1].schema.as_ref().unwrap(), &trials.schema());
    assert!(ran.outcome.answer[0].starts_with("best: 24 trials"), "{:?}", ran.outcome.answer);
    assert!(ran.outcome.answer[1].contains(" tp="), "{:?}", ran.outcome.answer);

    let other = SEARCH.replace("trials: 24", "trials: 24\n      batch: 3");
    let elsewhere = Bench::new(120, true);
    let again = elsewhere.run(&other, "best", 1).unwrap();
    assert_eq!(ran.hash("best_trials"), again.hash("best_trials"));
}

#[test]
fn a_stopped_search_goes_on() {
    let bench = Bench::new(120, true);
    assert!(bench.run_until(SEARCH, "best", 2, Some(9)).is_err());
    let resumed = bench.run(SEARCH, "best", 2).unwrap();
    let elsewhere = Bench::new(120, true);
    let fresh = elsewhere.run(SEARCH, "best", 2).unwrap();
    assert_eq!(resumed.hash("best_trials"), fresh.hash("best_trials"));
}

#[test]
fn one_objective_has_one_best() {
    let bench = Bench::new(60, true);
    let single = SEARCH.replace(", cost: gpus", "").replace("maximize: { tps: \"output_tps + 0 * max(replica)\" }", "");
    let ran = bench.run(&single, "best", 2).unwrap();
    assert_eq!(ran.rows("best").num_rows(), 1);
    assert_eq!(ran.outcome.answer.len(), 2);
}

#[test]
fn mistakes_have_a_place_and_a_remedy() {
    let bench = Bench::new(1, true);
    let case = |from: &str, to: &str| {
        let found = bench.check(&SEARCH.replace(from, to), "best");
        let told = |d: &crate::diag::Diagnostic| {
            let line = d.at.as_ref().map_or(0, |a| a.line);
            format!("{line}: {} | {}", d.message, d.help.clone().unwrap_or_default())
        };
        found.iter().map(told).collect::<Vec<_>>()
    };
    let column = case("quantile(ttft_ns", "quantile(ttft_nss");
    assert!(column.len() == 1 && column[0].starts_with("21: ") && column[0].contains("`ttft_ns`"), "{column:?}");
    let outside = case("quantile(ttft_ns, 0.99)", "ttft_ns");
    assert!(outside.len() == 1 && outside[0].contains("quantile(ttft_ns, 0.99)"), "{outside:?}");
    let text = case("cost: gpus", "cost: deployment_model");
    assert!(text.len() == 1 && text[0].contains("not a number"), "{text:?}");
    let path = case("deployment.router:", "deployment.ruoter:");
    assert!(path.len() == 1 && path[0].starts_with("19: ") && path[0].contains("deployment.router"), "{path:?}");
    let range = case("{ int: [4, 256], log: true }", "{ int: [8, 1] }");
    assert!(range.len() == 1 && range[0].starts_with("18: "), "{range:?}");
    let value = case("[round_robin, least_outstanding]", "[round_robin, least_outstandin]");
    assert!(value.len() == 1 && value[0].starts_with("19: "), "{value:?}");
    let stage = case("over: sim", "over: simm");
    assert!(stage.len() == 1 && stage[0].contains("did you mean `sim`?"), "{stage:?}");
    let none = case("deployment_tp * deployment_pp <= 4", "deployment_tp > 8");
    assert!(none.len() == 1 && none[0].contains("no point of the space"), "{none:?}");
}

#[test]
fn objectives_see_measured_requests_and_classes_are_searched() {
    let bench = Bench::new(100, true);
    let search = SEARCH
        .replace("workload: { rate_rps: 20 }", "workload: { rate_rps: 20 }\n      measure: { warmup_requests: 30 }")
        .replace("deployment.tp: [1, 2, 4, 8]", "workload.classes.chat.priority: { int: [0, 3] }")
        .replace("where: deployment_tp * deployment_pp <= 4", "where: classes_chat_priority <= 2")
        .replace("cost: gpus", "n: \"count(*)\"")
        .replace("trials: 24", "trials: 6");
    assert_eq!(bench.check(&search, "best"), []);
    let trials = bench.run(&search, "best", 1).unwrap().rows("best_trials");
    assert!(ints(&trials, "classes_chat_priority").iter().all(|p| *p <= 2));
    assert_eq!(trials.column_by_name("n").unwrap().as_primitive::<Float64Type>().values().to_vec(), [70.0; 6]);
}

#[test]
fn pools_are_searched_by_their_names() {
    let bench = Bench::new(20, true);
    let search = SEARCH
        .replace("{ gpu: h100-sxm }", "{ gpu: h100-sxm, pools: { big: { tp: 4, model: llama-3.1-70b } } }")
        .replace("deployment.tp: [1, 2, 4, 8]", "deployment.pools.small.replicas: { int: [1, 4] }")
        .replace("deployment.router: [round_robin, least_outstanding]", "deployment.pools.small.gpu: [h100-sxm, h200]")
        .replace("where: deployment_tp * deployment_pp <= 4", "where: deployment_pools_small_replicas >= 2")
        .replace("cost: gpus", "cost: \"deployment_pools_small_replicas + gpus\"")
        .replace("trials: 24", "trials: 8");
    assert_eq!(bench.check(&search, "best"), []);
    let trials = bench.run(&search, "best", 1).unwrap().rows("best_trials");
    let replicas = ints(&trials, "deployment_pools_small_replicas");
    assert!(replicas.iter().all(|n| *n >= 2), "{replicas:?}");
    // The other pool has one replica of four GPUs.
    let cost = trials.column_by_name("cost").unwrap().as_primitive::<Float64Type>().values().to_vec();
    assert_eq!(cost, replicas.iter().map(|n| (2 * n + 4) as f64).collect::<Vec<_>>());
    // Facts of every model and GPU that a trial may have are part of the recipe.
    let recipe = bench.recipe(&search, "best").to_string();
    for name in ["gpu h200-sxm", "gpu h100-sxm", "model meta-llama/Llama-3.1-70B", "model meta-llama/Llama-3.1-8B"] {
        assert!(recipe.contains(name), "{name}: {recipe}");
    }
    let wrong = bench.check(&search.replace("pools.small.gpu", "pools.small.gpus"), "best");
    assert_eq!(wrong[0].help.as_deref(), Some("did you mean `deployment.pools.small.gpu`?"), "{wrong:?}");
}
