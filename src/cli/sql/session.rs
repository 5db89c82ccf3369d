//! What a console is between statements: the tables, the settings, where results go.
//!
//! A query runs in a task of its own, and its rows are written here: Ctrl-C is heard at once, however busy the query is.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use super::command::Expanded;
use super::complete::{Catalog, TableNames};
use super::display::{Shown, terminal_width};
use super::open;
use super::target::Target;
use crate::cli::{cores, runtime};
use crate::diag::{Diagnostic, Failure, Result};
use crate::query::Engine;
use crate::query::errors::running;
use crate::query::output::{self, Format};
use crate::query::text::{Layout, TextWriter};

/// What commands change.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub format: Format,
    pub expanded: Expanded,
    /// Say how long statements take.
    pub timing: bool,
    /// All rows on a terminal, too.
    pub all: bool,
}

/// Files that tell whether tables or views are others than before, with size and time of change.
type Seen = Vec<(PathBuf, u64, Option<SystemTime>)>;

/// See the module.
pub struct Session {
    pub project: PathBuf,
    pub engine: Arc<Engine>,
    pub pipeline: Option<String>,
    pub settings: Settings,
    pub target: Target,
    /// The last statement that was run.
    pub last: Option<String>,
    interruptible: bool,
    seen: Seen,
    runtime: Runtime,
}

impl Session {
    /// # Errors
    /// The tables or views of the project cannot be read; there is no such pipeline.
    pub fn open(project: PathBuf, pipeline: Option<String>, settings: Settings) -> Result<Session> {
        must_exist(&project, pipeline.as_deref())?;
        let runtime = runtime(cores())?;
        let seen = seen(&project);
        let engine = Arc::new(runtime.block_on(open(&project, pipeline.as_deref()))?);
        let target = Target::stdout();
        Ok(Session { project, engine, pipeline, settings, target, last: None, interruptible: false, seen, runtime })
    }

    /// From now on, Ctrl-C stops what runs and not the process.
    pub fn catch_interrupts(&mut self) {
        self.interruptible = true;
        // The first wait installs the handler, which stays.
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                _ = tokio::signal::ctrl_c() => {}
                () = std::future::ready(()) => {}
            }
        });
    }

    /// Opens the tables again if some were published, or views written, since; says whether it did.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn refresh(&mut self) -> Result<bool> {
        let seen = seen(&self.project);
        if seen == self.seen {
            return Ok(false);
        }
        self.engine = Arc::new(self.runtime.block_on(open(&self.project, self.pipeline.as_deref()))?);
        self.seen = seen;
        Ok(true)
    }

    /// Makes tables without a pipeline's name those of `pipeline`.
    ///
    /// # Errors
    /// There is no such pipeline.
    pub fn connect(&mut self, pipeline: Option<String>) -> Result<()> {
        must_exist(&self.project, pipeline.as_deref())?;
        self.engine = Arc::new(self.runtime.block_on(open(&self.project, pipeline.as_deref()))?);
        self.pipeline = pipeline;
        Ok(())
    }

    /// The names that Tab offers.
    pub fn catalog(&self) -> Catalog {
        let relations = self.runtime.block_on(self.engine.relations()).unwrap_or_default();
        let names = |r: crate::query::Relation| TableNames {
            columns: r.schema.fields().iter().map(|f| f.name().clone()).collect(),
            pipeline: r.pipeline,
            name: r.name,
            bare: r.bare,
        };
        let functions = self.engine.functions().into_iter().map(|f| f.name).collect();
        Catalog { tables: relations.into_iter().map(names).collect(), functions }
    }

    /// The tables and views that can be queried.
    ///
    /// # Errors
    /// None in practice.
    pub fn relations(&self) -> Result<Vec<crate::query::Relation>> {
        self.runtime.block_on(self.engine.relations())
    }

    /// Runs one statement, and writes its rows.
    ///
    /// # Errors
    /// Those of [`Engine::sql`], of the output, and [`Failure::interrupted`].
    pub fn run(&mut self, sql: &str) -> Result<()> {
        self.refresh()?;
        self.last = Some(sql.to_string());
        let started = Instant::now();
        let format = match (self.settings.format, self.settings.expanded) {
            (Format::Table, Expanded::On) => Format::Vertical,
            (format, _) => format,
        };
        let (engine, sql) = (self.engine.clone(), sql.to_string());
        let (tell_schema, schema) = oneshot::channel();
        let (send, rows) = mpsc::channel(2);
        let task = self.runtime.spawn(async move {
            match engine.sql(&sql).await {
                Err(failure) => drop(tell_schema.send(Err(failure))),
                Ok(mut stream) => {
                    let _ = tell_schema.send(Ok(stream.schema()));
                    while let Some(batch) = stream.next().await {
                        if send.send(batch).await.is_err() {
                            return;
                        }
                    }
                }
            }
        });
        let (target, settings, interruptible) = (&mut self.target, self.settings, self.interruptible);
        let stop = task.abort_handle();
        let done = self.runtime.block_on(async {
            let written = write(schema, rows, format, settings, target);
            tokio::select! {
                biased;
                () = interrupted(interruptible) => Err(Failure::interrupted()),
                done = written => match (done, task.await) {
                    (_, Err(e)) if e.is_panic() => Err(Failure::stage("sql::panic", "the query engine failed")),
                    (done, _) => done,
                },
            }
        });
        stop.abort();
        let flushed = self.target.end();
        done.and(flushed)?;
        if self.settings.timing {
            tell!("Time: {}", time(started.elapsed()));
        }
        Ok(())
    }

    /// Does something again and again, until Ctrl-C, an error, or until nobody reads the output any more.
    ///
    /// # Errors
    /// Those of `once`.
    pub fn watch<E>(
        &mut self,
        seconds: f64,
        mut once: impl FnMut(&mut Session) -> std::result::Result<(), E>,
        is_interrupt: impl Fn(&E) -> bool,
    ) -> std::result::Result<(), E> {
        self.catch_interrupts();
        // A Ctrl-C between two waits counts as well.
        let (stop, mut stopped) = tokio::sync::watch::channel(false);
        let listener = self.runtime.spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                let _ = stop.send(true);
            }
        });
        let pause = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        let done = loop {
            if self.target.is_terminal() {
                tell!("{} (every {seconds} s)\n", chrono::Local::now().format("%Y-%m-%d %H:%M:%S"));
            }
            match once(self) {
                Err(e) if is_interrupt(&e) => break Ok(()),
                Err(e) => break Err(e),
                Ok(()) if self.target.is_closed() => break Ok(()),
                Ok(()) => {}
            }
            let ended = self.runtime.block_on(async {
                tokio::select! {
                    biased;
                    changed = stopped.changed() => changed.is_ok(),
                    () = tokio::time::sleep(pause) => false,
                }
            });
            if ended {
                break Ok(());
            }
        };
        listener.abort();
        done
    }

    /// Leaves; a query that does not stop is left behind.
    pub fn close(self) {
        self.runtime.shutdown_background();
    }
}

/// Whether a pipeline has tables.
fn must_exist(project: &Path, pipeline: Option<&str>) -> Result<()> {
    let Some(wanted) = pipeline else { return Ok(()) };
    let names = crate::store::Store::open(project)?.pipelines();
    if names.iter().any(|name| name == wanted) {
        return Ok(());
    }
    let help = crate::query::errors::did_you_mean(wanted, &names, "pipelines");
    Err(Diagnostic::new("console::no_pipeline", format!("no pipeline `{wanted}` has tables")).help(help).into())
}

type Schema = oneshot::Receiver<Result<SchemaRef>>;
type Rows =
    mpsc::Receiver<std::result::Result<datafusion::arrow::array::RecordBatch, datafusion::error::DataFusionError>>;

/// Writes the rows of a query: on a terminal, a table that fits it.
async fn write(schema: Schema, rows: Rows, format: Format, settings: Settings, target: &mut Target) -> Result<()> {
    // Without an answer the task has ended in a panic, which is told by who waits for it.
    let Ok(schema) = schema.await else { return Ok(()) };
    let schema = schema?;
    target.begin(format)?;
    let rows = futures::stream::unfold(rows, |mut rows| async { rows.recv().await.map(|batch| (batch, rows)) });
    let mut rows: SendableRecordBatchStream = Box::pin(RecordBatchStreamAdapter::new(schema.clone(), rows));
    if format != Format::Table || !target.is_terminal() {
        return output::write(rows, format, target).await.map(drop);
    }
    let mut shown = Shown::new(settings.all);
    while let Some(batch) = rows.next().await {
        shown.push(batch.map_err(|e| running(&e))?);
    }
    let wrong = |e| Failure::stage("query::output", format!("cannot show the result: {e}"));
    let width = terminal_width();
    let wide = settings.expanded == Expanded::Auto && shown.is_wider(&schema, width).map_err(wrong)?;
    let text = if wide { vertical(&shown, &schema) } else { shown.table(&schema, width) }.map_err(wrong)?;
    let _ = target.write_all(text.as_bytes());
    Ok(())
}

fn vertical(shown: &Shown, schema: &SchemaRef) -> std::result::Result<String, datafusion::arrow::error::ArrowError> {
    let mut text = Vec::new();
    let mut writer = TextWriter::new(Layout::Vertical, schema, &mut text)?;
    for batch in shown.batches() {
        writer.write(&batch)?;
    }
    writer.finish()?;
    Ok(String::from_utf8_lossy(&text).into_owned() + &shown.count())
}

/// Ctrl-C; never, where it ends the process as usual.
async fn interrupted(interruptible: bool) {
    if !interruptible || tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn seen(project: &Path) -> Seen {
    let folders = [project.join("data/store/pipelines"), project.join("queries/views")];
    let entries = folders.iter().filter_map(|f| std::fs::read_dir(f).ok()).flatten().flatten();
    let mut seen: Seen = entries
        .filter_map(|entry| {
            let meta = std::fs::metadata(entry.path()).ok()?;
            Some((entry.path(), meta.len(), meta.modified().ok()))
        })
        .collect();
    seen.sort();
    seen
}

/// Milliseconds to the microsecond, or minutes and seconds.
fn time(elapsed: Duration) -> String {
    if elapsed < Duration::from_secs(1) {
        return format!("{:.3} ms", elapsed.as_secs_f64() * 1e3);
    }
    crate::cli::duration(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}
