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
//! - Whatever leaves while a loss is under way has lost the time until it left. A loss ends with a step only if the
//!   request was not preempted again since that step was formed.
//! - What a request found in the prefix cache counts as computed by it, when it loses that.
//! - What happens when a step is formed (admission, preemption, recomputed tokens, peaks) counts even if the horizon
//!   comes before the step ends. What is preempted while an empty batch is dropped is in no step's row.
//! - A batch is empty if it has no requests; one whose requests have no tokens (`recompute_full_hits`) is formed.

mod adapters;
mod caches;
mod forming;
mod groups;
mod journey;
mod lanes;
mod moving;
mod orders;
mod parts;
mod pools;
mod routing;
mod samples;
mod sessions;
mod speculating;
mod steptime;
#[cfg(test)]
mod tests;
mod tiers;
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use super::engine;
use super::latency::LatencyModel;
use super::{Quirks, SimError, Sink, Summary, latency, reference_exclusive};
use crate::pools::Site;
use crate::request::Requests;
use crate::scenario::Scenario;
use world::World;

/// What no row tells: how often something happened that scenarios should reach.
#[doc(hidden)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// Times that the head of a queue did not fit, and requests that hold their blocks and went before others.
    pub blocked: u64,
    pub passed: u64,
    /// Times that a decode replica had no room for the first request that waited for it, and clients that went meanwhile.
    pub no_room: u64,
    pub left_waiting_for_room: u64,
    /// Prompts that a decode replica computed itself.
    pub local_prompts: u64,
    /// Preemptions of replies to prompts that were computed elsewhere.
    pub reply_preemptions: u64,
    /// Transfers that shared when they began to flow, that had nothing to send, and of which a part was sent early.
    pub shared_transfers: u64,
    pub empty_transfers: u64,
    pub sent_early: u64,
    /// Decisions about candidates that were not as the router saw them, counted by candidate.
    pub stale: u64,
    /// Sessions that a sticky router moved.
    pub moved_sessions: u64,
    /// Times that an encoder, or its cache, had no room for the head of the queue.
    pub encoder_waits: u64,
    /// How often each rule of a scheduler was applied, by the scheduler's name for it.
    pub fired: BTreeMap<&'static str, u64>,
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
    observe_of(scenario, requests, sink, stop, quirks, latency::of)
}

/// [`observe`] with latency models of another's making. Exclusive replicas have none.
///
/// # Errors
/// As [`super::simulate`].
#[doc(hidden)]
pub fn observe_of(
    scenario: &Scenario,
    requests: &Requests,
    sink: &mut dyn Sink,
    stop: &AtomicBool,
    quirks: Quirks,
    model: fn(&Site) -> Result<Box<dyn LatencyModel>, SimError>,
) -> Result<(Summary, Seen), SimError> {
    let completed = super::samples::complete(scenario, requests);
    let requests = completed.as_ref();
    let demand = engine::accept(scenario, requests)?;
    let d = &scenario.deployment;
    if d.scheduler.common().is_none() && d.pools.is_empty() {
        return reference_exclusive::simulate(scenario, demand, sink, stop).map(|summary| (summary, Seen::default()));
    }
    World::new(scenario, &demand, quirks, model)?.run(sink, stop)
}
