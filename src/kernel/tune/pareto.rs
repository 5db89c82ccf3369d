//! Which of several points are best when there is more than one objective: domination ranks, crowding, hypervolume.
//!
//! Every objective is minimised. Objectives may be infinite but never NaN. Results depend on the order of the points
//! only where the documentation says so.

use std::cmp::Ordering;

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
pub fn front(points: &[Vec<f64>]) -> Vec<usize> {
    let ranks = ranks(&points.iter().map(Vec::as_slice).collect::<Vec<_>>());
    (0..points.len()).filter(|&i| ranks[i] == 0).collect()
}

/// Rank of every point: 0 for the front, 1 for the front of what is left without it, and so on (Deb 2002).
///
/// One and two objectives take O(n log n), more take O(n^2) comparisons (ENS: Zhang, Tian, Cheng, Jin 2015).
pub fn ranks(points: &[&[f64]]) -> Vec<usize> {
    let objectives = points.first().map_or(0, |p| p.len());
    assert!(points.iter().all(|p| p.len() == objectives), "points have different numbers of objectives");
    assert!(points.iter().all(|p| p.iter().all(|x| !x.is_nan())), "an objective is NaN");
    let mut order: Vec<usize> = (0..points.len()).collect();
    // In lexicographic order no point is dominated by a later one.
    order.sort_by(|&a, &b| lexicographic(points[a], points[b]));
    let mut ranks = vec![0; points.len()];
    // Members of each front so far, the latest last.
    let mut fronts: Vec<Vec<usize>> = Vec::new();
    let mut previous: Option<usize> = None;
    for i in order {
        let rank = match previous {
            Some(p) if points[p] == points[i] => ranks[p],
            // The latest member of a front has the least last objective of all its members, and less than the
            // latest one of the front after it. With one objective there is only the question whether it is smaller.
            Some(_) | None if objectives <= 2 => fronts.partition_point(|front| {
                front.last().is_some_and(|&j| points[j][objectives - 1] <= points[i][objectives - 1])
            }),
            Some(_) | None => fronts
                .iter()
                .position(|front| !front.iter().rev().any(|&j| dominates(points[j], points[i])))
                .unwrap_or(fronts.len()),
        };
        if rank == fronts.len() {
            fronts.push(Vec::new());
        }
        fronts[rank].push(i);
        ranks[i] = rank;
        previous = Some(i);
    }
    ranks
}

/// Not `total_cmp`: to domination, -0 and 0 are equal.
fn lexicographic(a: &[f64], b: &[f64]) -> Ordering {
    a.iter()
        .zip(b)
        .map(|(x, y)| x.partial_cmp(y).unwrap_or(Ordering::Equal))
        .find(|o| o.is_ne())
        .unwrap_or(Ordering::Equal)
}

/// Crowding distance of every member of one front (Deb 2002): the sum over objectives of the gap between its two
/// neighbours, as a share of the front's width. Infinite at the ends. Among equal objectives the order of the points
/// decides who is the end.
pub fn crowding(front: &[&[f64]]) -> Vec<f64> {
    let mut distance = vec![0.0; front.len()];
    let (Some(first), Some(last)) = (front.first(), front.len().checked_sub(1)) else {
        return distance;
    };
    for k in 0..first.len() {
        let mut order: Vec<usize> = (0..front.len()).collect();
        order.sort_by(|&a, &b| front[a][k].total_cmp(&front[b][k]));
        let width = front[order[last]][k] - front[order[0]][k];
        distance[order[0]] = f64::INFINITY;
        distance[order[last]] = f64::INFINITY;
        if width > 0.0 && width.is_finite() {
            for three in order.windows(3) {
                distance[three[1]] += (front[three[2]][k] - front[three[0]][k]) / width;
            }
        }
    }
    distance
}

/// The volume that `points` dominate, up to `reference`; points that are not better than it everywhere count nothing.
///
/// Exact. Two objectives take O(n log n); more use WFG (While, Bradstreet, Barone 2012), which is exponential in
/// their number: good for hundreds of points in three or four objectives.
pub fn hypervolume(points: &[Vec<f64>], reference: &[f64]) -> f64 {
    let inside = |p: &&Vec<f64>| p.len() == reference.len() && p.iter().zip(reference).all(|(x, r)| x < r);
    let mut inside: Vec<&[f64]> = points.iter().filter(inside).map(Vec::as_slice).collect();
    inside.sort_by(|a, b| lexicographic(a, b));
    if reference.len() == 2 {
        let mut best = reference[1];
        let mut volume = 0.0;
        for p in inside {
            if p[1] < best {
                volume += (reference[0] - p[0]) * (best - p[1]);
                best = p[1];
            }
        }
        return volume;
    }
    wfg(&nondominated(inside.into_iter().map(<[f64]>::to_vec)), reference)
}

/// Hypervolume of mutually nondominated points: each one's own box, less what the points after it cover of that.
fn wfg(points: &[Vec<f64>], reference: &[f64]) -> f64 {
    let mut volume = 0.0;
    for (i, p) in points.iter().enumerate() {
        let own: f64 = p.iter().zip(reference).map(|(x, r)| r - x).product();
        let limited = points[i + 1..].iter().map(|q| q.iter().zip(p).map(|(a, b)| a.max(*b)).collect());
        volume += own - wfg(&nondominated(limited), reference);
    }
    volume
}

fn nondominated(points: impl Iterator<Item = Vec<f64>>) -> Vec<Vec<f64>> {
    let mut kept: Vec<Vec<f64>> = Vec::new();
    for q in points {
        if !kept.iter().any(|k| *k == q || dominates(k, &q)) {
            kept.retain(|k| !dominates(&q, k));
            kept.push(q);
        }
    }
    kept
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
            let refs: Vec<&[f64]> = points.iter().map(Vec::as_slice).collect();
            let got = ranks(&refs);
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
        assert_eq!(front(&[]), Vec::<usize>::new());
        assert_eq!(front(&[vec![-0.0, 5.0], vec![0.0, 3.0]]), [1]);
    }

    #[test]
    fn crowding_by_hand() {
        let front: [&[f64]; 4] = [&[0.0, 10.0], &[1.0, 6.0], &[3.0, 4.0], &[4.0, 0.0]];
        assert_eq!(crowding(&front), [f64::INFINITY, 0.75 + 0.6, 0.75 + 0.6, f64::INFINITY]);
        assert_eq!(crowding(&[&[1.0, f64::INFINITY]]), [f64::INFINITY]);
        assert!(crowding(&[]).is_empty());
    }

    #[test]
    fn hypervolume_by_hand() {
        let check = |points: &[&[f64]], reference: &[f64], expect: f64| {
            let points: Vec<Vec<f64>> = points.iter().map(|p| p.to_vec()).collect();
            let got = hypervolume(&points, reference);
            assert!((got - expect).abs() < 1e-12, "{points:?}: {got} instead of {expect}");
        };
        check(&[], &[1.0, 1.0], 0.0);
        check(&[&[1.0, 0.0], &[2.0, 2.0]], &[1.0, 1.0], 0.0);
        check(&[&[1.0, 3.0], &[2.0, 2.0], &[3.0, 1.0], &[3.0, 3.0]], &[4.0, 4.0], 3.0 + 2.0 + 1.0);
        check(&[&[0.25]], &[1.0], 0.75);
        check(&[&[1.0, 1.0, 1.0]], &[2.0, 3.0, 4.0], 6.0);
        // Two boxes of 1 x 2 x 2 that overlap in the unit cube.
        check(&[&[1.0, 0.0, 0.0], &[0.0, 1.0, 0.0], &[0.0, 1.0, 0.0]], &[2.0, 2.0, 1.0], 2.0 + 2.0 - 1.0);
    }

    #[test]
    fn hypervolume_matches_counting_cells() {
        for seed in 0..20 {
            let objectives = 2 + seed as usize % 3;
            let points = random_points(seed, 12, objectives);
            let side = 9u32;
            let cells = (0..side.pow(objectives as u32)).filter(|cell| {
                let corner: Vec<f64> = (0..objectives as u32).map(|k| f64::from(cell / side.pow(k) % side)).collect();
                points.iter().any(|p| p.iter().zip(&corner).all(|(x, c)| x <= c))
            });
            let got = hypervolume(&points, &vec![9.0; objectives]);
            assert!((got - cells.count() as f64).abs() < 1e-9, "seed {seed}");
        }
    }
}
