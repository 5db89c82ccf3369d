//! Families of lengths beyond the common ones: their parameters, and their quantiles.

use rand_pcg::Pcg64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::lengths::{check_tokens, one};
use super::{MAX_TOKENS, Problems};
use crate::rng;

/// Parameters of exponentially distributed lengths.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exponential {
    /// Mean in tokens, before clamping.
    pub mean: f64,
    /// Shortest length in tokens, at least 1.
    #[serde(default = "one")]
    pub min: u32,
    /// Longest length in tokens. Default: no limit of its own.
    #[serde(default)]
    pub max: Option<u32>,
}

/// Parameters of gamma-distributed lengths.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GammaLengths {
    /// Mean in tokens, before clamping.
    pub mean: f64,
    /// Standard deviation in tokens, before clamping; the shape is `(mean / std)^2`.
    pub std: f64,
    /// Shortest length in tokens, at least 1.
    #[serde(default = "one")]
    pub min: u32,
    /// Longest length in tokens. Default: no limit of its own.
    #[serde(default)]
    pub max: Option<u32>,
}

/// Parameters of Pareto-distributed lengths: a share `(xm / x)^alpha` of all is longer than `x`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pareto {
    /// Exponent of the tail. The mean is `xm * alpha / (alpha - 1)` where it is above 1, and infinite else.
    pub alpha: f64,
    /// Shortest length in tokens, before rounding.
    pub xm: f64,
    /// Shortest length in tokens after rounding, at least 1.
    #[serde(default = "one")]
    pub min: u32,
    /// Longest length in tokens. Default: no limit of its own.
    #[serde(default)]
    pub max: Option<u32>,
}

/// Parameters of a mix of Pareto and lognormal lengths.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParetoLognormal {
    /// Exponent of the Pareto tail.
    pub alpha: f64,
    /// Shortest length of the Pareto part in tokens.
    pub xm: f64,
    /// Mean of the natural logarithm of the lognormal part.
    pub mu: f64,
    /// Standard deviation of the natural logarithm of the lognormal part.
    pub sigma: f64,
    /// Share of the Pareto part, 0 to 1.
    pub mix_weight: f64,
    /// Shortest length in tokens, at least 1.
    #[serde(default = "one")]
    pub min: u32,
    /// Longest length in tokens. Default: no limit of its own.
    #[serde(default)]
    pub max: Option<u32>,
}

/// Parameters of lengths after Zipf's law.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Zipf {
    /// Shortest and most common length in tokens, at least 1.
    pub min: u32,
    /// Longest length in tokens, itself included; less than 1048576 above `min`.
    pub max: u32,
    /// Exponent: 0 is uniform.
    pub theta: f64,
}

impl Zipf {
    /// Most lengths: each has an entry of a table.
    pub(super) const WIDEST: u32 = 1 << 20;

    pub(super) fn table(&self) -> Table {
        let weight = |length| libm::pow(f64::from(length - self.min + 1), -self.theta);
        Table::of((self.min..=self.max).map(|length| (length, weight(length))))
    }
}

/// Parameters of lengths after a skewed normal distribution (Azzalini 1985):
/// `location + scale * (d * |Z| + sqrt(1 - d^2) * Y)` with `d = shape / sqrt(1 + shape^2)` and normal `Z`, `Y`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SkewNormal {
    /// In tokens. The mean is `location + scale * d * sqrt(2 / pi)`.
    pub location: f64,
    /// In tokens.
    pub scale: f64,
    /// Above 0 the long tail is that of long lengths; 0 is normal.
    pub shape: f64,
    /// Shortest length in tokens, at least 1.
    #[serde(default = "one")]
    pub min: u32,
    /// Longest length in tokens. Default: no limit of its own.
    #[serde(default)]
    pub max: Option<u32>,
}

impl SkewNormal {
    pub(super) fn sample(&self, rng: &mut Pcg64) -> f64 {
        let delta = self.shape / libm::sqrt(1.0 + self.shape * self.shape);
        let (folded, free) = (rng::standard_normal(rng).abs(), rng::standard_normal(rng));
        self.location + self.scale * (delta * folded + libm::sqrt(1.0 - delta * delta) * free)
    }
}

/// Lengths as they are: each of `values` with its weight, or those of a column of a table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Empirical {
    /// Lengths in tokens.
    pub values: Vec<u32>,
    /// A weight for each of `values`. Default: all weigh the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<f64>,
    /// Instead of `values`: the table that has them. Rows where the column is null, or below 1, are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The column of `from`, of whole numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
}

impl Empirical {
    pub(super) fn table(&self) -> Table {
        let weight = |i: usize| self.weights.get(i).copied().unwrap_or(1.0);
        Table::of(self.values.iter().enumerate().map(|(i, v)| (*v, weight(i))))
    }

    pub(super) fn check(&self, problems: &mut Problems) {
        let Empirical { values, weights, from, column } = self;
        problems.require(values.is_empty() != from.is_none(), "values", || match from {
            Some(_) => "cannot be there together with `from`".to_owned(),
            None => "are missing: at least one, or a table (`from`) and its `column`".to_owned(),
        });
        problems.require(from.is_some() == column.is_some(), "column", || match from {
            Some(_) => "is missing: the column of `from` that has the lengths".to_owned(),
            None => "has no meaning without `from`".to_owned(),
        });
        for (i, tokens) in values.iter().enumerate() {
            check_tokens(problems, *tokens, &format!("values.{i}"));
        }
        problems.require(weights.is_empty() || weights.len() == values.len(), "weights", || {
            format!("must be as many as values, which are {}, not {}", values.len(), weights.len())
        });
        for (i, weight) in weights.iter().enumerate() {
            problems.require_at_least_zero(*weight, &format!("weights.{i}"));
        }
        problems.require(weights.is_empty() || weights.iter().any(|w| *w > 0.0), "weights", || {
            "must not all be 0".to_owned()
        });
    }
}

/// Values and the share of all that is not above them.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Ascending, each once.
    values: Vec<u32>,
    /// The last is the sum of all weights.
    cumulative: Vec<f64>,
}

impl Table {
    /// Of values and their weights, of which at least one is above 0.
    pub(super) fn of(weighted: impl Iterator<Item = (u32, f64)>) -> Table {
        let mut pairs: Vec<(u32, f64)> = weighted.filter(|(_, weight)| *weight > 0.0).collect();
        pairs.sort_by_key(|(value, _)| *value);
        let mut table = Table { values: Vec::new(), cumulative: Vec::new() };
        let mut sum = 0.0;
        for (value, weight) in pairs {
            sum += weight;
            if table.values.last() == Some(&value) {
                *table.cumulative.last_mut().expect("a value has its sum") = sum;
            } else {
                table.values.push(value);
                table.cumulative.push(sum);
            }
        }
        assert!(!table.values.is_empty(), "a table of lengths has a value of positive weight");
        table
    }

    /// The first value that a share of at least `u` is not above.
    pub(super) fn quantile(&self, u: f64) -> u32 {
        let last = self.values.len() - 1;
        let target = u * self.cumulative[last];
        self.values[self.cumulative.partition_point(|c| *c <= target).min(last)]
    }
}

/// Steps of a bisection: what is left of the interval is below the precision of a float.
const STEPS: usize = 64;

/// The quantile of a gamma distribution of scale 1: where its regularised lower incomplete gamma function is `u`.
pub(super) fn gamma_quantile(shape: f64, u: f64) -> f64 {
    // On a logarithmic axis, since small shapes have quantiles of any smallness. P(a, x) < x^a / Gamma(a + 1).
    let mut low = (libm::log(u) + libm::lgamma(shape + 1.0)) / shape;
    let mut high = libm::log(shape + 50.0 + 10.0 * libm::sqrt(shape)).max(low + 1.0);
    while gamma_below(shape, libm::exp(high)) < u {
        high += 1.0;
    }
    for _ in 0..STEPS {
        let middle = f64::midpoint(low, high);
        if gamma_below(shape, libm::exp(middle)) < u {
            low = middle;
        } else {
            high = middle;
        }
    }
    libm::exp(f64::midpoint(low, high))
}

/// The regularised lower incomplete gamma function P(a, x): by its series for small x, by the continued fraction of the
/// upper one else (Abramowitz and Stegun 6.5.29 and 6.5.31, the latter after Lentz).
fn gamma_below(a: f64, x: f64) -> f64 {
    let front = libm::exp(a * libm::log(x) - x - libm::lgamma(a));
    if x < a + 1.0 {
        let (mut term, mut sum, mut n) = (1.0 / a, 1.0 / a, a);
        while term > sum * 1e-16 {
            n += 1.0;
            term *= x / n;
            sum += term;
        }
        return (sum * front).min(1.0);
    }
    const TINY: f64 = 1e-300;
    let mut b = x + 1.0 - a;
    let mut c = 1.0 / TINY;
    let mut d = 1.0 / b;
    let mut fraction = d;
    for i in 1..10_000 {
        let i = f64::from(i);
        let an = -i * (i - a);
        b += 2.0;
        d = an * d + b;
        d = 1.0 / if d.abs() < TINY { TINY } else { d };
        c = b + an / c;
        c = if c.abs() < TINY { TINY } else { c };
        let delta = c * d;
        fraction *= delta;
        if (delta - 1.0).abs() < 1e-15 {
            break;
        }
    }
    (1.0 - front * fraction).max(0.0)
}

/// The quantile of the mix, by bisection on a logarithmic axis up to [`MAX_TOKENS`]: above it everything is clamped.
pub(super) fn pareto_lognormal_quantile(mix: &ParetoLognormal, u: f64) -> f64 {
    let below = |log_x: f64| {
        let pareto = (1.0 - libm::exp(mix.alpha * (libm::log(mix.xm) - log_x))).max(0.0);
        let lognormal = normal_below((log_x - mix.mu) / mix.sigma);
        mix.mix_weight * pareto + (1.0 - mix.mix_weight) * lognormal
    };
    let (mut low, mut high) = (-2.0, libm::log(f64::from(MAX_TOKENS)) + 1.0);
    for _ in 0..STEPS {
        let middle = f64::midpoint(low, high);
        if below(middle) < u {
            low = middle;
        } else {
            high = middle;
        }
    }
    libm::exp(high)
}

/// The distribution function of the standard normal.
pub(super) fn normal_below(x: f64) -> f64 {
    0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}
