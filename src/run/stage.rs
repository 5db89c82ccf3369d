//! One stage of a run: decide, run, commit, publish. On a thread of its own, where it may block.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::runtime::Handle;

use super::events::{Events, StageProgress};
use super::millis;
use crate::diag::{Exit, Failure, Result};
use crate::plan::{self, Action, Dag};
use crate::stage::{Cancel, Outcome, Progress, RunCx};
use crate::store::{Finished, InputRecord, Manifest, Recipe, StageAction, Staging, Store, StoreLock};

/// What all stages of a run share.
pub(super) struct Shared {
    pub pipeline: String,
    pub seed: u64,
    pub dag: Dag,
    pub store: Store,
    /// Recipes of the stages as they were last published.
    pub last: BTreeMap<String, Recipe>,
    /// Stages to run even if cached.
    pub forced: BTreeSet<usize>,
    pub events: Arc<dyn Events>,
    /// Set when the user asks to stop, or when a stage fails.
    pub stop: Cancel,
    pub pool: LazyPool,
    /// Held until the last thread of the run ends.
    pub _lock: StoreLock,
}

/// Threads for computations, made when the first stage runs: a run that finds everything cached needs none.
pub(super) struct LazyPool {
    jobs: usize,
    pool: OnceLock<std::result::Result<Arc<rayon::ThreadPool>, String>>,
}

impl LazyPool {
    pub fn new(jobs: usize) -> LazyPool {
        LazyPool { jobs, pool: OnceLock::new() }
    }

    fn get(&self) -> Result<Arc<rayon::ThreadPool>> {
        let made = self.pool.get_or_init(|| {
            let builder = rayon::ThreadPoolBuilder::new().num_threads(self.jobs);
            builder.thread_name(|i| format!("pipe-cpu-{i}")).build().map(Arc::new).map_err(|e| e.to_string())
        });
        made.clone().map_err(|e| Failure::stage("run::threads", format!("cannot start {} threads: {e}", self.jobs)))
    }
}

/// A stage that is through.
pub(super) struct Done {
    pub manifest: Manifest,
    pub action: StageAction,
    pub reason: String,
    pub millis: u64,
    /// Files that it read.
    pub inputs: Vec<InputRecord>,
}

/// [`through`], with panics as failures and the end reported.
pub(super) fn guarded(
    shared: &Shared,
    stage: usize,
    manifests: &BTreeMap<usize, Manifest>,
    handle: &Handle,
) -> Result<Done> {
    let begun = Instant::now();
    let name = &shared.dag.nodes[stage].name;
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| through(shared, stage, manifests, handle)))
        .unwrap_or_else(|panic| Err(broken(name, &*panic)));
    let (action, rows) = match &result {
        Ok(done) => (done.action, done.manifest.rows()),
        Err(failure) if failure.exit == Exit::Interrupted => (StageAction::Interrupted, 0),
        Err(_) => (StageAction::Failed, 0),
    };
    shared.events.stage_finished(name, action, rows, millis(begun.elapsed()));
    result
}

/// A bug of ours, as a failure: the other stages keep their results.
fn broken(stage: &str, panic: &(dyn Any + Send)) -> Failure {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no text");
    Failure::stage("run::bug", format!("stage `{stage}` failed because of a bug in pipe: {text}"))
}

fn through(shared: &Shared, stage: usize, manifests: &BTreeMap<usize, Manifest>, handle: &Handle) -> Result<Done> {
    let Shared { dag, store, .. } = shared;
    let node = &dag.nodes[stage];
    let begun = Instant::now();
    let inputs = plan::input_hashes(dag, stage, manifests).ok_or_else(|| missing_input(dag, stage, manifests))?;
    let recipe = plan::recipe(dag, stage, shared.seed, inputs, store)?;
    let (last, forced) = (shared.last.get(&node.name), shared.forced.contains(&stage));
    let decision = plan::decide(&recipe, last, forced, dag.kind(stage).writes_outside(), store);
    if let Some(why) = &decision.damage {
        shared.events.warning(&format!("the result of stage `{}` is damaged and made again: {why}", node.name));
        store.discard(&recipe.fingerprint())?;
    }
    let files = recipe.files.iter().map(|(file, hash)| InputRecord { file: file.clone(), hash: hash.clone() });
    let files = files.collect();
    let reason = decision.action.reason();
    let (manifest, action) = match decision.action {
        Action::Cached(manifest) => (*manifest, StageAction::Cached),
        Action::Run { .. } | Action::Unknown { .. } | Action::Skipped => {
            shared.stop.check()?;
            shared.events.stage_started(&node.name, node.kind, &reason);
            (make(shared, stage, recipe, manifests, handle)?, StageAction::Ran)
        }
    };
    store.publish(&shared.pipeline, &node.name, &manifest)?;
    Ok(Done { manifest, action, reason, millis: millis(begun.elapsed()), inputs: files })
}

fn make(
    shared: &Shared,
    stage: usize,
    recipe: Recipe,
    manifests: &BTreeMap<usize, Manifest>,
    handle: &Handle,
) -> Result<Manifest> {
    let begun = Instant::now();
    let staging = shared.store.stage(&shared.dag.nodes[stage].name)?;
    let cx = context(shared, stage, &recipe, manifests, staging.clone())?;
    let Outcome { answer, violated } = handle.block_on(shared.dag.kind(stage).run(cx))?;
    let stage = shared.dag.nodes[stage].name.clone();
    shared.store.commit(staging, Finished { stage, recipe, answer, violated, millis: millis(begun.elapsed()) })
}

fn context(
    shared: &Shared,
    stage: usize,
    recipe: &Recipe,
    manifests: &BTreeMap<usize, Manifest>,
    out: Staging,
) -> Result<RunCx> {
    let Shared { dag, store, .. } = shared;
    let node = &dag.nodes[stage];
    let mut inputs = BTreeMap::new();
    for input in &node.inputs {
        let manifest = manifests.get(&input.producer).ok_or_else(|| missing_input(dag, stage, manifests))?;
        let table = store.handle_as(manifest, &dag.nodes[input.producer].name, &input.table)?;
        inputs.insert(input.table.clone(), table);
    }
    Ok(RunCx {
        stage: node.name.clone(),
        pipeline: shared.pipeline.clone(),
        recipe: recipe.config.clone(),
        seed: shared.seed,
        project: store.project().to_path_buf(),
        inputs,
        stages: Arc::clone(&dag.stages),
        out,
        memo: store.memo(),
        progress: Progress(Arc::new(StageProgress::new(Arc::clone(&shared.events), &node.name))),
        cancel: shared.stop.clone(),
        pool: shared.pool.get()?,
    })
}

/// A stage did not make a table that its kind announced.
fn missing_input(dag: &Dag, stage: usize, manifests: &BTreeMap<usize, Manifest>) -> Failure {
    let absent = dag.nodes[stage].inputs.iter().find(|input| {
        let producer = &dag.nodes[input.producer].name;
        let made = |m: &Manifest| m.tables.iter().any(|t| m.table_as(producer, t) == input.table);
        !manifests.get(&input.producer).is_some_and(made)
    });
    let (table, producer) =
        absent.map_or(("?", "?"), |input| (input.table.as_str(), dag.nodes[input.producer].name.as_str()));
    let name = &dag.nodes[stage].name;
    Failure::stage("run::no_table", format!("stage `{name}` reads `{table}`, which stage `{producer}` did not make"))
}
