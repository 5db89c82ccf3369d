//! How fast the simulator is, one bench per hot path.
//!
//! ```sh
//! cargo bench --bench kernel                 # all
//! cargo bench --bench kernel -- simulate/c   # one
//! ```
//! Elements are requests: the figure is simulated requests per second of one core, as the kernel has no threads. The
//! cases are those of `pipe bench` at a tenth of their size; that command also tells CPU time, memory and counts.
//! Criterion goes by the wall clock: on a shared machine compare with its baselines, on an idle one trust the times.
//!
//! | bench | what bounds it |
//! |---|---|
//! | `simulate/a` | steps that only decode: a step time from a closed form, and the count of its gap, some 17 per request; and the request's own p99 of gaps |
//! | `simulate/b` | steps in which running requests are looked at one by one, because blocks are short |
//! | `simulate/c` | some 90 steps per request, eight of which cut its prompt; the pool of KV blocks, per hash of the trace: a quarter |
//! | `simulate/d` | as `a`, and the order of the rows of four replicas |
//! | `simulate/e` | as `a`, with twice the tokens and fewer steps, as more requests share each |
//! | `simulate/linear` | as `a` with another closed form: what the latency model adds |
//! | `simulate/routed` | 16 replicas that are all advanced to every arrival, because the router looks at them |
//! | `workload/a`, `workload/c` | random numbers and `libm`; hashes of blocks in `c` |

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use pipe_kernel::bench_cases::{Case, run};
use pipe_kernel::request::Requests;
use pipe_kernel::scenario::Scenario;
use pipe_kernel::sim::latency::{Latency, Linear};
use pipe_kernel::sim::router::Router;

fn simulated(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, scenario: &Scenario, requests: &Requests) {
    let tokens: u64 = requests.output_tokens.iter().map(|n| u64::from(*n)).sum();
    group.throughput(Throughput::Elements(requests.len() as u64));
    group.bench_function(name, |b| {
        b.iter(|| {
            let (counts, _) = run(scenario, requests).expect("a simulation");
            assert_eq!((counts.requests, counts.output_tokens), (requests.len() as u64, tokens));
        });
    });
}

/// inference-sim's fitted coefficients of Llama 3.1 8B on an H100.
fn linear() -> Latency {
    Latency::Linear(Linear {
        base_us: 7_051.8,
        per_prefill_token_us: 19.5,
        per_decode_token_us: 25.4,
        queue_base_us: 0.0,
        queue_per_input_token_us: 0.0,
        per_output_token_us: 0.0,
        ..Linear::default()
    })
}

fn simulate(c: &mut Criterion) {
    let mut group = c.benchmark_group("simulate");
    group.sample_size(10);
    for case in [Case::Plain, Case::Preemptions, Case::Prefixes, Case::Fleet, Case::LongOutputs] {
        simulated(&mut group, case.letter(), &case.scenario(), &case.requests(case.count() / 10));
    }
    let requests = Case::Plain.requests(Case::Plain.count() / 10);
    let mut scenario = Case::Plain.scenario();
    scenario.deployment.latency = linear();
    simulated(&mut group, "linear", &scenario, &requests);
    let mut scenario = Case::Plain.scenario();
    scenario.deployment.replicas = 16;
    scenario.deployment.router = Router::LeastOutstanding;
    scenario.workload.rate_rps = Some(160.0);
    simulated(&mut group, "routed", &scenario, &requests);
    group.finish();
}

fn workload(c: &mut Criterion) {
    let mut group = c.benchmark_group("workload");
    group.sample_size(10);
    for case in [Case::Plain, Case::Prefixes] {
        let count = case.count() / 10;
        group.throughput(Throughput::Elements(u64::from(count)));
        group.bench_function(case.letter(), |b| b.iter(|| assert_eq!(case.requests(count).len(), count as usize)));
    }
    group.finish();
}

criterion_group!(benches, simulate, workload);
criterion_main!(benches);
