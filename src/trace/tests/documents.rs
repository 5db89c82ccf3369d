//! Formats that are JSON documents: every column with its unit, what is wrong with them, and how they are found.

use arrow::array::Array;

use super::super::measured::{Measured, Raw, settle};
use super::*;

/// The content of a file, as requests with what was measured of them.
fn page(content: &str) -> Read {
    of(content, |_| ()).unwrap()
}

impl Read {
    fn optional(&self, name: &str) -> Vec<Option<i64>> {
        let column = arrow::compute::cast(self.rows.column_by_name(name).unwrap(), &arrow::datatypes::DataType::Int64);
        column.unwrap().as_primitive::<Int64Type>().iter().collect()
    }

    fn texts(&self, name: &str) -> Vec<Option<String>> {
        let column = self.rows.column_by_name(name).unwrap().as_string::<i32>();
        column.iter().map(|v| v.map(str::to_string)).collect()
    }

    fn lists(&self, name: &str) -> Vec<Vec<String>> {
        let lists = self.rows.column_by_name(name).unwrap().as_list::<i32>();
        let texts = |i: usize| lists.value(i).as_string::<i32>().iter().flatten().map(str::to_string).collect();
        (0..lists.len()).map(|i| if lists.is_null(i) { Vec::new() } else { texts(i) }).collect()
    }

    fn settled(&self) -> Vec<Measured> {
        let arrivals = self.optional("arrival_ns");
        let outputs = self.ints("output_tokens");
        settle(self.format, &self.measured, &arrivals, &outputs, 0).into_iter().map(|row| row.unwrap()).collect()
    }

    fn raw(&self, f: fn(&Raw) -> &str) -> Vec<&str> {
        self.measured.iter().map(f).collect()
    }

    fn reasons(&self) -> Vec<(u64, u32, &str)> {
        self.problems.iter().map(|p| (p.line, p.column, p.reason.as_str())).collect()
    }
}

fn some(values: &[i64]) -> Vec<Option<i64>> {
    values.iter().map(|v| Some(*v)).collect()
}

fn text(value: &str) -> Option<String> {
    Some(value.to_string())
}

#[test]
fn samples_of_documents_are_found_and_read_whole() {
    use Format::*;
    let cases = [
        ("openai_chat.jsonl", OpenaiChat, Layout::Texts, false, 7),
        ("openai_batch.jsonl", OpenaiBatch, Layout::Texts, false, 12),
        ("openai_batch_output.jsonl", OpenaiBatch, Layout::Tokens, false, 11),
        ("vllm_prompts.jsonl", VllmPrompts, Layout::Texts, false, 12),
        ("vllm_result.json", VllmResult, Layout::Tokens, true, 12),
        ("otlp.jsonl", Otel, Layout::Tokens, true, 12),
        ("otel_replay.json", Otel, Layout::Tokens, true, 6),
        ("guidellm.json", Guidellm, Layout::Tokens, true, 24),
        ("aiperf.jsonl", Aiperf, Layout::Tokens, true, 12),
        ("genai_perf.json", GenaiPerf, Layout::Texts, false, 12),
        ("inference_perf.json", InferencePerf, Layout::Tokens, true, 11),
        ("detailed_results.json", DetailedResults, Layout::Tokens, true, 12),
        ("detailed_results_tokenized.json", DetailedResults, Layout::Tokens, false, 12),
    ];
    for (name, format, layout, measures, rows) in cases {
        let settings = settings(&samples().join(name));
        let found = read(&settings).unwrap();
        let parser = looks(&settings).unwrap();
        assert_eq!((found.format, parser.layout(), parser.measures()), (format, layout, measures), "{name}");
        assert_eq!((found.rows.num_rows(), found.problems), (rows, vec![]), "{name}");
        assert_eq!(found.measured.len(), if measures { rows } else { 0 }, "{name}");
        // The same file, with its format said.
        let said = read(&Settings { format, ..settings.clone() }).unwrap();
        assert_eq!(said.rows, found.rows, "{name}");
        // A file of something else, said to be this, is refused or has no rows; it is never a panic.
        for (other, ..) in cases {
            let _ = read(&Settings { format, path: samples().join(other), ..settings.clone() });
        }
        let bytes = std::fs::read(samples().join(name)).unwrap();
        for cut in [1, 2, 3, 5].map(|n| bytes.len() * n / 7) {
            let _ = of(&bytes[..cut], |s| s.format = format);
        }
    }
}

const CHAT: &str = r#"{"id": "a", "model": "m", "tools": [{}, {}], "messages": [{"role": "developer", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "1"}, {"type": "image_url", "image_url": {}}]}, {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, {"role": "tool", "content": "t"}, {"role": "assistant", "content": "r2"}]}
{"messages": [{"role": "user", "content": "q"}]}
{"max_completion_tokens": 9, "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}, {"role": "user", "content": "p"}]}
"#;

#[test]
fn chats_have_roles_images_and_replies() {
    let found = page(CHAT);
    assert_eq!((found.format, found.reasons()), (Format::OpenaiChat, vec![]));
    assert_eq!(found.texts("session_id"), [text("a"), text("line 3"), text("a"), text("line 3")]);
    assert_eq!(found.optional("turn"), some(&[0, 0, 1, 1]));
    assert_eq!(found.texts("model"), [text("m"), None, text("m"), None]);
    assert_eq!(found.lists("input")[0], ["s", "q1"]);
    assert_eq!(found.lists("roles")[2], ["system", "user", "assistant", "tool"]);
    assert_eq!(found.texts("output"), [text("f{}"), text("r"), text("r2"), text("")]);
    assert_eq!(found.optional("output_tokens"), [None, None, None, Some(9)]);
    assert_eq!(found.optional("max_tokens"), [None, Some(9), None, Some(9)]);
    assert_eq!(found.optional("images"), [Some(1), None, Some(1), None]);
    assert_eq!((found.counts.tools, found.counts.passed_over), (3, 1));
    // The same as a list, and one of them alone over several lines.
    let list = format!("[\n{}\n]", CHAT.trim().replace('\n', ",\n"));
    let found_list = page(&list);
    assert_eq!(found_list.texts("output"), found.texts("output"));
    let pretty: serde_json::Value = serde_json::from_str(CHAT.lines().next().unwrap()).unwrap();
    let alone = page(&format!("{pretty:#}"));
    assert_eq!((alone.format, alone.texts("output")), (Format::OpenaiChat, vec![text("f{}"), text("r2")]));

    let wrong = [
        (r#"{"id": "x"}"#, 1, "missing `messages`"),
        (r#"{"messages": 1}"#, 14, "`messages` is not a list"),
        (r#"{"messages": [{"content": "x"}]}"#, 15, "a message without `role`"),
        (r#"{"messages": [{"role": "robot", "content": "x"}]}"#, 24, "`role` is `robot`: expected one of system"),
        (r#"{"messages": [{"role": "user", "content": 1}]}"#, 43, "`content` is neither text nor a list"),
        (r#"{"messages": [{"role": "user", "content": [1]}]}"#, 44, "a part of `content`"),
        (r#"{"max_tokens": 0, "messages": []}"#, 16, "`max_tokens` is 0"),
        (r#"{"messages": [{"role": "user""#, 30, "not valid JSON"),
    ];
    for (row, column, reason) in wrong {
        let found = page(&format!("{CHAT}{row}\n"));
        let [(4, at, why)] = found.reasons()[..] else { panic!("{row}: {:?}", found.problems) };
        assert!(at == column && why.contains(reason), "{row}: {at}: {why}");
        assert_eq!(found.rows.num_rows(), 4, "{row}");
    }
}

#[test]
fn batches_have_prompts_or_token_counts() {
    let input = r#"{"custom_id": "1", "url": "/v1/chat/completions", "body": {"model": "m", "max_tokens": 7, "messages": [{"role": "user", "content": "q"}]}}
{"custom_id": "2", "url": "/v1/completions", "body": {"prompt": "p", "max_tokens": 3}}
{"custom_id": "3", "url": "/v1/responses", "body": {"instructions": "i", "input": "q", "max_output_tokens": 4}}
{"custom_id": "4", "url": "/v1/embeddings", "body": {"input": ["e"]}}
{"custom_id": "5", "body": {"messages": [{"role": "user", "content": "q"}]}}
{"custom_id": "6", "body": {"max_tokens": 1}}
{"custom_id": "7", "body": {"max_tokens": 1, "prompt": ["a", "b"]}}
"#;
    let found = page(input);
    assert_eq!(found.format, Format::OpenaiBatch);
    assert_eq!(found.lists("input"), [vec!["q"], vec!["p"], vec!["i", "q"], vec!["e"]]);
    assert_eq!(found.lists("roles"), [vec!["user"], vec![], vec!["system", "user"], vec![]]);
    assert_eq!(found.optional("output_tokens"), some(&[7, 3, 4, 1]));
    assert_eq!(found.optional("max_tokens"), [Some(7), Some(3), Some(4), None]);
    assert_eq!(found.texts("output"), vec![text(""); 4]);
    assert_eq!(found.texts("session_id"), vec![None; 4]);
    let reasons = found.reasons();
    assert_eq!(reasons.iter().map(|r| r.0).collect::<Vec<_>>(), [5, 6, 7]);
    assert!(reasons[0].2.contains("no `max_tokens`") && reasons[1].2.contains("none of `messages`"), "{reasons:?}");
    assert!(reasons[2].2.contains("neither a text"), "{reasons:?}");

    let output = r#"{"custom_id": "1", "response": {"body": {"model": "m", "usage": {"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 4}}}}, "error": null}
{"custom_id": "2", "response": null, "error": {"code": "expired"}}
{"custom_id": "3", "response": {"status_code": 400, "body": {"error": {"message": "no"}}}}
{"custom_id": "4", "response": {"body": {"usage": {"input_tokens": 3, "output_tokens": "x"}}}}
{"custom_id": "5", "response": {"body": {"usage": {"prompt_tokens": 8}}}}
{"custom_id": "6"}
"#;
    let found = page(output);
    assert_eq!((found.format, found.counts.passed_over), (Format::OpenaiBatch, 2));
    assert_eq!((found.ints("input_tokens"), found.ints("output_tokens")), (vec![10, 8], vec![5, 1]));
    assert_eq!(found.texts("model"), [text("m"), None]);
    assert_eq!(found.optional("reasoning_tokens"), [Some(4), None]);
    let reasons = found.reasons();
    assert!(reasons[0].0 == 4 && reasons[0].2.contains("`completion_tokens` is `x`"), "{reasons:?}");
    assert!(reasons[1].0 == 6 && reasons[1].2.contains("missing `response.body`"), "{reasons:?}");
}

#[test]
fn prompts_of_a_benchmark_say_how_long_their_replies_are() {
    let found = page(
        "{\"prompt\": \"a b\", \"output_tokens\": 5, \"image_files\": [\"x\"]}\n{\"prompt\": \"c\"}\n{\"prompt\": 1, \"output_tokens\": 1}\n{\"prompt\": \"c\", \"output_tokens\": -1}\n",
    );
    assert_eq!(found.format, Format::VllmPrompts);
    assert_eq!(
        (found.lists("input"), found.lists("roles")),
        (vec![vec!["a b".to_string()]], vec![vec!["user".to_string()]])
    );
    assert_eq!((found.optional("output_tokens"), found.optional("images")), (some(&[5]), some(&[1])));
    let reasons: Vec<&str> = found.problems.iter().map(|p| p.reason.as_str()).collect();
    assert!(reasons[0].contains("missing `output_tokens`") && reasons[1] == "`prompt` is not text", "{reasons:?}");
    assert!(reasons[2].contains("`output_tokens` is -1: negative"), "{reasons:?}");
}

const RESULT: &str = r#"{"model_id": "m", "input_lens": [10, 20, 30.0], "output_lens": [3, 1, 0], "ttfts": [0.25, 0.1, 0.0],
"itls": [[0.01, 0.03], [], []], "errors": ["", "", "Traceback\nx"], "start_times": [100.5, 100.25, 101]}"#;

#[test]
fn lists_of_a_benchmark_become_requests() {
    let found = page(RESULT);
    assert_eq!((found.format, found.reasons()), (Format::VllmResult, vec![]));
    assert_eq!(found.arrivals(), [100_500_000_000, 100_250_000_000, 101_000_000_000]);
    assert_eq!((found.ints("input_tokens"), found.ints("output_tokens")), (vec![10, 20, 30], vec![3, 1, 1]));
    assert_eq!(found.texts("model"), vec![text("m"); 3]);
    let rows = found.settled();
    let ttft: Vec<_> = rows.iter().map(|r| r.ttft_ns).collect();
    let e2e: Vec<_> = rows.iter().map(|r| r.e2e_ns).collect();
    let tpot: Vec<_> = rows.iter().map(|r| r.tpot_ns).collect();
    assert_eq!(ttft, [Some(250_000_000), Some(100_000_000), None]);
    assert_eq!(e2e, [Some(290_000_000), Some(100_000_000), None]);
    assert_eq!(tpot, [Some(20_000_000), None, None]);
    let status: Vec<&str> = rows.iter().map(|r| r.status.as_str()).collect();
    assert_eq!((status, rows[2].no_reply), (vec!["completed", "completed", "Traceback"], true));
    assert_eq!(found.counts.failed, 1);

    let without = page(&RESULT.replace(", \"start_times\": [100.5, 100.25, 101]", ""));
    assert_eq!(without.optional("arrival_ns"), vec![None; 3]);

    let bad = page(&RESULT.replace("0.25, 0.1", "-0.25, 0.1").replace("[10, 20", "[10, \"x\""));
    assert_eq!(bad.rows.num_rows(), 1);
    let reasons = bad.reasons();
    assert!(reasons[0] == (1, 86, "request 0: `ttfts` is -0.25: negative, expected a time from 0 up"), "{reasons:?}");
    assert!(reasons[1].2.starts_with("request 1: `input_lens` is `x`"), "{reasons:?}");

    let whole = [
        (RESULT.replace("[[0.01, 0.03], [], []]", "[[0.01, 0.03], []]"), "`itls` has 2 items, and `input_lens` 3"),
        (RESULT.replace("[3, 1, 0]", "3"), "`output_lens` is not a list"),
        (RESULT[..RESULT.len() - 5].to_string(), "not valid JSON"),
        (format!("{RESULT}\n{RESULT}"), "not valid JSON"),
    ];
    for (content, reason) in whole {
        let failure = of(&content, |_| ()).err().unwrap();
        assert!(failure.to_string().starts_with("t:") && failure.to_string().contains(reason), "{failure}");
    }
    let aggregated = of("{\"mean_ttft_ms\": 5, \"total_input_tokens\": 9}", |_| ()).err().unwrap();
    assert!(aggregated.diagnostics[0].help.as_deref().unwrap().contains("--save-detailed"), "{aggregated}");
}

const SPAN: &str = r#"{"name": "llm_request", "startTimeUnixNano": "1700000000000000500", "endTimeUnixNano": 1700000001000000500,
"attributes": [{"key": "gen_ai.request.id", "value": {"stringValue": "r-1"}}, {"key": "gen_ai.request.model", "value": {"stringValue": "m"}}, {"key": "gen_ai.request.max_tokens", "value": {"intValue": 77}},
{"key": "gen_ai.usage.prompt_tokens", "value": {"intValue": "100"}}, {"key": "gen_ai.usage.completion_tokens", "value": {"intValue": 3}},
{"key": "gen_ai.latency.time_to_first_token", "value": {"doubleValue": 0.5}}, {"key": "gen_ai.latency.e2e", "value": {"doubleValue": 0.9}},
{"key": "gen_ai.latency.time_in_queue", "value": {"doubleValue": 0.1}}, {"key": "gen_ai.latency.time_in_model_prefill", "value": {"doubleValue": 0.3}},
{"key": "gen_ai.latency.time_in_model_decode", "value": {"doubleValue": 0.4}}]}"#;

fn otlp(spans: &str) -> String {
    format!(r#"{{"resourceSpans": [{{"scopeSpans": [{{"spans": [{spans}]}}]}}]}}"#)
}

#[test]
fn spans_of_a_server_become_requests() {
    let other = r#"{"name": "step", "startTimeUnixNano": "1"}"#;
    let failed = r#"{"startTimeUnixNano": "1700000000000000600", "endTimeUnixNano": "1700000000000000700", "status": {"code": 2, "message": "gone"}, "attributes": [{"key": "gen_ai.usage.prompt_tokens", "value": {"intValue": "7"}}]}"#;
    let content = otlp(&[SPAN, other, failed].join(","));
    for content in [content.clone(), content.replace('\n', " ") + "\n" + &otlp(other)] {
        let found = page(&content);
        assert_eq!((found.format, found.reasons()), (Format::Otel, vec![]));
        assert_eq!(found.arrivals(), [1_700_000_000_000_000_500, 1_700_000_000_000_000_600]);
        assert_eq!((found.ints("input_tokens"), found.ints("output_tokens")), (vec![100, 7], vec![3, 1]));
        assert_eq!(found.texts("model"), [text("m"), None]);
        assert_eq!(found.raw(|r| &r.name), ["r-1", ""]);
        assert_eq!(found.optional("max_tokens"), [Some(77), None]);
        let rows = found.settled();
        let Measured { queue_ns, ttft_ns, tpot_ns, e2e_ns, prefill_ns, decode_ns, .. } = rows[0].clone();
        assert_eq!((queue_ns, ttft_ns, e2e_ns), (Some(100_000_000), Some(500_000_000), Some(900_000_000)));
        assert_eq!((prefill_ns, decode_ns, tpot_ns), (Some(300_000_000), Some(400_000_000), Some(200_000_000)));
        assert_eq!((rows[1].e2e_ns, rows[1].ttft_ns, rows[1].status.as_str()), (Some(100), None, "gone"));
        assert!(found.counts.passed_over >= 1 && found.counts.string_numbers == 0);
    }
    // Its end stands in for a latency that is not there.
    let without = page(&otlp(&SPAN.replace("gen_ai.latency.e2e", "x")));
    assert_eq!(without.settled()[0].e2e_ns, Some(1_000_000_000));
    for (from, to, reason) in [
        ("gen_ai.usage.completion_tokens", "x", "missing `gen_ai.usage.completion_tokens`"),
        ("\"startTimeUnixNano\"", "\"x\"", "missing `startTimeUnixNano`"),
        ("{\"doubleValue\": 0.9}", "{\"doubleValue\": -0.9}", "`gen_ai.latency.e2e` is -0.9: negative"),
        ("{\"intValue\": \"100\"}", "{\"intValue\": \"1.5\"}", "is 1.5: expected a whole number"),
        ("1700000000000000500", "soon", "`startTimeUnixNano` is `soon`"),
    ] {
        let found = page(&otlp(&SPAN.replace(from, to)));
        let [(_, _, why)] = found.reasons()[..] else { panic!("{to}: {:?}", found.problems) };
        assert!(why.starts_with("resourceSpans[0].scopeSpans[0].spans[0]: ") && why.contains(reason), "{why}");
    }
    let failure = of(&content[..content.len() - 9], |_| ()).err().unwrap();
    assert!(failure.to_string().contains("not valid JSON"), "{failure}");
}

#[test]
fn calls_of_an_agent_are_turns_with_time_between_them() {
    let span = |from: &str, to: &str, input: u32| {
        format!(
            r#"{{"name": "chat", "start_time": "2025-01-01T00:00:{from}Z", "end_time": "2025-01-01T00:00:{to}Z",
            "attributes": {{"gen_ai.usage.input_tokens": {input}, "gen_ai.usage.output_tokens": 2}}}}"#
        )
    };
    let agent = |spans: &[String]| format!("{{\"trace_id\": \"t\",\n \"spans\": [{}]}}", spans.join(","));
    let found = page(&agent(&[span("02.5", "03", 20), span("00", "01", 10), "{\"name\": \"tool\"}".to_string()]));
    assert_eq!((found.format, found.reasons(), found.counts.passed_over), (Format::Otel, vec![], 1));
    assert_eq!(found.texts("session_id"), vec![text("t"); 2]);
    assert_eq!((found.optional("turn"), found.ints("input_tokens")), (some(&[1, 0]), vec![20, 10]));
    assert_eq!(found.optional("think_ns"), [Some(1_500_000_000), None]);
    assert_eq!(found.settled()[0].e2e_ns, Some(500_000_000));
    // Calls side by side are not turns of one conversation.
    let found = page(&agent(&[span("00.5", "03", 20), span("00", "01", 10)]));
    assert_eq!((found.texts("session_id"), found.optional("turn")), (vec![None; 2], vec![None; 2]));
    let wrong = page(&agent(&[span("02", "01", 20)]));
    assert!(wrong.reasons()[0].2.contains("spans[0]: ends before it begins"), "{:?}", wrong.problems);
}

#[test]
fn reports_of_guidellm_have_runs() {
    let now = r#"{"request_id": "a", "prompt_tokens": 10, "output_tokens": 3, "input_metrics": {"image_tokens": 4, "image_count": 1},
        "info": {"conversation_id": "c", "turn_index": 1, "timings": {"request_start": 100.5, "first_token_iteration": 100.75, "last_token_iteration": 101.0, "request_end": 101.5}}}"#;
    let before = r#"{"request_id": "b", "prompt_tokens": 11, "output_tokens": 2, "request_latency": 9,
        "scheduler_info": {"request_timings": {"request_start": 200, "first_iteration": 200.5, "last_iteration": 200.75, "request_end": 201}}}"#;
    let first = r#"{"request_id": "c", "prompt_tokens": 12, "output_tokens": 1, "start_time": 300, "end_time": 301, "first_token_time": 300.5, "last_token_time": 300.5}"#;
    let spans = r#"{"prompt_tokens": 13, "output_tokens": 2, "request_start_time": 400, "time_to_first_token_ms": 250.5, "request_latency": 1.5}"#;
    let lost = r#"{"prompt_tokens": 14, "output_tokens": null, "info": {"error": "reset\nby peer", "timings": {"request_start": 102}}}"#;
    let unknown = r#"{"prompt_tokens": null, "info": {"timings": {"request_start": 102}}}"#;
    let cut = r#"{"prompt_tokens": 15, "output_tokens": 1, "info": {"timings": {"request_start": 103}}}"#;
    let report = |now: &str| {
        format!(
            r#"{{"benchmarks": [
            {{"config": {{"strategy": {{"type_": "constant", "rate": 2.5}}}}, "requests": {{"successful": [{now}], "incomplete": [{cut}], "errored": [{lost}, {unknown}]}}}},
            {{"scheduler": {{"strategy": {{"type_": "synchronous"}}}}, "requests": {{"successful": [{before}, {first}, {spans}], "incomplete": null, "errored": []}}}}]}}"#
        )
    };
    let found = page(&report(now));
    assert_eq!((found.format, found.reasons(), found.counts.passed_over), (Format::Guidellm, vec![], 1));
    assert_eq!(
        found.raw(|r| &r.run),
        ["0:constant@2.5", "0:constant@2.5", "0:constant@2.5", "1:synchronous", "1:synchronous", "1:synchronous"]
    );
    assert_eq!(found.ints("input_tokens"), [10, 15, 14, 11, 12, 13]);
    assert_eq!(found.ints("output_tokens"), [3, 1, 1, 2, 1, 2]);
    assert_eq!(found.arrivals(), [100.5, 103.0, 102.0, 200.0, 300.0, 400.0].map(|s| (s * 1e9) as i64));
    assert_eq!(found.optional("encoder_tokens")[..2], [Some(4), None]);
    assert_eq!(found.optional("images")[..2], [Some(1), None]);
    assert_eq!((found.texts("session_id")[0].as_deref(), found.optional("turn")[0]), (Some("c"), Some(1)));
    let rows = found.settled();
    let ttft: Vec<_> = rows.iter().map(|r| r.ttft_ns.map(|ns| ns / 100_000)).collect();
    assert_eq!(ttft, [Some(2500), None, None, Some(5000), Some(5000), Some(2505)]);
    let e2e: Vec<_> = rows.iter().map(|r| r.e2e_ns.map(|ns| ns / 1_000_000)).collect();
    assert_eq!(e2e, [Some(500), None, None, Some(750), Some(500), Some(1500)]);
    let status: Vec<&str> = rows.iter().map(|r| r.status.as_str()).collect();
    assert_eq!(status, ["completed", "incomplete", "reset", "completed", "completed", "completed"]);

    for (from, to, reason) in [
        ("\"prompt_tokens\": 10", "\"x\": 10", "missing `prompt_tokens`"),
        ("\"output_tokens\": 3", "\"output_tokens\": [3]", "`output_tokens` is a list"),
        ("100.75", "-5", "`first_token_iteration` is -5: negative"),
        ("\"request_start\": 100.5", "\"request_start\": NaN", "missing `request_start`"),
    ] {
        let found = page(&report(&now.replace(from, to)));
        let [(_, _, why)] = found.reasons()[..] else { panic!("{to}: {:?}", found.problems) };
        assert!(why.starts_with("benchmarks[0].requests.successful[0]: ") && why.contains(reason), "{why}");
        assert_eq!(found.rows.num_rows(), 5);
    }
    let failure = of(report("").replace("[],", "[").as_bytes(), |_| ()).err().unwrap();
    assert!(failure.to_string().contains("not valid JSON"), "{failure}");
}

#[test]
fn records_of_aiperf_say_their_units() {
    let good = r#"{"metadata": {"x_request_id": "q", "x_correlation_id": "u", "turn_index": 2, "request_start_ns": 1000000, "request_end_ns": 9000000, "benchmark_phase": "profiling", "was_cancelled": false}, "metrics": {"input_sequence_length": {"value": 55.0, "unit": "tokens"}, "output_sequence_length": {"value": 3, "unit": "tokens"}, "reasoning_token_count": {"value": 2}, "num_images": {"value": 1}, "time_to_first_token": {"value": 2500, "unit": "us"}, "request_latency": {"value": 6.5, "unit": "ms"}, "inter_token_latency": {"value": 0.002, "unit": "s"}}, "error": null}"#;
    let warm = good.replace("profiling", "warmup").replace("request_latency", "x").replace("inter_token_latency", "y");
    let lost = r#"{"metadata": {"request_start_ns": 2000000, "was_cancelled": true, "cancellation_time_ns": 2500000}, "metrics": {"error_isl": {"value": 9}}, "error": {"code": 499, "type": "Cancelled"}}"#;
    let unknown = lost.replace("error_isl", "x");
    let found = page(&[good, &warm, lost, &unknown].join("\n"));
    assert_eq!((found.format, found.reasons(), found.counts.passed_over), (Format::Aiperf, vec![], 1));
    assert_eq!(found.arrivals(), [1_000_000, 1_000_000, 2_000_000]);
    assert_eq!((found.ints("input_tokens"), found.ints("output_tokens")), (vec![55, 55, 9], vec![3, 3, 1]));
    assert_eq!(
        (found.texts("session_id"), found.optional("turn")),
        (vec![text("u"), text("u"), None], vec![Some(2), Some(2), None])
    );
    assert_eq!(found.raw(|r| &r.name), ["q", "q", ""]);
    let rows = found.settled();
    assert_eq!((rows[0].ttft_ns, rows[0].e2e_ns, rows[0].tpot_ns), (Some(2_500_000), Some(6_500_000), Some(2_000_000)));
    // Without a latency, the end of the last response.
    assert_eq!((rows[1].e2e_ns, rows[1].tpot_ns), (Some(8_000_000), Some(2_750_000)));
    assert_eq!([0, 1, 2].map(|i| rows[i].status.as_str()), ["completed", "warmup", "Cancelled"]);
    assert_eq!(found.optional("reasoning_tokens"), [Some(2), Some(2), None]);
    assert_eq!((found.optional("images")[0], found.optional("cancel_ns")), (Some(1), vec![None, None, Some(500_000)]));
    for (from, to, reason) in [
        ("\"metadata\"", "\"x\"", "missing `metadata`"),
        ("\"unit\": \"us\"", "\"unit\": \"h\"", "`time_to_first_token` has the unit `h`"),
        ("\"value\": 2500", "\"value\": [1]", "`time_to_first_token` is not a number"),
        ("\"input_sequence_length\"", "\"x\"", "missing `input_sequence_length`"),
        ("\"request_start_ns\": 1000000", "\"request_start_ns\": -1", "`request_start_ns` is -1: negative"),
        ("\"value\": 3,", "\"value\": 0,", "is 0: expected at least 1 token"),
    ] {
        let found = page(&[good, &good.replace(from, to)].join("\n"));
        let [(2, _, why)] = found.reasons()[..] else { panic!("{to}: {:?}", found.problems) };
        assert!(why.contains(reason), "{why}");
    }
}

#[test]
fn profiles_of_genai_perf_have_texts_and_what_was_observed() {
    let piece = |text: &str| {
        format!(r#"{{"response": "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"}}"#)
    };
    let pieces = [piece(""), piece("a "), piece("b"), r#"{"response": "data: [DONE]\n\n"}"#.to_string()].join(",");
    let payload = r#"{\"model\":\"m\",\"max_tokens\":8,\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]}"#;
    let openai = format!(
        r#"{{"timestamp": 1000, "request_inputs": {{"payload": "{payload}"}}, "response_timestamps": [1100, 1200, 1500, 1600], "response_outputs": [{pieces}]}}"#
    );
    let triton = r#"{"timestamp": 500, "request_inputs": {"text_input": "t"}, "response_timestamps": [900], "response_outputs": [{"text_output": "x"}]}"#;
    let profile =
        |first: &str| format!("{{\"experiments\": [{{\"requests\": [{first}]}},\n{{\"requests\": [{triton}]}}]}}");
    let found = page(&profile(&openai));
    assert_eq!((found.format, found.reasons()), (Format::GenaiPerf, vec![]));
    assert_eq!(found.arrivals(), [1000, 500]);
    assert_eq!(
        (found.optional("observed_ttft_ns"), found.optional("observed_e2e_ns")),
        (some(&[200, 400]), some(&[500, 400]))
    );
    assert_eq!(found.texts("observed_status"), vec![text("completed"); 2]);
    assert_eq!(
        (found.lists("input"), found.texts("output")),
        (vec![vec!["q".to_string()], vec!["t".to_string()]], vec![text("a b"), text("x")])
    );
    assert_eq!(found.lists("roles"), [vec!["user"], vec![]]);
    assert_eq!((found.texts("model"), found.optional("max_tokens")), (vec![text("m"), None], vec![Some(8), None]));
    for (from, to, reason) in [
        ("[1100, 1200, 1500, 1600]", "[1100]", "1 `response_timestamps` and 4 `response_outputs`"),
        ("1200, 1500", "1500, 1200", "run backwards"),
        ("\"timestamp\": 1000", "\"timestamp\": -1", "`timestamp` is -1: negative"),
        ("\"timestamp\"", "\"x\"", "missing `timestamp`"),
        ("\\\"messages\\\"", "\\\"x\\\"", "in `payload`: has none of `messages`"),
        ("\"payload\"", "\"x\"", "neither `payload` nor `text_input`"),
        ("[DONE]", "{", "in `response`: not valid JSON"),
    ] {
        let found = page(&profile(&openai.replace(from, to)));
        let [(1, _, why)] = found.reasons()[..] else { panic!("{to}: {:?}", found.problems) };
        assert!(why.starts_with("experiments[0].requests[0]: ") && why.contains(reason), "{why}");
        assert_eq!(found.rows.num_rows(), 1);
    }
    let silent = openai.replace("\\\"content\\\"", "\\\"none\\\"");
    assert!(page(&profile(&silent)).reasons()[0].2.contains("has no reply"));
}

#[test]
fn requests_of_inference_perf_are_read_in_both_forms() {
    let now = r#"{"start_time": 10.5, "end_time": 12, "request": "{\"model\": \"m\", \"max_tokens\": 64}", "info": {"request_metrics": {"text": {"input_tokens": 30}}, "response_metrics": {"output_tokens": 3, "output_token_times": [10.75, 11, 11.5]}}, "error": null}"#;
    let before = r#"{"start_time": 11, "end_time": 12, "request": "no json", "info": {"input_tokens": 31, "output_tokens": 2, "output_token_times": []}, "error": null}"#;
    let lost = r#"{"start_time": 12, "end_time": 13, "info": {"input_tokens": 32}, "error": {"error_type": "Timeout", "error_msg": "x"}}"#;
    let unknown = r#"{"start_time": 12, "end_time": 13, "info": null, "error": {"error_type": "Timeout"}}"#;
    let found = page(&format!("[{now},\n{before},\n{lost},\n{unknown}]"));
    assert_eq!((found.format, found.reasons(), found.counts.passed_over), (Format::InferencePerf, vec![], 1));
    assert_eq!(found.arrivals(), [10_500_000_000, 11_000_000_000, 12_000_000_000]);
    assert_eq!((found.ints("input_tokens"), found.ints("output_tokens")), (vec![30, 31, 32], vec![3, 2, 1]));
    assert_eq!(found.texts("model"), [text("m"), None, None]);
    assert_eq!(found.optional("max_tokens"), [Some(64), None, None]);
    let rows = found.settled();
    assert_eq!(
        (rows[0].ttft_ns, rows[0].e2e_ns, rows[0].tpot_ns),
        (Some(250_000_000), Some(1_000_000_000), Some(375_000_000))
    );
    assert_eq!((rows[1].ttft_ns, rows[1].e2e_ns), (None, Some(1_000_000_000)));
    assert_eq!((rows[2].e2e_ns, rows[2].status.as_str()), (None, "Timeout"));
    for (from, to, reason) in [
        ("\"input_tokens\": 30", "\"x\": 30", "missing `input_tokens`"),
        ("[10.75, 11, 11.5]", "7", "`info.response_metrics.output_token_times` is not a list"),
        ("\"start_time\": 10.5", "\"start_time\": \"?\"", "`start_time` is `?`"),
        ("11.5]", "-1]", "`end_time` is -1: negative"),
    ] {
        let found = page(&format!("[{before},\n{}]", now.replace(from, to)));
        let [(2, _, why)] = found.reasons()[..] else { panic!("{to}: {:?}", found.problems) };
        assert!(why.contains(reason), "{why}");
    }
    let cut = page(&format!("[{before},\n{}", &now[..40]));
    assert!(cut.rows.num_rows() == 1 && cut.reasons()[0].2.contains("not valid JSON"), "{:?}", cut.problems);
}

#[test]
fn detailed_results_are_measured_or_numbered() {
    let event = |kind: &str, at: &str| format!(r#"{{"event_type": "{kind}", "timestamp": {at}}}"#);
    let events = [
        event("SERVER_HIT", "5.5"),
        event("QUEUED", "5.51"),
        event("SCHEDULED", "5.6"),
        event("FINISHED", "6.4"),
        event("SERVER_LEFT", "6.5"),
    ];
    let good = format!(
        r#"{{"input_text": "q", "generated_text": "r", "input_len": 40, "output_len": 9, "error": "", "events": [{}]}}"#,
        events.join(",")
    );
    let lost = format!(
        r#"{{"input_text": "q", "input_len": 41, "output_len": 0, "error": "timed out", "events": [{}]}}"#,
        event("SERVER_HIT", "6")
    );
    let found = page(&format!("{{\"prompts\": [\n{good},\n{lost}]}}"));
    assert_eq!((found.format, found.reasons()), (Format::DetailedResults, vec![]));
    assert_eq!(found.arrivals(), [5_500_000_000, 6_000_000_000]);
    assert_eq!((found.ints("input_tokens"), found.ints("output_tokens")), (vec![40, 41], vec![9, 1]));
    let rows = found.settled();
    assert_eq!((rows[0].queue_ns, rows[0].ttft_ns, rows[0].e2e_ns), (Some(100_000_000), None, Some(1_000_000_000)));
    assert_eq!((rows[1].e2e_ns, rows[1].status.as_str(), rows[1].no_reply), (None, "timed out", true));
    let bad = page(&format!("{{\"prompts\": [\n{good},\n{}]}}", good.replace("SERVER_HIT", "x")));
    assert_eq!(bad.reasons(), [(3, 1, "prompts[1]: missing `SERVER_HIT`")]);

    let ids = |from: u32, n: u32| (from..from + n).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    let numbered = |from: u32, at: &str| {
        format!(
            r#"{{"input_text": [{}], "generated_text": [{}], "input_len": 40, "arrival_time": {at}}}"#,
            ids(0, 32) + "," + &ids(from, 8),
            ids(from, 8)
        )
    };
    let content = format!("{{\"prompts\": [{},\n{}]}}", numbered(100, "0"), numbered(200, "1500"));
    let found = page(&content);
    assert_eq!((found.format, found.reasons(), found.measured.len()), (Format::DetailedResults, vec![], 0));
    assert_eq!(
        (found.arrivals(), found.ints("input_tokens"), found.ints("output_tokens")),
        (vec![0, 1_500_000], vec![40, 40], vec![8, 8])
    );
    let hashes = found.hashes();
    assert_eq!((hashes[0].len(), &hashes[0][..2]), (3, &hashes[1][..2]));
    assert_ne!(hashes[0][2], hashes[1][2]);
    assert_eq!(found.optional("block_tokens"), some(&[16, 16]));
    let bad = page(&content.replace("1500", "-1").replace("[0,1,", "[0,\"x\","));
    let reasons = bad.reasons();
    assert!(reasons[0].2.contains("`input_text` has an item that is not a whole number"), "{reasons:?}");
    assert!(reasons[1].2.contains("`arrival_time` is -1"), "{reasons:?}");
}

#[test]
fn documents_of_no_known_form_say_what_they_have() {
    let failure = of("{\n  \"a\": 1,\n  \"b\": {\"c\": 2}\n}\n", |_| ()).err().unwrap();
    assert!(
        failure.to_string().contains("is a JSON document of a form that is not known, with `a`, `b`, `b.c`"),
        "{failure}"
    );
    let failure = of("{\n  \"benchmarks\": []\n}", |s| s.format = Format::Mooncake).err().unwrap();
    assert!(failure.to_string().contains("was said to be mooncake, but is one JSON document"), "{failure}");
    let failure = of("[{\"benchmarks\": []}]", |s| s.format = Format::Guidellm).err().unwrap();
    assert!(failure.to_string().contains("was said to be guidellm, but is a JSON list"), "{failure}");
    let failure = of("a,b\n1,2\n", |s| s.format = Format::Aiperf).err().unwrap();
    assert!(failure.to_string().contains("was said to be aiperf, but is text"), "{failure}");
    // A first row that is broken does not make a document of the file.
    let found = page("{\"input_tokens\":1,\"output_tokens\":2\n{\"input_tokens\":1,\"output_tokens\":2}\n");
    assert_eq!((found.format, found.rows.num_rows(), found.problems.len()), (Format::Jsonl, 1, 1));
}

#[test]
fn nothing_that_a_file_holds_is_a_panic() {
    let samples = super::super::sample_documents::files();
    let mut draw = sample::Draw::new(77);
    for (name, bytes) in samples {
        let settings = settings(&super::samples().join(name));
        let format = looks(&settings).unwrap().format();
        for _ in 0..60 {
            let mut content = bytes.clone();
            for _ in 0..1 + draw.below(6) {
                let at = draw.below(content.len() as u64) as usize;
                // A byte of JSON's own, or of another place of the file.
                let other = content[draw.below(content.len() as u64) as usize];
                let byte = *[b'"', b'[', b']', b'{', b'}', b'0', b'-', b',', b'\\', 0xFF, other, other]
                    .get(draw.below(12) as usize)
                    .unwrap_or(&other);
                match draw.below(3) {
                    0 => content[at] = byte,
                    1 => content.insert(at, byte),
                    _ => drop(content.remove(at)),
                }
            }
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &content).unwrap();
            let settings = Settings { format, ..super::settings(file.path()) };
            let found = read(&settings);
            // Where the file is cut changes nothing.
            let cut = read_by(&settings, Some(1 + draw.below(500) as usize));
            if let (Ok(found), Ok(cut)) = (&found, &cut) {
                assert_eq!(
                    (&found.rows, &found.problems, found.counts),
                    (&cut.rows, &cut.problems, cut.counts),
                    "{name}"
                );
            }
            assert_eq!(found.as_ref().err().map(ToString::to_string), cut.err().map(|e| e.to_string()), "{name}");
            if let Ok(found) = found {
                let arrivals = found.optional("arrival_ns");
                assert!(arrivals.iter().flatten().all(|ns| *ns >= 0), "{name}");
                if let Some(inputs) = found.rows.column_by_name("input_tokens") {
                    assert!(inputs.as_primitive::<Int32Type>().values().iter().all(|n| *n > 0), "{name}");
                    settle(format, &found.measured, &arrivals, &found.ints("output_tokens"), 0);
                }
            }
        }
    }
}

#[test]
fn a_client_trace_fills_the_columns_of_the_table() {
    let header = "request_id,client_id,tenant_id,slo_class,vllm_priority,session_id,round_index,prefix_group,prefix_length,streaming,\
                  input_tokens,output_tokens,text_tokens,image_tokens,audio_tokens,video_tokens,reason_ratio,model,deadline_us,\
                  server_input_tokens,arrival_time_us,send_time_us,first_chunk_time_us,last_chunk_time_us,num_chunks,status,\
                  error_message,finish_reason,adapter,think_time_us";
    let rows = [
        "0,c1,t1,batch,3,s,2,,0,true,100,10,40,30,20,10,0.25,m,5000,0,1000,1500,2000,2900,10,ok,,stop,a,250",
        "1,,,,0,,0,,0,true,100,10,100,0,0,0,0,,0,0,1000,1600,2000,2900,10,ok,,,,",
        "2,,,,0,,0,,0,true,100,10,100,0,0,0,2,,0,0,1000,1600,2000,2900,10,ok,,,,",
        "3,,,,0,,0,,0,true,100,10,100,0,0,0,0,,1,0,1000,1600,2000,2900,10,ok,,,,",
    ];
    let found = page(&format!("{header}\n{}\n", rows.join("\n")));
    assert_eq!((found.format, found.rows.num_rows()), (Format::TraceV2, 2));
    let texts = ["client", "tenant", "class", "session_id", "model", "adapter"].map(|name| found.texts(name));
    let expect = ["c1", "t1", "batch", "s", "m", "a"].map(|name| vec![text(name), None]);
    assert_eq!(texts, expect);
    let ints =
        ["turn", "encoder_tokens", "reasoning_tokens", "deadline_ns", "think_ns"].map(|name| found.optional(name));
    // A quarter of a reply of 10 tokens is 2.5, rounded to 3; the deadline is 3.5 ms after the request was sent.
    let expect = [2, 60, 3, 3_500_000, 250_000].map(|n| vec![Some(n), None]);
    assert_eq!(ints, expect);
    assert_eq!(found.optional("priority"), some(&[3, 0]));
    let reasons = found.reasons();
    assert!(reasons[0].0 == 4 && reasons[0].2.contains("`reason_ratio` is `2`: expected a share"), "{reasons:?}");
    assert!(reasons[1].0 == 5 && reasons[1].2.contains("`deadline_us` is before the request was sent"), "{reasons:?}");
    let gaps = of("request_id,chunk_index,timestamp_us\n0,0,1\n", |_| ()).err().unwrap();
    assert!(gaps.to_string().contains("times between tokens of a trace: read the trace beside it"), "{gaps}");
}

#[test]
fn a_published_client_trace() {
    let Some(path) = published("../measured/vllm-0.11-h100/trace_jan21-llama7b-train-1.csv") else { return };
    let found = read(&settings(&path)).unwrap();
    assert_eq!((found.format, found.rows.num_rows(), found.problems.len()), (Format::TraceV2, 282, 0));
    let sum = |name: &str| found.ints(name).iter().map(|n| i64::from(*n)).sum::<i64>();
    assert_eq!((sum("input_tokens"), sum("output_tokens")), (534_472, 122_941));
    // What its client did not know is written as 0 there.
    for name in ["turn", "encoder_tokens", "reasoning_tokens", "deadline_ns", "think_ns"] {
        assert_eq!(found.rows.column_by_name(name).unwrap().null_count(), 282, "{name}");
    }
    assert!(found.settled().iter().all(|row| row.ttft_ns.is_some() && row.e2e_ns >= row.ttft_ns));
}
