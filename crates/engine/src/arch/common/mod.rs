//! Parts that several architectures are made of.

mod decoder;
mod mla;
mod moe;
mod rope;

pub(super) use decoder::{Decoder, DecoderLayer};
pub(super) use mla::{Mla, MlaBuffers, QueryProjection};
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
