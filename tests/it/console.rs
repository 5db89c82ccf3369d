//! `pipe sql` as a console, over a pseudo-terminal and over pipes.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::project::{Project, Ran};
use crate::serving::{has_python, small};

/// Runs with text on standard input.
fn piped(project: &Project, args: &[&str], input: &str) -> Ran {
    let mut command = project.command(args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    // A command that fails early does not read it all.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let out = child.wait_with_output().expect("it ends");
    Ran {
        code: out.status.code(),
        out: String::from_utf8_lossy(&out.stdout).into_owned(),
        err: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// Drives the console through `steps`, and returns everything that it printed. It has to leave with 0.
#[track_caller]
fn drive(project: &Project, environment: &[(&str, &str)], steps: &[(&str, &str)]) -> String {
    let job = json!({ "command": [env!("CARGO_BIN_EXE_pipe"), "sql"], "steps": steps });
    let out = Command::new("python3")
        .args(["-c", include_str!("terminal.py"), &job.to_string()])
        .current_dir(project.path())
        .env_remove("PIPE_ROOT")
        .env_remove("PIPE_HISTORY")
        .env("TERM", "xterm")
        .env("XDG_STATE_HOME", project.path().join("state"))
        .envs(environment.iter().copied())
        .output()
        .expect("python3 starts");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{}{text}", String::from_utf8_lossy(&out.stderr));
    let (code, printed) = text.split_once('\n').expect("a line");
    assert_eq!(code, "0", "{printed}");
    printed.to_string()
}

#[test]
fn a_console() {
    if !has_python(&["pty"]) {
        return;
    }
    let project = small();
    let long = "SELECT count(*) FROM generate_series(1, 100000000000);\r";
    let printed = drive(
        &project,
        &[],
        &[
            ("expect", "pipe> "),
            ("send", "SELECT 6 * 7 AS answer;\r"),
            ("expect", "| 42 "),
            ("expect", "(1 row)"),
            // On and on until the semicolon.
            ("send", "SELECT 20 +\r"),
            ("send", "3 AS n;\r"),
            ("expect", "| 23 "),
            // The rest of a name, of a command, and of a column of the table that is named.
            ("send", "SELECT count(*) FROM sim_req\t;\r"),
            ("expect", "| 1200 "),
            ("send", "\\tim\t\r"),
            ("expect", "timing is on"),
            ("send", "SELECT 1 + (SELECT count(*) FROM sim_requests WHERE ttft_\t >= 0) AS n;\r"),
            ("expect", "| 1201 "),
            ("expect", "Time: "),
            ("send", "\\d small.sim_requests\r"),
            ("expect", "small.sim_requests: 1,200 rows"),
            ("expect", "ttft_ns"),
            // A line that is not wanted, a query that takes too long, a mistake: the console goes on.
            ("expect", "pipe> "),
            ("send", "SELECT nonsense"),
            ("expect", "nonsense"),
            ("send", "\x03"),
            ("expect", "pipe> "),
            ("send", "SELECT 30 + 4 AS n;\r"),
            ("expect", "| 34 "),
            ("send", long),
            ("interrupt", "interrupted"),
            ("send", "SELECT 40 + 5 AS n;\r"),
            ("expect", "| 45 "),
            ("send", "SELECT scenario_idd FROM sim;\r"),
            ("expect", "did you mean `scenario_id`?"),
            ("send", "SELECT value FROM generate_series(1, 1000000);\r"),
            ("expect", "| 20 "),
            ("expect", "| 999981 "),
            ("expect", "(1,000,000 rows; 40 shown"),
            ("send", "SELECT * FROM sim;\r"),
            ("expect", "columns shown"),
            ("send", "\\x auto\r"),
            ("expect", "expanded is auto"),
            ("send", "SELECT * FROM sim LIMIT 1;\r"),
            ("expect", "-[ RECORD 1 ]"),
            ("send", "\\c smal\r"),
            ("expect", "did you mean `small`?"),
            ("send", "\\c small\r"),
            ("expect", "pipe:small> "),
            ("send", "SELECT 50 + 6 AS last;\r"),
            ("expect", "| 56 "),
            ("expect", "pipe:small> "),
            ("send", "\x04"),
        ],
    );
    assert!(!printed.contains("| 21 "), "{printed}");

    // What was typed is remembered, for this user alone.
    let file = project.path().join("state/pipe/history");
    let history = std::fs::read_to_string(&file).expect("a history");
    assert!(history.contains("SELECT 6 * 7 AS answer;") && history.contains("SELECT 20 +\\n3 AS n;"), "{history}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    }
    drive(&project, &[], &[("expect", "pipe> "), ("send", "\x1b[A\r"), ("expect", "| 56 "), ("send", "\\q\r")]);
}

#[test]
fn a_console_without_history() {
    if !has_python(&["pty"]) {
        return;
    }
    let project = Project::new();
    let steps = [("expect", "pipe> "), ("send", "SELECT 6 * 7 AS n;\r"), ("expect", "| 42 "), ("send", "quit\r")];
    drive(&project, &[("PIPE_HISTORY", "")], &steps);
    assert!(!project.path().join("state").exists());
    drive(&project, &[("PIPE_HISTORY", "mine")], &steps);
    assert!(std::fs::read_to_string(project.path().join("mine")).expect("a history").contains("SELECT 6 * 7"));
}

#[test]
fn a_console_watches() {
    if !has_python(&["pty"]) {
        return;
    }
    let project = Project::new();
    let steps = [
        ("expect", "pipe> "),
        ("send", "SELECT 6 * 7 AS n \\watch 0.01\r"),
        ("expect", "| 42 "),
        ("expect", "| 42 "),
        ("interrupt", "pipe> "),
        ("send", "SELECT 40 + 3 AS n;\r"),
        ("expect", "| 43 "),
        ("expect", "pipe> "),
        ("send", "\x04"),
    ];
    drive(&project, &[], &steps);
}

#[test]
fn statements_by_a_pipe() {
    let project = small();
    let csv = ["sql", "--format", "csv"];
    // Input, exit code, output, and a part of what is said besides.
    let cases = [
        ("", 0, "", ""),
        ("-- nothing\n;;", 0, "", ""),
        ("SELECT 1 AS a; SELECT\n2 AS b", 0, "a\n1\nb\n2\n", ""),
        ("SELECT ';' AS a; -- ;\nSELECT 2 /* ; */ AS b;", 0, "a\n;\nb\n2\n", ""),
        ("SELECT 1 AS a;\n\n SELECT x FROM sim;\nSELECT 3 AS c;", 2, "a\n1\n", "--> <stdin>:3:9"),
        ("SELECT 1 AS a; SELECT 2 AS b FORM sim;", 2, "a\n1\n", "--> <stdin>:1:"),
        (
            "SELECT 1 AS a;\nSELECT 1 / (value - value) AS b FROM generate_series(1, 2);",
            1,
            "a\n1\nb\n",
            "--> <stdin>:2:1",
        ),
        ("DROP TABLE sim;", 2, "", "queries only read"),
        ("SELECT 1 AS a;\n\\q\nSELECT 2 AS b;", 0, "a\n1\n", ""),
        ("\\tming\nSELECT 1 AS a;", 2, "", "did you mean `\\timing`?"),
        ("SELECT 1 AS a \\g\n\\g", 0, "a\n1\na\n1\n", ""),
        ("SELECT 1 AS a \\r\nSELECT 2 AS b;", 0, "b\n2\n", ""),
        ("\\f jsonl\nSELECT 1 AS a;", 0, "{\"a\":1}\n", "format is jsonl"),
        ("\\timing\nSELECT 1 AS a;", 0, "a\n1\n", "Time: "),
        ("\\g", 2, "", "no statement"),
    ];
    for (input, code, out, err) in cases {
        let ran = piped(&project, &csv, input);
        assert_eq!((ran.code, ran.out.as_str()), (Some(code), out), "{input:?}: {}", ran.err);
        assert!(ran.err.contains(err), "{input:?}: {}", ran.err);
    }
    let ran = piped(
        &project,
        &["sql", "--format", "csv", "--keep-going"],
        "SELECT x;\nSELECT 1 AS a;\n\\nope\nSELECT 2 AS b;",
    );
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), "a\n1\nb\n2\n"), "{}", ran.err);
    assert_eq!(ran.err.matches("error[").count(), 2, "{}", ran.err);
}

#[test]
fn commands_by_a_pipe() {
    let project = small();
    project.write("queries/views/v_fast.sql", "SELECT scenario_id FROM sim_requests WHERE ttft_ns < 1000000000");
    project.write("queries/views/v_none.sql", "SELECT * FROM not_there");
    project.write("inner.sql", "SELECT 1 AS inner_one;\n\\q\nSELECT 2 AS after_the_end;");
    project.write("wrong.sql", "\n SELECT wrong;");
    project.write("circle.sql", "\\i circle.sql");
    let cases: &[(&str, &[&str])] = &[
        ("\\d", &["small.sim_requests", "1,200", "small.v_fast", "unavailable"]),
        ("\\d sim_requests", &["small.sim_requests: 1,200 rows", "ttft_ns", "Int64", "made by  stage `sim`"]),
        ("\\d v_fast", &["queries/views/v_fast.sql", "scenario_id", "WHERE ttft_ns"]),
        ("\\d v_none", &["unavailable", "not_there"]),
        ("\\d *_requests", &["small.sim_requests"]),
        ("\\dt met*", &["small.metrics"]),
        ("\\dt zzz*", &["no tables like `zzz*`"]),
        ("\\dv", &["small.v_none"]),
        ("\\dn", &["small"]),
        ("\\df", &["quantile(x, q[, method])", "histogram(x, lo, hi, n)", "tokens_per_s(tokens, ns)"]),
        ("\\df quantile", &["numpy", "quantile(ttft_ns, 0.99)"]),
        ("\\df array_rep*", &["array_repeat(element, count)"]),
        ("\\df quantil", &["did you mean `quantile`?"]),
        ("\\?", &["\\watch", "Ctrl-D"]),
        ("\\pset", &["format is table", "timing is off"]),
        ("\\i inner.sql\nSELECT 3 AS after;", &["inner_one", "after"]),
    ];
    for (input, expect) in cases {
        let ran = piped(&project, &["sql"], input).ok();
        for part in *expect {
            assert!(ran.out.contains(part), "{input}: no `{part}` in:\n{}", ran.out);
        }
        assert!(!ran.out.contains("after_the_end"), "{}", ran.out);
    }
    let mistakes = [
        ("\\d sim_request", "did you mean `sim_requests`?"),
        ("\\i nowhere.sql", "cannot open nowhere.sql"),
        ("\\i wrong.sql", "--> wrong.sql:2:9"),
        ("\\i circle.sql", "include each other"),
        ("\\c smal", "did you mean `small`?"),
        ("\\o nowhere/x.csv", "nowhere/x.csv"),
        ("\\o x.parquet\n\\f parquet\nSELECT 1 AS a; SELECT 2 AS a;", "has a result already"),
    ];
    for (input, expect) in mistakes {
        let ran = piped(&project, &["sql"], input);
        assert_ne!(ran.code, Some(0), "{input}");
        assert!(ran.err.contains(expect), "{input}: {}", ran.err);
    }
    let ran =
        piped(&project, &["sql"], "\\f csv\n\\o out.csv\nSELECT 1 AS a;\nSELECT 2 AS b;\n\\o\nSELECT 3 AS c;").ok();
    assert_eq!(ran.out, "c\n3\n");
    assert_eq!(std::fs::read_to_string(project.path().join("out.csv")).expect("a file"), "a\n1\nb\n2\n");
}

#[test]
fn scripts_and_files() {
    let project = small();
    project.write("q.sql", "SELECT 1 AS a;\n\\f jsonl\nSELECT 2 AS b;\n");
    assert_eq!(project.run(&["sql", "-f", "q.sql", "--format", "csv"]).ok().out, "a\n1\n{\"b\":2}\n");
    assert_eq!(piped(&project, &["sql", "-f", "-", "--format", "csv"], "SELECT 1 AS a").ok().out, "a\n1\n");

    let query = "SELECT * FROM (VALUES (1, 'a|b', 0.5), (2, NULL, -1.0)) AS t(n, word, x) ORDER BY n";
    let formats = [
        ("tsv", "n\tword\tx\n1\ta|b\t0.5\n2\t\t-1.0\n"),
        ("jsonl", "{\"n\":1,\"word\":\"a|b\",\"x\":0.5}\n{\"n\":2,\"word\":null,\"x\":-1.0}\n"),
        ("markdown", "| n | word | x |\n| ---: | --- | ---: |\n| 1 | a\\|b | 0.5 |\n| 2 |  | -1.0 |\n"),
        (
            "vertical",
            "-[ RECORD 1 ]\nn    | 1\nword | a|b\nx    | 0.5\n-[ RECORD 2 ]\nn    | 2\nword | \nx    | -1.0\n",
        ),
    ];
    for (format, expect) in formats {
        assert_eq!(project.run(&["sql", query, "--format", format]).ok().out, expect, "{format}");
    }

    let path = project.path().join("rows.csv");
    project.run(&["sql", query, "--output", "rows.csv"]).ok();
    assert!(std::fs::read_to_string(&path).expect("a file").starts_with("n,word,x\n1,a|b,0.5\n"));
    project.run(&["sql", query, "--output", "rows.parquet", "--timing"]).ok();
    assert!(std::fs::read(project.path().join("rows.parquet")).expect("a file").starts_with(b"PAR1"));
    // A query that fails on the way leaves what was there, and nothing else.
    let failing = "SELECT 1 / (1000000 - value) FROM generate_series(1, 1000000)";
    assert_eq!(project.run(&["sql", failing, "-o", "rows.csv"]).code, Some(1));
    assert!(std::fs::read_to_string(&path).expect("a file").starts_with("n,word,x\n"));
    let left = std::fs::read_dir(project.path()).expect("a folder").flatten();
    assert!(left.into_iter().all(|e| !e.file_name().to_string_lossy().starts_with(".pipe-")));
    project.run(&["sql", query, "--output", "/dev/null"]).ok();
    assert!(project.run(&["sql", query, "--watch", "0"]).code == Some(2));
}

#[test]
#[cfg(unix)]
fn watching() {
    let project = small();
    let query = "SELECT count(*) AS n FROM sim_requests";
    let start = || {
        let mut command = project.command(&["sql", query, "--format", "csv", "--watch", "0.05"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts")
    };
    let mut child = start();
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map(|l| l.expect("a line"));
    assert_eq!(
        [lines.next(), lines.next(), lines.next(), lines.next()],
        ["n", "1200", "n", "1200"].map(|l| Some(l.into()))
    );
    project.run(&["run", "pipelines/small.yaml", "--set", "stages.trace.synthesize.requests=100"]).ok();
    assert!(lines.any(|l| l == "600"), "the tables are those that were published last");
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill starts");
    assert!(interrupted.success());
    assert_eq!(lines.find(|l| l != "n" && l != "600"), None);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));

    // It also ends when nobody reads any more.
    let mut child = start();
    let mut first = [0; 2];
    child.stdout.take().expect("a pipe").read_exact(&mut first).expect("a line");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}
