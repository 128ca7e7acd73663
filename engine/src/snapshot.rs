//! What a reader sees: the pages of one checkpoint under at most two tables of newer commits.
//!
//! ```text
//! active   commits since the last freeze           newest wins
//! frozen   commits that a checkpoint is writing
//! root     pages: everything up to its commit      oldest
//! ```
//!
//! `Layers` never change. When a checkpoint is done, the same state can be said with fewer tables, and every open
//! view is moved over to it (`checkpoint::settle`), so that a reader holds pages on disk, not tables in memory.
//!
//! Invariants: `root.commit_no` <= every commit in `frozen` < every commit in `active`; a key's newest word is in
//! the uppermost layer that says anything about it, a tombstone included.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::btree::{self, CellValue, Found, TreeCursor, TreeRoot, ValueRef};
use crate::env::FileMap;
use crate::error::ReadError;
use crate::history::Twins;
use crate::limits::{VALUE_BYTES_MAX, WHOLE_VALUE_BYTES_MAX};
use crate::memtable::{Mem, MemCursor, MemEntry, MemValue};
use crate::pager::{Page, PageError, PageKind, PageRead, PageRef, Pages};

/// All trees as one checkpoint left them. Their pages are not written again while this lives.
pub(crate) struct Root {
    /// The sequence of the header that names these pages; of a spilled view, of the root it grew from.
    pub(crate) checkpoint: u64,
    /// The last commit that is in the pages.
    pub(crate) commit_no: u64,
    /// By tree number.
    pub(crate) trees: Vec<TreeRoot>,
    /// The tree that holds them on disk; empty for a spilled view.
    pub(crate) roots: TreeRoot,
    /// Which pages its header says are in use; none in a new file and for a spilled view.
    pub(crate) space: Option<PageRef>,
    pub(crate) pages: Arc<Pages>,
    pub(crate) map: Option<Arc<FileMap>>,
    /// Commits before this one may have gone out of the history of some tree.
    pub(crate) history_floor: u64,
}

impl Root {
    pub(crate) fn tree(&self, tree: u32) -> TreeRoot {
        self.trees.get(tree as usize).copied().unwrap_or_default()
    }
}

impl PageRead for Root {
    fn body_bytes(&self) -> usize {
        self.pages.body_bytes()
    }

    #[inline(always)]
    fn page(&self, at: PageRef, kind: PageKind) -> Result<Page<'_>, PageError> {
        self.pages.read(self.map.as_deref(), at, kind)
    }
}

/// A part of a value, taken where the value lies: copied, or where it can be read.
pub(crate) struct Part {
    len: usize,
    inline: Option<Bytes>,
    stored: Option<ValueRef>,
}

impl Part {
    /// Up to `room` bytes from `offset` on.
    pub(crate) fn of(value: Value<'_>, offset: u64, room: usize) -> Self {
        let len = value.len().saturating_sub(offset).min(room as u64) as usize;
        match value {
            Value::Inline(bytes) => {
                let inline = bytes.get(offset as usize..).map(|bytes| Bytes::copy_from_slice(&bytes[..len]));
                Self { len, inline, stored: None }
            }
            Value::Stored(at) => Self { len, inline: None, stored: Some(at) },
        }
    }

    /// Fills `out` with it, and returns how many bytes it has. `offset`, and the length of `out`, as before.
    pub(crate) fn read(self, root: &Root, offset: u64, out: &mut [u8]) -> Result<usize, PageError> {
        match (self.stored, self.inline) {
            // Behind the value's end there is nothing to look for.
            _ if self.len == 0 => {}
            (Some(at), _) => btree::read_value(root, &at, offset, &mut out[..self.len])?,
            (None, Some(bytes)) => out[..self.len].copy_from_slice(&bytes),
            (None, None) => {}
        }
        Ok(self.len)
    }
}

/// One state of all trees.
#[derive(Clone)]
pub(crate) struct Layers {
    pub(crate) root: Arc<Root>,
    pub(crate) frozen: Option<Arc<Mem>>,
    pub(crate) active: Arc<Mem>,
}

/// What a layer holds for a key.
pub(crate) enum Value<'v> {
    Inline(&'v [u8]),
    Stored(ValueRef),
}

impl Value<'_> {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Stored(at) => at.len,
        }
    }
}

/// Reads a whole value through `read`, if it is not too long for that.
pub(crate) fn load_value(
    len: u64,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), PageError>,
) -> Result<Bytes, ReadError> {
    if len > WHOLE_VALUE_BYTES_MAX {
        return Err(ReadError::ValueTooLong { given: len });
    }
    // Memory grows with pages read, not with what a cell claims.
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < len {
        let from = bytes.len();
        bytes.resize(len.min((from + VALUE_BYTES_MAX) as u64) as usize, 0);
        read(from as u64, &mut bytes[from..])?;
    }
    Ok(bytes.into())
}

impl Layers {
    /// What pages say, and nothing newer. `table_bytes`: what the table will hold; 0 for one that stays empty.
    pub(crate) fn of_pages(root: Arc<Root>, table_bytes: usize, twins: Option<Arc<Twins>>) -> Self {
        let active = Arc::new(Mem::empty_at(root.commit_no, table_bytes).with_twins(twins));
        Self { root, frozen: None, active }
    }

    pub(crate) fn commit_no(&self) -> u64 {
        self.active.commit_no
    }

    /// Returns what the tables say about a key, if they say anything.
    pub(crate) fn in_tables(&self, tree: u32, key: &[u8]) -> Option<MemEntry<'_>> {
        self.active.get(tree, key).or_else(|| self.frozen.as_ref()?.get(tree, key))
    }

    /// Hands a key's value to `see`, without copying it.
    pub(crate) fn with<R>(
        &self,
        tree: u32,
        key: &[u8],
        see: impl FnOnce(Value<'_>) -> R,
    ) -> Result<Option<R>, PageError> {
        if let Some(entry) = self.in_tables(tree, key) {
            return Ok(match entry.value() {
                MemValue::Put(bytes) => Some(see(Value::Inline(bytes))),
                MemValue::PutStored(at) => Some(see(Value::Stored(at))),
                MemValue::Deleted => None,
            });
        }
        Ok(btree::get(&*self.root, &self.root.tree(tree), key)?.map(|found| match found {
            Found::Inline(value) => see(Value::Inline(&value)),
            Found::Stored(at) => see(Value::Stored(at)),
        }))
    }

    /// Returns a key's value. One that lies in pages of its own is read whole, if it is not too long for that.
    pub(crate) fn get(&self, tree: u32, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        if let Some(entry) = self.in_tables(tree, key) {
            return match entry.value() {
                MemValue::Put(_) => Ok(Some(entry.value_bytes())),
                MemValue::PutStored(at) => self.load(&at).map(Some),
                MemValue::Deleted => Ok(None),
            };
        }
        match btree::get(&*self.root, &self.root.tree(tree), key)? {
            // Copied: a slice would pin a frame for as long as the caller likes.
            Some(Found::Inline(value)) => Ok(Some(Bytes::copy_from_slice(&value))),
            Some(Found::Stored(at)) => self.load(&at).map(Some),
            None => Ok(None),
        }
    }

    /// Returns whether the tables say anything about a key from `low` on and below `high`.
    pub(crate) fn tables_speak_of(&self, tree: u32, low: &[u8], high: Option<&[u8]>) -> bool {
        let speaks = |table: &Mem| {
            let mut cursor = table.cursor(tree);
            cursor.seek(Bound::Included(low));
            cursor.entry().is_some_and(|(key, _)| high.is_none_or(|high| key < high))
        };
        let has = |table: &&Arc<Mem>| table.has_tree(tree);
        [Some(&self.active), self.frozen.as_ref()].into_iter().flatten().filter(has).any(|table| speaks(table))
    }

    pub(crate) fn contains(&self, tree: u32, key: &[u8]) -> Result<bool, PageError> {
        Ok(self.with(tree, key, |_| ())?.is_some())
    }

    /// Reads a value that lies in pages of its own.
    pub(crate) fn load(&self, at: &ValueRef) -> Result<Bytes, ReadError> {
        load_value(at.len, |offset, out| btree::read_value(&*self.root, at, offset, out))
    }

    /// Returns whether two states hold the same value. What is put inline lies in pages of its own after a checkpoint,
    /// so the bytes are compared, up to what a put takes; two longer values are the same if their pages are.
    pub(crate) fn same_value(&self, a: Value<'_>, other: &Self, b: Value<'_>) -> Result<bool, ReadError> {
        if a.len() != b.len() {
            return Ok(false);
        }
        match (a, b) {
            (Value::Inline(a), Value::Inline(b)) => Ok(a == b),
            (Value::Stored(a), Value::Stored(b)) if a == b || a.len > VALUE_BYTES_MAX as u64 => Ok(a == b),
            (Value::Stored(a), Value::Stored(b)) => Ok(self.load(&a)? == other.load(&b)?),
            // As long as an inline value, so not too long to load.
            (Value::Inline(a), Value::Stored(b)) => Ok(a == other.load(&b)?),
            (Value::Stored(a), Value::Inline(b)) => Ok(self.load(&a)? == b),
        }
    }

    /// Returns how many keys a tree has: what the pages count, put right by a look-up in them for every key that the
    /// tables have of this tree: microseconds each, and a page from the disk where it is not in the cache.
    pub(crate) fn len(&self, tree: u32) -> Result<u64, PageError> {
        let root = self.root.tree(tree);
        let (mut more, mut fewer) = (0, 0);
        let mut walk = TableWalk::new(self, tree);
        while let Some((key, is_put)) = walk.next() {
            let was_there = btree::get(&*self.root, &root, key)?.is_some();
            more += u64::from(is_put && !was_there);
            fewer += u64::from(!is_put && was_there);
        }
        let len = root.entries.checked_add(more).and_then(|entries| entries.checked_sub(fewer));
        len.ok_or_else(|| {
            let no = root.page.map_or(0, |page| page.no);
            PageError::node(no, self.root.pages.page_bytes(), "the tree has another number of entries than it says")
        })
    }

    /// Returns the numbers of trees that may have keys.
    pub(crate) fn tree_count(&self) -> u32 {
        let tables = self.active.tree_count().max(self.frozen.as_ref().map_or(0, |f| f.tree_count()));
        tables.max(self.root.trees.len() as u32)
    }

    /// Returns the bytes of memory that the tables hold.
    pub(crate) fn table_bytes(&self) -> u64 {
        self.active.bytes() + self.frozen.as_ref().map_or(0, |f| f.bytes())
    }
}

/// Every key in the tables of a tree, once, and whether it has a value there.
struct TableWalk {
    active: MemCursor,
    frozen: Option<MemCursor>,
    started: bool,
    from: [bool; 2],
}

impl TableWalk {
    fn new(layers: &Layers, tree: u32) -> Self {
        let mut active = layers.active.cursor(tree);
        active.seek(Bound::Unbounded);
        let frozen = layers.frozen.as_ref().map(|f| {
            let mut cursor = f.cursor(tree);
            cursor.seek(Bound::Unbounded);
            cursor
        });
        Self { active, frozen, started: false, from: [false; 2] }
    }

    fn next(&mut self) -> Option<(&[u8], bool)> {
        if self.started {
            if self.from[0] {
                self.active.next();
            }
            if let (true, Some(frozen)) = (self.from[1], &mut self.frozen) {
                frozen.next();
            }
        }
        self.started = true;
        let a = self.active.entry().map(|(k, _)| k);
        let f = self.frozen.as_ref().and_then(MemCursor::entry).map(|(k, _)| k);
        self.from = match (a, f) {
            (None, None) => return None,
            (Some(_), None) => [true, false],
            (None, Some(_)) => [false, true],
            (Some(a), Some(f)) => [a <= f, f <= a],
        };
        let (key, entry) =
            if self.from[0] { self.active.entry()? } else { self.frozen.as_ref().and_then(MemCursor::entry)? };
        Some((key, !matches!(entry.value(), MemValue::Deleted)))
    }
}

/// A walk over one tree in one direction: three cursors, the newest of equal keys wins, tombstones hide.
pub(crate) struct Walk {
    backward: bool,
    pages: TreeCursor,
    frozen: Option<MemCursor>,
    active: MemCursor,
    /// A table's cursor stands on something. Where none does, no more keys come from tables, and a step is one of the
    /// pages' cursor alone.
    in_tables: bool,
    /// Which cursors stand on the current key.
    at: At,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    End,
    Key { active: bool, frozen: bool, pages: bool },
}

impl Walk {
    /// Stands on the first key at or after `bound`, going forward; on the last at or before it, going backward.
    pub(crate) fn new(layers: &Layers, tree: u32, bound: Bound<&[u8]>, backward: bool) -> Result<Self, PageError> {
        let mut walk = Self {
            backward,
            pages: TreeCursor::new(layers.root.tree(tree)),
            frozen: layers.frozen.as_ref().filter(|f| f.has_tree(tree)).map(|f| f.cursor(tree)),
            active: layers.active.cursor(tree),
            in_tables: true,
            at: At::End,
        };
        if backward {
            walk.pages.seek_back(&*layers.root, bound)?;
            walk.active.seek_back(bound);
            if let Some(frozen) = &mut walk.frozen {
                frozen.seek_back(bound);
            }
        } else {
            walk.pages.seek(&*layers.root, bound)?;
            walk.active.seek(bound);
            if let Some(frozen) = &mut walk.frozen {
                frozen.seek(bound);
            }
        }
        walk.settle(layers)?;
        Ok(walk)
    }

    #[inline]
    pub(crate) fn advance(&mut self, layers: &Layers) -> Result<(), PageError> {
        if self.in_tables {
            self.step(layers)?;
            return self.settle(layers);
        }
        if self.at != At::End {
            self.step_pages(layers)?;
            self.at = self.on_pages();
        }
        Ok(())
    }

    /// Goes on to the next key where that takes nothing but the copy of a leaf which the walk has: forward, in pages alone,
    /// within a leaf. Else it stays, and `advance` goes there.
    #[inline]
    pub(crate) fn advance_in_leaf(&mut self) -> bool {
        // `at` stays what it is: on a key of the pages alone.
        !self.in_tables && !self.backward && self.at != At::End && self.pages.next_in_leaf()
    }

    /// Returns where the value is that `advance_in_leaf` went to, if that is in pages of its own.
    #[inline]
    pub(crate) fn stored_in_leaf(&self) -> Option<ValueRef> {
        self.pages.stored()
    }

    #[inline]
    pub(crate) fn key(&self) -> Option<&[u8]> {
        match self.at {
            At::End => None,
            At::Key { active: true, .. } => self.active.entry().map(|(k, _)| k),
            At::Key { frozen: true, .. } => self.frozen.as_ref().and_then(MemCursor::entry).map(|(k, _)| k),
            At::Key { .. } => Some(self.pages.key()),
        }
    }

    /// Returns the value at the current key.
    #[inline]
    pub(crate) fn value(&self) -> Option<Value<'_>> {
        match self.at {
            At::End => None,
            At::Key { active: false, frozen: false, .. } => Some(match self.pages.value() {
                CellValue::Inline(bytes) => Value::Inline(bytes),
                CellValue::Stored(at) => Value::Stored(at),
            }),
            At::Key { .. } => match self.table_entry()?.value() {
                MemValue::Put(bytes) => Some(Value::Inline(bytes)),
                MemValue::PutStored(at) => Some(Value::Stored(at)),
                MemValue::Deleted => None,
            },
        }
    }

    /// Returns the value at the current key, without copying it where that is possible.
    pub(crate) fn value_bytes(&self, layers: &Layers) -> Result<Bytes, ReadError> {
        match self.value() {
            Some(Value::Stored(at)) => layers.load(&at),
            Some(Value::Inline(_)) => Ok(match self.table_entry() {
                Some(entry) => entry.value_bytes(),
                None => self.pages.value_bytes(),
            }),
            None => Ok(Bytes::new()),
        }
    }

    fn table_entry(&self) -> Option<MemEntry<'_>> {
        match self.at {
            At::Key { active: true, .. } => self.active.entry().map(|(_, e)| e),
            At::Key { frozen: true, .. } => self.frozen.as_ref().and_then(MemCursor::entry).map(|(_, e)| e),
            _ => None,
        }
    }

    #[inline]
    fn step_pages(&mut self, layers: &Layers) -> Result<(), PageError> {
        if self.backward { self.pages.prev(&*layers.root) } else { self.pages.next(&*layers.root) }
    }

    #[inline]
    fn on_pages(&self) -> At {
        match self.pages.entry() {
            Some(_) => At::Key { active: false, frozen: false, pages: true },
            None => At::End,
        }
    }

    /// Moves every cursor that stands on the current key.
    fn step(&mut self, layers: &Layers) -> Result<(), PageError> {
        let At::Key { active, frozen, pages } = self.at else { return Ok(()) };
        if pages {
            self.step_pages(layers)?;
        }
        for cursor in [active.then_some(&mut self.active), self.frozen.as_mut().filter(|_| frozen)] {
            match cursor {
                Some(cursor) if self.backward => cursor.prev(),
                Some(cursor) => cursor.next(),
                None => {}
            }
        }
        Ok(())
    }

    /// Finds the nearest key that has a value.
    fn settle(&mut self, layers: &Layers) -> Result<(), PageError> {
        loop {
            self.at = self.nearest();
            let deleted = self.table_entry().is_some_and(|entry| matches!(entry.value(), MemValue::Deleted));
            if !deleted {
                return Ok(());
            }
            self.step(layers)?;
        }
    }

    fn nearest(&mut self) -> At {
        let pages = self.pages.entry().map(|(k, _)| k);
        let active = self.active.entry().map(|(k, _)| k);
        let frozen = self.frozen.as_ref().and_then(MemCursor::entry).map(|(k, _)| k);
        if active.is_none() && frozen.is_none() {
            // For good: a cursor that came to its end stays there.
            self.in_tables = false;
            return self.on_pages();
        }
        let nearer = |a: Option<&[u8]>, b: Option<&[u8]>| match (a, b) {
            (Some(a), Some(b)) if self.backward => a > b,
            (Some(a), Some(b)) => a < b,
            (a, _) => a.is_some(),
        };
        let mut best = active;
        for other in [frozen, pages] {
            if nearer(other, best) {
                best = other;
            }
        }
        At::Key { active: active == best, frozen: frozen == best, pages: pages == best }
    }
}
