//! The store: content-addressed results of stages, published tables, the memory of finished scenarios, runs.
//!
//! ```text
//! data/store/lock                          one writer at a time; the operating system drops it with the process
//! data/store/objects/<ff>/<fingerprint>/   manifest.json, <table>/part-00000-<hash>.parquet, files/<name>
//! data/store/tmp/                          results in the making; never read
//! data/store/memo/                         packs of finished scenarios
//! data/store/runs/<id>.json                who ran what, when, with which outcome
//! data/store/live/<id>.json                where a run that goes on stands
//! data/store/inputs.json                   hashes of input files by path, size, mtime
//! data/store/verified.json                 hashes of parts, likewise: what is unchanged is not read again
//! data/store/pipelines/<pipeline>.json     which results a pipeline's tables and figures are, and their recipes
//! data/tables/<pipeline>/<table>           link to the table in objects/
//! data/figures/<pipeline>/<file>           link to the file in objects/, or to the folder of files
//! data/exports/<pipeline>/<file>           likewise, what `export` wrote
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `hash.rs` | canonical JSON, fingerprints, hashes of schemas and tables |
//! | `staging.rs` | results in the making, the writer of tables, commit |
//! | `manifest.rs` | lookup of results, damage, handles on tables |
//! | `inputs.rs` | hashes of files, remembered while the files look unchanged |
//! | `memo.rs` | packs of finished scenarios |
//! | `publish.rs` | what a pipeline's tables and figures are right now |
//! | `runs.rs` | records of runs |
//! | `live.rs` | where runs stand that go on |
//! | `lock.rs` | one writer at a time |
//!
//! A crash at any instant leaves the old table or the new one: parts are written and synced under `tmp/`, the
//! manifest is written last, one rename publishes the whole.
//!
//! Readers of `data/tables/` take no lock. A result never changes, so whoever resolved the link has one table for as long
//! as it is there: [`Store::unreachable_without`] leaves out what was published until a moment ago. Whoever lists the folder and
//! opens its parts through the link may find that another result took its place in between; parts are named by their
//! content, so that it then finds the same part or none, and never rows of two results.

mod columns;
mod gc;
mod hash;
mod inputs;
mod live;
mod lock;
mod manifest;
mod memo;
mod publish;
mod remote;
mod runs;
mod staging;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::diag::{Diagnostic, Exit, Failure, Result, io};

pub use gc::Garbage;
pub use hash::{KEY_SCHEMA, canonical, schema_hash};
pub use inputs::input_problem;
pub use live::{HEARTBEAT, LiveRun, LiveStage, LiveState};
pub use lock::StoreLock;
pub use manifest::{Entry, MANIFEST_FORMAT};
pub use memo::{MEMO_CORRUPT, Memo};
pub use publish::{GRACE_S, Published, PublishedFile};
pub use remote::fetch;
pub use runs::{InputRecord, RunRecord, RunStatus, StageAction, StageRecord, TableRecord};
pub use staging::{Finished, Staging, TableWriter};

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
    /// The stage that made it, as it was called then. Not part of the recipe: see [`Manifest::table_as`].
    pub stage: String,
    pub recipe: Recipe,
    pub tables: Vec<TableManifest>,
    /// Files besides tables (figures), by name; with `/` in it, the file of a folder.
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

/// Rows of a part at most.
pub const PART_ROWS: usize = 1 << 20;

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

/// The store of a project. Cheap to clone; reading needs no lock, writing needs [`Store::lock`].
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    project: PathBuf,
    root: PathBuf,
    inputs: inputs::HashCache,
    verified: inputs::HashCache,
    memo: Memo,
    /// Held while results move in, and while links and their records change.
    publishing: Mutex<()>,
}

impl Store {
    /// The store of the project in `project`. Nothing is made or changed until something is written.
    ///
    /// # Errors
    /// `project` is not a folder.
    pub fn open(project: &Path) -> Result<Store> {
        let project = project.canonicalize().map_err(|e| io(project, "open", &e))?;
        let root = project.join("data/store");
        let inner = Inner {
            inputs: inputs::HashCache::new(root.join("inputs.json")),
            verified: inputs::HashCache::new(root.join("verified.json")),
            memo: Memo::open(root.join("memo")),
            publishing: Mutex::default(),
            project,
            root,
        };
        Ok(Store { inner: Arc::new(inner) })
    }

    /// `data/store`.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    pub fn project(&self) -> &Path {
        &self.inner.project
    }

    /// The memory of finished scenarios.
    pub fn memo(&self) -> Memo {
        self.inner.memo.clone()
    }

    /// Writes what was learnt about hashes of files, so that unchanged ones are not read again.
    pub fn save_hashes(&self) {
        if self.root().is_dir() {
            self.inner.inputs.save();
            self.inner.verified.save();
        }
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

/// An error of writing, with what to do where the disk is full.
fn disk(path: &Path, doing: &str, e: &std::io::Error) -> Failure {
    if !matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) {
        return io(path, doing, e);
    }
    let d = Diagnostic::new("store::disk_full", format!("the disk is full: cannot {doing} {}", path.display()));
    let help = "free some space and run again: finished stages and scenarios are kept. \
                `data/store` is a cache and may be deleted";
    Failure { exit: Exit::Stage, diagnostics: vec![d.help(help)] }
}

/// Writes JSON so that a crash leaves the old file or the new one; `durable` also makes it outlive a power cut.
fn write_json<T: Serialize>(path: &Path, value: &T, durable: bool) -> Result<()> {
    let text = serde_json::to_vec(value)
        .map_err(|e| Failure::stage("store::write", format!("cannot write {}: {e}", path.display())))?;
    let tmp = path.with_extension(format!("tmp-{}", random_hex()));
    let written = (|| {
        let mut file = std::fs::File::create(&tmp)?;
        std::io::Write::write_all(&mut file, &text)?;
        if durable {
            file.sync_all()?;
        }
        std::fs::rename(&tmp, path)
    })();
    written.map_err(|e| {
        let _ = std::fs::remove_file(&tmp);
        disk(path, "write", &e)
    })
}

/// Makes the names in a folder durable, where the platform can.
fn sync_dir(dir: &Path) {
    if let Err(e) = std::fs::File::open(dir).and_then(|d| d.sync_all()) {
        tracing::debug!("cannot sync {}: {e}", dir.display());
    }
}

/// Digits for names that nobody else chooses. Not for anything that enters a result.
fn random_hex() -> String {
    use std::hash::{BuildHasher, Hasher};
    format!("{:012x}", std::hash::RandomState::new().build_hasher().finish() & 0xffff_ffff_ffff)
}

fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
