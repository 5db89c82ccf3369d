//! The trials so far, as samplers read them: flat arrays that only grow, and the order of merit.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use serde_json::Value;

use super::pareto;
use crate::rng::mix64;

/// One trial that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// Position in the study, from 0.
    pub number: u64,
    /// One value per parameter of the space, in its order; `null` for one that is not set or does not exist.
    pub values: Vec<Value>,
    pub outcome: Outcome,
}

/// What came of a trial. A NaN among objectives, or as violation, makes it a failure.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It ran to its end.
    Complete {
        /// Every objective to be minimised (the caller negates those to be maximised).
        objectives: Vec<f64>,
        /// By how much it misses the constraints on its outcome; 0 and below: not at all. Any trial that misses none is
        /// better than any that does.
        violation: f64,
    },
    /// It was stopped. Compared only with others that were stopped at the same rung; worse than what is complete, and
    /// the better the higher the rung.
    Pruned {
        /// How far it came.
        rung: u32,
        /// The objectives as far as it came.
        objectives: Vec<f64>,
        violation: f64,
    },
    /// It was not run, because its values break rules.
    Illegal {
        /// Those that it breaks: bit `i` for rule `i`.
        broken: u64,
    },
    /// It has no result.
    Failed,
}

impl From<Option<Vec<f64>>> for Outcome {
    /// Complete, without constraints; or failed.
    fn from(objectives: Option<Vec<f64>>) -> Outcome {
        objectives.map_or(Outcome::Failed, |objectives| Outcome::Complete { objectives, violation: 0.0 })
    }
}

/// How trials of different outcomes compare, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tier {
    Feasible,
    Pruned,
    Infeasible,
    Illegal,
    Failed,
}

/// The trials so far.
pub(super) struct History {
    dimensions: usize,
    objectives: usize,
    /// Canonical places, `dimensions` per trial.
    places: Vec<f64>,
    /// `objectives` per trial; NaN where there are none.
    values: Vec<f64>,
    tiers: Vec<Tier>,
    /// Within a tier, less is better before objectives are looked at.
    merits: Vec<f64>,
    /// The space has the point.
    known: Vec<bool>,
}

impl History {
    pub fn new(dimensions: usize, objectives: usize) -> History {
        History {
            dimensions,
            objectives,
            places: Vec::new(),
            values: Vec::new(),
            tiers: Vec::new(),
            merits: Vec::new(),
            known: Vec::new(),
        }
    }

    /// Adds a trial; `places` is `None` where the space does not have its point.
    pub fn push(&mut self, places: Option<&[f64]>, outcome: &Outcome) {
        let fits = |objectives: &[f64], violation: f64| {
            objectives.len() == self.objectives && !violation.is_nan() && objectives.iter().all(|x| !x.is_nan())
        };
        let (tier, merit, objectives) = match outcome {
            Outcome::Complete { objectives, violation } if fits(objectives, *violation) => {
                let tier = if *violation > 0.0 { Tier::Infeasible } else { Tier::Feasible };
                (tier, violation.max(0.0), Some(objectives))
            }
            Outcome::Pruned { rung, objectives, violation } if fits(objectives, *violation) => {
                if *violation > 0.0 {
                    (Tier::Infeasible, *violation, Some(objectives))
                } else {
                    (Tier::Pruned, -f64::from(*rung), Some(objectives))
                }
            }
            Outcome::Illegal { broken } => (Tier::Illegal, f64::from(broken.count_ones()), None),
            Outcome::Complete { .. } | Outcome::Pruned { .. } | Outcome::Failed => (Tier::Failed, 0.0, None),
        };
        match objectives {
            Some(objectives) => self.values.extend_from_slice(objectives),
            None => self.values.extend(std::iter::repeat_n(f64::NAN, self.objectives)),
        }
        match places {
            Some(places) => self.places.extend_from_slice(places),
            None => self.places.extend(std::iter::repeat_n(0.0, self.dimensions)),
        }
        self.tiers.push(tier);
        self.merits.push(merit);
        self.known.push(places.is_some());
    }

    /// Number of trials.
    pub fn len(&self) -> usize {
        self.tiers.len()
    }

    pub fn objectives(&self) -> usize {
        self.objectives
    }

    /// The canonical places of a trial.
    pub fn point(&self, trial: usize) -> &[f64] {
        &self.places[trial * self.dimensions..(trial + 1) * self.dimensions]
    }

    /// The objectives of a trial; NaN where it has none.
    pub fn values(&self, trial: usize) -> &[f64] {
        &self.values[trial * self.objectives..(trial + 1) * self.objectives]
    }

    pub fn tier(&self, trial: usize) -> Tier {
        self.tiers[trial]
    }

    /// The space has the point of a trial.
    pub fn is_known(&self, trial: usize) -> bool {
        self.known[trial]
    }

    /// Which of two trials is better by what it is, before objectives are looked at.
    pub fn class_order(&self, a: usize, b: usize) -> Ordering {
        self.tiers[a].cmp(&self.tiers[b]).then(self.merits[a].total_cmp(&self.merits[b]))
    }

    /// Some trials in fronts, best first: by what they are, then by domination among those that are the same. Trials
    /// that did not meet their constraints, were illegal or failed have no objectives worth comparing: they are equals
    /// where they miss by as much. Fronts are made until they hold `enough` trials, the last of them whole; within a
    /// front trials keep their order.
    pub fn fronts(&self, trials: &[usize], enough: usize) -> Vec<Vec<usize>> {
        let mut sorted = trials.to_vec();
        sorted.sort_by(|&a, &b| self.class_order(a, b));
        let mut fronts: Vec<Vec<usize>> = Vec::new();
        let mut made = 0;
        for class in sorted.chunk_by(|&a, &b| self.class_order(a, b).is_eq()) {
            if made >= enough {
                break;
            }
            made += class.len();
            if !matches!(self.tier(class[0]), Tier::Feasible | Tier::Pruned) {
                fronts.push(class.to_vec());
                continue;
            }
            let objectives: Vec<&[f64]> = class.iter().map(|&t| self.values(t)).collect();
            let first = fronts.len();
            for (&trial, rank) in class.iter().zip(pareto::ranks(&objectives)) {
                while fronts.len() <= first + rank {
                    fronts.push(Vec::new());
                }
                fronts[first + rank].push(trial);
            }
        }
        let mut held = 0;
        let needed = fronts.iter().take_while(|front| {
            let before = held;
            held += front.len();
            before < enough
        });
        let needed = needed.count();
        fronts.truncate(needed);
        fronts
    }
}

/// The points that are taken. Points are known by 128 bits mixed from their places: of a million points, two look the
/// same with a probability of 1 to 10^26.
#[derive(Default)]
pub(super) struct Seen(HashSet<u128, Mixed>);

/// Hashes of the names of points, which are mixed already.
pub(super) type Mixed = BuildHasherDefault<Half>;

/// The lower half of a name.
#[derive(Default)]
pub(super) struct Half(u64);

impl Hasher for Half {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.0 = mix64(self.0 ^ u64::from(byte)));
    }

    fn write_u128(&mut self, name: u128) {
        self.0 = name as u64;
    }
}

impl Seen {
    /// The name of a point.
    pub fn key(places: &[f64]) -> u128 {
        let (mut a, mut b) = (0x243F_6A88_85A3_08D3u64, 0x1319_8A2E_0370_7344u64);
        for place in places {
            // One zero: -0 is no other place.
            let bits = (place + 0.0).to_bits();
            a = mix64(a ^ bits).wrapping_add(0x9E37_79B9_7F4A_7C15);
            b = mix64(b.wrapping_add(bits)).rotate_left(23);
        }
        u128::from(a) << 64 | u128::from(b)
    }

    pub fn insert(&mut self, places: &[f64]) {
        self.0.insert(Seen::key(places));
    }

    pub fn contains(&self, places: &[f64]) -> bool {
        self.0.contains(&Seen::key(places))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_are_ordered_by_what_they_are_before_what_they_reach() {
        let mut history = History::new(1, 2);
        let complete = |x: f64, y: f64, violation: f64| Outcome::Complete { objectives: vec![x, y], violation };
        let pruned = |rung, x: f64| Outcome::Pruned { rung, objectives: vec![x, x], violation: 0.0 };
        for outcome in [
            Outcome::Failed,
            complete(0.0, 0.0, 2.0),
            complete(9.0, 9.0, 0.0),
            complete(f64::NAN, 0.0, 0.0),
            complete(8.0, 8.0, -1.0),
            complete(1.0, 1.0, 1.0),
            Outcome::Illegal { broken: 0b101 },
            Outcome::Illegal { broken: 0b100 },
            pruned(1, 0.0),
            pruned(3, 7.0),
            pruned(3, 6.0),
            complete(7.0, 10.0, 0.0),
        ] {
            history.push(Some(&[0.5]), &outcome);
        }
        let all: Vec<usize> = (0..history.len()).collect();
        let fronts = history.fronts(&all, 100);
        let expect: [&[usize]; 10] = [&[4, 11], &[2], &[10], &[9], &[8], &[5], &[1], &[7], &[6], &[0, 3]];
        assert_eq!(fronts, expect);
        assert_eq!(history.fronts(&all, 3), expect[..2]);
        assert_eq!(history.fronts(&all, 4), expect[..3]);
        assert_eq!(history.fronts(&[], 4), Vec::<Vec<usize>>::new());
    }
}
