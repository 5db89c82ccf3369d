//! What the tables and figures of a pipeline are right now: links into the store, and a record of them.
//!
//! `data/store/pipelines/<pipeline>.json` holds the recipe of every published stage, so that `pipe plan` can say what
//! changed since, and the names that each stage published, so that those of a removed stage go away.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::PoisonError;

use serde::{Deserialize, Serialize};

use super::{Entry, Hash, Manifest, Recipe, Store, TableHandle, disk, random_hex, unix_seconds, write_json};
use crate::diag::{Diagnostic, Exit, Failure, Result};

/// How long readers of a result that is no longer published may need it: seconds.
pub const GRACE_S: u64 = 15 * 60;

/// How long results that were taken back are remembered, in seconds: no longer grace makes sense.
const REMEMBERED_S: u64 = 7 * 86_400;

/// A table that a pipeline has published.
#[derive(Clone, Debug)]
pub struct Published {
    pub pipeline: String,
    pub table: String,
    pub stage: String,
    /// `data/tables/<pipeline>/<table>`.
    pub dir: PathBuf,
    /// The result that it is a table of.
    pub manifest: Manifest,
}

/// A figure, or an exported file or folder of files, that a pipeline has published.
#[derive(Clone, Debug)]
pub struct PublishedFile {
    pub pipeline: String,
    pub file: String,
    pub stage: String,
    /// `data/figures/<pipeline>/<file>`, or `data/exports/<pipeline>/<file>`.
    pub path: PathBuf,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct PipelineRecord {
    pub stages: BTreeMap<String, StageState>,
    /// Results that were published before, with the time when they were last, in seconds since 1970.
    #[serde(default)]
    pub retired: BTreeMap<Hash, u64>,
}

impl PipelineRecord {
    /// Notes that `old` is not what a stage is any more.
    fn retire<'a>(&mut self, old: impl Iterator<Item = &'a StageState>) {
        let now = unix_seconds();
        self.retired.extend(old.map(|state| (state.fingerprint.clone(), now)));
        self.retired.retain(|_, since| now.saturating_sub(*since) < REMEMBERED_S);
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StageState {
    pub fingerprint: Hash,
    pub recipe: Recipe,
    pub tables: BTreeSet<String>,
    pub files: BTreeSet<String>,
}

impl Store {
    fn record_path(&self, pipeline: &str) -> PathBuf {
        self.root().join("pipelines").join(format!("{pipeline}.json"))
    }

    fn record(&self, pipeline: &str) -> PipelineRecord {
        let path = self.record_path(pipeline);
        let Ok(bytes) = std::fs::read(&path) else { return PipelineRecord::default() };
        serde_json::from_slice(&bytes).unwrap_or_else(|e| {
            tracing::warn!("{} is damaged ({e}): its tables are published anew", path.display());
            PipelineRecord::default()
        })
    }

    /// The recipe of every stage as it was last published, by stage.
    pub fn last_recipes(&self, pipeline: &str) -> BTreeMap<String, Recipe> {
        self.record(pipeline).stages.into_iter().map(|(stage, state)| (stage, state.recipe)).collect()
    }

    /// `data/tables/<pipeline>`.
    pub fn tables_dir(&self, pipeline: &str) -> PathBuf {
        self.project().join("data/tables").join(pipeline)
    }

    /// Where the files of a kind of stage are: `data/figures/<pipeline>`, or `data/exports/<pipeline>` of `export`.
    fn files_dir(&self, pipeline: &str, kind: &str) -> PathBuf {
        let folder = if kind == "export" { "data/exports" } else { "data/figures" };
        self.project().join(folder).join(pipeline)
    }

    /// Makes a result what the tables and figures of `stage` are. Each name changes at once from the old to the new.
    ///
    /// # Errors
    /// A link cannot be made; something that is not a link is in its place.
    pub fn publish(&self, pipeline: &str, stage: &str, manifest: &Manifest) -> Result<()> {
        let _guard = self.inner.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let object = self.object_dir(&manifest.fingerprint);
        let mut state = StageState {
            fingerprint: manifest.fingerprint.clone(),
            recipe: manifest.recipe.clone(),
            tables: BTreeSet::new(),
            files: BTreeSet::new(),
        };
        for table in &manifest.tables {
            let name = manifest.table_as(stage, table);
            link(&object.join(&table.name), &self.tables_dir(pipeline).join(&name))?;
            state.tables.insert(name);
        }
        // Of a folder, the folder: its files change all at once.
        let entries: BTreeSet<&str> =
            manifest.files.keys().map(|file| file.split('/').next().unwrap_or(file)).collect();
        for entry in entries {
            let name = manifest.file_as(stage, entry);
            link(&object.join("files").join(entry), &self.files_dir(pipeline, &manifest.recipe.kind).join(&name))?;
            state.files.insert(name);
        }
        let mut record = self.record(pipeline);
        if record.stages.get(stage) == Some(&state) {
            return Ok(());
        }
        let old = record.stages.insert(stage.to_string(), state);
        record.retire(old.iter());
        self.unlink_stale(pipeline, old.into_iter(), &record);
        write_json(&self.record_path(pipeline), &record, true)
    }

    /// Takes back the tables and figures of stages that the pipeline no longer has.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn retain_stages(&self, pipeline: &str, stages: &[&str]) -> Result<()> {
        let _guard = self.inner.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let record = self.record(pipeline);
        let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            record.stages.into_iter().partition(|(stage, _)| stages.contains(&stage.as_str()));
        if gone.is_empty() {
            return Ok(());
        }
        let mut record = PipelineRecord { stages: kept, retired: record.retired };
        record.retire(gone.values());
        self.unlink_stale(pipeline, gone.into_values(), &record);
        if record.stages.is_empty() {
            // Those with files of others in them stay.
            let files = ["export", "plot"].map(|kind| self.files_dir(pipeline, kind));
            for dir in files.into_iter().chain([self.tables_dir(pipeline)]) {
                let _ = std::fs::remove_dir(dir);
            }
        }
        write_json(&self.record_path(pipeline), &record, true)
    }

    /// Removes the names of `old` that no stage has now.
    fn unlink_stale(&self, pipeline: &str, old: impl Iterator<Item = StageState>, now: &PipelineRecord) {
        for state in old {
            for table in state.tables {
                if !now.stages.values().any(|s| s.tables.contains(&table)) {
                    unlink(&self.tables_dir(pipeline).join(table));
                }
            }
            for file in state.files {
                let dir = self.files_dir(pipeline, &state.recipe.kind);
                let same = |s: &StageState| s.files.contains(&file) && self.files_dir(pipeline, &s.recipe.kind) == dir;
                if !now.stages.values().any(same) {
                    unlink(&dir.join(file));
                }
            }
        }
    }

    /// Every table of every pipeline, by pipeline and table. Results that are gone or damaged are left out.
    pub fn published(&self) -> Vec<Published> {
        let mut found = Vec::new();
        for (pipeline, record) in self.records() {
            for (stage, state) in record.stages {
                let manifest = match self.entry(&state.fingerprint) {
                    Entry::Found(manifest) => *manifest,
                    Entry::Missing => continue,
                    Entry::Damaged(why) => {
                        tracing::warn!("tables of stage `{stage}` of `{pipeline}` are damaged: {why}; run it again");
                        continue;
                    }
                };
                for table in state.tables {
                    let dir = self.tables_dir(&pipeline).join(&table);
                    let (pipeline, stage) = (pipeline.clone(), stage.clone());
                    found.push(Published { pipeline, table, stage, dir, manifest: manifest.clone() });
                }
            }
        }
        self.save_hashes();
        found.sort_by(|a, b| (&a.pipeline, &a.table).cmp(&(&b.pipeline, &b.table)));
        found
    }

    /// Every figure and exported file of every pipeline, by pipeline and name.
    pub fn published_files(&self) -> Vec<PublishedFile> {
        let mut found = Vec::new();
        for (pipeline, record) in self.records() {
            for (stage, state) in record.stages {
                for file in state.files {
                    let path = self.files_dir(&pipeline, &state.recipe.kind).join(&file);
                    found.push(PublishedFile { pipeline: pipeline.clone(), file, stage: stage.clone(), path });
                }
            }
        }
        found.sort_by(|a, b| (&a.pipeline, &a.file).cmp(&(&b.pipeline, &b.file)));
        found
    }

    /// The pipelines that have published something, by name.
    pub fn pipelines(&self) -> Vec<String> {
        self.records().into_iter().filter(|(_, record)| !record.stages.is_empty()).map(|(name, _)| name).collect()
    }

    /// The results that stages of pipelines are now, but for those of `without`, and those that one was at most
    /// `grace_s` seconds ago.
    pub(super) fn used_fingerprints(&self, without: &[String], grace_s: u64) -> BTreeSet<Hash> {
        let now = unix_seconds();
        let mut used = BTreeSet::new();
        for (name, record) in self.records() {
            let young = |since: u64| now.saturating_sub(since) < grace_s;
            used.extend(record.retired.into_iter().filter(|(_, since)| young(*since)).map(|(hash, _)| hash));
            if !without.contains(&name) {
                used.extend(record.stages.into_values().map(|stage| stage.fingerprint));
            }
        }
        used
    }

    /// A handle on a published table.
    ///
    /// # Errors
    /// Its first part cannot be read.
    pub fn published_handle(&self, published: &Published) -> Result<TableHandle> {
        self.handle_as(&published.manifest, &published.stage, &published.table)
    }

    fn records(&self) -> BTreeMap<String, PipelineRecord> {
        let dir = self.root().join("pipelines");
        let names = std::fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(name.strip_suffix(".json")?.to_string())
        });
        names.map(|pipeline| (pipeline.clone(), self.record(&pipeline))).collect()
    }
}

/// Makes `at` stand for `target`, at once: the new link is made beside it and renamed over it.
fn link(target: &Path, at: &Path) -> Result<()> {
    let parent = at.parent().unwrap_or(at);
    let relative = relative(parent, target);
    if std::fs::read_link(at).is_ok_and(|now| now == relative) {
        return Ok(());
    }
    if is_foreign(at) {
        let d = Diagnostic::new("store::in_the_way", format!("{} is not a link made by pipe", at.display()));
        let help = "move it away and run again: tables and figures are published here";
        return Err(Failure { exit: Exit::Stage, diagnostics: vec![d.help(help)] });
    }
    std::fs::create_dir_all(parent).map_err(|e| disk(parent, "make", &e))?;
    let tmp = parent.join(format!(".tmp-{}", random_hex()));
    make_link(&relative, target, &tmp).map_err(|e| disk(&tmp, "make", &e))?;
    replace(&tmp, at).map_err(|e| {
        unlink(&tmp);
        disk(at, "publish", &e)
    })
}

#[cfg(unix)]
fn make_link(relative: &Path, _target: &Path, tmp: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(relative, tmp)
}

#[cfg(unix)]
fn replace(tmp: &Path, at: &Path) -> std::io::Result<()> {
    std::fs::rename(tmp, at)
}

/// Whether `at` is something that pipe did not put there.
#[cfg(unix)]
fn is_foreign(at: &Path) -> bool {
    at.symlink_metadata().is_ok_and(|m| !m.is_symlink())
}

/// Links need rights there that users do not have: the result is copied.
#[cfg(not(unix))]
fn make_link(_relative: &Path, target: &Path, tmp: &Path) -> std::io::Result<()> {
    if !target.is_dir() {
        return std::fs::copy(target, tmp).map(|_| ());
    }
    std::fs::create_dir(tmp)?;
    for entry in std::fs::read_dir(target)? {
        let entry = entry?;
        make_link(_relative, &entry.path(), &tmp.join(entry.file_name()))?;
    }
    Ok(())
}

#[cfg(not(unix))]
fn replace(tmp: &Path, at: &Path) -> std::io::Result<()> {
    unlink(at);
    std::fs::rename(tmp, at)
}

#[cfg(not(unix))]
fn is_foreign(_at: &Path) -> bool {
    false
}

/// Removes a link, or what stands for one. Best effort: a name that stays is still a valid old table.
fn unlink(at: &Path) {
    let removed = match at.symlink_metadata() {
        Ok(meta) if meta.is_dir() && cfg!(not(unix)) => std::fs::remove_dir_all(at),
        Ok(meta) if meta.is_dir() => return,
        Ok(_) => std::fs::remove_file(at),
        Err(_) => return,
    };
    if let Err(e) = removed {
        tracing::warn!("cannot remove {}: {e}", at.display());
    }
}

/// The path from the folder `from` to `to`, so that a project can be moved as a whole. Both are absolute.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let (from, to): (Vec<Component>, Vec<Component>) = (from.components().collect(), to.components().collect());
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = std::iter::repeat_n(Component::ParentDir, from.len() - common);
    up.chain(to[common..].iter().copied()).collect()
}
