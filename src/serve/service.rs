//! What all protocols share: sessions over the tables, the guard, the limits, and the running of queries.
//!
//! Queries run on threads of their own, so that a heavy one does not keep others from being heard. A result is handed over
//! batch by batch; a client that does not take its rows holds up nothing but its own query, and not for ever.

use std::any::Any;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{CatalogProviderList, MemoryCatalogProviderList};
use datafusion::common::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::context::{SQLOptions, SessionContext, SessionState};
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::Tokenizer;
use futures::{Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::access::Access;
use super::memory::Share;
use super::metrics::{Metrics, Up};
use super::refusal::{Reason, Refusal};
use super::tables::{LiveCatalog, Snapshot, Tables};
use super::{Limits, Wire, changes, constants, depth, yielding};
use crate::diag::{Failure, Result};
use crate::query::session::{self, CATALOG, SessionOptions};
use crate::query::{plan, reads_only, sql::statements};

/// Of a thread that plans or runs queries; only what is used of it takes memory.
pub const STACK: usize = 8 << 20;
/// Batches that a query may be ahead of its client.
const AHEAD: usize = 2;

/// The service behind every protocol.
pub struct Service {
    pub tables: Arc<Tables>,
    pub access: Access,
    pub metrics: Metrics,
    pub limits: Limits,
    /// Ends everything: servers stop accepting, queries stop.
    pub stop: CancellationToken,
    base: SessionContext,
    slots: Arc<Semaphore>,
    /// `None` only while it is dropped.
    threads: Option<tokio::runtime::Runtime>,
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

impl Service {
    /// # Errors
    /// Threads cannot be started, or the temporary folder cannot be used.
    pub fn new(tables: Arc<Tables>, access: Access, limits: Limits, threads: usize) -> Result<Arc<Service>> {
        let base = session::context(&SessionOptions { target_partitions: threads, memory_bytes: limits.memory_bytes })?;
        let base = SessionContext::new_with_state(yielding::with_rule(base.state()));
        base.register_catalog(CATALOG, Arc::new(LiveCatalog::new(tables.clone())));
        // It tells where this machine keeps the store.
        base.deregister_udf("input_file_name");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("query")
            .thread_stack_size(STACK)
            .enable_all()
            .build()
            .map_err(|e| Failure::stage("serve::threads", format!("cannot start threads: {e}")))?;
        let metrics = Metrics::default();
        let now = tables.now();
        metrics.loaded(now.tables.len(), now.at, false);
        Ok(Arc::new(Service {
            tables,
            access,
            metrics,
            slots: Arc::new(Semaphore::new(limits.queries.max(1))),
            limits,
            stop: CancellationToken::new(),
            base,
            threads: Some(runtime),
        }))
    }

    /// A session of one connection: its settings are its own, tables and memory are those of all.
    pub fn session(&self) -> SessionContext {
        SessionContext::new_with_state(self.base.state())
    }

    /// A session for one statement: it sees the tables of one moment, whatever is published while it is planned.
    pub fn pinned(&self, ctx: &SessionContext) -> SessionContext {
        let pinned = SessionContext::new_with_state(ctx.state());
        let catalog = ctx.catalog(CATALOG);
        if let Some(live) = catalog.as_deref().and_then(|c| (c as &dyn Any).downcast_ref::<LiveCatalog>()) {
            let list = MemoryCatalogProviderList::new();
            list.register_catalog(CATALOG.to_string(), Arc::new(live.pinned()));
            pinned.register_catalog_list(Arc::new(list));
        }
        pinned
    }

    /// What is served right now.
    pub fn now(&self) -> Arc<Snapshot> {
        self.tables.now()
    }

    /// The plan of one statement that reads.
    ///
    /// # Errors
    /// Mistakes in it; several statements; statements that write.
    pub async fn plan(&self, ctx: &SessionContext, sql: &str) -> std::result::Result<LogicalPlan, Refusal> {
        let snapshot = self.now();
        let wrong = |e: DataFusionError| Refusal::planning(&e, sql, &snapshot.names).discreet(self.tables.store());
        refuse_deep(sql)?;
        let mut parsed = statements(sql).map_err(wrong)?;
        let Some(statement) = parsed.pop() else {
            return Err(Refusal::new(Reason::Syntax, "there is no statement"));
        };
        if !parsed.is_empty() {
            return Err(Refusal::new(Reason::Syntax, "one statement at a time is run here").hint("send each by itself"));
        }
        Self::allow(&statement)?;
        if let Some(message) = explained(&statement).and_then(depth::too_wide) {
            return Err(Refusal::new(Reason::TooLarge, message));
        }
        let plan = self.logical(self.pinned(ctx).state(), statement).await?.map_err(wrong)?;
        self.verify(&plan)?;
        if plan.schema().fields().is_empty() {
            let none = Refusal::new(Reason::Syntax, "the statement has no columns");
            return Err(none.hint("name some: `SELECT * FROM ...`"));
        }
        Ok(plan)
    }

    /// Plans a statement on the threads of queries, so that one that takes long to plan holds up no connection.
    ///
    /// # Errors
    /// It takes longer than statements may. The plan has errors of its own.
    pub async fn logical(
        &self,
        state: SessionState,
        statement: Statement,
    ) -> std::result::Result<std::result::Result<LogicalPlan, DataFusionError>, Refusal> {
        let mut task = self.handle().spawn(async move { state.statement_to_plan(statement).await });
        let planned = tokio::time::timeout(self.limits.timeout, &mut task).await;
        task.abort();
        let planned = planned.map_err(|_| self.too_slow())?;
        planned.map_err(|_| Refusal::new(Reason::Failed, "the statement cannot be planned because of a bug in pipe"))
    }

    /// Counts a statement that was refused before it ran, and notes it in the log.
    pub fn refused(&self, wire: Wire, refusal: &Refusal) {
        self.metrics.ended(wire, Some(refusal.reason), 0.0, 0);
        refusal.log(wire);
    }

    /// Whether a statement may be run.
    ///
    /// # Errors
    /// It does not only read.
    pub fn allow(statement: &Statement) -> std::result::Result<(), Refusal> {
        match changed(statement) {
            Some(what) => Err(Refusal::read_only(what)),
            None if reads_only(statement) => Ok(()),
            None => Err(Refusal::read_only(&beginning(statement))),
        }
    }

    /// Whether a plan only reads, whatever statement it was made of.
    ///
    /// # Errors
    /// It does not.
    pub fn verify(&self, plan: &LogicalPlan) -> std::result::Result<(), Refusal> {
        let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        options.verify_plan(plan).map_err(|_| Refusal::read_only("this"))
    }

    /// Runs a plan. The rows come as their client takes them, and end with an error where a limit is reached.
    ///
    /// # Errors
    /// No slot became free in time; errors before the first row.
    pub async fn run(
        self: &Arc<Self>,
        wire: Wire,
        ctx: &SessionContext,
        plan: LogicalPlan,
    ) -> std::result::Result<Rows, Refusal> {
        let mut query = Query { service: self.clone(), wire, begun: Instant::now(), busy: Duration::ZERO, rows: 0 };
        let planned = self.planned(ctx, &plan, query.begun).await;
        query.busy = query.begun.elapsed();
        let running = match planned {
            Ok(running) => running,
            Err(refusal) => {
                query.ended(Some(&refusal));
                return Err(refusal);
            }
        };
        let schema = running.physical.schema();
        let (sender, receiver) = mpsc::channel(AHEAD);
        let end: End = Arc::new(Mutex::new(Some(lost())));
        // Not on the threads of queries: it also watches over those that keep their thread.
        let task = tokio::spawn(query.drive(running, sender, end.clone()));
        Ok(Rows { schema, receiver, end, task: task.abort_handle() })
    }

    /// What every batch of a plan's rows will have: the plan that runs knows better than the statement what can be null.
    ///
    /// # Errors
    /// No slot became free in time; mistakes that show only now.
    pub async fn schema(&self, ctx: &SessionContext, plan: &LogicalPlan) -> std::result::Result<SchemaRef, Refusal> {
        Ok(self.planned(ctx, plan, Instant::now()).await?.physical.schema())
    }

    /// The plan that runs, made on the threads of queries: it computes what is constant, which may take long.
    async fn planned(
        &self,
        ctx: &SessionContext,
        plan: &LogicalPlan,
        begun: Instant,
    ) -> std::result::Result<Running, Refusal> {
        self.verify(plan)?;
        let slot = self.slot().await?;
        let up = self.metrics.running();
        let (done, planned) = oneshot::channel();
        let (ctx, plan, most) = (ctx.clone(), plan.clone(), self.limits.memory_bytes / 2);
        let task = self.handle().spawn(async move {
            let planned = physical(&ctx, &plan, most).await;
            // Its place is taken until now, also where nobody waits any more.
            let _ = done.send(planned.map(|(physical, task)| Running { physical, task, _slot: slot, _up: up }));
        });
        let stopping = AbortOnDrop(task.abort_handle());
        let left = self.limits.timeout.saturating_sub(begun.elapsed());
        let planned = tokio::select! {
            () = self.stop.cancelled() => return Err(stopped()),
            planned = tokio::time::timeout(left, planned) => planned,
        };
        drop(stopping);
        let planned = planned.map_err(|_| self.too_slow())?;
        let planned = planned.map_err(|_| Refusal::new(Reason::Failed, "the query failed because of a bug in pipe"))?;
        planned.map_err(|e| Refusal::planning(&e, "", &self.now().names).discreet(self.tables.store()))
    }

    /// Waits until one more query may run.
    async fn slot(&self) -> std::result::Result<OwnedSemaphorePermit, Refusal> {
        if let Ok(slot) = self.slots.clone().try_acquire_owned() {
            return Ok(slot);
        }
        let _waiting = self.metrics.waiting();
        let wait = self.slots.clone().acquire_owned();
        let full = || {
            let queries = self.limits.queries;
            Refusal::new(Reason::Busy, format!("{queries} queries run already, and none ended in time"))
                .hint("ask again later; the server's limit is `--max-queries`")
        };
        tokio::select! {
            () = self.stop.cancelled() => Err(stopped()),
            slot = tokio::time::timeout(self.limits.timeout, wait) => match slot {
                Ok(Ok(slot)) => Ok(slot),
                Ok(Err(_)) | Err(_) => Err(full()),
            },
        }
    }

    fn too_slow(&self) -> Refusal {
        let seconds = self.limits.timeout.as_secs_f64();
        Refusal::new(Reason::Timeout, format!("the statement took longer than {seconds} s"))
            .hint("read fewer rows, or aggregate; the server's limit is `--timeout`")
    }

    fn handle(&self) -> tokio::runtime::Handle {
        match &self.threads {
            Some(threads) => threads.handle().clone(),
            None => tokio::runtime::Handle::current(),
        }
    }

    /// What operators of all queries hold now.
    pub fn memory_held(&self) -> usize {
        self.base.runtime_env().memory_pool.reserved()
    }
}

/// What does not even fall into words is for the parser to refuse.
fn refuse_deep(sql: &str) -> std::result::Result<(), Refusal> {
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize() else { return Ok(()) };
    match depth::too_deep(tokens.iter()) {
        Some(message) => Err(Refusal::new(Reason::TooLarge, message).hint(depth::HINT)),
        None => Ok(()),
    }
}

/// What a statement changes that begins as one that reads.
fn changed(statement: &Statement) -> Option<&'static str> {
    match statement {
        Statement::Statement(statement) => changes::changed(statement),
        Statement::Explain(explain) => changed(&explain.statement),
        _ => None,
    }
}

/// The statement itself, also where it is only explained.
fn explained(statement: &Statement) -> Option<&SqlStatement> {
    match statement {
        Statement::Statement(statement) => Some(statement),
        Statement::Explain(explain) => explained(&explain.statement),
        _ => None,
    }
}

/// The words by which a statement is known; of one that is explained, its own.
fn beginning(statement: &Statement) -> String {
    let text = match statement {
        Statement::Explain(explain) => return beginning(&explain.statement),
        Statement::Statement(statement) => {
            let mut statement = statement.as_ref();
            while let SqlStatement::Explain { statement: inner, .. } = statement {
                statement = inner;
            }
            statement.to_string()
        }
        other => other.to_string(),
    };
    let first = text.split_whitespace().next().unwrap_or_default();
    // Others of this one are possible.
    let words = if first.eq_ignore_ascii_case("show") { 2 } else { 1 };
    text.split_whitespace().take(words).collect::<Vec<_>>().join(" ").to_uppercase()
}

fn stopped() -> Refusal {
    Refusal::new(Reason::Cancelled, "the server stops")
}

fn lost() -> Refusal {
    Refusal::new(Reason::Failed, "the query ended because of a bug in pipe")
}

/// The plan that runs, with its share of the memory.
async fn physical(
    ctx: &SessionContext,
    plan: &LogicalPlan,
    most: usize,
) -> std::result::Result<(Arc<dyn ExecutionPlan>, Arc<TaskContext>), DataFusionError> {
    let (physical, state) = plan::physical(ctx, plan).await?;
    constants::check(&physical, state.config().batch_size())?;
    let all = state.runtime_env();
    let share: Arc<dyn MemoryPool> = Arc::new(Share::of(all.memory_pool.clone(), most));
    let runtime = RuntimeEnvBuilder::from_runtime_env(all).with_memory_pool(share).build_arc()?;
    Ok((physical, Arc::new(TaskContext::from(&state).with_runtime(runtime))))
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A query with what it occupies, until it has really ended: it stops only where it waits.
struct Running {
    physical: Arc<dyn ExecutionPlan>,
    task: Arc<TaskContext>,
    _slot: OwnedSemaphorePermit,
    _up: Up,
}

/// A query as metrics and logs know it.
struct Query {
    service: Arc<Service>,
    wire: Wire,
    begun: Instant,
    /// Time that it worked, or waited for its turn; not for its client.
    busy: Duration,
    rows: u64,
}

type Item = std::result::Result<RecordBatch, Refusal>;

/// Why a query ended before its last row; empty if it did not. Beside the rows, so that a client that is slow to take them
/// hears of it all the same, and never takes a part for the whole.
type End = Arc<Mutex<Option<Refusal>>>;

/// What comes of a plan that runs. Where nothing more comes and there was no last one, it was lost.
enum Step {
    Batch(RecordBatch),
    Last(std::result::Result<(), DataFusionError>),
}

/// Runs a plan, a batch ahead of who asked for it. Apart from who waits for the rows: an operator may compute for long
/// before it hands on the next, and nothing that waits in the same task would be heard.
async fn work(running: Running, to: mpsc::Sender<Step>) {
    let Some(last) = batches(&running, &to).await else { return };
    // Who hears of the end may ask again at once: there is a place then.
    drop(running);
    let _ = to.send(Step::Last(last)).await;
}

/// How it ended; `None` where nobody waits any more.
async fn batches(running: &Running, to: &mpsc::Sender<Step>) -> Option<std::result::Result<(), DataFusionError>> {
    let mut rows = match execute_stream(running.physical.clone(), running.task.clone()) {
        Ok(rows) => rows,
        Err(e) => return Some(Err(e)),
    };
    loop {
        match rows.next().await {
            None => return Some(Ok(())),
            Some(Err(e)) => return Some(Err(e)),
            Some(Ok(batch)) => to.send(Step::Batch(batch)).await.ok()?,
        }
    }
}

impl Query {
    /// Sends all rows, and notes how it ended.
    async fn drive(mut self, running: Running, sender: mpsc::Sender<Item>, end: End) {
        let gone = Some(Refusal::new(Reason::Cancelled, "the client left"));
        let (to, steps) = mpsc::channel(1);
        let _working = AbortOnDrop(self.service.handle().spawn(work(running, to)).abort_handle());
        let mut outcome = Outcome { query: &mut self, refusal: gone };
        let ended = outcome.query.rows(steps, &sender).await;
        outcome.refusal = ended.err();
        *end.lock().unwrap_or_else(PoisonError::into_inner) = outcome.refusal.clone();
    }

    async fn rows(
        &mut self,
        mut steps: mpsc::Receiver<Step>,
        sender: &mpsc::Sender<Item>,
    ) -> std::result::Result<(), Refusal> {
        let service = self.service.clone();
        loop {
            let begun = Instant::now();
            let left = service.limits.timeout.saturating_sub(self.busy);
            let next = tokio::select! {
                () = service.stop.cancelled() => return Err(stopped()),
                next = tokio::time::timeout(left, steps.recv()) => next,
            };
            self.busy += begun.elapsed();
            let batch = match next.map_err(|_| service.too_slow())? {
                Some(Step::Batch(batch)) => batch,
                Some(Step::Last(Ok(()))) => return Ok(()),
                Some(Step::Last(Err(e))) => return Err(Refusal::running(&e).discreet(service.tables.store())),
                None => return Err(lost()),
            };
            if self.rows + batch.num_rows() as u64 > service.limits.rows {
                let message = format!("the result has more than {} rows", service.limits.rows);
                return Err(Refusal::new(Reason::TooLarge, message).hint(
                    "aggregate, or add LIMIT; the server's limit is `--max-rows`; the Parquet files have no limit",
                ));
            }
            let count = batch.num_rows() as u64;
            let sent = tokio::select! {
                () = service.stop.cancelled() => return Err(stopped()),
                sent = tokio::time::timeout(service.limits.idle, sender.send(Ok(batch))) => sent,
            };
            match sent {
                Ok(Ok(())) => self.rows += count,
                Ok(Err(_)) => return Err(Refusal::new(Reason::Cancelled, "the client left")),
                Err(_) => {
                    let seconds = service.limits.idle.as_secs_f64();
                    return Err(Refusal::new(Reason::Idle, format!("no row was taken for {seconds} s")));
                }
            }
        }
    }

    fn ended(&mut self, refusal: Option<&Refusal>) {
        let metrics = &self.service.metrics;
        metrics.ended(self.wire, refusal.map(|r| r.reason), self.busy.as_secs_f64(), self.rows);
        metrics.memory(self.service.memory_held());
        match refusal {
            None => tracing::debug!("{}: {} rows in {:?}", self.wire.name(), self.rows, self.busy),
            Some(refusal) => refusal.log(self.wire),
        }
    }
}

/// Tells how a query ended, also where its task is dropped.
struct Outcome<'a> {
    query: &'a mut Query,
    refusal: Option<Refusal>,
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        let refusal = self.refusal.take();
        self.query.ended(refusal.as_ref());
    }
}

/// Rows on their way. Dropping them stops the query.
pub struct Rows {
    schema: SchemaRef,
    receiver: mpsc::Receiver<Item>,
    end: End,
    task: tokio::task::AbortHandle,
}

impl Rows {
    /// Of every batch.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// All of them.
    ///
    /// # Errors
    /// What ended the query.
    pub async fn collect(self) -> std::result::Result<Vec<RecordBatch>, Refusal> {
        futures::TryStreamExt::try_collect(self).await
    }
}

impl Stream for Rows {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        match self.receiver.poll_recv(cx) {
            Poll::Ready(None) => Poll::Ready(self.end.lock().unwrap_or_else(PoisonError::into_inner).take().map(Err)),
            other => other,
        }
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        // One that has ended is not there any more, and hears nothing.
        self.task.abort();
    }
}
