//! What a run tells whoever shows it: progress bars, plain lines, or JSON.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::stage::ProgressSink;
use crate::store::StageAction;

/// Hears how a run goes. Called from many threads; must be quick.
pub trait Events: Send + Sync {
    /// A stage runs, and why. Not called for stages that come from the cache.
    fn stage_started(&self, name: &str, kind: &str, reason: &str);

    /// Units of work done so far, and in all where that is known.
    fn stage_progress(&self, name: &str, done: u64, total: Option<u64>, what: &str);

    /// A stage is through; also called for cached and failed ones. Rows are those of its main table.
    fn stage_finished(&self, name: &str, action: StageAction, rows: u64, millis: u64);

    /// Something that the user should know and that stops nothing.
    fn warning(&self, text: &str);
}

/// Tells nobody.
pub struct Silent;

impl Events for Silent {
    fn stage_started(&self, _name: &str, _kind: &str, _reason: &str) {}
    fn stage_progress(&self, _name: &str, _done: u64, _total: Option<u64>, _what: &str) {}
    fn stage_finished(&self, _name: &str, _action: StageAction, _rows: u64, _millis: u64) {}
    fn warning(&self, _text: &str) {}
}

/// Passes everything on, and survives a listener that panics (a closed terminal): what is shown must not decide what
/// is computed.
pub(super) struct Guarded(pub Arc<dyn Events>);

impl Guarded {
    fn tell(&self, say: impl FnOnce(&dyn Events)) {
        if std::panic::catch_unwind(AssertUnwindSafe(|| say(&*self.0))).is_err() {
            tracing::debug!("the listener of the run failed");
        }
    }
}

impl Events for Guarded {
    fn stage_started(&self, name: &str, kind: &str, reason: &str) {
        self.tell(|e| e.stage_started(name, kind, reason));
    }
    fn stage_progress(&self, name: &str, done: u64, total: Option<u64>, what: &str) {
        self.tell(|e| e.stage_progress(name, done, total, what));
    }
    fn stage_finished(&self, name: &str, action: StageAction, rows: u64, millis: u64) {
        self.tell(|e| e.stage_finished(name, action, rows, millis));
    }
    fn warning(&self, text: &str) {
        self.tell(|e| e.warning(text));
    }
}

/// Adds up the progress of one stage.
pub(super) struct StageProgress {
    events: Arc<dyn Events>,
    stage: String,
    done: AtomicU64,
    total: Mutex<(Option<u64>, &'static str)>,
}

impl StageProgress {
    pub fn new(events: Arc<dyn Events>, stage: &str) -> StageProgress {
        StageProgress { events, stage: stage.to_string(), done: AtomicU64::new(0), total: Mutex::new((None, "")) }
    }
}

impl ProgressSink for StageProgress {
    fn total(&self, units: u64, what: &'static str) {
        *self.total.lock().unwrap_or_else(PoisonError::into_inner) = (Some(units), what);
        self.events.stage_progress(&self.stage, self.done.load(Ordering::Relaxed), Some(units), what);
    }

    fn advance(&self, units: u64) {
        let done = self.done.fetch_add(units, Ordering::Relaxed) + units;
        let (total, what) = *self.total.lock().unwrap_or_else(PoisonError::into_inner);
        self.events.stage_progress(&self.stage, done, total, what);
    }

    fn warning(&self, text: &str) {
        self.events.warning(&format!("stage `{}`: {text}", self.stage));
    }
}
