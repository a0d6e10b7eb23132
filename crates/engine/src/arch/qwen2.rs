//! Qwen2 and Qwen2.5, and R1's distilled Qwen models: Llama's blocks with biases on q, k and v but not on o.

use levain_weights::ModelConfig;

use super::common::{Decoder, DecoderLayer, rope_table};
use super::loader::Loader;
use crate::error::EngineError;

/// Loads the layers for steps of up to `rows_max` rows and positions below `context_length`.
pub(super) fn load(
    loader: &mut Loader<'_>,
    config: &ModelConfig,
    rows_max: usize,
    context_length: usize,
) -> Result<Decoder, EngineError> {
    let hidden = config.hidden_size;
    let (q_dim, kv_dim) =
        (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
    let mut layers = Vec::with_capacity(config.num_hidden_layers);
    for index in 0..config.num_hidden_layers {
        let p = format!("model.layers.{index}");
        layers.push(DecoderLayer {
            input_layernorm: loader.norm(&format!("{p}.input_layernorm"), hidden, config.rms_norm_eps)?,
            q_proj: loader.linear(&format!("{p}.self_attn.q_proj"), q_dim, hidden, true)?,
            k_proj: loader.linear(&format!("{p}.self_attn.k_proj"), kv_dim, hidden, true)?,
            v_proj: loader.linear(&format!("{p}.self_attn.v_proj"), kv_dim, hidden, true)?,
            o_proj: loader.linear(&format!("{p}.self_attn.o_proj"), hidden, q_dim, false)?,
            post_attention_layernorm: loader.norm(
                &format!("{p}.post_attention_layernorm"),
                hidden,
                config.rms_norm_eps,
            )?,
            mlp: loader.gated_mlp(&format!("{p}.mlp"), hidden, config.intermediate_size)?,
        });
    }
    Ok(Decoder::new(layers, rope_table(&config.rope, context_length)?, config, rows_max))
}
