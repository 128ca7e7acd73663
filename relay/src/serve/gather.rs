//! Small writes of HTTP/2 in one TLS record and one system call.
//!
//! h2 copies a DATA frame together with what it writes beside it (the head of an answer, its trailers, other answers) only if the
//! frame is short: below 256 bytes where the socket takes several slices at once, below 1,024 where it does not. What is
//! longer is written and flushed alone, which for a small answer is a second record and a second system call. So this says
//! that it takes one slice, and does what is lost by that itself: it holds back a short write, such as the nine bytes before
//! a long frame, until the next one or a flush, and passes both on at once.
//!
//! h2 flushes only between two frames, so here is also where the ping of [`super::keepalive`] goes in.
//!
//! Memory: [`HELD_BYTES_MAX`] while something is held.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::keepalive::{Line, PING};

/// What is held back at most: the head of an answer and of a frame.
const HELD_BYTES_MAX: usize = 1024;

/// A stream whose short writes wait for company.
#[derive(Debug)]
pub(super) struct Gathered<S> {
    inner: S,
    held: Vec<u8>,
    line: Arc<Line>,
}

impl<S> Gathered<S> {
    pub(super) fn new(inner: S, line: Arc<Line>) -> Self {
        Self { inner, held: Vec::new(), line }
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    /// Writes what is held.
    fn poll_let_go(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let count = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.held))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.drain(..count);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.line.hear();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.held.len() + bytes.len() <= HELD_BYTES_MAX {
            self.held.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        loop {
            let Self { inner, held, .. } = &mut *self;
            if held.is_empty() {
                return Pin::new(inner).poll_write(cx, bytes);
            }
            let both = [IoSlice::new(held), IoSlice::new(bytes)];
            let count = ready!(Pin::new(inner).poll_write_vectored(cx, &both))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_held = count.min(held.len());
            held.drain(..of_held);
            if count > of_held {
                return Poll::Ready(Ok(count - of_held));
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        false
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_let_go(cx))?;
        if self.line.asks() {
            self.line.asked();
            self.held.extend_from_slice(&PING);
            ready!(self.poll_let_go(cx))?;
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_let_go(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// Takes at most so many bytes at a time, of several slices at once, and notes each write.
    struct Sink {
        at_once: usize,
        writes: Vec<Vec<u8>>,
    }

    impl AsyncWrite for Sink {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let mut all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            all.truncate(self.at_once);
            self.writes.push(all);
            Poll::Ready(Ok(self.writes.last().map_or(0, Vec::len)))
        }

        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn gathered(at_once: usize) -> Gathered<Sink> {
        Gathered::new(Sink { at_once, writes: Vec::new() }, Arc::default())
    }

    #[tokio::test]
    async fn short_writes_leave_together_and_none_stays_behind_a_flush() {
        let mut out = gathered(usize::MAX);
        out.write_all(b"head").await.unwrap();
        out.write_all(b"tail").await.unwrap();
        assert!(out.inner.writes.is_empty());
        out.flush().await.unwrap();
        out.write_all(b"nine byte").await.unwrap();
        out.write_all(&[7; 5_000]).await.unwrap();
        assert_eq!(out.inner.writes[0], b"headtail");
        assert_eq!(out.inner.writes[1], [&b"nine byte"[..], &[7; 5_000]].concat(), "in one write, uncopied");
        out.write_all(b"last").await.unwrap();
        out.shutdown().await.unwrap();
        assert_eq!(out.inner.writes[2], b"last");
    }

    #[tokio::test]
    async fn whatever_the_socket_takes_at_once_the_bytes_stay_in_order() {
        for at_once in [1, 3, 9, 10, 1_000, 5_000] {
            let mut out = gathered(at_once);
            let mut want = Vec::new();
            for (turn, size) in [9, 2_000, 0, 1_024, 1, 5_000, 300, 800, 9].into_iter().enumerate() {
                let bytes = vec![turn as u8; size];
                out.write_all(&bytes).await.unwrap();
                want.extend(bytes);
                assert!(out.held.len() <= HELD_BYTES_MAX && out.held.capacity() <= 2 * HELD_BYTES_MAX);
            }
            out.flush().await.unwrap();
            assert_eq!(out.inner.writes.concat(), want, "{at_once} at once");
        }
    }
}
