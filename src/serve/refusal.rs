//! Why a client does not get what it asked for: one kind per way out, with the codes of every protocol.

use std::fmt;

use datafusion::arrow::error::ArrowError;
use datafusion::error::DataFusionError;

use crate::diag::Failure;
use crate::query::errors::{Names, Place, planning, running};

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

    pub fn hint(mut self, hint: impl Into<String>) -> Refusal {
        self.hint = hint.into();
        self
    }

    /// Of an error from parsing or planning `sql`.
    pub fn planning(error: &DataFusionError, sql: &str, names: &Names) -> Refusal {
        // Planning looks at files already, and computes what is constant.
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
        let reason = failing(error.find_root());
        let message = told(&running(error));
        let hint = match reason {
            Reason::Memory => "filter or aggregate earlier, or ask for fewer columns; the server's limit is `--memory`",
            _ if message.contains("No such file") => "the table was removed while it was read: ask again",
            _ => "",
        };
        Refusal { reason, message, hint: hint.to_string() }
    }
}

/// Whether it was the statement's values, or the server.
fn failing(root: &DataFusionError) -> Reason {
    match root {
        DataFusionError::ResourcesExhausted(_) => Reason::Memory,
        DataFusionError::ArrowError(error, _) => match error.as_ref() {
            ArrowError::DivideByZero => Reason::Value("22012"),
            ArrowError::CastError(what) if !what.contains("string") => Reason::Value("22003"),
            ArrowError::CastError(_) | ArrowError::ParseError(_) => Reason::Value("22P02"),
            ArrowError::ArithmeticOverflow(_) => Reason::Value("22003"),
            _ => Reason::Failed,
        },
        // Said by the table itself.
        DataFusionError::Execution(what) if what.contains("part of the table was removed") => Reason::Failed,
        DataFusionError::Execution(what) if what.contains("would take") => Reason::TooLarge,
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
