//! Asks a client of HTTP/2 that has been silent for long whether it is still there.
//!
//! hyper can do that, too, and takes a lock and reads the clock for every frame and every poll in order to: three to four percent
//! of what a small streamed message costs (2026-11-27, benches/record). Here a read sets a flag, and a timer looks at it.
//! The ping is written below h2, between two of its frames; h2 passes the answer over, as it has not asked, with a
//! line in the log that `blazedb serve` leaves out.
//!
//! Whatever the client sends shows that it is there, an answer or not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A frame of HTTP/2: 8 bytes long, PING, no flags, stream 0 (RFC 9113 6.7). What it carries means nothing to h2.
pub(super) const PING: [u8; 17] = *b"\0\0\x08\x06\0\0\0\0\0blazedb?";

/// Looks in each interval: the ping goes out a quarter of it late at most.
const LOOKS: u32 = 4;

/// What the two ends of the keepalive share: the socket's, and the timer's.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Something has come since the last look.
    heard: AtomicBool,
    /// A ping is to be written.
    asks: AtomicBool,
}

impl Line {
    /// Notes that something has come.
    pub(super) fn hear(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// Says whether a ping is to be written now.
    pub(super) fn asks(&self) -> bool {
        self.asks.load(Ordering::Relaxed)
    }

    /// Notes that it has been.
    pub(super) fn asked(&self) {
        self.asks.store(false, Ordering::Relaxed);
    }
}

/// The timer's end. `now` is an argument.
#[derive(Debug)]
pub(super) struct Keepalive {
    line: Arc<Line>,
    interval: Duration,
    timeout: Duration,
    silent_looks: u32,
    due: Instant,
}

impl Keepalive {
    pub(super) fn new(interval: Duration, timeout: Duration, now: Instant) -> Self {
        Self { line: Arc::default(), interval, timeout, silent_looks: 0, due: now + interval / LOOKS }
    }

    /// Returns the socket's end.
    pub(super) fn line(&self) -> Arc<Line> {
        Arc::clone(&self.line)
    }

    /// Returns when to look next.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Looks, and says whether the client may still be there.
    pub(super) fn look(&mut self, now: Instant) -> bool {
        if self.line.heard.swap(false, Ordering::Relaxed) {
            self.silent_looks = 0;
        } else if now < self.due {
            return true;
        } else {
            self.silent_looks += 1;
        }
        self.due = now + self.interval / LOOKS;
        if self.silent_looks == LOOKS {
            self.line.asks.store(true, Ordering::Relaxed);
            self.due = now + self.timeout;
        }
        self.silent_looks <= LOOKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_client_is_asked_once_and_then_given_up() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut keepalive = Keepalive::new(Duration::from_millis(400), Duration::from_millis(150), start);
        let line = keepalive.line();
        for turn in 1..=3 {
            assert_eq!(keepalive.due(), at(turn * 100));
            assert!(keepalive.look(at(turn * 100)) && !line.asks());
        }
        assert!(keepalive.look(at(350)) && keepalive.due() == at(400), "nobody is hurried by a look in between");
        assert!(keepalive.look(at(400)) && line.asks());
        line.asked();
        assert_eq!(keepalive.due(), at(550));
        line.hear();
        assert!(keepalive.look(at(550)), "it has answered");
        line.hear();
        assert!(keepalive.look(at(650)));
        for turn in 1..=4 {
            assert!(!line.asks());
            assert!(keepalive.look(at(650 + turn * 100)));
        }
        assert!(line.asks());
        assert!(!keepalive.look(keepalive.due()), "it has not");
    }
}
