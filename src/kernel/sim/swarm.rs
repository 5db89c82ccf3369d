//! Random small scenarios, on which the fast engine must equal the oracle in every row and keep every invariant.
//!
//! One seed is one scenario; a failure names its seed, and [`run`] with that seed repeats it.

use std::sync::atomic::AtomicBool;

use rand::Rng;
use rand_pcg::Pcg64;

use super::latency::{Latency, Linear, Rates};
use super::router::Router;
use super::scheduler::{Scheduler, VllmV1};
use super::{Quirks, RequestRow, SimError, Sink, Status, StepRow, Summary, reference, simulate_with};
use crate::request::Requests;
use crate::rng;
use crate::scenario::{Arrivals, Deployment, Dtype, Gamma, GpuSpec, KvCache, Load, ModelSpec, Scenario};
use crate::units::SimTime;

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
        },
        model: llama_8b(),
        gpu: h100(),
        workload: Load::default(),
        seed: 42,
    }
}

struct Dice(Pcg64);

impl Dice {
    /// Uniform from `low` to `high`, both included.
    fn range(&mut self, low: u32, high: u32) -> u32 {
        low + ((u64::from(self.0.next_u32()) * u64::from(high - low + 1)) >> 32) as u32
    }

    /// True in one of `n` cases.
    fn one_in(&mut self, n: u32) -> bool {
        self.range(1, n) == 1
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.range(0, of.len() as u32 - 1) as usize].clone()
    }
}

fn requests(dice: &mut Dice, block_size: u32) -> Requests {
    let count = dice.range(1, 60);
    let (gap_us, longest) = (dice.pick(&[0, 1, 500, 5_000, 50_000]), dice.pick(&[8, 60, 300]));
    let hashed = dice.one_in(2);
    let mut r = Requests { block_hash_offsets: vec![0], ..Requests::default() };
    if hashed {
        let sizes = [block_size, block_size * 4, block_size.div_ceil(2)];
        let size = dice.pick(&sizes);
        r.block_tokens = if size.is_multiple_of(block_size) || block_size.is_multiple_of(size) { size } else { 1 };
    }
    let mut at = 0;
    for _ in 0..count {
        // Many ties.
        if !dice.one_in(3) {
            at += i64::from(dice.range(0, gap_us)) * 1_000;
        }
        let (input, output) = (dice.range(1, longest), dice.range(1, longest));
        r.arrival.push(SimTime(at));
        r.input_tokens.push(input);
        r.output_tokens.push(output);
        if hashed {
            // Few documents, cut at random places: a hash chain differs from where the documents part.
            let covers = dice.pick(&[input, input, input + output]);
            let parts = dice.range(0, covers.div_ceil(r.block_tokens));
            let document = u64::from(dice.range(0, 3));
            for block in 0..covers.div_ceil(r.block_tokens) {
                let content = if block < parts { document } else { 1_000 + r.input_tokens.len() as u64 };
                r.block_hashes.push(content << 32 | u64::from(block));
            }
        }
        r.block_hash_offsets.push(r.block_hashes.len() as u64);
    }
    r
}

fn latency(dice: &mut Dice) -> Latency {
    match dice.range(0, 5) {
        0 => Latency::Roofline,
        1 => Latency::TrainedPhysics,
        2 => Latency::Rates(Rates { prefill_tokens_per_s: 1_000.0, decode_tokens_per_s: 70.0 }),
        // Round numbers, for ties between steps and arrivals.
        3 => Latency::Linear(Linear {
            base_us: 1_000.0,
            per_prefill_token_us: 0.0,
            per_decode_token_us: 0.0,
            queue_base_us: 0.0,
            queue_per_input_token_us: 0.0,
            per_output_token_us: 0.0,
        }),
        _ => Latency::Linear(Linear {
            base_us: f64::from(dice.range(0, 9_000)) * 0.7,
            per_prefill_token_us: f64::from(dice.range(0, 90)) * 0.3,
            per_decode_token_us: f64::from(dice.range(0, 90)) * 0.3,
            queue_base_us: f64::from(dice.range(0, 3_000)),
            queue_per_input_token_us: f64::from(dice.range(0, 30)),
            per_output_token_us: f64::from(dice.range(0, 100)),
        }),
    }
}

fn load(dice: &mut Dice) -> Load {
    let arrivals = match dice.range(0, 6) {
        0 => Arrivals::Constant,
        1 => Arrivals::Poisson,
        2 => Arrivals::Gamma(Gamma { cv: 3.0 }),
        _ => Arrivals::Trace,
    };
    let rate_rps = match arrivals {
        Arrivals::Trace => None,
        Arrivals::Constant | Arrivals::Poisson | Arrivals::Gamma(_) => Some(dice.pick(&[1.0, 20.0, 500.0])),
    };
    Load { rate_rps, arrivals, max_requests: if dice.one_in(8) { Some(dice.range(1, 30)) } else { None } }
}

/// The scenario of a seed.
pub fn scenario(seed: u64) -> (Scenario, Requests, Quirks) {
    let dice = &mut Dice(rng::stream(seed, "swarm"));
    let mut s = scenario_8b();
    s.seed = seed;
    let block_size = dice.pick(&[1, 2, 4, 7, 16, 16]);
    let rules = VllmV1 {
        max_num_batched_tokens: dice.pick(&[1, 3, 10, 40, 100, 2048]),
        max_num_seqs: dice.pick(&[1, 2, 5, 20, 256]),
        enable_chunked_prefill: true,
        long_prefill_token_threshold: dice.pick(&[0, 0, 0, 1, 16, 50]),
    };
    let blocks = dice.pick(&[4, 20, 50, 200, 1000]);
    let d = &mut s.deployment;
    d.replicas = dice.pick(&[1, 1, 2, 5]);
    d.router = dice.pick(&[Router::RoundRobin, Router::Random, Router::LeastOutstanding]);
    d.kv.block_size = block_size;
    d.kv.num_gpu_blocks = Some(u64::from(blocks.max(4)));
    d.kv.enable_prefix_caching = !dice.one_in(4);
    d.max_model_len = if dice.one_in(4) { Some(dice.range(2, 400)) } else { None };
    d.latency = latency(dice);
    if dice.one_in(5) {
        let longest = d.max_model_len.unwrap_or(s.model.max_pos).min(blocks * block_size);
        d.scheduler = Scheduler::VllmV1(VllmV1 {
            enable_chunked_prefill: false,
            max_num_batched_tokens: longest.max(rules.max_num_batched_tokens),
            ..rules
        });
    } else {
        d.scheduler = Scheduler::VllmV1(rules);
    }
    s.workload = load(dice);
    let quirks = Quirks {
        restart_from_prompt: dice.one_in(5),
        free_full_hits: dice.one_in(5),
        whole_microseconds: dice.one_in(5),
        block_at_completion: dice.one_in(5),
        hits_without_context: dice.one_in(5),
    };
    let requests = requests(dice, block_size);
    (s, requests, quirks)
}

/// Runs the scenario of a seed with both simulators and compares everything.
///
/// # Errors
/// What differs, or which invariant does not hold.
pub fn run(seed: u64) -> Result<Summary, String> {
    let (s, requests, quirks) = scenario(seed);
    let stop = AtomicBool::new(false);
    let (mut fast, mut slow) = (Rows::default(), Rows::default());
    let a = simulate_with(&s, &requests, &mut fast, &stop, quirks);
    let b = reference::simulate_with(&s, &requests, &mut slow, &stop, quirks);
    // The oracle reports a step when it starts.
    slow.steps.sort_by_key(|row| (row.start + row.duration, row.replica));
    let at = || format!("seed {seed}: {:?} {quirks:?}", s.deployment);
    let (a, b) = match (a, b) {
        (Ok(a), Ok(b)) => (a, b),
        (a, b) => return Err(format!("{}\nfast {a:?}\nslow {b:?}", at())),
    };
    if let Some((f, r)) = fast.steps.iter().zip(&slow.steps).find(|(f, r)| f != r) {
        return Err(format!("{}\nfast {f:?}\nslow {r:?}", at()));
    }
    if let Some((f, r)) = fast.requests.iter().zip(&slow.requests).find(|(f, r)| f != r) {
        return Err(format!("{}\nfast {f:?}\nslow {r:?}", at()));
    }
    if fast != slow || a != b {
        return Err(format!("{}\nfast {a:?}\nslow {b:?}", at()));
    }
    invariants(&fast, &a).map_err(|e| format!("{}\n{e}", at()))?;
    Ok(a)
}

/// What must hold of any result.
fn invariants(rows: &Rows, s: &Summary) -> Result<(), String> {
    if s.finished + s.rejected != s.injected || rows.requests.len() as u64 != s.injected {
        return Err(format!("requests are not conserved: {s:?}"));
    }
    let gaps: u64 = s.itl.iter().map(|(_, n)| n).sum();
    let restarted = rows.requests.iter().any(|r| r.preemptions > 0);
    let tokens: u64 = rows.requests.iter().map(|r| u64::from(r.output_tokens)).sum();
    if gaps < tokens - s.finished || (!restarted && gaps != tokens - s.finished) {
        return Err(format!("{gaps} gaps between {tokens} tokens of {} requests", s.finished));
    }
    for r in &rows.requests {
        let times = [Some(r.arrival), r.scheduled, r.first_token, r.finished];
        let ordered = match r.status {
            Status::Finished => times.windows(2).all(|w| w[0] <= w[1] && w[1].is_some()),
            Status::Rejected => times[1..].iter().all(Option::is_none),
        };
        if !ordered {
            return Err(format!("times out of order: {r:?}"));
        }
    }
    let busy: i64 = rows.steps.iter().map(|r| r.duration.0).sum();
    if rows.steps.iter().any(|r| r.duration.0 < 1 || r.kv_blocks_used > s.kv_blocks_total)
        || busy != s.busy.0
        || rows.steps.len() as u64 != s.steps
    {
        return Err(format!("steps do not add up: {s:?}"));
    }
    Ok(())
}

/// Simulates without keeping rows; for measurements.
///
/// # Errors
/// As [`super::simulate`].
pub fn summary_only(s: &Scenario, requests: &Requests) -> Result<Summary, SimError> {
    struct Nothing;
    impl Sink for Nothing {
        fn request(&mut self, _row: RequestRow) {}
    }
    super::simulate(s, requests, &mut Nothing, &AtomicBool::new(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_equals_the_oracle() {
        let (mut preemptions, mut hits, mut rejected) = (0, 0, 0);
        for seed in 0..2_000 {
            match run(seed) {
                Ok(s) => {
                    preemptions += s.preemptions;
                    hits += s.prefix_tokens_hit;
                    rejected += s.rejected;
                }
                Err(e) => panic!("{e}"),
            }
        }
        // The scenarios reach what they are for.
        assert!(preemptions > 1_000 && hits > 1_000 && rejected > 100, "{preemptions} {hits} {rejected}");
    }
}
