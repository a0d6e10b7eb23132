//! Parts that several architectures are made of.

mod decoder;
mod mla;
mod moe;
mod rope;

pub(super) use decoder::{Decoder, DecoderLayer};
pub(crate) use mla::EXPANDED_ROWS;
pub(super) use mla::{LowRankQuery, Mla, MlaBuffers, QueryProjection};
pub(super) use moe::{Experts, Moe, MoeBuffers, Router};
pub(super) use rope::{rope_table, softmax_factor};

use levain_weights::ModelConfig;

/// The widest input that any product of the model has.
pub(crate) fn cols_max(config: &ModelConfig) -> usize {
    let heads = config.num_attention_heads * config.head_dim;
    let mla = config.mla.as_ref().map_or(0, |mla| {
        (config.num_attention_heads * mla.v_head_dim).max(mla.q_lora_rank.unwrap_or(0)).max(mla.kv_lora_rank)
    });
    config.hidden_size.max(config.intermediate_size).max(heads).max(mla)
}

/// Multiplications that a position before a row adds, as part of those that the row takes with nothing before it.
/// About: it serves as a first guess at time.
pub(crate) fn attention_part(config: &ModelConfig) -> f64 {
    let [hidden, heads] = [config.hidden_size, config.num_attention_heads].map(|n| n as f64);
    let head = match &config.mla {
        Some(mla) => (2 * mla.kv_lora_rank + mla.qk_rope_head_dim) as f64,
        None => 2.0 * config.head_dim as f64,
    };
    let width = match &config.moe {
        Some(moe) => {
            (moe.num_experts_per_tok + moe.n_shared_experts) as f64 * moe.moe_intermediate_size as f64
        }
        None => config.intermediate_size as f64,
    };
    heads * head / (hidden * (3.0 * width + 4.0 * hidden)).max(1.0)
}
