//! Where results go: standard output, or a file.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Stdout, Write};
use std::path::{Path, PathBuf};

use crate::diag::{self, Diagnostic, Result};
use crate::query::output::Format;

enum Sink {
    Stdout(BufWriter<Stdout>),
    File { path: PathBuf, file: BufWriter<File> },
}

/// A place for the results of statements, one after the other.
pub struct Target {
    sink: Sink,
    results: usize,
    closed: bool,
}

impl Target {
    pub fn stdout() -> Target {
        Target { sink: Sink::Stdout(BufWriter::new(std::io::stdout())), results: 0, closed: false }
    }

    /// A file that is new or emptied.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(path: &Path) -> Result<Target> {
        let file = File::create(path).map_err(|e| diag::io(path, "write", &e))?;
        Ok(Target::file(path, file))
    }

    /// An open file that is, or will be, `path`.
    pub fn file(path: &Path, file: File) -> Target {
        let sink = Sink::File { path: path.to_path_buf(), file: BufWriter::new(file) };
        Target { sink, results: 0, closed: false }
    }

    pub fn is_terminal(&self) -> bool {
        matches!(self.sink, Sink::Stdout(_)) && std::io::stdout().is_terminal()
    }

    /// Whether nobody reads any more (`| head`).
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// A result of this format follows.
    ///
    /// # Errors
    /// It would spoil the terminal, or the file.
    pub fn begin(&mut self, format: Format) -> Result<()> {
        format.check_target(self.is_terminal())?;
        self.results += 1;
        match &self.sink {
            Sink::File { path, .. } if self.results > 1 && format.is_binary() => {
                let what = format!("{} has a result already, and a file of this format has one", path.display());
                Err(Diagnostic::new("console::second_result", what).help("`\\o FILE` begins another file").into())
            }
            _ => Ok(()),
        }
    }

    /// # Errors
    /// The output cannot be written.
    pub fn end(&mut self) -> Result<()> {
        let path = match &self.sink {
            Sink::Stdout(_) => PathBuf::from("<standard output>"),
            Sink::File { path, .. } => path.clone(),
        };
        match self.flush() {
            Err(_) if self.closed => Ok(()),
            other => other.map_err(|e| diag::io(&path, "write", &e)),
        }
    }

    fn note<T>(&mut self, done: std::io::Result<T>) -> std::io::Result<T> {
        self.closed |= done.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe);
        done
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let done = match &mut self.sink {
            Sink::Stdout(out) => out.write(bytes),
            Sink::File { file, .. } => file.write(bytes),
        };
        self.note(done)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let done = match &mut self.sink {
            Sink::Stdout(out) => out.flush(),
            Sink::File { file, .. } => file.flush(),
        };
        self.note(done)
    }
}
