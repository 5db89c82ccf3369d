//! What the check finds, and the files of a run.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::super::{Cancel, Progress, ProgressSink};
use super::*;
use crate::store::{Memo, Staging};

fn text(value: &str) -> Text {
    Text::new(value.to_string(), None)
}

fn plot(kind: PlotKind, query: &str, x: &str, y: Option<&str>, series: Option<&str>) -> Plot {
    Plot {
        query: Some(text(query)),
        figure: None,
        of: None,
        with: None,
        note: None,
        kind,
        x: Some(text(x)),
        x_end: None,
        y: y.map(text),
        z: None,
        columns: Vec::new(),
        series: series.map(text),
        facet: None,
        facet_columns: None,
        labels: None,
        title: None,
        x_label: None,
        y_label: None,
        x_log: false,
        y_log: false,
        x_min: None,
        x_max: None,
        y_min: None,
        y_max: None,
        rules: Vec::new(),
        bins: 40,
        theme: Default::default(),
        caption: Some(String::new()),
        width: 320,
        height: Some(200),
    }
}

const METRICS: &str = "SELECT * FROM metrics ORDER BY rate_rps, router";

fn metrics() -> TableShape {
    let schema = Schema::new(vec![
        Field::new("rate_rps", DataType::Float64, false),
        Field::new("ttft_ms_p99", DataType::Float64, true),
        Field::new("router", DataType::Utf8, false),
    ]);
    TableShape { name: "metrics".into(), schema: Some(Arc::new(schema)) }
}

fn check(plot: &Plot) -> Vec<String> {
    let tables = BTreeMap::from([("metrics".to_string(), metrics())]);
    let cx = CheckCx { stages: &[], tables: &tables, seed: 0, project: Path::new(".") };
    plot.check("curve", &cx).into_iter().map(|d| format!("{}: {}", d.message, d.help.unwrap_or_default())).collect()
}

#[test]
fn the_check_names_what_is_wrong() {
    let line = |x: &str, y: &str| plot(PlotKind::Line, METRICS, x, Some(y), None);
    let cases: Vec<(Plot, &[&str])> = vec![
        (line("rate_rps", "ttft_ms_p99"), &[]),
        (line("router", "ttft_ms_p99"), &[]),
        (plot(PlotKind::Cdf, METRICS, "ttft_ms_p99", None, Some("router")), &[]),
        (line("rate_rp", "ttft_ms_p99"), &["no column `rate_rp`", "did you mean `rate_rps`?"]),
        (line("rate_rps", "router"), &["`y` is the column `router` of type text"]),
        (plot(PlotKind::Bar, METRICS, "router", None, None), &["`y` is missing for `kind: bar`"]),
        (plot(PlotKind::Cdf, METRICS, "rate_rps", Some("ttft_ms_p99"), None), &["`y` has no meaning"]),
        (plot(PlotKind::Cdf, METRICS, "router", None, None), &["a distribution is one of numbers"]),
        (plot(PlotKind::Cdf, METRICS, "rate_rps", None, Some("rooter")), &["did you mean `router`?"]),
        (Plot { x_log: true, ..line("router", "ttft_ms_p99") }, &["a logarithmic axis shows numbers"]),
        (
            Plot { width: 99, height: Some(8001), ..line("rate_rps", "ttft_ms_p99") },
            &["`width` is 99", "`height` is 8001"],
        ),
        (Plot { query: Some(text("SELECT * FROM metrics")), ..line("rate_rps", "ttft_ms_p99") }, &["ORDER BY"]),
        (Plot { query: Some(text("SELEC")), width: 1, ..line("rate_rps", "y") }, &["`width` is 1", "SELEC"]),
        (
            Plot {
                query: Some(text(&format!("CREATE TABLE t AS {METRICS}; {METRICS}"))),
                ..line("rate_rps", "ttft_ms_p99")
            },
            &["a plot stores one table"],
        ),
    ];
    for (plot, expect) in cases {
        let found = check(&plot);
        assert!(expect.is_empty() == found.is_empty(), "{plot:?}: {found:?}");
        for part in expect {
            assert!(found.iter().any(|f| f.contains(part)), "{part}: {found:?}");
        }
    }
}

#[test]
fn inputs_and_tables_follow_from_the_query() {
    let plot = plot(PlotKind::Line, METRICS, "rate_rps", Some("ttft_ms_p99"), None);
    assert_eq!(plot.inputs().unwrap(), [text("metrics")]);
    let tables = BTreeMap::from([("metrics".to_string(), metrics())]);
    let cx = CheckCx { stages: &[], tables: &tables, seed: 0, project: Path::new(".") };
    let made = plot.tables("curve", &cx);
    assert_eq!(made.len(), 1);
    assert_eq!(made[0].name, "curve");
    assert_eq!(made[0].schema.as_ref().unwrap().fields().len(), 3);
    let spread = Plot { query: Some(text(&METRICS.replace(" FROM", "  -- all of them\n FROM"))), ..plot.clone() };
    assert_eq!(plot.recipe(&cx), spread.recipe(&cx));
    assert_ne!(plot.recipe(&cx), Plot { title: Some("T".into()), ..plot.clone() }.recipe(&cx));
}

struct Quiet;

impl ProgressSink for Quiet {
    fn total(&self, _units: u64, _what: &'static str) {}
    fn advance(&self, _units: u64) {}
}

/// The SVG, the PNG, and the number of rows of the table.
async fn run(plot: &Plot, dir: &Path) -> Result<(String, Vec<u8>, usize)> {
    let out = Staging::create(dir.join("result")).unwrap();
    let cx = RunCx {
        stage: "curve".into(),
        pipeline: "test".into(),
        recipe: Value::Null,
        seed: 0,
        project: dir.to_path_buf(),
        inputs: BTreeMap::new(),
        stages: Arc::new(Vec::new()),
        out: out.clone(),
        memo: Memo::open(dir.join("memo")),
        progress: Progress(Arc::new(Quiet)),
        cancel: Cancel::default(),
        pool: Arc::new(rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap()),
    };
    plot.run(cx).await?;
    let svg = std::fs::read_to_string(out.file("curve.svg").unwrap()).unwrap();
    let png = std::fs::read(out.file("curve.png").unwrap()).unwrap();
    let table = out.handle("curve").unwrap();
    let rows = table.parts.iter().map(|part| {
        let file = std::fs::File::open(part).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        reader.map(|b| b.unwrap().num_rows()).sum::<usize>()
    });
    Ok((svg, png, rows.sum()))
}

const VALUES: &str = "SELECT column1 AS rate_rps, column2 AS ttft_ms_p99, column3 AS router FROM \
    (VALUES (1, 20.5, 'a'), (2, NULL, 'a'), (4, 90.0, 'b'), (8, 300.0, NULL)) ORDER BY rate_rps";

#[tokio::test]
async fn a_run_makes_a_table_and_two_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let plot = plot(PlotKind::Line, VALUES, "rate_rps", Some("ttft_ms_p99"), Some("router"));
    let (svg, png, rows) = run(&plot, dir.path()).await.unwrap();
    assert_eq!(rows, 4);
    assert!(png.starts_with(b"\x89PNG"));
    for part in ["Rate (requests/s)", "TTFT p99 (ms)", "Router", "a", "b", "NULL", "1 row without a number not drawn"] {
        assert!(svg.contains(&format!("\n{part}\n")), "{part}: {svg}");
    }
}

#[tokio::test]
async fn names_on_the_axis_come_in_the_order_of_the_rows() {
    let dir = tempfile::tempdir().unwrap();
    let query = "SELECT column1 AS router, column2 AS n FROM (VALUES ('z', 1), ('m', 3), ('a', 2)) ORDER BY n DESC";
    let bars = Plot { x_label: Some("Policy".into()), ..plot(PlotKind::Bar, query, "router", Some("n"), None) };
    let (svg, ..) = run(&bars, dir.path()).await.unwrap();
    let at = |name: &str| svg.find(&format!("\n{name}\n")).unwrap();
    assert!(at("m") < at("a") && at("a") < at("z"));
    assert!(svg.contains("\nPolicy\n") && svg.contains("\nN\n"), "{svg}");
}

#[tokio::test]
async fn no_rows_make_an_empty_picture_and_wrong_columns_fail() {
    let dir = tempfile::tempdir().unwrap();
    let query = format!("SELECT * FROM ({VALUES}) WHERE rate_rps > 100 ORDER BY rate_rps");
    let cdf = plot(PlotKind::Cdf, &query, "ttft_ms_p99", None, None);
    let (svg, _, rows) = run(&cdf, dir.path()).await.unwrap();
    assert!(rows == 0 && svg.contains("\nno rows\n") && svg.contains("\nFraction of rows\n"), "{svg}");
    let other = tempfile::tempdir().unwrap();
    let wrong = Plot { x: Some(text("ttft")), ..cdf };
    let failure = run(&wrong, other.path()).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Stage);
    assert!(failure.to_string().contains("no column `ttft`"), "{failure}");
}
