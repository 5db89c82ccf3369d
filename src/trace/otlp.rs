//! Spans of OpenTelemetry as JSON: of vLLM's tracing, and of agents for inference-perf.
//!
//! Two forms, each as one document or as JSON lines: OTLP, as a collector's file exporter writes it and as it is in
//! BLIS's `traces.json` (`resourceSpans[].scopeSpans[].spans[]`, attributes as a list), and the flat one of
//! inference-perf's `otel_trace_replay` (`spans[]`, attributes as an object). A span with the length of a prompt is a
//! request; others are passed over. It arrives at its start and ends at its end, unless `gen_ai.latency.e2e` (s) says
//! when; further attributes are those of [`super::otel`].
//!
//! The spans of a flat document are the calls of one agent. Where none begins before another is done, they are the
//! turns of one session, and the time between them is spent outside the model (`think_ns`); where calls overlap they
//! are requests of their own.

use super::Fault;
use super::Layout;
use super::document::{Node, Out, Tree, field, time, what_went_wrong};
use super::extra::Extra;
use super::fields::{Fields, Role};
use super::measured::Time;
use crate::spec::TimeUnit;

type Faulty<T> = std::result::Result<T, Fault>;

const INPUT: [&str; 2] = ["gen_ai.usage.prompt_tokens", "gen_ai.usage.input_tokens"];
const OUTPUT: [&str; 2] = ["gen_ai.usage.completion_tokens", "gen_ai.usage.output_tokens"];
const REASONING: [&str; 2] = ["gen_ai.usage.reasoning_tokens", "gen_ai.usage.reasoning.output_tokens"];
const START: [&str; 2] = ["startTimeUnixNano", "start_time"];
const END: [&str; 2] = ["endTimeUnixNano", "end_time"];
/// Status codes of a span that failed: OTLP, and names of it.
const FAILED: [&str; 3] = ["2", "STATUS_CODE_ERROR", "ERROR"];

pub fn fields() -> Fields {
    Fields::new(Layout::Tokens, TimeUnit::Ns)
        .measured(TimeUnit::S)
        .required(Role::Arrival, "startTimeUnixNano")
        .required(Role::InputTokens, INPUT[0])
        .required(Role::OutputTokens, OUTPUT[0])
        .optional(Role::Name, "gen_ai.request.id")
        .optional(Role::Model, "gen_ai.request.model")
        .optional(Role::Session, "session_id")
        .optional(Role::Turn, "turn")
        .optional(Role::Think, "think_ns")
        .optional(Role::Extra(Extra::MaxTokens), "gen_ai.request.max_tokens")
        .optional(Role::Extra(Extra::ReasoningTokens), REASONING[0])
        .optional(Role::Status, "status")
        .optional(Role::Measured(Time::Ttft), "gen_ai.latency.time_to_first_token")
        .optional(Role::Measured(Time::E2e), "gen_ai.latency.e2e")
        .optional(Role::Measured(Time::Queue), "gen_ai.latency.time_in_queue")
        .optional(Role::Measured(Time::Prefill), "gen_ai.latency.time_in_model_prefill")
        .optional(Role::Measured(Time::Decode), "gen_ai.latency.time_in_model_decode")
}

/// Where a request stands among those of its agent.
struct Turn {
    session: String,
    turn: usize,
    think_ns: Option<i64>,
}

pub fn take(out: &mut Out, node: &Node) -> Faulty<()> {
    if node.key("resourceSpans").is_none() {
        return flat(out, node);
    }
    for (i, resource) in node.list("resourceSpans")?.iter().enumerate() {
        // `instrumentationLibrarySpans` is what the scopes were called before OTLP 0.16.
        for key in ["scopeSpans", "instrumentationLibrarySpans"] {
            for (k, scope) in resource.list(key)?.iter().enumerate() {
                for (n, span) in scope.list("spans")?.iter().enumerate() {
                    take_span(out, span, None, || format!("resourceSpans[{i}].{key}[{k}].spans[{n}]"));
                }
            }
        }
    }
    Ok(())
}

fn flat(out: &mut Out, node: &Node) -> Faulty<()> {
    if node.key("spans").is_none() {
        return Err(Fault::new(node.at, "has neither `resourceSpans` nor `spans`"));
    }
    let spans = node.list("spans")?;
    let session = node.first(&["session_id", "trace_id"]).and_then(Node::written);
    let turns = session.and_then(|session| turns(spans, session));
    let mut turns = turns.unwrap_or_default();
    for (n, span) in spans.iter().enumerate() {
        let turn = turns.get_mut(n).and_then(Option::take);
        take_span(out, span, turn, || format!("spans[{n}]"));
    }
    Ok(())
}

/// The turn that each span is; `None` where two overlap, or where a time cannot be read.
fn turns(spans: &[Node], session: &str) -> Option<Vec<Option<Turn>>> {
    let mut calls = Vec::new();
    for (n, span) in spans.iter().enumerate().filter(|(_, span)| attribute(span, &INPUT).is_some()) {
        let ns = |paths: &[&str]| span.first(paths)?.time_ns("", TimeUnit::Ns).ok();
        calls.push((ns(&START)?, ns(&END)?, n));
    }
    calls.sort_unstable();
    let mut turns: Vec<Option<Turn>> = spans.iter().map(|_| None).collect();
    let mut done: Option<i64> = None;
    for (turn, (start, end, n)) in calls.into_iter().enumerate() {
        let think_ns = done.map(|done| start - done);
        if think_ns.is_some_and(|ns| ns < 0) {
            return None;
        }
        turns[n] = Some(Turn { session: session.to_string(), turn, think_ns });
        done = Some(end);
    }
    Some(turns)
}

/// The value of the first of these attributes that a span has.
fn attribute<'n, 'a>(span: &'n Node<'a>, names: &[&str]) -> Option<&'n Node<'a>> {
    let attributes = span.key("attributes")?;
    names.iter().find_map(|name| match &attributes.value {
        Tree::List(items) => {
            let item = items.iter().find(|item| item.key("key").and_then(Node::text) == Some(name))?;
            item.first(&["value.intValue", "value.doubleValue", "value.stringValue", "value.boolValue"])
        }
        _ => attributes.key(name),
    })
}

fn take_span(out: &mut Out, span: &Node, turn: Option<Turn>, path: impl Fn() -> String) {
    let Some(input) = attribute(span, &INPUT) else {
        out.rows.counts().passed_over += 1;
        return;
    };
    let code = span.first(&["status.code", "status.status_code"]).and_then(Node::written);
    let failed = code.is_some_and(|code| FAILED.contains(&code));
    out.row(path, span, |rows| {
        let start = span.first(&START);
        let arrival = start.map(|at| at.time_ns("startTimeUnixNano", TimeUnit::Ns)).transpose()?;
        if let Some((arrival, at)) = arrival.zip(start) {
            rows.arrival_ns(arrival, at.at)?;
        }
        // OTLP writes whole numbers as texts, which is no oddity of the file.
        let plain = |rows: &mut super::fields::Rows, role: Role, node: Option<&Node>| match node {
            Some(Node { at, value: Tree::Text(text) }) => rows.text(role, text, *at),
            other => field(rows, role, other),
        };
        plain(rows, Role::InputTokens, Some(input))?;
        match attribute(span, &OUTPUT) {
            None if failed => rows.text(Role::OutputTokens, "0", span.at)?,
            tokens => plain(rows, Role::OutputTokens, tokens)?,
        }
        plain(rows, Role::Extra(Extra::MaxTokens), attribute(span, &["gen_ai.request.max_tokens"]))?;
        plain(rows, Role::Extra(Extra::ReasoningTokens), attribute(span, &REASONING))?;
        plain(rows, Role::Name, attribute(span, &["gen_ai.request.id"]))?;
        plain(rows, Role::Model, attribute(span, &["gen_ai.request.model", "gen_ai.response.model"]))?;
        if failed {
            let message = span.first(&["status.message", "status.description"]).and_then(Node::text);
            rows.text(Role::Status, &what_went_wrong(message.unwrap_or_default()), span.at)?;
        }
        if let Some(Turn { session, turn, think_ns }) = turn {
            rows.text(Role::Session, &session, span.at)?;
            rows.text(Role::Turn, &turn.to_string(), span.at)?;
            if let Some(ns) = think_ns {
                rows.text(Role::Think, &ns.to_string(), span.at)?;
            }
        }
        let latency = |name: &str| attribute(span, &[&format!("gen_ai.latency.{name}")]);
        let first = latency("time_to_first_token").or_else(|| attribute(span, &["gen_ai.server.time_to_first_token"]));
        time(rows, Time::Ttft, first, TimeUnit::S)?;
        time(rows, Time::Queue, latency("time_in_queue"), TimeUnit::S)?;
        time(rows, Time::Prefill, latency("time_in_model_prefill"), TimeUnit::S)?;
        time(rows, Time::Decode, latency("time_in_model_decode"), TimeUnit::S)?;
        match (latency("e2e"), span.first(&END), arrival) {
            (Some(e2e), _, _) => time(rows, Time::E2e, Some(e2e), TimeUnit::S),
            (None, Some(end), Some(arrival)) => {
                let ns = end.time_ns("endTimeUnixNano", TimeUnit::Ns)? - arrival;
                if ns < 0 {
                    return Err(Fault::new(end.at, "ends before it begins"));
                }
                rows.measured_ns(Time::E2e, ns, end.at)
            }
            _ => Ok(()),
        }
    });
}
