//! The choice of a sampler by space, budget, objectives and cost.
//!
//! | when | what |
//! |---|---|
//! | the legal points are no more than the budget | all of them |
//! | one objective over numbers, and at least 30 trials per parameter | CMA-ES |
//! | trials that cost less than a model would, and more than 2,000 of them | NSGA-II |
//! | up to 200 trials (100 with more than 20 continuous parameters) | TPE |
//! | more | TPE for so many, then NSGA-II on all trials so far; NSGA-III for four objectives and more |
//!
//! The numbers are from comparisons on Branin, Hartmann's function in 6 dimensions, Rosenbrock's in 5, ZDT1, ZDT2,
//! DTLZ2, and the 18 parameters of a serving engine: TPE finds the region faster, the archive then evolves better and
//! at a hundredth of the cost, and CMA-ES follows valleys that neither does.

use rand_pcg::Pcg64;

use super::grid::Grid;
use super::nsga2::{Crowding, Directions, Evolution, Nsga2, Nsga3, Survival};
use super::nsga3;
use super::rules::Judge;
use super::sampler::{Draft, Sampler, View};
use super::study::Settings;
use super::tpe::{Estimator, Tpe};
use super::{CmaEs, SamplerSpec, Space};

/// The largest space whose legal points are counted.
const COUNTED: u64 = 100_000;
/// Points that are tried one by one where no budget is given.
const FEW: u64 = 256;
/// Trials per parameter from which on CMA-ES is ahead.
const PER_PARAMETER: u64 = 30;
/// Values from which on a parameter is as good as continuous.
const MANY: u64 = 32;
/// Trials of TPE before the archive is handed over.
const MODELLED: u64 = 200;
/// The same with many continuous parameters.
const MODELLED_WIDE: u64 = 100;
/// Cost of a trial below which a model is the larger cost, in seconds.
const CHEAP_S: f64 = 0.0005;
/// Trials of a generation after the model. Fewer than where a search begins with nothing: the region is found, and what
/// counts from here on is how often the parents are renewed. On ZDT1, ZDT2, DTLZ2 and the serving engine, 20 reach in
/// 1,000 trials 2 to 7 hundredths more of the best volume than 50 do, and are level or ahead after 5,000.
const POPULATION: u64 = 20;
/// Objectives from which on nearly everybody is on the front, and directions say more than crowding.
const DIRECTED: usize = 4;
/// Trials from which on cheap ones are evolved from the start.
const LARGE: u64 = 2000;

/// What a study uses.
pub(super) enum Choice {
    Spec(SamplerSpec),
    Made(Box<dyn Sampler>),
}

/// What to use, and why, in words for the user.
pub(super) fn choose(space: &Space, settings: &Settings, judge: &mut Judge) -> (Choice, String) {
    if let Some(why) = small(space, settings, judge) {
        return (Choice::Spec(SamplerSpec::Grid(Grid::default())), format!("grid: {why}"));
    }
    let n = space.dimensions();
    let is_long = |j: &usize| space.domain(*j).set_levels().is_none_or(|levels| levels > MANY);
    let long = (0..n).filter(is_long).count();
    let numbers = (0..n).all(|j| !space.domain(j).is_nominal() && !space.may_be_absent(j));
    let several = settings.objectives > 1;
    let enough = settings.budget.is_none_or(|budget| budget >= PER_PARAMETER * n as u64);
    if !several && numbers && 2 * long >= n && enough {
        let budget = settings.budget.map_or("an open budget".to_owned(), |b| format!("{b} trials"));
        let why =
            format!("cma_es: one objective over {n} numbers, and {budget} (at least {PER_PARAMETER} a parameter)");
        return (Choice::Spec(SamplerSpec::CmaEs(CmaEs::default())), why);
    }
    let cheap = settings.seconds_per_trial.is_some_and(|s| s < CHEAP_S);
    let large = settings.budget.is_none_or(|budget| budget > LARGE);
    if cheap && large {
        let cost = settings.seconds_per_trial.unwrap_or(0.0) * 1e6;
        let why = format!("nsga2: a trial costs {cost:.0} us, less than a model of the trials");
        return (Choice::Spec(SamplerSpec::Nsga2(Nsga2::default())), why);
    }
    let modelled = if long > 20 { MODELLED_WIDE } else { MODELLED };
    let shape = format!("{n} parameters, {} objective{}", settings.objectives, if several { "s" } else { "" });
    if let Some(budget) = settings.budget.filter(|budget| *budget <= modelled) {
        return (Choice::Spec(SamplerSpec::Tpe(Tpe::default())), format!("tpe: {shape}, and only {budget} trials"));
    }
    let many = settings.objectives >= DIRECTED;
    let population = if many { u64::from(Nsga3::default().population) } else { POPULATION };
    let survival: Box<dyn Survival> = if many {
        Box::new(Directions(nsga3::reference_points(settings.objectives, population as usize)))
    } else {
        Box::new(Crowding)
    };
    let handover = Handover {
        model: Estimator::new(&Tpe::default()),
        evolution: Evolution::new(population, modelled, survival),
        modelled,
    };
    let then = if many { "nsga3" } else { "nsga2" };
    let why = format!("tpe for the first {modelled} trials, then {then} on all of them: {shape}");
    (Choice::Made(Box::new(handover)), why)
}

/// Why every point of a space should be tried; `None` where that is too much.
fn small(space: &Space, settings: &Settings, judge: &mut Judge) -> Option<String> {
    let points = space.points()?;
    let Some(budget) = settings.budget else {
        return (points <= FEW).then(|| format!("the space has only {points} points"));
    };
    if points <= budget {
        return Some(format!("the space has {points} points, no more than the budget of {budget} trials"));
    }
    if points > COUNTED {
        return None;
    }
    let mut legal = 0;
    let mut next = 0;
    while next < points {
        let until = (next + 4096).min(points);
        let chunk: Vec<Vec<f64>> = (next..until).map(|i| space.nth(i)).collect();
        let masks = judge.broken(&chunk.iter().map(Vec::as_slice).collect::<Vec<_>>());
        legal += masks.iter().filter(|mask| **mask == 0).count() as u64;
        if legal > budget {
            return None;
        }
        next = until;
    }
    Some(format!("{legal} of the space's {points} points are legal, no more than the budget of {budget} trials"))
}

/// TPE for some trials, then evolution on all of them.
struct Handover {
    model: Estimator,
    evolution: Evolution,
    /// Trials of TPE.
    modelled: u64,
}

impl Handover {
    fn of(&mut self, number: u64) -> &mut dyn Sampler {
        if number < self.modelled { &mut self.model } else { &mut self.evolution }
    }
}

impl Sampler for Handover {
    fn prepare(&mut self, view: &View, number: u64) -> bool {
        self.of(number).prepare(view, number)
    }

    fn propose(&mut self, view: &View, number: u64, rng: &mut Pcg64) -> Draft {
        self.of(number).propose(view, number, rng)
    }

    fn redraws(&self) -> u32 {
        0
    }
}
