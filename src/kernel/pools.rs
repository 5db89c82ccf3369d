//! A deployment of several pools: replicas of several kinds, roles and models behind one gateway, and how a request goes
//! from one to the other.
//!
//! A pool is a number of equal replicas. What it does not say itself is as under `deployment`. Pools that serve the same
//! model in the same role are one set of candidates to the router: heterogeneous GPUs are written as one pool per kind.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::profile::Supplied;
use crate::scenario::{Deployment, Dtype, GpuSpec, KvCache, ModelSpec, Scenario};
use crate::sim::{lanes, latency::Latency, router::Router, scheduler::Scheduler, speculative::Speculative};

/// What the replicas of a pool do for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything from the prompt to the last token.
    #[default]
    Mixed,
    /// The encoder's part (images, audio) of requests that have one; the rest is done elsewhere.
    Encode,
    /// The prompt. Its KV cache then moves to a decode replica.
    Prefill,
    /// The reply; and the prompt too, where the decider says so.
    Decode,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Mixed => "mixed",
            Role::Encode => "encode",
            Role::Prefill => "prefill",
            Role::Decode => "decode",
        }
    }
}

/// Equal replicas. What is not given is as under `deployment`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// What its replicas do for a request.
    #[serde(default)]
    pub role: Role,
    /// Replicas of the pool.
    #[serde(default = "one")]
    pub replicas: u32,
    /// Name of a model in the catalog.
    #[serde(default)]
    pub model: Option<String>,
    /// Name of a GPU in the catalog.
    #[serde(default)]
    pub gpu: Option<String>,
    /// Tensor-parallel size.
    #[serde(default)]
    pub tp: Option<u32>,
    /// Pipeline-parallel size. In a pool with a role one batch at a time passes all stages.
    #[serde(default)]
    pub pp: Option<u32>,
    /// Data-parallel size.
    #[serde(default)]
    pub dp: Option<u32>,
    /// Spread whole experts over the GPUs of a replica.
    #[serde(default)]
    pub enable_expert_parallel: Option<bool>,
    /// Type of the weights.
    #[serde(default)]
    pub dtype: Option<Dtype>,
    /// Longest prompt plus output in tokens.
    #[serde(default)]
    pub max_model_len: Option<u32>,
    /// How a replica forms its batches.
    #[serde(default)]
    pub scheduler: Option<Scheduler>,
    /// The key-value cache of a replica.
    #[serde(default)]
    pub kv: Option<KvCache>,
    /// How long a step takes.
    #[serde(default)]
    pub latency: Option<Latency>,
}

/// One replica that does everything, as the deployment says.
impl Default for Pool {
    fn default() -> Self {
        Pool {
            role: Role::default(),
            replicas: one(),
            model: None,
            gpu: None,
            tp: None,
            pp: None,
            dp: None,
            enable_expert_parallel: None,
            dtype: None,
            max_model_len: None,
            scheduler: None,
            kv: None,
            latency: None,
        }
    }
}

fn one() -> u32 {
    1
}

/// How requests go from prefill to decode replicas.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Disaggregation {
    /// Which prompts are computed by the prefill pool; the others by the decode replica itself.
    pub decider: Decider,
    /// How decode replicas are chosen, when a request arrives. Default: the deployment's `router`.
    pub decode_router: Option<Router>,
    /// Who makes the first token, and when the client has it.
    pub first_token: FirstToken,
    /// How the KV cache gets from one replica to the other.
    pub transfer: Transfer,
}

/// Which prompts are computed by the prefill pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decider {
    /// All.
    #[default]
    Always,
    /// None: every prompt is computed by the decode replica.
    Never,
    /// Prompts longer than a threshold.
    PromptTokens(Threshold),
    /// Prompts of which more than a threshold is not in the prefix cache of the decode replica, as the gateway knows it.
    UncachedTokens(Threshold),
}

/// A number of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// More tokens than this.
    pub above: u32,
}

/// Who makes the first token of a request whose prompt was computed by a prefill replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FirstToken {
    /// The prefill replica makes it, and streams it at once (Splitwise, DistServe).
    Prefill,
    /// The prefill replica makes it; it reaches the client when the KV cache has reached the decode replica (SGLang,
    /// TensorRT-LLM).
    #[default]
    Transfer,
    /// The decode replica computes the last token of the prompt again to make it (vLLM).
    Decode,
}

/// The way from a prefill to a decode replica.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Transfer {
    /// Bandwidth in GB/s (10^9 bytes): of the link of a prefill replica, or of the fabric.
    pub bandwidth_gb_per_s: f64,
    /// From the start of a transfer until its bytes flow, in microseconds.
    pub latency_us: f64,
    /// What transfers share that overlap in time.
    pub contention: Contention,
    /// Send layers while the prompt is computed: what the bandwidth carries between the first step with tokens of the
    /// prompt and the last is gone by then, all but the last layer.
    pub layerwise: bool,
}

impl Default for Transfer {
    fn default() -> Self {
        Transfer { bandwidth_gb_per_s: 25.0, latency_us: 50.0, contention: Contention::Link, layerwise: false }
    }
}

/// What transfers share that overlap in time. Each gets an equal part, at every moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Contention {
    /// Nothing: every transfer has the whole bandwidth.
    None,
    /// The link of the replica that they come from.
    #[default]
    Link,
    /// One fabric.
    Fabric,
}

/// How old the gateway's knowledge of its replicas is: queue lengths, running requests, KV usage and what is in their
/// prefix caches. What it has sent, and what has come back, it knows at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Signals {
    /// Replicas are looked at every so many milliseconds, from time 0. Default, 0: at every decision.
    pub refresh_ms: f64,
    /// What was seen takes so many milliseconds to the gateway. Needs `refresh_ms`.
    pub delay_ms: f64,
}

/// The facts of a pool's model and GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolFacts {
    pub model: ModelSpec,
    pub gpu: GpuSpec,
    #[serde(default, skip_serializing_if = "Supplied::is_nothing")]
    pub supplied: Supplied,
}

impl PoolFacts {
    /// Facts alone.
    pub fn new(model: &ModelSpec, gpu: &GpuSpec) -> PoolFacts {
        PoolFacts { model: model.clone(), gpu: gpu.clone(), supplied: Supplied::default() }
    }
}

/// A pool with everything that it takes from the deployment.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// `default` for a deployment without pools.
    pub name: String,
    pub role: Role,
    /// Without pools.
    pub deployment: Deployment,
    pub model: ModelSpec,
    pub gpu: GpuSpec,
    pub supplied: Supplied,
    /// Number of its first engine.
    pub first: u32,
}

impl Site {
    /// Engines: every data-parallel rank of a replica is one, with a scheduler and a KV cache of its own.
    pub fn engines(&self) -> u32 {
        self.deployment.replicas.saturating_mul(self.deployment.dp)
    }
}

impl Deployment {
    /// The deployment of one pool: no pools, and what the pool says in place of what the deployment says.
    pub fn of_pool(&self, pool: &Pool) -> Deployment {
        let Pool {
            role: _,
            replicas,
            model,
            gpu,
            tp,
            pp,
            dp,
            enable_expert_parallel,
            dtype,
            max_model_len,
            scheduler,
            kv,
            latency,
        } = pool;
        Deployment {
            model: model.clone().unwrap_or_else(|| self.model.clone()),
            gpu: gpu.clone().unwrap_or_else(|| self.gpu.clone()),
            replicas: *replicas,
            tp: tp.unwrap_or(self.tp),
            pp: pp.unwrap_or(self.pp),
            dp: dp.unwrap_or(self.dp),
            enable_expert_parallel: enable_expert_parallel.unwrap_or(self.enable_expert_parallel),
            dtype: dtype.unwrap_or(self.dtype),
            max_model_len: max_model_len.or(self.max_model_len),
            scheduler: scheduler.clone().unwrap_or_else(|| self.scheduler.clone()),
            kv: kv.clone().unwrap_or_else(|| self.kv.clone()),
            latency: latency.clone().unwrap_or_else(|| self.latency.clone()),
            pools: BTreeMap::new(),
            ..self.clone()
        }
    }
}

impl Scenario {
    /// The pools in the order of their names, with the settings that their engines make of theirs; a deployment without
    /// pools is one mixed pool. Engines are numbered through.
    pub fn sites(&self) -> Vec<Site> {
        self.settled_sites().into_iter().map(|(site, _)| site).collect()
    }

    /// [`Self::sites`], and what the engines of each have changed.
    pub(crate) fn settled_sites(&self) -> Vec<(Site, Vec<(&'static str, String)>)> {
        let mut first = 0;
        let settled = |mut site: Site| {
            let mut changes = Scheduler::settle_role(&mut site.deployment, site.role);
            changes.extend(Speculative::settle(&mut site.deployment, site.role));
            changes.extend(Scheduler::settle(&mut site.deployment, &site.model, &site.gpu));
            changes.extend(lanes::told(&site));
            // An engine may have said how many ranks there are.
            site.first = first;
            first += site.engines();
            (site, changes)
        };
        self.written_sites().into_iter().map(settled).collect()
    }

    fn written_sites(&self) -> Vec<Site> {
        let d = &self.deployment;
        if d.pools.is_empty() {
            return vec![Site {
                name: "default".to_string(),
                role: Role::Mixed,
                deployment: d.clone(),
                model: self.model.clone(),
                gpu: self.gpu.clone(),
                supplied: self.supplied.clone(),
                first: 0,
            }];
        }
        let mut first = 0;
        let mut site = |(at, (name, pool)): (usize, (&String, &Pool))| {
            let facts = self.pools.get(at);
            let site = Site {
                name: name.clone(),
                role: pool.role,
                deployment: d.of_pool(pool),
                model: facts.map_or(&self.model, |f| &f.model).clone(),
                gpu: facts.map_or(&self.gpu, |f| &f.gpu).clone(),
                supplied: facts.map_or(&self.supplied, |f| &f.supplied).clone(),
                first,
            };
            first += site.engines();
            site
        };
        d.pools.iter().enumerate().map(&mut site).collect()
    }
}
