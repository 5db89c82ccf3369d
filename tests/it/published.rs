//! The published folder as other programs read it: DuckDB, Polars, pandas and pyarrow, while runs publish.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use pipe::store::{Finished, Manifest, PART_ROWS, Recipe, Store};
use serde_json::json;

use crate::project::{Project, SMALL};

/// Runs Python in a folder; `None` and a note where it has not these modules.
#[track_caller]
pub fn python(dir: &Path, modules: &str, script: &str) -> Option<String> {
    crate::serving::python(&[modules], script, &[], dir).map(|out| out.trim_end().to_string())
}

/// A way to count rows and sum `e2e_ns` of the folder `FOLDER` in Python.
const READERS: [(&str, &str); 4] = [
    (
        "duckdb",
        "import duckdb\nn, s = duckdb.sql(f\"SELECT count(*), sum(e2e_ns) FROM '{FOLDER}/*.parquet'\").fetchall()[0]",
    ),
    (
        "polars",
        "import polars\nt = polars.scan_parquet(f'{FOLDER}/*.parquet').collect()\nn, s = t.height, t['e2e_ns'].sum()",
    ),
    (
        "pyarrow.dataset",
        "import pyarrow.dataset, pyarrow.compute\nt = pyarrow.dataset.dataset(FOLDER).to_table()\n\
         n, s = t.num_rows, pyarrow.compute.sum(t['e2e_ns']).as_py()",
    ),
    ("pandas, pyarrow", "import pandas\nt = pandas.read_parquet(FOLDER)\nn, s = len(t), int(t['e2e_ns'].sum())"),
];

#[test]
fn everybody_reads_the_rows_that_we_do() {
    let project = Project::new();
    project.write("pipelines/small.yaml", SMALL);
    project.run(&["run", "pipelines/small.yaml"]).ok();
    let ours = &project.rows("SELECT count(*) AS n, sum(e2e_ns) AS s FROM small.sim_requests")[0];
    let expected = format!("{} {}", ours["n"], ours["s"]);
    for (modules, reader) in READERS {
        let script = format!("FOLDER = 'data/tables/small/sim_requests'\n{reader}\nprint(n, int(s))");
        if let Some(read) = python(project.path(), modules, &script) {
            assert_eq!(read, expected, "{modules}");
        }
    }
}

/// A result of two parts, whose rows are all `value`.
fn result(store: &Store, value: i64) -> Manifest {
    let schema = Arc::new(Schema::new(vec![Field::new("e2e_ns", DataType::Int64, false)]));
    let staging = store.stage("t").unwrap();
    let mut writer = staging.table("t", schema.clone()).unwrap();
    let rows = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![value; 1 << 17]))]).unwrap();
    for _ in 0..PART_ROWS / rows.num_rows() + 1 {
        writer.write(&rows).unwrap();
    }
    writer.finish().unwrap();
    let (inputs, files) = (BTreeMap::new(), BTreeMap::new());
    let recipe = Recipe { kind: "t".into(), version: 1, config: json!(value), seed: 0, inputs, files };
    let finished = Finished { stage: "t".into(), recipe, answer: Vec::new(), violated: None, millis: 0 };
    store.commit(staging, finished).unwrap()
}

/// Ends the thread that publishes, also where a reader failed.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a reader does again and again: through the link it finds rows of one result only, or that parts went away. pyarrow,
/// and pandas with it, leaves out in silence what goes away while it looks at the folder, down to a table without columns;
/// the others read all or fail. In the folder that the link leads to, everybody finds all of it, whatever is published.
const LOOP: &str = "
import os
LINK = 'data/tables/p/t'
def read(FOLDER, whole):
    READER
    assert int(s) in (n, 2 * n), (n, s)
    assert n == ROWS or not whole, n
for i in range(40):
    try:
        read(LINK, WHOLE)
    except AssertionError:
        raise
    except Exception as e:
        gone = 'No such file', 'No files found', 'e2e_ns'
        assert any(text in str(e) for text in gone), repr(e)
    read(os.path.realpath(LINK), True)
";

#[cfg(unix)]
#[test]
fn no_reader_sees_rows_of_two_results() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let _lock = store.lock().unwrap();
    let (one, two) = (result(&store, 1), result(&store, 2));
    assert_eq!(one.tables[0].parts.len(), 2);
    assert!(one.tables[0].parts.iter().all(|p| p.file.contains(p.hash.short())));
    store.publish("p", "t", &one).unwrap();
    let rows = one.tables[0].rows.to_string();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for result in [&two, &one] {
                    store.publish("p", "t", result).unwrap();
                    std::thread::sleep(std::time::Duration::from_millis(3));
                }
            }
        });
        for (modules, reader) in READERS {
            let script = LOOP.replace("READER", &reader.replace('\n', "\n    ")).replace("ROWS", &rows);
            let script = script.replace("WHOLE", if modules.contains("pyarrow") { "False" } else { "True" });
            let _ = python(dir.path(), modules, &script);
        }
    });
    // What was published a moment ago is not garbage yet; long after, it is.
    store.publish("p", "t", &one).unwrap();
    assert!(store.unreachable_without(&[], 60).is_empty());
    let garbage = store.unreachable_without(&[], 0);
    assert_eq!(garbage.iter().map(|g| &g.fingerprint).collect::<Vec<_>>(), [&two.fingerprint]);
}

#[test]
fn duckdb_has_the_views_that_mean_the_same_there() {
    let project = Project::new();
    project.write("pipelines/small.yaml", SMALL);
    let divides = "SELECT scenario_id, count(*) / 7 AS sevenths FROM sim_requests GROUP BY scenario_id";
    project.write("queries/views/v_sevenths.sql", divides);
    project.write("queries/views/v_cut.sql", "SELECT CAST(e2e_ns / 2.5 AS BIGINT) AS cut FROM sim_requests");
    project.write("queries/views/v_last.sql", "SELECT request_id FROM sim_requests ORDER BY ttft_ns DESC");
    project.write("queries/views/v_of_view.sql", "SELECT scenario_id, chat FROM v_attainment");
    project.run(&["run", "pipelines/small.yaml"]).ok();
    let script = project.run(&["ls", "--duckdb"]).ok().out;
    assert!(script.contains("-- left out: small.v_attainment, because DuckDB has no `slo_attainment`"), "{script}");
    assert!(script.contains("-- left out: small.v_sevenths, because it divides whole numbers"), "{script}");
    assert!(script.contains("-- left out: small.v_cut, because it cuts fractions"), "{script}");
    assert!(script.contains("ORDER BY ttft_ns DESC NULLS FIRST"), "{script}");
    assert!(script.contains("-- left out: small.v_of_view, because it reads a view that is left out"), "{script}");
    assert!(script.contains("-- made by `simulate` version "), "{script}");
    let views: Vec<&str> =
        ["v_itl", "v_latency", "v_latency_throughput", "v_requests", "v_throughput", "sim", "verdict"]
            .into_iter()
            .filter(|view| script.contains(&format!("VIEW \"small\".\"{view}\"")))
            .collect();
    assert!(views.len() >= 6, "{views:?}\n{script}");
    project.write("views.sql", &script);
    for view in views {
        let sql = format!("SELECT * FROM small.{view}");
        let ours = project.command(&["sql", &sql, "--format", "parquet"]).output().unwrap().stdout;
        std::fs::write(project.path().join("ours.parquet"), ours).unwrap();
        let script = format!(
            "import duckdb\nc = duckdb.connect()\nc.execute(open('views.sql').read())\na, b = '{sql}', \"SELECT * FROM 'ours.parquet'\"\n\
             print(*(c.execute(q).fetchone()[0] for q in (f'SELECT count(*) FROM ({{a}} EXCEPT ALL {{b}})', \
             f'SELECT count(*) FROM ({{b}} EXCEPT ALL {{a}})', f'SELECT count(*) > 0 FROM ({{a}})')))"
        );
        let Some(differ) = python(project.path(), "duckdb", &script) else { return };
        assert_eq!(differ, "0 0 True", "{view}");
    }
}
