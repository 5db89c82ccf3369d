//! Runs statements and commands, from a line of the console, a file, or standard input.

use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;

use super::command::{COMMANDS, Command, Setting, expanded, format, switch};
use super::describe;
use super::session::Session;
use super::split::{Piece, Splitter, Statement};
use super::target::Target;
use crate::cli::{Reported, colour};
use crate::diag::{self, Diagnostic, Exit, Failure, Result, Sources, Span};

/// What is read from the terminal, in messages.
const TYPED: &str = "<sql>";
/// Files that include each other at most.
const MAX_DEPTH: usize = 16;

/// What comes after a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Next,
    Edit,
    Quit,
}

/// How scripts run.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Go on after an error.
    pub keep_going: bool,
    /// How deep files include each other here.
    pub depth: usize,
    /// Whether the last error that was told asks for this exit code in the end.
    pub failed: Option<Exit>,
}

impl Rules {
    pub fn new(keep_going: bool) -> Self {
        Rules { keep_going, depth: 0, failed: None }
    }
}

/// What was read so far of a file, and its name in messages.
struct Source {
    name: Arc<str>,
    text: String,
}

impl Source {
    /// The failure with its places in this source rather than in the statement.
    fn place(&self, failure: Failure, at: (u32, u32)) -> Reported {
        let (line, column) = at;
        let diagnostics = failure.diagnostics.into_iter().map(|mut d| {
            d.at = Some(match d.at {
                Some(span) if &*span.file == "<sql>" => Span {
                    file: self.name.clone(),
                    column: if span.line == 1 { span.column + column - 1 } else { span.column },
                    line: span.line + line - 1,
                    len: span.len,
                },
                Some(span) => span,
                // Of what was typed just now, it is plain where it begins.
                None if &*self.name == "<sql>" => return d,
                None => Span { file: self.name.clone(), line, column, len: 0 },
            });
            d
        });
        let failure = Failure { exit: failure.exit, diagnostics: diagnostics.collect() };
        Reported { failure, sources: Sources([(self.name.clone(), self.text.as_str().into())].into()) }
    }
}

/// Runs everything in `text`, which the user has typed.
///
/// # Errors
/// The first; what comes after it is not run.
pub fn typed(session: &mut Session, text: &str) -> std::result::Result<Flow, Reported> {
    let mut rules = Rules::new(false);
    read(session, TYPED, text.as_bytes(), &mut rules)
}

/// Runs a script line by line: each statement as soon as it ends.
///
/// # Errors
/// The first, unless `rules` say to go on; then each is told, and its exit code noted.
pub fn read(
    session: &mut Session,
    name: &str,
    mut input: impl BufRead,
    rules: &mut Rules,
) -> std::result::Result<Flow, Reported> {
    let mut source = Source { name: name.into(), text: String::new() };
    let mut splitter = Splitter::default();
    loop {
        let mut line = Vec::new();
        let read = input.read_until(b'\n', &mut line).map_err(|e| diag::io(Path::new(name), "read", &e))?;
        let Ok(line) = String::from_utf8(line) else {
            let at =
                Span { file: source.name.clone(), line: source.text.lines().count() as u32 + 1, column: 1, len: 0 };
            return Err(
                Failure::from(Diagnostic::new("console::utf8", "this line is not text in UTF-8").at(Some(at))).into()
            );
        };
        source.text.push_str(&line);
        let pieces = match read {
            0 => splitter.finish().map(Piece::Statement).into_iter().collect(),
            _ => splitter.line(&line),
        };
        for piece in pieces {
            match run(session, &source, piece, rules) {
                Ok(Flow::Next) => {}
                Ok(flow) => return Ok(flow),
                Err(reported) if !rules.keep_going || reported.failure.exit == Exit::Interrupted => {
                    return Err(reported);
                }
                Err(reported) => {
                    tell!("{}", text_of(&reported));
                    rules.failed.get_or_insert(reported.failure.exit);
                }
            }
            if session.target.is_closed() {
                return Ok(Flow::Quit);
            }
        }
        if read == 0 {
            return Ok(Flow::Next);
        }
    }
}

/// A failure as the console shows it.
pub fn text_of(reported: &Reported) -> String {
    match reported.failure.exit {
        Exit::Interrupted => "interrupted".to_string(),
        _ => diag::render(&reported.failure, &reported.sources, colour()).trim_end().to_string(),
    }
}

fn run(session: &mut Session, source: &Source, piece: Piece, rules: &mut Rules) -> std::result::Result<Flow, Reported> {
    let of = |s: &Statement, failure: Failure| source.place(failure, (s.line, s.column));
    match piece {
        Piece::Statement(statement) => session.run(&statement.text).map_err(|f| of(&statement, f)).map(|()| Flow::Next),
        Piece::Command { text, statement, line, column } => {
            let here = |failure: Failure| source.place(failure, (line, column));
            match Command::parse(&text).map_err(here)? {
                Command::Include(file) => include(session, &file, rules, here),
                command @ (Command::Go | Command::Watch(_)) => {
                    let sql = match (&statement, &session.last) {
                        (Some(statement), _) => statement.text.clone(),
                        (None, Some(last)) => last.clone(),
                        (None, None) => {
                            let problem = Diagnostic::new("console::nothing", "there is no statement to run");
                            return Err(here(problem.help("write it before the command").into()));
                        }
                    };
                    let done = match command {
                        Command::Watch(seconds) => {
                            let interrupt = |f: &Failure| f.exit == Exit::Interrupted;
                            session.watch(seconds, |s| s.run(&sql), interrupt)
                        }
                        _ => session.run(&sql),
                    };
                    done.map(|()| Flow::Next).map_err(|f| match &statement {
                        Some(statement) => of(statement, f),
                        None => {
                            Reported { failure: f, sources: Sources([("<sql>".into(), sql.as_str().into())].into()) }
                        }
                    })
                }
                Command::Edit if &*source.name != TYPED => {
                    let problem = Diagnostic::new("console::terminal", "`\\e` needs a terminal");
                    Err(here(problem.help("leave it out: here, what is read is run").into()))
                }
                command => execute(session, command).map_err(here),
            }
        }
    }
}

fn include(
    session: &mut Session,
    file: &Path,
    rules: &mut Rules,
    here: impl Fn(Failure) -> Reported,
) -> std::result::Result<Flow, Reported> {
    if rules.depth == MAX_DEPTH {
        let what = format!("files include each other more than {MAX_DEPTH} deep");
        return Err(here(Diagnostic::new("console::depth", what).into()));
    }
    let open = std::fs::File::open(file).map_err(|e| {
        let problem = Diagnostic::new("console::file", format!("cannot open {}: {e}", file.display()));
        here(problem.into())
    })?;
    rules.depth += 1;
    let done = read(session, &file.display().to_string(), std::io::BufReader::new(open), rules);
    rules.depth -= 1;
    // `\q` in a file ends the file.
    done.map(|flow| if flow == Flow::Quit && !session.target.is_closed() { Flow::Next } else { flow })
}

fn print(session: &mut Session, text: &str) -> Result<()> {
    let _ = session.target.write_all(text.as_bytes());
    session.target.end()
}

fn on(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}

/// A command that concerns no statement.
fn execute(session: &mut Session, command: Command) -> Result<Flow> {
    match command {
        Command::Quit => return Ok(Flow::Quit),
        Command::Edit => return Ok(Flow::Edit),
        Command::Help => print(session, &help())?,
        Command::Describe(_) | Command::Tables(_) | Command::Views(_) | Command::Pipelines(_) => {
            session.refresh()?;
            let text = match &command {
                Command::Describe(Some(name)) => describe::describe(session, name)?,
                Command::Tables(pattern) => describe::list_tables(session, pattern.as_deref())?,
                Command::Views(pattern) => describe::list_views(session, pattern.as_deref()),
                Command::Pipelines(pattern) => describe::list_pipelines(session, pattern.as_deref())?,
                _ => describe::list(session, None)?,
            };
            print(session, &text)?;
        }
        Command::Functions(pattern) => {
            let text = describe::functions(session, pattern.as_deref());
            print(session, &text)?;
        }
        Command::Timing(value) => set(session, Setting::Timing, value.map(on))?,
        Command::Expanded(value) => {
            session.settings.expanded = value.unwrap_or(match session.settings.expanded {
                super::command::Expanded::Off => super::command::Expanded::On,
                _ => super::command::Expanded::Off,
            });
            set(session, Setting::Expanded, None)?;
        }
        Command::Format(value) => {
            session.settings.format = value.unwrap_or(session.settings.format);
            tell!("{}", setting(session, Setting::Format));
        }
        Command::Set(None) => {
            let lines: Vec<String> = Setting::ALL.iter().map(|(_, s)| setting(session, *s)).collect();
            print(session, &(lines.join("\n") + "\n"))?;
        }
        Command::Set(Some((Setting::Expanded, None))) => {
            execute(session, Command::Expanded(None))?;
        }
        Command::Set(Some((setting, value))) => set(session, setting, value.as_deref())?,
        Command::Output(None) => {
            session.target.end()?;
            session.target = Target::stdout();
        }
        Command::Output(Some(file)) => {
            session.target.end()?;
            session.target = Target::create(&file)?;
        }
        Command::Connect(pipeline) => {
            session.connect(pipeline)?;
            match &session.pipeline {
                Some(name) => tell!("tables without a pipeline's name are those of {name}"),
                None => tell!("no pipeline is chosen: tables of one name in several need the pipeline's"),
            }
        }
        Command::Reset | Command::Include(_) | Command::Watch(_) | Command::Go => {}
    }
    Ok(Flow::Next)
}

/// Sets a value, or switches it over where none is given; and says what it is now.
fn set(session: &mut Session, which: Setting, value: Option<&str>) -> Result<()> {
    let settings = &mut session.settings;
    match (which, value) {
        (Setting::Format, Some(v)) => settings.format = format("pset", v)?,
        (Setting::Expanded, Some(v)) => settings.expanded = expanded("pset", v)?,
        (Setting::Format | Setting::Expanded, None) => {}
        (Setting::All, v) => settings.all = v.map_or(Ok(!settings.all), |v| switch("pset", v))?,
        (Setting::Timing, v) => settings.timing = v.map_or(Ok(!settings.timing), |v| switch("pset", v))?,
    }
    tell!("{}", setting(session, which));
    Ok(())
}

fn setting(session: &Session, which: Setting) -> String {
    use super::command::Expanded;
    let settings = &session.settings;
    match which {
        Setting::Format => format!("format is {}", settings.format.name()),
        Setting::Expanded => format!(
            "expanded is {}",
            match settings.expanded {
                Expanded::Off => "off",
                Expanded::On => "on",
                Expanded::Auto => "auto",
            }
        ),
        Setting::All => format!("all is {}", on(settings.all)),
        Setting::Timing => format!("timing is {}", on(settings.timing)),
    }
}

fn help() -> String {
    let rows: Vec<Vec<String>> = COMMANDS
        .iter()
        .map(|(name, args, does)| vec![format!("\\{name} {args}").trim_end().to_string(), does.to_string()])
        .collect();
    "Statements are SQL and end with `;`. Tab completes names, Ctrl-C clears the line or stops the query.\n\n"
        .to_string()
        + &crate::cli::table(&["command", ""], &rows)
}
