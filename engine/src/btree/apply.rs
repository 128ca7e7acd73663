//! A sorted stream of edits makes a new tree out of an old one, in one pass.
//!
//! ```text
//! branch   for each child: does the next edit lie in its range?
//!            no    the child is kept, by reference
//!            yes   one level up from the leaves: the child and its touched neighbours are merged with the edits into
//!                  new leaves, as one run; higher up: the same question, one level down
//!          whose children changed is built anew, beside the old one, which is released
//! ```
//!
//! A run of leaves is spread evenly over as few pages as hold it. A run that needs one page more than it had takes in
//! the next untouched leaf, so that three pages stand where two were too few: pages stay fuller than by cutting one in
//! half. A leaf or branch below a third of a page is put together with a neighbour.
//!
//! Memory: the children of one branch per level, four pages of entries, one leaf.

use super::build::{Child, Fill, Leaves, branches};
use super::node::{Branch, CellValue, Leaf, Rule, STORED_BYTES, encode_stored};
use super::search::broken;
use super::value::{ValueWriter, release_value};
use super::{HEIGHT_MAX, TreeRoot, ValueRef, inline_max};
use crate::pager::{PageError, PageKind, PageRef, PageWrite};

/// What happens to a key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EditValue<'e> {
    Put(&'e [u8]),
    /// The value lies in pages already, which from here on belong to this tree.
    PutStored(ValueRef),
    Delete,
}

/// A stream of edits; keys ascend strictly.
pub(crate) trait Edits {
    /// Returns the next edit.
    fn peek(&self) -> Option<(&[u8], EditValue<'_>)>;

    /// Goes on to the one after it.
    fn advance(&mut self) -> Result<(), PageError>;
}

/// Applies edits to a tree; returns its new root. Pages that the new tree does not share are released, and those of
/// stored values that were replaced. After an error what was written is of no use.
pub(crate) fn apply<W: PageWrite>(
    pages: &mut W,
    root: &TreeRoot,
    edits: &mut dyn Edits,
) -> Result<TreeRoot, PageError> {
    if edits.peek().is_none() {
        return Ok(*root);
    }
    let mut rewrite = Rewrite { pages, edits, added: 0, removed: 0 };
    let (mut level, mut children) = match root.page {
        Some(page) if root.height > 1 => {
            let top = Child { low: Vec::new(), page, used: None };
            (root.height - 1, rewrite.branch(top, root.height - 1, None)?)
        }
        page => {
            let old = page.map(|page| Child { low: Vec::new(), page, used: None });
            (0, rewrite.single(old)?)
        }
    };
    let entries = (root.entries + rewrite.added).checked_sub(rewrite.removed).ok_or_else(|| {
        let at = root.page.unwrap_or(PageRef { no: 0, proof: 0 });
        broken(rewrite.pages, at, "a tree has as many entries as its root says")
    })?;
    while children.len() > 1 {
        level += 1;
        assert!(level < HEIGHT_MAX, "sixteen levels hold more than a file can");
        children = branches(rewrite.pages, level, &children)?;
    }
    let Some(mut page) = children.pop().map(|child| child.page) else { return Ok(TreeRoot::default()) };
    // A root with one child is a level for nothing.
    while level > 0 {
        let only = {
            let body = rewrite.pages.page(page, PageKind::Branch)?;
            let read = Branch::parse(body.bytes(), level).map(|branch| (branch.len(), branch.child(0)));
            read.map_err(|rule| broken(rewrite.pages, page, rule))?
        };
        if only.0 > 1 {
            break;
        }
        rewrite.pages.release(page.no);
        page = only.1;
        level -= 1;
    }
    Ok(TreeRoot { page: Some(page), height: level + 1, entries })
}

struct Rewrite<'r, W> {
    pages: &'r mut W,
    edits: &'r mut dyn Edits,
    added: u64,
    removed: u64,
}

impl<W: PageWrite> Rewrite<'_, W> {
    /// Whether the next edit is below `upper`.
    fn has_edit_below(&self, upper: Option<&[u8]>) -> bool {
        self.edits.peek().is_some_and(|(key, _)| upper.is_none_or(|upper| key < upper))
    }

    /// Returns the children of a branch, with their low keys.
    fn children(&self, of: &Child, level: u8) -> Result<Vec<Child>, PageError> {
        let page = self.pages.page(of.page, PageKind::Branch)?;
        let read = || {
            let branch = Branch::parse(page.bytes(), level)?;
            (0..branch.len())
                .map(|i| {
                    let low = if i == 0 { of.low.clone() } else { branch.separator(i - 1)? };
                    Ok(Child { low, page: branch.child(i), used: None })
                })
                .collect::<Result<Vec<_>, Rule>>()
        };
        let children = read().map_err(|rule| broken(self.pages, of.page, rule))?;
        // The first one's low key comes from above and may be cut short there; the others' are this page's own.
        if children.windows(2).skip(1).any(|pair| pair[0].low >= pair[1].low) {
            return Err(broken(self.pages, of.page, "separators ascend"));
        }
        Ok(children)
    }

    /// Applies the edits below `upper` to one branch; returns the branches that take its place, itself where nothing
    /// changed.
    fn branch(&mut self, old: Child, level: u8, upper: Option<&[u8]>) -> Result<Vec<Child>, PageError> {
        let children = self.children(&old, level)?;
        let uppers: Vec<Option<Vec<u8>>> =
            children.iter().skip(1).map(|c| Some(c.low.clone())).chain([upper.map(<[u8]>::to_vec)]).collect();
        let mut out = Vec::with_capacity(children.len() + 2);
        let mut changed = false;
        let mut rest = children.into_iter().zip(uppers).peekable();
        while let Some((child, upper)) = rest.next() {
            if !self.has_edit_below(upper.as_deref()) {
                out.push(child);
                continue;
            }
            let before = child.page;
            let new = if level > 1 {
                self.branch(child, level - 1, upper.as_deref())?
            } else {
                let last = rest.peek().is_none() && upper.is_none();
                let fill = if last { Fill::END } else { Fill::MIDDLE };
                self.run(child, upper, &mut rest, fill)?
            };
            changed |= new.len() != 1 || new[0].page != before;
            out.extend(new);
        }
        if !changed {
            return Ok(vec![old]);
        }
        self.merge_little(&mut out, level - 1)?;
        self.pages.release(old.page.no);
        branches(self.pages, level, &out)
    }

    /// Applies edits to a leaf and the touched ones behind it.
    fn run(
        &mut self,
        first: Child,
        first_upper: Option<Vec<u8>>,
        rest: &mut std::iter::Peekable<impl Iterator<Item = (Child, Option<Vec<u8>>)>>,
        fill: Fill,
    ) -> Result<Vec<Child>, PageError> {
        if !self.skip_idle(&first, first_upper.as_deref())? {
            return Ok(vec![first]);
        }
        let mut leaves = Leaves::new(self.pages.body_bytes(), fill, first.low.clone());
        self.merge(&first, first_upper.as_deref(), &mut leaves)?;
        let mut taken = 1;
        let mut stretched = false;
        while let Some((_, upper)) = rest.peek() {
            if !self.has_edit_below(upper.as_deref()) {
                let tight = leaves.pages() > taken && taken <= 4;
                if stretched || !(tight || leaves.is_little()) {
                    break;
                }
                stretched = true;
            }
            let (child, upper) = rest.next().expect("looked at just now");
            self.merge(&child, upper.as_deref(), &mut leaves)?;
            taken += 1;
        }
        leaves.finish(self.pages)
    }

    /// Passes over deletions of keys that a leaf does not have. False: nothing else is left for it.
    fn skip_idle(&mut self, leaf: &Child, upper: Option<&[u8]>) -> Result<bool, PageError> {
        let page = self.pages.page(leaf.page, PageKind::Leaf)?;
        // The stream cannot be looked at further ahead than one edit, so each is passed over as it comes.
        while let Some((key, EditValue::Delete)) =
            self.edits.peek().filter(|(key, _)| upper.is_none_or(|upper| *key < upper))
        {
            let found = Leaf::parse(page.bytes()).and_then(|leaf| leaf.find(key));
            if found.map_err(|rule| broken(self.pages, leaf.page, rule))?.is_some() {
                break;
            }
            self.edits.advance()?;
        }
        drop(page);
        Ok(self.has_edit_below(upper))
    }

    /// Merges an old leaf with the edits below `upper`, and releases it.
    fn merge(&mut self, old: &Child, upper: Option<&[u8]>, leaves: &mut Leaves) -> Result<(), PageError> {
        // A copy, because pages are written while it is read.
        let body = self.pages.page(old.page, PageKind::Leaf)?.bytes().to_vec();
        let leaf = Leaf::parse(&body).map_err(|rule| broken(self.pages, old.page, rule))?;
        let mut key = Vec::new();
        let mut before: Option<Vec<u8>> = None;
        for i in 0..leaf.len() {
            key.clear();
            let read = leaf.key_into(i, &mut key).and_then(|()| leaf.entry(i));
            let (_, value) = read.map_err(|rule| broken(self.pages, old.page, rule))?;
            if before.as_ref().is_some_and(|before| *before >= key) || upper.is_some_and(|upper| &key[..] >= upper) {
                return Err(broken(self.pages, old.page, "keys ascend, within the bounds of their leaf"));
            }
            while self.edits.peek().is_some_and(|(edit, _)| edit < &key[..]) {
                self.edit(leaves)?;
            }
            let replaced = self.edits.peek().is_some_and(|(edit, _)| edit == key);
            if replaced {
                self.removed += 1;
                if let CellValue::Stored(value) = value {
                    release_value(self.pages, &value)?;
                }
                self.edit(leaves)?;
            } else {
                self.keep(leaves, &key, value)?;
            }
            let spare = before.take().unwrap_or_default();
            before = Some(std::mem::replace(&mut key, spare));
        }
        while self.has_edit_below(upper) {
            self.edit(leaves)?;
        }
        self.pages.release(old.page.no);
        Ok(())
    }

    fn keep(&mut self, leaves: &mut Leaves, key: &[u8], value: CellValue<'_>) -> Result<(), PageError> {
        match value {
            CellValue::Inline(bytes) => leaves.push(self.pages, key, bytes, false),
            CellValue::Stored(value) => push_stored(self.pages, leaves, key, &value),
        }
    }

    /// Takes the next edit into the leaves.
    fn edit(&mut self, leaves: &mut Leaves) -> Result<(), PageError> {
        if let Some((key, value)) = self.edits.peek() {
            self.added += u64::from(!matches!(value, EditValue::Delete));
            match value {
                EditValue::Put(bytes) if bytes.len() <= inline_max(self.pages.body_bytes()) => {
                    leaves.push(self.pages, key, bytes, false)?;
                }
                EditValue::Put(bytes) => {
                    let mut writer = ValueWriter::new();
                    writer.push(self.pages, bytes)?;
                    let value = writer.finish(self.pages)?;
                    push_stored(self.pages, leaves, key, &value)?;
                }
                EditValue::PutStored(value) => push_stored(self.pages, leaves, key, &value)?,
                EditValue::Delete => {}
            }
        }
        self.edits.advance()
    }

    /// Applies edits to a tree that is one leaf, or none.
    fn single(&mut self, old: Option<Child>) -> Result<Vec<Child>, PageError> {
        if let Some(leaf) = old {
            return self.run(leaf, None, &mut std::iter::empty().peekable(), Fill::END);
        }
        let mut leaves = Leaves::new(self.pages.body_bytes(), Fill::END, Vec::new());
        while self.edits.peek().is_some() {
            self.edit(&mut leaves)?;
        }
        leaves.finish(self.pages)
    }

    /// Puts children that were built now and hold little together with a neighbour.
    fn merge_little(&mut self, children: &mut Vec<Child>, level: u8) -> Result<(), PageError> {
        let little = self.pages.body_bytes() / 3;
        let mut i = 0;
        while i < children.len() && children.len() > 1 {
            if children[i].used.is_none_or(|used| used >= little) {
                i += 1;
                continue;
            }
            let left = if i + 1 < children.len() { i } else { i - 1 };
            let pair: Vec<Child> = children.drain(left..left + 2).collect();
            let merged = if level == 0 { self.merge_leaves(&pair)? } else { self.merge_branches(&pair, level)? };
            let count = merged.len();
            children.splice(left..left, merged);
            i = left + count;
        }
        Ok(())
    }

    fn merge_leaves(&mut self, pair: &[Child]) -> Result<Vec<Child>, PageError> {
        let mut leaves = Leaves::new(self.pages.body_bytes(), Fill::MIDDLE, pair[0].low.clone());
        let mut key = Vec::new();
        for child in pair {
            let body = self.pages.page(child.page, PageKind::Leaf)?.bytes().to_vec();
            let leaf = Leaf::parse(&body).map_err(|rule| broken(self.pages, child.page, rule))?;
            for i in 0..leaf.len() {
                key.clear();
                let read = leaf.key_into(i, &mut key).and_then(|()| leaf.entry(i));
                let (_, value) = read.map_err(|rule| broken(self.pages, child.page, rule))?;
                self.keep(&mut leaves, &key, value)?;
            }
            self.pages.release(child.page.no);
        }
        leaves.finish(self.pages)
    }

    fn merge_branches(&mut self, pair: &[Child], level: u8) -> Result<Vec<Child>, PageError> {
        let mut children = self.children(&pair[0], level)?;
        children.extend(self.children(&pair[1], level)?);
        pair.iter().for_each(|child| self.pages.release(child.page.no));
        branches(self.pages, level, &children)
    }
}

fn push_stored<W: PageWrite>(
    pages: &mut W,
    leaves: &mut Leaves,
    key: &[u8],
    value: &ValueRef,
) -> Result<(), PageError> {
    let mut name = Vec::with_capacity(STORED_BYTES);
    encode_stored(value, &mut name);
    leaves.push(pages, key, &name, true)
}
