//! How far one series of numbers is off another: pure functions over pairs, for `compare`, `calibrate` and reports.
//!
//! Errors are those of the second number, `simulated`, against the first, `measured`; relative ones are fractions of the
//! measured value. Pairs whose measured value is 0 have no relative error, and are left out of [`mape`] and [`bias`]. What
//! cannot be said of the pairs given (no pair, no spread) is `None`. Nothing is rounded; sums run in the order of the pairs,
//! and the bootstrap draws from a labelled stream: the same pairs and seed give the same bits.

use pipe_kernel::rng;

use crate::query::functions::quantile_of;

/// Two values of one thing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pair {
    pub measured: f64,
    pub simulated: f64,
}

impl Pair {
    /// (simulated - measured) / measured; `None` where nothing was measured but 0.
    pub(crate) fn relative(self) -> Option<f64> {
        (self.measured != 0.0).then(|| (self.simulated - self.measured) / self.measured)
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0u32), |(sum, n), v| (sum + v, n + 1));
    (n > 0).then(|| sum / f64::from(n))
}

pub(crate) fn mean_measured(pairs: &[Pair]) -> Option<f64> {
    mean(pairs.iter().map(|p| p.measured))
}

pub(crate) fn mean_simulated(pairs: &[Pair]) -> Option<f64> {
    mean(pairs.iter().map(|p| p.simulated))
}

/// Error of the mean, as a fraction of the measured one.
pub(crate) fn error_of_mean(pairs: &[Pair]) -> Option<f64> {
    Pair { measured: mean_measured(pairs)?, simulated: mean_simulated(pairs)? }.relative()
}

/// Mean absolute relative error.
pub(crate) fn mape(pairs: &[Pair]) -> Option<f64> {
    mean(pairs.iter().filter_map(|p| p.relative()).map(f64::abs))
}

/// Mean relative error, with its sign: above 0 where the simulation is slower.
pub(crate) fn bias(pairs: &[Pair]) -> Option<f64> {
    mean(pairs.iter().filter_map(|p| p.relative()))
}

/// Root of the mean squared error, in the unit of the values.
pub(crate) fn rmse(pairs: &[Pair]) -> Option<f64> {
    let squares = pairs.iter().map(|p| (p.simulated - p.measured) * (p.simulated - p.measured));
    mean(squares).map(libm::sqrt)
}

/// Pearson's correlation. `None` for fewer than two pairs, or where either side does not vary.
pub(crate) fn pearson(pairs: &[Pair]) -> Option<f64> {
    let (x, y) = (mean_measured(pairs)?, mean_simulated(pairs)?);
    let sum = |f: fn(f64, f64) -> f64| pairs.iter().map(|p| f(p.measured - x, p.simulated - y)).sum::<f64>();
    let (xx, yy, xy) = (sum(|a, _| a * a), sum(|_, b| b * b), sum(|a, b| a * b));
    let spread = libm::sqrt(xx) * libm::sqrt(yy);
    // Equal values have a mean that may be off by a rounding, and so a spread that is nothing but that.
    let varies = |sum: f64, mean: f64| libm::sqrt(sum / pairs.len() as f64) > 1e-12 * mean.abs();
    (pairs.len() > 1 && varies(xx, x) && varies(yy, y)).then(|| (xy / spread).clamp(-1.0, 1.0))
}

/// Quantile `q` of either side, by linear interpolation.
pub(crate) fn quantiles(pairs: &[Pair], q: f64) -> Option<Pair> {
    let of = |f: fn(&Pair) -> f64| quantile_of(&mut pairs.iter().map(f).collect::<Vec<f64>>(), q);
    Some(Pair { measured: of(|p| p.measured)?, simulated: of(|p| p.simulated)? })
}

/// Error of quantile `q`, as a fraction of the measured one.
pub(crate) fn error_of_quantile(pairs: &[Pair], q: f64) -> Option<f64> {
    quantiles(pairs, q)?.relative()
}

/// A figure of pairs.
pub(crate) type Of = fn(&[Pair]) -> Option<f64>;

/// How a bootstrap draws.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bootstrap<'a> {
    /// How often as many pairs as there are are drawn from them, with replacement.
    pub resamples: u32,
    /// Of the interval, 0 to 1: 0.95 leaves out 2.5% of the resamples at either end.
    pub confidence: f64,
    pub seed: u64,
    /// Name of the random stream.
    pub label: &'a str,
}

/// An interval of confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Interval {
    pub low: f64,
    pub high: f64,
}

impl Bootstrap<'_> {
    /// The percentile intervals of figures of `pairs`, all from the same resamples. `None` where no resample has the
    /// figure, or none is drawn.
    pub(crate) fn intervals<const N: usize>(&self, pairs: &[Pair], figures: [Of; N]) -> [Option<Interval>; N] {
        let mut values: [Vec<f64>; N] = std::array::from_fn(|_| Vec::new());
        let mut stream = rng::stream(self.seed, self.label);
        let mut drawn = Vec::with_capacity(pairs.len());
        for _ in 0..if pairs.is_empty() { 0 } else { self.resamples } {
            drawn.clear();
            drawn.extend((0..pairs.len()).map(|_| pairs[rng::below(&mut stream, pairs.len() as u64) as usize]));
            for (values, figure) in values.iter_mut().zip(figures) {
                values.extend(figure(&drawn).filter(|v| v.is_finite()));
            }
        }
        let tail = (1.0 - self.confidence) / 2.0;
        values.map(|mut values| {
            let low = quantile_of(&mut values, tail)?;
            Some(Interval { low, high: quantile_of(&mut values, 1.0 - tail)? })
        })
    }
}

/// How good agreement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Poor,
    Fair,
    Good,
    Excellent,
}

impl Verdict {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Verdict::Poor => "poor",
            Verdict::Fair => "fair",
            Verdict::Good => "good",
            Verdict::Excellent => "excellent",
        }
    }
}

/// What a verdict asks for: an error below this, and a correlation above that. An unknown correlation (fewer than two
/// pairs, no spread) does not speak against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Threshold {
    /// A fraction.
    pub mape_max: f64,
    pub pearson_min: f64,
}

/// The best verdict whose threshold is met; `thresholds` of excellent, good and fair.
pub(crate) fn verdict(mape: f64, pearson: Option<f64>, thresholds: &[Threshold; 3]) -> Verdict {
    let met = |t: &Threshold| mape < t.mape_max && pearson.is_none_or(|r| r > t.pearson_min);
    let steps = [Verdict::Excellent, Verdict::Good, Verdict::Fair];
    steps.into_iter().zip(thresholds).find(|(_, t)| met(t)).map_or(Verdict::Poor, |(v, _)| v)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs() -> Vec<Pair> {
        // measured: 10 + (7 i mod 13) * 3.5; simulated: 1.07 measured + 0.3 ((5 i mod 11) - 5), i = 0..40
        let pair = |i: u32| {
            let measured = 10.0 + f64::from(7 * i % 13) * 3.5;
            Pair { measured, simulated: 1.07 * measured + 0.3 * (f64::from(5 * i % 11) - 5.0) }
        };
        (0..40).map(pair).collect()
    }

    #[track_caller]
    fn close(value: Option<f64>, expected: f64) {
        let value = value.unwrap();
        assert!((value - expected).abs() <= 1e-12 * expected.abs().max(1.0), "{value}, expected {expected}");
    }

    /// Expected: numpy 2.4.6, by
    /// ```python
    /// i = np.arange(40); m = 10 + (7*i%13)*3.5; s = 1.07*m + .3*((5*i%11)-5.); r = (s-m)/m
    /// m.mean(), s.mean(), s.mean()/m.mean()-1, abs(r).mean(), r.mean(), np.sqrt(((s-m)**2).mean()),
    /// np.corrcoef(m,s)[0,1], [np.quantile(s,q)/np.quantile(m,q)-1 for q in (.5,.9,.95,.99)]
    /// ```
    #[test]
    fn figures_agree_with_numpy() {
        let pairs = pairs();
        close(mean_measured(&pairs), NUMPY[0]);
        close(mean_simulated(&pairs), NUMPY[1]);
        close(error_of_mean(&pairs), NUMPY[2]);
        close(mape(&pairs), NUMPY[3]);
        close(bias(&pairs), NUMPY[4]);
        close(rmse(&pairs), NUMPY[5]);
        close(pearson(&pairs), NUMPY[6]);
        for (q, expected) in [0.5, 0.9, 0.95, 0.99].into_iter().zip(&NUMPY[7..]) {
            close(error_of_quantile(&pairs, q), *expected);
        }
    }

    const NUMPY: [f64; 11] = [
        30.475,
        32.63825,
        0.07098441345365036,
        0.08678954631400393,
        0.08278954631400395,
        2.3588278339039515,
        0.998204078387256,
        0.05548387096774188,
        0.050824742268041234,
        0.043749999999999734,
        0.09659615384615394,
    ];

    #[test]
    fn what_cannot_be_said_is_none() {
        let pair = |measured, simulated| Pair { measured, simulated };
        assert_eq!((mape(&[]), rmse(&[]), pearson(&[]), error_of_quantile(&[], 0.5)), (None, None, None, None));
        assert_eq!(mape(&[pair(0.0, 1.0)]), None);
        // The pair without a measured value counts in the RMSE alone.
        let mixed = [pair(0.0, 3.0), pair(10.0, 11.0)];
        assert_eq!((mape(&mixed), bias(&mixed), rmse(&mixed)), (Some(0.1), Some(0.1), Some(libm::sqrt(5.0))));
        assert_eq!(pearson(&[pair(1.0, 2.0)]), None);
        assert_eq!(pearson(&[pair(0.1, 1.0), pair(0.1, 2.0), pair(0.1, 3.0)]), None);
    }

    /// The interval of the mean is that of the central limit theorem: numpy's standard error of r, times 1.96.
    #[test]
    fn the_bootstrap_is_deterministic_and_as_wide_as_theory_has_it() {
        let pairs = pairs();
        let draw =
            |seed| Bootstrap { resamples: 4000, confidence: 0.95, seed, label: "t" }.intervals(&pairs, [bias, mape]);
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let [Some(interval), Some(_)] = draw(1) else { panic!() };
        let (low, high) = (NUMPY[4] - 1.96 * STD_ERROR, NUMPY[4] + 1.96 * STD_ERROR);
        let slack = 0.15 * 1.96 * STD_ERROR;
        assert!(
            (interval.low - low).abs() < slack && (interval.high - high).abs() < slack,
            "{interval:?} {low} {high}"
        );
        let none = Bootstrap { resamples: 0, confidence: 0.95, seed: 1, label: "t" }.intervals(&pairs, [bias]);
        assert_eq!(none, [None]);
    }

    /// `r.std() / np.sqrt(40)`
    const STD_ERROR: f64 = 0.008249078024747555;

    #[test]
    fn verdicts() {
        let threshold = |mape_max, pearson_min| Threshold { mape_max, pearson_min };
        let scale = [threshold(0.1, 0.95), threshold(0.2, 0.85), threshold(0.35, 0.7)];
        for (mape, pearson, expected) in [
            (0.05, Some(0.99), Verdict::Excellent),
            (0.05, Some(0.9), Verdict::Good),
            (0.05, Some(0.8), Verdict::Fair),
            (0.05, Some(0.5), Verdict::Poor),
            (0.1, Some(0.99), Verdict::Good),
            (0.34, None, Verdict::Fair),
            (0.35, Some(1.0), Verdict::Poor),
        ] {
            assert_eq!(verdict(mape, pearson, &scale), expected, "{mape} {pearson:?}");
        }
    }
}
