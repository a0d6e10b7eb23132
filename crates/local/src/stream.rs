//! From the engine's sink to the caller's stream.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use levain_chat::{FinishReason, ProviderError, Usage};
use levain_engine::RequestHandle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The sink's end. A reader that is slow must not hold up the engine, so nothing bounds the channel but the tokens of
/// the answer itself.
#[derive(Debug)]
pub(crate) struct Sender<T>(UnboundedSender<Result<T, ProviderError>>);

/// The caller's end. Dropping it ends the request at its next token.
#[derive(Debug)]
pub(crate) struct EventStream<T> {
    receiver: UnboundedReceiver<Result<T, ProviderError>>,
    /// Cancels the request when dropped.
    _handle: RequestHandle,
}

/// A channel's two ends; the second becomes a stream once the request is submitted.
pub(crate) fn channel<T>() -> (Sender<T>, Pending<T>) {
    let (sender, receiver) = unbounded_channel();
    (Sender(sender), Pending(receiver))
}

/// A stream whose request is not submitted yet.
#[derive(Debug)]
pub(crate) struct Pending<T>(UnboundedReceiver<Result<T, ProviderError>>);

impl<T> Pending<T> {
    pub(crate) fn submitted(self, handle: RequestHandle) -> EventStream<T> {
        EventStream { receiver: self.0, _handle: handle }
    }
}

impl<T> Sender<T> {
    /// Sends an event. `false` if nobody listens any more.
    pub(crate) fn send(&self, event: T) -> bool {
        self.0.send(Ok(event)).is_ok()
    }

    /// Sends the error that ends the stream.
    pub(crate) fn fail(&self, error: ProviderError) {
        // Nobody listens: nobody to tell.
        let _ = self.0.send(Err(error));
    }
}

impl<T> Stream for EventStream<T> {
    type Item = Result<T, ProviderError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().receiver.poll_recv(context)
    }
}

/// Adds up what the answers of one request took.
#[derive(Debug, Default)]
pub(crate) struct Bill {
    pub(crate) usage: Usage,
    ended: u32,
}

impl Bill {
    /// Books an answer that has ended. `true` for the last of `n`.
    pub(crate) fn add(&mut self, answer: &levain_engine::Usage, n: u32) -> bool {
        let usage = &mut self.usage;
        // The answers share the prompt; the first one's times are those of the request.
        usage.prompt_tokens = usage.prompt_tokens.max(answer.prompt_tokens as u64);
        usage.cached_tokens = usage.cached_tokens.max(answer.cached_tokens as u64);
        usage.completion_tokens += answer.completion_tokens as u64;
        usage.drafted_tokens += answer.drafted_tokens as u64;
        usage.accepted_tokens += answer.accepted_tokens as u64;
        if self.ended == 0 {
            usage.queue_time = answer.queue_time;
            usage.prefill_time = answer.prefill_time;
        }
        usage.decode_time = usage.decode_time.max(answer.decode_time);
        self.ended += 1;
        self.ended >= n
    }

    /// Books the thinking of an answer.
    pub(crate) fn add_reasoning(&mut self, tokens: u64, time: Duration) {
        self.usage.reasoning_tokens += tokens;
        self.usage.reasoning_time = self.usage.reasoning_time.max(time);
    }
}

/// Why an answer ended, in the neutral vocabulary; an error as such. `stopped`: a stop text was met.
pub(crate) fn finish_reason(
    reason: &levain_engine::FinishReason,
    stopped: bool,
) -> Result<FinishReason, ProviderError> {
    match reason {
        _ if stopped => Ok(FinishReason::Stop),
        levain_engine::FinishReason::Stop(_) => Ok(FinishReason::Stop),
        levain_engine::FinishReason::Length => Ok(FinishReason::Length),
        levain_engine::FinishReason::Cancelled => Ok(FinishReason::Error),
        levain_engine::FinishReason::Error(error) => Err(crate::error::from_engine(error)),
    }
}
