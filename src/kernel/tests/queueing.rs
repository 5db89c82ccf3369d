//! The exclusive scheduler, request by request, against llm-simulator: a queueing simulator of monolithic and
//! disaggregated clusters whose servers hold one request each.
//!
//! Source: the facts of its runs (arrivals, tokens, times), no code. Excerpts are committed (`queueing/*.csv`), the
//! first requests of a case; its own monolithic mode reports nothing (two arguments are swapped), so the times there are
//! those of a separate computation with the same requests. The complete cases are a test of the whole program.

use std::sync::atomic::AtomicBool;

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
