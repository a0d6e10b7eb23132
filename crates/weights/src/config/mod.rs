//! The model description, the same from `config.json` and from GGUF metadata.

mod fields;
mod generation;
mod huggingface;
mod rope;
mod validate;

use std::path::Path;

use crate::error::WeightsError;

pub use generation::GenerationDefaults;
pub use rope::{RopeConfig, RopeScaling};

pub(crate) use fields::parse_object;
pub(crate) use validate::validate;

/// A token that the model has a row for; others stand for "none".
pub(crate) fn known_token(id: Option<u32>, vocab_size: usize) -> Option<u32> {
    id.filter(|&id| usize::try_from(id).is_ok_and(|id| id < vocab_size))
}

/// As [`known_token`], for several.
pub(crate) fn known_tokens(ids: Vec<u32>, vocab_size: usize) -> Vec<u32> {
    ids.into_iter().filter_map(|id| known_token(Some(id), vocab_size)).collect()
}

/// What an architecture needs to know to be built. Field names are those of Hugging Face's `config.json`;
/// all have been validated against each other.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The architecture.
    pub model_type: ModelType,
    /// Rows of the embedding and of the output head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of a dense MLP.
    pub intermediate_size: usize,
    /// Decoder layers, without those for multi-token prediction.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; a divisor of the query heads. With MLA the same as the query heads.
    pub num_key_value_heads: usize,
    /// Width of a query head. With MLA `qk_nope_head_dim + qk_rope_head_dim`.
    pub head_dim: usize,
    /// Longest context the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// Epsilon of all RMS norms but MLA's inner ones, which use 1e-6.
    pub rms_norm_eps: f32,
    /// Rotary embedding.
    pub rope: RopeConfig,
    /// Whether the output head is the embedding; there is no `lm_head.weight` then.
    pub tie_word_embeddings: bool,
    /// Whether q, k and v projections have biases; with Llama the output projection too.
    pub attention_bias: bool,
    /// Token that starts a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end an answer, from the configuration and `generation_config.json`; may be empty.
    pub eos_token_ids: Vec<u32>,
    /// Multi-head latent attention (DeepSeek).
    pub mla: Option<MlaConfig>,
    /// Mixture of experts (DeepSeek).
    pub moe: Option<MoeConfig>,
    /// Layers for multi-token prediction after the last decoder layer; 0 for most models.
    pub num_nextn_predict_layers: usize,
    /// Block scales of FP8 weights.
    pub quantization: Option<Fp8Config>,
}

impl ModelConfig {
    /// Reads and validates the contents of a `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// If it is not JSON, lacks a field, or describes what no model can be or what is not supported.
    pub fn from_json(path: &Path, json: &[u8]) -> Result<Self, WeightsError> {
        huggingface::from_json(path, json)
    }
}

/// The architectures that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelType {
    /// Llama and what shares its blocks: Llama 2 to 3.3, SmolLM2, DeepSeek-LLM.
    Llama,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// DeepSeek-V2: latent attention, softmax router.
    DeepseekV2,
    /// DeepSeek-V3 and R1: latent attention, sigmoid router with correction bias.
    DeepseekV3,
}

impl ModelType {
    /// The name in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::DeepseekV2 => "deepseek_v2",
            Self::DeepseekV3 => "deepseek_v3",
        }
    }
}

/// Dimensions of multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MlaConfig {
    /// Rank of the query's compression; `None` where the query is projected directly.
    pub q_lora_rank: Option<usize>,
    /// Rank of the key and value compression: the width of the cached latent.
    pub kv_lora_rank: usize,
    /// Width of a head's part without rotary embedding.
    pub qk_nope_head_dim: usize,
    /// Width of a head's part with rotary embedding, shared by all heads on the key side.
    pub qk_rope_head_dim: usize,
    /// Width of a value head.
    pub v_head_dim: usize,
}

/// The mixture of experts of DeepSeek-V2 and V3 (arXiv 2412.19437, section 2.1.2).
#[derive(Debug, Clone, PartialEq)]
pub struct MoeConfig {
    /// Experts the router chooses from.
    pub n_routed_experts: usize,
    /// Experts chosen for a token.
    pub num_experts_per_tok: usize,
    /// Experts that see every token, stored as one MLP of this many times the width; may be 0.
    pub n_shared_experts: usize,
    /// Width of one expert.
    pub moe_intermediate_size: usize,
    /// Leading layers with a dense MLP.
    pub first_k_dense_replace: usize,
    /// Of the layers after those, each one whose index is a multiple of this has experts; 1 means all.
    pub moe_layer_freq: usize,
    /// Groups the experts are divided into.
    pub n_group: usize,
    /// Groups a token may use.
    pub topk_group: usize,
    /// How router logits become scores.
    pub scoring_func: ScoringFunc,
    /// How experts are chosen from the scores.
    pub topk_method: TopkMethod,
    /// Whether the chosen experts' weights are divided by their sum.
    pub norm_topk_prob: bool,
    /// Factor on the chosen experts' weights.
    pub routed_scaling_factor: f32,
}

impl MoeConfig {
    /// Whether this layer has experts rather than a dense MLP.
    pub fn is_moe_layer(&self, layer: usize) -> bool {
        layer >= self.first_k_dense_replace && layer.checked_rem(self.moe_layer_freq) == Some(0)
    }
}

/// How router logits become scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoringFunc {
    /// Over all experts together.
    Softmax,
    /// For each expert alone.
    Sigmoid,
}

/// How experts are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopkMethod {
    /// The best of all.
    Greedy,
    /// The best of the best groups; a group counts as much as its best expert.
    GroupLimitedGreedy,
    /// The best, by score plus correction bias, of the best groups; a group counts as much as its best two.
    NoauxTc,
}

/// FP8 weights with a scale for each block (`…weight_scale_inv`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fp8Config {
    /// Rows and columns that share a scale.
    pub weight_block_size: [usize; 2],
}
