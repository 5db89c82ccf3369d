//! Racing over instances (Maron, Moore 1994; the paired test as in irace: Lopez-Ibanez et al. 2016): where a trial is
//! the sum of many simulations, say all the measured runs that a model is fitted to, a bad one shows after a few.
//!
//! Every candidate sees the instances in the same order, block by block. After each block, those that are worse than
//! the incumbent by Wilcoxon's signed-rank test on the instances so far are dropped, and cost nothing more.

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a race is run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Racing {
    /// Instances between two tests.
    pub block: u32,
    /// A candidate is dropped where the incumbent would be so much better by chance less often than this.
    pub level: f64,
}

impl Default for Racing {
    fn default() -> Self {
        Racing { block: 6, level: 0.1 }
    }
}

/// How a race ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Race {
    /// Per candidate its values, in the order of instances; all of them only for those that were never dropped.
    pub values: Vec<Vec<f64>>,
    /// The candidate of the least mean of those that saw all instances; `None` where there is none.
    pub winner: Option<usize>,
}

impl Racing {
    /// Why this cannot be, in words for the user; empty where it can.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.block == 0 {
            problems.push("block: a block has at least one instance".to_owned());
        }
        if !(self.level > 0.0 && self.level < 1.0) {
            problems.push(format!("level: a probability between 0 and 1, not {}", self.level));
        }
        problems
    }

    /// The blocks of some instances; the last may be smaller.
    pub fn blocks(&self, instances: usize) -> Vec<Range<usize>> {
        let block = self.block.max(1) as usize;
        (0..instances).step_by(block).map(|start| start..(start + block).min(instances)).collect()
    }

    /// The candidate is worse than the incumbent on the instances that both have seen, beyond chance. Values are
    /// minimised; where both are infinite there is no difference.
    pub fn drops(&self, candidate: &[f64], incumbent: &[f64]) -> bool {
        let pairs = candidate.iter().zip(incumbent);
        let differences: Vec<f64> = pairs.map(|(a, b)| if a == b { 0.0 } else { a - b }).collect();
        wilcoxon(&differences, Alternative::Greater).is_some_and(|test| test.p < self.level)
    }

    /// Runs a race. `evaluate` gives the value of a candidate on an instance, to be minimised: infinite where it failed,
    /// never NaN.
    ///
    /// The incumbent is one from earlier with its values on the same instances, or else whoever is best so far.
    pub fn run(
        &self,
        candidates: usize,
        instances: usize,
        incumbent: Option<&[f64]>,
        mut evaluate: impl FnMut(usize, usize) -> f64,
    ) -> Race {
        let mut values: Vec<Vec<f64>> = vec![Vec::new(); candidates];
        let mut left: Vec<usize> = (0..candidates).collect();
        for block in self.blocks(instances) {
            for &candidate in &left {
                values[candidate].extend(block.clone().map(|instance| evaluate(candidate, instance)));
            }
            if block.end < instances {
                let best = least(&values, &left);
                let reference = incumbent.map_or_else(|| best.map(|b| values[b].clone()), |v| Some(v.to_vec()));
                let Some(reference) = reference else { break };
                left.retain(|&candidate| !self.drops(&values[candidate], &reference));
            }
        }
        let winner = least(&values, &left);
        Race { values, winner }
    }
}

/// Whose sum is least; the first of equals.
fn least(values: &[Vec<f64>], among: &[usize]) -> Option<usize> {
    let sum = |i: usize| values[i].iter().sum::<f64>();
    among.iter().copied().min_by(|&a, &b| sum(a).total_cmp(&sum(b)).then(a.cmp(&b)))
}

/// What a test looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alternative {
    TwoSided,
    /// Differences are above zero.
    Greater,
    /// Differences are below zero.
    Less,
}

/// The result of a signed-rank test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SignedRanks {
    /// Sum of the ranks of positive differences.
    pub positive: f64,
    /// How likely such a sum, or one further off, would be, if signs were a matter of chance.
    pub p: f64,
}

/// Up to so many differences all signs are counted, beyond the sum is taken as normal.
const EXACT: usize = 50;

/// Wilcoxon's signed-rank test (Wilcoxon 1945) of paired differences: they are ranked by size, equal ones with the mean
/// of their ranks, and the ranks of the positive ones added. Zeros are left out.
///
/// Up to 50 differences the probability is exact, for equal ones too: that of all ways to draw the signs. Beyond it is
/// that of a normal with the variance corrected for ties, without correction for continuity. `None` where all
/// differences are zero or there are none. Differences may be infinite, but not NaN.
pub fn wilcoxon(differences: &[f64], alternative: Alternative) -> Option<SignedRanks> {
    assert!(differences.iter().all(|d| !d.is_nan()), "a difference is NaN");
    let mut differences: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.0).collect();
    differences.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    let n = differences.len();
    if n == 0 {
        return None;
    }
    // Twice the ranks, so that means of ranks are whole.
    let mut ranks: Vec<usize> = Vec::with_capacity(n);
    let mut ties = 0.0;
    while ranks.len() < n {
        let first = ranks.len();
        let equal = differences[first..].iter().take_while(|d| d.abs() == differences[first].abs()).count();
        ranks.resize(first + equal, 2 * first + equal + 1);
        ties += (equal * equal * equal - equal) as f64;
    }
    let positive: usize = ranks.iter().zip(&differences).filter(|(_, d)| **d > 0.0).map(|(r, _)| r).sum();
    let (at_least, at_most) = if n <= EXACT { exact(&ranks, positive) } else { normal(n as f64, ties, positive) };
    let p = match alternative {
        Alternative::Greater => at_least,
        Alternative::Less => at_most,
        Alternative::TwoSided => (2.0 * at_least.min(at_most)).min(1.0),
    };
    Some(SignedRanks { positive: positive as f64 / 2.0, p })
}

/// The probabilities of a sum of at least and of at most this, of all ways to give signs to the ranks.
fn exact(ranks: &[usize], sum: usize) -> (f64, f64) {
    let most: usize = ranks.iter().sum();
    let mut share = vec![0.0; most + 1];
    share[0] = 1.0;
    let mut reached = 0;
    for &rank in ranks {
        reached += rank;
        for s in (0..=reached).rev() {
            share[s] = 0.5 * (share[s] + if s >= rank { share[s - rank] } else { 0.0 });
        }
    }
    (share[sum..].iter().sum(), share[..=sum].iter().sum())
}

fn normal(n: f64, ties: f64, twice: usize) -> (f64, f64) {
    let variance = (n * (n + 1.0) * (2.0 * n + 1.0) - 0.5 * ties) / 24.0;
    let z = (twice as f64 / 2.0 - n * (n + 1.0) / 4.0) / libm::sqrt(variance);
    let below = |z: f64| 0.5 * libm::erfc(-z * std::f64::consts::FRAC_1_SQRT_2);
    (below(-z), below(z))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    fn check(differences: &[f64], positive: f64, [two, greater, less]: [f64; 3]) {
        for (alternative, expect) in
            [(Alternative::TwoSided, two), (Alternative::Greater, greater), (Alternative::Less, less)]
        {
            let got = wilcoxon(differences, alternative).unwrap();
            assert_eq!(got.positive, positive);
            assert!((got.p - expect).abs() <= 1e-12, "{alternative:?}: {} instead of {expect}", got.p);
        }
    }

    #[test]
    fn figures_of_scipy() {
        // scipy 1.17.1: stats.wilcoxon(d, alternative=...), which counts all signs of up to 50 differences without ties
        // and up to 13 with ties or zeros.
        // The first are the differences of Hollander, Wolfe 1973, table 3.1.
        let differences = [0.952, -0.147, 1.022, 0.43, 0.62, 0.59, 0.49, -0.08, 0.01];
        check(&differences, 40.0, [0.0390625, 0.01953125, 0.986328125]);
        check(&[0.3, 0.1, 0.5, -0.2, 0.4, 0.6], 19.0, [0.09375, 0.046875, 0.96875]);
        check(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 21.0, [0.03125, 0.015625, 1.0]);
        let tied = [1.0, 1.0, 2.0, -2.0, 3.0, 3.0, -1.0, 4.0, 5.0, 2.0];
        check(&tied, 48.0, [0.0390625, 0.01953125, 0.9892578125]);
        let zeros = [0.0, 0.0, 1.0, 2.0, -3.0, 4.0, 5.0, -6.0, 7.0, 8.0];
        check(&zeros, 27.0, [0.25, 0.125, 0.90234375]);
        let many: Vec<f64> = (0..60).map(|i| f64::from(i * 37 % 101 - 45) / 10.0).collect();
        check(&many, 1066.5, [0.2647081919479235, 0.13235409597396175, 0.8676459040260383]);
        let more: Vec<f64> = (0..80).map(|i| f64::from(i * 7 % 11 - 4)).collect();
        check(&more, 1804.5, [0.01219151004275353, 0.006095755021376765, 0.9939042449786233]);
    }

    #[test]
    fn all_signs_by_hand() {
        // Ranks 1.5, 1.5, 3: of eight ways to draw the signs, +-+, -++ and +++ give 4.5 or more.
        let got = wilcoxon(&[1.0, -1.0, 2.0], Alternative::Greater).unwrap();
        assert_eq!((got.positive, got.p), (4.5, 3.0 / 8.0));
        assert_eq!(wilcoxon(&[0.0, 0.0], Alternative::Greater), None);
        assert_eq!(wilcoxon(&[], Alternative::TwoSided), None);
        let infinite = wilcoxon(&[f64::INFINITY, f64::INFINITY, 1.0], Alternative::Greater).unwrap();
        assert_eq!((infinite.positive, infinite.p), (6.0, 1.0 / 8.0));
    }

    #[test]
    fn the_level_is_kept() {
        // Two that are the same are told apart by mistake no more often than the level says.
        let racing = Racing::default();
        for n in [6, 12, 60] {
            let mut rng = rng::stream(n, "racing/level");
            let mut sample = || -> Vec<f64> { (0..n).map(|_| rng::standard_normal(&mut rng)).collect() };
            let runs = 3000;
            let wrong = (0..runs).filter(|_| racing.drops(&sample(), &sample())).count() as f64;
            // Four standard errors above the level.
            assert!(wrong / f64::from(runs) < 0.1 + 4.0 * (0.09 / f64::from(runs)).sqrt(), "{n}: {wrong}");
        }
    }

    #[test]
    fn blocks_cover_the_instances() {
        assert_eq!(Racing::default().blocks(24), [0..6, 6..12, 12..18, 18..24]);
        assert_eq!(Racing { block: 5, level: 0.1 }.blocks(12), [0..5, 5..10, 10..12]);
        assert!(Racing::default().blocks(0).is_empty());
        assert!(Racing::default().problems().is_empty());
        assert_eq!(Racing { block: 0, level: 1.5 }.problems().len(), 2);
        assert!(serde_json::from_str::<Racing>(r#"{"blocks": 3}"#).is_err());
    }

    #[test]
    fn a_race_finds_the_best_and_spares_the_rest() {
        let racing = Racing::default();
        let (mut cost, mut right) = (0, 0);
        for seed in 0..30 {
            let mut rng = rng::stream(seed, "racing");
            // What an instance costs everybody is far more than what candidates differ in.
            let hard: Vec<f64> = (0..24).map(|_| 100.0 * rng::uniform01(&mut rng)).collect();
            let race = racing.run(10, 24, None, |candidate, instance| {
                cost += 1;
                hard[instance] + candidate as f64 + rng::standard_normal(&mut rng)
            });
            right += u32::from(race.winner.unwrap() <= 1);
            assert_eq!(race.values[race.winner.unwrap()].len(), 24);
            assert!(race.values.iter().all(|v| v.len() % 6 == 0 && !v.is_empty()));
        }
        assert_eq!(right, 30);
        assert!(cost < 30 * 240 * 45 / 100, "{cost}");
    }

    #[test]
    fn an_incumbent_from_earlier_drops_them_all() {
        let incumbent = vec![1.0; 24];
        let race = Racing::default().run(3, 24, Some(&incumbent), |candidate, instance| {
            if candidate == 2 { f64::INFINITY } else { 2.0 + candidate as f64 + instance as f64 * 0.01 }
        });
        assert_eq!(race.winner, None);
        assert!(race.values.iter().all(|v| v.len() == 6));
        // One that is as good goes on to the end.
        let race = Racing::default().run(2, 24, Some(&incumbent), |candidate, _| 1.0 + candidate as f64);
        assert_eq!(race.winner, Some(0));
        assert_eq!(race.values.iter().map(Vec::len).collect::<Vec<_>>(), [24, 6]);
    }
}
