//! From the root to a key: one page per level.

use std::ops::{Deref, Range};

use super::node::{Branch, Leaf, decode_stored};
use super::{HEIGHT_MAX, TreeRoot, ValueRef, broken};
use crate::pager::{Page, PageError, PageKind, PageRead, PageRef};

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

/// As `get`, for whoever writes or checks: `get` is fast because it has one kind of pages, and all of it is in one piece.
pub(crate) fn look_up<'p, P: PageRead>(
    pages: &'p P,
    root: &TreeRoot,
    key: &[u8],
) -> Result<Option<Found<'p>>, PageError> {
    let is_it = |[start, end]: [&[u8]; 2]| key.strip_prefix(start).filter(|rest| *rest == end).map(|_| ());
    Ok(at_or_after(pages, root, key, is_it)?.map(|((), found)| found))
}

/// Returns the first entry at or after a key, if it is `wanted`: what that says of its key, which comes in two pieces, as
/// pages have it; and its value.
pub(crate) fn at_or_after<'p, P: PageRead, R>(
    pages: &'p P,
    root: &TreeRoot,
    key: &[u8],
    wanted: impl Fn([&[u8]; 2]) -> Option<R>,
) -> Result<Option<(R, Found<'p>)>, PageError> {
    let Some(mut at) = root.page else { return Ok(None) };
    // The lowest branch in which something follows: its level, itself, the child that was taken.
    let mut turn = None;
    let mut level = root.height.clamp(1, HEIGHT_MAX) - 1;
    let mut is_first = false;
    loop {
        while level > 0 {
            let page = pages.page(at, PageKind::Branch)?;
            let taken = Branch::parse(page.bytes(), level).and_then(|branch| {
                let child = if is_first { 0 } else { branch.child_of(key)? };
                Ok((child, branch.child(child), child + 1 < branch.len()))
            });
            let (child, below, follows) = taken.map_err(|rule| broken(pages, at, rule))?;
            if follows && !is_first {
                turn = Some((level, at, child));
            }
            at = below;
            level -= 1;
        }
        let page = pages.page(at, PageKind::Leaf)?;
        let found = Leaf::parse(page.bytes()).and_then(|leaf| {
            let i = if is_first { 0 } else { leaf.rank(key)?.0 };
            if i == leaf.len() {
                return Ok(None);
            }
            let cell = leaf.cell(i)?;
            Ok(Some((wanted([leaf.prefix(), leaf.suffix(&cell)]), cell)))
        });
        if let Some((said, cell)) = found.map_err(|rule| broken(pages, at, rule))? {
            let Some(said) = said else { return Ok(None) };
            let value = if cell.stored {
                let value = decode_stored(&page.bytes()[cell.value..cell.end]);
                Found::Stored(value.map_err(|rule| broken(pages, at, rule))?)
            } else {
                Found::Inline(InlineValue { page, range: cell.value..cell.end })
            };
            return Ok(Some((said, value)));
        }
        // The key lies between this leaf's last one and the next leaf's first one.
        let Some((its_level, branch, child)) = turn.take() else { return Ok(None) };
        at = next_child(pages, branch, its_level, child + 1)?;
        level = its_level - 1;
        is_first = true;
    }
}

#[cold]
fn next_child<P: PageRead>(pages: &P, at: PageRef, level: u8, child: usize) -> Result<PageRef, PageError> {
    let page = pages.page(at, PageKind::Branch)?;
    let branch = Branch::parse(page.bytes(), level).map_err(|rule| broken(pages, at, rule))?;
    Ok(branch.child(child))
}

/// Where a leaf is, and which keys it is for.
pub(crate) struct LeafPlace {
    /// `None`: the tree is empty.
    pub(crate) page: Option<PageRef>,
    pub(crate) low: Vec<u8>,
    /// `None`: no key is too high.
    pub(crate) high: Option<Vec<u8>>,
}

/// Returns the leaf that has `key` if any has. Reads branches only.
pub(crate) fn leaf_of<P: PageRead>(pages: &P, root: &TreeRoot, key: &[u8]) -> Result<LeafPlace, PageError> {
    let mut place = LeafPlace { page: root.page, low: Vec::new(), high: None };
    let Some(mut at) = root.page else { return Ok(place) };
    for level in (1..root.height).rev() {
        let page = pages.page(at, PageKind::Branch)?;
        let step = Branch::parse(page.bytes(), level).and_then(|branch| {
            let i = branch.child_of(key)?;
            if i > 0 {
                place.low = branch.separator(i - 1)?;
            }
            if i + 1 < branch.len() {
                place.high = Some(branch.separator(i)?);
            }
            Ok(branch.child(i))
        });
        at = step.map_err(|rule| broken(pages, at, rule))?;
        place.page = Some(at);
    }
    // Separators are not compared when they are read, and whoever walks from bound to bound must come to an end.
    if place.high.as_deref().is_some_and(|high| high <= key) || *place.low > *key {
        return Err(broken(pages, at, "separators lie within the bounds of their branch"));
    }
    Ok(place)
}
