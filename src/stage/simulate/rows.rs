//! From the kernel's rows to tables: simulates one scenario, and puts its rows into columns.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::error::ArrowError;

use pipe_kernel::request::Requests;
use pipe_kernel::scenario::{ClassRules, Load, Scenario};
use pipe_kernel::sim::{self, RequestRow, RouteRow, SimError, Sink, StepRow};
use pipe_kernel::units::{SimDuration, SimTime};

use super::evaluate::Detail;
use super::measure::measured;
use super::totals::{self, Totals};
use crate::table::simulation;

/// Everything that one scenario yields.
pub(crate) struct Outcome {
    /// [`simulation::memo_requests`].
    pub requests: RecordBatch,
    /// [`simulation::memo_steps`]; no rows unless asked for.
    pub steps: RecordBatch,
    /// [`simulation::memo_routes`]; no rows unless asked for.
    pub routes: RecordBatch,
    pub totals: Totals,
}

/// Why a scenario has no outcome.
pub(crate) enum Stopped {
    Cancelled,
    /// The field, and what is wrong, in words for the user.
    Impossible {
        path: String,
        message: String,
    },
    /// A bug of ours.
    Failed(String),
}

/// Simulates one scenario.
///
/// # Errors
/// The scenario is impossible with these requests, or `stop` was set.
pub(crate) fn simulate(
    scenario: &Scenario,
    requests: &Requests,
    detail: Detail,
    stop: &std::sync::atomic::AtomicBool,
) -> Result<Outcome, Stopped> {
    let mut rows =
        Rows { requests: Vec::with_capacity(requests.len()), steps: Vec::new(), routes: Vec::new(), wants: detail };
    let summary = sim::simulate(scenario, requests, &mut rows, stop).map_err(|e| match e {
        SimError::Cancelled => Stopped::Cancelled,
        SimError::Invalid { path, message } => Stopped::Impossible { path: path.into_owned(), message },
    })?;
    rows.requests.sort_unstable_by_key(|r| r.request);
    let measured = measured(&scenario.measure, &rows.requests);
    let totals = Totals::new(scenario, &summary, &rows.requests, &measured);
    let wishes = Wishes { load: &scenario.workload, requests };
    let arrow = |e: ArrowError| Stopped::Failed(e.to_string());
    Ok(Outcome {
        requests: request_batch(&rows.requests, measured, &wishes).map_err(arrow)?,
        steps: step_batch(&rows.steps).map_err(arrow)?,
        routes: route_batch(&rows.routes).map_err(arrow)?,
        totals,
    })
}

struct Rows {
    requests: Vec<RequestRow>,
    steps: Vec<StepRow>,
    routes: Vec<RouteRow>,
    wants: Detail,
}

impl Sink for Rows {
    fn request(&mut self, row: RequestRow) {
        self.requests.push(row);
    }
    fn step(&mut self, row: StepRow) {
        self.steps.push(row);
    }
    fn wants_steps(&self) -> bool {
        self.wants.steps
    }
    fn route(&mut self, row: RouteRow) {
        self.routes.push(row);
    }
    fn wants_routes(&self) -> bool {
        self.wants.routes
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
    Arc::new(values.map(int32).collect::<Int32Array>())
}

fn int32(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
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
    let itl = row.itl?;
    totals::per(itl.sum.0, itl.count as i64)
}

fn request_batch(rows: &[RequestRow], measured: Vec<bool>, wishes: &Wishes) -> Result<RecordBatch, ArrowError> {
    let r = || rows.iter();
    let times = |f: fn(&RequestRow) -> Option<SimTime>| optional(r().map(|r| f(r).map(|t| t.0)));
    let spans = |f: fn(&RequestRow) -> Option<i64>| optional(r().map(f));
    let columns: Vec<ArrayRef> = vec![
        ints(r().map(|r| i64::from(r.request))),
        int32s(r().map(|r| r.replica)),
        Arc::new(r().map(|r| r.prefill_replica.map(int32)).collect::<Int32Array>()),
        Arc::new(StringArray::from_iter_values(r().map(|r| r.status.as_str()))),
        Arc::new(BooleanArray::from(measured)),
        Arc::new(r().map(|r| wishes.priority(r)).collect::<Int32Array>()),
        ints(r().map(|r| r.arrival.0)),
        optional(r().map(|r| wishes.deadline(r))),
        times(|r| r.encoded),
        times(|r| r.queued),
        times(|r| r.scheduled),
        times(|r| r.prefilled),
        times(|r| r.kv_ready),
        times(|r| r.first_token),
        times(|r| r.finished),
        spans(itl_mean),
        spans(|r| r.itl.map(|itl| itl.p99.0)),
        spans(|r| r.itl.map(|itl| itl.max.0)),
        int32s(r().map(|r| r.preemptions)),
        ints(r().map(|r| r.preempted.0)),
        spans(|r| r.first_token.map(|_| r.prefill_preempted.0)),
        int32s(r().map(|r| r.input_tokens)),
        int32s(r().map(|r| r.samples)),
        int32s(r().map(|r| r.output_tokens)),
        int32s(r().map(|r| r.cached_tokens)),
        int32s(r().map(|r| r.fetched_tokens)),
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

fn route_batch(rows: &[RouteRow]) -> Result<RecordBatch, ArrowError> {
    let r = || rows.iter();
    let columns: Vec<ArrayRef> = vec![
        ints(r().map(|r| i64::from(r.request))),
        ints(r().map(|r| r.at.0)),
        Arc::new(StringArray::from_iter_values(r().map(|r| r.role.as_str()))),
        int32s(r().map(|r| r.replica)),
        Arc::new(r().map(|r| Some(r.chosen)).collect::<BooleanArray>()),
        Arc::new(r().map(|r| r.score).collect::<Float64Array>()),
        ints(r().map(|r| count(r.backlog_tokens))),
        optional(regrets(rows).into_iter()),
    ];
    RecordBatch::try_new(simulation::memo_routes(), columns)
}

/// By how much the backlog of the candidate that was chosen exceeds the least; `None` for the others. The candidates of a
/// decision follow each other.
fn regrets(rows: &[RouteRow]) -> Vec<Option<i64>> {
    let one = |a: &RouteRow, b: &RouteRow| (a.at, a.request, a.role) == (b.at, b.request, b.role);
    let decision = |candidates: &[RouteRow]| {
        let least = candidates.iter().map(|c| c.backlog_tokens).min().unwrap_or(0);
        let regret = |c: &RouteRow| c.chosen.then(|| count(c.backlog_tokens - least));
        candidates.iter().map(regret).collect::<Vec<_>>()
    };
    rows.chunk_by(one).flat_map(decision).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Int32Type, Int64Type};
    use pipe_kernel::pools::Role;
    use pipe_kernel::sim::{ItlStats, Status};

    use super::*;
    use crate::stage::simulate::derived;

    /// A request that arrives at 1,000 ns. Times are where it got to: queue at 1,100, scheduled at 1,300, first token at
    /// 2,000, last token after gaps of 500 and 1,001.
    pub fn row(request: u32, status: Status, times: usize, output_tokens: u32) -> RequestRow {
        let time = |which: usize, t: i64| (times > which).then_some(SimTime(t));
        let itl = ItlStats { count: 2, sum: SimDuration(1_501), p99: SimDuration(996), max: SimDuration(1_001) };
        RequestRow {
            request,
            replica: 0,
            prefill_replica: None,
            status,
            arrival: SimTime(1_000),
            encoded: None,
            queued: time(0, 1_100),
            scheduled: time(1, 1_300),
            prefilled: None,
            kv_ready: None,
            first_token: time(2, 2_000),
            finished: time(3, 3_501),
            input_tokens: 10,
            samples: 1,
            output_tokens,
            cached_tokens: 4,
            fetched_tokens: 0,
            recomputed_tokens: 5,
            preemptions: 1,
            preempted: SimDuration(77),
            prefill_preempted: SimDuration(33),
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
    fn a_request_that_goes_from_pool_to_pool_has_its_times() {
        let sent = RequestRow {
            prefill_replica: Some(3),
            encoded: Some(SimTime(1_050)),
            prefilled: Some(SimTime(1_900)),
            kv_ready: Some(SimTime(1_960)),
            ..row(0, Status::Finished, 4, 3)
        };
        // It was on its way at the horizon.
        let under_way = RequestRow { kv_ready: None, ..sent };
        let requests = Requests::default();
        let wishes = Wishes { load: &Load::default(), requests: &requests };
        let rows = [sent, row(1, Status::Finished, 4, 3), under_way];
        let batch = request_batch(&rows, vec![true; 3], &wishes).unwrap();
        let times = |name: &str| {
            let kept = batch.column_by_name(name).cloned();
            let column = kept.unwrap_or_else(|| derived::column(name, &batch).unwrap());
            column.as_primitive::<Int64Type>().iter().collect::<Vec<_>>()
        };
        assert_eq!(times("encoded_ns"), [Some(1_050), None, Some(1_050)]);
        assert_eq!(times("prefilled_ns"), [Some(1_900), None, Some(1_900)]);
        assert_eq!(times("kv_ready_ns"), [Some(1_960), None, None]);
        assert_eq!(times("kv_transfer_ns"), [Some(60), None, None]);
        let replica = batch.column_by_name("prefill_replica").unwrap().as_primitive::<Int32Type>();
        assert_eq!(replica.iter().collect::<Vec<_>>(), [Some(3), None, Some(3)]);
    }

    #[test]
    fn regret_is_what_the_choice_has_more_than_the_least() {
        // decision: time, request, role; candidate: replica, chosen, backlog
        let of = |at: i64, request: u32, role: Role, replica: u32, chosen: bool, backlog_tokens: u64| RouteRow {
            at: SimTime(at),
            request,
            role,
            replica,
            chosen,
            score: chosen.then_some(0.5),
            backlog_tokens,
        };
        let rows = [
            of(5, 0, Role::Decode, 0, false, 10),
            of(5, 0, Role::Decode, 1, true, 30),
            of(5, 0, Role::Prefill, 2, true, 7),
            of(5, 0, Role::Prefill, 3, false, 9),
            of(5, 1, Role::Prefill, 2, true, 8),
            of(6, 1, Role::Prefill, 2, true, 50),
            of(6, 1, Role::Prefill, 3, false, 0),
        ];
        assert_eq!(regrets(&rows), [None, Some(20), Some(0), None, Some(0), Some(50), None]);
        let batch = route_batch(&rows).unwrap();
        let column = |name: &str| batch.column_by_name(name).unwrap().clone();
        assert_eq!(column("role").as_string::<i32>().value(2), "prefill");
        assert_eq!((column("score").null_count(), column("regret_tokens").null_count()), (3, 3));
        assert_eq!(column("backlog_tokens").as_primitive::<Int64Type>().value(5), 50);
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
