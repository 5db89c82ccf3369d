//! Simulation as operators of DataFusion: rows of scenarios in, finished scenarios out, remembered as they come.
//!
//! ```text
//! MemorySourceConfig (shards of scenarios) ──► SimulateExec ──► PersistExec ──► a row per remembered scenario
//! ```
//!
//! Rules that keep the same plan right on one machine and on many: never a leaf, as many partitions out as come in,
//! and nothing that is stored depends on the number of a partition. What a node cannot carry in a message (threads,
//! requests, the memory of scenarios) is the [`Site`], an extension of the session.
//!
//! Whoever executes the plan bounds how many partitions run at once; within a partition at most one shard is in
//! memory. CPU work runs on the rayon pool of the site alone.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, AsArray, ListArray, RecordBatch, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as DfResult;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::TableType;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, ChildrenPropertiesMode, EmissionType};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, ReplaceChildrenOptions,
};
use futures::{StreamExt, stream};
use serde_json::Value;

use pipe_kernel::scenario::Scenario;

use super::evaluate::Detail;
use super::input::Workload;
use super::profiles::Profiles;
use super::rows::{self, Stopped};
use crate::diag::Failure;
use crate::stage::Progress;
use crate::store::{Hash, Memo, MemoEntry};
use crate::table::simulation;

/// What the operators find where they run.
pub(crate) struct Site {
    pub workload: Workload,
    /// What latency models read: a scenario as text has no more of it than a fingerprint.
    pub profiles: Profiles,
    pub pool: Arc<rayon::ThreadPool>,
    pub memo: Memo,
    pub progress: Progress,
    /// Set to stop: by the user, or by the first failure.
    pub stop: Arc<AtomicBool>,
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, false)
}

/// Scenarios to simulate: the hash that names each, and all of it as JSON.
pub(crate) fn scenario_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![text("scenario"), text("config")]))
}

fn rows_field(name: &str, schema: &SchemaRef) -> Field {
    let item = Field::new_list_field(DataType::Struct(schema.fields().clone()), false);
    Field::new(name, DataType::List(Arc::new(item)), false)
}

/// Finished scenarios: a row each, with the rows of their requests, steps and routes as lists.
fn finished_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text("scenario"),
        text("totals"),
        rows_field("requests", &simulation::memo_requests()),
        rows_field("steps", &simulation::memo_steps()),
        rows_field("routes", &simulation::memo_routes()),
    ]))
}

/// What was remembered.
fn manifest_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![text("scenario")]))
}

/// The key that the steps of a scenario are remembered under.
pub(crate) fn steps_key(scenario: &str) -> Hash {
    Hash(blake3::hash(format!("{scenario}:steps").as_bytes()).to_hex().to_string())
}

/// The key that the decisions of routers in a scenario are remembered under.
pub(crate) fn routes_key(scenario: &str) -> Hash {
    Hash(blake3::hash(format!("{scenario}:routes").as_bytes()).to_hex().to_string())
}

/// Scenarios as a table whose scan simulates and remembers them.
#[derive(Debug)]
pub(crate) struct SimulateTable {
    /// [`scenario_schema`]; what is together in a shard is remembered in one pack.
    pub shards: Vec<RecordBatch>,
    pub detail: Detail,
}

#[async_trait]
impl TableProvider for SimulateTable {
    fn schema(&self) -> SchemaRef {
        manifest_schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        _projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let parts: Vec<Vec<RecordBatch>> = self.shards.iter().map(|b| vec![b.clone()]).collect();
        let source = MemorySourceConfig::try_new_exec(&parts, scenario_schema(), None)?;
        let simulate = Arc::new(SimulateExec::new(source, self.detail));
        Ok(Arc::new(PersistExec::new(simulate, self.detail)))
    }
}

fn properties(input: &Arc<dyn ExecutionPlan>, schema: SchemaRef) -> Arc<PlanProperties> {
    let partitions = input.properties().output_partitioning().partition_count();
    Arc::new(PlanProperties::new(
        EquivalenceProperties::new(schema),
        Partitioning::UnknownPartitioning(partitions),
        EmissionType::Incremental,
        Boundedness::Bounded,
    ))
}

/// What the two operators have in common: one child, and no expressions.
macro_rules! unary {
    ($name:literal) => {
        fn name(&self) -> &str {
            $name
        }
        fn properties(&self) -> &Arc<PlanProperties> {
            &self.properties
        }
        fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
            vec![&self.input]
        }
        fn benefits_from_input_partitioning(&self) -> Vec<bool> {
            vec![false]
        }
        fn apply_expressions(
            &self,
            _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
        ) -> DfResult<TreeNodeRecursion> {
            Ok(TreeNodeRecursion::Continue)
        }
        fn replace_children(
            self: Arc<Self>,
            mut children: Vec<Arc<dyn ExecutionPlan>>,
            _options: ReplaceChildrenOptions,
        ) -> DfResult<Arc<dyn ExecutionPlan>> {
            match (children.pop(), children.is_empty()) {
                (Some(child), true) => Ok(Arc::new(Self::new(child, self.detail))),
                _ => Err(DataFusionError::Internal(concat!($name, " has one child").to_string())),
            }
        }
        // Deprecated, and still required.
        #[allow(deprecated)]
        fn with_new_children(
            self: Arc<Self>,
            children: Vec<Arc<dyn ExecutionPlan>>,
        ) -> DfResult<Arc<dyn ExecutionPlan>> {
            self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
        }
    };
}

fn site(context: &TaskContext) -> DfResult<Arc<Site>> {
    let site = context.session_config().get_extension::<Site>();
    site.ok_or_else(|| DataFusionError::Internal("the session has no site for simulations".to_string()))
}

/// Simulates the scenarios of its input, a few at a time, and emits them in their order.
#[derive(Debug)]
pub(crate) struct SimulateExec {
    input: Arc<dyn ExecutionPlan>,
    detail: Detail,
    properties: Arc<PlanProperties>,
}

impl SimulateExec {
    pub fn new(input: Arc<dyn ExecutionPlan>, detail: Detail) -> Self {
        let properties = properties(&input, finished_schema());
        SimulateExec { input, detail, properties }
    }
}

impl DisplayAs for SimulateExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "SimulateExec: {:?}", self.detail)
    }
}

impl ExecutionPlan for SimulateExec {
    unary!("SimulateExec");

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let site = site(&context)?;
        let mut input = self.input.execute(partition, context)?;
        let detail = self.detail;
        let mut output = RecordBatchReceiverStreamBuilder::new(finished_schema(), 2);
        let tx = output.tx();
        output.spawn(async move {
            while let Some(batch) = input.next().await {
                let jobs = jobs(&batch?)?.into_iter().map(|job| run(job, detail, site.clone()));
                let mut results = stream::iter(jobs).buffered(site.pool.current_num_threads().max(1));
                let mut failure = None;
                // After a failure or a stop the rest comes back at once; what is finished is still handed on.
                while let Some(result) = results.next().await {
                    match result {
                        Ok(batch) => {
                            if tx.send(Ok(batch)).await.is_err() {
                                return Ok(());
                            }
                        }
                        Err(e) => failure = Some(worse(failure, e)),
                    }
                }
                if let Some(e) = failure {
                    return Err(e);
                }
            }
            Ok(())
        });
        Ok(output.build())
    }
}

/// A scenario to simulate.
struct Job {
    scenario: String,
    config: Scenario,
}

fn jobs(batch: &RecordBatch) -> DfResult<Vec<Job>> {
    let strings = |name: &str| {
        let column = batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>().cloned());
        column.ok_or_else(|| DataFusionError::Internal(format!("scenarios have no column {name}")))
    };
    let (scenarios, configs) = (strings("scenario")?, strings("config")?);
    let jobs = (0..batch.num_rows()).map(|i| {
        let config = serde_json::from_str(configs.value(i));
        let config = config.map_err(|e| DataFusionError::Internal(format!("not a scenario: {e}")))?;
        Ok(Job { scenario: scenarios.value(i).to_string(), config })
    });
    jobs.collect()
}

/// Simulates one scenario on the pool.
async fn run(mut job: Job, detail: Detail, site: Arc<Site>) -> DfResult<RecordBatch> {
    site.profiles.restore(&mut job.config);
    let (done, result) = tokio::sync::oneshot::channel();
    let pool = site.pool.clone();
    pool.spawn(move || {
        let computed = catch_unwind(AssertUnwindSafe(|| compute(&job, detail, &site))).unwrap_or_else(|_| {
            let scenario = &job.scenario;
            Err(failed(format!("the simulator stopped with a bug on scenario {scenario}; please report its settings")))
        });
        if computed.is_err() {
            site.stop.store(true, Ordering::Relaxed);
        }
        // Nobody waits any more: the plan was dropped.
        let _ = done.send(computed);
    });
    result.await.map_err(|_| DataFusionError::Internal("a simulation was lost".to_string()))?
}

/// Of two errors the one that says more: a failure makes the scenarios beside it report that they were stopped.
fn worse(first: Option<DataFusionError>, second: DataFusionError) -> DataFusionError {
    match first {
        Some(first) if !failure(&first).diagnostics.is_empty() => first,
        Some(_) | None => second,
    }
}

/// The failure inside an error of DataFusion.
pub(crate) fn failure(e: &DataFusionError) -> Failure {
    match e.find_root() {
        DataFusionError::External(inner) => match inner.downcast_ref::<Failure>() {
            Some(failure) => failure.clone(),
            None => Failure::stage("simulate::failed", inner.to_string()),
        },
        root => Failure::stage("simulate::failed", root.strip_backtrace()),
    }
}

fn failed(message: String) -> DataFusionError {
    DataFusionError::External(Box::new(Failure::stage("simulate::failed", message)))
}

fn compute(job: &Job, detail: Detail, site: &Site) -> DfResult<RecordBatch> {
    let interrupted = || DataFusionError::External(Box::new(Failure::interrupted()));
    if site.stop.load(Ordering::Relaxed) {
        return Err(interrupted());
    }
    let outcome = rows::simulate(&job.config, &site.workload.requests, detail, &site.stop).map_err(|e| match e {
        Stopped::Cancelled => interrupted(),
        Stopped::Impossible { path, message } => {
            failed(format!("`{path}`: {}", site.workload.in_own_numbers(&path, &message)))
        }
        Stopped::Failed(message) => failed(message),
    })?;
    let totals = serde_json::to_string(&outcome.totals).map_err(|e| DataFusionError::External(Box::new(e)))?;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![job.scenario.as_str()])),
        Arc::new(StringArray::from(vec![totals])),
        one_list(outcome.requests)?,
        one_list(outcome.steps)?,
        one_list(outcome.routes)?,
    ];
    Ok(RecordBatch::try_new(finished_schema(), columns)?)
}

/// A list column of one row that holds all rows of `batch`, without copying them.
fn one_list(batch: RecordBatch) -> DfResult<ArrayRef> {
    let item = Arc::new(Field::new_list_field(DataType::Struct(batch.schema().fields().clone()), false));
    let offsets = OffsetBuffer::from_lengths([batch.num_rows()]);
    Ok(Arc::new(ListArray::try_new(item, offsets, Arc::new(StructArray::from(batch)), None)?))
}

/// Remembers the scenarios of each partition in one pack, and emits which they were.
#[derive(Debug)]
pub(crate) struct PersistExec {
    input: Arc<dyn ExecutionPlan>,
    detail: Detail,
    properties: Arc<PlanProperties>,
}

impl PersistExec {
    pub fn new(input: Arc<dyn ExecutionPlan>, detail: Detail) -> Self {
        let properties = properties(&input, manifest_schema());
        PersistExec { input, detail, properties }
    }
}

impl DisplayAs for PersistExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "PersistExec: {:?}", self.detail)
    }
}

impl ExecutionPlan for PersistExec {
    unary!("PersistExec");

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let site = site(&context)?;
        let mut input = self.input.execute(partition, context)?;
        let detail = self.detail;
        let mut output = RecordBatchReceiverStreamBuilder::new(manifest_schema(), 1);
        let tx = output.tx();
        output.spawn(async move {
            let mut pack = Pack::default();
            let mut failure = None;
            while let Some(batch) = input.next().await {
                match batch {
                    Ok(batch) => {
                        pack.add(&batch, detail)?;
                        site.progress.0.advance(batch.num_rows() as u64);
                    }
                    Err(e) => {
                        failure = Some(e);
                        break;
                    }
                }
            }
            // What is finished is kept, also when the rest failed or was stopped.
            let memo = site.memo.clone();
            let written = tokio::task::spawn_blocking(move || pack.write(&memo, detail)).await;
            let written = written.map_err(|e| DataFusionError::ExecutionJoin(Box::new(e)))??;
            if tx.send(Ok(written)).await.is_err() {
                return Ok(());
            }
            failure.map_or(Ok(()), Err)
        });
        Ok(output.build())
    }
}

/// Scenarios that will be remembered together.
#[derive(Default)]
struct Pack {
    requests: Part,
    steps: Part,
    routes: Part,
}

/// Rows of one kind, and whose they are.
#[derive(Default)]
struct Part {
    rows: Vec<RecordBatch>,
    entries: Vec<MemoEntry>,
}

impl Part {
    fn add(&mut self, key: Hash, rows: RecordBatch, summary: &Value) {
        self.entries.push(MemoEntry { key, rows: rows.num_rows() as u64, summary: summary.clone() });
        self.rows.push(rows);
    }

    fn write(&self, memo: &Memo, schema: SchemaRef) -> DfResult<()> {
        memo.put(schema, &self.rows, &self.entries).map_err(|e: Failure| DataFusionError::External(Box::new(e)))
    }
}

impl Pack {
    fn add(&mut self, batch: &RecordBatch, detail: Detail) -> DfResult<()> {
        let (scenarios, totals) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
        let lists = |i: usize| batch.column(i).as_list::<i32>();
        for i in 0..batch.num_rows() {
            let summary: Value =
                serde_json::from_str(totals.value(i)).map_err(|e| DataFusionError::External(Box::new(e)))?;
            let scenario = scenarios.value(i);
            let rows = table(&lists(2).value(i), &simulation::memo_requests())?;
            self.requests.add(Hash(scenario.to_string()), rows, &summary);
            if detail.steps {
                let rows = table(&lists(3).value(i), &simulation::memo_steps())?;
                self.steps.add(steps_key(scenario), rows, &summary);
            }
            if detail.routes {
                let rows = table(&lists(4).value(i), &simulation::memo_routes())?;
                self.routes.add(routes_key(scenario), rows, &summary);
            }
        }
        Ok(())
    }

    fn write(self, memo: &Memo, detail: Detail) -> DfResult<RecordBatch> {
        let scenarios = StringArray::from_iter_values(self.requests.entries.iter().map(|e| e.key.0.as_str()));
        if !self.requests.entries.is_empty() {
            // Requests last: a scenario counts as remembered with its steps and routes only when all are there.
            if detail.steps {
                self.steps.write(memo, simulation::memo_steps())?;
            }
            if detail.routes {
                self.routes.write(memo, simulation::memo_routes())?;
            }
            self.requests.write(memo, simulation::memo_requests())?;
        }
        Ok(RecordBatch::try_new(manifest_schema(), vec![Arc::new(scenarios)])?)
    }
}

/// The rows of a list as a batch; `schema` has the metadata that a list loses.
fn table(rows: &ArrayRef, schema: &SchemaRef) -> DfResult<RecordBatch> {
    let rows = rows.as_struct_opt().ok_or_else(|| DataFusionError::Internal("rows are no structs".to_string()))?;
    Ok(RecordBatch::try_new(schema.clone(), rows.columns().to_vec())?)
}
