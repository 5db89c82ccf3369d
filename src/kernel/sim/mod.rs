//! The simulator: many replicas, one clock, a cost per event instead of per token.
//!
//! [`simulate`] runs one scenario and fills a [`Sink`]; [`reference::simulate`] does the same the obvious way, and the
//! two must agree in every row.

mod batch;
mod check;
mod engine;
mod facts;
mod itl;
pub mod kv;
pub mod latency;
mod load;
pub mod reference;
mod replica;
pub mod router;
pub mod scheduler;
#[doc(hidden)]
pub mod swarm;

use std::sync::atomic::AtomicBool;

use crate::request::Requests;
use crate::scenario::Scenario;
use crate::units::{SimDuration, SimTime};

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Finished,
    /// Can never run: with one token of output longer than `max_model_len`, or than the whole KV cache.
    Rejected,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Finished => "finished",
            Status::Rejected => "rejected",
        }
    }
}

/// The life of one request. For a rejected request every time but `arrival` is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestRow {
    /// Index in [`Requests`].
    pub request: u32,
    pub replica: u32,
    pub status: Status,
    pub arrival: SimTime,
    /// First time that the scheduler gave it tokens.
    pub scheduled: Option<SimTime>,
    /// When the client has the first token.
    pub first_token: Option<SimTime>,
    /// When the client has the last token.
    pub finished: Option<SimTime>,
    pub input_tokens: u32,
    /// Tokens generated; less than asked for where `max_model_len` or the size of the KV cache cut it.
    pub output_tokens: u32,
    /// Prompt tokens found in the prefix cache at first admission.
    pub cached_tokens: u32,
    pub preemptions: u32,
}

/// One iteration of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepRow {
    pub replica: u32,
    pub start: SimTime,
    pub duration: SimDuration,
    pub decode_requests: u32,
    pub prefill_requests: u32,
    pub prefill_tokens: u32,
    pub waiting: u32,
    pub kv_blocks_used: u64,
}

/// Receives rows as they come about.
///
/// Requests come in the order in which the engines complete them (equal times: replica, then batch order), a rejected
/// one at its arrival, after completions at that time. Steps come in the order of their ends (equal times: replica).
/// How rows of requests and of steps interleave is not specified.
pub trait Sink {
    fn request(&mut self, row: RequestRow);
    /// Only called when [`Sink::wants_steps`].
    fn step(&mut self, _row: StepRow) {}
    fn wants_steps(&self) -> bool {
        false
    }
}

/// Totals of one simulation. Every sum is an exact integer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Requests that arrived.
    pub injected: u64,
    pub finished: u64,
    pub rejected: u64,
    pub preemptions: u64,
    pub steps: u64,
    /// Last completion, or last rejection.
    pub end: SimTime,
    /// Time that replicas spent in steps, summed over replicas.
    pub busy: SimDuration,
    /// KV blocks of one replica.
    pub kv_blocks_total: u64,
    /// Most blocks in use at once on any replica.
    pub kv_blocks_max: u64,
    /// Prompt tokens looked up in the prefix cache at first admissions, and found there.
    pub prefix_tokens_queried: u64,
    pub prefix_tokens_hit: u64,
    /// Gaps between consecutive tokens of a request over all requests, as (gap, how often), sorted by gap. As the engine
    /// hands tokens out: what a latency model adds after every token shifts them all, and changes no gap.
    pub itl: Vec<(SimDuration, u64)>,
}

/// Why a scenario cannot be simulated: the user's mistake, in words for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SimError {
    /// The scenario itself is impossible; the field (dotted path) and what would be valid.
    Invalid { path: &'static str, message: String },
    /// `stop` was set.
    Cancelled,
}

impl std::fmt::Display for SimError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SimError::Invalid { path, message } => write!(f, "{path}: {message}"),
            SimError::Cancelled => write!(f, "cancelled"),
        }
    }
}

impl std::error::Error for SimError {}

/// Deviations from vLLM that reproduce another simulator's figures. For reference tests, not for users.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quirks {
    /// A preempted request loses its tokens and starts again from its prompt.
    pub restart_from_prompt: bool,
    /// A prompt found whole in the prefix cache computes nothing and holds none of the blocks found; vLLM holds them
    /// and computes the last token again.
    pub free_full_hits: bool,
    /// Steps last whole microseconds, rounded down, at least one.
    pub whole_microseconds: bool,
    /// A completed request takes the place of its last token too, before it frees all.
    pub block_at_completion: bool,
    /// The chunk with which a request is admitted attends to nothing that it found in the prefix cache.
    pub hits_without_context: bool,
}

/// Checks a scenario without running it: sizes that must be positive, memory that must fit.
///
/// # Errors
/// Every problem found, in a fixed order.
pub fn check(scenario: &Scenario) -> Result<(), Vec<SimError>> {
    check::check(scenario)
}

/// Runs one scenario over `requests` and hands every row to `sink`.
///
/// `stop` is polled at least every few thousand events.
///
/// # Errors
/// [`SimError::Invalid`] when the scenario is impossible, [`SimError::Cancelled`] when `stop` was set.
pub fn simulate(
    scenario: &Scenario,
    requests: &Requests,
    sink: &mut dyn Sink,
    stop: &AtomicBool,
) -> Result<Summary, SimError> {
    engine::simulate(scenario, requests, sink, stop, Quirks::default())
}

/// [`simulate`] with deviations.
///
/// # Errors
/// As [`simulate`].
#[doc(hidden)]
pub fn simulate_with(
    scenario: &Scenario,
    requests: &Requests,
    sink: &mut dyn Sink,
    stop: &AtomicBool,
    quirks: Quirks,
) -> Result<Summary, SimError> {
    engine::simulate(scenario, requests, sink, stop, quirks)
}
