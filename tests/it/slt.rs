//! The same SQL, in files, in process and over every protocol: the same rows and the same refusals.
//!
//! The files under `tests/slt` are in the format of sqllogictest: `query TYPES [rowsort]` with a row per line, cells with a
//! space between them, and `query error REGEX`; `skipif NAME` before them leaves one of `engine`, `flight`, `postgres` out.
//! Types are `I` integer, `R` real or decimal, `B` boolean and `T` the rest. NULL is `NULL`, empty text `(empty)`.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use arrow::ipc::reader::StreamReader;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use pipe::query::Engine;
use pipe::store::Store;
use regex::Regex;
use serde_json::Value;

use crate::project::{Project, repository};
use crate::serving::{Serving, has_python};

/// A type letter, and cells as text; `None` is NULL.
type Answer = Result<(String, Vec<Vec<Option<String>>>), String>;

/// What a file says of a query.
enum Expected {
    Rows { kinds: String, sort: bool, rows: Vec<String> },
    Error(Regex),
}

struct Record {
    line: usize,
    skip: Vec<String>,
    sql: String,
    expected: Expected,
}

fn parse(text: &str) -> Vec<Record> {
    let mut records = Vec::new();
    let mut lines = text.lines().enumerate().map(|(i, l)| (i + 1, l.trim_end())).peekable();
    let mut skip = Vec::new();
    while let Some((line, text)) = lines.next() {
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        if word == "skipif" {
            skip.push(rest.to_string());
            continue;
        }
        assert_eq!(word, "query", "line {line}: expected `query` or `skipif`");
        let mut sql = Vec::new();
        while let Some((_, l)) = lines.next_if(|(_, l)| !l.is_empty() && *l != "----") {
            sql.push(l);
        }
        let expected = match rest.strip_prefix("error ") {
            Some(pattern) => Expected::Error(Regex::new(pattern).expect("a pattern")),
            None => {
                let (kinds, sort) = rest.split_once(' ').unwrap_or((rest, ""));
                assert!(["", "rowsort"].contains(&sort), "line {line}: `{sort}`");
                assert_eq!(lines.next().map(|(_, l)| l), Some("----"), "line {line}: no rows follow");
                let mut rows = Vec::new();
                while let Some((_, l)) = lines.next_if(|(_, l)| !l.is_empty()) {
                    rows.push(l.to_string());
                }
                Expected::Rows { kinds: kinds.to_string(), sort: !sort.is_empty(), rows }
            }
        };
        records.push(Record { line, skip: std::mem::take(&mut skip), sql: sql.join("\n"), expected });
    }
    records
}

/// A cell as it is compared: numbers by value, times and lists in one notation.
fn cell(kind: char, value: Option<&str>) -> String {
    match (kind, value) {
        (_, None) => "NULL".to_string(),
        ('T', Some("")) => "(empty)".to_string(),
        ('R', Some(text)) => text.parse::<f64>().map_or_else(|_| text.to_string(), |v| v.to_string()),
        ('B', Some("t")) => "true".to_string(),
        ('B', Some("f")) => "false".to_string(),
        (_, Some(text)) => text.to_string(),
    }
}

fn check(file: &Path, wire: &str, ask: &mut dyn FnMut(&str) -> Answer) -> usize {
    let text = std::fs::read_to_string(file).expect("a file");
    let mut asked = 0;
    for record in parse(&text).iter().filter(|r| !r.skip.iter().any(|s| s == wire)) {
        let at = format!("{}:{}: {wire}: {}", file.display(), record.line, record.sql);
        asked += 1;
        match (ask(&record.sql), &record.expected) {
            (Ok((kinds, found)), Expected::Rows { kinds: expected_kinds, sort, rows }) => {
                // A protocol without types of its own says none.
                if !kinds.is_empty() {
                    assert_eq!(&kinds, expected_kinds, "types of {at}");
                }
                let row = |cells: &Vec<Option<String>>| {
                    assert_eq!(cells.len(), expected_kinds.len(), "columns of {at}");
                    let cells = expected_kinds.chars().zip(cells).map(|(k, c)| cell(k, c.as_deref()));
                    cells.collect::<Vec<_>>().join(" ")
                };
                let mut found: Vec<String> = found.iter().map(row).collect();
                let mut rows = rows.clone();
                if *sort {
                    found.sort();
                    rows.sort();
                }
                assert_eq!(found, rows, "{at}");
            }
            (Err(error), Expected::Error(pattern)) => assert!(pattern.is_match(&error), "{at}\n{error}"),
            (Ok((_, rows)), Expected::Error(pattern)) => panic!("{at}\nno error `{pattern}`, but {rows:?}"),
            (Err(error), Expected::Rows { .. }) => panic!("{at}\n{error}"),
        }
    }
    asked
}

/// Rows as text, with the letters of their types.
fn cells(kinds: &arrow::datatypes::Schema, batches: &[RecordBatch]) -> (String, Vec<Vec<Option<String>>>) {
    let letter = |kind: &DataType| match kind {
        DataType::Boolean => 'B',
        k if k.is_integer() => 'I',
        k if k.is_floating() || matches!(k, DataType::Decimal128(_, _)) => 'R',
        _ => 'T',
    };
    let options = FormatOptions::new().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> =
            batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).expect("a format")).collect();
        for i in 0..batch.num_rows() {
            let value = |(c, f): (usize, &ArrayFormatter)| batch.column(c).is_valid(i).then(|| f.value(i).to_string());
            rows.push(columns.iter().enumerate().map(value).collect());
        }
    }
    (kinds.fields().iter().map(|f| letter(f.data_type())).collect(), rows)
}

/// A Python program that answers each line with a line: what every protocol's own client makes of a query.
struct Remote {
    child: Child,
    answers: std::io::Lines<BufReader<ChildStdout>>,
}

/// A protocol, the modules of its client, and the program.
struct Protocol {
    name: &'static str,
    /// Whether it is served.
    on: bool,
    modules: &'static str,
    program: &'static str,
}

const PROTOCOLS: [Protocol; 2] = [
    Protocol {
        name: "flight",
        on: true,
        modules: "adbc_driver_flightsql, adbc_driver_manager, pyarrow",
        program: FLIGHT,
    },
    Protocol { name: "postgres", on: true, modules: "psycopg", program: POSTGRES },
];

const FLIGHT: &str = r#"
import adbc_driver_flightsql.dbapi as dbapi
import base64, io, json, sys
import pyarrow as pa
connection = dbapi.connect(f"grpc://127.0.0.1:{sys.argv[1]}", autocommit=True)
for line in sys.stdin:
    try:
        with connection.cursor() as cursor:
            cursor.execute(json.loads(line))
            table = cursor.fetch_arrow_table()
        out = io.BytesIO()
        with pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
        answer = {"arrow": base64.b64encode(out.getvalue()).decode()}
    except Exception as e:
        answer = {"error": str(e)}
    print(json.dumps(answer), flush=True)
"#;

/// Cells as the server writes them: not what psycopg makes of them.
const POSTGRES: &str = r#"
import json, psycopg, re, sys
connection = psycopg.connect(f"host=127.0.0.1 port={sys.argv[1]} user=slt dbname=pipe", autocommit=True)
def text(value):
    if value is None:
        return None
    value = value.decode()
    if re.match(r"\d{4}-\d\d-\d\d \d\d:", value):
        return re.sub(r"\.0+$", "", value.replace(" ", "T", 1))
    if re.fullmatch(r"\{.*\}", value):
        return "[" + ", ".join(value[1:-1].split(",")) + "]"
    return value
for line in sys.stdin:
    try:
        with connection.cursor() as cursor:
            cursor.execute(json.loads(line))
            result = cursor.pgresult
            columns = range(result.nfields)
            answer = {"rows": [[text(result.get_value(i, k)) for k in columns] for i in range(result.ntuples)]}
    except Exception as e:
        answer = {"error": str(e)}
    print(json.dumps(answer), flush=True)
"#;

impl Remote {
    /// `None`, with a note, where Python lacks the client.
    fn start(protocol: &Protocol, port: u16) -> Option<Remote> {
        if !has_python(&[protocol.modules]) {
            return None;
        }
        let mut child = Command::new("python3")
            .args(["-W", "ignore", "-c", protocol.program, &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let answers = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Some(Remote { child, answers })
    }

    fn ask(&mut self, sql: &str) -> Answer {
        let line = format!("{}\n", Value::from(sql));
        self.child.stdin.as_mut().expect("a pipe").write_all(line.as_bytes()).expect("it reads");
        let answer = self.answers.next().expect("an answer").expect("text");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        if let Some(error) = answer["error"].as_str() {
            return Err(error.to_string());
        }
        if let Some(encoded) = answer["arrow"].as_str() {
            let bytes = BASE64_STANDARD.decode(encoded).expect("base64");
            let reader = StreamReader::try_new(bytes.as_slice(), None).expect("Arrow");
            let schema = reader.schema();
            let batches: Vec<RecordBatch> = reader.map(|b| b.expect("a batch")).collect();
            return Ok(cells(&schema, &batches));
        }
        let text = |v: &Value| v.as_str().map(str::to_string);
        let rows = answer["rows"].as_array().expect("rows").iter();
        Ok((String::new(), rows.map(|r| r.as_array().expect("cells").iter().map(text).collect()).collect()))
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One table of every type, one of requests whose metrics are easy to see.
const PIPELINE: &str = "\
name: slt
stages:
  kinds:
    sql:
      query: >
        SELECT id, arrow_cast(i8, 'Int8') AS i8, arrow_cast(i16, 'Int16') AS i16, arrow_cast(i32, 'Int32') AS i32,
          CAST(i64 AS BIGINT) AS i64, CAST(f32 AS REAL) AS f32, CAST(f64 AS DOUBLE) AS f64, b, t,
          CAST(d AS DATE) AS d, CAST(ts AS TIMESTAMP) AS ts, CAST(n AS DECIMAL(9, 2)) AS n, l
        FROM (VALUES
          (1, 127, -32768, 42, 9007199254740993, 0.5, 2.25, true, 'text', '2024-02-29', '2024-02-29T12:34:56', '12.34',
            make_array(1, 2, 3)),
          (2, -128, 32767, -1, -9223372036854775808, -1.0, 1e300, false, '', '1969-12-31', '1969-12-31T23:59:59', '-0.01',
            make_array(4)),
          (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)
        ) AS v(id, i8, i16, i32, i64, f32, f64, b, t, d, ts, n, l) ORDER BY id
  requests:
    sql:
      query: >
        SELECT * FROM (VALUES
          (1, 'a', 0, 100000000, 1000000000),
          (2, 'a', 1000000000, 200000000, 2000000000),
          (3, 'b', 2000000000, 300000000, 3000000000),
          (4, 'b', 3000000000, NULL, NULL)
        ) AS v(id, class, arrival_ns, ttft_ns, finished_ns) ORDER BY id
";

#[test]
fn the_same_rows_in_process_and_over_every_protocol() {
    let project = Project::new();
    project.write("pipelines/slt.yaml", PIPELINE);
    project
        .write("queries/views/v_fast.sql", "SELECT id, ms(ttft_ns) AS ttft_ms FROM requests WHERE ms(ttft_ns) <= 200");
    project.run(&["run", "pipelines/slt.yaml", "--quiet"]).ok();
    let mut files: Vec<_> = std::fs::read_dir(repository().join("tests/slt"))
        .expect("a folder")
        .map(|e| e.expect("an entry").path())
        .collect();
    files.sort();
    assert!(!files.is_empty());

    let store = Store::open(project.path()).expect("a store");
    let tables =
        store.published().into_iter().map(|t| (t.pipeline.clone(), store.published_handle(&t).expect("parts")));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    let engine = runtime.block_on(Engine::open(project.path(), tables.collect(), None, 2)).expect("an engine");
    let mut in_process = |sql: &str| -> Answer {
        runtime.block_on(async {
            let rows = engine.sql(sql).await.map_err(|e| e.to_string())?;
            let schema = rows.schema();
            let batches: Vec<RecordBatch> = futures::TryStreamExt::try_collect(rows)
                .await
                .map_err(|e: datafusion::error::DataFusionError| e.to_string())?;
            Ok(cells(&schema, &batches))
        })
    };
    for file in &files {
        assert!(check(file, "engine", &mut in_process) > 0, "{} is empty", file.display());
    }

    let serving = Serving::start(&project, &[], &[]);
    for protocol in PROTOCOLS.iter().filter(|p| p.on) {
        let Some(mut remote) = Remote::start(protocol, serving.port(protocol.name)) else { continue };
        for file in &files {
            check(file, protocol.name, &mut |sql| remote.ask(sql));
        }
    }
}

#[test]
fn files_are_read() {
    let text = "# a comment\nskipif flight\nquery IT rowsort\nSELECT 1,\n  'a'\n----\n1 a\n2 b\n\nquery error no .* table\nSELECT\n";
    let records = parse(text);
    assert_eq!(records.len(), 2);
    assert_eq!((records[0].line, records[0].sql.as_str(), records[0].skip.len()), (3, "SELECT 1,\n  'a'", 1));
    assert!(
        matches!(&records[0].expected, Expected::Rows { kinds, sort: true, rows } if kinds == "IT" && rows.len() == 2)
    );
    assert!(matches!(&records[1].expected, Expected::Error(p) if p.is_match("no such table")));
    let cases = [('R', Some("1.50"), "1.5"), ('B', Some("t"), "true"), ('T', Some(""), "(empty)"), ('I', None, "NULL")];
    for (kind, value, expected) in cases {
        assert_eq!(cell(kind, value), expected);
    }
}
