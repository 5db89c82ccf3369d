//! The kinds of stages: what each reads, makes, and does.
//!
//! A kind is one file here that implements [`Kind`] for its settings in [`crate::spec`], one variant of
//! [`StageSpec`], and one line in [`of`].

mod calibrate;
mod compare;
mod export;
mod fidelity;
mod ingest;
mod optimize;
mod plot;
pub(crate) mod profile;
mod search;
mod simulate;
mod slo;
mod sql;
mod synthesize;
mod tokenize;
pub(crate) mod trace_file;
mod transform;

pub(crate) use self::plot::figure::{Drawable, drawable};
// For tests and benches outside, that run a latency model on a table.
#[doc(hidden)]
pub use self::profile::load::read as read_profile;
#[doc(hidden)]
pub use self::tokenize::bench as tokenizing;

/// Files of whole tables, for `pipe export`.
pub(crate) use self::export::write as export_files;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use serde_json::Value;

use crate::diag::{Diagnostic, Failure, Result};
use crate::spec::{FilePath, Stage, StageSpec, Text};
use crate::store::{Memo, Staging, TableHandle};

/// What is known of a table before it exists.
#[derive(Clone, Debug)]
pub struct TableShape {
    pub name: String,
    /// `None` where the columns are known only once the stage ran.
    pub schema: Option<SchemaRef>,
}

/// What a stage can see when it is checked: the stages of its pipeline, and the tables that they will make.
pub struct CheckCx<'a> {
    pub stages: &'a [Stage],
    /// Tables of the stages that this one may read, by name. Schemas are known where they can be.
    pub tables: &'a BTreeMap<String, TableShape>,
    /// Seed of the pipeline.
    pub seed: u64,
    /// Root of the project, for its catalog and its views.
    pub project: &'a std::path::Path,
}

/// One kind of stage.
#[async_trait]
pub trait Kind: Send + Sync {
    /// As written in YAML.
    fn kind(&self) -> &'static str;

    /// Raised by hand when the same recipe and inputs would give other rows.
    fn version(&self) -> u32;

    /// Names of the tables that it reads. For SQL, those that the statements name; needs no other stage.
    ///
    /// # Errors
    /// SQL that cannot be parsed, files that cannot be read.
    fn inputs(&self) -> Result<Vec<Text>>;

    /// Files whose content it reads.
    fn files(&self) -> Vec<FilePath> {
        Vec::new()
    }

    /// Tables that it makes, in the order in which they are shown; the first is the stage's main table.
    fn tables(&self, stage: &str, cx: &CheckCx) -> Vec<TableShape>;

    /// Everything that the YAML cannot express by types: ranges, names, SQL against the schemas of its inputs.
    fn check(&self, stage: &str, cx: &CheckCx) -> Vec<Diagnostic>;

    /// Whether rows depend on the pipeline's seed other than through [`Kind::recipe`]. Where they do not, another seed
    /// runs nothing.
    fn seeded(&self) -> bool {
        false
    }

    /// Whether it writes somewhere besides the store. A result that is in the store is then used again only where it is
    /// the last of the stage.
    fn writes_outside(&self) -> bool {
        false
    }

    /// Everything of the settings that can change a row, with defaults filled in, as JSON. Part of the fingerprint;
    /// `pipe plan` names the paths in it that changed. Not in it: names, places, comments, threads.
    fn recipe(&self, cx: &CheckCx) -> Value;

    /// Makes the tables.
    async fn run(&self, cx: RunCx) -> Result<Outcome>;
}

/// What a stage reports besides its tables.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Lines of the answer at the end of the run (verdicts, best configuration), ready to print.
    pub answer: Vec<String>,
    /// A rule with `assert: true` is violated: the run fails with [`crate::diag::Exit::Slo`], this is what to print.
    pub violated: Option<String>,
}

/// What a running stage has to work with.
#[derive(Clone)]
pub struct RunCx {
    pub stage: String,
    pub pipeline: String,
    /// The recipe as it entered the fingerprint.
    pub recipe: Value,
    /// Seed of the pipeline.
    pub seed: u64,
    pub project: PathBuf,
    /// The tables of [`Kind::inputs`].
    pub inputs: BTreeMap<String, TableHandle>,
    /// All stages of the pipeline, for kinds that look at the settings of another (`optimize` at `simulate`).
    pub stages: Arc<Vec<Stage>>,
    /// Where tables are written.
    pub out: Staging,
    /// Finished scenarios, shared by all runs.
    pub memo: Memo,
    pub progress: Progress,
    pub cancel: Cancel,
    /// Threads for CPU work: `-j`, or the machine's cores. Never changes a row.
    pub pool: Arc<rayon::ThreadPool>,
}

/// Set once the user asked to stop. Async code awaits [`Cancel::cancelled`], computations poll [`Cancel::flag`].
#[derive(Clone, Default)]
pub struct Cancel {
    token: tokio_util::sync::CancellationToken,
    flag: Arc<AtomicBool>,
}

impl Cancel {
    pub fn cancel(&self) {
        self.flag.store(true, Ordering::Relaxed);
        self.token.cancel();
    }

    pub fn flag(&self) -> &AtomicBool {
        &self.flag
    }

    pub fn shared_flag(&self) -> Arc<AtomicBool> {
        self.flag.clone()
    }

    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    /// # Errors
    /// [`Failure::interrupted`] once the user asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Failure::interrupted()) } else { Ok(()) }
    }
}

/// Where a stage says how far it is. Cheap to call from any thread.
#[derive(Clone)]
pub struct Progress(pub Arc<dyn ProgressSink>);

pub trait ProgressSink: Send + Sync {
    /// Units of work in all (scenarios, trials, bytes, rows), once known.
    fn total(&self, units: u64, what: &'static str);
    fn advance(&self, units: u64);
    /// Something that the user should know and that stops nothing.
    fn warning(&self, _text: &str) {}
}

/// The implementation of a stage's kind.
pub fn of(spec: &StageSpec) -> &dyn Kind {
    match spec {
        StageSpec::Ingest(s) => s,
        StageSpec::Synthesize(s) => s,
        StageSpec::Transform(s) => s,
        StageSpec::Tokenize(s) => s,
        StageSpec::Profile(s) => &**s,
        StageSpec::Simulate(s) => s,
        StageSpec::Sql(s) => s,
        StageSpec::Slo(s) => s,
        StageSpec::Search(s) => &**s,
        StageSpec::Optimize(s) => &**s,
        StageSpec::Calibrate(s) => s,
        StageSpec::Plot(s) => &**s,
        StageSpec::Compare(s) => s,
        StageSpec::Fidelity(s) => s,
        StageSpec::Export(s) => s,
    }
}
