//! `pipe sql`, `pipe ls`, `pipe show`: formats, views, errors.

use crate::project::{Project, SMALL};

fn small() -> Project {
    let project = Project::new();
    project.write("pipelines/small.yaml", SMALL);
    project.run(&["run", "pipelines/small.yaml"]).ok();
    project
}

#[test]
fn formats() {
    let project = small();
    let query = "SELECT scenario_id, rate_rps FROM sim ORDER BY scenario_id LIMIT 2";
    assert_eq!(project.run(&["sql", query, "--format", "csv"]).ok().out, "scenario_id,rate_rps\n0,4.0\n1,16.0\n");
    let json = project.run(&["sql", query, "--format", "json"]).ok().out;
    assert_eq!(json, "[\n{\"scenario_id\":0,\"rate_rps\":4.0},\n{\"scenario_id\":1,\"rate_rps\":16.0}\n]\n");
    assert!(project.run(&["sql", query]).ok().out.contains("| scenario_id | rate_rps |"));
    for (format, magic) in [("parquet", &b"PAR1"[..]), ("arrow", &[0xff, 0xff, 0xff, 0xff][..])] {
        let out = project.command(&["sql", query, "--format", format]).output().expect("the binary starts");
        assert!(out.status.success());
        assert!(out.stdout.starts_with(magic), "{format} begins with {:?}", &out.stdout[..4]);
    }
}

#[test]
fn a_file_a_schema_and_a_view() {
    let project = small();
    project.write("q.sql", "-- how many?\nSELECT count(*) AS n FROM small.sim_requests;\n");
    assert_eq!(project.run(&["sql", "-f", "q.sql", "--format", "csv"]).ok().out, "n\n1200\n");
    project.write("queries/views/v_fast.sql", "SELECT scenario_id FROM sim_requests WHERE ttft_ns < 1000000000");
    let rows = project.rows("SELECT count(*) AS n FROM v_fast");
    assert!(rows[0]["n"].as_i64().is_some_and(|n| n > 0));
}

#[test]
fn mistakes_are_explained() {
    let project = small();
    let ran = project.run(&["sql", "SELECT scenario_idd FROM sim"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("scenario_id"), "{}", ran.err);
    let ran = project.run(&["sql", "SELECT * FROM sim_reqests"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("sim_requests"), "{}", ran.err);
    for write in
        ["DROP TABLE sim", "CREATE TABLE x AS SELECT 1", "COPY sim TO 'x.parquet'", "INSERT INTO sim SELECT * FROM sim"]
    {
        let ran = project.run(&["sql", write]);
        assert_eq!(ran.code, Some(2), "{write}: {}", ran.out);
    }
}

#[test]
fn ls_and_show() {
    let project = small();
    let ls = project.run(&["ls"]).ok().out;
    assert!(ls.contains("sim_requests") && ls.contains("1,200"), "{ls}");
    let show = project.run(&["show", "sim_requests"]).ok().out;
    for part in ["ttft_ns", "ns", "Arrival", "small", "simulate", "1,200"] {
        assert!(show.contains(part), "no `{part}` in:\n{show}");
    }
    assert!(!show.contains("KV cache of"), "{show}");
    let show = project.run(&["show", "sim", "--rows", "0"]).ok().out;
    let plans: Vec<&str> = show.lines().filter(|l| l.starts_with("KV cache of ")).collect();
    assert_eq!(plans.len(), 1, "{show}");
    let expect = ": 80 GiB x 0.9 = 72.00 - weights 14.96 - activations 5.50 - other 0.15 = 51.39 GiB; / 2.00 MiB per block \
                  of 16 tokens = 26,312 blocks";
    assert!(plans[0].ends_with(expect), "{}", plans[0]);
    let ran = project.run(&["show", "sim_request"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("sim_requests"), "{}", ran.err);
}
