//! The console on a terminal: a line editor with history and completion.

use std::io::Write;
use std::path::{Path, PathBuf};

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Behavior, CompletionType, Config, Context, Editor, Helper};

use super::complete::{Catalog, complete, wants_file};
use super::script::{Flow, text_of, typed};
use super::session::Session;
use super::split::split;
use crate::cli::Done;
use crate::diag::{Exit, Failure, Result};

/// Statements that are remembered.
const HISTORY: usize = 2_000;

/// Words that alone on a line are what people try first.
const WORDS: [(&str, &str); 3] = [("help", "\\?"), ("quit", "\\q"), ("exit", "\\q")];

/// What the line editor asks while a statement is typed.
struct Assistant {
    catalog: Catalog,
    files: FilenameCompleter,
}

impl Helper for Assistant {}

impl Hinter for Assistant {
    type Hint = String;
}

impl Highlighter for Assistant {}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _context: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        if wants_file(&line[..at]) {
            return self.files.complete_path(line, at);
        }
        let (start, offers) = complete(&self.catalog, &line[..at], &line[at..]);
        Ok((start, offers.into_iter().map(|o| Pair { display: o.shown, replacement: o.word }).collect()))
    }
}

impl Validator for Assistant {
    /// A statement goes on until its `;`.
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        let input = context.input();
        let is_word = WORDS.iter().any(|(word, _)| input.trim() == *word);
        let (_, rest) = split(input);
        Ok(if rest.is_open() && !is_word { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

type Line = Editor<Assistant, FileHistory>;

/// Reads and runs, until Ctrl-D or `\q`.
///
/// # Errors
/// The terminal cannot be read.
pub fn interact(session: &mut Session) -> Done {
    session.catch_interrupts();
    let mut editor = editor(session)?;
    let history = history_file();
    if let Some(file) = &history
        && file.exists()
    {
        editor.load_history(file).unwrap_or_else(|e| tell!("cannot read {}: {e}", file.display()));
    }
    tell!("pipe {}. \\? shows the commands, \\d the tables, \\q leaves.", env!("CARGO_PKG_VERSION"));
    let mut begun = String::new();
    loop {
        refresh(session, &mut editor);
        let prompt = match &session.pipeline {
            Some(pipeline) => format!("pipe:{pipeline}> "),
            None => "pipe> ".to_string(),
        };
        let initial = std::mem::take(&mut begun);
        let line = match editor.readline_with_initial(&prompt, (&initial, "")) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(Exit::Ok),
            Err(e) => return Err(Failure::stage("console::terminal", format!("cannot read the terminal: {e}")).into()),
        };
        if line.trim().is_empty() {
            continue;
        }
        remember(&mut editor, history.as_deref(), &line);
        let word = WORDS.iter().find(|(word, _)| line.trim() == *word).map(|(_, command)| *command);
        match typed(session, word.unwrap_or(&line)) {
            Ok(Flow::Next) => {}
            Ok(Flow::Quit) => return Ok(Exit::Ok),
            Ok(Flow::Edit) => {
                begun = edit(session.last.as_deref().unwrap_or_default()).unwrap_or_else(|failure| {
                    tell!("{}", text_of(&failure.into()));
                    String::new()
                })
            }
            Err(reported) => tell!("{}", text_of(&reported)),
        }
    }
}

fn editor(session: &Session) -> Result<Line> {
    let wrong = |e: ReadlineError| Failure::stage("console::terminal", format!("cannot use the terminal: {e}"));
    let config = Config::builder()
        .max_history_size(HISTORY)
        .map_err(wrong)?
        .history_ignore_dups(true)
        .map_err(wrong)?
        .history_ignore_space(true)
        .completion_type(CompletionType::List)
        // Where results go to a file by `>`, the terminal is still what one types at.
        .behavior(if session.target.is_terminal() { Behavior::Stdio } else { Behavior::PreferTerm })
        .build();
    let history = FileHistory::with_config(&config);
    let mut editor = Line::with_history(config, history).map_err(wrong)?;
    editor.set_helper(Some(Assistant { catalog: session.catalog(), files: FilenameCompleter::new() }));
    Ok(editor)
}

/// Tables that were published meanwhile, or a pipeline chosen, are what Tab offers.
fn refresh(session: &mut Session, editor: &mut Line) {
    // What cannot be opened now is told when it is asked for.
    let _ = session.refresh();
    if let Some(assistant) = editor.helper_mut() {
        assistant.catalog = session.catalog();
    }
}

/// `PIPE_HISTORY`, else `pipe/history` where the user's state is kept. `None` if that is empty, or nowhere.
fn history_file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if std::env::var_os("PIPE_HISTORY").is_some() {
        return set("PIPE_HISTORY");
    }
    let state = set("XDG_STATE_HOME").filter(|p| p.is_absolute());
    Some(state.or_else(|| Some(set("HOME")?.join(".local/state")))?.join("pipe/history"))
}

/// Adds a statement to the history; it is on disk at once, readable by its owner only.
fn remember(editor: &mut Line, file: Option<&Path>, line: &str) {
    let added = editor.add_history_entry(line.trim_end());
    let (Some(file), Ok(true)) = (file, added) else { return };
    let saved = file.parent().map_or(Ok(()), make_folder).map_err(ReadlineError::from);
    if let Err(e) = saved.and_then(|()| editor.append_history(file)) {
        tracing::warn!("cannot write {}: {e}; PIPE_HISTORY= does without", file.display());
    }
}

fn make_folder(folder: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(folder)
}

/// The text as the user's editor leaves it.
fn edit(text: &str) -> Result<String> {
    let wrong = |e: std::io::Error| Failure::stage("console::edit", format!("cannot edit: {e}"));
    let mut file = tempfile::Builder::new().prefix("pipe-").suffix(".sql").tempfile().map_err(wrong)?;
    writeln!(file, "{text}").map_err(wrong)?;
    let set = |name: &str| std::env::var(name).ok().filter(|v| !v.trim().is_empty());
    let editor = set("VISUAL").or_else(|| set("EDITOR")).unwrap_or_else(|| "vi".to_string());
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let status = std::process::Command::new(program).args(words).arg(file.path()).status();
    let status = status.map_err(|e| Failure::stage("console::edit", format!("cannot start `{program}`: {e}")))?;
    if !status.success() {
        return Err(Failure::stage("console::edit", format!("`{editor}` ended with {status}")));
    }
    Ok(std::fs::read_to_string(file.path()).map_err(wrong)?.trim_end().to_string())
}
