//! Points that are new and obey the rules: what every random sampler returns.

use std::collections::HashSet;

use rand_pcg::Pcg64;
use serde_json::Value;

use super::{Space, Trial};
use crate::rng;

/// Random draws before a small space is searched from end to end. Enough to find, with 99 % certainty, what half a
/// per cent of the space consists of.
const DRAWS: u32 = 1000;
/// Random draws in a space too large for that.
const DRAWS_LARGE: u32 = 20_000;
/// The largest space that is searched from end to end.
const SMALL: u64 = 100_000;

/// Lets a point pass once, and only if it obeys the rules.
pub(super) struct Fresh<'a> {
    space: &'a Space,
    feasible: &'a dyn Fn(&[Value]) -> bool,
    /// Coordinates, bit for bit, of every point tried or about to be. Only asked for membership, never iterated.
    seen: HashSet<Vec<u64>>,
}

impl<'a> Fresh<'a> {
    pub fn new(space: &'a Space, history: &[Trial], feasible: &'a dyn Fn(&[Value]) -> bool) -> Self {
        // A trial that the space no longer has cannot be asked for again either.
        let seen = history.iter().filter_map(|t| space.encode(&t.params)).map(|point| bits(&point)).collect();
        Fresh { space, feasible, seen }
    }

    /// Whether the exact coordinates of a point were tried before.
    pub fn is_seen(&self, point: &[f64]) -> bool {
        self.seen.contains(&bits(point))
    }

    /// Takes the point nearest to the given coordinates, if it is new and obeys the rules.
    pub fn take(&mut self, point: &[f64]) -> Option<Vec<Value>> {
        self.take_values(self.space.decode(point))
    }

    fn take_values(&mut self, values: Vec<Value>) -> Option<Vec<Value>> {
        let key = bits(&self.space.encode(&values)?);
        if self.seen.contains(&key) || !(self.feasible)(&values) {
            return None;
        }
        self.seen.insert(key);
        Some(values)
    }

    /// A random new point that obeys the rules. `None` where there is none in a small space; in a large one, where
    /// tens of thousands of draws did not find any.
    pub fn random(&mut self, rng: &mut Pcg64) -> Option<Vec<Value>> {
        let small = self.space.points().filter(|&points| points <= SMALL);
        let draws = if small.is_some() { DRAWS } else { DRAWS_LARGE };
        for _ in 0..draws {
            let point: Vec<f64> = (0..self.space.dimensions()).map(|_| rng::uniform01(rng)).collect();
            if let Some(values) = self.take(&point) {
                return Some(values);
            }
        }
        let points = small?;
        let start = rng::below(rng, points);
        (0..points).find_map(|i| self.take_values(self.space.nth((start + i) % points)))
    }
}

fn bits(point: &[f64]) -> Vec<u64> {
    point.iter().map(|u| u.to_bits()).collect()
}
