//! The oracle: the same simulation the obvious way, one request, one token and one step at a time.
//!
//! Nothing is summed up in advance, nothing is skipped, every block has an id. Slow on purpose. Promises the same
//! rows, to the nanosecond, as the fast engine. Shares with it what it does not check: step times, what clients want
//! and when, the number of blocks, and hashes.
//!
//! Where the rules leave room, this is what they mean here:
//! - Of running requests of equal priority and arrival, the one with the highest number is preempted: the end of the
//!   order of the queue. With any other choice two of them can preempt each other forever.
//! - A victim that stands before the request that needs its blocks does not cost those behind it their turn.
//! - A request whose client is gone when it reaches the queue ends at that time, also during a step. Requests that
//!   reach the queue at the same time do so by arrival, then by number.
//! - Whatever leaves while a loss is under way has lost the time until it left. A loss ends with a step only if the
//!   request was not preempted again since that step was formed.
//! - What a request found in the prefix cache counts as computed by it, when it loses that.
//! - What happens when a step is formed (admission, preemption, recomputed tokens, peaks) counts even if the horizon
//!   comes before the step ends. What is preempted while an empty batch is dropped is in no step's row.
//! - A batch is empty if it has no requests; one whose requests have no tokens (`recompute_full_hits`) is formed.

mod forming;
mod parts;
mod steptime;
mod world;

use std::sync::atomic::AtomicBool;

use super::engine;
use super::kv::{hashes, plan};
use super::scheduler::Scheduler;
use super::{Quirks, SimError, Sink, Summary, reference_exclusive};
use crate::request::Requests;
use crate::scenario::Scenario;
use world::World;

/// What no row tells: how often something happened that scenarios should reach.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Victims that gave back their share of the step.
    pub give_backs: u64,
    /// Decode requests that run, and got nothing in a step.
    pub stalls: u64,
    /// Steps whose batch had no tokens.
    pub empty_steps: u64,
    /// Tokens of a step that were nobody's.
    pub wasted: u64,
    /// Requests that a step left out because their last token was about to come out.
    pub left_out: u64,
    /// Steps that ended when a request arrived.
    pub ties: u64,
    /// Requests whose client was gone before they reached the queue.
    pub never_queued: u64,
}

/// Runs one scenario like [`super::simulate`].
///
/// # Errors
/// As [`super::simulate`].
pub fn simulate(
    scenario: &Scenario,
    requests: &Requests,
    sink: &mut dyn Sink,
    stop: &AtomicBool,
) -> Result<Summary, SimError> {
    simulate_with(scenario, requests, sink, stop, Quirks::default())
}

/// [`simulate`] with deviations.
///
/// # Errors
/// As [`super::simulate`].
#[doc(hidden)]
pub fn simulate_with(
    scenario: &Scenario,
    requests: &Requests,
    sink: &mut dyn Sink,
    stop: &AtomicBool,
    quirks: Quirks,
) -> Result<Summary, SimError> {
    observe(scenario, requests, sink, stop, quirks).map(|(summary, _)| summary)
}

/// [`simulate_with`], and what it has seen on the way.
///
/// # Errors
/// As [`super::simulate`].
#[doc(hidden)]
pub fn observe(
    scenario: &Scenario,
    requests: &Requests,
    sink: &mut dyn Sink,
    stop: &AtomicBool,
    quirks: Quirks,
) -> Result<(Summary, Seen), SimError> {
    let demand = engine::accept(scenario, requests)?;
    let d = &scenario.deployment;
    match &d.scheduler {
        Scheduler::VllmV1(rules) => {
            let blocks = plan::blocks(d, &scenario.model, &scenario.gpu)?;
            let derivation = hashes::derivation(requests, d.kv.block_size, d.kv.enable_prefix_caching)?;
            let max_len = engine::max_len(scenario, blocks);
            World::new(scenario, &demand, rules, derivation, blocks, max_len, quirks).run(sink, stop)
        }
        Scheduler::Exclusive(_) => {
            reference_exclusive::simulate(scenario, demand, sink, stop).map(|summary| (summary, Seen::default()))
        }
    }
}
