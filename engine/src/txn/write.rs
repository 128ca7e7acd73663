//! Writing: a view, and changes on top of it that nobody else sees before they are committed.

use std::iter::FusedIterator;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{CommitError, HookError, ReadError, WriteError};
use crate::memtable::{Record, Table, TableCursor};
use crate::store::Inner;
use crate::txn::commit::{CommitInfo, Durability};
use crate::txn::view::prefix_end;
use crate::txn::write_set::{Effect, WriteRange, WriteSet};
use crate::txn::{ReadView, TreeId};

/// An optimistic transaction: it never waits for another one, and may lose to one at its commit. Dropping it
/// aborts it.
pub struct WriteTransaction {
    pub(crate) view: ReadView,
    pub(crate) writes: WriteSet,
    pub(crate) checked: Vec<(u32, Bytes)>,
    pub(crate) label: u32,
}

impl WriteTransaction {
    pub(crate) fn new(inner: &Arc<Inner>) -> Self {
        Self { view: ReadView::new(inner), writes: WriteSet::default(), checked: Vec::new(), label: 0 }
    }

    /// Returns the tree of this name; it exists from the commit of this transaction on, if it did not before.
    pub fn tree(&mut self, name: &str) -> Result<TreeId, WriteError> {
        let number = self.view.inner().names.reserve(name)?;
        self.writes.touch(number);
        Ok(TreeId(number))
    }

    /// Returns the commit this transaction's snapshot shows.
    pub fn snapshot_commit_no(&self) -> u64 {
        self.view.commit_no()
    }

    /// Returns a key's value: this transaction's own, else its snapshot's.
    pub fn get(&self, tree: TreeId, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.view.inner().check_tree(tree)?;
        Ok(lookup(&self.writes, self.view.table(), tree, key))
    }

    /// Like `get`, and the commit fails with `Conflict` if another transaction writes the key in between.
    pub fn read_checked(&mut self, tree: TreeId, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        let value = self.get(tree, key)?;
        self.checked.push((tree.0, Bytes::copy_from_slice(key)));
        Ok(value)
    }

    /// Walks the keys within bounds, own writes included.
    pub fn range(&self, tree: TreeId, bounds: impl RangeBounds<[u8]>) -> TransactionCursor<'_> {
        TransactionCursor::new(&self.writes, self.view.table(), tree, bounds.start_bound(), bounds.end_bound())
    }

    /// Walks the keys that begin with `prefix`, own writes included.
    pub fn prefix(&self, tree: TreeId, prefix: &[u8]) -> TransactionCursor<'_> {
        let end = prefix_end(prefix);
        self.range(tree, (Bound::Included(prefix), end.as_deref().map_or(Bound::Unbounded, Bound::Excluded)))
    }

    /// Puts a value.
    pub fn put(&mut self, tree: TreeId, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        self.put_pieces(tree, key, &[value])
    }

    /// Puts the concatenation of `pieces`. A piece of 48 bytes or more that another value of this transaction
    /// holds as a piece, too, is written to the log once: give the row's bytes as a piece of their own both in
    /// the record and in the operation.
    pub fn put_pieces(&mut self, tree: TreeId, key: &[u8], pieces: &[&[u8]]) -> Result<(), WriteError> {
        self.view.inner().check_tree(tree).map_err(|_| WriteError::UnknownTree(tree))?;
        self.writes.put(tree.0, key, pieces)
    }

    /// Deletes a key; one that has no value is no error.
    pub fn delete(&mut self, tree: TreeId, key: &[u8]) -> Result<(), WriteError> {
        self.view.inner().check_tree(tree).map_err(|_| WriteError::UnknownTree(tree))?;
        self.writes.delete(tree.0, key)
    }

    /// Sets a number that is logged with the commit and given to the change feed, for its origin for example.
    /// Default 0.
    pub fn label(&mut self, label: u32) {
        self.label = label;
    }

    /// Returns the bytes of keys and values that this transaction holds.
    pub fn bytes(&self) -> usize {
        self.writes.bytes()
    }

    /// Commits durably: when this returns `Ok`, the commit survives a power cut.
    pub fn commit(self) -> Result<CommitInfo, CommitError> {
        self.commit_with(Durability::Durable, |_| Ok(()))
    }

    /// Commits, calling `hook` in the serial section: no other commit happens between what the hook reads and
    /// this commit. The hook must be short and must not touch the store but through `Serial`. Its error aborts
    /// the transaction and leaves no trace. The commit itself may still fail after the hook returned `Ok`: what
    /// the hook keeps outside the store must be read from the store again then.
    pub fn commit_with(
        self,
        durability: Durability,
        hook: impl FnOnce(&mut Serial<'_>) -> Result<(), HookError>,
    ) -> Result<CommitInfo, CommitError> {
        let inner = Arc::clone(self.view.inner());
        inner.commit(self, durability, hook)
    }
}

/// The serial section of a commit: the newest state, committed or about to be, with this transaction on top.
/// What is written here is part of the transaction and exempt from the conflict check.
pub struct Serial<'a> {
    pub(crate) inner: &'a Inner,
    pub(crate) table: &'a Table,
    pub(crate) writes: &'a mut WriteSet,
}

impl Serial<'_> {
    /// Returns the number this commit will have, if it changes anything.
    pub fn commit_no(&self) -> u64 {
        self.table.commit_no + 1
    }

    /// Returns the tree of this name; see `WriteTransaction::tree`.
    pub fn tree(&mut self, name: &str) -> Result<TreeId, WriteError> {
        let number = self.inner.names.reserve(name)?;
        self.writes.touch(number);
        Ok(TreeId(number))
    }

    /// Returns a key's newest value.
    pub fn get(&self, tree: TreeId, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.inner.check_tree(tree)?;
        Ok(lookup(self.writes, self.table, tree, key))
    }

    /// Walks the newest state within bounds.
    pub fn range(&self, tree: TreeId, bounds: impl RangeBounds<[u8]>) -> TransactionCursor<'_> {
        TransactionCursor::new(self.writes, self.table, tree, bounds.start_bound(), bounds.end_bound())
    }

    /// Puts a value.
    pub fn put(&mut self, tree: TreeId, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        self.put_pieces(tree, key, &[value])
    }

    /// Puts the concatenation of `pieces`; see `WriteTransaction::put_pieces`.
    pub fn put_pieces(&mut self, tree: TreeId, key: &[u8], pieces: &[&[u8]]) -> Result<(), WriteError> {
        self.inner.check_tree(tree).map_err(|_| WriteError::UnknownTree(tree))?;
        self.writes.put(tree.0, key, pieces)
    }

    /// Deletes a key.
    pub fn delete(&mut self, tree: TreeId, key: &[u8]) -> Result<(), WriteError> {
        self.inner.check_tree(tree).map_err(|_| WriteError::UnknownTree(tree))?;
        self.writes.delete(tree.0, key)
    }
}

fn lookup(writes: &WriteSet, table: &Table, tree: TreeId, key: &[u8]) -> Option<Bytes> {
    match writes.get(tree.0, key) {
        Some((record, Effect::Put { .. })) => Some(record.value_bytes()),
        Some((_, Effect::Delete)) => None,
        None => table.get(tree.0, key).map(|slot| slot.record.value_bytes()),
    }
}

/// Keys and values of a transaction in order, from either end: its own writes over its snapshot. An error is the last
/// item.
pub struct TransactionCursor<'a> {
    base: TableCursor,
    own: WriteRange<'a>,
    base_front: Option<Record>,
    base_back: Option<Record>,
    own_front: Option<(&'a Record, &'a Effect)>,
    own_back: Option<(&'a Record, &'a Effect)>,
}

impl<'a> TransactionCursor<'a> {
    fn new(writes: &'a WriteSet, table: &Table, tree: TreeId, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> Self {
        Self {
            base: TableCursor::new(table, tree.0, lower, upper),
            own: writes.range(tree.0, lower, upper),
            base_front: None,
            base_back: None,
            own_front: None,
            own_back: None,
        }
    }

    fn own_next(&mut self) -> Option<(&'a Record, &'a Effect)> {
        self.own.as_mut()?.next().map(|(k, e)| (&k.0, e))
    }

    fn own_next_back(&mut self) -> Option<(&'a Record, &'a Effect)> {
        self.own.as_mut()?.next_back().map(|(k, e)| (&k.0, e))
    }
}

impl Iterator for TransactionCursor<'_> {
    type Item = Result<(Bytes, Bytes), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // What the other end has looked at but not given is the last there is.
            if self.base_front.is_none() {
                self.base_front = self.base.next().or_else(|| self.base_back.take());
            }
            if self.own_front.is_none() {
                self.own_front = self.own_next().or_else(|| self.own_back.take());
            }
            match (&self.base_front, self.own_front) {
                (None, None) => return None,
                (Some(base), own) if own.is_none_or(|(own, _)| base.key() < own.key()) => {
                    return self.base_front.take().map(|r| Ok((r.key_bytes(), r.value_bytes())));
                }
                (base, Some((own, effect))) => {
                    if base.as_ref().is_some_and(|b| b.key() == own.key()) {
                        self.base_front = None;
                    }
                    self.own_front = None;
                    if matches!(effect, Effect::Put { .. }) {
                        return Some(Ok((own.key_bytes(), own.value_bytes())));
                    }
                }
                (Some(_), None) => unreachable!("taken by the arm above"),
            }
        }
    }
}

impl DoubleEndedIterator for TransactionCursor<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        loop {
            if self.base_back.is_none() {
                self.base_back = self.base.next_back().or_else(|| self.base_front.take());
            }
            if self.own_back.is_none() {
                self.own_back = self.own_next_back().or_else(|| self.own_front.take());
            }
            match (&self.base_back, self.own_back) {
                (None, None) => return None,
                (Some(base), own) if own.is_none_or(|(own, _)| base.key() > own.key()) => {
                    return self.base_back.take().map(|r| Ok((r.key_bytes(), r.value_bytes())));
                }
                (base, Some((own, effect))) => {
                    if base.as_ref().is_some_and(|b| b.key() == own.key()) {
                        self.base_back = None;
                    }
                    self.own_back = None;
                    if matches!(effect, Effect::Put { .. }) {
                        return Some(Ok((own.key_bytes(), own.value_bytes())));
                    }
                }
                (Some(_), None) => unreachable!("taken by the arm above"),
            }
        }
    }
}

impl FusedIterator for TransactionCursor<'_> {}
