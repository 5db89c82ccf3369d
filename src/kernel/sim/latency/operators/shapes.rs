//! Operators at shapes that were not measured: from the nearest that were.
//!
//! Matrix products over tokens: between the measured sizes around the wanted one, the time as a multiple of the roofline
//! is interpolated over the logarithms of both sizes. Attention: of the measured numbers of heads the nearest, at a batch
//! that has as many heads in all.

use super::grid::{Series, Table};
use crate::profile::Point;

/// Peaks of a GPU per nanosecond.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peak {
    pub flop_per_ns: f64,
    pub bytes_per_ns: f64,
}

impl Peak {
    /// Time in nanoseconds of a product of `m x k` and `k x n` at the peaks.
    fn gemm(&self, m: f64, n: f64, k: f64, weight_bytes: f64) -> f64 {
        let bytes = weight_bytes * n * k + 2.0 * m * (n + k);
        (2.0 * m * n * k / self.flop_per_ns).max(bytes / self.bytes_per_ns)
    }
}

/// Columns and rows of a matrix of weights.
type Size = (u32, u32);

/// Products of one type: per (n, k), sorted, times in nanoseconds over tokens.
pub(super) struct Gemms {
    known: Vec<(Size, Vec<(f64, f64)>)>,
    peak: Peak,
    weight_bytes: f64,
}

impl Gemms {
    /// From points `[tokens, n, k]`. Of several implementations of a shape the fastest: what a tuned engine takes.
    pub(super) fn new<'a>(points: impl Iterator<Item = &'a Point>, peak: Peak, weight_bytes: f64) -> Gemms {
        let mut points: Vec<(u32, u32, u32, f64)> =
            points.map(|p| (p.shape[1], p.shape[2], p.shape[0], p.latency_us * 1e3)).collect();
        points.sort_by(|a, b| (a.0, a.1, a.2).cmp(&(b.0, b.1, b.2)).then(a.3.total_cmp(&b.3)));
        points.dedup_by_key(|p| (p.0, p.1, p.2));
        let groups = points.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1));
        let known = groups.map(|g| ((g[0].0, g[0].1), g.iter().map(|p| (f64::from(p.2), p.3)).collect())).collect();
        Gemms { known, peak, weight_bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn exact(&self, n: u32, k: u32) -> Option<&[(f64, f64)]> {
        let at = self.known.binary_search_by_key(&(n, k), |(shape, _)| *shape).ok()?;
        Some(&self.known[at].1)
    }

    /// Times over tokens of products with `n x k` weights. `None` where nothing was measured.
    pub(super) fn of(&self, n: u32, k: u32) -> Option<Series> {
        if let Some(points) = self.exact(n, k) {
            return Series::new(points.iter().copied());
        }
        let corners = self.around(n, k);
        let (first, _) = corners.first()?;
        let of_corner = |((cn, ck), _): &(Size, f64)| {
            let points = self.exact(*cn, *ck)?;
            let (cn, ck) = (f64::from(*cn), f64::from(*ck));
            Series::new(points.iter().map(|&(m, ns)| (m, ns / self.peak.gemm(m, cn, ck, self.weight_bytes))))
        };
        let ratios: Vec<(Series, f64)> = corners.iter().filter_map(|c| Some((of_corner(c)?, c.1))).collect();
        let weights: f64 = ratios.iter().map(|(_, w)| w).sum();
        let at = |m: f64| {
            let ratio =
                ratios.iter().map(|(series, w)| series.at(m.min(series.last())).value * w).sum::<f64>() / weights;
            (m, ratio * self.peak.gemm(m, f64::from(n), f64::from(k), self.weight_bytes))
        };
        Series::new(self.exact(first.0, first.1)?.iter().map(|&(m, _)| at(m)))
    }

    /// Measured sizes around the wanted one, with weights: the corners of the cell that it lies in, as far as they were
    /// measured, or else the nearest.
    fn around(&self, n: u32, k: u32) -> Vec<(Size, f64)> {
        let bracket = |mut all: Vec<u32>, x: u32| {
            all.sort_unstable();
            all.dedup();
            let above = all.iter().copied().find(|a| *a >= x);
            let below = all.iter().rev().copied().find(|a| *a <= x);
            let (Some(low), Some(high)) = (below.or(above), above.or(below)) else { return Vec::new() };
            if low == high {
                return vec![(low, 1.0)];
            }
            let log = |a: u32| libm::log(f64::from(a));
            let share = ((log(x) - log(low)) / (log(high) - log(low))).clamp(0.0, 1.0);
            vec![(low, 1.0 - share), (high, share)]
        };
        let ns = bracket(self.known.iter().map(|((n, _), _)| *n).collect(), n);
        let ks = bracket(self.known.iter().map(|((_, k), _)| *k).collect(), k);
        let mut corners = Vec::new();
        for &(cn, wn) in &ns {
            for &(ck, wk) in &ks {
                if wn * wk > 0.0 && self.exact(cn, ck).is_some() {
                    corners.push(((cn, ck), wn * wk));
                }
            }
        }
        if corners.is_empty() {
            let far = |shape: &(u32, u32)| log_distance(&[shape.0, shape.1], &[n, k]);
            let near = self.known.iter().map(|(shape, _)| *shape).min_by(|a, b| far(a).total_cmp(&far(b)));
            corners.extend(near.map(|shape| (shape, 1.0)));
        }
        corners
    }
}

/// Sum of the absolute logarithms of the ratios; numbers that must be equal to each other are 0 together.
pub(super) fn log_distance(a: &[u32], b: &[u32]) -> f64 {
    let one = |(a, b): (&u32, &u32)| libm::fabs(libm::log(f64::from(*a).max(0.5)) - libm::log(f64::from(*b).max(0.5)));
    a.iter().zip(b).map(one).sum()
}

/// Times in nanoseconds over a batch and a length, for some number of heads.
#[derive(Debug)]
pub(super) struct Heads {
    table: Table<Series>,
    /// The batch is multiplied by this to be looked up: as many heads in all.
    times: f64,
}

impl Heads {
    /// Of points with the batch at `[0]`, lengths at `length`, and heads at `heads`: the nearest to `wanted`. `work` says which
    /// of these heads the time grows with.
    pub(super) fn new(points: &[&Point], length: usize, heads: &[usize], wanted: &[u32], work: usize) -> Option<Heads> {
        let of = |p: &Point| -> Vec<u32> { heads.iter().map(|at| p.shape[*at]).collect() };
        let far = |p: &&&Point| log_distance(&of(p), wanted);
        let near = of(points.iter().min_by(|a, b| far(a).total_cmp(&far(b)))?);
        let mut chosen: Vec<(u32, u32, f64)> = points
            .iter()
            .filter(|p| of(p) == near)
            .map(|p| (p.shape[0], p.shape[length], p.latency_us * 1e3))
            .collect();
        // Of several implementations the fastest.
        chosen.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2)));
        chosen.dedup_by_key(|p| (p.0, p.1));
        let table =
            Table::new(chosen.chunk_by(|a, b| a.0 == b.0).filter_map(|row| {
                Some((f64::from(row[0].0), Series::new(row.iter().map(|p| (f64::from(p.1), p.2)))?))
            }))?;
        Some(Heads { table, times: f64::from(wanted[work]) / f64::from(near[work].max(1)) })
    }

    pub(super) fn at(&self, batch: f64, length: f64) -> super::Read {
        self.table.at((batch * self.times).max(1.0), |row| row.at(length))
    }
}
