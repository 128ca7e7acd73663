//! BlazeDB: a local-first database.
//!
//! One encrypted file on a device is a whole database: documents in collections, transactions, snapshots, a change
//! stream. `enable_sync` makes that file one replica of a shared space: edits made offline anywhere merge by the rules
//! of `spec/merge.md`, without asking anybody, and what a merge sets aside goes to an inbox.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Todo {
//!     title: String,
//!     done: bool,
//! }
//!
//! # fn main() -> Result<(), blazedb::Error> {
//! # let dir = tempfile::tempdir().expect("a folder for the example");
//! # let path = dir.path().join("todo.blaze");
//! let db = blazedb::Database::open(path, blazedb::Options::raw_key([7; 32]))?;
//! let todos = db.collection::<Todo>("todos")?;
//! let id = todos.insert(&Todo { title: "buy milk".into(), done: false })?; // durable when it returns
//! todos.update(id, blazedb::Patch::new().set("done", true))?;
//! assert!(todos.get(id)?.is_some_and(|todo| todo.done));
//! # Ok(())
//! # }
//! ```
//!
//! | Word | Meaning |
//! |---|---|
//! | [`Database`] | one open file |
//! | [`Collection`] | the documents of one name; each call is a transaction of its own |
//! | [`Database::transaction`] | several writes that happen together or not at all |
//! | [`Database::as_of`] | how it was at an earlier commit or time, where history is kept |
//! | [`Changes`] | what each commit did, local and remote alike |
//! | [`Replica`] | the replication side, for a transport of one's own |
#![cfg_attr(feature = "sync", doc = "| [`Sync`] | the connection to a relay, on a thread of its own |")]
//!
//! The bytes are specified in `spec/`, the structure of the code in `ARCHITECTURE.md`.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod backup;
mod changes;
mod collection;
mod database;
mod digest;
mod error;
mod history;
mod inner;
mod layout;
mod options;
mod patch;
mod rekey;
mod replica;
mod salvage;
mod shapes;
mod stats;
#[cfg(feature = "sync")]
mod sync;
mod transaction;
#[cfg(feature = "sync")]
pub mod transport;

pub use blazedb_engine::{
    Advice, AutoVacuum, BackupId, BackupOptions, BackupProgress, BackupReport, CipherChoice, Env, Estimate, History,
    HistoryInfo, KdfCost, KeyKind, KeySlotInfo, KeySource, Loss, Memory, Moment, RekeyOptions, RekeyProgress,
    RestoreProgress, RestoreReport, SalvageProgress, SalvageReport, SalvagedTree, Secret, Store, TreeSpace,
    VacuumEstimate, VacuumProgress, VerifyProgress, log_file_names,
};
pub use blazedb_sync::{BoxReason, InboxEntry, OutboxPosition, TransactionTooLarge};
pub use blazedb_wire::{
    Decimal, DecimalError, Document, DocumentId, Key, ReplicaId, Row, SpaceId, Timestamp, Uuid, Value, Vector,
};
pub use changes::{ChangeEvent, ChangeKind, Changes, Commit, DocumentChange, Origin};
pub use collection::Collection;
pub use database::{Database, VerifyReport};
pub use error::{Error, ErrorKind};
pub use history::{AsOf, PastCollection, Version};
pub use options::Options;
pub use patch::Patch;
pub use replica::{Applied, OutboxCounts, Replica};
pub use stats::{CollectionStats, Stats, StatsProgress, TreeRole};
#[cfg(feature = "sync")]
pub use sync::{Relay, Sync, SyncState, SyncStatus};
pub use transaction::{Transaction, TransactionCollection};

/// The README's examples, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
