//! Samples of the formats that are JSON documents: a dozen made-up requests each, some of which failed.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::sample::Draw;
use super::talk;

const REQUESTS: usize = 12;
const MODEL: &str = "example/small-8b";

/// A request as a client of a server saw it, in microseconds since the start of the benchmark.
struct Served {
    at_us: u64,
    queued_us: u64,
    scheduled_us: u64,
    /// When each token came.
    tokens_us: Vec<u64>,
    input: u64,
    failed: bool,
}

impl Served {
    fn first_us(&self) -> u64 {
        self.tokens_us[0]
    }

    fn last_us(&self) -> u64 {
        self.tokens_us.last().copied().unwrap_or_default()
    }

    fn output(&self) -> u64 {
        self.tokens_us.len() as u64
    }
}

/// One prompt after the other, and decoding at a steady pace with some noise. One in nine requests fails.
fn served(seed: u64) -> Vec<Served> {
    let mut draw = Draw::new(seed);
    let (mut at_us, mut free_us) = (0, 0);
    (0..REQUESTS)
        .map(|i| {
            at_us += if i == 0 { 0 } else { draw.gap_us() };
            let (input, output) = (draw.tokens(200), 1 + draw.below(12));
            let queued_us = at_us + 300 + draw.below(900);
            let scheduled_us = queued_us.max(free_us) + 20 + draw.below(60);
            let first_us = scheduled_us + 6_000 + input * 48;
            free_us = first_us;
            let mut token_us = first_us;
            let mut tokens_us = vec![first_us];
            for _ in 1..output {
                token_us += 6_400 + draw.below(900);
                tokens_us.push(token_us);
            }
            Served { at_us, queued_us, scheduled_us, tokens_us, input, failed: i % 9 == 7 }
        })
        .collect()
}

/// Seconds on a clock that shows `start_s` at the start.
fn seconds(start_s: u64, us: u64) -> f64 {
    (start_s * 1_000_000 + us) as f64 / 1e6
}

fn ms(us: u64) -> f64 {
    us as f64 / 1e3
}

const WALL_S: u64 = 1_760_000_000;
const MONOTONIC_S: u64 = 5_000;

/// Name and content of every sample.
pub fn files() -> Vec<(&'static str, Vec<u8>)> {
    let one = |document: Value| format!("{document}\n").into_bytes();
    let pretty = |document: Value| format!("{document:#}\n").into_bytes();
    vec![
        ("openai_chat.jsonl", lines(openai_chat())),
        ("openai_batch.jsonl", lines(openai_batch())),
        ("openai_batch_output.jsonl", lines(openai_batch_output())),
        ("vllm_prompts.jsonl", lines(vllm_prompts())),
        ("vllm_result.json", one(vllm_result())),
        ("otlp.jsonl", lines(otlp())),
        ("otel_replay.json", pretty(otel_replay())),
        ("guidellm.json", pretty(guidellm())),
        ("aiperf.jsonl", lines(aiperf())),
        ("genai_perf.json", one(genai_perf())),
        ("inference_perf.json", pretty(inference_perf())),
        ("detailed_results.json", pretty(detailed_results())),
        ("detailed_results_tokenized.json", one(detailed_results_tokenized())),
    ]
}

/// A trace of inference-sim, and its header.
pub fn trace_v2_files() -> Vec<(&'static str, Vec<u8>)> {
    vec![("trace_v2.csv", trace_v2().into_bytes()), ("trace_v2.yaml", TRACE_V2_HEADER.as_bytes().to_vec())]
}

/// Beside `trace_v2.csv`: the first two requests warmed the server up.
const TRACE_V2_HEADER: &str = "trace_version: 2\ntime_unit: microseconds\nmode: real\nwarm_up_requests: 2\n";

/// Two clients of two tenants, as inference-sim's client saw them; every third prompt begins with a shared prefix of 64 tokens.
fn trace_v2() -> String {
    let mut text = String::from(
        "request_id,client_id,tenant_id,slo_class,session_id,round_index,prefix_group,prefix_length,streaming,\
         input_tokens,output_tokens,text_tokens,image_tokens,audio_tokens,video_tokens,reason_ratio,model,deadline_us,\
         server_input_tokens,arrival_time_us,send_time_us,first_chunk_time_us,last_chunk_time_us,num_chunks,status,\
         error_message,finish_reason\n",
    );
    for (i, s) in served(17).iter().enumerate() {
        let (client, tenant, class) =
            if i % 2 == 0 { ("chat", "acme", "critical") } else { ("reports", "lab", "batch") };
        let (group, prefix) = if i % 3 == 0 { ("system", 64) } else { ("", 0) };
        let image = if i % 5 == 4 { s.input.min(20) } else { 0 };
        let (input, output, sent_us) = (s.input, s.output(), s.at_us + 40);
        let (first, last, status, finish) = match s.failed {
            true => (0, 0, "timeout", ""),
            false => (s.first_us(), s.last_us(), "ok", "stop"),
        };
        let output = if s.failed { 0 } else { output };
        let (text_tokens, served_input, deadline_us) = (input - image, input + prefix, s.at_us + 5_000_000);
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{i},{client},{tenant},{class},s{},{},{group},{prefix},true,{input},{output},{text_tokens},{image},0,0,\
             0.25,{MODEL},{deadline_us},{served_input},{},{sent_us},{first},{last},{output},{status},,{finish}",
            i / 3,
            i % 3,
            s.at_us,
        );
    }
    text
}

fn lines(documents: Vec<Value>) -> Vec<u8> {
    let mut text = String::new();
    for document in documents {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{document}");
    }
    text.into_bytes()
}

/// Conversations of one or two turns; the last has an image.
fn openai_chat() -> Vec<Value> {
    let mut draw = Draw::new(21);
    let mut all: Vec<Value> = (0..4)
        .map(|i| {
            let mut messages = vec![json!({ "role": "system", "content": "Answer in one sentence." })];
            for _ in 0..1 + i % 2 {
                messages.push(json!({ "role": "user", "content": talk::question(&mut draw) }));
                messages.push(json!({ "role": "assistant", "content": talk::answer(&mut draw) }));
            }
            json!({ "id": format!("conversation-{i}"), "model": MODEL, "messages": messages })
        })
        .collect();
    let parts = json!([
        { "type": "text", "text": talk::question(&mut draw) },
        { "type": "image_url", "image_url": { "url": "https://example.org/plan.png" } },
    ]);
    all.push(json!({
        "id": "conversation-4", "model": MODEL,
        "messages": [{ "role": "user", "content": parts }, { "role": "assistant", "content": talk::answer(&mut draw) }],
    }));
    all
}

fn openai_batch() -> Vec<Value> {
    let mut draw = Draw::new(22);
    (0..REQUESTS)
        .map(|i| {
            let messages = json!([
                { "role": "system", "content": "Answer in one sentence." },
                { "role": "user", "content": talk::question(&mut draw) },
            ]);
            let body = json!({ "model": MODEL, "messages": messages, "max_tokens": 16 << draw.below(4) });
            json!({ "custom_id": format!("task-{i}"), "method": "POST", "url": "/v1/chat/completions", "body": body })
        })
        .collect()
}

/// One request was refused.
fn openai_batch_output() -> Vec<Value> {
    served(23)
        .iter()
        .enumerate()
        .map(|(i, row)| {
            let (id, custom) = (format!("batch_req_{i}"), format!("task-{i}"));
            if row.failed {
                let error =
                    json!({ "code": "batch_expired", "message": "the batch ended before the request was sent" });
                return json!({ "id": id, "custom_id": custom, "response": null, "error": error });
            }
            let usage = json!({
                "prompt_tokens": row.input, "completion_tokens": row.output(), "total_tokens": row.input + row.output(),
            });
            let body = json!({ "model": MODEL, "object": "chat.completion", "created": WALL_S, "usage": usage });
            let response = json!({ "status_code": 200, "request_id": format!("req-{i}"), "body": body });
            json!({ "id": id, "custom_id": custom, "response": response, "error": null })
        })
        .collect()
}

fn vllm_prompts() -> Vec<Value> {
    let mut draw = Draw::new(24);
    (0..REQUESTS)
        .map(|_| json!({ "prompt": talk::question(&mut draw), "output_tokens": 1 + draw.below(200) }))
        .collect()
}

/// Lists side by side.
fn vllm_result() -> Value {
    let rows = served(25);
    let list = |f: fn(&Served) -> Value| rows.iter().map(f).collect::<Vec<Value>>();
    let gaps = |row: &Served| -> Value {
        let gaps = row.tokens_us.windows(2).map(|w| json!((w[1] - w[0]) as f64 / 1e6));
        if row.failed { json!([]) } else { gaps.collect() }
    };
    json!({
        "date": "20251009-093000", "backend": "vllm", "model_id": MODEL, "num_prompts": rows.len(),
        "completed": rows.iter().filter(|r| !r.failed).count(), "failed": rows.iter().filter(|r| r.failed).count(),
        "input_lens": list(|r| json!(r.input)),
        "output_lens": list(|r| if r.failed { json!(0) } else { json!(r.output()) }),
        "ttfts": list(|r| if r.failed { json!(0.0) } else { json!((r.first_us() - r.at_us) as f64 / 1e6) }),
        "itls": rows.iter().map(gaps).collect::<Vec<Value>>(),
        "start_times": list(|r| json!(seconds(MONOTONIC_S, r.at_us))),
        "errors": list(|r| if r.failed { json!("Traceback: connection reset by peer") } else { json!("") }),
    })
}

fn attribute(key: &str, value: &Value) -> Value {
    let value = match value {
        Value::Number(n) if n.is_f64() => json!({ "doubleValue": value }),
        // OTLP writes whole numbers as texts, as they may be longer than a float can hold.
        Value::Number(n) => json!({ "intValue": n.to_string() }),
        other => json!({ "stringValue": other }),
    };
    json!({ "key": key, "value": value })
}

/// Spans of a server, two to a line, as a collector writes them to a file; with each a span that is not of a request.
fn otlp() -> Vec<Value> {
    let nanos = |us: u64| (WALL_S * 1_000_000_000 + us * 1000).to_string();
    let span = |(i, row): (usize, &Served)| {
        let since = |us: u64| json!((us - row.at_us) as f64 / 1e6);
        let attributes = [
            ("gen_ai.request.id", json!(format!("cmpl-{i}-0"))),
            ("gen_ai.request.model", json!(MODEL)),
            ("gen_ai.usage.prompt_tokens", json!(row.input)),
            ("gen_ai.usage.completion_tokens", json!(row.output())),
            ("gen_ai.latency.time_in_queue", since(row.scheduled_us)),
            ("gen_ai.latency.time_to_first_token", since(row.first_us())),
            ("gen_ai.latency.e2e", since(row.last_us())),
            ("gen_ai.latency.time_in_model_prefill", json!((row.first_us() - row.scheduled_us) as f64 / 1e6)),
            ("gen_ai.latency.time_in_model_decode", json!((row.last_us() - row.first_us()) as f64 / 1e6)),
        ];
        json!({
            "name": "llm_request", "spanId": format!("{i:016x}"), "startTimeUnixNano": nanos(row.at_us),
            "endTimeUnixNano": nanos(row.last_us() + 150),
            "attributes": attributes.iter().map(|(key, value)| attribute(key, value)).collect::<Vec<_>>(),
        })
    };
    let rows = served(26);
    let spans: Vec<Value> = rows.iter().enumerate().map(span).collect();
    spans
        .chunks(2)
        .map(|pair| {
            let other = json!({ "name": "scheduler_step", "startTimeUnixNano": nanos(0), "endTimeUnixNano": nanos(1) });
            let spans: Vec<&Value> = pair.iter().chain([&other]).collect();
            let scope = json!({ "scope": { "name": "vllm.llm_engine" }, "spans": spans });
            json!({ "resourceSpans": [{ "resource": { "attributes": [] }, "scopeSpans": [scope] }] })
        })
        .collect()
}

/// The calls of one agent, one after the other, with time for its tools between them.
fn otel_replay() -> Value {
    let mut draw = Draw::new(27);
    let (mut at_us, mut said) = (0, 300);
    let date = |us: u64| {
        format!("2025-10-09T08:{:02}:{:02}.{:06}+00:00", us / 60_000_000, us / 1_000_000 % 60, us % 1_000_000)
    };
    let mut spans = vec![json!({
        "name": "agent run", "span_id": "root", "start_time": date(0), "end_time": date(59_000_000), "attributes": {},
    })];
    for i in 0..6 {
        let (start, output) = (at_us, 20 + draw.below(60));
        let end = start + 200_000 + output * 8_000;
        spans.push(json!({
            "name": format!("chat {MODEL}"), "span_id": format!("call-{i}"),
            "start_time": date(start), "end_time": date(end), "status": { "code": 1 },
            "attributes": {
                "gen_ai.request.model": MODEL, "gen_ai.usage.input_tokens": said, "gen_ai.usage.output_tokens": output,
            },
        }));
        at_us = end + 500_000 + draw.below(2_000_000);
        said += output + 40 + draw.below(200);
    }
    json!({ "trace_id": "agent-1", "span_count": spans.len(), "spans": spans })
}

/// Two benchmarks, of the present form of a report and of the one before.
fn guidellm() -> Value {
    let benchmark = |seed: u64, strategy: Value, old: bool| {
        let mut by_status = [(false, Vec::new()), (true, Vec::new())];
        for (i, row) in served(seed).iter().enumerate() {
            let first = if row.failed { Value::Null } else { json!(seconds(WALL_S, row.first_us())) };
            let last = if row.failed { Value::Null } else { json!(seconds(WALL_S, row.last_us())) };
            let (start, end) = (seconds(WALL_S, row.at_us), seconds(WALL_S, row.last_us() + 200));
            let mut request = json!({
                "request_id": format!("{seed}-{i}"), "prompt_tokens": row.input,
                "output_tokens": if row.failed { Value::Null } else { json!(row.output()) },
            });
            if old {
                request["scheduler_info"] = json!({ "request_timings": {
                    "request_start": start, "first_iteration": first, "last_iteration": last, "request_end": end,
                } });
            } else {
                request["info"] = json!({
                    "conversation_id": null, "turn_index": 0,
                    "error": if row.failed { json!("connection reset by peer") } else { Value::Null },
                    "timings": {
                        "request_start": start, "first_token_iteration": first, "last_token_iteration": last,
                        "request_end": end,
                    },
                });
                request["request_latency"] = json!(ms(row.last_us() + 200 - row.at_us) / 1e3);
            }
            if let Some((_, all)) = by_status.iter_mut().find(|(failed, _)| *failed == row.failed) {
                all.push(request);
            }
        }
        let [(_, successful), (_, errored)] = by_status;
        let requests = json!({ "successful": successful, "incomplete": [], "errored": errored });
        let key = if old { "scheduler" } else { "config" };
        json!({ key: { "strategy": strategy }, "requests": requests })
    };
    json!({ "benchmarks": [
        benchmark(28, json!({ "type_": "synchronous" }), false),
        benchmark(29, json!({ "type_": "constant", "rate": 4.0 }), true),
    ] })
}

/// The first request is of the warm-up.
fn aiperf() -> Vec<Value> {
    let nanos = |us: u64| WALL_S * 1_000_000_000 + us * 1000;
    served(30)
        .iter()
        .enumerate()
        .map(|(i, row)| {
            let metadata = json!({
                "session_num": i, "x_request_id": format!("request-{i}"), "x_correlation_id": format!("user-{}", i / 2),
                "turn_index": i % 2, "request_start_ns": nanos(row.at_us), "request_end_ns": nanos(row.last_us()),
                "benchmark_phase": if i == 0 { "warmup" } else { "profiling" }, "was_cancelled": row.failed,
            });
            if row.failed {
                let error = json!({ "code": 499, "type": "RequestCancellationError", "message": "cancelled" });
                let metrics = json!({ "error_isl": { "value": row.input, "unit": "tokens" } });
                return json!({ "metadata": metadata, "metrics": metrics, "error": error });
            }
            let metrics = json!({
                "input_sequence_length": { "value": row.input, "unit": "tokens" },
                "output_sequence_length": { "value": row.output(), "unit": "tokens" },
                "time_to_first_token": { "value": ms(row.first_us() - row.at_us), "unit": "ms" },
                "request_latency": { "value": ms(row.last_us() - row.at_us), "unit": "ms" },
            });
            json!({ "metadata": metadata, "metrics": metrics, "error": null })
        })
        .collect()
}

/// Streams of OpenAI's API: a piece without text, a piece per word, and the end.
fn genai_perf() -> Value {
    let mut draw = Draw::new(31);
    let requests: Vec<Value> = served(31)
        .iter()
        .map(|row| {
            let answer = talk::answer(&mut draw);
            let words: Vec<&str> = answer.split_inclusive(' ').take(row.tokens_us.len()).collect();
            let piece = |delta: Value| {
                let event = json!({ "choices": [{ "delta": delta }] });
                json!({ "response": format!("data: {event}\n\n") })
            };
            let mut outputs = vec![piece(json!({ "role": "assistant" }))];
            outputs.extend(words.iter().map(|word| piece(json!({ "content": word }))));
            outputs.push(json!({ "response": "data: [DONE]\n\n" }));
            let nanos = |us: u64| MONOTONIC_S * 1_000_000_000 + us * 1000;
            let mut times = vec![nanos(row.first_us() - 500)];
            times.extend(row.tokens_us.iter().take(words.len()).map(|us| nanos(*us)));
            times.push(nanos(row.last_us() + 100));
            let messages = json!([{ "role": "user", "content": talk::question(&mut draw) }]);
            let payload = json!({ "model": MODEL, "messages": messages, "stream": true, "max_tokens": 64 });
            json!({
                "timestamp": nanos(row.at_us), "request_inputs": { "payload": payload.to_string() },
                "response_timestamps": times, "response_outputs": outputs,
            })
        })
        .collect();
    let experiment = json!({ "experiment": { "mode": "request_rate", "value": 4.0 }, "requests": requests });
    json!({ "service_kind": "openai", "endpoint": "v1/chat/completions", "experiments": [experiment] })
}

/// The first half in the present form, the rest in the one before.
fn inference_perf() -> Value {
    let rows = served(32);
    let request = |(i, row): (usize, &Served)| {
        let times: Vec<f64> = row.tokens_us.iter().map(|us| seconds(MONOTONIC_S, *us)).collect();
        let info = match (row.failed, i < REQUESTS / 2) {
            (true, _) => Value::Null,
            (false, true) => json!({
                "request_metrics": { "text": { "input_tokens": row.input } },
                "response_metrics": { "output_tokens": row.output(), "output_token_times": times },
            }),
            (false, false) => {
                json!({ "input_tokens": row.input, "output_tokens": row.output(), "output_token_times": times })
            }
        };
        let error = json!({ "error_type": "ClientOSError", "error_msg": "connection reset by peer" });
        json!({
            "start_time": seconds(MONOTONIC_S, row.at_us), "end_time": seconds(MONOTONIC_S, row.last_us() + 200),
            "request": json!({ "model": MODEL, "max_tokens": 64 }).to_string(), "response": "", "info": info,
            "error": if row.failed { error } else { Value::Null },
        })
    };
    rows.iter().enumerate().map(request).collect()
}

fn detailed_results() -> Value {
    let mut draw = Draw::new(33);
    let rows = served(33);
    let prompts: Vec<Value> = rows
        .iter()
        .map(|row| {
            let event = |kind: &str, us: u64| json!({ "event_type": kind, "timestamp": seconds(MONOTONIC_S, us) });
            let mut events = vec![event("SERVER_HIT", row.at_us), event("QUEUED", row.queued_us)];
            if !row.failed {
                events.extend([
                    event("SCHEDULED", row.scheduled_us),
                    event("FINISHED", row.last_us()),
                    event("SERVER_LEFT", row.last_us() + 400),
                ]);
            }
            json!({
                "input_text": talk::question(&mut draw), "generated_text": "", "input_len": row.input,
                "output_len": if row.failed { 0 } else { row.output() },
                "error": if row.failed { "timed out" } else { "" }, "events": events,
            })
        })
        .collect();
    let inputs: u64 = rows.iter().map(|r| r.input).sum();
    json!({ "num_prompts": prompts.len(), "request_rate": 4.0, "total_input_tokens": inputs, "prompts": prompts })
}

/// Prompts that begin alike.
fn detailed_results_tokenized() -> Value {
    let mut draw = Draw::new(34);
    let shared: Vec<u64> = (0..32).map(|_| draw.below(32_000)).collect();
    let mut at_us = 0;
    let prompts: Vec<Value> = (0..REQUESTS)
        .map(|i| {
            at_us += if i == 0 { 0 } else { draw.gap_us() };
            let mut input = shared.clone();
            input.extend((0..1 + draw.below(40)).map(|_| draw.below(32_000)));
            let output: Vec<u64> = (0..1 + draw.below(20)).map(|_| draw.below(32_000)).collect();
            json!({
                "input_text": input, "generated_text": output, "input_len": input.len(), "output_len": output.len(),
                "arrival_time": at_us,
            })
        })
        .collect();
    json!({ "num_prompts": prompts.len(), "request_rate": 4.0, "prompts": prompts })
}
