//! Timers of a session: silence and backoff. Times are arguments; nothing here looks at a clock.

use super::Millis;
use crate::limits::{BACKOFF_FIRST_MS, BACKOFF_MAX_MS, DEAD_AFTER_MS, PING_AFTER_MS, RETRY_MS_MAX};

/// Watches for silence of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Silence {
    heard: Millis,
    /// Whether a Ping went out since something was heard.
    pinged: bool,
}

/// What silence calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SilenceCall {
    Nothing,
    Ping,
    Dead,
}

impl Silence {
    pub(super) const fn since(now: Millis) -> Self {
        Self { heard: now, pinged: false }
    }

    /// Returns when [`Silence::check`] has to be called.
    pub(super) const fn deadline(&self) -> Millis {
        self.heard.saturating_add(if self.pinged { DEAD_AFTER_MS } else { PING_AFTER_MS })
    }

    /// spec: S-15
    pub(super) fn check(&mut self, now: Millis) -> SilenceCall {
        let silent = now.saturating_sub(self.heard);
        if silent >= DEAD_AFTER_MS {
            SilenceCall::Dead
        } else if silent >= PING_AFTER_MS && !self.pinged {
            self.pinged = true;
            SilenceCall::Ping
        } else {
            SilenceCall::Nothing
        }
    }
}

/// How long to wait before connecting again: exponential with full jitter.
///
/// Full jitter spreads a crowd that was cut off at once evenly over the whole interval; a wait that only varies around its
/// middle would let it come back as a crowd.
#[derive(Clone, Debug)]
pub struct Backoff {
    attempt: u32,
    random: SplitMix,
}

impl Backoff {
    /// Returns a backoff at its first step; the seed spreads the waits.
    pub const fn new(seed: u64) -> Self {
        Self { attempt: 0, random: SplitMix(seed) }
    }

    /// Starts again from the first step.
    pub const fn reset(&mut self) {
        self.attempt = 0;
    }

    /// Returns the next wait in milliseconds. A wait asked for by the relay comes first and is not jittered away.
    pub fn next(&mut self, retry_ms: u64) -> u64 {
        // spec: S-16
        let ceiling = BACKOFF_FIRST_MS.saturating_mul(1 << self.attempt.min(32)).min(BACKOFF_MAX_MS);
        self.attempt = self.attempt.saturating_add(1);
        retry_ms.min(RETRY_MS_MAX) + self.random.next() % (ceiling + 1)
    }
}

/// The SplitMix64 generator: enough to spread waits, and the same seed gives the same trace.
#[derive(Clone, Debug)]
struct SplitMix(u64);

impl SplitMix {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_ceiling_and_fill_their_interval() {
        // spec: S-16
        let mut ceilings = [0u64; 12];
        for seed in 0..2_000 {
            let mut backoff = Backoff::new(seed);
            for (attempt, greatest) in ceilings.iter_mut().enumerate() {
                let wait = backoff.next(0);
                let ceiling = (BACKOFF_FIRST_MS << attempt).min(BACKOFF_MAX_MS);
                assert!(wait <= ceiling, "wait {wait} above {ceiling} at attempt {attempt}");
                *greatest = wait.max(*greatest);
            }
        }
        for (attempt, greatest) in ceilings.iter().enumerate() {
            let ceiling = (BACKOFF_FIRST_MS << attempt).min(BACKOFF_MAX_MS);
            assert!(*greatest > ceiling * 9 / 10, "attempt {attempt} never waits near its ceiling");
        }
    }

    #[test]
    fn the_relay_may_ask_for_more_but_not_for_ever() {
        // spec: S-16
        let mut backoff = Backoff::new(1);
        let wait = backoff.next(5_000);
        assert!((5_000..=5_000 + BACKOFF_FIRST_MS).contains(&wait));
        assert!(backoff.next(u64::MAX) <= RETRY_MS_MAX + BACKOFF_MAX_MS);
        for _ in 0..100 {
            backoff.next(0);
        }
        assert!(backoff.next(0) <= BACKOFF_MAX_MS);
        backoff.reset();
        assert!(backoff.next(0) <= BACKOFF_FIRST_MS);
    }

    #[test]
    fn silence_calls_for_a_ping_once_and_then_for_the_end() {
        // spec: S-15
        let mut silence = Silence::since(1_000);
        assert_eq!(silence.deadline(), 21_000);
        assert_eq!(silence.check(20_999), SilenceCall::Nothing);
        assert_eq!(silence.check(21_000), SilenceCall::Ping);
        assert_eq!(silence.check(21_001), SilenceCall::Nothing);
        assert_eq!(silence.deadline(), 41_000);
        assert_eq!(silence.check(40_999), SilenceCall::Nothing);
        assert_eq!(silence.check(41_000), SilenceCall::Dead);
    }
}
