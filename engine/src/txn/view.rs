//! Reading at one commit.

use std::iter::FusedIterator;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::ReadError;
use crate::memtable::{Table, TableCursor};
use crate::store::Inner;
use crate::txn::{CATALOGUE, TreeId};

/// The store as it was at one commit; later commits do not change it. Cheap to clone. Old versions that it sees
/// stay in memory and count against the ceiling until it is dropped.
#[derive(Clone)]
pub struct ReadView {
    held: Arc<Held>,
}

struct Held {
    inner: Arc<Inner>,
    table: Arc<Table>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.inner.unregister_reader(self.table.commit_no);
    }
}

impl ReadView {
    pub(crate) fn new(inner: &Arc<Inner>) -> Self {
        let table = inner.register_reader();
        Self { held: Arc::new(Held { inner: Arc::clone(inner), table }) }
    }

    /// Returns the number of the commit this view shows.
    pub fn commit_no(&self) -> u64 {
        self.held.table.commit_no
    }

    /// Returns the tree of this name, if it existed at this commit.
    pub fn tree(&self, name: &str) -> Result<Option<TreeId>, ReadError> {
        let slot = self.held.table.get(CATALOGUE, name.as_bytes());
        Ok(slot.and_then(|slot| slot.record.value().try_into().ok()).map(|number| TreeId(u32::from_le_bytes(number))))
    }

    /// Returns the names of all trees, ascending by bytes.
    pub fn tree_names(&self) -> Result<Vec<String>, ReadError> {
        let names = TableCursor::new(&self.held.table, CATALOGUE, Bound::Unbounded, Bound::Unbounded);
        Ok(names.map(|r| String::from_utf8_lossy(r.key()).into_owned()).collect())
    }

    /// Returns the value of a key, without copying it.
    pub fn get(&self, tree: TreeId, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.held.inner.check_tree(tree)?;
        Ok(self.held.table.get(tree.0, key).map(|slot| slot.record.value_bytes()))
    }

    /// Returns whether a key has a value.
    pub fn contains(&self, tree: TreeId, key: &[u8]) -> Result<bool, ReadError> {
        self.held.inner.check_tree(tree)?;
        Ok(self.held.table.get(tree.0, key).is_some())
    }

    /// Returns how many keys a tree has.
    pub fn len(&self, tree: TreeId) -> Result<u64, ReadError> {
        Ok(self.held.table.tree_len(tree.0))
    }

    /// Returns whether a tree has no keys.
    pub fn is_empty(&self, tree: TreeId) -> Result<bool, ReadError> {
        Ok(self.len(tree)? == 0)
    }

    /// Walks the keys within bounds, from either end. The cursor keeps this view alive. A tree that this view
    /// does not have yet is empty.
    pub fn range(&self, tree: TreeId, bounds: impl RangeBounds<[u8]>) -> Cursor {
        let cursor = TableCursor::new(&self.held.table, tree.0, bounds.start_bound(), bounds.end_bound());
        Cursor { cursor, _view: self.clone() }
    }

    /// Walks the keys that begin with `prefix`.
    pub fn prefix(&self, tree: TreeId, prefix: &[u8]) -> Cursor {
        let end = prefix_end(prefix);
        self.range(tree, (Bound::Included(prefix), end.as_deref().map_or(Bound::Unbounded, Bound::Excluded)))
    }

    pub(crate) fn table(&self) -> &Arc<Table> {
        &self.held.table
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.held.inner
    }
}

impl std::fmt::Debug for ReadView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadView").field("commit_no", &self.commit_no()).finish_non_exhaustive()
    }
}

/// The first key after all keys that begin with `prefix`; `None` when there is no such key.
pub(crate) fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&b| b != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// Keys and values in order, from either end; the ends close in on each other. An error is the last item.
pub struct Cursor {
    cursor: TableCursor,
    _view: ReadView,
}

impl Iterator for Cursor {
    type Item = Result<(Bytes, Bytes), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.cursor.next_slot().map(|s| Ok((s.record.key_bytes(), s.record.value_bytes())))
    }
}

impl DoubleEndedIterator for Cursor {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.cursor.next_slot_back().map(|s| Ok((s.record.key_bytes(), s.record.value_bytes())))
    }
}

impl FusedIterator for Cursor {}
