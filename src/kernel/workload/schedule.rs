//! Rates that change over time.
//!
//! A process of a changing rate is a unit-rate process on a clock of its own, which runs as fast as the rate says (time
//! rescaling): arrival `k` is where the integral of the rate reaches the `k`-th arrival of the unit-rate process. So
//! the numbers drawn do not depend on the rates (two schedules of one seed share them), and the variation of the gaps
//! is that of the process wherever the rate stays the same. With Poisson arrivals it is exactly the Poisson process of
//! that rate.
//!
//! The rate at a time is the base (`rate_rps`, or a schedule), times the factor of the hour of the day, times the
//! factors of the spikes; and nothing where the client is away. It is taken as linear from one knot to the next; the
//! day has one every minute.

use rand_pcg::Pcg64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Problem, Problems};
use crate::rng;
use crate::units::{SimDuration, SimTime};

/// A rate by time: pieces, one after the other.
///
/// ```yaml
/// rate_schedule:
///   pieces:
///     - { for_s: 600, rate_rps: 2 }
///     - { for_s: 300, rate_rps: 2, to_rps: 20 }    # a ramp
///     - { until_s: 3600, rate_rps: 20 }
///   after: repeat
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RateSchedule {
    /// In the order of time; the first begins at 0.
    pub pieces: Vec<RatePiece>,
    /// Instead of `pieces`: a table with columns `at_s` (seconds, or `at_ns`) and `rate_rps`, a row per change. The
    /// first row counts from 0 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// How the rate gets from one row of `from` to the next.
    pub interpolate: Interpolate,
    /// What comes after the last piece.
    pub after: After,
}

/// A part of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RatePiece {
    /// How long it lasts, in seconds. Either this or `until_s`.
    #[serde(default)]
    pub for_s: Option<f64>,
    /// When it ends, in seconds from the start.
    #[serde(default)]
    pub until_s: Option<f64>,
    /// Requests per second; where `to_rps` is given, those at its start.
    pub rate_rps: f64,
    /// Requests per second at its end: the rate changes evenly. Default: it does not change.
    #[serde(default)]
    pub to_rps: Option<f64>,
}

/// How a rate gets from one row to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Interpolate {
    /// It stays until the next row.
    #[default]
    Step,
    /// It changes evenly.
    Linear,
}

/// What comes after a schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum After {
    /// The rate that it ended with.
    #[default]
    Hold,
    /// The same again.
    Repeat,
    /// Nothing: there may be fewer requests than `requests`.
    Stop,
}

/// A day: the rate follows a cosine with its peak at `peak_hour` and its trough twelve hours later. The mean over a
/// day is that of the rate without it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Diurnal {
    /// Hour of the day with the highest rate, 0 to 24.
    pub peak_hour: f64,
    /// Highest over lowest rate, at least 1.
    pub peak_to_trough: f64,
    /// Hour of the day at which the requests begin.
    #[serde(default)]
    pub start_hour: f64,
}

/// For a while the rate is another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Spike {
    /// When it begins, in seconds from the start.
    pub at_s: f64,
    /// How long it lasts, in seconds.
    pub for_s: f64,
    /// What the rate is multiplied by.
    pub factor: f64,
}

/// A time in which a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Active {
    /// Seconds from the start.
    pub from_s: f64,
    /// Seconds from the start, itself left out.
    pub to_s: f64,
}

impl RateSchedule {
    /// Start, length and rates of the pieces, in seconds and requests per second.
    fn spans(&self) -> Vec<Span> {
        let mut start = 0.0;
        let mut next = |piece: &RatePiece| {
            let end = piece.until_s.unwrap_or_else(|| start + piece.for_s.unwrap_or(0.0));
            let span = Span { start, end, from: piece.rate_rps, to: piece.to_rps.unwrap_or(piece.rate_rps) };
            start = end;
            span
        };
        self.pieces.iter().map(&mut next).collect()
    }

    /// Requests per second on average over its pieces.
    pub fn mean_rps(&self) -> f64 {
        let spans = self.spans();
        let total: f64 = spans.iter().map(|s| (s.end - s.start) * f64::midpoint(s.from, s.to)).sum();
        total / spans.last().map_or(1.0, |s| s.end)
    }

    pub(super) fn problems(&self, path: &str) -> Vec<Problem> {
        let RateSchedule { pieces, from, interpolate, after } = self;
        let mut own = Problems::below(path);
        own.require(pieces.is_empty() != from.is_none(), "pieces", || match from {
            Some(_) => "cannot be there together with `from`".to_owned(),
            None => "are missing: at least one, or a table (`from`)".to_owned(),
        });
        own.require(*interpolate == Interpolate::Step || from.is_some(), "interpolate", || {
            "is for a table (`from`): a piece says with `to_rps` where its rate goes".to_owned()
        });
        let mut start = 0.0;
        for (i, piece) in pieces.iter().enumerate() {
            let RatePiece { for_s, until_s, rate_rps, to_rps } = *piece;
            own.require(for_s.is_some() != until_s.is_some(), &format!("pieces.{i}"), || {
                "needs one of `for_s` and `until_s`".to_owned()
            });
            if let Some(s) = for_s {
                own.require_positive(s, &format!("pieces.{i}.for_s"));
            }
            if let Some(s) = until_s {
                own.require(s.is_finite() && s > start, &format!("pieces.{i}.until_s"), || {
                    format!("must be after {start} s, where the piece begins, not {s}")
                });
            }
            own.require_at_least_zero(rate_rps, &format!("pieces.{i}.rate_rps"));
            if let Some(rate) = to_rps {
                own.require_at_least_zero(rate, &format!("pieces.{i}.to_rps"));
            }
            start = until_s.unwrap_or(start + for_s.unwrap_or(0.0));
        }
        let ever = pieces.iter().any(|p| p.rate_rps > 0.0 || p.to_rps.is_some_and(|r| r > 0.0));
        own.require(pieces.is_empty() || ever, "pieces", || "must have a rate above 0 somewhere".to_owned());
        let _ = after;
        own.found
    }
}

impl Diurnal {
    const KNOT_S: f64 = 60.0;

    /// The factor at a time. With ratio R the mean over a day is 1, the peak `2R / (R + 1)`, the trough `2 / (R + 1)`.
    fn factor(&self, t: f64) -> f64 {
        let amplitude = (self.peak_to_trough - 1.0) / (self.peak_to_trough + 1.0);
        let hours = self.start_hour - self.peak_hour + t / 3600.0;
        1.0 + amplitude * libm::cos(hours * (std::f64::consts::PI / 12.0))
    }

    pub(super) fn problems(&self, path: &str) -> Vec<Problem> {
        let Diurnal { peak_hour, peak_to_trough, start_hour } = *self;
        let mut own = Problems::below(path);
        for (hour, name) in [(peak_hour, "peak_hour"), (start_hour, "start_hour")] {
            own.require((0.0..=24.0).contains(&hour), name, || format!("must be from 0 to 24, not {hour}"));
        }
        own.require((1.0..=1e6).contains(&peak_to_trough), "peak_to_trough", || {
            format!("must be from 1 to 1000000, not {peak_to_trough}")
        });
        own.found
    }
}

pub(super) fn spike_problems(spikes: &[Spike], path: &str) -> Vec<Problem> {
    let mut own = Problems::below(path);
    for (i, Spike { at_s, for_s, factor }) in spikes.iter().enumerate() {
        own.require_at_least_zero(*at_s, &format!("{i}.at_s"));
        own.require_positive(*for_s, &format!("{i}.for_s"));
        own.require_at_least_zero(*factor, &format!("{i}.factor"));
    }
    own.found
}

pub(super) fn active_problems(active: &[Active], path: &str) -> Vec<Problem> {
    let mut own = Problems::below(path);
    for (i, Active { from_s, to_s }) in active.iter().enumerate() {
        own.require_at_least_zero(*from_s, &format!("{i}.from_s"));
        own.require(to_s.is_finite() && to_s > from_s, &format!("{i}.to_s"), || {
            format!("must be after from_s, which is {from_s}, not {to_s}")
        });
    }
    own.found
}

/// Part of a schedule, in seconds and requests per second.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: f64,
    end: f64,
    from: f64,
    to: f64,
}

/// States that come and go, each with its factor and its mean duration in seconds.
pub(super) struct Modulation {
    /// Factor and mean duration.
    pub states: Vec<(f64, f64)>,
    pub rng: Pcg64,
    /// The state that it is in, and until when.
    now: usize,
    until: f64,
}

impl Modulation {
    /// Begins in a state as often as it is met at any time.
    pub fn new(states: Vec<(f64, f64)>, mut rng: Pcg64) -> Modulation {
        let total: f64 = states.iter().map(|(_, s)| s).sum();
        let mut left = rng::uniform01(&mut rng) * total;
        let mut now = 0;
        while now + 1 < states.len() && left >= states[now].1 {
            left -= states[now].1;
            now += 1;
        }
        // What is left of an exponential time is distributed like all of it.
        let until = rng::exponential(&mut rng, states[now].1);
        Modulation { states, rng, now, until }
    }

    fn at(&mut self, t: f64) -> (f64, f64) {
        while self.until <= t {
            if self.states.len() > 1 {
                let other = rng::below(&mut self.rng, self.states.len() as u64 - 1) as usize;
                self.now = if other < self.now { other } else { other + 1 };
            }
            self.until += rng::exponential(&mut self.rng, self.states[self.now].1);
        }
        (self.states[self.now].0, self.until)
    }
}

/// What the rate starts from.
pub(super) enum Base<'a> {
    Rate(f64),
    Schedule(&'a RateSchedule),
}

/// The rate at every time, and where on it the last arrival was.
pub(super) struct Clock<'a> {
    spans: Vec<Span>,
    after: After,
    diurnal: Option<Diurnal>,
    spikes: &'a [Spike],
    active: &'a [Active],
    modulation: Option<Modulation>,
    /// Time in seconds.
    now: f64,
    /// Rate now, rate at the end of the piece, and the end.
    piece: (f64, f64, f64),
}

impl<'a> Clock<'a> {
    pub fn new(
        base: Base,
        diurnal: Option<Diurnal>,
        spikes: &'a [Spike],
        active: &'a [Active],
        modulation: Option<Modulation>,
    ) -> Clock<'a> {
        let (spans, after) = match base {
            Base::Rate(rate) => (vec![Span { start: 0.0, end: f64::INFINITY, from: rate, to: rate }], After::Hold),
            Base::Schedule(schedule) => (schedule.spans(), schedule.after),
        };
        let mut clock = Clock { spans, after, diurnal, spikes, active, modulation, now: 0.0, piece: (0.0, 0.0, 0.0) };
        clock.piece = clock.piece_at(0.0);
        clock
    }

    /// Goes on by `units` of the unit-rate process and says when that is; `None` if it never comes, or not before
    /// `until` (in seconds).
    pub fn advance(&mut self, mut units: f64, until: f64) -> Option<SimTime> {
        loop {
            let (rate, last, end) = self.piece;
            let len = end - self.now;
            let area = if rate == 0.0 && last == 0.0 { 0.0 } else { 0.5 * (rate + last) * len };
            if units < area || units == area && area > 0.0 {
                let slope = if end == f64::INFINITY { 0.0 } else { (last - rate) / len };
                // Of a x + s x^2 / 2 = units, in the form that does not cancel.
                let root = libm::sqrt((rate * rate + 2.0 * slope * units).max(0.0));
                let passed = if units == 0.0 { 0.0 } else { (2.0 * units / (rate + root)).min(len) };
                self.now += passed;
                self.piece.0 = rate + slope * passed;
                return (self.now < until).then(|| SimTime::ZERO + SimDuration::from_s(self.now));
            }
            if end == f64::INFINITY || end >= until {
                return None;
            }
            units -= area;
            self.now = end;
            self.piece = self.piece_at(end);
        }
    }

    /// The piece of the rate that `t` is in: rate at `t`, rate at its end, and its end.
    fn piece_at(&mut self, t: f64) -> (f64, f64, f64) {
        let (span, offset) = self.span_at(t);
        let mut end = span.end + offset;
        let mut over = span.end == f64::INFINITY && span.from == 0.0;
        if self.diurnal.is_some() {
            let next = (libm::floor(t / Diurnal::KNOT_S) + 1.0) * Diurnal::KNOT_S;
            end = end.min(next);
        }
        let mut factor = 1.0;
        for Spike { at_s, for_s, factor: by } in self.spikes {
            let stop = at_s + for_s;
            if t < *at_s {
                end = end.min(*at_s);
            } else if t < stop {
                factor *= by;
                end = end.min(stop);
            }
        }
        if !self.active.is_empty() {
            let (inside, edge) = self.activity(t);
            factor *= if inside { 1.0 } else { 0.0 };
            end = end.min(edge);
            over |= edge == f64::INFINITY && !inside;
        }
        if over {
            return (0.0, 0.0, f64::INFINITY);
        }
        if let Some(modulation) = &mut self.modulation {
            let (by, until) = modulation.at(t);
            factor *= by;
            end = end.min(until);
        }
        // A piece that rounds to nothing would stop the clock.
        end = end.max(t + t.abs() * f64::EPSILON);
        let along = |at: f64| {
            if span.end == f64::INFINITY || span.from == span.to {
                return span.from;
            }
            span.from + (span.to - span.from) * ((at - offset - span.start) / (span.end - span.start))
        };
        let day = |at: f64| self.diurnal.map_or(1.0, |d| d.factor(at));
        if end == f64::INFINITY {
            let rate = (span.from * factor).max(0.0);
            return (rate, rate, end);
        }
        ((along(t) * day(t) * factor).max(0.0), (along(end) * day(end) * factor).max(0.0), end)
    }

    /// The span of the schedule that `t` is in, and how much later it is than the first time that it comes.
    fn span_at(&self, t: f64) -> (Span, f64) {
        let last = self.spans[self.spans.len() - 1];
        let round = last.end;
        let offset = match self.after {
            After::Repeat if t >= round => libm::floor(t / round) * round,
            After::Repeat | After::Hold | After::Stop => 0.0,
        };
        let within = t - offset;
        match self.spans.iter().find(|s| within < s.end) {
            Some(span) => (*span, offset),
            // Rounding may leave a time at the very end of a round.
            None if self.after == After::Repeat => (self.spans[0], offset + round),
            None => {
                let rate = if self.after == After::Hold { last.to } else { 0.0 };
                (Span { start: last.end, end: f64::INFINITY, from: rate, to: rate }, 0.0)
            }
        }
    }

    /// Whether the client sends at `t`, and until when that stays so.
    fn activity(&self, t: f64) -> (bool, f64) {
        let mut edge = f64::INFINITY;
        let mut inside = false;
        for Active { from_s, to_s } in self.active {
            if t < *from_s {
                edge = edge.min(*from_s);
            } else if t < *to_s {
                inside = true;
                edge = edge.min(*to_s);
            }
        }
        (inside, edge)
    }
}
