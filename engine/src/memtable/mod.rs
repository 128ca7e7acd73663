//! The newest word on every key since the last checkpoint, deletions included: one persistent B+tree per tree.
//!
//! Why persistent, and not a map of version chains behind a lock: a snapshot is one reference count, a reader never
//! takes a lock while it reads, and versions nobody can see vanish with their last reference, without a collector.
//! The price is that the first change of a leaf after a publication copies its path; so a leaf is two allocations of a
//! few kilobytes, and copying it is copying memory (`leaf`).
//!
//! `Mem` is all trees at one commit. Cloning it copies one pointer per tree. Nodes are shared by `Arc` and changed in
//! place only while nobody else holds them, which is what makes a large batch cheap.
//!
//! Invariants: every key is in exactly one leaf; keys ascend; an entry knows the commit that wrote it; `bytes` is the
//! sum of what this version's nodes hold, as if it shared none of them.

mod cursor;
mod filter;
mod leaf;
mod node;

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::btree::ValueRef;
pub(crate) use cursor::MemCursor;
use filter::Filter;
use leaf::{BIG_VALUE_BYTES_MIN, Leaf, New, head_of};
use node::Node;

/// What a table says about a key.
#[derive(Clone, Copy)]
pub(crate) enum MemValue<'m> {
    /// It has this value.
    Put(&'m [u8]),
    /// Its value lies in pages of its own.
    PutStored(ValueRef),
    /// It has none, whatever older layers say.
    Deleted,
}

pub(crate) struct MemEntry<'m> {
    value: MemValue<'m>,
    commit_no: u64,
    /// The value where it is shared.
    shared: Option<&'m Bytes>,
}

impl<'m> MemEntry<'m> {
    pub(crate) fn value(&self) -> MemValue<'m> {
        self.value
    }

    /// Returns the commit that wrote it.
    pub(crate) fn commit_no(&self) -> u64 {
        self.commit_no
    }
}

/// All trees at one commit.
#[derive(Clone)]
pub(crate) struct Mem {
    pub(crate) commit_no: u64,
    trees: Vec<Option<Arc<Node>>>,
    bytes: u64,
    entries: u64,
    filter: Option<Filter>,
    /// Stored values that later commits of this table replaced: no page names them.
    superseded: Arc<Vec<ValueRef>>,
    /// Bytes of stored values that were put, superseded ones included.
    stored_bytes: u64,
}

impl Mem {
    /// An empty table that will hold about `budget_bytes`; 0 for one that stays empty.
    pub(crate) fn new(budget_bytes: usize) -> Self {
        Self {
            commit_no: 0,
            trees: Vec::new(),
            bytes: 0,
            entries: 0,
            filter: (budget_bytes > 0).then(|| Filter::new(budget_bytes)),
            superseded: Arc::default(),
            stored_bytes: 0,
        }
    }

    /// Returns what the table says about a key; `None` where it says nothing.
    pub(crate) fn get(&self, tree: u32, key: &[u8]) -> Option<MemEntry<'_>> {
        let mut node = self.root(tree)?;
        if let Some(filter) = &self.filter
            && !filter.may_hold(filter::hash(tree, key))
        {
            return None;
        }
        let head = head_of(key);
        loop {
            match &**node {
                Node::Leaf(leaf) => return leaf.find(head, key).ok().map(|at| leaf.entry(at)),
                Node::Branch(branch) => node = &branch.children[branch.child_of(head, key)],
            }
        }
    }

    /// Puts a value.
    pub(crate) fn put(&mut self, tree: u32, key: &[u8], value: &[u8], commit_no: u64) {
        self.insert(tree, key, New::Inline(value), commit_no);
    }

    /// Puts a value, sharing it where it is long.
    pub(crate) fn put_bytes(&mut self, tree: u32, key: &[u8], value: Bytes, commit_no: u64) {
        if value.len() < BIG_VALUE_BYTES_MIN {
            self.insert(tree, key, New::Inline(&value), commit_no);
        } else {
            self.insert(tree, key, New::Shared(value), commit_no);
        }
    }

    /// Puts a value that lies in pages of its own.
    pub(crate) fn put_stored(&mut self, tree: u32, key: &[u8], value: ValueRef, commit_no: u64) {
        self.stored_bytes = self.stored_bytes.saturating_add(value.len);
        self.insert(tree, key, New::Stored(value), commit_no);
    }

    /// Notes that a key has no value.
    pub(crate) fn delete(&mut self, tree: u32, key: &[u8], commit_no: u64) {
        self.insert(tree, key, New::Deleted, commit_no);
    }

    fn insert(&mut self, tree: u32, key: &[u8], new: New<'_>, commit_no: u64) {
        let index = tree as usize;
        if index >= self.trees.len() {
            self.trees.resize(index + 1, None);
        }
        if let Some(filter) = &self.filter {
            filter.add(filter::hash(tree, key));
        }
        let mut grown = 0;
        let root = self.trees[index].get_or_insert_with(|| {
            let leaf = Node::Leaf(Leaf::default());
            grown += leaf.bytes() as i64;
            Arc::new(leaf)
        });
        let inserted = node::insert(root, head_of(key), key, new, commit_no);
        grown += inserted.grown;
        if let Some(split) = inserted.split {
            grown += node::grow(root, split) as i64;
        }
        self.bytes = self.bytes.checked_add_signed(grown).expect("a node never shrinks by more than it counted");
        self.entries += u64::from(inserted.put.is_new);
        if let Some(stored) = inserted.put.stored {
            Arc::make_mut(&mut self.superseded).push(stored);
        }
    }

    /// Returns the bytes of memory that this version's nodes and values take; what it shares with other versions
    /// counts in each.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the bytes of the filter, which all versions of a table share.
    #[cfg(test)]
    pub(crate) fn filter_bytes(&self) -> usize {
        self.filter.as_ref().map_or(0, Filter::bytes)
    }

    /// Returns how many keys the table says something about.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Returns the numbers of the trees that the table says something about, ascending.
    pub(crate) fn trees(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.trees).filter(|(_, root)| root.is_some()).map(|(tree, _)| tree)
    }

    pub(crate) fn has_tree(&self, tree: u32) -> bool {
        self.root(tree).is_some()
    }

    /// Returns the first number above all trees that the table says something about.
    pub(crate) fn tree_count(&self) -> u32 {
        self.trees.len() as u32
    }

    /// Returns the bytes of stored values that were put into this table, superseded ones included.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// Returns the stored values that keys have. Walks the whole table, unless nothing stored was ever put.
    pub(crate) fn stored(&self) -> impl Iterator<Item = ValueRef> {
        let trees = self.trees().filter(|_| self.stored_bytes > 0);
        trees.flat_map(|tree| {
            let mut cursor = self.cursor(tree);
            cursor.seek(Bound::Unbounded);
            std::iter::from_fn(move || {
                loop {
                    let value = match cursor.entry()?.1.value() {
                        MemValue::PutStored(at) => Some(at),
                        MemValue::Put(_) | MemValue::Deleted => None,
                    };
                    cursor.next();
                    if value.is_some() {
                        return value;
                    }
                }
            })
        })
    }

    /// Forgets stored values that no key has any more. After a replay nobody has claimed their pages: they are free.
    pub(crate) fn forget_superseded(&mut self) {
        self.superseded = Arc::default();
    }

    /// Returns stored values that no key has any more.
    pub(crate) fn superseded_stored(&self) -> impl Iterator<Item = ValueRef> {
        self.superseded.iter().copied()
    }

    /// Returns a cursor, which stands at the end until it is sent somewhere.
    pub(crate) fn cursor(&self, tree: u32) -> MemCursor {
        MemCursor::new(self.root(tree).cloned())
    }

    fn root(&self, tree: u32) -> Option<&Arc<Node>> {
        self.trees.get(tree as usize)?.as_ref()
    }
}

#[cfg(test)]
mod tests;
