//! The search for good configurations: spaces, samplers, Pareto fronts; and least squares, where the best has a
//! formula.
//!
//! A [`Study`] is asked for trials and told what came of them. Its state is a fold over the trials that it was told: a
//! search that was killed goes on, from its table of trials, exactly as it would have gone on. The draws of trial `n`
//! come from streams of their own, so that neither the number of threads nor how many trials are asked for at once
//! changes which ones they are. What a trial depends on is where its sampler looks at results:
//!
//! | sampler | looks at results | asked one by one or many at once |
//! |---|---|---|
//! | `grid`, `random`, `sobol` | never | any number |
//! | `tpe` | every `batch` trials, a setting of the study | the same trials; at most to the end of the batch |
//! | `nsga2`, `nsga3`, `cma_es` | every generation | the same trials; at most to the end of the generation |
//! | `ego` | before every trial after the first ones | the same trials; one |
//! | `auto` | as what it picks | the same |
//!
//! # Code
//!
//! | module | holds |
//! |---|---|
//! | `domain`, `space` | values, coordinates, canonical places; parameters, conditions, counting and numbering points |
//! | `history` | the trials so far in flat arrays, their order of merit, and which points are taken |
//! | `rules`, `repair` | rules on values, what becomes of points that break them, the nearest legal point |
//! | `study` | what all samplers share: legality, novelty, numbers, streams, resuming |
//! | `sampler` | what a sampler is to a study |
//! | `random`, `grid`, `tpe`, `nsga2`, `cma_es`, `ego`, `auto` | the samplers |
//! | `pareto`, `hypervolume`, `hssp`, `nsga3` | domination, crowding, volumes, which points cover most, directions |
//! | `halving`, `racing`, `paired` | what to stop, and which is better |
//! | `stagnation`, `importance` | when to end, and what matters |
//! | `journal` | Optuna's journal file, both ways |
//! | `least_squares`, `eigen` | linear fits; small symmetric matrices |
//!
//! To add a sampler: one file, one variant of [`SamplerSpec`], a line in `build` and one in `problems`.
//!
//! # Decisions
//!
//! * Samplers propose, the study decides. A proposal may be off its levels, illegal, taken, or about parameters that do
//!   not exist; what becomes of it is written once.
//! * What is illegal is repaired by default: in the space of a serving engine's 18 parameters and 7 rules, 84 % of all
//!   points are illegal, and a search that only drops them reaches with 1,000 trials what a search that repairs them
//!   reaches with 200. Samplers learn the repaired point, because it is what was measured.
//! * No point is tried twice, because a simulation repeats exactly. In a space of up to a million points a new legal
//!   one is found for as long as there is one; in a larger one tens of thousands of draws are made before giving up.
//! * TPE takes turns between its multivariate and its independent form, because each alone fails somewhere.
//! * No draw from a running generator, and no state that cannot be found again from the trials: also NSGA-II's parents
//!   and the distribution of CMA-ES are folds.
//! * Gaussian processes, the sampler `ego`, are an optional feature, `gp`, and never what `auto` picks: where a trial
//!   costs milliseconds, a model that costs more than the trial is a loss.

mod auto;
mod cma_es;
mod domain;
mod ego;
mod eigen;
mod grid;
pub mod halving;
mod history;
pub mod hssp;
pub mod hypervolume;
pub mod importance;
pub mod journal;
pub mod least_squares;
mod nsga2;
pub mod nsga3;
pub mod paired;
pub mod pareto;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod quality;
pub mod racing;
mod random;
mod repair;
mod rules;
mod sampler;
mod space;
pub mod stagnation;
mod study;
#[doc(hidden)]
pub mod testbed;
mod tpe;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use cma_es::CmaEs;
pub use domain::Domain;
pub use ego::Ego;
pub use grid::Grid;
pub use history::{Outcome, Trial};
pub use nsga2::{Nsga2, Nsga3};
pub use rules::{Allowed, NoRules, OnViolation, Rules};
pub use sampler::Origin;
pub use space::{Condition, Parameter, Space};
pub use study::{Settings, Study, Suggestion};
pub use tpe::{Multivariate, Tpe, Turns};

use nsga2::{Crowding, Directions, Evolution};
use sampler::Sampler;

/// The choice of a sampler.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SamplerSpec {
    /// Chosen by space, budget, objectives and cost of a trial: every point where there are few, CMA-ES for one
    /// objective over numbers, else TPE for the first 200 trials and then NSGA-II on all of them (NSGA-III for four
    /// objectives and more).
    #[default]
    Auto,
    /// Every point of the space, in order.
    Grid(Grid),
    /// Every point equally likely.
    Random,
    /// A scrambled Sobol sequence: evenly spread.
    Sobol,
    /// Tree-structured Parzen estimators, for one objective or several: the most from few trials.
    Tpe(Tpe),
    /// The genetic algorithm NSGA-II, for one objective or several.
    Nsga2(Nsga2),
    /// The genetic algorithm NSGA-III, for four objectives and more.
    Nsga3(Nsga3),
    /// CMA-ES with restarts, for one objective over numbers: the one to fit coefficients with.
    CmaEs(CmaEs),
    /// Bayesian optimization with a Gaussian process, for one objective whose trial costs more than seconds. Only in
    /// programs built with the feature `gp`.
    Ego(Ego),
}

impl SamplerSpec {
    /// Why this sampler cannot work on a space, or with so many objectives, in words for the user; empty where it can.
    pub fn problems(&self, space: &Space, objectives: usize) -> Vec<String> {
        if objectives == 0 {
            return vec!["a study has at least one objective".to_owned()];
        }
        match self {
            SamplerSpec::Auto | SamplerSpec::Random | SamplerSpec::Sobol => Vec::new(),
            SamplerSpec::Grid(grid) => grid.problems(space),
            SamplerSpec::Tpe(tpe) => tpe.problems(),
            SamplerSpec::Nsga2(Nsga2 { population }) | SamplerSpec::Nsga3(Nsga3 { population }) if *population < 2 => {
                vec![format!("the population must be at least 2, not {population}")]
            }
            SamplerSpec::Nsga2(_) | SamplerSpec::Nsga3(_) => Vec::new(),
            SamplerSpec::CmaEs(cma_es) => cma_es.problems(space, objectives),
            SamplerSpec::Ego(ego) => ego.problems(space, objectives),
        }
    }

    /// The sampler of a choice that is no `auto` and no `grid`, which are the study's own.
    fn build(&self, space: &Space, objectives: usize) -> Box<dyn Sampler> {
        match self {
            SamplerSpec::Auto | SamplerSpec::Grid(_) | SamplerSpec::Random => Box::new(random::Random),
            SamplerSpec::Sobol => Box::new(random::Sobol),
            SamplerSpec::Tpe(tpe) => Box::new(tpe::Estimator::new(tpe)),
            SamplerSpec::Nsga2(nsga2) => {
                let population = u64::from(nsga2.population);
                Box::new(Evolution::new(population, population, Box::new(Crowding)))
            }
            SamplerSpec::Nsga3(nsga3) => {
                let population = u64::from(nsga3.population);
                let directions = nsga3::reference_points(objectives, nsga3.population as usize);
                Box::new(Evolution::new(population, population, Box::new(Directions(directions))))
            }
            SamplerSpec::CmaEs(cma_es) => Box::new(cma_es::Cma::new(cma_es, space)),
            SamplerSpec::Ego(ego) => ego.build(space),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samplers_are_named_in_snake_case_and_refuse_unknown_parameters() {
        let parse = |text: &str| serde_json::from_str::<SamplerSpec>(text);
        assert_eq!(parse(r#""auto""#).unwrap(), SamplerSpec::default());
        assert_eq!(parse(r#""random""#).unwrap(), SamplerSpec::Random);
        assert_eq!(parse(r#""sobol""#).unwrap(), SamplerSpec::Sobol);
        assert_eq!(parse(r#"{"grid": {"points": 5}}"#).unwrap(), SamplerSpec::Grid(Grid { points: Some(5) }));
        assert_eq!(parse(r#"{"nsga2": {}}"#).unwrap(), SamplerSpec::Nsga2(Nsga2::default()));
        assert_eq!(parse(r#"{"cma_es": {}}"#).unwrap(), SamplerSpec::CmaEs(CmaEs::default()));
        assert_eq!(parse(r#"{"ego": {"startup": 20}}"#).unwrap(), SamplerSpec::Ego(Ego { startup: Some(20) }));
        assert!(parse(r#"{"ego": {"population": 20}}"#).is_err());
        assert_eq!(parse(r#"{"tpe": {"multivariate": "alternate"}}"#).unwrap(), SamplerSpec::Tpe(Tpe::default()));
        let together = SamplerSpec::Tpe(Tpe { multivariate: Multivariate::Always(true), ..Tpe::default() });
        assert_eq!(parse(r#"{"tpe": {"multivariate": true}}"#).unwrap(), together);
        assert_eq!(parse(&serde_json::to_string(&together).unwrap()).unwrap(), together);
        assert!(parse(r#"{"nsga2": {"pop": 5}}"#).is_err());
        assert!(parse(r#"{"tpe": {"multivariate": "both"}}"#).is_err());
        let problems = |text: &str, objectives| parse(text).unwrap().problems(&testbed::mixed().space, objectives);
        assert_eq!(problems(r#"{"nsga2": {"population": 1}}"#, 2).len(), 1);
        assert_eq!(problems(r#"{"tpe": {"startup": 0, "gamma": 1.5}}"#, 2).len(), 2);
        assert_eq!(problems(r#""random""#, 0).len(), 1);
        assert!(problems(r#""auto""#, 2).is_empty());
        assert!(problems(r#"{"cma_es": {}}"#, 2).len() > 1);
    }
}
