//! Columns of a request that follow from others, so that they need not be remembered: [`DERIVED`](crate::table::simulation::DERIVED).

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};

use super::totals::per;
use crate::diag::{Failure, Result};

/// A column of the remembered rows of a scenario that is not among them.
///
/// # Errors
/// The rows lack what it follows from, or nobody knows how it would.
pub(super) fn column(name: &str, rows: &RecordBatch) -> Result<ArrayRef> {
    let spans = match name {
        "queue_ns" => span(rows, "arrival_ns", "scheduled_ns")?,
        "prefill_ns" => span(rows, "scheduled_ns", "first_token_ns")?,
        "kv_transfer_ns" => span(rows, "prefilled_ns", "kv_ready_ns")?,
        "decode_ns" => span(rows, "first_token_ns", "finished_ns")?,
        "ttft_ns" => span(rows, "arrival_ns", "first_token_ns")?,
        "e2e_ns" => span(rows, "arrival_ns", "finished_ns")?,
        "tpot_ns" => per_token(rows, &span(rows, "first_token_ns", "finished_ns")?, 1)?,
        "tpot_incl_first_ns" => per_token(rows, &span(rows, "arrival_ns", "finished_ns")?, 0)?,
        other => return Err(lacking(other)),
    };
    Ok(Arc::new(spans))
}

pub(super) fn lacking(name: &str) -> Failure {
    Failure::stage("simulate::rows", format!("the rows of a scenario have no column {name}"))
}

/// From one time to another; null where either is.
fn span(rows: &RecordBatch, from: &str, to: &str) -> Result<Int64Array> {
    let times = |name: &str| {
        let column = rows.column_by_name(name).and_then(|c| c.as_primitive_opt::<Int64Type>());
        column.ok_or_else(|| lacking(name))
    };
    let (from, to) = (times(from)?, times(to)?);
    Ok(from.iter().zip(to.iter()).map(|(from, to)| Some(to? - from?)).collect())
}

/// A span over the output tokens of a sample but `less` of them, to the nearest ns; null where that is none.
fn per_token(rows: &RecordBatch, spans: &Int64Array, less: i64) -> Result<Int64Array> {
    let counts = |name: &str| {
        let column = rows.column_by_name(name).and_then(|c| c.as_primitive_opt::<Int32Type>());
        column.ok_or_else(|| lacking(name))
    };
    let tokens = counts("output_tokens")?.values().iter().zip(counts("samples")?.values());
    let each = |(tokens, samples): (&i32, &i32)| i64::from(tokens / (*samples).max(1)) - less;
    Ok(spans.iter().zip(tokens).map(|(span, counts)| per(span?, each(counts))).collect())
}
