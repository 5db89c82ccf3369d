//! The search for good configurations: spaces, samplers, Pareto fronts; and least squares, where the best has a formula.
//!
//! A sampler keeps no state. What it asks for depends on the space, the trials so far and the seed, and the draws of
//! trial `n` come from a stream of their own. So a search that was killed goes on, from its table of trials, exactly
//! as it would have gone on; and how many trials run at once does not change which ones they are.
//!
//! To add a sampler: one file, one variant of [`SamplerSpec`], one line in [`build`].
//!
//! Left out: models of the objective (TPE, Gaussian processes), and pruning of running trials. Where a trial costs
//! milliseconds, a model that costs more than the trial is a loss.

mod cma_es;
mod eigen;
mod fresh;
mod grid;
pub mod halving;
pub mod hssp;
pub mod hypervolume;
pub mod importance;
pub mod least_squares;
mod nsga2;
pub mod nsga3;
pub mod paired;
pub mod pareto;
pub mod racing;
mod random;
mod space;
pub mod stagnation;
#[cfg(test)]
mod testbed;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use cma_es::CmaEs;
pub use grid::Grid;
pub use nsga2::Nsga2;
pub use random::Random;
pub use space::{Domain, Parameter, Space};

/// One evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// Position in the history, from 0.
    pub number: u64,
    /// One value per parameter of the space, in its order.
    pub params: Vec<Value>,
    /// What came out, every objective to be minimised (the caller negates those to be maximised). `None` where the
    /// trial failed; a trial with a NaN among its objectives counts as failed too.
    pub objectives: Option<Vec<f64>>,
    /// It meets the constraints on its outcome. Any feasible trial is better than any other.
    pub feasible: bool,
}

/// Suggests what to try next.
pub trait Sampler: Send + Sync {
    /// Why this sampler cannot work on `space`, in words for the user; empty where it can.
    fn problems(&self, space: &Space) -> Vec<String>;

    /// The parameters of the next trials, at most `batch` of them. They become trials number `history.len()` and up,
    /// in order.
    ///
    /// `history` is every trial so far, in order of number. `feasible` tells whether a point obeys the rules on
    /// parameters; a point that does not is never returned, nor is one that was tried before. Fewer than `batch` come
    /// back when the rest depends on results that are still missing; none at all, when nothing new could be found.
    ///
    /// The sampler must have no [`problems`](Self::problems) with the space.
    fn ask(
        &self,
        space: &Space,
        history: &[Trial],
        batch: usize,
        seed: u64,
        feasible: &dyn Fn(&[Value]) -> bool,
    ) -> Vec<Vec<Value>>;
}

/// The choice of a sampler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SamplerSpec {
    /// Every point equally likely.
    Random,
    /// Every point of the space, in order.
    Grid(Grid),
    /// The genetic algorithm NSGA-II, for one objective or several.
    Nsga2(Nsga2),
    /// CMA-ES with restarts, for one objective over numbers: the one to fit coefficients with.
    CmaEs(CmaEs),
}

impl Default for SamplerSpec {
    fn default() -> Self {
        SamplerSpec::Nsga2(Nsga2::default())
    }
}

/// The sampler that a choice names.
pub fn build(spec: &SamplerSpec) -> Box<dyn Sampler> {
    match spec {
        SamplerSpec::Random => Box::new(Random),
        SamplerSpec::Grid(grid) => Box::new(grid.clone()),
        SamplerSpec::Nsga2(nsga2) => Box::new(nsga2.clone()),
        SamplerSpec::CmaEs(cma_es) => Box::new(cma_es.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samplers_are_named_in_snake_case_and_refuse_unknown_parameters() {
        let parse = serde_json::from_str::<SamplerSpec>;
        assert_eq!(parse(r#""random""#).unwrap(), SamplerSpec::Random);
        assert_eq!(parse(r#"{"grid": {"points": 5}}"#).unwrap(), SamplerSpec::Grid(Grid { points: Some(5) }));
        assert_eq!(parse(r#"{"nsga2": {}}"#).unwrap(), SamplerSpec::default());
        assert_eq!(parse(r#"{"cma_es": {}}"#).unwrap(), SamplerSpec::CmaEs(CmaEs::default()));
        assert!(parse(r#"{"nsga2": {"pop": 5}}"#).is_err());
        assert!(parse(r#""tpe""#).is_err());
        let one = build(&parse(r#"{"nsga2": {"population": 1}}"#).unwrap());
        assert_eq!(one.problems(&testbed::mixed().space).len(), 1);
        assert!(build(&SamplerSpec::Random).problems(&testbed::mixed().space).is_empty());
    }
}
