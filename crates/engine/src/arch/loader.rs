//! Takes tensors out of a checkpoint, with the shapes an architecture expects.

use std::collections::HashSet;

use levain_kernels::{Matrix, Pool, dequantize_row};
use levain_weights::{Checkpoint, ModelConfig};

use crate::error::EngineError;
use crate::ops::{GatedMlp, Linear, RmsNorm};

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

    /// A matrix of `rows` outputs and `cols` inputs, in whatever type it is stored.
    pub(super) fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Matrix, EngineError> {
        let tensor = self.checkpoint.require(name, &[rows, cols])?;
        self.used.insert(name.to_owned());
        let matrix = Matrix::pack(tensor.dtype, rows, cols, tensor.bytes, self.pool)?;
        // The packed copy is what is used from now on; the file's pages may go.
        self.checkpoint.release(name)?;
        Ok(matrix)
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

    /// Refuses a checkpoint whose layers have a bias that nothing used: leaving it out would give wrong results
    /// without a word.
    pub(super) fn refuse_unused(&self, config: &ModelConfig) -> Result<(), EngineError> {
        let layers = config.num_hidden_layers;
        for name in self.checkpoint.tensor_names() {
            let layer = name
                .strip_prefix("model.layers.")
                .and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
            if name.ends_with(".bias")
                && layer.is_some_and(|layer| layer < layers)
                && !self.used.contains(name)
            {
                let model_type = config.model_type.name();
                return Err(EngineError::Unsupported {
                    what: format!("`{name}` has no place in the architecture `{model_type}`"),
                });
            }
        }
        Ok(())
    }
}
