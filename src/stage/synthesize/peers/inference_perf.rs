//! Configurations of inference-perf (kubernetes-sigs), and the section `inference_perf` of inference-sim's workloads.
//!
//! | there | here |
//! |---|---|
//! | `load.type: constant` | in every stage exactly `rate * duration` requests, spread like a Poisson process of that number |
//! | `load.type: poisson` | Poisson arrivals at the rate of the stage |
//! | `load.type: concurrent` | `concurrency_level` users in a closed loop; one stage |
//! | `load.interval` | pause between two stages |
//! | `load.lora_traffic_split` | adapters, and their shares |
//! | `data.type: shared_prefix` | a client and a tenant per system prompt, which share the requests evenly; lengths as numbers or distributions |
//! | `enable_multi_turn_chat` | a session per user, whose turns follow each other in `users / rate` seconds and accumulate; one stage |
//! | `data.type: random`, `synthetic` | `input_distribution`, `output_distribution`; no shared words |
//!
//! Distributions: `normal`, `lognormal` (by mean and standard deviation), `uniform`, `fixed`, and `skew_normal`, all
//! rounded and clamped to `min` and `max`. Refused: `poisson` lengths, sweeps, replays, datasets, media.

use pipe_kernel::scenario::{ConstantTime, ThinkTime};
use pipe_kernel::workload::{
    After, ArrivalProcess, Body, Client, Clients, ClosedLoop, Constant, Correlation, LengthSet, Lengths,
    LognormalMeanStd, Normal, RatePiece, RateSchedule, SkewNormal, SyntheticSessions, SystemPrompt, Uniform, Window,
    Windows,
};
use serde::Deserialize;

use super::{Notes, Read, empty};
use crate::diag::Diagnostic;
use crate::spec::{Text, Tree, TreeValue, from_tree};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    load: Load,
    data: Data,
    #[serde(default, rename = "api")]
    _api: Option<Tree>,
    #[serde(default, rename = "server")]
    _server: Option<Tree>,
    #[serde(default, rename = "tokenizer")]
    _tokenizer: Option<Tree>,
    #[serde(default, rename = "metrics")]
    _metrics: Option<Tree>,
    #[serde(default, rename = "report")]
    _report: Option<Tree>,
    #[serde(default, rename = "storage")]
    _storage: Option<Tree>,
    #[serde(default, rename = "circuit_breakers")]
    _circuit_breakers: Option<Tree>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Load {
    #[serde(default, rename = "type")]
    kind: Option<Text>,
    #[serde(default = "a_second")]
    interval: f64,
    #[serde(default)]
    stages: Vec<Stage>,
    #[serde(default, rename = "sweep")]
    _sweep: Option<Tree>,
    #[serde(default, rename = "trace")]
    _trace: Option<Tree>,
    #[serde(default, rename = "num_workers")]
    _num_workers: Option<Tree>,
    #[serde(default, rename = "worker_max_concurrency")]
    _worker_max_concurrency: Option<Tree>,
    #[serde(default, rename = "worker_max_tcp_connections")]
    _worker_max_tcp_connections: Option<Tree>,
    #[serde(default, rename = "circuit_breakers")]
    _circuit_breakers: Option<Tree>,
    #[serde(default)]
    request_timeout: Option<f64>,
    #[serde(default)]
    lora_traffic_split: Vec<Split>,
    #[serde(default, rename = "base_seed")]
    _base_seed: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stage {
    #[serde(default)]
    rate: Option<f64>,
    #[serde(default)]
    duration: Option<f64>,
    #[serde(default)]
    num_requests: Option<u32>,
    #[serde(default)]
    concurrency_level: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Split {
    name: String,
    split: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    #[serde(default, rename = "type")]
    kind: Option<Text>,
    #[serde(default)]
    input_distribution: Option<Tree>,
    #[serde(default)]
    output_distribution: Option<Tree>,
    #[serde(default)]
    shared_prefix: Option<SharedPrefix>,
    #[serde(default, rename = "path")]
    _path: Option<Tree>,
    #[serde(default, rename = "corpus_file_path")]
    _corpus: Option<Tree>,
    #[serde(default, rename = "trace")]
    _trace: Option<Tree>,
    #[serde(default, rename = "multimodal")]
    _multimodal: Option<Tree>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SharedPrefix {
    #[serde(default = "ten", alias = "num_groups")]
    num_unique_system_prompts: u32,
    #[serde(default = "ten", alias = "num_prompts_per_group")]
    num_users_per_system_prompt: u32,
    #[serde(default)]
    system_prompt_len: Option<Tree>,
    #[serde(default)]
    question_len: Option<Tree>,
    #[serde(default)]
    output_len: Option<Tree>,
    #[serde(default)]
    question_distribution: Option<Tree>,
    #[serde(default)]
    output_distribution: Option<Tree>,
    #[serde(default, rename = "seed")]
    _seed: Option<i64>,
    #[serde(default)]
    enable_multi_turn_chat: bool,
    #[serde(default, rename = "multimodal")]
    _multimodal: Option<Tree>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Distribution {
    #[serde(default, alias = "distribution")]
    r#type: Option<Text>,
    #[serde(default)]
    min: Option<u32>,
    #[serde(default)]
    max: Option<u32>,
    #[serde(default)]
    mean: Option<f64>,
    #[serde(default)]
    std_dev: Option<f64>,
    #[serde(default)]
    variance: Option<f64>,
    #[serde(default)]
    skew: f64,
    #[serde(default, rename = "total_count")]
    _total_count: Option<Tree>,
}

fn a_second() -> f64 {
    1.0
}

fn ten() -> u32 {
    10
}

/// What is asked for, whoever wrote it.
pub(super) struct Asked {
    kind: Kind,
    interval: f64,
    stages: Vec<Stage>,
    prompts: Option<Prompts>,
    input: Lengths,
    output: Lengths,
    adapters: Vec<(String, f64)>,
    timeout_s: Option<f64>,
    /// Turns of a user go on from what was said before.
    accumulate: bool,
}

struct Prompts {
    groups: u32,
    users: u32,
    tokens: u32,
    chat: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Constant,
    Poisson,
    Concurrent,
}

/// # Errors
/// Keys and types that such a file does not have.
pub(super) fn read(tree: &Tree) -> Result<Read, Vec<Diagnostic>> {
    let config: Config = from_tree(tree)?;
    let mut notes = Notes::of(tree);
    for key in ["api", "server", "tokenizer", "metrics", "report", "storage", "circuit_breakers"] {
        notes.ignore(key, "it concerns the server that is measured, or the report");
    }
    for key in ["num_workers", "worker_max_concurrency", "worker_max_tcp_connections", "circuit_breakers"] {
        notes.ignore(&format!("load.{key}"), "it concerns the processes that send the load");
    }
    notes.ignore("load.base_seed", "the pipeline has a seed");
    for (path, why) in [
        ("load.sweep", "is refused: a sweep is a setting of `simulate`, or a stage `search`"),
        ("load.trace", "is refused: a trace is read by a stage `ingest`"),
        ("data.trace", "is refused: a trace is read by a stage `ingest`"),
        ("data.path", "is refused: a dataset is read by a stage `ingest`"),
        ("data.multimodal", "is refused: media are given by `images`, `audio` and `video` of `synthesize`"),
        (
            "data.shared_prefix.multimodal",
            "is refused: media are given by `images`, `audio` and `video` of `synthesize`",
        ),
    ] {
        if tree.get_path(path).is_some_and(|t| t.value != TreeValue::Null) {
            notes.refuse(path, why);
        }
    }
    notes.ignore("data.corpus_file_path", "prompts are made of numbers of tokens, not of texts");
    let kind = config.load.kind.as_ref().map_or("constant", |t| t.value.as_str());
    let kind = match kind {
        "constant" => Kind::Constant,
        "poisson" => Kind::Poisson,
        "concurrent" => Kind::Concurrent,
        other => {
            notes.refuse("load.type", format!("is `{other}`: known are constant, poisson and concurrent"));
            Kind::Constant
        }
    };
    let data = config.data;
    let of_data = data.kind.as_ref().map_or("mock", |t| t.value.as_str());
    let (prompts, input, output) = match (of_data, &data.shared_prefix) {
        ("shared_prefix", Some(shared)) => {
            let (prompts, input, output) = lengths_of(shared, "data.shared_prefix", &mut notes)?;
            (Some(prompts), input, output)
        }
        ("random" | "synthetic", _) => {
            let input = length(data.input_distribution.as_ref(), 512, "data.input_distribution", &mut notes)?;
            (None, input, length(data.output_distribution.as_ref(), 512, "data.output_distribution", &mut notes)?)
        }
        (other, _) => {
            notes.refuse(
                "data.type",
                format!("is `{other}`: known are shared_prefix (with its section), random and synthetic"),
            );
            (None, Lengths::Constant(Constant { tokens: 1 }), Lengths::Constant(Constant { tokens: 1 }))
        }
    };
    let asked = Asked {
        kind,
        interval: config.load.interval,
        stages: config.load.stages,
        prompts,
        input,
        output,
        adapters: config.load.lora_traffic_split.into_iter().map(|s| (s.name, s.split)).collect(),
        timeout_s: config.load.request_timeout,
        accumulate: true,
    };
    let clients = clients(asked, "load.stages", &mut notes);
    Ok(notes.done(clients))
}

/// The section `inference_perf` of a workload of inference-sim: stages without pauses, chats that do not accumulate.
pub(super) fn section(
    stages: Vec<Stage>,
    shared: &SharedPrefix,
    notes: &mut Notes,
) -> Result<Clients, Vec<Diagnostic>> {
    let (prompts, input, output) = lengths_of(shared, "inference_perf.shared_prefix", notes)?;
    let asked = Asked {
        kind: Kind::Constant,
        interval: 0.0,
        stages,
        prompts: Some(prompts),
        input,
        output,
        adapters: Vec::new(),
        timeout_s: None,
        accumulate: false,
    };
    Ok(clients(asked, "inference_perf.stages", notes))
}

fn lengths_of(
    shared: &SharedPrefix,
    path: &str,
    notes: &mut Notes,
) -> Result<(Prompts, Lengths, Lengths), Vec<Diagnostic>> {
    let of = |inline: &Option<Tree>, legacy: &Option<Tree>| inline.clone().or(legacy.clone());
    let input = length(
        of(&shared.question_len, &shared.question_distribution).as_ref(),
        50,
        &format!("{path}.question_len"),
        notes,
    )?;
    let output =
        length(of(&shared.output_len, &shared.output_distribution).as_ref(), 50, &format!("{path}.output_len"), notes)?;
    let system = length(shared.system_prompt_len.as_ref(), 100, &format!("{path}.system_prompt_len"), notes)?;
    let zero = shared.system_prompt_len.as_ref().is_some_and(|t| t.value == TreeValue::Int(0));
    let tokens = match system {
        _ if zero => 0,
        Lengths::Constant(Constant { tokens }) => tokens,
        _ => {
            notes.refuse(
                &format!("{path}.system_prompt_len"),
                "is refused as a distribution: one length, or `prefix_groups` of `synthesize`",
            );
            1
        }
    };
    for (count, key) in [
        (shared.num_unique_system_prompts, "num_unique_system_prompts"),
        (shared.num_users_per_system_prompt, "num_users_per_system_prompt"),
    ] {
        notes.require((1..=100_000).contains(&count), &format!("{path}.{key}"), || {
            format!("must be from 1 to 100000, not {count}")
        });
    }
    let prompts = Prompts {
        groups: shared.num_unique_system_prompts.clamp(1, 100_000),
        users: shared.num_users_per_system_prompt.clamp(1, 100_000),
        tokens,
        chat: shared.enable_multi_turn_chat,
    };
    Ok((prompts, input, output))
}

/// A length: a number, or a distribution.
fn length(tree: Option<&Tree>, default: u32, path: &str, notes: &mut Notes) -> Result<Lengths, Vec<Diagnostic>> {
    let constant = |tokens: u32| Lengths::Constant(Constant { tokens });
    let Some(tree) = tree.filter(|t| t.value != TreeValue::Null) else { return Ok(constant(default)) };
    if let TreeValue::Int(tokens) = tree.value {
        let fits = (0..=i64::from(pipe_kernel::workload::MAX_TOKENS)).contains(&tokens);
        notes.require(fits, path, || {
            format!("must be from 0 to {} tokens, not {tokens}", pipe_kernel::workload::MAX_TOKENS)
        });
        return Ok(constant(tokens.clamp(1, 1 << 24) as u32));
    }
    let Distribution { r#type, min, max, mean, std_dev, variance, skew, _total_count: _ } = from_tree(tree)?;
    notes.require(std_dev.is_none() || variance.is_none(), &format!("{path}.variance"), || {
        "cannot be there together with `std_dev`".to_string()
    });
    let (low, high) = (min.unwrap_or(10).max(1), max.unwrap_or(1024).max(1));
    notes.require(low <= high, &format!("{path}.max"), || format!("must not be below min, which is {low}, not {high}"));
    let high = high.max(low);
    let mean = mean.unwrap_or(512.0);
    let std = variance.map_or(std_dev.unwrap_or(200.0), |v| v.max(0.0).sqrt());
    notes
        .require(std.is_finite() && std >= 0.0, &format!("{path}.std_dev"), || format!("must be from 0 up, not {std}"));
    notes.require(mean.is_finite() && mean > 0.0, &format!("{path}.mean"), || format!("must be above 0, not {mean}"));
    let mean = if mean.is_finite() && mean > 0.0 { mean } else { 1.0 };
    let fixed = |at: f64| constant((at.round() as u32).clamp(low, high));
    Ok(match r#type.as_ref().map_or("normal", |t| t.value.as_str()) {
        "fixed" => constant((mean.trunc() as u32).max(1)),
        "uniform" => Lengths::Uniform(Uniform { min: low, max: high }),
        "normal" | "lognormal" | "skew_normal" if std == 0.0 => fixed(mean),
        "normal" => Lengths::Normal(Normal { mean, std, min: low, max: Some(high) }),
        "lognormal" => Lengths::LognormalMeanStd(LognormalMeanStd { mean, std, min: low, max: Some(high) }),
        "skew_normal" => {
            Lengths::SkewNormal(SkewNormal { location: mean, scale: std, shape: skew, min: low, max: Some(high) })
        }
        "poisson" => {
            notes.refuse(
                path,
                "is refused as a Poisson distribution: `normal` with the root of the mean as `std_dev` is near",
            );
            fixed(mean)
        }
        other => {
            notes.refuse(
                path,
                format!("has the distribution `{other}`: known are normal, lognormal, skew_normal, uniform, fixed"),
            );
            fixed(mean)
        }
    })
}

/// One stream of requests of a system prompt and an adapter, and its share of all.
struct Stream {
    client: Client,
    base: pipe_kernel::workload::Synthetic,
    share: f64,
}

fn clients(asked: Asked, path: &str, notes: &mut Notes) -> Clients {
    notes.require(!asked.stages.is_empty(), path, || "must be at least one".to_string());
    notes.require(asked.interval.is_finite() && asked.interval >= 0.0, "load.interval", || {
        format!("must be from 0 up, not {}", asked.interval)
    });
    let mut spans: Vec<(f64, f64, f64)> = Vec::new();
    let mut start = 0.0;
    for (i, stage) in asked.stages.iter().enumerate() {
        let concurrent = asked.kind == Kind::Concurrent;
        let positive = |v: Option<f64>| v.filter(|v| v.is_finite() && *v > 0.0);
        if concurrent {
            for (given, key) in [(stage.num_requests, "num_requests"), (stage.concurrency_level, "concurrency_level")] {
                notes.require(given.is_some_and(|n| n > 0), &format!("{path}.{i}.{key}"), || {
                    "must be at least 1 where users are concurrent".to_string()
                });
            }
            continue;
        }
        for (given, key) in [(stage.rate, "rate"), (stage.duration, "duration")] {
            notes.require(positive(given).is_some(), &format!("{path}.{i}.{key}"), || {
                "must be a number above 0".to_string()
            });
        }
        for (given, key) in [(stage.num_requests, "num_requests"), (stage.concurrency_level, "concurrency_level")] {
            notes.require(given.is_none(), &format!("{path}.{i}.{key}"), || "is for concurrent users only".to_string());
        }
        let (rate, len) = (positive(stage.rate).unwrap_or(1.0), positive(stage.duration).unwrap_or(1.0));
        spans.push((start, start + len, rate));
        start += len + asked.interval;
    }
    let split: f64 = asked.adapters.iter().map(|(_, s)| s).sum();
    notes.require(asked.adapters.is_empty() || (split - 1.0).abs() < 1e-9, "load.lora_traffic_split", || {
        format!("must add up to 1, not {split}")
    });
    if !notes.refused.is_empty() {
        return Clients::default();
    }
    let chat = asked.prompts.as_ref().is_some_and(|p| p.chat);
    let one_stage = asked.stages.len() == 1;
    notes.require(one_stage || !(chat || asked.kind == Kind::Concurrent), path, || {
        "must be one stage where users chat or are concurrent: the next stage begins when the last user is done"
            .to_string()
    });
    notes.require(!chat || asked.kind != Kind::Concurrent, path, || {
        "are of concurrent users: chats of these are refused, their turns depend on the answers".to_string()
    });
    if !notes.refused.is_empty() {
        return Clients::default();
    }
    let streams = streams(&asked);
    let n = streams.len();
    if asked.kind == Kind::Concurrent {
        let stage = &asked.stages[0];
        let (users, total) = (stage.concurrency_level.unwrap_or(1), stage.num_requests.unwrap_or(1));
        let parts = evenly(users, &streams.iter().map(|s| s.share).collect::<Vec<_>>());
        let clients = streams.into_iter().zip(parts).filter(|(_, users)| *users > 0).map(|(stream, users)| {
            let Stream { mut client, mut base, .. } = stream;
            let think_time = ThinkTime::Constant(ConstantTime { s: 0.0 });
            base.arrivals = ArrivalProcess::ClosedLoop(ClosedLoop { users, think_time, turn_s: 1.0 });
            client.body = Body::Alike(Box::new(base));
            client
        });
        return Clients { clients: clients.collect(), requests: Some(total), duration_s: None };
    }
    let totals: Vec<u32> = spans.iter().map(|(from, to, rate)| (rate * (to - from)).floor() as u32).collect();
    for (i, total) in totals.iter().enumerate() {
        notes.require(*total > 0, &format!("{path}.{i}.duration"), || "is too short for one request".to_string());
    }
    let shares: Vec<f64> = streams.iter().map(|s| s.share).collect();
    let counts: Vec<Vec<u32>> = totals.iter().map(|total| evenly(*total, &shares)).collect();
    let users = asked.prompts.as_ref().map_or(1, |p| p.users);
    let all_users = f64::from(users) * asked.prompts.as_ref().map_or(1.0, |p| f64::from(p.groups));
    let clients = streams.into_iter().enumerate().map(|(of, stream)| {
        let Stream { mut client, mut base, share } = stream;
        if chat {
            let (_, _, rate) = spans[0];
            let mine = (f64::from(users) * share * n as f64).round().max(1.0) as u32;
            base.starts = Some(mine);
            base.rate_rps = Some(rate * share);
            base.arrivals = ArrivalProcess::Constant;
            base.sessions = Some(SyntheticSessions {
                turns: Lengths::Constant(Constant { tokens: counts[0][of].div_ceil(mine).max(1) }),
                think_time: ThinkTime::Constant(ConstantTime { s: all_users / rate }),
                accumulate: asked.accumulate,
                max_context: None,
                turn_s: 0.0,
            });
            client.body = Body::Alike(Box::new(base));
            return client;
        }
        client.body = match asked.kind {
            Kind::Poisson => {
                base.rate_schedule = Some(schedule(&spans, share));
                Body::Alike(Box::new(base))
            }
            Kind::Constant | Kind::Concurrent => {
                let set = LengthSet {
                    input: asked.input.clone(),
                    output: asked.output.clone(),
                    correlation: Correlation::Independent,
                    fields: Vec::new(),
                };
                let window = |(&(start_s, end_s, _), counts): (&(f64, f64, f64), &Vec<u32>)| Window {
                    start_s,
                    end_s,
                    // One gap more than requests: the last ends with the window.
                    rate_rps: (f64::from(counts[of]) + 0.5) / (end_s - start_s),
                    process: ArrivalProcess::Poisson,
                    set: 0,
                };
                let windows = spans.iter().zip(&counts).map(window).collect();
                Body::Windows(Box::new(Windows { base, windows, sets: vec![set] }))
            }
        };
        client
    });
    let clients = clients.collect();
    let end = spans.last().map_or(0.0, |(_, end, _)| *end);
    // A chat ends with its last turn; everything else with its last stage.
    let duration_s = (!chat).then_some(end);
    let requests = chat.then(|| totals.iter().sum());
    Clients { clients, requests, duration_s }
}

/// A stream per system prompt and adapter.
fn streams(asked: &Asked) -> Vec<Stream> {
    let adapters: Vec<(Option<&str>, f64)> = match asked.adapters.as_slice() {
        [] => vec![(None, 1.0)],
        some => some.iter().map(|(name, share)| (Some(name.as_str()), *share)).collect(),
    };
    let groups = asked.prompts.as_ref().map_or(1, |p| p.groups);
    let mut made = Vec::new();
    for group in 0..groups {
        for (adapter, share) in &adapters {
            let mut base = empty();
            (base.input, base.output) = (asked.input.clone(), asked.output.clone());
            let mut name = "inference-perf".to_string();
            if let Some(prompts) = &asked.prompts {
                name = format!("prompt-{group}");
                base.system_prompt =
                    (prompts.tokens > 0).then(|| SystemPrompt { name: Some(name.clone()), tokens: prompts.tokens });
            }
            let tenant = asked.prompts.as_ref().map(|_| name.clone());
            if let Some(adapter) = adapter {
                name = format!("{name}-{adapter}");
            }
            let mut client = Client::new(name, Body::Alike(Box::new(empty())));
            client.tenant = tenant;
            client.adapter = adapter.map(str::to_string);
            client.timeout_s = asked.timeout_s;
            made.push(Stream { client, base, share: share / f64::from(groups) });
        }
    }
    made
}

/// Splits `total` by shares that add up to 1, so that the parts add up to it.
fn evenly(total: u32, shares: &[f64]) -> Vec<u32> {
    let mut upto = 0.0;
    let mut given = 0;
    let mut next = |share: &f64| {
        upto += share;
        let by_now = ((upto * f64::from(total)).round() as u32).min(total);
        let part = by_now - given;
        given = by_now;
        part
    };
    shares.iter().map(&mut next).collect()
}

fn schedule(spans: &[(f64, f64, f64)], share: f64) -> RateSchedule {
    let mut pieces = Vec::new();
    let mut now = 0.0;
    let piece = |until: f64, rate: f64| RatePiece { for_s: None, until_s: Some(until), rate_rps: rate, to_rps: None };
    for (start, end, rate) in spans {
        if *start > now {
            pieces.push(piece(*start, 0.0));
        }
        pieces.push(piece(*end, rate * share));
        now = *end;
    }
    RateSchedule { pieces, after: After::Stop, ..RateSchedule::default() }
}
