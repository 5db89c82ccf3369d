//! The hypervolume subset selection problem: which members of a front cover the most, when not all can be kept.
//!
//! The greedy answer takes, time after time, the point that adds the most to those taken so far. It covers at least
//! 1 - 1/e of the best there is (Nemhauser, Wolsey, Fisher 1978, because volumes are submodular: what a point adds only
//! falls as others are taken; Guerreiro, Fonseca, Paquete 2016, "Greedy hypervolume subset selection in low
//! dimensions"). What a point added before is thus a bound of what it adds now, and most are never computed again.
//!
//! Every objective is minimised. The same points in another order give the same choice, but for equal points.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::hypervolume::{Staircase, exclusive};
use super::pareto::lexicographic;

/// The reference point of Optuna's TPE for a set to choose from: worse than the worst of every objective by a tenth of
/// it, and above zero.
pub fn reference<P: AsRef<[f64]>>(points: &[P]) -> Vec<f64> {
    let objectives = points.first().map_or(0, |p| p.as_ref().len());
    (0..objectives)
        .map(|k| {
            let worst = points.iter().map(|p| p.as_ref()[k]).fold(f64::NEG_INFINITY, f64::max);
            let beyond = (1.1 * worst).max(0.9 * worst);
            if beyond == 0.0 { 1e-12 } else { beyond }
        })
        .collect()
}

/// Indices of `size` points (of all, where there are fewer), in the order in which they were chosen: each adds the most
/// to the volume of those before it, up to `reference`.
///
/// Of points that add the same, the first in lexicographic order is taken, and of equal points the first. So where
/// nothing adds anything any more, or everything an infinite volume, the rest follows in lexicographic order; equal
/// points come after all distinct ones.
///
/// Two objectives take about O(n log n), more about one volume of the chosen points per point that is chosen or
/// nearly so, and O(n size) for bounds.
pub fn greedy<P: AsRef<[f64]>>(points: &[P], size: usize, reference: &[f64]) -> Vec<usize> {
    let at = |i: usize| points[i].as_ref();
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|&a, &b| lexicographic(at(a), at(b)));
    let mut distinct: Vec<usize> = Vec::new();
    let mut repeated: Vec<usize> = Vec::new();
    for i in order {
        if distinct.last().is_some_and(|&j| at(j) == at(i)) { repeated.push(i) } else { distinct.push(i) }
    }
    let mut chosen = match *reference {
        [x, y] => flat(&distinct, at, size, [x, y]),
        _ => solid(&distinct, at, size, reference),
    };
    chosen.extend(repeated.into_iter().take(size - chosen.len()));
    chosen
}

/// A point by what it adds at most: the greatest first, and the first in order among equals.
#[derive(PartialEq)]
struct Bound {
    adds: f64,
    place: Reverse<usize>,
    /// Number of chosen points when this was exact.
    exact_at: usize,
}

impl Eq for Bound {}

impl Ord for Bound {
    fn cmp(&self, other: &Bound) -> Ordering {
        self.adds.total_cmp(&other.adds).then(self.place.cmp(&other.place))
    }
}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Bound) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Two objectives: what a point adds is read off the staircase of those chosen.
fn flat<'a>(order: &[usize], at: impl Fn(usize) -> &'a [f64], size: usize, reference: [f64; 2]) -> Vec<usize> {
    let plane = |i: usize| [at(i)[0], at(i)[1]];
    let mut stairs = Staircase::new(reference);
    let first = |place: usize| Bound { adds: stairs.gain(plane(order[place])), place: Reverse(place), exact_at: 0 };
    let mut heap: BinaryHeap<Bound> = (0..order.len()).map(first).collect();
    let mut chosen = Vec::new();
    while chosen.len() < size
        && let Some(best) = heap.pop()
    {
        let point = order[best.place.0];
        if best.exact_at == chosen.len() {
            stairs.insert(plane(point));
            chosen.push(point);
        } else {
            heap.push(Bound { adds: stairs.gain(plane(point)), exact_at: chosen.len(), ..best });
        }
    }
    chosen
}

/// Any number of objectives.
fn solid<'a>(order: &[usize], at: impl Fn(usize) -> &'a [f64], size: usize, reference: &[f64]) -> Vec<usize> {
    let alone = |i: usize| exclusive(at(i), std::iter::empty(), reference);
    let mut bounds: Vec<Bound> = order
        .iter()
        .enumerate()
        .map(|(place, &i)| Bound { adds: alone(i), place: Reverse(place), exact_at: 0 })
        .collect();
    let own: Vec<f64> = bounds.iter().map(|b| b.adds).collect();
    let mut chosen: Vec<usize> = Vec::new();
    while chosen.len() < size && !bounds.is_empty() {
        if let Some(&latest) = chosen.last() {
            // Beside the latest alone a point adds no less than beside all; this costs no volume.
            for bound in &mut bounds {
                let place = bound.place.0;
                let shared: f64 =
                    at(order[place]).iter().zip(at(latest)).zip(reference).map(|((a, b), r)| r - a.max(*b)).product();
                // Of two infinite volumes the difference says nothing; outside of the reference there is nothing.
                if own[place] > 0.0 && own[place].is_finite() {
                    bound.adds = bound.adds.min((own[place] - shared).max(0.0));
                }
            }
        }
        let mut heap = BinaryHeap::from(bounds);
        while let Some(mut best) = heap.peek_mut() {
            if best.exact_at == chosen.len() {
                break;
            }
            let others = chosen.iter().map(|&i| at(i));
            best.adds = exclusive(at(order[best.place.0]), others, reference).min(best.adds);
            best.exact_at = chosen.len();
        }
        if let Some(best) = heap.pop() {
            chosen.push(order[best.place.0]);
        }
        bounds = heap.into_vec();
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;
    use crate::tune::pareto::{front, hypervolume};

    /// A front on a lattice, where volumes are whole numbers and ties are exact.
    fn lattice(seed: u64, n: usize, objectives: usize) -> Vec<Vec<f64>> {
        let mut rng = rng::stream(seed, "hssp");
        let all: Vec<Vec<f64>> =
            (0..n).map(|_| (0..objectives).map(|_| rng::below(&mut rng, 12) as f64).collect()).collect();
        front(&all).into_iter().map(|i| all[i].clone()).collect()
    }

    /// By definition: every volume anew.
    fn naive(points: &[Vec<f64>], size: usize, reference: &[f64]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..points.len()).collect();
        order.sort_by(|&a, &b| lexicographic(&points[a], &points[b]));
        let mut chosen: Vec<usize> = Vec::new();
        while chosen.len() < size.min(points.len()) {
            let with = |i: usize| {
                let set: Vec<&Vec<f64>> = chosen.iter().chain([&i]).map(|&j| &points[j]).collect();
                let repeated = chosen.iter().any(|&j| points[j] == points[i]);
                (if repeated { 0.0 } else { 0.5 }) + hypervolume(&set, reference)
            };
            let mut best: Option<(f64, usize)> = None;
            for &i in order.iter().filter(|i| !chosen.contains(i)) {
                if best.is_none_or(|(volume, _)| with(i) > volume) {
                    best = Some((with(i), i));
                }
            }
            chosen.push(best.unwrap().1);
        }
        chosen
    }

    #[test]
    fn the_lazy_choice_is_the_greedy_one() {
        for seed in 0..150 {
            let objectives = 1 + seed as usize % 5;
            let mut points = lattice(seed, 40, objectives);
            if seed % 3 == 0 {
                points.extend(points.clone().into_iter().step_by(3));
            }
            // Now and then some points lie outside of the reference.
            let reference = vec![if seed % 4 == 0 { 8.0 } else { 13.0 }; objectives];
            let size = 1 + seed as usize % 12;
            assert_eq!(greedy(&points, size, &reference), naive(&points, size, &reference), "seed {seed}: {points:?}");
            let all = greedy(&points, points.len() + 3, &reference);
            assert_eq!(all[..size.min(points.len())], greedy(&points, size, &reference), "seed {seed}");
            let mut sorted = all;
            sorted.sort_unstable();
            assert_eq!(sorted, (0..points.len()).collect::<Vec<_>>(), "seed {seed}");
        }
    }

    #[test]
    fn the_choice_covers_most_of_the_best() {
        // All subsets of four of a front's members.
        for seed in 0..20 {
            let points = lattice(seed, 30, 3);
            let n = points.len();
            let reference = [13.0; 3];
            let volume =
                |set: &[usize]| hypervolume(&set.iter().map(|&i| points[i].as_slice()).collect::<Vec<_>>(), &reference);
            let subsets = (0u32..1 << n).filter(|s| s.count_ones() as usize == 4.min(n));
            let best =
                subsets.map(|s| volume(&(0..n).filter(|i| s >> i & 1 == 1).collect::<Vec<_>>())).fold(0.0, f64::max);
            let got = volume(&greedy(&points, 4, &reference));
            assert!(got <= best && got >= 0.9 * best, "seed {seed}: {got} of {best}");
        }
    }

    #[test]
    fn odd_points_are_in_order() {
        let inf = f64::INFINITY;
        assert_eq!(greedy(&[[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], 3, &[1.0, 1.0]), [2, 1, 0]);
        assert_eq!(greedy(&[[0.5, 0.0], [-inf, 0.5], [0.0, 0.25]], 2, &[1.0, 1.0]), [1, 2]);
        assert_eq!(greedy(&[[3.0, 1.0, 0.0], [2.0, 2.0, 0.0]], 2, &[inf, inf, inf]), [1, 0]);
        assert_eq!(greedy(&[[3.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], 3, &[1.0; 3]), [1, 0, 2]);
        assert!(greedy::<[f64; 2]>(&[], 3, &[1.0, 1.0]).is_empty());
        assert_eq!(reference(&[[-2.0, 1.0, 0.0], [-1.0, 3.0, -1.0]]), [-0.9, 3.3000000000000003, 1e-12]);
    }

    #[test]
    fn large_fronts_are_cut() {
        let mut rng = rng::stream(1, "large");
        let mut point = |objectives: usize| -> Vec<f64> {
            let raw: Vec<f64> = (0..objectives).map(|_| rng::standard_normal(&mut rng).abs() + 1e-9).collect();
            let norm = raw.iter().map(|x| x * x).sum::<f64>().sqrt();
            raw.iter().map(|x| 1.0 - x / norm).collect()
        };
        let flat: Vec<Vec<f64>> = (0..20_000).map(|_| point(2)).collect();
        let chosen = greedy(&flat, 2_000, &[1.1, 1.1]);
        let part: Vec<&Vec<f64>> = chosen.iter().map(|&i| &flat[i]).collect();
        assert!(hypervolume(&part, &[1.1, 1.1]) > 0.999 * hypervolume(&flat, &[1.1, 1.1]));
        let solid: Vec<Vec<f64>> = (0..1_000).map(|_| point(3)).collect();
        let chosen = greedy(&solid, 100, &[1.1; 3]);
        let part: Vec<&Vec<f64>> = chosen.iter().map(|&i| &solid[i]).collect();
        assert!(hypervolume(&part, &[1.1; 3]) > 0.94 * hypervolume(&solid, &[1.1; 3]));
    }
}
