//! `kv_b_proj` of latent attention, taken apart into what each of its two forms multiplies with.

use levain_kernels::{DType, Matrix};
use levain_weights::MlaConfig;

use super::loader::{F8_BLOCK, Loader};
use crate::error::EngineError;
use crate::plan::PANEL_ROWS;

/// A layer's `kv_b_proj` `[H·(nope+v), C]`, by heads.
#[derive(Debug)]
pub(super) struct LatentWeights {
    /// The key half, transposed: H matrices `[C, nope]`.
    pub(super) k_b: Vec<Matrix>,
    /// The value half: H matrices `[v, C]`.
    pub(super) v_b: Vec<Matrix>,
    /// The key half as it is: H matrices `[nope, C]`, or none where only the absorbed form is used.
    pub(super) k_expand: Vec<Matrix>,
}

impl LatentWeights {
    /// Newer GGUF files hold the halves apart, the keys' transposed already; everything else as one.
    pub(super) fn load(
        loader: &mut Loader<'_>,
        heads: usize,
        mla: &MlaConfig,
        p: &str,
        expanded: bool,
    ) -> Result<Self, EngineError> {
        let split = format!("{p}.k_b_proj.weight");
        if loader.contains(&split) {
            let (c, nope, v) = (mla.kv_lora_rank, mla.qk_nope_head_dim, mla.v_head_dim);
            let k_b = loader.stack(&split, [heads, c, nope])?;
            let v_b = loader.stack(&format!("{p}.v_b_proj.weight"), [heads, v, c])?;
            let k_expand = match expanded {
                true => k_b.iter().map(|k_b| turned(loader, k_b)).collect::<Result<_, _>>()?,
                false => Vec::new(),
            };
            return Ok(Self { k_b, v_b, k_expand });
        }
        Self::from_whole(loader, heads, mla, &format!("{p}.kv_b_proj.weight"), expanded)
    }

    fn from_whole(
        loader: &mut Loader<'_>,
        heads: usize,
        mla: &MlaConfig,
        name: &str,
        expanded: bool,
    ) -> Result<Self, EngineError> {
        let (c, nope, v) = (mla.kv_lora_rank, mla.qk_nope_head_dim, mla.v_head_dim);
        let shape = [heads * (nope + v), c];
        let (values, stored) = loader.floats(name, &shape)?;
        let kept = kept_dtype(stored, mla);
        let mut weights =
            Self { k_b: Vec::with_capacity(heads), v_b: Vec::with_capacity(heads), k_expand: Vec::new() };
        for (head, values) in values.chunks_exact((nope + v) * c).enumerate() {
            let (keys, rest) = values.split_at(nope * c);
            weights.k_b.push(loader.pack_as(transposed_dtype(stored), c, nope, &transposed(keys, c))?);
            let first = head * (nope + v);
            let mut rows = |from: usize, n: usize, values: &[f32]| match kept == stored {
                true => loader.rows(name, shape, first + from..first + from + n),
                false => loader.pack_as(kept, n, c, values),
            };
            weights.v_b.push(rows(nope, v, rest)?);
            if expanded {
                weights.k_expand.push(rows(0, nope, keys)?);
            }
        }
        loader.release(name)?;
        Ok(weights)
    }
}

/// Bytes of `kv_b_proj` in memory, without what the expanded form adds.
pub(crate) fn whole_bytes(stored: DType, heads: usize, mla: &MlaConfig) -> usize {
    let (c, nope, v) = (mla.kv_lora_rank, mla.qk_nope_head_dim, mla.v_head_dim);
    let keys = matrix_bytes(transposed_dtype(stored), c, nope);
    keys.saturating_add(matrix_bytes(kept_dtype(stored, mla), v, c)).saturating_mul(heads)
}

/// Bytes of the key half that the expanded form adds where `kv_b_proj` is one tensor (`whole`) or two.
pub(crate) fn expansion_bytes(stored: DType, heads: usize, mla: &MlaConfig, whole: bool) -> usize {
    let dtype = if whole { kept_dtype(stored, mla) } else { turned_dtype(stored, mla.kv_lora_rank) };
    matrix_bytes(dtype, mla.qk_nope_head_dim, mla.kv_lora_rank).saturating_mul(heads)
}

fn matrix_bytes(dtype: DType, rows: usize, cols: usize) -> usize {
    rows.next_multiple_of(PANEL_ROWS).saturating_mul(dtype.row_bytes(cols).unwrap_or(0))
}

/// What `kv_b_proj` stored as one tensor is multiplied as while decoding: its transposed keys, and its values.
pub fn latent_dtypes(stored: DType, mla: &MlaConfig) -> (DType, DType) {
    (transposed_dtype(stored), kept_dtype(stored, mla))
}

/// What the key half is kept as, transposed. It cannot keep its blocks; half precision holds what any of the smaller
/// types can say.
fn transposed_dtype(stored: DType) -> DType {
    match stored {
        DType::F32 | DType::BF16 => stored,
        DType::F8E4M3 => DType::F32,
        _ => DType::F16,
    }
}

/// What rows of `kv_b_proj` are kept as: as they are. Those of 8-bit floats share scales between keys and values
/// unless heads begin where blocks do, and are floats then.
fn kept_dtype(stored: DType, mla: &MlaConfig) -> DType {
    let apart = [mla.qk_nope_head_dim, mla.v_head_dim].iter().all(|rows| rows.is_multiple_of(F8_BLOCK));
    if stored == DType::F8E4M3 && !apart { DType::F32 } else { stored }
}

/// What the key half of a file that holds it transposed is turned back to, in rows of `cols` values: blocks of eight
/// bits unless it is stored in floats, since its own blocks lie across these rows.
fn turned_dtype(stored: DType, cols: usize) -> DType {
    match stored {
        DType::F32 | DType::BF16 | DType::F16 => stored,
        DType::F8E4M3 => DType::F32,
        _ if cols.is_multiple_of(DType::Q8_0.block_len()) => DType::Q8_0,
        _ => DType::F16,
    }
}

/// The transpose of `k_b`, `[nope, C]`.
fn turned(loader: &Loader<'_>, k_b: &Matrix) -> Result<Matrix, EngineError> {
    let (rows, cols) = (k_b.rows(), k_b.cols());
    let mut values = vec![0.0; rows * cols];
    for (row, values) in values.chunks_exact_mut(cols).enumerate() {
        k_b.row_to_f32(row, values);
    }
    loader.pack_as(turned_dtype(k_b.dtype(), rows), cols, rows, &transposed(&values, cols))
}

/// `values` `[rows, cols]` as `[cols, rows]`.
fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    let rows = values.len() / cols;
    (0..values.len()).map(|index| values[index % rows * cols + index / rows]).collect()
}

#[cfg(test)]
mod tests {
    use levain_kernels::Pool;
    use levain_weights::{Checkpoint, SafetensorsWriter, TensorData};
    use tempfile::TempDir;

    use super::*;

    /// Heads that begin where FP8's blocks do keep them, others are floats; both say the same.
    #[test]
    fn eight_bit_floats_keep_their_blocks_where_heads_begin_with_them() {
        let (heads, c) = (3, 160);
        for (nope, v, kept) in [(128, 128, DType::F8E4M3), (128, 256, DType::F8E4M3), (64, 128, DType::F32)] {
            let mla = MlaConfig {
                q_lora_rank: None,
                kv_lora_rank: c,
                qk_nope_head_dim: nope,
                qk_rope_head_dim: 8,
                v_head_dim: v,
            };
            let rows = heads * (nope + v);
            let folder = TempDir::new().unwrap();
            let path = folder.path().join("model.safetensors");
            let bytes: Vec<u8> = (0..rows * c).map(|i| (i * 37 % 0x7f) as u8).collect();
            let blocks = rows.div_ceil(F8_BLOCK) * c.div_ceil(F8_BLOCK);
            let scales = (0..blocks).map(|i| 0.01 * (i + 1) as f32).collect();
            let mut writer = SafetensorsWriter::new();
            writer.tensor("a.kv_b_proj.weight", DType::F8E4M3, &[rows, c], TensorData::Bytes(bytes.into()));
            let shape = [rows.div_ceil(F8_BLOCK), c.div_ceil(F8_BLOCK)];
            let scales = TensorData::from_floats(scales);
            writer.tensor("a.kv_b_proj.weight_scale_inv", DType::F32, &shape, scales);
            writer.write(&path).unwrap();
            let (checkpoint, pool) = (Checkpoint::open(&path).unwrap(), Pool::new(1));
            let mut loader = Loader::new(&checkpoint, &pool);
            let (values, _) = loader.floats("a.kv_b_proj.weight", &[rows, c]).unwrap();
            let weights = LatentWeights::load(&mut loader, heads, &mla, "a", true).unwrap();
            let held = weights.k_b.iter().chain(&weights.v_b).map(Matrix::bytes).sum::<usize>();
            let expansion = weights.k_expand.iter().map(Matrix::bytes).sum::<usize>();
            let mut row = vec![0.0; c];
            for (head, values) in values.chunks_exact((nope + v) * c).enumerate() {
                let (keys, rest) = (&weights.k_expand[head], &weights.v_b[head]);
                assert_eq!((keys.dtype(), rest.dtype()), (kept, kept));
                let matrices = (0..nope).map(|row| (keys, row)).chain((0..v).map(|row| (rest, row)));
                for ((matrix, index), values) in matrices.zip(values.chunks_exact(c)) {
                    matrix.row_to_f32(index, &mut row);
                    assert_eq!(row, values, "head {head} row {index}");
                }
            }
            // Scales are planned for by themselves.
            let planned = expansion_bytes(DType::F8E4M3, heads, &mla, true);
            assert!((planned..planned + 256).contains(&expansion), "{expansion} of {planned}");
            let planned = whole_bytes(DType::F8E4M3, heads, &mla);
            assert!((planned..planned + 256).contains(&held), "{held} of {planned}");
        }
    }
}
