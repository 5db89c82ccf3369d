//! The stage's settings: sources, tables, recipe, schema.

use std::path::Path;

use super::*;
use crate::diag::Span;
use crate::query::testing::{floats, requests, run_cx, scenarios};
use crate::spec::FilePath;

fn stage(query: &str) -> Sql {
    let at = Span { file: "p.yaml".into(), line: 3, column: 5, len: query.len() as u32 };
    Sql { query: Some(Text::new(query.to_string(), Some(at))), file: None, schema: None, allow_approx: false }
}

fn with_cx<T>(f: impl FnOnce(&CheckCx) -> T) -> T {
    let shape = |name: &str, schema| (name.to_string(), TableShape { name: name.to_string(), schema });
    let tables = BTreeMap::from([
        shape("sim", Some(scenarios().schema())),
        shape("sim_requests", Some(requests().schema())),
        shape("later", None),
    ]);
    f(&CheckCx { stages: &[], tables: &tables, seed: 0, project: Path::new(".") })
}

fn messages(sql: &Sql) -> Vec<String> {
    with_cx(|cx| sql.check("m", cx)).into_iter().map(|d| d.message).collect()
}

#[test]
fn tables_and_their_columns() {
    let sql = stage(
        "CREATE TABLE a AS SELECT gpus FROM sim ORDER BY 1; CREATE VIEW b AS SELECT gpus AS g FROM a; SELECT g FROM b ORDER BY g",
    );
    assert_eq!(messages(&sql), Vec::<String>::new());
    let shapes = with_cx(|cx| sql.tables("m", cx));
    let columns: Vec<_> = shapes
        .iter()
        .map(|s| {
            (
                s.name.as_str(),
                s.schema.as_ref().map(|s| s.fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>()),
            )
        })
        .collect();
    assert_eq!(columns, [("m", Some(vec!["g".to_string()])), ("m_a", Some(vec!["gpus".to_string()]))]);
    let unknown = with_cx(|cx| stage("SELECT x FROM later ORDER BY x").tables("m", cx));
    assert!(unknown.len() == 1 && unknown[0].schema.is_none());
    let names: Vec<_> = sql.inputs().unwrap().into_iter().map(|t| (t.value, t.at.map(|a| a.column))).collect();
    assert_eq!(names, [("sim".to_string(), Some(40))]);
}

#[test]
fn sources() {
    let file = |text: &str| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q.sql");
        std::fs::write(&path, text).unwrap();
        (dir, FilePath { written: "q.sql".to_string(), path, at: None })
    };
    let (_dir, path) = file("-- a file\nSELECT gpu\nFROM sim ORDER BY 1");
    let sql = Sql { query: None, file: Some(path.clone()), schema: None, allow_approx: false };
    let at = with_cx(|cx| sql.check("m", cx))[0].at.clone().unwrap();
    assert_eq!((at.to_string(), at.len), ("q.sql:2:8".to_string(), 3));

    let inline = stage("SELECT gpu FROM sim ORDER BY 1");
    let at = with_cx(|cx| inline.check("m", cx))[0].at.clone().unwrap();
    assert_eq!(at.to_string(), "p.yaml:3:12");
    // Comments and layout are no part of the recipe, and where the text stands neither.
    assert_eq!(with_cx(|cx| inline.recipe(cx)), with_cx(|cx| sql.recipe(cx)));

    let both = Sql { file: Some(path), ..inline.clone() };
    assert_eq!(messages(&both), ["both `query` and `file` are given"]);
    assert_eq!(messages(&Sql { query: None, ..inline }), ["neither `query` nor `file` is given"]);
    let missing = FilePath { written: "no.sql".to_string(), path: "no.sql".into(), at: None };
    let sql = Sql { query: None, file: Some(missing), schema: None, allow_approx: false };
    assert!(messages(&sql)[0].starts_with("cannot read no.sql"));
    assert_eq!(sql.inputs().unwrap_err().exit, Exit::Usage);
}

#[test]
fn schemas_are_held_against_the_result() {
    let query = "SELECT gpus, rate_rps AS rate, deployment_model AS model FROM sim ORDER BY gpus";
    type Columns = [(&'static str, &'static str)];
    let cases: &[(&Columns, &[&str])] = &[
        (&[("gpus", "bigint"), ("rate", "double"), ("model", "text")], &[]),
        (&[("gpus", "BIGINT"), ("rate", "float64"), ("model", "string")], &[]),
        (
            &[("gpus", "int"), ("rate", "double"), ("model", "text")],
            &["column `gpus` is bigint, and `schema` says int"],
        ),
        (&[("gpus", "bigint"), ("rate", "duble"), ("model", "text")], &["`duble`, for column `rate`, is not a type"]),
        (
            &[("gpu", "bigint"), ("rate", "double"), ("model", "text")],
            &["the result has no column `gpu`", "the result has columns that `schema` has not: gpus"],
        ),
        (
            &[("rate", "double"), ("gpus", "bigint"), ("model", "text")],
            &["the columns of the result are in another order than `schema` says"],
        ),
    ];
    for (wanted, expect) in cases {
        let schema = wanted.iter().map(|(n, t)| (n.to_string(), t.to_string())).collect();
        assert_eq!(messages(&Sql { schema: Some(schema), ..stage(query) }), *expect, "{wanted:?}");
    }
}

#[test]
fn approximate_aggregates_on_request() {
    let approximate = stage("SELECT approx_distinct(gpus) AS n FROM sim");
    assert_eq!(messages(&approximate), ["`approx_distinct` gives another value in every run"]);
    assert_eq!(messages(&Sql { allow_approx: true, ..approximate }), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let query = "CREATE TABLE slow AS SELECT request_id, ms(ttft_ns) AS ttft_ms FROM sim_requests WHERE ttft_ns > 2e8 \
                 ORDER BY 2; SELECT sum(ttft_ms) AS ttft_ms_sum FROM slow";
    let written = async || {
        let cx = run_cx(dir.path(), "m");
        let out = cx.out.clone();
        stage(query).run(cx).await.unwrap();
        // The tables are there as long as the staging is.
        (vec![out.handle("m").unwrap(), out.handle("m_slow").unwrap()], out)
    };
    let ((first, _kept), (again, _)) = (written().await, written().await);
    let hashes = |tables: &[crate::store::TableHandle]| tables.iter().map(|t| t.hash.clone()).collect::<Vec<_>>();
    assert_eq!(hashes(&first), hashes(&again));
    let tables = first.into_iter().map(|t| ("p".to_string(), t)).collect();
    let engine = crate::query::Engine::open(dir.path(), tables, None, 2).await.unwrap();
    let rows = engine.rows("SELECT * FROM m_slow").await.unwrap();
    assert_eq!(floats(&rows, "ttft_ms"), [250.0, 400.0, 600.0].map(Some));
    let stream = engine.sql("SELECT ttft_ms_sum FROM m").await.unwrap();
    assert_eq!(stream.schema().field(0).metadata().get("unit").map(String::as_str), Some("ms"));
    let wrong = Sql { schema: Some([("x".to_string(), "int".to_string())].into_iter().collect()), ..stage(query) };
    let failure = wrong.run(run_cx(dir.path(), "m")).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Stage);
}
