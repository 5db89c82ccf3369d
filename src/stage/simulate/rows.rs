//! From the kernel's rows to tables: simulates one scenario, and puts its rows into columns.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::error::ArrowError;

use pipe_kernel::request::Requests;
use pipe_kernel::scenario::{ClassRules, Load, Scenario};
use pipe_kernel::sim::{self, RequestRow, SimError, Sink, StepRow};
use pipe_kernel::units::{SimDuration, SimTime};

use super::measure::measured;
use super::totals::{self, Totals};
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
    let measured = measured(&scenario.measure, &rows.requests);
    let totals = Totals::new(scenario, &summary, &rows.requests, &measured);
    let wishes = Wishes { load: &scenario.workload, requests };
    let arrow = |e: ArrowError| Stopped::Failed(e.to_string());
    Ok(Outcome {
        requests: request_batch(&rows.requests, measured, &wishes).map_err(arrow)?,
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

/// What the clients of a scenario ask for: of a request itself, else of its class, else of all.
struct Wishes<'a> {
    load: &'a Load,
    requests: &'a Requests,
}

impl Wishes<'_> {
    fn rules(&self, request: u32) -> Option<&ClassRules> {
        let class = own(&self.requests.class, request)?;
        self.load.classes.get(self.requests.class_names.get(class as usize)?)
    }

    fn priority(&self, row: &RequestRow) -> Option<i32> {
        own(&self.requests.priority, row.request).or_else(|| self.rules(row.request)?.priority)
    }

    fn deadline(&self, row: &RequestRow) -> Option<i64> {
        let rules = || self.rules(row.request).and_then(|r| r.deadline_ms).or(self.load.deadline_ms);
        let given = own(&self.requests.deadline, row.request);
        let after = given.or_else(|| rules().map(|ms| SimDuration::from_us(ms * 1e3)))?;
        Some(row.arrival.0.saturating_add(after.0))
    }
}

fn own<T: Copy>(values: &[Option<T>], request: u32) -> Option<T> {
    values.get(request as usize).copied().flatten()
}

/// Nearest nanosecond to the mean gap between the tokens of a request.
fn itl_mean(row: &RequestRow) -> Option<i64> {
    totals::per(row.itl?.sum.0, i64::from(row.output_tokens) - 1)
}

fn request_batch(rows: &[RequestRow], measured: Vec<bool>, wishes: &Wishes) -> Result<RecordBatch, ArrowError> {
    let r = || rows.iter();
    let times = |f: fn(&RequestRow) -> Option<SimTime>| optional(r().map(|r| f(r).map(|t| t.0)));
    let spans = |f: fn(&RequestRow) -> Option<i64>| optional(r().map(f));
    let columns: Vec<ArrayRef> = vec![
        ints(r().map(|r| i64::from(r.request))),
        int32s(r().map(|r| r.replica)),
        Arc::new(StringArray::from_iter_values(r().map(|r| r.status.as_str()))),
        Arc::new(BooleanArray::from(measured)),
        Arc::new(r().map(|r| wishes.priority(r)).collect::<Int32Array>()),
        ints(r().map(|r| r.arrival.0)),
        optional(r().map(|r| wishes.deadline(r))),
        times(|r| r.queued),
        times(|r| r.scheduled),
        times(|r| r.first_token),
        times(|r| r.finished),
        spans(itl_mean),
        spans(|r| r.itl.map(|itl| itl.p99.0)),
        spans(|r| r.itl.map(|itl| itl.max.0)),
        int32s(r().map(|r| r.preemptions)),
        ints(r().map(|r| r.preempted.0)),
        int32s(r().map(|r| r.input_tokens)),
        int32s(r().map(|r| r.output_tokens)),
        int32s(r().map(|r| r.cached_tokens)),
        int32s(r().map(|r| r.recomputed_tokens)),
    ];
    RecordBatch::try_new(simulation::memo_requests(), columns)
}

fn step_batch(rows: &[StepRow]) -> Result<RecordBatch, ArrowError> {
    let r = || rows.iter();
    let columns: Vec<ArrayRef> = vec![
        int32s(r().map(|r| r.replica)),
        ints(r().map(|r| r.start.0)),
        ints(r().map(|r| r.duration.0)),
        int32s(r().map(|r| r.decode_requests + r.prefill_requests)),
        int32s(r().map(|r| r.decode_requests)),
        int32s(r().map(|r| r.prefill_requests)),
        int32s(r().map(|r| r.prefill_tokens)),
        ints(r().map(|r| count(r.context_tokens))),
        int32s(r().map(|r| r.running)),
        int32s(r().map(|r| r.waiting)),
        int32s(r().map(|r| r.preempted)),
        ints(r().map(|r| count(r.kv_blocks_used))),
    ];
    RecordBatch::try_new(simulation::memo_steps(), columns)
}

#[cfg(test)]
pub(super) mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    use pipe_kernel::sim::{ItlStats, Status};

    use super::*;
    use crate::stage::simulate::derived;

    /// A request that arrives at 1,000 ns. Times are where it got to: queue at 1,100, scheduled at 1,300, first token at
    /// 2,000, last token after gaps of 500 and 1,001.
    pub fn row(request: u32, status: Status, times: usize, output_tokens: u32) -> RequestRow {
        let time = |which: usize, t: i64| (times > which).then_some(SimTime(t));
        let itl = ItlStats { sum: SimDuration(1_501), p99: SimDuration(996), max: SimDuration(1_001) };
        RequestRow {
            request,
            replica: 0,
            status,
            arrival: SimTime(1_000),
            queued: time(0, 1_100),
            scheduled: time(1, 1_300),
            first_token: time(2, 2_000),
            finished: time(3, 3_501),
            input_tokens: 10,
            output_tokens,
            cached_tokens: 4,
            recomputed_tokens: 5,
            preemptions: 1,
            preempted: SimDuration(77),
            itl: (output_tokens == 3).then_some(itl),
        }
    }

    const SPANS: [&str; 10] = [
        "queue_ns",
        "prefill_ns",
        "decode_ns",
        "ttft_ns",
        "tpot_ns",
        "tpot_incl_first_ns",
        "e2e_ns",
        "itl_ns_mean",
        "itl_ns_p99",
        "itl_ns_max",
    ];

    #[test]
    fn what_a_request_did_not_come_to_is_null() {
        let none = [None; 10];
        let cases: Vec<(RequestRow, [Option<i64>; 10])> = vec![
            (
                row(0, Status::Finished, 4, 3),
                [
                    Some(300),
                    Some(700),
                    Some(1_501),
                    Some(1_000),
                    // 1501 / 2 = 750.5, half up; (3501 - 1000) / 3 = 833.67.
                    Some(751),
                    Some(834),
                    Some(2_501),
                    Some(751),
                    Some(996),
                    Some(1_001),
                ],
            ),
            // A single token: there is no time per further token, and no gap.
            (
                row(1, Status::LengthCapped, 4, 1),
                [Some(300), Some(700), Some(1_501), Some(1_000), None, Some(2_501), Some(2_501), None, None, None],
            ),
            (row(2, Status::Rejected, 0, 0), none),
            // Its client went after three tokens: what ends with the last token is nobody's.
            (
                row(3, Status::TimedOut, 3, 3),
                [Some(300), Some(700), None, Some(1_000), None, None, None, Some(751), Some(996), Some(1_001)],
            ),
            (row(4, Status::Cancelled, 0, 0), none),
            (row(5, Status::InFlight, 2, 0), {
                let mut scheduled = none;
                scheduled[0] = Some(300);
                scheduled
            }),
        ];
        let rows: Vec<RequestRow> = cases.iter().map(|(row, _)| *row).collect();
        let requests = Requests::default();
        let wishes = Wishes { load: &Load::default(), requests: &requests };
        let measured = vec![true, false, true, true, false, true];
        let batch = request_batch(&rows, measured.clone(), &wishes).unwrap();
        for (name, which) in SPANS.iter().zip(0..) {
            let kept = batch.column_by_name(name).cloned();
            let column = kept.unwrap_or_else(|| derived::column(name, &batch).unwrap());
            let column = column.as_primitive::<Int64Type>();
            let expect: Vec<Option<i64>> = cases.iter().map(|(_, spans)| spans[which]).collect();
            assert_eq!(column.iter().collect::<Vec<_>>(), expect, "{name}");
        }
        let flags = batch.column_by_name("measured").unwrap().as_boolean();
        assert_eq!(flags.iter().flatten().collect::<Vec<_>>(), measured);
        let nulls = |name: &str| batch.column_by_name(name).unwrap().null_count();
        assert_eq!([nulls("queued_ns"), nulls("finished_ns"), nulls("priority"), nulls("deadline_ns")], [2, 4, 6, 6]);
        assert_eq!(nulls("preempted_ns") + nulls("recomputed_tokens"), 0);
    }

    #[test]
    fn steps_have_their_columns() {
        let step = StepRow {
            replica: 2,
            start: SimTime(5),
            duration: SimDuration(6),
            decode_requests: 7,
            prefill_requests: 8,
            prefill_tokens: 9,
            context_tokens: 10,
            running: 11,
            waiting: 12,
            preempted: 13,
            kv_blocks_used: 14,
        };
        let batch = step_batch(&[step]).unwrap();
        let of = |i: usize| arrow::compute::cast(batch.column(i), &arrow::datatypes::DataType::Int64).unwrap();
        let values: Vec<i64> = (0..batch.num_columns()).map(|i| of(i).as_primitive::<Int64Type>().value(0)).collect();
        assert_eq!(values, [2, 5, 6, 15, 7, 8, 9, 10, 11, 12, 13, 14]);
    }
}
