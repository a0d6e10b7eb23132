//! What a model will take, known before any weight is read.

use std::fmt;

use levain_kernels::{DType, KvCache, KvDType, KvLayout};
use levain_weights::{Checkpoint, ModelConfig, TensorEntry};

use crate::arch::{EXPANDED_ROWS, cols_max, expansion_bytes, whole_bytes};
use crate::config::{CONTEXT_LENGTH_DEFAULT, EngineConfig, KvCacheType, Speculation};
use crate::cost::layer_of;
use crate::disk;
use crate::error::EngineError;
use crate::experts::BUFFERS;
use crate::spec::Windows;

/// Positions in a block of the KV cache.
pub const BLOCK_LEN: usize = 32;
/// Contexts that the cache holds unless told otherwise: sequences seldom use their whole context.
const CONTEXTS_IN_CACHE: usize = 4;
/// The shortest context that is chosen without being asked for.
const CONTEXT_LENGTH_MIN: usize = 512;
/// The share of free memory that is left alone, for what is not planned: allocator, threads, the rest of the program.
const MARGIN_DIVISOR: u64 = 64;

/// Bytes of a checkpoint's tensors as they are held in memory, by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WeightSizes {
    /// Everything that every token needs.
    pub trunk_bytes: u64,
    /// Routed experts, of which each token needs a few.
    pub expert_bytes: u64,
    /// The layer for multi-token prediction, where the plan is to use it.
    pub mtp_bytes: u64,
    /// Of these, its routed experts.
    pub mtp_expert_bytes: u64,
    /// A draft model with its cache and buffers, see [`WeightSizes::with_draft`].
    pub draft_bytes: u64,
    /// The key half of latent attention's `kv_b_proj` a second time, where the plan is to use the expanded form.
    pub key_expansion_bytes: u64,
    /// Whether every tensor is F32, or FP8 with scales in F32: what is computed with them is computed in F32, and
    /// a cache of fewer bits would be the least exact part of the model.
    pub all_f32: bool,
}

impl WeightSizes {
    /// Adds up what the model uses; layers for multi-token prediction apart.
    pub fn of(checkpoint: &Checkpoint, config: &ModelConfig) -> Self {
        let mut sizes = Self { all_f32: true, ..Self::default() };
        for tensor in checkpoint.entries() {
            if tensor.name == "lm_head.weight" && config.tie_word_embeddings {
                continue;
            }
            let bytes = held_bytes(&tensor, config);
            let layer = layer_of(tensor.name);
            if layer.is_some_and(|layer| layer >= config.num_hidden_layers) {
                // Embedding and head are copies of the model's and not loaded; later layers are not used.
                let copy =
                    tensor.name.contains(".embed_tokens.") || tensor.name.contains(".shared_head.head.");
                if layer == Some(config.num_hidden_layers) && !copy {
                    sizes.mtp_bytes = sizes.mtp_bytes.saturating_add(bytes);
                    if tensor.name.contains(".mlp.experts.") {
                        sizes.mtp_expert_bytes = sizes.mtp_expert_bytes.saturating_add(bytes);
                    }
                }
                continue;
            }
            let expansion = key_expansion_bytes(&tensor, config);
            sizes.key_expansion_bytes = sizes.key_expansion_bytes.saturating_add(expansion);
            if tensor.name.contains(".mlp.experts.") {
                sizes.expert_bytes = sizes.expert_bytes.saturating_add(bytes);
            } else {
                sizes.trunk_bytes = sizes.trunk_bytes.saturating_add(bytes);
            }
            sizes.all_f32 &= matches!(tensor.storage.dtype(), Some(DType::F32 | DType::F8E4M3));
        }
        sizes
    }

    /// Adds a model that drafts: its weights, all of which stay in memory, and what it works in.
    pub fn with_draft(self, draft: &Checkpoint, engine: &EngineConfig) -> Result<Self, EngineError> {
        engine.validate()?;
        let config = draft.config()?;
        let weights = Self::of(draft, &config).without_mtp();
        let layout = draft_window_layout(draft, &config, engine);
        let windows = Windows::bytes(engine.max_num_seqs, &layout)?;
        let draft_bytes = weights.total().saturating_add(windows);
        Ok(Self { draft_bytes: draft_bytes.saturating_add(scratch_bytes(&config, engine)), ..self })
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.trunk_bytes.saturating_add(self.expert_bytes).saturating_add(self.drafting())
    }

    /// What drafting takes.
    pub fn drafting(&self) -> u64 {
        self.mtp_bytes.saturating_add(self.draft_bytes)
    }

    /// The routed experts of all layers.
    fn routed(&self) -> u64 {
        self.expert_bytes.saturating_add(self.mtp_expert_bytes)
    }

    /// Without the layer for multi-token prediction.
    fn without_mtp(self) -> Self {
        Self { mtp_bytes: 0, mtp_expert_bytes: 0, ..self }
    }
}

/// Bytes of a tensor in memory: as many as in the file for most matrices, but for what fills up their last 16 rows;
/// vectors and routers are kept as floats, and latent attention's `kv_b_proj` in another form.
fn held_bytes(tensor: &TensorEntry<'_>, config: &ModelConfig) -> u64 {
    let Some(stored) = tensor.storage.dtype() else { return tensor.bytes as u64 };
    let &[.., rows, cols] = tensor.shape else {
        return saturating_product(tensor.shape.iter()).saturating_mul(4) as u64;
    };
    if tensor.name.ends_with("_scale_inv") {
        return tensor.bytes as u64;
    }
    if let Some(mla) = config.mla.as_ref().filter(|_| tensor.name.ends_with(".self_attn.kv_b_proj.weight")) {
        return whole_bytes(stored, config.num_attention_heads, mla) as u64;
    }
    let dtype = if tensor.name.ends_with(".mlp.gate.weight") { DType::F32 } else { stored };
    let stacked = saturating_product(tensor.shape.iter().rev().skip(2));
    let row_bytes = dtype.row_bytes(cols).unwrap_or(0);
    let rows = rows.checked_next_multiple_of(PANEL_ROWS).unwrap_or(usize::MAX);
    rows.saturating_mul(row_bytes).saturating_mul(stacked) as u64
}

/// The product of dimensions that a file names, which may be any numbers.
fn saturating_product<'a>(dimensions: impl Iterator<Item = &'a usize>) -> usize {
    dimensions.fold(1, |product, &n| product.saturating_mul(n))
}

/// What the key half of `kv_b_proj` takes as it is beside its transpose, where `tensor` holds that half.
fn key_expansion_bytes(tensor: &TensorEntry<'_>, config: &ModelConfig) -> u64 {
    let Some(mla) = &config.mla else { return 0 };
    let whole = tensor.name.ends_with(".self_attn.kv_b_proj.weight");
    match tensor.storage.dtype() {
        Some(stored) if whole || tensor.name.ends_with(".self_attn.k_b_proj.weight") => {
            expansion_bytes(stored, config.num_attention_heads, mla, whole) as u64
        }
        _ => 0,
    }
}

/// Rows that weights are packed by.
pub(crate) const PANEL_ROWS: usize = 16;

/// Everything the engine allocates, in bytes. Printing it gives a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Weights.
    pub weights: WeightSizes,
    /// Bytes of experts that are in memory at a time, where they do not all fit; `None` where they do.
    pub expert_cache_bytes: Option<u64>,
    /// Buffers for reading experts.
    pub read_buffer_bytes: u64,
    /// The KV cache.
    pub kv_bytes: u64,
    /// Activations, logits and the sampler's tables.
    pub scratch_bytes: u64,
    /// The program itself and the vocabulary.
    pub program_bytes: u64,
    /// What requests take outside the engine, see [`EngineConfig::request_bytes`].
    pub request_bytes: u64,
    /// What may be used, as far as known.
    pub free_bytes: Option<u64>,
    /// Tokens a sequence may have.
    pub context_length: usize,
    /// Tokens the cache holds for all sequences together.
    pub kv_cache_tokens: usize,
    /// Bytes of cache for one token.
    pub kv_bytes_per_token: u64,
    /// What the cache's numbers are stored as.
    pub kv_dtype: KvDType,
}

impl MemoryPlan {
    /// All bytes.
    pub fn total(&self) -> u64 {
        let buffers = self.scratch_bytes.saturating_add(self.read_buffer_bytes);
        let buffers = buffers.saturating_add(self.program_bytes).saturating_add(self.request_bytes);
        self.resident_weights().saturating_add(self.kv_bytes).saturating_add(buffers)
    }

    /// Bytes of weights in memory at a time.
    pub fn resident_weights(&self) -> u64 {
        let experts = self.expert_cache_bytes.unwrap_or(self.weights.routed());
        self.weights.total().saturating_sub(self.weights.routed()).saturating_add(experts)
    }

    /// Blocks of the KV cache.
    pub fn n_blocks(&self) -> usize {
        self.kv_cache_tokens / BLOCK_LEN
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, bytes: u64, note: &str| {
            writeln!(f, "{name:<10}{:>12}{note}", Size(bytes).to_string())
        };
        line("weights", self.weights.trunk_bytes, "")?;
        if self.weights.expert_bytes > 0 {
            match self.expert_cache_bytes {
                None => line("experts", self.weights.expert_bytes, "")?,
                Some(bytes) => {
                    let note =
                        format!("   of {}, the others are read as needed", Size(self.weights.routed()));
                    line("experts", bytes, &note)?;
                    line("reading", self.read_buffer_bytes, "")?;
                }
            }
        }
        if self.weights.drafting() > 0 {
            let among_experts = self.expert_cache_bytes.map_or(0, |_| self.weights.mtp_expert_bytes);
            line("drafting", self.weights.drafting().saturating_sub(among_experts), "")?;
        }
        let tokens = format!(
            "   {} tokens of {:?}, {} a context",
            self.kv_cache_tokens, self.kv_dtype, self.context_length
        );
        line("KV cache", self.kv_bytes, &tokens)?;
        line("scratch", self.scratch_bytes, "")?;
        line("program", self.program_bytes, "")?;
        if self.request_bytes > 0 {
            line("requests", self.request_bytes, "")?;
        }
        line("together", self.total(), "")?;
        if let Some(free) = self.free_bytes {
            line("free", free, "")?;
        }
        Ok(())
    }
}

/// A number of bytes in the largest binary unit below it.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        for unit in ["B", "KiB", "MiB", "GiB"] {
            if value < 1024.0 {
                return if unit == "B" {
                    write!(f, "{value} {unit}")
                } else {
                    write!(f, "{value:.1} {unit}")
                };
            }
            value /= 1024.0;
        }
        write!(f, "{value:.1} TiB")
    }
}

/// Plans for a checkpoint. Reads names and sizes only, no weights.
///
/// `free_bytes` is what may be used, see [`crate::free_memory`]; `None` checks nothing but the configured limit.
pub fn plan(
    checkpoint: &Checkpoint,
    engine: &EngineConfig,
    free_bytes: Option<u64>,
) -> Result<MemoryPlan, EngineError> {
    let config = checkpoint.config()?;
    plan_for(&config, WeightSizes::of(checkpoint, &config), engine, free_bytes)
}

/// [`plan`] from a model's description and its weights' sizes alone, for models that are not here yet.
pub fn plan_for(
    config: &ModelConfig,
    weights: WeightSizes,
    engine: &EngineConfig,
    free_bytes: Option<u64>,
) -> Result<MemoryPlan, EngineError> {
    engine.validate()?;
    let weights = match loads_mtp(config, engine) {
        true => weights,
        false => weights.without_mtp(),
    };
    let free = free_bytes.into_iter().chain(engine.memory_limit).min();
    let layout = kv_layout(config, engine, weights.all_f32);
    let block_bytes = layout.bytes_per_block()? as u64;
    let mut scratch = scratch_bytes(config, engine)
        .saturating_add(expanded_bytes(config, engine, &weights))
        .saturating_add(layer_bytes(config, engine, weights.all_f32)?);
    if engine.disk_cache.is_some() {
        scratch = scratch.saturating_add(block_bytes.saturating_mul(disk::BUFFERS as u64));
    }
    let asked = engine.context_length;
    if let Some(length) = asked
        && length > config.max_position_embeddings
    {
        return Err(EngineError::Setting {
            name: "context_length",
            value: length as u64,
            expected: "at most what the model was made for (`max_position_embeddings`)",
        });
    }
    let mut context_length = asked.unwrap_or(CONTEXT_LENGTH_DEFAULT).min(config.max_position_embeddings);
    let usable = free.map_or(u64::MAX, |free| free - free / MARGIN_DIVISOR);
    let program = program_bytes(config);
    let beside = scratch.saturating_add(program).saturating_add(engine.request_bytes);
    let all = weights.total().saturating_add(beside);
    let shortest = block_bytes.saturating_mul(context_length.div_ceil(BLOCK_LEN) as u64);
    // Experts that do not fit are read when they are needed.
    let streaming = Streaming::new(config, &weights).filter(|_| all.saturating_add(shortest) > usable);
    let fixed = match &streaming {
        None => all,
        Some(s) => {
            let kept = weights.total().saturating_sub(weights.routed());
            kept.saturating_add(beside).saturating_add(s.least_bytes)
        }
    };
    let margin = if streaming.is_some() { STREAMING_MARGIN } else { 0 };
    let usable = usable.saturating_sub(margin);
    // The block table may not name more blocks than an index holds.
    let blocks_max = (u32::MAX / BLOCK_LEN as u32) as u64;
    let blocks_that_fit = (usable.saturating_sub(fixed) / block_bytes.max(1)).min(blocks_max) as usize;
    if asked.is_none() && engine.kv_cache_tokens.is_none() {
        let least = context_length.min(CONTEXT_LENGTH_MIN);
        context_length = context_length.min(blocks_that_fit.saturating_mul(BLOCK_LEN)).max(least);
    }
    let needed_blocks = context_length.div_ceil(BLOCK_LEN);
    let n_blocks = match engine.kv_cache_tokens {
        Some(tokens) => tokens.div_ceil(BLOCK_LEN).max(needed_blocks),
        // Half of what is left at most goes into contexts beyond the first.
        // Memory is better spent on experts.
        None if streaming.is_some() => needed_blocks,
        None => (needed_blocks * CONTEXTS_IN_CACHE.min(engine.max_num_seqs))
            .min(blocks_that_fit / 2)
            .max(needed_blocks),
    };
    let kv_bytes = block_bytes.saturating_mul(n_blocks as u64);
    let left = usable.saturating_sub(fixed.saturating_add(kv_bytes));
    let expert_cache_bytes =
        streaming.map(|s| left.saturating_add(s.least_cache_bytes).min(weights.routed()));
    let read_buffer_bytes = streaming.map_or(0, |s| s.buffer_bytes);
    let plan = MemoryPlan {
        weights,
        expert_cache_bytes,
        read_buffer_bytes,
        kv_bytes,
        scratch_bytes: scratch,
        program_bytes: program,
        request_bytes: engine.request_bytes,
        free_bytes: free,
        context_length,
        kv_cache_tokens: n_blocks.saturating_mul(BLOCK_LEN),
        kv_bytes_per_token: block_bytes / BLOCK_LEN as u64,
        kv_dtype: layout.dtype,
    };
    match free {
        Some(free) if fixed.saturating_add(kv_bytes) > usable => Err(EngineError::OutOfMemory {
            // With so much free it fits.
            needed: (fixed.saturating_add(kv_bytes).saturating_add(margin) / (MARGIN_DIVISOR - 1))
                .saturating_add(1)
                .saturating_mul(MARGIN_DIVISOR),
            weights: plan.resident_weights(),
            cache: kv_bytes,
            scratch: beside,
            context_length: context_length as u64,
            free,
        }),
        _ => Ok(plan),
    }
}

/// What reading experts from the disk takes.
#[derive(Debug, Clone, Copy)]
struct Streaming {
    buffer_bytes: u64,
    /// The least cache that makes sense: what one token needs of a layer, twice.
    least_cache_bytes: u64,
    least_bytes: u64,
}

impl Streaming {
    /// `None` for a model without routed experts.
    fn new(config: &ModelConfig, weights: &WeightSizes) -> Option<Self> {
        let moe = config.moe.as_ref()?;
        let layers = (0..config.num_hidden_layers).filter(|&layer| moe.is_moe_layer(layer)).count() as u64;
        let expert = weights.expert_bytes.checked_div(layers.checked_mul(moe.n_routed_experts as u64)?)?;
        if expert == 0 {
            return None;
        }
        // Formats differ between layers by about a half, and buffers are as large as the largest expert.
        let buffer_bytes = expert.saturating_mul(BUFFERS as u64).saturating_mul(3) / 2;
        let least_cache_bytes = expert.saturating_mul(2 * moe.num_experts_per_tok as u64);
        Some(Self {
            buffer_bytes,
            least_cache_bytes,
            least_bytes: buffer_bytes.saturating_add(least_cache_bytes),
        })
    }
}

/// What the program and its allocator take beside what is planned, where the limit is used up to the last byte.
const STREAMING_MARGIN: u64 = 80 << 20;

/// The program's code and tables, as far as they come into memory.
const CODE_BYTES: u64 = 14 << 20;
/// What a tokenizer keeps for an entry of its vocabulary: about; text, numbers and merges.
const ENTRY_BYTES: u64 = 64;

/// What is in memory whatever a model computes. Measured with `levain run` over vocabularies of 49 to 152 thousand
/// entries.
fn program_bytes(config: &ModelConfig) -> u64 {
    (config.vocab_size as u64).saturating_mul(ENTRY_BYTES).saturating_add(CODE_BYTES)
}

/// Whether the layer for multi-token prediction is used.
pub(crate) fn loads_mtp(config: &ModelConfig, engine: &EngineConfig) -> bool {
    engine.speculation == Speculation::MultiTokenPrediction && config.num_nextn_predict_layers > 0
}

/// Rows whose logits are computed together.
pub(crate) fn logit_rows(engine: &EngineConfig) -> usize {
    engine.max_num_seqs.min(LOGIT_ROWS_MAX)
}

/// A vocabulary has 150 thousand entries: the logits of 16 rows take 10 MB.
const LOGIT_ROWS_MAX: usize = 16;

/// Bytes of the buffers that hold activations and logits, and of the sampler's tables; about, and rather too many.
fn scratch_bytes(config: &ModelConfig, engine: &EngineConfig) -> u64 {
    let rows = engine.max_num_batched_tokens as u64;
    let [hidden, width, vocab] =
        [config.hidden_size, config.intermediate_size, config.vocab_size].map(|n| n as u64);
    let heads = (config.num_attention_heads + config.num_key_value_heads) as u64 * config.head_dim as u64;
    let mut row_values = hidden.saturating_mul(2).saturating_add(heads.saturating_mul(2));
    if let Some(mla) = &config.mla {
        // Queries and outputs in the latent space, and values, for each head.
        let head = mla.kv_lora_rank.saturating_mul(2) + mla.qk_rope_head_dim + mla.v_head_dim;
        row_values =
            row_values.saturating_add((config.num_attention_heads as u64).saturating_mul(head as u64));
    }
    let experts = config.moe.as_ref().map_or(0, |moe| {
        (moe.num_experts_per_tok as u64).saturating_mul(moe.moe_intermediate_size as u64 * 2 + hidden)
    });
    // The MLP's two halves, and an input as products take it, in at most 4 bytes a value.
    row_values = row_values.saturating_add(width.saturating_mul(2)).saturating_add(experts);
    let input = cols_max(config) as u64 * 4;
    let activations = rows.saturating_mul(row_values.saturating_mul(4).saturating_add(input));
    let logits =
        (logit_rows(engine) as u64 + 1).saturating_mul(vocab.saturating_add(2 * hidden)).saturating_mul(4);
    activations.saturating_add(logits).saturating_add(vocab.saturating_mul(16))
}

/// What the expanded form of latent attention works in: latents of a whole context, quantised too, and for as many
/// heads as are computed at a time keys and values, apart and side by side, queries and results.
fn expanded_bytes(config: &ModelConfig, engine: &EngineConfig, weights: &WeightSizes) -> u64 {
    let Some(mla) = config.mla.as_ref().filter(|_| engine.expanded_from(config).is_some()) else { return 0 };
    let [latent, nope, rope, v] =
        [mla.kv_lora_rank, mla.qk_nope_head_dim, mla.qk_rope_head_dim, mla.v_head_dim].map(|n| n as u64);
    let context = engine.context_length.unwrap_or(CONTEXT_LENGTH_DEFAULT).min(config.max_position_embeddings);
    let context = context as u64;
    let head_rows =
        context.saturating_mul(config.num_attention_heads as u64).min(context.max(EXPANDED_ROWS as u64));
    let entries = context.saturating_mul(2 * latent + latent.div_ceil(2) + rope);
    let values = entries.saturating_add(head_rows.saturating_mul(3 * (nope + v) + 2 * rope));
    values.saturating_mul(4).saturating_add(weights.key_expansion_bytes)
}

/// The cache's shape: a key and a value a head, or one latent with its rotary part for all heads (MLA).
pub(crate) fn kv_layout(config: &ModelConfig, engine: &EngineConfig, weights_are_f32: bool) -> KvLayout {
    let dtype = match engine.kv_dtype {
        KvCacheType::Auto if weights_are_f32 => KvDType::F32,
        KvCacheType::Auto | KvCacheType::F16 => KvDType::F16,
        KvCacheType::F32 => KvDType::F32,
        KvCacheType::Q8_0 => KvDType::Q8_0,
    };
    let (n_kv_heads, k_dim, v_dim) = match &config.mla {
        Some(mla) => (1, mla.kv_lora_rank + mla.qk_rope_head_dim, mla.kv_lora_rank),
        None => (config.num_key_value_heads, config.head_dim, config.head_dim),
    };
    KvLayout {
        dtype,
        n_layers: config.num_hidden_layers,
        n_kv_heads,
        k_dim,
        v_dim,
        values_in_keys: config.mla.is_some(),
        block_len: BLOCK_LEN,
    }
}

/// The windows of the layer for multi-token prediction.
pub(crate) fn layer_window_layout(config: &ModelConfig, engine: &EngineConfig, all_f32: bool) -> KvLayout {
    KvLayout { n_layers: 1, ..kv_layout(config, engine, all_f32) }
}

/// The windows of a draft model.
pub(crate) fn draft_window_layout(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    engine: &EngineConfig,
) -> KvLayout {
    kv_layout(config, engine, WeightSizes::of(checkpoint, config).all_f32)
}

/// What the layer for multi-token prediction works in: its windows, and rows of states on their way.
fn layer_bytes(config: &ModelConfig, engine: &EngineConfig, all_f32: bool) -> Result<u64, EngineError> {
    if !loads_mtp(config, engine) {
        return Ok(0);
    }
    let windows = Windows::bytes(engine.max_num_seqs, &layer_window_layout(config, engine, all_f32))?;
    let rows = (engine.max_num_batched_tokens as u64).saturating_mul(config.hidden_size as u64);
    Ok(windows.saturating_add(rows.saturating_mul(7 * 4)))
}

/// Allocates the cache that a plan describes.
pub(crate) fn allocate(
    config: &ModelConfig,
    engine: &EngineConfig,
    plan: &MemoryPlan,
) -> Result<KvCache, EngineError> {
    let layout = kv_layout(config, engine, plan.weights.all_f32);
    Ok(KvCache::new(layout, plan.n_blocks())?)
}

#[cfg(test)]
mod tests;
