//! PostgreSQL's wire protocol as its clients see it: psql, psycopg 3 and 2, SQLAlchemy, pandas, tokio-postgres, JDBC.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::project::{Project, SMALL, repository};
use crate::serving::{Serving, certificate, python, skipped, small};

/// A project whose pipeline has run, shared by the tests that only read it, and gone with the last of them.
fn shared() -> Arc<Project> {
    static RUN: Mutex<Weak<Project>> = Mutex::new(Weak::new());
    let mut run = RUN.lock().unwrap_or_else(PoisonError::into_inner);
    run.upgrade().unwrap_or_else(|| {
        let made = Arc::new(small());
        *run = Arc::downgrade(&made);
        made
    })
}

fn dsn(serving: &Serving, more: &str) -> String {
    format!("host=127.0.0.1 port={} user=bi dbname=pipe {more}", serving.port("postgres"))
}

/// What a Python program prints as its last line, in JSON. Its first argument is the DSN.
fn show(modules: &[&str], serving: &Serving, program: &str, project: &Project) -> Option<Value> {
    let prelude = "import json, sys, datetime\ndef refused(f):\n    try:\n        return ['no', str(f())]\n    except Exception as e:\n        return [getattr(e, 'sqlstate', None) or getattr(e, 'pgcode', None), str(e)]\n";
    let text = format!("{prelude}{program}");
    let out = python(modules, &text, &[&dsn(serving, ""), &serving.port("postgres").to_string()], project.path())?;
    let last = out.lines().last().unwrap_or_else(|| panic!("nothing was shown:\n{out}"));
    Some(serde_json::from_str(last).unwrap_or_else(|e| panic!("{last}: {e}")))
}

/// Runs `work` with a client of tokio-postgres.
fn with_client<T>(serving: &Serving, work: impl AsyncFnOnce(tokio_postgres::Client) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(&dsn(serving, ""), NoTls).await.unwrap();
        tokio::spawn(connection);
        work(client).await
    })
}

/// A statement that a tool sends, and what it needs of the answer.
struct Asked {
    sql: String,
    expect: Vec<String>,
}

fn asked(path: &Path) -> Vec<Asked> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut all = Vec::new();
    let (mut sql, mut expect) = (String::new(), Vec::new());
    for line in text.lines() {
        if let Some(text) = line.strip_prefix("-- expect:") {
            expect = text.split(';').map(|e| e.trim().to_string()).collect();
        } else if !line.starts_with("--") {
            sql.push_str(line);
            sql.push('\n');
            if line.trim_end().ends_with(';') {
                assert!(!expect.is_empty(), "no expectation:\n{sql}");
                all.push(Asked { sql: std::mem::take(&mut sql), expect: std::mem::take(&mut expect) });
            }
        }
    }
    assert!(sql.trim().is_empty() && !all.is_empty(), "{}", path.display());
    all
}

/// What is missing in an answer.
fn missing(expect: &str, columns: &[String], rows: &[Vec<Option<String>>]) -> Option<String> {
    let (what, value) = expect.split_once(' ').unwrap();
    let has = |test: &dyn Fn(&str) -> bool| rows.iter().flatten().flatten().any(|v| test(v));
    let fine = match what {
        "columns" => columns.join(",") == value,
        "value" => has(&|v| v == value),
        "value-like" => has(&|v| v.contains(value)),
        "rows" => {
            let (sign, n) = value.split_once(' ').unwrap();
            let n: usize = n.parse().unwrap();
            if sign == "=" { rows.len() == n } else { rows.len() >= n }
        }
        other => panic!("unknown expectation {other}"),
    };
    (!fine).then(|| format!("expected {expect}; {} rows of {columns:?}, first {:?}", rows.len(), rows.first()))
}

#[test]
fn what_tools_ask_is_answered() {
    let project = shared();
    let serving = Serving::start(&project, &[], &[]);
    let folder = repository().join("tests/it/clients");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let mut wrong = Vec::new();
    with_client(&serving, async |client| {
        for file in files {
            for Asked { sql, expect } in asked(&file) {
                let name = file.file_name().unwrap().to_string_lossy().into_owned();
                let messages = match client.simple_query(&sql).await {
                    Ok(messages) => messages,
                    Err(e) => {
                        wrong.push(format!(
                            "{name}: {}\n{sql}",
                            e.as_db_error().map_or(e.to_string(), |d| d.to_string())
                        ));
                        continue;
                    }
                };
                let (mut columns, mut rows) = (Vec::new(), Vec::new());
                for message in messages {
                    match message {
                        SimpleQueryMessage::RowDescription(c) => {
                            columns = c.iter().map(|c| c.name().to_string()).collect()
                        }
                        SimpleQueryMessage::Row(row) => {
                            rows.push((0..row.len()).map(|i| row.get(i).map(str::to_string)).collect::<Vec<_>>());
                        }
                        _ => {}
                    }
                }
                wrong.extend(
                    expect.iter().filter_map(|e| missing(e, &columns, &rows)).map(|m| format!("{name}: {m}\n{sql}")),
                );
            }
        }
    });
    assert!(wrong.is_empty(), "{} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn statements_with_their_codes() {
    let project = shared();
    let serving = Serving::start(&project, &["--timeout", "30"], &[]);
    let secret = project.path().join("secret.csv");
    std::fs::write(&secret, "a\n1\n").unwrap();
    let from_file = format!("SELECT * FROM '{}'", secret.display());
    let to_program = format!("COPY (SELECT 1) TO PROGRAM 'touch {}/evil'", project.path().display());
    let to_file = format!("COPY (SELECT 1) TO '{}/evil.csv'", project.path().display());
    let cases: Vec<(&str, &str)> = vec![
        ("SELECT 1", ""),
        ("SELECT count(*) FROM small.sim_requests", ""),
        ("SELECT count FROM (SELECT count(*) FROM sim_requests) s", ""),
        ("SELECT 1, 1, NULL, NULL", ""),
        ("BEGIN; SELECT 1; COMMIT", ""),
        ("SET application_name = 'x'; SHOW application_name", ""),
        ("SET statement_timeout = '10s'", ""),
        ("SET datafusion.execution.batch_size = 1", "42704"),
        ("SET nonsense = 1", "42704"),
        ("SHOW ALL", ""),
        ("SHOW datafusion.execution.batch_size", "42704"),
        ("EXPLAIN SELECT 1", ""),
        ("SELECT nope FROM small.sim_requests", "42703"),
        ("SELECT * FROM nope", "42P01"),
        ("SELECT nope(1)", "42883"),
        ("SELEC 1", "42601"),
        ("INSERT INTO small.sim_requests VALUES (1)", "25006"),
        ("UPDATE small.sim_requests SET a = 1", "25006"),
        ("DELETE FROM small.sim_requests", "25006"),
        ("CREATE TABLE x AS SELECT 1", "25006"),
        ("DROP TABLE small.sim_requests", "25006"),
        ("SELECT 1 INTO x", "25006"),
        ("EXPLAIN ANALYZE INSERT INTO small.sim_requests VALUES (1)", "25006"),
        ("WITH x AS (DELETE FROM small.sim_requests RETURNING 1) SELECT 1", "25006"),
        ("CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'", "25006"),
        (&to_program, "25006"),
        (&to_file, "25006"),
        (&from_file, "42P01"),
        ("SELECT * FROM '/etc/passwd'", "42P01"),
        ("SELECT pg_read_file('/etc/passwd')", "42883"),
        ("SELECT * FROM read_csv('/etc/passwd')", "42883"),
        ("SELECT lo_import('/etc/passwd')", "42883"),
        ("SELECT 1/0", "22012"),
        ("SELECT 1/(value - 1) FROM generate_series(1, 3)", "22012"),
        ("FETCH 1 FROM nope", "34000"),
    ];
    with_client(&serving, async |client| {
        for (sql, expected) in cases {
            let got = match client.simple_query(sql).await {
                Ok(_) => String::new(),
                Err(e) => e.code().map_or(e.to_string(), |c| c.code().to_string()),
            };
            assert!(expected.split(' ').any(|e| e == got), "{sql}: expected {expected:?}, got {got:?}");
        }
        // In a row of statements, those before the mistake are answered, and those after it are not run.
        let e = client.simple_query("SELECT 1; SELECT nope; SELECT 2").await.unwrap_err();
        assert_eq!(e.code().unwrap().code(), "42703");
        let e = client.simple_query("SELECT * FROM sim_requets").await.unwrap_err();
        let hint = e.as_db_error().unwrap().hint().unwrap_or_default().to_string();
        assert!(hint.contains("sim_requests"), "{hint}");
    });
    assert!(!project.path().join("evil.csv").exists() && !project.path().join("evil").exists());
}

#[test]
fn settings_and_the_end_of_transactions() {
    let project = shared();
    let serving = Serving::start(&project, &[], &[]);
    let cases = [
        ("SET statement_timeout = '5s'; BEGIN; SET LOCAL statement_timeout = '7s'; SHOW statement_timeout", "7s"),
        ("COMMIT; SHOW statement_timeout", "5s"),
        ("BEGIN; SET statement_timeout = '8s'; ROLLBACK; SHOW statement_timeout", "5s"),
        ("SET LOCAL statement_timeout = '9s'; SHOW statement_timeout", "5s"),
        ("SELECT set_config('search_path', 'small', false)", "small"),
        ("SELECT current_schema()", "small"),
        ("SELECT count(*) FROM metrics", "6"),
        ("EXPLAIN SELECT set_config('search_path', 'zzz', false); SHOW search_path", "small"),
        ("BEGIN; SELECT set_config('search_path', 'public', true); COMMIT; SHOW search_path", "small"),
    ];
    with_client(&serving, async |client| {
        for (sql, expected) in cases {
            let messages = client.simple_query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
            let got = messages.iter().rev().find_map(|m| match m {
                SimpleQueryMessage::Row(row) => row.get(0),
                _ => None,
            });
            assert_eq!(got, Some(expected), "{sql}");
        }
        let sql = "SELECT set_config('search_path', $1, false)";
        let row = client.query_one(sql, &[&"public"]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), "public");
        let e =
            client.simple_query("SELECT set_config('search_path', relname, false) FROM pg_class").await.unwrap_err();
        assert!(e.as_db_error().unwrap().message().contains("set_config"), "{e:?}");
    });
}

#[test]
fn strangers_take_no_place() {
    let project = shared();
    let serving = Serving::start(&project, &["--max-connections", "2"], &[]);
    let idle: Vec<_> = (0..3).map(|_| TcpStream::connect(serving.addresses["postgres"]).unwrap()).collect();
    with_client(&serving, async |client| {
        let (_other, connection) = tokio_postgres::connect(&dsn(&serving, ""), NoTls).await.unwrap();
        tokio::spawn(connection);
        client.simple_query("SELECT 1").await.unwrap();
        // Told before it is let in.
        let e = tokio_postgres::connect(&dsn(&serving, ""), NoTls).await.err().unwrap();
        assert_eq!(e.code().map(|c| c.code()), Some("53300"), "{e:?}");
    });
    drop(idle);
}

const PSYCOPG: &str = r#"
import psycopg
c = psycopg.connect(sys.argv[1], autocommit=True)
q = lambda s, p=None, **k: c.cursor(**k).execute(s, p).fetchall()
name = lambda s: [d.name for d in c.execute(s).description]
n = q("SELECT count(*) FROM small.sim_requests")[0][0]
binary = q("SELECT 1::int, 2.5::float8, true, 'x', date '2026-02-03', timestamp '2026-02-03 04:05:06.000007', NULL, ARRAY[1,2]", binary=True)[0]
cursor = psycopg.ClientCursor(c)
with c.cursor().copy("COPY (SELECT 1 AS a, 'x,y' AS b, NULL AS c) TO STDOUT WITH (FORMAT csv, HEADER)") as copy:
    copied = b"".join(copy).decode()
with psycopg.connect(sys.argv[1]) as t, t.cursor("named") as named:
    named.itersize = 100
    named.execute("SELECT scenario_id FROM small.sim_requests")
    streamed = sum(1 for _ in named)
with psycopg.connect(sys.argv[1]) as t, t.cursor("cu", binary=True) as named:
    named.execute("SELECT value::bigint, 1.5::float8 FROM generate_series(1, 2)")
    bound = named.fetchall()
print(json.dumps({
    "n": n,
    "int": q("SELECT count(*) FROM small.sim_requests WHERE scenario_id >= %s", (0,))[0][0] == n,
    "text": q("SELECT %s", ("it's; DROP",))[0][0],
    "types": q("SELECT %s::float8 + 1, %s::date, %s::timestamp", (1.5, datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 2, 3, 4)))[0],
    "null": q("SELECT %s::text IS NULL", (None,))[0][0],
    "any": q("SELECT x FROM (VALUES (1), (2), (3)) v(x) WHERE x = ANY(%s) ORDER BY 1", ([1, 3],)),
    "none": q("SELECT x FROM (VALUES (1)) v(x) WHERE x = ANY(%s)", ([],)),
    "limit": len(q("SELECT * FROM small.sim_requests LIMIT %s OFFSET %s", (5, 2))),
    "binary": binary,
    "bound": bound,
    "names": name("SELECT count(*), max(scenario_id), 1, 'a' AS \"B\" FROM small.sim_requests"),
    "copied": copied,
    "streamed": streamed == n,
    "unsigned": q("SELECT arrow_cast(18446744073709551615, 'UInt64')", binary=True)[0][0],
    "struct": q("SELECT named_struct('a', 1, 'b', 'x')")[0][0],
    "schema": (c.execute("SET search_path TO small"), q("SELECT current_schema(), (SELECT count(*) FROM sim_requests)"))[1][0],
    "refused": refused(lambda: q("INSERT INTO small.sim_requests VALUES (%s)", (1,)))[0],
    "timeout": (c.execute("SET statement_timeout = '200ms'"), refused(lambda: q("SELECT sum(a.value * b.value % 7) FROM generate_series(1, 100000) a, generate_series(1, 1000000) b"))[0], c.execute("SET statement_timeout = 0"))[1],
}, default=str))
"#;

#[test]
fn psycopg_3() {
    let project = shared();
    let serving = Serving::start(&project, &[], &[]);
    let Some(got) = show(&["psycopg"], &serving, PSYCOPG, &project) else { return };
    // 200 requests in each of 6 scenarios.
    let expected = json!({
        "n": 1200, "int": true, "text": "it's; DROP", "types": [2.5, "2026-01-02", "2026-01-02 03:04:00"], "null": true,
        "any": [[1], [3]], "none": [], "limit": 5,
        "binary": [1, 2.5, true, "x", "2026-02-03", "2026-02-03 04:05:06.000007", null, [1, 2]],
        "bound": [[1, 1.5], [2, 1.5]], "names": ["count", "max", "?column?", "B"], "copied": "a,b,c\n1,\"x,y\",\n", "streamed": true,
        "unsigned": "18446744073709551615", "struct": "{\"a\":1,\"b\":\"x\"}", "schema": ["small", 1200],
        "refused": "25006", "timeout": "57014",
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&got[key], value, "{key}");
    }
}

const PSYCOPG2: &str = r#"
import psycopg2
c = psycopg2.connect(sys.argv[1])
def q(s, p=None):
    cur = c.cursor(); cur.execute(s, p); return cur.fetchall()
first = q("SELECT count(*) FROM small.sim_requests WHERE scenario_id = ANY(%s) OR scenario_id IS NOT NULL", ([1, 2],))
broken = refused(lambda: q("SELECT nope"))
aborted = refused(lambda: q("SELECT 1"))
c.rollback()
after = q("SELECT 1")
cur = c.cursor("named"); cur.itersize = 7; cur.execute("SELECT scenario_id FROM small.sim_requests LIMIT 20")
named = len(list(cur))
import io
out = io.StringIO(); c.cursor().copy_expert("COPY small.metrics TO STDOUT", out)
print(json.dumps({"first": first, "broken": broken[0], "aborted": aborted[0], "after": after, "named": named, "lines": out.getvalue().count("\n")}))
"#;

#[test]
fn psycopg_2() {
    let project = shared();
    let serving = Serving::start(&project, &[], &[]);
    let Some(got) = show(&["psycopg2"], &serving, PSYCOPG2, &project) else { return };
    let expected =
        json!({"first": [[1200]], "broken": "42703", "aborted": "25P02", "after": [[1]], "named": 20, "lines": 6});
    assert_eq!(got, expected);
}

const SQLALCHEMY: &str = r#"
import sqlalchemy as sa, pandas as pd
out = {}
for driver in sys.argv[3:] or ["psycopg2", "psycopg"]:
    e = sa.create_engine(f"postgresql+{driver}://bi@127.0.0.1:{sys.argv[2]}/pipe")
    i = sa.inspect(e)
    columns = {c["name"]: c for c in i.get_columns("sim_requests", schema="small")}
    metadata = sa.MetaData(); metadata.reflect(bind=e, schema="small", views=True)
    table = sa.Table("metrics", sa.MetaData(), schema="small", autoload_with=e)
    out[driver] = {
        "schemas": i.get_schema_names(),
        "tables": "sim_requests" in i.get_table_names(schema="small") and "sim_requests" in i.get_table_names(),
        "views": "v_requests" in i.get_view_names(schema="small"),
        "definition": "SELECT" in (i.get_view_definition("v_requests", schema="small") or "").upper(),
        "type": str(columns["ttft_ns"]["type"]),
        "comment": columns["ttft_ns"]["comment"] is not None and "ns" in columns["ttft_ns"]["comment"],
        "pk": i.get_pk_constraint("sim_requests", schema="small")["constrained_columns"],
        "fks": i.get_foreign_keys("sim_requests", schema="small"),
        "indexes": i.get_indexes("sim_requests", schema="small"),
        "unique": i.get_unique_constraints("sim_requests", schema="small"),
        "table_comment": "small" in (i.get_table_comment("sim_requests", schema="small")["text"] or ""),
        "has": [i.has_table("sim_requests", schema="small"), i.has_table("nope", schema="small")],
        "reflected": "small.sim_requests" in metadata.tables and "small.v_requests" in metadata.tables,
        "autoload": [c.name for c in table.columns],
        "pandas": len(pd.read_sql("SELECT * FROM small.metrics", e)),
        "read_table": len(pd.read_sql_table("metrics", e, schema="small")),
        "core": e.connect().execute(sa.select(sa.func.count()).select_from(table).where(table.c.scenario_id >= 0)).scalar(),
    }
print(json.dumps(out, default=str))
"#;

#[test]
fn sqlalchemy_and_pandas() {
    let project = shared();
    let serving = Serving::start(&project, &[], &[]);
    let modules = ["sqlalchemy", "pandas", "psycopg2", "psycopg"];
    let Some(got) = show(&modules, &serving, SQLALCHEMY, &project) else { return };
    let expected = json!({
        "schemas": ["information_schema", "public", "small"], "tables": true, "views": true, "definition": true,
        "type": "BIGINT", "comment": true, "pk": [], "fks": [], "indexes": [], "unique": [], "table_comment": true,
        "has": [true, false], "reflected": true, "autoload": ["scenario_id", "ttft_ms_p99", "e2e_ms_mean"],
        "pandas": 6, "read_table": 6, "core": 6,
    });
    for driver in ["psycopg2", "psycopg"] {
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&got[driver][key], value, "{driver} {key}");
        }
    }
}

/// Runs psql; `None` where there is none.
fn psql(serving: &Serving, args: &[&str], password: &str, more: &str) -> Option<(i32, String)> {
    if Command::new("psql").arg("--version").output().is_err() {
        skipped("there is no psql");
        return None;
    }
    let mut command = Command::new("psql");
    command.env("PGPASSWORD", password).env("PGCONNECT_TIMEOUT", "10").args(["-X", "-At", &dsn(serving, more)]);
    let out = command.args(args).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    Some((out.status.code().unwrap_or(-1), text))
}

#[test]
fn psql_describes_what_is_served() {
    let project = shared();
    let serving = Serving::start(&project, &[], &[]);
    let cases = [
        ("\\dt", "public|sim_requests|table|pipe"),
        ("\\dt *.*", "small|sim_requests|table|pipe"),
        ("\\dv small.*", "small|v_requests|view|pipe"),
        ("\\dn", "small|pipe"),
        ("\\l", "pipe|pipe|UTF8"),
        ("\\d small.sim_requests", "ttft_ns|bigint|"),
        ("\\d+ small.sim_requests", "[ns]"),
        ("\\d+ small.v_requests", "request_id|bigint"),
        ("\\df", ""),
        ("\\du", "pipe"),
        ("SELECT version()", "PostgreSQL 16.6 (pipe "),
    ];
    for (command, expected) in cases {
        let Some((code, text)) = psql(&serving, &["-c", command], "", "") else { return };
        assert!(code == 0 && text.contains(expected) && !text.contains("ERROR"), "{command}: {text}");
    }
}

#[test]
fn who_may_ask() {
    let project = shared();
    let users = [("PIPE_SERVE_USERS", "bi:right,ann:other")];
    let serving = Serving::start(&project, &[], &users);
    let cases = [("right", "", 0), ("wrong", "", 2), ("", "", 2), ("right", "user=nobody", 2)];
    for (password, more, expected) in cases {
        let Some((code, text)) = psql(&serving, &["-c", "SELECT upper('let in')"], password, more) else { return };
        assert_eq!(code, expected, "{password} {more}: {text}");
        assert_eq!(text.contains("LET IN"), expected == 0, "{text}");
    }
    let (_, wrong) = psql(&serving, &["-c", "SELECT 1"], "wrong", "").unwrap();
    let (_, unknown) = psql(&serving, &["-c", "SELECT 1"], "wrong", "user=nobody").unwrap();
    assert_eq!(wrong.replace("\"bi\"", "X"), unknown.replace("\"nobody\"", "X"));
    serving.logs("was not let in as `nobody`");
    assert!(!serving.log().contains("wrong\"") && !serving.log().contains("right"), "{}", serving.log());
}

/// Says what is in `bytes` to the port, and reads what is answered to it, or until the server hangs up.
fn talk(serving: &Serving, bytes: &[u8]) -> Vec<u8> {
    // A client that leaves is not answered to the end: so it asks for something last, and leaves when that is here.
    const LAST: &str = "nothing more to say";
    let last = message(Some(b'Q'), format!("SELECT '{LAST}'\0").as_bytes());
    let mut socket = TcpStream::connect(serving.addresses["postgres"]).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let _ = socket.write_all(&[bytes, &message(Some(b'S'), b""), &last].concat());
    let (mut out, mut some) = (Vec::new(), [0; 4096]);
    loop {
        match socket.read(&mut some) {
            Ok(0) => return out,
            Ok(n) => out.extend_from_slice(&some[..n]),
            // Hung up, or waiting for more: what is no message may be the beginning of one.
            Err(_) => return out,
        }
        if out.windows(LAST.len()).any(|w| w == LAST.as_bytes()) {
            return out;
        }
    }
}

fn message(kind: Option<u8>, body: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = kind.into_iter().collect();
    out.extend((body.len() as u32 + 4).to_be_bytes());
    out.extend(body);
    out
}

fn greeting() -> Vec<u8> {
    message(None, &[&[0, 3, 0, 0][..], b"user\0bi\0\0"].concat())
}

#[test]
fn strangers_do_not_get_past_the_door() {
    let project = shared();
    let serving = Serving::start(&project, &[], &[("PIPE_SERVE_USERS", "bi:right")]);
    let query = message(Some(b'Q'), b"SELECT 424242424242\0");
    let sasl = message(Some(b'p'), b"SCRAM-SHA-256\0\0\0\0\x0an,,n=,r=ab");
    let cases: Vec<Vec<u8>> = vec![
        // A query in place of a password, after a wrong one, and twice.
        [greeting(), query.clone()].concat(),
        [greeting(), message(Some(b'p'), b"NONSENSE\0\0\0\0\0"), query.clone()].concat(),
        [greeting(), message(Some(b'p'), b"SCRAM-SHA-256\0\x7f\xff\xff\xff"), query.clone()].concat(),
        [greeting(), message(Some(b'p'), b""), query.clone()].concat(),
        [greeting(), sasl.clone(), message(Some(b'p'), b"c=biws,r=x,p=AAAA"), query.clone()].concat(),
        [greeting(), greeting(), query.clone(), query].concat(),
        // A message that would take the memory.
        [greeting(), vec![b'Q', 0x3f, 0xff, 0xff, 0xff]].concat(),
        vec![0x3f, 0xff, 0xff, 0xff, 0, 3, 0, 0],
        (0..4096_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect(),
        vec![0; 64],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ];
    for bytes in cases {
        let answer = String::from_utf8_lossy(&talk(&serving, &bytes)).into_owned();
        assert!(!answer.contains("424242424242"), "{answer}");
    }
    let Some((code, _)) = psql(&serving, &["-c", "SELECT 1"], "right", "") else { return };
    assert_eq!(code, 0);
}

#[test]
fn clients_that_do_not_keep_to_the_protocol() {
    let project = shared();
    let serving = Serving::start(&project, &[], &[]);
    let parse = |sql: &str| message(Some(b'P'), &[b"\0", sql.as_bytes(), b"\0\0\0"].concat());
    let sync = message(Some(b'S'), b"");
    let execute = |most: i32| message(Some(b'E'), &[&b"\0"[..], &most.to_be_bytes()].concat());
    let bind = |formats: &[i16], results: &[i16]| {
        let codes = |c: &[i16]| {
            let mut out = (c.len() as i16).to_be_bytes().to_vec();
            c.iter().for_each(|f| out.extend(f.to_be_bytes()));
            out
        };
        message(Some(b'B'), &[b"\0\0".to_vec(), codes(formats), vec![0, 0], codes(results)].concat())
    };
    let named = message(Some(b'P'), b"a\0SELECT 1\0\0\0");
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("negative rows", [parse("SELECT 77"), bind(&[], &[]), execute(-5), sync.clone()].concat(), "77"),
        (
            "all the rows there can be",
            [parse("SELECT 77"), bind(&[], &[]), execute(i32::MAX), sync.clone()].concat(),
            "77",
        ),
        (
            "formats for other columns",
            [parse("SELECT 1, 2, 3"), bind(&[], &[0, 1]), execute(0), sync.clone()].concat(),
            "08P01",
        ),
        ("no such statement", [message(Some(b'B'), b"\0none\0\0\0\0\0\0\0"), sync.clone()].concat(), "26000"),
        ("no such portal", [execute(0), sync.clone()].concat(), "34000"),
        ("too few parameters", [parse("SELECT $1"), bind(&[], &[]), sync.clone()].concat(), "08P01"),
        ("a message that there is not", message(Some(b'?'), b"xx"), "08P01"),
        ("a copy that nobody began", [message(Some(b'd'), b"xx"), message(Some(b'Q'), b"SELECT 77\0")].concat(), "77"),
        ("a message of a gigabyte", vec![b'Q', 0x3f, 0xff, 0xff, 0xff, b'S'], "54000"),
        ("an empty query", message(Some(b'Q'), b" ; \0"), "I\0\0\0\x04"),
        ("the tag of EXPLAIN", [parse("EXPLAIN SELECT 1"), bind(&[], &[]), execute(0)].concat(), "EXPLAIN\0"),
        ("a name that is taken", [named.clone(), named].concat(), "42P05"),
        (
            "a portal of a transaction that ended",
            [
                parse("SELECT 1"),
                message(Some(b'B'), b"p\0\0\0\0\0\0\0\0"),
                sync.clone(),
                message(Some(b'E'), b"p\0\0\0\0\0"),
            ]
            .concat(),
            "34000",
        ),
        ("a value longer than its message", message(Some(b'B'), b"\0\0\0\0\0\x01\x7f\xff\xff\xff\0\0"), "08P01"),
        ("more values than there are", message(Some(b'B'), b"\0\0\0\0\xff\xff"), "08P01"),
        ("more types than there are", message(Some(b'P'), b"\0SELECT 1\0\x7f\xff"), "08P01"),
        ("a message without its end", message(Some(b'E'), b"\0\0"), "08P01"),
        ("a length of less than its own", vec![b'Q', 0, 0, 0, 3], "08P01"),
    ];
    for (name, bytes, expected) in cases {
        let answer = talk(&serving, &[greeting(), bytes].concat());
        assert!(String::from_utf8_lossy(&answer).contains(expected), "{name}: {}", String::from_utf8_lossy(&answer));
    }
    // After a mistake nothing is heard up to the next Sync.
    let skipped = [parse("SELEC"), message(Some(b'Q'), b"SELECT 7654321\0")].concat();
    let answer = talk(&serving, &[greeting(), skipped].concat());
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("42601") && !answer.contains("7654321"), "{answer}");
}

#[test]
fn what_a_client_leaves_behind_ends() {
    let project = shared();
    let args = ["--max-queries", "1", "--timeout", "60", "--memory", "200MB"];
    let serving = Serving::start(&project, &args, &[]);
    let heavy = "SELECT a.value, b.value FROM generate_series(1, 100000) a, generate_series(1, 100000) b";
    // The client goes in the middle of a result.
    let mut socket = TcpStream::connect(serving.addresses["postgres"]).unwrap();
    let query = message(Some(b'Q'), &[heavy.as_bytes(), b"\0"].concat());
    socket.write_all(&[greeting(), query].concat()).unwrap();
    socket.read_exact(&mut [0; 100_000]).unwrap();
    drop(socket);
    with_client(&serving, async |client| {
        // The only place for a query is free again.
        client.simple_query("SELECT count(*) FROM small.sim_requests").await.unwrap();
        let token = client.cancel_token();
        let counting =
            "SELECT sum(a.value * b.value % 7) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b";
        let cancel = async {
            while !serving.metrics().contains("pipe_queries_running 1") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            token.cancel_query(NoTls).await.unwrap();
        };
        let (ended, ()) = tokio::join!(client.simple_query(counting), cancel);
        assert_eq!(ended.unwrap_err().code().unwrap().code(), "57014");
        client.simple_query("SELECT 1").await.unwrap();
        // Rows in order need them all at once.
        let greedy = format!("{heavy} ORDER BY a.value * b.value % 1000003 LIMIT 100000000");
        let e = client.simple_query(&greedy).await.unwrap_err();
        assert!(["53200", "57014", "54000"].contains(&e.code().unwrap().code()), "{e:?}");
        client.simple_query("SELECT 1").await.unwrap();
    });
}

#[test]
fn a_run_is_served_as_soon_as_it_is_done() {
    let project = small();
    let serving = Serving::start(&project, &[], &[]);
    with_client(&serving, async |client| {
        let oid = async || {
            let sql =
                "SELECT oid::bigint FROM pg_class WHERE relname = 'metrics' AND relnamespace = 'small'::regnamespace";
            let rows = client.simple_query(sql).await.unwrap();
            let text = rows.iter().find_map(|row| match row {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_string),
                _ => None,
            });
            text.unwrap()
        };
        let before = oid().await;
        project.write("pipelines/other.yaml", &SMALL.replace("name: small", "name: other"));
        project.run(&["run", "pipelines/other.yaml", "--quiet"]).ok();
        let end = Instant::now() + Duration::from_secs(60);
        let there = "SELECT 1 FROM information_schema.tables WHERE table_schema = 'other' AND table_name = 'metrics'";
        while client.query(there, &[]).await.unwrap().is_empty() {
            assert!(Instant::now() < end, "{}", serving.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let n: i64 = client.query_one("SELECT count(*) FROM other.metrics", &[]).await.unwrap().get(0);
        assert_eq!((n, oid().await), (6, before));
    });
}

#[test]
fn with_tls_nothing_is_said_without_it() {
    let project = shared();
    if !certificate(&project) {
        return;
    }
    let (c, k) = (project.path().join("cert.pem"), project.path().join("key.pem"));
    let (c, k) = (c.display().to_string(), k.display().to_string());
    let serving = Serving::start(&project, &["--tls-cert", &c, "--tls-key", &k], &[("PIPE_SERVE_USERS", "bi:right")]);
    let verified = format!("sslmode=verify-full sslrootcert={c}");
    for (mode, expected) in [("sslmode=require", 0), (verified.as_str(), 0), ("sslmode=disable", 2)] {
        let Some((code, text)) = psql(&serving, &["-c", "SELECT 42"], "right", mode) else { return };
        assert_eq!(code, expected, "{mode}: {text}");
        assert!(expected == 0 || text.contains("TLS"), "{text}");
    }
}

const JAVA: &str = r#"
import java.sql.*;
public class Ask {
    static int count(ResultSet r) throws SQLException { int n = 0; while (r.next()) n++; return n; }
    public static void main(String[] a) throws Exception {
        try (Connection c = DriverManager.getConnection("jdbc:postgresql://127.0.0.1:" + a[0] + "/pipe?user=bi")) {
            DatabaseMetaData m = c.getMetaData();
            System.out.println("tables " + (count(m.getTables(null, "small", "sim%", new String[] {"TABLE"})) >= 1));
            System.out.println("views " + (count(m.getTables(null, "small", null, new String[] {"VIEW"})) >= 1));
            ResultSet columns = m.getColumns(null, "small", "metrics", null);
            while (columns.next()) System.out.println("column " + columns.getString("COLUMN_NAME") + " " + columns.getInt("DATA_TYPE"));
            System.out.println("keys " + count(m.getPrimaryKeys(null, "small", "metrics")) + count(m.getImportedKeys(null, "small", "metrics")) + count(m.getIndexInfo(null, "small", "metrics", false, false)));
            System.out.println("schemas " + (count(m.getSchemas()) >= 2) + " types " + (count(m.getTypeInfo()) > 20));
            c.setAutoCommit(false);
            PreparedStatement s = c.prepareStatement("SELECT scenario_id, ttft_ns FROM small.sim_requests WHERE scenario_id >= ? LIMIT ?");
            s.setLong(1, 0); s.setInt(2, 1000); s.setFetchSize(64);
            for (int i = 0; i < 7; i++) System.out.println("rows " + count(s.executeQuery()));
            c.commit();
            try { c.createStatement().execute("DROP TABLE small.metrics"); } catch (SQLException e) { System.out.println("refused " + e.getSQLState()); }
        }
    }
}
"#;

/// With the driver of Debian's package, or that of the variable `PIPE_JDBC`.
#[test]
fn jdbc() {
    let project = shared();
    let jar = std::env::var("PIPE_JDBC").unwrap_or_else(|_| "/usr/share/java/postgresql.jar".into());
    if !Path::new(&jar).is_file() || Command::new("java").arg("-version").output().is_err() {
        eprintln!("skipped: no java, or no {jar}");
        return;
    }
    let serving = Serving::start(&project, &[], &[]);
    let source = project.path().join("Ask.java");
    std::fs::write(&source, JAVA).unwrap();
    let port = serving.port("postgres").to_string();
    let out = Command::new("java").args(["-cp", &jar]).arg(&source).arg(&port).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let expected = [
        "tables true",
        "views true",
        "column scenario_id -5",
        "column ttft_ms_p99 8",
        "column e2e_ms_mean 8",
        "keys 000",
        "schemas true types true",
        "rows 1000",
        "rows 1000",
        "rows 1000",
        "rows 1000",
        "rows 1000",
        "rows 1000",
        "rows 1000",
        "refused 25006",
    ];
    let got: Vec<&str> = text.lines().collect();
    assert_eq!(got, expected, "{}", String::from_utf8_lossy(&out.stderr));
}
