//! From the kernel's rows to tables: the rows of one scenario, and its totals.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use pipe_kernel::request::Requests;
use pipe_kernel::scenario::Scenario;
use pipe_kernel::sim::{self, RequestRow, SimError, Sink, StepRow, Summary};
use pipe_kernel::units::{SimDuration, SimTime};

use crate::table::simulation;

/// Everything that one scenario yields.
pub(crate) struct Outcome {
    /// [`simulation::memo_requests`].
    pub requests: RecordBatch,
    /// [`simulation::memo_steps`]; no rows unless asked for.
    pub steps: RecordBatch,
    pub totals: Totals,
}

/// Why a scenario has no outcome.
pub(crate) enum Stopped {
    Cancelled,
    /// In words for the user.
    Failed(String),
}

/// Simulates one scenario.
///
/// # Errors
/// The scenario is impossible with these requests, or `stop` was set.
pub(crate) fn simulate(
    scenario: &Scenario,
    requests: &Requests,
    steps: bool,
    stop: &std::sync::atomic::AtomicBool,
) -> Result<Outcome, Stopped> {
    let mut rows = Rows { requests: Vec::with_capacity(requests.len()), steps: Vec::new(), wants_steps: steps };
    let summary = sim::simulate(scenario, requests, &mut rows, stop).map_err(|e| match e {
        SimError::Cancelled => Stopped::Cancelled,
        SimError::Invalid { path, message } => Stopped::Failed(format!("`{path}`: {message}")),
    })?;
    rows.requests.sort_unstable_by_key(|r| r.request);
    let totals = Totals::new(scenario, &summary, &rows.requests);
    let arrow = |e: ArrowError| Stopped::Failed(e.to_string());
    Ok(Outcome {
        requests: request_batch(&rows.requests).map_err(arrow)?,
        steps: step_batch(&rows.steps).map_err(arrow)?,
        totals,
    })
}

struct Rows {
    requests: Vec<RequestRow>,
    steps: Vec<StepRow>,
    wants_steps: bool,
}

impl Sink for Rows {
    fn request(&mut self, row: RequestRow) {
        self.requests.push(row);
    }
    fn step(&mut self, row: StepRow) {
        self.steps.push(row);
    }
    fn wants_steps(&self) -> bool {
        self.wants_steps
    }
}

fn ints(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(values.collect::<Int64Array>())
}

fn optional(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<Int64Array>())
}

/// Token counts and replicas lie far below 2^31: traces are refused beyond 2^24 tokens.
fn int32s(values: impl Iterator<Item = u32>) -> ArrayRef {
    Arc::new(values.map(|v| i32::try_from(v).unwrap_or(i32::MAX)).collect::<Int32Array>())
}

fn count(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn since(later: Option<SimTime>, earlier: Option<SimTime>) -> Option<i64> {
    Some((later? - earlier?).0)
}

/// Nearest nanosecond to (finished - first token) / (output tokens - 1), half up.
fn tpot(row: &RequestRow) -> Option<i64> {
    let span = since(row.finished, row.first_token)?;
    let gaps = i64::from(row.output_tokens).checked_sub(1).filter(|g| *g > 0)?;
    Some((span + gaps / 2) / gaps)
}

fn request_batch(rows: &[RequestRow]) -> Result<RecordBatch, ArrowError> {
    let r = || rows.iter();
    let time = |t: Option<SimTime>| t.map(|t| t.0);
    let columns: Vec<ArrayRef> = vec![
        ints(r().map(|r| i64::from(r.request))),
        int32s(r().map(|r| r.replica)),
        Arc::new(StringArray::from_iter_values(r().map(|r| r.status.as_str()))),
        ints(r().map(|r| r.arrival.0)),
        optional(r().map(|r| time(r.scheduled))),
        optional(r().map(|r| time(r.first_token))),
        optional(r().map(|r| time(r.finished))),
        optional(r().map(|r| since(r.scheduled, Some(r.arrival)))),
        optional(r().map(|r| since(r.first_token, Some(r.arrival)))),
        optional(r().map(tpot)),
        optional(r().map(|r| since(r.finished, Some(r.arrival)))),
        int32s(r().map(|r| r.input_tokens)),
        int32s(r().map(|r| r.output_tokens)),
        int32s(r().map(|r| r.cached_tokens)),
        int32s(r().map(|r| r.preemptions)),
    ];
    RecordBatch::try_new(simulation::memo_requests(), columns)
}

fn step_batch(rows: &[StepRow]) -> Result<RecordBatch, ArrowError> {
    let r = || rows.iter();
    let columns: Vec<ArrayRef> = vec![
        int32s(r().map(|r| r.replica)),
        ints(r().map(|r| r.start.0)),
        ints(r().map(|r| r.duration.0)),
        int32s(r().map(|r| r.decode_requests)),
        int32s(r().map(|r| r.prefill_requests)),
        int32s(r().map(|r| r.prefill_tokens)),
        int32s(r().map(|r| r.waiting)),
        ints(r().map(|r| count(r.kv_blocks_used))),
    ];
    RecordBatch::try_new(simulation::memo_steps(), columns)
}

/// Totals of a scenario, in integers only: what is derived from them comes out the same whether they were just
/// computed or read back from JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Totals {
    gpus: i64,
    requests: i64,
    finished: i64,
    rejected: i64,
    preemptions: i64,
    steps: i64,
    duration_ns: i64,
    busy_ns: i64,
    input_tokens: i64,
    output_tokens: i64,
    kv_blocks_total: i64,
    kv_blocks_max: i64,
    prefix_tokens_queried: i64,
    prefix_tokens_hit: i64,
    itl: Gaps,
}

/// The distribution of the gaps between tokens, as far as the tables need it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Gaps {
    count: i64,
    sum_ns: i64,
    /// The two gaps that each of [`QUANTILES`] lies between, in ns.
    neighbours_ns: [[i64; 2]; 3],
}

const QUANTILES: [f64; 3] = [0.5, 0.9, 0.99];

impl Totals {
    fn new(scenario: &Scenario, summary: &Summary, rows: &[RequestRow]) -> Totals {
        let first = rows.iter().map(|r| r.arrival).min().unwrap_or(summary.end);
        let finished = || rows.iter().filter(|r| r.finished.is_some());
        Totals {
            gpus: count(scenario.deployment.gpus()),
            requests: count(summary.injected),
            finished: count(summary.finished),
            rejected: count(summary.rejected),
            preemptions: count(summary.preemptions),
            steps: count(summary.steps),
            duration_ns: (summary.end - first).0,
            busy_ns: summary.busy.0,
            input_tokens: finished().map(|r| i64::from(r.input_tokens)).sum(),
            output_tokens: finished().map(|r| i64::from(r.output_tokens)).sum(),
            kv_blocks_total: count(summary.kv_blocks_total),
            kv_blocks_max: count(summary.kv_blocks_max),
            prefix_tokens_queried: count(summary.prefix_tokens_queried),
            prefix_tokens_hit: count(summary.prefix_tokens_hit),
            itl: Gaps::new(&summary.itl),
        }
    }

    /// Requests that arrived.
    pub fn requests(&self) -> i64 {
        self.requests
    }

    /// Per second of the duration; null where that is zero.
    fn rate(&self, n: i64) -> Option<f64> {
        (self.duration_ns > 0).then(|| n as f64 / (self.duration_ns as f64 / 1e9))
    }
}

impl Gaps {
    fn new(itl: &[(SimDuration, u64)]) -> Gaps {
        let count: u64 = itl.iter().map(|(_, n)| n).sum();
        let sum: i128 = itl.iter().map(|(gap, n)| i128::from(gap.0) * i128::from(*n)).sum();
        let neighbours_ns = QUANTILES.map(|q| {
            let (low, _) = position(count, q);
            [nth(itl, low), nth(itl, (low + 1).min(count.saturating_sub(1)))]
        });
        Gaps { count: self::count(count), sum_ns: i64::try_from(sum).unwrap_or(i64::MAX), neighbours_ns }
    }

    fn mean_ms(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum_ns as f64 / self.count as f64 / 1e6)
    }

    fn quantile_ms(&self, which: usize) -> Option<f64> {
        let (_, fraction) = position(u64::try_from(self.count).unwrap_or(0), QUANTILES[which]);
        let [low, high] = self.neighbours_ns[which];
        (self.count > 0).then(|| (low as f64 + fraction * (high - low) as f64) / 1e6)
    }
}

/// Rank of the value below the quantile, and how far the quantile lies on the way to the next (numpy's `linear`).
fn position(count: u64, q: f64) -> (u64, f64) {
    let h = q * count.saturating_sub(1) as f64;
    (h.floor() as u64, h - h.floor())
}

/// The gap of the given rank, from 0.
fn nth(itl: &[(SimDuration, u64)], rank: u64) -> i64 {
    let mut before = 0;
    for (gap, n) in itl {
        before += n;
        if rank < before {
            return gap.0;
        }
    }
    0
}

/// The columns of [`simulation::totals`], a row per scenario.
pub(crate) fn totals_columns(all: &[Totals]) -> Vec<ArrayRef> {
    let int = |f: fn(&Totals) -> i64| ints(all.iter().map(f));
    let float =
        |f: &dyn Fn(&Totals) -> Option<f64>| -> ArrayRef { Arc::new(all.iter().map(f).collect::<Float64Array>()) };
    vec![
        int(|t| t.gpus),
        int(|t| t.requests),
        int(|t| t.finished),
        int(|t| t.rejected),
        int(|t| t.preemptions),
        int(|t| t.steps),
        int(|t| t.duration_ns),
        int(|t| t.busy_ns),
        int(|t| t.input_tokens),
        int(|t| t.output_tokens),
        int(|t| t.kv_blocks_total),
        int(|t| t.kv_blocks_max),
        int(|t| t.prefix_tokens_queried),
        int(|t| t.prefix_tokens_hit),
        float(&|t| t.rate(t.finished)),
        float(&|t| t.rate(t.output_tokens)),
        float(&|t| t.itl.mean_ms()),
        float(&|t| t.itl.quantile_ms(0)),
        float(&|t| t.itl.quantile_ms(1)),
        float(&|t| t.itl.quantile_ms(2)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_gaps_are_those_of_the_gaps_written_out() {
        let gaps = Gaps::new(&[(SimDuration(1_000_000), 3), (SimDuration(2_000_000), 1), (SimDuration(10_000_000), 1)]);
        // numpy.quantile([1, 1, 1, 2, 10], [0.5, 0.9, 0.99]) = 1, 6.8, 9.68
        assert_eq!(gaps.mean_ms(), Some(3.0));
        assert_eq!(gaps.quantile_ms(0), Some(1.0));
        assert!((gaps.quantile_ms(1).unwrap() - 6.8).abs() < 1e-12);
        assert!((gaps.quantile_ms(2).unwrap() - 9.68).abs() < 1e-12);
        let none = Gaps::new(&[]);
        assert_eq!((none.mean_ms(), none.quantile_ms(2)), (None, None));
        let one = Gaps::new(&[(SimDuration(5_000_000), 1)]);
        assert_eq!(one.quantile_ms(2), Some(5.0));
    }

    #[test]
    fn totals_have_a_column_each() {
        let columns = totals_columns(&[Totals::default()]);
        let fields = simulation::totals();
        assert_eq!(columns.len(), fields.len());
        for (column, field) in columns.iter().zip(&fields) {
            assert_eq!(column.data_type(), field.data_type(), "{}", field.name());
        }
    }
}
