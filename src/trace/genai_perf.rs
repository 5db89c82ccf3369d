//! Profiles of GenAI-Perf (`profile_export.json`, written by perf_analyzer): `experiments[].requests[]` with
//! `timestamp`, `request_inputs`, `response_timestamps` and `response_outputs`, times in nanoseconds of one clock.
//!
//! The file has texts and no numbers of tokens: a request is what was asked and what came back, put together from the
//! pieces of the stream, for `tokenize` to count. The first token is there with the first piece that has text, the last
//! with the last, as GenAI-Perf reckons; both become columns `observed_*`. Bodies of OpenAI's API (`payload`) and of
//! Triton (`text_input`, `text_output`) are read. Experiments follow each other in time, and are read as one.

use super::conversation::{Conversation, Message, Sent, Speaker};
use super::document::{Node, Out, Tree, tree};
use super::fields::{Fields, Role};
use super::measured::COMPLETED;
use super::{Fault, Layout, openai};
use crate::spec::TimeUnit;

type Faulty<T> = std::result::Result<T, Fault>;

pub fn fields() -> Fields {
    Fields::new(Layout::Texts, TimeUnit::Ns).whole().required(Role::Arrival, "timestamp")
}

pub fn take(out: &mut Out, node: &Node) -> Faulty<()> {
    for (i, experiment) in node.list("experiments")?.iter().enumerate() {
        for (n, request) in experiment.list("requests")?.iter().enumerate() {
            match take_request(request) {
                Ok((made, tools)) => {
                    out.rows.counts().tools += tools;
                    out.conversations.push(made);
                }
                Err(fault) => out.bad(|| format!("experiments[{i}].requests[{n}]"), request, fault),
            }
        }
    }
    Ok(())
}

fn take_request(request: &Node) -> Faulty<(Conversation, u64)> {
    let missing = |key: &str| Fault::new(request.at, format!("missing `{key}`"));
    let sent = request.key("timestamp").ok_or_else(|| missing("timestamp"))?;
    let arrival_ns = sent.time_ns("timestamp", TimeUnit::Ns)?;
    let inputs = request.key("request_inputs").ok_or_else(|| missing("request_inputs"))?;
    let (mut made, tools) = asked(inputs)?;
    let (times, pieces) = (request.list("response_timestamps")?, request.list("response_outputs")?);
    if times.len() != pieces.len() {
        let what = format!("{} `response_timestamps` and {} `response_outputs`", times.len(), pieces.len());
        return Err(Fault::new(request.at, format!("{what}: expected as many")));
    }
    let mut reply = Message { from: Speaker::Assistant, text: String::new(), images: 0 };
    let (mut first, mut last) = (None, None);
    for (time, piece) in times.iter().zip(pieces) {
        let before = reply.text.len();
        said(piece, &mut reply.text)?;
        if reply.text.len() > before {
            let ns = time.time_ns("response_timestamps", TimeUnit::Ns)? - arrival_ns;
            if ns < 0 || last.is_some_and(|last| ns < last) {
                return Err(Fault::new(time.at, "`response_timestamps` run backwards, or begin before `timestamp`"));
            }
            first = first.or(Some(ns));
            last = Some(ns);
        }
    }
    if reply.text.is_empty() {
        return Err(Fault::new(request.at, "has no reply: expected text in `response_outputs`"));
    }
    made.sent = Some(Sent { arrival_ns, ttft_ns: first, e2e_ns: last, status: COMPLETED.to_string() });
    made.replies = vec![made.messages.len() as u32];
    made.messages.push(reply);
    Ok((made, tools))
}

/// What was sent; the payload is a body of the API, as a text or as it is.
fn asked(inputs: &Node) -> Faulty<(Conversation, u64)> {
    if let Some(text) = inputs.key("text_input").and_then(Node::text) {
        let mut made = Conversation::new(None);
        made.plain = true;
        made.messages.push(Message { from: Speaker::User, text: text.to_string(), images: 0 });
        return Ok((made, 0));
    }
    let Some(payload) = inputs.key("payload") else {
        return Err(Fault::new(inputs.at, "`request_inputs` has neither `payload` nor `text_input`"));
    };
    let within = |fault: Fault| Fault::new(payload.at, format!("in `payload`: {}", fault.reason));
    match &payload.value {
        Tree::Text(text) => tree(text).and_then(|body| openai::body(&body)).map_err(within),
        _ => openai::body(payload),
    }
}

/// Adds the text of a piece of the stream. One piece may hold several events.
fn said(piece: &Node, reply: &mut String) -> Faulty<()> {
    if let Some(text) = piece.key("text_output").and_then(Node::text) {
        reply.push_str(text);
        return Ok(());
    }
    let Some(response) = piece.key("response").and_then(Node::text) else { return Ok(()) };
    let is_data =
        |l: &&str| !l.is_empty() && ![":", "event:", "id:", "retry:"].iter().any(|other| l.starts_with(other));
    for event in response.lines().map(str::trim).filter(is_data) {
        let data = event.strip_prefix("data:").unwrap_or(event).trim();
        if data == "[DONE]" {
            continue;
        }
        let body = tree(data);
        let body = body.map_err(|fault| Fault::new(piece.at, format!("in `response`: {}", fault.reason)))?;
        for choice in body.list("choices")? {
            let text = choice.first(&["delta.content", "delta.reasoning_content", "message.content", "text"]);
            reply.push_str(text.and_then(Node::text).unwrap_or_default());
        }
    }
    Ok(())
}
