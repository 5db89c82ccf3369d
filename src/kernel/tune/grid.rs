//! Exhaustive search: every point of the space, in order, the last parameter varying fastest.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::space::Parameter;
use super::{Sampler, Space, Trial};

/// Every point of the space that obeys the rules, once.
///
/// Lists of numbers are walked in ascending order, other lists as they are written.
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
        let Some(points) = self.points else {
            return space.clone();
        };
        let cut = |p: &Parameter| Parameter { path: p.path.clone(), domain: p.domain.discretized(points) };
        space.with(space.parameters().iter().map(cut).collect())
    }
}

impl Sampler for Grid {
    fn problems(&self, space: &Space) -> Vec<String> {
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

    fn ask(
        &self,
        space: &Space,
        history: &[Trial],
        batch: usize,
        _seed: u64,
        feasible: &dyn Fn(&[Value]) -> bool,
    ) -> Vec<Vec<Value>> {
        let grid = self.discretized(space);
        let points = grid.points();
        assert!(points.is_some(), "a grid was asked to walk a space that it has problems with");
        let done = history.iter().filter_map(|t| grid.index_of(&t.params)).max();
        let next = done.map_or(0, |last| last + 1);
        (next..points.unwrap_or(0)).map(|index| grid.nth(index)).filter(|values| feasible(values)).take(batch).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::Domain;
    use crate::tune::testbed::{check_resumes, mixed, run, small};
    use serde_json::json;

    #[test]
    fn every_legal_point_comes_once_and_in_order() {
        let problem = small();
        let expect: Vec<Vec<Value>> = (0..60).map(|i| problem.space.nth(i)).filter(|v| (problem.rule)(v)).collect();
        assert_eq!(expect.len(), 48);
        for batch in [1, 7, 100] {
            let trials = run(&Grid::default(), &problem, 1000, batch, 0);
            let got: Vec<Vec<Value>> = trials.into_iter().map(|t| t.params).collect();
            assert_eq!(got, expect, "batch {batch}");
        }
        check_resumes(&Grid::default(), &problem);
    }

    #[test]
    fn continuous_parameters_need_points() {
        let space = Space::new(vec![
            Parameter { path: "x".into(), domain: Domain::float(0.0, 1.0, false, None).unwrap() },
            Parameter { path: "y".into(), domain: Domain::float(1.0, 100.0, true, None).unwrap() },
        ])
        .unwrap();
        assert_eq!(Grid::default().problems(&space).len(), 2);
        assert_eq!(Grid { points: Some(1) }.problems(&space).len(), 1);
        let grid = Grid { points: Some(3) };
        assert!(grid.problems(&space).is_empty());
        let all = grid.ask(&space, &[], 100, 0, &|_: &[Value]| true);
        assert_eq!(all.len(), 9);
        assert_eq!((&all[1], &all[8]), (&vec![json!(0.0), json!(10.0)], &vec![json!(1.0), json!(100.0)]));
        let huge = Domain::int(0, 1 << 40, false, None).unwrap();
        let huge = ["a", "b"].map(|path| Parameter { path: path.into(), domain: huge.clone() });
        assert_eq!(Grid::default().problems(&Space::new(huge.to_vec()).unwrap()).len(), 1);
        assert!(!Grid::default().problems(&mixed().space).is_empty());
    }
}
