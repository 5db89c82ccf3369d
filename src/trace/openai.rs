//! Conversations in the form of OpenAI's API, as a JSON list or as JSON lines of `{"messages": [{"role", "content"}]}`,
//! and batches of requests of that API.
//!
//! `content` is a text or a list of parts; parts that are not text count as images. What the model calls a tool with is
//! part of what it says: name and arguments become text. `developer` is read as `system`, `function` as `tool`. `id`,
//! `conversation_id` or `session_id` names the conversation, and `model` the model. Definitions of tools are counted,
//! not read. What a user says last, without an answer, is a request if `max_tokens` or `max_completion_tokens` says how
//! long its reply may be; it is taken to be as long.
//!
//! Batch, input: JSON lines `{"custom_id", "method", "url", "body"}` with a `body` for chat completions, completions,
//! responses or embeddings. A reply is taken to be as long as the body allows; embeddings have none. Batch, output:
//! JSON lines `{"custom_id", "response": {"body": {"usage"}}, "error"}`, of which the numbers of tokens are read.
//! Requests that failed have none, and are passed over.
//!
//! There are no times in either.

use super::conversation::{Conversation, Message, Speaker};
use super::document::{Node, Out, Tree, field};
use super::extra::Extra;
use super::fields::{Fields, Role};
use super::number;
use super::{Fault, Layout};
use crate::spec::TimeUnit;

type Faulty<T> = std::result::Result<T, Fault>;

const ROLES: [(&str, Speaker); 7] = [
    ("system", Speaker::System),
    ("developer", Speaker::System),
    ("user", Speaker::User),
    ("assistant", Speaker::Assistant),
    ("model", Speaker::Assistant),
    ("tool", Speaker::Tool),
    ("function", Speaker::Tool),
];

/// Conversations.
pub fn chat() -> Fields {
    Fields::new(Layout::Texts, TimeUnit::S)
}

/// What was asked, in a batch.
pub fn batch_input() -> Fields {
    Fields::new(Layout::Texts, TimeUnit::S)
}

/// What came of a batch.
pub fn batch_output() -> Fields {
    Fields::new(Layout::Tokens, TimeUnit::S)
        .required(Role::InputTokens, "prompt_tokens")
        .required(Role::OutputTokens, "completion_tokens")
        .optional(Role::Model, "model")
        .optional(Role::Extra(Extra::ReasoningTokens), "reasoning_tokens")
}

/// A conversation.
pub fn take_chat(out: &mut Out, node: &Node) -> Faulty<()> {
    let Some(messages) = node.key("messages") else {
        return Err(Fault::new(node.at, "missing `messages`: expected [{ role, content }, ...]"));
    };
    let line = out.place(node.at).0;
    let id = node.first(&["id", "conversation_id", "session_id"]).and_then(Node::written);
    let mut made = Conversation::new(Some(id.map_or_else(|| format!("line {line}"), str::to_string)));
    let mut tools = node.list("tools")?.len() as u64;
    said(&mut made, messages, &mut tools)?;
    made.model = node.key("model").and_then(Node::written).map(str::to_string);
    made.max_tokens = most(node)?;
    if made.messages.last().is_some_and(|m| m.from != Speaker::Assistant) && made.max_tokens.is_some() {
        made.output_tokens = made.max_tokens;
        made.waits();
    }
    let counts = out.rows.counts();
    counts.tools += tools;
    let open = made.messages.len() as u32;
    counts.passed_over += u64::from(made.replies.last().is_none_or(|last| last + 1 < open));
    if !made.replies.is_empty() {
        out.conversations.push(made);
    }
    Ok(())
}

/// A line of a batch.
pub fn take_batch(out: &mut Out, node: &Node) -> Faulty<()> {
    match node.key("body") {
        Some(body) => asked(out, node, body),
        None => answered(out, node),
    }
}

/// Goes on with a list of messages.
fn said(made: &mut Conversation, messages: &Node, tools: &mut u64) -> Faulty<()> {
    let Tree::List(messages) = &messages.value else {
        return Err(Fault::new(messages.at, "`messages` is not a list: expected [{ role, content }, ...]"));
    };
    for message in messages {
        let role = message.key("role").ok_or_else(|| Fault::new(message.at, "a message without `role`"))?;
        let name = role.text().unwrap_or_default();
        let Some((_, from)) = ROLES.iter().find(|(known, _)| *known == name) else {
            let valid = ROLES.map(|(name, _)| name).join(", ");
            let shown = number::shorten(name);
            return Err(Fault::new(role.at, format!("`role` is `{shown}`: expected one of {valid}")));
        };
        let mut said = Message { from: *from, text: String::new(), images: 0 };
        if let Some(content) = message.key("content") {
            parts(&mut said, content)?;
        }
        for call in message.list("tool_calls")?.iter().chain(message.key("function_call")) {
            *tools += 1;
            for key in ["name", "arguments"] {
                let text = call.first(&[&format!("function.{key}"), key]).and_then(Node::written);
                said.text.push_str(text.unwrap_or_default());
            }
        }
        made.says(said);
    }
    Ok(())
}

/// What a message says: a text, or parts.
fn parts(said: &mut Message, content: &Node) -> Faulty<()> {
    match &content.value {
        Tree::Text(text) => said.text.push_str(text),
        Tree::List(items) => {
            for part in items {
                match (part.text(), part.first(&["text", "refusal"])) {
                    (Some(text), _) => said.text.push_str(text),
                    (None, Some(Node { value: Tree::Text(text), .. })) => said.text.push_str(text),
                    _ if part.key("type").and_then(Node::text).is_some() => said.images += 1,
                    _ => return Err(Fault::new(part.at, "a part of `content` that is no text and has no `type`")),
                }
            }
        }
        _ => return Err(Fault::new(content.at, "`content` is neither text nor a list of parts")),
    }
    Ok(())
}

/// The longest reply that a request allows.
fn most(body: &Node) -> Faulty<Option<i32>> {
    let Some(node) = body.first(&["max_completion_tokens", "max_tokens", "max_output_tokens"]) else { return Ok(None) };
    let wrong = |reason: String| Fault::new(node.at, format!("`max_tokens` {reason}"));
    let written = node.written().ok_or_else(|| wrong("is not a number".to_string()))?;
    number::tokens(written).map(Some).map_err(wrong)
}

/// What a body of the API asks for, with the number of definitions and calls of tools in it.
pub fn body(body: &Node) -> Faulty<(Conversation, u64)> {
    let mut made = Conversation::new(None);
    let mut tools = body.list("tools")?.len() as u64;
    made.model = body.key("model").and_then(Node::written).map(str::to_string);
    made.max_tokens = most(body)?;
    if let Some(messages) = body.key("messages") {
        said(&mut made, messages, &mut tools)?;
        // Earlier answers are part of the prompt.
        made.replies.clear();
        return Ok((made, tools));
    }
    let Some(prompt) = body.first(&["prompt", "input"]) else {
        return Err(Fault::new(body.at, "has none of `messages`, `prompt` and `input`: expected what is asked"));
    };
    if let Some(told) = body.key("instructions").and_then(Node::text) {
        made.messages.push(Message { from: Speaker::System, text: told.to_string(), images: 0 });
    }
    match &prompt.value {
        Tree::Text(text) => {
            made.plain = body.key("prompt").is_some();
            made.messages.push(Message { from: Speaker::User, text: text.to_string(), images: 0 });
        }
        Tree::List(items) if items.first().is_some_and(|i| matches!(i.value, Tree::Object(_))) => {
            said(&mut made, prompt, &mut tools)?;
            made.replies.clear();
        }
        Tree::List(items) if items.len() == 1 && items[0].text().is_some() => {
            let text = items[0].text().unwrap_or_default().to_string();
            made.plain = true;
            made.messages.push(Message { from: Speaker::User, text, images: 0 });
        }
        _ => return Err(Fault::new(prompt.at, "the prompt is neither a text, nor messages, nor a list of one text")),
    }
    Ok((made, tools))
}

fn asked(out: &mut Out, node: &Node, asks: &Node) -> Faulty<()> {
    let (mut made, tools) = body(asks)?;
    let embeds = node.key("url").and_then(Node::text).is_some_and(|url| url.ends_with("/embeddings"));
    made.output_tokens = if embeds { Some(1) } else { made.max_tokens };
    if made.output_tokens.is_none() {
        let what = "`body` has no `max_tokens`: nothing says how long the reply is (the batch's output file does)";
        return Err(Fault::new(asks.at, what));
    }
    made.plain |= embeds;
    made.waits();
    out.rows.counts().tools += tools;
    out.conversations.push(made);
    Ok(())
}

fn answered(out: &mut Out, node: &Node) -> Faulty<()> {
    let Some(body) = node.path("response.body") else {
        if node.key("error").is_some() {
            out.rows.counts().passed_over += 1;
            return Ok(());
        }
        return Err(Fault::new(node.at, "missing `response.body`: expected what the API answered"));
    };
    if body.key("usage").is_none() && (body.key("error").is_some() || node.key("error").is_some()) {
        out.rows.counts().passed_over += 1;
        return Ok(());
    }
    out.row(String::new, node, |rows| {
        field(rows, Role::InputTokens, body.first(&["usage.prompt_tokens", "usage.input_tokens"]))?;
        // Embeddings have no reply.
        match body.first(&["usage.completion_tokens", "usage.output_tokens"]) {
            None if body.path("usage.prompt_tokens").is_some() => rows.text(Role::OutputTokens, "1", body.at)?,
            tokens => field(rows, Role::OutputTokens, tokens)?,
        }
        let details = ["completion_tokens_details", "output_tokens_details"];
        let details = details.map(|key| format!("usage.{key}.reasoning_tokens"));
        field(rows, Role::Extra(Extra::ReasoningTokens), body.first(&[&details[0], &details[1]]))?;
        field(rows, Role::Model, body.key("model"))
    });
    Ok(())
}
