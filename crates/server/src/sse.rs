//! An answer as server-sent events, each written as soon as it is there.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use levain_chat::{Place, ProviderError};
use levain_wire::openai::{ApiError, KEEP_ALIVE};

use crate::guard::bug;
use crate::metrics::Meter;
use crate::reply;
use crate::state::{Cutter, Shared, shutting_down};

/// Turns events into bytes.
pub(crate) trait Encoder {
    type Event;
    /// Appends the bytes of an event, if it has any.
    fn push(&mut self, event: Self::Event, meter: &mut Meter, out: &mut Vec<u8>);
    /// Appends what ends a good stream.
    fn end(&mut self, out: &mut Vec<u8>);
    /// Appends what ends a broken one.
    fn fail(&mut self, error: &ApiError, out: &mut Vec<u8>);
}

struct Running<S, E> {
    events: S,
    encoder: E,
    meter: Meter,
    cutter: Cutter,
    shared: Arc<Shared>,
    ended: bool,
    /// Held until the last byte is written or the client leaves.
    _place: Place,
}

/// The response. Dropping it, as happens when the client leaves, drops `events` and so ends the work.
pub(crate) fn respond<S, E>(
    events: S,
    encoder: E,
    shared: Arc<Shared>,
    meter: Meter,
    place: Place,
) -> Response
where
    S: Stream<Item = Result<E::Event, ProviderError>> + Send + Unpin + 'static,
    E: Encoder + Send + 'static,
    E::Event: Send,
{
    let running =
        Running { events, encoder, meter, cutter: shared.cutter(), shared, ended: false, _place: place };
    let bytes = futures::stream::unfold(running, |mut running| async move {
        let bytes = running.next().await?;
        Some((Ok::<_, Infallible>(bytes), running))
    });
    reply::events(Body::from_stream(bytes))
}

impl<S, E> Running<S, E>
where
    S: Stream<Item = Result<E::Event, ProviderError>> + Unpin,
    E: Encoder,
{
    /// The bytes of the next event, or of silence that lasted long.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        while out.is_empty() && !self.ended {
            tokio::select! {
                biased;
                () = self.cutter.cut() => self.fail(&shutting_down(), &mut out),
                next = AssertUnwindSafe(self.events.next()).catch_unwind() => match next {
                    Ok(Some(Ok(event))) => self.encoder.push(event, &mut self.meter, &mut out),
                    Ok(Some(Err(error))) => self.fail(&error.into(), &mut out),
                    Ok(None) => {
                        self.encoder.end(&mut out);
                        self.end("done");
                    }
                    Err(_) => {
                        self.shared.metrics.panicked();
                        self.fail(&bug(), &mut out);
                    }
                },
                () = tokio::time::sleep(self.shared.limits.keep_alive) => out.extend_from_slice(KEEP_ALIVE),
            }
        }
        (!out.is_empty()).then(|| out.into())
    }

    fn fail(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        if let Some(detail) = &error.detail {
            tracing::warn!(code = error.code, detail, "an answer broke off");
        }
        self.encoder.fail(error, out);
        self.end(error.code);
    }

    fn end(&mut self, outcome: &'static str) {
        self.ended = true;
        self.meter.end(outcome);
    }
}

/// All events of an answer that is not streamed, or the reason why it broke off.
pub(crate) async fn collect<T>(
    mut events: impl Stream<Item = Result<T, ProviderError>> + Unpin,
    shared: &Shared,
    mut push: impl FnMut(T) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    let mut cutter = shared.cutter();
    loop {
        tokio::select! {
            biased;
            () = cutter.cut() => return Err(shutting_down()),
            next = events.next() => match next {
                Some(Ok(event)) => push(event)?,
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            },
        }
    }
}
