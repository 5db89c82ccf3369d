//! The other schedulers of batches: the scenarios of the swarm with one of them in the place of vLLM's.

mod beams;
mod drafts;
mod faster_transformer;
mod lanes;
mod lightllm;
pub(super) mod lora;
mod orca;
mod orders;
mod samples;
mod sarathi;
mod sglang;
mod tiers;
mod trtllm;
mod vllm_v0;

use super::cluster;
use super::conversations;
use super::speculative;
use super::{Dice, Sizes, encoder, engine, latency};
use crate::request::Requests;
use crate::rng;
use crate::scenario::Scenario;
use crate::sim::kv::plan;
use crate::sim::scheduler::{QueueOrder, Scheduler};

/// A scheduler: its name, the rules that its scenarios must fire, and what gives a scenario its settings.
pub struct Engine {
    pub name: &'static str,
    pub rules: &'static [&'static str],
    draw: fn(&mut Dice, &Sizes, &mut Scenario),
}

pub const ENGINES: &[Engine] = &[
    Engine { name: "vllm_v0", rules: vllm_v0::RULES, draw: vllm_v0::draw },
    Engine { name: "sarathi", rules: sarathi::RULES, draw: sarathi::draw },
    Engine { name: "orca", rules: orca::RULES, draw: orca::draw },
    Engine { name: "faster_transformer", rules: faster_transformer::RULES, draw: faster_transformer::draw },
    Engine { name: "lightllm", rules: lightllm::RULES, draw: lightllm::draw },
    Engine { name: "sglang", rules: sglang::RULES, draw: sglang::draw },
    Engine { name: "trtllm", rules: trtllm::RULES, draw: trtllm::draw },
    Engine { name: "tiers", rules: tiers::RULES, draw: tiers::draw },
    // vLLM's V1 with adapters.
    Engine { name: "lora", rules: lora::RULES, draw: lora::draw },
    // vLLM's V1 with pipeline stages.
    Engine { name: "lanes", rules: lanes::RULES, draw: lanes::vllm_v1 },
    Engine { name: "sglang_drafts", rules: drafts::SGLANG, draw: drafts::sglang_drafts },
    Engine { name: "trtllm_drafts", rules: drafts::TRTLLM, draw: drafts::trtllm_drafts },
    Engine { name: "orders", rules: orders::RULES, draw: orders::draw },
    Engine { name: "samples", rules: samples::RULES, draw: samples::draw },
    // vLLM's version 0 with several sequences of a request.
    Engine { name: "groups", rules: samples::GROUPS, draw: samples::groups },
    // TensorRT-LLM, FasterTransformer and vLLM's version 0 with several beams of a request.
    Engine { name: "beams", rules: beams::RULES, draw: beams::draw },
];

/// The scenario of a seed for one of them.
pub fn scenario_of(engine_of: &Engine, seed: u64) -> (Scenario, Requests) {
    let (mut s, mut requests, _, sizes) = engine(seed);
    latency::draw(seed, &sizes, &mut s);
    let dice = &mut Dice(rng::stream(seed, &format!("swarm/engines/{}", engine_of.name)));
    s.workload.exact_max_tokens = dice.one_in(3);
    if dice.one_in(2) {
        cluster::one_pool(dice, &mut s, &mut requests);
        conversations::draw(dice, &sizes, &mut s.workload, &mut requests);
    }
    (engine_of.draw)(dice, &sizes, &mut s);
    let sequences = matches!(engine_of.name, "groups" | "beams");
    if !sequences {
        lanes::draw(engine_of.name, &mut s);
    }
    // Adapters, for whoever heeds them.
    let common = s.deployment.scheduler.common();
    let heeds = common.is_some_and(|c| c.knows_adapters && c.policy != QueueOrder::Fair);
    let heeds = heeds && s.deployment.speculative.is_none();
    let heeds = heeds && s.deployment.pools.is_empty();
    let heeds = heeds && !sequences;
    let few = s.deployment.kv.tiers.is_empty() && !matches!(s.deployment.scheduler, Scheduler::Trtllm(_));
    if heeds && dice.one_in(if few { 4 } else { 2 }) {
        lora::draw(dice, &sizes, &mut s);
    }
    if !s.deployment.kv.tiers.is_empty() && matches!(s.deployment.scheduler, Scheduler::VllmV1(_)) {
        encoder(seed, &mut s, &mut requests);
    }
    if s.deployment.lora.is_some() {
        requests.adapter = lora::asked(dice, requests.len());
    }
    let encodes = matches!(s.deployment.scheduler, Scheduler::Sglang(_) | Scheduler::Trtllm(_));
    if encodes && !sequences {
        encoder(seed, &mut s, &mut requests);
    }
    if let Some(encoder) = &mut s.deployment.encoder {
        encoder.max_num_encoder_input_tokens = None;
        if matches!(s.deployment.scheduler, Scheduler::Trtllm(_)) {
            encoder.encoder_cache_size = None;
        }
    }
    if s.deployment.speculative.is_some() {
        requests.acceptance = speculative::own(dice, requests.len());
    }
    if engine_of.name == "beams" {
        super::beams::draw(seed, &mut s, &mut requests);
        return (s, requests);
    }
    let all = matches!(engine_of.name, "samples" | "groups");
    super::samples::draw(seed, if all { 1 } else { 5 }, &mut s, &mut requests);
    (s, requests)
}

/// Blocks enough for a prompt beside the watermark, as the check wants them.
fn room_beside_watermark(s: &mut Scenario) {
    let fixed = plan::blocks_per_request(&s.deployment, &s.model);
    let (scheduler, block_size) = (s.deployment.scheduler.clone(), s.deployment.kv.block_size);
    if let Some(blocks) = &mut s.deployment.kv.num_gpu_blocks {
        while scheduler.most_tokens(*blocks, fixed, block_size) < 2 {
            *blocks += 1;
        }
    }
}
