//! DataFusion's errors as diagnostics: what is wrong, where in the SQL, and the nearest valid name.

use std::fmt;
use std::sync::Arc;

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::tokenizer::Span as SqlSpan;

use super::lint::is_file;
use super::session::{CATALOG, SCHEMA};
use crate::diag::{Diagnostic, Exit, Failure, Span, nearest};

/// Errors of pipe's own tables and functions while a query runs, as [`DataFusionError::External`]: those who tell them to
/// others need not read their words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Raised {
    /// A part of a table is not there any more.
    Gone,
    /// One value of a result, or one column of a batch, is larger than it may be: why.
    TooLarge(String),
}

impl Raised {
    /// The one that an error comes from.
    pub fn of(error: &DataFusionError) -> Option<&Raised> {
        match error.find_root() {
            DataFusionError::External(error) => error.downcast_ref(),
            _ => None,
        }
    }
}

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Raised::Gone => f.write_str("a part of the table was removed: `pipe run` makes it again"),
            Raised::TooLarge(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Raised {}

impl From<Raised> for DataFusionError {
    fn from(raised: Raised) -> DataFusionError {
        DataFusionError::External(Box::new(raised))
    }
}

/// Where an SQL text stands.
#[derive(Clone, Debug)]
pub enum Place {
    /// It is a file of its own: positions in the SQL are positions in the file.
    File(Arc<str>),
    /// It is a string in a YAML file, which starts here. How it is quoted and indented is not known, so positions in
    /// the SQL are told in words, unless the text stands there letter by letter.
    Within(Option<Span>),
}

/// A stretch of an SQL text. Lines and columns start at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub line: u32,
    pub column: u32,
    pub len: u32,
}

impl Stretch {
    /// `None` for spans that the parser left empty.
    pub fn of(span: SqlSpan) -> Option<Stretch> {
        let len = if span.start.line == span.end.line { span.end.column.saturating_sub(span.start.column) } else { 0 };
        (span.start.line > 0).then_some(Stretch {
            line: span.start.line as u32,
            column: span.start.column as u32,
            len: len as u32,
        })
    }
}

impl Place {
    /// A diagnostic about a stretch of `text`, which stands here.
    pub fn diagnostic(
        &self,
        text: &str,
        code: &'static str,
        message: impl Into<String>,
        stretch: Option<Stretch>,
    ) -> Diagnostic {
        let message = message.into();
        let Some(Stretch { line, column, len }) = stretch else {
            return Diagnostic::new(code, message).at(self.start());
        };
        match self {
            Place::File(file) => {
                Diagnostic::new(code, message).at(Some(Span { file: file.clone(), line, column, len }))
            }
            Place::Within(Some(at)) if !text.contains('\n') => {
                // Plain, or in quotes; escapes would make it longer.
                let quotes = at.len.checked_sub(text.chars().count() as u32);
                let column = match quotes {
                    Some(0) => at.column + column - 1,
                    Some(2) => at.column + column,
                    _ => return Diagnostic::new(code, message).at(Some(at.clone())),
                };
                Diagnostic::new(code, message).at(Some(Span { column, len, ..at.clone() }))
            }
            Place::Within(at) => {
                let message = format!("{message} (line {line}, column {column} of the SQL)");
                Diagnostic::new(code, message).at(at.clone())
            }
        }
    }

    fn start(&self) -> Option<Span> {
        match self {
            Place::File(file) => Some(Span { file: file.clone(), line: 1, column: 1, len: 0 }),
            Place::Within(at) => at.clone(),
        }
    }
}

/// Names that were valid where an error arose.
#[derive(Clone, Debug, Default)]
pub struct Names {
    pub tables: Vec<String>,
    pub functions: Vec<String>,
}

impl Names {
    /// The nearest table, or a list of them, each once.
    fn tables_like(&self, wrong: &str) -> String {
        if let Some(near) = nearest(wrong, self.tables.iter().map(String::as_str)) {
            return format!("did you mean `{near}`?");
        }
        let has_short = |name: &str| name.rsplit_once('.').is_some_and(|(_, t)| self.tables.iter().any(|n| n == t));
        let once: Vec<String> = self.tables.iter().filter(|name| !has_short(name)).cloned().collect();
        did_you_mean(wrong, &once, "tables")
    }
}

/// The diagnostic for an error from planning `text`.
pub fn planning(error: &DataFusionError, text: &str, place: &Place, names: &Names) -> Diagnostic {
    let stretch = error.diagnostic().and_then(|d| d.span).map(|s| Stretch {
        line: s.start.line as u32,
        column: s.start.column as u32,
        len: if s.start.line == s.end.line { s.end.column.saturating_sub(s.start.column) as u32 } else { 0 },
    });
    match error.find_root() {
        DataFusionError::SchemaError(schema, _) => {
            let (code, message, help) = schema_problem(schema);
            let stretch = stretch.or_else(|| match schema.as_ref() {
                SchemaError::FieldNotFound { field, .. } => find_word(text, &field.name),
                _ => None,
            });
            let mut found = place.diagnostic(text, code, message, stretch);
            found.help = help;
            found
        }
        DataFusionError::SQL(parser, _) => {
            let (message, at) = split_position(&parser.to_string());
            let message = message.trim_start_matches("sql parser error: ").to_string();
            place.diagnostic(text, "sql::syntax", format!("this is not valid SQL: {message}"), at.or(stretch))
        }
        root => {
            let message = plain(&root.strip_backtrace());
            if let Some(table) = quoted_after(&message, "table '") {
                let bare = table.rsplit('.').next().unwrap_or(&table).to_string();
                // A name in quotes may have dots of its own.
                let own = table.strip_prefix(&format!("{CATALOG}.{SCHEMA}."));
                if let Some(file) = own.filter(|own| is_file(own)) {
                    let at = stretch.or_else(|| find_word(text, file));
                    let what = format!("`{file}` is a file: SQL reads tables only");
                    let found = place.diagnostic(text, "sql::unknown_table", what, at);
                    return found.help("an `ingest` stage makes a table of a file");
                }
                let at = stretch.or_else(|| find_word(text, &bare));
                let unnamed = table.rsplit('.').nth(1).is_none_or(|schema| schema == SCHEMA);
                let all = names.tables.iter().map(String::as_str);
                let owners: Vec<&str> =
                    all.filter(|n| unnamed && n.rsplit_once('.').is_some_and(|(_, t)| t == bare)).collect();
                if owners.len() > 1 {
                    let what = format!("several pipelines have a table `{bare}`");
                    let found = place.diagnostic(text, "sql::unknown_table", what, at);
                    return found.help(format!("name one: {}", owners.join(", ")));
                }
                let found = place.diagnostic(text, "sql::unknown_table", format!("there is no table `{bare}`"), at);
                return found.help(names.tables_like(&bare));
            }
            let in_from = message.ends_with("not found").then(|| quoted_after(&message, "table function '"));
            if let Some(function) = quoted_after(&message, "Invalid function '").or(in_from.flatten()) {
                let at = stretch.or_else(|| find_word(text, &function));
                let what = format!("there is no function `{function}`");
                let mut found = place.diagnostic(text, "sql::unknown_function", what, at);
                found.help = nearest(&function, names.functions.iter().map(String::as_str))
                    .map(|n| format!("did you mean `{n}`?"))
                    .or_else(|| Some("`SHOW FUNCTIONS` lists them all".to_string()));
                return found;
            }
            place.diagnostic(text, "sql::plan", message, stretch)
        }
    }
}

/// An error while a query ran.
pub fn running(error: &DataFusionError) -> Failure {
    let root = error.find_root();
    let failure = Failure::stage("sql::run", plain(&root.strip_backtrace()));
    match root {
        DataFusionError::ResourcesExhausted(_) => {
            let help = "the query needs more memory than pipe may use, and cannot spill to disk at this point: filter \
                        or aggregate earlier, or use fewer threads (-j)";
            let diagnostics = failure.diagnostics.into_iter().map(|d| d.help(help)).collect();
            Failure { exit: Exit::Stage, diagnostics }
        }
        _ => failure,
    }
}

fn schema_problem(error: &SchemaError) -> (&'static str, String, Option<String>) {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let valid: Vec<String> = valid_fields.iter().map(|f| f.name.clone()).collect();
            let message = match &field.relation {
                Some(table) => format!("there is no column `{}` in `{}`", field.name, table.table()),
                None => format!("there is no column `{}`", field.name),
            };
            ("sql::unknown_column", message, Some(did_you_mean(&field.name, &valid, "columns")))
        }
        SchemaError::AmbiguousReference { field } => (
            "sql::ambiguous_column",
            format!("`{}` is in several tables", field.name),
            Some(format!("write the table before it: `table.{}`", field.name)),
        ),
        other => (
            "sql::duplicate_column",
            other.to_string(),
            Some("give one of them another name: `... AS name`".to_string()),
        ),
    }
}

/// The nearest valid name, or the list of them.
pub fn did_you_mean(wrong: &str, valid: &[String], what: &str) -> String {
    if let Some(n) = nearest(wrong, valid.iter().map(String::as_str)) {
        return format!("did you mean `{n}`?");
    }
    if valid.is_empty() {
        return format!("there are no {what} here");
    }
    let shown: Vec<_> = valid.iter().take(40).map(String::as_str).collect();
    let more = if valid.len() > shown.len() { ", ..." } else { "" };
    format!("{what}: {}{more}", shown.join(", "))
}

/// Without the prefixes that name DataFusion's variants, and without its advice to file a bug.
fn plain(message: &str) -> String {
    let message = message.split("\nThis issue was likely caused").next().unwrap_or(message);
    let message = message.split("\nThis was likely caused").next().unwrap_or(message);
    ["Error during planning: ", "Execution error: ", "External error: ", "Arrow error: ", "Internal error: "]
        .iter()
        .fold(message, |m, prefix| m.strip_prefix(prefix).unwrap_or(m))
        .trim()
        .to_string()
}

fn quoted_after(message: &str, start: &str) -> Option<String> {
    let rest = message.split_once(start)?.1;
    Some(rest.split_once('\'')?.0.to_string())
}

/// The first place where `word` stands by itself.
pub fn find_word(text: &str, word: &str) -> Option<Stretch> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    for (line, content) in text.lines().enumerate() {
        let lower = content.to_lowercase();
        let wanted = word.to_lowercase();
        for (at, _) in lower.match_indices(&wanted) {
            let before = lower[..at].chars().next_back();
            let after = lower[at + wanted.len()..].chars().next();
            if !before.is_some_and(is_name) && !after.is_some_and(is_name) {
                return Some(Stretch {
                    line: line as u32 + 1,
                    column: lower[..at].chars().count() as u32 + 1,
                    len: word.chars().count() as u32,
                });
            }
        }
    }
    None
}

/// Takes ` at Line: 1, Column: 8` off a message of the parser.
fn split_position(message: &str) -> (String, Option<Stretch>) {
    let Some((head, tail)) = message.rsplit_once(" at Line: ") else { return (message.to_string(), None) };
    let parsed = tail.split_once(", Column: ").and_then(|(line, column)| {
        let column: String = column.chars().take_while(char::is_ascii_digit).collect();
        Some(Stretch { line: line.parse().ok()?, column: column.parse().ok()?, len: 0 })
    });
    match parsed {
        Some(at) => (head.to_string(), Some(at)),
        None => (message.to_string(), None),
    }
}
