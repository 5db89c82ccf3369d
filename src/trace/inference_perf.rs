//! Requests of inference-perf (`per_request_lifecycle_metrics.json`): a JSON list of `{"start_time", "end_time",
//! "request", "info", "error"}`, times in seconds of the client's clock.
//!
//! `info` has `input_tokens`, `output_tokens` and `output_token_times`, or, in newer versions, `request_metrics.text`
//! and `response_metrics` with them. The first and the last of `output_token_times` are the first and the last token;
//! without them, as of replies that were not streamed, only the end is known. The model and the longest reply come from
//! `request`, the body that was sent. A request that failed is kept with its status where its length is known, else
//! passed over.

use super::Fault;
use super::Layout;
use super::document::{Node, Out, field, time, tree, what_went_wrong};
use super::extra::Extra;
use super::fields::{Fields, Role};
use super::measured::Time;
use crate::spec::TimeUnit;

type Faulty<T> = std::result::Result<T, Fault>;

/// Whether a request with these keys is one. What comes after a long prompt may not be in the head of the file.
pub fn fits(has: impl Fn(&str) -> bool) -> bool {
    has("start_time") && has("end_time") && (has("request") || has("info"))
}

pub fn fields() -> Fields {
    Fields::new(Layout::Tokens, TimeUnit::S)
        .measured(TimeUnit::S)
        .required(Role::Arrival, "start_time")
        .required(Role::InputTokens, "input_tokens")
        .required(Role::OutputTokens, "output_tokens")
        .optional(Role::Model, "model")
        .optional(Role::Extra(Extra::MaxTokens), "max_tokens")
        .optional(Role::Status, "error")
        .optional(Role::Measured(Time::FirstToken), "output_token_times")
        .optional(Role::Measured(Time::LastToken), "end_time")
}

pub fn take(out: &mut Out, node: &Node) -> Faulty<()> {
    let error = node.key("error");
    let input = node.first(&["info.input_tokens", "info.request_metrics.text.input_tokens"]);
    if input.is_none() && error.is_some() {
        out.rows.counts().passed_over += 1;
        return Ok(());
    }
    out.row(String::new, node, |rows| {
        field(rows, Role::Arrival, node.key("start_time"))?;
        field(rows, Role::InputTokens, input)?;
        match node.first(&["info.output_tokens", "info.response_metrics.output_tokens"]) {
            None if error.is_some() => rows.text(Role::OutputTokens, "0", node.at)?,
            tokens => field(rows, Role::OutputTokens, tokens)?,
        }
        if let Some(error) = error {
            let text = error.first(&["error_type", "error_msg"]).unwrap_or(error).text();
            rows.text(Role::Status, &what_went_wrong(text.unwrap_or_default()), error.at)?;
        }
        let sent = node.key("request").and_then(Node::text).and_then(|body| tree(body).ok());
        if let Some(body) = sent.as_ref().or(node.key("request")) {
            for (role, names) in [
                (Role::Model, &["model"][..]),
                (Role::Extra(Extra::MaxTokens), &["max_completion_tokens", "max_tokens"]),
            ] {
                if let Some(written) = body.first(names).and_then(Node::written) {
                    rows.text(role, written, node.at)?;
                }
            }
        }
        let times = match node.list("info.output_token_times")? {
            [] => node.list("info.response_metrics.output_token_times")?,
            times => times,
        };
        time(rows, Time::FirstToken, times.first(), TimeUnit::S)?;
        let end = node.key("end_time").filter(|_| error.is_none());
        time(rows, Time::LastToken, times.last().or(end), TimeUnit::S)
    });
    Ok(())
}
