//! What can be wrong with a tokenizer, a template or a text.

/// Why a tokenizer or a template was refused, or could not do its work. The text of each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file is not what it should be.
    #[error("{part}: {problem}; the tokenizer file is damaged or of another format, fetch it again")]
    Malformed {
        /// Where in the file.
        part: String,
        /// What is wrong there.
        problem: String,
    },
    /// A part without which a text would become other tokens.
    #[error("{part} is missing: {problem}")]
    Missing {
        /// What is missing.
        part: &'static str,
        /// Why it is needed, and what to do.
        problem: &'static str,
    },
    /// A feature that is known by name and not implemented.
    #[error("{part} asks for {name:?}, which is not supported; supported are: {known}")]
    Unsupported {
        /// Where in the file.
        part: String,
        /// What it asks for.
        name: String,
        /// What there is instead.
        known: String,
    },
    /// A split pattern that can't be matched in linear time.
    #[error("the split pattern {pattern:?} is refused: {problem}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Why.
        problem: String,
    },
    /// A limit on sizes was passed.
    #[error("{part} has {found}, more than the limit of {limit}; split it, or use another file")]
    TooLarge {
        /// What is too large.
        part: String,
        /// Its size.
        found: u64,
        /// The most that is accepted.
        limit: u64,
    },
    /// The vocabulary can't spell the text.
    #[error("the vocabulary has no token for {what:?} and no token for unknown text")]
    Unencodable {
        /// The character or byte.
        what: String,
    },
    /// Matching a split pattern took more steps than the text's length allows.
    #[error("the split pattern needs more than {steps} steps for this text: the tokenizer file is unfit")]
    Work {
        /// Steps spent.
        steps: u64,
    },
    /// The template is not a valid one.
    #[error("the chat template does not compile: {problem}; give another one with --chat-template FILE")]
    TemplateSyntax {
        /// What is wrong and where.
        problem: String,
    },
    /// The template refused the conversation by `raise_exception`.
    #[error("the chat template refuses this conversation: {message}")]
    TemplateRaised {
        /// What the template says.
        message: String,
    },
    /// The template failed while rendering.
    #[error("the chat template fails on this conversation: {problem}")]
    TemplateFailed {
        /// What went wrong and where.
        problem: String,
    },
    /// The template did too much work or wrote too much.
    #[error("the chat template {problem}; it is unfit for use: give another one with --chat-template FILE")]
    TemplateLimit {
        /// Which limit.
        problem: String,
    },
    /// The prompt was rendered without knowing this tokenizer's control tokens.
    #[error(
        "the prompt was rendered for a tokenizer with other control tokens ({missing:?} is missing): \
         make the template with `Tokenizer::chat_template`"
    )]
    Unguarded {
        /// A control token that the rendering did not guard.
        missing: String,
    },
    /// An id that the vocabulary does not have.
    #[error("token {id} is outside of the vocabulary of {size} tokens")]
    NoSuchToken {
        /// The id.
        id: u32,
        /// Tokens that there are.
        size: u32,
    },
}

impl TokenizerError {
    pub(crate) fn malformed(part: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Malformed { part: part.into(), problem: problem.into() }
    }

    pub(crate) fn missing(part: &'static str, problem: &'static str) -> Self {
        Self::Missing { part, problem }
    }

    pub(crate) fn unsupported(part: &str, name: impl Into<String>, known: &[&str]) -> Self {
        Self::Unsupported { part: part.to_owned(), name: name.into(), known: known.join(", ") }
    }

    /// Whether another input may fare better: the caller's is at fault, or the template is on this one.
    pub fn is_input(&self) -> bool {
        matches!(
            self,
            Self::TemplateRaised { .. }
                | Self::TemplateFailed { .. }
                | Self::TemplateLimit { .. }
                | Self::NoSuchToken { .. }
        )
    }
}

/// What this crate's functions return.
pub type Result<T> = std::result::Result<T, TokenizerError>;
