//! Formats of a row per line, or a few: every column with its unit, what is refused, and published files.

use std::collections::{BTreeMap, HashSet};

use arrow::datatypes::Float64Type;

use super::*;

/// A column as JSON, row by row.
fn column(found: &Read, name: &str) -> Vec<serde_json::Value> {
    let values = found.rows.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
    let one = |i: usize| {
        if values.is_null(i) {
            return serde_json::Value::Null;
        }
        match values.data_type() {
            arrow::datatypes::DataType::Utf8 => values.as_string::<i32>().value(i).into(),
            arrow::datatypes::DataType::Int32 => values.as_primitive::<Int32Type>().value(i).into(),
            arrow::datatypes::DataType::Int64 => values.as_primitive::<Int64Type>().value(i).into(),
            arrow::datatypes::DataType::Float64 => values.as_primitive::<Float64Type>().value(i).into(),
            arrow::datatypes::DataType::List(item) if *item.data_type() == arrow::datatypes::DataType::Int64 => {
                values.as_list::<i32>().value(i).as_primitive::<Int64Type>().values().to_vec().into()
            }
            arrow::datatypes::DataType::List(_) => {
                values.as_list::<i32>().value(i).as_primitive::<UInt64Type>().values().to_vec().into()
            }
            other => panic!("{other}"),
        }
    };
    (0..values.len()).map(one).collect()
}

/// Checks the columns that are named, and that all others are empty.
fn check(name: &str, found: &Read, expect: serde_json::Value) {
    assert_eq!(found.problems, [], "{name}");
    let expect: BTreeMap<String, serde_json::Value> = serde_json::from_value(expect).unwrap();
    for field in found.rows.schema().fields() {
        let got = column(found, field.name());
        match expect.get(field.name()) {
            Some(expected) => assert_eq!(&serde_json::Value::from(got), expected, "{name}: {}", field.name()),
            None if field.name() == "request_id" => assert!(got.iter().all(|n| *n == 0), "{name}: request_id"),
            None => assert!(got.iter().all(serde_json::Value::is_null), "{name}: {} is {got:?}", field.name()),
        }
    }
    assert!(expect.keys().all(|name| found.rows.column_by_name(name).is_some()));
}

fn key(name: &str) -> i64 {
    super::super::extra::key(name.as_bytes())
}

#[test]
fn samples_of_flat_formats_are_detected_and_read_whole() {
    let cases = [
        ("agentic_mooncake.jsonl", Format::Mooncake, Some(Links::Names)),
        ("apex.jsonl", Format::Apex, None),
        ("azure_multimodal.csv.gz", Format::Azure, None),
        ("burstgpt.csv", Format::Burstgpt, None),
        ("burstgpt_v1.csv", Format::Burstgpt, None),
        ("dynamo.jsonl.gz", Format::Dynamo, Some(Links::Times)),
        ("guidellm_trace.jsonl", Format::GuidellmTrace, None),
        ("llmservingsim.jsonl", Format::Llmservingsim, None),
        ("llmservingsim_agents.jsonl", Format::Llmservingsim, Some(Links::Names)),
        ("mooncake.jsonl", Format::Mooncake, None),
        ("ragpulse/0_trace.jsonl", Format::Ragpulse, None),
        ("splitwise.csv", Format::Splitwise, None),
        ("weka.jsonl", Format::Weka, Some(Links::Names)),
    ];
    for (name, format, links) in cases {
        let path = samples().join(name);
        let settings = settings(&path);
        let found = read(&settings).unwrap();
        assert_eq!((found.format, looks(&settings).unwrap().links()), (format, links), "{name}");
        assert_eq!(found.problems, [], "{name}");
        assert!(found.rows.num_rows() >= 12, "{name}: {}", found.rows.num_rows());
        // Named, it is read the same.
        let mut named = settings.clone();
        named.format = format;
        assert_eq!(read(&named).unwrap().rows, found.rows, "{name}");
        assert!(std::fs::metadata(&path).unwrap().len() < 32 << 10, "{name} is large");
    }
}

#[test]
fn azure_counts_images() {
    let found =
        of("TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n1970-01-01 00:00:01.5,2,900,3\n", |_| ()).unwrap();
    let expect = serde_json::json!({
        "arrival_ns": [1_500_000_000], "input_tokens": [900], "output_tokens": [3], "images": [2],
    });
    check("azure", &found, expect);
}

#[test]
fn burstgpt_keeps_failures() {
    let new = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
               45.5,7,1.25,GPT-4,20,30,50,Conversation log\n46,,0.1,ChatGPT,9,0,9,API log\n";
    let found = of(new, |_| ()).unwrap();
    let expect = serde_json::json!({
        "arrival_ns": [45_500_000_000i64, 46_000_000_000i64], "session_id": ["7", null], "model": ["GPT-4", "ChatGPT"],
        "class": ["Conversation log", "API log"], "observed_e2e_ns": [1_250_000_000, 100_000_000],
        "observed_status": ["completed", "failed"], "input_tokens": [20, 9], "output_tokens": [30, 1],
    });
    check("burstgpt", &found, expect);
    assert_eq!(found.counts, Counts { failed: 1, ..Counts::default() });
    let old = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,API log\n";
    let expect = serde_json::json!({
        "arrival_ns": [5_000_000_000i64], "model": ["ChatGPT"], "class": ["API log"], "observed_status": ["completed"],
        "input_tokens": [472], "output_tokens": [18],
    });
    check("burstgpt 1", &of(old, |_| ()).unwrap(), expect);
}

#[test]
fn splitwise_apex_and_guidellm_have_their_units() {
    let splitwise = "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n\
                     0,2,3,0.25,1,100,7\n";
    let expect = serde_json::json!({
        "arrival_ns": [250_000_000], "tenant": ["3"], "input_tokens": [100], "output_tokens": [7],
    });
    check("splitwise", &of(splitwise, |_| ()).unwrap(), expect);
    let apex = r#"{"StartTimeOffset": 1500, "RequestID": "a", "ContextTokens": 5, "GeneratedTokens": 6, "text": "x"}"#;
    let expect = serde_json::json!({ "arrival_ns": [1500], "input_tokens": [5], "output_tokens": [6] });
    check("apex", &of(apex, |_| ()).unwrap(), expect);
    let row = |t: &str| format!("{{\"timestamp\": {t}, \"input_length\": 5, \"output_length\": 6}}\n");
    let seconds = of(row("0") + &row("1.5"), |_| ()).unwrap();
    assert_eq!((seconds.format, seconds.arrivals()), (Format::GuidellmTrace, vec![0, 1_500_000_000]));
    let named = of(row("0") + &row("2"), |s| s.format = Format::GuidellmTrace).unwrap();
    assert_eq!(named.arrivals(), [0, 2_000_000_000]);
    // Whole numbers, or hashes, are Mooncake's.
    let whole = of(row("0") + &row("2"), |_| ()).unwrap();
    assert_eq!((whole.format, whole.arrivals()), (Format::Mooncake, vec![0, 2_000_000]));
    let hashes = row("1.5").replace('}', ", \"hash_ids\": [1]}");
    assert_eq!(of(hashes, |_| ()).unwrap().format, Format::Mooncake);
}

#[test]
fn mooncake_has_sessions_and_agents() {
    let text = r#"{"session_id":"s","timestamp":1000,"input_length":600,"output_length":5,"hash_ids":[1,2]}
{"session_id":"s","delay":50.5,"input_tokens":7,"input_length":610,"output_length":6,"hash_ids":[1,2]}
{"request_id":"a","timestamp":3,"input_length":9,"output_length":1,"hash_ids":[],"policy_class":"x","branches":["b"]}
{"request_id":"b","wait_for":["a","c"],"delay_ms":2,"tool_wait_ms":"3.5","input_length":9,"output_length":1}
"#;
    let found = of(text, |_| ()).unwrap();
    let expect = serde_json::json!({
        "request_id": [0, 0, key("a"), key("b")],
        "arrival_ns": [1_000_000_000, null, 3_000_000, null],
        "session_id": ["s", "s", null, null],
        "think_ns": [null, 50_500_000, null, 5_500_000],
        "depends_on": [null, null, null, [key("a"), key("c")]],
        "class": [null, null, "x", null],
        "input_tokens": [600, 610, 9, 9], "output_tokens": [5, 6, 1, 1],
        "block_hashes": [[1, 2], [1, 2], [], null], "block_tokens": [512, 512, 512, null],
    });
    check("mooncake", &found, expect);
    assert_eq!(found.counts.string_numbers, 1);
    let lost = of(
        "{\"request_id\":\"a\",\"timestamp\":0,\"input_length\":9,\"output_length\":1}\n{\"request_id\":\"b\",\
                   \"input_length\":9,\"output_length\":1}",
        |s| s.format = Format::Mooncake,
    );
    assert!(lost.unwrap().problems[0].reason.contains("missing `timestamp`"));
    let other = r#"{"created_time": 2, "input_tokens": 3, "output_tokens": 4, "hash_ids": [1]}"#;
    let found = of(other, |_| ()).unwrap();
    assert_eq!(
        (found.format, found.arrivals(), found.ints("input_tokens")),
        (Format::Mooncake, vec![2_000_000], vec![3])
    );
}

const EVENT: &str = r#"{"schema":"dynamo.request.trace.v1","event_type":"request_end","event_time_unix_ms":1900,"agent_context":{"session_id":"c","parent_session_id":"p"},"request":{"request_id":"r","model":"m","output_tokens":16,"request_received_ms":1000,"ttft_ms":120.5,"replay":{"trace_block_size":64,"input_length":128,"input_sequence_hashes":[14879255164371896291,2]}}}"#;

#[test]
fn dynamo_reads_the_ends_of_requests() {
    let tool = r#"{"schema":"dynamo.request.trace.v1","event_type":"tool_end","tool":{}}"#;
    let took = EVENT.replace("\"ttft_ms\":120.5", "\"total_time_ms\":800");
    let expect = serde_json::json!({
        "arrival_ns": [1_000_000_000, 1_000_000_000], "session_id": ["c", "c"], "model": ["m", "m"],
        "observed_ttft_ns": [120_500_000, null], "observed_e2e_ns": [900_000_000, 800_000_000],
        "input_tokens": [128, 128], "output_tokens": [16, 16],
        "block_hashes": [[14879255164371896291u64, 2], [14879255164371896291u64, 2]], "block_tokens": [64, 64],
    });
    let found = of(format!("{tool}\n{EVENT}\n{took}\n"), |_| ()).unwrap();
    check("dynamo", &found, expect.clone());
    assert_eq!(found.counts.other_events, 1);
    let wrapped = format!("{{\"timestamp\":1,\"event\":{EVENT}}}\n{{\"timestamp\":1,\"event\":{took}}}\n");
    check("wrapped", &of(wrapped, |_| ()).unwrap(), expect);
    let (parser, mut chunks) = {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), EVENT).unwrap();
        open(&settings(file.path()), Box::new(|_| ())).unwrap()
    };
    let parsed = parser.parse(chunks.next_chunk().unwrap().unwrap()).unwrap();
    assert_eq!(parsed.parent_sessions, [Some("p".to_string())]);
}

#[test]
fn llmservingsim_has_agents_beside_requests() {
    let text = r#"{"session_id":"a","arrival_time_ns":100,"sub_requests":[{"input_toks":4,"output_toks":2,"tool_duration_ns":30,"input_tok_ids":[1,2,3,4],"output_tok_ids":[5,6]},{"input_toks":"9","output_toks":0}]}
{"input_toks":3,"output_toks":1,"arrival_time_ns":7,"input_tok_ids":[1,2,9],"output_tok_ids":[8]}
{"arrival_time_ns":5,"sub_requests":[{"input_toks":1,"output_toks":1}]}
"#;
    let found = of(text, |s| s.block_tokens = Some(2)).unwrap();
    let hashes = found.hashes();
    let expect = serde_json::json!({
        "request_id": [key("1/0"), key("1/1"), 0, key("3/0")],
        "arrival_ns": [100, 130, 7, 5], "session_id": ["a", "a", null, "line 3"], "turn": [0, 1, null, 0],
        "think_ns": [null, 30, null, null], "depends_on": [null, [key("1/0")], null, null],
        "input_tokens": [4, 9, 3, 1], "output_tokens": [2, 1, 1, 1],
        "block_hashes": [hashes[0], null, hashes[2], null], "block_tokens": [2, null, 2, null],
    });
    check("llmservingsim", &found, expect);
    assert_eq!(found.counts.zero_outputs, 1);
    // Blocks of prompt and reply; those of the same tokens are the same.
    assert_eq!((hashes[0].len(), hashes[2].len(), hashes[0][0] == hashes[2][0]), (3, 2, true));
}

#[test]
fn weka_conversations_keep_their_blocks_to_themselves() {
    let text = r#"{"id":"x","models":["m"],"block_size":4,"hash_id_scope":"local","requests":[{"t":0.0,"type":"s","model":"m","in":8,"out":2,"hash_ids":[0,1],"api_time":1.5,"ttft":0.25},{"t":2.0,"type":"subagent","agent_id":"h","subagent_type":"explore","requests":[{"t":0.5,"type":"n","in":4,"out":1,"hash_ids":[0],"api_time":1}]},{"t":4.0,"type":"n","in":9,"out":3,"hash_ids":[0,1],"think_time":2.5}]}
{"id":"y","block_size":4,"requests":[{"t":0,"in":8,"out":2,"hash_ids":[0,1]},{"t":1,"in":0,"out":0}]}
"#;
    let found = of(text, |_| ()).unwrap();
    let hashes = found.hashes();
    let expect = serde_json::json!({
        "request_id": [key("1/0"), key("1/1"), key("1/2"), key("2/0"), key("2/1")],
        // The helper's time counts from its own start, at 2 s.
        "arrival_ns": [0, 2_500_000_000i64, 4_000_000_000i64, 0, 1_000_000_000],
        "session_id": ["x", "x", "x", "y", "y"], "turn": [0, 1, 2, 0, 1],
        "class": [null, "explore", null, null, null], "model": ["m", null, null, null, null],
        "depends_on": [null, [key("1/0")], [key("1/0"), key("1/1")], null, [key("2/0")]],
        "think_ns": [null, 1_000_000_000, 500_000_000, null, 1_000_000_000],
        "observed_ttft_ns": [250_000_000, null, null, null, null],
        "observed_e2e_ns": [1_500_000_000, 1_000_000_000, null, null, null],
        "input_tokens": [8, 4, 9, 8, 1], "output_tokens": [2, 1, 3, 2, 1],
        "block_hashes": [hashes[0], hashes[1], hashes[2], hashes[3], null], "block_tokens": [4, 4, 4, 4, null],
    });
    check("weka", &found, expect);
    assert_eq!((found.counts.zero_inputs, found.counts.zero_outputs), (1, 1));
    assert_eq!((hashes[0][0], hashes[0].clone()), (hashes[1][0], hashes[2].clone()));
    let all: HashSet<u64> = hashes.into_iter().flatten().collect();
    assert_eq!(all.len(), 4);
    let global = of(text.replace("\"local\"", "\"global\""), |_| ()).unwrap();
    assert_eq!(global.hashes()[0], [0, 1]);
    // One request a line, of 64-token blocks.
    let flat = "{\"id\":\"x\",\"t\":\"0.5\",\"in\":65,\"out\":2,\"hash_ids\":[5,6]}\n";
    let found = of(flat, |_| ()).unwrap();
    let expect = serde_json::json!({
        "arrival_ns": [500_000_000], "session_id": ["x"], "input_tokens": [65], "output_tokens": [2],
        "block_hashes": [found.hashes()[0]], "block_tokens": [64],
    });
    check("weka, flat", &found, expect);
    assert_eq!(found.counts.string_numbers, 1);
}

#[test]
fn ragpulse_makes_blocks_of_parts() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("0_trace.jsonl");
    let row = |t: u32, input: u32, system: &str, user: &str| {
        format!(
            "{{\"timestamp\": \"{t}\", \"input_length\": {input}, \"output_length\": 3, \"hash_ids\": {{\"sys_prompt\": {system}, \
             \"passages_ids\": [], \"history\": [], \"web_search\": [], \"user_input\": {user}}}, \"session_id\": \"s\"}}\n"
        )
    };
    let text = row(2, 26, "[1,2]", "[7]")
        + &row(1, 40, "[1,2]", "[8]")
        + &row(3, 9, "[2]", "[7]")
        + &row(3, 50, "[1]", "[9,7]")
        + "\n";
    std::fs::write(&trace, text).unwrap();
    let all = settings(&trace);
    let without = read(&all).unwrap();
    let mut expect = serde_json::json!({
        "arrival_ns": [2_000_000_000i64, 1_000_000_000, 3_000_000_000i64, 3_000_000_000i64],
        "session_id": ["s", "s", "s", "s"], "input_tokens": [26, 40, 9, 50], "output_tokens": [3, 3, 3, 3],
    });
    check("ragpulse without lengths", &without, expect.clone());
    assert_eq!((without.counts.blank_lines, without.counts.string_numbers), (1, 4));
    std::fs::write(
        dir.path().join("1_sys_prompt.jsonl"),
        "{\"sys_prompt_id\": 1, \"token_length\": 10}\n{\"sys_prompt_id\": 2, \
         \"token_length\": 6}\n",
    )
    .unwrap();
    std::fs::write(
        dir.path().join("4_user_input.jsonl"),
        "{\"user_input_id\": 7, \"token_length\": 8}\n\
         {\"user_input_id\": 8, \"token_length\": 20}\n\n",
    )
    .unwrap();
    assert_eq!(parts_beside(&trace).len(), 2);
    let mut small = all.clone();
    small.block_tokens = Some(4);
    let found = read(&small).unwrap();
    let hashes = found.hashes();
    expect["block_hashes"] = hashes.clone().into();
    expect["block_tokens"] = serde_json::json!([4, 4, 4, 4]);
    check("ragpulse", &found, expect);
    // 10 + 6 + 8 of 26 tokens; 10 + 6 + 20 of 40; 9 of 14, as the prompt has no more; and 10, up to the part of unknown length.
    assert_eq!(hashes.iter().map(Vec::len).collect::<Vec<_>>(), [6, 9, 2, 2]);
    assert_eq!((hashes[0][..4] == hashes[1][..4], hashes[0][4] == hashes[1][4]), (true, false));
    // The third block of the first has the end of one part and the begin of the other.
    assert_eq!((hashes[0][..2] == hashes[3][..], hashes[0][0] == hashes[2][0]), (true, false));
    std::fs::write(dir.path().join("2_passages.jsonl"), "{\"passage_id\": 1}\n").unwrap();
    let failure = read(&all).err().unwrap().to_string();
    assert!(failure.contains("2_passages.jsonl line 1: expected"), "{failure}");
}

#[test]
fn generic_files_have_all_columns_of_the_table() {
    let csv = "request_id,arrival,input_tokens,output_tokens,org,client,priority,max_tokens,acceptance,deadline_ns,timeout_ns,\
               cancel_ns,images,reasoning_tokens,observed_queue_ns,observed_ttft_ns,observed_tpot_ns,observed_e2e_ns,\
               observed_status,depends_on\n\
               a,0,9,2,t,u,-3,40,0.75,1,2,3,4,1,5,6,7,8,timeout,\n\
               b,1,9,2,,,,,,,,,,,,,,,,\"[\"\"a\"\"]\"\nc,1,9,2,,,,,,,,,,,,,,,,a b\n";
    let map = |s: &mut Settings| s.columns.tenant = Some("org".into());
    let found = of(csv, map).unwrap();
    let rest = |value: serde_json::Value| serde_json::json!([value, null, null]);
    let expect = serde_json::json!({
        "request_id": [key("a"), key("b"), key("c")], "arrival_ns": [0, 1_000_000_000, 1_000_000_000],
        "input_tokens": [9, 9, 9], "output_tokens": [2, 2, 2], "tenant": rest("t".into()), "client": rest("u".into()),
        "priority": rest((-3).into()), "max_tokens": rest(40.into()), "acceptance": rest(0.75.into()),
        "deadline_ns": rest(1.into()), "timeout_ns": rest(2.into()), "cancel_ns": rest(3.into()), "images": rest(4.into()),
        "reasoning_tokens": rest(1.into()), "observed_queue_ns": rest(5.into()), "observed_ttft_ns": rest(6.into()),
        "observed_tpot_ns": rest(7.into()), "observed_e2e_ns": rest(8.into()), "observed_status": rest("timeout".into()),
        "depends_on": [null, [key("a")], [key("a"), key("b")]],
    });
    check("csv", &found, expect);
    assert_eq!(found.counts.failed, 1);
    let jsonl = "{\"request_id\":1,\"input_tokens\":9,\"output_tokens\":2,\"acceptance\":1,\"priority\":5}\n\
                 {\"request_id\":2,\"input_tokens\":9,\"output_tokens\":2,\"depends_on\":[1,\"x\"]}\n";
    let found = of(jsonl, |s| s.columns.arrival = None).unwrap();
    let expect = serde_json::json!({
        "input_tokens": [9, 9], "output_tokens": [2, 2], "acceptance": [1.0, null], "priority": [5, null],
    });
    check("jsonl without the column in its first row", &found, expect);
    let first = jsonl.replacen("\"priority\":5", "\"priority\":5,\"depends_on\":[]", 1);
    assert_eq!(column(&of(first, |_| ()).unwrap(), "depends_on")[1], serde_json::json!([key("1"), key("x")]));
    // Texts may come with what was observed, too.
    let texts = "input,output,observed_ttft_ns,tenant,images\nq,r,7,t,3\n";
    let found = of(texts, |_| ()).unwrap();
    assert_eq!(
        (column(&found, "observed_ttft_ns")[0].as_i64(), column(&found, "tenant")[0].as_str()),
        (Some(7), Some("t"))
    );
}

#[test]
fn a_table_of_requests_is_read_back_from_parquet() {
    let csv = "request_id,arrival,input_tokens,output_tokens,tenant,priority,acceptance,timeout_ns,images,observed_status,depends_on\n\
               1,0,9,2,t,-3,0.75,2,4,ok,\n2,1,9,2,,,,,,,1\n";
    let expect = of(csv, |_| ()).unwrap();
    let columns = expect.rows.schema().fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>();
    let at = |name: &str| columns.iter().position(|c| c == name).unwrap();
    let (schema, mut arrays, _) = expect.rows.clone().into_parts();
    arrays[at("request_id")] = Arc::new(arrow::array::Int64Array::from(vec![1, 2]));
    let lists = arrow::array::ListArray::from_iter_primitive::<Int64Type, _, _>([None, Some(vec![Some(1)])]);
    arrays[at("depends_on")] = arrow::compute::cast(&lists, schema.field(at("depends_on")).data_type()).unwrap();
    let table = RecordBatch::try_new(schema, arrays).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut writer = ::parquet::arrow::ArrowWriter::try_new(file.reopen().unwrap(), table.schema(), None).unwrap();
    writer.write(&table).unwrap();
    writer.close().unwrap();
    assert_eq!(read(&settings(file.path())).unwrap().rows, expect.rows);
}

#[test]
fn bad_rows_of_flat_formats_say_where_and_what() {
    let burst = |row: &str| {
        format!("Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n{row}\n")
    };
    let split = |row: &str| {
        format!("request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n{row}\n")
    };
    let lmm = |row: &str| format!("TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n{row}\n");
    let generic = |name: &str, value: &str| format!("input_tokens,output_tokens,{name}\n1,1,{value}\n");
    let rag = |ids: &str| {
        format!("{{\"timestamp\":\"1\",\"input_length\":1,\"output_length\":1,\"hash_ids\":{{\"sys_prompt\":{ids}}}}}")
    };
    let agent = |steps: &str| format!("{{\"arrival_time_ns\":0,\"sub_requests\":{steps}}}");
    let weka =
        |more: &str| format!("{{\"id\":\"x\",\"block_size\":4,\"requests\":[{{\"t\":0,\"in\":4,\"out\":1{more}}}]}}");
    let apex = |row: &str| format!("{{\"StartTimeOffset\":1,\"ContextTokens\":1,\"GeneratedTokens\":1}}\n{row}\n");
    let cases: Vec<(String, u64, u32, &str)> = vec![
        (burst("-1,,1,m,1,1,2,a"), 2, 1, "`Timestamp` is -1: negative"),
        (burst("1,,x,m,1,1,2,a"), 2, 4, "`Elapsed time` is `x`"),
        (burst("1,,1,m,1.5,1,2,a"), 2, 8, "`Request tokens` is 1.5"),
        (burst("1,,1,m,99999999999,1,2,a"), 2, 8, "too large"),
        (burst("1,,1,m,1,,2,a"), 2, 1, "missing `Response tokens`"),
        (burst("1,,1,m,1"), 2, 1, "5 fields: expected 8"),
        (split("0,2,0,1,2,1,1"), 2, 9, "`batch_size` is 2: a row is one request"),
        (split("0,2,0,1,1,-4,1"), 2, 11, "`prompt_size` is -4: negative"),
        (split("0,2,0,1e30,1,4,1"), 2, 7, "too large for a time"),
        (lmm("2024-10-15 00:00:00,-1,1,1"), 2, 21, "`NumImages` is -1: negative"),
        (lmm("2024-10-15,1,1,1"), 2, 1, "`TIMESTAMP` is"),
        (generic("priority", "high"), 2, 5, "`priority` is `high`: expected a whole number"),
        (generic("acceptance", "1.5"), 2, 5, "`acceptance` is `1.5`: expected a share"),
        (generic("deadline_ns", "-5"), 2, 5, "`deadline_ns` is -5: negative"),
        (generic("images", "x"), 2, 5, "`images` is `x`: not a number"),
        (generic("max_tokens", "99999999"), 2, 5, "`max_tokens` is 99999999: too large"),
        (generic("observed_ttft_ns", "fast"), 2, 5, "`observed_ttft_ns` is `fast`"),
        (rag("[-1]"), 1, 79, "`hash_ids.sys_prompt` has an item that is -1: negative"),
        (rag("[1"), 1, 80, "not valid JSON"),
        (rag("[]").replace("\"1\"", "\"x\""), 1, 14, "`timestamp` is `x`"),
        (rag("[]") + "\n" + &rag("[]").replace("\"output_length\":1,", ""), 2, 1, "missing `output_length`"),
        (agent("[{\"input_toks\":1}]"), 1, 38, "a request without `output_toks`"),
        (
            agent("[{\"input_toks\":1,\"output_toks\":1,\"tool_duration_ns\":-1}]"),
            1,
            89,
            "`tool_duration_ns` is -1: negative",
        ),
        (agent("[{\"input_toks\":[],\"output_toks\":1}]"), 1, 52, "`input_toks` is not a number"),
        (
            agent("[{\"input_toks\":2,\"output_toks\":1,\"input_tok_ids\":[1]}]"),
            1,
            86,
            "`input_tok_ids` has 1 items: expected 2",
        ),
        (agent("[").trim_end_matches('}').to_string(), 1, 38, "not valid JSON"),
        (agent("[]").replace("\"arrival_time_ns\":0,", ""), 1, 1, "missing `arrival_time_ns`"),
        (weka(",\"hash_ids\":[1,2]"), 1, 38, "`hash_ids` has 2 items: expected at most 1"),
        (weka(",\"hash_ids\":[-1]"), 1, 72, "`hash_ids` has an item that is -1: negative"),
        (weka(",\"api_time\":\"x\""), 1, 71, "`api_time` is `x`"),
        (weka("").replace("\"in\":4,", ""), 1, 38, "a request without `in`"),
        (weka("").replace("\"t\":0", "\"t\":-1"), 1, 43, "`t` is -1: negative"),
        (weka("").replace("[{", "[{{"), 1, 39, "not valid JSON"),
        (weka("").replace("\"block_size\":4", "\"hash_id_scope\":\"here\""), 1, 27, "`hash_id_scope` is `here`"),
        (EVENT.replace("1000,", "-1,"), 1, 230, "request_received_ms` is -1: negative"),
        (EVENT.replace("\"output_tokens\":16,", ""), 1, 1, "missing `request.output_tokens`"),
        (EVENT.replace("\"trace_block_size\":64,", ""), 1, 1, "set `block_tokens`"),
        (EVENT.replace("\"request_end\"", "7"), 1, 50, "`event_type` is not text"),
        (EVENT[..EVENT.len() - 1].to_string(), 1, 352, "not valid JSON"),
        (apex("{\"StartTimeOffset\":1,\"ContextTokens\":1}"), 2, 1, "missing `GeneratedTokens`"),
        (apex("{\"StartTimeOffset\":true,\"ContextTokens\":1,\"GeneratedTokens\":1}"), 2, 20, "is true or false"),
        (apex("{\"StartTimeOffset\":1,\"ContextTokens\":1,\"Generated"), 2, 40, "a string that does not end"),
    ];
    let mut wrong = Vec::new();
    for (content, line, column, reason) in cases {
        let found = of(&content, |_| ()).unwrap_or_else(|e| panic!("{content}: {e}"));
        let got: Vec<_> = found.problems.iter().map(|p| (p.line, p.column, p.reason.as_str())).collect();
        if !matches!(got[..], [(l, c, r)] if (l, c) == (line, column) && r.contains(reason)) {
            wrong.push(format!("{content}: {got:?}, expected {:?}", (line, column, reason)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_without_a_column_of_their_format_are_refused() {
    let cases = [
        ("Timestamp,Model,Request tokens\n", Format::Burstgpt, "has no column `Response tokens`"),
        ("arrival_timestamp,prompt_size\n", Format::Splitwise, "has no column `token_size`"),
        ("{\"a\":1}\n", Format::Burstgpt, "was said to be burstgpt, but is JSON lines"),
        ("a,b\n1,2\n", Format::Weka, "was said to be weka, but is text"),
        ("a,b\n1,2\n", Format::Dynamo, "was said to be dynamo, but is text"),
        ("[]", Format::Ragpulse, "was said to be ragpulse, but is a JSON list"),
    ];
    for (content, format, message) in cases {
        let failure = of(content, |s| s.format = format).err().unwrap().to_string();
        assert!(failure.contains(message), "{content}: {failure}");
    }
}

/// Shares of tokens and of blocks that a cache without end would have, and the number of different blocks. `ids` are such
/// that equal ones stand for equal prefixes.
fn reuse(found: &Read, size: u64) -> (f64, f64, usize) {
    let mut seen = HashSet::new();
    let (mut tokens, mut hit_tokens, mut blocks, mut hit_blocks) = (0u64, 0u64, 0u64, 0u64);
    for (ids, input) in found.hashes().iter().zip(found.ints("input_tokens")) {
        let hits = ids.iter().take_while(|id| seen.contains(*id)).count() as u64;
        (hit_blocks, blocks) = (hit_blocks + hits, blocks + ids.len() as u64);
        (hit_tokens, tokens) = (hit_tokens + (hits * size).min(input as u64), tokens + input as u64);
        seen.extend(ids.iter().copied());
    }
    (hit_tokens as f64 / tokens as f64, hit_blocks as f64 / blocks as f64, seen.len())
}

fn near(got: f64, expected: f64, within: f64) {
    assert!((got - expected).abs() <= within, "{got}, expected {expected}");
}

#[test]
fn published_traces_share_what_their_publishers_say() {
    for (file, of_tokens, of_blocks, blocks, ties) in [
        ("mooncake/conversation_trace.jsonl", 37.36, 36.64, 182_790, 1180),
        ("mooncake/synthetic_trace.jsonl", 65.12, 63.96, 43_924, 3993),
    ] {
        let Some(path) = published(file) else { continue };
        let found = read(&settings(&path)).unwrap();
        let (tokens, share, distinct) = reuse(&found, 512);
        near(100.0 * tokens, of_tokens, 0.005);
        near(100.0 * share, of_blocks, 0.005);
        assert_eq!(distinct, blocks, "{file}");
        let arrivals = found.arrivals();
        assert!(arrivals.is_sorted(), "{file}");
        if file.contains("conversation") {
            assert_eq!(arrivals.iter().collect::<HashSet<_>>().len(), ties, "{file}");
        }
    }
    if let Some(path) = published("vidur/session_trace_synthetic.csv") {
        let found = read(&settings(&path)).unwrap();
        let sum = |name: &str| found.ints(name).iter().map(|n| i64::from(*n)).sum::<i64>();
        assert_eq!((sum("input_tokens"), sum("output_tokens")), (2_750_499, 204_590));
        let sessions: HashSet<String> = column(&found, "session_id").iter().map(|s| s.to_string()).collect();
        assert_eq!(sessions.len(), 360);
        let (_, share, distinct) = reuse(&found, 16);
        assert_eq!(distinct, 47_497);
        near(share, 136_489.0 / 183_986.0, 1e-9);
    }
}

#[test]
fn published_azure_traces_come_in_bursts() {
    for (file, cv) in [("conv", 1.094), ("code", 13.15)] {
        let Some(path) = published(&format!("azure/AzureLLMInferenceTrace_{file}.csv")) else { continue };
        let found = read(&settings(&path)).unwrap();
        assert_eq!((found.counts.zero_outputs, found.counts.open_ends), (0, 1), "{file}");
        let gaps: Vec<f64> = found.arrivals().windows(2).map(|w| (w[1] - w[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|g| (g - mean) * (g - mean)).sum::<f64>() / gaps.len() as f64;
        near(variance.sqrt() / mean, cv, if file == "conv" { 0.0005 } else { 0.005 });
    }
}

#[test]
fn the_published_ragpulse_trace_shares_its_parts() {
    let Some(path) = published("ragpulse/0_trace.jsonl") else { return };
    let found = read(&settings(&path)).unwrap();
    assert_eq!((found.format, found.rows.num_rows(), found.problems.len()), (Format::Ragpulse, 7106, 0));
    let expect = Counts { blank_lines: 1, string_numbers: 7106, ..Counts::default() };
    assert_eq!(Counts { open_ends: 0, ..found.counts }, expect);
    let arrivals = found.arrivals();
    assert_eq!(arrivals.windows(2).filter(|w| w[0] > w[1]).count(), 1);
    assert_eq!((arrivals.iter().min(), arrivals.iter().max()), (Some(&0), Some(&604_603_000_000_000)));
    near(found.mean("input_tokens"), 20_917_099.0 / 7106.0, 1e-9);
    near(found.mean("output_tokens"), 2_012_676.0 / 7106.0, 1e-9);
    let sessions: HashSet<String> = column(&found, "session_id").iter().map(|s| s.to_string()).collect();
    assert_eq!(sessions.len(), 3990);
    // By a reading of the parts of our own, a token at a time: 1,300,057 full blocks of 16 tokens. Here equal blocks after
    // different ones are one block still: they become different when they are chained.
    let hashes = found.hashes();
    assert_eq!(hashes.iter().map(Vec::len).sum::<usize>(), 1_300_057);
    let (mut seen, mut hits) = (HashSet::new(), 0);
    for ids in hashes {
        let mut chain = 0u64;
        let mut leading = true;
        for id in ids {
            chain = super::super::fields::content(&[chain.to_le_bytes(), id.to_le_bytes()].concat());
            leading &= !seen.insert(chain);
            hits += u64::from(leading);
        }
    }
    assert_eq!((seen.len(), hits), (889_182, 410_875));
}
