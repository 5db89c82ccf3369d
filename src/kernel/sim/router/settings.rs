//! What a user writes under `deployment.router`, and what every router means. The words are those of the head of
//! [`super`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The choice of a router.
///
/// Where its description speaks of a least or a highest, one of those replicas is taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Router {
    /// One replica after the other.
    #[default]
    RoundRobin,
    /// Uniformly at random, from the scenario's own stream.
    Random,
    /// The fewest requests in the system: on their way, waiting or running.
    LeastOutstanding,
    /// The fewest requests waiting.
    LeastQueued,
    /// The fewest prompt tokens pending (Vidur's `lop`).
    #[serde(alias = "lop")]
    LeastTokens,
    /// The fewest requests with prompt tokens pending.
    LopBinary,
    /// The fewest prompt tokens pending, less those that a step has computed: they go down when the step ends, and with
    /// its first step also by what was found in the prefix cache.
    LopBatchEnd,
    /// The best balance of uncached prompt tokens. A request counts as `u = prompt - hit` pending tokens on the replica
    /// that it was sent to. For every candidate: if the request went there, by how much would the highest pending count
    /// exceed the lowest? The least such imbalance.
    LopUncached,
    /// The replica of the session's first request, which was chosen by `round_robin`. A request without a session is
    /// chosen for by itself.
    StickyRoundRobin,
    /// The replica of the session's first request, which was chosen by `least_outstanding`.
    StickyLor,
    /// The replica of the session's first request, which was chosen by `least_tokens`.
    StickyLop,
    /// The session's replica, unless its imbalance is above `tolerance_factor` times the least one; then that of the least
    /// imbalance, which becomes the session's. Imbalance as in `lop_uncached`.
    TolerantStickyLopUncached(TolerantSticky),
    /// The session's replica, if it is among the `top_k` of least imbalance; else that of the least, which becomes the
    /// session's. It is among them if fewer than `top_k` candidates have a lower imbalance. Imbalance as in
    /// `lop_uncached`.
    RankedStickyLopUncached(RankedSticky),
    /// Two different replicas at random, the one of them with fewer outstanding requests; the first drawn, if equal.
    PowerOfTwo,
    /// The replica that was sent the most similar prompts, as SGLang's router: by what the router itself has sent, not by
    /// what the caches hold.
    PrefixAffinity(PrefixAffinity),
    /// The most overlap with the prefix cache less the load, as Dynamo's router: the lowest cost `overlap_weight *
    /// prefill blocks + decode blocks`. Prefill blocks: (uncached prompt tokens pending, with those of the request) over
    /// the block size; a request counts as `prompt - hit` pending tokens. Decode blocks: the blocks that the prompts of
    /// the outstanding requests and of the request fill or begin.
    KvAware(KvAware),
    /// The highest weighted mean of scores, as the endpoint picker of llm-d and the Gateway API inference extension.
    Weighted(Weighted),
}

/// Parameters of `tolerant_sticky_lop_uncached`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TolerantSticky {
    /// 1 or more.
    pub tolerance_factor: f64,
}

impl Default for TolerantSticky {
    fn default() -> Self {
        TolerantSticky { tolerance_factor: 2.0 }
    }
}

/// Parameters of `ranked_sticky_lop_uncached`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RankedSticky {
    /// At least 1.
    pub top_k: u32,
}

impl Default for RankedSticky {
    fn default() -> Self {
        RankedSticky { top_k: 2 }
    }
}

/// Parameters of `prefix_affinity`.
///
/// The router keeps, for every replica, the block hashes of the trace that it sent there, the `capacity` last used; a
/// request uses its prompt's hashes in the order of the prompt. A match is the share of the prompt's hashes that is known
/// for a replica, from the first one on without a gap (0 for a request without). If the loads are uneven (the most
/// outstanding requests exceed the fewest by more than `balance_abs_threshold` and by more than the factor
/// `balance_rel_threshold`), the fewest outstanding. Else, if the highest match is above `cache_threshold`, the highest
/// match, of those the fewest outstanding; else the fewest hashes known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PrefixAffinity {
    /// 0 to 1.
    pub cache_threshold: f64,
    /// Requests.
    pub balance_abs_threshold: u32,
    /// 1 or more.
    pub balance_rel_threshold: f64,
    /// Hashes that are remembered for a replica.
    pub capacity: u32,
}

impl Default for PrefixAffinity {
    fn default() -> Self {
        PrefixAffinity { cache_threshold: 0.5, balance_abs_threshold: 32, balance_rel_threshold: 1.1, capacity: 10_000 }
    }
}

/// Parameters of `kv_aware`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KvAware {
    /// Weight of the prompt's blocks that must be computed against those that are held.
    pub overlap_weight: f64,
    /// 0: the lowest cost. Above: at random, with weights `exp(-c / temperature)`, where `c` is the cost scaled so that
    /// the lowest is 0 and the highest 1 (0 where all are equal): the first candidate, in the order of their numbers,
    /// at which the sum of the weights exceeds a uniform number of 0 to 1 times the sum of all.
    pub temperature: f64,
}

impl Default for KvAware {
    fn default() -> Self {
        KvAware { overlap_weight: 1.0, temperature: 0.0 }
    }
}

/// Parameters of `weighted`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Weighted {
    /// What counts, and how much. Default: precise-prefix-cache 2, queue-depth 1, kv-utilization 1.
    pub scorers: Option<Scorers>,
    /// Block hashes that are remembered for a replica, for `prefix-affinity` and `no-hit-lru`.
    pub capacity: u32,
    /// Adapters that are remembered for a replica, for `lora-affinity`: vLLM's `max_loras`.
    pub max_loras: u32,
}

impl Default for Weighted {
    fn default() -> Self {
        Weighted { scorers: None, capacity: 10_000, max_loras: 4 }
    }
}

impl Weighted {
    pub fn scorers(&self) -> Scorers {
        let default =
            Scorers { precise_prefix_cache: 2.0, queue_depth: 1.0, kv_utilization: 1.0, ..Scorers::default() };
        self.scorers.unwrap_or(default)
    }
}

/// Weights of the scorers of `weighted`: 0 or more, not all 0.
///
/// Every scorer gives a candidate a score, which is cut to 0 to 1. The score of a candidate is the sum of weight times
/// score over the scorers in the order below, over the sum of the weights. "Scaled" is `(x - lowest) / (highest -
/// lowest)` over the candidates, 1 where all are equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Scorers {
    /// Hit, scaled.
    pub precise_prefix_cache: f64,
    /// Share of the prompt's hashes that the router has sent there, as `prefix_affinity` has it.
    pub prefix_affinity: f64,
    /// Where no candidate has a match (as for `prefix-affinity`): how long ago the router last sent such a request there,
    /// `rank / (n - 1)` of `n` candidates, the longest ago (never before all others, in the order of their numbers) with
    /// the highest rank; 1 for a single one. 0.5 for all, if one has a match.
    pub no_hit_lru: f64,
    /// 1 less waiting, scaled; 1 where all are equal.
    pub queue_depth: f64,
    /// 1 less the KV usage.
    pub kv_utilization: f64,
    /// `1 / (1 + waiting + running + outstanding)`.
    pub load_balance: f64,
    /// `(highest - x) / highest` of the outstanding requests; 1 where the highest is 0.
    pub active_requests: f64,
    /// 1 less running, scaled; 1 where all are equal.
    pub running_requests: f64,
    /// `0.5 * (1 - min(waiting, 128) / 128)`.
    pub load_aware: f64,
    /// 1 if the request's adapter is one of the `max_loras` last sent there, or it has none; else 0.
    pub lora_affinity: f64,
}

impl Scorers {
    /// Names and weights, in order.
    pub fn weights(&self) -> [(&'static str, f64); 10] {
        [
            ("precise-prefix-cache", self.precise_prefix_cache),
            ("prefix-affinity", self.prefix_affinity),
            ("no-hit-lru", self.no_hit_lru),
            ("queue-depth", self.queue_depth),
            ("kv-utilization", self.kv_utilization),
            ("load-balance", self.load_balance),
            ("active-requests", self.active_requests),
            ("running-requests", self.running_requests),
            ("load-aware", self.load_aware),
            ("lora-affinity", self.lora_affinity),
        ]
    }
}
