//! `HlcClock`: the ticking of the hybrid logical clock. The value itself is [`Hlc`].
//!
//! A stamp orders the winners of fields, nothing else: it is no cursor and no name. The clock promises one thing: every
//! stamp that it issues is strictly greater than every stamp that it issued or observed before. The wall time is an
//! argument and may jump in either direction; the clock follows it forwards and stands still (counting) when it goes
//! back.
//!
//! Rules: spec/merge.md, M-20 and M-21.

use blazedb_wire::Hlc;

use crate::limits::OBSERVED_MS_MAX;

/// Issues stamps that only ever grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HlcClock {
    last: Hlc,
}

impl Default for HlcClock {
    fn default() -> Self {
        Self::new()
    }
}

impl HlcClock {
    /// Returns a clock that has seen nothing.
    pub const fn new() -> Self {
        Self { last: Hlc(0) }
    }

    /// Returns a clock that continues after `last`, as read from a file.
    pub const fn restored(last: Hlc) -> Self {
        Self { last }
    }

    /// Issues the next stamp: the wall time `now_ms` if that is news, else the successor of the last one.
    ///
    /// When the 16-bit counter is used up the millisecond advances, ahead of the wall.
    pub fn tick(&mut self, now_ms: u64) -> Hlc {
        let wall = Hlc::from_parts(now_ms, 0);
        self.last = if wall > self.last { wall } else { self.last.next() };
        self.last
    }

    /// Takes note of a stamp issued elsewhere: every later tick exceeds it.
    ///
    /// Stamps beyond [`OBSERVED_MS_MAX`] are ignored: following them would use up the range for everyone. Fields that
    /// carry such a stamp keep winning until they are deleted; the clock still grows.
    pub fn observe(&mut self, seen: Hlc) {
        if seen > self.last && seen.ms() <= OBSERVED_MS_MAX {
            self.last = seen;
        }
    }

    /// Returns the greatest stamp issued or observed.
    pub const fn last(&self) -> Hlc {
        self.last
    }

    /// Sets the clock to `last`, also backwards.
    ///
    /// Backwards is right in one place: after a seal that replaced stamps from a clock that was far ahead, when nothing
    /// with a greater stamp is left anywhere.
    pub fn restore(&mut self, last: Hlc) {
        self.last = last;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn follows_the_wall_and_counts_when_it_stands_still() {
        let mut clock = HlcClock::new();
        assert_eq!(clock.tick(5), Hlc::from_parts(5, 0));
        assert_eq!(clock.tick(5), Hlc::from_parts(5, 1));
        assert_eq!(clock.tick(4), Hlc::from_parts(5, 2));
        assert_eq!(clock.tick(6), Hlc::from_parts(6, 0));
    }

    #[test]
    fn counter_overflow_advances_the_millisecond() {
        // spec: M-21
        let mut clock = HlcClock::restored(Hlc::from_parts(9, u16::MAX - 1));
        assert_eq!(clock.tick(9), Hlc::from_parts(9, u16::MAX));
        assert_eq!(clock.tick(9), Hlc::from_parts(10, 0));
        assert_eq!(clock.tick(9), Hlc::from_parts(10, 1));
    }

    #[test]
    fn an_absurd_stamp_does_not_move_the_clock() {
        let mut clock = HlcClock::new();
        clock.observe(Hlc(u64::MAX));
        assert_eq!(clock.tick(7), Hlc::from_parts(7, 0));
        clock.observe(Hlc::from_parts(OBSERVED_MS_MAX, u16::MAX));
        assert_eq!(clock.tick(7), Hlc::from_parts(OBSERVED_MS_MAX + 1, 0));
        clock.observe(Hlc::from_parts(OBSERVED_MS_MAX + 1, 5));
        assert_eq!(clock.last(), Hlc::from_parts(OBSERVED_MS_MAX + 1, 0));
    }

    #[test]
    fn the_end_of_the_range_does_not_wrap() {
        let mut clock = HlcClock::restored(Hlc(u64::MAX));
        assert_eq!(clock.tick(u64::MAX), Hlc(u64::MAX));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Tick(u64),
        Observe(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u64..50).prop_map(Step::Tick),
            (0u64..50 << 16).prop_map(Step::Observe),
            (0u64..50).prop_map(|ms| Step::Observe(ms << 16 | 0xFFFF)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_tick_exceeds_all_that_came_before(steps in prop::collection::vec(step(), 1..200)) {
            // spec: M-21
            let mut clock = HlcClock::new();
            let mut greatest = Hlc(0);
            for step in steps {
                match step {
                    Step::Tick(now) => {
                        let issued = clock.tick(now);
                        prop_assert!(issued > greatest, "{issued:?} after {greatest:?}");
                        prop_assert!(issued.ms() >= now.min(issued.ms()));
                        prop_assert!(issued >= Hlc::from_parts(now, 0));
                        greatest = issued;
                    }
                    Step::Observe(raw) => {
                        clock.observe(Hlc(raw));
                        greatest = greatest.max(Hlc(raw));
                    }
                }
                prop_assert_eq!(clock.last(), greatest);
            }
        }
    }
}
