//! The exclusive scheduler and the queueing model, request by request, against llm-simulator: a queueing simulator of
//! monolithic and disaggregated clusters whose servers hold one request each.
//!
//! Source: the facts of its runs (arrivals, tokens, times), no code. Excerpts are committed (`queueing/*.csv`), the
//! first requests of a case; its own monolithic mode reports nothing (two arguments are swapped), so the times there are
//! those of a separate computation with the same requests. The complete cases are a test of the whole program.

use std::sync::atomic::AtomicBool;

use pipe_kernel::queueing::{self, Mode, Queueing, TokenCountMode, TokenCounts};
use pipe_kernel::request::Requests;
use pipe_kernel::scenario::Scenario;
use pipe_kernel::sim::latency::{Latency, Rates};
use pipe_kernel::sim::scheduler::{Exclusive, QueueOrder, Scheduler};
use pipe_kernel::sim::swarm::{Rows, scenario_8b};
use pipe_kernel::sim::{Status, simulate};
use pipe_kernel::units::{SimDuration, SimTime};

/// Largest error: arrivals are whole nanoseconds here, and doubles there.
const TOLERANCE_NS: f64 = 1.0;
const PREFILL_TOKENS_PER_S: f64 = 8_000.0;
const DECODE_TOKENS_PER_S: f64 = 2_000.0;

fn scenario(servers: u32, decode_servers: u32) -> Scenario {
    let mut s = scenario_8b();
    let scheduling_policy = QueueOrder::Fcfs;
    s.deployment.scheduler = Scheduler::Exclusive(Exclusive { servers, decode_servers, scheduling_policy });
    s.deployment.latency =
        Latency::Rates(Rates { prefill_tokens_per_s: PREFILL_TOKENS_PER_S, decode_tokens_per_s: DECODE_TOKENS_PER_S });
    s
}

/// One request of a case; times in seconds.
struct Expected {
    arrival: f64,
    input: u32,
    output: u32,
    /// Start of the prefill.
    start: f64,
    /// End of the prefill and start of the decode service; only in two stages.
    handover: Option<(f64, f64)>,
    first_token: f64,
    finish: f64,
}

fn excerpt(csv: &str) -> Vec<Expected> {
    let mut lines = csv.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let column = |name: &str| header.iter().position(|h| *h == name);
    let two = column("prefill_end_s").zip(column("decode_start_s"));
    let start = column("prefill_start_s").or_else(|| column("start_s")).unwrap();
    let at = ["arrival_s", "prompt_tokens", "output_tokens", "first_token_s", "finish_s"].map(|n| column(n).unwrap());
    let row = |line: Vec<&str>| {
        let time = |at: usize| line[at].parse::<f64>().unwrap();
        Expected {
            arrival: time(at[0]),
            input: line[at[1]].parse().unwrap(),
            output: line[at[2]].parse().unwrap(),
            start: time(start),
            handover: two.map(|(end, start)| (time(end), time(start))),
            first_token: time(at[3]),
            finish: time(at[4]),
        }
    };
    lines.map(row).collect()
}

fn requests(expected: &[Expected]) -> Requests {
    Requests {
        arrival: expected.iter().map(|e| SimTime(SimDuration::from_s(e.arrival).0)).collect(),
        input_tokens: expected.iter().map(|e| e.input).collect(),
        output_tokens: expected.iter().map(|e| e.output).collect(),
        ..Requests::default()
    }
}

/// Compares the requests that are done before the last arrival of the excerpt, which later ones cannot have touched.
#[track_caller]
fn check(name: &str, s: &Scenario, expected: &[Expected]) {
    let mut rows = Rows::default();
    simulate(s, &requests(expected), &mut rows, &AtomicBool::new(false)).unwrap();
    rows.requests.sort_by_key(|row| row.request);
    let last = expected.last().unwrap().arrival;
    let mut compared = 0;
    for (e, row) in expected.iter().zip(&rows.requests).filter(|(e, _)| e.finish < last) {
        let seconds = |t: Option<SimTime>| t.unwrap().0 as f64 / 1e9;
        let (start, first) = (seconds(row.scheduled), seconds(row.first_token));
        let mut pairs = vec![
            ("start", start, e.start),
            ("first token", first, e.first_token),
            ("finish", seconds(row.finished), e.finish),
            ("time to first token", first - row.arrival.0 as f64 / 1e9, e.first_token - e.arrival),
        ];
        if let Some((prefilled, decode)) = e.handover {
            pairs.push(("end of prefill", start + f64::from(e.input) / PREFILL_TOKENS_PER_S, prefilled));
            pairs.push(("start of decode", first - 1.0 / DECODE_TOKENS_PER_S, decode));
        }
        for (what, ours, theirs) in pairs {
            let error_ns = (ours - theirs).abs() * 1e9;
            assert!(error_ns <= TOLERANCE_NS, "{name} request {}: {what} {ours}, not {theirs}", row.request);
        }
        assert_eq!((row.status, row.output_tokens), (Status::Finished, e.output), "{name} request {}", row.request);
        compared += 1;
    }
    assert!(compared >= 190, "{name}: only {compared} requests compared");
}

#[test]
fn excerpts() {
    for (name, servers, decode_servers, csv) in [
        ("disagg_default", 2, 2, include_str!("queueing/disagg_default.csv")),
        ("cfg_seed_full", 2, 2, include_str!("queueing/cfg_seed_full.csv")),
        ("mono_default", 4, 0, include_str!("queueing/mono_default.csv")),
        ("seed_full_mono", 4, 0, include_str!("queueing/seed_full_mono.csv")),
    ] {
        let expected = excerpt(csv);
        // Somebody waits, so that the order of the queues is seen.
        let waits = |e: &Expected| e.start > e.arrival || e.handover.is_some_and(|(end, start)| start > end);
        assert!(name.starts_with("seed") || expected.iter().any(waits), "{name}");
        check(name, &scenario(servers, decode_servers), &expected);
    }
}

/// Of the times of the queueing model, which are doubles here and there.
const TOLERANCE_S: f64 = 1e-12;

/// Lengths as in cfg_seed_full.
fn seed_full(mode: Mode) -> Queueing {
    let tokens = |mean, std, min_value| TokenCounts {
        mode: TokenCountMode::RealMeanStd,
        mean: Some(mean),
        std: Some(std),
        min_value,
        ..TokenCounts::default()
    };
    Queueing {
        mode,
        prompt_tokens: tokens(1024.0, 512.0, 8),
        output_tokens: tokens(256.0, 128.0, 16),
        ..Queueing::default()
    }
}

#[test]
fn the_queueing_model_makes_the_same_requests_and_figures() {
    let default = |mode| Queueing { mode, ..Queueing::default() };
    // The figures of the whole runs, as printed: samples, mean, p50, p90 and p99 of the times to first token, throughput,
    // and utilization of prefill and decode, or of all GPUs.
    for (settings, csv, samples, expect) in [
        (
            default(Mode::Disagg),
            include_str!("queueing/disagg_default.csv"),
            1042,
            [
                0.13164077979118424,
                0.061499999999981014,
                0.3055374999999685,
                1.080673081562093,
                1.9333333333333333,
                0.0793363541666667,
                0.34835375000000035,
            ],
        ),
        (
            seed_full(Mode::Disagg),
            include_str!("queueing/cfg_seed_full.csv"),
            1045,
            [
                0.1316395467390771,
                0.11849999999998317,
                0.21442500000000567,
                0.3320899999999923,
                1.9416666666666667,
                0.12451208333333336,
                0.12788083333333322,
            ],
        ),
        (
            default(Mode::Mono),
            include_str!("queueing/mono_default.csv"),
            1046,
            [
                0.0841958285308416,
                0.05268749999999045,
                0.1842499999999916,
                0.44717500000000177,
                1.94,
                0.2143992187500001,
                f64::NAN,
            ],
        ),
        (
            seed_full(Mode::Mono),
            include_str!("queueing/seed_full_mono.csv"),
            1045,
            [
                0.1296213203332732,
                0.11650000000000205,
                0.21064999999998693,
                0.3212349999999911,
                1.9416666666666667,
                0.12619645833333323,
                f64::NAN,
            ],
        ),
    ] {
        let requests = queueing::run(&settings, &AtomicBool::new(false)).unwrap();
        for (r, e) in requests.iter().zip(excerpt(csv)) {
            assert_eq!((r.prompt_tokens, r.output_tokens), (i64::from(e.input), i64::from(e.output)), "{r:?}");
            let mut pairs = vec![
                (r.arrival, e.arrival),
                (r.prefill_start, e.start),
                (r.first_token, e.first_token),
                (r.finished, e.finish),
            ];
            pairs.extend(
                e.handover.into_iter().flat_map(|(end, start)| [(r.prefill_end, end), (r.decode_start, start)]),
            );
            assert!(pairs.iter().all(|(ours, theirs)| (ours - theirs).abs() < TOLERANCE_S), "{pairs:?}");
        }
        let f = queueing::figures(&settings, &requests);
        let ttft = f.ttft.unwrap();
        let used = f.utilization_gpu.or(f.utilization_prefill).unwrap();
        let decode = f.utilization_decode.unwrap_or(f64::NAN);
        let got = [ttft.mean, ttft.p50, ttft.p90, ttft.p99, f.throughput_rps, used, decode];
        assert_eq!(f.num_samples, samples, "{settings:?}");
        for (got, expect) in got.into_iter().zip(expect) {
            let both_absent = got.is_nan() && expect.is_nan();
            assert!(both_absent || (got / expect - 1.0).abs() < TOLERANCE_S, "{got}, not {expect}: {settings:?}");
        }
    }
}
