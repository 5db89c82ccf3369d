//! Order, numbers, bad rows, limits, and that the way rows are held changes nothing.

use arrow::array::AsArray;
use arrow::datatypes::{Int64Type, UInt64Type};

use super::*;
use crate::stage::tokenize::testing;

fn ingest(path: &std::path::Path, bad_rows: BadRows, limit: Option<u64>) -> Ingest {
    Ingest {
        path: FilePath { written: "t".to_string(), path: path.to_path_buf(), at: None },
        format: Format::Auto,
        columns: Columns::default(),
        time_unit: TimeUnit::S,
        measured: None,
        run: None,
        tokens: None,
        block_tokens: None,
        bad_rows,
        limit,
    }
}

/// The rows of the stage's tables, for `content` read in `mode`.
fn run(content: &str, bad_rows: BadRows, limit: Option<u64>, mode: Mode) -> Result<Vec<RecordBatch>> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("trace");
    std::fs::write(&file, content).unwrap();
    let cx = testing::cx(dir.path(), 3);
    let spec = ingest(&file, bad_rows, limit);
    let settings = spec.settings();
    let job = Job { settings, bad_rows, limit, run: None, tokens: None, header: None, cx: cx.clone() };
    if mode == Mode::Hold {
        job.run()?;
    } else {
        let mut rejects = Rejects::new(&job)?;
        let mut table = Requests::new(&job.cx, mode);
        job.pass(&mut table, &mut rejects)?;
        rejects.finish()?;
        table.finish()?;
    }
    Ok(cx.out.tables().iter().map(|t| testing::read(&cx, &t.name)).collect())
}

fn ints(rows: &RecordBatch, name: &str) -> Vec<i64> {
    let column = arrow::compute::cast(rows.column_by_name(name).unwrap(), &DataType::Int64).unwrap();
    column.as_primitive::<Int64Type>().values().to_vec()
}

const LATE: &str = "arrival,input_tokens,output_tokens\n9,1,1\n7.5,2,1\nx,3,1\n9,4,1\n7.5,5,1\n";

#[test]
fn rows_are_sorted_numbered_and_start_at_zero() {
    for mode in [Mode::Hold, Mode::HoldAll] {
        let tables = run(LATE, BadRows::Reject, None, mode).unwrap();
        let [rejected, rows] = &tables[..] else { panic!("{tables:?}") };
        assert_eq!(ints(rows, "input_tokens"), [2, 5, 1, 4]);
        assert_eq!(ints(rows, "request_id"), [0, 1, 2, 3]);
        assert_eq!(ints(rows, "arrival_ns"), [0, 0, 1_500_000_000, 1_500_000_000]);
        assert_eq!((ints(rejected, "line"), ints(rejected, "column")), (vec![4], vec![1]));
    }
}

#[test]
fn bad_rows_fail_with_their_places_and_a_limit_spares_what_is_behind_it() {
    let failure = run(LATE, BadRows::Fail, None, Mode::Hold).unwrap_err();
    assert_eq!(failure.exit, Exit::Stage);
    assert!(failure.to_string().starts_with("t:4:1: `arrival` is `x`"), "{failure}");
    let tables = run(LATE, BadRows::Fail, Some(2), Mode::Hold).unwrap();
    assert_eq!(ints(&tables[0], "input_tokens"), [2, 1]);

    let many = format!("input_tokens,output_tokens\n{}", "0,1\n".repeat(100));
    let failure = run(&many, BadRows::Fail, None, Mode::Hold).unwrap_err();
    assert_eq!(failure.diagnostics.len(), PROBLEMS_MAX);
}

#[test]
fn every_mode_writes_the_same_rows() {
    let mut text = "arrival,input_tokens,output_tokens,class\n".to_string();
    for i in 0..300_000 {
        text += &format!("{}.5,{},1,{}\n", i / 3, i % 7 + 1, if i % 2 == 0 { "a" } else { "" });
    }
    let held = run(&text, BadRows::Fail, None, Mode::Hold).unwrap();
    assert_eq!(held[0].num_rows(), 300_000);
    assert_eq!(held, run(&text, BadRows::Fail, None, Mode::Stream).unwrap());
    assert_eq!(held, run(&text, BadRows::Fail, None, Mode::HoldAll).unwrap());
}

#[test]
fn hashes_are_chained() {
    let rows = |ids: &str| format!("{{\"timestamp\":0,\"input_length\":1,\"output_length\":1,\"hash_ids\":{ids}}}\n");
    let text = rows("[1,2]") + &rows("[3,2]") + &rows("[1,2,4]") + &rows("[]");
    let tables = run(&text, BadRows::Fail, None, Mode::Hold).unwrap();
    let lists = tables[0].column_by_name("block_hashes").unwrap().as_list::<i32>();
    let hashes = |i: usize| lists.value(i).as_primitive::<UInt64Type>().values().to_vec();
    assert_eq!(hashes(0), hashes(2)[..2]);
    assert_ne!(hashes(0)[1], hashes(1)[1]);
    assert!(hashes(3).is_empty());
}

mod measured;
