//! `config.json` of a Hugging Face checkpoint.

use std::path::Path;

use levain_kernels::RopeStyle;

use crate::config::fields::{Fields, parse_object};
use crate::config::{
    Fp8Config, MlaConfig, ModelConfig, ModelType, MoeConfig, RopeConfig, RopeScaling, ScoringFunc,
    TopkMethod, known_token, known_tokens, validate,
};
use crate::error::{ConfigProblem, WeightsError};

const SUPPORTED: &str = "llama, qwen2, deepseek_v2, deepseek_v3";

/// Where models that read more than text describe the part that does.
const LANGUAGE_PARTS: [(&str, &str); 3] =
    [("text_config", "text_config."), ("language_config", "language_config."), ("llm_config", "llm_config.")];

/// Reads and validates a `config.json`.
pub(crate) fn from_json(file: &Path, bytes: &[u8]) -> Result<ModelConfig, WeightsError> {
    let map = parse_object(file, bytes)?;
    let top = Fields::new(file, "", &map);
    let part = language_part(top)?;
    let (f, nested) = (part.unwrap_or(top), part.is_some());
    let model_type = model_type(f)?;
    refuse_variants(f, model_type)?;

    // A nested description holds only what differs from its class in transformers.
    let size = |name: &str| {
        let default = || if nested { class_default(model_type, name) } else { None };
        f.require(name, f.usize(name)?.or_else(default))
    };
    let hidden_size = size("hidden_size")?;
    let heads = size("num_attention_heads")?;
    let vocab_size = size("vocab_size")?;
    let mla = match model_type {
        ModelType::DeepseekV2 | ModelType::DeepseekV3 => Some(mla(f)?),
        ModelType::Llama | ModelType::Qwen2 => None,
    };
    // DeepSeek's follows from other fields.
    let given = f.usize("head_dim")?;
    let head_dim = match &mla {
        Some(mla) => mla.qk_nope_head_dim.saturating_add(mla.qk_rope_head_dim),
        None => match given {
            Some(dim) => dim,
            // Validation names the field.
            None if heads == 0 => 0,
            None if hidden_size.checked_rem(heads) == Some(0) => hidden_size.checked_div(heads).unwrap_or(0),
            None => {
                let other = "num_attention_heads";
                let problem = ConfigProblem::NotMultiple { value: hidden_size, other, divisor: heads };
                return Err(f.error("hidden_size", problem));
            }
        },
    };
    let max_position_embeddings =
        f.usize("max_position_embeddings")?.unwrap_or_else(|| class_context(model_type));
    // Models that read more than text say some things of the whole.
    let ids = |name: &str| match f.get(name) {
        Some(_) => f.token_ids(name),
        None => top.token_ids(name),
    };
    let tied = f
        .bool("tie_word_embeddings")?
        .map_or_else(|| top.bool("tie_word_embeddings"), |tied| Ok(Some(tied)))?;
    let config = ModelConfig {
        model_type,
        vocab_size,
        hidden_size,
        intermediate_size: size("intermediate_size")?,
        num_hidden_layers: size("num_hidden_layers")?,
        num_attention_heads: heads,
        num_key_value_heads: key_value_heads(f, heads, mla.is_some())?,
        head_dim,
        max_position_embeddings,
        rms_norm_eps: f32_of(f.f64("rms_norm_eps")?.unwrap_or(1e-6)),
        rope: rope(f, model_type, &mla, head_dim, max_position_embeddings)?,
        tie_word_embeddings: tied.unwrap_or(false),
        // Qwen2 has the biases without a field that says so.
        attention_bias: model_type == ModelType::Qwen2 || f.bool("attention_bias")?.unwrap_or(false),
        bos_token_id: known_token(ids("bos_token_id")?.first().copied(), vocab_size),
        eos_token_ids: known_tokens(ids("eos_token_id")?, vocab_size),
        moe: if mla.is_some() { moe(f, model_type)? } else { None },
        mla,
        num_nextn_predict_layers: f.usize("num_nextn_predict_layers")?.unwrap_or(0),
        quantization: quantization(if f.get("quantization_config").is_some() { f } else { top })?,
    };
    validate(&config, file, &str::to_owned)?;
    Ok(config)
}

/// The description of the language model within one of a model that reads more than text.
fn language_part(top: Fields<'_>) -> Result<Option<Fields<'_>>, WeightsError> {
    if top.get("hidden_size").is_some() {
        return Ok(None);
    }
    for (name, prefix) in LANGUAGE_PARTS {
        if let Some(part) = top.object(name, prefix)? {
            return Ok(Some(part));
        }
    }
    Ok(None)
}

/// What the classes of transformers take for sizes that a description does not give.
fn class_default(model_type: ModelType, field: &str) -> Option<usize> {
    let qwen = match model_type {
        ModelType::Llama => false,
        ModelType::Qwen2 => true,
        ModelType::DeepseekV2 | ModelType::DeepseekV3 => return None,
    };
    match field {
        "hidden_size" => Some(4096),
        "num_hidden_layers" | "num_attention_heads" => Some(32),
        "vocab_size" => Some(if qwen { 151_936 } else { 32_000 }),
        "intermediate_size" => Some(if qwen { 22_016 } else { 11_008 }),
        _ => None,
    }
}

/// The context that the classes of transformers take where a description gives none.
fn class_context(model_type: ModelType) -> usize {
    match model_type {
        ModelType::Llama | ModelType::DeepseekV2 => 2048,
        ModelType::DeepseekV3 => 4096,
        ModelType::Qwen2 => 32_768,
    }
}

fn model_type(f: Fields<'_>) -> Result<ModelType, WeightsError> {
    let name = match f.string("model_type")? {
        Some(name) => name,
        // The name of the class says it as well.
        None => match f.list("architectures")?.and_then(|list| list.first()?.as_str()) {
            Some("LlamaForCausalLM" | "LlamaModel") => "llama",
            Some("Qwen2ForCausalLM" | "Qwen2Model") => "qwen2",
            Some("DeepseekV2ForCausalLM" | "DeepseekV2Model") => "deepseek_v2",
            Some("DeepseekV3ForCausalLM" | "DeepseekV3Model") => "deepseek_v3",
            _ => return Err(f.error("model_type", ConfigProblem::Missing)),
        },
    };
    Ok(match name {
        "llama" => ModelType::Llama,
        "qwen2" => ModelType::Qwen2,
        "deepseek_v2" => ModelType::DeepseekV2,
        "deepseek_v3" => ModelType::DeepseekV3,
        other => return Err(unsupported(f, "model_type", other, SUPPORTED)),
    })
}

fn unsupported(f: Fields<'_>, field: &str, found: &str, supported: &'static str) -> WeightsError {
    let found = found.chars().take(80).collect();
    f.error(field, ConfigProblem::Unsupported { found, supported })
}

/// Latent attention makes keys and values for each query head.
fn key_value_heads(f: Fields<'_>, heads: usize, latent: bool) -> Result<usize, WeightsError> {
    let field = "num_key_value_heads";
    let found = f.usize(field)?.unwrap_or(heads);
    if latent && found != heads {
        let expected = format!("the {heads} of num_attention_heads");
        #[expect(clippy::cast_precision_loss, reason = "only shown in a message")]
        return Err(f.error(field, ConfigProblem::OutOfRange { value: found as f64, expected }));
    }
    Ok(found)
}

/// Refuses settings that change the arithmetic in ways that are not implemented.
fn refuse_variants(f: Fields<'_>, model_type: ModelType) -> Result<(), WeightsError> {
    if let Some(act) = f.string("hidden_act")?
        && !matches!(act, "silu" | "swish")
    {
        return Err(unsupported(f, "hidden_act", act, "silu"));
    }
    for field in ["use_sliding_window", "mlp_bias"] {
        if f.bool(field)? == Some(true) {
            return Err(unsupported(f, field, "true", "false"));
        }
    }
    let deepseek = matches!(model_type, ModelType::DeepseekV2 | ModelType::DeepseekV3);
    if deepseek && f.bool("attention_bias")? == Some(true) {
        return Err(unsupported(f, "attention_bias", "true", "false"));
    }
    if let Some(part) = f.f64("partial_rotary_factor")?
        && part != 1.0
    {
        return Err(unsupported(f, "partial_rotary_factor", &part.to_string(), "1"));
    }
    for layer in f.list("layer_types")?.into_iter().flatten() {
        let name = layer.as_str().unwrap_or("something else");
        if name != "full_attention" {
            return Err(unsupported(f, "layer_types", name, "full_attention"));
        }
    }
    Ok(())
}

fn mla(f: Fields<'_>) -> Result<MlaConfig, WeightsError> {
    let size = |name| f.require(name, f.usize(name)?);
    Ok(MlaConfig {
        q_lora_rank: f.usize("q_lora_rank")?,
        kv_lora_rank: size("kv_lora_rank")?,
        qk_nope_head_dim: size("qk_nope_head_dim")?,
        qk_rope_head_dim: size("qk_rope_head_dim")?,
        v_head_dim: size("v_head_dim")?,
    })
}

fn moe(f: Fields<'_>, model_type: ModelType) -> Result<Option<MoeConfig>, WeightsError> {
    let Some(n_routed_experts) = f.usize("n_routed_experts")? else { return Ok(None) };
    let v3 = model_type == ModelType::DeepseekV3;
    let scoring_func = match f.string("scoring_func")?.unwrap_or(if v3 { "sigmoid" } else { "softmax" }) {
        "softmax" => ScoringFunc::Softmax,
        "sigmoid" => ScoringFunc::Sigmoid,
        other => return Err(unsupported(f, "scoring_func", other, "softmax, sigmoid")),
    };
    let topk_method = match f.string("topk_method")?.unwrap_or(if v3 { "noaux_tc" } else { "greedy" }) {
        "greedy" => TopkMethod::Greedy,
        "group_limited_greedy" => TopkMethod::GroupLimitedGreedy,
        "noaux_tc" => TopkMethod::NoauxTc,
        other => {
            return Err(unsupported(f, "topk_method", other, "greedy, group_limited_greedy, noaux_tc"));
        }
    };
    let grouped = topk_method != TopkMethod::Greedy;
    let group = |name| match f.usize(name)? {
        Some(n) => Ok(n),
        None if grouped => Err(f.error(name, ConfigProblem::Missing)),
        None => Ok(1),
    };
    Ok(Some(MoeConfig {
        n_routed_experts,
        num_experts_per_tok: f.require("num_experts_per_tok", f.usize("num_experts_per_tok")?)?,
        n_shared_experts: f.usize("n_shared_experts")?.unwrap_or(0),
        moe_intermediate_size: f.require("moe_intermediate_size", f.usize("moe_intermediate_size")?)?,
        // Where a field is absent, transformers takes the value of the published model.
        first_k_dense_replace: f.usize("first_k_dense_replace")?.unwrap_or(if v3 { 3 } else { 0 }),
        moe_layer_freq: f.usize("moe_layer_freq")?.unwrap_or(1),
        n_group: group("n_group")?,
        topk_group: group("topk_group")?,
        scoring_func,
        topk_method,
        norm_topk_prob: f.bool("norm_topk_prob")?.unwrap_or(v3),
        routed_scaling_factor: f32_of(f.f64("routed_scaling_factor")?.unwrap_or(if v3 { 2.5 } else { 1.0 })),
    }))
}

fn rope(
    f: Fields<'_>,
    model_type: ModelType,
    mla: &Option<MlaConfig>,
    head_dim: usize,
    max_position_embeddings: usize,
) -> Result<RopeConfig, WeightsError> {
    // Newer files hold all of it in `rope_parameters`; older ones theta outside and the rest in `rope_scaling`.
    let newer = f.object("rope_parameters", "rope_parameters.")?;
    let older = f.object("rope_scaling", "rope_scaling.")?;
    let inner = newer.map_or(Ok(None), |r| r.f64("rope_theta"))?;
    let theta = match (inner, f.f64("rope_theta")?) {
        (Some(inner), Some(outer)) if inner != outer => {
            return Err(
                f.error("rope_theta", ConfigProblem::Contradicts { other: "rope_parameters.rope_theta" })
            );
        }
        (inner, outer) => inner.or(outer),
    };
    let scaling = |fields: Option<Fields<'_>>| {
        fields.map(|fields| rope_scaling(fields, max_position_embeddings)).transpose()
    };
    let scaling = match (scaling(newer)?, scaling(older)?) {
        (Some(newer), Some(older)) if newer != older => {
            return Err(f.error("rope_scaling", ConfigProblem::Contradicts { other: "rope_parameters" }));
        }
        (newer, older) => newer.or(older).unwrap_or(RopeScaling::None),
    };
    let interleaved = match model_type {
        ModelType::DeepseekV2 => true,
        ModelType::DeepseekV3 => f.bool("rope_interleave")?.unwrap_or(true),
        ModelType::Llama | ModelType::Qwen2 => false,
    };
    Ok(RopeConfig {
        theta: theta.unwrap_or(10_000.0),
        dim: mla.as_ref().map_or(head_dim, |mla| mla.qk_rope_head_dim),
        style: if interleaved { RopeStyle::Interleaved } else { RopeStyle::HalfSplit },
        scaling,
    })
}

fn rope_scaling(s: Fields<'_>, max_position_embeddings: usize) -> Result<RopeScaling, WeightsError> {
    let (field, name) = match (s.string("rope_type")?, s.string("type")?) {
        (Some(newer), Some(older)) if newer != older => {
            return Err(s.error("type", ConfigProblem::Contradicts { other: "rope_type" }));
        }
        (Some(name), _) => ("rope_type", name),
        (None, Some(name)) => ("type", name),
        // A factor without a type would be left out without a word.
        (None, None) if s.get("factor").is_some() => return Err(s.error("rope_type", ConfigProblem::Missing)),
        (None, None) => ("rope_type", "default"),
    };
    let number = |name| s.require(name, s.f64(name)?);
    let original = "original_max_position_embeddings";
    Ok(match name {
        "default" => {
            if let Some(part) = s.f64("partial_rotary_factor")?
                && part != 1.0
            {
                return Err(unsupported(s, "partial_rotary_factor", &part.to_string(), "1"));
            }
            RopeScaling::None
        }
        "linear" => RopeScaling::Linear { factor: number("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: number("factor")?,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original_max_position_embeddings: s.require(original, s.usize(original)?)?,
        },
        "yarn" => RopeScaling::Yarn {
            factor: number("factor")?,
            // Hugging Face takes the model's own context where the file gives none.
            original_max_position_embeddings: s.usize(original)?.unwrap_or(max_position_embeddings),
            beta_fast: s.f64("beta_fast")?.unwrap_or(32.0),
            beta_slow: s.f64("beta_slow")?.unwrap_or(1.0),
            attention_factor: s.f64("attention_factor")?,
            mscale: s.f64("mscale")?,
            mscale_all_dim: s.f64("mscale_all_dim")?,
            truncate: s.bool("truncate")?.unwrap_or(true),
        },
        other => return Err(unsupported(s, field, other, "default, linear, llama3, yarn")),
    })
}

fn quantization(f: Fields<'_>) -> Result<Option<Fp8Config>, WeightsError> {
    let Some(q) = f.object("quantization_config", "quantization_config.")? else { return Ok(None) };
    let method = q.require("quant_method", q.string("quant_method")?)?;
    if method != "fp8" {
        return Err(unsupported(q, "quant_method", method, "fp8"));
    }
    if let Some(fmt) = q.string("fmt")?
        && fmt != "e4m3"
    {
        return Err(unsupported(q, "fmt", fmt, "e4m3"));
    }
    let sides = q.get("weight_block_size").and_then(|value| {
        let list = value.as_array()?.iter().map(|n| usize::try_from(n.as_u64()?).ok());
        <[usize; 2]>::try_from(list.collect::<Option<Vec<_>>>()?).ok()
    });
    let expected = "a list of two whole numbers";
    let found = if q.get("weight_block_size").is_some() { "something else" } else { "missing" };
    let weight_block_size = sides.ok_or_else(|| {
        q.error("weight_block_size", ConfigProblem::WrongType { found: found.to_owned(), expected })
    })?;
    if weight_block_size != [128, 128] {
        let found = format!("{weight_block_size:?}");
        return Err(unsupported(q, "weight_block_size", &found, "[128, 128]"));
    }
    Ok(Some(Fp8Config { weight_block_size }))
}

/// Numbers of a description are kept in the precision the arithmetic has. What a cast can't hold becomes
/// infinite or zero and fails validation.
#[expect(clippy::cast_possible_truncation, reason = "validated afterwards")]
fn f32_of(value: f64) -> f32 {
    value as f32
}
