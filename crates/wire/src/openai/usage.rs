//! Token counts and times at the end of an answer.

use std::time::Duration;

use levain_chat::Usage;
use serde::Serialize;

/// What every answer carries besides its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The answer's id.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
}

/// The dialect's `usage`. Cached tokens are inside the prompt's, reasoning tokens inside the completion's.
#[derive(Debug, Serialize)]
pub(super) struct UsageBody {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Debug, Serialize)]
struct PromptDetails {
    cached_tokens: u64,
}

#[derive(Debug, Serialize)]
struct CompletionDetails {
    reasoning_tokens: u64,
}

impl From<&Usage> for UsageBody {
    fn from(usage: &Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens.saturating_add(usage.completion_tokens),
            prompt_tokens_details: PromptDetails { cached_tokens: usage.cached_tokens },
            completion_tokens_details: CompletionDetails { reasoning_tokens: usage.reasoning_tokens },
        }
    }
}

/// An extension: where the time went, in milliseconds, and how much speculation saved.
#[derive(Debug, Serialize)]
pub(super) struct Timings {
    queue_ms: f64,
    prefill_ms: f64,
    decode_ms: f64,
    reasoning_ms: f64,
    /// Tokens drafted ahead, and those of them that were right.
    drafted_tokens: u64,
    accepted_tokens: u64,
}

impl From<&Usage> for Timings {
    fn from(usage: &Usage) -> Self {
        Self {
            queue_ms: milliseconds(usage.queue_time),
            prefill_ms: milliseconds(usage.prefill_time),
            decode_ms: milliseconds(usage.decode_time),
            reasoning_ms: milliseconds(usage.reasoning_time),
            drafted_tokens: usage.drafted_tokens,
            accepted_tokens: usage.accepted_tokens,
        }
    }
}

/// To the microsecond.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// Adds the counts of one more request that ran beside the others; times overlap, so the longest counts.
pub(super) fn add(total: &mut Usage, more: &Usage) {
    total.prompt_tokens = total.prompt_tokens.saturating_add(more.prompt_tokens);
    total.cached_tokens = total.cached_tokens.saturating_add(more.cached_tokens);
    total.completion_tokens = total.completion_tokens.saturating_add(more.completion_tokens);
    total.reasoning_tokens = total.reasoning_tokens.saturating_add(more.reasoning_tokens);
    total.drafted_tokens = total.drafted_tokens.saturating_add(more.drafted_tokens);
    total.accepted_tokens = total.accepted_tokens.saturating_add(more.accepted_tokens);
    total.queue_time = total.queue_time.max(more.queue_time);
    total.prefill_time = total.prefill_time.max(more.prefill_time);
    total.decode_time = total.decode_time.max(more.decode_time);
    total.reasoning_time = total.reasoning_time.max(more.reasoning_time);
}

/// Any log-probability as a number that JSON has.
pub(super) fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { -9999.0 }
}

/// A token's text; halves of characters are spelt out, so that different tokens stay different.
pub(super) fn token_text(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |mut text, byte| {
            // Writing to a string can't fail.
            let _ = write!(text, "\\x{byte:02x}");
            text
        }),
    }
}
