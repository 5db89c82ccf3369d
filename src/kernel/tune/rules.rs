//! Rules that values must obey before anything is simulated.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Space;
use super::history::{Mixed, Seen};

/// Rules on the values of parameters, asked about many points at once: they may be queries.
pub trait Rules {
    /// The rules that each point breaks: bit `i` for rule `i`; 0 where it is legal. One mask per point. The answer
    /// depends on the point alone.
    fn broken(&self, points: &[Vec<Value>]) -> Vec<u64>;

    /// The parameters, as positions in the space, that a rule looks at; `None` where that is not known, and any might
    /// matter.
    fn parameters_of(&self, _rule: usize) -> Option<Vec<usize>> {
        None
    }

    /// There are none: nothing has to be asked.
    fn is_empty(&self) -> bool {
        false
    }
}

/// Every point is legal.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRules;

impl Rules for NoRules {
    fn broken(&self, points: &[Vec<Value>]) -> Vec<u64> {
        vec![0; points.len()]
    }

    fn is_empty(&self) -> bool {
        true
    }
}

/// One rule: this function says yes. It is not known which parameters it looks at.
pub struct Allowed<F>(pub F);

impl<F: Fn(&[Value]) -> bool> Rules for Allowed<F> {
    fn broken(&self, points: &[Vec<Value>]) -> Vec<u64> {
        points.iter().map(|p| u64::from(!(self.0)(p))).collect()
    }
}

/// What happens to a suggestion that breaks a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnViolation {
    /// It becomes the nearest legal point: fewest parameters changed, then fewest steps.
    #[default]
    Repair,
    /// The sampler draws again, until a point is legal.
    Resample,
    /// It is a trial that is not run; all such trials count alike.
    Prune,
    /// It is a trial that is not run; the number of rules that it breaks tells the sampler how wrong it is.
    Constrain,
}

/// Rules that remember what they said, for the time of one question to a study.
pub(super) struct Judge<'a> {
    space: &'a Space,
    rules: &'a dyn Rules,
    said: HashMap<u128, u64, Mixed>,
}

impl<'a> Judge<'a> {
    pub fn new(space: &'a Space, rules: &'a dyn Rules) -> Judge<'a> {
        Judge { space, rules, said: HashMap::default() }
    }

    /// The rules that some points break, given as canonical places. What is not known yet is asked at once.
    pub fn broken(&mut self, points: &[&[f64]]) -> Vec<u64> {
        if self.rules.is_empty() {
            return vec![0; points.len()];
        }
        let keys: Vec<u128> = points.iter().map(|p| Seen::key(p)).collect();
        let mut asked: Vec<usize> = Vec::new();
        for (i, key) in keys.iter().enumerate() {
            // The mark keeps a point that comes twice from being asked twice.
            if !self.said.contains_key(key) {
                self.said.insert(*key, u64::MAX);
                asked.push(i);
            }
        }
        if !asked.is_empty() {
            let values: Vec<Vec<Value>> = asked.iter().map(|&i| self.space.values(points[i])).collect();
            let masks = self.rules.broken(&values);
            assert!(masks.len() == values.len(), "rules answer about every point that they are asked about");
            for (&i, mask) in asked.iter().zip(masks) {
                self.said.insert(keys[i], mask);
            }
        }
        keys.iter().map(|key| self.said.get(key).copied().unwrap_or(0)).collect()
    }

    /// The parameters that any of the rules of a mask looks at.
    pub fn parameters_of(&self, mask: u64) -> Vec<usize> {
        let all = self.space.dimensions();
        let mut concerned = vec![false; all];
        for rule in (0..64).filter(|rule| mask >> rule & 1 == 1) {
            match self.rules.parameters_of(rule) {
                Some(parameters) => parameters.into_iter().filter(|&j| j < all).for_each(|j| concerned[j] = true),
                None => concerned.fill(true),
            }
        }
        (0..all).filter(|&j| concerned[j]).collect()
    }
}
