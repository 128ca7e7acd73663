//! Values in pages of their own: Value pages hold the bytes, ValueIndex pages name them.
//!
//! A Value page's body is bytes of the value and nothing else; zeros fill the last one. A ValueIndex page of level n
//! has children of level n - 1; a Value page is of level 0:
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | u8 | level |
//! | 1 | u8 | flags: zero |
//! | 2 | u16 | count of children |
//! | 4 | u32 | zero |
//! | 8 | count x 14 | children: page number u48, proof u64 |
//!
//! All pages but the last of each level are full. So height, counts and the place of each byte follow from the value's
//! length: whatever index pages claim, nobody reads more pages than the length asks for.

use super::node::{CHILD_BYTES, NODE_HEADER_BYTES, Rule, decode_child, encode_child};
use super::{HEIGHT_MAX, ValueRef, broken};
use crate::limits::STORED_VALUE_BYTES_MAX;
use crate::pager::{PageError, PageKind, PageRead, PageRef, PageWrite};

/// Children of a full index page.
const fn fanout(body_bytes: usize) -> usize {
    (body_bytes - NODE_HEADER_BYTES) / CHILD_BYTES
}

/// Returns the height of the pages of a value that is `len` bytes long.
fn height_of(body_bytes: usize, len: u64) -> u8 {
    let (mut height, mut holds) = (1, body_bytes as u64);
    while holds < len {
        height += 1;
        holds = holds.saturating_mul(fanout(body_bytes) as u64);
    }
    height
}

/// Returns the bytes of value below a full page of this level.
pub(super) fn bytes_below(body_bytes: usize, level: u8) -> u64 {
    (0..level).fold(body_bytes as u64, |bytes, _| bytes.saturating_mul(fanout(body_bytes) as u64))
}

/// Takes a value's bytes in order and writes its pages. Holds one page per level.
pub(crate) struct ValueWriter<W> {
    pages: W,
    /// Bytes that wait for their Value page to be full.
    buffer: Vec<u8>,
    /// Children that wait for their index page to be full, by level.
    waiting: Vec<Vec<PageRef>>,
    len: u64,
}

impl<W: PageWrite> ValueWriter<W> {
    pub(crate) fn new(pages: W) -> Self {
        Self { pages, buffer: Vec::new(), waiting: vec![Vec::new()], len: 0 }
    }

    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<(), PageError> {
        self.len += bytes.len() as u64;
        assert!(self.len <= STORED_VALUE_BYTES_MAX, "whoever takes a value in checks its length");
        let full = self.pages.body_bytes();
        while !bytes.is_empty() {
            let room = full - self.buffer.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if now.len() == full {
                let page = self.pages.write(PageKind::Value, now)?;
                self.add(0, page)?;
            } else {
                self.buffer.extend_from_slice(now);
                if self.buffer.len() == full {
                    self.flush()?;
                }
            }
            bytes = later;
        }
        Ok(())
    }

    /// Writes what waits, and the index. Returns the value and the pages' writer. A value has at least one byte.
    pub(crate) fn finish(mut self) -> Result<(ValueRef, W), PageError> {
        assert!(self.len > 0, "an empty value stands in its leaf");
        if !self.buffer.is_empty() {
            self.flush()?;
        }
        let mut level = 0;
        loop {
            let is_top = level + 1 == self.waiting.len();
            match (&self.waiting[level][..], is_top) {
                (&[page], true) => {
                    return Ok((ValueRef { len: self.len, height: level as u8 + 1, page }, self.pages));
                }
                ([], _) => {}
                _ => self.write_index(level)?,
            }
            level += 1;
        }
    }

    fn flush(&mut self) -> Result<(), PageError> {
        let page = self.pages.write(PageKind::Value, &self.buffer)?;
        self.buffer.clear();
        self.add(0, page)
    }

    fn add(&mut self, level: usize, page: PageRef) -> Result<(), PageError> {
        // A full list is written when the next child comes: then it is known that there is a level above it.
        if self.waiting[level].len() == fanout(self.pages.body_bytes()) {
            self.write_index(level)?;
        }
        self.waiting[level].push(page);
        Ok(())
    }

    fn write_index(&mut self, level: usize) -> Result<(), PageError> {
        let children = std::mem::take(&mut self.waiting[level]);
        let page = self.pages.write(PageKind::ValueIndex, &encode_index(level as u8 + 1, &children))?;
        if level + 1 == self.waiting.len() {
            self.waiting.push(Vec::new());
        }
        self.add(level + 1, page)
    }
}

/// Returns the body of an index page of this level.
pub(super) fn encode_index(level: u8, children: &[PageRef]) -> Vec<u8> {
    let mut body = Vec::with_capacity(NODE_HEADER_BYTES + children.len() * CHILD_BYTES);
    body.extend_from_slice(&[level, 0]);
    body.extend_from_slice(&(children.len() as u16).to_le_bytes());
    body.extend_from_slice(&[0; 4]);
    children.iter().for_each(|&child| body.extend_from_slice(&encode_child(child)));
    body
}

/// Returns the children of an index page below which `len` bytes lie.
pub(super) fn children<P: PageRead>(pages: &P, at: PageRef, level: u8, len: u64) -> Result<Vec<PageRef>, PageError> {
    let count = len.div_ceil(bytes_below(pages.body_bytes(), level - 1)) as usize;
    let page = pages.page(at, PageKind::ValueIndex)?;
    parse_index(page.bytes(), level, count).map_err(|rule| broken(pages, at, rule))
}

pub(super) fn parse_index(body: &[u8], level: u8, count: usize) -> Result<Vec<PageRef>, Rule> {
    let [count_0, count_1] = (count as u16).to_le_bytes();
    if !body.starts_with(&[level, 0, count_0, count_1, 0, 0, 0, 0]) {
        return Err("a value's index has the level and the children that the length asks for");
    }
    let (children, rest) =
        body[NODE_HEADER_BYTES..].split_at_checked(count * CHILD_BYTES).ok_or("nothing lies past a node's end")?;
    if rest.iter().any(|&byte| byte != 0) {
        return Err("nothing but zeros follows the last child");
    }
    Ok(children.as_chunks().0.iter().map(decode_child).collect())
}

/// Returns the level of a value's top page.
pub(super) fn top_level<P: PageRead>(pages: &P, value: &ValueRef) -> Result<u8, PageError> {
    let fits = (1..=STORED_VALUE_BYTES_MAX).contains(&value.len);
    if !fits || value.height > HEIGHT_MAX || value.height != height_of(pages.body_bytes(), value.len) {
        return Err(broken(pages, value.page, "a stored value's height follows from its length"));
    }
    Ok(value.height - 1)
}

/// Fills `out` with a value's bytes from `offset` on; the value must have that many.
pub(crate) fn read_value<P: PageRead>(pages: &P, at: &ValueRef, offset: u64, out: &mut [u8]) -> Result<(), PageError> {
    assert!(offset + out.len() as u64 <= at.len, "the caller knows how long the value is");
    let level = top_level(pages, at)?;
    read_below(pages, at.page, level, at.len, offset, out)
}

/// Reads below one page, which has `len` bytes of the value below it.
fn read_below<P: PageRead>(
    pages: &P,
    at: PageRef,
    level: u8,
    len: u64,
    offset: u64,
    out: &mut [u8],
) -> Result<(), PageError> {
    if level == 0 {
        let page = pages.page(at, PageKind::Value)?;
        // At most `len` bytes, and those are at most a body.
        out.copy_from_slice(&page.bytes()[offset as usize..][..out.len()]);
        return Ok(());
    }
    let each = bytes_below(pages.body_bytes(), level - 1);
    let children = children(pages, at, level, len)?;
    let (mut offset, mut out) = (offset, out);
    while !out.is_empty() {
        let (i, inside) = (offset / each, offset % each);
        let below = each.min(len - i * each);
        let (now, later) = out.split_at_mut((below - inside).min(out.len() as u64) as usize);
        offset += now.len() as u64;
        read_below(pages, children[i as usize], level - 1, below, inside, now)?;
        out = later;
    }
    Ok(())
}

/// Calls `each` with the number of every page of a value. Reads the index pages only.
pub(crate) fn value_pages<P: PageRead>(pages: &P, at: &ValueRef, each: &mut dyn FnMut(u64)) -> Result<(), PageError> {
    let level = top_level(pages, at)?;
    walk(pages, at.page, level, at.len, &mut |page, _| {
        each(page.no);
        Ok(())
    })
}

/// As `value_pages`, and reads the Value pages, too.
pub(super) fn check_value<P: PageRead>(pages: &P, at: &ValueRef, each: &mut dyn FnMut(u64)) -> Result<(), PageError> {
    let level = top_level(pages, at)?;
    walk(pages, at.page, level, at.len, &mut |page, value_len| {
        each(page.no);
        let Some(len) = value_len else { return Ok(()) };
        if pages.page(page, PageKind::Value)?.bytes()[len..].iter().any(|&byte| byte != 0) {
            return Err(broken(pages, page, "nothing but zeros follows a value"));
        }
        Ok(())
    })
}

/// Calls `see` with every page below one, itself first; with the bytes of the value in it where it is a Value page.
fn walk<P: PageRead>(
    pages: &P,
    at: PageRef,
    level: u8,
    len: u64,
    see: &mut dyn FnMut(PageRef, Option<usize>) -> Result<(), PageError>,
) -> Result<(), PageError> {
    if level == 0 {
        return see(at, Some(len as usize));
    }
    see(at, None)?;
    let each = bytes_below(pages.body_bytes(), level - 1);
    for (child, from) in children(pages, at, level, len)?.into_iter().zip((0..).step_by(each as usize)) {
        walk(pages, child, level - 1, each.min(len - from), see)?;
    }
    Ok(())
}

/// Releases every page of a value. Holds their numbers meanwhile: 2 MiB for a value of 1 GiB.
pub(crate) fn release_value<W: PageWrite>(pages: &mut W, at: &ValueRef) -> Result<(), PageError> {
    let mut numbers = Vec::new();
    value_pages(pages, at, &mut |no| numbers.push(no))?;
    numbers.into_iter().for_each(|no| pages.release(no));
    Ok(())
}
