//! How many requests the simulator handles per second on one thread (wall clock: other load on the machine shows).
//!
//! `cargo run --release -p pipe-kernel --example throughput`: 100,000 requests of 512 + 512 tokens, Poisson at 10 per
//! second, one replica of Llama 3.1 8B on an H100; then the same with shared prefixes, and overloaded.

use std::time::Instant;

use pipe_kernel::request::Requests;
use pipe_kernel::scenario::{Arrivals, Scenario};
use pipe_kernel::sim::router::Router;
use pipe_kernel::sim::swarm::{scenario_8b, summary_only};
use pipe_kernel::units::SimTime;

const COUNT: u32 = 100_000;

fn requests(hashed: bool) -> Requests {
    let n = COUNT as usize;
    let mut r = Requests {
        arrival: (0..i64::from(COUNT)).map(|i| SimTime(i * 100_000_000)).collect(),
        input_tokens: vec![512; n],
        output_tokens: vec![512; n],
        ..Requests::default()
    };
    if hashed {
        // 100 documents share their first half.
        (r.block_tokens, r.block_hash_offsets) = (16, vec![0]);
        for i in 0..u64::from(COUNT) {
            r.block_hashes.extend((0..32).map(|block| if block < 16 { i % 100 } else { 1_000 + i } << 16 | block));
            r.block_hash_offsets.push(r.block_hashes.len() as u64);
        }
    }
    r
}

fn main() {
    let plain = requests(false);
    let hashed = requests(true);
    type Edit = fn(&mut Scenario);
    let cases: [(&str, &Requests, Edit); 6] = [
        ("10 req/s", &plain, |_| {}),
        ("10 req/s, prefixes", &hashed, |_| {}),
        ("25 req/s", &plain, |s| s.workload.rate_rps = Some(25.0)),
        ("overloaded, 40 req/s", &plain, |s| s.workload.rate_rps = Some(40.0)),
        ("overloaded, 1000 KV blocks", &plain, |s| s.deployment.kv.num_gpu_blocks = Some(1000)),
        ("16 replicas, 160 req/s, least outstanding", &plain, |s| {
            s.deployment.replicas = 16;
            s.deployment.router = Router::LeastOutstanding;
            s.workload.rate_rps = Some(160.0);
        }),
    ];
    for (name, requests, edit) in cases {
        let mut s = scenario_8b();
        s.workload.rate_rps = Some(10.0);
        s.workload.arrivals = Arrivals::Poisson;
        edit(&mut s);
        let start = Instant::now();
        let summary = match summary_only(&s, requests) {
            Ok(summary) => summary,
            Err(e) => {
                eprintln!("{name}: {e}");
                continue;
            }
        };
        let took = start.elapsed().as_secs_f64();
        println!(
            "{name:<42} {:>9.0} requests/s  {:>4.1} ns/step  {} steps  {} preemptions  {} gaps  {took:.3} s",
            f64::from(COUNT) / took,
            took * 1e9 / summary.steps as f64,
            summary.steps,
            summary.preemptions,
            summary.itl.len(),
        );
    }
}
