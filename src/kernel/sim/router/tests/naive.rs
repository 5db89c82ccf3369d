//! Routers the obvious way: everything that happened is kept, and every decision goes through all of it.

use std::collections::BTreeMap;

use rand::Rng;
use rand_pcg::Pcg64;

use crate::request::Requests;
use crate::rng;
use crate::sim::router::picker::{Ask, Kind, Load};
use crate::sim::router::{PrefixAffinity, Router, Scorers};

/// A request that was sent.
struct Sent {
    candidate: usize,
    ask: Ask,
    uncached: u64,
    computed: u64,
    prompt_done: bool,
    ended: bool,
}

/// What random sequences came across.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) decisions: u64,
    /// With more than one that is best; where candidates are best that do not have the same pending.
    pub(super) ties: u64,
    pub(super) near: u64,
    pub(super) hits: u64,
    pub(super) matches: u64,
    pub(super) kept: u64,
    pub(super) moved: u64,
    pub(super) uneven: u64,
}

pub(super) struct Naive<'a> {
    router: Router,
    requests: &'a Requests,
    kinds: Vec<Kind>,
    random: Pcg64,
    turn: usize,
    sent: Vec<Sent>,
    pub(super) loads: Vec<Load>,
    pub(super) caches: Vec<BTreeMap<u64, u32>>,
    sessions: BTreeMap<u32, usize>,
    /// Hashes and adapters that were sent to each candidate, the last one at the end; requests without a match.
    hashes: Vec<Vec<u64>>,
    adapters: Vec<Vec<u64>>,
    /// How many of them.
    remembers: (u32, u32),
    unmatched: Vec<usize>,
    pub(super) seen: Seen,
}

impl<'a> Naive<'a> {
    pub(super) fn new(router: &Router, requests: &'a Requests, kinds: &[Kind], random: Pcg64) -> Naive<'a> {
        let n = kinds.len();
        let remembers = match router {
            Router::PrefixAffinity(settings) => (settings.capacity, 0),
            Router::Weighted(settings) => (settings.capacity, settings.max_loras),
            _ => (0, 0),
        };
        Naive {
            router: router.clone(),
            requests,
            kinds: kinds.to_vec(),
            random,
            turn: 0,
            sent: Vec::new(),
            loads: vec![Load::default(); n],
            caches: vec![BTreeMap::new(); n],
            sessions: BTreeMap::new(),
            hashes: vec![Vec::new(); n],
            adapters: vec![Vec::new(); n],
            remembers,
            unmatched: Vec::new(),
            seen: Seen::default(),
        }
    }

    fn all(&self) -> std::ops::Range<usize> {
        0..self.kinds.len()
    }

    fn of(&self, a: usize) -> impl Iterator<Item = &Sent> {
        self.sent.iter().filter(move |sent| sent.candidate == a && !sent.ended)
    }

    fn outstanding(&self, a: usize) -> u64 {
        self.of(a).count() as u64
    }

    fn pending(&self, a: usize) -> impl Iterator<Item = &Sent> {
        self.of(a).filter(|sent| !sent.prompt_done)
    }

    fn tokens(&self, a: usize) -> u64 {
        self.pending(a).map(|sent| u64::from(sent.ask.prompt)).sum()
    }

    fn uncached(&self, a: usize) -> u64 {
        self.pending(a).map(|sent| sent.uncached).sum()
    }

    fn tokens_left(&self, a: usize) -> u64 {
        self.pending(a).map(|sent| u64::from(sent.ask.prompt).saturating_sub(sent.computed)).sum()
    }

    pub(super) fn hit(&self, a: usize, ask: Ask) -> u32 {
        let (kind, i) = (self.kinds[a], ask.request as usize);
        if !ask.hashed {
            return 0;
        }
        let usable = if kind.recompute_full_hits { ask.prompt - 1 } else { ask.prompt };
        let most = kind.derivation.known_blocks(self.requests, i, kind.block_size).min(usable / kind.block_size);
        let held = |block: &u32| {
            let (unit, sub) = kind.derivation.unit_of(*block);
            self.caches[a].get(&kind.derivation.unit_hash(self.requests, i, unit)).is_some_and(|blocks| sub < *blocks)
        };
        (0..most).take_while(held).count() as u32 * kind.block_size
    }

    fn imbalances(&self, ask: Ask) -> Vec<u64> {
        let imbalance = |a: usize| {
            let uncached = u64::from(ask.prompt - self.hit(a, ask));
            let with = self.all().map(|b| self.uncached(b) + if b == a { uncached } else { 0 });
            let with: Vec<u64> = with.collect();
            with.iter().max().unwrap() - with.iter().min().unwrap()
        };
        self.all().map(imbalance).collect()
    }

    fn cost(&self, a: usize, ask: Ask, weight: f64) -> f64 {
        let block_size = self.kinds[a].block_size;
        let blocks = |prompt: u32| u64::from(prompt.div_ceil(block_size));
        let tokens = self.uncached(a) + u64::from(ask.prompt) - u64::from(self.hit(a, ask));
        let decode = self.of(a).map(|sent| blocks(sent.ask.prompt)).sum::<u64>() + blocks(ask.prompt);
        weight * (tokens as f64 / f64::from(block_size)) + decode as f64
    }

    fn prompt_hashes(&self, ask: Ask) -> Vec<u64> {
        let hashes = self.requests.hashes(ask.request as usize);
        let tokens = self.requests.input_tokens[ask.request as usize];
        let begun = |block: &usize| (*block as u32) * self.requests.block_tokens < tokens;
        (0..hashes.len()).take_while(begun).map(|block| hashes[block]).filter(|_| ask.hashed).collect()
    }

    fn matches(&self, a: usize, ask: Ask) -> f64 {
        let hashes = self.prompt_hashes(ask);
        let known = hashes.iter().take_while(|hash| self.hashes[a].contains(hash)).count();
        if hashes.is_empty() { 0.0 } else { known as f64 / hashes.len() as f64 }
    }

    /// Scaled over the candidates.
    fn scaled(&self, of: impl Fn(usize) -> u64) -> Vec<f64> {
        let (low, high) = (self.all().map(&of).min().unwrap(), self.all().map(&of).max().unwrap());
        let scale = |a: usize| if low == high { 1.0 } else { (of(a) - low) as f64 / (high - low) as f64 };
        self.all().map(scale).collect()
    }

    fn few(&self, of: impl Fn(usize) -> u64) -> Vec<f64> {
        let equal = self.all().all(|a| of(a) == of(0));
        self.scaled(of).into_iter().map(|x| if equal { 1.0 } else { 1.0 - x }).collect()
    }

    fn no_hit(&self, ask: Ask) -> Vec<f64> {
        let n = self.kinds.len();
        if self.all().any(|a| self.matches(a, ask) > 0.0) {
            return vec![0.5; n];
        }
        if n == 1 {
            return vec![1.0];
        }
        let mut order: Vec<usize> = self.all().collect();
        // A candidate that never had one is before all others.
        order.sort_by_key(|a| (self.unmatched.iter().rposition(|b| b == a).map_or(0, |at| at + 1), *a));
        let rank = |a: usize| n - 1 - order.iter().position(|b| *b == a).unwrap();
        self.all().map(|a| rank(a) as f64 / (n - 1) as f64).collect()
    }

    fn scores_of(&self, scorer: &str, ask: Ask) -> Vec<f64> {
        let load = |a: usize| self.loads[a];
        let adapter = self.requests.adapter.get(ask.request as usize).copied().flatten().map(u64::from);
        let highest = self.all().map(|a| self.outstanding(a)).max().unwrap();
        let of = |a: usize| match scorer {
            "prefix-affinity" => self.matches(a, ask),
            "kv-utilization" if self.kinds[a].blocks == 0 => 1.0,
            "kv-utilization" => 1.0 - load(a).blocks_used as f64 / self.kinds[a].blocks as f64,
            "load-balance" => {
                1.0 / (1.0 + (u64::from(load(a).waiting) + u64::from(load(a).running) + self.outstanding(a)) as f64)
            }
            "active-requests" if highest == 0 => 1.0,
            "active-requests" => (highest - self.outstanding(a)) as f64 / highest as f64,
            "load-aware" => 0.5 * (1.0 - f64::from(load(a).waiting.min(128)) / 128.0),
            "lora-affinity" => f64::from(u8::from(adapter.is_none_or(|own| self.adapters[a].contains(&own)))),
            other => panic!("{other} is no scorer"),
        };
        let scores: Vec<f64> = match scorer {
            "precise-prefix-cache" => self.scaled(|a| u64::from(self.hit(a, ask))),
            "queue-depth" => self.few(|a| u64::from(load(a).waiting)),
            "running-requests" => self.few(|a| u64::from(load(a).running)),
            "no-hit-lru" => self.no_hit(ask),
            _ => self.all().map(of).collect(),
        };
        scores.into_iter().map(|score| score.clamp(0.0, 1.0)).collect()
    }

    fn weighted(&self, scorers: Scorers, ask: Ask) -> Vec<f64> {
        let weights: Vec<(&str, f64)> = scorers.weights().into_iter().filter(|(_, weight)| *weight > 0.0).collect();
        let scores: Vec<Vec<f64>> = weights.iter().map(|(name, _)| self.scores_of(name, ask)).collect();
        let mut sum = 0.0;
        weights.iter().for_each(|(_, weight)| sum += weight);
        let mean = |a: usize| {
            let mut total = 0.0;
            weights.iter().zip(&scores).for_each(|((_, weight), scores)| total += weight * scores[a]);
            total / sum
        };
        self.all().map(mean).collect()
    }

    fn one_of(&mut self, equal: &[usize]) -> usize {
        equal[((u128::from(self.random.next_u64()) * equal.len() as u128) >> 64) as usize]
    }

    /// One of those with the highest score.
    fn best(&mut self, scores: &[f64]) -> usize {
        let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let equal: Vec<usize> = self.all().filter(|a| scores[*a] == highest).collect();
        self.seen.ties += u64::from(equal.len() > 1);
        self.seen.near += u64::from(equal.iter().any(|a| self.uncached(*a) != self.uncached(equal[0])));
        self.one_of(&equal)
    }

    fn round_robin(&mut self) -> usize {
        self.turn += 1;
        (self.turn - 1) % self.kinds.len()
    }

    fn less(&self, of: impl Fn(usize) -> u64) -> Vec<f64> {
        self.all().map(|a| -(of(a) as f64)).collect()
    }

    fn session(&self, ask: Ask) -> Option<u32> {
        self.requests.session.get(ask.request as usize).copied().flatten()
    }

    fn affinity(&mut self, settings: PrefixAffinity, ask: Ask) -> (usize, Option<Vec<f64>>) {
        let matches: Vec<f64> = self.all().map(|a| self.matches(a, ask)).collect();
        let highest = matches.iter().copied().fold(0.0, f64::max);
        let load = self.less(|a| self.outstanding(a));
        let (fewest, most) = (
            self.all().map(|a| self.outstanding(a)).min().unwrap(),
            self.all().map(|a| self.outstanding(a)).max().unwrap(),
        );
        let uneven = most > fewest + u64::from(settings.balance_abs_threshold)
            && most as f64 > settings.balance_rel_threshold * fewest as f64;
        self.seen.uneven += u64::from(uneven);
        self.seen.matches += u64::from(highest > 0.0);
        let chosen = if uneven {
            self.best(&load)
        } else if highest > settings.cache_threshold {
            let among = |a: usize| if matches[a] == highest { load[a] } else { f64::NEG_INFINITY };
            self.best(&self.all().map(among).collect::<Vec<f64>>())
        } else {
            self.best(&self.less(|a| self.hashes[a].len() as u64))
        };
        (chosen, Some(matches))
    }

    fn tempered(&mut self, costs: &[f64], temperature: f64) -> usize {
        let low = costs.iter().copied().fold(f64::INFINITY, f64::min);
        let high = costs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weight = |cost: &f64| {
            let scaled = if low == high { 0.0 } else { (cost - low) / (high - low) };
            libm::exp(-scaled / temperature)
        };
        let weights: Vec<f64> = costs.iter().map(weight).collect();
        let mut all = 0.0;
        weights.iter().for_each(|weight| all += weight);
        let (u, mut sum) = (rng::uniform01(&mut self.random), 0.0);
        for (a, weight) in weights.iter().enumerate() {
            sum += weight;
            if sum > u * all {
                return a;
            }
        }
        panic!("the sum exceeds a part of it")
    }

    fn sticky(&mut self, ask: Ask, scores: Option<Vec<f64>>) -> (usize, Option<Vec<f64>>) {
        if let Some(kept) = self.session(ask).and_then(|session| self.sessions.get(&session)) {
            self.seen.kept += 1;
            return (*kept, None);
        }
        let chosen = match &scores {
            Some(scores) => self.best(scores),
            None => self.round_robin(),
        };
        self.settle(ask, chosen);
        (chosen, scores)
    }

    fn settle(&mut self, ask: Ask, chosen: usize) {
        if let Some(session) = self.session(ask) {
            self.sessions.insert(session, chosen);
        }
    }

    fn by_imbalance(&mut self, ask: Ask, keep: impl Fn(u64, &[u64]) -> bool) -> (usize, Option<Vec<f64>>) {
        let imbalances = self.imbalances(ask);
        let scores = self.less(|a| imbalances[a]);
        let own = self.session(ask).and_then(|session| self.sessions.get(&session)).copied();
        let chosen = match own {
            Some(own) if keep(imbalances[own], &imbalances) => {
                self.seen.kept += 1;
                own
            }
            Some(_) | None => {
                self.seen.moved += u64::from(own.is_some());
                self.best(&scores)
            }
        };
        self.settle(ask, chosen);
        (chosen, Some(scores))
    }

    fn choose(&mut self, ask: Ask) -> (usize, Option<Vec<f64>>) {
        let all: Vec<usize> = self.all().collect();
        let best = |naive: &mut Self, scores: Vec<f64>| (naive.best(&scores), Some(scores));
        match self.router.clone() {
            Router::RoundRobin => (self.round_robin(), None),
            Router::Random => (self.one_of(&all), None),
            Router::LeastOutstanding => best(self, self.less(|a| self.outstanding(a))),
            Router::LeastQueued => best(self, self.less(|a| u64::from(self.loads[a].waiting))),
            Router::LeastTokens => best(self, self.less(|a| self.tokens(a))),
            Router::LopBinary => best(self, self.less(|a| self.pending(a).count() as u64)),
            Router::LopBatchEnd => best(self, self.less(|a| self.tokens_left(a))),
            Router::LopUncached => best(self, self.imbalances(ask).into_iter().map(|x| -(x as f64)).collect()),
            Router::StickyRoundRobin => self.sticky(ask, None),
            Router::StickyLor => self.sticky(ask, Some(self.less(|a| self.outstanding(a)))),
            Router::StickyLop => self.sticky(ask, Some(self.less(|a| self.tokens(a)))),
            Router::TolerantStickyLopUncached(s) => self.by_imbalance(ask, |own, all| {
                let least = *all.iter().min().unwrap();
                own as f64 <= s.tolerance_factor * least as f64
            }),
            Router::RankedStickyLopUncached(s) => {
                self.by_imbalance(ask, |own, all| all.iter().filter(|x| **x < own).count() < s.top_k as usize)
            }
            Router::PowerOfTwo => {
                let first = self.one_of(&all);
                let others: Vec<usize> = all.iter().copied().filter(|a| all.len() == 1 || *a != first).collect();
                let second = self.one_of(&others);
                let scores = self.less(|a| self.outstanding(a));
                (if scores[second] > scores[first] { second } else { first }, Some(scores))
            }
            Router::PrefixAffinity(settings) => self.affinity(settings, ask),
            Router::KvAware(settings) => {
                let costs: Vec<f64> = self.all().map(|a| self.cost(a, ask, settings.overlap_weight)).collect();
                let scores: Vec<f64> = costs.iter().map(|cost| -cost).collect();
                if settings.temperature > 0.0 {
                    return (self.tempered(&costs, settings.temperature), Some(scores));
                }
                best(self, scores)
            }
            Router::Weighted(settings) => best(self, self.weighted(settings.scorers(), ask)),
        }
    }

    /// The choice, and the scores of all candidates.
    pub(super) fn pick(&mut self, ask: Ask) -> (usize, Vec<Option<f64>>) {
        self.seen.decisions += 1;
        self.seen.hits += u64::from(self.all().any(|a| self.hit(a, ask) > 0));
        let no_match = self.all().all(|a| self.matches(a, ask) == 0.0);
        let (chosen, scores) = self.choose(ask);
        let scores = scores.map_or(vec![None; self.kinds.len()], |scores| scores.into_iter().map(Some).collect());
        let uncached = u64::from(ask.prompt - self.hit(chosen, ask));
        self.sent.push(Sent { candidate: chosen, ask, uncached, computed: 0, prompt_done: false, ended: false });
        let (capacity, max_loras) = self.remembers;
        let adapter = self.requests.adapter.get(ask.request as usize).copied().flatten().map(u64::from);
        let hashes = self.prompt_hashes(ask);
        remember(&mut self.hashes[chosen], hashes.into_iter(), capacity);
        remember(&mut self.adapters[chosen], adapter.into_iter(), max_loras);
        if no_match {
            self.unmatched.push(chosen);
        }
        (chosen, scores)
    }

    /// Candidate and request of one that has not ended, by its place among them.
    pub(super) fn live(&self, at: u64) -> Option<(usize, u32)> {
        let live: Vec<&Sent> = self.sent.iter().filter(|sent| !sent.ended).collect();
        let sent = live.get((at % (live.len() as u64).max(1)) as usize)?;
        Some((sent.candidate, sent.ask.request))
    }

    fn change(&mut self, request: u32, change: impl Fn(&mut Sent)) {
        self.sent.iter_mut().filter(|sent| sent.ask.request == request).for_each(change);
    }

    pub(super) fn progress(&mut self, request: u32, tokens: u32) {
        self.change(request, |sent| sent.computed += u64::from(tokens));
    }

    pub(super) fn prompt_done(&mut self, request: u32) {
        self.change(request, |sent| sent.prompt_done = true);
    }

    pub(super) fn ended(&mut self, request: u32) {
        self.change(request, |sent| sent.ended = true);
    }
}

/// Uses them one after the other: what was used last is at the end, what is too much goes at the front.
fn remember(known: &mut Vec<u64>, used: impl Iterator<Item = u64>, capacity: u32) {
    for hash in used {
        known.retain(|other| *other != hash);
        known.push(hash);
        if known.len() > capacity as usize {
            known.remove(0);
        }
    }
}
