//! A whole answer as a body that is handed over piece by piece, so that what it holds is held until it is written.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::HttpBody;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use levain_chat::Place;

use crate::memory::Memory;

/// A connection takes so much at a time, and no more than a few of these before the client has read them.
const PIECE_BYTES: usize = 16 << 10;

/// Bytes, and what counts while they are not written.
pub(crate) struct Held {
    left: Bytes,
    _place: Place,
    _memory: Memory,
}

impl Held {
    pub(crate) fn new(bytes: Vec<u8>, place: Place, memory: Memory) -> Self {
        Self { left: bytes.into(), _place: place, _memory: memory }
    }
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let n = self.left.len().min(PIECE_BYTES);
        // A copy, so that a piece that waits in the connection does not keep the whole.
        let piece = Bytes::copy_from_slice(&self.left.split_to(n));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}
