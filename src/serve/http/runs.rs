//! Runs that there were, runs that go on, and reports.
//!
//! What a URL names is looked for among what there is; it never becomes a path.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::Problem;
use super::{App, Shared, catalog, page};
use crate::diag::nearest;
use crate::serve::refusal::{Reason, discreet};
use crate::store::{RunRecord, Store};

/// Records, if nothing is said.
const RUNS: usize = 50;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    pipeline: Option<String>,
    limit: Option<usize>,
}

/// Records, the newest first.
pub async fn all(State(shared): App, which: Result<Query<Which>, QueryRejection>) -> Result<Json<Value>, Problem> {
    let Query(which) = which
        .map_err(|e| Problem::new(StatusCode::BAD_REQUEST, "bad_request", e.body_text()).hint("`pipeline`, `limit`"))?;
    let mut runs = records(&shared).await?;
    runs.retain(|r| which.pipeline.as_ref().is_none_or(|p| *p == r.pipeline));
    runs.truncate(which.limit.unwrap_or(RUNS));
    Ok(Json(json!({ "runs": runs })))
}

/// One record.
pub async fn one(State(shared): App, id: Result<Path<String>, PathRejection>) -> Result<Json<RunRecord>, Problem> {
    let Path(id) = id.map_err(|e| Problem::new(StatusCode::BAD_REQUEST, "bad_request", e.body_text()))?;
    let run = records(&shared).await?.into_iter().find(|r| r.id == id);
    run.map(Json).ok_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, "unknown_run", format!("there is no run `{id}`")).hint("/runs lists them")
    })
}

async fn records(shared: &Arc<Shared>) -> Result<Vec<RunRecord>, Problem> {
    let of = shared.clone();
    reading(shared, move |store| {
        let mut runs = store.runs();
        runs.retain(|r| of.service.tables.serves(&r.pipeline));
        runs
    })
    .await
}

/// Runs that go on; and when tables were loaded, so that a page knows when to look for others.
pub async fn live(State(shared): App) -> Result<Json<Value>, Problem> {
    let mut runs = reading(&shared, Store::live).await?;
    runs.retain(|r| shared.service.tables.serves(&r.pipeline));
    Ok(Json(json!({ "loaded_unix_ms": catalog::loaded(&shared.service.now()), "runs": runs })))
}

/// Reads the store on a thread that may wait for the disk.
async fn reading<T: Send + 'static>(
    shared: &Arc<Shared>,
    read: impl FnOnce(&Store) -> T + Send + 'static,
) -> Result<T, Problem> {
    let store = shared.service.tables.store().clone();
    tokio::task::spawn_blocking(move || read(&store)).await.map_err(|e| bug(&e))
}

fn bug(e: &dyn std::fmt::Display) -> Problem {
    let what = format!("it failed because of a bug in pipe: {e}");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, Reason::Failed.name(), what)
}

/// A pipeline's report. Its scripts run in a sandbox of their own: they can ask nothing here.
pub async fn report(State(shared): App, name: Result<Path<String>, PathRejection>) -> Result<Response, Problem> {
    let Path(name) = name.map_err(|e| Problem::new(StatusCode::BAD_REQUEST, "bad_request", e.body_text()))?;
    let missing = |what: String| Problem::new(StatusCode::NOT_FOUND, "unknown_pipeline", what);
    let Some(make) = shared.report.clone() else {
        return Err(missing("this server makes no reports".to_string()).hint("`pipe report` does"));
    };
    let now = shared.service.now();
    if !now.tables.iter().any(|t| t.pipeline == name) {
        let hint = match nearest(&name, now.tables.iter().map(|t| t.pipeline.as_str())) {
            Some(near) => format!("did you mean /report/{near}?"),
            None => "/tables lists the pipelines; run one with `pipe run`".to_string(),
        };
        return Err(missing(format!("there is no pipeline `{name}` with results")).hint(hint));
    }
    let busy = || {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, Reason::Busy.name(), "other reports are made right now")
            .hint("ask again later")
    };
    let place = tokio::time::timeout(shared.service.limits.timeout, shared.reports.clone().acquire_owned()).await;
    let Ok(Ok(place)) = place else { return Err(busy()) };
    let made = reading(&shared, move |store| {
        // As long as it is made, also where its client left.
        let _place = place;
        make.of(store, &name)
    });
    let html = made.await?.map_err(|failure| {
        let what = discreet(&failure.to_string(), shared.service.tables.store());
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, Reason::Failed.name(), what)
    })?;
    let nonce = page::nonce().map_err(|e| bug(&e))?;
    let policy = format!(
        "sandbox allow-scripts allow-downloads allow-modals; default-src 'none'; script-src 'nonce-{nonce}'; \
         style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    // Text of tables is escaped in it: what begins a script is a script of the report.
    let html = html.replace("<script", &format!("<script nonce=\"{nonce}\""));
    let mut response = ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response();
    if let Ok(policy) = HeaderValue::try_from(policy) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    Ok(response)
}
