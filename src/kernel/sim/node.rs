//! What the cluster wants of an engine, whatever runs in it.
//!
//! Engines never meet: the cluster lets each pass up to a time, reads what it reports, and sends it work. An engine that
//! has been let pass up to a time has ended what ends then, and has started nothing that starts then.

use std::sync::atomic::AtomicBool;

use super::encoder;
use super::groups::Hold;
use super::itl::Gaps;
use super::latency::LatencyModel;
use super::load::Demand;
use super::lora::Plan;
use super::replica::Replica;
use super::router::Load;
use super::scheduler::exclusive::Servers;
use super::tiers::Shared;
use super::{Quirks, RequestRow, SimError, StepRow, Summary};
use crate::request::Requests;
use crate::units::{SimDuration, SimTime, Tick};

/// What all engines of a pool share and none changes.
pub(super) struct Env<'a> {
    pub demand: &'a Demand<'a>,
    pub requests: &'a Requests,
    pub model: &'a dyn LatencyModel,
    /// LoRA adapters, where there are some.
    pub adapters: Option<Plan>,
    /// What the model says about the client's side, see [`LatencyModel`].
    pub after_token: SimDuration,
    pub after_request: SimDuration,
    /// Of the scenario; and by how much steps vary.
    pub seed: u64,
    pub jitter_cv: f64,
    pub quirks: Quirks,
    pub tick: Option<Tick>,
    /// Longest prompt plus output.
    pub max_len: u32,
    /// What holds groups of sequences, where the engine knows them.
    pub groups: Option<Hold>,
    /// Longest prompt, where that is less.
    pub longest_prompt: u32,
    /// Beams of the requests that the engine takes, where it takes those of one width only.
    pub beam_width: Option<u32>,
    /// Bytes of a block on one GPU.
    pub bytes_per_block: f64,
    /// Blocks that a request holds whatever its length.
    pub fixed_blocks: u32,
    /// What the encoder of a replica may do, where it has one.
    pub encoder: Option<encoder::Limits>,
    pub wants_steps: bool,
    pub reports: Reports,
    pub stop: &'a AtomicBool,
}

impl Env<'_> {
    /// Longest prompt plus output of a request.
    #[inline]
    pub(super) fn len_of(&self, request: u32) -> u32 {
        let Some(hold) = &self.groups else { return self.max_len };
        let input = self.requests.input_tokens[request as usize];
        self.max_len.min(hold.len_of(self.demand.sequences(request), input))
    }
}

/// What engines are to report beside rows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reports {
    /// Prompts that are done.
    pub prompts: bool,
    /// Tokens of prompts that steps computed.
    pub progress: bool,
}

/// What engines hand out.
pub(super) struct Out {
    /// With the time at which they come about, and the engine.
    pub rows: Vec<(SimTime, u32, RequestRow)>,
    /// With the time of their end.
    pub steps: Vec<(SimTime, StepRow)>,
    pub gaps: Gaps,
    /// See [`Reports`]: engine, request.
    pub prompts: Vec<(u32, u32)>,
    /// Engine, request, tokens.
    pub progress: Vec<(u32, u32, u32)>,
}

/// What an engine is to do for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    /// Everything.
    Whole,
    /// The prompt; it is the end of the request.
    Prompt,
    /// The prompt; its blocks are needed until [`Node::free`].
    HeldPrompt,
    /// The encoder's part.
    Encode,
    /// The reply to a prompt that was computed elsewhere: see [`Node::reserve`].
    Reply,
}

/// A reply that is to be generated elsewhere than its prompt was computed.
pub(super) struct Reply {
    pub place: u32,
    /// What is known of the request so far, as the engine of its prompt has it.
    pub row: RequestRow,
    /// Tokens of the whole reply, and whether that is less than it would be.
    pub output: u32,
    pub capped: bool,
    /// Tokens of the prompt whose KV cache comes.
    pub loaded: u32,
    /// The first token came out of the prompt; at what time is told by [`Node::arrive`].
    pub has_first: bool,
}

/// One engine.
pub(super) trait Node {
    /// The request at this place is on its way; it reaches the queue at `at`.
    fn push(&mut self, place: u32, at: SimTime, work: Work, env: &Env<'_>);

    /// Everything that happens until `limit`.
    fn advance(&mut self, limit: SimTime, env: &Env<'_>, out: &mut Out) -> Result<(), SimError>;

    /// A time before which the engine has nothing to report, unless it gets work. What it reports then, or 1 ns before, it
    /// reports when it is let pass up to that time.
    fn wake(&self, env: &Env<'_>) -> SimTime;

    /// What a router may see.
    fn load(&self) -> Load;

    /// Nothing is here.
    fn is_empty(&self) -> bool;

    /// Tokens of replies that have not come out, of all requests that are here.
    fn reply_tokens(&self, env: &Env<'_>) -> u64;

    /// The horizon: a row for everything that is here and not [`Work::Reply`] on its way.
    fn close(&mut self, horizon: SimTime, env: &Env<'_>, out: &mut Out);

    /// Adds what only the engine knows: steps, busy time, peaks, integrals, preemptions, hits, work.
    fn add_to(&self, summary: &mut Summary);
}

/// An engine of any kind.
pub(super) enum Engine {
    Batch(Box<Replica>),
    Exclusive(Box<Servers>),
}

impl Engine {
    /// The one kind that has KV blocks.
    pub(super) fn batch(&mut self) -> Option<&mut Replica> {
        match self {
            Engine::Batch(replica) => Some(replica),
            Engine::Exclusive(_) => None,
        }
    }

    /// Gives it what the engines of its pool share, or takes that back.
    pub(super) fn lend(&mut self, shared: &mut Shared) {
        if let Engine::Batch(replica) = self
            && let Some(tiers) = &mut replica.tiers
        {
            shared.lend(tiers);
        }
    }

    /// A step that it runs ends then.
    pub(super) fn ends_at(&self, now: SimTime) -> bool {
        match self {
            Engine::Batch(replica) => replica.ends_at(now),
            Engine::Exclusive(_) => true,
        }
    }
}

impl Node for Engine {
    fn push(&mut self, place: u32, at: SimTime, work: Work, env: &Env<'_>) {
        match self {
            Engine::Batch(replica) => replica.push(place, at, work, env),
            Engine::Exclusive(servers) => servers.push(place, at, work, env),
        }
    }

    fn advance(&mut self, limit: SimTime, env: &Env<'_>, out: &mut Out) -> Result<(), SimError> {
        match self {
            Engine::Batch(replica) => replica.advance(limit, env, out),
            Engine::Exclusive(servers) => servers.advance(limit, env, out),
        }
    }

    fn wake(&self, env: &Env<'_>) -> SimTime {
        match self {
            Engine::Batch(replica) => replica.wake(env),
            Engine::Exclusive(servers) => servers.wake(env),
        }
    }

    fn load(&self) -> Load {
        match self {
            Engine::Batch(replica) => replica.load(),
            Engine::Exclusive(servers) => servers.load(),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Engine::Batch(replica) => replica.is_empty(),
            Engine::Exclusive(servers) => servers.is_empty(),
        }
    }

    fn reply_tokens(&self, env: &Env<'_>) -> u64 {
        match self {
            Engine::Batch(replica) => replica.reply_tokens(env),
            Engine::Exclusive(servers) => servers.reply_tokens(env),
        }
    }

    fn close(&mut self, horizon: SimTime, env: &Env<'_>, out: &mut Out) {
        match self {
            Engine::Batch(replica) => replica.close(horizon, env, out),
            Engine::Exclusive(servers) => servers.close(horizon, env, out),
        }
    }

    fn add_to(&self, summary: &mut Summary) {
        match self {
            Engine::Batch(replica) => replica.add_to(summary),
            Engine::Exclusive(servers) => servers.add_to(summary),
        }
    }
}
