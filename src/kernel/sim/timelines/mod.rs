//! Small timelines, derived by hand from the rules: one for every rule of the scheduler, in steps of a millisecond.
//!
//! Every timeline runs on the oracle and on the fast engine. Blocks have four tokens.
//!
//! A request reads `finished q0 s0 f1 d3 o3`: status; queued, scheduled, first token and done in ms (`-` where that did
//! not come about); tokens out. Then, where there is something to tell: `c` tokens found in the prefix cache, `t` tokens from tiers, `p`
//! preemptions, `l` ms lost to them (after a `/`: of these before the first token), `a` tokens computed again, `i` sum / p99 / longest of the gaps in ms.
//! A step reads `1+1 d1 p9/1 c5 r2 w0 x0 b5`: start + duration; decode requests, prefill tokens / requests, context;
//! running, waiting, preempted, blocks.
//!
//! In a cluster there follows where a request was: ` @2` for an engine; ` e1.5` when its embeddings had arrived; ` via 0 p1
//! k3` for the engine of its prompt, when that was done, and when the KV cache had reached the other one.

mod asynchronous;
mod batches;
mod beams;
mod conversations;
mod faster_transformer;
mod groups;
mod lanes;
mod lightllm;
mod lora;
mod orca;
mod orders;
mod pools;
mod routers;
mod samples;
mod sarathi;
mod sglang;
mod sglang_drafts;
mod speculative;
mod tiers;
mod times;
mod trtllm;
mod vllm_v0;

use std::sync::atomic::AtomicBool;

use super::latency::{Latency, Linear};
use super::scheduler::{QueueOrder, Scheduler, VllmV1};
use super::swarm::{Rows, scenario_8b};
use super::{Quirks, RequestRow, SimError, Sink, StepRow, Summary, reference, simulate_with};
use crate::request::Requests;
use crate::scenario::Scenario;
use crate::units::{SimDuration, SimTime};

const MS: f64 = 1e6;

type Engine = fn(&Scenario, &Requests, &mut dyn Sink, &AtomicBool, Quirks) -> Result<Summary, SimError>;

const ENGINES: [(&str, Engine); 2] = [("oracle", reference::simulate_with), ("engine", simulate_with)];

/// One request, times in ms.
#[derive(Clone, Copy, Default)]
struct Ask {
    at: f64,
    input: u32,
    output: u32,
    priority: Option<i32>,
    deadline: Option<f64>,
    timeout: Option<f64>,
    cancel: Option<f64>,
    max_tokens: Option<u32>,
    /// Contents of its blocks.
    blocks: &'static [u64],
    session: Option<u32>,
    think: Option<f64>,
    /// Requests that it waits for.
    waits: &'static [u32],
    encoder: Option<u32>,
    adapter: Option<u32>,
    acceptance: Option<f64>,
    tenant: Option<u32>,
    n: Option<u32>,
    beam_width: Option<u32>,
}

fn ask(at: f64, input: u32, output: u32) -> Ask {
    Ask { at, input, output, ..Ask::default() }
}

fn requests(asked: &[Ask]) -> Requests {
    let span = |ms: f64| SimDuration((ms * MS) as i64);
    let mut r = Requests {
        arrival: asked.iter().map(|a| SimTime((a.at * MS) as i64)).collect(),
        input_tokens: asked.iter().map(|a| a.input).collect(),
        output_tokens: asked.iter().map(|a| a.output).collect(),
        priority: asked.iter().map(|a| a.priority).collect(),
        deadline: asked.iter().map(|a| a.deadline.map(span)).collect(),
        timeout: asked.iter().map(|a| a.timeout.map(span)).collect(),
        cancel: asked.iter().map(|a| a.cancel.map(span)).collect(),
        max_tokens: asked.iter().map(|a| a.max_tokens).collect(),
        session: asked.iter().map(|a| a.session).collect(),
        think: asked.iter().map(|a| a.think.map(span)).collect(),
        adapter: asked.iter().map(|a| a.adapter).collect(),
        encoder_tokens: asked.iter().map(|a| a.encoder).collect(),
        acceptance: asked.iter().map(|a| a.acceptance).collect(),
        tenant: asked.iter().map(|a| a.tenant).collect(),
        n: asked.iter().map(|a| a.n).collect(),
        beam_width: asked.iter().map(|a| a.beam_width).collect(),
        block_tokens: 4,
        block_hash_offsets: vec![0],
        depends_on_offsets: vec![0],
        ..Requests::default()
    };
    for a in asked {
        r.depends_on.extend(a.waits);
        r.depends_on_offsets.push(r.depends_on.len() as u64);
        r.block_hashes.extend(a.blocks);
        r.block_hash_offsets.push(r.block_hashes.len() as u64);
    }
    r
}

/// Steps of one millisecond, whatever is in them; 1000 blocks of four tokens.
fn scenario(edit: impl Fn(&mut Scenario, &mut VllmV1)) -> Scenario {
    let mut s = scenario_8b();
    s.deployment.kv.block_size = 4;
    s.deployment.kv.num_gpu_blocks = Some(1_000);
    s.deployment.latency = Latency::Linear(Linear {
        base_us: 1_000.0,
        per_prefill_token_us: 0.0,
        per_decode_token_us: 0.0,
        queue_base_us: 0.0,
        queue_per_input_token_us: 0.0,
        per_output_token_us: 0.0,
        ..Linear::default()
    });
    let mut rules = VllmV1::default();
    edit(&mut s, &mut rules);
    s.deployment.scheduler = Scheduler::VllmV1(rules);
    s
}

fn linear(s: &mut Scenario) -> &mut Linear {
    let Latency::Linear(linear) = &mut s.deployment.latency else { panic!("the timelines are linear") };
    linear
}

fn ms(ns: i64) -> String {
    (ns as f64 / MS).to_string()
}

fn request_text(row: &RequestRow) -> String {
    let time = |t: Option<SimTime>| t.map_or("-".to_string(), |t| ms(t.0));
    let [queued, scheduled, first, done] = [row.queued, row.scheduled, row.first_token, row.finished].map(time);
    let mut text = format!("{} q{queued} s{scheduled} f{first} d{done} o{}", row.status.as_str(), row.output_tokens);
    for (name, count) in [("c", row.cached_tokens), ("t", row.fetched_tokens), ("p", row.preemptions)] {
        if count > 0 {
            text += &format!(" {name}{count}");
        }
    }
    if row.preempted.0 > 0 {
        text += &format!(" l{}", ms(row.preempted.0));
    }
    if row.prefill_preempted.0 > 0 {
        text += &format!("/{}", ms(row.prefill_preempted.0));
    }
    if row.recomputed_tokens > 0 {
        text += &format!(" a{}", row.recomputed_tokens);
    }
    match row.itl {
        Some(itl) if itl.max.0 > 1_000_000 || itl.sum.0 < (i64::from(row.output_tokens) - 1) * 1_000_000 => {
            text += &format!(" i{}/{}/{}", ms(itl.sum.0), ms(itl.p99.0), ms(itl.max.0));
        }
        Some(itl) => assert_eq!(itl.sum.0, (i64::from(row.output_tokens) - 1) * 1_000_000),
        None => assert!(row.output_tokens <= row.samples, "no gaps: {row:?}"),
    }
    text
}

fn cluster_text(row: &RequestRow) -> String {
    let time = |t: Option<SimTime>| t.map_or("-".to_string(), |t| ms(t.0));
    let mut text = format!("{} @{}", request_text(row), row.replica);
    if let Some(encoded) = row.encoded {
        text += &format!(" e{}", ms(encoded.0));
    }
    if let Some(prefill) = row.prefill_replica {
        text += &format!(" via {prefill} p{} k{}", time(row.prefilled), time(row.kv_ready));
    }
    text
}

fn step_text(row: &StepRow) -> String {
    format!(
        "{}+{} d{} p{}/{} c{} r{} w{} x{} b{}",
        ms(row.start.0),
        ms(row.duration.0),
        row.decode_requests,
        row.prefill_tokens,
        row.prefill_requests,
        row.context_tokens,
        row.running,
        row.waiting,
        row.preempted,
        row.kv_blocks_used
    )
}

/// Runs a timeline on every engine; `rows` by request, `steps` the first ones.
#[track_caller]
fn check(
    edit: impl Fn(&mut Scenario, &mut VllmV1),
    asked: &[Ask],
    rows: &[&str],
    steps: &[&str],
    totals: impl Fn(&Summary),
) {
    check_rows(edit, asked, |name, got, summary| compare(name, got, summary, rows, steps, &totals));
}

#[track_caller]
fn compare(name: &str, got: &Rows, summary: &Summary, rows: &[&str], steps: &[&str], totals: impl Fn(&Summary)) {
    let texts: Vec<String> = got.requests.iter().map(request_text).collect();
    assert_eq!(texts, rows, "requests of the {name}");
    let texts: Vec<String> = got.steps.iter().take(steps.len()).map(step_text).collect();
    assert_eq!(texts, steps, "steps of the {name}");
    totals(summary);
}

/// The same with another scheduler.
#[track_caller]
fn check_scheduler(
    scheduler: &Scheduler,
    edit: impl Fn(&mut Scenario),
    asked: &[Ask],
    rows: &[&str],
    steps: &[&str],
    totals: impl Fn(&Summary),
) {
    let mut s = scenario(|s, _| edit(s));
    s.deployment.scheduler = scheduler.clone();
    run_rows(&s, asked, |name, got, summary| compare(name, got, summary, rows, steps, &totals));
}

/// The same in a cluster, with where requests were.
#[track_caller]
fn check_cluster(edit: impl Fn(&mut Scenario, &mut VllmV1), asked: &[Ask], rows: &[&str], totals: impl Fn(&Summary)) {
    check_rows(edit, asked, |name, got, summary| {
        let texts: Vec<String> = got.requests.iter().map(cluster_text).collect();
        assert_eq!(texts, rows, "requests of the {name}");
        totals(summary);
    });
}

/// Runs a timeline on every engine, for what does not fit in a line; requests are in the order of their numbers.
#[track_caller]
fn check_rows(edit: impl Fn(&mut Scenario, &mut VllmV1), asked: &[Ask], test: impl Fn(&str, &Rows, &Summary)) {
    run_rows(&scenario(edit), asked, test);
}

#[track_caller]
fn run_rows(s: &Scenario, asked: &[Ask], test: impl Fn(&str, &Rows, &Summary)) {
    for (name, engine) in ENGINES {
        let mut got = Rows::default();
        let summary = engine(s, &requests(asked), &mut got, &AtomicBool::new(false), Quirks::default());
        let summary = summary.unwrap_or_else(|e| panic!("{name}: {e}"));
        got.requests.sort_by_key(|row| row.request);
        test(name, &got, &summary);
    }
}

fn whatever(_: &Summary) {}

fn blocks(s: &mut Scenario, blocks: u64) {
    s.deployment.kv.num_gpu_blocks = Some(blocks);
}
