//! BlazeDB's engine: one encrypted file on one device, ordered trees, transactions, snapshots.
//!
//! ```
//! use blazedb_engine::{Env, KdfCost, Options, Store};
//!
//! let options = Options::passphrase("correct horse").kdf(KdfCost::InsecureForTests);
//! let store = Store::open(Env::memory(1), options)?;
//! let mut tx = store.write();
//! let todos = tx.tree("todos")?;
//! tx.put(todos, b"1", b"buy milk")?;
//! tx.commit()?; // durable when it returns
//!
//! let view = store.read();
//! assert_eq!(view.get(todos, b"1")?.as_deref(), Some(&b"buy milk"[..]));
//! store.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A commit in ten lines
//!
//! 1. The transaction has gathered its writes; nobody has seen them.
//! 2. It enters the serial section and is checked, key by key, against commits since its snapshot.
//! 3. The hook runs (`commit_with`): it sees the newest state and may write more.
//! 4. The transaction gets its number; its effects go into the open group and into the newest table.
//! 5. It leaves the serial section. If nobody leads, its caller leads now; else it waits for its group.
//! 6. The leader seals the group: one authenticated encryption, chained to the group before.
//! 7. It writes the group over blocks that were written before, and syncs once.
//! 8. It publishes the layers: from here on new views see all of the group.
//! 9. It tells the change feeds and wakes the group's other members.
//! 10. When table or log are full, a checkpoint writes the table into pages, in the background.
//!
//! # Floors, from top to bottom
//!
//! `store` and `maintain` (open, close, verify), `vacuum` (a shorter file), `estimate` (what takes the
//! space), `txn` (views, transactions, the serial section), `load` (many rows in
//! one commit, past log and table), `ahead` (long values, into pages at once), `checkpoint` and `disk` (from table to
//! pages), `backup` (to a stream, and back into a new store), `salvage` (what can be read of a damaged store), `snapshot`
//! and `readers` (what a view sees), `history` (what trees held before), `change` (feeds), `memtable` (the table),
//! `btree` (trees of pages), `log` (groups, redo, replay), `pager` (pages, their cache, which are in use),
//! `superblock`, `keys`, `rekey` and `seal` (encryption at rest), `env` (the world, injected).
//!
//! # Invariants
//!
//! - an acknowledged `Durable` commit survives a crash at any later moment; no transaction is ever seen in half;
//! - an acknowledged block of the log is never written with other bytes while a header needs it;
//! - a page is written once, where no header and no view can reach;
//! - a commit number is never used by two commits that anybody has seen;
//! - a reader never waits for a writer's disk;
//! - a feed lists every key that a commit altered, and no other, or says that it missed the commit;
//! - after an error of a write or sync no further commit succeeds;
//! - memory is bounded by `Options::memory` and what the caller holds;
//! - no (subkey, nonce) is used twice, also across crashes and copies of the file.
//!
//! The formats are in spec/store.md (rules E-1 and on), spec/crypto.md (C-1 and on) and spec/backup.md (BK-1 and on).

#![deny(unsafe_code)]
#![warn(missing_docs)]

mod ahead;
mod background;
mod backup;
mod btree;
mod change;
mod checkpoint;
mod disk;
pub mod env;
mod error;
mod estimate;
pub mod explain;
mod history;
mod keys;
pub mod limits;
mod load;
mod log;
mod maintain;
mod memtable;
mod open;
mod options;
mod pager;
mod readers;
mod recover;
mod rekey;
mod salvage;
mod seal;
mod snapshot;
mod store;
mod superblock;
mod sync;
#[cfg(test)]
mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod txn;
mod vacuum;

pub use backup::{
    BackupDamage, BackupError, BackupId, BackupOptions, BackupProgress, BackupReport, RestoreAt, RestoreError,
    RestoreProgress, RestoreReport, names_in_the_making, restore, restore_at,
};
pub use change::{Change, ChangeFeed, ChangeKind, Commit, FeedEvent};
pub use env::{Clock, Entropy, Env, Storage, StorageFile};
pub use error::{
    CommitError, Corruption, CorruptionKind, HookError, MaintainError, OpenError, Poison, ReadError, StreamError,
    WriteError,
};
pub use estimate::{Advice, Estimate, TreeSpace, VacuumEstimate};
pub use history::{History, HistoryInfo, KeyVersion, Moment, PastCursor, PastView, Versions};
pub use load::{LoadProgress, Loader};
pub use log::writer::log_file_names;
pub use maintain::{Stats, VerifyProgress, VerifyReport};
pub use options::{
    AutoVacuum, CipherChoice, KdfCost, KeyKind, KeyProvider, KeyRequest, KeySlotInfo, KeySource, Memory, Options,
    PageAccess, RekeyOptions, RekeyProgress, Secret, VacuumProgress,
};
pub use salvage::{
    Loss, SalvageError, SalvageFinish, SalvageProgress, SalvageReport, SalvagedTree, salvage, salvage_then,
};
pub use store::Store;
pub use txn::{
    CommitInfo, Cursor, Durability, ReadView, Savepoint, Serial, TransactionCursor, TreeId, ValueReader, ValueWriter,
    WriteTransaction,
};
