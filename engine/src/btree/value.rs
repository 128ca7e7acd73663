//! Values in pages of their own, streamed: Value pages hold the bytes, ValueIndex pages name them.
//!
//! A Value page's body is bytes of the value, the last one's padded with zeros. A ValueIndex page of level n (its
//! children are Value pages where n is 1):
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | u8 | level |
//! | 1 | u8 | zero |
//! | 2 | u16 | children |
//! | 4 | u32 | zero |
//! | 8 | 14 each | children: page number u48, proof u64 |
//!
//! All pages but the last of each level are full, so the place of a byte follows from its offset.

use super::node::{CHILD_BYTES, NODE_HEADER_BYTES, Rule, decode_child, encode_child};
use super::search::broken;
use super::{HEIGHT_MAX, ValueRef};
use crate::limits::STORED_VALUE_BYTES_MAX;
use crate::pager::{PageError, PageKind, PageRead, PageRef, PageWrite};

fn fanout(body_bytes: usize) -> usize {
    (body_bytes - NODE_HEADER_BYTES) / CHILD_BYTES
}

/// Takes a value's bytes in order and writes its pages.
pub(crate) struct ValueWriter {
    buffer: Vec<u8>,
    /// Children that wait for their index page, from Value pages up.
    waiting: Vec<Vec<PageRef>>,
    len: u64,
}

impl ValueWriter {
    pub(crate) fn new() -> Self {
        Self { buffer: Vec::new(), waiting: vec![Vec::new()], len: 0 }
    }

    pub(crate) fn push<W: PageWrite>(&mut self, pages: &mut W, mut bytes: &[u8]) -> Result<(), PageError> {
        let full = pages.body_bytes();
        self.len += bytes.len() as u64;
        assert!(self.len <= STORED_VALUE_BYTES_MAX, "a value's length is checked where it is given");
        while !bytes.is_empty() {
            let n = bytes.len().min(full - self.buffer.len());
            self.buffer.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if self.buffer.len() == full {
                self.write_page(pages)?;
            }
        }
        Ok(())
    }

    /// Writes what is left, and the index.
    pub(crate) fn finish<W: PageWrite>(mut self, pages: &mut W) -> Result<ValueRef, PageError> {
        if !self.buffer.is_empty() || self.len == 0 {
            self.write_page(pages)?;
        }
        let mut level = 0;
        loop {
            let top = level + 1 == self.waiting.len();
            if let ([page], true) = (&self.waiting[level][..], top) {
                return Ok(ValueRef { len: self.len, height: level as u8 + 1, page: *page });
            }
            if !self.waiting[level].is_empty() {
                self.write_index(pages, level)?;
            }
            level += 1;
        }
    }

    fn write_page<W: PageWrite>(&mut self, pages: &mut W) -> Result<(), PageError> {
        let page = pages.write(PageKind::Value, &self.buffer)?;
        self.buffer.clear();
        self.add(pages, 0, page)
    }

    fn add<W: PageWrite>(&mut self, pages: &mut W, level: usize, page: PageRef) -> Result<(), PageError> {
        self.waiting[level].push(page);
        if self.waiting[level].len() == fanout(pages.body_bytes()) { self.write_index(pages, level) } else { Ok(()) }
    }

    fn write_index<W: PageWrite>(&mut self, pages: &mut W, level: usize) -> Result<(), PageError> {
        let children = std::mem::take(&mut self.waiting[level]);
        let mut body = vec![level as u8 + 1, 0];
        body.extend_from_slice(&(children.len() as u16).to_le_bytes());
        body.extend_from_slice(&[0; 4]);
        children.iter().for_each(|&child| encode_child(child, &mut body));
        let page = pages.write(PageKind::ValueIndex, &body)?;
        if level + 1 == self.waiting.len() {
            self.waiting.push(Vec::new());
        }
        self.add(pages, level + 1, page)
    }
}

/// Reads the children of an index page.
fn children(body: &[u8], level: u8, fanout: usize) -> Result<Vec<PageRef>, Rule> {
    let count = usize::from(u16::from_le_bytes([body[2], body[3]]));
    if body[0] != level || body[1] != 0 || body[4..8] != [0; 4] || count == 0 || count > fanout {
        return Err("a value's index says its level and its children");
    }
    Ok(body[NODE_HEADER_BYTES..][..count * CHILD_BYTES].chunks_exact(CHILD_BYTES).map(decode_child).collect())
}

/// Reads `out.len()` bytes of a value from `offset`, all of which it must have.
pub(crate) fn read_value<P: PageRead>(
    pages: &P,
    value: &ValueRef,
    offset: u64,
    out: &mut [u8],
) -> Result<(), PageError> {
    assert!(offset + out.len() as u64 <= value.len, "the caller knows how long the value is");
    read_below(pages, value.page, value.height, offset, out)
}

fn read_below<P: PageRead>(
    pages: &P,
    at: PageRef,
    height: u8,
    offset: u64,
    mut out: &mut [u8],
) -> Result<(), PageError> {
    let full = pages.body_bytes() as u64;
    if height == 1 {
        let page = pages.page(at, PageKind::Value)?;
        let from = offset as usize;
        let part = page.bytes().get(from..from + out.len());
        let part = part.ok_or_else(|| broken(pages, at, "a value is as long as it says"))?;
        out.copy_from_slice(part);
        return Ok(());
    }
    let fanout = fanout(pages.body_bytes());
    let below = (0..height - 2).fold(full, |bytes, _| bytes.saturating_mul(fanout as u64));
    let children = {
        let page = pages.page(at, PageKind::ValueIndex)?;
        children(page.bytes(), height - 1, fanout).map_err(|rule| broken(pages, at, rule))?
    };
    let mut offset = offset;
    while !out.is_empty() {
        let child = children.get((offset / below) as usize).copied();
        let child = child.ok_or_else(|| broken(pages, at, "a value is as long as it says"))?;
        let inside = offset % below;
        let n = (below - inside).min(out.len() as u64) as usize;
        let (now, later) = out.split_at_mut(n);
        read_below(pages, child, height - 1, inside, now)?;
        out = later;
        offset += n as u64;
    }
    Ok(())
}

/// Calls `each` with the number of every page of a value.
pub(crate) fn value_pages<P: PageRead>(
    pages: &P,
    value: &ValueRef,
    each: &mut dyn FnMut(u64),
) -> Result<(), PageError> {
    pages_below(pages, value.page, value.height, each)
}

fn pages_below<P: PageRead>(pages: &P, at: PageRef, height: u8, each: &mut dyn FnMut(u64)) -> Result<(), PageError> {
    if !(1..=HEIGHT_MAX).contains(&height) {
        return Err(broken(pages, at, "a stored value's height is within the limits"));
    }
    each(at.no);
    if height == 1 {
        return Ok(());
    }
    let children = {
        let page = pages.page(at, PageKind::ValueIndex)?;
        children(page.bytes(), height - 1, fanout(pages.body_bytes())).map_err(|rule| broken(pages, at, rule))?
    };
    for child in children {
        if height == 2 {
            each(child.no);
        } else {
            pages_below(pages, child, height - 1, each)?;
        }
    }
    Ok(())
}

/// Releases every page of a value.
pub(crate) fn release_value<W: PageWrite>(pages: &mut W, value: &ValueRef) -> Result<(), PageError> {
    let mut numbers = Vec::new();
    value_pages(pages, value, &mut |no| numbers.push(no))?;
    numbers.into_iter().for_each(|no| pages.release(no));
    Ok(())
}
