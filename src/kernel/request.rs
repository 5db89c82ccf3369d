//! The requests of a workload, as flat arrays: read-only, shared by every scenario of a fan-out.

use crate::units::{SimDuration, SimTime};

/// `n` requests, index = request id, in the order of the trace: by arrival, as a rule (ties keep their order; what is
/// out of order is simulated at its time, and counted).
///
/// All vectors have length `n`, but `block_hash_offsets` has `n + 1` and `block_hashes` what the offsets say; and those
/// from `priority` on are empty where the trace says nothing about any request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Requests {
    /// Arrival in nanoseconds from the start of the trace, not negative.
    pub arrival: Vec<SimTime>,
    /// Prompt length in tokens, at least 1.
    pub input_tokens: Vec<u32>,
    /// Tokens that the request will generate, at least 1. Routers and admission never see it.
    pub output_tokens: Vec<u32>,
    /// Chained content hashes of the blocks of prompt and output: `block_hashes[offsets[i]..offsets[i + 1]]`.
    /// Equal hash means equal content of the block and of everything before it. Empty where the trace has none.
    pub block_hashes: Vec<u64>,
    pub block_hash_offsets: Vec<u64>,
    /// Tokens per hashed block (512 for Mooncake, 16 for vLLM's default); 0 where the trace has no hashes.
    pub block_tokens: u32,
    /// Priority as in vLLM: a lower value goes first.
    pub priority: Vec<Option<i32>>,
    /// Time from arrival by which the request should be done.
    pub deadline: Vec<Option<SimDuration>>,
    /// Time from arrival after which the client gives up.
    pub timeout: Vec<Option<SimDuration>>,
    /// Time from arrival at which the client goes away.
    pub cancel: Vec<Option<SimDuration>>,
    /// Most tokens that the request may generate.
    pub max_tokens: Vec<Option<u32>>,
    /// Parallel samples of the request, at least 1, as in the OpenAI API: see [`crate::sim::samples`].
    pub n: Vec<Option<u32>>,
    /// Beams of the request, at least 1: see [`crate::sim::beams`].
    pub beam_width: Vec<Option<u32>>,
    /// Class of service, an index into `class_names`.
    pub class: Vec<Option<u32>>,
    pub class_names: Vec<String>,
    /// Whom the request is for, a number of its own: what engines share fairly between. Empty: the class tells.
    pub tenant: Vec<Option<u32>>,
    /// Conversation that the request belongs to, a number of its own; its requests follow each other in the order of
    /// their arrivals (ties: of their numbers).
    pub session: Vec<Option<u32>>,
    /// Requests that must be done before this one is sent:
    /// `depends_on[depends_on_offsets[i]..depends_on_offsets[i + 1]]`. Both are empty where no request waits.
    pub depends_on: Vec<u32>,
    pub depends_on_offsets: Vec<u64>,
    /// Time from the end of the last request that it waits for: the user thinks, or a tool runs.
    pub think: Vec<Option<SimDuration>>,
    /// Model that the request asks for, an index into `model_names`.
    pub model: Vec<Option<u32>>,
    pub model_names: Vec<String>,
    /// LoRA adapter that the request asks for, a number of its own: an index into `adapter_names` where that is not empty.
    pub adapter: Vec<Option<u32>>,
    pub adapter_names: Vec<String>,
    /// Tokens of the prompt that an encoder makes of images or sound.
    pub encoder_tokens: Vec<Option<u32>>,
    /// Probability that a drafted token of the reply is accepted if those before it were, 0 to 1.
    pub acceptance: Vec<Option<f64>>,
}

impl Requests {
    pub fn len(&self) -> usize {
        self.arrival.len()
    }

    pub fn is_empty(&self) -> bool {
        self.arrival.is_empty()
    }

    /// The requests that must be done before request `i` is sent.
    pub fn waits_for(&self, i: usize) -> &[u32] {
        if self.depends_on_offsets.len() <= i + 1 {
            return &[];
        }
        &self.depends_on[self.depends_on_offsets[i] as usize..self.depends_on_offsets[i + 1] as usize]
    }

    /// The chained block hashes of request `i`; empty where it has none.
    pub fn hashes(&self, i: usize) -> &[u64] {
        if self.block_tokens == 0 || self.block_hash_offsets.len() <= i + 1 {
            return &[];
        }
        &self.block_hashes[self.block_hash_offsets[i] as usize..self.block_hash_offsets[i + 1] as usize]
    }
}
