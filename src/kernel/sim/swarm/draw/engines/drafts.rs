//! Scenarios of engines other than vLLM's V1 that decode speculatively.

use super::super::{Dice, Sizes, speculative};
use super::{sglang, trtllm};
use crate::pools::Disaggregation;
use crate::scenario::Scenario;
use crate::sim::adaptive::{Adaptive, AdaptiveBatch};
use crate::sim::scheduler::{MoeA2aBackend, QueueOrder, Scheduler};
use crate::sim::speculative::Acceptance;

/// What every scenario of [`sglang_drafts`] together must fire, by the names that the oracle counts under.
pub(super) const SGLANG: &[&str] = &[
    "speculative: all drafts accepted",
    "speculative: no draft accepted",
    "speculative: accepted past the end of the reply",
    "speculative: blocks of rejected drafts given back",
    "speculative: last block of a hit dropped",
    "sglang: replies pause",
    "sglang: a cut prompt goes first",
    "sglang: no seat",
    "sglang: no tokens",
    "sglang: full",
    "sglang: who ended still counts",
    "sglang: idle",
    "sglang: retracted from the end, with drafts",
    "sglang: kept once",
    "sglang: padded with drafts",
    "sglang: kernels cost",
    "sglang: replies in a row",
    "adaptive: a larger batch",
    "adaptive: no drafts",
    "adaptive: longer",
    "adaptive: shorter",
];

/// SGLang with drafts.
pub(super) fn sglang_drafts(dice: &mut Dice, sizes: &Sizes, s: &mut Scenario) {
    sglang::draw(dice, sizes, s);
    // Prefill and decode servers have no drafts here, and tiers do not know of them.
    s.deployment.kv.tiers.clear();
    s.deployment.pools.clear();
    s.pools.clear();
    s.deployment.disaggregation = Disaggregation::default();
    let page = s.deployment.kv.block_size;
    let mut drafts = speculative::drafts(dice, sizes);
    drafts.num_speculative_tokens_per_batch_size.clear();
    if drafts.follows_model() && dice.one_in(2) {
        drafts.adaptive = Some(adaptive(dice));
        if let Acceptance::Rates(_) = drafts.acceptance {
            drafts.acceptance = Acceptance::Rate(dice.pick(&[0.2, 0.6, 0.9]));
        }
    }
    // What the drafts of one request take must be there beside the least cache.
    let pages = (1 + drafts.longest()).div_ceil(page);
    let adapts = drafts.adaptive.is_some();
    if let Some(blocks) = &mut s.deployment.kv.num_gpu_blocks {
        *blocks += u64::from(pages);
    }
    s.deployment.speculative = Some(drafts);
    if let Scheduler::Sglang(rules) = &mut s.deployment.scheduler {
        rules.max_running_requests = rules.max_running_requests.filter(|_| dice.one_in(2));
        // Graphs for even numbers of requests only.
        if !adapts && dice.one_in(3) {
            (rules.enable_two_batch_overlap, rules.moe_a2a_backend) = (true, MoeA2aBackend::Deepep);
            rules.cuda_graph_max_bs = Some(24);
        }
    }
}

/// Lengths that are chosen anew often.
fn adaptive(dice: &mut Dice) -> Adaptive {
    let mut entry = |batch_size: u32| AdaptiveBatch {
        batch_size,
        candidate_steps: dice.pick(&[vec![1, 3, 5, 7], vec![0, 1, 3], vec![2, 3], vec![0], vec![0, 2, 8]]),
        ema_alpha: dice.pick(&[0.2, 0.7, 1.0]),
        update_interval: dice.range(1, 3),
        warmup_batches: dice.range(0, 4),
        up_hysteresis: dice.pick(&[0.0, 0.3]),
        down_hysteresis: dice.pick(&[0.0, -0.25]),
        ceiling_coeff: dice.pick(&[0.0, 0.0, 1.0, 1.5]),
    };
    let batches = vec![entry(1), entry(3)];
    Adaptive { batches }
}

/// The same for [`trtllm_drafts`].
pub(super) const TRTLLM: &[&str] = &[
    "speculative: all drafts accepted",
    "speculative: no draft accepted",
    "speculative: accepted past the end of the reply",
    "speculative: blocks of rejected drafts given back",
    "speculative: drafts beyond what was set aside",
    "speculative: drafts kept through a step without tokens",
    "trtllm: no room for drafts",
    "trtllm: not enough blocks to completion",
    "trtllm: not enough blocks for a step",
    "trtllm: a static batch is not done",
    "trtllm: pauses himself",
    "trtllm: pauses the last",
    "trtllm: waits for a prefix",
    "trtllm: chunks first come first served",
    "trtllm: chunks of equal progress",
];

/// TensorRT-LLM with drafts.
pub(super) fn trtllm_drafts(dice: &mut Dice, sizes: &Sizes, s: &mut Scenario) {
    trtllm::draw(dice, sizes, s);
    let mut drafts = speculative::drafts(dice, sizes);
    drafts.num_speculative_tokens_per_batch_size.clear();
    if let Scheduler::Trtllm(rules) = &mut s.deployment.scheduler {
        // A step holds the drafts of one request, or of some.
        let few = (1 + drafts.num_speculative_tokens) * dice.range(1, 3);
        rules.max_num_tokens = rules.max_num_tokens.max(few);
        // Tenants are charged before anybody knows what comes out.
        if rules.scheduling_policy == QueueOrder::Fair {
            rules.scheduling_policy = QueueOrder::Fcfs;
        }
    }
    s.deployment.speculative = Some(drafts);
}
