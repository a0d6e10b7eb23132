//! The model description from GGUF metadata.
//! Keys: `gguf-py/gguf/constants.py`; their meaning for DeepSeek: llama.cpp's `deepseek2` loader.

use levain_kernels::RopeStyle;

use crate::config::{
    GenerationDefaults, MlaConfig, ModelConfig, ModelType, MoeConfig, RopeConfig, RopeScaling, ScoringFunc,
    TopkMethod, known_token, known_tokens, validate,
};
use crate::error::{ConfigProblem, WeightsError, WrongFile};
use crate::gguf::metadata::GgufMetadata;
use crate::gguf::value::Value;

const SUPPORTED: &str = "llama, qwen2, deepseek2";

/// What the description needs to know about tensors, which the metadata don't say.
pub(crate) struct TensorFacts<'a> {
    /// Shape of `token_embd.weight`.
    pub(crate) embedding: Option<&'a [usize]>,
    /// Whether there is an output head of its own.
    pub(crate) has_output: bool,
    /// Whether the query projection has a bias.
    pub(crate) has_query_bias: bool,
    /// Whether there are shared experts.
    pub(crate) has_shared_experts: bool,
    /// `rope_freqs.weight`.
    pub(crate) rope_freqs: Option<Vec<f32>>,
}

/// Reads and validates the description.
pub(crate) fn model_config(meta: &GgufMetadata, facts: TensorFacts<'_>) -> Result<ModelConfig, WeightsError> {
    let arch = meta
        .string("general.architecture")?
        .ok_or_else(|| WeightsError::config(meta.file(), "general.architecture", ConfigProblem::Missing))?;
    let k = Keys { meta, arch };
    let deepseek = match arch {
        "llama" | "qwen2" => false,
        "deepseek2" => true,
        other => return Err(k.unsupported("general.architecture", other, SUPPORTED)),
    };
    let Some([vocab_size, _]) = facts.embedding else {
        return Err(WeightsError::wrong(meta.file(), WrongFile::VocabularyOnly));
    };
    k.refuse_variants(deepseek)?;

    let hidden_size = k.usize("embedding_length")?;
    let heads = k.usize("attention.head_count")?;
    let mla = if deepseek { Some(k.mla()?) } else { None };
    let head_dim = match &mla {
        Some(mla) => mla.qk_nope_head_dim.saturating_add(mla.qk_rope_head_dim),
        None => match k.optional_usize("attention.key_length")? {
            Some(dim) => dim,
            // Validation names the field.
            None if heads == 0 => 0,
            None if hidden_size.checked_rem(heads) == Some(0) => hidden_size.checked_div(heads).unwrap_or(0),
            None => {
                let other = "attention.head_count";
                let problem = ConfigProblem::NotMultiple { value: hidden_size, other, divisor: heads };
                return Err(k.error("embedding_length", problem));
            }
        },
    };
    if !deepseek
        && let Some(width) = k.optional_usize("attention.value_length")?
        && width != head_dim
    {
        return Err(k.unsupported(&k.key("attention.value_length"), &width.to_string(), "the key length"));
    }
    let moe = if deepseek { k.moe(facts.has_shared_experts)? } else { None };
    let nextn = k.optional_usize("nextn_predict_layers")?.unwrap_or(0);
    let blocks = k.usize("block_count")?;
    if nextn >= blocks.max(1) {
        #[expect(clippy::cast_precision_loss, reason = "only shown in a message")]
        let value = nextn as f64;
        let expected = format!("less than the {blocks} blocks that they are counted among");
        return Err(k.error("nextn_predict_layers", ConfigProblem::OutOfRange { value, expected }));
    }
    let model_type = match (arch, &moe) {
        ("llama", _) => ModelType::Llama,
        ("qwen2", _) => ModelType::Qwen2,
        (_, Some(moe)) if moe.scoring_func == ScoringFunc::Sigmoid => ModelType::DeepseekV3,
        _ => ModelType::DeepseekV2,
    };
    let max_position_embeddings = k.usize("context_length")?;
    let config = ModelConfig {
        model_type,
        vocab_size: *vocab_size,
        hidden_size,
        intermediate_size: k.usize("feed_forward_length")?,
        // The multi-token prediction layers are counted among the blocks.
        num_hidden_layers: blocks.saturating_sub(nextn),
        num_attention_heads: heads,
        num_key_value_heads: match mla {
            // Newer files say 1 here, as the cached latent is shared by all heads.
            Some(_) => heads,
            None => k.optional_usize("attention.head_count_kv")?.unwrap_or(heads),
        },
        head_dim,
        max_position_embeddings,
        rms_norm_eps: k.required_float("attention.layer_norm_rms_epsilon")?,
        rope: k.rope(&mla, head_dim, max_position_embeddings, facts.rope_freqs)?,
        tie_word_embeddings: !facts.has_output,
        attention_bias: facts.has_query_bias,
        bos_token_id: known_token(meta.token_id("tokenizer.ggml.bos_token_id")?, *vocab_size),
        eos_token_ids: known_tokens(eos_token_ids(meta)?, *vocab_size),
        mla,
        moe,
        num_nextn_predict_layers: nextn,
        quantization: None,
    };
    validate(&config, meta.file(), &|field| k.gguf_name(field))?;
    Ok(config)
}

/// Reads and validates recommended sampling, which newer files carry.
pub(crate) fn generation_defaults(meta: &GgufMetadata) -> Result<GenerationDefaults, WeightsError> {
    #[expect(clippy::cast_possible_truncation, reason = "validated afterwards")]
    let float = |key| Ok::<_, WeightsError>(meta.float(key)?.map(|x| x as f32));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast to whole numbers stops at both ends"
    )]
    let defaults = GenerationDefaults {
        do_sample: None,
        temperature: float("general.sampling.temp")?,
        top_p: float("general.sampling.top_p")?,
        // All tokens are kept by 0 and by less.
        top_k: meta.float("general.sampling.top_k")?.map(|k| k as u32),
        min_p: float("general.sampling.min_p")?,
        repetition_penalty: float("general.sampling.penalty_repeat")?,
        bos_token_id: meta.token_id("tokenizer.ggml.bos_token_id")?,
        eos_token_ids: eos_token_ids(meta)?,
    };
    defaults.validate(meta.file(), &|field| {
        let name = match field {
            "temperature" => "temp",
            "repetition_penalty" => "penalty_repeat",
            other => other,
        };
        format!("general.sampling.{name}")
    })?;
    Ok(defaults)
}

/// The end of text and the end of a turn, where they differ.
fn eos_token_ids(meta: &GgufMetadata) -> Result<Vec<u32>, WeightsError> {
    let mut ids = Vec::new();
    for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
        if let Some(id) = meta.token_id(key)?
            && !ids.contains(&id)
        {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// Metadata under the architecture's prefix.
struct Keys<'a> {
    meta: &'a GgufMetadata,
    arch: &'a str,
}

impl Keys<'_> {
    fn has(&self, name: &str) -> bool {
        self.meta.get(&self.key(name)).is_some()
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    fn error(&self, name: &str, problem: ConfigProblem) -> WeightsError {
        WeightsError::config(self.meta.file(), self.key(name), problem)
    }

    fn unsupported(&self, key: &str, found: &str, supported: &'static str) -> WeightsError {
        let found = found.chars().take(80).collect();
        WeightsError::config(self.meta.file(), key, ConfigProblem::Unsupported { found, supported })
    }

    fn optional_usize(&self, name: &str) -> Result<Option<usize>, WeightsError> {
        let key = self.key(name);
        // Sizes of each layer, as newer converters may write them, are one size here.
        if let Some(Value::Array(layers)) = self.meta.get(&key) {
            let sizes = self.meta.integers(&key)?.unwrap_or_default();
            return match sizes.split_first() {
                Some((first, rest)) if rest.iter().all(|size| size == first) => {
                    Ok(Some(usize::try_from(*first).unwrap_or(usize::MAX)))
                }
                _ => {
                    let found = format!("{} sizes that differ from layer to layer", layers.len());
                    Err(self.unsupported(&key, &found, "one size for all layers"))
                }
            };
        }
        // What does not fit is far above every limit and fails validation as the largest number.
        Ok(self.meta.unsigned(&key)?.map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
    }

    /// Refuses a key that says something else than what follows from others, each by one convention.
    fn expect(&self, name: &str, expected: &[usize; 2]) -> Result<(), WeightsError> {
        match self.optional_usize(name)? {
            Some(found) if !expected.contains(&found) => {
                let [one, other] = expected;
                let expected = format!("{one} or {other}, which follow from other keys");
                #[expect(clippy::cast_precision_loss, reason = "only shown in a message")]
                let value = found as f64;
                Err(self.error(name, ConfigProblem::OutOfRange { value, expected }))
            }
            _ => Ok(()),
        }
    }

    fn usize(&self, name: &str) -> Result<usize, WeightsError> {
        self.optional_usize(name)?.ok_or_else(|| self.error(name, ConfigProblem::Missing))
    }

    fn float(&self, name: &str) -> Result<Option<f64>, WeightsError> {
        self.meta.float(&self.key(name))
    }

    fn required_float(&self, name: &str) -> Result<f32, WeightsError> {
        let value = self.float(name)?.ok_or_else(|| self.error(name, ConfigProblem::Missing))?;
        #[expect(clippy::cast_possible_truncation, reason = "validated afterwards")]
        Ok(value as f32)
    }

    /// Refuses settings that change the arithmetic in ways that are not implemented.
    fn refuse_variants(&self, deepseek: bool) -> Result<(), WeightsError> {
        if !deepseek && self.optional_usize("expert_count")?.unwrap_or(0) > 0 {
            return Err(self.unsupported(&self.key("expert_count"), "a mixture of experts", "0"));
        }
        // A window as long as the context changes nothing; some converters write that.
        let context = self.optional_usize("context_length")?.unwrap_or(0);
        if let Some(window) = self.optional_usize("attention.sliding_window")?
            && window > 0
            && window < context
        {
            return Err(self.unsupported(&self.key("attention.sliding_window"), &window.to_string(), "0"));
        }
        for name in ["embedding_scale", "residual_scale", "logit_scale", "attention.scale"] {
            // 0 stands for "not set", and a factor of 1 changes nothing.
            let neutral = |scale: f64| scale == 0.0 || (scale == 1.0 && name != "attention.scale");
            if let Some(scale) = self.float(name)?.filter(|&scale| !neutral(scale)) {
                return Err(self.unsupported(&self.key(name), &scale.to_string(), "no such key"));
            }
        }
        Ok(())
    }

    fn mla(&self) -> Result<MlaConfig, WeightsError> {
        let rope = self.usize("rope.dimension_count")?;
        // Newer files describe the compressed cache in key_length and value_length and the heads in these.
        let newer = "attention.key_length_mla";
        let (name, key, value) = match self.optional_usize(newer)? {
            Some(key) => (newer, key, self.usize("attention.value_length_mla")?),
            None => {
                let name = "attention.key_length";
                (name, self.usize(name)?, self.usize("attention.value_length")?)
            }
        };
        let kv_lora_rank = self.usize("attention.kv_lora_rank")?;
        if name == newer {
            self.expect("attention.key_length", &[kv_lora_rank.saturating_add(rope), key])?;
            self.expect("attention.value_length", &[kv_lora_rank, value])?;
        }
        // Writers disagree on what it counts, and nothing here depends on it: it has to be a number.
        self.optional_usize("attention.head_count_kv")?;
        if key <= rope {
            #[expect(clippy::cast_precision_loss, reason = "only shown in a message")]
            let value = key as f64;
            let expected = format!("more than the {rope} rotated dimensions");
            return Err(self.error(name, ConfigProblem::OutOfRange { value, expected }));
        }
        Ok(MlaConfig {
            q_lora_rank: self.optional_usize("attention.q_lora_rank")?.filter(|&rank| rank > 0),
            kv_lora_rank,
            qk_nope_head_dim: key.saturating_sub(rope),
            qk_rope_head_dim: rope,
            v_head_dim: value,
        })
    }

    fn moe(&self, has_shared_experts: bool) -> Result<Option<MoeConfig>, WeightsError> {
        let experts = self.optional_usize("expert_count")?.unwrap_or(0);
        if experts == 0 {
            return Ok(None);
        }
        let scoring_func = match self.optional_usize("expert_gating_func")? {
            // 0 stands for "not set", which meant softmax before there was a choice.
            None | Some(0 | 1) => ScoringFunc::Softmax,
            Some(2) => ScoringFunc::Sigmoid,
            Some(other) => {
                let key = self.key("expert_gating_func");
                return Err(self.unsupported(&key, &other.to_string(), "1 (softmax), 2 (sigmoid)"));
            }
        };
        // Older files lack the groups. Of the models published in that form only these two have any.
        let published = match (experts, scoring_func) {
            (256, ScoringFunc::Sigmoid) => (8, 4),
            (160, ScoringFunc::Softmax) => (8, 3),
            _ => (1, 1),
        };
        let n_group = self.optional_usize("expert_group_count")?.filter(|&n| n > 0);
        let topk_group = self.optional_usize("expert_group_used_count")?.filter(|&n| n > 0);
        let (n_group, topk_group) = match (n_group, topk_group) {
            (Some(n), Some(k)) => (n, k),
            (None, None) => published,
            (Some(_), None) => return Err(self.error("expert_group_used_count", ConfigProblem::Missing)),
            (None, Some(_)) => return Err(self.error("expert_group_count", ConfigProblem::Missing)),
        };
        #[expect(clippy::cast_possible_truncation, reason = "validated afterwards")]
        let scale = self.float("expert_weights_scale")?.unwrap_or(1.0) as f32;
        Ok(Some(MoeConfig {
            n_routed_experts: experts,
            num_experts_per_tok: self.usize("expert_used_count")?,
            // Without it shared experts that are there would be left out without a word.
            n_shared_experts: match self.optional_usize("expert_shared_count")? {
                None if has_shared_experts => {
                    return Err(self.error("expert_shared_count", ConfigProblem::Missing));
                }
                count => count.unwrap_or(0),
            },
            moe_intermediate_size: self.usize("expert_feed_forward_length")?,
            first_k_dense_replace: self.optional_usize("leading_dense_block_count")?.unwrap_or(0),
            moe_layer_freq: 1,
            n_group,
            topk_group,
            scoring_func,
            topk_method: match scoring_func {
                ScoringFunc::Sigmoid => TopkMethod::NoauxTc,
                ScoringFunc::Softmax if n_group > 1 => TopkMethod::GroupLimitedGreedy,
                ScoringFunc::Softmax => TopkMethod::Greedy,
            },
            norm_topk_prob: self.meta.bool(&self.key("expert_weights_norm"))?.unwrap_or(false),
            // 0 stands for "not set".
            routed_scaling_factor: if scale == 0.0 { 1.0 } else { scale },
        }))
    }

    fn rope(
        &self,
        mla: &Option<MlaConfig>,
        head_dim: usize,
        max_position_embeddings: usize,
        factors: Option<Vec<f32>>,
    ) -> Result<RopeConfig, WeightsError> {
        let dim = match mla {
            Some(mla) => mla.qk_rope_head_dim,
            None => self.optional_usize("rope.dimension_count")?.unwrap_or(head_dim),
        };
        let scaling = self.rope_scaling(mla.is_some(), max_position_embeddings)?;
        let scaling = match (factors, scaling) {
            (Some(factors), RopeScaling::None) => RopeScaling::FreqFactors(factors),
            (Some(_), _) => {
                return Err(self.unsupported(
                    "rope_freqs.weight",
                    "frequency factors and scaling",
                    "one of them",
                ));
            }
            (None, scaling) => scaling,
        };
        Ok(RopeConfig {
            theta: self.float("rope.freq_base")?.unwrap_or(10_000.0),
            dim,
            // Converters reorder Llama's q and k so that pairs lie side by side; DeepSeek's do already.
            style: if self.arch == "qwen2" { RopeStyle::HalfSplit } else { RopeStyle::Interleaved },
            scaling,
        })
    }

    fn rope_scaling(
        &self,
        deepseek: bool,
        max_position_embeddings: usize,
    ) -> Result<RopeScaling, WeightsError> {
        let factor = self.float("rope.scaling.factor")?;
        let kind = match self.meta.string(&self.key("rope.scaling.type"))? {
            Some(kind) => kind,
            None => {
                // Files from before the type have only a linear factor, if any.
                let linear = self.float("rope.scale_linear")?.or(factor).filter(|&f| f != 1.0 && f != 0.0);
                return Ok(linear.map_or(RopeScaling::None, |factor| RopeScaling::Linear { factor }));
            }
        };
        // Without a factor, or with 0 for "not set", llama.cpp scales nothing either.
        let factor = factor.filter(|&factor| factor != 0.0);
        Ok(match (kind, factor) {
            ("none", _) | ("linear" | "yarn", None) => RopeScaling::None,
            ("linear", Some(factor)) => RopeScaling::Linear { factor },
            ("yarn", Some(factor)) => {
                let full = |s: f64| 0.1 * s * factor.ln() + 1.0;
                // llama.cpp multiplies cosine and sine by this times m(1); for DeepSeek it cancels m(1) and
                // moves the multiplier into the softmax scale.
                let attn_factor = match self.float("rope.scaling.yarn_attn_factor")? {
                    Some(x) => x,
                    None => self.float("rope.scaling.attn_factor")?.unwrap_or(1.0),
                };
                let multiplier = self.float("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0);
                if let Some(ext) = self.float("rope.scaling.yarn_ext_factor")?
                    && ext != 1.0
                {
                    return Err(self.unsupported(
                        &self.key("rope.scaling.yarn_ext_factor"),
                        &ext.to_string(),
                        "1",
                    ));
                }
                let original = self.optional_usize("rope.scaling.original_context_length")?;
                RopeScaling::Yarn {
                    factor,
                    original_max_position_embeddings: original.unwrap_or(max_position_embeddings),
                    beta_fast: self.float("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                    beta_slow: self.float("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                    attention_factor: Some(if deepseek { attn_factor } else { attn_factor * full(1.0) }),
                    mscale: None,
                    // The file holds 0.1 times the published field.
                    mscale_all_dim: (multiplier != 0.0).then_some(multiplier * 10.0),
                    truncate: true,
                }
            }
            (other, _) => {
                return Err(self.unsupported(&self.key("rope.scaling.type"), other, "none, linear, yarn"));
            }
        })
    }

    /// The key that stands for a `config.json` field.
    fn gguf_name(&self, field: &str) -> String {
        let name = match field {
            "vocab_size" => return "token_embd.weight".to_owned(),
            "rope_freqs.weight" => return field.to_owned(),
            "hidden_size" => "embedding_length",
            "intermediate_size" => "feed_forward_length",
            "num_hidden_layers" => "block_count",
            "num_attention_heads" => "attention.head_count",
            "num_key_value_heads" => "attention.head_count_kv",
            "head_dim" => "rope.dimension_count",
            "max_position_embeddings" => "context_length",
            "num_nextn_predict_layers" => "nextn_predict_layers",
            "rms_norm_eps" => "attention.layer_norm_rms_epsilon",
            "kv_lora_rank" => "attention.kv_lora_rank",
            "q_lora_rank" => "attention.q_lora_rank",
            "qk_nope_head_dim" if self.has("attention.key_length_mla") => "attention.key_length_mla",
            "v_head_dim" if self.has("attention.value_length_mla") => "attention.value_length_mla",
            "qk_nope_head_dim" => "attention.key_length",
            "qk_rope_head_dim" => "rope.dimension_count",
            "v_head_dim" => "attention.value_length",
            "rope_theta" => "rope.freq_base",
            "rope_scaling.factor" => "rope.scaling.factor",
            "rope_scaling.original_max_position_embeddings" => "rope.scaling.original_context_length",
            "rope_scaling.beta_fast" => "rope.scaling.yarn_beta_fast",
            "rope_scaling.beta_slow" => "rope.scaling.yarn_beta_slow",
            "rope_scaling.attention_factor" => "rope.scaling.attn_factor",
            "rope_scaling.mscale_all_dim" => "rope.scaling.yarn_log_multiplier",
            "n_routed_experts" => "expert_count",
            "num_experts_per_tok" => "expert_used_count",
            "n_shared_experts" => "expert_shared_count",
            "moe_intermediate_size" => "expert_feed_forward_length",
            "first_k_dense_replace" => "leading_dense_block_count",
            "n_group" => "expert_group_count",
            "topk_group" => "expert_group_used_count",
            "routed_scaling_factor" => "expert_weights_scale",
            other => other,
        };
        self.key(name)
    }
}
