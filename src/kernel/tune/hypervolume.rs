//! The volume that a set of points dominates up to a reference: the measure of a Pareto front, what each of its
//! members adds, and how it grows from trial to trial.
//!
//! Every objective is minimised. Objectives may be infinite but never NaN. A point counts only where it is better than
//! the reference in every objective. What is dominated without bound has an infinite volume.
//!
//! | objectives | volume | contributions of a front | one more point in an [`Archive`] |
//! |---|---|---|---|
//! | 1 | O(n) | O(n) | O(1) |
//! | 2 | sweep, O(n log n) | neighbours, O(n log n) | O(log n) amortised |
//! | 3 | sweep, O(n log n) | O(n^2 log n) | O(n log n) |
//! | 4 | WFG, O(n^2 log n) | O(n^3 log n) | O(n^2 log n) |
//! | more | WFG, exponential in their number | | |
//!
//! The sweeps are those of Fonseca, Paquete, Lopez-Ibanez 2006; WFG is While, Bradstreet, Barone 2012, "A fast way of
//! calculating exact hypervolumes", with its slicing by the last objective down to three.

use std::collections::BTreeMap;

use super::pareto::{dominates, lexicographic, order_key};

/// The volume that `points` dominate, up to `reference`; points that are not better than it everywhere count nothing.
/// Exact but for rounding.
pub fn hypervolume<P: AsRef<[f64]>>(points: &[P], reference: &[f64]) -> f64 {
    volume(points.iter().map(AsRef::as_ref).filter(|p| inside(p, reference)).collect(), reference)
}

/// What each member of a front adds to the volume: the volume with it less the volume without it.
///
/// Meant for points of which none dominates another. A point that another dominates adds nothing, and takes nothing
/// from the others; equal points add nothing each, since either alone does what both do.
pub fn contributions<P: AsRef<[f64]>>(points: &[P], reference: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..points.len()).filter(|&i| inside(points[i].as_ref(), reference)).collect();
    order.sort_by(|&a, &b| lexicographic(points[a].as_ref(), points[b].as_ref()));
    let at = |i: usize| points[i].as_ref();
    let mut added = vec![0.0; points.len()];
    if reference.len() == 2 {
        // Along the staircase, the neighbours bound what is a point's own.
        let mut stairs: Vec<usize> = Vec::new();
        for &i in &order {
            let lower = stairs.last().is_none_or(|&j| at(i)[1] < at(j)[1]);
            if lower || stairs.last().is_some_and(|&j| at(j) == at(i)) {
                stairs.push(i);
            }
        }
        for (place, &i) in stairs.iter().enumerate() {
            let top = if place == 0 { reference[1] } else { at(stairs[place - 1])[1] };
            let right = stairs.get(place + 1).map_or(reference[0], |&j| at(j)[0]);
            let (width, height) = (right - at(i)[0], top - at(i)[1]);
            // Between equal points a side is zero, and the other may be infinite.
            added[i] = if width > 0.0 && height > 0.0 { width * height } else { 0.0 };
        }
        return added;
    }
    let front = nondominated(order.iter().map(|&i| at(i)));
    for (place, &i) in order.iter().enumerate() {
        let twin = |neighbour: Option<&usize>| neighbour.is_some_and(|&j| at(j) == at(i));
        let repeated = twin(order.get(place + 1)) || (place > 0 && twin(order.get(place - 1)));
        if !repeated && front.iter().any(|p| *p == at(i)) {
            added[i] = exclusive(at(i), front.iter().copied().filter(|p| *p != at(i)), reference);
        }
    }
    added
}

/// What a point would add to the volume of `others`, which may be in any order and dominate each other.
pub(super) fn exclusive<'a>(point: &[f64], others: impl Iterator<Item = &'a [f64]>, reference: &[f64]) -> f64 {
    if !inside(point, reference) {
        return 0.0;
    }
    let own = extent(point, reference);
    let mut limited: Vec<Vec<f64>> = Vec::new();
    for other in others.filter(|p| inside(p, reference)) {
        let corner = worse_of(other, point);
        if corner == point {
            return 0.0;
        }
        limited.push(corner);
    }
    if own.is_infinite() {
        return unbounded_share(point, &limited, reference);
    }
    (own - volume(limited.iter().map(Vec::as_slice).collect(), reference)).max(0.0)
}

/// What is left of an infinite box when the boxes of `limited`, which all lie in it, are taken away.
fn unbounded_share(point: &[f64], limited: &[Vec<f64>], reference: &[f64]) -> f64 {
    // Far enough out nothing changes any more: cut the infinite sides there, and once more one unit further out. Where
    // the two differ, the difference goes on for ever.
    let finite = |k: usize| limited.iter().map(move |p| p[k]).chain([point[k], reference[k]]).filter(|x| x.is_finite());
    let cut = |beyond: f64| -> (f64, f64) {
        let low: Vec<f64> = (0..point.len()).map(|k| finite(k).fold(0.0, f64::min) - beyond).collect();
        let high: Vec<f64> = (0..point.len()).map(|k| finite(k).fold(0.0, f64::max) + beyond).collect();
        let clamp = |p: &[f64]| -> Vec<f64> { p.iter().enumerate().map(|(k, x)| x.clamp(low[k], high[k])).collect() };
        let (corner, end) = (clamp(point), clamp(reference));
        let rest: Vec<Vec<f64>> = limited.iter().map(|p| clamp(p)).collect();
        let rest = volume(rest.iter().map(Vec::as_slice).filter(|p| inside(p, &end)).collect(), &end);
        let whole = extent(&corner, &end);
        ((whole - rest).max(0.0), whole)
    };
    let ((near, _), (far, whole)) = (cut(1.0), cut(2.0));
    if far - near > 1e-9 * whole { f64::INFINITY } else { near }
}

/// Better than the reference in every objective.
fn inside(point: &[f64], reference: &[f64]) -> bool {
    point.len() == reference.len() && point.iter().zip(reference).all(|(x, r)| x < r)
}

/// The volume of one point's own box.
fn extent(point: &[f64], reference: &[f64]) -> f64 {
    point.iter().zip(reference).map(|(x, r)| r - x).product()
}

fn worse_of(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(x, y)| x.max(*y)).collect()
}

/// Volume of points that all lie inside the reference.
fn volume(points: Vec<&[f64]>, reference: &[f64]) -> f64 {
    if points.is_empty() {
        return 0.0;
    }
    if points.iter().any(|p| extent(p, reference).is_infinite()) {
        return f64::INFINITY;
    }
    match reference.len() {
        0 => 0.0,
        1 => points.iter().map(|p| reference[0] - p[0]).fold(0.0, f64::max),
        2 => area(points, reference),
        3 => sweep(points, reference),
        _ => wfg(points.into_iter().map(<[f64]>::to_vec), reference),
    }
}

fn area(mut points: Vec<&[f64]>, reference: &[f64]) -> f64 {
    points.sort_unstable_by(|a, b| lexicographic(a, b));
    let mut top = reference[1];
    let mut area = 0.0;
    for p in points {
        if p[1] < top {
            area += (reference[0] - p[0]) * (top - p[1]);
            top = p[1];
        }
    }
    area
}

/// Volume of points with three objectives: from the best third objective to the worst, the area that the points so far
/// dominate in the other two, times the way to the next point.
fn sweep(mut points: Vec<&[f64]>, reference: &[f64]) -> f64 {
    points.sort_unstable_by(|a, b| a[2].total_cmp(&b[2]).then_with(|| lexicographic(a, b)));
    let mut stairs = Staircase::new([reference[0], reference[1]]);
    let (mut area, mut volume) = (0.0, 0.0);
    for (place, p) in points.iter().enumerate() {
        area += stairs.insert([p[0], p[1]]);
        let next = points.get(place + 1).map_or(reference[2], |q| q[2]);
        volume += area * (next - p[2]);
    }
    volume
}

/// Volume of points with four objectives or more: each one's own box, less what the points after it cover of that.
///
/// The points are taken from the worst last objective to the best. What a later point covers of an earlier one's box
/// then spans the whole of its last side, and one objective less is left to deal with.
fn wfg(points: impl Iterator<Item = Vec<f64>>, reference: &[f64]) -> f64 {
    let mut front = nondominated(points);
    let last = reference.len() - 1;
    front.sort_by(|a, b| b[last].total_cmp(&a[last]).then_with(|| lexicographic(a, b)));
    let base = &reference[..last];
    let mut total = 0.0;
    for (place, p) in front.iter().enumerate() {
        let limited: Vec<Vec<f64>> = front[place + 1..].iter().map(|q| worse_of(&q[..last], &p[..last])).collect();
        let covered = volume(limited.iter().map(Vec::as_slice).collect(), base);
        total += (reference[last] - p[last]) * (extent(&p[..last], base) - covered).max(0.0);
    }
    total
}

/// The distinct points that no other dominates.
fn nondominated<P: AsRef<[f64]>>(points: impl Iterator<Item = P>) -> Vec<P> {
    let mut points: Vec<P> = points.collect();
    points.sort_by(|a, b| lexicographic(a.as_ref(), b.as_ref()));
    points.dedup_by(|a, b| a.as_ref() == b.as_ref());
    let mut kept: Vec<P> = Vec::new();
    for q in points {
        // In this order no point is dominated by a later one.
        if !kept.iter().any(|k| dominates(k.as_ref(), q.as_ref())) {
            kept.push(q);
        }
    }
    kept
}

/// The nondominated points of two objectives, in order, and the area that they dominate.
#[derive(Clone, Debug)]
pub(super) struct Staircase {
    reference: [f64; 2],
    /// From the first objective, as a key that sorts like it, to the point. Along it the second one falls.
    steps: BTreeMap<u64, [f64; 2]>,
}

impl Staircase {
    pub fn new(reference: [f64; 2]) -> Staircase {
        Staircase { reference, steps: BTreeMap::new() }
    }

    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Some point is nowhere worse than this one. O(log n).
    pub fn covers(&self, point: [f64; 2]) -> bool {
        self.before(point[0]).is_some_and(|step| step[1] <= point[1])
    }

    /// The last point whose first objective is at most `x`.
    fn before(&self, x: f64) -> Option<[f64; 2]> {
        self.steps.range(..=order_key(x)).next_back().map(|(_, step)| *step)
    }

    /// The area that a point would add. O(log n), and as much for every point that it dominates.
    pub fn gain(&self, point: [f64; 2]) -> f64 {
        if !inside(&point, &self.reference) || self.covers(point) {
            return 0.0;
        }
        let [x, y] = point;
        let mut top = self.before(x).map_or(self.reference[1], |step| step[1]);
        let (mut left, mut gain) = (x, 0.0);
        for step in self.steps.range(order_key(x)..).map(|(_, step)| *step).chain([[self.reference[0], f64::MIN]]) {
            // Of the same first objective: no width, though the height may be infinite.
            if step[0] > left && top > y {
                gain += (step[0] - left) * (top - y);
            }
            if step[1] < y {
                break;
            }
            (left, top) = (step[0], step[1]);
        }
        gain
    }

    /// Puts a point in, takes out those it dominates, and returns the area that it adds. O(log n) amortised.
    pub fn insert(&mut self, point: [f64; 2]) -> f64 {
        if !inside(&point, &self.reference) || self.covers(point) {
            return 0.0;
        }
        let gain = self.gain(point);
        let key = order_key(point[0]);
        while let Some((&next, _)) = self.steps.range(key..).next().filter(|(_, step)| step[1] >= point[1]) {
            self.steps.remove(&next);
        }
        self.steps.insert(key, point);
        gain
    }
}

/// A Pareto front that grows point by point, with its hypervolume after each: a column of a search's history.
///
/// ```
/// # use pipe_kernel::tune::hypervolume::Archive;
/// let mut archive = Archive::new(&[4.0, 4.0]);
/// let trace: Vec<f64> = [[2.0, 2.0], [3.0, 3.0], [1.0, 3.0]].iter().map(|p| archive.push(p)).collect();
/// assert_eq!(trace, [4.0, 4.0, 5.0]);
/// ```
#[derive(Clone, Debug)]
pub struct Archive {
    reference: Vec<f64>,
    volume: f64,
    /// The front of two objectives.
    stairs: Staircase,
    /// The front of any other number.
    front: Vec<Vec<f64>>,
}

impl Archive {
    /// Empty, for as many objectives as the reference has.
    pub fn new(reference: &[f64]) -> Archive {
        let plane = if let [x, y] = *reference { [x, y] } else { [0.0; 2] };
        Archive { reference: reference.to_vec(), volume: 0.0, stairs: Staircase::new(plane), front: Vec::new() }
    }

    /// Adds a point, and returns the hypervolume of all so far. It never falls.
    pub fn push(&mut self, point: &[f64]) -> f64 {
        assert_eq!(point.len(), self.reference.len(), "a point has another number of objectives than the reference");
        if let [x, y] = *point {
            self.volume += self.stairs.insert([x, y]);
        } else if inside(point, &self.reference) && !self.front.iter().any(|p| p == point || dominates(p, point)) {
            self.volume += exclusive(point, self.front.iter().map(Vec::as_slice), &self.reference);
            self.front.retain(|p| !dominates(point, p));
            self.front.push(point.to_vec());
        }
        self.volume
    }

    /// The hypervolume so far.
    pub fn hypervolume(&self) -> f64 {
        self.volume
    }

    /// Number of distinct points on the front, of those inside the reference.
    pub fn front_size(&self) -> usize {
        self.stairs.len() + self.front.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;
    use crate::tune::pareto::front;

    /// Points on a coarse lattice, so that ties and duplicates are common.
    fn lattice(seed: u64, n: usize, objectives: usize) -> Vec<Vec<f64>> {
        let mut rng = rng::stream(seed, "hypervolume");
        (0..n).map(|_| (0..objectives).map(|_| rng::below(&mut rng, 9) as f64).collect()).collect()
    }

    /// Points near a sphere: large fronts.
    fn sphere(seed: u64, n: usize, objectives: usize) -> Vec<Vec<f64>> {
        let mut rng = rng::stream(seed, "sphere");
        let mut point = || -> Vec<f64> {
            let raw: Vec<f64> = (0..objectives).map(|_| rng::standard_normal(&mut rng).abs() + 1e-9).collect();
            let norm = raw.iter().map(|x| x * x).sum::<f64>().sqrt();
            raw.iter().map(|x| 1.0 - x / norm).collect()
        };
        (0..n).map(|_| point()).collect()
    }

    /// Counts the cells between all coordinates that occur. Infinite ends are the caller's to avoid.
    fn by_cells(points: &[Vec<f64>], reference: &[f64]) -> f64 {
        let edges: Vec<Vec<f64>> = (0..reference.len())
            .map(|k| {
                let mut edges: Vec<f64> = points.iter().map(|p| p[k].min(reference[k])).collect();
                edges.push(reference[k]);
                edges.sort_by(f64::total_cmp);
                edges.dedup();
                edges
            })
            .collect();
        let mut total = 0.0;
        let mut cell = vec![0usize; reference.len()];
        if edges.iter().any(|e| e.len() < 2) {
            return 0.0;
        }
        loop {
            let low: Vec<f64> = cell.iter().zip(&edges).map(|(&c, e)| e[c]).collect();
            if points.iter().any(|p| p.iter().zip(&low).all(|(x, l)| x <= l)) {
                total += cell.iter().zip(&edges).map(|(&c, e)| e[c + 1] - e[c]).product::<f64>();
            }
            let Some(k) = (0..cell.len()).find(|&k| cell[k] + 2 < edges[k].len()) else { return total };
            cell[..k].fill(0);
            cell[k] += 1;
        }
    }

    fn close(ours: f64, theirs: f64) -> bool {
        ours == theirs || (ours - theirs).abs() <= 1e-9 * theirs.abs().max(1e-3)
    }

    #[test]
    fn hypervolume_by_hand() {
        let check = |points: &[&[f64]], reference: &[f64], expect: f64| {
            let got = hypervolume(points, reference);
            assert!(close(got, expect), "{points:?}: {got} instead of {expect}");
        };
        check(&[], &[1.0, 1.0], 0.0);
        check(&[&[1.0, 0.0], &[2.0, 2.0]], &[1.0, 1.0], 0.0);
        check(&[&[1.0, 3.0], &[2.0, 2.0], &[3.0, 1.0], &[3.0, 3.0]], &[4.0, 4.0], 3.0 + 2.0 + 1.0);
        check(&[&[0.25], &[0.5]], &[1.0], 0.75);
        check(&[&[1.0, 1.0, 1.0]], &[2.0, 3.0, 4.0], 6.0);
        // Two boxes of 1 x 2 x 2 that overlap in the unit cube.
        check(&[&[1.0, 0.0, 0.0], &[0.0, 1.0, 0.0], &[0.0, 1.0, 0.0]], &[2.0, 2.0, 1.0], 2.0 + 2.0 - 1.0);
        let inf = f64::INFINITY;
        check(&[&[-inf, 0.5], &[0.5, 0.0]], &[1.0, 1.0], inf);
        check(&[&[inf, 0.0], &[0.5, 0.5]], &[1.0, 1.0], 0.25);
        check(&[&[0.0, 0.0, 0.0]], &[1.0, 1.0, inf], inf);
        check(&[&[0.0, 0.0, 0.0, 1.0]], &[1.0, 1.0, 1.0, inf], inf);
        check(&[&[inf, inf, inf]], &[inf, inf, inf], 0.0);
    }

    #[test]
    fn hypervolume_matches_the_sum_of_cells() {
        for seed in 0..120 {
            let objectives = 1 + seed as usize % 5;
            let n = 1 + seed as usize % 7;
            for points in [lattice(seed, n, objectives), sphere(seed, n, objectives)] {
                let reference = vec![if seed % 3 == 0 { 6.0 } else { 9.0 }; objectives];
                let (got, expect) = (hypervolume(&points, &reference), by_cells(&points, &reference));
                assert!(close(got, expect), "seed {seed}: {got} instead of {expect}: {points:?}");
            }
        }
    }

    #[test]
    fn contributions_are_what_is_lost_without_a_member() {
        for seed in 0..120 {
            let objectives = 1 + seed as usize % 5;
            let all = if seed % 2 == 0 { lattice(seed, 9, objectives) } else { sphere(seed, 9, objectives) };
            let reference = vec![if seed % 3 == 0 { 6.0 } else { 9.0 }; objectives];
            let members: Vec<Vec<f64>> = front(&all).into_iter().map(|i| all[i].clone()).collect();
            let got = contributions(&members, &reference);
            let whole = by_cells(&members, &reference);
            for (i, got) in got.iter().enumerate() {
                let rest: Vec<Vec<f64>> =
                    members.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, p)| p.clone()).collect();
                let expect = whole - by_cells(&rest, &reference);
                assert!(close(*got, expect), "seed {seed}, member {i}: {got} instead of {expect}: {members:?}");
            }
            // What is dominated has no share and takes none.
            let among = contributions(&all, &reference);
            for (i, p) in all.iter().enumerate() {
                let expect = members.iter().position(|m| m == p).map_or(0.0, |place| got[place]);
                assert!(close(among[i], expect), "seed {seed}, point {i}");
            }
        }
        let inf = f64::INFINITY;
        assert_eq!(contributions(&[[-inf, 0.5], [0.0, 0.0]], &[1.0, 1.0]), [inf, 0.5]);
        assert_eq!(contributions(&[[-inf, 0.5], [-inf, 0.5]], &[1.0, 1.0]), [0.0, 0.0]);
        assert_eq!(contributions(&[[-inf, 0.5, 0.0], [0.0, 0.0, 0.0]], &[1.0; 3]), [inf, 0.5]);
        assert_eq!(contributions(&[[-inf, 0.5, 0.0], [-inf, 0.0, 0.5]], &[1.0; 3]), [inf, inf]);
        assert_eq!(contributions(&[[2.0, 0.5]], &[1.0, 1.0]), [0.0]);
    }

    #[test]
    fn an_archive_grows_as_the_volume_of_all_its_points() {
        for seed in 0..60 {
            let objectives = 1 + seed as usize % 4;
            let points = if seed % 2 == 0 { lattice(seed, 40, objectives) } else { sphere(seed, 40, objectives) };
            let reference = vec![if seed % 3 == 0 { 6.0 } else { 9.0 }; objectives];
            let mut archive = Archive::new(&reference);
            for n in 1..=points.len() {
                let got = archive.push(&points[n - 1]);
                let expect = hypervolume(&points[..n], &reference);
                assert!(close(got, expect), "seed {seed}, {n} points: {got} instead of {expect}");
            }
            let mut distinct: Vec<&Vec<f64>> = front(&points).into_iter().map(|i| &points[i]).collect();
            distinct.sort_by(|a, b| lexicographic(a, b));
            distinct.dedup();
            let counted = distinct.iter().filter(|p| inside(p, &reference)).count();
            assert_eq!(archive.front_size(), counted, "seed {seed}");
        }
        let mut archive = Archive::new(&[1.0, 1.0]);
        assert_eq!([archive.push(&[0.5, 2.0]), archive.push(&[0.5, 0.5])], [0.0, 0.25]);
        assert_eq!([archive.push(&[f64::NEG_INFINITY, 0.5]), archive.push(&[0.0, 0.0])], [f64::INFINITY; 2]);
        assert_eq!(archive.hypervolume(), f64::INFINITY);
    }

    #[test]
    fn sweeps_and_slices_agree() {
        // A coordinate that all points share adds a factor, and another algorithm.
        for seed in 0..5 {
            let flat = sphere(seed, 150, 2);
            let solid: Vec<Vec<f64>> = flat.iter().map(|p| vec![p[0], p[1], 0.5]).collect();
            let four: Vec<Vec<f64>> = flat.iter().map(|p| vec![p[0], 0.25, p[1], 0.5]).collect();
            let five: Vec<Vec<f64>> = flat.iter().map(|p| vec![p[0], p[1], 0.25, 0.5, 0.75]).collect();
            let area = hypervolume(&flat, &[1.0, 1.0]);
            assert!(close(hypervolume(&solid, &[1.0; 3]), area * 0.5));
            assert!(close(hypervolume(&four, &[1.0; 4]), area * 0.375));
            assert!(close(hypervolume(&five, &[1.0; 5]), area * 0.09375));
        }
    }

    #[test]
    fn large_fronts_are_measured() {
        // Points near the unit sphere around (1, 1, 1): what they leave of the cube is close to an eighth of a ball.
        let points = sphere(1, 100_000, 3);
        let got = hypervolume(&points, &[1.0; 3]);
        let limit = std::f64::consts::PI / 6.0;
        assert!(got < limit && got > limit * 0.995, "{got}, {limit}");
        let mut archive = Archive::new(&[1.0, 1.0]);
        let flat = sphere(2, 100_000, 2);
        for p in &flat {
            archive.push(p);
        }
        assert!(close(archive.hypervolume(), hypervolume(&flat, &[1.0, 1.0])));
        assert_eq!(archive.front_size(), 100_000);
        // The limit of four objectives is the sixteenth part of a ball of volume pi^2 / 2.
        let got = hypervolume(&sphere(3, 600, 4), &[1.0; 4]);
        let limit = std::f64::consts::PI.powi(2) / 32.0;
        assert!(got < limit && got > limit * 0.75, "{got}, {limit}");
    }
}
