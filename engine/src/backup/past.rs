//! What a backup has of history: entries of twins as pages will have them, out of tables and pages together.
//!
//! A table says of a version that one of its commits superseded where it is, or that it lies below the table; and it does
//! not know yet whether there was a value. Both are looked up here, as a checkpoint would.

use std::ops::Bound;

use super::write::{Copied, PIECE_BYTES, Piece};
use crate::btree::{CellValue, TreeCursor};
use crate::error::ReadError;
use crate::history::{History, Twin, key};
use crate::memtable::{Mem, MemCursor, MemValue};
use crate::pager::PageError;
use crate::snapshot::{Layers, Value};

/// What is kept of a tree's history, as a backup says it. spec: BK-13
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) keep: History,
    /// The oldest commit whose state is there.
    pub(super) oldest: u64,
}

pub(super) const KEPT_BYTES: usize = 24;

impl Kept {
    pub(super) fn encode(&self) -> [u8; KEPT_BYTES] {
        let mut out = [0; KEPT_BYTES];
        for (out, n) in out.chunks_exact_mut(8).zip([self.oldest, self.keep.keep_ms, self.keep.keep_bytes]) {
            out.copy_from_slice(&n.to_le_bytes());
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; KEPT_BYTES] = bytes.try_into().ok()?;
        let n = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Some(Self { oldest: n(0), keep: History { keep_ms: n(8), keep_bytes: n(16) } })
    }

    pub(super) fn of(layers: &Layers, twin: &Twin) -> Result<Self, PageError> {
        let floor = layers.twin_meta(twin.number)?.floor;
        Ok(Self { keep: twin.keep, oldest: twin.since.unwrap_or(0).max(floor) })
    }
}

/// Entries of one table's twin.
struct TableEntries<'l> {
    cursor: MemCursor,
    /// What lies below the table, beside the pages.
    below: Option<&'l Mem>,
}

/// Copies entries of a twin from `from` on and below `high`: about a quarter of a megabyte of them.
pub(super) fn copy_past(
    layers: &Layers,
    (tree, twin): (u32, u32),
    from: Bound<&[u8]>,
    high: Option<&[u8]>,
) -> Result<Piece, ReadError> {
    let mut pages = TreeCursor::new(layers.root.tree(twin));
    pages.seek(&*layers.root, from)?;
    let mut tables: Vec<TableEntries<'_>> = Vec::new();
    for (table, below) in [(layers.frozen.as_deref(), None), (Some(&*layers.active), layers.frozen.as_deref())] {
        if let Some(table) = table.filter(|table| table.has_tree(twin)) {
            let mut cursor = table.cursor(twin);
            cursor.seek(from);
            tables.push(TableEntries { cursor, below });
        }
    }
    let (mut piece, mut bytes) = (Piece::default(), 0);
    loop {
        let in_pages = pages.entry().map(|(key, _)| key);
        let next = tables
            .iter()
            .enumerate()
            .filter_map(|(i, table)| table.cursor.entry().map(|(key, _)| (key, Some(i))))
            .chain(in_pages.map(|key| (key, None)))
            .min_by(|a, b| a.0.cmp(b.0));
        let Some((at, source)) = next.filter(|(key, _)| high.is_none_or(|high| *key < high)) else { break };
        if bytes >= PIECE_BYTES {
            piece.goes_on_after = piece.rows.last().map(|(key, _)| key.clone());
            break;
        }
        let row = match source {
            None => {
                let value = match pages.entry() {
                    Some((_, CellValue::Inline(value))) => Copied::Bytes(value.to_vec()),
                    Some((_, CellValue::Stored(at))) => Copied::Long(at),
                    None => break,
                };
                let row = (at.to_vec(), value);
                pages.next(&*layers.root)?;
                row
            }
            Some(i) => {
                let row = resolve(layers, tree, &tables[i])?;
                tables[i].cursor.next();
                match row {
                    Some(row) => row,
                    None => continue,
                }
            }
        };
        bytes += row.0.len() + 64 + if let Copied::Bytes(value) = &row.1 { value.len() } else { 0 };
        piece.rows.push(row);
    }
    Ok(piece)
}

/// The entry on which a table's cursor stands; `None` where it is in pages already.
fn resolve(layers: &Layers, tree: u32, table: &TableEntries<'_>) -> Result<Option<(Vec<u8>, Copied)>, ReadError> {
    let Some((at, entry)) = table.cursor.entry() else { return Ok(None) };
    let broken = || PageError::node(0, layers.root.pages.page_bytes(), "a twin's key is a key and a commit");
    let found = key::decode(at).ok_or_else(broken)?;
    if found.until <= layers.root.commit_no {
        return Ok(None);
    }
    let value = match entry.past() {
        Some(past) => match past.value() {
            MemValue::Put(bytes) => Some(Copied::Bytes(bytes.to_vec())),
            MemValue::PutStored(at) => Some(Copied::Long(at)),
            MemValue::Deleted => None,
        },
        None => layers.below(table.below, tree, &found.key, |value| match value {
            Value::Inline(bytes) => Copied::Bytes(bytes.to_vec()),
            Value::Stored(at) => Copied::Long(at),
        })?,
    };
    let mut twin_key = Vec::with_capacity(at.len());
    key::push_twin_key(&mut twin_key, &found.key, found.until, value.is_some());
    Ok(Some((twin_key, value.unwrap_or(Copied::Bytes(Vec::new())))))
}
