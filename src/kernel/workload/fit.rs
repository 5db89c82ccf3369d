//! A workload like a trace: its clients' rates and burstiness, lengths, sessions and shared prefixes.
//!
//! What is taken over, client by client: the rate in windows of time; the coefficient of variation of the gaps, by
//! their moments, on a clock that runs as fast as the rate of the windows; pairs of lengths, or their distributions
//! and their rank correlation; how many turns sessions have, and mean and variation of the time between turns; the
//! groups of requests that begin with the same blocks, with the length that all of a group share. What is lost: how
//! all of these depend on each other, on time, and on other clients; what is shared below the common beginning of a
//! group.

use std::collections::BTreeMap;

use super::generate::Synthetic;
use super::{
    After, ArrivalProcess, Correlation, Empirical, GaussianCopula, Joint, Lengths, MAX_TOKENS, PrefixGroup, RatePiece,
    RateSchedule, SyntheticSessions,
};
use crate::scenario::{ConstantTime, Gamma, LognormalTime, ThinkTime};

/// The requests of one client, in order of their arrivals. All columns are as long as the requests are many.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Seconds from the start of the trace, not negative.
    pub arrival_s: Vec<f64>,
    /// At least 1.
    pub input: Vec<u32>,
    /// At least 1.
    pub output: Vec<u32>,
    /// A number of its own.
    pub session: Vec<Option<u32>>,
    /// Time from the end of the turn before, in seconds, where it is known.
    pub think_s: Vec<Option<f64>>,
    /// Chained hashes of the blocks of the prompt; empty where there are none.
    pub blocks: Vec<Vec<u64>>,
}

/// What to take over.
#[derive(Clone, Copy, Debug)]
pub struct FitSettings {
    /// Seconds; above 0.
    pub window_s: f64,
    /// How long the trace is, in seconds; above 0.
    pub span_s: f64,
    /// Lengths as pairs, not as a copula.
    pub joint: bool,
    pub sessions: bool,
    pub prefixes: bool,
    /// Of the trace's hashes; 0 where it has none.
    pub block_tokens: u32,
}

/// What was found of a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    pub body: Synthetic,
    /// Name, start of the window in seconds where it belongs to one, and value.
    pub figures: Vec<(&'static str, Option<f64>, f64)>,
}

/// Groups of a client that are told apart; those of the fewest requests are counted as requests without a prefix.
const GROUPS: usize = 4096;

/// The workload that is like the requests of a client, of which there must be some.
pub fn fit(of: &Observed, settings: &FitSettings) -> Fitted {
    let n = of.arrival_s.len();
    assert!(n > 0, "a client has requests");
    let mut figures: Vec<(&'static str, Option<f64>, f64)> = vec![("requests", None, n as f64)];
    let turns = turns(of).filter(|_| settings.sessions);
    let starts: Vec<usize> = match &turns {
        Some(turns) => turns.iter().map(|t| t[0]).collect(),
        None => (0..n).collect(),
    };
    let times: Vec<f64> = {
        let mut times: Vec<f64> = starts.iter().map(|i| of.arrival_s[*i]).collect();
        times.sort_by(f64::total_cmp);
        times
    };
    let (schedule, rates) = rates(&times, settings);
    figures.extend(rates.iter().map(|(at, rate)| ("rate_rps", Some(*at), *rate)));
    let cv = burstiness(&times, &rates, settings);
    figures.extend(cv.map(|cv| ("gaps_cv", None, cv)));
    let unused = || Lengths::Constant(super::Constant { tokens: 1 });
    let mut body = Synthetic { requests: None, rate_rps: None, ..Synthetic::new(1, 1.0, unused(), unused()) };
    body.arrivals = cv.map_or(ArrivalProcess::Poisson, |cv| ArrivalProcess::Gamma(Gamma { cv }));
    body.rate_schedule = Some(schedule);
    // What a request brings beyond the turn before, or the prefix.
    let mut new: Vec<u32> = of.input.clone();
    if settings.prefixes && settings.block_tokens > 0 {
        let (groups, shared) = prefixes(of, &starts, settings.block_tokens);
        let of_all: f64 = groups.iter().map(|g| g.weight).sum();
        let with: f64 = groups.iter().filter(|g| g.tokens > 0).map(|g| g.weight).sum();
        figures.push(("prefix_groups", None, groups.iter().filter(|g| g.tokens > 0).count() as f64));
        figures.push(("prefix_share", None, with / of_all));
        let tokens: f64 = groups.iter().map(|g| g.weight * f64::from(g.tokens)).sum();
        figures.push(("prefix_tokens_mean", None, tokens / of_all));
        for (i, tokens) in shared {
            new[i] = new[i].saturating_sub(tokens).max(1);
        }
        if with > 0.0 {
            body.prefix_groups = groups;
            body.block_tokens = settings.block_tokens;
        }
    }
    if let Some(turns) = &turns {
        body.sessions = Some(sessions(of, turns, &mut new, &mut figures));
    }
    let mean = |xs: &[u32]| xs.iter().map(|x| f64::from(*x)).sum::<f64>() / n as f64;
    figures.push(("input_tokens_mean", None, mean(&of.input)));
    figures.push(("new_input_tokens_mean", None, mean(&new)));
    figures.push(("output_tokens_mean", None, mean(&of.output)));
    let spearman = rank_correlation(&new, &of.output);
    figures.extend(spearman.map(|rho| ("lengths_rank_correlation", None, rho)));
    if settings.joint {
        let pairs = new.iter().zip(&of.output).map(|(i, o)| (*i, *o)).collect();
        body.joint = Some(Joint { pairs, ..Joint::default() });
    } else {
        (body.input, body.output) = (empirical(&new), empirical(&of.output));
        // Of normal scores whose ranks have this correlation (Pearson 1907).
        let rho = 2.0 * libm::sin(std::f64::consts::PI / 6.0 * spearman.unwrap_or(0.0));
        body.correlation = Correlation::Gaussian(GaussianCopula { rho: rho.clamp(-1.0, 1.0) });
    }
    Fitted { body, figures }
}

/// The requests of every session, in order; `None` where no session has a second one.
fn turns(of: &Observed) -> Option<Vec<Vec<usize>>> {
    let mut by: BTreeMap<(u8, u32), Vec<usize>> = BTreeMap::new();
    for (i, session) in of.session.iter().enumerate() {
        // A request without a session is one of its own.
        by.entry(session.map_or((1, i as u32), |s| (0, s))).or_default().push(i);
    }
    by.values().any(|t| t.len() > 1).then(|| by.into_values().collect())
}

/// Requests per second in every window, as a schedule and by the start of the window.
fn rates(times: &[f64], settings: &FitSettings) -> (RateSchedule, Vec<(f64, f64)>) {
    let FitSettings { window_s, span_s, .. } = *settings;
    let windows = (libm::ceil(span_s / window_s) as usize).max(1);
    let mut counts = vec![0u32; windows];
    for t in times {
        counts[((t / window_s) as usize).min(windows - 1)] += 1;
    }
    let mut rates = Vec::new();
    let mut pieces = Vec::new();
    for (i, count) in counts.into_iter().enumerate() {
        let start = i as f64 * window_s;
        let end = (start + window_s).min(span_s).max(start + 1e-9);
        let rate_rps = f64::from(count) / (end - start);
        rates.push((start, rate_rps));
        pieces.push(RatePiece { for_s: None, until_s: Some(end), rate_rps, to_rps: None });
    }
    (RateSchedule { pieces, after: After::Repeat, ..RateSchedule::default() }, rates)
}

/// The coefficient of variation of the gaps, on the clock of the windows; `None` for fewer than ten.
fn burstiness(times: &[f64], rates: &[(f64, f64)], settings: &FitSettings) -> Option<f64> {
    if times.len() < 10 {
        return None;
    }
    let FitSettings { window_s, span_s, .. } = *settings;
    let mut upto = vec![0.0];
    for (start, rate) in rates {
        let end = (start + window_s).min(span_s);
        upto.push(upto[upto.len() - 1] + rate * (end - start));
    }
    let clock = |t: f64| {
        let w = ((t / window_s) as usize).min(rates.len() - 1);
        upto[w] + rates[w].1 * (t - rates[w].0)
    };
    let gaps: Vec<f64> = times.windows(2).map(|w| clock(w[1]) - clock(w[0])).collect();
    let n = gaps.len() as f64;
    let mean = gaps.iter().sum::<f64>() / n;
    let variance = gaps.iter().map(|g| (g - mean) * (g - mean)).sum::<f64>() / n;
    (mean > 0.0).then(|| (libm::sqrt(variance) / mean).clamp(0.01, 100.0))
}

/// Sessions like those of the trace. `new` is made what a turn brings beyond the one before.
fn sessions(
    of: &Observed,
    turns: &[Vec<usize>],
    new: &mut [u32],
    figures: &mut Vec<(&'static str, Option<f64>, f64)>,
) -> SyntheticSessions {
    let later = || turns.iter().flat_map(|t| t.windows(2)).map(|w| (w[0], w[1]));
    let before = |i: usize| of.input[i].saturating_add(of.output[i]);
    let (grows, all) =
        later().fold((0, 0), |(grows, all), (a, b)| (grows + u32::from(of.input[b] > before(a)), all + 1));
    let accumulate = 2 * grows >= all;
    if accumulate {
        for (a, b) in later() {
            new[b] = of.input[b].saturating_sub(before(a)).max(1);
        }
    }
    let known: Vec<f64> = later().filter_map(|(_, b)| of.think_s[b]).collect();
    let apart = || later().map(|(a, b)| (of.arrival_s[b] - of.arrival_s[a]).max(0.0)).collect::<Vec<f64>>();
    let thinks = if known.is_empty() { apart() } else { known };
    let n = thinks.len().max(1) as f64;
    let mean_s = thinks.iter().sum::<f64>() / n;
    let variance = thinks.iter().map(|t| (t - mean_s) * (t - mean_s)).sum::<f64>() / n;
    let cv = if mean_s > 0.0 { libm::sqrt(variance) / mean_s } else { 0.0 };
    let counts: Vec<u32> = turns.iter().map(|t| t.len() as u32).collect();
    let mean_turns = of.arrival_s.len() as f64 / turns.len() as f64;
    figures.extend([
        ("sessions", None, turns.len() as f64),
        ("turns_mean", None, mean_turns),
        ("accumulate", None, f64::from(u8::from(accumulate))),
        ("think_s_mean", None, mean_s),
        ("think_s_cv", None, cv),
    ]);
    let think_time = if mean_s > 0.0 && cv > 0.0 {
        ThinkTime::Lognormal(LognormalTime { mean_s, cv })
    } else {
        ThinkTime::Constant(ConstantTime { s: mean_s })
    };
    SyntheticSessions { turns: empirical(&counts), think_time, accumulate, max_context: None, turn_s: 0.0 }
}

/// Groups of requests that begin with the same block, by how many blocks all of a group share; and for each request of
/// a group how many tokens that is.
fn prefixes(of: &Observed, starts: &[usize], block_tokens: u32) -> (Vec<PrefixGroup>, Vec<(usize, u32)>) {
    let mut by: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for i in starts {
        if let Some(first) = of.blocks[*i].first() {
            by.entry(*first).or_default().push(*i);
        }
    }
    let mut shared: Vec<Vec<usize>> = by.into_values().filter(|members| members.len() > 1).collect();
    shared.sort_by_key(|members| (usize::MAX - members.len(), members[0]));
    shared.truncate(GROUPS);
    let (mut groups, mut tokens_of, mut grouped) = (Vec::new(), Vec::new(), 0);
    for members in shared {
        let first = &of.blocks[members[0]];
        let common = |i: &usize| first.iter().zip(&of.blocks[*i]).take_while(|(a, b)| a == b).count();
        let blocks = members.iter().map(common).min().unwrap_or(0) as u32;
        // A prompt has a word of its own.
        let shortest = members.iter().map(|i| of.input[*i]).min().unwrap_or(1);
        let tokens = blocks.saturating_mul(block_tokens).min(shortest - 1).min(MAX_TOKENS);
        grouped += members.len();
        groups.push(PrefixGroup { weight: members.len() as f64, count: 1, tokens });
        tokens_of.extend(members.into_iter().map(|i| (i, tokens)));
    }
    if grouped < starts.len() {
        groups.push(PrefixGroup { weight: (starts.len() - grouped) as f64, count: 1, tokens: 0 });
    }
    (groups, tokens_of)
}

fn empirical(values: &[u32]) -> Lengths {
    let mut counts: BTreeMap<u32, f64> = BTreeMap::new();
    values.iter().for_each(|v| *counts.entry((*v).clamp(1, MAX_TOKENS)).or_default() += 1.0);
    let (values, weights) = counts.into_iter().unzip();
    Lengths::Empirical(Empirical { values, weights, from: None, column: None })
}

/// Spearman's rank correlation, with mean ranks for ties; `None` where one of the two is always the same.
pub fn rank_correlation(a: &[u32], b: &[u32]) -> Option<f64> {
    let ranks = |xs: &[u32]| -> Vec<f64> {
        let mut order: Vec<usize> = (0..xs.len()).collect();
        order.sort_by_key(|i| xs[*i]);
        let mut ranks = vec![0.0; xs.len()];
        let mut from = 0;
        while from < order.len() {
            let to = from + order[from..].iter().take_while(|i| xs[**i] == xs[order[from]]).count();
            order[from..to].iter().for_each(|i| ranks[*i] = (from + to - 1) as f64 / 2.0);
            from = to;
        }
        ranks
    };
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let sum = |xs: &[f64], ys: &[f64]| xs.iter().zip(ys).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    let (aa, bb) = (sum(&a, &a), sum(&b, &b));
    (aa > 0.0 && bb > 0.0).then(|| sum(&a, &b) / libm::sqrt(aa * bb))
}
