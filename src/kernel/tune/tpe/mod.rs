//! TPE: tree-structured Parzen estimators (Bergstra, Bardenet, Bengio, Kegl 2011; for several objectives: Ozaki,
//! Tanigaki, Watanabe, Onishi 2020; constants of Optuna's sampler).
//!
//! The trials so far are split into the few best and all others. Two mixtures of kernels describe where each side is,
//! and the next trial is that of some draws from the side of the best at which it is most in excess.
//!
//! In its *multivariate* form a kernel covers all parameters at once, and draws keep what belongs together; in its
//! *independent* form every parameter has mixtures and draws of its own. Each fails somewhere: the first where the
//! front is long and parameters matter each for itself, the second where they only work together. So they take turns
//! over the same history: every other trial, and with several objectives, where the front is long, every fourth in the
//! multivariate form.
//!
//! The split: feasible trials by domination, and within the front that is only partly among the best by greedy
//! hypervolume; then those that were pruned, the farthest first; then those that miss a constraint, by how much.
//! Illegal and failed trials are never among the best, but repel.
//!
//! Results are looked at once per batch: the trials of a batch know of each other only that they must differ.

mod parzen;

use rand_pcg::Pcg64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::parzen::Parzen;
use super::history::{History, Tier};
use super::hssp;
use super::random::Sobol;
use super::sampler::{Draft, Origin, Sampler, View};
use crate::rng;

/// Trials at the end of the history that count in full; older ones count the less, the older they are.
const RECENT: usize = 25;
/// Members of one front that hypervolumes are compared of; of more, the least crowded.
const COMPARED: usize = 200;
/// Alternatives of one proposal, for when the first is taken.
const ALTERNATIVES: usize = 24;

/// Parameters of TPE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tpe {
    /// Trials spread over the space before the first that is modelled; at least 1.
    pub startup: u32,
    /// Draws of which the best becomes the next trial; at least 1.
    pub candidates: u32,
    /// Share of the trials that counts as best, above 0 and below 1.
    pub gamma: f64,
    /// Most trials that count as best where there is one objective.
    pub gamma_max: u32,
    /// Whether parameters are modelled together, each for itself, or in turns.
    pub multivariate: Multivariate,
}

/// Whether parameters are modelled together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Multivariate {
    /// `true`: together. `false`: each for itself.
    Always(bool),
    Turns(Turns),
}

/// In turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Turns {
    /// Every other trial together; with several objectives every fourth.
    Alternate,
}

impl Default for Tpe {
    fn default() -> Self {
        Tpe {
            startup: 10,
            candidates: 24,
            gamma: 0.1,
            gamma_max: 25,
            multivariate: Multivariate::Turns(Turns::Alternate),
        }
    }
}

impl Tpe {
    /// What is wrong with the parameters, in words for the user.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.startup == 0 || self.candidates == 0 || self.gamma_max == 0 {
            problems.push("`startup`, `candidates` and `gamma_max` of tpe must be at least 1".to_owned());
        }
        if !(self.gamma > 0.0 && self.gamma < 1.0) {
            problems.push(format!("`gamma` of tpe is a share above 0 and below 1, not {}", self.gamma));
        }
        problems
    }

    /// Whether the parameters of a trial are modelled together.
    fn together(&self, number: u64, objectives: usize) -> bool {
        match self.multivariate {
            Multivariate::Always(together) => together,
            Multivariate::Turns(Turns::Alternate) => number.is_multiple_of(turn(objectives)),
        }
    }

    /// Trials from `first` on, before `number`, whose parameters are modelled each for itself.
    fn singles(&self, first: u64, number: u64, objectives: usize) -> u64 {
        (first..number).filter(|n| !self.together(*n, objectives)).count() as u64
    }
}

/// One trial in so many is modelled together. A front is long: along it most parameters matter each for itself.
fn turn(objectives: usize) -> u64 {
    if objectives == 1 { 2 } else { 4 }
}

/// TPE in progress.
pub(super) struct Estimator {
    spec: Tpe,
    /// The trials that the models know.
    learned: usize,
    /// Both sides.
    split: Option<Split>,
    joint: Option<Pair>,
    /// One pair per parameter.
    single: Option<Vec<Pair>>,
}

/// The best trials and the others, each in order of number.
struct Split {
    best: Vec<usize>,
    others: Vec<usize>,
}

/// A model of the best and one of the others.
struct Pair {
    best: Parzen,
    others: Parzen,
}

impl Estimator {
    pub fn new(spec: &Tpe) -> Estimator {
        Estimator { spec: spec.clone(), learned: 0, split: None, joint: None, single: None }
    }

    fn pair(view: &View, split: &Split, parameters: &[usize]) -> Pair {
        let model = |trials: &[usize], weights: Vec<f64>| {
            let points: Vec<&[f64]> = trials.iter().map(|&t| view.history.point(t)).collect();
            Parzen::new(view.space, parameters, &points, weights)
        };
        // Of several objectives the best are all worth the same: they are best in different ways.
        let several = view.history.objectives() > 1;
        let best_weights = if several { vec![1.0; split.best.len()] } else { weights(split.best.len()) };
        Pair { best: model(&split.best, best_weights), others: model(&split.others, weights(split.others.len())) }
    }

    /// Draws over all parameters, best first.
    fn joint(&mut self, view: &View, rng: &mut Pcg64) -> Vec<Vec<f64>> {
        let Some(split) = &self.split else { return Vec::new() };
        let all: Vec<usize> = (0..view.space.dimensions()).collect();
        let pair = self.joint.get_or_insert_with(|| Self::pair(view, split, &all));
        let mut buffer = Vec::new();
        let mut drawn: Vec<(f64, Vec<f64>)> = (0..self.spec.candidates)
            .map(|_| {
                let mut places = pair.best.sample(view.space, rng);
                view.space.canonical(&mut places, |_| rng::uniform01(rng));
                let best = pair.best.log_density(view.space, &places, &mut buffer);
                (best - pair.others.log_density(view.space, &places, &mut buffer), places)
            })
            .collect();
        drawn.sort_by(|a, b| b.0.total_cmp(&a.0));
        drawn.into_iter().map(|(_, places)| places).collect()
    }

    /// The best draw of each parameter (of the fewer, the more such trials the batch had before: with the best of many,
    /// all of them would be nearly the same), and then the same with one of them exchanged for its second best,
    /// starting where that costs least.
    fn single(&mut self, view: &View, number: u64, rng: &mut Pcg64) -> Vec<Vec<f64>> {
        let Some(split) = &self.split else { return Vec::new() };
        let n = view.space.dimensions();
        let candidates = (self.spec.candidates as u64
            / (1 + self.spec.singles(self.learned as u64, number, view.history.objectives())))
        .max(1);
        let pairs = self.single.get_or_insert_with(|| (0..n).map(|j| Self::pair(view, split, &[j])).collect());
        let mut buffer = Vec::new();
        let mut point = vec![0.5; n];
        let mut exchanges: Vec<(f64, usize, f64)> = Vec::new();
        for (j, pair) in pairs.iter().enumerate() {
            let domain = view.space.domain(j);
            // Each distinct place with its score; a stepped parameter has few.
            let mut scored: Vec<(f64, f64)> = Vec::new();
            for _ in 0..candidates {
                let place = pair.best.sample(view.space, rng)[0];
                let place = if place == super::domain::ABSENT { place } else { domain.snap(place) };
                if scored.iter().any(|(p, _)| *p == place) {
                    continue;
                }
                point[j] = place;
                let best = pair.best.log_density(view.space, &point, &mut buffer);
                scored.push((place, best - pair.others.log_density(view.space, &point, &mut buffer)));
            }
            scored.sort_by(|a, b| b.1.total_cmp(&a.1));
            point[j] = scored[0].0;
            if let Some(second) = scored.get(1) {
                exchanges.push((scored[0].1 - second.1, j, second.0));
            }
        }
        exchanges.sort_by(|a, b| a.0.total_cmp(&b.0));
        let exchanged = exchanges.iter().take(ALTERNATIVES).map(|(_, j, place)| {
            let mut other = point.clone();
            other[*j] = *place;
            other
        });
        std::iter::once(point.clone()).chain(exchanged).collect()
    }
}

impl Sampler for Estimator {
    fn prepare(&mut self, view: &View, number: u64) -> bool {
        let startup = u64::from(self.spec.startup);
        if number < startup {
            return true;
        }
        let born = (startup + (number - startup) / view.batch * view.batch) as usize;
        if view.history.len() < born {
            return false;
        }
        if self.learned != born {
            self.learned = born;
            self.split = Some(split(view.history, born, &self.spec));
            self.joint = None;
            self.single = None;
        }
        true
    }

    fn propose(&mut self, view: &View, number: u64, rng: &mut Pcg64) -> Draft {
        if number < u64::from(self.spec.startup) {
            let points = vec![Sobol::point(view.space, view.seed, number, rng)];
            return Draft { points, origin: Origin::Sobol, parents: Vec::new() };
        }
        let points = if self.spec.together(number, view.history.objectives()) {
            self.joint(view, rng)
        } else {
            self.single(view, number, rng)
        };
        Draft { points, origin: Origin::Tpe, parents: Vec::new() }
    }

    /// A second draw would cost as much as the first, which has alternatives.
    fn redraws(&self) -> u32 {
        0
    }
}

/// The best of the first `count` trials, and the others.
fn split(history: &History, count: usize, spec: &Tpe) -> Split {
    let known: Vec<usize> = (0..count).filter(|&t| history.is_known(t)).collect();
    let eligible: Vec<usize> =
        known.iter().copied().filter(|&t| !matches!(history.tier(t), Tier::Illegal | Tier::Failed)).collect();
    let share = libm::ceil(spec.gamma * known.len() as f64) as usize;
    let single = history.objectives() == 1;
    let share = if single { share.min(spec.gamma_max as usize) } else { share };
    let room = share.min(eligible.len());
    let mut best: Vec<usize> = Vec::with_capacity(room);
    if single {
        let mut order = eligible;
        // Stable: of equals the older is better.
        order.sort_by(|&a, &b| history.class_order(a, b).then(history.values(a)[0].total_cmp(&history.values(b)[0])));
        best.extend_from_slice(&order[..room]);
    } else {
        for front in history.fronts(&eligible, room) {
            let left = room - best.len();
            if front.len() <= left {
                best.extend(front);
            } else if left > 0 {
                best.extend(most_volume(history, &front, left));
            }
        }
    }
    best.sort_unstable();
    let mut among = vec![false; count];
    best.iter().for_each(|&t| among[t] = true);
    Split { others: known.into_iter().filter(|&t| !among[t]).collect(), best }
}

/// The members of a front that cover the most together.
fn most_volume(history: &History, front: &[usize], room: usize) -> Vec<usize> {
    if !matches!(history.tier(front[0]), Tier::Feasible | Tier::Pruned) {
        return front[..room].to_vec();
    }
    let mut members = front.to_vec();
    if members.len() > COMPARED.max(2 * room) {
        let objectives: Vec<&[f64]> = members.iter().map(|&t| history.values(t)).collect();
        let crowding = super::pareto::crowding(&objectives);
        let mut order: Vec<usize> = (0..members.len()).collect();
        order.sort_by(|&a, &b| crowding[b].total_cmp(&crowding[a]));
        order.truncate(COMPARED.max(2 * room));
        members = order.into_iter().map(|i| front[i]).collect();
    }
    let objectives: Vec<&[f64]> = members.iter().map(|&t| history.values(t)).collect();
    let reference = hssp::reference(&objectives);
    hssp::greedy(&objectives, room, &reference).into_iter().map(|i| members[i]).collect()
}

/// What trials weigh, in order of number: a ramp that ends where the recent ones begin.
fn weights(count: usize) -> Vec<f64> {
    let old = count.saturating_sub(RECENT);
    let least = 1.0 / count.max(1) as f64;
    let ramp = |i: usize| if old == 1 { least } else { least + (1.0 - least) * i as f64 / (old - 1) as f64 };
    (0..count).map(|i| if i < old { ramp(i) } else { 1.0 }).collect()
}
