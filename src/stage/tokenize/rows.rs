//! Prompts and replies to token counts and hashes of blocks, many at once.
//!
//! ```text
//! render (template) ──► cut (special tokens) ──► distinct parts ──► seen lately? ──► encode ──► put together, hash
//! ```
//!
//! Every part is tokenized once, whichever turns have it; long ones in stretches, so that one long prompt keeps all
//! threads busy. Runs on the threads of the pool that it is called on.
//!
//! # What a server sees
//!
//! Without a template, every message is tokenized by itself and their tokens follow each other; the reply comes after
//! them.
//!
//! With one, the prompt is what the template makes of the messages, up to where the reply begins, tokenized as one
//! text. The reply is what the template makes of the same messages and the reply, less the prompt, up to its last
//! special token: the end of the turn, which the model writes, but not the line feed after it, which the next turn
//! brings. Its tokens are those that it has behind the prompt, where those begin with the tokens of the prompt, else
//! those that it has alone. So the next turn, which renders prompt and reply again, has the same tokens up to there.
//! Some templates write a past reply otherwise than a prompt goes on (they leave out its reasoning, say): then the
//! reply is its text and the token that ends it, and the next turn shares with this one what a server would find
//! shared.
//!
//! # Blocks
//!
//! The tokens of prompt and reply are cut into blocks of `block_tokens`; every full block has a hash,
//! `chain(hash of the block before it, content)`. `content` is the first 8 bytes, little endian, of the BLAKE3 hash of
//! the token numbers as 4 bytes each, little endian. [`pipe_kernel::workload::chain`] is specified there. Before the
//! first block stands 0, or, where the request names a model or an adapter, a hash of their names: equal texts have
//! other keys and values there (vLLM's `extra_keys` of a block, `vllm/v1/core/kv_cache_utils.py`). Two requests share a
//! prefix of cached blocks exactly as far as their hashes agree.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, IntoParallelRefIterator, ParallelIterator};

use super::cache::{self, Cache, Key, Tokens};
use super::chat::{Chat, Message};
use super::encoder::{Encoder, Part, Piece};

/// Everything that tokenizing needs, for all rows of a table.
pub struct Tokenizer {
    encoder: Encoder,
    chat: Option<Chat>,
    cache: Cache,
    /// Tokens per hashed block, at least 1.
    block_tokens: usize,
    /// Tokens that end a text behind which white space may stand.
    ends: Vec<String>,
}

/// A prompt and its reply.
#[derive(Clone, Debug, Default)]
pub struct Request<'a> {
    /// Oldest first.
    pub messages: Vec<&'a str>,
    /// Of each message, where they are known: see [`roles`].
    pub roles: Vec<Option<&'a str>>,
    /// `None` where only its length is known, or not even that.
    pub reply: Option<&'a str>,
    pub model: Option<&'a str>,
    pub adapter: Option<&'a str>,
    /// Of what is after the prompt, the tokens are not known: nothing there is hashed.
    pub prompt_only: bool,
}

/// What became of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub input: Vec<u32>,
    pub output: Vec<u32>,
    pub hashes: Vec<u64>,
    /// The template writes the reply otherwise once it is past.
    pub rewritten: bool,
}

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its place among those given.
    pub request: usize,
    pub kind: FaultKind,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The template cannot render it.
    Template,
    /// The tokenizer cannot tokenize it.
    Text,
}

/// What a request is as text.
enum Rendered<'a> {
    Messages(&'a Request<'a>),
    /// Prompt and reply as one text, and how many bytes of it are the prompt.
    Whole(String, usize),
    Apart {
        prompt: String,
        reply: String,
        rewritten: bool,
    },
}

/// The parts of a request.
#[derive(Default)]
struct Plan<'a> {
    prompt: Vec<Step<'a>>,
    joint: Option<Joint<'a>>,
    /// What comes after, or the whole reply.
    reply: Vec<Step<'a>>,
    rewritten: bool,
}

enum Step<'a> {
    Special(u32),
    Text(Keyed<'a>),
}

/// A text, and what it is known by: texts are compared by their keys only.
struct Keyed<'a> {
    key: Key,
    piece: Piece<'a>,
}

impl<'a> Keyed<'a> {
    fn new(piece: Piece<'a>) -> Keyed<'a> {
        Keyed { key: cache::key(&piece), piece }
    }
}

fn steps(parts: Vec<Part>) -> Vec<Step> {
    let step = |part| match part {
        Part::Special(special) => Step::Special(special),
        Part::Text(piece) => Step::Text(Keyed::new(piece)),
    };
    parts.into_iter().map(step).collect()
}

/// Where the prompt ends and the reply begins without a special token between them.
struct Joint<'a> {
    /// The end of the prompt alone, and with the beginning of the reply.
    head: Key,
    both: Keyed<'a>,
    /// The beginning of the reply alone.
    tail: Piece<'a>,
}

impl Tokenizer {
    /// `block_tokens` is at least 1.
    pub fn new(encoder: Encoder, chat: Option<Chat>, specials: &[String], block_tokens: u32) -> Tokenizer {
        let mut ends: Vec<String> = encoder.specials().iter().map(|s| s.text.clone()).collect();
        ends.extend(specials.iter().cloned());
        Tokenizer { encoder, chat, cache: Cache::default(), block_tokens: block_tokens.max(1) as usize, ends }
    }

    /// The rows of some requests, in their order. They do not depend on what was tokenized before, nor on threads.
    ///
    /// # Errors
    /// The first request that cannot be tokenized.
    pub fn rows(&self, requests: &[Request]) -> Result<Vec<Row>, Fault> {
        let rendered: Vec<Result<Rendered, String>> = requests.par_iter().map(|r| self.render(r)).collect();
        let mut texts = Vec::with_capacity(rendered.len());
        for (request, text) in rendered.into_iter().enumerate() {
            texts.push(text.map_err(|reason| Fault { request, kind: FaultKind::Template, reason })?);
        }
        let plans: Vec<Plan> = texts.par_iter().map(|text| self.plan(text)).collect();
        let known = self.known(&plans)?;
        let made: Vec<Result<Row, String>> =
            (0..plans.len()).into_par_iter().map(|i| self.row(&requests[i], &plans[i], &known)).collect();
        let fault = |request, reason| Fault { request, kind: FaultKind::Text, reason };
        made.into_iter().enumerate().map(|(i, row)| row.map_err(|reason| fault(i, reason))).collect()
    }

    fn render<'a>(&self, request: &'a Request<'a>) -> Result<Rendered<'a>, String> {
        let Some(chat) = &self.chat else { return Ok(Rendered::Messages(request)) };
        let roles = roles(request);
        let mut messages: Vec<Message> =
            roles.into_iter().zip(&request.messages).map(|(role, content)| Message { role, content }).collect();
        let prompt = chat.render(&messages, true)?;
        let Some(reply) = request.reply else {
            return Ok(Rendered::Apart { prompt, reply: String::new(), rewritten: false });
        };
        messages.push(Message { role: "assistant", content: reply });
        let mut whole = chat.render(&messages, false)?;
        if !whole.starts_with(&prompt) {
            let end = chat.eos.as_deref().unwrap_or_default();
            return Ok(Rendered::Apart { prompt, reply: format!("{reply}{end}"), rewritten: true });
        }
        let made = whole[prompt.len()..].trim_end();
        if self.ends.iter().any(|end| made.ends_with(end.as_str())) {
            whole.truncate(prompt.len() + made.len());
        }
        Ok(Rendered::Whole(whole, prompt.len()))
    }

    fn plan<'a>(&self, text: &'a Rendered) -> Plan<'a> {
        match text {
            Rendered::Messages(request) => Plan {
                prompt: request.messages.iter().flat_map(|message| steps(self.encoder.cut(message))).collect(),
                reply: request.reply.map(|reply| steps(self.encoder.cut(reply))).unwrap_or_default(),
                ..Plan::default()
            },
            Rendered::Apart { prompt, reply, rewritten } => Plan {
                prompt: steps(self.encoder.cut(prompt)),
                reply: steps(self.encoder.cut(reply)),
                joint: None,
                rewritten: *rewritten,
            },
            Rendered::Whole(text, prompt) => self.divide(text, *prompt),
        }
    }

    /// Prompt and reply of a text whose first `end` bytes are the prompt.
    fn divide<'a>(&self, text: &'a str, end: usize) -> Plan<'a> {
        let mut plan = Plan::default();
        let (mut at, mut before) = (0, None);
        for part in self.encoder.cut(text) {
            let length = match part {
                Part::Special(special) => self.encoder.specials()[special as usize].text.len(),
                Part::Text(piece) => piece.text.len(),
            };
            let next = at + length;
            let side = if next <= end { &mut plan.prompt } else { &mut plan.reply };
            match part {
                Part::Text(both) if at < end && end < next => {
                    let head = Keyed::new(self.encoder.piece(&text[at..end], before, None));
                    let tail = Piece { text: &text[end..next], before: None, after: both.after };
                    plan.joint = Some(Joint { head: head.key, both: Keyed::new(both), tail });
                    plan.prompt.push(Step::Text(head));
                }
                // A token across the end of the prompt is one of neither.
                Part::Special(_) if at < end && end < next => {
                    let prompt = steps(self.encoder.cut(&text[..end]));
                    return Plan { prompt, reply: steps(self.encoder.cut(&text[end..])), ..Plan::default() };
                }
                Part::Text(piece) => side.push(Step::Text(Keyed::new(piece))),
                Part::Special(special) => side.push(Step::Special(special)),
            }
            at = next;
            before = if let Part::Special(special) = part { Some(special) } else { None };
        }
        plan
    }

    /// The tokens of every text, each made once. The map is looked up, never walked: its order reaches no output.
    fn known(&self, plans: &[Plan]) -> Result<HashMap<Key, Tokens>, Fault> {
        let mut seen: HashSet<Key> = HashSet::new();
        let mut pieces: Vec<(&Keyed, usize)> = Vec::new();
        for (request, plan) in plans.iter().enumerate() {
            let texts = plan.prompt.iter().chain(&plan.reply).filter_map(|step| match step {
                Step::Text(text) => Some(text),
                Step::Special(_) => None,
            });
            let texts = texts.chain(plan.joint.iter().map(|joint| &joint.both));
            pieces.extend(texts.filter(|text| seen.insert(text.key)).map(|text| (text, request)));
        }
        let kept: Vec<Option<Tokens>> = pieces.par_iter().map(|(text, _)| self.cache.get(text.key)).collect();
        let mut work: Vec<(usize, Range<usize>)> = Vec::new();
        for (i, (text, _)) in pieces.iter().enumerate().filter(|(i, _)| kept[*i].is_none()) {
            work.extend(self.encoder.stretches(&text.piece).into_iter().map(|range| (i, range)));
        }
        // One at a time: texts are of unequal length, and a thread that is done takes the next.
        let made: Vec<Result<Vec<u32>, String>> = (work.par_iter().with_max_len(1))
            .map(|(i, range)| self.encoder.encode(&pieces[*i].0.piece, range.clone()))
            .collect();
        let mut known: HashMap<Key, Tokens> = HashMap::with_capacity(pieces.len());
        let mut parts = work.iter().zip(made).peekable();
        for (i, (text, request)) in pieces.iter().enumerate() {
            if let Some(tokens) = &kept[i] {
                known.insert(text.key, tokens.clone());
                continue;
            }
            let mut ids = Vec::new();
            while let Some((_, part)) = parts.next_if(|((of, _), _)| *of == i) {
                ids.extend(part.map_err(|reason| unfit(text.piece.text, *request, &reason))?);
            }
            let ids: Tokens = ids.into();
            self.cache.insert(text.key, ids.clone());
            known.insert(text.key, ids);
        }
        Ok(known)
    }

    fn row(&self, request: &Request, plan: &Plan, known: &HashMap<Key, Tokens>) -> Result<Row, String> {
        let put = |steps: &[Step], ids: &mut Vec<u32>| {
            for step in steps {
                match step {
                    Step::Special(special) => ids.push(self.encoder.special(*special)),
                    Step::Text(text) => ids.extend_from_slice(&known[&text.key]),
                }
            }
        };
        let (mut input, mut output) = (Vec::new(), Vec::new());
        put(&plan.prompt, &mut input);
        if let Some(joint) = &plan.joint {
            match known[&joint.both.key].strip_prefix(&*known[&joint.head]) {
                Some(rest) => output.extend_from_slice(rest),
                None => {
                    for range in self.encoder.stretches(&joint.tail) {
                        output.extend(self.encoder.encode(&joint.tail, range)?);
                    }
                }
            }
        }
        put(&plan.reply, &mut output);
        let mut hashes = Hashes::new(request, self.block_tokens);
        hashes.push(&input);
        if !request.prompt_only {
            hashes.push(&output);
        }
        Ok(Row { input, output, hashes: hashes.made, rewritten: plan.rewritten })
    }
}

fn unfit(text: &str, request: usize, reason: &str) -> Fault {
    let start: String = text.chars().take(60).collect();
    let reason = format!("cannot tokenize the text that begins with {start:?}: {reason}");
    Fault { request, kind: FaultKind::Text, reason }
}

/// Who says each message, as templates name them.
///
/// Where that is not known, users and assistants take turns, and the last message is the user's; where that leaves the
/// first message of several to the assistant, it is the system's.
fn roles<'a>(request: &Request<'a>) -> Vec<&'a str> {
    let count = request.messages.len();
    let guess = |i: usize| match (count - 1 - i) % 2 {
        0 => "user",
        _ if i == 0 => "system",
        _ => "assistant",
    };
    (0..count).map(|i| request.roles.get(i).copied().flatten().unwrap_or_else(|| guess(i))).collect()
}

/// The chained hashes of the full blocks of some tokens.
struct Hashes {
    made: Vec<u64>,
    last: u64,
    block_tokens: usize,
    /// The tokens of the block that is not full, 4 bytes each.
    open: Vec<u8>,
}

impl Hashes {
    fn new(request: &Request, block_tokens: usize) -> Hashes {
        let last = root(request.model, request.adapter);
        Hashes { made: Vec::new(), last, block_tokens, open: Vec::with_capacity(4 * block_tokens) }
    }

    fn push(&mut self, ids: &[u32]) {
        for id in ids {
            self.open.extend(id.to_le_bytes());
            if self.open.len() == 4 * self.block_tokens {
                self.last = pipe_kernel::workload::chain(self.last, first_bytes(&blake3::hash(&self.open)));
                self.made.push(self.last);
                self.open.clear();
            }
        }
    }
}

/// What stands before the first block: 0, or a hash of whose keys and values they are.
fn root(model: Option<&str>, adapter: Option<&str>) -> u64 {
    if model.is_none() && adapter.is_none() {
        return 0;
    }
    let mut hasher = blake3::Hasher::new();
    for (tag, name) in [("model", model), ("adapter", adapter)] {
        if let Some(name) = name {
            hasher.update(tag.as_bytes()).update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
        }
    }
    first_bytes(&hasher.finalize())
}

fn first_bytes(hash: &blake3::Hash) -> u64 {
    u64::from_le_bytes(hash.as_bytes().first_chunk().copied().unwrap_or_default())
}
