//! Uniform random search: the baseline that every other sampler has to beat.

use serde_json::Value;

use super::fresh::Fresh;
use super::{Sampler, Space, Trial};
use crate::rng;

/// Every point equally likely, none twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Random;

impl Sampler for Random {
    fn problems(&self, _space: &Space) -> Vec<String> {
        Vec::new()
    }

    fn ask(
        &self,
        space: &Space,
        history: &[Trial],
        batch: usize,
        seed: u64,
        feasible: &dyn Fn(&[Value]) -> bool,
    ) -> Vec<Vec<Value>> {
        let mut fresh = Fresh::new(space, history, feasible);
        (history.len()..history.len().saturating_add(batch))
            .map_while(|number| fresh.random(&mut rng::stream(seed, &format!("tune/random/{number}"))))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::testbed::{check_resumes, mixed, run, small};

    #[test]
    fn resuming_and_batching_change_nothing() {
        check_resumes(&Random, &mixed());
        check_resumes(&Random, &small());
    }

    #[test]
    fn a_small_space_is_exhausted_without_repeats() {
        // 60 points, of which the rule forbids 12.
        let problem = small();
        for batch in [1, 7, 100] {
            let trials = run(&Random, &problem, 200, batch, 5);
            let mut points: Vec<String> = trials.iter().map(|t| format!("{:?}", t.params)).collect();
            points.sort();
            points.dedup();
            assert_eq!((trials.len(), points.len()), (48, 48), "batch {batch}");
        }
    }

    #[test]
    fn every_value_gets_its_share() {
        let problem = small();
        let trials: Vec<Vec<Value>> =
            (0..600).flat_map(|seed| Random.ask(&problem.space, &[], 1, seed, &|_: &[Value]| true)).collect();
        for value in ["a", "b", "c"] {
            let count = trials.iter().filter(|t| t[0] == value).count();
            assert!((150..250).contains(&count), "{value}: {count} of 600");
        }
    }
}
