//! Multi-token prediction (DeepSeek-V3, arXiv 2412.19437, section 2.2): a layer behind the model's last that guesses
//! the token after the next.
//!
//! Row i joins the model's state at position i with the embedding of the token at i + 1 and gives the state from
//! which the output head reads the token at i + 2. The state is taken after the final norm, as Hugging Face
//! transformers does.

use levain_kernels::{FloatBuffer, Matrix};

use super::loader::Loader;
use crate::error::EngineError;
use crate::ops::{Linear, Ops, RmsNorm};

/// What the layer has beside an ordinary decoder layer. Embedding and output head are the model's own; the copies
/// that checkpoints hold are not loaded.
#[derive(Debug)]
pub(super) struct MtpJoin {
    /// Norm of the embedding, `[hidden]`
    enorm: RmsNorm,
    /// Norm of the model's state, `[hidden]`
    hnorm: RmsNorm,
    /// `[hidden, 2·hidden]`, embedding first
    eh_proj: Linear,
    /// `shared_head.norm`, before the output head, `[hidden]`
    pub(super) norm: RmsNorm,
    /// `[rows_max, hidden]`
    normed: FloatBuffer,
    /// `[rows_max, 2·hidden]`
    joined: FloatBuffer,
}

impl MtpJoin {
    pub(super) fn load(
        loader: &mut Loader<'_>,
        prefix: &str,
        hidden: usize,
        eps: f32,
        rows_max: usize,
    ) -> Result<Self, EngineError> {
        Ok(Self {
            enorm: loader.norm(&format!("{prefix}.enorm"), hidden, eps)?,
            hnorm: loader.norm(&format!("{prefix}.hnorm"), hidden, eps)?,
            eh_proj: loader.linear(&format!("{prefix}.eh_proj"), hidden, 2 * hidden, false)?,
            norm: loader.norm(&format!("{prefix}.shared_head.norm"), hidden, eps)?,
            normed: FloatBuffer::zeroed(rows_max * hidden),
            joined: FloatBuffer::zeroed(rows_max * 2 * hidden),
        })
    }

    pub(super) fn each_matrix(&mut self, f: &mut dyn FnMut(&mut Matrix)) {
        f(&mut self.eh_proj.weight);
    }

    /// The layer's input `x` from embeddings and states, all `[n, hidden]`.
    pub(super) fn join(&mut self, ops: &mut Ops, n: usize, embedded: &[f32], states: &[f32], x: &mut [f32]) {
        let hidden = self.norm.weight.len();
        let normed = &mut self.normed[..n * hidden];
        let joined = &mut self.joined[..n * 2 * hidden];
        for (half, (norm, part)) in [(&self.enorm, embedded), (&self.hnorm, states)].into_iter().enumerate() {
            ops.norm(norm, part, n, normed);
            for (row, part) in joined.chunks_exact_mut(2 * hidden).zip(normed.chunks_exact(hidden)) {
                row[half * hidden..][..hidden].copy_from_slice(part);
            }
        }
        ops.linear(joined, n, [(&self.eh_proj, x)]);
    }
}
