//! Turns the description of a workload into requests.
//!
//! The same description and seed give the same requests, on any machine. Request `i` is the same whether ten or ten
//! million are made.

use rand_pcg::Pcg64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ArrivalProcess, Lengths, MAX_TOKENS, Problem, Problems};
use crate::request::Requests;
use crate::rng;

/// A synthetic workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Synthetic {
    /// Number of requests, at least 1.
    pub requests: u32,
    /// Mean arrival rate in requests per second.
    pub rate_rps: f64,
    /// How the gaps between arrivals are distributed.
    #[serde(default)]
    pub arrivals: ArrivalProcess,
    /// Prompt lengths in tokens, without the shared prefix.
    pub input: Lengths,
    /// Output lengths in tokens.
    pub output: Lengths,
    /// Prompts that begin alike. Default: none do, and the requests carry no block hashes.
    #[serde(default)]
    pub shared_prefix: Option<SharedPrefix>,
    /// Tokens per hashed block; matters with `shared_prefix` only.
    #[serde(default = "sixteen")]
    pub block_tokens: u32,
}

fn sixteen() -> u32 {
    16
}

/// Prompts that begin alike: system prompts, or documents that many users ask about.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedPrefix {
    /// Number of different prefixes; every request has one of them.
    pub groups: u32,
    /// Length of each prefix in tokens. It comes before, and on top of, the drawn prompt.
    pub tokens: u32,
    /// How unevenly the groups are used: the k-th most popular one has weight `1 / k^skew` (Zipf's law).
    /// 0, the default, is even.
    #[serde(default)]
    pub skew: f64,
}

impl Synthetic {
    /// Most groups of a shared prefix.
    const MAX_GROUPS: u32 = 1 << 24;

    /// Everything that is wrong with the description, in the order of its fields.
    pub fn problems(&self) -> Vec<Problem> {
        let Synthetic { requests, rate_rps, arrivals, input, output, shared_prefix, block_tokens } = self;
        let mut own = Problems::below("");
        own.require(*requests > 0, "requests", || "must be at least 1".to_owned());
        own.require_positive(*rate_rps, "rate_rps");
        let mut all = own.found;
        all.extend(arrivals.problems("arrivals"));
        all.extend(input.problems("input"));
        all.extend(output.problems("output"));
        let mut own = Problems::below("");
        if let Some(SharedPrefix { groups, tokens, skew }) = *shared_prefix {
            own.require((1..=Self::MAX_GROUPS).contains(&groups), "shared_prefix.groups", || {
                format!("must be from 1 to {}, not {groups}", Self::MAX_GROUPS)
            });
            own.require((1..=MAX_TOKENS).contains(&tokens), "shared_prefix.tokens", || {
                format!("must be from 1 to {MAX_TOKENS}, not {tokens}")
            });
            own.require_at_least_zero(skew, "shared_prefix.skew");
        }
        own.require(*block_tokens > 0, "block_tokens", || "must be at least 1".to_owned());
        all.extend(own.found);
        all
    }
}

/// The hash of a block from the hash of the block before it (0 for the first) and its own content.
///
/// Specified: `mix64(mix64(prev + 0x9E3779B97F4A7C15) ^ content)`, where `mix64` is the finalizer of splitmix64.
/// Not commutative, and for a given `prev` different contents give different hashes.
pub fn chain(prev: u64, content: u64) -> u64 {
    rng::mix64(rng::mix64(prev.wrapping_add(0x9E37_79B9_7F4A_7C15)) ^ content)
}

/// The requests of a synthetic workload.
///
/// `workload` must have no [`problems`](Synthetic::problems).
pub fn generate(workload: &Synthetic, seed: u64) -> Requests {
    let Synthetic { requests, rate_rps, arrivals, input, output, shared_prefix, block_tokens } = workload;
    let n = *requests as usize;
    let lengths = |lengths: &Lengths, label: &str| -> Vec<u32> {
        let mut rng = rng::stream(seed, label);
        (0..n).map(|_| lengths.sample(&mut rng)).collect()
    };
    let mut made = Requests {
        arrival: arrivals.times(*rate_rps, n, &mut rng::stream(seed, "workload/arrivals")),
        input_tokens: lengths(input, "workload/input"),
        output_tokens: lengths(output, "workload/output"),
        block_hashes: Vec::new(),
        block_hash_offsets: vec![0; n + 1],
        block_tokens: 0,
        ..Requests::default()
    };
    if let Some(prefix) = shared_prefix {
        made.block_tokens = *block_tokens;
        add_prefix(&mut made, *prefix, seed);
    }
    made
}

/// Puts a shared prefix before every prompt, and hashes the full blocks of prompt and output.
fn add_prefix(made: &mut Requests, prefix: SharedPrefix, seed: u64) {
    // Content is named after the seed too, so that two workloads in one table never seem to share a block.
    let shared = chain(rng::fnv1a(b"workload/prefix/shared"), seed);
    let unique = chain(rng::fnv1a(b"workload/prefix/unique"), seed);
    let groups = Groups::new(prefix);
    let mut rng = rng::stream(seed, "workload/prefix");
    for i in 0..made.len() {
        made.input_tokens[i] += prefix.tokens;
        let group = chain(shared, groups.sample(&mut rng));
        let request = chain(unique, i as u64);
        let tokens = u64::from(made.input_tokens[i]) + u64::from(made.output_tokens[i]);
        let block_tokens = u64::from(made.block_tokens);
        // A block that the prefix fills only in part holds words of the request too.
        let shared_blocks = u64::from(prefix.tokens) / block_tokens;
        let mut hash = 0;
        for block in 0..tokens / block_tokens {
            hash = chain(hash, chain(if block < shared_blocks { group } else { request }, block));
            made.block_hashes.push(hash);
        }
        made.block_hash_offsets[i + 1] = made.block_hashes.len() as u64;
    }
}

/// The popularity of the groups.
struct Groups {
    /// Weight of the groups up to and including this one; empty where all weigh the same.
    cumulative: Vec<f64>,
    groups: u32,
}

impl Groups {
    fn new(prefix: SharedPrefix) -> Groups {
        let mut sum = 0.0;
        let mut next = |k: u32| {
            sum += libm::pow(f64::from(k), -prefix.skew);
            sum
        };
        let cumulative = if prefix.skew > 0.0 { (1..=prefix.groups).map(&mut next).collect() } else { Vec::new() };
        Groups { cumulative, groups: prefix.groups }
    }

    /// A group, 0 being the most popular. One draw.
    fn sample(&self, rng: &mut Pcg64) -> u64 {
        let Some(total) = self.cumulative.last() else {
            return rng::below(rng, u64::from(self.groups));
        };
        let target = rng::uniform01(rng) * total;
        let group = self.cumulative.partition_point(|&c| c <= target);
        // The product may round up to the total.
        group.min(self.cumulative.len() - 1) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn workload(more: &str) -> Synthetic {
        let text = format!(
            r#"{{"requests": 2000, "rate_rps": 4, "input": {{"lognormal_p50_p90": {{"p50": 100, "p90": 400}}}},
                "output": {{"uniform": {{"min": 1, "max": 50}}}} {more}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    const PREFIX: &str = r#", "shared_prefix": {"groups": 4, "tokens": 40, "skew": 1}"#;

    #[test]
    fn the_same_seed_gives_the_same_requests() {
        let w = workload(PREFIX);
        assert_eq!(w.problems(), []);
        let made = generate(&w, 3);
        assert_eq!(made, generate(&w, 3));
        assert_ne!(made.arrival, generate(&w, 4).arrival);
        assert_ne!(made.input_tokens, generate(&w, 4).input_tokens);
        assert!(made.arrival.is_sorted());
        let fewer = generate(&Synthetic { requests: 10, ..w }, 3);
        assert_eq!((&fewer.arrival[..], &fewer.input_tokens[..]), (&made.arrival[..10], &made.input_tokens[..10]));
        assert_eq!(fewer.hashes(9), made.hashes(9));
    }

    #[test]
    fn one_part_changes_without_shifting_the_others() {
        let base = generate(&workload(""), 3);
        let faster = generate(&Synthetic { rate_rps: 8.0, ..workload("") }, 3);
        assert_eq!((&faster.input_tokens, &faster.output_tokens), (&base.input_tokens, &base.output_tokens));
        let last = |r: &Requests| r.arrival[r.len() - 1].0;
        assert!((last(&base) - 2 * last(&faster)).abs() < 10_000, "{} {}", last(&base), last(&faster));
        let prefixed = generate(&workload(PREFIX), 3);
        assert_eq!((&prefixed.arrival, &prefixed.output_tokens), (&base.arrival, &base.output_tokens));
        assert!(prefixed.input_tokens.iter().zip(&base.input_tokens).all(|(with, without)| *with == without + 40));
        assert!(base.block_hashes.is_empty() && base.hashes(0).is_empty());
    }

    #[test]
    fn full_prefix_blocks_are_shared_within_a_group_and_nothing_else() {
        let made = generate(&workload(PREFIX), 3);
        let mut owners: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        let mut groups: BTreeMap<u64, u32> = BTreeMap::new();
        for i in 0..made.len() {
            let hashes = made.hashes(i);
            assert_eq!(hashes.len() as u32, (made.input_tokens[i] + made.output_tokens[i]) / 16);
            *groups.entry(hashes[1]).or_default() += 1;
            for (block, hash) in hashes.iter().enumerate() {
                owners.entry(*hash).or_default().push(block);
            }
        }
        // 40 tokens fill two blocks of 16; the third one is half the request's own.
        for blocks in owners.values() {
            assert!(blocks.len() == 1 || blocks[0] < 2 && blocks.iter().all(|b| *b == blocks[0]), "{blocks:?}");
        }
        assert_eq!(owners.values().filter(|blocks| blocks.len() > 1).count(), 2 * 4);
        // Zipf with exponent 1 over four groups: 12/25, 6/25, 4/25, 3/25 of 2000 requests.
        let mut counts: Vec<u32> = groups.into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        for (count, expect) in counts.iter().zip([960u32, 480, 320, 240]) {
            assert!(count.abs_diff(expect) < 90, "{counts:?}");
        }
    }

    #[test]
    fn the_chain_depends_on_order_and_never_changes() {
        assert_ne!(chain(1, 2), chain(2, 1));
        assert_ne!(chain(0, 0), 0);
        assert_eq!((chain(0, 0), chain(1, 2)), (5_197_578_548_964_807_871, 583_880_340_377_267_059));
    }

    #[test]
    fn all_problems_are_found_at_once() {
        let bad = serde_json::from_str::<Synthetic>(
            r#"{"requests": 0, "rate_rps": 0, "arrivals": {"gamma": {"cv": 0}}, "input": {"constant": {"tokens": 0}},
                "output": {"uniform": {"min": 2, "max": 1}}, "block_tokens": 0,
                "shared_prefix": {"groups": 0, "tokens": 0, "skew": -1}}"#,
        );
        let paths: Vec<String> = bad.unwrap().problems().into_iter().map(|p| p.path).collect();
        let expect = [
            "requests",
            "rate_rps",
            "arrivals.gamma.cv",
            "input.constant.tokens",
            "output.uniform.max",
            "shared_prefix.groups",
            "shared_prefix.tokens",
            "shared_prefix.skew",
            "block_tokens",
        ];
        assert_eq!(paths, expect);
        let schema = serde_json::to_string(&schemars::schema_for!(Synthetic)).unwrap();
        assert!(schema.contains("lognormal_p50_p90") && schema.contains("Zipf"));
    }
}
