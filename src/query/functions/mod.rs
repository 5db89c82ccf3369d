//! Functions that every query can use besides DataFusion's, and those of DataFusion that are replaced.
//!
//! Replaced are `sum` and `avg`: over floats, DataFusion adds in the order in which partitions happen to finish, so
//! that the last bits differ from run to run. Ours add exactly and round once. Functions that make large values of
//! small ones are DataFusion's with a limit: see [`bounded`].

pub mod bounded;
mod buckets;
pub mod concat;
pub mod exact;
mod method;
mod quantile;
mod rates;
mod scalars;
mod sizes;
mod slo;
mod sums;

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{DataType, Float64Type, Schema};
use datafusion::common::ScalarValue;
use datafusion::common::cast::as_list_array;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{AggregateUDF, ColumnarValue, ScalarUDF};
use datafusion::physical_plan::PhysicalExpr;

pub use quantile::quantile_of;

/// A function of ours, for `pipe sql --functions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionDoc {
    pub name: &'static str,
    pub syntax: &'static str,
    pub description: &'static str,
    pub example: &'static str,
}

/// The functions that pipe adds, in alphabetical order.
pub fn function_docs() -> &'static [FunctionDoc] {
    &[
        FunctionDoc {
            name: "avg",
            syntax: "avg(x)",
            description: "Mean: exact sum, rounded once, divided by the number of values. Does not depend on the order \
                          of the rows.",
            example: "avg(ttft_ns) / 1e6",
        },
        FunctionDoc {
            name: "goodput",
            syntax: "goodput(condition, arrival_ns, finished_ns)",
            description: "Requests per second for which the condition is true: their number over the time from the \
                          first arrival to the last completion of all rows. NULL where that time is zero.",
            example: "goodput(ms(ttft_ns) <= 200 and coalesce(ms(tpot_ns), 0) <= 50, arrival_ns, finished_ns)",
        },
        FunctionDoc {
            name: "histogram",
            syntax: "histogram(x, lo, hi, n)",
            description: "Number of values in each of n buckets of equal width from lo (included) to hi (not), as a list \
                          of n + 2 counts: the first is of values before lo, the last of those from hi on. Adds up to \
                          count(x); NULLs are left out. lo, hi and n are constants. A row per bucket instead: GROUP BY \
                          width_bucket(x, lo, hi, n).",
            example: "histogram(ms(ttft_ns), 0, 1000, 20)",
        },
        FunctionDoc {
            name: "ms",
            syntax: "ms(ns)",
            description: "Nanoseconds as milliseconds (Float64).",
            example: "ms(e2e_ns)",
        },
        FunctionDoc {
            name: "quantile",
            syntax: "quantile(x, q[, method])",
            description: "Exact quantile with linear interpolation (numpy's default), or by another of numpy's methods: \
                          'inverted_cdf', 'averaged_inverted_cdf', 'closest_observation', \
                          'interpolated_inverted_cdf', 'hazen', 'weibull', 'linear', 'median_unbiased', \
                          'normal_unbiased', 'lower', 'higher', 'midpoint', 'nearest'. NULLs are left out; NULL \
                          without values. q is a constant from 0 to 1. Integers beyond 2^53 are rounded to Float64 \
                          first.",
            example: "quantile(ttft_ns, 0.99) / 1e6",
        },
        FunctionDoc {
            name: "s",
            syntax: "s(ns)",
            description: "Nanoseconds as seconds (Float64).",
            example: "s(duration_ns)",
        },
        FunctionDoc {
            name: "slo_attainment",
            syntax: "slo_attainment(condition)",
            description: "Fraction of the rows for which the condition is true. NULL counts as a miss: a request \
                          without an answer did not meet its objective.",
            example: "slo_attainment(ms(ttft_ns) <= 200 and coalesce(ms(tpot_ns), 0) <= 50)",
        },
        FunctionDoc {
            name: "sum",
            syntax: "sum(x)",
            description: "Sum. Over floats it is exact and rounded once, whatever the order of the rows.",
            example: "sum(output_tokens)",
        },
        FunctionDoc {
            name: "tokens_per_s",
            syntax: "tokens_per_s(tokens, ns)",
            description: "Tokens per second: tokens * 10^9 / ns, over integers rounded once (Float64). NULL where the \
                          time is zero. Of many rows, the rate is that of their sums, not the mean of their rates.",
            example: "tokens_per_s(sum(output_tokens), max(finished_ns) - min(arrival_ns))",
        },
        FunctionDoc {
            name: "width_bucket",
            syntax: "width_bucket(x, lo, hi, n)",
            description: "The bucket of x among n of equal width from lo (included) to hi (not), as in PostgreSQL: 1 to \
                          n, 0 before lo, n + 1 from hi on; with lo above hi, buckets run downwards. Exact over \
                          integers. NULL for NULL.",
            example: "width_bucket(ms(ttft_ns), 0, 1000, 20)",
        },
    ]
}

/// The aggregates to register, over those of DataFusion with the same name.
pub fn aggregates() -> Vec<AggregateUDF> {
    vec![
        AggregateUDF::new_from_impl(quantile::Quantile::new()),
        AggregateUDF::new_from_impl(sums::Sum::new()),
        AggregateUDF::new_from_impl(sums::Avg::new()),
        AggregateUDF::new_from_impl(slo::Attainment::new()),
        AggregateUDF::new_from_impl(slo::Goodput::new()),
        AggregateUDF::new_from_impl(buckets::Histogram::new()),
    ]
}

/// The scalar functions to register, over those of DataFusion with the same name.
pub fn scalars() -> Vec<ScalarUDF> {
    let mut all = vec![
        ScalarUDF::new_from_impl(scalars::PerUnit::new("ms", 1e6)),
        ScalarUDF::new_from_impl(scalars::PerUnit::new("s", 1e9)),
        ScalarUDF::new_from_impl(rates::TokensPerS::new()),
        ScalarUDF::new_from_impl(buckets::WidthBucket::new()),
    ];
    all.extend(bounded::scalars());
    all
}

/// The value of an expression without columns; `None` where it is NULL.
fn constant(expr: &Arc<dyn PhysicalExpr>) -> Result<Option<ScalarValue>> {
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options)?;
    let value = match expr.evaluate(&row)? {
        ColumnarValue::Scalar(v) => v,
        ColumnarValue::Array(a) => ScalarValue::try_from_array(&a, 0)?,
    };
    Ok((!value.is_null()).then_some(value))
}

/// Whether a value of this type can be read as Float64.
fn is_number(kind: &DataType) -> bool {
    kind.is_numeric() || kind.is_null()
}

fn floats(array: &ArrayRef) -> Result<&Float64Array> {
    array
        .as_primitive_opt::<Float64Type>()
        .ok_or_else(|| DataFusionError::Internal(format!("Float64 expected, got {}", array.data_type())))
}

/// The lists of a partial state, one per partition or group, without NULLs.
fn each_list(states: &[ArrayRef], mut take: impl FnMut(&ArrayRef) -> Result<()>) -> Result<()> {
    let Some(state) = states.first() else { return Ok(()) };
    for list in as_list_array(state)?.iter().flatten() {
        take(&list)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
