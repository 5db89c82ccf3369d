//! Figures of inference-sim, reproduced request by request, to the microsecond.
//!
//! Source: inference-sim/inference-sim (Apache-2.0), commit f90a1e3a and, for the latency models that it dropped, its last
//! release that had them. Two sets: excerpts committed here (`reference/*.csv`), the first requests of some cases; and the
//! complete cases where a folder `shared/reference` is at hand (environment variable `PIPE_SHARED`, or beside an ancestor
//! of this crate), else a note is printed. The requests of a case are fed in, with the arrival times that it had (for
//! closed loops: those that came about), so no random generator is repeated. One closed loop is also run as such.
//!
//! Compared for every request: time to first token, end-to-end latency, time until it was scheduled, replica. For a case:
//! preemptions, requests that finished, when the last step ended.
//!
//! # What differs by intent, and how the comparison takes it over
//!
//! - Time there is whole microseconds; every step and every overhead is cut, once, as a whole. `deployment.tick: 1us`
//!   does the same. The sums are formed in another order here, which could move a step across a microsecond; in these
//!   cases it never does.
//! - What a latency model adds after a token is added there to every gap between tokens, as if the client fell behind the
//!   engine more with every token; here each token is that much late, once: [`Case::adapt`] adds the rest.
//! - The end of a run is there when the last step ends; here when the last client has its reply: [`Case::duration_us`].
//! - The roofline (`simple_roofline`) counts two matrices of a gated feed-forward network; here three, unless the model has two
//!   ([`two_matrices`]).
//! - A preempted request counts there as scheduled when it was admitted last, here when it was first: for these, the time
//!   until then is not compared.
//! - A preempted request loses its tokens, a completed one takes the place of its last token, the first chunk after a hit
//!   attends to nothing in the cache, and a prompt found whole in the cache computes nothing: [`Quirks`],
//!   `recompute_full_hits` (case 03).
//! - A prompt that is computed elsewhere costs nothing there but the transfer: see
//!   [`prompts_computed_elsewhere_when_that_costs_nothing`] (case 10).
//! - There, the router goes by the adapters that are on the instances, here ([`Router::Weighted`]) by those it has sent;
//!   ties are drawn. What this case comes to, each adapter on one instance, is repeated by sessions that stay. A preempted
//!   request keeps its adapter in use there, the order of eviction is that of admissions, and between two ranks the nearer
//!   one's factor holds: none of which this case has (case 20).
//! - The version of 2025 loses shared prefixes: see [`the_version_of_2025_until_its_cache_is_recycled`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use pipe_kernel::pools::{Pool, PoolFacts};
use pipe_kernel::request::Requests;
use pipe_kernel::scenario::{ConstantTime, ModelSpec, Scenario, ThinkTime};
use pipe_kernel::sim::latency::{CrossModel, Latency, Linear, TrainedPhysics, TrainedRoofline};
use pipe_kernel::sim::lora::{Adapter, Gate, Loading, Lora, RankFactor};
use pipe_kernel::sim::router::Router;
use pipe_kernel::sim::scheduler::Scheduler;
use pipe_kernel::sim::swarm::{Rows, llama_8b, scenario_8b};
use pipe_kernel::sim::tiers::{Device, Tier};
use pipe_kernel::sim::{Quirks, RequestRow, Summary, simulate_with};
use pipe_kernel::units::SimTime;

/// Tokens per block.
const BLOCK: u32 = 16;

struct Case {
    name: &'static str,
    scenario: fn(&mut Scenario),
    quirks: Quirks,
    /// Whole microseconds that the latency model adds after a token, and after a request.
    after_token_us: i64,
    after_request_us: i64,
}

const NO_QUIRKS: Quirks =
    Quirks { restart_from_prompt: false, block_at_completion: false, hits_without_context: false };

impl Case {
    fn new(name: &'static str, scenario: fn(&mut Scenario)) -> Case {
        Case { name, scenario, quirks: NO_QUIRKS, after_token_us: 0, after_request_us: 0 }
    }

    fn with_overheads(self, after_token_us: i64, after_request_us: i64) -> Case {
        Case { after_token_us, after_request_us, ..self }
    }
}

fn two_matrices(s: &mut Scenario) {
    s.model.mlp_matrices = 2;
}

fn trained_physics(s: &mut Scenario) {
    s.deployment.latency = Latency::TrainedPhysics(TrainedPhysics::default());
}

/// The cases in which every request is equal.
fn cases() -> Vec<Case> {
    let physics = |name, scenario| Case::new(name, scenario).with_overheads(45, 777);
    vec![
        Case::new("01_roofline_1inst", two_matrices),
        physics("02_trainedphysics_1inst", trained_physics),
        Case {
            quirks: Quirks { restart_from_prompt: true, block_at_completion: true, hits_without_context: true },
            ..Case::new("03_roofline_saturated_smallkv", |s| {
                two_matrices(s);
                s.deployment.kv.num_gpu_blocks = Some(2500);
                s.deployment.max_model_len = Some(8192);
                let Scheduler::VllmV1(rules) = &mut s.deployment.scheduler else { return };
                rules.recompute_full_hits = false;
            })
        },
        // All prompts start with the same 1,024 tokens.
        physics("05_prefix_1inst", trained_physics),
        physics("06_cluster4_rr", |s| {
            trained_physics(s);
            s.deployment.replicas = 4;
        }),
        // Two classes of service, with Poisson arrivals and with bursts; one has a prefix of three blocks and 2 tokens.
        physics("14_servegen_language", |s| {
            trained_physics(s);
            s.deployment.replicas = 2;
        }),
        // 32 users, who ask again 200 ms after a reply.
        physics("15_concurrency", trained_physics),
        physics("16_moe_mixtral_tp2", |s| {
            trained_physics(s);
            s.deployment.tp = 2;
            s.model = ModelSpec { vocab: 32_000, max_pos: 32_768, experts: 8, top_k: 2, ..llama_8b() };
        }),
        physics("19_saturation_detectors", trained_physics),
        Case::new("31_be5_blackbox", |s| {
            s.deployment.tp = 2;
            // Fitted to meta-llama/llama-3.1-8b-instruct, H100, TP 2, vLLM 0.8.4.
            s.deployment.latency = Latency::Linear(Linear {
                base_us: 6_910.420_479_880_5,
                per_prefill_token_us: 17.670_574_898_4,
                per_decode_token_us: 2.837_747_111,
                queue_base_us: 1_601.350_510_688_1,
                queue_per_input_token_us: 3.512_476_196_8,
                per_output_token_us: 1_805.543_036_082_7,
                ..Linear::default()
            });
        })
        .with_overheads(1805, 0),
        Case::new("32_be5_crossmodel", |s| s.deployment.latency = Latency::CrossModel(CrossModel::default()))
            .with_overheads(860, 0),
        Case::new("33_be5_trainedroofline", |s| {
            s.deployment.latency = Latency::TrainedRoofline(TrainedRoofline::default());
        })
        .with_overheads(1, 1849),
        Case::new("34_be5_roofline", two_matrices),
        Case::new("35_be5_blackbox_explicit", |s| {
            s.deployment.latency = Latency::Linear(Linear {
                base_us: 7_051.796_874_715_078,
                per_prefill_token_us: 19.538_416_565_504_026,
                per_decode_token_us: 25.431_830_886_933_543,
                queue_base_us: 4_680.3,
                queue_per_input_token_us: 0.0,
                per_output_token_us: 0.0,
                ..Linear::default()
            });
        }),
    ]
}

/// One request of a case, with inference-sim's figures.
#[derive(Clone, Debug)]
struct Expected {
    arrival_us: i64,
    /// Tokens that every prompt starts with, and the whole prompt.
    prefix: u32,
    input: u32,
    output: u32,
    ttft_us: i64,
    e2e_us: i64,
    /// From arrival until it was scheduled, where that is known.
    delay_us: Option<i64>,
    replica: u32,
    /// Name of the adapter; empty where there are none.
    adapter: String,
}

/// Our figures of a request, in microseconds.
struct Got {
    arrival_us: i64,
    ttft_us: i64,
    e2e_us: i64,
    /// `None` where it was preempted.
    delay_us: Option<i64>,
    replica: u32,
}

impl Got {
    fn of(row: &RequestRow) -> Got {
        Got {
            arrival_us: us_of(row.arrival),
            ttft_us: us_between(Some(row.arrival), row.first_token),
            e2e_us: us_between(Some(row.arrival), row.finished),
            delay_us: (row.preemptions == 0).then(|| us_between(Some(row.arrival), row.scheduled)),
            replica: row.replica,
        }
    }
}

impl Case {
    /// Our end-to-end latency as inference-sim counts it.
    fn adapt(&self, got: &Got, e: &Expected) -> i64 {
        got.e2e_us + i64::from(e.output - 1) * self.after_token_us
    }

    /// When the last step ended.
    fn duration_us(&self, summary: &Summary) -> i64 {
        summary.end.0 / 1_000 - self.after_token_us - self.after_request_us
    }

    fn run(&self, expected: &[Expected]) -> (Vec<Got>, Summary) {
        let (rows, summary) = self.rows(&requests(expected));
        (rows.requests.iter().map(Got::of).collect(), summary)
    }

    /// Everything that a run tells; requests in the order of the trace.
    fn rows(&self, requests: &Requests) -> (Rows, Summary) {
        let mut scenario = scenario_8b();
        scenario.deployment.tick = Some("1us".parse().unwrap());
        (self.scenario)(&mut scenario);
        let mut rows = Rows::default();
        let stop = AtomicBool::new(false);
        let summary = simulate_with(&scenario, requests, &mut rows, &stop, self.quirks).unwrap();
        rows.requests.sort_by_key(|row| row.request);
        (rows, summary)
    }

    /// Demands that the requests that `chosen` names are equal.
    fn compare(&self, expected: &[Expected], got: &[Got], chosen: impl Fn(usize) -> bool) {
        assert_eq!(expected.len(), got.len(), "{}", self.name);
        let (mut compared, mut wrong) = (0, Vec::new());
        for (i, (e, g)) in expected.iter().zip(got).enumerate().filter(|(i, _)| chosen(*i)) {
            let figures = [
                ("arrival", Some(g.arrival_us), Some(e.arrival_us)),
                ("ttft", Some(g.ttft_us), Some(e.ttft_us)),
                ("e2e", Some(self.adapt(g, e)), Some(e.e2e_us)),
                ("delay", g.delay_us, e.delay_us),
                ("replica", Some(g.replica.into()), Some(e.replica.into())),
            ];
            for (what, ours, theirs) in figures {
                let (Some(ours), Some(theirs)) = (ours, theirs) else { continue };
                compared += 1;
                if ours != theirs {
                    wrong.push((i, what, ours, theirs));
                }
            }
        }
        let worst = wrong.iter().map(|(_, _, ours, theirs)| (ours - theirs).abs()).max().unwrap_or(0);
        println!("{}: {compared} figures of requests, largest error {worst} us", self.name);
        let some = &wrong[..wrong.len().min(8)];
        assert!(wrong.is_empty(), "{}: {} wrong, (request, figure, ours, theirs): {some:?}", self.name, wrong.len());
    }
}

/// A time in microseconds, of which it must be whole ones.
fn us_of(time: SimTime) -> i64 {
    assert_eq!(time.0 % 1_000, 0, "{time:?} is not in whole microseconds");
    time.0 / 1_000
}

fn us_between(from: Option<SimTime>, to: Option<SimTime>) -> i64 {
    us_of(to.unwrap()) - us_of(from.unwrap())
}

/// The requests of a case. Tokens are random but for the common prefix, so every request has hashes of its own after it,
/// for prompt and output.
fn requests(expected: &[Expected]) -> Requests {
    let mut r = Requests { block_tokens: BLOCK, block_hash_offsets: vec![0], ..Requests::default() };
    for (i, e) in expected.iter().enumerate() {
        r.arrival.push(SimTime(e.arrival_us * 1_000));
        r.input_tokens.push(e.input);
        r.output_tokens.push(e.output);
        let hash = |block: u32| if block < e.prefix / BLOCK { 0 } else { (i as u64 + 1) << 32 } | u64::from(block);
        r.block_hashes.extend((0..(e.input + e.output) / BLOCK).map(hash));
        r.block_hash_offsets.push(r.block_hashes.len() as u64);
    }
    r
}

/// The folder with complete cases, if there is one.
fn shared() -> Option<PathBuf> {
    let mut roots: Vec<PathBuf> = std::env::var_os("PIPE_SHARED").map(PathBuf::from).into_iter().collect();
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where"));
    roots.extend(here.ancestors().map(|dir| dir.join("shared")));
    roots.into_iter().map(|root| root.join("reference/cases/blis")).find(|dir| dir.is_dir())
}

fn us(ms: &serde_json::Value) -> i64 {
    (ms.as_f64().unwrap() * 1e3).round() as i64
}

/// Rows of a CSV file by the names of their columns; lines that start with `#` are comments.
fn csv(text: &str) -> Vec<BTreeMap<&str, &str>> {
    let mut lines = text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(','));
    let header: Vec<&str> = lines.next().unwrap().collect();
    lines.map(|fields| header.iter().copied().zip(fields).collect()).collect()
}

fn complete_case(dir: &Path, name: &str) -> (Vec<Expected>, serde_json::Value) {
    let read = |file: &str| std::fs::read_to_string(dir.join(name).join(file)).unwrap();
    let metrics: serde_json::Value = serde_json::from_str(&read("metrics.json")).unwrap();
    // Rounds of a session are told by their place in it, single requests by number.
    let key = |m: &serde_json::Value| match m["session_id"].as_str() {
        Some(session) => format!("{session} {}", m["round_index"]),
        None => m["requestID"].as_str().unwrap().to_string(),
    };
    let figures: BTreeMap<String, &serde_json::Value> =
        metrics["requests"].as_array().unwrap().iter().map(|m| (key(m), m)).collect();
    let trace = read("trace.csv");
    let rows = csv(&trace);
    assert_eq!(rows.len(), figures.len(), "{name}");
    let expected = rows.into_iter().map(|row| {
        let m = figures[&match row["session_id"] {
            "" => format!("request_{}", row["request_id"]),
            session => format!("{session} {}", row["round_index"]),
        }];
        let arrival_us: i64 = row["arrival_time_us"].parse().unwrap();
        let prefix: u32 = row["prefix_length"].parse().unwrap();
        // The trace gives the prompt without its prefix.
        let input = prefix + row["input_tokens"].parse::<u32>().unwrap();
        let output: u32 = row["output_tokens"].parse().unwrap();
        let same = (m["arrived_at"].as_f64().unwrap() * 1e6).round() as i64 == arrival_us
            && m["num_prefill_tokens"].as_u64() == Some(input.into())
            && m["num_decode_tokens"].as_u64() == Some(output.into());
        assert!(same, "{name}: {row:?} and {m} are not of the same request");
        Expected {
            arrival_us,
            prefix,
            input,
            output,
            ttft_us: us(&m["ttft_ms"]),
            e2e_us: us(&m["e2e_ms"]),
            delay_us: Some(us(&m["scheduling_delay_ms"])),
            replica: m["handled_by"].as_str().unwrap().strip_prefix("instance_").unwrap().parse().unwrap(),
            adapter: row.get("adapter").map_or("", |name| name).to_string(),
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
        let (got, summary) = case.run(&expected);
        case.compare(&expected, &got, |_| true);
        let figure = |name: &str| metrics[name].as_i64().unwrap();
        let duration_us = (metrics["vllm_estimated_duration_s"].as_f64().unwrap() * 1e6).round() as i64;
        assert_eq!(case.duration_us(&summary), duration_us, "{}: end of the last step", case.name);
        assert_eq!(summary.preemptions as i64, figure("preemption_count"), "{}: preemptions", case.name);
        assert_eq!(summary.finished as i64, figure("completed_requests"), "{}: finished", case.name);
    }
}

/// Rows of a committed excerpt or of a run of the version of 2025.
fn rows(text: &str) -> Vec<Expected> {
    let read = |row: BTreeMap<&str, &str>| {
        let column = |names: &[&str]| names.iter().find_map(|name| row.get(name)).copied();
        let number = |names: &[&str]| column(names).map_or(0, |text| text.parse().unwrap());
        let us = |name: &str| (row[name].parse::<f64>().unwrap() * 1e3).round() as i64;
        Expected {
            arrival_us: row["arrival_us"].parse().unwrap(),
            prefix: number(&["prefix_tokens"]),
            input: number(&["input_tokens", "input_len"]),
            output: number(&["output_tokens", "output_len"]),
            ttft_us: us("ttft_ms"),
            e2e_us: us("e2e_ms"),
            delay_us: None,
            replica: number(&["replica"]),
            adapter: column(&["adapter"]).unwrap_or_default().to_string(),
        }
    };
    csv(text).into_iter().map(read).collect()
}

#[test]
fn excerpts() {
    let files = [
        ("01_roofline_1inst", include_str!("reference/01_roofline_1inst.csv")),
        ("03_roofline_saturated_smallkv", include_str!("reference/03_roofline_saturated_smallkv.csv")),
        ("05_prefix_1inst", include_str!("reference/05_prefix_1inst.csv")),
        ("06_cluster4_rr", include_str!("reference/06_cluster4_rr.csv")),
        ("14_servegen_language", include_str!("reference/14_servegen_language.csv")),
        ("16_moe_mixtral_tp2", include_str!("reference/16_moe_mixtral_tp2.csv")),
        ("31_be5_blackbox", include_str!("reference/31_be5_blackbox.csv")),
        ("32_be5_crossmodel", include_str!("reference/32_be5_crossmodel.csv")),
        ("33_be5_trainedroofline", include_str!("reference/33_be5_trainedroofline.csv")),
        ("35_be5_blackbox_explicit", include_str!("reference/35_be5_blackbox_explicit.csv")),
    ];
    for (name, text) in files {
        let case = cases().into_iter().find(|case| case.name == name).unwrap();
        let (all, done) = excerpt(text);
        case.compare(&all, &case.run(&all).0, |i| done[i]);
    }
}

/// The requests of an excerpt, and which of them requests beyond it cannot have touched: those that were done before its
/// last arrival.
fn excerpt(text: &str) -> (Vec<Expected>, Vec<bool>) {
    let all = rows(text);
    let cut = all.last().unwrap().arrival_us;
    let done: Vec<bool> = all.iter().map(|e| e.arrival_us + e.e2e_us <= cut).collect();
    assert!(done.iter().filter(|done| **done).count() >= 20, "too short an excerpt: {text}");
    (all, done)
}

/// A case in full where it is at hand, else its excerpt; and which of its requests are to be compared.
fn complete_or_excerpt(name: &str, text: &str) -> Vec<(Vec<Expected>, Vec<bool>)> {
    let complete = shared().map(|dir| complete_case(&dir, name).0);
    let complete = complete.map(|all| {
        let chosen = vec![true; all.len()];
        (all, chosen)
    });
    complete.into_iter().chain([excerpt(text)]).collect()
}

/// The times at which the users of case 15 ask are what comes about: only their number and how long they think is given.
#[test]
fn users_who_ask_again_ask_when_theirs_do() {
    let case = Case::new("15_concurrency", |s| {
        trained_physics(s);
        s.workload.concurrency = Some(32);
        s.workload.think_time = Some(ThinkTime::Constant(ConstantTime { s: 0.2 }));
    })
    .with_overheads(45, 777);
    for (expected, chosen) in complete_or_excerpt(case.name, include_str!("reference/15_concurrency.csv")) {
        // Nothing is known of when they arrive.
        let asked: Vec<Expected> = expected.iter().map(|e| Expected { arrival_us: 0, ..e.clone() }).collect();
        case.compare(&expected, &case.run(&asked).0, |i| chosen[i]);
    }
}

/// Two replicas for prompts, two for replies. There, one counter goes round for both, and is used twice for each request:
/// all go to the same two replicas. Here, all are of one session, which stays where its first request went.
fn two_pools(s: &mut Scenario) {
    trained_physics(s);
    let pool = |role: &str| serde_json::from_str::<Pool>(&format!(r#"{{"role": "{role}", "replicas": 2}}"#)).unwrap();
    let pools = [("prompts", pool("prefill")), ("replies", pool("decode"))];
    s.deployment.pools = pools.map(|(name, pool)| (name.to_string(), pool)).into();
    s.deployment.router = Router::StickyRoundRobin;
    s.pools = vec![PoolFacts::new(&s.model, &s.gpu); 2];
}

/// [`two_pools`], where prompts cost nothing: a step of the least length, one tick, and the queue before it as much
/// shorter.
fn two_pools_with_prompts_for_nothing(s: &mut Scenario) {
    two_pools(s);
    let nothing = Linear {
        // Rounded down to whole ticks, at least one.
        base_us: 0.5,
        per_prefill_token_us: 0.0,
        per_decode_token_us: 0.0,
        queue_base_us: 15_562.0,
        queue_per_input_token_us: 0.0,
        per_output_token_us: 0.0,
        ..Linear::default()
    };
    s.deployment.pools.get_mut("prompts").unwrap().latency = Some(Latency::Linear(nothing));
}

/// Case 10. A transfer begins there when the last step of the prompt begins, so that the step is free. Where it is free
/// here too, every figure is equal. What its time to first token measures is the end of the first step of the decode
/// replica, at which the second token comes out; the first, which the prefill replica made, is reported nowhere. So there
/// are as many steps as with `first_token: transfer`; with `decode`, there would be one more for each request.
///
/// With steps that take their time, the way from prefill to decode replica is equal but for them: request by request for
/// what goes before, and for the KV cache's arrival less the step of the prompt.
#[test]
fn prompts_computed_elsewhere_when_that_costs_nothing() {
    let overheads = |case: Case| case.with_overheads(45, 777);
    let free = overheads(Case::new("10_pd_always", two_pools_with_prompts_for_nothing));
    let real = overheads(Case::new("10_pd_always", two_pools));
    for (mut expected, chosen) in complete_or_excerpt(free.name, include_str!("reference/10_pd_always.csv")) {
        let mut requests = requests(&expected);
        requests.session = vec![Some(0); expected.len()];
        let (rows, _) = free.rows(&requests);
        let figures = rows.requests.iter().map(|row| {
            let mut steps = rows.steps.iter().filter(|step| step.replica == row.replica);
            let second = steps.find(|step| Some(step.start) >= row.kv_ready).map(|step| step.start + step.duration);
            Got {
                arrival_us: us_of(row.arrival),
                ttft_us: us_between(Some(row.arrival), second) + free.after_token_us,
                // No gap ends with the first token, which is counted nowhere.
                e2e_us: us_between(Some(row.arrival), row.finished) - free.after_token_us,
                // That of the prompt, which begins a tick earlier here.
                delay_us: Some(us_between(Some(row.arrival), row.scheduled) + 1),
                replica: row.replica,
            }
        });
        expected.iter_mut().for_each(|e| e.delay_us = Some(15_563));
        free.compare(&expected, &figures.collect::<Vec<_>>(), |i| chosen[i]);

        let (really, _) = real.rows(&requests);
        for (with, without) in really.requests.iter().zip(&rows.requests) {
            let step_us = us_between(with.scheduled, with.prefilled);
            assert!((6_500..10_000).contains(&step_us), "{with:?}");
            assert_eq!(us_between(with.prefilled, with.kv_ready), us_between(without.prefilled, without.kv_ready));
            assert_eq!(us_between(without.kv_ready, with.kv_ready), step_us);
            assert_eq!((with.replica, with.prefill_replica), (without.replica, without.prefill_replica));
        }
    }
}

/// Case 10: what the prefill replica and the transfers report of themselves, over all requests.
#[test]
fn steps_of_prompts_and_transfers_on_the_whole() {
    let name = "10_pd_always";
    let Some(dir) = shared() else {
        println!("no folder shared/reference at hand: the replicas of {name} are not checked");
        return;
    };
    let stdout = std::fs::read_to_string(dir.join(name).join("stdout.txt")).unwrap();
    let (_, after) = stdout.split_once(r#""instance_id": "instance_1","#).unwrap();
    let figure = |name: &str| {
        let (_, after) = after.split_once(&format!(r#""{name}": "#)).unwrap();
        after.split([',', '\n']).next().unwrap().parse::<f64>().unwrap()
    };
    let case = Case::new(name, two_pools);
    let expected = complete_case(&dir, name).0;
    let mut requests = requests(&expected);
    requests.session = vec![Some(0); expected.len()];
    let (rows, _) = case.rows(&requests);

    // Nearest-rank neighbours, as percentiles interpolate: rank p (n - 1) / 100, from 0.
    let percentile = |sorted: &[i64], p: usize| {
        let rank = p * (sorted.len() - 1);
        let (low, rest) = (sorted[rank / 100], (rank % 100) as f64 / 100.0);
        low as f64 + rest * (sorted[(rank / 100 + 1).min(sorted.len() - 1)] - low) as f64
    };
    let mean = |us: &[i64]| us.iter().sum::<i64>() as f64 / us.len() as f64;
    let sorted = |figures: &dyn Fn(&RequestRow) -> i64| {
        let mut us: Vec<i64> = rows.requests.iter().map(figures).collect();
        us.sort_unstable();
        us
    };
    let prompts = sorted(&|row| us_between(Some(row.arrival), row.prefilled) + 45);
    let ways = sorted(&|row| us_between(row.prefilled, row.kv_ready));
    let last = rows.requests.iter().map(|row| us_of(row.prefilled.unwrap())).max().unwrap();
    let pairs = [
        (mean(&prompts), figure("ttft_mean_ms") * 1e3),
        (percentile(&prompts, 90), figure("ttft_p90_ms") * 1e3),
        (percentile(&prompts, 95), figure("ttft_p95_ms") * 1e3),
        (percentile(&prompts, 99), figure("ttft_p99_ms") * 1e3),
        (last as f64, figure("vllm_estimated_duration_s") * 1e6),
    ];
    for (ours, theirs) in pairs {
        assert!((ours - theirs).abs() < 1e-3, "{ours} us, not {theirs}");
    }
    // Printed with one decimal, and as it seems with the nearest rank.
    let (_, line) = stdout.split_once("KV Transfer Duration (us): ").unwrap();
    assert!(line.starts_with(&format!("mean={:.1} p50=", mean(&ways))), "{}, not {line}", mean(&ways));
}

/// The settings of case 20: those of its file, and inference-sim's own for the rest.
fn four_adapters(s: &mut Scenario) {
    trained_physics(s);
    s.deployment.replicas = 2;
    s.deployment.router = Router::StickyRoundRobin;
    let ranks = [("a0", 8), ("a1", 16), ("a2", 32), ("a3", 8)];
    let factors = [(8, 0.02), (16, 0.035), (32, 0.06)];
    s.deployment.lora = Some(Lora {
        max_loras: 2,
        max_lora_rank: 32,
        adapters: ranks.map(|(name, rank)| (name.to_string(), Adapter { rank })).into(),
        bytes_per_rank: Some(2e6),
        gate: Gate::HeadOfLine,
        loading: Loading::Background,
        load_base_us: 1_500.0,
        load_gb_per_s: Some(2_000.0),
        factors: factors.map(|(rank, factor)| RankFactor { rank, factor }).into(),
        ..Lora::default()
    });
}

/// Case 20. Every step's length depends on the adapters in its batch, every adapter is loaded once.
#[test]
fn adapters_are_loaded_once_and_make_steps_longer() {
    let case = Case::new("20_lora", four_adapters).with_overheads(45, 777);
    for (expected, chosen) in complete_or_excerpt(case.name, include_str!("reference/20_lora.csv")) {
        let mut requests = requests(&expected);
        let names: BTreeSet<String> = expected.iter().map(|e| e.adapter.clone()).collect();
        requests.adapter_names = names.into_iter().collect();
        let number = |e: &Expected| requests.adapter_names.binary_search(&e.adapter).unwrap() as u32;
        requests.adapter = expected.iter().map(|e| Some(number(e))).collect();
        requests.session = expected.iter().map(|e| Some(e.replica)).collect();
        let (rows, summary) = case.rows(&requests);
        case.compare(&expected, &rows.requests.iter().map(Got::of).collect::<Vec<_>>(), |i| chosen[i]);
        assert_eq!((summary.adapters.loads, summary.adapters.evictions), (4, 0));
        // Four of rank 8, 16, 32 and 8.
        assert_eq!(summary.adapters.load_time.0, (4 * 1_500 + 8 + 16 + 32 + 8) * 1_000);
        assert_eq!(summary.adapters.steps_by_adapters.len(), 3);
    }
}

/// inference-sim at 148be7f3, with its flag of preemptions reset in each step: 2,000 requests, 614 tokens of prefix.
///
/// There, the blocks of a prompt after a hit are hashed as if the prompt began with them, so that the hash of the shared
/// prefix moves on to a block of each new request, and goes when that block is handed out again. That begins at about 47 s,
/// when all of the 64,173 blocks have been handed out once; from then on, most prompts compute the prefix anew and the
/// load is more than the replica can serve. Until then every request is equal. Over the whole run, its means lie between
/// those of a cache that works and those of none, and no more can be said without that error.
#[test]
fn the_version_of_2025_until_its_cache_is_recycled() {
    const RECYCLED_US: i64 = 46_970_000;
    let name = "00b_seed_old_preemptflag_fixed";
    let Some(file) = shared().map(|dir| dir.join(name).join("requests.csv")) else {
        println!("no folder shared/reference at hand: {name} is not checked");
        return;
    };
    let mut expected = rows(&std::fs::read_to_string(file).unwrap());
    for e in &mut expected {
        e.prefix = 614;
    }
    let caching = Case::new(name, version_of_2025);
    let (got, works) = caching.run(&expected);
    let done: Vec<bool> = expected.iter().map(|e| e.arrival_us + e.e2e_us < RECYCLED_US).collect();
    assert_eq!(done.iter().filter(|done| **done).count(), 273);
    caching.compare(&expected, &got, |i| done[i]);

    let without = Case::new(name, |s| {
        version_of_2025(s);
        s.deployment.kv.enable_prefix_caching = false;
    });
    let (got_without, none) = without.run(&expected);
    let mean_ms = |us: &mut dyn Iterator<Item = i64>| us.sum::<i64>() as f64 / 1e3 / expected.len() as f64;
    let bounds = [
        (
            "ttft",
            mean_ms(&mut got.iter().map(|g| g.ttft_us)),
            mean_ms(&mut expected.iter().map(|e| e.ttft_us)),
            mean_ms(&mut got_without.iter().map(|g| g.ttft_us)),
        ),
        // Its own figure of the whole run: 39,739.772 ms.
        (
            "e2e",
            mean_ms(&mut got.iter().map(|g| g.e2e_us)),
            mean_ms(&mut expected.iter().map(|e| e.e2e_us)),
            mean_ms(&mut got_without.iter().map(|g| g.e2e_us)),
        ),
        ("end", works.end.0 as f64 / 1e6, 226_734.570, none.end.0 as f64 / 1e6),
    ];
    for (what, works, theirs, none) in bounds {
        println!("{name}: {what} {theirs:.0} ms, {works:.0} with a cache that works, {none:.0} without");
        assert!(works < theirs && theirs < none, "{what}: {works} < {theirs} < {none} does not hold");
    }
}

/// Its command line: `--max-num-running-reqs 8192 --max-num-scheduled-tokens 4096 --total-kv-blocks 64173`, and the
/// coefficients of its `--regression-coeffs` and `--queuing-coeffs`.
fn version_of_2025(s: &mut Scenario) {
    s.deployment.kv.num_gpu_blocks = Some(64_173);
    s.deployment.latency = Latency::Linear(Linear {
        base_us: 6_857.138_483_067_575,
        per_prefill_token_us: 38.249_627_196_167_2,
        per_decode_token_us: 55.173_932_234_660_91,
        queue_base_us: 8_956.344_27,
        queue_per_input_token_us: 4.872_738_47,
        per_output_token_us: 0.0,
        ..Linear::default()
    });
    let Scheduler::VllmV1(rules) = &mut s.deployment.scheduler else { return };
    (rules.max_num_seqs, rules.max_num_batched_tokens) = (8192, 4096);
}

/// The rounds of a session are one text: every prompt is the prompt before it, its reply, and what is new.
fn sessions(dir: &Path, name: &str, expected: &[Expected]) -> Requests {
    let trace = std::fs::read_to_string(dir.join(name).join("trace.csv")).unwrap();
    let sessions: Vec<String> = csv(&trace).iter().map(|row| row["session_id"].to_string()).collect();
    let mut numbers: BTreeMap<&str, u64> = BTreeMap::new();
    let mut r = requests(expected);
    (r.block_hashes, r.block_hash_offsets) = (Vec::new(), vec![0]);
    for (e, session) in expected.iter().zip(&sessions) {
        let next = numbers.len() as u64 + 1;
        let number = *numbers.entry(session).or_insert(next);
        r.block_hashes.extend((0..(e.input + e.output) / BLOCK).map(|block| number << 32 | u64::from(block)));
        r.block_hash_offsets.push(r.block_hashes.len() as u64);
    }
    r
}

/// A CPU tier (`--kv-cpu-blocks 4000`) behind 3,000 blocks. inference-sim looks the tier up when a request gets its blocks,
/// after it has decided how many tokens to compute: what it reloads it computes all the same, at the cost of the reload.
/// Here what is loaded is not computed. So the beginning is equal, as long as nothing has left the GPU's cache, and the later
/// rounds, which find more than that cache has, have their first tokens earlier than there.
#[test]
fn what_a_tier_gives_is_not_computed_again() {
    let Some(dir) = shared() else { return };
    let name = "12_kv_cputier";
    let (expected, _) = complete_case(&dir, name);
    let r = sessions(&dir, name, &expected);
    let run = |blocks: Option<u64>| {
        let mut s = scenario_8b();
        trained_physics(&mut s);
        s.deployment.tick = Some("1us".parse().unwrap());
        s.deployment.max_model_len = Some(16_384);
        s.deployment.kv.num_gpu_blocks = Some(3_000);
        // A block takes a microsecond, as there by default.
        let tier = |blocks| Tier {
            device: Some(Device::CpuDram),
            latency_us: Some(0.0),
            read_gb_per_s: Some(2_097.152),
            capacity_blocks: Some(blocks),
            blocking: true,
            ..Tier::default()
        };
        s.deployment.kv.tiers = blocks.map(tier).into_iter().collect();
        let mut rows = Rows::default();
        let summary = simulate_with(&s, &r, &mut rows, &AtomicBool::new(false), Quirks::default()).unwrap();
        rows.requests.sort_by_key(|row| row.request);
        let ttft: Vec<i64> = rows.requests.iter().map(|row| us_between(Some(row.arrival), row.first_token)).collect();
        (ttft, summary)
    };
    let theirs: Vec<i64> = expected.iter().map(|e| e.ttft_us).collect();
    let mean = |ttft: &[i64]| ttft.iter().sum::<i64>() as f64 / ttft.len() as f64;
    let (without, _) = run(None);
    assert!(mean(&without) < mean(&theirs), "there, what is reloaded costs time and saves none");
    for (blocks, least) in [(4_000, 1_000), (40_000, 45_000)] {
        let (with, summary) = run(Some(blocks));
        let loaded = summary.tiers[0].blocks_hit;
        let equal = with.iter().zip(&theirs).take_while(|(ours, theirs)| ours == theirs).count();
        let means = (mean(&with), mean(&without), mean(&theirs));
        println!(
            "{name}, {blocks} blocks: {equal} requests equal, {loaded} blocks loaded, {means:?} us to first tokens"
        );
        assert!(equal >= 90 && loaded > least, "{equal} equal, {loaded} loaded");
        assert!(blocks < 40_000 || means.0 < 0.8 * means.1, "{means:?}");
    }
}
