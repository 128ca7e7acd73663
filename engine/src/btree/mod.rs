//! An ordered map over immutable pages: a copy-on-write B+tree, changed in bulk.
//!
//! A page is built once, from sorted entries, and never changed; so pages have no free space to manage and a format
//! made for reading: the first four bytes of every key stand in one array (`node`). Changes come as a sorted stream
//! (`apply`), which rewrites the leaves that it touches, and their ancestors, beside the old ones.
//!
//! `node.rs` reads and builds pages, `search.rs` looks up, `cursor.rs` walks, `apply.rs` changes, `value.rs` is for
//! values that need pages of their own, `check.rs` proves a tree. Nothing here does I/O but through `PageRead` and
//! `PageWrite`.
//!
//! Invariants: keys ascend strictly within a leaf and from leaf to leaf; a child's keys are at or above its separator
//! and below the next; a child is one level below its parent, so no walk is longer than the root's height; a page that
//! breaks the format is an error with its number, never a panic.

mod apply;
mod build;
mod check;
mod cursor;
mod node;
mod search;
mod value;

#[cfg(test)]
mod tests;

pub(crate) use apply::{EditValue, Edits, apply};
pub(crate) use check::check;
pub(crate) use cursor::TreeCursor;
pub(crate) use node::CellValue;
pub(crate) use search::{Found, get};
pub(crate) use value::{read_value, release_value, value_pages};

use crate::pager::PageRef;

/// Levels of a tree at most: sixteen levels of the narrowest pages hold more than a file can.
pub(crate) const HEIGHT_MAX: u8 = 16;

/// Root of one tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct TreeRoot {
    /// None where the tree is empty.
    pub(crate) page: Option<PageRef>,
    /// 0: empty; 1: the root is a leaf.
    pub(crate) height: u8,
    pub(crate) entries: u64,
}

/// A value in pages of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ValueRef {
    pub(crate) len: u64,
    /// 1: `page` is a Value page; above: a ValueIndex page.
    pub(crate) height: u8,
    pub(crate) page: PageRef,
}

/// Longest value that stands in a leaf: four entries with short keys fit a page.
pub(crate) fn inline_max(body_bytes: usize) -> usize {
    body_bytes / 4 - 64
}
