//! An ordered map over immutable pages: a copy-on-write B+tree, changed in bulk.
//!
//! A page is built once, from sorted entries, and never changed. So no page manages free space, and the format is made
//! for reading: the first four bytes of every key that tell it from its neighbours stand in one array (`node`). Changes
//! come as one sorted stream (`apply`), which writes the touched leaves and their ancestors anew, beside the old ones.
//!
//! `node.rs` reads pages, `build.rs` cuts sorted entries into pages, `search.rs` looks up, `cursor.rs` walks,
//! `apply.rs` changes, `value.rs` keeps values that need pages of their own, `pack.rs` makes fewer
//! leaves of half empty ones, `rewrite.rs` moves pages and leaves what they say alone, `check.rs` proves a tree, `salvage.rs` reads a damaged one. All I/O goes through `PageRead` and `PageWrite`. Read `TreeRoot`, then `apply`.
//!
//! Invariants:
//! - keys ascend strictly within a leaf and from leaf to leaf;
//! - the keys below a child are at or above its separator and below the next child's;
//! - a child is one level below its parent, so that no way down is longer than the root's height;
//! - a page that breaks the format is an error that names it, never a panic and never a walk without end: bytes are
//!   hostile until each offset and length has been looked at, where it is used.

mod apply;
mod build;
mod check;
mod cursor;
#[cfg(any(test, feature = "testing"))]
mod fuzz;
mod node;
mod pack;
mod rewrite;
mod salvage;
mod search;
mod value;

#[cfg(test)]
mod tests;

pub(crate) use self::apply::{EditValue, Edits, Kept, apply, apply_keeping};
pub(crate) use self::check::check;
pub(crate) use self::cursor::TreeCursor;
#[cfg(any(test, feature = "testing"))]
pub(crate) use self::fuzz::{fuzz_inline_values, fuzz_node, fuzz_references, fuzz_value};
pub(crate) use self::node::CellValue;
pub(crate) use self::pack::{Packing, gain, pack};
pub(crate) use self::rewrite::{Place, TreesPlace, rewrite, rewrite_trees};
pub(crate) use self::salvage::{Hole, Met, Subtree, node_facts, walk_damaged};
pub(crate) use self::search::{Found, at_or_after, get, leaf_of, look_up};
pub(crate) use self::value::{ValueWriter, read_value, release_value, value_pages};

use crate::limits::KEY_BYTES_MAX;
use crate::pager::{PAGE_HEADER_BYTES, PageError, PageRead, PageRef};

/// Levels of a tree at most. Four children to a branch, which the longest keys allow, make 4 TiB of the smallest pages.
pub(crate) const HEIGHT_MAX: u8 = 16;

/// Root of one tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct TreeRoot {
    /// `None`: the tree is empty.
    pub(crate) page: Option<PageRef>,
    /// 0: empty; 1: the root is a leaf.
    pub(crate) height: u8,
    pub(crate) entries: u64,
}

/// A value in pages of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ValueRef {
    pub(crate) len: u64,
    /// 1: `page` is a Value page; above: a ValueIndex page. Follows from `len` and the page size.
    pub(crate) height: u8,
    pub(crate) page: PageRef,
}

/// Most bytes of key and value that stand in a leaf: two entries fit a page, or cutting a full page in two would not help.
/// A longer value lies in pages of its own, which are its alone: one that takes a page that it does not fill makes a file
/// longer than two that share one.
pub(crate) const fn entry_max(body_bytes: usize) -> usize {
    (body_bytes - node::NODE_HEADER_BYTES) / 2 - ENTRY_EXTRA_BYTES
}

/// Longest key in a page: of a twin, which has eight bytes more for nine of each key, and the commit.
pub(crate) const PAGE_KEY_BYTES_MAX: usize = (9 * KEY_BYTES_MAX + 1).div_ceil(8) + 8;

/// Whether a value stands in a leaf.
fn is_inline(body_bytes: usize, key_len: usize, value_len: usize) -> bool {
    key_len + value_len <= entry_max(body_bytes)
}

const BODY_BYTES_MIN: usize = 4096 - PAGE_HEADER_BYTES;
/// What an entry takes besides key and value: head, offset, two lengths.
const ENTRY_EXTRA_BYTES: usize = 4 + 2 + 2 + 2;
// A key of any length has room for the name of a value that lies elsewhere.
const _: () = assert!(PAGE_KEY_BYTES_MAX + node::STORED_BYTES <= entry_max(BODY_BYTES_MIN));

/// Names the page that breaks a rule.
#[cold]
fn broken<P: PageRead>(pages: &P, at: PageRef, rule: node::Rule) -> PageError {
    PageError::node(at.no, pages.body_bytes() + PAGE_HEADER_BYTES, rule)
}
