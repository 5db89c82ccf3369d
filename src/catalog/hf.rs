//! A model from the `config.json` that Hugging Face publishes with it.
//!
//! Promises: the facts that [`ModelSpec`] can hold, with parameters counted from the sizes; an architecture that it does not
//! know, or whose shape does not fit, is refused with the reason. Leaves out: encoders of images and sound (their
//! weights are a few percent, and no token of text passes them), layers that predict several tokens, biases, and the
//! number format of the weights, which is the deployment's. Sizes are read under the names that the architectures'
//! own implementations in `transformers` use, and where a file leaves one out, its default there counts.

use std::path::{Path, PathBuf};

use serde_json::Value;

use pipe_kernel::scenario::{Mla, ModelSpec};
use pipe_kernel::sim::facts;

use super::hybrid;
use crate::diag::Diagnostic;

/// The path of a `config.json`, where `name` is one and no name of a model: it ends in `.json`, or begins as a path does.
pub fn path_of(name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    let json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
    (json || name.starts_with('.') || path.is_absolute()).then(|| path.to_path_buf())
}

/// The facts in a `config.json`, or in that of a folder.
///
/// # Errors
/// No such file, no JSON, or a model that is not understood, without a place.
pub fn read(path: &Path) -> Result<ModelSpec, Diagnostic> {
    let file = if path.is_dir() { path.join("config.json") } else { path.to_path_buf() };
    let wrong = |why: String| Diagnostic::new("catalog::config", format!("`{}`: {why}", file.display()));
    let text = std::fs::read_to_string(&file).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Diagnostic::new("catalog::config", format!("no file `{}`", file.display()))
            .help("give the config.json of a model on Hugging Face, or the folder that it lies in"),
        _ => wrong(format!("cannot be read: {e}")),
    })?;
    let config: Value = serde_json::from_str(&text).map_err(|e| wrong(format!("is not JSON: {e}")))?;
    model(&config).map_err(|why| {
        wrong(why).help("or write its facts as an entry of the project's data/catalog/models.yaml, see the README")
    })
}

/// How the architectures differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// Attention and a gated feed-forward network (Llama).
    Gated,
    /// The same with two matrices in the feed-forward network (GPT).
    Plain,
    /// Every layer a mixture of gated experts, which have the size of the model's feed-forward network (Mixtral).
    Mixtral,
    /// A mixture whose experts have a size of their own (Qwen, DeepSeek, GLM).
    Experts,
    Llama4,
    /// Layers of attention and of something else.
    Hybrid,
}

/// `model_type`, family, whether the embedding is the output matrix where the file does not say.
const KNOWN: &[(&str, Family, bool)] = &[
    ("aquila", Family::Gated, false),
    ("arcee", Family::Plain, false),
    ("apertus", Family::Plain, false),
    ("baichuan", Family::Gated, false),
    ("bamba", Family::Hybrid, false),
    ("bloom", Family::Plain, true),
    ("chatglm", Family::Gated, false),
    ("cohere", Family::Gated, true),
    ("cohere2", Family::Gated, true),
    ("deepseek_v2", Family::Experts, false),
    ("deepseek_v3", Family::Experts, false),
    ("dots1", Family::Experts, false),
    ("ernie4_5", Family::Gated, true),
    ("ernie4_5_moe", Family::Experts, true),
    ("exaone", Family::Gated, false),
    ("exaone4", Family::Gated, false),
    ("falcon", Family::Plain, true),
    ("gemma", Family::Gated, true),
    ("gemma2", Family::Gated, true),
    ("gemma3", Family::Gated, true),
    ("gemma3_text", Family::Gated, true),
    ("glm", Family::Gated, false),
    ("glm4", Family::Gated, false),
    ("glm4_moe", Family::Experts, false),
    ("gpt2", Family::Plain, true),
    ("gpt_bigcode", Family::Plain, true),
    ("gpt_neo", Family::Plain, true),
    ("gpt_neox", Family::Plain, false),
    ("gpt_oss", Family::Mixtral, false),
    ("gptj", Family::Plain, false),
    ("granite", Family::Gated, false),
    ("granitemoe", Family::Mixtral, false),
    ("granitemoehybrid", Family::Hybrid, false),
    ("internlm", Family::Gated, false),
    ("internlm2", Family::Gated, false),
    ("internlm3", Family::Gated, false),
    ("jamba", Family::Hybrid, false),
    ("kimi_k2", Family::Experts, false),
    ("llama", Family::Gated, false),
    ("llama4", Family::Llama4, false),
    ("llama4_text", Family::Llama4, false),
    ("minicpm", Family::Gated, false),
    ("minimax", Family::Hybrid, false),
    ("minimax_m1", Family::Hybrid, false),
    ("minimax_m2", Family::Mixtral, false),
    ("minimax_text_01", Family::Hybrid, false),
    ("mistral", Family::Gated, false),
    ("mixtral", Family::Mixtral, false),
    ("mpt", Family::Plain, true),
    ("nemotron", Family::Plain, false),
    ("nemotron_h", Family::Hybrid, false),
    ("olmo", Family::Gated, false),
    ("olmo2", Family::Gated, false),
    ("olmo3", Family::Gated, false),
    ("olmoe", Family::Mixtral, false),
    ("opt", Family::Plain, true),
    ("phi", Family::Plain, false),
    ("phi3", Family::Gated, false),
    ("phimoe", Family::Mixtral, false),
    ("qwen", Family::Gated, false),
    ("qwen2", Family::Gated, false),
    ("qwen2_5_vl", Family::Gated, false),
    ("qwen2_moe", Family::Experts, false),
    ("qwen2_vl", Family::Gated, false),
    ("qwen3", Family::Gated, false),
    ("qwen3_moe", Family::Experts, false),
    ("qwen3_next", Family::Hybrid, false),
    ("qwen3_vl_moe_text", Family::Experts, false),
    ("qwen3_vl_text", Family::Gated, false),
    ("seed_oss", Family::Gated, false),
    ("smollm3", Family::Gated, true),
    ("stablelm", Family::Gated, false),
    ("starcoder2", Family::Plain, true),
    ("yi", Family::Gated, false),
];

/// Architectures that are well known, and what of them a [`ModelSpec`] cannot say.
const REFUSED: &[(&str, &str)] = &[
    ("deepseek_v32", "its attention reads a selection of the context (index_topk)"),
    ("deepseek_v4", "its attention reads a selection of the context"),
    ("falcon_h1", "its layers have attention and a state space side by side"),
    ("gemma3n", "its layers have embeddings of their own and share caches"),
    ("glm_moe_dsa", "its attention reads a selection of the context (index_topk)"),
    ("mamba", "it has no attention, and so no cache that grows"),
    ("mamba2", "it has no attention, and so no cache that grows"),
    ("nemotron-nas", "its layers have different sizes (block_configs)"),
    ("phi3small", "its attention reads blocks of the context only"),
    ("rwkv", "it has no attention, and so no cache that grows"),
    ("t5", "it is an encoder and a decoder"),
    ("whisper", "it is an encoder and a decoder"),
];

/// Numbers and lists of a config, by any of several names.
#[derive(Clone, Copy)]
pub(super) struct Config<'a>(pub &'a Value);

impl<'a> Config<'a> {
    fn value(self, names: &[&str]) -> Option<&'a Value> {
        names.iter().filter_map(|n| self.0.get(n)).find(|v| !v.is_null())
    }

    /// A whole number from 0, the first that is there.
    pub fn number(self, names: &[&str]) -> Result<Option<u32>, String> {
        let Some(value) = self.value(names) else { return Ok(None) };
        let number = value.as_u64().and_then(|n| u32::try_from(n).ok());
        number.map(Some).ok_or_else(|| format!("`{}` must be a whole number, is {value}", names[0]))
    }

    pub fn need(self, names: &[&str]) -> Result<u32, String> {
        match self.number(names)? {
            Some(0) => Err(format!("`{}` is 0", names[0])),
            Some(n) => Ok(n),
            None => Err(format!("has no `{}`", names.join("` or `"))),
        }
    }

    pub fn or(self, names: &[&str], default: u32) -> Result<u32, String> {
        Ok(self.number(names)?.unwrap_or(default))
    }

    pub fn flag(self, name: &str) -> Option<bool> {
        self.value(&[name]).and_then(Value::as_bool)
    }

    pub fn text(self, name: &str) -> Option<&'a str> {
        self.value(&[name]).and_then(Value::as_str)
    }

    pub fn list(self, name: &str) -> Option<&'a [Value]> {
        self.value(&[name]).and_then(Value::as_array).map(Vec::as_slice)
    }
}

/// The facts in a config.
///
/// # Errors
/// Why there are none.
pub fn model(config: &Value) -> Result<ModelSpec, String> {
    if !config.is_object() {
        return Err("is not the config of a model: no map".to_string());
    }
    // Models that see or hear have the part that speaks in a map of its own.
    let inner = ["text_config", "llm_config", "language_config"].iter().find_map(|k| config.get(k));
    let c = Config(inner.filter(|v| v.is_object()).unwrap_or(config));
    let kind = c.text("model_type").or_else(|| Config(config).text("model_type"));
    let Some(kind) = kind else { return Err("has no `model_type`".to_string()) };
    let kind = kind.to_lowercase();
    if let Some((_, why)) = REFUSED.iter().find(|(k, _)| *k == kind) {
        return Err(format!("`{kind}` does not fit into the facts of a model: {why}"));
    }
    let Some((_, family, tied)) = KNOWN.iter().find(|(k, ..)| *k == kind) else {
        let known: Vec<&str> = KNOWN.iter().map(|(k, ..)| *k).collect();
        let near = crate::diag::nearest(&kind, known.iter().copied());
        let near = near.map_or_else(String::new, |n| format!(" (did you mean `{n}`?)"));
        return Err(format!("`{kind}` is no architecture that is known{near}; known are {}", known.join(", ")));
    };
    let tied = c.flag("tie_word_embeddings").or_else(|| Config(config).flag("tie_word_embeddings")).unwrap_or(*tied);
    let mut m = dense(c, &kind, tied)?;
    match family {
        Family::Gated => {}
        Family::Plain => m.mlp_matrices = 2,
        Family::Mixtral => {
            m.experts = c.need(&["num_local_experts", "num_experts"])?;
            m.top_k = c.need(&["num_experts_per_tok", "experts_per_token"])?;
            m.moe_intermediate = m.intermediate;
        }
        Family::Experts => experts(c, &mut m)?,
        Family::Llama4 => llama4(c, &mut m)?,
        Family::Hybrid => hybrid::layers(c, &kind, &mut m)?,
    }
    if *family != Family::Hybrid {
        windows(c, &kind, &mut m)?;
    }
    m.kv_shared_layers = c.or(&["num_kv_shared_layers"], 0)?;
    let billions = |params: f64| (params / 1e6).round() / 1e3;
    (m.params_b, m.active_b) = (billions(facts::params(&m)), billions(facts::active_params(&m)));
    Ok(m)
}

/// What all architectures have.
fn dense(c: Config, kind: &str, tied: bool) -> Result<ModelSpec, String> {
    let gemma3 = kind.starts_with("gemma3");
    let hidden = c.need(&["hidden_size", "n_embd", "d_model", "n_embed"])?;
    let heads = c.number(&["num_attention_heads", "n_head", "n_heads", "num_heads"])?;
    let heads = match heads.or(gemma3.then_some(8)) {
        Some(n) if n > 0 => n,
        Some(_) | None => c.need(&["num_attention_heads", "n_head"])?,
    };
    let head_dim = c.number(&["head_dim", "kv_channels", "attention_head_dim"])?.filter(|n| *n > 0);
    let default = match kind {
        "gemma" | "gemma2" | "gemma3" | "gemma3_text" => 256,
        _ => hidden / heads,
    };
    let intermediate = c.number(&["intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "intermediate_dim"])?;
    let intermediate = match intermediate.filter(|n| *n > 0) {
        // The file counts both halves of the gated matrix.
        Some(n) if kind == "qwen" => n / 2,
        Some(n) => n,
        None if kind == "mpt" => hidden * c.or(&["expansion_ratio"], 4)?,
        None if matches!(kind, "gpt2" | "gpt_bigcode" | "gpt_neo" | "gptj" | "bloom" | "falcon") => 4 * hidden,
        None => c.need(&["intermediate_size", "ffn_dim", "n_inner"])?,
    };
    let vocab = c.number(&["vocab_size", "padded_vocab_size"])?.or(gemma3.then_some(262_208));
    let max_pos = [
        "max_position_embeddings",
        "n_positions",
        "seq_length",
        "max_seq_len",
        "model_max_length",
        "max_sequence_length",
    ];
    let max_pos = match c.number(&max_pos)? {
        Some(n) if n > 0 => n,
        Some(_) | None if gemma3 => 131_072,
        // No table of positions, and no limit but what it was trained with.
        Some(_) | None if matches!(kind, "bloom" | "falcon") => 2_048,
        Some(_) | None => c.need(&max_pos)?,
    };
    Ok(ModelSpec {
        layers: c.need(&["num_hidden_layers", "n_layer", "num_layers", "n_layers"])?,
        hidden,
        intermediate,
        heads,
        kv_heads: kv_heads(c, kind, heads)?,
        head_dim: head_dim.unwrap_or(default),
        vocab: vocab.filter(|n| *n > 0).map_or_else(|| c.need(&["vocab_size", "padded_vocab_size"]), Ok)?,
        max_pos,
        mlp_matrices: 3,
        tied_embeddings: tied,
        experts: 0,
        top_k: 0,
        shared_experts: 0,
        moe_intermediate: 0,
        first_dense: 0,
        moe_every: 1,
        sliding_window: 0,
        window_layers: 0,
        linear_layers: 0,
        state_bytes: 0,
        kv_shared_layers: 0,
        other_params_b: 0.0,
        mla: None,
        params_b: 0.0,
        active_b: 0.0,
    })
}

fn kv_heads(c: Config, kind: &str, heads: u32) -> Result<u32, String> {
    let said = c.number(&["num_key_value_heads", "multi_query_group_num", "num_kv_heads"])?.filter(|n| *n > 0);
    Ok(match kind {
        "gemma3" | "gemma3_text" => said.unwrap_or(4),
        // Falcon: several key-value heads only in its newer form.
        "falcon" if c.flag("new_decoder_architecture") == Some(true) => said.unwrap_or(heads),
        "falcon" | "gpt_bigcode" => {
            if c.flag("multi_query").unwrap_or(true) {
                1
            } else {
                heads
            }
        }
        "mpt" => {
            let own = c.0.get("attn_config").map(|a| Config(a).number(&["kv_n_heads"])).transpose()?.flatten();
            own.or(said).unwrap_or(heads)
        }
        "chatglm" if c.flag("multi_query_attention") == Some(false) => heads,
        _ => said.unwrap_or(heads),
    })
}

/// Mixtures whose experts have a size of their own; latent attention, where there is some.
fn experts(c: Config, m: &mut ModelSpec) -> Result<(), String> {
    if let Some(kv_rank) = c.number(&["kv_lora_rank"])?.filter(|n| *n > 0) {
        let mla = Mla {
            q_rank: c.or(&["q_lora_rank"], 0)?,
            kv_rank,
            nope_dim: c.need(&["qk_nope_head_dim"])?,
            rope_dim: c.need(&["qk_rope_head_dim"])?,
            v_dim: c.need(&["v_head_dim"])?,
        };
        m.head_dim = mla.nope_dim + mla.rope_dim;
        m.kv_heads = m.heads;
        m.mla = Some(mla);
    }
    m.experts = c.need(&["num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"])?;
    m.top_k = c.need(&["num_experts_per_tok", "moe_k", "moe_topk"])?;
    m.moe_intermediate = c.need(&["moe_intermediate_size"])?;
    m.shared_experts = match c.number(&["shared_expert_intermediate_size"])?.filter(|n| *n > 0) {
        Some(size) => shared(size, m.moe_intermediate)?,
        None => c.or(&["n_shared_experts", "moe_num_shared_experts", "num_shared_experts"], 0)?,
    };
    m.first_dense = c.or(&["first_k_dense_replace", "moe_layer_start_index"], 0)?;
    let step = c.or(&["decoder_sparse_step", "moe_layer_freq", "moe_layer_interval"], 1);
    m.moe_every = step.map_err(|_| "mixture layers in no regular order do not fit into the facts of a model")?.max(1);
    if let Some(dense) = c.list("mlp_only_layers").filter(|l| !l.is_empty()) {
        let first = dense.iter().zip(0u64..).all(|(layer, i)| layer.as_u64() == Some(i));
        if !first || m.moe_every > 1 {
            return Err("dense layers (`mlp_only_layers`) that are not the first ones do not fit".to_string());
        }
        m.first_dense = dense.len() as u32;
    }
    Ok(())
}

/// Shared experts of a total size, as experts of the size of the others.
pub(super) fn shared(size: u32, of: u32) -> Result<u32, String> {
    match size.is_multiple_of(of.max(1)) {
        true => Ok(size / of.max(1)),
        false => Err(format!("shared experts of {size} are no multiple of one expert, {of}: they do not fit")),
    }
}

fn llama4(c: Config, m: &mut ModelSpec) -> Result<(), String> {
    m.moe_intermediate = m.intermediate;
    m.intermediate = c.or(&["intermediate_size_mlp"], m.intermediate)?;
    m.experts = c.need(&["num_local_experts"])?;
    m.top_k = c.need(&["num_experts_per_tok"])?;
    m.shared_experts = 1;
    m.moe_every = c.or(&["interleave_moe_layer_step"], 1)?.max(1);
    Ok(())
}

/// Which layers look back to the beginning, and which have a window.
fn windows(c: Config, kind: &str, m: &mut ModelSpec) -> Result<(), String> {
    if c.flag("use_sliding_window") == Some(false) {
        return Ok(());
    }
    let window = c.or(&["sliding_window", "attention_chunk_size"], 0)?;
    let types = c.list("layer_types").map(|types| types.iter().filter_map(Value::as_str).collect::<Vec<_>>());
    let every = |n: u32| m.layers - m.layers / n.max(1);
    let window_layers = if let Some(types) = types.filter(|t| !t.is_empty()) {
        let known = ["full_attention", "sliding_attention", "chunked_attention"];
        if let Some(other) = types.iter().find(|t| !known.contains(t)) {
            return Err(format!("layers of `{other}` in `{kind}` do not fit into the facts of a model"));
        }
        types.iter().filter(|t| **t != "full_attention").count() as u32
    } else {
        match kind {
            "gemma2" => m.layers.div_ceil(2),
            "gemma3" | "gemma3_text" => every(c.or(&["sliding_window_pattern"], 6)?),
            "cohere2" | "olmo3" => every(c.or(&["sliding_window_pattern"], 4)?),
            "exaone4" => every(c.text("sliding_window_pattern").map_or(4, |p| p.len() as u32)),
            "llama4" | "llama4_text" => every(c.or(&["no_rope_layer_interval"], 4)?),
            "gpt_oss" => m.layers.div_ceil(2),
            "qwen2" | "qwen3" | "qwen2_moe" | "qwen3_moe" if c.flag("use_sliding_window").is_none() => 0,
            "qwen2" | "qwen3" | "qwen2_moe" | "qwen3_moe" => {
                m.layers.saturating_sub(c.or(&["max_window_layers"], m.layers)?)
            }
            "mistral" | "mixtral" | "phi3" | "phimoe" | "starcoder2" => m.layers,
            _ => 0,
        }
    };
    // Where the files leave the window out.
    let window = match kind {
        "gemma2" | "gemma3" | "gemma3_text" if window == 0 => 4_096,
        "llama4" | "llama4_text" if window == 0 => 8_192,
        _ => window,
    };
    if window > 0 && window_layers > 0 && window < m.max_pos {
        (m.sliding_window, m.window_layers) = (window, window_layers.min(m.layers));
    }
    Ok(())
}
