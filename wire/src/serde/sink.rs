//! Where the payloads of fields go: once they are measured, and once they are written to where they belong.
//!
//! Both sinks go through the same calls, so that what is written is as long as it was measured; if it is not, because a
//! value changed in between, that is seen. What is short, or made of parts, is not asked for a second time.

use super::heap::Heap;
use super::payload::Elsewhere;

/// Takes the parts of payloads, one after another.
pub(super) trait Sink {
    /// Takes bytes.
    fn put(&mut self, bytes: &[u8]) -> Result<(), Elsewhere>;

    /// Takes the lowest `width` bytes, of at most eight.
    fn put_low(&mut self, n: i64, width: usize) -> Result<(), Elsewhere>;

    /// Returns the heap that takes payloads made of parts.
    fn heap(&mut self) -> Result<&mut Heap, Elsewhere>;
}

impl Sink for Heap {
    #[inline]
    fn put(&mut self, bytes: &[u8]) -> Result<(), Elsewhere> {
        self.put(bytes)
    }

    #[inline]
    fn put_low(&mut self, n: i64, width: usize) -> Result<(), Elsewhere> {
        self.put_low(n, width)
    }

    #[inline]
    fn heap(&mut self) -> Result<&mut Heap, Elsewhere> {
        Ok(self)
    }
}

/// What is known of a payload once it is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// All: it is the lowest bytes of a number.
    Low,
    /// How long it is.
    Length,
    /// All: it lies in a heap.
    Whole,
}

/// Counts the bytes of one payload. It fails at nothing: whether there are too many is for its user to see.
pub(super) struct Measure<'e> {
    /// Those that are not in the heap.
    pub(super) len: usize,
    /// The number whose lowest bytes the payload may be.
    pub(super) low: i64,
    pub(super) known: Known,
    heap: &'e mut Heap,
}

impl<'e> Measure<'e> {
    #[inline]
    pub(super) fn new(heap: &'e mut Heap) -> Self {
        Self { len: 0, low: 0, known: Known::Low, heap }
    }
}

impl Sink for Measure<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) -> Result<(), Elsewhere> {
        self.len += bytes.len();
        self.known = Known::Length;
        Ok(())
    }

    #[inline]
    fn put_low(&mut self, n: i64, width: usize) -> Result<(), Elsewhere> {
        self.len += width;
        self.low = n;
        Ok(())
    }

    #[inline]
    fn heap(&mut self) -> Result<&mut Heap, Elsewhere> {
        self.known = Known::Whole;
        Ok(self.heap)
    }
}

/// Writes one payload to where it belongs.
pub(super) struct Writer<'e> {
    /// What is left of its room.
    pub(super) left: &'e mut [u8],
}

impl Writer<'_> {
    /// Takes the next `len` bytes, to be written to.
    #[inline]
    fn take(&mut self, len: usize) -> Result<&mut [u8], Elsewhere> {
        self.left.split_off_mut(..len).ok_or(Elsewhere)
    }
}

impl Sink for Writer<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) -> Result<(), Elsewhere> {
        // Nearly always all of it.
        if bytes.len() == self.left.len() {
            self.left.copy_from_slice(bytes);
            self.left = &mut [];
            return Ok(());
        }
        self.take(bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    fn put_low(&mut self, n: i64, width: usize) -> Result<(), Elsewhere> {
        self.take(width)?.copy_from_slice(n.to_le_bytes().get(..width).ok_or(Elsewhere)?);
        Ok(())
    }

    /// What is made of parts is whole when it is measured.
    fn heap(&mut self) -> Result<&mut Heap, Elsewhere> {
        Err(Elsewhere)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_longer_than_its_room_is_refused() {
        let mut room = [0; 3];
        let mut writer = Writer { left: &mut room };
        assert!(writer.put(b"ab").is_ok() && writer.put_low(1, 1).is_ok());
        assert!(writer.put(b"c").is_err() && writer.put_low(1, 1).is_err() && writer.heap().is_err());
        assert_eq!(room, *b"ab\x01");
    }
}
