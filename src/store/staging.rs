//! Results in the making, and how they become results.
//!
//! The bytes of a table depend on its rows alone: rows are gathered into batches of [`CHUNK_ROWS`] before they are
//! written, so that it does not matter in which batches they came, and parts and row groups are cut by row counts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{Array, RecordBatch, RecordBatchOptions};
use arrow::compute::concat;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use parquet::errors::ParquetError;

use super::columns::{ColumnsWriter, ROW_GROUP_ROWS};
use super::hash::{HashingFile, hash_file, table_hash};
use super::manifest::handle_in;
use super::{
    Entry, Hash, MANIFEST_FORMAT, Manifest, PART_ROWS, PartManifest, Recipe, Store, TableHandle, TableManifest, disk,
    random_hex, sync_dir, write_json,
};
use crate::diag::{Failure, Result};
use crate::table::nulls;

/// Rows that are written at once. A divisor of [`PART_ROWS`].
const CHUNK_ROWS: usize = 8192;

const _: () = assert!(PART_ROWS.is_multiple_of(ROW_GROUP_ROWS) && ROW_GROUP_ROWS.is_multiple_of(CHUNK_ROWS));

/// A full disk is named as such wherever the error comes from.
pub(super) fn parquet_failure(path: &Path, e: ParquetError) -> Failure {
    if let ParquetError::External(inner) = &e
        && let Some(e) = inner.downcast_ref::<std::io::Error>()
    {
        return disk(path, "write", e);
    }
    Failure::stage("store::write", format!("cannot write {}: {e}", path.display()))
}

/// A result in the making: tables and files under `tmp/`. Dropped without commit, it is removed.
#[derive(Clone, Debug)]
pub struct Staging {
    pub dir: PathBuf,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Tables that were begun.
    begun: BTreeSet<String>,
    finished: Vec<TableManifest>,
    /// Moved into the store: nothing to remove.
    committed: bool,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.state().committed
            && let Err(e) = std::fs::remove_dir_all(&self.dir)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("cannot remove {}: {e}", self.dir.display());
        }
    }
}

impl Staging {
    /// A result in the making in the folder `dir`, which must not exist yet. [`Store::stage`] chooses one in `tmp/`.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn create(dir: impl Into<PathBuf>) -> Result<Staging> {
        let dir = dir.into();
        if let Some(parent) = dir.parent() {
            std::fs::create_dir_all(parent).map_err(|e| disk(parent, "make", &e))?;
        }
        std::fs::create_dir(&dir).map_err(|e| disk(&dir, "make", &e))?;
        Ok(Staging { dir: dir.clone(), inner: Arc::new(Inner { dir, state: Mutex::default() }) })
    }

    /// A writer of `table`. Rows come in key order; parts are cut every [`PART_ROWS`] rows, by nothing else.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn table(&self, name: &str, schema: SchemaRef) -> Result<TableWriter> {
        assert!(self.inner.state().begun.insert(name.to_string()), "table `{name}` is written once");
        let dir = self.dir.join(name);
        std::fs::create_dir(&dir).map_err(|e| disk(&dir, "make", &e))?;
        Ok(TableWriter {
            staging: self.clone(),
            name: name.to_string(),
            dir,
            schema,
            pending: Vec::new(),
            pending_rows: 0,
            part: None,
            parts: Vec::new(),
        })
    }

    /// Where to write the file `name` (a figure). `folder/.../name` is a file of the folder `folder`, which is published as
    /// a whole.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join("files").join(name);
        let dir = path.parent().unwrap_or(&self.dir);
        std::fs::create_dir_all(dir).map_err(|e| disk(dir, "make", &e))?;
        Ok(path)
    }

    /// The tables that are finished so far.
    pub fn tables(&self) -> Vec<TableManifest> {
        self.inner.state().finished.clone()
    }

    /// A finished table, to read it back before it is committed.
    ///
    /// # Errors
    /// The table is not finished, or cannot be read.
    pub fn handle(&self, table: &str) -> Result<TableHandle> {
        let found = self.inner.state().finished.iter().find(|t| t.name == table).cloned();
        let found =
            found.ok_or_else(|| Failure::stage("store::no_table", format!("table `{table}` is not finished")))?;
        handle_in(&self.dir, &found, table)
    }

    /// Hashes and makes durable what was written to [`Staging::file`].
    fn seal_files(&self) -> Result<std::collections::BTreeMap<String, Hash>> {
        let mut files = std::collections::BTreeMap::new();
        seal_folder(&self.dir.join("files"), "", &mut files)?;
        Ok(files)
    }
}

/// Files below `dir` by their path in it, with `/` between folders; `within` is that of `dir` itself.
fn seal_folder(dir: &Path, within: &str, files: &mut std::collections::BTreeMap<String, Hash>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let path = entry.map_err(|e| disk(dir, "read", &e))?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
        if path.is_dir() {
            seal_folder(&path, &format!("{within}{name}/"), files)?;
            continue;
        }
        std::fs::File::open(&path).and_then(|f| f.sync_all()).map_err(|e| disk(&path, "write", &e))?;
        files.insert(format!("{within}{name}"), hash_file(&path)?);
    }
    sync_dir(dir);
    Ok(())
}

/// Writes one table. [`TableWriter::finish`] must be called, also for a table without rows.
pub struct TableWriter {
    staging: Staging,
    name: String,
    dir: PathBuf,
    schema: SchemaRef,
    /// Rows that do not fill a chunk yet.
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    part: Option<Part>,
    parts: Vec<PartManifest>,
}

struct Part {
    writer: ColumnsWriter<HashingFile>,
    /// Its name, but for hash and ending.
    file: String,
    path: PathBuf,
    rows: usize,
}

impl TableWriter {
    /// Appends rows. Columns come in the order of the schema; names and metadata are taken from the schema.
    ///
    /// # Errors
    /// Types or nulls that the schema does not have; full disk and the like.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let batch = RecordBatch::try_new(self.schema.clone(), batch.columns().to_vec()).map_err(|e| {
            Failure::stage("store::schema", format!("rows of table `{}` do not fit its schema: {e}", self.name))
        })?;
        let mut offset = 0;
        while offset < batch.num_rows() {
            let take = (CHUNK_ROWS - self.pending_rows).min(batch.num_rows() - offset);
            self.pending.push(batch.slice(offset, take));
            self.pending_rows += take;
            offset += take;
            if self.pending_rows == CHUNK_ROWS {
                self.write_chunk()?;
            }
        }
        Ok(())
    }

    /// Takes back all that was written: the table can be begun anew.
    ///
    /// # Errors
    /// The files cannot be removed.
    pub fn discard(self) -> Result<()> {
        let TableWriter { staging, name, dir, part, .. } = self;
        drop(part);
        std::fs::remove_dir_all(&dir).map_err(|e| disk(&dir, "remove", &e))?;
        staging.inner.state().begun.remove(&name);
        Ok(())
    }

    /// Completes the table.
    ///
    /// # Errors
    /// Full disk and the like.
    pub fn finish(mut self) -> Result<()> {
        // A table without rows has one part: it carries the schema.
        if self.pending_rows > 0 || (self.part.is_none() && self.parts.is_empty()) {
            self.write_chunk()?;
        }
        self.close_part()?;
        sync_dir(&self.dir);
        let table = TableManifest {
            name: self.name.clone(),
            rows: self.parts.iter().map(|p| p.rows).sum(),
            hash: table_hash(&self.schema, &self.parts),
            parts: self.parts,
        };
        self.staging.inner.state().finished.push(table);
        Ok(())
    }

    fn write_chunk(&mut self) -> Result<()> {
        let chunk = joined(&self.schema, &self.pending)
            .map_err(|e| Failure::stage("store::write", format!("cannot write table `{}`: {e}", self.name)))?;
        self.pending.clear();
        self.pending_rows = 0;
        let mut part = match self.part.take() {
            Some(part) => part,
            None => self.open_part()?,
        };
        part.rows += chunk.num_rows();
        part.writer.write(chunk).map_err(|e| parquet_failure(&part.path, e))?;
        let full = part.rows == PART_ROWS;
        self.part = Some(part);
        if full { self.close_part() } else { Ok(()) }
    }

    fn open_part(&self) -> Result<Part> {
        let file = format!("part-{:05}", self.parts.len());
        let path = self.dir.join(format!("{file}.parquet"));
        let writer = ColumnsWriter::try_new(HashingFile::create(&path)?, self.schema.clone())
            .map_err(|e| parquet_failure(&path, e))?;
        Ok(Part { writer, file, path, rows: 0 })
    }

    fn close_part(&mut self) -> Result<()> {
        let Some(Part { writer, file, path, rows }) = self.part.take() else { return Ok(()) };
        let (bytes, hash) = writer.into_inner().map_err(|e| parquet_failure(&path, e))?.seal(&path)?;
        // A name is one content: whoever listed a folder and opens its parts after another result was published in its
        // place finds the part that was listed, or none, and never another one.
        let file = format!("{file}-{}.parquet", hash.short());
        let named = self.dir.join(&file);
        std::fs::rename(&path, &named).map_err(|e| disk(&named, "write", &e))?;
        self.parts.push(PartManifest { file, rows: rows as u64, bytes, hash });
        Ok(())
    }
}

/// Batches, one after the other. Columns without any value, of which wide tables have many, are not copied.
fn joined(schema: &SchemaRef, batches: &[RecordBatch]) -> std::result::Result<RecordBatch, ArrowError> {
    match batches {
        [] => return Ok(RecordBatch::new_empty(schema.clone())),
        [one] => return Ok(one.clone()),
        _ => {}
    }
    let rows = batches.iter().map(RecordBatch::num_rows).sum();
    let column = |i: usize| {
        let pieces: Vec<&dyn Array> = batches.iter().map(|b| b.column(i).as_ref()).collect();
        match pieces.iter().all(|c| c.null_count() == c.len()) && schema.field(i).is_nullable() {
            true => Ok(nulls(schema.field(i).data_type(), rows)),
            false => concat(&pieces),
        }
    };
    let columns = (0..schema.fields().len()).map(column).collect::<std::result::Result<Vec<_>, _>>()?;
    RecordBatch::try_new_with_options(schema.clone(), columns, &RecordBatchOptions::new().with_row_count(Some(rows)))
}

/// What is known of a stage's result once the stage is through.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The stage's name.
    pub stage: String,
    pub recipe: Recipe,
    pub answer: Vec<String>,
    pub violated: Option<String>,
    /// Milliseconds that the stage took.
    pub millis: u64,
}

impl Store {
    /// A place for the result of `stage`.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn stage(&self, stage: &str) -> Result<Staging> {
        let name = format!("{stage}-{}-{}", std::process::id(), random_hex());
        Staging::create(self.root().join("tmp").join(name))
    }

    /// Moves a finished result into the store, as a whole. Where the store already has the same tables under the same
    /// recipe, those stay. Every writer must be finished.
    ///
    /// # Errors
    /// Full disk and the like; nothing is published then.
    pub fn commit(&self, staging: Staging, finished: Finished) -> Result<Manifest> {
        let Finished { stage, recipe, answer, violated, millis } = finished;
        let tables = finished_tables(&staging, &stage);
        let manifest = Manifest {
            format: MANIFEST_FORMAT,
            fingerprint: recipe.fingerprint(),
            stage,
            recipe,
            tables,
            files: staging.seal_files()?,
            answer,
            violated,
            pipe_version: env!("CARGO_PKG_VERSION").to_string(),
            millis,
            finished_unix_s: super::unix_seconds(),
        };
        write_json(&staging.dir.join("manifest.json"), &manifest, true)?;
        sync_dir(&staging.dir);
        self.move_in(&staging, manifest)
    }

    fn move_in(&self, staging: &Staging, manifest: Manifest) -> Result<Manifest> {
        // Two stages of one run may have the same recipe and end at once: the second finds what the first made.
        let _guard = self.inner.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let target = self.object_dir(&manifest.fingerprint);
        match self.entry(&manifest.fingerprint) {
            Entry::Missing => {}
            Entry::Found(old) if same_rows(&old, &manifest) => return Ok(*old),
            Entry::Found(old) => {
                tracing::warn!("stage `{}` gave other rows than before for the same recipe", manifest.stage);
                self.discard(&old.fingerprint)?;
            }
            Entry::Damaged(_) => self.discard(&manifest.fingerprint)?,
        }
        let parent = target.parent().unwrap_or(&target);
        std::fs::create_dir_all(parent).map_err(|e| disk(parent, "make", &e))?;
        std::fs::rename(&staging.dir, &target).map_err(|e| disk(&target, "write", &e))?;
        staging.inner.state().committed = true;
        sync_dir(parent);
        for table in &manifest.tables {
            for part in &table.parts {
                self.inner.verified.trust(&target.join(&table.name).join(&part.file), &part.hash);
            }
        }
        for (file, hash) in &manifest.files {
            self.inner.verified.trust(&target.join("files").join(file), hash);
        }
        Ok(manifest)
    }

    /// Takes a result out of the store, if it is there. At no instant is there half of it: it is moved away first.
    ///
    /// # Errors
    /// It cannot be moved.
    pub fn discard(&self, fingerprint: &Hash) -> Result<()> {
        let dir = self.object_dir(fingerprint);
        let away = self.root().join("tmp").join(format!("discarded-{}", random_hex()));
        match std::fs::rename(&dir, &away) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            moved => moved.map_err(|e| disk(&dir, "remove", &e))?,
        }
        self.inner.verified.forget(&dir);
        // Whatever is left is swept by the next writer.
        let _ = std::fs::remove_dir_all(&away);
        Ok(())
    }
}

/// The finished tables, the main one first.
fn finished_tables(staging: &Staging, stage: &str) -> Vec<TableManifest> {
    let state = staging.inner.state();
    let mut tables = state.finished.clone();
    assert!(tables.len() == state.begun.len(), "stage `{stage}` left a table without finishing it");
    tables.sort_by(|a, b| (a.name != stage, &a.name).cmp(&(b.name != stage, &b.name)));
    tables
}

fn same_rows(a: &Manifest, b: &Manifest) -> bool {
    let hashes = |m: &Manifest| {
        let tables: Vec<(String, Hash)> = m.tables.iter().map(|t| (m.table_as("", t), t.hash.clone())).collect();
        let files: Vec<(String, Hash)> = m.files.iter().map(|(f, h)| (m.file_as("", f), h.clone())).collect();
        (tables, files)
    };
    hashes(a) == hashes(b)
}
