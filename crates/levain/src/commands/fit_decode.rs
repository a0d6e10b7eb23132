//! How fast a model will decode: one product of each shape and format that a token goes through, timed here.

use std::collections::BTreeMap;
use std::time::Instant;

use levain_engine::{EngineError, latent_dtypes};
use levain_kernels::{DType, KernelError, Matrix, Pool, Product, Workspace, matmul};
use levain_weights::{Checkpoint, ModelConfig, TensorEntry};

use crate::error::CliError;

/// Weights of one kind that are made for timing it: more than caches hold.
const SAMPLE_BYTES: usize = 64 << 20;
/// The middle one counts.
const ROUNDS: usize = 5;
/// Kinds of products that are timed; models have some twenty. The others count as the mean of these.
const GROUPS_MAX: usize = 64;
/// What a whole token takes beside its products timed alone: attention at an empty context, norms, sampling and
/// hand-overs, and more kinds of weights in memory than the sample has. Measured twice over ten models it lies between
/// 1.03 and 1.59, most of which is the machine's memory being faster at one time than at another.
const BESIDE: f64 = 1.28;

/// Products of the same input, computed together: format, rows and columns of each.
type Group = Vec<(DType, usize, usize)>;

/// What decoding a token reads and computes.
#[derive(Debug, Default)]
pub(crate) struct TokenWork {
    /// How often a token meets each kind of product.
    groups: BTreeMap<String, (Group, usize)>,
}

impl TokenWork {
    /// From names, shapes and formats alone.
    pub(crate) fn of(checkpoint: &Checkpoint, config: &ModelConfig) -> Result<Self, CliError> {
        let mut work = Self::default();
        // By layer and what shares an input there.
        let mut together: BTreeMap<(String, &str), Group> = BTreeMap::new();
        for entry in checkpoint.entries() {
            let Some((prefix, part)) = place(&entry, config) else { continue };
            let Some(dtype) = entry.storage.dtype() else {
                // The same words as at load.
                checkpoint.require(entry.name, entry.shape)?;
                continue;
            };
            let &[.., rows, cols] = entry.shape else { continue };
            let stacked =
                entry.shape.iter().rev().skip(2).fold(1usize, |product, &n| product.saturating_mul(n));
            let mut add = |input, dtype, rows, cols| {
                together.entry((prefix.clone(), input)).or_default().push((dtype, rows, cols));
            };
            match (part, &config.mla, &config.moe) {
                (_, _, Some(moe)) if part.starts_with("mlp.experts.") => {
                    add(input_of(part), dtype, rows.saturating_mul(moe.num_experts_per_tok), cols);
                }
                ("self_attn.kv_b_proj", Some(mla), _) => {
                    // Kept as two matrices a head, one of them transposed.
                    let heads = config.num_attention_heads;
                    let (keys, values) = latent_dtypes(dtype, mla);
                    add("latent keys", keys, heads * mla.kv_lora_rank, mla.qk_nope_head_dim);
                    add("latent values", values, heads * mla.v_head_dim, mla.kv_lora_rank);
                }
                ("mlp.gate", ..) => add(part, DType::F32, rows, cols),
                _ => add(input_of(part), dtype, rows.saturating_mul(stacked), cols),
            }
        }
        for group in together.into_values() {
            work.groups.entry(format!("{group:?}")).or_insert((group, 0)).1 += 1;
        }
        Ok(work)
    }

    /// Seconds for one token with all weights in memory, timed with a few hundred megabytes of made-up weights.
    pub(crate) fn seconds(&self, pool: &Pool) -> Result<f64, CliError> {
        let bytes = |(group, uses): &(Group, usize)| group_bytes(group) as f64 * *uses as f64;
        let (mut seconds, mut timed) = (0.0, 0.0);
        for entry in self.groups.values().take(GROUPS_MAX) {
            seconds += time(pool, &entry.0)? * entry.1 as f64;
            timed += bytes(entry);
        }
        let all = if timed > 0.0 { self.groups.values().map(bytes).sum::<f64>() / timed } else { 1.0 };
        Ok(seconds * all * BESIDE)
    }
}

/// A matrix's layer and its name there, where a token's decoding goes through it.
fn place<'a>(entry: &TensorEntry<'a>, config: &ModelConfig) -> Option<(String, &'a str)> {
    let name = entry.name.strip_suffix(".weight")?;
    if entry.shape.len() < 2 {
        return None;
    }
    let head = if config.tie_word_embeddings { "model.embed_tokens" } else { "lm_head" };
    if name == head {
        return Some((String::new(), "head"));
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    if layer.parse::<usize>().ok()? >= config.num_hidden_layers {
        return None;
    }
    // The first expert stands for all of its layer.
    let other = part.strip_prefix("mlp.experts.").and_then(|rest| rest.split_once('.'));
    let other = other.is_some_and(|(expert, _)| expert.parse::<usize>().is_ok_and(|expert| expert > 0));
    (!other).then(|| (layer.to_owned(), part))
}

/// What the matrices of a layer that are computed together have in common.
fn input_of(part: &str) -> &str {
    let last = part.rsplit('.').next().unwrap_or(part);
    match last {
        "q_proj" | "k_proj" | "v_proj" => "attention",
        "gate_proj" | "up_proj" | "gate_up_proj" if part.starts_with("mlp.experts.") => "experts",
        "down_proj" if part.starts_with("mlp.experts.") => "expert outputs",
        "gate_proj" | "up_proj" if part.contains("shared_experts") => "shared experts",
        "gate_proj" | "up_proj" => "feed-forward",
        _ => part,
    }
}

fn bytes_of(dtype: DType, rows: usize, cols: usize) -> usize {
    dtype.row_bytes(cols).unwrap_or(0).saturating_mul(rows)
}

fn group_bytes(group: &Group) -> usize {
    let bytes = group.iter().map(|&(dtype, rows, cols)| bytes_of(dtype, rows, cols));
    bytes.fold(0, usize::saturating_add)
}

/// Seconds for products of one input with weights that no cache holds.
fn time(pool: &Pool, group: &Group) -> Result<f64, CliError> {
    let bytes = group_bytes(group);
    // Of a matrix larger than the sample a part is timed.
    let part = (SAMPLE_BYTES as f64 / bytes.max(1) as f64).min(1.0);
    let copies = (SAMPLE_BYTES / bytes.max(1)).clamp(1, 64);
    let sample = |&(dtype, rows, cols): &(DType, usize, usize)| {
        let rows = ((rows as f64 * part) as usize).next_multiple_of(16).min(rows);
        zeros(dtype, rows, cols, pool)
    };
    let sets = (0..copies)
        .map(|_| group.iter().map(sample).collect::<Result<Vec<_>, _>>())
        .collect::<Result<Vec<_>, KernelError>>()
        .map_err(EngineError::from)?;
    let mut workspace = Workspace::new(1, group.iter().map(|&(.., cols)| cols).max().unwrap_or(1));
    let cols = group.first().map_or(0, |&(.., cols)| cols);
    let x = vec![0.5; cols];
    let mut results: Vec<Vec<f32>> =
        sets.first().into_iter().flatten().map(|matrix| vec![0.0; matrix.rows()]).collect();
    let mut rounds = [0.0; ROUNDS];
    for round in &mut rounds {
        let begun = Instant::now();
        for set in &sets {
            let mut products: Vec<Product<'_>> =
                set.iter().zip(&mut results).map(|(w, y)| Product { w, bias: None, y, add: false }).collect();
            matmul(pool, &mut workspace, &x, 1, &mut products);
        }
        *round = begun.elapsed().as_secs_f64();
    }
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[ROUNDS / 2] / copies as f64 / part)
}

/// Weights of nothing: they take as long as others.
fn zeros(dtype: DType, rows: usize, cols: usize, pool: &Pool) -> Result<Matrix, KernelError> {
    let bytes = vec![0; bytes_of(dtype, rows, cols)];
    match dtype {
        DType::F8E4M3 => {
            let scales = vec![1.0; rows.div_ceil(128) * cols.div_ceil(128)];
            Matrix::pack_f8(rows, cols, &bytes, &scales, pool)
        }
        dtype => Matrix::pack(dtype, rows, cols, &bytes, pool),
    }
}

#[cfg(test)]
mod tests {
    use levain_testkit::fields;
    use levain_testkit::model::ModelSpec;

    use super::*;

    #[test]
    fn whatever_a_header_says_its_work_is_counted_or_refused() {
        let model = ModelSpec::deepseek_v3().build().unwrap();
        let path = model.gguf(DType::F16).unwrap();
        let file = std::fs::read(&path).unwrap();
        let mut counted = 0;
        for field in fields::gguf(&file).integers {
            for value in fields::boundary_values(&file, field) {
                let mut changed = file.clone();
                fields::put(&mut changed, field, value);
                let Ok(checkpoint) = Checkpoint::from_bytes(&path, changed) else { continue };
                let Ok(config) = checkpoint.config() else { continue };
                let Ok(work) = TokenWork::of(&checkpoint, &config) else { continue };
                let bytes: f64 =
                    work.groups.values().map(|(group, n)| group_bytes(group) as f64 * *n as f64).sum();
                assert!(bytes > 0.0, "{} := {value}", field.offset);
                counted += 1;
            }
        }
        assert!(counted > 100, "{counted}");
    }
}
