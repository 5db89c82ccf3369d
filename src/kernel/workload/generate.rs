//! Turns the description of a workload into requests.
//!
//! The same description and seed give the same requests, on any machine. Request `i` is the same whether ten or ten
//! million are made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::arrivals::Load;
use super::mix::{Asked, Popularity, model_problems, root};
use super::prefix::{Piece, Prefixes, group_problems, push_blocks, tokens};
use super::schedule::{active_problems, spike_problems};
use super::shape::{Settings, Shapes, Streams, correlation_problems};
use super::{Active, Adapters, ArrivalProcess, Chains, Correlation, Diurnal, Images, Joint, Lengths, MAX_TOKENS};
use super::{PrefixGroup, PrefixTree, Problem, Problems, RateSchedule, Reasoning, SharedPrefix, Spike, SystemPrompt};
use super::{SyntheticSessions, conversations};
use crate::request::Requests;
use crate::rng;
use crate::units::{SimDuration, SimTime};

/// A synthetic workload of one kind of requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Synthetic {
    /// Number of requests, at least 1. Default: as many as arrive within `duration_s`.
    #[serde(default)]
    pub requests: Option<u32>,
    /// Requests that arrive before this, in seconds. Default: as long as it takes for `requests`.
    #[serde(default)]
    pub duration_s: Option<f64>,
    /// Mean arrival rate in requests per second; of sessions, or runs of an agent, where there are some. Not with a
    /// schedule, nor a closed loop.
    #[serde(default)]
    pub rate_rps: Option<f64>,
    /// How the gaps between arrivals are distributed.
    #[serde(default)]
    pub arrivals: ArrivalProcess,
    /// A rate that changes.
    #[serde(default)]
    pub rate_schedule: Option<RateSchedule>,
    #[serde(default)]
    pub diurnal: Option<Diurnal>,
    #[serde(default)]
    pub spikes: Vec<Spike>,
    /// When there are arrivals. Default: always.
    #[serde(default)]
    pub active: Vec<Active>,
    /// Most arrivals: of requests, or of sessions. Default: no limit of its own.
    #[serde(default)]
    pub starts: Option<u32>,
    /// Prompt lengths in tokens, without the shared prefix.
    pub input: Lengths,
    /// Output lengths in tokens.
    pub output: Lengths,
    /// How `input` and `output` go together.
    #[serde(default)]
    pub correlation: Correlation,
    /// Lengths that are drawn together, instead of `input` and `output`.
    #[serde(default)]
    pub joint: Option<Joint>,
    /// What all prompts begin with.
    #[serde(default)]
    pub system_prompt: Option<SystemPrompt>,
    /// Prompts that begin alike. Default: none do, and the requests carry no block hashes.
    #[serde(default)]
    pub shared_prefix: Option<SharedPrefix>,
    /// Not together with `shared_prefix`.
    #[serde(default)]
    pub prefix_tree: Option<PrefixTree>,
    /// Not together with `shared_prefix` and `prefix_tree`.
    #[serde(default)]
    pub prefix_groups: Vec<PrefixGroup>,
    /// Tokens per hashed block; matters with prefixes, `sessions` and `chains` only.
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
    #[serde(default)]
    pub audio: Option<Images>,
    #[serde(default)]
    pub video: Option<Images>,
    /// How much of the replies is reasoning.
    #[serde(default)]
    pub reasoning: Option<Reasoning>,
}

fn sixteen() -> u32 {
    16
}

/// Requests, and what is said of them beyond what a simulation reads. All columns are as long as the requests are
/// many, or empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Made {
    pub requests: Requests,
    /// Number of images, or other media.
    pub images: Vec<Option<u32>>,
    /// Tokens of the reply that are reasoning.
    pub reasoning: Vec<Option<u32>>,
    /// Index into `client_names`.
    pub client: Vec<Option<u32>>,
    pub client_names: Vec<String>,
    /// Names of the tenants, which `requests` has as numbers.
    pub tenant_names: Vec<String>,
}

/// What a workload is drawn with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cx {
    pub seed: u64,
    /// Seed of what workloads of one table share: the words of system prompts of the same name.
    pub common: u64,
    /// At most so many requests.
    pub most: usize,
    /// None that arrives later, or then.
    pub until: SimTime,
    /// Prompts have block hashes though this workload alone needs none.
    pub hash: bool,
    /// What the model and the adapter of the whole workload are hashed to; 0 where it has none.
    pub root: u64,
    /// Name of system prompts that have none.
    pub name: u64,
}

impl Cx {
    /// The hash that the first block of a request is chained to.
    pub fn root(&self, model: Option<u32>, adapter: Option<u32>) -> u64 {
        let own = root(model, adapter);
        if self.root == 0 { own } else { chain(self.root, own) }
    }
}

impl Synthetic {
    /// So many requests at a rate, Poisson arrivals, of these lengths, and nothing else.
    pub fn new(requests: u32, rate_rps: f64, input: Lengths, output: Lengths) -> Synthetic {
        Synthetic {
            requests: Some(requests),
            duration_s: None,
            rate_rps: Some(rate_rps),
            arrivals: ArrivalProcess::Poisson,
            rate_schedule: None,
            diurnal: None,
            spikes: Vec::new(),
            active: Vec::new(),
            starts: None,
            input,
            output,
            correlation: Correlation::Independent,
            joint: None,
            system_prompt: None,
            shared_prefix: None,
            prefix_tree: None,
            prefix_groups: Vec::new(),
            block_tokens: sixteen(),
            sessions: None,
            chains: None,
            models: BTreeMap::new(),
            adapters: None,
            images: None,
            audio: None,
            video: None,
            reasoning: None,
        }
    }

    /// Everything that is wrong with the description, in the order of its fields.
    pub fn problems(&self) -> Vec<Problem> {
        let mut own = Problems::below("");
        own.require(self.requests != Some(0), "requests", || "must be at least 1".to_owned());
        own.require(self.requests.is_some() || self.duration_s.is_some(), "requests", || {
            "is missing: how many requests, or for how long (`duration_s`)".to_owned()
        });
        if let Some(s) = self.duration_s {
            own.require_positive(s, "duration_s");
        }
        let mut all = own.found;
        all.extend(self.body_problems());
        all
    }

    /// The same, but for how many requests there are.
    pub(super) fn body_problems(&self) -> Vec<Problem> {
        let Synthetic {
            requests: _,
            duration_s: _,
            rate_rps,
            arrivals,
            rate_schedule,
            diurnal,
            spikes,
            active,
            starts,
            input,
            output,
            correlation,
            joint,
            system_prompt,
            shared_prefix,
            prefix_tree,
            prefix_groups,
            block_tokens,
            sessions,
            chains,
            models,
            adapters,
            images,
            audio,
            video,
            reasoning,
        } = self;
        let mut own = Problems::below("");
        let closed = matches!(arrivals, ArrivalProcess::ClosedLoop(_));
        match (rate_rps, rate_schedule) {
            (Some(_), Some(_)) => own.require(false, "rate_rps", || {
                "cannot be there together with `rate_schedule`, which says all rates".to_owned()
            }),
            (Some(_), None) if closed => own.require(false, "rate_rps", || {
                "has no meaning with `closed_loop`: users, think time and answers decide".to_owned()
            }),
            (Some(rate), None) => own.require_positive(*rate, "rate_rps"),
            (None, None) => {
                own.require(closed, "rate_rps", || "is missing: requests per second, or a `rate_schedule`".to_owned())
            }
            (None, Some(_)) => {}
        }
        let varies = rate_schedule.is_some() || diurnal.is_some() || !spikes.is_empty() || !active.is_empty();
        own.require(!closed || !varies, "arrivals.closed_loop", || {
            "has no rate that could change: leave out `rate_schedule`, `diurnal`, `spikes` and `active`".to_owned()
        });
        own.require(!closed || (sessions.is_none() && chains.is_none()), "arrivals.closed_loop", || {
            "cannot be there together with `sessions` or `chains`".to_owned()
        });
        own.require(*starts != Some(0), "starts", || "must be at least 1".to_owned());
        let mut all = own.found;
        all.extend(arrivals.problems("arrivals"));
        all.extend(rate_schedule.iter().flat_map(|s| s.problems("rate_schedule")));
        all.extend(diurnal.iter().flat_map(|d| d.problems("diurnal")));
        all.extend(spike_problems(spikes, "spikes"));
        all.extend(active_problems(active, "active"));
        if joint.is_none() {
            all.extend(input.problems("input"));
            all.extend(output.problems("output"));
            all.extend(correlation_problems(correlation, input, output));
        }
        all.extend(joint.iter().flat_map(|j| j.problems("joint")));
        all.extend(system_prompt.iter().flat_map(|p| p.problems("system_prompt")));
        all.extend(shared_prefix.iter().flat_map(SharedPrefix::problems));
        all.extend(prefix_tree.iter().flat_map(|t| t.problems("prefix_tree")));
        all.extend(group_problems(prefix_groups, "prefix_groups"));
        let mut own = Problems::below("");
        let prefixes = [shared_prefix.is_some(), prefix_tree.is_some(), !prefix_groups.is_empty()];
        own.require(prefixes.into_iter().filter(|p| *p).count() <= 1, "prefix_tree", || {
            "is one of `shared_prefix`, `prefix_tree` and `prefix_groups`, of which there can be one".to_owned()
        });
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
        for (media, path) in [(images, "images"), (audio, "audio"), (video, "video")] {
            all.extend(media.iter().flat_map(|m| m.problems(path)));
        }
        all.extend(reasoning.iter().flat_map(|r| r.problems("reasoning")));
        all
    }

    /// All distributions of lengths, counts and percent in it.
    pub fn lengths_mut(&mut self) -> Vec<&mut Lengths> {
        let Synthetic { input, output, sessions, chains, images, audio, video, reasoning, .. } = self;
        let mut all = vec![input, output];
        all.extend(sessions.iter_mut().map(|s| &mut s.turns));
        for step in chains.iter_mut().flat_map(|c| &mut c.steps) {
            all.extend(step.input.iter_mut().chain(&mut step.output));
        }
        for media in [images, audio, video].into_iter().flatten() {
            all.extend(media.count.iter_mut());
            all.push(&mut media.tokens);
        }
        if let Some(Reasoning { share: super::Ratio::Percent(lengths) }) = reasoning {
            all.push(lengths);
        }
        all
    }

    pub(super) fn load(&self) -> Load<'_> {
        Load {
            rate_rps: self.rate_rps.unwrap_or(0.0),
            schedule: self.rate_schedule.as_ref(),
            diurnal: self.diurnal,
            spikes: &self.spikes,
            active: &self.active,
        }
    }

    /// With the lengths of a step, where it has its own.
    pub(super) fn shapes(&self, input: Option<&Lengths>, output: Option<&Lengths>) -> Shapes {
        Shapes::new(&Settings {
            input: input.unwrap_or(&self.input),
            output: output.unwrap_or(&self.output),
            correlation: self.correlation,
            joint: self.joint.as_ref().filter(|_| input.is_none() && output.is_none()),
            images: self.images.as_ref(),
            audio: self.audio.as_ref(),
            video: self.video.as_ref(),
            reasoning: self.reasoning.as_ref(),
        })
    }

    pub(super) fn prefixes(&self, cx: &Cx) -> Prefixes {
        let system = self.system_prompt.as_ref().map(|p| {
            let name = p.name.as_ref().map_or(cx.name, |name| rng::fnv1a(name.as_bytes()));
            (name, p.tokens)
        });
        Prefixes::new(system, self.shared_prefix, self.prefix_tree.as_ref(), &self.prefix_groups, (cx.seed, cx.common))
    }

    /// How many there can be, and until when.
    fn limits(&self) -> (usize, SimTime) {
        let until = self.duration_s.map_or(SimTime::MAX, |s| SimTime::ZERO + SimDuration::from_s(s));
        (self.requests.map_or(usize::MAX, |n| n as usize), until)
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
/// Those of `sessions` and `chains` are in the order of their arrivals; of one instant, in the order of the sessions,
/// then of their turns. A request comes after all that it waits for. Adapters have no names in [`Requests`]: they are
/// called `adapter-` and their number.
///
/// `workload` must have no [`problems`](Synthetic::problems).
pub fn generate(workload: &Synthetic, seed: u64) -> Requests {
    generate_all(workload, seed).requests
}

/// The same, and all else that is drawn.
pub fn generate_all(workload: &Synthetic, seed: u64) -> Made {
    let (most, until) = workload.limits();
    draw(workload, &Cx { seed, common: seed, most, until, hash: false, root: 0, name: 0 })
}

pub(super) fn draw(workload: &Synthetic, cx: &Cx) -> Made {
    let mut made = match conversations::Plan::of(workload) {
        Some(plan) => conversations::generate(workload, &plan, cx),
        None => alone(workload, cx),
    };
    made.requests.model_names = workload.models.keys().cloned().collect();
    if made.images.iter().all(Option::is_none) {
        made.images = Vec::new();
    }
    if made.reasoning.iter().all(Option::is_none) {
        made.reasoning = Vec::new();
    }
    made
}

/// Requests that have nothing to do with each other.
fn alone(workload: &Synthetic, cx: &Cx) -> Made {
    let most = workload.starts.map_or(cx.most, |starts| cx.most.min(starts as usize));
    let arrival = workload.arrivals.arrivals(&workload.load(), most, cx.until, cx.seed, "workload/arrivals");
    let n = arrival.len();
    let shapes = workload.shapes(None, None);
    let mut streams = Streams::new(cx.seed, "workload".to_owned());
    let mut made = Made::default();
    let requests = &mut made.requests;
    requests.arrival = arrival;
    requests.block_hash_offsets = vec![0; n + 1];
    for _ in 0..n {
        let shape = shapes.draw(&mut streams);
        requests.input_tokens.push(shape.input);
        requests.output_tokens.push(shape.output);
        requests.encoder_tokens.push(shape.encoder);
        made.images.push(shape.media);
        made.reasoning.push(shape.reasoning);
    }
    let mut asked = Asked::new(&workload.models, workload.adapters, cx.seed);
    (requests.model, requests.adapter) = (0..n).map(|_| asked.draw()).unzip();
    let prefixes = workload.prefixes(cx);
    match workload.shared_prefix {
        Some(prefix) if workload.system_prompt.is_none() && cx.root == 0 => {
            requests.block_tokens = workload.block_tokens;
            add_prefix(requests, prefix, cx.seed);
        }
        _ if !prefixes.is_empty() || cx.hash => {
            requests.block_tokens = workload.block_tokens;
            add_pieces(requests, &prefixes, cx);
        }
        _ => {}
    }
    tidy(requests);
    made
}

/// Puts a prefix of several pieces before every prompt, and hashes the full blocks of prompt and output.
pub(super) fn add_pieces(made: &mut Requests, prefixes: &Prefixes, cx: &Cx) {
    let unique = chain(rng::fnv1a(b"workload/prefix/unique"), cx.seed);
    let mut rng = rng::stream(cx.seed, "workload/prefix");
    for i in 0..made.len() {
        let mut pieces = prefixes.draw(&mut rng);
        let own = made.input_tokens[i] + made.output_tokens[i];
        // Bounded by the check of the settings.
        made.input_tokens[i] += tokens(&pieces) as u32;
        pieces.push(Piece { words: chain(unique, i as u64), tokens: own });
        push_blocks(cx.root(made.model[i], made.adapter[i]), &pieces, made.block_tokens, &mut made.block_hashes);
        made.block_hash_offsets[i + 1] = made.block_hashes.len() as u64;
    }
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
        let fewer = generate(&Synthetic { requests: Some(10), ..w }, 3);
        assert_eq!((&fewer.arrival[..], &fewer.input_tokens[..]), (&made.arrival[..10], &made.input_tokens[..10]));
        assert_eq!(fewer.hashes(9), made.hashes(9));
    }

    #[test]
    fn one_part_changes_without_shifting_the_others() {
        let base = generate(&workload(""), 3);
        let faster = generate(&Synthetic { rate_rps: Some(8.0), ..workload("") }, 3);
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
