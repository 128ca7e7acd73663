//! What a transaction has read, as far as its commit checks it. Past `limits::READ_SET_BYTES_MAX` neighbours become
//! ranges: what lies between them counts as read, too. So a conflict may be told that is none, and none is missed.

use std::cmp::Ordering;
use std::ops::Bound;

use bytes::Bytes;

use crate::limits::READ_SET_BYTES_MAX;

/// What a key or range takes beside the bytes of its keys.
const EACH_BYTES: usize = 80;

#[derive(Default)]
pub(crate) struct Reads {
    pub(crate) keys: Vec<(u32, Bytes)>,
    pub(crate) ranges: Vec<ReadRange>,
    bytes: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ReadRange {
    pub(crate) tree: u32,
    pub(crate) lower: Bound<Vec<u8>>,
    pub(crate) upper: Bound<Vec<u8>>,
}

impl Reads {
    pub(crate) fn note_key(&mut self, tree: u32, key: &[u8]) {
        self.keys.push((tree, Bytes::copy_from_slice(key)));
        self.bytes += key.len() + EACH_BYTES;
        self.keep_within(READ_SET_BYTES_MAX);
    }

    pub(crate) fn note_range(&mut self, tree: u32, lower: Bound<&[u8]>, upper: Bound<&[u8]>) {
        let range = ReadRange { tree, lower: lower.map(<[u8]>::to_vec), upper: upper.map(<[u8]>::to_vec) };
        self.bytes += range.bytes();
        self.ranges.push(range);
        self.keep_within(READ_SET_BYTES_MAX);
    }

    /// Halves what is past the limit, so that this is seldom done: what is there twice goes, then neighbours become
    /// ranges, then all of a tree does.
    fn keep_within(&mut self, bytes_max: usize) {
        if self.bytes <= bytes_max {
            return;
        }
        self.keys.sort_unstable();
        self.keys.dedup();
        self.merge(1);
        if self.bytes <= bytes_max / 2 {
            return;
        }
        let key = |(tree, key): (u32, Bytes)| {
            let key = Vec::from(key);
            ReadRange { tree, lower: Bound::Included(key.clone()), upper: Bound::Included(key) }
        };
        self.ranges.extend(self.keys.drain(..).map(key));
        self.merge(1);
        while self.bytes > bytes_max / 2 {
            let before = self.ranges.len();
            self.merge(2);
            if self.ranges.len() == before {
                for range in &mut self.ranges {
                    (range.lower, range.upper) = (Bound::Unbounded, Bound::Unbounded);
                }
                self.count();
                return;
            }
        }
    }

    /// Makes one range of those that touch each other, and of `together` others that follow one another.
    fn merge(&mut self, together: usize) {
        self.ranges.sort_unstable_by(|a, b| (a.tree.cmp(&b.tree)).then_with(|| lower_order(&a.lower, &b.lower)));
        let mut merged: Vec<ReadRange> = Vec::with_capacity(self.ranges.len());
        let mut gathered = 0;
        for range in self.ranges.drain(..) {
            let last = merged.last_mut().filter(|last| last.tree == range.tree);
            match last {
                Some(last) if gathered < together || last.touches(&range) => {
                    gathered += usize::from(!last.touches(&range));
                    if upper_order(&range.upper, &last.upper) == Ordering::Greater {
                        last.upper = range.upper;
                    }
                }
                _ => {
                    merged.push(range);
                    gathered = 1;
                }
            }
        }
        merged.shrink_to_fit();
        self.ranges = merged;
        self.count();
    }

    fn count(&mut self) {
        self.keys.shrink_to_fit();
        let keys = self.keys.iter().map(|(_, key)| key.len() + EACH_BYTES);
        self.bytes = keys.chain(self.ranges.iter().map(ReadRange::bytes)).sum();
    }
}

impl ReadRange {
    fn bytes(&self) -> usize {
        let of = |bound: &Bound<Vec<u8>>| match bound {
            Bound::Included(key) | Bound::Excluded(key) => key.len(),
            Bound::Unbounded => 0,
        };
        EACH_BYTES + of(&self.lower) + of(&self.upper)
    }

    /// Whether one that begins later begins within this one, or right behind it.
    fn touches(&self, later: &Self) -> bool {
        match (&self.upper, &later.lower) {
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => true,
            (Bound::Excluded(end), Bound::Excluded(begin)) => begin < end,
            (Bound::Included(end) | Bound::Excluded(end), Bound::Included(begin) | Bound::Excluded(begin)) => {
                begin <= end
            }
        }
    }
}

fn lower_order(a: &Bound<Vec<u8>>, b: &Bound<Vec<u8>>) -> Ordering {
    let order = |bound| match bound {
        Bound::Unbounded => (0, Vec::new(), 0),
        Bound::Included(key) => (1, key, 0),
        Bound::Excluded(key) => (1, key, 1),
    };
    order(a.clone()).cmp(&order(b.clone()))
}

fn upper_order(a: &Bound<Vec<u8>>, b: &Bound<Vec<u8>>) -> Ordering {
    let order = |bound| match bound {
        Bound::Excluded(key) => (0, key, 0),
        Bound::Included(key) => (0, key, 1),
        Bound::Unbounded => (1, Vec::new(), 0),
    };
    order(a.clone()).cmp(&order(b.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(reads: &Reads, tree: u32, key: &[u8]) -> bool {
        reads.keys.iter().any(|(t, k)| *t == tree && k == key)
            || reads.ranges.iter().any(|range| {
                let after = match &range.lower {
                    Bound::Unbounded => true,
                    Bound::Included(begin) => &begin[..] <= key,
                    Bound::Excluded(begin) => &begin[..] < key,
                };
                let before = match &range.upper {
                    Bound::Unbounded => true,
                    Bound::Included(end) => key <= &end[..],
                    Bound::Excluded(end) => key < &end[..],
                };
                range.tree == tree && after && before
            })
    }

    #[test]
    fn a_key_that_is_read_again_and_again_is_kept_once() {
        let mut reads = Reads::default();
        for _ in 0..200_000 {
            reads.note_key(1, b"the same key");
        }
        assert!(reads.keys.len() < 60_000 && reads.ranges.is_empty(), "{} keys", reads.keys.len());
        assert!(!covers(&reads, 1, b"the same kez") && covers(&reads, 1, b"the same key"));
    }

    #[test]
    fn whatever_was_read_stays_covered_and_memory_stays_bounded() {
        for (seed, bytes_max) in (0..30_u64).map(|seed| (seed, [400, 4000, 20_000][seed as usize % 3])) {
            let mut random = seed;
            let mut next = || {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) as u16
            };
            let mut reads = Reads::default();
            let mut keys = Vec::new();
            for _ in 0..2000 {
                let (tree, from, to) = (u32::from(next() % 3), next().to_be_bytes(), next().to_be_bytes());
                let (from, to) = (from.min(to), from.max(to));
                if next() % 8 > 0 {
                    reads.note_key(tree, &from);
                    keys.push((tree, from));
                } else {
                    let to = if next() % 4 == 0 { from } else { to.min(from.map(|b| b.saturating_add(1))) };
                    let lower = if next() % 2 == 0 { Bound::Included(&from[..]) } else { Bound::Excluded(&from[..]) };
                    let upper = if next() % 2 == 0 { Bound::Included(&to[..]) } else { Bound::Excluded(&to[..]) };
                    reads.note_range(tree, lower, upper);
                    if matches!((lower, upper), (Bound::Included(_), Bound::Included(_))) {
                        keys.extend([(tree, from), (tree, to)]);
                    }
                }
                reads.keep_within(bytes_max);
                assert!(reads.bytes <= bytes_max.max(3 * EACH_BYTES), "seed {seed}: {} bytes", reads.bytes);
            }
            let missed = keys.iter().find(|(tree, key)| !covers(&reads, *tree, key));
            assert_eq!(missed, None, "seed {seed}");
        }
    }

    #[test]
    fn far_keys_stay_apart_as_long_as_there_is_room() {
        let mut reads = Reads::default();
        for n in 0..40_u8 {
            reads.note_key(1, &[n, 0]);
        }
        reads.keep_within(20 * EACH_BYTES);
        assert!(reads.ranges.len() > 4, "{:?}", reads.ranges);
        assert!(!covers(&reads, 1, &[40]) && !covers(&reads, 2, &[7, 0]));
    }
}
