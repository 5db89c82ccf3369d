//! Forming steps, one file a scheduler: the rules are its settings' ([`super::scheduler`]), what they do is done by the
//! replica ([`super::batch`]).
//!
//! **Tiers** behind the prefix cache ([`super::tiers`]) take part where a scheduler says so (`Common::asks_tiers`) and does three
//! things. Behind `prefix_of`, where it would admit the head of the queue, it calls [`Replica::ask_tiers`] and goes by the
//! answer: the head does not fit; or it is out of the queue, and the next one is looked at; or so many blocks behind the hits
//! are loaded, which [`Replica::seat`] does (the request is sized by hits and loads, `Seat::hits` are the hits alone). It
//! admits the first of [`Replica::loaded`], where that has `fetched` blocks, by [`Replica::admit_fetched`]. And it does not set
//! `blocked` where a request had to wait behind an answer that time alone may change. What a running prompt holds ahead
//! (`Live::spare`) is no need of a step. Where nobody gives blocks up for a prompt that was cut
//! ([`Common::cut_waits`](super::scheduler::Common::cut_waits)), fetches leave it those of its rest.

mod faster_transformer;
mod lightllm;
mod orca;
mod sarathi;
mod sglang;
mod trtllm;
mod vllm_v0;
mod vllm_v1;

use super::batch::Forming;
use super::latency::{BatchShape, LatencyModel};
use super::node::Env;
use super::replica::Replica;
use super::scheduler::{Scheduler, VllmV1};
use crate::units::{SimDuration, SimTime};

/// A scheduler, and what it remembers from step to step.
#[derive(Debug)]
pub(super) enum Former {
    VllmV1(VllmV1),
    VllmV0(vllm_v0::State),
    Sarathi(sarathi::State),
    Orca(orca::State),
    FasterTransformer(faster_transformer::State),
    Lightllm(lightllm::State),
    Sglang(Box<sglang::State>),
    Trtllm(trtllm::State),
}

impl Default for Former {
    /// What stands for a scheduler while it works.
    fn default() -> Former {
        Former::VllmV1(VllmV1::default())
    }
}

impl Former {
    pub(super) fn new(scheduler: &Scheduler) -> Former {
        match scheduler {
            Scheduler::VllmV1(rules) => Former::VllmV1(*rules),
            Scheduler::VllmV0(rules) => Former::VllmV0(vllm_v0::State::new(rules)),
            Scheduler::Sarathi(rules) => Former::Sarathi(sarathi::State::new(rules)),
            Scheduler::Orca(rules) => Former::Orca(orca::State::new(rules)),
            Scheduler::FasterTransformer(rules) => Former::FasterTransformer(faster_transformer::State::new(rules)),
            Scheduler::Lightllm(rules) => Former::Lightllm(lightllm::State::new(rules)),
            Scheduler::Sglang(rules) => Former::Sglang(Box::new(sglang::State::new(rules))),
            Scheduler::Trtllm(rules) => Former::Trtllm(trtllm::State::new(rules)),
            Scheduler::Exclusive(_) => unreachable!("no batches are formed"),
        }
    }

    /// Gives out the next step: [`Replica::next`] and `f`. Sets [`Replica::blocked`] where someone waits, but steps of decode
    /// requests alone may run unasked until something is released, arrives or goes.
    pub(super) fn form(&mut self, replica: &mut Replica, f: &mut Forming, env: &Env<'_>) {
        match self {
            Former::VllmV1(rules) => replica.form_v1(*rules, f, env),
            Former::VllmV0(state) => state.form(replica, f, env),
            Former::Sarathi(state) => state.form(replica, f, env),
            Former::Orca(state) => state.form(replica, f, env),
            Former::FasterTransformer(state) => state.form(replica, f, env),
            Former::Lightllm(state) => state.form(replica, f, env),
            Former::Sglang(state) => state.form(replica, f, env),
            Former::Trtllm(state) => state.form(replica, f, env),
        }
    }

    /// Steps of decode requests alone that may run before the scheduler must be asked, if nothing else happens.
    #[inline]
    pub(super) fn quiet_steps(&self, replica: &Replica) -> u64 {
        match self {
            Former::VllmV1(_) => u64::MAX,
            Former::VllmV0(_) => u64::MAX,
            Former::Sarathi(_) => u64::MAX,
            Former::Orca(_) => u64::MAX,
            Former::FasterTransformer(state) => state.quiet_steps(replica),
            Former::Lightllm(state) => state.quiet_steps(replica),
            Former::Sglang(state) => state.quiet_steps(),
            Former::Trtllm(_) => u64::MAX,
        }
    }

    /// So many of them ran.
    #[inline]
    pub(super) fn ran(&mut self, steps: u64) {
        match self {
            Former::VllmV1(_) => {}
            Former::VllmV0(_) => {}
            Former::Sarathi(_) => {}
            Former::Orca(_) => {}
            Former::FasterTransformer(_) => {}
            Former::Lightllm(state) => state.ran(steps),
            Former::Sglang(state) => state.ran(steps),
            Former::Trtllm(_) => {}
        }
    }

    /// How long a step takes by the latency model; asked also where [`plain`](super::scheduler::Common::plain) is false.
    #[inline]
    pub(super) fn step(&self, model: &dyn LatencyModel, shape: &BatchShape) -> SimDuration {
        match self {
            Former::VllmV1(_) => model.step(shape),
            Former::VllmV0(_) => model.step(shape),
            Former::Sarathi(_) => model.step(shape),
            Former::Orca(_) => model.step(shape),
            Former::FasterTransformer(state) => state.step(model, shape),
            Former::Lightllm(_) => model.step(shape),
            Former::Sglang(state) => state.step(model, shape),
            Former::Trtllm(_) => model.step(shape),
        }
    }

    /// The decode requests that the latency model is shown, of so many, where it is shown them by themselves.
    #[inline]
    pub(super) fn shown(&self, decodes: u64) -> u64 {
        match self {
            Former::Sglang(state) => state.shown(decodes),
            _ => decodes,
        }
    }

    /// The least that a step takes, where it is so much by the latency model.
    pub(super) fn least(&self, said: SimDuration) -> SimDuration {
        match self {
            Former::Sglang(state) => state.least(said),
            _ => said,
        }
    }

    /// The prompt of a request is complete with the step that was formed; so many tokens will be out at its end, and it decodes
    /// from the step after `steps`.
    #[inline]
    pub(super) fn entered(&mut self, slot: u32, seq: u64, emitted: u32, steps: u64) {
        if let Former::Sglang(state) = self {
            state.entered(slot, seq, emitted, steps);
        }
    }

    /// A request that decoded has ended, or its client is gone. Where drafts are verified, `emitted` tokens are out.
    #[inline]
    pub(super) fn left(&mut self, slot: u32, steps: u64, emitted: u32) {
        if let Former::Sglang(state) = self {
            state.left(slot, steps, emitted);
        }
    }

    /// A step ended.
    #[inline]
    pub(super) fn ended(&mut self, at: SimTime) {
        if let Former::Sglang(state) = self {
            state.ended(at);
        }
    }
}
