//! ShareGPT: conversations as a JSON list or as JSON lines of `{"id", "conversations": [{"from", "value"}]}`.
//!
//! Every reply of the assistant is a request: its prompt is all that was said before it, its output the reply. A reply
//! that nothing comes before, or that is empty, is no request, but part of the conversation. There are no times.
//!
//! Requests are ordered by turn, then by conversation: the first turns of all conversations, then all second turns.
//! Whoever draws arrivals later gets conversations that overlap, as in a service, and not one after the other. For
//! that, the texts of all conversations are held in memory, each once; they are repeated while rows are written.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder};
use arrow::datatypes::{DataType, Field};

use super::chunk::{Cut, Scan, Text};
use super::fields::{Fields, Rows};
use super::json::{Scanner, Value};
use super::{Fault, Layout, Parsed, jsonl, number};
use crate::diag::{Failure, Result};
use crate::spec::TimeUnit;
use crate::table;

/// A conversation that has requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    /// Without one: the line that it begins in.
    pub id: String,
    pub messages: Vec<String>,
    /// Which messages are replies to be generated, in order.
    pub replies: Vec<u32>,
}

const ASSISTANTS: [&str; 5] = ["gpt", "assistant", "chatgpt", "bing", "bard"];
const OTHERS: [&str; 5] = ["human", "user", "system", "tool", "function"];

pub fn fields() -> Fields {
    Fields::new(Layout::Texts, TimeUnit::S)
}

/// The conversations of a chunk.
pub fn parse(fields: &Fields, text: &Text) -> Result<Parsed> {
    let mut parsed = Rows::new(fields).finish()?;
    let list = text.depth > 0 || text.line == 1 && text.bytes.trim_ascii_start().starts_with(b"[");
    let rows: Vec<(usize, usize)> = match list {
        true => elements(text),
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

/// The elements of the outermost list that lie in a chunk.
fn elements(text: &Text) -> Vec<(usize, usize)> {
    let mut scan = Scan::new(Cut::Elements, text.depth);
    let mut found = Vec::new();
    let mut start = 0;
    let mut take = |from: usize, to: usize| {
        let blank = text.bytes[from..to].iter().take_while(|b| b.is_ascii_whitespace()).count();
        if from + blank < to {
            found.push((from + blank, to));
        }
    };
    for (i, byte) in text.bytes.iter().enumerate() {
        let depth = scan.depth;
        let (next, opens) = (scan.element(*byte), depth == 0 && *byte == b'[');
        let closes = depth == 1 && scan.depth == 0;
        if next || opens || closes {
            take(start, i);
            start = i + 1;
        }
    }
    // Something left over is a row that does not end, or text after the list: parsing it says which.
    take(start, text.bytes.len());
    found
}

fn conversation(row: &str, line: u64) -> std::result::Result<Conversation, Fault> {
    let mut scanner = Scanner::new(row);
    let mut made = Conversation { id: String::new(), messages: Vec::new(), replies: Vec::new() };
    let mut there = false;
    scanner.members(|scanner, key| match key.as_ref() {
        "id" => {
            let at = scanner.value_at();
            match scanner.value()? {
                Value::Text(id) => made.id = id.into_owned(),
                Value::Number(id) => made.id = id.to_string(),
                Value::Null => {}
                _ => return Err(Fault::new(at, "`id` is not text: expected the name of the conversation")),
            }
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
    if made.id.is_empty() {
        made.id = format!("line {line}");
    }
    Ok(made)
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
    let assistant = ASSISTANTS.contains(&from.as_ref());
    if !assistant && !OTHERS.contains(&from.as_ref()) {
        let valid = [ASSISTANTS, OTHERS].concat().join(", ");
        return Err(Fault::new(at, format!("`from` is `{}`: expected one of {valid}", number::shorten(&from))));
    }
    if assistant && !value.is_empty() && !made.messages.is_empty() {
        made.replies.push(made.messages.len() as u32);
    }
    made.messages.push(value.into_owned());
    Ok(())
}

/// Calls `sink` with the requests of all conversations, in batches; it says whether it wants more.
///
/// # Errors
/// Those of `sink`; a prompt of more than 2 GiB.
pub fn requests(
    conversations: &[Conversation],
    mut sink: impl FnMut(RecordBatch) -> Result<std::ops::ControlFlow<()>>,
) -> Result<()> {
    /// A batch is written once it has so many bytes of text, or rows.
    const BYTES: usize = 16 << 20;
    const ROWS: usize = 1 << 14;
    let turns = conversations.iter().map(|c| c.replies.len()).max().unwrap_or(0);
    let mut batch: Vec<(&Conversation, usize)> = Vec::new();
    let mut bytes = 0;
    for turn in 0..turns {
        for conversation in conversations.iter().filter(|c| c.replies.len() > turn) {
            let prompt = &conversation.messages[..=conversation.replies[turn] as usize];
            bytes += prompt.iter().map(String::len).sum::<usize>();
            batch.push((conversation, turn));
            if bytes >= BYTES || batch.len() >= ROWS {
                bytes = 0;
                if sink(rows(&std::mem::take(&mut batch))?)?.is_break() {
                    return Ok(());
                }
            }
        }
    }
    if !batch.is_empty() {
        let _ = sink(rows(&batch)?)?;
    }
    Ok(())
}

fn rows(batch: &[(&Conversation, usize)]) -> Result<RecordBatch> {
    let item = Arc::new(Field::new_list_field(DataType::Utf8, false));
    let mut input = ListBuilder::new(StringBuilder::new()).with_field(item);
    for (conversation, turn) in batch {
        let reply = conversation.replies[*turn] as usize;
        conversation.messages[..reply].iter().for_each(|m| input.values().append_value(m));
        input.append(true);
    }
    let output = batch.iter().map(|(c, turn)| Some(c.messages[c.replies[*turn] as usize].as_str()));
    let columns: [(&str, ArrayRef); 5] = [
        ("request_id", Arc::new(Int64Array::from(vec![0; batch.len()]))),
        ("session_id", Arc::new(batch.iter().map(|(c, _)| Some(c.id.as_str())).collect::<StringArray>())),
        ("turn", Arc::new(batch.iter().map(|(_, turn)| Some(*turn as i32)).collect::<Int32Array>())),
        ("input", Arc::new(input.finish())),
        ("output", Arc::new(output.collect::<StringArray>())),
    ];
    table::requests::assemble(&Layout::Texts.schema(), batch.len(), columns)
        .map_err(|e| Failure::stage("trace::arrow", e.to_string()))
}
