//! Where a command writes what was asked for: standard output for `-`, a device or a pipe as it is, else a file that takes
//! its name when it is whole.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::folder;
use crate::diag::{self, Diagnostic, Exit, Failure, Result};

/// What `--output` names.
pub(super) struct Output {
    name: PathBuf,
    to: To,
}

enum To {
    Stdout,
    /// There already, and no file.
    Device,
    Making {
        file: NamedTempFile,
        place: PathBuf,
    },
}

/// Whether it is standard output that is named so.
pub(super) fn is_stdout(name: &Path) -> bool {
    name.as_os_str() == "-"
}

impl Output {
    /// # Errors
    /// A folder; a folder that is not there; a file cannot be made in it.
    pub(super) fn new(name: &Path) -> Result<Output> {
        let to = |to: To| Output { name: name.to_path_buf(), to };
        if is_stdout(name) {
            return Ok(to(To::Stdout));
        }
        let wrong = |what: &str, help: &str| {
            let message = format!("cannot write `{}`: {what}", name.display());
            Failure::from(Diagnostic::new("cli::output", message).help(help))
        };
        match name.metadata() {
            Ok(there) if there.is_dir() => return Err(wrong("it is a folder", "name a file in it")),
            Ok(there) if !there.is_file() => return Ok(to(To::Device)),
            _ => {}
        }
        // A link stays: what it names is replaced.
        let place = name.canonicalize().unwrap_or_else(|_| name.to_path_buf());
        let beside = folder(&place);
        if !beside.is_dir() {
            let what = format!("there is no folder `{}`", beside.display());
            return Err(wrong(&what, "make it, or name another place"));
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(".pipe-");
        // As a file that is made the usual way: whether others may read it is for the umask to say.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        // The error itself has the hidden name in it.
        let made = builder.tempfile_in(beside).map_err(|e| diag::io(name, "write", &e.kind().into()))?;
        Ok(to(To::Making { file: made, place }))
    }

    /// What to write to.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn file(&self) -> Result<File> {
        let opened = match &self.to {
            To::Stdout => stdout(),
            To::Device => File::options().write(true).open(&self.name),
            To::Making { file, .. } => file.reopen(),
        };
        opened.map_err(|e| diag::io(&self.name, "write", &e))
    }

    /// Where parts of it may lie until it is whole.
    pub(super) fn scratch(&self) -> PathBuf {
        match &self.to {
            To::Stdout | To::Device => std::env::temp_dir(),
            To::Making { place, .. } => folder(place).to_path_buf(),
        }
    }

    /// Ends the process on Ctrl-C without leaving the unfinished file behind, which the signal alone would.
    pub(super) fn remove_on_interrupt(&self) {
        let To::Making { file, .. } = &self.to else { return };
        let unfinished = file.path().to_path_buf();
        std::thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
            if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
                let _ = std::fs::remove_file(&unfinished);
                tell!("interrupted");
                std::process::exit(Exit::Interrupted as i32);
            }
        });
    }

    /// It is whole.
    ///
    /// # Errors
    /// The file cannot get its name.
    pub(super) fn done(self) -> Result<()> {
        match self.to {
            To::Stdout | To::Device => Ok(()),
            To::Making { file, place } => {
                file.persist(&place).map(drop).map_err(|e| diag::io(&self.name, "write", &e.error))
            }
        }
    }
}

/// Writes all of it.
///
/// # Errors
/// Those of [`Output::new`]; the disk is full and the like.
pub(super) fn write(name: &Path, content: &[u8]) -> Result<()> {
    let output = Output::new(name)?;
    match output.file()?.write_all(content) {
        // A reader that went away.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(e) => Err(diag::io(name, "write", &e)),
        Ok(()) => output.done(),
    }
}

/// Standard output, without a buffer between.
#[cfg(unix)]
fn stdout() -> std::io::Result<File> {
    use std::os::fd::AsFd;
    std::io::stdout().as_fd().try_clone_to_owned().map(File::from)
}

#[cfg(windows)]
fn stdout() -> std::io::Result<File> {
    use std::os::windows::io::AsHandle;
    std::io::stdout().as_handle().try_clone_to_owned().map(File::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_appear_when_they_are_whole() {
        let dir = tempfile::tempdir().unwrap();
        let names = || {
            let mut all: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            all.sort();
            all
        };
        let file = dir.path().join("a.txt");
        let output = Output::new(&file).unwrap();
        output.file().unwrap().write_all(b"half").unwrap();
        assert!(!file.exists() && names().len() == 1);
        drop(output);
        assert!(names().is_empty());
        write(&file, b"whole").unwrap();
        assert_eq!(names(), ["a.txt"]);
        assert_eq!(std::fs::read(&file).unwrap(), b"whole");
    }

    #[cfg(unix)]
    #[test]
    fn links_and_devices_stay_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("a.txt"), dir.path().join("b.txt"));
        std::fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink("a.txt", &link).unwrap();
        write(&link, b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        let null = dir.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &null).unwrap();
        write(&null, b"gone").unwrap();
        assert!(null.is_symlink() && !null.metadata().unwrap().is_file());
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("none/a.txt");
        let told = write(&file, b"x").unwrap_err();
        assert_eq!(told.exit, Exit::Usage);
        assert!(told.to_string().contains("none/a.txt") && told.to_string().contains("there is no folder"), "{told}");
        assert!(!dir.path().join("none").exists());
        assert!(write(dir.path(), b"x").unwrap_err().to_string().contains("it is a folder"));
    }
}
