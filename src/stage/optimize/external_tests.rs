//! Commands in place of the simulator, as scripts of the shell.

use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Float64Type;

use crate::stage::simulate::tests::{Bench, Ran, ints};

/// A folder with a script that counts its runs.
struct Script {
    dir: tempfile::TempDir,
}

impl Script {
    fn new(body: &str) -> Script {
        let dir = tempfile::tempdir().unwrap();
        let script = format!("echo run >> {}\n{body}\n", dir.path().join("runs").display());
        std::fs::write(dir.path().join("measure.sh"), script).unwrap();
        Script { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("measure.sh")
    }

    fn runs(&self) -> usize {
        std::fs::read_to_string(self.dir.path().join("runs")).map_or(0, |text| text.lines().count())
    }

    /// A search of it.
    fn search(&self, arguments: &str, rest: &str) -> String {
        format!(
            "
  best:
    optimize:
      external:
        command: [/bin/sh, {}, {arguments}]
{rest}
      space:
        x: {{ int: [0, 20] }}
        mode: [slow, fast]
        page: {{ values: [16, 64], unset: true }}
",
            self.path().display()
        )
    }
}

fn floats(rows: &RecordBatch, column: &str) -> Vec<Option<f64>> {
    rows.column_by_name(column).unwrap().as_primitive::<Float64Type>().iter().collect()
}

fn texts(rows: &RecordBatch, column: &str) -> Vec<Option<String>> {
    rows.column_by_name(column).unwrap().as_string::<i32>().iter().map(|t| t.map(str::to_string)).collect()
}

fn run(bench: &Bench, search: &str) -> Ran {
    assert_eq!(bench.check(search, "best"), []);
    bench.run(search, "best", 2).unwrap()
}

const METRICS: &str = "        metrics: { ms: { json: /latency/ms }, tps: { regex: 'throughput: ([0-9.,]+)' }, n: { file: { path: '{dir}/n.json', json: /n } } }
        concurrency: 2";
const BODY: &str = r#"
echo "warming up {not json"
echo "{ \"latency\": { \"ms\": 1 } }"
cat <<END
{
  "latency": { "ms": $(( ($1 - 7) * ($1 - 7) + 3 )) }
}
END
echo "throughput: 1,0$1.5" >&2
echo "{ \"n\": $# }" > "$3/n.json"
grep -q '"mode":"'$2'"' "$4" || exit 9
"#;

#[test]
fn a_command_is_searched_like_a_simulation_and_its_results_are_remembered() {
    let bench = Bench::new(4, true);
    let script = Script::new(BODY);
    let search = script.search("'{x}', '{mode}', '{dir}', '{config}', ['--page', '{page}']", METRICS)
        + "      minimize: { latency: ms, odd: \"case when mode = 'fast' then 0 else 1 end\" }
      maximize: { tps: tps }
      subject_to: [\"n >= 4\", \"ms < 80\"]
      where: x <> 7
      sampler: random
      trials: 30
";
    let ran = run(&bench, &search);
    assert_eq!(script.runs(), 30);
    let trials = ran.rows("best_trials");
    let (x, latency, tps) = (ints(&trials, "x"), floats(&trials, "latency"), floats(&trials, "tps"));
    let pages = trials.column_by_name("page").unwrap();
    let (state, arguments) = (texts(&trials, "state"), floats(&trials, "c_1"));
    for i in 0..30 {
        assert!(x[i] != 7);
        let ms = ((x[i] - 7) * (x[i] - 7) + 3) as f64;
        assert_eq!((latency[i], tps[i]), (Some(ms), Some(format!("10{}.5", x[i]).parse().unwrap())));
        assert_eq!(state[i].as_deref() == Some("infeasible"), ms >= 80.0, "{ms}");
        // The group of arguments is there where the page is set: six of them, or four.
        assert_eq!(arguments[i], Some((4.0 - if pages.is_null(i) { 4.0 } else { 6.0 }) / 4.0));
    }
    assert!(floats(&trials, "seconds").iter().all(|s| s.unwrap() > 0.0));
    // Nothing is measured twice, not even by a longer search, unless it is told to be.
    let rows = |ran: &Ran| texts(&ran.rows("best_trials"), "scenario");
    let again = run(&bench, &search.replace("trials: 30", "trials: 35"));
    assert_eq!((script.runs(), &rows(&again)[..30]), (35, &rows(&ran)[..]));
    run(
        &bench,
        &search.replace("trials: 30", "trials: 3").replace("concurrency: 2", "concurrency: 2\n        version: b"),
    );
    assert_eq!(script.runs(), 38);
}

#[test]
fn attempts_that_fail_are_repeated_and_trials_that_fail_are_kept_apart() {
    let bench = Bench::new(4, true);
    // Every first attempt fails, odd numbers always do, in three ways.
    let script = Script::new(
        r#"
seen="$(dirname "$0")/seen-$1-$2"
if [ ! -e "$seen" ]; then touch "$seen"; echo "first time" >&2; exit 3; fi
case $1 in
  1|5|9|13|17) echo '{ "ms": "none" }' ;;
  3|7|11|15|19) echo 'nothing to read here' ;;
  *) echo "{ \"ms\": $1 }" ;;
esac
"#,
    );
    let search = script.search("'{x}', '{mode}'", "        metrics: { ms: { json: /ms } }\n        retries: 1")
        + "      minimize: { ms: ms }\n      sampler: sobol\n      trials: 24\n";
    let ran = run(&bench, &search);
    let trials = ran.rows("best_trials");
    let (x, state, error) = (ints(&trials, "x"), texts(&trials, "state"), texts(&trials, "error"));
    for i in 0..24 {
        let why = error[i].clone().unwrap_or_default();
        match x[i] % 4 {
            0 | 2 => assert_eq!((state[i].as_deref(), why.as_str()), (Some("complete"), "")),
            1 => assert!(why.contains("`none` at `/ms` is no number (attempt 2)"), "{why}"),
            _ => assert!(why.contains("no JSON object, but: nothing to read here"), "{why}"),
        }
    }
    assert!(ran.outcome.answer[0].contains(" failed"), "{:?}", ran.outcome.answer);
    let none = search.replace("retries: 1", "retries: 0").replace("measure.sh, ", "measure.sh, other, ");
    let failure = bench.run(&none, "best", 1).err().unwrap().to_string();
    assert!(failure.contains("all 24 trials failed") && failure.contains("first time"), "{failure}");
}

#[test]
fn a_command_that_hangs_is_stopped_with_what_it_started() {
    let bench = Bench::new(4, true);
    let script = Script::new(
        r#"
if [ $1 -ne 2 ]; then sleep 600 & echo $! > "$(dirname "$0")/child"; fi
if [ $1 -gt 10 ]; then wait; fi
echo "{ \"ms\": $1 }"
"#,
    );
    let search = script.search("'{x}'", "        metrics: { ms: { json: /ms } }\n        timeout_s: 0.5")
        + "      minimize: { ms: ms }\n      sampler: grid\n      trials: 3\n      enqueue: [{ x: 20 }, { x: 1 }, { x: 2 }]\n";
    let trials = run(&bench, &search).rows("best_trials");
    let error = texts(&trials, "error");
    assert_eq!(error[0].as_deref(), Some("no answer after 0.5 s"));
    // Something in the background holds the output open: that is an answer, but the child does not stay.
    assert_eq!(error[1].as_deref(), Some("it ended, but something that it started still holds its output open"));
    let child = std::fs::read_to_string(script.dir.path().join("child")).unwrap();
    let stat = std::fs::read_to_string(Path::new("/proc").join(child.trim()).join("stat"));
    // Gone, or a zombie until its parent looks.
    assert!(stat.is_err() || stat.unwrap().contains(") Z "));
}

#[test]
fn mistakes_of_commands_have_a_place() {
    let bench = Bench::new(4, true);
    let script = Script::new("");
    let good = script.search("'{x}'", "        metrics: { ms: { json: /ms } }")
        + "      minimize: { ms: ms }\n      trials: 2\n";
    let case = |from: &str, to: &str| {
        let found = bench.check(&good.replace(from, to), "best");
        found.iter().map(|d| format!("{} | {}", d.message, d.help.clone().unwrap_or_default())).collect::<Vec<_>>()
    };
    assert_eq!(case("", ""), Vec::<String>::new());
    for (from, to, expect) in [
        ("'{x}'", "'{modes}'", "`{modes}` is no parameter of the space | did you mean `{mode}`?"),
        ("'{x}'", "'{x'", "a `{` alone"),
        ("json: /ms", "json: ms", "no JSON pointer"),
        ("{ json: /ms }", "{ regex: 'ms [0-9]+' }", "no group for the number"),
        ("{ json: /ms }", "{ regex: 'ms ([0-9]+' }", "unclosed group"),
        ("minimize: { ms: ms }", "minimize: { ms: mss }", "ms"),
        ("metrics: {", "timeout_s: 0\n        metrics: {", "must be above 0"),
        ("{ ms: { json: /ms } }", "{ x: { json: /ms } }", "`x` is a parameter already"),
        ("trials: 2", "trials: 2\n      over: sim", "either a simulation is varied"),
        ("trials: 2", "trials: 2\n      fidelity: {}", "a command has none"),
        ("trials: 2", "trials: 2\n      known: {}", "either a `table` or a file"),
    ] {
        let found = case(from, to);
        assert!(found.iter().any(|f| f.contains(expect)), "{to}: {found:?}");
    }
}
