//! Transactions: who sees what, and how a commit becomes durable.
//!
//! A `ReadView` is a reference to one table that never changes. A `WriteTransaction` is a view and a set of
//! writes that nobody else sees. `commit.rs` is the serial section and the group commit, `head.rs` what that guards. Locks, in the order in
//! which they may be taken: `head` (the serial section; never held during I/O), then `visible` (held for
//! nanoseconds: the newest published table and the register of readers).

pub(crate) mod commit;
pub(crate) mod conflict;
mod cursor;
pub(crate) mod head;
pub(crate) mod names;
pub(crate) mod pace;
pub(crate) mod reads;
mod record;
pub(crate) mod value;
pub(crate) mod view;
pub(crate) mod write;
pub(crate) mod write_set;

use std::fmt;

pub use commit::{CommitInfo, Durability};
pub use cursor::Cursor;
pub use value::{ValueReader, ValueWriter};
pub use view::ReadView;
pub use write::{Savepoint, Serial, TransactionCursor, WriteTransaction};

/// A tree of one store. Numbers stay inside one open store: keep the name, not the number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeId(pub(crate) u32);

impl fmt::Debug for TreeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tree {}", self.0)
    }
}

/// The tree of names: name -> number, 4 bytes. spec: E-14
pub(crate) const CATALOGUE: u32 = 0;
