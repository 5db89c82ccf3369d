//! Statements: handles and tickets that hold all of them, their plans, and their rows.

use std::sync::Arc;

use arrow_flight::sql::{Any, ProstMessageExt, TicketStatementQuery};
use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, Ticket};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::LogicalPlan;
use futures::stream::StreamExt;
use prost::Message;
use prost::bytes::Bytes;
use tonic::Status;

use super::batches::{Messages, messages, sent};
use super::running::{Noted, Running};
use super::{parameters, status};
use crate::diag::Result as Checked;
use crate::serve::refusal::Refusal;
use crate::serve::service::Service;
use crate::serve::{Wire, random};

/// A statement as its client holds it: what it was prepared from, what is bound to it, and, in a ticket, what was promised.
/// It comes back as it was given, or is refused: see [`Seal`].
#[derive(Clone, PartialEq, Message)]
pub struct Handle {
    #[prost(string, tag = "1")]
    pub sql: String,
    /// A row of values, see [`parameters::received`]; empty if there are none.
    #[prost(bytes = "bytes", tag = "2")]
    pub parameters: Bytes,
    /// Of a ticket: under which its queries can be cancelled.
    #[prost(bytes = "bytes", tag = "3")]
    pub id: Bytes,
    /// Of a ticket: the hash of the schema that was announced.
    #[prost(bytes = "bytes", tag = "4")]
    pub promised: Bytes,
}

impl Handle {
    pub fn of(sql: String) -> Handle {
        Handle { sql, ..Handle::default() }
    }
}

/// Tells handles that this server gave from bytes that somebody made up: what reads values out of them trusts them.
#[derive(Clone)]
pub struct Seal([u8; 32]);

impl Seal {
    /// One that nobody knows.
    ///
    /// # Errors
    /// The operating system gives no random numbers.
    pub fn new() -> Checked<Seal> {
        Ok(Seal(random()?))
    }

    /// What the client holds.
    pub fn close(&self, handle: &Handle) -> Bytes {
        let mut bytes = handle.encode_to_vec();
        let mark = blake3::keyed_hash(&self.0, &bytes);
        bytes.extend_from_slice(mark.as_bytes());
        bytes.into()
    }

    /// # Errors
    /// The bytes are no handle of this server.
    pub fn open(&self, bytes: &Bytes) -> Result<Handle, Status> {
        let read = || {
            let (handle, mark) = bytes.split_last_chunk::<{ blake3::OUT_LEN }>()?;
            // `blake3::Hash` compares in constant time.
            let own = blake3::keyed_hash(&self.0, handle) == blake3::Hash::from_bytes(*mark);
            own.then(|| Handle::decode(bytes.slice(..handle.len())).ok())?
        };
        read().ok_or_else(|| {
            Status::invalid_argument("this is no statement or ticket of this server, or of before its last start")
        })
    }

    /// The handle within the ticket of a statement.
    pub fn of_ticket(&self, ticket: &Ticket) -> Option<Handle> {
        let any = Any::decode(ticket.ticket.clone()).ok()?;
        let query: TicketStatementQuery = any.unpack().ok()??;
        self.open(&query.statement_handle).ok()
    }
}

/// What a client learns of a statement when it prepares it.
pub struct Prepared {
    pub result: SchemaRef,
    pub parameters: Schema,
}

/// The statements of all clients.
#[derive(Clone)]
pub struct Statements {
    service: Arc<Service>,
    pub running: Running,
    pub seal: Seal,
}

struct Planned {
    ctx: SessionContext,
    plan: LogicalPlan,
}

impl Statements {
    /// # Errors
    /// The operating system gives no random numbers.
    pub fn new(service: Arc<Service>) -> Checked<Statements> {
        Ok(Statements { service, running: Running::default(), seal: Seal::new()? })
    }

    /// Results and parameters of a statement.
    ///
    /// # Errors
    /// Mistakes in it; statements that write.
    pub async fn prepare(&self, sql: &str) -> Result<Prepared, Status> {
        let prepared = async {
            let planned = self.plan(sql).await?;
            let parameters = parameters::expected(&planned.plan)?;
            let logical = sent(planned.plan.schema().as_arrow());
            let result = match parameters::bind(planned.plan.clone(), parameters::nulls(&parameters)) {
                Ok(plan) if parameters.fields().is_empty() => self.schema(&Planned { plan, ..planned }).await?,
                Ok(plan) => self.schema(&Planned { plan, ..planned }).await.unwrap_or(logical),
                // Values of some type may do where nulls do not: what it has before they are known must do.
                Err(_) => logical,
            };
            Ok(Prepared { result, parameters })
        };
        prepared.await.map_err(|refusal| self.refused(&refusal))
    }

    /// Where the rows of a statement are fetched, with their schema.
    ///
    /// # Errors
    /// Mistakes in it; statements that write; parameters that do not fit.
    pub async fn info(&self, mut handle: Handle, descriptor: FlightDescriptor) -> Result<FlightInfo, Status> {
        let planned = async { self.schema(&self.bound(&handle).await?).await };
        let schema = planned.await.map_err(|refusal| self.refused(&refusal))?;
        handle.id = random::<16>().map_err(|e| Status::internal(e.to_string()))?.to_vec().into();
        handle.promised = hash(&schema)?;
        let ticket = TicketStatementQuery { statement_handle: self.seal.close(&handle) };
        info(&schema, ticket.as_any().encode_to_vec(), descriptor)
    }

    /// The rows of a statement.
    ///
    /// # Errors
    /// As [`Statements::info`]; limits; tables that changed since they were announced.
    pub async fn rows(&self, handle: Handle) -> Result<Messages, Status> {
        let planned = self.bound(&handle).await.map_err(|refusal| self.refused(&refusal))?;
        let rows = self.service.run(Wire::Flight, &planned.ctx, planned.plan).await.map_err(|r| status(&r))?;
        let schema = sent(&rows.schema());
        if !handle.promised.is_empty() && handle.promised != hash(&schema)? {
            let message = "a run has published tables of another shape since this statement was planned: send it again";
            return Err(Status::aborted(message));
        }
        let messages = messages(schema, rows.map(|batch| batch.map_err(|refusal| status(&refusal))));
        Ok(if handle.id.is_empty() { messages } else { cancellable(messages, self.running.note(&handle.id)) })
    }

    async fn plan(&self, sql: &str) -> Result<Planned, Refusal> {
        let ctx = self.service.session();
        let sql = parameters::numbered(sql)?.into_owned();
        let plan = self.service.plan(&ctx, &sql).await?;
        Ok(Planned { ctx, plan })
    }

    async fn bound(&self, handle: &Handle) -> Result<Planned, Refusal> {
        let planned = self.plan(&handle.sql).await?;
        let plan = parameters::bind(planned.plan, parameters::values(&handle.parameters)?)?;
        self.service.verify(&plan)?;
        Ok(Planned { plan, ..planned })
    }

    /// The schema as it is sent: that of the plan that runs, which knows better than the statement what can be null.
    async fn schema(&self, planned: &Planned) -> Result<SchemaRef, Refusal> {
        let schema = self.service.schema(&planned.ctx, &planned.plan).await?;
        Ok(sent(&schema))
    }

    /// Counts a statement that was refused before it ran.
    pub fn refused(&self, refusal: &Refusal) -> Status {
        self.service.refused(Wire::Flight, refusal);
        status(refusal)
    }
}

/// What is fetched with a ticket at the server that was asked.
///
/// # Errors
/// None in practice: every schema of a plan can be encoded.
pub fn info(schema: &Schema, ticket: Vec<u8>, descriptor: FlightDescriptor) -> Result<FlightInfo, Status> {
    let endpoint = FlightEndpoint::new().with_ticket(Ticket { ticket: ticket.into() });
    let info = FlightInfo::new().try_with_schema(schema).map_err(|e| Status::internal(e.to_string()))?;
    Ok(info.with_endpoint(endpoint).with_descriptor(descriptor))
}

fn hash(schema: &Schema) -> Result<Bytes, Status> {
    let bytes = parameters::encoded(schema)?;
    Ok(Bytes::copy_from_slice(blake3::hash(&bytes).as_bytes()))
}

/// Ends with an error when the query is cancelled.
fn cancellable(messages: Messages, noted: Noted) -> Messages {
    let cancelled = noted.cancel.clone().cancelled_owned();
    let after = noted.cancel.clone();
    let last = futures::stream::once(async move { after.is_cancelled() })
        .filter_map(|cancelled| async move { cancelled.then(|| Err(Status::cancelled("the query was cancelled"))) });
    let all = messages.take_until(cancelled).chain(last);
    // The note lives as long as the stream.
    all.map(move |item| {
        let _ = &noted;
        item
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_come_back() {
        let handle = Handle { sql: "SELECT 1".into(), id: Bytes::from_static(b"id"), ..Handle::default() };
        let seal = Seal::new().unwrap();
        let bytes = seal.close(&handle);
        assert_eq!(seal.open(&bytes).unwrap(), handle);
        let ticket = |bytes: Bytes| {
            let ticket = TicketStatementQuery { statement_handle: bytes }.as_any().encode_to_vec();
            Ticket { ticket: ticket.into() }
        };
        assert_eq!(seal.of_ticket(&ticket(bytes.clone())), Some(handle.clone()));
        assert_eq!(seal.of_ticket(&Ticket { ticket: Bytes::from_static(b"?") }), None);
        // What was changed, cut, made up, or made by another server.
        let mut changed = bytes.to_vec();
        changed[3] ^= 1;
        let others = Seal::new().unwrap().close(&handle);
        for bytes in [changed.into(), bytes.slice(1..), handle.encode_to_vec().into(), others, Bytes::new()] {
            assert!(seal.open(&bytes).is_err(), "{bytes:?}");
            assert_eq!(seal.of_ticket(&ticket(bytes)), None);
        }
    }

    #[tokio::test]
    async fn a_cancelled_query_ends_with_an_error() {
        let running = Running::default();
        let item = || Ok(arrow_flight::FlightData::default());
        let endless = futures::stream::iter([item(), item()]).chain(futures::stream::pending()).boxed();
        let mut stream = cancellable(endless, running.note(b"a"));
        assert!(stream.next().await.unwrap().is_ok());
        assert!(running.cancel(b"a"));
        let rest: Vec<_> = stream.by_ref().collect().await;
        assert_eq!(rest.last().unwrap().as_ref().unwrap_err().code(), tonic::Code::Cancelled);
        drop(stream);
        assert!(!running.cancel(b"a"));
        let all: Vec<_> = cancellable(futures::stream::iter([item()]).boxed(), running.note(b"b")).collect().await;
        assert!(all.len() == 1 && all[0].is_ok());
    }
}
