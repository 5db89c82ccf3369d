//! Labelled random streams, and the distributions drawn from them.
//!
//! A stream is named by a seed and a label (`"workload/arrivals"`). Streams are independent of each other: drawing
//! more from one never shifts another, so two scenarios of one seed share their random numbers stream by stream.
//!
//! What is promised: the bits. The same seed and label give the same numbers on every platform and in every release.
//! The generator is PCG XSL RR 128/64, whose output is specified; the distributions use `+ - * /`, square roots
//! (IEEE 754 rounds them correctly) and the `libm` crate, never the platform's own `ln`, `exp` or `pow`.
//!
//! Left out: cryptographic strength, and speed beyond what a workload needs (tens of nanoseconds per number).

use rand::Rng;
use rand_pcg::Pcg64;

/// The weyl increment of splitmix64: 2^64 over the golden ratio, made odd.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The stream of `seed` that is called `label`.
///
/// The label is hashed with FNV-1a (64 bit). Seed and hash are mixed by splitmix64 into the 128-bit state of the
/// generator and, independently, into its 128-bit increment, so that two streams coincide only when both collide.
pub fn stream(seed: u64, label: &str) -> Pcg64 {
    of_hash(seed, fnv1a(label.as_bytes()))
}

/// The stream that is called `{before}{number}{after}`, without writing that down: for labels that are made by the
/// million.
pub fn stream_numbered(seed: u64, before: &str, number: u64, after: &str) -> Pcg64 {
    // As many digits as the largest number has.
    let mut digits = [0u8; 20];
    let mut first = digits.len();
    let mut left = number;
    loop {
        first -= 1;
        digits[first] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    let parts = [before.as_bytes(), &digits[first..], after.as_bytes()];
    of_hash(seed, parts.iter().fold(FNV_START, |hash, bytes| fnv1a_on(hash, bytes)))
}

fn of_hash(seed: u64, label: u64) -> Pcg64 {
    let mut from_seed = mix64(seed.wrapping_add(GOLDEN)) ^ label;
    let mut from_label = mix64(label.wrapping_add(GOLDEN)) ^ seed;
    let state = wide(splitmix64(&mut from_seed), splitmix64(&mut from_seed));
    let increment = wide(splitmix64(&mut from_label), splitmix64(&mut from_label));
    Pcg64::new(state, increment)
}

fn wide(high: u64, low: u64) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

/// FNV-1a, 64 bit (Fowler, Noll, Vo).
pub fn fnv1a(bytes: &[u8]) -> u64 {
    fnv1a_on(FNV_START, bytes)
}

/// The hash of nothing.
const FNV_START: u64 = 0xCBF2_9CE4_8422_2325;

/// The hash of something that had the hash `start`, and then some bytes.
fn fnv1a_on(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01B3))
}

/// The finalizer of splitmix64 (Steele, Lea, Flood 2014; constants of Stafford's variant 13): a bijection of 64-bit
/// numbers in which every input bit moves about half of the output bits.
pub fn mix64(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(GOLDEN);
    mix64(*state)
}

/// Uniform in [0, 1): a multiple of 2^-53, from one 64-bit draw.
pub fn uniform01(rng: &mut Pcg64) -> f64 {
    (rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// Uniform in (0, 1), both ends excluded: an odd multiple of 2^-53, from one 64-bit draw.
pub(crate) fn uniform_open(rng: &mut Pcg64) -> f64 {
    ((rng.next_u64() >> 12) as f64 + 0.5) * (1.0 / (1u64 << 52) as f64)
}

/// Uniform integer in `0..n`, without bias (Lemire 2019, "Fast random integer generation in an interval").
///
/// `n` must be positive.
pub fn below(rng: &mut Pcg64, n: u64) -> u64 {
    assert!(n > 0, "an integer below zero was asked for");
    // The low half of the product tells whether the draw falls into the incomplete last copy of 0..n.
    let reject = n.wrapping_neg() % n;
    loop {
        let product = u128::from(rng.next_u64()) * u128::from(n);
        if product as u64 >= reject {
            return (product >> 64) as u64;
        }
    }
}

/// Exponential of the given mean, by inversion of one draw: proportional to `mean`, so that scenarios that differ
/// only in their rate see the same gaps on another scale.
pub fn exponential(rng: &mut Pcg64, mean: f64) -> f64 {
    -mean * libm::log1p(-uniform01(rng))
}

/// Normal of mean 0 and standard deviation 1, by inversion: exactly one draw, and monotone in it.
pub fn standard_normal(rng: &mut Pcg64) -> f64 {
    normal_quantile(uniform_open(rng))
}

/// Normal of the given mean and standard deviation. One draw.
pub fn normal(rng: &mut Pcg64, mean: f64, std: f64) -> f64 {
    mean + std * standard_normal(rng)
}

/// `exp` of a normal: `mu` and `sigma` are mean and standard deviation of the logarithm. One draw.
pub fn lognormal(rng: &mut Pcg64, mu: f64, sigma: f64) -> f64 {
    libm::exp(normal(rng, mu, sigma))
}

/// Gamma of mean `shape * scale` and variance `shape * scale^2` (Marsaglia, Tsang 2000, "A simple method for
/// generating gamma variables"). The number of draws depends on `shape` and the stream, never on `scale`.
///
/// `shape` must be positive.
pub fn gamma(rng: &mut Pcg64, shape: f64, scale: f64) -> f64 {
    assert!(shape > 0.0, "a gamma distribution has a positive shape, not {shape}");
    if shape < 1.0 {
        // Gamma(a) = Gamma(a + 1) * U^(1/a), section 6 of the paper.
        let boost = libm::pow(uniform_open(rng), 1.0 / shape);
        return standard_gamma(rng, shape + 1.0) * boost * scale;
    }
    standard_gamma(rng, shape) * scale
}

/// Gamma of scale 1 for `shape >= 1`.
fn standard_gamma(rng: &mut Pcg64, shape: f64) -> f64 {
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / libm::sqrt(9.0 * d);
    loop {
        let x = standard_normal(rng);
        let t = 1.0 + c * x;
        if t <= 0.0 {
            continue;
        }
        let v = t * t * t;
        let u = uniform_open(rng);
        // The polynomial squeeze accepts nearly always, and spares two logarithms.
        if u < 1.0 - 0.0331 * (x * x) * (x * x) || libm::log(u) < 0.5 * x * x + d * (1.0 - v + libm::log(v)) {
            return d * v;
        }
    }
}

/// The quantile function of the standard normal for `p` in (0, 1), to about 1e-15 relative.
///
/// Acklam's rational approximation (relative error 1.15e-9), then one step of Halley's method on the exact
/// distribution function.
pub fn normal_quantile(p: f64) -> f64 {
    assert!(p > 0.0 && p < 1.0, "a quantile is asked for a probability inside (0, 1), not {p}");
    // The lower half only: there the distribution function is accurate in its relative error.
    if p > 0.5 {
        return -normal_quantile(1.0 - p);
    }
    let x = acklam(p);
    let error = 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2) - p;
    let newton = error * libm::sqrt(2.0 * std::f64::consts::PI) * libm::exp(0.5 * x * x);
    x - newton / (1.0 + 0.5 * x * newton)
}

/// Acklam's approximation of the normal quantile for `0 < p <= 0.5`.
fn acklam(p: f64) -> f64 {
    const CENTRE_NUM: [f64; 6] = [
        -3.969683028665376e+01,
        2.209460984245205e+02,
        -2.759285104469687e+02,
        1.38357751867269e+02,
        -3.066479806614716e+01,
        2.506628277459239e+00,
    ];
    const CENTRE_DEN: [f64; 6] = [
        -5.447609879822406e+01,
        1.615858368580409e+02,
        -1.556989798598866e+02,
        6.680131188771972e+01,
        -1.328068155288572e+01,
        1.0,
    ];
    const TAIL_NUM: [f64; 6] = [
        -7.784894002430293e-03,
        -3.223964580411365e-01,
        -2.400758277161838e+00,
        -2.549732539343734e+00,
        4.374664141464968e+00,
        2.938163982698783e+00,
    ];
    const TAIL_DEN: [f64; 5] =
        [7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00, 3.754408661907416e+00, 1.0];
    let horner = |coefficients: &[f64], x: f64| coefficients.iter().fold(0.0, |sum, c| sum * x + c);
    if p < 0.02425 {
        let q = libm::sqrt(-2.0 * libm::log(p));
        horner(&TAIL_NUM, q) / horner(&TAIL_DEN, q)
    } else {
        let q = p - 0.5;
        let r = q * q;
        horner(&CENTRE_NUM, r) * q / horner(&CENTRE_DEN, r)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: usize = 200_000;

    /// Kolmogorov's statistic times sqrt(n); above 1.95 with probability 0.001 when the law is right.
    fn ks(mut xs: Vec<f64>, cdf: impl Fn(f64) -> f64) -> f64 {
        xs.sort_by(f64::total_cmp);
        let n = xs.len() as f64;
        let worst = xs.iter().enumerate().fold(0.0f64, |worst, (i, &x)| {
            let f = cdf(x);
            worst.max(f - i as f64 / n).max((i + 1) as f64 / n - f)
        });
        worst * n.sqrt()
    }

    /// The same between two samples of equal size.
    fn ks_two(mut a: Vec<f64>, mut b: Vec<f64>) -> f64 {
        a.sort_by(f64::total_cmp);
        b.sort_by(f64::total_cmp);
        let (n, mut i, mut j, mut worst) = (a.len() as f64, 0, 0, 0.0f64);
        while i < a.len() && j < b.len() {
            if a[i] <= b[j] {
                i += 1;
            } else {
                j += 1;
            }
            worst = worst.max((i as f64 - j as f64).abs() / n);
        }
        worst * (n / 2.0).sqrt()
    }

    fn draw(seed: u64, mut f: impl FnMut(&mut Pcg64) -> f64) -> Vec<f64> {
        let mut rng = stream(seed, "test");
        (0..N).map(|_| f(&mut rng)).collect()
    }

    fn phi(x: f64) -> f64 {
        0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
    }

    #[test]
    fn numbered_streams_are_those_of_the_label() {
        for number in [0, 7, 10, 1999, u64::MAX] {
            let mut plain = stream(3, &format!("tune/{number}/chance"));
            let mut numbered = stream_numbered(3, "tune/", number, "/chance");
            assert_eq!(plain.next_u64(), numbered.next_u64(), "{number}");
        }
    }

    #[test]
    fn the_mixing_functions_match_their_published_vectors() {
        // FNV's own test suite, and the splitmix64 sequence from seed 0 of the authors' program.
        assert_eq!(fnv1a(b""), 0xCBF2_9CE4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xAF63_DC4C_8601_EC8C);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_F739_67E8);
        let mut state = 0;
        assert_eq!(splitmix64(&mut state), 0xE220_A839_7B1D_CDAF);
        assert_eq!(splitmix64(&mut state), 0x6E78_9E6A_A1B9_65F4);
    }

    #[test]
    fn the_bits_never_change() {
        let mut rng = stream(42, "workload/arrivals");
        let ints = [rng.next_u64(), rng.next_u64(), rng.next_u64()];
        let mut rng = stream(42, "pinned");
        let floats = [
            uniform01(&mut rng),
            exponential(&mut rng, 1.0),
            standard_normal(&mut rng),
            normal(&mut rng, 10.0, 2.0),
            lognormal(&mut rng, 6.0, 1.0),
            gamma(&mut rng, 0.25, 4.0),
            gamma(&mut rng, 2.5, 1.0),
            below(&mut rng, 1000) as f64,
        ];
        // The integers were also computed by an independent program, from the definitions of the three algorithms.
        assert_eq!(ints, [18_140_964_848_123_436_014, 1_187_500_178_118_413_318, 13_703_419_008_975_529_882]);
        assert_eq!(
            floats,
            [
                0.876202819999609,
                0.16386234307852882,
                0.4480635323412125,
                9.510857849272137,
                649.6987242307223,
                1.0354999822021904,
                2.1576487044781745,
                372.0
            ]
        );
    }

    #[test]
    fn streams_are_named_by_seed_and_label() {
        let first = |seed, label: &str| stream(seed, label).next_u64();
        assert_eq!(first(1, "a"), first(1, "a"));
        let mut seen: Vec<u64> =
            (0..100).flat_map(|seed| (0..100).map(move |i| first(seed, &format!("tune/{i}")))).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 10_000);
        // The first numbers of neighbouring streams are themselves uniform.
        let firsts = (0..N).map(|i| uniform01(&mut stream(7, &format!("tune/random/{i}")))).collect();
        assert!(ks(firsts, |x| x) < 1.95);
    }

    #[test]
    fn every_distribution_follows_its_law() {
        let seed = 20_240_501;
        println!("seed {seed}");
        let cases: Vec<(&str, f64)> = vec![
            ("uniform", ks(draw(seed, uniform01), |x| x)),
            ("exponential", ks(draw(seed, |r| exponential(r, 3.0)), |x| 1.0 - (-x / 3.0).exp())),
            ("standard_normal", ks(draw(seed, standard_normal), phi)),
            ("normal", ks(draw(seed, |r| normal(r, -4.0, 2.5)), |x| phi((x + 4.0) / 2.5))),
            ("lognormal", ks(draw(seed, |r| lognormal(r, 6.0, 1.2)), |x| phi((x.ln() - 6.0) / 1.2))),
            ("gamma(1)", ks(draw(seed, |r| gamma(r, 1.0, 2.0)), |x| 1.0 - (-x / 2.0).exp())),
            ("gamma(2)", ks(draw(seed, |r| gamma(r, 2.0, 1.0)), |x| 1.0 - (1.0 + x) * (-x).exp())),
            // Gamma(1/2, 2) is the square of a standard normal.
            ("gamma(0.5)", ks(draw(seed, |r| gamma(r, 0.5, 2.0)), |x| libm::erf((0.5 * x).sqrt()))),
        ];
        for (name, statistic) in cases {
            assert!(statistic < 1.95, "{name}: {statistic}");
        }
    }

    #[test]
    fn gamma_agrees_with_rand_distr_and_with_its_moments() {
        use rand_distr::Distribution;
        for (i, (shape, scale)) in [(0.0625, 16.0), (0.3, 1.0), (1.5, 2.0), (40.0, 0.1)].into_iter().enumerate() {
            let ours = draw(i as u64, |r| gamma(r, shape, scale));
            let theirs = rand_distr::Gamma::new(shape, scale).unwrap();
            let theirs = draw(100 + i as u64, |r| theirs.sample(r));
            let mean = ours.iter().sum::<f64>() / N as f64;
            let error = (mean - shape * scale).abs() / (scale * (shape / N as f64).sqrt());
            assert!(error < 4.0, "gamma({shape}): mean {mean} is off by {error} standard errors");
            let statistic = ks_two(ours, theirs);
            assert!(statistic < 1.95, "gamma({shape}): {statistic}");
        }
    }

    #[test]
    fn quantiles_match_tables() {
        for (p, expect) in [
            (0.5, 0.0),
            (0.9, 1.281_551_565_544_600_4),
            (0.975, 1.959_963_984_540_054),
            (0.01, -2.326_347_874_040_841),
            (1e-10, -6.361_340_902_404_056),
        ] {
            let got = normal_quantile(p);
            assert!((got - expect).abs() < 2e-15 * (1.0 + expect.abs()), "{p}: {got} instead of {expect}");
        }
    }

    #[test]
    fn integers_are_unbiased() {
        let mut rng = stream(3, "below");
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[below(&mut rng, 7) as usize] += 1;
        }
        // Chi-square with 6 degrees of freedom: above 22.5 with probability 0.001.
        let chi2: f64 = counts.iter().map(|&c| (f64::from(c) - 1e4).powi(2) / 1e4).sum();
        assert!(chi2 < 22.5, "{counts:?}");
        assert_eq!(below(&mut rng, 1), 0);
        // Two thirds of 2^64: a plain remainder would favour the lower half two to one.
        let n = u64::MAX / 3 * 2;
        let low = (0..30_000).filter(|_| below(&mut rng, n) < n / 2).count();
        assert!((14_650..15_350).contains(&low), "{low}");
    }
}
