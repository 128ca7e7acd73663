//! Copies those pages of a tree that somebody wants elsewhere, in steps: to seal them under another key, to move them.
//!
//! The tree's entries stay, and so does its shape: a page is copied byte for byte but for the references to pages that
//! were copied before it, its descendants. So what is wanted is written anew, and the way to it from the root; nothing
//! else is. The walk goes from left to right, children first, and stops where its budget is spent; the next step goes on
//! from there, in the tree as it is by then.
//!
//! What lies to the left of where a step stopped is done, and stays done as long as whoever changes the tree between two
//! steps writes no page that is wanted: a leaf that was not wanted is only ever replaced by new ones.
//!
//! Memory: two copies of a node per level.

use super::node::{Branch, CellValue, Leaf, Rule, encode_child, encode_stored};
use super::value::{bytes_below, children, encode_index, top_level};
use super::{HEIGHT_MAX, TreeRoot, ValueRef, broken};
use crate::pager::{PageError, PageKind, PageRef, PageWrite};

/// Pages that a step looks at at least, so that each gets past the one before: a leaf, and one page of a value.
const BUDGET_MIN: u64 = 2;

/// Where a walk stands: everything before it is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Keys below it are done.
    key: Vec<u8>,
    /// And of this key's value, if it has pages of its own, so many value pages.
    value_pages: u64,
}

/// Where a walk over all trees stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct TreesPlace {
    tree: usize,
    place: Place,
}

/// Goes on with a walk over trees, as far as the budget goes. Returns whether that was all; else as `rewrite`.
pub(crate) fn rewrite_trees<W: PageWrite>(
    pages: &mut W,
    trees: &mut [TreeRoot],
    at: &mut TreesPlace,
    budget: &mut u64,
    wanted: &mut dyn FnMut(&W, PageRef, PageKind) -> Result<bool, PageError>,
) -> Result<bool, PageError> {
    while *budget > 0
        && let Some(root) = trees.get_mut(at.tree)
    {
        let (new, next) = rewrite(pages, root, &at.place, budget, wanted)?;
        *root = new;
        at.tree += usize::from(next.is_none());
        at.place = next.unwrap_or_default();
    }
    Ok(at.tree >= trees.len())
}

/// Goes on with a walk from a place, until it has looked at `budget` pages or the tree is at its end. `wanted` says of
/// a page whether it is to be copied. Returns the new root, and where the next step goes on: `None` at the end. After
/// an error, what was written belongs to no tree.
pub(crate) fn rewrite<W: PageWrite>(
    pages: &mut W,
    root: &TreeRoot,
    from: &Place,
    budget: &mut u64,
    wanted: &mut dyn FnMut(&W, PageRef, PageKind) -> Result<bool, PageError>,
) -> Result<(TreeRoot, Option<Place>), PageError> {
    let Some(at) = root.page else { return Ok((*root, None)) };
    if !(1..=HEIGHT_MAX).contains(&root.height) {
        return Err(broken(pages, at, "a tree has pages up to its height, which is at most 16"));
    }
    *budget = (*budget).max(BUDGET_MIN);
    let mut walk = Walk { pages, wanted, budget, from, stop: None };
    let page = walk.node(at, root.height - 1, &[], None)?;
    let stop = walk.stop;
    Ok((TreeRoot { page: Some(page), ..*root }, stop))
}

struct Walk<'r, W> {
    pages: &'r mut W,
    wanted: &'r mut dyn FnMut(&W, PageRef, PageKind) -> Result<bool, PageError>,
    budget: &'r mut u64,
    from: &'r Place,
    /// Where the budget ended.
    stop: Option<Place>,
}

impl<W: PageWrite> Walk<'_, W> {
    /// Looks at a node whose keys are at or above `low` and below `upper`. Returns where it is from now on.
    fn node(&mut self, at: PageRef, level: u8, low: &[u8], upper: Option<&[u8]>) -> Result<PageRef, PageError> {
        let kind = if level == 0 { PageKind::Leaf } else { PageKind::Branch };
        // A copy, because pages are written while it is read.
        let body = self.pages.page(at, kind)?.bytes().to_vec();
        let mut copy = body.clone();
        let changed = if level == 0 {
            self.leaf(at, &body, &mut copy, low, upper)?
        } else {
            self.branch(at, level, &body, &mut copy, low, upper)?
        };
        self.replace(at, kind, &copy, changed)
    }

    /// Writes a page in the place of another, if it has changed or is wanted.
    fn replace(&mut self, at: PageRef, kind: PageKind, copy: &[u8], changed: bool) -> Result<PageRef, PageError> {
        // A page whose descendants are not done yet is looked at when they are.
        if !changed && (self.stop.is_some() || !self.look(at, kind)?) {
            return Ok(at);
        }
        let new = self.pages.write(kind, copy)?;
        self.pages.release(at.no);
        Ok(new)
    }

    fn look(&mut self, at: PageRef, kind: PageKind) -> Result<bool, PageError> {
        *self.budget = self.budget.saturating_sub(1);
        (self.wanted)(self.pages, at, kind)
    }

    fn read<T>(&self, at: PageRef, read: Result<T, Rule>) -> Result<T, PageError> {
        read.map_err(|rule| broken(self.pages, at, rule))
    }

    fn branch(
        &mut self,
        at: PageRef,
        level: u8,
        body: &[u8],
        copy: &mut [u8],
        low: &[u8],
        upper: Option<&[u8]>,
    ) -> Result<bool, PageError> {
        let branch = self.read(at, Branch::parse(body, level))?;
        let first = self.read(at, branch.child_of(&self.from.key))?.min(branch.len() - 1);
        let mut from = match first.checked_sub(1) {
            None => low.to_vec(),
            Some(before) => self.read(at, branch.separator(before))?,
        };
        let mut changed = false;
        for i in first..branch.len() {
            if *self.budget == 0 && self.stop.is_none() && i > first {
                self.stop = Some(Place { key: from.clone(), value_pages: 0 });
            }
            if self.stop.is_some() {
                break;
            }
            let to = if i + 1 < branch.len() { Some(self.read(at, branch.separator(i))?) } else { None };
            let end = to.as_deref().or(upper);
            // Each node has a range of its own, so that no page is walked twice, whatever a damaged one says.
            if *from < *low || end.is_some_and(|end| *from >= *end) {
                return Err(broken(self.pages, at, "separators lie within the bounds of their branch"));
            }
            let child = branch.child(i);
            let new = self.node(child, level - 1, &from, end)?;
            if new != child {
                copy[branch.child_at(i)..][..encode_child(new).len()].copy_from_slice(&encode_child(new));
                changed = true;
            }
            from = to.unwrap_or_default();
        }
        Ok(changed)
    }

    fn leaf(
        &mut self,
        at: PageRef,
        body: &[u8],
        copy: &mut [u8],
        low: &[u8],
        upper: Option<&[u8]>,
    ) -> Result<bool, PageError> {
        let leaf = self.read(at, Leaf::parse(body))?;
        let (first, last) = (self.read(at, leaf.key(0))?, self.read(at, leaf.key(leaf.len() - 1))?);
        if *first < *low || upper.is_some_and(|upper| *last >= *upper) {
            return Err(broken(self.pages, at, "keys lie within the bounds of their leaf"));
        }
        let (mut from, is_there) = self.read(at, leaf.rank(&self.from.key))?;
        let mut skip = if is_there { self.from.value_pages } else { 0 };
        let mut changed = false;
        let mut looked = false;
        while from < leaf.len() {
            let cell = self.read(at, leaf.cell(from))?;
            if let CellValue::Stored(value) = self.read(at, leaf.value(&cell))? {
                if *self.budget == 0 && looked {
                    self.stop = Some(Place { key: self.read(at, leaf.key(from))?, value_pages: skip });
                    break;
                }
                looked = true;
                let (new, stopped) = self.value(&value, skip)?;
                if new != value.page {
                    copy[cell.value..cell.end].copy_from_slice(&encode_stored(&ValueRef { page: new, ..value }));
                    changed = true;
                }
                if let Some(value_pages) = stopped {
                    self.stop = Some(Place { key: self.read(at, leaf.key(from))?, value_pages });
                    break;
                }
            }
            skip = 0;
            from += 1;
        }
        Ok(changed)
    }

    /// Looks at a value's pages behind the first `skip` value pages. Returns its top page from now on, and how many
    /// value pages are done if it is not done with all.
    fn value(&mut self, value: &ValueRef, skip: u64) -> Result<(PageRef, Option<u64>), PageError> {
        let level = top_level(self.pages, value)?;
        let mut stopped = None;
        let page = self.below(value.page, level, value.len, Below { first: 0, skip }, &mut stopped)?;
        Ok((page, stopped))
    }

    /// Looks at what lies below one page of a value, which is `len` bytes of it, and at the page itself.
    fn below(
        &mut self,
        at: PageRef,
        level: u8,
        len: u64,
        below: Below,
        stopped: &mut Option<u64>,
    ) -> Result<PageRef, PageError> {
        if level == 0 {
            if !self.look(at, PageKind::Value)? {
                return Ok(at);
            }
            let body = self.pages.page(at, PageKind::Value)?.bytes().to_vec();
            let new = self.pages.write(PageKind::Value, &body)?;
            self.pages.release(at.no);
            return Ok(new);
        }
        let each = bytes_below(self.pages.body_bytes(), level - 1);
        let pages_each = each / self.pages.body_bytes() as u64;
        let mut children = children(self.pages, at, level, len)?;
        let mut changed = false;
        for (i, child) in children.iter_mut().enumerate() {
            let (first, bytes_before) = (below.first + i as u64 * pages_each, i as u64 * each);
            if first + pages_each <= below.skip {
                continue;
            }
            if *self.budget == 0 && first > below.skip {
                *stopped = stopped.or(Some(first));
            }
            if stopped.is_some() {
                break;
            }
            let below = Below { first, ..below };
            let new = self.below(*child, level - 1, each.min(len - bytes_before), below, stopped)?;
            changed |= new != *child;
            *child = new;
        }
        if !changed && (stopped.is_some() || !self.look(at, PageKind::ValueIndex)?) {
            return Ok(at);
        }
        let new = self.pages.write(PageKind::ValueIndex, &encode_index(level, &children))?;
        self.pages.release(at.no);
        Ok(new)
    }
}

/// A part of a value.
#[derive(Clone, Copy)]
struct Below {
    /// How many value pages lie before it.
    first: u64,
    /// Value pages of the whole value that are done.
    skip: u64,
}
