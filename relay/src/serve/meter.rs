//! What a connection may cost: a bucket of tokens, and a stream of bytes that waits for them.
//!
//! HTTP/2 has many frames that cost their sender nothing and need no call (pings, settings, window updates, priorities,
//! resets of streams). They are bounded here by their bytes until the connection has shown a good token, and again while
//! more lies there than its window and no call reads it ([`Unread`]): else a member moves whatever its windows let it move.
//! Read [`Bucket`] first.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::Limits;
use super::unread::Unread;

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

/// Reads no faster than a stranger may, until `known` is set, and while more lies unread than a window. Writes pass.
#[derive(Debug)]
pub(super) struct Metered<S> {
    inner: S,
    known: Arc<AtomicBool>,
    unread: Arc<Unread>,
    /// How much may lie unread.
    window: u64,
    /// What was untaken when nothing lay unread, as far as is known.
    empty_at: u64,
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
    pub(super) fn new(inner: S, known: Arc<AtomicBool>, unread: Arc<Unread>, limits: &Limits) -> Self {
        let now = Instant::now();
        let wait = Box::pin(tokio::time::sleep_until(now));
        let most = limits.stranger_bytes_max;
        let hand = HAND_BYTES.min(most / 2);
        let bucket = Bucket::new(most - hand, limits.stranger_bytes_per_second, now);
        let window = limits.connection_window_bytes.into();
        Self { inner, known, unread, window, empty_at: 0, bucket, hand, wait, waiting: false }
    }

    /// Says whether the other end may move what it likes.
    fn is_free(&mut self) -> bool {
        self.known.load(Ordering::Acquire) && {
            let untaken = self.unread.untaken();
            let lies = |empty_at: u64| untaken.saturating_sub(empty_at);
            if lies(self.empty_at) > self.window {
                // Bodies are not asked for every read, but only when there might be too much.
                self.empty_at = self.unread.empty_at();
            }
            lies(self.empty_at) <= self.window
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let free = self.is_free();
        let before = buffer.filled().len();
        let Self { inner, unread, bucket, hand, wait, waiting, .. } = &mut *self;
        if free {
            let polled = Pin::new(inner).poll_read(cx, buffer);
            unread.come(buffer.filled().len() - before);
            return polled;
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
        unread.come(read);
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
    use crate::serve::unread::Taker;

    /// A window of 3,000 bytes; a stranger has 2,000, and 1,000 more a second.
    fn metered<S>(inner: S, known: &Arc<AtomicBool>, unread: &Arc<Unread>) -> Metered<S> {
        let limits = Limits {
            connection_window_bytes: 3_000,
            stranger_bytes_max: 2_000,
            stranger_bytes_per_second: 1_000,
            ..Limits::default()
        };
        Metered::new(inner, Arc::clone(known), Arc::clone(unread), &limits)
    }

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
        let mut near = metered(near, &known, &Arc::default());
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
    #[tokio::test(start_paused = true)]
    async fn a_member_waits_while_more_than_its_window_lies_unread() {
        let (mut far, near) = tokio::io::duplex(1 << 20);
        far.write_all(&[7; 30_000]).await.unwrap();
        let (known, unread) = (Arc::new(AtomicBool::new(true)), Arc::default());
        let mut near = metered(near, &known, &unread);
        let mut bytes = [0; 1_000];
        let begun = Instant::now();
        for _ in 0..10 {
            near.read_exact(&mut bytes).await.unwrap();
        }
        let body = Taker::new(&unread);
        for _ in 0..5 {
            near.read_exact(&mut bytes).await.unwrap();
        }
        assert_eq!(begun.elapsed(), Duration::ZERO, "3,000 bytes lie there, then what the bucket holds");
        near.read_exact(&mut bytes).await.unwrap();
        near.read_exact(&mut bytes).await.unwrap();
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(1) && took < Duration::from_millis(2_100), "{took:?}");
        body.took(3_000);
        body.found_nothing();
        let begun = Instant::now();
        for _ in 0..3 {
            near.read_exact(&mut bytes).await.unwrap();
            body.took(1_000);
        }
        assert_eq!(begun.elapsed(), Duration::ZERO, "and what is taken lies there no more");
        drop(body);
        let mut rest = vec![0; 10_000];
        near.read_exact(&mut rest).await.unwrap();
        assert_eq!((rest, begun.elapsed()), (vec![7; 10_000], Duration::ZERO));
    }
}
