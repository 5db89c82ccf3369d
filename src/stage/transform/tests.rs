//! Steps on requests written by hand.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type, UInt64Type};
use serde_json::json;

use super::*;
use crate::spec::{Tree, from_tree};
use crate::stage::tokenize::testing;

const S: i64 = 1_000_000_000;

/// Ten requests, one a second from 0 s; those of even number belong to session `a`, of block size 16, prompt 64 (four
/// blocks, those of a session share the first two), reply 32.
fn trace() -> RecordBatch {
    let n = 10;
    let hashes = (0..n).map(|i| {
        let own = |b: u64| 1000 * (i as u64 + 1) + b;
        let shared = |b: u64| if i % 2 == 0 { 7 + b } else { own(b) };
        Some([shared(0), shared(1), own(2), own(3), own(4), own(5)].map(Some))
    });
    let mut lists = arrow::array::ListBuilder::new(arrow::array::UInt64Builder::new())
        .with_field(Field::new_list_field(DataType::UInt64, false));
    hashes.for_each(|list| lists.append_option(list));
    let mut before = arrow::array::ListBuilder::new(arrow::array::Int64Builder::new())
        .with_field(Field::new_list_field(DataType::Int64, false));
    (0..n as i64).for_each(|i| before.append_option((i == 4).then_some([Some(0), Some(2)])));
    let columns: [(&str, ArrayRef); 9] = [
        ("request_id", Arc::new(Int64Array::from_iter_values(0..n as i64))),
        ("arrival_ns", Arc::new(Int64Array::from_iter_values((0..n as i64).map(|i| i * S)))),
        ("session_id", Arc::new((0..n).map(|i| (i % 2 == 0).then_some("a")).collect::<StringArray>())),
        ("depends_on", Arc::new(before.finish())),
        ("input_tokens", Arc::new(Int32Array::from(vec![64; n]))),
        ("output_tokens", Arc::new(Int32Array::from(vec![32; n]))),
        ("block_hashes", Arc::new(lists.finish())),
        ("block_tokens", Arc::new(Int32Array::from(vec![16; n]))),
        ("observed_ttft_ns", Arc::new(Int64Array::from_iter_values((0..n as i64).map(|i| i + 1)))),
    ];
    requests::assemble(&requests::schema(), n, columns).unwrap()
}

fn stage(steps: Value) -> Transform {
    let settings = Tree::from_json(json!({ "from": "trace", "steps": steps }));
    from_tree(&settings).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// The rows that the steps make of `tables`, the first of which is `trace`, and the report.
fn run_of(tables: &[(&str, &RecordBatch)], steps: Value, seed: u64) -> Result<(RecordBatch, RecordBatch)> {
    let dir = tempfile::tempdir().unwrap();
    let mut cx = testing::cx(dir.path(), 2);
    cx.seed = seed;
    for (name, rows) in tables {
        let mut writer = cx.out.table(name, rows.schema()).unwrap();
        writer.write(rows).unwrap();
        writer.finish().unwrap();
        cx.inputs.insert(name.to_string(), cx.out.handle(name).unwrap());
    }
    stage(steps).transform(&cx)?;
    Ok((testing::read(&cx, "t"), testing::read(&cx, "t_report")))
}

fn run(steps: Value) -> RecordBatch {
    run_of(&[("trace", &trace())], steps, 1).unwrap().0
}

fn ints(rows: &RecordBatch, name: &str) -> Vec<i64> {
    rows.column_by_name(name).unwrap().as_primitive::<Int64Type>().values().to_vec()
}

fn counts(rows: &RecordBatch, name: &str) -> Vec<i32> {
    rows.column_by_name(name).unwrap().as_primitive::<Int32Type>().values().to_vec()
}

fn texts(rows: &RecordBatch, name: &str) -> Vec<Option<String>> {
    rows.column_by_name(name).unwrap().as_string::<i32>().iter().map(|t| t.map(str::to_string)).collect()
}

fn hashes(rows: &RecordBatch, i: usize) -> Vec<u64> {
    rows.column_by_name("block_hashes")
        .unwrap()
        .as_list::<i32>()
        .value(i)
        .as_primitive::<UInt64Type>()
        .values()
        .to_vec()
}

/// Which rows of the trace are there: each says so with what was observed of it.
fn which(rows: &RecordBatch) -> Vec<i64> {
    ints(rows, "observed_ttft_ns").iter().map(|n| n - 1).collect()
}

fn seconds(rows: &RecordBatch) -> Vec<f64> {
    ints(rows, "arrival_ns").iter().map(|ns| *ns as f64 / 1e9).collect()
}

#[test]
fn no_step_changes_nothing() {
    assert_eq!(run(json!([])), trace());
}

#[test]
fn a_window_is_cut_and_begins_at_zero() {
    let rows = run(json!([{ "window": { "from_s": 2, "to_s": 5 } }]));
    assert_eq!((which(&rows), seconds(&rows)), (vec![2, 3, 4], vec![0.0, 1.0, 2.0]));
    assert_eq!(ints(&rows, "request_id"), [0, 1, 2]);
    // Request 4 waited for 0, which is gone, and for 2, which is 0 now.
    let before = rows.column_by_name("depends_on").unwrap().as_list::<i32>().clone();
    assert_eq!(before.value(2).as_primitive::<Int64Type>().values().to_vec(), [0]);
    assert!(before.is_null(0) && before.is_null(1));
    let rows = run(json!([{ "window": { "from_s": 8.5, "keep_times": true } }]));
    assert_eq!((which(&rows), seconds(&rows)), (vec![9], vec![9.0]));
    let (_, report) = run_of(&[("trace", &trace())], json!([{ "window": { "from_s": 2 } }]), 1).unwrap();
    let found: Vec<_> = texts(&report, "what").into_iter().flatten().zip(ints(&report, "count")).collect();
    let expected =
        [("requests_in", 10), ("requests_out", 8), ("requests_in", 10), ("requests_out", 8), ("dependencies_cut", 1)];
    assert_eq!(found, expected.map(|(what, n)| (what.to_string(), n)));
}

#[test]
fn samples_keep_units_whole_and_smaller_ones_are_in_larger_ones() {
    let of = |share: f64, seed: u64| {
        let steps = json!([{ "sample": { "share": share } }]);
        which(&run_of(&[("trace", &trace())], steps, seed).unwrap().0)
    };
    let (small, large) = (of(0.3, 5), of(0.7, 5));
    assert!(!large.is_empty() && large.len() < 10 && small.len() < large.len(), "{small:?} {large:?}");
    assert!(small.iter().all(|i| large.contains(i)), "{small:?} {large:?}");
    assert!((0..20).any(|seed| of(0.5, seed) != of(0.5, seed + 1)));
    assert_eq!((of(0.0, 1).len(), of(1.0, 1).len()), (0, 10));
    for seed in 0..10 {
        let steps = json!([{ "sample": { "count": 3, "by": "session" } }]);
        let rows = which(&run_of(&[("trace", &trace())], steps, seed).unwrap().0);
        let of_a = rows.iter().filter(|i| *i % 2 == 0).count();
        // Three of six units: session `a` with its five requests, and five requests without a session.
        assert!((of_a == 0 && rows.len() == 3) || (of_a == 5 && rows.len() == 7), "{rows:?}");
    }
    // The second sample is drawn anew: of the half that the first one left, about half.
    let twice = json!([{ "sample": { "share": 0.5 } }, { "sample": { "share": 0.5 } }]);
    let lengths = (0..200).map(|seed| run_of(&[("trace", &trace())], twice.clone(), seed).unwrap().0.num_rows());
    let mean = lengths.sum::<usize>() as f64 / 200.0;
    assert!((mean - 2.5).abs() < 0.4, "{mean}");
}

#[test]
fn a_pace_changes_all_gaps_by_one_factor() {
    // Nine gaps in nine seconds are 1 request/s.
    let rows = run(json!([{ "rescale": { "rate_rps": 4 } }]));
    assert_eq!(seconds(&rows), (0..10).map(|i| f64::from(i) / 4.0).collect::<Vec<_>>());
    let rows = run(json!([{ "window": { "from_s": 2, "keep_times": true } }, { "rescale": { "factor": 0.5 } }]));
    assert_eq!(seconds(&rows)[..3], [2.0, 4.0, 6.0]);
    let failure =
        run_of(&[("trace", &trace())], json!([{ "window": { "to_s": 1 } }, { "rescale": { "rate_rps": 4 } }]), 1);
    assert!(failure.err().unwrap().to_string().contains("at no rate"));
}

#[test]
fn a_trace_is_played_again_with_words_of_its_own() {
    let rows = run(json!([{ "repeat": { "times": 2 } }, { "shift": { "s": 1 } }]));
    // The last arrival of the first is at 9 s, and the mean gap is a second.
    assert_eq!(seconds(&rows), (1..=20).map(f64::from).collect::<Vec<_>>());
    assert_eq!(
        (texts(&rows, "session_id")[0].as_deref(), texts(&rows, "session_id")[10].as_deref()),
        (Some("a"), Some("a#1"))
    );
    let before = rows.column_by_name("depends_on").unwrap().as_list::<i32>().clone();
    assert_eq!(before.value(14).as_primitive::<Int64Type>().values().to_vec(), [10, 12]);
    // Within the copy the same blocks are shared, and none with the first.
    assert_eq!(hashes(&rows, 10)[..2], hashes(&rows, 12)[..2]);
    assert!(hashes(&rows, 10).iter().all(|h| (0..10).all(|i| !hashes(&rows, i).contains(h))));
    let rows = run(json!([{ "repeat": { "duration_s": 25, "gap_s": 0.5, "prefixes": "shared" } }]));
    assert_eq!((rows.num_rows(), seconds(&rows)[10], *seconds(&rows).last().unwrap()), (26, 9.5, 24.0));
    assert_eq!(hashes(&rows, 12), hashes(&rows, 2));
}

#[test]
fn shuffling_keeps_times_and_turns() {
    let mut moved = 0;
    for seed in 0..20 {
        let steps = json!([{ "shuffle": { "window_s": 5 } }]);
        let rows = run_of(&[("trace", &trace())], steps, seed).unwrap().0;
        assert_eq!(seconds(&rows), seconds(&trace()));
        let order = which(&rows);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        assert!(order[..5].iter().all(|i| *i < 5), "within its window: {order:?}");
        assert!(order.iter().filter(|i| *i % 2 == 0).is_sorted(), "turns stay in order: {order:?}");
        moved += order.iter().enumerate().filter(|(place, i)| *place as i64 != **i).count();
    }
    assert!(moved > 40, "{moved}");
}

#[test]
fn tenants_share_a_clock_and_nothing_else() {
    let steps = json!([
        { "assign": { "tenant": "one" } },
        { "merge": { "table": "other", "tenant": "two", "shift_s": 0.5 } },
    ]);
    let rows = run_of(&[("trace", &trace()), ("other", &trace())], steps, 1).unwrap().0;
    assert_eq!(seconds(&rows)[..4], [0.0, 0.5, 1.0, 1.5]);
    let tenants: Vec<String> = texts(&rows, "tenant").into_iter().flatten().collect();
    assert_eq!(tenants[..4], ["one", "two", "one", "two"]);
    assert_eq!(
        (texts(&rows, "session_id")[0].as_deref(), texts(&rows, "session_id")[1].as_deref()),
        (Some("a"), Some("other/a"))
    );
    assert_ne!(hashes(&rows, 0), hashes(&rows, 1));
    let before = rows.column_by_name("depends_on").unwrap().as_list::<i32>().clone();
    assert_eq!(before.value(9).as_primitive::<Int64Type>().values().to_vec(), [1, 5]);
    let steps = json!([{ "merge": { "table": "other", "prefixes": "shared" } }]);
    let rows = run_of(&[("trace", &trace()), ("other", &trace())], steps, 1).unwrap().0;
    assert_eq!(hashes(&rows, 0), hashes(&rows, 1));
}

#[test]
fn lengths_take_their_blocks_along() {
    let rows = run(json!([{ "scale_lengths": { "input": 0.55, "output": 2, "output_max": 50 } }]));
    // 35.2 tokens are 35: two full blocks.
    assert_eq!((counts(&rows, "input_tokens")[0], counts(&rows, "output_tokens")[0]), (35, 50));
    assert_eq!(hashes(&rows, 0), [7, 8]);
    // A longer prompt keeps the blocks of what it was.
    assert_eq!(hashes(&run(json!([{ "scale_lengths": { "input": 2 } }])), 0), [7, 8, 1002, 1003]);
    // Of prompt and shorter reply, 64 + 16 tokens are five blocks.
    assert_eq!(hashes(&run(json!([{ "scale_lengths": { "output": 0.5 } }])), 0).len(), 5);
    assert_eq!(counts(&run(json!([{ "scale_lengths": { "input": 1e-9 } }])), "input_tokens")[0], 1);
}

#[test]
fn what_is_too_long_gives_way_where_it_is_said() {
    let cap = |most: u32, cut: &str| {
        let rows = run(json!([{ "cap": { "max_model_len": most, "cut": cut } }]));
        let first = |name: &str| counts(&rows, name).first().copied();
        (first("input_tokens"), first("output_tokens"), rows)
    };
    let (input, output, rows) = cap(80, "prompt_end");
    assert_eq!((input, output, hashes(&rows, 0)), (Some(48), Some(32), vec![7, 8, 1002]));
    let (input, output, rows) = cap(80, "prompt_start");
    assert_eq!((input, output, hashes(&rows, 0)), (Some(48), Some(32), vec![]));
    let (input, output, _) = cap(80, "output");
    assert_eq!((input, output), (Some(64), Some(16)));
    assert_eq!(cap(64, "output").2.num_rows(), 0);
    // 96 tokens are 16 too many: 64 - ceil(16 * 64 / 96) and 32 - ceil(16 * 32 / 96).
    let (input, output, _) = cap(80, "proportional");
    assert_eq!((input, output), (Some(53), Some(26)));
    assert_eq!((cap(95, "drop").2.num_rows(), cap(96, "drop").2), (0, trace()));
    let (input, output, _) = cap(20, "prompt_end");
    assert_eq!((input, output), (Some(1), Some(19)));
}

#[test]
fn rules_label_requests() {
    let rows = run(json!([
        { "assign": { "class": "chat", "deadline_s": 2.5 } },
        { "assign": { "where": "session_id = 'a' AND arrival_ns >= 4e9", "class": "batch", "priority": 3 } },
        { "set": { "cancel_ns": "CASE WHEN class = 'batch' THEN input_tokens * 1000 END", "n": "2" } },
    ]));
    let classes: Vec<String> = texts(&rows, "class").into_iter().flatten().collect();
    assert_eq!(classes, ["chat", "chat", "chat", "chat", "batch", "chat", "batch", "chat", "batch", "chat"]);
    assert_eq!(ints(&rows, "deadline_ns"), [2_500_000_000; 10]);
    let priority = rows.column_by_name("priority").unwrap().as_primitive::<Int32Type>();
    assert!(priority.is_null(0) && priority.value(4) == 3);
    let cancel = rows.column_by_name("cancel_ns").unwrap().as_primitive::<Int64Type>();
    assert!(cancel.is_null(0) && cancel.value(4) == 64_000);
    assert_eq!(ints(&rows, "n"), [2; 10]);
    let rows =
        run(json!([{ "filter": "input_tokens > 1 AND request_id < 3" }, { "assign": { "share": 1, "model": "m" } }]));
    assert_eq!(texts(&rows, "model"), [(); 3].map(|()| Some("m".to_string())));
}

#[test]
fn weights_are_shares() {
    let mut seen = [0; 3];
    for seed in 0..300 {
        let steps = json!([{ "distribute": { "column": "tenant", "weights": { "x": 1, "y": 3 }, "by": "session" } }]);
        let rows = run_of(&[("trace", &trace())], steps, seed).unwrap().0;
        let tenants: Vec<String> = texts(&rows, "tenant").into_iter().flatten().collect();
        assert!((0..10).step_by(2).all(|i| tenants[i] == tenants[0]), "a session has one");
        // Six draws: one of the session, and one of each request without.
        for tenant in [&tenants[0]].into_iter().chain(tenants.iter().skip(1).step_by(2)) {
            seen[usize::from(tenant == "y")] += 1;
        }
        seen[2] += 6;
    }
    // A standard deviation of the share of `y` is 0.010.
    assert!((f64::from(seen[1]) / f64::from(seen[2]) - 0.75).abs() < 0.04, "{seen:?}");
}

#[test]
fn values_that_cannot_be_are_told_all_at_once() {
    let steps = json!([
        { "window": { "from_s": 5, "to_s": 5 } },
        { "sample": { "share": 1.5, "count": 3 } },
        { "sample": {} },
        { "rescale": { "rate_rps": 0 } },
        { "repeat": { "times": 0 } },
        { "cap": { "max_model_len": 1, "cut": "drop" } },
        { "assign": { "where": "nosuch > 1" } },
        { "distribute": { "column": "class", "weights": {} } },
        { "set": { "input_tokens": "1" } },
        { "filter": "input_tokens" },
    ]);
    let stage = stage(steps);
    let shape = TableShape { name: "trace".to_string(), schema: Some(requests::schema()) };
    let tables = BTreeMap::from([("trace".to_string(), shape)]);
    let dir = tempfile::tempdir().unwrap();
    let cx = CheckCx { stages: &[], tables: &tables, seed: 1, project: dir.path() };
    let found: Vec<String> = stage.check("t", &cx).into_iter().map(|d| d.message).collect();
    let expected = [
        "steps[0].window.to_s",
        "has `share` and `count`",
        "share` is 1.5",
        "neither `share` nor `count`",
        "rate_rps` is 0",
        "times` is 0",
        "max_model_len` is 1",
        "assigns nothing",
        "nosuch",
        "weights` is empty",
        "cannot change `input_tokens`",
        "not true or false",
    ];
    for text in expected {
        assert!(found.iter().any(|m| m.contains(text)), "{text}: {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}
