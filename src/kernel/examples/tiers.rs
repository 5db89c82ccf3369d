//! What tiers behind the prefix cache cost: requests per second of one core with none, one and two of them.
//!
//! `cargo run --release -p pipe-kernel --example tiers [TRACE]`: conversations on four replicas, or a trace in Mooncake's
//! format (JSON lines of `timestamp` in ms, `input_length`, `output_length`, `hash_ids` of blocks of 512 tokens). The best
//! of seven runs counts; time is the thread's own where the system tells it.

use std::sync::LazyLock;
use std::time::Instant;

use pipe_kernel::bench_cases::{Case, run};
use pipe_kernel::request::Requests;
use pipe_kernel::scenario::Scenario;
use pipe_kernel::sim::tiers::Tier;
use pipe_kernel::units::SimTime;

const RUNS: usize = 7;

const TIERS: [(&str, &str); 4] = [
    ("none", "[]"),
    ("memory of the host", r#"[{"device": "cpu_dram", "capacity_gib": 200}]"#),
    (
        "and a disk",
        r#"[{"device": "cpu_dram", "capacity_gib": 200}, {"kind": "disk", "device": "nvme_gen4", "capacity_gib": 2000}]"#,
    ),
    ("memory, on_evict", r#"[{"device": "cpu_dram", "capacity_gib": 200, "write": "on_evict"}]"#),
];

fn main() {
    let requests =
        std::env::args().nth(1).map_or_else(|| Case::Prefixes.requests(Case::Prefixes.count()), |path| trace(&path));
    let scenarios: Vec<Scenario> = TIERS.iter().map(|(_, text)| scenario(text)).collect();
    let mut best = vec![f64::MAX; scenarios.len()];
    for _ in 0..RUNS {
        for (scenario, best) in scenarios.iter().zip(&mut best) {
            *best = best.min(time(scenario, &requests));
        }
    }
    println!("{:<20} {:>12} {:>7}", "tiers", "requests/s", "ratio");
    for ((name, _), seconds) in TIERS.iter().zip(&best) {
        println!("{name:<20} {:>12.0} {:>7.2}", requests.len() as f64 / seconds, best[0] / seconds);
    }
}

fn scenario(tiers: &str) -> Scenario {
    let mut s = Case::Prefixes.scenario();
    s.deployment.kv.tiers = serde_json::from_str::<Vec<Tier>>(tiers).expect("settings of tiers");
    s
}

fn trace(path: &str) -> Requests {
    let text = std::fs::read_to_string(path).expect("a trace");
    let mut made = Requests { block_tokens: 512, block_hash_offsets: vec![0], ..Requests::default() };
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        let number = |name: &str| row[name].as_u64().expect("a number");
        made.arrival.push(SimTime(number("timestamp") as i64 * 1_000_000));
        made.input_tokens.push(number("input_length") as u32);
        made.output_tokens.push(number("output_length") as u32);
        let ids = row["hash_ids"].as_array().expect("hashes");
        made.block_hashes.extend(ids.iter().map(|id| id.as_u64().expect("a hash")));
        made.block_hash_offsets.push(made.block_hashes.len() as u64);
    }
    made
}

fn time(scenario: &Scenario, requests: &Requests) -> f64 {
    let start = seconds();
    let (counts, _) = run(scenario, requests).expect("a simulation");
    assert!(counts.requests == requests.len() as u64);
    seconds() - start
}

/// Seconds that this thread ran; since the start of the program where the system does not tell.
fn seconds() -> f64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = told.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    nanos.map_or_else(|| START.elapsed().as_secs_f64(), |nanos| nanos * 1e-9)
}
