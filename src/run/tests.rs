//! Runs of pipelines made of fake stages.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::*;
use crate::plan::Action;
use crate::plan::testing::{Fake, fake, pipeline};
use crate::spec::FilePath;

/// Keeps what it hears.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Events for Heard {
    fn stage_started(&self, name: &str, _kind: &str, reason: &str) {
        self.0.lock().unwrap().push(format!("{name}: {reason}"));
    }
    fn stage_progress(&self, _name: &str, _done: u64, _total: Option<u64>, _what: &str) {}
    fn stage_finished(&self, _name: &str, _action: StageAction, _rows: u64, _millis: u64) {}
    fn warning(&self, text: &str) {
        self.0.lock().unwrap().push(format!("warning: {text}"));
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn go_with(dir: &Path, stages: Vec<(&str, Fake)>, options: RunOptions) -> Result<RunReport> {
    let (pipeline, dag) = pipeline(dir, stages);
    let store = Store::open(dir).unwrap();
    runtime().block_on(run(&pipeline, &dag.unwrap(), &store, options))
}

/// Runs, and says what was done with each stage, and why.
fn go(dir: &Path, stages: Vec<(&str, Fake)>) -> Vec<String> {
    lines(&go_with(dir, stages, RunOptions::default()).unwrap())
}

fn lines(report: &RunReport) -> Vec<String> {
    report.stages.iter().map(|s| format!("{} {:?}: {}", s.name, s.action, s.reason)).collect()
}

fn plan_lines(dir: &Path, stages: Vec<(&str, Fake)>) -> Vec<String> {
    let (pipeline, dag) = pipeline(dir, stages);
    let planned = plan::plan(&pipeline, &dag.unwrap(), &Store::open(dir).unwrap(), &Options::default()).unwrap();
    let line = |s: &plan::Planned| {
        let what = match &s.action {
            Action::Cached(_) => "cached",
            Action::Run { .. } => "run",
            Action::Unknown { .. } => "unknown",
            Action::Skipped => "skipped",
        };
        format!("{} {what}: {}", s.name, s.action.reason())
    };
    planned.stages.iter().map(line).collect()
}

fn chain(rows: &[i64]) -> Vec<(&'static str, Fake)> {
    vec![("a", fake(&[], rows)), ("b", fake(&["a"], &[2])), ("c", fake(&["b"], &[3]))]
}

#[test]
fn what_is_unchanged_comes_from_the_cache_and_reasons_are_named() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(
        plan_lines(dir.path(), chain(&[1])),
        [
            "a run: never ran",
            "b unknown: never ran, input `a` may change: upstream `a` will run",
            "c unknown: never ran, input `b` may change: upstream `b` will run"
        ]
    );
    assert_eq!(go(dir.path(), chain(&[1])), ["a Ran: never ran", "b Ran: never ran", "c Ran: never ran"]);
    let cached = ["a Cached: nothing changed", "b Cached: nothing changed", "c Cached: nothing changed"];
    assert_eq!(go(dir.path(), chain(&[1])), cached);
    assert_eq!(plan_lines(dir.path(), chain(&[1]))[2], "c cached: nothing changed");
    // `b` makes the same rows of another `a`: `c` does not run.
    assert_eq!(
        plan_lines(dir.path(), chain(&[5])),
        [
            "a run: config `rows` changed ([1] -> [5])",
            "b unknown: input `a` may change: upstream `a` will run",
            "c unknown: input `b` may change: upstream `b` will run"
        ]
    );
    assert_eq!(
        go(dir.path(), chain(&[5])),
        ["a Ran: config `rows` changed ([1] -> [5])", "b Ran: input `a` changed", "c Cached: nothing changed"]
    );
    // Back again: the old results are still there.
    assert_eq!(go(dir.path(), chain(&[1])), cached);
}

#[test]
fn a_rerun_of_cached_stages_is_quick() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..10).map(|i| format!("s{i}")).collect();
    let stages = || names.iter().map(|n| (n.as_str(), fake(&[], &[1]))).collect::<Vec<_>>();
    go(dir.path(), stages());
    let times = (0..5).map(|_| go_with(dir.path(), stages(), RunOptions::default()).unwrap().millis);
    let best = times.min().unwrap();
    eprintln!("cached rerun of 10 stages: {best} ms");
    assert!(best < 200, "{best} ms");
}

#[test]
fn inputs_and_answers_arrive() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("in.txt");
    std::fs::write(&file, "1").unwrap();
    let stages = |seen: &Arc<AtomicUsize>| {
        let mut a = fake(&[], &[1, 2]);
        a.files = vec![FilePath { written: "in.txt".into(), path: file.clone(), at: None }];
        let seen = Arc::clone(seen);
        let b = fake(&["a"], &[]).doing(move |cx| {
            seen.store(usize::try_from(cx.inputs["a"].rows).unwrap(), Ordering::SeqCst);
            assert_eq!(cx.recipe, json!({ "rows": [] }));
            Ok(vec![])
        });
        vec![("a", a), ("b", b)]
    };
    let seen = Arc::default();
    let report = go_with(dir.path(), stages(&seen), RunOptions::default()).unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 2);
    assert_eq!(report.answers, [("a".to_string(), vec!["2 rows".to_string()]), ("b".into(), vec!["0 rows".into()])]);
    std::fs::write(&file, "22").unwrap();
    assert_eq!(go(dir.path(), stages(&seen)), ["a Ran: file `in.txt` changed", "b Cached: nothing changed"]);
    let store = Store::open(dir.path()).unwrap();
    let runs = store.runs();
    assert_eq!(runs.len(), 2);
    assert_eq!((runs[0].status, runs[0].inputs[0].file.as_str()), (RunStatus::Finished, "in.txt"));
    assert_eq!(runs[0].stages[0].tables[0].rows, 2);
}

#[test]
fn only_from_and_force_choose_stages() {
    let dir = tempfile::tempdir().unwrap();
    let with = |only: &[&str], from: &[&str], force: &[&str]| {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        RunOptions { only: owned(only), from: owned(from), force: owned(force), ..RunOptions::default() }
    };
    let run = |options| lines(&go_with(dir.path(), chain(&[1]), options).unwrap());
    assert_eq!(run(with(&["b"], &[], &[])), ["a Ran: never ran", "b Ran: never ran", "c Skipped: not selected"]);
    assert_eq!(
        run(with(&["b"], &[], &["b"])),
        ["a Cached: nothing changed", "b Ran: forced", "c Skipped: not selected"]
    );
    assert_eq!(run(with(&[], &["b"], &[]))[2], "c Ran: never ran");
    assert_eq!(run(with(&[], &[], &["all"])), ["a Ran: forced", "b Ran: forced", "c Ran: forced"]);
}

#[test]
fn a_damaged_result_is_reported_and_made_again() {
    let dir = tempfile::tempdir().unwrap();
    go(dir.path(), chain(&[1]));
    let table = dir.path().join("data/tables/p/b");
    let part = std::fs::read_dir(table).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&part).unwrap();
    bytes[10] ^= 1;
    std::fs::write(&part, &bytes).unwrap();
    assert_eq!(plan_lines(dir.path(), chain(&[1]))[1], "b run: result is damaged");
    let heard = Arc::new(Heard::default());
    let options = RunOptions { events: heard.clone(), ..RunOptions::default() };
    let report = go_with(dir.path(), chain(&[1]), options).unwrap();
    assert_eq!(lines(&report)[1..], ["b Ran: result is damaged", "c Cached: nothing changed"]);
    let heard = heard.0.lock().unwrap();
    assert!(heard[0].starts_with("warning: the result of stage `b` is damaged and made again: "), "{heard:?}");
    assert_eq!(heard[1], "b: result is damaged");
}

#[test]
fn a_failure_keeps_what_is_finished_and_names_the_stage() {
    let dir = tempfile::tempdir().unwrap();
    let stages = |fails: bool| {
        let b = fake(&["a"], &[2]).doing(move |_| {
            assert!(!fails, "an invariant");
            Ok(vec![2])
        });
        vec![("a", fake(&[], &[1])), ("b", b), ("c", fake(&["b"], &[3]))]
    };
    let failure = go_with(dir.path(), stages(true), RunOptions::default()).unwrap_err();
    assert_eq!(failure.exit, Exit::Stage);
    assert_eq!(failure.to_string(), "stage `b` failed because of a bug in pipe: an invariant");
    let record = Store::open(dir.path()).unwrap().runs().remove(0);
    let actions: Vec<StageAction> = record.stages.iter().map(|s| s.action).collect();
    assert_eq!(actions, [StageAction::Ran, StageAction::Failed, StageAction::Skipped]);
    assert_eq!(record.status, RunStatus::Failed);
    assert_eq!(std::fs::read_dir(dir.path().join("data/store/tmp")).unwrap().count(), 0);
    assert_eq!(go(dir.path(), stages(false)), ["a Cached: nothing changed", "b Ran: never ran", "c Ran: never ran"]);
}

#[test]
fn a_failure_stops_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let waits = fake(&[], &[]).doing(|cx| {
        loop {
            cx.cancel.check()?;
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let fails = fake(&[], &[]).doing(|_| Err(Failure::stage("x", "no luck")));
    let options = RunOptions { jobs: 2, ..RunOptions::default() };
    let failure = go_with(dir.path(), vec![("waits", waits), ("fails", fails)], options).unwrap_err();
    assert_eq!(failure.to_string(), "stage `fails`: no luck");
    let record = Store::open(dir.path()).unwrap().runs().remove(0);
    assert_eq!(record.stages[0].action, StageAction::Interrupted);
}

#[test]
fn interrupted_it_returns_within_a_second() {
    for polls in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let options = RunOptions::default();
        let cancel = options.cancel.clone();
        let stage = fake(&[], &[]).doing(move |cx| {
            cancel.cancel();
            for _ in 0..300 {
                std::thread::sleep(Duration::from_millis(5));
                if polls {
                    cx.cancel.check()?;
                }
            }
            Ok(vec![])
        });
        let (pipeline, dag) = pipeline(dir.path(), vec![("slow", stage), ("next", fake(&["slow"], &[]))]);
        let store = Store::open(dir.path()).unwrap();
        let runtime = runtime();
        let begun = Instant::now();
        let failure = runtime.block_on(run(&pipeline, &dag.unwrap(), &store, options)).unwrap_err();
        assert!(begun.elapsed() < Duration::from_millis(1300), "{:?}", begun.elapsed());
        assert_eq!(failure.exit, Exit::Interrupted);
        assert_eq!(store.runs()[0].status, RunStatus::Interrupted);
        // A thread that still computes keeps others out.
        assert_eq!(store.lock().is_ok(), polls);
    }
}

#[test]
fn a_violated_assertion_fails_the_run_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let stages = || {
        let mut a = fake(&[], &[1]);
        a.violated = Some("p99 too high".into());
        vec![("a", a), ("b", fake(&["a"], &[2]))]
    };
    for _ in 0..2 {
        let report = go_with(dir.path(), stages(), RunOptions::default()).unwrap();
        assert_eq!(report.exit(), Exit::Slo);
        assert_eq!(report.violated, [("a".to_string(), "p99 too high".to_string())]);
    }
    assert!(dir.path().join("data/tables/p/b").exists());
    assert_eq!(Store::open(dir.path()).unwrap().runs()[0].status, RunStatus::Violated);
}

#[test]
fn removed_and_renamed_stages_leave_no_tables_behind() {
    let dir = tempfile::tempdir().unwrap();
    go(dir.path(), chain(&[1]));
    let renamed = vec![("x", fake(&[], &[1]))];
    assert_eq!(go(dir.path(), renamed), ["x Cached: nothing changed"]);
    let tables: Vec<String> = Store::open(dir.path()).unwrap().published().into_iter().map(|p| p.table).collect();
    assert_eq!(tables, ["x"]);
    assert_eq!(std::fs::read_dir(dir.path().join("data/tables/p")).unwrap().count(), 1);
}

#[test]
fn stages_with_one_recipe_share_one_result() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..8).map(|i| format!("s{i}")).collect();
    let stages = names.iter().map(|n| (n.as_str(), fake(&[], &[1]))).collect();
    let report = go_with(dir.path(), stages, RunOptions { jobs: 8, ..RunOptions::default() }).unwrap();
    assert!(report.stages.iter().all(|s| s.fingerprint == report.stages[0].fingerprint));
    assert_eq!(Store::open(dir.path()).unwrap().published().len(), 8);
}

/// A terminal that is closed.
struct Broken;

impl Events for Broken {
    fn stage_started(&self, _name: &str, _kind: &str, _reason: &str) {
        panic!("closed");
    }
    fn stage_progress(&self, _name: &str, _done: u64, _total: Option<u64>, _what: &str) {
        panic!("closed");
    }
    fn stage_finished(&self, _name: &str, _action: StageAction, _rows: u64, _millis: u64) {
        panic!("closed");
    }
    fn warning(&self, _text: &str) {
        panic!("closed");
    }
}

#[test]
fn a_listener_that_fails_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = RunOptions { events: Arc::new(Broken), ..RunOptions::default() };
    let report = go_with(dir.path(), chain(&[1]), options).unwrap();
    assert_eq!(lines(&report), ["a Ran: never ran", "b Ran: never ran", "c Ran: never ran"]);
}
