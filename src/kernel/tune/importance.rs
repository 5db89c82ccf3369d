//! How much each parameter matters for being among the best: PED-ANOVA (Watanabe, Bansal, Hutter 2023, "PED-ANOVA:
//! Efficiently quantifying hyperparameter importance in arbitrary subspaces"), and for parameters that not every trial
//! has, its conditional form (arXiv 2601.20800).
//!
//! Per parameter two densities are estimated on a grid: of the best trials, and of all of them (or of the better part,
//! to ask what matters among good configurations already). The importance is the Pearson divergence of the one from
//! the other: 0 where the best take the parameter's values just as all do. It costs O(n) per parameter.
//!
//! Constants and estimators are those of Optuna 5.0's `PedAnovaImportanceEvaluator`, so that values can be compared:
//! a grid of 50 steps, Scott's rule for the bandwidth, one prior kernel of weight 1.
//!
//! Left out: fANOVA (Hutter, Hoos, Leyton-Brown 2014). The crate `fanova` (0.3, MIT) knows numbers only, works in
//! threads, and draws from a generator whose numbers differ between releases: the example of its own documentation has
//! other importances in 0.2 and in 0.3. It also answers another question, what explains the variance over all
//! configurations, where most of that is between bad ones.

use super::{hssp, pareto};

/// What values a parameter has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Values {
    /// Numbers from `low` to `high`, in the logarithm with `log`, every `step` from `low` up where there is one.
    Float { low: f64, high: f64, log: bool, step: Option<f64> },
    /// Integers from `low` to `high`, in the logarithm with `log`, every `step` from `low` up.
    Int { low: i64, high: i64, log: bool, step: i64 },
    /// Levels in an order, equally far apart; a trial has the position of its level, from 0.
    Ordinal { levels: usize },
    /// Choices without order; a trial has the position of its choice, from 0.
    Categorical { choices: usize },
}

/// What an absent value means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Null {
    /// The trial does not have the parameter: another parameter's value excludes it. Whether it is there or not is
    /// then not this parameter's doing, and does not count (conditional PED-ANOVA).
    #[default]
    Inactive,
    /// One more value, apart from the others: "unset". Being unset more often among the best counts as well.
    Value,
}

/// One parameter of all trials.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub values: Values,
    /// One per trial.
    pub given: Vec<Option<f64>>,
    pub null: Null,
}

/// Which trials are compared with which, as shares of all from the best down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantiles {
    /// The best.
    pub target: f64,
    /// Those they are among; 1 for all.
    pub region: f64,
}

impl Default for Quantiles {
    fn default() -> Self {
        Quantiles { target: 0.1, region: 1.0 }
    }
}

/// Points of the grid on which densities of numbers are estimated.
const STEPS: usize = 50;
/// Fewer trials than this in a regime (with or without the parameter) say nothing.
const LEAST: usize = 2;
/// Keeps a ratio of densities finite.
const NOTHING: f64 = 1e-12;

/// One importance per column, none negative; see [`shares`].
///
/// `objectives` has one list per trial, every objective to be minimised. With one objective the best are those up to
/// the quantile, and all that equal it. With several they are taken rank by rank of non-domination, and within the rank
/// that does not fit as a whole by [greedy choice of hypervolume](hssp::greedy). Trials with an objective that is not
/// finite count as absent.
pub fn ped_anova(columns: &[Column], objectives: &[Vec<f64>], quantiles: Quantiles) -> Vec<f64> {
    let Quantiles { target, region } = quantiles;
    assert!(0.0 < target && target < region && region <= 1.0, "the target is a part of the region");
    assert!(columns.iter().all(|c| c.given.len() == objectives.len()), "every trial has its place in every column");
    let trials: Vec<usize> = (0..objectives.len()).filter(|&i| objectives[i].iter().all(|x| x.is_finite())).collect();
    if trials.len() <= 1 {
        return vec![0.0; columns.len()];
    }
    let points: Vec<&[f64]> = trials.iter().map(|&i| objectives[i].as_slice()).collect();
    let pick = |share: f64| -> Vec<usize> { best(&points, share).into_iter().map(|place| trials[place]).collect() };
    let (target, region) = (pick(target), pick(region));
    let share = target.len() as f64 / region.len() as f64;
    columns.iter().map(|column| share * share * divergence(column, &target, &region)).collect()
}

/// Importances as shares of their sum; all the same where nothing matters.
pub fn shares(importances: &[f64]) -> Vec<f64> {
    let sum: f64 = importances.iter().sum();
    let share = |x: &f64| if sum > 0.0 { x / sum } else { 1.0 / importances.len() as f64 };
    importances.iter().map(share).collect()
}

/// The positions of the best share of some points.
fn best(points: &[&[f64]], share: f64) -> Vec<usize> {
    let count = libm::ceil(share * points.len() as f64) as usize;
    if share >= 1.0 || count >= points.len() {
        return (0..points.len()).collect();
    }
    if points[0].len() == 1 {
        let mut values: Vec<f64> = points.iter().map(|p| p[0]).collect();
        let (_, cutoff, _) = values.select_nth_unstable_by(count - 1, f64::total_cmp);
        return (0..points.len()).filter(|&i| points[i][0] <= *cutoff).collect();
    }
    let ranks = pareto::ranks(points);
    let mut chosen = Vec::new();
    for rank in 0.. {
        let members: Vec<usize> = (0..points.len()).filter(|&i| ranks[i] == rank).collect();
        let room = count - chosen.len();
        if members.len() <= room {
            chosen.extend(members);
        } else {
            let tied: Vec<&[f64]> = members.iter().map(|&i| points[i]).collect();
            chosen.extend(hssp::greedy(&tied, room, &hssp::reference(&tied)).into_iter().map(|place| members[place]));
        }
        if chosen.len() == count {
            break;
        }
    }
    chosen.sort_unstable();
    chosen
}

/// The Pearson divergence of the target's density of a parameter from the region's.
///
/// With a share `b` of the region and `a` of the target having the parameter, and `D` between those who do, it is
/// `a^2 / b D` for those, and `(a - b)^2 / b` for having it or not, for either of the two.
fn divergence(column: &Column, target: &[usize], region: &[usize]) -> f64 {
    let given = |trials: &[usize]| -> Vec<f64> { trials.iter().filter_map(|&i| column.given[i]).collect() };
    let (near, all) = (given(target), given(region));
    let (a, b) = (near.len() as f64 / target.len() as f64, all.len() as f64 / region.len() as f64);
    let within = if near.is_empty() || all.len() < LEAST || column.values.is_single() {
        0.0
    } else {
        let (near, all) = (column.values.density(&near), column.values.density(&all));
        let apart: f64 = near.iter().zip(&all).map(|(p, q)| q * (p / q - 1.0) * (p / q - 1.0)).sum();
        a * a / b * apart
    };
    let apart = |a: f64, b: f64| if b > 0.0 { (a - b) * (a - b) / b } else { 0.0 };
    match column.null {
        Null::Inactive => within,
        Null::Value => within + apart(a, b) + apart(1.0 - a, 1.0 - b),
    }
}

impl Values {
    fn is_single(&self) -> bool {
        match *self {
            Values::Float { low, high, .. } => low >= high,
            Values::Int { low, high, .. } => low >= high,
            Values::Ordinal { levels: n } | Values::Categorical { choices: n } => n <= 1,
        }
    }

    /// The estimated density of some values, per point of the grid.
    fn density(&self, values: &[f64]) -> Vec<f64> {
        let mut density = match *self {
            Values::Categorical { choices } => choice_density(&count(values.iter().map(|v| *v as usize), choices)),
            Values::Ordinal { levels } => grid_density(&on_grid(values, 0.0, (levels - 1) as f64, levels)),
            Values::Int { low, high, log, step } => {
                let (low, high) = (low as f64, high as f64);
                if log {
                    let steps = libm::ceil(libm::log(high - low + 1.0) / std::f64::consts::LN_2) as usize + 1;
                    grid_density(&logarithmic(values, low, high, steps))
                } else {
                    let levels = libm::round((high - low) / step as f64) as usize + 1;
                    grid_density(&on_grid(values, low, high, levels))
                }
            }
            Values::Float { low, high, log: true, .. } => grid_density(&logarithmic(values, low, high, STEPS)),
            Values::Float { low, high, step, .. } => {
                let levels = step.map_or(STEPS, |step| libm::round((high - low) / step) as usize + 1);
                grid_density(&on_grid(values, low, high, levels))
            }
        };
        density.iter_mut().for_each(|p| *p += NOTHING);
        density
    }
}

fn count(places: impl Iterator<Item = usize>, size: usize) -> Vec<f64> {
    let mut counts = vec![0.0; size];
    places.for_each(|place| counts[place.min(size - 1)] += 1.0);
    counts
}

/// Counts per point of an even grid over a range, of the nearest point, and of the lower one half way between two.
fn on_grid(values: &[f64], low: f64, high: f64, levels: usize) -> Vec<f64> {
    let steps = levels.min(STEPS);
    let width = (high - low) / (steps - 1) as f64;
    // A conversion to an integer ends at 0.
    count(values.iter().map(|v| libm::ceil((v - low) / width - 0.5) as usize), steps)
}

fn logarithmic(values: &[f64], low: f64, high: f64, levels: usize) -> Vec<f64> {
    let values: Vec<f64> = values.iter().map(|v| libm::log(*v)).collect();
    on_grid(&values, libm::log(low), libm::log(high), levels)
}

/// A kernel for every choice that occurs, which gives the others a little, weighted by how often it does; and one that
/// knows nothing.
fn choice_density(counts: &[f64]) -> Vec<f64> {
    let kernels = counts.iter().filter(|c| **c > 0.0).count() as f64 + 1.0;
    let total: f64 = counts.iter().sum();
    let choices = counts.len() as f64;
    let little = 1.0 / kernels;
    let norm = 1.0 + choices * little;
    // Every kernel gives every choice the little; its own choice gets one more.
    counts.iter().map(|c| (c * (1.0 / norm) + total * (little / norm) + 1.0 / choices) / (total + 1.0)).collect()
}

/// A normal kernel, cut off at the ends of the grid, for every point that occurs, weighted by how often it does; and a
/// wide one that knows nothing.
fn grid_density(counts: &[f64]) -> Vec<f64> {
    let total: f64 = counts.iter().sum();
    let last = (counts.len() - 1) as f64;
    let seen: Vec<(f64, f64)> =
        counts.iter().enumerate().filter(|(_, c)| **c > 0.0).map(|(place, c)| (place as f64, *c)).collect();
    let mean = seen.iter().map(|(x, w)| x * w).sum::<f64>() / total;
    let squares: f64 = seen.iter().map(|(x, w)| (x - mean) * (x - mean) * w).sum();
    let deviation = libm::sqrt(squares / (total - 1.0).max(1.0));
    // The quartiles, counted as Optuna counts them.
    let mut up_to = 0.0;
    let cumulative: Vec<f64> = seen
        .iter()
        .map(|(_, w)| {
            up_to += w;
            up_to
        })
        .collect();
    let first = cumulative.partition_point(|c| *c < libm::floor(total / 4.0));
    let third = cumulative.partition_point(|c| *c <= libm::floor(total * 3.0 / 4.0)).min(seen.len() - 1);
    let range = seen[third].0 - seen[first].0;
    // Scott's rule; and at least so much that 90 % of a kernel stay within its own step.
    let scott = 1.059 * (range / 1.34).min(deviation) * libm::pow(total, -0.2);
    let width = scott.max(0.5 / 1.64);
    let mut density = vec![0.0; counts.len()];
    let mut add = |centre: f64, width: f64, weight: f64| {
        let scaled = |x: f64| (x - centre) / width;
        let all = normal_mass(scaled(-0.5), scaled(last + 0.5));
        for (place, p) in density.iter_mut().enumerate() {
            let x = place as f64;
            *p += weight / (total + 1.0) * normal_mass(scaled(x - 0.5), scaled(x + 0.5)) / all;
        }
    };
    seen.iter().for_each(|&(x, weight)| add(x, width, weight));
    add(last / 2.0, last + 1.0, 1.0);
    density
}

/// The probability of a standard normal between two numbers, the first below the second; accurate in the tails too.
fn normal_mass(a: f64, b: f64) -> f64 {
    if a > 0.0 {
        return normal_mass(-b, -a);
    }
    let below = |x: f64| 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
    below(b) - below(a)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fractional part of multiples of an irrational: numbers that any program can make again.
    fn weyl(i: usize, k: usize) -> f64 {
        const STEPS: [f64; 8] = [
            0.6180339887,
            0.7548776662,
            0.5698402910,
            0.8191725134,
            0.6710436067,
            0.5497004779,
            0.8566748838,
            0.7338918566,
        ];
        let x = (i + 1) as f64 * STEPS[k];
        x - x.floor()
    }

    /// Eight parameters of all kinds, the last of which exists where the fifth is not its first choice.
    fn columns(n: usize) -> Vec<Column> {
        let column = |values, f: &dyn Fn(usize) -> Option<f64>| Column {
            values,
            given: (0..n).map(f).collect(),
            null: Null::Inactive,
        };
        let choice = |i: usize| (4.0 * weyl(i, 4)).floor();
        vec![
            column(Values::Float { low: -1.0, high: 3.0, log: false, step: None }, &|i| Some(-1.0 + 4.0 * weyl(i, 0))),
            column(Values::Float { low: 1e-4, high: 1.0, log: true, step: None }, &|i| {
                Some(10f64.powf(-4.0 + 4.0 * weyl(i, 1)))
            }),
            column(Values::Int { low: 1, high: 16, log: false, step: 1 }, &|i| Some(1.0 + (16.0 * weyl(i, 2)).floor())),
            column(Values::Int { low: 1, high: 64, log: true, step: 1 }, &|i| Some(64f64.powf(weyl(i, 3)).floor())),
            column(Values::Categorical { choices: 4 }, &|i| Some(choice(i))),
            column(Values::Float { low: 0.0, high: 1.0, log: false, step: Some(0.1) }, &|i| {
                Some((11.0 * weyl(i, 5)).floor() / 10.0)
            }),
            column(Values::Ordinal { levels: 5 }, &|i| Some((5.0 * weyl(i, 6)).floor())),
            column(Values::Float { low: 0.0, high: 1.0, log: false, step: None }, &|i| {
                (choice(i) > 0.0).then(|| weyl(i, 7))
            }),
        ]
    }

    fn objectives(columns: &[Column], count: usize) -> Vec<Vec<f64>> {
        let both = |i: usize| {
            let at = |k: usize| columns[k].given[i].unwrap_or(0.5);
            let first = (at(0) - 1.0).powi(2)
                + 0.1 * (at(1).log10() + 2.0).powi(2)
                + if at(4) == 2.0 { 0.0 } else { 0.3 }
                + 0.02 * at(2)
                + 0.4 * at(7)
                + 0.05 * at(6)
                + 0.1 * at(3).log2()
                + 0.2 * at(5);
            let second = (at(0) + 0.5).powi(2)
                + 0.1 * (at(2) - 12.0).abs()
                + 0.3 * (1.0 - at(5))
                + 0.1 * (4.0 - at(6))
                + if at(4) == 0.0 { 0.2 } else { 0.0 };
            vec![first, second][..count].to_vec()
        };
        (0..columns[0].given.len()).map(both).collect()
    }

    fn check(n: usize, count: usize, quantiles: Quantiles, expect: [f64; 8]) {
        let columns = columns(n);
        let got = ped_anova(&columns, &objectives(&columns, count), quantiles);
        for (k, (ours, theirs)) in got.iter().zip(expect).enumerate() {
            assert!((ours - theirs).abs() <= 1e-8 * theirs.abs(), "parameter {k}: {ours} instead of {theirs}");
        }
    }

    #[test]
    fn figures_of_optuna() {
        // Optuna 5.0.0: PedAnovaImportanceEvaluator(...).evaluate(study) for studies of these trials, added by
        // create_trial with FloatDistribution, IntDistribution and CategoricalDistribution.
        let default = Quantiles::default();
        check(
            200,
            1,
            default,
            [
                0.02334635322742863,
                0.0008041215335006253,
                0.0009172222927941816,
                0.0028041658207325453,
                0.00019179602199514617,
                0.0005061795506111035,
                0.00021815843585879096,
                0.0005335430971739097,
            ],
        );
        check(
            200,
            1,
            Quantiles { target: 0.2, region: 0.5 },
            [
                0.0432558374367801,
                0.0060262753006415145,
                0.008173912283414513,
                0.02813699191420392,
                0.002597183403990281,
                0.0006700735911272021,
                0.001422558002994607,
                0.005123327243603133,
            ],
        );
        // Few trials: a prior that matters, and quartiles of two.
        check(
            12,
            1,
            default,
            [
                0.022957311416320292,
                0.001312357925320128,
                0.025208649908305153,
                0.05140882229091373,
                0.0017708670769818059,
                0.0002342983329196049,
                0.0029986299651890078,
                0.1050952967829557,
            ],
        );
        check(
            2,
            1,
            default,
            [
                2.144013286635952,
                1.613188782633543,
                0.7017105078974424,
                0.0872074024023051,
                0.01466049382710871,
                0.47053312266086383,
                0.06993637017233963,
                1.7175414367991741,
            ],
        );
        // Two objectives: ranks, and the choice of hypervolume among equals.
        check(
            200,
            2,
            default,
            [
                0.007286876656135076,
                0.0008298217662387172,
                0.001755452840174728,
                0.0032322996645530295,
                0.0015329587811504183,
                5.557765095515214e-05,
                3.175942340943033e-05,
                0.001875964532209735,
            ],
        );
    }

    #[test]
    fn what_matters_is_found() {
        let columns = columns(400);
        // Only the third parameter counts, then only the fifth.
        for important in [2, 4] {
            let objectives: Vec<Vec<f64>> = columns[important].given.iter().map(|v| vec![v.unwrap()]).collect();
            let importances = ped_anova(&columns, &objectives, Quantiles::default());
            let shares = shares(&importances);
            assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            let rest = shares.iter().enumerate().filter(|(k, _)| *k != important).map(|(_, s)| *s).fold(0.0, f64::max);
            assert!(shares[important] > 3.0 * rest, "{shares:?}");
        }
    }

    #[test]
    fn unset_may_be_a_value() {
        // Whoever leaves it unset is best; the numbers themselves mean nothing.
        let n = 300;
        let given: Vec<Option<f64>> = (0..n).map(|i| (i % 3 > 0).then(|| weyl(i, 0))).collect();
        let values = Values::Float { low: 0.0, high: 1.0, log: false, step: None };
        let objectives: Vec<Vec<f64>> =
            given.iter().enumerate().map(|(i, v)| vec![if v.is_none() { 0.0 } else { 1.0 } + weyl(i, 5)]).collect();
        let of = |null| Column { values, given: given.clone(), null };
        let both = ped_anova(&[of(Null::Inactive), of(Null::Value)], &objectives, Quantiles::default());
        // All of the best tenth are unset, and a third of all: 0.1^2 ((1 - 1/3)^2 / (1/3) + (0 - 2/3)^2 / (2/3)).
        assert_eq!(both[0], 0.0);
        assert!((both[1] - 0.01 * (4.0 / 3.0 + 2.0 / 3.0)).abs() < 1e-12, "{both:?}");
        // With the parameter always there, the two are the same.
        let full = |null| Column { values, given: (0..n).map(|i| Some(weyl(i, 1))).collect(), null };
        let both = ped_anova(&[full(Null::Inactive), full(Null::Value)], &objectives, Quantiles::default());
        assert!(both[0] > 0.0 && both[0] == both[1]);
    }

    #[test]
    fn trials_without_numbers_are_absent() {
        let columns = columns(200);
        let whole = objectives(&columns, 1);
        let expect = ped_anova(&columns, &whole, Quantiles::default());
        let mut longer = columns.clone();
        longer.iter_mut().for_each(|c| c.given.extend([c.given[0]; 3]));
        let mut more = whole.clone();
        more.extend([vec![f64::NAN], vec![f64::INFINITY], vec![f64::NEG_INFINITY]]);
        assert_eq!(ped_anova(&longer, &more, Quantiles::default()), expect);
        let empty: Vec<Column> = columns.iter().map(|c| Column { given: Vec::new(), ..c.clone() }).collect();
        assert_eq!(ped_anova(&empty, &[], Quantiles::default()), [0.0; 8]);
        assert_eq!(shares(&[0.0; 4]), [0.25; 4]);
        // One value, one choice: nothing to say.
        let single = |values| Column { values, given: vec![Some(0.0); 200], null: Null::Inactive };
        let none =
            [single(Values::Ordinal { levels: 1 }), single(Values::Int { low: 0, high: 0, log: false, step: 1 })];
        assert_eq!(ped_anova(&none, &whole, Quantiles::default()), [0.0; 2]);
    }
}
