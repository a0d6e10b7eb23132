//! What an answer is made of while it arrives.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop text was met.
    Stop,
    /// `max_tokens` or the context's end.
    Length,
    /// The model wants tools called.
    ToolCalls,
    /// Withheld by a vendor's filter.
    ContentFilter,
    /// The answer broke off; what arrived before is kept.
    Error,
}

/// One of the likeliest tokens at a position.
#[derive(Debug, Clone, PartialEq)]
pub struct TopLogprob {
    /// The token.
    pub id: u32,
    /// Its bytes; may be half a character.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// The chosen token with its log-probability.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub id: u32,
    /// Its bytes; may be half a character.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability; `None` for the first token of a prompt.
    pub logprob: Option<f32>,
    /// The likeliest tokens, best first.
    pub top: Vec<TopLogprob>,
}

/// What so many bytes take where they are allocated: a multiple of 16, and never less than 32 with what the allocator keeps
/// beside them.
pub(crate) fn allocated(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { (bytes + 8).next_multiple_of(16).max(32) }
}

impl TokenLogprob {
    /// About how much memory it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        let top = self.top.iter().map(|top| size_of::<TopLogprob>() + allocated(top.bytes.len()));
        size_of::<Self>() + allocated(self.bytes.len()) + allocated(top.sum())
    }
}

/// Tokens and times of one request, all its answers together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: u64,
    /// Those of them that the prefix cache held.
    pub cached_tokens: u64,
    /// Tokens generated, thinking included.
    pub completion_tokens: u64,
    /// Those of them that were thinking.
    pub reasoning_tokens: u64,
    /// Tokens that were drafted ahead to generate them faster.
    pub drafted_tokens: u64,
    /// Drafted tokens that were right.
    pub accepted_tokens: u64,
    /// From the request's arrival to the first forward pass.
    pub queue_time: Duration,
    /// From there to the first token.
    pub prefill_time: Duration,
    /// From the first token to the last.
    pub decode_time: Duration,
    /// How long the model thought, measured where it thinks.
    pub reasoning_time: Duration,
}

/// A step of a chat answer. `index` says which of the `n` answers.
#[derive(Debug, Clone, PartialEq)]
pub enum ChatEvent {
    /// More thinking.
    Reasoning {
        /// Which answer.
        index: u32,
        /// Whole characters.
        text: String,
    },
    /// More of the answer.
    Text {
        /// Which answer.
        index: u32,
        /// Whole characters.
        text: String,
    },
    /// A tool call begins.
    ToolCallStart {
        /// Which answer.
        index: u32,
        /// Which call of this answer, from 0.
        call: u32,
        /// The call's id.
        id: String,
        /// The function's name.
        name: String,
    },
    /// More of a call's arguments.
    ToolCallArguments {
        /// Which answer.
        index: u32,
        /// Which call of this answer.
        call: u32,
        /// A fragment of JSON text.
        fragment: String,
    },
    /// Log-probabilities of the tokens behind the text events since the last one of these.
    Logprobs {
        /// Which answer.
        index: u32,
        /// In order of generation.
        tokens: Vec<TokenLogprob>,
    },
    /// What of a schema with `strict: false` the answers are not held to. At most once, before the first finish.
    Unenforced(Vec<String>),
    /// This answer is complete.
    Finish {
        /// Which answer.
        index: u32,
        /// Why.
        reason: FinishReason,
    },
    /// The last event of a stream.
    Usage(Usage),
}

impl ChatEvent {
    /// About how much memory it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        let inside = match self {
            Self::Reasoning { text, .. } | Self::Text { text, .. } => allocated(text.len()),
            Self::ToolCallStart { id, name, .. } => allocated(id.len()) + allocated(name.len()),
            Self::ToolCallArguments { fragment, .. } => allocated(fragment.len()),
            Self::Logprobs { tokens, .. } => allocated(tokens.iter().map(TokenLogprob::size).sum()),
            Self::Unenforced(all) => all.iter().map(String::len).sum(),
            Self::Finish { .. } | Self::Usage(_) => 0,
        };
        size_of::<Self>() + inside
    }
}
