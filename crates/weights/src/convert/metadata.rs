//! The model description as GGUF metadata.

use crate::config::{ModelConfig, ModelType, RopeScaling, ScoringFunc};
use crate::convert::MlaLayout;
use crate::gguf::{GgufWriter, MetadataValue};

/// The name GGUF has for an architecture.
pub(crate) fn architecture(model_type: ModelType) -> &'static str {
    match model_type {
        ModelType::Llama => "llama",
        ModelType::Qwen2 => "qwen2",
        ModelType::DeepseekV2 | ModelType::DeepseekV3 => "deepseek2",
    }
}

/// Sets all keys that a loader needs.
pub(crate) fn describe(writer: &mut GgufWriter<'_>, config: &ModelConfig, layout: MlaLayout) {
    let mut keys = Keys { writer, arch: architecture(config.model_type) };
    let c = config;
    keys.size("block_count", c.num_hidden_layers.saturating_add(c.num_nextn_predict_layers));
    keys.size("context_length", c.max_position_embeddings);
    keys.size("embedding_length", c.hidden_size);
    keys.size("feed_forward_length", c.intermediate_size);
    keys.size("vocab_size", c.vocab_size);
    keys.size("attention.head_count", c.num_attention_heads);
    keys.set("attention.layer_norm_rms_epsilon", c.rms_norm_eps);
    keys.float("rope.freq_base", c.rope.theta);
    keys.size("rope.dimension_count", c.rope.dim);
    if c.num_nextn_predict_layers > 0 {
        keys.size("nextn_predict_layers", c.num_nextn_predict_layers);
    }
    match &c.mla {
        None => {
            keys.size("attention.head_count_kv", c.num_key_value_heads);
            keys.size("attention.key_length", c.head_dim);
            keys.size("attention.value_length", c.head_dim);
        }
        Some(mla) => {
            if let Some(rank) = mla.q_lora_rank {
                keys.size("attention.q_lora_rank", rank);
            }
            keys.size("attention.kv_lora_rank", mla.kv_lora_rank);
            match layout {
                MlaLayout::Combined => {
                    keys.size("attention.head_count_kv", c.num_key_value_heads);
                    keys.size("attention.key_length", c.head_dim);
                    keys.size("attention.value_length", mla.v_head_dim);
                }
                MlaLayout::Split => {
                    // What is cached, seen as one shared head, and beside it the heads as they are.
                    keys.size("attention.head_count_kv", 1);
                    keys.size("attention.key_length", mla.kv_lora_rank.saturating_add(mla.qk_rope_head_dim));
                    keys.size("attention.value_length", mla.kv_lora_rank);
                    keys.size("attention.key_length_mla", c.head_dim);
                    keys.size("attention.value_length_mla", mla.v_head_dim);
                }
            }
        }
    }
    keys.experts(c);
    keys.rope_scaling(c);
}

struct Keys<'w, 'a> {
    writer: &'w mut GgufWriter<'a>,
    arch: &'static str,
}

impl Keys<'_, '_> {
    fn set(&mut self, name: &str, value: impl Into<MetadataValue>) {
        self.writer.set(&format!("{}.{name}", self.arch), value);
    }

    fn size(&mut self, name: &str, value: usize) {
        // A validated description holds nothing near this limit.
        self.set(name, u32::try_from(value).unwrap_or(u32::MAX));
    }

    fn float(&mut self, name: &str, value: f64) {
        #[expect(clippy::cast_possible_truncation, reason = "the format's loaders read 32-bit floats")]
        self.set(name, value as f32);
    }

    fn experts(&mut self, c: &ModelConfig) {
        let Some(moe) = &c.moe else { return };
        self.size("leading_dense_block_count", moe.first_k_dense_replace);
        self.size("expert_count", moe.n_routed_experts);
        self.size("expert_used_count", moe.num_experts_per_tok);
        self.size("expert_shared_count", moe.n_shared_experts);
        self.size("expert_group_count", moe.n_group);
        self.size("expert_group_used_count", moe.topk_group);
        self.size("expert_feed_forward_length", moe.moe_intermediate_size);
        self.set("expert_weights_scale", moe.routed_scaling_factor);
        self.set("expert_weights_norm", moe.norm_topk_prob);
        let gating = match moe.scoring_func {
            ScoringFunc::Softmax => 1u32,
            ScoringFunc::Sigmoid => 2,
        };
        self.set("expert_gating_func", gating);
    }

    fn rope_scaling(&mut self, c: &ModelConfig) {
        match &c.rope.scaling {
            // Llama 3.1's becomes a tensor.
            RopeScaling::None | RopeScaling::Llama3 { .. } | RopeScaling::FreqFactors(_) => {}
            RopeScaling::Linear { factor } => {
                self.set("rope.scaling.type", "linear");
                self.float("rope.scaling.factor", *factor);
            }
            scaling @ RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                mscale_all_dim,
                ..
            } => {
                self.set("rope.scaling.type", "yarn");
                self.float("rope.scaling.factor", *factor);
                self.size("rope.scaling.original_context_length", *original_max_position_embeddings);
                self.float("rope.scaling.yarn_beta_fast", *beta_fast);
                self.float("rope.scaling.yarn_beta_slow", *beta_slow);
                if let Some(scale) = mscale_all_dim {
                    self.float("rope.scaling.yarn_log_multiplier", 0.1 * scale);
                }
                // For other models than DeepSeek's, loaders multiply this by m(1) themselves.
                let built_in = if c.mla.is_some() { 1.0 } else { 0.1 * factor.ln() + 1.0 };
                self.float("rope.scaling.attn_factor", scaling.attention_factor() / built_in);
            }
        }
    }
}
