//! What can be wrong with one pool, or with a deployment that has none. Paths are those of a deployment without pools.

use super::Problems;
use crate::pools::Site;
use crate::scenario::{GpuSpec, ModelSpec};
use crate::sim::kv::plan;
use crate::sim::latency::{Latency, NO_TIME, TIME_MAX_US};
use crate::sim::scheduler::{QueueOrder, Scheduler, bad_overhead, watermark_path};
use crate::sim::{SimError, engine, tiers};

/// Largest factor on a physical term.
const FACTOR_MAX: f64 = 1e3;
/// Most blocks whose contents can be told apart.
const BLOCKS_MAX: u64 = 1 << 31;
const BLOCK_SIZE_MAX: u32 = 1 << 16;

pub(super) fn check(site: &Site, p: &mut Problems) {
    facts(&site.model, &site.gpu, p);
    parallelism(site, p);
    experts(site, p);
    lengths(site, p);
    scheduler(site, p);
    cache(site, p);
    tiers::problems(site).into_iter().for_each(|(path, message)| p.add(path, message));
    latency(&site.deployment.latency, p);
    p.extend(site.deployment.overheads.problems());
    if let Some(lora) = &site.deployment.lora {
        lora.problems(site).into_iter().for_each(|(path, message)| p.add(path, message));
    }
    if let Some(encoder) = &site.deployment.encoder {
        p.extend(encoder.problems());
        if !matches!(site.deployment.scheduler, Scheduler::VllmV1(_)) {
            p.add(
                "deployment.encoder",
                "only vllm_v1 encodes on its replicas; beside others, a pool with the role encode does",
            );
        }
    }
    if let Some(speculative) = &site.deployment.speculative {
        p.extend(speculative.problems(site));
        if site.deployment.lora.is_some() {
            p.add(
                "deployment.speculative",
                "drafts for requests with adapters are not simulated: leave out one of the two",
            );
        }
    }
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
        ("model.moe_every", m.moe_every),
    ] {
        p.positive(path, value);
    }
    if m.experts >= 2 && !(1..=m.experts).contains(&m.top_k) {
        p.add("model.top_k", format!("is {} of {} experts; must be 1 to {}", m.top_k, m.experts, m.experts));
    }
    if m.first_dense > m.layers {
        p.add("model.first_dense", format!("is {} of {} layers", m.first_dense, m.layers));
    }
    if m.linear_layers >= m.layers && m.layers > 0 {
        p.add("model.linear_layers", format!("is {} of {} layers; one must have a cache", m.linear_layers, m.layers));
    } else if m.window_layers > m.layers - m.linear_layers.min(m.layers) {
        let others = m.layers.saturating_sub(m.linear_layers);
        p.add("model.window_layers", format!("is {}, of {others} layers with a cache", m.window_layers));
    }
    if m.kv_shared_layers >= m.layers.saturating_sub(m.linear_layers) && m.layers > 0 && m.kv_shared_layers > 0 {
        let others = m.layers.saturating_sub(m.linear_layers);
        p.add(
            "model.kv_shared_layers",
            format!("is {} of {others} layers; one must hold the cache", m.kv_shared_layers),
        );
    }
    if (m.window_layers > 0) != (m.sliding_window > 0) {
        p.add("model.window_layers", "needs sliding_window, and that needs window_layers");
    }
    if !(m.other_params_b >= 0.0 && m.other_params_b.is_finite()) {
        p.add("model.other_params_b", format!("is {}; must be 0 or more", m.other_params_b));
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

fn parallelism(site: &Site, p: &mut Problems) {
    let (d, m) = (&site.deployment, &site.model);
    p.positive("deployment.replicas", d.replicas);
    p.positive("deployment.tp", d.tp);
    p.positive("deployment.pp", d.pp);
    p.positive("deployment.dp", d.dp);
    if d.tp > 0 && !m.heads.is_multiple_of(d.tp) {
        let valid: Vec<String> =
            (1..=m.heads.min(64)).filter(|tp| m.heads.is_multiple_of(*tp)).map(|tp| tp.to_string()).collect();
        p.add(
            "deployment.tp",
            format!("{} does not divide the {} attention heads; valid are {}", d.tp, m.heads, valid.join(", ")),
        );
    }
    // Each GPU has whole key-value heads, or shares one with as many others as every other head is shared by. The cache of
    // latent attention is one for all heads.
    let whole = m.mla.is_some() || m.kv_heads == 0 || d.tp == 0;
    if !whole && m.heads.is_multiple_of(d.tp) && !m.kv_heads.is_multiple_of(d.tp) && !d.tp.is_multiple_of(m.kv_heads) {
        let fits = |tp: &u32| m.kv_heads.is_multiple_of(*tp) || tp.is_multiple_of(m.kv_heads);
        let valid: Vec<String> = (1..=m.heads.min(64))
            .filter(|tp| m.heads.is_multiple_of(*tp))
            .filter(fits)
            .map(|tp| tp.to_string())
            .collect();
        p.add(
            "deployment.tp",
            format!(
                "{} neither divides the {} key-value heads nor is a multiple of them; valid are {}",
                d.tp,
                m.kv_heads,
                valid.join(", ")
            ),
        );
    }
    if d.pp > m.layers {
        p.add("deployment.pp", format!("{} stages for {} layers; at most one per layer", d.pp, m.layers));
    }
}

/// Whole experts on every GPU: there must be some, and as many on each.
fn experts(site: &Site, p: &mut Problems) {
    let (d, m) = (&site.deployment, &site.model);
    if !d.enable_expert_parallel {
        return;
    }
    if m.experts < 2 {
        let message = format!("`{}` has no experts to spread over GPUs; leave it out", d.model);
        p.add("deployment.enable_expert_parallel", message);
        return;
    }
    let gpus = u64::from(d.tp) * u64::from(d.dp);
    if gpus > 0 && !u64::from(m.experts).is_multiple_of(gpus) {
        let valid: Vec<String> =
            (1..=m.experts).filter(|n| m.experts.is_multiple_of(*n)).map(|n| n.to_string()).collect();
        let message = format!(
            "tp {} x dp {} = {gpus} GPUs cannot hold as many of the {} experts each, as enable_expert_parallel wants; \
             tp x dp must be one of {}",
            d.tp,
            d.dp,
            m.experts,
            valid.join(", ")
        );
        p.add(if d.dp > 1 { "deployment.dp" } else { "deployment.tp" }, message);
    }
}

fn lengths(site: &Site, p: &mut Problems) {
    if let Some(len) = site.deployment.max_model_len {
        if len < 2 {
            p.add("deployment.max_model_len", format!("is {len}; must hold a prompt and an output, at least 2"));
        }
        if len > site.model.max_pos {
            p.add(
                "deployment.max_model_len",
                format!("{len} is beyond the {} positions of the model", site.model.max_pos),
            );
        }
    }
}

fn scheduler(site: &Site, p: &mut Problems) {
    let d = &site.deployment;
    match &d.scheduler {
        Scheduler::VllmV1(rules) => {
            p.positive("deployment.scheduler.vllm_v1.max_num_batched_tokens", rules.max_num_batched_tokens);
            p.positive("deployment.scheduler.vllm_v1.max_num_seqs", rules.max_num_seqs);
            let us = rules.scheduler_overhead_us;
            p.extend(bad_overhead("deployment.scheduler.vllm_v1.scheduler_overhead_us", us).into_iter().collect());
            if rules.async_scheduling && !rules.recompute_full_hits {
                p.add(
                    "deployment.scheduler.vllm_v1.recompute_full_hits",
                    "must be true with async_scheduling: the simulator whose behaviour the switch repeats has none",
                );
            }
        }
        Scheduler::Exclusive(rules) => {
            p.positive("deployment.scheduler.exclusive.servers", rules.servers);
            if matches!(rules.scheduling_policy, QueueOrder::LeastSlack | QueueOrder::Fair) {
                p.add(
                    "deployment.scheduler.exclusive.scheduling_policy",
                    "least_slack and fair are orders of engines that form batches; valid are fcfs, priority, sjf, edf",
                );
            }
            for path in d.overheads.given() {
                p.add(path, "must be 0: the exclusive scheduler has no steps, and its rates are all that takes time");
            }
            if !matches!(d.latency, Latency::Rates(_)) {
                p.add(
                    "deployment.latency",
                    "the exclusive scheduler serves at given rates; write `latency: { rates: { prefill_tokens_per_s: \
                     ..., decode_tokens_per_s: ... } }`",
                );
            }
        }
        other => p.extend(other.problems(site)),
    }
}

fn cache(site: &Site, p: &mut Problems) {
    let kv = &site.deployment.kv;
    if kv.block_size == 0 || kv.block_size > BLOCK_SIZE_MAX {
        p.add("deployment.kv.block_size", format!("is {}; must be 1 to {BLOCK_SIZE_MAX} tokens", kv.block_size));
    }
    if let Some(blocks) = kv.num_gpu_blocks {
        if blocks == 0 || blocks > BLOCKS_MAX {
            p.add("deployment.kv.num_gpu_blocks", format!("is {blocks}; must be 1 to {BLOCKS_MAX}"));
        } else if blocks.saturating_mul(u64::from(kv.block_size)) < 2 {
            p.add("deployment.kv.num_gpu_blocks", "the cache must hold at least 2 tokens");
        }
    }
    let share = kv.gpu_memory_utilization;
    if !(share > 0.0 && share <= 1.0) {
        p.add("deployment.kv.gpu_memory_utilization", format!("is {share}; must be above 0 and at most 1"));
    }
}

fn latency(latency: &Latency, p: &mut Problems) {
    match latency {
        Latency::Auto(_) | Latency::SimpleRoofline | Latency::Fitted(_) => {}
        Latency::Roofline(r) => p.extend(r.problems()),
        Latency::Operators(o) => p.extend(o.problems()),
        Latency::Steps(s) => p.extend(s.problems()),
        Latency::Regression(r) => p.extend(r.problems()),
        Latency::Constant(c) => p.extend(c.problems()),
        Latency::TrainedPhysics(c) => {
            coefficients(&c.coefficients(), p);
            if c.weights == 0.0 && c.layer_us == 0.0 && c.step_us == 0.0 {
                p.add("deployment.latency.trained_physics.step_us", NO_TIME);
            }
        }
        Latency::TrainedRoofline(c) => {
            coefficients(&c.coefficients(), p);
            if c.weights == 0.0 && c.layer_us == 0.0 && c.step_us == 0.0 {
                p.add("deployment.latency.trained_roofline.step_us", NO_TIME);
            }
        }
        Latency::CrossModel(c) => {
            coefficients(&c.coefficients(), p);
            if c.layer_us == 0.0 {
                p.add("deployment.latency.cross_model.layer_us", NO_TIME);
            }
        }
        Latency::Linear(c) => {
            coefficients(&c.in_us().coefficients(), p);
            if c.base_us == 0.0 && (c.per_prefill_token_us == 0.0 || c.per_decode_token_us == 0.0) {
                p.add("deployment.latency.linear.base_us", NO_TIME);
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
        let (max, unit) = if path.ends_with("_us") { (TIME_MAX_US, " microseconds") } else { (FACTOR_MAX, "") };
        if !(0.0..=max).contains(&value) {
            p.add(path, format!("is {value}; must be 0 to {max}{unit}"));
        }
    }
}

/// The cache must hold a block, and a step a prompt that cannot be cut. Sizes must be sound.
pub(super) fn memory(site: &Site, p: &mut Problems) {
    let blocks = match plan::blocks(&site.deployment, &site.model, &site.gpu) {
        Ok(blocks) => blocks,
        Err(SimError::Invalid { path, message }) => {
            p.add(path, message);
            return;
        }
        Err(SimError::Cancelled) => return,
    };
    let fixed = plan::blocks_per_request(&site.deployment, &site.model);
    if blocks.saturating_sub(fixed).saturating_mul(u64::from(site.deployment.kv.block_size)) < 2 {
        let message = format!(
            "of {blocks} blocks, a request holds {fixed} for layers with a window and for states, which leaves none for its \
             tokens"
        );
        p.add("deployment.kv.num_gpu_blocks", message);
        return;
    }
    let longest = engine::max_len(&site.deployment, &site.model, blocks);
    if let Some(path) = watermark_path(&site.deployment.scheduler).filter(|_| longest < 2) {
        let message = format!(
            "leaves none of {blocks} blocks (a request holds {fixed} whatever its length) to a prompt: nobody could be \
             admitted"
        );
        p.add(path, message);
        return;
    }
    p.extend(site.deployment.scheduler.problems_of_cache(site, blocks));
    let Scheduler::VllmV1(rules) = &site.deployment.scheduler else { return };
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
