//! Whole stages over a store in a temporary folder.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::{Array, AsArray, ListArray, RecordBatch, UInt64Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type};

use pipe_kernel::pools::Role;
use pipe_kernel::sim::scheduler::Scheduler;

use super::*;
use crate::spec::{Pipeline, StageSpec};
use crate::stage::{Cancel, Progress, ProgressSink, of};
use crate::store::{Memo, Staging, TableHandle};

/// A folder with a pipeline, a table of requests, and a memory of scenarios.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
    memo: Memo,
    requests: TableHandle,
    _kept: Staging,
}

#[derive(Default)]
struct Count {
    advanced: AtomicU64,
    warnings: Arc<Mutex<Vec<String>>>,
    /// Cancels once so many units are done.
    cancel: Option<(u64, Cancel)>,
}

impl ProgressSink for Count {
    fn total(&self, _units: u64, _what: &'static str) {}
    fn advance(&self, units: u64) {
        let done = self.advanced.fetch_add(units, Ordering::Relaxed) + units;
        if let Some((limit, cancel)) = &self.cancel
            && done >= *limit
        {
            cancel.cancel();
        }
    }
    fn warning(&self, text: &str) {
        self.warnings.lock().unwrap().push(text.to_string());
    }
}

/// What one run of a stage made.
pub(crate) struct Ran {
    pub out: Staging,
    pub outcome: Outcome,
    pub warnings: Vec<String>,
}

impl Ran {
    pub fn rows(&self, table: &str) -> RecordBatch {
        let handle = self.out.handle(table).unwrap();
        let mut batches = Vec::new();
        for part in &handle.parts {
            let file = std::fs::File::open(part).unwrap();
            let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
            batches.extend(reader.build().unwrap().map(std::result::Result::unwrap));
        }
        concat_batches(&handle.schema, &batches).unwrap()
    }

    pub fn hash(&self, table: &str) -> crate::store::Hash {
        self.out.handle(table).unwrap().hash
    }
}

pub(crate) fn ints(rows: &RecordBatch, column: &str) -> Vec<i64> {
    rows.column_by_name(column).unwrap().as_primitive::<Int64Type>().values().to_vec()
}

impl Bench {
    /// `n` requests, 10 a second, or without times.
    pub fn new(n: usize, timed: bool) -> Bench {
        let schema = crate::table::requests::schema();
        let arrival: Int64Array = (0..n as i64).map(|i| timed.then_some(i * 100_000_000)).collect();
        let int32 = |f: fn(usize) -> i32| Arc::new((0..n).map(f).collect::<arrow::array::Int32Array>()) as ArrayRef;
        let class: StringArray = (0..n).map(|i| (i % 2 == 0).then_some("chat")).collect();
        let hashes = ListArray::new_null(Arc::new(arrow::datatypes::Field::new_list_field(DataType::UInt64, false)), n);
        assert_eq!(hashes.values().as_any().downcast_ref::<UInt64Array>().unwrap().len(), 0);
        let columns: [(&str, ArrayRef); 6] = [
            ("request_id", Arc::new(Int64Array::from_iter_values(0..n as i64))),
            ("arrival_ns", Arc::new(arrival)),
            ("class", Arc::new(class)),
            ("input_tokens", int32(|i| 100 + (i as i32 * 37) % 900)),
            ("output_tokens", int32(|i| 20 + (i as i32 * 13) % 100)),
            ("block_hashes", Arc::new(hashes)),
        ];
        Bench::of(&crate::table::requests::assemble(&schema, n, columns).unwrap())
    }

    /// The same requests, of which each has hashes of blocks of so many tokens.
    pub fn rows_with_hashes(&self, block_tokens: i32) -> Bench {
        let file = std::fs::File::open(&self.requests.parts[0]).unwrap();
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        let batch = reader.build().unwrap().next().unwrap().unwrap();
        let n = batch.num_rows();
        let item = Arc::new(arrow::datatypes::Field::new_list_field(DataType::UInt64, false));
        let offsets = arrow::buffer::OffsetBuffer::from_lengths(vec![1; n]);
        let hashes = ListArray::new(item, offsets, Arc::new(UInt64Array::from_iter_values(0..n as u64)), None);
        let mut columns = batch.columns().to_vec();
        let at = |name: &str| batch.schema().index_of(name).unwrap();
        columns[at("block_hashes")] = Arc::new(hashes);
        columns[at("block_tokens")] = Arc::new(arrow::array::Int32Array::from(vec![block_tokens; n]));
        Bench::of(&RecordBatch::try_new(batch.schema(), columns).unwrap())
    }

    /// With any table of requests.
    pub fn of(batch: &RecordBatch) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::create(dir.path().join("input")).unwrap();
        let mut writer = staging.table("trace", batch.schema()).unwrap();
        writer.write(batch).unwrap();
        writer.finish().unwrap();
        let requests = staging.handle("trace").unwrap();
        let memo = Memo::open(dir.path().join("memo"));
        Bench { dir, memo, requests, _kept: staging }
    }

    /// Reads a pipeline whose stages follow a stage `trace`.
    pub fn pipeline(&self, stages: &str) -> Pipeline {
        let head = "name: test\nseed: 7\nstages:\n  trace:\n    synthesize: { requests: 10, rate_rps: 1, \
                    input: { constant: { tokens: 10 } }, output: { constant: { tokens: 10 } } }\n";
        let file = self.dir.path().join("test.yaml");
        std::fs::write(&file, format!("{head}{stages}")).unwrap();
        crate::spec::load(&file, &[]).unwrap_or_else(|f| panic!("{f}"))
    }

    fn with_kind<T>(&self, pipeline: &Pipeline, stage: &str, f: impl FnOnce(&dyn Kind, &CheckCx) -> T) -> T {
        let mut tables = BTreeMap::new();
        let schema = Some(self.requests.schema.clone());
        tables.insert("trace".to_string(), TableShape { name: "trace".to_string(), schema });
        let cx = CheckCx { stages: &pipeline.stages, tables: &tables, seed: pipeline.seed, project: self.dir.path() };
        let found = pipeline.stages.iter().find(|s| s.name.value == stage).unwrap();
        f(of(&found.spec), &cx)
    }

    pub fn check(&self, stages: &str, stage: &str) -> Vec<Diagnostic> {
        let pipeline = self.pipeline(stages);
        self.with_kind(&pipeline, stage, |kind, cx| kind.check(stage, cx))
    }

    pub fn recipe(&self, stages: &str, stage: &str) -> Value {
        let pipeline = self.pipeline(stages);
        self.with_kind(&pipeline, stage, |kind, cx| kind.recipe(cx))
    }

    pub fn tables(&self, stages: &str, stage: &str) -> Vec<TableShape> {
        let pipeline = self.pipeline(stages);
        self.with_kind(&pipeline, stage, |kind, cx| kind.tables(stage, cx))
    }

    /// The scenarios of a stage.
    pub fn scenarios(&self, stages: &str, stage: &str) -> Vec<Scenario> {
        let pipeline = self.pipeline(stages);
        let found = pipeline.stages.iter().find(|s| s.name.value == stage).unwrap();
        let StageSpec::Simulate(spec) = &found.spec else { panic!("{stage} is no simulation") };
        super::scenarios(spec, self.dir.path(), pipeline.seed).unwrap_or_else(|found| panic!("{found:?}"))
    }

    /// The table of requests as a simulation reads it.
    pub fn workload(&self) -> Result<Workload> {
        let catalog = crate::catalog::load(self.dir.path()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Workload::read(&self.requests, &catalog))
    }

    pub fn run(&self, stages: &str, stage: &str, threads: usize) -> Result<Ran> {
        self.run_until(stages, stage, threads, None)
    }

    /// With other tables beside `trace`.
    pub fn run_with(&self, stages: &str, stage: &str, tables: &[(&str, TableHandle)]) -> Result<Ran> {
        self.run_all(stages, stage, 2, None, tables)
    }

    /// Cancels the run once `limit` units of progress are done.
    pub fn run_until(&self, stages: &str, stage: &str, threads: usize, limit: Option<u64>) -> Result<Ran> {
        self.run_all(stages, stage, threads, limit, &[])
    }

    fn run_all(
        &self,
        stages: &str,
        stage: &str,
        threads: usize,
        limit: Option<u64>,
        tables: &[(&str, TableHandle)],
    ) -> Result<Ran> {
        let pipeline = self.pipeline(stages);
        let cancel = Cancel::default();
        let progress = Count { cancel: limit.map(|l| (l, cancel.clone())), ..Count::default() };
        let warnings = progress.warnings.clone();
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let out =
            Staging::create(self.dir.path().join(format!("out{}", RUNS.fetch_add(1, Ordering::Relaxed)))).unwrap();
        let cx = RunCx {
            stage: stage.to_string(),
            pipeline: pipeline.name.clone(),
            recipe: Value::Null,
            seed: pipeline.seed,
            project: self.dir.path().to_path_buf(),
            inputs: tables
                .iter()
                .map(|(name, table)| (name.to_string(), table.clone()))
                .chain([("trace".to_string(), self.requests.clone())])
                .collect(),
            stages: Arc::new(pipeline.stages.clone()),
            out: out.clone(),
            memo: self.memo.clone(),
            progress: Progress(Arc::new(progress)),
            cancel,
            pool: Arc::new(rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()),
        };
        let spec: &StageSpec = &pipeline.stages.iter().find(|s| s.name.value == stage).unwrap().spec;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let outcome = runtime.block_on(of(spec).run(cx))?;
        let warnings = std::mem::take(&mut *warnings.lock().unwrap());
        Ok(Ran { out, outcome, warnings })
    }
}

const SWEEP: &str = "
  sim:
    simulate:
      requests: trace
      deployment: { model: llama-3.1-8b, gpu: H100 }
      sweep:
        grid:
          workload.rate_rps: [1, 4, 16]
          deployment.tp: [1, 2]
        where: \"not (deployment_tp = 2 and rate_rps < 2) and deployment_pp = 1\"
";

#[test]
fn a_sweep_gives_its_tables_in_order_whatever_the_threads() {
    let bench = Bench::new(200, true);
    let ran = bench.run(SWEEP, "sim", 2).unwrap();
    let sim = ran.rows("sim");
    assert_eq!(ints(&sim, "scenario_id"), [0, 1, 2, 3, 4]);
    assert_eq!(ints(&sim, "deployment_tp"), [1, 1, 2, 1, 2]);
    let rates = sim.column_by_name("rate_rps").unwrap().as_primitive::<Float64Type>().values().to_vec();
    assert_eq!(rates, [1.0, 4.0, 4.0, 16.0, 16.0]);
    assert_eq!(ints(&sim, "gpus"), [1, 1, 2, 1, 2]);
    assert_eq!(ints(&sim, "requests"), [200; 5]);
    assert_eq!(sim.column_by_name("deployment_model").unwrap().as_string::<i32>().value(0), "meta-llama/Llama-3.1-8B");
    assert_eq!(sim.column_by_name("deployment_scheduler").unwrap().as_string::<i32>().value(0), "vllm_v1");
    assert_eq!(ints(&sim, "deployment_scheduler_vllm_v1_max_num_seqs"), [256; 5]);
    let shapes = bench.tables(SWEEP, "sim");
    assert_eq!(shapes[0].schema.as_ref().unwrap(), &sim.schema());

    let requests = ran.rows("sim_requests");
    assert_eq!(requests.num_rows(), 1000);
    let ids: Vec<(i64, i64)> = ints(&requests, "scenario_id").into_iter().zip(ints(&requests, "request_id")).collect();
    assert!(ids.is_sorted());
    let class = requests.column_by_name("class").unwrap().as_string::<i32>();
    assert!(class.value(200) == "chat" && class.is_null(201));

    let other = Bench::new(200, true);
    let again = other.run(SWEEP, "sim", 1).unwrap();
    assert_eq!(ran.hash("sim"), again.hash("sim"));
    assert_eq!(ran.hash("sim_requests"), again.hash("sim_requests"));
}

#[test]
fn finished_scenarios_are_reused_one_by_one() {
    let bench = Bench::new(100, true);
    let first = bench.run(SWEEP, "sim", 2).unwrap();
    assert_eq!(first.outcome.answer, ["sim: 5 scenarios, 500 requests"]);
    let grown = SWEEP.replace("[1, 4, 16]", "[1, 2, 4, 16]");
    let second = bench.run(&grown, "sim", 2).unwrap();
    assert_eq!(second.outcome.answer, ["sim: 7 scenarios, 700 requests, 5 reused"]);
    let other = Bench::new(100, true);
    let fresh = other.run(&grown, "sim", 2).unwrap();
    assert_eq!(second.hash("sim_requests"), fresh.hash("sim_requests"));
    assert_eq!(second.hash("sim"), fresh.hash("sim"));
}

#[test]
fn a_stopped_run_keeps_what_was_finished() {
    let bench = Bench::new(300, true);
    let rates: Vec<String> = (1..=100).map(|r| r.to_string()).collect();
    let sweep = SWEEP.replace("[1, 4, 16]", &format!("[{}]", rates.join(", ")));
    let stopped = bench.run_until(&sweep, "sim", 2, Some(5)).map(|_| ()).unwrap_err();
    assert_eq!(stopped.exit, crate::diag::Exit::Interrupted);
    let answer = bench.run(&sweep, "sim", 2).unwrap().outcome.answer.remove(0);
    let reused: usize = answer.rsplit(", ").next().unwrap().trim_end_matches(" reused").parse().unwrap();
    assert!((5..199).contains(&reused), "{answer}");
}

#[test]
fn steps_are_written_where_asked_for() {
    let bench = Bench::new(50, true);
    bench.run(SWEEP, "sim", 2).unwrap();
    let with_steps = SWEEP.replace("requests: trace", "requests: trace\n      steps: true");
    let ran = bench.run(&with_steps, "sim", 2).unwrap();
    let steps = ran.rows("sim_steps");
    assert_eq!(steps.num_rows() as i64, ints(&ran.rows("sim"), "steps").iter().sum::<i64>());
    assert!(ints(&steps, "scenario_id").is_sorted());
    let again = bench.run(&with_steps, "sim", 2).unwrap();
    assert!(again.outcome.answer[0].ends_with("5 reused"), "{:?}", again.outcome.answer);
}

#[test]
fn requests_without_times_need_a_process() {
    let bench = Bench::new(50, false);
    let plain = "
  sim:
    simulate: { requests: trace, deployment: { model: llama-3.1-8b, gpu: h100-sxm } }
";
    let failure = bench.run(plain, "sim", 1).map(|_| ()).unwrap_err();
    assert!(failure.diagnostics[0].help.as_ref().unwrap().contains("arrivals: poisson"), "{failure}");
    let with = plain.replace("gpu: h100-sxm }", "gpu: h100-sxm }, workload: { arrivals: poisson, rate_rps: 4 }");
    assert_eq!(ints(&bench.run(&with, "sim", 1).unwrap().rows("sim"), "finished"), [50]);
    let users = plain.replace("gpu: h100-sxm }", "gpu: h100-sxm }, workload: { concurrency: 4 }");
    assert_eq!(ints(&bench.run(&users, "sim", 1).unwrap().rows("sim"), "finished"), [50]);
}

#[test]
fn mistakes_have_a_place_and_a_remedy() {
    let bench = Bench::new(1, true);
    let case = |from: &str, to: &str| {
        let found = bench.check(&SWEEP.replace(from, to), "sim");
        let told = |d: &Diagnostic| {
            let line = d.at.as_ref().map_or(0, |a| a.line);
            format!("{line}: {} | {}", d.message, d.help.clone().unwrap_or_default())
        };
        found.iter().map(told).collect::<Vec<_>>()
    };
    assert_eq!(case("", ""), [""; 0]);
    assert_eq!(
        case("deployment.tp:", "deployment.tq:"),
        ["14: no setting `deployment.tq` in a scenario | did you mean `deployment.tp`?"]
    );
    assert_eq!(case("llama-3.1-8b", "llama-3.1-9b").len(), 1);
    let column = case("deployment_pp = 1", "deployment_ppp = 1");
    assert!(column[0].starts_with("15: ") && column[0].contains("deployment_pp"), "{column:?}");
    let none = case("deployment_pp = 1", "deployment_pp = 3");
    assert_eq!(none, ["15: the condition is true for none of the 6 scenarios | "]);
    let impossible = case("[1, 2]", "[1, 3]");
    assert_eq!(impossible.len(), 1, "{impossible:?}");
    assert!(impossible[0].starts_with("14: `deployment.tp`: 3 does not divide"), "{impossible:?}");
    assert!(impossible[0].contains("(3 scenarios)"), "{impossible:?}");
    let wrong = case("[1, 4, 16]", "[1, four, 16]");
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert!(wrong[0].starts_with("13: "), "{wrong:?}");
    let all = bench.check(
        &SWEEP.replace("[1, 4, 16]", "[1, four, 16]").replace("deployment.tp:", "deployment.tq:").replace("_pp", "_qp"),
        "sim",
    );
    let lines: Vec<u32> = all.iter().map(|d| d.at.as_ref().unwrap().line).collect();
    assert_eq!(lines, [14, 13, 15], "{all:?}");
}

#[test]
fn the_recipe_has_defaults_facts_and_sweep() {
    let bench = Bench::new(1, true);
    let recipe = bench.recipe(SWEEP, "sim");
    assert_eq!(recipe["base"]["deployment"]["kv"]["block_size"], 16);
    assert_eq!(recipe["base"]["deployment"].get("tp"), None);
    assert_eq!(recipe["sweep"]["grid"]["workload.rate_rps"], json!([1, 4, 16]));
    assert_eq!(recipe["facts"]["gpu h100-sxm"]["bf16_tflops"], 989.0);
    // An alias, and a line more, change nothing.
    let other = SWEEP.replace("llama-3.1-8b", "meta-llama/Llama-3.1-8B").replace("H100", "h100-sxm");
    assert_eq!(recipe, bench.recipe(&format!("\n{other}"), "sim"));
    let steps = SWEEP.replace("requests: trace", "requests: trace\n      steps: true");
    assert_ne!(recipe, bench.recipe(&steps, "sim"));
}

#[test]
fn what_only_some_items_of_a_list_set_is_in_the_recipe() {
    let bench = Bench::new(1, true);
    let base = |replicas: u32, list: &str| {
        let stage = format!(
            "
  sim:
    simulate:
      requests: trace
      deployment: {{ model: llama-3.1-8b, gpu: h100-sxm, replicas: {replicas} }}
      sweep: {{ list: [ {list} ] }}
"
        );
        bench.recipe(&stage, "sim")["base"].clone()
    };
    let some = "{ deployment.replicas: 4 }, { deployment.tp: 2 }";
    assert_eq!(base(1, some)["deployment"]["replicas"], 1);
    assert_eq!(base(2, some)["deployment"]["replicas"], 2);
    assert_eq!(base(2, some)["deployment"]["tp"], 1);
    let every = "{ deployment.replicas: 4 }, { deployment.replicas: 1, deployment.tp: 2 }";
    assert_eq!(base(1, every), base(2, every));
    // Impossible without the items: as it is written.
    let possible = "{ deployment.replicas: 4 }, { deployment.replicas: 1, deployment.tp: 2 }, \
                    { deployment.replicas: 2, deployment.pp: 2 }";
    assert_eq!(base(0, possible)["deployment"]["replicas"], Value::Null);
    assert_eq!(base(0, possible)["deployment"]["gpu"], "h100-sxm");
}

#[test]
fn gaps_between_tokens_are_counted_and_remembered() {
    let bench = Bench::new(60, true);
    let first = bench.run(SWEEP, "sim", 2).unwrap();
    let itl = first.rows("sim_itl");
    let requests = first.rows("sim_requests");
    let tokens = requests.column_by_name("output_tokens").unwrap().as_primitive::<Int32Type>();
    let gaps: i64 = tokens.values().iter().map(|n| i64::from(*n) - 1).sum();
    assert_eq!(ints(&itl, "tokens").iter().sum::<i64>(), gaps);
    let keys: Vec<(i64, i64)> = ints(&itl, "scenario_id").into_iter().zip(ints(&itl, "gap_ns_min")).collect();
    assert!(keys.is_sorted() && keys.last().is_some_and(|(id, _)| *id == 4));
    let again = bench.run(SWEEP, "sim", 2).unwrap();
    assert!(again.outcome.answer[0].ends_with("5 reused"), "{:?}", again.outcome.answer);
    for table in ["sim", "sim_itl", "sim_requests"] {
        assert_eq!(first.hash(table), again.hash(table), "{table}");
    }
    assert_eq!(bench.tables(SWEEP, "sim")[2].schema.as_ref().unwrap(), &itl.schema());
}

#[test]
fn what_an_engine_changes_of_its_own_accord_is_told() {
    let bench = Bench::new(5, true);
    let swept = SWEEP
        .replace("deployment.tp: [1, 2]", "deployment.scheduler: [{ sglang: { pp_size: 2 } }, { vllm_v1: {} }]")
        .replace("rate_rps: [1, 4, 16]", "rate_rps: [10]")
        .replace("deployment_tp = 2 and rate_rps < 2", "rate_rps > 100");
    let ran = bench.run(&swept, "sim", 1).unwrap();
    let expect = "in 1 of 2 scenarios, the engine's own way with \
                  `deployment.scheduler.sglang.disable_overlap_schedule`: true: pipeline parallelism is incompatible with \
                  overlap schedule";
    assert_eq!(ran.warnings, [expect]);
}

#[test]
fn a_warm_up_is_swept_like_anything_else() {
    let bench = Bench::new(50, true);
    let measured = SWEEP
        .replace("sweep:", "measure: { cooldown_requests: 5 }\n      sweep:")
        .replace("deployment.tp: [1, 2]", "measure.warmup_s: [0, 2, 9]")
        .replace("rate_rps: [1, 4, 16]", "rate_rps: [10]")
        .replace("deployment_tp = 2 and rate_rps < 2", "measure_warmup_s > 10");
    let ran = bench.run(&measured, "sim", 1).unwrap();
    let sim = ran.rows("sim");
    assert_eq!(ints(&sim, "requests"), [50; 3]);
    assert_eq!(ints(&sim, "measure_cooldown_requests"), [5; 3]);
    // One every 0.1 s; the last five do not count, nor those before 2 s.
    assert_eq!(ints(&sim, "measured_requests"), [45, 25, 0]);
    assert!(sim.column_by_name("ttft_ms_p50").unwrap().is_null(2));
    let rows = ran.rows("sim_requests");
    let flags = rows.column_by_name("measured").unwrap().as_boolean();
    let kept: Vec<bool> = flags.iter().flatten().skip(50).take(50).collect();
    assert_eq!(kept, (0..50).map(|i| (20..45).contains(&i)).collect::<Vec<_>>());
    assert_eq!(ran.warnings, ["1 scenarios have no figures: warm-up and cool-down leave no request to measure"]);
}

#[test]
fn classes_are_swept_by_their_names() {
    let bench = Bench::new(20, true);
    let swept = SWEEP
        .replace("sweep:", "workload: { classes: { chat: { priority: 3 } } }\n      sweep:")
        .replace("deployment.tp: [1, 2]", "workload.classes.chat.deadline_ms: [100, 200.5]")
        .replace("rate_rps: [1, 4, 16]", "classes.router.priority: [1]")
        .replace("deployment_tp = 2 and rate_rps < 2", "classes_chat_deadline_ms < 150");
    assert_eq!(bench.check(&swept, "sim"), []);
    let sim = bench.run(&swept, "sim", 1).unwrap().rows("sim");
    assert_eq!(ints(&sim, "classes_chat_priority"), [3]);
    assert_eq!(ints(&sim, "classes_router_priority"), [1]);
    let deadline = sim.column_by_name("classes_chat_deadline_ms").unwrap().as_primitive::<Float64Type>().value(0);
    assert_eq!(deadline, 200.5);
    let wrong = bench.check(&swept.replace("chat.deadline_ms:", "chat.deadlin_ms:"), "sim");
    assert_eq!(wrong[0].help.as_deref(), Some("did you mean `workload.classes.chat.deadline_ms`?"), "{wrong:?}");
    let wrong = bench.check(&swept.replace("{ priority: 3 }", "{ priorty: 3 }"), "sim");
    assert!(wrong[0].message.contains("priorty"), "{wrong:?}");
    let wrong = bench.check(&swept.replace("[100, 200.5]", "[100, -1]").replace("< 150", "> 50"), "sim");
    assert!(wrong[0].message.contains("chat.deadline_ms is -1"), "{wrong:?}");
}

const POOLS: &str = "
  sim:
    simulate:
      requests: trace
      deployment:
        model: llama-3.1-8b
        gpu: H100
        router: lop
        pools:
          prefill: { role: prefill, gpu: a100-80-sxm }
          decode: { role: decode, model: META-LLAMA/Llama-3.1-8B, scheduler: { vllm_v1: { max_num_seqs: 64 } } }
      sweep:
        grid:
          deployment.pools.prefill.replicas: [1, 2, 3]
          deployment.pools.decode.scheduler.vllm_v1.max_num_seqs: [64, 128]
        where: \"deployment_pools_prefill_replicas < 3 and deployment_router = 'least_tokens'\"
";

#[test]
fn pools_are_swept_by_their_names_and_have_facts_of_their_own() {
    let bench = Bench::new(1, true);
    assert_eq!(bench.check(POOLS, "sim"), []);
    let scenarios = bench.scenarios(POOLS, "sim");
    let of = |s: &Scenario| {
        let sites = s.sites();
        assert_eq!(sites.iter().map(|site| site.name.as_str()).collect::<Vec<_>>(), ["decode", "prefill"]);
        let Scheduler::VllmV1(rules) = &sites[0].deployment.scheduler else { panic!() };
        (sites[1].deployment.replicas, rules.max_num_seqs, s.deployment.gpus())
    };
    assert_eq!(scenarios.iter().map(of).collect::<Vec<_>>(), [(1, 64, 2), (1, 128, 2), (2, 64, 3), (2, 128, 3)]);
    // Names are those of the catalog; what is inherited stays unsaid.
    let (pools, facts) = (&scenarios[0].deployment.pools, &scenarios[0].pools);
    assert_eq!(pools["decode"].model.as_deref(), Some("meta-llama/Llama-3.1-8B"));
    assert_eq!((pools["decode"].gpu.as_deref(), pools["prefill"].gpu.as_deref()), (None, Some("a100-80-sxm")));
    let catalog = crate::catalog::load(bench.dir.path()).unwrap();
    assert_eq!([&facts[0].gpu, &facts[1].gpu], [catalog.gpu("h100-sxm").unwrap().1, &catalog.gpus["a100-80-sxm"]]);
    assert_eq!(facts[0].model, facts[1].model);
    let schema = bench.tables(POOLS, "sim")[0].schema.clone().unwrap();
    for column in [
        "deployment_pools_prefill_replicas",
        "deployment_pools_prefill_gpu",
        "deployment_pools_decode_role",
        "deployment_pools_decode_scheduler_vllm_v1_max_num_seqs",
        "deployment_disaggregation_transfer_bandwidth_gb_per_s",
        "deployment_signals_refresh_ms",
    ] {
        assert!(schema.field_with_name(column).is_ok(), "{column}");
    }
    let recipe = bench.recipe(POOLS, "sim");
    assert_eq!(recipe["facts"]["gpu a100-80-sxm"]["memory_gib"], facts[1].gpu.memory_gib);
    assert_eq!(recipe["base"]["deployment"]["pools"]["prefill"].get("replicas"), None);
}

#[test]
fn a_sweep_makes_the_pools_that_it_names() {
    let bench = Bench::new(1, true);
    let swept = SWEEP
        .replace("workload.rate_rps: [1, 4, 16]", "deployment.pools.p-1.role: [prefill]")
        .replace(
            "deployment.tp: [1, 2]",
            "deployment.pools.router.role: [decode]\n          deployment.pools.router.tp: [1, 2]",
        )
        .replace("deployment_tp = 2 and rate_rps < 2", "deployment_pools_p_1_role = 'mixed'");
    assert_eq!(bench.check(&swept, "sim"), []);
    let roles: Vec<Vec<(String, Role, u32)>> = bench
        .scenarios(&swept, "sim")
        .iter()
        .map(|s| s.sites().into_iter().map(|site| (site.name, site.role, site.deployment.tp)).collect())
        .collect();
    let p = || ("p-1".to_string(), Role::Prefill, 1);
    let d = |tp| ("router".to_string(), Role::Decode, tp);
    assert_eq!(roles, [[p(), d(1)], [p(), d(2)]]);
    // Two names of one column.
    let classes = SWEEP.replace("sweep:", "workload: { classes: { a-b: { priority: 3 }, a_b: {} } }\n      sweep:");
    let found = bench.check(&classes, "sim");
    assert!(found[0].message.contains("would both be the column `classes_a_b_priority`"), "{found:?}");
}

#[test]
fn mistakes_in_pools_have_their_place() {
    let bench = Bench::new(1, true);
    let case = |from: &str, to: &str| {
        assert!(POOLS.contains(from));
        let told = |d: &Diagnostic| {
            let at = d.at.as_ref().unwrap();
            format!("{}:{}: {} | {}", at.line, at.column, d.message, d.help.clone().unwrap_or_default())
        };
        bench.check(&POOLS.replace(from, to), "sim").iter().map(told).collect::<Vec<_>>()
    };
    assert_eq!(
        case("a100-80-sxm", "a100-80-smx"),
        ["15:42: no gpu `a100-80-smx` in the catalog | did you mean `a100-80-sxm`?"]
    );
    assert_eq!(case("META-LLAMA/Llama-3.1-8B,", "Llama-3.1-9B,").len(), 1);
    // The name of the deployment is looked up once, also for pools that inherit it.
    assert_eq!(case("gpu: H100", "gpu: H1000").len(), 1);
    let roles = case("role: decode", "role: mixed");
    assert_eq!(roles.len(), 2, "{roles:?}");
    assert!(roles[0].starts_with("16:27: `deployment.pools.decode.role`: "), "{roles:?}");
    assert!(roles[0].contains("(4 scenarios)"), "{roles:?}");
    assert!(roles[1].starts_with("15:28: `deployment.pools.prefill.role`: no decode pool"), "{roles:?}");
    // Swept values are wrong where the sweep has them.
    let swept = case("[64, 128]", "[0, 128]");
    assert!(swept[0].starts_with("20:68: `deployment.pools.decode.scheduler.vllm_v1.max_num_seqs`: is 0"), "{swept:?}");
    let path = case("deployment.pools.prefill.replicas:", "deployment.pools.prefill.replcas:");
    assert_eq!(
        path[0],
        "19:11: no setting `deployment.pools.prefill.replcas` in a scenario | did you mean \
         `deployment.pools.prefill.replicas`?"
    );
    let key = case("role: prefill, gpu", "role: prefill, gpus");
    assert!(key[0].contains("unknown key `gpus`") && key[0].contains("did you mean `gpu`?"), "{key:?}");
}

#[test]
fn blocks_that_do_not_fit_the_trace_are_told_before_anything_runs() {
    let bench = Bench::new(2, true);
    let hashed = bench.rows_with_hashes(512);
    let odd = SWEEP.replace("gpu: H100", "gpu: H100, kv: { block_size: 48 }");
    let failure = hashed.run(&odd, "sim", 1).map(|_| ()).unwrap_err();
    assert_eq!(failure.diagnostics.len(), 1, "{failure}");
    let d = &failure.diagnostics[0];
    assert_eq!(d.at.as_ref().unwrap().line, 10);
    assert!(d.message.starts_with("`deployment.kv.block_size`: 48 neither divides"), "{failure}");
    assert!(d.message.ends_with("(5 scenarios)"), "{failure}");
}

#[test]
fn pools_and_routes_are_written() {
    let bench = Bench::new(40, true);
    let with_routes = SWEEP.replace("requests: trace", "requests: trace\n      routes: true\n      steps: true");
    let names = |stages: &str| bench.tables(stages, "sim").into_iter().map(|t| t.name).collect::<Vec<_>>();
    assert_eq!(names(SWEEP), ["sim", "sim_requests", "sim_itl", "sim_pools"]);
    assert_eq!(names(&with_routes), ["sim", "sim_requests", "sim_itl", "sim_pools", "sim_steps", "sim_routes"]);
    assert_ne!(bench.recipe(SWEEP, "sim"), bench.recipe(&with_routes, "sim"));
    let first = bench.run(SWEEP, "sim", 2).unwrap();
    let pools = first.rows("sim_pools");
    let sim = first.rows("sim");
    assert_eq!(ints(&pools, "scenario_id"), [0, 1, 2, 3, 4]);
    assert_eq!(pools.column_by_name("pool").unwrap().as_string::<i32>().value(4), "default");
    for column in ["gpus", "requests", "steps", "busy_ns", "running_max", "kv_blocks_total", "kv_weights_bytes"] {
        assert_eq!(ints(&pools, column), ints(&sim, column), "{column}");
    }
    assert_eq!(ints(&pools, "replicas"), ints(&sim, "engines"));
    let requests = first.rows("sim_requests");
    let pool = requests.column_by_name("pool").unwrap().as_string::<i32>();
    assert!(pool.iter().all(|name| name == Some("default")));
    // What is remembered without routes is simulated again, what has them is not.
    let ran = bench.run(&with_routes, "sim", 2).unwrap();
    assert_eq!(ran.outcome.answer, ["sim: 5 scenarios, 200 requests"]);
    let again = bench.run(&with_routes, "sim", 2).unwrap();
    assert!(again.outcome.answer[0].ends_with("5 reused"), "{:?}", again.outcome.answer);
    for table in ["sim_pools", "sim_routes"] {
        assert_eq!(ran.hash(table), again.hash(table), "{table}");
    }
    assert_eq!(ran.rows("sim_routes").schema(), simulation::routes());
}

#[test]
fn tiers_have_rows_of_their_own() {
    let bench = Bench::new(40, true).rows_with_hashes(64);
    let tiered = SWEEP.replace("requests: trace", "requests: trace\n      workload: { exact_max_tokens: true }");
    let tiered = &tiered.replacen(
        "deployment: {",
        "deployment: { kv: { num_gpu_blocks: 900, tiers: [ \
        { kind: cpu, device: cpu_dram, capacity_blocks: 40 }, \
        { kind: remote, device: s3, capacity_blocks: 5000, shared: true, fetch: always } ] },",
        1,
    );
    assert!(bench.tables(tiered, "sim").iter().any(|t| t.name == "sim_tiers"), "{tiered}");
    assert!(!bench.tables(SWEEP, "sim").iter().any(|t| t.name == "sim_tiers"));
    let swept = SWEEP.replace("deployment.tp: [1, 2]", "deployment.kv.tiers: [[], [{ device: s3 }]]");
    assert!(bench.tables(&swept, "sim").iter().any(|t| t.name == "sim_tiers"));
    let ran = bench.run(tiered, "sim", 2).unwrap();
    let (sim, rows) = (ran.rows("sim"), ran.rows("sim_tiers"));
    assert_eq!(rows.schema(), simulation::tiers());
    assert_eq!(ints(&rows, "scenario_id"), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
    assert_eq!(ints(&rows, "tier"), [0, 1].repeat(5));
    assert_eq!(ints(&rows, "blocks_total"), [40, 5000].repeat(5));
    let kinds: Vec<_> = rows.column_by_name("kind").unwrap().as_string::<i32>().iter().flatten().collect();
    assert_eq!(kinds, ["cpu", "remote"].repeat(5));
    // The scenario has the sums over its tiers.
    for (sum, column) in [
        ("tier_lookups", "lookups"),
        ("tier_blocks_hit", "blocks_hit"),
        ("tier_bytes_read", "bytes_read"),
        ("tier_bytes_written", "bytes_written"),
        ("tier_blocks_evicted", "blocks_evicted"),
    ] {
        let sums: Vec<i64> = ints(&rows, column).chunks(2).map(|pair| pair.iter().sum()).collect();
        assert_eq!(sums, ints(&sim, sum), "{column}");
    }
    assert!(ints(&rows, "bytes_written").iter().all(|n| *n > 0), "something must happen");
}

#[test]
fn a_quantum_of_time_is_a_setting() {
    let bench = Bench::new(5, true);
    let tick =
        SWEEP.replace("deployment.tp: [1, 2]", "deployment.tick: [1us, 1ms]").replace("deployment_tp = 2", "false");
    let sim = bench.run(&tick, "sim", 1).unwrap().rows("sim");
    assert_eq!(sim.column_by_name("deployment_tick").unwrap().as_string::<i32>().value(1), "1ms");
    let wrong = bench.check(&tick.replace("1ms", "1h"), "sim");
    assert!(wrong[0].message.contains("not a quantum of time"), "{wrong:?}");
}
