//! What goes into pages, in the order in which trees want it: out of tables, names, roots.

use crate::btree::{EditValue, Edits, TreeRoot};
use crate::memtable::{Mem, MemCursor, MemValue};
use crate::pager::PageError;
use crate::txn::names::CatalogueEntry;

/// Edits out of a table.
pub(crate) struct TableEdits {
    cursor: MemCursor,
    /// Commits up to this one are in the pages already.
    after: u64,
}

impl TableEdits {
    /// What commits after this one have changed.
    pub(crate) fn after(table: &Mem, tree: u32, after: u64) -> Self {
        let mut cursor = table.cursor_since(tree, after);
        cursor.seek(std::ops::Bound::Unbounded);
        let mut edits = Self { cursor, after };
        edits.settle();
        edits
    }

    fn settle(&mut self) {
        // Commits count from 1: a checkpoint need not look.
        while self.after > 0 && self.cursor.entry().is_some_and(|(_, entry)| entry.commit_no() <= self.after) {
            self.cursor.next();
        }
    }
}

impl Edits for TableEdits {
    fn peek(&self) -> Option<(&[u8], EditValue<'_>)> {
        self.cursor.entry().map(|(key, entry)| {
            let value = match entry.value() {
                MemValue::Put(bytes) => EditValue::Put(bytes),
                MemValue::PutStored(at) => EditValue::PutStored(at),
                MemValue::Deleted => EditValue::Delete,
            };
            (key, value)
        })
    }

    fn advance(&mut self) -> Result<(), PageError> {
        self.cursor.next();
        self.settle();
        Ok(())
    }
}

/// Edits of many trees, one tree after another in the order of their numbers.
pub(crate) trait TreesOfEdits: Edits {
    /// Goes on to the next tree that has edits; from there on those are given, up to the tree's end.
    fn next_tree(&mut self) -> Option<u32>;
}

/// Edits of the catalogue.
pub(super) struct NameEdits {
    pub(super) names: Vec<CatalogueEntry>,
    pub(super) at: usize,
}

impl Edits for NameEdits {
    fn peek(&self) -> Option<(&[u8], EditValue<'_>)> {
        self.names.get(self.at).map(|(name, tree)| (name.as_bytes(), EditValue::Put(tree)))
    }

    fn advance(&mut self) -> Result<(), PageError> {
        self.at += 1;
        Ok(())
    }
}

/// Edits of the tree of roots.
pub(super) struct RootEdits {
    pub(super) edits: Vec<([u8; 4], [u8; TREE_ROOT_BYTES])>,
    pub(super) at: usize,
}

impl Edits for RootEdits {
    fn peek(&self) -> Option<(&[u8], EditValue<'_>)> {
        self.edits.get(self.at).map(|(key, value)| (&key[..], EditValue::Put(value)))
    }

    fn advance(&mut self) -> Result<(), PageError> {
        self.at += 1;
        Ok(())
    }
}

/// Bytes of a tree's root in the tree of roots. spec: E-38
pub(crate) const TREE_ROOT_BYTES: usize = 25;

pub(crate) fn encode_root(root: &TreeRoot) -> [u8; TREE_ROOT_BYTES] {
    let mut bytes = [0; TREE_ROOT_BYTES];
    bytes[0] = root.height;
    if let Some(page) = root.page {
        bytes[1..9].copy_from_slice(&page.no.to_le_bytes());
        bytes[9..17].copy_from_slice(&page.proof.to_le_bytes());
    }
    bytes[17..].copy_from_slice(&root.entries.to_le_bytes());
    bytes
}
