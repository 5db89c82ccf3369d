//! Conversations and single prompts as texts: what a file says, and the requests that it makes.
//!
//! Every reply of the assistant is a request: its prompt is all that was said before it, its output the reply. A reply
//! that nothing comes before, or that is empty, is no request, but part of the conversation.
//!
//! Requests are ordered by turn, then by conversation: the first turns of all conversations, then all second turns.
//! Whoever draws arrivals later gets conversations that overlap, as in a service, and not one after the other. For
//! that, the texts of all conversations are held in memory, each once; they are repeated while rows are written.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder};
use arrow::datatypes::{DataType, Field};

use super::Layout;
use crate::diag::{Failure, Result};
use crate::table;

/// Who says something, as chat templates call them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    System,
    User,
    Assistant,
    Tool,
}

impl Speaker {
    /// The name in the column `roles`.
    pub fn name(self) -> &'static str {
        match self {
            Speaker::System => "system",
            Speaker::User => "user",
            Speaker::Assistant => "assistant",
            Speaker::Tool => "tool",
        }
    }
}

/// What is said at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub from: Speaker,
    pub text: String,
    /// Images, or other media, beside the text.
    pub images: u32,
}

/// When a request was sent, and how it was answered, as far as the file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sent {
    /// Of the file's clock.
    pub arrival_ns: i64,
    pub ttft_ns: Option<i64>,
    pub e2e_ns: Option<i64>,
    pub status: String,
}

/// A conversation that has requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    /// Its requests belong together; `None`: it is a single request.
    pub id: Option<String>,
    pub model: Option<String>,
    pub messages: Vec<Message>,
    /// Which messages are replies to be generated, in order. The number of messages stands for a reply whose text is
    /// not known.
    pub replies: Vec<u32>,
    /// The texts are sent as they are, without a chat template.
    pub plain: bool,
    pub max_tokens: Option<i32>,
    /// Length of the reply whose text is not known.
    pub output_tokens: Option<i32>,
    /// Of a conversation that is a single request of a file with times.
    pub sent: Option<Sent>,
}

impl Conversation {
    /// One without messages.
    pub fn new(id: Option<String>) -> Self {
        Conversation {
            id,
            model: None,
            messages: Vec::new(),
            replies: Vec::new(),
            plain: false,
            max_tokens: None,
            output_tokens: None,
            sent: None,
        }
    }

    /// Ends with a reply whose text is not known.
    pub fn waits(&mut self) {
        self.replies.push(self.messages.len() as u32);
    }

    /// Goes on with a message; one of the assistant makes a request where it answers something.
    pub fn says(&mut self, message: Message) {
        if message.from == Speaker::Assistant && !message.text.is_empty() && !self.messages.is_empty() {
            self.replies.push(self.messages.len() as u32);
        }
        self.messages.push(message);
    }

    /// What comes before a reply.
    fn prompt(&self, turn: usize) -> &[Message] {
        &self.messages[..self.replies[turn] as usize]
    }

    /// The text of a reply; empty where it is not known.
    fn reply(&self, turn: usize) -> &str {
        self.messages.get(self.replies[turn] as usize).map_or("", |m| &m.text)
    }

    /// Length of a reply whose text is not known.
    fn reply_tokens(&self, turn: usize) -> Option<i32> {
        self.output_tokens.filter(|_| self.replies[turn] as usize == self.messages.len())
    }
}

/// Calls `sink` with the requests of all conversations, in batches; it says whether it wants more.
///
/// # Errors
/// Those of `sink`; a prompt of more than 2 GiB.
pub fn requests(
    conversations: &[Conversation],
    mut sink: impl FnMut(RecordBatch) -> Result<ControlFlow<()>>,
) -> Result<()> {
    /// A batch is written once it has so many bytes of text, or rows.
    const BYTES: usize = 16 << 20;
    const ROWS: usize = 1 << 14;
    let turns = conversations.iter().map(|c| c.replies.len()).max().unwrap_or(0);
    let mut batch: Vec<(&Conversation, usize)> = Vec::new();
    let mut bytes = 0;
    for turn in 0..turns {
        for conversation in conversations.iter().filter(|c| c.replies.len() > turn) {
            bytes += conversation.prompt(turn).iter().map(|m| m.text.len()).sum::<usize>();
            bytes += conversation.reply(turn).len();
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
    let list =
        || ListBuilder::new(StringBuilder::new()).with_field(Arc::new(Field::new_list_field(DataType::Utf8, false)));
    let (mut input, mut roles) = (list(), list());
    let mut images = Vec::with_capacity(batch.len());
    for (conversation, turn) in batch {
        let prompt = conversation.prompt(*turn);
        prompt.iter().for_each(|m| input.values().append_value(&m.text));
        input.append(true);
        if !conversation.plain {
            prompt.iter().for_each(|m| roles.values().append_value(m.from.name()));
        }
        roles.append(!conversation.plain);
        images.push(prompt.iter().map(|m| m.images).sum::<u32>());
    }
    let texts = |f: &dyn for<'c> Fn(&'c Conversation) -> Option<&'c str>| -> ArrayRef {
        Arc::new(batch.iter().map(|(c, _)| f(c)).collect::<StringArray>())
    };
    let counts = |f: &dyn Fn(&Conversation, usize) -> Option<i32>| -> ArrayRef {
        Arc::new(batch.iter().map(|(c, turn)| f(c, *turn)).collect::<Int32Array>())
    };
    let times = |f: &dyn Fn(&Sent) -> Option<i64>| -> ArrayRef {
        Arc::new(batch.iter().map(|(c, _)| c.sent.as_ref().and_then(f)).collect::<Int64Array>())
    };
    let seen = images.iter().map(|n| i32::try_from(*n).ok().filter(|n| *n > 0));
    let columns: [(&str, ArrayRef); 14] = [
        ("request_id", Arc::new(Int64Array::from(vec![0; batch.len()]))),
        ("arrival_ns", times(&|sent| Some(sent.arrival_ns))),
        ("observed_ttft_ns", times(&|sent| sent.ttft_ns)),
        ("observed_e2e_ns", times(&|sent| sent.e2e_ns)),
        ("observed_status", texts(&|c| c.sent.as_ref().map(|sent| sent.status.as_str()))),
        ("session_id", texts(&|c| c.id.as_deref())),
        ("turn", counts(&|c, turn| c.id.is_some().then_some(turn as i32))),
        ("model", texts(&|c| c.model.as_deref())),
        ("max_tokens", counts(&|c, _| c.max_tokens)),
        ("input", Arc::new(input.finish())),
        ("roles", Arc::new(roles.finish())),
        ("images", Arc::new(seen.collect::<Int32Array>())),
        ("output", Arc::new(batch.iter().map(|(c, turn)| Some(c.reply(*turn))).collect::<StringArray>())),
        ("output_tokens", counts(&|c, turn| c.reply_tokens(turn))),
    ];
    table::requests::assemble(&Layout::Texts.schema(), batch.len(), columns)
        .map_err(|e| Failure::stage("trace::arrow", e.to_string()))
}
