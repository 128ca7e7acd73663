//! `Reader`: a cursor over untrusted bytes that checks every bound and whose every failure knows its offset.

use crate::error::{DecodeError, DecodeErrorKind};
use crate::varint::{VarintError, read_uvarint};

/// A cursor over bytes from outside.
///
/// It never panics and never allocates; what it returns borrows from the input.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    left: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// Returns a reader at the start of `bytes`.
    #[inline]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes, offset: 0 }
    }

    /// Returns a reader whose errors count from `offset`, for bytes that are part of something larger.
    #[inline]
    pub const fn with_offset(bytes: &'a [u8], offset: usize) -> Self {
        Self { left: bytes, offset }
    }

    /// Returns where the next byte lies.
    #[inline]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// Returns how many bytes are left.
    #[inline]
    pub const fn left(&self) -> usize {
        self.left.len()
    }

    /// Returns true at the end of the input.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// Returns the error `kind` at the present offset.
    #[cold]
    pub const fn fail(&self, kind: DecodeErrorKind) -> DecodeError {
        DecodeError::new(self.offset, kind)
    }

    /// Reads `count` bytes.
    #[inline]
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        match self.left.split_at_checked(count) {
            Some((head, tail)) => {
                self.left = tail;
                self.offset += count;
                Ok(head)
            }
            None => Err(self.fail(DecodeErrorKind::UnexpectedEnd { wanted: count, left: self.left.len() })),
        }
    }

    /// Reads `N` bytes.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        match self.left.split_first_chunk::<N>() {
            Some((head, tail)) => {
                self.left = tail;
                self.offset += N;
                Ok(*head)
            }
            None => Err(self.fail(DecodeErrorKind::UnexpectedEnd { wanted: N, left: self.left.len() })),
        }
    }

    /// Reads one byte.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// Reads two bytes, least significant first.
    #[inline]
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Reads four bytes, least significant first.
    #[inline]
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Reads eight bytes, least significant first.
    #[inline]
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Reads a varint (spec: V-1, V-2).
    #[inline]
    pub fn uvarint(&mut self) -> Result<u64, DecodeError> {
        match read_uvarint(self.left) {
            Ok((value, len)) => {
                self.left = self.left.get(len..).unwrap_or_default();
                self.offset += len;
                Ok(value)
            }
            Err(VarintError::End) => {
                Err(self.fail(DecodeErrorKind::UnexpectedEnd { wanted: self.left.len() + 1, left: self.left.len() }))
            }
            Err(VarintError::Overlong) => Err(self.fail(DecodeErrorKind::Overlong)),
        }
    }

    /// Reads a varint that must not be above `max`; `what` names it in the error.
    #[inline]
    pub fn uvarint_max(&mut self, max: u64, what: &'static str) -> Result<u64, DecodeError> {
        let at = self.offset;
        let given = self.uvarint()?;
        if given > max {
            return Err(DecodeError::new(at, DecodeErrorKind::Limit { what, given, max }));
        }
        Ok(given)
    }

    /// Reads a count of things of which each takes at least `bytes_each` bytes, so that a count which the input cannot
    /// hold is refused before anything is allocated for it.
    #[inline]
    pub fn count(&mut self, max: usize, bytes_each: usize, what: &'static str) -> Result<usize, DecodeError> {
        let at = self.offset;
        let given = self.uvarint_max(max as u64, what)?;
        let count = usize::try_from(given)
            .map_err(|_| DecodeError::new(at, DecodeErrorKind::Limit { what, given, max: max as u64 }))?;
        let wanted = count.saturating_mul(bytes_each);
        if wanted > self.left.len() {
            return Err(self.fail(DecodeErrorKind::UnexpectedEnd { wanted, left: self.left.len() }));
        }
        Ok(count)
    }

    /// Reads a varint length of at most `max` and that many bytes.
    #[inline]
    pub fn bytes_prefixed(&mut self, max: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.count(max, 1, what)?;
        self.bytes(len)
    }

    /// Reads a varint length of at most `max` and that many bytes of UTF-8 (spec: V-3).
    #[inline]
    pub fn str_prefixed(&mut self, max: usize, what: &'static str) -> Result<&'a str, DecodeError> {
        let bytes = self.bytes_prefixed(max, what)?;
        let at = self.offset - bytes.len();
        std::str::from_utf8(bytes).map_err(|error| DecodeError::new(at + error.valid_up_to(), DecodeErrorKind::Utf8))
    }

    /// Takes all that is left.
    #[inline]
    pub fn rest(&mut self) -> &'a [u8] {
        let rest = self.left;
        self.left = &[];
        self.offset += rest.len();
        rest
    }

    /// Checks that nothing is left (spec: V-4).
    #[inline]
    pub fn finish(&self) -> Result<(), DecodeError> {
        if self.left.is_empty() { Ok(()) } else { Err(self.fail(DecodeErrorKind::TrailingBytes(self.left.len()))) }
    }
}
