//! Random small scenarios, on which the fast engine must equal the oracle in every row and keep every invariant.
//!
//! One seed is one scenario; a failure names its seed, and [`run`] with that seed repeats it.

mod draw;
mod invariants;
mod reach;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::AtomicBool;

pub use draw::{ENGINES, Engine, SPECULATIVE, scenario, scenario_of, scenario_speculative};
pub use reach::Reach;

use super::latency::{Latency, Overheads};
use super::router::Router;
use super::scheduler::Scheduler;
use super::{Quirks, RequestRow, RouteRow, Sink, StepRow, Summary, reference, simulate_with};
use crate::pools::{Disaggregation, Signals};
use crate::profile::Supplied;
use crate::request::Requests;
use crate::scenario::{Deployment, Dtype, GpuSpec, KvCache, Load, Measure, ModelSpec, Scenario};
use crate::units::SimTime;

/// Keeps every row.
#[derive(Default, Debug, PartialEq)]
pub struct Rows {
    pub requests: Vec<RequestRow>,
    pub steps: Vec<StepRow>,
    pub routes: Vec<RouteRow>,
}

impl Sink for Rows {
    fn request(&mut self, row: RequestRow) {
        self.requests.push(row);
    }
    fn step(&mut self, row: StepRow) {
        self.steps.push(row);
    }
    fn wants_steps(&self) -> bool {
        true
    }
    fn route(&mut self, row: RouteRow) {
        self.routes.push(row);
    }
    fn wants_routes(&self) -> bool {
        true
    }
}

/// The same of somebody who does not ask for routes: the engines may be left alone for longer.
#[derive(Default)]
struct Unasked(Rows);

impl Sink for Unasked {
    fn request(&mut self, row: RequestRow) {
        self.0.requests.push(row);
    }
    fn step(&mut self, row: StepRow) {
        self.0.steps.push(row);
    }
    fn wants_steps(&self) -> bool {
        true
    }
}

/// Whether the engine says the same to somebody who does not ask for routes.
fn also_unasked(s: &Scenario, requests: &Requests, quirks: Quirks, fast: &Rows, known: &Summary) -> Result<(), String> {
    let mut unasked = Unasked::default();
    let summary = simulate_with(s, requests, &mut unasked, &AtomicBool::new(false), quirks)
        .map_err(|e| format!("without routes the engine says {e}"))?;
    let Unasked(rows) = unasked;
    let asked = Rows { requests: fast.requests.clone(), steps: fast.steps.clone(), routes: Vec::new() };
    difference(&rows, &asked, &summary, known).map_err(|e| format!("without routes (the first) and with them:\n{e}"))
}

/// Llama 3.1 8B, from its `config.json`.
pub fn llama_8b() -> ModelSpec {
    ModelSpec {
        layers: 32,
        hidden: 4096,
        intermediate: 14_336,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        vocab: 128_256,
        max_pos: 131_072,
        mlp_matrices: 3,
        tied_embeddings: false,
        experts: 0,
        top_k: 0,
        shared_experts: 0,
        moe_intermediate: 0,
        first_dense: 0,
        moe_every: 1,
        sliding_window: 0,
        window_layers: 0,
        linear_layers: 0,
        state_bytes: 0,
        kv_shared_layers: 0,
        other_params_b: 0.0,
        mla: None,
        params_b: 8.03,
        active_b: 8.03,
    }
}

/// H100 SXM with 80 GiB, dense peaks as in inference-sim's hardware table.
pub fn h100() -> GpuSpec {
    GpuSpec {
        bf16_tflops: 989.5,
        fp8_tflops: 1979.0,
        fp4_tflops: 0.0,
        int8_tops: 0.0,
        memory_gib: 80.0,
        visible_gib: 0.0,
        memory_tb_per_s: 3.35,
        nvlink_gb_per_s: 450.0,
        pcie_gb_per_s: 0.0,
        node_gb_per_s: 0.0,
        gpus_per_node: 0,
        mfu_prefill: 0.45,
        mfu_decode: 0.30,
        tdp_w: 700.0,
        idle_w: 0.0,
    }
}

/// One replica of Llama 3.1 8B on an H100, all defaults.
pub fn scenario_8b() -> Scenario {
    Scenario {
        deployment: Deployment {
            model: "llama-3.1-8b".to_string(),
            gpu: "h100-sxm".to_string(),
            replicas: 1,
            tp: 1,
            pp: 1,
            dp: 1,
            enable_expert_parallel: false,
            dtype: Dtype::Bf16,
            max_model_len: None,
            scheduler: Scheduler::default(),
            speculative: None,
            router: Router::RoundRobin,
            kv: KvCache::default(),
            latency: Latency::SimpleRoofline,
            overheads: Overheads::default(),
            encoder: None,
            tick: None,
            pools: BTreeMap::new(),
            disaggregation: Disaggregation::default(),
            signals: Signals::default(),
            lora: None,
        },
        model: llama_8b(),
        gpu: h100(),
        pools: Vec::new(),
        supplied: Supplied::default(),
        workload: Load::default(),
        measure: Measure::default(),
        seed: 42,
    }
}

/// Runs the scenario of a seed with both simulators, compares everything, and tells what the scenario reached.
///
/// # Errors
/// What differs, or which invariant does not hold.
pub fn run(seed: u64) -> Result<Reach, String> {
    let (reach, slow, summary) = run_oracle(seed)?;
    let (s, requests, quirks) = scenario(seed);
    let mut fast = Rows::default();
    let result = simulate_with(&s, &requests, &mut fast, &AtomicBool::new(false), quirks);
    let compared = match result {
        Ok(engine) => difference(&fast, &slow, &engine, &summary)
            .and_then(|()| also_unasked(&s, &requests, quirks, &fast, &engine)),
        Err(e) => Err(format!("the engine says {e}")),
    };
    compared.map_err(|e| format!("{}\n{e}", told(seed)))?;
    Ok(reach)
}

/// Runs the scenario of a seed for one of the other schedulers with both simulators, compares everything, and tells what
/// it reached.
///
/// # Errors
/// What differs, or which invariant does not hold.
pub fn run_engine(engine: &Engine, seed: u64) -> Result<Reach, String> {
    let (s, requests) = scenario_of(engine, seed);
    run_both(engine.name, seed, &s, &requests)
}

/// The same for the scenario of a seed with speculative decoding.
///
/// # Errors
/// What differs, or which invariant does not hold.
pub fn run_speculative(seed: u64) -> Result<Reach, String> {
    let (s, requests) = scenario_speculative(seed);
    run_both("speculative", seed, &s, &requests)
}

fn run_both(name: &str, seed: u64, s: &Scenario, requests: &Requests) -> Result<Reach, String> {
    let told = |e: String| format!("{name} seed {seed}: {:?} {:?}\n{e}", s.deployment, s.workload);
    let (mut fast, mut slow, go_on, quirks) =
        (Rows::default(), Rows::default(), AtomicBool::new(false), Quirks::default());
    let (oracle, seen) =
        reference::observe(s, requests, &mut slow, &go_on, quirks).map_err(|e| told(format!("the oracle says {e}")))?;
    invariants::check(s, requests, quirks, &slow, &oracle).map_err(told)?;
    let summary =
        simulate_with(s, requests, &mut fast, &go_on, quirks).map_err(|e| told(format!("the engine says {e}")))?;
    difference(&fast, &slow, &summary, &oracle).map_err(told)?;
    also_unasked(s, requests, quirks, &fast, &summary).map_err(told)?;
    Ok(Reach::of(s, requests, &slow, &oracle, seen))
}

/// Runs the scenario of a seed with the oracle alone.
///
/// # Errors
/// Which invariant does not hold.
pub fn run_oracle(seed: u64) -> Result<(Reach, Rows, Summary), String> {
    let (s, requests, quirks) = scenario(seed);
    let mut rows = Rows::default();
    let (summary, seen) = reference::observe(&s, &requests, &mut rows, &AtomicBool::new(false), quirks)
        .map_err(|e| format!("{}\nthe oracle says {e}", told(seed)))?;
    invariants::check(&s, &requests, quirks, &rows, &summary).map_err(|e| format!("{}\n{e}", told(seed)))?;
    Ok((Reach::of(&s, &requests, &rows, &summary, seen), rows, summary))
}

fn told(seed: u64) -> String {
    let (s, _, quirks) = scenario(seed);
    format!("seed {seed}: {:?} {:?} {quirks:?}", s.deployment, s.workload)
}

/// The first difference, in the order of time as far as rows tell.
fn difference(fast: &Rows, slow: &Rows, a: &Summary, b: &Summary) -> Result<(), String> {
    // What comes first is what the others follow from.
    let firsts = [
        first("route", &fast.routes, &slow.routes, |row| row.at),
        first("step", &fast.steps, &slow.steps, |row| row.start + row.duration),
        first("request row", &fast.requests, &slow.requests, ended),
    ];
    if let Some((_, message)) = firsts.into_iter().flatten().min_by_key(|(at, _)| *at) {
        return Err(message);
    }
    if fast != slow || a != b {
        let count = |rows: &Rows| (rows.routes.len(), rows.steps.len(), rows.requests.len());
        return Err(format!("rows {:?} and {:?}\nfast {a:?}\nslow {b:?}", count(fast), count(slow)));
    }
    Ok(())
}

/// The last time that a row tells.
fn ended(row: &RequestRow) -> SimTime {
    let times = [row.encoded, row.queued, row.scheduled, row.prefilled, row.kv_ready, row.first_token, row.finished];
    times.into_iter().flatten().max().unwrap_or(row.arrival)
}

/// The first two rows that differ, and the time of the earlier one.
fn first<T: PartialEq + Debug>(
    what: &str,
    fast: &[T],
    slow: &[T],
    time: fn(&T) -> SimTime,
) -> Option<(SimTime, String)> {
    let (at, (f, r)) = fast.iter().zip(slow).enumerate().find(|(_, (f, r))| f != r)?;
    Some((time(f).min(time(r)), format!("{what} {at}\nfast {f:?}\nslow {r:?}")))
}

/// Runs the scenarios of `seeds` and counts what they reached.
///
/// # Errors
/// As [`run`], at the first seed that fails.
pub fn run_all(seeds: std::ops::Range<u64>) -> Result<Reach, String> {
    let mut reach = Reach::default();
    for seed in seeds {
        reach.add(&run(seed)?);
    }
    Ok(reach)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Requests;
    use crate::rng;
    use crate::sim::latency::{BatchShape, LatencyModel};
    use crate::sim::{Parts, simulate_of};
    use crate::units::SimDuration;

    /// Seeds that told of mistakes in the fast engine once.
    const TOLD: [u64; 8] = [1860, 5869, 9312, 12_248, 16_798, 21_639, 22_842, 27_954];

    #[test]
    fn what_was_wrong_once_is_right() {
        for seed in TOLD {
            run(seed).unwrap_or_else(|e| panic!("{e}"));
        }
    }

    /// A step that is as long as every number of its batch says.
    struct Hashed;

    impl LatencyModel for Hashed {
        fn wants_spread(&self) -> bool {
            true
        }

        fn step(&self, s: &BatchShape) -> SimDuration {
            let BatchShape {
                decode_requests,
                decode_context,
                decode_context_min,
                decode_context_max,
                prefill_requests,
                prefill_tokens,
                prefill_context,
                prefill_tokens_x_context,
                prefill_tokens_squared,
                prefill_tokens_x_input,
                prefill_tokens_max,
                prefill_context_pages,
            } = *s;
            let numbers = [
                decode_requests,
                decode_context,
                decode_context_min,
                decode_context_max,
                prefill_requests,
                prefill_tokens,
                prefill_context,
                prefill_tokens_x_context,
                prefill_tokens_squared,
                prefill_tokens_x_input,
                prefill_tokens_max,
                prefill_context_pages,
            ];
            let hash = numbers.iter().fold(0, |hash, number| rng::mix64(hash ^ *number));
            SimDuration((hash % 8_000_000) as i64)
        }
    }

    /// Both simulators with steps like that; what differs.
    fn hashed(s: &Scenario, requests: &Requests, quirks: Quirks) -> Result<(), String> {
        let (mut fast, mut slow, go_on) = (Rows::default(), Rows::default(), AtomicBool::new(false));
        let models = s.sites().iter().map(|_| Box::new(Hashed) as Box<dyn LatencyModel>).collect();
        let parts = Parts { quirks, models, ..Parts::default() };
        let engine = simulate_of(s, requests, &mut fast, &go_on, parts).unwrap();
        let oracle = reference::observe_of(s, requests, &mut slow, &go_on, quirks, |_| Ok(Box::new(Hashed))).unwrap().0;
        difference(&fast, &slow, &engine, &oracle)
    }

    #[test]
    fn every_number_of_a_batch_is_the_same() {
        let mut compared = 0;
        for seed in 0..600 {
            let (s, requests, quirks) = scenario(seed);
            if s.sites().iter().any(|site| matches!(site.deployment.scheduler, Scheduler::Exclusive(_))) {
                continue;
            }
            hashed(&s, &requests, quirks).unwrap_or_else(|e| panic!("{}\n{e}", told(seed)));
            compared += 1;
        }
        assert!(compared > 400, "{compared}");
    }

    #[test]
    fn every_number_of_a_batch_of_the_other_engines_is_the_same() {
        for engine in ENGINES.iter().filter(|engine| !engine.rules.is_empty()) {
            for seed in 0..100 {
                let (s, requests) = scenario_of(engine, seed);
                hashed(&s, &requests, Quirks::default())
                    .unwrap_or_else(|e| panic!("{} seed {seed}: {:?}\n{e}", engine.name, s.deployment));
            }
        }
    }

    /// Every scheduler, and every rule of it in some scenario.
    #[test]
    fn the_other_engines_equal_their_oracles() {
        for engine in ENGINES.iter().filter(|engine| !engine.rules.is_empty()) {
            let mut reach = Reach::default();
            for seed in 0..300 {
                match run_engine(engine, seed) {
                    Ok(one) => reach.add(&one),
                    Err(e) => panic!("{e}"),
                }
            }
            println!("{}\n{reach}", engine.name);
            for rule in engine.rules {
                let count = reach.fired.get(rule).copied().unwrap_or(0);
                assert!(count >= 2, "{}: only {count} of {} scenarios reached: {rule}", engine.name, reach.scenarios);
            }
        }
    }

    /// Drafts, and every rule about them in some scenario.
    #[test]
    fn speculation_equals_its_oracle() {
        let mut reach = Reach::default();
        for seed in 0..700 {
            match run_speculative(seed) {
                Ok(one) => reach.add(&one),
                Err(e) => panic!("{e}"),
            }
        }
        println!("{reach}");
        for rule in SPECULATIVE {
            let count = reach.fired.get(rule).copied().unwrap_or(0);
            assert!(count >= 4, "only {count} of {} scenarios reached: {rule}", reach.scenarios);
        }
    }

    #[test]
    fn the_engine_equals_the_oracle() {
        let reach = match run_all(0..400) {
            Ok(reach) => reach,
            Err(e) => panic!("{e}"),
        };
        // The scenarios reach what they are for.
        println!("{reach}");
        for (what, count) in reach.counts() {
            assert!(count >= 4, "only {count} of {} scenarios reached: {what}", reach.scenarios);
        }
    }
}
