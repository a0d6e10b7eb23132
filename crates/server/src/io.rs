//! A connection whose client must take what is written to it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

/// What a client has to take within the patience, unless it takes all there is: one that reads a byte now and then
/// would hold its answer for ever.
const PROGRESS_BYTES: usize = 32 << 10;

/// Fails when what was written is not taken in time.
pub(crate) struct Patient {
    stream: TcpStream,
    patience: Duration,
    timer: Pin<Box<Sleep>>,
    /// Bytes taken since the timer was set, while something waits to be written.
    taken: Option<usize>,
}

impl Patient {
    pub(crate) fn new(stream: TcpStream, patience: Duration) -> Self {
        Self { stream, patience, timer: Box::pin(sleep_until(Instant::now())), taken: None }
    }

    /// Judges an attempt to write `all` bytes.
    fn watch(
        &mut self,
        context: &mut Context<'_>,
        all: usize,
        poll: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match &poll {
            Poll::Ready(Err(_)) => return poll,
            Poll::Ready(Ok(n)) if *n >= all => {
                self.taken = None;
                return poll;
            }
            Poll::Ready(Ok(n)) => {
                if let Some(taken) = &mut self.taken {
                    *taken += n;
                }
            }
            Poll::Pending => {}
        }
        if self.taken.is_none_or(|taken| taken >= PROGRESS_BYTES) {
            self.taken = Some(0);
            self.timer.as_mut().reset(Instant::now() + self.patience);
        }
        match poll {
            Poll::Pending => {
                ready!(self.timer.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            _ if self.timer.is_elapsed() => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            _ => poll,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, bytes.len(), poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(context, slices.iter().map(|slice| slice.len()).sum(), poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
