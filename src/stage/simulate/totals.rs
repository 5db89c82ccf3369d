//! What a whole scenario comes to: from the kernel's rows and sums to the columns of [`simulation::totals`].
//!
//! [`Totals`] is remembered with the rows as JSON and holds integers and names only: what is derived from them comes out
//! the same whether they were just computed or read back.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use pipe_kernel::scenario::Scenario;
use pipe_kernel::sim::{RequestRow, Summary, utilization};
use pipe_kernel::units::SimTime;

use super::columns::Columns;
use super::histogram;
use super::measure::{self, Served};
use super::mechanisms::{self, Mechanisms};
use super::pools::{self, KvPlan, PoolTotals};
use super::quantiles::{Distribution, wide};
use super::saturation::{self, Verdicts};
use super::supply;
use super::tiers;
use crate::table::simulation::{self, LATENCIES, QUANTILES};

/// Totals of a scenario.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Totals {
    gpus: i64,
    latency_model: String,
    latency_extrapolated_steps: i64,
    requests: i64,
    finished: i64,
    length_capped: i64,
    rejected: i64,
    timed_out: i64,
    cancelled: i64,
    in_flight: i64,
    measured_requests: i64,
    measured_served: i64,
    out_of_order: i64,
    preemptions: i64,
    recomputed_tokens: i64,
    never_sent: i64,
    transfers: i64,
    transferred_bytes: i64,
    #[serde(with = "wide")]
    room_wait_ns: i128,
    #[serde(with = "wide")]
    transfer_ns: i128,
    steps: i64,
    duration_ns: i64,
    busy_ns: i64,
    input_tokens: i64,
    output_tokens: i64,
    rate_window_ns: i64,
    rate_requests: i64,
    rate_output_tokens: i64,
    /// One per [`LATENCIES`].
    latencies: Vec<Distribution>,
    #[serde(with = "wide")]
    running_ns: i128,
    running_max: i64,
    #[serde(with = "wide")]
    waiting_ns: i128,
    waiting_max: i64,
    kv_blocks_total: i64,
    kv_blocks_max: i64,
    prefix_tokens_queried: i64,
    prefix_tokens_hit: i64,
    prefix_blocks_queried: i64,
    prefix_blocks_hit: i64,
    /// MFU and MBU, as the bits of the numbers.
    utilization_bits: Option<[u64; 2]>,
    /// Served until the last arrival, of how many.
    keeping_up: Option<(i64, i64)>,
    mechanisms: Mechanisms,
    saturation: Verdicts,
    /// Gaps between tokens: number of the bin, and how many are in it.
    itl_bins: Vec<(u32, u64)>,
    /// In the order of their names; one for a deployment without pools.
    pools: Vec<PoolTotals>,
}

pub(super) fn count(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl Totals {
    /// `measured` has a value per row.
    pub fn new(scenario: &Scenario, summary: &Summary, rows: &[RequestRow], measured: &[bool]) -> Totals {
        let first = rows.iter().map(|r| r.arrival).min().unwrap_or(summary.end);
        let figured = || rows.iter().zip(measured).filter(|(_, measured)| **measured).map(|(r, _)| r);
        let served = || figured().filter(|r| r.status.served());
        let Served { window_ns, requests, output_tokens } =
            measure::served(&scenario.measure, rows, measured, summary.end);
        Totals {
            gpus: count(scenario.deployment.gpus()),
            latency_model: supply::names(scenario),
            latency_extrapolated_steps: count(summary.latency_extrapolated_steps),
            requests: count(summary.injected),
            finished: count(summary.finished),
            length_capped: count(summary.length_capped),
            rejected: count(summary.rejected),
            timed_out: count(summary.timed_out),
            cancelled: count(summary.cancelled),
            in_flight: count(summary.in_flight),
            measured_requests: figured().count() as i64,
            measured_served: served().count() as i64,
            out_of_order: count(summary.out_of_order),
            preemptions: count(summary.preemptions),
            recomputed_tokens: count(summary.recomputed_tokens),
            never_sent: count(summary.never_sent),
            transfers: count(summary.transfers),
            transferred_bytes: i64::try_from(summary.transferred_bytes).unwrap_or(i64::MAX),
            room_wait_ns: summary.room_wait_ns,
            transfer_ns: summary.transfer_ns,
            steps: count(summary.steps),
            duration_ns: (summary.end - first).0,
            busy_ns: summary.busy.0,
            input_tokens: served().map(|r| i64::from(r.input_tokens)).sum(),
            output_tokens: served().map(|r| i64::from(r.output_tokens)).sum(),
            rate_window_ns: window_ns,
            rate_requests: requests,
            rate_output_tokens: output_tokens,
            latencies: latencies(summary, &figured().collect::<Vec<_>>()),
            running_ns: summary.running_ns,
            running_max: count(summary.running_max),
            waiting_ns: summary.waiting_ns,
            waiting_max: count(summary.waiting_max),
            kv_blocks_total: count(summary.kv_blocks_total),
            kv_blocks_max: count(summary.kv_blocks_max),
            prefix_tokens_queried: count(summary.prefix_tokens_queried),
            prefix_tokens_hit: count(summary.prefix_tokens_hit),
            prefix_blocks_queried: count(summary.prefix_blocks_queried),
            prefix_blocks_hit: count(summary.prefix_blocks_hit),
            utilization_bits: utilization(scenario, summary).map(|(mfu, mbu)| [mfu.to_bits(), mbu.to_bits()]),
            keeping_up: measure::keeping_up(rows),
            mechanisms: Mechanisms::of(summary),
            saturation: saturation::judge(rows, scenario.workload.concurrency.unwrap_or(0)),
            itl_bins: histogram::bins(&summary.itl),
            pools: PoolTotals::of(scenario, summary),
        }
    }

    /// Requests that arrived.
    pub fn requests(&self) -> i64 {
        self.requests
    }

    /// From the first arrival to the end.
    pub fn duration_ns(&self) -> i64 {
        self.duration_ns
    }

    /// Tokens of served requests per second of the rate window.
    pub fn output_tps(&self) -> Option<f64> {
        self.rate(self.rate_output_tokens)
    }

    /// Engines of every pool, and their time in steps, in nanoseconds.
    pub fn busy_of_pools(&self) -> Vec<(i64, i64)> {
        self.pools.iter().map(PoolTotals::busy).collect()
    }

    /// Requests that count in the figures.
    pub fn measured_requests(&self) -> i64 {
        self.measured_requests
    }

    /// Requests that arrive before one in front of them.
    pub fn out_of_order(&self) -> i64 {
        self.out_of_order
    }

    /// Steps beyond what a profile measured, and all steps.
    pub fn extrapolated_and_all_steps(&self) -> (i64, i64) {
        (self.latency_extrapolated_steps, self.steps)
    }

    /// The rows of `<stage>_itl`.
    ///
    /// # Errors
    /// Never, but for a bug: the columns are those of the schema.
    pub fn itl_rows(&self, scenario: i64) -> Result<RecordBatch, ArrowError> {
        let bounds = || self.itl_bins.iter().map(|(bin, _)| histogram::bounds(*bin));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_value(scenario, self.itl_bins.len())),
            Arc::new(Int64Array::from_iter_values(bounds().map(|(low, _)| low))),
            Arc::new(Int64Array::from_iter_values(bounds().map(|(_, high)| high))),
            Arc::new(Int64Array::from_iter_values(self.itl_bins.iter().map(|(_, n)| count(*n)))),
        ];
        RecordBatch::try_new(simulation::itl(), columns)
    }

    /// The rows of `<stage>_pools`.
    ///
    /// # Errors
    /// Never, but for a bug: the columns are those of the schema.
    pub fn pool_rows(&self, id: i64, scenario: &Scenario) -> Result<RecordBatch, ArrowError> {
        pools::rows(id, scenario, &self.pools, self.duration_ns)
    }

    /// The rows of `<stage>_tiers`.
    ///
    /// # Errors
    /// Never, but for a bug: the columns are those of the schema.
    pub fn tier_rows(&self, id: i64, scenario: &Scenario) -> Result<RecordBatch, ArrowError> {
        tiers::rows(id, scenario, &self.pools, self.duration_ns)
    }

    /// Per second of the rate window; null where that is zero.
    fn rate(&self, n: i64) -> Option<f64> {
        (self.rate_window_ns > 0).then(|| n as f64 / (self.rate_window_ns as f64 / 1e9))
    }

    /// An integral over time as a mean over the duration.
    fn mean(&self, integral: i128) -> Option<f64> {
        pools::mean(integral, self.duration_ns)
    }

    /// Several pools have several plans.
    fn kv_plan(&self) -> Option<&KvPlan> {
        match self.pools.as_slice() {
            [one] => one.kv_plan.as_ref(),
            [] | [_, _, ..] => None,
        }
    }

    fn utilization(&self, which: usize) -> Option<f64> {
        self.utilization_bits.map(|bits| f64::from_bits(bits[which]))
    }
}

pub(super) fn share(part: i64, of: i64) -> Option<f64> {
    (of > 0).then(|| part as f64 / of as f64)
}

/// Where the values of a latency come from.
enum Source {
    /// One per request that has one.
    Request(fn(&RequestRow) -> Option<i64>),
    /// The gaps between tokens, all in one.
    Gaps,
}

/// The sources of [`LATENCIES`], in their order.
const SOURCES: [(&str, Source); LATENCIES.len()] = [
    ("ttft", Source::Request(ttft)),
    ("tpot", Source::Request(tpot)),
    ("itl", Source::Gaps),
    ("e2e", Source::Request(e2e)),
    ("queue", Source::Request(queue)),
    ("prefill", Source::Request(prefill)),
    ("decode", Source::Request(decode)),
];

/// The distributions of [`LATENCIES`], in their order.
fn latencies(summary: &Summary, rows: &[&RequestRow]) -> Vec<Distribution> {
    let mut values: Vec<i64> = Vec::with_capacity(rows.len());
    let mut of = |source: &Source| match source {
        Source::Request(f) => {
            values.clear();
            values.extend(rows.iter().filter_map(|r| f(r)));
            Distribution::new(&mut values)
        }
        Source::Gaps => Distribution::of_counts(&summary.itl),
    };
    SOURCES.iter().map(|(_, source)| of(source)).collect()
}

fn since(later: Option<SimTime>, earlier: Option<SimTime>) -> Option<i64> {
    Some((later? - earlier?).0)
}

/// First token minus arrival.
pub(super) fn ttft(row: &RequestRow) -> Option<i64> {
    since(row.first_token, Some(row.arrival))
}

/// Scheduled minus arrival.
pub(super) fn queue(row: &RequestRow) -> Option<i64> {
    since(row.scheduled, Some(row.arrival))
}

/// First token minus scheduled.
pub(super) fn prefill(row: &RequestRow) -> Option<i64> {
    since(row.first_token, row.scheduled)
}

/// Last token minus first, of requests that were served.
pub(super) fn decode(row: &RequestRow) -> Option<i64> {
    since(row.finished, row.first_token)
}

/// Last token minus arrival, of requests that were served.
pub(super) fn e2e(row: &RequestRow) -> Option<i64> {
    since(row.finished, Some(row.arrival))
}

/// Nearest nanosecond to a span over a count, half up; `None` for none.
pub(super) fn per(span: i64, count: i64) -> Option<i64> {
    (count > 0).then(|| (span + count / 2) / count)
}

/// (last token - first token) / (output tokens of a sample - 1), of requests that were served.
pub(super) fn tpot(row: &RequestRow) -> Option<i64> {
    per(decode(row)?, i64::from(row.output_tokens / row.samples) - 1)
}

/// The columns of [`simulation::totals`], a row per scenario.
pub(crate) fn totals_columns(all: &[Totals]) -> Vec<ArrayRef> {
    named_columns(all).ordered(&simulation::totals())
}

fn named_columns(all: &[Totals]) -> Columns<'_, Totals> {
    let mut columns = Columns::new(all);
    let c = &mut columns;
    counts(c);
    for (at, (name, _)) in LATENCIES.iter().enumerate() {
        c.float(&format!("{name}_ms_mean"), |t| t.latencies.get(at)?.mean_ms());
        for (which, (suffix, _)) in QUANTILES.iter().enumerate() {
            c.float(&format!("{name}_ms_{suffix}"), |t| t.latencies.get(at)?.quantile_ms(which));
        }
        c.float(&format!("{name}_ms_max"), |t| t.latencies.get(at)?.max_ms());
    }
    load_and_cache(c);
    mechanisms::columns(c, |t| &t.mechanisms, Totals::mean);
    c.float("throughput_ratio", |t| t.keeping_up.and_then(|(served, arrived)| share(served, arrived)));
    c.text("saturation", |t| t.saturation.composite.as_str());
    c.text("saturation_rule", |t| t.saturation.composite.composite_rule());
    c.text("saturation_backlog_drift", |t| t.saturation.backlog_drift.as_str());
    c.text("saturation_threshold", |t| t.saturation.threshold.as_str());
    columns
}

fn counts(c: &mut Columns<Totals>) {
    c.int("gpus", |t| t.gpus);
    c.int("engines", |t| t.pools.iter().map(PoolTotals::engines).sum());
    c.text("latency_model", |t| &t.latency_model);
    c.int("latency_extrapolated_steps", |t| t.latency_extrapolated_steps);
    c.int("requests", |t| t.requests);
    c.int("finished", |t| t.finished);
    c.int("length_capped", |t| t.length_capped);
    c.int("rejected", |t| t.rejected);
    c.int("timed_out", |t| t.timed_out);
    c.int("cancelled", |t| t.cancelled);
    c.int("in_flight", |t| t.in_flight);
    c.int("measured_requests", |t| t.measured_requests);
    c.int("measured_served", |t| t.measured_served);
    c.int("out_of_order", |t| t.out_of_order);
    c.int("preemptions", |t| t.preemptions);
    c.int("recomputed_tokens", |t| t.recomputed_tokens);
    c.int("never_sent", |t| t.never_sent);
    c.int("transfers", |t| t.transfers);
    c.int("transferred_bytes", |t| t.transferred_bytes);
    c.float("room_waiting_mean", |t| t.mean(t.room_wait_ns));
    c.float("transferring_mean", |t| t.mean(t.transfer_ns));
    c.int("steps", |t| t.steps);
    c.int("duration_ns", |t| t.duration_ns);
    c.int("busy_ns", |t| t.busy_ns);
    c.int("input_tokens", |t| t.input_tokens);
    c.int("output_tokens", |t| t.output_tokens);
    c.int("rate_window_ns", |t| t.rate_window_ns);
    c.float("request_rps", |t| t.rate(t.rate_requests));
    c.float("output_tps", Totals::output_tps);
}

fn load_and_cache(c: &mut Columns<Totals>) {
    c.float("running_mean", |t| t.mean(t.running_ns));
    c.int("running_max", |t| t.running_max);
    c.float("waiting_mean", |t| t.mean(t.waiting_ns));
    c.int("waiting_max", |t| t.waiting_max);
    c.float("mfu", |t| t.utilization(0));
    c.float("mbu", |t| t.utilization(1));
    c.int("kv_blocks_total", |t| t.kv_blocks_total);
    c.int("kv_blocks_max", |t| t.kv_blocks_max);
    c.float("kv_usage_mean", |t| PoolTotals::kv_usage_mean(&t.pools, t.duration_ns));
    c.float("kv_usage_max", |t| PoolTotals::kv_usage_max(&t.pools));
    pools::plan_columns(c, Totals::kv_plan);
    c.int("prefix_tokens_queried", |t| t.prefix_tokens_queried);
    c.int("prefix_tokens_hit", |t| t.prefix_tokens_hit);
    c.float("prefix_hit_rate", |t| share(t.prefix_tokens_hit, t.prefix_tokens_queried));
    c.int("prefix_blocks_queried", |t| t.prefix_blocks_queried);
    c.int("prefix_blocks_hit", |t| t.prefix_blocks_hit);
    c.float("prefix_block_hit_rate", |t| share(t.prefix_blocks_hit, t.prefix_blocks_queried));
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::row;
    use super::*;
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Float64Type, Int64Type};
    use pipe_kernel::sim::Status;
    use pipe_kernel::units::SimDuration;

    fn scenario(settings: &str) -> Scenario {
        let catalog = crate::catalog::load(crate::repository()).unwrap();
        let (model, gpu) = (catalog.model("llama-3.1-8b").unwrap(), catalog.gpu("h100-sxm").unwrap());
        let text = format!("{{\"model\": \"m\", \"gpu\": \"g\", \"replicas\": 2 {settings}}}");
        Scenario {
            supplied: pipe_kernel::profile::Supplied::default(),
            deployment: serde_json::from_str(&text).unwrap(),
            model: model.1.clone(),
            gpu: gpu.1.clone(),
            pools: Vec::new(),
            workload: Default::default(),
            measure: Default::default(),
            seed: 1,
        }
    }

    /// Six requests, one per status, of which the last does not count.
    fn totals(scenario: &Scenario) -> Totals {
        let rows = [
            row(0, Status::Finished, 4, 3),
            row(1, Status::LengthCapped, 4, 1),
            row(2, Status::Rejected, 0, 0),
            row(3, Status::TimedOut, 3, 3),
            row(4, Status::Cancelled, 0, 0),
            row(5, Status::InFlight, 2, 0),
        ];
        let summary = Summary {
            injected: 6,
            finished: 1,
            length_capped: 1,
            rejected: 1,
            timed_out: 1,
            cancelled: 1,
            in_flight: 1,
            end: SimTime(5_000),
            kv_blocks_total: 100,
            kv_blocks_max: 25,
            // Over 4,000 ns: 40 blocks of 200, 3 running, and more waiting than 64 bits hold.
            kv_block_ns: 160_000,
            running_ns: 12_000,
            waiting_ns: i128::from(i64::MAX) * 4,
            prefix_tokens_queried: 40,
            prefix_tokens_hit: 10,
            never_sent: 1,
            transfers: 2,
            transferred_bytes: 1 << 70,
            room_wait_ns: 2_000,
            transfer_ns: 6_000,
            itl: vec![(SimDuration(500), 2), (SimDuration(1_001), 2)],
            ..Summary::default()
        };
        Totals::new(scenario, &summary, &rows, &[true, true, true, true, true, false])
    }

    fn value(t: &Totals, name: &str) -> Option<f64> {
        let columns = named_columns(std::slice::from_ref(t)).by_name();
        let column = &columns[name];
        match column.as_primitive_opt::<Int64Type>() {
            Some(ints) => ints.is_valid(0).then(|| ints.value(0) as f64),
            None => Some(column.as_primitive::<Float64Type>()).filter(|c| c.is_valid(0)).map(|c| c.value(0)),
        }
    }

    #[test]
    fn figures_are_of_measured_requests_and_counts_of_all() {
        let t = totals(&scenario(""));
        let cases: &[(&str, Option<f64>)] = &[
            ("gpus", Some(2.0)),
            ("engines", Some(2.0)),
            ("never_sent", Some(1.0)),
            ("transfers", Some(2.0)),
            ("transferred_bytes", Some(i64::MAX as f64)),
            ("room_waiting_mean", Some(0.5)),
            ("transferring_mean", Some(1.5)),
            ("requests", Some(6.0)),
            ("in_flight", Some(1.0)),
            ("measured_requests", Some(5.0)),
            ("measured_served", Some(2.0)),
            ("input_tokens", Some(20.0)),
            ("output_tokens", Some(4.0)),
            ("duration_ns", Some(4_000.0)),
            // Three have a first token, of the four that were scheduled one does not count.
            ("ttft_ms_p50", Some(1e-3)),
            ("queue_ms_max", Some(3e-4)),
            ("e2e_ms_mean", Some(2_501e-6)),
            ("tpot_ms_max", Some(751e-6)),
            ("decode_ms_p999", Some(1_501e-6)),
            ("prefill_ms_p90", Some(7e-4)),
            ("itl_ms_mean", Some(750.5e-6)),
            ("itl_ms_p50", Some(750.5e-6)),
            ("itl_ms_max", Some(1_001e-6)),
            ("running_mean", Some(3.0)),
            ("kv_usage_mean", Some(0.2)),
            ("kv_usage_max", Some(0.25)),
            ("prefix_hit_rate", Some(0.25)),
            ("prefix_block_hit_rate", None),
            ("mfu", None),
            // All arrive at once.
            ("throughput_ratio", None),
        ];
        for (name, expect) in cases {
            let got = value(&t, name);
            let same = match (got, expect) {
                (Some(got), Some(expect)) => (got - expect).abs() <= 1e-12 * expect.abs(),
                (got, expect) => got == *expect,
            };
            assert!(same, "{name} is {got:?}, not {expect:?}");
        }
    }

    #[test]
    fn what_is_remembered_gives_the_same_bits() {
        let t =
            Totals { utilization_bits: Some([0.1f64.to_bits(), f64::MIN_POSITIVE.to_bits()]), ..totals(&scenario("")) };
        let text = serde_json::to_string(&serde_json::to_value(&t).unwrap()).unwrap();
        let again: Totals = serde_json::from_str(&text).unwrap();
        assert_eq!(again, t);
        let (before, after) = (totals_columns(&[t]), totals_columns(&[again]));
        assert_eq!(before, after);
    }

    #[test]
    fn memory_is_planned_only_where_it_is_not_given() {
        let planned = totals(&scenario(""));
        let given = totals(&scenario(", \"kv\": {\"num_gpu_blocks\": 100}"));
        let gib = |name: &str| value(&planned, name).map(|b| (b / (1u64 << 30) as f64 * 100.0).round() / 100.0);
        assert_eq!(gib("kv_budget_bytes"), Some(72.0));
        assert_eq!(gib("kv_weights_bytes"), Some(14.96));
        assert_eq!((gib("kv_activation_bytes"), gib("kv_other_bytes")), (Some(5.5), Some(0.15)));
        assert_eq!(value(&planned, "kv_block_bytes"), Some((2 << 20) as f64));
        assert_eq!(value(&given, "kv_block_bytes"), None);
    }

    #[test]
    fn figures_of_pools_are_their_own_and_those_of_the_cluster_follow() {
        let mut s = scenario(
            ", \"pools\": {\"d\": {\"role\": \"decode\", \"tp\": 2}, \
             \"p\": {\"role\": \"prefill\", \"replicas\": 3, \"dp\": 2, \"kv\": {\"num_gpu_blocks\": 50}}}",
        );
        let facts = pipe_kernel::pools::PoolFacts::new(&s.model, &s.gpu);
        s.pools = vec![facts.clone(), facts];
        let decode = Summary {
            injected: 5,
            steps: 7,
            busy: SimDuration(1_000),
            running_ns: 8_000,
            kv_blocks_total: 100,
            kv_blocks_max: 25,
            // Over 4,000 ns: 40 blocks of 100.
            kv_block_ns: 160_000,
            ..Summary::default()
        };
        let mut prefill = Summary {
            injected: 9,
            busy: SimDuration(12_000),
            kv_blocks_total: 50,
            kv_blocks_max: 30,
            // 20 blocks of 6 engines with 50.
            kv_block_ns: 80_000,
            prefix_tokens_queried: 40,
            prefix_tokens_hit: 10,
            ..Summary::default()
        };
        (prefill.work.prefill_tokens, prefill.work.decode_requests) = (33, 4);
        let summary = Summary {
            end: SimTime(5_000),
            kv_blocks_total: 100,
            kv_blocks_max: 30,
            pools: vec![decode, prefill],
            ..Summary::default()
        };
        let t = Totals::new(&s, &summary, &[row(0, Status::Finished, 4, 3)], &[true]);
        let of = |name: &str| value(&t, name);
        assert_eq!((of("gpus"), of("engines")), (Some(8.0), Some(7.0)));
        // 60 blocks of 100 + 6 * 50; the fullest cache was one of the smaller.
        assert_eq!((of("kv_usage_mean"), of("kv_usage_max")), (Some(0.15), Some(0.6)));
        assert_eq!(of("kv_budget_bytes"), None);
        let rows = t.pool_rows(3, &s).unwrap();
        let text = |name: &str| {
            let column = rows.column_by_name(name).unwrap().as_string::<i32>();
            (0..2).map(|i| column.value(i).to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            (text("pool"), text("role")),
            (vec!["d".into(), "p".into()], vec!["decode".into(), "prefill".into()])
        );
        let numbers: &[(&str, [Option<f64>; 2])] = &[
            ("scenario_id", [Some(3.0), Some(3.0)]),
            ("tp", [Some(2.0), Some(1.0)]),
            ("replicas", [Some(1.0), Some(6.0)]),
            ("replica_first", [Some(0.0), Some(1.0)]),
            ("gpus", [Some(2.0), Some(6.0)]),
            ("requests", [Some(5.0), Some(9.0)]),
            ("busy_ratio", [Some(0.25), Some(0.5)]),
            ("prefill_tokens", [Some(0.0), Some(33.0)]),
            ("decode_tokens", [Some(0.0), Some(4.0)]),
            ("running_mean", [Some(2.0), Some(0.0)]),
            ("kv_blocks_total", [Some(100.0), Some(50.0)]),
            ("kv_usage_mean", [Some(0.4), Some(20.0 / 300.0)]),
            ("kv_usage_max", [Some(0.25), Some(0.6)]),
            ("prefix_hit_rate", [None, Some(0.25)]),
        ];
        for (name, expect) in numbers {
            let column = arrow::compute::cast(rows.column_by_name(name).unwrap(), &arrow::datatypes::DataType::Float64);
            let column = column.unwrap();
            let got: Vec<Option<f64>> = column.as_primitive::<Float64Type>().iter().collect();
            let same = got.iter().zip(expect).all(|(got, expect)| match (got, expect) {
                (Some(got), Some(expect)) => (got - expect).abs() <= 1e-12,
                (got, expect) => got == expect,
            });
            assert!(same, "{name} is {got:?}, not {expect:?}");
        }
        // The blocks of one are planned, those of the other given.
        assert_eq!(rows.column_by_name("kv_weights_bytes").unwrap().null_count(), 1);
        assert!(rows.column_by_name("mfu").unwrap().is_valid(0));
    }

    #[test]
    fn gaps_have_their_bins() {
        let rows = totals(&scenario("")).itl_rows(7).unwrap();
        let column = |i: usize| rows.column(i).as_primitive::<Int64Type>().values().to_vec();
        assert_eq!((column(0), column(3)), (vec![7, 7], vec![2, 2]));
        assert_eq!((column(1), column(2)), (vec![496, 992], vec![504, 1_008]));
    }

    #[test]
    fn totals_have_a_column_each() {
        let columns = totals_columns(&[Totals::default()]);
        let fields = simulation::totals();
        assert_eq!(columns.len(), fields.len());
        for (column, field) in columns.iter().zip(&fields) {
            assert_eq!(column.data_type(), field.data_type(), "{}", field.name());
            assert!(field.is_nullable() || column.null_count() == 0, "{}", field.name());
        }
        assert_eq!(SOURCES.map(|(name, _)| name), LATENCIES.map(|(name, _)| name));
    }
}
