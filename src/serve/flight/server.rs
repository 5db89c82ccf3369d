//! The connections: TLS, how many, whose.

use std::fmt;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use axum::Router;
use axum::body::Body;
use axum_server::accept::NoDelayAcceptor;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use axum_server::{Handle, Server};
use futures::future::Either;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::codegen::http::{Request, Response, header};
use tonic::codegen::{Bytes, Service as Answers, StdError};
use tonic::service::Routes;

use super::login::Logins;
use super::rpc::Rpc;
use crate::diag::{Failure, Result};
use crate::serve::metrics::Up;
use crate::serve::service::Service;
use crate::serve::{Door, Wire, tls};

/// Bytes of a request: its SQL and parameters.
pub const REQUEST: usize = 16 << 20;
/// How long streams may take to hear that the server ends.
const GRACE: Duration = Duration::from_millis(500);
/// In which a new connection must ask for something.
const FIRST_REQUEST: Duration = Duration::from_secs(30);
/// How often a silent client is asked whether it is there, and how long it may take to say so.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// Calls of one connection at once.
const CALLS: u32 = 128;
/// Bytes that a stream is ahead of the network: two messages, so that one is made while the other is sent.
const SEND_BUFFER: usize = 2 * super::batches::MESSAGE;

/// Answers Flight SQL's calls until the service stops.
///
/// # Errors
/// The listener fails as a whole.
pub async fn serve(service: Arc<Service>, door: Door) -> Result<()> {
    let failed = |e: std::io::Error| Failure::stage("serve::flight", format!("Flight SQL cannot be served: {e}"));
    let logins = Arc::new(Logins::new(service.clone()));
    let rpc = Rpc::new(service.clone(), logins.clone())?;
    let flight = FlightServiceServer::new(rpc).max_decoding_message_size(REQUEST).max_encoding_message_size(usize::MAX);
    let connections = Connections {
        router: Routes::new(flight).prepare().into_axum_router(),
        slots: Arc::new(Semaphore::new(service.limits.connections.max(1))),
        service: service.clone(),
        logins,
    };
    let handle = Handle::new();
    let (stop, stopping) = (service.stop.clone(), handle.clone());
    tokio::spawn(async move {
        stop.cancelled().await;
        stopping.graceful_shutdown(Some(GRACE));
    });
    let server = axum_server::from_tcp(door.listener).map_err(failed)?.handle(handle);
    let served = match door.tls {
        None => tuned(server.acceptor(NoDelayAcceptor::new())).serve(connections).await,
        Some(config) => {
            let config = RustlsConfig::from_config(tls::speaking(&config, &[b"h2"]));
            let acceptor = RustlsAcceptor::new(config).acceptor(NoDelayAcceptor::new());
            tuned(server.acceptor(acceptor)).serve(connections).await
        }
    };
    served.map_err(failed)
}

fn tuned<A>(server: Server<SocketAddr, A>) -> Server<SocketAddr, A> {
    let mut server = server.http2_only().first_request_timeout(FIRST_REQUEST).accept_error_handler(|peer, e| {
        let peer = peer.map_or_else(|| "a client".to_string(), ToString::to_string);
        tracing::info!("flight: {peer} did not connect: {e}");
    });
    let mut http2 = server.http_builder().http2();
    http2.max_concurrent_streams(Some(CALLS)).max_send_buf_size(SEND_BUFFER);
    http2.keep_alive_interval(Some(KEEP_ALIVE.0)).keep_alive_timeout(KEEP_ALIVE.1);
    server
}

/// Makes a [`Connection`] of each client, as long as there are not too many.
#[derive(Clone)]
struct Connections {
    router: Router,
    slots: Arc<Semaphore>,
    service: Arc<Service>,
    logins: Arc<Logins>,
}

#[derive(Debug)]
struct Full(usize);

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} connections are open already; the limit is `--max-connections`", self.0)
    }
}

impl std::error::Error for Full {}

impl Answers<SocketAddr> for Connections {
    type Response = Connection;
    type Error = Full;
    type Future = Ready<std::result::Result<Connection, Full>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<std::result::Result<(), Full>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, peer: SocketAddr) -> Self::Future {
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            return ready(Err(Full(self.service.limits.connections)));
        };
        let open = Arc::new((slot, self.service.metrics.connection(Wire::Flight)));
        let (router, service, logins) = (self.router.clone(), self.service.clone(), self.logins.clone());
        ready(Ok(Connection { router, service, logins, peer, _open: open }))
    }
}

/// One client's. Every call of whatever method passes here.
#[derive(Clone)]
struct Connection {
    router: Router,
    service: Arc<Service>,
    logins: Arc<Logins>,
    peer: SocketAddr,
    /// Its place among the connections.
    _open: Arc<(OwnedSemaphorePermit, Up)>,
}

impl<B> Answers<Request<B>> for Connection
where
    B: tonic::codegen::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError>,
{
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Either<
        axum::routing::future::RouteFuture<std::convert::Infallible>,
        Ready<std::result::Result<Response<Body>, std::convert::Infallible>>,
    >;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<std::result::Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let header = request.headers().get(header::AUTHORIZATION).map(|v| v.to_str().unwrap_or_default());
        if self.logins.allows(header) {
            return Either::Left(self.router.call(request));
        }
        self.service.metrics.denied(Wire::Flight);
        tracing::warn!("flight: {} has no valid token or password", self.peer);
        let message = match header {
            None => "this server needs a token: send `authorization: Bearer TOKEN`, or log in with user and password",
            Some(_) => "wrong token or password",
        };
        Either::Right(ready(Ok(tonic::Status::unauthenticated(message).into_http())))
    }
}
