//! One error type for every provider, sorted by what the caller can do about it.

use std::borrow::Cow;

/// What the caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// Change the request.
    UserInput,
    /// Ask for something that exists.
    NotFound,
    /// Give other credentials.
    Auth,
    /// Raise the budget.
    Budget,
    /// Come back later.
    RateLimited,
    /// The same request may work now.
    Transient,
    /// Nothing: report it.
    Bug,
}

/// Why a provider refused or failed. The text of each says what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// A field has a value that can't be used.
    #[error("{param}: {message}")]
    Invalid {
        /// Path of the field, as the caller wrote it: `messages[2].content`.
        param: Cow<'static, str>,
        /// What is wrong and what to do.
        message: String,
    },
    /// A field asks for something that this model or provider can't do.
    #[error("{param} is not supported here: {message}")]
    Unsupported {
        /// Path of the field.
        param: Cow<'static, str>,
        /// Why, and what to do.
        message: String,
    },
    /// No such model.
    #[error("no model named {model:?}{}", did_you_mean(.nearest))]
    ModelNotFound {
        /// As the caller wrote it.
        model: String,
        /// The nearest names.
        nearest: Vec<String>,
    },
    /// The prompt does not fit; it is never cut silently.
    #[error(
        "the prompt has {prompt_tokens} tokens and the context holds {context_length}: shorten it, \
         or load the model with a longer context"
    )]
    ContextLength {
        /// Tokens of the prompt.
        prompt_tokens: u64,
        /// Positions that there are.
        context_length: u64,
    },
    /// Not enough memory for this request.
    #[error("this needs {needed_bytes} bytes and {free_bytes} are free: {hint}")]
    OutOfMemory {
        /// What it takes.
        needed_bytes: u64,
        /// What there is.
        free_bytes: u64,
        /// What to do.
        hint: String,
    },
    /// The queue is full.
    #[error("the server is busy with as many requests as it may hold; try again in a moment")]
    Overloaded,
    /// The provider is going away.
    #[error("the server is shutting down; try again in a moment")]
    ShuttingDown,
    /// Credentials are missing or wrong.
    #[error("{0}")]
    Auth(String),
    /// An upstream failed in a way that may pass.
    #[error("{0}")]
    Transient(String),
    /// Our failure.
    #[error("{0}")]
    Internal(String),
}

impl ProviderError {
    /// A field has a value that can't be used.
    pub fn invalid(param: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::Invalid { param: param.into(), message: message.into() }
    }

    /// A field asks for something that this model or provider can't do.
    pub fn unsupported(param: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::Unsupported { param: param.into(), message: message.into() }
    }

    /// What the caller can do about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Invalid { .. } | Self::Unsupported { .. } | Self::ContextLength { .. } => {
                ErrorClass::UserInput
            }
            Self::ModelNotFound { .. } => ErrorClass::NotFound,
            Self::OutOfMemory { .. } | Self::Overloaded => ErrorClass::RateLimited,
            Self::ShuttingDown | Self::Transient(_) => ErrorClass::Transient,
            Self::Auth(_) => ErrorClass::Auth,
            Self::Internal(_) => ErrorClass::Bug,
        }
    }

    /// A short, stable, machine-readable name.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "invalid_value",
            Self::Unsupported { .. } => "unsupported_parameter",
            Self::ModelNotFound { .. } => "model_not_found",
            Self::ContextLength { .. } => "context_length_exceeded",
            Self::OutOfMemory { .. } => "insufficient_memory",
            Self::Overloaded => "rate_limit_exceeded",
            Self::ShuttingDown => "shutting_down",
            Self::Auth(_) => "invalid_api_key",
            Self::Transient(_) => "upstream_error",
            Self::Internal(_) => "internal_error",
        }
    }

    /// The field that is at fault, if one is.
    #[must_use]
    pub fn param(&self) -> Option<&str> {
        match self {
            Self::Invalid { param, .. } | Self::Unsupported { param, .. } => Some(param),
            Self::ModelNotFound { .. } => Some("model"),
            _ => None,
        }
    }
}

fn did_you_mean(names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    format!("; did you mean {}?", names.join(" or "))
}
