//! The memory of finished scenarios: packs of Parquet named by their content hash, each with an index beside it.
//!
//! The pack is made durable first and its index last, so a pack that an index names is whole. A pack without index is
//! a leftover of a crash and swept by the next writer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
};
use parquet::file::metadata::PageIndexPolicy;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::columns::writer_properties;
use super::hash::{HashingFile, schema_hash};
use super::inputs::HashCache;
use super::staging::parquet_failure;
use super::{Hash, MemoEntry, MemoHit, disk, random_hex, sync_dir, write_json};
use crate::diag::{Failure, Result, io};

/// Code of the diagnostic when a pack turns out to be damaged while it is read. The pack is dropped: what it held is
/// no longer found, and can be computed again.
pub const MEMO_CORRUPT: &str = "store::memo_corrupt";

const INDEX_FORMAT: u32 = 1;

/// The memory of finished scenarios: packs of Parquet, each with an index of what it holds, written as a whole or not
/// at all. Keys are hashes of everything that a scenario's rows depend on.
#[derive(Clone, Debug)]
pub struct Memo {
    pub dir: PathBuf,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    hashes: HashCache,
    state: Mutex<State>,
}

/// What this process has read of the indexes.
#[derive(Debug, Default)]
struct State {
    /// Packs whose index was read, by name.
    packs: HashMap<String, Pack>,
    keys: HashMap<Hash, Place>,
}

#[derive(Debug)]
struct Pack {
    bytes: u64,
    verified: bool,
    /// The footer, once a scenario of the pack was read.
    meta: Option<ArrowReaderMetadata>,
}

#[derive(Clone, Debug)]
struct Place {
    pack: String,
    row_start: u64,
    rows: u64,
    summary: Value,
}

#[derive(Serialize, Deserialize)]
struct Index {
    format: u32,
    /// Of the pack's file; its name begins with it.
    hash: Hash,
    bytes: u64,
    schema: Hash,
    entries: Vec<IndexEntry>,
}

#[derive(Serialize, Deserialize)]
struct IndexEntry {
    key: Hash,
    row_start: u64,
    rows: u64,
    summary: Value,
}

impl Memo {
    /// The memory in the folder `dir`, which is made when something is first put there.
    pub fn open(dir: impl Into<PathBuf>) -> Memo {
        let dir = dir.into();
        let hashes = HashCache::new(dir.join("verified"));
        Memo { dir, inner: Arc::new(Inner { hashes, state: Mutex::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is remembered of `keys`. Packs whose hash does not match are dropped with a warning.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn find(&self, keys: &[Hash]) -> Result<BTreeMap<Hash, MemoHit>> {
        let mut state = self.state();
        self.load_indexes(&mut state)?;
        self.verify_packs(&mut state, keys);
        let hits = keys.iter().filter_map(|key| {
            let place = state.keys.get(key)?;
            let hit = MemoHit {
                pack: self.pack_path(&place.pack),
                row_start: place.row_start,
                rows: place.rows,
                summary: place.summary.clone(),
            };
            Some((key.clone(), hit))
        });
        let hits = hits.collect();
        drop(state);
        if self.dir.is_dir() {
            self.inner.hashes.save();
        }
        Ok(hits)
    }

    fn pack_path(&self, pack: &str) -> PathBuf {
        self.dir.join(format!("{pack}.parquet"))
    }

    fn index_path(&self, pack: &str) -> PathBuf {
        self.dir.join(format!("{pack}.json"))
    }

    /// Reads the indexes that were written since the last time, in the order of their names.
    fn load_indexes(&self, state: &mut State) -> Result<()> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(io(&self.dir, "read", &e)),
        };
        let mut fresh: Vec<String> = entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().into_string().ok()?;
                Some(name.strip_suffix(".json")?.to_string())
            })
            .filter(|pack| !state.packs.contains_key(pack))
            .collect();
        fresh.sort();
        for pack in fresh {
            let path = self.index_path(&pack);
            let index = std::fs::read(&path)
                .map_err(|e| e.to_string())
                .and_then(|bytes| serde_json::from_slice::<Index>(&bytes).map_err(|e| e.to_string()));
            match index {
                Ok(index) if index.format == INDEX_FORMAT => {
                    state.insert(&pack, index.bytes, false, index.entries);
                }
                Ok(_) => tracing::debug!("{} has another format", path.display()),
                Err(e) => {
                    tracing::warn!("{} is damaged ({e}): its scenarios are simulated again", path.display());
                    self.remove(&pack);
                }
            }
        }
        Ok(())
    }

    /// Checks the packs that hold `keys` and were not checked yet; drops those that are not as they were written.
    fn verify_packs(&self, state: &mut State, keys: &[Hash]) {
        let wanted: HashSet<String> = keys.iter().filter_map(|k| Some(state.keys.get(k)?.pack.clone())).collect();
        for name in wanted {
            let Some(pack) = state.packs.get_mut(&name).filter(|p| !p.verified) else { continue };
            let path = self.pack_path(&name);
            let whole = std::fs::metadata(&path).is_ok_and(|m| m.len() == pack.bytes)
                && self.inner.hashes.hash(&path).is_ok_and(|h| name.starts_with(h.0.get(..32).unwrap_or(&h.0)));
            if whole {
                pack.verified = true;
            } else {
                tracing::warn!("{} is damaged: its scenarios are simulated again", path.display());
                self.drop_pack(state, &name);
            }
        }
    }

    fn drop_pack(&self, state: &mut State, name: &str) {
        state.keys.retain(|_, place| place.pack != name);
        state.packs.remove(name);
        self.remove(name);
    }

    /// The index goes first: without it the pack is not read.
    fn remove(&self, pack: &str) {
        let _ = std::fs::remove_file(self.index_path(pack));
        let _ = std::fs::remove_file(self.pack_path(pack));
        self.inner.hashes.forget(&self.pack_path(pack));
    }

    /// Remembers a pack: `entries` lie one after the other in `batches`. Durable once this returns. Safe to call from
    /// many threads.
    ///
    /// # Errors
    /// Full disk and the like.
    pub fn put(&self, schema: SchemaRef, batches: &[RecordBatch], entries: &[MemoEntry]) -> Result<()> {
        let rows: u64 = batches.iter().map(|b| b.num_rows() as u64).sum();
        assert!(rows == entries.iter().map(|e| e.rows).sum::<u64>(), "the entries of a pack cover its rows");
        std::fs::create_dir_all(&self.dir).map_err(|e| disk(&self.dir, "make", &e))?;
        let tmp = self.dir.join(format!("tmp-{}", random_hex()));
        let written = write_pack(&tmp, schema.clone(), batches);
        let (bytes, hash) = written.inspect_err(|_| {
            let _ = std::fs::remove_file(&tmp);
        })?;
        let name = pack_name(&hash, entries);
        let path = self.pack_path(&name);
        std::fs::rename(&tmp, &path).map_err(|e| disk(&path, "write", &e))?;
        let mut row_start = 0;
        let entries = entries.iter().map(|e| {
            let start = row_start;
            row_start += e.rows;
            IndexEntry { key: e.key.clone(), row_start: start, rows: e.rows, summary: e.summary.clone() }
        });
        let entries = entries.collect();
        let index = Index { format: INDEX_FORMAT, hash: hash.clone(), bytes, schema: schema_hash(&schema), entries };
        write_json(&self.index_path(&name), &index, true)?;
        sync_dir(&self.dir);
        self.inner.hashes.trust(&path, &hash);
        self.state().insert(&name, bytes, true, index.entries);
        Ok(())
    }

    /// The rows of a finished scenario.
    ///
    /// # Errors
    /// The pack cannot be read. With the code [`MEMO_CORRUPT`], it was dropped and the scenario is to be computed
    /// again.
    pub fn read(&self, hit: &MemoHit) -> Result<Vec<RecordBatch>> {
        self.read_rows(hit).map_err(|why| {
            let name = hit.pack.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
            tracing::warn!("{} is damaged ({why}): its scenarios are simulated again", hit.pack.display());
            self.drop_pack(&mut self.state(), name);
            Failure::stage(MEMO_CORRUPT, format!("cannot read {}: {why}", hit.pack.display()))
        })
    }

    fn read_rows(&self, hit: &MemoHit) -> std::result::Result<Vec<RecordBatch>, String> {
        let file = std::fs::File::open(&hit.pack).map_err(|e| e.to_string())?;
        let meta = self.footer(&hit.pack, &file)?;
        let rows = usize::try_from(hit.rows).map_err(|e| e.to_string())?;
        let skip = usize::try_from(hit.row_start).map_err(|e| e.to_string())?;
        let selection = RowSelection::from(vec![RowSelector::skip(skip), RowSelector::select(rows)]);
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, meta)
            .with_row_selection(selection)
            .with_batch_size(rows.clamp(1, 1 << 16))
            .build()
            .map_err(|e| e.to_string())?;
        let batches = reader.collect::<std::result::Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
        match batches.iter().map(RecordBatch::num_rows).sum::<usize>() {
            n if n == rows => Ok(batches),
            n => Err(format!("{n} rows instead of {rows}")),
        }
    }

    /// The footer of a pack, read once per process.
    fn footer(&self, path: &Path, file: &std::fs::File) -> std::result::Result<ArrowReaderMetadata, String> {
        let name = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        if let Some(meta) = self.state().packs.get(name).and_then(|p| p.meta.clone()) {
            return Ok(meta);
        }
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let meta = ArrowReaderMetadata::load(file, options).map_err(|e| e.to_string())?;
        if let Some(pack) = self.state().packs.get_mut(name) {
            pack.meta = Some(meta.clone());
        }
        Ok(meta)
    }

    /// Removes what a crash left: packs without index, files in the making.
    pub(super) fn sweep(&self) {
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
            let orphan = name.strip_suffix(".parquet").is_some_and(|pack| !self.index_path(pack).exists());
            if orphan || name.starts_with("tmp-") || name.contains(".tmp-") {
                let _ = std::fs::remove_file(&path);
            }
        }
    }
}

impl State {
    fn insert(&mut self, pack: &str, bytes: u64, verified: bool, entries: Vec<IndexEntry>) {
        self.packs.insert(pack.to_string(), Pack { bytes, verified, meta: None });
        for IndexEntry { key, row_start, rows, summary } in entries {
            self.keys.entry(key).or_insert(Place { pack: pack.to_string(), row_start, rows, summary });
        }
    }
}

/// Half of the content's hash, so that the name tells whether the pack is whole; then that of the keys, because two
/// packs of different scenarios may have the same rows.
fn pack_name(hash: &Hash, entries: &[MemoEntry]) -> String {
    let keys: Vec<&str> = entries.iter().map(|e| e.key.0.as_str()).collect();
    let keys = Hash::of(keys.join(" ").as_bytes());
    format!("{}-{}", hash.0.get(..32).unwrap_or(&hash.0), keys.short())
}

fn write_pack(path: &Path, schema: SchemaRef, batches: &[RecordBatch]) -> Result<(u64, Hash)> {
    let mut writer = ArrowWriter::try_new(HashingFile::create(path)?, schema.clone(), Some(writer_properties(&schema)))
        .map_err(|e| parquet_failure(path, e))?;
    for batch in batches {
        writer.write(batch).map_err(|e| parquet_failure(path, e))?;
    }
    writer.into_inner().map_err(|e| parquet_failure(path, e))?.seal(path)
}
