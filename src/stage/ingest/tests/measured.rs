//! Runs of servers: which formats are found, what is in both tables, and what is refused.

use super::*;
use crate::spec::MeasuredColumns;

const BENCH: &str = r#"{"request_id":"bench-1","input_toks":32,"output_toks":3,"arrival_time":1000.5,"queued_ts":7.75,"scheduled_ts":7.8,"first_token_ts":8.0,"last_token_ts":8.2}
{"request_id":"bench-0","input_toks":16,"output_toks":1,"arrival_time":1000.25,"queued_ts":7.25,"scheduled_ts":7.5,"first_token_ts":7.6,"last_token_ts":7.6}
"#;
const WORKLOAD: &str = r#"{"input_toks":2,"output_toks":1,"arrival_time_ns":0,"input_tok_ids":[1,2],"output_tok_ids":[3]}
{"input_toks":4,"output_toks":3,"arrival_time_ns":250000000,"input_tok_ids":[1,2,3,4],"output_tok_ids":[5,6,7]}
"#;
const SPANS: &str = "arrival,input_tokens,output_tokens,ttft,e2e,outcome,run\n1,10,5,20,100,200,a\n2,11,1,30,30,ok,b\n\
                     3,12,2,40,,error 500,b\n";
const TRACE_V2: &str = "request_id,prefix_group,prefix_length,input_tokens,output_tokens,send_time_us,first_chunk_time_us,\
                        last_chunk_time_us,status\n0,,0,8,2,100,300,500,ok\n1,sys,40,8,2,150,450,650,ok\n2,sys,40,9,0,200,0,0,\
                        timeout\n";

/// The tables of the stage for files in a folder; the first is the one read.
fn tables(files: &[(&str, &str)], change: impl Fn(&mut Ingest, &std::path::Path)) -> Result<Vec<RecordBatch>> {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    let cx = testing::cx(dir.path(), 2);
    let mut spec = ingest(&[&dir.path().join(files[0].0)], OnError::Fail, None);
    spec.path.0[0].written = files[0].0.to_string();
    change(&mut spec, dir.path());
    let mut job = job(&spec, &cx);
    job.header = spec.header().map(|h| h.path);
    job.run()?;
    let tables = cx.out.tables();
    Ok(tables.iter().filter(|t| t.name != "t_report").map(|t| testing::read(&cx, &t.name)).collect())
}

fn times(rows: &RecordBatch, name: &str) -> Vec<Option<i64>> {
    rows.column_by_name(name).unwrap().as_primitive::<Int64Type>().iter().collect()
}

fn texts(rows: &RecordBatch, name: &str) -> Vec<String> {
    rows.column_by_name(name).unwrap().as_string::<i32>().iter().map(|t| t.unwrap().to_string()).collect()
}

fn hashes(rows: &RecordBatch) -> Vec<Vec<u64>> {
    let lists = rows.column_by_name("block_hashes").unwrap().as_list::<i32>();
    (0..rows.num_rows()).map(|i| lists.value(i).as_primitive::<UInt64Type>().values().to_vec()).collect()
}

#[test]
fn a_benchmark_makes_requests_and_measured_times_with_the_same_numbers() {
    let tables = tables(&[("bench.jsonl", BENCH)], |_, _| {}).unwrap();
    let [requests, measured] = &tables[..] else { panic!("{}", tables.len()) };
    assert_eq!(ints(requests, "arrival_ns"), [0, 250_000_000]);
    assert_eq!((ints(requests, "input_tokens"), ints(measured, "input_tokens")), (vec![16, 32], vec![16, 32]));
    assert_eq!(ints(requests, "request_id"), ints(measured, "request_id"));
    // The clocks are 1000.25 - 7.25 s apart: the first was queued at once, the second arrived at 7.5.
    assert_eq!(times(measured, "queue_ns"), [Some(250_000_000), Some(300_000_000)]);
    assert_eq!(times(measured, "ttft_ns"), [Some(350_000_000), Some(500_000_000)]);
    assert_eq!(times(measured, "e2e_ns"), [Some(350_000_000), Some(700_000_000)]);
    assert_eq!(times(measured, "tpot_ns"), [None, Some(100_000_000)]);
    assert_eq!(times(measured, "prefill_ns"), [Some(100_000_000), Some(200_000_000)]);
    assert_eq!(texts(measured, "status"), ["completed", "completed"]);
    for name in ["queue_ns", "ttft_ns", "tpot_ns", "e2e_ns"] {
        assert_eq!(times(requests, &format!("observed_{name}")), times(measured, name), "{name}");
    }
    assert_eq!(texts(requests, "observed_status"), ["completed", "completed"]);
}

#[test]
fn a_benchmark_takes_hashes_from_its_workload_by_the_numbers_of_its_requests() {
    let bench = BENCH.replace(":32,", ":4,").replace(":16,", ":2,");
    let tokens = |spec: &mut Ingest, dir: &std::path::Path| {
        spec.block_tokens = Some(2);
        spec.tokens = Some(FilePath { written: "w".to_string(), path: dir.join("w"), at: None });
    };
    let with = tables(&[("bench.jsonl", &bench), ("w", WORKLOAD)], tokens).unwrap();
    let hashes_of = hashes(&with[0]);
    // 3 and 7 tokens in blocks of 2, which begin alike.
    assert_eq!((hashes_of[0].len(), hashes_of[1].len()), (1, 3));
    assert_eq!(hashes_of[0][0], hashes_of[1][0]);
    assert_eq!(ints(&with[0], "block_tokens"), [2, 2]);
    let failure = tables(&[("bench.jsonl", BENCH), ("w", WORKLOAD)], tokens).unwrap_err().to_string();
    assert!(failure.contains("`input_tokens` is 32, and 4 in request 1 of w"), "{failure}");
}

#[test]
fn a_workload_alone_is_a_trace() {
    let tables = tables(&[("w", WORKLOAD)], |_, _| {}).unwrap();
    assert_eq!(tables.len(), 1);
    assert_eq!((ints(&tables[0], "input_tokens"), ints(&tables[0], "arrival_ns")), (vec![2, 4], vec![0, 250_000_000]));
    let short = WORKLOAD.replace("[1,2]", "[1]");
    let failure = super::measured::tables(&[("w", &short)], |_, _| {}).unwrap_err().to_string();
    assert!(failure.contains("`input_tok_ids` has 1 items: expected 2, as `input_toks` says"), "{failure}");
}

#[test]
fn a_generic_file_says_which_columns_were_measured() {
    let name = |n: &str| Some(n.to_string());
    let columns = MeasuredColumns {
        unit: TimeUnit::Ms,
        ttft: name("ttft"),
        e2e: name("e2e"),
        status: name("outcome"),
        run: name("run"),
        ..MeasuredColumns::default()
    };
    let read = |run: Option<&str>| {
        tables(&[("t.csv", SPANS)], |spec, _| {
            spec.measured = Some(columns.clone());
            spec.run = run.map(str::to_string);
        })
    };
    let all = read(None).unwrap_err();
    assert_eq!(all.diagnostics[0].message, "t.csv has 2 runs, each with a time of its own");
    assert_eq!(
        all.diagnostics[0].help.as_deref(),
        Some("choose one with `run: ...`: `a` (1 requests), `b` (2 requests)")
    );
    assert!(read(Some("c")).unwrap_err().to_string().contains("has no run `c`"));
    let tables = read(Some("b")).unwrap();
    assert_eq!(
        (ints(&tables[0], "input_tokens"), ints(&tables[0], "arrival_ns")),
        (vec![11, 12], vec![0, 1_000_000_000])
    );
    let measured = &tables[1];
    assert_eq!(times(measured, "ttft_ns"), [Some(30_000_000), Some(40_000_000)]);
    assert_eq!(times(measured, "e2e_ns"), [Some(30_000_000), None]);
    assert_eq!(texts(measured, "status"), ["completed", "error 500"]);
}

#[test]
fn a_client_trace_adds_its_prefixes_and_marks_its_warm_up() {
    let header = "trace_version: 3\ntime_unit: microseconds\nmode: real\nwarm_up_requests: 1\n";
    let tables = tables(&[("t.csv", TRACE_V2), ("t.yaml", header)], |_, _| {}).unwrap();
    assert_eq!(ints(&tables[0], "input_tokens"), [8, 48, 49]);
    assert_eq!(ints(&tables[0], "output_tokens"), [2, 2, 1]);
    let hashes = hashes(&tables[0]);
    // 40 tokens of prefix have two full blocks of 16.
    assert_eq!((hashes[0].len(), hashes[1].len()), (0, 2));
    assert_eq!(hashes[1], hashes[2]);
    let measured = &tables[1];
    assert_eq!(texts(measured, "status"), ["warmup", "completed", "timeout"]);
    assert_eq!(times(measured, "ttft_ns"), [Some(200_000), Some(300_000), None]);
    assert_eq!(times(measured, "tpot_ns"), [Some(200_000), Some(200_000), None]);
    let outputs = measured.column_by_name("output_tokens").unwrap();
    assert!(outputs.is_null(2) && outputs.is_valid(1));
    let failure = super::measured::tables(&[("t.csv", TRACE_V2), ("t.yaml", "time_unit: seconds")], |_, _| {});
    assert!(failure.unwrap_err().to_string().contains("`time_unit` is `seconds`"));
}

#[test]
fn times_that_cannot_be_are_bad_rows() {
    for (change, expected) in [
        ("\"first_token_ts\":8.0", "`last_token_ts`"),
        ("\"first_token_ts\":-8.0", "negative"),
        ("\"first_token_ts\":NaN", "not valid JSON"),
        ("\"first_token_ts\":9.0", "the last token is before the first"),
    ] {
        let mut text = BENCH.replace("\"first_token_ts\":8.0", change);
        if expected.starts_with('`') {
            text = BENCH.replacen(",\"last_token_ts\":8.2", "", 1);
        }
        // The row that is whole shows the format, wherever it stands.
        let found =
            tables(&[("bench.jsonl", &text)], |spec, _| spec.format = Format::VllmBench).unwrap_err().to_string();
        assert!(found.contains(expected) && found.starts_with("bench.jsonl:1:"), "{change}: {found}");
    }
}

/// A sample of the repository.
fn sample(name: &str) -> String {
    std::fs::read_to_string(crate::repository().join("data/samples").join(name)).unwrap()
}

#[test]
fn a_report_of_several_benchmarks_is_read_run_by_run() {
    let report = sample("guidellm.json");
    let all = tables(&[("guidellm.json", &report)], |_, _| {}).unwrap_err();
    assert_eq!(
        all.diagnostics[0].help.as_deref(),
        Some("choose one with `run: ...`: `0:synchronous` (12 requests), `1:constant@4.0` (12 requests)")
    );
    let tables =
        tables(&[("guidellm.json", &report)], |spec, _| spec.run = Some("1:constant@4.0".to_string())).unwrap();
    let [requests, measured] = &tables[..] else { panic!("{}", tables.len()) };
    assert_eq!((requests.num_rows(), ints(requests, "arrival_ns")[0]), (12, 0));
    assert_eq!(ints(requests, "request_id"), ints(measured, "request_id"));
    let failed = texts(measured, "status").iter().filter(|s| *s != "completed").count();
    assert_eq!(failed, 1);
    let ttft = times(measured, "ttft_ns");
    assert_eq!(ttft.iter().flatten().count(), 11);
    // The engine of the sample takes 6 ms and 48 us per token of the prompt, and what the queue takes.
    let least = ints(requests, "input_tokens").into_iter().map(|n| 6_000_000 + 48_000 * n);
    assert!(ttft.iter().zip(least).all(|(ttft, least)| ttft.is_none_or(|ns| ns > least)));
}

#[test]
fn texts_with_times_are_sorted_by_them_and_keep_what_was_observed() {
    let tables = tables(&[("genai_perf.json", &sample("genai_perf.json"))], |_, _| {}).unwrap();
    let [requests] = &tables[..] else { panic!("{}", tables.len()) };
    let arrivals = ints(requests, "arrival_ns");
    assert!(arrivals.len() == 12 && arrivals[0] == 0 && arrivals.is_sorted());
    assert!(times(requests, "observed_ttft_ns").iter().all(|ns| ns.is_some_and(|ns| ns > 6_000_000)));
    assert_eq!(texts(requests, "observed_status"), vec!["completed"; 12]);
}

#[test]
fn a_document_that_is_cut_off_fails_with_its_place() {
    let report = sample("guidellm.json");
    let lines = report.lines().count();
    let cut = report.lines().take(lines - 3).collect::<Vec<_>>().join("\n");
    let failure = tables(&[("guidellm.json", &cut)], |_, _| {}).unwrap_err().to_string();
    assert!(failure.starts_with(&format!("guidellm.json:{}:", lines - 3)), "{failure}");
}
