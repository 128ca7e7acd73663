//! From the root to a key.

use std::ops::{Deref, Range};

use super::node::{Branch, CellValue, Leaf, Rule};
use super::{HEIGHT_MAX, TreeRoot, ValueRef};
use crate::pager::{PAGE_HEADER_BYTES, Page, PageError, PageKind, PageRead, PageRef};

/// A value that was found.
pub(crate) enum Found<'p> {
    /// In a leaf, which stays where it is as long as this lives.
    Inline(InlineValue<'p>),
    /// In pages of its own.
    Stored(ValueRef),
}

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

/// Names the page that breaks a rule.
#[cold]
pub(super) fn broken<P: PageRead>(pages: &P, at: PageRef, rule: Rule) -> PageError {
    PageError::node(at.no, pages.body_bytes() + PAGE_HEADER_BYTES, rule)
}

/// Returns the value of a key. Looks at one page per level.
#[inline]
pub(crate) fn get<'p, P: PageRead>(pages: &'p P, root: &TreeRoot, key: &[u8]) -> Result<Option<Found<'p>>, PageError> {
    let Some(mut at) = root.page else { return Ok(None) };
    for level in (1..root.height).rev() {
        at = child_for(pages, at, level, key)?;
    }
    let page = pages.page(at, PageKind::Leaf)?;
    let body = page.bytes();
    let found = Leaf::parse(body).and_then(|leaf| leaf.find(key)).map_err(|rule| broken(pages, at, rule))?;
    Ok(match found {
        None => None,
        Some(CellValue::Stored(value)) => Some(Found::Stored(value)),
        Some(CellValue::Inline(value)) => {
            // The slice came out of this body: its place in it is what it takes to look again.
            let start = value.as_ptr().addr() - body.as_ptr().addr();
            let range = start..start + value.len();
            Some(Found::Inline(InlineValue { page, range }))
        }
    })
}

#[inline]
fn child_for<P: PageRead>(pages: &P, at: PageRef, level: u8, key: &[u8]) -> Result<PageRef, PageError> {
    debug_assert!(level < HEIGHT_MAX, "a root's height is checked when it is read");
    let page = pages.page(at, PageKind::Branch)?;
    Branch::parse(page.bytes(), level)
        .and_then(|branch| branch.child_of(key).map(|i| branch.child(i)))
        .map_err(|rule| broken(pages, at, rule))
}
