//! A sorted stream of edits makes a new tree out of an old one, in one pass from left to right.
//!
//! ```text
//! node     leaf: its entries, merged with the edits in its range, go to the builder of level 0
//!          branch: a child without edits goes to the builder of this level by reference; the others are a run
//! run      touched children of one branch that lie side by side: node by node into the builder below, which cuts
//!          what comes together into pages; each page goes to the builder of this level as a child
//! apply    is a run of the root alone; the levels above grow as long as more than one page is left
//! ```
//!
//! A node that its edits do not change is taken back out of the builder and stays. A node that alone has grown beyond a
//! page takes its untouched neighbour into the run, so that three pages stand where two were full, not two where one
//! was; so does a run of less than a third of a page. Runs are cut evenly, but for entries behind the last key: they
//! come in ascending order, and more will come, so pages there are filled up.
//!
//! Memory: per level one copy of a node and at most eight pages that wait in the builder, the rest is written. Keys
//! that a page shortens by their common beginning wait in full length.

use std::collections::BTreeSet;

use super::build::{Builder, WAITING_PAGES_MAX, separator};
use super::node::{Branch, CHILD_BYTES, CellValue, Leaf, Rule, decode_child, encode_child, encode_stored};
use super::value::{ValueWriter, release_value};
use super::{HEIGHT_MAX, PAGE_KEY_BYTES_MAX, TreeRoot, ValueRef, broken, is_inline};
use crate::pager::{PageError, PageKind, PageRef, PageWrite};

/// How full pages are made, in percent: some room is left, so that the next change need not cut again.
const FILL: usize = 90;
/// At the end of the tree, where keys come in ascending order, and in a tree that is built at once.
const FILL_AT_END: usize = 97;

/// What happens to a key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EditValue<'e> {
    Put(&'e [u8]),
    /// The value lies in pages already; from now on they belong to this tree.
    PutStored(ValueRef),
    Delete,
    /// Nothing; but the leaf in whose range the key is, is written anew.
    Touch,
}

/// A stream of edits. Keys ascend strictly.
pub(crate) trait Edits {
    /// Returns the edit it stands on.
    fn peek(&self) -> Option<(&[u8], EditValue<'_>)>;

    /// Goes on to the next one.
    fn advance(&mut self) -> Result<(), PageError>;
}

/// Applies edits to a tree; returns its new root. Releases the pages that the new tree does not share, and the pages
/// of stored values that were replaced or deleted. After an error, what was written belongs to no tree.
pub(crate) fn apply<W: PageWrite>(
    pages: &mut W,
    root: &TreeRoot,
    edits: &mut dyn Edits,
) -> Result<TreeRoot, PageError> {
    apply_keeping(pages, root, edits, &Kept::new())
}

/// Stored values that are another tree's from now on, by their top page.
pub(crate) type Kept = BTreeSet<u64>;

/// As `apply`, and leaves the pages of those stored values in use.
pub(crate) fn apply_keeping<W: PageWrite>(
    pages: &mut W,
    root: &TreeRoot,
    edits: &mut dyn Edits,
    kept: &Kept,
) -> Result<TreeRoot, PageError> {
    if edits.peek().is_none() {
        return Ok(*root);
    }
    let out = Out::new(pages, root.page.is_none());
    let mut rewrite = Rewrite { edits, kept, out, added: 0, removed: 0 };
    rewrite.root(root)
}

/// As `apply`, and fills pages by so many percent, wherever in the tree they are.
pub(super) fn apply_packed<W: PageWrite>(
    pages: &mut W,
    root: &TreeRoot,
    edits: &mut dyn Edits,
    fill: usize,
) -> Result<TreeRoot, PageError> {
    if edits.peek().is_none() {
        return Ok(*root);
    }
    let kept = Kept::new();
    let out = Out { fill_at_end: fill, ..Out::new(pages, true) };
    let mut rewrite = Rewrite { edits, kept: &kept, out, added: 0, removed: 0 };
    rewrite.root(root)
}

struct Rewrite<'r, W> {
    edits: &'r mut dyn Edits,
    kept: &'r Kept,
    out: Out<'r, W>,
    added: u64,
    removed: u64,
}

/// A node of the old tree: its keys are at or above `low` and below `upper`.
#[derive(Clone, Copy)]
struct Old<'k> {
    at: PageRef,
    level: u8,
    low: &'k [u8],
    upper: Option<&'k [u8]>,
}

impl<W: PageWrite> Rewrite<'_, W> {
    fn root(&mut self, root: &TreeRoot) -> Result<TreeRoot, PageError> {
        let mut level = root.height.saturating_sub(1);
        if let Some(at) = root.page {
            let changed = self.node(Old { at, level, low: &[], upper: None })?;
            if !changed {
                return Ok(*root);
            }
            self.out.pages.release(at.no);
        } else {
            self.append()?;
        }
        let at = root.page.unwrap_or(PageRef { no: 0, proof: 0 });
        let entries = root.entries.checked_add(self.added).and_then(|entries| entries.checked_sub(self.removed));
        let entries =
            entries.ok_or_else(|| broken(self.out.pages, at, "a tree has as many entries as its root says"))?;
        self.out.finish(level, 1)?;
        level += 1;
        while self.out.builder(level).pushed() > 1 {
            self.out.finish(level, 1)?;
            level += 1;
        }
        match self.out.builder(level).pop() {
            None => Ok(TreeRoot::default()),
            Some((_, child)) => {
                let (page, height) = self.out.lowest_root(child_of(&child), level)?;
                Ok(TreeRoot { page: Some(page), height, entries })
            }
        }
    }

    /// Puts a node with its edits into the builder of its level. False: they change nothing.
    fn node(&mut self, old: Old<'_>) -> Result<bool, PageError> {
        let kind = if old.level == 0 { PageKind::Leaf } else { PageKind::Branch };
        // A copy, because pages are written while it is read.
        let body = self.out.pages.page(old.at, kind)?.bytes().to_vec();
        if old.level == 0 { self.leaf(old, &body) } else { self.branch(old, &body) }
    }

    fn leaf(&mut self, old: Old<'_>, body: &[u8]) -> Result<bool, PageError> {
        let leaf = Leaf::parse(body).map_err(|rule| self.out.broken(old.at, rule))?;
        self.check_bounds(&leaf, &old).map_err(|rule| self.out.broken(old.at, rule))?;
        let mut changed = false;
        // Entries before it are dealt with.
        let mut i = 0;
        let mut room = body.len();
        while let Some((key, value)) = self.edits.peek().filter(|(key, _)| old.upper.is_none_or(|upper| *key < upper)) {
            let (to, found) = if i == leaf.len() { (i, false) } else { self.out.read(old.at, leaf.rank(key))? };
            self.out.push_entries(&leaf, i..to, old.at, &mut room)?;
            let now = if found {
                Some(self.out.read(old.at, leaf.cell(to).and_then(|cell| leaf.value(&cell)))?)
            } else {
                None
            };
            i = to.max(i) + usize::from(found);
            if is_same(now, value) {
                changed |= matches!(value, EditValue::Touch);
                if found {
                    self.out.push_entries(&leaf, to..i, old.at, &mut room)?;
                }
            } else {
                changed = true;
                self.removed += u64::from(found);
                self.added += u64::from(!matches!(value, EditValue::Delete));
                self.out.at_end |= to == leaf.len() && old.upper.is_none();
                if let Some(CellValue::Stored(now)) = now
                    && !self.kept.contains(&now.page.no)
                {
                    release_value(self.out.pages, &now)?;
                }
                self.out.put(key, value, old.at)?;
            }
            self.advance()?;
        }
        self.out.push_entries(&leaf, i..leaf.len(), old.at, &mut room)?;
        Ok(changed)
    }

    /// Checks the bounds of a leaf's keys. What lies between the first and the last one, the builder checks.
    fn check_bounds(&self, leaf: &Leaf<'_>, old: &Old<'_>) -> Result<(), Rule> {
        let last = leaf.key(leaf.len() - 1)?;
        if *leaf.key(0)? < *old.low || old.upper.is_some_and(|upper| *last >= *upper) {
            return Err("keys lie within the bounds of their leaf");
        }
        Ok(())
    }

    /// Goes on to the next edit. In release, the builder is who finds keys that do not ascend.
    fn advance(&mut self) -> Result<(), PageError> {
        if !cfg!(debug_assertions) {
            return self.edits.advance();
        }
        let last = self.edits.peek().map(|(key, _)| key.to_vec());
        self.edits.advance()?;
        let ascends = self.edits.peek().is_none_or(|(next, _)| last.is_some_and(|last| *next > *last));
        assert!(ascends, "edits come in ascending order, one for each key");
        Ok(())
    }

    /// Builds a tree of edits alone.
    fn append(&mut self) -> Result<(), PageError> {
        while let Some((key, value)) = self.edits.peek() {
            self.added += u64::from(!matches!(value, EditValue::Delete));
            self.out.put(key, value, PageRef { no: 0, proof: 0 })?;
            self.advance()?;
        }
        Ok(())
    }

    fn branch(&mut self, old: Old<'_>, body: &[u8]) -> Result<bool, PageError> {
        let branch = Branch::parse(body, old.level).map_err(|rule| self.out.broken(old.at, rule))?;
        let mark = self.out.builder(old.level).pushed();
        let mut room = body.len();
        let mut changed = false;
        let mut i = 0;
        while i < branch.len() {
            let touched = self.next_touched(&branch, &old)?.unwrap_or(branch.len());
            self.out.push_children(&branch, i..touched, &old, &mut room)?;
            // A child before this one is a lie of the heads: the run finds its edit out of bounds.
            i = touched.min(branch.len());
            if i < branch.len() {
                let end = self.run(&branch, i, &old, mark)?;
                changed |= end > i;
                if end == i {
                    // Its edits changed nothing.
                    self.out.push_children(&branch, i..i + 1, &old, &mut room)?;
                }
                i = end.max(i + 1);
            }
        }
        Ok(changed)
    }

    /// Returns the child whose range the next edit is in.
    fn next_touched(&self, branch: &Branch<'_>, old: &Old<'_>) -> Result<Option<usize>, PageError> {
        match self.edits.peek() {
            Some((key, _)) if old.upper.is_none_or(|upper| key < upper) => {
                self.out.read(old.at, branch.child_of(key)).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Rewrites children from `from` on, as long as they are touched, and a neighbour if they need one. Returns where
    /// the run ends: at `from` if there was nothing to rewrite. `mark`: where this branch begins in its builder.
    fn run(&mut self, branch: &Branch<'_>, from: usize, old: &Old<'_>, mark: usize) -> Result<usize, PageError> {
        let below = old.level - 1;
        let mut i = from;
        let mut count = 0;
        let mut took_neighbour = false;
        let run_low = self.out.low_of(branch, from, old)?;
        if below == 0 {
            self.out.low.clone_from(&run_low);
        }
        let mut low = run_low.clone();
        while i < branch.len() {
            let is_touched = self.next_touched(branch, old)? == Some(i);
            let takes_neighbour = !is_touched && !took_neighbour && self.out.wants_neighbour(below, count);
            if !is_touched && !takes_neighbour {
                break;
            }
            let next = if i + 1 < branch.len() { Some(self.out.low_of(branch, i + 1, old)?) } else { None };
            let upper = next.as_deref().or(old.upper);
            let in_bounds = |key: &[u8]| *key >= *low && upper.is_none_or(|upper| key < upper);
            if is_touched && !self.edits.peek().is_some_and(|(key, _)| in_bounds(key)) {
                return Err(self.out.broken(old.at, "a head is the beginning of its separator"));
            }
            let child = Old { at: branch.child(i), level: below, low: &low, upper };
            let before = self.out.builder(below).pushed();
            let changed = self.node(child)?;
            if !changed && !takes_neighbour && self.out.builder(below).truncate(before) {
                // Not part of the run. It may still become the neighbour that is taken.
                if count == 0 || self.next_touched(branch, old)? == Some(i) || !self.out.wants_neighbour(below, count) {
                    break;
                }
                continue;
            }
            took_neighbour |= takes_neighbour;
            self.out.pages.release(child.at.no);
            count += 1;
            i += 1;
            low = next.unwrap_or_default();
        }
        if count > 0 {
            if !took_neighbour && self.out.wants_neighbour(below, count) {
                count += usize::from(self.take_left(old.level, mark, &run_low)?);
            }
            self.out.finish(below, count)?;
        }
        Ok(i)
    }

    /// Takes the child before the run, which begins at `run_low`, into it, if the branch, which begins at `mark`, has
    /// one.
    fn take_left(&mut self, level: u8, mark: usize, run_low: &[u8]) -> Result<bool, PageError> {
        let parent = self.out.builder(level);
        if parent.pushed() <= mark {
            return Ok(false);
        }
        let Some((low, child)) = parent.pop() else { return Ok(false) };
        let at = child_of(&child);
        let later = self.out.builder(level - 1).take();
        if level == 1 {
            self.out.low.clone_from(&low);
        }
        self.node(Old { at, level: level - 1, low: &low, upper: Some(run_low) })?;
        self.out.pages.release(at.no);
        let appended = self.out.builder(level - 1).append(&later);
        self.out.read(at, appended)?;
        Ok(true)
    }
}

/// Whether a key has this value, or no value, already.
fn is_same(now: Option<CellValue<'_>>, edit: EditValue<'_>) -> bool {
    match (now, edit) {
        (None, EditValue::Delete) | (_, EditValue::Touch) => true,
        (Some(CellValue::Inline(now)), EditValue::Put(new)) => now == new,
        (Some(CellValue::Stored(now)), EditValue::PutStored(new)) => now == new,
        _ => false,
    }
}

/// Reads a child as a builder has it.
fn child_of(bytes: &[u8]) -> PageRef {
    let bytes: &[u8; CHILD_BYTES] = bytes.try_into().expect("a builder of branches has children only");
    decode_child(bytes)
}

/// Where the new tree is put together: a builder for each level.
struct Out<'r, W> {
    pages: &'r mut W,
    builders: Vec<Builder>,
    /// What the next page of a run is at or above; for the first one what it takes the place of was.
    low: Vec<u8>,
    /// Last key of the leaf that was written before, if one was written in this run.
    last_key: Vec<u8>,
    has_last: bool,
    /// The page that is written now.
    body: Vec<u8>,
    /// Entries come behind the last key of the tree.
    at_end: bool,
    /// How full pages are made then, in percent.
    fill_at_end: usize,
}

impl<'r, W: PageWrite> Out<'r, W> {
    fn new(pages: &'r mut W, at_end: bool) -> Self {
        Self {
            pages,
            builders: Vec::new(),
            low: Vec::new(),
            last_key: Vec::new(),
            has_last: false,
            body: Vec::new(),
            at_end,
            fill_at_end: FILL_AT_END,
        }
    }

    fn broken(&self, at: PageRef, rule: Rule) -> PageError {
        broken(self.pages, at, rule)
    }

    fn read<T>(&self, at: PageRef, read: Result<T, Rule>) -> Result<T, PageError> {
        read.map_err(|rule| self.broken(at, rule))
    }

    fn builder(&mut self, level: u8) -> &mut Builder {
        let body_bytes = self.pages.body_bytes();
        let limit = body_bytes * if self.at_end { self.fill_at_end } else { FILL } / 100;
        while self.builders.len() <= usize::from(level) {
            self.builders.push(Builder::new(self.builders.len() as u8, body_bytes, limit));
        }
        let builder = &mut self.builders[usize::from(level)];
        builder.set_limit(limit);
        builder
    }

    /// Takes entries over from an old leaf. `room`: what its cells may still take, for they do not overlap.
    fn push_entries(
        &mut self,
        leaf: &Leaf<'_>,
        entries: std::ops::Range<usize>,
        at: PageRef,
        room: &mut usize,
    ) -> Result<(), PageError> {
        for i in entries {
            let cell = self.read(at, leaf.cell(i))?;
            let left = room.checked_sub(cell.end - cell.key).ok_or("cells do not overlap");
            *room = self.read(at, left)?;
            let key = [leaf.prefix(), leaf.suffix(&cell)];
            let pushed = self.builder(0).push(key, leaf.raw_value(&cell), cell.stored);
            self.read(at, pushed)?;
            self.drain(0)?;
        }
        Ok(())
    }

    /// Keeps children of an old branch.
    fn push_children(
        &mut self,
        branch: &Branch<'_>,
        children: std::ops::Range<usize>,
        old: &Old<'_>,
        room: &mut usize,
    ) -> Result<(), PageError> {
        for i in children {
            let key = match i.checked_sub(1) {
                None => [old.low, &[]],
                Some(before) => [branch.prefix(), self.read(old.at, branch.suffix(before))?],
            };
            let left = room.checked_sub(if i == 0 { 0 } else { key[1].len() }).ok_or("cells do not overlap");
            *room = self.read(old.at, left)?;
            let pushed = self.builder(old.level).push(key, branch.raw_child(i), false);
            self.read(old.at, pushed)?;
            self.drain(old.level)?;
        }
        Ok(())
    }

    /// Returns what child i's keys are at or above.
    fn low_of(&self, branch: &Branch<'_>, i: usize, old: &Old<'_>) -> Result<Vec<u8>, PageError> {
        match i.checked_sub(1) {
            None => Ok(old.low.to_vec()),
            Some(before) => self.read(old.at, branch.separator(before)),
        }
    }

    /// Takes an edit's value, among the entries of the leaf `at`.
    fn put(&mut self, key: &[u8], value: EditValue<'_>, at: PageRef) -> Result<(), PageError> {
        assert!(key.len() <= PAGE_KEY_BYTES_MAX, "whoever takes a key in checks its length");
        let key = [key, &[]];
        let pushed = match value {
            EditValue::Delete | EditValue::Touch => return Ok(()),
            EditValue::Put(bytes) if is_inline(self.pages.body_bytes(), key[0].len(), bytes.len()) => {
                self.builder(0).push(key, bytes, false)
            }
            EditValue::Put(bytes) => {
                let mut writer = ValueWriter::new(&mut *self.pages);
                writer.push(bytes)?;
                let (stored, _) = writer.finish()?;
                self.builder(0).push(key, &encode_stored(&stored), true)
            }
            EditValue::PutStored(stored) => self.builder(0).push(key, &encode_stored(&stored), true),
        };
        // Edits are in order, so it is the old leaf's keys that are not.
        self.read(at, pushed)?;
        self.drain(0)
    }

    /// Writes the first pages of a builder in which too many wait.
    fn drain(&mut self, level: u8) -> Result<(), PageError> {
        if self.builders[usize::from(level)].waiting_pages() > WAITING_PAGES_MAX {
            let counts = self.builders[usize::from(level)].cut_windows();
            for &count in &counts[..WAITING_PAGES_MAX / 2] {
                self.write(level, count)?;
            }
        }
        Ok(())
    }

    /// Whether a run of `count` old nodes needs one more, to fill its pages.
    fn wants_neighbour(&mut self, level: u8, count: usize) -> bool {
        let full = self.pages.body_bytes();
        let at_end = self.at_end;
        let builder = self.builder(level);
        if count == 0 || builder.is_empty() || !builder.is_intact() || at_end {
            return false;
        }
        let bytes = builder.waiting_bytes();
        bytes < full / 3 || (count == 1 && bytes <= 2 * full && !builder.fits_one_page())
    }

    /// Writes what waits in a builder and took the place of `count` old nodes. The run is over.
    fn finish(&mut self, level: u8, count: usize) -> Result<(), PageError> {
        let full = self.pages.body_bytes();
        let at_end = self.at_end;
        let builder = self.builder(level);
        let bytes = builder.waiting_bytes();
        let pages = bytes.div_ceil(full * FILL / 100);
        let cut = if at_end && !builder.fits_one_page() {
            builder.cut_windows()
        } else if bytes.div_ceil(full) <= count {
            builder.cut_evenly(pages.min(count))
        } else {
            builder.cut_evenly(pages)
        };
        for count in cut {
            self.write(level, count)?;
        }
        self.builder(level).clear();
        self.has_last = false;
        Ok(())
    }

    /// Writes a page of the first `count` items of a builder; the page is a child one level up.
    fn write(&mut self, level: u8, count: usize) -> Result<(), PageError> {
        let builder = &self.builders[usize::from(level)];
        if level >= HEIGHT_MAX {
            return Err(self.broken(PageRef { no: 0, proof: 0 }, "a tree has at most 16 levels"));
        }
        let kind = if level == 0 { PageKind::Leaf } else { PageKind::Branch };
        let low = match (level, self.has_last) {
            (0, true) => separator(&self.last_key, builder.key(0)).to_vec(),
            (0, false) => self.low.clone(),
            _ => builder.key(0).to_vec(),
        };
        if level == 0 {
            self.last_key.clear();
            self.last_key.extend_from_slice(builder.key(count - 1));
            self.has_last = true;
        }
        builder.encode(count, &mut self.body);
        let page = self.pages.write(kind, &self.body)?;
        self.builders[usize::from(level)].take_front(count);
        let pushed = self.builder(level + 1).push([&low, &[]], &encode_child(page), false);
        self.read(page, pushed)?;
        self.drain(level + 1)
    }

    /// Goes down as long as there is a single child. A branch with one is a level for nothing.
    fn lowest_root(&mut self, mut at: PageRef, height: u8) -> Result<(PageRef, u8), PageError> {
        for level in (1..height).rev() {
            let page = self.pages.page(at, PageKind::Branch)?;
            let read = Branch::parse(page.bytes(), level).map(|branch| (branch.len(), branch.child(0)));
            drop(page);
            let (len, child) = self.read(at, read)?;
            if len > 1 {
                return Ok((at, level + 1));
            }
            self.pages.release(at.no);
            at = child;
        }
        Ok((at, 1))
    }
}
