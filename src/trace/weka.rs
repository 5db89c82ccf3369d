//! Traces of coding agents, as WEKA's KV cache tester has them (published as `semianalysisai/cc-traces-weka-*`): JSON lines,
//! a conversation each, `{"id", "block_size", "hash_id_scope", "requests": [{"t", "in", "out", "hash_ids", "model",
//! "api_time", "ttft", ...}]}`; or a request each, `{"id", "t", "in", "out", "hash_ids"}`.
//!
//! `t` is in seconds from the start of the conversation: conversations begin together, as a file does not say when each
//! began. `in` and `out` are tokens; `hash_ids` names blocks of the prompt, of 64 tokens unless `block_size` says otherwise,
//! the last of which need not be full. Identifiers are those of one conversation (`hash_id_scope: local`), so that equal
//! ones of two conversations are different blocks, unless the scope is `global`.
//!
//! An entry of type `subagent` has requests of its own. Their times are those of the conversation, or, where the first is
//! before the entry's, counted from the entry's. They are requests of the same session, with `subagent_type` as class.
//! Who waits for whom follows from `t` and `api_time` (how long a request took, s): see [`super::agents`]. Where `api_time` is
//! missing, the `think_time` of the request after it says when it was done. `ttft` and `api_time` are kept as observed.

use super::agents::{self, Call};
use super::chunk::Text;
use super::extra::{Extra, key};
use super::fields::{Fields, Links, Role, Rows, content};
use super::json::{Scanner, Value};
use super::{Fault, Layout, Parsed, jsonl, number};
use crate::diag::Result;
use crate::spec::TimeUnit;

/// Tokens per block.
const BLOCK_TOKENS: u32 = 64;
/// Of a request.
const NAMES: [&str; 3] = ["t", "in", "out"];

/// Whether a row with these keys is a conversation, or one of its requests.
pub fn fits(has: impl Fn(&str) -> bool) -> bool {
    let conversation = has("requests") && ["block_size", "hash_id_scope", "models"].into_iter().any(&has);
    has("id") && (conversation || NAMES.into_iter().chain(["hash_ids"]).all(has))
}

pub fn fields(block_tokens: Option<u32>) -> Fields {
    Fields::new(Layout::Tokens, TimeUnit::S)
        .links(Links::Names)
        .required(Role::Arrival, NAMES[0])
        .required(Role::InputTokens, NAMES[1])
        .required(Role::OutputTokens, NAMES[2])
        .optional(Role::Session, "id")
        .optional(Role::Turn, "turn")
        .optional(Role::Think, "think_time")
        .optional(Role::Class, "subagent_type")
        .optional(Role::Model, "model")
        .optional(Role::Hashes, "hash_ids")
        .optional(Role::BlockTokens, "block_size")
        .optional(Role::Extra(Extra::ObservedTtft), "ttft")
        .optional(Role::Extra(Extra::ObservedE2e), "api_time")
        .block_tokens(block_tokens, Some(BLOCK_TOKENS))
}

/// The rows of a chunk.
pub fn parse(fields: &Fields, text: &Text) -> Result<Parsed> {
    jsonl::lines(fields, text, |line, number, rows| {
        let mut scanner = Scanner::new(line);
        let conversation = entry(&mut scanner)?;
        scanner.end()?;
        write(conversation, fields, number, rows)
    })
}

/// A request, a subagent, or a conversation.
#[derive(Default)]
struct Entry {
    at: usize,
    id: String,
    block_tokens: Option<i32>,
    global: bool,
    class: String,
    model: String,
    t_ns: Option<i64>,
    input: Option<i32>,
    output: Option<i32>,
    took_ns: Option<i64>,
    think_ns: Option<i64>,
    ttft_ns: Option<i64>,
    hashes: Option<Vec<u64>>,
    requests: Option<Vec<Entry>>,
    quoted: u64,
}

fn entry(scanner: &mut Scanner) -> std::result::Result<Entry, Fault> {
    let mut entry = Entry { at: scanner.value_at(), ..Entry::default() };
    scanner.members(|scanner, name| {
        let at = scanner.value_at();
        let wrong = |reason: String| Fault::new(at, format!("`{name}` {reason}"));
        let value = match name.as_ref() {
            "requests" | "hash_ids" | "id" | "block_size" | "hash_id_scope" | "subagent_type" | "model" | "t"
            | "in" | "out" | "api_time" | "think_time" | "ttft" => scanner.value()?,
            _ => return scanner.skip(),
        };
        let text = match (name.as_ref(), value) {
            (_, Value::Null) => return Ok(()),
            ("requests", Value::List) => {
                let all = entry.requests.get_or_insert_default();
                return scanner.items(|scanner| {
                    all.push(self::entry(scanner)?);
                    Ok(())
                });
            }
            ("hash_ids", Value::List) => {
                let all = entry.hashes.get_or_insert_default();
                return scanner.items(|scanner| {
                    let at = scanner.value_at();
                    let item = match scanner.value()? {
                        Value::Number(text) => number::whole(text, u64::MAX),
                        _ => Err("is not a whole number".to_string()),
                    };
                    all.push(item.map_err(|r| Fault::new(at, format!("`hash_ids` has an item that {r}")))?);
                    Ok(())
                });
            }
            ("requests" | "hash_ids", _) => return Err(wrong("is not a list".to_string())),
            (_, Value::Number(text)) => std::borrow::Cow::Borrowed(text),
            (_, Value::Text(text)) => {
                entry.quoted += u64::from(NAMES.contains(&name.as_ref()) && text.parse::<f64>().is_ok());
                text
            }
            _ => return Err(wrong("is not a single value".to_string())),
        };
        let time = || number::time_ns(&text, TimeUnit::S).map(Some).map_err(&wrong);
        match name.as_ref() {
            "id" => entry.id = text.into_owned(),
            "subagent_type" => entry.class = text.into_owned(),
            "model" => entry.model = text.into_owned(),
            "hash_id_scope" => match text.as_ref() {
                "local" => entry.global = false,
                "global" => entry.global = true,
                _ => return Err(wrong(format!("is `{}`: expected local or global", number::shorten(&text)))),
            },
            "block_size" => entry.block_tokens = Some(number::tokens(&text).map_err(wrong)?),
            "in" => entry.input = Some(number::length(&text).map_err(wrong)?),
            "out" => entry.output = Some(number::length(&text).map_err(wrong)?),
            "t" => entry.t_ns = time()?,
            "api_time" => entry.took_ns = time()?,
            "think_time" => entry.think_ns = time()?,
            _ => entry.ttft_ns = time()?,
        }
        Ok(())
    })?;
    Ok(entry)
}

/// A request of a conversation, in its place.
struct Request {
    entry: Entry,
    stream: usize,
    start_ns: i64,
    class: String,
}

/// The requests of `entries`, a stream of their own each, with those of the streams that they began.
fn flatten(
    entries: Vec<Entry>,
    class: &str,
    shift_ns: i64,
    by: Option<usize>,
    began: &mut Vec<Option<usize>>,
    all: &mut Vec<Request>,
) -> std::result::Result<(), Fault> {
    let stream = began.len();
    began.push(by);
    for mut entry in entries {
        let missing = |name: &str| Fault::new(entry.at, format!("a request without `{name}`"));
        let t_ns = entry.t_ns.ok_or_else(|| missing(NAMES[0]))?;
        let start_ns = t_ns.saturating_add(shift_ns).min(i64::MAX / 2);
        let Some(inner) = entry.requests.take() else {
            entry.input.ok_or_else(|| missing(NAMES[1]))?;
            entry.output.ok_or_else(|| missing(NAMES[2]))?;
            all.push(Request { entry, stream, start_ns, class: class.to_string() });
            continue;
        };
        let first = inner.iter().filter_map(|e| e.t_ns).min();
        let shift_ns = if first.is_some_and(|first| first < t_ns) { start_ns } else { shift_ns };
        flatten(inner, &entry.class, shift_ns, Some(stream), began, all)?;
    }
    Ok(())
}

fn write(mut top: Entry, fields: &Fields, line: u64, rows: &mut Rows) -> std::result::Result<(), Fault> {
    if top.id.is_empty() {
        return Err(Fault::new(0, "missing `id`: expected the name of the conversation"));
    }
    let (id, global, block_tokens) = (std::mem::take(&mut top.id), top.global, top.block_tokens);
    let alone = top.requests.is_none();
    let entries = top.requests.take().unwrap_or_else(|| vec![top]);
    let (mut began, mut all) = (Vec::new(), Vec::new());
    flatten(entries, "", 0, None, &mut began, &mut all)?;
    // In the order in which they were sent; those of one instant as they stand.
    all.sort_by_key(|r| r.start_ns);
    let size = match fields.block_tokens {
        Some(size) if fields.block_tokens_fixed => size as i32,
        default => block_tokens.or(default.map(|n| n as i32)).unwrap_or(BLOCK_TOKENS as i32),
    };
    for Request { entry, .. } in &all {
        let (blocks, input) = (entry.hashes.as_ref().map_or(0, Vec::len), entry.input.unwrap_or(0));
        let most = (input as usize).div_ceil(size.max(1) as usize);
        if blocks > most {
            let reason = format!(
                "`hash_ids` has {blocks} items: expected at most {most}, of {input} tokens in blocks of {size}"
            );
            return Err(Fault::new(entry.at, reason));
        }
    }
    let ends = ends(&all, began.len());
    let calls: Vec<Call> = (all.iter().zip(&ends))
        .map(|(r, end_ns)| Call { stream: r.stream, start_ns: r.start_ns, end_ns: *end_ns })
        .collect();
    let waits = agents::waits(&calls, &began);
    let salt = content(id.as_bytes());
    let name = |place: usize| key(format!("{line}/{place}").as_bytes());
    for (i, (Request { entry, start_ns, class, .. }, waits)) in all.into_iter().zip(waits).enumerate() {
        rows.text(Role::Session, &id, entry.at)?;
        rows.put(Role::Arrival, start_ns);
        rows.put(Role::InputTokens, i64::from(entry.input.unwrap_or(0)));
        rows.put(Role::OutputTokens, i64::from(entry.output.unwrap_or(0)));
        if !alone {
            rows.put(Role::Turn, i as i64);
            rows.put(Role::Extra(Extra::Request), name(i));
        }
        if !waits.on.is_empty() {
            rows.put(Role::Think, waits.think_ns);
            rows.parents(waits.on.into_iter().map(name));
        }
        for (role, text) in [(Role::Class, &class), (Role::Model, &entry.model)] {
            if !text.is_empty() {
                rows.text(role, text, entry.at)?;
            }
        }
        for (extra, time) in [(Extra::ObservedTtft, entry.ttft_ns), (Extra::ObservedE2e, entry.took_ns)] {
            time.into_iter().for_each(|ns| rows.put(Role::Extra(extra), ns));
        }
        if let Some(hashes) = entry.hashes {
            block_tokens.into_iter().for_each(|n| rows.put(Role::BlockTokens, i64::from(n)));
            rows.blocks(hashes.into_iter().map(|hash| if global { hash } else { local(salt, hash) }));
        }
        rows.quoted_numbers(entry.quoted);
        rows.commit(line)?;
    }
    Ok(())
}

/// When each request was done: its start where nothing says more.
fn ends(all: &[Request], streams: usize) -> Vec<i64> {
    let mut next: Vec<Option<&Request>> = vec![None; streams];
    let mut ends = vec![0; all.len()];
    for (i, request) in all.iter().enumerate().rev() {
        let after = next[request.stream].replace(request);
        let thought = after.and_then(|a| Some(a.start_ns - a.entry.think_ns?));
        let end = request.entry.took_ns.map(|took| request.start_ns.saturating_add(took)).or(thought);
        ends[i] = end.unwrap_or(request.start_ns).max(request.start_ns);
    }
    ends
}

/// The identifier of a block of the conversation with this salt: different ones stay different (the steps of splitmix64 can
/// be undone), those of other conversations are elsewhere.
fn local(salt: u64, hash: u64) -> u64 {
    let mut x = hash ^ salt;
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31) ^ salt.rotate_left(32)
}
