//! Turns the description of a workload into requests.
//!
//! The same description and seed give the same requests, on any machine. Request `i` is the same whether ten or ten
//! million are made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::mix::{Asked, Popularity, model_problems, root};
use super::{Adapters, ArrivalProcess, Chains, Images, Lengths, MAX_TOKENS, Problem, Problems, SharedPrefix};
use super::{SyntheticSessions, conversations};
use crate::request::Requests;
use crate::rng;

/// A synthetic workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Synthetic {
    /// Number of requests, at least 1.
    pub requests: u32,
    /// Mean arrival rate in requests per second; of sessions, or runs of an agent, where there are some.
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
    /// Tokens per hashed block; matters with `shared_prefix`, `sessions` and `chains` only.
    #[serde(default = "sixteen")]
    pub block_tokens: u32,
    /// Requests are turns of conversations.
    #[serde(default)]
    pub sessions: Option<SyntheticSessions>,
    /// Requests are steps of agents. Not together with `sessions`.
    #[serde(default)]
    pub chains: Option<Chains>,
    /// Models that are asked for, by name, and their weights. Default: requests name no model.
    #[serde(default)]
    pub models: BTreeMap<String, f64>,
    /// LoRA adapters that are asked for.
    #[serde(default)]
    pub adapters: Option<Adapters>,
    /// Requests with images.
    #[serde(default)]
    pub images: Option<Images>,
}

fn sixteen() -> u32 {
    16
}

impl Synthetic {
    /// Everything that is wrong with the description, in the order of its fields.
    pub fn problems(&self) -> Vec<Problem> {
        let Synthetic {
            requests,
            rate_rps,
            arrivals,
            input,
            output,
            shared_prefix,
            block_tokens,
            sessions,
            chains,
            models,
            adapters,
            images,
        } = self;
        let mut own = Problems::below("");
        own.require(*requests > 0, "requests", || "must be at least 1".to_owned());
        own.require_positive(*rate_rps, "rate_rps");
        let mut all = own.found;
        all.extend(arrivals.problems("arrivals"));
        all.extend(input.problems("input"));
        all.extend(output.problems("output"));
        all.extend(shared_prefix.iter().flat_map(SharedPrefix::problems));
        let mut own = Problems::below("");
        own.require((1..=MAX_TOKENS).contains(block_tokens), "block_tokens", || {
            format!("must be from 1 to {MAX_TOKENS}, not {block_tokens}")
        });
        own.require(sessions.is_none() || chains.is_none(), "chains", || {
            "cannot be there together with `sessions`: a run of an agent is a session of its own".to_owned()
        });
        all.extend(own.found);
        all.extend(sessions.iter().flat_map(SyntheticSessions::problems));
        all.extend(chains.iter().flat_map(Chains::problems));
        all.extend(model_problems(models));
        all.extend(adapters.iter().flat_map(Adapters::problems));
        all.extend(images.iter().flat_map(Images::problems));
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
/// Those of `sessions` and `chains` are in the order of their arrivals; of one instant, in the order of the sessions, then
/// of their turns. A request comes after all that it waits for. Adapters have no names in [`Requests`]: they are called
/// `adapter-` and their number.
///
/// `workload` must have no [`problems`](Synthetic::problems).
pub fn generate(workload: &Synthetic, seed: u64) -> Requests {
    let mut made = match conversations::Plan::of(workload) {
        Some(plan) => conversations::generate(workload, &plan, seed),
        None => alone(workload, seed),
    };
    made.model_names = workload.models.keys().cloned().collect();
    made
}

/// Requests that have nothing to do with each other.
fn alone(workload: &Synthetic, seed: u64) -> Requests {
    let Synthetic { requests, rate_rps, arrivals, input, output, shared_prefix, block_tokens, .. } = workload;
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
    let mut asked = Asked::new(&workload.models, workload.adapters, seed);
    (made.model, made.adapter) = (0..n).map(|_| asked.draw()).unzip();
    if let Some(images) = &workload.images {
        let mut share = rng::stream(seed, "workload/images");
        let mut tokens = rng::stream(seed, "workload/images/tokens");
        for input in &mut made.input_tokens {
            let of_images = images.sample(&mut share, &mut tokens);
            *input += of_images;
            made.encoder_tokens.push(Some(of_images));
        }
    }
    if let Some(prefix) = shared_prefix {
        made.block_tokens = *block_tokens;
        add_prefix(&mut made, *prefix, seed);
    }
    tidy(&mut made);
    made
}

/// What the requests say nothing about stays empty.
pub(super) fn tidy(made: &mut Requests) {
    fn clear<T>(column: &mut Vec<Option<T>>) {
        if column.iter().all(Option::is_none) {
            *column = Vec::new();
        }
    }
    clear(&mut made.model);
    clear(&mut made.adapter);
    clear(&mut made.think);
    clear(&mut made.encoder_tokens);
}

/// Puts a shared prefix before every prompt, and hashes the full blocks of prompt and output.
fn add_prefix(made: &mut Requests, prefix: SharedPrefix, seed: u64) {
    // Content is named after the seed too, so that two workloads in one table never seem to share a block.
    let shared = chain(rng::fnv1a(b"workload/prefix/shared"), seed);
    let unique = chain(rng::fnv1a(b"workload/prefix/unique"), seed);
    let groups = Popularity::zipf(prefix.groups, prefix.skew);
    let mut rng = rng::stream(seed, "workload/prefix");
    for i in 0..made.len() {
        made.input_tokens[i] += prefix.tokens;
        let group = chain(shared, groups.sample(&mut rng));
        let request = chain(unique, i as u64);
        let tokens = u64::from(made.input_tokens[i]) + u64::from(made.output_tokens[i]);
        let block_tokens = u64::from(made.block_tokens);
        // A block that the prefix fills only in part holds words of the request too.
        let shared_blocks = u64::from(prefix.tokens) / block_tokens;
        let mut hash = root(made.model[i], made.adapter[i]);
        for block in 0..tokens / block_tokens {
            hash = chain(hash, chain(if block < shared_blocks { group } else { request }, block));
            made.block_hashes.push(hash);
        }
        made.block_hash_offsets[i + 1] = made.block_hashes.len() as u64;
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
    }
}
