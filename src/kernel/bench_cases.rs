//! The workloads that the simulator's speed is measured on, for `pipe bench` and for the criterion benches.
//!
//! Promises: the same case and size give the same requests, scenario and result, on any machine. Requests are cut, not
//! drawn anew: a smaller size is the beginning of a larger one.
//! Leaves out: time. Who runs a case measures.

pub mod tables;

use std::sync::atomic::AtomicBool;

use rand_pcg::Pcg64;

use crate::request::Requests;
use crate::rng;
use crate::scenario::Scenario;
use crate::sim::router::{KvAware, Router};
use crate::sim::scheduler::{Scheduler, VllmV1};
use crate::sim::swarm::scenario_8b;
use crate::sim::{RequestRow, SimError, Sink, Summary, simulate};
use crate::units::{SimDuration, SimTime};
use crate::workload::{Lengths, LognormalP50P90, Normal, Synthetic, chain, generate};

/// Of all workloads here.
const SEED: u64 = 7;
/// Requests per second and replica of the plain cases: about a third of what one replica can do.
const RATE_RPS: f64 = 10.0;
const MEAN_TOKENS: f64 = 512.0;

/// Rate and KV blocks of [`Case::Preemptions`]. The rate is a little above what the replica can do (24/s), so that all
/// 256 seats are taken almost always; 256 requests hold up to 14,500 blocks then, and with 13,800 about one request in
/// fifteen is preempted. That share depends on the blocks and hardly on the rate.
const PRESSED_RATE_RPS: f64 = 25.0;
const PRESSED_BLOCKS: u64 = 13_800;

/// Replicas of [`Case::Prefixes`]: three fall behind Mooncake's conversation trace for a while, two for good. The cache
/// of one holds about 35 prompts, so of the 37 % of all prompt tokens that came before, it still has 5 to 7 %.
const PREFIX_REPLICAS: u32 = 4;

/// What is simulated. Llama 3.1 8B on an H100, roofline, 2,048 tokens and 256 requests per step in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Prompts and outputs of 512 +/- 256 tokens at 10 requests/s, one replica.
    Plain,
    /// The same at saturation, with a KV cache that is a little too small: 25 requests/s, 13,800 blocks.
    Preemptions,
    /// Long prompts with shared prefixes, four replicas: a trace, or [`conversations`].
    Prefixes,
    /// A million requests of the first kind at 40 requests/s over four replicas.
    Fleet,
    /// A million requests of the first kind at 10,000 requests/s over 1,000 replicas, with `least_outstanding`: a
    /// request must not cost more for the replicas that have nothing to do with it.
    Thousand,
    /// As the prefixes, 64 replicas with `kv_aware`: the router must know every cache.
    Aware,
    /// The first case with outputs twice as long: the cost per token must be less than the cost per request.
    LongOutputs,
    /// The first case with twice the requests: the cost must be linear in their number.
    MoreRequests,
}

impl Case {
    pub const ALL: [Case; 8] = [
        Case::Plain,
        Case::Preemptions,
        Case::Prefixes,
        Case::Fleet,
        Case::LongOutputs,
        Case::MoreRequests,
        Case::Thousand,
        Case::Aware,
    ];

    pub fn letter(self) -> &'static str {
        match self {
            Case::Plain => "a",
            Case::Preemptions => "b",
            Case::Prefixes => "c",
            Case::Fleet => "d",
            Case::LongOutputs => "e",
            Case::MoreRequests => "f",
            Case::Thousand => "g",
            Case::Aware => "h",
        }
    }

    /// In a few words, for a table.
    pub fn name(self) -> &'static str {
        match self {
            Case::Plain => "512/512 tokens, 10/s, one replica",
            Case::Preemptions => "case a at 25/s, 13,800 KV blocks",
            Case::Prefixes => "conversations, four replicas",
            Case::Fleet => "case a at 40/s, four replicas",
            Case::LongOutputs => "case a, outputs twice as long",
            Case::MoreRequests => "case a, twice the requests",
            Case::Thousand => "case a, 1,000 replicas, least_outstanding",
            Case::Aware => "conversations, 64 replicas, kv_aware",
        }
    }

    /// Requests at full size.
    pub fn count(self) -> u32 {
        match self {
            Case::Plain | Case::Preemptions | Case::LongOutputs => 100_000,
            // As many as Mooncake's conversation trace has.
            Case::Prefixes | Case::Aware => 12_031,
            Case::Fleet | Case::Thousand => 1_000_000,
            Case::MoreRequests => 200_000,
        }
    }

    /// A trace may take the place of its requests.
    pub fn takes_trace(self) -> bool {
        match self {
            Case::Prefixes | Case::Aware => true,
            Case::Plain | Case::Preemptions | Case::Fleet | Case::LongOutputs | Case::MoreRequests | Case::Thousand => {
                false
            }
        }
    }

    /// The first `count` requests. Of [`Case::Prefixes`] and [`Case::Aware`]: of the synthetic workload.
    pub fn requests(self, count: u32) -> Requests {
        match self {
            Case::Plain | Case::MoreRequests => normal(count, RATE_RPS, 1),
            Case::Preemptions => normal(count, PRESSED_RATE_RPS, 1),
            Case::Prefixes | Case::Aware => conversations(count),
            Case::Thousand => normal(count, 1000.0 * RATE_RPS, 1),
            Case::Fleet => normal(count, 4.0 * RATE_RPS, 1),
            Case::LongOutputs => normal(count, RATE_RPS, 2),
        }
    }

    /// Requests arrive at the times of their own.
    pub fn scenario(self) -> Scenario {
        let mut s = scenario_8b();
        let rules = VllmV1 { max_num_batched_tokens: 2_048, max_num_seqs: 256, ..VllmV1::default() };
        s.deployment.scheduler = Scheduler::VllmV1(rules);
        match self {
            Case::Plain | Case::LongOutputs | Case::MoreRequests => {}
            Case::Preemptions => s.deployment.kv.num_gpu_blocks = Some(PRESSED_BLOCKS),
            Case::Prefixes => {
                s.deployment.replicas = PREFIX_REPLICAS;
                s.deployment.router = Router::LeastOutstanding;
            }
            Case::Fleet => s.deployment.replicas = 4,
            Case::Thousand => {
                s.deployment.replicas = 1000;
                s.deployment.router = Router::LeastOutstanding;
            }
            Case::Aware => {
                s.deployment.replicas = 64;
                s.deployment.router = Router::KvAware(KvAware::default());
            }
        }
        s
    }
}

/// Normally distributed lengths, Poisson arrivals; every output `times` as long as drawn.
fn normal(count: u32, rate_rps: f64, times: u32) -> Requests {
    let lengths = Lengths::Normal(Normal { mean: MEAN_TOKENS, std: MEAN_TOKENS / 2.0, min: 1, max: None });
    let workload = Synthetic::new(count, rate_rps, lengths.clone(), lengths);
    let mut made = generate(&workload, SEED);
    made.output_tokens.iter_mut().for_each(|n| *n *= times);
    made
}

/// A conversation that can go on.
struct Talk {
    id: u64,
    /// Prompt and output of the turns so far.
    tokens: u32,
}

/// Conversations that last: those that a later turn may belong to.
const TALKS: usize = 400;
/// Tokens per hashed block.
const BLOCK_TOKENS: u32 = 512;
/// Longest prompt, below the context of the model.
const PROMPT_MAX: u32 = 120_000;
/// Share of the requests that begin a conversation.
const NEW_SHARE: f64 = 0.61;

/// A workload like Mooncake's conversation trace (FAST'25 release): conversations whose turns share a growing prefix,
/// all after one system prompt of a block.
///
/// Of the trace are: 3.4 requests/s, blocks of 512 tokens, 61 % of requests that share the first block only, with
/// prompts of 5,264 tokens in the median and 25,600 at 90 %, the median of 829 new tokens in others, outputs of about
/// 340 tokens. Prompts are about 12,000 tokens on average, 37 % of whose blocks came before, in both.
pub fn conversations(count: u32) -> Requests {
    let mut r = rng::stream(SEED, "bench/conversations");
    let longest = PROMPT_MAX - BLOCK_TOKENS;
    let lognormal =
        |p50: f64, p90: f64| Lengths::LognormalP50P90(LognormalP50P90 { p50, p90, min: 8, max: Some(longest) });
    let (first, turn) = (lognormal(4_752.0, 25_000.0), lognormal(829.0, 6_500.0));
    let output = Lengths::Normal(Normal { mean: 340.0, std: 200.0, min: 3, max: None });
    let mut made = Requests { block_tokens: BLOCK_TOKENS, block_hash_offsets: vec![0], ..Requests::default() };
    let mut talks: Vec<Talk> = Vec::new();
    let mut now = SimTime::ZERO;
    for id in 0..u64::from(count) {
        // Every request takes the same number of draws, whichever of them it uses.
        now = now + SimDuration::from_s(rng::exponential(&mut r, 1.0 / 3.4));
        let goes_on = rng::uniform01(&mut r) >= NEW_SHARE;
        let at = pick(&mut r, talks.len());
        let (fresh, new, out) = (first.sample(&mut r), turn.sample(&mut r), output.sample(&mut r));
        let (at, input) = match at {
            Some(at) if goes_on && talks[at].tokens + new <= PROMPT_MAX => (at, talks[at].tokens + new),
            Some(_) | None => (begin(&mut talks, id), BLOCK_TOKENS + fresh),
        };
        talks[at].tokens = input + out;
        made.arrival.push(now);
        made.input_tokens.push(input);
        made.output_tokens.push(out);
        hash_prompt(&mut made, talks[at].id, id, input);
    }
    made
}

/// One draw.
fn pick(r: &mut Pcg64, of: usize) -> Option<usize> {
    let u = rng::uniform01(r);
    (of > 0).then(|| ((u * of as f64) as usize).min(of - 1))
}

/// Begins a conversation, in the place of an old one where there are enough.
fn begin(talks: &mut Vec<Talk>, id: u64) -> usize {
    let talk = Talk { id, tokens: 0 };
    if talks.len() < TALKS {
        talks.push(talk);
        return talks.len() - 1;
    }
    let at = (id % TALKS as u64) as usize;
    talks[at] = talk;
    at
}

/// The system prompt, the full blocks of the conversation, and a last block, cut short, that is the request's own.
fn hash_prompt(made: &mut Requests, talk: u64, request: u64, input: u32) {
    let mut hash = 0;
    for block in 0..input.div_ceil(BLOCK_TOKENS) {
        let full = (block + 1) * BLOCK_TOKENS <= input;
        let owner = match (block, full) {
            (0, true) => 0,
            (_, true) => 1 + 2 * talk,
            (_, false) => 2 + 2 * request,
        };
        hash = chain(hash, chain(owner, u64::from(block)));
        made.block_hashes.push(hash);
    }
    made.block_hash_offsets.push(made.block_hashes.len() as u64);
}

/// Keeps no row, so that the memory of a run is the simulator's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub requests: u64,
    pub output_tokens: u64,
}

impl Sink for Counts {
    fn request(&mut self, row: RequestRow) {
        self.requests += 1;
        self.output_tokens += u64::from(row.output_tokens);
    }
}

/// Simulates to the end.
///
/// # Errors
/// As [`simulate`].
pub fn run(scenario: &Scenario, requests: &Requests) -> Result<(Counts, Summary), SimError> {
    let mut counts = Counts::default();
    let summary = simulate(scenario, requests, &mut counts, &AtomicBool::new(false))?;
    Ok((counts, summary))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_case_runs_and_serves_all() {
        for case in Case::ALL {
            let requests = case.requests(case.count() / 100);
            let (counts, summary) = run(&case.scenario(), &requests).unwrap();
            assert_eq!(counts.requests, requests.len() as u64, "{case:?}");
            let tokens: u64 = requests.output_tokens.iter().map(|n| u64::from(*n)).sum();
            assert_eq!((summary.finished, counts.output_tokens), (counts.requests, tokens), "{case:?}");
        }
    }

    #[test]
    fn a_smaller_size_is_a_beginning() {
        for case in Case::ALL {
            let (few, more) = (case.requests(50), case.requests(200));
            assert_eq!(few.arrival, more.arrival[..50], "{case:?}");
            assert_eq!(few.input_tokens, more.input_tokens[..50], "{case:?}");
            assert_eq!(few.output_tokens, more.output_tokens[..50], "{case:?}");
            assert!((0..50).all(|i| few.hashes(i) == more.hashes(i)), "{case:?}");
        }
    }

    #[test]
    fn outputs_are_twice_as_long_and_nothing_else_changes() {
        let (plain, long) = (Case::Plain.requests(1_000), Case::LongOutputs.requests(1_000));
        assert_eq!((&plain.arrival, &plain.input_tokens), (&long.arrival, &long.input_tokens));
        assert!(plain.output_tokens.iter().zip(&long.output_tokens).all(|(a, b)| 2 * a == *b));
        let mean = plain.output_tokens.iter().sum::<u32>() / 1_000;
        assert!((480..560).contains(&mean), "{mean}");
    }

    #[test]
    fn requests_are_preempted_where_that_is_the_point() {
        let preempted = |case: Case| run(&case.scenario(), &case.requests(10_000)).unwrap().1.preemptions;
        assert_eq!(preempted(Case::Plain), 0);
        let n = preempted(Case::Preemptions);
        assert!((200..2_000).contains(&n), "{n} preemptions of 10,000 requests");
    }

    #[test]
    fn conversations_are_like_the_trace() {
        let made = conversations(Case::Prefixes.count());
        let n = made.len() as f64;
        let mean = made.input_tokens.iter().map(|t| f64::from(*t)).sum::<f64>() / n;
        assert!((11_000.0..13_000.0).contains(&mean), "{mean} prompt tokens");
        let mut seen = BTreeSet::new();
        let known = made.block_hashes.iter().filter(|h| !seen.insert(**h)).count();
        let share = known as f64 / made.block_hashes.len() as f64;
        assert!((0.33..0.41).contains(&share), "{share} of the blocks came before");
        assert!(made.arrival.is_sorted() && (made.arrival[made.len() - 1].0 as f64 / 3_537e9 - 1.0).abs() < 0.05);
    }
}
