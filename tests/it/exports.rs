//! `export` and `pipe export`, read back by the programs that they are for.

use std::time::{Duration, Instant};

use crate::postgres_server::{PASSWORD, Server};
use crate::project::{Project, Ran};
use crate::published::python;

/// Values at the edges of what formats hold.
const EDGES: &str = "\
name: edges
stages:
  t:
    sql: |
      SELECT id, small, big, ratio, word, flag, day, moment, [id, NULL] AS list, CAST(price AS DECIMAL(20, 4)) AS price,
        arrow_cast(id, 'UInt64') + arrow_cast('18446744073709551610', 'UInt64') AS hash
      FROM (VALUES
        (1, arrow_cast(7, 'Int16'), 9007199254740993, 0.1, '=1+1', true, DATE '2024-02-29', TIMESTAMP '2024-01-01 12:34:56.789', '12.5'),
        (2, NULL, -5, arrow_cast('NaN', 'Float64'), 'a \"b\"/c=d,%é', false, DATE '1800-01-01', TIMESTAMP '1999-12-31 23:59:59.123456', '-1234567890123456.7891'),
        (3, arrow_cast(-3, 'Int16'), NULL, arrow_cast('inf', 'Float64'), '', NULL, NULL, NULL, NULL)
      ) AS v(id, small, big, ratio, word, flag, day, moment, price)
      ORDER BY id
";

fn project(stage: &str) -> Project {
    let project = Project::new();
    project.write("pipelines/edges.yaml", &format!("{EDGES}  out:\n    export: {stage}\n"));
    project
}

fn run(project: &Project) -> Ran {
    project.run(&["run", "pipelines/edges.yaml", "--quiet"])
}

/// Cells of a workbook by the standard library alone: type and content.
const CELLS: &str = "\
import sys, zipfile, xml.etree.ElementTree as E
z = zipfile.ZipFile(sys.argv[1] if len(sys.argv) > 1 else 'FILE')
assert all(i.date_time == (1980, 1, 1, 0, 0, 0) for i in z.infolist()), [i.date_time for i in z.infolist()]
ns = '{http://schemas.openxmlformats.org/spreadsheetml/2006/main}'
root = E.fromstring(z.read('xl/worksheets/sheet1.xml'))
assert root.find(f'.//{ns}f') is None
assert root.find(f'{ns}autoFilter').get('ref') == 'A1:K4'
assert root.find(f'.//{ns}pane').get('ySplit') == '1'
for c in root.iter(f'{ns}c'):
    v = c.find(f'{ns}v')
    print(c.get('r'), c.get('t', 'n'), v.text if v is not None else ''.join(t.text or '' for t in c.iter(f'{ns}t')))
names = [s.get('name') for s in E.fromstring(z.read('xl/workbook.xml')).iter(f'{ns}sheet')]
print(names)
";

#[test]
fn a_workbook_has_typed_cells() {
    let project = project("{ from: t, format: xlsx }");
    run(&project).ok();
    let file = project.path().join("data/exports/edges/out.xlsx");
    let Some(cells) = python(project.path(), "zipfile", &CELLS.replace("FILE", file.to_str().unwrap())) else { return };
    for cell in [
        "A1 inlineStr id",
        "A2 n 1",
        "C2 inlineStr 9007199254740993",
        "C3 n -5",
        "D2 n 0.1",
        "D3 inlineStr NaN",
        "D4 inlineStr inf",
        "E2 inlineStr =1+1",
        "F2 b 1",
        "F3 b 0",
        // 2024-02-29 and 2024-01-01 12:34:56.789 in days since 1899-12-30.
        "G2 n 45351",
        "G3 inlineStr 1800-01-01",
        "I2 inlineStr [1, ]",
        "J2 n 12.5",
        "J3 inlineStr -1234567890123456.7891",
        "K2 inlineStr 18446744073709551611",
    ] {
        assert!(cells.lines().any(|line| line == cell), "{cell}\n{cells}");
    }
    let moment = cells.lines().find_map(|l| l.strip_prefix("H2 n ")).unwrap().parse::<f64>().unwrap();
    let expected = 45292.0 + (12.0 * 3600.0 + 34.0 * 60.0 + 56.789) / 86400.0;
    assert!((moment - expected).abs() < 1e-8, "{moment}");
    assert!(!cells.contains("B3 ") && !cells.contains("E4 "), "{cells}");
    assert!(cells.ends_with("['t', 'columns']"), "{cells}");
    let told = &project.rows("SELECT rows, as_text, rounded, left_out FROM edges.out")[0];
    // 2^53 + 1, NaN, infinity, a day of 1800, a long decimal, three hashes; 123456 us is no whole millisecond.
    assert_eq!((&told["rows"], &told["as_text"], &told["rounded"]), (&3.into(), &8.into(), &1.into()), "{told}");
    // The same from the command line, and the same bytes.
    project.run(&["export", "edges.t", "--output", "again.xlsx"]).ok();
    let read = |path: &std::path::Path| std::fs::read(path).unwrap();
    assert!(read(&file) == read(&project.path().join("again.xlsx")));
    let refused = project.run(&["export", "edges.t", "--output", "again.xlsx"]);
    assert!(refused.code == Some(2) && refused.err.contains("--force"), "{}", refused.err);
    for name in ["t.csv", "t.jsonl.gz", "t.parquet", "t.arrow"] {
        let told = project.run(&["export", "t", "-o", name]).ok().err;
        assert!(told.contains("3 rows"), "{told}");
    }
    let csv = std::fs::read_to_string(project.path().join("t.csv")).unwrap();
    assert!(csv.starts_with("id,small,big,") && csv.lines().count() == 4, "{csv}");
}

#[test]
fn partitions_are_read_back_by_everybody() {
    let project = project("{ from: t, partition_by: [word, id], row_group_rows: 2, compression: snappy }");
    run(&project).ok();
    let folder = project.path().join("data/exports/edges/out");
    let file = "word=a %22b%22%2Fc%3Dd,%25é/id=2/part-00000.parquet";
    assert!(folder.join(file).is_file(), "{:?}", std::fs::read_dir(&folder).unwrap().collect::<Vec<_>>());
    assert!(folder.join("word=__HIVE_DEFAULT_PARTITION__/id=3/part-00000.parquet").is_file());
    let told = project.rows("SELECT file, rows, left_out FROM edges.out ORDER BY file");
    assert_eq!(told.len(), 3);
    assert!(told.iter().any(|row| row["left_out"] == "word"), "an empty text is not told from NULL: {told:?}");
    let expected = "[(1, '=1+1', 0.1), (2, 'a \"b\"/c=d,%é', nan), (3, None, inf)]";
    for (modules, script) in [
        (
            "duckdb",
            "import duckdb\nprint(duckdb.sql(\"SELECT id, word, ratio FROM read_parquet('@/**/*.parquet', hive_partitioning = true) ORDER BY id\").fetchall())",
        ),
        (
            "polars",
            "import polars\nprint(polars.scan_parquet('@/', hive_partitioning=True).select('id', 'word', 'ratio').sort('id').collect().rows())",
        ),
        (
            "pyarrow.dataset",
            "import pyarrow.dataset as d\nt = d.dataset('@', partitioning=d.partitioning(flavor='hive')).to_table().sort_by('id')\n\
             print([(r['id'], r['word'], r['ratio']) for r in t.to_pylist()])",
        ),
    ] {
        let script = script.replace('@', "data/exports/edges/out");
        if let Some(read) = python(project.path(), modules, &script) {
            assert_eq!(read, expected, "{modules}");
        }
    }
    // Fewer partitions: those that are gone are gone, all at once.
    let text = std::fs::read_to_string(project.path().join("pipelines/edges.yaml")).unwrap();
    project.write("pipelines/edges.yaml", &text.replace("[word, id]", "[flag]"));
    run(&project).ok();
    let mut names: Vec<String> =
        std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().to_str().unwrap().to_string()).collect();
    names.sort();
    assert_eq!(names, ["flag=__HIVE_DEFAULT_PARTITION__", "flag=false", "flag=true"]);
    let actions = project.actions(&["pipelines/edges.yaml"]);
    assert!(actions.iter().all(|(_, action)| action == "cached"), "{actions:?}");
}

#[test]
fn mistakes_in_settings_are_found_before_anything_runs() {
    for (stage, expect) in [
        ("{ from: t, partition_by: [wrod] }", "did you mean `word`?"),
        ("{ from: t, partition_by: [list] }", "cannot be part of a folder's name"),
        ("{ from: t, format: csv, partition_by: [id] }", "`partition_by` is a setting of `format: parquet`"),
        ("{ from: t, format: csv, compression: snappy }", "`snappy` is of Parquet only"),
        ("{ from: t, table: x }", "`table` is a setting of `format: postgres`"),
        ("{ from: t, format: postgres, url_env: PIPE_NO_SUCH }", "environment variable `PIPE_NO_SUCH` is not set"),
        ("{ from: t, format: postgres, table: a.b.c, url: \"postgresql://h\" }", "`a.b.c` is no name of a table"),
        ("{ from: t, format: postgres, url: \"postgresql://h:port\" }", "the address of the database cannot be read"),
        ("{ from: t, format: postgres, url: \"postgresql://u:hunter2@h/d\" }", "`url` has a password"),
    ] {
        let found = project(stage).run(&["check", "pipelines/edges.yaml"]);
        assert_eq!(found.code, Some(2), "{stage}: {}", found.err);
        assert!(found.err.contains(expect) && !found.err.contains("hunter2"), "{stage}\n{}", found.err);
    }
}

/// A project whose stage `out` writes into the server, and its runs.
struct Sending<'a> {
    project: Project,
    server: &'a Server,
}

impl<'a> Sending<'a> {
    fn new(server: &'a Server, stage: &str) -> Sending<'a> {
        Sending { project: project(&format!("{{ from: t, format: postgres, {stage} }}")), server }
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.run_with(&[("PIPE_TEST_DB", self.server.url().as_str())], args)
    }

    fn run_with(&self, vars: &[(&str, &str)], args: &[&str]) -> Ran {
        let args = [&["run", "pipelines/edges.yaml"], args].concat();
        let output = self.project.command(&args).envs(vars.iter().copied()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let ran = Ran { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) };
        assert!(!ran.out.contains(PASSWORD) && !ran.err.contains(PASSWORD), "{}{}", ran.out, ran.err);
        ran
    }

    fn edit(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.project.path().join("pipelines/edges.yaml")).unwrap();
        assert!(text.contains(from), "{from}");
        self.project.write("pipelines/edges.yaml", &text.replace(from, to));
    }
}

#[test]
fn a_table_of_postgres_has_the_rows_types_and_comments() {
    let Some(server) = Server::start() else { return };
    server.ask("CREATE SCHEMA capacity");
    let sending = Sending::new(&server, "table: capacity.edges, url_env: PIPE_TEST_DB");
    sending.run(&[]).ok();
    let rows = server.ask(
        "SELECT id, small, big, ratio, word, flag, day, moment, list, price, hash FROM capacity.edges ORDER BY id",
    );
    assert_eq!(
        rows,
        "1|7|9007199254740993|0.1|=1+1|t|2024-02-29|2024-01-01 12:34:56.789|{1,NULL}|12.5000|18446744073709551611\n\
         2||-5|NaN|a \"b\"/c=d,%é|f|1800-01-01|1999-12-31 23:59:59.123456|{2,NULL}|-1234567890123456.7891|18446744073709551612\n\
         3|-3||Infinity|||||{3,NULL}||18446744073709551613"
    );
    let types = server.ask(
        "SELECT string_agg(format_type(atttypid, atttypmod), ', ' ORDER BY attnum) FROM pg_attribute \
         WHERE attrelid = 'capacity.edges'::regclass AND attnum > 0",
    );
    assert_eq!(
        types,
        "bigint, smallint, bigint, double precision, text, boolean, date, timestamp without time zone, bigint[], numeric, \
         numeric"
    );
    let told = &sending.project.rows("SELECT file, rows, server FROM edges.out")[0];
    assert_eq!(told["file"], "capacity.edges");
    assert_eq!(told["server"], format!("127.0.0.1:{}/postgres", server.port));
    // Units come along as comments.
    let project = Project::new();
    project.write(
        "pipelines/units.yaml",
        &crate::project::SMALL.replace("name: small", "name: units").replace(
            "  metrics:",
            "  db:\n    export: { from: sim_requests, format: postgres, url_env: PIPE_TEST_DB }\n  metrics:",
        ),
    );
    let ran = project.command(&["run", "pipelines/units.yaml"]).env("PIPE_TEST_DB", server.url()).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let ours = &project.rows("SELECT count(*) AS n, sum(e2e_ns) AS s FROM units.sim_requests")[0];
    assert_eq!(server.ask("SELECT count(*), sum(e2e_ns) FROM sim_requests"), format!("{}|{}", ours["n"], ours["s"]));
    let comment = server.ask(
        "SELECT col_description('sim_requests'::regclass, attnum) FROM pg_attribute \
         WHERE attrelid = 'sim_requests'::regclass AND attname = 'e2e_ns'",
    );
    assert!(comment.ends_with("[ns]"), "{comment}");
}

#[test]
fn postgres_tables_are_replaced_appended_to_and_cached() {
    let Some(server) = Server::start() else { return };
    let sending = Sending::new(&server, "table: edges, url_env: PIPE_TEST_DB");
    let count = || server.ask("SELECT count(*), min(id) FROM edges");
    let action = |ran: Ran| {
        let ran = ran.ok();
        let event = |l: &str| serde_json::from_str::<serde_json::Value>(l).unwrap();
        let ended = ran.out.lines().map(event).find(|e| e["event"] == "stage_finished" && e["stage"] == "out").unwrap();
        ended["action"].as_str().unwrap().to_string()
    };
    assert_eq!(action(sending.run(&["--json"])), "ran");
    assert_eq!(count(), "3|1");
    // Cached says that it was sent.
    server.ask("DELETE FROM edges");
    assert_eq!(action(sending.run(&["--json"])), "cached");
    assert_eq!(count(), "0|");
    // It is there: fail is the default.
    let there = sending.run(&["--force", "out"]);
    assert_eq!(there.code, Some(1));
    assert!(
        there.err.contains("`public.edges` is there already") && there.err.contains("mode: replace"),
        "{}",
        there.err
    );
    sending.edit("table: edges,", "table: edges, mode: replace,");
    assert_eq!(action(sending.run(&["--json"])), "ran");
    assert_eq!(count(), "3|1");
    // Other rows, and back: what was sent before is not there any more, so it is sent again.
    sending.edit("SELECT id, small", "SELECT id + 10 AS id, small");
    assert_eq!(action(sending.run(&["--json"])), "ran");
    assert_eq!(count(), "3|11");
    sending.edit("SELECT id + 10 AS id, small", "SELECT id, small");
    assert_eq!(action(sending.run(&["--json"])), "ran");
    assert_eq!(count(), "3|1");
    // Readers see a whole table at any instant.
    let mut child = sending.project.command(&["run", "pipelines/edges.yaml", "--quiet", "--force", "out"]);
    let mut child = child.env("PIPE_TEST_DB", server.url()).spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        assert_eq!(count(), "3|1");
    }
    assert!(child.wait().unwrap().success());
    // A view on the old table is in the way, and named.
    server.ask("CREATE VIEW on_edges AS SELECT id FROM edges");
    let held = sending.run(&["--force", "out"]);
    assert_eq!(held.code, Some(1));
    assert!(held.err.contains("on_edges") && held.err.contains("nothing in the database was changed"), "{}", held.err);
    assert_eq!(count(), "3|1");
    assert_eq!(server.ask("SELECT count(*) FROM pg_class WHERE relname = 'edges__new'"), "0");
    server.ask("DROP VIEW on_edges");
    sending.edit("mode: replace", "mode: append");
    assert_eq!(action(sending.run(&["--json"])), "ran");
    assert_eq!(count(), "6|1");
    server.ask("ALTER TABLE edges ALTER COLUMN small TYPE text");
    let other = sending.run(&["--force", "out"]);
    assert!(other.code == Some(1) && other.err.contains("`small` is text, and here smallint"), "{}", other.err);
    assert_eq!(count(), "6|1");
}

#[test]
fn what_a_database_refuses_is_told_and_changes_nothing() {
    let Some(server) = Server::start() else { return };
    let at = |user: &str, port: u16, database: &str| format!("postgresql://{user}@127.0.0.1:{port}/{database}");
    let url = at("tester", server.port, "postgres");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let check = |url: &str, stage: &str, password: &str, expect: &[&str]| {
        let sending = Sending::new(&server, &format!("url: \"{url}\"{stage}"));
        let ran = sending.run_with(&[("PGPASSWORD", password), ("HOME", "/nonexistent")], &[]);
        assert_eq!(ran.code, Some(1), "{}{}", ran.out, ran.err);
        for part in expect {
            assert!(ran.err.contains(part), "{part}\n{}", ran.err);
        }
    };
    check(&url, "", "wrong-password", &["refuses user `tester`", "PGPASSWORD"]);
    check(&url, "", "", &["asks for the password", "PGPASSWORD"]);
    check(&at("tester", free, "x"), "", PASSWORD, &["cannot reach the server", "refused"]);
    check(&at("tester", server.port, "nosuch"), "", PASSWORD, &["nosuch", "createdb"]);
    check(&url, ", table: nosuch.t", PASSWORD, &["no schema `nosuch`", "CREATE SCHEMA"]);
    server.ask("CREATE VIEW v AS SELECT 1 AS id");
    check(&url, ", table: v, mode: replace", PASSWORD, &["`public.v` is there, and no table"]);
    server.ask("CREATE TABLE t__new (id int); CREATE TABLE t (id int)");
    check(&url, ", mode: replace", PASSWORD, &["`public.t__new` is in the way"]);
    assert_eq!(server.ask("SELECT count(*) FROM t"), "0");
    // A password file that psql would take.
    let file = server.path().join("pgpass");
    std::fs::write(&file, format!("127.0.0.1:*:*:tester:{PASSWORD}\n")).unwrap();
    #[cfg(unix)]
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let sending = Sending::new(&server, &format!("url: \"{url}\", table: by_file"));
    sending.run_with(&[("PGPASSFILE", file.to_str().unwrap())], &[]).ok();
    assert_eq!(server.ask("SELECT count(*) FROM by_file"), "3");
    // What cannot be held.
    let sending = Sending::new(&server, "url_env: PIPE_TEST_DB, table: odd");
    sending.edit("[id, NULL] AS list", "named_struct('a', id) AS list");
    let odd = sending.run(&[]);
    assert!(odd.code != Some(0) && odd.err.contains("column `list` is Struct"), "{}", odd.err);
    assert_eq!(server.ask("SELECT count(*) FROM pg_class WHERE relname = 'odd'"), "0");
}

/// A table that takes each row slowly, and rows on their way into it.
fn slow<'a>(server: &'a Server) -> (Sending<'a>, std::process::Child) {
    server.ask(
        "CREATE TABLE edges (id bigint, word text); \
         CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(20); RETURN NEW; END'; \
         CREATE TRIGGER wait BEFORE INSERT ON edges FOR EACH ROW EXECUTE FUNCTION wait()",
    );
    let sending = Sending::new(server, "table: edges, url_env: PIPE_TEST_DB, mode: append");
    sending.edit("SELECT id, small", "SELECT id, word FROM (SELECT id, small");
    sending.edit("      ORDER BY id\n", "      ) ORDER BY id\n");
    let child = sending
        .project
        .command(&["run", "pipelines/edges.yaml", "--quiet"])
        .env("PIPE_TEST_DB", server.url())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while server.ask(COPYING) == "0" {
        assert!(begun.elapsed() < Duration::from_secs(120), "no rows are sent");
        std::thread::sleep(Duration::from_millis(20));
    }
    (sending, child)
}

const COPYING: &str = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%' AND state = 'active'";

#[test]
fn a_connection_that_is_lost_changes_nothing() {
    let Some(server) = Server::start() else { return };
    let (_sending, child) = slow(&server);
    server.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'COPY%'");
    let ended = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{told}");
    assert!(told.contains("terminating connection") && told.contains("nothing in the database was changed"), "{told}");
    assert_eq!(server.ask("SELECT count(*) FROM edges"), "0");
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_sending() {
    let Some(server) = Server::start() else { return };
    let (_sending, child) = slow(&server);
    let asked = Instant::now();
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let ended = child.wait_with_output().unwrap();
    // Generous, for loaded machines; a row alone takes longer than this.
    assert!(asked.elapsed() < Duration::from_secs(15));
    assert_eq!(ended.status.code(), Some(130));
    // The server was told, and does not wait for the row either.
    while server.ask(COPYING) != "0" {
        assert!(asked.elapsed() < Duration::from_secs(18), "the server goes on");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(server.ask("SELECT count(*) FROM edges"), "0");
}

#[test]
fn servers_are_checked_as_sslmode_says() {
    let Some(server) = Server::start() else { return };
    if !server.has_tls() {
        return;
    }
    let authority = |name: &str| server.path().join(name).to_str().unwrap().to_string();
    let check = |host: &str, mode: &str, roots: &str, expect: Option<&str>| {
        let sending = Sending::new(&server, "url_env: PIPE_TEST_DB, mode: replace");
        let url = server.url().replace("127.0.0.1", host) + "?sslmode=" + mode;
        let mut vars = vec![("PIPE_TEST_DB", url.as_str()), ("HOME", "/nonexistent")];
        if !roots.is_empty() {
            vars.push(("PGSSLROOTCERT", roots));
        }
        let ran = sending.run_with(&vars, &[]);
        match expect {
            None => assert_eq!(ran.code, Some(0), "{host} {mode} {roots}: {}", ran.err),
            Some(text) => assert!(ran.code != Some(0) && ran.err.contains(text), "{host} {mode} {roots}: {}", ran.err),
        }
    };
    let (ours, other) = (authority("ca.crt"), authority("other.crt"));
    check("localhost", "disable", "", None);
    check("localhost", "require", "", None);
    check("localhost", "verify-full", &ours, None);
    check("127.0.0.1", "verify-ca", &ours, None);
    check("127.0.0.1", "verify-full", &ours, Some("no TLS with the server"));
    check("localhost", "require", &other, Some("no TLS with the server"));
    check("localhost", "verify-full", "", Some("PGSSLROOTCERT"));
    check("localhost", "sometimes", "", Some("valid: disable, prefer, require"));
}
