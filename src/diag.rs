//! Diagnostics: what is wrong, where, what would be valid, what to do next.
//!
//! A mistake of the user is a [`Failure`] that carries every problem found at once. A bug of ours is an `assert!`.

use std::fmt;
use std::sync::Arc;

/// A place in a file. Lines and columns start at 1; columns count characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The path as the user wrote it, or the path of the include.
    pub file: Arc<str>,
    pub line: u32,
    pub column: u32,
    /// Characters to underline; 0 where only the start is known.
    pub len: u32,
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A value and where it was written. `at` is `None` for defaults.
#[derive(Clone, Debug)]
pub struct Spanned<T> {
    pub value: T,
    pub at: Option<Span>,
}

impl<T> Spanned<T> {
    pub fn new(value: T, at: Option<Span>) -> Self {
        Spanned { value, at }
    }
}

/// Equal values are equal wherever they were written: moving a line changes nothing.
impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostic {
    /// Stable name for tests and search, e.g. `spec::unknown_key`.
    pub code: &'static str,
    pub message: String,
    pub at: Option<Span>,
    /// What would be valid, or what to do next.
    pub help: Option<String>,
}

impl Diagnostic {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Diagnostic { code, message: message.into(), at: None, help: None }
    }

    pub fn at(mut self, at: Option<Span>) -> Self {
        self.at = at;
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Process exit codes; part of the interface, listed in `pipe --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Ok = 0,
    /// A stage failed while running.
    Stage = 1,
    /// The command line, the pipeline or a query is wrong; nothing ran.
    Usage = 2,
    /// A rule with `assert: true` is violated.
    Slo = 3,
    /// Ctrl-C or SIGTERM.
    Interrupted = 130,
}

/// Why something could not be done: every problem found, and the exit code that follows from it.
#[derive(Clone, Debug)]
pub struct Failure {
    pub exit: Exit,
    pub diagnostics: Vec<Diagnostic>,
}

pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// The user's input is wrong; nothing ran.
    pub fn usage(diagnostics: Vec<Diagnostic>) -> Self {
        Failure { exit: Exit::Usage, diagnostics }
    }

    /// Something failed while it ran.
    pub fn stage(code: &'static str, message: impl Into<String>) -> Self {
        Failure { exit: Exit::Stage, diagnostics: vec![Diagnostic::new(code, message)] }
    }

    pub fn interrupted() -> Self {
        Failure { exit: Exit::Interrupted, diagnostics: Vec::new() }
    }

    /// Puts `at` on every diagnostic that has no place yet.
    pub fn or_at(mut self, at: Option<&Span>) -> Self {
        for d in &mut self.diagnostics {
            if d.at.is_none() {
                d.at = at.cloned();
            }
        }
        self
    }
}

impl From<Diagnostic> for Failure {
    fn from(d: Diagnostic) -> Self {
        Failure::usage(vec![d])
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, d) in self.diagnostics.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            match &d.at {
                Some(at) => write!(f, "{at}: {}", d.message)?,
                None => write!(f, "{}", d.message)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// An I/O error with the path that it is about.
pub fn io(path: &std::path::Path, doing: &str, e: &std::io::Error) -> Failure {
    Failure::stage("io", format!("cannot {doing} {}: {e}", path.display()))
}

/// The name closest to `wrong`, if it is close enough to be what was meant.
pub fn nearest<'a>(wrong: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (wrong.chars().count() / 3).max(1) + 1;
    valid
        .into_iter()
        .map(|v| (strsim::damerau_levenshtein(&wrong.to_lowercase(), &v.to_lowercase()), v))
        .filter(|(d, _)| *d <= limit)
        .min()
        .map(|(_, v)| v)
}
