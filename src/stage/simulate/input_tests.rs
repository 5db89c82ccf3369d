//! Which tables of requests a simulation reads, and what it says of those that it does not.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int8Array, Int32Array, Int32Builder, Int64Array, Int64Builder, ListBuilder,
    RecordBatch, StringArray, UInt64Array,
};
use arrow::datatypes::Int32Type;

use pipe_kernel::units::SimDuration;

use super::tests::{Bench, Ran, ints};

fn table(columns: Vec<(&str, ArrayRef)>) -> Bench {
    Bench::of(&RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap())
}

fn int64(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

/// Three requests, of which `more` replaces or adds columns.
fn three<'a>(more: Vec<(&'a str, ArrayRef)>) -> Bench {
    let mut columns: Vec<(&'a str, ArrayRef)> = vec![
        ("request_id", int64(&[30, 10, 20])),
        ("arrival_ns", int64(&[5_000_000, 1_000_000, 3_000_000])),
        ("input_tokens", int64(&[300, 100, 200])),
        ("output_tokens", int64(&[3, 1, 2])),
    ];
    for (name, values) in more {
        match columns.iter_mut().find(|(n, _)| *n == name) {
            Some((_, old)) => *old = values,
            None => columns.push((name, values)),
        }
    }
    table(columns)
}

const SIM: &str = "
  sim:
    simulate: { requests: trace, deployment: { model: llama-3.1-8b, gpu: h100-sxm } }
";

fn run(bench: &Bench, settings: &str) -> Result<Ran, String> {
    let stages = SIM.replace("gpu: h100-sxm }", &format!("gpu: h100-sxm }}{settings}"));
    bench.run(&stages, "sim", 1).map_err(|failure| {
        assert!(failure.diagnostics.iter().all(|d| d.at.is_some()), "{failure}");
        let texts: Vec<&str> = failure.diagnostics.iter().map(|d| d.message.as_str()).collect();
        texts.join("\n")
    })
}

#[test]
fn four_columns_are_enough() {
    let bench = three(vec![]);
    assert_eq!(bench.check(SIM, "sim"), []);
    let ran = run(&bench, "").unwrap();
    let rows = ran.rows("sim_requests");
    assert_eq!(ints(&rows, "request_id"), [10, 20, 30]);
    assert_eq!(ints(&rows, "arrival_ns"), [1_000_000, 3_000_000, 5_000_000]);
    let input = rows.column_by_name("input_tokens").unwrap().as_primitive::<Int32Type>().values().to_vec();
    assert_eq!(input, [100, 200, 300]);
    for name in ["class", "session_id", "priority", "deadline_ns"] {
        assert_eq!(rows.column_by_name(name).unwrap().null_count(), 3, "{name}");
    }
    assert_eq!(ran.warnings, [""; 0]);
}

#[test]
fn what_clients_want_comes_from_the_request_then_from_its_class_then_from_all() {
    let classes: ArrayRef = Arc::new(StringArray::from(vec![Some("batch"), Some("chat"), None]));
    let priority: ArrayRef = Arc::new(Int8Array::from(vec![None, Some(-3), None]));
    let deadline: ArrayRef = Arc::new(UInt64Array::from(vec![Some(7), None, None]));
    let bench = three(vec![("class", classes), ("priority", priority), ("deadline_ns", deadline)]);
    let workload = ", workload: { deadline_ms: 2, classes: { batch: { priority: 9, deadline_ms: 1 }, \
                    chat: { priority: 1, deadline_ms: 0.5 }, other: {} } }";
    let ran = run(&bench, workload).unwrap();
    let rows = ran.rows("sim_requests");
    let class = rows.column_by_name("class").unwrap().as_string::<i32>();
    assert!(class.value(0) == "chat" && class.is_null(1) && class.value(2) == "batch");
    let priority = rows.column_by_name("priority").unwrap().as_primitive::<Int32Type>();
    assert_eq!(priority.iter().collect::<Vec<_>>(), [Some(-3), None, Some(9)]);
    // Spans in, times out.
    assert_eq!(ints(&rows, "deadline_ns"), [1_500_000, 5_000_000, 5_000_007]);
    let expect =
        "`workload.classes` has rules for `other`, a class that no request of `trace` has (classes: batch, chat)";
    assert_eq!(ran.warnings, [expect]);
    let sim = ran.rows("sim");
    assert_eq!(ints(&sim, "classes_batch_priority"), [9]);
    assert!(sim.column_by_name("classes_other_priority").unwrap().is_null(0));
}

#[test]
fn samples_are_those_of_the_request_and_else_of_all() {
    let of = |ran: &Ran, name: &str| {
        let rows = ran.rows("sim_requests");
        rows.column_by_name(name).unwrap().as_primitive::<Int32Type>().values().to_vec()
    };
    let bench = three(Vec::new());
    let one = of(&run(&bench, "").unwrap(), "output_tokens");
    let n: ArrayRef = Arc::new(Int64Array::from(vec![Some(2), Some(1), None]));
    let bench = three(vec![("n", n)]);
    let ran = run(&bench, ", workload: { n: 4 }").unwrap();
    assert_eq!(of(&ran, "samples"), [1, 4, 2]);
    assert_eq!(of(&ran, "output_tokens"), [one[0], 4 * one[1], 2 * one[2]]);
}

#[test]
fn requests_out_of_order_are_simulated_at_their_time() {
    let bench = three(vec![("request_id", int64(&[1, 2, 3]))]);
    let ran = run(&bench, "").unwrap();
    assert_eq!(ints(&ran.rows("sim_requests"), "arrival_ns"), [5_000_000, 1_000_000, 3_000_000]);
    assert_eq!(ints(&ran.rows("sim"), "out_of_order"), [2]);
    let expect = "2 requests of `trace` arrive before one in front of them; they are simulated at their time";
    assert_eq!(ran.warnings, [expect]);
}

#[test]
fn values_that_cannot_be_are_named_with_their_request() {
    let fails = |more: Vec<(&'static str, ArrayRef)>| run(&three(more), "").map(|_| ()).unwrap_err();
    let cases: Vec<(&'static str, ArrayRef, &str)> = vec![
        (
            "request_id",
            int64(&[4, 7, 4]),
            "request_id 4 stands for 2 requests of `trace`; every request needs a number of its own",
        ),
        (
            "request_id",
            int64(&[4, 4, 4]),
            "request_id 4 stands for 3 requests of `trace`; every request needs a number of its own",
        ),
        (
            "request_id",
            Arc::new(Int64Array::from(vec![Some(1), None, None])),
            "2 requests of `trace` have no request_id",
        ),
        ("timeout_ns", int64(&[1, -5, 1]), "request 10 of `trace`: timeout_ns is -5; must be 0 or more"),
        ("cancel_ns", int64(&[-1, 0, 0]), "request 30 of `trace`: cancel_ns is -1; must be 0 or more"),
        ("arrival_ns", int64(&[1, 2, -3]), "request 20 of `trace`: arrival_ns is -3; must be 0 or more"),
        ("input_tokens", int64(&[1, 0, 1]), "request 10 of `trace`: input_tokens is 0; must be 1 to 16777216"),
        (
            "output_tokens",
            int64(&[1, 1 << 31, 1_000_000_000_000]),
            "request 10 of `trace`: output_tokens is 2147483648; must be 1 to 16777216\n\
             request 20 of `trace`: output_tokens is 1000000000000; must be 1 to 16777216",
        ),
        (
            "output_tokens",
            Arc::new(Int32Array::from(vec![Some(1), None, Some(1)])),
            "request 10 of `trace`: output_tokens is null",
        ),
        (
            "priority",
            int64(&[0, 0, 1 << 40]),
            "request 20 of `trace`: priority is 1099511627776; must be -2147483648 to 2147483647",
        ),
        (
            "n",
            int64(&[0, 16_385, 4]),
            "request 10 of `trace`: n is 16385; must be 1 to 16384\n\
         request 30 of `trace`: n is 0; must be 1 to 16384",
        ),
        ("beam_width", int64(&[1, 2, 1_025]), "request 20 of `trace`: beam_width is 1025; must be 1 to 1024"),
        ("max_tokens", int64(&[0, 5, 5]), "request 30 of `trace`: max_tokens is 0; must be 1 to 16777216"),
        (
            "acceptance",
            Arc::new(Float64Array::from(vec![0.5, 1.2, f64::NAN])),
            "request 10 of `trace`: acceptance is 1.2; must be 0 to 1\n\
             request 20 of `trace`: acceptance is NaN; must be 0 to 1",
        ),
        (
            "deadline_ns",
            Arc::new(UInt64Array::from(vec![u64::MAX, 1, 1])),
            "request 30 of `trace`: deadline_ns is beyond 2^63",
        ),
    ];
    for (name, values, expect) in cases {
        assert_eq!(fails(vec![(name, values)]), expect);
    }
    let many = fails(vec![("input_tokens", int64(&[0, 0, 0])), ("output_tokens", int64(&[-1, -1, -1]))]);
    assert_eq!(many.lines().count(), 6);
}

#[test]
fn columns_of_the_wrong_type_are_found_before_anything_runs() {
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0]));
    let bench = three(vec![("priority", floats.clone()), ("class", int64(&[1, 2, 3])), ("session_id", floats)]);
    let found: Vec<String> = bench.check(SIM, "sim").into_iter().map(|d| d.message).collect();
    assert_eq!(
        found,
        [
            "the requests of `trace`: column `session_id` is Float64; must be text",
            "the requests of `trace`: column `class` is Int64; must be text",
            "the requests of `trace`: column `priority` is Float64; must be an integer",
        ]
    );
    let bench = table(vec![("request_id", int64(&[1])), ("input_tokens", int64(&[1]))]);
    let found = bench.check(SIM, "sim");
    assert_eq!(found[0].message, "`trace` is no table of requests with token counts: no arrival_ns, output_tokens");
}

#[test]
fn no_requests_are_no_mistake() {
    let none = || int64(&[]);
    let bench = table(vec![
        ("request_id", none()),
        ("arrival_ns", none()),
        ("input_tokens", none()),
        ("output_tokens", none()),
    ]);
    let sim = run(&bench, "").unwrap().rows("sim");
    assert_eq!((ints(&sim, "requests"), ints(&sim, "duration_ns")), (vec![0], vec![0]));
    assert!(sim.column_by_name("ttft_ms_p99").unwrap().is_null(0));
}

#[test]
fn requests_say_what_they_wait_for_and_what_they_need() {
    let text = |values: [Option<&str>; 3]| -> ArrayRef { Arc::new(StringArray::from(values.to_vec())) };
    let mut lists = ListBuilder::new(Int32Builder::new());
    // In the order of the rows: 30 waits for 10 and 20 (which is named twice), 10 for nobody, 20 for 10.
    lists.append_value([Some(20), Some(10), Some(20)]);
    lists.append_null();
    lists.append_value([Some(10)]);
    let bench = three(vec![
        ("depends_on", Arc::new(lists.finish())),
        ("session_id", text([Some("u2"), None, Some("u1")])),
        ("think_ns", Arc::new(Int64Array::from(vec![Some(7), None, Some(0)]))),
        ("model", text([Some("LLAMA-3.1-8B"), Some("ours"), Some("meta-llama/Llama-3.1-8B")])),
        ("adapter", text([None, Some("b"), Some("a")])),
        ("encoder_tokens", Arc::new(Int32Array::from(vec![None, Some(5), None]))),
        ("tenant", text([Some("t"), Some("s"), Some("t")])),
        ("acceptance", Arc::new(Float64Array::from(vec![Some(0.0), None, Some(1.0)]))),
    ]);
    assert_eq!(bench.check(SIM, "sim"), []);
    let workload = bench.workload().unwrap();
    let r = &workload.requests;
    // By number: 10, 20, 30.
    assert_eq!((0..3).map(|i| r.waits_for(i)).collect::<Vec<_>>(), [&[][..], &[0], &[1, 0]]);
    assert_eq!(r.session, [None, Some(0), Some(1)]);
    assert_eq!(r.think, [None, Some(SimDuration(0)), Some(SimDuration(7))]);
    assert_eq!(
        (r.model_names.as_slice(), r.model.as_slice()),
        (&["meta-llama/Llama-3.1-8B".to_string(), "ours".to_string()][..], &[Some(1), Some(0), Some(0)][..])
    );
    assert_eq!(
        (r.adapter.as_slice(), r.adapter_names.as_slice()),
        (&[Some(1), Some(0), None][..], &["a".into(), "b".into()][..])
    );
    assert!(r.tenant[0] != r.tenant[1] && r.tenant[1] == r.tenant[2] && r.tenant[1].is_some(), "{:?}", r.tenant);
    assert_eq!(r.acceptance, [None, Some(1.0), Some(0.0)]);
    assert_eq!(r.encoder_tokens, [Some(5), None, None]);
    let circle = "requests wait for each other in a circle: 0 -> 2 -> 0";
    assert_eq!(
        workload.in_own_numbers("workload", circle),
        "requests wait for each other in a circle: 10 -> 30 -> 10 (request_id in `trace`)"
    );
    assert_eq!(workload.in_own_numbers("deployment.tp", "one of: 1 -> 2"), "one of: 1 -> 2");
    // Where nobody says anything, nothing is kept.
    let plain = three(vec![]).workload().unwrap().requests;
    assert!(plain.depends_on_offsets.is_empty() && plain.session.is_empty() && plain.model_names.is_empty());
    assert!(plain.tenant.is_empty() && plain.acceptance.is_empty() && plain.adapter_names.is_empty());
}

#[test]
fn requests_wait_for_others_of_their_table() {
    let of = |waits: [Option<i64>; 3]| {
        let mut lists = ListBuilder::new(Int64Builder::new());
        waits.iter().for_each(|id| lists.append_value([*id]));
        run(&three(vec![("depends_on", Arc::new(lists.finish()))]), "").map(|_| ()).unwrap_err()
    };
    assert_eq!(
        of([Some(11), Some(10), None]),
        "request 10 of `trace`: depends_on is the request itself\n\
         request 20 of `trace`: depends_on is a list with a null, or with a number beyond 2^63\n\
         request 30 of `trace`: depends_on is 11, which no request has"
    );
    let wrong = three(vec![("depends_on", int64(&[1, 2, 3])), ("model", int64(&[1, 2, 3]))]);
    let found: Vec<String> = wrong.check(SIM, "sim").into_iter().map(|d| d.message).collect();
    assert_eq!(
        found,
        [
            "the requests of `trace`: column `depends_on` is Int64; must be a list of integers",
            "the requests of `trace`: column `model` is Int64; must be text"
        ]
    );
}
