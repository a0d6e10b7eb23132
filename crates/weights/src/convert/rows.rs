//! Rows of a stored tensor as floats, in the order another format wants them.

use levain_kernels::{DType, dequantize_row};

use crate::checkpoint::{Checkpoint, TensorView};
use crate::config::Fp8Config;
use crate::error::{ConfigProblem, WeightsError};
use crate::tensor_data::RowSource;

/// A tensor to be read row by row; all dimensions but the last count rows.
pub(crate) struct Rows<'a> {
    /// Outermost dimension first.
    pub(crate) shape: Vec<usize>,
    read: Box<RowSource<'a>>,
}

impl<'a> Rows<'a> {
    /// Opens a tensor by its canonical name, with its block scales if it is FP8.
    pub(crate) fn open(checkpoint: &'a Checkpoint, name: &str) -> Result<Self, WeightsError> {
        let shape = checkpoint.entries().find(|entry| entry.name == name).map(|entry| entry.shape.to_vec());
        let shape = shape.unwrap_or_default();
        let view = checkpoint.require(name, &shape)?;
        let scales = match view.dtype {
            DType::F8E4M3 => Some(BlockScales::open(checkpoint, name, &shape)?),
            _ => None,
        };
        let folder = checkpoint.folder().to_owned();
        let read = move |row: usize, out: &mut [f32]| {
            let quantise = |source| WeightsError::Quantise { file: folder.clone(), source };
            dequantize_row(view.dtype, row_bytes(&view, row), out).map_err(quantise)?;
            if let Some(scales) = &scales {
                scales.apply(row, out);
            }
            Ok(())
        };
        Ok(Self { shape, read: Box::new(read) })
    }

    pub(crate) fn into_source(self) -> Box<RowSource<'a>> {
        self.read
    }

    #[expect(
        clippy::arithmetic_side_effects,
        reason = "dimensions of an open checkpoint, whose product has been checked"
    )]
    /// From halves that are rotated together to pairs that lie side by side: of a head's rows 0..d, row
    /// `2i + j` of the result is row `j·d/2 + i`.
    pub(crate) fn interleaved(self, heads: usize) -> Self {
        let rows = match self.shape.as_slice() {
            [rows] => *rows,
            [rows, ..] => *rows,
            [] => 1,
        };
        let head_dim = rows.checked_div(heads).unwrap_or(0);
        let source_row = move |row: usize| {
            let within = row.checked_rem(head_dim).unwrap_or(0);
            (row - within) + (within % 2) * (head_dim / 2) + within / 2
        };
        let read = self.read;
        let shape = self.shape;
        if shape.len() < 2 {
            // A bias is one row of the file; its values are reordered as a matrix's rows are.
            let read = move |row: usize, out: &mut [f32]| {
                let mut values = vec![0.0; out.len()];
                read(row, &mut values)?;
                for (i, out) in out.iter_mut().enumerate() {
                    *out = values.get(source_row(i)).copied().unwrap_or(0.0);
                }
                Ok(())
            };
            return Self { shape, read: Box::new(read) };
        }
        let read = move |row: usize, out: &mut [f32]| read(source_row(row), out);
        Self { shape, read: Box::new(read) }
    }

    #[expect(
        clippy::arithmetic_side_effects,
        reason = "dimensions of an open checkpoint, whose product has been checked"
    )]
    /// kv_b_proj, [heads · (nope + v), rank], as keys [heads, rank, nope] and values [heads, v, rank].
    pub(crate) fn split_heads(
        self,
        checkpoint: &Checkpoint,
        heads: usize,
        nope: usize,
        v: usize,
        rank: usize,
    ) -> Result<(Self, Self), WeightsError> {
        let per_head = nope.saturating_add(v);
        let expected = [heads.saturating_mul(per_head), rank];
        if self.shape != expected {
            return Err(WeightsError::Shape {
                file: checkpoint.folder().to_owned(),
                name: "kv_b_proj.weight".to_owned(),
                found: self.shape,
                expected: expected.to_vec(),
            });
        }
        // Keys are transposed, so a row of the result needs all of a head's rows: they are read once.
        let mut all = vec![0.0; heads.saturating_mul(per_head).saturating_mul(rank)];
        for (row, out) in all.chunks_exact_mut(rank).enumerate() {
            (self.read)(row, out)?;
        }
        let all = std::rc::Rc::new(all);
        let keys = {
            let all = std::rc::Rc::clone(&all);
            move |row: usize, out: &mut [f32]| {
                let (head, latent) = (row / rank, row % rank);
                for (i, out) in out.iter_mut().enumerate() {
                    *out = all.get((head * per_head + i) * rank + latent).copied().unwrap_or(0.0);
                }
                Ok(())
            }
        };
        let values = move |row: usize, out: &mut [f32]| {
            let start = ((row / v) * per_head + nope + row % v) * rank;
            out.copy_from_slice(all.get(start..start + rank).unwrap_or_default());
            Ok(())
        };
        Ok((
            Self { shape: vec![heads, rank, nope], read: Box::new(keys) },
            Self { shape: vec![heads, v, rank], read: Box::new(values) },
        ))
    }
}

#[expect(
    clippy::arithmetic_side_effects,
    reason = "dimensions of an open checkpoint, whose product has been checked"
)]
/// Matrices of one shape as one tensor [n, rows, columns].
pub(crate) fn stacked<'a>(
    parts: Vec<Rows<'a>>,
    name: &str,
    checkpoint: &Checkpoint,
) -> Result<Rows<'a>, WeightsError> {
    let first = parts.first().map(|part| part.shape.clone()).unwrap_or_default();
    let [rows, columns] = first.as_slice() else {
        let found = format!("a tensor of {} dimensions", first.len());
        let problem = ConfigProblem::WrongType { found, expected: "a matrix" };
        return Err(WeightsError::config(checkpoint.folder(), name, problem));
    };
    if let Some(other) = parts.iter().find(|part| part.shape != first) {
        return Err(WeightsError::Shape {
            file: checkpoint.folder().to_owned(),
            name: name.to_owned(),
            found: other.shape.clone(),
            expected: first,
        });
    }
    let (rows, columns) = (*rows, *columns);
    let shape = vec![parts.len(), rows, columns];
    let read = move |row: usize, out: &mut [f32]| match parts.get(row / rows) {
        Some(part) => (part.read)(row % rows, out),
        None => Ok(()),
    };
    Ok(Rows { shape, read: Box::new(read) })
}

fn row_bytes<'a>(view: &TensorView<'a>, row: usize) -> &'a [u8] {
    let columns = view.shape.last().copied().unwrap_or(1);
    let len = view.dtype.row_bytes(columns).unwrap_or(0);
    let start = row.saturating_mul(len);
    view.bytes.get(start..start.saturating_add(len)).unwrap_or_default()
}

/// `…weight_scale_inv`: a factor for each block of an FP8 matrix.
struct BlockScales {
    block: Fp8Config,
    /// Blocks in a row.
    across: usize,
    scales: Vec<f32>,
}

impl BlockScales {
    fn open(checkpoint: &Checkpoint, name: &str, shape: &[usize]) -> Result<Self, WeightsError> {
        let missing = |field: &str| WeightsError::config(checkpoint.folder(), field, ConfigProblem::Missing);
        let block = checkpoint.config()?.quantization.ok_or_else(|| missing("quantization_config"))?;
        let &[rows, columns] = shape else { return Err(missing("weight_scale_inv")) };
        let [high, wide] = block.weight_block_size;
        let (down, across) = (rows.div_ceil(high), columns.div_ceil(wide));
        let view = checkpoint.require(&format!("{name}_scale_inv"), &[down, across])?;
        let mut scales = vec![0.0; down.saturating_mul(across)];
        dequantize_row(view.dtype, view.bytes, &mut scales)
            .map_err(|source| WeightsError::Quantise { file: checkpoint.folder().to_owned(), source })?;
        Ok(Self { block, across, scales })
    }

    #[expect(clippy::arithmetic_side_effects, reason = "validation refuses blocks of no rows")]
    fn apply(&self, row: usize, out: &mut [f32]) {
        let [high, wide] = self.block.weight_block_size;
        let start = (row / high).saturating_mul(self.across);
        for (block, out) in out.chunks_mut(wide).enumerate() {
            let scale = self.scales.get(start.saturating_add(block)).copied().unwrap_or(1.0);
            out.iter_mut().for_each(|x| *x *= scale);
        }
    }
}
