//! What tiers hold, and what goes in and out.

use super::{Checked, ensure};
use crate::sim::TierSummary;
use crate::sim::facts;
use crate::sim::tiers::{Fetch, Replacement};

impl Checked<'_> {
    /// No more is held than there is room for, bytes are those of blocks, and what requests got is what was read.
    pub(super) fn tiers(&self) -> Result<(), String> {
        let mut read = 0;
        for (place, pool) in self.places.iter().zip(&self.summary.pools) {
            let (d, model) = (&place.site.deployment, &place.site.model);
            let token_bytes = u128::from(facts::kv_bytes_per_token(model, d.kv.kv_cache_dtype));
            ensure(pool.tiers.len() == d.kv.tiers.len(), || format!("{} tiers are told of", pool.tiers.len()))?;
            for (tier, t) in d.kv.tiers.iter().zip(&pool.tiers) {
                let stored = u128::from(tier.block_size.unwrap_or(d.kv.block_size)) * token_bytes;
                let block = u128::from(d.kv.block_size) * token_bytes;
                let TierSummary { blocks_hit, bytes_read, blocks_stored, bytes_written, blocks_evicted, .. } = *t;
                let engines = u64::from(place.site.engines());
                let holds = t.blocks_max <= t.blocks_total && blocks_evicted <= blocks_stored;
                let bytes = (bytes_read, bytes_written);
                let right = bytes == (u128::from(blocks_hit) * block, u128::from(blocks_stored) * stored);
                let kept = blocks_stored - blocks_evicted.min(blocks_stored) <= t.blocks_total * engines;
                let leaves = matches!(tier.replacement, Replacement::Ttl(_));
                let quiet = tier.fetch != Fetch::Never || (t.lookups, blocks_hit) == (0, 0);
                let pinned = tier.replacement != Replacement::Pinned || blocks_evicted == 0;
                ensure(holds && right && (kept || leaves) && quiet && pinned, || format!("{tier:?} did {t:?}"))?;
                ensure((t.stall_ns > 0) == (blocks_hit > 0), || format!("no time, or for nothing: {t:?}"))?;
                read += blocks_hit * u64::from(d.kv.block_size);
            }
        }
        let got = self.sum(|row| u64::from(row.fetched_tokens));
        ensure(got == read, || format!("requests got {got} tokens of {read} that were read"))
    }
}
