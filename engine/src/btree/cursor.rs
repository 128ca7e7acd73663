//! A walk over one tree. It owns a copy of the leaf it is in (one copy of memory per leaf), so it pins no page and
//! borrows nothing; the pages are brought to every call.

use std::ops::{Bound, Range};

use bytes::Bytes;

use super::node::{Branch, CellValue, Leaf, Rule};
use super::search::broken;
use super::{TreeRoot, ValueRef};
use crate::pager::{PageError, PageKind, PageRead, PageRef};

/// Stands on an entry, or at the end.
pub(crate) struct TreeCursor {
    root: TreeRoot,
    /// Branches from the root down, with the child taken and the number of children.
    path: Vec<(PageRef, usize, usize)>,
    leaf: Bytes,
    leaf_at: PageRef,
    len: usize,
    /// Index of the entry it stands on; `len` or beyond: the end.
    at: usize,
    key: Vec<u8>,
    value: Here,
}

enum Here {
    Inline(Range<usize>),
    Stored(ValueRef),
}

impl TreeCursor {
    pub(crate) fn new(root: TreeRoot) -> Self {
        Self {
            root,
            path: Vec::new(),
            leaf: Bytes::new(),
            leaf_at: PageRef { no: 0, proof: 0 },
            len: 0,
            at: 0,
            key: Vec::new(),
            value: Here::Inline(0..0),
        }
    }

    /// Goes to the first entry at or after the bound.
    pub(crate) fn seek<P: PageRead>(&mut self, pages: &P, lower: Bound<&[u8]>) -> Result<(), PageError> {
        let (key, with_equal) = match lower {
            Bound::Unbounded => (None, false),
            Bound::Included(key) => (Some(key), false),
            Bound::Excluded(key) => (Some(key), true),
        };
        if !self.descend(pages, key, false)? {
            return Ok(());
        }
        self.at = match key {
            Some(key) => self.count_to(pages, key, with_equal)?,
            None => 0,
        };
        self.settle(pages)
    }

    /// Goes to the last entry at or before the bound.
    pub(crate) fn seek_back<P: PageRead>(&mut self, pages: &P, upper: Bound<&[u8]>) -> Result<(), PageError> {
        let (key, with_equal) = match upper {
            Bound::Unbounded => (None, true),
            Bound::Included(key) => (Some(key), true),
            Bound::Excluded(key) => (Some(key), false),
        };
        if !self.descend(pages, key, true)? {
            return Ok(());
        }
        let count = match key {
            Some(key) => self.count_to(pages, key, with_equal)?,
            None => self.len,
        };
        self.back_to(pages, count)
    }

    /// Goes on to the next entry.
    #[inline]
    pub(crate) fn next<P: PageRead>(&mut self, pages: &P) -> Result<(), PageError> {
        self.at += 1;
        self.settle(pages)
    }

    /// Goes back to the entry before.
    pub(crate) fn prev<P: PageRead>(&mut self, pages: &P) -> Result<(), PageError> {
        self.back_to(pages, self.at)
    }

    /// Returns the entry it stands on.
    #[inline]
    pub(crate) fn entry(&self) -> Option<(&[u8], CellValue<'_>)> {
        if self.at >= self.len {
            return None;
        }
        let value = match &self.value {
            Here::Inline(range) => CellValue::Inline(&self.leaf[range.clone()]),
            Here::Stored(value) => CellValue::Stored(*value),
        };
        Some((&self.key, value))
    }

    /// Returns the inline value it stands on as a slice of its copy of the leaf; empty where there is none.
    pub(crate) fn value_bytes(&self) -> Bytes {
        match &self.value {
            Here::Inline(range) if self.at < self.len => self.leaf.slice(range.clone()),
            _ => Bytes::new(),
        }
    }

    /// Goes to the leaf of `key`, or to the first or last one. False: the tree is empty.
    fn descend<P: PageRead>(&mut self, pages: &P, key: Option<&[u8]>, last: bool) -> Result<bool, PageError> {
        self.path.clear();
        (self.len, self.at) = (0, 0);
        let Some(root) = self.root.page else { return Ok(false) };
        self.descend_from(pages, root, self.root.height - 1, key, last)?;
        Ok(true)
    }

    fn descend_from<P: PageRead>(
        &mut self,
        pages: &P,
        mut at: PageRef,
        level: u8,
        key: Option<&[u8]>,
        last: bool,
    ) -> Result<(), PageError> {
        for level in (1..=level).rev() {
            let page = pages.page(at, PageKind::Branch)?;
            let read = |branch: Branch<'_>| {
                let i = match key {
                    Some(key) => branch.child_of(key)?,
                    None if last => branch.len() - 1,
                    None => 0,
                };
                Ok((i, branch.len(), branch.child(i)))
            };
            let (i, len, child) =
                Branch::parse(page.bytes(), level).and_then(read).map_err(|rule| broken(pages, at, rule))?;
            self.path.push((at, i, len));
            at = child;
        }
        let page = pages.page(at, PageKind::Leaf)?;
        self.len = Leaf::parse(page.bytes()).map_err(|rule| broken(pages, at, rule))?.len();
        self.leaf = Bytes::copy_from_slice(page.bytes());
        self.leaf_at = at;
        Ok(())
    }

    fn leaf(&self) -> Result<Leaf<'_>, Rule> {
        Leaf::parse(&self.leaf)
    }

    fn count_to<P: PageRead>(&self, pages: &P, key: &[u8], with_equal: bool) -> Result<usize, PageError> {
        self.leaf().and_then(|leaf| leaf.count_to(key, with_equal)).map_err(|rule| broken(pages, self.leaf_at, rule))
    }

    /// Past the end of a leaf: on to the first entry of the next one.
    #[inline]
    fn settle<P: PageRead>(&mut self, pages: &P) -> Result<(), PageError> {
        if self.at >= self.len && !self.go_to_neighbour(pages, false)? {
            return Ok(());
        }
        self.stand(pages)
    }

    fn back_to<P: PageRead>(&mut self, pages: &P, count: usize) -> Result<(), PageError> {
        if self.len == 0 {
            return Ok(());
        }
        if count > 0 {
            self.at = count - 1;
        } else if !self.go_to_neighbour(pages, true)? {
            return Ok(());
        }
        self.stand(pages)
    }

    /// Goes to the next leaf's first entry, or the last one's before. False: there is none, and this is the end.
    #[cold]
    fn go_to_neighbour<P: PageRead>(&mut self, pages: &P, back: bool) -> Result<bool, PageError> {
        self.len = 0;
        self.at = 0;
        while let Some((at, i, len)) = self.path.pop() {
            let next = if back { i.checked_sub(1) } else { Some(i + 1).filter(|&next| next < len) };
            let Some(next) = next else { continue };
            let level = self.root.height - 1 - self.path.len() as u8;
            let page = pages.page(at, PageKind::Branch)?;
            let child = Branch::parse(page.bytes(), level)
                .and_then(|b| if next < b.len() { Ok(b.child(next)) } else { Err("a page does not change") })
                .map_err(|rule| broken(pages, at, rule))?;
            drop(page);
            self.path.push((at, next, len));
            self.descend_from(pages, child, level - 1, None, back)?;
            self.at = if back { self.len - 1 } else { 0 };
            return Ok(true);
        }
        Ok(false)
    }

    /// Reads the entry it stands on.
    #[inline]
    fn stand<P: PageRead>(&mut self, pages: &P) -> Result<(), PageError> {
        let Self { leaf, key, at, .. } = self;
        let base = leaf.as_ptr().addr();
        let read = Leaf::parse(leaf).and_then(|leaf| {
            let (suffix, value) = leaf.entry(*at)?;
            key.clear();
            key.extend_from_slice(leaf.prefix());
            key.extend_from_slice(suffix);
            Ok(match value {
                CellValue::Inline(bytes) => {
                    let start = bytes.as_ptr().addr() - base;
                    Here::Inline(start..start + bytes.len())
                }
                CellValue::Stored(value) => Here::Stored(value),
            })
        });
        match read {
            Ok(value) => {
                self.value = value;
                Ok(())
            }
            Err(rule) => {
                self.len = 0;
                Err(broken(pages, self.leaf_at, rule))
            }
        }
    }
}
