//! Runs of Vidur's replica schedulers `sarathi` and `vllm`, reproduced request by request.
//!
//! Source: microsoft/vidur (MIT), branch main, commit 7d47513: one replica of Llama 2 7B on an A100, lengths of a trace of
//! conversations, Poisson arrivals of 3 requests per second. The cases and the tables of predicted operator times that
//! the runs used are in a folder `shared` (see [`shared`]); where there is none, a note is printed. The runs of branch
//! canary, with prefix caches and the scheduler `vllm_v1`, are in `vidur.rs`.
//!
//! Compared for every request: the delay until it is scheduled, its first token and its end, all since its arrival; its
//! time per token of the reply after the first; and how often it began again (never, in these runs). Batches, and so the
//! number of steps, are the same: one that differed would cost milliseconds.
//!
//! Vidur counts seconds in floats, and the simulator whole nanoseconds: a step is that of Vidur to the nearest one. While a
//! replica is never idle that adds up, over thousands of steps, of which each is off by half a nanosecond at most and by
//! either sign: to 12.7 us at the very worst, and to 174 ns in the longer of these runs ([`DRIFT_NS`]). An end, some seconds
//! after the arrival, is right to 6e-7 and better, a first token, after at least 20 ms, to 8e-6; what is 0 there is 0 here. The
//! time per token, of which a request has many, is right to 3e-8.
//!
//! Where the rules of the simulator's schedulers are not Vidur's (a prompt that is preempted before it is done; one that no
//! step holds, or no cache, which Vidur waits for forever), these runs do not get: nobody is preempted, and every prompt
//! fits.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use pipe_kernel::profile::Supplied;
use pipe_kernel::request::Requests;
use pipe_kernel::sim::latency::{Latency, Operators};
use pipe_kernel::sim::scheduler::{Sarathi, Scheduler, VllmV0};
use pipe_kernel::sim::swarm::{Rows, scenario_8b};
use pipe_kernel::sim::{RequestRow, simulate};
use pipe_kernel::units::SimTime;

use crate::project::{predictions, shared};

/// Most nanoseconds by which a time may be off: see the head of the file.
const DRIFT_NS: f64 = 250.0;
/// The same of a time per token.
const TOKEN_NS: f64 = 1.0;

/// What Vidur says of a request; times in seconds since its arrival.
struct Expected {
    delay: f64,
    ttft: f64,
    e2e: f64,
    per_token: f64,
    restarts: u32,
}

/// Runs a case, where it is at hand, and compares all.
#[track_caller]
fn check(name: &str, scheduler: Scheduler) {
    let dir = shared().filter(|dir| dir.join("reference/cases/vidur").join(name).is_dir());
    let Some(dir) = dir else { return eprintln!("skipped: no {name}") };
    let (requests, expected) = read(&dir.join("reference/cases/vidur").join(name));
    let rows = run(&dir, scheduler, &requests);
    assert_eq!(rows.len(), expected.len());

    let mut worst = [0.0_f64; 4];
    let mut relative = [0.0_f64; 4];
    for (row, e) in rows.iter().zip(&expected) {
        assert_eq!((row.preemptions, row.output_tokens), (e.restarts, requests.output_tokens[row.request as usize]));
        let since = |t: Option<SimTime>| (t.expect("a time") - row.arrival).0 as f64;
        let (ttft, e2e) = (since(row.first_token), since(row.finished));
        let tokens = f64::from(row.output_tokens);
        // Vidur divides what comes after the first token by all tokens.
        let pairs =
            [(since(row.scheduled), e.delay), (ttft, e.ttft), (e2e, e.e2e), ((e2e - ttft) / tokens, e.per_token)];
        for (i, (ours, theirs)) in pairs.into_iter().enumerate() {
            let error = (ours - theirs * 1e9).abs();
            assert!(
                error <= if i == 3 { TOKEN_NS } else { DRIFT_NS },
                "{name}: request {} is off by {error} ns in {i}: {row:?}",
                row.request
            );
            worst[i] = worst[i].max(error);
            if theirs > 0.0 {
                relative[i] = relative[i].max(error / (theirs * 1e9));
            }
        }
    }
    println!("{name}: {} requests; largest error of delay, first token, end, token in ns {worst:.1?}", rows.len());
    println!("{name}: relative {}", relative.map(|error| format!("{error:.1e}")).join(", "));
}

fn run(dir: &Path, scheduler: Scheduler, requests: &Requests) -> Vec<RequestRow> {
    let mut s = scenario_8b();
    (s.model.layers, s.model.heads, s.model.kv_heads) = (32, 32, 32);
    s.deployment.scheduler = scheduler;
    s.deployment.max_model_len = Some(4_096);
    // What Vidur's planner comes to: 29 requests of 4,096 tokens.
    s.deployment.kv.num_gpu_blocks = Some(29 * 256);
    s.deployment.latency = Latency::Operators(Operators::of("predictions"));
    let tables = predictions(&dir.join("data/profiles/vidur/predictions-llama-2-7b-a100-tp1"));
    s.supplied = Supplied { profile: Some(tables), ..Supplied::default() };
    let mut rows = Rows::default();
    let summary = simulate(&s, requests, &mut rows, &AtomicBool::new(false)).expect("the case can be run");
    assert_eq!(summary.latency_extrapolated_steps, 0, "every step is in the tables");
    rows.requests.sort_by_key(|row| row.request);
    rows.requests
}

/// The requests of a case, and what became of them.
fn read(dir: &Path) -> (Requests, Vec<Expected>) {
    let file = std::fs::File::open(dir.join("request_metrics.csv.gz")).expect("the case's table");
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("the case's table");
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let (mut requests, mut expected) = (Requests { block_hash_offsets: vec![0], ..Requests::default() }, Vec::new());
    // The first arrival is where time begins: Vidur does not say it, and nothing is a matter of it.
    let mut arrival = 0.0;
    for (i, row) in reader.deserialize::<BTreeMap<String, String>>().enumerate() {
        let row = row.expect("a row");
        assert_eq!(row["Request Id"], i.to_string());
        let seconds = |name: &str| row[name].parse::<f64>().expect("seconds");
        let count = |name: &str| row[name].parse::<u32>().expect("a count");
        if i > 0 {
            arrival += seconds("request_inter_arrival_delay");
        }
        requests.arrival.push(SimTime((arrival * 1e9).round() as i64));
        requests.input_tokens.push(count("request_num_prefill_tokens"));
        requests.output_tokens.push(count("request_num_decode_tokens"));
        requests.block_hash_offsets.push(0);
        expected.push(Expected {
            delay: seconds("request_scheduling_delay"),
            ttft: seconds("prefill_e2e_time"),
            e2e: seconds("request_e2e_time"),
            per_token: seconds("decode_time_execution_plus_preemption_normalized"),
            restarts: count("request_num_restarts"),
        });
    }
    (requests, expected)
}

#[test]
fn sarathi() {
    let scheduler = Scheduler::Sarathi(Sarathi { chunk_size: 512, batch_size_cap: 128, ..Sarathi::default() });
    check("a_l27b_sarathi512_q3_1k", scheduler.clone());
    check("a_l27b_sarathi512_q3_2k_detail", scheduler);
}

#[test]
fn vllm() {
    let rules =
        VllmV0 { max_num_batched_tokens: Some(4_096), max_num_seqs: 128, pad_prompts: true, ..VllmV0::default() };
    check("a_l27b_vllm_q3_2k_detail", Scheduler::VllmV0(rules));
}
