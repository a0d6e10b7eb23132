//! What can go wrong between a request and its tokens.

use levain_kernels::KernelError;
use levain_weights::WeightsError;

/// Every way in which the engine refuses or fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The checkpoint could not be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A kernel refused its arguments, most often a tensor whose size does not fit its shape.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The model needs something the engine does not have.
    #[error("this model cannot run here: {what}")]
    Unsupported {
        /// What is missing.
        what: String,
    },
    /// A field of the model's description has a value that makes no model.
    #[error("the model's `{field}` is {value}: {expected}")]
    ModelField {
        /// The field's name as in the published `config.json`.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it has to be.
        expected: &'static str,
    },
    /// Weights, cache and scratch do not fit into the memory there is.
    #[error(
        "not enough memory: {needed} bytes are needed ({weights} for weights, {cache} for a context of \
         {context_length} tokens, {scratch} for buffers and the program) and {free} are free; choose a smaller model, a \
         stronger quantisation or a shorter context"
    )]
    OutOfMemory {
        /// Bytes of the whole plan.
        needed: u64,
        /// Bytes of the weights.
        weights: u64,
        /// Bytes of the KV cache.
        cache: u64,
        /// Bytes of scratch buffers, and of the program.
        scratch: u64,
        /// Context length that was planned for.
        context_length: u64,
        /// Bytes that may be used.
        free: u64,
    },
    /// Drafts are to come from a model, and there is none.
    #[error("speculation by a draft model needs one: name a smaller model with the same tokens")]
    NoDraftModel,
    /// A setting of the engine is out of range.
    #[error("the setting `{name}` is {value}: {expected}")]
    Setting {
        /// The setting's name in [`crate::EngineConfig`].
        name: &'static str,
        /// Its value.
        value: u64,
        /// What it has to be.
        expected: &'static str,
    },
    /// A parameter of a request is out of range.
    #[error("`{name}` is {value}: {expected}")]
    Parameter {
        /// The parameter's name.
        name: &'static str,
        /// Its value as text.
        value: String,
        /// What it has to be.
        expected: &'static str,
    },
    /// A request without a single token.
    #[error("the prompt is empty; give it at least one token")]
    EmptyPrompt,
    /// The prompt leaves no room for an answer. A prompt is never cut.
    #[error(
        "the prompt has {prompt} tokens and the context holds {context}; shorten the prompt or load the model \
         with a longer context"
    )]
    ContextTooLong {
        /// Tokens in the prompt.
        prompt: usize,
        /// Tokens the context holds.
        context: usize,
    },
    /// A token id that the model does not have.
    #[error("token {token} is not in the model's vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The token.
        token: u32,
        /// Number of tokens there are.
        vocab_size: usize,
    },
    /// Too many requests wait already.
    #[error("{queued} requests are waiting and {limit} may; try again later")]
    Overloaded {
        /// Requests that wait.
        queued: usize,
        /// The most that may wait.
        limit: usize,
    },
    /// The model gave something that is not a number.
    #[error("the model's logits at position {position} are not finite; the weights may be damaged")]
    NonFiniteLogits {
        /// Position of the token whose logits are meant.
        position: usize,
    },
    /// A constraint refused every token, or failed.
    #[error("the output constraint cannot go on: {reason}")]
    Constraint {
        /// What the constraint said.
        reason: String,
    },
    /// A bug: a step of the engine, or code called from it, panicked. The process lives on.
    #[error("the engine failed while working on this request: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// The folder of the prefix cache on the disk can't be used.
    #[error("the KV cache can't be kept in {}", folder.display())]
    DiskCache {
        /// The folder.
        folder: std::path::PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The engine has been shut down.
    #[error("the engine is shut down")]
    ShutDown,
    /// The operating system refused a thread.
    #[error("the engine's thread could not be started")]
    Thread(#[source] std::io::Error),
}

impl EngineError {
    /// The same error for another request; of those that come from the system the words alone.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Kernel(error) => Self::Kernel(error.clone()),
            Self::Panicked { message } => Self::Panicked { message: message.clone() },
            Self::Constraint { reason } => Self::Constraint { reason: reason.clone() },
            other => {
                let weights = if let Self::Weights(error) = other { error.again() } else { None };
                weights.map_or_else(|| Self::Panicked { message: other.to_string() }, Self::Weights)
            }
        }
    }
}
