//! What there is: pipelines with their tables and views, and one of them with its first rows.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use arrow::datatypes::Schema;
use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use datafusion::execution::context::SessionContext;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::Problem;
use super::encode::{Encoder, column};
use super::negotiate::Format;
use super::{App, Shared};
use crate::diag::nearest;
use crate::query::session::CATALOG;
use crate::serve::Wire;
use crate::serve::refusal::Refusal;
use crate::serve::tables::{ServedTable, Snapshot};

/// First rows of a table, if nothing is said, and at most.
const ROWS: (u64, u64) = (10, 1_000);

/// Every pipeline with its tables and views.
pub async fn tables(State(shared): App) -> Json<Value> {
    let now = shared.service.now();
    let ctx = shared.service.session();
    let mut pipelines: BTreeMap<&str, (Vec<Value>, Vec<Value>)> = BTreeMap::new();
    for table in &now.tables {
        pipelines.entry(&table.pipeline).or_default().0.push(of_table(table));
    }
    for view in &now.views {
        let columns = schema(&ctx, &view.pipeline, &view.name).await.map(|s| columns(&s));
        let told =
            json!({ "name": view.name, "unavailable": view.unavailable, "columns": columns.unwrap_or_default() });
        pipelines.entry(&view.pipeline).or_default().1.push(told);
    }
    let pipelines: Vec<Value> = pipelines
        .into_iter()
        .map(|(name, (tables, views))| json!({ "name": name, "tables": tables, "views": views }))
        .collect();
    Json(json!({
        "loaded_unix_ms": loaded(&now),
        "reports": shared.report.is_some(),
        "pipelines": pipelines,
    }))
}

/// When the tables were loaded, in milliseconds since 1970: it changes when there are others.
pub fn loaded(now: &Snapshot) -> u64 {
    let since = now.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn of_table(table: &ServedTable) -> Value {
    json!({
        "name": table.handle.name,
        "stage": table.stage,
        "kind": table.kind,
        "rows": table.handle.rows,
        "bytes": table.bytes,
        "made_unix_s": table.made_unix_s,
        "fingerprint": table.fingerprint.0,
        "hash": table.handle.hash.0,
        "columns": columns(&table.handle.schema),
    })
}

fn columns(schema: &Schema) -> Vec<Value> {
    schema.fields().iter().map(|f| column(f)).collect()
}

async fn schema(ctx: &SessionContext, pipeline: &str, name: &str) -> Option<arrow::datatypes::SchemaRef> {
    let table = ctx.catalog(CATALOG)?.schema(pipeline)?.table(name).await.ok()??;
    Some(table.schema())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct How {
    rows: Option<u64>,
}

/// One table or view: what is known about it, and its first rows.
pub async fn table(
    State(shared): App,
    path: Result<Path<(String, String)>, PathRejection>,
    how: Result<Query<How>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let bad = |what: String| Problem::new(StatusCode::BAD_REQUEST, "bad_request", what);
    let Path((pipeline, name)) = path.map_err(|e| bad(e.body_text()))?;
    let Query(how) = how.map_err(|e| bad(e.body_text()).hint("`rows` is the number of first rows"))?;
    let now = shared.service.now();
    let table = now.tables.iter().find(|t| t.pipeline == pipeline && t.handle.name == name);
    let view = now.views.iter().find(|v| v.pipeline == pipeline && v.name == name);
    let mut told = match (table, view) {
        (Some(table), _) => of_table(table),
        (None, Some(view)) => json!({ "name": name, "unavailable": view.unavailable }),
        (None, None) => return Err(unknown(&now, &pipeline, &name)),
    };
    told["pipeline"] = json!(pipeline);
    told["view"] = json!(table.is_none());
    if told.get("unavailable").is_some_and(|why| !why.is_null()) {
        return Ok(Json(told));
    }
    let most = how.rows.unwrap_or(ROWS.0).min(ROWS.1);
    let (columns, rows) = first(&shared, &pipeline, &name, most).await?;
    told["columns"] = columns;
    told["first"] = rows;
    Ok(Json(told))
}

fn unknown(now: &Snapshot, pipeline: &str, name: &str) -> Problem {
    let tables = now.tables.iter().map(|t| (t.pipeline.as_str(), t.handle.name.as_str()));
    let all: Vec<(&str, &str)> =
        tables.chain(now.views.iter().map(|v| (v.pipeline.as_str(), v.name.as_str()))).collect();
    // Each part by itself: what both have in common makes no name alike.
    let of = nearest(pipeline, all.iter().map(|(p, _)| *p));
    let near = of.and_then(|of| Some((of, nearest(name, all.iter().filter(|(p, _)| *p == of).map(|(_, n)| *n))?)));
    let hint = match near {
        Some((pipeline, name)) => format!("did you mean /tables/{pipeline}/{name}?"),
        None => "/tables lists them; tables are made by `pipe run`".to_string(),
    };
    Problem::new(StatusCode::NOT_FOUND, "unknown_table", format!("there is no table `{pipeline}.{name}`")).hint(hint)
}

/// Columns, and rows as objects.
async fn first(shared: &Shared, pipeline: &str, name: &str, most: u64) -> Result<(Value, Value), Refusal> {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let sql = format!("SELECT * FROM {}.{} LIMIT {most}", quoted(pipeline), quoted(name));
    let ctx = shared.service.session();
    let plan = shared.service.plan(&ctx, &sql).await?;
    let rows = shared.service.run(Wire::Http, &ctx, plan).await?;
    let schema = rows.schema();
    let mut encoder = Encoder::new(Format::Json, &schema, most)?;
    for batch in rows.collect().await? {
        encoder.rows(&batch)?;
    }
    encoder.finish()?;
    let rows = serde_json::from_slice(&encoder.take()).unwrap_or_default();
    Ok((json!(columns(&schema)), rows))
}
