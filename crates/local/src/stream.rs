//! From the engine's sink to the caller's stream.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use levain_chat::{ChatEvent, CompletionEvent, FinishReason, ProviderError, Usage};
use levain_engine::RequestHandle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Bytes of events that nobody has read yet, all answers of a model together. Beyond it, answers end whose own part is
/// more than a mebibyte.
pub const UNREAD_BYTES_MAX: usize = 64 << 20;
const OWN_BYTES_MAX: usize = 1 << 20;

/// Something that waits in a channel.
pub(crate) trait Event {
    /// About how much memory it takes.
    fn size(&self) -> usize;
}

impl Event for ChatEvent {
    fn size(&self) -> usize {
        self.size()
    }
}

impl Event for CompletionEvent {
    fn size(&self) -> usize {
        self.size()
    }
}

/// Bytes of a model's events that nobody has read.
#[derive(Debug, Default)]
pub(crate) struct Unread(AtomicUsize);

/// What of them is one answer's; given back when both ends of its channel are gone.
#[derive(Debug)]
struct Own {
    all: Arc<Unread>,
    bytes: AtomicUsize,
}

impl Own {
    fn add(&self, bytes: usize) -> bool {
        let own = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let all = self.all.0.fetch_add(bytes, Ordering::Relaxed) + bytes;
        own <= OWN_BYTES_MAX || all <= UNREAD_BYTES_MAX
    }

    fn remove(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.all.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.remove(self.bytes.load(Ordering::Relaxed));
    }
}

/// The sink's end. A reader that is slow must not hold up the engine, so the channel takes what comes; but where
/// nobody reads, so that memory fills, the answer ends.
#[derive(Debug)]
pub(crate) struct Sender<T> {
    sender: UnboundedSender<Result<T, ProviderError>>,
    own: Arc<Own>,
}

/// The caller's end. Dropping it ends the request at its next token.
#[derive(Debug)]
pub(crate) struct EventStream<T> {
    receiver: UnboundedReceiver<Result<T, ProviderError>>,
    own: Arc<Own>,
    /// Cancels the request when dropped.
    _handle: RequestHandle,
}

/// A channel's two ends; the second becomes a stream once the request is submitted.
pub(crate) fn channel<T>(unread: &Arc<Unread>) -> (Sender<T>, Pending<T>) {
    let (sender, receiver) = unbounded_channel();
    let own = Arc::new(Own { all: Arc::clone(unread), bytes: AtomicUsize::new(0) });
    (Sender { sender, own: Arc::clone(&own) }, Pending { receiver, own })
}

/// A stream whose request is not submitted yet.
#[derive(Debug)]
pub(crate) struct Pending<T> {
    receiver: UnboundedReceiver<Result<T, ProviderError>>,
    own: Arc<Own>,
}

impl<T> Pending<T> {
    pub(crate) fn submitted(self, handle: RequestHandle) -> EventStream<T> {
        EventStream { receiver: self.receiver, own: self.own, _handle: handle }
    }
}

impl<T: Event> Sender<T> {
    /// Sends an event. `false` if nobody listens any more, or nobody has for too long.
    pub(crate) fn send(&self, event: T) -> bool {
        if !self.own.add(event.size()) {
            let words =
                "too much of the answer waits to be read: read it as it comes, or ask for less at a time";
            self.fail(ProviderError::Transient(words.to_owned()));
            return false;
        }
        self.sender.send(Ok(event)).is_ok()
    }

    /// Sends the error that ends the stream.
    pub(crate) fn fail(&self, error: ProviderError) {
        // Nobody listens: nobody to tell.
        let _ = self.sender.send(Err(error));
    }
}

impl<T: Event> Stream for EventStream<T> {
    type Item = Result<T, ProviderError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let next = this.receiver.poll_recv(context);
        if let Poll::Ready(Some(Ok(event))) = &next {
            this.own.remove(event.size());
        }
        next
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

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: usize) -> ChatEvent {
        ChatEvent::Text { index: 0, text: "x".repeat(bytes) }
    }

    #[test]
    fn an_answer_that_nobody_reads_ends_before_memory_is_full() {
        let unread = Arc::default();
        let (lazy, _pending) = channel(&unread);
        let mut sent = 0;
        while lazy.send(text(1 << 18)) {
            sent += 1 << 18;
            assert!(sent <= UNREAD_BYTES_MAX);
        }
        assert!(sent > UNREAD_BYTES_MAX / 2);
        // Others, who read, are not touched by it.
        let (other, mut pending) = channel(&unread);
        for _ in 0..100 {
            assert!(other.send(text(1 << 16)));
            let event = pending.receiver.try_recv().unwrap().unwrap();
            pending.own.remove(Event::size(&event));
        }
        drop((lazy, _pending, other, pending));
        assert_eq!(unread.0.load(Ordering::Relaxed), 0);
    }
}
