//! Optuna's journal file, both ways: what a study found, shown by the tools of Optuna, and what Optuna found, as a
//! start for a study.
//!
//! The format is that of `optuna.storages.JournalStorage` over a `JournalFileBackend` (Optuna 3.1 and later; checked
//! with 5.0): one JSON object per line, each an operation, replayed in order. Studies and trials have no ids in the
//! file, but are counted: studies from 0 as they are created, trials from 0 over all studies of the file.
//!
//! | `op_code` | operation |
//! |---|---|
//! | 0, 1 | create, delete a study |
//! | 2, 3 | set an attribute of a study: the user's, the system's |
//! | 4 | create a trial: a running one, one that waits, or a finished one in one line |
//! | 5, 6, 7 | set a parameter, the state with the values, an intermediate value of a trial |
//! | 8, 9 | set an attribute of a trial: the user's, the system's |
//! | 10 | discard trials: written by Rustuna, passed over by Optuna and here |
//!
//! # What is written
//!
//! A parameter is named by its path and has the same distribution in all trials:
//!
//! | domain | distribution |
//! |---|---|
//! | list, ordered list, off and on | categorical; Optuna has no ordinals. Not being set is the choice `null` |
//! | integers | `IntDistribution`, with their step |
//! | floats | `FloatDistribution`, with their step where Optuna would find the same numbers |
//!
//! * Optuna takes no step on a logarithmic scale: the step stays and the scale becomes linear, so that what Optuna
//!   proposes are points of the space.
//! * Choices that are lists or objects are written as JSON text, and so is a number that Python takes for a boolean of
//!   the same list (1 for `true`, 0 for `false`); such text is read back as what it says.
//! * A float's step is kept where low end and step have few decimals; otherwise Optuna would count other numbers to
//!   be the levels, and the range is written without a step.
//! * A parameter that does not exist under its condition is left out of the trial, as in Optuna; so are integers and
//!   floats that are not set, because Optuna has no `null` among numbers.
//!
//! | state | in the file |
//! |---|---|
//! | complete | `COMPLETE`, also if constraints are missed: the system attributes `constraints:<name>` tell |
//! | pruned | `PRUNED` |
//! | illegal | `PRUNED`, without values |
//! | failed | `FAIL`, with the user attribute `fail_reason` where there is one |
//!
//! * The value of a pruned trial with one objective is also an intermediate value, with the rung as step. Where no step
//!   tells the rung, the user attribute `rung` does: with several objectives Optuna has no intermediate values.
//! * Illegal trials are written so that numbers of trials are those of the study. They have the constraint
//!   `rules_broken` (how many), which makes them infeasible for Optuna's samplers, and a user attribute of the same
//!   name (which).
//!
//! Only finite numbers are written: a complete trial with an objective or a constraint that is none becomes failed;
//! other such numbers are left out. (What Optuna itself writes has `NaN` and `Infinity`, which are no JSON; they are
//! read.)
//!
//! A journal is written whole. Where Optuna may have an older one open, write it under another name and rename it.

mod fit;
mod read;
#[cfg(test)]
mod tests;
mod time;
mod write;

use serde_json::{Map, Value};

use super::{Outcome, Space};

pub use fit::{Fitted, Misfit, Names};
pub use read::{ImportedStudy, ImportedTrial, JournalError, import, import_all};
pub use write::export;

/// Name of the constraint and of the user attribute of trials that were not run because they break rules.
pub const RULES_BROKEN: &str = "rules_broken";
/// Name of the user attribute that says how far a pruned trial with several objectives came.
pub const RUNG: &str = "rung";
/// Name of the user attribute that says why a trial failed.
pub const FAIL_REASON: &str = "fail_reason";
/// Names of the system attributes with constraints: this followed by a name, or (older) this alone with a list.
const CONSTRAINTS: &str = "constraints";
/// Name of the system attribute of a study with the names of its objectives.
const METRIC_NAMES: &str = "study:metric_names";

/// A study as it is written.
#[derive(Clone, Debug)]
pub struct StudyRecord<'a> {
    pub name: String,
    /// At least one.
    pub objectives: Vec<ObjectiveInfo>,
    pub space: &'a Space,
    /// In order of number, from 0 without gaps.
    pub trials: Vec<TrialRecord>,
    /// What the user wants to know about the study: its user attributes.
    pub attributes: Map<String, Value>,
}

/// What is optimized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectiveInfo {
    pub name: String,
    pub maximize: bool,
}

/// A trial that is over, at a point of a space.
#[derive(Clone, Debug, PartialEq)]
pub struct TrialRecord {
    /// One value per parameter of the space, in its order; `null` for one that is not set or does not exist.
    pub values: Vec<Value>,
    pub report: Report,
}

/// What is known of a trial that is over, besides its point.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub state: State,
    /// Names and values of constraints; 0 and below: it is met.
    pub constraints: Vec<(String, f64)>,
    /// With one objective: how it stood, by step (the rung), ascending.
    pub intermediate: Vec<(i64, f64)>,
    /// Microseconds since 1970, UTC. To be written, one of both must be known; the other is taken to be the same.
    pub started_us: Option<i64>,
    pub finished_us: Option<i64>,
    /// What the user wants to know: its user attributes.
    pub attributes: Map<String, Value>,
}

/// How a trial ended. Objectives are in natural units, in the order of the study.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// It ran to its end.
    Complete { objectives: Vec<f64> },
    /// It was stopped.
    Pruned {
        /// How far it came.
        rung: u32,
        /// The objectives as far as it came; empty where they are not known.
        objectives: Vec<f64>,
    },
    /// It was not run, because it breaks these rules.
    Illegal { broken: Vec<String> },
    /// It has no result; the reason may be empty.
    Failed { reason: String },
}

impl Report {
    /// What a [`Study`](super::Study) is told: objectives to be minimised, and the sum of what misses constraints as
    /// violation. Of broken rules only the number is known here: as many bits are set, from the lowest up.
    pub fn outcome(&self, objectives: &[ObjectiveInfo]) -> Outcome {
        let least = |values: &[f64]| {
            values.iter().zip(objectives).map(|(x, of)| if of.maximize { -x } else { *x }).collect::<Vec<f64>>()
        };
        // NaN stays NaN, which a study takes for a failure.
        let violation = self.constraints.iter().map(|(_, c)| if *c <= 0.0 { 0.0 } else { *c }).sum();
        match &self.state {
            State::Complete { objectives } => Outcome::Complete { objectives: least(objectives), violation },
            State::Pruned { rung, objectives } => {
                Outcome::Pruned { rung: *rung, objectives: least(objectives), violation }
            }
            State::Illegal { broken } => {
                Outcome::Illegal { broken: (0..broken.len().min(64)).fold(0, |mask, bit| mask | 1 << bit) }
            }
            State::Failed { .. } => Outcome::Failed,
        }
    }
}
