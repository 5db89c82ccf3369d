//! LLMServingSim: JSON lines `{"input_toks", "output_toks", "arrival_time_ns", "input_tok_ids", "output_tok_ids"}`, or, for
//! agents, `{"session_id", "arrival_time_ns", "sub_requests": [{"input_toks", "output_toks", "tool_duration_ns"}]}`; a file
//! may have both.
//!
//! The numbers of the tokens of prompt and reply make the block hashes, of 16 tokens unless the user says otherwise;
//! workloads without them have none.
//!
//! The requests of an agent follow each other, each `tool_duration_ns` of the one before after its end: that is `think_ns`.
//! The first arrives at the agent's time, the others stand where they would be sent if requests took no time. An agent
//! without `session_id` is named after its line.

use super::chunk::Text;
use super::extra::{Extra, key};
use super::fields::{BLOCK_TOKENS, Fields, Links, Role, Rows};
use super::json::{Scanner, Value};
use super::{Fault, Layout, Parsed, jsonl, number};
use crate::diag::Result;
use crate::spec::TimeUnit;

pub const NAMES: [&str; 3] = ["input_toks", "output_toks", "arrival_time_ns"];
pub const STEPS: &str = "sub_requests";
const TOOL: &str = "tool_duration_ns";

/// `agents`: the file has some.
pub fn fields(block_tokens: Option<u32>, agents: bool) -> Fields {
    let fields = Fields::new(Layout::Tokens, TimeUnit::Ns)
        .required(Role::InputTokens, NAMES[0])
        .required(Role::OutputTokens, NAMES[1])
        .required(Role::Arrival, NAMES[2])
        .optional(Role::InputIds, "input_tok_ids")
        .optional(Role::OutputIds, "output_tok_ids")
        .optional(Role::Session, "session_id")
        .block_tokens(block_tokens, Some(BLOCK_TOKENS));
    if agents { fields.links(Links::Names) } else { fields }
}

/// The rows of a chunk.
pub fn parse(fields: &Fields, text: &Text) -> Result<Parsed> {
    let names = jsonl::Names::new(fields);
    jsonl::lines(fields, text, |line, number, rows| {
        if line.contains(STEPS) {
            let agent = agent(line)?;
            return agent.write(number, rows);
        }
        names.row(line, rows)?;
        rows.commit(number)
    })
}

struct Agent {
    session: Option<String>,
    arrival_ns: i64,
    steps: Vec<Step>,
}

/// A request of an agent.
#[derive(Default)]
struct Step {
    at: usize,
    input: Option<i32>,
    output: Option<i32>,
    tool_ns: i64,
    input_ids: Vec<u32>,
    output_ids: Vec<u32>,
    has_ids: bool,
}

fn agent(line: &str) -> std::result::Result<Agent, Fault> {
    let (mut session, mut arrival, mut steps) = (None, None, Vec::new());
    let mut scanner = Scanner::new(line);
    scanner.members(|scanner, key| match key.as_ref() {
        "session_id" => {
            let at = scanner.value_at();
            session = match scanner.value()? {
                Value::Text(name) => Some(name.into_owned()),
                Value::Number(name) => Some(name.to_string()),
                Value::Null => None,
                _ => return Err(Fault::new(at, "`session_id` is not text: expected the name of the session")),
            };
            Ok(())
        }
        "arrival_time_ns" => {
            let time = |text: &str| number::time_ns(text, TimeUnit::Ns);
            arrival = Some(value(scanner, NAMES[2], time)?);
            Ok(())
        }
        STEPS => scanner.items(|scanner| {
            steps.push(step(scanner)?);
            Ok(())
        }),
        _ => scanner.skip(),
    })?;
    scanner.end()?;
    let arrival_ns = arrival.ok_or_else(|| Fault::new(0, format!("missing `{}`", NAMES[2])))?;
    Ok(Agent { session, arrival_ns, steps })
}

/// A number, also one in quotes.
fn value<T>(
    scanner: &mut Scanner,
    name: &str,
    read: impl Fn(&str) -> std::result::Result<T, String>,
) -> std::result::Result<T, Fault> {
    let at = scanner.value_at();
    let wrong = |reason: String| Fault::new(at, format!("`{name}` {reason}"));
    match scanner.value()? {
        Value::Number(text) => read(text).map_err(wrong),
        Value::Text(text) => read(&text).map_err(wrong),
        _ => Err(wrong("is not a number".to_string())),
    }
}

fn step(scanner: &mut Scanner) -> std::result::Result<Step, Fault> {
    let mut step = Step { at: scanner.value_at(), ..Step::default() };
    scanner.members(|scanner, key| {
        let at = scanner.value_at();
        match key.as_ref() {
            "input_toks" => step.input = Some(value(scanner, NAMES[0], number::length)?),
            "output_toks" => step.output = Some(value(scanner, NAMES[1], number::length)?),
            TOOL => step.tool_ns = value(scanner, TOOL, |text| number::time_ns(text, TimeUnit::Ns))?,
            "input_tok_ids" | "output_tok_ids" => {
                step.has_ids |= key == "input_tok_ids";
                let ids = if key == "input_tok_ids" { &mut step.input_ids } else { &mut step.output_ids };
                scanner.items(|scanner| {
                    ids.push(value(scanner, &key, |text| number::whole(text, u64::from(u32::MAX)))? as u32);
                    Ok(())
                })?;
            }
            _ => scanner.skip()?,
        }
        let (ids, of, said) = match key.as_ref() {
            "input_tok_ids" => (step.input_ids.len(), NAMES[0], step.input),
            "output_tok_ids" => (step.output_ids.len(), NAMES[1], step.output),
            _ => return Ok(()),
        };
        match said {
            Some(said) if ids != said as usize => {
                Err(Fault::new(at, format!("`{key}` has {ids} items: expected {said}, as `{of}` says")))
            }
            _ => Ok(()),
        }
    })?;
    for (name, there) in [(NAMES[0], step.input), (NAMES[1], step.output)] {
        there.ok_or_else(|| Fault::new(step.at, format!("a request without `{name}`")))?;
    }
    Ok(step)
}

impl Agent {
    fn write(self, line: u64, rows: &mut Rows) -> std::result::Result<(), Fault> {
        let session = self.session.unwrap_or_else(|| format!("line {line}"));
        let name = |i: usize| key(format!("{line}/{i}").as_bytes());
        let (mut arrival_ns, mut tool_ns) = (self.arrival_ns, 0);
        for (i, step) in self.steps.into_iter().enumerate() {
            arrival_ns = i64::min(arrival_ns.saturating_add(tool_ns), i64::MAX / 2);
            rows.text(Role::Session, &session, step.at)?;
            rows.put(Role::Turn, i as i64);
            rows.put(Role::Arrival, arrival_ns);
            rows.put(Role::InputTokens, i64::from(step.input.unwrap_or(0)));
            rows.put(Role::OutputTokens, i64::from(step.output.unwrap_or(0)));
            rows.put(Role::Extra(Extra::Request), name(i));
            if i > 0 {
                rows.put(Role::Think, tool_ns);
                rows.parents([name(i - 1)]);
            }
            if step.has_ids {
                rows.ids(step.input_ids, step.output_ids);
            }
            rows.commit(line)?;
            tool_ns = step.tool_ns;
        }
        Ok(())
    }
}
