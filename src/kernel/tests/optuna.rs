//! Journal files against Optuna itself: it reads, resumes, copies and shows what is written here, and what it writes is
//! read here as it reads it.
//!
//! Needs Python with Optuna and optuna-dashboard: that of the machine if it has them, or else a virtual environment
//! that is made once under the target folder, from the package index. Without either the tests say that they are
//! skipped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use pipe_kernel::tune::journal::{
    FAIL_REASON, ImportedStudy, Names, ObjectiveInfo, RULES_BROKEN, RUNG, Report, State, StudyRecord, TrialRecord,
    export, import, import_all,
};
use pipe_kernel::tune::{
    Domain, OnViolation, Outcome, Parameter, Rules, SamplerSpec, Settings, Space, Study, Suggestion, Trial,
};
use serde_json::{Map, Value, json};

/// What the tests need.
const PACKAGES: [&str; 2] = ["optuna>=5,<6", "optuna-dashboard>=0.20"];
const START_US: i64 = 1_795_385_158_477_102;

/// A Python that has Optuna; `None` where there is none, and none can be made.
fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    PYTHON.get_or_init(find_python).as_deref()
}

fn find_python() -> Option<PathBuf> {
    let has = |python: &Path| {
        let check = "import optuna, optuna_dashboard; assert int(optuna.__version__.split('.')[0]) >= 5";
        Command::new(python).args(["-c", check]).output().is_ok_and(|out| out.status.success())
    };
    let system = PathBuf::from("python3");
    if has(&system) {
        return Some(system);
    }
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("optuna");
    let own = venv.join("bin/python");
    if has(&own) {
        return Some(own);
    }
    let ran = |command: &mut Command| command.output().is_ok_and(|out| out.status.success());
    let install =
        ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "20"];
    let made = ran(Command::new(&system).args(["-m", "venv", "--clear"]).arg(&venv))
        && ran(Command::new(&own).args(install).args(PACKAGES))
        && has(&own);
    if !made {
        eprintln!("skipped: python3 has no optuna, and the package index does not give it");
    }
    made.then_some(own)
}

/// Runs the script; what it prints.
fn optuna(python: &Path, arguments: &[&str]) -> Value {
    // Asked when the test runs: clones that share a target folder share its binaries.
    let kernel = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the crate is");
    let script = Path::new(&kernel).join("../../tests/interop/optuna_journal.py");
    let out = Command::new(python).arg(script).args(arguments).output().expect("python starts");
    assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("JSON")
}

/// A file of its own, with nothing of an earlier run about it.
fn file(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.log", std::process::id()));
    remove(&path);
    path
}

fn remove(path: &Path) {
    for end in ["", ".lock"] {
        let _ = std::fs::remove_file(format!("{}{end}", path.display()));
    }
}

fn read(path: &Path, study: &str) -> ImportedStudy {
    let file = std::fs::File::open(path).expect("a journal");
    import(std::io::BufReader::new(file), Some(study)).expect("a study")
}

fn domain(values: Value) -> Domain {
    Domain::list(values.as_array().expect("a list").clone()).expect("a domain")
}

/// Every kind of domain, and parameters with a condition. Optuna can have all of it but the steps of some floats:
/// those only where `steps` says so.
fn space(steps: bool) -> Space {
    let int = |low, high, log, step| Domain::int(low, high, log, step).expect("a domain");
    let float = |low, high, log, step| Domain::float(low, high, log, step).expect("a domain");
    let mut parameters = vec![
        Parameter::new("engine.attention_backend", domain(json!([null, "fa3", "triton"]))),
        Parameter::new("engine.chunked_prefill_size", domain(json!([null, 512, 2048, 8192.5]))),
        Parameter::new("engine.pools", domain(json!([[1, 2], {"prefill": null}, true, 1, "[1,2]"]))),
        Parameter::new("engine.overlap", Domain::boolean()),
        Parameter::new("deployment.tp", int(1, 64, true, None)),
        Parameter::new("deployment.pp", int(1, 12, true, Some(5))),
        Parameter::new("limit", int(-4, 8, false, Some(4)).or_unset()),
        Parameter::new("share", float(0.1, 0.95, false, Some(0.1))),
        Parameter::new("rate", float(1e-6, 2.0, true, None))
            .when("engine.attention_backend", vec![json!("fa3"), Value::Null]),
        Parameter::new("burst", Domain::ordered(vec![json!("low"), json!("high")]).expect("a domain"))
            .when("engine.attention_backend", vec![json!("fa3")]),
    ];
    if steps {
        parameters.push(Parameter::new("third", float(0.0, 1.0, false, Some(1.0 / 3.0))));
        parameters.push(Parameter::new("wide", float(0.0, 1e7, false, Some(0.5))));
    }
    Space::new(parameters).expect("a space")
}

struct AtMost64;

impl Rules for AtMost64 {
    fn broken(&self, points: &[Vec<Value>]) -> Vec<u64> {
        let cards = |p: &[Value]| p[4].as_i64().unwrap_or(1) * p[5].as_i64().unwrap_or(1);
        points.iter().map(|p| u64::from(cards(p) > 64) << 1).collect()
    }
}

/// The trials of a random search: some illegal, failed, pruned, infeasible.
fn trials(space: &Space, count: u64, objectives: usize) -> Vec<TrialRecord> {
    let settings = Settings { seed: 5, objectives, on_violation: OnViolation::Prune, ..Settings::default() };
    let mut study = Study::new(space.clone(), &SamplerSpec::Random, settings).expect("a study");
    let mut told = Vec::new();
    for number in 0..count {
        let suggestion = study.ask(1, &AtMost64).remove(0);
        let report = report(&suggestion, objectives);
        study.tell(Trial { number, values: suggestion.values.clone(), outcome: Outcome::Failed });
        told.push(TrialRecord { values: suggestion.values, report });
    }
    told
}

fn report(suggestion: &Suggestion, objectives: usize) -> Report {
    let n = suggestion.number as i64;
    let x = |i: usize| ((n * 7 + i as i64 * 3) % 11) as f64 / 3.0 - 1.0;
    let values: Vec<f64> = (0..objectives).map(x).collect();
    let state = match n % 7 {
        _ if suggestion.broken != 0 => State::Illegal { broken: vec!["cards".to_owned(); 2] },
        3 => State::Failed { reason: "out of memory".to_owned() },
        4 => State::Pruned { rung: 2, objectives: values },
        5 => State::Pruned { rung: 4, objectives: Vec::new() },
        _ => State::Complete { objectives: values },
    };
    let ran = matches!(state, State::Complete { .. } | State::Pruned { .. });
    let late = (n % 4) as f64 - 2.0;
    let last = if n % 7 == 5 { 7.5 } else { x(0) };
    Report {
        constraints: if ran { vec![("ttft_p99".to_owned(), late), ("b:c".to_owned(), -1e-9)] } else { Vec::new() },
        intermediate: if ran && objectives == 1 { vec![(0, 9.5), (1, 1e-7), (2, last)] } else { Vec::new() },
        state,
        started_us: Some(START_US + n * 1_000_003),
        finished_us: Some(START_US + n * 1_000_003 + 999_999),
        attributes: Map::from_iter([("seed".to_owned(), json!(n)), ("detail".to_owned(), json!({"é\n": [null, 0.1]}))]),
    }
}

/// What Optuna should see of a trial, in the words of the script.
fn seen(space: &Space, number: usize, trial: &TrialRecord) -> Value {
    let Report { state, constraints, intermediate, started_us, finished_us, attributes } = &trial.report;
    let mut attributes = attributes.clone();
    let mut constraints: Map<String, Value> = constraints.iter().map(|(name, x)| (name.clone(), json!(x))).collect();
    let (name, values) = match state {
        State::Complete { objectives } => ("COMPLETE", json!(objectives)),
        State::Pruned { rung, objectives } => {
            if *rung != 2 || intermediate.is_empty() {
                attributes.insert(RUNG.to_owned(), json!(rung));
            }
            ("PRUNED", if objectives.is_empty() { Value::Null } else { json!(objectives) })
        }
        State::Illegal { broken } => {
            attributes.insert(RULES_BROKEN.to_owned(), json!(broken));
            constraints.insert(RULES_BROKEN.to_owned(), json!(broken.len() as f64));
            ("PRUNED", Value::Null)
        }
        State::Failed { reason } => {
            attributes.insert(FAIL_REASON.to_owned(), json!(reason));
            ("FAIL", Value::Null)
        }
    };
    let mut params = Map::new();
    for (parameter, value) in space.parameters().iter().zip(&trial.values) {
        let numbers = ["deployment.tp", "deployment.pp", "limit", "share", "third", "wide", "rate"];
        let mode = &trial.values[0];
        let exists = match parameter.path.as_str() {
            "rate" => *mode != json!("triton"),
            "burst" => *mode == json!("fa3"),
            _ => true,
        };
        if exists && !(value.is_null() && numbers.contains(&parameter.path.as_str())) {
            let text = match value {
                Value::Array(_) => json!("[1,2] "),
                Value::Object(_) => json!("{\"prefill\":null}"),
                _ if parameter.path == "engine.pools" && *value == json!(1) => json!("1"),
                _ => value.clone(),
            };
            params.insert(parameter.path.clone(), text);
        }
    }
    let steps: Map<String, Value> = intermediate.iter().map(|(step, x)| (step.to_string(), json!(x))).collect();
    json!({
        "number": number, "state": name, "params": params, "values": values, "constraints": constraints,
        "intermediate": steps, "attributes": attributes, "started_us": started_us, "finished_us": finished_us,
    })
}

fn check(objectives: &[(&str, bool)], count: u64, steps: bool) {
    let Some(python) = python() else { return };
    let space = space(steps);
    let study = StudyRecord {
        name: "serving \"α\"".to_owned(),
        objectives: objectives
            .iter()
            .map(|(name, maximize)| ObjectiveInfo { name: (*name).to_owned(), maximize: *maximize })
            .collect(),
        space: &space,
        trials: trials(&space, count, objectives.len()),
        attributes: Map::from_iter([("sampler".to_owned(), json!("random")), ("seed".to_owned(), json!(5))]),
    };
    let path = file(&format!("export-{}", objectives.len()));
    let mut out = std::io::BufWriter::new(std::fs::File::create(&path).expect("a file"));
    export(&study, &mut out).expect("a journal");
    drop(out);

    let of = |f: fn(&State) -> bool| study.trials.iter().filter(|t| f(&t.report.state)).count();
    let complete = of(|s| matches!(s, State::Complete { .. }));
    let (illegal, failed) = (of(|s| matches!(s, State::Illegal { .. })), of(|s| matches!(s, State::Failed { .. })));
    let pruned = of(|s| matches!(s, State::Pruned { .. })) + illegal;
    assert!(complete > 10 && illegal > 3 && failed > 2 && pruned > illegal, "{complete} {illegal} {failed} {pruned}");
    let best = best(&study);
    let text = |n: usize| n.to_string();
    let mut arguments = vec!["check", path.to_str().expect("a path"), &study.name, "--resume", "3", "--copy"];
    let (trials, complete, pruned, failed) = (text(study.trials.len()), text(complete), text(pruned), text(failed));
    let counted = text(best.len());
    arguments.extend(["--dashboard", "--trials", &trials, "--complete", &complete, "--pruned", &pruned]);
    arguments.extend(["--fail", &failed, "--best", &counted]);
    let told = optuna(python, &arguments);

    let before = &told["before"];
    assert_eq!(before["name"], json!(study.name));
    assert_eq!(before["maximize"], json!(objectives.iter().map(|(_, maximize)| maximize).collect::<Vec<_>>()));
    assert_eq!(before["metric_names"], json!(objectives.iter().map(|(name, _)| name).collect::<Vec<_>>()));
    assert_eq!(before["attributes"], Value::Object(study.attributes.clone()));
    assert_eq!(before["best"], json!(best));
    for (number, trial) in study.trials.iter().enumerate() {
        assert_eq!(before["trials"][number], seen(&space, number, trial));
    }

    // What Optuna added is read with the rest, and all of it are points of the space.
    let back = read(&path, &study.name);
    agrees(&back, &told["after"]);
    assert_eq!((&back.objectives, &back.attributes), (&study.objectives, &study.attributes));
    let none = BTreeMap::new();
    let fitted = back.fit(&Names::new(&space, &none).expect("names"));
    let (earlier, later) = fitted.trials.split_at(study.trials.len());
    for ((number, trial), expect) in earlier.iter().zip(&study.trials) {
        assert_eq!(trial, expect, "trial {number}");
    }
    // Optuna knows `third` and `wide` without their steps: so its points are none of the space.
    let outside = |reason: &String| reason.starts_with("third cannot be") || reason.starts_with("wide cannot be");
    assert!(fitted.misfits.iter().flat_map(|misfit| &misfit.reasons).all(outside), "{:?}", fitted.misfits);
    assert_eq!((later.len(), fitted.misfits.len()), if steps { (0, 3) } else { (3, 0) });
    remove(&path);
}

/// Numbers of the complete trials that meet all constraints and are not dominated.
fn best(study: &StudyRecord) -> Vec<usize> {
    let least = |trial: &TrialRecord| match trial.report.outcome(&study.objectives) {
        Outcome::Complete { objectives, violation } if violation <= 0.0 => Some(objectives),
        _ => None,
    };
    let all: Vec<(usize, Vec<f64>)> =
        study.trials.iter().enumerate().filter_map(|(i, t)| Some((i, least(t)?))).collect();
    let beats = |a: &[f64], b: &[f64]| a != b && a.iter().zip(b).all(|(a, b)| a <= b);
    let free = all.iter().filter(|(_, x)| !all.iter().any(|(_, y)| beats(y, x)));
    free.map(|(number, _)| *number).collect()
}

/// What was read is what Optuna sees.
fn agrees(study: &ImportedStudy, told: &Value) {
    let number = |x: &f64| match x {
        x if x.is_nan() => json!("NaN"),
        x if x.is_infinite() => json!(if *x > 0.0 { "Infinity" } else { "-Infinity" }),
        x => json!(x),
    };
    let field = |name: &str| told[name].as_array().expect("a list");
    assert_eq!(json!(study.name), told["name"]);
    assert_eq!(json!(study.objectives.iter().map(|of| of.maximize).collect::<Vec<_>>()), told["maximize"]);
    assert_eq!(Value::Object(study.attributes.clone()), told["attributes"]);
    let is = |trial: &&Value, states: &[&str]| states.iter().any(|state| trial["state"] == *state);
    let over: Vec<&Value> = field("trials").iter().filter(|t| is(t, &["COMPLETE", "PRUNED", "FAIL"])).collect();
    assert_eq!(study.running, field("trials").iter().filter(|t| is(t, &["RUNNING"])).count());
    assert_eq!(study.enqueued.len(), field("trials").iter().filter(|t| is(t, &["WAITING"])).count());
    assert_eq!(study.trials.len(), over.len());
    for (trial, told) in study.trials.iter().zip(over) {
        let report = &trial.report;
        let mut attributes = report.attributes.clone();
        let mut constraints: Map<String, Value> =
            report.constraints.iter().map(|(n, x)| (n.clone(), number(x))).collect();
        let (state, values) = match &report.state {
            State::Complete { objectives } => ("COMPLETE", objectives.clone()),
            State::Pruned { rung, objectives } => {
                if told["attributes"].get(RUNG).is_some() {
                    attributes.insert(RUNG.to_owned(), json!(rung));
                }
                ("PRUNED", objectives.clone())
            }
            State::Illegal { broken } => {
                attributes.insert(RULES_BROKEN.to_owned(), json!(broken));
                constraints.insert(RULES_BROKEN.to_owned(), json!(broken.len() as f64));
                ("PRUNED", Vec::new())
            }
            State::Failed { reason } => {
                if !reason.is_empty() {
                    attributes.insert(FAIL_REASON.to_owned(), json!(reason));
                }
                ("FAIL", Vec::new())
            }
        };
        let values: Vec<Value> = values.iter().map(number).collect();
        let steps: Map<String, Value> = report.intermediate.iter().map(|(s, x)| (s.to_string(), number(x))).collect();
        let read = json!({
            "number": trial.number, "state": state, "params": trial.params,
            "values": if values.is_empty() { Value::Null } else { json!(values) }, "constraints": constraints,
            "intermediate": steps, "attributes": attributes,
            "started_us": report.started_us, "finished_us": report.finished_us,
        });
        assert_eq!(&read, told);
    }
}

#[test]
fn optuna_reads_resumes_copies_and_shows_a_study_of_two_objectives() {
    check(&[("ttft_p99_s", false), ("tokens_per_s", true)], 60, true);
}

#[test]
fn optuna_reads_resumes_copies_and_shows_a_study_of_one_objective() {
    check(&[("goodput", true)], 60, false);
}

#[test]
fn what_optuna_writes_is_read_as_optuna_reads_it() {
    let Some(python) = python() else { return };
    let path = file("written");
    let told = optuna(python, &["write", path.to_str().expect("a path")]);
    let journal = std::fs::read(&path).expect("a journal");
    let studies = import_all(journal.as_slice()).expect("studies");
    let names: Vec<&str> = studies.iter().map(|study| study.name.as_str()).collect();
    assert_eq!(names, ["one", "two"]);
    for (study, told) in studies.iter().zip(told["studies"].as_array().expect("studies")) {
        agrees(study, told);
    }
    assert_eq!((studies[0].running, studies[0].trials.len()), (2, 9));
    assert_eq!(studies[0].objectives, [ObjectiveInfo { name: "goodput".to_owned(), maximize: true }]);
    let enqueued: Vec<Value> = studies[1].enqueued.iter().cloned().map(Value::Object).collect();
    assert_eq!(enqueued, [json!({"mode": "a", "n": 5})]);
    let unnamed: Vec<&str> = studies[1].objectives.iter().map(|of| of.name.as_str()).collect();
    assert_eq!(unnamed, ["values_0", "values_1"]);
    remove(&path);
}
