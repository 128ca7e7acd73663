//! Proves a tree: every page of it is read, every rule looked at, the ones that no reader depends on included.

use super::node::{Branch, CellValue, Leaf, Rule};
use super::value::check_value;
use super::{HEIGHT_MAX, TreeRoot, broken, is_inline};
use crate::pager::{PageError, PageKind, PageRead, PageRef};

/// What a tree has, when all of it was found in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    /// Pages of the tree and of its stored values.
    pub(crate) pages: u64,
    pub(crate) entries: u64,
    /// Bytes of keys and values.
    pub(crate) bytes: u64,
}

/// Walks a tree, its stored values included, and calls `each` with the number of every page.
pub(crate) fn check<P: PageRead>(pages: &P, root: &TreeRoot, each: &mut dyn FnMut(u64)) -> Result<Checked, PageError> {
    let mut found = Checked::default();
    let at = root.page.unwrap_or(PageRef { no: 0, proof: 0 });
    if root.height > HEIGHT_MAX || (root.height == 0) != root.page.is_none() {
        return Err(broken(pages, at, "a tree has pages up to its height, which is at most 16"));
    }
    let mut reached = 0;
    let mut count = |no| {
        reached += 1;
        each(no);
    };
    if root.page.is_some() {
        let mut walk = Walk { pages, each: &mut count, found: &mut found };
        walk.node(at, root.height - 1, true, &[], None)?;
    }
    found.pages = reached;
    if found.entries != root.entries {
        return Err(broken(pages, at, "a tree has as many entries as its root says"));
    }
    Ok(found)
}

struct Walk<'w, P> {
    pages: &'w P,
    each: &'w mut dyn FnMut(u64),
    found: &'w mut Checked,
}

impl<P: PageRead> Walk<'_, P> {
    /// Walks a node whose keys are at or above `low` and below `upper`.
    fn node(
        &mut self,
        at: PageRef,
        level: u8,
        is_root: bool,
        low: &[u8],
        upper: Option<&[u8]>,
    ) -> Result<(), PageError> {
        (self.each)(at.no);
        if level == 0 {
            return self.leaf(at, low, upper);
        }
        let page = self.pages.page(at, PageKind::Branch)?;
        // Copied, for the way down is long, and a page may pin a frame.
        let body = page.bytes().to_vec();
        drop(page);
        let wrong = |rule| broken(self.pages, at, rule);
        let branch = Branch::parse(&body, level).map_err(wrong)?;
        branch.check_form(&body).map_err(wrong)?;
        if is_root && branch.len() == 1 {
            return Err(wrong("a root has more than one child"));
        }
        let mut from = low.to_vec();
        for i in 0..branch.len() {
            let wrong = |rule| broken(self.pages, at, rule);
            let to = if i + 1 < branch.len() { Some(branch.separator(i).map_err(wrong)?) } else { None };
            let end = to.as_deref().or(upper);
            // Separators ascend, so that the first one's and the last one's place is the place of all.
            if end.is_some_and(|end| *from >= *end) {
                return Err(wrong("separators lie within the bounds of their branch"));
            }
            self.node(branch.child(i), level - 1, false, &from, end)?;
            from = to.unwrap_or_default();
        }
        Ok(())
    }

    fn leaf(&mut self, at: PageRef, low: &[u8], upper: Option<&[u8]>) -> Result<(), PageError> {
        let page = self.pages.page(at, PageKind::Leaf)?;
        let stored = self.entries(page.bytes(), low, upper).map_err(|rule| broken(self.pages, at, rule))?;
        drop(page);
        stored.iter().try_for_each(|value| check_value(self.pages, value, self.each))
    }

    /// Looks at a leaf's entries; returns those values that lie in pages of their own.
    fn entries(&mut self, body: &[u8], low: &[u8], upper: Option<&[u8]>) -> Result<Vec<super::ValueRef>, Rule> {
        let leaf = Leaf::parse(body)?;
        leaf.check_form(body)?;
        let (first, last) = (leaf.key(0)?, leaf.key(leaf.len() - 1)?);
        if *first < *low || upper.is_some_and(|upper| *last >= *upper) {
            return Err("keys lie within the bounds of their leaf");
        }
        let mut stored = Vec::new();
        for i in 0..leaf.len() {
            let cell = leaf.cell(i)?;
            self.found.entries += 1;
            let key_len = leaf.prefix().len() + leaf.suffix(&cell).len();
            self.found.bytes += key_len as u64;
            match leaf.value(&cell)? {
                CellValue::Inline(bytes) if !is_inline(body.len(), key_len, bytes.len()) => {
                    return Err("a long value lies in pages of its own");
                }
                CellValue::Inline(bytes) => self.found.bytes += bytes.len() as u64,
                CellValue::Stored(value) => {
                    self.found.bytes += value.len;
                    stored.push(value);
                }
            }
        }
        Ok(stored)
    }
}
