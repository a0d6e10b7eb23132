//! How an engine is set up.

use levain_kernels::PrefetchPolicy;
use levain_weights::ModelConfig;

use crate::disk::DiskCacheConfig;
use crate::error::EngineError;
use crate::spec::DRAFT_TOKENS_MAX;

/// What the KV cache's numbers are stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvCacheType {
    /// F32 beside F32 weights, otherwise F16.
    #[default]
    Auto,
    /// 4 bytes a value.
    F32,
    /// 2 bytes a value.
    F16,
    /// 1.0625 bytes a value.
    Q8_0,
}

/// Which rows of prompts latent attention computes in its expanded form. That form does a third of the arithmetic
/// between a row and what is before it, but expands all of that again for each step: it pays for hundreds of rows a
/// step far into a long prompt, and keeps other sequences waiting. Both forms give the same but for rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExpandedPrompts {
    /// From position [`EXPANDED_FROM_DEFAULT`] on where there is one sequence at a time, otherwise none.
    #[default]
    Auto,
    /// None.
    Never,
    /// Whole blocks of a prompt from this position on, rounded up to a block.
    From(usize),
}

/// Where the expanded form begins unless told otherwise: before, there is too little to gain.
pub const EXPANDED_FROM_DEFAULT: usize = 1024;

/// Where drafts for speculative decoding come from. It turns itself off while it does not pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Speculation {
    /// One token a step.
    #[default]
    Off,
    /// What followed the same few tokens earlier in the text (prompt lookup).
    PromptLookup,
    /// The model's own layer for multi-token prediction; prompt lookup where it has none.
    MultiTokenPrediction,
    /// A smaller model with the same tokens, given to [`crate::Engine::load_with_draft`].
    DraftModel,
}

/// How an engine is set up. The default suits a machine of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Threads that compute; 0 takes one for each core.
    pub threads: usize,
    /// The most sequences in one step, 1 to 256.
    pub max_num_seqs: usize,
    /// The most rows in one step, at least `max_num_seqs`, at most 4096.
    pub max_num_batched_tokens: usize,
    /// The most requests that may wait; one more is refused as overloaded.
    pub max_queued_requests: usize,
    /// The most answers of one tenant that may wait or be under way, but for those of a single request; `None` for any
    /// number. With less than `max_queued_requests`, no tenant can fill the queue for all others.
    pub max_answers_per_tenant: Option<usize>,
    /// Rows of prompts in a step. `None` measures and chooses: few beside answers, so that the gaps between their
    /// tokens stay short, more where nobody waits for a token.
    pub prompt_chunk_tokens: Option<usize>,
    /// Tokens a sequence may have, prompt and answer. `None` takes the model's, [`CONTEXT_LENGTH_DEFAULT`] or
    /// what fits into memory, whichever is least.
    pub context_length: Option<usize>,
    /// Tokens the cache holds for all sequences together, at least one context. `None` takes up to four contexts.
    pub kv_cache_tokens: Option<usize>,
    /// What the cache's numbers are stored as.
    pub kv_dtype: KvCacheType,
    /// The most bytes of memory to use, if less than what is free.
    pub memory_limit: Option<u64>,
    /// Bytes that requests may take outside the engine, as what serves them says; the plan leaves them free.
    pub request_bytes: u64,
    /// Whether and how tokens are drafted ahead. Answers do not depend on it.
    pub speculation: Speculation,
    /// Tokens drafted for each step, at most 8. `None` measures and chooses, and stops where drafts do not pay.
    pub draft_tokens: Option<usize>,
    /// Which rows of prompts latent attention computes in its expanded form.
    pub expanded_prompts: ExpandedPrompts,
    /// How weights are asked for ahead of their use. Answers do not depend on it.
    pub prefetch: PrefetchPolicy,
    /// Whether sequences reuse what was computed for others with the same beginning and tenant.
    pub prefix_cache: bool,
    /// Where blocks that were let go are kept on the disk, also for the next run; `None` keeps none. Needs
    /// `prefix_cache`. The files hold what the model made of prompts and answers, readable for their owner.
    pub disk_cache: Option<DiskCacheConfig>,
}

/// Context that is set up unless another is asked for: enough for most conversations, and small beside most models.
pub const CONTEXT_LENGTH_DEFAULT: usize = 8192;

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            threads: 0,
            max_num_seqs: 16,
            max_num_batched_tokens: 512,
            max_queued_requests: 256,
            max_answers_per_tenant: None,
            prompt_chunk_tokens: None,
            context_length: None,
            kv_cache_tokens: None,
            kv_dtype: KvCacheType::Auto,
            memory_limit: None,
            request_bytes: 0,
            speculation: Speculation::Off,
            draft_tokens: None,
            expanded_prompts: ExpandedPrompts::Auto,
            prefetch: PrefetchPolicy::Learn,
            prefix_cache: true,
            disk_cache: None,
        }
    }
}

impl EngineConfig {
    /// Threads that compute, with 0 resolved.
    pub fn resolved_threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        }
    }

    /// The same for one answer at a time that no later request continues.
    #[must_use]
    pub fn for_single_answers(self) -> Self {
        Self { max_num_seqs: 1, expanded_prompts: ExpandedPrompts::From(0), ..self }
    }

    /// The position from which on prompts are computed in the expanded form of latent attention, if any are.
    pub(crate) fn expanded_from(&self, model: &ModelConfig) -> Option<usize> {
        let from = match self.expanded_prompts {
            ExpandedPrompts::Auto if self.max_num_seqs == 1 => EXPANDED_FROM_DEFAULT,
            ExpandedPrompts::Auto | ExpandedPrompts::Never => return None,
            ExpandedPrompts::From(position) => position,
        };
        let context =
            self.context_length.unwrap_or(CONTEXT_LENGTH_DEFAULT).min(model.max_position_embeddings);
        (model.mla.is_some() && from < context).then_some(from)
    }

    pub(crate) fn validate(&self) -> Result<(), EngineError> {
        let check = |name, value: usize, fine: bool, expected| {
            if fine { Ok(()) } else { Err(EngineError::Setting { name, value: value as u64, expected }) }
        };
        check("threads", self.threads, self.threads <= 1024, "at most 1024")?;
        let seqs = self.max_num_seqs;
        check("max_num_seqs", seqs, (1..=256).contains(&seqs), "from 1 to 256")?;
        let rows = self.max_num_batched_tokens;
        let expected = "from max_num_seqs + 1 to 4096";
        check("max_num_batched_tokens", rows, rows > seqs && rows <= 4096, expected)?;
        if let Some(chunk) = self.prompt_chunk_tokens {
            check("prompt_chunk_tokens", chunk, chunk >= 1, "at least 1")?;
        }
        if let Some(drafted) = self.draft_tokens {
            check("draft_tokens", drafted, (1..=DRAFT_TOKENS_MAX).contains(&drafted), "from 1 to 8")?;
        }
        let queued = self.max_queued_requests;
        check("max_queued_requests", queued, (1..=65_536).contains(&queued), "from 1 to 65536")?;
        if let Some(limit) = self.max_answers_per_tenant {
            check("max_answers_per_tenant", limit, limit >= 1, "at least 1")?;
        }
        if let Some(length) = self.context_length {
            check("context_length", length, length >= 2, "at least 2")?;
        }
        Ok(())
    }
}
