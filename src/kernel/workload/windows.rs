//! Clients that change from window to window: rates, gaps and lengths of their own in each.
//!
//! The rule is that of ServeGen (Xiang et al. 2025), which inference-sim follows: a window of rate `r` and length `t`
//! draws `ceil(r t)` gaps of its process and stretches them so that they fill the window exactly. The last of them
//! ends with the window, and its request is none of the window: a window has one request less than gaps.

use super::arrivals::ArrivalProcess;
use super::families::Table;
use super::generate::{Cx, Made, Synthetic, add_pieces, tidy};
use super::lengths::Sampler;
use super::mix::Asked;
use super::shape::{MEDIA, Shape, Shapes, Streams};
use super::{Correlation, Lengths, MAX_TOKENS, Problem, Problems};
use crate::rng;
use crate::units::{SimDuration, SimTime};

/// A client that changes from window to window.
#[derive(Clone, Debug, PartialEq)]
pub struct Windows {
    /// What does not change: prefixes, media, reasoning, blocks. Its arrivals, lengths and sessions are not looked at.
    pub base: Synthetic,
    /// In any order; they may overlap.
    pub windows: Vec<Window>,
    /// What windows draw lengths from.
    pub sets: Vec<LengthSet>,
}

/// A window of a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Seconds from the start.
    pub start_s: f64,
    pub end_s: f64,
    /// Requests per second.
    pub rate_rps: f64,
    /// Gaps, before they are stretched: a process without states.
    pub process: ArrivalProcess,
    /// Index into `sets`.
    pub set: u32,
}

/// Distributions of lengths.
#[derive(Clone, Debug, PartialEq)]
pub struct LengthSet {
    pub input: Lengths,
    pub output: Lengths,
    pub correlation: Correlation,
    /// Further fields of a set whose lengths are comonotone, at the same quantile as these.
    pub fields: Vec<Field>,
}

/// A field that is drawn at the quantile of the lengths.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// Share of the reply that is reasoning: weights of equally spaced shares from 0 to 1.
    Reasoning(Vec<f64>),
    /// Values and weights of the number of media, and of the tokens of each, which are drawn one by one.
    Media { count: Vec<(u32, f64)>, tokens: Vec<(u32, f64)> },
}

impl Windows {
    pub(super) fn problems(&self) -> Vec<Problem> {
        let Windows { base, windows, sets } = self;
        let mut own = Problems::below("windows");
        for (i, Window { start_s, end_s, rate_rps, process, set }) in windows.iter().enumerate() {
            own.require_at_least_zero(*start_s, &format!("{i}.start_s"));
            own.require(end_s.is_finite() && end_s > start_s, &format!("{i}.end_s"), || {
                format!("must be after the start, which is {start_s} s, not {end_s} s")
            });
            own.require_at_least_zero(*rate_rps, &format!("{i}.rate_rps"));
            let gaps = (end_s - start_s) * rate_rps;
            own.require(gaps.is_nan() || gaps < 4e9, &format!("{i}.rate_rps"), || {
                format!("makes {gaps:.0} requests in one window: too many")
            });
            own.found.extend(process.problems(&format!("windows.{i}.process")));
            let known = (*set as usize) < sets.len();
            own.require(known, &format!("{i}.set"), || "names no set of lengths".to_owned());
        }
        for (i, set) in sets.iter().enumerate() {
            own.found.extend(set.input.problems(&format!("sets.{i}.input")));
            own.found.extend(set.output.problems(&format!("sets.{i}.output")));
        }
        let mut all = own.found;
        // Only what is looked at.
        let looked_at = ["system_prompt", "shared_prefix", "prefix_", "block_tokens", "images", "audio", "video"];
        let kept =
            |p: &Problem| looked_at.iter().any(|name| p.path.starts_with(name)) || p.path.starts_with("reasoning");
        all.extend(base.body_problems().into_iter().filter(kept));
        all
    }

    /// Requests per second on average from the first window to the last.
    pub(super) fn mean_rps(&self) -> f64 {
        let total: f64 = self.windows.iter().map(|w| (w.end_s - w.start_s) * w.rate_rps).sum();
        let end = self.windows.iter().fold(0.0f64, |end, w| end.max(w.end_s));
        if end > 0.0 { total / end } else { 0.0 }
    }

    pub(super) fn draw(&self, cx: &Cx) -> Made {
        let sets: Vec<Ready> = self.sets.iter().map(|set| Ready::new(&self.base, set)).collect();
        let until_s = cx.until.0 as f64 / 1e9;
        let mut rows: Vec<(SimTime, Shape)> = Vec::new();
        for (i, window) in self.windows.iter().enumerate().filter(|(_, w)| w.start_s < until_s) {
            let mut streams = Streams::new(cx.seed, format!("workload/windows/{i}"));
            let set = &sets[window.set as usize];
            for at in window.times(&mut streams) {
                rows.push((at, set.draw(&mut streams)));
            }
        }
        rows.retain(|(at, _)| *at < cx.until);
        rows.sort_by_key(|(at, _)| *at);
        rows.truncate(cx.most);
        let mut made = Made::default();
        let requests = &mut made.requests;
        requests.block_hash_offsets = vec![0; rows.len() + 1];
        let mut asked = Asked::new(&self.base.models, self.base.adapters, cx.seed);
        for (at, shape) in rows {
            requests.arrival.push(at);
            requests.input_tokens.push(shape.input);
            requests.output_tokens.push(shape.output);
            requests.encoder_tokens.push(shape.encoder);
            let (model, adapter) = asked.draw();
            requests.model.push(model);
            requests.adapter.push(adapter);
            made.images.push(shape.media);
            made.reasoning.push(shape.reasoning);
        }
        let prefixes = self.base.prefixes(cx);
        if !prefixes.is_empty() || cx.hash {
            requests.block_tokens = self.base.block_tokens;
            add_pieces(requests, &prefixes, cx);
        }
        tidy(requests);
        made
    }
}

impl Window {
    /// Its arrivals.
    fn times(&self, streams: &mut Streams) -> Vec<SimTime> {
        let len = self.end_s - self.start_s;
        // A billionth of a request is rounding.
        let n = libm::ceil(self.rate_rps * len - 1e-9) as usize;
        let gaps = self.process.gaps(n, streams.get("arrivals").clone());
        let total: f64 = gaps.iter().sum();
        let mut at = 0.0;
        let mut next = |gap: &f64| {
            at += gap;
            SimTime::ZERO + SimDuration::from_s(self.start_s + at / total * len)
        };
        gaps[..n.saturating_sub(1)].iter().map(&mut next).collect()
    }
}

/// A set of lengths, ready for many draws.
struct Ready {
    shapes: Shapes,
    /// Of comonotone lengths.
    same: Option<Same>,
}

struct Same {
    input: Sampler,
    output: Sampler,
    reasoning: Option<(Table, f64)>,
    media: Vec<(Table, Table)>,
}

impl Ready {
    fn new(base: &Synthetic, set: &LengthSet) -> Ready {
        let LengthSet { input, output, correlation, fields } = set;
        let shapes = base.shapes(Some(input), Some(output));
        let mut same = Same { input: input.sampler(), output: output.sampler(), reasoning: None, media: Vec::new() };
        for field in fields {
            match field {
                Field::Reasoning(weights) => {
                    let table = Table::of((0..).zip(weights.iter().copied()));
                    same.reasoning = Some((table, weights.len().max(2) as f64 - 1.0));
                }
                Field::Media { count, tokens } => {
                    same.media.push((Table::of(count.iter().copied()), Table::of(tokens.iter().copied())));
                }
            }
        }
        Ready { shapes, same: (*correlation == Correlation::Comonotone).then_some(same) }
    }

    fn draw(&self, streams: &mut Streams) -> Shape {
        let Some(same) = &self.same else { return self.shapes.draw(streams) };
        let u = rng::uniform_open(streams.get("input"));
        let (input, output) = (same.input.quantile(u), same.output.quantile(u));
        let mut shape = Shape { input, output, ..Shape::default() };
        for (count, tokens) in &same.media {
            let count = count.quantile(u).min(MEDIA);
            let rng = streams.get("media");
            let sum = (0..count).fold(0u32, |sum, _| sum.saturating_add(tokens.quantile(rng::uniform_open(rng))));
            shape.encoder = Some(shape.encoder.unwrap_or(0).saturating_add(sum).min(MAX_TOKENS));
            shape.media = Some(shape.media.unwrap_or(0) + count);
        }
        shape.input += shape.encoder.unwrap_or(0);
        if let Some((table, steps)) = &same.reasoning {
            let share = f64::from(table.quantile(u)) / steps;
            shape.reasoning = Some(libm::round(share * f64::from(output)) as u32);
        }
        shape
    }
}
