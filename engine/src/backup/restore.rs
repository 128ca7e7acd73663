//! A new store out of a backup and its increments. spec: BK-12
//!
//! ```text
//! X.restoring   a store in the making, an ordinary one: rows are loaded, long values streamed
//! verify        every page of it is read again
//! close         one file, synced; its log is not needed any more
//! X             it gets its name, and the folder is synced
//! ```
//!
//! A crash before the last step leaves `X.restoring`, which the next restore to this name removes. The store is one that
//! was never before: its file id, master key and nonces are drawn by `Store::open` like any new store's.

use std::io::{self, Read};

use super::BackupId;
use super::error::RestoreError;
use super::read::{At, Chain};
use crate::env::{Env, LockOutcome, OpenMode};
use crate::error::OpenError;
use crate::limits::VALUE_BYTES_MAX;
use crate::load::Loader;
use crate::log::writer::log_file_names;
use crate::options::{KeySource, Options};
use crate::store::Store;
use crate::superblock::MAGIC;
use crate::txn::{Durability, TreeId};

/// How far a restore is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreProgress {
    /// Rows restored.
    pub rows: u64,
    /// Bytes read of all backups.
    pub bytes_read: u64,
    /// Bytes of the new file that were read again, and how many there are; 0 until all rows are there.
    pub verified: u64,
    /// How many there are to be read again.
    pub verify_total: u64,
}

/// What was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreReport {
    /// The last backup of the chain.
    pub backup: BackupId,
    /// The commit, of the store that was backed up, which the new one shows.
    pub commit_no: u64,
    /// When that backup was made, in milliseconds since 1970, as its machine believed.
    pub backup_wall_ms: u64,
    /// Trees.
    pub trees: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// Makes a new store out of a full backup and its increments, in the order in which they were made. `key` opens the
/// backups; `options` say how the new store is made, its own key included. Its file id, master key and nonces are new.
///
/// All bytes are checked as they are read, and all pages after they were written. A store of `env`'s name appears when
/// everything is there, verified and durable; after an error or a crash there is none.
pub fn restore(
    env: Env,
    options: Options,
    parts: Vec<&mut dyn Read>,
    key: &KeySource,
    progress: &mut dyn FnMut(RestoreProgress),
) -> Result<RestoreReport, RestoreError> {
    let making = Making::prepare(&env)?;
    let mut chain = Chain::open(parts, key)?;
    let header = chain.header().clone();
    making.finish(options, |store| {
        let mut told = RestoreProgress::default();
        let mut trees = 0;
        let mut filler = Filler::new(store);
        let mut tree = None;
        loop {
            chain.advance()?;
            match chain.at {
                At::Start => {}
                At::Tree => {
                    let name = std::str::from_utf8(&chain.tree).expect("the chain has looked at it");
                    tree = Some(filler.tree(name)?);
                    trees += 1;
                }
                At::Row => {
                    let tree = tree.expect("the chain has named a tree before");
                    fill_row(&mut filler, tree, &mut chain)?;
                    if filler.rows.is_multiple_of(1024) {
                        (told.rows, told.bytes_read) = (filler.rows, chain.bytes_read());
                        progress(told);
                    }
                }
                At::TreeEnd => {}
                At::End => break,
            }
        }
        (told.rows, told.bytes_read) = (filler.rows, chain.bytes_read());
        let (rows, bytes) = (filler.rows, filler.bytes);
        progress(told);
        filler.finish()?;
        store.verify(&mut |now| {
            (told.verified, told.verify_total) = (now.done_bytes, now.total_bytes);
            progress(told);
        })?;
        Ok(RestoreReport {
            backup: header.id,
            commit_no: header.commit_no,
            backup_wall_ms: header.wall_ms,
            trees,
            rows,
            bytes,
        })
    })
}

fn fill_row(filler: &mut Filler<'_>, tree: TreeId, chain: &mut Chain<'_>) -> Result<(), RestoreError> {
    let len = chain.value_len;
    let mut key = std::mem::take(&mut filler.key);
    key.clone_from(&chain.key);
    let result = if len <= VALUE_BYTES_MAX as u64 {
        let mut value = std::mem::take(&mut filler.value);
        value.resize(len as usize, 0);
        let put = chain.read_value(&mut value).and_then(|()| filler.put(tree, &key, &value));
        filler.value = value;
        put
    } else {
        filler.put_long(tree, &key, len, &mut |out| chain.read_value(out))
    };
    filler.key = key;
    result
}

/// Puts rows into a store in the making.
pub(crate) struct Filler<'s> {
    store: &'s Store,
    loader: Loader,
    /// The tree that was named last, as long as it has no row.
    empty: Option<TreeId>,
    all_empty: Vec<TreeId>,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// Bytes of a long value in memory at once.
const PIECE_BYTES: usize = 64 << 10;

impl<'s> Filler<'s> {
    pub(crate) fn new(store: &'s Store) -> Self {
        Self {
            store,
            loader: store.loader(),
            empty: None,
            all_empty: Vec::new(),
            rows: 0,
            bytes: 0,
            key: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Names the tree that the next rows are of.
    pub(crate) fn tree(&mut self, name: &str) -> Result<TreeId, RestoreError> {
        self.all_empty.extend(self.empty.take());
        let tree = self.loader.tree(name)?;
        self.empty = Some(tree);
        Ok(tree)
    }

    pub(crate) fn put(&mut self, tree: TreeId, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        self.loader.put(tree, key, value)?;
        self.count(key, value.len() as u64);
        Ok(())
    }

    /// Streams a value that is too long to be put, `next` giving its bytes piece by piece.
    pub(crate) fn put_long(
        &mut self,
        tree: TreeId,
        key: &[u8],
        len: u64,
        next: &mut dyn FnMut(&mut [u8]) -> Result<(), RestoreError>,
    ) -> Result<(), RestoreError> {
        let mut tx = self.store.write();
        let mut writer = tx.value_writer(tree, key)?;
        let mut piece = vec![0; PIECE_BYTES];
        let mut left = len;
        while left > 0 {
            let now = left.min(PIECE_BYTES as u64) as usize;
            next(&mut piece[..now])?;
            writer.push(&piece[..now])?;
            left -= now as u64;
        }
        writer.finish()?;
        // Durable with the close: until then nobody knows this store.
        tx.commit_with(Durability::Buffered, |_| Ok(()))?;
        self.count(key, len);
        Ok(())
    }

    fn count(&mut self, key: &[u8], len: u64) {
        self.empty = None;
        self.rows += 1;
        self.bytes += key.len() as u64 + len;
    }

    /// Makes all rows part of the store.
    pub(crate) fn finish(&mut self) -> Result<(), RestoreError> {
        self.all_empty.extend(self.empty.take());
        std::mem::replace(&mut self.loader, self.store.loader()).finish()?;
        // A tree is in the catalogue from the first commit that writes to it on.
        for &tree in &self.all_empty {
            let mut tx = self.store.write();
            tx.put(tree, b"", b"")?;
            tx.commit_with(Durability::Buffered, |_| Ok(()))?;
            let mut tx = self.store.write();
            tx.delete(tree, b"")?;
            tx.commit_with(Durability::Buffered, |_| Ok(()))?;
        }
        self.store.checkpoint()?;
        Ok(())
    }
}

/// A store that is made under another name and gets its own when it is whole.
pub(crate) struct Making {
    env: Env,
    temporary: Env,
}

impl Making {
    /// Refuses a target that exists; removes what an earlier try has left.
    pub(crate) fn prepare(env: &Env) -> Result<Self, RestoreError> {
        let temporary = Env { name: format!("{}.restoring", env.name), ..env.clone() };
        let this = Self { env: env.clone(), temporary };
        this.check_target()?;
        this.remove_leftover()?;
        Ok(this)
    }

    /// Makes the store, has it filled, closes it and gives it its name.
    pub(crate) fn finish<R>(
        self,
        options: Options,
        fill: impl FnOnce(&Store) -> Result<R, RestoreError>,
    ) -> Result<R, RestoreError> {
        let result = self.make(options, fill);
        if result.is_err() {
            // Best effort: the next try removes what is left now.
            let _ = self.remove_leftover();
        }
        result
    }

    fn make<R>(
        &self,
        options: Options,
        fill: impl FnOnce(&Store) -> Result<R, RestoreError>,
    ) -> Result<R, RestoreError> {
        let options = Options { read_only: false, create: true, auto_vacuum: None, ..options };
        let store = Store::open(self.temporary.clone(), options).map_err(RestoreError::Create)?;
        let filled = fill(&store);
        let closed = store.close();
        drop(store);
        let result = filled?;
        closed?;
        // Everything is in pages, and both headers say so.
        let storage = &self.env.storage;
        for name in log_file_names(&self.temporary.name) {
            remove(&self.env, &name)?;
        }
        self.check_target()?;
        storage.rename(&self.temporary.name, &self.env.name).map_err(io("naming the new store"))?;
        storage.sync_dir().map_err(io("syncing the folder"))?;
        Ok(result)
    }

    fn check_target(&self) -> Result<(), RestoreError> {
        match self.env.storage.exists(&self.env.name).map_err(io("looking for the target"))? {
            true => Err(RestoreError::TargetExists { path: self.env.describe() }),
            false => Ok(()),
        }
    }

    /// Removes what an earlier try has left, if it is one and nobody is at it.
    fn remove_leftover(&self) -> Result<(), RestoreError> {
        let (storage, name) = (&self.env.storage, &self.temporary.name);
        match storage.open(name, OpenMode::Write) {
            Ok(file) => {
                if file.try_lock().map_err(io("locking a leftover"))? == LockOutcome::Held {
                    return Err(RestoreError::Busy { path: self.temporary.describe() });
                }
                let mut magic = [0; 8];
                let got = file.read_at(0, &mut magic).map_err(io("reading a leftover"))?;
                if got > 0 && magic != MAGIC {
                    return Err(RestoreError::InTheWay { path: self.temporary.describe() });
                }
                remove(&self.env, name)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(io("opening a leftover")(source)),
        }
        log_file_names(name).iter().try_for_each(|name| remove(&self.env, name))
    }
}

fn remove(env: &Env, name: &str) -> Result<(), RestoreError> {
    match env.storage.remove(name) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(io("removing a file of the restore")(source)),
        _ => Ok(()),
    }
}

fn io(during: &'static str) -> impl Fn(io::Error) -> RestoreError {
    move |source| RestoreError::Io { during, source }
}

impl From<OpenError> for RestoreError {
    fn from(error: OpenError) -> Self {
        Self::Create(error)
    }
}
