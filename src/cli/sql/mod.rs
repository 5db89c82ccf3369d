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

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;

use super::output::{Output, is_stdout};
use super::{Done, Reported, cores, project};
use crate::diag::{self, Diagnostic, Exit, Result, Sources};
use crate::query::output::Format;
use crate::query::{Engine, function_docs};
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
    /// Write the rows to a file, which appears when all went well; `-` for standard output
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

/// How rows are printed into this file, or onto standard output.
fn format(output: Option<&Path>) -> Result<Format> {
    let Some(path) = output else { return Ok(Format::Table) };
    match (Format::of_file(path), path.extension()) {
        (Some(format), _) => Ok(format),
        (None, Some(ending)) if !path.exists() || path.is_file() => {
            let message = format!("no format is known by the ending `.{}`", ending.display());
            let help = "end the name in .csv, .tsv, .json, .jsonl, .md, .txt, .parquet or .arrow, or give --format";
            Err(Diagnostic::new("cli::format", message).help(help).into())
        }
        (None, _) => Ok(Format::Table),
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

pub(super) fn sql(root: Option<PathBuf>, mut args: SqlArgs) -> Done {
    if args.functions {
        for f in function_docs() {
            say!("{}\n    {}\n    {}\n", f.syntax, f.description, f.example);
        }
        return Ok(Exit::Ok);
    }
    args.output = args.output.filter(|path| !is_stdout(path));
    let settings = Settings {
        format: args.format.map_or_else(|| format(args.output.as_deref()), Ok)?,
        expanded: Expanded::Off,
        timing: args.timing,
        all: args.all,
    };
    let interactive = args.query.is_none() && args.file.is_none() && args.watch.is_none();
    let interactive = interactive && std::io::stdin().is_terminal();
    if args.output.is_none() && !interactive {
        settings.format.check_target(std::io::stdout().is_terminal())?;
    }
    let input = Input::of(&args, interactive)?;
    let mut session = Session::open(project(root, Path::new("."))?, args.pipeline.clone(), settings)?;
    let done = match (interactive, args.watch) {
        (true, _) => with_output(&mut session, args.output.as_deref(), false, prompt::interact),
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
        let named = |file: &Path| {
            let unreadable =
                |e: std::io::Error| Diagnostic::new("cli::file", format!("cannot read {}: {e}", file.display()));
            std::fs::read_to_string(file).map_err(|e| crate::diag::Failure::from(unreadable(e)))
        };
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
    let ends_on_interrupt = args.watch.is_none() && matches!(input, Input::Query(_));
    with_output(session, args.output.as_deref(), ends_on_interrupt, |session| {
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

/// Does something whose results go to `path`, a file that takes its name if all went well. `ends_on_interrupt`: Ctrl-C is
/// not heard by what is done.
fn with_output(
    session: &mut Session,
    path: Option<&Path>,
    ends_on_interrupt: bool,
    run: impl FnOnce(&mut Session) -> Done,
) -> Done {
    let Some(path) = path else { return run(session) };
    let output = Output::new(path)?;
    if ends_on_interrupt {
        output.remove_on_interrupt();
    }
    session.target = Target::file(path, output.file()?);
    let exit = run(session)?;
    session.target.end()?;
    session.target = Target::stdout();
    if exit == Exit::Ok {
        output.done()?;
    }
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_name_formats() {
        let of = |name: &str| format(Some(Path::new(name))).ok();
        assert_eq!(of("a.CSV"), Some(Format::Csv));
        assert_eq!(of("a.b.parquet"), Some(Format::Parquet));
        assert_eq!(
            (of("a.txt"), of("a"), of("/dev/null")),
            (Some(Format::Table), Some(Format::Table), Some(Format::Table))
        );
        assert_eq!(of("a.parqet"), None);
        assert_eq!(format(None).ok(), Some(Format::Table));
    }
}
