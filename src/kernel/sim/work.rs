//! Sums over the batches of steps, and over replicas.

use super::latency::BatchShape;
use super::{Speculation, Summary, TierSummary, WorkSums};
use crate::units::SimDuration;

/// What one replica counts, and nobody else.
#[derive(Default)]
pub(super) struct Tally {
    pub busy: SimDuration,
    pub kv_block_ns: i128,
    pub running_ns: i128,
    pub waiting_ns: i128,
    pub kv_blocks_max: u64,
    pub running_max: u64,
    pub waiting_max: u64,
    pub prefix_tokens_queried: u64,
    pub prefix_tokens_hit: u64,
    pub prefix_blocks_queried: u64,
    pub prefix_blocks_hit: u64,
    pub encoder_tokens: u64,
    pub encoder_time: SimDuration,
    /// Counts of extrapolated steps that are no steps: what was asked for and did not run.
    pub not_extrapolated: u64,
    pub speculation: Speculation,
    pub work: WorkSums,
}

impl Tally {
    /// Adds it to the totals of several: sums add up, peaks are those of the highest.
    pub(super) fn add_to(&self, s: &mut Summary) {
        s.busy += self.busy;
        s.kv_block_ns += self.kv_block_ns;
        s.running_ns += self.running_ns;
        s.waiting_ns += self.waiting_ns;
        s.kv_blocks_max = s.kv_blocks_max.max(self.kv_blocks_max);
        s.running_max = s.running_max.max(self.running_max);
        s.waiting_max = s.waiting_max.max(self.waiting_max);
        s.prefix_tokens_queried += self.prefix_tokens_queried;
        s.prefix_tokens_hit += self.prefix_tokens_hit;
        s.prefix_blocks_queried += self.prefix_blocks_queried;
        s.prefix_blocks_hit += self.prefix_blocks_hit;
        s.encoder_tokens += self.encoder_tokens;
        s.encoder_time += self.encoder_time;
        // The engine takes it off what the model counted.
        s.latency_extrapolated_steps += self.not_extrapolated;
        s.work.merge(&self.work);
        s.speculation.merge(&self.speculation);
    }
}

impl Summary {
    /// Adds what one replica counts: sums add up, peaks are those of the highest.
    pub(super) fn add(&mut self, replica: &Summary) {
        self.steps += replica.steps;
        self.busy += replica.busy;
        self.kv_blocks_max = self.kv_blocks_max.max(replica.kv_blocks_max);
        self.running_max = self.running_max.max(replica.running_max);
        self.waiting_max = self.waiting_max.max(replica.waiting_max);
        self.kv_block_ns += replica.kv_block_ns;
        self.running_ns += replica.running_ns;
        self.waiting_ns += replica.waiting_ns;
        self.prefix_tokens_queried += replica.prefix_tokens_queried;
        self.prefix_tokens_hit += replica.prefix_tokens_hit;
        self.prefix_blocks_queried += replica.prefix_blocks_queried;
        self.prefix_blocks_hit += replica.prefix_blocks_hit;
        self.encoder_tokens += replica.encoder_tokens;
        self.encoder_time += replica.encoder_time;
        self.latency_extrapolated_steps += replica.latency_extrapolated_steps;
        self.adapters.merge(&replica.adapters);
        self.work.merge(&replica.work);
        self.speculation.merge(&replica.speculation);
        self.add_tiers(&replica.tiers);
    }

    /// Adds what tiers did, by their place.
    pub(super) fn add_tiers(&mut self, tiers: &[TierSummary]) {
        if self.tiers.len() < tiers.len() {
            self.tiers.resize(tiers.len(), TierSummary::default());
        }
        for (sum, tier) in self.tiers.iter_mut().zip(tiers) {
            sum.lookups += tier.lookups;
            sum.blocks_hit += tier.blocks_hit;
            sum.bytes_read += tier.bytes_read;
            sum.blocks_stored += tier.blocks_stored;
            sum.bytes_written += tier.bytes_written;
            sum.blocks_evicted += tier.blocks_evicted;
            sum.blocks_total = sum.blocks_total.max(tier.blocks_total);
            sum.blocks_max = sum.blocks_max.max(tier.blocks_max);
            sum.stall_ns += tier.stall_ns;
        }
    }
}

impl WorkSums {
    pub(super) fn add(&mut self, shape: &BatchShape) {
        self.decode_requests += shape.decode_requests;
        self.decode_context += u128::from(shape.decode_context);
        self.prefill_tokens += shape.prefill_tokens;
        self.prefill_context += u128::from(shape.prefill_context);
        self.prefill_tokens_x_context += u128::from(shape.prefill_tokens_x_context);
        self.prefill_tokens_squared += u128::from(shape.prefill_tokens_squared);
        self.count(shape.decode_requests + shape.prefill_tokens, 1);
    }

    /// `steps` steps of `decodes` decode requests each, whose context was `context` before the first and grows by
    /// `decodes` with each.
    pub(super) fn add_decodes(&mut self, steps: u64, decodes: u64, context: u64) {
        self.decode_requests += steps * decodes;
        let growth = u128::from(decodes) * (u128::from(steps) * u128::from(steps - 1) / 2);
        self.decode_context += u128::from(steps) * u128::from(context) + growth;
        self.count(decodes, steps);
    }

    fn count(&mut self, tokens: u64, steps: u64) {
        let tokens = tokens as usize;
        if tokens >= self.steps_by_tokens.len() {
            self.steps_by_tokens.resize(tokens + 1, 0);
        }
        self.steps_by_tokens[tokens] += steps;
    }

    fn merge(&mut self, other: &WorkSums) {
        self.decode_requests += other.decode_requests;
        self.decode_context += other.decode_context;
        self.prefill_tokens += other.prefill_tokens;
        self.prefill_context += other.prefill_context;
        self.prefill_tokens_x_context += other.prefill_tokens_x_context;
        self.prefill_tokens_squared += other.prefill_tokens_squared;
        for (tokens, steps) in other.steps_by_tokens.iter().enumerate() {
            self.count(tokens as u64, *steps);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_decode_steps_is_its_steps() {
        let (mut run, mut steps) = (WorkSums::default(), WorkSums::default());
        run.add_decodes(4, 3, 100);
        for context in [100, 103, 106, 109] {
            steps.add(&BatchShape { decode_requests: 3, decode_context: context, ..BatchShape::default() });
        }
        assert_eq!(run, steps);
        let mut both = steps.clone();
        both.merge(&run);
        assert_eq!((both.decode_requests, both.decode_context, both.steps_by_tokens[3]), (24, 836, 8));
    }
}
