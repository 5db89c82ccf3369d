//! Tables in a PostgreSQL database, by COPY in its binary format.
//!
//! Promises: all of it is one transaction, so that readers see the old rows or the new, and whatever fails leaves the
//! database as it was; no password is shown. Where the table is replaced, it is filled beside the old one, whose readers
//! wait only while the names change.
//!
//! | file | holds |
//! |---|---|
//! | `connect.rs` | where the database is, who asks, TLS |
//! | `encode.rs` | types and rows |
//! | `errors.rs` | what the server says, with what to do |

mod connect;
mod encode;
mod errors;

use std::io::Cursor;
use std::sync::OnceLock;
use std::time::Duration;

use arrow::datatypes::Schema;
use futures::SinkExt;
use tokio::task::JoinHandle;
use tokio_postgres::{CancelToken, Client, CopyInSink, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use self::connect::Way;
use self::encode::{NAME_BYTES, Type};
use super::{Loss, Sent, Written};
use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::query::sql::{literal, quoted};
use crate::spec::{Export, ExportMode, Text};
use crate::stage::RunCx;
use crate::store::TableHandle;
use crate::table::{DESCRIPTION, UNIT};
use crate::trace;

/// Bytes that are sent at once.
const CHUNK: usize = 1 << 20;
/// How long the server may take to hear that the user stopped.
const STOPPING: Duration = Duration::from_millis(400);

/// What is wrong with the settings, and with the columns where they are known.
pub fn unfit(job: &Export, schema: Option<&Schema>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    if let Some(url) = &job.url
        && connect::has_password(&url.value)
    {
        // Without its place: the line would be shown, and the password with it.
        let line = url.at.as_ref().map(|at| format!(" ({}:{})", at.file, at.line)).unwrap_or_default();
        let help = "leave it out, and put it into PGPASSWORD or ~/.pgpass, or the whole address into an environment \
                    variable that `url_env` names; then change it, for it may have been seen";
        found.push(Diagnostic::new("export::password", format!("`url` has a password{line}")).help(help));
        return found;
    }
    if let (Some(_), Some(name)) = (&job.url, &job.url_env) {
        let message = "both `url` and `url_env` say where the database is";
        found.push(Diagnostic::new("export::postgres_url", message).at(name.at.clone()).help("leave one out"));
    }
    let at = job.url.as_ref().or(job.url_env.as_ref()).map_or(&job.from.0.at, |t| &t.at);
    found.extend(way(job).err().map(|problem| problem.at(at.clone())));
    let name = job.table.as_ref().unwrap_or(&job.from.0);
    found.extend(Name::parse(&name.value).err().map(|problem| problem.at(name.at.clone())));
    found.extend(schema.into_iter().flat_map(encode::unfit).map(|problem| problem.at(job.from.0.at.clone())));
    found
}

/// `host:port/database` that the rows go to, where that can be known.
pub fn server(job: &Export) -> Option<String> {
    way(job).ok().map(|way| way.server)
}

/// The address of a setting, or of the variable that it names.
fn way(job: &Export) -> std::result::Result<Way, Diagnostic> {
    let env = |name: &str| std::env::var(name).ok();
    let unset = |name: &Text| {
        let message = format!("environment variable `{}` is not set", name.value);
        Diagnostic::new("export::env", message).help("set it to postgresql://user@host:5432/database")
    };
    let url = match (&job.url_env, &job.url) {
        (Some(name), _) => Some(env(&name.value).filter(|v| !v.is_empty()).ok_or_else(|| unset(name))?),
        (None, url) => url.as_ref().map(|url| url.value.clone()),
    };
    Way::new(url.as_deref(), &env)
}

/// `schema.name`, or `name` in the schema that the server takes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    schema: Option<String>,
    table: String,
}

impl Name {
    fn parse(text: &str) -> std::result::Result<Name, Diagnostic> {
        let parts: Vec<&str> = text.split('.').collect();
        let (schema, table) = match parts.as_slice() {
            [table] => (None, *table),
            [schema, table] => (Some((*schema).to_string()), *table),
            _ => (None, ""),
        };
        let fits = |part: &str| !part.is_empty() && part.len() <= NAME_BYTES && !part.contains('\0');
        if !fits(table) || !schema.as_deref().is_none_or(fits) {
            let help = "write `name` or `schema.name`, of at most 63 bytes each";
            return Err(Diagnostic::new("export::postgres_table", format!("`{text}` is no name of a table")).help(help));
        }
        Ok(Name { schema, table: table.to_string() })
    }
}

/// Writes all rows of a table into the database.
///
/// # Errors
/// The server cannot be reached or does not let us in; the table is there already, or is not as it must be; values that it
/// cannot hold; whatever the server says. Nothing is changed then.
pub async fn send(job: &Export, cx: &RunCx, input: &TableHandle) -> Result<Written> {
    let name = job.table.as_ref().unwrap_or(&job.from.0);
    let name = Name::parse(&name.value).map_err(|problem| at_run(problem.at(name.at.clone())))?;
    let way = way(job).map_err(at_run)?;
    let tls = way.tls().map_err(at_run)?;
    let token = OnceLock::new();
    let job = Job { cx, input, mode: job.mode.unwrap_or_default(), way: &way };
    let filled = tokio::select! {
        biased;
        () = cx.cancel.cancelled() => Err(Failure::interrupted()),
        filled = job.fill(name, &tls, &token) => filled,
    };
    match filled {
        Ok(filled) => job.commit(filled).await,
        Err(failure) => {
            if let Some(token) = token.get().filter(|_| cx.cancel.is_cancelled()) {
                let _ = tokio::time::timeout(STOPPING, CancelToken::cancel_query(token, tls)).await;
            }
            Err(failure)
        }
    }
}

/// A mistake that showed only now.
fn at_run(problem: Diagnostic) -> Failure {
    Failure { exit: Exit::Stage, diagnostics: vec![problem] }
}

struct Job<'a> {
    cx: &'a RunCx,
    input: &'a TableHandle,
    mode: ExportMode,
    way: &'a Way,
}

/// A connection with a transaction under way.
struct Session {
    client: Client,
    /// Runs the connection; its end says why it was lost.
    driver: JoinHandle<std::result::Result<(), tokio_postgres::Error>>,
}

/// Everything is there but the commit.
struct Filled {
    session: Session,
    written: Written,
}

impl Session {
    async fn open(way: &Way, tls: &MakeRustlsConnect) -> Result<Session> {
        let connected = way.config.connect(tls.clone()).await;
        let (client, connection) = connected.map_err(|e| errors::connecting(&e, &way.server, &way.user))?;
        Ok(Session { client, driver: tokio::spawn(connection) })
    }

    /// Statements without rows.
    async fn run(&mut self, sql: &str, way: &Way) -> Result<()> {
        match self.client.batch_execute(sql).await {
            Ok(()) => Ok(()),
            Err(e) => Err(self.failure(&e, way).await),
        }
    }

    /// Rows of a query, as text.
    async fn ask(&mut self, sql: &str, way: &Way) -> Result<Vec<Vec<String>>> {
        match self.client.simple_query(sql).await {
            Ok(messages) => Ok(messages
                .iter()
                .filter_map(|message| match message {
                    SimpleQueryMessage::Row(row) => {
                        Some((0..row.len()).map(|i| row.get(i).unwrap_or_default().to_string()).collect())
                    }
                    _ => None,
                })
                .collect()),
            Err(e) => Err(self.failure(&e, way).await),
        }
    }

    /// What went wrong, where the connection ended with what ended it.
    async fn failure(&mut self, e: &tokio_postgres::Error, way: &Way) -> Failure {
        if e.as_db_error().is_none()
            && let Ok(Ok(Err(why))) = tokio::time::timeout(STOPPING, &mut self.driver).await
        {
            return errors::lost(&why, &way.server);
        }
        if e.as_db_error().is_some() { errors::refused(e, &way.server) } else { errors::lost(e, &way.server) }
    }
}

impl Job<'_> {
    /// Opens a transaction and does everything in it.
    async fn fill(&self, name: Name, tls: &MakeRustlsConnect, token: &OnceLock<CancelToken>) -> Result<Filled> {
        let mut session = Session::open(self.way, tls).await?;
        let _ = token.set(session.client.cancel_token());
        session.run("BEGIN; SET LOCAL standard_conforming_strings = on", self.way).await?;
        let target = self.prepare(&mut session, &name).await?;
        session.run(&target.create, self.way).await?;
        let (rows, bytes, rounded) = self.copy(&mut session, &target.copy).await?;
        session.run(&target.finish, self.way).await?;
        let sent = Some(Sent { server: self.way.server.clone(), bytes });
        let loss = Loss { rounded, ..Loss::default() };
        Ok(Filled { session, written: Written { name: target.name, rows, sent, loss } })
    }

    /// The last moment that the user can stop at.
    async fn commit(&self, filled: Filled) -> Result<Written> {
        let Filled { mut session, written } = filled;
        self.cx.cancel.check()?;
        match session.client.batch_execute("COMMIT").await {
            Ok(()) => Ok(written),
            Err(e) if e.as_db_error().is_some() => Err(session.failure(&e, self.way).await),
            Err(e) => Err(errors::unknown(&e, &self.way.server)),
        }
    }

    /// Looks at what is there, and says what to do.
    async fn prepare(&self, session: &mut Session, name: &Name) -> Result<Target> {
        let schema = match &name.schema {
            Some(schema) => schema.clone(),
            None => {
                let rows = session.ask("SELECT current_schema()", self.way).await?;
                rows.into_iter().flatten().next().filter(|s| !s.is_empty()).ok_or_else(|| errors::no_schema(None))?
            }
        };
        let known = format!("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = {}", literal(&schema));
        if session.ask(&known, self.way).await?.is_empty() {
            return Err(errors::no_schema(Some(&schema)));
        }
        let kind = self.relation(session, &schema, &name.table).await?;
        let full = format!("{schema}.{}", name.table);
        match (kind.as_deref(), self.mode) {
            (None, _) => Ok(self.new_table(&schema, &name.table)),
            (Some(_), ExportMode::Fail) => Err(errors::there_already(&full)),
            (Some("r" | "p"), ExportMode::Replace) => {
                let beside = beside(&name.table);
                if self.relation(session, &schema, &beside).await?.is_some() {
                    return Err(errors::in_the_way(&format!("{schema}.{beside}")));
                }
                Ok(self.replacement(&schema, &name.table, &beside))
            }
            (Some("r" | "p"), ExportMode::Append) => {
                self.compare(session, &schema, &name.table).await?;
                Ok(Target { copy: self.copy_into(&schema, &name.table), name: full, ..Target::default() })
            }
            (Some(_), ExportMode::Replace | ExportMode::Append) => Err(errors::no_table(&full)),
        }
    }

    /// What is called so: `r` of a table, `p` of a partitioned one, other letters of others.
    async fn relation(&self, session: &mut Session, schema: &str, name: &str) -> Result<Option<String>> {
        let query = format!(
            "SELECT c.relkind FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = {} AND c.relname = {}",
            literal(schema),
            literal(name)
        );
        Ok(session.ask(&query, self.way).await?.into_iter().flatten().next())
    }

    /// Whether rows can be added to a table that is there.
    async fn compare(&self, session: &mut Session, schema: &str, name: &str) -> Result<()> {
        let query = format!(
            "SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod) FROM pg_catalog.pg_attribute a \
             JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = {} AND c.relname = {} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            literal(schema),
            literal(name)
        );
        let there = session.ask(&query, self.way).await?;
        let mut wrong = Vec::new();
        for (column, kind) in self.columns() {
            let kind = kind.name();
            match there.iter().find(|row| row.first() == Some(&column)).and_then(|row| row.get(1)) {
                None => wrong.push(format!("`{column}` is missing")),
                // `numeric(10,2)` may hold it, and says so itself where not.
                Some(found) if *found == kind || (kind == "numeric" && found.starts_with("numeric(")) => {}
                Some(found) => wrong.push(format!("`{column}` is {found}, and here {kind}")),
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(errors::other_columns(&format!("{schema}.{name}"), &wrong)) }
    }

    fn columns(&self) -> Vec<(String, Type)> {
        let fields = self.input.schema.fields().iter();
        fields.filter_map(|f| Some((f.name().clone(), Type::of(f.data_type())?))).collect()
    }

    fn create(&self, schema: &str, name: &str) -> String {
        let fields = self.input.schema.fields();
        let column = |((name, kind), field): ((String, Type), &arrow::datatypes::FieldRef)| {
            let null = if field.is_nullable() { "" } else { " NOT NULL" };
            format!("{} {}{null}", quoted(&name), kind.name())
        };
        let columns: Vec<String> = self.columns().into_iter().zip(fields).map(column).collect();
        format!("CREATE TABLE {} ({})", path(schema, name), columns.join(", "))
    }

    fn copy_into(&self, schema: &str, name: &str) -> String {
        let columns: Vec<String> = self.columns().iter().map(|(name, _)| quoted(name)).collect();
        format!("COPY {} ({}) FROM STDIN (FORMAT binary)", path(schema, name), columns.join(", "))
    }

    /// Units and descriptions, and where the table comes from.
    fn comments(&self, schema: &str, name: &str) -> String {
        let table = path(schema, name);
        let from = format!("Table `{}` of the pipeline `{}`, written by pipe", self.input.name, self.cx.pipeline);
        let mut sql = format!("COMMENT ON TABLE {table} IS {}", literal(&from));
        for field in self.input.schema.fields() {
            let meta = |key: &str| field.metadata().get(key).filter(|v| !v.is_empty());
            let text = match (meta(DESCRIPTION), meta(UNIT)) {
                (Some(what), Some(unit)) => format!("{what} [{unit}]"),
                (Some(what), None) => what.clone(),
                (None, Some(unit)) => format!("[{unit}]"),
                (None, None) => continue,
            };
            sql += &format!("; COMMENT ON COLUMN {table}.{} IS {}", quoted(field.name()), literal(&text));
        }
        sql
    }

    fn new_table(&self, schema: &str, name: &str) -> Target {
        Target {
            create: self.create(schema, name),
            copy: self.copy_into(schema, name),
            finish: self.comments(schema, name),
            name: format!("{schema}.{name}"),
        }
    }

    fn replacement(&self, schema: &str, name: &str, beside: &str) -> Target {
        let (old, new) = (path(schema, name), path(schema, beside));
        let comments = self.comments(schema, beside);
        Target {
            create: self.create(schema, beside),
            copy: self.copy_into(schema, beside),
            finish: format!("{comments}; DROP TABLE {old}; ALTER TABLE {new} RENAME TO {}", quoted(name)),
            name: format!("{schema}.{name}"),
        }
    }

    /// Sends all rows: their number, bytes, and times that were rounded.
    async fn copy(&self, session: &mut Session, sql: &str) -> Result<(i64, i64, i64)> {
        let sink: CopyInSink<Cursor<Vec<u8>>> = match session.client.copy_in(sql).await {
            Ok(sink) => sink,
            Err(e) => return Err(session.failure(&e, self.way).await),
        };
        let mut sink = Box::pin(sink);
        let (mut rows, mut bytes, mut rounded) = (0_u64, 0_usize, 0);
        let mut chunk = encode::HEADER.to_vec();
        for batch in trace::parts(&self.input.parts)? {
            let batch = batch?;
            rounded += encode::rows(&batch, rows, &mut chunk)?;
            rows += batch.num_rows() as u64;
            if chunk.len() >= CHUNK {
                bytes += chunk.len();
                if let Err(e) = sink.send(Cursor::new(std::mem::take(&mut chunk))).await {
                    return Err(session.failure(&e, self.way).await);
                }
            }
            self.cx.progress.0.advance(batch.num_rows() as u64);
        }
        chunk.extend(encode::TRAILER);
        bytes += chunk.len();
        let sent = sink.send(Cursor::new(chunk)).await;
        let taken = match sent {
            Ok(()) => sink.as_mut().finish().await,
            Err(e) => Err(e),
        };
        match taken {
            Ok(taken) if taken == rows => Ok((rows as i64, bytes as i64, rounded)),
            Ok(taken) => Err(errors::miscounted(rows, taken)),
            Err(e) => Err(session.failure(&e, self.way).await),
        }
    }
}

/// What to do around sending the rows.
#[derive(Default)]
struct Target {
    /// `schema.name`, for people.
    name: String,
    create: String,
    copy: String,
    finish: String,
}

/// What the new table is called until it takes the place of the old one.
fn beside(name: &str) -> String {
    let end = "__new";
    let mut kept = name.to_string();
    while kept.len() + end.len() > NAME_BYTES {
        kept.pop();
    }
    kept + end
}

fn path(schema: &str, name: &str) -> String {
    format!("{}.{}", quoted(schema), quoted(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tables() {
        let name = |schema: Option<&str>, table: &str| Name { schema: schema.map(str::to_string), table: table.into() };
        assert_eq!(Name::parse("t"), Ok(name(None, "t")));
        assert_eq!(Name::parse("s.T x"), Ok(name(Some("s"), "T x")));
        for wrong in ["", "a.", ".a", "a.b.c", &"x".repeat(64)] {
            assert!(Name::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(beside("t"), "t__new");
        assert_eq!(beside(&"é".repeat(31)).len(), 63);
        assert_eq!(path("a\"b", "c"), "\"a\"\"b\".\"c\"");
        assert_eq!(literal("it's"), "'it''s'");
    }
}
