//! One seed, one scenario: sizes small enough that every rule is applied often, times round enough that they tie.

mod beams;
mod cluster;
mod conversations;
mod engines;
mod latency;
mod samples;
mod speculative;

pub use engines::{ENGINES, Engine, scenario_of};
use rand::Rng;
use rand_pcg::Pcg64;
pub use speculative::{SPECULATIVE, scenario_speculative};

use super::scenario_8b;
use crate::request::Requests;
use crate::rng;
use crate::scenario::{Arrivals, Cancel, ClassRules, Deployment, Gamma, Load, Scenario, Sessions};
use crate::sim::Quirks;
use crate::sim::encoder::Encoder;
use crate::sim::kv::plan;
use crate::sim::latency::{Latency, Linear, Rates, TrainedPhysics};
use crate::sim::router::Router;
use crate::sim::scheduler::{QueueOrder, Scheduler, VllmV1};
use crate::units::{SimDuration, SimTime};

const MS: i64 = 1_000_000;

struct Dice(Pcg64);

impl Dice {
    /// Uniform from `low` to `high`, both included.
    fn range(&mut self, low: u32, high: u32) -> u32 {
        low + ((u64::from(self.0.next_u32()) * u64::from(high - low + 1)) >> 32) as u32
    }

    /// True in one of `n` cases.
    fn one_in(&mut self, n: u32) -> bool {
        self.range(1, n) == 1
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.range(0, of.len() as u32 - 1) as usize].clone()
    }

    /// A column that some scenarios have, with a value for some of the requests.
    fn column<T>(&mut self, one_in: u32, count: usize, mut value: impl FnMut(&mut Dice) -> T) -> Vec<Option<T>> {
        if !self.one_in(one_in) {
            return Vec::new();
        }
        let filled = self.range(1, 4);
        (0..count).map(|_| (self.range(1, 4) <= filled).then(|| value(self))).collect()
    }
}

/// What the sizes of a scenario have to do with each other.
struct Sizes {
    block_size: u32,
    longest: u32,
    /// Arrivals and patience in whole milliseconds.
    round: bool,
    /// Many requests share a cache that holds few of them, with replies about as long as their prompts.
    crowded: bool,
}

/// The scenario of a seed: in half of all cases replicas of one kind; a third has nothing but what a single engine knows.
pub fn scenario(seed: u64) -> (Scenario, Requests, Quirks) {
    let (mut s, mut requests, quirks) = of_one_sample(seed);
    if quirks == Quirks::default() {
        samples::draw(seed, 8, &mut s, &mut requests);
    }
    (s, requests, quirks)
}

fn of_one_sample(seed: u64) -> (Scenario, Requests, Quirks) {
    let (mut s, mut requests, quirks, sizes) = engine(seed);
    latency::draw(seed, &sizes, &mut s);
    let dice = &mut Dice(rng::stream(seed, "swarm/cluster"));
    match dice.range(0, 19) {
        0..=6 => {
            encoder(seed, &mut s, &mut requests);
            kinds_of_layers(seed, &mut s);
            return (s, requests, quirks);
        }
        7..=9 => cluster::one_pool(dice, &mut s, &mut requests),
        10.. => cluster::pools(dice, &sizes, &mut s, &mut requests),
    }
    conversations::draw(dice, &sizes, &mut s.workload, &mut requests);
    encoder(seed, &mut s, &mut requests);
    kinds_of_layers(seed, &mut s);
    orders(seed, &mut s);
    // They are deviations of one engine; where parts of a request are elsewhere, they have no meaning.
    let quirks = if s.deployment.pools.is_empty() { quirks } else { Quirks::default() };
    (s, requests, quirks)
}

/// In some clusters of pools: orders of the queue by tenants, and by slack.
fn orders(seed: u64, s: &mut Scenario) {
    let dice = &mut Dice(rng::stream(seed, "swarm/orders"));
    if s.deployment.pools.is_empty() || !dice.one_in(4) {
        return;
    }
    let order = dice.pick(&[QueueOrder::LeastSlack, QueueOrder::Fair]);
    let own = s.deployment.pools.values_mut().filter_map(|pool| pool.scheduler.as_mut());
    for scheduler in own.chain([&mut s.deployment.scheduler]) {
        if let Scheduler::VllmV1(rules) = scheduler {
            rules.scheduling_policy = order;
        }
    }
}

/// Engines of one kind, and requests that do not know each other.
fn engine(seed: u64) -> (Scenario, Requests, Quirks, Sizes) {
    let dice = &mut Dice(rng::stream(seed, "swarm"));
    let mut s = scenario_8b();
    s.seed = seed;
    let sizes = Sizes {
        block_size: dice.pick(&[1, 2, 4, 7, 16, 16]),
        longest: dice.pick(&[8, 20, 60, 300]),
        round: dice.one_in(2),
        crowded: dice.one_in(3),
    };
    deployment(dice, &sizes, &mut s.deployment);
    let rules = rules(dice, &sizes, longest(&s.deployment));
    let quirks = quirks(dice, &rules);
    s.deployment.scheduler = Scheduler::VllmV1(rules);
    s.workload = load(dice);
    let requests = requests(dice, &sizes);
    (s, requests, quirks, sizes)
}

/// In some, replicas encode images themselves.
fn encoder(seed: u64, s: &mut Scenario, r: &mut Requests) {
    let dice = &mut Dice(rng::stream(seed, "swarm/encoder"));
    if !dice.one_in(8) {
        return;
    }
    let limit = |dice: &mut Dice| dice.one_in(2).then(|| dice.range(1, 40));
    s.deployment.encoder = Some(Encoder {
        max_num_encoder_input_tokens: limit(dice),
        encoder_cache_size: limit(dice),
        relative_cost: dice.pick(&[0.0, 0.3, 2.0]),
    });
    if r.encoder_tokens.is_empty() {
        r.encoder_tokens =
            r.input_tokens.iter().map(|input| dice.one_in(2).then(|| dice.range(0, input + 2))).collect();
    }
}

/// In some, requests hold blocks whatever their length.
fn kinds_of_layers(seed: u64, s: &mut Scenario) {
    let dice = &mut Dice(rng::stream(seed, "swarm/kinds"));
    if !dice.one_in(8) {
        return;
    }
    let (kind, window, state) = (dice.range(0, 2), dice.range(1, 40), dice.range(1, 100_000));
    for m in s.pools.iter_mut().map(|facts| &mut facts.model).chain([&mut s.model]) {
        match kind {
            0 => (m.sliding_window, m.window_layers) = (window, m.layers / 4),
            1 => (m.linear_layers, m.state_bytes) = (m.layers / 2, state),
            _ => m.kv_shared_layers = m.layers / 2,
        }
    }
    let fixed = s.sites().iter().map(|site| plan::blocks_per_request(&site.deployment, &site.model)).max();
    let room = fixed.unwrap_or(0) * u64::from(dice.range(1, 4));
    // Prompts that cannot be cut must still fit into a step.
    let largest = s.sites().iter().map(|site| site.deployment.kv.block_size).max().unwrap_or(0).max(32);
    let schedulers = s.deployment.pools.values_mut().filter_map(|pool| pool.scheduler.as_mut());
    for scheduler in schedulers.chain([&mut s.deployment.scheduler]) {
        if let Scheduler::VllmV1(rules) = scheduler {
            rules.max_num_batched_tokens += if rules.enable_chunked_prefill { 0 } else { room as u32 * largest };
        }
    }
    let pools = s.deployment.pools.values_mut().filter_map(|pool| pool.kv.as_mut());
    for kv in pools.chain([&mut s.deployment.kv]) {
        kv.num_gpu_blocks = kv.num_gpu_blocks.map(|blocks| blocks + room);
    }
}

/// Longest prompt plus output that an engine takes.
fn longest(d: &Deployment) -> u32 {
    let held = d.kv.num_gpu_blocks.unwrap_or(0) as u32 * d.kv.block_size;
    d.max_model_len.map_or(held, |said| said.min(held))
}

fn deployment(dice: &mut Dice, sizes: &Sizes, d: &mut Deployment) {
    d.replicas = dice.pick(&[1, 1, 1, 2, 5]);
    d.router = dice.pick(&[Router::RoundRobin, Router::Random, Router::LeastOutstanding]);
    // The cache holds about one long request, or several.
    let tokens = sizes.longest * if sizes.crowded { dice.range(1, 2) } else { dice.pick(&[1, 2, 3, 30]) };
    let blocks = tokens.div_ceil(sizes.block_size) + dice.range(0, 2);
    d.kv.block_size = sizes.block_size;
    d.kv.num_gpu_blocks = Some(u64::from(blocks.max(2)));
    d.kv.enable_prefix_caching = !dice.one_in(4);
    d.max_model_len = if dice.one_in(4) { Some(dice.range(2, sizes.longest * 2)) } else { None };
    d.latency = latency(dice, sizes);
    d.tick = match dice.range(0, 3) {
        0 => "1us".parse().ok(),
        1 => "1ms".parse().ok(),
        _ => None,
    };
}

fn latency(dice: &mut Dice, sizes: &Sizes) -> Latency {
    let round = Linear {
        base_us: 1_000.0,
        per_prefill_token_us: 0.0,
        per_decode_token_us: 0.0,
        queue_base_us: if dice.one_in(2) { 0.0 } else { 2_000.0 },
        queue_per_input_token_us: 0.0,
        per_output_token_us: 0.0,
        ..Linear::default()
    };
    if sizes.round && !dice.one_in(3) {
        return Latency::Linear(round);
    }
    match dice.range(0, 4) {
        0 => Latency::SimpleRoofline,
        1 => Latency::TrainedPhysics(TrainedPhysics::default()),
        2 => Latency::Rates(Rates { prefill_tokens_per_s: 1_000.0, decode_tokens_per_s: 70.0 }),
        _ => Latency::Linear(Linear {
            base_us: f64::from(dice.range(0, 9_000)) * 0.7,
            per_prefill_token_us: f64::from(dice.range(0, 90)) * 0.3,
            per_decode_token_us: f64::from(dice.range(1, 90)) * 0.3,
            queue_base_us: f64::from(dice.range(0, 3_000)),
            queue_per_input_token_us: f64::from(dice.range(0, 300)),
            per_output_token_us: f64::from(dice.range(0, 100)),
            ..Linear::default()
        }),
    }
}

fn rules(dice: &mut Dice, sizes: &Sizes, longest: u32) -> VllmV1 {
    let orders = [QueueOrder::Fcfs, QueueOrder::Priority, QueueOrder::Sjf, QueueOrder::Edf];
    let mut rules = VllmV1 {
        max_num_batched_tokens: if sizes.crowded {
            dice.pick(&[10, 40, 2048])
        } else {
            dice.pick(&[1, 3, 10, 40, 100, 2048])
        },
        max_num_seqs: if sizes.crowded { dice.pick(&[5, 20, 256]) } else { dice.pick(&[1, 2, 5, 20, 256]) },
        enable_chunked_prefill: true,
        long_prefill_token_threshold: dice.pick(&[0, 0, 0, 1, 16, 50]),
        scheduling_policy: dice.pick(&orders),
        async_scheduling: dice.one_in(3),
        scheduler_overhead_us: dice.pick(&[0.0, 0.0, 0.0, 300.0, 1_000.0, 2_500.7]),
        recompute_full_hits: !dice.one_in(5),
    };
    rules.recompute_full_hits |= rules.async_scheduling;
    if dice.one_in(5) {
        rules.enable_chunked_prefill = false;
        rules.max_num_batched_tokens = longest.max(rules.max_num_batched_tokens);
    }
    rules
}

/// They have no meaning where steps overlap, or where a victim gives back what it got.
fn quirks(dice: &mut Dice, rules: &VllmV1) -> Quirks {
    let drawn = [dice.one_in(5), dice.one_in(5), dice.one_in(5)];
    if rules.async_scheduling || rules.scheduling_policy == QueueOrder::Priority {
        return Quirks::default();
    }
    let [restart_from_prompt, block_at_completion, hits_without_context] = drawn;
    Quirks { restart_from_prompt, block_at_completion, hits_without_context }
}

fn load(dice: &mut Dice) -> Load {
    let arrivals = match dice.range(0, 9) {
        0 => Arrivals::Constant,
        1 => Arrivals::Poisson,
        2 => Arrivals::Gamma(Gamma { cv: 3.0 }),
        _ => Arrivals::Trace,
    };
    let rate_rps = match arrivals {
        Arrivals::Trace => None,
        Arrivals::Constant | Arrivals::Poisson | Arrivals::Gamma(_) => Some(dice.pick(&[20.0, 500.0, 500.0])),
    };
    let class = |dice: &mut Dice| ClassRules {
        priority: if dice.one_in(2) { Some(dice.range(0, 4) as i32 - 2) } else { None },
        deadline_ms: if dice.one_in(2) { Some(f64::from(dice.range(1, 100))) } else { None },
        timeout_s: if dice.one_in(4) { Some(f64::from(dice.range(1, 300)) * 1e-3) } else { None },
        max_tokens: if dice.one_in(3) { Some(dice.range(1, 30)) } else { None },
        n: None,
        beam_width: None,
    };
    let mut classes = std::collections::BTreeMap::new();
    if dice.one_in(2) {
        classes.insert("chat".to_string(), class(dice));
        classes.insert("batch".to_string(), class(dice));
    }
    Load {
        rate_rps,
        arrivals,
        max_requests: if dice.one_in(8) { Some(dice.range(1, 30)) } else { None },
        horizon_s: if dice.one_in(5) { Some(dice.pick(&[0.003, 0.02, 0.05, 0.2, 0.5, 0.123_456_789])) } else { None },
        deadline_ms: if dice.one_in(4) { Some(f64::from(dice.range(1, 100))) } else { None },
        timeout_s: if dice.one_in(6) { Some(dice.pick(&[0.007, 0.03, 0.1, 0.5])) } else { None },
        max_tokens: if dice.one_in(6) { Some(dice.range(1, 30)) } else { None },
        n: None,
        beam_width: None,
        exact_max_tokens: false,
        cancel: if dice.one_in(6) {
            Some(Cancel { share: dice.pick(&[0.1, 0.5, 1.0]), after_s: dice.pick(&[0.003, 0.03, 0.3]) })
        } else {
            None
        },
        sessions: Sessions::Open,
        concurrency: None,
        think_time: None,
        classes,
    }
}

fn requests(dice: &mut Dice, sizes: &Sizes) -> Requests {
    let count = dice.range(1, 60) as usize;
    let mut r = Requests { block_hash_offsets: vec![0], ..Requests::default() };
    arrivals(dice, sizes, count, &mut r);
    let input = match sizes.crowded {
        true => sizes.longest.div_ceil(2),
        // Beyond the cache or a limit.
        false if dice.one_in(6) => sizes.longest * 2,
        false => sizes.longest,
    };
    for _ in 0..count {
        r.input_tokens.push(dice.range(1, input));
        r.output_tokens.push(dice.range(1, sizes.longest));
    }
    if !dice.one_in(3) {
        hashes(dice, sizes, &mut r);
    } else {
        r.block_hash_offsets = vec![0; count + 1];
    }
    columns(dice, sizes, count, &mut r);
    r
}

fn arrivals(dice: &mut Dice, sizes: &Sizes, count: usize, r: &mut Requests) {
    let gap_us = if sizes.crowded { dice.pick(&[0, 500, 3_000]) } else { dice.pick(&[0, 1, 500, 3_000, 20_000]) };
    let mut at = 0;
    for _ in 0..count {
        // Many ties.
        if !dice.one_in(3) {
            at += i64::from(dice.range(0, gap_us)) * 1_000;
        }
        r.arrival.push(SimTime(if sizes.round { at / MS * MS } else { at }));
    }
    if dice.one_in(5) {
        for _ in 0..dice.range(1, 5) {
            let (a, b) = (dice.range(0, count as u32 - 1), dice.range(0, count as u32 - 1));
            r.arrival.swap(a as usize, b as usize);
        }
    }
}

/// Few documents, cut at random places: a hash chain differs from where the documents part.
fn hashes(dice: &mut Dice, sizes: &Sizes, r: &mut Requests) {
    let block = sizes.block_size;
    let size = dice.pick(&[block, block, block * 4, block.div_ceil(2)]);
    r.block_tokens = if size.is_multiple_of(block) || block.is_multiple_of(size) { size } else { 1 };
    let documents = dice.pick(&[1, 2, 4]);
    for i in 0..r.input_tokens.len() {
        let (input, output) = (r.input_tokens[i], r.output_tokens[i]);
        let covers = dice.pick(&[input, input, input + output]);
        let blocks = covers.div_ceil(r.block_tokens);
        let parts = if dice.one_in(3) { blocks } else { dice.range(0, blocks) };
        let document = u64::from(dice.range(1, documents));
        for block in 0..blocks {
            let content = if block < parts { document } else { 1_000 + i as u64 };
            r.block_hashes.push(content << 32 | u64::from(block));
        }
        r.block_hash_offsets.push(r.block_hashes.len() as u64);
    }
}

fn columns(dice: &mut Dice, sizes: &Sizes, count: usize, r: &mut Requests) {
    let round = sizes.round;
    let span = |dice: &mut Dice, longest_us: u32| {
        let us = i64::from(dice.range(0, longest_us));
        SimDuration(if round { us * 1_000 / MS * MS } else { us * 1_000 })
    };
    let longest_us = dice.pick(&[5_000, 30_000, 200_000, 1_000_000]);
    r.priority = dice.column(if sizes.crowded { 1 } else { 2 }, count, |dice| dice.range(0, 4) as i32 - 2);
    r.deadline = dice.column(2, count, |dice| span(dice, 50_000));
    r.timeout = dice.column(4, count, |dice| span(dice, longest_us));
    r.cancel = dice.column(4, count, |dice| span(dice, longest_us));
    r.max_tokens = dice.column(4, count, |dice| dice.range(1, 20));
    r.class = dice.column(2, count, |dice| dice.range(0, 2));
    if !r.class.is_empty() {
        r.class_names = ["chat", "batch", "other"].map(str::to_string).to_vec();
    }
}
