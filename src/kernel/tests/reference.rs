//! Figures of inference-sim, reproduced request by request.
//!
//! Source: inference-sim/inference-sim (Apache-2.0), commit f90a1e3a and, for the linear model, its last release that
//! had one. Two sets: excerpts committed here (`reference/*.csv`), the first requests of each case; and the complete
//! cases where a folder `shared/reference` is at hand (environment variable `PIPE_SHARED`, or beside an ancestor of
//! this crate), else a note is printed.
//!
//! Where inference-sim does something that vLLM does not, the case says so: in its quirks, or in [`Case::adapt`].

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use pipe_kernel::request::Requests;
use pipe_kernel::scenario::Scenario;
use pipe_kernel::sim::latency::{Latency, Linear};
use pipe_kernel::sim::swarm::{Rows, scenario_8b};
use pipe_kernel::sim::{Quirks, Summary, simulate_with};
use pipe_kernel::units::SimTime;

/// Largest relative error of a request's figure, and of an aggregate.
const REQUEST_TOLERANCE: f64 = 1e-3;
const AGGREGATE_TOLERANCE: f64 = 5e-4;

struct Case {
    name: &'static str,
    scenario: fn(&mut Scenario),
    quirks: Quirks,
    /// Microseconds after every token. inference-sim adds them to every gap, as if the client fell behind the engine
    /// more with every token; here they delay each token once.
    after_token_us: f64,
}

/// inference-sim counts time in whole microseconds.
const MICROSECONDS: Quirks = Quirks {
    restart_from_prompt: false,
    free_full_hits: false,
    whole_microseconds: true,
    block_at_completion: false,
    hits_without_context: false,
};

fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "01_roofline_1inst",
            // inference-sim's roofline counts two matrices of a gated feed-forward network, not three.
            scenario: |s| s.model.mlp_matrices = 2,
            quirks: MICROSECONDS,
            after_token_us: 0.0,
        },
        Case {
            name: "03_roofline_saturated_smallkv",
            scenario: |s| {
                s.model.mlp_matrices = 2;
                s.deployment.kv.num_gpu_blocks = Some(2500);
                s.deployment.max_model_len = Some(8192);
            },
            // A preempted request starts again from its prompt; see the fields for the others.
            quirks: Quirks {
                restart_from_prompt: true,
                free_full_hits: true,
                whole_microseconds: true,
                block_at_completion: true,
                hits_without_context: true,
            },
            after_token_us: 0.0,
        },
        Case {
            name: "06_cluster4_rr",
            scenario: |s| {
                s.deployment.replicas = 4;
                s.deployment.latency = Latency::TrainedPhysics;
            },
            quirks: MICROSECONDS,
            after_token_us: 45.907_545,
        },
        Case {
            name: "31_be5_blackbox",
            scenario: |s| {
                s.deployment.tp = 2;
                // Fitted to meta-llama/llama-3.1-8b-instruct, H100, TP 2, vLLM 0.8.4.
                s.deployment.latency = Latency::Linear(Linear {
                    base_us: 6_910.420_479_880_5,
                    per_prefill_token_us: 17.670_574_898_4,
                    per_decode_token_us: 2.837_747_111,
                    queue_base_us: 1_601.350_510_688_1,
                    queue_per_input_token_us: 3.512_476_196_8,
                    per_output_token_us: 1_805.543_036_082_7,
                });
            },
            quirks: MICROSECONDS,
            after_token_us: 1_805.543_036_082_7,
        },
        Case {
            name: "35_be5_blackbox_explicit",
            scenario: |s| {
                s.deployment.latency = Latency::Linear(Linear {
                    base_us: 7_051.796_874_715_078,
                    per_prefill_token_us: 19.538_416_565_504_026,
                    per_decode_token_us: 25.431_830_886_933_543,
                    queue_base_us: 4_680.3,
                    queue_per_input_token_us: 0.0,
                    per_output_token_us: 0.0,
                });
            },
            quirks: MICROSECONDS,
            after_token_us: 0.0,
        },
    ]
}

/// One request of a case, with inference-sim's figures.
#[derive(Clone, Debug)]
struct Expected {
    arrival_us: i64,
    input: u32,
    output: u32,
    ttft_ms: f64,
    e2e_ms: f64,
    replica: Option<u32>,
}

impl Case {
    /// inference-sim's end-to-end latency as it would be if a token's overhead delayed that token only.
    fn adapt(&self, e: &Expected) -> f64 {
        e.e2e_ms - f64::from(e.output - 1) * self.after_token_us.trunc() / 1e3
    }

    fn run(&self, expected: &[Expected]) -> (Vec<(f64, f64, u32)>, Summary) {
        let mut scenario = scenario_8b();
        (self.scenario)(&mut scenario);
        let mut sink = Rows::default();
        let summary =
            simulate_with(&scenario, &requests(expected), &mut sink, &AtomicBool::new(false), self.quirks).unwrap();
        sink.requests.sort_by_key(|row| row.request);
        let figures = sink.requests.iter().map(|row| {
            let since = |t: Option<SimTime>| (t.unwrap() - row.arrival).as_ms();
            (since(row.first_token), since(row.finished), row.replica)
        });
        (figures.collect(), summary)
    }

    /// Compares the requests that `chosen` names, and returns the largest relative error.
    fn compare(&self, expected: &[Expected], chosen: impl Fn(usize) -> bool) -> f64 {
        let (figures, _) = self.run(expected);
        let mut worst = 0.0_f64;
        for (i, (e, (ttft, e2e, replica))) in expected.iter().zip(&figures).enumerate().filter(|(i, _)| chosen(*i)) {
            for (what, ours, theirs) in [("ttft", ttft, e.ttft_ms), ("e2e", e2e, self.adapt(e))] {
                let error = (ours - theirs).abs() / theirs;
                worst = worst.max(error);
                assert!(
                    error <= REQUEST_TOLERANCE,
                    "{} request {i}: {what} {ours} ms, inference-sim has {theirs} ms",
                    self.name
                );
            }
            assert!(e.replica.is_none_or(|r| r == *replica), "{} request {i}: replica {replica}", self.name);
        }
        worst
    }
}

/// The requests of a case. Prompts are random tokens, so every request has hashes of its own, for prompt and output.
fn requests(expected: &[Expected]) -> Requests {
    let mut r = Requests { block_tokens: 16, block_hash_offsets: vec![0], ..Requests::default() };
    for (i, e) in expected.iter().enumerate() {
        r.arrival.push(SimTime(e.arrival_us * 1_000));
        r.input_tokens.push(e.input);
        r.output_tokens.push(e.output);
        r.block_hashes.extend((0..(e.input + e.output) / 16).map(|block| (i as u64) << 32 | u64::from(block)));
        r.block_hash_offsets.push(r.block_hashes.len() as u64);
    }
    r
}

/// The folder with complete cases, if there is one.
fn shared() -> Option<PathBuf> {
    let mut roots: Vec<PathBuf> = std::env::var_os("PIPE_SHARED").map(PathBuf::from).into_iter().collect();
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    roots.extend(here.ancestors().map(|dir| dir.join("shared")));
    roots.into_iter().map(|root| root.join("reference/cases/blis")).find(|dir| dir.is_dir())
}

/// Quantile with linear interpolation, as inference-sim and numpy take it.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = q * (sorted.len() - 1) as f64;
    let (low, part) = (rank as usize, rank.fract());
    sorted[low] + part * (sorted[(low + 1).min(sorted.len() - 1)] - sorted[low])
}

fn mean_and_quantiles(mut values: Vec<f64>) -> [f64; 4] {
    values.sort_by(f64::total_cmp);
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    [mean, quantile(&values, 0.90), quantile(&values, 0.95), quantile(&values, 0.99)]
}

fn complete_case(dir: &std::path::Path, name: &str) -> (Vec<Expected>, serde_json::Value) {
    let read = |file: &str| std::fs::read_to_string(dir.join(name).join(file)).unwrap();
    let metrics: serde_json::Value = serde_json::from_str(&read("metrics.json")).unwrap();
    let trace = read("trace.csv");
    let mut lines = trace.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let column = |name: &str| header.iter().position(|h| *h == name).unwrap();
    let (id, arrival) = (column("request_id"), column("arrival_time_us"));
    let (input, output) = (column("input_tokens"), column("output_tokens"));
    let by_id = |id: &str| {
        let id = format!("request_{id}");
        metrics["requests"].as_array().unwrap().iter().find(|r| r["requestID"] == id.as_str()).unwrap()
    };
    let expected = lines.map(|line| {
        let m = by_id(line[id]);
        let replica = m["handled_by"].as_str().unwrap().strip_prefix("instance_").unwrap();
        Expected {
            arrival_us: line[arrival].parse().unwrap(),
            input: line[input].parse().unwrap(),
            output: line[output].parse().unwrap(),
            ttft_ms: m["ttft_ms"].as_f64().unwrap(),
            e2e_ms: m["e2e_ms"].as_f64().unwrap(),
            replica: replica.parse().ok(),
        }
    });
    (expected.collect(), metrics.clone())
}

#[test]
fn complete_cases() {
    let Some(dir) = shared() else {
        println!("no folder shared/reference at hand: only the committed excerpts are checked");
        return;
    };
    for case in cases() {
        let (expected, metrics) = complete_case(&dir, case.name);
        let worst = case.compare(&expected, |_| true);
        let (figures, summary) = case.run(&expected);
        let ttft = mean_and_quantiles(figures.iter().map(|f| f.0).collect());
        let e2e = mean_and_quantiles(figures.iter().map(|f| f.1).collect());
        // The overhead of a token is not repeated here, so the aggregates are taken from what each request would be.
        let e2e_theirs = mean_and_quantiles(expected.iter().map(|e| case.adapt(e)).collect());
        let mut aggregates = Vec::new();
        for (i, name) in ["mean", "p90", "p95", "p99"].iter().enumerate() {
            aggregates.push((format!("ttft_{name}"), ttft[i], metrics[format!("ttft_{name}_ms")].as_f64().unwrap()));
            let theirs = match case.after_token_us > 0.0 {
                true => e2e_theirs[i],
                false => metrics[format!("e2e_{name}_ms")].as_f64().unwrap(),
            };
            aggregates.push((format!("e2e_{name}"), e2e[i], theirs));
        }
        let duration = metrics["vllm_estimated_duration_s"].as_f64().unwrap();
        aggregates.push(("duration".to_string(), summary.end.0 as f64 / 1e9, duration));
        let mut worst_aggregate = 0.0_f64;
        for (name, ours, theirs) in aggregates {
            let error = (ours - theirs).abs() / theirs;
            worst_aggregate = worst_aggregate.max(error);
            assert!(error <= AGGREGATE_TOLERANCE, "{} {name}: {ours}, inference-sim has {theirs}", case.name);
        }
        let preemptions = metrics["preemption_count"].as_u64().unwrap();
        assert_eq!(summary.preemptions, preemptions, "{}: preemptions", case.name);
        println!("{}: largest error of a request {worst:.2e}, of an aggregate {worst_aggregate:.2e}", case.name);
    }
}

/// Rows of a committed excerpt: arrival_us, input_tokens, output_tokens, ttft_ms, e2e_ms, replica.
fn excerpt(csv: &str) -> Vec<Expected> {
    let rows = csv.lines().filter(|line| !line.starts_with('#')).skip(1).map(|line| {
        let fields: Vec<&str> = line.split(',').collect();
        Expected {
            arrival_us: fields[0].parse().unwrap(),
            input: fields[1].parse().unwrap(),
            output: fields[2].parse().unwrap(),
            ttft_ms: fields[3].parse().unwrap(),
            e2e_ms: fields[4].parse().unwrap(),
            replica: fields[5].parse().ok(),
        }
    });
    rows.collect()
}

#[test]
fn excerpts() {
    let files = [
        include_str!("reference/01_roofline_1inst.csv"),
        include_str!("reference/03_roofline_saturated_smallkv.csv"),
        include_str!("reference/06_cluster4_rr.csv"),
        include_str!("reference/31_be5_blackbox.csv"),
        include_str!("reference/35_be5_blackbox_explicit.csv"),
    ];
    for (case, csv) in cases().iter().zip(files) {
        let all = excerpt(csv);
        // Requests beyond the excerpt cannot have touched those that were done before its last arrival.
        let cut = all.last().unwrap().arrival_us;
        let done: Vec<bool> = all.iter().map(|e| e.arrival_us + (e.e2e_ms * 1e3) as i64 <= cut).collect();
        assert!(done.iter().filter(|done| **done).count() >= 20, "{}: too short an excerpt", case.name);
        case.compare(&all, |i| done[i]);
    }
}
