//! Replay of measured steps: a step takes as long as the nearest one that was measured.
//!
//! What near means, and what is done about the difference, is said in `operators/generic.rs`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operators::Scatter;
use super::{LatencyModel, SCALE_MAX, not_in, one};
use crate::profile::Profile;
use crate::scenario::{Deployment, GpuSpec, ModelSpec};

/// Times of steps that were measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Steps {
    /// A stage `profile` with whole steps.
    pub profile: String,
    /// The time of every step is multiplied by this.
    #[serde(default = "one")]
    pub scale: f64,
}

impl Steps {
    pub(crate) fn problems(&self) -> Vec<(&'static str, String)> {
        not_in("deployment.latency.steps.scale", self.scale, SCALE_MAX, "")
    }
}

/// # Errors
/// What the profile lacks.
pub(crate) fn model(
    settings: &Steps,
    d: &Deployment,
    m: &ModelSpec,
    g: &GpuSpec,
    profile: &Profile,
) -> Result<Box<dyn LatencyModel>, Vec<String>> {
    Ok(Box::new(Scatter::new(profile, d, m, g, 1, settings.scale, 0.0)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_is_bounded() {
        let problems = |scale: f64| Steps { profile: "p".to_string(), scale }.problems().len();
        for (scale, wrong) in [(0.0, 1), (-1.0, 1), (f64::NAN, 1), (1e-3, 0), (SCALE_MAX, 0), (100.5, 1), (1e300, 1)] {
            assert_eq!(problems(scale), wrong, "{scale}");
        }
    }
}
