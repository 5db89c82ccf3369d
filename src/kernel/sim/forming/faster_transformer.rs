//! Forming a step by the rules of [`FasterTransformer`].
//!
//! All requests of a batch have as many tokens out, so what those that are left attend to, padded, is their number times the
//! longest prompt and these tokens: known in one multiplication, whoever has left.

use crate::sim::batch::Forming;
use crate::sim::latency::{BatchShape, LatencyModel};
use crate::sim::node::Env;
use crate::sim::replica::Replica;
use crate::sim::scheduler::{FasterTransformer, Padding};
use crate::units::SimDuration;

/// See the head of the file.
#[derive(Debug)]
pub(in crate::sim) struct State {
    rules: FasterTransformer,
    batch: Padding,
    /// Number of the step of its prompts.
    first: u64,
    /// Decode requests when it was last looked, and the tokens of padding that they attend to.
    left: u64,
    more: u64,
}

impl State {
    pub(super) fn new(rules: &FasterTransformer) -> State {
        State { rules: *rules, batch: Padding::default(), first: 0, left: 0, more: 0 }
    }

    /// See [`super::Former::form`].
    pub(super) fn form(&mut self, replica: &mut Replica, f: &mut Forming, env: &Env<'_>) {
        if replica.running.is_empty() {
            replica.admit_reserving(self.rules.batch_size_cap, self.rules.reserve, f, env);
            let width = replica.running.first().map_or(1, |slot| replica.live[*slot as usize].width);
            let prompts = replica.running.len() as u64;
            let rows = prompts * u64::from(width);
            // The beams of several requests share what is computed of their prompts.
            let each = if prompts == 1 { rows } else { 1 };
            self.batch = Padding { rows, each, longest: f.shape.prefill_tokens_max };
            // Another batch, which may be as large as what was left of the one before.
            (self.first, self.left) = (replica.steps + 1, 0);
            return;
        }
        replica.decode_all(f, env);
        self.left = replica.decodes;
        let each = self.batch.longest + (replica.steps - self.first);
        self.more = replica.decodes * each - replica.context;
        replica.blocked = !replica.nobody_waits();
    }

    /// See [`super::Former::quiet_steps`]: what is left of the batch must be looked at when something has left.
    pub(super) fn quiet_steps(&self, replica: &Replica) -> u64 {
        if self.rules.padded && replica.decodes != self.left { 0 } else { u64::MAX }
    }

    /// See [`super::Former::step`].
    pub(super) fn step(&self, model: &dyn LatencyModel, shape: &BatchShape) -> SimDuration {
        if !self.rules.padded {
            return model.step(shape);
        }
        match (shape.prefill_requests, self.rules.remove_padding) {
            (0, _) => model.step(&self.batch.of_tokens(shape, self.more)),
            (1, _) => model.step(&self.batch.of_prompt(shape)),
            (2.., true) => model.step(shape),
            (2.., false) => model.step(&self.batch.of_prompts(shape)),
        }
    }
}
