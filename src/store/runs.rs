//! Records of runs: who ran what, when, why each stage ran, and what came out.
//!
//! A record is written when a run starts and replaced when it ends. A run that was killed is marked as such by the
//! next writer, who finds its name in the lock.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Hash, Store, random_hex, write_json};
use crate::diag::Result;

/// One run of a pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    pub format: u32,
    /// Time of the start and a random suffix; sorts by time.
    pub id: String,
    pub pipeline: String,
    /// The pipeline's file, as given.
    pub file: String,
    /// The command line.
    pub args: Vec<String>,
    /// `user@host`.
    pub who: String,
    pub pid: u32,
    pub pipe_version: String,
    /// RFC 3339, UTC.
    pub started: String,
    pub finished: Option<String>,
    pub status: RunStatus,
    pub stages: Vec<StageRecord>,
    pub inputs: Vec<InputRecord>,
    /// Texts of violated assertions and of failures.
    pub messages: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    Running,
    Finished,
    /// Finished, and an assertion is violated.
    Violated,
    Failed,
    Interrupted,
    /// The process died.
    Killed,
}

/// What a run did with a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageAction {
    Cached,
    Ran,
    Failed,
    /// Not selected, or not reached.
    Skipped,
    Interrupted,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    pub name: String,
    pub kind: String,
    pub action: StageAction,
    /// Why it ran, or did not.
    pub reason: String,
    /// Milliseconds in this run.
    pub millis: u64,
    /// Rows of the main table.
    pub rows: u64,
    pub fingerprint: Option<Hash>,
    pub tables: Vec<TableRecord>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableRecord {
    pub name: String,
    pub rows: u64,
    pub hash: Hash,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InputRecord {
    /// As written in the pipeline.
    pub file: String,
    pub hash: Hash,
}

impl RunRecord {
    /// The record of a run that starts now.
    pub fn start(pipeline: &str, file: &str, args: Vec<String>) -> RunRecord {
        let now = chrono::Utc::now();
        RunRecord {
            format: 1,
            id: format!("{}-{}", now.format("%Y%m%dT%H%M%S%3fZ"), &random_hex()[..6]),
            pipeline: pipeline.to_string(),
            file: file.to_string(),
            args,
            who: who(),
            pid: std::process::id(),
            pipe_version: env!("CARGO_PKG_VERSION").to_string(),
            started: timestamp(now),
            finished: None,
            status: RunStatus::Running,
            stages: Vec::new(),
            inputs: Vec::new(),
            messages: Vec::new(),
        }
    }

    /// Closes the record.
    pub fn finish(&mut self, status: RunStatus) {
        self.status = status;
        self.finished = Some(timestamp(chrono::Utc::now()));
    }
}

fn timestamp(at: chrono::DateTime<chrono::Utc>) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

fn who() -> String {
    let user = ["USER", "LOGNAME", "USERNAME"].iter().find_map(|name| std::env::var(name).ok());
    format!("{}@{}", user.as_deref().unwrap_or("unknown"), host())
}

/// The name of this machine.
pub(super) fn host() -> String {
    let named = ["HOSTNAME", "COMPUTERNAME"].iter().find_map(|name| std::env::var(name).ok());
    let own = || Some(std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?.trim().to_string());
    named.or_else(own).unwrap_or_else(|| "unknown".to_string())
}

impl Store {
    fn run_path(&self, id: &str) -> PathBuf {
        self.root().join("runs").join(format!("{id}.json"))
    }

    /// Writes a record, or replaces it.
    ///
    /// # Errors
    /// Full disk and the like.
    pub fn record_run(&self, record: &RunRecord) -> Result<()> {
        write_json(&self.run_path(&record.id), record, false)
    }

    /// The record of a run, if it is there and readable.
    pub fn run(&self, id: &str) -> Option<RunRecord> {
        serde_json::from_slice(&std::fs::read(self.run_path(id)).ok()?).ok()
    }

    /// All records that can be read, the newest first.
    pub fn runs(&self) -> Vec<RunRecord> {
        let entries = std::fs::read_dir(self.root().join("runs")).into_iter().flatten().flatten();
        let ids = entries.filter_map(|e| Some(e.file_name().into_string().ok()?.strip_suffix(".json")?.to_string()));
        let mut runs: Vec<RunRecord> = ids.filter_map(|id| self.run(&id)).collect();
        runs.sort_by(|a, b| b.id.cmp(&a.id));
        runs
    }
}

/// Closes the record of a run whose process died.
pub(super) fn mark_killed(store: &Store, id: &str) {
    if let Some(mut record) = store.run(id).filter(|r| r.status == RunStatus::Running) {
        record.finish(RunStatus::Killed);
        if let Err(e) = store.record_run(&record) {
            tracing::debug!("cannot close the record of run {id}: {e}");
        }
    }
}
