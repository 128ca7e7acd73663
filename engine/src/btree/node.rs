//! Leaf and branch pages, read. Both are arrays in front, for searching, and cells behind.
//!
//! Leaf:
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | u8 | level: 0 |
//! | 1 | u8 | zero |
//! | 2 | u16 | n: entries, at least 1 |
//! | 4 | u16 | p: bytes that all keys of the page begin with |
//! | 6 | u16 | zero |
//! | 8 | n x u32, big-endian | heads: the first four bytes of each key behind those p, zeros where it is shorter |
//! | 8 + 4n | n x u16 | offset of each cell |
//! | 8 + 6n | p | what all keys begin with |
//! | then | | cells: `uvarint suffix length \| uvarint value length * 2 + stored \| suffix \| value` |
//!
//! A stored value is 23 bytes: length u64, height u8, page number u48, proof u64 (see `value`).
//!
//! Branch:
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | u8 | level: 1 where the children are leaves |
//! | 1 | u8 | zero |
//! | 2 | u16 | n: children, at least 1 |
//! | 4 | u16 | p: bytes that all separators begin with |
//! | 6 | u16 | zero |
//! | 8 | n x 14 | children: page number u48, proof u64 |
//! | 8 + 14n | (n - 1) x u32, big-endian | heads of the separators |
//! | then | (n - 1) x u16 | offset of each separator |
//! | then | p | what all separators begin with |
//! | then | | separators: `uvarint suffix length \| suffix` |
//!
//! Separator i is above every key of child i and at or below every key of child i + 1.

use std::cmp::Ordering;

use super::ValueRef;
use crate::limits::{KEY_BYTES_MAX, STORED_VALUE_BYTES_MAX};
use crate::pager::PageRef;

pub(super) const NODE_HEADER_BYTES: usize = 8;
pub(super) const CHILD_BYTES: usize = 14;
pub(super) const STORED_BYTES: usize = 23;

/// The rule that a page breaks.
pub(super) type Rule = &'static str;

/// A value as its cell has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CellValue<'c> {
    Inline(&'c [u8]),
    Stored(ValueRef),
}

/// The part of a node that is searched: heads, offsets and the common beginning.
#[derive(Clone, Copy)]
struct Keys<'b> {
    body: &'b [u8],
    heads: &'b [u8],
    offsets: &'b [u8],
    prefix: &'b [u8],
}

#[derive(Clone, Copy)]
pub(super) struct Leaf<'b> {
    keys: Keys<'b>,
}

#[derive(Clone, Copy)]
pub(super) struct Branch<'b> {
    keys: Keys<'b>,
    children: &'b [u8],
}

fn u16_at(b: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([b[at], b[at + 1]]))
}

/// Takes the next `n` bytes off the front.
fn take<'b>(rest: &mut &'b [u8], n: usize) -> Result<&'b [u8], Rule> {
    let (taken, left) = rest.split_at_checked(n).ok_or("nothing runs past the page's end")?;
    *rest = left;
    Ok(taken)
}

/// A number of at most two bytes, as short as can be: lengths in a page are below 16384 but for stored values' flag.
fn short_uvarint(rest: &mut &[u8]) -> Result<usize, Rule> {
    match **rest {
        [a, ref left @ ..] if a < 0x80 => {
            *rest = left;
            Ok(usize::from(a))
        }
        [a, b, ref left @ ..] if b < 0x80 && b > 0 => {
            *rest = left;
            Ok(usize::from(a & 0x7f) | usize::from(b) << 7)
        }
        _ => Err("a length is one or two bytes, and as short as can be"),
    }
}

/// The first four bytes as a number, zeros where there are fewer.
pub(super) fn head_of(suffix: &[u8]) -> u32 {
    match suffix.first_chunk::<4>() {
        Some(first) => u32::from_be_bytes(*first),
        None => {
            let mut first = [0; 4];
            first[..suffix.len()].copy_from_slice(suffix);
            u32::from_be_bytes(first)
        }
    }
}

/// Returns (level, n, p) of a node.
fn header(body: &[u8]) -> Result<(u8, usize, usize), Rule> {
    if body.len() < NODE_HEADER_BYTES || body[1] != 0 || u16_at(body, 6) != 0 {
        return Err("a node's header has zeros where they belong");
    }
    let (n, p) = (u16_at(body, 2), u16_at(body, 4));
    if n == 0 || p > KEY_BYTES_MAX {
        return Err("a node has entries, and keys below the limit");
    }
    Ok((body[0], n, p))
}

impl<'b> Keys<'b> {
    fn len(&self) -> usize {
        self.offsets.len() / 2
    }

    /// Returns what stands at an entry's offset: a length, the suffix of that length, and what follows.
    #[inline]
    fn cell(&self, i: usize) -> Result<&'b [u8], Rule> {
        self.body.get(u16_at(self.offsets, i * 2)..).ok_or("a cell is inside the page")
    }

    #[inline]
    fn head(&self, i: usize) -> u32 {
        let at = i * 4;
        u32::from_be_bytes([self.heads[at], self.heads[at + 1], self.heads[at + 2], self.heads[at + 3]])
    }

    /// Counts the entries whose key is below `key`, or at most at it. `suffix` reads an entry's suffix.
    #[inline]
    fn count_to(
        &self,
        key: &[u8],
        with_equal: bool,
        suffix: impl Fn(usize) -> Result<&'b [u8], Rule>,
    ) -> Result<usize, Rule> {
        let Some(rest) = key.strip_prefix(self.prefix) else {
            return Ok(if key < self.prefix { 0 } else { self.len() });
        };
        let wanted = head_of(rest);
        let mut low = self.partition(0, |head| head < wanted);
        let mut high = self.partition(low, |head| head <= wanted);
        while low < high {
            let middle = low.midpoint(high);
            let below = match suffix(middle)?.cmp(rest) {
                Ordering::Less => true,
                Ordering::Equal => with_equal,
                Ordering::Greater => false,
            };
            if below {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    #[inline]
    fn partition(&self, from: usize, below: impl Fn(u32) -> bool) -> usize {
        let (mut low, mut high) = (from, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if below(self.head(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

impl<'b> Leaf<'b> {
    #[inline]
    pub(super) fn parse(body: &'b [u8]) -> Result<Self, Rule> {
        let (level, n, p) = header(body)?;
        if level != 0 {
            return Err("a leaf's level is 0");
        }
        let mut rest = &body[NODE_HEADER_BYTES..];
        let heads = take(&mut rest, n * 4)?;
        let offsets = take(&mut rest, n * 2)?;
        let prefix = take(&mut rest, p)?;
        Ok(Self { keys: Keys { body, heads, offsets, prefix } })
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn prefix(&self) -> &'b [u8] {
        self.keys.prefix
    }

    /// Returns an entry's suffix and value.
    #[inline]
    pub(super) fn entry(&self, i: usize) -> Result<(&'b [u8], CellValue<'b>), Rule> {
        let mut rest = self.keys.cell(i)?;
        let suffix_len = short_uvarint(&mut rest)?;
        let value_len = short_uvarint(&mut rest)?;
        let suffix = take(&mut rest, suffix_len)?;
        let value = take(&mut rest, value_len >> 1)?;
        if suffix_len + self.keys.prefix.len() > KEY_BYTES_MAX {
            return Err("a key is below the limit");
        }
        Ok((
            suffix,
            if value_len & 1 == 0 { CellValue::Inline(value) } else { CellValue::Stored(decode_stored(value)?) },
        ))
    }

    fn suffix(&self, i: usize) -> Result<&'b [u8], Rule> {
        let mut rest = self.keys.cell(i)?;
        let len = short_uvarint(&mut rest)?;
        short_uvarint(&mut rest)?;
        take(&mut rest, len)
    }

    /// Counts the entries below `key`, or at most at it.
    #[inline]
    pub(super) fn count_to(&self, key: &[u8], with_equal: bool) -> Result<usize, Rule> {
        self.keys.count_to(key, with_equal, |i| self.suffix(i))
    }

    /// Returns the value of a key.
    #[inline]
    pub(super) fn find(&self, key: &[u8]) -> Result<Option<CellValue<'b>>, Rule> {
        let at = self.count_to(key, false)?;
        if at == self.len() {
            return Ok(None);
        }
        let (suffix, value) = self.entry(at)?;
        Ok((key.strip_prefix(self.keys.prefix) == Some(suffix)).then_some(value))
    }

    /// Appends an entry's whole key.
    pub(super) fn key_into(&self, i: usize, out: &mut Vec<u8>) -> Result<(), Rule> {
        out.extend_from_slice(self.keys.prefix);
        out.extend_from_slice(self.suffix(i)?);
        Ok(())
    }
}

impl<'b> Branch<'b> {
    #[inline]
    pub(super) fn parse(body: &'b [u8], level: u8) -> Result<Self, Rule> {
        let (found, n, p) = header(body)?;
        if found != level || level == 0 {
            return Err("a child is one level below its parent");
        }
        let mut rest = &body[NODE_HEADER_BYTES..];
        let children = take(&mut rest, n * CHILD_BYTES)?;
        let heads = take(&mut rest, (n - 1) * 4)?;
        let offsets = take(&mut rest, (n - 1) * 2)?;
        let prefix = take(&mut rest, p)?;
        Ok(Self { keys: Keys { body, heads, offsets, prefix }, children })
    }

    /// Returns how many children there are.
    pub(super) fn len(&self) -> usize {
        self.children.len() / CHILD_BYTES
    }

    #[inline]
    pub(super) fn child(&self, i: usize) -> PageRef {
        decode_child(&self.children[i * CHILD_BYTES..][..CHILD_BYTES])
    }

    /// Returns which child holds `key` if any does.
    #[inline]
    pub(super) fn child_of(&self, key: &[u8]) -> Result<usize, Rule> {
        self.keys.count_to(key, true, |i| self.separator_suffix(i))
    }

    fn separator_suffix(&self, i: usize) -> Result<&'b [u8], Rule> {
        let mut rest = self.keys.cell(i)?;
        let len = short_uvarint(&mut rest)?;
        take(&mut rest, len)
    }

    /// Returns the separator between child i and child i + 1.
    pub(super) fn separator(&self, i: usize) -> Result<Vec<u8>, Rule> {
        let suffix = self.separator_suffix(i)?;
        if self.keys.prefix.len() + suffix.len() > KEY_BYTES_MAX {
            return Err("a key is below the limit");
        }
        Ok([self.keys.prefix, suffix].concat())
    }
}

pub(super) fn encode_child(at: PageRef, out: &mut Vec<u8>) {
    out.extend_from_slice(&at.no.to_le_bytes()[..6]);
    out.extend_from_slice(&at.proof.to_le_bytes());
}

pub(super) fn decode_child(b: &[u8]) -> PageRef {
    let no = u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], 0, 0]);
    PageRef { no, proof: u64::from_le_bytes(std::array::from_fn(|i| b[6 + i])) }
}

pub(super) fn encode_stored(value: &ValueRef, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.len.to_le_bytes());
    out.push(value.height);
    encode_child(value.page, out);
}

fn decode_stored(b: &[u8]) -> Result<ValueRef, Rule> {
    if b.len() != STORED_BYTES {
        return Err("a stored value is named by 23 bytes");
    }
    let len = u64::from_le_bytes(std::array::from_fn(|i| b[i]));
    if len == 0 || len > STORED_VALUE_BYTES_MAX || b[8] == 0 || b[8] > super::HEIGHT_MAX {
        return Err("a stored value's length and height are within the limits");
    }
    Ok(ValueRef { len, height: b[8], page: decode_child(&b[9..]) })
}
