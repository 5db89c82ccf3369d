//! Names of kernels, what they cost, and the sizes for which CUDA graphs are captured.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Sglang;

/// What computes attention (ATTENTION_BACKEND_CHOICES).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttentionBackend {
    Triton,
    TorchNative,
    FlexAttention,
    Nsa,
    CutlassMla,
    Fa3,
    Fa4,
    Flashinfer,
    Flashmla,
    TrtllmMla,
    TrtllmMha,
    DualChunkFlashAttn,
    Aiter,
    Wave,
    IntelAmx,
    Ascend,
    IntelXpu,
}

/// What samples (SAMPLING_BACKEND_CHOICES).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SamplingBackend {
    Flashinfer,
    Pytorch,
    Ascend,
}

/// What exchanges tokens between experts (MOE_A2A_BACKEND_CHOICES).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MoeA2aBackend {
    #[default]
    None,
    Deepep,
    Mooncake,
    Mori,
    AscendFuseep,
    Flashinfer,
}

/// What a value of a parameter does to a step: a factor on what the latency model says, and then microseconds on top.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KernelCost {
    /// Factor on steps with prompts.
    pub prefill: f64,
    /// Microseconds more for steps with prompts.
    pub prefill_us: f64,
    /// Factor on steps of replies alone.
    pub decode: f64,
    /// Microseconds more for steps of replies alone.
    pub decode_us: f64,
}

impl Default for KernelCost {
    fn default() -> Self {
        KernelCost { prefill: 1.0, prefill_us: 0.0, decode: 1.0, decode_us: 0.0 }
    }
}

/// Parameters that [`Sglang::kernel_factors`] may name.
pub(super) const PARAMETERS: [&str; 8] = [
    "attention_backend",
    "cuda_graph",
    "decode_attention_backend",
    "enable_torch_compile",
    "enable_two_batch_overlap",
    "prefill_attention_backend",
    "sampling_backend",
    "tokenizer_worker_num",
];

impl Sglang {
    /// Every parameter of the table with the value that it has; of [`PARAMETERS`] all but `cuda_graph`, which differs from step
    /// to step.
    pub(crate) fn kernels(&self) -> [(&'static str, String); 7] {
        [
            ("attention_backend", written(self.attention_backend)),
            ("decode_attention_backend", written(self.decode_attention_backend)),
            ("prefill_attention_backend", written(self.prefill_attention_backend)),
            ("sampling_backend", written(self.sampling_backend)),
            ("enable_torch_compile", self.enable_torch_compile.to_string()),
            ("enable_two_batch_overlap", self.enable_two_batch_overlap.to_string()),
            ("tokenizer_worker_num", self.tokenizer_worker_num.to_string()),
        ]
    }

    /// What the table says of a value.
    pub(crate) fn cost(&self, parameter: &str, value: &str) -> KernelCost {
        self.kernel_factors.get(parameter).and_then(|values| values.get(value)).copied().unwrap_or_default()
    }

    /// Whether the kernels of a parameter compute a step with prompts, or one of replies alone.
    pub(crate) fn computes(&self, parameter: &str, prompts: bool) -> bool {
        match parameter {
            "attention_backend" if prompts => self.prefill_attention_backend.is_none(),
            "attention_backend" => self.decode_attention_backend.is_none(),
            "prefill_attention_backend" => prompts,
            "decode_attention_backend" => !prompts,
            _ => true,
        }
    }

    /// Sizes of batches of replies for which CUDA graphs are captured, ascending: those that a batch may have.
    pub(crate) fn captured(&self) -> Vec<u32> {
        let (largest, most) = (self.cuda_graph_max_bs.unwrap_or(0), self.settled.running_max);
        if self.disable_cuda_graph {
            return Vec::new();
        }
        let mut sizes: Vec<u32> = match self.disable_cuda_graph_padding {
            true => (1..=largest).collect(),
            // Less padding, for smaller batches.
            false if self.settled.verified > 0 => {
                let small = (1..9).chain((10..33).step_by(2)).chain((40..65).step_by(4)).chain((72..257).step_by(8));
                small.chain((272..=largest).step_by(16)).filter(|size| *size <= largest).collect()
            }
            false => {
                let fixed = [1, 2, 4, 8, 12].into_iter().chain((16..257).step_by(8)).chain((272..512).step_by(16));
                fixed.chain((512..=largest).step_by(32)).filter(|size| *size <= largest).collect()
            }
        };
        // A server for few requests captures the largest batch that it can have.
        if sizes.last().is_some_and(|last| *last > most) {
            sizes.push(most);
        }
        let multiple = if self.enable_two_batch_overlap { 2 } else { 1 };
        sizes.retain(|size| *size <= most && size.is_multiple_of(multiple));
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }
}

/// A name as in YAML; `none` where there is none.
fn written(name: Option<impl Serialize>) -> String {
    let value = name.and_then(|name| serde_json::to_value(name).ok());
    value.and_then(|value| value.as_str().map(str::to_string)).unwrap_or_else(|| "none".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::scheduler::sglang::Settled;

    #[test]
    fn sizes_of_graphs() {
        let all = |largest, most| Sglang {
            cuda_graph_max_bs: Some(largest),
            settled: Settled { running_max: most, ..Settled::default() },
            ..Sglang::default()
        };
        assert_eq!(all(24, 4096).captured(), [1, 2, 4, 8, 12, 16, 24]);
        assert_eq!(all(3, 4096).captured(), [1, 2]);
        // 1, 2, 4, 8, 12; 31 from 16 to 256; 15 from 272 to 496; 512.
        let sizes = all(512, 4096).captured();
        assert_eq!((sizes.len(), sizes[5], sizes[35], sizes[36], sizes[51]), (52, 16, 256, 272, 512));
        assert_eq!(all(600, 4096).captured().last(), Some(&576));
        // With drafts: 1 to 8, 10 to 32 by 2, 40 to 64 by 4, 72 to 256 by 8, 272 to 512 by 16.
        let mut drafts = all(512, 4096);
        drafts.settled.verified = 4;
        let sizes = drafts.captured();
        assert_eq!(
            (sizes.len(), sizes[8], sizes[19], sizes[20], sizes[27], sizes[51], sizes[66]),
            (67, 10, 32, 40, 72, 272, 512)
        );
        // Few requests: the largest batch there can be is captured too.
        assert_eq!(all(24, 10).captured(), [1, 2, 4, 8, 10]);
        assert_eq!(Sglang { enable_two_batch_overlap: true, ..all(16, 64) }.captured(), [2, 4, 8, 12, 16]);
        assert_eq!(Sglang { disable_cuda_graph_padding: true, ..all(5, 64) }.captured(), [1, 2, 3, 4, 5]);
        assert!(Sglang { disable_cuda_graph: true, ..all(5, 64) }.captured().is_empty());
    }

    #[test]
    fn values_are_written_as_in_the_settings() {
        let rules = Sglang {
            attention_backend: Some(AttentionBackend::TorchNative),
            sampling_backend: Some(SamplingBackend::Pytorch),
            enable_torch_compile: true,
            tokenizer_worker_num: 4,
            ..Sglang::default()
        };
        let values: Vec<String> = rules.kernels().into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, ["torch_native", "none", "none", "pytorch", "true", "false", "4"]);
    }
}
