//! `Heap`: payloads on their way into a row, one after another in the order in which they come.

use super::payload::Elsewhere;
use crate::limits::ROW_BYTES_MAX;
use crate::value::sequence::width_for;
use crate::writer::put_uvarint;

/// What is written in one step, however few of its bytes count: that much lies behind the payloads.
pub(super) const STEP: usize = size_of::<i64>();

/// What is kept from one row to the next, in bytes.
const KEPT_BYTES: usize = 64 << 10;

/// Payloads, and room behind them.
#[derive(Default)]
pub(super) struct Heap {
    /// The payloads, and at least `STEP` bytes of no meaning once there is a payload.
    bytes: Vec<u8>,
    /// Where the next payload goes.
    at: usize,
}

/// An array that is open.
#[derive(Clone, Copy)]
pub(super) struct Array {
    count: usize,
    /// Bytes of an end, as far as is known, and what they can say.
    width: usize,
    end_max: usize,
    tags_at: usize,
    heap_at: usize,
}

impl Heap {
    /// Forgets all payloads.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.at = 0;
        if self.bytes.len() > KEPT_BYTES {
            self.bytes = Vec::new();
        }
    }

    /// Returns where the next payload goes.
    #[inline]
    pub(super) const fn at(&self) -> usize {
        self.at
    }

    /// Returns the next `len` bytes, to be written to, and the step behind them.
    #[inline(always)]
    fn room(&mut self, len: usize) -> Result<&mut [u8], Elsewhere> {
        if self.bytes.len() - self.at < len + STEP {
            self.grow(len)?;
        }
        let at = self.at;
        self.at += len;
        self.bytes.get_mut(at..).ok_or(Elsewhere)
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self, len: usize) -> Result<(), Elsewhere> {
        // Rows are bounded, and so is what a value may make of this memory.
        if len > ROW_BYTES_MAX - self.at.min(ROW_BYTES_MAX) {
            return Err(Elsewhere);
        }
        let wanted = self.at + len + STEP;
        self.bytes.resize(wanted.next_power_of_two(), 0);
        Ok(())
    }

    /// Takes bytes.
    #[inline(always)]
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), Elsewhere> {
        let room = self.room(bytes.len())?;
        // Words are short, and a call costs more than copying them.
        match (bytes.first_chunk::<STEP>(), bytes.last_chunk::<STEP>()) {
            (Some(first), Some(last)) if bytes.len() <= 2 * STEP => {
                *room.first_chunk_mut().ok_or(Elsewhere)? = *first;
                *room.get_mut(bytes.len() - STEP..).and_then(|room| room.first_chunk_mut()).ok_or(Elsewhere)? = *last;
            }
            (Some(_), _) => room[..bytes.len()].copy_from_slice(bytes),
            _ => *room.first_chunk_mut().ok_or(Elsewhere)? = word(bytes),
        }
        Ok(())
    }

    /// Takes the lowest `width` bytes, of at most eight.
    #[inline(always)]
    pub(super) fn put_low(&mut self, n: i64, width: usize) -> Result<(), Elsewhere> {
        // All of them: what is too much is written over.
        *self.room(width)?.first_chunk_mut().ok_or(Elsewhere)? = n.to_le_bytes();
        Ok(())
    }

    /// Gives up what came after the first `at` bytes.
    pub(super) fn give_up(&mut self, at: usize) {
        self.at = self.at.min(at);
    }

    /// Takes what `write` appends.
    pub(super) fn append<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> Result<T, Elsewhere> {
        self.bytes.truncate(self.at);
        let written = write(&mut self.bytes);
        self.at = self.bytes.len();
        self.grow(0)?;
        Ok(written)
    }

    /// Returns the payloads.
    #[inline]
    pub(super) fn payloads(&self) -> &[u8] {
        self.bytes.get(..self.at).unwrap_or_default()
    }

    /// Begins an array of so many items, a field's with an empty table of keys in front; their payloads follow.
    #[inline]
    pub(super) fn open(&mut self, count: usize, is_field: bool) -> Result<Array, Elsewhere> {
        let table = if is_field { 2 } else { 0 };
        // The narrowest ends do for most: of one byte.
        if count < 0x80 {
            // In one step: the table, the count, and the width, if there is one.
            self.put_low((0x100 | count as i64) << (8 * table), table + 1 + usize::from(count > 0))?;
        } else {
            self.open_long(count, table)?;
        }
        let tags_at = self.at;
        if let Some(but_last) = count.checked_sub(1) {
            self.room(count + but_last)?;
        }
        Ok(Array { count, width: 1, end_max: 0xff, tags_at, heap_at: self.at })
    }

    #[cold]
    #[inline(never)]
    fn open_long(&mut self, count: usize, table: usize) -> Result<(), Elsewhere> {
        let mut bytes = vec![0; table];
        put_uvarint(&mut bytes, count as u64);
        bytes.push(1);
        self.put(&bytes)
    }

    /// Ends the payload of an item.
    #[inline]
    pub(super) fn close_item(&mut self, array: &mut Array, index: usize, tag: u8) -> Result<(), Elsewhere> {
        *self.bytes.get_mut(array.tags_at + index).ok_or(Elsewhere)? = tag;
        let end = self.at - array.heap_at;
        if end > array.end_max {
            // A copy goes there, so that the array itself stays in registers.
            *array = self.widen(*array, index)?;
        }
        if index + 1 == array.count {
            return Ok(());
        }
        let end_at = array.tags_at + array.count + index * array.width;
        if array.width == 1 {
            *self.bytes.get_mut(end_at).ok_or(Elsewhere)? = end as u8;
            return Ok(());
        }
        let slot = self.bytes.get_mut(end_at..end_at + array.width).ok_or(Elsewhere)?;
        slot.copy_from_slice(&(end as u32).to_le_bytes()[..array.width]);
        Ok(())
    }

    /// Makes room for wider ends; `index` of them are written, and none of these is too long for the width there was.
    #[cold]
    #[inline(never)]
    fn widen(&mut self, array: Array, index: usize) -> Result<Array, Elsewhere> {
        let (old, heap_at) = (array.width, array.heap_at);
        let width = width_for(self.at - heap_at);
        let but_last = array.count - 1;
        let more = but_last * (width - old);
        let end = self.at;
        self.room(more)?;
        self.bytes.copy_within(heap_at..end, heap_at + more);
        let ends_at = array.tags_at + array.count;
        // From the last one on, as the wider ones lie where narrower ones were.
        for index in (0..index.min(but_last)).rev() {
            let mut end = [0; 4];
            end[..old].copy_from_slice(&self.bytes[ends_at + index * old..][..old]);
            self.bytes[ends_at + index * width..][..width].copy_from_slice(&end[..width]);
        }
        self.bytes[array.tags_at - 1] = width as u8;
        let end_max = if width == 2 { 0xffff } else { u32::MAX as usize };
        Ok(Array { width, end_max, heap_at: heap_at + more, ..array })
    }
}

/// Returns fewer than eight bytes as eight, zeros behind them.
#[inline(always)]
fn word(bytes: &[u8]) -> [u8; STEP] {
    if let (Some(&first), Some(&last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        let last = u64::from(u32::from_le_bytes(last)) << (8 * (bytes.len() - 4));
        return (u64::from(u32::from_le_bytes(first)) | last).to_le_bytes();
    }
    let mut word = [0; STEP];
    for (to, &from) in word.iter_mut().zip(bytes) {
        *to = from;
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Value, encode_value};

    #[test]
    fn payloads_follow_each_other() {
        let mut heap = Heap::default();
        let mut wanted = Vec::new();
        for len in 0..100 {
            let bytes = vec![len as u8; len];
            assert!(heap.put(&bytes).is_ok() && heap.put_low(-2, len % 9).is_ok());
            wanted.extend([&bytes[..], &(-2i64).to_le_bytes()[..len % 9]].concat());
            assert_eq!(heap.payloads(), wanted);
        }
        assert_eq!(heap.append(|out| out.push(7)).ok(), Some(()));
        assert!(heap.put_low(8, 1).is_ok());
        assert_eq!(heap.payloads(), [&wanted[..], &[7, 8]].concat());
        heap.give_up(wanted.len());
        assert_eq!(heap.payloads(), wanted);
    }

    // spec: V-14
    #[test]
    fn ends_of_arrays_are_as_wide_as_they_must_be() {
        for lens in
            [&[][..], &[0], &[255], &[256], &[1, 254, 0], &[1, 254, 1], &[200, 100, 65_000, 300], &[70_000, 1, 0]]
        {
            let mut heap = Heap::default();
            let mut array = heap.open(lens.len(), true).expect("short");
            for (index, &len) in lens.iter().enumerate() {
                assert!(heap.put(&vec![index as u8; len]).is_ok());
                assert!(heap.close_item(&mut array, index, 0x90).is_ok());
            }
            let items = lens.iter().enumerate().map(|(index, &len)| Value::Bytes(vec![index as u8; len]));
            let mut wanted = Vec::new();
            encode_value(&Value::Array(items.collect()), &mut wanted).expect("short");
            assert_eq!(heap.payloads(), wanted, "{lens:?}");
        }
    }

    #[test]
    fn a_heap_is_not_much_longer_than_a_row() {
        let mut heap = Heap::default();
        assert!(heap.put(&vec![1; ROW_BYTES_MAX]).is_ok());
        let more = (0..).take_while(|_| heap.put(&[1; 1000]).is_ok()).count();
        assert!(heap.open(1000, false).is_err());
        assert!(1000 * more < ROW_BYTES_MAX);
        heap.clear();
        assert!(heap.put(&vec![1; ROW_BYTES_MAX + 1]).is_err());
    }
}
