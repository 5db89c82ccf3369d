//! RAGPulse: JSON lines `{"timestamp", "input_length", "output_length", "hash_ids", "session_id"}`, the time in seconds from
//! the start, in quotes. `hash_ids` has the parts of the prompt, five lists: `sys_prompt`, `passages_ids`, `history`,
//! `web_search`, `user_input`, in the order of the prompt.
//!
//! How long each part is stands in files beside the trace, `1_sys_prompt.jsonl` to `5_web_search.jsonl`
//! (`{"sys_prompt_id": 8302, "token_length": 512}`). Where they are, the parts are laid one after the other, cut into blocks
//! of 16 tokens (or as the user says), and each full block is identified by the parts that it has and from where to where:
//! prompts that begin with the same parts share blocks. This is approximate in two ways. In the published trace prompts are 6
//! to 12 tokens longer than their parts, for the template around them, whose place is not known: it is taken to be the
//! end, and not hashed. And a part of equal text under another number is another part. From the first part of unknown length
//! on nothing is hashed; without the files, nothing is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::chunk::Text;
use super::fields::{BLOCK_TOKENS, Fields, Role, Rows, content};
use super::json::{Scanner, Value};
use super::mooncake::NAMES;
use super::{Fault, Layout, Parsed, Settings, jsonl, number};
use crate::diag::{self, Failure, Result};
use crate::spec::TimeUnit;

const HASHES: &str = "hash_ids";
/// Of the parts, in the order of the prompt: list in the trace, file of lengths, identifier in that file.
const PARTS: [(&str, &str, &str); 5] = [
    ("sys_prompt", "1_sys_prompt.jsonl", "sys_prompt_id"),
    ("passages_ids", "2_passages.jsonl", "passage_id"),
    ("history", "3_history.jsonl", "history_id"),
    ("web_search", "5_web_search.jsonl", "web_search_id"),
    ("user_input", "4_user_input.jsonl", "user_input_id"),
];

/// Lengths of parts, in tokens, by their identifiers, for each of [`PARTS`].
#[derive(Clone, Debug, Default)]
pub struct Lengths([HashMap<u64, u32>; 5]);

/// Whether a row with these keys is one.
pub fn fits(has: impl Fn(&str) -> bool) -> bool {
    NAMES.into_iter().all(&has) && PARTS.iter().any(|(list, ..)| has(&format!("{HASHES}.{list}")))
}

/// The files beside `trace` that say how long parts are, as far as they are there.
pub fn beside(trace: &Path) -> Vec<PathBuf> {
    PARTS.iter().map(|(_, file, _)| trace.with_file_name(file)).filter(|path| path.is_file()).collect()
}

/// # Errors
/// A file of lengths cannot be read, or has a row that cannot.
pub fn fields(settings: &Settings) -> Result<Fields> {
    let fields = Fields::new(Layout::Tokens, TimeUnit::S)
        .required(Role::Arrival, NAMES[0])
        .required(Role::InputTokens, NAMES[1])
        .required(Role::OutputTokens, NAMES[2])
        .optional(Role::Session, "session_id")
        .optional(Role::Hashes, HASHES)
        .block_tokens(settings.block_tokens, Some(BLOCK_TOKENS));
    let mut lengths = Lengths::default();
    for ((_, file, id), lengths) in PARTS.iter().zip(&mut lengths.0) {
        let path = settings.path.with_file_name(file);
        if path.is_file() {
            *lengths = read(&path, id)?;
        }
    }
    Ok(fields.parts(lengths))
}

fn read(path: &Path, id: &str) -> Result<HashMap<u64, u32>> {
    let bytes = super::read_bytes(path).map_err(|e| diag::io(path, "read", &e))?;
    let mut lengths = HashMap::new();
    for (i, line) in bytes.split(|b| *b == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty()) {
        let row = jsonl::utf8(line).and_then(|line| length(line, id));
        let (part, tokens) = row.map_err(|fault| {
            let what = format!("{} line {}: {}", path.display(), i + 1, fault.reason);
            Failure::stage("trace::parts", what)
        })?;
        lengths.insert(part, tokens);
    }
    Ok(lengths)
}

/// `{"<id>": 8302, "token_length": 512}`.
fn length(line: &str, id: &str) -> std::result::Result<(u64, u32), Fault> {
    let (mut part, mut tokens) = (None, None);
    Scanner::new(line).members(|scanner, key| {
        let slot = match key.as_ref() {
            "token_length" => &mut tokens,
            key if key == id => &mut part,
            _ => return scanner.skip(),
        };
        let at = scanner.value_at();
        let Value::Number(text) = scanner.value()? else {
            return Err(Fault::new(at, format!("`{key}` is not a number")));
        };
        *slot = Some(number::whole(text, u64::from(u32::MAX)).map_err(|r| Fault::new(at, format!("`{key}` {r}")))?);
        Ok(())
    })?;
    match (part, tokens) {
        (Some(part), Some(tokens)) => Ok((part, tokens as u32)),
        _ => Err(Fault::new(0, format!("expected {{\"{id}\": ..., \"token_length\": ...}}"))),
    }
}

/// The rows of a chunk.
pub fn parse(fields: &Fields, text: &Text) -> Result<Parsed> {
    let none = Lengths::default();
    let lengths = fields.parts.as_deref().unwrap_or(&none);
    let size = fields.block_tokens.unwrap_or(BLOCK_TOKENS).max(1);
    jsonl::lines(fields, text, |line, number, rows| {
        let mut parts: [Vec<u64>; 5] = Default::default();
        let mut scanner = Scanner::new(line);
        scanner.members(|scanner, key| {
            let role = match key.as_ref() {
                HASHES => return lists(scanner, &mut parts),
                "timestamp" => Role::Arrival,
                "input_length" => Role::InputTokens,
                "output_length" => Role::OutputTokens,
                "session_id" => Role::Session,
                _ => return scanner.skip(),
            };
            jsonl::field(scanner, role, rows)
        })?;
        scanner.end()?;
        if lengths.0.iter().any(|l| !l.is_empty()) {
            blocks(&parts, lengths, size, rows);
        }
        rows.commit(number)
    })
}

fn lists(scanner: &mut Scanner, parts: &mut [Vec<u64>; 5]) -> std::result::Result<(), Fault> {
    scanner.members(|scanner, key| {
        let Some(part) = PARTS.iter().position(|(list, ..)| *list == key) else { return scanner.skip() };
        scanner.items(|scanner| {
            let at = scanner.value_at();
            let id = match scanner.value()? {
                Value::Number(text) => number::whole(text, u64::MAX),
                _ => Err("is not a whole number".to_string()),
            };
            parts[part].push(id.map_err(|r| Fault::new(at, format!("`{HASHES}.{key}` has an item that {r}")))?);
            Ok(())
        })
    })
}

/// Identifies the full blocks of the prompt by what they have of which parts.
fn blocks(parts: &[Vec<u64>; 5], lengths: &Lengths, size: u32, rows: &mut Rows) {
    let all = (0u8..).zip(parts).flat_map(|(kind, ids)| ids.iter().map(move |id| (kind, *id)));
    let known = all.map_while(|(kind, id)| Some((kind, id, *lengths.0[usize::from(kind)].get(&id)?)));
    // Parts that were cut to the model's length are longer than the prompt.
    let mut left = rows.input_tokens() as u32;
    let (mut hashes, mut block, mut room) = (Vec::new(), Vec::new(), size);
    for (kind, id, tokens) in known {
        let mut from = 0;
        while from < tokens && left > 0 {
            let n = room.min(tokens - from).min(left);
            block.push(kind);
            block.extend(id.to_le_bytes());
            block.extend(from.to_le_bytes());
            block.extend((from + n).to_le_bytes());
            (from, room, left) = (from + n, room - n, left - n);
            if room == 0 {
                hashes.push(content(&block));
                block.clear();
                room = size;
            }
        }
    }
    rows.blocks(hashes);
}
