//! `Hlc` and `Stamp`: the hybrid logical timestamp and its bytes. The ticking lives in the sync room.

use crate::error::DecodeError;
use crate::id::ReplicaId;
use crate::reader::Reader;
use crate::writer::{put_u32, put_u64};
use std::fmt;

/// A hybrid logical timestamp: milliseconds since 1970 in the upper 48 bits, a counter in the lower 16 (spec: O-14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The earliest timestamp.
    pub const ZERO: Self = Self(0);
    /// Greatest number of milliseconds that fits.
    pub const MS_MAX: u64 = (1 << 48) - 1;

    /// Returns the timestamp of these milliseconds (48 bits; more are cut to the greatest) and this counter.
    pub const fn from_parts(ms: u64, counter: u16) -> Self {
        let ms = if ms > Self::MS_MAX { Self::MS_MAX } else { ms };
        Self(ms << 16 | counter as u64)
    }

    /// Returns the milliseconds since 1970.
    pub const fn ms(self) -> u64 {
        self.0 >> 16
    }

    /// Returns the counter within the millisecond.
    pub const fn counter(self) -> u16 {
        self.0 as u16
    }

    /// Returns the next timestamp; past the last counter of a millisecond it is the next millisecond.
    ///
    /// The very last timestamp is its own successor, some 8,900 years from now.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.ms(), self.counter())
    }
}

/// What decides between two writes of one field: the timestamp, then the replica's tag (spec: O-15).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// When, as the author's hybrid clock had it.
    pub hlc: Hlc,
    /// The author's tag, see `ReplicaId::tag`.
    pub tag: u32,
}

impl Stamp {
    /// Length of an encoded stamp.
    pub const BYTES: usize = 12;

    /// Returns the stamp of `hlc` at `replica`.
    pub fn new(hlc: Hlc, replica: ReplicaId) -> Self {
        Self { hlc, tag: replica.tag() }
    }

    /// Appends the 12 bytes: timestamp, tag.
    pub fn encode(self, out: &mut Vec<u8>) {
        put_u64(out, self.hlc.0);
        put_u32(out, self.tag);
    }

    /// Reads 12 bytes.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { hlc: Hlc(reader.u64()?), tag: reader.u32()? })
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:08x}", self.hlc, self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: O-14
    #[test]
    fn counter_overflow_advances_the_millisecond() {
        let last = Hlc::from_parts(7, u16::MAX);
        assert_eq!(last.next(), Hlc::from_parts(8, 0));
        assert_eq!(last.next().ms(), 8);
        assert_eq!(Hlc(u64::MAX).next(), Hlc(u64::MAX));
        assert_eq!(Hlc::from_parts(u64::MAX, 1).counter(), 1);
    }

    // spec: O-15
    #[test]
    fn stamps_order_by_time_then_tag() {
        let early = Stamp { hlc: Hlc::from_parts(1, 9), tag: 9 };
        let late = Stamp { hlc: Hlc::from_parts(2, 0), tag: 0 };
        assert!(early < late);
        assert!(Stamp { tag: 10, ..early } > early);
        let mut out = Vec::new();
        early.encode(&mut out);
        assert_eq!(out.len(), Stamp::BYTES);
        assert_eq!(Stamp::decode(&mut Reader::new(&out)), Ok(early));
        assert_eq!(out[..3], [9, 0, 1]);
    }
}
