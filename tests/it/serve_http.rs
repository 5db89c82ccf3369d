//! `pipe serve` over HTTP: every route, every format, and what is refused.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::project::{Project, SMALL, text};
use crate::serving::{Serving, certificate, python, skipped, small};

/// An answer, with the names of headers in lower case.
#[derive(Debug)]
pub struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
    /// Whether it has the end that HTTP announces.
    complete: bool,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{l}: {e}"))).collect()
    }
}

/// Sends a request as it stands, with a host and an end of the connection where it has none; reads all that comes.
fn send(address: SocketAddr, head: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let mut request = head.trim_end().replace('\n', "\r\n");
    if !request.to_lowercase().contains("\r\nhost:") {
        request += &format!("\r\nHost: {address}");
    }
    request += "\r\nConnection: close";
    if !body.is_empty() {
        request += &format!("\r\nContent-Length: {}", body.len());
    }
    request += "\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it reads");
    // What is too large is refused before it is all read.
    let _ = stream.write_all(body);
    let mut all = Vec::new();
    let mut buffer = [0; 1 << 16];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        all.extend_from_slice(&buffer[..n]);
    }
    parse(&all)
}

fn parse(all: &[u8]) -> Answer {
    let end =
        all.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(all)));
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let rest = &all[end + 4..];
    let mut lines = head.lines();
    let status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok()).expect("a status");
    let header = |l: &str| l.split_once(": ").map(|(n, v)| (n.to_lowercase(), v.to_string()));
    let headers: BTreeMap<String, String> = lines.filter_map(header).collect();
    let (body, complete) = match (headers.get("transfer-encoding"), headers.get("content-length")) {
        (Some(_), _) => chunks(rest),
        (None, Some(length)) => (rest.to_vec(), rest.len().to_string() == *length),
        (None, None) => (rest.to_vec(), true),
    };
    Answer { status, headers, body, complete }
}

fn chunks(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|w| w == b"\r\n") else { return (body, false) };
        let size =
            std::str::from_utf8(&rest[..end]).ok().and_then(|s| usize::from_str_radix(s, 16).ok()).expect("a size");
        rest = &rest[end + 2..];
        if size == 0 {
            return (body, rest.starts_with(b"\r\n"));
        }
        if rest.len() < size + 2 {
            return (body, false);
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}

fn get(serving: &Serving, path: &str) -> Answer {
    send(serving.addresses["http"], &format!("GET {path} HTTP/1.1"), b"")
}

fn sql(serving: &Serving, statement: &str, format: &str) -> Answer {
    let head = format!("POST /sql?format={format} HTTP/1.1\nContent-Type: application/sql");
    send(serving.addresses["http"], &head, statement.as_bytes())
}

/// Asks until the answer is as wanted.
fn until(what: &str, mut ask: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !ask() {
        assert!(Instant::now() < end, "never {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

const ONLY_HTTP: [&str; 4] = ["--postgres", "off", "--flight", "off"];

fn start(project: &Project, args: &[&str], env: &[(&str, &str)]) -> Serving {
    Serving::start(project, &[&ONLY_HTTP[..], args].concat(), env)
}

#[test]
fn every_route() {
    let project = small();
    let serving = start(&project, &[], &[]);
    let id = text(&get(&serving, "/runs").json()["runs"][0]["id"]);
    let (problem, data) = ("application/problem+json", "application/json");
    let run = format!("/runs/{id}");
    let cases = [
        ("GET", "/", 200, "text/html; charset=utf-8"),
        ("GET", "/page.js", 200, "text/javascript; charset=utf-8"),
        ("GET", "/page.css", 200, "text/css; charset=utf-8"),
        ("GET", "/healthz", 200, "text/plain; charset=utf-8"),
        ("GET", "/metrics", 200, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("GET", "/tables", 200, data),
        ("GET", "/tables/small/metrics", 200, data),
        ("GET", "/tables/small/v_latency", 200, data),
        ("GET", "/tables/small/metric", 404, problem),
        ("GET", "/tables/small", 404, problem),
        ("GET", "/tables/small/metrics?rows=2", 200, data),
        ("GET", "/tables/small/metrics?rows=many", 400, problem),
        ("GET", "/runs", 200, data),
        ("GET", "/runs?limit=1&pipeline=small", 200, data),
        ("GET", &run, 200, data),
        ("GET", "/runs/..%2f..%2flock", 404, problem),
        ("GET", "/live", 200, data),
        ("GET", "/report/small", 200, "text/html; charset=utf-8"),
        ("GET", "/report/smal", 404, problem),
        ("GET", "/report/..%2f..%2fetc", 404, problem),
        ("GET", "/sql?q=SELECT%201", 200, data),
        ("HEAD", "/sql?q=SELECT%201&format=csv", 200, "text/csv; charset=utf-8; header=present"),
        ("GET", "/sql?q=SELEC", 400, problem),
        ("HEAD", "/sql?q=SELEC", 400, problem),
        ("GET", "/sql", 400, problem),
        ("GET", "/sql?q=SELECT%201&format=xlsx", 400, problem),
        ("GET", "/data/store/lock", 404, problem),
        ("GET", "/../Cargo.toml", 404, problem),
        ("DELETE", "/sql", 405, problem),
        ("PUT", "/tables", 405, problem),
        ("POST", "/", 405, problem),
        ("OPTIONS", "/sql", 204, ""),
        ("HEAD", "/tables", 200, data),
    ];
    for (method, path, status, kind) in cases {
        let answer = send(serving.addresses["http"], &format!("{method} {path} HTTP/1.1"), b"");
        let given = answer.headers.get("content-type").map(String::as_str).unwrap_or_default();
        assert_eq!((answer.status, given), (status, kind), "{method} {path}\n{}", answer.text());
        for header in ["content-security-policy", "x-content-type-options", "referrer-policy", "cache-control"] {
            assert!(answer.headers.contains_key(header), "{method} {path}: {header}");
        }
        assert_eq!(method == "HEAD", answer.body.is_empty() && method != "OPTIONS", "{method} {path}");
        if kind == problem && method != "HEAD" {
            let told = answer.json();
            assert_eq!(told["status"], status, "{told}");
            assert!(["type", "title", "reason", "detail"].iter().all(|k| told[k].is_string()), "{told}");
        }
        if status == 405 || status == 204 {
            assert!(answer.headers.contains_key("allow"), "{method} {path}: {:?}", answer.headers);
        }
    }
    assert_eq!(get(&serving, &run).json()["pipeline"], "small");
    assert_eq!(serving.stop(), Some(0));
}

#[test]
fn what_there_is() {
    let project = small();
    let serving = start(&project, &[], &[]);
    let all = get(&serving, "/tables").json();
    let pipeline = &all["pipelines"][0];
    assert_eq!(pipeline["name"], "small");
    let named =
        |list: &Value, name: &str| list.as_array().unwrap().iter().find(|t| t["name"] == name).cloned().unwrap();
    // Facts that `pipe ls` tells too.
    let listed = project.run(&["ls", "--json"]).ok().out;
    for line in listed.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()) {
        let table = named(&pipeline["tables"], line["table"].as_str().unwrap());
        for (ours, theirs) in [
            ("stage", "stage"),
            ("kind", "kind"),
            ("rows", "rows"),
            ("bytes", "bytes"),
            ("hash", "hash"),
            ("made_unix_s", "finished_unix_s"),
        ] {
            assert_eq!(table[ours], line[theirs], "{ours} of {table}");
        }
        assert!(table["fingerprint"].as_str().unwrap().len() == 64, "{table}");
    }
    let sim = named(&pipeline["tables"], "sim_requests");
    let ttft = named(&sim["columns"], "ttft_ns");
    assert_eq!((&ttft["type"], &ttft["unit"], &ttft["number"]), (&json!("Int64"), &json!("ns"), &json!(true)));
    assert!(ttft["description"].as_str().unwrap().len() > 5);
    let view = named(&pipeline["views"], "v_latency");
    assert!(view["unavailable"].is_null() && !view["columns"].as_array().unwrap().is_empty(), "{view}");
    let one = get(&serving, "/tables/small/metrics?rows=2").json();
    assert_eq!(one["first"].as_array().unwrap().len(), 2);
    assert_eq!(one["first"][0], project.rows("SELECT * FROM small.metrics ORDER BY scenario_id")[0]);
    let near = get(&serving, "/tables/small/metric").json();
    assert_eq!(
        (&near["reason"], &near["hint"]),
        (&json!("unknown_table"), &json!("did you mean /tables/small/metrics?"))
    );
}

/// Values that are hard for one format or another.
const HARD: &str = "SELECT * FROM (VALUES
    (9007199254740993, 1.5, 'a,\"b\"', true, NULL, TIMESTAMP '2026-01-02T03:04:05'),
    (-1, 0.1, 'ü' || chr(10) || 'x', false, NULL, NULL),
    (NULL, NULL, NULL, NULL, NULL, NULL)) AS t (n, f, s, b, nothing, at)";

#[test]
fn every_format_read_back() {
    let project = small();
    let serving = start(&project, &[], &[]);
    let program = "
import sys, json, io, csv, urllib.request, decimal
import pyarrow.ipc, pyarrow.parquet
url = sys.argv[1]
def ask(sql, accept):
    r = urllib.request.Request(url + 'sql', data=sql.encode(), headers={'Content-Type': 'text/plain; charset=utf-8', 'Accept': accept})
    with urllib.request.urlopen(r) as answer:
        assert answer.headers['Content-Type'].startswith(accept), answer.headers
        return answer.read()
def rows(table):
    assert all(c.type.equals(c.type) for c in table.columns)
    return table.to_pylist()
def plain(row):
    return {k: v.isoformat() if hasattr(v, 'isoformat') else v for k, v in row.items()}
for sql in sys.argv[2:]:
    arrow = [plain(r) for r in rows(pyarrow.ipc.open_stream(ask(sql, 'application/vnd.apache.arrow.stream')).read_all())]
    parquet = [plain(r) for r in rows(pyarrow.parquet.read_table(io.BytesIO(ask(sql, 'application/vnd.apache.parquet'))))]
    array = json.loads(ask(sql, 'application/json'))
    lines = [json.loads(l) for l in ask(sql, 'application/x-ndjson').decode().splitlines()]
    text = list(csv.reader(io.StringIO(ask(sql, 'text/csv').decode(), newline='')))
    assert arrow == parquet, (arrow[:3], parquet[:3])
    assert array == lines == arrow, (array[:3], arrow[:3])
    names, *cells = text
    assert len(cells) == len(arrow), (len(cells), len(arrow))
    for row, values in zip(cells, arrow):
        assert names == list(values), (names, values)
        for cell, value in zip(row, values.values()):
            if value is None: assert cell == '', (cell, value)
            elif isinstance(value, bool): assert cell == str(value).lower(), (cell, value)
            elif isinstance(value, float): assert float(cell) == value, (cell, value)
            else: assert cell == str(value), (cell, value)
    print(len(arrow))
";
    let url = format!("http://{}/", serving.addresses["http"]);
    let statements = [
        HARD,
        "SELECT 1 AS one",
        "SELECT 1 AS one WHERE false",
        "SELECT CAST(NULL AS BIGINT) AS n, CAST(NULL AS TEXT) AS s",
        "SELECT * FROM small.sim_requests ORDER BY 1, 2",
        "SELECT * FROM small.v_latency",
        "EXPLAIN SELECT 1",
    ];
    let args: Vec<&str> = std::iter::once(url.as_str()).chain(statements).collect();
    let Some(out) = python(&["pyarrow"], program, &args, project.path()) else { return };
    let count = |sql: &str| project.rows(sql)[0]["n"].to_string();
    let counts: Vec<&str> = out.lines().collect();
    assert_eq!(counts[..4], ["3", "1", "0", "1"]);
    assert_eq!(counts[4], count("SELECT count(*) AS n FROM small.sim_requests"));
    assert_eq!(counts[5], count("SELECT count(*) AS n FROM small.v_latency"));
}

#[test]
fn statements_and_how_they_are_sent() {
    let project = small();
    let serving = start(&project, &[], &[]);
    let post = |kind: &str, body: &str| {
        send(serving.addresses["http"], &format!("POST /sql HTTP/1.1\nContent-Type: {kind}"), body.as_bytes())
    };
    let cases = [
        ("text/plain", "SELECT 1 AS a", Ok(json!([{"a": 1}]))),
        ("application/sql; charset=utf-8", "SELECT 'ü' AS a", Ok(json!([{"a": "ü"}]))),
        ("application/json", r#"{"sql": "SELECT 2 AS a"}"#, Ok(json!([{"a": 2}]))),
        (
            "application/json",
            r#"{"sql": "SELECT $1 + 1 AS a, $2 AS b, $3 AS c", "parameters": [41, "x' OR 'y'='y", null]}"#,
            Ok(json!([{"a": 42, "b": "x' OR 'y'='y", "c": null}])),
        ),
        (
            "application/json",
            r#"{"sql": "SELECT count(*) AS n FROM small.metrics WHERE scenario_id < $1", "parameters": [2]}"#,
            Ok(json!([{"n": 2}])),
        ),
        ("application/json", r#"{"sql": "SELECT $1 + $2", "parameters": [1]}"#, Err((400, "query"))),
        ("application/json", r#"{"sql": "SELECT $1", "parameters": [[1]]}"#, Err((400, "query"))),
        ("application/json", r#"{"query": "SELECT 1"}"#, Err((400, "bad_request"))),
        ("application/json", "SELECT 1", Err((400, "bad_request"))),
        ("application/x-www-form-urlencoded", "SELECT 1", Err((415, "media_type"))),
        ("multipart/form-data", "SELECT 1", Err((415, "media_type"))),
        ("text/plain", "", Err((400, "syntax"))),
        ("text/plain", "SELECT 1; SELECT 2", Err((400, "syntax"))),
        ("text/plain", "SELEC 1", Err((400, "syntax"))),
        ("text/plain", "SELECT * FROM small.metric", Err((400, "unknown_table"))),
        ("text/plain", "SELECT scenario FROM small.metrics", Err((400, "unknown_column"))),
        ("text/plain", "SELECT quantil(1)", Err((400, "unknown_function"))),
        (
            "text/plain",
            "SELECT a.scenario_id, b.scenario_id FROM small.metrics a, small.metrics b",
            Err((400, "query")),
        ),
        ("text/plain", "DROP TABLE small.metrics", Err((403, "read_only"))),
        ("text/plain", "COPY (SELECT 1) TO 'evil.csv'", Err((403, "read_only"))),
        ("text/plain", "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'", Err((403, "read_only"))),
        ("text/plain", "SET datafusion.execution.batch_size = 1", Err((403, "read_only"))),
        ("text/plain", "INSERT INTO small.metrics SELECT * FROM small.metrics", Err((403, "read_only"))),
        ("text/plain", "SELECT * FROM '/etc/passwd'", Err((400, "unknown_table"))),
        ("text/plain", "SELECT CAST(s AS BIGINT) FROM (VALUES ('x')) AS t(s)", Err((400, "value"))),
    ];
    for (kind, body, expected) in cases {
        let answer = post(kind, body);
        match expected {
            Ok(rows) => assert_eq!((answer.status, answer.json()), (200, rows), "{body}"),
            Err((status, reason)) => {
                assert_eq!(
                    (answer.status, &answer.json()["reason"]),
                    (status, &json!(reason)),
                    "{body}\n{}",
                    answer.text()
                );
            }
        }
    }
    assert!(!project.path().join("evil.csv").exists());
    let near = post("text/plain", "SELECT * FROM small.metric").json();
    assert!(near["hint"].as_str().unwrap().contains("metrics"), "{near}");
    // A link downloads.
    let link = get(&serving, "/sql?q=SELECT%201%20AS%20a&format=csv");
    assert_eq!(link.text(), "a\n1\n");
    assert_eq!(link.headers["content-disposition"], "attachment; filename=\"result.csv\"");
    // The page's format says how many rows there are beside those that it sends, and what went wrong on the way.
    let lines = sql(&serving, "SELECT value AS n FROM generate_series(1, 25000)", "preview&rows=2").lines();
    assert_eq!(lines[0]["columns"][0]["name"], "n");
    assert_eq!(lines[1..], [json!(["1"]), json!(["2"]), json!({"rows": 25000})]);
    let no_body = send(
        serving.addresses["http"],
        "POST /sql HTTP/1.1\nContent-Type: text/plain\nTransfer-Encoding: chunked",
        b"",
    );
    assert!(no_body.status >= 400, "{no_body:?}");
}

#[test]
fn a_large_result_is_sent_as_it_is_made_and_breaks_off_where_the_query_does() {
    let project = Project::new();
    // With one thread the rows come in their order.
    let args = ["--max-rows", "3000000", "--memory", "64MiB", "--max-queries", "1", "--timeout", "20", "--jobs", "1"];
    let serving = start(&project, &args, &[]);
    let rows = 3_000_000;
    let statement = format!("SELECT value AS n, value * 2 AS twice FROM generate_series(1, {rows})");
    let csv = sql(&serving, &statement, "csv");
    assert!(csv.complete && csv.headers.contains_key("transfer-encoding"));
    assert_eq!(csv.text().lines().count(), rows + 1);
    assert_eq!(csv.text().lines().last(), Some("3000000,6000000"));
    let parquet = sql(&serving, &statement, "parquet");
    assert!(parquet.complete && parquet.body.starts_with(b"PAR1") && parquet.body.ends_with(b"PAR1"));
    #[cfg(target_os = "linux")]
    {
        // Of both results no more than a part is ever held; without that the process needs about 100 MB.
        let status = std::fs::read_to_string(format!("/proc/{}/status", serving.pid())).unwrap();
        let peak =
            status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        assert!(peak.unwrap() < 400_000, "{peak:?} kB");
    }
    // Something goes wrong after the first rows: nothing looks like an end.
    let late = "SELECT 1 / (value - 2000000) AS n FROM generate_series(1, 3000000)";
    let many = format!("SELECT value AS n FROM generate_series(1, {})", rows + 1);
    for statement in [late, &many] {
        for format in ["csv", "json", "ndjson", "arrow", "parquet"] {
            let answer = sql(&serving, statement, format);
            // Of Parquet so few bytes are made until then that nothing was sent.
            let told = (answer.status, answer.complete);
            let whole_refusal = format == "parquet" && told == (400, true);
            assert!(told == (200, false) || whole_refusal, "{told:?} {format}: {statement}");
            assert!(!answer.body.ends_with(b"PAR1") && !answer.body.ends_with(b"]\n"), "{format}");
        }
        let lines = sql(&serving, statement, "preview").lines();
        let last = lines.last().unwrap();
        assert!(lines.len() == 1_002 && last["problem"]["detail"].is_string(), "{last}");
    }
    // Before the first rows it is a status.
    let early = sql(&serving, "SELECT 1 / (value - 20) AS n FROM generate_series(1, 3000000)", "csv");
    assert_eq!((early.status, early.json()["reason"].clone()), (400, json!("value")));
    // A client that leaves makes room: only one query may run at once.
    for _ in 0..3 {
        let mut stream = TcpStream::connect(serving.addresses["http"]).unwrap();
        let body = "SELECT a.value, b.value AS c FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b";
        let head = format!(
            "POST /sql?format=csv HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.read_exact(&mut [0; 100_000]).unwrap();
    }
    assert_eq!(sql(&serving, "SELECT 1 AS a", "json").json(), json!([{"a": 1}]));
    until("no query runs", || get(&serving, "/metrics").text().contains("pipe_queries_running 0"));
    let metrics = get(&serving, "/metrics").text();
    assert!(metrics.contains("pipe_queries_total{protocol=\"http\",outcome=\"cancelled\"} 3"), "{metrics}");
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
}

#[test]
fn limits_have_statuses() {
    let project = Project::new();
    let args =
        ["--timeout", "1", "--memory", "20MiB", "--max-rows", "1000", "--max-queries", "1", "--max-connections", "6"];
    let serving = start(&project, &args, &[]);
    let address = serving.addresses["http"];
    let slow = "SELECT count(*) FROM generate_series(1, 10000000) a, generate_series(1, 10000000) b WHERE a.value + b.value = 7";
    let large = "SELECT count(DISTINCT value || 'some longer text') FROM generate_series(1, 30000000)";
    let cases =
        [(slow, 504, "timeout"), ("SELECT * FROM generate_series(1, 1001)", 413, "too_large"), (large, 503, "memory")];
    for (statement, status, reason) in cases {
        let answer = sql(&serving, statement, "json");
        let told = answer.json();
        // Whichever of the two limits a large query meets first on a slow machine.
        let expected = [(status, json!(reason)), (504, json!("timeout"))];
        let accepted = if reason == "memory" { &expected[..] } else { &expected[..1] };
        assert!(accepted.contains(&(answer.status, told["reason"].clone())), "{told}");
        assert!(!told["hint"].as_str().unwrap().is_empty(), "{told}");
    }
    let long = format!("GET /sql?q={} HTTP/1.1", "x".repeat(20_000));
    let huge = vec![b'x'; (1 << 20) + 1];
    let cases = [
        (send(address, &long, b""), 414),
        (send(address, "POST /sql HTTP/1.1\nContent-Type: text/plain", &huge), 413),
        (send(address, &format!("GET /tables HTTP/1.1\nX-Long: {}", "x".repeat(100_000)), b""), 431),
    ];
    for (answer, status) in cases {
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    // More connections than there may be. Those of before may still have a place, so that one of these had none.
    let mut held: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut refused = None;
    until("a connection too many is refused", || {
        held.push(TcpStream::connect(address).unwrap());
        let answer = get(&serving, "/healthz");
        let full = answer.status == 503;
        refused = Some(answer);
        full
    });
    assert_eq!(refused.unwrap().json()["reason"], "connections");
    drop(held);
    until("there is room again", || get(&serving, "/healthz").status == 200);
}

#[test]
fn foreign_pages_and_names() {
    let project = Project::new();
    let serving = start(&project, &[], &[]);
    let address = serving.addresses["http"];
    let own = format!("http://{address}");
    let port = address.port();
    let cases = [
        ("Host: evil.example".to_string(), 421, "host"),
        (format!("Host: localhost:{port}"), 200, ""),
        (format!("Host: 127.0.0.1:{port}\nOrigin: {own}"), 200, ""),
        (format!("Origin: {own}"), 200, ""),
        ("Origin: http://127.0.0.1:1".to_string(), 403, "origin"),
        ("Origin: https://evil.example".to_string(), 403, "origin"),
        ("Origin: null".to_string(), 403, "origin"),
        ("Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: no-cors".to_string(), 403, "origin"),
        ("Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document".to_string(), 403, "origin"),
    ];
    for (headers, status, reason) in cases {
        let head = format!("POST /sql HTTP/1.1\nContent-Type: text/plain\n{headers}");
        let answer = send(address, &head, b"SELECT 1 AS a");
        assert_eq!(answer.status, status, "{headers}\n{}", answer.text());
        assert!(!answer.headers.keys().any(|name| name.starts_with("access-control")), "{:?}", answer.headers);
        if status != 200 {
            assert_eq!(answer.json()["reason"], reason);
        }
    }
    // A link to the page may be followed; no frame of another site runs a statement or makes a report.
    let cross = "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest:";
    let cases = [
        ("/", "document", 200),
        ("/", "iframe", 403),
        ("/sql?q=SELECT%201", "document", 403),
        ("/sql?q=SELECT%201", "iframe", 403),
        ("/report/small", "document", 403),
    ];
    for (path, into, status) in cases {
        let answer = send(address, &format!("GET {path} HTTP/1.1\n{cross} {into}"), b"");
        assert_eq!(answer.status, status, "{path} {into}");
    }
    // Load balancers ask by any name.
    assert_eq!(send(address, "GET /healthz HTTP/1.1\nHost: pod-7", b"").status, 200);
}

const TOKEN: &str = "0123456789abcdef0123";

#[test]
fn tokens() {
    let project = small();
    let serving = start(&project, &[], &[("PIPE_SERVE_TOKENS", TOKEN)]);
    let address = serving.addresses["http"];
    let ask = |path: &str, headers: &str| send(address, &format!("GET {path} HTTP/1.1\n{headers}"), b"");
    for path in ["/", "/page.js", "/page.css", "/healthz"] {
        let answer = ask(path, "");
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.text().contains("small"), "{path}");
    }
    let known = format!("Authorization: Bearer {TOKEN}");
    let closed = [
        "/tables",
        "/tables/small/metrics",
        "/sql?q=SELECT%201",
        "/runs",
        "/live",
        "/report/small",
        "/metrics",
        "/nothing",
    ];
    for path in closed {
        for (headers, allowed) in [
            ("", false),
            ("Authorization: Bearer 0123456789abcdef0124", false),
            ("Authorization: Basic cGlwZTpwaXBl", false),
            (&known, true),
        ] {
            let answer = ask(path, headers);
            assert_eq!(answer.status != 401, allowed, "{path} {headers}");
            if !allowed {
                assert_eq!(answer.json()["reason"], "access");
                assert!(answer.headers["www-authenticate"].starts_with("Bearer"), "{:?}", answer.headers);
                assert!(!answer.text().contains("small"), "{}", answer.text());
            }
        }
    }
    let metrics = ask("/metrics", &known).text();
    let denied = 3 * closed.len();
    assert!(metrics.contains(&format!("pipe_access_denied_total{{protocol=\"http\"}} {denied}")), "{metrics}");
    assert!(!serving.log().contains(TOKEN));
}

#[test]
fn over_tls() {
    let project = small();
    if !certificate(&project) {
        return;
    }
    let serving = start(&project, &["--tls-cert", "cert.pem", "--tls-key", "key.pem"], &[("PIPE_SERVE_TOKENS", TOKEN)]);
    let url = format!("https://localhost:{}/", serving.port("http"));
    let program = "
import sys, ssl, json, urllib.request, urllib.error, socket
url, token = sys.argv[1:3]
context = ssl.create_default_context(cafile='cert.pem')
def ask(path, headers, data=None):
    r = urllib.request.Request(url + path, data=data, headers=headers)
    try:
        with urllib.request.urlopen(r, context=context) as answer: return answer.status, answer.read()
    except urllib.error.HTTPError as e: return e.code, e.read()
assert ask('tables', {})[0] == 401
status, body = ask('sql', {'Authorization': 'Bearer ' + token, 'Content-Type': 'text/plain'}, b'SELECT count(*) AS n FROM small.metrics')
assert status == 200 and json.loads(body) == [{'n': 6}], (status, body)
context.set_alpn_protocols(['h2', 'http/1.1'])
port = int(url.rsplit(':', 1)[1].strip('/'))
with context.wrap_socket(socket.create_connection(('localhost', port)), server_hostname='localhost') as s:
    assert s.selected_alpn_protocol() == 'h2' and s.version() == 'TLSv1.3', (s.selected_alpn_protocol(), s.version())
with socket.create_connection(('localhost', port)) as s:
    s.settimeout(30)
    s.sendall(b'GET /healthz HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n')
    assert not s.recv(1000).startswith(b'HTTP'), 'it answers without TLS'
print('fine')
";
    if let Some(out) = python(&["ssl"], program, &[&url, TOKEN], project.path()) {
        assert_eq!(out.trim(), "fine");
    }
    // HTTP/2, with its name in the URI, by the one client of it that is everywhere.
    let curl = std::process::Command::new("curl")
        .args(["--silent", "--http2", "--cacert", "cert.pem", "--write-out", " %{http_version} %{http_code}"])
        .args([
            "--header",
            &format!("Authorization: Bearer {TOKEN}"),
            &format!("{url}sql?q=SELECT%201%20AS%20a&format=csv"),
        ])
        .current_dir(project.path())
        .output();
    match curl {
        Ok(out) if out.status.code() != Some(1) => assert_eq!(String::from_utf8_lossy(&out.stdout), "a\n1\n 2 200"),
        _ => skipped("there is no curl with HTTP/2"),
    }
}

#[test]
fn a_port_in_use() {
    let project = Project::new();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    let ran = project.run(&[&["serve"], &ONLY_HTTP[..], &["--http", &port]].concat());
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(
        ran.err.contains("help: another program listens there: choose another port with `--http PORT`"),
        "{}",
        ran.err
    );
}

#[test]
fn tables_appear_without_a_restart() {
    let project = Project::new();
    let serving = start(&project, &[], &[]);
    assert_eq!(get(&serving, "/tables").json()["pipelines"], json!([]));
    assert_eq!(get(&serving, "/live").json()["runs"], json!([]));
    assert_eq!(get(&serving, "/").status, 200);
    assert_eq!(get(&serving, "/runs").json(), json!({"runs": []}));
    assert_eq!(sql(&serving, "SELECT * FROM small.metrics", "json").json()["reason"], "unknown_table");
    project.write("pipelines/small.yaml", SMALL);
    project.run(&["run", "pipelines/small.yaml", "--quiet"]).ok();
    until("the tables of the run are served", || sql(&serving, "SELECT * FROM small.metrics", "json").status == 200);
    let report = get(&serving, "/report/small");
    let policy = &report.headers["content-security-policy"];
    let nonce = policy.split("'nonce-").nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
    assert!(report.text().contains(&format!("<script nonce=\"{nonce}\">")), "{policy}");
    assert!(report.text().contains("<h1>small</h1>") && policy.contains("sandbox"), "{policy}");
}

/// A pipeline that takes minutes, if nobody stops it.
pub fn slow() -> String {
    let rates: Vec<String> = (1..=5_000).map(|i| format!("{}.{:03}", 1 + i / 1_000, i % 1_000)).collect();
    format!(
        "\
name: slow
stages:
  trace:
    synthesize: {{ requests: 3000, rate_rps: 4, input: {{ constant: {{ tokens: 300 }} }}, output: {{ constant: {{ tokens: 200 }} }} }}
  sim:
    simulate:
      requests: trace
      deployment: {{ model: meta-llama/Llama-3.1-8B, gpu: h100-sxm }}
      sweep: {{ grid: {{ workload.rate_rps: [{}] }} }}
  after:
    sql: SELECT count(*) AS n FROM sim
",
        rates.join(", ")
    )
}

#[test]
fn a_run_is_watched() {
    let project = Project::new();
    let serving = start(&project, &[], &[]);
    project.write("pipelines/slow.yaml", &slow());
    let begin = || {
        project
            .command(&["run", "pipelines/slow.yaml", "--quiet", "-j", "1"])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut run = begin();
    let mut seen = Value::Null;
    until("the run is seen at work", || {
        seen = get(&serving, "/live").json();
        let stages = &seen["runs"][0]["stages"];
        stages[1]["state"] == "running" && stages[1]["done"].as_u64() > Some(0)
    });
    let live = &seen["runs"][0];
    assert_eq!((&live["pipeline"], &live["pid"]), (&json!("slow"), &json!(run.id())));
    let told = |i: usize| (text(&live["stages"][i]["name"]), text(&live["stages"][i]["state"]));
    assert_eq!(told(0), ("trace".to_string(), "ran".to_string()));
    assert_eq!(told(2), ("after".to_string(), "waiting".to_string()));
    assert_eq!(live["stages"][0]["rows"], 3000);
    let sim = &live["stages"][1];
    assert!(sim["total"].as_u64() > sim["done"].as_u64() && !text(&sim["what"]).is_empty(), "{sim}");
    // It gets on.
    let done = sim["done"].as_u64();
    until("it gets on", || get(&serving, "/live").json()["runs"][0]["stages"][1]["done"].as_u64() > done);
    let listed = project.run(&["history", "--json"]).ok().out;
    assert_eq!(listed.lines().count(), 1, "{listed}");
    project.run(&["gc"]).ok();
    // Killed: its file stays, and is taken for what it is.
    run.kill().unwrap();
    run.wait().unwrap();
    let files = || std::fs::read_dir(project.path().join("data/store/live")).unwrap().count();
    assert!(files() > 0);
    until("the dead run is not shown", || get(&serving, "/live").json()["runs"] == json!([]));
    // The next run sweeps it; stopped by its user, it takes its own along.
    let mut next = begin();
    until("the next run is seen", || get(&serving, "/live").json()["runs"][0]["pid"] == next.id());
    assert_eq!(files(), 1);
    let _ = std::process::Command::new("kill").args(["-INT", &next.id().to_string()]).status();
    next.wait().unwrap();
    assert_eq!(files(), 0);
    assert_eq!(get(&serving, "/live").json()["runs"], json!([]));
}
