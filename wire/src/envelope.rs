//! `Envelope`: what the relay says about a batch that it has numbered.
//!
//! The relay appends a batch verbatim under an envelope of its own: its place in the sequence, a verdict for each
//! transaction, a bit for each operation that was not applied. Every operation uses up its number.

use crate::error::{DecodeError, DecodeErrorKind};
use crate::id::ReplicaId;
use crate::limits::BATCH_OPS_MAX;
use crate::reader::Reader;
use crate::writer::{put_u32, put_u64, put_uvarint};
use std::fmt;

/// What became of a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It holds.
    #[default]
    Applied,
    /// Refused: its timestamp is too far ahead.
    RefusedClock,
    /// Refused: its author may not do this.
    RefusedPermission,
    /// Refused: it is above a limit.
    RefusedLimit,
}

impl Verdict {
    /// Returns the number in the format.
    pub const fn number(self) -> u8 {
        match self {
            Self::Applied => 0,
            Self::RefusedClock => 1,
            Self::RefusedPermission => 2,
            Self::RefusedLimit => 3,
        }
    }

    pub(crate) const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Applied,
            1 => Self::RefusedClock,
            2 => Self::RefusedPermission,
            3 => Self::RefusedLimit,
            _ => return None,
        })
    }
}

/// What became of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It takes part in the merge.
    Applied,
    /// Its transaction was refused.
    Refused(Verdict),
    /// It sits on a dead document: numbered, not applied.
    Absorbed,
    /// It was numbered before: not applied again.
    Repeated,
}

/// One bit for each operation of a batch, all zero at first.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bitmap {
    bytes: Vec<u8>,
    len: u32,
}

impl Bitmap {
    /// Returns `len` bits, all zero.
    pub fn new(len: u32) -> Self {
        Self { bytes: vec![0; Self::bytes_for(len)], len }
    }

    const fn bytes_for(len: u32) -> usize {
        len.div_ceil(8) as usize
    }

    /// Returns the number of bits.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Returns true if there is no bit at all.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the bit at `index`; past the last bit, false.
    pub fn get(&self, index: usize) -> bool {
        index < self.len() && self.bytes.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
    }

    /// Sets the bit at `index` to one.
    ///
    /// # Panics
    ///
    /// If `index` is not below `len`.
    pub fn set(&mut self, index: usize) {
        assert!(index < self.len(), "bit {index} of {}", self.len);
        self.bytes[index / 8] |= 1 << (index % 8);
    }

    /// Returns true if any bit is one.
    pub fn any(&self) -> bool {
        self.bytes.iter().any(|&byte| byte != 0)
    }

    /// Returns how many bits are one.
    pub fn count_ones(&self) -> usize {
        self.bytes.iter().map(|byte| byte.count_ones() as usize).sum()
    }

    /// Iterates over the bits.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = bool> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Reads `len` bits; the spare ones must be zero (spec: F-13).
    fn decode(reader: &mut Reader<'_>, len: u32) -> Result<Self, DecodeError> {
        let bytes = reader.bytes(Self::bytes_for(len))?;
        let spare = match len % 8 {
            0 => 0,
            used => 0xff << used,
        };
        if bytes.last().is_some_and(|last| last & spare != 0) {
            return Err(DecodeError::new(reader.offset() - 1, DecodeErrorKind::NotCanonical("F-13")));
        }
        Ok(Self { bytes: bytes.to_vec(), len })
    }
}

impl fmt::Debug for Bitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|bit| f.write_str(if bit { "1" } else { "0" }))
    }
}

/// The relay's word on a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The epoch of the sequence.
    pub epoch: u32,
    /// The number of the first operation; the others follow.
    ///
    /// Zero, in an Ack only: the whole batch was known, no number was used and nothing was logged.
    pub first_seq: u64,
    /// The relay's time, in milliseconds since 1970.
    pub relay_ms: u64,
    /// The batch's author.
    pub replica: ReplicaId,
    /// The author's counter of the first operation.
    pub first_counter: u64,
    /// The number of operations.
    pub n: u32,
    /// For each transaction its verdict and its number of operations.
    pub verdicts: Vec<(Verdict, u32)>,
    /// Operations on dead documents: numbered, not applied.
    pub absorbed: Bitmap,
    /// Operations that were numbered before.
    pub repeated: Bitmap,
}

impl Envelope {
    /// Appends the encoding with its checksum.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        put_uvarint(out, self.epoch.into());
        put_uvarint(out, self.first_seq);
        put_u64(out, self.relay_ms);
        out.extend_from_slice(self.replica.as_bytes());
        put_uvarint(out, self.first_counter);
        put_uvarint(out, self.n.into());
        put_uvarint(out, self.verdicts.len() as u64);
        for &(verdict, count) in &self.verdicts {
            out.push(verdict.number());
            put_uvarint(out, count.into());
        }
        out.extend_from_slice(&self.absorbed.bytes);
        out.extend_from_slice(&self.repeated.bytes);
        let crc = crc32fast::hash(out.get(start..).unwrap_or_default());
        put_u32(out, crc);
    }

    /// Returns the encoding.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    /// Checks an envelope from outside; it must be all of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_at(bytes, 0)
    }

    /// Checks an envelope that starts at offset `at` of something larger.
    pub(crate) fn decode_at(bytes: &[u8], at: usize) -> Result<Self, DecodeError> {
        let Some((covered, sum)) = bytes.split_last_chunk::<4>() else {
            let kind = DecodeErrorKind::UnexpectedEnd { wanted: 4, left: bytes.len() };
            return Err(DecodeError::new(at, kind));
        };
        // spec: F-11
        let (stored, computed) = (u32::from_le_bytes(*sum), crc32fast::hash(covered));
        if stored != computed {
            let kind = DecodeErrorKind::Checksum { stored, computed };
            return Err(DecodeError::new(at + covered.len(), kind));
        }
        let mut reader = Reader::with_offset(covered, at);
        let epoch = reader.uvarint_max(u32::MAX.into(), "epoch")? as u32;
        let seq_at = reader.offset();
        let first_seq = reader.uvarint()?;
        let relay_ms = reader.u64()?;
        let replica = ReplicaId(reader.array()?);
        let counter_at = reader.offset();
        let first_counter = reader.uvarint()?;
        let count_at = reader.offset();
        let n = reader.uvarint_max(BATCH_OPS_MAX as u64, "operations in a batch")? as u32;
        let out_of_range =
            |at, what, given, max| DecodeError::new(at, DecodeErrorKind::OutOfRange { what, given, max });
        // spec: B-8
        if n == 0 {
            return Err(out_of_range(count_at, "operations in a batch", 0, BATCH_OPS_MAX as u64));
        }
        // The last number and the last counter exist (spec: B-2, F-14).
        let max = u64::MAX - u64::from(n);
        if first_seq > max {
            return Err(out_of_range(seq_at, "first sequence number", first_seq, max));
        }
        if first_counter == 0 || first_counter > max {
            return Err(out_of_range(counter_at, "first counter", first_counter, max));
        }
        // spec: F-12
        let transactions = reader.count(n as usize, 2, "transactions")?;
        let mut verdicts = Vec::with_capacity(transactions);
        let mut left = n;
        for _ in 0..transactions {
            let at = reader.offset();
            let number = reader.u8()?;
            let verdict = Verdict::from_number(number).ok_or_else(|| out_of_range(at, "verdict", number.into(), 3))?;
            let at = reader.offset();
            let count = reader.uvarint()?;
            match u32::try_from(count) {
                Ok(count) if count > 0 && count <= left => {
                    left -= count;
                    verdicts.push((verdict, count));
                }
                _ => return Err(out_of_range(at, "operations in a transaction", count, left.into())),
            }
        }
        if left != 0 {
            return Err(reader.fail(DecodeErrorKind::NotCanonical("F-12")));
        }
        let absorbed = Bitmap::decode(&mut reader, n)?;
        let repeated = Bitmap::decode(&mut reader, n)?;
        reader.finish()?;
        Ok(Self { epoch, first_seq, relay_ms, replica, first_counter, n, verdicts, absorbed, repeated })
    }

    /// Returns the number of the last operation; zero if no number was used.
    pub const fn last_seq(&self) -> u64 {
        if self.first_seq == 0 { 0 } else { self.first_seq.saturating_add(self.n as u64).saturating_sub(1) }
    }

    /// Returns the number of the operation at `index`; zero if no number was used.
    pub const fn seq_of(&self, index: usize) -> u64 {
        if self.first_seq == 0 { 0 } else { self.first_seq.saturating_add(index as u64) }
    }

    /// Returns the verdict on the transaction of the operation at `index`; past the last operation, applied.
    ///
    /// Costs a walk over the transactions; for all operations use `outcomes`.
    pub fn verdict(&self, index: usize) -> Verdict {
        let mut end = 0usize;
        for &(verdict, count) in &self.verdicts {
            end = end.saturating_add(count as usize);
            if index < end {
                return verdict;
            }
        }
        Verdict::Applied
    }

    /// Returns true if the operation at `index` takes part in the merge.
    pub fn applied(&self, index: usize) -> bool {
        self.outcome(index, self.verdict(index)) == Outcome::Applied
    }

    /// Iterates over what became of each operation.
    pub fn outcomes(&self) -> impl Iterator<Item = Outcome> + '_ {
        let verdicts = self.verdicts.iter().flat_map(|&(verdict, count)| std::iter::repeat_n(verdict, count as usize));
        verdicts.enumerate().map(|(index, verdict)| self.outcome(index, verdict))
    }

    /// A repeat says nothing new, whatever else is said of it; a refusal goes before the document's death.
    fn outcome(&self, index: usize, verdict: Verdict) -> Outcome {
        if self.first_seq == 0 || self.repeated.get(index) {
            Outcome::Repeated
        } else if verdict != Verdict::Applied {
            Outcome::Refused(verdict)
        } else if self.absorbed.get(index) {
            Outcome::Absorbed
        } else {
            Outcome::Applied
        }
    }
}
