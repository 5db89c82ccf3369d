//! Scenarios with speculative decoding: those of the swarm without asynchronous scheduling, and drafts.

use super::engines::lora;
use super::{Dice, Sizes, cluster, conversations, encoder, engine, latency};
use crate::request::Requests;
use crate::rng;
use crate::scenario::Scenario;
use crate::sim::scheduler::{QueueOrder, Scheduler};
use crate::sim::speculative::{Acceptance, DraftMethod, Speculative};

/// What they must fire, by the names that the oracle counts under.
pub const SPECULATIVE: &[&str] = &[
    "speculative: all drafts accepted",
    "speculative: no draft accepted",
    "speculative: accepted past the end of the reply",
    "speculative: drafts were cut",
    "speculative: blocks kept for rejected drafts",
    "speculative: drafts kept through a step without tokens",
    "speculative: a victim gave back its drafts",
    "speculative: last block of a hit dropped",
    "speculative: nothing drafted in a large batch",
    "encoder: encoded before a prompt",
    "lora: loaded in the step",
    "lora: loaded in the background",
    "lora: a slot is given up",
];

/// The scenario of a seed.
pub fn scenario_speculative(seed: u64) -> (Scenario, Requests) {
    let (mut s, mut requests, _, sizes) = engine(seed);
    latency::draw(seed, &sizes, &mut s);
    let dice = &mut Dice(rng::stream(seed, "swarm/speculative"));
    s.deployment.speculative = Some(drafts(dice, &sizes));
    requests.acceptance = own(dice, requests.len());
    match dice.range(0, 5) {
        0 | 1 => {}
        2 => cluster::one_pool(dice, &mut s, &mut requests),
        _ => cluster::pools(dice, &sizes, &mut s, &mut requests),
    }
    if s.deployment.replicas > 1 || !s.deployment.pools.is_empty() {
        conversations::draw(dice, &sizes, &mut s.workload, &mut requests);
    }
    encoder(seed, &mut s, &mut requests);
    if s.deployment.pools.is_empty() && dice.one_in(4) {
        lora::draw(dice, &sizes, &mut s);
        requests.adapter = lora::asked(dice, requests.len());
    }
    in_time(&mut s.deployment.scheduler);
    s.deployment.pools.values_mut().filter_map(|pool| pool.scheduler.as_mut()).for_each(in_time);
    (s, requests)
}

/// Steps are formed when the one before has ended, in an order that goes with drafts.
fn in_time(scheduler: &mut Scheduler) {
    if let Scheduler::VllmV1(rules) = scheduler {
        rules.async_scheduling = false;
        if rules.scheduling_policy == QueueOrder::Fair {
            rules.scheduling_policy = QueueOrder::Priority;
        }
    }
}

/// How often drafts of requests are accepted, where these say so themselves.
pub(super) fn own(dice: &mut Dice, count: usize) -> Vec<Option<f64>> {
    dice.column(4, count, |dice| dice.pick(&[0.0, 0.3, 0.9, 1.0]))
}

pub(super) fn drafts(dice: &mut Dice, sizes: &Sizes) -> Speculative {
    let tokens = dice.pick(&[1, 2, 3, 5, 8]);
    let method = dice.pick(&[DraftMethod::Ngram, DraftMethod::DraftModel, DraftMethod::Eagle, DraftMethod::Mtp]);
    let mut by_batch_size = Vec::new();
    if dice.one_in(3) {
        let (first, fewer) = (dice.range(1, 4), dice.range(0, tokens));
        by_batch_size = vec![[1, first, tokens], [first + dice.range(1, 2), 50, fewer]];
    }
    let rate = |dice: &mut Dice| f64::from(dice.range(0, 10)) * 0.1;
    let acceptance = match dice.one_in(3) {
        true => {
            let mut rates: Vec<f64> = (0..tokens).map(|_| rate(dice)).collect();
            rates.sort_by(|a, b| b.total_cmp(a));
            Acceptance::Rates(rates)
        }
        false => Acceptance::Rate(rate(dice)),
    };
    let ngram = method == DraftMethod::Ngram;
    Speculative {
        method,
        num_speculative_tokens: tokens,
        num_speculative_tokens_per_batch_size: by_batch_size,
        adaptive: None,
        acceptance,
        draft_us: if dice.one_in(2) {
            0.0
        } else {
            f64::from(dice.range(0, 300)) * if sizes.round { 10.0 } else { 0.7 }
        },
        draft_share: if ngram || dice.one_in(2) { 0.0 } else { f64::from(dice.range(1, 30)) * 0.01 },
    }
}
