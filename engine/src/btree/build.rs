//! From sorted entries to pages: how many bytes a page of them takes, where to cut, and the page's bytes.

use super::node::{CHILD_BYTES, NODE_HEADER_BYTES, encode_child, head_of};
use crate::pager::{PageError, PageKind, PageRef, PageWrite};

/// A page of the new tree, and a key that is above every key before it and at or below its own.
#[derive(Clone, Debug)]
pub(super) struct Child {
    pub(super) low: Vec<u8>,
    pub(super) page: PageRef,
    /// Bytes used in the page where this writer built it.
    pub(super) used: Option<usize>,
}

/// How full pages are made, in percent of a body.
#[derive(Clone, Copy)]
pub(super) struct Fill(pub(super) usize);

impl Fill {
    /// In the middle of a tree: some room, so that the next change need not split.
    pub(super) const MIDDLE: Self = Self(90);
    /// At the right end, where keys ascend, and in a tree that is built at once.
    pub(super) const END: Self = Self(97);
}

/// Entries in order, on their way into leaves. At most about four pages of them wait here.
pub(super) struct Leaves {
    body_bytes: usize,
    fill: Fill,
    /// Keys and values of the waiting entries, one behind the other.
    bytes: Vec<u8>,
    items: Vec<Item>,
    /// Sum of what the waiting entries take in a page without a common beginning.
    plain: usize,
    /// The low key of the next page.
    low: Vec<u8>,
    out: Vec<Child>,
}

#[derive(Clone, Copy)]
struct Item {
    at: usize,
    key: usize,
    value: usize,
    stored: bool,
}

impl Item {
    /// Cell, head and offset, without a common beginning.
    fn plain(&self) -> usize {
        6 + uvarint_len(self.key) + uvarint_len(self.value << 1) + self.key + self.value
    }
}

fn uvarint_len(n: usize) -> usize {
    if n < 0x80 { 1 } else { 2 }
}

fn put_uvarint(out: &mut Vec<u8>, n: usize) {
    debug_assert!(n < 1 << 14, "lengths in a page are two bytes at most");
    if n < 0x80 {
        out.push(n as u8);
    } else {
        out.extend_from_slice(&[n as u8 | 0x80, (n >> 7) as u8]);
    }
}

fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

/// Returns the shortest key above `left` and at or below `right`.
fn separator(left: &[u8], right: &[u8]) -> Vec<u8> {
    right[..(common(left, right) + 1).min(right.len())].to_vec()
}

impl Leaves {
    /// `low` is at or below every key to come.
    pub(super) fn new(body_bytes: usize, fill: Fill, low: Vec<u8>) -> Self {
        Self { body_bytes, fill, bytes: Vec::new(), items: Vec::new(), plain: 0, low, out: Vec::new() }
    }

    /// Takes an entry; the value is 23 bytes that name it where it is stored apart.
    pub(super) fn push<W: PageWrite>(
        &mut self,
        pages: &mut W,
        key: &[u8],
        value: &[u8],
        stored: bool,
    ) -> Result<(), PageError> {
        let item = Item { at: self.bytes.len(), key: key.len(), value: value.len(), stored };
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.plain += item.plain();
        self.items.push(item);
        if self.plain > 4 * self.body_bytes {
            let target = self.body_bytes * self.fill.0 / 100;
            while self.plain > 3 * self.body_bytes {
                self.emit(pages, self.count_within(target))?;
            }
        }
        Ok(())
    }

    /// Returns how many pages there will be if nothing more comes.
    pub(super) fn pages(&self) -> usize {
        let waiting = self.size(self.items.len());
        self.out.len() + waiting.div_ceil(self.body_bytes)
    }

    /// Returns whether all that is here is less than a third of a page.
    pub(super) fn is_little(&self) -> bool {
        self.out.is_empty() && self.size(self.items.len()) < self.body_bytes / 3
    }

    /// Writes what waits, spread evenly over as few pages as hold it.
    pub(super) fn finish<W: PageWrite>(mut self, pages: &mut W) -> Result<Vec<Child>, PageError> {
        while !self.items.is_empty() {
            let size = self.size(self.items.len());
            if size <= self.body_bytes {
                self.emit(pages, self.items.len())?;
                break;
            }
            let full = self.body_bytes * Fill::END.0 / 100;
            let share = size.div_ceil(size.div_ceil(full));
            // The entry that passes the share still goes in where it fits.
            let count = (self.count_within(share) + 1).min(self.items.len() - 1);
            let count = if self.size(count) <= self.body_bytes { count } else { count - 1 };
            self.emit(pages, count.max(1))?;
        }
        Ok(self.out)
    }

    fn key(&self, i: usize) -> &[u8] {
        &self.bytes[self.items[i].at..][..self.items[i].key]
    }

    /// Returns what a page of the first `count` entries takes.
    fn size(&self, count: usize) -> usize {
        if count == 0 {
            return 0;
        }
        let plain: usize =
            if count == self.items.len() { self.plain } else { self.items[..count].iter().map(Item::plain).sum() };
        let p = common(self.key(0), self.key(count - 1));
        NODE_HEADER_BYTES + plain - (count - 1) * p
    }

    /// Returns how many entries from the front fit `bytes`, at least one.
    fn count_within(&self, bytes: usize) -> usize {
        let mut plain = 0;
        for (i, item) in self.items.iter().enumerate() {
            plain += item.plain();
            // The common beginning can only shrink from here on, so this is no more than what it will take.
            if NODE_HEADER_BYTES + plain > bytes {
                let p = common(self.key(0), self.key(i));
                if NODE_HEADER_BYTES + plain - i * p > bytes {
                    return i.max(1);
                }
            }
        }
        self.items.len()
    }

    /// Builds a leaf of the first `count` entries.
    fn emit<W: PageWrite>(&mut self, pages: &mut W, count: usize) -> Result<(), PageError> {
        let p = common(self.key(0), self.key(count - 1));
        let mut body = Vec::with_capacity(self.body_bytes);
        body.extend_from_slice(&[0, 0]);
        body.extend_from_slice(&(count as u16).to_le_bytes());
        body.extend_from_slice(&(p as u16).to_le_bytes());
        body.extend_from_slice(&[0; 2]);
        for i in 0..count {
            body.extend_from_slice(&head_of(&self.key(i)[p..]).to_be_bytes());
        }
        let offsets = body.len();
        body.resize(offsets + 2 * count, 0);
        body.extend_from_slice(&self.key(0)[..p]);
        for (i, item) in self.items[..count].iter().enumerate() {
            let at = body.len() as u16;
            body[offsets + 2 * i..][..2].copy_from_slice(&at.to_le_bytes());
            put_uvarint(&mut body, item.key - p);
            put_uvarint(&mut body, item.value << 1 | usize::from(item.stored));
            body.extend_from_slice(&self.bytes[item.at + p..item.at + item.key + item.value]);
        }
        assert!(body.len() <= self.body_bytes, "an entry is at most a quarter of a page, and pages are measured");
        let page = pages.write(PageKind::Leaf, &body)?;
        let next_low =
            if count < self.items.len() { separator(self.key(count - 1), self.key(count)) } else { Vec::new() };
        let low = std::mem::replace(&mut self.low, next_low);
        self.out.push(Child { low, page, used: Some(body.len()) });
        let taken = self.items.get(count).map_or(self.bytes.len(), |item| item.at);
        self.plain -= self.items[..count].iter().map(Item::plain).sum::<usize>();
        self.bytes.drain(..taken);
        self.items.drain(..count);
        self.items.iter_mut().for_each(|item| item.at -= taken);
        Ok(())
    }
}

/// Builds branches of one level over children, spread evenly over as few pages as hold them.
pub(super) fn branches<W: PageWrite>(pages: &mut W, level: u8, children: &[Child]) -> Result<Vec<Child>, PageError> {
    let full = pages.body_bytes();
    let plain = |child: &Child| CHILD_BYTES + 6 + uvarint_len(child.low.len()) + child.low.len();
    let mut out = Vec::new();
    let mut rest = children;
    while !rest.is_empty() {
        let total = NODE_HEADER_BYTES + rest.iter().map(plain).sum::<usize>();
        let share = if total <= full { total } else { total.div_ceil(total.div_ceil(full * Fill::END.0 / 100)) };
        let mut size = NODE_HEADER_BYTES;
        let mut count = 0;
        while count < rest.len() && (count == 0 || (size < share && size + plain(&rest[count]) <= full)) {
            size += plain(&rest[count]);
            count += 1;
        }
        // One child alone would be a level for nothing.
        if rest.len() - count == 1 && count > 2 && size + plain(&rest[count]) > full {
            count -= 1;
        } else if rest.len() - count == 1 && size + plain(&rest[count]) <= full {
            count += 1;
        }
        let (now, later) = rest.split_at(count);
        let body = branch(level, now);
        assert!(body.len() <= full, "branches are measured before they are built");
        let page = pages.write(PageKind::Branch, &body)?;
        out.push(Child { low: now[0].low.clone(), page, used: Some(body.len()) });
        rest = later;
    }
    Ok(out)
}

/// Returns the body of a branch over these children.
fn branch(level: u8, children: &[Child]) -> Vec<u8> {
    let separators = &children[1..];
    let p = match (separators.first(), separators.last()) {
        (Some(first), Some(last)) => common(&first.low, &last.low),
        _ => 0,
    };
    let mut body = vec![level, 0];
    body.extend_from_slice(&(children.len() as u16).to_le_bytes());
    body.extend_from_slice(&(p as u16).to_le_bytes());
    body.extend_from_slice(&[0; 2]);
    children.iter().for_each(|child| encode_child(child.page, &mut body));
    for child in separators {
        body.extend_from_slice(&head_of(&child.low[p..]).to_be_bytes());
    }
    let offsets = body.len();
    body.resize(offsets + 2 * separators.len(), 0);
    if let Some(first) = separators.first() {
        body.extend_from_slice(&first.low[..p]);
    }
    for (i, child) in separators.iter().enumerate() {
        let at = body.len() as u16;
        body[offsets + 2 * i..][..2].copy_from_slice(&at.to_le_bytes());
        put_uvarint(&mut body, child.low.len() - p);
        body.extend_from_slice(&child.low[p..]);
    }
    body
}
