//! Reports of GuideLLM (`benchmarks.json`): `benchmarks[].requests.{successful, incomplete, errored}[]`.
//!
//! Three forms of a request are read: that of 0.6 (`info.timings`), that of 0.4 and 0.5
//! (`scheduler_info.request_timings`, or `info.timings` with `first_iteration`), and the one before (`start_time`,
//! `first_token_time`, `last_token_time`). Times are seconds of the wall clock; where a report has no clocks,
//! `time_to_first_token_ms` (ms) and `request_latency` (s) are taken. The last token is the last that GuideLLM saw, or
//! the end of the request.
//!
//! Every benchmark is a run, named by its place and its strategy: `0:synchronous`, `1:constant@2.5`. Requests that
//! failed or were cut off at the end of the benchmark keep their status; those of which the report does not know the
//! prompt's length are passed over.

use super::Layout;
use super::document::{Node, Out, field, time, what_went_wrong};
use super::extra::Extra;
use super::fields::{Fields, Role};
use super::measured::Time;
use super::{Fault, number};
use crate::spec::TimeUnit;

type Faulty<T> = std::result::Result<T, Fault>;

const START: [&str; 4] =
    ["info.timings.request_start", "scheduler_info.request_timings.request_start", "request_start_time", "start_time"];
const FIRST: [&str; 4] = [
    "info.timings.first_token_iteration",
    "info.timings.first_iteration",
    "scheduler_info.request_timings.first_iteration",
    "first_token_time",
];
const LAST: [&str; 4] = [
    "info.timings.last_token_iteration",
    "info.timings.last_iteration",
    "scheduler_info.request_timings.last_iteration",
    "last_token_time",
];
const END: [&str; 4] =
    ["info.timings.request_end", "scheduler_info.request_timings.request_end", "request_end_time", "end_time"];
const STRATEGY: [&str; 3] = ["config.strategy", "scheduler.strategy", "args.strategy"];

pub fn fields() -> Fields {
    Fields::new(Layout::Tokens, TimeUnit::S)
        .whole()
        .measured(TimeUnit::S)
        .required(Role::Arrival, "request_start")
        .required(Role::InputTokens, "prompt_tokens")
        .required(Role::OutputTokens, "output_tokens")
        .optional(Role::EncoderTokens, "input_metrics.image_tokens")
        .optional(Role::Extra(Extra::Images), "input_metrics.image_count")
        .optional(Role::Session, "info.conversation_id")
        .optional(Role::Turn, "info.turn_index")
        .optional(Role::Name, "request_id")
        .optional(Role::Run, "benchmark")
        .optional(Role::Status, "status")
        .optional(Role::Measured(Time::FirstToken), "first_token_iteration")
        .optional(Role::Measured(Time::LastToken), "last_token_iteration")
        .optional(Role::Measured(Time::Ttft), "time_to_first_token_ms")
        .optional(Role::Measured(Time::E2e), "request_latency")
}

pub fn take(out: &mut Out, node: &Node) -> Faulty<()> {
    for (i, benchmark) in node.list("benchmarks")?.iter().enumerate() {
        let run = run(i, benchmark);
        for status in ["successful", "incomplete", "errored"] {
            let all = benchmark.list(&format!("requests.{status}"))?;
            for (n, request) in all.iter().enumerate() {
                take_request(out, request, &run, status, || format!("benchmarks[{i}].requests.{status}[{n}]"));
            }
        }
    }
    Ok(())
}

/// `<place>:<strategy>[@<rate>]`.
fn run(place: usize, benchmark: &Node) -> String {
    let Some(strategy) = benchmark.first(&STRATEGY) else { return place.to_string() };
    let kind = strategy.first(&["type_", "kind", "type"]).and_then(Node::text).unwrap_or("benchmark");
    let load = strategy.first(&["rate", "streams", "max_concurrency"]).and_then(Node::written);
    load.map_or_else(|| format!("{place}:{kind}"), |load| format!("{place}:{kind}@{}", number::shorten(load)))
}

fn take_request(out: &mut Out, request: &Node, run: &str, status: &str, path: impl Fn() -> String) {
    let failed = status != "successful";
    let input = request.first(&["prompt_tokens", "input_metrics.total_tokens", "input_metrics.text_tokens"]);
    if failed && input.is_none() {
        out.rows.counts().passed_over += 1;
        return;
    }
    out.row(path, request, |rows| {
        field(rows, Role::InputTokens, input)?;
        let outputs = ["output_tokens", "output_metrics.total_tokens", "output_metrics.text_tokens"];
        match request.first(&outputs) {
            None if failed => rows.text(Role::OutputTokens, "0", request.at)?,
            tokens => field(rows, Role::OutputTokens, tokens)?,
        }
        field(rows, Role::EncoderTokens, request.path("input_metrics.image_tokens"))?;
        field(rows, Role::Extra(Extra::Images), request.path("input_metrics.image_count"))?;
        field(rows, Role::Name, request.key("request_id"))?;
        if let Some(conversation) = request.path("info.conversation_id") {
            field(rows, Role::Session, Some(conversation))?;
            field(rows, Role::Turn, request.path("info.turn_index"))?;
        }
        rows.text(Role::Run, run, request.at)?;
        if failed {
            let error = request.first(&["info.error", "scheduler_info.error", "error"]).and_then(Node::text);
            let status = error.filter(|_| status == "errored").map_or(status.to_string(), what_went_wrong);
            rows.text(Role::Status, &status, request.at)?;
        }
        field(rows, Role::Arrival, request.first(&START))?;
        let (first, last) = (request.first(&FIRST), request.first(&LAST).or_else(|| request.first(&END)));
        time(rows, Time::FirstToken, first, TimeUnit::S)?;
        time(rows, Time::LastToken, last, TimeUnit::S)?;
        if first.is_none() {
            time(rows, Time::Ttft, request.key("time_to_first_token_ms"), TimeUnit::Ms)?;
        }
        if last.is_none() {
            time(rows, Time::E2e, request.key("request_latency"), TimeUnit::S)?;
        }
        Ok(())
    });
}
