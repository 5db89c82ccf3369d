//! Is one configuration better than another, when both were simulated several times with the same random numbers?
//!
//! The differences, replication by replication, vary much less than the values themselves, because the luck of a
//! workload meets both (common random numbers). Their mean has Student's t distribution, if they are about normal.

/// The mean difference of two paired samples, and how well it is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Mean of `a - b`.
    pub mean: f64,
    /// Standard error of the mean.
    pub standard_error: f64,
    /// Ends of the confidence interval.
    pub low: f64,
    pub high: f64,
    /// Two-sided: how likely a mean this far from 0 would be, if the two were the same.
    pub p: f64,
}

/// The paired difference `a - b` with an interval of some confidence, say 0.95. `None` for fewer than two pairs, or
/// where a difference is not finite.
///
/// Differences that are all the same have an interval without width: of a deterministic simulation that is the truth.
pub fn difference(a: &[f64], b: &[f64], confidence: f64) -> Option<Difference> {
    assert_eq!(a.len(), b.len(), "values come in pairs");
    assert!(confidence > 0.0 && confidence < 1.0, "a confidence lies between 0 and 1");
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    let n = differences.len() as f64;
    if differences.len() < 2 || differences.iter().any(|d| !d.is_finite()) {
        return None;
    }
    let mean = differences.iter().sum::<f64>() / n;
    let constant = differences.windows(2).all(|pair| pair[0] == pair[1]);
    let squares: f64 = differences.iter().map(|d| (d - mean) * (d - mean)).sum();
    let standard_error = if constant { 0.0 } else { libm::sqrt(squares / (n - 1.0) / n) };
    let mean = if constant { differences[0] } else { mean };
    let reach = if constant { 0.0 } else { t_quantile(0.5 + 0.5 * confidence, n - 1.0) * standard_error };
    let p = match (constant, mean == 0.0) {
        (true, true) => 1.0,
        (true, false) => 0.0,
        (false, _) => 2.0 * t_below(-(mean / standard_error).abs(), n - 1.0),
    };
    Some(Difference { mean, standard_error, low: mean - reach, high: mean + reach, p })
}

/// The probability that Student's t with some degrees of freedom is below `t`; accurate in the lower tail.
pub fn t_below(t: f64, freedom: f64) -> f64 {
    assert!(freedom > 0.0, "degrees of freedom are positive");
    if t > 0.0 {
        return 1.0 - t_below(-t, freedom);
    }
    // Half the incomplete beta function at freedom / (freedom + t^2), from the side where it is small.
    let x = freedom / (freedom + t * t);
    if x < 0.5 {
        0.5 * beta(x, 0.5 * freedom, 0.5)
    } else {
        0.5 - 0.5 * beta(t * t / (freedom + t * t), 0.5, 0.5 * freedom)
    }
}

/// The number below which Student's t with some degrees of freedom is with probability `p` in (0, 1).
pub fn t_quantile(p: f64, freedom: f64) -> f64 {
    assert!(p > 0.0 && p < 1.0, "a quantile is asked for a probability inside (0, 1), not {p}");
    if p > 0.5 {
        return -t_quantile(1.0 - p, freedom);
    }
    // Between 0 and a number far enough out, halved until nothing is between.
    let (mut low, mut high) = (-1.0, 0.0);
    while t_below(low, freedom) > p && low > -1e300 {
        (low, high) = (low * 2.0, low);
    }
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return middle;
        }
        if t_below(middle, freedom) < p { low = middle } else { high = middle }
    }
}

/// The regularized incomplete beta function, by its continued fraction (DLMF 8.17.22), evaluated as Lentz has it.
fn beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    // It converges fast below the mean; above, the other tail does.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - beta(1.0 - x, b, a);
    }
    const TINY: f64 = 1e-300;
    let front =
        libm::exp(libm::lgamma(a + b) - libm::lgamma(a) - libm::lgamma(b) + a * libm::log(x) + b * libm::log1p(-x)) / a;
    let (mut f, mut c, mut d) = (1.0, 1.0, 0.0);
    for i in 0..10_000 {
        let m = f64::from(i / 2);
        let term = if i == 0 {
            1.0
        } else if i % 2 == 0 {
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
        } else {
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
        };
        let floor = |v: f64| if v.abs() < TINY { TINY } else { v };
        d = 1.0 / floor(1.0 + term * d);
        c = floor(1.0 + term / c);
        f *= c * d;
        if i > 0 && (c * d - 1.0).abs() < 1e-16 {
            break;
        }
    }
    front * (f - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    fn close(ours: f64, theirs: f64, tolerance: f64) {
        assert!((ours - theirs).abs() <= tolerance * theirs.abs(), "{ours} instead of {theirs}");
    }

    #[test]
    fn quantiles_of_scipy() {
        // scipy 1.17.1: stats.t.ppf(p, df) for these degrees of freedom.
        let freedoms = [1.0, 2.0, 3.0, 4.0, 9.0, 29.0, 100.0];
        for (p, expect) in [
            (
                0.6,
                [
                    0.32491969623290634,
                    0.2886751345948128,
                    0.2766706623326898,
                    0.2707222947075976,
                    0.260955336473911,
                    0.25568363457125604,
                    0.25402218245822766,
                ],
            ),
            (
                0.975,
                [
                    12.706204736174694,
                    4.302652729749462,
                    3.1824463052837078,
                    2.7764451051977934,
                    2.262157162798205,
                    2.045229642132703,
                    1.9839715185235518,
                ],
            ),
            (
                0.9999,
                [
                    3183.098757118502,
                    70.70007107496818,
                    22.203742273205,
                    13.033671720896821,
                    6.010132129081531,
                    4.253894118432321,
                    3.861599790950091,
                ],
            ),
            (
                0.01,
                [
                    -31.82051595377396,
                    -6.964556734283274,
                    -4.5407028585681335,
                    -3.746947387979197,
                    -2.8214379250258093,
                    -2.4620213601504126,
                    -2.3642173662384818,
                ],
            ),
        ] {
            for (freedom, expect) in freedoms.into_iter().zip(expect) {
                close(t_quantile(p, freedom), expect, 1e-11);
            }
        }
        // Near the normal.
        close(t_quantile(0.975, 1e6), 1.959966356814107, 1e-8);
        assert!(t_quantile(0.5, 3.0).abs() < 1e-15);
    }

    #[test]
    fn probabilities_of_scipy() {
        // scipy 1.17.1: stats.t.cdf(t, df), and stats.t.sf(t, df), which is the probability below -t.
        for (t, freedom, below, above) in [
            (0.5, 1.0, 0.6475836176504333, 0.35241638234956674),
            (2.0, 3.0, 0.9303370157205785, 0.06966298427942152),
            (-1.5, 4.0, 0.104, 0.896),
            (3.0, 9.0, 0.9925218180447929, 0.007478181955207111),
            (10.0, 29.0, 0.9999999999670007, 3.2999312882167624e-11),
            (0.001, 7.0, 0.5003849913775006, 0.4996150086224994),
            (40.0, 2.0, 0.9996877926639076, 0.0003122073360923703),
        ] {
            close(t_below(t, freedom), below, 1e-13);
            close(t_below(-t, freedom), above, 1e-11);
        }
    }

    #[test]
    fn intervals_of_scipy() {
        // scipy 1.17.1: r = stats.ttest_rel(x, y); r.pvalue; r.confidence_interval(0.95) and (0.99).
        let x = [5.1, 4.9, 6.2, 5.8, 6.0, 5.5, 5.3];
        let y = [4.8, 5.0, 5.6, 5.9, 5.4, 5.2, 5.1];
        let got = difference(&x, &y, 0.95).unwrap();
        close(got.mean, 0.2571428571428571, 1e-12);
        close(got.standard_error, 0.10879675865519872, 1e-12);
        close(got.p, 0.05601444486580006, 1e-11);
        close(got.low, -0.009073220976708651, 1e-10);
        close(got.high, 0.5233589352624228, 1e-12);
        let wider = difference(&x, &y, 0.99).unwrap();
        close(wider.low, -0.1462132945247388, 1e-11);
        close(wider.high, 0.660499008810453, 1e-11);
        let turned = difference(&y, &x, 0.95).unwrap();
        assert_eq!((turned.low, turned.high, turned.p), (-got.high, -got.low, got.p));
    }

    #[test]
    fn intervals_hold_the_truth_as_often_as_they_say() {
        let mut rng = rng::stream(5, "paired");
        let runs = 4000;
        let held = (0..runs)
            .filter(|_| {
                // What both share is much larger than what sets them apart.
                let luck: Vec<f64> = (0..6).map(|_| rng::normal(&mut rng, 0.0, 50.0)).collect();
                let a: Vec<f64> = luck.iter().map(|l| l + 0.3 + rng::standard_normal(&mut rng)).collect();
                let b: Vec<f64> = luck.iter().map(|l| l + rng::standard_normal(&mut rng)).collect();
                let interval = difference(&a, &b, 0.9).unwrap();
                interval.low <= 0.3 && 0.3 <= interval.high
            })
            .count() as f64;
        // Four standard errors of a share of 0.9.
        assert!((held / f64::from(runs) - 0.9).abs() < 0.019, "{held}");
    }

    #[test]
    fn few_and_equal_pairs() {
        assert_eq!(difference(&[1.0], &[2.0], 0.95), None);
        assert_eq!(difference(&[1.0, f64::INFINITY], &[2.0, 3.0], 0.95), None);
        let same = difference(&[1.0, 2.0, 3.0], &[0.5, 1.5, 2.5], 0.95).unwrap();
        assert_eq!(same, Difference { mean: 0.5, standard_error: 0.0, low: 0.5, high: 0.5, p: 0.0 });
        assert_eq!(difference(&[0.1, 0.7], &[0.1, 0.7], 0.95).unwrap().p, 1.0);
    }
}
