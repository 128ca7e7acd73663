//! Where payloads go: once they are measured, and once they are written.
//!
//! Both sinks go through the same calls, so that what is written is as long as it was measured; if it is not, because a
//! value changed in between, writing fails.

use std::slice;

use super::payload::Elsewhere;
use crate::value::sequence::width_for;
use crate::writer::{put_uvarint, uvarint_len};

/// Takes the parts of payloads, one after another.
pub(super) trait Sink {
    /// An array that is open.
    type Array;

    /// Takes bytes.
    fn put(&mut self, bytes: &[u8]) -> Result<(), Elsewhere>;

    /// Takes the lowest `width` bytes, of at most eight.
    fn put_low(&mut self, n: i64, width: usize) -> Result<(), Elsewhere>;

    /// Begins an array of so many items; their payloads follow.
    fn open(&mut self, count: usize) -> Result<Self::Array, Elsewhere>;

    /// Ends the payload of an item.
    fn close_item(&mut self, array: &Self::Array, index: usize, tag: u8) -> Result<(), Elsewhere>;

    /// Ends an array.
    fn close(&mut self, array: Self::Array) -> Result<(), Elsewhere>;
}

/// Counts the bytes of a payload. It fails at nothing: whether that is too long is for its user to see.
pub(super) struct Measure<'e> {
    len: usize,
    /// Lengths of the heaps of all arrays, in the order in which they begin.
    arrays: &'e mut Vec<u32>,
}

impl<'e> Measure<'e> {
    pub(super) fn new(arrays: &'e mut Vec<u32>) -> Self {
        Self { len: 0, arrays }
    }

    /// Begins a payload.
    #[inline]
    pub(super) fn start(&mut self) {
        self.len = 0;
    }

    /// Returns the length of the payload.
    #[inline]
    pub(super) fn at(&self) -> usize {
        self.len
    }

    /// Returns how many arrays there are.
    #[inline]
    pub(super) fn arrays(&self) -> usize {
        self.arrays.len()
    }

    /// Forgets all arrays but the first `count`.
    pub(super) fn forget_arrays(&mut self, count: usize) {
        self.arrays.truncate(count);
    }
}

/// An array that is being measured.
pub(super) struct Measured {
    /// Its place in the list.
    place: usize,
    count: usize,
    /// Where its heap begins, if there were no tags and ends before.
    start: usize,
}

impl Sink for Measure<'_> {
    type Array = Measured;

    #[inline]
    fn put(&mut self, bytes: &[u8]) -> Result<(), Elsewhere> {
        self.len += bytes.len();
        Ok(())
    }

    #[inline]
    fn put_low(&mut self, _n: i64, width: usize) -> Result<(), Elsewhere> {
        self.len += width;
        Ok(())
    }

    #[inline]
    fn open(&mut self, count: usize) -> Result<Measured, Elsewhere> {
        self.len += uvarint_len(count as u64);
        let place = self.arrays.len();
        self.arrays.push(0);
        Ok(Measured { place, count, start: self.len })
    }

    #[inline]
    fn close_item(&mut self, _array: &Measured, _index: usize, _tag: u8) -> Result<(), Elsewhere> {
        Ok(())
    }

    #[inline]
    fn close(&mut self, array: Measured) -> Result<(), Elsewhere> {
        let Some(but_last) = array.count.checked_sub(1) else { return Ok(()) };
        let heap_len = self.len - array.start;
        // If that is not all of it, the field is too long.
        self.arrays[array.place] = heap_len as u32;
        self.len += 1 + array.count + but_last * width_for(heap_len);
        Ok(())
    }
}

/// Writes payloads to where they belong.
pub(super) struct Writer<'e> {
    out: &'e mut [u8],
    at: usize,
    /// Lengths of the heaps of the arrays that are still to come.
    arrays: slice::Iter<'e, u32>,
}

impl<'e> Writer<'e> {
    pub(super) fn new(out: &'e mut [u8], arrays: slice::Iter<'e, u32>) -> Self {
        Self { out, at: 0, arrays }
    }

    /// Goes on at another place.
    #[inline]
    pub(super) fn go_to(&mut self, at: usize) {
        self.at = at;
    }

    /// Returns where the next byte goes.
    #[inline]
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Takes the next `len` bytes, to be written to.
    #[inline]
    fn take(&mut self, len: usize) -> Result<&mut [u8], Elsewhere> {
        let room = self.out.get_mut(self.at..).and_then(|room| room.get_mut(..len)).ok_or(Elsewhere)?;
        self.at += len;
        Ok(room)
    }
}

/// An array that is being written.
pub(super) struct Written {
    count: usize,
    width: usize,
    tags_at: usize,
    heap_at: usize,
    heap_len: usize,
}

impl Sink for Writer<'_> {
    type Array = Written;

    #[inline]
    fn put(&mut self, bytes: &[u8]) -> Result<(), Elsewhere> {
        self.take(bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    /// Without a call for a copy of so few bytes: two that overlap.
    #[inline]
    fn put_low(&mut self, n: i64, width: usize) -> Result<(), Elsewhere> {
        let room = self.take(width)?;
        if let Some(whole) = room.first_chunk_mut::<8>() {
            *whole = n.to_le_bytes();
        } else if let Some(first) = room.first_chunk_mut::<4>() {
            *first = (n as u32).to_le_bytes();
            let above = n >> (8 * (width as u32 - 4));
            if let Some(last) = room.last_chunk_mut::<4>() {
                *last = (above as u32).to_le_bytes();
            }
        } else {
            for (byte, of) in room.iter_mut().zip(n.to_le_bytes()) {
                *byte = of;
            }
        }
        Ok(())
    }

    #[inline]
    fn open(&mut self, count: usize) -> Result<Written, Elsewhere> {
        if count < 0x80 {
            self.put(&[count as u8])?;
        } else {
            let mut bytes = Vec::new();
            put_uvarint(&mut bytes, count as u64);
            self.put(&bytes)?;
        }
        let heap_len = *self.arrays.next().ok_or(Elsewhere)? as usize;
        let width = width_for(heap_len);
        let tags_at = self.at + 1;
        if let Some(but_last) = count.checked_sub(1) {
            self.take(1 + count + but_last * width)?[0] = width as u8;
        }
        Ok(Written { count, width, tags_at, heap_at: self.at, heap_len })
    }

    #[inline]
    fn close_item(&mut self, array: &Written, index: usize, tag: u8) -> Result<(), Elsewhere> {
        *self.out.get_mut(array.tags_at + index).ok_or(Elsewhere)? = tag;
        if index + 1 == array.count {
            return Ok(());
        }
        let end = (self.at - array.heap_at) as u32;
        let end_at = array.tags_at + array.count + index * array.width;
        if array.width == 1 {
            *self.out.get_mut(end_at).ok_or(Elsewhere)? = end as u8;
            return Ok(());
        }
        let slot = self.out.get_mut(end_at..end_at + array.width).ok_or(Elsewhere)?;
        for (byte, of) in slot.iter_mut().zip(end.to_le_bytes()) {
            *byte = of;
        }
        Ok(())
    }

    #[inline]
    fn close(&mut self, array: Written) -> Result<(), Elsewhere> {
        if self.at - array.heap_at == array.heap_len { Ok(()) } else { Err(Elsewhere) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_low_bytes_are_written_at_every_width() {
        let n = -0x0706_0504_0302_0108;
        for width in 0..=8 {
            let mut room = [0; 8];
            assert!(Writer::new(&mut room, [].iter()).put_low(n, width).is_ok());
            let mut wanted = [0; 8];
            wanted[..width].copy_from_slice(&n.to_le_bytes()[..width]);
            assert_eq!(room, wanted);
        }
    }

    #[test]
    fn what_is_longer_than_its_room_is_refused() {
        let (mut room, arrays) = ([0; 3], [1]);
        let mut writer = Writer::new(&mut room, arrays.iter());
        assert!(writer.put(b"ab").is_ok() && writer.put_low(1, 1).is_ok());
        assert!(writer.put(b"c").is_err() && writer.put_low(1, 1).is_err() && writer.open(1).is_err());
        assert_eq!(room, *b"ab\x01");
    }
}
