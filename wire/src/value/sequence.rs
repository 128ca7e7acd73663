//! The sequence body: what rows, arrays and maps share.
//!
//! `width | n tags | (n - 1) ends | heap`, or nothing at all for no items. The number of items comes from outside, and
//! the last end is the end of the heap, so that reading item `i` takes two ends and no walk.

use super::scalar::TAG_NULL;
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
    /// The ends, and the heap behind them.
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
        let (tags, ends) = rest.split_at_checked(count).ok_or_else(short)?;
        let heap = ends.get(ends_len..).ok_or_else(short)?;
        if width != width_for(heap.len()) {
            return Err(DecodeError::new(at, DecodeErrorKind::NotCanonical("V-14")));
        }
        Ok(Self { tags, ends, heap, width, heap_at: at + 1 + count + ends_len })
    }

    /// Splits a body of `count` items that was validated before; what it begins with is not looked at again.
    #[inline(always)]
    pub(crate) fn trusted(count: usize, body: &'a [u8], at: usize) -> Option<Self> {
        let (&width, rest) = body.split_first()?;
        let width = usize::from(width & 7);
        let (tags, ends) = rest.split_at_checked(count)?;
        let ends_len = count.saturating_sub(1).saturating_mul(width);
        Some(Self { tags, ends, heap: ends.get(ends_len..)?, width, heap_at: at + 1 + count + ends_len })
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
        // The last item has no end of its own.
        if index + 1 >= self.tags.len() {
            return self.heap.len();
        }
        // A branch for each width: what is guessed is not waited for.
        let end = match self.width {
            1 => self.ends.get(index).map(|&end| end.into()),
            2 => self.ends.as_chunks().0.get(index).map(|&end| u16::from_le_bytes(end).into()),
            _ => self.ends.as_chunks().0.get(index).map(|&end| u32::from_le_bytes(end) as usize),
        };
        end.unwrap_or_default()
    }

    /// Returns where item `index` ends, counted as `at` was.
    #[inline]
    pub(crate) fn end_at(&self, index: usize) -> usize {
        self.heap_at + self.end(index)
    }

    /// Returns tag and payload of item `index`, if there is such an item and its ends make sense.
    #[inline]
    pub(crate) fn item(&self, index: usize) -> Option<(u8, &'a [u8])> {
        let tag = *self.tags.get(index)?;
        let start = match index.checked_sub(1) {
            Some(before) => self.end(before),
            None => 0,
        };
        Some((tag, self.heap.get(start..self.end(index))?))
    }

    /// Returns how many bytes an end has.
    #[inline]
    pub(crate) const fn width(&self) -> usize {
        self.width
    }

    /// Goes over the items of a sequence whose ends have `W` bytes and may not make sense.
    #[inline(always)]
    pub(crate) fn walk<const W: usize>(&self) -> Walk<'a, W> {
        let ends = self.ends.get(..self.ends.len() - self.heap.len()).unwrap_or_default();
        Walk { tags: self.tags, ends: ends.as_chunks().0, heap: self.heap, next: 0, start: 0 }
    }

    /// Returns the error for an end that does not make sense (spec: V-15).
    #[cold]
    #[inline(never)]
    pub(crate) fn out_of_order(&self, index: usize) -> DecodeError {
        let at = self.heap_at - (self.tags.len() - 1).saturating_sub(index) * self.width;
        DecodeError::new(at, DecodeErrorKind::Order("V-15"))
    }

    /// Returns tag and payload of item `index`, which starts at `start`, and where it ends (spec: V-15).
    #[inline]
    pub(crate) fn checked_item(&self, index: usize, start: usize) -> Result<(u8, &'a [u8], usize), DecodeError> {
        let end = self.end(index);
        match (self.tags.get(index), self.heap.get(start..end)) {
            (Some(&tag), Some(payload)) => Ok((tag, payload, end)),
            _ => Err(self.out_of_order(index)),
        }
    }
}

/// The items of a sequence that was not validated, one after another.
pub(crate) struct Walk<'a, const W: usize> {
    tags: &'a [u8],
    ends: &'a [[u8; W]],
    heap: &'a [u8],
    next: usize,
    /// Where it starts in the heap.
    start: usize,
}

/// An item of a sequence that was not validated.
pub(crate) struct Walked<'a> {
    pub(crate) index: usize,
    pub(crate) tag: u8,
    /// None if its end makes no sense.
    pub(crate) payload: Option<&'a [u8]>,
    /// Where it starts in the heap.
    pub(crate) start: usize,
}

impl<'a, const W: usize> Iterator for Walk<'a, W> {
    type Item = Walked<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Walked<'a>> {
        let (index, start) = (self.next, self.start);
        let tag = *self.tags.get(index)?;
        let end = match self.ends.get(index) {
            Some(end) => {
                let mut bytes = [0; 4];
                bytes[..W].copy_from_slice(end);
                u32::from_le_bytes(bytes) as usize
            }
            None => self.heap.len(),
        };
        self.next += 1;
        self.start = end;
        Some(Walked { index, tag, payload: self.heap.get(start..end), start })
    }
}

/// The items of a sequence that was validated before, one after another: tag and payload.
#[derive(Clone)]
pub(crate) struct Items<'a> {
    /// Those of the items that are left.
    tags: &'a [u8],
    /// The ends, and what follows; where the next one is.
    ends: &'a [u8],
    end_at: usize,
    heap: &'a [u8],
    /// Where the next item starts in the heap.
    start: usize,
    width: usize,
    /// Those bits of the next four bytes that are of an end.
    mask: u32,
    /// Where the heap starts, counted as for the sequence.
    heap_at: usize,
}

impl<'a> Items<'a> {
    /// Returns where the item ends that was returned last, counted as for the sequence.
    #[inline]
    pub(crate) const fn at(&self) -> usize {
        self.heap_at + self.start
    }

    /// Reads the next end, whatever its width, in one step: more bytes follow nearly always.
    #[inline(always)]
    fn next_end(&self) -> usize {
        match self.ends.get(self.end_at..self.end_at.wrapping_add(4)).and_then(|bytes| bytes.first_chunk()) {
            Some(bytes) => (u32::from_le_bytes(*bytes) & self.mask) as usize,
            None => short_end(self.ends, self.end_at, self.width),
        }
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = (u8, &'a [u8]);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let (&tag, tags) = self.tags.split_first()?;
        self.tags = tags;
        // The last item has no end of its own.
        let end = if tags.is_empty() { self.heap.len() } else { self.next_end() };
        self.end_at += self.width;
        let payload = self.heap.get(self.start..end);
        self.start = end;
        match payload {
            Some(payload) => Some((tag, payload)),
            None => Some(senseless()),
        }
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.tags.len(), Some(self.tags.len()))
    }
}

impl ExactSizeIterator for Items<'_> {}

impl<'a> Sequence<'a> {
    /// Returns the items; over bytes that were not validated some may be null.
    #[inline]
    pub(crate) const fn items(self) -> Items<'a> {
        let Self { tags, ends, heap, width, heap_at } = self;
        // Over bytes that make no sense the width may be anything.
        let mask = u32::MAX.wrapping_shr(32u32.wrapping_sub(8 * width as u32));
        Items { tags, ends, end_at: 0, heap, start: 0, width, mask, heap_at }
    }
}

#[cold]
#[inline(never)]
fn short_end(ends: &[u8], at: usize, width: usize) -> usize {
    let bytes = ends.get(at..).unwrap_or_default();
    bytes.iter().take(width).rev().fold(0, |end, &byte| end << 8 | usize::from(byte))
}

/// What is read where an end makes no sense: null. A branch that is never taken costs less than a choice.
#[cold]
#[inline(never)]
fn senseless<'a>() -> (u8, &'a [u8]) {
    (TAG_NULL, &[])
}

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
