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
use super::read::{At, Chain, Named, named};
use super::rewind::Rewind;
use crate::env::{Env, LockOutcome, OpenMode};
use crate::error::{OpenError, ReadError};
use crate::history::Moment;
use crate::limits::VALUE_BYTES_MAX;
use crate::load::Loader;
use crate::log::writer::{check_log_names, is_log, log_file_names};
use crate::open::{MAKING_SUFFIX, new_file_name};
use crate::options::{KeySource, Options};
use crate::store::Store;
use crate::superblock::MAGIC;
use crate::txn::{Durability, TreeId};

/// How far a restore is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreProgress {
    /// Rows restored; told with 0 of everything before anything is made.
    pub rows: u64,
    /// Bytes read of all backups.
    pub bytes_read: u64,
    /// Bytes of the new file that were read again, and how many there are; 0 until all rows are there.
    pub verified: u64,
    /// How many there are to be read again.
    pub verify_total: u64,
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreReport {
    /// The last backup of the chain.
    pub backup: BackupId,
    /// The commit, of the store that was backed up, which the new one shows.
    pub commit_no: u64,
    /// When that backup was made, in milliseconds since 1970, as its machine believed.
    pub backup_wall_ms: u64,
    /// Trees.
    pub trees: u64,
    /// Rows that the new store has.
    pub rows: u64,
    /// Bytes of keys and values that were written.
    pub bytes: u64,
    /// Where a moment before the backup was restored: trees without a history, which are as the backup has them.
    pub without_history: Vec<String>,
}

/// The moment that is to be restored.
pub struct RestoreAt<'f> {
    moment: Moment,
    finish: Option<&'f mut Finish<'f>>,
}

type Finish<'f> = dyn FnMut(&Store) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + 'f;

impl<'f> RestoreAt<'f> {
    /// This moment.
    pub fn new(moment: Moment) -> Self {
        Self { moment, finish: None }
    }

    /// Has the new store changed by `finish` when all is in it, before it is verified and gets its name.
    #[must_use]
    pub fn then(mut self, finish: &'f mut Finish<'f>) -> Self {
        self.finish = Some(finish);
        self
    }
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
    restore_with(env, options, parts, key, None, progress)
}

/// As `restore`, but the new store shows an earlier moment: trees whose history is in the backups (`BackupOptions::history`)
/// are as they were then, others as the last backup has them (`RestoreReport::without_history`). The moment must lie within
/// what the backups hold. The history of the new store begins with the restore; older moments stay in the backups.
///
/// ```
/// # use blazedb_engine::{BackupOptions, Env, History, Moment, Options, RestoreAt, Store, restore_at};
/// # let key = || Options::raw_key([7; 32]);
/// # let store = Store::open(Env::memory(1), key())?;
/// let notes = store.tree("notes")?;
/// store.set_history(notes, Some(History::ALL))?;
/// let mut tx = store.write();
/// tx.put(notes, b"monday", b"rain")?;
/// let monday = tx.commit()?.commit_no;
/// let mut tx = store.write();
/// tx.delete(notes, b"monday")?;
/// tx.commit()?;
/// let mut backup = Vec::new();
/// store.backup(&mut backup, &BackupOptions::default().history(true), &mut |_| {})?;
///
/// let (env, at) = (Env::memory(2), RestoreAt::new(Moment::Commit(monday)));
/// restore_at(env.clone(), key(), vec![&mut &backup[..]], &key().key, at, &mut |_| {})?;
/// let restored = Store::open(env, key())?;
/// assert_eq!(restored.read().get(restored.tree("notes")?, b"monday")?.as_deref(), Some(&b"rain"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn restore_at(
    env: Env,
    options: Options,
    parts: Vec<&mut dyn Read>,
    key: &KeySource,
    at: RestoreAt<'_>,
    progress: &mut dyn FnMut(RestoreProgress),
) -> Result<RestoreReport, RestoreError> {
    restore_with(env, options, parts, key, Some(at), progress)
}

/// Where the rows that come next belong.
enum Rows {
    Tree(TreeId),
    Kept,
    Times,
    Twin(TreeId),
}

fn restore_with(
    env: Env,
    options: Options,
    parts: Vec<&mut dyn Read>,
    key: &KeySource,
    mut at: Option<RestoreAt<'_>>,
    progress: &mut dyn FnMut(RestoreProgress),
) -> Result<RestoreReport, RestoreError> {
    let making = Making::prepare(&env)?;
    let mut chain = Chain::open(parts, key)?;
    let header = chain.header().clone();
    let mut rewind = Rewind::new(at.as_ref().map(|at| at.moment), &header)?;
    progress(RestoreProgress::default());
    making.finish(options, |store| {
        let mut told = RestoreProgress::default();
        let mut filler = Filler::new(store);
        let mut rows = None;
        loop {
            chain.advance()?;
            match chain.at {
                At::Start | At::TreeEnd => {}
                At::Tree => {
                    let named = named(&chain.tree).expect("the chain has looked at it");
                    rows = Some(match named {
                        Named::Tree(name) => {
                            let tree = filler.tree(name)?;
                            rewind.trees.insert(name.to_owned(), tree);
                            Rows::Tree(tree)
                        }
                        Named::Kept => Rows::Kept,
                        Named::Times => Rows::Times,
                        Named::Twin(name) => Rows::Twin(rewind.begin_twin(name, &chain, &mut filler)?),
                    });
                }
                At::Row => match rows.as_ref().expect("the chain has named a tree before") {
                    &Rows::Tree(tree) => {
                        let key = chain.key.clone();
                        fill_row(&mut filler, tree, &key, &mut chain)?;
                        if filler.rows.is_multiple_of(1024) {
                            (told.rows, told.bytes_read) = (filler.rows, chain.bytes_read());
                            progress(told);
                        }
                    }
                    Rows::Kept => rewind.kept(&mut chain)?,
                    Rows::Times => rewind.time(&mut chain)?,
                    &Rows::Twin(tree) => {
                        rewind.version(tree, &mut chain, &mut filler)?;
                        if chain.bytes_read() - told.bytes_read > TELL_BYTES {
                            (told.rows, told.bytes_read) = (filler.rows, chain.bytes_read());
                            progress(told);
                        }
                    }
                },
                At::End => break,
            }
        }
        (told.rows, told.bytes_read) = (filler.rows, chain.bytes_read());
        let bytes = filler.bytes;
        progress(told);
        filler.finish()?;
        let without_history = rewind.finish(&chain, store)?;
        if let Some(finish) = at.as_mut().and_then(|at| at.finish.as_mut()) {
            finish(store).map_err(RestoreError::Write)?;
        }
        let view = store.read();
        let rows = rewind.trees.values().try_fold(0, |rows, &tree| Ok::<_, ReadError>(rows + view.len(tree)?))?;
        drop(view);
        store.verify(&mut |now| {
            (told.verified, told.verify_total) = (now.done_bytes, now.total_bytes);
            progress(told);
        })?;
        Ok(RestoreReport {
            backup: header.id,
            commit_no: rewind.target()?.unwrap_or(header.commit_no),
            backup_wall_ms: header.wall_ms,
            trees: rewind.trees.len() as u64,
            rows,
            bytes,
            without_history,
        })
    })
}

/// Bytes read between two words of progress, where rows are passed.
const TELL_BYTES: u64 = 1 << 20;

/// Puts the value that the chain stands on.
pub(super) fn fill_row(
    filler: &mut Filler<'_>,
    tree: TreeId,
    key: &[u8],
    chain: &mut Chain<'_>,
) -> Result<(), RestoreError> {
    let len = chain.value_len;
    if len > VALUE_BYTES_MAX as u64 {
        return filler.put_long(tree, key, len, &mut |out| chain.read_value(out));
    }
    let mut value = std::mem::take(&mut filler.value);
    value.resize(len as usize, 0);
    let put = chain.read_value(&mut value).and_then(|()| filler.put(tree, key, &value));
    filler.value = value;
    put
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
    value: Vec<u8>,
    /// Keys that are to go, and their bytes.
    gone: Vec<(TreeId, Vec<u8>)>,
    gone_bytes: usize,
}

/// Bytes of keys that are deleted in one commit.
const GONE_BYTES: usize = 64 << 10;
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
            value: Vec::new(),
            gone: Vec::new(),
            gone_bytes: 0,
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

    /// Makes all rows part of the store that were put: what comes takes their place.
    pub(super) fn settle(&mut self) -> Result<(), RestoreError> {
        std::mem::replace(&mut self.loader, self.store.loader()).finish()?;
        Ok(())
    }

    /// Deletes a key that was put before `settle`.
    pub(super) fn delete(&mut self, tree: TreeId, key: &[u8]) -> Result<(), RestoreError> {
        self.gone.push((tree, key.to_vec()));
        self.gone_bytes += key.len() + 32;
        if self.gone_bytes >= GONE_BYTES { self.delete_gone() } else { Ok(()) }
    }

    fn delete_gone(&mut self) -> Result<(), RestoreError> {
        self.gone_bytes = 0;
        if self.gone.is_empty() {
            return Ok(());
        }
        let mut tx = self.store.write();
        for (tree, key) in self.gone.drain(..) {
            tx.delete(tree, &key)?;
        }
        tx.commit_with(Durability::Buffered, |_| Ok(()))?;
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
        self.settle()?;
        self.delete_gone()?;
        // A tree is in the catalogue from the first commit that writes to it on. One that was empty where its rows were
        // first looked for may have some by now: of a log, or of an earlier moment.
        for &tree in &self.all_empty {
            if self.store.read().len(tree)? > 0 {
                continue;
            }
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

/// Returns the names of all files that a restore or a salvage to this name may have made so far, and leaves behind where its
/// process ends: who starts the next one need not care, as it removes them. That of the new store comes first.
pub fn names_in_the_making(store: &str) -> Vec<String> {
    let name = format!("{store}{MAKING_SUFFIX}");
    let mut names = vec![new_file_name(&name)];
    names.extend(log_file_names(&name));
    names.insert(0, name);
    names
}

/// A store that is made under another name and gets its own when it is whole.
pub(crate) struct Making {
    env: Env,
    temporary: Env,
}

impl Making {
    /// Refuses a target that exists; removes what an earlier try has left.
    pub(crate) fn prepare(env: &Env) -> Result<Self, RestoreError> {
        let temporary = Env { name: format!("{}{MAKING_SUFFIX}", env.name), ..env.clone() };
        let this = Self { env: env.clone(), temporary };
        // Whoever restores to the name before that would remove what is made here.
        if env.name.ends_with(MAKING_SUFFIX) {
            return Err(RestoreError::Create(OpenError::ReservedName { suffix: MAKING_SUFFIX }));
        }
        this.check_target()?;
        // With them no writer would open what is made.
        check_log_names(env).map_err(|error| match error {
            OpenError::InTheWay { path } => {
                RestoreError::LogInTheWay { path: Env { name: path, ..env.clone() }.describe() }
            }
            error => RestoreError::Create(error),
        })?;
        this.remove_leftover()?;
        Ok(this)
    }

    /// Makes the store, has it filled, closes it and gives it its name.
    pub(crate) fn finish<R, E: From<RestoreError>>(
        self,
        options: Options,
        fill: impl FnOnce(&Store) -> Result<R, E>,
    ) -> Result<R, E> {
        let result = self.make(options, fill);
        if result.is_err() {
            // Best effort: the next try removes what is left now.
            let _ = self.remove_leftover();
        }
        result
    }

    fn make<R, E: From<RestoreError>>(
        &self,
        options: Options,
        fill: impl FnOnce(&Store) -> Result<R, E>,
    ) -> Result<R, E> {
        let options = Options { read_only: false, create: true, auto_vacuum: None, ..options };
        let store = Store::open_any(self.temporary.clone(), options).map_err(RestoreError::Create)?;
        let filled = fill(&store);
        let closed = store.close();
        drop(store);
        let result = filled?;
        closed.map_err(RestoreError::from)?;
        self.name()?;
        Ok(result)
    }

    /// Gives the store its name. Everything is in pages, and both headers say so.
    fn name(&self) -> Result<(), RestoreError> {
        let storage = &self.env.storage;
        for name in log_file_names(&self.temporary.name) {
            remove(&self.env, &name)?;
        }
        self.check_target()?;
        storage.rename(&self.temporary.name, &self.env.name).map_err(io("naming the new store"))?;
        storage.sync_dir().map_err(io("syncing the folder"))
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
        for log in log_file_names(name) {
            match storage.open(&log, OpenMode::Read) {
                Ok(file) if is_log(&*file).map_err(io("reading a leftover"))? => remove(&self.env, &log)?,
                Ok(_) => {
                    let temporary = Env { name: log, ..self.env.clone() };
                    return Err(RestoreError::InTheWay { path: temporary.describe() });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(io("opening a leftover")(source)),
            }
        }
        Ok(())
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
