//! CMA-ES with restarts (Hansen, Ostermeier 2001; Auger, Hansen 2005), for one objective over numbers: the sampler for
//! coefficients that are to be fitted.
//!
//! A generation is drawn from a normal distribution whose mean, width and covariance follow the better half of the
//! generations before it. When it has converged or is stuck, the search starts again elsewhere with twice the
//! population. Like the other samplers it keeps no state: the distribution is found by replaying the history, and trial
//! `n` draws from its own stream, so that a generation can be asked for at once, one by one, or again after a crash.
//!
//! Coordinates beyond the ends of a domain are mirrored into it. Integers and lists of numbers are rounded. A draw that
//! falls on a point that was tried, or that breaks a rule, is drawn again, and in the end replaced by a random point.
//!
//! Constants are those of Hansen's tutorial (arXiv 1604.00772), without negative weights. Left out: lists of names,
//! which have no direction, and several objectives.

use rand_pcg::Pcg64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::eigen::{Matrix, eigen};
use super::fresh::Fresh;
use super::{Sampler, Space, Trial};
use crate::rng;

/// Width of the first distribution, in units of a domain.
const SIGMA: f64 = 0.3;
/// Draws of a trial until one is new and obeys the rules.
const LITTER: u32 = 50;
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
}

impl Sampler for CmaEs {
    fn problems(&self, space: &Space) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(population) = self.population.filter(|p| *p < 4) {
            found.push(format!("the population must be at least 4, not {population}"));
        }
        for parameter in space.parameters().iter().filter(|p| p.domain.is_nominal()) {
            let path = &parameter.path;
            found.push(format!("`{path}` has values that are no numbers, between which cma_es cannot go; take nsga2"));
        }
        found
    }

    /// At most the rest of the current generation: what comes after it depends on its results.
    fn ask(
        &self,
        space: &Space,
        history: &[Trial],
        batch: usize,
        seed: u64,
        feasible: &dyn Fn(&[Value]) -> bool,
    ) -> Vec<Vec<Value>> {
        let search = Search::replay(self.population(space.dimensions()), space, history, seed);
        let mut fresh = Fresh::new(space, history, feasible);
        let end = (search.born + search.run.population).min(history.len().saturating_add(batch));
        (history.len()..end)
            .map_while(|number| {
                let rng = &mut trial_stream(seed, number);
                (0..LITTER).find_map(|_| fresh.take(&search.run.draw(rng).1)).or_else(|| fresh.random(rng))
            })
            .collect()
    }
}

fn trial_stream(seed: u64, number: usize) -> Pcg64 {
    rng::stream(seed, &format!("tune/cma_es/{number}"))
}

/// Where a search stands after some whole generations.
struct Search {
    run: Run,
    /// Trials in whole generations.
    born: usize,
}

impl Search {
    fn replay(population: usize, space: &Space, history: &[Trial], seed: u64) -> Search {
        let n = space.dimensions();
        let mut search = Search { run: Run::new(vec![0.5; n], population), born: 0 };
        let mut restarts = 0u32;
        while history.len() - search.born >= search.run.population {
            let generation = &history[search.born..search.born + search.run.population];
            let mut steps: Vec<Step> = (search.born..)
                .zip(generation)
                .filter_map(|(number, trial)| search.run.step(space, trial, &mut trial_stream(seed, number)))
                .collect();
            search.born += search.run.population;
            // Stable: among equals the older trial goes first.
            steps.sort_by(|a, b| a.class.cmp(&b.class).then(a.value.total_cmp(&b.value)));
            search.run.learn(&steps);
            if search.run.is_over() {
                restarts += 1;
                let rng = &mut rng::stream(seed, &format!("tune/cma_es/restart/{restarts}"));
                let mean = (0..n).map(|_| rng::uniform01(rng)).collect();
                search.run = Run::new(mean, search.run.population.saturating_mul(2));
            }
        }
        search
    }
}

/// A trial as the distribution sees it.
struct Step {
    /// 0: feasible, 1: not, 2: failed.
    class: u8,
    value: f64,
    /// From the mean, in units of the width.
    y: Vec<f64>,
}

/// A search between two restarts.
struct Run {
    population: usize,
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
    fn new(mean: Vec<f64>, population: usize) -> Run {
        let n = mean.len();
        Run {
            population,
            generation: 0,
            sigma: SIGMA,
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
        let z: Vec<f64> = self.lengths.iter().map(|length| length * rng::standard_normal(rng)).collect();
        let y = self.axes.times(&z);
        let point = self.mean.iter().zip(&y).map(|(m, y)| mirrored(m + self.sigma * y)).collect();
        (y, point)
    }

    /// The step that a trial was: the draw that gave its point, or else the straight way there. `None` where the space
    /// does not have the point.
    fn step(&self, space: &Space, trial: &Trial, rng: &mut Pcg64) -> Option<Step> {
        let point = space.encode(&trial.params)?;
        let drawn = (0..LITTER).map(|_| self.draw(rng)).find(|(_, p)| space.decode(p) == trial.params);
        let straight = || point.iter().zip(&self.mean).map(|(p, m)| (p - m) / self.sigma).collect();
        let y = drawn.map_or_else(straight, |(y, _)| y);
        let value = trial.objectives.as_ref().and_then(|o| o.first().copied()).filter(|v| !v.is_nan());
        let class = if value.is_none() { 2 } else { u8::from(!trial.feasible) };
        Some(Step { class, value: value.unwrap_or(f64::INFINITY), y })
    }

    /// Moves the distribution towards the better half of a generation, best first.
    fn learn(&mut self, steps: &[Step]) {
        self.generation += 1;
        self.best.push(steps.first().map_or(f64::INFINITY, |s| s.value));
        let n = self.mean.len();
        let dimensions = n as f64;
        let parents = (self.population / 2).min(steps.len());
        if parents == 0 {
            self.broken = true;
            return;
        }
        let half = libm::log((self.population as f64 + 1.0) / 2.0);
        let raw: Vec<f64> = (1..=parents).map(|i| half - libm::log(i as f64)).collect();
        let sum: f64 = raw.iter().sum();
        let weights: Vec<f64> = raw.iter().map(|w| w / sum).collect();
        let effective = 1.0 / weights.iter().map(|w| w * w).sum::<f64>();

        let cc = (4.0 + effective / dimensions) / (dimensions + 4.0 + 2.0 * effective / dimensions);
        let cs = (effective + 2.0) / (dimensions + effective + 5.0);
        let c1 = 2.0 / ((dimensions + 1.3) * (dimensions + 1.3) + effective);
        let rank = 2.0 * (effective - 2.0 + 1.0 / effective) / ((dimensions + 2.0) * (dimensions + 2.0) + effective);
        let cmu = rank.clamp(0.0, 1.0 - c1);
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
        let old = 1.0 - c1 - cmu + (1.0 - kept) * c1 * cc * (2.0 - cc);
        for i in 0..n {
            for j in 0..=i {
                let spread: f64 = weights.iter().zip(steps).map(|(w, s)| w * s.y[i] * s.y[j]).sum();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::testbed::{Problem, check_resumes, run};
    use crate::tune::{Domain, Parameter, Random};
    use serde_json::json;

    fn numbers(v: &[Value]) -> Vec<f64> {
        v.iter().map(|x| x.as_f64().unwrap()).collect()
    }

    fn problem(domains: Vec<Domain>, objectives: fn(&[Value]) -> Option<Vec<f64>>) -> Problem {
        let parameter = |(i, domain)| Parameter { path: format!("x{i}"), domain };
        let space = Space::new(domains.into_iter().enumerate().map(parameter).collect()).unwrap();
        Problem { space, rule: |_| true, objectives }
    }

    fn sphere() -> Problem {
        problem(vec![Domain::float(-5.0, 3.0, false, None).unwrap(); 6], |v| {
            Some(vec![numbers(v).iter().map(|x| (x - 0.7) * (x - 0.7)).sum()])
        })
    }

    fn rosenbrock() -> Problem {
        problem(vec![Domain::float(-2.0, 3.0, false, None).unwrap(); 5], |v| {
            let bend = |w: &[f64]| 100.0 * (w[1] - w[0] * w[0]).powi(2) + (1.0 - w[0]).powi(2);
            Some(vec![numbers(v).windows(2).map(bend).sum()])
        })
    }

    fn best(trials: &[Trial]) -> f64 {
        trials.iter().filter_map(|t| Some(t.objectives.as_ref()?[0])).fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn resuming_and_batching_change_nothing() {
        check_resumes(&CmaEs::default(), &sphere());
        check_resumes(&CmaEs { population: Some(20) }, &rosenbrock());
    }

    #[test]
    fn smooth_valleys_are_followed_to_their_ends() {
        for seed in 0..3 {
            let found = best(&run(&CmaEs::default(), &sphere(), 1300, 16, seed));
            assert!(found < 1e-8, "sphere, seed {seed}: {found}");
            let found = best(&run(&CmaEs::default(), &rosenbrock(), 3500, 16, seed));
            assert!(found < 1e-6, "Rosenbrock, seed {seed}: {found}");
        }
        assert!(best(&run(&Random, &sphere(), 1300, 16, 0)) > 0.1);
    }

    #[test]
    fn an_optimum_at_a_bound_is_reached_and_none_is_crossed() {
        // The best corner is (2, 0.001): one linear scale, one logarithmic.
        let corner = problem(
            vec![Domain::float(2.0, 9.0, false, None).unwrap(), Domain::float(1e-3, 1e3, true, None).unwrap()],
            |v| Some(vec![numbers(v)[0] + numbers(v)[1].ln()]),
        );
        let trials = run(&CmaEs::default(), &corner, 600, 6, 1);
        for t in &trials {
            let x = numbers(&t.params);
            assert!((2.0..=9.0).contains(&x[0]) && (1e-3..=1e3).contains(&x[1]), "{x:?}");
        }
        assert!(best(&trials) < 2.0 + 1e-3f64.ln() + 1e-4, "{}", best(&trials));
    }

    #[test]
    fn integers_are_rounded_and_failures_avoided() {
        let mixed = problem(
            vec![
                Domain::int(1, 4096, true, None).unwrap(),
                Domain::list(vec![json!(1), json!(2), json!(4), json!(8)]).unwrap(),
                Domain::float(0.0, 1.0, false, None).unwrap(),
            ],
            |v| {
                let x = numbers(v);
                let miss = (x[0] / 300.0).ln().powi(2) + (x[1] - 4.0).powi(2) + (x[2] - 0.2).powi(2);
                if x[2] > 0.8 { None } else { Some(vec![miss]) }
            },
        );
        let trials = run(&CmaEs::default(), &mixed, 500, 8, 3);
        assert!(best(&trials) < 1e-4, "{}", best(&trials));
        let mut points: Vec<String> = trials.iter().map(|t| format!("{:?}", t.params)).collect();
        points.sort();
        points.dedup();
        assert_eq!(points.len(), trials.len());
    }

    #[test]
    fn many_valleys_are_left_by_restarts() {
        // Rastrigin in 4 dimensions: the nearest valleys to the best one are 1 worse.
        let waves = problem(vec![Domain::float(-4.0, 5.0, false, None).unwrap(); 4], |v| {
            let wave = |x: &f64| 10.0 + x * x - 10.0 * (2.0 * std::f64::consts::PI * x).cos();
            Some(vec![numbers(v).iter().map(wave).sum()])
        });
        let found: Vec<f64> = (0..3).map(|seed| best(&run(&CmaEs::default(), &waves, 8000, 32, seed))).collect();
        assert!(found.iter().filter(|f| **f < 1e-3).count() >= 2, "{found:?}");
    }

    #[test]
    fn it_says_what_it_cannot_search() {
        let names = Domain::list(vec![json!("a"), json!("b")]).unwrap();
        let space = Space::new(vec![Parameter { path: "p".into(), domain: names }]).unwrap();
        let problems = CmaEs { population: Some(2) }.problems(&space);
        assert!(problems.len() == 2 && problems[0].contains("at least 4") && problems[1].contains("nsga2"));
        assert!((mirrored(-0.25) - 0.25).abs() < 1e-15 && (mirrored(1.75) - 0.25).abs() < 1e-15);
        assert!((mirrored(3.5) - 0.5).abs() < 1e-15);
    }
}
