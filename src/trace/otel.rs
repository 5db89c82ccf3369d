//! Spans of vLLM's OpenTelemetry tracing as a Parquet file: a row per request, an attribute per column.
//!
//! `start_unix_ns`, `latency.time_to_first_token`, `latency.e2e`, `latency.time_in_queue`, `usage.prompt_tokens`,
//! `usage.completion_tokens`, `latency.time_in_model_prefill` and `latency.time_in_model_decode`, times but the start in
//! seconds; vLLM puts `gen_ai.` in front of them. `experiment` or `run` says which run of the server a row belongs to.
//! Times are those of the server: its front end for the first token and the end, its engine for the parts in the model.

use super::Layout;
use super::detect::Key;
use super::fields::{Fields, Role};
use super::measured::Time;
use crate::spec::TimeUnit;

const START: &str = "start_unix_ns";
const PREFIX: &str = "gen_ai.";
const TTFT: &str = "latency.time_to_first_token";
const E2E: &str = "latency.e2e";

/// Whether a file with these columns is one.
pub fn fits(keys: &[Key]) -> bool {
    [START.to_string(), name(keys, TTFT), name(keys, E2E)].iter().all(|n| has(keys, n))
}

pub fn fields(keys: &[Key]) -> Fields {
    let name = |suffix: &str| name(keys, suffix);
    let run = if has(keys, "experiment") { "experiment" } else { "run" };
    Fields::new(Layout::Tokens, TimeUnit::Ns)
        .measured(TimeUnit::S)
        .required(Role::Arrival, START)
        .required(Role::InputTokens, name("usage.prompt_tokens"))
        .required(Role::OutputTokens, name("usage.completion_tokens"))
        .optional(Role::Name, name("request.id"))
        .optional(Role::Run, run)
        .optional(Role::Status, "status")
        .optional(Role::Measured(Time::Ttft), name(TTFT))
        .required(Role::Measured(Time::E2e), name(E2E))
        .optional(Role::Measured(Time::Queue), name("latency.time_in_queue"))
        .optional(Role::Measured(Time::Prefill), name("latency.time_in_model_prefill"))
        .optional(Role::Measured(Time::Decode), name("latency.time_in_model_decode"))
}

/// The name of an attribute in this file.
fn name(keys: &[Key], attribute: &str) -> String {
    let long = format!("{PREFIX}{attribute}");
    if has(keys, &long) { long } else { attribute.to_string() }
}

fn has(keys: &[Key], name: &str) -> bool {
    keys.iter().any(|k| k.path == name)
}
