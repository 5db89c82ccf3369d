//! FasterTransformer: static batches.

use super::Forming;
use crate::sim::latency::BatchShape;
use crate::sim::reference::world::World;
use crate::sim::scheduler::FasterTransformer;

impl World<'_> {
    pub(super) fn form_faster_transformer(&mut self, r: usize, rules: &FasterTransformer, f: &mut Forming) {
        let running = self.available(r);
        let Some(first) = running.first() else {
            self.form_batch(r, rules, f);
            return;
        };
        let machine = &mut self.replicas[r];
        machine.batch = machine.line.batches.iter().find(|batch| batch.contains(first)).cloned().unwrap_or_default();
        if running.len() < self.replicas[r].batch.len() {
            self.fire("faster_transformer: some are done before their batch");
        }
        if !self.replicas[r].waiting.is_empty() {
            self.fire("faster_transformer: the queue waits for the batch");
        }
        for i in running.into_iter().flat_map(|i| self.sequences(i)).collect::<Vec<_>>() {
            let goes_on = self.go_on(r, i, 1, f);
            assert!(goes_on, "its blocks were reserved");
        }
    }

    fn form_batch(&mut self, r: usize, rules: &FasterTransformer, f: &mut Forming) {
        while let Some(at) = self.head(r) {
            if f.batch.len() >= rules.batch_size_cap as usize {
                self.fire("faster_transformer: the batch is full");
                break;
            }
            let beams = self.lives[self.replicas[r].waiting[at]].beams;
            if f.batch.first().is_some_and(|part| self.lives[part.life].beams != beams) {
                self.fire("beams: another width ends the batch");
                break;
            }
            if !self.reserve(r, at, rules.reserve, f) {
                self.fire("faster_transformer: no room for the longest");
                break;
            }
        }
        let (batch, machine) = (self.available(r), &mut self.replicas[r]);
        let running = &machine.running;
        machine.line.batches.retain(|batch| batch.iter().any(|i| running.contains(i)));
        machine.line.batches.push(batch.clone());
        machine.batch = batch;
    }

    /// A batch as FasterTransformer computes it: request by request of those that it was formed of.
    pub(super) fn padded(&mut self, r: usize, rules: &FasterTransformer, shape: &BatchShape) -> BatchShape {
        let batch = self.replicas[r].batch.clone();
        let longest = batch.iter().map(|i| self.lives[*i].prompt).max().unwrap_or(0) as u64;
        let prompts = shape.prefill_requests > 0;
        if !rules.padded {
            return *shape;
        }
        if prompts && batch.len() == 1 {
            // Nobody else computes anything, and what beams have in common is not looked for.
            let beams = u64::from(self.lives[batch[0]].beams);
            if beams > 1 {
                self.fire("beams: a prompt alone is computed for each");
            }
            let mut each = *shape;
            each.prefill_requests *= beams;
            each.prefill_tokens = longest * beams;
            each.prefill_tokens_squared = longest * longest * beams;
            each.prefill_tokens_x_input = longest * longest * beams;
            return each;
        }
        if prompts && rules.remove_padding {
            return *shape;
        }
        let mut padded = BatchShape { decode_requests: 0, decode_context: 0, ..*shape };
        if prompts {
            (padded.prefill_tokens, padded.prefill_tokens_squared, padded.prefill_tokens_x_input) = (0, 0, 0);
            for _ in batch {
                padded.prefill_tokens += longest;
                padded.prefill_tokens_squared += longest * longest;
                padded.prefill_tokens_x_input += longest * longest;
            }
            return padded;
        }
        let beams = |i: &usize| std::iter::repeat_n(*i, self.lives[*i].beams as usize);
        let rows = batch.iter().flat_map(beams);
        let contexts: Vec<u64> = rows.map(|i| self.attends_to(r, i, longest)).collect();
        padded.decode_requests = contexts.len() as u64;
        padded.decode_context = contexts.iter().sum();
        if self.replicas[r].pool.model.wants_spread() {
            padded.decode_context_min = contexts.iter().copied().min().unwrap_or(0);
            padded.decode_context_max = contexts.iter().copied().max().unwrap_or(0);
        }
        padded
    }

    /// What a request of the batch attends to with its next token, which is in the step already, behind a prompt of this
    /// length; nothing where it is done.
    fn attends_to(&self, r: usize, i: usize, longest: u64) -> u64 {
        let life = &self.lives[i];
        match self.replicas[r].running.contains(&i) {
            true => longest + (life.computed - 1 - life.prompt) as u64,
            false => 0,
        }
    }
}
