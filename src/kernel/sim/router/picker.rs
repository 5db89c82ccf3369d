//! The fast router of one set of candidates: what it knows, kept up to date by what the engine tells it, and its choice.
//!
//! The engine calls [`Picker::pick`] for every request, which counts it as sent, and then tells what becomes of it:
//! [`Picker::progress`], [`Picker::prompt_done`], [`Picker::ended`]. What the router sees of the engines it is shown with
//! [`Picker::see`] and [`Picker::cached`], as late as the signals say.
//!
//! Candidates are named by their place in the set, from 0.

use rand::Rng;

use super::Router;
use super::affinity::Affinity;
use super::balance::{Balance, Keep};
use super::costs::Costs;
use super::counts::{Counts, First, Sessions, Sticky, What};
use super::holders::Holder;
use super::prefixes::Prefixes;
use super::scorers::Mean;
use super::turns::{Any, PowerOfTwo, Turns};
use crate::request::Requests;
use crate::rng;
use crate::sim::kv::hashes::Derivation;

/// What candidates of one pool have in common.
#[derive(Clone, Copy, Debug)]
pub(in crate::sim) struct Kind {
    pub derivation: Derivation,
    pub block_size: u32,
    /// KV blocks of an engine; 0 for one without.
    pub blocks: u64,
    /// Whether the last token of a prompt is never found.
    pub recompute_full_hits: bool,
}

/// What a router wants to be told, beyond [`Picker::ended`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::sim) struct Needs {
    /// [`Picker::ended`], which the router has a use for.
    pub ends: bool,
    /// [`Picker::prompt_done`].
    pub prompts: bool,
    /// [`Picker::progress`].
    pub progress: bool,
    /// [`Picker::see`].
    pub loads: bool,
    /// [`Picker::cached`].
    pub caches: bool,
}

impl Needs {
    /// Of a set of candidates with this router. `hits` are asked for beside it, by the decider.
    pub(in crate::sim) fn of(router: &Router, hits: bool) -> Needs {
        let ends = Needs { ends: true, ..Needs::default() };
        let prompts = Needs { prompts: true, ..ends };
        let needs = match router {
            Router::RoundRobin | Router::Random | Router::StickyRoundRobin => Needs::default(),
            Router::LeastOutstanding | Router::StickyLor | Router::PowerOfTwo | Router::PrefixAffinity(_) => ends,
            Router::LeastQueued => Needs { loads: true, ..Needs::default() },
            Router::LeastTokens | Router::LopBinary | Router::StickyLop => prompts,
            Router::LopBatchEnd => Needs { progress: true, ..prompts },
            Router::LopUncached
            | Router::TolerantStickyLopUncached(_)
            | Router::RankedStickyLopUncached(_)
            | Router::KvAware(_) => Needs { caches: true, ..prompts },
            Router::Weighted(weighted) => {
                let s = weighted.scorers();
                let any = |weights: &[f64]| weights.iter().any(|weight| *weight != 0.0);
                Needs {
                    ends: any(&[s.load_balance, s.active_requests]),
                    loads: any(&[s.queue_depth, s.kv_utilization, s.load_balance, s.running_requests, s.load_aware]),
                    caches: any(&[s.precise_prefix_cache]),
                    ..Needs::default()
                }
            }
        };
        Needs { caches: needs.caches || hits, ..needs }
    }
}

/// A request to be sent.
#[derive(Clone, Copy, Debug)]
pub(in crate::sim) struct Ask {
    pub request: u32,
    /// Tokens of its prompt (of its encoder's prompt).
    pub prompt: u32,
    /// Its hashes count (not for an encoder).
    pub hashed: bool,
}

/// Random whole numbers: each call takes one below the number that is given, which is not 0.
pub type Draws = Box<dyn FnMut(u64) -> u64>;

/// From the stream of a scenario for its `set`th set of candidates.
fn draws(seed: u64, set: usize) -> Draws {
    let label = if set == 0 { "router".to_string() } else { format!("router/{set}") };
    let mut stream = rng::stream(seed, &label);
    Box::new(move |n| ((u128::from(stream.next_u64()) * u128::from(n)) >> 64) as u64)
}

/// What is seen of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::sim) struct Load {
    pub waiting: u32,
    pub running: u32,
    pub blocks_used: u64,
}

/// A decision to be made.
pub(super) struct Call<'a> {
    pub ask: Ask,
    pub requests: &'a Requests,
    pub candidates: usize,
    /// Candidates that have some of the prompt, and how many tokens; empty for a router that does not look at caches.
    pub hits: &'a [Holder],
    draws: &'a mut Draws,
    scores: Option<&'a mut Vec<Option<f64>>>,
}

impl Call<'_> {
    /// The request's session.
    pub(super) fn session(&self) -> Option<u32> {
        self.requests.session.get(self.ask.request as usize).copied().flatten()
    }

    /// One of `n` equals: takes a number from the stream.
    pub(super) fn one_of(&mut self, n: usize) -> usize {
        (self.draws)(n as u64) as usize
    }

    /// One of the candidates that have this value.
    pub(super) fn one_with<T: PartialEq>(&mut self, values: &[T], value: T) -> usize {
        let equal = values.iter().filter(|other| **other == value).count();
        let n = self.one_of(equal);
        let mut places = (0..values.len()).filter(|candidate| values[*candidate] == value);
        places.nth(n).expect("some candidate has the value")
    }

    /// Uniform in [0, 1): takes a number from the stream.
    pub(super) fn uniform01(&mut self) -> f64 {
        let n = 1 << 53;
        (self.draws)(n) as f64 * (1.0 / n as f64)
    }

    /// The scores of the candidates, if somebody wants them.
    pub(super) fn score(&mut self, of: impl Fn(usize) -> Option<f64>) {
        if let Some(scores) = &mut self.scores {
            scores.clear();
            scores.extend((0..self.candidates).map(of));
        }
    }

    /// The score of one candidate, in place of the one that it was given.
    pub(super) fn rescore(&mut self, candidate: u32, score: f64) {
        if let Some(scores) = &mut self.scores {
            scores[candidate as usize] = Some(score);
        }
    }
}

/// A kind of router: what it counts, and how it chooses. Told of things that it has no use for, it does nothing.
pub(super) trait Policy {
    /// The candidate for a request, which is counted as sent there.
    fn pick(&mut self, call: &mut Call) -> usize;

    fn progress(&mut self, _candidate: usize, _request: u32, _tokens: u32) {}

    fn prompt_done(&mut self, _candidate: usize, _request: u32) {}

    fn ended(&mut self, _candidate: usize, _request: u32) {}

    fn see(&mut self, _candidate: usize, _load: Load) {}
}

/// The line for every router.
fn build(router: &Router, kinds: &[Kind], requests: usize) -> Box<dyn Policy> {
    let candidates = kinds.len();
    let balance = |keep| Box::new(Balance::new(keep, candidates, requests));
    let counts = |what| Counts::new(what, candidates, requests);
    let sticky = |first| Box::new(Sticky { sessions: Sessions::new(), first });
    match router {
        Router::RoundRobin => Box::new(Turns::new(candidates)),
        Router::Random => Box::new(Any),
        Router::LeastOutstanding => Box::new(counts(What::Outstanding)),
        Router::LeastQueued => Box::new(counts(What::Waiting)),
        Router::LeastTokens => Box::new(counts(What::Tokens)),
        Router::LopBinary => Box::new(counts(What::Prompts)),
        Router::LopBatchEnd => Box::new(counts(What::TokensLeft)),
        Router::StickyRoundRobin => sticky(First::Turns(Turns::new(candidates))),
        Router::StickyLor => sticky(First::Least(counts(What::Outstanding))),
        Router::StickyLop => sticky(First::Least(counts(What::Tokens))),
        Router::PowerOfTwo => Box::new(PowerOfTwo::new(candidates)),
        Router::LopUncached => balance(Keep::Never),
        Router::TolerantStickyLopUncached(settings) => balance(Keep::Tolerant(settings.tolerance_factor)),
        Router::RankedStickyLopUncached(settings) => balance(Keep::Ranked(settings.top_k)),
        Router::PrefixAffinity(settings) => Box::new(Affinity::new(*settings, candidates)),
        Router::KvAware(settings) => Box::new(Costs::new(*settings, kinds, requests)),
        Router::Weighted(settings) => Box::new(Mean::new(settings, kinds)),
    }
}

/// See the head of the file.
pub(in crate::sim) struct Picker {
    policy: Box<dyn Policy>,
    candidates: usize,
    draws: Draws,
    /// What is known of the caches, where it is of use.
    prefixes: Option<Prefixes>,
    /// Whether the router itself goes by them.
    looks: bool,
    /// For one decision.
    hits: Vec<Holder>,
}

impl Picker {
    /// For the `set`th set of candidates, at least one; `kinds[i]` is that of candidate `i`. `hits`: the decider asks for
    /// hits.
    pub(in crate::sim) fn new(
        router: &Router,
        kinds: Vec<Kind>,
        set: usize,
        seed: u64,
        requests: &Requests,
        hits: bool,
    ) -> Picker {
        Picker {
            policy: build(router, &kinds, requests.len()),
            candidates: kinds.len(),
            draws: draws(seed, set),
            looks: Needs::of(router, false).caches,
            prefixes: Needs::of(router, hits).caches.then(|| Prefixes::new(kinds)),
            hits: Vec::new(),
        }
    }

    /// Takes its random numbers from elsewhere.
    pub(in crate::sim) fn draw_from(&mut self, draws: Draws) {
        self.draws = draws;
    }

    /// The candidate for a request, which is counted as sent there. `scores`, if given, gets the score of every
    /// candidate (see [`RouteRow::score`](crate::sim::RouteRow::score)), as they were before the choice.
    pub(in crate::sim) fn pick(
        &mut self,
        ask: Ask,
        requests: &Requests,
        scores: Option<&mut Vec<Option<f64>>>,
    ) -> usize {
        if let Some(prefixes) = self.prefixes.as_mut().filter(|_| self.looks) {
            prefixes.hits(ask, requests, &mut self.hits);
        }
        let Picker { policy, candidates, draws, hits, .. } = self;
        policy.pick(&mut Call { ask, requests, candidates: *candidates, hits, draws, scores })
    }

    /// Tokens of the request's prompt that are in the prefix cache of the candidate, as far as the router knows: where
    /// [`Needs::caches`].
    pub(in crate::sim) fn hit(&self, candidate: usize, ask: Ask, requests: &Requests) -> u32 {
        let prefixes = self.prefixes.as_ref().expect("a router that is asked for hits is told of the caches");
        prefixes.hit(candidate, ask, requests)
    }

    /// A step that ended computed so many tokens of the prompt, or found them in the prefix cache.
    pub(in crate::sim) fn progress(&mut self, candidate: usize, request: u32, tokens: u32) {
        self.policy.progress(candidate, request, tokens);
    }

    /// The candidate has dealt with the prompt.
    pub(in crate::sim) fn prompt_done(&mut self, candidate: usize, request: u32) {
        self.policy.prompt_done(candidate, request);
    }

    /// The request has left, whatever became of it.
    pub(in crate::sim) fn ended(&mut self, candidate: usize, request: u32) {
        self.policy.ended(candidate, request);
    }

    /// What is seen of an engine now.
    pub(in crate::sim) fn see(&mut self, candidate: usize, load: Load) {
        self.policy.see(candidate, load);
    }

    /// What is seen of its cache: of every hash given, so many KV blocks of the unit, counted from its first, are there.
    pub(in crate::sim) fn cached(&mut self, candidate: usize, changes: &[(u64, u32)]) {
        if let Some(prefixes) = &mut self.prefixes {
            prefixes.cached(candidate, changes);
        }
    }
}
