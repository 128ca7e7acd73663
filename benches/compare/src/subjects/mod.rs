//! The stores under comparison: what a store must be able to do, and the list of them.
//!
//! Every workload is written once over [`Subject`]; a store is taught to it once, in a file of its own. What each one is
//! set to is said in its [`Spec`] and printed with the figures. Rules: the same durability for all, the same cache, the
//! fastest way that the store's documentation recommends for the job, and otherwise its defaults.

mod blaze;
mod canopy;
mod fjall;
mod lmdb;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocks;
mod sqlite;

use std::path::Path;

use blazedb_benches::{KEY_BYTES, VALUE_BYTES};

pub(crate) use blaze::{
    CLIENT_SUBJECTS, ENCRYPTED, LOG_BYTES, TABLE_BYTES, UNENCRYPTED, client_options, open_client, open_client_store,
};

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Key = [u8; KEY_BYTES];
pub(crate) type Row = (Key, [u8; VALUE_BYTES]);

/// When a commit may return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// After the device has it.
    Durable,
    /// Before anything is synced; what the system has been given survives the end of the process. redb's commits without
    /// a sync are not written either.
    Buffered,
}

/// What a reader's gets see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Views {
    /// All of them one snapshot, taken before.
    One,
    /// Each one a read transaction of its own.
    PerGet,
}

/// An open store with one table of rows. Called from several threads.
pub(crate) trait Subject: Sync {
    /// Puts the rows in one transaction.
    fn commit(&self, rows: &[Row], durability: Durability) -> Result<(), Failure>;

    /// Puts one row in a transaction that this process's end may lose: it is not even written yet. `None` where a store
    /// has no such commit, or no other without a sync.
    fn commit_in_memory(&self, _row: &Row) -> Option<Result<(), Failure>> {
        None
    }

    /// Puts many rows into an empty store, in whatever way is best for that; all are durable when it returns.
    fn bulk_load(&self, rows: &mut dyn Iterator<Item = Row>) -> Result<(), Failure>;

    /// Deletes rows in one durable transaction.
    fn delete(&self, keys: &[Key]) -> Result<(), Failure>;

    /// Makes the files as short as they can be, in the way that the store's documentation recommends while it is open.
    /// `false`: it has none.
    fn compact(&mut self) -> Result<bool, Failure>;

    /// Hands a reader to `work`.
    fn with_reader(&self, views: Views, work: Work<'_>) -> Result<(), Failure>;

    /// Commits and data syncs so far, where the store counts them.
    fn commits_and_syncs(&self) -> Option<(u64, u64)> {
        None
    }

    /// Moves everything out of the log, where the store has a call for it.
    fn checkpoint(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// Whether the next rows would make the store move its log into its tree. `None` where it does not tell.
    fn log_is_full(&self) -> Option<bool> {
        None
    }
}

/// What is done with a reader.
pub(crate) type Work<'a> = &'a mut dyn FnMut(&mut dyn Reader) -> Result<(), Failure>;

/// Reads; of one thread.
pub(crate) trait Reader {
    /// Shows the value of a key where it lies; says whether there was one.
    fn get(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> Result<bool, Failure>;

    /// Shows up to `count` rows from a key on, in order.
    fn range(&mut self, from: &Key, count: usize, see: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Failure>;
}

type Open = fn(&Path, usize) -> Result<Box<dyn Subject>, Failure>;

/// A store by name, and how to open it in a folder with so many bytes of cache.
pub(crate) struct Spec {
    /// As the command line names it.
    pub(crate) id: &'static str,
    /// As the table names it.
    pub(crate) title: &'static str,
    /// Settings beside the cache, in half a line.
    pub(crate) settings: &'static str,
    pub(crate) open: Open,
    /// The same with pages by positioned reads, where `open` maps them and the store lets one choose.
    pub(crate) open_by_reads: Option<Open>,
}

pub(crate) fn all() -> Vec<Spec> {
    let mut specs = blaze::specs();
    specs.extend([redb::spec(), lmdb::spec(), fjall::spec(), canopy::spec(), sqlite::spec()]);
    #[cfg(feature = "rocksdb")]
    specs.push(rocks::spec());
    specs
}

pub(crate) fn find(id: &str) -> Result<Spec, Failure> {
    all().into_iter().find(|spec| spec.id == id).ok_or_else(|| format!("no subject is called {id}").into())
}
