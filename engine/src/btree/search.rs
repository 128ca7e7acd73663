//! From the root to a key: one page per level.

use std::ops::{Deref, Range};

use super::node::{Branch, Leaf, decode_stored};
use super::{TreeRoot, ValueRef, broken};
use crate::pager::{Page, PageError, PageKind, PageRead};

/// A value that was found.
pub(crate) enum Found<'p> {
    /// In a leaf, which stays where it is as long as this lives.
    Inline(InlineValue<'p>),
    /// In pages of its own.
    Stored(ValueRef),
}

/// Bytes of a value, where they lie in a leaf.
pub(crate) struct InlineValue<'p> {
    page: Page<'p>,
    range: Range<usize>,
}

impl Deref for InlineValue<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.page.bytes()[self.range.clone()]
    }
}

/// Returns the value of a key.
#[inline]
pub(crate) fn get<'p, P: PageRead>(pages: &'p P, root: &TreeRoot, key: &[u8]) -> Result<Option<Found<'p>>, PageError> {
    let Some(mut at) = root.page else { return Ok(None) };
    for level in (1..root.height).rev() {
        let page = pages.page(at, PageKind::Branch)?;
        let child = Branch::parse(page.bytes(), level).and_then(|branch| Ok(branch.child(branch.child_of(key)?)));
        at = child.map_err(|rule| broken(pages, at, rule))?;
    }
    let page = pages.page(at, PageKind::Leaf)?;
    let found = Leaf::parse(page.bytes()).and_then(|leaf| leaf.find(key)).map_err(|rule| broken(pages, at, rule))?;
    match found {
        None => Ok(None),
        Some(cell) if cell.stored => {
            let value = decode_stored(&page.bytes()[cell.value..cell.end]);
            value.map(|value| Some(Found::Stored(value))).map_err(|rule| broken(pages, at, rule))
        }
        Some(cell) => Ok(Some(Found::Inline(InlineValue { page, range: cell.value..cell.end }))),
    }
}
