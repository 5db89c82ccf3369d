//! Formats against files: detection, every kind of bad row, and published traces where they are at hand.

use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int32Type, Int64Type, UInt64Type};

use super::*;

mod documents;
mod flat;

fn settings(path: &Path) -> Settings {
    Settings {
        path: path.to_path_buf(),
        written: path.file_name().unwrap().to_string_lossy().into_owned(),
        format: Format::Auto,
        columns: Columns::default(),
        time_unit: TimeUnit::S,
        block_tokens: None,
        measured: None,
    }
}

struct Read {
    format: Format,
    rows: RecordBatch,
    problems: Vec<Problem>,
    counts: Counts,
    measured: Vec<measured::Raw>,
}

impl Read {
    fn ints(&self, name: &str) -> Vec<i32> {
        self.rows.column_by_name(name).unwrap().as_primitive::<Int32Type>().values().to_vec()
    }

    fn arrivals(&self) -> Vec<i64> {
        self.rows.column_by_name("arrival_ns").unwrap().as_primitive::<Int64Type>().values().to_vec()
    }

    fn hashes(&self) -> Vec<Vec<u64>> {
        let lists = self.rows.column_by_name("block_hashes").unwrap().as_list::<i32>();
        (0..lists.len()).map(|i| lists.value(i).as_primitive::<UInt64Type>().values().to_vec()).collect()
    }

    fn mean(&self, name: &str) -> f64 {
        let values = self.ints(name);
        values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64
    }
}

fn read(settings: &Settings) -> Result<Read> {
    read_by(settings, None)
}

/// Read in chunks of so many bytes.
fn read_by(settings: &Settings, step: Option<usize>) -> Result<Read> {
    let (parser, mut chunks) = open(settings, Box::new(|_| ()))?;
    step.into_iter().for_each(|bytes| chunks.step(bytes));
    let (mut batches, mut problems) = (Vec::new(), Vec::new());
    let mut counts = parser.counts();
    let (mut conversations, mut measured) = (Vec::new(), Vec::new());
    while let Some(chunk) = chunks.next_chunk()? {
        let mut parsed = parser.parse(chunk)?;
        assert_eq!(parsed.rows.num_rows(), parsed.lines.len());
        batches.push(parsed.rows);
        counts += parsed.counts;
        problems.extend(parsed.problems);
        conversations.append(&mut parsed.conversations);
        measured.append(&mut parsed.measured);
    }
    conversation_requests(&conversations, |rows| {
        batches.push(rows);
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    let rows = concat_batches(&parser.layout().schema(), &batches).unwrap();
    Ok(Read { format: parser.format(), rows, problems, counts, measured })
}

/// A file with this content, read with these settings.
fn of(content: impl AsRef<[u8]>, change: impl FnOnce(&mut Settings)) -> Result<Read> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    let mut settings = settings(file.path());
    settings.written = "t".to_string();
    change(&mut settings);
    read(&settings)
}

fn samples() -> PathBuf {
    crate::repository().join("data/samples")
}

/// Published traces, where they lie next to the project or where `PIPE_SHARED` says.
fn published(path: &str) -> Option<PathBuf> {
    let named = std::env::var_os("PIPE_SHARED").map(PathBuf::from);
    let above = crate::repository().ancestors().map(|d| d.join("shared"));
    named.into_iter().chain(above).map(|d| d.join("data/traces").join(path)).find(|p| p.is_file())
}

#[test]
fn samples_are_what_the_generator_writes() {
    for (name, bytes) in sample::files().unwrap() {
        let found = std::fs::read(samples().join(name)).unwrap_or_default();
        assert!(found == bytes, "data/samples/{name} is not what `pipe samples data/samples` writes");
    }
}

#[test]
fn samples_are_detected_and_read_whole() {
    let cases = [
        ("chat.jsonl", Format::Sharegpt, Layout::Texts, 1000),
        ("sharegpt.json", Format::Sharegpt, Layout::Texts, 250),
        ("mooncake.jsonl", Format::Mooncake, Layout::Tokens, 200),
        ("azure_2023.csv", Format::Azure, Layout::Tokens, 200),
        ("azure_2024.csv", Format::Azure, Layout::Tokens, 200),
        ("vidur.csv", Format::Vidur, Layout::Tokens, 200),
        ("vidur_sessions.csv", Format::Vidur, Layout::Tokens, 200),
        ("generic.jsonl", Format::Jsonl, Layout::Tokens, 200),
        ("generic.jsonl.gz", Format::Jsonl, Layout::Tokens, 200),
        ("generic.csv", Format::Csv, Layout::Tokens, 200),
        ("generic.csv.zst", Format::Csv, Layout::Tokens, 200),
        ("generic.parquet", Format::Parquet, Layout::Tokens, 200),
        ("vllm_bench.jsonl", Format::VllmBench, Layout::Tokens, 50),
        ("trace_v2.csv", Format::TraceV2, Layout::Tokens, 12),
    ];
    let mut generic: Option<RecordBatch> = None;
    for (name, format, layout, at_least) in cases {
        let settings = settings(&samples().join(name));
        let found = read(&settings).unwrap();
        assert_eq!((found.format, looks(&settings).unwrap().layout()), (format, layout), "{name}");
        assert_eq!(found.problems, vec![], "{name}");
        let rows = found.rows.num_rows();
        assert!(rows >= at_least && (layout == Layout::Texts || rows == at_least), "{name}: {rows}");
        if name.starts_with("generic") {
            assert_eq!(generic.get_or_insert_with(|| found.rows.clone()), &found.rows, "{name}");
        }
    }
}

#[test]
fn bad_rows_say_where_and_what() {
    let json = |row: &str| format!("{{\"input_tokens\":1,\"output_tokens\":1}}\n{row}\n");
    let csv = |row: &str| format!("input_tokens,output_tokens,session_id\n1,1,a\n\n{row}");
    let cases: Vec<(String, u64, u32, &str)> = vec![
        (json(r#"{"input_tokens":1}"#), 2, 1, "missing `output_tokens`"),
        (json(r#"{"input_tokens":1,"output_tokens":null}"#), 2, 1, "missing `output_tokens`"),
        (json(r#"{"input_tokens": -1,"output_tokens":1}"#), 2, 18, "`input_tokens` is -1: negative"),
        (json(r#"{"é":1,"input_tokens":1.5,"output_tokens":1}"#), 2, 23, "is 1.5: expected a whole number"),
        (json(r#"{"input_tokens":"x","output_tokens":1}"#), 2, 17, "not a number"),
        (json(r#"{"input_tokens":99999999999,"output_tokens":1}"#), 2, 17, "too large"),
        (json(r#"{"input_tokens":[1],"output_tokens":1}"#), 2, 17, "is a list"),
        (json(r#"{"input_tokens":1,"input_tokens":1}"#), 2, 34, "is there twice"),
        (json(r#"{"input_tokens":1,"output_tokens":1"#), 2, 36, "not valid JSON"),
        (json(r#"{"input_tokens":1,"output_tokens":1} x"#), 2, 38, "not valid JSON"),
        (json(r#"{"input_tokens":1,"output_tokens":1,"arrival":1}"#), 2, 47, "the first row of the file has none"),
        (json(r#"{"input_tokens":1,"output_tokens":1,"block_hashes":[1]}"#), 2, 1, "set `block_tokens`"),
        (json(r#"{"input_tokens":1,"output_tokens":1,"block_hashes":[1,"x"]}"#), 2, 55, "`block_hashes` has an item"),
        (csv("1,x,b"), 4, 3, "`output_tokens` is `x`"),
        (csv("1,,b"), 4, 1, "missing `output_tokens`"),
        (csv("1,1"), 4, 1, "2 fields: expected 3"),
        (csv("1,\"-2\",b"), 4, 3, "negative"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n-1,1,1\n".into(), 2, 1, "`arrived_at` is -1: negative"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n16/11/2023,1,1".into(), 2, 1, "`TIMESTAMP` is"),
        (r#"[{"conversations":[{"from":"robot","value":"x"}]}]"#.into(), 1, 28, "`from` is `robot`"),
        ("[{\"conversations\":[]},\n {\"id\":\"x\"}]".into(), 2, 2, "missing `conversations`"),
        ("[{\"conversations\":[]},\n {\"id\":".into(), 2, 8, "not valid JSON"),
    ];
    for (content, line, column, reason) in cases {
        let found = of(&content, |_| ()).unwrap();
        assert_eq!(found.problems.len(), 1, "{content}: {:?}", found.problems);
        let problem = &found.problems[0];
        assert!(problem.reason.contains(reason), "{content}: {}", problem.reason);
        assert_eq!((problem.line, problem.column), (line, column), "{content}");
    }
    let found = of(b"{\"input_tokens\":1,\"output_tokens\":1}\n{\"input\xFF\n", |_| ()).unwrap();
    assert_eq!((found.problems[0].line, found.problems[0].column), (2, 8));
    assert!(found.problems[0].reason.contains("not UTF-8"));
}

#[test]
fn what_is_read_otherwise_than_it_stands_there_is_counted() {
    let none = Counts::default();
    let json = "\u{feff}{\"input_tokens\":\"0\",\"output_tokens\":0,\"session_id\":\"7\"}\r\n\r\n \n\
                {\"input_tokens\":2,\"output_tokens\":\"x\"}\r\n{\"input_tokens\":3,\"output_tokens\":1}";
    let json_counts = Counts {
        zero_inputs: 1,
        zero_outputs: 1,
        // Not that of the row that is rejected, nor the name of the session.
        string_numbers: 1,
        blank_lines: 2,
        crlf_rows: 2,
        open_ends: 1,
        byte_order_marks: 1,
        ..none
    };
    let csv = "input_tokens,output_tokens\r\n\r\n1,0\r\n\r\n\n0,\"2\"\n  \n3,4\r\n";
    let csv_counts = Counts { zero_inputs: 1, zero_outputs: 1, blank_lines: 4, crlf_rows: 2, ..none };
    let measured = "arrival,input_tokens,output_tokens,e2e,outcome\n0,0,0,5,error\n1,2,3,5,ok\n";
    let map = |s: &mut Settings| {
        s.measured = Some(MeasuredColumns {
            e2e: Some("e2e".into()),
            status: Some("outcome".into()),
            ..MeasuredColumns::default()
        });
    };
    let cases = [
        (of(json, |_| ()).unwrap(), json_counts, vec![1, 3], vec![1, 1]),
        (of(csv, |_| ()).unwrap(), csv_counts, vec![1, 1, 3], vec![1, 2, 4]),
        (of(measured, map).unwrap(), Counts { zero_inputs: 1, failed: 1, ..none }, vec![1, 2], vec![1, 3]),
    ];
    for (found, counts, inputs, outputs) in cases {
        assert_eq!((found.ints("input_tokens"), found.ints("output_tokens")), (inputs, outputs));
        assert_eq!(found.counts, counts);
    }
    let mut sum = json_counts;
    sum += csv_counts;
    let named: Vec<(&str, u64)> = sum.named().into_iter().map(|(name, _, n)| (name, n)).collect();
    assert_eq!(&named[..3], [("zero_inputs", 2), ("zero_outputs", 2), ("failed", 0)]);
}

#[test]
fn files_that_are_no_trace_say_what_was_seen() {
    type Change = Box<dyn Fn(&mut Settings)>;
    let auto = |_: &mut Settings| ();
    let cases: Vec<(&str, Change, &str)> = vec![
        ("", Box::new(auto), "is empty"),
        ("a,b\n1,2\n", Box::new(auto), "has the columns `a`, `b`"),
        ("{\"a\":{\"b\":1}}\n", Box::new(auto), "has the columns `a`, `a.b`"),
        ("{\"a\":1}\n", Box::new(|s| s.format = Format::Azure), "was said to be azure, but is JSON lines"),
        ("a,b\n1,2\n", Box::new(|s| s.format = Format::Mooncake), "was said to be mooncake, but is text"),
        ("a,b\n1,2\n", Box::new(|s| s.format = Format::Vidur), "has no column `arrived_at`"),
        ("[]", Box::new(|s| s.format = Format::Csv), "was said to be csv, but is a JSON list"),
        (
            "in_tok,out_tok\n1,2\n",
            Box::new(|s| {
                s.columns.input_tokens = Some("in_tok".into());
                s.columns.output_tokens = Some("out_tk".into());
            }),
            "has no column `out_tk`",
        ),
    ];
    for (content, change, message) in cases {
        let failure = of(content, change).err().unwrap();
        assert!(failure.to_string().contains(message), "{content}: {failure}");
        assert!(failure.diagnostics[0].help.is_some(), "{content}");
    }
}

#[test]
fn columns_and_units_are_the_users_choice() {
    let jsonl = "\u{feff}{\"t\":\"82\",\"usage\":{\"in\":3,\"out\":4,\"x\":[{}]},\"k.d\":\"c\"}\r\n\r\n";
    let found = of(jsonl, |s| {
        s.columns.arrival = Some("t".into());
        s.columns.input_tokens = Some("usage.in".into());
        s.columns.output_tokens = Some("usage.out".into());
        s.columns.class = Some("k.d".into());
        s.time_unit = TimeUnit::Ms;
    });
    let found = found.unwrap();
    assert_eq!((found.problems.len(), found.arrivals()), (0, vec![82_000_000]));
    assert_eq!((found.ints("input_tokens"), found.ints("output_tokens")), (vec![3], vec![4]));
    assert_eq!(found.rows.column_by_name("class").unwrap().as_string::<i32>().value(0), "c");

    let texts = "input;output\n\"a \"\"b\"\"\nc\";d\n";
    let found = of(texts, |_| ()).unwrap();
    let input = found.rows.column_by_name("input").unwrap().as_list::<i32>().value(0);
    assert_eq!((input.as_string::<i32>().value(0), found.problems.len()), ("a \"b\"\nc", 0));
}

#[test]
fn conversations_become_requests_turn_by_turn() {
    let text = r#"[
      {"id": "a", "conversations": [{"from": "gpt", "value": "hi"}, {"from": "human", "value": "q1"},
        {"from": "gpt", "value": "r1, [\"}"}, {"from": "human", "value": "q2"}, {"from": "gpt", "value": "r2"}]},
      {"conversations": []},
      {"conversations": [{"from": "user", "value": "q"}, {"from": "assistant", "value": "r"}]}
    ]"#;
    let found = of(text, |_| ()).unwrap();
    assert_eq!(found.problems, vec![]);
    let output: Vec<_> = found.rows.column_by_name("output").unwrap().as_string::<i32>().iter().flatten().collect();
    assert_eq!(output, ["r1, [\"}", "r", "r2"]);
    assert_eq!(found.ints("turn"), [0, 0, 1]);
    let input = found.rows.column_by_name("input").unwrap().as_list::<i32>();
    assert_eq!(input.value(2).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["hi", "q1", "r1, [\"}", "q2"]);
    let sessions = found.rows.column_by_name("session_id").unwrap().as_string::<i32>();
    assert_eq!(sessions.iter().flatten().collect::<Vec<_>>(), ["a", "line 5", "a"]);
    let roles = found.rows.column_by_name("roles").unwrap().as_list::<i32>().value(2);
    let roles: Vec<_> = roles.as_string::<i32>().iter().flatten().collect();
    assert_eq!(roles, ["assistant", "user", "assistant", "user"]);
}

#[test]
fn chunks_change_nothing() {
    // More than two chunks of 4 MiB, with a bad row in the last.
    let mut jsonl = String::new();
    let mut list = "[".to_string();
    for i in 0..100_000u64 {
        let pad = "x".repeat((i % 97) as usize + 20);
        jsonl += &format!("{{\"input_tokens\":{},\"output_tokens\":2,\"{pad}\":[\"\\\"]\"]}}\n", i % 1000 + 1);
        let says = format!("[{{\"from\":\"user\",\"value\":\"{pad},]\"}},{{\"from\":\"gpt\",\"value\":\"{i}\"}}]");
        list += &format!("{}{{\"conversations\":{says}}}", if i == 0 { "" } else { ",\n" });
    }
    jsonl += "{";
    let found = of(&jsonl, |_| ()).unwrap();
    assert_eq!(found.rows.num_rows(), 100_000);
    assert!(found.ints("input_tokens").iter().enumerate().all(|(i, n)| *n as usize == i % 1000 + 1));
    assert_eq!(found.problems.iter().map(|p| p.line).collect::<Vec<_>>(), [100_001]);

    let found = of(list + "]", |_| ()).unwrap();
    assert_eq!((found.rows.num_rows(), found.problems), (100_000, vec![]));
    let sessions = found.rows.column_by_name("session_id").unwrap().as_string::<i32>();
    assert!(sessions.iter().enumerate().all(|(i, s)| s == Some(format!("line {}", i + 1).as_str())));
}

#[test]
fn published_mooncake_traces() {
    let cases = [
        ("mooncake/conversation_trace.jsonl", 12_031, 12_035.06, 342.62, 3_536_999, 182_790),
        ("mooncake/synthetic_trace.jsonl", 3_993, 15_325.48, 149.12, 1_022_025, 43_924),
    ];
    for (file, rows, input, output, last_ms, blocks) in cases {
        let Some(path) = published(file) else { continue };
        let found = read(&settings(&path)).unwrap();
        assert_eq!((found.format, found.rows.num_rows(), found.problems.len()), (Format::Mooncake, rows, 0), "{file}");
        assert!((found.mean("input_tokens") - input).abs() < 0.005, "{file}");
        assert!((found.mean("output_tokens") - output).abs() < 0.005, "{file}");
        assert_eq!(found.arrivals().last(), Some(&(last_ms * 1_000_000)), "{file}");
        let hashes = found.hashes();
        let lengths = found.ints("input_tokens");
        assert!(hashes.iter().zip(lengths).all(|(h, n)| h.len() == (n as usize).div_ceil(512)), "{file}");
        let distinct: std::collections::BTreeSet<u64> = hashes.into_iter().flatten().collect();
        assert_eq!(distinct.len(), blocks, "{file}");
    }
}

#[test]
fn published_azure_and_vidur_traces() {
    let cases = [
        ("azure/AzureLLMInferenceTrace_conv.csv", Format::Azure, 19_366, 22_361_870, 4_088_665),
        ("azure/AzureLLMInferenceTrace_code.csv", Format::Azure, 8_819, 18_059_974, 245_896),
        ("vidur/splitwise_conv.csv", Format::Vidur, 19_366, 22_361_870, 4_088_665),
        ("vidur/splitwise_code.csv", Format::Vidur, 8_819, 18_059_974, 245_896),
    ];
    for (file, format, rows, input, output) in cases {
        let Some(path) = published(file) else { continue };
        let found = read(&settings(&path)).unwrap();
        assert_eq!((found.format, found.rows.num_rows(), found.problems.len()), (format, rows, 0), "{file}");
        let sum = |name: &str| found.ints(name).iter().map(|v| i64::from(*v)).sum::<i64>();
        assert_eq!((sum("input_tokens"), sum("output_tokens")), (input, output), "{file}");
        if file.ends_with("Trace_conv.csv") {
            // 18:15:46.680590 to 19:14:08.402527
            assert_eq!(found.arrivals()[rows - 1] - found.arrivals()[0], 3_501_721_937_000);
        }
    }
    if let Some(path) = published("vidur/session_trace_synthetic.csv") {
        let found = read(&settings(&path)).unwrap();
        assert_eq!((found.rows.num_rows(), found.problems), (1531, vec![]));
    }
}

#[test]
fn published_ragpulse_trace_as_jsonl() {
    let Some(path) = published("ragpulse/0_trace.jsonl") else { return };
    let mut settings = settings(&path);
    settings.columns.arrival = Some("timestamp".into());
    settings.columns.input_tokens = Some("input_length".into());
    settings.columns.output_tokens = Some("output_length".into());
    let found = read(&settings).unwrap();
    assert_eq!((found.format, found.rows.num_rows(), found.problems.len()), (Format::Jsonl, 7106, 0));
    assert_eq!(found.arrivals().windows(2).filter(|w| w[0] > w[1]).count(), 1);
    assert!((found.mean("input_tokens") - 2943.6).abs() < 0.05);
}

#[test]
fn what_a_file_says_about_sessions_and_models_is_read() {
    let csv = "arrival,input_tokens,output_tokens,session_id,turn,think_ns,model,lora,encoder_tokens,depends_on\n\
               0,9,1,s,0,,m,,4,\n1,9,1,s,1,2500,m,a,0,0\n2,9,1,,,,,,,\n";
    let json = r#"{"arrival":0,"input_tokens":9,"output_tokens":1,"session_id":"s","turn":0,"model":"m","encoder_tokens":4}
{"arrival":1,"input_tokens":9,"output_tokens":1,"session_id":"s","turn":1,"think_ns":2500,"model":"m","lora":"a","encoder_tokens":0}
{"arrival":2,"input_tokens":9,"output_tokens":1}
"#;
    let found = of(csv, |s| s.columns.adapter = Some("lora".to_string())).unwrap();
    assert_eq!(found.problems, []);
    let ints = |name: &str| -> Vec<Option<i64>> {
        let column = arrow::compute::cast(found.rows.column_by_name(name).unwrap(), &arrow::datatypes::DataType::Int64);
        column.unwrap().as_primitive::<Int64Type>().iter().collect()
    };
    let texts = |name: &str| -> Vec<Option<String>> {
        let column = found.rows.column_by_name(name).unwrap().as_string::<i32>();
        column.iter().map(|v| v.map(str::to_string)).collect()
    };
    let text = |v: &str| Some(v.to_string());
    assert_eq!(ints("turn"), [Some(0), Some(1), None]);
    assert_eq!(ints("think_ns"), [None, Some(2500), None]);
    assert_eq!(ints("encoder_tokens"), [Some(4), Some(0), None]);
    assert_eq!(texts("model"), [text("m"), text("m"), None]);
    assert_eq!(texts("adapter"), [None, text("a"), None]);
    // Numbers in a file are not those of the table.
    assert_eq!(found.rows.column_by_name("depends_on").unwrap().null_count(), 3);

    let lines = of(json, |s| s.columns.adapter = Some("lora".to_string())).unwrap();
    assert_eq!(lines.rows, found.rows);
    let file = tempfile::NamedTempFile::new().unwrap();
    let table = found.rows.project(&(1..found.rows.num_columns()).collect::<Vec<_>>()).unwrap();
    let mut writer = ::parquet::arrow::ArrowWriter::try_new(file.reopen().unwrap(), table.schema(), None).unwrap();
    writer.write(&table).unwrap();
    writer.close().unwrap();
    assert_eq!(read(&settings(file.path())).unwrap().rows, found.rows);

    let wrong = of("input_tokens,output_tokens,turn,think_ns\n1,1,x,1\n1,1,1,-1\n", |_| ()).unwrap();
    let reasons: Vec<&str> = wrong.problems.iter().map(|p| p.reason.as_str()).collect();
    assert_eq!(reasons.len(), 2);
    assert!(reasons[0].starts_with("`turn` is `x`") && reasons[1].starts_with("`think_ns` is -1"), "{reasons:?}");
}
