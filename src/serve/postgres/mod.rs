//! PostgreSQL's wire protocol: psql, psycopg, JDBC, SQLAlchemy, and the dashboards over them.
//!
//! ```text
//!  mod.rs    the door: connections, their number       login.rs     TLS, SCRAM          line.rs   the socket, cancelling
//!  connection/    messages and answers of a client     command.rs   what a statement is: run, settings, or refused
//!  params.rs      $1 and its value                     compat/      the dialect and the catalog queries of tools
//!  encode.rs      rows, types                          names.rs     names of columns as PostgreSQL chooses them
//!  settings.rs    SET and SHOW                         copy.rs      COPY ... TO STDOUT         message.rs  their shape
//!  catalog/       pg_catalog, information_schema       functions/   version(), to_char(), pg_get_viewdef(), ...
//! ```
//!
//! Every connection has a session of its own. Its statements go through the guard of `command.rs`, are planned, and run by
//! the service with the limits that all protocols share; rows are sent as they come.

mod catalog;
mod command;
mod compat;
mod connection;
mod copy;
mod encode;
mod fault;
mod functions;
mod line;
mod login;
mod message;
mod names;
mod params;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::context::SessionContext;
use datafusion_postgres::pgwire::api::{ConnectionManager, RandomPidSecretKeyGenerator};
use datafusion_postgres::pgwire::tokio::TlsAcceptor;
use datafusion_postgres::pgwire::tokio::server::negotiate_tls;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::service::Service;
use super::{Door, Wire, random, tls};
use crate::diag::{Failure, Result};
use catalog::Catalog;
use line::Line;

/// Within which a client that asks for TLS has to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// Clients that have not said who they are, at once. They take no place from those who have.
const GREETERS: usize = 256;

/// What all connections share.
pub struct Shared {
    service: Arc<Service>,
    /// Session that those of connections are made from.
    base: SessionContext,
    catalog: Arc<Catalog>,
    connections: Arc<ConnectionManager>,
    pids: Arc<RandomPidSecretKeyGenerator>,
    compat: compat::Compat,
    users: Arc<login::Users>,
    /// Of those who have said who they are.
    places: Arc<Semaphore>,
    tls: bool,
}

impl Shared {
    fn new(service: Arc<Service>, tls: bool) -> Result<Arc<Shared>> {
        let wrong = |e| Failure::stage("serve::catalog", format!("cannot make PostgreSQL's catalog: {e}"));
        let (base, catalog) = catalog::session(&service).map_err(wrong)?;
        functions::register(&base, &catalog);
        let users = Arc::new(login::Users::new(&service.access, random()?));
        let places = Arc::new(Semaphore::new(service.limits.connections));
        Ok(Arc::new(Shared {
            service,
            base,
            catalog,
            connections: Arc::new(ConnectionManager::new()),
            pids: Arc::new(RandomPidSecretKeyGenerator::default()),
            compat: compat::Compat::default(),
            users,
            places,
            tls,
        }))
    }
}

/// Answers until the service stops.
///
/// # Errors
/// The catalog cannot be made, or the socket cannot be used.
pub async fn serve(service: Arc<Service>, door: Door) -> Result<()> {
    let shared = Shared::new(service.clone(), door.tls.is_some())?;
    let acceptor = door.tls.as_ref().map(|config| TlsAcceptor::from(tls::speaking(config, &[b"postgresql"])));
    let listener = tokio::net::TcpListener::from_std(door.listener)
        .map_err(|e| Failure::stage("serve::port", format!("cannot use the port of postgres: {e}")))?;
    let greeters = Arc::new(Semaphore::new(GREETERS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = service.stop.cancelled() => break,
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(e) => {
                // Such as too many open files: others must end first.
                tracing::warn!("postgres: cannot accept a connection: {e}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(greeter) = greeters.clone().try_acquire_owned() else {
            tracing::debug!("postgres: {GREETERS} clients have not said who they are: a further one is not heard");
            continue;
        };
        connections.spawn(welcome(socket, acceptor.clone(), shared.clone(), greeter));
    }
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// A connection from its first byte to its last.
async fn welcome(socket: TcpStream, acceptor: Option<TlsAcceptor>, shared: Arc<Shared>, greeter: OwnedSemaphorePermit) {
    let service = shared.service.clone();
    let stop = service.stop.clone();
    let greeting = async {
        let shaken = tokio::time::timeout(HANDSHAKE, negotiate_tls::<()>(socket, acceptor)).await;
        let Ok(Ok(Some(mut socket))) = shaken else { return None };
        // Requests to cancel have to come through when all places are taken.
        let entered = login::login(&mut socket, &shared).await;
        Some((socket, entered))
    };
    let (socket, entered) = tokio::select! {
        () = stop.cancelled() => return,
        greeted = greeting => match greeted {
            Some(greeted) => greeted,
            None => return,
        },
    };
    drop(greeter);
    let (pid, secret) = datafusion_postgres::pgwire::api::ClientInfo::pid_and_secret_key(&socket);
    let (handle, _registered) = shared.connections.register(pid, secret);
    let line = Line::new(socket, handle, stop, service.limits.idle);
    match entered {
        Ok(Some(_place)) => {
            let _open = service.metrics.connection(Wire::Postgres);
            connection::talk(line, shared).await;
        }
        Ok(None) => {}
        Err(fault) => line.hang_up(Some(fault)).await,
    }
}
