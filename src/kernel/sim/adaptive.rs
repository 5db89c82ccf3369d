//! SGLang's adaptive drafts (`--speculative-adaptive`): as many as were accepted of late, and one more.
//!
//! Names are those of its configuration file. Read: `sgl-project/sglang`, main branch of 2026, `python/sglang/srt/speculative/`:
//! *params* `adaptive_spec_params.py`, *router* `adaptive_step_router.py`, *state* `adaptive_runtime_state.py`. It came after the
//! version whose scheduler is simulated.
//!
//! | rule | source | test (`timelines/sglang_drafts.rs`, unless it says otherwise) |
//! |---|---|---|
//! | A. A batch belongs to the entry with the largest `batch_size` up to its own, padded to a captured graph; to the first where it is smaller than all | router `batch_size_key_for_batch` | `entries_by_batch_size` |
//! | B. An entry drafts one of its `candidate_steps`: at first `num_speculative_tokens`, if that is one of them, else the middle one | params `AdaptiveStepSlot.__init__` | `the_draft_follows_what_is_accepted` |
//! | C. After every batch of an entry that drafts, the running mean moves by `ema_alpha` towards the mean of the accepted tokens per request, as far as they came out; it begins at one less than the draft | params `update` | as B |
//! | D. After `warmup_batches`, and then every `update_interval` batches, the draft is chosen anew: shorter as long as the mean is at most half a token below the next shorter one (half a token, where that is none at all), plus `down_hysteresis`; else longer as long as the mean is above half a token less than the present one, plus `up_hysteresis` | params `_recompute_params` | as B |
//! | E. With a `ceiling_coeff` above 0 it is not longer than that times the mean, rounded up, and at least 1, unless it was to grow | as D | this file |
//! | F. Who drafts nothing tries the next longer draft at every choice | as D | this file |

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Drafts whose length follows what was accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Adaptive {
    /// Ascending by batch size. Default: SGLang's.
    pub batches: Vec<AdaptiveBatch>,
}

/// How batches from a size on draft.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdaptiveBatch {
    /// The least batch.
    pub batch_size: u32,
    /// Lengths of drafts, 0 to 64, ascending.
    pub candidate_steps: Vec<u32>,
    /// Weight of the last batch in the running mean.
    pub ema_alpha: f64,
    /// Batches between two choices.
    pub update_interval: u32,
    /// Batches before the first.
    pub warmup_batches: u32,
    /// How much more, in tokens, must have been accepted for a longer draft; and for a shorter one.
    pub up_hysteresis: f64,
    pub down_hysteresis: f64,
    /// Longest draft per accepted token; 0 for no limit.
    pub ceiling_coeff: f64,
}

impl Default for AdaptiveBatch {
    fn default() -> Self {
        AdaptiveBatch {
            batch_size: 1,
            candidate_steps: vec![1, 3, 5, 7],
            ema_alpha: 0.2,
            update_interval: 5,
            warmup_batches: 10,
            up_hysteresis: 0.0,
            down_hysteresis: -0.25,
            ceiling_coeff: 0.0,
        }
    }
}

impl Default for Adaptive {
    fn default() -> Self {
        let larger = |batch_size: u32, candidate_steps: &[u32]| AdaptiveBatch {
            batch_size,
            candidate_steps: candidate_steps.to_vec(),
            down_hysteresis: 0.0,
            ..AdaptiveBatch::default()
        };
        Adaptive {
            batches: vec![AdaptiveBatch::default(), larger(8, &[0, 1, 3]), larger(32, &[0, 1]), larger(64, &[0])],
        }
    }
}

/// Largest of what is tokens.
const TOKENS_MAX: f64 = 64.0;

impl Adaptive {
    /// The longest draft.
    pub(super) fn longest(&self) -> u32 {
        self.batches.iter().flat_map(|batch| &batch.candidate_steps).max().copied().unwrap_or(0)
    }

    /// What is wrong with it.
    pub(super) fn problem(&self) -> Option<String> {
        if self.batches.is_empty() {
            return Some("has no batches; leave out the field for SGLang's own".to_string());
        }
        if !self.batches.is_sorted_by(|a, b| a.batch_size < b.batch_size) {
            return Some("must rise in batch_size".to_string());
        }
        self.batches.iter().find_map(AdaptiveBatch::problem)
    }
}

impl AdaptiveBatch {
    fn problem(&self) -> Option<String> {
        let size = self.batch_size;
        let steps = &self.candidate_steps;
        if size == 0 {
            return Some("batch_size is 0; must be at least 1".to_string());
        }
        if steps.is_empty() || !steps.is_sorted_by(|a, b| a < b) || f64::from(steps[steps.len() - 1]) > TOKENS_MAX {
            return Some(format!(
                "of batch size {size}: candidate_steps must rise, from 0 or more to {TOKENS_MAX} at most"
            ));
        }
        if !(self.ema_alpha > 0.0 && self.ema_alpha <= 1.0) {
            return Some(format!("of batch size {size}: ema_alpha is {}; must be above 0, up to 1", self.ema_alpha));
        }
        if self.update_interval == 0 {
            return Some(format!("of batch size {size}: update_interval is 0; must be at least 1"));
        }
        let most = -TOKENS_MAX..=TOKENS_MAX;
        let sound = [self.up_hysteresis, self.down_hysteresis].iter().all(|by| most.contains(by));
        if !sound || !(0.0..=TOKENS_MAX).contains(&self.ceiling_coeff) {
            return Some(format!(
                "of batch size {size}: hysteresis must be -{TOKENS_MAX} to {TOKENS_MAX} tokens, ceiling_coeff 0 to \
                 {TOKENS_MAX}"
            ));
        }
        None
    }
}

/// The entries of an engine, as they are at the moment.
#[derive(Clone, Debug)]
pub(super) struct Tuner {
    entries: Vec<Entry>,
    /// Batches for which there are graphs, ascending.
    captured: Vec<u32>,
    /// Tokens that the step being formed drafts, or that the last one did.
    pub steps: u32,
}

#[derive(Clone, Debug)]
struct Entry {
    rules: AdaptiveBatch,
    /// Place of the length among the candidates.
    at: usize,
    mean: f64,
    batches: u64,
}

impl Tuner {
    pub(super) fn new(rules: &Adaptive, initial: u32, captured: Vec<u32>) -> Tuner {
        let entry = |rules: &AdaptiveBatch| {
            let steps = &rules.candidate_steps;
            let at = steps.iter().position(|candidate| *candidate == initial).unwrap_or(steps.len() / 2);
            Entry { at, mean: f64::from(steps[at]) - 1.0, batches: 0, rules: rules.clone() }
        };
        Tuner { entries: rules.batches.iter().map(entry).collect(), captured, steps: initial }
    }

    /// Rule A.
    fn entry(&mut self, batch: u64) -> &mut Entry {
        let graph = self.captured.partition_point(|size| u64::from(*size) < batch);
        let padded = self.captured.get(graph).map_or(batch, |size| u64::from(*size));
        let entries = self.entries.partition_point(|entry| u64::from(entry.rules.batch_size) <= padded);
        &mut self.entries[entries.saturating_sub(1)]
    }

    /// Tokens that a batch of so many requests drafts.
    pub(super) fn choose(&mut self, batch: u64) -> u32 {
        let entry = self.entry(batch);
        self.steps = entry.rules.candidate_steps[entry.at];
        self.steps
    }

    /// So many drafted tokens of a batch came out.
    pub(super) fn learn(&mut self, batch: u64, accepted: u64) {
        self.entry(batch).learn(accepted as f64 / batch as f64);
    }
}

impl Entry {
    /// Rules C and D.
    fn learn(&mut self, mean: f64) {
        let AdaptiveBatch { ema_alpha, update_interval, warmup_batches, .. } = self.rules;
        if self.rules.candidate_steps[self.at] > 0 {
            self.mean = (1.0 - ema_alpha) * self.mean + ema_alpha * mean;
        }
        self.batches += 1;
        let after = self.batches.checked_sub(u64::from(warmup_batches)).filter(|after| *after > 0);
        if after.is_some_and(|after| after.is_multiple_of(u64::from(update_interval))) {
            self.at = self.better();
        }
    }

    /// Rules D to F: the place of the length to come.
    fn better(&mut self) -> usize {
        let steps = &self.rules.candidate_steps;
        let (before, last) = (self.at, steps.len() - 1);
        if steps[before] == 0 {
            let at = (before + 1).min(last);
            if steps[at] > 0 && self.mean < 0.0 {
                self.mean = f64::from(steps[at]) - 1.0;
            }
            return at;
        }
        let few = |at: usize| if steps[at] == 0 { 0.5 } else { f64::from(steps[at]) - 0.5 };
        let mut at = before;
        while at > 0 && self.mean <= few(at - 1) + self.rules.down_hysteresis {
            at -= 1;
        }
        if at == before {
            while at < last && self.mean > f64::from(steps[at]) - 0.5 + self.rules.up_hysteresis {
                at += 1;
            }
        }
        if self.rules.ceiling_coeff > 0.0 && at <= before {
            let ceiling = libm::ceil(self.mean * self.rules.ceiling_coeff).max(1.0);
            while at > 0 && f64::from(steps[at]) > ceiling {
                at -= 1;
            }
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuner(batch: AdaptiveBatch, initial: u32) -> Tuner {
        Tuner::new(&Adaptive { batches: vec![batch] }, initial, Vec::new())
    }

    /// Every batch counts, and at once.
    fn eager(candidate_steps: &[u32]) -> AdaptiveBatch {
        AdaptiveBatch {
            candidate_steps: candidate_steps.to_vec(),
            ema_alpha: 1.0,
            update_interval: 1,
            warmup_batches: 0,
            down_hysteresis: 0.0,
            ..AdaptiveBatch::default()
        }
    }

    /// The drafts of batches of one request, of which so many tokens are accepted.
    fn drafts(mut tuner: Tuner, accepted: &[u64]) -> Vec<u32> {
        let mut drafts = Vec::new();
        for accepted in accepted {
            drafts.push(tuner.choose(1));
            tuner.learn(1, *accepted);
        }
        drafts
    }

    #[test]
    fn defaults_are_sglangs() {
        let read: Adaptive = serde_json::from_str("{}").unwrap();
        let all: Vec<(u32, &[u32])> =
            read.batches.iter().map(|b| (b.batch_size, b.candidate_steps.as_slice())).collect();
        assert_eq!(all, [(1, [1, 3, 5, 7].as_slice()), (8, &[0, 1, 3]), (32, &[0, 1]), (64, &[0])]);
        assert_eq!((read.longest(), read.problem()), (7, None));
        assert_eq!(read.batches.iter().map(|b| b.down_hysteresis).collect::<Vec<_>>(), [-0.25, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn lengths_follow_the_mean() {
        // Above 2.5 to 5, above 4.5 to 7; at most 4.5 from 7 to 5, at most 2.5 to 3, at most 0.5 to 1.
        assert_eq!(drafts(tuner(eager(&[1, 3, 5, 7]), 3), &[3, 5, 5, 3, 0, 1, 1]), [3, 5, 7, 7, 5, 1, 3]);
        // Where 3 is no candidate, the middle one: of four the third.
        assert_eq!(drafts(tuner(eager(&[1, 2, 4, 8]), 3), &[4]), [4]);
        // Nothing is drafted where half a token or less was accepted; then one is tried.
        assert_eq!(drafts(tuner(eager(&[0, 1, 3]), 1), &[0, 0, 1, 3]), [1, 0, 1, 3]);
        // One that begins with nothing knows of no drafts before.
        let mut first = tuner(eager(&[0, 3]), 0);
        assert_eq!((first.choose(1), first.entries[0].mean), (0, -1.0));
        first.learn(1, 0);
        assert_eq!((first.choose(1), first.entries[0].mean), (3, 2.0));
        // At most the mean, where it is not to grow.
        let ceiling = AdaptiveBatch { ceiling_coeff: 1.0, ..eager(&[1, 2, 3, 4]) };
        assert_eq!(drafts(tuner(ceiling, 4), &[3, 1, 1]), [4, 3, 1]);
    }

    #[test]
    fn the_mean_moves_slowly_and_choices_are_rare() {
        // Two batches to warm up, then every third: after the fifth the mean is 2 * 0.8^5 = 0.655, after the eighth 0.336.
        let slow = AdaptiveBatch { update_interval: 3, warmup_batches: 2, ema_alpha: 0.2, ..eager(&[1, 3]) };
        assert_eq!(drafts(tuner(slow, 3), &[0; 9]), [3, 3, 3, 3, 3, 3, 3, 3, 1]);
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for wrong in [
            AdaptiveBatch { batch_size: 0, ..AdaptiveBatch::default() },
            AdaptiveBatch { candidate_steps: Vec::new(), ..AdaptiveBatch::default() },
            AdaptiveBatch { candidate_steps: vec![3, 1], ..AdaptiveBatch::default() },
            AdaptiveBatch { candidate_steps: vec![65], ..AdaptiveBatch::default() },
            AdaptiveBatch { ema_alpha: 0.0, ..AdaptiveBatch::default() },
            AdaptiveBatch { update_interval: 0, ..AdaptiveBatch::default() },
            AdaptiveBatch { up_hysteresis: f64::NAN, ..AdaptiveBatch::default() },
            AdaptiveBatch { ceiling_coeff: -1.0, ..AdaptiveBatch::default() },
        ] {
            let batches = vec![wrong.clone()];
            assert!(Adaptive { batches }.problem().is_some(), "{wrong:?}");
        }
        assert!(Adaptive { batches: Vec::new() }.problem().is_some());
        assert!(Adaptive { batches: vec![AdaptiveBatch::default(); 2] }.problem().is_some());
    }
}
