//! Leaf and branch pages, read: arrays in front, which are searched, and cells behind, which are looked at last.
//!
//! Numbers are little-endian but for the heads, whose order as numbers is the order of the keys. A uvarint here is one
//! or two bytes, seven bits each, low bits first, as short as can be.
//!
//! Leaf, level 0, n >= 1 entries:
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | u8 | level |
//! | 1 | u8 | flags: zero |
//! | 2 | u16 | n |
//! | 4 | u16 | p: length of the beginning that all keys of the page have in common |
//! | 6 | u16 | bytes in use; zeros follow |
//! | 8 | n x u32, big-endian | heads: the first 4 bytes of each key behind those p, zeros where it ends |
//! | 8 + 4n | n x u16 | offset of each cell |
//! | 8 + 6n | p | the common beginning |
//! | then | | n cells: `uvarint suffix length`, `uvarint value length * 2 + stored`, suffix, value |
//!
//! A key is the common beginning and its cell's suffix; the suffix repeats the head, so that a key is put together from
//! two pieces, not three. A stored value stands in its cell as 23 bytes:
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | u64 | length of the value |
//! | 8 | u8 | height of its pages |
//! | 9 | u48 | page number |
//! | 15 | u64 | proof |
//!
//! Branch, level >= 1, n >= 1 children, n - 1 separators:
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 8 | as in a leaf; p is the beginning that all separators have in common |
//! | 8 | (n - 1) x u32, big-endian | heads of the separators |
//! | then | (n - 1) x u16 | offset of each cell |
//! | then | n x 14 | children: page number u48, proof u64 |
//! | then | p | the common beginning |
//! | then | | n - 1 cells: `uvarint suffix length`, suffix |
//!
//! Separator i is above every key of child i and at or below every key of child i + 1. It is no longer than it takes to
//! tell the two keys beside it apart.

use super::PAGE_KEY_BYTES_MAX;
use super::{HEIGHT_MAX, ValueRef};
use crate::limits::STORED_VALUE_BYTES_MAX;
use crate::pager::PageRef;

pub(super) const NODE_HEADER_BYTES: usize = 8;
pub(super) const CHILD_BYTES: usize = 14;
pub(super) const STORED_BYTES: usize = 23;

/// Page numbers have 48 bits.
pub(super) const PAGE_NO_MAX: u64 = (1 << 48) - 1;

/// The rule that a page breaks.
pub(super) type Rule = &'static str;

const PAST_THE_END: Rule = "nothing lies past a node's end";
const KEY_TOO_LONG: Rule = "a key is at most 1024 bytes long";

/// A value as its cell has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CellValue<'c> {
    Inline(&'c [u8]),
    Stored(ValueRef),
}

/// Where the two parts of a cell are in the body: `key..value` and `value..end`, inside the page.
#[derive(Clone, Copy)]
pub(super) struct Cell {
    pub(super) key: usize,
    pub(super) value: usize,
    pub(super) end: usize,
    pub(super) stored: bool,
}

/// What it takes to find a leaf's cells again without looking at its header.
#[derive(Clone, Copy, Default)]
pub(super) struct LeafShape {
    pub(super) len: usize,
    pub(super) prefix_len: usize,
    pub(super) used: usize,
}

/// What both kinds of node have: the arrays that are searched, and the common beginning.
#[derive(Clone, Copy)]
struct Keys<'b> {
    /// As far as it is in use.
    body: &'b [u8],
    heads: &'b [[u8; 4]],
    offsets: &'b [[u8; 2]],
    prefix: &'b [u8],
}

/// Entries, parsed as far as the arrays.
#[derive(Clone, Copy)]
pub(super) struct Leaf<'b> {
    keys: Keys<'b>,
}

/// Children and separators, parsed as far as the arrays.
#[derive(Clone, Copy)]
pub(super) struct Branch<'b> {
    keys: Keys<'b>,
    children: &'b [[u8; CHILD_BYTES]],
}

/// Returns the first four bytes as a number, with zeros where there are fewer.
#[inline]
pub(super) fn head_of(suffix: &[u8]) -> u32 {
    match suffix.first_chunk() {
        Some(first) => u32::from_be_bytes(*first),
        None => {
            let mut first = [0; 4];
            first[..suffix.len()].copy_from_slice(suffix);
            u32::from_be_bytes(first)
        }
    }
}

/// Reads a number of one or two bytes.
#[inline]
fn uvarint(body: &[u8], at: &mut usize) -> Result<usize, Rule> {
    let low = usize::from(*body.get(*at).ok_or(PAST_THE_END)?);
    if low < 0x80 {
        *at += 1;
        return Ok(low);
    }
    match body.get(*at + 1) {
        Some(&high @ 1..0x80) => {
            *at += 2;
            Ok(low & 0x7f | usize::from(high) << 7)
        }
        _ => Err("a length has one or two bytes, and not more than it needs"),
    }
}

fn u16_of(bytes: [u8; 2]) -> usize {
    usize::from(u16::from_le_bytes(bytes))
}

/// Returns the part in use, the count and the length of the common beginning.
#[inline]
fn header(body: &[u8], level: u8) -> Result<(&[u8], usize, usize), Rule> {
    let Some(&[found, flags, n0, n1, p0, p1, u0, u1]) = body.first_chunk() else { return Err(PAST_THE_END) };
    if found != level || flags != 0 {
        return Err("a node is one level below its parent, and has no flags");
    }
    let (count, prefix_len, used) = (u16_of([n0, n1]), u16_of([p0, p1]), u16_of([u0, u1]));
    if count == 0 {
        return Err("a node has at least one entry");
    }
    Ok((body.get(..used).ok_or(PAST_THE_END)?, count, prefix_len))
}

/// Takes `count` pieces of `N` bytes off the front.
#[inline]
fn take<'b, const N: usize>(rest: &mut &'b [u8], count: usize) -> Result<&'b [[u8; N]], Rule> {
    let (taken, left) = rest.split_at_checked(count * N).ok_or(PAST_THE_END)?;
    *rest = left;
    Ok(taken.as_chunks().0)
}

impl<'b> Keys<'b> {
    #[inline]
    fn offset(&self, i: usize) -> usize {
        u16_of(self.offsets[i])
    }

    /// Counts the heads below `wanted`. No branch in the loop depends on the keys.
    #[inline]
    fn heads_below(&self, wanted: u32) -> usize {
        let (mut base, mut size) = (0, self.heads.len());
        while size > 1 {
            let half = size / 2;
            base += if u32::from_be_bytes(self.heads[base + half]) < wanted { half } else { 0 };
            size -= half;
        }
        base + usize::from(self.heads.get(base).is_some_and(|&head| u32::from_be_bytes(head) < wanted))
    }

    /// Counts the keys below `key`, and says whether it is there. `suffix` reads a cell's suffix.
    #[inline(always)]
    fn rank(&self, key: &[u8], suffix: impl Fn(usize) -> Result<&'b [u8], Rule>) -> Result<(usize, bool), Rule> {
        let Some(rest) = key.strip_prefix(self.prefix) else {
            return Ok((if key < self.prefix { 0 } else { self.heads.len() }, false));
        };
        let wanted = head_of(rest);
        let has_head = |i: usize| self.heads.get(i).is_some_and(|&head| u32::from_be_bytes(head) == wanted);
        let mut low = self.heads_below(wanted);
        if !has_head(low) {
            return Ok((low, false));
        }
        // Most often a head is its key's alone.
        let mut high = low + 1;
        if has_head(high) {
            high = wanted.checked_add(1).map_or(self.heads.len(), |next| self.heads_below(next));
        }
        let mut found = false;
        while low < high {
            let middle = low.midpoint(high);
            match suffix(middle)?.cmp(rest) {
                std::cmp::Ordering::Less => low = middle + 1,
                order => {
                    found |= order.is_eq();
                    high = middle;
                }
            }
        }
        Ok((low, found))
    }
}

impl<'b> Leaf<'b> {
    #[inline]
    pub(super) fn parse(body: &'b [u8]) -> Result<Self, Rule> {
        let (body, count, prefix_len) = header(body, 0)?;
        let mut rest = body.get(NODE_HEADER_BYTES..).ok_or(PAST_THE_END)?;
        let heads = take(&mut rest, count)?;
        let offsets = take(&mut rest, count)?;
        let prefix = rest.get(..prefix_len).ok_or(PAST_THE_END)?;
        Ok(Self { keys: Keys { body, heads, offsets, prefix } })
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.keys.heads.len()
    }

    /// The beginning that all keys have in common.
    #[inline]
    pub(super) fn prefix(&self) -> &'b [u8] {
        self.keys.prefix
    }

    #[inline]
    pub(super) fn shape(&self) -> LeafShape {
        LeafShape { len: self.len(), prefix_len: self.prefix().len(), used: self.keys.body.len() }
    }

    /// Returns where an entry's suffix and value are.
    #[inline]
    pub(super) fn cell(&self, i: usize) -> Result<Cell, Rule> {
        leaf_cell(self.keys.body, self.keys.offset(i), self.keys.prefix.len())
    }

    #[inline]
    pub(super) fn suffix(&self, cell: &Cell) -> &'b [u8] {
        &self.keys.body[cell.key..cell.value]
    }

    #[inline]
    pub(super) fn value(&self, cell: &Cell) -> Result<CellValue<'b>, Rule> {
        let bytes = self.raw_value(cell);
        if cell.stored { decode_stored(bytes).map(CellValue::Stored) } else { Ok(CellValue::Inline(bytes)) }
    }

    /// Returns the value as it stands in the cell.
    #[inline]
    pub(super) fn raw_value(&self, cell: &Cell) -> &'b [u8] {
        &self.keys.body[cell.value..cell.end]
    }

    /// Counts the keys below `key`, and says whether it is there.
    #[inline]
    pub(super) fn rank(&self, key: &[u8]) -> Result<(usize, bool), Rule> {
        self.keys.rank(key, |i| Ok(self.suffix(&self.cell(i)?)))
    }

    #[inline]
    pub(super) fn find(&self, key: &[u8]) -> Result<Option<Cell>, Rule> {
        match self.rank(key)? {
            (i, true) => self.cell(i).map(Some),
            _ => Ok(None),
        }
    }

    pub(super) fn key(&self, i: usize) -> Result<Vec<u8>, Rule> {
        Ok([self.keys.prefix, self.suffix(&self.cell(i)?)].concat())
    }

    /// Looks at the order of the first and the last key, without which a walk need not end.
    pub(super) fn check_ends(&self) -> Result<(), Rule> {
        let (first, last) = (self.cell(0)?, self.cell(self.len() - 1)?);
        if self.suffix(&first) <= self.suffix(&last) { Ok(()) } else { Err("keys ascend strictly") }
    }

    /// Looks at what no reader depends on: that there is one way only to write these entries.
    pub(super) fn check_form(&self, whole: &[u8]) -> Result<(), Rule> {
        let start = NODE_HEADER_BYTES + self.len() * 6 + self.prefix().len();
        self.keys.check_form(whole, start, |i| self.cell(i))
    }
}

impl LeafShape {
    /// As `Leaf::cell`; `body` is the leaf's that it is the shape of.
    #[inline]
    pub(super) fn cell(&self, body: &[u8], i: usize) -> Result<Cell, Rule> {
        let slot = NODE_HEADER_BYTES + self.len * 4 + i * 2;
        let at = body.get(slot..slot + 2).ok_or(PAST_THE_END)?;
        leaf_cell(&body[..self.used], u16_of([at[0], at[1]]), self.prefix_len)
    }
}

#[inline]
fn leaf_cell(body: &[u8], mut at: usize, prefix_len: usize) -> Result<Cell, Rule> {
    let (key_len, tagged) = match body.get(at..).and_then(<[u8]>::first_chunk) {
        // Nearly all: short keys, and values of up to 63 bytes, or of more.
        Some(&[key_len @ 0..0x80, tagged @ 0..0x80, _]) => {
            at += 2;
            (usize::from(key_len), usize::from(tagged))
        }
        Some(&[key_len @ 0..0x80, low, high @ 1..0x80]) => {
            at += 3;
            (usize::from(key_len), usize::from(low & 0x7f) | usize::from(high) << 7)
        }
        _ => (uvarint(body, &mut at)?, uvarint(body, &mut at)?),
    };
    let value = at + key_len;
    let end = value + (tagged >> 1);
    if end > body.len() {
        return Err(PAST_THE_END);
    }
    if key_len + prefix_len > PAGE_KEY_BYTES_MAX {
        return Err(KEY_TOO_LONG);
    }
    Ok(Cell { key: at, value, end, stored: tagged & 1 == 1 })
}

impl<'b> Branch<'b> {
    #[inline]
    pub(super) fn parse(body: &'b [u8], level: u8) -> Result<Self, Rule> {
        let (body, count, prefix_len) = header(body, level)?;
        let mut rest = body.get(NODE_HEADER_BYTES..).ok_or(PAST_THE_END)?;
        let heads = take(&mut rest, count - 1)?;
        let offsets = take(&mut rest, count - 1)?;
        let children = take(&mut rest, count)?;
        let prefix = rest.get(..prefix_len).ok_or(PAST_THE_END)?;
        Ok(Self { keys: Keys { body, heads, offsets, prefix }, children })
    }

    /// Returns how many children there are.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.children.len()
    }

    #[inline]
    pub(super) fn child(&self, i: usize) -> PageRef {
        decode_child(&self.children[i])
    }

    /// Returns where in the page child i stands.
    pub(super) fn child_at(&self, i: usize) -> usize {
        NODE_HEADER_BYTES + self.keys.heads.len() * 6 + i * CHILD_BYTES
    }

    /// Returns a child as it stands in the page.
    pub(super) fn raw_child(&self, i: usize) -> &'b [u8] {
        &self.children[i]
    }

    pub(super) fn prefix(&self) -> &'b [u8] {
        self.keys.prefix
    }

    #[inline]
    fn cell(&self, i: usize) -> Result<Cell, Rule> {
        let mut key = self.keys.offset(i);
        let key_len = uvarint(self.keys.body, &mut key)?;
        let end = key + key_len;
        if end > self.keys.body.len() {
            return Err(PAST_THE_END);
        }
        if key_len + self.keys.prefix.len() > PAGE_KEY_BYTES_MAX {
            return Err(KEY_TOO_LONG);
        }
        Ok(Cell { key, value: end, end, stored: false })
    }

    /// Returns the suffix of the separator between child i and child i + 1.
    #[inline]
    pub(super) fn suffix(&self, i: usize) -> Result<&'b [u8], Rule> {
        let cell = self.cell(i)?;
        Ok(&self.keys.body[cell.key..cell.end])
    }

    /// Returns the separator between child i and child i + 1.
    pub(super) fn separator(&self, i: usize) -> Result<Vec<u8>, Rule> {
        Ok([self.keys.prefix, self.suffix(i)?].concat())
    }

    /// Returns which child has `key`, if any has.
    #[inline]
    pub(super) fn child_of(&self, key: &[u8]) -> Result<usize, Rule> {
        let (below, found) = self.keys.rank(key, |i| self.suffix(i))?;
        Ok(below + usize::from(found))
    }

    /// Looks at what no reader depends on: that there is one way only to write these children.
    pub(super) fn check_form(&self, whole: &[u8]) -> Result<(), Rule> {
        let start = NODE_HEADER_BYTES + self.keys.heads.len() * 6 + self.len() * CHILD_BYTES + self.prefix().len();
        self.keys.check_form(whole, start, |i| self.cell(i))
    }
}

impl Keys<'_> {
    /// Cells lie in order and without gaps from `start` to the end of what is in use; zeros follow; heads are what
    /// they say; suffixes ascend strictly and have no beginning in common.
    fn check_form(&self, whole: &[u8], start: usize, cell: impl Fn(usize) -> Result<Cell, Rule>) -> Result<(), Rule> {
        let mut end = start;
        let mut before: Option<&[u8]> = None;
        let mut first: &[u8] = &[];
        for (i, head) in self.heads.iter().enumerate() {
            if self.offset(i) != end {
                return Err("cells lie one behind the other");
            }
            let cell = cell(i)?;
            let suffix = &self.body[cell.key..cell.value];
            if u32::from_be_bytes(*head) != head_of(suffix) {
                return Err("a head is the beginning of its key");
            }
            if before.is_some_and(|before| before >= suffix) {
                return Err("keys ascend strictly");
            }
            first = if i == 0 { suffix } else { first };
            before = Some(suffix);
            end = cell.end;
        }
        let last = before.unwrap_or_default();
        if (self.heads.is_empty() && !self.prefix.is_empty()) || first.first().is_some_and(|b| last.first() == Some(b))
        {
            return Err("a common beginning is all that keys have in common");
        }
        if end != self.body.len() || whole[end..].iter().any(|&byte| byte != 0) {
            return Err("nothing but zeros follows the last cell");
        }
        Ok(())
    }
}

#[inline]
pub(super) fn encode_child(at: PageRef) -> [u8; CHILD_BYTES] {
    assert!(at.no <= PAGE_NO_MAX, "page numbers have 48 bits");
    let mut bytes = [0; CHILD_BYTES];
    bytes[..6].copy_from_slice(&at.no.to_le_bytes()[..6]);
    bytes[6..].copy_from_slice(&at.proof.to_le_bytes());
    bytes
}

#[inline]
pub(super) fn decode_child(bytes: &[u8; CHILD_BYTES]) -> PageRef {
    let &[n0, n1, n2, n3, n4, n5, ref proof @ ..] = bytes;
    PageRef { no: u64::from_le_bytes([n0, n1, n2, n3, n4, n5, 0, 0]), proof: u64::from_le_bytes(*proof) }
}

pub(super) fn encode_stored(value: &ValueRef) -> [u8; STORED_BYTES] {
    let mut bytes = [0; STORED_BYTES];
    bytes[..8].copy_from_slice(&value.len.to_le_bytes());
    bytes[8] = value.height;
    bytes[9..].copy_from_slice(&encode_child(value.page));
    bytes
}

pub(super) fn decode_stored(bytes: &[u8]) -> Result<ValueRef, Rule> {
    let wrong = "a stored value is named by 23 bytes, within its limits";
    let (len, rest) = bytes.split_first_chunk().ok_or(wrong)?;
    let (&[height], page) = rest.split_first_chunk().ok_or(wrong)?;
    let page = page.try_into().map_err(|_| wrong)?;
    let len = u64::from_le_bytes(*len);
    if len == 0 || len > STORED_VALUE_BYTES_MAX || !(1..=HEIGHT_MAX).contains(&height) {
        return Err(wrong);
    }
    Ok(ValueRef { len, height, page: decode_child(page) })
}
