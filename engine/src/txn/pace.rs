//! Slowing writers down while a checkpoint runs: evenly, so that nobody is stopped.
//!
//! A checkpoint is expected to take as long as the last one did for as many bytes. Meanwhile commits find room for so
//! much table and so much log (`Fill`); what is past the first quarter of it is shared out over that time. How full it
//! is says until when a commit waits. So what one commit has not waited is waited by the next ones, the sum is the
//! same for one thread and for many, and a wait that takes longer than asked for costs nothing.
//!
//! No wait is longer than `WAIT_MAX`, or 32 times the commit's own share where that is more, or the checkpoint. Three things still stop
//! a writer, as memory and log have to end somewhere: a checkpoint that takes more than about four times as long as the
//! last one did, commits that are large beside the table, and a disk that lets the log's own writes wait.

use std::time::Duration;

/// Shortest and longest time that a commit is slowed down at once.
const WAIT_MIN: Duration = Duration::from_micros(250);
pub(super) const WAIT_MAX: Duration = Duration::from_millis(4);
/// What a commit waits at most, as a multiple of the time that its own bytes stand for. Only one that is large beside the
/// table comes near to it, and no commit waits longer than the checkpoint runs.
const OWN_SHARES_MAX: u32 = 32;
/// From this part of the room on a checkpoint counts as late, and the rest is kept for it to be later still.
const LATE_FROM: f64 = 0.75;
/// What giving pages to old views is expected to take at least: how many there are the last time says little.
const VIEWS_MIN: Duration = Duration::from_millis(50);

/// How full table and log are: the part, from 0 to 1, of what there was room for as the checkpoint began.
#[derive(Clone, Copy)]
pub(crate) struct Fill {
    pub(crate) bytes: u64,
    pub(crate) stop: u64,
}

/// How much writers are slowed down.
pub(crate) struct Pace {
    /// How long the last checkpoint of a full table took; a guess before the first one.
    table: Duration,
    /// How long giving pages to old views took the last time.
    views: Duration,
    step: Option<Step>,
    /// Bytes of commits that wait now: they will have their place before those that come later.
    waiting: u64,
    /// What writers have waited.
    pub(crate) waited: Duration,
}

/// A part of a checkpoint.
#[derive(Clone, Copy)]
struct Step {
    begun: Duration,
    expected: Duration,
    /// Where table and log stood.
    from: [u64; 2],
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            table: Duration::from_millis(250),
            views: Duration::ZERO,
            step: None,
            waiting: 0,
            waited: Duration::ZERO,
        }
    }
}

impl Pace {
    /// Old views are given pages from now on.
    pub(crate) fn begin_views(&mut self, now: Duration, from: [u64; 2]) {
        self.step = Some(Step { begun: now, expected: self.views.max(VIEWS_MIN), from });
    }

    /// They have them, and a table of so many bytes is written from now on; `full`: what a table has as a rule.
    pub(crate) fn begin_table(&mut self, now: Duration, bytes: u64, full: u64, from: [u64; 2]) {
        if let Some(step) = self.step {
            self.views = now.saturating_sub(step.begun);
        }
        self.step = Some(Step { begun: now, expected: self.table.mul_f64(bytes as f64 / full as f64), from });
    }

    /// A table of so many bytes is written, which was due at `due`; `None`: none is, or one that says nothing about the
    /// next.
    pub(crate) fn end(&mut self, now: Duration, written: Option<u64>, due: u64, full: u64) {
        let Some(step) = self.step.take() else { return };
        // What a checkpoint of a small table takes says little: it is one of the disk's syncs.
        if let Some(bytes) = written.filter(|&bytes| bytes >= due / 2) {
            self.table = now.saturating_sub(step.begun).mul_f64(full as f64 / bytes as f64);
        }
    }

    /// Returns where the table stood as this part of the checkpoint began; 0 where none runs.
    pub(crate) fn table_from(&self) -> u64 {
        self.step.map_or(0, |step| step.from[0])
    }

    /// Returns how long a commit has to wait that takes `bytes` of the table; `has_waited` ends it. `fill`: of the table,
    /// with it, and of the log.
    pub(crate) fn wait(&mut self, now: Duration, bytes: u64, mut fill: [Fill; 2]) -> Option<Duration> {
        let step = self.step?;
        fill[0].bytes += self.waiting;
        let parts = fill.iter().zip(step.from).map(|(fill, from)| fill.part_since(from));
        let until = step.begun + step.expected.mul_f64(when(parts.fold(0.0, f64::max)));
        let wait = until.saturating_sub(now);
        if wait < WAIT_MIN {
            return None;
        }
        let own = step.expected.mul_f64((bytes as f64 / fill[0].stop.max(1) as f64).min(1.0));
        let wait = wait.min(WAIT_MAX.max(own * OWN_SHARES_MAX));
        self.waited += wait;
        self.waiting += bytes;
        Some(wait)
    }

    /// A commit of so many bytes has waited, for so much less than it was told to.
    pub(crate) fn has_waited(&mut self, bytes: u64, less: Duration) {
        self.waiting -= bytes;
        self.waited = self.waited.saturating_sub(less);
    }
}

impl Fill {
    /// Of the room past the first quarter.
    fn part_since(&self, from: u64) -> f64 {
        let from = from + self.stop.saturating_sub(from) / 4;
        self.bytes.saturating_sub(from) as f64 / self.stop.saturating_sub(from).max(1) as f64
    }
}

/// When the room may be full to this part, as a multiple of the expected time: evenly at first, then ever later.
fn when(part: f64) -> f64 {
    if part <= LATE_FROM { part } else { LATE_FROM * (1.0 - LATE_FROM) / (1.0 - part).max(0.01) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const FULL: u64 = 1_000_000;

    fn fill(bytes: u64) -> [Fill; 2] {
        [Fill { bytes, stop: FULL }, Fill { bytes: 0, stop: FULL }]
    }

    fn pace_of(checkpoint: Duration) -> Pace {
        let mut pace = Pace::default();
        pace.begin_table(Duration::ZERO, FULL, FULL, [0; 2]);
        pace.end(checkpoint, Some(FULL), FULL, FULL);
        pace.begin_table(Duration::ZERO, FULL, FULL, [0; 2]);
        pace
    }

    /// Writers in a loop, each of which waits as it is told; returns how full the table is when the checkpoint ends,
    /// the longest wait, and the sum of the waits of one writer.
    fn run(pace: &mut Pace, ends: Duration, writers: usize, bytes: u64) -> (u64, Duration, Duration) {
        let mut free_at = vec![Duration::ZERO; writers];
        let mut waits = vec![false; writers];
        let (mut table, mut longest, mut sum) = (0, Duration::ZERO, Duration::ZERO);
        loop {
            let next = (0..writers).min_by_key(|&n| free_at[n]).expect("there is one");
            let now = free_at[next];
            if std::mem::take(&mut waits[next]) {
                pace.has_waited(bytes, Duration::ZERO);
                table += bytes;
            }
            if now >= ends || table + bytes > FULL {
                return (table, longest, sum);
            }
            let wait = pace.wait(now, bytes, fill(table + bytes)).unwrap_or_default();
            (longest, sum) = (longest.max(wait), sum + if next == 0 { wait } else { Duration::ZERO });
            waits[next] = !wait.is_zero();
            table += if wait.is_zero() { bytes } else { 0 };
            // A commit takes time of its own, and a sleep takes longer than it is asked to.
            free_at[next] = now + wait + Duration::from_micros(20 + if wait.is_zero() { 0 } else { 70 });
        }
    }

    #[test]
    fn writers_fill_the_room_in_the_time_of_a_checkpoint_however_many_they_are() {
        for writers in [1, 4, 16] {
            let (table, longest, _) = run(&mut pace_of(100 * MS), 100 * MS, writers, 300);
            assert!((800_000..900_000).contains(&table), "{writers} writers: {table} bytes");
            assert!(longest <= WAIT_MAX, "{writers} writers: {longest:?}");
        }
    }

    #[test]
    fn a_checkpoint_that_is_late_finds_writers_waiting_briefly_and_not_at_the_stop() {
        for writers in [1, 4] {
            let (table, longest, waited) = run(&mut pace_of(100 * MS), 400 * MS, writers, 300);
            assert!((900_000..FULL - 300).contains(&table), "{writers} writers: {table} bytes");
            assert!(longest <= WAIT_MAX && waited > 300 * MS, "{writers} writers: {longest:?}, {waited:?}");
        }
    }

    #[test]
    fn what_one_commit_does_not_wait_the_next_ones_wait() {
        let mut pace = pace_of(1000 * MS);
        // A large one first: it stands for 333 ms, of which it waits some. The small ones behind it wait 4 ms each.
        assert_eq!(pace.wait(Duration::ZERO, 300_000, fill(500_000)), Some(Duration::from_secs_f64(1.0 / 3.0)));
        pace.has_waited(300_000, Duration::ZERO);
        for n in 0..80 {
            assert_eq!(pace.wait(4 * MS * n, 100, fill(500_000)), Some(WAIT_MAX), "{n}");
            pace.has_waited(100, Duration::ZERO);
        }
        assert_eq!(pace.wait(334 * MS, 100, fill(500_000)), None, "it is all paid");
    }

    #[test]
    fn whoever_does_not_fill_the_room_does_not_wait() {
        let mut pace = pace_of(100 * MS);
        assert_eq!(pace.wait(Duration::ZERO, 1000, fill(250_000)), None, "a quarter is free");
        assert_eq!(pace.wait(60 * MS, 1000, fill(600_000)), None, "as fast as the checkpoint");
        pace.end(100 * MS, Some(FULL), FULL, FULL);
        assert_eq!(pace.wait(100 * MS, 1000, fill(900_000)), None, "no checkpoint runs");
        assert_eq!(pace.waited, Duration::ZERO);
    }

    #[test]
    fn small_tables_teach_nothing_and_a_full_log_counts_like_a_full_table() {
        let mut pace = pace_of(100 * MS);
        pace.end(5 * MS, Some(FULL / 10), FULL, FULL);
        pace.begin_views(Duration::ZERO, [0; 2]);
        pace.begin_table(30 * MS, FULL, FULL, [0; 2]);
        let log = Fill { bytes: 625_000, stop: FULL };
        assert_eq!(pace.wait(76 * MS, 1000, [fill(1000)[0], log]), Some(4 * MS), "half of 100 ms from 30 ms on");
        pace.has_waited(1000, Duration::ZERO);
        assert_eq!(pace.wait(81 * MS, 1000, [fill(1000)[0], log]), None);
    }

    /// As docs/promises.md has it.
    #[test]
    fn no_commit_waits_longer_than_32_times_its_share() {
        for bytes in [1, 1_000, 50_000, 500_000, 1_000_000] {
            for full in [250_000, 950_000, 1_000_000, 5_000_000] {
                let wait = pace_of(1000 * MS).wait(Duration::ZERO, bytes, fill(full)).unwrap_or_default();
                let own = Duration::from_micros(bytes);
                assert!(wait <= (own * 32).max(Duration::from_millis(4)), "{wait:?} of {own:?} with {full}");
            }
        }
    }
}
