//! Statements: `POST /sql` with SQL or JSON, and `GET /sql?q=` for links that download a result.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{FromRequest, Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use serde::Deserialize;
use serde_json::Value;

use super::answer::Problem;
use super::negotiate::Format;
use super::{App, PATIENCE, Shared, stream};
use crate::serve::Wire;
use crate::serve::refusal::{Reason, Refusal};

/// Rows in the format of the page, if nothing is said.
const SHOWN: u64 = 1_000;
/// Rows in the format of the page at most.
const SHOWN_MOST: u64 = 10_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HowPost {
    format: Option<String>,
    rows: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HowGet {
    q: String,
    format: Option<String>,
    rows: Option<u64>,
}

/// A statement with its parameters.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    sql: String,
    /// Values of `$1`, `$2`, ...
    #[serde(default)]
    parameters: Vec<Value>,
}

/// Runs a statement of the body.
pub async fn post(
    State(shared): App,
    how: Result<Query<HowPost>, QueryRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let Query(how) = how.map_err(|e| bad_query(&e))?;
    let format = Format::asked(how.format.as_deref(), request.headers())?;
    let kind = content_type(request.headers());
    let asked = asked(&kind, &body(request).await?)?;
    answer(&shared, &asked, format, how.rows, false).await
}

/// Runs a statement of the URL; the result is a file. HEAD only checks the statement.
pub async fn get(
    State(shared): App,
    method: Method,
    how: Result<Query<HowGet>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(how) = how.map_err(|e| bad_query(&e))?;
    let format = Format::asked(how.format.as_deref(), &headers)?;
    let asked = Asked { sql: how.q, parameters: Vec::new() };
    let mut response = answer(&shared, &asked, format, how.rows, method == Method::HEAD).await?;
    let file = format!("attachment; filename=\"result.{}\"", format.extension());
    if let Ok(value) = file.parse() {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

fn bad_query(rejection: &QueryRejection) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad_request", rejection.body_text()).hint(
        "`q` is the statement (GET only), `format` one of json, ndjson, csv, arrow, parquet, `rows` how many to send",
    )
}

async fn answer(
    shared: &Arc<Shared>,
    asked: &Asked,
    format: Format,
    rows: Option<u64>,
    only_check: bool,
) -> Result<Response, Problem> {
    let service = &shared.service;
    let ctx = service.session();
    let planned = service.plan(&ctx, &asked.sql).await;
    let planned = planned.and_then(|plan| with_parameters(plan, &asked.parameters));
    let plan = planned.and_then(|plan| first(plan, format, rows));
    let plan = plan.inspect_err(|refusal| service.refused(Wire::Http, refusal))?;
    let kind = [(header::CONTENT_TYPE, format.media_type())];
    if only_check {
        return Ok(kind.into_response());
    }
    let result = service.run(Wire::Http, &ctx, plan).await?;
    let most = rows.unwrap_or(SHOWN).min(SHOWN_MOST);
    Ok((kind, stream::body(result, format, most).await?).into_response())
}

/// The first `rows`, if so many are asked for. The format of the page counts the others too.
fn first(plan: LogicalPlan, format: Format, rows: Option<u64>) -> Result<LogicalPlan, Refusal> {
    // These stand alone, and have few rows.
    let alone = matches!(plan, LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) | LogicalPlan::DescribeTable(_));
    let Some(rows) = rows.filter(|_| format != Format::Preview && !alone) else { return Ok(plan) };
    let rows = usize::try_from(rows).unwrap_or(usize::MAX).min(i64::MAX as usize);
    let limited = LogicalPlanBuilder::from(plan).limit(0, Some(rows)).and_then(LogicalPlanBuilder::build);
    limited.map_err(|e| Refusal::new(Reason::Query, e.strip_backtrace()))
}

fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

async fn body(request: Request) -> Result<Bytes, Problem> {
    let read = tokio::time::timeout(PATIENCE, Bytes::from_request(request, &()));
    let body = read.await.map_err(|_| {
        let what = format!("the body did not arrive within {} s", PATIENCE.as_secs());
        Problem::new(StatusCode::REQUEST_TIMEOUT, "slow_request", what)
    })?;
    body.map_err(|rejection| match rejection {
        BytesRejection::FailedToBufferBody(e) if e.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let what = format!("the body is longer than {} bytes", super::BODY_BYTES);
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", what)
        }
        other => Problem::new(StatusCode::BAD_REQUEST, "bad_request", other.body_text()),
    })
}

fn asked(kind: &str, body: &[u8]) -> Result<Asked, Problem> {
    let bad = |what: String| Problem::new(StatusCode::BAD_REQUEST, "bad_request", what);
    match kind {
        "application/sql" | "text/plain" => {
            let sql = std::str::from_utf8(body).map_err(|e| bad(format!("the statement is not UTF-8: {e}")))?;
            Ok(Asked { sql: sql.to_string(), parameters: Vec::new() })
        }
        "application/json" => serde_json::from_slice(body).map_err(|e| {
            bad(format!("the body is not what is expected: {e}")).hint("{\"sql\": \"SELECT $1\", \"parameters\": [1]}")
        }),
        other => {
            let what = if other.is_empty() {
                "the request has no Content-Type".to_string()
            } else {
                format!("`{other}` is not read here")
            };
            Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", what)
                .hint("send SQL as application/sql or text/plain, or application/json: {\"sql\": \"...\"}"))
        }
    }
}

fn with_parameters(plan: LogicalPlan, values: &[Value]) -> Result<LogicalPlan, Refusal> {
    let names = plan.get_parameter_names().map_err(|e| Refusal::new(Reason::Query, e.strip_backtrace()))?;
    let needed: usize = names.iter().map(|n| n.trim_start_matches('$').parse().unwrap_or(0)).max().unwrap_or(0);
    if needed != values.len() {
        let what = format!("the statement has {needed} parameters, and {} values were given", values.len());
        return Err(Refusal::new(Reason::Query, what).hint("`parameters` are the values of $1, $2, ..."));
    }
    if values.is_empty() {
        return Ok(plan);
    }
    let values = values.iter().enumerate().map(|(i, value)| scalar(i + 1, value)).collect::<Result<Vec<_>, _>>()?;
    plan.with_param_values(ParamValues::from(values)).map_err(|e| {
        Refusal::new(Reason::Query, e.strip_backtrace()).hint("`parameters` are the values of $1, $2, ...")
    })
}

fn scalar(number: usize, value: &Value) -> Result<ScalarValue, Refusal> {
    let unfit =
        || Refusal::new(Reason::Query, format!("the parameter ${number} is not a number, text, boolean or null"));
    Ok(match value {
        Value::Null => ScalarValue::Null,
        Value::Bool(b) => ScalarValue::Boolean(Some(*b)),
        Value::String(s) => ScalarValue::Utf8(Some(s.clone())),
        Value::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(n), _, _) => ScalarValue::Int64(Some(n)),
            (None, Some(n), _) => ScalarValue::UInt64(Some(n)),
            (None, None, Some(n)) => ScalarValue::Float64(Some(n)),
            (None, None, None) => return Err(unfit()),
        },
        Value::Array(_) | Value::Object(_) => return Err(unfit()),
    })
}
