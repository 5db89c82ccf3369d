//! How steps vary: every step of an engine lasts as long as the latency model says, times a number of its own.
//!
//! The numbers are lognormal with mean 1 and the coefficient of variation that the scenario asks for, from the stream
//! `latency/jitter/<engine>` of its seed: one per step with tokens, in the order in which the engine forms them. The
//! normal number behind each is held within four standard deviations, so that there is a shortest step. That takes 1.2e-4
//! of its variance; of the factor, at the largest spread that is allowed, 1.4e-4 of the mean and 0.3 % of the spread.

use rand_pcg::Pcg64;

use crate::rng;
use crate::units::SimDuration;

/// Standard deviations beyond which nothing is drawn.
const BOUND: f64 = 4.0;

/// See the head of the file.
pub(super) struct Jitter {
    numbers: Pcg64,
    law: Law,
    /// The factor of the next step. A step may be looked at before it is sure that it is formed.
    next: f64,
}

#[derive(Clone, Copy)]
struct Law {
    sigma: f64,
    /// Half the variance of the logarithm: the lognormal of mean 1 has its logarithm around minus that.
    half: f64,
}

impl Law {
    fn new(cv: f64) -> Law {
        let variance = libm::log1p(cv * cv);
        Law { sigma: libm::sqrt(variance), half: variance / 2.0 }
    }

    fn factor(self, normal: f64) -> f64 {
        libm::exp(normal.clamp(-BOUND, BOUND) * self.sigma - self.half)
    }
}

impl Jitter {
    /// `None` where steps do not vary.
    pub(super) fn new(seed: u64, engine: u32, cv: f64) -> Option<Box<Jitter>> {
        if cv <= 0.0 {
            return None;
        }
        let (mut numbers, law) = (rng::stream(seed, &format!("latency/jitter/{engine}")), Law::new(cv));
        let next = law.factor(rng::standard_normal(&mut numbers));
        Some(Box::new(Jitter { numbers, law, next }))
    }

    /// How long the next step lasts for which the model says so much.
    #[inline]
    pub(super) fn on(&self, raw: SimDuration) -> SimDuration {
        times(raw, self.next)
    }

    /// That step was formed.
    #[inline]
    pub(super) fn pass(&mut self) {
        self.next = self.law.factor(rng::standard_normal(&mut self.numbers));
    }

    /// The next step, which is formed.
    pub(super) fn take(&mut self, raw: SimDuration) -> SimDuration {
        let varied = self.on(raw);
        self.pass();
        varied
    }

    /// No step for which the model says so much is shorter, whatever is drawn.
    pub(super) fn least(&self, raw: SimDuration) -> SimDuration {
        // A little less, so that nothing hangs on the last bit of the exponential.
        times(raw, self.law.factor(-BOUND) * (1.0 - 1e-9))
    }
}

#[inline]
fn times(raw: SimDuration, factor: f64) -> SimDuration {
    SimDuration((raw.0 as f64 * factor) as i64)
}

/// Times of decode steps, by the sum of contexts. A step that was looked at is not always formed.
pub(super) trait Times {
    fn next(&self, context: u64) -> SimDuration;

    /// The step was formed.
    fn pass(&mut self);
}

/// As the model says.
pub(super) struct Plain<F>(pub F);

impl<F: Fn(u64) -> SimDuration> Times for Plain<F> {
    #[inline]
    fn next(&self, context: u64) -> SimDuration {
        self.0(context)
    }

    #[inline]
    fn pass(&mut self) {}
}

/// With jitter.
pub(super) struct Varied<'a, F>(pub F, pub &'a mut Jitter);

impl<F: Fn(u64) -> SimDuration> Times for Varied<'_, F> {
    #[inline]
    fn next(&self, context: u64) -> SimDuration {
        self.1.on(self.0(context))
    }

    #[inline]
    fn pass(&mut self) {
        self.1.pass();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::latency::JITTER_MAX;

    #[test]
    fn factors_have_their_mean_and_their_spread() {
        for cv in [0.02, 0.3, 1.0] {
            let mut jitter = Jitter::new(7, 3, cv).unwrap();
            let raw = SimDuration(1_000_000_000);
            let n = 100_000;
            let factors: Vec<f64> = (0..n).map(|_| jitter.take(raw).0 as f64 / 1e9).collect();
            let mean = factors.iter().sum::<f64>() / f64::from(n);
            let variance = factors.iter().map(|f| (f - mean) * (f - mean)).sum::<f64>() / f64::from(n);
            // Standard error of the mean: cv / sqrt(n). The spread of heavy tails takes longer to show.
            assert!((mean - 1.0).abs() < 4.0 * cv / f64::from(n).sqrt(), "cv {cv}: mean {mean}");
            assert!((variance.sqrt() / cv - 1.0).abs() < 0.03, "cv {cv}: {}", variance.sqrt());
            let least = jitter.least(raw).0 as f64 / 1e9;
            assert!(factors.iter().all(|f| *f >= least), "cv {cv}: below {least}");
        }
        assert!(Jitter::new(7, 3, 0.0).is_none());
    }

    #[test]
    fn what_is_held_back_is_little() {
        // Mean and spread of the factor without drawing: sums over the normal number, and the two ends that are drawn in.
        let moments = |cv: f64| {
            let (law, h) = (Law::new(cv), 1e-3);
            let density = |z: f64| (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt() * h;
            let points = (-8_000..=8_000).map(|i| f64::from(i) * h);
            let of = |k: i32| points.clone().map(|z| density(z) * law.factor(z).powi(k)).sum::<f64>();
            let (mean, square) = (of(1), of(2));
            (mean, (square - mean * mean).sqrt())
        };
        for (cv, of_mean, of_spread) in [(0.05, 1e-6, 1e-4), (0.3, 1e-5, 3e-4), (JITTER_MAX, 1.5e-4, 4e-3)] {
            let (mean, spread) = moments(cv);
            assert!((mean - 1.0).abs() < of_mean && (spread / cv - 1.0).abs() < of_spread, "cv {cv}: {mean} {spread}");
        }
    }

    #[test]
    fn a_step_that_is_only_looked_at_draws_nothing() {
        let (mut looked, mut formed) = (Jitter::new(1, 0, 0.5).unwrap(), Jitter::new(1, 0, 0.5).unwrap());
        let raw = SimDuration(1_000);
        for _ in 0..100 {
            let seen = looked.on(raw);
            assert_eq!((seen, looked.on(raw)), (formed.take(raw), seen));
            looked.pass();
        }
        // Engines have streams of their own.
        let mut other = Jitter::new(1, 1, 0.5).unwrap();
        assert!((0..10).any(|_| other.take(raw) != formed.take(raw)));
    }
}
