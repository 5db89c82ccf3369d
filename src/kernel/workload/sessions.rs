//! Conversations of several turns: what a user may say of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Lengths, MAX_TOKENS, Problem, Problems};
use crate::scenario::{ConstantTime, ExponentialTime, LognormalTime, ThinkTime, UniformTime};

/// Conversations of several turns. `rate_rps` is the rate of their first turns, and `requests` the number of turns of
/// all of them: what would arrive later is left out, so that the last sessions may be cut.
///
/// The prompt of a turn is the shared prefix, all that was said in the session before it, and a new part drawn from
/// `input`. All turns of a session have the same prefix, model and adapter.
///
/// ```yaml
/// chat:
///   synthesize:
///     requests: 20000
///     rate_rps: 4
///     input: { lognormal_p50_p90: { p50: 60, p90: 400 } }
///     output: { lognormal_p50_p90: { p50: 200, p90: 600 } }
///     shared_prefix: { groups: 20, tokens: 800, skew: 1 }
///     sessions:
///       turns: { uniform: { min: 1, max: 8 } }
///       think_time: { exponential: { mean_s: 30 } }
///       turn_s: 6
///       max_context: 32768
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SyntheticSessions {
    /// Turns of a session. What is called tokens there are turns here.
    pub turns: Lengths,
    /// Time between the end of a turn and the next one.
    pub think_time: ThinkTime,
    /// The prompt of a turn holds all that was said in the session before it.
    #[serde(default = "yes")]
    pub accumulate: bool,
    /// A session ends before the turn whose prompt and reply together would have more tokens than this. Its first turn
    /// is always made. Default: 16777216.
    #[serde(default)]
    pub max_context: Option<u32>,
    /// How long a turn is assumed to take, in seconds: a turn arrives this and its think time after the one before it.
    /// Of no effect where turns wait for each other (`workload: { sessions: closed }` of `simulate`).
    #[serde(default)]
    pub turn_s: f64,
}

fn yes() -> bool {
    true
}

impl SyntheticSessions {
    pub(super) fn problems(&self) -> Vec<Problem> {
        let SyntheticSessions { turns, think_time, accumulate: _, max_context, turn_s } = self;
        let mut found = turns.problems("sessions.turns");
        found.extend(time_problems(think_time, "sessions.think_time"));
        let mut own = Problems::below("sessions");
        require_context(&mut own, *max_context);
        own.require_at_least_zero(*turn_s, "turn_s");
        found.extend(own.found);
        found
    }
}

pub(super) fn require_context(own: &mut Problems, max_context: Option<u32>) {
    let most = max_context.unwrap_or(MAX_TOKENS);
    own.require((1..=MAX_TOKENS).contains(&most), "max_context", || {
        format!("must be from 1 to {MAX_TOKENS}, not {most}")
    });
}

/// Everything that is wrong with a distribution of times; `path` is where it stands.
pub(super) fn time_problems(time: &ThinkTime, path: &str) -> Vec<Problem> {
    let mut own = Problems::below(path);
    match *time {
        ThinkTime::Constant(ConstantTime { s }) => own.require_at_least_zero(s, "constant.s"),
        ThinkTime::Uniform(UniformTime { min_s, max_s }) => {
            own.require_at_least_zero(min_s, "uniform.min_s");
            own.require(max_s.is_finite() && max_s >= min_s, "uniform.max_s", || {
                format!("must not be below min_s, which is {min_s}, not {max_s}")
            });
        }
        ThinkTime::Exponential(ExponentialTime { mean_s }) => own.require_at_least_zero(mean_s, "exponential.mean_s"),
        ThinkTime::Lognormal(LognormalTime { mean_s, cv }) => {
            own.require_positive(mean_s, "lognormal.mean_s");
            own.require_at_least_zero(cv, "lognormal.cv");
        }
    }
    own.found
}
