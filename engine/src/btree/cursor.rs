//! A walk over one tree. The cursor owns a copy of the leaf it is in (a page's bytes are copied once per leaf), so it
//! pins no frame and borrows nothing, and values are handed out as slices of that copy. The pages come with every call.
//!
//! Invariant: keys ascend from leaf to leaf, and a leaf's first key is not above its last one, or the walk ends with an
//! error. So the first keys of the leaves that it meets ascend, it meets no leaf twice, and it ends, whatever branches
//! claim. Between a leaf's ends it trusts the order (spec: E-33).

use std::ops::{Bound, Range};

use bytes::Bytes;

use super::node::{Branch, CellValue, Leaf, LeafShape, Rule, decode_stored};
use super::{TreeRoot, ValueRef, broken};
use crate::pager::{PageError, PageKind, PageRead, PageRef};

/// Ends of keys up to this length are copied as if they were so long, which takes no call; what is too much is cut off.
const BLOCK: usize = 32;

/// Stands on an entry or at the end, which is beyond the last entry and before the first one.
pub(crate) struct TreeCursor {
    root: TreeRoot,
    path: Vec<Step>,
    leaf: Bytes,
    leaf_at: PageRef,
    /// The leaf's; at the end it has no entries.
    shape: LeafShape,
    /// The entry it stands on, unless there are none.
    at: usize,
    /// Its key, which begins with the leaf's common beginning.
    key: Vec<u8>,
    value: Here,
}

/// A branch on the way down, and the child that was taken.
#[derive(Clone, Copy)]
struct Step {
    branch: PageRef,
    child: usize,
}

/// The value of the entry it stands on.
enum Here {
    Inline(Range<usize>),
    Stored(ValueRef),
}

/// Which child to take on the way down.
#[derive(Clone, Copy)]
enum Way<'k> {
    First,
    Key(&'k [u8]),
    Last,
}

impl TreeCursor {
    pub(crate) fn new(root: TreeRoot) -> Self {
        Self {
            root,
            path: Vec::new(),
            leaf: Bytes::new(),
            leaf_at: PageRef { no: 0, proof: 0 },
            shape: LeafShape::default(),
            at: 0,
            key: Vec::new(),
            value: Here::Inline(0..0),
        }
    }

    /// Goes to the first entry at or after the bound.
    pub(crate) fn seek<P: PageRead>(&mut self, pages: &P, lower: Bound<&[u8]>) -> Result<(), PageError> {
        let (way, and_equal) = match lower {
            Bound::Unbounded => (Way::First, true),
            Bound::Included(key) => (Way::Key(key), true),
            Bound::Excluded(key) => (Way::Key(key), false),
        };
        let below = self.descend(pages, way, !and_equal)?;
        self.stand_or_move(pages, below, false)
    }

    /// Goes to the last entry at or before the bound.
    pub(crate) fn seek_back<P: PageRead>(&mut self, pages: &P, upper: Bound<&[u8]>) -> Result<(), PageError> {
        let (way, and_equal) = match upper {
            Bound::Unbounded => (Way::Last, true),
            Bound::Included(key) => (Way::Key(key), true),
            Bound::Excluded(key) => (Way::Key(key), false),
        };
        let below = self.descend(pages, way, and_equal)?;
        // Before the first entry there is none: an index beyond them all sends it to the leaf before.
        self.stand_or_move(pages, below.wrapping_sub(1), true)
    }

    /// Goes on to the next entry.
    #[inline]
    pub(crate) fn next<P: PageRead>(&mut self, pages: &P) -> Result<(), PageError> {
        self.stand_or_move(pages, self.at + 1, false)
    }

    /// Goes on to the next entry if the leaf it is in has it and it can be read; else it stays, and `next` goes there, or
    /// says why not.
    #[inline]
    pub(crate) fn next_in_leaf(&mut self) -> bool {
        let at = self.at;
        if at + 1 >= self.shape.len {
            return false;
        }
        self.at = at + 1;
        let stood = self.stand().is_ok();
        if !stood {
            self.at = at;
        }
        stood
    }

    /// Goes back to the entry before.
    #[inline]
    pub(crate) fn prev<P: PageRead>(&mut self, pages: &P) -> Result<(), PageError> {
        self.stand_or_move(pages, self.at.wrapping_sub(1), true)
    }

    /// Returns the entry it stands on.
    #[inline]
    pub(crate) fn entry(&self) -> Option<(&[u8], CellValue<'_>)> {
        if self.shape.len == 0 {
            return None;
        }
        Some((&self.key, self.value()))
    }

    /// Returns the key of the entry it stands on. For a cursor that stands on one.
    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Returns the value of the entry it stands on. For a cursor that stands on one.
    #[inline]
    pub(crate) fn value(&self) -> CellValue<'_> {
        match &self.value {
            Here::Inline(range) => CellValue::Inline(&self.leaf[range.clone()]),
            Here::Stored(value) => CellValue::Stored(*value),
        }
    }

    /// Returns where the value of the entry it stands on is, if that is in pages of its own. For a cursor that stands on one.
    #[inline]
    pub(crate) fn stored(&self) -> Option<ValueRef> {
        match self.value {
            Here::Inline(_) => None,
            Here::Stored(at) => Some(at),
        }
    }

    /// Returns the inline value it stands on as a slice of its copy of the leaf; empty where there is none.
    pub(crate) fn value_bytes(&self) -> Bytes {
        match &self.value {
            Here::Inline(range) if self.shape.len > 0 => self.leaf.slice(range.clone()),
            _ => Bytes::new(),
        }
    }

    /// Stands on an entry of the leaf. Where it has none of that index, goes to the leaf after or before it.
    #[inline]
    fn stand_or_move<P: PageRead>(&mut self, pages: &P, at: usize, backward: bool) -> Result<(), PageError> {
        if at < self.shape.len {
            self.at = at;
            match self.stand() {
                Ok(()) => return Ok(()),
                Err(rule) => return Err(self.end_broken(pages, self.leaf_at, rule)),
            }
        }
        if self.shape.len == 0 { Ok(()) } else { self.move_to_neighbour(pages, backward) }
    }

    /// Reads the entry it stands on.
    #[inline]
    fn stand(&mut self) -> Result<(), Rule> {
        let leaf = &self.leaf[..];
        let cell = self.shape.cell(leaf, self.at)?;
        self.key.truncate(self.shape.prefix_len);
        let suffix = &leaf[cell.key..cell.value];
        match leaf[cell.key..].first_chunk::<BLOCK>() {
            Some(block) if suffix.len() <= BLOCK => {
                self.key.extend_from_slice(block);
                self.key.truncate(self.shape.prefix_len + suffix.len());
            }
            _ => self.key.extend_from_slice(suffix),
        }
        self.value = if cell.stored {
            Here::Stored(decode_stored(&leaf[cell.value..cell.end])?)
        } else {
            Here::Inline(cell.value..cell.end)
        };
        Ok(())
    }

    /// Goes to the leaf where `way` leads; returns how many of its entries are below the key, or at most at it.
    fn descend<P: PageRead>(&mut self, pages: &P, way: Way<'_>, and_equal: bool) -> Result<usize, PageError> {
        self.path.clear();
        self.shape.len = 0;
        let Some(root) = self.root.page else { return Ok(0) };
        self.descend_from(pages, root, self.root.height.saturating_sub(1), way)?;
        match way {
            Way::First => Ok(0),
            Way::Last => Ok(self.shape.len),
            Way::Key(key) => match Leaf::parse(&self.leaf).and_then(|leaf| leaf.rank(key)) {
                Ok((below, found)) => Ok(below + usize::from(found && and_equal)),
                Err(rule) => Err(self.end_broken(pages, self.leaf_at, rule)),
            },
        }
    }

    fn descend_from<P: PageRead>(
        &mut self,
        pages: &P,
        mut at: PageRef,
        level: u8,
        way: Way<'_>,
    ) -> Result<(), PageError> {
        for level in (1..=level).rev() {
            let page = pages.page(at, PageKind::Branch)?;
            let taken = Branch::parse(page.bytes(), level).and_then(|branch| {
                let child = match way {
                    Way::First => 0,
                    Way::Key(key) => branch.child_of(key)?,
                    Way::Last => branch.len() - 1,
                };
                Ok((child, branch.child(child)))
            });
            let (child, below) = taken.map_err(|rule| broken(pages, at, rule))?;
            self.path.push(Step { branch: at, child });
            at = below;
        }
        let page = pages.page(at, PageKind::Leaf)?;
        let leaf = Leaf::parse(page.bytes()).map_err(|rule| broken(pages, at, rule))?;
        self.key.clear();
        self.key.extend_from_slice(leaf.prefix());
        self.shape = leaf.shape();
        // Nobody may have kept a value of the leaf before: then its memory serves again.
        let old = std::mem::take(&mut self.leaf);
        let mut copy = if old.is_unique() { Vec::from(old) } else { Vec::with_capacity(page.bytes().len()) };
        copy.clear();
        copy.extend_from_slice(page.bytes());
        self.leaf = copy.into();
        self.leaf_at = at;
        Ok(())
    }

    /// Goes to the first entry of the next leaf, or to the last one of the leaf before; to the end where there is none.
    #[cold]
    fn move_to_neighbour<P: PageRead>(&mut self, pages: &P, backward: bool) -> Result<(), PageError> {
        let edge = if backward { 0 } else { self.shape.len - 1 };
        let edge = Leaf::parse(&self.leaf).and_then(|leaf| {
            leaf.check_ends()?;
            leaf.key(edge)
        });
        let edge = edge.map_err(|rule| self.end_broken(pages, self.leaf_at, rule))?;
        self.shape.len = 0;
        while let Some(Step { branch: at, child }) = self.path.pop() {
            let level = self.root.height - 1 - self.path.len() as u8;
            let next = {
                let page = pages.page(at, PageKind::Branch)?;
                let branch = Branch::parse(page.bytes(), level).map_err(|rule| broken(pages, at, rule))?;
                let next = if backward { child.checked_sub(1) } else { Some(child + 1) };
                next.filter(|&next| next < branch.len()).map(|next| (next, branch.child(next)))
            };
            let Some((child, below)) = next else { continue };
            self.path.push(Step { branch: at, child });
            self.descend_from(pages, below, level - 1, if backward { Way::Last } else { Way::First })?;
            self.at = if backward { self.shape.len - 1 } else { 0 };
            let stood = self.stand().and_then(|()| {
                let is_beyond = if backward { self.key < edge } else { self.key > edge };
                if is_beyond { Ok(()) } else { Err("keys ascend from leaf to leaf") }
            });
            return stood.map_err(|rule| self.end_broken(pages, self.leaf_at, rule));
        }
        Ok(())
    }

    /// An error leaves it at the end.
    #[cold]
    fn end_broken<P: PageRead>(&mut self, pages: &P, at: PageRef, rule: Rule) -> PageError {
        self.shape.len = 0;
        broken(pages, at, rule)
    }
}
