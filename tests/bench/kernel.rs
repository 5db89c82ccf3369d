//! How fast the simulator is: 100,000 requests of 512 prompt and 512 output tokens at 10 requests/s on one replica.
//!
//! ```sh
//! cargo bench --bench kernel
//! ```
//! The throughput that criterion prints is simulated requests per second of one core: the kernel has no threads.

use std::sync::atomic::AtomicBool;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pipe_kernel::request::Requests;
use pipe_kernel::scenario::Scenario;
use pipe_kernel::sim::{RequestRow, Sink, simulate};
use pipe_kernel::workload::{Synthetic, generate};

/// Counts rows, so that nothing is optimised away.
#[derive(Default)]
struct Count(u64);

impl Sink for Count {
    fn request(&mut self, row: RequestRow) {
        self.0 += u64::from(row.output_tokens);
    }
}

fn scenario(latency: &str) -> Scenario {
    let text = format!(
        r#"{{
        "deployment": {{"model": "llama", "gpu": "h100", "scheduler": {{"vllm_v1": {{"max_num_batched_tokens": 8192}}}}, "latency": {latency}}},
        "model": {{"layers": 32, "hidden": 4096, "intermediate": 14336, "heads": 32, "kv_heads": 8, "head_dim": 128,
                   "vocab": 128256, "max_pos": 131072, "params_b": 8.03, "active_b": 8.03}},
        "gpu": {{"bf16_tflops": 989, "memory_gib": 80, "memory_tb_per_s": 3.35}},
        "workload": {{}}, "seed": 1}}"#
    );
    serde_json::from_str(&text).expect("a scenario")
}

fn requests(n: u32) -> Requests {
    let workload = serde_json::from_value::<Synthetic>(serde_json::json!({
        "requests": n, "rate_rps": 10.0, "arrivals": "poisson",
        "input": {"constant": {"tokens": 512}}, "output": {"constant": {"tokens": 512}}, "block_tokens": 16
    }))
    .expect("a workload");
    generate(&workload, 7)
}

fn throughput(c: &mut Criterion) {
    let n = 100_000;
    let requests = requests(n);
    let mut group = c.benchmark_group("simulate");
    group.throughput(Throughput::Elements(u64::from(n)));
    group.sample_size(10);
    for (name, latency) in [
        ("roofline", r#""roofline""#),
        ("linear", r#"{"linear": {"base_us": 7051.8, "per_prefill_token_us": 19.5, "per_decode_token_us": 25.4}}"#),
    ] {
        let scenario = scenario(latency);
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut count = Count::default();
                simulate(&scenario, &requests, &mut count, &AtomicBool::new(false)).expect("a simulation");
                assert_eq!(count.0, u64::from(n) * 512);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, throughput);
criterion_main!(benches);
