//! How long the latency models take for a step, and a profile to be loaded.
//!
//! ```sh
//! cargo bench --bench latency
//! ```
//! Elements are steps, of batches of changing sizes: those that decode only, and those with a prompt beside. Tables are
//! those of public projects, of Llama 3.1 8B on one GPU, where there are any in a folder `shared`, else synthetic ones of
//! the same size; steps are those of another model on two GPUs. `load` reads the Parquet table of a stage; elements are points.
//!
//! Nanoseconds per step on a shared two-core machine (rustc 1.95), real tables:
//!
//! | model | decode | mixed | what bounds it |
//! |---|---|---|---|
//! | `linear`, `simple_roofline`, `trained_physics` | 2 to 3 | 3 to 6 | |
//! | `roofline` | 14 | 14 | |
//! | `operators` on predictions of Vidur's | 18 | 32 | a table is read once for each kind of request |
//! | `operators` on a database of operators | 40 | 69 | two axes of attention are searched, each for prompts and replies |
//! | `operators` on layers of LLMServingSim's | 90 | 203 | attention of mixed batches has four axes, and two contexts (mean and greatest): 32 numbers for one |
//! | `steps` | 1,190 | 348 | the nearest of 5,858 steps in five dimensions; batches here are not like those that were measured, which makes the search long |
//!
//! Of 280,414 points, `load` takes 24 ms. `cargo run --release -p pipe-kernel --example latency` has the same for synthetic
//! tables, without criterion.

#[allow(dead_code)]
#[path = "../it/project.rs"]
mod project;

use std::hint::black_box;
use std::sync::Arc;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use pipe::store::Store;
use pipe_kernel::bench_cases::tables::{on, profiles, shape};
use pipe_kernel::profile::{Layout, Operator, Profile};
use pipe_kernel::scenario::Scenario;
use pipe_kernel::sim::latency::{BatchShape, of};
use pipe_kernel::sim::swarm::scenario_8b;

const SHAPES: u64 = 1_024;

const FORMULAS: [&str; 4] = [
    r#"{"linear": {"base_us": 7051.8, "per_prefill_token_us": 19.5, "per_decode_token_us": 25.4}}"#,
    r#""simple_roofline""#,
    r#"{"trained_physics": {}}"#,
    r#"{"roofline": {}}"#,
];

/// Settings of the real tables, by layout; `$` is the folder of shared data.
const REAL: [(Layout, &str, &str); 4] = [
    (
        Layout::Layers,
        "layers: { path: $/profiles/layers/RTXPRO6000/meta-llama/Llama-3.1-8B/bf16 }",
        "profiles/layers/RTXPRO6000",
    ),
    (Layout::Operators, DATABASE, "profiles/operators/h100_sxm"),
    (
        Layout::VidurPredictions,
        "vidur_predictions: { path: $/profiles/vidur/predictions-llama-3-8b-a100-tp1-canary }",
        "profiles/vidur/predictions-llama-3-8b-a100-tp1-canary",
    ),
    (
        Layout::Steps,
        "steps: { path: $/measured/vllm_steps_h100.parquet, where: { model: codellama-34b, tp: \"2\" } }",
        "measured/vllm_steps_h100.parquet",
    ),
];

const DATABASE: &str = "operators: { path: $/profiles/operators, gpu: h100_sxm, framework: vllm, version: \"0.24.0\" }";

/// The real table of a layout, where it is at hand.
fn real(layout: Layout) -> Option<Arc<Profile>> {
    let data = project::shared()?.join("data");
    let (_, settings, needed) = REAL.into_iter().find(|(of, ..)| *of == layout)?;
    let settings = settings.replace('$', &data.display().to_string());
    data.join(needed).exists().then(|| project::profile(&format!("{{ {settings} }}")))
}

fn steps(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, s: &Scenario) {
    let model = of(&s.sites()[0]).unwrap_or_else(|e| panic!("{name}: {e}"));
    for (kind, mixed) in [("decode", false), ("mixed", true)] {
        let shapes: Vec<BatchShape> = (0..SHAPES).map(|i| shape(i, mixed)).collect();
        group.bench_function(format!("{name}/{kind}"), |b| {
            b.iter(|| shapes.iter().map(|s| black_box(&model).step(s).0).fold(0, i64::wrapping_add));
        });
    }
}

fn step(c: &mut Criterion) {
    let mut group = c.benchmark_group("step");
    group.throughput(Throughput::Elements(SHAPES));
    for text in FORMULAS {
        let mut s = scenario_8b();
        s.deployment.latency = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        steps(&mut group, s.deployment.latency.name(), &s);
    }
    for synthetic in profiles() {
        let found = real(synthetic.layout);
        let kind = if found.is_some() { "real" } else { "synthetic" };
        let profile = found.unwrap_or(synthetic);
        let name = format!("{} ({kind}, {} points)", profile.layout.name(), points(&profile));
        let mut s = on(&profile);
        // Those of an engine on two GPUs.
        s.deployment.tp = profile.of(Operator::Step).first().map_or(1, |p| p.shape[5].max(1));
        steps(&mut group, &name, &s);
    }
    group.finish();
}

fn points(profile: &Profile) -> usize {
    profile.points.values().map(Vec::len).sum()
}

/// The database of an H100, or a table of as many points.
fn load(c: &mut Criterion) {
    let made = project::Project::new();
    let settings = match project::shared().map(|dir| dir.join("data")) {
        Some(data) if data.join("profiles/operators/h100_sxm").is_dir() => {
            DATABASE.replace('$', &data.display().to_string())
        }
        _ => {
            let rows = (0..280_000).map(|i| format!("gemm,{},{},4096,{}\n", 1 + i % 100, 1 + i / 100, 5 + i % 977));
            made.write("gemm.csv", &format!("operator,tokens,n,k,latency_us\n{}", rows.collect::<String>()));
            "generic: { path: ../gemm.csv }".to_string()
        }
    };
    made.write("pipelines/p.yaml", &format!("name: p\nstages:\n  t: {{ profile: {{ {settings} }} }}\n"));
    made.run(&["run", "pipelines/p.yaml", "--quiet"]).ok();
    let store = Store::open(made.path()).expect("a store");
    let table = store.published().into_iter().find(|t| t.table == "t").expect("a table");
    let handle = store.published_handle(&table).expect("its parts");
    let mut group = c.benchmark_group("load");
    group.sample_size(20).throughput(Throughput::Elements(handle.rows));
    group.bench_function("operators", |b| b.iter(|| pipe::stage::read_profile(&handle).expect("a profile")));
    group.finish();
}

criterion_group!(benches, step, load);
criterion_main!(benches);
