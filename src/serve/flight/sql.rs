//! The commands of Flight SQL.

use std::sync::Arc;

use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::server::{DoPutError, FlightSqlService, PeekableFlightDataStream};
use arrow_flight::sql::*;
use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, Ticket,
};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use futures::stream::{BoxStream, StreamExt};
use prost::Message;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

use super::batches::{Messages, message};
use super::facts::Facts;
use super::login::Logins;
use super::statement::{Handle, Statements, info};
use super::{metadata, parameters};
use crate::diag::Result as Checked;
use crate::query::session::CATALOG;
use crate::serve::refusal::Refusal;
use crate::serve::service::Service;

/// The action that cancels.
pub const CANCEL: &str = "CancelFlightInfo";

pub struct Sql {
    service: Arc<Service>,
    logins: Arc<Logins>,
    statements: Statements,
    facts: Facts,
}

impl Sql {
    /// # Errors
    /// None in practice, see [`Facts::new`].
    pub fn new(service: Arc<Service>, logins: Arc<Logins>) -> Checked<Sql> {
        let facts = Facts::new(&service.session(), &service.limits)?;
        Ok(Sql { statements: Statements::new(service.clone())?, service, logins, facts })
    }

    fn read_only<T>(&self, what: &str) -> Result<T, Status> {
        Err(self.statements.refused(&Refusal::read_only(what)))
    }

    /// Cancels the query of an announcement.
    fn cancel(&self, info: Option<&FlightInfo>) -> Result<(), Status> {
        let tickets = info.iter().flat_map(|i| &i.endpoint).filter_map(|e| e.ticket.as_ref());
        let mut handles = tickets.filter_map(|ticket| self.statements.seal.of_ticket(ticket));
        let found = handles.any(|handle| self.statements.running.cancel(&handle.id));
        if found { Ok(()) } else { Err(Status::not_found("no such query runs")) }
    }
}

type Answer<T> = Result<Response<T>, Status>;

/// Announces rows that the command itself stands for.
fn announce(command: &impl ProstMessageExt, schema: &Schema, request: Request<FlightDescriptor>) -> Answer<FlightInfo> {
    info(schema, command.as_any().encode_to_vec(), request.into_inner()).map(Response::new)
}

fn rows(schema: SchemaRef, batch: Result<RecordBatch, FlightError>) -> Answer<Messages> {
    batch.map(|batch| Response::new(message(schema, batch))).map_err(Status::from)
}

fn none(schema: SchemaRef) -> Answer<Messages> {
    rows(schema.clone(), Ok(RecordBatch::new_empty(schema)))
}

fn no_substrait<T>() -> Result<T, Status> {
    Err(Status::unimplemented("plans of Substrait are not supported: send SQL"))
}

fn no_transactions<T>() -> Result<T, Status> {
    Err(Status::unimplemented("there are no transactions, because nothing is written: connect with autocommit"))
}

#[tonic::async_trait]
impl FlightSqlService for Sql {
    type FlightService = Sql;

    async fn do_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Answer<BoxStream<'static, Result<HandshakeResponse, Status>>> {
        let header = request.metadata().get("authorization").and_then(|v| v.to_str().ok());
        let token = self.logins.log_in(header)?;
        let value = MetadataValue::try_from(format!("Bearer {token}")).map_err(|e| Status::internal(e.to_string()))?;
        let answer = HandshakeResponse { protocol_version: 0, payload: token.into_bytes().into() };
        let mut response = Response::new(futures::stream::iter([Ok(answer)]).boxed());
        response.metadata_mut().insert("authorization", value);
        Ok(response)
    }

    // Statements

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        self.statements.info(Handle::of(query.query), request.into_inner()).await.map(Response::new)
    }

    async fn do_get_statement(&self, ticket: TicketStatementQuery, _request: Request<Ticket>) -> Answer<Messages> {
        self.statements.rows(self.statements.seal.open(&ticket.statement_handle)?).await.map(Response::new)
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        let handle = self.statements.seal.open(&query.prepared_statement_handle)?;
        self.statements.info(handle, request.into_inner()).await.map(Response::new)
    }

    async fn do_get_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        _request: Request<Ticket>,
    ) -> Answer<Messages> {
        self.statements.rows(self.statements.seal.open(&query.prepared_statement_handle)?).await.map(Response::new)
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        _request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let prepared = self.statements.prepare(&query.query).await?;
        let parameter_schema = match prepared.parameters.fields().is_empty() {
            true => Default::default(),
            false => parameters::encoded(&prepared.parameters)?,
        };
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: self.statements.seal.close(&Handle::of(query.query)),
            dataset_schema: parameters::encoded(&prepared.result)?,
            parameter_schema,
        })
    }

    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        let mut handle = self.statements.seal.open(&query.prepared_statement_handle)?;
        handle.parameters = parameters::received(request.into_inner().into_peekable()).await?;
        Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(self.statements.seal.close(&handle)) })
    }

    async fn do_action_close_prepared_statement(
        &self,
        _query: ActionClosePreparedStatementRequest,
        _request: Request<Action>,
    ) -> Result<(), Status> {
        // Nothing is held for it.
        Ok(())
    }

    async fn do_action_cancel_query(
        &self,
        query: ActionCancelQueryRequest,
        _request: Request<Action>,
    ) -> Result<ActionCancelQueryResult, Status> {
        let info = FlightInfo::decode(query.info).map_err(|_| Status::invalid_argument("this is no FlightInfo"))?;
        self.cancel(Some(&info))?;
        // `CANCEL_RESULT_CANCELLED` of Flight SQL's definition.
        Ok(ActionCancelQueryResult { result: 1 })
    }

    async fn do_action_fallback(&self, request: Request<Action>) -> Answer<<Self as FlightService>::DoActionStream> {
        let action = request.into_inner();
        if action.r#type != CANCEL {
            return Err(Status::unimplemented(format!("there is no action `{}` here", action.r#type)));
        }
        let cancel = CancelFlightInfoRequest::decode(action.body);
        let cancel = cancel.map_err(|_| Status::invalid_argument("this is no CancelFlightInfoRequest"))?;
        self.cancel(cancel.info.as_ref())?;
        let body = CancelFlightInfoResult { status: CancelStatus::Cancelled as i32 }.encode_to_vec().into();
        Ok(Response::new(futures::stream::iter([Ok(arrow_flight::Result { body })]).boxed()))
    }

    // What there is

    async fn get_flight_info_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        announce(&query, &query.into_builder().schema(), request)
    }

    async fn do_get_catalogs(&self, query: CommandGetCatalogs, _request: Request<Ticket>) -> Answer<Messages> {
        let mut found = query.into_builder();
        found.append(CATALOG);
        rows(found.schema(), found.build())
    }

    async fn get_flight_info_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        announce(&query, &query.clone().into_builder().schema(), request)
    }

    async fn do_get_schemas(&self, query: CommandGetDbSchemas, _request: Request<Ticket>) -> Answer<Messages> {
        rows(query.clone().into_builder().schema(), metadata::schemas(&self.service.session(), query))
    }

    async fn get_flight_info_tables(
        &self,
        query: CommandGetTables,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        announce(&query, &query.clone().into_builder().schema(), request)
    }

    async fn do_get_tables(&self, query: CommandGetTables, _request: Request<Ticket>) -> Answer<Messages> {
        rows(query.clone().into_builder().schema(), metadata::tables(&self.service.session(), query).await)
    }

    async fn get_flight_info_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        announce(&query, &query.into_builder().schema(), request)
    }

    async fn do_get_table_types(&self, query: CommandGetTableTypes, _request: Request<Ticket>) -> Answer<Messages> {
        let mut found = query.into_builder();
        found.append(metadata::TABLE);
        found.append(metadata::VIEW);
        rows(found.schema(), found.build())
    }

    async fn get_flight_info_sql_info(
        &self,
        query: CommandGetSqlInfo,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        announce(&query, &self.facts.info.schema(), request)
    }

    async fn do_get_sql_info(&self, query: CommandGetSqlInfo, _request: Request<Ticket>) -> Answer<Messages> {
        rows(self.facts.info.schema(), self.facts.info.record_batch(query.info))
    }

    async fn get_flight_info_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        announce(&query, &self.facts.types.schema(), request)
    }

    async fn do_get_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        _request: Request<Ticket>,
    ) -> Answer<Messages> {
        rows(self.facts.types.schema(), self.facts.types.record_batch(query.data_type))
    }

    async fn get_flight_info_primary_keys(
        &self,
        query: CommandGetPrimaryKeys,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        announce(&query, &metadata::primary_keys(), request)
    }

    async fn do_get_primary_keys(&self, _query: CommandGetPrimaryKeys, _request: Request<Ticket>) -> Answer<Messages> {
        none(metadata::primary_keys())
    }

    async fn get_flight_info_exported_keys(
        &self,
        query: CommandGetExportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        announce(&query, &metadata::foreign_keys(), request)
    }

    async fn do_get_exported_keys(
        &self,
        _query: CommandGetExportedKeys,
        _request: Request<Ticket>,
    ) -> Answer<Messages> {
        none(metadata::foreign_keys())
    }

    async fn get_flight_info_imported_keys(
        &self,
        query: CommandGetImportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        announce(&query, &metadata::foreign_keys(), request)
    }

    async fn do_get_imported_keys(
        &self,
        _query: CommandGetImportedKeys,
        _request: Request<Ticket>,
    ) -> Answer<Messages> {
        none(metadata::foreign_keys())
    }

    async fn get_flight_info_cross_reference(
        &self,
        query: CommandGetCrossReference,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        announce(&query, &metadata::foreign_keys(), request)
    }

    async fn do_get_cross_reference(
        &self,
        _query: CommandGetCrossReference,
        _request: Request<Ticket>,
    ) -> Answer<Messages> {
        none(metadata::foreign_keys())
    }

    // What is not possible

    async fn do_put_statement_update(
        &self,
        _query: CommandStatementUpdate,
        _request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        self.read_only("an update")
    }

    async fn do_put_prepared_statement_update(
        &self,
        _query: CommandPreparedStatementUpdate,
        _request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        self.read_only("an update")
    }

    async fn do_put_statement_ingest(
        &self,
        _query: CommandStatementIngest,
        _request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        self.read_only("loading rows")
    }

    async fn do_put_substrait_plan(
        &self,
        _query: CommandStatementSubstraitPlan,
        _request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        no_substrait()
    }

    async fn get_flight_info_substrait_plan(
        &self,
        _query: CommandStatementSubstraitPlan,
        _request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        no_substrait()
    }

    async fn do_action_create_prepared_substrait_plan(
        &self,
        _query: ActionCreatePreparedSubstraitPlanRequest,
        _request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        no_substrait()
    }

    async fn do_action_begin_transaction(
        &self,
        _query: ActionBeginTransactionRequest,
        _request: Request<Action>,
    ) -> Result<ActionBeginTransactionResult, Status> {
        no_transactions()
    }

    async fn do_action_end_transaction(
        &self,
        _query: ActionEndTransactionRequest,
        _request: Request<Action>,
    ) -> Result<(), Status> {
        no_transactions()
    }

    async fn do_action_begin_savepoint(
        &self,
        _query: ActionBeginSavepointRequest,
        _request: Request<Action>,
    ) -> Result<ActionBeginSavepointResult, Status> {
        no_transactions()
    }

    async fn do_action_end_savepoint(
        &self,
        _query: ActionEndSavepointRequest,
        _request: Request<Action>,
    ) -> Result<(), Status> {
        no_transactions()
    }

    async fn do_put_error_callback(
        &self,
        _request: Request<PeekableFlightDataStream>,
        error: DoPutError,
    ) -> Answer<<Self as FlightService>::DoPutStream> {
        Err(Status::invalid_argument(error.to_string()))
    }

    async fn register_sql_info(&self, _id: i32, _result: &SqlInfo) {}
}
