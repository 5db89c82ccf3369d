//! Journals there and back, by hand.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::super::{Domain, Outcome, Parameter, Space};
use super::write::distribution;
use super::*;

fn list(values: Value) -> Domain {
    Domain::list(values.as_array().unwrap().clone()).unwrap()
}

/// Every kind of domain, and conditions upon conditions.
fn space() -> Space {
    Space::new(vec![
        Parameter::new("engine.backend", list(json!([null, "fa3", "triton"]))),
        Parameter::new("engine.chunk", list(json!([512, null, 2048.5]))),
        Parameter::new("engine.pools", list(json!([[1, 2], {"a": null}, true, 1, "[1,2]"]))),
        Parameter::new("tp", Domain::int(1, 9, false, Some(4)).unwrap()),
        Parameter::new("limit", Domain::int(1, 64, true, None).unwrap().or_unset()),
        Parameter::new("share", Domain::float(0.1, 0.9, false, Some(0.1)).unwrap()),
        Parameter::new("rate", Domain::float(1e-3, 1.0, true, None).unwrap())
            .when("engine.backend", vec![json!("fa3"), Value::Null]),
        Parameter::new("burst", Domain::boolean()).when("engine.chunk", vec![json!(512)]),
    ])
    .unwrap()
}

fn values(i: usize) -> Vec<Value> {
    [
        json!([null, null, [1, 2], 1, null, 0.3, 0.25, null]),
        json!(["fa3", 512, {"a": null}, 5, 64, 0.9, 0.001, true]),
        json!(["triton", 2048.5, true, 9, 7, 0.1, null, null]),
        json!(["triton", 512, 1, 9, 1, 0.7, null, false]),
        json!([null, null, "[1,2]", 1, 2, 0.6, 1.0, null]),
    ][i]
        .as_array()
        .unwrap()
        .clone()
}

fn report(state: State) -> Report {
    Report {
        state,
        constraints: Vec::new(),
        intermediate: Vec::new(),
        started_us: Some(1_795_385_158_477_102),
        finished_us: Some(1_795_385_158_500_000),
        attributes: Map::new(),
    }
}

fn objectives(names: &[(&str, bool)]) -> Vec<ObjectiveInfo> {
    names.iter().map(|(name, maximize)| ObjectiveInfo { name: (*name).to_owned(), maximize: *maximize }).collect()
}

fn trial(i: usize, state: State) -> TrialRecord {
    TrialRecord { values: values(i), report: report(state) }
}

/// A study with two objectives and a trial of every state.
fn two(space: &Space) -> StudyRecord<'_> {
    let mut missed = trial(0, State::Complete { objectives: vec![1.0, 2e-7] });
    missed.report.constraints = vec![("ttft_p99".to_owned(), 0.25), ("a:b".to_owned(), -1.0)];
    missed.report.attributes = Map::from_iter([("fidelity".to_owned(), json!({"share": 0.5}))]);
    let trials = vec![
        missed,
        trial(1, State::Complete { objectives: vec![0.1, 1e16] }),
        trial(2, State::Pruned { rung: 2, objectives: vec![0.5, -3.0] }),
        trial(3, State::Illegal { broken: vec!["tp*pp <= 8".to_owned(), "chunk".to_owned()] }),
        trial(4, State::Failed { reason: "out of memory".to_owned() }),
    ];
    let attributes = Map::from_iter([("sampler".to_owned(), json!("nsga2")), ("seed".to_owned(), json!(42))]);
    StudyRecord {
        name: "müsli \"1\"".to_owned(),
        objectives: objectives(&[("ttft", false), ("tps", true)]),
        space,
        trials,
        attributes,
    }
}

fn exported(study: &StudyRecord) -> String {
    let mut out = Vec::new();
    export(study, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn refused(study: &StudyRecord) -> String {
    let error = export(study, &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    error.to_string()
}

fn read(text: &str) -> ImportedStudy {
    import(text.as_bytes(), None).unwrap()
}

fn wrong(text: &str) -> JournalError {
    import(text.as_bytes(), None).unwrap_err()
}

#[test]
fn there_and_back_nothing_is_lost() {
    let space = space();
    let study = two(&space);
    let text = exported(&study);
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        serde_json::from_str::<Value>(line).unwrap();
    }
    let back = read(&text);
    assert_eq!((&back.name, &back.objectives, &back.attributes), (&study.name, &study.objectives, &study.attributes));
    assert_eq!((back.enqueued.len(), back.running, back.unfinished), (0, 0, false));
    let fitted = back.fit(&Names::new(&space, &BTreeMap::new()).unwrap());
    assert_eq!(fitted.misfits, []);
    let expect: Vec<(u64, TrialRecord)> = (0..).zip(study.trials.clone()).collect();
    assert_eq!(fitted.trials, expect);
    // And once more: the same text.
    let trials = fitted.trials.into_iter().map(|(_, trial)| trial).collect();
    assert_eq!(exported(&StudyRecord { trials, ..study }), text);
}

#[test]
fn a_study_of_one_objective_is_written_line_for_line() {
    let space = Space::new(vec![
        Parameter::new("a.mode", list(json!(["x", null]))),
        Parameter::new("a.n", Domain::int(1, 8, false, None).unwrap()).when("a.mode", vec![json!("x")]),
    ])
    .unwrap();
    let at = |values: Value, state| TrialRecord { values: values.as_array().unwrap().clone(), report: report(state) };
    let mut complete = at(json!(["x", 4]), State::Complete { objectives: vec![0.5] });
    complete.report.intermediate = vec![(0, 0.75), (1, f64::NAN), (3, 0.5)];
    complete.report.constraints = vec![("late".to_owned(), -0.5)];
    let mut pruned = at(json!([null, null]), State::Pruned { rung: 1, objectives: vec![2.0] });
    pruned.report.intermediate = vec![(0, 3.0)];
    pruned.report.finished_us = None;
    let study = StudyRecord {
        name: "one".to_owned(),
        objectives: objectives(&[("cost", true)]),
        space: &space,
        trials: vec![complete, pruned],
        attributes: Map::new(),
    };
    let mode = r#""a.mode":"{\"name\":\"CategoricalDistribution\",\"attributes\":{\"choices\":[\"x\",null]}}""#;
    let n = concat!(
        r#""a.n":"{\"name\":\"IntDistribution\",\"#,
        r#""attributes\":{\"log\":false,\"step\":1,\"low\":1,\"high\":8}}""#
    );
    let expect = [
        r#"{"op_code":0,"worker_id":"pipe","study_name":"one","directions":[2]}"#.to_owned(),
        r#"{"op_code":3,"worker_id":"pipe","study_id":0,"system_attr":{"study:metric_names":["cost"]}}"#.to_owned(),
        [
            r#"{"op_code":4,"worker_id":"pipe","study_id":0,"datetime_start":"2026-11-22T22:05:58.477102+00:00","#,
            r#""datetime_complete":"2026-11-22T22:05:58.500000+00:00","state":1,"value":0.5,"values":null,"#,
            &format!(r#""distributions":{{{mode},{n}}},"params":{{"a.mode":0,"a.n":4.0}},"user_attrs":{{}},"#),
            r#""system_attrs":{"constraints:late":-0.5},"intermediate_values":{"0":0.75,"3":0.5}}"#,
        ]
        .concat(),
        [
            r#"{"op_code":4,"worker_id":"pipe","study_id":0,"datetime_start":"2026-11-22T22:05:58.477102+00:00","#,
            r#""datetime_complete":"2026-11-22T22:05:58.477102+00:00","state":2,"value":2.0,"values":null,"#,
            &format!(r#""distributions":{{{mode}}},"params":{{"a.mode":1}},"user_attrs":{{}},"#),
            r#""system_attrs":{},"intermediate_values":{"0":3.0,"1":2.0}}"#,
        ]
        .concat(),
    ];
    assert_eq!(exported(&study).lines().collect::<Vec<_>>(), expect);
    let back = read(&exported(&study));
    assert_eq!(back.trials[1].report.state, State::Pruned { rung: 1, objectives: vec![2.0] });
    assert_eq!(back.trials[0].report.intermediate, [(0, 0.75), (3, 0.5)]);
}

#[test]
fn domains_become_distributions_that_have_all_their_values() {
    let int = |low, high, log, step| distribution(&Domain::int(low, high, log, step).unwrap());
    let float = |low, high, log, step| distribution(&Domain::float(low, high, log, step).unwrap());
    let attributes =
        |log: bool, step: Value, low: Value, high: Value| json!({"log": log, "step": step, "low": low, "high": high});
    let (ints, floats) = ("IntDistribution", "FloatDistribution");
    assert_eq!(int(1, 64, true, None), (ints, attributes(true, json!(1), json!(1), json!(64))));
    // The high end is the last level; a step excludes the logarithm.
    assert_eq!(int(1, 12, true, Some(5)), (ints, attributes(false, json!(5), json!(1), json!(11))));
    let unset = Domain::int(0, 4, false, Some(2)).unwrap().or_unset();
    assert_eq!(distribution(&unset), (ints, attributes(false, json!(2), json!(0), json!(4))));
    assert_eq!(float(0.1, 1.0, true, None), (floats, attributes(true, json!(null), json!(0.1), json!(1.0))));
    assert_eq!(float(0.1, 0.95, true, Some(0.1)), (floats, attributes(false, json!(0.1), json!(0.1), json!(0.9))));
    // A third is no decimal; and so many steps are too fine to be told apart.
    let third = float(0.0, 1.0, false, Some(1.0 / 3.0));
    assert_eq!(third, (floats, attributes(false, json!(null), json!(0.0), json!(1.0))));
    let fine = float(0.0, 1e7, false, Some(0.5));
    assert_eq!(fine, (floats, attributes(false, json!(null), json!(0.0), json!(1e7))));
    let choices = |values: Value| distribution(&list(values)).1["choices"].clone();
    assert_eq!(choices(json!([8, null, 1, 2.5])), json!([null, 1, 2.5, 8]));
    assert_eq!(choices(json!(["b", null, "a"])), json!(["b", null, "a"]));
    // Python takes 1 for true; text that is taken gets a space.
    assert_eq!(choices(json!([1, true, "1", 0])), json!(["1 ", true, "1", 0]));
    assert_eq!(choices(json!([[1], "[1]", "[1] ", {"k": 2}])), json!(["[1]  ", "[1]", "[1] ", r#"{"k":2}"#]));
}

#[test]
fn what_is_not_finite_is_not_written() {
    let space = space();
    let mut study = two(&space);
    study.trials[0].report.state = State::Complete { objectives: vec![f64::INFINITY, 0.0] };
    study.trials[1].report.constraints = vec![("late".to_owned(), f64::NAN)];
    study.trials[2].report.state = State::Pruned { rung: 1, objectives: vec![f64::NAN, 0.0] };
    let back = read(&exported(&study));
    let reason = |reason: &str| State::Failed { reason: reason.to_owned() };
    assert_eq!(back.trials[0].report.state, reason("the objectives are [inf, 0.0]"));
    assert_eq!(back.trials[1].report.state, reason("the constraint late is NaN"));
    assert_eq!(back.trials[1].report.constraints, []);
    assert_eq!(back.trials[2].report.state, State::Pruned { rung: 1, objectives: vec![] });
}

#[test]
fn studies_that_contradict_themselves_are_refused() {
    let space = space();
    type Change = fn(&mut StudyRecord);
    let cases: [(&str, Change); 12] = [
        ("at least one", |study| study.objectives.clear()),
        ("objective ttft occurs twice", |study| study.objectives[1].name = "ttft".to_owned()),
        ("trial 1: the space has no point", |study| study.trials[1].values[3] = json!(2)),
        ("trial 2: the space has no point", |study| study.trials[2].values[7] = json!(true)),
        ("trial 0: 1 objectives instead of 2", |study| {
            study.trials[0].report.state = State::Complete { objectives: vec![1.0] };
        }),
        ("or none", |study| study.trials[0].report.state = State::Pruned { rung: 0, objectives: vec![1.0] }),
        ("no time is known", |study| {
            study.trials[0].report.started_us = None;
            study.trials[0].report.finished_us = None;
        }),
        ("years 1 to 9999", |study| study.trials[0].report.started_us = Some(i64::MAX)),
        ("one objective only", |study| study.trials[0].report.intermediate = vec![(0, 1.0)]),
        ("the constraint x occurs twice", |study| {
            study.trials[0].report.constraints = vec![("x".to_owned(), 1.0), ("x".to_owned(), 1.0)];
        }),
        ("constraint rules_broken", |study| {
            study.trials[0].report.constraints = vec![(RULES_BROKEN.to_owned(), 1.0)];
        }),
        ("attribute rung", |study| {
            study.trials[0].report.attributes.insert(RUNG.to_owned(), json!(1));
        }),
    ];
    for (expect, change) in cases {
        let mut study = two(&space);
        change(&mut study);
        let message = refused(&study);
        assert!(message.contains(expect), "{message}");
    }
    let mut study = two(&space);
    study.objectives.truncate(1);
    study.trials.truncate(1);
    study.trials[0].report.state = State::Complete { objectives: vec![1.0] };
    study.trials[0].report.intermediate = vec![(-1, 1.0)];
    assert!(refused(&study).contains("below 0"));
}

/// As Optuna writes it: operation by operation, three studies in one file, one of which was deleted.
const STEP_BY_STEP: &str = r#"{"op_code":0,"worker_id":"w","study_name":"gone","directions":[1]}
{"op_code":4,"worker_id":"w","study_id":0,"datetime_start":null,"state":4,"system_attrs":{"fixed_params":{"x":1}}}
{"op_code":0,"worker_id":"w","study_name":"one","directions":[2]}
{"op_code":0,"worker_id":"v","study_name":"one","directions":[1]}
{"op_code":3,"worker_id":"w","study_id":1,"system_attr":{"study:metric_names":["goodput"]}}
{"op_code":2,"worker_id":"w","study_id":1,"user_attr":{"who":{"NaN":"\"NaN"}}}
{"op_code":1,"worker_id":"w","study_id":0}
{"op_code":4,"worker_id":"w","study_id":0,"datetime_start":"2026-11-22T22:05:58.500929+00:00"}
{"op_code":2,"worker_id":"w","study_id":0,"user_attr":{"who":"nobody"}}
{"op_code":4,"worker_id":"w","study_id":1,"datetime_start":null,"state":4,"value":null,"values":null,"distributions":{},"params":{},"user_attrs":{},"system_attrs":{"fixed_params":{"x":0.5}},"intermediate_values":{}}
{"op_code":6,"worker_id":"w","trial_id":1,"state":0,"values":null,"datetime_start":"2026-11-22T22:05:58.500929+00:00"}
{"op_code":6,"worker_id":"v","trial_id":1,"state":0,"values":null,"datetime_start":"2027-11-22T22:05:58.500929+00:00"}
{"op_code":0,"worker_id":"w","study_name":"gone","directions":[1,2]}
{"op_code":4,"worker_id":"w","study_id":2,"datetime_start":"2026-11-22T22:05:59+00:00"}
{"op_code":5,"worker_id":"w","trial_id":2,"param_name":"x","param_value_internal":5.0,"distribution":"{\"name\": \"IntDistribution\", \"attributes\": {\"log\": false, \"step\": 5, \"low\": 0, \"high\": 10}}"}
{"op_code":9,"worker_id":"w","trial_id":2,"system_attr":{"constraints":[1.0,-2.0]}}
{"op_code":5,"worker_id":"w","trial_id":1,"param_name":"x","param_value_internal":0.5,"distribution":"{\"name\": \"FloatDistribution\", \"attributes\": {\"step\": null, \"low\": 0.0, \"high\": 1.0, \"log\": false}}"}
{"op_code":5,"worker_id":"w","trial_id":1,"param_name":"c","param_value_internal":1,"distribution":"{\"name\": \"CategoricalDistribution\", \"attributes\": {\"choices\": [null, \"fa3\", NaN]}}"}
{"op_code":7,"worker_id":"w","trial_id":1,"step":2,"intermediate_value":-Infinity}
{"op_code":7,"worker_id":"w","trial_id":1,"step":1,"intermediate_value":NaN}
{"op_code":7,"worker_id":"w","trial_id":1,"step":2,"intermediate_value":0.25}
{"op_code":8,"worker_id":"w","trial_id":1,"user_attr":{"a\\":[1,"-Infinity\\",Infinity]}}
{"op_code":9,"worker_id":"w","trial_id":1,"system_attr":{"constraints:lat":0.5}}
{"op_code":6,"worker_id":"w","trial_id":1,"state":1,"values":[Infinity],"datetime_complete":"2026-11-22T22:06:00.5+00:00"}
{"op_code":8,"worker_id":"w","trial_id":1,"user_attr":{"late":true}}
{"op_code":10,"worker_id":"w","trial_ids":[1]}
{"op_code":4,"worker_id":"w","study_id":1,"datetime_start":"2026-11-22T22:06:01+00:00"}
{"op_code":5,"worker_id":"w","trial_id":3,"param_name":"x","param_value_internal":0.75,"distribution":"{\"name\": \"FloatDistribution\", \"attributes\": {\"step\": null, \"low\": 0.5, \"high\": 1.0, \"log\": false}}"}
{"op_code":5,"worker_id":"w","trial_id":3,"param_name":"c","param_value_internal":0,"distribution":"{\"name\": \"CategoricalDistribution\", \"attributes\": {\"choices\": [null]}}"}
{"op_code":7,"worker_id":"w","trial_id":3,"step":4,"intermediate_value":0.25}
{"op_code":6,"worker_id":"w","trial_id":3,"state":2,"values":[0.25],"datetime_complete":"2026-11-22T22:06:02+00:00"}
{"op_code":4,"worker_id":"w","study_id":1,"datetime_start":null,"state":4,"system_attrs":{"fixed_params":{"x":0.5,"c":null}}}
{"op_code":4,"worker_id":"w","study_id":1,"datetime_start":"2026-11-22T22:06:01+00:00"}
{"op_code":4,"worker_id":"w","study_id":1,"datetime_start":"2026-11-22T22:06:01+00:00"}
{"op_code":6,"worker_id":"w","trial_id":6,"state":3,"values":null,"datetime_complete":"2026-11-22T22:06:02+00:00"}"#;

#[test]
fn operations_are_replayed_as_optuna_does() {
    let all = import_all(STEP_BY_STEP.as_bytes()).unwrap();
    assert_eq!(all.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["one", "gone"]);
    // As text, in which NaN is equal to itself.
    let ended = import_all(format!("{STEP_BY_STEP}\n").as_bytes()).unwrap();
    assert_eq!(format!("{all:?}"), format!("{ended:?}"));
    let one = &all[0];
    assert_eq!(one.objectives, objectives(&[("goodput", true)]));
    assert_eq!(Value::Object(one.attributes.clone()), json!({"who": {"NaN": "\"NaN"}}));
    assert_eq!(one.trials.iter().map(|t| t.number).collect::<Vec<_>>(), [0, 1, 4]);
    assert_eq!((one.running, one.unfinished), (1, false));
    assert_eq!(one.enqueued.iter().cloned().map(Value::Object).collect::<Vec<_>>(), [json!({"x": 0.5, "c": null})]);

    let first = &one.trials[0];
    assert_eq!(Value::Object(first.params.clone()), json!({"x": 0.5, "c": "fa3"}));
    assert_eq!(first.report.state, State::Complete { objectives: vec![f64::INFINITY] });
    assert_eq!(first.report.constraints, [("lat".to_owned(), 0.5)]);
    assert_eq!(first.report.intermediate.iter().map(|(s, _)| *s).collect::<Vec<_>>(), [1, 2]);
    assert!(first.report.intermediate[0].1.is_nan());
    assert_eq!(first.report.intermediate[1].1.to_bits(), 0.25f64.to_bits());
    assert_eq!(first.report.started_us, Some(1_795_385_158_500_929));
    assert_eq!(first.report.finished_us, Some(1_795_385_160_500_000));
    let attributes = json!({"a\\": [1, "-Infinity\\", "Infinity"]});
    assert_eq!(Value::Object(first.report.attributes.clone()), attributes);

    // The other choices of `c` are not those of the study.
    assert_eq!(Value::Object(one.trials[1].params.clone()), json!({"x": 0.75}));
    assert_eq!(one.trials[1].report.state, State::Pruned { rung: 4, objectives: vec![0.25] });
    assert_eq!(one.trials[2].report.state, State::Failed { reason: String::new() });

    assert_eq!(all[1].objectives, objectives(&[("values_0", false), ("values_1", true)]));
    assert_eq!((all[1].trials.len(), all[1].running), (0, 1));
    assert_eq!(wrong(STEP_BY_STEP).reason, "the journal has several studies: one, gone");
    let missing = import(STEP_BY_STEP.as_bytes(), Some("three")).unwrap_err();
    assert_eq!(missing.to_string(), "the journal has no study three, but one, gone");
    assert_eq!(import(STEP_BY_STEP.as_bytes(), Some("gone")).unwrap(), all[1]);
}

#[test]
fn a_line_that_is_still_being_written_is_passed_over() {
    // Cut off anywhere, the file is read, and never with more than the whole of it.
    let whole = import(STEP_BY_STEP.as_bytes(), Some("one")).unwrap();
    let start = STEP_BY_STEP.find("{\"op_code\":4,\"worker_id\":\"w\",\"study_id\":1").unwrap();
    for end in (start..STEP_BY_STEP.len()).filter(|end| STEP_BY_STEP.is_char_boundary(*end)) {
        let text = &STEP_BY_STEP[..end];
        let study = import(text.as_bytes(), Some("one")).unwrap();
        assert!(study.trials.len() <= whole.trials.len());
        assert_eq!(study.unfinished, !(text.ends_with('\n') || ends_line(text)), "{text}");
    }
    assert_eq!(wrong("").reason, "the journal has no study");
    assert_eq!(wrong("{\"op_code\":0,").reason, "the journal has no study");
}

fn ends_line(text: &str) -> bool {
    STEP_BY_STEP[text.len()..].starts_with('\n')
}

#[test]
fn broken_lines_are_named() {
    let study = r#"{"op_code":0,"worker_id":"w","study_name":"s","directions":[1,1]}"#;
    let trial = r#"{"op_code":4,"worker_id":"w","study_id":0,"datetime_start":null}"#;
    let int = r#""{\"name\": \"IntDistribution\", \"attributes\": {\"low\": 0, \"high\": 10}}""#;
    let choice = r#""{\"type\": \"categorical\", \"choices\": [1, 2]}""#;
    let set = |value: &str, distribution: &str| {
        format!(
            r#"{{"op_code":5,"trial_id":0,"param_name":"x","param_value_internal":{value},"distribution":{distribution}}}"#
        )
    };
    for (bad, reason) in [
        ("nonsense".to_owned(), "no JSON"),
        ("{\"op_code\":0,".to_owned(), "no JSON"),
        (String::new(), "no JSON"),
        ("[]".to_owned(), "op_code is missing"),
        (r#"{"op_code":11}"#.to_owned(), "unknown op_code 11"),
        (r#"{"op_code":0,"study_name":"t","directions":[0]}"#.to_owned(), "unknown direction 0"),
        (r#"{"op_code":0,"study_name":"t","directions":[]}"#.to_owned(), "directions"),
        (r#"{"op_code":4,"study_id":1}"#.to_owned(), "no study with the id 1"),
        (r#"{"op_code":7,"trial_id":1,"step":0,"intermediate_value":0}"#.to_owned(), "no trial with the id 1"),
        (r#"{"op_code":7,"trial_id":0,"step":0,"intermediate_value":"many"}"#.to_owned(), "intermediate_value"),
        (r#"{"op_code":6,"trial_id":0,"state":5,"values":null}"#.to_owned(), "unknown state 5"),
        (r#"{"op_code":6,"trial_id":0,"state":1,"values":[1.0]}"#.to_owned(), "1 values instead of 2"),
        (r#"{"op_code":6,"trial_id":0,"state":1,"values":[1.0,null]}"#.to_owned(), "null is no number"),
        (r#"{"op_code":4,"study_id":0,"datetime_start":"today"}"#.to_owned(), "which is no time"),
        (r#"{"op_code":4,"study_id":0,"params":{"x":1}}"#.to_owned(), "x has no distribution"),
        (r#"{"op_code":8,"trial_id":0,"user_attr":[]}"#.to_owned(), "user_attr is no object"),
        (set("NaN", int), "has the value"),
        (set("2", choice), "no choice 2 among 2"),
        (set("-1", choice), "no choice -1 among 2"),
        (set("0", r#""{\"name\": \"Normal\"}""#), "unknown distribution"),
        (set("0", r#""{""#), "no JSON"),
    ] {
        let error = wrong(&format!("{study}\n{trial}\n{bad}\n{trial}\n"));
        assert_eq!(error.line, Some(3), "{bad}");
        assert!(error.reason.contains(reason), "{error}");
        assert!(error.to_string().starts_with("line 3: "));
    }
    assert_eq!(import(&b"{}\n\xff\xfe\n"[..], None).unwrap_err().line, Some(1));
    assert_eq!(import(&b"\xff\xfe\n"[..], None).unwrap_err().line, Some(1));
    let good = format!("{study}\n{trial}\n{}\n{}", set("7.0", int), set("1", choice));
    assert_eq!(read(&good).running, 1);
}

#[test]
fn imported_trials_are_points_or_say_why_not() {
    let space = space();
    let given = BTreeMap::from([
        ("dtype".to_owned(), None),
        ("parallel".to_owned(), Some("tp".to_owned())),
        ("b".to_owned(), Some("burst".to_owned())),
    ]);
    let names = Names::new(&space, &given).unwrap();
    let fit = |params: Value| names.fit(params.as_object().unwrap());
    // Last names, other types of the same number, sums with a rounding error, text that is JSON, what is not there.
    let full = json!({
        "backend": "fa3", "engine.chunk": 512.0, "pools": "{\"a\": null}", "parallel": 5.0, "limit": 64,
        "share": 0.1 + 2.0 * 0.1, "rate": 0.123_456_789_012_345_6, "b": true, "dtype": "fp8"
    });
    let expect = json!(["fa3", 512, {"a": null}, 5, 64, 0.3, 0.123_456_789_012, true]);
    assert_eq!(fit(full.clone()).map(Value::Array), Ok(expect));
    let least = json!({"pools": "[1,2] ", "tp": 1, "share": 0.1, "backend": "triton", "rate": null});
    let expect = json!(["triton", null, [1, 2], 1, null, 0.1, null, null]);
    assert_eq!(fit(least.clone()).map(Value::Array), Ok(expect));

    let with = |changes: Value| {
        let mut params = full.as_object().unwrap().clone();
        params.extend(changes.as_object().unwrap().clone());
        names.fit(&params).unwrap_err()
    };
    assert_eq!(with(json!({"colour": 1})), ["colour is no parameter of the space"]);
    assert_eq!(with(json!({"tp": 1})), ["parallel and tp are the same parameter"]);
    assert_eq!(with(json!({"share": 0.35, "limit": 65})), ["limit cannot be 65", "share cannot be 0.35"]);
    assert_eq!(
        with(json!({"backend": "triton"})),
        ["rate is 0.1234567890123456, but exists only where engine.backend is \"fa3\", null"]
    );
    assert_eq!(with(json!({"parallel": null, "rate": null})), ["tp is missing", "rate is missing"]);
    let wrong = BTreeMap::from([("x".to_owned(), Some("y".to_owned()))]);
    assert_eq!(Names::new(&space, &wrong).unwrap_err(), "the space has no parameter y");

    let unit = || Domain::float(0.0, 1.0, false, None).unwrap();
    let twins = Space::new(vec![Parameter::new("a.x", unit()), Parameter::new("b.x", unit())]).unwrap();
    let none = BTreeMap::new();
    let names = Names::new(&twins, &none).unwrap();
    let reasons = names.fit(json!({"x": 0.5, "a.x": 0.5, "b.x": 2}).as_object().unwrap()).unwrap_err();
    assert_eq!(reasons, ["x may be a.x or b.x: say which", "b.x cannot be 2"]);

    let study = import(STEP_BY_STEP.as_bytes(), Some("one")).unwrap();
    let x = Space::new(vec![Parameter::new("deep.x", unit())]).unwrap();
    let given = BTreeMap::from([("c".to_owned(), None)]);
    let fitted = study.fit(&Names::new(&x, &given).unwrap());
    assert_eq!(
        fitted.trials.iter().map(|(n, t)| (*n, t.values.clone())).collect::<Vec<_>>(),
        [(0, vec![json!(0.5)]), (1, vec![json!(0.75)]),]
    );
    assert_eq!(fitted.enqueued, [[json!(0.5)]]);
    assert_eq!(fitted.misfits, [Misfit { trial: Some(4), reasons: vec!["deep.x is missing".to_owned()] }]);
}

#[test]
fn what_a_study_is_told() {
    let of = objectives(&[("ttft", false), ("tps", true)]);
    let mut complete = report(State::Complete { objectives: vec![1.0, 2.0] });
    complete.constraints = vec![("a".to_owned(), 0.5), ("b".to_owned(), -2.0), ("c".to_owned(), 0.25)];
    assert_eq!(complete.outcome(&of), Outcome::Complete { objectives: vec![1.0, -2.0], violation: 0.75 });
    complete.constraints.push(("d".to_owned(), f64::NAN));
    assert!(matches!(complete.outcome(&of), Outcome::Complete { violation, .. } if violation.is_nan()));
    let pruned = report(State::Pruned { rung: 3, objectives: vec![1.0, 2.0] });
    let expect = Outcome::Pruned { rung: 3, objectives: vec![1.0, -2.0], violation: 0.0 };
    assert_eq!(pruned.outcome(&of), expect);
    let illegal = report(State::Illegal { broken: vec!["a".to_owned(), "b".to_owned()] });
    assert_eq!(illegal.outcome(&of), Outcome::Illegal { broken: 0b11 });
    assert_eq!(report(State::Failed { reason: String::new() }).outcome(&of), Outcome::Failed);
}
