//! Routers the obvious way: everything about every candidate is told, and one is chosen.
//!
//! What [`crate::sim::router`] leaves open means here:
//! - A session's first request is the first one of it that this set of candidates is asked for, also if it is rejected.
//! - The prompt's hashes are those of the trace's blocks that the prompt fills or begins. They are used (and the adapter,
//!   and the time of a request without a match) with every decision of a router that goes by them.
//! - `prefix_affinity` gives the match as its score, whatever it decided by.

use std::collections::BTreeMap;

use rand::Rng;
use rand_pcg::Pcg64;

use crate::request::Requests;
use crate::rng;
use crate::sim::router::{KvAware, PrefixAffinity, Router, Weighted};

/// What a router knows of a candidate, when it is asked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Candidate {
    pub outstanding: usize,
    /// Of the outstanding requests those whose prompt is pending: how many, their tokens, those of them that no step has
    /// dealt with, and those that were not found in the prefix cache when they were sent.
    pub prompts: usize,
    pub tokens: usize,
    pub left: usize,
    pub uncached: usize,
    /// Blocks that the prompts of the outstanding requests fill or begin.
    pub prompt_blocks: usize,
    pub waiting: usize,
    pub running: usize,
    pub used: usize,
    /// 0 for an engine without.
    pub blocks: usize,
    pub block_size: usize,
    /// Tokens of the request's prompt that are in its prefix cache.
    pub hit: usize,
}

/// The request.
#[derive(Clone, Debug, Default)]
pub(super) struct Ask {
    pub session: Option<u32>,
    pub adapter: Option<u32>,
    pub prompt: usize,
    /// Of its prompt; none for an encoder.
    pub hashes: Vec<u64>,
}

impl Ask {
    pub(super) fn new(requests: &Requests, request: u32, prompt: usize, hashed: bool) -> Ask {
        let i = request as usize;
        let hashes = if hashed { prompt_hashes(requests, i) } else { &[] };
        Ask {
            session: requests.session.get(i).copied().flatten(),
            adapter: requests.adapter.get(i).copied().flatten(),
            prompt,
            hashes: hashes.to_vec(),
        }
    }
}

fn prompt_hashes(requests: &Requests, i: usize) -> &[u64] {
    let (hashes, input) = (requests.hashes(i), requests.input_tokens[i]);
    match hashes.is_empty() {
        true => hashes,
        false => &hashes[..hashes.len().min(input.div_ceil(requests.block_tokens) as usize)],
    }
}

/// The choice, what the router thought of every candidate, and whether a session left its replica.
pub(super) struct Choice {
    pub candidate: usize,
    pub scores: Vec<Option<f64>>,
    pub moved: bool,
}

/// The router of one set of candidates.
pub(super) struct Chooser {
    router: Router,
    random: Pcg64,
    turn: usize,
    sessions: BTreeMap<u32, usize>,
    /// Of every candidate, the last used in front: hashes, adapters.
    hashes: Vec<Vec<u64>>,
    adapters: Vec<Vec<u32>>,
    /// Of every candidate, the number of the last decision that sent it a request without a match anywhere.
    cold: Vec<Option<usize>>,
    decisions: usize,
}

impl Chooser {
    pub(super) fn new(router: &Router, candidates: usize, set: usize, seed: u64) -> Chooser {
        let label = if set == 0 { "router".to_string() } else { format!("router/{set}") };
        Chooser {
            router: router.clone(),
            random: rng::stream(seed, &label),
            turn: 0,
            sessions: BTreeMap::new(),
            hashes: vec![Vec::new(); candidates],
            adapters: vec![Vec::new(); candidates],
            cold: vec![None; candidates],
            decisions: 0,
        }
    }

    pub(super) fn choose(&mut self, ask: &Ask, all: &[Candidate]) -> Choice {
        let counted = |of: fn(&Candidate) -> usize| -> Vec<f64> { all.iter().map(|c| -(of(c) as f64)).collect() };
        let router = self.router.clone();
        match &router {
            Router::RoundRobin => self.in_turn(all.len()),
            Router::Random => {
                let candidate = self.one_of(&(0..all.len()).collect::<Vec<_>>());
                unscored(candidate, all.len())
            }
            Router::LeastOutstanding => self.highest(counted(|c| c.outstanding)),
            Router::LeastQueued => self.highest(counted(|c| c.waiting)),
            Router::LeastTokens => self.highest(counted(|c| c.tokens)),
            Router::LopBinary => self.highest(counted(|c| c.prompts)),
            Router::LopBatchEnd => self.highest(counted(|c| c.left)),
            Router::LopUncached => self.highest(imbalances(ask, all).iter().map(|i| -i).collect()),
            Router::StickyRoundRobin => self.sticky(ask, all.len(), |router| router.in_turn(all.len())),
            Router::StickyLor => self.sticky(ask, all.len(), |router| router.highest(counted(|c| c.outstanding))),
            Router::StickyLop => self.sticky(ask, all.len(), |router| router.highest(counted(|c| c.tokens))),
            Router::TolerantStickyLopUncached(rules) => {
                let imbalances = imbalances(ask, all);
                let least = imbalances.iter().copied().fold(f64::INFINITY, f64::min);
                self.roaming(ask, &imbalances, |own| imbalances[own] <= rules.tolerance_factor * least)
            }
            Router::RankedStickyLopUncached(rules) => {
                let imbalances = imbalances(ask, all);
                let lower = |own: usize| imbalances.iter().filter(|i| **i < imbalances[own]).count();
                self.roaming(ask, &imbalances, |own| lower(own) < rules.top_k as usize)
            }
            Router::PowerOfTwo => self.better_of_two(counted(|c| c.outstanding)),
            Router::PrefixAffinity(rules) => self.affine(rules, ask, all),
            Router::KvAware(rules) => self.cheapest(rules, ask, all),
            Router::Weighted(rules) => self.best(rules, ask, all),
        }
    }

    /// One of equals, by one number.
    fn one_of(&mut self, equals: &[usize]) -> usize {
        equals[self.below(equals.len())]
    }

    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.random.next_u64()) * n as u128) >> 64) as usize
    }

    /// One of those with the highest score.
    fn highest(&mut self, scores: Vec<f64>) -> Choice {
        let candidate = self.one_of(&best(&scores));
        Choice { candidate, scores: scores.into_iter().map(Some).collect(), moved: false }
    }

    fn in_turn(&mut self, candidates: usize) -> Choice {
        self.turn += 1;
        unscored((self.turn - 1) % candidates, candidates)
    }

    /// Keeps a session where its first request went.
    fn sticky(&mut self, ask: &Ask, candidates: usize, first: impl FnOnce(&mut Self) -> Choice) -> Choice {
        if let Some(own) = ask.session.and_then(|session| self.sessions.get(&session)) {
            return unscored(*own, candidates);
        }
        let choice = first(self);
        if let Some(session) = ask.session {
            self.sessions.insert(session, choice.candidate);
        }
        choice
    }

    /// Keeps a session where it is, if that is good enough; else it goes where the imbalance is least.
    fn roaming(&mut self, ask: &Ask, imbalances: &[f64], is_enough: impl Fn(usize) -> bool) -> Choice {
        let scores: Vec<f64> = imbalances.iter().map(|i| -i).collect();
        let own = ask.session.and_then(|session| self.sessions.get(&session)).copied();
        if let Some(own) = own.filter(|own| is_enough(*own)) {
            return Choice { candidate: own, scores: scores.into_iter().map(Some).collect(), moved: false };
        }
        let choice = self.highest(scores);
        if let Some(session) = ask.session {
            self.sessions.insert(session, choice.candidate);
        }
        Choice { moved: own.is_some_and(|own| own != choice.candidate), ..choice }
    }

    fn better_of_two(&mut self, scores: Vec<f64>) -> Choice {
        let first = self.below(scores.len());
        let others: Vec<usize> = (0..scores.len()).filter(|i| *i != first).collect();
        // Both numbers are drawn, also where there is no other.
        let second = if others.is_empty() { self.one_of(&[first]) } else { self.one_of(&others) };
        let candidate = if scores[second] > scores[first] { second } else { first };
        Choice { candidate, scores: scores.into_iter().map(Some).collect(), moved: false }
    }

    /// Share of the prompt's hashes that is known for every candidate.
    fn matches(&self, ask: &Ask) -> Vec<f64> {
        let matched = |known: &Vec<u64>| ask.hashes.iter().take_while(|hash| known.contains(hash)).count();
        let share = |known| if ask.hashes.is_empty() { 0.0 } else { matched(known) as f64 / ask.hashes.len() as f64 };
        self.hashes.iter().map(share).collect()
    }

    /// The hashes of a request's prompt are sent to a candidate.
    fn remember(&mut self, candidate: usize, ask: &Ask, capacity: u32) {
        for hash in &ask.hashes {
            use_last(&mut self.hashes[candidate], *hash, capacity);
        }
    }

    fn affine(&mut self, rules: &PrefixAffinity, ask: &Ask, all: &[Candidate]) -> Choice {
        let matches = self.matches(ask);
        let outstanding = |i: usize| -(all[i].outstanding as f64);
        let most = all.iter().map(|c| c.outstanding).max().unwrap_or(0);
        let fewest = all.iter().map(|c| c.outstanding).min().unwrap_or(0);
        let uneven = most - fewest > rules.balance_abs_threshold as usize
            && most as f64 > rules.balance_rel_threshold * fewest as f64;
        let highest = matches.iter().copied().fold(0.0, f64::max);
        let everyone: Vec<usize> = (0..all.len()).collect();
        let equals = if uneven {
            best_of(&everyone, outstanding)
        } else if highest > rules.cache_threshold {
            best_of(&best(&matches), outstanding)
        } else {
            best_of(&everyone, |i| -(self.hashes[i].len() as f64))
        };
        let candidate = self.one_of(&equals);
        self.remember(candidate, ask, rules.capacity);
        Choice { candidate, scores: matches.into_iter().map(Some).collect(), moved: false }
    }

    fn cheapest(&mut self, rules: &KvAware, ask: &Ask, all: &[Candidate]) -> Choice {
        let cost = |c: &Candidate| {
            let prefill = (c.uncached + ask.prompt - c.hit) as f64 / c.block_size as f64;
            rules.overlap_weight * prefill + (c.prompt_blocks + ask.prompt.div_ceil(c.block_size)) as f64
        };
        let costs: Vec<f64> = all.iter().map(cost).collect();
        let scores: Vec<f64> = costs.iter().map(|cost| -cost).collect();
        if rules.temperature <= 0.0 {
            return self.highest(scores);
        }
        let low = costs.iter().copied().fold(f64::INFINITY, f64::min);
        let high = costs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let scaled = |cost: f64| if high > low { (cost - low) / (high - low) } else { 0.0 };
        let weights: Vec<f64> = costs.iter().map(|cost| libm::exp(-scaled(*cost) / rules.temperature)).collect();
        let limit = rng::uniform01(&mut self.random) * weights.iter().sum::<f64>();
        let mut sum = 0.0;
        let mut exceeds = |weight: &f64| {
            sum += weight;
            sum > limit
        };
        let candidate = weights.iter().position(&mut exceeds).unwrap_or(all.len() - 1);
        Choice { candidate, scores: scores.into_iter().map(Some).collect(), moved: false }
    }

    fn best(&mut self, rules: &Weighted, ask: &Ask, all: &[Candidate]) -> Choice {
        let matches = self.matches(ask);
        let is_cold = matches.iter().all(|m| *m == 0.0);
        let weights = rules.scorers().weights();
        let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let score = |at: usize| {
            let one = [
                scaled(all, |c| c.hit, at).unwrap_or(1.0),
                matches[at],
                self.longest_ago(is_cold, at),
                scaled(all, |c| c.waiting, at).map_or(1.0, |x| 1.0 - x),
                if all[at].blocks == 0 { 1.0 } else { 1.0 - all[at].used as f64 / all[at].blocks as f64 },
                1.0 / (1.0 + (all[at].waiting + all[at].running + all[at].outstanding) as f64),
                active_requests(all, at),
                scaled(all, |c| c.running, at).map_or(1.0, |x| 1.0 - x),
                0.5 * (1.0 - all[at].waiting.min(128) as f64 / 128.0),
                match ask.adapter {
                    Some(adapter) if !self.adapters[at].contains(&adapter) => 0.0,
                    Some(_) | None => 1.0,
                },
            ];
            let sum: f64 = weights.iter().zip(one).map(|((_, weight), x): (_, f64)| weight * x.clamp(0.0, 1.0)).sum();
            sum / total
        };
        let choice = self.highest((0..all.len()).map(score).collect());
        self.decisions += 1;
        if is_cold {
            self.cold[choice.candidate] = Some(self.decisions);
        }
        self.remember(choice.candidate, ask, rules.capacity);
        if let Some(adapter) = ask.adapter {
            use_last(&mut self.adapters[choice.candidate], adapter, rules.max_loras);
        }
        choice
    }

    /// How long ago a candidate was last sent a request without a match, as a rank.
    fn longest_ago(&self, is_cold: bool, at: usize) -> f64 {
        if !is_cold {
            return 0.5;
        }
        if self.cold.len() == 1 {
            return 1.0;
        }
        // Never is before every decision.
        let longer_ago = (0..self.cold.len()).filter(|i| (self.cold[*i], *i) < (self.cold[at], at)).count();
        (self.cold.len() - 1 - longer_ago) as f64 / (self.cold.len() - 1) as f64
    }
}

fn unscored(candidate: usize, candidates: usize) -> Choice {
    Choice { candidate, scores: vec![None; candidates], moved: false }
}

/// Those with the highest of the scores.
fn best(scores: &[f64]) -> Vec<usize> {
    best_of(&(0..scores.len()).collect::<Vec<_>>(), |i| scores[i])
}

fn best_of(of: &[usize], score: impl Fn(usize) -> f64) -> Vec<usize> {
    let highest = of.iter().map(|i| score(*i)).fold(f64::NEG_INFINITY, f64::max);
    of.iter().copied().filter(|i| score(*i) == highest).collect()
}

/// For every candidate: if the request went there, by how much the highest pending count would exceed the lowest.
fn imbalances(ask: &Ask, all: &[Candidate]) -> Vec<f64> {
    let imbalance = |at: usize| {
        let more = |i: usize| if i == at { ask.prompt - all[i].hit } else { 0 };
        let pending: Vec<usize> = (0..all.len()).map(|i| all[i].uncached + more(i)).collect();
        let (high, low) = (pending.iter().max().unwrap_or(&0), pending.iter().min().unwrap_or(&0));
        (high - low) as f64
    };
    (0..all.len()).map(imbalance).collect()
}

/// `(x - lowest) / (highest - lowest)`; `None` where all are equal.
fn scaled(all: &[Candidate], of: impl Fn(&Candidate) -> usize, at: usize) -> Option<f64> {
    let high = all.iter().map(&of).max()?;
    let low = all.iter().map(&of).min()?;
    (high > low).then(|| (of(&all[at]) - low) as f64 / (high - low) as f64)
}

fn active_requests(all: &[Candidate], at: usize) -> f64 {
    let high = all.iter().map(|c| c.outstanding).max().unwrap_or(0);
    if high == 0 { 1.0 } else { (high - all[at].outstanding) as f64 / high as f64 }
}

/// `x` comes to the front of a list of so many at most.
fn use_last<T: PartialEq>(list: &mut Vec<T>, x: T, capacity: u32) {
    list.retain(|known| *known != x);
    list.insert(0, x);
    list.truncate(capacity as usize);
}
