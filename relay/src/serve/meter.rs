//! What a connection may cost: a bucket of tokens, and a stream of bytes that waits for them.
//!
//! HTTP/2 has many frames that cost their sender nothing and need no call (pings, settings, window updates, priorities,
//! resets of streams). They are bounded here by their bytes, and only until the connection has shown a good token: a
//! member moves whatever its windows let it move. Read [`Bucket`] first.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Tokens that come back with time. `now` is an argument and never goes backwards.
#[derive(Debug)]
pub(super) struct Bucket {
    most: u32,
    per_second: u32,
    left: u32,
    /// The moment up to which `left` has been filled.
    filled: Instant,
}

impl Bucket {
    /// Returns a full bucket.
    pub(super) fn new(most: u32, per_second: u32, now: Instant) -> Self {
        Self { most, per_second, left: most, filled: now }
    }

    /// Takes up to `wanted` tokens and returns how many there were.
    pub(super) fn take(&mut self, wanted: u32, now: Instant) -> u32 {
        self.fill(now);
        let taken = wanted.min(self.left);
        self.left -= taken;
        taken
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled);
        let fresh = passed.as_nanos().saturating_mul(u128::from(self.per_second)) / 1_000_000_000;
        let fresh = u32::try_from(fresh).unwrap_or(u32::MAX);
        // What is not a whole token yet stays in the time that has not been counted.
        if fresh >= self.most - self.left {
            (self.left, self.filled) = (self.most, now);
        } else if fresh > 0 {
            self.left += fresh;
            let nanos = u64::from(fresh) * 1_000_000_000 / u64::from(self.per_second);
            self.filled += Duration::from_nanos(nanos);
        }
    }

    /// Returns how long it takes until this many tokens more have come.
    fn wait_for(&self, tokens: u32) -> Duration {
        Duration::from_secs(1) * tokens / self.per_second.max(1)
    }
}

/// Reads no faster than a stranger may, until `known` is set. Writes pass.
#[derive(Debug)]
pub(super) struct Metered<S> {
    inner: S,
    known: Arc<AtomicBool>,
    bucket: Bucket,
    /// Taken from the bucket ahead, so that not every read asks it, and the clock.
    hand: u32,
    wait: Pin<Box<Sleep>>,
    waiting: bool,
}

/// What is taken ahead at most, and no more than half of what the bucket would hold: that it holds so much less.
const HAND_BYTES: u32 = 64 * 1024;
/// An empty bucket is asked again when it has this much: one packet.
const PORTION_BYTES: u32 = 1024;

impl<S> Metered<S> {
    pub(super) fn new(inner: S, known: Arc<AtomicBool>, most: u32, per_second: u32) -> Self {
        let now = Instant::now();
        let wait = Box::pin(tokio::time::sleep_until(now));
        let hand = HAND_BYTES.min(most / 2);
        Self { inner, known, bucket: Bucket::new(most - hand, per_second, now), hand, wait, waiting: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { inner, known, bucket, hand, wait, waiting } = &mut *self;
        if known.load(Ordering::Acquire) {
            return Pin::new(inner).poll_read(cx, buffer);
        }
        let wanted = u32::try_from(buffer.remaining()).unwrap_or(u32::MAX);
        while *hand < wanted {
            if *waiting {
                std::task::ready!(wait.as_mut().poll(cx));
                *waiting = false;
            }
            let now = Instant::now();
            *hand += bucket.take(HAND_BYTES.max(wanted) - *hand, now);
            if *hand > 0 {
                break;
            }
            wait.as_mut().reset(now + bucket.wait_for(PORTION_BYTES));
            *waiting = true;
        }
        let before = buffer.filled().len();
        let polled = if *hand >= wanted {
            Pin::new(inner).poll_read(cx, buffer)
        } else {
            // Only here, for writing zeros costs as much as a small read.
            let mut part = ReadBuf::new(buffer.initialize_unfilled_to(*hand as usize));
            let polled = Pin::new(inner).poll_read(cx, &mut part);
            let read = part.filled().len();
            buffer.advance(read);
            polled
        };
        let read = buffer.filled().len() - before;
        *hand -= u32::try_from(read).unwrap_or(*hand).min(*hand);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn tokens_come_back_with_time_and_none_is_lost_on_the_way() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut bucket = Bucket::new(10, 3, start);
        assert_eq!(bucket.take(4, at(0)), 4);
        assert_eq!(bucket.take(100, at(0)), 6);
        assert_eq!(bucket.take(1, at(333)), 0);
        assert_eq!(bucket.take(1, at(334)), 1);
        // Asked every 10 ms for a hundred seconds: 3 a second all the same.
        let taken: u32 = (0..=10_000).map(|turn| bucket.take(1, at(334 + turn * 10))).sum();
        assert!((299..=300).contains(&taken), "{taken}");
        assert_eq!(bucket.take(100, at(10_000_000)), 10, "never more than it holds");
        let mut dry = Bucket::new(1, 0, start);
        assert_eq!((dry.take(1, at(0)), dry.take(1, at(1_000_000))), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_waits_and_a_member_does_not() {
        let (mut far, near) = tokio::io::duplex(1 << 20);
        far.write_all(&[7; 10_000]).await.unwrap();
        let known = Arc::new(AtomicBool::new(false));
        let mut near = Metered::new(near, Arc::clone(&known), 2_000, 1_000);
        let begun = Instant::now();
        let mut bytes = [0; 2_000];
        near.read_exact(&mut bytes).await.unwrap();
        assert_eq!((bytes, begun.elapsed()), ([7; 2_000], Duration::ZERO), "what the bucket holds comes at once");
        near.read_exact(&mut bytes).await.unwrap();
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(2) && took < Duration::from_millis(2_100), "{took:?}");
        known.store(true, Ordering::Release);
        let begun = Instant::now();
        let mut rest = vec![0; 6_000];
        near.read_exact(&mut rest).await.unwrap();
        assert_eq!((rest, begun.elapsed()), (vec![7; 6_000], Duration::ZERO));
    }
}
