//! Measured times of operators, layers and steps, as a stage `profile` reads them: what `operators` and `steps` look up.
//!
//! A profile is a set of points: an operator, what kind of it, its shape, and how long it took. [`Operator::dims`] names
//! the numbers of a shape, in order; the table of a profile has a column for each of these names. Points are sorted and
//! distinct, whoever reads files sees to that (medians of repetitions, holes, units).
//!
//! Shared by all scenarios of a fan-out. A profile enters the identity of a scenario by its fingerprint, not by its points.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::sim::latency::Latency;

/// Numbers of a shape, of which an operator uses the first [`Operator::dims`]; the others are 0.
pub const DIMS: usize = 9;

/// Whose layout the points come from: that settles which operators there are, and how they make a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// aiconfigurator's database: operators by their own shapes, for any model.
    Operators,
    /// LLMServingSim's profiler: layers of one model.
    Layers,
    /// Vidur's profiling files: operators of one model, medians of repetitions.
    Vidur,
    /// Vidur's predictions: every shape that it looks up, exactly.
    VidurPredictions,
    /// Points of a user's own.
    Generic,
    /// Steps of an engine.
    Steps,
}

impl Layout {
    pub const ALL: [Layout; 6] =
        [Layout::Operators, Layout::Layers, Layout::Vidur, Layout::VidurPredictions, Layout::Generic, Layout::Steps];

    /// As in the table.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Operators => "operators",
            Layout::Layers => "layers",
            Layout::Vidur => "vidur",
            Layout::VidurPredictions => "vidur_predictions",
            Layout::Generic => "generic",
            Layout::Steps => "steps",
        }
    }
}

macro_rules! operators {
    ($($(#[$doc:meta])* $variant:ident $name:literal [$($dim:literal),*];)*) => {
        /// What was measured. In brackets in the table of `pipe show`: the numbers of its shape.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Operator {
            $($(#[$doc])* $variant,)*
        }

        impl Operator {
            pub const ALL: &'static [Operator] = &[$(Operator::$variant,)*];

            /// As in the table.
            pub fn name(self) -> &'static str {
                match self { $(Operator::$variant => $name,)* }
            }

            /// Names of the numbers of its shape, in order.
            pub fn dims(self) -> &'static [&'static str] {
                match self { $(Operator::$variant => &[$($dim),*],)* }
            }
        }
    };
}

operators! {
    /// `tokens x k` times `k x n`.
    Gemm "gemm" ["tokens", "n", "k"];
    /// Attention of `batch` prompts of `chunk` new tokens after `context`; heads of one GPU; `window` 0: none.
    ContextAttention "context_attention" ["batch", "chunk", "context", "heads", "kv_heads", "head_dim", "window"];
    /// Attention of `batch` requests that decode; `context` with the new token.
    GenerationAttention "generation_attention" ["batch", "context", "heads", "kv_heads", "head_dim", "window"];
    /// A mixture layer; `variant` is how tokens choose experts.
    Moe "moe" ["tokens", "hidden", "inter", "top_k", "experts", "moe_tp", "moe_ep"];
    /// The attention of DeepSeek's latent cache alone, heads of one GPU.
    ContextMla "context_mla" ["batch", "chunk", "context", "heads"];
    GenerationMla "generation_mla" ["batch", "context", "heads"];
    /// The same with the projections around it.
    ContextMlaModule "context_mla_module" ["batch", "chunk", "context", "heads"];
    GenerationMlaModule "generation_mla_module" ["batch", "context", "heads"];
    /// Collectives over `gpus` of `bytes`; `variant` is the implementation.
    AllReduce "all_reduce" ["gpus", "bytes"];
    AllGather "all_gather" ["gpus", "bytes"];
    ReduceScatter "reduce_scatter" ["gpus", "bytes"];
    AllToAll "all_to_all" ["gpus", "bytes"];
    SendRecv "send_recv" ["gpus", "bytes"];
    /// A layer of a model (`variant`) that depends on the new tokens of a batch. The sizes of the model are 0 where the
    /// file does not say them: it is of one model.
    TokenLayer "token_layer" ["tokens", "tp", "heads", "kv_heads", "hidden", "inter", "vocab", "gated"];
    /// A layer of a model (`variant`) that depends on the requests of a batch.
    SequenceLayer "sequence_layer" ["sequences", "tp"];
    /// Mixture layers of a model: new tokens of a batch, and experts that they choose.
    MoeLayer "moe_layer" ["tokens", "active_experts", "tp"];
    /// One attention layer of a batch: a prompt of `chunk` new tokens after `context`, and `decodes` requests of
    /// `decode_context` tokens each.
    BatchAttention "batch_attention" ["chunk", "context", "decodes", "decode_context", "tp"];
    /// How much longer attention takes where contexts differ: `latency_us` is the share alpha (no time) of the way from
    /// all of mean length to all of the greatest; in buckets, each number their upper bound (rate in percent).
    SkewAlpha "skew_alpha" ["chunk", "sequences", "rate", "context_max", "context", "tp"];
    /// Attention of one layer of a model: prompts, and requests that decode. Sizes as for `token_layer`.
    PrefillAttention "prefill_attention" ["context", "chunk", "tp", "heads", "kv_heads", "hidden", "block_size"];
    DecodeAttention "decode_attention" ["context", "batch", "tp", "heads", "kv_heads", "hidden", "block_size"];
    KvCacheSave "kv_cache_save" ["tokens", "tp", "heads", "kv_heads", "hidden", "block_size"];
    /// Work of the host for a batch (`variant` says which).
    Cpu "cpu" ["batch", "tp"];
    /// A whole step. `decode_context` and `prefill_context` are sums over requests.
    Step "step" ["prefill_tokens", "prefill_requests", "prefill_context", "decode_requests", "decode_context", "tp"];
}

/// A measured point. Names are numbers into [`Profile::names`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Which of several kinds or implementations; 0, the empty name, where there is one only.
    pub variant: u16,
    /// Type of the arithmetic, or of the data that moves; 0 where the source does not say.
    pub dtype: u16,
    /// Type of the cache's entries; 0 where there is none.
    pub kv_dtype: u16,
    pub shape: [u32; DIMS],
    pub latency_us: f64,
}

/// See the head of the file.
#[derive(Debug)]
pub struct Profile {
    /// Hash of the table's content.
    pub fingerprint: String,
    pub layout: Layout,
    /// Names of variants and types; the first is empty.
    pub names: Vec<String>,
    /// Per operator, sorted by everything but the time.
    pub points: BTreeMap<Operator, Vec<Point>>,
}

impl Profile {
    /// The number of a name; `None` where no point has it.
    pub fn name(&self, name: &str) -> Option<u16> {
        self.names.iter().position(|n| n == name).and_then(|i| u16::try_from(i).ok())
    }

    pub fn of(&self, operator: Operator) -> &[Point] {
        self.points.get(&operator).map_or(&[], Vec::as_slice)
    }
}

impl PartialEq for Profile {
    fn eq(&self, other: &Profile) -> bool {
        self.fingerprint == other.fingerprint
    }
}

/// What a latency model needs beside settings and facts, filled in by whoever resolves the names of a deployment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Supplied {
    /// What `auto` or `fitted` came to; it goes before the choice of the deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// What that is called, for the reader of a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picked: Option<String>,
    /// The profile that the model names.
    #[serde(default, skip_deserializing, serialize_with = "fingerprint", skip_serializing_if = "Option::is_none")]
    pub profile: Option<Arc<Profile>>,
}

impl Supplied {
    pub fn is_nothing(&self) -> bool {
        self.latency.is_none() && self.picked.is_none() && self.profile.is_none()
    }
}

fn fingerprint<S: serde::Serializer>(profile: &Option<Arc<Profile>>, s: S) -> Result<S::Ok, S::Error> {
    profile.as_ref().map(|p| p.fingerprint.as_str()).serialize(s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_fit_a_point_and_names_are_distinct() {
        let mut names: Vec<&str> = Operator::ALL.iter().map(|o| o.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Operator::ALL.len());
        for operator in Operator::ALL {
            assert!((1..=DIMS).contains(&operator.dims().len()), "{operator:?}");
        }
    }
}
