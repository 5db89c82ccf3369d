//! The parts of NSGA-III (Deb, Jain 2014, "An evolutionary many-objective optimization algorithm using
//! reference-point-based nondominated sorting approach, part I"; constraints: Jain, Deb 2014, part II): directions that
//! are spread evenly over all trade-offs, and a selection that keeps someone near each of them.
//!
//! With four objectives or more nearly everybody is on the front and crowding distances say little; directions do.
//!
//! What differs from the paper, and why: the ideal point is that of the candidates at hand, not the best ever seen,
//! because a selection keeps no state (elitism makes them the same but for a best one that was never kept); where the
//! extreme points span no plane, or one that cuts an axis on the wrong side, the worst of the front stands for the
//! nadir, which the paper leaves open.
//!
//! Every objective is minimised, and may be infinite but never NaN.

use rand_pcg::Pcg64;

use super::pareto::{self, Candidate};
use crate::rng;

/// The weight of the other objectives when the extreme point of one is looked for.
const OTHERS: f64 = 1e6;

/// Evenly spread points whose coordinates are at least 0 and sum up to 1 (Das, Dennis 1998), as many as a population
/// has members, or a few less: every multiple of `1/p`, for the largest `p` that does not give too many.
///
/// With many objectives such a `p` is below their number, and no point lies inside. Then, as the paper has it, what is
/// left of the population makes a second layer, half way to the centre.
///
/// At least one point per objective comes back, even for a smaller population. The order is lexicographic, outer layer
/// first.
pub fn reference_points(objectives: usize, population: usize) -> Vec<Vec<f64>> {
    assert!(objectives > 0, "there are no objectives");
    if objectives == 1 {
        return vec![vec![1.0]];
    }
    let fits = |room: usize, below: usize| {
        (1..below).take_while(|&p| simplex_size(objectives, p).is_some_and(|n| n <= room)).last()
    };
    let outer = fits(population, usize::MAX).unwrap_or(1);
    let mut points = simplex(objectives, outer);
    if outer < objectives
        && let Some(inner) = fits(population.saturating_sub(points.len()), outer)
    {
        let centre = 0.5 / objectives as f64;
        let halved = |p: Vec<f64>| p.into_iter().map(|x| 0.5 * x + centre).collect();
        points.extend(simplex(objectives, inner).into_iter().map(halved));
    }
    points
}

/// The number of ways to write `parts` as a sum of `objectives` numbers from 0 up: `parts + objectives - 1` over
/// `parts`. `None` above 2^53.
fn simplex_size(objectives: usize, parts: usize) -> Option<usize> {
    let mut ways = 1u128;
    for i in 1..=parts.min(objectives - 1) as u128 {
        // The product of consecutive numbers, divided as soon as it can be.
        ways = ways * (parts as u128 + objectives as u128 - i) / i;
        if ways > 1 << 53 {
            return None;
        }
    }
    usize::try_from(ways).ok()
}

fn simplex(objectives: usize, parts: usize) -> Vec<Vec<f64>> {
    let mut points = Vec::new();
    let mut counts = vec![0; objectives];
    counts[objectives - 1] = parts;
    loop {
        points.push(counts.iter().map(|&c| c as f64 / parts as f64).collect());
        // The next in lexicographic order: one more where something is left to the right of it, the rest at the end.
        let Some(last) = counts.iter().rposition(|&c| c > 0).filter(|&k| k > 0) else { return points };
        let rest = std::mem::take(&mut counts[last]);
        counts[last - 1] += 1;
        counts[objectives - 1] = rest - 1;
    }
}

/// Indices, ascending, of the `keep` candidates that survive (of all, where there are fewer).
///
/// Feasible candidates come before others, and those before each other by violation, then by index. Among the feasible,
/// front after front survives; of the front that does not fit as a whole, the members in the least crowded directions
/// do: `references` are the directions, and `rng` decides where the paper says "at random".
///
/// O(n log^(m-1) n) for ranks, and O(n h m) for `h` directions.
pub fn select(candidates: &[Candidate], keep: usize, references: &[Vec<f64>], rng: &mut Pcg64) -> Vec<usize> {
    let (feasible, mut others): (Vec<usize>, Vec<usize>) =
        (0..candidates.len()).partition(|&i| candidates[i].violation <= 0.0);
    let mut kept;
    if feasible.len() <= keep {
        others.sort_by(|&a, &b| candidates[a].violation.total_cmp(&candidates[b].violation).then(a.cmp(&b)));
        others.truncate(keep - feasible.len());
        kept = [feasible, others].concat();
    } else {
        let points: Vec<&[f64]> = feasible.iter().map(|&i| candidates[i].objectives.as_slice()).collect();
        let ranks = pareto::ranks(&points);
        let mut sizes = vec![0; feasible.len()];
        ranks.iter().for_each(|&r| sizes[r] += 1);
        let (mut whole, mut room) = (0, keep);
        while sizes[whole] <= room {
            room -= sizes[whole];
            whole += 1;
        }
        let of = |wanted: &dyn Fn(usize) -> bool| -> Vec<usize> {
            (0..points.len()).filter(|&i| wanted(ranks[i])).collect()
        };
        let (sure, tied) = (of(&|rank| rank < whole), of(&|rank| rank == whole));
        let chosen = if room > 0 { fill_niches(&points, &sure, &tied, room, references, rng) } else { Vec::new() };
        kept = sure.iter().chain(&chosen).map(|&i| feasible[i]).collect();
    }
    kept.sort_unstable();
    kept
}

/// Which `room` of `tied` join `sure`.
fn fill_niches(
    points: &[&[f64]],
    sure: &[usize],
    tied: &[usize],
    room: usize,
    references: &[Vec<f64>],
    rng: &mut Pcg64,
) -> Vec<usize> {
    let all: Vec<&[f64]> = sure.iter().chain(tied).map(|&i| points[i]).collect();
    let front = if sure.is_empty() { all.len() } else { all.len() - tied.len() };
    let near = associate(&normalize(&all, front), references);
    let mut crowd = vec![0usize; references.len()];
    near[..sure.len()].iter().for_each(|&(niche, _)| crowd[niche] += 1);
    let mut waiting: Vec<Vec<(f64, usize)>> = vec![Vec::new(); references.len()];
    for (&(niche, distance), &i) in near[sure.len()..].iter().zip(tied) {
        waiting[niche].push((distance, i));
    }
    // Directions that somebody waits for, by how many they have.
    let most = sure.len() + tied.len();
    let mut by_crowd: Vec<Vec<usize>> = vec![Vec::new(); most + 1];
    (0..references.len())
        .filter(|&niche| !waiting[niche].is_empty())
        .for_each(|niche| by_crowd[crowd[niche]].push(niche));
    let mut chosen = Vec::new();
    let mut least = 0;
    while chosen.len() < room && least < by_crowd.len() {
        if by_crowd[least].is_empty() {
            least += 1;
            continue;
        }
        let pick = rng::below(rng, by_crowd[least].len() as u64) as usize;
        let niche = by_crowd[least].swap_remove(pick);
        // The first of a direction is the nearest, whoever comes later is anyone.
        let place = if least == 0 {
            let nearest = |a: &(usize, &(f64, usize)), b: &(usize, &(f64, usize))| {
                a.1.0.total_cmp(&b.1.0).then(a.1.1.cmp(&b.1.1))
            };
            waiting[niche].iter().enumerate().min_by(nearest).map_or(0, |(place, _)| place)
        } else {
            rng::below(rng, waiting[niche].len() as u64) as usize
        };
        chosen.push(waiting[niche].remove(place).1);
        if !waiting[niche].is_empty() {
            by_crowd[least + 1].push(niche);
        }
    }
    chosen
}

/// Objectives with the ideal point at 0 and the plane through the extreme points at a sum of 1. The first `front`
/// points hold the front.
fn normalize(points: &[&[f64]], front: usize) -> Vec<Vec<f64>> {
    let (low, high) = pareto::bounds(points);
    // Infinite objectives become finite ones that are far off: three times the range, as Optuna has it.
    let finite = |(x, (low, high)): (&f64, (&f64, &f64))| {
        let beyond = if high > low { 3.0 * (high - low) } else { 1.0 };
        x.clamp(low - beyond, high + beyond)
    };
    let mut shifted: Vec<Vec<f64>> =
        points.iter().map(|p| p.iter().zip(low.iter().zip(&high)).map(finite).collect()).collect();
    let (ideal, _) = pareto::bounds(&shifted);
    for p in &mut shifted {
        p.iter_mut().zip(&ideal).for_each(|(x, least)| *x -= least);
    }
    let scale = intercepts(&shifted).unwrap_or_else(|| {
        let (_, worst) = pareto::bounds(&shifted[..front]);
        worst
    });
    for p in &mut shifted {
        // Where an objective is the same for all there is nothing to scale.
        p.iter_mut().zip(&scale).filter(|(_, s)| **s > 0.0).for_each(|(x, s)| *x /= s);
    }
    shifted
}

/// Where the plane through the extreme points cuts the axes: an estimate of the nadir. `None` where there is no such
/// plane, or it cuts an axis below zero or beyond everybody.
fn intercepts(points: &[Vec<f64>]) -> Option<Vec<f64>> {
    let objectives = points.first()?.len();
    let (_, worst) = pareto::bounds(points);
    let mut extremes: Vec<Vec<f64>> = Vec::new();
    for k in 0..objectives {
        // The achievement scalarising function: small for who is bad at nothing but objective k.
        let achievement =
            |p: &[f64]| p.iter().enumerate().map(|(j, x)| if j == k { *x } else { OTHERS * x }).fold(0.0, f64::max);
        let first = points.iter().min_by(|a, b| achievement(a).total_cmp(&achievement(b)))?;
        extremes.push(first.clone());
    }
    let inverse = solve(extremes)?;
    let cuts: Vec<f64> = inverse.iter().map(|a| 1.0 / a).collect();
    let sane = |(cut, worst): (&f64, &f64)| cut.is_finite() && *cut > 1e-9 * worst && *cut <= worst * (1.0 + 1e-9);
    cuts.iter().zip(&worst).all(sane).then_some(cuts)
}

/// The solution of `rows * x = 1`, by elimination; `None` where there is none, or not one alone.
fn solve(mut rows: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    let n = rows.len();
    let size = rows.iter().flatten().fold(0.0f64, |m, x| m.max(x.abs()));
    rows.iter_mut().for_each(|row| row.push(1.0));
    for k in 0..n {
        let pivot = (k..n).max_by(|&a, &b| rows[a][k].abs().total_cmp(&rows[b][k].abs()))?;
        rows.swap(k, pivot);
        if rows[k][k].abs() <= 1e-12 * size {
            return None;
        }
        let (done, rest) = rows.split_at_mut(k + 1);
        for row in rest {
            let factor = row[k] / done[k][k];
            row.iter_mut().zip(&done[k]).skip(k).for_each(|(x, above)| *x -= factor * above);
        }
    }
    let mut x = vec![0.0; n];
    for k in (0..n).rev() {
        let known: f64 = (k + 1..n).map(|j| rows[k][j] * x[j]).sum();
        x[k] = (rows[k][n] - known) / rows[k][k];
    }
    Some(x)
}

/// For every point, the nearest line from the origin through a reference point, and the square of the distance.
fn associate(points: &[Vec<f64>], references: &[Vec<f64>]) -> Vec<(usize, f64)> {
    let unit = |p: &Vec<f64>| {
        let length = p.iter().map(|x| x * x).sum::<f64>().sqrt();
        p.iter().map(|x| x / length).collect()
    };
    let lines: Vec<Vec<f64>> = references.iter().map(unit).collect();
    let nearest = |p: &Vec<f64>| {
        let length: f64 = p.iter().map(|x| x * x).sum();
        let mut best = (0, f64::INFINITY);
        for (niche, line) in lines.iter().enumerate() {
            let along: f64 = p.iter().zip(line).map(|(x, l)| x * l).sum();
            let distance = (length - along * along).max(0.0);
            if distance < best.1 {
                best = (niche, distance);
            }
        }
        best
    };
    points.iter().map(nearest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::pareto::{dominates, hypervolume};

    fn free(objectives: &[&[f64]]) -> Vec<Candidate> {
        objectives.iter().map(|o| Candidate { objectives: o.to_vec(), violation: 0.0 }).collect()
    }

    #[test]
    fn reference_points_are_those_of_the_paper() {
        // Deb, Jain 2014, table I: objectives, population, number of reference points. Two layers from eight on.
        for (objectives, population, expect) in
            [(3, 92, 91), (5, 212, 210), (8, 156, 156), (10, 276, 275), (15, 136, 135)]
        {
            let points = reference_points(objectives, population);
            assert_eq!(points.len(), expect, "{objectives} objectives");
            for p in &points {
                assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12 && p.iter().all(|x| *x >= 0.0), "{p:?}");
            }
            for (i, p) in points.iter().enumerate() {
                assert!(!points[..i].contains(p), "{p:?} twice");
            }
        }
        assert_eq!(reference_points(2, 3), [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]);
        assert_eq!(reference_points(3, 4), [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]);
        assert_eq!(reference_points(4, 1).len(), 4);
        assert_eq!(reference_points(1, 50), [[1.0]]);
        assert_eq!(reference_points(200, 300).len(), 200);
        // The inner layer of eight objectives lies half way to the centre.
        assert_eq!(reference_points(8, 156)[120], [0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.5625]);
    }

    #[test]
    fn the_plane_through_the_extremes_scales_the_objectives() {
        // Extremes at 2, 4 and 10 on the axes, ideal at (1, 1, 1).
        let points: [&[f64]; 4] = [&[3.0, 1.0, 1.0], &[1.0, 5.0, 1.0], &[1.0, 1.0, 11.0], &[2.0, 2.0, 6.0]];
        assert_eq!(normalize(&points, 4), [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.25, 0.5]]);
        // Two objectives that always agree span no plane: the worst of the front is the scale.
        let points: [&[f64]; 3] = [&[1.0, 1.0, 4.0], &[2.0, 2.0, 3.0], &[5.0, 5.0, 9.0]];
        assert_eq!(normalize(&points, 2), [[0.0, 0.0, 1.0], [1.0, 1.0, 0.0], [4.0, 4.0, 6.0]]);
        // The same for all: nothing to scale. Infinite: three ranges beyond the finite ones.
        let points: [&[f64]; 3] = [&[1.0, 7.0], &[2.0, 7.0], &[f64::INFINITY, 7.0]];
        assert_eq!(normalize(&points, 3), [[0.0, 0.0], [0.25, 0.0], [1.0, 0.0]]);
        assert_eq!(solve(vec![vec![2.0, 1.0], vec![1.0, 3.0]]), Some(vec![0.4, 0.2]));
        assert_eq!(solve(vec![vec![1.0, 2.0], vec![2.0, 4.0]]), None);
    }

    #[test]
    fn points_belong_to_the_nearest_line() {
        let references = reference_points(2, 3);
        let near = associate(&[vec![0.0, 5.0], vec![1.0, 1.0], vec![3.0, 1.0], vec![0.0, 0.0]], &references);
        assert_eq!(near.iter().map(|n| n.0).collect::<Vec<_>>(), [0, 1, 2, 0]);
        assert!((near[2].1 - 1.0).abs() < 1e-12 && near[1].1 < 1e-12);
    }

    #[test]
    fn the_least_crowded_directions_survive() {
        let mut rng = rng::stream(1, "nsga3");
        let references = reference_points(2, 3);
        // One front; two at either end, one in the middle: with room for three, each direction has its nearest.
        let front = free(&[&[0.0, 1.0], &[0.05, 0.9], &[0.45, 0.5], &[0.9, 0.05], &[1.0, 0.0]]);
        assert_eq!(select(&front, 3, &references, &mut rng), [0, 2, 4]);
        // A front that fits is kept, and one more of the next front joins it.
        let two = free(&[&[0.0, 1.0], &[1.0, 0.0], &[0.1, 1.1], &[0.6, 1.2], &[1.2, 0.2], &[1.2, 1.1]]);
        for _ in 0..20 {
            let kept = select(&two, 3, &references, &mut rng);
            assert_eq!(kept[..2], [0, 1]);
        }
        assert_eq!(select(&two, 6, &references, &mut rng), [0, 1, 2, 3, 4, 5]);
        assert_eq!(select(&two, 9, &references, &mut rng).len(), 6);
        assert!(select(&two, 0, &references, &mut rng).is_empty());
        assert!(select(&[], 3, &references, &mut rng).is_empty());
    }

    #[test]
    fn feasible_candidates_come_first() {
        let mut rng = rng::stream(2, "nsga3");
        let references = reference_points(2, 10);
        let mut all = free(&[&[0.0, 0.0], &[5.0, 5.0], &[1.0, 1.0], &[4.0, 4.0], &[2.0, 2.0]]);
        all[0].violation = 2.0;
        all[2].violation = 0.5;
        all[4].violation = f64::INFINITY;
        assert_eq!(select(&all, 1, &references, &mut rng), [3]);
        assert_eq!(select(&all, 2, &references, &mut rng), [1, 3]);
        assert_eq!(select(&all, 3, &references, &mut rng), [1, 2, 3]);
        assert_eq!(select(&all, 4, &references, &mut rng), [0, 1, 2, 3]);
    }

    #[test]
    fn fronts_are_kept_in_order_whatever_the_draws() {
        for seed in 0..40 {
            let mut rng = rng::stream(seed, "nsga3/random");
            let objectives = 2 + seed as usize % 4;
            let all: Vec<Candidate> =
                (0..60)
                    .map(|_| Candidate {
                        objectives: (0..objectives)
                            .map(|_| {
                                if rng::below(&mut rng, 30) == 0 {
                                    f64::INFINITY
                                } else {
                                    rng::below(&mut rng, 6) as f64
                                }
                            })
                            .collect(),
                        violation: if seed % 2 == 0 { rng::below(&mut rng, 3) as f64 - 1.0 } else { 0.0 },
                    })
                    .collect();
            let references = reference_points(objectives, 20);
            for keep in [1, 7, 20, 45] {
                let kept = select(&all, keep, &references, &mut rng);
                assert_eq!(kept.len(), keep);
                assert!(kept.windows(2).all(|w| w[0] < w[1]));
                let better = |a: &Candidate, b: &Candidate| {
                    let (x, y) = (a.violation.max(0.0), b.violation.max(0.0));
                    x < y || (x == 0.0 && y == 0.0 && dominates(&a.objectives, &b.objectives))
                };
                for i in (0..all.len()).filter(|i| !kept.contains(i)) {
                    assert!(!kept.iter().any(|&j| better(&all[i], &all[j])), "seed {seed}, keep {keep}");
                }
            }
        }
    }

    /// DTLZ2 (Deb, Thiele, Laumanns, Zitzler 2002) with three objectives of twelve variables. The best are on the unit
    /// sphere.
    fn dtlz2(x: &[f64]) -> Vec<f64> {
        let g: f64 = x[2..].iter().map(|x| (x - 0.5) * (x - 0.5)).sum();
        let (a, b) = (x[0] * std::f64::consts::FRAC_PI_2, x[1] * std::f64::consts::FRAC_PI_2);
        vec![(1.0 + g) * a.cos() * b.cos(), (1.0 + g) * a.cos() * b.sin(), (1.0 + g) * a.sin()]
    }

    /// The distance from the paper's targets to the nearest of a population, after simulated binary crossover (index
    /// 30) and polynomial mutation (index 20) for some generations of 92: the setting of the paper's section IV.
    fn evolve(seed: u64, generations: usize, violation: impl Fn(&[f64]) -> f64) -> (f64, Vec<Candidate>) {
        let mut rng = rng::stream(seed, "nsga3/dtlz2");
        let references = reference_points(3, 92);
        let evaluate = |x: &[f64]| {
            let objectives = dtlz2(x);
            Candidate { violation: violation(&objectives), objectives }
        };
        let mut genes: Vec<Vec<f64>> = (0..92).map(|_| (0..12).map(|_| rng::uniform01(&mut rng)).collect()).collect();
        for _ in 0..generations {
            for _ in 0..46 {
                let mut pair = [0, 1].map(|_| genes[rng::below(&mut rng, 92) as usize].clone());
                let [one, other] = &mut pair;
                for (a, b) in one.iter_mut().zip(other.iter_mut()) {
                    if rng::below(&mut rng, 2) == 0 {
                        let u = rng::uniform01(&mut rng);
                        let beta = if u < 0.5 { 2.0 * u } else { 0.5 / (1.0 - u) }.powf(1.0 / 31.0);
                        let near = |a: f64, b: f64| (0.5 * ((1.0 + beta) * a + (1.0 - beta) * b)).clamp(0.0, 1.0);
                        (*a, *b) = (near(*a, *b), near(*b, *a));
                        // Either child may be the one near either parent.
                        if rng::below(&mut rng, 2) == 0 {
                            std::mem::swap(a, b);
                        }
                    }
                }
                for x in pair.iter_mut().flatten() {
                    if rng::below(&mut rng, 12) == 0 {
                        let u = rng::uniform01(&mut rng);
                        let power = |u: f64| u.powf(1.0 / 21.0);
                        *x += if u < 0.5 { power(2.0 * u) - 1.0 } else { 1.0 - power(2.0 - 2.0 * u) };
                        *x = x.clamp(0.0, 1.0);
                    }
                }
                genes.extend(pair);
            }
            let candidates: Vec<Candidate> = genes.iter().map(|x| evaluate(x)).collect();
            genes = select(&candidates, 92, &references, &mut rng).into_iter().map(|i| genes[i].clone()).collect();
        }
        let last: Vec<Candidate> = genes.iter().map(|x| evaluate(x)).collect();
        let gap = |target: &Vec<f64>| {
            let length = target.iter().map(|x| x * x).sum::<f64>().sqrt();
            let to = |c: &Candidate| {
                c.objectives.iter().zip(target).map(|(x, t)| (x - t / length).powi(2)).sum::<f64>().sqrt()
            };
            last.iter().map(to).fold(f64::INFINITY, f64::min)
        };
        (references.iter().map(gap).sum::<f64>() / references.len() as f64, last)
    }

    #[test]
    fn it_is_as_good_as_the_paper_on_dtlz2() {
        // Deb, Jain 2014, table III: best, median and worst distance after 250 generations are 1.262e-3, 1.357e-3 and
        // 2.114e-3.
        let mut distances: Vec<f64> = Vec::new();
        for seed in 0..5 {
            let (distance, last) = evolve(seed, 250, |_| 0.0);
            let points: Vec<&Vec<f64>> = last.iter().map(|c| &c.objectives).collect();
            // All 91 targets themselves cover this much.
            let targets: Vec<Vec<f64>> = reference_points(3, 92)
                .iter()
                .map(|t| t.iter().map(|x| x / t.iter().map(|x| x * x).sum::<f64>().sqrt()).collect())
                .collect();
            let (got, best) = (hypervolume(&points, &[1.5; 3]), hypervolume(&targets, &[1.5; 3]));
            assert!(got > 0.995 * best, "{distance} seed {seed}: {got} of {best}");
            distances.push(distance);
        }
        distances.sort_by(f64::total_cmp);
        assert!(distances[2] < 2.114e-3 && distances[4] < 5e-3, "{distances:?}");
    }

    #[test]
    fn a_constraint_cuts_the_front_off() {
        // Nothing with a first objective below a half.
        let (_, last) = evolve(1, 150, |o| (0.5 - o[0]).max(0.0));
        assert!(last.iter().all(|c| c.violation <= 0.0));
        assert!(last.iter().any(|c| c.objectives[0] < 0.52), "the edge is reached");
        let off = |c: &Candidate| (c.objectives.iter().map(|x| x * x).sum::<f64>().sqrt() - 1.0).abs();
        let mean = last.iter().map(off).sum::<f64>() / last.len() as f64;
        assert!(mean < 0.02, "{mean}");
    }
}
