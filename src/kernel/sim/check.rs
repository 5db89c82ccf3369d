//! What can be wrong with a scenario before it runs: every problem at once, each with the field and what would be valid.

use super::kv::plan;
use super::latency::Latency;
use super::scheduler::{Scheduler, VllmV1};
use super::{SimError, engine};
use crate::scenario::{Arrivals, GpuSpec, Load, ModelSpec, Scenario};

/// Largest coefficient of a fitted latency model: one minute, in microseconds.
const COEFFICIENT_MAX_US: f64 = 60e6;
/// Most blocks whose contents can be told apart.
const BLOCKS_MAX: u64 = 1 << 31;
const BLOCK_SIZE_MAX: u32 = 1 << 16;

struct Problems(Vec<SimError>);

impl Problems {
    fn add(&mut self, path: &'static str, message: String) {
        self.0.push(SimError::Invalid { path, message });
    }

    fn positive(&mut self, path: &'static str, value: u32) {
        if value == 0 {
            self.add(path, "is 0; must be at least 1".to_string());
        }
    }

    fn positive_f64(&mut self, path: &'static str, value: f64) {
        if !(value.is_finite() && value > 0.0) {
            self.add(path, format!("is {value}; must be a number above 0"));
        }
    }
}

/// See [`super::check()`].
pub(super) fn check(scenario: &Scenario) -> Result<(), Vec<SimError>> {
    let mut p = Problems(Vec::new());
    facts(&scenario.model, &scenario.gpu, &mut p);
    parallelism(scenario, &mut p);
    lengths(scenario, &mut p);
    let Scheduler::VllmV1(rules) = &scenario.deployment.scheduler;
    p.positive("deployment.scheduler.vllm_v1.max_num_batched_tokens", rules.max_num_batched_tokens);
    p.positive("deployment.scheduler.vllm_v1.max_num_seqs", rules.max_num_seqs);
    cache(scenario, &mut p);
    latency(&scenario.deployment.latency, &mut p);
    load(&scenario.workload, &mut p);
    if p.0.is_empty() {
        // What the planner and the schedulers ask for only makes sense of sizes that are sound.
        memory(scenario, rules, &mut p);
    }
    if p.0.is_empty() { Ok(()) } else { Err(p.0) }
}

fn facts(m: &ModelSpec, g: &GpuSpec, p: &mut Problems) {
    for (path, value) in [
        ("model.layers", m.layers),
        ("model.hidden", m.hidden),
        ("model.heads", m.heads),
        ("model.kv_heads", m.kv_heads),
        ("model.head_dim", m.head_dim),
        ("model.vocab", m.vocab),
        ("model.max_pos", m.max_pos),
        ("model.mlp_matrices", m.mlp_matrices),
    ] {
        p.positive(path, value);
    }
    if m.experts >= 2 && !(1..=m.experts).contains(&m.top_k) {
        p.add("model.top_k", format!("is {} of {} experts; must be 1 to {}", m.top_k, m.experts, m.experts));
    }
    for (path, value) in [
        ("gpu.bf16_tflops", g.bf16_tflops),
        ("gpu.memory_gib", g.memory_gib),
        ("gpu.memory_tb_per_s", g.memory_tb_per_s),
        ("gpu.mfu_prefill", g.mfu_prefill),
        ("gpu.mfu_decode", g.mfu_decode),
    ] {
        p.positive_f64(path, value);
    }
}

fn parallelism(s: &Scenario, p: &mut Problems) {
    let d = &s.deployment;
    p.positive("deployment.replicas", d.replicas);
    p.positive("deployment.tp", d.tp);
    p.positive("deployment.pp", d.pp);
    if d.tp > 0 && !s.model.heads.is_multiple_of(d.tp) {
        let valid: Vec<String> = (1..=s.model.heads.min(64))
            .filter(|tp| s.model.heads.is_multiple_of(*tp))
            .map(|tp| tp.to_string())
            .collect();
        p.add(
            "deployment.tp",
            format!("{} does not divide the {} attention heads; valid are {}", d.tp, s.model.heads, valid.join(", ")),
        );
    }
    if d.pp > s.model.layers {
        p.add("deployment.pp", format!("{} stages for {} layers; at most one per layer", d.pp, s.model.layers));
    }
}

fn lengths(s: &Scenario, p: &mut Problems) {
    if let Some(len) = s.deployment.max_model_len {
        if len < 2 {
            p.add("deployment.max_model_len", format!("is {len}; must hold a prompt and an output, at least 2"));
        }
        if len > s.model.max_pos {
            p.add(
                "deployment.max_model_len",
                format!("{len} is beyond the {} positions of the model", s.model.max_pos),
            );
        }
    }
}

fn cache(s: &Scenario, p: &mut Problems) {
    let kv = &s.deployment.kv;
    if kv.block_size == 0 || kv.block_size > BLOCK_SIZE_MAX {
        p.add("deployment.kv.block_size", format!("is {}; must be 1 to {BLOCK_SIZE_MAX} tokens", kv.block_size));
    }
    if let Some(blocks) = kv.num_gpu_blocks {
        if blocks == 0 || blocks > BLOCKS_MAX {
            p.add("deployment.kv.num_gpu_blocks", format!("is {blocks}; must be 1 to {BLOCKS_MAX}"));
        } else if blocks.saturating_mul(u64::from(kv.block_size)) < 2 {
            p.add("deployment.kv.num_gpu_blocks", "the cache must hold at least 2 tokens".to_string());
        }
    }
    let share = kv.gpu_memory_utilization;
    if !(share > 0.0 && share <= 1.0) {
        p.add("deployment.kv.gpu_memory_utilization", format!("is {share}; must be above 0 and at most 1"));
    }
}

fn latency(latency: &Latency, p: &mut Problems) {
    match latency {
        Latency::Roofline | Latency::TrainedPhysics => {}
        Latency::Linear(linear) => {
            for (path, us) in linear.coefficients() {
                if !(0.0..=COEFFICIENT_MAX_US).contains(&us) {
                    p.add(path, format!("is {us}; must be 0 to {COEFFICIENT_MAX_US} microseconds"));
                }
            }
        }
        Latency::Rates(rates) => {
            p.positive_f64("deployment.latency.rates.prefill_tokens_per_s", rates.prefill_tokens_per_s);
            p.positive_f64("deployment.latency.rates.decode_tokens_per_s", rates.decode_tokens_per_s);
        }
    }
}

fn load(load: &Load, p: &mut Problems) {
    if let Some(rate) = load.rate_rps {
        p.positive_f64("workload.rate_rps", rate);
    }
    match load.arrivals {
        Arrivals::Trace | Arrivals::Constant | Arrivals::Poisson => {}
        Arrivals::Gamma(gamma) => {
            if !(gamma.cv.is_finite() && (0.01..=100.0).contains(&gamma.cv)) {
                p.add("workload.arrivals.gamma.cv", format!("is {}; must be 0.01 to 100", gamma.cv));
            }
        }
    }
    if load.max_requests == Some(0) {
        p.add("workload.max_requests", "is 0; must be at least 1".to_string());
    }
}

fn memory(s: &Scenario, rules: &VllmV1, p: &mut Problems) {
    let blocks = match plan::blocks(&s.deployment, &s.model, &s.gpu) {
        Ok(blocks) => blocks,
        Err(e) => {
            p.0.push(e);
            return;
        }
    };
    let longest = engine::max_len(s, blocks);
    if !rules.enable_chunked_prefill && rules.max_num_batched_tokens < longest {
        p.add(
            "deployment.scheduler.vllm_v1.max_num_batched_tokens",
            format!(
                "{} is less than the longest prompt of {longest} tokens, which cannot be cut while \
                 enable_chunked_prefill is false; raise it to {longest}, lower max_model_len to {}, or let prompts be cut",
                rules.max_num_batched_tokens, rules.max_num_batched_tokens
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::swarm::scenario_8b;

    #[test]
    fn every_problem_is_found_at_once() {
        type Edit = fn(&mut Scenario);
        let cases: &[(Edit, &[&str])] = &[
            (|_| {}, &[]),
            (
                |s| {
                    s.deployment.replicas = 0;
                    s.deployment.tp = 3;
                    s.deployment.pp = 33;
                    s.workload.rate_rps = Some(0.0);
                    s.deployment.kv.block_size = 0;
                },
                &[
                    "deployment.replicas",
                    "deployment.tp",
                    "deployment.pp",
                    "deployment.kv.block_size",
                    "workload.rate_rps",
                ],
            ),
            (|s| s.deployment.max_model_len = Some(200_000), &["deployment.max_model_len"]),
            (|s| s.deployment.kv.gpu_memory_utilization = f64::NAN, &["deployment.kv.gpu_memory_utilization"]),
            (|s| s.gpu.memory_gib = 16.0, &["deployment.tp"]),
            (
                |s| {
                    let Scheduler::VllmV1(rules) = &mut s.deployment.scheduler;
                    rules.enable_chunked_prefill = false;
                },
                &["deployment.scheduler.vllm_v1.max_num_batched_tokens"],
            ),
            (
                |s| s.workload.arrivals = Arrivals::Gamma(crate::scenario::Gamma { cv: -1.0 }),
                &["workload.arrivals.gamma.cv"],
            ),
        ];
        for (edit, expect) in cases {
            let mut s = scenario_8b();
            edit(&mut s);
            let found: Vec<&str> = match check(&s) {
                Ok(()) => Vec::new(),
                Err(problems) => problems
                    .iter()
                    .map(|e| match e {
                        SimError::Invalid { path, .. } => *path,
                        SimError::Cancelled => "cancelled",
                    })
                    .collect(),
            };
            assert_eq!(&found, expect);
        }
    }
}
