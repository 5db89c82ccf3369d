//! The request generator configuration in the style of GuideLLM, as inference-sim took it (`format: GuideLLM`, `rate`,
//! `data`), with what GuideLLM itself has under `data`.
//!
//! | there | here |
//! |---|---|
//! | `rate.arrival_type` | `constant` or `poisson`; `concurrent`: `rate` users in a closed loop. Case does not matter |
//! | `rate.rate`, `rate.max-requests` | requests per second (users, where concurrent); number of requests |
//! | `prompt_tokens`, `_stdev`, `_min`, `_max` | normal, rounded and clamped, by default to five standard deviations; without `_stdev` uniform from `_min` to `_max`, or constant. The same for `output_tokens` |
//! | `prefix_tokens`, `prefix_count`, `prefix_buckets` | shared prefixes, on top of the prompt |
//! | `turns` | conversations that accumulate, each turn sent when the one before is done; `rate` is that of all turns |
//!
//! Refused: tool calls. Without effect: `seed` (the pipeline has one), `format`, `source`.

use pipe_kernel::scenario::{ConstantTime, ThinkTime};
use pipe_kernel::workload::{
    ArrivalProcess, Body, Client, Clients, ClosedLoop, Constant, Lengths, Normal, PrefixGroup, SyntheticSessions,
    Uniform,
};
use serde::Deserialize;

use super::{Notes, Read, empty};
use crate::diag::Diagnostic;
use crate::spec::{Text, Tree, from_tree};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    format: Option<Text>,
    #[serde(default, rename = "seed")]
    _seed: Option<i64>,
    rate: Rate,
    data: Data,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rate {
    #[serde(default)]
    arrival_type: Option<Text>,
    rate: f64,
    #[serde(rename = "max-requests", alias = "max_requests")]
    #[serde(default)]
    max_requests: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    prompt_tokens: u32,
    #[serde(default)]
    prompt_tokens_stdev: Option<f64>,
    #[serde(default)]
    prompt_tokens_min: Option<u32>,
    #[serde(default)]
    prompt_tokens_max: Option<u32>,
    output_tokens: u32,
    #[serde(default)]
    output_tokens_stdev: Option<f64>,
    #[serde(default)]
    output_tokens_min: Option<u32>,
    #[serde(default)]
    output_tokens_max: Option<u32>,
    #[serde(default)]
    prefix_tokens: Option<u32>,
    #[serde(default)]
    prefix_count: Option<u32>,
    #[serde(default)]
    prefix_buckets: Option<Vec<Bucket>>,
    #[serde(default)]
    turns: Option<u32>,
    #[serde(default)]
    tool_call_turns: Option<Tree>,
    #[serde(default, rename = "tools")]
    _tools: Option<Tree>,
    #[serde(default, rename = "tool_response_tokens")]
    _tool_response_tokens: Option<Tree>,
    #[serde(default, rename = "tool_response_tokens_stdev")]
    _tool_response_tokens_stdev: Option<Tree>,
    #[serde(default, rename = "tool_response_tokens_min")]
    _tool_response_tokens_min: Option<Tree>,
    #[serde(default, rename = "tool_response_tokens_max")]
    _tool_response_tokens_max: Option<Tree>,
    #[serde(default, rename = "source")]
    _source: Option<Tree>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bucket {
    #[serde(default = "hundred")]
    bucket_weight: f64,
    #[serde(default = "one")]
    prefix_count: u32,
    #[serde(default)]
    prefix_tokens: u32,
}

fn hundred() -> f64 {
    100.0
}

fn one() -> u32 {
    1
}

/// # Errors
/// Keys and types that such a file does not have.
pub(super) fn read(tree: &Tree) -> Result<Read, Vec<Diagnostic>> {
    let Config { format, _seed: _, rate, data } = from_tree(tree)?;
    let mut notes = Notes::of(tree);
    if let Some(format) = format {
        notes.require(format.value.eq_ignore_ascii_case("guidellm"), "format", || {
            format!("is `{}`: only `GuideLLM` is known", format.value)
        });
    }
    let mut body = empty();
    body.input = lengths(
        data.prompt_tokens,
        data.prompt_tokens_stdev,
        (data.prompt_tokens_min, data.prompt_tokens_max),
        "data.prompt_tokens",
        &mut notes,
    );
    body.output = lengths(
        data.output_tokens,
        data.output_tokens_stdev,
        (data.output_tokens_min, data.output_tokens_max),
        "data.output_tokens",
        &mut notes,
    );
    notes.require(
        data.prefix_buckets.is_none() || data.prefix_tokens.or(data.prefix_count).is_none(),
        "data.prefix_buckets",
        || "cannot be there together with `prefix_tokens` and `prefix_count`".to_string(),
    );
    let group = |weight, count, tokens| PrefixGroup { weight, count, tokens };
    body.prefix_groups = match data.prefix_buckets {
        Some(buckets) => buckets.iter().map(|b| group(b.bucket_weight, b.prefix_count, b.prefix_tokens)).collect(),
        None => {
            let tokens = data.prefix_tokens.filter(|t| *t > 0);
            tokens.map(|t| group(1.0, data.prefix_count.unwrap_or(1), t)).into_iter().collect()
        }
    };
    if let Some(calls) = data.tool_call_turns {
        let none = calls.to_json() == serde_json::json!(0) || calls.to_json() == serde_json::json!([]);
        notes.require(none, "data.tool_call_turns", || {
            "is refused: calls of tools are no part of this workload; `chains` has steps with tool times".to_string()
        });
    }
    notes.require(rate.rate.is_finite() && rate.rate > 0.0, "rate.rate", || {
        format!("must be a number above 0, not {}", rate.rate)
    });
    let arrival = rate.arrival_type.as_ref().map_or("constant".to_string(), |t| t.value.to_lowercase());
    let turns = data.turns.unwrap_or(1);
    notes.require(turns > 0, "data.turns", || "must be at least 1".to_string());
    body.rate_rps = Some(rate.rate / f64::from(turns.max(1)));
    body.arrivals = match arrival.as_str() {
        "poisson" => ArrivalProcess::Poisson,
        "concurrent" => {
            notes.require(turns == 1, "data.turns", || {
                "cannot be above 1 with concurrent users: give a rate".to_string()
            });
            notes.require(rate.rate.fract() == 0.0, "rate.rate", || {
                format!("is the number of users where they are concurrent, not {}", rate.rate)
            });
            body.rate_rps = None;
            let think_time = ThinkTime::Constant(ConstantTime { s: 0.0 });
            ArrivalProcess::ClosedLoop(ClosedLoop { users: rate.rate as u32, think_time, turn_s: 1.0 })
        }
        other => {
            notes.require(other == "constant", "rate.arrival_type", || {
                format!("is `{other}`: known are constant, poisson and concurrent")
            });
            ArrivalProcess::Constant
        }
    };
    if turns > 1 {
        body.sessions = Some(SyntheticSessions {
            turns: Lengths::Constant(Constant { tokens: turns }),
            think_time: ThinkTime::Constant(ConstantTime { s: 0.0 }),
            accumulate: true,
            max_context: None,
            turn_s: 1.0 / rate.rate.max(1e-9),
        });
    }
    let clients = vec![Client::new("guidellm", Body::Alike(Box::new(body)))];
    Ok(notes.done(Clients { clients, requests: rate.max_requests, duration_s: None }))
}

fn lengths(
    mean: u32,
    std: Option<f64>,
    (min, max): (Option<u32>, Option<u32>),
    path: &str,
    notes: &mut Notes,
) -> Lengths {
    notes.require(mean > 0, path, || "must be at least 1".to_string());
    notes.require(min != Some(0), &format!("{path}_min"), || "must be at least 1".to_string());
    let std = std.filter(|s| *s != 0.0);
    if let Some(s) = std {
        notes.require(s.is_finite() && s > 0.0, &format!("{path}_stdev"), || format!("must be above 0, not {s}"));
    }
    let spread = std.map_or(0, |s| (5.0 * s).round() as u32);
    let low = min.unwrap_or_else(|| mean.saturating_sub(spread)).max(1);
    let high = max.unwrap_or_else(|| mean.saturating_add(spread));
    notes.require(low <= high, &format!("{path}_max"), || format!("is {high}, below the shortest, which is {low}"));
    match std {
        Some(std) => Lengths::Normal(Normal { mean: f64::from(mean.max(1)), std, min: low, max: Some(high) }),
        None if low == high => Lengths::Constant(Constant { tokens: low }),
        None => Lengths::Uniform(Uniform { min: low, max: high.max(low) }),
    }
}
