//! Samples of formats of a row per line, or a few: made up as those of [`super::sample`] are.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::sample::{Draw, Row, gzip, rows, seconds};
use crate::diag::Result;

/// Requests of a sample.
const ROWS: usize = 40;

/// Name and content of every sample.
pub fn files() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let [trace, system, passages, history, user, web] = ragpulse();
    Ok(vec![
        ("agentic_mooncake.jsonl", agentic_mooncake().into_bytes()),
        ("apex.jsonl", apex().into_bytes()),
        ("azure_multimodal.csv.gz", gzip(azure_multimodal().as_bytes())?),
        ("burstgpt.csv", burstgpt(true).into_bytes()),
        ("burstgpt_v1.csv", burstgpt(false).into_bytes()),
        ("dynamo.jsonl.gz", gzip(dynamo().as_bytes())?),
        ("guidellm_trace.jsonl", guidellm_trace().into_bytes()),
        ("llmservingsim.jsonl", llmservingsim().into_bytes()),
        ("llmservingsim_agents.jsonl", llmservingsim_agents().into_bytes()),
        ("ragpulse/0_trace.jsonl", trace.into_bytes()),
        ("ragpulse/1_sys_prompt.jsonl", system.into_bytes()),
        ("ragpulse/2_passages.jsonl", passages.into_bytes()),
        ("ragpulse/3_history.jsonl", history.into_bytes()),
        ("ragpulse/4_user_input.jsonl", user.into_bytes()),
        ("ragpulse/5_web_search.jsonl", web.into_bytes()),
        ("splitwise.csv", splitwise().into_bytes()),
        ("weka.jsonl", weka().into_bytes()),
    ])
}

fn lines(values: impl IntoIterator<Item = Value>) -> String {
    values.into_iter().fold(String::new(), |mut text, value| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{value}");
        text
    })
}

/// Blocks of a prompt of `tokens` that begins with what `said` has.
fn blocks(said: &mut Vec<u64>, next: &mut u64, tokens: u64, size: u64) -> Vec<u64> {
    while (said.len() as u64) < tokens.div_ceil(size) {
        said.push(*next);
        *next += 1;
    }
    said[..tokens.div_ceil(size) as usize].to_vec()
}

/// Sessions of turns with delays, and an agent that sends two requests side by side and joins them.
fn agentic_mooncake() -> String {
    const BLOCK: u64 = 512;
    let (mut draw, mut next) = (Draw::new(21), 0);
    let mut all = Vec::new();
    for (session, row) in rows(21, 8).iter().enumerate() {
        let (mut said, mut tokens) = (Vec::new(), 600 + row.input * 4);
        for turn in 0..2 + draw.below(2) {
            let mut line = json!({
                "request_id": format!("s{session}-{turn}"), "session_id": format!("s{session}"), "input_length": tokens,
                "output_length": row.output, "hash_ids": blocks(&mut said, &mut next, tokens, BLOCK),
            });
            if turn == 0 {
                line["timestamp"] = json!(row.at_us / 1000);
            } else {
                line["delay"] = json!(500 + draw.below(4000));
                line["wait_for"] = json!([format!("s{session}-{}", turn - 1)]);
            }
            tokens += row.output + draw.below(300);
            all.push(line);
        }
    }
    let step = |name: &str, on: &[&str], wait: f64| {
        json!({
            "request_id": name, "input_length": 700, "output_length": 20, "hash_ids": [9000, 9001], "wait_for": on,
            "tool_wait_ms": wait, "policy_class": "agent",
        })
    };
    all.push(json!({
        "request_id": "plan", "timestamp": 2500, "input_length": 600, "output_length": 30, "hash_ids": [9000, 9001],
        "branches": ["read", "search"],
    }));
    all.push(step("read", &["plan"], 120.5));
    all.push(step("search", &["plan"], 800.0));
    all.push(step("answer", &["read", "search"], 0.0));
    lines(all)
}

fn apex() -> String {
    lines(rows(22, ROWS).iter().enumerate().map(|(i, row)| {
        json!({
            "StartTimeOffset": row.at_us * 1000, "RequestID": format!("r{i}"), "ContextTokens": row.input,
            "GeneratedTokens": row.output,
        })
    }))
}

/// Without an end of line after the last row, like the traces of text.
fn azure_multimodal() -> String {
    let mut draw = Draw::new(23);
    let mut text = "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens".to_string();
    for row in rows(23, ROWS) {
        let images = draw.below(4).saturating_sub(1);
        let at = row.at_us;
        let (second, fraction) = (at / 1_000_000, at % 1_000_000);
        let input = row.input + images * 576;
        let _ = write!(
            text,
            "\n2024-10-15 09:{:02}:{:02}.{fraction:06},{images},{input},{}",
            second / 60,
            second % 60,
            row.output
        );
    }
    text
}

/// Times that do not begin at 0; one request in ten fails; requests of the API have no session.
fn burstgpt(sessions: bool) -> String {
    let mut draw = Draw::new(24);
    let mut text = match sessions {
        true => "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n",
        false => "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n",
    }
    .to_string();
    for row in rows(24, ROWS) {
        let model = draw.pick(&["ChatGPT", "GPT-4"]);
        let output = if draw.below(10) == 0 { 0 } else { row.output };
        let api = row.class == "batch";
        let at = seconds(row.at_us + 5_271_000_000);
        let took_ms = if output == 0 { 400 } else { 300 + output * 25 };
        let session = if api { String::new() } else { row.session.to_string() };
        let more =
            if sessions { format!("{session},{}.{:03},", took_ms / 1000, took_ms % 1000) } else { String::new() };
        let log = if api { "API log" } else { "Conversation log" };
        let _ = writeln!(text, "{at},{more}{model},{},{output},{},{log}", row.input, row.input + output);
    }
    text
}

/// Sessions of an agent with a helper each, and tools that ran.
fn dynamo() -> String {
    const BLOCK: u64 = 64;
    let (mut draw, mut next) = (Draw::new(25), 1 << 60);
    let mut events: Vec<(u64, Value)> = Vec::new();
    for (agent, row) in rows(25, 6).iter().enumerate() {
        let mut at_ms = 1_777_312_800_000 + row.at_us / 1000;
        for (part, parent) in [("main", None), ("helper", Some(format!("a{agent}:main")))] {
            let (mut said, mut tokens) = (Vec::new(), 64 + row.input);
            for step in 0..2 {
                let took_ms = 200 + row.output * 20;
                let mut context = json!({ "session_id": format!("a{agent}:{part}") });
                parent.iter().for_each(|by| context["parent_session_id"] = json!(by));
                let event = json!({
                    "schema": "dynamo.request.trace.v1", "event_type": "request_end",
                    "event_time_unix_ms": at_ms + took_ms, "event_source": "dynamo", "agent_context": context,
                    "request": {
                        "request_id": format!("{agent}-{part}-{step}"), "model": "example/model",
                        "input_tokens": tokens, "output_tokens": row.output, "request_received_ms": at_ms,
                        "total_time_ms": took_ms, "ttft_ms": 150.5,
                        "replay": {
                            "trace_block_size": BLOCK, "input_length": tokens,
                            "input_sequence_hashes": blocks(&mut said, &mut next, tokens, BLOCK),
                        },
                    },
                });
                events.push((at_ms + took_ms, event));
                tokens += row.output + draw.below(100);
                at_ms += took_ms + 50 + draw.below(900);
                events.push((
                    at_ms,
                    json!({
                        "schema": "dynamo.request.trace.v1", "event_type": "tool_end", "event_time_unix_ms": at_ms,
                        "tool": { "tool_call_id": format!("{agent}-{step}"), "tool_class": "search" },
                    }),
                ));
            }
        }
    }
    // A log has events in the order in which they ended.
    events.sort_by_key(|(at, _)| *at);
    lines(events.into_iter().map(|(_, event)| event))
}

fn guidellm_trace() -> String {
    rows(26, ROWS).iter().fold(String::new(), |mut text, Row { at_us, input, output, .. }| {
        let at = seconds(*at_us);
        let _ = writeln!(text, r#"{{"timestamp": {at}, "input_length": {input}, "output_length": {output}}}"#);
        text
    })
}

/// Prompts of which half begin alike, with the numbers of their tokens.
fn llmservingsim() -> String {
    let mut draw = Draw::new(27);
    lines(rows(27, 12).iter().map(|row| {
        let mut ids = |n: u64, shared: u64| (0..n).map(|i| if i < shared { i } else { draw.below(32_000) }).collect();
        let (input, output) = (row.input.min(60), row.output.min(30));
        let prompt: Vec<u64> = ids(input, if row.session % 2 == 0 { 32 } else { 0 });
        let reply: Vec<u64> = ids(output, 0);
        json!({
            "input_toks": input, "output_toks": output, "arrival_time_ns": row.at_us * 1000, "input_tok_ids": prompt,
            "output_tok_ids": reply,
        })
    }))
}

fn llmservingsim_agents() -> String {
    let mut draw = Draw::new(28);
    lines(rows(28, 10).iter().enumerate().map(|(i, row)| {
        let mut tokens = row.input;
        let steps: Vec<Value> = (0..1 + draw.below(4))
            .map(|_| {
                let step = json!({
                    "input_toks": tokens, "output_toks": row.output, "tool_duration_ns": 50_000_000 * draw.below(40),
                });
                tokens += row.output + draw.below(200);
                step
            })
            .collect();
        json!({ "session_id": format!("agent_{i}"), "arrival_time_ns": row.at_us * 1000, "sub_requests": steps })
    }))
}

/// The trace, and the lengths of the parts of its prompts.
fn ragpulse() -> [String; 6] {
    let mut draw = Draw::new(29);
    let lengths: Vec<u64> = (0..60).map(|_| 1 + draw.below(512)).collect();
    // Numbers of parts go on from one kind to the next: system prompts, passages, histories, inputs, results of the web.
    let kinds = [(0..6, "sys_prompt_id"), (6..24, "passage_id"), (24..32, "history_id"), (32..52, "user_input_id")];
    let kinds = kinds.into_iter().chain([(52..60, "web_search_id")]);
    let mut files =
        kinds.map(|(ids, name)| lines(ids.map(|id| json!({ name: id, "token_length": lengths[id as usize] }))));
    let mut trace = String::new();
    for row in rows(29, ROWS) {
        let mut some = |from: u64, n: u64, most: u64| -> Vec<u64> { (0..n).map(|_| from + draw.below(most)).collect() };
        let (system, passages) = (some(0, 2, 6), some(6, 3, 18));
        let (history, web) = (some(24, row.session % 2, 8), some(52, row.session % 3, 8));
        let user = some(32, 1, 20);
        let parts = [&system, &passages, &history, &web, &user];
        let tokens: u64 = parts.into_iter().flatten().map(|id| lengths[*id as usize]).sum();
        let _ = writeln!(
            trace,
            "{}",
            json!({
                "timestamp": (row.at_us / 1_000_000).to_string(), "input_length": tokens + 6 + row.session % 7,
                "output_length": row.output,
                "hash_ids": {
                    "sys_prompt": system, "passages_ids": passages, "history": history, "web_search": web,
                    "user_input": user,
                },
                "session_id": format!("17574769{:05}-x", row.session),
            })
        );
    }
    trace.push('\n');
    let mut next = || files.next().unwrap_or_default();
    let parts = [next(), next(), next(), next(), next()];
    let [system, passages, history, user, web] = parts;
    [trace, system, passages, history, user, web]
}

fn splitwise() -> String {
    let mut text =
        "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n".to_string();
    for (i, row) in rows(30, ROWS).iter().enumerate() {
        let _ = writeln!(text, "{i},2,{},{},1,{},{}", row.session % 2, seconds(row.at_us), row.input, row.output);
    }
    text
}

/// Conversations of a coding agent, every other one with a helper.
fn weka() -> String {
    const BLOCK: u64 = 64;
    let mut draw = Draw::new(31);
    lines(rows(31, 6).iter().enumerate().map(|(i, row)| {
        let (mut said, mut next, mut tokens, mut at_ms) = (Vec::new(), 0, 300 + row.input, 0);
        let mut call = |tokens: u64, at_ms: u64, took_ms: u64, output: u64| {
            json!({
                "t": at_ms as f64 / 1000.0, "type": "s", "model": "example/model", "in": tokens, "out": output,
                "hash_ids": blocks(&mut said, &mut next, tokens, BLOCK), "api_time": took_ms as f64 / 1000.0,
                "ttft": took_ms as f64 / 4000.0,
            })
        };
        let mut requests = Vec::new();
        for step in 0..3 {
            let took_ms = 400 + row.output * 10;
            requests.push(call(tokens, at_ms, took_ms, row.output));
            at_ms += took_ms + 200 + draw.below(3000);
            if step == 0 && i % 2 == 0 {
                let inner = [call(200, at_ms - 100, 300, 12), call(260, at_ms + 900, 250, 9)];
                requests.push(json!({
                    "t": (at_ms - 100) as f64 / 1000.0, "type": "subagent", "agent_id": format!("h{i}"),
                    "subagent_type": "explore", "duration_ms": 1250, "requests": inner,
                }));
                at_ms += 2000;
            }
            tokens += row.output + draw.below(400);
        }
        json!({
            "id": format!("conversation-{i}"), "models": ["example/model"], "block_size": BLOCK, "hash_id_scope": "local",
            "requests": requests,
        })
    }))
}
