//! One side of a comparison: its requests, read and checked.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, AsArray, Float64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, Schema, SchemaRef};
use datafusion::execution::context::SessionContext;
use futures::StreamExt;

use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::query::errors::running;
use crate::spec::PairBy;
use crate::stage::Cancel;
use crate::trace::measured::WARMUP;

/// Columns of numbers that are read where they are there.
pub(super) const NUMBERS: [&str; 9] = [
    "arrival_ns",
    "ttft_ns",
    "tpot_ns",
    "itl_ns_mean",
    "e2e_ns",
    "queue_ns",
    "second_chunk_ns",
    "input_tokens",
    "output_tokens",
];
/// Those of which a table must have one.
pub(super) const LATENCIES: [&str; 4] = ["ttft_ns", "tpot_ns", "itl_ns_mean", "e2e_ns"];
/// Statuses of requests that were served.
const SERVED: [&str; 3] = ["completed", "finished", "length_capped"];
const PROBLEMS_MAX: usize = 20;

/// A request of one side.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Request {
    pub id: i64,
    pub served: bool,
    /// It belongs to a warm-up or cool-down, as the table itself says.
    pub left_out: bool,
    pub arrival_ns: Option<f64>,
    pub ttft_ns: Option<f64>,
    pub tpot_ns: Option<f64>,
    pub itl_ns: Option<f64>,
    pub e2e_ns: Option<f64>,
    pub queue_ns: Option<f64>,
    pub second_chunk_ns: Option<f64>,
    pub input_tokens: Option<f64>,
    pub output_tokens: Option<f64>,
}

/// The requests of each scenario, sorted by what they are paired by.
pub(super) type Side = BTreeMap<i64, Vec<Request>>;

/// The name under which a schema has a column: as of measurements and simulations, or as a trace keeps what was observed.
fn found_as(schema: &Schema, name: &str) -> Option<String> {
    let observed = format!("observed_{name}");
    [name.to_string(), observed].into_iter().find(|n| schema.column_with_name(n).is_some())
}

/// What is wrong with the columns of a table.
pub(super) fn problems(table: &str, schema: &SchemaRef, pair: PairBy) -> Vec<Diagnostic> {
    let has = |name: &str| found_as(schema, name).is_some();
    let mut found = Vec::new();
    let key = match pair {
        PairBy::RequestId => "request_id",
        PairBy::Order => "arrival_ns",
    };
    if !has(key) {
        let help = match pair {
            PairBy::RequestId => "requests are paired by their numbers; `pair: order` pairs them by their arrivals",
            PairBy::Order => {
                "`pair: order` pairs requests by their arrivals; leave it out to pair them by `request_id`"
            }
        };
        found.push(Diagnostic::new("compare::column", format!("`{table}` has no column `{key}`")).help(help));
    }
    if !LATENCIES.iter().any(|name| has(name)) {
        let what = format!("`{table}` has none of the columns {}", LATENCIES.map(|n| format!("`{n}`")).join(", "));
        let help = "expected the table `<stage>_measured` of an ingest stage, a trace with columns such as \
                    `observed_ttft_ns`, `<stage>_requests` of a simulate stage, or SQL with such columns";
        found.push(Diagnostic::new("compare::column", what).help(help));
    }
    for name in NUMBERS.into_iter().chain(["request_id", "scenario_id"]) {
        if let Some(name) = found_as(schema, name)
            && let Some((_, field)) = schema.column_with_name(&name)
            && !(field.data_type().is_numeric() || *field.data_type() == DataType::Null)
        {
            let what = format!("column `{name}` of `{table}` is {}: expected numbers", field.data_type());
            found.push(Diagnostic::new("compare::column", what));
        }
    }
    found
}

/// Reads a table.
///
/// # Errors
/// It lacks columns, or has times that cannot be, or several requests of one number.
pub(super) async fn read(ctx: &SessionContext, table: &str, pair: PairBy, cancel: &Cancel) -> Result<Side> {
    let frame = ctx.table(table).await.map_err(|e| running(&e))?;
    let schema: SchemaRef = frame.schema().as_arrow().clone().into();
    let diagnostics = problems(table, &schema, pair);
    if !diagnostics.is_empty() {
        return Err(Failure { exit: Exit::Stage, diagnostics });
    }
    let mut rows = frame.execute_stream().await.map_err(|e| running(&e))?;
    let (mut side, mut wrong, mut next) = (Side::new(), Vec::new(), 0);
    while let Some(batch) = rows.next().await {
        cancel.check()?;
        take(table, &batch.map_err(|e| running(&e))?, &mut next, &mut side, &mut wrong)?;
        if wrong.len() >= PROBLEMS_MAX {
            break;
        }
    }
    for (scenario, requests) in &mut side {
        match pair {
            PairBy::RequestId => {
                requests.sort_by_key(|r| r.id);
                wrong.extend(duplicates(table, *scenario, requests));
            }
            PairBy::Order => requests.sort_by(|a, b| {
                let at = |r: &Request| r.arrival_ns.unwrap_or(f64::INFINITY);
                at(a).total_cmp(&at(b)).then(a.id.cmp(&b.id))
            }),
        }
    }
    let unmeasured = |r: &Request| [r.ttft_ns, r.tpot_ns, r.itl_ns, r.e2e_ns].iter().all(Option::is_none);
    if wrong.is_empty() && !side.is_empty() && side.values().flatten().all(unmeasured) {
        let what = format!("no request of `{table}` has a latency");
        let help = "a trace has the columns `observed_*`, with values where a server answered it";
        wrong.push(Diagnostic::new("compare::column", what).help(help));
    }
    wrong.truncate(PROBLEMS_MAX);
    if wrong.is_empty() { Ok(side) } else { Err(Failure { exit: Exit::Stage, diagnostics: wrong }) }
}

fn duplicates(table: &str, scenario: i64, sorted: &[Request]) -> Option<Diagnostic> {
    let ids: BTreeSet<i64> = sorted.windows(2).filter(|w| w[0].id == w[1].id).map(|w| w[0].id).collect();
    let first = ids.first()?;
    let what =
        format!("`{table}` has {} numbers of requests more than once, e.g. {first} (scenario {scenario})", ids.len());
    let help = "each request has one row per scenario; of a table of several runs, select one";
    Some(Diagnostic::new("compare::duplicate", what).help(help))
}

fn take(table: &str, batch: &RecordBatch, next: &mut i64, side: &mut Side, wrong: &mut Vec<Diagnostic>) -> Result<()> {
    let unreadable = |name: &str| Failure::stage("compare::input", format!("cannot read column `{name}` of `{table}`"));
    let integers = |name: &str| -> Result<Option<Vec<i64>>> {
        let Some(column) = batch.column_by_name(name) else { return Ok(None) };
        let column = cast(column, &DataType::Int64).map_err(|_| unreadable(name))?;
        if column.null_count() > 0 {
            let what = format!("column `{name}` of `{table}` has rows without a value");
            return Err(Diagnostic::new("compare::column", what).help("expected a number in every row").into());
        }
        Ok(Some(column.as_primitive::<Int64Type>().values().to_vec()))
    };
    let (ids, scenarios) = (integers("request_id")?, integers("scenario_id")?);
    let schema = batch.schema();
    let of = |name: &str| batch.column_by_name(&found_as(&schema, name)?);
    let mut numbers: BTreeMap<&str, Float64Array> = BTreeMap::new();
    for name in NUMBERS {
        let Some(column) = of(name) else { continue };
        let column = cast(column, &DataType::Float64).map_err(|_| unreadable(name))?;
        let column = column.as_primitive::<Float64Type>().clone();
        // An arrival may be before that of the first request of another clock; nothing else is below 0.
        let cannot_be = |v: f64| !v.is_finite() || (v < 0.0 && name != "arrival_ns");
        for (row, value) in column.iter().enumerate().filter(|(_, v)| v.is_some_and(cannot_be)) {
            let id = ids.as_ref().map_or(*next + row as i64, |ids| ids[row]);
            let what = format!("`{table}`: `{name}` of request {id} is {}", value.unwrap_or_default());
            let help = "expected a number from 0 up, or nothing where it was not measured";
            wrong.push(Diagnostic::new("compare::value", what).help(help));
        }
        numbers.insert(name, column);
    }
    let status = match of("status") {
        Some(column) => Some(cast(column, &DataType::Utf8).map_err(|_| unreadable("status"))?),
        None => None,
    };
    let measured = batch.column_by_name("measured").and_then(|c| c.as_boolean_opt());
    for row in 0..batch.num_rows() {
        let number = |name: &str| numbers.get(name).and_then(|c| c.is_valid(row).then(|| c.value(row)));
        let status = status.as_ref().and_then(|s| s.is_valid(row).then(|| s.as_string::<i32>().value(row)));
        let request = Request {
            id: ids.as_ref().map_or(*next + row as i64, |ids| ids[row]),
            served: status.is_none_or(|s| SERVED.contains(&s)),
            left_out: status == Some(WARMUP) || measured.is_some_and(|m| m.is_valid(row) && !m.value(row)),
            arrival_ns: number("arrival_ns"),
            ttft_ns: number("ttft_ns"),
            tpot_ns: number("tpot_ns"),
            itl_ns: number("itl_ns_mean"),
            e2e_ns: number("e2e_ns"),
            queue_ns: number("queue_ns"),
            second_chunk_ns: number("second_chunk_ns"),
            input_tokens: number("input_tokens"),
            output_tokens: number("output_tokens"),
        };
        side.entry(scenarios.as_ref().map_or(0, |s| s[row])).or_default().push(request);
    }
    *next += batch.num_rows() as i64;
    Ok(())
}
