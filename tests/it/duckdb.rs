//! DuckDB reads the published folder as it is.

use std::process::Command;

use crate::project::{Project, SMALL};
use crate::serving::has_python;

#[test]
fn duckdb_reads_published_tables() {
    if !has_python(&["duckdb"]) {
        return;
    }
    let project = Project::new();
    project.write("pipelines/small.yaml", SMALL);
    project.run(&["run", "pipelines/small.yaml"]).ok();
    let query =
        "SELECT count(*) AS n, sum(e2e_ns) AS e, max(scenario_id) AS s FROM 'data/tables/small/sim_requests/*.parquet'";
    let out = Command::new("python3")
        .args(["-c", &format!("import duckdb; print(*duckdb.connect().execute(\"{query}\").fetchall()[0])")])
        .current_dir(project.path())
        .output()
        .expect("python3 starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let ours =
        &project.rows("SELECT count(*) AS n, sum(e2e_ns) AS e, max(scenario_id) AS s FROM small.sim_requests")[0];
    let expected = format!("{} {} {}\n", ours["n"], ours["e"], ours["s"]);
    assert_eq!(String::from_utf8_lossy(&out.stdout), expected);
}
