//! A small simulation `sim` with two scenarios, whose numbers are easy to check by hand.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, new_null_array,
};
use arrow::datatypes::{DataType, Schema};
use parquet::arrow::ArrowWriter;

use crate::stage::{Cancel, Progress, ProgressSink, RunCx};
use crate::store::{Hash, Memo, Staging, TableHandle};
use crate::table::simulation::totals;
use crate::table::{UNIT, column};

const MS: i64 = 1_000_000;

/// scenario, class, arrival, queue, ttft, tpot (all ms), output tokens; no ttft: rejected.
type Row = (i64, Option<&'static str>, i64, i64, Option<i64>, Option<i64>, i32);

const ROWS: &[Row] = &[
    (0, None, 0, 0, Some(100), Some(50), 5),
    (0, None, 1000, 50, Some(250), None, 1),
    (0, None, 2000, 10, Some(150), Some(40), 11),
    (0, None, 3000, 0, None, None, 7),
    (1, Some("a"), 0, 0, Some(600), Some(200), 2),
    (1, Some("b"), 1000, 0, Some(400), Some(100), 3),
];

/// Latency from arrival to the last token.
fn e2e(row: &Row) -> Option<i64> {
    row.4.map(|ttft| ttft + row.5.unwrap_or(0) * i64::from(row.6 - 1))
}

fn table(columns: Vec<(&str, &str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<_> =
        columns.iter().map(|(name, unit, a)| column(name, a.data_type().clone(), true, unit, "Test")).collect();
    let arrays = columns.into_iter().map(|(_, _, a)| a).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

/// `sim_requests`.
pub fn requests() -> RecordBatch {
    let int = |f: &dyn Fn(&Row) -> Option<i64>| -> ArrayRef { Arc::new(Int64Array::from_iter(ROWS.iter().map(f))) };
    let ns = |f: &dyn Fn(&Row) -> Option<i64>| int(&|r| f(r).map(|v| v * MS));
    let small = |f: &dyn Fn(&Row) -> i32| -> ArrayRef { Arc::new(Int32Array::from_iter_values(ROWS.iter().map(f))) };
    let status = ROWS.iter().map(|r| if r.4.is_some() { "finished" } else { "rejected" });
    let text = |v: Vec<Option<&str>>| -> ArrayRef { Arc::new(StringArray::from(v)) };
    let mut number = -1;
    let ids = ROWS.iter().map(|r| {
        number = if r.0 == 1 && number == 3 { 0 } else { number + 1 };
        number
    });
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(ids.collect::<Vec<_>>()));
    table(vec![
        ("scenario_id", "", int(&|r| Some(r.0))),
        ("request_id", "", ids),
        ("replica", "", small(&|_| 0)),
        ("pool", "", text(vec![Some("default"); ROWS.len()])),
        ("prefill_replica", "", new_null_array(&DataType::Int32, ROWS.len())),
        ("status", "", Arc::new(StringArray::from_iter_values(status))),
        ("measured", "", Arc::new(BooleanArray::from(vec![true; ROWS.len()]))),
        ("class", "", text(ROWS.iter().map(|r| r.1).collect())),
        ("session_id", "", text(vec![None; ROWS.len()])),
        ("priority", "", new_null_array(&DataType::Int32, ROWS.len())),
        ("arrival_ns", "ns", ns(&|r| Some(r.2))),
        ("deadline_ns", "ns", ns(&|_| None)),
        ("encoded_ns", "ns", ns(&|_| None)),
        ("queued_ns", "ns", ns(&|r| r.4.map(|_| r.2))),
        ("scheduled_ns", "ns", ns(&|r| r.4.map(|_| r.2 + r.3))),
        ("prefilled_ns", "ns", ns(&|_| None)),
        ("kv_ready_ns", "ns", ns(&|_| None)),
        ("first_token_ns", "ns", ns(&|r| r.4.map(|t| r.2 + t))),
        ("finished_ns", "ns", ns(&|r| e2e(r).map(|t| r.2 + t))),
        ("queue_ns", "ns", ns(&|r| r.4.map(|_| r.3))),
        ("prefill_ns", "ns", ns(&|r| r.4.map(|t| t - r.3))),
        ("kv_transfer_ns", "ns", ns(&|_| None)),
        ("decode_ns", "ns", ns(&|r| Some(e2e(r)? - r.4?))),
        ("ttft_ns", "ns", ns(&|r| r.4)),
        ("tpot_ns", "ns", ns(&|r| r.5)),
        ("tpot_incl_first_ns", "ns", ns(&|r| e2e(r).map(|t| t / i64::from(r.6)))),
        ("e2e_ns", "ns", ns(&|r| e2e(r))),
        ("itl_ns_mean", "ns", ns(&|r| r.5)),
        ("itl_ns_p99", "ns", ns(&|r| r.5)),
        ("itl_ns_max", "ns", ns(&|r| r.5)),
        ("preemptions", "", small(&|_| 0)),
        ("preempted_ns", "ns", ns(&|_| Some(0))),
        ("prefill_preempted_ns", "ns", ns(&|r| r.4.map(|_| 0))),
        ("input_tokens", "tokens", small(&|_| 100)),
        ("samples", "", small(&|_| 1)),
        ("output_tokens", "tokens", small(&|r| r.6)),
        ("cached_tokens", "tokens", small(&|_| 0)),
        ("fetched_tokens", "tokens", small(&|_| 0)),
        ("recomputed_tokens", "tokens", small(&|_| 0)),
    ])
}

/// Totals of both scenarios that are not 0, null or `stable`.
const TOTALS: &[(&str, [f64; 2])] = &[
    ("gpus", [2.0, 1.0]),
    ("engines", [2.0, 1.0]),
    ("requests", [4.0, 2.0]),
    ("finished", [3.0, 2.0]),
    ("rejected", [1.0, 0.0]),
    ("measured_requests", [4.0, 2.0]),
    ("measured_served", [3.0, 2.0]),
    ("steps", [20.0, 5.0]),
    ("duration_ns", [4e9, 2e9]),
    ("busy_ns", [2e9, 1e9]),
    ("input_tokens", [300.0, 200.0]),
    ("output_tokens", [17.0, 5.0]),
    ("rate_window_ns", [4e9, 2e9]),
    ("request_rps", [0.75, 1.0]),
    ("output_tps", [4.25, 2.5]),
    ("ttft_ms_mean", [500.0 / 3.0, 500.0]),
    ("ttft_ms_p50", [150.0, 500.0]),
    ("ttft_ms_p90", [230.0, 580.0]),
    ("ttft_ms_p99", [248.0, 598.0]),
    ("tpot_ms_mean", [45.0, 150.0]),
    ("tpot_ms_p50", [45.0, 150.0]),
    ("itl_ms_mean", [45.0, 130.0]),
    ("e2e_ms_mean", [1100.0 / 3.0, 700.0]),
    ("e2e_ms_p50", [300.0, 700.0]),
    ("queue_ms_mean", [20.0, 0.0]),
    ("queue_ms_p50", [10.0, 0.0]),
    ("kv_blocks_total", [100.0, 100.0]),
    ("kv_blocks_max", [50.0, 25.0]),
    ("kv_usage_max", [0.5, 0.25]),
    ("prefix_tokens_queried", [400.0, 0.0]),
    ("prefix_tokens_hit", [100.0, 0.0]),
    ("prefix_hit_rate", [0.25, f64::NAN]),
];

/// `sim`.
pub fn scenarios() -> RecordBatch {
    let int = |v: [i64; 2]| -> ArrayRef { Arc::new(Int64Array::from(v.to_vec())) };
    let text = |v: [&str; 2]| -> ArrayRef { Arc::new(StringArray::from(v.to_vec())) };
    let mut columns = vec![
        ("scenario_id", "", int([0, 1])),
        ("scenario", "", text(["f00", "f01"])),
        ("deployment_model", "", text(["m", "m"])),
        ("deployment_gpu", "", text(["g", "g"])),
        ("deployment_tp", "", int([1, 1])),
        ("deployment_replicas", "", int([2, 1])),
        ("rate_rps", "1/s", Arc::new(Float64Array::from(vec![4.0, 2.0]))),
        ("seed", "", int([42, 42])),
    ];
    let totals = totals();
    for field in &totals {
        let given = TOTALS.iter().find(|(name, _)| name == field.name()).map(|(_, values)| *values);
        let values: ArrayRef = match (field.data_type(), given) {
            (DataType::Int64, Some(values)) => int(values.map(|v| v as i64)),
            (DataType::Int64, None) if !field.is_nullable() => int([0, 0]),
            (DataType::Utf8, _) => text(["stable", "stable"]),
            // NaN stands for null.
            (DataType::Float64, Some(v)) => {
                Arc::new(v.map(|v| Some(v).filter(|v| !v.is_nan())).into_iter().collect::<Float64Array>())
            }
            (kind, _) => new_null_array(kind, 2),
        };
        columns.push((field.name(), field.metadata().get(UNIT).map_or("", String::as_str), values));
    }
    table(columns)
}

/// `sim_itl`: two bins in the first scenario, one in the second.
pub fn gaps() -> RecordBatch {
    let int = |v: [i64; 3]| -> ArrayRef { Arc::new(Int64Array::from(v.to_vec())) };
    table(vec![
        ("scenario_id", "", int([0, 0, 1])),
        ("gap_ns_min", "ns", int([40 * MS, 50 * MS, 100 * MS])),
        ("gap_ns_max", "ns", int([41 * MS, 52 * MS, 103 * MS])),
        ("tokens", "tokens", int([5, 15, 3])),
    ])
}

/// Stores a batch as the table `name` under `dir`.
pub fn store(dir: &Path, name: &str, batch: &RecordBatch) -> TableHandle {
    let folder = dir.join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("part-00000.parquet");
    let mut writer = ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    TableHandle {
        name: name.to_string(),
        dir: folder,
        schema: batch.schema(),
        rows: batch.num_rows() as u64,
        hash: Hash(name.to_string()),
        parts: vec![path],
    }
}

/// All tables, under `dir`.
pub fn simulation(dir: &Path) -> Vec<TableHandle> {
    vec![store(dir, "sim", &scenarios()), store(dir, "sim_requests", &requests()), store(dir, "sim_itl", &gaps())]
}

/// A column as Float64.
pub fn floats(batches: &[RecordBatch], column: &str) -> Vec<Option<f64>> {
    use arrow::array::AsArray;
    use arrow::datatypes::Float64Type;
    let cast = |b: &RecordBatch| arrow::compute::cast(b.column_by_name(column).unwrap(), &DataType::Float64).unwrap();
    batches.iter().flat_map(|b| cast(b).as_primitive::<Float64Type>().iter().collect::<Vec<_>>()).collect()
}

struct Quiet;

impl ProgressSink for Quiet {
    fn total(&self, _units: u64, _what: &'static str) {}
    fn advance(&self, _units: u64) {}
}

/// What a stage that reads the simulation runs with; its tables go under `dir`.
pub fn run_cx(dir: &Path, stage: &str) -> RunCx {
    let out = tempfile::tempdir_in(dir).unwrap().keep().join("out");
    RunCx {
        stage: stage.to_string(),
        pipeline: "p".to_string(),
        recipe: serde_json::Value::Null,
        seed: 0,
        project: dir.to_path_buf(),
        inputs: simulation(dir).into_iter().map(|t| (t.name.clone(), t)).collect(),
        stages: Arc::new(Vec::new()),
        out: Staging::create(out).unwrap(),
        memo: Memo::open(dir.join("memo")),
        progress: Progress(Arc::new(Quiet)),
        cancel: Cancel::default(),
        pool: Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap()),
    }
}
