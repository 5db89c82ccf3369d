//! NSGA-II (Deb, Pratap, Agarwal, Meyarivan 2002), for spaces of numbers and names alike.
//!
//! The trials are cut into generations of `population`. The first one is spread over the space; each later one is bred
//! from the best `population` trials of all before it. It may also begin on an archive of any length.
//!
//! What differs from the paper, and why: no point is evaluated twice, because a simulation repeats exactly; rules on
//! parameters are kept by the study, because a trial spent on a forbidden point is lost; a mutation of a stepped
//! parameter always moves it, because a small change of a coarse one would be rounded away.
//!
//! Who survives when a front is too large for the rest of the places is the only difference to NSGA-III.

use rand_pcg::Pcg64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::domain::ABSENT;
use super::history::{History, Tier};
use super::nsga3;
use super::pareto::{self, Candidate};
use super::random::Sobol;
use super::sampler::{Draft, Origin, Sampler, View};
use super::{Domain, Space};
use crate::rng;

/// Probability that a child has two parents.
const CROSSOVER: f64 = 0.9;
/// Probability that such a child takes a given parameter from both.
const SWAP: f64 = 0.5;
/// Distribution indices: the higher, the closer children stay to their parents.
const ETA_CROSSOVER: f64 = 15.0;
const ETA_MUTATION: f64 = 20.0;

/// Parameters of NSGA-II.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Nsga2 {
    /// Trials per generation, and parents of the next one; at least 2.
    pub population: u32,
}

impl Default for Nsga2 {
    fn default() -> Self {
        Nsga2 { population: 50 }
    }
}

/// Parameters of NSGA-III.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Nsga3 {
    /// Trials per generation, and parents of the next one; at least 2. There are as many directions, or a few less.
    pub population: u32,
}

impl Default for Nsga3 {
    fn default() -> Self {
        Nsga3 { population: 50 }
    }
}

/// Says which members of a front that is too large stay, as positions in it, best first, and how crowded each is.
pub(super) trait Survival: Send + Sync {
    fn origin(&self) -> Origin;

    /// How good each member of a front is among its equals: more is better.
    fn within(&self, history: &History, front: &[usize]) -> Vec<f64>;

    /// Which `room` members of `front` stay, beside those in `safe`.
    fn cut(&self, history: &History, safe: &[usize], front: &[usize], room: usize, rng: &mut Pcg64) -> Vec<usize>;
}

/// Those stay that have the fewest others near them.
pub(super) struct Crowding;

impl Survival for Crowding {
    fn origin(&self) -> Origin {
        Origin::Nsga2
    }

    fn within(&self, history: &History, front: &[usize]) -> Vec<f64> {
        let objectives: Vec<&[f64]> = front.iter().map(|&t| history.values(t)).collect();
        if objectives.iter().any(|o| o.iter().any(|x| x.is_nan())) {
            return vec![0.0; front.len()];
        }
        pareto::crowding(&objectives)
    }

    fn cut(&self, history: &History, _safe: &[usize], front: &[usize], room: usize, _rng: &mut Pcg64) -> Vec<usize> {
        let crowding = self.within(history, front);
        let mut order: Vec<usize> = (0..front.len()).collect();
        // Stable: among equals the older trial stays.
        order.sort_by(|&a, &b| crowding[b].total_cmp(&crowding[a]));
        order.into_iter().take(room).map(|i| front[i]).collect()
    }
}

/// NSGA-III: those stay that are nearest to the directions that the fewest others are near to.
pub(super) struct Directions(pub Vec<Vec<f64>>);

impl Survival for Directions {
    fn origin(&self) -> Origin {
        Origin::Nsga3
    }

    /// All alike: who is on a front was chosen for its direction.
    fn within(&self, _history: &History, front: &[usize]) -> Vec<f64> {
        vec![0.0; front.len()]
    }

    fn cut(&self, history: &History, safe: &[usize], front: &[usize], room: usize, rng: &mut Pcg64) -> Vec<usize> {
        if history.tier(front[0]) != Tier::Feasible {
            return Crowding.cut(history, safe, front, room, rng);
        }
        let all: Vec<usize> = safe.iter().chain(front).copied().collect();
        let candidate = |&t: &usize| Candidate { objectives: history.values(t).to_vec(), violation: 0.0 };
        let candidates: Vec<Candidate> = all.iter().map(candidate).collect();
        let kept = nsga3::select(&candidates, safe.len() + room, &self.0, rng);
        kept.into_iter().filter(|&i| i >= safe.len()).map(|i| all[i]).collect()
    }
}

/// A parent of the next generation.
#[derive(Clone, Copy)]
struct Parent {
    trial: usize,
    /// 0 is best.
    rank: usize,
    /// More is better.
    merit: f64,
}

impl Parent {
    fn beats(&self, other: &Parent) -> bool {
        self.rank < other.rank || (self.rank == other.rank && self.merit >= other.merit)
    }
}

/// A genetic algorithm in progress.
pub(super) struct Evolution {
    population: u64,
    /// Trials before breeding begins.
    start: u64,
    survival: Box<dyn Survival>,
    parents: Vec<Parent>,
    /// Trials that the parents were selected from.
    learned: u64,
}

impl Evolution {
    /// `start` trials come before the first that is bred.
    pub fn new(population: u64, start: u64, survival: Box<dyn Survival>) -> Evolution {
        Evolution { population, start, survival, parents: Vec::new(), learned: 0 }
    }

    /// The best of the parents and the trials up to `until` become the parents.
    fn select(&mut self, view: &View, until: u64) {
        let newcomers = (self.learned as usize..until as usize).filter(|&t| view.history.is_known(t));
        let mut candidates: Vec<usize> = self.parents.iter().map(|p| p.trial).collect();
        // Older ones first, so that of equals the older stays.
        candidates.sort_unstable();
        candidates.extend(newcomers);
        self.learned = until;
        self.parents.clear();
        let population = self.population as usize;
        let mut safe: Vec<usize> = Vec::new();
        for (rank, front) in view.history.fronts(&candidates, population).into_iter().enumerate() {
            let room = population - safe.len();
            let kept = if front.len() <= room {
                front
            } else {
                let mut rng = rng::stream(view.seed, &format!("tune/survival/{until}"));
                self.survival.cut(view.history, &safe, &front, room, &mut rng)
            };
            let merits = self.survival.within(view.history, &kept);
            self.parents.extend(kept.iter().zip(merits).map(|(&trial, merit)| Parent { trial, rank, merit }));
            safe.extend(kept);
            if safe.len() >= population {
                break;
            }
        }
    }

    /// The better of two random parents.
    fn tournament(&self, rng: &mut Pcg64) -> usize {
        let n = self.parents.len() as u64;
        let (a, b) = (&self.parents[rng::below(rng, n) as usize], &self.parents[rng::below(rng, n) as usize]);
        if a.beats(b) { a.trial } else { b.trial }
    }
}

impl Sampler for Evolution {
    fn prepare(&mut self, view: &View, number: u64) -> bool {
        if number < self.start {
            return true;
        }
        let born = self.start + (number - self.start) / self.population * self.population;
        if (view.history.len() as u64) < born {
            return false;
        }
        while self.learned < born {
            let until = if self.learned < self.start { self.start } else { self.learned + self.population };
            self.select(view, until);
        }
        true
    }

    fn propose(&mut self, view: &View, number: u64, rng: &mut Pcg64) -> Draft {
        if number < self.start || self.parents.is_empty() {
            let points = vec![Sobol::point(view.space, view.seed, number, rng)];
            return Draft { points, origin: Origin::Sobol, parents: Vec::new() };
        }
        let (mother, father) = (self.tournament(rng), self.tournament(rng));
        let child = breed(view.space, view.history.point(mother), view.history.point(father), rng);
        let mut parents = vec![mother as u64, father as u64];
        parents.dedup();
        Draft { points: vec![child], origin: self.survival.origin(), parents }
    }

    fn redraws(&self) -> u32 {
        0
    }
}

/// Crossover and mutation of two parents.
fn breed(space: &Space, mother: &[f64], father: &[f64], rng: &mut Pcg64) -> Vec<f64> {
    let mut child = mother.to_vec();
    if rng::uniform01(rng) < CROSSOVER {
        for (j, (place, &other)) in child.iter_mut().zip(father).enumerate() {
            if rng::uniform01(rng) < SWAP {
                let whole = space.domain(j).is_nominal() || *place == ABSENT || other == ABSENT;
                *place = if whole { other } else { simulated_binary(*place, other, rng) };
            }
        }
    }
    let rate = 1.0 / space.dimensions() as f64;
    for (j, place) in child.iter_mut().enumerate() {
        if rng::uniform01(rng) < rate {
            *place = mutate(space.domain(j), *place, rng);
        }
    }
    child
}

/// Simulated binary crossover (Deb, Agrawal 1995): as far around the middle of the parents as one-point crossover of
/// bit strings would end up. One of the two children, either with the same probability.
fn simulated_binary(mother: f64, father: f64, rng: &mut Pcg64) -> f64 {
    let u = rng::uniform01(rng);
    let ratio = if u <= 0.5 { 2.0 * u } else { 1.0 / (2.0 * (1.0 - u)) };
    let spread = libm::pow(ratio, 1.0 / (ETA_CROSSOVER + 1.0));
    let spread = if rng::below(rng, 2) == 0 { spread } else { -spread };
    (0.5 * ((1.0 + spread) * mother + (1.0 - spread) * father)).clamp(0.0, 1.0)
}

/// Another name for a nominal parameter, a nearby number for any other; or the change between set and not set.
fn mutate(domain: &Domain, place: f64, rng: &mut Pcg64) -> f64 {
    if domain.is_nominal() || place == ABSENT {
        return domain.place(rng::uniform01(rng));
    }
    if domain.may_be_unset() && domain.place(rng::uniform01(rng)) == ABSENT {
        return ABSENT;
    }
    let here = domain.snap(place);
    let moved = domain.snap(polynomial(here, rng));
    if moved != here {
        return moved;
    }
    domain.next_level(here, rng::below(rng, 2) == 0).unwrap_or(here)
}

/// Polynomial mutation within 0 and 1 (Deb, Goyal 1996; the bounded form of the authors' program).
fn polynomial(u: f64, rng: &mut Pcg64) -> f64 {
    let r = rng::uniform01(rng);
    let power = ETA_MUTATION + 1.0;
    let root = |x: f64| libm::pow(x, 1.0 / power);
    let delta = if r < 0.5 {
        root(2.0 * r + (1.0 - 2.0 * r) * libm::pow(1.0 - u, power)) - 1.0
    } else {
        1.0 - root(2.0 * (1.0 - r) + (2.0 * r - 1.0) * libm::pow(u, power))
    };
    (u + delta).clamp(0.0, 1.0)
}
