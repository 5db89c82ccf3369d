//! Which of several points are best when there is more than one objective: domination ranks, crowding, and, from
//! [`hypervolume`](super::hypervolume), volumes.
//!
//! Every objective is minimised. Objectives may be infinite but never NaN. Results depend on the order of the points
//! only where the documentation says so.

use std::cmp::Ordering;

pub use super::hypervolume::{Archive, contributions, hypervolume};

/// One who may be kept or promoted.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub objectives: Vec<f64>,
    /// By how much constraints are violated in sum; at most 0 where none is.
    pub violation: f64,
}

/// `a` is nowhere worse than `b` and somewhere better.
pub fn dominates(a: &[f64], b: &[f64]) -> bool {
    let mut better = false;
    for (x, y) in a.iter().zip(b) {
        if x > y {
            return false;
        }
        better |= x < y;
    }
    better
}

/// The points that no other dominates, as ascending indices. Equal points are all in or all out.
pub fn front<P: AsRef<[f64]>>(points: &[P]) -> Vec<usize> {
    let ranks = ranks(points);
    (0..points.len()).filter(|&i| ranks[i] == 0).collect()
}

/// Rank of every point: 0 for the front, 1 for the front of what is left without it, and so on (Deb 2002).
///
/// One and two objectives take O(n log n), `m` objectives at most O(n log^(m-1) n), by divide and conquer (Jensen
/// 2003; for equal values: Fortin, Grenier, Parizeau 2013; Buzdalov, Shalyto 2014).
pub fn ranks<P: AsRef<[f64]>>(points: &[P]) -> Vec<usize> {
    let objectives = points.first().map_or(0, |p| p.as_ref().len());
    assert!(points.iter().all(|p| p.as_ref().len() == objectives), "points have different numbers of objectives");
    assert!(points.iter().all(|p| p.as_ref().iter().all(|x| !x.is_nan())), "an objective is NaN");
    if objectives == 0 {
        return vec![0; points.len()];
    }
    let mut order: Vec<usize> = (0..points.len()).collect();
    // In lexicographic order no point is dominated by a later one.
    order.sort_unstable_by(|&a, &b| lexicographic(points[a].as_ref(), points[b].as_ref()).then(a.cmp(&b)));
    let mut sorting = Sorting { objectives, places: Vec::new(), ranks: Vec::new() };
    // Equal points are ranked once.
    let mut distinct: Vec<usize> = Vec::with_capacity(points.len());
    let mut group = vec![0; points.len()];
    for &i in &order {
        if distinct.last().is_none_or(|&j| lexicographic(points[j].as_ref(), points[i].as_ref()).is_ne()) {
            distinct.push(i);
        }
        group[i] = distinct.len() - 1;
    }
    // Only the order of values matters: integers compare faster.
    sorting.places = vec![0; distinct.len() * objectives];
    sorting.ranks = vec![0; distinct.len()];
    let mut column: Vec<(u64, usize)> = Vec::with_capacity(distinct.len());
    for k in 0..objectives {
        column.clear();
        column.extend(distinct.iter().enumerate().map(|(d, &i)| (order_key(points[i].as_ref()[k]), d)));
        column.sort_unstable();
        let mut place = 0;
        for (n, &(key, d)) in column.iter().enumerate() {
            if n > 0 && column[n - 1].0 != key {
                place += 1;
            }
            sorting.places[d * objectives + k] = place;
        }
    }
    let all: Vec<u32> = (0..distinct.len() as u32).collect();
    sorting.among(&all, objectives);
    group.into_iter().map(|d| sorting.ranks[d] as usize).collect()
}

/// Sets up to here are compared pair by pair.
const PAIRWISE: usize = 400;

/// Distinct points in lexicographic order, named by their position in it; sets of them are lists in that order.
///
/// A set is ranked by its first `k` objectives, where the others are known to be in favour of whoever might dominate.
/// As points are distinct, "nowhere worse" then means "dominates".
struct Sorting {
    objectives: usize,
    /// Per point and objective, the position of its value among all values of the objective.
    places: Vec<u32>,
    /// A lower bound of every rank, which rises to the rank.
    ranks: Vec<u32>,
}

impl Sorting {
    fn at(&self, point: u32, objective: usize) -> u32 {
        self.places[point as usize * self.objectives + objective]
    }

    /// The first is nowhere worse in the first `k` objectives.
    fn covers(&self, a: u32, b: u32, k: usize) -> bool {
        let (a, b) = (a as usize * self.objectives, b as usize * self.objectives);
        self.places[a..a + k].iter().zip(&self.places[b..b + k]).all(|(x, y)| x <= y)
    }

    /// Ranks a set among itself.
    fn among(&mut self, set: &[u32], k: usize) {
        match k {
            // Distinct numbers in their order.
            1 => set.iter().zip(0..).for_each(|(&p, rank)| self.ranks[p as usize] = rank),
            2 => {
                let mut stairs = Stairs::default();
                for &p in set {
                    self.raise(p, stairs.above(self.at(p, 1)));
                    stairs.insert(self.at(p, 1), self.ranks[p as usize] + 1);
                }
            }
            _ if set.len() * set.len() <= PAIRWISE => {
                for (n, &p) in set.iter().enumerate() {
                    for &q in &set[..n] {
                        if self.ranks[q as usize] >= self.ranks[p as usize] && self.covers(q, p, k) {
                            self.ranks[p as usize] = self.ranks[q as usize] + 1;
                        }
                    }
                }
            }
            _ => {
                let Some(middle) = self.median(set, &[], k - 1) else {
                    return self.among(set, k - 1);
                };
                let [low, mid, high] = self.split(set, k - 1, middle);
                self.among(&low, k);
                self.between(&low, &mid, k - 1);
                self.among(&mid, k - 1);
                self.between(&merge(&low, &mid), &high, k - 1);
                self.among(&high, k);
            }
        }
    }

    /// Raises the ranks of `upper` above those of the members of `lower`, which are final, that cover them in the first
    /// `k` objectives, two or more.
    fn between(&mut self, lower: &[u32], upper: &[u32], k: usize) {
        if lower.is_empty() || upper.is_empty() {
            return;
        }
        if k == 2 {
            let mut stairs = Stairs::default();
            let mut next = 0;
            for &p in upper {
                while next < lower.len() && lower[next] < p {
                    let q = lower[next];
                    stairs.insert(self.at(q, 1), self.ranks[q as usize] + 1);
                    next += 1;
                }
                self.raise(p, stairs.above(self.at(p, 1)));
            }
            return;
        }
        if lower.len() * upper.len() <= PAIRWISE {
            for &p in upper {
                for &q in lower.iter().take_while(|&&q| q < p) {
                    if self.ranks[q as usize] >= self.ranks[p as usize] && self.covers(q, p, k) {
                        self.ranks[p as usize] = self.ranks[q as usize] + 1;
                    }
                }
            }
            return;
        }
        let ends = |set: &[u32]| {
            let values = set.iter().map(|&p| self.at(p, k - 1));
            values.fold((u32::MAX, 0), |(low, high), v| (low.min(v), high.max(v)))
        };
        let ((lower_low, lower_high), (upper_low, upper_high)) = (ends(lower), ends(upper));
        if lower_high <= upper_low {
            return self.between(lower, upper, k - 1);
        }
        if lower_low > upper_high {
            return;
        }
        // The values differ, or the first case would have held.
        let Some(middle) = self.median(lower, upper, k - 1) else { return };
        let [low1, mid1, high1] = self.split(lower, k - 1, middle);
        let [low2, mid2, high2] = self.split(upper, k - 1, middle);
        self.between(&low1, &low2, k);
        self.between(&low1, &mid2, k - 1);
        self.between(&mid1, &mid2, k - 1);
        self.between(&merge(&low1, &mid1), &high2, k - 1);
        self.between(&high1, &high2, k);
    }

    fn raise(&mut self, point: u32, rank: u32) {
        let own = &mut self.ranks[point as usize];
        *own = rank.max(*own);
    }

    /// A value of the objective that splits the points best; `None` where all have the same.
    fn median(&self, a: &[u32], b: &[u32], objective: usize) -> Option<u32> {
        let mut values: Vec<u32> = a.iter().chain(b).map(|&p| self.at(p, objective)).collect();
        let middle = values.len() / 2;
        let (_, &mut median, _) = values.select_nth_unstable(middle);
        values.iter().any(|v| *v != median).then_some(median)
    }

    /// The members below, at and above a value of the objective.
    fn split(&self, set: &[u32], objective: usize, value: u32) -> [Vec<u32>; 3] {
        let mut parts = [const { Vec::new() }; 3];
        for &p in set {
            let part = match self.at(p, objective).cmp(&value) {
                Ordering::Less => 0,
                Ordering::Equal => 1,
                Ordering::Greater => 2,
            };
            parts[part].push(p);
        }
        parts
    }
}

/// Two ascending lists as one.
fn merge(a: &[u32], b: &[u32]) -> Vec<u32> {
    let mut merged = Vec::with_capacity(a.len() + b.len());
    let mut b = b.iter().copied().peekable();
    for &x in a {
        while let Some(y) = b.next_if(|y| *y < x) {
            merged.push(y);
        }
        merged.push(x);
    }
    merged.extend(b);
    merged
}

/// The highest rank up to each value: pairs in which both rise.
#[derive(Default)]
struct Stairs(Vec<(u32, u32)>);

impl Stairs {
    /// The highest rank that was put in at this value or below; 0 without any.
    fn above(&self, value: u32) -> u32 {
        let place = self.0.partition_point(|(v, _)| *v <= value);
        if place == 0 { 0 } else { self.0[place - 1].1 }
    }

    fn insert(&mut self, value: u32, rank: u32) {
        if self.above(value) >= rank {
            return;
        }
        let from = self.0.partition_point(|(v, _)| *v < value);
        let until = from + self.0[from..].partition_point(|(_, r)| *r <= rank);
        self.0.splice(from..until, [(value, rank)]);
    }
}

/// Not `total_cmp`: to domination, -0 and 0 are equal.
pub(super) fn lexicographic(a: &[f64], b: &[f64]) -> Ordering {
    a.iter()
        .zip(b)
        .map(|(x, y)| x.partial_cmp(y).unwrap_or(Ordering::Equal))
        .find(|o| o.is_ne())
        .unwrap_or(Ordering::Equal)
}

/// An integer that sorts as the number does, infinities included; -0 and 0 have the same.
pub(super) fn order_key(x: f64) -> u64 {
    let bits = (x + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

/// The least and the greatest finite value of every objective; 0 and 0 where there is none.
pub fn bounds<P: AsRef<[f64]>>(points: &[P]) -> (Vec<f64>, Vec<f64>) {
    let objectives = points.first().map_or(0, |p| p.as_ref().len());
    (0..objectives)
        .map(|k| {
            let finite = || points.iter().map(|p| p.as_ref()[k]).filter(|x| x.is_finite());
            let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
            if low <= high { (low, high) } else { (0.0, 0.0) }
        })
        .unzip()
}

/// Objectives on one scale: 0 at `low`, 1 at `high`. Where both are the same, what is equal to them becomes 0, and what
/// is not keeps its distance from them. Infinite ones stay infinite.
pub fn normalized(point: &[f64], low: &[f64], high: &[f64]) -> Vec<f64> {
    let scaled = |(x, (low, high)): (&f64, (&f64, &f64))| {
        let width = high - low;
        if width > 0.0 { (x - low) / width } else { x - low }
    };
    point.iter().zip(low.iter().zip(high)).map(scaled).collect()
}

/// Crowding distance of every member of one front (Deb 2002): the sum over objectives of the gap between its two
/// neighbours, as a share of the front's width. Infinite at the ends. Among equal objectives the order of the points
/// decides who is the end.
pub fn crowding<P: AsRef<[f64]>>(front: &[P]) -> Vec<f64> {
    let mut distance = vec![0.0; front.len()];
    let (Some(first), Some(last)) = (front.first(), front.len().checked_sub(1)) else {
        return distance;
    };
    let at = |i: usize, k: usize| front[i].as_ref()[k];
    for k in 0..first.as_ref().len() {
        let mut order: Vec<usize> = (0..front.len()).collect();
        order.sort_by(|&a, &b| at(a, k).total_cmp(&at(b, k)));
        let width = at(order[last], k) - at(order[0], k);
        distance[order[0]] = f64::INFINITY;
        distance[order[last]] = f64::INFINITY;
        if width > 0.0 && width.is_finite() {
            for three in order.windows(3) {
                distance[three[1]] += (at(three[2], k) - at(three[0], k)) / width;
            }
        }
    }
    distance
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    /// Points on a coarse lattice, so that ties and duplicates are common.
    fn random_points(seed: u64, n: usize, objectives: usize) -> Vec<Vec<f64>> {
        let mut rng = rng::stream(seed, "pareto");
        (0..n).map(|_| (0..objectives).map(|_| rng::below(&mut rng, 9) as f64).collect()).collect()
    }

    #[test]
    fn ranks_match_peeling_by_brute_force() {
        for seed in 0..60 {
            let objectives = 1 + seed as usize % 4;
            let points = random_points(seed, 40, objectives);
            let got = ranks(&points);
            let mut left: Vec<usize> = (0..points.len()).collect();
            let mut rank = 0;
            while !left.is_empty() {
                let (peeled, rest): (Vec<usize>, Vec<usize>) =
                    left.iter().partition(|&&i| !left.iter().any(|&j| dominates(&points[j], &points[i])));
                assert!(peeled.iter().all(|&i| got[i] == rank), "seed {seed}, rank {rank}: {points:?}");
                if rank == 0 {
                    assert_eq!(front(&points), peeled, "seed {seed}");
                }
                left = rest;
                rank += 1;
            }
        }
        assert_eq!(front::<Vec<f64>>(&[]), Vec::<usize>::new());
        assert_eq!(front(&[vec![-0.0, 5.0], vec![0.0, 3.0]]), [1]);
    }

    #[test]
    fn crowding_by_hand() {
        let front: [&[f64]; 4] = [&[0.0, 10.0], &[1.0, 6.0], &[3.0, 4.0], &[4.0, 0.0]];
        assert_eq!(crowding(&front), [f64::INFINITY, 0.75 + 0.6, 0.75 + 0.6, f64::INFINITY]);
        assert_eq!(crowding(&[[1.0, f64::INFINITY]]), [f64::INFINITY]);
        assert!(crowding::<Vec<f64>>(&[]).is_empty());
    }

    /// Random numbers, of which few are equal.
    fn spread(seed: u64, n: usize, objectives: usize) -> Vec<Vec<f64>> {
        let mut rng = rng::stream(seed, "spread");
        (0..n).map(|_| (0..objectives).map(|_| rng::uniform01(&mut rng)).collect()).collect()
    }

    /// One more than the highest rank of whoever dominates: what ranks are, by O(n^2) comparisons.
    fn longest_chains(points: &[Vec<f64>]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..points.len()).collect();
        order.sort_by(|&a, &b| lexicographic(&points[a], &points[b]));
        let mut ranks = vec![0; points.len()];
        for (n, &i) in order.iter().enumerate() {
            let above = order[..n].iter().filter(|&&j| dominates(&points[j], &points[i])).map(|&j| ranks[j] + 1).max();
            ranks[i] = above.unwrap_or(0);
        }
        ranks
    }

    #[test]
    fn ranks_of_many_points_match_their_chains() {
        for seed in 0..24 {
            let objectives = 1 + seed as usize % 6;
            let n = 300 + 40 * seed as usize;
            let mut points =
                if seed % 2 == 0 { random_points(seed, n, objectives) } else { spread(seed, n, objectives) };
            if seed % 3 == 0 {
                for (i, p) in points.iter_mut().enumerate().filter(|(i, _)| i % 7 == 0) {
                    p[i % objectives] = if i % 2 == 0 { f64::INFINITY } else { f64::NEG_INFINITY };
                }
            }
            assert_eq!(ranks(&points), longest_chains(&points), "seed {seed}");
        }
        // One long chain, and one that is a front in the first two objectives.
        let chain: Vec<Vec<f64>> = (0..2000).map(|i| vec![f64::from(i / 2), f64::from(i), f64::from(i)]).collect();
        assert_eq!(ranks(&chain), (0..2000).collect::<Vec<_>>());
        let flat: Vec<Vec<f64>> = (0..2000).map(|i| vec![f64::from(i), f64::from(-i), f64::from(i)]).collect();
        assert!(ranks(&flat).iter().all(|r| *r == 0));
    }

    #[test]
    fn a_hundred_thousand_points_are_ranked() {
        for objectives in 2..=5 {
            let points = spread(objectives as u64, 100_000, objectives);
            let ranks = ranks(&points);
            // A sample, checked by definition: some member of the rank before dominates, none of the same does.
            let mut by_rank: Vec<Vec<usize>> = vec![Vec::new(); 1 + ranks.iter().max().unwrap()];
            ranks.iter().enumerate().for_each(|(i, &r)| by_rank[r].push(i));
            for i in (0..points.len()).step_by(997) {
                let dominated = |r: usize| by_rank[r].iter().any(|&j| dominates(&points[j], &points[i]));
                assert!(!dominated(ranks[i]), "{objectives} objectives, point {i}");
                assert!(ranks[i] == 0 || dominated(ranks[i] - 1), "{objectives} objectives, point {i}");
            }
        }
    }

    #[test]
    fn numbers_have_keys_that_sort_alike() {
        let numbers = [f64::NEG_INFINITY, -2.5, -1e-300, 0.0, 1e-300, 0.5, 7.0, f64::MAX, f64::INFINITY];
        assert!(numbers.windows(2).all(|w| order_key(w[0]) < order_key(w[1])));
        assert_eq!(order_key(-0.0), order_key(0.0));
    }

    #[test]
    fn objectives_are_brought_to_one_scale() {
        let points = [vec![1.0, 5.0, 3.0], vec![3.0, f64::INFINITY, 3.0], vec![2.0, f64::NEG_INFINITY, 3.0]];
        let (low, high) = bounds(&points);
        assert_eq!((low.as_slice(), high.as_slice()), (&[1.0, 5.0, 3.0][..], &[3.0, 5.0, 3.0][..]));
        assert_eq!(normalized(&points[0], &low, &high), [0.0, 0.0, 0.0]);
        assert_eq!(normalized(&points[1], &low, &high), [1.0, f64::INFINITY, 0.0]);
        assert_eq!(normalized(&[2.0, 6.0, 2.5], &low, &high), [0.5, 1.0, -0.5]);
        assert_eq!(bounds(&[[f64::INFINITY]]), (vec![0.0], vec![0.0]));
        assert_eq!(bounds::<Vec<f64>>(&[]), (vec![], vec![]));
    }
}
