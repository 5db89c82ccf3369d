//! Hashes of files, remembered by size, time of change and inode: an unchanged file is not read again.
//!
//! The same memory serves input files (`inputs.json`) and the parts of results (`verified.json`). It is a cache: lost
//! or unreadable, files are hashed again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::hash::hash_file;
use super::{Hash, Store, remote, write_json};
use crate::diag::{Diagnostic, Result, io, nearest};
use crate::spec::{FilePath, is_pattern, is_url, no_match};

/// Two changes of a file within this time may leave the same time stamp: what was hashed so soon after a change is
/// not remembered.
const RACY: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Seen {
    size: u64,
    mtime_ns: u64,
    inode: u64,
    hash: Hash,
}

/// The remembered hashes of one file in the store.
#[derive(Debug)]
pub(super) struct HashCache {
    file: PathBuf,
    /// `None` until first used.
    entries: Mutex<Option<Entries>>,
}

#[derive(Debug, Default)]
struct Entries {
    by_path: BTreeMap<String, Seen>,
    changed: bool,
}

impl HashCache {
    pub fn new(file: PathBuf) -> HashCache {
        HashCache { file, entries: Mutex::new(None) }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Entries) -> T) -> T {
        let mut guard = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = guard.get_or_insert_with(|| Entries {
            by_path: std::fs::read(&self.file)
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok())
                .unwrap_or_default(),
            changed: false,
        });
        f(entries)
    }

    /// The hash of `path`, read again only if the file looks changed.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn hash(&self, path: &Path) -> Result<Hash> {
        let key = path.to_string_lossy().into_owned();
        let before = stat(path)?;
        let known = self.with(|e| e.by_path.get(&key).filter(|s| before.same(s)).map(|s| s.hash.clone()));
        if let Some(hash) = known {
            return Ok(hash);
        }
        let hash = hash_file(path)?;
        let racy = before.modified.elapsed().is_ok_and(|age| age < RACY) || before.modified > SystemTime::now();
        let after = stat(path)?;
        if !racy && after.same(&before.seen(&hash)) {
            self.with(|e| {
                e.by_path.insert(key, before.seen(&hash));
                e.changed = true;
            });
        }
        Ok(hash)
    }

    /// Remembers the hash of a file that was hashed while it was written, by the only one who writes it.
    pub fn trust(&self, path: &Path, hash: &Hash) {
        if let Ok(stat) = stat(path) {
            self.with(|e| {
                e.by_path.insert(path.to_string_lossy().into_owned(), stat.seen(hash));
                e.changed = true;
            });
        }
    }

    /// Forgets the files under `dir`.
    pub fn forget(&self, dir: &Path) {
        let prefix = dir.to_string_lossy().into_owned();
        self.with(|e| {
            let before = e.by_path.len();
            e.by_path.retain(|path, _| !path.starts_with(&prefix));
            e.changed |= e.by_path.len() != before;
        });
    }

    /// Writes what is new. Failing to is no error: the files are hashed again next time.
    pub fn save(&self) {
        self.with(|e| {
            if e.changed && write_json(&self.file, &e.by_path, false).is_ok() {
                e.changed = false;
            }
        });
    }
}

struct Stat {
    size: u64,
    mtime_ns: u64,
    inode: u64,
    modified: SystemTime,
}

impl Stat {
    fn same(&self, seen: &Seen) -> bool {
        (self.size, self.mtime_ns, self.inode) == (seen.size, seen.mtime_ns, seen.inode)
    }

    fn seen(&self, hash: &Hash) -> Seen {
        Seen { size: self.size, mtime_ns: self.mtime_ns, inode: self.inode, hash: hash.clone() }
    }
}

fn stat(path: &Path) -> Result<Stat> {
    let meta = std::fs::metadata(path).map_err(|e| io(path, "read", &e))?;
    let modified = meta.modified().unwrap_or(UNIX_EPOCH);
    let mtime_ns = modified.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
    Ok(Stat { size: meta.len(), mtime_ns, inode: inode(&meta), modified })
}

#[cfg(unix)]
fn inode(meta: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(meta)
}

#[cfg(not(unix))]
fn inode(_meta: &std::fs::Metadata) -> u64 {
    0
}

impl Store {
    /// The content hash of an input file, remembered between runs by path, size, time of change and inode.
    ///
    /// # Errors
    /// The file cannot be read; the diagnostic points at where it was named.
    pub fn input_hash(&self, file: &FilePath) -> Result<Hash> {
        if is_url(&file.written) {
            return remote::identity(file);
        }
        self.inner.inputs.hash(&file.path).map_err(|f| f.or_at(file.at.as_ref()))
    }
}

/// What is wrong with an input file that is named in a pipeline, if anything, and which file may have been meant.
pub fn input_problem(file: &FilePath) -> Option<Diagnostic> {
    let problem = |message: String| Diagnostic::new("plan::missing_file", message).at(file.at.clone());
    if is_url(&file.written) {
        return remote::problem(file);
    }
    if is_pattern(file) {
        return Some(no_match(file));
    }
    match std::fs::metadata(&file.path) {
        Ok(meta) if meta.is_dir() => {
            Some(problem(format!("`{}` is a folder, not a file", file.written)).help("name a file in it"))
        }
        Ok(_) => None,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let d = problem(format!("file `{}` does not exist", file.written));
            Some(match similar(&file.path) {
                Some(name) => d.help(format!("did you mean `{name}`?")),
                None => d.help(format!("looked for {}", file.path.display())),
            })
        }
        Err(e) => Some(problem(format!("cannot read `{}`: {e}", file.written))),
    }
}

/// The file in the same folder whose name is nearest.
fn similar(path: &Path) -> Option<String> {
    let wrong = path.file_name()?.to_str()?;
    let mut names: Vec<String> = std::fs::read_dir(path.parent()?)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    nearest(wrong, names.iter().map(String::as_str)).map(str::to_string)
}
