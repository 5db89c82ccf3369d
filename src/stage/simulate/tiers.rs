//! What the tiers behind the prefix caches did: part of what is remembered of a scenario, and the rows of
//! `<stage>_tiers`.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use pipe_kernel::scenario::Scenario;
use pipe_kernel::sim::TierSummary;
use pipe_kernel::sim::tiers::{Tier, TierKind};

use super::columns::Columns;
use super::pools::{PoolTotals, mean};
use super::quantiles::wide;
use super::totals::{count, share};
use crate::spec::{Simulate, Tree, TreeValue};
use crate::table::simulation;

/// Totals of one tier of a pool; integers only, as in [`super::Totals`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct TierTotals {
    lookups: i64,
    blocks_hit: i64,
    bytes_read: i64,
    blocks_stored: i64,
    bytes_written: i64,
    blocks_evicted: i64,
    blocks_total: i64,
    blocks_max: i64,
    #[serde(with = "wide")]
    stall_ns: i128,
}

impl TierTotals {
    pub fn of(tier: &TierSummary) -> TierTotals {
        let bytes = |n: u128| i64::try_from(n).unwrap_or(i64::MAX);
        TierTotals {
            lookups: count(tier.lookups),
            blocks_hit: count(tier.blocks_hit),
            bytes_read: bytes(tier.bytes_read),
            blocks_stored: count(tier.blocks_stored),
            bytes_written: bytes(tier.bytes_written),
            blocks_evicted: count(tier.blocks_evicted),
            blocks_total: count(tier.blocks_total),
            blocks_max: count(tier.blocks_max),
            stall_ns: tier.stall_ns,
        }
    }
}

/// Whether a scenario of the stage may have tiers: the deployment names them, or the sweep does.
pub(super) fn mentioned(spec: &Simulate) -> bool {
    let swept = spec.sweep.iter().flat_map(|sweep| {
        let lists =
            sweep.grid.iter().chain(&sweep.zip).flat_map(|(path, values)| values.iter().map(move |v| (path, v)));
        lists.chain(sweep.list.iter().flatten())
    });
    let named = |path: &str| path.split('.').any(|key| key == "tiers");
    has_key(&spec.deployment) || swept.into_iter().any(|(path, value)| named(&path.value) || has_key(value))
}

fn has_key(tree: &Tree) -> bool {
    match &tree.value {
        TreeValue::List(items) => items.iter().any(has_key),
        TreeValue::Map(entries) => entries.iter().any(|(key, value)| key.value == "tiers" || has_key(value)),
        TreeValue::Null | TreeValue::Bool(_) | TreeValue::Int(_) | TreeValue::Float(_) | TreeValue::String(_) => false,
    }
}

/// A tier of a pool of a scenario.
struct Row<'a> {
    scenario: i64,
    pool: &'a str,
    at: i64,
    tier: &'a Tier,
    totals: &'a TierTotals,
    duration_ns: i64,
}

/// The rows of `<stage>_tiers` of a scenario.
///
/// # Errors
/// Never, but for a bug: the columns are those of the schema.
pub(super) fn rows(
    id: i64,
    scenario: &Scenario,
    pools: &[PoolTotals],
    duration_ns: i64,
) -> Result<RecordBatch, ArrowError> {
    let sites = scenario.sites();
    let all: Vec<Row> = sites
        .iter()
        .zip(pools)
        .flat_map(|(site, pool)| {
            let tiers = (0i64..).zip(site.deployment.kv.tiers.iter().zip(&pool.tiers));
            tiers.map(|(at, (tier, totals))| Row { scenario: id, pool: &site.name, at, tier, totals, duration_ns })
        })
        .collect();
    let mut columns = Columns::new(&all);
    deployed(&mut columns);
    figures(&mut columns);
    columns.table(simulation::tiers())
}

fn deployed(c: &mut Columns<Row>) {
    c.int("scenario_id", |r| r.scenario);
    c.text("pool", |r| r.pool);
    c.int("tier", |r| r.at);
    c.text("kind", |r| match r.tier.kind {
        TierKind::Cpu => "cpu",
        TierKind::Disk => "disk",
        TierKind::Remote => "remote",
    });
    c.boolean("shared", |r| r.tier.shared);
}

fn figures(c: &mut Columns<Row>) {
    c.int("lookups", |r| r.totals.lookups);
    c.int("blocks_hit", |r| r.totals.blocks_hit);
    c.int("bytes_read", |r| r.totals.bytes_read);
    c.int("blocks_stored", |r| r.totals.blocks_stored);
    c.int("bytes_written", |r| r.totals.bytes_written);
    c.int("blocks_evicted", |r| r.totals.blocks_evicted);
    c.int("blocks_total", |r| r.totals.blocks_total);
    c.int("blocks_max", |r| r.totals.blocks_max);
    c.float("usage_max", |r| share(r.totals.blocks_max, r.totals.blocks_total));
    c.int("stall_ns", |r| i64::try_from(r.totals.stall_ns).unwrap_or(i64::MAX));
    c.float("stalled_mean", |r| mean(r.totals.stall_ns, r.duration_ns));
}
