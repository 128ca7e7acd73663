//! What a checkpoint or a load supersedes goes into the twins, before the trees change.
//!
//! A table says of each version that one of its commits superseded where it is, or that it lies below the table: then it
//! is looked up in the tree as it was. A load has no table; each of its rows supersedes what the tree has. Entries go
//! into a twin in pieces of some bytes, so that memory is bounded whatever the superseded values take.

use std::ops::Bound;

use bytes::Bytes;

use super::ledger::{LedgerEdits, Meta, point_key};
use super::{Twins, key};
use crate::btree::{self, EditValue, Edits, Found, Kept, TreeRoot, ValueRef};
use crate::checkpoint::{TableEdits, tree_mut};
use crate::memtable::{Mem, MemCursor, MemValue};
use crate::pager::{PageError, PageWrite};

/// Bytes of entries that go into a twin at once.
const PIECE_BYTES: usize = 256 << 10;

/// What an entry takes beside its bytes.
const ENTRY_BYTES: usize = 64;

/// What twins were given: bytes of keys and values, by twin.
pub(crate) type Taken = std::collections::BTreeMap<u32, u64>;

/// Puts what a table says into trees, and what it supersedes into their twins. `after`: commits up to this one are in the
/// trees already.
pub(crate) fn apply_table<W: PageWrite>(
    pages: &mut W,
    trees: &mut Vec<TreeRoot>,
    table: &Mem,
    after: u64,
    taken: &mut Taken,
) -> Result<(), PageError> {
    let twins = table.twins().map(|twins| &**twins);
    for tree in table.trees() {
        let kept = match twins {
            None => Kept::new(),
            // With its tree.
            Some(twins) if twins.is_twin(tree) => continue,
            Some(twins) => match twins.of(tree) {
                Some(twin) if table.has_tree(twin.number) => {
                    let mut cursor = table.cursor_since(twin.number, after);
                    cursor.seek(Bound::Unbounded);
                    let mut past = TablePast { cursor, after };
                    take(pages, trees, tree, twin.number, &mut past, taken)?
                }
                _ => Kept::new(),
            },
        };
        let root = tree_mut(trees, tree);
        *root = btree::apply_keeping(pages, root, &mut TableEdits::after(table, tree, after), &kept)?;
    }
    Ok(())
}

/// A row of a load, and what it does to its key.
pub(crate) type LoadRow = (Vec<u8>, LoadValue);

pub(crate) enum LoadValue {
    Inline(Vec<u8>),
    Stored(ValueRef),
    Delete,
}

/// Puts a load's rows into a tree, and what they supersede into its twin.
pub(crate) fn apply_rows<W: PageWrite>(
    pages: &mut W,
    trees: &mut Vec<TreeRoot>,
    (tree, twin): (u32, u32),
    commit_no: u64,
    rows: &mut dyn Edits,
    taken: &mut Taken,
) -> Result<(), PageError> {
    loop {
        let mut piece = RowEdits::default();
        let mut bytes = 0;
        while let Some((key, value)) = rows.peek().filter(|_| bytes < PIECE_BYTES) {
            let value = match value {
                EditValue::Put(value) => LoadValue::Inline(value.to_vec()),
                EditValue::PutStored(at) => LoadValue::Stored(at),
                EditValue::Delete => LoadValue::Delete,
                EditValue::Touch => unreachable!("a load has rows"),
            };
            bytes += key.len() + ENTRY_BYTES + if let LoadValue::Inline(value) = &value { value.len() } else { 0 };
            piece.rows.push((key.to_vec(), value));
            rows.advance()?;
        }
        if piece.rows.is_empty() {
            return Ok(());
        }
        let mut past = RowsPast { rows: piece.rows.iter(), commit_no };
        let kept = take(pages, trees, tree, twin, &mut past, taken)?;
        let root = tree_mut(trees, tree);
        *root = btree::apply_keeping(pages, root, &mut piece, &kept)?;
    }
}

#[derive(Default)]
struct RowEdits {
    rows: Vec<LoadRow>,
    at: usize,
}

impl Edits for RowEdits {
    fn peek(&self) -> Option<(&[u8], EditValue<'_>)> {
        self.rows.get(self.at).map(|(key, value)| {
            let value = match value {
                LoadValue::Inline(value) => EditValue::Put(value),
                LoadValue::Stored(at) => EditValue::PutStored(*at),
                LoadValue::Delete => EditValue::Delete,
            };
            (&key[..], value)
        })
    }

    fn advance(&mut self) -> Result<(), PageError> {
        self.at += 1;
        Ok(())
    }
}

/// A version that was superseded.
enum Before {
    None,
    Inline(Bytes),
    Stored(ValueRef),
    /// The tree has it.
    Below,
}

/// Versions in the order of twins.
trait Past {
    /// Returns the next one: its key, and the commit that superseded it.
    fn next(&mut self) -> Option<(Vec<u8>, u64, Before)>;
}

struct TablePast {
    cursor: MemCursor,
    after: u64,
}

impl Past for TablePast {
    fn next(&mut self) -> Option<(Vec<u8>, u64, Before)> {
        loop {
            let (twin_key, entry) = self.cursor.entry()?;
            if entry.commit_no() <= self.after {
                self.cursor.next();
                continue;
            }
            // Of a log that gives a number twice, once to a twin: whoever reads its names refuses it.
            let Some(found) = key::decode(twin_key) else {
                self.cursor.next();
                continue;
            };
            let before = match entry.past() {
                None => Before::Below,
                Some(past) => match past.value() {
                    MemValue::Put(_) => Before::Inline(past.value_bytes()),
                    MemValue::PutStored(at) => Before::Stored(at),
                    MemValue::Deleted => Before::None,
                },
            };
            self.cursor.next();
            return Some((found.key, found.until, before));
        }
    }
}

struct RowsPast<'r> {
    rows: std::slice::Iter<'r, LoadRow>,
    commit_no: u64,
}

impl Past for RowsPast<'_> {
    fn next(&mut self) -> Option<(Vec<u8>, u64, Before)> {
        self.rows.next().map(|(key, _)| (key.clone(), self.commit_no, Before::Below))
    }
}

#[derive(Default)]
struct PastEdits {
    entries: Vec<(Vec<u8>, Before)>,
    at: usize,
}

impl Edits for PastEdits {
    fn peek(&self) -> Option<(&[u8], EditValue<'_>)> {
        self.entries.get(self.at).map(|(key, before)| {
            let value = match before {
                Before::Inline(value) => EditValue::Put(value),
                Before::Stored(at) => EditValue::PutStored(*at),
                Before::None | Before::Below => EditValue::Put(&[]),
            };
            (&key[..], value)
        })
    }

    fn advance(&mut self) -> Result<(), PageError> {
        self.at += 1;
        Ok(())
    }
}

/// Puts versions into a twin. Returns those stored values of the tree that are the twin's from now on.
fn take<W: PageWrite>(
    pages: &mut W,
    trees: &mut Vec<TreeRoot>,
    tree: u32,
    twin: u32,
    past: &mut impl Past,
    taken: &mut Taken,
) -> Result<Kept, PageError> {
    let main = *tree_mut(trees, tree);
    let mut kept = Kept::new();
    loop {
        let mut piece = PastEdits::default();
        let mut held = 0;
        while held < PIECE_BYTES {
            let Some((key, until, before)) = past.next() else { break };
            let before = match before {
                Before::Below => match btree::look_up(&*pages, &main, &key)? {
                    None => Before::None,
                    Some(Found::Inline(value)) => Before::Inline(Bytes::copy_from_slice(&value)),
                    Some(Found::Stored(at)) => {
                        kept.insert(at.page.no);
                        Before::Stored(at)
                    }
                },
                before => before,
            };
            let (value_len, is_value) = match &before {
                Before::Inline(value) => (value.len() as u64, true),
                Before::Stored(at) => (at.len, true),
                Before::None | Before::Below => (0, false),
            };
            let mut twin_key = Vec::new();
            key::push_twin_key(&mut twin_key, &key, until, is_value);
            *taken.entry(twin).or_default() += twin_key.len() as u64 + value_len;
            held += twin_key.len() + ENTRY_BYTES + if let Before::Inline(value) = &before { value.len() } else { 0 };
            piece.entries.push((twin_key, before));
        }
        if piece.entries.is_empty() {
            return Ok(kept);
        }
        let root = tree_mut(trees, twin);
        *root = btree::apply(pages, root, &mut piece)?;
    }
}

/// Writes into the ledger what twins were given up to a commit.
pub(crate) fn note_taken<W: PageWrite>(
    pages: &mut W,
    trees: &mut Vec<TreeRoot>,
    twins: Option<&Twins>,
    commit_no: u64,
    taken: &Taken,
) -> Result<(), PageError> {
    let Some(twins) = twins.filter(|twins| twins.ledger != 0 && !taken.is_empty()) else { return Ok(()) };
    let ledger = *tree_mut(trees, twins.ledger);
    let mut edits = LedgerEdits::default();
    for (&twin, &more) in taken {
        let mut meta = Meta::read(&*pages, &ledger, twin)?;
        meta.bytes = meta.bytes.saturating_add(more);
        meta.taken = meta.taken.saturating_add(more);
        edits.put(&twin.to_be_bytes(), &meta.encode());
        edits.put(&point_key(twin, commit_no), &meta.taken.to_le_bytes());
    }
    let root = tree_mut(trees, twins.ledger);
    *root = btree::apply(pages, root, &mut edits)?;
    Ok(())
}
