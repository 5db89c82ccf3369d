//! The store: content-addressed results of stages, published tables, the memory of finished scenarios, runs.
//!
//! ```text
//! data/store/lock                          one writer at a time; the operating system drops it with the process
//! data/store/objects/<ff>/<fingerprint>/   manifest.json, <table>/part-00000.parquet, files/<name>
//! data/store/tmp/                          results in the making; never read
//! data/store/memo/                         packs of finished scenarios
//! data/store/runs/<id>.json                who ran what, when, with which outcome
//! data/store/inputs.json                   hashes of input files by path, size, mtime
//! data/tables/<pipeline>/<table>           link to the table in objects/
//! data/figures/<pipeline>/<file>           link to the file in objects/
//! ```
//!
//! A crash at any instant leaves the old table or the new one: parts are written and synced under `tmp/`, the
//! manifest is written last, one rename publishes the whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::diag::Result;

/// A BLAKE3 hash in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hash(pub String);

/// What a stage's result depends on. Its hash names the result in the store; its parts tell why a stage runs again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    pub kind: String,
    /// Of the kind ([`crate::stage::Kind::version`]).
    pub version: u32,
    pub config: Value,
    pub seed: u64,
    /// Content hash per input table.
    pub inputs: BTreeMap<String, Hash>,
    /// Content hash per input file, by the path as written.
    pub files: BTreeMap<String, Hash>,
}

/// A finished result of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub fingerprint: Hash,
    pub recipe: Recipe,
    pub tables: Vec<TableManifest>,
    /// Files besides tables (figures), by name.
    pub files: BTreeMap<String, Hash>,
    /// Lines of the answer, repeated when the result comes from the cache.
    pub answer: Vec<String>,
    /// Text of a violated assertion, if any.
    pub violated: Option<String>,
    pub pipe_version: String,
    /// Milliseconds that the stage took.
    pub millis: u64,
    /// Seconds since 1970 when it was finished.
    pub finished_unix_s: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableManifest {
    /// `<stage>` or `<stage>_<part>`, as the stage was called when it ran.
    pub name: String,
    pub rows: u64,
    pub parts: Vec<PartManifest>,
    /// Of schema and parts.
    pub hash: Hash,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartManifest {
    pub file: String,
    pub rows: u64,
    pub bytes: u64,
    pub hash: Hash,
}

/// A table that can be read.
#[derive(Clone, Debug)]
pub struct TableHandle {
    pub name: String,
    /// Folder of the parts.
    pub dir: PathBuf,
    pub schema: SchemaRef,
    pub rows: u64,
    pub hash: Hash,
    /// Paths of the parts, in order.
    pub parts: Vec<PathBuf>,
}

/// A result in the making: tables and files under `tmp/`. Dropped without commit, it is removed.
#[derive(Clone)]
pub struct Staging {
    pub dir: PathBuf,
}

impl Staging {
    /// A writer of `table`. Rows come in key order; parts are cut every [`PART_ROWS`] rows, by nothing else.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn table(&self, _name: &str, _schema: SchemaRef) -> Result<TableWriter> {
        unimplemented!()
    }

    /// Where to write the file `name` (a figure).
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn file(&self, _name: &str) -> Result<PathBuf> {
        unimplemented!()
    }
}

/// Rows of a part at most.
pub const PART_ROWS: usize = 1 << 20;

/// Writes one table. [`TableWriter::finish`] must be called, also for a table without rows.
pub struct TableWriter {}

impl TableWriter {
    /// # Errors
    /// Full disk and the like.
    pub fn write(&mut self, _batch: &RecordBatch) -> Result<()> {
        unimplemented!()
    }

    /// # Errors
    /// Full disk and the like.
    pub fn finish(self) -> Result<()> {
        unimplemented!()
    }
}

/// The memory of finished scenarios: packs of Parquet, each with an index of what it holds, written as a whole or not
/// at all. Keys are hashes of everything that a scenario's rows depend on.
#[derive(Clone)]
pub struct Memo {
    pub dir: PathBuf,
}

/// Where a finished scenario is.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoHit {
    pub pack: PathBuf,
    pub row_start: u64,
    pub rows: u64,
    /// The scenario's own result (totals), as JSON.
    pub summary: Value,
}

/// A scenario to remember.
pub struct MemoEntry {
    pub key: Hash,
    pub rows: u64,
    pub summary: Value,
}

impl Memo {
    /// What is remembered of `keys`. Packs whose hash does not match are dropped with a warning.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn find(&self, _keys: &[Hash]) -> Result<BTreeMap<Hash, MemoHit>> {
        unimplemented!()
    }

    /// Remembers a pack: `entries` lie one after the other in `batches`. Durable once this returns. Safe to call from
    /// many threads.
    ///
    /// # Errors
    /// Full disk and the like.
    pub fn put(&self, _schema: SchemaRef, _batches: &[RecordBatch], _entries: &[MemoEntry]) -> Result<()> {
        unimplemented!()
    }

    /// The rows of a finished scenario.
    ///
    /// # Errors
    /// The pack cannot be read.
    pub fn read(&self, _hit: &MemoHit) -> Result<Vec<RecordBatch>> {
        unimplemented!()
    }
}

/// The root of the project that `start` lies in: the nearest folder upwards that holds `pipelines/` or `data/store/`,
/// else `start` itself.
pub fn project_root(start: &Path) -> PathBuf {
    let start = start.canonicalize().unwrap_or_else(|_| start.to_path_buf());
    start
        .ancestors()
        .find(|d| d.join("pipelines").is_dir() || d.join("data/store").is_dir())
        .unwrap_or(&start)
        .to_path_buf()
}
