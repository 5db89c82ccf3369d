//! What the engines of each pool come to: part of what is remembered of a scenario, and the rows of `<stage>_pools`.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use pipe_kernel::pools::Site;
use pipe_kernel::scenario::Scenario;
use pipe_kernel::sim::kv::plan;
use pipe_kernel::sim::scheduler::Scheduler;
use pipe_kernel::sim::{Summary, by_pool, utilization_of_pool};

use super::columns::Columns;
use super::quantiles::wide;
use super::supply;
use super::tiers::TierTotals;
use super::totals::{count, share};
use crate::table::simulation;

/// Totals of a pool; integers only, as in [`super::Totals`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct PoolTotals {
    engines: i64,
    requests: i64,
    steps: i64,
    latency_extrapolated_steps: i64,
    busy_ns: i64,
    prefill_tokens: i64,
    decode_tokens: i64,
    #[serde(with = "wide")]
    running_ns: i128,
    running_max: i64,
    #[serde(with = "wide")]
    waiting_ns: i128,
    waiting_max: i64,
    #[serde(with = "wide")]
    kv_block_ns: i128,
    kv_blocks_total: i64,
    kv_blocks_max: i64,
    pub kv_plan: Option<KvPlan>,
    prefix_tokens_queried: i64,
    prefix_tokens_hit: i64,
    prefix_blocks_queried: i64,
    prefix_blocks_hit: i64,
    /// MFU and MBU, as the bits of the numbers.
    utilization_bits: Option<[u64; 2]>,
    pub tiers: Vec<TierTotals>,
}

/// The memory plan of one GPU, in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct KvPlan {
    pub budget: i64,
    pub weights: i64,
    pub activations: i64,
    pub other: i64,
    pub block: i64,
}

impl KvPlan {
    /// `None` where nothing is planned: the blocks are given, or there is no cache.
    fn new(site: &Site) -> Option<KvPlan> {
        let Site { deployment, model, gpu, .. } = site;
        match &deployment.scheduler {
            Scheduler::Exclusive(_) => return None,
            _ if deployment.kv.num_gpu_blocks.is_some() => return None,
            _ => {}
        }
        let plan = plan::plan(deployment, model, gpu);
        let bytes = |x: f64| x.round() as i64;
        Some(KvPlan {
            budget: bytes(plan.budget),
            weights: bytes(plan.weights),
            activations: bytes(plan.activations),
            other: bytes(plan.non_torch + plan.adapters),
            block: bytes(plan.bytes_per_block),
        })
    }
}

impl PoolTotals {
    /// Of every pool of a scenario, in the order of their names.
    pub fn of(scenario: &Scenario, summary: &Summary) -> Vec<PoolTotals> {
        scenario.sites().iter().zip(by_pool(summary)).map(|(site, pool)| PoolTotals::new(site, pool)).collect()
    }

    fn new(site: &Site, pool: &Summary) -> PoolTotals {
        PoolTotals {
            engines: i64::from(site.engines()),
            requests: count(pool.injected),
            steps: count(pool.steps),
            latency_extrapolated_steps: count(pool.latency_extrapolated_steps),
            busy_ns: pool.busy.0,
            prefill_tokens: count(pool.work.prefill_tokens),
            decode_tokens: count(pool.work.decode_requests),
            running_ns: pool.running_ns,
            running_max: count(pool.running_max),
            waiting_ns: pool.waiting_ns,
            waiting_max: count(pool.waiting_max),
            kv_block_ns: pool.kv_block_ns,
            kv_blocks_total: count(pool.kv_blocks_total),
            kv_blocks_max: count(pool.kv_blocks_max),
            kv_plan: KvPlan::new(site),
            prefix_tokens_queried: count(pool.prefix_tokens_queried),
            prefix_tokens_hit: count(pool.prefix_tokens_hit),
            prefix_blocks_queried: count(pool.prefix_blocks_queried),
            prefix_blocks_hit: count(pool.prefix_blocks_hit),
            utilization_bits: utilization_of_pool(site, pool).map(|(mfu, mbu)| [mfu.to_bits(), mbu.to_bits()]),
            tiers: pool.tiers.iter().map(TierTotals::of).collect(),
        }
    }

    pub fn engines(&self) -> i64 {
        self.engines
    }

    /// Of the blocks of all pools, the share in use over the duration; `None` without blocks or time.
    pub fn kv_usage_mean(pools: &[PoolTotals], duration_ns: i64) -> Option<f64> {
        let blocks = pools.iter().map(|p| p.kv_blocks_total.saturating_mul(p.engines)).fold(0, i64::saturating_add);
        let used: i128 = pools.iter().map(|p| p.kv_block_ns).sum();
        (blocks > 0).then(|| mean(used, duration_ns).map(|used| used / blocks as f64)).flatten()
    }

    /// Most of the blocks of one engine in use at once, as a share.
    pub fn kv_usage_max(pools: &[PoolTotals]) -> Option<f64> {
        pools.iter().filter_map(|p| share(p.kv_blocks_max, p.kv_blocks_total)).max_by(f64::total_cmp)
    }
}

/// An integral over time as a mean over the duration.
pub(super) fn mean(integral: i128, duration_ns: i64) -> Option<f64> {
    (duration_ns > 0).then(|| integral as f64 / duration_ns as f64)
}

/// A pool of a scenario.
struct Row<'a> {
    scenario: i64,
    site: &'a Site,
    latency: String,
    pool: &'a PoolTotals,
    duration_ns: i64,
}

impl Row<'_> {
    fn mean(&self, integral: i128) -> Option<f64> {
        mean(integral, self.duration_ns)
    }

    fn utilization(&self, which: usize) -> Option<f64> {
        self.pool.utilization_bits.map(|bits| f64::from_bits(bits[which]))
    }
}

/// The rows of `<stage>_pools` of a scenario.
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
    let row = |(site, pool): (_, _)| Row { scenario: id, site, latency: supply::name(site), pool, duration_ns };
    let all: Vec<Row> = sites.iter().zip(pools).map(row).collect();
    let mut columns = Columns::new(&all);
    deployed(&mut columns);
    figures(&mut columns);
    cache(&mut columns);
    columns.table(simulation::pools())
}

fn deployed(c: &mut Columns<Row>) {
    c.int("scenario_id", |r| r.scenario);
    c.text("pool", |r| &r.site.name);
    c.text("role", |r| r.site.role.as_str());
    c.text("model", |r| &r.site.deployment.model);
    c.text("gpu", |r| &r.site.deployment.gpu);
    c.int("tp", |r| i64::from(r.site.deployment.tp));
    c.int("pp", |r| i64::from(r.site.deployment.pp));
    c.int("dp", |r| i64::from(r.site.deployment.dp));
    c.int("replicas", |r| r.pool.engines);
    c.int("replica_first", |r| i64::from(r.site.first));
    c.int("gpus", |r| count(r.site.deployment.gpus()));
    c.text("latency_model", |r| &r.latency);
}

fn figures(c: &mut Columns<Row>) {
    c.int("requests", |r| r.pool.requests);
    c.int("steps", |r| r.pool.steps);
    c.int("latency_extrapolated_steps", |r| r.pool.latency_extrapolated_steps);
    c.int("busy_ns", |r| r.pool.busy_ns);
    c.float("busy_ratio", |r| share(r.pool.busy_ns, r.duration_ns.saturating_mul(r.pool.engines)));
    c.int("prefill_tokens", |r| r.pool.prefill_tokens);
    c.int("decode_tokens", |r| r.pool.decode_tokens);
    c.float("running_mean", |r| r.mean(r.pool.running_ns));
    c.int("running_max", |r| r.pool.running_max);
    c.float("waiting_mean", |r| r.mean(r.pool.waiting_ns));
    c.int("waiting_max", |r| r.pool.waiting_max);
    c.float("mfu", |r| r.utilization(0));
    c.float("mbu", |r| r.utilization(1));
}

fn cache(c: &mut Columns<Row>) {
    c.float("kv_gpu_memory_utilization", |r| Some(r.site.deployment.kv.gpu_memory_utilization));
    c.int("kv_block_size", |r| i64::from(r.site.deployment.kv.block_size));
    c.int("kv_blocks_total", |r| r.pool.kv_blocks_total);
    c.int("kv_blocks_max", |r| r.pool.kv_blocks_max);
    c.float("kv_usage_mean", |r| PoolTotals::kv_usage_mean(std::slice::from_ref(r.pool), r.duration_ns));
    c.float("kv_usage_max", |r| PoolTotals::kv_usage_max(std::slice::from_ref(r.pool)));
    plan_columns(c, |r| r.pool.kv_plan.as_ref());
    c.int("prefix_tokens_queried", |r| r.pool.prefix_tokens_queried);
    c.int("prefix_tokens_hit", |r| r.pool.prefix_tokens_hit);
    c.float("prefix_hit_rate", |r| share(r.pool.prefix_tokens_hit, r.pool.prefix_tokens_queried));
    c.int("prefix_blocks_queried", |r| r.pool.prefix_blocks_queried);
    c.int("prefix_blocks_hit", |r| r.pool.prefix_blocks_hit);
    c.float("prefix_block_hit_rate", |r| share(r.pool.prefix_blocks_hit, r.pool.prefix_blocks_queried));
}

/// The terms of a memory plan.
pub(super) fn plan_columns<T>(c: &mut Columns<T>, plan: fn(&T) -> Option<&KvPlan>) {
    c.optional("kv_budget_bytes", |t| plan(t).map(|p| p.budget));
    c.optional("kv_weights_bytes", |t| plan(t).map(|p| p.weights));
    c.optional("kv_activation_bytes", |t| plan(t).map(|p| p.activations));
    c.optional("kv_other_bytes", |t| plan(t).map(|p| p.other));
    c.optional("kv_block_bytes", |t| plan(t).map(|p| p.block));
}
