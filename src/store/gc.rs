//! What nobody refers to any more: results of settings that were changed since, and of pipelines that were forgotten.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Entry, Hash, Store};
use crate::diag::Result;

/// A result that no pipeline publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Garbage {
    pub fingerprint: Hash,
    /// Stage and kind, as it was called when it ran; empty where the result is damaged.
    pub stage: String,
    pub kind: String,
    pub bytes: u64,
    /// Seconds since 1970 when it was finished; 0 where that is not known.
    pub finished_unix_s: u64,
}

impl Store {
    /// Every result that is not what a stage of a pipeline is now, nor was within the last `grace_s` seconds (somebody may
    /// be reading it), the oldest first; what the pipelines of `forgotten` are now does not count. Running the pipeline with
    /// its old settings would make it again.
    pub fn unreachable_without(&self, forgotten: &[String], grace_s: u64) -> Vec<Garbage> {
        let used: BTreeSet<Hash> = self.used_fingerprints(forgotten, grace_s);
        let mut found = Vec::new();
        for prefix in folders(&self.root().join("objects")) {
            for dir in folders(&prefix) {
                let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                let fingerprint = Hash(name.to_string());
                if used.contains(&fingerprint) {
                    continue;
                }
                let (stage, kind, finished_unix_s) = match self.entry(&fingerprint) {
                    Entry::Found(manifest) => (manifest.stage, manifest.recipe.kind, manifest.finished_unix_s),
                    Entry::Missing | Entry::Damaged(_) => (String::new(), String::new(), 0),
                };
                found.push(Garbage { fingerprint, stage, kind, bytes: size(&dir), finished_unix_s });
            }
        }
        found.sort_by(|a, b| (a.finished_unix_s, &a.fingerprint).cmp(&(b.finished_unix_s, &b.fingerprint)));
        found
    }

    /// Takes results out of the store. The caller holds the lock.
    ///
    /// # Errors
    /// One cannot be removed.
    pub fn collect(&self, garbage: &[Garbage]) -> Result<()> {
        garbage.iter().try_for_each(|g| self.discard(&g.fingerprint))
    }

    /// Bytes of the memory of scenarios and commands.
    pub fn memory_bytes(&self) -> u64 {
        size(&self.root().join("memo"))
    }
}

fn folders(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries.map(|e| e.path()).filter(|p| p.is_dir()).collect();
    found.sort();
    found
}

/// Bytes of all files below a folder.
fn size(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| if e.path().is_dir() { size(&e.path()) } else { e.metadata().map_or(0, |m| m.len()) }).sum()
}
