//! How long prompts and outputs are: distributions over token counts.
//!
//! A draw is rounded to the nearest token and then clamped to `min..=max`. Clamping moves mass to the ends: where it
//! bites, the mean is no longer the one that was asked for. Every distribution takes at most one number from its
//! stream (but for the rare rejection of `uniform`, and the second number of `skew_normal`), and is monotone in it: so
//! two lengths that share their number are comonotone, see [`Correlation`](super::Correlation).

use rand_pcg::Pcg64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::families::{
    Empirical, Exponential, GammaLengths, Pareto, ParetoLognormal, SkewNormal, Table, Zipf, gamma_quantile,
    pareto_lognormal_quantile,
};
use super::{Problem, Problems};
use crate::rng;

/// Longest prompt or output that can be asked for, in tokens. Far above any model's context, far below overflow.
pub const MAX_TOKENS: u32 = 1 << 24;

/// The 90 % quantile of the standard normal distribution.
const Z90: f64 = 1.281_551_565_544_600_4;

/// A distribution over token counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lengths {
    /// Every request the same.
    Constant(Constant),
    /// Normal, rounded and clamped.
    Normal(Normal),
    /// Lognormal by the mean and standard deviation of the logarithm.
    Lognormal(Lognormal),
    /// Lognormal by the mean and standard deviation of the tokens themselves.
    LognormalMeanStd(LognormalMeanStd),
    /// Lognormal by its median and 90 % quantile.
    LognormalP50P90(LognormalP50P90),
    /// Every length from `min` to `max` equally likely.
    Uniform(Uniform),
    /// Exponential, rounded and clamped.
    Exponential(Exponential),
    /// Gamma, by mean and standard deviation.
    Gamma(GammaLengths),
    /// Pareto: a power law above a shortest length.
    Pareto(Pareto),
    /// A mix of a Pareto tail and a lognormal body: prompts of production traffic (ServeGen).
    ParetoLognormal(ParetoLognormal),
    /// Zipf's law over the lengths from `min` to `max`: the k-th shortest has weight `1 / k^theta`.
    Zipf(Zipf),
    /// Skewed normal of Azzalini. Takes two numbers from its stream, and cannot be correlated with another length.
    SkewNormal(SkewNormal),
    /// Lengths that are listed here, or stand in a column of a table.
    Empirical(Empirical),
}

/// Parameters of constant lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Constant {
    /// Tokens of every request, at least 1.
    pub tokens: u32,
}

/// Parameters of normally distributed lengths.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Normal {
    /// Mean in tokens, before clamping.
    pub mean: f64,
    /// Standard deviation in tokens, before clamping.
    pub std: f64,
    /// Shortest length in tokens, at least 1.
    #[serde(default = "one")]
    pub min: u32,
    /// Longest length in tokens. Default: no limit of its own.
    #[serde(default)]
    pub max: Option<u32>,
}

/// Parameters of lognormally distributed lengths, in log space.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lognormal {
    /// Mean of the natural logarithm of the tokens: the median is `exp(mu)` tokens.
    pub mu: f64,
    /// Standard deviation of the natural logarithm of the tokens.
    pub sigma: f64,
    /// Shortest length in tokens, at least 1.
    #[serde(default = "one")]
    pub min: u32,
    /// Longest length in tokens. Default: no limit of its own.
    #[serde(default)]
    pub max: Option<u32>,
}

/// Parameters of lognormally distributed lengths, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LognormalMeanStd {
    /// Mean in tokens, before clamping.
    pub mean: f64,
    /// Standard deviation in tokens, before clamping.
    pub std: f64,
    /// Shortest length in tokens, at least 1.
    #[serde(default = "one")]
    pub min: u32,
    /// Longest length in tokens. Default: no limit of its own.
    #[serde(default)]
    pub max: Option<u32>,
}

/// Parameters of lognormally distributed lengths, as quantiles.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LognormalP50P90 {
    /// Median in tokens.
    pub p50: f64,
    /// 90 % quantile in tokens, above the median.
    pub p90: f64,
    /// Shortest length in tokens, at least 1.
    #[serde(default = "one")]
    pub min: u32,
    /// Longest length in tokens. Default: no limit of its own.
    #[serde(default)]
    pub max: Option<u32>,
}

/// Parameters of uniformly distributed lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Uniform {
    /// Shortest length in tokens, at least 1.
    pub min: u32,
    /// Longest length in tokens, itself included.
    pub max: u32,
}

pub(super) fn one() -> u32 {
    1
}

impl LognormalMeanStd {
    /// The same distribution in log space: `sigma^2 = ln(1 + std^2 / mean^2)`, `mu = ln(mean) - sigma^2 / 2`.
    pub fn log_space(self) -> Lognormal {
        let LognormalMeanStd { mean, std, min, max } = self;
        let variance = libm::log1p((std / mean) * (std / mean));
        Lognormal { mu: libm::log(mean) - 0.5 * variance, sigma: libm::sqrt(variance), min, max }
    }
}

impl LognormalP50P90 {
    /// The same distribution in log space: `mu = ln(p50)`, `sigma = (ln(p90) - ln(p50)) / 1.2815515655446004`.
    pub fn log_space(self) -> Lognormal {
        let LognormalP50P90 { p50, p90, min, max } = self;
        let mu = libm::log(p50);
        Lognormal { mu, sigma: (libm::log(p90) - mu) / Z90, min, max }
    }
}

impl Lengths {
    /// One length in tokens, from 1 to [`MAX_TOKENS`]. The parameters must have no [`problems`](Self::problems).
    ///
    /// For many draws: [`sampler`](Self::sampler), which makes the tables of `zipf` and `empirical` once.
    pub fn sample(&self, rng: &mut Pcg64) -> u32 {
        match self {
            Lengths::Constant(Constant { tokens }) => *tokens,
            // The sum of two u32 below MAX_TOKENS, so the cast loses nothing.
            Lengths::Uniform(Uniform { min, max }) => min + rng::below(rng, u64::from(max - min) + 1) as u32,
            Lengths::SkewNormal(skewed) => {
                let SkewNormal { min, max, .. } = *skewed;
                clamp(skewed.sample(rng), min, max)
            }
            _ => self.quantile(rng::uniform_open(rng)),
        }
    }

    /// The length below which a share `u` of all lie, `0 < u < 1`.
    ///
    /// # Panics
    /// [`Lengths::SkewNormal`], whose quantiles have no formula.
    pub fn quantile(&self, u: f64) -> u32 {
        match self {
            Lengths::Constant(Constant { tokens }) => *tokens,
            Lengths::Normal(Normal { mean, std, min, max }) => clamp(mean + std * rng::normal_quantile(u), *min, *max),
            Lengths::Lognormal(Lognormal { mu, sigma, min, max }) => {
                clamp(libm::exp(mu + sigma * rng::normal_quantile(u)), *min, *max)
            }
            Lengths::LognormalMeanStd(real) => Lengths::Lognormal(real.log_space()).quantile(u),
            Lengths::LognormalP50P90(quantiles) => Lengths::Lognormal(quantiles.log_space()).quantile(u),
            Lengths::Uniform(Uniform { min, max }) => {
                let wide = f64::from(max - min) + 1.0;
                (min + libm::floor(u * wide) as u32).min(*max)
            }
            Lengths::Exponential(Exponential { mean, min, max }) => clamp(-mean * libm::log1p(-u), *min, *max),
            Lengths::Gamma(GammaLengths { mean, std, min, max }) => {
                let shape = (mean / std) * (mean / std);
                clamp(gamma_quantile(shape, u) * std * std / mean, *min, *max)
            }
            Lengths::Pareto(Pareto { alpha, xm, min, max }) => clamp(xm * libm::pow(1.0 - u, -1.0 / alpha), *min, *max),
            Lengths::ParetoLognormal(mix) => clamp(pareto_lognormal_quantile(mix, u), mix.min, mix.max),
            Lengths::Zipf(zipf) => zipf.table().quantile(u),
            Lengths::Empirical(empirical) => empirical.table().quantile(u),
            Lengths::SkewNormal(_) => unreachable!("a correlation with a skewed normal is a problem of the settings"),
        }
    }

    /// The same distribution, ready for many draws.
    pub fn sampler(&self) -> Sampler {
        match self {
            Lengths::Zipf(zipf) => Sampler::Table(zipf.table()),
            Lengths::Empirical(empirical) => Sampler::Table(empirical.table()),
            Lengths::LognormalMeanStd(real) => Sampler::Formula(Lengths::Lognormal(real.log_space())),
            Lengths::LognormalP50P90(quantiles) => Sampler::Formula(Lengths::Lognormal(quantiles.log_space())),
            other => Sampler::Formula(other.clone()),
        }
    }

    /// Everything that is wrong with the parameters, in the order of the fields; `path` is where they stand.
    pub fn problems(&self, path: &str) -> Vec<Problem> {
        let path = format!("{path}.{}", self.name());
        let mut problems = Problems::below(&path);
        match self.clone() {
            Lengths::Constant(Constant { tokens }) => check_tokens(&mut problems, tokens, "tokens"),
            Lengths::Normal(Normal { mean, std, min, max }) => {
                problems.require_positive(mean, "mean");
                problems.require_at_least_zero(std, "std");
                check_clamps(&mut problems, min, max);
            }
            Lengths::Lognormal(Lognormal { mu, sigma, min, max }) => {
                problems.require(mu.is_finite(), "mu", || format!("must be a number, not {mu}"));
                problems.require_at_least_zero(sigma, "sigma");
                check_clamps(&mut problems, min, max);
            }
            Lengths::LognormalMeanStd(LognormalMeanStd { mean, std, min, max }) => {
                problems.require_positive(mean, "mean");
                problems.require_at_least_zero(std, "std");
                check_clamps(&mut problems, min, max);
            }
            Lengths::LognormalP50P90(LognormalP50P90 { p50, p90, min, max }) => {
                problems.require_positive(p50, "p50");
                problems.require(p90.is_finite() && p90 > p50, "p90", || {
                    format!("must be above p50, which is {p50}, not {p90}")
                });
                check_clamps(&mut problems, min, max);
            }
            Lengths::Uniform(Uniform { min, max }) => check_clamps(&mut problems, min, Some(max)),
            Lengths::Exponential(Exponential { mean, min, max }) => {
                problems.require_positive(mean, "mean");
                check_clamps(&mut problems, min, max);
            }
            Lengths::Gamma(GammaLengths { mean, std, min, max }) => {
                problems.require_positive(mean, "mean");
                problems.require_positive(std, "std");
                let cv = std / mean;
                problems.require(!(cv.is_finite() && mean > 0.0) || (0.01..=100.0).contains(&cv), "std", || {
                    format!("must be from 0.01 to 100 times the mean, not {cv} times")
                });
                check_clamps(&mut problems, min, max);
            }
            Lengths::Pareto(Pareto { alpha, xm, min, max }) => {
                problems.require_positive(alpha, "alpha");
                problems.require_positive(xm, "xm");
                check_clamps(&mut problems, min, max);
            }
            Lengths::ParetoLognormal(mix) => {
                let ParetoLognormal { alpha, xm, mu, sigma, mix_weight, min, max } = mix;
                problems.require_positive(alpha, "alpha");
                problems.require_positive(xm, "xm");
                problems.require(mu.is_finite() && mu.abs() <= 50.0, "mu", || {
                    format!("must be a number from -50 to 50, not {mu}")
                });
                problems.require_positive(sigma, "sigma");
                problems.require((0.0..=1.0).contains(&mix_weight), "mix_weight", || {
                    format!("must be from 0 to 1, not {mix_weight}")
                });
                check_clamps(&mut problems, min, max);
            }
            Lengths::Zipf(Zipf { min, max, theta }) => {
                check_clamps(&mut problems, min, Some(max));
                problems.require(max.saturating_sub(min) < Zipf::WIDEST, "max", || {
                    format!("must be less than {} above min, which is {min}, not {max}", Zipf::WIDEST)
                });
                problems.require_at_least_zero(theta, "theta");
            }
            Lengths::SkewNormal(SkewNormal { location, scale, shape, min, max }) => {
                problems.require(location.is_finite(), "location", || format!("must be a number, not {location}"));
                problems.require_positive(scale, "scale");
                problems.require(shape.is_finite(), "shape", || format!("must be a number, not {shape}"));
                check_clamps(&mut problems, min, max);
            }
            Lengths::Empirical(empirical) => empirical.check(&mut problems),
        }
        problems.found
    }

    /// The name in YAML.
    fn name(&self) -> &'static str {
        match self {
            Lengths::Constant(_) => "constant",
            Lengths::Normal(_) => "normal",
            Lengths::Lognormal(_) => "lognormal",
            Lengths::LognormalMeanStd(_) => "lognormal_mean_std",
            Lengths::LognormalP50P90(_) => "lognormal_p50_p90",
            Lengths::Uniform(_) => "uniform",
            Lengths::Exponential(_) => "exponential",
            Lengths::Gamma(_) => "gamma",
            Lengths::Pareto(_) => "pareto",
            Lengths::ParetoLognormal(_) => "pareto_lognormal",
            Lengths::Zipf(_) => "zipf",
            Lengths::SkewNormal(_) => "skew_normal",
            Lengths::Empirical(_) => "empirical",
        }
    }
}

/// A distribution of lengths, ready for many draws.
#[derive(Clone, Debug)]
pub enum Sampler {
    Formula(Lengths),
    Table(Table),
}

impl Sampler {
    /// As [`Lengths::sample`].
    pub fn sample(&self, rng: &mut Pcg64) -> u32 {
        match self {
            Sampler::Formula(lengths) => lengths.sample(rng),
            Sampler::Table(table) => table.quantile(rng::uniform_open(rng)),
        }
    }

    /// As [`Lengths::quantile`].
    pub fn quantile(&self, u: f64) -> u32 {
        match self {
            Sampler::Formula(lengths) => lengths.quantile(u),
            Sampler::Table(table) => table.quantile(u),
        }
    }
}

/// The nearest token count within the clamps. Casting saturates, so that infinity is `max`.
fn clamp(tokens: f64, min: u32, max: Option<u32>) -> u32 {
    (libm::round(tokens) as u32).clamp(min, max.unwrap_or(MAX_TOKENS))
}

pub(super) fn check_tokens(problems: &mut Problems, tokens: u32, field: &str) {
    problems.require((1..=MAX_TOKENS).contains(&tokens), field, || {
        format!("must be from 1 to {MAX_TOKENS} tokens, not {tokens}")
    });
}

pub(super) fn check_clamps(problems: &mut Problems, min: u32, max: Option<u32>) {
    check_tokens(problems, min, "min");
    if let Some(max) = max {
        check_tokens(problems, max, "max");
        problems.require(min <= max, "max", || format!("must not be below min, which is {min}, not {max}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Lengths {
        serde_json::from_str(text).unwrap()
    }

    fn draw(lengths: &Lengths, seed: u64) -> Vec<f64> {
        let mut rng = rng::stream(seed, "workload/input");
        (0..200_000).map(|_| f64::from(lengths.sample(&mut rng))).collect()
    }

    fn mean_std(xs: &[f64]) -> (f64, f64) {
        let mean = xs.iter().sum::<f64>() / xs.len() as f64;
        (mean, (xs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / xs.len() as f64).sqrt())
    }

    #[test]
    fn moments_and_quantiles_are_those_asked_for() {
        let seed = 7;
        println!("seed {seed}");
        // Relative tolerances: about five standard errors of the statistic at 200,000 draws.
        for (text, mean, std, tolerance) in [
            (r#"{"constant": {"tokens": 512}}"#, 512.0, 0.0, 0.0),
            (r#"{"normal": {"mean": 1000, "std": 100}}"#, 1000.0, 100.0, 0.01),
            (r#"{"uniform": {"min": 100, "max": 300}}"#, 200.0, (201.0f64.powi(2) / 12.0 - 1.0 / 12.0).sqrt(), 0.01),
            (r#"{"lognormal_mean_std": {"mean": 800, "std": 600}}"#, 800.0, 600.0, 0.03),
            (
                r#"{"lognormal": {"mu": 6.0, "sigma": 0.5}}"#,
                6.125f64.exp(),
                6.125f64.exp() * 0.25f64.exp_m1().sqrt(),
                0.02,
            ),
        ] {
            let (got_mean, got_std) = mean_std(&draw(&parse(text), seed));
            assert!((got_mean - mean).abs() <= tolerance * mean, "{text}: mean {got_mean}");
            assert!((got_std - std).abs() <= tolerance * std, "{text}: std {got_std} instead of {std}");
        }
        let mut xs = draw(&parse(r#"{"lognormal_p50_p90": {"p50": 200, "p90": 1000}}"#), seed);
        xs.sort_by(f64::total_cmp);
        let (p50, p90) = (xs[100_000], xs[180_000]);
        assert!((p50 - 200.0).abs() < 5.0 && (p90 - 1000.0).abs() < 25.0, "{p50} {p90}");
    }

    #[test]
    fn draws_stay_within_the_clamps() {
        for (text, min, max) in [
            (r#"{"normal": {"mean": 2, "std": 50}}"#, 1, MAX_TOKENS),
            (r#"{"normal": {"mean": 100, "std": 50, "min": 90, "max": 95}}"#, 90, 95),
            (r#"{"lognormal": {"mu": 60, "sigma": 30}}"#, 1, MAX_TOKENS),
            (r#"{"lognormal": {"mu": -900, "sigma": 0}}"#, 1, 1),
            (r#"{"uniform": {"min": 3, "max": 4}}"#, 3, 4),
        ] {
            let lengths = parse(text);
            assert_eq!(lengths.problems("input"), []);
            let mut rng = rng::stream(1, "x");
            for _ in 0..1000 {
                let tokens = lengths.sample(&mut rng);
                assert!((min..=max).contains(&tokens), "{text}: {tokens}");
            }
        }
    }

    #[test]
    fn all_problems_are_found_at_once() {
        for (text, expect) in [
            (r#"{"constant": {"tokens": 0}}"#, vec!["constant.tokens"]),
            (r#"{"normal": {"mean": -1, "std": -1, "min": 0}}"#, vec!["normal.mean", "normal.std", "normal.min"]),
            (r#"{"lognormal": {"mu": 1, "sigma": -1, "min": 9, "max": 8}}"#, vec!["lognormal.sigma", "lognormal.max"]),
            (r#"{"lognormal_mean_std": {"mean": 0, "std": 1}}"#, vec!["lognormal_mean_std.mean"]),
            (r#"{"lognormal_p50_p90": {"p50": 9, "p90": 9}}"#, vec!["lognormal_p50_p90.p90"]),
            (r#"{"uniform": {"min": 1, "max": 20000000}}"#, vec!["uniform.max"]),
        ] {
            let paths: Vec<String> = parse(text).problems("input").into_iter().map(|p| p.path).collect();
            assert_eq!(paths, expect.iter().map(|e| format!("input.{e}")).collect::<Vec<_>>(), "{text}");
        }
        assert!(serde_json::from_str::<Lengths>(r#"{"constant": {"tokens": 1, "min": 1}}"#).is_err());
        assert!(serde_json::from_str::<Lengths>(r#"{"pareto": {}}"#).is_err());
    }
}
