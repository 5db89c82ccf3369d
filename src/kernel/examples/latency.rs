//! How long the latency models take for a step, in nanoseconds on one thread, and to be made.
//!
//! `cargo run --release -p pipe-kernel --example latency`: steps of batches of changing sizes, one batch after the other,
//! through the trait as the engine does; "form" is the part of a run of decode steps that is done for every step. The
//! least of several rounds.

use std::hint::black_box;
use std::time::Instant;

use pipe_kernel::bench_cases::tables::{on, profiles, shape};
use pipe_kernel::scenario::{ModelSpec, Scenario};
use pipe_kernel::sim::latency::{BatchShape, LatencyModel, Overheads, of};
use pipe_kernel::sim::swarm::{llama_8b, scenario_8b};

const SHAPES: u64 = 1024;
const ROUNDS: usize = 40;

const MODELS: [&str; 11] = [
    r#"{"constant": {"step_us": 1000}}"#,
    r#"{"linear": {"base_us": 7051.8, "per_prefill_token_us": 19.5, "per_decode_token_us": 25.4}}"#,
    r#"{"regression": {"intercept_us": 900, "sum_decode_tokens_us": 3, "sum_prefill_tokens_squared_us": 0.1}}"#,
    r#"{"rates": {"prefill_tokens_per_s": 9000, "decode_tokens_per_s": 70}}"#,
    r#""simple_roofline""#,
    r#"{"trained_physics": {}}"#,
    r#"{"trained_roofline": {}}"#,
    r#"{"cross_model": {}}"#,
    r#"{"roofline": {}}"#,
    "mixture",
    "overheads",
];

/// Nanoseconds per item of `run`, which does [`SHAPES`] of them.
fn least(mut run: impl FnMut() -> i64) -> f64 {
    let mut least = f64::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        black_box(run());
        least = least.min(start.elapsed().as_nanos() as f64 / SHAPES as f64);
    }
    least
}

fn main() {
    println!("{:<25} {:>10} {:>10} {:>10} {:>12}", "model", "decode ns", "mixed ns", "form ns", "made in us");
    for text in MODELS {
        let mut s = scenario_8b();
        let (latency, name) = match text {
            "mixture" => (r#"{"roofline": {}}"#, "roofline, mixture"),
            "overheads" => (r#"{"roofline": {}}"#, "roofline, overheads"),
            text => (text, ""),
        };
        match serde_json::from_str(latency) {
            Ok(latency) => s.deployment.latency = latency,
            Err(e) => panic!("{latency}: {e}"),
        }
        if text == "mixture" {
            s.model = ModelSpec { experts: 64, top_k: 8, ..llama_8b() };
        }
        if text == "overheads" {
            s.deployment.overheads = Overheads { step_us: 100.0, request_us: 3.0, ..Overheads::default() };
        }
        let name = if name.is_empty() { s.deployment.latency.name() } else { name };
        measure(name, &s);
    }
    // Tables as large as real ones.
    for profile in profiles() {
        measure(&format!("table: {}", profile.layout.name()), &on(&profile));
    }
}

fn measure(name: &str, s: &Scenario) {
    let site = &s.sites()[0];
    let make = || of(site).unwrap_or_else(|e| panic!("{name}: {e}"));
    let model: Box<dyn LatencyModel> = make();
    let steps = |mixed: bool| {
        let shapes: Vec<BatchShape> = (0..SHAPES).map(|i| shape(i, mixed)).collect();
        least(|| shapes.iter().map(|s| black_box(&model).step(s).0).fold(0, i64::wrapping_add))
    };
    let form = model.decode_form(100).map_or(f64::NAN, |form| {
        least(|| (0..SHAPES).map(|i| form.at(black_box(i * 100)).0).fold(0, i64::wrapping_add))
    });
    let start = Instant::now();
    black_box(make());
    let made = start.elapsed().as_nanos() as f64 / 1e3;
    println!("{name:<25} {:>10.1} {:>10.1} {form:>10.1} {made:>12.0}", steps(false), steps(true));
}
