//! What protocols share, without any of them: which tables are served, what is refused, and where limits end a query.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use futures::StreamExt;

use super::access::Access;
use super::refusal::{Reason, Refusal};
use super::service::{Rows, Service};
use super::tables::Tables;
use super::{Limits, Wire};
use crate::diag::Failure;
use crate::plan::testing::{Fake, fake, pipeline};
use crate::run::{RunOptions, run};
use crate::store::Store;

fn limits() -> Limits {
    Limits {
        timeout: Duration::from_secs(60),
        idle: Duration::from_secs(60),
        memory_bytes: 64 << 20,
        queries: 4,
        rows: 1_000_000,
        connections: 4,
    }
}

async fn go(dir: &Path, stages: Vec<(&str, Fake)>) -> bool {
    let (pipeline, dag) = pipeline(dir, stages);
    let store = Store::open(dir).unwrap();
    run(&pipeline, &dag.unwrap(), &store, RunOptions::default()).await.is_ok()
}

async fn service(dir: &Path, limits: Limits) -> Arc<Service> {
    let tables = Tables::open(Store::open(dir).unwrap(), Vec::new(), 2).await.unwrap();
    Service::new(tables, Access::default(), limits, 2).unwrap()
}

async fn ask(service: &Arc<Service>, sql: &str) -> Result<Rows, Refusal> {
    let ctx = service.session();
    let plan = service.plan(&ctx, sql).await?;
    service.run(Wire::Http, &ctx, plan).await
}

async fn numbers(service: &Arc<Service>, sql: &str) -> Result<Vec<i64>, Refusal> {
    let batches = ask(service, sql).await?.collect().await?;
    Ok(batches.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec()).collect())
}

async fn refused(service: &Arc<Service>, sql: &str) -> Reason {
    numbers(service, sql).await.unwrap_err().reason
}

/// More rows than anyone waits for.
const ENDLESS: &str = "SELECT a.value FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b";

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

#[test]
fn the_last_good_run_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let chain = |rows: &[i64], fails: bool| {
        let last = fake(&["a"], rows).doing({
            let rows = rows.to_vec();
            move |_| if fails { Err(Failure::stage("fake", "it broke")) } else { Ok(rows.clone()) }
        });
        vec![("a", fake(&[], rows)), ("b", last)]
    };
    block_on(async {
        // Nothing yet: no tables, and no error.
        let service = service(dir.path(), limits()).await;
        assert_eq!(refused(&service, "SELECT v FROM p.a").await, Reason::UnknownTable);
        assert!(!service.tables.refresh().await.unwrap());

        assert!(go(dir.path(), chain(&[1, 2], false)).await);
        assert!(service.tables.refresh().await.unwrap());
        let sum = "SELECT sum(v) FROM (SELECT v FROM p.a UNION ALL SELECT v FROM p.b)";
        assert_eq!(numbers(&service, sum).await.unwrap(), [6]);
        assert_eq!(numbers(&service, "SELECT v FROM a ORDER BY v").await.unwrap(), [1, 2]);

        // `a` is published anew, then the run fails: both tables are those of the run before.
        assert!(!go(dir.path(), chain(&[10, 20], true)).await);
        assert!(service.tables.refresh().await.unwrap());
        assert_eq!(numbers(&service, sum).await.unwrap(), [6]);

        // A query that was planned before a new run publishes still reads what it was planned with.
        let ctx = service.session();
        let planned = service.plan(&ctx, sum).await.unwrap();
        assert!(go(dir.path(), chain(&[100], false)).await);
        assert!(service.tables.refresh().await.unwrap());
        let rows = service.run(Wire::Http, &ctx, planned).await.unwrap().collect().await.unwrap();
        assert_eq!(rows[0].column(0).as_primitive::<Int64Type>().value(0), 6);
        assert_eq!(numbers(&service, sum).await.unwrap(), [200]);

        let tables = service.now().tables.clone();
        let names: Vec<&str> = tables.iter().map(|t| t.handle.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
    });
}

#[test]
fn without_a_good_run_what_there_is_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let broken = fake(&["a"], &[]).doing(|_| Err(Failure::stage("fake", "it broke")));
    block_on(async {
        assert!(!go(dir.path(), vec![("a", fake(&[], &[7])), ("b", broken)]).await);
        let service = service(dir.path(), limits()).await;
        assert_eq!(numbers(&service, "SELECT v FROM p.a").await.unwrap(), [7]);
    });
}

#[test]
fn nothing_but_reading_tables_is_possible() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret.csv");
    std::fs::write(&file, "a\n1\n").unwrap();
    let out = dir.path().join("out.csv");
    let cases = [
        ("CREATE TABLE t AS SELECT 1".to_string(), Reason::ReadOnly),
        ("CREATE VIEW t AS SELECT 1".to_string(), Reason::ReadOnly),
        (format!("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{}'", file.display()), Reason::ReadOnly),
        (format!("COPY (SELECT 1) TO '{}'", out.display()), Reason::ReadOnly),
        ("DROP TABLE p.a".to_string(), Reason::ReadOnly),
        ("INSERT INTO p.a VALUES (1, 2)".to_string(), Reason::ReadOnly),
        ("DELETE FROM p.a".to_string(), Reason::ReadOnly),
        ("UPDATE p.a SET v = 1".to_string(), Reason::ReadOnly),
        ("SET datafusion.execution.target_partitions = 9".to_string(), Reason::ReadOnly),
        ("EXPLAIN ANALYZE INSERT INTO p.a VALUES (1, 2)".to_string(), Reason::ReadOnly),
        ("PREPARE q AS SELECT 1".to_string(), Reason::ReadOnly),
        ("SELECT 1 AS a INTO t".to_string(), Reason::ReadOnly),
        ("EXPLAIN SELECT 1 AS a INTO t".to_string(), Reason::ReadOnly),
        ("WITH a AS (INSERT INTO p.a VALUES (1, 2) RETURNING 1) SELECT * FROM a".to_string(), Reason::ReadOnly),
        ("SHOW CREATE TABLE p.a".to_string(), Reason::ReadOnly),
        ("FROM p.a".to_string(), Reason::Syntax),
        ("SELECT 1 / 0".to_string(), Reason::Value("22012")),
        ("SELECT CAST('x' AS INT)".to_string(), Reason::Value("22P02")),
        ("SELECT CAST(v * 1000000000000 AS INT) FROM p.a".to_string(), Reason::Value("22003")),
        ("SELECT repeat('x', 2000000000)".to_string(), Reason::TooLarge),
        ("SELECT string_agg(repeat('x', 200000), ',') FROM generate_series(1, 100000)".to_string(), Reason::TooLarge),
        ("SELECT $1".to_string(), Reason::Value("42P02")),
        ("SELECT range(1, 100, 0)".to_string(), Reason::Value("22023")),
        (format!("SELECT * FROM '{}'", file.display()), Reason::UnknownTable),
        ("SELECT * FROM read_csv('x')".to_string(), Reason::UnknownFunction),
        ("SELECT 1; SELECT 2".to_string(), Reason::Syntax),
        (String::new(), Reason::Syntax),
        ("SELEC 1".to_string(), Reason::Syntax),
        (format!("SELECT {}", vec!["1"; 50_000].join("+")), Reason::TooLarge),
        ("SELECT nope FROM p.a".to_string(), Reason::UnknownColumn),
        ("SELECT quantil(v, 0.5) FROM p.a".to_string(), Reason::UnknownFunction),
    ];
    block_on(async {
        assert!(go(dir.path(), vec![("a", fake(&[], &[1]))]).await);
        let service = service(dir.path(), limits()).await;
        for (sql, reason) in cases {
            assert_eq!(refused(&service, &sql).await, reason, "{sql}");
        }
        assert!(!out.exists());
        for (sql, what) in [
            ("EXPLAIN ANALYZE INSERT INTO p.a VALUES (1, 2)", "INSERT is not"),
            ("EXPLAIN DROP TABLE p.a", "DROP is not"),
            ("SHOW CREATE TABLE p.a", "SHOW CREATE is not"),
            ("SELECT 1 AS a INTO t", "SELECT INTO is not"),
        ] {
            let refusal = ask(&service, sql).await.map(|_| ()).unwrap_err();
            assert!(refusal.message.starts_with(what), "{sql}: {refusal}");
        }
        for sql in ["EXPLAIN SELECT v FROM p.a", "SHOW TABLES", "DESCRIBE p.a", "EXPLAIN ANALYZE SELECT v FROM p.a"] {
            assert!(!ask(&service, sql).await.unwrap().collect().await.unwrap().is_empty(), "{sql}");
        }
        assert_eq!(numbers(&service, "SELECT v FROM p.a").await.unwrap(), [1]);
    });
}

#[test]
fn limits_end_queries_and_free_what_they_held() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let timeout = Limits { timeout: Duration::from_millis(300), ..limits() };
        let count = format!("SELECT count(*) FROM ({ENDLESS})");
        let slow = service(dir.path(), timeout).await;
        assert_eq!(refused(&slow, &count).await, Reason::Timeout);

        let few = service(dir.path(), Limits { rows: 1000, ..limits() }).await;
        assert_eq!(numbers(&few, "SELECT value FROM generate_series(1, 1000)").await.unwrap().len(), 1000);
        assert_eq!(refused(&few, "SELECT value FROM generate_series(1, 1001)").await, Reason::TooLarge);

        let small = service(dir.path(), Limits { memory_bytes: 4 << 20, ..limits() }).await;
        let greedy = "SELECT array_length(array_agg(value)) FROM generate_series(1, 100000000)";
        assert_eq!(refused(&small, greedy).await, Reason::Memory);
        assert_eq!(numbers(&small, "SELECT CAST(1 AS BIGINT)").await.unwrap(), [1]);
        assert_eq!(small.memory_held(), 0);
    });
}

#[test]
fn what_works_without_a_row_is_stopped_too() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let one = Limits { queries: 1, timeout: Duration::from_secs(1), ..limits() };
        let service = service(dir.path(), one).await;
        // A million times a million pairs, of which none is handed on.
        let pairs = "SELECT count(*) FROM generate_series(1, 1000000) a \
            JOIN generate_series(1, 1000000) b ON a.value * b.value < 0";
        let begun = Instant::now();
        assert_eq!(refused(&service, pairs).await, Reason::Timeout);
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        // Its place, and the threads that plan, are free once it has really stopped.
        while let Err(refusal) = numbers(&service, "SELECT CAST(4 AS BIGINT)").await {
            assert!(matches!(refusal.reason, Reason::Busy | Reason::Timeout), "{refusal}");
            assert!(begun.elapsed() < Duration::from_secs(60));
        }
    });
}

#[test]
fn a_pinned_session_sees_one_run() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        assert!(go(dir.path(), vec![("a", fake(&[], &[1]))]).await);
        let service = service(dir.path(), limits()).await;
        let session = service.session();
        let (before, sql) = (service.pinned(&session), "SELECT v FROM p.a");
        assert!(go(dir.path(), vec![("a", fake(&[], &[2]))]).await);
        assert!(service.tables.refresh().await.unwrap());
        for (ctx, expected) in [(before, 1), (service.pinned(&session), 2)] {
            let rows = ctx.sql(sql).await.unwrap().collect().await.unwrap();
            assert_eq!(rows[0].column(0).as_primitive::<Int64Type>().values().to_vec(), [expected]);
        }
    });
}

#[test]
fn one_more_query_than_allowed_waits_for_its_turn() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let one = Limits { queries: 1, timeout: Duration::from_millis(400), ..limits() };
        let service = service(dir.path(), one).await;
        let mut first = ask(&service, ENDLESS).await.unwrap();
        assert!(first.next().await.unwrap().is_ok());
        assert_eq!(refused(&service, "SELECT 1").await, Reason::Busy);
        // A client that goes away makes room.
        drop(first);
        assert_eq!(numbers(&service, "SELECT CAST(2 AS BIGINT)").await.unwrap(), [2]);
    });
}

#[test]
fn rows_that_nobody_takes_are_dropped() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let one = Limits { queries: 1, idle: Duration::from_millis(200), ..limits() };
        let service = service(dir.path(), one).await;
        let mut first = ask(&service, ENDLESS).await.unwrap();
        assert!(first.next().await.unwrap().is_ok());
        // It waits until the other has been idle for too long.
        assert_eq!(numbers(&service, "SELECT CAST(3 AS BIGINT)").await.unwrap(), [3]);
        let mut last = None;
        while let Some(item) = first.next().await {
            last = Some(item.map(|b| b.num_rows()));
        }
        assert_eq!(last.unwrap().unwrap_err().reason, Reason::Idle);
        assert!(service.metrics.text().contains("outcome=\"idle\"} 1"));
    });
}

#[test]
fn a_table_that_is_removed_while_it_is_served_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        assert!(go(dir.path(), vec![("a", fake(&[], &[1]))]).await);
        let service = service(dir.path(), limits()).await;
        std::fs::remove_dir_all(dir.path().join("data/store/objects")).unwrap();
        let refusal = numbers(&service, "SELECT v FROM p.a").await.unwrap_err();
        assert_eq!(refusal.reason, Reason::Failed, "{refusal}");
        assert!(!refusal.to_string().contains(&dir.path().display().to_string()), "{refusal}");
    });
}
