//! Manifests: reading them, checking parts against them, and handles on their tables.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};

use super::{Hash, Manifest, Store, TableHandle, TableManifest};
use crate::diag::{Failure, Result, io};

/// Version of the manifest's own format.
pub const MANIFEST_FORMAT: u32 = 1;

/// What the store has under a fingerprint.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    Missing,
    Found(Box<Manifest>),
    /// What is wrong with it. It must be made again.
    Damaged(String),
}

impl Manifest {
    /// The name of one of its tables when the stage that uses it is called `stage`: a result does not depend on the
    /// name of the stage that made it, so it may be used under another.
    pub fn table_as(&self, stage: &str, table: &TableManifest) -> String {
        renamed(&table.name, &self.stage, stage)
    }

    /// The published name of one of its files when the stage is called `stage`.
    pub fn file_as(&self, stage: &str, file: &str) -> String {
        renamed(file, &self.stage, stage)
    }

    /// Rows of the main table.
    pub fn rows(&self) -> u64 {
        self.tables.first().map_or(0, |t| t.rows)
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> u64 {
        self.tables.iter().flat_map(|t| &t.parts).map(|p| p.bytes).sum()
    }
}

/// `sim_requests` of the stage `sim` is `other_requests` of the stage `other`.
fn renamed(name: &str, from: &str, to: &str) -> String {
    match name.strip_prefix(from) {
        Some(rest) if rest.is_empty() || rest.starts_with(['_', '.', '-', '/']) => format!("{to}{rest}"),
        _ => name.to_string(),
    }
}

impl Store {
    /// The folder of a result.
    pub fn object_dir(&self, fingerprint: &Hash) -> PathBuf {
        let prefix = fingerprint.0.get(..2).unwrap_or("__");
        self.root().join("objects").join(prefix).join(&fingerprint.0)
    }

    /// The result under a fingerprint, if it is there and whole. A damaged one is reported in the log.
    pub fn get(&self, fingerprint: &Hash) -> Option<Manifest> {
        match self.entry(fingerprint) {
            Entry::Missing => None,
            Entry::Found(manifest) => Some(*manifest),
            Entry::Damaged(why) => {
                tracing::warn!("result {} is damaged: {why}", fingerprint.short());
                None
            }
        }
    }

    /// What is under a fingerprint. Sizes of parts are always checked, their hashes whenever a part looks changed
    /// since it was last hashed.
    pub fn entry(&self, fingerprint: &Hash) -> Entry {
        let dir = self.object_dir(fingerprint);
        let path = dir.join("manifest.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(_) if !dir.exists() => return Entry::Missing,
            Err(e) => return Entry::Damaged(format!("cannot read {}: {e}", path.display())),
        };
        let manifest: Manifest = match serde_json::from_slice(&bytes) {
            Ok(manifest) => manifest,
            Err(e) => return Entry::Damaged(format!("{} is not a manifest: {e}", path.display())),
        };
        if manifest.format != MANIFEST_FORMAT {
            return Entry::Damaged(format!("its manifest has format {}, not {MANIFEST_FORMAT}", manifest.format));
        }
        if manifest.recipe.fingerprint() != *fingerprint {
            return Entry::Damaged("its manifest belongs to another recipe".to_string());
        }
        match self.first_damage(&dir, &manifest, |path| self.inner.verified.hash(path)) {
            None => Entry::Found(Box::new(manifest)),
            Some(why) => Entry::Damaged(why),
        }
    }

    /// Reads every part and file again and compares hashes, whatever was remembered of them.
    ///
    /// # Errors
    /// Names the part or file that is not as it was written.
    pub fn verify(&self, manifest: &Manifest) -> Result<()> {
        let dir = self.object_dir(&manifest.fingerprint);
        match self.first_damage(&dir, manifest, super::hash::hash_file) {
            None => Ok(()),
            Some(why) => Err(Failure::stage("store::damaged", why)),
        }
    }

    fn first_damage(&self, dir: &Path, manifest: &Manifest, hash: impl Fn(&Path) -> Result<Hash>) -> Option<String> {
        let parts = manifest.tables.iter().flat_map(|t| {
            let dir = dir.join(&t.name);
            t.parts.iter().map(move |p| (dir.join(&p.file), Some(p.bytes), &p.hash))
        });
        let files = manifest.files.iter().map(|(name, hash)| (dir.join("files").join(name), None, hash));
        for (path, bytes, expected) in parts.chain(files) {
            let len = match std::fs::metadata(&path) {
                Ok(meta) => meta.len(),
                Err(e) => return Some(format!("cannot read {}: {e}", path.display())),
            };
            if let Some(bytes) = bytes.filter(|b| *b != len) {
                return Some(format!("{} has {len} bytes, {bytes} were written", path.display()));
            }
            match hash(&path) {
                Ok(found) if found == *expected => {}
                Ok(_) => return Some(format!("{} is not as it was written (its hash differs)", path.display())),
                Err(failure) => return Some(failure.to_string()),
            }
        }
        None
    }

    /// A table of a result under the name that it had when it was made.
    ///
    /// # Errors
    /// There is no such table, or its first part cannot be read.
    pub fn handle(&self, manifest: &Manifest, table: &str) -> Result<TableHandle> {
        self.handle_as(manifest, &manifest.stage, table)
    }

    /// A table of a result that is used under the stage name `stage`.
    ///
    /// # Errors
    /// There is no such table, or its first part cannot be read.
    pub fn handle_as(&self, manifest: &Manifest, stage: &str, table: &str) -> Result<TableHandle> {
        let Some(found) = manifest.tables.iter().find(|t| manifest.table_as(stage, t) == table) else {
            let names: Vec<String> = manifest.tables.iter().map(|t| manifest.table_as(stage, t)).collect();
            let message = format!("stage `{stage}` made no table `{table}`; it made {}", names.join(", "));
            return Err(Failure::stage("store::no_table", message));
        };
        handle_in(&self.object_dir(&manifest.fingerprint), found, table)
    }
}

/// A handle on the table that lies in `<dir>/<its name>/`.
pub(super) fn handle_in(dir: &Path, table: &TableManifest, name: &str) -> Result<TableHandle> {
    let dir = dir.join(&table.name);
    let parts: Vec<PathBuf> = table.parts.iter().map(|p| dir.join(&p.file)).collect();
    let first = parts
        .first()
        .ok_or_else(|| Failure::stage("store::damaged", format!("table `{name}` has no part in {}", dir.display())))?;
    let file = std::fs::File::open(first).map_err(|e| io(first, "read", &e))?;
    let meta = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())
        .map_err(|e| Failure::stage("store::damaged", format!("cannot read {}: {e}", first.display())))?;
    let (schema, hash) = (Arc::clone(meta.schema()), table.hash.clone());
    Ok(TableHandle { name: name.to_string(), dir, schema, rows: table.rows, hash, parts })
}
