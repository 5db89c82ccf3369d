//! What goes wrong with a database, and what to do about it. No message has a password.

use std::error::Error as _;

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::diag::{Diagnostic, Exit, Failure};

const UNCHANGED: &str = "nothing in the database was changed";

fn failure(code: &'static str, message: impl Into<String>, help: impl Into<String>) -> Failure {
    Failure { exit: Exit::Stage, diagnostics: vec![Diagnostic::new(code, message).help(help)] }
}

/// The connection was not made.
pub fn connecting(e: &Error, server: &str, user: &str) -> Failure {
    let login = "export::postgres_login";
    if let Some(db) = e.as_db_error() {
        let refused = [&SqlState::INVALID_PASSWORD, &SqlState::INVALID_AUTHORIZATION_SPECIFICATION];
        let help = match db.code() {
            code if refused.contains(&code) => {
                "set PGPASSWORD, or a line `host:port:database:user:password` in ~/.pgpass"
            }
            code if *code == SqlState::INVALID_CATALOG_NAME => "create it with `createdb`, or name another database",
            _ => "see the server's log",
        };
        return failure(login, format!("the server {server} refuses user `{user}`: {}", db.message()), help);
    }
    let cause = e.source().map(ToString::to_string).unwrap_or_default();
    if cause.contains("password missing") {
        let help = "set PGPASSWORD, or a line `host:port:database:user:password` in ~/.pgpass";
        return failure(login, format!("the server {server} asks for the password of user `{user}`"), help);
    }
    if e.to_string().contains("TLS") {
        let help = "sslmode=verify-full checks the server's certificate and name with the authorities of PGSSLROOTCERT; \
                    sslmode=disable goes without TLS";
        return failure("export::postgres_tls", format!("no TLS with the server {server}: {cause}"), help);
    }
    let cause = if cause.is_empty() { e.to_string() } else { cause };
    let help = "is it running, and do the address and PGHOST, PGPORT name it?";
    failure("export::postgres_connect", format!("cannot reach the server {server}: {cause}"), help)
}

/// The server said no.
pub fn refused(e: &Error, server: &str) -> Failure {
    let Some(db) = e.as_db_error() else { return lost(e, server) };
    let help = match db.code() {
        code if *code == SqlState::DISK_FULL => "free some space where the server keeps its tables",
        code if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
            "the user needs the right to create tables in the schema (GRANT CREATE ON SCHEMA), and to drop the old one"
        }
        code if *code == SqlState::DEPENDENT_OBJECTS_STILL_EXIST => {
            "drop what depends on the old table first (the views are named above), or let them read a table of another name"
        }
        code if [&SqlState::DUPLICATE_TABLE, &SqlState::UNIQUE_VIOLATION].contains(&code) => {
            "somebody else made it at the same time: run again"
        }
        code if *code == SqlState::QUERY_CANCELED || *code == SqlState::LOCK_NOT_AVAILABLE => {
            "readers of the old table held it for too long: run again"
        }
        _ => "the server's log has more",
    };
    let detail = db.detail().map(|d| format!("; {d}")).unwrap_or_default();
    let message = format!("the server {server} says: {}{detail} ({})", db.message(), db.code().code());
    failure("export::postgres", message, format!("{help}; {UNCHANGED}"))
}

/// The connection ended in the middle.
pub fn lost(e: &Error, server: &str) -> Failure {
    let cause = match e.as_db_error() {
        Some(db) => db.message().to_string(),
        None => e.source().map_or_else(|| e.to_string(), ToString::to_string),
    };
    let message = format!("the connection to the server {server} was lost: {cause}");
    failure("export::postgres_lost", message, format!("run again; {UNCHANGED}"))
}

/// The connection ended while the server made it lasting.
pub fn unknown(e: &Error, server: &str) -> Failure {
    let message = format!("the connection to the server {server} was lost while it committed: {e}");
    failure("export::postgres_lost", message, "whether the rows are there is not known: look, and run again")
}

/// The server took another number of rows than were sent.
pub fn miscounted(sent: u64, taken: u64) -> Failure {
    failure("export::postgres", format!("the server took {taken} of {sent} rows"), UNCHANGED)
}

pub fn no_schema(schema: Option<&str>) -> Failure {
    let (message, help) = match schema {
        Some(name) => (format!("the database has no schema `{name}`"), format!("CREATE SCHEMA \"{name}\"")),
        None => ("the user has no schema to make tables in".to_string(), "write `table: schema.name`".to_string()),
    };
    failure("export::postgres_table", message, help)
}

pub fn there_already(table: &str) -> Failure {
    let help = "`mode: replace` puts the new table in its place, `mode: append` adds rows to it";
    failure("export::postgres_table", format!("the table `{table}` is there already"), help)
}

pub fn no_table(name: &str) -> Failure {
    failure("export::postgres_table", format!("`{name}` is there, and no table"), "choose another name for `table`")
}

pub fn in_the_way(table: &str) -> Failure {
    let help = "the new table is made under this name until it takes its place: drop or rename what has it";
    failure("export::postgres_table", format!("`{table}` is in the way"), help)
}

pub fn other_columns(table: &str, wrong: &[String]) -> Failure {
    let message = format!("rows cannot be added to `{table}`: {}", wrong.join("; "));
    failure("export::postgres_table", message, "`mode: replace` makes it anew; or choose columns with a `sql` stage")
}
