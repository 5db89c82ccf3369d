//! How far a run is: bars with rate and time left on a terminal, plain lines where output goes to a file, JSON events
//! for programs, or nothing.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

use super::{duration, thousands};
use crate::run::Events;
use crate::store::StageAction;

/// How the user wants to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Bars on a terminal, lines elsewhere.
    Auto,
    Quiet,
    Json,
}

/// The sink of a run's events.
pub(super) fn events(style: Style) -> Arc<dyn Events> {
    match style {
        Style::Quiet => Arc::new(Quiet),
        Style::Json => Arc::new(Json::default()),
        Style::Auto if std::io::stderr().is_terminal() => Arc::new(Bars::default()),
        Style::Auto => Arc::new(Lines::default()),
    }
}

/// Warnings only.
struct Quiet;

impl Events for Quiet {
    fn stage_started(&self, _stage: &str, _kind: &str, _reason: &str) {}
    fn stage_progress(&self, _stage: &str, _done: u64, _total: Option<u64>, _what: &str) {}
    fn stage_finished(&self, _stage: &str, _action: StageAction, _rows: u64, _millis: u64) {}
    fn warning(&self, text: &str) {
        tell!("warning: {text}");
    }
}

/// One line when a stage begins and one when it ends; every ten seconds one in between.
#[derive(Default)]
struct Lines {
    last: Mutex<BTreeMap<String, Instant>>,
}

const BETWEEN_LINES: Duration = Duration::from_secs(10);

impl Events for Lines {
    fn stage_started(&self, stage: &str, kind: &str, reason: &str) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).insert(stage.to_string(), Instant::now());
        tell!("{stage} ({kind}): running, {reason}");
    }

    fn stage_progress(&self, stage: &str, done: u64, total: Option<u64>, what: &str) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.get(stage).is_none_or(|t| t.elapsed() >= BETWEEN_LINES);
        if due {
            last.insert(stage.to_string(), Instant::now());
            match total {
                Some(total) => tell!("{stage}: {} of {} {what}", thousands(done), thousands(total)),
                None => tell!("{stage}: {} {what}", thousands(done)),
            }
        }
    }

    fn stage_finished(&self, stage: &str, action: StageAction, rows: u64, millis: u64) {
        match action {
            StageAction::Cached => tell!("{stage}: cached, {} rows", thousands(rows)),
            StageAction::Ran => tell!("{stage}: {} rows in {}", thousands(rows), duration(millis)),
            StageAction::Failed => tell!("{stage}: failed after {}", duration(millis)),
            StageAction::Interrupted => tell!("{stage}: interrupted after {}", duration(millis)),
            StageAction::Skipped => {}
        }
    }

    fn warning(&self, text: &str) {
        tell!("warning: {text}");
    }
}

/// One JSON object per line on standard output, each with `event`.
#[derive(Default)]
struct Json {
    last: Mutex<BTreeMap<String, Instant>>,
}

impl Json {
    fn emit(value: &serde_json::Value) {
        // A reader that went away is not our problem: the run goes on.
        let _ = writeln!(std::io::stdout().lock(), "{value}");
    }
}

impl Events for Json {
    fn stage_started(&self, stage: &str, kind: &str, reason: &str) {
        Json::emit(&json!({"event": "stage_started", "stage": stage, "kind": kind, "reason": reason}));
    }

    fn stage_progress(&self, stage: &str, done: u64, total: Option<u64>, what: &str) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.get(stage).is_none_or(|t| t.elapsed() >= Duration::from_millis(200));
        if due || total == Some(done) {
            last.insert(stage.to_string(), Instant::now());
            Json::emit(&json!({"event": "stage_progress", "stage": stage, "done": done, "total": total, "unit": what}));
        }
    }

    fn stage_finished(&self, stage: &str, action: StageAction, rows: u64, millis: u64) {
        Json::emit(&json!({
            "event": "stage_finished", "stage": stage, "action": action,
            "rows": rows, "millis": millis,
        }));
    }

    fn warning(&self, text: &str) {
        Json::emit(&json!({"event": "warning", "text": text}));
    }
}

/// A bar per running stage, with rate and time left.
#[derive(Default)]
struct Bars {
    all: MultiProgress,
    running: Mutex<BTreeMap<String, ProgressBar>>,
}

fn bar_style(what: &str, known: bool) -> ProgressStyle {
    let rate = if what == "bytes" { "{binary_bytes_per_sec}" } else { "{per_sec}" };
    let count = if what == "bytes" { "{binary_bytes}/{binary_total_bytes}" } else { "{human_pos}/{human_len}" };
    let template = if known {
        format!("{{prefix:>14.bold}} {{bar:30.cyan/dim}} {count} {what}  {rate}  {{eta}} left")
    } else {
        format!("{{prefix:>14.bold}} {{spinner}} {{human_pos}} {what}  {rate}  {{elapsed}}")
    };
    ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━━─")
}

impl Events for Bars {
    fn stage_started(&self, stage: &str, kind: &str, _reason: &str) {
        let bar = self.all.add(ProgressBar::no_length());
        bar.set_style(
            ProgressStyle::with_template("{prefix:>14.bold} {spinner} {msg}  {elapsed}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        bar.set_prefix(stage.to_string());
        bar.set_message(kind.to_string());
        bar.enable_steady_tick(Duration::from_millis(120));
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(stage.to_string(), bar);
    }

    fn stage_progress(&self, stage: &str, done: u64, total: Option<u64>, what: &str) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bar) = running.get(stage) else { return };
        if bar.length() != total || bar.message() != what {
            bar.set_message(what.to_string());
            bar.set_style(bar_style(what, total.is_some()));
            if let Some(total) = total {
                bar.set_length(total);
            }
        }
        bar.set_position(done);
    }

    fn stage_finished(&self, stage: &str, action: StageAction, rows: u64, millis: u64) {
        if let Some(bar) = self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(stage) {
            bar.finish_and_clear();
            self.all.remove(&bar);
        }
        let mark = match action {
            StageAction::Cached | StageAction::Skipped => return,
            StageAction::Ran => "done",
            StageAction::Failed => "FAILED",
            StageAction::Interrupted => "interrupted",
        };
        let line = format!("{stage:>14} {mark}: {} rows in {}", thousands(rows), duration(millis));
        let _ = self.all.println(line);
    }

    fn warning(&self, text: &str) {
        let _ = self.all.println(format!("warning: {text}"));
    }
}
