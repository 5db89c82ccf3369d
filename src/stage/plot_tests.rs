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
        z_middle: None,
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
fn every_text_of_a_figure_may_ask_for_columns() {
    let history = Schema::new(vec![Field::new("best_cost", DataType::Float64, true)]);
    let table = |name: &str| (name == "o_history").then(|| Arc::new(history.clone()));
    let asked = || Some(text("{objective_1}"));
    let plot = Plot {
        figure: Some(text("own")),
        of: Some(text("o")),
        x_end: asked(),
        facet: asked(),
        labels: asked(),
        note: asked(),
        columns: asked().into_iter().collect(),
        rules: vec![PlotRule { x: None, y: Some(1.0), label: "best {objective_1}".into() }],
        caption: Some("{objective_1}".into()),
        ..plot(PlotKind::Line, "SELECT {objective_1}", "{objective_1}", Some("{objective_1}"), Some("{objective_1}"))
    };
    let plot = plot.completed(&Known { table: &table, varied: None, searched: None }).unwrap();
    let said = format!("{plot:?}");
    assert!(!said.contains("objective_1") && said.contains("best cost"), "{said}");
    assert!([&plot.facet, &plot.labels, &plot.note, &plot.x_end].iter().all(|t| t.as_ref().unwrap().value == "cost"));
}

#[test]
fn the_check_knows_what_each_kind_draws() {
    let line = || plot(PlotKind::Line, METRICS, "rate_rps", Some("ttft_ms_p99"), None);
    let parallel = |columns: &[&str]| Plot {
        columns: columns.iter().map(|c| text(c)).collect(),
        x: None,
        ..plot(PlotKind::Parallel, METRICS, "", None, None)
    };
    let span =
        || Plot { x_end: Some(text("ttft_ms_p99")), ..plot(PlotKind::Span, METRICS, "rate_rps", Some("router"), None) };
    let some = |name: &str| Some(text(name));
    let both = || parallel(&["rate_rps", "router"]);
    let cases: Vec<(Plot, &[&str])> = vec![
        (both(), &[]),
        (Plot { z: some("ttft_ms_p99"), facet: some("router"), facet_columns: Some(2), ..both() }, &[]),
        (span(), &[]),
        (Plot { x_min: Some(1.0), x_max: Some(9.0), y_max: Some(1e3), facet: some("router"), ..line() }, &[]),
        (Plot { labels: some("router"), kind: PlotKind::Scatter, ..line() }, &[]),
        (Plot { x: None, ..line() }, &["`x` is missing for `kind: line`"]),
        (Plot { labels: some("router"), ..line() }, &["`labels` has no meaning for `kind: line`"]),
        (Plot { x_end: some("rate_rps"), ..line() }, &["`x_end` has no meaning for `kind: line`"]),
        (Plot { columns: vec![text("rate_rps")], ..line() }, &["`columns` has no meaning for `kind: line`"]),
        (Plot { facet: some("rooter"), ..line() }, &["is to be `facet`: did you mean `router`?"]),
        (Plot { facet_columns: Some(2), ..line() }, &["`facet_columns` has nothing to lay out"]),
        (Plot { y_min: Some(5.0), y_max: Some(5.0), ..line() }, &["`y_min` is 5, and `y_max` is 5"]),
        (Plot { y_min: Some(f64::NAN), ..line() }, &["`y_min` is NaN: choose a finite number"]),
        (Plot { y_min: Some(0.0), y_log: true, ..line() }, &["`y_min` is 0: a logarithmic axis has positive numbers"]),
        (Plot { x_max: Some(1.0), x: some("router"), ..line() }, &["an axis with limits shows numbers"]),
        (Plot { x_max: Some(1.0), kind: PlotKind::Bar, ..line() }, &["`x_max` has no meaning for `kind: bar`"]),
        (parallel(&["rate_rps"]), &["`columns` names 1 axes for `kind: parallel`: name 2 to 24"]),
        (parallel(&["router", "rate_rp"]), &["is to be `columns`: did you mean `rate_rps`?"]),
        (parallel(&["router", "rate_rps", "router"]), &["`columns` names `router` twice"]),
        (Plot { x: some("rate_rps"), y: some("router"), ..both() }, &["`x` has no meaning", "`y` has no meaning"]),
        (Plot { x_log: true, y_min: Some(1.0), ..both() }, &["`x_log` has no meaning", "`y_min` has no meaning"]),
        (Plot { z: some("rate_rps"), series: some("router"), ..both() }, &["lines have one colour"]),
        (Plot { z: some("router"), ..both() }, &["`z` is the column `router` of type text: colours are of numbers"]),
        (Plot { kind: PlotKind::Path, ..line() }, &[]),
        (Plot { z_middle: Some(0.0), z: some("rate_rps"), kind: PlotKind::Heat, ..line() }, &[]),
        (Plot { z_middle: Some(0.0), ..line() }, &["`z_middle` is the middle of the colours of `kind: heat`"]),
        (Plot { x_end: None, ..span() }, &["`x_end` is missing for `kind: span`"]),
        (Plot { x_end: some("router"), ..span() }, &["`x_end` is the column `router` of type text"]),
        (Plot { x_log: true, y_log: true, ..span() }, &["`x_log` has no meaning", "`y_log` has no meaning"]),
    ];
    for (plot, expect) in cases {
        let found = check(&plot);
        assert_eq!(found.len(), expect.len(), "{plot:?}: {found:?}");
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

#[tokio::test]
async fn facets_have_titles_and_one_legend() {
    let dir = tempfile::tempdir().unwrap();
    let query = "SELECT column1 AS gpu, column2 AS x, column3 AS y, column4 AS router FROM \
        (VALUES ('h200', 1, 5, 'a'), ('h100', 1, 6, 'a'), ('h200', 2, 7, 'b'), (NULL, 2, 8, 'b')) ORDER BY y";
    let facets = Plot {
        facet: Some(text("gpu")),
        height: None,
        width: 960,
        ..plot(PlotKind::Bar, query, "x", Some("y"), Some("router"))
    };
    let (svg, ..) = run(&facets, dir.path()).await.unwrap();
    let at = |name: &str| svg.find(&format!("\n{name}\n")).unwrap_or_else(|| panic!("{name}: {svg}"));
    assert!(at("GPU: h200") < at("GPU: h100") && at("GPU: h100") < at("GPU: NULL"));
    assert_eq!(svg.matches("\nRouter\n").count(), 1);
    // Three plots side by side need no more height than this.
    assert!(svg.starts_with("<svg width=\"960\" height=\"440\""), "{}", &svg[..80]);
}

#[tokio::test]
async fn parallel_axes_and_spans_are_drawn_of_columns() {
    let dir = tempfile::tempdir().unwrap();
    let query = "SELECT column1 AS tp, column2 AS router, column3 AS goodput_rps FROM \
        (VALUES (1, 'a', 5.5), (8, 'b', NULL), (2, NULL, 40.0)) ORDER BY tp";
    let columns = ["tp", "router", "goodput_rps"].map(text).into();
    let parallel = Plot { columns, x: None, z: Some(text("tp")), ..plot(PlotKind::Parallel, query, "", None, None) };
    let (svg, ..) = run(&parallel, dir.path()).await.unwrap();
    for part in ["TP", "Router", "Goodput (requests/s)", "a", "NULL", "1 row with gaps: no number on some axis"] {
        assert!(svg.contains(&format!("\n{part}\n")), "{part}: {svg}");
    }
    assert!(svg.contains("<title>TP: 1\nRouter: a\nGoodput (requests/s): 5.5\nTP: 1</title></polyline>"), "{svg}");

    let other = tempfile::tempdir().unwrap();
    let query = "SELECT column1 AS id, column2 AS from_ms, column3 AS to_ms, column4 AS part FROM \
        (VALUES (7, 0.0, 2.0, 'queue'), (7, 2.0, 5.0, 'decode'), (3, 1.0, 4.0, 'queue')) ORDER BY id DESC, from_ms";
    let span = Plot {
        x_end: Some(text("to_ms")),
        x_label: Some("Time (ms)".into()),
        ..plot(PlotKind::Span, query, "from_ms", Some("id"), Some("part"))
    };
    let (svg, ..) = run(&span, other.path()).await.unwrap();
    assert!(svg.contains("<title>decode\nID: 7\nTime (ms): 2 to 5\nlength: 3</title>"), "{svg}");
    assert!(svg.find("\n7\n").unwrap() > svg.find("\n3\n").unwrap(), "slots are written from below: {svg}");
}

#[tokio::test]
async fn too_many_facets_and_series_are_refused() {
    let numbers = "SELECT value AS n, value % 50 AS f FROM generate_series(1, 1001) ORDER BY value";
    let scatter = || plot(PlotKind::Scatter, numbers, "n", Some("n"), None);
    let cases = [
        (Plot { facet: Some(text("f")), ..scatter() }, "the column `f`, which is `facet`, has more than 36 values"),
        (Plot { series: Some(text("n")), ..scatter() }, "the column `n`, which is `series`, has more than 1000 values"),
    ];
    for (plot, expect) in cases {
        let dir = tempfile::tempdir().unwrap();
        let failure = run(&plot, dir.path()).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Stage);
        assert!(failure.diagnostics[0].message == expect && failure.diagnostics[0].help.is_some(), "{failure}");
    }
}
