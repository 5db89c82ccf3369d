//! Statements of clients, sorted into what is done with each. What only reads is run; the statements around it (transactions,
//! cursors, settings) do what clients count on; everything else is refused.

use datafusion::sql::parser::Statement as AnyStatement;
use datafusion::sql::sqlparser::ast::{
    CloseCursor, ContextModifier, CopyLegacyCsvOption, CopyLegacyOption, CopyOption, CopySource, CopyTarget,
    DeclareType, Expr, FetchDirection, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Reset, SelectItem, Set,
    SetExpr, Statement, Value, ValueWithSpan,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use super::fault::Fault;
use crate::query::is_query;
use crate::serve::changes::changed;
use crate::serve::depth;
use crate::serve::refusal::{Reason, Refusal};
use crate::serve::service::Service;

/// Nesting of expressions and subqueries in a statement.
const DEPTH: usize = 64;

/// What to do.
#[derive(Clone, Debug)]
pub enum Command {
    /// Runs, and has rows.
    Query(Box<Statement>),
    Begin,
    Commit,
    Rollback,
    /// `SAVEPOINT`, `RELEASE`, and `ROLLBACK TO`, with their tags.
    Savepoint(&'static str),
    Set {
        name: String,
        value: Option<String>,
        /// Until the transaction ends.
        local: bool,
    },
    /// `RESET ALL`.
    ResetAll,
    Show(String),
    Declare {
        name: String,
        query: Box<Statement>,
        binary: bool,
        hold: bool,
    },
    /// The rows to go on by; `None` is all. `MOVE` is not among what the parser knows.
    Fetch {
        name: String,
        rows: Option<usize>,
    },
    /// `None` is all of them.
    Close(Option<String>),
    Deallocate(Option<String>),
    Discard,
    Copy {
        query: Box<Statement>,
        format: CopyFormat,
    },
    /// What needs no doing here, with its tag.
    Nothing(&'static str),
}

/// How `COPY` writes rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyFormat {
    Binary,
    Text { delimiter: char, null: String, header: bool },
    Csv { delimiter: char, null: String, header: bool, quote: char },
}

impl Command {
    /// Whether it can be run in a transaction that failed.
    pub fn ends_transaction(&self) -> bool {
        matches!(self, Command::Commit | Command::Rollback | Command::Savepoint("ROLLBACK"))
    }

    /// The word that follows its rows, if it has some.
    pub fn tag(&self) -> &'static str {
        match self {
            Command::Query(statement) => match statement.as_ref() {
                Statement::Explain { .. } | Statement::ExplainTable { .. } => "EXPLAIN",
                _ => "SELECT",
            },
            Command::Show(_) => "SHOW",
            _ => "SELECT",
        }
    }
}

/// Reads all statements of a request.
///
/// # Errors
/// Syntax, of any of them.
pub fn parse(sql: &str) -> Result<Vec<Statement>, Fault> {
    let dialect = PostgreSqlDialect {};
    let wrong = |message: String| {
        let message = message.trim_start_matches("sql parser error: ").to_string();
        Fault::from(Refusal::new(Reason::Syntax, format!("this is not valid SQL: {message}")))
    };
    let tokens = Tokenizer::new(&dialect, sql).tokenize_with_location().map_err(|e| wrong(e.to_string()))?;
    if let Some(message) = depth::too_deep(tokens.iter().map(|t| &t.token)) {
        return Err(Fault::new("54001", message).hint(depth::HINT));
    }
    let first = tokens.iter().find_map(|t| match &t.token {
        Token::Word(w) => Some(w.value.to_uppercase()),
        _ => None,
    });
    let parser = Parser::new(&dialect).with_recursion_limit(DEPTH).with_tokens_with_locations(tokens);
    let mut parser = parser;
    let statements = parser.parse_statements().map_err(|e| match first {
        Some(first) if writes(&first) => read_only(&first),
        _ => wrong(e.to_string()),
    })?;
    match statements.iter().find_map(depth::too_wide) {
        Some(message) => Err(Fault::new("54001", message)),
        None => Ok(statements),
    }
}

/// Words that begin statements which change something, in a dialect that the parser may not know.
fn writes(first: &str) -> bool {
    const WORDS: &[&str] = &[
        "INSERT", "UPDATE", "DELETE", "MERGE", "CREATE", "ALTER", "DROP", "TRUNCATE", "COPY", "GRANT", "REVOKE",
        "VACUUM", "ANALYZE", "CLUSTER", "REINDEX", "REFRESH", "LOCK", "CALL", "DO", "IMPORT", "SECURITY", "COMMENT",
        "LOAD",
    ];
    WORDS.contains(&first)
}

fn read_only(what: &str) -> Fault {
    let message = format!("{what} is not possible here: pipe serve is read-only");
    let refusal = Refusal::new(Reason::ReadOnly, message);
    refusal.hint("use SELECT, EXPLAIN or SHOW; tables are made by `pipe run`").into()
}

/// What to do with a statement.
///
/// # Errors
/// It would change something, or is not supported.
pub fn of(statement: Statement) -> Result<Command, Fault> {
    Ok(match statement {
        Statement::ShowVariable { variable } => {
            Command::Show(setting(&variable.iter().map(|i| i.value.clone()).collect::<Vec<_>>()))
        }
        Statement::StartTransaction { .. } => Command::Begin,
        Statement::Commit { .. } => Command::Commit,
        Statement::Rollback { savepoint: None, .. } => Command::Rollback,
        Statement::Rollback { savepoint: Some(_), .. } => Command::Savepoint("ROLLBACK"),
        Statement::Savepoint { .. } => Command::Savepoint("SAVEPOINT"),
        Statement::ReleaseSavepoint { .. } => Command::Savepoint("RELEASE"),
        Statement::Set(set) => assignment(set)?,
        Statement::Reset(reset) => match reset.reset {
            Reset::ALL => Command::ResetAll,
            Reset::ConfigurationParameter(name) => Command::Set { name: name.to_string(), value: None, local: false },
        },
        Statement::Declare { stmts } => declare(stmts)?,
        Statement::Fetch { name, direction, into: None, .. } => {
            Command::Fetch { name: folded(name), rows: rows(&direction)? }
        }
        Statement::Close { cursor } => Command::Close(match cursor {
            CloseCursor::All => None,
            CloseCursor::Specific { name } => Some(folded(name)),
        }),
        Statement::Deallocate { name, .. } => {
            let all = name.quote_style.is_none() && name.value.eq_ignore_ascii_case("all");
            Command::Deallocate((!all).then_some(name.value))
        }
        Statement::Discard { .. } => Command::Discard,
        Statement::LISTEN { .. } => Command::Nothing("LISTEN"),
        Statement::UNLISTEN { .. } => Command::Nothing("UNLISTEN"),
        Statement::Copy { source, to: true, target: CopyTarget::Stdout, options, legacy_options, .. } => {
            let options = [options, without_parentheses(legacy_options)?].concat();
            Command::Copy { query: copied(source)?, format: copy_format(&options)? }
        }
        Statement::Copy { .. } => return Err(read_only("COPY from or to a file or program")),
        Statement::Prepare { .. } | Statement::Execute { .. } => {
            return Err(Fault::unsupported("PREPARE and EXECUTE are not statements here")
                .hint("drivers prepare statements with messages of the protocol, which work"));
        }
        statement => {
            readable(&statement)?;
            Command::Query(Box::new(explained(statement)?))
        }
    })
}

/// `EXPLAIN (ANALYZE, VERBOSE)` without parentheses, within which the planner does not look.
fn explained(mut statement: Statement) -> Result<Statement, Fault> {
    let Statement::Explain { analyze, verbose, options, .. } = &mut statement else { return Ok(statement) };
    for option in options.take().into_iter().flatten() {
        let value = option.arg.as_ref().map_or_else(|| "true".to_string(), |a| value_text(a).to_lowercase());
        let on = match value.as_str() {
            "true" | "on" | "1" => Some(true),
            "false" | "off" | "0" => Some(false),
            _ => None,
        };
        match (option.name.value.to_lowercase().as_str(), on) {
            ("analyze", Some(on)) => *analyze = on,
            ("verbose", Some(on)) => *verbose = on,
            // What is not shown is left out already.
            (_, Some(false)) => {}
            ("format", None) if value == "text" => {}
            _ => {
                return Err(Fault::unsupported(format!("EXPLAIN has no option {option} here"))
                    .hint("EXPLAIN (ANALYZE, VERBOSE) SELECT ..."));
            }
        }
    }
    Ok(statement)
}

/// A name as it is known: in small letters, unless it is quoted.
fn folded(name: Ident) -> String {
    if name.quote_style.is_some() { name.value } else { name.value.to_lowercase() }
}

/// Whether a statement only reads, as far as its syntax tells; its plan is looked at too.
fn readable(statement: &Statement) -> Result<(), Fault> {
    if let Some(what) = changed(statement) {
        return Err(read_only(what));
    }
    if is_query(statement) {
        return Ok(());
    }
    Service::allow(&AnyStatement::Statement(Box::new(statement.clone()))).map_err(Fault::from)
}

/// The name of a setting that is written in one word or several.
fn setting(words: &[String]) -> String {
    let lower: Vec<String> = words.iter().map(|w| w.to_lowercase()).collect();
    match lower.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["time", "zone"] => "timezone".to_string(),
        ["transaction", "isolation", "level"] => "transaction_isolation".to_string(),
        ["session", "authorization"] => "session_authorization".to_string(),
        [..] => lower.join("."),
    }
}

fn assignment(set: Set) -> Result<Command, Fault> {
    Ok(match set {
        Set::SingleAssignment { scope, variable, values, .. } => {
            let texts: Vec<String> = values.iter().map(value_text).collect();
            let value = match texts.as_slice() {
                [one] if one.eq_ignore_ascii_case("default") => None,
                all => Some(all.join(", ")),
            };
            let local = matches!(scope, Some(ContextModifier::Local));
            Command::Set { name: variable.to_string(), value, local }
        }
        Set::SetTimeZone { value, local } => {
            let value = value_text(&value);
            let value = (!["default", "local"].contains(&value.to_lowercase().as_str())).then_some(value);
            Command::Set { name: "timezone".into(), value, local }
        }
        Set::SetNames { charset_name, .. } => {
            Command::Set { name: "client_encoding".into(), value: Some(charset_name.value), local: false }
        }
        // One thing is as isolated here as any: reading what never changes.
        Set::SetTransaction { .. } => Command::Nothing("SET"),
        other => {
            let text: String = format!("SET {other}").chars().take(80).collect();
            return Err(Fault::unsupported(format!("`{text}` is not possible here")));
        }
    })
}

fn value_text(value: &Expr) -> String {
    match value {
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text), .. }) => text.clone(),
        Expr::Identifier(name) => match name.quote_style {
            Some(_) => format!("\"{}\"", name.value),
            None => name.value.clone(),
        },
        other => other.to_string(),
    }
}

/// Does what the calls of `set_config(name, value, is_local)` say that a SELECT without FROM is made of, as it begins; the
/// value that `set` returns takes the place of each.
///
/// # Errors
/// Those of `set`.
pub fn configure(
    statement: &mut Statement,
    mut set: impl FnMut(&str, Option<&str>, bool) -> Result<String, Fault>,
) -> Result<(), Fault> {
    let Statement::Query(query) = statement else { return Ok(()) };
    let SetExpr::Select(select) = query.body.as_mut() else { return Ok(()) };
    if !select.from.is_empty() || select.selection.is_some() {
        return Ok(());
    }
    for item in &mut select.projection {
        let (SelectItem::UnnamedExpr(called) | SelectItem::ExprWithAlias { expr: called, .. }) = &*item else {
            continue;
        };
        let Some((name, value, local)) = configured(called) else { continue };
        let now = Expr::Value(Value::SingleQuotedString(set(&name, value.as_deref(), local)?).with_empty_span());
        let alias = match item {
            SelectItem::ExprWithAlias { alias, .. } => alias.clone(),
            _ => Ident::new("set_config"),
        };
        *item = SelectItem::ExprWithAlias { expr: now, alias };
    }
    Ok(())
}

/// The arguments of a call of `set_config`, if they are constants.
fn configured(call: &Expr) -> Option<(String, Option<String>, bool)> {
    let Expr::Function(f) = call else { return None };
    let last = f.name.0.last().and_then(|p| p.as_ident())?;
    let FunctionArguments::List(list) = &f.args else { return None };
    if !last.value.eq_ignore_ascii_case("set_config") {
        return None;
    }
    let [FunctionArg::Unnamed(name), FunctionArg::Unnamed(value), FunctionArg::Unnamed(local)] = list.args.as_slice()
    else {
        return None;
    };
    let constant = |arg: &FunctionArgExpr| match arg {
        FunctionArgExpr::Expr(e) => constant(e),
        _ => None,
    };
    let local = constant(local)??.to_lowercase();
    Some((constant(name)??, constant(value)?, ["true", "t", "on", "yes", "1"].contains(&local.as_str())))
}

/// The text of a constant, `Some(None)` for NULL.
fn constant(e: &Expr) -> Option<Option<String>> {
    match e {
        Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => constant(inner),
        Expr::Value(v) => match &v.value {
            Value::Null => Some(None),
            Value::Boolean(b) => Some(Some(b.to_string())),
            Value::Number(n, _) => Some(Some(n.clone())),
            Value::SingleQuotedString(text) => Some(Some(text.clone())),
            _ => None,
        },
        _ => None,
    }
}

fn declare(statements: Vec<datafusion::sql::sqlparser::ast::Declare>) -> Result<Command, Fault> {
    let one: [_; 1] = statements.try_into().map_err(|_| Fault::unsupported("one cursor at a time is declared"))?;
    let [declared] = one;
    let name = declared.names.into_iter().next().map(folded);
    match (declared.declare_type, name, declared.for_query) {
        (Some(DeclareType::Cursor), Some(name), Some(query)) => {
            let query = Statement::Query(query);
            readable(&query)?;
            let (binary, hold) = (declared.binary.unwrap_or(false), declared.hold.unwrap_or(false));
            Ok(Command::Declare { name, query: Box::new(query), binary, hold })
        }
        _ => Err(Fault::unsupported("DECLARE is for cursors here").hint("DECLARE name CURSOR FOR SELECT ...")),
    }
}

fn rows(direction: &FetchDirection) -> Result<Option<usize>, Fault> {
    let counted = |v: &ValueWithSpan| match &v.value {
        Value::Number(n, _) => n.parse::<usize>().map(Some).map_err(|_| Fault::new("22003", "too many rows")),
        _ => Err(Fault::new("42601", "expected a number of rows")),
    };
    match direction {
        FetchDirection::Next | FetchDirection::Forward { limit: None } => Ok(Some(1)),
        FetchDirection::Count { limit } | FetchDirection::Forward { limit: Some(limit) } => counted(limit),
        FetchDirection::All | FetchDirection::ForwardAll => Ok(None),
        _ => Err(Fault::new("55000", "cursor can only scan forward").hint("use FETCH FORWARD n, or FETCH ALL")),
    }
}

/// What `COPY` sends: a query, or a table with all or some of its columns.
fn copied(source: CopySource) -> Result<Box<Statement>, Fault> {
    let query = match source {
        CopySource::Query(query) => query,
        CopySource::Table { table_name, columns } => {
            let text = format!("SELECT * FROM {table_name}");
            let Some(Statement::Query(mut query)) = parse(&text)?.pop() else {
                return Err(Fault::new("42601", "expected the name of a table"));
            };
            if let (SetExpr::Select(select), false) = (query.body.as_mut(), columns.is_empty()) {
                let items = columns.into_iter().map(|c| SelectItem::UnnamedExpr(Expr::Identifier(c)));
                select.projection = items.collect();
            }
            query
        }
    };
    let statement = Statement::Query(query);
    readable(&statement)?;
    Ok(Box::new(statement))
}

/// Options as psql sends those of `\copy`, and as PostgreSQL had them before version 9.
fn without_parentheses(options: Vec<CopyLegacyOption>) -> Result<Vec<CopyOption>, Fault> {
    let mut all = Vec::new();
    for option in options {
        match option {
            CopyLegacyOption::Binary => all.push(CopyOption::Format(Ident::new("binary"))),
            CopyLegacyOption::Header => all.push(CopyOption::Header(true)),
            CopyLegacyOption::Delimiter(c) => all.push(CopyOption::Delimiter(c)),
            CopyLegacyOption::Null(text) => all.push(CopyOption::Null(text)),
            CopyLegacyOption::Csv(options) => {
                all.push(CopyOption::Format(Ident::new("csv")));
                for option in options {
                    all.push(match option {
                        CopyLegacyCsvOption::Header => CopyOption::Header(true),
                        CopyLegacyCsvOption::Quote(c) => CopyOption::Quote(c),
                        other => return Err(Fault::unsupported(format!("COPY has no option {other} here"))),
                    });
                }
            }
            other => return Err(Fault::unsupported(format!("COPY has no option {other} here"))),
        }
    }
    Ok(all)
}

fn copy_format(options: &[CopyOption]) -> Result<CopyFormat, Fault> {
    let mut name = "text".to_string();
    let (mut delimiter, mut null, mut header, mut quote) = (None, None, false, '"');
    for option in options {
        match option {
            CopyOption::Format(format) => name = format.value.to_lowercase(),
            CopyOption::Delimiter(c) if c.is_ascii() => delimiter = Some(*c),
            CopyOption::Null(text) => null = Some(text.clone()),
            CopyOption::Header(on) => header = *on,
            CopyOption::Quote(c) if c.is_ascii() => quote = *c,
            CopyOption::Encoding(e) if e.to_lowercase().replace('-', "") == "utf8" => {}
            other => return Err(Fault::unsupported(format!("COPY has no option {other} here"))),
        }
    }
    match name.as_str() {
        "binary" => Ok(CopyFormat::Binary),
        "text" => Ok(CopyFormat::Text {
            delimiter: delimiter.unwrap_or('\t'),
            null: null.unwrap_or_else(|| "\\N".into()),
            header,
        }),
        "csv" => {
            Ok(CopyFormat::Csv { delimiter: delimiter.unwrap_or(','), null: null.unwrap_or_default(), header, quote })
        }
        other => Err(Fault::unsupported(format!("COPY has no format `{other}`")).hint("use csv, text or binary")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kind of command, or the code of the refusal.
    fn kind(sql: &str) -> String {
        let command = parse(sql).and_then(|mut s| s.pop().map_or(Err(Fault::protocol("none")), of));
        match command {
            Ok(command) => format!("{command:?}").split([' ', '(', '{']).next().unwrap().to_string(),
            Err(fault) => fault.code.to_string(),
        }
    }

    #[test]
    fn what_is_done_with_each() {
        let cases = [
            ("SELECT 1", "Query"),
            ("WITH a AS (SELECT 1) SELECT * FROM a", "Query"),
            ("VALUES (1), (2)", "Query"),
            ("EXPLAIN SELECT 1", "Query"),
            ("EXPLAIN ANALYZE SELECT 1", "Query"),
            ("SHOW TABLES", "Query"),
            ("BEGIN", "Begin"),
            ("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY", "Begin"),
            ("START TRANSACTION READ ONLY", "Begin"),
            ("COMMIT", "Commit"),
            ("END", "Commit"),
            ("ROLLBACK TO SAVEPOINT a", "Savepoint"),
            ("SET search_path TO sweep, public", "Set"),
            ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "Nothing"),
            ("SHOW TRANSACTION ISOLATION LEVEL", "Show"),
            ("DECLARE c CURSOR FOR SELECT 1", "Declare"),
            ("DECLARE \"c\" CURSOR WITH HOLD FOR SELECT 1", "Declare"),
            ("FETCH FORWARD 100 FROM c", "Fetch"),
            ("FETCH BACKWARD 1 FROM c", "55000"),
            ("CLOSE c", "Close"),
            ("DEALLOCATE ALL", "Deallocate"),
            ("DISCARD ALL", "Discard"),
            ("COPY (SELECT 1) TO STDOUT WITH (FORMAT csv, HEADER)", "Copy"),
            ("COPY t TO STDOUT", "Copy"),
            // As psql sends `\copy`.
            ("COPY  ( SELECT 1 ) TO STDOUT csv header", "Copy"),
            ("COPY t TO STDOUT WITH CSV HEADER QUOTE AS '''' DELIMITER ';' NULL AS 'x'", "Copy"),
            ("COPY t TO STDOUT BINARY", "Copy"),
            ("COPY t TO STDOUT GZIP", "0A000"),
            ("EXPLAIN (ANALYZE, VERBOSE) SELECT 1", "Query"),
            ("EXPLAIN (FORMAT TEXT, COSTS off, ANALYZE false) SELECT 1", "Query"),
            ("EXPLAIN (FORMAT JSON) SELECT 1", "0A000"),
            ("EXPLAIN (BUFFERS) SELECT 1", "0A000"),
            // Refused.
            ("COPY (SELECT 1) TO '/tmp/x'", "25006"),
            ("COPY (SELECT 1) TO PROGRAM 'sh'", "25006"),
            ("COPY t FROM STDIN", "25006"),
            ("COPY t FROM '/etc/passwd'", "25006"),
            ("INSERT INTO t VALUES (1)", "25006"),
            ("UPDATE t SET a = 1", "25006"),
            ("DELETE FROM t", "25006"),
            ("CREATE TABLE a AS SELECT 1", "25006"),
            ("CREATE EXTERNAL TABLE a STORED AS CSV LOCATION '/etc/passwd'", "25006"),
            ("CREATE VIEW a AS SELECT 1", "25006"),
            ("DROP TABLE t", "25006"),
            ("TRUNCATE t", "25006"),
            ("EXPLAIN ANALYZE INSERT INTO t VALUES (1)", "25006"),
            ("WITH a AS (INSERT INTO t VALUES (1) RETURNING 1) SELECT * FROM a", "25006"),
            ("WITH a AS (DELETE FROM t RETURNING 1) SELECT * FROM a", "25006"),
            ("SELECT 1 INTO a", "25006"),
            ("SELECT * FROM (SELECT 1 INTO a) AS b", "25006"),
            ("DECLARE c CURSOR FOR SELECT 1 INTO a", "25006"),
            ("DO $$ BEGIN END $$", "25006"),
            ("VACUUM", "25006"),
            ("GRANT SELECT ON t TO bi", "25006"),
            ("PREPARE a AS SELECT 1", "0A000"),
            ("SELEC 1", "42601"),
            ("SELECT 1 FROM", "42601"),
        ];
        for (sql, expected) in cases {
            assert_eq!(kind(sql), expected, "{sql}");
        }
    }

    #[test]
    fn settings_of_a_select() {
        let cases = [
            ("SELECT set_config('a', 'b', false)", "a=b", "SELECT 'B' AS set_config"),
            ("SELECT pg_catalog.set_config('a', '1'::text, true) AS x, 2", "local a=1", "SELECT 'B' AS x, 2"),
            ("SELECT set_config('a', NULL, false)", "a=-", "SELECT 'B' AS set_config"),
            ("SELECT set_config('a', b, false)", "", "SELECT set_config('a', b, false)"),
            ("SELECT set_config('a', 'b', false) FROM t", "", "SELECT set_config('a', 'b', false) FROM t"),
            ("EXPLAIN SELECT set_config('a', 'b', false)", "", "EXPLAIN SELECT set_config('a', 'b', false)"),
        ];
        for (sql, expected, after) in cases {
            let mut statement = parse(sql).unwrap().remove(0);
            let mut seen = Vec::new();
            let set = |name: &str, value: Option<&str>, local: bool| {
                seen.push(format!("{}{name}={}", if local { "local " } else { "" }, value.unwrap_or("-")));
                Ok("B".to_string())
            };
            configure(&mut statement, set).unwrap();
            assert_eq!((seen.join(" ").as_str(), statement.to_string().as_str()), (expected, after), "{sql}");
        }
    }

    #[test]
    fn statements_too_deep_or_too_long() {
        let times = |n: usize, first: &str, more: &str| format!("SELECT {first}{}", more.repeat(n));
        let cases = [
            (times(10_000, "(", "("), "54001"),
            (times(100_000, "1", " + 1"), "54001"),
            (times(300, "1", " + 1"), "54001"),
            (times(240, "1", " + 1"), "Query"),
            (times(200, "a FROM t WHERE a = 1", " OR a = 1 + 2"), "Query"),
            (times(300, "a FROM t WHERE a = 1", " OR a = 1"), "54001"),
            // Long, and not deep.
            (times(5000, "a + 1", ", a + 1"), "Query"),
            (format!("SELECT a FROM t WHERE a IN (1{})", ", 2".repeat(20_000)), "Query"),
            (format!("SELECT CASE {} END", "WHEN a = 1 THEN b + 1 ".repeat(2000)), "Query"),
            // Chains within chains.
            (format!("SELECT {}1{}", "(".repeat(30), " + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1)".repeat(30)), "54001"),
            (times(200, "1", " UNION ALL SELECT 1"), "54001"),
            (times(60, "1", " UNION ALL SELECT 1"), "Query"),
        ];
        for (sql, expected) in cases {
            assert_eq!(kind(&sql), expected, "{}", &sql[..sql.len().min(80)]);
        }
    }
}
