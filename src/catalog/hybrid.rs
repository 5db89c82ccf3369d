//! Models whose layers are not all attention: which are, and how many parameters the others have.
//!
//! A layer of linear attention or of a state space has a cache of constant size, which no plan counts. Its parameters are
//! counted here, as the implementations in `transformers` lay them out, and kept as one number in the facts.

use serde_json::Value;

use pipe_kernel::scenario::ModelSpec;

use super::hf::{Config, shared};

/// Fills in what a hybrid has beside its attention.
///
/// # Errors
/// What does not fit.
pub(super) fn layers(c: Config, kind: &str, m: &mut ModelSpec) -> Result<(), String> {
    match kind {
        "jamba" => jamba(c, m),
        "bamba" => bamba(c, m),
        "granitemoehybrid" => granite(c, m),
        "nemotron_h" => nemotron(c, m),
        "qwen3_next" => qwen3_next(c, m),
        // MiniMax-Text-01 and M1.
        _ => minimax(c, m),
    }
}

/// Layers of the kinds in `names`, by `layer_types`.
fn of_types(c: Config, names: &[&str]) -> Option<u32> {
    let types = c.list("layer_types").filter(|t| !t.is_empty())?;
    Some(types.iter().filter_map(Value::as_str).filter(|t| names.contains(t)).count() as u32)
}

/// Layers from 0 whose number has that remainder.
fn periodic(layers: u32, period: u32, offset: u32) -> u32 {
    (0..layers).filter(|i| i % period.max(1) == offset).count() as u32
}

/// Parameters of a Mamba layer of the first kind.
fn mamba(c: Config, d: f64) -> Result<f64, String> {
    let inner = f64::from(c.or(&["mamba_expand"], 2)?) * d;
    let state = f64::from(c.or(&["mamba_d_state"], 16)?);
    let conv = f64::from(c.or(&["mamba_d_conv"], 4)?);
    let rank = c.number(&["mamba_dt_rank"]).ok().flatten().map_or_else(|| (d / 16.0).ceil(), f64::from);
    let projections = d * 2.0 * inner + inner * (rank + 2.0 * state) + (rank + 1.0) * inner + inner * d;
    Ok(projections + inner * (conv + 1.0) + inner * (state + 1.0))
}

/// Parameters of a Mamba-2 layer: `heads` of `width` together, groups, and state.
fn mamba2(d: f64, heads: u32, inner: u32, groups: u32, state: u32, conv: u32) -> f64 {
    let (heads, inner, shared) = (f64::from(heads), f64::from(inner), 2.0 * f64::from(groups) * f64::from(state));
    d * (2.0 * inner + shared + heads) + (inner + shared) * f64::from(conv + 1) + 3.0 * heads + inner + inner * d
}

/// Billions of parameters of Mamba-2 layers under the names that Bamba and Granite use, and the bytes of a state.
fn mamba2_named(c: Config, d: u32, layers: u32) -> Result<(f64, u32), String> {
    let (heads, expand) = (c.need(&["mamba_n_heads"])?, c.or(&["mamba_expand"], 2)?);
    let inner = match c.number(&["mamba_d_head"]) {
        Ok(Some(width)) => width * heads,
        Ok(None) | Err(_) => expand * d,
    };
    let (groups, state) = (c.or(&["mamba_n_groups"], 1)?, c.need(&["mamba_d_state"])?);
    let conv = c.or(&["mamba_d_conv"], 4)?;
    let params = billions(layers, mamba2(f64::from(d), heads, inner, groups, state, conv));
    Ok((params, state_bytes(inner, state, inner + 2 * groups * state, conv)))
}

/// Bytes that a linear layer holds of a request, in numbers of two bytes, which is vLLM's default for 16-bit models: a state
/// of `size` for each of `width` channels, and the last inputs of `convolved` channels of its convolution.
fn state_bytes(width: u32, size: u32, convolved: u32, conv: u32) -> u32 {
    2 * (width * size + convolved * conv.saturating_sub(1))
}

fn billions(layers: u32, params: f64) -> f64 {
    f64::from(layers) * params / 1e9
}

fn jamba(c: Config, m: &mut ModelSpec) -> Result<(), String> {
    let attention = periodic(m.layers, c.or(&["attn_layer_period"], 8)?, c.or(&["attn_layer_offset"], 4)?);
    m.linear_layers = m.layers - attention;
    m.other_params_b = billions(m.linear_layers, mamba(c, f64::from(m.hidden))?);
    let inner = c.or(&["mamba_expand"], 2)? * m.hidden;
    m.state_bytes = state_bytes(inner, c.or(&["mamba_d_state"], 16)?, inner, c.or(&["mamba_d_conv"], 4)?);
    m.experts = c.or(&["num_experts"], 16)?;
    if m.experts < 2 {
        m.experts = 0;
        return Ok(());
    }
    m.top_k = c.or(&["num_experts_per_tok"], 2)?;
    m.moe_intermediate = m.intermediate;
    m.moe_every = c.or(&["expert_layer_period"], 2)?.max(1);
    let mixtures = periodic(m.layers, m.moe_every, c.or(&["expert_layer_offset"], 1)?);
    if mixtures != m.layers / m.moe_every {
        return Err(format!("{mixtures} mixture layers of {}, one in {}, do not fit", m.layers, m.moe_every));
    }
    Ok(())
}

fn bamba(c: Config, m: &mut ModelSpec) -> Result<(), String> {
    let attention = c.list("attn_layer_indices").map_or(0, |l| l.len() as u32);
    m.linear_layers = m.layers.saturating_sub(attention);
    (m.other_params_b, m.state_bytes) = mamba2_named(c, m.hidden, m.linear_layers)?;
    Ok(())
}

fn granite(c: Config, m: &mut ModelSpec) -> Result<(), String> {
    m.linear_layers = of_types(c, &["mamba"]).ok_or("has no `layer_types`")?;
    if m.linear_layers > 0 {
        (m.other_params_b, m.state_bytes) = mamba2_named(c, m.hidden, m.linear_layers)?;
    }
    let beside = c.or(&["shared_intermediate_size"], 0)?;
    m.experts = c.or(&["num_local_experts"], 0)?;
    if m.experts == 0 {
        // What is shared is all.
        m.intermediate = if beside > 0 { beside } else { m.intermediate };
        return Ok(());
    }
    m.top_k = c.need(&["num_experts_per_tok"])?;
    m.moe_intermediate = m.intermediate;
    m.shared_experts = shared(beside, m.moe_intermediate)?;
    Ok(())
}

/// Every layer is a state space (M), attention (*), a feed-forward network (-) or a mixture (E) alone. What mixes tokens
/// is a layer here; feed-forward networks are as many as they are, and count as parameters that every token passes.
fn nemotron(c: Config, m: &mut ModelSpec) -> Result<(), String> {
    let pattern = c.text("hybrid_override_pattern").ok_or("has no `hybrid_override_pattern`")?;
    let count = |kind: char| pattern.chars().filter(|k| *k == kind).count() as u32;
    let (states, attention, networks, mixtures) = (count('M'), count('*'), count('-'), count('E'));
    let all = states + attention + networks + mixtures;
    if all as usize != pattern.chars().count() || all != m.layers {
        return Err(format!("`hybrid_override_pattern` has layers other than M, *, - and E, or not {}", m.layers));
    }
    let heads = c.need(&["mamba_num_heads"])?;
    let (inner, groups) = (heads * c.need(&["mamba_head_dim"])?, c.need(&["n_groups"])?);
    let conv = c.or(&["conv_kernel"], 4)?;
    let state = mamba2(f64::from(m.hidden), heads, inner, groups, c.need(&["ssm_state_size"])?, conv);
    let (groups, size) = (c.need(&["n_groups"])?, c.need(&["ssm_state_size"])?);
    m.state_bytes = state_bytes(inner, size, inner + 2 * groups * size, conv);
    m.mlp_matrices = 2;
    let network = 2.0 * f64::from(m.hidden) * f64::from(m.intermediate);
    m.other_params_b = billions(states, state) + billions(networks, network);
    (m.layers, m.linear_layers, m.intermediate) = (states + attention, states, 0);
    if mixtures == 0 {
        return Ok(());
    }
    if mixtures > m.layers {
        return Err("more mixtures than layers that mix tokens do not fit".to_string());
    }
    m.experts = c.need(&["n_routed_experts"])?;
    m.top_k = c.need(&["num_experts_per_tok"])?;
    m.moe_intermediate = c.need(&["moe_intermediate_size"])?;
    m.first_dense = m.layers - mixtures;
    m.shared_experts = match c.number(&["moe_shared_expert_intermediate_size"])? {
        Some(size) => shared(size * c.or(&["n_shared_experts"], 1)?, m.moe_intermediate)?,
        None => c.or(&["n_shared_experts"], 0)?,
    };
    Ok(())
}

/// Three of four layers are gated delta networks; attention has a gate as wide as its queries.
fn qwen3_next(c: Config, m: &mut ModelSpec) -> Result<(), String> {
    let every = c.or(&["full_attention_interval"], 4)?.max(1);
    m.linear_layers = of_types(c, &["linear_attention"]).unwrap_or(m.layers - m.layers / every);
    let d = f64::from(m.hidden);
    let (value_heads, key_heads) = (c.need(&["linear_num_value_heads"])?, c.need(&["linear_num_key_heads"])?);
    let keys = f64::from(key_heads) * f64::from(c.need(&["linear_key_head_dim"])?);
    let values = f64::from(value_heads) * f64::from(c.need(&["linear_value_head_dim"])?);
    let conv = f64::from(c.or(&["linear_conv_kernel_dim"], 4)?);
    m.state_bytes =
        state_bytes(values as u32, c.need(&["linear_key_head_dim"])?, (2.0 * keys + values) as u32, conv as u32);
    let linear = d * (2.0 * keys + 2.0 * values + 2.0 * f64::from(value_heads))
        + (2.0 * keys + values) * conv
        + values * d
        + 2.0 * f64::from(value_heads);
    let gate = d * f64::from(m.heads) * f64::from(m.head_dim);
    m.other_params_b = billions(m.linear_layers, linear) + billions(m.layers - m.linear_layers, gate);
    m.experts = c.need(&["num_experts"])?;
    m.top_k = c.need(&["num_experts_per_tok"])?;
    m.moe_intermediate = c.need(&["moe_intermediate_size"])?;
    m.shared_experts = shared(c.or(&["shared_expert_intermediate_size"], 0)?, m.moe_intermediate)?;
    m.moe_every = c.or(&["decoder_sparse_step"], 1)?.max(1);
    Ok(())
}

/// Lightning attention in seven of eight layers: queries, keys, values, a gate and the output, each of all heads.
fn minimax(c: Config, m: &mut ModelSpec) -> Result<(), String> {
    let linear = match c.list("attn_type_list") {
        Some(types) => types.iter().filter(|t| t.as_u64() == Some(0)).count() as u32,
        None => of_types(c, &["linear_attention"]).ok_or("has no `attn_type_list`")?,
    };
    let width = f64::from(m.heads) * f64::from(m.head_dim);
    m.linear_layers = linear;
    m.state_bytes = state_bytes(width as u32, m.head_dim, 0, 1);
    m.other_params_b = billions(linear, 5.0 * f64::from(m.hidden) * width);
    m.experts = c.need(&["num_local_experts"])?;
    m.top_k = c.need(&["num_experts_per_tok"])?;
    m.moe_intermediate = m.intermediate;
    Ok(())
}
