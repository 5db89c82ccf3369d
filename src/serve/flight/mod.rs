//! Arrow Flight SQL: gRPC that carries results as they lie in memory, column by column.
//!
//! ```text
//!  server.rs     connections: TLS, limits, who may ask (login.rs)
//!  rpc.rs        calls of Flight ──► sql.rs  commands of Flight SQL
//!                                      ├──► statement.rs   SQL and its parameters (parameters.rs) to plans and handles
//!                                      │      └──► batches.rs    rows to messages      running.rs  what can be cancelled
//!                                      ├──► metadata.rs    catalogs, schemas, tables, keys
//!                                      └──► facts.rs       what the server is and can do; its types
//! ```
//!
//! Promises: the schema that is announced is the schema that is sent, whatever runs publish in between. Nothing is kept for
//! a client between its calls but what cancels a query that runs, and the tokens of those who logged in: a handle or ticket
//! holds all that it stands for, so it lives as long as its client keeps it, and any number of them cost nothing.
//!
//! Leaves out: writing, transactions, savepoints and Substrait plans, which clients are told, and compression of messages:
//! most clients are on the same machine or network, where it costs more than it saves.

mod batches;
mod facts;
mod login;
mod metadata;
mod parameters;
mod rpc;
mod running;
mod server;
mod sql;
mod statement;

pub use server::serve;

use tonic::Status;

use super::refusal::{Reason, Refusal};

/// A refusal with gRPC's code for it.
fn status(refusal: &Refusal) -> Status {
    let message = refusal.to_string();
    match refusal.reason {
        Reason::Syntax
        | Reason::UnknownColumn
        | Reason::UnknownFunction
        | Reason::Query
        | Reason::Value(_)
        // Not PermissionDenied: drivers tell that as a missing right, which no login would give.
        | Reason::ReadOnly => Status::invalid_argument(message),
        Reason::UnknownTable => Status::not_found(message),
        Reason::Access => Status::unauthenticated(message),
        Reason::Timeout | Reason::Idle => Status::deadline_exceeded(message),
        Reason::Busy | Reason::Memory | Reason::TooLarge => Status::resource_exhausted(message),
        Reason::Cancelled => Status::cancelled(message),
        Reason::Unsupported => Status::unimplemented(message),
        Reason::Failed => Status::internal(message),
    }
}
