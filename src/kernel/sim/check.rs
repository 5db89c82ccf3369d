//! What can be wrong with a scenario before it runs: every problem at once, each with the field and what would be valid.

use super::kv::plan;
use super::latency::Latency;
use super::scheduler::{Scheduler, VllmV1};
use super::{SimError, engine};
use crate::scenario::{Arrivals, Deployment, GpuSpec, Load, Measure, ModelSpec, Scenario};

/// Largest coefficient of a fitted latency model: one minute, in microseconds.
const COEFFICIENT_MAX_US: f64 = 60e6;
/// Largest factor on a physical term.
const FACTOR_MAX: f64 = 1e3;
const NO_TIME: &str = "is 0, and so some steps would take no time";
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
    scheduler(&scenario.deployment, &mut p);
    cache(scenario, &mut p);
    latency(&scenario.deployment.latency, &mut p);
    load(&scenario.workload, &mut p);
    measure(&scenario.measure, &mut p);
    if p.0.is_empty() {
        // What the planner and the schedulers ask for only makes sense of sizes that are sound.
        match &scenario.deployment.scheduler {
            Scheduler::VllmV1(rules) => memory(scenario, rules, &mut p),
            Scheduler::Exclusive(_) => {}
        }
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

fn scheduler(d: &Deployment, p: &mut Problems) {
    match &d.scheduler {
        Scheduler::VllmV1(rules) => {
            p.positive("deployment.scheduler.vllm_v1.max_num_batched_tokens", rules.max_num_batched_tokens);
            p.positive("deployment.scheduler.vllm_v1.max_num_seqs", rules.max_num_seqs);
            let us = rules.scheduler_overhead_us;
            if !(0.0..=COEFFICIENT_MAX_US).contains(&us) {
                p.add(
                    "deployment.scheduler.vllm_v1.scheduler_overhead_us",
                    format!("is {us}; must be 0 to {COEFFICIENT_MAX_US} microseconds"),
                );
            }
            if rules.async_scheduling && !rules.recompute_full_hits {
                p.add(
                    "deployment.scheduler.vllm_v1.recompute_full_hits",
                    "must be true with async_scheduling: the simulator whose behaviour the switch repeats has none"
                        .to_string(),
                );
            }
        }
        Scheduler::Exclusive(rules) => {
            p.positive("deployment.scheduler.exclusive.servers", rules.servers);
            if !matches!(d.latency, Latency::Rates(_)) {
                p.add(
                    "deployment.latency",
                    "the exclusive scheduler serves at given rates; write `latency: { rates: { prefill_tokens_per_s: \
                     ..., decode_tokens_per_s: ... } }`"
                        .to_string(),
                );
            }
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
        Latency::Roofline => {}
        Latency::TrainedPhysics(c) => {
            coefficients(&c.coefficients(), p);
            if c.weights == 0.0 && c.layer_us == 0.0 && c.step_us == 0.0 {
                p.add("deployment.latency.trained_physics.step_us", NO_TIME.to_string());
            }
        }
        Latency::TrainedRoofline(c) => {
            coefficients(&c.coefficients(), p);
            if c.weights == 0.0 && c.layer_us == 0.0 && c.step_us == 0.0 {
                p.add("deployment.latency.trained_roofline.step_us", NO_TIME.to_string());
            }
        }
        Latency::CrossModel(c) => {
            coefficients(&c.coefficients(), p);
            if c.layer_us == 0.0 {
                p.add("deployment.latency.cross_model.layer_us", NO_TIME.to_string());
            }
        }
        Latency::Linear(c) => {
            coefficients(&c.coefficients(), p);
            if c.base_us == 0.0 && (c.per_prefill_token_us == 0.0 || c.per_decode_token_us == 0.0) {
                p.add("deployment.latency.linear.base_us", NO_TIME.to_string());
            }
        }
        Latency::Rates(rates) => {
            p.positive_f64("deployment.latency.rates.prefill_tokens_per_s", rates.prefill_tokens_per_s);
            p.positive_f64("deployment.latency.rates.decode_tokens_per_s", rates.decode_tokens_per_s);
        }
    }
}

/// Fitted coefficients, by path: those named `_us` are microseconds, the others factors.
fn coefficients(all: &[(&'static str, f64)], p: &mut Problems) {
    for &(path, value) in all {
        let (max, unit) = if path.ends_with("_us") { (COEFFICIENT_MAX_US, " microseconds") } else { (FACTOR_MAX, "") };
        if !(0.0..=max).contains(&value) {
            p.add(path, format!("is {value}; must be 0 to {max}{unit}"));
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
    if load.max_tokens == Some(0) {
        p.add("workload.max_tokens", "is 0; must be at least 1".to_string());
    }
    let spans = [
        ("workload.horizon_s", load.horizon_s),
        ("workload.deadline_ms", load.deadline_ms),
        ("workload.timeout_s", load.timeout_s),
        ("workload.cancel.after_s", load.cancel.map(|c| c.after_s)),
    ];
    for (path, span) in spans {
        if let Some(span) = span {
            p.positive_f64(path, span);
        }
    }
    if let Some(share) = load.cancel.map(|c| c.share)
        && !(0.0..=1.0).contains(&share)
    {
        p.add("workload.cancel.share", format!("is {share}; must be 0 to 1"));
    }
    for (name, rules) in &load.classes {
        if rules.max_tokens == Some(0) {
            p.add("workload.classes", format!("{name}.max_tokens is 0; must be at least 1"));
        }
        for (field, span) in [("deadline_ms", rules.deadline_ms), ("timeout_s", rules.timeout_s)] {
            if span.is_some_and(|span| !(span.is_finite() && span > 0.0)) {
                let span = span.unwrap_or_default();
                p.add("workload.classes", format!("{name}.{field} is {span}; must be a number above 0"));
            }
        }
    }
}

fn measure(m: &Measure, p: &mut Problems) {
    for (path, span) in [("measure.warmup_s", m.warmup_s), ("measure.cooldown_s", m.cooldown_s)] {
        if !(span.is_finite() && span >= 0.0) {
            p.add(path, format!("is {span}; must be 0 or more"));
        }
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
    use crate::scenario::{Cancel, ClassRules};
    use crate::sim::latency::{CrossModel, TrainedPhysics};
    use crate::sim::scheduler::Exclusive;
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
                    let Scheduler::VllmV1(rules) = &mut s.deployment.scheduler else { return };
                    rules.enable_chunked_prefill = false;
                },
                &["deployment.scheduler.vllm_v1.max_num_batched_tokens"],
            ),
            (|s| s.deployment.scheduler = Scheduler::Exclusive(Exclusive::default()), &["deployment.latency"]),
            (
                |s| {
                    s.workload.horizon_s = Some(-1.0);
                    s.workload.cancel = Some(Cancel { share: 1.5, after_s: 0.0 });
                    let rules = ClassRules { timeout_s: Some(0.0), ..ClassRules::default() };
                    s.workload.classes.insert("chat".to_string(), rules);
                    s.measure.warmup_s = f64::NAN;
                },
                &[
                    "workload.horizon_s",
                    "workload.cancel.after_s",
                    "workload.cancel.share",
                    "workload.classes",
                    "measure.warmup_s",
                ],
            ),
            (
                |s| {
                    s.deployment.latency = Latency::TrainedPhysics(TrainedPhysics {
                        decode_kv: -1.0,
                        weights: 0.0,
                        layer_us: 0.0,
                        step_us: 0.0,
                        queue_base_us: f64::INFINITY,
                        ..TrainedPhysics::default()
                    });
                },
                &[
                    "deployment.latency.trained_physics.decode_kv",
                    "deployment.latency.trained_physics.queue_base_us",
                    "deployment.latency.trained_physics.step_us",
                ],
            ),
            (
                |s| s.deployment.latency = Latency::CrossModel(CrossModel { layer_us: 0.0, ..CrossModel::default() }),
                &["deployment.latency.cross_model.layer_us"],
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
