//! The sequence body: what rows, arrays and maps share.
//!
//! `width | n tags | (n - 1) ends | heap`, or nothing at all for no items. The number of items comes from outside, and
//! the last end is the end of the heap, so that reading item `i` takes two ends and no walk.

use crate::error::{DecodeError, DecodeErrorKind};
use crate::varint::read_uvarint;

/// Returns the width of ends for a heap of this length (spec: V-14).
pub(crate) const fn width_for(heap_len: usize) -> usize {
    match heap_len {
        0..=0xff => 1,
        0x100..=0xffff => 2,
        _ => 4,
    }
}

/// The parts of a sequence body, borrowed.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sequence<'a> {
    tags: &'a [u8],
    ends: &'a [u8],
    heap: &'a [u8],
    width: usize,
    /// Where the heap starts, counted as `at` was.
    heap_at: usize,
}

impl<'a> Sequence<'a> {
    /// Splits a body of `count` items; `at` is its offset, for errors. Ends are not looked at here.
    #[inline]
    pub(crate) fn split(count: usize, body: &'a [u8], at: usize) -> Result<Self, DecodeError> {
        if count == 0 {
            // spec: V-13
            if !body.is_empty() {
                return Err(DecodeError::new(at, DecodeErrorKind::TrailingBytes(body.len())));
            }
            return Ok(Self { heap_at: at, ..Self::default() });
        }
        let left = body.len();
        let Some((&width, rest)) = body.split_first() else {
            return Err(DecodeError::new(at, DecodeErrorKind::UnexpectedEnd { wanted: count.saturating_add(1), left }));
        };
        let width = usize::from(width);
        if !matches!(width, 1 | 2 | 4) {
            return Err(DecodeError::new(at, DecodeErrorKind::NotCanonical("V-14")));
        }
        let ends_len = (count - 1).saturating_mul(width);
        let short = || {
            let wanted = count.saturating_add(ends_len).saturating_add(1);
            DecodeError::new(at, DecodeErrorKind::UnexpectedEnd { wanted, left })
        };
        let (tags, rest) = rest.split_at_checked(count).ok_or_else(short)?;
        let (ends, heap) = rest.split_at_checked(ends_len).ok_or_else(short)?;
        if width != width_for(heap.len()) {
            return Err(DecodeError::new(at, DecodeErrorKind::NotCanonical("V-14")));
        }
        Ok(Self { tags, ends, heap, width, heap_at: at + 1 + count + ends_len })
    }

    /// Splits the node of an array, which says how many items it has; none where it does not make sense.
    #[inline]
    pub(crate) fn of_array(node: &'a [u8]) -> Option<Self> {
        let (count, len) = read_uvarint(node).ok()?;
        Self::split(usize::try_from(count).ok()?, node.get(len..)?, 0).ok()
    }

    /// Returns the number of items.
    #[inline]
    pub(crate) const fn len(&self) -> usize {
        self.tags.len()
    }

    /// Returns where the heap starts.
    #[inline]
    pub(crate) const fn heap_at(&self) -> usize {
        self.heap_at
    }

    /// Returns where item `index` ends in the heap.
    #[inline]
    fn end(&self, index: usize) -> usize {
        if index + 1 >= self.tags.len() {
            return self.heap.len();
        }
        let at = index * self.width;
        match (self.width, self.ends.get(at..at + self.width)) {
            (1, Some(&[a])) => a.into(),
            (2, Some(&[a, b])) => u16::from_le_bytes([a, b]).into(),
            (4, Some(&[a, b, c, d])) => u32::from_le_bytes([a, b, c, d]) as usize,
            _ => 0,
        }
    }

    /// Returns tag and payload of item `index`, if there is such an item and its ends make sense.
    #[inline]
    pub(crate) fn item(&self, index: usize) -> Option<(u8, &'a [u8])> {
        let tag = *self.tags.get(index)?;
        let start = if index == 0 { 0 } else { self.end(index - 1) };
        Some((tag, self.heap.get(start..self.end(index))?))
    }

    /// Calls `each` with tag, payload and place in the heap of every item, in order (spec: V-15).
    #[inline]
    pub(crate) fn check_each(
        &self,
        each: impl FnMut(u8, &'a [u8], usize) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        match self.width {
            1 => self.check_each_of::<1>(each),
            2 => self.check_each_of::<2>(each),
            _ => self.check_each_of::<4>(each),
        }
    }

    #[inline]
    fn check_each_of<const W: usize>(
        &self,
        mut each: impl FnMut(u8, &'a [u8], usize) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        let (ends, _) = self.ends.as_chunks::<W>();
        let mut start = 0;
        for (index, &tag) in self.tags.iter().enumerate() {
            let end = ends.get(index).map_or(self.heap.len(), |end| {
                let mut bytes = [0; 4];
                bytes[..W].copy_from_slice(end);
                u32::from_le_bytes(bytes) as usize
            });
            let Some(payload) = self.heap.get(start..end) else {
                let at = self.heap_at - (self.tags.len() - 1).saturating_sub(index) * W;
                return Err(DecodeError::new(at, DecodeErrorKind::Order("V-15")));
            };
            each(tag, payload, self.heap_at + start)?;
            start = end;
        }
        Ok(())
    }

    /// Returns tag and payload of item `index`, which starts at `start`, and where it ends (spec: V-15).
    #[inline]
    pub(crate) fn checked_item(&self, index: usize, start: usize) -> Result<(u8, &'a [u8], usize), DecodeError> {
        let end = self.end(index);
        match (self.tags.get(index), self.heap.get(start..end)) {
            (Some(&tag), Some(payload)) => Ok((tag, payload, end)),
            _ => {
                let at = self.heap_at - (self.tags.len() - 1).saturating_sub(index) * self.width;
                Err(DecodeError::new(at, DecodeErrorKind::Order("V-15")))
            }
        }
    }
}

/// The items of a sequence that was validated before, one after another: tag and payload.
#[derive(Clone)]
pub(crate) struct Items<'a> {
    sequence: Sequence<'a>,
    next: usize,
    /// Where it starts in the heap.
    start: usize,
}

impl<'a> Sequence<'a> {
    /// Returns the items; over bytes that were not validated some may be null.
    #[inline]
    pub(crate) const fn items(self) -> Items<'a> {
        Items { sequence: self, next: 0, start: 0 }
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = (u8, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let tag = *self.sequence.tags.get(self.next)?;
        let end = self.sequence.end(self.next);
        let payload = self.sequence.heap.get(self.start..end);
        self.next += 1;
        self.start = end;
        Some(payload.map_or_else(Default::default, |payload| (tag, payload)))
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.sequence.tags.len() - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Items<'_> {}

/// Opens a sequence of `count` items: appends room for width, tags and ends, narrowest width assumed.
///
/// Returns where the tags and the heap start.
pub(crate) fn open_sequence(count: usize, out: &mut Vec<u8>) -> (usize, usize) {
    if count > 0 {
        let at = out.len();
        out.resize(at + 1 + count + (count - 1), 0);
    }
    let heap_at = out.len();
    (heap_at + 1 - (2 * count).max(1), heap_at)
}

/// Closes a sequence: writes width and ends, and moves the heap if the narrowest width does not do.
///
/// `ends` are those of all items, counted from the start of the heap.
pub(crate) fn close_sequence(out: &mut Vec<u8>, heap_at: usize, ends: &[u32]) {
    let Some((_, ends)) = ends.split_last() else { return };
    let count = ends.len() + 1;
    let heap_len = out.len() - heap_at;
    let width = width_for(heap_len);
    let ends_at = heap_at - ends.len();
    if width > 1 {
        let more = ends.len() * (width - 1);
        out.resize(out.len() + more, 0);
        out.copy_within(heap_at..heap_at + heap_len, heap_at + more);
    }
    out[ends_at - count - 1] = width as u8;
    match width {
        1 => put_ends::<1>(&mut out[ends_at..heap_at], ends),
        2 => put_ends::<2>(&mut out[ends_at..], ends),
        _ => put_ends::<4>(&mut out[ends_at..], ends),
    }
}

#[inline]
fn put_ends<const W: usize>(out: &mut [u8], ends: &[u32]) {
    for (slot, end) in out.as_chunks_mut::<W>().0.iter_mut().zip(ends) {
        slot.copy_from_slice(&end.to_le_bytes()[..W]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: V-14
    #[test]
    fn width_follows_the_heap() {
        for (len, width) in [(0, 1), (255, 1), (256, 2), (65_535, 2), (65_536, 4)] {
            assert_eq!(width_for(len), width);
            let mut out = b"before".to_vec();
            let (tags_at, heap_at) = open_sequence(3, &mut out);
            out[tags_at..tags_at + 3].copy_from_slice(&[0x90, 0x00, 0x80]);
            out.extend(std::iter::repeat_n(7, len));
            let first = (len / 3) as u32;
            close_sequence(&mut out, heap_at, &[first, first, len as u32]);
            let body = &out[6..];
            assert_eq!(body.len(), 1 + 3 + 2 * width + len);
            let sequence = Sequence::split(3, body, 0).expect("canonical");
            assert_eq!(sequence.item(0).map(|item| (item.0, item.1.len())), Some((0x90, len / 3)));
            assert_eq!(sequence.item(1).map(|item| (item.0, item.1.len())), Some((0x00, 0)));
            assert_eq!(sequence.item(2).map(|item| (item.0, item.1.len())), Some((0x80, len - len / 3)));
            assert_eq!(sequence.item(3), None);
        }
    }
}
