//! What can go wrong while a model is loaded, and what the engine's refusals mean to a caller.

use std::path::PathBuf;

use levain_chat::ProviderError;
use levain_engine::EngineError;
use levain_tokenizer::TokenizerError;
use levain_weights::WeightsError;

/// Why a model can't be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The checkpoint can't be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The engine refuses the model.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The vocabulary or the chat template can't be used.
    #[error("{path}: {source}")]
    Tokenizer {
        /// The file it comes from.
        path: PathBuf,
        /// What is wrong with it.
        source: TokenizerError,
    },
    /// The chat template that was given in place of the model's own can't be used.
    #[error("the given chat template: {0}")]
    ChatTemplate(TokenizerError),
    /// A file can't be read.
    #[error("{path} can't be read: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is larger than any of its kind.
    #[error("{path} has {bytes} bytes; {limit} is the most that is read of such a file")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A file holds something else than it should.
    #[error("{path} can't be used: {problem}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// There is no vocabulary beside the weights.
    #[error(
        "{folder} holds no tokenizer.json; fetch it from where the model comes from, or let transformers write it: \
         AutoTokenizer.from_pretrained(\"{folder}\").save_pretrained(\"{folder}\")"
    )]
    NoTokenizer {
        /// The checkpoint's folder.
        folder: PathBuf,
    },
    /// The vocabulary and the weights don't belong together.
    #[error("the tokenizer has {tokens} tokens and the model only {vocab_size}; they don't belong together")]
    TokenizerMismatch {
        /// Tokens of the tokenizer.
        tokens: usize,
        /// Rows of the model's embedding.
        vocab_size: usize,
    },
    /// A draft model writes other tokens than the model.
    #[error(
        "the draft model's token {id} is {draft:?} where the model's is {model:?}: it can't draft for it; choose a \
         smaller model of the same family, or --speculate lookup"
    )]
    DraftToken {
        /// The first token that differs.
        id: u32,
        /// What the model means by it.
        model: String,
        /// What the draft model means by it.
        draft: String,
    },
    /// A draft model has far more or fewer tokens than the model.
    #[error(
        "the draft model has {draft} tokens and the model {model}: it can't draft for it; choose a smaller model of \
         the same family, or --speculate lookup"
    )]
    DraftVocabulary {
        /// Tokens of the model.
        model: u32,
        /// Tokens of the draft model.
        draft: u32,
    },
}

/// The engine's refusal in the neutral vocabulary.
pub(crate) fn from_engine(error: &EngineError) -> ProviderError {
    match error {
        EngineError::ContextTooLong { prompt, context } => {
            ProviderError::ContextLength { prompt_tokens: *prompt as u64, context_length: *context as u64 }
        }
        EngineError::Overloaded { .. } => ProviderError::Overloaded,
        EngineError::ShutDown => ProviderError::ShuttingDown,
        EngineError::OutOfMemory { needed, free, .. } => ProviderError::OutOfMemory {
            needed_bytes: *needed,
            free_bytes: *free,
            hint: "choose a smaller model, a stronger quantisation or a shorter context".to_owned(),
        },
        EngineError::Parameter { name, .. } => ProviderError::invalid(*name, error.to_string()),
        // Grammars come from callers, and what they make impossible is theirs to mend.
        EngineError::Constraint { reason } => ProviderError::invalid("response_format", reason.clone()),
        EngineError::EmptyPrompt | EngineError::TokenOutOfRange { .. } => {
            ProviderError::invalid("prompt", error.to_string())
        }
        // The text of a panic can quote anything; it is in the log.
        EngineError::Panicked { .. } => {
            ProviderError::Internal("the engine met a bug in itself; its log says more".to_owned())
        }
        _ => ProviderError::Internal(error.to_string()),
    }
}

/// A tokenizer's refusal of a caller's text.
pub(crate) fn from_tokenizer(param: &'static str, error: &TokenizerError) -> ProviderError {
    if error.is_input() {
        ProviderError::invalid(param, error.to_string())
    } else {
        ProviderError::Internal(error.to_string())
    }
}
