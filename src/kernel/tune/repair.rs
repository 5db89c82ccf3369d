//! The legal point nearest to one that breaks rules.
//!
//! Near is: fewest parameters changed, then fewest steps. A step is one level of an ordinal parameter or a short
//! range, any other name of a nominal one, setting or unsetting, and a sixteenth of the width of a long range. Points
//! that are equally near come in an order drawn from the trial's own stream: always the same side would pile the trials
//! up there. Only parameters that the broken rules look at are changed; where that does not help, also those of the
//! rules that the attempts broke.
//!
//! The search is over candidates in order of distance, in growing chunks, so that rules are asked about many points at
//! once. It is exact as far as it goes: [`CANDIDATES`] points, three changed parameters, and for long ranges some
//! distances, of which the best is then moved towards the point until it is at the border.

use rand::Rng;
use rand_pcg::Pcg64;

use super::Space;
use super::history::Seen;
use super::rules::Judge;
use crate::rng;

/// Candidates that rules are asked about before a repair is given up.
const CANDIDATES: usize = 4096;
/// Parameters that are changed at most.
const CHANGES: usize = 3;
/// Candidates of the first chunk; every further one is twice as large.
const CHUNK: usize = 16;
/// Combinations of changes that are put in order at a time; where there are more, the most distant changes of single
/// parameters are left out.
const COMBINATIONS: usize = 20_000;
/// Domains with more values are long: not every value is a candidate.
const LONG: u64 = 32;
/// Steps that the width of a long domain counts for.
const STEPS: f64 = 16.0;

/// One parameter put somewhere else.
#[derive(Clone, Copy)]
struct Change {
    parameter: usize,
    place: f64,
    /// In steps.
    distance: f64,
}

/// A combination of changes, in the order in which they are tried.
struct Candidate {
    distance: f64,
    /// Among equals, chance decides.
    lot: u64,
    changes: Changes,
}

/// Some changes, of ascending parameters.
#[derive(Clone, Copy)]
struct Changes {
    made: [Change; CHANGES],
    count: usize,
}

impl Changes {
    fn none() -> Changes {
        Changes { made: [Change { parameter: 0, place: 0.0, distance: 0.0 }; CHANGES], count: 0 }
    }

    fn with(mut self, change: Change) -> Changes {
        self.made[self.count] = change;
        self.count += 1;
        self
    }

    fn all(&self) -> &[Change] {
        &self.made[..self.count]
    }
}

/// A repair in progress.
pub(super) struct Repair<'a> {
    space: &'a Space,
    raw: &'a [f64],
    rng: Pcg64,
    parameters: Vec<usize>,
    /// Parameters that the candidates at hand change.
    changes: usize,
    candidates: std::vec::IntoIter<Candidate>,
    tried: usize,
    /// Rules that the candidates so far broke.
    broken: u64,
    /// Candidates that were made but not yet looked at.
    waiting: Option<Vec<Vec<f64>>>,
}

impl<'a> Repair<'a> {
    /// `mask`: the rules that the point `raw`, given as canonical places, breaks.
    pub fn new(space: &'a Space, raw: &'a [f64], mask: u64, judge: &Judge, rng: Pcg64) -> Repair<'a> {
        Repair {
            space,
            raw,
            rng,
            parameters: judge.parameters_of(mask),
            changes: 0,
            candidates: Vec::new().into_iter(),
            tried: 0,
            broken: mask,
            waiting: None,
        }
    }

    /// The points that will be looked at first, so that they can be asked about together with those of others.
    pub fn first(&mut self) -> &[Vec<f64>] {
        if self.waiting.is_none() && self.tried == 0 {
            self.waiting = self.chunk();
        }
        self.waiting.as_deref().unwrap_or(&[])
    }

    /// The nearest legal point that is not taken; `None` where none was found.
    pub fn nearest(mut self, judge: &mut Judge, seen: &Seen) -> Option<Vec<f64>> {
        loop {
            while let Some(points) = self.waiting.take().or_else(|| self.chunk()) {
                let new: Vec<&[f64]> = points.iter().map(Vec::as_slice).filter(|p| !seen.contains(p)).collect();
                let masks = judge.broken(&new);
                if let Some(i) = masks.iter().position(|mask| *mask == 0) {
                    return Some(self.closer(new[i].to_vec(), judge, seen));
                }
                self.broken = masks.iter().fold(self.broken, |all, mask| all | mask);
            }
            let more = judge.parameters_of(self.broken);
            if more.len() <= self.parameters.len() {
                return None;
            }
            self.parameters = more;
            self.changes = 0;
        }
    }

    /// The next candidates; `None` where all were tried, or enough.
    fn chunk(&mut self) -> Option<Vec<Vec<f64>>> {
        let size = CHUNK.max(self.tried);
        while self.candidates.len() == 0 {
            if self.changes >= CHANGES.min(self.parameters.len()) || self.tried >= CANDIDATES {
                return None;
            }
            self.changes += 1;
            self.candidates = self.combinations().into_iter();
        }
        if self.tried >= CANDIDATES {
            return None;
        }
        let taken: Vec<Candidate> = self.candidates.by_ref().take(size.min(CANDIDATES - self.tried)).collect();
        self.tried += taken.len();
        Some(taken.iter().map(|candidate| self.point(candidate.changes.all())).collect())
    }

    fn point(&mut self, changes: &[Change]) -> Vec<f64> {
        let mut point = self.raw.to_vec();
        changes.iter().for_each(|c| point[c.parameter] = c.place);
        let rng = &mut self.rng;
        self.space.canonical(&mut point, |_| rng::uniform01(rng));
        point
    }

    /// Every way to change as many parameters as it is the turn of, nearest first.
    fn combinations(&mut self) -> Vec<Candidate> {
        let mut options: Vec<Vec<Change>> = self.parameters.iter().map(|&j| self.options(j)).collect();
        options.retain(|o| !o.is_empty());
        if options.len() < self.changes {
            return Vec::new();
        }
        let mut longest = options.iter().map(Vec::len).max().unwrap_or(0);
        while longest > 1 && combinations_of(&options, self.changes) > COMBINATIONS as f64 {
            longest = longest.div_ceil(2);
            options.iter_mut().for_each(|o| o.truncate(longest));
        }
        let mut made = vec![Changes::none()];
        for depth in 0..self.changes {
            let left = self.changes - depth - 1;
            let mut next = Vec::new();
            for changes in &made {
                let from = changes.all().last().map_or(0, |last| {
                    options.iter().position(|o| o[0].parameter == last.parameter).map_or(0, |at| at + 1)
                });
                let to = options.len().saturating_sub(left);
                for change in options[from.min(to)..to].iter().flatten() {
                    next.push(changes.with(*change));
                }
            }
            made = next;
            made.truncate(COMBINATIONS);
        }
        let candidate = |changes: Changes| Candidate {
            distance: changes.all().iter().map(|c| c.distance).sum(),
            lot: self.rng.next_u64(),
            changes,
        };
        let mut all: Vec<Candidate> = made.into_iter().map(candidate).collect();
        all.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.lot.cmp(&b.lot)));
        all
    }

    /// The other places of one parameter, nearest first.
    fn options(&self, j: usize) -> Vec<Change> {
        if !self.space.exists(j, self.raw) {
            return Vec::new();
        }
        let domain = self.space.domain(j);
        let here = self.raw[j];
        let change = |place: f64, distance: f64| Change { parameter: j, place, distance };
        let mut options: Vec<Change> = Vec::new();
        let long = domain.set_levels().is_none_or(|n| n > LONG);
        let absent = here == super::domain::ABSENT;
        match domain.set_levels() {
            Some(levels) if !long => {
                let at = if absent { 0 } else { domain.level_at(here) };
                for k in (0..levels).filter(|&k| absent || k != at) {
                    let distance = if absent || domain.is_nominal() { 1.0 } else { k.abs_diff(at) as f64 };
                    options.push(change(domain.place_at(k), distance));
                }
            }
            Some(_) | None if absent => {
                options.extend((0..9).map(|i| change(domain.snap(f64::from(i) / 8.0), 1.0)));
            }
            Some(_) | None => {
                let beside = [false, true].into_iter().filter_map(|above| domain.next_level(here, above));
                let spread = (0..=10).flat_map(|i| {
                    let away = libm::pow(0.5, f64::from(i));
                    [here - away, here + away]
                });
                for place in beside.chain(spread).chain([0.0, 1.0]) {
                    let place = domain.snap(place.clamp(0.0, 1.0));
                    if place != here && options.iter().all(|o| o.place != place) {
                        options.push(change(place, STEPS * (place - here).abs()));
                    }
                }
            }
        }
        if domain.may_be_unset() && !absent {
            options.push(change(super::domain::ABSENT, 1.0));
        }
        options.sort_by(|a, b| a.distance.total_cmp(&b.distance));
        options
    }

    /// A legal candidate, moved back in its long domains as far as the rules allow.
    fn closer(&mut self, mut point: Vec<f64>, judge: &mut Judge, seen: &Seen) -> Vec<f64> {
        for j in 0..point.len() {
            let long = self.space.domain(j).set_levels().is_none_or(|n| n > LONG);
            let (mut illegal, mut legal) = (self.raw[j], point[j]);
            let set = illegal != super::domain::ABSENT && legal != super::domain::ABSENT;
            if !long || !set || illegal == legal {
                continue;
            }
            for _ in 0..3 {
                let between = |i: i32| {
                    let mut there = point.clone();
                    there[j] = illegal + (legal - illegal) * f64::from(i) / 8.0;
                    // Others may depend on it.
                    self.space.canonical(&mut there, |_| 0.5);
                    there
                };
                let points: Vec<Vec<f64>> = (1..8).map(between).collect();
                let masks = judge.broken(&points.iter().map(Vec::as_slice).collect::<Vec<_>>());
                let good = |i: usize| masks[i] == 0 && !seen.contains(&points[i]) && points[i][j] != self.raw[j];
                match (0..points.len()).find(|&i| good(i)) {
                    Some(i) => {
                        legal = points[i][j];
                        illegal = if i == 0 { illegal } else { points[i - 1][j] };
                        point.clone_from(&points[i]);
                    }
                    None => illegal = points[points.len() - 1][j],
                }
            }
        }
        point
    }
}

/// Number of ways to choose one change each of `k` parameters: the elementary symmetric polynomial of their numbers.
fn combinations_of(options: &[Vec<Change>], k: usize) -> f64 {
    let mut ways = vec![0.0; k + 1];
    ways[0] = 1.0;
    for o in options {
        for size in (1..=k).rev() {
            ways[size] += ways[size - 1] * o.len() as f64;
        }
    }
    ways[k]
}
