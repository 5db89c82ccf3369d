//! Whole steps that were measured, by their shape: the nearest one, or what the nearest ones come to.
//!
//! The distance of two shapes is that of the logarithms of (1 + each number): new tokens of prompts, prompts, requests that
//! decode and sums of contexts, of which the numbers of tokens and requests count twice. What is not the very shape is scaled
//! by the ratio of the simple rooflines of both shapes: a step with more context than the nearest one takes longer.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Making;
use crate::profile::{Operator, Profile};
use crate::scenario::{Deployment, GpuSpec, ModelSpec};
use crate::sim::WorkSums;
use crate::sim::latency::simple_roofline::SimpleRoofline;
use crate::sim::latency::work::Work;
use crate::sim::latency::{BatchShape, LatencyModel, ns};
use crate::units::SimDuration;

/// Neighbours that an interpolated step is made of.
const NEIGHBOURS: usize = 4;

/// A measured step.
struct Known {
    at: [f64; AXES],
    /// Where it stands among all, in the order of the profile: of equal distances, the first is nearer.
    order: u32,
    /// Along which axis it splits its span; of those that are not in the middle of one, 0.
    axis: u8,
    /// Measured, and as a multiple of the roofline of its shape.
    ns: f64,
    ratio: f64,
}

/// Prompt tokens, prompts, requests that decode, context of prompts, context of requests that decode.
const AXES: usize = 5;
/// How much a distance along each axis counts: powers of two, so that numbers can be multiplied before their difference
/// is taken.
const WEIGHTS: [f64; AXES] = [2.0, 1.0, 2.0, 0.5, 1.0];

/// Spans of so many steps are looked at one by one.
const LEAF: usize = 8;
/// A part of the space is left out if it is so many times farther away than what was found: more than distances, summed up
/// in another order, can be off.
const FARTHER: f64 = 1.0 + 1e-9;

/// Steps by their shape, as a k-d tree: the middle of a span splits it along the axis on which it is widest. What is found
/// does not depend on how the tree is made.
pub(in crate::sim::latency) struct Scatter {
    known: Vec<Known>,
    /// Of each axis, the greatest that was measured.
    most: [f64; AXES],
    neighbours: usize,
    scale: f64,
    step_ns: f64,
    roofline: SimpleRoofline,
    outside: AtomicU64,
}

/// Steps of any kind.
pub(super) fn model(making: Making<'_>) -> Result<Scatter, Vec<String>> {
    let Making { settings, d, m, g, profile } = making;
    let step_ns = (settings.step_us + settings.layer_us * f64::from(m.layers)) * 1e3;
    Scatter::new(profile, d, m, g, NEIGHBOURS, settings.scale, step_ns)
}

fn place(s: &BatchShape) -> [f64; AXES] {
    let numbers = [s.prefill_tokens, s.prefill_requests, s.decode_requests, s.prefill_context, s.decode_context];
    std::array::from_fn(|axis| if numbers[axis] == 0 { 0.0 } else { libm::log1p(numbers[axis] as f64) * WEIGHTS[axis] })
}

impl Scatter {
    pub(in crate::sim::latency) fn new(
        profile: &Profile,
        d: &Deployment,
        m: &ModelSpec,
        g: &GpuSpec,
        neighbours: usize,
        scale: f64,
        step_ns: f64,
    ) -> Result<Scatter, Vec<String>> {
        let points = profile.of(Operator::Step);
        let roofline = SimpleRoofline::new(d, m, g);
        let fitting = points.iter().filter(|p| p.shape[5] == 0 || p.shape[5] == d.tp);
        let mut known: Vec<Known> = fitting
            .zip(0..)
            .map(|(p, order)| {
                let shape = BatchShape::of_step(&p.shape);
                let ns = p.latency_us * 1e3;
                Known { at: place(&shape), order, axis: 0, ns, ratio: ns / (roofline.step(&shape).0 as f64).max(1.0) }
            })
            .collect();
        if known.is_empty() {
            let mut tps: Vec<u32> = points.iter().map(|p| p.shape[5]).collect();
            tps.sort_unstable();
            tps.dedup();
            let tps: Vec<String> = tps.iter().map(u32::to_string).collect();
            let have =
                if tps.is_empty() { "no steps at all".to_string() } else { format!("steps at tp {}", tps.join(", ")) };
            return Err(vec![format!("it has no steps at tp {}; it has {have}", d.tp)]);
        }
        arrange(&mut known);
        let mut most = [0.0; AXES];
        for k in &known {
            (0..AXES).for_each(|i| most[i] = f64::max(most[i], k.at[i]));
        }
        Ok(Scatter { known, most, neighbours, scale, step_ns, roofline, outside: AtomicU64::new(0) })
    }

    /// The nearest steps, nearest first.
    fn nearest(&self, at: &[f64; AXES]) -> Best {
        let mut best = Best { found: [Found::NONE; NEIGHBOURS], count: self.neighbours };
        self.search(at, (0, self.known.len()), (0.0, &mut [0.0; AXES]), &mut best);
        best
    }

    /// Looks through a span, all of which is at least `far` away: by `off` along each axis.
    fn search(&self, at: &[f64; AXES], (from, to): (usize, usize), space: (f64, &mut [f64; AXES]), best: &mut Best) {
        if to - from <= LEAF {
            return (from..to).for_each(|i| best.look(at, i, &self.known[i]));
        }
        let (far, off) = space;
        let middle = usize::midpoint(from, to);
        let known = &self.known[middle];
        best.look(at, middle, known);
        let axis = usize::from(known.axis);
        let split = at[axis] - known.at[axis];
        let (below, above) = ((from, middle), (middle + 1, to));
        let (near, other) = if split < 0.0 { (below, above) } else { (above, below) };
        self.search(at, near, (far, off), best);
        // On the other side, it is farther along this axis.
        let beyond = far - off[axis] * off[axis] + split * split;
        if beyond <= best.worst() * FARTHER {
            let before = std::mem::replace(&mut off[axis], split);
            self.search(at, other, (beyond, off), best);
            off[axis] = before;
        }
    }
}

/// A step that is near.
#[derive(Clone, Copy)]
struct Found {
    /// The squared distance.
    far: f64,
    order: u32,
    /// Its number.
    at: usize,
}

impl Found {
    const NONE: Found = Found { far: f64::INFINITY, order: u32::MAX, at: 0 };
}

/// The nearest so far, nearest first.
struct Best {
    found: [Found; NEIGHBOURS],
    count: usize,
}

impl Best {
    fn worst(&self) -> f64 {
        self.found[self.count - 1].far
    }

    #[inline]
    fn look(&mut self, at: &[f64; AXES], i: usize, known: &Known) {
        let along = |axis: usize| at[axis] - known.at[axis];
        let far: f64 = (0..AXES).map(|axis| along(axis) * along(axis)).sum();
        let nearer = |than: &Found| far < than.far || (far == than.far && known.order < than.order);
        let mut place = self.count - 1;
        if !nearer(&self.found[place]) {
            return;
        }
        while place > 0 && nearer(&self.found[place - 1]) {
            self.found[place] = self.found[place - 1];
            place -= 1;
        }
        self.found[place] = Found { far, order: known.order, at: i };
    }
}

fn arrange(known: &mut [Known]) {
    if known.len() <= LEAF {
        return;
    }
    let width = |axis: usize| {
        let of_axis = || known.iter().map(|k| k.at[axis]);
        of_axis().fold(f64::NEG_INFINITY, f64::max) - of_axis().fold(f64::INFINITY, f64::min)
    };
    let axis = (1..AXES).fold((0, width(0)), |(widest, most), axis| {
        let width = width(axis);
        if width > most { (axis, width) } else { (widest, most) }
    });
    let (middle, axis) = (known.len() / 2, axis.0);
    known.select_nth_unstable_by(middle, |a, b| a.at[axis].total_cmp(&b.at[axis]));
    known[middle].axis = axis as u8;
    let (below, above) = known.split_at_mut(middle);
    arrange(below);
    arrange(&mut above[1..]);
}

impl LatencyModel for Scatter {
    fn step(&self, s: &BatchShape) -> SimDuration {
        let at = place(s);
        if (0..AXES).any(|i| at[i] > self.most[i]) {
            self.outside.fetch_add(1, Ordering::Relaxed);
        }
        let best = self.nearest(&at).found;
        let first = &self.known[best[0].at];
        let found = if best[0].far == 0.0 {
            first.ns
        } else {
            let (mut sum, mut weights) = (0.0, 0.0);
            for found in best.iter().take_while(|found| found.far.is_finite()) {
                sum += self.known[found.at].ratio / found.far;
                weights += 1.0 / found.far;
            }
            sum / weights * self.roofline.step(s).0 as f64
        };
        SimDuration(ns((found + self.step_ns) * self.scale))
    }

    fn work(&self, sums: &WorkSums) -> Option<Work> {
        self.roofline.work(sums)
    }

    fn peak(&self) -> Option<Work> {
        self.roofline.peak()
    }

    fn extrapolated(&self) -> u64 {
        self.outside.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
impl Scatter {
    /// Which steps are nearest, by their place in the profile.
    pub(super) fn nearest_orders(&self, s: &BatchShape) -> Vec<u32> {
        self.nearest(&place(s)).found[..self.neighbours].iter().map(|found| found.order).collect()
    }

    /// The same, from looking at all.
    pub(super) fn nearest_of_all(&self, s: &BatchShape) -> Vec<u32> {
        let at = place(s);
        let far = |k: &Known| (0..AXES).map(|axis| (at[axis] - k.at[axis]) * (at[axis] - k.at[axis])).sum::<f64>();
        let mut all: Vec<(f64, u32)> = self.known.iter().map(|k| (far(k), k.order)).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        all.into_iter().take(self.neighbours).map(|(_, order)| order).collect()
    }
}
