//! Runs a pipeline: stages in the order of what they read, independent ones side by side.
//!
//! A stage is decided upon when its inputs are final, by content: where an upstream stage ran again and made the same
//! rows, what follows comes from the cache. Every finished stage is committed and published at once, so a run that
//! fails or is stopped loses only the stages under way, and running again goes on from there.

mod events;
mod live;
mod stage;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::diag::{Exit, Failure, Result};
use crate::plan::{self, Dag, Options};
use crate::spec::Pipeline;
use crate::stage::Cancel;
use crate::store::{Manifest, RunRecord, RunStatus, StageAction, StageRecord, Store, TableRecord};

use events::Guarded;
pub use events::{Events, Silent};
use live::Live;
use stage::{Done, Shared};

/// How long stages may take to notice that they are to stop.
const GRACE: Duration = Duration::from_millis(900);

/// How to run.
#[derive(Clone)]
pub struct RunOptions {
    /// Threads for computations, and stages at once; 0 for the machine's cores. Never changes a row.
    pub jobs: usize,
    /// See [`Options::only`].
    pub only: Vec<String>,
    /// See [`Options::from`].
    pub from: Vec<String>,
    /// See [`Options::force`].
    pub force: Vec<String>,
    pub events: Arc<dyn Events>,
    /// Set by the caller when the user asks to stop.
    pub cancel: Cancel,
    /// The command line, for the record of the run.
    pub args: Vec<String>,
}

impl Default for RunOptions {
    fn default() -> Self {
        RunOptions {
            jobs: 0,
            only: Vec::new(),
            from: Vec::new(),
            force: Vec::new(),
            events: Arc::new(Silent),
            cancel: Cancel::default(),
            args: Vec::new(),
        }
    }
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct RunReport {
    /// Of the run's record.
    pub id: String,
    pub pipeline: String,
    /// In the order of the run.
    pub stages: Vec<StageRecord>,
    /// Lines of each stage that has an answer, in the order of the run.
    pub answers: Vec<(String, Vec<String>)>,
    /// Violated assertions by stage, in the order of the run.
    pub violated: Vec<(String, String)>,
    pub millis: u64,
}

impl RunReport {
    /// How the process is to exit.
    pub fn exit(&self) -> Exit {
        if self.violated.is_empty() { Exit::Ok } else { Exit::Slo }
    }
}

/// Runs the pipeline. A violated assertion is part of the report; everything else is still done.
///
/// # Errors
/// The store is in use; unknown stage names; every stage that failed; [`Exit::Interrupted`] when stopped. Finished
/// stages are published in any case.
pub async fn run(pipeline: &Pipeline, dag: &Dag, store: &Store, options: RunOptions) -> Result<RunReport> {
    let select = Options { only: options.only.clone(), from: options.from.clone(), force: options.force.clone() };
    let (selected, forced) = plan::selection(dag, &select)?;
    let begun = Instant::now();
    let mut lock = store.lock()?;
    let names: Vec<&str> = dag.nodes.iter().map(|n| n.name.as_str()).collect();
    store.retain_stages(&pipeline.name, &names)?;
    let mut record = RunRecord::start(&pipeline.name, &pipeline.file.display().to_string(), options.args.clone());
    lock.note_run(&record.id);
    store.record_run(&record)?;

    let jobs = jobs(options.jobs);
    let live = Arc::new(Live::begin(store, &record, dag, &selected, Arc::clone(&options.events)));
    let shared = Arc::new(Shared {
        pipeline: pipeline.name.clone(),
        seed: pipeline.seed,
        dag: dag.clone(),
        store: store.clone(),
        last: store.last_recipes(&pipeline.name),
        forced,
        events: Arc::new(Guarded(live.clone())),
        stop: Cancel::default(),
        pool: stage::LazyPool::new(jobs),
        _lock: lock,
    });
    let mut state = State::new(selected);
    drive(&shared, &mut state, &options.cancel, jobs).await;
    live.end();
    store.save_hashes();

    let report = state.report(dag, &record, begun.elapsed());
    let interrupted = options.cancel.is_cancelled() && state.done.len() < state.selected.len();
    close(&mut record, &report, &state, interrupted);
    store.record_run(&record)?;
    if !state.failures.is_empty() {
        let diagnostics = state.failures.into_iter().flat_map(|f| f.diagnostics).collect();
        return Err(Failure { exit: Exit::Stage, diagnostics });
    }
    if interrupted { Err(Failure::interrupted()) } else { Ok(report) }
}

fn jobs(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        n => n,
    }
}

/// Where a run stands.
struct State {
    selected: BTreeSet<usize>,
    running: BTreeSet<usize>,
    done: BTreeMap<usize, Done>,
    manifests: BTreeMap<usize, Manifest>,
    /// Stages that failed or were stopped.
    ended: BTreeMap<usize, (StageAction, String)>,
    failures: Vec<Failure>,
}

/// Starts what can start and takes in what ends, until nothing is under way and nothing can start.
async fn drive(shared: &Arc<Shared>, state: &mut State, cancel: &Cancel, jobs: usize) {
    let mut tasks: JoinSet<(usize, Result<Done>)> = JoinSet::new();
    loop {
        while state.running.len() < jobs && !shared.stop.is_cancelled() && !cancel.is_cancelled() {
            let Some(i) = state.next(&shared.dag) else { break };
            state.running.insert(i);
            let (shared, manifests) = (Arc::clone(shared), state.inputs_of(&shared.dag, i));
            let handle = tokio::runtime::Handle::current();
            // A thread of its own: a stage may compute without yielding, and must not hold up the others.
            tasks.spawn_blocking(move || (i, stage::guarded(&shared, i, &manifests, &handle)));
        }
        if tasks.is_empty() {
            return;
        }
        tokio::select! {
            ended = tasks.join_next() => {
                match ended {
                    Some(Ok((i, result))) => state.take(&shared.dag, i, result, &shared.stop),
                    Some(Err(e)) => {
                        // Which one is not known; it must not look as if the run were complete.
                        shared.stop.cancel();
                        state.failures.push(Failure::stage("run::bug", format!("a stage failed because of a bug in pipe: {e}")));
                    }
                    None => {}
                }
            }
            () = cancel.cancelled(), if !shared.stop.is_cancelled() => shared.stop.cancel(),
            () = patience(cancel), if shared.stop.is_cancelled() => return,
        }
    }
}

/// Ends when the user has waited long enough for stages that do not stop. Their threads hold the lock of the store
/// until they end; what they leave is swept by the next run.
async fn patience(cancel: &Cancel) {
    cancel.cancelled().await;
    tokio::time::sleep(GRACE).await;
}

impl State {
    fn new(selected: BTreeSet<usize>) -> State {
        State {
            selected,
            running: BTreeSet::new(),
            done: BTreeMap::new(),
            manifests: BTreeMap::new(),
            ended: BTreeMap::new(),
            failures: Vec::new(),
        }
    }

    /// The next stage all of whose inputs are there.
    fn next(&self, dag: &Dag) -> Option<usize> {
        dag.order.iter().copied().find(|i| {
            self.selected.contains(i)
                && !self.running.contains(i)
                && !self.done.contains_key(i)
                && !self.ended.contains_key(i)
                && dag.nodes[*i].inputs.iter().all(|input| self.manifests.contains_key(&input.producer))
        })
    }

    fn inputs_of(&self, dag: &Dag, stage: usize) -> BTreeMap<usize, Manifest> {
        let producers = dag.nodes[stage].inputs.iter().map(|input| input.producer);
        producers.filter_map(|p| Some((p, self.manifests.get(&p)?.clone()))).collect()
    }

    fn take(&mut self, dag: &Dag, stage: usize, result: Result<Done>, stop: &Cancel) {
        self.running.remove(&stage);
        match result {
            Ok(done) => {
                self.manifests.insert(stage, done.manifest.clone());
                self.done.insert(stage, done);
            }
            Err(failure) if failure.exit == Exit::Interrupted => {
                self.ended.insert(stage, (StageAction::Interrupted, "stopped".to_string()));
            }
            Err(failure) => {
                // Whatever else is under way is stopped: its finished parts are kept, and the run has failed.
                stop.cancel();
                self.ended.insert(stage, (StageAction::Failed, failure.to_string()));
                self.failures.push(in_stage(failure, &dag.nodes[stage].name));
            }
        }
    }

    fn report(&self, dag: &Dag, record: &RunRecord, took: Duration) -> RunReport {
        let mut answers = Vec::new();
        let mut violated = Vec::new();
        for i in &dag.order {
            let Some(manifest) = self.manifests.get(i) else { continue };
            let name = &dag.nodes[*i].name;
            if !manifest.answer.is_empty() {
                answers.push((name.clone(), manifest.answer.clone()));
            }
            violated.extend(manifest.violated.clone().map(|text| (name.clone(), text)));
        }
        RunReport {
            id: record.id.clone(),
            pipeline: record.pipeline.clone(),
            stages: dag.order.iter().map(|&i| self.row(dag, i)).collect(),
            answers,
            violated,
            millis: millis(took),
        }
    }

    fn row(&self, dag: &Dag, stage: usize) -> StageRecord {
        let node = &dag.nodes[stage];
        let (name, kind) = (node.name.clone(), node.kind.to_string());
        if let Some(Done { manifest, action, reason, millis, .. }) = self.done.get(&stage) {
            let tables = manifest.tables.iter().map(|t| TableRecord {
                name: manifest.table_as(&name, t),
                rows: t.rows,
                hash: t.hash.clone(),
            });
            return StageRecord {
                tables: tables.collect(),
                name,
                kind,
                action: *action,
                reason: reason.clone(),
                millis: *millis,
                rows: manifest.rows(),
                fingerprint: Some(manifest.fingerprint.clone()),
            };
        }
        let (action, reason) = match self.ended.get(&stage) {
            Some((action, reason)) => (*action, reason.clone()),
            None if self.running.contains(&stage) => (StageAction::Interrupted, "stopped".to_string()),
            None if self.selected.contains(&stage) => (StageAction::Skipped, "not reached".to_string()),
            None => (StageAction::Skipped, "not selected".to_string()),
        };
        StageRecord { name, kind, action, reason, millis: 0, rows: 0, fingerprint: None, tables: Vec::new() }
    }
}

/// Says which stage the problems belong to, where they do not say it themselves.
fn in_stage(mut failure: Failure, stage: &str) -> Failure {
    let name = format!("`{stage}`");
    for d in failure.diagnostics.iter_mut().filter(|d| d.at.is_none() && !d.message.contains(&name)) {
        d.message = format!("stage {name}: {}", d.message);
    }
    failure
}

fn close(record: &mut RunRecord, report: &RunReport, state: &State, interrupted: bool) {
    record.stages.clone_from(&report.stages);
    let inputs: BTreeSet<_> = state.done.values().flat_map(|d| d.inputs.iter().cloned()).collect();
    record.inputs = inputs.into_iter().collect();
    record.messages = state.failures.iter().map(ToString::to_string).collect();
    record.messages.extend(report.violated.iter().map(|(stage, text)| format!("{stage}: {text}")));
    let status = if !state.failures.is_empty() {
        RunStatus::Failed
    } else if interrupted {
        RunStatus::Interrupted
    } else if !report.violated.is_empty() {
        RunStatus::Violated
    } else {
        RunStatus::Finished
    };
    record.finish(status);
}

fn millis(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}
