//! ShareGPT: conversations as a JSON list or as JSON lines of `{"id", "conversations": [{"from", "value"}]}`.
//!
//! Every reply of the assistant makes a request: see [`super::conversation`]. There are no times. The benchmark of vLLM
//! takes the first two messages of each conversation from such a file; those are the requests of turn 0 here.

use super::chunk::Text;
use super::conversation::{Conversation, Message, Speaker};
use super::fields::{Fields, Rows};
use super::json::{Scanner, Value};
use super::{Fault, Layout, Parsed, document, jsonl, number};
use crate::diag::Result;
use crate::spec::TimeUnit;

const ASSISTANTS: [&str; 5] = ["gpt", "assistant", "chatgpt", "bing", "bard"];
const OTHERS: [(&str, Speaker); 5] = [
    ("human", Speaker::User),
    ("user", Speaker::User),
    ("system", Speaker::System),
    ("tool", Speaker::Tool),
    ("function", Speaker::Tool),
];

pub fn fields() -> Fields {
    Fields::new(Layout::Texts, TimeUnit::S)
}

/// The conversations of a chunk.
pub fn parse(fields: &Fields, text: &Text) -> Result<Parsed> {
    let mut parsed = Rows::new(fields).finish()?;
    let list = text.depth > 0 || text.line == 1 && text.bytes.trim_ascii_start().starts_with(b"[");
    let rows: Vec<(usize, usize)> = match list {
        true => document::elements(text),
        false => {
            parsed.counts += text.counts();
            text.lines().map(|(_, start, line)| (start, start + line.len())).collect()
        }
    };
    let (mut line, mut counted) = (text.line, 0);
    for (start, end) in rows {
        line += text.bytes[counted..start].iter().filter(|b| **b == b'\n').count() as u64;
        counted = start;
        match jsonl::utf8(&text.bytes[start..end]).and_then(|row| conversation(row, line)) {
            Ok(conversation) if conversation.replies.is_empty() => {}
            Ok(conversation) => parsed.conversations.push(conversation),
            Err(fault) => parsed.problems.push(text.problem(start, end, fault)),
        }
    }
    Ok(parsed)
}

fn conversation(row: &str, line: u64) -> std::result::Result<Conversation, Fault> {
    let mut scanner = Scanner::new(row);
    let mut made = Conversation::new(None);
    let mut there = false;
    scanner.members(|scanner, key| match key.as_ref() {
        "id" => {
            made.id = name(scanner, "id")?;
            Ok(())
        }
        "model" => {
            made.model = name(scanner, "model")?;
            Ok(())
        }
        "conversations" => {
            there = true;
            scanner.items(|scanner| message(scanner, &mut made))
        }
        _ => scanner.skip(),
    })?;
    scanner.end()?;
    if !there {
        return Err(Fault::new(0, "missing `conversations`: expected [{ from, value }, ...]"));
    }
    made.id.get_or_insert_with(|| format!("line {line}"));
    Ok(made)
}

/// The name of something, where there is one.
fn name(scanner: &mut Scanner, key: &str) -> std::result::Result<Option<String>, Fault> {
    let at = scanner.value_at();
    match scanner.value()? {
        Value::Text(name) => Ok(Some(name.into_owned()).filter(|n| !n.is_empty())),
        Value::Number(name) => Ok(Some(name.to_string())),
        Value::Null => Ok(None),
        _ => Err(Fault::new(at, format!("`{key}` is not text: expected a name"))),
    }
}

fn message(scanner: &mut Scanner, made: &mut Conversation) -> std::result::Result<(), Fault> {
    let start = scanner.value_at();
    let (mut from, mut value) = (None, None);
    scanner.members(|scanner, key| {
        let at = scanner.value_at();
        let slot = match key.as_ref() {
            "from" => &mut from,
            "value" => &mut value,
            _ => return scanner.skip(),
        };
        match scanner.value()? {
            Value::Text(text) => *slot = Some((at, text)),
            _ => return Err(Fault::new(at, format!("`{key}` is not text"))),
        }
        Ok(())
    })?;
    let (Some((at, from)), Some((_, value))) = (from, value) else {
        return Err(Fault::new(start, "a message without `from` and `value`"));
    };
    let other = OTHERS.iter().find(|(name, _)| *name == from).map(|(_, speaker)| *speaker);
    let Some(speaker) = other.or_else(|| ASSISTANTS.contains(&from.as_ref()).then_some(Speaker::Assistant)) else {
        let valid = ASSISTANTS.into_iter().chain(OTHERS.map(|(name, _)| name)).collect::<Vec<_>>().join(", ");
        return Err(Fault::new(at, format!("`from` is `{}`: expected one of {valid}", number::shorten(&from))));
    };
    made.says(Message { from: speaker, text: value.into_owned(), images: 0 });
    Ok(())
}
