//! What one token takes of a model's weights, so that a speed can be held against the machine's ceilings.

use levain_kernels::DType;
use levain_weights::{Checkpoint, ModelConfig};

/// Bytes and operations for one token, from a checkpoint's headers alone.
///
/// Attention over the cache is not in here: it grows with the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenCost {
    /// Bytes of weights, as stored, that decoding one token reads: of each layer's experts those that are chosen,
    /// and the embedding only where it is the head as well, for otherwise one row of it is read.
    pub weight_bytes: u64,
    /// Operations of the products with weights for one row of a prompt, without the head. A multiplication and an
    /// addition are two.
    pub row_operations: u64,
    /// Those of a row's operations that the last layer leaves out where nobody wants the row's result: all of its
    /// own but for keys and values.
    pub spared_operations: u64,
    /// Operations of the head, for one row.
    pub head_operations: u64,
    /// Those of a row's operations whose weights are floating-point numbers.
    pub float_operations: u64,
    /// Those of them whose weights are BF16.
    pub bf16_operations: u64,
}

impl TokenCost {
    /// Adds up the tensors that the model uses; layers for multi-token prediction are not counted.
    pub fn of(checkpoint: &Checkpoint, config: &ModelConfig) -> Self {
        let mut cost = Self::default();
        for tensor in checkpoint.entries() {
            let elements = match tensor.shape {
                // Norms and biases; and scales, which belong to the product with their matrix.
                [] | [_] => 0,
                _ if tensor.name.ends_with("_scale_inv") => 0,
                shape => shape.iter().fold(1_u64, |product, &n| product.saturating_mul(n as u64)),
            };
            let part = Part::of(tensor.name, config);
            let (bytes, operations) = (tensor.bytes as u64, elements.saturating_mul(2));
            let dtype = tensor.storage.dtype();
            let (float, bf16) = (dtype.is_some_and(DType::is_float), dtype == Some(DType::BF16));
            match part {
                Part::Unread => continue,
                Part::Head => {
                    cost.weight_bytes = cost.weight_bytes.saturating_add(bytes);
                    cost.head_operations = cost.head_operations.saturating_add(operations);
                }
                Part::Body { chosen, of } => {
                    let share = |n: u64| (u128::from(n) * u128::from(chosen) / u128::from(of.max(1))) as u64;
                    cost.weight_bytes = cost.weight_bytes.saturating_add(share(bytes));
                    cost.row_operations = cost.row_operations.saturating_add(share(operations));
                    if is_spared(tensor.name, config) {
                        cost.spared_operations = cost.spared_operations.saturating_add(share(operations));
                    }
                    if float {
                        cost.float_operations = cost.float_operations.saturating_add(share(operations));
                    }
                    if bf16 {
                        cost.bf16_operations = cost.bf16_operations.saturating_add(share(operations));
                    }
                }
            }
        }
        cost
    }

    /// Operations of a prompt of so many rows, of which the last alone goes through all of the last layer and the
    /// head.
    pub fn prompt_operations(&self, rows: u64) -> u64 {
        let spared = self.spared_operations.saturating_mul(rows.saturating_sub(1));
        let all = self.row_operations.saturating_mul(rows).saturating_sub(spared);
        all.saturating_add(self.head_operations)
    }

    /// What most operations are.
    pub fn arithmetic(&self) -> Arithmetic {
        let most = |operations: u64| operations > self.row_operations / 2;
        match (most(self.bf16_operations), most(self.float_operations)) {
            (true, _) => Arithmetic::Bf16,
            (false, true) => Arithmetic::F32,
            (false, false) => Arithmetic::Int8,
        }
    }
}

/// What products are computed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// Weights of blocks, with activations of 8 bits.
    Int8,
    /// F32, F16 and FP8 weights.
    F32,
    /// BF16 weights, with activations of BF16.
    Bf16,
}

/// What a token does with a tensor.
enum Part {
    /// Nothing, or next to nothing.
    Unread,
    /// The product that gives the logits.
    Head,
    /// This share of it takes part in each row.
    Body { chosen: u64, of: u64 },
}

impl Part {
    fn of(name: &str, config: &ModelConfig) -> Self {
        let tied = config.tie_word_embeddings;
        match name {
            "model.embed_tokens.weight" => return if tied { Self::Head } else { Self::Unread },
            "lm_head.weight" => return if tied { Self::Unread } else { Self::Head },
            _ => {}
        }
        if layer_of(name).is_some_and(|layer| layer >= config.num_hidden_layers) {
            return Self::Unread;
        }
        match &config.moe {
            Some(moe) if name.contains(".mlp.experts.") => {
                let of = moe.n_routed_experts as u64;
                Self::Body { chosen: (moe.num_experts_per_tok as u64).min(of), of }
            }
            _ => Self::Body { chosen: 1, of: 1 },
        }
    }
}

/// Whether a tensor of the last layer is used for rows only whose results are wanted.
fn is_spared(name: &str, config: &ModelConfig) -> bool {
    let keys_and_values = [".k_proj.", ".v_proj.", ".kv_a_proj_with_mqa."];
    layer_of(name).is_some_and(|layer| layer + 1 == config.num_hidden_layers)
        && !keys_and_values.iter().any(|part| name.contains(part))
}

/// The layer that a tensor's name puts it in.
pub(crate) fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn cost(name: &str) -> (TokenCost, ModelConfig) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let config = checkpoint.config().unwrap();
        (TokenCost::of(&checkpoint, &config), config)
    }

    #[test]
    fn a_dense_model_costs_two_operations_a_weight() {
        let (cost, c) = cost("llama-3.1");
        let (d, h, kv) = (c.hidden_size, c.num_attention_heads, c.num_key_value_heads);
        let layer = d * h * c.head_dim * 2 + 2 * d * kv * c.head_dim + 3 * d * c.intermediate_size;
        let weights = layer * c.num_hidden_layers;
        let head = d * c.vocab_size;
        assert_eq!((cost.row_operations, cost.head_operations), (2 * weights as u64, 2 * head as u64));
        // The first four rows take only keys and values of the last layer.
        let spared = layer - 2 * d * kv * c.head_dim;
        assert_eq!(cost.prompt_operations(5), 2 * (5 * weights - 4 * spared + head) as u64);
        assert_eq!(cost.prompt_operations(1), 2 * (weights + head) as u64);
        assert_eq!(cost.arithmetic(), Arithmetic::F32);
        // In 4 bytes each; norms come on top, the embedding's rows do not.
        let norms = d * (2 * c.num_hidden_layers + 1);
        assert_eq!(cost.weight_bytes, 4 * (weights + head + norms) as u64);
    }

    #[test]
    fn of_experts_only_the_chosen_ones_count() {
        let (cost, c) = cost("deepseek-v2-tiny");
        let (Some(moe), Some(mla)) = (&c.moe, &c.mla) else { panic!("it has experts and latent attention") };
        let (d, h) = (c.hidden_size, c.num_attention_heads);
        let qk = mla.qk_nope_head_dim + mla.qk_rope_head_dim;
        let attention = d * h * qk
            + d * (mla.kv_lora_rank + mla.qk_rope_head_dim)
            + mla.kv_lora_rank * h * (mla.qk_nope_head_dim + mla.v_head_dim)
            + h * mla.v_head_dim * d;
        let experts = moe.num_experts_per_tok + moe.n_shared_experts;
        let routed = d * moe.n_routed_experts + 3 * d * moe.moe_intermediate_size * experts;
        let dense = 3 * d * c.intermediate_size;
        assert_eq!(cost.row_operations, 2 * (2 * attention + dense + routed) as u64);
        let latent = d * (mla.kv_lora_rank + mla.qk_rope_head_dim);
        assert_eq!(cost.spared_operations, 2 * (attention - latent + routed) as u64);
    }

    #[test]
    fn layers_that_only_draft_are_not_read() {
        let ((with, c), (without, _)) = (cost("deepseek-v3-mtp"), cost("deepseek-v3-tiny"));
        assert!(c.num_nextn_predict_layers > 0);
        assert!(with.weight_bytes > 0 && without.weight_bytes > 0);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/deepseek-v3-mtp");
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let more = ModelConfig { num_hidden_layers: c.num_hidden_layers + 1, ..c };
        assert!(TokenCost::of(&checkpoint, &more).weight_bytes > with.weight_bytes);
    }
}
