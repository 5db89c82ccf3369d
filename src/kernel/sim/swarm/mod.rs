//! Random small scenarios, on which the fast engine must equal the oracle in every row and keep every invariant.
//!
//! One seed is one scenario; a failure names its seed, and [`run`] with that seed repeats it.

mod draw;
mod invariants;
mod reach;

use std::sync::atomic::AtomicBool;

pub use draw::scenario;
pub use reach::Reach;

use super::latency::Latency;
use super::router::Router;
use super::scheduler::Scheduler;
use super::{RequestRow, Sink, StepRow, Summary, reference, simulate_with};
use crate::scenario::{Deployment, Dtype, GpuSpec, KvCache, Load, Measure, ModelSpec, Scenario};

/// Keeps every row.
#[derive(Default, Debug, PartialEq)]
pub struct Rows {
    pub requests: Vec<RequestRow>,
    pub steps: Vec<StepRow>,
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
        memory_gib: 80.0,
        memory_tb_per_s: 3.35,
        nvlink_gb_per_s: 450.0,
        mfu_prefill: 0.45,
        mfu_decode: 0.30,
        tdp_w: 700.0,
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
            dtype: Dtype::Bf16,
            max_model_len: None,
            scheduler: Scheduler::default(),
            router: Router::RoundRobin,
            kv: KvCache::default(),
            latency: Latency::Roofline,
            tick: None,
        },
        model: llama_8b(),
        gpu: h100(),
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
    let (s, requests, quirks) = scenario(seed);
    let stop = AtomicBool::new(false);
    let at = || format!("seed {seed}: {:?} {:?} {quirks:?}", s.deployment, s.workload);
    let mut slow = Rows::default();
    let (summary, seen) = reference::observe(&s, &requests, &mut slow, &stop, quirks)
        .map_err(|e| format!("{}\nthe oracle says {e}", at()))?;
    let mut fast = Rows::default();
    let result = simulate_with(&s, &requests, &mut fast, &stop, quirks);
    let engine = result.map_err(|e| format!("{}\nthe engine says {e}", at()))?;
    difference(&fast, &slow, &engine, &summary).map_err(|e| format!("{}\n{e}", at()))?;
    invariants::check(&s, &requests, quirks, &slow, &summary).map_err(|e| format!("{}\n{e}", at()))?;
    Ok(Reach::of(&s, &summary, seen))
}

/// The first difference, in the order of time as far as rows tell.
fn difference(fast: &Rows, slow: &Rows, a: &Summary, b: &Summary) -> Result<(), String> {
    if let Some(at) = fast.steps.iter().zip(&slow.steps).position(|(f, r)| f != r) {
        return Err(format!("step {at}\nfast {:?}\nslow {:?}", fast.steps[at], slow.steps[at]));
    }
    if let Some(at) = fast.requests.iter().zip(&slow.requests).position(|(f, r)| f != r) {
        return Err(format!("request row {at}\nfast {:?}\nslow {:?}", fast.requests[at], slow.requests[at]));
    }
    if fast != slow || a != b {
        let count = |rows: &Rows| (rows.steps.len(), rows.requests.len());
        return Err(format!("rows {:?} and {:?}\nfast {a:?}\nslow {b:?}", count(fast), count(slow)));
    }
    Ok(())
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

    /// Seeds that told of mistakes in the fast engine once.
    const TOLD: [u64; 10] = [8, 165, 709, 1999, 2222, 2684, 8617, 8817, 27_444, 241];

    #[test]
    fn what_was_wrong_once_is_right() {
        for seed in TOLD {
            run(seed).unwrap_or_else(|e| panic!("{e}"));
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
