//! Slowing writers down while tables fill faster than checkpoints empty them: gradually, so that nobody is stopped.

use std::mem;
use std::time::Duration;

/// Shortest and longest time that a commit is slowed down at once.
const WAIT_MIN: Duration = Duration::from_micros(250);
const WAIT_MAX: Duration = Duration::from_millis(4);

/// How much writers are slowed down while tables fill faster than checkpoints empty them.
pub(crate) struct Pace {
    /// How long the last checkpoint of a full table took; a guess before the first one.
    checkpoint: Duration,
    /// What writers owe and have not waited yet: a wait takes longer than it says, so short ones are put together.
    owed: Duration,
    /// What they have waited.
    pub(crate) waited: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { checkpoint: Duration::from_secs(1), owed: Duration::ZERO, waited: Duration::ZERO }
    }
}

impl Pace {
    /// Notes how long a checkpoint took. What one of a small table takes says little: it is one of the disk's syncs.
    pub(crate) fn learn(&mut self, took: Duration, bytes: u64, full: u64) {
        if bytes >= full / 2 {
            self.checkpoint = took.mul_f64(full as f64 / bytes as f64);
        }
    }

    /// Returns how long the writer of so many bytes has to wait now. `over`: how near the table is to where writers stop,
    /// from 0 to 1. Half way there they are as fast as checkpoints are.
    pub(crate) fn wait_after(&mut self, bytes: u64, over: f64, full: u64) -> Option<Duration> {
        let by_checkpoint = self.checkpoint.as_secs_f64() * bytes as f64 / full as f64;
        self.owed += Duration::from_secs_f64(2.0 * over * by_checkpoint);
        if self.owed < WAIT_MIN {
            return None;
        }
        let wait = mem::take(&mut self.owed).min(WAIT_MAX);
        self.waited += wait;
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_way_writers_are_as_fast_as_checkpoints() {
        let mut pace = Pace::default();
        pace.learn(Duration::from_secs(3), 50, 1000);
        pace.learn(Duration::from_millis(200), 500, 1000);
        // A checkpoint writes 1,000 bytes in 400 ms. Small commits do not wait each, and none waits for long.
        let waits: Vec<_> = (0..100_000).filter_map(|n| pace.wait_after(1 + n % 2, 0.5, 1_000_000)).collect();
        assert!(waits.len() < 300 && waits.iter().all(|wait| (WAIT_MIN..WAIT_MAX).contains(wait)));
        let waited = waits.iter().sum::<Duration>();
        assert!((Duration::from_millis(59)..=Duration::from_millis(60)).contains(&waited), "{waited:?}");
        assert_eq!(pace.waited, waited);
        assert_eq!(pace.wait_after(1_000_000, 1.0, 1_000_000), Some(WAIT_MAX));
    }
}
