//! Successive halving over the length of a simulation (Jamieson, Talwalkar 2016; synchronous, as in Li et al. 2018,
//! "Hyperband"): many configurations see a short part of the trace, the best of them a longer one, few the whole.
//!
//! Results are compared within a rung only: a short trace is not just a noisy long one, its queues are shorter too.
//! Everything is decided by a batch's results and their order, so a run that was killed decides the same again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::hssp;
use super::pareto::{self, Candidate, lexicographic};

/// The rungs, and who climbs them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Halving {
    /// Shares of the requests, ascending, the last of them 1.
    pub rungs: Vec<f64>,
    /// One in so many is promoted.
    pub eta: u32,
    /// Rungs of fewer requests are left out: they say too little about a tail.
    pub least_requests: u64,
}

impl Default for Halving {
    fn default() -> Self {
        Halving { rungs: vec![1.0 / 27.0, 1.0 / 9.0, 1.0 / 3.0, 1.0], eta: 3, least_requests: 75 }
    }
}

/// One step of the ladder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rung {
    /// Share of the requests.
    pub share: f64,
    /// Number of them, from the first.
    pub requests: u64,
    /// Members of the batch that are evaluated here.
    pub members: usize,
}

/// What came out of a rung, and how well it is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    pub objectives: Vec<f64>,
    /// Standard error of each objective; 0 where it is exact.
    pub standard_errors: Vec<f64>,
}

/// Up to so many objectives, members of one front are told apart by volume; above, it takes too long.
const VOLUMES: usize = 4;

impl Halving {
    /// Why this cannot be, in words for the user; empty where it can.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let inside = self.rungs.iter().all(|share| *share > 0.0 && *share <= 1.0);
        let ascending = self.rungs.windows(2).all(|pair| pair[0] < pair[1]);
        if !(inside && ascending && self.rungs.last() == Some(&1.0)) {
            problems.push("rungs: shares of the requests above 0, ascending, the last of them 1".to_owned());
        }
        if self.eta < 2 {
            problems.push(format!("eta: one in two or more is promoted, not one in {}", self.eta));
        }
        problems
    }

    /// The ladder of a batch over a workload of some requests. The whole workload is always its last rung; rungs that
    /// would be empty, or no longer than the one before, are left out.
    pub fn ladder(&self, members: usize, requests: u64) -> Vec<Rung> {
        let mut rungs: Vec<Rung> = Vec::new();
        for &share in &self.rungs {
            let cut = (libm::round(share * requests as f64) as u64).min(requests);
            // A rung that is as long as the one before, or as the whole, would only simulate the same once more.
            let before = rungs.last().map_or(0, |rung| rung.requests);
            let tells = cut > before && cut < requests && cut >= self.least_requests;
            if share >= 1.0 || tells {
                let left = rungs.last().map_or(members, |rung| self.promotions(rung.members));
                rungs.push(Rung { share, requests: cut, members: left });
            }
        }
        rungs
    }

    /// How many of a rung's members are promoted: one in `eta`, rounded down, but one at least.
    pub fn promotions(&self, members: usize) -> usize {
        (members / self.eta as usize).max(members.min(1))
    }

    /// Indices, ascending, of those who are promoted; `None` is one that failed and never is.
    pub fn promoted(&self, results: &[Option<Candidate>]) -> Vec<usize> {
        let (places, given): (Vec<usize>, Vec<&Candidate>) =
            results.iter().enumerate().filter_map(|(i, result)| result.as_ref().map(|r| (i, r))).unzip();
        let mut promoted: Vec<usize> =
            best(&given, self.promotions(results.len())).into_iter().map(|place| places[place]).collect();
        promoted.sort_unstable();
        promoted
    }
}

/// Indices of the `keep` best, the best first.
///
/// Feasible ones come first, then those that violate least. Among the feasible: by rank of non-domination, and within a
/// rank by what each adds to the hypervolume of those before it (of more than four objectives: by crowding distance).
/// Equals are in the order of their indices, but that volume goes by lexicographic order first.
pub fn best(candidates: &[&Candidate], keep: usize) -> Vec<usize> {
    let (feasible, mut others): (Vec<usize>, Vec<usize>) =
        (0..candidates.len()).partition(|&i| candidates[i].violation <= 0.0);
    let points: Vec<&[f64]> = feasible.iter().map(|&i| candidates[i].objectives.as_slice()).collect();
    let ranks = pareto::ranks(&points);
    let mut fronts: Vec<Vec<usize>> = vec![Vec::new(); ranks.iter().max().map_or(0, |r| r + 1)];
    ranks.iter().enumerate().for_each(|(place, &rank)| fronts[rank].push(place));
    let mut chosen: Vec<usize> = Vec::new();
    for front in fronts {
        if chosen.len() >= keep {
            break;
        }
        let members: Vec<&[f64]> = front.iter().map(|&place| points[place]).collect();
        chosen.extend(spread(&members, keep - chosen.len()).into_iter().map(|m| feasible[front[m]]));
    }
    others.sort_by(|&a, &b| candidates[a].violation.total_cmp(&candidates[b].violation).then(a.cmp(&b)));
    others.truncate(keep - chosen.len());
    chosen.extend(others);
    chosen
}

/// Indices of some members of one front, the one that tells most first.
fn spread(front: &[&[f64]], keep: usize) -> Vec<usize> {
    let objectives = front.first().map_or(0, |p| p.len());
    let mut order: Vec<usize> = (0..front.len()).collect();
    if objectives > VOLUMES {
        let distances = pareto::crowding(front);
        order.sort_by(|&a, &b| distances[b].total_cmp(&distances[a]).then(a.cmp(&b)));
    } else if objectives > 1 {
        let (low, high) = pareto::bounds(front);
        let scaled: Vec<Vec<f64>> = front.iter().map(|p| pareto::normalized(p, &low, &high)).collect();
        order = hssp::greedy(&scaled, keep, &vec![1.1; objectives]);
    }
    order.truncate(keep);
    order
}

/// Who need not go on: those that would be dominated even if luck had been against them, by a number of standard errors
/// in every objective (2 is usual).
///
/// `seen` are results at the same rung, of the members themselves too: nobody is dominated by his own.
pub fn hopeless<P: AsRef<[f64]>>(members: &[Measured], seen: &[P], errors: f64) -> Vec<bool> {
    let mut front: Vec<&[f64]> = pareto::front(seen).into_iter().map(|i| seen[i].as_ref()).collect();
    front.sort_by(|a, b| lexicographic(a, b));
    let flat = front.first().is_some_and(|p| p.len() == 2);
    let dominated = |member: &Measured| {
        let lucky = |(value, error): (&f64, &f64)| if *error > 0.0 { value - errors * error } else { *value };
        let corner: Vec<f64> = member.objectives.iter().zip(&member.standard_errors).map(lucky).collect();
        if flat {
            // Along the front the second objective falls: the last that is good enough in the first decides.
            let before = front.partition_point(|p| p[0] <= corner[0]);
            before > 0 && front[before - 1][1] <= corner[1] && front[before - 1] != corner.as_slice()
        } else {
            front.iter().any(|p| pareto::dominates(p, &corner))
        }
    };
    members.iter().map(dominated).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    fn candidate(objectives: &[f64]) -> Candidate {
        Candidate { objectives: objectives.to_vec(), violation: 0.0 }
    }

    fn order(points: &[&[f64]], keep: usize) -> Vec<usize> {
        let candidates: Vec<Candidate> = points.iter().map(|p| candidate(p)).collect();
        best(&candidates.iter().collect::<Vec<_>>(), keep)
    }

    #[test]
    fn ladders() {
        let halving = Halving::default();
        let steps = |members, requests| -> Vec<(u64, usize)> {
            halving.ladder(members, requests).iter().map(|rung| (rung.requests, rung.members)).collect()
        };
        assert_eq!(steps(27, 2700), [(100, 27), (300, 9), (900, 3), (2700, 1)]);
        // Too few requests on the lowest rung, or on all but the last.
        assert_eq!(steps(27, 2000), [(222, 27), (667, 9), (2000, 3)]);
        assert_eq!(steps(8, 100), [(100, 8)]);
        assert_eq!(steps(8, 0), [(0, 8)]);
        assert_eq!(steps(8, 27_000), [(1000, 8), (3000, 2), (9000, 1), (27_000, 1)]);
        assert_eq!(steps(0, 27_000)[3], (27_000, 0));
        // Of a short workload, or of shares that are nearly the same, no part is simulated twice, and no empty one.
        let any = Halving { least_requests: 0, ..Halving::default() };
        let of = |halving: &Halving, requests| -> Vec<(u64, usize)> {
            halving.ladder(27, requests).iter().map(|rung| (rung.requests, rung.members)).collect()
        };
        assert_eq!(of(&any, 10), [(1, 27), (3, 9), (10, 3)]);
        assert_eq!(of(&any, 1), [(1, 27)]);
        assert_eq!(of(&Halving { rungs: vec![0.3, 0.301, 0.999, 1.0], ..any }, 100), [(30, 27), (100, 9)]);
        assert!(halving.problems().is_empty());
        let parse = serde_json::from_str::<Halving>;
        assert_eq!(parse("{}").unwrap(), halving);
        assert!(parse(r#"{"rung": 3}"#).is_err());
        assert_eq!(parse(r#"{"rungs": [0.5, 0.2, 1], "eta": 1}"#).unwrap().problems().len(), 2);
        assert_eq!(parse(r#"{"rungs": [0.5]}"#).unwrap().problems().len(), 1);
        assert_eq!(parse(r#"{"rungs": []}"#).unwrap().problems().len(), 1);
    }

    #[test]
    fn one_in_three_is_promoted() {
        let halving = Halving::default();
        let results: Vec<Option<Candidate>> = [7.0, 3.0, 5.0, 1.0, 3.0, 9.0, 8.0, 2.0]
            .iter()
            .enumerate()
            .map(|(i, x)| (i != 3).then(|| candidate(&[*x])))
            .collect();
        // Eight members, one of which failed: two go on.
        assert_eq!(halving.promoted(&results), [1, 7]);
        assert_eq!(halving.promoted(&results[..2]), [1]);
        assert_eq!(halving.promoted(&results[3..4]), Vec::<usize>::new());
        assert_eq!(halving.promoted(&[]), Vec::<usize>::new());
        let mut violating = results;
        violating[7].as_mut().unwrap().violation = 1.0;
        violating[1].as_mut().unwrap().violation = f64::INFINITY;
        assert_eq!(halving.promoted(&violating), [2, 4]);
    }

    #[test]
    fn the_best_are_in_order_of_rank_and_volume() {
        // On one scale the middle of the front covers most; then the ends, of which the wider step adds more.
        let points: [&[f64]; 5] = [&[0.0, 10.0], &[4.0, 2.0], &[10.0, 0.0], &[9.0, 9.0], &[4.0, 2.0]];
        assert_eq!(order(&points, 5), [1, 0, 2, 4, 3]);
        assert_eq!(order(&points, 1), [1]);
        assert_eq!(order(&[&[2.0], &[1.0], &[2.0], &[1.0]], 3), [1, 3, 0]);
        // The scale of an objective means nothing.
        let scaled: Vec<Vec<f64>> = points.iter().map(|p| vec![p[0], p[1] * 1e6]).collect();
        assert_eq!(order(&scaled.iter().map(Vec::as_slice).collect::<Vec<_>>(), 5), [1, 0, 2, 4, 3]);
        // Five objectives: the ends of each are the least crowded.
        let many: [&[f64]; 3] = [&[0.0, 4.0, 0.0, 0.0, 0.0], &[1.0, 1.0, 0.0, 0.0, 0.0], &[4.0, 0.0, 0.0, 0.0, 0.0]];
        assert_eq!(order(&many, 2), [0, 2]);
    }

    #[test]
    fn the_best_are_a_prefix_of_the_better() {
        for seed in 0..30 {
            let mut rng = rng::stream(seed, "halving");
            let objectives = 1 + seed as usize % 5;
            let all: Vec<Candidate> = (0..40)
                .map(|_| Candidate {
                    objectives: (0..objectives).map(|_| rng::below(&mut rng, 6) as f64).collect(),
                    violation: rng::below(&mut rng, 4) as f64 - 2.0,
                })
                .collect();
            let all: Vec<&Candidate> = all.iter().collect();
            let whole = best(&all, 40);
            assert_eq!(whole.len(), 40);
            for keep in [1, 5, 13, 27, 50] {
                assert_eq!(best(&all, keep), whole[..keep.min(40)], "seed {seed}");
            }
        }
    }

    #[test]
    fn luck_is_allowed_for() {
        let seen = [[1.0, 4.0], [2.0, 2.0], [4.0, 1.0], [5.0, 5.0]];
        let member = |objectives: [f64; 2], standard_errors: [f64; 2]| Measured {
            objectives: objectives.to_vec(),
            standard_errors: standard_errors.to_vec(),
        };
        let members = [
            member([5.0, 5.0], [0.0, 0.0]),
            member([5.0, 5.0], [1.0, 1.0]),
            member([5.0, 5.0], [1.6, 1.6]),
            member([5.0, 5.0], [2.1, 0.0]),
            member([2.0, 2.0], [0.0, 0.0]),
            member([2.0, 2.5], [0.0, 0.2]),
            member([0.5, 9.0], [0.0, 0.0]),
            member([f64::INFINITY, 5.0], [0.0, f64::INFINITY]),
            member([f64::INFINITY, 5.0], [f64::NAN, 0.0]),
        ];
        let got = hopeless(&members, &seen, 2.0);
        assert_eq!(got, [true, true, false, false, false, true, false, false, true]);
        assert_eq!(hopeless::<[f64; 2]>(&members, &[], 2.0), [false; 9]);
        // With a third objective that is the same for all, by comparing with everyone.
        let deep = |p: &[f64]| -> Vec<f64> { [p, &[7.0]].concat() };
        let solid: Vec<Measured> = members
            .iter()
            .map(|m| Measured {
                objectives: deep(&m.objectives),
                standard_errors: [m.standard_errors.as_slice(), &[0.0]].concat(),
            })
            .collect();
        assert_eq!(hopeless(&solid, &seen.map(|p| deep(&p)), 2.0), got);
    }

    #[test]
    fn a_short_part_finds_the_best_at_a_fraction_of_the_cost() {
        // The best of 81 values, seen through noise that falls with the root of the length.
        let halving = Halving::default();
        let (mut found, mut cost) = (0, 0);
        for seed in 0..50 {
            let mut rng = rng::stream(seed, "halving/noise");
            let truth: Vec<f64> = (0..81).map(|_| rng::uniform01(&mut rng)).collect();
            let ladder = halving.ladder(81, 8100);
            let mut left: Vec<usize> = (0..81).collect();
            for (step, rung) in ladder.iter().enumerate() {
                assert_eq!(left.len(), rung.members);
                cost += rung.requests * rung.members as u64;
                let noise = 0.5 / (rung.requests as f64).sqrt();
                let results: Vec<Option<Candidate>> =
                    left.iter().map(|&i| Some(candidate(&[truth[i] + rng::normal(&mut rng, 0.0, noise)]))).collect();
                if step + 1 < ladder.len() {
                    left = halving.promoted(&results).into_iter().map(|place| left[place]).collect();
                } else {
                    let at = |place: usize| results[place].as_ref().map_or(f64::INFINITY, |r| r.objectives[0]);
                    let winner = (0..left.len()).min_by(|&a, &b| at(a).total_cmp(&at(b))).unwrap();
                    found += u32::from(truth.iter().all(|t| *t >= truth[left[winner]] - 0.02));
                }
            }
        }
        assert!(found >= 45, "{found} of 50");
        assert!(cost * 6 < 50 * 81 * 8100, "{cost}");
    }
}
