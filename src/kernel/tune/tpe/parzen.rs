//! A mixture of kernels over some parameters: one kernel around each of some trials, and a wide one around everything.
//!
//! A kernel is a product over parameters: a truncated normal along numbers, for stepped ones integrated over the
//! interval of each level; one value more likely than the others along names; and, for parameters that may be absent,
//! being so or not as two names. A trial that lacks a parameter knows nothing about its number.
//!
//! Stepped parameters of few levels have tables of logarithms, by level and by the kernels that differ, so a density
//! costs an addition per kernel and parameter, and one exponential per kernel.

use rand_pcg::Pcg64;

use crate::rng;
use crate::tune::domain::ABSENT;
use crate::tune::{Domain, Space};

/// Domains with more levels than this are taken as continuous.
const TABLE: u64 = 64;
/// Probabilities below count as this much.
const LEAST: f64 = 1e-300;

/// Where a candidate is along one parameter.
#[derive(Clone, Copy)]
enum At {
    Absent,
    Level(usize),
    Place(f64),
}

/// A mixture. The last of its kernels is the wide one.
pub(super) struct Parzen {
    /// Sum 1.
    weights: Vec<f64>,
    log_weights: Vec<f64>,
    columns: Vec<Column>,
}

/// One parameter of all kernels.
struct Column {
    parameter: usize,
    presence: Option<Presence>,
    shape: Shape,
}

/// Which kernels lack the parameter, and what it is worth to agree with them on that.
struct Presence {
    absent: Vec<bool>,
    same: f64,
    ln_same: f64,
    ln_other: f64,
}

enum Shape {
    Nominal {
        /// The level of every kernel; the number of levels for those that know none.
        at: Vec<u32>,
        levels: usize,
        hit: f64,
        ln_hit: f64,
        ln_miss: f64,
        ln_any: f64,
    },
    Levels {
        /// The normal of every kernel.
        at: Vec<u16>,
        normals: Vec<Normal>,
        /// Logarithms of probabilities: all normals for the first level, then for the next.
        table: Vec<f64>,
    },
    Line {
        normals: Vec<Normal>,
        inverse: Vec<f64>,
        /// Logarithm of the density at the mean.
        peak: Vec<f64>,
    },
}

/// A normal distribution within 0 and 1.
#[derive(Clone, Copy, PartialEq)]
struct Normal {
    mean: f64,
    width: f64,
    /// Its distribution function before truncation, at 0 and 1.
    low: f64,
    high: f64,
}

impl Normal {
    fn new(mean: f64, width: f64) -> Normal {
        Normal { mean, width, low: cumulative((0.0 - mean) / width), high: cumulative((1.0 - mean) / width) }
    }

    /// The one that says little.
    fn wide() -> Normal {
        Normal::new(0.5, 1.0)
    }

    fn sample(&self, rng: &mut Pcg64) -> f64 {
        let p = self.low + rng::uniform01(rng) * (self.high - self.low);
        let p = p.clamp(1e-300, 1.0 - 1e-16);
        (self.mean + self.width * rng::normal_quantile(p)).clamp(0.0, 1.0)
    }
}

fn cumulative(z: f64) -> f64 {
    0.5 * libm::erfc(-z * std::f64::consts::FRAC_1_SQRT_2)
}

impl Parzen {
    /// Kernels around `points` (canonical places), over some parameters of the space. `weights` are those of the
    /// points; the wide kernel has the weight 1.
    pub fn new(space: &Space, parameters: &[usize], points: &[&[f64]], mut weights: Vec<f64>) -> Parzen {
        weights.push(1.0);
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= sum);
        let column = |&parameter: &usize| {
            let places: Vec<f64> = points.iter().map(|p| p[parameter]).collect();
            Column::new(space, parameter, &places)
        };
        Parzen {
            log_weights: weights.iter().map(|w| libm::log(*w)).collect(),
            columns: parameters.iter().map(column).collect(),
            weights,
        }
    }

    /// A draw from the mixture: the places of its parameters, in their order.
    pub fn sample(&self, space: &Space, rng: &mut Pcg64) -> Vec<f64> {
        let mut u = rng::uniform01(rng);
        let mut kernel = self.weights.len() - 1;
        for (i, weight) in self.weights.iter().enumerate() {
            if u < *weight {
                kernel = i;
                break;
            }
            u -= weight;
        }
        self.columns.iter().map(|column| column.sample(space, kernel, rng)).collect()
    }

    /// The logarithm of the density at canonical places of the space. `buffer` is room to calculate in.
    pub fn log_density(&self, space: &Space, places: &[f64], buffer: &mut Vec<f64>) -> f64 {
        buffer.clear();
        buffer.extend_from_slice(&self.log_weights);
        for column in &self.columns {
            column.add(space.domain(column.parameter), places[column.parameter], buffer);
        }
        let most = buffer.iter().fold(f64::NEG_INFINITY, |a, b| if *b > a { *b } else { a });
        most + libm::log(buffer.iter().map(|x| exp_negative(x - most)).sum())
    }
}

impl Column {
    fn new(space: &Space, parameter: usize, places: &[f64]) -> Column {
        let domain = space.domain(parameter);
        let kernels = (places.len() + 1) as f64;
        let presence = space.may_be_absent(parameter).then(|| {
            let (same, other) = ((1.0 / kernels + 1.0) / (2.0 / kernels + 1.0), 1.0 / kernels / (2.0 / kernels + 1.0));
            let absent = places.iter().map(|p| *p == ABSENT).collect();
            Presence { absent, same, ln_same: libm::log(same), ln_other: libm::log(other) }
        });
        let shape = if domain.is_nominal() {
            let levels = domain.set_levels().unwrap_or(1) as usize;
            let level = |p: &f64| if *p == ABSENT { levels as u32 } else { domain.level_at(*p) as u32 };
            let base = 1.0 / kernels;
            let total = base * levels as f64 + 1.0;
            Shape::Nominal {
                at: places.iter().map(level).collect(),
                levels,
                hit: (base + 1.0) / total,
                ln_hit: libm::log((base + 1.0) / total),
                ln_miss: libm::log(base / total),
                ln_any: -libm::log(levels as f64),
            }
        } else {
            Shape::of_numbers(domain, places, &widths(places))
        };
        Column { parameter, presence, shape }
    }

    fn sample(&self, space: &Space, kernel: usize, rng: &mut Pcg64) -> f64 {
        let domain = space.domain(self.parameter);
        if let Some(presence) = &self.presence {
            let same = rng::uniform01(rng) < presence.same;
            // The wide kernel lacks it as often as not.
            let absent = presence.absent.get(kernel).copied().unwrap_or_else(|| rng::below(rng, 2) == 0);
            if same == absent {
                return ABSENT;
            }
        }
        match &self.shape {
            Shape::Nominal { at, levels, hit, .. } => {
                let level = at.get(kernel).map_or(*levels, |l| *l as usize);
                if level == *levels {
                    return domain.place_at(rng::below(rng, *levels as u64));
                }
                if *levels == 1 || rng::uniform01(rng) < *hit {
                    return domain.place_at(level as u64);
                }
                let other = rng::below(rng, *levels as u64 - 1);
                domain.place_at(if other >= level as u64 { other + 1 } else { other })
            }
            Shape::Levels { at, normals, .. } => normals[at[kernel] as usize].sample(rng),
            Shape::Line { normals, .. } => normals[kernel].sample(rng),
        }
    }

    /// Adds the logarithms of all kernels at a place.
    fn add(&self, domain: &Domain, place: f64, sums: &mut [f64]) {
        let at = match &self.shape {
            _ if place == ABSENT => At::Absent,
            Shape::Nominal { .. } | Shape::Levels { .. } => At::Level(domain.level_at(place) as usize),
            Shape::Line { .. } => At::Place(place),
        };
        if let Some(presence) = &self.presence {
            let absent = matches!(at, At::Absent);
            for (sum, a) in sums.iter_mut().zip(&presence.absent) {
                *sum += if *a == absent { presence.ln_same } else { presence.ln_other };
            }
            if let Some(wide) = sums.last_mut() {
                *wide -= std::f64::consts::LN_2;
            }
        }
        match (&self.shape, at) {
            (_, At::Absent) => {}
            (Shape::Nominal { at, levels, ln_hit, ln_miss, ln_any, .. }, At::Level(level)) => {
                for (sum, l) in sums.iter_mut().zip(at) {
                    let unknown = *l as usize == *levels;
                    *sum += if *l as usize == level {
                        *ln_hit
                    } else if unknown {
                        *ln_any
                    } else {
                        *ln_miss
                    };
                }
                if let Some(wide) = sums.last_mut() {
                    *wide += ln_any;
                }
            }
            (Shape::Levels { at, normals, table }, At::Level(level)) => {
                let row = &table[level * normals.len()..(level + 1) * normals.len()];
                for (sum, normal) in sums.iter_mut().zip(at) {
                    *sum += row[*normal as usize];
                }
            }
            (Shape::Line { normals, inverse, peak }, At::Place(place)) => {
                for (((sum, normal), inverse), peak) in sums.iter_mut().zip(normals).zip(inverse).zip(peak) {
                    let z = (place - normal.mean) * inverse;
                    *sum += peak - 0.5 * z * z;
                }
            }
            (Shape::Nominal { .. } | Shape::Levels { .. }, At::Place(_)) | (Shape::Line { .. }, At::Level(_)) => {}
        }
    }
}

impl Shape {
    /// Kernels along numbers; `widths` has one entry per place.
    fn of_numbers(domain: &Domain, places: &[f64], widths: &[f64]) -> Shape {
        let Some(levels) = domain.set_levels().filter(|&n| n <= TABLE) else {
            let normal = |(p, w): (&f64, &f64)| if *p == ABSENT { Normal::wide() } else { Normal::new(*p, *w) };
            let mut normals: Vec<Normal> = places.iter().zip(widths).map(normal).collect();
            normals.push(Normal::wide());
            let ln_root = 0.5 * libm::log(2.0 * std::f64::consts::PI);
            return Shape::Line {
                inverse: normals.iter().map(|n| 1.0 / n.width).collect(),
                peak: normals.iter().map(|n| -ln_root - libm::log(n.width * (n.high - n.low).max(LEAST))).collect(),
                normals,
            };
        };
        // Few of the normals differ: as many as levels times neighbours.
        let mut kinds: Vec<(f64, f64)> = Vec::new();
        let mut kind = |mean: f64, width: f64| {
            let known = kinds.iter().position(|k| *k == (mean, width));
            known.unwrap_or_else(|| {
                kinds.push((mean, width));
                kinds.len() - 1
            }) as u16
        };
        let wide = kind(0.5, 1.0);
        let of = |(p, w): (&f64, &f64)| if *p == ABSENT { wide } else { kind(*p, *w) };
        let mut at: Vec<u16> = places.iter().zip(widths).map(of).collect();
        at.push(wide);
        let normals: Vec<Normal> = kinds.iter().map(|(mean, width)| Normal::new(*mean, *width)).collect();
        let edges: Vec<f64> = (0..=levels).map(|k| domain.edge(k)).collect();
        let mut table = vec![0.0; levels as usize * normals.len()];
        for (i, n) in normals.iter().enumerate() {
            let share = 1.0 / (n.high - n.low).max(LEAST);
            let mut before = n.low;
            for (k, edge) in edges.iter().skip(1).enumerate() {
                let after = cumulative((edge - n.mean) / n.width);
                table[k * normals.len() + i] = libm::log(((after - before) * share).max(LEAST));
                before = after;
            }
        }
        Shape::Levels { at, normals, table }
    }
}

/// The width of a kernel for each of some places: as far as the farther one of its neighbours; at an end, as its only
/// one. Not above the width of the domain, nor below a hundredth, or more where there are few kernels. Of no use where
/// a place is absent.
fn widths(places: &[f64]) -> Vec<f64> {
    let least = 1.0 / (2.0 + places.len() as f64).min(100.0);
    let mut order: Vec<usize> = (0..places.len()).filter(|&i| places[i] != ABSENT).collect();
    order.sort_by(|&a, &b| places[a].total_cmp(&places[b]));
    let mut widths = vec![1.0; places.len()];
    let last = order.len().saturating_sub(1);
    for (k, &i) in order.iter().enumerate() {
        let below = if k == 0 { 0.0 } else { places[order[k - 1]] };
        let above = if k == last { 1.0 } else { places[order[k + 1]] };
        let width = match (k == 0, k == last) {
            (true, false) => above - places[i],
            (false, true) => places[i] - below,
            (true, true) | (false, false) => (places[i] - below).max(above - places[i]),
        };
        widths[i] = width.clamp(least, 1.0);
    }
    widths
}

/// `exp` of a number that is not above zero, to about 1e-13 relative; 0 below -60.
///
/// Multiplications and additions only, so that the loop over kernels runs in vectors, with the same bits everywhere.
fn exp_negative(x: f64) -> f64 {
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    const LN2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let x = if x > -60.0 { x } else { -60.0 };
    // Adding 3 * 2^51 rounds to an integer, which then stands in the low bits.
    let shifted = x * std::f64::consts::LOG2_E + SHIFT;
    let k = shifted - SHIFT;
    let r = (x - k * LN2_HIGH) - k * LN2_LOW;
    let mut sum = 1.0 / 39_916_800.0;
    for c in [
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        sum = sum * r + c;
    }
    let scale = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    if x > -60.0 { sum * scale } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::Parameter;
    use serde_json::json;

    #[test]
    fn exponentials_are_those_of_the_library() {
        for i in 0..60_000 {
            let x = -f64::from(i) / 1000.0;
            let (got, expect) = (exp_negative(x), libm::exp(x));
            assert!((got - expect).abs() <= 2e-13 * expect, "{x}: {got} {expect}");
        }
        assert_eq!((exp_negative(-61.0), exp_negative(f64::NEG_INFINITY)), (0.0, 0.0));
    }

    fn space() -> Space {
        Space::new(vec![
            Parameter::new("name", Domain::list(vec![json!("a"), json!("b"), json!("c")]).unwrap()),
            Parameter::new("tp", Domain::list(vec![json!(null), json!(1), json!(2), json!(4)]).unwrap()),
            Parameter::new("n", Domain::int(1, 6, true, None).unwrap()).when("name", vec![json!("b"), json!("c")]),
        ])
        .unwrap()
    }

    #[test]
    fn densities_over_levels_sum_to_one_and_are_those_of_the_samples() {
        let space = space();
        let mut rng = rng::stream(1, "parzen");
        let points: Vec<Vec<f64>> = (0..12).map(|_| space.random(&mut rng)).collect();
        let refs: Vec<&[f64]> = points.iter().map(Vec::as_slice).collect();
        let mut buffer = Vec::new();
        for j in 0..3 {
            let parzen = Parzen::new(&space, &[j], &refs, vec![1.0; 12]);
            let domain = space.domain(j);
            let mut all: Vec<f64> = (0..domain.set_levels().unwrap()).map(|k| domain.place_at(k)).collect();
            if space.may_be_absent(j) {
                all.push(ABSENT);
            }
            let mut density = |place: f64| {
                let mut places = [0.5; 3];
                places[j] = place;
                libm::exp(parzen.log_density(&space, &places, &mut buffer))
            };
            let densities: Vec<f64> = all.iter().map(|&p| density(p)).collect();
            assert!((densities.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{j}: {densities:?}");
            let draws = 40_000;
            let mut counts = vec![0u32; all.len()];
            for _ in 0..draws {
                let place = parzen.sample(&space, &mut rng)[0];
                let place = if place == ABSENT { ABSENT } else { domain.snap(place) };
                counts[all.iter().position(|p| *p == place).unwrap()] += 1;
            }
            for (count, density) in counts.iter().zip(&densities) {
                let error = (f64::from(*count) / f64::from(draws) - density).abs();
                assert!(error < 4.0 * libm::sqrt(density / f64::from(draws)) + 1e-9, "{j}: {counts:?} {densities:?}");
            }
        }
    }

    #[test]
    fn the_density_of_numbers_integrates_to_one() {
        let space = Space::new(vec![Parameter::new("x", Domain::float(2.0, 3.0, false, None).unwrap())]).unwrap();
        let points = [[0.1], [0.13], [0.9]];
        let refs: Vec<&[f64]> = points.iter().map(|p| p.as_slice()).collect();
        let parzen = Parzen::new(&space, &[0], &refs, vec![1.0; 3]);
        let mut buffer = Vec::new();
        let n = 20_000;
        let sum: f64 = (0..n)
            .map(|i| libm::exp(parzen.log_density(&space, &[(f64::from(i) + 0.5) / f64::from(n)], &mut buffer)))
            .sum();
        assert!((sum / f64::from(n) - 1.0).abs() < 1e-6, "{sum}");
    }
}
