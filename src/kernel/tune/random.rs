//! Samplers that learn nothing: uniform random points, the baseline that every other sampler has to beat, and a
//! scrambled Sobol sequence, whose points keep out of each other's way.

use rand_pcg::Pcg64;

use super::Space;
use super::sampler::{Draft, Origin, Sampler, View};
use crate::rng;

/// Every point equally likely, none twice.
pub(super) struct Random;

impl Sampler for Random {
    fn prepare(&mut self, _view: &View, _number: u64) -> bool {
        true
    }

    fn propose(&mut self, view: &View, _number: u64, rng: &mut Pcg64) -> Draft {
        Draft { points: vec![view.space.random(rng)], origin: Origin::Random, parents: Vec::new() }
    }

    fn redraws(&self) -> u32 {
        20
    }
}

/// Sobol's sequence with Owen's scrambling (Burley 2020, "Practical hash-based Owen scrambling"): trial `n` is its
/// point `n`.
///
/// Points of a power of two fill every box of that many equal ones. The sequence has 65,536 points of 256 coordinates;
/// after those comes another scrambling of it, and further coordinates are another scrambling too.
pub(super) struct Sobol;

/// Points of one sequence.
const LENGTH: u64 = 1 << 16;
/// Coordinates of one sequence.
const WIDTH: u32 = sobol_burley::NUM_DIMENSIONS;

impl Sobol {
    /// Point `number` of the sequence of a seed, as places.
    pub fn point(space: &Space, seed: u64, number: u64, rng: &mut Pcg64) -> Vec<f64> {
        let dimensions = space.dimensions() as u32;
        let coordinate = |j: u32| {
            let round = (number / LENGTH) << 8 | u64::from(j / WIDTH);
            let scramble = rng::mix64(seed ^ rng::mix64(round ^ 0x50B0_1D1A)) as u32;
            // Its numbers have 24 bits; chance says where within their interval.
            let u = f64::from(sobol_burley::sample((number % LENGTH) as u32, j % WIDTH, scramble));
            u + rng::uniform01(rng) / f64::from(1u32 << 24)
        };
        let coordinates: Vec<f64> = (0..dimensions).map(coordinate).collect();
        coordinates.iter().enumerate().map(|(j, &u)| space.domain(j).place(u)).collect()
    }
}

impl Sampler for Sobol {
    fn prepare(&mut self, _view: &View, _number: u64) -> bool {
        true
    }

    fn propose(&mut self, view: &View, number: u64, rng: &mut Pcg64) -> Draft {
        let points = vec![Sobol::point(view.space, view.seed, number, rng)];
        Draft { points, origin: Origin::Sobol, parents: Vec::new() }
    }

    /// The next point belongs to the next trial.
    fn redraws(&self) -> u32 {
        0
    }
}
