//! The load of a scenario: when its requests arrive, and what their clients want.
//!
//! Promises: the same seed draws the same sequence of unit gaps at every rate, so scenarios that differ in their rate
//! only see the same pattern, faster or slower. Generated processes start with a gap, a trace keeps its first arrival.

use std::cell::Cell;

use super::graph::Graph;
use super::{SimError, Status};
use crate::request::Requests;
use crate::rng;
use crate::scenario::{Arrivals, ClassRules, Load};
use crate::units::{SimDuration, SimTime};

/// Everything about the requests of a scenario that is not in the trace alone: which there are, when they arrive, and
/// what their clients want.
///
/// A *place* is a rank in the order of the trace: by arrival there, then by number.
pub(crate) struct Demand<'a> {
    pub requests: &'a Requests,
    /// Requests used, by place; `None` where that is `0..count`.
    order: Option<Vec<u32>>,
    count: usize,
    /// By request. Of one that waits for others it is known when it is sent.
    arrivals: Vec<Cell<SimTime>>,
    /// Who waits for whom; `None` where nobody waits.
    pub graph: Option<Graph>,
    /// Drawn for this scenario, by place; empty where nothing is drawn.
    cancels: Vec<Option<SimDuration>>,
    rules: Rules,
    /// By index of the class.
    classes: Vec<Rules>,
    /// No request can be aborted.
    pub patient: bool,
    /// See [`super::Summary::out_of_order`].
    pub out_of_order: u64,
    pub horizon: SimTime,
    /// See [`Load::exact_max_tokens`].
    exact: bool,
    /// Some requests may have several samples, or beams, and the most that one has of either.
    sampled: bool,
    beamed: bool,
    widest: u32,
}

/// What holds for all requests, or for those of a class.
#[derive(Clone, Copy)]
struct Rules {
    priority: i32,
    deadline: Option<SimDuration>,
    timeout: Option<SimDuration>,
    max_tokens: Option<u32>,
    n: u32,
    beam_width: u32,
}

impl<'a> Demand<'a> {
    /// The first `max_requests` requests by arrival; those that wait for nobody at the rate and by the process of `load`.
    ///
    /// # Errors
    /// [`SimError::Invalid`] where the requests give no rate and the scenario none either, a length is zero, or requests
    /// wait for each other in a circle.
    pub(crate) fn new(load: &Load, requests: &'a Requests, seed: u64) -> Result<Demand<'a>, SimError> {
        check_requests(requests)?;
        let (order, out_of_order) = sorted(&requests.arrival);
        let count = load.max_requests.map_or(requests.len(), |max| requests.len().min(max as usize));
        let order = order.map(|mut order| {
            order.truncate(count);
            order
        });
        let horizon = load.horizon_s.map_or(SimTime::MAX, |s| SimTime(SimDuration::from_s(s).0));
        let all: Vec<u32>;
        let nth = match &order {
            Some(order) => order,
            None => {
                all = (0..count as u32).collect();
                &all
            }
        };
        let graph = Graph::new(load, requests, nth, seed)?;
        let free = |place: &usize| graph.as_ref().is_none_or(|g| g.parents[*place] == 0 && g.users.is_none());
        let roots: Vec<u32> = (0..count).filter(free).map(|place| nth[place]).collect();
        let trace: Vec<SimTime> = roots.iter().map(|i| requests.arrival[*i as usize]).collect();
        let times = arrivals(load, &trace, seed)?;
        let arrivals = vec![Cell::new(SimTime::MAX); requests.len()];
        roots.iter().zip(times).for_each(|(i, t)| arrivals[*i as usize].set(t));
        let rules = Rules {
            priority: 0,
            deadline: load.deadline_ms.map(|ms| SimDuration::from_us(ms * 1e3)),
            timeout: load.timeout_s.map(SimDuration::from_s),
            max_tokens: load.max_tokens,
            n: load.n.unwrap_or(1),
            beam_width: load.beam_width.unwrap_or(1),
        };
        let class = |name: &String| load.classes.get(name).map_or(rules, |c| of_class(c, &rules));
        let classes: Vec<Rules> = requests.class_names.iter().map(class).collect();
        let cancels = cancels(load, count, seed);
        let patient = cancels.is_empty()
            && requests.timeout.is_empty()
            && requests.cancel.is_empty()
            && rules.timeout.is_none()
            && classes.iter().all(|c| c.timeout.is_none());
        Ok(Demand {
            requests,
            order,
            count,
            arrivals,
            graph,
            cancels,
            rules,
            classes,
            patient,
            out_of_order,
            horizon,
            exact: load.exact_max_tokens,
            sampled: super::samples::asked(load, requests),
            beamed: super::beams::most(load, requests) > 1,
            widest: super::samples::most(load, requests).max(super::beams::most(load, requests)),
        })
    }

    /// Requests that may be sent.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The request at this place, from 0.
    pub(crate) fn nth(&self, place: usize) -> u32 {
        self.order.as_ref().map_or(place as u32, |order| order[place])
    }

    pub(crate) fn arrival(&self, request: u32) -> SimTime {
        self.arrivals[request as usize].get()
    }

    /// A request that waited is sent.
    pub(crate) fn send(&self, request: u32, at: SimTime) {
        self.arrivals[request as usize].set(at);
    }

    /// Whether the request at this place arrives at a time that is known from the start.
    pub(crate) fn is_timed(&self, place: usize) -> bool {
        self.graph.as_ref().is_none_or(|g| g.parents[place] == 0 && g.users.is_none())
    }

    /// The last arrival of those that are known from the start.
    pub(crate) fn last(&self) -> Option<SimTime> {
        (0..self.count).rev().find(|place| self.is_timed(*place)).map(|last| self.arrival(self.nth(last)))
    }

    fn rules(&self, request: u32) -> &Rules {
        let class = self.requests.class.get(request as usize).copied().flatten();
        class.and_then(|c| self.classes.get(c as usize)).unwrap_or(&self.rules)
    }

    pub(crate) fn priority(&self, request: u32) -> i32 {
        own(&self.requests.priority, request).unwrap_or_else(|| self.rules(request).priority)
    }

    /// Whom the request is for; -1 where nobody says.
    pub(crate) fn tenant(&self, request: u32) -> i64 {
        let column = if self.requests.tenant.is_empty() { &self.requests.class } else { &self.requests.tenant };
        own(column, request).map_or(-1, i64::from)
    }

    /// When the request should be done; [`SimTime::MAX`] where nobody says.
    pub(crate) fn deadline(&self, request: u32) -> SimTime {
        let after = own(&self.requests.deadline, request).or_else(|| self.rules(request).deadline);
        after.map_or(SimTime::MAX, |d| later(self.arrival(request), d))
    }

    /// When the client of the request at `place` leaves it, and what becomes of the request then.
    pub(crate) fn abort(&self, place: usize) -> Option<(SimTime, Status)> {
        if self.patient {
            return None;
        }
        let request = self.nth(place);
        let timeout = own(&self.requests.timeout, request).or_else(|| self.rules(request).timeout);
        let drawn = self.cancels.get(place).copied().flatten();
        let cancel = match (own(&self.requests.cancel, request), drawn) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let at = |after: SimDuration, status| (later(self.arrival(request), after), status);
        match (timeout, cancel) {
            (Some(t), Some(c)) if t <= c => Some(at(t, Status::TimedOut)),
            (_, Some(c)) => Some(at(c, Status::Cancelled)),
            (Some(t), None) => Some(at(t, Status::TimedOut)),
            (None, None) => None,
        }
    }

    /// Tokens that the request generates where prompt and output may have `max_len` tokens, and whether that cuts it.
    /// The prompt must be shorter than `max_len`.
    pub(crate) fn output(&self, request: u32, max_len: u32) -> (u32, bool) {
        let i = request as usize;
        let wanted = self.requests.output_tokens[i];
        let cap = self.most(request, max_len);
        (wanted.min(cap), wanted > cap)
    }

    /// Most tokens that the request may generate, as an engine is told; never less than it does. The prompt must be shorter
    /// than `max_len`.
    pub(crate) fn cap(&self, request: u32, max_len: u32) -> u32 {
        if self.exact {
            return self.output(request, max_len).0;
        }
        self.most(request, max_len)
    }

    /// Parallel samples of a request.
    #[inline]
    pub(crate) fn samples(&self, request: u32) -> u32 {
        if !self.sampled {
            return 1;
        }
        own(&self.requests.n, request).unwrap_or_else(|| self.rules(request).n)
    }

    /// Beams of a request.
    #[inline]
    pub(crate) fn beams(&self, request: u32) -> u32 {
        if !self.beamed {
            return 1;
        }
        own(&self.requests.beam_width, request).unwrap_or_else(|| self.rules(request).beam_width)
    }

    /// Sequences of a request where its samples are, or its beams: nobody has both.
    pub(crate) fn sequences(&self, request: u32) -> u32 {
        self.samples(request).max(self.beams(request))
    }

    /// Most samples or beams that a request may have.
    pub(crate) fn widest(&self) -> u32 {
        self.widest
    }

    fn most(&self, request: u32, max_len: u32) -> u32 {
        let asked = own(&self.requests.max_tokens, request).or_else(|| self.rules(request).max_tokens);
        (max_len - self.requests.input_tokens[request as usize]).min(asked.unwrap_or(u32::MAX)).max(1)
    }
}

fn own<T: Copy>(values: &[Option<T>], request: u32) -> Option<T> {
    values.get(request as usize).copied().flatten()
}

fn later(t: SimTime, d: SimDuration) -> SimTime {
    SimTime(t.0.saturating_add(d.0.max(0)))
}

fn of_class(class: &ClassRules, all: &Rules) -> Rules {
    Rules {
        priority: class.priority.unwrap_or(all.priority),
        deadline: class.deadline_ms.map(|ms| SimDuration::from_us(ms * 1e3)).or(all.deadline),
        timeout: class.timeout_s.map(SimDuration::from_s).or(all.timeout),
        max_tokens: class.max_tokens.or(all.max_tokens),
        n: class.n.unwrap_or(all.n),
        beam_width: class.beam_width.unwrap_or(all.beam_width),
    }
}

/// Requests by arrival (ties: by number) where that is not their order, and how many arrive before one in front of them.
fn sorted(arrival: &[SimTime]) -> (Option<Vec<u32>>, u64) {
    if arrival.is_sorted() {
        return (None, 0);
    }
    let mut latest = SimTime(i64::MIN);
    let mut out_of_order = 0;
    for t in arrival {
        out_of_order += u64::from(*t < latest);
        latest = latest.max(*t);
    }
    let mut order: Vec<u32> = (0..arrival.len() as u32).collect();
    order.sort_by_key(|i| arrival[*i as usize]);
    (Some(order), out_of_order)
}

/// Two draws per request, so that the share does not shift who goes when.
fn cancels(load: &Load, count: usize, seed: u64) -> Vec<Option<SimDuration>> {
    let Some(cancel) = load.cancel else { return Vec::new() };
    let mut r = rng::stream(seed, "workload/cancel");
    let mut draw = || {
        let (chosen, after) = (rng::uniform01(&mut r), rng::exponential(&mut r, 1.0));
        (chosen < cancel.share).then(|| SimDuration::from_s(after * cancel.after_s))
    };
    (0..count).map(|_| draw()).collect()
}

/// Arrival times of requests that the trace has at `trace`, which is sorted.
fn arrivals(load: &Load, trace: &[SimTime], seed: u64) -> Result<Vec<SimTime>, SimError> {
    let count = trace.len();
    let gap_ns = |rate: Option<f64>| mean_gap_ns(rate, trace);
    match load.arrivals {
        Arrivals::Trace => match load.rate_rps {
            None => Ok(trace.to_vec()),
            Some(_) if count < 2 => Ok(trace.to_vec()),
            Some(rate) => {
                let stretch = 1e9 / rate / gap_ns(None)?;
                let first = trace[0].0;
                Ok(trace.iter().map(|t| SimTime(first + round((t.0 - first) as f64 * stretch))).collect())
            }
        },
        Arrivals::Constant => Ok(accumulate(count, gap_ns(load.rate_rps)?, || 1.0)),
        Arrivals::Poisson => {
            let mut r = rng::stream(seed, "workload/arrivals");
            Ok(accumulate(count, gap_ns(load.rate_rps)?, || rng::exponential(&mut r, 1.0)))
        }
        Arrivals::Gamma(gamma) => {
            let mut r = rng::stream(seed, "workload/arrivals");
            let shape = 1.0 / (gamma.cv * gamma.cv);
            Ok(accumulate(count, gap_ns(load.rate_rps)?, || rng::gamma(&mut r, shape, 1.0 / shape)))
        }
    }
}

fn check_requests(requests: &Requests) -> Result<(), SimError> {
    let invalid = |message: String| Err(SimError::Invalid { path: "workload".into(), message });
    if u32::try_from(requests.len()).is_err() {
        return invalid(format!("{} requests; at most {} can be simulated at once", requests.len(), u32::MAX));
    }
    if let Some(i) = requests.arrival.iter().position(|t| t.0 < 0) {
        return invalid(format!("request {i} arrives before the start of the trace"));
    }
    for i in 0..requests.len() {
        if requests.input_tokens[i] == 0 || requests.output_tokens[i] == 0 {
            return invalid(format!(
                "request {i} has {} input and {} output tokens; both must be at least 1",
                requests.input_tokens[i], requests.output_tokens[i]
            ));
        }
    }
    let wrong = |rate: &Option<f64>| rate.is_some_and(|rate| !(0.0..=1.0).contains(&rate));
    if let Some(i) = requests.acceptance.iter().position(wrong) {
        let rate = requests.acceptance[i].unwrap_or_default();
        return invalid(format!("request {i} has an acceptance of {rate}; must be 0 to 1"));
    }
    Ok(())
}

/// Mean gap in nanoseconds: of the rate, else of the trace.
fn mean_gap_ns(rate: Option<f64>, trace: &[SimTime]) -> Result<f64, SimError> {
    if let Some(rate) = rate {
        return Ok(1e9 / rate);
    }
    match (trace.first(), trace.last()) {
        (Some(first), Some(last)) if last > first => Ok((last.0 - first.0) as f64 / (trace.len() - 1) as f64),
        (Some(_), Some(_)) => Err(SimError::Invalid {
            path: "workload.rate_rps".into(),
            message: "all requests of the trace arrive at the same time, so it has no rate to keep or to stretch; set \
                      rate_rps together with arrivals: constant, poisson or gamma"
                .to_string(),
        }),
        (None, _) | (_, None) => Ok(0.0),
    }
}

/// Sums of `count` gaps of mean `gap_ns`; each sum is rounded once, so errors do not accumulate.
fn accumulate(count: usize, gap_ns: f64, mut unit_gap: impl FnMut() -> f64) -> Vec<SimTime> {
    let mut sum = 0.0;
    let mut next = || {
        sum += unit_gap();
        SimTime(round(sum * gap_ns))
    };
    (0..count).map(|_| next()).collect()
}

fn round(x: f64) -> i64 {
    (x + 0.5) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Gamma;

    fn trace(times: &[i64]) -> Requests {
        Requests {
            arrival: times.iter().map(|t| SimTime(*t)).collect(),
            input_tokens: vec![1; times.len()],
            output_tokens: vec![1; times.len()],
            ..Requests::default()
        }
    }

    fn times(load: &Load, requests: &Requests) -> Vec<i64> {
        let demand = Demand::new(load, requests, 1).unwrap();
        (0..demand.count()).map(|place| demand.arrival(demand.nth(place)).0).collect()
    }

    #[test]
    fn a_trace_is_stretched_about_its_first_arrival() {
        let r = trace(&[1_000, 2_000, 5_000]);
        // 2 gaps in 4000 ns: half a million requests per second.
        let load = Load { rate_rps: Some(250_000.0), ..Load::default() };
        assert_eq!(times(&load, &r), [1_000, 3_000, 9_000]);
        assert_eq!(times(&Load { max_requests: Some(2), ..Load::default() }, &r), [1_000, 2_000]);
        let same = trace(&[5, 5]);
        assert!(Demand::new(&load, &same, 1).is_err());
    }

    #[test]
    fn processes_have_their_mean_and_deviation_and_share_their_pattern() {
        let r = trace(&(0..20_000).collect::<Vec<_>>());
        for (process, cv) in [
            (Arrivals::Constant, 0.0),
            (Arrivals::Poisson, 1.0),
            (Arrivals::Gamma(Gamma { cv: 2.0 }), 2.0),
            (Arrivals::Gamma(Gamma { cv: 0.5 }), 0.5),
        ] {
            let slow = times(&Load { rate_rps: Some(1.0), arrivals: process, ..Load::default() }, &r);
            let fast = times(&Load { rate_rps: Some(10.0), arrivals: process, ..Load::default() }, &r);
            assert!(slow.iter().zip(&fast).all(|(s, f)| (s - f * 10).abs() <= 10), "{process:?}");
            let gaps: Vec<f64> = slow.windows(2).map(|w| (w[1] - w[0]) as f64 / 1e9).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let var = gaps.iter().map(|g| (g - mean) * (g - mean)).sum::<f64>() / gaps.len() as f64;
            assert!((mean - 1.0).abs() < 0.05, "{process:?} mean {mean}");
            assert!((libm::sqrt(var) - cv).abs() < 0.1 * cv.max(0.01), "{process:?} deviation {}", libm::sqrt(var));
        }
    }

    #[test]
    fn requests_out_of_order_are_simulated_at_their_time() {
        let r = trace(&[3_000, 1_000, 2_000, 4_000]);
        let demand = Demand::new(&Load { horizon_s: Some(3.5e-6), ..Load::default() }, &r, 1).unwrap();
        assert_eq!((demand.count(), demand.out_of_order), (4, 2));
        assert_eq!((0..4).map(|place| demand.nth(place)).collect::<Vec<_>>(), [1, 2, 0, 3]);
        assert_eq!(demand.arrival(0), SimTime(3_000));
        let first = Demand::new(&Load { max_requests: Some(1), ..Load::default() }, &r, 1).unwrap();
        assert_eq!((first.count(), first.nth(0)), (1, 1));
    }

    #[test]
    fn what_a_request_says_goes_before_its_class_and_that_before_all() {
        let mut r = trace(&[0, 0, 0]);
        r.class_names = vec!["chat".to_string(), "other".to_string()];
        r.class = vec![Some(0), Some(0), Some(1)];
        r.priority = vec![Some(7), None, None];
        r.timeout = vec![Some(SimDuration(5)), None, None];
        r.output_tokens = vec![100; 3];
        let chat = ClassRules { priority: Some(3), max_tokens: Some(10), ..ClassRules::default() };
        let load = Load {
            timeout_s: Some(2.0),
            deadline_ms: Some(1.0),
            classes: [("chat".to_string(), chat)].into(),
            ..Load::default()
        };
        let d = Demand::new(&load, &r, 1).unwrap();
        assert_eq!([0, 1, 2].map(|i| d.priority(i)), [7, 3, 0]);
        assert_eq!([0, 1, 2].map(|i| d.deadline(i).0), [1_000_000; 3]);
        assert_eq!(d.abort(0), Some((SimTime(5), Status::TimedOut)));
        assert_eq!(d.abort(2), Some((SimTime(2_000_000_000), Status::TimedOut)));
        assert_eq!([0, 1, 2].map(|i| d.output(i, 51)), [(10, true), (10, true), (50, true)]);
        assert!(Demand::new(&Load::default(), &trace(&[0]), 1).unwrap().patient);
    }

    #[test]
    fn clients_go_away_at_their_share() {
        let r = trace(&vec![0; 10_000]);
        let load = Load { cancel: Some(crate::scenario::Cancel { share: 0.3, after_s: 2.0 }), ..Load::default() };
        let d = Demand::new(&load, &r, 1).unwrap();
        let gone: Vec<f64> = (0..10_000).filter_map(|i| d.abort(i)).map(|(t, _)| t.0 as f64 / 1e9).collect();
        assert!((gone.len() as f64 / 10_000.0 - 0.3).abs() < 0.02, "{}", gone.len());
        let mean = gone.iter().sum::<f64>() / gone.len() as f64;
        assert!((mean - 2.0).abs() < 0.1, "{mean}");
    }
}
