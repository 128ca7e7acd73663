//! Where the keys and values of a table lie: the records of one commit side by side in one segment, a long one in a
//! segment of its own.
//!
//! Segments are only added, by whoever grows the table, and go together when its last version goes. So a place in
//! them is good for every version that knows it, and neither a reader nor a copy of a node counts references.

use std::sync::OnceLock;

use bytes::Bytes;

/// Segments of the first bucket. Each next one has twice as many, so that none ever moves.
const FIRST_BUCKET: u32 = 16;
/// Enough for every number of 32 bits.
const BUCKETS: usize = 29;

#[derive(Default)]
pub(super) struct Segments {
    buckets: [OnceLock<Box<[OnceLock<Bytes>]>>; BUCKETS],
}

/// Where bytes lie.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) at: u32,
}

impl Segments {
    /// Bytes that a segment takes beside its own: its place in a bucket that may be half empty.
    pub(super) const EACH_BYTES: u64 = 2 * size_of::<OnceLock<Bytes>>() as u64;

    /// Adds the next segment; they are numbered one after another.
    pub(super) fn add(&self, number: u32, bytes: Bytes) {
        let (bucket, at) = bucket_of(number);
        let bucket =
            self.buckets[bucket].get_or_init(|| (0..FIRST_BUCKET << bucket).map(|_| OnceLock::new()).collect());
        bucket[at].set(bytes).expect("only the newest version of a table grows");
    }

    pub(super) fn segment(&self, number: u32) -> &Bytes {
        let (bucket, at) = bucket_of(number);
        let segment = self.buckets[bucket].get().and_then(|bucket| bucket[at].get());
        segment.expect("a place is told after its segment is there")
    }

    pub(super) fn bytes(&self, place: Place, len: usize) -> &[u8] {
        &self.segment(place.segment)[place.at as usize..][..len]
    }
}

fn bucket_of(number: u32) -> (usize, usize) {
    let bucket = (number / FIRST_BUCKET + 1).ilog2();
    (bucket as usize, (number - FIRST_BUCKET * ((1 << bucket) - 1)) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_place_of_its_own() {
        let mut expected = (0, 0);
        for number in 0..10_000 {
            assert_eq!(bucket_of(number), expected);
            expected.1 += 1;
            if expected.1 == (FIRST_BUCKET << expected.0) as usize {
                expected = (expected.0 + 1, 0);
            }
        }
        assert!(bucket_of(u32::MAX).0 < BUCKETS);
    }
}
