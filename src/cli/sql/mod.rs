//! `pipe sql`: one query, a script, or a console.
//!
//! ```text
//! split.rs    statements and commands of a text      session.rs  runs a statement; settings; tables anew
//! command.rs  what follows a backslash               script.rs   runs what was read, from wherever
//! complete.rs what Tab offers                        describe.rs \d and its kin
//! display.rs  rows on a terminal                     target.rs   standard output, or a file
//! prompt.rs   the line editor, history
//! ```

mod command;
mod complete;
mod describe;
mod display;
mod prompt;
mod script;
mod session;
mod split;
mod target;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::{Done, Reported, cores, project};
use crate::diag::{self, Exit, Result, Sources};
use crate::query::{Engine, function_docs, output};
use crate::store::Store;
use command::Expanded;
use script::Rules;
use session::{Session, Settings};
use target::Target;

#[derive(Args, Debug)]
pub struct SqlArgs {
    /// The query. Without one: a console on a terminal, else the statements on standard input
    #[arg(conflicts_with = "file")]
    query: Option<String>,
    /// Run the statements and commands of a file; `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How to print the rows. Default: table, or what the name given to --output ends in
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write the rows to a file, which appears when all went well
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Tables without a pipeline's name are those of this pipeline
    #[arg(short, long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Run again and again, so many seconds apart, over the tables as they are then; Ctrl-C ends it
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    watch: Option<f64>,
    /// Say how long each statement took
    #[arg(long)]
    timing: bool,
    /// All rows on a terminal, not only the first and last 20
    #[arg(long)]
    all: bool,
    /// Run the rest of a script after an error; the exit code is that of the first
    #[arg(long)]
    keep_going: bool,
    /// List pipe's own SQL functions
    #[arg(long)]
    functions: bool,
}

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table for reading
    Table,
    /// CSV with a header
    Csv,
    /// CSV with tabs
    Tsv,
    /// A JSON array, one object per line
    Json,
    /// One JSON object per line, without an array
    Jsonl,
    /// A table of GitHub's Markdown
    Markdown,
    /// A line per column
    Vertical,
    /// A Parquet file
    Parquet,
    /// An Arrow IPC stream
    Arrow,
}

impl From<Format> for output::Format {
    fn from(f: Format) -> Self {
        match f {
            Format::Table => output::Format::Table,
            Format::Csv => output::Format::Csv,
            Format::Tsv => output::Format::Tsv,
            Format::Json => output::Format::Json,
            Format::Jsonl => output::Format::Jsonl,
            Format::Markdown => output::Format::Markdown,
            Format::Vertical => output::Format::Vertical,
            Format::Parquet => output::Format::Parquet,
            Format::Arrow => output::Format::Arrow,
        }
    }
}

impl Format {
    /// As written on the command line.
    fn name(self) -> String {
        self.to_possible_value().map_or(String::new(), |v| v.get_name().to_string())
    }

    /// That of files whose names end so.
    fn of_file(path: &Path) -> Option<Format> {
        match path.extension()?.to_str()?.to_lowercase().as_str() {
            "csv" => Some(Format::Csv),
            "tsv" | "tab" => Some(Format::Tsv),
            "json" => Some(Format::Json),
            "jsonl" | "ndjson" => Some(Format::Jsonl),
            "md" | "markdown" => Some(Format::Markdown),
            "parquet" => Some(Format::Parquet),
            "arrow" | "arrows" => Some(Format::Arrow),
            _ => None,
        }
    }
}

/// A time between runs: from a millisecond on.
fn seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.001..=1e9).contains(&s) => Ok(s),
        _ => Err(format!("`{text}` is not a number of seconds from 0.001 on")),
    }
}

/// An engine over everything that is published.
pub(super) async fn engine(root: Option<PathBuf>, pipeline: Option<&str>) -> Result<Engine> {
    open(&project(root, Path::new("."))?, pipeline).await
}

async fn open(project: &Path, pipeline: Option<&str>) -> Result<Engine> {
    let store = Store::open(project)?;
    let mut tables = Vec::new();
    for published in store.published() {
        let handle = store.published_handle(&published)?;
        tables.push((published.pipeline, handle));
    }
    Engine::open(project, tables, pipeline, cores()).await
}

pub(super) fn sql(root: Option<PathBuf>, args: SqlArgs) -> Done {
    if args.functions {
        for f in function_docs() {
            say!("{}\n    {}\n    {}\n", f.syntax, f.description, f.example);
        }
        return Ok(Exit::Ok);
    }
    let settings = Settings {
        format: args.format.or_else(|| Format::of_file(args.output.as_deref()?)).unwrap_or(Format::Table),
        expanded: Expanded::Off,
        timing: args.timing,
        all: args.all,
    };
    let interactive = args.query.is_none() && args.file.is_none() && args.watch.is_none();
    let interactive = interactive && std::io::stdin().is_terminal();
    if args.output.is_none() && !interactive {
        output::Format::from(settings.format).check_target(std::io::stdout().is_terminal())?;
    }
    let input = Input::of(&args, interactive)?;
    let mut session = Session::open(project(root, Path::new("."))?, args.pipeline.clone(), settings)?;
    let done = match (interactive, args.watch) {
        (true, _) => with_output(&mut session, args.output.as_deref(), prompt::interact),
        (_, Some(seconds)) => {
            let once = |s: &mut Session| round(s, &input, &args).map(drop);
            session.watch(seconds, once, |e: &Reported| e.failure.exit == Exit::Interrupted).map(|()| Exit::Ok)
        }
        _ => round(&mut session, &input, &args),
    };
    session.close();
    done
}

/// What is run.
enum Input {
    Query(String),
    /// A script that was read already, because it runs again, and its name.
    Text(String, String),
    Stdin,
}

impl Input {
    fn of(args: &SqlArgs, interactive: bool) -> Result<Input> {
        let named = |file: &Path| std::fs::read_to_string(file).map_err(|e| diag::io(file, "read", &e));
        match (&args.query, &args.file) {
            (Some(query), _) => Ok(Input::Query(query.clone())),
            (None, Some(file)) if file.as_os_str() != "-" => Ok(Input::Text(file.display().to_string(), named(file)?)),
            _ if args.watch.is_some() && !interactive => {
                let text = std::io::read_to_string(std::io::stdin());
                Ok(Input::Text("<stdin>".to_string(), text.map_err(|e| diag::io(Path::new("<stdin>"), "read", &e))?))
            }
            _ => Ok(Input::Stdin),
        }
    }
}

/// Everything once.
fn round(session: &mut Session, input: &Input, args: &SqlArgs) -> Done {
    with_output(session, args.output.as_deref(), |session| {
        let mut rules = Rules::new(args.keep_going);
        match input {
            Input::Query(query) => session.run(query).map_err(|failure| {
                let sources = Sources([("<sql>".into(), query.as_str().into())].into());
                Reported { failure, sources }
            })?,
            Input::Text(name, text) => drop(script::read(session, name, text.as_bytes(), &mut rules)?),
            Input::Stdin => drop(script::read(session, "<stdin>", std::io::stdin().lock(), &mut rules)?),
        }
        Ok(rules.failed.unwrap_or(Exit::Ok))
    })
}

/// Does something whose results go to `path`: into a file beside it, which takes its name if all went well.
fn with_output(session: &mut Session, path: Option<&Path>, run: impl FnOnce(&mut Session) -> Done) -> Done {
    let Some(path) = path else { return run(session) };
    let wrong = |e: &std::io::Error| diag::io(path, "write", e);
    // What is there and no file, a device or a pipe, is written to.
    if path.metadata().is_ok_and(|m| !m.is_file()) {
        session.target = Target::create(path)?;
        return run(session);
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".pipe-sql-");
    // As a file that is made the usual way: whether others may read it is for the umask to say.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let temporary = builder.tempfile_in(folder).map_err(|e| wrong(&e))?;
    session.target = Target::file(path, temporary.reopen().map_err(|e| wrong(&e))?);
    let exit = run(session)?;
    session.target.flush().map_err(|e| wrong(&e))?;
    session.target = Target::stdout();
    if exit == Exit::Ok {
        temporary.persist(path).map_err(|e| Reported::bare(wrong(&e.error)))?;
    }
    Ok(exit)
}
