//! The calls of Flight. Those that carry commands of Flight SQL are dispatched by `arrow-flight` to [`Sql`]; what it leaves
//! open is answered here: schemas and polls without rows, and which actions there are.

use std::sync::Arc;

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, PollInfo,
    SchemaResult, Ticket,
};
use futures::stream::StreamExt;
use tonic::{Request, Response, Status, Streaming};

use super::login::Logins;
use super::sql::{CANCEL, Sql};
use crate::diag::Result as Checked;
use crate::serve::service::Service;

pub struct Rpc {
    sql: Sql,
}

impl Rpc {
    /// # Errors
    /// None in practice, see [`super::facts::Facts::new`].
    pub fn new(service: Arc<Service>, logins: Arc<Logins>) -> Checked<Rpc> {
        Ok(Rpc { sql: Sql::new(service, logins)? })
    }
}

/// Actions that do something here, and what they do.
const ACTIONS: [(&str, &str); 4] = [
    ("CreatePreparedStatement", "Prepares a statement: ActionCreatePreparedStatementRequest to ...Result"),
    ("ClosePreparedStatement", "Forgets a statement: ActionClosePreparedStatementRequest"),
    (CANCEL, "Cancels a query that runs: CancelFlightInfoRequest to CancelFlightInfoResult"),
    ("CancelQuery", "Cancels a query that runs, for older clients: ActionCancelQueryRequest to ...Result"),
];

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl FlightService for Rpc {
    type HandshakeStream = <Sql as FlightService>::HandshakeStream;
    type ListFlightsStream = <Sql as FlightService>::ListFlightsStream;
    type DoGetStream = <Sql as FlightService>::DoGetStream;
    type DoPutStream = <Sql as FlightService>::DoPutStream;
    type DoActionStream = <Sql as FlightService>::DoActionStream;
    type ListActionsStream = <Sql as FlightService>::ListActionsStream;
    type DoExchangeStream = <Sql as FlightService>::DoExchangeStream;

    async fn handshake(&self, request: Request<Streaming<HandshakeRequest>>) -> Answer<Self::HandshakeStream> {
        self.sql.handshake(request).await
    }

    async fn list_flights(&self, _request: Request<Criteria>) -> Answer<Self::ListFlightsStream> {
        Err(Status::unimplemented("results have no list: ask for tables with Flight SQL's GetTables"))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Answer<FlightInfo> {
        self.sql.get_flight_info(request).await
    }

    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Answer<PollInfo> {
        // Nothing to wait for: a query runs when its rows are fetched.
        let info = self.sql.get_flight_info(request).await?.into_inner();
        Ok(Response::new(PollInfo { info: Some(info), progress: Some(1.0), ..PollInfo::default() }))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Answer<SchemaResult> {
        let info = self.sql.get_flight_info(request).await?.into_inner();
        Ok(Response::new(SchemaResult { schema: info.schema }))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Answer<Self::DoGetStream> {
        self.sql.do_get(request).await
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Answer<Self::DoPutStream> {
        self.sql.do_put(request).await
    }

    async fn do_exchange(&self, _request: Request<Streaming<FlightData>>) -> Answer<Self::DoExchangeStream> {
        Err(Status::unimplemented("nothing is exchanged here: pipe serve is read-only"))
    }

    async fn do_action(&self, request: Request<Action>) -> Answer<Self::DoActionStream> {
        self.sql.do_action(request).await
    }

    async fn list_actions(&self, _request: Request<Empty>) -> Answer<Self::ListActionsStream> {
        let action =
            |(name, does): (&str, &str)| ActionType { r#type: name.to_string(), description: does.to_string() };
        Ok(Response::new(futures::stream::iter(ACTIONS.map(action).map(Ok)).boxed()))
    }
}
