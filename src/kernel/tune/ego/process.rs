//! A Gaussian process over the trials so far, and the point at which it expects most.
//!
//! Numbers are their places in [0, 1], which the study rounds to their values; names are one coordinate each, of which
//! the highest counts. The covariance is Matérn's with smoothness 5/2 and a length for every coordinate (Snoek,
//! Larochelle, Adams 2012, "Practical Bayesian Optimization of Machine Learning Algorithms"), and the criterion the
//! logarithm of expected improvement, whose slope does not vanish where little is expected (Ament, Daulton, Eriksson,
//! Balandat, Bakshy 2023, "Unexpected Improvements to Expected Improvement for Bayesian Optimization").
//!
//! The process knows the trials that ran to their end and met their constraints. Those that were stopped, missed a
//! constraint, were illegal or failed are left out.

use std::panic::{AssertUnwindSafe, catch_unwind};

use egobox_ego::{CorrelationSpec, EgorServiceBuilder, InfillStrategy, RegressionSpec, RuntimeFlags, XType};
use ndarray::Array2;
use rand::Rng;
use rand_pcg::Pcg64;

use crate::tune::Space;
use crate::tune::history::Tier;
use crate::tune::random::Sobol;
use crate::tune::sampler::{Draft, Origin, Sampler, View};

/// Trials below which there is nothing to model.
const FEWEST: usize = 3;

/// EGO in progress.
pub(super) struct Process {
    startup: u64,
    /// Positions of the parameters that have more than one value.
    modelled: Vec<usize>,
    types: Vec<XType>,
}

impl Process {
    pub fn new(startup: u64, space: &Space) -> Process {
        let modelled: Vec<usize> =
            (0..space.dimensions()).filter(|&j| space.domain(j).set_levels() != Some(1)).collect();
        let types = modelled.iter().map(|&j| match space.domain(j).set_levels() {
            Some(levels) if space.domain(j).is_nominal() => XType::Enum(levels as usize),
            _ => XType::Float(0.0, 1.0),
        });
        Process { startup, types: types.collect(), modelled }
    }

    /// The point at which a process over the trials before `number` expects most, as places; `None` where there is
    /// nothing to model, or the model failed.
    fn expected(&self, view: &View, number: u64, seed: u64) -> Option<Vec<f64>> {
        let (space, history) = (view.space, view.history);
        let usable =
            |t: &usize| history.is_known(*t) && history.tier(*t) == Tier::Feasible && history.values(*t)[0].is_finite();
        let trials: Vec<usize> = (0..number as usize).filter(usable).collect();
        let values = || trials.iter().map(|&t| history.values(t)[0]);
        let low = values().fold(f64::INFINITY, f64::min);
        let range = values().fold(f64::NEG_INFINITY, f64::max) - low;
        if self.modelled.is_empty() || trials.len() < FEWEST || range <= 0.0 || !range.is_finite() {
            return None;
        }
        let x = Array2::from_shape_fn((trials.len(), self.modelled.len()), |(i, k)| {
            let j = self.modelled[k];
            let place = history.point(trials[i])[j];
            if space.domain(j).is_nominal() { space.domain(j).level_at(place) as f64 } else { place }
        });
        let y = Array2::from_shape_fn((trials.len(), 1), |(i, _)| (history.values(trials[i])[0] - low) / range);
        // Threads race in neither fit nor search: the best of their starts wins, and of equals the first. A panic is
        // how the crate says that a matrix is singular; the study then goes on with a point of Sobol's sequence.
        let found = catch_unwind(AssertUnwindSafe(|| {
            let builder = EgorServiceBuilder::optimize().configure(|config| {
                config
                    .configure_gp(|gp| {
                        gp.regression_spec(RegressionSpec::CONSTANT).correlation_spec(CorrelationSpec::MATERN52)
                    })
                    .infill_strategy(InfillStrategy::LogEI)
                    .runtime_flags(RuntimeFlags::none())
                    .seed(seed)
            });
            Some(builder.min_within_mixint_space(&self.types).ok()?.suggest(&x, &y))
        }));
        let found = found.ok().flatten().filter(|x| x.nrows() > 0 && x.iter().all(|x| x.is_finite()))?;
        let mut point = vec![0.5; space.dimensions()];
        for (k, &j) in self.modelled.iter().enumerate() {
            let x = found[(0, k)];
            point[j] =
                if space.domain(j).is_nominal() { space.domain(j).place_at(x as u64) } else { x.clamp(0.0, 1.0) };
        }
        Some(point)
    }
}

impl Sampler for Process {
    fn prepare(&mut self, view: &View, number: u64) -> bool {
        number < self.startup || view.history.len() as u64 >= number
    }

    fn propose(&mut self, view: &View, number: u64, rng: &mut Pcg64) -> Draft {
        let seed = rng.next_u64();
        let modelled = if number < self.startup { None } else { self.expected(view, number, seed) };
        let Some(point) = modelled else {
            let points = vec![Sobol::point(view.space, view.seed, number, rng)];
            return Draft { points, origin: Origin::Sobol, parents: Vec::new() };
        };
        // Where values have steps, the best place may round to a point that was tried: then its neighbours.
        let mut points = vec![point];
        for &j in &self.modelled {
            let domain = view.space.domain(j);
            for above in [true, false] {
                let place = domain.next_level(points[0][j], above).filter(|_| !domain.is_nominal());
                points.extend(place.map(|place| {
                    let mut other = points[0].clone();
                    other[j] = place;
                    other
                }));
            }
        }
        Draft { points, origin: Origin::Ego, parents: Vec::new() }
    }

    /// A second model would cost as much as the first.
    fn redraws(&self) -> u32 {
        0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::tune::testbed::{self, Problem, evaluated, number, quality, run};
    use crate::tune::{Domain, Ego, Origin, Parameter, SamplerSpec, Settings, Space, Study, Trial};

    fn settings(seed: u64) -> Settings {
        Settings { seed, ..Settings::default() }
    }

    fn spec(startup: u32) -> SamplerSpec {
        SamplerSpec::Ego(Ego { startup: Some(startup) })
    }

    /// Integers, a list, names, a number and one value, of which some points fail.
    fn steps() -> Problem {
        let parameters = [
            ("n", Domain::int(1, 64, true, None)),
            ("tp", Domain::list(vec![json!(1), json!(2), json!(4), json!(8)])),
            ("policy", Domain::list(vec![json!("fcfs"), json!("lpm"), json!("lof")])),
            ("share", Domain::float(0.0, 1.0, false, None)),
            ("one", Domain::list(vec![json!(7)])),
        ];
        let parameters = parameters.map(|(path, domain)| Parameter::new(path, domain.unwrap()));
        let objectives = |v: &[Value]| {
            let miss = libm::log(number(&v[0]) / 16.0);
            let policy = if v[2] == "lpm" { 0.0 } else { 1.0 };
            let share = number(&v[3]) - 0.3;
            (number(&v[3]) < 0.9).then(|| vec![miss * miss + 4.0 / number(&v[1]) + policy + share * share])
        };
        Problem { name: "steps", space: Space::new(parameters.to_vec()).unwrap(), objectives, ..testbed::branin() }
    }

    #[test]
    fn branin_is_solved_in_fifty_trials() {
        for seed in 0..3 {
            let done = run(&SamplerSpec::Ego(Ego::default()), &testbed::branin(), &settings(seed), 50, 16);
            let modelled = done.suggestions.iter().filter(|s| s.origin == Origin::Ego).count();
            assert_eq!(modelled, 40, "seed {seed}");
            let found = quality(&testbed::branin(), &done.trials);
            assert!(found <= 0.41, "seed {seed}: {found}");
        }
    }

    #[test]
    fn steps_names_and_failures_are_searched() {
        let problem = steps();
        for seed in 0..2 {
            let done = run(&spec(10), &problem, &settings(seed), 40, 4);
            assert_eq!(done.trials.len(), 40);
            // The least is 0.5, and random points reach 0.8.
            let found = quality(&problem, &done.trials);
            assert!(found <= 0.55, "seed {seed}: {found}");
        }
    }

    #[test]
    fn it_goes_on_as_if_it_had_never_stopped() {
        for problem in [testbed::branin(), steps()] {
            let whole = run(&spec(6), &problem, &settings(5), 14, 8);
            for cut in [0, 4, 6, 9] {
                let mut study = Study::new(problem.space.clone(), &spec(6), settings(5)).unwrap();
                for trial in &whole.trials[..cut] {
                    let text = serde_json::to_string(&trial.values).unwrap();
                    study.tell(Trial { values: serde_json::from_str(&text).unwrap(), ..trial.clone() });
                }
                let mut rest = Vec::new();
                while cut + rest.len() < 14 {
                    let asked = study.ask(14, &problem);
                    // Startup at once, what is modelled one by one.
                    let next = cut + rest.len();
                    assert_eq!(asked.len(), if next < 6 { 6 - next } else { 1 }, "{} from {cut}", problem.name);
                    for suggestion in asked {
                        study.tell(evaluated(&problem, &suggestion));
                        rest.push(suggestion);
                    }
                }
                assert_eq!(rest, whole.suggestions[cut..], "{} from {cut}", problem.name);
            }
        }
    }

    #[test]
    fn where_nothing_can_be_modelled_it_spreads() {
        let flat = Problem { objectives: |_| Some(vec![1.0]), ..testbed::branin() };
        let failing = Problem { objectives: |_| None, ..testbed::branin() };
        let endless = Problem { objectives: |_| Some(vec![f64::INFINITY]), ..testbed::branin() };
        for problem in [flat, failing, endless] {
            let done = run(&spec(3), &problem, &settings(1), 8, 8);
            assert_eq!(done.suggestions.len(), 8);
            assert!(done.suggestions.iter().all(|s| s.origin == Origin::Sobol));
        }
    }

    #[test]
    fn a_small_space_is_exhausted() {
        let parameters = [("n", Domain::int(0, 3, false, None)), ("flag", Ok(Domain::boolean()))];
        let parameters = parameters.map(|(path, domain)| Parameter::new(path, domain.unwrap()));
        let objectives = |v: &[Value]| Some(vec![number(&v[0]) + f64::from(u8::from(v[1] == true))]);
        let problem = Problem { space: Space::new(parameters.to_vec()).unwrap(), objectives, ..testbed::branin() };
        assert_eq!(run(&spec(3), &problem, &settings(2), 20, 4).trials.len(), 8);
    }
}
