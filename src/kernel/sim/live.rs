//! What a replica knows of a request that is with it, and of a step that was formed.

use super::Status;
use super::kv::extents::Held;
use super::latency::BatchShape;
use super::lora::NO_ADAPTER;
use super::node::{Env, Work};
use crate::units::{SimDuration, SimTime};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Waiting,
    Prefill,
    Decode,
    /// Its last token comes out of a step that was formed already: it keeps its seat and blocks, and gets nothing more.
    Ending,
    /// Neither waiting nor running, but it holds blocks: its prompt is done and has not moved yet, or is moving here.
    Moving,
    /// It waits, holds the blocks of its prompt, and a part of their contents is on its way from tiers.
    Fetching,
}

/// A request in the queue or running. What every step looks at where drafts are verified comes first: a line of memory.
#[repr(C, align(64))]
pub(super) struct Live {
    /// Tokens in the cache less the count of steps, while decoding.
    pub base: i64,
    /// The step up to which `gaps` has its gaps.
    pub from: u64,
    /// Where it decodes speculatively: the key of its luck, and the number below which that must be, if it has one of its own.
    pub luck: u64,
    pub own: u64,
    /// The same: tokens that were drafted and are not verified, tokens that it has in the step that runs, tokens for which it
    /// has blocks (those it should hold but does not among them).
    pub drafted: u32,
    pub tokens: u32,
    pub room: u32,
    /// Tokens handed out, if `exact`; else it decodes, has had a token in every step since, and `finish` tells.
    pub emitted: u32,
    /// Tokens it will generate here, and below whether a cap says so.
    pub output: u32,
    pub phase: Phase,
    pub request: u32,
    /// Place of the adapter that it asks for.
    pub adapter: u32,
    pub work: Work,
    /// Waits with the blocks of what it has in the cache, from elsewhere; or with copies of them on the host.
    pub loaded: bool,
    pub swapped: bool,
    /// Blocks that it has beyond those of its tokens in the cache: where it is loaded, that of the next one; what was
    /// taken for more than was computed; where all that it may ever have is taken at admission, that.
    pub spare: u32,
    /// Blocks that it has whatever its length, while it runs or moves here.
    pub fixed: u32,
    /// Sequences of it that decode together, and share the blocks of its prompt.
    pub width: u32,
    /// Of these, those whose tokens are told of: all samples, but one of several beams.
    pub replies: u32,
    pub input: u32,
    /// Encoder tokens that are kept for it.
    pub encoded: u32,
    pub capped: bool,
    pub exact: bool,
    /// Tokens that the prefill must compute: the prompt, and what was generated before a preemption.
    pub target: u32,
    /// Tokens in the cache, while prefilling.
    pub computed: u32,
    /// Number of the step that yields the last token, while decoding.
    pub finish: u64,
    /// How long its prompt is estimated to take, and whom it is for, where the order of the queue asks.
    pub work_time: SimDuration,
    pub tenant: i64,
    /// Its prompt was charged to its tenant.
    pub charged: bool,
    /// One of several samples of its request, its number among them, and that it only computes their prompt.
    pub several: bool,
    pub ahead: bool,
    pub sample: u32,
    /// Order of admission.
    pub seq: u64,
    /// Where the scheduler keeps a list of active requests that are yet to start: its place there, to its end.
    pub place: Option<u64>,
    /// Blocks that it may have in the end, where that is set aside.
    pub promise: u64,
    pub queued: SimTime,
    pub scheduled: Option<SimTime>,
    pub first_token: Option<SimTime>,
    /// Time of its last token, if `exact`.
    pub last_token: SimTime,
    /// Since when it runs, or waits.
    pub since: SimTime,
    /// Decoding, but without a token in the step formed last.
    pub stalled: bool,
    /// Decoding, and its last token came out of a pause.
    pub fresh: bool,
    pub cached: u32,
    /// Blocks that tiers give it for its next admission; tokens that they gave it in all.
    pub fetched: u32,
    pub fetched_tokens: u32,
    pub preemptions: u32,
    pub recomputed: u32,
    /// Most tokens it had in the cache when it was preempted.
    pub peak: u32,
    pub lost_since: Option<SimTime>,
    pub preempted: SimDuration,
    /// What of it was before the first token.
    pub prefill_preempted: SimDuration,
    /// Its gaps between tokens up to the step `from`; those of later steps are in the log.
    pub gaps: Vec<i64>,
    /// Blocks whose content hash the trace knows.
    pub known: u32,
    /// Blocks at its start that it should hold but does not: see [`recompute_full_hits`](super::scheduler::Common::recompute_full_hits).
    pub missing: u32,
    pub held: Held,
    /// What becomes of it when its client goes.
    pub goes: Status,
    /// Told apart from others that have had its slot.
    pub generation: u32,
    /// Nobody is to be told that its prompt is done, or was told.
    pub told: bool,
    /// Tokens of the prompt that somebody was told of.
    pub progressed: u32,
}

impl Live {
    /// Most tokens that it may generate, as the engine is told.
    pub(super) fn cap(&self, env: &Env<'_>) -> u32 {
        if self.ahead { 0 } else { env.demand.cap(self.request, env.max_len) }
    }
}

impl Default for Live {
    /// A request of which nothing is known, and that nobody is to be told of.
    fn default() -> Live {
        Live {
            adapter: NO_ADAPTER,
            request: 0,
            work: Work::Whole,
            phase: Phase::Waiting,
            loaded: false,
            swapped: false,
            spare: 0,
            fixed: 0,
            width: 1,
            replies: 1,
            input: 0,
            encoded: 0,
            output: 0,
            capped: false,
            emitted: 0,
            exact: true,
            target: 0,
            computed: 0,
            base: 0,
            finish: 0,
            work_time: SimDuration::ZERO,
            tenant: 0,
            charged: false,
            several: false,
            ahead: false,
            sample: 0,
            seq: 0,
            place: None,
            promise: 0,
            queued: SimTime::ZERO,
            scheduled: None,
            first_token: None,
            last_token: SimTime::ZERO,
            since: SimTime::ZERO,
            stalled: false,
            fresh: false,
            cached: 0,
            fetched: 0,
            fetched_tokens: 0,
            preemptions: 0,
            recomputed: 0,
            peak: 0,
            lost_since: None,
            preempted: SimDuration::ZERO,
            prefill_preempted: SimDuration::ZERO,
            gaps: Vec::new(),
            from: 0,
            known: 0,
            missing: 0,
            held: Held::default(),
            goes: Status::Cancelled,
            generation: 0,
            told: true,
            progressed: 0,
            drafted: 0,
            tokens: 0,
            room: 0,
            luck: 0,
            own: 0,
        }
    }
}

/// A step that was formed and has not ended.
#[derive(Default)]
pub(super) struct Flight {
    pub number: u64,
    pub end: SimTime,
    pub duration: SimDuration,
    /// Decode requests wait while it runs.
    pub pause: bool,
    /// Pauses since the step with decode requests before it.
    pub before: SimDuration,
    pub shape: BatchShape,
    /// Distinct adapters in the batch.
    pub adapters: u32,
    /// The part of it in which drafts are made.
    pub drafting: SimDuration,
    /// Decode requests of the batch that had a token in the step before, too, and are to have this one.
    pub regular: u64,
    pub chunks: Vec<Chunk>,
    /// Decode requests of the batch that had none in the step before.
    pub resumed: Vec<u32>,
    /// Decode requests of the batch whose token is handed out one by one, because they stalled or were preempted since.
    pub early: Vec<u32>,
    /// Requests in [`Phase::Ending`] that this step completes.
    pub endings: Vec<u32>,
    /// What it fills, where there are tiers.
    pub written: Vec<Written>,
}

/// Blocks of known content that a step fills.
#[derive(Clone, Copy)]
pub(super) struct Written {
    pub slot: u32,
    pub request: u32,
    pub from: u32,
    pub to: u32,
}

/// Part of a prompt in a step.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    pub slot: u32,
    pub tokens: u32,
    /// Tokens in the cache after it.
    pub upto: u32,
    /// It yields a token.
    pub completes: bool,
}
