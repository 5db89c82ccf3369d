//! Tests of the stage, on small files of each layout.

mod real;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type};
use pipe_kernel::profile::{Operator, Point, Profile as Kernel};

use super::load;
use crate::diag::{Failure, Result};
use crate::spec::{BadRows, FilePath, Folder, GenericFile, OperatorTables, Profile, StepLog, Text, VidurFiles};
use crate::stage::tokenize::testing;
use crate::stage::{CheckCx, Kind, Progress, ProgressSink, RunCx};

fn file(path: &Path) -> FilePath {
    let written = path.file_name().and_then(|n| n.to_str()).unwrap_or("?").to_string();
    FilePath { written, path: path.to_path_buf(), at: None }
}

fn text(value: &str) -> Text {
    Text::new(value.to_string(), None)
}

/// Keeps what the user is warned of.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl ProgressSink for Heard {
    fn total(&self, _units: u64, _what: &'static str) {}
    fn advance(&self, _units: u64) {}
    fn warning(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_string());
    }
}

/// A stage that ran.
struct Made {
    cx: RunCx,
    warnings: Vec<String>,
    _dir: tempfile::TempDir,
}

impl Made {
    fn rows(&self, table: &str) -> RecordBatch {
        testing::read(&self.cx, table)
    }

    fn kernel(&self) -> Arc<Kernel> {
        load::read(&self.cx.out.handle("t").unwrap()).unwrap()
    }

    /// Text columns of the table of sources.
    fn sources(&self) -> Vec<(String, i64, i64, String)> {
        let rows = self.rows("t_sources");
        let text = |name: &str, i: usize| rows[name].as_string::<i32>().value(i).to_string();
        let count = |name: &str, i: usize| rows[name].as_primitive::<Int64Type>().value(i);
        (0..rows.num_rows()).map(|i| (text("file", i), count("rows", i), count("points", i), text("note", i))).collect()
    }
}

fn run(spec: &Profile) -> Result<Made> {
    run_with(spec, 2)
}

fn run_with(spec: &Profile, threads: usize) -> Result<Made> {
    let dir = tempfile::tempdir().unwrap();
    let heard = Arc::new(Heard::default());
    let cx = RunCx { progress: Progress(heard.clone()), ..testing::cx(dir.path(), threads) };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(spec.run(cx.clone()))?;
    let warnings = heard.0.lock().unwrap().clone();
    Ok(Made { cx, warnings, _dir: dir })
}

fn messages(failure: &Failure) -> Vec<String> {
    failure.diagnostics.iter().map(|d| d.message.clone()).collect()
}

/// The points of an operator: names, shape, time.
fn points(kernel: &Kernel, operator: Operator) -> Vec<(String, Vec<u32>, f64)> {
    let dims = operator.dims().len();
    let name = |n: u16| kernel.names[usize::from(n)].clone();
    kernel.of(operator).iter().map(|p| (name(p.variant), p.shape[..dims].to_vec(), p.latency_us)).collect()
}

fn operators(path: &Path, gpu: &str, version: Option<&str>) -> Profile {
    let settings = OperatorTables {
        path: file(path),
        gpu: text(gpu),
        framework: text("vllm"),
        version: version.map(text),
        nccl: None,
    };
    Profile { operators: Some(settings), ..Profile::default() }
}

/// Points of an operator that have this shape.
fn at(kernel: &Kernel, operator: Operator, variant: &str, dtype: &str, kv_dtype: &str, shape: &[u32]) -> Vec<f64> {
    let (Some(variant), Some(dtype), Some(kv_dtype)) =
        (kernel.name(variant), kernel.name(dtype), kernel.name(kv_dtype))
    else {
        return Vec::new();
    };
    let fits =
        |p: &&Point| (p.variant, p.dtype, p.kv_dtype) == (variant, dtype, kv_dtype) && p.shape[..shape.len()] == *shape;
    kernel.of(operator).iter().filter(fits).map(|p| p.latency_us).collect()
}

/// A folder of small files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn generic(dir: &tempfile::TempDir, name: &str, bad_rows: BadRows) -> Profile {
    let generic = GenericFile { path: file(&dir.path().join(name)), columns: Default::default() };
    Profile { generic: Some(generic), bad_rows, ..Profile::default() }
}

/// What is wrong before anything runs.
fn checked(spec: &Profile) -> Vec<String> {
    let tables = BTreeMap::new();
    let cx = CheckCx { stages: &[], tables: &tables, seed: 0, project: Path::new(".") };
    spec.check("t", &cx).into_iter().map(|d| format!("{} | {}", d.message, d.help.unwrap_or_default())).collect()
}

#[test]
fn points_of_ones_own_are_sorted_and_merged() {
    let text = "operator;latency_ms;tokens;n;k;dtype\n\
        gemm;0.3;8;4;4;b\ngemm;0.1;8;4;4;a\ngemm;0.2;2;4;4;a\ngemm;0.4;8;4;4;a\ngemm;0.9;8;4;4;a\n\
        all_reduce;7;0;0;0;a\ngemm;0.2;8;4;4;a\n";
    let dir = folder(&[("my.csv", text)]);
    let made = run(&generic(&dir, "my.csv", BadRows::Fail)).unwrap();
    let rows = made.rows("t");
    let column = |name: &str| rows[name].as_primitive::<Int64Type>().iter().collect::<Vec<_>>();
    assert_eq!(column("tokens"), [Some(2), Some(8), Some(8), None]);
    assert_eq!(column("gpus"), [None, None, None, Some(0)]);
    let times = rows["latency_us"].as_primitive::<Float64Type>().values().to_vec();
    // Of 0.1, 0.2, 0.4 and 0.9 the mean of the two in the middle.
    assert_eq!(times.iter().map(|t| t.round()).collect::<Vec<_>>(), [200.0, 300.0, 300.0, 7000.0]);
    assert_eq!(rows["samples"].as_primitive::<arrow::datatypes::Int32Type>().values(), &[1, 4, 1, 1]);
    let kernel = made.kernel();
    assert_eq!(kernel.names, ["", "a", "b"]);
    assert_eq!(kernel.of(Operator::Gemm).iter().map(|p| p.dtype).collect::<Vec<_>>(), [1, 1, 2]);
    assert_eq!(made.sources(), [("my.csv".to_string(), 7, 4, String::new())]);
    // Threads and order of rows are of no consequence.
    let mut lines: Vec<&str> = text.lines().collect();
    lines[1..].reverse();
    let other = folder(&[("my.csv", &lines.join("\n"))]);
    let spec = generic(&other, "my.csv", BadRows::Fail);
    assert_eq!(run_with(&spec, 1).unwrap().kernel().fingerprint, kernel.fingerprint);
}

#[test]
fn rows_that_cannot_be_are_named_or_counted() {
    let text = "operator,tokens,n,k,latency_us\ngemm,1,4,4,2.5\ngemm,2,4,4,-1\ngemm,3,4,4,\ngemm,4,4,4,0\n\
        gemm,5.5,4,4,1\ngemm,-6,4,4,1\ngemn,7,4,4,1\ngemm,8,4,4,inf\ngemm,9,4,4,x\n";
    let dir = folder(&[("my.csv", text)]);
    let failure = run(&generic(&dir, "my.csv", BadRows::Fail)).err().unwrap();
    let places: Vec<(u32, u32)> =
        failure.diagnostics.iter().map(|d| d.at.as_ref().map_or((0, 0), |at| (at.line, at.column))).collect();
    assert_eq!(places, [(8, 1), (3, 5), (4, 5), (5, 5), (6, 2), (7, 2), (9, 5), (10, 5)], "{:?}", messages(&failure));
    assert_eq!(messages(&failure)[1], "`latency_us` is \"-1\": expected a time above 0");
    assert_eq!(messages(&failure)[4], "`tokens` is \"5.5\": expected whole numbers of 0 or more");
    assert_eq!(failure.diagnostics[0].help.as_deref(), Some("did you mean `gemm`?"));
    assert!(failure.diagnostics[7].help.as_deref().unwrap().contains("bad_rows: reject"));

    let made = run(&generic(&dir, "my.csv", BadRows::Reject)).unwrap();
    assert_eq!(points(&made.kernel(), Operator::Gemm), [(String::new(), vec![1, 4, 4], 2.5)]);
    let sources = made.rows("t_sources");
    assert_eq!(
        sources["reasons"].as_string::<i32>().value(0),
        "1 negative, 2 no number, 2 no shape, 1 not finite, 1 unknown operator, 1 zero"
    );
    assert_eq!(sources["rejected"].as_primitive::<Int64Type>().value(0), 8);
}

#[test]
fn what_a_file_lacks_is_said_before_it_is_read() {
    let dir = folder(&[
        ("no_time.csv", "operator,tokens,n,k,latency\ngemm,1,2,3,4\n"),
        ("two_times.csv", "tokens,latency_us,latency_ms\n1,2,3\n"),
        ("no_shape.csv", "operator,latency_us\ngemm,2\n"),
        ("empty.csv", ""),
        ("no_rows.csv", "prefill_tokens,latency_us\n"),
        ("good.csv", "prefill_tokens,latency_us\n3,5\n"),
    ]);
    for (name, wanted) in [
        ("no_time.csv", "no_time.csv has no column of the time | expected one of latency_us"),
        ("two_times.csv", "two_times.csv has several columns of the time: latency_us, latency_ms | expected one"),
        ("no_shape.csv", "no_shape.csv has no column of a shape | expected some of tokens, n, k"),
        ("empty.csv", "empty.csv has no column of the time"),
    ] {
        let found = checked(&generic(&dir, name, BadRows::Fail));
        assert!(found.len() == 1 && found[0].starts_with(wanted), "{found:?}");
    }
    assert!(checked(&generic(&dir, "good.csv", BadRows::Fail)).is_empty());
    let failure = run(&generic(&dir, "no_rows.csv", BadRows::Fail)).err().unwrap();
    assert_eq!(messages(&failure), ["no_rows.csv has no rows"]);
    let failure = run(&generic(&dir, "no_rows.csv", BadRows::Reject)).err().unwrap();
    assert_eq!(messages(&failure), ["there is no point in these files"]);

    let named = |ours: &str, theirs: &str| {
        let mut spec = generic(&dir, "no_time.csv", BadRows::Fail);
        spec.generic.as_mut().unwrap().columns.insert(text(ours), text(theirs));
        checked(&spec)
    };
    assert_eq!(named("latency_us", "latenci"), ["no_time.csv has no column `latenci` | did you mean `latency`?"]);
    assert!(named("latency_uss", "latency")[0].ends_with("did you mean `latency_us`?"));
    assert_eq!(checked(&Profile::default()).len(), 1);
    let two = Profile { layers: Some(Folder { path: file(dir.path()) }), ..generic(&dir, "good.csv", BadRows::Fail) };
    assert!(checked(&two)[0].starts_with("a profile names `layers` and `generic`"), "{:?}", checked(&two));
}

#[test]
fn odd_units_and_lonely_points_are_told_of() {
    let mut text = "operator,tokens,n,k,latency_us\n".to_string();
    for (tokens, us) in [(1, 5.0), (2, 6.0), (4, 8000.0), (8, 12.0), (16, 20.0)] {
        text += &format!("gemm,{tokens},4,4,{us}\n");
    }
    text += "gemm,1,8,8,5\n";
    let dir = folder(&[("my.csv", &text)]);
    let made = run(&generic(&dir, "my.csv", BadRows::Fail)).unwrap();
    assert_eq!(
        made.warnings,
        [
            "my.csv row 3: `gemm` takes 8000 us, 943 times longer than beside it along `tokens`: is the unit right?",
            "1 of 2 series of `gemm` along `tokens` have one point, too few to look between: the first is my.csv row 6",
        ]
    );
}

/// A table of GEMMs with one row per (m, time in ms).
fn gemms(rows: &[(i64, f64)]) -> Vec<u8> {
    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
    let ints =
        |f: &dyn Fn(&(i64, f64)) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(rows.iter().map(f))) };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("gemm_dtype", Arc::new(StringArray::from_iter_values(rows.iter().map(|_| "fp8")))),
        ("m", ints(&|r| r.0)),
        ("n", ints(&|_| 64)),
        ("k", ints(&|_| 32)),
        ("latency", Arc::new(Float64Array::from_iter_values(rows.iter().map(|r| r.1)))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut bytes = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

/// A database in the layout of the package.
fn database() -> tempfile::TempDir {
    let dir = folder(&[
        ("x1.yaml", "gpu: { mem_bw: 1.5e12, power: 700 }\nmisc: { nccl_version: '2.1', nccl_mem: { 2: 100 } }\n"),
        ("data/x1/gemm/vllm/0.9.0/collection_meta.yaml", ""),
        ("data/x1/gemm/vllm/0.10.0/reuse.yaml", "reuse:\n- { table: gemm_perf, from_version: 0.9.1 }\n"),
        ("data/x1/gemm/vllm/0.9.1/reuse.yaml", "reuse:\n- { table: gemm_perf, from_version: 0.9.0 }\n"),
        ("data/x1/gemm/sglang/0.5.1/reuse.yaml", "reuse:\n- { table: gemm_perf, from_version: 0.4.0 }\n"),
        ("data/x1/moe/vllm/0.9.0/collection_meta.yaml", ""),
    ]);
    let write = |file: &str, rows: &[(i64, f64)]| {
        let path = dir.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, gemms(rows)).unwrap();
    };
    write("data/x1/gemm/vllm/0.9.0/gemm_perf.parquet", &[(1, 0.5), (2, 0.25), (2, 0.75)]);
    write("data/x1/gemm/vllm/0.10.0/weird_perf.parquet", &[(1, 0.5)]);
    dir
}

#[test]
fn a_version_takes_tables_of_another() {
    let dir = database();
    let made = run(&operators(dir.path(), "x1", None)).unwrap();
    let wanted = [(String::new(), vec![1, 64, 32], 500.0), (String::new(), vec![2, 64, 32], 500.0)];
    assert_eq!(points(&made.kernel(), Operator::Gemm), wanted);
    let name = |file: &str| format!("{}/data/x1/{file}", dir.path().file_name().unwrap().to_str().unwrap());
    let skipped = "skipped: no latency model looks up such a table".to_string();
    assert_eq!(
        made.sources(),
        [
            (name("gemm/vllm/0.10.0/weird_perf.parquet"), 0, 0, skipped),
            (name("gemm/vllm/0.9.0/gemm_perf.parquet"), 3, 2, "stands for version 0.10.0".to_string()),
            (name("moe/vllm"), 0, 0, "skipped: no version 0.10.0; there are 0.9.0".to_string()),
        ]
    );
    assert_eq!(made.rows("t_gpu").num_rows(), 4);
}

#[test]
fn what_a_database_does_not_have_is_named() {
    let dir = database();
    let said = |gpu: &str, framework: &str, version: Option<&str>| {
        let mut spec = operators(dir.path(), gpu, version);
        spec.operators.as_mut().unwrap().framework = text(framework);
        checked(&spec).join("\n")
    };
    assert!(
        said("x2", "vllm", None).ends_with("has no GPU `x2` | did you mean `x1`?\nGPUs: x1"),
        "{}",
        said("x2", "vllm", None)
    );
    assert!(
        said("x1", "trtllm", None)
            .ends_with("has no framework `trtllm` | did you mean `vllm`?\nframeworks: sglang, vllm")
    );
    assert_eq!(said("x1", "vllm", Some("7")), "vllm of `x1` has no version `7` | versions: 0.10.0, 0.9.0, 0.9.1",);
    assert!(said("x1", "sglang", None).contains("takes `gemm_perf` from version 0.4.0, which does not have it"));
    std::fs::write(dir.path().join("data/x1/gemm/vllm/0.10.0/reuse.yaml"), "other: 1").unwrap();
    assert!(said("x1", "vllm", None).contains("it has no list `reuse`"), "{}", said("x1", "vllm", None));
    std::fs::write(dir.path().join("data/x1/gemm/vllm/0.9.0/gemm_perf.parquet"), "no Parquet").unwrap();
    assert!(said("x1", "vllm", Some("0.9.0")).contains("cannot read"));
    let nowhere = operators(&dir.path().join("nowhere"), "x1", None);
    assert!(checked(&nowhere)[0].starts_with("folder `nowhere` does not exist"));
}

#[test]
fn layers_of_small_files() {
    let dir = folder(&[
        ("meta.yaml", "variant: bf16-kvfp8\nskew_fit:\n  enabled: true\n  per_tp:\n    2: { alpha_default: -0.5 }\n"),
        ("tp2/dense.csv", "layer,tokens,time_us\no_proj,1,2.5\no_proj,2,3\n"),
        (
            "tp2/attention.csv",
            "layer,prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\nattention,1,2,3,4,5\nindexer,1,2,3,4,6\n",
        ),
        ("tp2/moe.csv", "tokens,activated_experts,time_us\n1,2,3\n2,2,4\n"),
        (
            "tp2/skew_fit.csv",
            "pc,n_label,skew_rate_label,kv_big_label,kp_label,alpha,n_samples\n0,n>256,sr>70%,kvB<=1k,kp=0,-0.25,4\n",
        ),
        ("tp2/mtp.csv", "a\n"),
        ("other/x.csv", "a\n"),
    ]);
    let made = run(&Profile { layers: Some(Folder { path: file(dir.path()) }), ..Profile::default() }).unwrap();
    let kernel = made.kernel();
    assert_eq!(at(&kernel, Operator::TokenLayer, "o_proj", "bf16", "fp8", &[2, 2, 0, 0, 0, 0, 0, 0]), [3.0]);
    assert_eq!(at(&kernel, Operator::MoeLayer, "", "bf16", "fp8", &[1, 2, 2]), [3.0]);
    let attention = points(&kernel, Operator::BatchAttention);
    assert_eq!(
        attention,
        [(String::new(), vec![1, 2, 3, 4, 2], 5.0), ("indexer".to_string(), vec![1, 2, 3, 4, 2], 6.0)]
    );
    assert_eq!(at(&kernel, Operator::SkewAlpha, "", "bf16", "fp8", &[0, 1_000_000_000, 100, 1024, 0, 2]), [-0.25]);
    assert_eq!(at(&kernel, Operator::SkewAlpha, "default", "", "", &[0, 0, 0, 0, 0, 2]), [-0.5]);
    let notes: Vec<String> = made.sources().into_iter().map(|s| s.3).filter(|note| !note.is_empty()).collect();
    assert_eq!(notes, ["skipped: not a folder `tp<N>`", "skipped: layers of draft models are not looked up"]);

    std::fs::write(dir.path().join("tp2/dense.csv"), "layer,toks,time_us\no_proj,1,2.5\n").unwrap();
    let found = checked(&Profile { layers: Some(Folder { path: file(dir.path()) }), ..Profile::default() });
    assert!(found[0].contains("tp2/dense.csv has no column `tokens` | did you mean `toks`?"), "{found:?}");
    let wrong = Profile { layers: Some(Folder { path: file(&dir.path().join("tp2")) }), ..Profile::default() };
    assert!(checked(&wrong)[0].contains("has no tables of LLMServingSim's profiler"));
}

#[test]
fn vidurs_files_of_few_rows() {
    let sizes = "n_embd,n_q_head,n_kv_head,block_size,num_tensor_parallel_workers";
    let attention = format!(
        "time_stats.attn_prefill.median,time_stats.attn_decode.median,time_stats.attn_kv_cache_save.median,{sizes},\
         batch_size,prefill_chunk_size,kv_cache_size\n\
         0.5,,0.01,64,4,2,16,1,1,128,0\n0.5,,0.01,64,4,2,16,1,1,128,0\n,0.0,0.0,64,4,2,16,1,8,0,256\n"
    );
    let dir = folder(&[
        ("attention.csv", &attention),
        (
            "cpu.csv",
            "model_name,tensor_parallel_degree,batch_size,schedule_median,ray_comm_time_mean\n\
             a,1,4,0.5,0.25\nb,1,4,0.75,\n",
        ),
    ]);
    let files = |model: Option<&str>| Profile {
        vidur: Some(VidurFiles {
            attention: Some(file(&dir.path().join("attention.csv"))),
            cpu_overheads: Some(file(&dir.path().join("cpu.csv"))),
            model: model.map(text),
            ..VidurFiles::default()
        }),
        ..Profile::default()
    };
    assert_eq!(checked(&files(None)), ["cpu.csv is of several models | add `model:`, one of a, b"]);
    let made = run(&files(Some("b"))).unwrap();
    let kernel = made.kernel();
    let point = |shape: &[u32], us: f64| (String::new(), shape.to_vec(), us);
    assert_eq!(points(&kernel, Operator::PrefillAttention), [point(&[0, 128, 1, 4, 2, 64, 16], 500.0)]);
    assert_eq!(points(&kernel, Operator::DecodeAttention), [point(&[256, 8, 1, 4, 2, 64, 16], 0.0)]);
    let saved = [point(&[8, 1, 4, 2, 64, 16], 0.0), point(&[128, 1, 4, 2, 64, 16], 10.0)];
    assert_eq!(points(&kernel, Operator::KvCacheSave), saved);
    // What was not measured is no point.
    assert_eq!(points(&kernel, Operator::Cpu), [("schedule".to_string(), vec![4, 1], 750.0)]);
    assert_eq!(checked(&Profile { vidur: Some(VidurFiles::default()), ..Profile::default() }).len(), 1);
}

#[test]
fn steps_are_read_from_logs_of_several_kinds() {
    let dir = folder(&[
        (
            "traced.csv",
            "step.duration_us,batch.prefill_tokens,batch.num_prefill_reqs,batch.num_decode_reqs,\
             kv.blocks_total_gpu,kv.blocks_free_gpu,gpu\n\
             900,0,0,0,10,10,a\n500,0,0,3,10,4,a\n700,128,1,0,10,2,a\n600,0,0,3,10,4,a\n1,0,0,3,10,4,b\n",
        ),
        (
            "vllm.csv",
            "num_scheduled_tokens,scheduled_new_reqs,took\n\
             \"{'a-0': 1, 'b:1': 1, 'c': 512}\",1,0.25\n{},0,9\nbroken,0,1\n",
        ),
    ]);
    let log = |name: &str, columns: &[(&str, &str)], filter: &[(&str, &str)]| {
        let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| (text(a), text(b))).collect();
        let path = file(&dir.path().join(name));
        let steps = StepLog { path, columns: pairs(columns), filter: pairs(filter), block_tokens: 16, tp: 4 };
        Profile { steps: Some(steps), bad_rows: BadRows::Reject, ..Profile::default() }
    };
    let made = run(&log("traced.csv", &[], &[("gpu", "a")])).unwrap();
    let steps =
        |made: &Made| points(&made.kernel(), Operator::Step).into_iter().map(|p| (p.1, p.2)).collect::<Vec<_>>();
    // Six blocks of 16 tokens are in use while three requests decode; the step without tokens is none.
    assert_eq!(steps(&made), [(vec![0, 0, 0, 3, 96, 4], 550.0), (vec![128, 1, 0, 0, 0, 4], 700.0)]);
    assert_eq!(made.sources()[0].3, "1 steps without tokens passed over");
    let made = run(&log("vllm.csv", &[("latency_s", "took")], &[])).unwrap();
    assert_eq!(steps(&made), [(vec![512, 1, 0, 2, 0, 4], 250_000.0)]);
    assert!(checked(&log("vllm.csv", &[], &[]))[0].starts_with("vllm.csv has no column of the time"));
    assert!(checked(&log("traced.csv", &[], &[("gpv", "a")]))[0].ends_with("did you mean `gpu`?"));
}
