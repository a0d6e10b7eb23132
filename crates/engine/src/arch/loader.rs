//! Takes tensors out of a checkpoint, with the shapes an architecture expects.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use levain_kernels::{DType, Matrix, Pool, dequantize_row, quantize_row};
use levain_weights::{Checkpoint, ModelConfig, TensorReader};

use crate::error::EngineError;
use crate::experts::{ExpertPlace, MatrixPlace};
use crate::ops::{GatedMlp, Linear, RmsNorm};

/// Rows and columns of an FP8 matrix that share a scale.
pub(super) const F8_BLOCK: usize = 128;

/// A checkpoint being loaded.
pub(super) struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    pool: &'a Pool,
    used: HashSet<String>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(checkpoint: &'a Checkpoint, pool: &'a Pool) -> Self {
        Self { checkpoint, pool, used: HashSet::new() }
    }

    /// A matrix of `rows` outputs and `cols` inputs, in whatever type it is stored, not packed yet. FP8 comes with the
    /// scales of its blocks in `…weight_scale_inv`.
    pub(super) fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Matrix, EngineError> {
        let tensor = self.checkpoint.stored(name, &[rows, cols])?;
        self.used.insert(name.to_owned());
        let scales = match tensor.dtype {
            DType::F8E4M3 => self.scales(name, rows, cols)?,
            _ => Vec::new(),
        };
        Ok(Matrix::stored(tensor.dtype, rows, cols, Arc::new(tensor), scales)?)
    }

    /// A small matrix that is to be multiplied without any quantisation, such as a router.
    pub(super) fn f32_matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Matrix, EngineError> {
        let (values, _) = self.floats(name, &[rows, cols])?;
        self.pack_as(DType::F32, rows, cols, &values)
    }

    /// A stack of matrices `[count, rows, cols]`, one by one.
    pub(super) fn stack(
        &mut self,
        name: &str,
        [count, rows, cols]: [usize; 3],
    ) -> Result<Vec<Matrix>, EngineError> {
        let tensor = self.checkpoint.require(name, &[count, rows, cols])?;
        self.used.insert(name.to_owned());
        let bytes = tensor.bytes.len() / count.max(1);
        let parts = tensor.bytes.chunks_exact(bytes.max(1));
        let matrices = parts
            .map(|part| Matrix::pack(tensor.dtype, rows, cols, part, self.pool))
            .collect::<Result<_, _>>()?;
        // The packed copy is what is used from now on; the file's pages may go.
        self.checkpoint.release(name)?;
        Ok(matrices)
    }

    /// Some rows of a matrix `[rows, cols]`, in the type it is stored in. Of FP8 they begin where blocks do.
    pub(super) fn rows(
        &mut self,
        name: &str,
        [rows, cols]: [usize; 2],
        part: Range<usize>,
    ) -> Result<Matrix, EngineError> {
        let tensor = self.checkpoint.require(name, &[rows, cols])?;
        self.used.insert(name.to_owned());
        let row_bytes = tensor.bytes.len() / rows.max(1);
        let bytes = tensor.bytes.get(part.start * row_bytes..part.end * row_bytes).unwrap_or_default();
        match tensor.dtype {
            DType::F8E4M3 => {
                let scales = self.scales(name, rows, cols)?;
                let scales_a_row = cols.div_ceil(F8_BLOCK);
                let blocks = part.start / F8_BLOCK..part.end.div_ceil(F8_BLOCK);
                let scales = &scales[blocks.start * scales_a_row..blocks.end * scales_a_row];
                Ok(Matrix::pack_f8(part.len(), cols, bytes, scales, self.pool)?)
            }
            dtype => Ok(Matrix::pack(dtype, part.len(), cols, bytes, self.pool)?),
        }
    }

    /// All values of a tensor as floats, and the type it is stored in.
    pub(super) fn floats(&mut self, name: &str, shape: &[usize]) -> Result<(Vec<f32>, DType), EngineError> {
        let tensor = self.checkpoint.require(name, shape)?;
        self.used.insert(name.to_owned());
        let mut values = vec![0.0; shape.iter().product()];
        dequantize_row(tensor.dtype, tensor.bytes, &mut values)?;
        if let (DType::F8E4M3, &[rows, cols]) = (tensor.dtype, shape) {
            let scales = self.scales(name, rows, cols)?;
            for (index, value) in values.iter_mut().enumerate() {
                let (row, col) = (index / cols, index % cols);
                *value *= scales[row / F8_BLOCK * cols.div_ceil(F8_BLOCK) + col / F8_BLOCK];
            }
        }
        self.checkpoint.release(name)?;
        Ok((values, tensor.dtype))
    }

    /// Packs values that were floats, in another type.
    pub(super) fn pack_as(
        &self,
        dtype: DType,
        rows: usize,
        cols: usize,
        values: &[f32],
    ) -> Result<Matrix, EngineError> {
        let len = dtype.row_bytes(values.len()).unwrap_or(0);
        let mut bytes = vec![0; len];
        quantize_row(dtype, values, &mut bytes)?;
        Ok(Matrix::pack(dtype, rows, cols, &bytes, self.pool)?)
    }

    /// Lets a tensor's pages go, after [`Loader::rows`].
    pub(super) fn release(&self, name: &str) -> Result<(), EngineError> {
        Ok(self.checkpoint.release(name)?)
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.checkpoint.contains(name)
    }

    /// The block scales of an FP8 matrix.
    fn scales(&mut self, name: &str, rows: usize, cols: usize) -> Result<Vec<f32>, EngineError> {
        let name = format!("{name}_scale_inv");
        let shape = [rows.div_ceil(F8_BLOCK), cols.div_ceil(F8_BLOCK)];
        Ok(self.floats(&name, &shape)?.0)
    }

    /// A vector, as floats.
    pub(super) fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, EngineError> {
        let tensor = self.checkpoint.require(name, &[len])?;
        self.used.insert(name.to_owned());
        let mut values = vec![0.0; len];
        dequantize_row(tensor.dtype, tensor.bytes, &mut values)?;
        Ok(values)
    }

    /// `{prefix}.weight` as an RMS norm.
    pub(super) fn norm(&mut self, prefix: &str, len: usize, eps: f32) -> Result<RmsNorm, EngineError> {
        Ok(RmsNorm { weight: self.vector(&format!("{prefix}.weight"), len)?, eps })
    }

    /// `{prefix}.weight`, and `{prefix}.bias` where there is to be one.
    pub(super) fn linear(
        &mut self,
        prefix: &str,
        rows: usize,
        cols: usize,
        bias: bool,
    ) -> Result<Linear, EngineError> {
        let weight = self.matrix(&format!("{prefix}.weight"), rows, cols)?;
        let bias = if bias { Some(self.vector(&format!("{prefix}.bias"), rows)?) } else { None };
        Ok(Linear { weight, bias })
    }

    /// Where an expert lies that is read when it is needed.
    pub(super) fn expert_place(
        &mut self,
        prefix: &str,
        hidden: usize,
        width: usize,
    ) -> Result<ExpertPlace, EngineError> {
        Ok(ExpertPlace {
            gate_proj: self.matrix_place(&format!("{prefix}.gate_proj.weight"), width, hidden)?,
            up_proj: self.matrix_place(&format!("{prefix}.up_proj.weight"), width, hidden)?,
            down_proj: self.matrix_place(&format!("{prefix}.down_proj.weight"), hidden, width)?,
        })
    }

    fn matrix_place(&mut self, name: &str, rows: usize, cols: usize) -> Result<MatrixPlace, EngineError> {
        let place = self.checkpoint.place(name, &[rows, cols])?;
        self.used.insert(name.to_owned());
        let scales = match place.dtype {
            DType::F8E4M3 => self.scales(name, rows, cols)?,
            _ => Vec::new(),
        };
        Ok(MatrixPlace { place, rows, cols, scales })
    }

    /// The checkpoint's files, for reading experts.
    pub(super) fn reader(&self) -> Result<TensorReader, EngineError> {
        Ok(self.checkpoint.reader()?)
    }

    /// `{prefix}.gate_proj`, `up_proj` and `down_proj`.
    pub(super) fn gated_mlp(
        &mut self,
        prefix: &str,
        hidden: usize,
        width: usize,
    ) -> Result<GatedMlp, EngineError> {
        Ok(GatedMlp {
            gate_proj: self.matrix(&format!("{prefix}.gate_proj.weight"), width, hidden)?,
            up_proj: self.matrix(&format!("{prefix}.up_proj.weight"), width, hidden)?,
            down_proj: self.matrix(&format!("{prefix}.down_proj.weight"), hidden, width)?,
        })
    }

    /// Refuses a checkpoint whose layers have a bias that nothing used, or that has layers which the description
    /// does not count: leaving them out would give wrong results without a word.
    pub(super) fn refuse_unused(&self, config: &ModelConfig) -> Result<(), EngineError> {
        let layers = config.num_hidden_layers;
        for name in self.checkpoint.tensor_names() {
            let layer = name
                .strip_prefix("model.layers.")
                .and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
            // Layers for multi-token prediction follow the last one, and are not always used.
            if let Some(layer) = layer.filter(|&layer| layer >= layers)
                && !self.contains(&format!("model.layers.{layer}.eh_proj.weight"))
            {
                return Err(EngineError::ModelField {
                    field: "num_hidden_layers",
                    value: layers.to_string(),
                    expected: "as many as there are layers in the weights, which have more",
                });
            }
            let bias = name.ends_with(".bias") || name.ends_with("_correction_bias");
            if bias && layer.is_some_and(|layer| layer < layers) && !self.used.contains(name) {
                let model_type = config.model_type.name();
                return Err(EngineError::Unsupported {
                    what: format!("`{name}` has no place in the architecture `{model_type}`"),
                });
            }
        }
        Ok(())
    }
}
