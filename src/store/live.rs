//! What runs right now, for whoever watches: a small file per run, replaced as the run goes on and removed at its end.
//!
//! Not in `runs/`, whose folder changes only when a run begins or ends. A file whose run shows no sign of life is not
//! shown, and swept by the next run.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{RunRecord, StageAction, Store, runs, write_json};
use crate::diag::{Result, io};

/// A run that goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveRun {
    /// Of its [`RunRecord`].
    pub id: String,
    pub pipeline: String,
    pub host: String,
    pub pid: u32,
    /// Milliseconds since 1970.
    pub started_unix_ms: u64,
    /// Milliseconds since 1970 when this was written.
    pub updated_unix_ms: u64,
    /// In the order of the run.
    pub stages: Vec<LiveStage>,
}

/// A stage of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveStage {
    pub name: String,
    pub kind: String,
    pub state: LiveState,
    /// Units of work, and in all where that is known.
    pub done: u64,
    pub total: Option<u64>,
    /// What the units are.
    pub what: String,
    /// Rows of the main table, once it is made.
    pub rows: u64,
    /// Milliseconds that it took, or takes so far.
    pub millis: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LiveState {
    Waiting,
    Running,
    Cached,
    Ran,
    Failed,
    Interrupted,
    /// Not part of this run.
    Skipped,
}

impl From<StageAction> for LiveState {
    fn from(action: StageAction) -> Self {
        match action {
            StageAction::Cached => LiveState::Cached,
            StageAction::Ran => LiveState::Ran,
            StageAction::Failed => LiveState::Failed,
            StageAction::Skipped => LiveState::Skipped,
            StageAction::Interrupted => LiveState::Interrupted,
        }
    }
}

/// How often a run shows that it is alive, also where nothing changes.
pub const HEARTBEAT: Duration = Duration::from_secs(2);
/// After which a run that shows nothing is taken for dead: clocks of machines that share a folder differ a little.
const SILENT_MS: u64 = 15_000;

impl LiveRun {
    /// A run that begins.
    pub fn of(record: &RunRecord, stages: Vec<LiveStage>) -> LiveRun {
        LiveRun {
            id: record.id.clone(),
            pipeline: record.pipeline.clone(),
            host: runs::host(),
            pid: record.pid,
            started_unix_ms: now_ms(),
            updated_unix_ms: 0,
            stages,
        }
    }

    fn alive(&self, now_ms: u64, here: &str) -> bool {
        now_ms.abs_diff(self.updated_unix_ms) < SILENT_MS && !(self.host == here && gone(self.pid))
    }
}

/// Whether no process has this number, where the system says so.
fn gone(pid: u32) -> bool {
    let processes = std::path::Path::new("/proc");
    processes.join("self").exists() && !processes.join(pid.to_string()).exists()
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Store {
    fn live_dir(&self) -> PathBuf {
        self.root().join("live")
    }

    fn live_path(&self, id: &str) -> PathBuf {
        self.live_dir().join(format!("{id}.json"))
    }

    /// Says where a run stands.
    ///
    /// # Errors
    /// Full disk and the like.
    pub fn record_live(&self, run: &LiveRun) -> Result<()> {
        let dir = self.live_dir();
        std::fs::create_dir_all(&dir).map_err(|e| io(&dir, "make", &e))?;
        write_json(&self.live_path(&run.id), &LiveRun { updated_unix_ms: now_ms(), ..run.clone() }, false)
    }

    /// A run has ended.
    pub fn forget_live(&self, id: &str) {
        let _ = std::fs::remove_file(self.live_path(id));
    }

    /// The runs that go on, by name.
    pub fn live(&self) -> Vec<LiveRun> {
        let entries = std::fs::read_dir(self.live_dir()).into_iter().flatten().flatten();
        let paths = entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json"));
        let read = |path: PathBuf| serde_json::from_slice::<LiveRun>(&std::fs::read(path).ok()?).ok();
        let (now, here) = (now_ms(), runs::host());
        let mut runs: Vec<LiveRun> = paths.filter_map(read).filter(|run| run.alive(now, &here)).collect();
        runs.sort_by(|a, b| a.id.cmp(&b.id));
        runs
    }

    /// Removes what dead processes left. The caller holds the lock.
    pub(super) fn sweep_live(&self) {
        for entry in std::fs::read_dir(self.live_dir()).into_iter().flatten().flatten() {
            if let Err(e) = std::fs::remove_file(entry.path()) {
                tracing::debug!("cannot remove {}: {e}", entry.path().display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(pid: u32) -> LiveRun {
        let mut record = RunRecord::start("p", "p.yaml", Vec::new());
        record.pid = pid;
        LiveRun::of(&record, Vec::new())
    }

    #[test]
    fn only_runs_that_are_alive() {
        let now = 1_000_000;
        // A process that there is on any Linux, and one that there cannot be.
        let (own, none) = (std::process::id(), u32::MAX);
        let there = std::path::Path::new("/proc/self").exists();
        let cases = [
            (own, now, "here", true),
            (own, now - SILENT_MS, "here", false),
            // The clock of the other machine is ahead.
            (own, now + 3_000, "elsewhere", true),
            (none, now, "elsewhere", true),
            (none, now, "here", !there),
        ];
        for (pid, updated, host, expected) in cases {
            let run = LiveRun { updated_unix_ms: updated, host: host.to_string(), ..run(pid) };
            assert_eq!(run.alive(now, "here"), expected, "{pid} {updated} {host}");
        }
    }

    #[test]
    fn the_file_of_a_run_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(store.live().is_empty());
        let run = run(std::process::id());
        store.record_live(&run).unwrap();
        let found = store.live();
        assert_eq!(found.len(), 1);
        assert_eq!(LiveRun { updated_unix_ms: 0, ..found[0].clone() }, run);
        store.forget_live(&run.id);
        assert!(store.live().is_empty());
        // One that died is swept by the next writer.
        store.record_live(&run).unwrap();
        drop(store.lock().unwrap());
        assert_eq!(std::fs::read_dir(store.root().join("live")).unwrap().count(), 0);
    }
}
