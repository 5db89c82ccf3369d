//! The other schedulers of batches: the scenarios of the swarm with one of them in the place of vLLM's.

mod faster_transformer;
mod lightllm;
mod lora;
mod orca;
mod orders;
mod sarathi;
mod sglang;
mod tiers;
mod trtllm;
mod vllm_v0;

use super::cluster;
use super::conversations;
use super::{Dice, Sizes, engine, latency};
use crate::request::Requests;
use crate::rng;
use crate::scenario::Scenario;
use crate::sim::scheduler::QueueOrder;

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
    Engine { name: "orders", rules: orders::RULES, draw: orders::draw },
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
    // Adapters, for whoever heeds them.
    let common = s.deployment.scheduler.common();
    let heeds = common.is_some_and(|c| c.knows_adapters && c.policy != QueueOrder::Fair);
    let heeds = heeds && s.deployment.pools.is_empty();
    if heeds && s.deployment.kv.tiers.is_empty() && dice.one_in(4) {
        lora::draw(dice, &sizes, &mut s);
    }
    if s.deployment.lora.is_some() {
        requests.adapter = lora::asked(dice, requests.len());
    }
    (s, requests)
}
