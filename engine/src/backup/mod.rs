//! Backups: everything that a store shows at one commit, as one stream; and back again into a new store.
//!
//! ```text
//! header | block | block | ... | end block
//!          rows: trees by name, their keys in order, values
//!          index: which leaf of the file had which keys, for the next increment
//! ```
//!
//! A backup is of rows, not of pages. So a restored store has nothing of the old one's file: its id, master key, nonces and
//! pages are new, its pages are full, and its page size and cipher are whatever its owner asks for. An increment costs
//! the pages that changed all the same: a leaf that is named with the same number and proof as in the backup before has
//! the same rows, and is not even read (`write`).
//!
//! What a backup says is sealed with a key of its own, derived from the store's master key, and the store's key slots
//! travel along: what opened the store when it was backed up opens the backup.
//!
//! Invariants:
//! - a backup shows one commit, whatever is written meanwhile, or ends with an error;
//! - neither readers nor writers wait for it: it is a reader with a view;
//! - no row leaves unsealed out of an encrypted store, and no (key, nonce) is used twice: each backup has a random id, and
//!   that id is in its key;
//! - a restored store has its name only when it is whole, verified and synced;
//! - all that is read of a backup is hostile.
//!
//! `format.rs` is the header and the blocks, `read.rs` puts a chain of them together, `write.rs` makes a backup,
//! `restore.rs` a store. Rules: spec/backup.md.

mod error;
pub(crate) mod format;
mod past;
mod read;
mod restore;
mod rewind;
mod write;

pub use self::error::{BackupError, Damage as BackupDamage, RestoreError};
#[cfg(any(test, feature = "testing"))]
pub(crate) use self::read::fuzz;
pub(crate) use self::restore::{Filler, Making};
pub use self::restore::{RestoreAt, RestoreProgress, RestoreReport, names_in_the_making, restore, restore_at};
pub use self::write::{BackupOptions, BackupProgress, BackupReport};

/// Names one backup: random, in its header, and in the header of an increment that builds on it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BackupId(pub [u8; 16]);

impl std::fmt::Display for BackupId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for BackupId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "backup {self}")
    }
}
