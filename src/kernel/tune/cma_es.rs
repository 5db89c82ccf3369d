//! CMA-ES with restarts (Hansen, Ostermeier 2001; Auger, Hansen 2005), for one objective over numbers: the sampler for
//! coefficients that are to be fitted.
//!
//! A generation is drawn from a normal distribution whose mean and width follow the better half of the generations
//! before it, and whose covariance also leaves the directions of the worse half (Jastrebski, Arnold 2006). When it has
//! converged or is stuck, the search starts again elsewhere with twice the population. What a trial teaches is the
//! straight way from the mean to its point. Integers and lists of numbers are rounded, and there it is the draw before
//! it was rounded: trial `n` draws from its own stream, so that draw can be found again when the trial is told, and
//! nothing has to be stored beside the trials. A trial that was changed (repaired, or given by the user) counts as the
//! straight way there.
//!
//! A draw beyond the ends of a domain, or on a point that was tried, is drawn again; what is still beyond after some
//! draws is mirrored.
//!
//! Constants are those of Hansen's tutorial (arXiv 1604.00772). Left out: lists of names and values that are not set,
//! which have no direction, conditions, and several objectives.

use rand_pcg::Pcg64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Space;
use super::eigen::{Matrix, eigen};
use super::history::{History, Tier};
use super::sampler::{Draft, Origin, Sampler, View};
use crate::rng;

/// Width of the first distribution, in units of a domain; that of Optuna's sampler.
const SIGMA: f64 = 1.0 / 6.0;
/// The same after a restart, which looks for other valleys.
const SIGMA_AGAIN: f64 = 0.3;
/// Draws of a trial until one is new.
const DRAWS: u32 = 20;
/// Draws until one lies within all domains, before what lies beyond is mirrored.
const INSIDE: u32 = 30;
/// Width below which a search has converged, in units of a domain: values carry 12 digits.
const CONVERGED: f64 = 1e-11;
/// Ratio of the longest axis to the shortest, squared, at which the covariance is numerically lost.
const CONDITION_MAX: f64 = 1e14;

/// Parameters of CMA-ES.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CmaEs {
    /// Trials per generation, at least 4; doubles with every restart. Default: 4 + 3 ln(parameters).
    pub population: Option<u32>,
}

impl CmaEs {
    fn population(&self, dimensions: usize) -> usize {
        let default = 4 + (3.0 * libm::log(dimensions as f64)) as usize;
        self.population.map_or(default, |p| p as usize)
    }

    /// Why it cannot search a space, in words for the user.
    pub(super) fn problems(&self, space: &Space, objectives: usize) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(population) = self.population.filter(|p| *p < 4) {
            found.push(format!("the population must be at least 4, not {population}"));
        }
        if objectives > 1 {
            found.push("cma_es is for one objective; take nsga2 for several".to_owned());
        }
        for parameter in space.parameters() {
            let path = &parameter.path;
            if parameter.domain.is_nominal() {
                found.push(format!(
                    "`{path}` has values that are no numbers, between which cma_es cannot go; take nsga2"
                ));
            } else if parameter.domain.may_be_unset() || parameter.when.is_some() {
                found.push(format!("`{path}` may be absent, and cma_es needs a number for it; take tpe or nsga2"));
            }
        }
        found
    }
}

/// A search in progress.
pub(super) struct Cma {
    run: Run,
    /// Trials in whole generations.
    born: usize,
    restarts: u32,
}

impl Cma {
    pub fn new(spec: &CmaEs, space: &Space) -> Cma {
        let n = space.dimensions();
        let rounded = (0..n).any(|j| space.domain(j).set_levels().is_some());
        Cma { run: Run::new(vec![0.5; n], SIGMA, spec.population(n), rounded), born: 0, restarts: 0 }
    }
}

impl Sampler for Cma {
    fn prepare(&mut self, view: &View, number: u64) -> bool {
        while self.born + self.run.population <= number as usize {
            let end = self.born + self.run.population;
            if view.history.len() < end {
                return false;
            }
            let mut steps: Vec<Step> = (self.born..end).filter_map(|trial| self.run.step(view, trial)).collect();
            self.born = end;
            let order = |a: &Step, b: &Step| {
                let values = |s: &Step| value(view.history, s.trial);
                view.history.class_order(a.trial, b.trial).then(values(a).total_cmp(&values(b)))
            };
            // Stable: among equals the older trial goes first.
            steps.sort_by(order);
            let best = steps.first().map_or(f64::INFINITY, |s| value(view.history, s.trial));
            self.run.learn(&steps, best);
            if self.run.is_over() {
                self.restarts += 1;
                let rng = &mut rng::stream(view.seed, &format!("tune/cma_es/restart/{}", self.restarts));
                let mean = self.run.mean.iter().map(|_| rng::uniform01(rng)).collect();
                let population = self.run.population.saturating_mul(2);
                self.run = Run::new(mean, SIGMA_AGAIN, population, self.run.rounded);
            }
        }
        true
    }

    fn propose(&mut self, _view: &View, _number: u64, rng: &mut Pcg64) -> Draft {
        Draft { points: vec![self.run.draw(rng).1], origin: Origin::CmaEs, parents: Vec::new() }
    }

    fn redraws(&self) -> u32 {
        DRAWS - 1
    }
}

/// What a trial is worth among others of its tier.
fn value(history: &History, trial: usize) -> f64 {
    match history.tier(trial) {
        Tier::Feasible | Tier::Pruned | Tier::Infeasible => history.values(trial)[0],
        Tier::Illegal | Tier::Failed => f64::INFINITY,
    }
}

/// A trial as the distribution sees it.
struct Step {
    trial: usize,
    /// From the mean, in units of the width.
    y: Vec<f64>,
}

/// A search between two restarts.
struct Run {
    population: usize,
    /// Some domain has levels to which draws are rounded.
    rounded: bool,
    generation: u64,
    mean: Vec<f64>,
    sigma: f64,
    covariance: Matrix,
    /// Square roots of the covariance's eigenvalues, and its eigenvectors in columns.
    lengths: Vec<f64>,
    axes: Matrix,
    path_sigma: Vec<f64>,
    path_covariance: Vec<f64>,
    /// Best value of every generation.
    best: Vec<f64>,
    broken: bool,
}

impl Run {
    fn new(mean: Vec<f64>, sigma: f64, population: usize, rounded: bool) -> Run {
        let n = mean.len();
        Run {
            population,
            rounded,
            generation: 0,
            sigma,
            covariance: Matrix::identity(n),
            lengths: vec![1.0; n],
            axes: Matrix::identity(n),
            path_sigma: vec![0.0; n],
            path_covariance: vec![0.0; n],
            best: Vec::new(),
            broken: false,
            mean,
        }
    }

    /// A draw: the step from the mean, and where in the unit cube it leads.
    fn draw(&self, rng: &mut Pcg64) -> (Vec<f64>, Vec<f64>) {
        let mut last = (Vec::new(), Vec::new());
        for _ in 0..INSIDE {
            let z: Vec<f64> = self.lengths.iter().map(|length| length * rng::standard_normal(rng)).collect();
            let y = self.axes.times(&z);
            let point: Vec<f64> = self.mean.iter().zip(&y).map(|(m, y)| m + self.sigma * y).collect();
            let inside = point.iter().all(|x| (0.0..=1.0).contains(x));
            last = (y, point);
            if inside {
                return last;
            }
        }
        let (y, point) = last;
        let point = point.into_iter().map(mirrored).collect();
        (y, point)
    }

    /// The step that a trial was: the straight way to its point, or, where domains have levels to which draws are
    /// rounded, the draw that gave the point. `None` where the space does not have it.
    fn step(&self, view: &View, trial: usize) -> Option<Step> {
        if !view.history.is_known(trial) {
            return None;
        }
        let point = view.history.point(trial);
        let drawn = || {
            let rng = &mut rng::stream_numbered(view.seed, "tune/", trial as u64, "");
            let gave = |places: &mut Vec<f64>| {
                view.space.canonical(places, |_| 0.5);
                places.as_slice() == point
            };
            (0..DRAWS).map(|_| self.draw(rng)).find_map(|(y, mut places)| gave(&mut places).then_some(y))
        };
        let straight = || point.iter().zip(&self.mean).map(|(p, m)| (p - m) / self.sigma).collect();
        let y = if self.rounded { drawn() } else { None };
        Some(Step { trial, y: y.unwrap_or_else(straight) })
    }

    /// Moves the distribution towards the better half of a generation, best first, of which the first has the value
    /// `best`.
    fn learn(&mut self, steps: &[Step], best: f64) {
        self.generation += 1;
        self.best.push(best);
        let n = self.mean.len();
        let dimensions = n as f64;
        let parents = (self.population / 2).min(steps.len());
        if parents == 0 {
            self.broken = true;
            return;
        }
        let half = libm::log((self.population as f64 + 1.0) / 2.0);
        let raw: Vec<f64> = (1..=self.population).map(|i| half - libm::log(i as f64)).collect();
        let sum: f64 = raw[..parents].iter().sum();
        let weights: Vec<f64> = raw[..parents].iter().map(|w| w / sum).collect();
        let effective = 1.0 / weights.iter().map(|w| w * w).sum::<f64>();

        let cc = (4.0 + effective / dimensions) / (dimensions + 4.0 + 2.0 * effective / dimensions);
        let cs = (effective + 2.0) / (dimensions + effective + 5.0);
        let c1 = 2.0 / ((dimensions + 1.3) * (dimensions + 1.3) + effective);
        let rank = 2.0 * (effective - 2.0 + 1.0 / effective) / ((dimensions + 2.0) * (dimensions + 2.0) + effective);
        let cmu = rank.clamp(0.0, 1.0 - c1 - 1e-8);
        // Equations 50 to 53: how much the worse half may take away.
        let worse = &raw[self.population / 2..];
        let lost: f64 = worse.iter().map(|w| -w).sum();
        let effective_worse = lost * lost / worse.iter().map(|w| w * w).sum::<f64>();
        let most = (1.0 + c1 / cmu)
            .min(1.0 + 2.0 * effective_worse / (effective + 2.0))
            .min((1.0 - c1 - cmu) / (dimensions * cmu));
        let damping = 1.0 + 2.0 * (libm::sqrt((effective - 1.0) / (dimensions + 1.0)) - 1.0).max(0.0) + cs;
        // Mean length of a standard normal vector.
        let chi = libm::sqrt(dimensions) * (1.0 - 1.0 / (4.0 * dimensions) + 1.0 / (21.0 * dimensions * dimensions));

        let mut step = vec![0.0; n];
        for (weight, s) in weights.iter().zip(steps) {
            for (sum, y) in step.iter_mut().zip(&s.y) {
                *sum += weight * y;
            }
        }
        for (m, y) in self.mean.iter_mut().zip(&step) {
            *m += self.sigma * y;
        }
        // The step in the coordinates in which the distribution is round.
        let mut round = self.axes.transposed_times(&step);
        round.iter_mut().zip(&self.lengths).for_each(|(r, length)| *r /= length);
        let round = self.axes.times(&round);
        for (p, r) in self.path_sigma.iter_mut().zip(&round) {
            *p = (1.0 - cs) * *p + libm::sqrt(cs * (2.0 - cs) * effective) * r;
        }
        let length = libm::sqrt(self.path_sigma.iter().map(|p| p * p).sum());
        let unfolded = 1.0 - libm::pow(1.0 - cs, 2.0 * self.generation as f64);
        let stalled = length / libm::sqrt(unfolded) >= (1.4 + 2.0 / (dimensions + 1.0)) * chi;
        let kept = if stalled { 0.0 } else { 1.0 };
        for (p, y) in self.path_covariance.iter_mut().zip(&step) {
            *p = (1.0 - cc) * *p + kept * libm::sqrt(cc * (2.0 - cc) * effective) * y;
        }
        // A step of the worse half counts by its direction alone.
        let mut signed: Vec<(f64, &Step)> = weights.iter().copied().zip(steps).collect();
        for (w, s) in worse.iter().zip(steps.get(self.population / 2..).unwrap_or(&[])) {
            let mut round = self.axes.transposed_times(&s.y);
            round.iter_mut().zip(&self.lengths).for_each(|(r, length)| *r /= length);
            let square: f64 = round.iter().map(|r| r * r).sum();
            signed.push((w / lost * most * dimensions / (square + 1e-8), s));
        }
        let all = 1.0 - if steps.len() > self.population / 2 { most } else { 0.0 };
        let old = 1.0 - c1 - cmu * all + (1.0 - kept) * c1 * cc * (2.0 - cc);
        for i in 0..n {
            for j in 0..=i {
                let spread: f64 = signed.iter().map(|(w, s)| w * s.y[i] * s.y[j]).sum();
                let path = self.path_covariance[i] * self.path_covariance[j];
                let value = old * self.covariance.at(i, j) + c1 * path + cmu * spread;
                self.covariance.set(i, j, value);
                self.covariance.set(j, i, value);
            }
        }
        // No more than the width of a domain: beyond it a draw is as good as any other.
        self.sigma = (self.sigma * libm::exp((cs / damping) * (length / chi - 1.0)).min(1e2)).min(1.0);
        self.reshape();
    }

    /// Axes and lengths of the covariance.
    fn reshape(&mut self) {
        let (values, axes) = eigen(&self.covariance);
        let (low, high) = values.iter().fold((f64::INFINITY, 0.0f64), |(l, h), v| (l.min(*v), h.max(*v)));
        if !(low > 0.0 && high.is_finite() && high / low < CONDITION_MAX) {
            self.broken = true;
            return;
        }
        self.lengths = values.iter().map(|v| libm::sqrt(*v)).collect();
        self.axes = axes;
    }

    /// It has converged, or is stuck.
    fn is_over(&self) -> bool {
        let n = self.mean.len() as f64;
        let longest = self.lengths.iter().fold(0.0f64, |a, b| a.max(*b));
        let patience = 10 + (30.0 * n / self.population as f64) as usize;
        let recent = &self.best[self.best.len().saturating_sub(patience)..];
        let (low, high) = recent.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)));
        let flat = recent.len() == patience && (high - low <= 1e-12 * low.abs() || low == high);
        let most = 100.0 + 50.0 * (n + 3.0) * (n + 3.0) / libm::sqrt(self.population as f64);
        self.broken || self.sigma * longest < CONVERGED || flat || self.generation as f64 > most
    }
}

/// A coordinate beyond an end of [0, 1], reflected there.
fn mirrored(u: f64) -> f64 {
    if !u.is_finite() {
        return 0.5;
    }
    let folded = u - 2.0 * libm::floor(u / 2.0);
    if folded > 1.0 { 2.0 - folded } else { folded }
}
