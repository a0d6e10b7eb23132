//! The one interface that local and hosted models share.

use std::pin::Pin;

use futures::Stream;

use crate::event::allocated;
use crate::{
    ChatEvent, ChatRequest, CompletionRequest, EmbeddingRequest, FinishReason, ProviderError, TokenLogprob,
    Usage,
};

/// A boxed future, so that [`Provider`] can be a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The events of a chat answer. Dropping it cancels the work at the next token.
pub type ChatStream = Pin<Box<dyn Stream<Item = Result<ChatEvent, ProviderError>> + Send>>;

/// The events of a raw completion. Dropping it cancels the work at the next token.
pub type CompletionStream = Pin<Box<dyn Stream<Item = Result<CompletionEvent, ProviderError>> + Send>>;

/// A step of a raw completion.
#[derive(Debug, Clone, PartialEq)]
pub enum CompletionEvent {
    /// More text (the prompt itself first, when echoed).
    Text {
        /// Which of the `n` continuations.
        index: u32,
        /// Whole characters; empty while a character or a possible stop text is incomplete.
        text: String,
        /// The tokens behind this text, with log-probabilities if they were asked for.
        tokens: Vec<TokenLogprob>,
    },
    /// This continuation is complete.
    Finish {
        /// Which one.
        index: u32,
        /// Why.
        reason: FinishReason,
    },
    /// The last event.
    Usage(Usage),
}

impl CompletionEvent {
    /// About how much memory it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        let inside = match self {
            Self::Text { text, tokens, .. } => {
                allocated(text.len()) + allocated(tokens.iter().map(TokenLogprob::size).sum())
            }
            Self::Finish { .. } | Self::Usage(_) => 0,
        };
        size_of::<Self>() + inside
    }
}

/// The vector of one input.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// Of Euclidean length 1.
    pub vector: Vec<f32>,
    /// Tokens of the input.
    pub tokens: u64,
}

/// What is known about a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// The name that requests use.
    pub id: String,
    /// Seconds since 1970 of its file, or 0.
    pub created: u64,
    /// Who serves it, for example `levain`.
    pub owned_by: String,
    /// Positions that a request may use.
    pub context_length: Option<u64>,
}

/// What a model really sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedPrompt {
    /// The rendered template.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<u32>,
}

/// A source of answers.
///
/// Requests are checked before the returned future ends: an error there means that nothing was generated.
pub trait Provider: Send + Sync {
    /// The models on offer, first the default one.
    fn models(&self) -> Vec<ModelInfo>;

    /// Answers a conversation.
    fn chat(&self, request: ChatRequest) -> BoxFuture<'_, Result<ChatStream, ProviderError>>;

    /// Continues a text.
    fn complete(&self, request: CompletionRequest) -> BoxFuture<'_, Result<CompletionStream, ProviderError>> {
        let _ = request;
        unsupported("completions")
    }

    /// Turns texts into vectors.
    fn embed(&self, request: EmbeddingRequest) -> BoxFuture<'_, Result<Vec<Embedding>, ProviderError>> {
        let _ = request;
        unsupported("embeddings")
    }

    /// Text to tokens. With `parse_special`, the text may name special tokens; with `add_special`, the
    /// beginning-of-sequence token is added where the model wants one.
    fn tokenize<'a>(
        &'a self,
        model: &'a str,
        text: &'a str,
        add_special: bool,
        parse_special: bool,
        tenant: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<u32>, ProviderError>> {
        let _ = (model, text, add_special, parse_special, tenant);
        unsupported("tokenize")
    }

    /// Tokens to text; invalid UTF-8 becomes U+FFFD.
    fn detokenize<'a>(
        &'a self,
        model: &'a str,
        tokens: &'a [u32],
        tenant: Option<&'a str>,
    ) -> BoxFuture<'a, Result<String, ProviderError>> {
        let _ = (model, tokens, tenant);
        unsupported("detokenize")
    }

    /// Renders the chat template without generating.
    fn render(&self, request: ChatRequest) -> BoxFuture<'_, Result<RenderedPrompt, ProviderError>> {
        let _ = request;
        unsupported("apply-template")
    }

    /// Requests that hold a slot or wait for one, for health and metrics.
    fn load(&self) -> ProviderLoad {
        ProviderLoad::default()
    }
}

/// How busy a provider is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProviderLoad {
    /// Sequences that generate.
    pub running: u64,
    /// Sequences that wait.
    pub waiting: u64,
    /// Blocks of the KV cache in use.
    pub kv_blocks_used: u64,
    /// Blocks of the KV cache that there are.
    pub kv_blocks_total: u64,
    /// Bytes of weights that are still being brought into their final form: until none are left answers grow slowly.
    pub unpacked_bytes: u64,
    /// Answers that ended because of a bug.
    pub panics: u64,
    /// What reading experts from the disk has come to, where a model is larger than its memory.
    pub experts: Option<ExpertLoad>,
}

/// Experts of a model that is larger than its memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExpertLoad {
    /// Uses of experts that were in memory.
    pub hits: u64,
    /// Uses of experts that had to be read.
    pub misses: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes of experts in memory.
    pub resident_bytes: u64,
}

fn unsupported<'a, T: Send + 'a>(what: &'static str) -> BoxFuture<'a, Result<T, ProviderError>> {
    Box::pin(async move {
        Err(ProviderError::Unsupported {
            param: what.into(),
            message: "this provider does not offer it".into(),
        })
    })
}
