//! Configs as they are published (what matters of them), and the totals that are published with them.

use serde_json::{Value, json};

use super::hf::model;
use super::*;

/// A config of a model, its total in billions, and how far the count may be off: encoders, biases, predictions of several
/// tokens are not counted.
fn published() -> Vec<(&'static str, Value, f64, f64)> {
    let of = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    vec![
        (
            "meta-llama/Llama-3.1-8B",
            of(r#"{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
                "max_position_embeddings": 131072, "tie_word_embeddings": false}"#),
            8.030,
            1e-3,
        ),
        (
            "meta-llama/Llama-3.2-1B",
            of(r#"{"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
                "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256,
                "max_position_embeddings": 131072, "tie_word_embeddings": true}"#),
            1.236,
            1e-3,
        ),
        (
            "meta-llama/Llama-4-Scout-17B-16E-Instruct",
            json!({"model_type": "llama4", "vision_config": {"hidden_size": 1408}, "text_config": of(
                r#"{"model_type": "llama4_text", "hidden_size": 5120, "intermediate_size": 8192,
                "intermediate_size_mlp": 16384, "num_hidden_layers": 48, "num_attention_heads": 40,
                "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 202048, "max_position_embeddings": 10485760,
                "num_local_experts": 16, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1,
                "attention_chunk_size": 8192}"#)}),
            108.6,
            1e-2,
        ),
        (
            "meta-llama/Llama-4-Maverick-17B-128E-Instruct",
            json!({"model_type": "llama4", "text_config": of(
                r#"{"model_type": "llama4_text", "hidden_size": 5120, "intermediate_size": 8192,
                "intermediate_size_mlp": 16384, "num_hidden_layers": 48, "num_attention_heads": 40,
                "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 202048, "max_position_embeddings": 1048576,
                "num_local_experts": 128, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2,
                "attention_chunk_size": 8192}"#)}),
            401.6,
            1e-2,
        ),
        (
            "mistralai/Mistral-7B-v0.1",
            of(r#"{"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "sliding_window": 4096,
                "max_position_embeddings": 32768, "tie_word_embeddings": false}"#),
            7.242,
            1e-3,
        ),
        (
            "mistralai/Mixtral-8x7B-v0.1",
            of(r#"{"model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "sliding_window": null,
                "max_position_embeddings": 32768, "num_local_experts": 8, "num_experts_per_tok": 2}"#),
            46.703,
            1e-3,
        ),
        (
            "mistralai/Mistral-Small-3.1-24B-Instruct-2503",
            json!({"model_type": "mistral3", "text_config": of(
                r#"{"model_type": "mistral", "hidden_size": 5120, "intermediate_size": 32768, "num_hidden_layers": 40,
                "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 131072,
                "sliding_window": null, "max_position_embeddings": 131072}"#)}),
            24.011,
            2e-2,
        ),
        (
            "Qwen 7B of the first generation",
            of(r#"{"model_type": "qwen", "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
                "num_attention_heads": 32, "kv_channels": 128, "vocab_size": 151936, "seq_length": 8192,
                "tie_word_embeddings": false}"#),
            7.721,
            1e-3,
        ),
        (
            "Qwen/Qwen2.5-7B-Instruct",
            of(r#"{"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
                "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "sliding_window": 131072,
                "use_sliding_window": false, "max_window_layers": 28, "max_position_embeddings": 32768,
                "tie_word_embeddings": false}"#),
            7.616,
            1e-3,
        ),
        (
            "Qwen1.5-MoE-A2.7B",
            of(r#"{"model_type": "qwen2_moe", "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
                "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 151936, "num_experts": 60,
                "num_experts_per_tok": 4, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632,
                "decoder_sparse_step": 1, "max_position_embeddings": 8192, "use_sliding_window": false,
                "tie_word_embeddings": false}"#),
            14.316,
            1e-3,
        ),
        (
            "Qwen/Qwen3-30B-A3B",
            of(r#"{"model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48,
                "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936,
                "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "mlp_only_layers": [],
                "decoder_sparse_step": 1, "max_position_embeddings": 40960, "use_sliding_window": false,
                "sliding_window": null, "tie_word_embeddings": false}"#),
            30.532,
            1e-3,
        ),
        (
            "Qwen/Qwen3-Next-80B-A3B-Instruct",
            of(
                r#"{"model_type": "qwen3_next", "hidden_size": 2048, "intermediate_size": 5120, "num_hidden_layers": 48,
                "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256, "vocab_size": 151936,
                "full_attention_interval": 4, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
                "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
                "num_experts": 512, "num_experts_per_tok": 10, "moe_intermediate_size": 512,
                "shared_expert_intermediate_size": 512, "decoder_sparse_step": 1, "max_position_embeddings": 262144,
                "tie_word_embeddings": false}"#,
            ),
            79.674,
            1e-3,
        ),
        (
            "deepseek-ai/DeepSeek-V3",
            of(
                r#"{"model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61,
                "num_attention_heads": 128, "num_key_value_heads": 128, "vocab_size": 129280, "q_lora_rank": 1536,
                "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
                "n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1, "moe_layer_freq": 1,
                "moe_intermediate_size": 2048, "first_k_dense_replace": 3, "max_position_embeddings": 163840,
                "tie_word_embeddings": false}"#,
            ),
            671.026,
            1e-3,
        ),
        (
            "deepseek-ai/DeepSeek-V2-Lite",
            of(
                r#"{"model_type": "deepseek_v2", "hidden_size": 2048, "intermediate_size": 10944, "num_hidden_layers": 27,
                "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 102400, "q_lora_rank": null,
                "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
                "n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2, "moe_layer_freq": 1,
                "moe_intermediate_size": 1408, "first_k_dense_replace": 1, "max_position_embeddings": 163840,
                "tie_word_embeddings": false}"#,
            ),
            15.706,
            1e-3,
        ),
        (
            "moonshotai/Kimi-K2-Instruct",
            of(r#"{"model_type": "kimi_k2", "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61,
                "num_attention_heads": 64, "num_key_value_heads": 64, "vocab_size": 163840, "q_lora_rank": 1536,
                "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
                "n_routed_experts": 384, "num_experts_per_tok": 8, "n_shared_experts": 1, "moe_layer_freq": 1,
                "moe_intermediate_size": 2048, "first_k_dense_replace": 1, "max_position_embeddings": 131072,
                "tie_word_embeddings": false}"#),
            1026.408,
            1e-3,
        ),
        (
            "google/gemma-2-9b",
            of(r#"{"model_type": "gemma2", "hidden_size": 3584, "intermediate_size": 14336, "num_hidden_layers": 42,
                "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256, "vocab_size": 256000,
                "sliding_window": 4096, "max_position_embeddings": 8192}"#),
            9.242,
            1e-3,
        ),
        (
            "google/gemma-3-27b-it",
            json!({"model_type": "gemma3", "text_config": of(
                r#"{"model_type": "gemma3_text", "hidden_size": 5376, "intermediate_size": 21504, "head_dim": 128,
                "num_attention_heads": 32, "num_key_value_heads": 16, "num_hidden_layers": 62, "sliding_window": 1024}"#)}),
            27.432,
            2e-2,
        ),
        (
            "Gemma 7B of the first generation",
            of(r#"{"model_type": "gemma", "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
                "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256, "vocab_size": 256000,
                "max_position_embeddings": 8192}"#),
            8.538,
            1e-3,
        ),
        (
            "microsoft/phi-2",
            of(r#"{"model_type": "phi", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 32,
                "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 51200,
                "max_position_embeddings": 2048, "tie_word_embeddings": false}"#),
            2.780,
            1e-3,
        ),
        (
            "Phi-3-mini-4k",
            of(r#"{"model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
                "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064, "sliding_window": 2047,
                "max_position_embeddings": 4096, "tie_word_embeddings": false}"#),
            3.821,
            1e-3,
        ),
        (
            "microsoft/phi-4",
            of(r#"{"model_type": "phi3", "hidden_size": 5120, "intermediate_size": 17920, "num_hidden_layers": 40,
                "num_attention_heads": 40, "num_key_value_heads": 10, "vocab_size": 100352, "sliding_window": null,
                "max_position_embeddings": 16384, "tie_word_embeddings": false}"#),
            14.660,
            1e-3,
        ),
        (
            "openai/gpt-oss-20b",
            of(r#"{"model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 24,
                "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 201088,
                "num_local_experts": 32, "num_experts_per_tok": 4, "sliding_window": 128,
                "max_position_embeddings": 131072, "tie_word_embeddings": false}"#),
            20.915,
            2e-3,
        ),
        (
            "ibm-granite/granite-3.1-8b-instruct",
            of(r#"{"model_type": "granite", "hidden_size": 4096, "intermediate_size": 12800, "num_hidden_layers": 40,
                "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 49155,
                "max_position_embeddings": 131072, "tie_word_embeddings": true}"#),
            8.171,
            1e-3,
        ),
        (
            "granite-4.0-h-small",
            of(r#"{"model_type": "granitemoehybrid", "hidden_size": 4096, "intermediate_size": 768,
                "shared_intermediate_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 32,
                "num_key_value_heads": 8, "vocab_size": 100352, "num_local_experts": 72, "num_experts_per_tok": 10,
                "mamba_n_heads": 128, "mamba_d_head": 64, "mamba_n_groups": 1, "mamba_d_state": 128, "mamba_d_conv": 4,
                "mamba_expand": 2, "max_position_embeddings": 131072, "tie_word_embeddings": true, "layer_types": [
                "mamba", "mamba", "mamba", "mamba", "mamba", "attention", "mamba", "mamba", "mamba", "mamba",
                "mamba", "mamba", "mamba", "mamba", "mamba", "attention", "mamba", "mamba", "mamba", "mamba",
                "mamba", "mamba", "mamba", "mamba", "mamba", "attention", "mamba", "mamba", "mamba", "mamba",
                "mamba", "mamba", "mamba", "mamba", "mamba", "attention", "mamba", "mamba", "mamba", "mamba"]}"#),
            32.21,
            1e-2,
        ),
        (
            "falcon-40b",
            of(r#"{"model_type": "falcon", "hidden_size": 8192, "num_hidden_layers": 60, "num_attention_heads": 128,
                "num_kv_heads": 8, "new_decoder_architecture": true, "multi_query": true, "vocab_size": 65024}"#),
            41.303,
            2e-2,
        ),
        (
            "falcon-7b",
            of(r#"{"model_type": "falcon", "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71,
                "new_decoder_architecture": false, "multi_query": true, "vocab_size": 65024}"#),
            6.922,
            1e-2,
        ),
        (
            "opt-6.7b",
            of(r#"{"model_type": "opt", "hidden_size": 4096, "ffn_dim": 16384, "num_hidden_layers": 32,
                "num_attention_heads": 32, "vocab_size": 50272, "max_position_embeddings": 2048}"#),
            6.658,
            1e-2,
        ),
        (
            "gpt2",
            of(r#"{"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024,
                "n_ctx": 1024, "n_inner": null, "vocab_size": 50257}"#),
            0.124_4,
            1e-2,
        ),
        (
            "gpt-neox-20b",
            of(r#"{"model_type": "gpt_neox", "hidden_size": 6144, "intermediate_size": 24576, "num_hidden_layers": 44,
                "num_attention_heads": 64, "vocab_size": 50432, "max_position_embeddings": 2048,
                "tie_word_embeddings": false}"#),
            20.555,
            1e-2,
        ),
        (
            "glm-4-9b",
            of(r#"{"model_type": "chatglm", "hidden_size": 4096, "ffn_hidden_size": 13696, "num_layers": 40,
                "num_attention_heads": 32, "multi_query_attention": true, "multi_query_group_num": 2,
                "kv_channels": 128, "padded_vocab_size": 151552, "seq_length": 131072, "tie_word_embeddings": false}"#),
            9.400,
            2e-3,
        ),
        (
            "zai-org/GLM-4.5-Air",
            of(r#"{"model_type": "glm4_moe", "hidden_size": 4096, "intermediate_size": 10944, "num_hidden_layers": 46,
                "num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151552,
                "n_routed_experts": 128, "num_experts_per_tok": 8, "n_shared_experts": 1, "first_k_dense_replace": 1,
                "moe_intermediate_size": 1408, "max_position_embeddings": 131072, "tie_word_embeddings": false}"#),
            106.852,
            1e-3,
        ),
        (
            "MiniMax-Text-01",
            json!({"model_type": "minimax_text_01", "hidden_size": 6144, "intermediate_size": 9216,
                "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128,
                "vocab_size": 200064, "num_local_experts": 32, "num_experts_per_tok": 2,
                "max_position_embeddings": 10240000, "tie_word_embeddings": false,
                "attn_type_list": (1..=80).map(|i| u32::from(i % 8 == 0)).collect::<Vec<_>>()}),
            456.09,
            2e-3,
        ),
        (
            "MiniMaxAI/MiniMax-M2",
            of(
                r#"{"model_type": "minimax_m2", "hidden_size": 3072, "intermediate_size": 1536, "num_hidden_layers": 62,
                "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 200064,
                "num_local_experts": 256, "num_experts_per_tok": 8, "max_position_embeddings": 196608,
                "tie_word_embeddings": false}"#,
            ),
            228.69,
            1e-3,
        ),
        (
            "Nemotron-4-340B",
            of(
                r#"{"model_type": "nemotron", "hidden_size": 18432, "intermediate_size": 73728, "num_hidden_layers": 96,
                "num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 192, "vocab_size": 256000,
                "max_position_embeddings": 4096, "tie_word_embeddings": false}"#,
            ),
            341.0,
            1e-2,
        ),
        (
            "nvidia/Nemotron-H-8B-Base-8K",
            of(
                r#"{"model_type": "nemotron_h", "hidden_size": 4096, "intermediate_size": 21504, "num_hidden_layers": 52,
                "num_attention_heads": 32, "num_key_value_heads": 8, "attention_head_dim": 128, "vocab_size": 131072,
                "hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
                "mamba_num_heads": 128, "mamba_head_dim": 64, "n_groups": 8, "ssm_state_size": 128, "conv_kernel": 4,
                "max_position_embeddings": 8192, "tie_word_embeddings": false}"#,
            ),
            8.101,
            1e-3,
        ),
        (
            "Nemotron-3-Nano-30B-A3B",
            of(
                r#"{"model_type": "nemotron_h", "hidden_size": 2688, "intermediate_size": 1856, "num_hidden_layers": 52,
                "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "vocab_size": 131072,
                "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
                "mamba_num_heads": 64, "mamba_head_dim": 64, "n_groups": 8, "ssm_state_size": 128, "conv_kernel": 4,
                "n_routed_experts": 128, "num_experts_per_tok": 6, "n_shared_experts": 1, "moe_intermediate_size": 1856,
                "moe_shared_expert_intermediate_size": 3712, "max_position_embeddings": 262144,
                "tie_word_embeddings": false}"#,
            ),
            31.58,
            1e-2,
        ),
        (
            "internlm/internlm2-20b",
            of(
                r#"{"model_type": "internlm2", "hidden_size": 6144, "intermediate_size": 16384, "num_hidden_layers": 48,
                "num_attention_heads": 48, "num_key_value_heads": 8, "vocab_size": 92544,
                "max_position_embeddings": 32768, "tie_word_embeddings": false}"#,
            ),
            19.861,
            1e-3,
        ),
        (
            "Yi-34B",
            of(r#"{"model_type": "llama", "hidden_size": 7168, "intermediate_size": 20480, "num_hidden_layers": 60,
                "num_attention_heads": 56, "num_key_value_heads": 8, "vocab_size": 64000,
                "max_position_embeddings": 4096, "tie_word_embeddings": false}"#),
            34.389,
            1e-3,
        ),
        (
            "starcoder2-15b",
            of(
                r#"{"model_type": "starcoder2", "hidden_size": 6144, "intermediate_size": 24576, "num_hidden_layers": 40,
                "num_attention_heads": 48, "num_key_value_heads": 4, "vocab_size": 49152, "sliding_window": 4096,
                "max_position_embeddings": 16384, "tie_word_embeddings": false}"#,
            ),
            15.958,
            1e-2,
        ),
        (
            "c4ai-command-r-v01",
            of(r#"{"model_type": "cohere", "hidden_size": 8192, "intermediate_size": 22528, "num_hidden_layers": 40,
                "num_attention_heads": 64, "num_key_value_heads": 64, "vocab_size": 256000,
                "max_position_embeddings": 8192}"#),
            34.981,
            1e-3,
        ),
        (
            "OLMo-2-1124-7B",
            of(r#"{"model_type": "olmo2", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
                "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 100352,
                "max_position_embeddings": 4096, "tie_word_embeddings": false}"#),
            7.299,
            1e-3,
        ),
        (
            "ai21labs/Jamba-v0.1",
            of(r#"{"model_type": "jamba", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 65536, "num_experts": 16,
                "num_experts_per_tok": 2, "attn_layer_period": 8, "attn_layer_offset": 4, "expert_layer_period": 2,
                "expert_layer_offset": 1, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2,
                "mamba_dt_rank": 256, "max_position_embeddings": 262144, "tie_word_embeddings": false}"#),
            51.570,
            1e-3,
        ),
        (
            "HuggingFaceTB/SmolLM3-3B",
            of(r#"{"model_type": "smollm3", "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
                "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 128256, "use_sliding_window": false,
                "max_position_embeddings": 65536}"#),
            3.075,
            1e-3,
        ),
    ]
}

#[test]
fn parameters_are_those_that_are_published() {
    for (name, config, billions, off) in published() {
        let m = model(&config).unwrap_or_else(|e| panic!("{name}: {e}"));
        let error = (m.params_b / billions - 1.0).abs();
        assert!(error <= off, "{name}: {} instead of {billions}", m.params_b);
    }
}

#[test]
fn a_config_gives_the_facts_of_the_catalog() {
    let catalog = load(Path::new("/nonexistent")).unwrap();
    let mut compared = 0;
    for (name, config, ..) in published() {
        let Some(known) = catalog.models.get(name) else { continue };
        compared += 1;
        let m = model(&config).unwrap();
        // Totals of some entries count biases; sums are in another order.
        let close = |a: f64, b: f64| (a - b).abs() <= 0.03 * b;
        assert!(close(m.params_b, known.params_b) && close(m.active_b, known.active_b), "{name}: {m:?}");
        assert!((m.other_params_b - known.other_params_b).abs() < 1e-5, "{name}: {}", m.other_params_b);
        let (params_b, active_b, other_params_b) = (known.params_b, known.active_b, known.other_params_b);
        assert_eq!(ModelSpec { params_b, active_b, other_params_b, ..m }, *known, "{name}");
    }
    assert!(compared >= 20, "{compared}");
}

#[test]
fn heads_and_windows_are_as_the_architectures_have_them() {
    let of = |name: &str| model(&published().into_iter().find(|(n, ..)| *n == name).unwrap().1).unwrap();
    assert_eq!(of("falcon-7b").kv_heads, 1);
    assert_eq!(of("falcon-40b").kv_heads, 8);
    assert_eq!(of("glm-4-9b").kv_heads, 2);
    assert_eq!(of("gpt-neox-20b").kv_heads, 64);
    let window = |name: &str| (of(name).sliding_window, of(name).window_layers);
    assert_eq!(window("Phi-3-mini-4k"), (2_047, 32));
    assert_eq!(window("google/gemma-2-9b"), (4_096, 21));
    assert_eq!(window("google/gemma-3-27b-it"), (1_024, 52));
    assert_eq!(window("Qwen/Qwen2.5-7B-Instruct"), (0, 0));
    assert_eq!(window("starcoder2-15b"), (4_096, 40));
    let mut said = published().into_iter().find(|(n, ..)| *n == "openai/gpt-oss-20b").unwrap().1;
    said["layer_types"] = json!(vec!["full_attention"; 24]);
    said["layer_types"][0] = json!("sliding_attention");
    assert_eq!(model(&said).unwrap().window_layers, 1);
    let linear = |name: &str| (of(name).layers, of(name).linear_layers);
    assert_eq!(linear("Nemotron-3-Nano-30B-A3B"), (29, 23));
    assert_eq!(pipe_kernel::sim::facts::moe_layers(&of("Nemotron-3-Nano-30B-A3B")), 23.0);
    assert_eq!(linear("MiniMax-Text-01"), (80, 70));
    assert_eq!(linear("granite-4.0-h-small"), (40, 36));
}

#[test]
fn what_is_not_understood_is_refused_with_the_reason() {
    let good = || published().remove(0).1;
    let with = |key: &str, value: Value| {
        let mut config = good();
        config[key] = value;
        model(&config).unwrap_err()
    };
    assert!(
        with("model_type", json!("llamma"))
            .contains("`llamma` is no architecture that is known (did you mean `llama`?)")
    );
    assert!(with("model_type", json!("deepseek_v32")).contains("its attention reads a selection of the context"));
    assert!(with("model_type", json!("mamba")).contains("no cache that grows"));
    assert_eq!(with("model_type", Value::Null), "has no `model_type`");
    assert_eq!(
        with("num_hidden_layers", Value::Null),
        "has no `num_hidden_layers` or `n_layer` or `num_layers` or `n_layers`"
    );
    assert_eq!(with("hidden_size", json!(-1)), "`hidden_size` must be a whole number, is -1");
    assert_eq!(with("hidden_size", json!("4k")), "`hidden_size` must be a whole number, is \"4k\"");
    assert_eq!(with("num_attention_heads", json!(0)), "`num_attention_heads` is 0");
    assert!(with("layer_types", json!(["full_attention", "linear_attention"])).contains("`linear_attention`"));
    assert!(model(&json!([1])).is_err());
    let mut odd = published().into_iter().find(|(n, ..)| *n == "Qwen/Qwen3-30B-A3B").unwrap().1;
    odd["mlp_only_layers"] = json!([5]);
    assert!(model(&odd).unwrap_err().contains("mlp_only_layers"));
    odd["mlp_only_layers"] = json!([0, 1]);
    assert_eq!(model(&odd).unwrap().first_dense, 2);
}
