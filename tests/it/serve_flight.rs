//! Flight SQL as its clients see it: ADBC, pandas, polars, and pyarrow for calls that ADBC does not make.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::project::Project;
use crate::serving::{Serving, certificate, python, small};

const MODULES: [&str; 3] = ["adbc_driver_flightsql", "adbc_driver_manager", "pyarrow"];

/// `q(sql)`: rows; `refused(f)`: the code and message of a refusal, or that there was none.
const PRELUDE: &str = r#"
import json, sys, time, warnings
warnings.simplefilter("ignore")
import adbc_driver_flightsql.dbapi as dbapi
import adbc_driver_manager as manager
import pyarrow as pa
from adbc_driver_flightsql import DatabaseOptions as Option

def connect(uri=None, **options):
    options = {getattr(Option, k).value if hasattr(Option, k) else k: v for k, v in options.items()}
    return dbapi.connect(uri or sys.argv[1], db_kwargs=options, autocommit=True)

def fetch(c, sql, parameters=None):
    with c.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetch_arrow_table()

def q(c, sql, parameters=None):
    return [list(row.values()) for row in fetch(c, sql, parameters).to_pylist()]

def refused(f):
    try:
        return "not refused: " + str(f())[:200]
    except Exception as e:
        status = getattr(e, "status_code", None)
        return f"{status.name if status else type(e).__name__}: {e}"

def show(**results):
    print(json.dumps(results, default=str))
"#;

/// What `program` shows; `None` where Python has no ADBC. Its first argument is the address.
fn adbc(serving: &Serving, program: &str, args: &[&str], project: &Project) -> Option<Value> {
    adbc_with(&MODULES, serving, program, args, project)
}

fn adbc_with(modules: &[&str], serving: &Serving, program: &str, args: &[&str], project: &Project) -> Option<Value> {
    let uri = format!("grpc://127.0.0.1:{}", serving.port("flight"));
    let mut all = vec![uri.as_str()];
    all.extend_from_slice(args);
    let out = python(modules, &format!("{PRELUDE}\n{program}"), &all, project.path())?;
    let last = out.lines().last().unwrap_or_else(|| panic!("nothing was shown:\n{out}"));
    Some(serde_json::from_str(last).unwrap_or_else(|e| panic!("{last}: {e}")))
}

/// A refusal has this code and these words.
#[track_caller]
fn check_refused(found: &Value, code: &str, words: &[&str]) {
    let text = found.as_str().unwrap_or_else(|| panic!("not a refusal: {found}"));
    assert!(text.starts_with(&format!("{code}: ")), "{code} expected: {text}");
    for word in words {
        assert!(text.contains(word), "no `{word}` in {text}");
    }
}

#[test]
fn queries_and_parameters() {
    let project = small();
    let serving = Serving::start(&project, &[], &[]);
    let program = r#"
c = connect()
show(
    grouped=q(c, "SELECT scenario_id, count(*) AS n FROM sim_requests GROUP BY 1 ORDER BY 1"),
    marks=q(c, "SELECT count(*) FROM small.sim_requests WHERE scenario_id = ? AND ttft_ns > ?", (2, 0)),
    numbers=q(c, "SELECT $2 || 'b' AS t, $1 + 1 AS n, $1 * 2 AS m", (20, "a")),
    kinds=q(c, "SELECT ? AS a, ? AS b, ? AS c, ? AS d, ? AS e", (1.5, True, None, "x'y", 7)),
    limit=q(c, "SELECT scenario_id FROM sim ORDER BY scenario_id LIMIT ?", (2,)),
    quoted=q(c, "SELECT '?' AS t, ? AS n -- ?", (3,)),
    again=[q(c, "SELECT ? + 1 AS n", (n,))[0][0] for n in (1, 2, 3)],
    missing=refused(lambda: q(c, "SELECT ? + ?", (1,))),
    unbound=refused(lambda: q(c, "SELECT ? + 1")),
    mixed=refused(lambda: q(c, "SELECT ? + $1", (1,))),
    many=refused(lambda: q(c, "SELECT ? + 1 AS n", pa.record_batch({"0": [1, 2]}))),
    empty=[str(f.type) for f in fetch(c, "SELECT scenario_id, status FROM sim_requests WHERE false").schema],
    nothing=q(c, "SELECT NULL AS a"),
    explain=len(q(c, "EXPLAIN SELECT * FROM sim")) > 0,
    shown=[r[2] for r in q(c, "SHOW TABLES") if r[1] == "small"],
    schema=[f.name for f in c.cursor().adbc_execute_schema("SELECT scenario_id AS s, 'x' AS t FROM sim")],
)
"#;
    let Some(found) = adbc(&serving, program, &[], &project) else { return };
    let rows = |sql: &str| -> Vec<Value> {
        project.rows(sql).iter().map(|r| r.as_object().expect("a row").values().cloned().collect()).collect()
    };
    let grouped = rows("SELECT scenario_id, count(*) AS n FROM sim_requests GROUP BY 1 ORDER BY 1");
    assert_eq!(found["grouped"], Value::from(grouped));
    let marks = rows("SELECT count(*) AS n FROM small.sim_requests WHERE scenario_id = 2 AND ttft_ns > 0");
    assert_eq!(found["marks"], Value::from(marks));
    assert_eq!(found["numbers"], json!([["ab", 21, 40]]));
    assert_eq!(found["kinds"], json!([[1.5, true, null, "x'y", 7]]));
    assert_eq!(found["limit"], json!([[0], [1]]));
    assert_eq!(found["quoted"], json!([["?", 3]]));
    assert_eq!(found["again"], json!([2, 3, 4]));
    check_refused(&found["missing"], "INVALID_ARGUMENT", &["2 parameters", "1 values"]);
    check_refused(&found["unbound"], "INVALID_ARGUMENT", &["1 parameters", "0 values"]);
    check_refused(&found["mixed"], "INVALID_ARGUMENT", &["not both"]);
    check_refused(&found["many"], "INVALID_ARGUMENT", &["one row of parameters"]);
    assert_eq!(found["empty"], json!(["int64", "string"]));
    assert_eq!(found["nothing"], json!([[null]]));
    assert_eq!(found["explain"], true);
    assert!(found["shown"].as_array().is_some_and(|t| t.contains(&json!("sim_requests"))), "{}", found["shown"]);
    assert_eq!(found["schema"], json!(["s", "t"]));
}

#[test]
fn what_there_is() {
    let project = small();
    project.write("queries/views/v_mine.sql", "SELECT scenario_id FROM sim");
    let serving = Serving::start(&project, &[], &[]);
    let program = r#"
c = connect()
def objects(**filters):
    catalogs = c.adbc_get_objects(**filters).read_all().to_pylist()
    return {k["catalog_name"]: {s["db_schema_name"]: {t["table_name"]: t for t in s["db_schema_tables"] or []}
            for s in k["catalog_db_schemas"] or []} for k in catalogs}
names = lambda o: {k: {s: sorted(t) for s, t in v.items()} for k, v in o.items()}
every = objects(depth="all")["pipe"]
table = c.adbc_get_table_schema("sim_requests", db_schema_filter="small")
info = c.adbc_get_info()
show(
    catalogs=names(objects(depth="catalogs")),
    schemas=names(objects(depth="db_schemas")),
    other=names(objects(depth="db_schemas", catalog_filter="other")),
    some=names(objects(depth="tables", db_schema_filter="sm%", table_name_filter="sim\\_r%")),
    views=names(objects(depth="tables", db_schema_filter="small", table_types_filter=["VIEW"])),
    described=names(objects(depth="tables", db_schema_filter="information_schema")),
    types=[every["small"][t]["table_type"] for t in ("sim", "v_mine")],
    short="sim" in every["public"],
    column=next(k for k in every["small"]["sim_requests"]["table_columns"] if k["column_name"] == "ttft_ns"),
    table=[[f.name, str(f.type), (f.metadata or {}).get(b"unit", b"").decode()] for f in table][:1],
    unit=table.field("ttft_ns").metadata[b"unit"].decode(),
    remarks=table.field("ttft_ns").metadata[b"ARROW:FLIGHT:SQL:REMARKS"].decode(),
    described_by=table.field("ttft_ns").metadata[b"description"].decode(),
    same=[f.name for f in table] == [f.name for f in fetch(c, "SELECT * FROM small.sim_requests LIMIT 1").schema],
    kinds=sorted(c.adbc_get_table_types()),
    info={k: info.get(k) for k in ("vendor_name", "vendor_version")},
    no_table=refused(lambda: c.adbc_get_table_schema("nope")),
)
"#;
    let Some(found) = adbc(&serving, program, &[], &project) else { return };
    assert_eq!(found["catalogs"], json!({ "pipe": {} }));
    assert_eq!(found["schemas"], json!({ "pipe": { "public": [], "small": [] } }));
    assert_eq!(found["other"], json!({}));
    assert_eq!(found["some"], json!({ "pipe": { "small": ["sim_requests"] } }));
    let views = found["views"]["pipe"]["small"].as_array().expect("views");
    assert!(views.contains(&json!("v_mine")) && !views.contains(&json!("sim")), "{views:?}");
    let described = found["described"]["pipe"]["information_schema"].as_array().expect("tables");
    assert!(described.contains(&json!("columns")), "{described:?}");
    assert_eq!(found["types"], json!(["TABLE", "VIEW"]));
    assert_eq!(found["short"], true);
    let remarks = found["remarks"].as_str().expect("remarks");
    assert!(remarks.ends_with(" [ns]"), "{remarks}");
    assert_eq!(found["column"]["xdbc_type_name"], "BIGINT");
    assert_eq!(found["table"], json!([["scenario_id", "int64", ""]]));
    assert_eq!((&found["unit"], &found["same"]), (&json!("ns"), &json!(true)));
    assert_eq!(remarks, format!("{} [ns]", found["described_by"].as_str().expect("text")));
    assert_eq!(found["kinds"], json!(["TABLE", "VIEW"]));
    assert_eq!(found["info"], json!({ "vendor_name": "pipe", "vendor_version": env!("CARGO_PKG_VERSION") }));
    check_refused(&found["no_table"], "NOT_FOUND", &[]);
}

#[test]
fn frames() {
    let project = small();
    let serving = Serving::start(&project, &[], &[]);
    let program = r#"
import pandas, polars
c = connect()
sql = "SELECT scenario_id, avg(ms(ttft_ns)) AS ttft_ms FROM sim_requests GROUP BY 1 ORDER BY 1"
show(pandas=pandas.read_sql(sql, c).values.tolist(), polars=[list(r) for r in polars.read_database(sql, c).rows()])
"#;
    let modules = [&MODULES[..], &["pandas", "polars"]].concat();
    let Some(found) = adbc_with(&modules, &serving, program, &[], &project) else { return };
    let rows = project.rows("SELECT scenario_id, avg(ms(ttft_ns)) AS m FROM sim_requests GROUP BY 1 ORDER BY 1");
    for frame in ["pandas", "polars"] {
        let found = found[frame].as_array().expect("rows");
        assert_eq!(found.len(), rows.len(), "{frame}");
        for (row, expected) in found.iter().zip(&rows) {
            let number = |v: &Value| v.as_f64().unwrap_or_else(|| panic!("{frame}: {v}"));
            assert_eq!((number(&row[0]), number(&row[1])), (number(&expected["scenario_id"]), number(&expected["m"])));
        }
    }
}

/// A result that is larger than a message, a batch, and what the server may hold for queries.
#[test]
fn a_large_result_streams() {
    let project = small();
    let serving = Serving::start(&project, &["--memory", "16MiB"], &[]);
    let program = r#"
c = connect()
with c.cursor() as cursor:
    cursor.execute("SELECT value AS n, concat('text ', value) AS t FROM generate_series(1, 2000000)")
    rows = total = text = largest = 0
    for batch in cursor.fetch_record_batch():
        rows += batch.num_rows
        total += pa.compute.sum(batch.column(0)).as_py()
        text += pa.compute.sum(pa.compute.binary_length(batch.column(1))).as_py()
        largest = max(largest, batch.nbytes)
wide = fetch(c, "SELECT repeat('x', 999998) || (value + 10) AS t, value AS n FROM generate_series(1, 40)")
few = fetch(c, "SELECT value % 300000 AS g, count(*) AS n FROM generate_series(1, 600000) GROUP BY 1")
show(rows=rows, total=total, text=text, largest=largest, wide=[wide.num_rows, len(wide.column(0)[39].as_py())],
     few=few.num_rows, pieces=few.column(0).num_chunks)
"#;
    let program = format!("import pyarrow.compute\n{program}");
    let Some(found) = adbc(&serving, &program, &[], &project) else { return };
    let n = 2_000_000_i64;
    // 5 characters, and the digits: 1 of 9 numbers, 2 of 90, and so on.
    let digits: i64 = (1..=n).map(|v| i64::from(v.ilog10()) + 1).sum();
    assert_eq!((&found["rows"], &found["total"]), (&json!(n), &json!(n * (n + 1) / 2)));
    assert_eq!(found["text"], json!(5 * n + digits));
    assert!(found["largest"].as_u64().is_some_and(|b| b < 4 << 20), "{}", found["largest"]);
    assert_eq!((&found["wide"], &found["few"]), (&json!([40, 1_000_000]), &json!(300_000)));
    // Groups come in slices of what holds all of them; each is still a message, and not many.
    assert!(found["pieces"].as_u64().is_some_and(|n| n < 100), "{}", found["pieces"]);
}

#[test]
fn mistakes_and_writes_are_refused() {
    let project = small();
    let serving = Serving::start(&project, &[], &[("PIPE_LOG", "info")]);
    let program = r#"
import os
c = connect()
run = lambda sql: refused(lambda: q(c, sql))
def update(sql):
    with c.cursor() as cursor:
        cursor.executemany(sql, [(1,)])
def ingest():
    with c.cursor() as cursor:
        return cursor.adbc_ingest("loaded", pa.table({"a": [1]}), mode="create")
before = sorted(os.listdir("."))
results = dict(
    syntax=run("SELEC 1"), empty=run("-- nothing"), two=run("SELECT 1; SELECT 2"), table=run("SELECT * FROM sim_reqests"),
    column=run("SELECT scenario_idd FROM sim"), function=run("SELECT quantil(ttft_ns, 0.5) FROM sim_requests"),
    kind=run("SELECT sum(status) FROM sim_requests"), division=run("SELECT 1 / (n - 1) AS x FROM (SELECT count(*) AS n FROM (SELECT 1))"),
    create=run("CREATE TABLE x AS SELECT 1"), external=run("CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'"),
    insert=run("INSERT INTO sim SELECT * FROM sim"), copy=run("COPY (SELECT 1) TO 'copied.csv'"), drop=run("DROP TABLE sim"),
    view=run("CREATE VIEW v AS SELECT 1"), delete=run("DELETE FROM sim"), set=run("SET datafusion.execution.batch_size = 1"),
    explained=run("EXPLAIN ANALYZE COPY (SELECT 1) TO 'copied.csv'"), file=run("SELECT * FROM '/etc/passwd'"),
    update=refused(lambda: update("INSERT INTO sim VALUES (?)")), ingest=refused(ingest),
    transaction=refused(lambda: c.adbc_connection.set_autocommit(False)),
    substrait=refused(lambda: c.cursor().execute(b"plan")),
    still=q(c, "SELECT count(*) FROM sim"),
)
results["left"] = [f for f in sorted(os.listdir(".")) if f not in before]
show(**results)
"#;
    let Some(found) = adbc(&serving, program, &[], &project) else { return };
    let cases: &[(&str, &str, &[&str])] = &[
        ("syntax", "INVALID_ARGUMENT", &["SELEC"]),
        ("empty", "INVALID_ARGUMENT", &["no statement"]),
        ("two", "INVALID_ARGUMENT", &["one statement at a time"]),
        ("table", "NOT_FOUND", &["sim_reqests", "sim_requests"]),
        ("column", "INVALID_ARGUMENT", &["scenario_idd", "scenario_id"]),
        ("function", "INVALID_ARGUMENT", &["quantil", "quantile"]),
        ("kind", "INVALID_ARGUMENT", &["sum"]),
        ("division", "INVALID_ARGUMENT", &["zero"]),
        ("create", "INVALID_ARGUMENT", &["read-only"]),
        ("external", "INVALID_ARGUMENT", &["read-only"]),
        ("insert", "INVALID_ARGUMENT", &["read-only"]),
        ("copy", "INVALID_ARGUMENT", &["read-only"]),
        ("drop", "INVALID_ARGUMENT", &["read-only"]),
        ("view", "INVALID_ARGUMENT", &["read-only"]),
        ("delete", "INVALID_ARGUMENT", &["read-only"]),
        ("set", "INVALID_ARGUMENT", &["read-only"]),
        ("explained", "INVALID_ARGUMENT", &["read-only"]),
        ("file", "NOT_FOUND", &["/etc/passwd"]),
        ("update", "INVALID_ARGUMENT", &["read-only"]),
        ("ingest", "INVALID_ARGUMENT", &["read-only"]),
        ("transaction", "NOT_IMPLEMENTED", &["transaction"]),
        ("substrait", "NOT_IMPLEMENTED", &["ubstrait"]),
    ];
    for (name, code, words) in cases {
        check_refused(&found[name], code, words);
    }
    assert_eq!((&found["still"], &found["left"]), (&json!([[6]]), &json!([])));
    serving.logs("flight: read_only");
}

#[test]
fn limits() {
    let project = small();
    let args = ["--timeout", "1", "--memory", "8MiB", "--max-rows", "100000", "--max-connections", "3"];
    let serving = Serving::start(&project, &args, &[("PIPE_LOG", "info")]);
    let program = r#"
c = connect()
run = lambda sql: refused(lambda: fetch(c, sql).num_rows)
slow = "SELECT sum(value % 7) AS x FROM generate_series(1, 1000000000000)"
results = dict(
    rows=fetch(c, "SELECT value FROM generate_series(1, 100000)").num_rows,
    more=run("SELECT value FROM generate_series(1, 100001)"),
    memory=run("SELECT array_agg(value) AS a FROM generate_series(1, 3000000)"),
    slow=run(slow), fine=q(c, "SELECT 1 AS a"),
)
others = [connect() for _ in range(2)]
[q(o, "SELECT 1") for o in others]
def fourth():
    with dbapi.connect(sys.argv[1], db_kwargs={Option.TIMEOUT_QUERY.value: "3", Option.TIMEOUT_UPDATE.value: "3"},
                       autocommit=True) as o:
        return q(o, "SELECT 1")
results["fourth"] = refused(fourth)
results["fine_too"] = q(c, "SELECT 2 AS a")
others[0].close()
for _ in range(100):
    results["after"] = refused(fourth)
    if results["after"].startswith("not refused"):
        break
    time.sleep(0.1)
show(**results)
"#;
    let Some(found) = adbc(&serving, program, &[], &project) else { return };
    assert_eq!(found["rows"], 100_000);
    // ADBC names gRPC's RESOURCE_EXHAUSTED, as other codes that it has no own for, by its words alone.
    let cases: &[(&str, &str, &[&str])] = &[
        ("more", "INTERNAL", &["100000 rows", "--max-rows"]),
        ("memory", "INTERNAL", &["--memory"]),
        ("slow", "TIMEOUT", &["longer than 1 s"]),
        ("after", "not refused", &["[[1]]"]),
    ];
    for (name, code, words) in cases {
        check_refused(&found[name], code, words);
    }
    assert!(!found["fourth"].as_str().expect("text").starts_with("not refused"), "{}", found["fourth"]);
    assert_eq!((&found["fine"], &found["fine_too"]), (&json!([[1]]), &json!([[2]])));
    serving.logs("3 connections are open already");
}

#[test]
fn who_may_ask() {
    let project = small();
    project.write("tokens", "0123456789abcdef\n");
    private(&project, "tokens");
    let args = ["--tokens", "tokens"];
    let serving = Serving::start(&project, &args, &[("PIPE_SERVE_USERS", "ann:se:cret,bob:x")]);
    let program = r#"
import pyarrow.flight as flight
one = lambda **options: refused(lambda: q(connect(**options), "SELECT 1 AS a"))
client = flight.FlightClient(sys.argv[1])
command = flight.FlightDescriptor.for_command
def each(headers):
    o = flight.FlightCallOptions(headers=headers, timeout=10)
    calls = dict(
        handshake=lambda: client.authenticate_basic_token("ann", "wrong", flight.FlightCallOptions(timeout=10)),
        list_flights=lambda: list(client.list_flights(options=o)),
        get_flight_info=lambda: client.get_flight_info(command(b""), o),
        get_schema=lambda: client.get_schema(command(b""), o),
        do_get=lambda: client.do_get(flight.Ticket(b""), o).read_all(),
        do_put=lambda: put(o),
        do_exchange=lambda: exchange(o),
        do_action=lambda: list(client.do_action(("CancelFlightInfo", b""), o)),
        unknown_action=lambda: list(client.do_action(("nonsense", b""), o)),
        list_actions=lambda: client.list_actions(o),
    )
    return {name: refused(call) for name, call in calls.items()}
def put(o):
    writer, reader = client.do_put(command(b""), pa.schema([("a", pa.int64())]), o)
    writer.write_batch(pa.record_batch({"a": pa.array([1], pa.int64())}))
    writer.done_writing()
    reader.read()
    writer.close()
def exchange(o):
    writer, reader = client.do_exchange(command(b""), o)
    reader.read_chunk()
token = client.authenticate_basic_token("ann", "se:cret")
show(
    nobody=one(), wrong=one(AUTHORIZATION_HEADER="Bearer 0123456789abcdeg"), right=one(AUTHORIZATION_HEADER="Bearer 0123456789abcdef"),
    basic=one(AUTHORIZATION_HEADER="Bearer ann:se:cret"), user=one(username="ann", password="se:cret"),
    other=one(username="bob", password="x"), crossed=one(username="ann", password="x"),
    unknown=one(username="eve", password=""), login=one(AUTHORIZATION_HEADER=token[1].decode()),
    calls=each([]), wrong_calls=each([(b"authorization", b"Bearer 0123456789abcdeg")]),
    right_calls=each([(b"authorization", b"Bearer 0123456789abcdef")]),
)
"#;
    let Some(found) = adbc(&serving, program, &[], &project) else { return };
    for name in ["right", "user", "other", "login"] {
        check_refused(&found[name], "not refused", &["[[1]]"]);
    }
    check_refused(&found["nobody"], "UNAUTHENTICATED", &["needs a token"]);
    for name in ["wrong", "basic", "crossed", "unknown"] {
        check_refused(&found[name], "UNAUTHENTICATED", &["wrong token or password"]);
    }
    for calls in ["calls", "wrong_calls"] {
        for (name, refusal) in found[calls].as_object().expect("calls") {
            assert!(unauthenticated(refusal), "{name}: {refusal}");
        }
    }
    // With a token the same calls are heard, and refused for what they ask.
    for (name, answer) in found["right_calls"].as_object().expect("calls") {
        assert_eq!(unauthenticated(answer), name == "handshake", "{name}: {answer}");
    }
    serving.logs("has no valid token or password");
    for secret in ["0123456789abcde", "se:cret"] {
        assert!(!serving.log().contains(secret), "{}", serving.log());
    }
}

/// pyarrow raises an exception of its own for gRPC's code, but not where a stream had begun.
fn unauthenticated(answer: &Value) -> bool {
    answer.as_str().expect("text").contains("nauthenticated")
}

#[test]
fn users_alone_close_the_door_too() {
    let project = small();
    let serving = Serving::start(&project, &[], &[("PIPE_SERVE_USERS", "ann:secret")]);
    let program = r#"
show(nobody=refused(lambda: q(connect(), "SELECT 1")), user=refused(lambda: q(connect(username="ann", password="secret"), "SELECT 1 AS a")))
"#;
    let Some(found) = adbc(&serving, program, &[], &project) else { return };
    check_refused(&found["nobody"], "UNAUTHENTICATED", &["log in"]);
    check_refused(&found["user"], "not refused", &["[[1]]"]);
}

/// Makes a file readable by its owner alone.
fn private(project: &Project, file: &str) {
    let done = Command::new("chmod").arg("600").arg(project.path().join(file)).status();
    assert!(done.is_ok_and(|s| s.success()), "chmod");
}

#[test]
fn tls() {
    let project = small();
    if !certificate(&project) {
        return;
    }
    private(&project, "key.pem");
    let serving = Serving::start(&project, &["--tls-cert", "cert.pem", "--tls-key", "key.pem"], &[]);
    let program = r#"
safe = sys.argv[1].replace("grpc://127.0.0.1", "grpc+tls://localhost")
soon = {Option.TIMEOUT_QUERY.value: "5", Option.TIMEOUT_UPDATE.value: "5"}
show(
    trusted=refused(lambda: q(connect(safe, TLS_ROOT_CERTS=open("cert.pem").read()), "SELECT 1 AS a")),
    unknown=refused(lambda: q(connect(safe, **soon), "SELECT 1")),
    plain=refused(lambda: q(connect(**soon), "SELECT 1")),
    large=fetch(connect(safe, TLS_ROOT_CERTS=open("cert.pem").read()), "SELECT value FROM generate_series(1, 500000)").num_rows,
)
"#;
    let Some(found) = adbc(&serving, program, &[], &project) else { return };
    check_refused(&found["trusted"], "not refused", &["[[1]]"]);
    assert_eq!(found["large"], 500_000);
    for name in ["unknown", "plain"] {
        assert!(!found[name].as_str().expect("text").starts_with("not refused"), "{}", found[name]);
    }
}

#[test]
fn clients_that_leave_or_cancel_end_their_queries() {
    let project = small();
    let serving = Serving::start(&project, &["--max-queries", "1"], &[("PIPE_LOG", "info")]);
    let program = r#"
import os, subprocess
import pyarrow.flight as flight
endless = "SELECT a.value FROM generate_series(1, 1000000) a CROSS JOIN generate_series(1, 1000000) b"
c = connect()
# Closes its result after the first batch.
with c.cursor() as cursor:
    cursor.execute(endless)
    first = cursor.fetch_record_batch().read_next_batch().num_rows
after_close = q(c, "SELECT 1 AS a")
# Dies while it reads.
child = subprocess.run([sys.executable, "-c", '''
import os, sys, adbc_driver_flightsql.dbapi as d
cursor = d.connect(sys.argv[1], autocommit=True).cursor()
cursor.execute(sys.argv[2])
cursor.fetch_record_batch().read_next_batch()
os._exit(0)
''', sys.argv[1], endless])
after_death = q(connect(), "SELECT 2 AS a")

def varint(n):
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)
field = lambda number, value: bytes([number << 3 | 2]) + varint(len(value)) + value
# CommandStatementQuery in an Any, as Flight SQL's clients send it.
url = b"type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery"
command = field(1, url) + field(2, field(1, endless.encode()))
client = flight.FlightClient(sys.argv[1])
info = client.get_flight_info(flight.FlightDescriptor.for_command(command))
early = refused(lambda: list(client.do_action(("CancelFlightInfo", field(1, info.serialize())))))
reader = client.do_get(info.endpoints[0].ticket)
reader.read_chunk()
cancel = [r.body.to_pybytes().hex() for r in client.do_action(("CancelFlightInfo", field(1, info.serialize())))]
def rest():
    while True:
        reader.read_chunk()
ended = refused(rest)
late = refused(lambda: list(client.do_action(("CancelFlightInfo", field(1, info.serialize())))))
schema = client.get_schema(flight.FlightDescriptor.for_command(command)).schema
show(first=first > 0, after_close=after_close, after_death=after_death, early=early, cancel=cancel, ended=ended, late=late,
     after_cancel=q(c, "SELECT 3 AS a"), schema=[f.name for f in schema], actions=sorted(a.type for a in client.list_actions()))
"#;
    let Some(found) = adbc(&serving, program, &[], &project) else { return };
    assert_eq!(found["first"], true);
    for (name, n) in [("after_close", 1), ("after_death", 2), ("after_cancel", 3)] {
        assert_eq!(found[name], json!([[n]]), "{name}");
    }
    for name in ["early", "late"] {
        assert!(found[name].as_str().expect("text").contains("no such query runs"), "{}", found[name]);
    }
    // CancelFlightInfoResult { status: CANCELLED }: field 1, value 1.
    assert_eq!(found["cancel"], json!(["0801"]));
    check_refused(&found["ended"], "FlightCancelledError", &["cancelled"]);
    assert_eq!(found["schema"], json!(["value"]));
    let actions = ["CancelFlightInfo", "CancelQuery", "ClosePreparedStatement", "CreatePreparedStatement"];
    assert_eq!(found["actions"], json!(actions));
    serving.logs("flight: cancelled");
}

#[test]
fn a_new_run_is_seen_by_those_who_are_connected() {
    let project = small();
    let serving = Serving::start(&project, &[], &[]);
    let program = r#"
import os, subprocess
c = connect()
sql = "SELECT count(*) FROM small.sim_requests"
def run(old, new):
    text = open("pipelines/small.yaml").read()
    assert old in text
    open("pipelines/small.yaml", "w").write(text.replace(old, new))
    done = subprocess.run([sys.argv[2], "run", "pipelines/small.yaml", "--quiet"])
    assert done.returncode == 0
    until = time.time() + 20
    while q(c, sql) == before and time.time() < until:
        time.sleep(0.05)
before = q(c, sql)
# Prepared before, run after.
cursor = c.cursor()
cursor.execute(sql)
cursor.fetchall()
run("requests: 200", "requests: 300")
cursor.execute(sql)
show(before=before, after=q(c, sql), prepared=[list(r) for r in cursor.fetchall()])
"#;
    let Some(found) = adbc(&serving, program, &[env!("CARGO_BIN_EXE_pipe")], &project) else { return };
    assert_eq!(found["before"], json!([[1200]]));
    assert_eq!(found["after"], json!([[1800]]));
    assert_eq!(found["prepared"], json!([[1800]]));
}

#[test]
fn what_is_no_grpc_is_survived() {
    let project = small();
    let serving = Serving::start(&project, &[], &[]);
    let noise: Vec<u8> = (0..4096_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    // The preface of HTTP/2, then a frame that says it is as long as a frame can be.
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), vec![0xff; 64]].concat();
    for bytes in [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), noise, preface, vec![0; 100], b"\x16\x03\x01".to_vec()]
    {
        let mut stream = TcpStream::connect(("127.0.0.1", serving.port("flight"))).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        let _ = stream.write_all(&bytes);
        // It answers or closes or waits for more, whichever it likes.
        let _ = stream.read(&mut [0; 1024]);
    }
    let program = r#"
import pyarrow.flight as flight
client = flight.FlightClient(sys.argv[1])
odd = [b"", b"\xff" * 100, b"\x0a\x03abc"]
def heard(call):
    text = refused(call)
    return text.split(":")[0]
show(
    info=[heard(lambda: client.get_flight_info(flight.FlightDescriptor.for_command(b))) for b in odd],
    path=heard(lambda: client.get_flight_info(flight.FlightDescriptor.for_path("a", "b"))),
    get=[heard(lambda: client.do_get(flight.Ticket(b)).read_all()) for b in odd],
    action=[heard(lambda: list(client.do_action((a, b)))) for b in odd for a in ("CreatePreparedStatement", "CancelQuery")],
    fine=q(connect(), "SELECT 1 AS a"),
)
"#;
    let Some(found) = adbc(&serving, program, &[], &project) else { return };
    assert_eq!(found["fine"], json!([[1]]));
    let all = ["info", "get", "action"].iter().flat_map(|k| found[k].as_array().expect("answers"));
    for answer in all.chain([&found["path"]]) {
        assert_ne!(answer, "not refused");
    }
    assert_eq!(serving.stop(), Some(0));
}
