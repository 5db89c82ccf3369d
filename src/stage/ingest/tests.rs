//! Order, numbers, bad rows, limits, reports, several files, and that the way rows are read and held changes nothing.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, UInt64Type};

use super::rows::Memory;
use super::*;
use crate::diag::Exit;
use crate::spec::{Paths, Quarantine};
use crate::stage::tokenize::testing;

fn ingest(paths: &[&Path], on_error: OnError, limit: Option<u64>) -> Ingest {
    let file = |path: &&Path| {
        let written = path.file_name().unwrap().to_string_lossy().into_owned();
        FilePath { written, path: path.to_path_buf(), at: None }
    };
    Ingest {
        path: Paths(paths.iter().map(file).collect()),
        format: Format::Auto,
        columns: Columns::default(),
        time_unit: TimeUnit::S,
        measured: None,
        run: None,
        tokens: None,
        block_tokens: None,
        on_error,
        limit,
    }
}

fn job(spec: &Ingest, cx: &RunCx) -> Job {
    Job {
        settings: spec.path.files().iter().map(|f| spec.settings(f)).collect(),
        on_error: spec.on_error,
        limit: spec.limit,
        run: spec.run.clone(),
        tokens: spec.tokens.clone(),
        header: None,
        memory: Memory::default(),
        step: None,
        cx: cx.clone(),
    }
}

/// The tables of a stage `t`, by name.
struct Made(BTreeMap<String, RecordBatch>, Vec<String>);

impl Made {
    fn rows(&self) -> &RecordBatch {
        &self.0["t"]
    }

    /// The report as `file what count note`.
    fn report(&self) -> Vec<String> {
        let rows = &self.0["t_report"];
        let text = |name: &str, i: usize| {
            let column = rows.column_by_name(name).unwrap().as_string::<i32>();
            column.iter().nth(i).flatten().unwrap_or("-").to_string()
        };
        let counts = ints(rows, "count");
        (0..rows.num_rows())
            .map(|i| format!("{} {} {} {}", text("file", i), text("what", i), counts[i], text("note", i)))
            .collect()
    }
}

const HOLD: Memory = Memory { held: 64 << 20, sorted: 512 << 20 };
/// Everything is written at once, and what is sorted is put on disk batch by batch.
const TIGHT: Memory = Memory { held: 0, sorted: 0 };

fn made(spec: &Ingest, dir: &Path, threads: usize, memory: Memory) -> Result<Made> {
    let out = tempfile::tempdir_in(dir).unwrap();
    let cx = testing::cx(out.path(), threads);
    let mut job = job(spec, &cx);
    job.memory = memory;
    let answer = job.run()?.answer;
    assert_eq!(std::fs::read_dir(&cx.out.dir).unwrap().count(), cx.out.tables().len(), "something is left over");
    Ok(Made(cx.out.tables().iter().map(|t| (t.name.clone(), testing::read(&cx, &t.name))).collect(), answer))
}

/// The tables for `content`, as a file `t`.
fn run(content: &str, on_error: OnError, limit: Option<u64>, memory: Memory) -> Result<Made> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t");
    std::fs::write(&file, content).unwrap();
    made(&ingest(&[&file], on_error, limit), dir.path(), 3, memory)
}

fn ints(rows: &RecordBatch, name: &str) -> Vec<i64> {
    let column = arrow::compute::cast(rows.column_by_name(name).unwrap(), &DataType::Int64).unwrap();
    column.as_primitive::<Int64Type>().values().to_vec()
}

const QUARANTINE: OnError = OnError::Quarantine(Quarantine { max_rows: None, max_share: None });
const LATE: &str = "arrival,input_tokens,output_tokens\n9,1,1\n7.5,2,1\nx,3,1\n9,4,1\n7.5,5,1\n";

#[test]
fn rows_are_sorted_numbered_and_start_at_zero() {
    for memory in [HOLD, TIGHT] {
        let made = run(LATE, QUARANTINE, None, memory).unwrap();
        let (rows, rejected) = (made.rows(), &made.0["t_rejected"]);
        assert_eq!(ints(rows, "input_tokens"), [2, 5, 1, 4]);
        assert_eq!(ints(rows, "request_id"), [0, 1, 2, 3]);
        assert_eq!(ints(rows, "arrival_ns"), [0, 0, 1_500_000_000, 1_500_000_000]);
        assert_eq!((ints(rejected, "line"), ints(rejected, "column")), (vec![4], vec![1]));
    }
}

#[test]
fn bad_rows_fail_with_their_places_and_a_limit_spares_what_is_behind_it() {
    let failure = run(LATE, OnError::Fail, None, HOLD).err().unwrap();
    assert_eq!(failure.exit, Exit::Stage);
    assert!(failure.to_string().starts_with("t:4:1: `arrival` is `x`"), "{failure}");
    assert!(failure.diagnostics[0].help.as_deref().unwrap().contains("on_error: quarantine"));
    let made = run(LATE, OnError::Fail, Some(2), HOLD).unwrap();
    assert_eq!(ints(made.rows(), "input_tokens"), [2, 1]);
    assert!(made.report().iter().any(|r| r.starts_with("- limit 2 ")), "{:?}", made.report());

    let many = format!("input_tokens,output_tokens\n{}", "-1,1\n".repeat(100));
    let failure = run(&many, OnError::Fail, None, HOLD).err().unwrap();
    assert_eq!(failure.diagnostics.len(), rejects::PROBLEMS_MAX);
}

#[test]
fn a_quarantine_has_limits() {
    let text = format!("input_tokens,output_tokens\n{}{}", "-1,1\n".repeat(3), "1,1\n".repeat(97));
    let run = |max_rows, max_share| run(&text, OnError::Quarantine(Quarantine { max_rows, max_share }), None, HOLD);
    let message = |made: Result<Made>| made.err().unwrap().diagnostics[0].message.clone();
    assert_eq!(message(run(Some(2), None)), "more than 2 rows cannot be read, and `max_rows` allows no more");
    let share = "3 of 100 rows (3.00 %) cannot be read, and `max_share` allows 2.00 %";
    assert_eq!(message(run(None, Some(0.02))), share);
    let made = run(Some(3), Some(0.03)).unwrap();
    assert_eq!((made.rows().num_rows(), made.0["t_rejected"].num_rows()), (97, 3));
    assert_eq!(made.1, ["t: 97 requests; 3 rows rejected (t_report)"]);
}

#[test]
fn the_report_has_what_was_noticed() {
    let text = "\u{feff}arrival,input_tokens,output_tokens\r\n9,1,1\r\n\r\n9,0,0\r\nx,1,1\r\ny,1,1\r\n8,1,1";
    let made = run(text, QUARANTINE, None, HOLD).unwrap();
    let expect = [
        "t format 1 csv",
        "t rows 5 rows, or conversations, in the file",
        "t requests 3 requests that they became",
        "t rejected 2 `arrival`: not a number, expected a time",
        "t zero_inputs 1 prompts of 0 tokens, read as 1",
        "t zero_outputs 1 replies of 0 tokens, read as 1",
        "t blank_lines 1 blank lines, passed over",
        "t crlf_rows 4 rows that end with CR LF",
        "t open_ends 1 files without an end of line at their end",
        "t byte_order_marks 1 files with a byte order mark",
        "- requests 3 requests in the table",
        "- late 1 arrivals before that of the row before them: sorted",
        "- ties 1 requests that arrive at the instant of the one before them",
    ];
    assert_eq!(made.report(), expect);
    let answer = "t: 3 requests; 2 rows rejected, 1 prompts of 0 tokens read as 1, 1 replies of 0 tokens read as 1, \
                  1 arrivals out of order (t_report)";
    assert_eq!(made.1, [answer]);
}

#[test]
fn nothing_odd_has_no_answer() {
    assert!(run("input_tokens,output_tokens\n1,1\n", OnError::Fail, None, HOLD).unwrap().1.is_empty());
}

#[test]
fn every_way_to_hold_rows_writes_the_same() {
    let (mut text, mut late) = ("arrival,input_tokens,output_tokens,class\n".to_string(), String::new());
    for i in 0..300_000 {
        let row = format!("{}.5,{},1,{}\n", i / 3, i % 7 + 1, if i % 2 == 0 { "a" } else { "" });
        text += &row;
        if i % 1000 == 0 { late.insert_str(0, &row) } else { late += &row }
    }
    let held = run(&text, OnError::Fail, None, HOLD).unwrap();
    assert_eq!(held.rows().num_rows(), 300_000);
    assert_eq!(held.0, run(&text, OnError::Fail, None, TIGHT).unwrap().0);
    // In order at first, and then not: what was written is dropped. Or sorted in memory, or in runs on disk.
    let late = format!("arrival,input_tokens,output_tokens,class\n{late}");
    let memories = [HOLD, TIGHT, Memory { held: 0, sorted: 4 << 20 }];
    let [a, b, c] = memories.map(|memory| run(&late, OnError::Fail, None, memory).unwrap());
    assert!(ints(a.rows(), "arrival_ns").is_sorted() && ints(a.rows(), "arrival_ns").len() == 300_000);
    assert_eq!(a.0, b.0);
    assert_eq!(a.0, c.0);
}

#[test]
fn hashes_are_chained() {
    let rows = |ids: &str| format!("{{\"timestamp\":0,\"input_length\":1,\"output_length\":1,\"hash_ids\":{ids}}}\n");
    let text = rows("[1,2]") + &rows("[3,2]") + &rows("[1,2,4]") + &rows("[]");
    let made = run(&text, OnError::Fail, None, HOLD).unwrap();
    let lists = made.rows().column_by_name("block_hashes").unwrap().as_list::<i32>();
    let hashes = |i: usize| lists.value(i).as_primitive::<UInt64Type>().values().to_vec();
    assert_eq!(hashes(0), hashes(2)[..2]);
    assert_ne!(hashes(0)[1], hashes(1)[1]);
    assert!(hashes(3).is_empty());
}

/// Files in a folder, some of them packed by their names.
fn files(dir: &Path, files: &[(&str, &str)]) -> Vec<PathBuf> {
    let write = |(name, content): &(&str, &str)| {
        let path = dir.join(name);
        let bytes = match path.extension().and_then(|e| e.to_str()) {
            Some("gz") => {
                let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                out.write_all(content.as_bytes()).unwrap();
                out.finish().unwrap()
            }
            Some("zst") => zstd::encode_all(content.as_bytes(), 1).unwrap(),
            _ => content.as_bytes().to_vec(),
        };
        std::fs::write(&path, bytes).unwrap();
        path
    };
    files.iter().map(write).collect()
}

fn of_files(content: &[(&str, &str)], pattern: &str) -> (tempfile::TempDir, Result<Made>) {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path(), content);
    let made = made(&ingest(&[&dir.path().join(pattern)], QUARANTINE, None), dir.path(), 2, HOLD);
    (dir, made)
}

#[test]
fn files_share_a_clock_and_come_in_the_order_of_their_names() {
    let head = "arrival,input_tokens,output_tokens\n";
    let content = [
        ("p-10.csv", format!("{head}5,10,1\n1,11,1\n")),
        ("p-9.csv.gz", format!("{head}5,9,1\nx,1,1\n")),
        ("p-1.csv.zst", format!("{head}3,1,1\n")),
    ];
    let content: Vec<(&str, &str)> = content.iter().map(|(n, c)| (*n, c.as_str())).collect();
    let (_dir, made) = of_files(&content, "p-*");
    let made = made.unwrap();
    assert_eq!(ints(made.rows(), "input_tokens"), [11, 1, 9, 10]);
    assert_eq!(ints(made.rows(), "arrival_ns"), [0, 2_000_000_000, 4_000_000_000, 4_000_000_000]);
    let rejected = &made.0["t_rejected"];
    assert_eq!(rejected.column_by_name("file").unwrap().as_string::<i32>().value(0), "p-9.csv.gz");
    assert_eq!(ints(rejected, "line"), [3]);
    let files: Vec<String> = made.report().iter().filter(|r| r.contains(" format ")).cloned().collect();
    assert_eq!(files, ["p-1.csv.zst format 1 csv, zstd", "p-9.csv.gz format 1 csv, gzip", "p-10.csv format 1 csv"]);
}

#[test]
fn a_file_of_another_format_names_both() {
    let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,1,1\n";
    let (_dir, made) = of_files(&[("a.csv", azure), ("b.csv", "input_tokens,output_tokens\n1,1\n")], "*.csv");
    let message = made.err().unwrap().diagnostics[0].message.clone();
    let expect = "`a.csv` is azure of tokens with arrivals without measured times, but `b.csv` is csv of tokens without \
                  arrivals without measured times";
    assert_eq!(message, expect);
}

#[test]
fn a_pattern_enters_the_recipe_by_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let text = "input_tokens,output_tokens\n1,1\n";
    let spec = ingest(&[&dir.path().join("*.csv")], OnError::Fail, None);
    let written = |spec: &Ingest| spec.files().into_iter().map(|f| f.written).collect::<Vec<_>>();
    assert_eq!(crate::store::input_problem(&spec.files()[0]).unwrap().message, "no file matches `*.csv`");
    files(dir.path(), &[("b.csv", text)]);
    assert_eq!(written(&spec), ["b.csv"]);
    files(dir.path(), &[("a.csv", text)]);
    assert_eq!(written(&spec), ["a.csv", "b.csv"]);
    let both = [dir.path().join("b.csv"), dir.path().join("*.csv")];
    let spec = ingest(&[&both[0], &both[1]], OnError::Fail, None);
    let stages = [];
    let tables = BTreeMap::new();
    let cx = CheckCx { stages: &stages, tables: &tables, seed: 0, project: dir.path() };
    let found = spec.check("t", &cx);
    assert_eq!(found[0].message, "`b.csv` is there twice: its requests would count twice");
    assert_eq!(spec.recipe(&cx)["files"], json!(["b.csv", "a.csv", "b.csv"]));
}

/// A text of rows, some of them odd: bad, blank, quoted, ended by CR LF, late.
fn random_text(seed: u64, quotes: bool) -> String {
    let mut state = seed;
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut text = "arrival,input_tokens,output_tokens,class\n".to_string();
    for i in 0..200 + draw(200) {
        text += &match draw(12) {
            0 => "\n".to_string(),
            1 => format!("x{i},1,1,a\n"),
            2 if quotes => format!("{i},{},1,\"a\nb,\"\"{}\"\n", draw(90), "z".repeat(draw(60) as usize)),
            3 => format!("{},{},0,late\r\n", i / 2, draw(90)),
            _ => format!("{i},{},{},c{}\n", draw(90) + 1, draw(9), draw(3)),
        };
    }
    if draw(2) == 0 {
        text.pop();
    }
    text
}

#[test]
fn rows_depend_on_the_content_alone() {
    for seed in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let text = random_text(seed, seed % 2 == 0);
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        // One file cut in two between rows: only where no quotes hide an end of line.
        let cut = lines[1..lines.len() / 2].concat();
        let (first, second) =
            (format!("{}{cut}", lines[0]), format!("{}{}", lines[0], text[lines[0].len() + cut.len()..].to_owned()));
        let names = [("t", &*text), ("t.gz", &text), ("t.zst", &text), ("half-1", &first), ("half-2", &second)];
        let paths = files(dir.path(), &names);
        let whole = made(&ingest(&[&paths[0]], QUARANTINE, None), dir.path(), 1, HOLD).unwrap();
        let same = |paths: &[&Path], threads, step: usize, memory| {
            let out = tempfile::tempdir_in(dir.path()).unwrap();
            let cx = testing::cx(out.path(), threads);
            let mut job = job(&ingest(paths, QUARANTINE, None), &cx);
            (job.memory, job.step) = (memory, Some(step));
            job.run().unwrap();
            let requests = testing::read(&cx, "t");
            assert_eq!(whole.rows(), &requests, "seed {seed}, {paths:?}, {threads} threads, chunks of {step}");
            let rejected = testing::read(&cx, "t_rejected");
            assert_eq!(rejected.num_rows(), whole.0["t_rejected"].num_rows());
            if paths.len() == 1 {
                for column in ["line", "column"] {
                    assert_eq!(ints(&rejected, column), ints(&whole.0["t_rejected"], column), "seed {seed}");
                }
                let counts = |rows: &RecordBatch| ints(rows, "count");
                assert_eq!(counts(&testing::read(&cx, "t_report")), counts(&whole.0["t_report"]), "seed {seed}");
            }
        };
        for (path, threads, step) in [(0, 3, 1), (0, 2, 7), (0, 3, 100), (0, 3, 4000), (1, 2, 50), (2, 3, 333)] {
            same(&[&paths[path]], threads, step, if step % 2 == 0 { HOLD } else { TIGHT });
        }
        if seed % 2 == 1 {
            same(&[&paths[3], &paths[4]], 2, 64, TIGHT);
        }
    }
}

mod linked;
mod measured;
