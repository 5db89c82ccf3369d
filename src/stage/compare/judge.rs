//! Pairs of requests, what counts of them, and the figures of each metric. Pure: rows in, rows out.

use crate::query::functions::quantile_of;
use crate::spec::{Artefact, ClockOffset, Compare, CompareMetric, Margin, PairBy};

use super::side::Request;
use super::stats::{self, Bootstrap, Interval, Pair, Threshold};

const NS_PER_MS: f64 = 1e6;
const NS_PER_S: f64 = 1e9;
/// Quantiles whose errors are told.
pub(super) const QUANTILES: [f64; 4] = [0.5, 0.9, 0.95, 0.99];

/// A figure of a scenario: a row of the stage's table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Figure {
    pub scenario: i64,
    pub metric: &'static str,
    pub unit: &'static str,
    pub pairs: u64,
    /// Requests of which only the other side has the metric.
    pub missing_measured: u64,
    pub missing_simulated: u64,
    /// Pairs whose measured value is 0.
    pub zero_measured: u64,
    pub left_out: u64,
    pub measured: Option<f64>,
    pub simulated: Option<f64>,
    /// From here on, fractions.
    pub mean_error: Option<f64>,
    pub mean_error_interval: Option<Interval>,
    pub mape: Option<f64>,
    pub mape_interval: Option<Interval>,
    pub bias: Option<f64>,
    pub rmse: Option<f64>,
    pub pearson: Option<f64>,
    pub quantile_errors: [Option<f64>; 4],
    pub verdict: Option<stats::Verdict>,
    pub clock_offset_ms: f64,
    pub arrival_error_ms_max: Option<f64>,
}

/// One metric of one request on both sides, in milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Detail {
    pub scenario: i64,
    pub request: i64,
    pub metric: &'static str,
    pub pair: Pair,
}

/// A request on both sides; either may lack it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Both {
    measured: Option<Request>,
    simulated: Option<Request>,
}

/// The figures of a scenario, and the pairs that they are of.
pub(super) fn judge(
    spec: &Compare,
    seed: u64,
    scenario: i64,
    measured: &[Request],
    simulated: &[Request],
) -> (Vec<Figure>, Vec<Detail>) {
    let mut all = paired(spec.pair, measured, simulated);
    let offset = clock_offset(spec.clock_offset, &all);
    for both in &mut all {
        if let Some(m) = &mut both.measured {
            m.arrival_ns = m.arrival_ns.map(|a| a - offset);
            *m = corrected(spec, *m, both.simulated);
        }
    }
    let before = all.len();
    let all = counted(spec, all);
    let left_out = (before - all.len()) as u64;
    let arrivals =
        all.iter().filter_map(|b| Some((b.measured?.arrival_ns? - b.simulated?.arrival_ns?).abs() / NS_PER_MS));
    let arrival_error_ms_max = arrivals.max_by(f64::total_cmp);
    let shared = Shared { spec, seed, scenario, left_out, clock_offset_ms: offset / NS_PER_MS, arrival_error_ms_max };
    let (mut figures, mut details) = (Vec::new(), Vec::new());
    for metric in &spec.metrics {
        match latency(*metric) {
            Some((name, value)) => shared.latency(name, value, &all, &mut figures, &mut details),
            None => shared.throughput(&all, &mut figures),
        }
    }
    (figures, details)
}

/// A latency of a request, in nanoseconds.
type Value = fn(&Request) -> Option<f64>;

/// Name and value of a metric that every request has; `None` for one of all together.
fn latency(metric: CompareMetric) -> Option<(&'static str, Value)> {
    match metric {
        CompareMetric::Ttft => Some(("ttft", |r| r.ttft_ns)),
        CompareMetric::Tpot => Some(("tpot", tpot)),
        CompareMetric::Itl => Some(("itl", |r| tpot(r).and(r.itl_ns.or(r.tpot_ns)))),
        CompareMetric::E2e => Some(("e2e", |r| r.e2e_ns)),
        CompareMetric::Throughput => None,
    }
}

/// Clients write 0 for a reply of one token, which has no time between tokens.
fn tpot(request: &Request) -> Option<f64> {
    request.tpot_ns.or(request.itl_ns).filter(|_| request.output_tokens.is_none_or(|n| n >= 2.0))
}

/// Both sides are sorted by what they are paired by.
fn paired(pair: PairBy, measured: &[Request], simulated: &[Request]) -> Vec<Both> {
    let both = |m: Option<&Request>, s: Option<&Request>| Both { measured: m.copied(), simulated: s.copied() };
    if pair == PairBy::Order {
        let n = measured.len().max(simulated.len());
        return (0..n).map(|i| both(measured.get(i), simulated.get(i))).collect();
    }
    let (mut m, mut s) = (measured.iter().peekable(), simulated.iter().peekable());
    let mut all = Vec::with_capacity(measured.len().max(simulated.len()));
    while let Some(id) = [m.peek().map(|r| r.id), s.peek().map(|r| r.id)].into_iter().flatten().min() {
        all.push(both(m.next_if(|r| r.id == id), s.next_if(|r| r.id == id)));
    }
    all
}

/// In nanoseconds.
fn clock_offset(offset: ClockOffset, all: &[Both]) -> f64 {
    match offset {
        ClockOffset::None => 0.0,
        ClockOffset::Ms(ms) => ms * NS_PER_MS,
        ClockOffset::Auto => {
            let differences = all.iter().filter_map(|b| Some(b.measured?.arrival_ns? - b.simulated?.arrival_ns?));
            quantile_of(&mut differences.collect::<Vec<f64>>(), 0.5).unwrap_or(0.0)
        }
    }
}

/// What the client's figures would be without its round trip and its artefacts. A time that would be below 0 is none.
fn corrected(spec: &Compare, mut m: Request, simulated: Option<Request>) -> Request {
    let between = |m: &Request| {
        let tokens = m.output_tokens.filter(|n| *n >= 2.0)? - 1.0;
        Some((m.e2e_ns? - m.ttft_ns?) / tokens).filter(|ns| *ns >= 0.0)
    };
    for artefact in &spec.artefacts {
        match artefact {
            Artefact::AcknowledgedFirstChunk => {
                m.ttft_ns = m.second_chunk_ns;
                (m.tpot_ns, m.itl_ns) = (between(&m), None);
            }
            Artefact::TpotCountsFirstToken => (m.tpot_ns, m.itl_ns) = (between(&m), None),
            Artefact::ChunksCountedAsTokens => {
                m.output_tokens = simulated.and_then(|s| s.output_tokens);
                (m.tpot_ns, m.itl_ns) = (between(&m), None);
            }
            Artefact::TimesStartAtEngine => {
                let shifted = |ns: Option<f64>| Some(ns? + m.queue_ns?);
                (m.ttft_ns, m.e2e_ns) = (shifted(m.ttft_ns), shifted(m.e2e_ns));
            }
            Artefact::Upload(upload) => {
                let ns = m.input_tokens.map(|n| n * 4.0 * 8.0 / (upload.bandwidth_mbit_s * 1e6) * NS_PER_S);
                let shifted = |span: Option<f64>| Some(span? - ns?).filter(|ns| *ns >= 0.0);
                (m.ttft_ns, m.e2e_ns) = (shifted(m.ttft_ns), shifted(m.e2e_ns));
            }
        }
    }
    let rtt = |ns: Option<f64>| ns.map(|ns| ns - spec.network_rtt_ms * NS_PER_MS).filter(|ns| *ns >= 0.0);
    (m.ttft_ns, m.e2e_ns) = (rtt(m.ttft_ns), rtt(m.e2e_ns));
    m
}

/// Without warm-up and cool-down: what either table leaves out, and what the settings do.
fn counted(spec: &Compare, mut all: Vec<Both>) -> Vec<Both> {
    let arrival = |b: &Both| b.measured.or(b.simulated).and_then(|r| r.arrival_ns);
    // Stable: without arrivals, the order of the numbers.
    all.sort_by(|a, b| arrival(a).unwrap_or(0.0).total_cmp(&arrival(b).unwrap_or(0.0)));
    let times = || all.iter().filter_map(arrival);
    let (first, last) = (times().min_by(f64::total_cmp), times().max_by(f64::total_cmp));
    let (head, tail) = (spec.warmup.requests as usize, all.len().saturating_sub(spec.cooldown.requests as usize));
    let within = |margin: Margin, span: Option<f64>| margin.s > 0.0 && span.is_some_and(|ns| ns < margin.s * NS_PER_S);
    let counts = |place: usize, b: &Both| {
        let own = [b.measured, b.simulated].into_iter().flatten().any(|r| r.left_out);
        let early = within(spec.warmup, arrival(b).zip(first).map(|(at, first)| at - first));
        let late = within(spec.cooldown, arrival(b).zip(last).map(|(at, last)| last - at));
        !own && place >= head && place < tail && !early && !late
    };
    all.into_iter().enumerate().filter(|(place, b)| counts(*place, b)).map(|(_, b)| b).collect()
}

/// What the figures of a scenario have in common.
struct Shared<'a> {
    spec: &'a Compare,
    seed: u64,
    scenario: i64,
    left_out: u64,
    clock_offset_ms: f64,
    arrival_error_ms_max: Option<f64>,
}

impl Shared<'_> {
    fn figure(
        &self,
        metric: &'static str,
        unit: &'static str,
        measured: Option<f64>,
        simulated: Option<f64>,
    ) -> Figure {
        Figure {
            scenario: self.scenario,
            metric,
            unit,
            pairs: 0,
            missing_measured: 0,
            missing_simulated: 0,
            zero_measured: 0,
            left_out: self.left_out,
            measured,
            simulated,
            mean_error: None,
            mean_error_interval: None,
            mape: None,
            mape_interval: None,
            bias: None,
            rmse: None,
            pearson: None,
            quantile_errors: [None; 4],
            verdict: None,
            clock_offset_ms: self.clock_offset_ms,
            arrival_error_ms_max: self.arrival_error_ms_max,
        }
    }

    fn latency(
        &self,
        metric: &'static str,
        value: Value,
        all: &[Both],
        figures: &mut Vec<Figure>,
        details: &mut Vec<Detail>,
    ) {
        let ms = |r: Option<Request>| r.filter(|r| r.served).and_then(|r| value(&r)).map(|ns| ns / NS_PER_MS);
        let (mut pairs, mut missing_measured, mut missing_simulated) = (Vec::new(), 0, 0);
        for both in all {
            match (ms(both.measured), ms(both.simulated)) {
                (Some(measured), Some(simulated)) => {
                    let pair = Pair { measured, simulated };
                    pairs.push(pair);
                    let request = both.measured.map_or(0, |r| r.id);
                    details.push(Detail { scenario: self.scenario, request, metric, pair });
                }
                (None, Some(_)) => missing_measured += 1,
                (Some(_), None) => missing_simulated += 1,
                (None, None) => {}
            }
        }
        let Compare { bootstrap, confidence, .. } = self.spec;
        // One stream for all: metrics of the same requests are drawn alike.
        let bootstrap = Bootstrap { resamples: *bootstrap, confidence: *confidence, seed: self.seed, label: "compare" };
        let [mape_interval, mean_error_interval] =
            bootstrap.intervals(&pairs, [stats::mape as stats::Of, stats::error_of_mean]);
        let (mape, pearson) = (stats::mape(&pairs), stats::pearson(&pairs));
        figures.push(Figure {
            pairs: pairs.len() as u64,
            missing_measured,
            missing_simulated,
            zero_measured: pairs.iter().filter(|p| p.measured == 0.0).count() as u64,
            mean_error: stats::error_of_mean(&pairs),
            mean_error_interval,
            mape,
            mape_interval,
            bias: stats::bias(&pairs),
            rmse: stats::rmse(&pairs),
            pearson,
            quantile_errors: QUANTILES.map(|q| stats::error_of_quantile(&pairs, q)),
            verdict: mape.map(|mape| stats::verdict(mape, pearson, &self.thresholds())),
            ..self.figure(metric, "ms", stats::mean_measured(&pairs), stats::mean_simulated(&pairs))
        });
    }

    fn thresholds(&self) -> [Threshold; 3] {
        let v = &self.spec.verdicts;
        [v.excellent, v.good, v.fair].map(|a| Threshold { mape_max: a.mape_pct / 100.0, pearson_min: a.pearson })
    }

    /// Over the same requests on both sides. The length of a reply that one side does not know is that of the other.
    fn throughput(&self, all: &[Both], figures: &mut Vec<Figure>) {
        let (mut measured, mut simulated) = (Span::default(), Span::default());
        let mut pairs = 0;
        for both in all {
            let (Some(m), Some(s)) = (both.measured, both.simulated) else { continue };
            let ends = |r: &Request| r.served && r.arrival_ns.is_some() && r.e2e_ns.is_some();
            let (Some(n_m), Some(n_s)) = (m.output_tokens.or(s.output_tokens), s.output_tokens.or(m.output_tokens))
            else {
                continue;
            };
            if ends(&m) && ends(&s) {
                measured.add(&m, n_m);
                simulated.add(&s, n_s);
                pairs += 1;
            }
        }
        let kinds = [
            ("output_tps", "tokens/s", measured.tokens, simulated.tokens),
            ("request_rps", "requests/s", measured.requests, simulated.requests),
        ];
        for (metric, unit, of_measured, of_simulated) in kinds {
            let (m, s) = (measured.per_s(of_measured), simulated.per_s(of_simulated));
            let error = m.zip(s).and_then(|(measured, simulated)| Pair { measured, simulated }.relative());
            figures.push(Figure {
                pairs,
                mean_error: error,
                verdict: error.map(|e| stats::verdict(e.abs(), None, &self.thresholds())),
                ..self.figure(metric, unit, m, s)
            });
        }
    }
}

/// From the first arrival of some requests to the last end, and what was done in it.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    first_ns: Option<f64>,
    last_ns: Option<f64>,
    tokens: f64,
    requests: f64,
}

impl Span {
    fn add(&mut self, request: &Request, tokens: f64) {
        let (Some(at), Some(e2e)) = (request.arrival_ns, request.e2e_ns) else { return };
        self.first_ns = Some(self.first_ns.map_or(at, |first| first.min(at)));
        self.last_ns = Some(self.last_ns.map_or(at + e2e, |last| last.max(at + e2e)));
        self.tokens += tokens;
        self.requests += 1.0;
    }

    fn per_s(&self, count: f64) -> Option<f64> {
        let ns = self.last_ns? - self.first_ns?;
        (ns > 0.0).then(|| count / (ns / NS_PER_S))
    }
}
