//! HTTP: queries for programs that speak nothing else, what there is as JSON, figures for Prometheus, and a page.
//!
//! ```text
//! GET  /                          the page                       page.rs, page/*
//! GET  /healthz                   `ok`, while it answers
//! GET  /metrics                   OpenMetrics
//! GET  /tables                    pipelines, tables, views, columns          catalog.rs
//! GET  /tables/{pipeline}/{table} one, with its first rows
//! POST /sql, GET /sql?q=          the rows of a statement        sql.rs, negotiate.rs, encode.rs, stream.rs
//! GET  /runs, /runs/{id}          records of runs                runs.rs
//! GET  /live                      where runs stand that go on
//! GET  /report/{pipeline}         the report
//! ```
//!
//! Promises: a result is sent as it is made, and never held as a whole; one that breaks off is never taken for complete.
//! Whatever is refused is said as `application/problem+json`, but for requests that cannot be read or have too large a head:
//! the HTTP library has their status alone for them. Nothing is named on disk by what a URL says. No other site's
//! page can ask (`guard.rs`).
//!
//! Leaves out: CORS, cookies, compression, and ways to start a run.

mod answer;
mod catalog;
mod connections;
mod encode;
mod guard;
mod negotiate;
mod page;
mod runs;
mod sql;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use axum_server::{Handle, Server};
use tokio::sync::Semaphore;

use super::service::Service;
use super::{Door, Report, tls};
use crate::diag::{Failure, Result};
use answer::Problem;
use connections::Gate;

/// A statement, or what comes with it.
const BODY_BYTES: usize = 1 << 20;
/// All headers of a request.
const HEAD_BYTES: usize = 64 << 10;
/// That a client may take for what it asks, head and body each; and that it may say nothing.
const PATIENCE: Duration = Duration::from_secs(30);
/// That answers may take once the server stops.
const GRACE: Duration = Duration::from_millis(800);
/// Reports made at once: each reads tables as much as queries do.
const REPORTS: usize = 2;

/// What handlers share.
struct Shared {
    service: Arc<Service>,
    report: Option<Report>,
    reports: Arc<Semaphore>,
    address: SocketAddr,
}

type App = State<Arc<Shared>>;

/// Answers until the service stops.
///
/// # Errors
/// The listener cannot be used.
pub async fn serve(service: Arc<Service>, door: Door, report: Option<Report>) -> Result<()> {
    let reports = Arc::new(Semaphore::new(REPORTS));
    let shared = Shared { service: service.clone(), report, reports, address: door.address };
    let app = router(Arc::new(shared));
    let handle = Handle::new();
    let (stop, ending) = (service.stop.clone(), handle.clone());
    tokio::spawn(async move {
        stop.cancelled().await;
        ending.graceful_shutdown(Some(GRACE));
    });
    let failed = |e: std::io::Error| Failure::stage("serve::http", format!("the HTTP server failed: {e}"));
    let gate = Gate::new(service, door.tls.is_some());
    let server = axum_server::from_tcp(door.listener).map_err(failed)?;
    let ended = match door.tls {
        None => tuned(server.acceptor(gate), handle).serve(app.into_make_service()).await,
        Some(config) => {
            let config = RustlsConfig::from_config(tls::speaking(&config, &[b"h2", b"http/1.1"]));
            let acceptor = RustlsAcceptor::new(config).acceptor(gate);
            tuned(server.acceptor(acceptor), handle).serve(app.into_make_service()).await
        }
    };
    ended.map_err(failed)
}

fn tuned<A>(server: Server<SocketAddr, A>, handle: Handle<SocketAddr>) -> Server<SocketAddr, A> {
    let mut server = server.handle(handle).first_request_timeout(PATIENCE);
    let builder = server.http_builder();
    builder.http1().header_read_timeout(PATIENCE).max_buf_size(HEAD_BYTES);
    builder
        .http2()
        .keep_alive_interval(PATIENCE)
        .keep_alive_timeout(PATIENCE)
        .max_header_list_size(HEAD_BYTES as u32)
        .max_concurrent_streams(64);
    server
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .merge(page::routes())
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .route("/tables", get(catalog::tables))
        .route("/tables/{pipeline}/{table}", get(catalog::table))
        .route("/sql", get(sql::get).post(sql::post))
        .route("/runs", get(runs::all))
        .route("/runs/{id}", get(runs::one))
        .route("/live", get(runs::live))
        .route("/report/{pipeline}", get(runs::report))
        .fallback(nothing_there)
        .method_not_allowed_fallback(not_that_way)
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(from_fn_with_state(shared.clone(), guard::guard))
        .with_state(shared)
}

async fn metrics(State(shared): App) -> Response {
    let service = &shared.service;
    service.metrics.memory(service.memory_held());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], service.metrics.text()).into_response()
}

async fn nothing_there(uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", format!("there is nothing at {}", uri.path()))
        .hint("/tables lists the tables; POST a statement to /sql")
}

/// Also the answer to OPTIONS, of which other sites' pages get no more than the methods.
async fn not_that_way(method: Method) -> Response {
    if method == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", format!("{method} is not possible here"))
        .hint("the header Allow has the methods that are")
        .into_response()
}
