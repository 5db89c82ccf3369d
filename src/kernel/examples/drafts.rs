//! What speculative decoding costs the simulator: the time of the cases of `bench_cases` with one replica, without drafts and
//! with three, of which 70 % are accepted.
//!
//! `cargo run --release -p pipe-kernel --example drafts -- 20000`: requests of each. Prints seconds, the best of five runs, and
//! what the scenario gains.

use std::time::{Duration, Instant};

use pipe_kernel::bench_cases::{Case, run};
use pipe_kernel::request::Requests;
use pipe_kernel::scenario::Scenario;
use pipe_kernel::sim::Summary;
use pipe_kernel::sim::speculative::{Acceptance, DraftMethod, Speculative};

fn main() {
    let count = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(20_000);
    let speculative = Speculative {
        method: DraftMethod::Eagle,
        num_speculative_tokens: 3,
        num_speculative_tokens_per_batch_size: Vec::new(),
        adaptive: None,
        acceptance: Acceptance::Rate(0.7),
        draft_us: 200.0,
        draft_share: 0.0,
    };
    for case in [Case::Plain, Case::Preemptions, Case::Prefixes, Case::LongOutputs, Case::Fleet] {
        let requests = case.requests(count.min(case.count()));
        let plain = case.scenario();
        let mut with = plain.clone();
        with.deployment.speculative = Some(speculative.clone());
        let ((without_s, a), (with_s, b)) = (best(&plain, &requests), best(&with, &requests));
        println!(
            "{}: {without_s:.3?} without, {with_s:.3?} with ({:.2} times); steps {} and {}, {:.2} tokens a draft",
            case.name(),
            with_s.as_secs_f64() / without_s.as_secs_f64(),
            a.steps,
            b.steps,
            b.speculation.acceptance_length().unwrap_or(0.0)
        );
    }
}

fn best(s: &Scenario, requests: &Requests) -> (Duration, Summary) {
    let once = |_| {
        let start = Instant::now();
        let (_, summary) = run(s, requests).unwrap_or_else(|e| panic!("{e}"));
        (start.elapsed(), summary)
    };
    (0..5).map(once).min_by_key(|(time, _)| *time).unwrap_or_else(|| unreachable!("five runs"))
}
