//! Records of AIPerf (`profile_export.jsonl`): JSON lines `{"metadata", "metrics", "error"}`, a request each.
//!
//! A request arrives when it was sent (`request_start_ns`); metrics say their unit beside their value. The session of a
//! user (`x_correlation_id`) and its turns are kept, and when a request was cancelled. Requests of the phase `warmup`
//! are marked so. Of a request that failed the length of the prompt is `error_isl`; one without it is passed over.

use super::Layout;
use super::document::{Node, Out, field, time};
use super::extra::Extra;
use super::fields::{Fields, Role};
use super::measured::{Time, WARMUP};
use super::{Fault, number};
use crate::spec::TimeUnit;

type Faulty<T> = std::result::Result<T, Fault>;

pub const NAMES: [&str; 2] = ["metadata.request_start_ns", "metrics"];

pub fn fields() -> Fields {
    Fields::new(Layout::Tokens, TimeUnit::Ns)
        .measured(TimeUnit::Ns)
        .required(Role::Arrival, "request_start_ns")
        .required(Role::InputTokens, "input_sequence_length")
        .required(Role::OutputTokens, "output_sequence_length")
        .optional(Role::Name, "x_request_id")
        .optional(Role::Session, "x_correlation_id")
        .optional(Role::Turn, "turn_index")
        .optional(Role::Extra(Extra::ReasoningTokens), "reasoning_token_count")
        .optional(Role::Extra(Extra::Images), "num_images")
        .optional(Role::Extra(Extra::Cancel), "cancellation_time_ns")
        .optional(Role::Status, "error")
        .optional(Role::Measured(Time::Ttft), "time_to_first_token")
        .optional(Role::Measured(Time::Tpot), "inter_token_latency")
        .optional(Role::Measured(Time::E2e), "request_latency")
        .optional(Role::Measured(Time::LastToken), "request_end_ns")
}

pub fn take(out: &mut Out, node: &Node) -> Faulty<()> {
    let Some(metadata) = node.key("metadata") else { return Err(Fault::new(node.at, "missing `metadata`")) };
    let metric = |name: &str| node.path(&format!("metrics.{name}.value"));
    let error = node.key("error");
    let cancelled = metadata.key("was_cancelled").is_some_and(Node::is_true);
    let input = metric("input_sequence_length").or_else(|| metric("error_isl"));
    if input.is_none() && (error.is_some() || cancelled) {
        out.rows.counts().passed_over += 1;
        return Ok(());
    }
    out.row(String::new, node, |rows| {
        field(rows, Role::Arrival, metadata.key("request_start_ns"))?;
        field(rows, Role::InputTokens, input)?;
        match metric("output_sequence_length").or_else(|| metric("output_token_count")) {
            None if error.is_some() || cancelled => rows.text(Role::OutputTokens, "0", node.at)?,
            tokens => field(rows, Role::OutputTokens, tokens)?,
        }
        field(rows, Role::Extra(Extra::ReasoningTokens), metric("reasoning_token_count"))?;
        field(rows, Role::Extra(Extra::Images), metric("num_images"))?;
        if let Some((gone, start)) = metadata.key("cancellation_time_ns").zip(metadata.key("request_start_ns")) {
            let after = gone.time_ns("cancellation_time_ns", TimeUnit::Ns)? - start.time_ns("", TimeUnit::Ns)?;
            rows.text(Role::Extra(Extra::Cancel), &after.to_string(), gone.at)?;
        }
        field(rows, Role::Name, metadata.key("x_request_id"))?;
        if let Some(session) = metadata.key("x_correlation_id") {
            field(rows, Role::Session, Some(session))?;
            field(rows, Role::Turn, metadata.key("turn_index"))?;
        }
        match (error.map(|e| e.key("type").and_then(Node::text)), cancelled) {
            (Some(kind), _) => rows.text(Role::Status, kind.unwrap_or("error"), node.at)?,
            (None, true) => rows.text(Role::Status, "cancelled", node.at)?,
            (None, false) if metadata.key("benchmark_phase").and_then(Node::text) == Some(WARMUP) => {
                rows.text(Role::Status, WARMUP, node.at)?;
            }
            (None, false) => {}
        }
        let metrics =
            [(Time::Ttft, "time_to_first_token"), (Time::Tpot, "inter_token_latency"), (Time::E2e, "request_latency")];
        for (what, name) in metrics {
            time(rows, what, metric(name), unit(node, name)?)?;
        }
        if metric("request_latency").is_none() && error.is_none() && !cancelled {
            time(rows, Time::LastToken, metadata.key("request_end_ns"), TimeUnit::Ns)?;
        }
        Ok(())
    });
    Ok(())
}

/// The unit that a metric says it has.
fn unit(node: &Node, name: &str) -> Faulty<TimeUnit> {
    let Some(unit) = node.path(&format!("metrics.{name}.unit")) else { return Ok(TimeUnit::Ms) };
    match unit.text() {
        Some("ms") => Ok(TimeUnit::Ms),
        Some("s" | "sec") => Ok(TimeUnit::S),
        Some("us") => Ok(TimeUnit::Us),
        Some("ns") => Ok(TimeUnit::Ns),
        other => {
            let shown = number::shorten(other.unwrap_or_default());
            Err(Fault::new(unit.at, format!("`{name}` has the unit `{shown}`: expected one of ns, us, ms, s")))
        }
    }
}
