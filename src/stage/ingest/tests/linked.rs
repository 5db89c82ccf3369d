//! Who waits for whom: by names, by times, over several files.

use super::*;

fn lists(rows: &RecordBatch) -> Vec<Vec<i64>> {
    let lists = rows.column_by_name("depends_on").unwrap().as_list::<i32>();
    (0..rows.num_rows()).map(|i| lists.value(i).as_primitive::<Int64Type>().values().to_vec()).collect()
}

fn optional(rows: &RecordBatch, name: &str) -> Vec<Option<i64>> {
    rows.column_by_name(name).unwrap().as_primitive::<Int64Type>().iter().collect()
}

fn mooncake(id: &str, more: &str) -> String {
    format!("{{\"request_id\":\"{id}\",\"input_length\":1,\"output_length\":1{more}}}\n")
}

#[test]
fn names_become_numbers_and_arrivals_follow_from_those_waited_for() {
    // `late` stands before what it waits for; `c` and `d` wait for each other; `lost` for one that is not there.
    let text = [
        mooncake("a", ",\"timestamp\":1000"),
        mooncake("late", ",\"wait_for\":[\"b\",\"a\"],\"delay\":5"),
        mooncake("b", ",\"wait_for\":[\"a\"],\"tool_wait_ms\":20"),
        mooncake("lost", ",\"timestamp\":1001,\"wait_for\":[\"nobody\",\"lost\"]"),
        mooncake("s0", ",\"timestamp\":1002,\"session_id\":\"s\""),
        mooncake("s1", ",\"session_id\":\"s\",\"delay\":1"),
        mooncake("c", ",\"wait_for\":[\"d\"]"),
        mooncake("d", ",\"wait_for\":[\"c\"]"),
    ]
    .concat();
    for memory in [HOLD, TIGHT] {
        let made = run(&text, OnError::Fail, None, memory).unwrap();
        let rows = made.rows();
        assert_eq!(ints(rows, "request_id"), [0, 1, 2, 3, 4, 5, 6, 7]);
        // a, c, d, lost, s0, s1, b, late.
        assert_eq!(ints(rows, "arrival_ns"), [0, 0, 0, 1_000_000, 2_000_000, 3_000_000, 20_000_000, 25_000_000]);
        assert_eq!(lists(rows), [vec![], vec![2], vec![1], vec![], vec![], vec![], vec![0], vec![0, 6]]);
        let think = [None, None, None, None, None, Some(1_000_000), Some(20_000_000), Some(5_000_000)];
        assert_eq!(optional(rows, "think_ns"), think);
        assert!(rows.column_by_name("depends_on").unwrap().is_null(0));
        let lost = made.report().into_iter().find(|line| line.contains(" lost_waits ")).unwrap();
        assert!(lost.starts_with("t lost_waits 2 "), "{lost}");
    }
    let cut = run(&text, OnError::Fail, Some(3), HOLD).unwrap();
    assert_eq!((lists(cut.rows()), cut.rows().num_rows()), (vec![vec![], vec![0], vec![0, 1]], 3));
}

#[test]
fn names_are_those_of_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    std::fs::write(&one, mooncake("a", ",\"timestamp\":5") + &mooncake("b", ",\"wait_for\":[\"a\"],\"delay\":10"))
        .unwrap();
    std::fs::write(&two, mooncake("b", ",\"wait_for\":[\"a\"],\"delay\":1") + &mooncake("a", ",\"timestamp\":0"))
        .unwrap();
    let made = made(&ingest(&[&one, &two], OnError::Fail, None), dir.path(), 2, HOLD).unwrap();
    assert_eq!(ints(made.rows(), "arrival_ns"), [0, 1_000_000, 5_000_000, 15_000_000]);
    assert_eq!(lists(made.rows()), [vec![], vec![0], vec![], vec![2]]);
}

#[test]
fn times_say_who_waits_over_all_files_of_a_log() {
    let event = |session: &str, by: &str, at: u64, took: u64| {
        format!(
            "{{\"schema\":\"dynamo.request.trace.v1\",\"event_type\":\"request_end\",\"agent_context\":{{\"session_id\":\"{session}\"{by}}},\
             \"request\":{{\"request_received_ms\":{at},\"total_time_ms\":{took},\"output_tokens\":1,\"replay\":{{\"input_length\":64}}}}}}\n"
        )
    };
    let by = ",\"parent_session_id\":\"main\"";
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    // The log has events in the order of their ends.
    std::fs::write(&one, event("main", "", 1000, 100) + &event("helper", by, 1150, 50)).unwrap();
    std::fs::write(&two, event("main", "", 1300, 10) + &event("other", "", 1190, 200)).unwrap();
    let made = made(&ingest(&[&one, &two], OnError::Fail, None), dir.path(), 2, HOLD).unwrap();
    let rows = made.rows();
    assert_eq!(ints(rows, "arrival_ns"), [0, 150_000_000, 190_000_000, 300_000_000]);
    assert_eq!(lists(rows), [vec![], vec![0], vec![], vec![0, 1]]);
    assert_eq!(optional(rows, "think_ns"), [None, Some(50_000_000), None, Some(100_000_000)]);
    assert!(made.report().iter().any(|line| line.starts_with("- late 1 ")), "{:?}", made.report());
}

#[test]
fn lengths_beside_a_ragpulse_trace_are_files_of_the_stage() {
    let samples = crate::repository().join("data/samples/ragpulse");
    let spec = ingest(&[&samples.join("0_trace.jsonl")], OnError::Fail, None);
    let files: Vec<String> = spec.files().into_iter().map(|f| f.written).collect();
    let expect = ["0_trace.jsonl", "1_sys_prompt.jsonl", "2_passages.jsonl", "3_history.jsonl", "5_web_search.jsonl"];
    assert_eq!(files.iter().map(String::as_str).collect::<Vec<_>>(), [&expect[..], &["4_user_input.jsonl"]].concat());
    let dir = tempfile::tempdir().unwrap();
    let made = made(&spec, dir.path(), 2, HOLD).unwrap();
    let hashes = made.rows().column_by_name("block_hashes").unwrap();
    assert_eq!((made.rows().num_rows(), hashes.null_count()), (40, 0));
    let other = ingest(&[&crate::repository().join("data/samples/mooncake.jsonl")], OnError::Fail, None);
    assert_eq!(other.files().len(), 1);
}
