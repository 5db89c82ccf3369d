//! One writer per store, by a lock of the operating system: it goes away with the process, whatever kills it.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Store, runs, sync_dir};
use crate::diag::{Diagnostic, Exit, Failure, Result, io};

/// The right to write to the store, until dropped.
#[derive(Debug)]
pub struct StoreLock {
    file: File,
}

/// Who holds the lock, for the message to whoever does not get it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Holder {
    pub pid: u32,
    /// The run that is going on.
    pub run: Option<String>,
}

impl Store {
    /// Makes this process the only writer, and clears away what dead ones left unfinished.
    ///
    /// # Errors
    /// Another process is writing; the folder cannot be written.
    pub fn lock(&self) -> Result<StoreLock> {
        for dir in ["objects", "tmp", "memo", "runs", "pipelines"] {
            let dir = self.root().join(dir);
            std::fs::create_dir_all(&dir).map_err(|e| super::disk(&dir, "make", &e))?;
        }
        let path = self.root().join("lock");
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| io(&path, "write", &e))?;
        let previous = holder(&mut file);
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(busy(self.root(), previous.as_ref())),
            Err(TryLockError::Error(e)) => return Err(io(&path, "lock", &e)),
        }
        // Nobody else is alive here: what is under `tmp/` belongs to the dead.
        if let Some(run) = previous.and_then(|h| h.run) {
            runs::mark_killed(self, &run);
        }
        self.sweep();
        let mut lock = StoreLock { file };
        lock.set_holder(&Holder { pid: std::process::id(), run: None });
        Ok(lock)
    }

    fn sweep(&self) {
        let tmp = self.root().join("tmp");
        for entry in std::fs::read_dir(&tmp).into_iter().flatten().flatten() {
            let path = entry.path();
            let done = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            if let Err(e) = done {
                tracing::warn!("cannot remove {}: {e}", path.display());
            }
        }
        self.sweep_live();
        self.memo().sweep();
        sync_dir(&tmp);
    }
}

impl StoreLock {
    /// Notes the run that is going on, so that its record can be closed if this process dies.
    pub(crate) fn note_run(&mut self, run: &str) {
        self.set_holder(&Holder { pid: std::process::id(), run: Some(run.to_string()) });
    }

    /// Best effort: the lock holds without the text, which only helps people.
    fn set_holder(&mut self, holder: &Holder) {
        let text = serde_json::to_string(holder).unwrap_or_default();
        let written =
            self.file.set_len(0).and_then(|()| self.file.rewind()).and_then(|()| self.file.write_all(text.as_bytes()));
        if let Err(e) = written {
            tracing::debug!("cannot note the holder of the lock: {e}");
        }
    }
}

impl Drop for StoreLock {
    fn drop(&mut self) {
        // The file stays: removing it would let two processes lock two different files of one name.
        let _ = self.file.set_len(0);
        let _ = self.file.unlock();
    }
}

fn holder(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn busy(root: &Path, holder: Option<&Holder>) -> Failure {
    let who = match holder {
        Some(h) => format!("process {}", h.pid),
        None => "another process".to_string(),
    };
    let help = "wait until it is finished, or stop it; the lock goes away with the process. \
                `pipe plan`, `pipe sql`, `pipe ls` and `pipe show` work meanwhile";
    let d = Diagnostic::new("store::locked", format!("{who} is running a pipeline in {}", root.display()));
    Failure { exit: Exit::Usage, diagnostics: vec![d.help(help)] }
}
