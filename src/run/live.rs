//! Tells whoever watches from elsewhere (`pipe serve`) where a run stands: a file in the store.
//!
//! Events only note what they say; a thread of its own writes the file, twice a second at most. So a slow or full disk
//! neither slows a run nor fails it. A run of less than half a second writes nothing.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::events::Events;
use super::millis;
use crate::plan::Dag;
use crate::store::{HEARTBEAT, LiveRun, LiveStage, LiveState, RunRecord, StageAction, Store};

/// Between two looks at what changed.
const EVERY: Duration = Duration::from_millis(500);

/// Passes events on, and keeps the file of its run up to date until [`Live::end`].
pub(super) struct Live {
    listener: Arc<dyn Events>,
    told: Arc<Told>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct Told {
    state: Mutex<State>,
    ending: Condvar,
}

struct State {
    run: LiveRun,
    /// When each stage began, while it runs.
    begun: Vec<Option<Instant>>,
    changed: bool,
    ended: bool,
}

impl Told {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, stage: &str, note: impl FnOnce(&mut LiveStage, &mut Option<Instant>)) {
        let mut state = self.lock();
        let State { run, begun, changed, .. } = &mut *state;
        if let Some(at) = run.stages.iter().position(|s| s.name == stage) {
            note(&mut run.stages[at], &mut begun[at]);
            *changed = true;
        }
    }
}

impl State {
    /// The run with the times of what goes on.
    fn now(&self) -> LiveRun {
        let mut run = self.run.clone();
        for (stage, begun) in run.stages.iter_mut().zip(&self.begun) {
            if let Some(begun) = begun {
                stage.millis = millis(begun.elapsed());
            }
        }
        run
    }
}

impl Live {
    pub fn begin(
        store: &Store,
        record: &RunRecord,
        dag: &Dag,
        selected: &BTreeSet<usize>,
        listener: Arc<dyn Events>,
    ) -> Live {
        let stage = |&i: &usize| LiveStage {
            name: dag.nodes[i].name.clone(),
            kind: dag.nodes[i].kind.to_string(),
            state: if selected.contains(&i) { LiveState::Waiting } else { LiveState::Skipped },
            done: 0,
            total: None,
            what: String::new(),
            rows: 0,
            millis: 0,
        };
        let stages: Vec<LiveStage> = dag.order.iter().map(stage).collect();
        let begun = vec![None; stages.len()];
        let state = State { run: LiveRun::of(record, stages), begun, changed: true, ended: false };
        let told = Arc::new(Told { state: Mutex::new(state), ending: Condvar::new() });
        let (store, of) = (store.clone(), told.clone());
        let writer = std::thread::Builder::new().name("live".to_string()).spawn(move || write(&store, &of));
        if let Err(e) = &writer {
            tracing::debug!("nobody is told where the run stands: {e}");
        }
        Live { listener, told, writer: Mutex::new(writer.ok()) }
    }

    /// The run is over: removes the file.
    pub fn end(&self) {
        self.told.lock().ended = true;
        self.told.ending.notify_all();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if writer.is_some_and(|w| w.join().is_err()) {
            tracing::debug!("the writer of the run's state failed");
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end();
    }
}

fn write(store: &Store, told: &Told) {
    let mut last: Option<Instant> = None;
    let mut state = told.lock();
    let id = state.run.id.clone();
    loop {
        let waited = told.ending.wait_timeout_while(state, EVERY, |s| !s.ended);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        if state.ended {
            break;
        }
        if !state.changed && last.is_some_and(|at| at.elapsed() < HEARTBEAT) {
            continue;
        }
        state.changed = false;
        let run = state.now();
        drop(state);
        if let Err(failure) = store.record_live(&run) {
            tracing::debug!("cannot say where the run stands: {failure}");
        }
        last = Some(Instant::now());
        state = told.lock();
    }
    drop(state);
    if last.is_some() {
        store.forget_live(&id);
    }
}

impl Events for Live {
    fn stage_started(&self, name: &str, kind: &str, reason: &str) {
        self.told.note(name, |stage, begun| {
            stage.state = LiveState::Running;
            *begun = Some(Instant::now());
        });
        self.listener.stage_started(name, kind, reason);
    }

    fn stage_progress(&self, name: &str, done: u64, total: Option<u64>, what: &str) {
        self.told.note(name, |stage, _| {
            // Threads of a stage tell in any order.
            stage.done = stage.done.max(done);
            stage.total = total;
            if stage.what != what {
                stage.what = what.to_string();
            }
        });
        self.listener.stage_progress(name, done, total, what);
    }

    fn stage_finished(&self, name: &str, action: StageAction, rows: u64, millis: u64) {
        self.told.note(name, |stage, begun| {
            stage.state = action.into();
            (stage.rows, stage.millis) = (rows, millis);
            *begun = None;
        });
        self.listener.stage_finished(name, action, rows, millis);
    }

    fn warning(&self, text: &str) {
        self.listener.warning(text);
    }
}
