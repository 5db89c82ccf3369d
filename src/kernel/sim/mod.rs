//! The simulator: many replicas, one clock, a cost per event instead of per token.
//!
//! [`simulate`] runs one scenario and fills a [`Sink`]; [`reference::simulate`] does the same the obvious way, and the
//! two must agree in every row.
//!
//! | file | holds |
//! |---|---|
//! | `engine`, `cluster` | what engines share; passing time: what happens at which instant |
//! | `dispatch`, `harvest` | arrivals and ends of requests and of their parts; rows in order, totals |
//! | `gateway`, [`router`] | sets of candidates and what is known of them; which one |
//! | `graph`, `flow` | who waits for whom; what is sent when |
//! | `disagg`, `transfer`, `moving` | requests of several parts; bytes on their way; KV caches that leave an engine or come |
//! | `node`, `replica`, `batch`, `ending` | what the cluster wants of an engine; one engine: time passing, forming a step, ending one |
//! | `lanes` | several batches in flight: stages of a pipeline |
//! | `live`, `blocks`, `classes`, `runs`, `foresight` | requests on an engine, and their blocks; decode requests by length; runs of steps of theirs; before when nothing is to be told |
//! | [`scheduler`], `forming` | the rules, and what is refused; steps formed by them, a file each; `exclusive` is a node of its own |
//! | [`speculative`], [`adaptive`], `verify` | drafts: the rules, and SGLang's about their length; who verifies how many, and what comes of it |
//! | [`kv`], [`tiers`] | memory plan, content hashes, the block pool; stores behind it |
//! | [`latency`] | step times |
//! | [`encoder`], [`samples`], [`beams`], `groups` | encoder inputs on the replicas themselves; parallel samples of a request; its beams; and where either are its sequences |
//! | [`lora`] | adapters: who must wait for one, what they cost |
//! | `queue`, `fair`, `load`, `timing`, `jitter` | who is next, also by tenants; what arrives and what clients want; how long a step lasts |
//! | `itl`, `log`, `work` | gaps of all requests, gaps of one, sums over steps |
//! | [`mod@reference`], `reference_exclusive`, [`swarm`], `timelines` | the oracles, random scenarios, cases by hand |
//!
//! To add a scheduler: a variant of [`scheduler::Scheduler`]; its rules as answers to what `batch` asks (tokens of a
//! running and of a waiting request, a seat, a victim), or, where it does not form batches, a `Node` as `exclusive` is.
//!
//! # Time
//!
//! At one instant things happen in this order: steps end, and what they complete leaves; KV caches reach decode replicas,
//! and room is given to others; the gateway looks at its replicas; requests arrive, are routed or rejected; requests whose
//! time before the queue is over enter the queue; clients that went are noticed; steps start. Requests that arrive at one
//! instant do so in the order of the trace. A request with more than `max_len - 1` prompt tokens is rejected at its
//! arrival, after a replica was chosen for it (the router has counted it until then, and does not any more). Requests that
//! reach a queue at one instant do so in the order of the trace, too.
//!
//! What an event that ends a request makes possible (a request that waits for it, the next session of a user, room on a
//! replica) comes about at the same instant; but what follows from a client that went, 1 ns later (room that is free
//! because a KV cache has come for nobody: at the same instant).
//!
//! **A step** of a replica lasts what the latency model says of its batch, plus `scheduler_overhead_us` (with
//! asynchronous scheduling: at least that), at least 1 ns, rounded down to whole ticks, at least one. A model that asks
//! for 13 days or more is an error. A step whose batch has no tokens lasts one tick. Its tokens come out at its end; the
//! step that completes a prompt yields a token. With stages of a pipeline (`pp`) and a scheduler that has several batches in
//! flight, a step passes the stages in that time if no other holds it up, and is *formed* where it would start otherwise
//! (`lanes`).
//!
//! **Overheads** belong to the latency model: `step_us`, and `request_us` for every request with tokens in the batch, are
//! part of what it says of the batch; `tokenize_us`, `tokenize_per_token_us` and half of `network_rtt_ms` go before the
//! queue of every replica that a request is sent to (so an encode replica is a server of its own), `detokenize_us` and
//! the other half after a token: they delay the client, not the engine. **Jitter** multiplies what the model says, before
//! anything else is added or rounded, by `exp(sigma z - sigma^2 / 2)` with `sigma^2 = ln(1 + jitter_cv^2)`, truncated to
//! whole nanoseconds; `z` is standard normal, held within -4 and 4: one number for every step with tokens, in the order in
//! which a replica forms them, from the stream `latency/jitter/N` of the seed for replica `N`. Exclusive replicas have no
//! steps, and no overheads.
//!
//! **Clients that go** (timeout, cancellation) are noticed between steps: at the end of the step that runs then (with
//! asynchronous scheduling, or several batches in flight: of the first of them), at once where none runs. A token that came out until then counts,
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
//! completes it: then it leaves the queue when the step ends, before the queue is looked at. (But a prompt that is to move
//! is nothing without its blocks: that token is nobody's, and the prompt is computed again.)
//!
//! **A replica without room**: where nothing runs, nothing was preempted, and the head of the queue does not get its
//! blocks (prompts that are done hold them until they have moved), no step is formed. It is tried again whenever
//! something enters the queue, a client goes, or blocks are freed there.
//!
//! # Pools
//!
//! A *set of candidates* serves one model in one role, see [`router`]. A request asks for the model of its own, else for
//! that of the deployment; where all pools serve one model, every request is for that. A model is served by mixed pools,
//! or by prefill and decode pools; an encode pool may come in front of either.
//!
//! **With an encode pool**, a request with encoder tokens is first routed to an encode replica, where a prompt of that
//! many tokens is computed by the same rules as any other (with `before_queue`; its prefix cache knows nothing; the
//! scheduler knows that it ends with its prompt; at the end of the step that completes it, it leaves). Its embeddings
//! (encoder tokens x hidden size x 2 bytes) then take the way of a transfer; when they are there, the request is routed
//! as if it arrived then (in the order of the trace with those that do), with its whole prompt; if its client is gone
//! by then, it ends there. Without encoder tokens, or without an encode pool, that part does not exist. A request with
//! more than the encode replica's `max_len - 1` encoder tokens is rejected there. Preemptions and losses of the part
//! count in the request's row.
//!
//! **With prefill and decode pools**: a decode replica is chosen; the decider decides, by the hit on that replica; if the
//! prompt is to be computed elsewhere, a prefill replica is chosen. `max_len` is the lower of the two replicas' (of the
//! decode replica alone, where it does everything), also for the length of the reply. A reply of one token (after caps) is
//! done with its prompt, and nothing is transferred, unless the decode replica makes the first token.
//!
//! *On the prefill replica* the request wants one token, and the scheduler knows. When the step that completes its prompt
//! ends, it leaves the running requests, and its blocks stay in use until its KV cache has moved. Preemption and prefix
//! cache are as ever.
//!
//! *Room.* The request then joins a queue, first come, first served (one instant: in the order of the trace), for the
//! blocks of its decode replica: those of the tokens that it brings and of one more, less the longest prefix of what it
//! brings in the decode replica's cache (as at an admission: never the last token of the prompt, with
//! `recompute_full_hits`). Whenever a request joins that queue, or a
//! request that was sent to that replica leaves it (done or gone), the heads get their blocks as long as there are enough
//! free; the found blocks are shared, the others taken. A head whose client is gone by then leaves instead.
//!
//! *The transfer* begins when the room is given, and moves the blocks of what it brings that were not found: block size
//! x KV bytes of a token each, both of the decode replica. None to move: it is over at once. Else its bytes flow after
//! `latency_us`, and it is over when all have arrived. `n` transfers that share a bandwidth of `B` bytes per second (to
//! the nearest whole number, at least 1) each have `B / n` at every moment: at every instant at which one of them
//! begins or ends to flow, and at no other, `floor(ns * B / (1,000,000 * n))` thousandths of a byte are taken off what
//! each has left, with the ns since the last such instant; with `left` thousandths, the next one is over after
//! `ceil(left * n * 1,000,000 / B)` ns. The instants at which one begins or ends to flow are rounded up to whole ticks.
//! `layerwise`: what is left when the transfer begins is not all its bytes, but `max(ceil(bytes / layers), bytes -
//! floor(B * ns / 1e9))`, with the ns from the first scheduling of the prompt to its end.
//!
//! *When it is over*, the prefill replica's blocks are freed (its blocks of known content stay in its cache), and the
//! contents of the blocks that came become known on the decode replica. If the client is gone, the request ends there.
//! Else it enters the queue of the decode replica like a new request, but holds its blocks, and goes before all that do
//! not (which could wait for these blocks): it is admitted when there are a seat and a token of budget, and its first
//! step there decodes: it counts as a decode request from that step on, with the whole prompt as its context. Where it
//! is preempted, it loses its blocks, and computes prompt and tokens there as any other request does.
//!
//! *Tokens.* `first_token: prefill`: the first token comes out at the end of the prompt's last step; `transfer`: when the
//! KV cache has arrived; in both cases the KV cache of the whole prompt moves, and the steps of the decode replica yield
//! the other tokens. `decode`: the KV cache of all but the last token of the prompt moves; the first step there computes
//! that token as a chunk of a prompt, counts as recomputed (one token), and yields the first token.
//!
//! *Clients* that go while they wait for room, or while their KV cache moves, are noticed when they have it, or when it is
//! over; blocks on both replicas are free then. The end of a transfer like that is an end on the decode replica.
//!
//! # Sessions
//!
//! A request waits for those in its `depends_on` that are simulated; with `sessions: closed` also for the one before it
//! in its session, unless one of the session's requests names others itself (an agent's run has an order of its own).
//! It is sent a think time after the last of them is done (a row's `finished` may be later, by what the client's side
//! takes): its own, else one drawn (one number per request in the order of the trace, from the stream `workload/think`,
//! whether it is used or not), else, where it follows its session, the time between the two arrivals of the trace, else
//! none; never below 0. Arrival processes and rates apply to the requests that wait for nobody. If one of those it
//! waits for does not end as served, it is never sent: `cancelled`, with the time of that end (of several at one
//! instant: the one whose row comes first) as its arrival, on the same replica, and so are those that wait for it. What
//! has not been sent when the simulation ends did not arrive.
//!
//! **Virtual users** (`concurrency: N`): requests that belong to one session, or wait for each other, are one
//! *conversation*; conversations are in the order of their first requests. User `u` of `N` begins conversation `u` at
//! `round(u * mean think time / N)` ns; when all of a conversation's requests have ended, the next one in the order begins
//! a think time (that of its first request, drawn or its own; else none) later. All requests of a conversation that wait
//! for nobody are sent when it begins.
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
//! after requests enter the queue, and after a batch is formed; that of the blocks in use also when room is given.
//!
//! The times of the client's side (`first_token`, `finished`) are those of the engine that makes the reply: the prefill
//! replica only where the reply is its token alone.

pub mod adaptive;
mod batch;
pub mod beams;
mod blocks;
mod check;
mod classes;
mod cluster;
mod disagg;
mod dispatch;
pub mod encoder;
mod ending;
mod engine;
pub mod facts;
mod fair;
mod flow;
mod foresight;
mod forming;
mod gateway;
mod graph;
mod groups;
mod harvest;
mod itl;
mod jitter;
pub mod kv;
pub(crate) mod lanes;
pub mod latency;
mod live;
mod load;
mod log;
pub mod lora;
mod moving;
mod node;
mod queue;
pub mod reference;
mod reference_exclusive;
mod replica;
pub mod router;
mod runs;
pub mod samples;
pub mod scheduler;
pub mod speculative;
mod spread;
#[doc(hidden)]
pub mod swarm;
pub mod tiers;
#[cfg(test)]
mod timelines;
mod timing;
mod transfer;
mod verify;
mod work;

use std::borrow::Cow;
use std::sync::atomic::AtomicBool;

pub use latency::{by_pool, least_seconds, utilization, utilization_of_pool};

use crate::pools::Role;
use crate::request::Requests;
use crate::scenario::Scenario;
use crate::units::{SimDuration, SimTime};
pub use speculative::Speculation;

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
    /// How many there are: one less than tokens of every sample.
    pub count: u64,
    /// Sum of the gaps: last token minus first, of every sample.
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
    /// The engine that it was sent to: with prefill and decode pools the decode replica. Of a request that got no further
    /// than its encoder: that.
    pub replica: u32,
    /// The engine that computed its prompt, where that is another one.
    pub prefill_replica: Option<u32>,
    pub status: Status,
    pub arrival: SimTime,
    /// When its embeddings had arrived, where an encoder came first.
    pub encoded: Option<SimTime>,
    /// When it is in the queue of the scheduler that is to compute its prompt: arrival (or `encoded`), and what the latency
    /// model puts before the queue.
    pub queued: Option<SimTime>,
    /// First time that the scheduler gave it tokens.
    pub scheduled: Option<SimTime>,
    /// When its prompt was done on the prefill replica, and when its KV cache had reached the decode replica.
    pub prefilled: Option<SimTime>,
    pub kv_ready: Option<SimTime>,
    /// When the client has the first token.
    pub first_token: Option<SimTime>,
    /// When the client has the last token; only where [`Status::served`].
    pub finished: Option<SimTime>,
    pub input_tokens: u32,
    /// Parallel samples ([`samples`]): what follows is of all of them together, unless it says otherwise.
    pub samples: u32,
    /// Tokens generated.
    pub output_tokens: u32,
    /// Prompt tokens found in the prefix cache at first admission; of several samples, what the first to be admitted found.
    pub cached_tokens: u32,
    /// Tokens that tiers behind the prefix cache had, over all admissions.
    pub fetched_tokens: u32,
    /// Tokens computed again because a preemption lost them, or as [`FirstToken::Decode`](crate::pools::FirstToken) says.
    pub recomputed_tokens: u32,
    pub preemptions: u32,
    /// Time lost to preemptions: from each until the end of the step that has computed again what it lost. Of several
    /// samples, that of the one that lost most.
    pub preempted: SimDuration,
    /// What of it lies between `scheduled` and the first token; of several samples, of the one whose first token that is.
    pub prefill_preempted: SimDuration,
    /// `None` with fewer than two tokens of any sample.
    pub itl: Option<ItlStats>,
}

impl RequestRow {
    /// A request of which nothing is known but that it arrived and what became of it.
    pub(crate) fn new(request: u32, replica: u32, status: Status, arrival: SimTime) -> RequestRow {
        RequestRow {
            request,
            replica,
            prefill_replica: None,
            status,
            arrival,
            encoded: None,
            queued: None,
            scheduled: None,
            prefilled: None,
            kv_ready: None,
            first_token: None,
            finished: None,
            input_tokens: 0,
            samples: 1,
            output_tokens: 0,
            cached_tokens: 0,
            fetched_tokens: 0,
            recomputed_tokens: 0,
            preemptions: 0,
            preempted: SimDuration::ZERO,
            prefill_preempted: SimDuration::ZERO,
            itl: None,
        }
    }
}

/// One iteration of one replica.
///
/// A request that verifies drafts ([`speculative`]) is a chunk here, as a part of a prompt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepRow {
    pub replica: u32,
    /// When it was formed, or the one before it ended; and until its tokens come out. With several batches in flight (`pp`),
    /// what it waits at stages is part of it.
    pub start: SimTime,
    pub duration: SimDuration,
    /// Of a group of sequences ([`samples`], rule 4), each of these.
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

/// A candidate of a router's decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouteRow {
    pub at: SimTime,
    pub request: u32,
    /// Role of the candidates.
    pub role: Role,
    pub replica: u32,
    pub chosen: bool,
    /// What the router thought of it, higher is better: the weighted score, the match, minus the imbalance, minus the cost,
    /// minus the count that the router goes by. `None` where it does not compare: `round_robin`, `random`, and where a
    /// session kept its replica without a look.
    pub score: Option<f64>,
    /// What the candidate really had before it, which no router knows: over the requests for which it was chosen and that
    /// have not ended, prompt tokens (encoder tokens) where the prompt is pending, and (but for encode and prefill
    /// replicas) the tokens of the reply, after caps, that are not out.
    pub backlog_tokens: u64,
}

/// Receives rows as they come about.
///
/// Requests come in the order in which they end (equal times: the replica where they end, then ends of steps in batch
/// order, then clients that went, by request; the end of a transfer is one of the latter kind, on the decode replica); a
/// rejected one at its arrival, after all that ended at that time; after those, by request, what is never sent because of
/// an end at that time. What is in flight at the horizon comes last, by request. Steps come in the order of their ends
/// (equal times: replica), decisions in that of time (one instant: as they are made), their candidates by number. How rows
/// of different kinds interleave is not specified.
pub trait Sink {
    fn request(&mut self, row: RequestRow);
    /// Only called when [`Sink::wants_routes`].
    fn route(&mut self, _row: RouteRow) {}
    fn wants_routes(&self) -> bool {
        false
    }
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
    /// Time that replicas spent in steps (of several in flight every moment once), or servers with requests, summed over them.
    pub busy: SimDuration,
    /// KV blocks of one replica; of several pools, the most.
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
    /// Of `cancelled`, those that were never sent because one before them failed.
    pub never_sent: u64,
    /// Transfers of KV caches that were over, their bytes, and the integrals over time of requests waiting for room on
    /// their decode replica, and of transfers under way; times nanoseconds. Embeddings do not count.
    pub transfers: u64,
    pub transferred_bytes: u128,
    pub room_wait_ns: i128,
    pub transfer_ns: i128,
    /// The tiers behind the prefix caches, by their place in a deployment: of the pools that have so many.
    pub tiers: Vec<TierSummary>,
    /// What only the engines of one pool know, in the order of the pools: `kv_blocks_total` of one of its engines, steps,
    /// busy time, peaks, integrals, hits, work; and as `injected` the parts of requests that it was sent (a local prompt
    /// and its reply are one part). The rest is 0.
    pub pools: Vec<Summary>,
    /// Tokens that encoders computed on the replicas of the prompts, and how long that took.
    pub encoder_tokens: u64,
    pub encoder_time: SimDuration,
    /// Steps that the latency model had to extrapolate, because nothing like them was measured.
    pub latency_extrapolated_steps: u64,
    /// What all steps together computed.
    pub work: WorkSums,
    /// LoRA adapters, where the deployment has some.
    pub adapters: lora::AdapterSums,
    /// What became of drafts, where replies are decoded speculatively.
    pub speculation: Speculation,
    /// Gaps between consecutive tokens of a request over all requests, as (gap, how often), sorted by gap. As the engine
    /// hands tokens out: what a latency model adds after every token shifts them all, and changes no gap.
    pub itl: Vec<(SimDuration, u64)>,
}

/// What one tier did, over all engines that have one in its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TierSummary {
    /// Times that it was asked for what follows a request's hits in the prefix cache.
    pub lookups: u64,
    /// KV blocks that were read from it for requests, and their bytes.
    pub blocks_hit: u64,
    pub bytes_read: u128,
    /// Blocks of its own size that were written to it, their bytes, and those that left for others.
    pub blocks_stored: u64,
    pub bytes_written: u128,
    pub blocks_evicted: u64,
    /// Blocks of its own size that one engine's holds, and the most that one ever held.
    pub blocks_total: u64,
    pub blocks_max: u64,
    /// Time that requests, or steps, had to wait for it, summed over its transfers to the GPUs; in nanoseconds. What is under
    /// way at the horizon counts whole.
    pub stall_ns: i128,
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
    Invalid { path: Cow<'static, str>, message: String },
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

/// What a reference test puts in the place of the scenario's own. Not for users.
#[doc(hidden)]
#[derive(Default)]
pub struct Parts {
    pub quirks: Quirks,
    /// Latency models of the first pools, in the order of [`Scenario::sites`].
    pub models: Vec<Box<dyn latency::LatencyModel>>,
    /// Random numbers of the routers of the first sets of candidates, in the order of the sets.
    pub draws: Vec<router::Draws>,
}

/// Checks a scenario without running it: sizes that must be positive, memory that must fit.
///
/// # Errors
/// Every problem found, in a fixed order.
pub fn check(scenario: &Scenario) -> Result<(), Vec<SimError>> {
    check::check(scenario)
}

/// What engines make of their settings of their own accord, where a user would want to know: the field (dotted path; of the
/// first pool that has it) and what becomes of it.
pub fn changes(scenario: &Scenario) -> Vec<(&'static str, String)> {
    let mut all: Vec<(&'static str, String)> = Vec::new();
    for change in scenario.settled_sites().into_iter().flat_map(|(_, changes)| changes) {
        if !all.contains(&change) {
            all.push(change);
        }
    }
    all
}

/// What the profiles show to be wrong with a scenario that is right by itself: they are not at hand, or do not cover its
/// models and parallelism.
///
/// # Errors
/// Every problem, by path.
pub fn check_profiles(scenario: &Scenario) -> Result<(), Vec<SimError>> {
    check::check_profiles(scenario)
}

/// Checks what only a scenario and its requests together tell: whether the blocks of every KV cache, and of its tiers, fit the
/// hashed ones of the trace, and the samples that requests ask for the schedulers.
///
/// # Errors
/// Every problem found, in a fixed order.
pub fn check_requests(scenario: &Scenario, requests: &Requests) -> Result<(), Vec<SimError>> {
    check::check_requests(scenario, requests)
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
    engine::simulate(scenario, requests, sink, stop, Parts::default())
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
    simulate_of(scenario, requests, sink, stop, Parts { quirks, ..Parts::default() })
}

/// [`simulate`] with parts that are not the scenario's own.
///
/// # Errors
/// As [`simulate`].
#[doc(hidden)]
pub fn simulate_of(
    scenario: &Scenario,
    requests: &Requests,
    sink: &mut dyn Sink,
    stop: &AtomicBool,
    parts: Parts,
) -> Result<Summary, SimError> {
    engine::simulate(scenario, requests, sink, stop, parts)
}
