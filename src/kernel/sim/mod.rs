//! The simulator: many replicas, one clock, a cost per event instead of per token.
//!
//! [`simulate`] runs one scenario and fills a [`Sink`]; [`reference::simulate`] does the same the obvious way, and the
//! two must agree in every row.
//!
//! | file | holds |
//! |---|---|
//! | `engine` | the cluster: arrivals, router, order of rows, totals |
//! | `replica`, `batch`, `ending` | one replica: time passing, forming a step, ending one |
//! | [`scheduler`] | the rules: decisions about one request at a time; `exclusive` is a node of its own |
//! | [`kv`] | memory plan, content hashes, the block pool |
//! | [`latency`] | step times |
//! | [`router`], `queue`, `load`, `timing` | which replica; who is next; what arrives and what clients want; how long a step lasts |
//! | `itl`, `log`, `work` | gaps of all requests, gaps of one, sums over steps |
//! | [`reference`], `reference_exclusive`, [`swarm`], `timelines` | the oracles, random scenarios, cases by hand |
//!
//! To add a scheduler: a variant of [`scheduler::Scheduler`]; its rules as answers to what `batch` asks (tokens of a
//! running and of a waiting request, a seat, a victim), or, where it does not form batches, a `Node` as `exclusive` is.
//!
//! # Time
//!
//! At one instant things happen in this order: steps end, and what they complete leaves; requests arrive, are routed or
//! rejected; requests whose time before the queue is over enter the queue; clients that went are noticed; steps start.
//! A request with more than `max_len - 1` prompt tokens is rejected at its arrival.
//!
//! **A step** of a replica lasts what the latency model says of its batch, plus `scheduler_overhead_us` (with
//! asynchronous scheduling: at least that), at least 1 ns, rounded down to whole ticks, at least one. A model that asks
//! for 13 days or more is an error. A step whose batch has no tokens lasts one tick. Its tokens come out at its end; the
//! step that completes a prompt yields a token.
//!
//! **Clients that go** (timeout, cancellation) are noticed between steps: at the end of the step that runs then (with
//! asynchronous scheduling: of the first of the two), at once where none runs. A token that came out until then counts,
//! and a request that was completed until then is served. It loses its blocks, and its tokens of a step that still
//! runs are nobody's. A request whose client is gone when it reaches the queue never enters it (`queued` stays `None`).
//!
//! **The horizon**: a step that ends at it has ended, one that ends later counts nowhere. No step starts at or after it,
//! and what arrives at or after it does not arrive.
//!
//! **Asynchronous scheduling** (vLLM's `async_scheduling`): the next step is formed when one starts, not when it ends.
//! At the end of step k, which is the start of step k + 1: the tokens of step k come out, requests that are complete
//! leave, queue and clients are looked at, and then step k + 2 is formed, as if all tokens of step k + 1 were out.
//! So a request that ends at its own length is in one step more, whose token for it is nobody's (no gap, no output; it
//! counts in the shape of the batch). One that is cut ([`Status::LengthCapped`]) is not: the scheduler knows, gives it
//! nothing, and its seat and blocks are free one step later, when its last token is out. When nothing runs and something
//! can be formed, that step starts at once, and the one after it is formed at the same instant. An empty step is not
//! formed while another runs. A request preempted while a step with it runs keeps the token of that step, also if that
//! completes it: then it leaves the queue when the step ends, before the queue is looked at.
//!
//! # Figures
//!
//! A preemption begins a loss, unless one is under way; the loss ends with the end of the step that has computed as many
//! tokens of the request as it ever had in the cache. `preempted` is the sum of the losses, and of what had begun to be
//! lost when the client went or the horizon came. Recomputed tokens are those computed at places that had been computed
//! before (as far as the prefix cache did not give them back), counted when their step is formed.
//!
//! `running` is from admission until the request leaves the replica or is preempted, `waiting` from the queue (or the
//! preemption) until admission or the noticed end of a client's patience; their integrals and that of the blocks in use
//! run from each change to the next. Blocks are in use from the forming of the step that takes them. Peaks are taken
//! after requests enter the queue, and after a batch is formed.

mod batch;
mod check;
mod ending;
mod engine;
mod facts;
mod itl;
pub mod kv;
pub mod latency;
mod load;
mod log;
mod queue;
pub mod reference;
mod reference_exclusive;
mod replica;
pub mod router;
pub mod scheduler;
#[doc(hidden)]
pub mod swarm;
#[cfg(test)]
mod timelines;
mod timing;
mod work;

use std::sync::atomic::AtomicBool;

pub use latency::utilization;

use crate::request::Requests;
use crate::scenario::Scenario;
use crate::units::{SimDuration, SimTime};

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Served to the end.
    Finished,
    /// Served, but the reply was cut: by `max_tokens`, by `max_model_len`, or by the size of the KV cache.
    LengthCapped,
    /// Can never run: with one token of output longer than `max_model_len`, or than the whole KV cache.
    Rejected,
    /// Its client gave up after `timeout_s`.
    TimedOut,
    /// Its client went away.
    Cancelled,
    /// Not done at the horizon.
    InFlight,
}

impl Status {
    pub const ALL: [Status; 6] = [
        Status::Finished,
        Status::LengthCapped,
        Status::Rejected,
        Status::TimedOut,
        Status::Cancelled,
        Status::InFlight,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Status::Finished => "finished",
            Status::LengthCapped => "length_capped",
            Status::Rejected => "rejected",
            Status::TimedOut => "timed_out",
            Status::Cancelled => "cancelled",
            Status::InFlight => "in_flight",
        }
    }

    /// Whether the client got a complete reply, as far as caps allow.
    pub fn served(self) -> bool {
        matches!(self, Status::Finished | Status::LengthCapped)
    }
}

/// The gaps between consecutive tokens of one request, as the engine hands them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItlStats {
    /// Sum of the gaps: last token minus first.
    pub sum: SimDuration,
    /// 99th percentile, linear interpolation, to the nearest nanosecond (half up).
    pub p99: SimDuration,
    pub max: SimDuration,
}

/// The life of one request. Times that did not come about are `None`: a rejected request has its arrival only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestRow {
    /// Index in [`Requests`].
    pub request: u32,
    pub replica: u32,
    pub status: Status,
    pub arrival: SimTime,
    /// When it is in the queue of the scheduler: arrival, and what the latency model puts before the queue.
    pub queued: Option<SimTime>,
    /// First time that the scheduler gave it tokens.
    pub scheduled: Option<SimTime>,
    /// When the client has the first token.
    pub first_token: Option<SimTime>,
    /// When the client has the last token; only where [`Status::served`].
    pub finished: Option<SimTime>,
    pub input_tokens: u32,
    /// Tokens generated.
    pub output_tokens: u32,
    /// Prompt tokens found in the prefix cache at first admission.
    pub cached_tokens: u32,
    /// Tokens computed again because a preemption lost them.
    pub recomputed_tokens: u32,
    pub preemptions: u32,
    /// Time lost to preemptions: from each until the end of the step that has computed again what it lost.
    pub preempted: SimDuration,
    /// `None` with fewer than two tokens.
    pub itl: Option<ItlStats>,
}

impl RequestRow {
    /// A request of which nothing is known but that it arrived and what became of it.
    pub(crate) fn new(request: u32, replica: u32, status: Status, arrival: SimTime) -> RequestRow {
        RequestRow {
            request,
            replica,
            status,
            arrival,
            queued: None,
            scheduled: None,
            first_token: None,
            finished: None,
            input_tokens: 0,
            output_tokens: 0,
            cached_tokens: 0,
            recomputed_tokens: 0,
            preemptions: 0,
            preempted: SimDuration::ZERO,
            itl: None,
        }
    }
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
    /// Tokens in the cache, before the step, of the requests in the batch.
    pub context_tokens: u64,
    /// After the batch was formed: requests that run (in the batch or not), and that wait.
    pub running: u32,
    pub waiting: u32,
    /// Requests preempted while the batch was formed.
    pub preempted: u32,
    pub kv_blocks_used: u64,
}

/// Receives rows as they come about.
///
/// Requests come in the order in which the engines end them (equal times: replica, then ends of steps in batch order,
/// then clients that went, by request); a rejected one at its arrival, after all that ended at that time. What is in
/// flight at the horizon comes last, by request. Steps come in the order of their ends (equal times: replica). How rows
/// of requests and of steps interleave is not specified.
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
    /// Requests that arrived: the sum of the six counts that follow.
    pub injected: u64,
    pub finished: u64,
    pub length_capped: u64,
    pub rejected: u64,
    pub timed_out: u64,
    pub cancelled: u64,
    pub in_flight: u64,
    /// Requests of the trace that arrive before one in front of them; they are simulated at their time.
    pub out_of_order: u64,
    pub preemptions: u64,
    pub recomputed_tokens: u64,
    pub steps: u64,
    /// Last completion, rejection or abort; the horizon where something is in flight.
    pub end: SimTime,
    /// Time that replicas spent in steps, or servers with requests, summed over them.
    pub busy: SimDuration,
    /// KV blocks of one replica.
    pub kv_blocks_total: u64,
    /// Most blocks in use at once on any replica.
    pub kv_blocks_max: u64,
    /// Most requests that run, and that wait, at once on any replica.
    pub running_max: u64,
    pub waiting_max: u64,
    /// Integrals over time, summed over replicas: blocks in use, requests running, requests waiting; times nanoseconds.
    pub kv_block_ns: i128,
    pub running_ns: i128,
    pub waiting_ns: i128,
    /// Prompt tokens and full blocks looked up in the prefix cache at first admissions, and found there.
    pub prefix_tokens_queried: u64,
    pub prefix_tokens_hit: u64,
    pub prefix_blocks_queried: u64,
    pub prefix_blocks_hit: u64,
    /// What all steps together computed.
    pub work: WorkSums,
    /// Gaps between consecutive tokens of a request over all requests, as (gap, how often), sorted by gap. As the engine
    /// hands tokens out: what a latency model adds after every token shifts them all, and changes no gap.
    pub itl: Vec<(SimDuration, u64)>,
}

/// Sums over the batches of all steps that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkSums {
    /// Sum of every field of the shape over the steps.
    pub decode_requests: u64,
    pub decode_context: u128,
    pub prefill_tokens: u64,
    pub prefill_context: u128,
    pub prefill_tokens_x_context: u128,
    pub prefill_tokens_squared: u128,
    /// `steps_by_tokens[n]` steps computed `n` new tokens: the load on the experts of a mixture depends on it.
    pub steps_by_tokens: Vec<u64>,
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
