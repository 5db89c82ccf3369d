//! Servers that other programs ask: PostgreSQL's wire protocol, Arrow Flight SQL, and HTTP.
//!
//! ```text
//!  psql, psycopg, JDBC, Grafana, Superset ──► postgres/ ─┐
//!  ADBC, Flight SQL's JDBC driver ──────────► flight/ ───┼─► service.rs ──► query (DataFusion) ──► tables.rs ──► store
//!  browser, curl, Prometheus ───────────────► http/ ─────┘   guard, limits     on its own threads    last good run
//! ```
//!
//! Promises: nothing is written, and nothing is read but the tables that are served, whatever a client sends. Who may ask is
//! decided before anything is run (`access.rs`); on an address that others reach, nobody may without a password or token and
//! TLS (`tls.rs`). One client cannot take what all need: threads, memory (`memory.rs`), time.
//!
//! Leaves out: writing, transactions (they are accepted and do nothing: what is read never changes), roles and grants.

pub mod access;
mod changes;
mod constants;
mod depth;
pub mod flight;
pub mod http;
mod memory;
mod metrics;
pub mod postgres;
pub mod refusal;
pub mod service;
pub mod tables;
#[cfg(test)]
mod tests;
mod tls;
mod yielding;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::store::Store;
use access::Access;
use service::Service;
use tables::Tables;

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wire {
    Postgres,
    Flight,
    Http,
}

impl Wire {
    pub fn name(self) -> &'static str {
        match self {
            Wire::Postgres => "postgres",
            Wire::Flight => "flight",
            Wire::Http => "http",
        }
    }
}

/// What one client may ask of the machine.
#[derive(Clone, Debug)]
pub struct Limits {
    /// That a statement may work; the time in which its client does not take rows is not counted.
    pub timeout: Duration,
    /// After which a result that nobody takes is dropped.
    pub idle: Duration,
    /// Bytes for the operators of all queries; one query may have half of them.
    pub memory_bytes: usize,
    /// Queries at once; further ones wait.
    pub queries: usize,
    /// Rows of a result.
    pub rows: u64,
    /// Connections per protocol.
    pub connections: usize,
}

/// How to serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// Pipelines that are served; all if empty.
    pub pipelines: Vec<String>,
    pub host: IpAddr,
    /// Ports; 0 is any that is free.
    pub ports: Vec<(Wire, u16)>,
    pub users: Option<PathBuf>,
    pub tokens: Option<PathBuf>,
    /// Certificate chain and private key, in PEM.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Lets everybody in, and without TLS, though others than this machine reach the address.
    pub open: bool,
    pub limits: Limits,
    /// Threads that run queries.
    pub threads: usize,
    /// How often to look for what a run has published.
    pub refresh: Duration,
    /// Reports over HTTP, if any.
    pub report: Option<Report>,
}

/// Makes the report of a pipeline, as HTML: given by whoever starts the server, for the code that gathers it is theirs.
#[derive(Clone)]
pub struct Report(Arc<ReportMaker>);

type ReportMaker = dyn Fn(&Store, &str) -> Result<String> + Send + Sync;

impl Report {
    /// Of a function of a store and the name of a pipeline in it. It may block.
    pub fn new(make: impl Fn(&Store, &str) -> Result<String> + Send + Sync + 'static) -> Report {
        Report(Arc::new(make))
    }

    /// # Errors
    /// It cannot be made.
    pub fn of(&self, store: &Store, pipeline: &str) -> Result<String> {
        (self.0)(store, pipeline)
    }
}

impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Report")
    }
}

/// What a protocol is served on.
pub struct Door {
    pub wire: Wire,
    pub listener: TcpListener,
    pub address: SocketAddr,
    pub tls: Option<Arc<ServerConfig>>,
}

/// A server that listens, and does not answer yet.
pub struct Server {
    service: Arc<Service>,
    doors: Vec<Door>,
    refresh: Duration,
    report: Option<Report>,
}

/// How long clients may take to hear that the server ends.
const GRACE: Duration = Duration::from_secs(1);

impl Server {
    /// Opens every port, after everything else has been checked.
    ///
    /// # Errors
    /// No protocol; unknown pipelines; secrets or certificates that cannot be used; an address that others reach without
    /// both; a port in use.
    pub async fn open(store: Store, options: Options) -> Result<Server> {
        if options.ports.is_empty() {
            let nothing = Diagnostic::new("serve::nothing", "all protocols are off: there is nothing to serve");
            return Err(nothing.help("leave out one of --postgres off, --flight off and --http off").into());
        }
        let access = Access::load(options.users.as_deref(), options.tokens.as_deref())?;
        let tls = options.tls.as_ref().map(|(certificate, key)| tls::load(certificate, key)).transpose()?;
        if !options.host.is_loopback() && !options.open {
            refuse_open_doors(&options, &access, tls.is_some())?;
        }
        refuse_half_open(&options, &access)?;
        let tables = Tables::open(store, options.pipelines.clone(), options.threads).await?;
        let service = Service::new(tables, access, options.limits.clone(), options.threads)?;
        let mut doors = Vec::new();
        for (wire, port) in &options.ports {
            doors.push(door(*wire, SocketAddr::new(options.host, *port), tls.clone())?);
        }
        Ok(Server { service, doors, refresh: options.refresh, report: options.report })
    }

    /// Where it listens, by protocol.
    pub fn addresses(&self) -> Vec<(Wire, SocketAddr)> {
        self.doors.iter().map(|d| (d.wire, d.address)).collect()
    }

    /// Whether clients must use TLS.
    pub fn tls(&self) -> bool {
        self.doors.iter().any(|d| d.tls.is_some())
    }

    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Answers until `stop`.
    ///
    /// # Errors
    /// A protocol's server fails as a whole.
    pub async fn run(self, stop: CancellationToken) -> Result<()> {
        let mut tasks = tokio::task::JoinSet::new();
        for door in self.doors {
            let (service, report) = (self.service.clone(), self.report.clone());
            tasks.spawn(async move {
                match door.wire {
                    Wire::Postgres => postgres::serve(service, door).await,
                    Wire::Flight => flight::serve(service, door).await,
                    Wire::Http => http::serve(service, door, report).await,
                }
            });
        }
        tasks.spawn(keep_up(self.service.clone(), self.refresh));
        let first = tokio::select! {
            () = stop.cancelled() => None,
            ended = tasks.join_next() => ended,
        };
        self.service.stop.cancel();
        let rest = async { while tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(GRACE, rest).await;
        match first {
            Some(Ok(Err(failure))) => Err(failure),
            Some(Err(e)) => Err(Failure::stage("serve::bug", format!("a server failed because of a bug in pipe: {e}"))),
            Some(Ok(Ok(()))) | None => Ok(()),
        }
    }
}

/// Bytes that nobody guesses.
///
/// # Errors
/// The operating system gives none.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let source = rustls::crypto::ring::default_provider().secure_random;
    let failed = |_| Failure::stage("serve::random", "the operating system gives no random numbers");
    source.fill(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Loads the tables again whenever a run has published.
async fn keep_up(service: Arc<Service>, every: Duration) -> Result<()> {
    loop {
        tokio::select! {
            () = service.stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(every) => {}
        }
        match service.tables.refresh().await {
            Ok(false) => {}
            Ok(true) => {
                let now = service.now();
                service.metrics.loaded(now.tables.len(), now.at, true);
                tracing::info!("serving {} tables anew", now.tables.len());
            }
            Err(failure) => tracing::warn!("the tables are served as before: {failure}"),
        }
    }
}

/// Tokens say nothing to PostgreSQL's clients: with tokens alone, its port would let everybody in.
fn refuse_half_open(options: &Options, access: &Access) -> Result<()> {
    let postgres = options.ports.iter().any(|(wire, _)| *wire == Wire::Postgres);
    if options.open || !postgres || access.has_users() || !access.has_tokens() {
        return Ok(());
    }
    let message = "there are tokens but no users: everybody could ask by PostgreSQL's wire protocol";
    let help = format!("add users (--users FILE, or {}=name:password), or use --postgres off", access::USERS_ENV);
    Err(Diagnostic::new("serve::open", message).help(help).into())
}

fn refuse_open_doors(options: &Options, access: &Access, tls: bool) -> Result<()> {
    let mut missing = Vec::new();
    let has = |wire| options.ports.iter().any(|(w, _)| *w == wire);
    if has(Wire::Postgres) && !access.has_users() {
        missing.push(format!("users (--users FILE, or {}=name:password)", access::USERS_ENV));
    } else if access.is_open() {
        missing.push(format!("tokens (--tokens FILE, or {}=token)", access::TOKENS_ENV));
    }
    if !tls {
        missing.push("TLS (--tls-cert FILE --tls-key FILE)".to_string());
    }
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("{} is reached by other machines, so it needs {}", options.host, missing.join(", "));
    Err(Diagnostic::new("serve::open", message)
        .help("give them, listen on 127.0.0.1 behind a proxy that has them, or allow everybody with --insecure")
        .into())
}

fn door(wire: Wire, address: SocketAddr, tls: Option<Arc<ServerConfig>>) -> Result<Door> {
    let refused = |e: std::io::Error| {
        let port = address.port();
        let help = match e.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!(
                    "another program listens there: choose another port with `--{} PORT`, or 0 for any",
                    wire.name()
                )
            }
            std::io::ErrorKind::PermissionDenied if port < 1024 => {
                "ports below 1024 are for root: choose a higher".to_string()
            }
            _ => "choose an address of this machine with --host".to_string(),
        };
        let message = format!("cannot listen on {address} for {}: {e}", wire.name());
        Failure { exit: Exit::Stage, diagnostics: vec![Diagnostic::new("serve::port", message).help(help)] }
    };
    let listener = TcpListener::bind(address).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    Ok(Door { wire, listener, address, tls })
}
