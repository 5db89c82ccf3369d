//! What each scheduler costs beside vLLM's V1, on the same requests: plain ones, a cache that is a little too small, and
//! conversations.
//!
//! `cargo run --release -p pipe-kernel --example schedulers`: requests per second of one core, their ratio to those of
//! `vllm_v1`, and the cost of a request when there are twice as many (1 where it is linear). The best of five runs counts,
//! and the schedulers take turns: ratios hold on a machine that has other things to do, times do not.
//!
//! Ratios of November 2026 (plain, small cache, conversations), of the best of ten runs:
//!
//! | scheduler | plain | small cache | conversations |
//! |---|---|---|---|
//! | `vllm_v0` | 0.78 | 0.51 | 1.51 |
//! | `sarathi` | 1.12 | 1.02 | 0.82 |
//! | `orca` | 1.25 | 1.24 | 1.82 |
//! | `faster_transformer` | 1.02 | 0.65 | 0.21: batches of three, as it reserves 131,072 tokens for each, take ten times the steps |
//! | `lightllm` | 0.64 | 0.45 | 1.42 |
//! | `sglang` | 0.56 | 0.66 | 1.02 |
//! | `trtllm` | 1.04 | 0.95 | 2.47 |
//! | `trtllm`, MAX_UTILIZATION | 0.86 | 0.63 | 1.03 |
//! | `trtllm`, STATIC_BATCH | 0.57 | 0.52 | 1.98 |
//!
//! The cost of a request does not depend on their number beyond what the machine does to the figures (0.68 to 1.42, without
//! order).

use std::time::{Duration, Instant};

use pipe_kernel::bench_cases::{Case, run};
use pipe_kernel::request::Requests;
use pipe_kernel::scenario::Scenario;
use pipe_kernel::sim::scheduler::Scheduler;

const RUNS: usize = 5;

/// Settings under which all have the seats of vLLM's defaults, and room for its steps.
const SCHEDULERS: [&str; 10] = [
    r#"{"vllm_v1": {}}"#,
    r#"{"vllm_v0": {}}"#,
    r#"{"sarathi": {}}"#,
    r#"{"orca": {}}"#,
    r#"{"faster_transformer": {}}"#,
    r#"{"lightllm": {}}"#,
    r#"{"sglang": {}}"#,
    r#"{"trtllm": {}}"#,
    r#"{"trtllm": {"capacity_scheduler_policy": "MAX_UTILIZATION", "enable_chunked_context": true}}"#,
    r#"{"trtllm": {"capacity_scheduler_policy": "STATIC_BATCH"}}"#,
];

fn main() {
    println!("{:<12} {:<92} {:>12} {:>7} {:>8}", "case", "scheduler", "requests/s", "ratio", "linear");
    for (case, count) in [(Case::Plain, 20_000), (Case::Preemptions, 10_000), (Case::Prefixes, 6_000)] {
        let (once, twice) = (case.requests(count), case.requests(2 * count));
        let scenarios: Vec<Scenario> = SCHEDULERS.iter().map(|text| scenario(case, text)).collect();
        let mut best = vec![[Duration::MAX; 2]; scenarios.len()];
        for _ in 0..RUNS {
            for (scenario, best) in scenarios.iter().zip(&mut best) {
                for (requests, best) in [&once, &twice].into_iter().zip(best) {
                    *best = (*best).min(time(scenario, requests));
                }
            }
        }
        let rate = |[once, _]: &[Duration; 2]| f64::from(count) / once.as_secs_f64();
        for (text, times) in SCHEDULERS.iter().zip(&best) {
            let linear = times[1].as_secs_f64() / times[0].as_secs_f64() / 2.0;
            let ratio = rate(times) / rate(&best[0]);
            println!("{:<12} {text:<92} {:>12.0} {ratio:>7.2} {linear:>8.2}", format!("{case:?}"), rate(times));
        }
    }
}

fn scenario(case: Case, scheduler: &str) -> Scenario {
    let mut s = case.scenario();
    s.deployment.scheduler = serde_json::from_str::<Scheduler>(scheduler).expect("settings of a scheduler");
    if scheduler.contains("lightllm") {
        // Its cache is one of tokens.
        s.deployment.kv.num_gpu_blocks =
            s.deployment.kv.num_gpu_blocks.map(|n| n * u64::from(s.deployment.kv.block_size));
        s.deployment.kv.block_size = 1;
    }
    if case != Case::Prefixes {
        // What reserves room for the longest request has room for some.
        s.deployment.max_model_len = Some(8192);
    }
    // What reserves by what a request may generate knows that.
    s.workload.exact_max_tokens = true;
    s
}

fn time(scenario: &Scenario, requests: &Requests) -> Duration {
    let start = Instant::now();
    let (counts, _) = run(scenario, requests).expect("a simulation");
    assert!(counts.requests == requests.len() as u64);
    start.elapsed()
}
