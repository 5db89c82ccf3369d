//! The queueing model against complete runs of llm-simulator, where they are at hand: every request, and the statistics
//! that it prints. (Its monolithic mode prints none, as two arguments are swapped; there the figures are those of a
//! separate computation with the same requests.)

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use pipe_kernel::request::Requests;
use pipe_kernel::scenario::Scenario;
use pipe_kernel::sim::latency::{Latency, Rates};
use pipe_kernel::sim::scheduler::{Exclusive, QueueOrder, Scheduler};
use pipe_kernel::sim::swarm::{Rows, scenario_8b};
use pipe_kernel::sim::{RequestRow, Summary, simulate};
use pipe_kernel::units::{SimDuration, SimTime};

use crate::project::repository;

/// Largest error of a time in seconds (arrivals are whole nanoseconds here), and of a statistic, relative.
const TIME_TOLERANCE_S: f64 = 1e-9;
const STATISTIC_TOLERANCE: f64 = 1e-7;
const PREFILL_TOKENS_PER_S: f64 = 8_000.0;
const DECODE_TOKENS_PER_S: f64 = 2_000.0;

struct Case {
    name: &'static str,
    servers: u32,
    decode_servers: u32,
    /// Times to first token count from the warm-up on, all statistics end at the horizon.
    warmup_s: f64,
    horizon_s: f64,
}

const CASES: [Case; 6] = [
    Case { name: "disagg_default", servers: 2, decode_servers: 2, warmup_s: 60.0, horizon_s: 600.0 },
    Case { name: "cfg_seed_full", servers: 2, decode_servers: 2, warmup_s: 60.0, horizon_s: 600.0 },
    Case { name: "cfg_example_config", servers: 2, decode_servers: 2, warmup_s: 60.0, horizon_s: 600.0 },
    Case { name: "cfg_light", servers: 1, decode_servers: 1, warmup_s: 30.0, horizon_s: 300.0 },
    Case { name: "mono_default", servers: 4, decode_servers: 0, warmup_s: 60.0, horizon_s: 600.0 },
    Case { name: "seed_full_mono", servers: 4, decode_servers: 0, warmup_s: 60.0, horizon_s: 600.0 },
];

impl Case {
    fn scenario(&self) -> Scenario {
        let mut s = scenario_8b();
        s.deployment.scheduler = Scheduler::Exclusive(Exclusive {
            servers: self.servers,
            decode_servers: self.decode_servers,
            scheduling_policy: QueueOrder::Fcfs,
        });
        s.deployment.latency = Latency::Rates(Rates {
            prefill_tokens_per_s: PREFILL_TOKENS_PER_S,
            decode_tokens_per_s: DECODE_TOKENS_PER_S,
        });
        s
    }

    fn run(&self, expected: &[Expected], horizon_s: Option<f64>) -> (Vec<RequestRow>, Summary) {
        let mut s = self.scenario();
        s.workload.horizon_s = horizon_s;
        let mut rows = Rows::default();
        let summary = simulate(&s, &requests(expected), &mut rows, &AtomicBool::new(false)).expect("a sound scenario");
        rows.requests.sort_by_key(|row| row.request);
        (rows.requests, summary)
    }
}

/// One request of a case; times in seconds.
struct Expected {
    arrival: f64,
    input: i64,
    output: i64,
    /// Start of the prefill.
    start: f64,
    /// End of the prefill and start of the decode service; only in two stages.
    handover: Option<(f64, f64)>,
    first_token: f64,
    finish: f64,
}

/// The folder with the cases, if there is one.
pub fn cases() -> Option<PathBuf> {
    let mut roots: Vec<PathBuf> = std::env::var_os("PIPE_SHARED").map(PathBuf::from).into_iter().collect();
    roots.extend(repository().ancestors().map(|dir| dir.join("shared")));
    roots.into_iter().map(|root| root.join("reference/cases/queueing")).find(|dir| dir.is_dir())
}

fn read(file: &Path) -> Vec<Expected> {
    let file = std::fs::File::open(file).expect("the case's table");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("a Parquet file").build().expect("a reader");
    let mut expected = Vec::new();
    for batch in reader {
        let batch = batch.expect("a batch");
        let times = |name: &str| -> Option<Vec<f64>> {
            Some(batch.column_by_name(name)?.as_primitive::<Float64Type>().values().to_vec())
        };
        let counts = |name: &str| -> Option<Vec<i64>> {
            Some(batch.column_by_name(name)?.as_primitive::<Int64Type>().values().to_vec())
        };
        let start = times("prefill_start_s").or_else(|| times("start_s")).expect("a start");
        let handover = times("prefill_end_s").zip(times("decode_start_s"));
        let arrival = times("arrival_s").expect("arrivals");
        let (first_token, finish) = (times("first_token_s").expect("tokens"), times("finish_s").expect("ends"));
        let (input, output) = (counts("prompt_tokens").expect("lengths"), counts("output_tokens").expect("lengths"));
        expected.extend((0..batch.num_rows()).map(|i| Expected {
            arrival: arrival[i],
            input: input[i],
            output: output[i],
            start: start[i],
            handover: handover.as_ref().map(|(end, start)| (end[i], start[i])),
            first_token: first_token[i],
            finish: finish[i],
        }));
    }
    expected
}

fn requests(expected: &[Expected]) -> Requests {
    Requests {
        arrival: expected.iter().map(|e| SimTime(SimDuration::from_s(e.arrival).0)).collect(),
        input_tokens: expected.iter().map(|e| e.input as u32).collect(),
        output_tokens: expected.iter().map(|e| e.output as u32).collect(),
        ..Requests::default()
    }
}

fn seconds(t: Option<SimTime>) -> f64 {
    t.expect("a time of a request that was served").0 as f64 / 1e9
}

fn compare_requests(case: &Case, expected: &[Expected], rows: &[RequestRow]) {
    assert_eq!(rows.len(), expected.len(), "{}", case.name);
    for (e, row) in expected.iter().zip(rows) {
        let (start, first) = (seconds(row.scheduled), seconds(row.first_token));
        let mut pairs = vec![
            ("start", start, e.start),
            ("first token", first, e.first_token),
            ("finish", seconds(row.finished), e.finish),
            ("time to first token", first - row.arrival.0 as f64 / 1e9, e.first_token - e.arrival),
        ];
        if let Some((prefilled, decode)) = e.handover {
            pairs.push(("end of prefill", start + e.input as f64 / PREFILL_TOKENS_PER_S, prefilled));
            pairs.push(("start of decode", first - 1.0 / DECODE_TOKENS_PER_S, decode));
        }
        for (what, ours, theirs) in pairs {
            let error = (ours - theirs).abs();
            assert!(error <= TIME_TOLERANCE_S, "{} request {}: {what} {ours}, not {theirs}", case.name, row.request);
        }
        assert_eq!(i64::from(row.output_tokens), e.output, "{} request {}", case.name, row.request);
    }
}

/// Quantile with linear interpolation, as numpy takes it.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = q * (sorted.len() - 1) as f64;
    let (low, part) = (rank as usize, rank.fract());
    sorted[low] + part * (sorted[(low + 1).min(sorted.len() - 1)] - sorted[low])
}

/// The statistics of llm-simulator, from our rows. A decode counts as work, whole, once its first token is out, and a
/// prefill once it is done; one stage counts as a decode.
fn statistics(case: &Case, rows: &[RequestRow]) -> Vec<(&'static str, f64)> {
    let first = |row: &RequestRow| seconds(row.first_token);
    let counted = |row: &&RequestRow| (case.warmup_s..case.horizon_s).contains(&first(row));
    let ttft = |row: &RequestRow| first(row) - row.arrival.0 as f64 / 1e9;
    let mut ttfts: Vec<f64> = rows.iter().filter(counted).map(ttft).collect();
    ttfts.sort_by(f64::total_cmp);
    let done = rows.iter().filter(|row| seconds(row.finished) < case.horizon_s).count();
    let prefill = |row: &RequestRow| f64::from(row.input_tokens) / PREFILL_TOKENS_PER_S;
    let decode = |row: &RequestRow| f64::from(row.output_tokens) / DECODE_TOKENS_PER_S;
    let begun = || rows.iter().filter(|row| first(row) < case.horizon_s);
    let mut all = vec![
        ("num_samples", ttfts.len() as f64),
        ("mean_ttft_s", ttfts.iter().sum::<f64>() / ttfts.len() as f64),
        ("p50_ttft_s", quantile(&ttfts, 0.50)),
        ("p90_ttft_s", quantile(&ttfts, 0.90)),
        ("p99_ttft_s", quantile(&ttfts, 0.99)),
        ("throughput_rps", done as f64 / case.horizon_s),
    ];
    if case.decode_servers == 0 {
        let busy: f64 = begun().map(|row| prefill(row) + decode(row)).sum();
        all.push(("utilization_gpu", busy / f64::from(case.servers) / case.horizon_s));
    } else {
        let prefilled = |row: &&RequestRow| seconds(row.scheduled) + prefill(row) < case.horizon_s;
        let prefills: f64 = rows.iter().filter(prefilled).map(prefill).sum();
        let decodes: f64 = begun().map(decode).sum();
        all.push(("utilization_prefill", prefills / f64::from(case.servers) / case.horizon_s));
        all.push(("utilization_decode", decodes / f64::from(case.decode_servers) / case.horizon_s));
    }
    all
}

#[test]
fn complete_cases() {
    let Some(dir) = cases() else {
        eprintln!("skipped: no folder shared/reference/cases/queueing at hand");
        return;
    };
    for case in &CASES {
        let expected = read(&dir.join(format!("{}.golden.parquet", case.name)));
        assert!(expected.len() > 200, "{}: only {} requests", case.name, expected.len());
        let (rows, _) = case.run(&expected, None);
        compare_requests(case, &expected, &rows);

        let text = std::fs::read_to_string(dir.join(format!("{}.oracle.json", case.name))).expect("the statistics");
        let theirs: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let ours = statistics(case, &rows);
        assert_eq!(theirs.as_object().map(serde_json::Map::len), Some(ours.len()), "{}", case.name);
        for (name, ours) in ours {
            let theirs = theirs[name].as_f64().expect("a number");
            let error = (ours / theirs - 1.0).abs();
            assert!(error <= STATISTIC_TOLERANCE, "{} {name}: {ours}, not {theirs}", case.name);
        }
        // What is done at the horizon is the same when the simulation ends there.
        let (_, summary) = case.run(&expected, Some(case.horizon_s));
        let done = theirs["throughput_rps"].as_f64().expect("a number") * case.horizon_s;
        assert_eq!(summary.finished, done.round() as u64, "{}", case.name);
    }
}
