//! Exhaustive search: every point of the space, in order, the last parameter varying fastest.

use std::collections::VecDeque;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Space;
use super::history::Seen;
use super::rules::Judge;

/// Points that rules are asked about at once.
const CHUNK: usize = 256;

/// Every point of the space that obeys the rules, once.
///
/// Lists of numbers are walked in ascending order, other lists as they are written; what is not set comes first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    /// Number of values, ends included, for each continuous parameter without a step; at least 2. Default: such
    /// parameters are an error.
    #[serde(default)]
    pub points: Option<u32>,
}

impl Grid {
    /// The space with every continuous parameter cut into `points` values.
    fn discretized(&self, space: &Space) -> Space {
        let cut = |points: u32| space.with_domains(|domain| domain.discretized(points)).ok();
        self.points.and_then(cut).unwrap_or_else(|| space.clone())
    }

    /// Why a space has no grid, in words for the user.
    pub(super) fn problems(&self, space: &Space) -> Vec<String> {
        let mut problems = Vec::new();
        if self.points.is_some_and(|points| points < 2) {
            problems.push("`points` of the grid must be at least 2".to_owned());
        }
        let grid = self.discretized(space);
        for parameter in grid.parameters() {
            if parameter.domain.levels().is_none() {
                problems.push(format!(
                    "{} is continuous: a grid needs a `step` for it, or `points` for all such parameters",
                    parameter.path
                ));
            }
        }
        if problems.is_empty() && grid.points().is_none() {
            problems.push("the grid has more than 2^64 points".to_owned());
        }
        problems
    }
}

/// A walk through a grid. Where it stands follows from the points that were tried, so it needs no other memory.
pub(super) struct Walk {
    grid: Space,
    points: u64,
    /// The first point that rules were not asked about yet.
    at: u64,
    /// Legal points before that one.
    ahead: VecDeque<Vec<f64>>,
}

impl Walk {
    /// `space` must have a grid.
    pub fn new(grid: &Grid, space: &Space) -> Walk {
        let grid = grid.discretized(space);
        let points = grid.points();
        assert!(points.is_some(), "a grid was asked to walk a space that it has problems with");
        Walk { grid, points: points.unwrap_or(0), at: 0, ahead: VecDeque::new() }
    }

    /// The next point that is new and legal, as canonical places of `space`.
    pub fn next(&mut self, space: &Space, seen: &Seen, judge: &mut Judge) -> Option<Vec<f64>> {
        loop {
            while let Some(places) = self.ahead.pop_front() {
                if !seen.contains(&places) {
                    return Some(places);
                }
            }
            if self.at == self.points {
                return None;
            }
            let mut asked: Vec<Vec<f64>> = Vec::new();
            while self.at < self.points && asked.len() < CHUNK {
                let places = space.places(&self.grid.values(&self.grid.nth(self.at)));
                asked.extend(places.filter(|p| !seen.contains(p)));
                self.at += 1;
            }
            let masks = judge.broken(&asked.iter().map(Vec::as_slice).collect::<Vec<_>>());
            self.ahead.extend(asked.into_iter().zip(masks).filter(|(_, mask)| *mask == 0).map(|(places, _)| places));
        }
    }
}
