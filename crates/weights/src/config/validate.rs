//! Checks that hold for every model description, wherever it comes from.

use std::path::Path;

use crate::config::rope::RopeScaling;
use crate::config::{ModelConfig, MoeConfig};
use crate::error::{ConfigProblem, WeightsError};

/// Limits far above any published model; they keep later products within 64 bits and plans printable.
const VOCAB_MAX: usize = 16 << 20;
const WIDTH_MAX: usize = 1 << 20;
const LAYERS_MAX: usize = 4096;
const HEADS_MAX: usize = 1 << 16;
const HEAD_DIM_MAX: usize = 1 << 14;
const CONTEXT_MAX: usize = 1 << 30;
const EXPERTS_MAX: usize = 1 << 14;
/// With its rotary part a latent is a key of the cache.
const LATENT_MAX: usize = 1 << 15;
const ATTENTION_FACTOR_MAX: f64 = 1e3;

/// Checks all fields against their limits and each other.
///
/// `name` turns a `config.json` field name into the name used in the file at hand.
pub(crate) fn validate(
    config: &ModelConfig,
    file: &Path,
    name: &dyn Fn(&str) -> String,
) -> Result<(), WeightsError> {
    let check = Check { file, name };
    let c = config;
    check.size("vocab_size", c.vocab_size, VOCAB_MAX)?;
    check.size("hidden_size", c.hidden_size, WIDTH_MAX)?;
    check.size("intermediate_size", c.intermediate_size, WIDTH_MAX)?;
    check.size("num_hidden_layers", c.num_hidden_layers, LAYERS_MAX)?;
    check.size("num_attention_heads", c.num_attention_heads, HEADS_MAX)?;
    check.size("num_key_value_heads", c.num_key_value_heads, HEADS_MAX)?;
    // Its head_dim is a sum, and no field of the file.
    if let Some(mla) = &c.mla {
        check.size("kv_lora_rank", mla.kv_lora_rank, LATENT_MAX)?;
        check.size("qk_nope_head_dim", mla.qk_nope_head_dim, HEAD_DIM_MAX)?;
        check.size("qk_rope_head_dim", mla.qk_rope_head_dim, HEAD_DIM_MAX)?;
        check.size("v_head_dim", mla.v_head_dim, HEAD_DIM_MAX)?;
        if let Some(rank) = mla.q_lora_rank {
            check.size("q_lora_rank", rank, WIDTH_MAX)?;
        }
    }
    check.size("head_dim", c.head_dim, HEAD_DIM_MAX)?;
    check.size("max_position_embeddings", c.max_position_embeddings, CONTEXT_MAX)?;
    check.at_most("num_nextn_predict_layers", c.num_nextn_predict_layers, LAYERS_MAX)?;
    check.multiple(
        "num_attention_heads",
        c.num_attention_heads,
        "num_key_value_heads",
        c.num_key_value_heads,
    )?;
    let eps = f64::from(c.rms_norm_eps);
    check.float("rms_norm_eps", eps, eps > 0.0 && eps <= 0.1, "above 0 and at most 0.1")?;
    check.rope(c)?;
    if let Some(moe) = &c.moe {
        check.moe(moe, c.num_hidden_layers)?;
    }
    if let Some(fp8) = c.quantization {
        for side in fp8.weight_block_size {
            check.size("quantization_config.weight_block_size", side, WIDTH_MAX)?;
        }
    }
    Ok(())
}

struct Check<'a> {
    file: &'a Path,
    name: &'a dyn Fn(&str) -> String,
}

impl Check<'_> {
    fn error(&self, field: &str, problem: ConfigProblem) -> WeightsError {
        WeightsError::config(self.file, (self.name)(field), problem)
    }

    fn float(&self, field: &str, value: f64, ok: bool, expected: &str) -> Result<(), WeightsError> {
        if ok {
            return Ok(());
        }
        Err(self.error(field, ConfigProblem::OutOfRange { value, expected: expected.to_owned() }))
    }

    fn range(&self, field: &str, value: usize, min: usize, max: usize) -> Result<(), WeightsError> {
        #[expect(clippy::cast_precision_loss, reason = "only shown in a message")]
        self.float(field, value as f64, (min..=max).contains(&value), &format!("{min} to {max}"))
    }

    fn size(&self, field: &str, value: usize, max: usize) -> Result<(), WeightsError> {
        self.range(field, value, 1, max)
    }

    fn at_most(&self, field: &str, value: usize, max: usize) -> Result<(), WeightsError> {
        self.range(field, value, 0, max)
    }

    fn multiple(
        &self,
        field: &str,
        value: usize,
        other: &'static str,
        divisor: usize,
    ) -> Result<(), WeightsError> {
        if value.checked_rem(divisor) == Some(0) {
            return Ok(());
        }
        Err(self.error(field, ConfigProblem::NotMultiple { value, other, divisor }))
    }

    fn rope(&self, c: &ModelConfig) -> Result<(), WeightsError> {
        let rope = &c.rope;
        let theta_ok = rope.theta >= 1.0 && rope.theta <= 1e15;
        self.float("rope_theta", rope.theta, theta_ok, "1 to 1e15")?;
        // A rotated part is a part of the head, and its dimensions come in pairs.
        let field = if c.mla.is_some() { "qk_rope_head_dim" } else { "head_dim" };
        self.size(field, rope.dim, c.head_dim)?;
        self.multiple(field, rope.dim, "the two dimensions of a rotated pair", 2)?;
        let factor_ok = |f: f64| (1.0..=1e6).contains(&f);
        let positive = |x: f64| x.is_finite() && x > 0.0;
        match &rope.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => {
                self.float("rope_scaling.factor", *factor, factor_ok(*factor), "1 to 1e6")?;
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                self.float("rope_scaling.factor", *factor, factor_ok(*factor), "1 to 1e6")?;
                self.float(
                    "rope_scaling.low_freq_factor",
                    *low_freq_factor,
                    positive(*low_freq_factor),
                    "above 0",
                )?;
                let ok = high_freq_factor.is_finite() && high_freq_factor > low_freq_factor;
                self.float("rope_scaling.high_freq_factor", *high_freq_factor, ok, "above low_freq_factor")?;
                self.size(
                    "rope_scaling.original_max_position_embeddings",
                    *original_max_position_embeddings,
                    CONTEXT_MAX,
                )?;
            }
            RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                attention_factor,
                mscale,
                mscale_all_dim,
                truncate: _,
            } => {
                self.float("rope_scaling.factor", *factor, factor_ok(*factor), "1 to 1e6")?;
                self.size(
                    "rope_scaling.original_max_position_embeddings",
                    *original_max_position_embeddings,
                    CONTEXT_MAX,
                )?;
                self.float("rope_scaling.beta_slow", *beta_slow, positive(*beta_slow), "above 0")?;
                let ok = beta_fast.is_finite() && beta_fast >= beta_slow;
                self.float("rope_scaling.beta_fast", *beta_fast, ok, "at least beta_slow")?;
                if let Some(x) = attention_factor {
                    let ok = *x > 0.0 && *x <= ATTENTION_FACTOR_MAX;
                    self.float("rope_scaling.attention_factor", *x, ok, "above 0 and at most 1e3")?;
                }
                for (field, x) in
                    [("rope_scaling.mscale", mscale), ("rope_scaling.mscale_all_dim", mscale_all_dim)]
                {
                    if let Some(x) = x {
                        self.float(field, *x, (0.0..=100.0).contains(x), "0 to 100")?;
                    }
                }
            }
            RopeScaling::FreqFactors(factors) => {
                let pairs = rope.dim / 2;
                self.range("rope_freqs.weight", factors.len(), pairs, pairs)?;
                for &x in factors {
                    self.float("rope_freqs.weight", x.into(), positive(x.into()), "above 0")?;
                }
            }
        }
        Ok(())
    }

    fn moe(&self, moe: &MoeConfig, layers: usize) -> Result<(), WeightsError> {
        self.size("n_routed_experts", moe.n_routed_experts, EXPERTS_MAX)?;
        self.size("num_experts_per_tok", moe.num_experts_per_tok, moe.n_routed_experts)?;
        self.at_most("n_shared_experts", moe.n_shared_experts, EXPERTS_MAX)?;
        self.size("moe_intermediate_size", moe.moe_intermediate_size, WIDTH_MAX)?;
        self.at_most("first_k_dense_replace", moe.first_k_dense_replace, layers)?;
        self.size("moe_layer_freq", moe.moe_layer_freq, LAYERS_MAX)?;
        self.size("n_group", moe.n_group, EXPERTS_MAX)?;
        self.multiple("n_routed_experts", moe.n_routed_experts, "n_group", moe.n_group)?;
        self.size("topk_group", moe.topk_group, moe.n_group)?;
        // The experts are chosen within the chosen groups, so these must hold enough.
        let in_group = moe.n_routed_experts.checked_div(moe.n_group).unwrap_or(0);
        let reachable = in_group.saturating_mul(moe.topk_group);
        self.size("num_experts_per_tok", moe.num_experts_per_tok, reachable)?;
        let scale = f64::from(moe.routed_scaling_factor);
        self.float("routed_scaling_factor", scale, scale > 0.0 && scale <= 1e4, "above 0 and at most 1e4")
    }
}
