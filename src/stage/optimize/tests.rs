//! Whole searches over a store in a temporary folder.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Float64Type;
use serde_json::Value;

use crate::stage::simulate::tests::{Bench, Ran, ints};

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
    for shape in &shapes {
        assert_eq!(shape.schema.as_ref().unwrap(), &ran.rows(&shape.name).schema(), "{}", shape.name);
    }
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
    assert!(
        ran.outcome.answer[0].ends_with("the best configuration:") && ran.outcome.answer[1].contains("(trial "),
        "{:?}",
        ran.outcome.answer
    );
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
    assert!(none.len() == 1 && none[0].starts_with("20: the rule `deployment_tp > 8` rejects every point"), "{none:?}");
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

fn floats(rows: &RecordBatch, column: &str) -> Vec<Option<f64>> {
    rows.column_by_name(column).unwrap().as_primitive::<Float64Type>().iter().collect()
}

fn texts(rows: &RecordBatch, column: &str) -> Vec<Option<String>> {
    rows.column_by_name(column).unwrap().as_string::<i32>().iter().map(|t| t.map(str::to_string)).collect()
}

fn states(rows: &RecordBatch) -> Vec<String> {
    texts(rows, "state").into_iter().flatten().collect()
}

fn study(ran: &Ran, stage: &str) -> Value {
    let path = ran.out.file(&format!("{stage}_study.json")).unwrap();
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

const MIXED: &str = "
  sim:
    simulate:
      requests: trace
      deployment: { gpu: h100-sxm, model: llama-3.1-8b }
      workload: { rate_rps: 20 }
  best:
    optimize:
      over: sim
      space:
        deployment.scheduler: [vllm_v1, { sglang: { schedule_policy: lpm } }]
        deployment.scheduler.vllm_v1.max_num_seqs: { int: [8, 256], log: true, when: { deployment.scheduler: vllm_v1 } }
        deployment.scheduler.sglang.page_size: { values: [1, 16, 64], unset: true, when: { deployment.scheduler: sglang } }
        deployment.tp: { values: [1, 2, 4, 8], ordered: true }
        deployment.replicas: { int: [1, 8] }
      where:
        few_gpus: deployment_tp * deployment_replicas <= 8
        no_small_pages: \"deployment_scheduler = 'vllm_v1' or deployment_scheduler_sglang_page_size is null or deployment_scheduler_sglang_page_size > 1\"
      minimize: { gpus_used: gpus, ttft: ttft_ms_p90 }
      subject_to: { few: \"gpus_used <= 4\", steady: \"tpot_ms_mean < 1000 and finished = requests\" }
      trials: 40
      sampler: { tpe: { startup: 10 } }
";

#[test]
fn rules_repair_conditions_hold_and_constraints_keep_off_the_front() {
    let bench = Bench::new(80, true);
    assert_eq!(bench.check(MIXED, "best"), []);
    let ran = bench.run(MIXED, "best", 2).unwrap();
    let trials = ran.rows("best_trials");
    assert_eq!(trials.num_rows(), 40);
    let gpus: Vec<i64> =
        ints(&trials, "deployment_tp").iter().zip(ints(&trials, "deployment_replicas")).map(|(a, b)| a * b).collect();
    assert!(gpus.iter().all(|g| *g <= 8), "{gpus:?}");
    // What depends on the scheduler is there where that one is, and unset pages are a value.
    let schedulers = texts(&trials, "deployment_scheduler");
    let seqs = trials.column_by_name("deployment_scheduler_vllm_v1_max_num_seqs").unwrap();
    let pages = trials
        .column_by_name("deployment_scheduler_sglang_page_size")
        .unwrap()
        .as_primitive::<arrow::datatypes::Int64Type>();
    let mut unset = 0;
    for (i, scheduler) in schedulers.iter().enumerate() {
        let vllm = scheduler.as_deref() == Some("vllm_v1");
        assert_eq!(seqs.is_null(i), !vllm, "{i}: {scheduler:?}");
        assert!(pages.is_null(i) || (!vllm && pages.value(i) > 1), "{i}");
        unset += usize::from(!vllm && pages.is_null(i));
    }
    assert!(unset > 0 && schedulers.iter().any(|s| s.as_deref() == Some("{\"sglang\":{\"schedule_policy\":\"lpm\"}}")));
    // Proposals that broke a rule: the raw one is kept, and what it broke.
    let repaired = trials.column_by_name("repaired").unwrap().as_boolean();
    let (raw, broken) = (texts(&trials, "raw"), texts(&trials, "rules_broken"));
    assert!(repaired.true_count() > 3);
    for i in 0..40 {
        assert_eq!((raw[i].is_some(), broken[i].is_some()), (repaired.value(i), repaired.value(i)), "{i}");
    }
    let rules = ran.rows("best_rules");
    assert_eq!(texts(&rules, "rule"), ["few_gpus", "no_small_pages", "can be simulated"].map(|t| Some(t.to_string())));
    let counted = broken.iter().flatten().filter(|b| b.contains("few_gpus")).count() as i64;
    assert!(ints(&rules, "broken")[0] == counted && counted > 0);
    // A trial is infeasible exactly where a condition is missed, by the share of the bound.
    let few = floats(&trials, "c_few");
    let state = states(&trials);
    assert!(state.iter().any(|s| s == "infeasible") && state.iter().any(|s| s == "complete"), "{state:?}");
    for i in 0..40 {
        assert_eq!(few[i], Some((gpus[i] as f64 - 4.0) / 4.0), "{i}");
        assert_eq!(state[i] == "infeasible", gpus[i] > 4, "{i}");
    }
    assert!(floats(&ran.rows("best"), "gpus_used").iter().all(|g| g.unwrap() <= 4.0));
    let study = study(&ran, "best");
    assert_eq!(study["n_trials"], 40);
    assert_eq!(study["pareto_front"].as_array().unwrap().len(), ran.rows("best").num_rows());
    assert!(
        study["pareto_front"][0]["ttft"].is_number()
            && study["pareto_front"][0]["parameters"]["deployment.tp"].is_number()
    );
    let history = ran.rows("best_history");
    let volume: Vec<f64> = floats(&history, "hypervolume").into_iter().flatten().collect();
    assert!(volume.is_sorted() && volume.len() > 10, "{volume:?}");
    let importance = ran.rows("best_importance");
    assert_eq!(importance.num_rows(), if state.iter().filter(|s| *s == "complete").count() >= 20 { 15 } else { 0 });

    // The same on one thread, and of what was pruned instead nothing is simulated.
    let elsewhere = Bench::new(80, true);
    let alone = elsewhere.run(MIXED, "best", 1).unwrap();
    assert_eq!(alone.hash("best_trials"), ran.hash("best_trials"));
    let pruned = MIXED.replace("trials: 40", "trials: 40\n      on_violation: prune");
    let pruned = bench.run(&pruned, "best", 2).unwrap().rows("best_trials");
    let illegal = states(&pruned).iter().filter(|s| *s == "illegal").count();
    let nothing = texts(&pruned, "scenario").iter().filter(|s| s.is_none()).count();
    assert!(illegal > 3 && illegal == nothing, "{illegal} {nothing}");
}

#[test]
fn more_trials_continue_a_search() {
    let bench = Bench::new(60, true);
    let short = MIXED.replace("trials: 40", "trials: 16");
    let first = texts(&bench.run(&short, "best", 2).unwrap().rows("best_trials"), "scenario");
    let second = texts(&bench.run(MIXED, "best", 2).unwrap().rows("best_trials"), "scenario");
    assert_eq!(first, second[..16]);
    let unique: std::collections::BTreeSet<_> = second.iter().collect();
    assert_eq!(unique.len(), 40);
}

#[test]
fn halving_prunes_and_what_is_complete_saw_everything() {
    let bench = Bench::new(240, true);
    let search = MIXED
        .replace(
            "trials: 40",
            "trials: 54\n      batch: 27\n      fidelity: { rungs: [0.1, 0.5, 1], least_requests: 20 }",
        )
        .replace("sampler: { tpe: { startup: 10 } }", "sampler: random")
        .replace("subject_to:", "subject_to: {} #");
    let ran = bench.run(&search, "best", 2).unwrap();
    let trials = ran.rows("best_trials");
    let (state, rungs, requests) = (states(&trials), ints(&trials, "rung"), ints(&trials, "requests"));
    for i in 0..54 {
        assert_eq!(requests[i], [24, 120, 240][rungs[i] as usize], "{i}");
        assert_eq!(state[i] == "complete", rungs[i] == 2, "{i}");
    }
    // A third climbs: 9 of 27, then 3; of the second batch fewer, where earlier trials dominate them.
    let at = |first: usize, rung: i64| (first..first + 27).filter(|&i| rungs[i] >= rung).count();
    assert_eq!((at(0, 1), at(0, 2)), (9, 3));
    assert!(at(27, 1) <= 9 && at(27, 2) <= 3, "{} {}", at(27, 1), at(27, 2));
    let elsewhere = Bench::new(240, true);
    let alone = elsewhere.run(&search, "best", 1).unwrap();
    assert_eq!(alone.hash("best_trials"), ran.hash("best_trials"));
}

#[test]
fn small_spaces_are_tried_out_and_standstill_ends_a_search() {
    let bench = Bench::new(40, true);
    let small = SEARCH
        .replace("        deployment.scheduler.vllm_v1.max_num_seqs: { int: [4, 256], log: true }\n", "")
        .replace("sampler: { nsga2: { population: 6 } }", "sampler: auto");
    let ran = bench.run(&small, "best", 2).unwrap();
    // Of four sizes one is against the rule, one does not fit the memory... what is left, with two routers.
    let trials = ran.rows("best_trials");
    assert!(
        trials.num_rows() <= 6 && ran.outcome.answer[0].contains("no other point is left"),
        "{:?}",
        ran.outcome.answer
    );
    assert!(ran.outcome.answer.iter().any(|line| line.contains("sampler: grid")), "{:?}", ran.outcome.answer);
    let still = MIXED.replace("trials: 40", "trials: 200\n      stop: { stagnation: { trials: 12, eps: 0.5 } }");
    let ran = bench.run(&still, "best", 2).unwrap();
    let rows = ran.rows("best_trials").num_rows();
    assert!(rows < 200 && ran.outcome.answer[0].contains("nothing got better"), "{rows} {:?}", ran.outcome.answer);
    let volume = floats(&ran.rows("best_history"), "hypervolume");
    let (last, then) = (volume[rows - 1].unwrap(), volume[rows - 13].unwrap());
    assert!(last - then <= 0.5 * last);
}

#[test]
fn the_front_is_replicated_with_common_seeds() {
    let bench = Bench::new(60, true);
    let search = MIXED
        .replace("workload: { rate_rps: 20 }", "workload: { rate_rps: 20, arrivals: poisson }")
        .replace("trials: 40", "trials: 20\n      replications: 4");
    let ran = bench.run(&search, "best", 2).unwrap();
    let (front, intervals) = (ran.rows("best"), ran.rows("best_intervals"));
    assert_eq!(intervals.num_rows(), 2 * front.num_rows());
    let (low, mean, high) = (floats(&intervals, "low"), floats(&intervals, "mean"), floats(&intervals, "high"));
    let names = texts(&intervals, "objective");
    let mut wide = 0;
    for i in 0..intervals.num_rows() {
        assert!(low[i] <= mean[i] && mean[i] <= high[i]);
        let is_gpus = names[i].as_deref() == Some("gpus_used");
        assert!(!is_gpus || low[i] == high[i], "the number of GPUs is not luck");
        wide += usize::from(low[i] < high[i]);
    }
    assert!(wide > 0);
    let (own, best) = (ints(&intervals, "trial"), ints(&intervals, "best_trial"));
    let difference = floats(&intervals, "difference");
    assert!((0..own.len()).all(|i| difference[i].unwrap() >= 0.0 && (own[i] != best[i] || difference[i] == Some(0.0))));
    // Seeds differ where they are not common.
    let seeds = |search: &str| {
        let trials = bench.run(search, "best", 2).unwrap().rows("best_trials");
        ints(&trials, "seed").into_iter().collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!(seeds(&search), 1);
    assert_eq!(seeds(&search.replace("replications: 4", "common_random_numbers: false")), 20);
}

#[test]
fn costs_and_energy_can_be_asked_for() {
    let bench = Bench::new(40, true);
    let search = MIXED
        .replace("gpus_used: gpus,", "usd: usd_per_hour, energy: energy_wh,")
        .replace("trials: 40", "trials: 6\n      prices: { h100-sxm: 2.5 }")
        .replace("subject_to:", "subject_to: {} #");
    let ran = bench.run(&search, "best", 1).unwrap().rows("best_trials");
    let gpus: Vec<i64> =
        ints(&ran, "deployment_tp").iter().zip(ints(&ran, "deployment_replicas")).map(|(a, b)| a * b).collect();
    let (usd, energy, seconds) = (floats(&ran, "usd"), floats(&ran, "energy"), floats(&ran, "seconds"));
    for i in 0..6 {
        assert_eq!(usd[i], Some(2.5 * gpus[i] as f64));
        // Between idle (15 % of 700 W) and board power all the time.
        let full = gpus[i] as f64 * 700.0 * seconds[i].unwrap() / 3600.0;
        let energy = energy[i].unwrap();
        assert!(energy > 0.15 * full && energy <= full * (1.0 + 1e-12), "{energy} {full}");
    }
    let unknown = bench.check(&search.replace("h100-sxm: 2.5", "h100-smx: 2.5"), "best");
    assert!(unknown.len() == 1 && unknown[0].help.as_deref().unwrap_or("").contains("h100-sxm"), "{unknown:?}");
}

#[test]
fn points_of_the_user_come_first_and_other_searches_are_learned_from() {
    let bench = Bench::new(40, true);
    let enqueue = "trials: 12\n      enqueue:\n        - { deployment.tp: 4, deployment.replicas: 2 }\n        - { deployment.scheduler: vllm_v1 }\n";
    let first = bench.run(&MIXED.replace("trials: 40", enqueue), "best", 1).unwrap();
    let trials = first.rows("best_trials");
    assert_eq!(texts(&trials, "origin")[..2], ["enqueued", "enqueued"].map(|t| Some(t.to_string())));
    assert_eq!((ints(&trials, "deployment_tp")[0], ints(&trials, "deployment_replicas")[0]), (4, 2));
    let wrong = bench.check(&MIXED.replace("trials: 40", "trials: 4\n      enqueue: [{ deployment.tp: 3 }]"), "best");
    assert!(wrong.len() == 1 && wrong[0].message.contains("has no value 3"), "{wrong:?}");

    let other = first.out.handle("best_trials").unwrap();
    let with = |results: bool| {
        let search =
            MIXED.replace("trials: 40", &format!("trials: 5\n      known: {{ table: others, results: {results} }}"));
        bench.run_with(&search, "best", &[("others", other.clone())]).unwrap().rows("best_trials")
    };
    let learned = with(true);
    assert_eq!(learned.num_rows(), 17);
    assert!(texts(&learned, "origin")[..12].iter().all(|o| o.as_deref() == Some("imported")));
    assert_eq!(floats(&learned, "ttft")[..12], floats(&trials, "ttft")[..]);
    assert_eq!(states(&learned)[..12], states(&trials)[..]);
    let tried = with(false);
    assert_eq!(tried.num_rows(), 5);
    assert_eq!(texts(&tried, "scenario"), texts(&trials, "scenario")[..5]);
}

#[test]
fn a_study_goes_to_optuna_and_comes_back() {
    let bench = Bench::new(40, true);
    let search = MIXED.replace("trials: 40", "trials: 14\n      optuna: true");
    let first = bench.run(&search, "best", 1).unwrap();
    let journal = first.out.file("best_optuna.log").unwrap();
    let text = std::fs::read_to_string(&journal).unwrap();
    // A study, its objectives, and a line per trial, of JSON all of them.
    assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    let back = MIXED.replace(
        "trials: 40",
        &format!("trials: 3\n      known: {{ optuna: {}, study: best, results: true }}", journal.display()),
    );
    assert_eq!(bench.check(&back, "best"), []);
    let second = bench.run(&back, "best", 1).unwrap();
    assert!(second.warnings.iter().all(|w| !w.contains("known")), "{:?}", second.warnings);
    let (before, after) = (first.rows("best_trials"), second.rows("best_trials"));
    assert_eq!(after.num_rows(), 17);
    for column in ["ttft", "gpus_used", "violation"] {
        let close = |(a, b): (&Option<f64>, &Option<f64>)| (a.unwrap() - b.unwrap()).abs() <= 1e-12 * a.unwrap().abs();
        assert!(floats(&before, column).iter().zip(&floats(&after, column)[..14]).all(close), "{column}");
    }
    assert_eq!(states(&before), states(&after)[..14]);
    assert_eq!(texts(&before, "deployment_scheduler"), texts(&after, "deployment_scheduler")[..14]);
    let other = back
        .replace("minimize: { gpus_used: gpus, ttft: ttft_ms_p90 }", "minimize: { ttft: ttft_ms_p90 }")
        .replace("gpus_used <= 4", "gpus <= 4");
    let failure = bench.run(&other, "best", 1).err().unwrap().to_string();
    assert!(failure.contains("minimize gpus_used") && failure.contains("this one: minimize ttft"), "{failure}");
}

#[test]
fn trials_that_fail_have_a_reason_and_are_no_others() {
    // Blocks of 32 tokens do not fit hashes of 48: the settings alone do not tell.
    let bench = Bench::new(30, true).rows_with_hashes(48);
    let search = MIXED
        .replace("deployment.tp: { values: [1, 2, 4, 8], ordered: true }", "deployment.kv.block_size: [16, 32]")
        .replace("few_gpus: deployment_tp * deployment_replicas <= 8\n        ", "")
        .replace("trials: 40", "trials: 16");
    assert_eq!(bench.check(&search, "best"), []);
    let ran = bench.run(&search, "best", 2).unwrap();
    let trials = ran.rows("best_trials");
    let (blocks, state, error) = (ints(&trials, "deployment_kv_block_size"), states(&trials), texts(&trials, "error"));
    let schedulers = texts(&trials, "deployment_scheduler");
    let mut failed = 0;
    for i in 0..16 {
        // SGLang has pages in place of blocks.
        if schedulers[i].as_deref() == Some("vllm_v1") {
            assert_eq!(state[i] == "failed", blocks[i] == 32, "{i}: {:?}", error[i]);
        }
        assert_eq!(error[i].as_deref().is_some_and(|e| e.contains("48")), state[i] == "failed", "{i}: {:?}", error[i]);
        failed += usize::from(state[i] == "failed");
    }
    assert!(failed > 0 && ran.outcome.answer[0].contains(&format!("{failed} failed")), "{:?}", ran.outcome.answer);
    let none =
        search.replace("[16, 32]", "[32]").replace("[vllm_v1, { sglang: { schedule_policy: lpm } }]", "[vllm_v1]");
    let none = none.replace("        deployment.scheduler.sglang.page_size: { values: [1, 16, 64], unset: true, when: { deployment.scheduler: sglang } }\n", "");
    let none = none.replace("        no_small_pages: \"deployment_scheduler = 'vllm_v1' or deployment_scheduler_sglang_page_size is null or deployment_scheduler_sglang_page_size > 1\"\n", "        all: gpus > 0\n");
    let failure = bench.run(&none, "best", 1).err().unwrap().to_string();
    assert!(failure.contains("all 16 trials failed") && failure.contains("48"), "{failure}");
}
