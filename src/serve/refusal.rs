//! Why a client does not get what it asked for: one kind per way out, with the codes of every protocol.

use std::fmt;

use datafusion::arrow::error::ArrowError;
use datafusion::error::DataFusionError;

use super::Wire;
use crate::diag::Failure;
use crate::query::errors::{Names, Place, Raised, planning, running};
use crate::store::Store;

/// Characters of a message in the log.
const LOGGED: usize = 1_000;

/// What stands between a client and its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The SQL is not valid.
    Syntax,
    UnknownTable,
    UnknownColumn,
    UnknownFunction,
    /// Valid SQL that cannot be planned: types that do not fit, a parameter without a value.
    Query,
    /// A value that a function or type does not take, with its SQLSTATE: text that is no number, a division by zero.
    Value(&'static str),
    /// The statement would change something, or read what is not a table.
    ReadOnly,
    /// Who asks has not said who they are, or wrongly.
    Access,
    /// The statement took longer than statements may.
    Timeout,
    /// The client took its rows too slowly.
    Idle,
    /// More statements at once than are allowed, and none ended in time.
    Busy,
    Memory,
    /// The result, or one value of it, is larger than it may be.
    TooLarge,
    /// The client, or the end of the server, stopped it.
    Cancelled,
    /// What the query needs is not supported by this protocol.
    Unsupported,
    /// It failed while it ran: a part that is gone.
    Failed,
}

impl Reason {
    /// The five characters that PostgreSQL's clients know (appendix A of its manual).
    pub fn sqlstate(self) -> &'static str {
        match self {
            Reason::Syntax => "42601",
            Reason::UnknownTable => "42P01",
            Reason::UnknownColumn => "42703",
            Reason::UnknownFunction => "42883",
            Reason::Query => "42804",
            Reason::Value(code) => code,
            Reason::ReadOnly => "25006",
            Reason::Access => "28000",
            Reason::Timeout | Reason::Cancelled => "57014",
            Reason::Idle => "57P05",
            Reason::Busy => "53300",
            Reason::Memory => "53200",
            Reason::TooLarge => "54000",
            Reason::Unsupported => "0A000",
            Reason::Failed => "XX000",
        }
    }

    /// The status of an HTTP answer.
    pub fn http_status(self) -> u16 {
        match self {
            Reason::Syntax
            | Reason::UnknownTable
            | Reason::UnknownColumn
            | Reason::UnknownFunction
            | Reason::Query
            | Reason::Value(_)
            | Reason::Unsupported => 400,
            Reason::Access => 401,
            Reason::ReadOnly => 403,
            // Not 408: browsers take that for a connection that fell asleep, and send the statement once more.
            Reason::Timeout | Reason::Idle => 504,
            Reason::TooLarge => 413,
            Reason::Busy | Reason::Memory | Reason::Cancelled => 503,
            Reason::Failed => 500,
        }
    }

    /// As a label of metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Syntax => "syntax",
            Reason::UnknownTable => "unknown_table",
            Reason::UnknownColumn => "unknown_column",
            Reason::UnknownFunction => "unknown_function",
            Reason::Query => "query",
            Reason::Value(_) => "value",
            Reason::ReadOnly => "read_only",
            Reason::Access => "access",
            Reason::Timeout => "timeout",
            Reason::Idle => "idle",
            Reason::Busy => "busy",
            Reason::Memory => "memory",
            Reason::TooLarge => "too_large",
            Reason::Cancelled => "cancelled",
            Reason::Unsupported => "unsupported",
            Reason::Failed => "failed",
        }
    }
}

/// A reason, and what the client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    /// One line, or a few.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

impl Refusal {
    pub fn new(reason: Reason, message: impl Into<String>) -> Refusal {
        Refusal { reason, message: message.into(), hint: String::new() }
    }

    /// Of something that would change what is served.
    pub fn read_only(what: &str) -> Refusal {
        Refusal::new(Reason::ReadOnly, format!("{what} is not possible here: pipe serve is read-only"))
            .hint("use SELECT, EXPLAIN, SHOW or DESCRIBE; tables are made by `pipe run`")
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Refusal {
        self.hint = hint.into();
        self
    }

    /// Without the paths of this machine.
    pub fn discreet(mut self, store: &Store) -> Refusal {
        self.message = discreet(&self.message, store);
        self.hint = discreet(&self.hint, store);
        self
    }

    /// One line in the log, whatever names the client made up.
    pub fn log(&self, wire: Wire) {
        tracing::info!("{}: {}: {}", wire.name(), self.reason.name(), one_line(&self.message));
    }

    /// Of an error from parsing or planning `sql`.
    pub fn planning(error: &DataFusionError, sql: &str, names: &Names) -> Refusal {
        // Planning looks at files already, and computes what is constant.
        if Raised::of(error).is_some() {
            return Refusal::running(error);
        }
        if let DataFusionError::ResourcesExhausted(_)
        | DataFusionError::Execution(_)
        | DataFusionError::IoError(_)
        | DataFusionError::ObjectStore(_)
        | DataFusionError::ParquetError(_)
        | DataFusionError::ArrowError(..) = error.find_root()
        {
            return Refusal::running(error);
        }
        let found = planning(error, sql, &Place::File("sql".into()), names);
        let reason = match found.code {
            "sql::syntax" => Reason::Syntax,
            "sql::unknown_table" => Reason::UnknownTable,
            "sql::unknown_column" => Reason::UnknownColumn,
            "sql::unknown_function" => Reason::UnknownFunction,
            _ => Reason::Query,
        };
        let message = match &found.at {
            Some(at) if at.line > 1 || at.column > 1 => {
                format!("{} (line {}, column {})", found.message, at.line, at.column)
            }
            _ => found.message,
        };
        Refusal { reason, message, hint: found.help.unwrap_or_default() }
    }

    /// Of an error while a query ran.
    pub fn running(error: &DataFusionError) -> Refusal {
        let reason = failing(error);
        let message = told(&running(error));
        let hint = match reason {
            Reason::Memory => "filter or aggregate earlier, or ask for fewer columns; the server's limit is `--memory`",
            _ if message.contains("No such file") => "the table was removed while it was read: ask again",
            _ => "",
        };
        Refusal { reason, message, hint: hint.to_string() }
    }
}

/// A text of a client in the log: what would begin a line, or be no text, is written out.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for (i, c) in text.chars().enumerate() {
        match c {
            _ if i == LOGGED => {
                line.push_str("...");
                break;
            }
            '\\' | '\'' | '"' => line.push(c),
            c => line.extend(c.escape_debug()),
        }
    }
    line
}

/// A text without the paths of the project and its store.
pub fn discreet(text: &str, store: &Store) -> String {
    let named = [(store.root(), "the store"), (store.project(), "the project")];
    named
        .into_iter()
        .fold(text.to_string(), |text, (path, name)| without_path(&text, &path.display().to_string(), name))
}

/// A text with a name in place of a path of this machine, also where that stands without its first `/`. Longer words that
/// the path is a part of are left alone.
fn without_path(text: &str, path: &str, name: &str) -> String {
    let bare = path.trim_start_matches('/');
    // One folder alone is a word like any other.
    let bare = if bare.contains('/') { bare } else { path };
    if bare.len() < 2 {
        return text.to_string();
    }
    let (mut out, mut from) = (String::new(), 0);
    for (at, _) in text.match_indices(bare) {
        let (before, after) = (&text[from..at], &text[at + bare.len()..]);
        let of_word = |c: char| c.is_alphanumeric() || "_-".contains(c);
        let start = if bare == path { before } else { before.strip_suffix('/').unwrap_or(before) };
        let within = start.ends_with(|c: char| of_word(c) || c == '.');
        let goes_on = after.trim_start_matches('.').starts_with(of_word);
        if within || goes_on {
            continue;
        }
        out.push_str(start);
        out.push_str(name);
        from = at + bare.len();
    }
    out + &text[from..]
}

/// Whether it was the statement's values, or the server.
fn failing(error: &DataFusionError) -> Reason {
    match Raised::of(error) {
        Some(Raised::Gone) => return Reason::Failed,
        Some(Raised::TooLarge(_)) => return Reason::TooLarge,
        None => {}
    }
    match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => Reason::Memory,
        DataFusionError::ArrowError(error, _) => match error.as_ref() {
            ArrowError::DivideByZero => Reason::Value("22012"),
            ArrowError::CastError(what) if !what.contains("string") => Reason::Value("22003"),
            ArrowError::CastError(_) | ArrowError::ParseError(_) => Reason::Value("22P02"),
            ArrowError::ArithmeticOverflow(_) => Reason::Value("22003"),
            _ => Reason::Failed,
        },
        // The engine has no kind of its own for it.
        DataFusionError::Execution(what) if what.contains("Placeholder") => Reason::Value("42P02"),
        DataFusionError::Execution(_) => Reason::Value("22023"),
        _ => Reason::Failed,
    }
}

/// The messages of a failure, without places and advice.
fn told(failure: &Failure) -> String {
    failure.diagnostics.iter().map(|d| d.message.as_str()).collect::<Vec<_>>().join("; ")
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, " ({})", self.hint) }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_not_told() {
        let cases = [
            ("cannot read /srv/data/x", "cannot read the project/x"),
            ("in `/srv/data`", "in `the project`"),
            ("it is /srv/data.", "it is the project."),
            ("file:///srv/data/x", "file://the project/x"),
            ("/srv/data/x and /srv/data/y", "the project/x and the project/y"),
            ("/srv/database/x", "/srv/database/x"),
            ("/srv/data.old", "/srv/data.old"),
            ("a/srv/data", "a/srv/data"),
            ("no data", "no data"),
        ];
        for (text, expected) in cases {
            assert_eq!(without_path(text, "/srv/data", "the project"), expected);
        }
        assert_eq!(without_path("any data", "", "the project"), "any data");
    }

    #[test]
    fn a_table_is_listed_once() {
        let names = Names { tables: vec!["b".into(), "p.a".into(), "p.b".into()], functions: vec![] };
        let error = DataFusionError::Plan("table 'pipe.public.something' not found".into());
        let refusal = Refusal::planning(&error, "SELECT * FROM something", &names);
        assert_eq!((refusal.reason, refusal.hint.as_str()), (Reason::UnknownTable, "tables: b, p.a"));
    }

    #[test]
    fn a_line_of_the_log_is_one() {
        assert_eq!(one_line("there is no table `a\n WARN b\u{1b}[31m\u{2028}`"), {
            "there is no table `a\\n WARN b\\u{1b}[31m\\u{2028}`"
        });
        assert_eq!(one_line("it's \"ä\""), "it's \"ä\"");
        assert_eq!(one_line(&"x".repeat(5_000)).len(), LOGGED + 3);
    }
}
