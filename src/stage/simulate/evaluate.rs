//! Scenarios to results: what is remembered is looked up, the rest is simulated and remembered.
//!
//! `simulate` and `optimize` share this. Shards are cut by the data alone, so which scenarios are remembered together
//! depends on no machine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::take;
use arrow::datatypes::{Int32Type, Int64Type};
use datafusion::error::DataFusionError;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use pipe_kernel::SIM_VERSION;
use pipe_kernel::scenario::Scenario;

use super::derived;
use super::input::Workload;
use super::operator::{self, SimulateTable, Site, failure};
use super::profiles::Profiles;
use super::totals::Totals;
use crate::diag::{Failure, Result};
use crate::stage::RunCx;
use crate::store::{Hash, MEMO_CORRUPT, MemoHit};
use crate::table::simulation;

/// Expected rows of requests in a shard, as far as whole scenarios allow.
const SHARD_ROWS: usize = 1 << 16;
/// Scenarios in a shard at most.
const SHARD_SCENARIOS: usize = 32;

/// What is written of a scenario beside its requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Detail {
    pub steps: bool,
    /// Decisions of routers.
    pub routes: bool,
}

impl Detail {
    /// Much more is written than a row per request, and how much is not known before.
    fn any(self) -> bool {
        self.steps || self.routes
    }
}

/// A finished scenario: where its rows are, and its totals.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    pub key: Hash,
    pub requests: MemoHit,
    /// Only where steps were asked for.
    pub steps: Option<MemoHit>,
    /// The same of routes.
    pub routes: Option<MemoHit>,
    pub totals: Totals,
}

/// Simulates scenarios over one workload, and remembers them.
pub(crate) struct Evaluator {
    pub workload: Workload,
    profiles: Profiles,
    cx: RunCx,
    detail: Detail,
}

/// What the hash of a scenario is made of.
#[derive(Serialize)]
struct Identity<'a> {
    scenario: &'a Scenario,
    requests: &'a Hash,
    sim_version: u32,
    memo_version: u32,
}

impl Evaluator {
    pub fn new(cx: &RunCx, workload: Workload, profiles: Profiles, detail: Detail) -> Evaluator {
        Evaluator { workload, profiles, cx: cx.clone(), detail }
    }

    /// The hash of everything that the rows of a scenario depend on.
    pub fn key(&self, scenario: &Scenario) -> Hash {
        let identity = Identity {
            scenario,
            requests: &self.workload.hash,
            sim_version: SIM_VERSION,
            memo_version: simulation::MEMO_VERSION,
        };
        // Structs with string keys always have a JSON text; its order is that of the fields.
        let text = serde_json::to_string(&identity).unwrap_or_default();
        Hash(blake3::hash(text.as_bytes()).to_hex().to_string())
    }

    /// Results of all scenarios, in their order, and how many were remembered already.
    ///
    /// # Errors
    /// The first scenario that failed; interrupted; a full disk. What was finished until then is remembered.
    pub async fn evaluate(&self, scenarios: &[Scenario]) -> Result<(Vec<Finished>, usize)> {
        let keys: Vec<Hash> = scenarios.iter().map(|s| self.key(s)).collect();
        let known = self.find(&keys)?;
        let mut missing: Vec<(&Hash, &Scenario)> = Vec::new();
        let mut asked = BTreeSet::new();
        for (key, scenario) in keys.iter().zip(scenarios) {
            if !known.contains_key(key) && asked.insert(key) {
                missing.push((key, scenario));
            }
        }
        let reused = scenarios.len() - missing.len();
        self.cx.progress.0.advance(reused as u64);
        if !missing.is_empty() {
            self.simulate(&missing).await?;
        }
        let mut found = if missing.is_empty() { known } else { self.find(&keys)? };
        let take = |key: &Hash| {
            let lost = || Failure::stage("simulate::lost", format!("scenario {} is not in the store", key.0));
            found.remove(key).map(|f| (key.clone(), f)).ok_or_else(lost)
        };
        let by_key: BTreeMap<Hash, Finished> =
            keys.iter().collect::<BTreeSet<_>>().into_iter().map(take).collect::<Result<_>>()?;
        Ok((keys.iter().filter_map(|k| by_key.get(k).cloned()).collect(), reused))
    }

    /// What is remembered; with steps or routes, only what is remembered with them.
    fn find(&self, keys: &[Hash]) -> Result<BTreeMap<Hash, Finished>> {
        let requests = self.cx.memo.find(keys)?;
        let of = |asked: bool, key: fn(&str) -> Hash| match asked {
            true => self.cx.memo.find(&keys.iter().map(|k| key(&k.0)).collect::<Vec<_>>()),
            false => Ok(BTreeMap::new()),
        };
        let mut steps = of(self.detail.steps, operator::steps_key)?;
        let mut routes = of(self.detail.routes, operator::routes_key)?;
        let mut found = BTreeMap::new();
        for (key, hit) in requests {
            let step = steps.remove(&operator::steps_key(&key.0));
            let route = routes.remove(&operator::routes_key(&key.0));
            if (self.detail.steps && step.is_none()) || (self.detail.routes && route.is_none()) {
                continue;
            }
            // Totals of another shape are of another version of pipe that forgot to say so: simulate again.
            let Ok(totals) = serde_json::from_value(hit.summary.clone()) else { continue };
            found.insert(key.clone(), Finished { key, requests: hit, steps: step, routes: route, totals });
        }
        Ok(found)
    }

    async fn simulate(&self, missing: &[(&Hash, &Scenario)]) -> Result<()> {
        let stop = Arc::new(AtomicBool::new(false));
        let site = Arc::new(Site {
            workload: self.workload.clone(),
            profiles: self.profiles.clone(),
            pool: self.cx.pool.clone(),
            memo: self.cx.memo.clone(),
            progress: self.cx.progress.clone(),
            stop: stop.clone(),
        });
        let config = SessionConfig::new().with_target_partitions(1).with_extension(site);
        let table = SimulateTable { shards: self.shards(missing)?, detail: self.detail };
        let work = drive(SessionContext::new_with_config(config), table, self.cx.pool.current_num_threads());
        tokio::pin!(work);
        tokio::select! {
            done = &mut work => done,
            () = self.cx.cancel.cancelled() => {
                stop.store(true, Ordering::Relaxed);
                // The scenarios in the works stop at once; those that are finished are still remembered.
                let done = work.await;
                self.cx.cancel.check()?;
                done
            }
        }
    }

    /// Consecutive scenarios, until their rows or their number are enough for a pack.
    fn shards(&self, missing: &[(&Hash, &Scenario)]) -> Result<Vec<RecordBatch>> {
        let mut shards = Vec::new();
        let mut rest = missing;
        while !rest.is_empty() {
            let mut rows = 0;
            let fits = |(_, s): &&(&Hash, &Scenario)| {
                let before = rows;
                let all = self.workload.requests.len();
                rows += s.workload.max_requests.map_or(all, |max| all.min(max as usize));
                before < SHARD_ROWS
            };
            let most = if self.detail.any() { 1 } else { SHARD_SCENARIOS };
            let count = rest.iter().take(most).take_while(fits).count().max(1);
            let (shard, others) = rest.split_at(count);
            shards.push(shard_batch(shard)?);
            rest = others;
        }
        Ok(shards)
    }

    /// The rows of a scenario as in `<stage>_requests`.
    ///
    /// # Errors
    /// The pack is damaged or gone; the scenario was simulated again then, but could not be read either.
    pub async fn request_rows(&self, scenario: &Scenario, finished: &Finished, id: i64) -> Result<Vec<RecordBatch>> {
        let batches = self.read(scenario, finished, |f| Some(f.requests.clone())).await?;
        let pools = Pools::of(scenario);
        batches.iter().map(|b| self.with_trace_columns(b, id, &pools)).collect()
    }

    /// The rows of a scenario as in `<stage>_steps`.
    ///
    /// # Errors
    /// As [`Evaluator::request_rows`].
    pub async fn step_rows(&self, scenario: &Scenario, finished: &Finished, id: i64) -> Result<Vec<RecordBatch>> {
        let batches = self.read(scenario, finished, |f| f.steps.clone()).await?;
        batches.iter().map(|b| with_id(b, id)).collect()
    }

    /// The rows of a scenario as in `<stage>_routes`.
    ///
    /// # Errors
    /// As [`Evaluator::request_rows`].
    pub async fn route_rows(&self, scenario: &Scenario, finished: &Finished, id: i64) -> Result<Vec<RecordBatch>> {
        let batches = self.read(scenario, finished, |f| f.routes.clone()).await?;
        let pools = Pools::of(scenario);
        batches.iter().map(|b| self.with_numbers(b, id, &pools)).collect()
    }

    /// Rows from memory; a pack that turns out to be damaged is made again.
    async fn read(
        &self,
        scenario: &Scenario,
        finished: &Finished,
        which: impl Fn(&Finished) -> Option<MemoHit>,
    ) -> Result<Vec<RecordBatch>> {
        let Some(hit) = which(finished) else { return Ok(Vec::new()) };
        let damaged = match self.read_hit(hit).await {
            Err(e) if e.diagnostics.iter().any(|d| d.code == MEMO_CORRUPT) => e,
            other => return other,
        };
        let (again, _) = self.evaluate(std::slice::from_ref(scenario)).await?;
        match again.first().and_then(which) {
            Some(hit) => self.read_hit(hit).await,
            None => Err(damaged),
        }
    }

    async fn read_hit(&self, hit: MemoHit) -> Result<Vec<RecordBatch>> {
        let memo = self.cx.memo.clone();
        let read = tokio::task::spawn_blocking(move || memo.read(&hit)).await;
        read.map_err(|e| Failure::stage("simulate::read", e.to_string()))?
    }

    /// Adds the columns that the memory leaves out, and numbers in place of places.
    fn with_trace_columns(&self, batch: &RecordBatch, id: i64, pools: &Pools) -> Result<RecordBatch> {
        let wrong = |e: arrow::error::ArrowError| Failure::stage("simulate::rows", e.to_string());
        let places = batch.column(0).as_primitive::<Int64Type>();
        let of_request = |values: &ArrayRef| take(values, places, None).map_err(wrong);
        let schema = simulation::requests();
        let column = |name: &String| match name.as_str() {
            "scenario_id" => Ok(Arc::new(Int64Array::from_value(id, batch.num_rows())) as ArrayRef),
            "request_id" => of_request(&self.workload.request_id),
            "class" => of_request(&self.workload.class),
            "session_id" => of_request(&self.workload.session_id),
            "pool" => pools.column(batch),
            other => match batch.column_by_name(other) {
                Some(kept) => Ok(kept.clone()),
                None => derived::column(other, batch),
            },
        };
        let columns = schema.fields().iter().map(|f| column(f.name())).collect::<Result<Vec<_>>>()?;
        RecordBatch::try_new(schema, columns).map_err(wrong)
    }

    /// Decisions with numbers in place of places.
    fn with_numbers(&self, batch: &RecordBatch, id: i64, pools: &Pools) -> Result<RecordBatch> {
        let wrong = |e: arrow::error::ArrowError| Failure::stage("simulate::rows", e.to_string());
        let schema = simulation::routes();
        let column = |name: &String| match name.as_str() {
            "scenario_id" => Ok(Arc::new(Int64Array::from_value(id, batch.num_rows())) as ArrayRef),
            "request_id" => {
                let places = batch.column(0).as_primitive::<Int64Type>();
                take(&self.workload.request_id, places, None).map_err(wrong)
            }
            "pool" => pools.column(batch),
            other => batch.column_by_name(other).cloned().ok_or_else(|| derived::lacking(other)),
        };
        let columns = schema.fields().iter().map(|f| column(f.name())).collect::<Result<Vec<_>>>()?;
        RecordBatch::try_new(schema, columns).map_err(wrong)
    }
}

/// Names of the pools of a scenario, and the number of the first replica after each.
struct Pools(Vec<(u32, String)>);

impl Pools {
    fn of(scenario: &Scenario) -> Pools {
        Pools(scenario.sites().into_iter().map(|site| (site.first + site.engines(), site.name)).collect())
    }

    /// The pool of every row's replica.
    fn column(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let replicas = batch.column_by_name("replica").and_then(|c| c.as_primitive_opt::<Int32Type>());
        let replicas = replicas.ok_or_else(|| derived::lacking("replica"))?;
        let name = |replica: &i32| {
            let at = self.0.partition_point(|(end, _)| i64::from(*end) <= i64::from(*replica));
            self.0.get(at).map_or("", |(_, name)| name.as_str())
        };
        Ok(Arc::new(StringArray::from_iter_values(replicas.values().iter().map(name))))
    }
}

fn with_id(batch: &RecordBatch, id: i64) -> Result<RecordBatch> {
    let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_value(id, batch.num_rows()))];
    columns.extend(batch.columns().iter().cloned());
    RecordBatch::try_new(simulation::steps(), columns).map_err(|e| Failure::stage("simulate::rows", e.to_string()))
}

fn shard_batch(shard: &[(&Hash, &Scenario)]) -> Result<RecordBatch> {
    let wrong = |e: &dyn std::fmt::Display| Failure::stage("simulate::scenario", e.to_string());
    let keys = StringArray::from_iter_values(shard.iter().map(|(key, _)| key.0.as_str()));
    let configs: Vec<String> = shard
        .iter()
        .map(|(_, s)| serde_json::to_string(s))
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| wrong(&e))?;
    let columns: Vec<ArrayRef> = vec![Arc::new(keys), Arc::new(StringArray::from(configs))];
    RecordBatch::try_new(operator::scenario_schema(), columns).map_err(|e| wrong(&e))
}

/// Runs every partition of the plan, as many at once as there are threads: each holds at most a shard in memory.
async fn drive(ctx: SessionContext, table: SimulateTable, threads: usize) -> Result<()> {
    let frame = ctx.read_table(Arc::new(table)).map_err(|e| failure(&e))?;
    let plan = frame.create_physical_plan().await.map_err(|e| failure(&e))?;
    let task = ctx.task_ctx();
    let partitions = plan.properties().output_partitioning().partition_count();
    let runs = (0..partitions).map(|partition| {
        let opened = plan.execute(partition, task.clone());
        async move { opened?.try_for_each(|_| async { Ok(()) }).await }
    });
    // Every run is seen to its end: what the others finished is remembered before a failure is told.
    let results: Vec<std::result::Result<(), DataFusionError>> =
        stream::iter(runs).buffer_unordered(threads.max(1)).collect().await;
    let failures = results.into_iter().filter_map(std::result::Result::err).map(|e| failure(&e));
    // A scenario that failed stops the others, which then report that they were stopped.
    match failures.min_by_key(|f| f.diagnostics.is_empty()) {
        Some(worst) => Err(worst),
        None => Ok(()),
    }
}
