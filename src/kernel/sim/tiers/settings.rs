//! What a user says of a tier, what is refused, and the whole numbers that both simulators go by.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pools::{Role, Site};
use crate::request::Requests;
use crate::sim::kv::hashes::{self, Derivation};
use crate::sim::latency::TIME_MAX_US;
use crate::sim::scheduler::Scheduler;
use crate::sim::{SimError, facts};
use crate::units::{SimDuration, Tick};

/// Most transfers at once.
const CONCURRENCY_MAX: u32 = 1024;
/// Most by which a transfer slows a step down: eleven times as long.
const CONTENTION_MAX: f64 = 10.0;
/// Most blocks of a tier.
const BLOCKS_MAX: u64 = 1 << 40;

/// A store of KV blocks behind the GPU's prefix cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tier {
    /// What it is, for who reads the figures.
    pub kind: TierKind,
    /// Bandwidths and latency of a known device, where they are not given.
    pub device: Option<Device>,
    /// Memory in GiB (2^30 bytes), of one engine where it is not shared. This, or `capacity_blocks`.
    pub capacity_gib: Option<f64>,
    /// The same in blocks of the tier's own size.
    pub capacity_blocks: Option<u64>,
    /// Tokens of a stored block, a multiple of `kv.block_size`. Default: that.
    pub block_size: Option<u32>,
    /// Bandwidth from the tier to the GPUs of an engine in GB/s (10^9 bytes), over all transfers at once.
    pub read_gb_per_s: Option<f64>,
    /// Bandwidth from the GPUs of an engine to the tier in GB/s (10^9 bytes), over all transfers at once.
    pub write_gb_per_s: Option<f64>,
    /// What every transfer takes beside its bytes, in microseconds. Default: that of the device, else 0.
    pub latency_us: Option<f64>,
    /// Transfers at once, each way; each has an equal part of the bandwidth, also where it is alone.
    pub concurrency: u32,
    /// When blocks are stored.
    pub write: WritePolicy,
    /// What leaves when it is full.
    pub replacement: Replacement,
    /// Whether what it holds is fetched.
    pub fetch: Fetch,
    /// One store for all engines of the deployment (of the pool), with one capacity and one bandwidth, rather than one for
    /// each.
    pub shared: bool,
    /// Fetch when a request enters the queue, if the blocks of its whole prompt are free then, rather than when it would be
    /// admitted.
    pub prefetch: bool,
    /// Load during the step that admits a request, which lasts longer by it, rather than ahead of it.
    pub blocking: bool,
    /// Transfers slow steps down: a step is longer by this share of the time that it and transfers of the tier overlap, as
    /// far as that is known when it is formed.
    pub contends_with_steps: f64,
}

impl Default for Tier {
    fn default() -> Self {
        Tier {
            kind: TierKind::default(),
            device: None,
            capacity_gib: None,
            capacity_blocks: None,
            block_size: None,
            read_gb_per_s: None,
            write_gb_per_s: None,
            latency_us: None,
            concurrency: 1,
            write: WritePolicy::default(),
            replacement: Replacement::default(),
            fetch: Fetch::default(),
            shared: false,
            prefetch: false,
            blocking: false,
            contends_with_steps: 0.0,
        }
    }
}

/// What a tier is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TierKind {
    /// Memory of the host.
    #[default]
    Cpu,
    /// A disk of the host.
    Disk,
    /// A store elsewhere.
    Remote,
}

/// A device by its usual figures: those that inference-sim has for its device classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// 20 GB/s both ways, 1 us.
    CpuDram,
    /// 7 GB/s read, 5 GB/s write, 80 us.
    NvmeGen4,
    /// 3.5 GB/s read, 3 GB/s write, 100 us.
    NvmeGen3,
    /// 0.55 GB/s read, 0.5 GB/s write, 150 us.
    Sata,
    /// 1 GB/s both ways, 30 ms.
    S3,
}

impl Device {
    /// GB/s read, GB/s write, microseconds.
    pub fn figures(self) -> (f64, f64, f64) {
        match self {
            Device::CpuDram => (20.0, 20.0, 1.0),
            Device::NvmeGen4 => (7.0, 5.0, 80.0),
            Device::NvmeGen3 => (3.5, 3.0, 100.0),
            Device::Sata => (0.55, 0.5, 150.0),
            Device::S3 => (1.0, 1.0, 30_000.0),
        }
    }
}

/// When a tier stores blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WritePolicy {
    /// Each block at the end of the step that fills it.
    #[default]
    WriteThrough,
    /// Each block when the GPU's cache reuses it.
    OnEvict,
}

/// What leaves a tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Replacement {
    /// When it is full, what was stored or read the longest time ago.
    #[default]
    Lru,
    /// That too; and whatever was not stored or read for a time.
    Ttl(Ttl),
    /// Nothing: when it is full, nothing more is stored.
    Pinned,
}

/// Parameters of [`Replacement::Ttl`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ttl {
    /// Seconds.
    pub s: f64,
}

/// Whether what a tier holds is fetched, or computed again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fetch {
    #[default]
    Always,
    /// Where that is estimated to take less time: the wait for a transfer to begin, its latency and its bytes, against what the
    /// latency model says of a step with these tokens alone.
    Cheaper,
    /// The tier is written, and not read.
    Never,
}

/// A tier in whole numbers.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::sim) struct TierFacts {
    /// KV blocks of a stored block, and its tokens.
    pub chunk: u32,
    pub tokens: u32,
    /// Stored blocks that it holds.
    pub capacity: u64,
    /// Bytes of a KV block.
    pub block_bytes: u128,
    /// Bytes per second of one transfer.
    pub read_rate: u128,
    pub write_rate: u128,
    pub latency: SimDuration,
    pub concurrency: u32,
    pub write: WritePolicy,
    pub ttl: Option<SimDuration>,
    pub pinned: bool,
    pub fetch: Fetch,
    pub shared: bool,
    pub prefetch: bool,
    pub blocking: bool,
    pub contends: f64,
    pub tick: Option<Tick>,
    pub derivation: Derivation,
}

impl Tier {
    fn read(&self) -> Option<f64> {
        self.read_gb_per_s.or(self.device.map(|device| device.figures().0))
    }

    fn write(&self) -> Option<f64> {
        self.write_gb_per_s.or(self.device.map(|device| device.figures().1))
    }

    fn latency(&self) -> f64 {
        self.latency_us.or(self.device.map(|device| device.figures().2)).unwrap_or(0.0)
    }

    /// Stored blocks that it holds, of so many bytes each.
    fn capacity(&self, bytes: u128) -> u64 {
        let of_gib = |gib: f64| (gib * 1024.0 * 1024.0 * 1024.0) as u128 / bytes.max(1);
        let held = self.capacity_gib.map(of_gib).into_iter().chain(self.capacity_blocks.map(u128::from)).min();
        held.map_or(0, |blocks| blocks.min(u128::from(BLOCKS_MAX)) as u64)
    }
}

/// Bytes of a KV block over all GPUs of an engine.
fn block_bytes(site: &Site) -> u128 {
    let kv = &site.deployment.kv;
    u128::from(kv.block_size) * u128::from(facts::kv_bytes_per_token(&site.model, kv.kv_cache_dtype))
}

/// The tiers of a pool, fastest first.
///
/// # Errors
/// [`SimError::Invalid`] where the stored blocks and the hashed ones of the trace do not go together.
pub(in crate::sim) fn facts_of(site: &Site, requests: &Requests) -> Result<Vec<TierFacts>, SimError> {
    let kv = &site.deployment.kv;
    let rate = |gb: Option<f64>, concurrency: u32| {
        let all = ((gb.unwrap_or(0.0) * 1e9 + 0.5) as u128).max(1);
        (all / u128::from(concurrency)).max(1)
    };
    let one = |(at, tier): (usize, &Tier)| {
        let tokens = tier.block_size.unwrap_or(kv.block_size);
        let chunk = tokens / kv.block_size;
        let derivation = hashes::derivation(requests, tokens, kv.enable_prefix_caching);
        let derivation = derivation.map(|known| known.with(site.deployment.lora.is_some())).map_err(|e| match e {
            SimError::Invalid { message, .. } => {
                SimError::Invalid { path: format!("deployment.kv.tiers.{at}.block_size").into(), message }
            }
            SimError::Cancelled => SimError::Cancelled,
        })?;
        Ok(TierFacts {
            chunk,
            tokens,
            capacity: tier.capacity(block_bytes(site) * u128::from(chunk)),
            block_bytes: block_bytes(site),
            read_rate: rate(tier.read(), tier.concurrency),
            write_rate: rate(tier.write(), tier.concurrency),
            latency: SimDuration::from_us(tier.latency()),
            concurrency: tier.concurrency,
            write: tier.write,
            ttl: match tier.replacement {
                Replacement::Ttl(ttl) => Some(SimDuration::from_s(ttl.s)),
                Replacement::Lru | Replacement::Pinned => None,
            },
            pinned: tier.replacement == Replacement::Pinned,
            fetch: tier.fetch,
            shared: tier.shared,
            prefetch: tier.prefetch,
            blocking: tier.blocking,
            contends: tier.contends_with_steps,
            tick: site.deployment.tick,
            derivation,
        })
    };
    kv.tiers.iter().enumerate().map(one).collect()
}

/// What cannot be, by path.
pub(in crate::sim) fn problems(site: &Site) -> Vec<(Cow<'static, str>, String)> {
    let kv = &site.deployment.kv;
    let mut all: Vec<(Cow<'static, str>, String)> = Vec::new();
    if kv.tiers.is_empty() {
        return all;
    }
    let mut whole = |message: &str| all.push(("deployment.kv.tiers".into(), message.to_string()));
    if !kv.enable_prefix_caching {
        whole("hold blocks of the prefix cache, and enable_prefix_caching is false; leave out one of the two");
    }
    if site.role != Role::Mixed {
        whole("are for replicas that do everything; those of prefill, decode and encode pools have none");
    }
    let d = &site.deployment;
    if d.speculative.is_some() {
        whole("are not simulated together with deployment.speculative; leave out one of the two");
    }
    match d.scheduler.common() {
        None => whole("hold blocks of a KV cache, and the exclusive scheduler has none"),
        Some(common) if !common.asks_tiers => whole(unasked(&d.scheduler)),
        Some(_) => {}
    }
    if let Scheduler::VllmV1(rules) = &site.deployment.scheduler
        && !rules.recompute_full_hits
    {
        let message = "must be true with tiers: a request that computes nothing holds no blocks to load into";
        all.push(("deployment.scheduler.vllm_v1.recompute_full_hits".into(), message.to_string()));
    }
    for (at, tier) in kv.tiers.iter().enumerate() {
        let found = problems_of(tier, site);
        all.extend(found.into_iter().map(|(field, text)| (format!("deployment.kv.tiers.{at}.{field}").into(), text)));
    }
    all
}

/// Why a scheduler asks no tiers.
fn unasked(scheduler: &Scheduler) -> &'static str {
    match scheduler {
        Scheduler::VllmV0(_) => {
            "are not asked by vLLM's version 0, which moves whole requests (swap_space_gib); vllm_v1 and sglang ask them"
        }
        Scheduler::Trtllm(_) => {
            "are copies, where TensorRT-LLM's cache in host memory (host_cache_size, 0 here) holds what the GPU does not; it is \
             not simulated; vllm_v1 and sglang ask tiers"
        }
        Scheduler::Sarathi(_) | Scheduler::Orca(_) | Scheduler::FasterTransformer(_) | Scheduler::Lightllm(_) => {
            "are not asked by this scheduler, whose project has none, as it is simulated; vllm_v1 and sglang ask them"
        }
        Scheduler::VllmV1(_) | Scheduler::Sglang(_) | Scheduler::Exclusive(_) => "are not asked by this scheduler",
    }
}

/// What is wrong with one tier, by field.
fn problems_of(tier: &Tier, site: &Site) -> Vec<(&'static str, String)> {
    let mut all: Vec<(&'static str, String)> = Vec::new();
    let size = site.deployment.kv.block_size;
    let tokens = tier.block_size.unwrap_or(size);
    let whole = tokens > 0 && size > 0 && tokens.is_multiple_of(size);
    if !whole {
        all.push(("block_size", format!("{tokens} is not a multiple of the {size} tokens of kv.block_size")));
    }
    let blocks = if whole { tokens / size } else { 1 };
    capacity(tier, block_bytes(site) * u128::from(blocks), &mut all);
    for (field, rate) in [("read_gb_per_s", tier.read()), ("write_gb_per_s", tier.write())] {
        match rate {
            None => all.push((field, "is missing: say the bandwidth, or a device that has one".to_string())),
            Some(gb) if !(gb.is_finite() && gb > 0.0) => {
                all.push((field, format!("is {gb}; must be a number above 0")))
            }
            Some(_) => {}
        }
    }
    if !(0.0..=TIME_MAX_US).contains(&tier.latency()) {
        all.push(("latency_us", format!("is {}; must be 0 to {TIME_MAX_US} microseconds", tier.latency())));
    }
    if !(1..=CONCURRENCY_MAX).contains(&tier.concurrency) {
        all.push(("concurrency", format!("is {}; must be 1 to {CONCURRENCY_MAX}", tier.concurrency)));
    }
    if tier.write == WritePolicy::OnEvict && tokens != size {
        let message = format!(
            "on_evict stores what leaves the GPU's cache, which are single blocks of {size} tokens, not {tokens}; use \
             write_through, or leave out block_size"
        );
        all.push(("write", message));
    }
    if let Replacement::Ttl(ttl) = tier.replacement
        && !(ttl.s > 0.0 && ttl.s <= 1e9)
    {
        all.push(("replacement.ttl.s", format!("is {}; must be above 0 and at most 1e9 seconds", ttl.s)));
    }
    if tier.prefetch && tier.blocking {
        all.push((
            "prefetch",
            "fetches ahead of the step, and blocking loads in it; leave out one of the two".to_string(),
        ));
    }
    if !(0.0..=CONTENTION_MAX).contains(&tier.contends_with_steps) {
        let message = format!("is {}; must be 0 to {CONTENTION_MAX}", tier.contends_with_steps);
        all.push(("contends_with_steps", message));
    }
    all
}

fn capacity(tier: &Tier, bytes: u128, all: &mut Vec<(&'static str, String)>) {
    match (tier.capacity_gib, tier.capacity_blocks) {
        (None, None) => all.push(("capacity_gib", "is missing: say this, or capacity_blocks".to_string())),
        (Some(_), Some(_)) => all.push(("capacity_blocks", "says what capacity_gib says; leave out one".to_string())),
        (Some(gib), None) if !(gib.is_finite() && gib > 0.0) => {
            all.push(("capacity_gib", format!("is {gib}; must be a number above 0")));
        }
        (Some(gib), None) if tier.capacity(bytes) == 0 => {
            let least = bytes as f64 / 1024.0 / 1024.0 / 1024.0;
            all.push(("capacity_gib", format!("{gib} does not hold one block, which takes {least:.4} GiB")));
        }
        (None, Some(blocks)) if blocks == 0 || blocks > BLOCKS_MAX => {
            all.push(("capacity_blocks", format!("is {blocks}; must be 1 to {BLOCKS_MAX}")));
        }
        (Some(_), None) | (None, Some(_)) => {}
    }
}
