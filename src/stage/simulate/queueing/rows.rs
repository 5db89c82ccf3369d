//! Results of the queueing model as rows of [`crate::table::queueing`].

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, new_null_array};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use serde::Serialize;
use serde_json::Value;

use pipe_kernel::SIM_VERSION;
use pipe_kernel::queueing::{Figures, Mode, Quantiles, Queueing, Request, TokenCounts};
use pipe_kernel::sim::Status;
use pipe_kernel::units::SimDuration;

use super::scenario::present;
use crate::stage::simulate::filter::setting_column;
use crate::table::queueing as table;

/// Rows of a batch.
const ROWS: usize = 1 << 16;

/// What the hash of a scenario is made of.
#[derive(Serialize)]
struct Identity<'a> {
    queueing: &'a Queueing,
    sim_version: u32,
}

/// The hash of everything that the rows of a scenario depend on.
fn key(scenario: &Queueing) -> String {
    // Structs with string keys always have a JSON text; its order is that of the fields.
    let identity = Identity { queueing: scenario, sim_version: SIM_VERSION };
    blake3::hash(serde_json::to_string(&identity).unwrap_or_default().as_bytes()).to_hex().to_string()
}

/// The rows of a scenario's requests.
pub(super) fn requests(id: i64, settings: &Queueing, requests: &[Request]) -> Result<Vec<RecordBatch>, ArrowError> {
    let first = (0..requests.len() as i64).step_by(ROWS);
    requests.chunks(ROWS).zip(first).map(|(some, first)| batch(id, first, settings, some)).collect()
}

fn batch(id: i64, first: i64, settings: &Queueing, requests: &[Request]) -> Result<RecordBatch, ArrowError> {
    let end = settings.sim_seconds;
    let time = |of: fn(&Request) -> f64| -> Int64Array {
        requests.iter().map(of).map(|t| (t < end).then(|| SimDuration::from_s(t).0)).collect()
    };
    // Whole numbers, so that a span is what its two times say.
    let span = |from: &Int64Array, to: &Int64Array| -> Int64Array {
        from.iter().zip(to).map(|(from, to)| Some(to? - from?)).collect()
    };
    let status = |r: &Request| if r.finished < end { Status::Finished.as_str() } else { Status::InFlight.as_str() };
    let (arrival, prefill_start, prefill_end) =
        (time(|r| r.arrival), time(|r| r.prefill_start), time(|r| r.prefill_end));
    let (decode_start, first_token, finished) =
        (time(|r| r.decode_start), time(|r| r.first_token), time(|r| r.finished));
    let (prefill_wait, decode_wait) = (span(&arrival, &prefill_start), span(&prefill_end, &decode_start));
    let (ttft, e2e) = (span(&arrival, &first_token), span(&arrival, &finished));
    let n = requests.len();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_value(id, n)),
        Arc::new(Int64Array::from_iter_values((first..).take(n))),
        Arc::new(StringArray::from_iter_values(requests.iter().map(status))),
        Arc::new(requests.iter().map(|r| Some(settings.measures(r))).collect::<BooleanArray>()),
        new_null_array(&DataType::Utf8, n),
        Arc::new(arrival),
        Arc::new(prefill_start),
        Arc::new(prefill_end),
        Arc::new(decode_start),
        Arc::new(first_token),
        Arc::new(finished),
        Arc::new(prefill_wait),
        Arc::new(decode_wait),
        Arc::new(ttft),
        Arc::new(e2e),
        Arc::new(Int64Array::from_iter_values(requests.iter().map(|r| r.prompt_tokens))),
        Arc::new(Int64Array::from_iter_values(requests.iter().map(|r| r.output_tokens))),
    ];
    RecordBatch::try_new(table::requests(), columns)
}

/// The columns of the scenarios: identity, settings, figures.
pub(super) fn scenarios(scenarios: &[Queueing], configs: &[Value], figures: &[Figures]) -> Vec<ArrayRef> {
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(0..scenarios.len() as i64)),
        Arc::new(StringArray::from_iter_values(scenarios.iter().map(key))),
    ];
    columns.extend(present(configs).iter().map(|s| setting_column(s, configs)));
    columns.extend(counts(scenarios, figures));
    columns.extend(quantiles(figures, |f| f.ttft));
    columns.extend(outcome(scenarios, figures));
    columns.extend(cluster(scenarios));
    columns.extend(tokens(scenarios, |s| &s.prompt_tokens));
    columns.extend(tokens(scenarios, |s| &s.output_tokens));
    columns.extend(quantiles(figures, |f| f.prefill_wait));
    columns.extend(quantiles(figures, |f| f.decode_wait));
    columns.extend(quantiles(figures, |f| f.e2e));
    columns.extend([
        optional(figures, |f| f.occupancy_gpu),
        optional(figures, |f| f.occupancy_prefill),
        optional(figures, |f| f.occupancy_decode),
    ]);
    columns
}

fn counts(scenarios: &[Queueing], figures: &[Figures]) -> [ArrayRef; 4] {
    let count = |of: fn(&Figures) -> u64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(figures.iter().map(|f| of(f) as i64)))
    };
    let gpus = Arc::new(Int64Array::from_iter_values(scenarios.iter().map(|s| s.gpus() as i64)));
    [gpus, count(|f| f.arrived), count(|f| f.completed), count(|f| f.num_samples)]
}

fn outcome(scenarios: &[Queueing], figures: &[Figures]) -> [ArrayRef; 6] {
    [
        optional(figures, |f| Some(f.elapsed_s)),
        Arc::new(StringArray::from_iter_values(scenarios.iter().map(|s| s.mode.as_str()))),
        optional(figures, |f| Some(f.throughput_rps)),
        optional(figures, |f| f.utilization_gpu),
        optional(figures, |f| f.utilization_prefill),
        optional(figures, |f| f.utilization_decode),
    ]
}

fn cluster(scenarios: &[Queueing]) -> [ArrayRef; 4] {
    let gpus = |mode: Mode, of: fn(&Queueing) -> u32| -> ArrayRef {
        Arc::new(scenarios.iter().map(|s| (s.mode == mode).then(|| i64::from(of(s)))).collect::<Int64Array>())
    };
    [
        gpus(Mode::Mono, |s| s.cluster_mono.num_gpus),
        gpus(Mode::Disagg, |s| s.cluster_disagg.prefill_gpus),
        gpus(Mode::Disagg, |s| s.cluster_disagg.decode_gpus),
        Arc::new(Float64Array::from_iter_values(scenarios.iter().map(|s| s.arrival.rate_per_s))),
    ]
}

fn tokens(scenarios: &[Queueing], of: fn(&Queueing) -> &TokenCounts) -> [ArrayRef; 5] {
    let float = |value: fn(&TokenCounts) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(scenarios.iter().map(|s| value(of(s)))))
    };
    [
        float(|t| t.log_space().mu),
        float(|t| t.log_space().sigma),
        Arc::new(Int64Array::from_iter_values(scenarios.iter().map(|s| i64::from(of(s).min_value)))),
        float(|t| t.real_space().0),
        float(|t| t.real_space().1),
    ]
}

fn quantiles(figures: &[Figures], of: fn(&Figures) -> Option<Quantiles>) -> [ArrayRef; 4] {
    let column = |value: fn(Quantiles) -> f64| -> ArrayRef {
        Arc::new(figures.iter().map(|f| of(f).map(value)).collect::<Float64Array>())
    };
    [column(|q| q.mean), column(|q| q.p50), column(|q| q.p90), column(|q| q.p99)]
}

fn optional(figures: &[Figures], of: fn(&Figures) -> Option<f64>) -> ArrayRef {
    Arc::new(figures.iter().map(of).collect::<Float64Array>())
}
