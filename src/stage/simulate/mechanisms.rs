//! What encoders, adapters, drafts and tiers did in a scenario: part of what is remembered of it.

use serde::{Deserialize, Serialize};

use pipe_kernel::sim::{Summary, TierSummary};

use super::columns::Columns;
use super::quantiles::wide;
use super::totals::{count, share};

/// Totals of a scenario; integers only, as in [`super::Totals`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Mechanisms {
    encoder_tokens: i64,
    encoder_ns: i64,
    adapter_loads: i64,
    adapter_reads: i64,
    adapter_load_ns: i64,
    adapter_evictions: i64,
    #[serde(with = "wide")]
    adapter_wait_ns: i128,
    /// Steps, and distinct adapters over them; 0 without adapters.
    adapter_steps: i64,
    adapters_in_steps: i64,
    spec_drafts: i64,
    spec_draft_tokens: i64,
    spec_accepted_tokens: i64,
    spec_emitted_tokens: i64,
    spec_draft_ns: i64,
    tier_lookups: i64,
    tier_blocks_hit: i64,
    tier_bytes_read: i64,
    tier_bytes_written: i64,
    tier_blocks_evicted: i64,
    #[serde(with = "wide")]
    tier_stall_ns: i128,
}

impl Mechanisms {
    pub fn of(summary: &Summary) -> Mechanisms {
        let (adapters, drafts) = (&summary.adapters, &summary.speculation);
        let tiers = |of: fn(&TierSummary) -> u128| -> i64 {
            i64::try_from(summary.tiers.iter().map(of).sum::<u128>()).unwrap_or(i64::MAX)
        };
        let steps = || (0_i64..).zip(&adapters.steps_by_adapters);
        Mechanisms {
            encoder_tokens: count(summary.encoder_tokens),
            encoder_ns: summary.encoder_time.0,
            adapter_loads: count(adapters.loads),
            adapter_reads: count(adapters.reads),
            adapter_load_ns: adapters.load_time.0,
            adapter_evictions: count(adapters.evictions),
            adapter_wait_ns: adapters.wait_ns,
            adapter_steps: steps().map(|(_, steps)| count(*steps)).sum(),
            adapters_in_steps: steps().map(|(n, steps)| n * count(*steps)).sum(),
            spec_drafts: count(drafts.drafts),
            spec_draft_tokens: count(drafts.draft_tokens),
            spec_accepted_tokens: count(drafts.accepted_tokens),
            spec_emitted_tokens: count(drafts.emitted_tokens),
            spec_draft_ns: drafts.draft_ns,
            tier_lookups: tiers(|t| u128::from(t.lookups)),
            tier_blocks_hit: tiers(|t| u128::from(t.blocks_hit)),
            tier_bytes_read: tiers(|t| t.bytes_read),
            tier_bytes_written: tiers(|t| t.bytes_written),
            tier_blocks_evicted: tiers(|t| u128::from(t.blocks_evicted)),
            tier_stall_ns: summary.tiers.iter().map(|t| t.stall_ns).sum(),
        }
    }
}

/// The columns of `simulation::mechanisms`; `mean` is that over the duration, of an integral over time.
pub(super) fn columns<T>(c: &mut Columns<T>, of: fn(&T) -> &Mechanisms, mean: fn(&T, i128) -> Option<f64>) {
    c.optional("encoder_tokens", move |t| Some(of(t).encoder_tokens));
    c.optional("encoder_ns", move |t| Some(of(t).encoder_ns));
    c.optional("adapter_loads", move |t| Some(of(t).adapter_loads));
    c.optional("adapter_reads", move |t| Some(of(t).adapter_reads));
    c.optional("adapter_load_ns", move |t| Some(of(t).adapter_load_ns));
    c.optional("adapter_evictions", move |t| Some(of(t).adapter_evictions));
    c.float("adapter_waiting_mean", move |t| mean(t, of(t).adapter_wait_ns));
    c.optional("spec_drafts", move |t| Some(of(t).spec_drafts));
    c.optional("spec_draft_tokens", move |t| Some(of(t).spec_draft_tokens));
    c.optional("spec_accepted_tokens", move |t| Some(of(t).spec_accepted_tokens));
    c.float("spec_acceptance_rate", move |t| share(of(t).spec_accepted_tokens, of(t).spec_draft_tokens));
    c.float("spec_tokens_per_step", move |t| share(of(t).spec_emitted_tokens, of(t).spec_drafts));
    c.optional("spec_draft_ns", move |t| Some(of(t).spec_draft_ns));
    c.optional("tier_lookups", move |t| Some(of(t).tier_lookups));
    c.optional("tier_blocks_hit", move |t| Some(of(t).tier_blocks_hit));
    c.optional("tier_bytes_read", move |t| Some(of(t).tier_bytes_read));
    c.optional("tier_bytes_written", move |t| Some(of(t).tier_bytes_written));
    c.optional("tier_blocks_evicted", move |t| Some(of(t).tier_blocks_evicted));
    c.float("tier_stalled_mean", move |t| mean(t, of(t).tier_stall_ns));
    c.float("adapters_per_step_mean", move |t| share(of(t).adapters_in_steps, of(t).adapter_steps));
}
