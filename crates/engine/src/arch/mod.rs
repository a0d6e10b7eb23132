//! The model: what all architectures share, and the registry of their layers.

mod common;
mod deepseek;
mod kv_b;
mod llama;
mod loader;
mod mtp;
mod qwen2;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use levain_kernels::{FloatBuffer, KernelError, KvCache, Matrix, Pool, PrefetchChoice, PrefetchPolicy};
use levain_weights::{Checkpoint, ModelConfig, ModelType};

use crate::error::EngineError;
use crate::experts::ExpertStats;
use crate::ops::{ForwardBatch, Ops, RmsNorm};
use loader::Loader;

pub(crate) use common::{EXPANDED_ROWS, cols_max};

pub use kv_b::latent_dtypes;
pub(crate) use kv_b::{expansion_bytes, whole_bytes};

/// The layers of an architecture, between embedding and final norm.
pub(crate) trait Arch: Send + fmt::Debug {
    /// Takes the residual stream `x` `[n, hidden]` through all layers and appends each row's keys and values to
    /// the cache. `n` is at most the number of rows the architecture was loaded for. Rows that are not wanted may
    /// come out as anything.
    fn layers(&mut self, ops: &mut Ops, batch: &ForwardBatch<'_>, kv: &mut KvCache, x: &mut [f32]);

    /// Calls `f` with each matrix that may not be packed yet, about in the order of their use.
    fn each_matrix(&mut self, f: &mut dyn FnMut(&mut Matrix));

    /// The states from which the output head reads the token after the next, where the architecture has a layer
    /// for that and it is loaded: into `x` `[n, hidden]`, before the norm that is returned.
    ///
    /// `batch` holds the next tokens at their predecessors' positions, `embedded` their embeddings and `states` the
    /// model's states at these positions after the final norm, both `[n, hidden]`. `kv` is a cache of this layer alone.
    fn predict_ahead(
        &mut self,
        ops: &mut Ops,
        batch: &ForwardBatch<'_>,
        kv: &mut KvCache,
        embedded: &[f32],
        states: &[f32],
        x: &mut [f32],
    ) -> Option<&RmsNorm> {
        let _ = (ops, batch, kv, embedded, states, x);
        None
    }

    /// What reading experts has done, where they do not all fit into memory.
    fn expert_stats(&self) -> Option<ExpertStats> {
        None
    }
}

/// How a model is loaded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadOptions {
    /// The most rows of a step.
    pub(crate) rows_max: usize,
    /// The most rows whose logits are computed together.
    pub(crate) logit_rows_max: usize,
    /// Positions stay below this.
    pub(crate) context_length: usize,
    /// Bytes of experts in memory at a time, where they do not all fit.
    pub(crate) expert_cache_bytes: Option<u64>,
    /// Whether to load the layer for multi-token prediction.
    pub(crate) mtp: bool,
    /// The position from which on prompts may be computed in the expanded form of latent attention; `None` where that
    /// never happens.
    pub(crate) expanded_from: Option<usize>,
    /// How weights are asked for.
    pub(crate) prefetch: PrefetchPolicy,
}

/// What predicting the token after the next works in.
#[derive(Debug)]
struct Ahead {
    /// Embeddings of next tokens and states before them, `[rows_max, hidden]`
    embedded: FloatBuffer,
    states: FloatBuffer,
    /// Results before and after their norm, `[rows_max, hidden]`
    x: FloatBuffer,
    normed: FloatBuffer,
}

impl Ahead {
    fn new(rows_max: usize, hidden: usize) -> Self {
        let buffer = || FloatBuffer::zeroed(rows_max * hidden);
        Self { embedded: buffer(), states: buffer(), x: buffer(), normed: buffer() }
    }
}

/// Where the states come from that [`Model::predict_ahead`] begins with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AheadOf<'a> {
    /// These rows of the last step.
    Step(&'a [usize]),
    /// These rows of the last prediction, to predict one token further.
    Prediction(&'a [usize]),
}

/// A loaded model.
#[derive(Debug)]
pub(crate) struct Model {
    ops: Ops,
    arch: Box<dyn Arch>,
    embed_tokens: Matrix,
    norm: RmsNorm,
    /// `None` where the embedding serves as output head.
    lm_head: Option<Matrix>,
    /// Residual stream of the last step, `[rows_max, hidden]`.
    x: FloatBuffer,
    attention_part: f64,
    expanded_from: Option<usize>,
    /// Where there is a layer that predicts the token after the next.
    ahead: Option<Ahead>,
    /// Rows of it that go into logits, as they are and after the final norm, `[logit_rows_max, hidden]`.
    gathered: FloatBuffer,
    normed: FloatBuffer,
    /// Bytes of weights in the files that are not packed yet.
    unpacked_bytes: usize,
}

impl Model {
    /// Loads all weights; most of them are not packed yet, see [`Model::pack`]. Steps may have up to `rows_max` rows,
    /// calls of [`Model::logits`] up to `logit_rows_max`, and positions stay below `context_length`.
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        pool: Arc<Pool>,
        options: &LoadOptions,
    ) -> Result<Self, EngineError> {
        let &LoadOptions { rows_max, logit_rows_max, context_length, .. } = options;
        let hidden = config.hidden_size;
        let mut loader = Loader::new(checkpoint, &pool);
        let arch: Box<dyn Arch> = match config.model_type {
            ModelType::Llama => Box::new(llama::load(&mut loader, config, rows_max, context_length)?),
            ModelType::Qwen2 => Box::new(qwen2::load(&mut loader, config, rows_max, context_length)?),
            ModelType::DeepseekV2 | ModelType::DeepseekV3 => {
                Box::new(deepseek::load(&mut loader, config, options)?)
            }
            other => {
                return Err(EngineError::Unsupported { what: format!("architecture `{}`", other.name()) });
            }
        };
        let embed_tokens = loader.matrix("model.embed_tokens.weight", config.vocab_size, hidden)?;
        let norm = loader.norm("model.norm", hidden, config.rms_norm_eps)?;
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => Some(loader.matrix("lm_head.weight", config.vocab_size, hidden)?),
        };
        loader.refuse_unused(config)?;
        let mut model = Self {
            ops: Ops::new(pool, rows_max, common::cols_max(config), options.prefetch),
            arch,
            embed_tokens,
            norm,
            lm_head,
            x: FloatBuffer::zeroed(rows_max * hidden),
            gathered: FloatBuffer::zeroed(logit_rows_max * hidden),
            normed: FloatBuffer::zeroed(logit_rows_max * hidden),
            attention_part: common::attention_part(config),
            expanded_from: options.expanded_from,
            ahead: options.mtp.then(|| Ahead::new(rows_max, hidden)),
            unpacked_bytes: 0,
        };
        let mut bytes = 0;
        model.each_matrix(&mut |matrix| bytes += matrix.unpacked_bytes());
        model.unpacked_bytes = bytes;
        Ok(model)
    }

    fn each_matrix(&mut self, f: &mut dyn FnMut(&mut Matrix)) {
        self.arch.each_matrix(f);
        self.lm_head.iter_mut().for_each(&mut *f);
        f(&mut self.embed_tokens);
    }

    /// Bytes of weights that are still in the files alone. Steps work without [`Model::pack`] too, with the same
    /// results, but take longer.
    pub(crate) fn unpacked_bytes(&self) -> usize {
        self.unpacked_bytes
    }

    /// Packs weights for about so long, a part at the least, or until all are packed; those that a step needs first
    /// come first.
    ///
    /// # Errors
    /// If a weight is not a finite number. The model is of no use then.
    pub(crate) fn pack(&mut self, time: Duration) -> Result<(), KernelError> {
        if self.unpacked_bytes == 0 {
            return Ok(());
        }
        let start = Instant::now();
        let pool = Arc::clone(self.ops.pool());
        let (mut rest, mut begun, mut result) = (0, false, Ok(()));
        self.each_matrix(&mut |matrix| {
            while result.is_ok() && matrix.unpacked_bytes() > 0 && !(begun && start.elapsed() >= time) {
                result = matrix.pack_next(&pool);
                begun = true;
            }
            rest += matrix.unpacked_bytes();
        });
        self.unpacked_bytes = rest;
        if rest == 0 {
            self.ops.forget_unpacked();
        }
        result
    }

    /// Puts other layers in the place of the model's.
    #[cfg(test)]
    pub(crate) fn replace_layers(&mut self, replace: impl FnOnce(Box<dyn Arch>) -> Box<dyn Arch>) {
        let layers = std::mem::replace(&mut self.arch, Box::new(tests::NoLayers));
        self.arch = replace(layers);
    }

    pub(crate) fn vocab_size(&self) -> usize {
        self.embed_tokens.rows()
    }

    /// Multiplications that a position before a row adds, as part of those that a row takes anyway; about.
    pub(crate) fn attention_part(&self) -> f64 {
        self.attention_part
    }

    /// The position from which on prompts may be computed in the expanded form of latent attention.
    pub(crate) fn expanded_from(&self) -> Option<usize> {
        self.expanded_from
    }

    pub(crate) fn hidden_size(&self) -> usize {
        self.embed_tokens.cols()
    }

    /// Computes a step. The residual stream of the rows that are wanted stays for [`Model::logits`] and
    /// [`Model::hidden_states`].
    ///
    /// # Errors
    /// If weights had to be read from the disk and could not be, or were no numbers; the step is void then.
    pub(crate) fn forward(&mut self, batch: &ForwardBatch<'_>, kv: &mut KvCache) -> Result<(), EngineError> {
        let n = batch.n();
        let x = &mut self.x[..n * self.embed_tokens.cols()];
        self.ops.begin_step();
        self.ops.embed(&self.embed_tokens, batch.tokens, x);
        self.arch.layers(&mut self.ops, batch, kv, x);
        self.ops.take_failure().map_or(Ok(()), Err)
    }

    /// Predicts the tokens after the next, see [`Arch::predict_ahead`]; `batch` has a row for each of `rows`.
    ///
    /// The states stay for [`Model::ahead_logits`]. `false` where the model has no layer for it.
    ///
    /// # Errors
    /// As for [`Model::forward`].
    pub(crate) fn predict_ahead(
        &mut self,
        batch: &ForwardBatch<'_>,
        kv: &mut KvCache,
        rows: AheadOf<'_>,
    ) -> Result<bool, EngineError> {
        let hidden = self.embed_tokens.cols();
        let Some(Ahead { embedded, states, x, normed }) = &mut self.ahead else { return Ok(false) };
        let (n, len) = (batch.n(), batch.n() * hidden);
        let gather = |from: &[f32], rows: &[usize], to: &mut [f32]| {
            for (row, to) in rows.iter().zip(to.chunks_exact_mut(hidden)) {
                to.copy_from_slice(&from[row * hidden..][..hidden]);
            }
        };
        match rows {
            AheadOf::Step(rows) => {
                gather(&self.x, rows, x);
                self.ops.norm(&self.norm, &x[..len], n, &mut states[..len]);
            }
            // A prediction's states have been through their norm.
            AheadOf::Prediction(rows) => gather(normed, rows, states),
        }
        self.ops.embed(&self.embed_tokens, batch.tokens, &mut embedded[..len]);
        let (embedded, states, x) = (&embedded[..len], &states[..len], &mut x[..len]);
        let Some(norm) = self.arch.predict_ahead(&mut self.ops, batch, kv, embedded, states, x) else {
            return Ok(false);
        };
        self.ops.norm(norm, x, n, &mut normed[..len]);
        self.ops.take_failure().map_or(Ok(true), Err)
    }

    /// The logits of the given rows of the last prediction, `[rows.len(), vocab]`, at most `logit_rows_max` of them.
    pub(crate) fn ahead_logits(&mut self, rows: &[usize], logits: &mut [f32]) {
        let hidden = self.embed_tokens.cols();
        let Some(ahead) = &self.ahead else { return };
        for (&row, gathered) in rows.iter().zip(self.gathered.chunks_exact_mut(hidden)) {
            gathered.copy_from_slice(&ahead.normed[row * hidden..][..hidden]);
        }
        let head = self.lm_head.as_ref().unwrap_or(&self.embed_tokens);
        self.ops.project(head, &self.gathered[..rows.len() * hidden], rows.len(), logits);
    }

    /// What was learnt about how to ask for weights, if that is more than the last time.
    pub(crate) fn take_prefetch_news(&mut self) -> Option<Vec<PrefetchChoice>> {
        self.ops.take_prefetch_news()
    }

    pub(crate) fn expert_stats(&self) -> Option<ExpertStats> {
        self.arch.expert_stats()
    }

    /// The final norm of the given rows of the last step, `[rows.len(), hidden]`, at most `logit_rows_max` of them.
    pub(crate) fn hidden_states(&mut self, rows: impl ExactSizeIterator<Item = usize>) -> &[f32] {
        let hidden = self.hidden_size();
        let n = rows.len();
        for (row, gathered) in rows.zip(self.gathered.chunks_exact_mut(hidden)) {
            gathered.copy_from_slice(&self.x[row * hidden..(row + 1) * hidden]);
        }
        let normed = &mut self.normed[..n * hidden];
        self.ops.norm(&self.norm, &self.gathered[..n * hidden], n, normed);
        normed
    }

    /// The logits of the given rows of the last step, `[rows.len(), vocab]`, at most `logit_rows_max` of them.
    ///
    /// # Errors
    /// As for [`Model::forward`].
    pub(crate) fn logits(
        &mut self,
        rows: impl ExactSizeIterator<Item = usize>,
        logits: &mut [f32],
    ) -> Result<(), EngineError> {
        let n = rows.len();
        self.hidden_states(rows);
        let head = self.lm_head.as_ref().unwrap_or(&self.embed_tokens);
        self.ops.project(head, &self.normed[..n * self.embed_tokens.cols()], n, logits);
        self.ops.take_failure().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests;
