//! When requests arrive: processes of a given mean rate.
//!
//! The first request arrives after the first gap. At a constant rate gaps are rounded to the nanosecond one by one and
//! summed as integers, so that the times of the first n requests do not depend on how many follow. Requests that
//! arrive at one instant are possible (gaps below half a nanosecond, and batches). How processes and rates that change
//! go together is said in [`super::schedule`].

use rand_pcg::Pcg64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schedule::{Active, Base, Clock, Diurnal, Modulation, RateSchedule, Spike};
use super::sessions::time_problems;
use super::{Constant, Lengths, MAX_TOKENS, Problem, Problems, SyntheticSessions};
use crate::rng;
use crate::scenario::{Gamma, ThinkTime};
use crate::units::{SimDuration, SimTime};

/// How the gaps between arrivals are distributed; their mean is one over the rate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ArrivalProcess {
    /// Exponential gaps: independent users.
    #[default]
    Poisson,
    /// Gamma gaps: `cv` above 1 is burstier than Poisson, below 1 more regular.
    Gamma(Gamma),
    /// Equal gaps.
    Constant,
    /// Weibull gaps, by their `cv` or their `shape`.
    Weibull(Weibull),
    /// Poisson arrivals whose rate jumps between states (a Markov-modulated Poisson process): times of calm and of
    /// load.
    Mmpp(Mmpp),
    /// Requests arrive in groups.
    Batch(Batch),
    /// A fixed number of users, each of which sends its next request when the last is done and a think time is over.
    /// There is no `rate_rps` then: users, think time and answers decide.
    ClosedLoop(ClosedLoop),
}

/// Parameters of Weibull-distributed gaps: one of the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Weibull {
    /// Coefficient of variation of the gaps, 0.01 to 30.
    pub cv: Option<f64>,
    /// Shape: 1 is Poisson, below 1 burstier. 0.2 to 120.
    pub shape: Option<f64>,
}

/// Parameters of a Markov-modulated Poisson process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mmpp {
    /// At least two. After a state any of the others comes next, all equally likely.
    pub states: Vec<MmppState>,
}

/// A state of a Markov-modulated Poisson process.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MmppState {
    /// Rate, relative to that of the other states: the mean over time is `rate_rps` whatever their sum.
    pub rate: f64,
    /// Mean time in the state, in seconds; exponentially distributed.
    pub dwell_s: f64,
}

/// Parameters of groups that arrive together. `rate_rps` is the rate of the requests; that of the groups is so much
/// less as a group has requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Requests of a group.
    pub size: BatchSize,
    /// Gaps between groups.
    #[serde(default)]
    pub gaps: BatchGaps,
}

/// How many requests arrive together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchSize {
    /// Always the same number.
    Constant(BatchConstant),
    /// Every number from `min` to `max` equally likely.
    Uniform(BatchUniform),
    /// Geometric, from 1 on, of this mean.
    Geometric(BatchGeometric),
}

/// Parameters of groups of one size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchConstant {
    /// Requests of every group.
    pub requests: u32,
}

/// Parameters of groups of evenly distributed size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchUniform {
    /// Fewest requests, at least 1.
    pub min: u32,
    /// Most requests.
    pub max: u32,
}

/// Parameters of groups of geometrically distributed size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchGeometric {
    /// Mean number of requests, at least 1.
    pub mean: f64,
}

/// Gaps between groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchGaps {
    /// Exponential.
    #[default]
    Poisson,
    /// Gamma, by their `cv`.
    Gamma(Gamma),
    /// Equal.
    Constant,
}

/// Users of a closed loop. Their requests are turns of a session each, so that `simulate` closes the loop with
/// `workload: { sessions: closed }`; with `sessions: open` they arrive at the times that `turn_s` makes them have.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClosedLoop {
    /// Users at the same time.
    pub users: u32,
    /// Time from the end of a request to the next one. The users begin evenly spread over its mean.
    #[serde(default = "no_time")]
    pub think_time: ThinkTime,
    /// How long a request is assumed to take, in seconds, above 0: for the arrival times in the table.
    #[serde(default = "a_second")]
    pub turn_s: f64,
}

fn no_time() -> ThinkTime {
    ThinkTime::Constant(crate::scenario::ConstantTime { s: 0.0 })
}

fn a_second() -> f64 {
    1.0
}

/// What arrives when: all that [`ArrivalProcess::arrivals`] needs to know.
pub(super) struct Load<'a> {
    pub rate_rps: f64,
    pub schedule: Option<&'a RateSchedule>,
    pub diurnal: Option<Diurnal>,
    pub spikes: &'a [Spike],
    pub active: &'a [Active],
}

impl ArrivalProcess {
    /// Range of `cv` in which the gamma distribution can be told from the other processes and from zero.
    const CV: std::ops::RangeInclusive<f64> = 0.001..=1000.0;
    /// Ranges of the Weibull distribution whose gamma functions are far from the limits of a float.
    const WEIBULL_CV: std::ops::RangeInclusive<f64> = 0.0107..=15.0;
    const WEIBULL_SHAPE: std::ops::RangeInclusive<f64> = 0.2..=120.0;

    /// Everything that is wrong with the parameters; `path` is where this process stands.
    pub fn problems(&self, path: &str) -> Vec<Problem> {
        let mut own = Problems::below(path);
        let gamma = |own: &mut Problems, cv: f64, field: &str| {
            own.require(Self::CV.contains(&cv), field, || {
                format!("must be from {} to {}, not {cv}; `poisson` is cv 1", Self::CV.start(), Self::CV.end())
            });
        };
        match self {
            ArrivalProcess::Poisson | ArrivalProcess::Constant => {}
            ArrivalProcess::Gamma(Gamma { cv }) => gamma(&mut own, *cv, "gamma.cv"),
            ArrivalProcess::Weibull(Weibull { cv, shape }) => {
                own.require(cv.is_some() != shape.is_some(), "weibull", || "needs one of `cv` and `shape`".to_owned());
                for (value, field, range) in
                    [(cv, "weibull.cv", Self::WEIBULL_CV), (shape, "weibull.shape", Self::WEIBULL_SHAPE)]
                {
                    let value = value.unwrap_or(1.0);
                    own.require(range.contains(&value), field, || {
                        format!("must be from {} to {}, not {value}", range.start(), range.end())
                    });
                }
            }
            ArrivalProcess::Mmpp(Mmpp { states }) => {
                own.require(states.len() >= 2, "mmpp.states", || format!("must be at least 2, not {}", states.len()));
                for (i, state) in states.iter().enumerate() {
                    own.require_at_least_zero(state.rate, &format!("mmpp.states.{i}.rate"));
                    own.require_positive(state.dwell_s, &format!("mmpp.states.{i}.dwell_s"));
                }
                own.require(states.is_empty() || states.iter().any(|s| s.rate > 0.0), "mmpp.states", || {
                    "must have a rate above 0 somewhere".to_owned()
                });
            }
            ArrivalProcess::Batch(Batch { size, gaps }) => {
                match *size {
                    BatchSize::Constant(BatchConstant { requests }) => {
                        own.require(requests > 0, "batch.size.constant.requests", || "must be at least 1".to_owned());
                    }
                    BatchSize::Uniform(BatchUniform { min, max }) => {
                        own.require(min > 0, "batch.size.uniform.min", || "must be at least 1".to_owned());
                        own.require(max >= min, "batch.size.uniform.max", || {
                            format!("must not be below min, which is {min}, not {max}")
                        });
                    }
                    BatchSize::Geometric(BatchGeometric { mean }) => {
                        own.require((1.0..=1e9).contains(&mean), "batch.size.geometric.mean", || {
                            format!("must be from 1 to 1000000000, not {mean}")
                        });
                    }
                }
                if let BatchGaps::Gamma(Gamma { cv }) = *gaps {
                    gamma(&mut own, cv, "batch.gaps.gamma.cv");
                }
            }
            ArrivalProcess::ClosedLoop(ClosedLoop { users, think_time, turn_s }) => {
                own.require(*users > 0, "closed_loop.users", || "must be at least 1".to_owned());
                own.require_positive(*turn_s, "closed_loop.turn_s");
                own.found.extend(time_problems(think_time, &format!("{path}.closed_loop.think_time")));
            }
        }
        own.found
    }

    /// At most `n` arrivals before `until`, non-decreasing, from the stream `label` of the seed.
    ///
    /// The draws do not depend on the rate: twice the rate halves every gap. Times saturate after 292 years.
    ///
    /// The parameters must have no [`problems`](Self::problems), and the rate, where there is no schedule, must be
    /// positive. Not for a closed loop.
    pub(super) fn arrivals(&self, load: &Load, n: usize, until: SimTime, seed: u64, label: &str) -> Vec<SimTime> {
        let Load { rate_rps, schedule, diurnal, spikes, active } = load;
        let stream = rng::stream(seed, label);
        let modulation = match self {
            ArrivalProcess::Mmpp(mmpp) => Some(mmpp.modulation(rng::stream(seed, &format!("{label}/states")))),
            _ => None,
        };
        let mut gaps = Gaps::new(self, stream, rng::stream(seed, &format!("{label}/batches")));
        let steady = schedule.is_none() && diurnal.is_none() && spikes.is_empty() && active.is_empty();
        if steady && modulation.is_none() {
            assert!(*rate_rps > 0.0, "arrivals need a positive rate, not {rate_rps}");
            let mut now = 0i64;
            let next = |_| {
                let gap = SimDuration::from_s(gaps.next_unit() / rate_rps);
                now = now.saturating_add(gap.0);
                SimTime(now)
            };
            return (0..n).map(next).take_while(|t| *t < until || until == SimTime::MAX).collect();
        }
        let base = schedule.map_or(Base::Rate(*rate_rps), Base::Schedule);
        let mut clock = Clock::new(base, *diurnal, spikes, active, modulation);
        let until = until.0 as f64 / 1e9;
        let mut made = Vec::new();
        while made.len() < n
            && let Some(at) = clock.advance(gaps.next_unit(), until)
        {
            made.push(at);
        }
        made
    }

    /// `n` gaps of mean 1.
    pub(super) fn gaps(&self, n: usize, rng: Pcg64) -> Vec<f64> {
        let mut gaps = Gaps::new(self, rng.clone(), rng);
        (0..n).map(|_| gaps.next_unit()).collect()
    }
}

impl ClosedLoop {
    /// The sessions that the users' requests make.
    pub(super) fn sessions(&self) -> SyntheticSessions {
        SyntheticSessions {
            turns: Lengths::Constant(Constant { tokens: MAX_TOKENS }),
            think_time: self.think_time,
            accumulate: false,
            max_context: None,
            turn_s: self.turn_s,
        }
    }

    /// When the users begin.
    pub(super) fn begins(&self) -> Vec<SimTime> {
        let apart = self.think_time.mean_s() / f64::from(self.users);
        (0..self.users).map(|u| SimTime::ZERO + SimDuration::from_s(f64::from(u) * apart)).collect()
    }
}

impl Weibull {
    /// The shape, by bisection where the `cv` is given: `cv^2 = Gamma(1 + 2/k) / Gamma(1 + 1/k)^2 - 1` falls with k.
    fn shape(&self) -> f64 {
        let Some(cv) = self.cv else { return self.shape.unwrap_or(1.0) };
        let cv_of = |k: f64| {
            let (first, second) = (libm::lgamma(1.0 + 1.0 / k), libm::lgamma(1.0 + 2.0 / k));
            libm::sqrt(libm::expm1(second - 2.0 * first).max(0.0))
        };
        let (mut low, mut high) = (*ArrivalProcess::WEIBULL_SHAPE.start(), *ArrivalProcess::WEIBULL_SHAPE.end());
        for _ in 0..64 {
            let middle = f64::midpoint(low, high);
            if cv_of(middle) > cv {
                low = middle;
            } else {
                high = middle;
            }
        }
        f64::midpoint(low, high)
    }
}

impl Mmpp {
    /// Its states with factors whose mean over time is 1.
    fn modulation(&self, rng: Pcg64) -> Modulation {
        let time: f64 = self.states.iter().map(|s| s.dwell_s).sum();
        let mean = self.states.iter().map(|s| s.rate * s.dwell_s).sum::<f64>() / time;
        Modulation::new(self.states.iter().map(|s| (s.rate / mean, s.dwell_s)).collect(), rng)
    }
}

impl BatchSize {
    fn mean(&self) -> f64 {
        match *self {
            BatchSize::Constant(BatchConstant { requests }) => f64::from(requests),
            BatchSize::Uniform(BatchUniform { min, max }) => f64::midpoint(f64::from(min), f64::from(max)),
            BatchSize::Geometric(BatchGeometric { mean }) => mean,
        }
    }

    fn sample(&self, rng: &mut Pcg64) -> u32 {
        match *self {
            BatchSize::Constant(BatchConstant { requests }) => requests,
            BatchSize::Uniform(BatchUniform { min, max }) => min + rng::below(rng, u64::from(max - min) + 1) as u32,
            BatchSize::Geometric(BatchGeometric { mean }) => {
                if mean <= 1.0 {
                    return 1;
                }
                // Inversion: the first k with 1 - (1 - 1/mean)^k >= u. Casting saturates.
                let k = libm::log1p(-rng::uniform_open(rng)) / libm::log1p(-1.0 / mean);
                (libm::ceil(k) as u32).max(1)
            }
        }
    }
}

/// Gaps of a unit-rate process, one request after the other.
struct Gaps<'a> {
    process: &'a ArrivalProcess,
    rng: Pcg64,
    /// Sizes of groups come from a stream of their own.
    sizes: Pcg64,
    /// Requests of the group that are still to come.
    left: u32,
    /// Shape and scale of Weibull gaps of mean 1.
    weibull: (f64, f64),
}

impl<'a> Gaps<'a> {
    fn new(process: &'a ArrivalProcess, rng: Pcg64, sizes: Pcg64) -> Gaps<'a> {
        let weibull = match process {
            ArrivalProcess::Weibull(weibull) => {
                let shape = weibull.shape();
                (shape, libm::exp(-libm::lgamma(1.0 + 1.0 / shape)))
            }
            _ => (1.0, 1.0),
        };
        Gaps { process, rng, sizes, left: 0, weibull }
    }

    fn next_unit(&mut self) -> f64 {
        let rng = &mut self.rng;
        match self.process {
            ArrivalProcess::Poisson | ArrivalProcess::Mmpp(_) => rng::exponential(rng, 1.0),
            ArrivalProcess::Gamma(Gamma { cv }) => rng::gamma(rng, 1.0 / (cv * cv), cv * cv),
            ArrivalProcess::Constant => 1.0,
            ArrivalProcess::Weibull(_) => {
                let (shape, scale) = self.weibull;
                scale * libm::pow(rng::exponential(rng, 1.0), 1.0 / shape)
            }
            ArrivalProcess::Batch(batch) => {
                if self.left > 0 {
                    self.left -= 1;
                    return 0.0;
                }
                self.left = batch.size.sample(&mut self.sizes) - 1;
                let gap = match batch.gaps {
                    BatchGaps::Poisson => rng::exponential(rng, 1.0),
                    BatchGaps::Gamma(Gamma { cv }) => rng::gamma(rng, 1.0 / (cv * cv), cv * cv),
                    BatchGaps::Constant => 1.0,
                };
                gap * batch.size.mean()
            }
            ArrivalProcess::ClosedLoop(_) => unreachable!("users of a closed loop begin without a process"),
        }
    }
}
