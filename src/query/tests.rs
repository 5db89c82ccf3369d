//! Scripts, lints, sessions and the SQL files of the project.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::errors::Place;
use super::execute::{Sink, execute};
use super::output::{Format, write};
use super::session::{self, SCHEMA, SessionOptions};
use super::sql::{Makes, Script};
use super::testing::{floats, gaps, requests, scenarios, simulation, store};
use super::*;
use crate::diag::{Diagnostic, Span};
use crate::stage::Cancel;

fn script(sql: &str) -> Script {
    Script::parse(sql, Place::File("q.sql".into())).unwrap()
}

fn known() -> BTreeMap<String, Option<SchemaRef>> {
    BTreeMap::from([
        ("sim".to_string(), Some(scenarios().schema())),
        ("sim_requests".to_string(), Some(requests().schema())),
        ("later".to_string(), None),
    ])
}

/// Everything that is wrong with the SQL of a stage, as `code line:column`.
fn found(sql: &str) -> Vec<String> {
    let all: Vec<Diagnostic> = match Script::parse(sql, Place::File("q.sql".into())) {
        Err(problems) => problems,
        Ok(script) => {
            let (_, mut problems) = plan::check(&script, &known());
            problems.extend(script.lint(false));
            problems
        }
    };
    let at = |d: &Diagnostic| d.at.as_ref().map_or("-".to_string(), |a| format!("{}:{}", a.line, a.column));
    all.iter().map(|d| format!("{} {}", d.code, at(d))).collect()
}

#[test]
fn problems_of_stage_sql() {
    let cases: &[(&str, &[&str])] = &[
        ("SELECT gpus FROM sim ORDER BY 1", &[]),
        ("SELECT count(*) FROM sim", &[]),
        ("SELECT quantile(ttft_ns, 0.9) q, 1 one FROM sim_requests", &[]),
        ("SELECT 1 AS x", &[]),
        ("SELECT gpus FROM sim ORDER BY gpus LIMIT 3", &[]),
        ("WITH a AS (SELECT gpus FROM sim) SELECT gpus FROM a ORDER BY gpus", &[]),
        ("SELECT value FROM generate_series(1, 3) ORDER BY value", &[]),
        ("SELECT whatever FROM later ORDER BY 1", &[]),
        ("SELECT gpus FROM sim", &["sql::unordered 1:1"]),
        ("SELECT max(gpus) FROM sim GROUP BY seed", &["sql::unordered 1:1"]),
        ("SELECT max(gpus) OVER () FROM sim", &["sql::unordered 1:1"]),
        ("SELECT DISTINCT gpus FROM sim", &["sql::unordered 1:1"]),
        ("SELECT gpus FROM sim LIMIT 1", &["sql::unordered_limit 1:1"]),
        ("SELECT count(*) FROM (SELECT gpus FROM sim LIMIT 1)", &["sql::unordered_limit 1:23"]),
        ("CREATE TABLE t AS SELECT gpus FROM sim;\nSELECT gpus FROM t ORDER BY 1", &["sql::unordered 1:19"]),
        ("CREATE VIEW t AS SELECT gpus FROM sim;\nSELECT gpus FROM t ORDER BY 1", &[]),
        ("SELECT approx_distinct(gpus) FROM sim", &["sql::approximate 1:8"]),
        ("SELECT count(*),\n  random() FROM sim", &["sql::not_reproducible 2:3"]),
        ("SELECT now() AS t", &["sql::not_reproducible 1:8"]),
        ("SELECT current_date AS t", &["sql::not_reproducible 1:8"]),
        ("SELECT uuid() AS t", &["sql::not_reproducible 1:8"]),
        ("SELECT count(*) FROM 'x.parquet'", &["sql::file 1:23"]),
        ("SELECT count(*) FROM other.sim", &["sql::qualified 1:22"]),
        ("CREATE EXTERNAL TABLE x STORED AS PARQUET LOCATION 'x'", &["sql::statement 1:1"]),
        ("COPY sim TO 'x.parquet'", &["sql::statement 1:1"]),
        ("DROP TABLE sim; SELECT 1 AS x", &["sql::statement 1:1"]),
        ("INSERT INTO sim VALUES (1)", &["sql::statement 1:1"]),
        ("CREATE TABLE t AS SELECT 1 AS x", &["sql::statement 1:1"]),
        ("SELECT 1 AS x; SELECT 2 AS x", &["sql::statement 1:1"]),
        ("CREATE VIEW a AS SELECT 1 x; CREATE VIEW a AS SELECT 2 x; SELECT x FROM a ORDER BY x", &["sql::name 1:47"]),
        ("CREATE TABLE \"A b\" AS SELECT 1 x; SELECT 1 y", &["sql::name 1:23"]),
        ("", &["sql::statement 1:1"]),
        ("SELECT gpus FRM sim", &["sql::syntax 1:17"]),
        ("SELECT\n  gpu FROM sim ORDER BY 1", &["sql::unknown_column 2:3"]),
        ("SELECT gpus FROM sim ORDER BY gpuz", &["sql::unknown_column 1:31"]),
        ("SELECT quantil(gpus, 1) FROM sim ORDER BY 1", &["sql::unknown_function 1:8"]),
        ("SELECT gpus, gpus FROM sim ORDER BY 1", &["sql::plan -"]),
        ("SELECT a.gpus, b.gpus FROM sim a, sim b ORDER BY 1", &["sql::duplicate_column 1:1"]),
        ("SELECT quantile(gpus, seed) FROM sim", &["sql::plan 1:1"]),
        ("SELECT quantile(gpus, 99) FROM sim", &["sql::plan 1:1"]),
    ];
    let mut wrong = Vec::new();
    for (sql, expect) in cases {
        // Where DataFusion gives no place, the start of the SQL is named.
        let expect: Vec<String> = expect.iter().map(|e| e.replace(" -", " 1:1")).collect();
        let got = found(sql);
        if got != expect {
            wrong.push(format!("{sql}: {got:?}, not {expect:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_nearest_names_are_offered() {
    let help = |sql: &str| plan::check(&script(sql), &known()).1[0].help.clone().unwrap_or_default();
    assert_eq!(help("SELECT gpu FROM sim ORDER BY 1"), "did you mean `gpus`?");
    assert_eq!(help("SELECT quantil(gpus, 1) FROM sim ORDER BY 1"), "did you mean `quantile`?");
    assert!(help("SELECT zzzzzz FROM sim ORDER BY 1").starts_with("columns: scenario_id, scenario, "));
}

#[test]
fn places_within_yaml() {
    let span = |column, len| Span { file: "p.yaml".into(), line: 7, column, len };
    let at = |text: &str, len| {
        let place = Place::Within(Some(span(10, len)));
        let d = place.diagnostic(text, "c", "m", Some(errors::Stretch { line: 1, column: 8, len: 3 }));
        (d.message, d.at)
    };
    assert_eq!(at("SELECT abc", 10), ("m".to_string(), Some(span(17, 3))));
    assert_eq!(at("SELECT abc", 12), ("m".to_string(), Some(span(18, 3))));
    assert_eq!(at("SELECT abc", 99), ("m".to_string(), Some(span(10, 99))));
    assert_eq!(at("SELECT abc\n", 0), ("m (line 1, column 8 of the SQL)".to_string(), Some(span(10, 0))));
}

#[test]
fn references_and_normal_form() {
    let sql = "-- comment\nCREATE TABLE a AS SELECT * FROM Sim  ORDER BY 1;\nCREATE VIEW b AS SELECT * FROM a;\n\
               WITH c AS (SELECT * FROM b) SELECT x FROM c JOIN d ON true, generate_series(1, 2) \
               WHERE x IN (SELECT y FROM e) AND x > (SELECT max(z) FROM sim) ORDER BY x";
    let script = script(sql);
    let names: Vec<_> = script.references().into_iter().map(|t| (t.value, t.at.map(|a| (a.line, a.column)))).collect();
    assert_eq!(
        names,
        [("sim".to_string(), Some((2, 33))), ("d".to_string(), Some((4, 50))), ("e".to_string(), Some((4, 109))),]
    );
    let makes: Vec<_> = script.steps.iter().map(|s| s.makes.clone()).collect();
    assert_eq!(makes, [Makes::Table("a".into()), Makes::View("b".into()), Makes::Result]);
    let other = Script::parse(&sql.replace("  ", "\n ").replace("-- comment", "/* x */"), Place::Within(None)).unwrap();
    assert_eq!(script.normalised(), other.normalised());
}

#[test]
fn schemas_carry_units() {
    let (made, problems) = plan::check(
        &script("SELECT gpus, duration_ns, ms(duration_ns) AS duration_ms, output_tps AS x FROM sim ORDER BY 1"),
        &known(),
    );
    assert_eq!(problems, []);
    let schema = made[0].schema.clone().unwrap();
    let units: Vec<_> = schema.fields().iter().map(|f| f.metadata().get("unit").cloned().unwrap_or_default()).collect();
    assert_eq!(units, ["", "ns", "ms", "tokens/s"]);
    let cases = [
        ("e2e_ms_p99", Some("ms")),
        ("rate_rps", Some("1/s")),
        ("tokens", Some("tokens")),
        ("input_tokens_mean", Some("tokens")),
        ("s", None),
        ("output_tps_per_gpu", None),
        ("kv_blocks_max", None),
    ];
    for (name, unit) in cases {
        assert_eq!(columns::unit_of_name(name), unit, "{name}");
    }
}

/// The rows of each table that a script makes.
#[derive(Default)]
struct Collected(Vec<(Makes, Vec<RecordBatch>)>);

impl Sink for Collected {
    fn begin(&mut self, makes: &Makes, _schema: &SchemaRef) -> Result<()> {
        self.0.push((makes.clone(), Vec::new()));
        Ok(())
    }
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.0.last_mut().unwrap().1.push(batch.clone());
        Ok(())
    }
    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

async fn run(sql: &str, threads: usize) -> Vec<(Makes, Vec<RecordBatch>)> {
    let dir = tempfile::tempdir().unwrap();
    let ctx = session::context(&SessionOptions { target_partitions: threads, memory_bytes: 1 << 28 }).unwrap();
    for handle in simulation(dir.path()) {
        session::register(&ctx, SCHEMA, &handle.name, session::provider(&handle).unwrap()).unwrap();
    }
    let mut sink = Collected::default();
    execute(&ctx, &script(sql), &mut sink, &Cancel::default()).await.unwrap();
    sink.0
}

#[tokio::test]
async fn scripts_run() {
    let made = run(
        "CREATE TABLE slow AS SELECT request_id, ms(ttft_ns) AS ttft_ms FROM sim_requests WHERE ttft_ns > 200000000 ORDER BY 2;
         CREATE VIEW half AS SELECT ttft_ms / 2 AS x FROM slow;
         SELECT sum(x) AS x FROM half",
        2,
    )
    .await;
    assert_eq!(made.len(), 2);
    assert_eq!(made[0].0, Makes::Table("slow".into()));
    assert_eq!(floats(&made[0].1, "ttft_ms"), [250.0, 400.0, 600.0].map(Some));
    assert_eq!(floats(&made[1].1, "x"), [Some(625.0)]);
}

#[tokio::test]
async fn ties_are_broken_by_the_columns_of_the_result() {
    for threads in [1, 4] {
        let made =
            run("SELECT scenario_id, request_id FROM sim_requests ORDER BY scenario_id DESC LIMIT 4", threads).await;
        assert_eq!(floats(&made[0].1, "scenario_id"), [1.0, 1.0, 0.0, 0.0].map(Some));
        assert_eq!(floats(&made[0].1, "request_id"), [0.0, 1.0, 0.0, 1.0].map(Some));
    }
}

#[test]
fn which_plans_may_run_in_parallel() {
    let ctx = session::context(&SessionOptions { target_partitions: 2, memory_bytes: 1 << 28 }).unwrap();
    for (name, schema) in known() {
        if let Some(schema) = schema {
            let table = Arc::new(datafusion::datasource::empty::EmptyTable::new(schema));
            session::register(&ctx, SCHEMA, &name, table).unwrap();
        }
    }
    let cases = [
        ("SELECT sum(output_tps), avg(gpus), quantile(gpus, 0.5), count(DISTINCT seed) FROM sim", true),
        ("SELECT gpus FROM sim ORDER BY gpus LIMIT 2", true),
        ("SELECT stddev(output_tps) FROM sim", false),
        ("SELECT gpus FROM sim WHERE gpus > (SELECT var_pop(gpus) FROM sim)", false),
        ("SELECT first_value(gpus) FROM sim", false),
        ("SELECT row_number() OVER (ORDER BY seed) FROM sim", false),
        ("SELECT count(*) FROM (SELECT gpus FROM sim LIMIT 2)", false),
    ];
    for (sql, free) in cases {
        let query = script(sql).steps[0].query.clone();
        let plan = futures::executor::block_on(plan::plan_query(&ctx, &query)).unwrap();
        assert_eq!(determinism::partition_free(&plan).unwrap(), free, "{sql}");
    }
}

async fn engine(dir: &Path, default: Option<&str>) -> Engine {
    let mut tables: Vec<(String, crate::store::TableHandle)> =
        simulation(&dir.join("a")).into_iter().map(|t| ("a".to_string(), t)).collect();
    tables.extend(simulation(&dir.join("b")).into_iter().take(1).map(|t| ("b".to_string(), t)));
    Engine::open(crate::repository(), tables, default, 2).await.unwrap()
}

#[tokio::test]
async fn names_of_tables_and_views() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path(), Some("b")).await;
    for sql in [
        "SELECT gpus FROM a.sim",
        "SELECT gpus FROM b.sim",
        "SELECT gpus FROM sim",
        "SELECT ttft_ns FROM sim_requests",
        "SELECT * FROM a.v_latency",
        "SELECT * FROM v_latency",
        "SELECT * FROM b.v_throughput",
        "SHOW TABLES",
        "DESCRIBE sim",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT 1",
        "SHOW FUNCTIONS",
    ] {
        engine.rows(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    let missing: Vec<_> = engine.views().iter().filter(|v| v.unavailable.is_some()).collect();
    assert!(missing.iter().all(|v| v.pipeline == "b"), "{missing:?}");
    assert!(
        missing.iter().any(|v| v.name == "v_attainment" && v.unavailable.as_deref() == Some("no table `sim_requests`"))
    );
}

#[tokio::test]
async fn queries_only_read() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path(), None).await;
    let cases = [
        ("DROP TABLE a.sim", "sql::read_only 1:1"),
        ("CREATE TABLE x AS SELECT 1", "sql::read_only 1:1"),
        ("CREATE VIEW x AS SELECT 1", "sql::read_only 1:1"),
        ("INSERT INTO a.sim SELECT * FROM a.sim", "sql::read_only 1:1"),
        ("COPY a.sim TO 'x.parquet'", "sql::read_only 1:1"),
        ("EXPLAIN ANALYZE CREATE TABLE x AS SELECT 1", "sql::read_only 1:1"),
        ("CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'", "sql::read_only 1:1"),
        ("SET datafusion.execution.batch_size = 1", "sql::read_only 1:1"),
        ("SELECT 1; SELECT 2", "sql::statement 1:1"),
        ("SELECT * FROM '/etc/passwd'", "sql::unknown_table 1:16"),
        ("SELECT * FROM 'data/x.parquet'", "sql::unknown_table 1:16"),
        ("SELECT * FROM simm", "sql::unknown_table 1:15"),
        ("SELECT * FROM read_csv('/etc/passwd')", "sql::unknown_function 1:15"),
        ("SELECT gpu FROM a.sim", "sql::unknown_column 1:8"),
    ];
    for (sql, expect) in cases {
        let Err(failure) = engine.rows(sql).await else { panic!("{sql} is accepted") };
        let d = &failure.diagnostics[0];
        let at = d.at.as_ref().unwrap();
        assert_eq!(at.file.as_ref(), "<sql>");
        assert_eq!(format!("{} {}:{}", d.code, at.line, at.column), expect, "{sql}: {}", d.message);
    }
}

#[tokio::test]
async fn unknown_tables_are_told_with_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path(), None).await;
    let cases = [
        ("SELECT * FROM sim", "several pipelines have a table `sim`", "name one: a.sim, b.sim"),
        ("SELECT * FROM c.sim", "there is no table `sim`", ""),
        ("SELECT * FROM sim_request", "there is no table", "did you mean `sim_requests`?"),
        ("", "there is no statement", ""),
        ("SELECT 1; SELECT 2", "one statement at a time", "-f FILE"),
    ];
    for (sql, message, help) in cases {
        let Err(failure) = engine.rows(sql).await else { panic!("{sql} is accepted") };
        let d = &failure.diagnostics[0];
        assert!(d.message.contains(message), "{sql}: {}", d.message);
        assert!(d.help.as_deref().unwrap_or_default().contains(help), "{sql}: {:?}", d.help);
    }
    let Err(failure) = engine.rows("SELECT * FROM zzzzzzzzzzzz").await else { panic!("it is accepted") };
    let help = failure.diagnostics[0].help.clone().unwrap();
    assert_eq!(help.matches("sim_requests").count(), 1, "{help}");
}

#[tokio::test]
async fn formats() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path(), Some("a")).await;
    let text = async |sql: &str, format| {
        let mut out = Vec::new();
        write(engine.sql(sql).await.unwrap(), format, &mut out).await.unwrap();
        out
    };
    let sql = "SELECT gpus, CAST(NULL AS TEXT) AS t, rate_rps AS r FROM sim ORDER BY gpus";
    let string = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    assert_eq!(string(text(sql, Format::Csv).await), "gpus,t,r\n1,,2.0\n2,,4.0\n");
    assert_eq!(
        string(text(sql, Format::Json).await),
        "[\n{\"gpus\":1,\"t\":null,\"r\":2.0},\n{\"gpus\":2,\"t\":null,\"r\":4.0}\n]\n"
    );
    assert!(string(text(sql, Format::Table).await).contains("| 2    |   | 4.0 |"));
    let none = "SELECT gpus FROM sim WHERE gpus > 9";
    assert_eq!(string(text(none, Format::Csv).await), "gpus\n");
    assert_eq!(string(text(none, Format::Json).await), "[\n]\n");
    assert!(string(text(none, Format::Table).await).contains("| gpus |"));
    let lists = "SELECT gpus, make_array(gpus, 7) AS l FROM sim ORDER BY gpus";
    assert_eq!(string(text(lists, Format::Csv).await), "gpus,l\n1,\"[1, 7]\"\n2,\"[2, 7]\"\n");
    assert_eq!(string(text(lists, Format::Tsv).await), "gpus\tl\n1\t[1, 7]\n2\t[2, 7]\n");
    assert_eq!(&text(sql, Format::Parquet).await[..4], b"PAR1");
    let arrow = text(sql, Format::Arrow).await;
    let read: Vec<_> = arrow::ipc::reader::StreamReader::try_new(&arrow[..], None).unwrap().collect();
    assert_eq!(read[0].as_ref().unwrap().num_rows(), 2);
    assert!(Format::Parquet.check_target(true).is_err() && Format::Csv.check_target(true).is_ok());
}

fn project_file(name: &str) -> String {
    std::fs::read_to_string(crate::repository().join("queries").join(name)).unwrap()
}

/// Column by column, to nine digits.
async fn check_file(name: &str, expect: &[(&str, [Option<f64>; 2])]) {
    let sql = project_file(name);
    assert_eq!(found(&sql), Vec::<String>::new(), "{name}");
    let made = run(&sql, 2).await;
    for (column, values) in expect {
        let got = floats(&made[0].1, column);
        let same = got.len() == 2
            && got.iter().zip(values).all(|(g, e)| match (g, e) {
                (Some(g), Some(e)) => (g - e).abs() <= 1e-9 * e.abs().max(1.0),
                (g, e) => g == e,
            });
        assert!(same, "{name}: {column} is {got:?}, not {values:?}");
    }
}

#[tokio::test]
async fn metrics_file() {
    let both = |a: f64, b: f64| [Some(a), Some(b)];
    check_file(
        "metrics.sql",
        &[
            ("scenario_id", both(0.0, 1.0)),
            ("requests", both(4.0, 2.0)),
            ("ttft_ms_mean", both(500.0 / 3.0, 500.0)),
            ("ttft_ms_p50", both(150.0, 500.0)),
            ("ttft_ms_p90", both(230.0, 580.0)),
            ("ttft_ms_p99", both(248.0, 598.0)),
            ("tpot_ms_mean", both(45.0, 150.0)),
            ("tpot_ms_p50", both(45.0, 150.0)),
            ("e2e_ms_mean", both(1100.0 / 3.0, 700.0)),
            ("e2e_ms_p50", both(300.0, 700.0)),
            ("queue_ms_p50", both(10.0, 0.0)),
            ("queue_ms_mean", both(20.0, 0.0)),
            ("duration_s", both(4.0, 2.0)),
            ("output_tps_per_gpu", both(2.125, 2.5)),
            ("cached_ratio", [Some(0.25), None]),
            ("kv_used_ratio_max", both(0.5, 0.25)),
        ],
    )
    .await;
}

#[tokio::test]
async fn objective_files() {
    let both = |a: f64, b: f64| [Some(a), Some(b)];
    // From the first arrival to the last completion: 2.55 s and 1.6 s.
    check_file("slo/chat.sql", &[("attainment", both(0.5, 0.0)), ("goodput_rps", both(2.0 / 2.55, 0.0))]).await;
    check_file("slo/rag.sql", &[("attainment", both(0.75, 0.0)), ("goodput_rps", both(3.0 / 2.55, 0.0))]).await;
    check_file("slo/code.sql", &[("attainment", both(0.75, 0.5)), ("goodput_rps", both(3.0 / 2.55, 1.0 / 1.6))]).await;
    check_file("slo/completion.sql", &[("attainment", both(0.75, 1.0)), ("requests", both(4.0, 2.0))]).await;
}

#[tokio::test]
async fn view_files() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path(), Some("a")).await;
    let cases: &[(&str, &str, &[Option<f64>])] = &[
        ("v_attainment", "chat", &[Some(0.5), Some(0.0)]),
        ("v_attainment", "rag", &[Some(0.75), Some(0.0)]),
        ("v_attainment", "code", &[Some(0.75), Some(0.5)]),
        ("v_attainment", "completion", &[Some(0.75), Some(1.0)]),
        ("v_latency", "ttft_ms_p50", &[Some(150.0), Some(500.0)]),
        ("v_latency_by_rate", "rate_rps", &[Some(4.0), Some(2.0)]),
        ("v_latency_by_rate", "served", &[Some(3.0), Some(2.0)]),
        ("v_latency_throughput", "output_tps_per_user", &[Some(1000.0 / 45.0), Some(1000.0 / 150.0)]),
        ("v_throughput", "busy_ratio", &[Some(0.25), Some(0.5)]),
        ("v_itl", "share", &[Some(0.25), Some(1.0), Some(1.0)]),
        ("v_requests", "e2e_ms", &[Some(300.0), Some(250.0), Some(550.0), None, Some(800.0), Some(600.0)]),
    ];
    let files = views::files(crate::repository()).unwrap();
    for file in &files {
        assert!(cases.iter().any(|c| c.0 == file.name), "{} has no test", file.name);
    }
    for (view, column, expect) in cases {
        let key = match *view {
            "v_requests" => "scenario_id, request_id",
            "v_itl" => "scenario_id, gap_ms_min",
            _ => "scenario_id",
        };
        let rows = engine.rows(&format!("SELECT * FROM {view} ORDER BY {key}")).await.unwrap();
        assert_eq!(floats(&rows, column), *expect, "{view}.{column}");
    }
}

#[tokio::test]
async fn tables_of_several_parts_and_odd_paths() {
    let dir = tempfile::tempdir().unwrap();
    let mut handle = store(&dir.path().join("a [b]*%20 é"), "sim", &scenarios());
    let second = handle.dir.join("part-00001.parquet");
    std::fs::copy(&handle.parts[0], &second).unwrap();
    handle.parts.push(second);
    // A part that does not belong to the table.
    std::fs::copy(&handle.parts[0], handle.dir.join("part-00002.parquet")).unwrap();
    let mut damaged = handle.clone();
    damaged.parts.push("nowhere.parquet".into());
    assert_eq!(session::provider(&damaged).unwrap_err().exit, crate::diag::Exit::Stage);
    let engine = Engine::open(dir.path(), vec![("p".to_string(), handle)], None, 2).await.unwrap();
    let rows = engine.rows("SELECT count(*) AS n FROM sim").await.unwrap();
    assert_eq!(floats(&rows, "n"), [Some(4.0)]);
    let schema = engine.sql("SELECT duration_ns FROM sim").await.unwrap().schema();
    assert_eq!(schema.field(0).metadata().get("unit").map(String::as_str), Some("ns"));
}

#[test]
fn the_test_tables_are_like_those_of_a_simulation() {
    let columns = |schema: &arrow::datatypes::Schema| -> Vec<_> {
        schema.fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect()
    };
    assert_eq!(columns(&requests().schema()), columns(&crate::table::simulation::requests()));
    let totals: Vec<_> =
        crate::table::simulation::totals().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect();
    assert!(columns(&scenarios().schema()).ends_with(&totals));
    assert_eq!(columns(&gaps().schema()), columns(&crate::table::simulation::itl()));
}
