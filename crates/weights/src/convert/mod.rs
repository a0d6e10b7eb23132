//! A checkpoint of safetensors written as GGUF, so that quantised forms of any reference model can be made
//! and tested without other tools.

mod metadata;
mod rows;
mod tokenizer;

use std::path::Path;

use levain_kernels::DType;

use crate::atomic::AtomicFile;
use crate::checkpoint::{Checkpoint, TensorEntry};
use crate::config::{ModelConfig, ModelType, RopeScaling};
use crate::convert::rows::{Rows, stacked};
use crate::error::{ConfigProblem, WeightsError};
use crate::gguf::{GgufWriter, names};
use crate::tensor_data::TensorData;

/// How a GGUF file is written.
#[derive(Debug, Clone)]
pub struct GgufOptions {
    /// Type of matrices; those whose rows don't divide into its blocks become F16, vectors F32.
    pub dtype: DType,
    /// How DeepSeek's `kv_b_proj` is stored.
    pub mla: MlaLayout,
    /// Name of the pre-tokenizer (`tokenizer.ggml.pre`), such as `qwen2`; `None` to take it from
    /// `tokenizer.json`, which works for GPT-2's alone.
    pub pre_tokenizer: Option<String>,
}

/// The two ways in which GGUF files store DeepSeek's `kv_b_proj`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlaLayout {
    /// One tensor `attn_kv_b`, as older files have.
    Combined,
    /// `attn_k_b`, transposed, and `attn_v_b`, as newer files have.
    Split,
}

/// Writes a checkpoint of safetensors as GGUF with matrices of this type.
///
/// # Errors
/// If the checkpoint lacks a tensor or holds one that GGUF has no name for, a file of it changes meanwhile, or the file
/// can't be written.
pub fn convert_to_gguf(checkpoint: &Checkpoint, out: &Path, dtype: DType) -> Result<(), WeightsError> {
    convert_to_gguf_with(checkpoint, out, &GgufOptions { dtype, mla: MlaLayout::Split, pre_tokenizer: None })
}

/// As [`convert_to_gguf`], with all choices open.
///
/// # Errors
/// As [`convert_to_gguf`].
pub fn convert_to_gguf_with(
    checkpoint: &Checkpoint,
    out: &Path,
    options: &GgufOptions,
) -> Result<(), WeightsError> {
    let config = checkpoint.config()?;
    let mut writer = GgufWriter::new(metadata::architecture(config.model_type));
    metadata::describe(&mut writer, &config, options.mla);
    tokenizer::describe(&mut writer, checkpoint, &config, options)?;
    if let Some(factors) = llama3_factors(&config) {
        let shape = [factors.len()];
        writer.tensor("rope_freqs.weight", DType::F32, &shape, TensorData::from_floats(factors));
    }
    let plan = Plan { checkpoint, config: &config, options };
    for entry in checkpoint.entries() {
        plan.add(entry, &mut writer)?;
    }
    let mut file = AtomicFile::create(out)?;
    let written = writer.write_to(out, &mut file);
    // The rows have been read as they were written.
    checkpoint.intact().check()?;
    written?;
    file.commit()
}

struct Plan<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a ModelConfig,
    options: &'a GgufOptions,
}

impl<'a> Plan<'a> {
    fn add(&self, entry: TensorEntry<'_>, writer: &mut GgufWriter<'a>) -> Result<(), WeightsError> {
        let name = entry.name;
        let tied_head = name == "lm_head.weight" && self.config.tie_word_embeddings;
        // Scales are used with their weights; frequencies follow from the description.
        if name.ends_with(".weight_scale_inv") || name.ends_with(".rotary_emb.inv_freq") || tied_head {
            return Ok(());
        }
        if let Some((layer, rest)) = name.split_once(".mlp.experts.") {
            // The first expert stands for all of its layer.
            return match rest.strip_prefix("0.") {
                Some(projection) => self.add_experts(layer, projection, writer),
                None => Ok(()),
            };
        }
        let rows = Rows::open(self.checkpoint, name)?;
        if let Some(prefix) = name.strip_suffix(".kv_b_proj.weight")
            && self.options.mla == MlaLayout::Split
        {
            return self.add_split_kv_b(prefix, rows, writer);
        }
        let rows = match self.permuted_heads(name) {
            Some(heads) => rows.interleaved(heads),
            None => rows,
        };
        let dtype = self.dtype(name, &rows.shape);
        self.push(name, dtype, rows, writer)
    }

    /// Heads of a tensor whose rows are reordered so that rotated pairs lie side by side: Llama's q and k.
    fn permuted_heads(&self, name: &str) -> Option<usize> {
        if self.config.model_type != ModelType::Llama {
            return None;
        }
        if name.contains(".self_attn.q_proj.") {
            Some(self.config.num_attention_heads)
        } else if name.contains(".self_attn.k_proj.") {
            Some(self.config.num_key_value_heads)
        } else {
            None
        }
    }

    fn add_experts(
        &self,
        layer: &str,
        projection: &str,
        writer: &mut GgufWriter<'a>,
    ) -> Result<(), WeightsError> {
        let experts = self.config.moe.as_ref().map_or(0, |moe| moe.n_routed_experts);
        let names = (0..experts).map(|expert| format!("{layer}.mlp.experts.{expert}.{projection}"));
        let rows = names.map(|name| Rows::open(self.checkpoint, &name)).collect::<Result<Vec<_>, _>>()?;
        let name = format!("{layer}.mlp.experts.{projection}");
        let rows = stacked(rows, &name, self.checkpoint)?;
        let dtype = self.dtype(&name, &rows.shape);
        self.push(&name, dtype, rows, writer)
    }

    /// kv_b_proj is [heads · (nope + v), rank]: of each head first the rows for keys, then those for values.
    fn add_split_kv_b(
        &self,
        prefix: &str,
        rows: Rows<'a>,
        writer: &mut GgufWriter<'a>,
    ) -> Result<(), WeightsError> {
        let Some(mla) = &self.config.mla else { return Ok(()) };
        let heads = self.config.num_attention_heads;
        let (nope, v, rank) = (mla.qk_nope_head_dim, mla.v_head_dim, mla.kv_lora_rank);
        let (keys, values) = rows.split_heads(self.checkpoint, heads, nope, v, rank)?;
        for (rows, half) in [(keys, "k_b_proj"), (values, "v_b_proj")] {
            let name = format!("{prefix}.{half}.weight");
            let dtype = self.dtype(&name, &rows.shape);
            self.push(&name, dtype, rows, writer)?;
        }
        Ok(())
    }

    /// Vectors and the router stay in F32, as every converter keeps them.
    fn dtype(&self, name: &str, shape: &[usize]) -> DType {
        let columns = shape.last().copied().unwrap_or(1);
        if shape.len() < 2 || name.ends_with(".mlp.gate.weight") {
            DType::F32
        } else if self.options.dtype.row_bytes(columns).is_some() {
            self.options.dtype
        } else {
            DType::F16
        }
    }

    fn push(
        &self,
        name: &str,
        dtype: DType,
        rows: Rows<'a>,
        writer: &mut GgufWriter<'a>,
    ) -> Result<(), WeightsError> {
        let gguf = names::gguf(name).ok_or_else(|| {
            let problem = ConfigProblem::Unsupported {
                found: name.to_owned(),
                supported: "tensors GGUF has a name for",
            };
            WeightsError::config(self.checkpoint.folder(), "tensor", problem)
        })?;
        let shape = rows.shape.clone();
        writer.tensor(&gguf, dtype, &shape, TensorData::Rows(rows.into_source()));
        Ok(())
    }
}

/// Llama 3.1's scaling as a divisor of each frequency: 1 for short wavelengths, the factor for long ones, and
/// a ramp between (`_compute_llama3_parameters` of Hugging Face transformers).
fn llama3_factors(config: &ModelConfig) -> Option<Vec<f32>> {
    let &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } =
        &config.rope.scaling
    else {
        return None;
    };
    #[expect(clippy::cast_precision_loss, reason = "positions and dimensions are far below 2^53")]
    let (context, dim) = (original_max_position_embeddings as f64, config.rope.dim as f64);
    let of_pair = |pair: usize| {
        #[expect(clippy::cast_precision_loss, reason = "dimensions are far below 2^53")]
        let frequency = config.rope.theta.powf(-2.0 * pair as f64 / dim);
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        let divisor = if wavelength < context / high_freq_factor {
            1.0
        } else if wavelength > context / low_freq_factor {
            factor
        } else {
            let smooth = (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
            1.0 / ((1.0 - smooth) / factor + smooth)
        };
        #[expect(clippy::cast_possible_truncation, reason = "the file holds 32-bit floats")]
        let divisor = divisor as f32;
        divisor
    };
    Some((0..config.rope.dim / 2).map(of_pair).collect())
}
