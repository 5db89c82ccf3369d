//! numpy's methods of quantiles, nine of which are those of Hyndman and Fan, "Sample quantiles in statistical packages",
//! The American Statistician 50 (1996).

use datafusion::common::plan_err;
use datafusion::error::Result;

use crate::diag::nearest;

/// Where between the values of a sample a quantile lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    InvertedCdf,
    AveragedInvertedCdf,
    ClosestObservation,
    InterpolatedInvertedCdf,
    Hazen,
    Weibull,
    Linear,
    MedianUnbiased,
    NormalUnbiased,
    Lower,
    Higher,
    Midpoint,
    Nearest,
}

impl Method {
    /// Every method with numpy's name.
    pub const ALL: [(&'static str, Method); 13] = [
        ("inverted_cdf", Method::InvertedCdf),
        ("averaged_inverted_cdf", Method::AveragedInvertedCdf),
        ("closest_observation", Method::ClosestObservation),
        ("interpolated_inverted_cdf", Method::InterpolatedInvertedCdf),
        ("hazen", Method::Hazen),
        ("weibull", Method::Weibull),
        ("linear", Method::Linear),
        ("median_unbiased", Method::MedianUnbiased),
        ("normal_unbiased", Method::NormalUnbiased),
        ("lower", Method::Lower),
        ("higher", Method::Higher),
        ("midpoint", Method::Midpoint),
        ("nearest", Method::Nearest),
    ];

    /// # Errors
    /// There is no such method.
    pub fn named(name: &str) -> Result<Method> {
        if let Some((_, method)) = Method::ALL.iter().find(|(n, _)| *n == name) {
            return Ok(*method);
        }
        let names: Vec<&str> = Method::ALL.iter().map(|(n, _)| *n).collect();
        let near = nearest(name, names.iter().copied()).map_or(String::new(), |n| format!("; did you mean '{n}'?"));
        plan_err!("quantile has no method '{name}'{near} (methods: {})", names.join(", "))
    }

    /// The index of the value below the quantile `q` among `len` sorted ones, and how far it is to the next: 0 to 1.
    pub fn place(self, len: usize, q: f64) -> (usize, f64) {
        let n = len as f64;
        let last = (len - 1) as f64;
        // Parameters alpha and beta of Hyndman and Fan, in numpy's order of operations.
        let between = |alpha: f64, beta: f64| n * q + (alpha + q * (1.0 - alpha - beta)) - 1.0;
        let position = match self {
            Method::InvertedCdf => (n * q - 1.0).ceil(),
            Method::AveragedInvertedCdf => match n * q - 1.0 {
                whole if whole.fract() == 0.0 => whole + 0.5,
                part => part.ceil(),
            },
            Method::ClosestObservation => match n * q - 1.5 {
                // A tie goes to the odd index, which is the even place when counted from one.
                tie if tie.fract() == 0.0 && tie.rem_euclid(2.0) == 1.0 => tie,
                other => other.floor() + 1.0,
            },
            Method::InterpolatedInvertedCdf => between(0.0, 1.0),
            Method::Hazen => between(0.5, 0.5),
            Method::Weibull => between(0.0, 0.0),
            Method::Linear => last * q,
            Method::MedianUnbiased => between(1.0 / 3.0, 1.0 / 3.0),
            Method::NormalUnbiased => between(3.0 / 8.0, 3.0 / 8.0),
            Method::Lower => (last * q).floor(),
            Method::Higher => (last * q).ceil(),
            Method::Midpoint => 0.5 * ((last * q).floor() + (last * q).ceil()),
            Method::Nearest => (last * q).round_ties_even(),
        };
        let position = position.clamp(0.0, last);
        let index = (position.floor() as usize).min(len - 1);
        (index, position - index as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::super::quantile::quantile_by;
    use super::*;

    /// Of 10, 20, ..., 100 by the definitions of Hyndman and Fan; the figures are numpy's as well.
    #[test]
    fn methods() {
        let tens: Vec<f64> = (1..=10).map(|v| f64::from(v) * 10.0).collect();
        let cases = [
            // q = 0.25: n q = 2.5; q = 0.5: n q = 5, a tie; q = 0.05: n q = 0.5.
            ("inverted_cdf", [30.0, 50.0, 10.0, 100.0]),
            ("averaged_inverted_cdf", [30.0, 55.0, 10.0, 100.0]),
            ("closest_observation", [20.0, 50.0, 10.0, 100.0]),
            ("interpolated_inverted_cdf", [25.0, 50.0, 10.0, 100.0]),
            ("hazen", [30.0, 55.0, 10.0, 100.0]),
            ("weibull", [27.5, 55.0, 10.0, 100.0]),
            ("linear", [32.5, 55.0, 14.5, 100.0]),
            ("lower", [30.0, 50.0, 10.0, 100.0]),
            ("higher", [40.0, 60.0, 20.0, 100.0]),
            ("midpoint", [35.0, 55.0, 15.0, 100.0]),
            ("nearest", [30.0, 50.0, 10.0, 100.0]),
        ];
        for (name, expect) in cases {
            let method = Method::named(name).unwrap();
            let got = [0.25, 0.5, 0.05, 1.0].map(|q| quantile_by(&mut tens.clone(), q, method).unwrap());
            assert_eq!(got, expect, "{name}");
        }
        // (n + 1/3) q + 1/3 = 2.91666..., and (n + 1/4) q + 3/8 = 2.9375.
        for (name, expect) in [("median_unbiased", 29.0 + 1.0 / 6.0), ("normal_unbiased", 29.375)] {
            let got = quantile_by(&mut tens.clone(), 0.25, Method::named(name).unwrap()).unwrap();
            assert!((got - expect).abs() < 1e-12, "{name}: {got}");
        }
    }

    #[test]
    fn one_value_is_every_quantile() {
        for (name, method) in Method::ALL {
            for q in [0.0, 0.3, 1.0] {
                assert_eq!(quantile_by(&mut [7.0], q, method), Some(7.0), "{name} {q}");
            }
        }
    }

    #[test]
    fn names_that_are_none() {
        let error = Method::named("linaer").unwrap_err().to_string();
        assert!(error.contains("did you mean 'linear'?"), "{error}");
    }
}
