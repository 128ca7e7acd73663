//! Proves a tree: every page of it is read, every rule looked at.

use super::node::{Branch, CellValue, Leaf};
use super::search::broken;
use super::value::value_pages;
use super::{HEIGHT_MAX, TreeRoot};
use crate::pager::{PageError, PageKind, PageRead, PageRef};

/// What was found in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) entries: u64,
    /// Bytes of keys and values.
    pub(crate) bytes: u64,
}

/// Walks a tree, its stored values included, and calls `each` with the number of every page.
pub(crate) fn check<P: PageRead>(pages: &P, root: &TreeRoot, each: &mut dyn FnMut(u64)) -> Result<Checked, PageError> {
    let mut walk = Walk { pages, each, found: Checked::default() };
    let Some(page) = root.page else { return Ok(walk.found) };
    if !(1..=HEIGHT_MAX).contains(&root.height) {
        return Err(broken(pages, page, "a tree's height is within the limits"));
    }
    walk.node(page, root.height - 1, None, None)?;
    if walk.found.entries != root.entries {
        return Err(broken(pages, page, "a tree has as many entries as its root says"));
    }
    Ok(walk.found)
}

struct Walk<'w, P> {
    pages: &'w P,
    each: &'w mut dyn FnMut(u64),
    found: Checked,
}

impl<P: PageRead> Walk<'_, P> {
    fn node(&mut self, at: PageRef, level: u8, low: Option<&[u8]>, high: Option<&[u8]>) -> Result<(), PageError> {
        (self.each)(at.no);
        if level == 0 {
            return self.leaf(at, low, high);
        }
        let wrong = |rule| broken(self.pages, at, rule);
        let (children, separators) = {
            let page = self.pages.page(at, PageKind::Branch)?;
            let branch = Branch::parse(page.bytes(), level).map_err(wrong)?;
            let children: Vec<PageRef> = (0..branch.len()).map(|i| branch.child(i)).collect();
            let separators: Result<Vec<_>, _> = (1..branch.len()).map(|i| branch.separator(i - 1)).collect();
            let separators = separators.map_err(wrong)?;
            // What is found by searching must be what stands there.
            for (i, separator) in separators.iter().enumerate() {
                if branch.child_of(separator).map_err(wrong)? != i + 1 {
                    return Err(wrong("a head is the beginning of its separator"));
                }
            }
            (children, separators)
        };
        if separators.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(wrong("separators ascend"));
        }
        let outside =
            |key: &Vec<u8>| low.is_some_and(|low| &key[..] <= low) || high.is_some_and(|high| &key[..] >= high);
        if separators.iter().any(outside) {
            return Err(wrong("separators are within the bounds of their branch"));
        }
        for (i, &child) in children.iter().enumerate() {
            let low = if i == 0 { low } else { Some(&separators[i - 1][..]) };
            let high = separators.get(i).map(Vec::as_slice).or(high);
            self.node(child, level - 1, low, high)?;
        }
        Ok(())
    }

    fn leaf(&mut self, at: PageRef, low: Option<&[u8]>, high: Option<&[u8]>) -> Result<(), PageError> {
        let wrong = |rule| broken(self.pages, at, rule);
        let page = self.pages.page(at, PageKind::Leaf)?;
        let leaf = Leaf::parse(page.bytes()).map_err(wrong)?;
        let mut before: Option<Vec<u8>> = None;
        for i in 0..leaf.len() {
            let mut key = Vec::new();
            leaf.key_into(i, &mut key).map_err(wrong)?;
            let (_, value) = leaf.entry(i).map_err(wrong)?;
            let inside = low.is_none_or(|low| low <= &key[..]) && high.is_none_or(|high| &key[..] < high);
            if !inside || before.as_ref().is_some_and(|before| *before >= key) {
                return Err(wrong("keys ascend, within the bounds of their leaf"));
            }
            if leaf.count_to(&key, false).map_err(wrong)? != i {
                return Err(wrong("a head is the beginning of its key"));
            }
            self.found.entries += 1;
            self.found.bytes += key.len() as u64;
            match value {
                CellValue::Inline(bytes) => self.found.bytes += bytes.len() as u64,
                CellValue::Stored(value) => {
                    self.found.bytes += value.len;
                    value_pages(self.pages, &value, self.each)?;
                }
            }
            before = Some(key);
        }
        Ok(())
    }
}
