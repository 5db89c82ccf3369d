//! EGO: Bayesian optimization with a Gaussian process (Jones, Schonlau, Welch 1998, "Efficient Global Optimization of
//! Expensive Black-Box Functions"; Mockus 1975), for one objective whose trial costs more than seconds: a model is made
//! afresh for every trial, whose own cost grows with the cube of the trials.
//!
//! Process and search are those of the crate `egobox-ego`, which is part of the program only with the feature `gp`.
//! Without it the sampler can be named, and says how it is got.
//!
//! One trial after the other: each depends on all before it. Where the crate has threads they change no result, but it
//! calculates with the vector instructions that a processor has: the same trials come again on the same kind of
//! machine, not on any.

#[cfg(feature = "gp")]
mod process;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Space;
use super::sampler::Sampler;

/// Parameters of EGO.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ego {
    /// Trials spread over the space before the first that is modelled; at least 3. Default: two per parameter, and 10
    /// at least.
    pub startup: Option<u32>,
}

impl Ego {
    /// Why it cannot search a space, in words for the user.
    pub(super) fn problems(&self, space: &Space, objectives: usize) -> Vec<String> {
        let mut found = Vec::new();
        if !cfg!(feature = "gp") {
            found.push("pipe was built without the feature `gp`: `cargo install --path . --features gp`".to_owned());
        }
        if let Some(startup) = self.startup.filter(|s| *s < 3) {
            found.push(format!("`startup` of ego must be at least 3, not {startup}"));
        }
        if objectives > 1 {
            found.push("ego is for one objective; take tpe or nsga2 for several".to_owned());
        }
        for parameter in space.parameters() {
            if parameter.domain.may_be_unset() || parameter.when.is_some() {
                let path = &parameter.path;
                found.push(format!("`{path}` may be absent, and ego needs a value for it; take tpe or nsga2"));
            }
        }
        found
    }

    /// The sampler, for a space without [`problems`](Self::problems).
    #[cfg(feature = "gp")]
    pub(super) fn build(&self, space: &Space) -> Box<dyn Sampler> {
        let default = (2 * space.dimensions() as u64).max(10);
        Box::new(process::Process::new(self.startup.map_or(default, u64::from), space))
    }

    /// There is none: every space has a problem.
    #[cfg(not(feature = "gp"))]
    pub(super) fn build(&self, _space: &Space) -> Box<dyn Sampler> {
        unreachable!("a study without the feature `gp` has no sampler `ego`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::{Settings, Study, testbed};

    #[test]
    fn what_it_cannot_search_is_refused() {
        let without = usize::from(!cfg!(feature = "gp"));
        let problems = |startup, space: &Space, objectives| Ego { startup }.problems(space, objectives).len() - without;
        let numbers = testbed::branin().space;
        assert_eq!(problems(None, &numbers, 1), 0);
        assert_eq!(problems(Some(2), &numbers, 1), 1);
        assert_eq!(problems(None, &numbers, 2), 1);
        // A null among names is a name.
        assert_eq!(problems(None, &testbed::mixed_single().space, 1), 0);
        let conditional = testbed::tuner().space;
        let absent = (0..conditional.dimensions()).filter(|&j| conditional.may_be_absent(j)).count();
        assert!(absent > 0);
        assert_eq!(problems(None, &conditional, 1), absent);
    }

    #[cfg(not(feature = "gp"))]
    #[test]
    fn without_the_feature_it_says_how_it_is_got() {
        let spec = crate::tune::SamplerSpec::Ego(Ego::default());
        let refused = Study::new(testbed::branin().space, &spec, Settings::default()).err();
        let expect = "pipe was built without the feature `gp`: `cargo install --path . --features gp`";
        assert_eq!(refused, Some(vec![expect.to_owned()]));
    }

    #[cfg(feature = "gp")]
    #[test]
    fn with_the_feature_there_is_a_study() {
        let spec = crate::tune::SamplerSpec::Ego(Ego::default());
        assert!(Study::new(testbed::branin().space, &spec, Settings::default()).is_ok());
    }
}
