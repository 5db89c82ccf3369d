//! Diagnostics: what is wrong, where, what would be valid, what to do next.
//!
//! A mistake of the user is a [`Failure`] that carries every problem found at once. A bug of ours is an `assert!`.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
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

/// Texts of the files that spans point into, by [`Span::file`].
#[derive(Clone, Debug, Default)]
pub struct Sources(pub BTreeMap<Arc<str>, Arc<str>>);

impl Sources {
    /// A line of a file, without its end.
    fn line(&self, at: &Span) -> Option<&str> {
        let number = usize::try_from(at.line).ok()?.checked_sub(1)?;
        self.0.get(&at.file)?.lines().nth(number)
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

/// Diagnostics in the order of their places; those without one come last.
fn sorted(failure: &Failure) -> Vec<&Diagnostic> {
    let mut all: Vec<&Diagnostic> = failure.diagnostics.iter().collect();
    all.sort_by(|a, b| (a.at.is_none(), &a.at).cmp(&(b.at.is_none(), &b.at)));
    all
}

/// What a terminal shows for a failure: every problem with the line that it is about, and their number.
///
/// Empty for an interrupted run, whose user knows why it stopped.
pub fn render(failure: &Failure, sources: &Sources, colour: bool) -> String {
    let paint = Paint(colour);
    let mut out = String::new();
    for d in sorted(failure) {
        render_one(&mut out, d, sources, &paint);
        out.push('\n');
    }
    match failure.diagnostics.len() {
        0 | 1 => {
            out.pop();
        }
        n => out.push_str(&format!("{n} problems\n")),
    }
    out
}

/// One JSON object per line and problem: `code`, `message`, `file`, `line`, `column`, `help`; unknown ones are null.
pub fn render_json(failure: &Failure) -> String {
    let mut out = String::new();
    for d in sorted(failure) {
        let at = d.at.as_ref();
        let object = serde_json::json!({
            "code": d.code,
            "message": d.message,
            "file": at.map(|a| &*a.file),
            "line": at.map(|a| a.line),
            "column": at.map(|a| a.column),
            "help": d.help,
        });
        out.push_str(&object.to_string());
        out.push('\n');
    }
    out
}

/// Colours of a terminal, or none.
struct Paint(bool);

impl Paint {
    fn with(&self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
    fn error(&self, text: &str) -> String {
        self.with("1;31", text)
    }
    fn frame(&self, text: &str) -> String {
        self.with("1;34", text)
    }
    fn bold(&self, text: &str) -> String {
        self.with("1", text)
    }
}

fn render_one(out: &mut String, d: &Diagnostic, sources: &Sources, paint: &Paint) {
    // Writing to a String cannot fail; the results below are void.
    let head = paint.error(&format!("error[{}]", d.code));
    let _ = writeln!(out, "{head}: {}", paint.bold(&printable(&d.message)));
    let width = d.at.as_ref().map_or(1, |at| at.line.to_string().len());
    if let Some(at) = &d.at {
        let _ = writeln!(out, "{:width$}{} {at}", "", paint.frame("-->"));
        if let Some(line) = sources.line(at) {
            render_line(out, line, at, width, paint);
        }
    }
    if let Some(help) = &d.help {
        for (i, line) in help.lines().enumerate() {
            let mark = if i == 0 { format!("{} help: ", paint.frame("=")) } else { " ".repeat(8) };
            let _ = writeln!(out, "{:width$} {mark}{}", "", printable(line));
        }
    }
}

/// Characters of a source line that are shown; longer lines are cut around the place.
const SHOWN: usize = 140;

fn render_line(out: &mut String, line: &str, at: &Span, width: usize, paint: &Paint) {
    let characters: Vec<char> = printable(line).chars().collect();
    let start = (at.column.max(1) as usize - 1).min(characters.len());
    let from = if characters.len() <= SHOWN { 0 } else { start.saturating_sub(SHOWN / 2) };
    let to = (from + SHOWN).min(characters.len());
    let (before, after) = (if from > 0 { "..." } else { "" }, if to < characters.len() { "..." } else { "" });
    let text: String = characters[from..to].iter().collect();
    let carets = "^".repeat((at.len as usize).min(to.saturating_sub(start)).max(1));
    let bar = paint.frame("|");
    let _ = writeln!(out, "{:width$} {bar}", "");
    let _ = writeln!(out, "{} {bar} {before}{}{after}", paint.frame(&at.line.to_string()), text.trim_end());
    let pad = " ".repeat(before.len() + start - from);
    let _ = writeln!(out, "{:width$} {bar} {pad}{}", "", paint.error(&carets));
}

/// Control characters would move the cursor of the terminal; a tab is one column here as in [`Span`].
fn printable(text: &str) -> String {
    text.chars().map(|c| if c == '\t' || (c.is_control() && c != '\n') { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> (Failure, Sources) {
        let file: Arc<str> = "p/x.yaml".into();
        let at = |line, column, len| Some(Span { file: file.clone(), line, column, len });
        let sources = Sources(BTreeMap::from([(file.clone(), Arc::from("name: x\nstages:\n\treplcas: 4 # ä\n"))]));
        let failure = Failure::usage(vec![
            Diagnostic::new("b", "no place"),
            Diagnostic::new("a", "unknown key `replcas`").at(at(3, 2, 7)).help("did you mean `replicas`?\nor not"),
            Diagnostic::new("c", "first").at(at(1, 7, 0)),
        ]);
        (failure, sources)
    }

    #[test]
    fn text_shows_the_lines() {
        let (failure, sources) = example();
        let want = "\
error[c]: first
 --> p/x.yaml:1:7
  |
1 | name: x
  |       ^

error[a]: unknown key `replcas`
 --> p/x.yaml:3:2
  |
3 |  replcas: 4 # ä
  |  ^^^^^^^
  = help: did you mean `replicas`?
          or not

error[b]: no place

3 problems
";
        assert_eq!(render(&failure, &sources, false), want);
        assert!(render(&failure, &sources, true).contains("\x1b[1;31m^^^^^^^\x1b[0m"));
        assert_eq!(render(&Failure::interrupted(), &sources, true), "");
    }

    #[test]
    fn long_lines_are_cut() {
        let file: Arc<str> = "x".into();
        let sources =
            Sources(BTreeMap::from([(file.clone(), Arc::from(format!("{}!{}", "a".repeat(500), "b".repeat(500))))]));
        let at = Some(Span { file, line: 1, column: 501, len: 400 });
        let text = render(&Failure::usage(vec![Diagnostic::new("a", "m").at(at)]), &sources, false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[3].find('!'), lines[4].find('^'), "{text}");
        assert!(lines.iter().all(|l| l.len() < 160), "{text}");
    }

    #[test]
    fn json_has_one_object_per_problem() {
        let (failure, _) = example();
        let lines: Vec<serde_json::Value> =
            render_json(&failure).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1]["line"], 3);
        assert_eq!(lines[2]["file"], serde_json::Value::Null);
    }
}
