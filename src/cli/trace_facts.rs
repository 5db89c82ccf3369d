//! What `pipe show` says of a table of requests: load, burstiness, lengths, sessions, and what prompts share.
//!
//! The figures are those of the queries in `queries/trace/`, which `pipelines/characterize.yaml` runs as stages.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Schema};

use super::{duration, thousands};
use crate::diag::Result;
use crate::query::Engine;

const SUMMARY: &str = include_str!("../../queries/trace/summary.sql");
const PREFIXES: &str = include_str!("../../queries/trace/prefixes.sql");
const RATE: &str = include_str!("../../queries/trace/rate.sql");

/// Columns that only tables of requests have all of.
const COLUMNS: [&str; 6] = ["request_id", "arrival_ns", "session_id", "input_tokens", "output_tokens", "block_hashes"];
/// Requests beyond which the blocks of all prompts are not gone through: that would take minutes.
const HASHED_MAX: u64 = 2_000_000;
/// Heights of a small plot.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Whether a table with these columns is a trace.
pub(super) fn is_trace(schema: &Schema) -> bool {
    let has = |name: &str| schema.field_with_name(name).is_ok();
    COLUMNS.iter().all(|name| has(name)) && !has("scenario_id")
}

/// The lines about `pipeline.table`, which has `rows` rows.
///
/// # Errors
/// A query fails.
pub(super) async fn lines(engine: &Engine, pipeline: &str, table: &str, rows: u64) -> Result<Vec<String>> {
    let of = |query: &str| query.replace("FROM trace", &format!("FROM \"{pipeline}\".\"{table}\" AS trace"));
    // In `rate.sql` the table has a name of its own.
    let of = |query: &str| of(query).replace(" AS trace t ", " AS t ");
    let summary = Row::of(&engine.rows(&of(SUMMARY)).await?);
    let mut lines = arrivals(&summary, rows);
    for (what, of) in [("prompts", "input"), ("replies", "output")] {
        let value = |name: &str| summary.count(&format!("{of}_tokens_{name}"));
        lines.push(format!(
            "{what:<9}{} tokens on average; p50 {}, p90 {}, p99 {}, longest {}",
            value("mean"),
            value("p50"),
            value("p90"),
            value("p99"),
            value("max"),
        ));
    }
    lines.extend(labels(&summary));
    if summary.number("requests_hashed") > 0.0 {
        if rows > HASHED_MAX {
            lines.push("prefixes `pipelines/characterize.yaml` goes through the blocks of so many prompts".to_string());
        } else {
            let found = Row::of(&engine.rows(&of(PREFIXES)).await?);
            lines.push(format!(
                "prefixes {:.2} % of the tokens and {:.2} % of the blocks of prompts were there before; {} different \
                 blocks of {} tokens",
                100.0 * found.number("tokens_hit_share"),
                100.0 * found.number("blocks_hit_share"),
                found.count("blocks_distinct"),
                found.count("block_tokens"),
            ));
        }
    }
    let rates: Vec<f64> = engine.rows(&of(RATE)).await?.iter().flat_map(|rows| numbers(rows, "rate_rps")).collect();
    let most = rates.iter().copied().fold(0.0, f64::max);
    if most > 0.0 {
        let bar = |rate: &f64| BARS[((rate / most * 7.0).round() as usize).min(7)];
        lines.push(format!("load     {}", rates.iter().map(bar).collect::<String>()));
        lines.push(format!("         requests per second from the first arrival to the last; highest bar {most:.3}"));
    }
    Ok(lines)
}

fn arrivals(summary: &Row, rows: u64) -> Vec<String> {
    let mut line = format!("requests {}", thousands(rows));
    let Some(span) = summary.get("span_s") else {
        return vec![format!("{line}, without arrival times")];
    };
    line += &format!(" in {}", duration((span * 1000.0).round() as u64));
    if let Some(rate) = summary.get("rate_rps") {
        line += &format!(": {rate:.3} per second, {:.3} in the fullest minute", summary.number("peak_rps"));
    }
    let mut lines = vec![line];
    if let Some(cv) = summary.get("gap_cv") {
        let tied = summary.count("arrivals_tied");
        lines.push(format!(
            "gaps     coefficient of variation {cv:.3} (1 is Poisson); {tied} arrive with the one before"
        ));
    }
    lines
}

/// Sessions, clients, tenants and models, where there are some.
fn labels(summary: &Row) -> Option<String> {
    let mut parts = Vec::new();
    if summary.number("sessions") > 0.0 {
        let (sessions, turns) = (summary.count("sessions"), summary.number("turns_mean"));
        parts.push(format!("{sessions} of {turns:.2} turns on average"));
    }
    for name in ["clients", "tenants", "models"] {
        if summary.number(name) > 0.0 {
            parts.push(format!("{} {name}", summary.count(name)));
        }
    }
    (!parts.is_empty()).then(|| format!("sessions {}", parts.join("; ")))
}

/// The one row of a result.
struct Row(Vec<RecordBatch>);

impl Row {
    fn of(rows: &[RecordBatch]) -> Row {
        Row(rows.to_vec())
    }

    /// `None` where it is null.
    fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().flat_map(|rows| numbers(rows, name)).next().filter(|v| v.is_finite())
    }

    fn number(&self, name: &str) -> f64 {
        self.get(name).unwrap_or(0.0)
    }

    /// To the nearest whole number.
    fn count(&self, name: &str) -> String {
        thousands(self.number(name).round() as u64)
    }
}

/// A column as numbers; null is not a number.
fn numbers(rows: &RecordBatch, name: &str) -> Vec<f64> {
    let column = rows.column_by_name(name).and_then(|c| cast(c, &DataType::Float64).ok());
    let Some(column) = column else { return Vec::new() };
    let column = column.as_primitive::<Float64Type>();
    (0..column.len()).map(|i| if column.is_valid(i) { column.value(i) } else { f64::NAN }).collect()
}
