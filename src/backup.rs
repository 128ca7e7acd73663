//! Backups of a database, and back into a new one.
//!
//! A restored database is a copy like any other copy of a file (spec: D-2): what waits in its outbox keeps its names, and
//! whoever has it too is innocent; what is written from now on is written under a name of its own, which the first write of
//! each opening mints. So both may go on, the old one and the restored one, and meet at the relay.

use std::io::{Read, Write};
use std::path::Path;

use blazedb_engine::{
    BackupOptions, BackupProgress, BackupReport, Env, Moment, RestoreAt, RestoreProgress, RestoreReport, Store,
};

use crate::database::Database;
use crate::error::refused_options;
use crate::layout::{self, meta};
use crate::options::Options;
use crate::{Error, ErrorKind};

impl Database {
    /// Writes everything that the database holds at this moment to `out`, while everything else goes on: documents,
    /// bookkeeping, what waits to be synced. Encrypted if the file is, with the same passphrase or key. The backup is whole
    /// when this returns `Ok`; before, it has no end, and [`Database::restore`] refuses it.
    ///
    /// ```
    /// # use blazedb::{BackupOptions, Database, Document, Env, Options, Patch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let at = |name: &str| dir.path().join(name);
    /// let options = || Options::raw_key([7; 32]);
    /// let db = Database::open(at("todo.blaze"), options())?;
    /// db.collection::<Document>("todos")?.insert(&Document::default())?;
    ///
    /// let mut file = std::fs::File::create(at("monday.bak"))?;
    /// db.backup(&mut file, &BackupOptions::default(), &mut |_| {})?;
    ///
    /// let mut file = std::fs::File::open(at("monday.bak"))?;
    /// Database::restore(at("new.blaze"), options(), vec![&mut file], &options(), &mut |_| {})?;
    /// let restored = Database::open(at("new.blaze"), options())?;
    /// assert_eq!(restored.collection::<Document>("todos")?.len()?, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Storage`]: the file could not be read, the backup could not be written, or so much was written
    /// meanwhile that the moment could not be kept any longer.
    pub fn backup(
        &self,
        out: &mut dyn Write,
        options: &BackupOptions,
        progress: &mut dyn FnMut(BackupProgress),
    ) -> Result<BackupReport, Error> {
        self.inner.store.backup(out, options, progress).map_err(no_backup)
    }

    /// As [`Database::backup`], but leaves out what did not change since `base`, the last backup of this file. To restore
    /// it takes the last full one and all increments since, in order.
    ///
    /// # Errors
    /// As [`Database::backup`]; and if `base` is not whole, of another file, or older than a change of the master key, or of
    /// a key that opened the file.
    pub fn backup_since(
        &self,
        base: &mut dyn Read,
        out: &mut dyn Write,
        options: &BackupOptions,
        progress: &mut dyn FnMut(BackupProgress),
    ) -> Result<BackupReport, Error> {
        self.inner.store.backup_since(base, out, options, progress).map_err(no_backup)
    }

    /// Makes a new file at `path` out of a full backup and its increments, in the order in which they were made. `backup`
    /// has the passphrase or key of the backups, `options` that of the new file. The file appears when everything is there,
    /// verified and durable. It is a copy with an identity of its own: it may sync, beside the old one if that still lives.
    ///
    /// # Errors
    /// [`ErrorKind::State`]: there is a file at `path`, or the backups do not follow one another. [`ErrorKind::Corrupt`]: a
    /// backup is damaged or cut short. [`ErrorKind::Open`]: another passphrase or key. [`ErrorKind::Storage`]: the disk.
    pub fn restore(
        path: impl AsRef<Path>,
        options: Options,
        parts: Vec<&mut dyn Read>,
        backup: &Options,
        progress: &mut dyn FnMut(RestoreProgress),
    ) -> Result<RestoreReport, Error> {
        Self::restore_in(Env::file(path), options, parts, backup, progress)
    }

    /// Restores in a world of the caller's.
    ///
    /// # Errors
    /// As [`Database::restore`].
    pub fn restore_in(
        env: Env,
        options: Options,
        parts: Vec<&mut dyn Read>,
        backup: &Options,
        progress: &mut dyn FnMut(RestoreProgress),
    ) -> Result<RestoreReport, Error> {
        blazedb_engine::restore(env, options.engine, parts, &backup.engine.key, progress).map_err(not_restored)
    }

    /// As [`Database::restore`], but the new file shows an earlier moment: documents of collections whose history is in the
    /// backups ([`BackupOptions::history`]) are as they were then, all else as the last backup has it
    /// ([`RestoreReport::without_history`] names those trees). The moment must lie within what the backups hold. History
    /// begins anew with the restore; older moments stay in the backups.
    ///
    /// The new file belongs to no space: one that did would take up at once what the others know, and be as new as they
    /// are. What was not sent yet is not sent by it. It may join a space like any file that was never synced.
    ///
    /// # Errors
    /// As [`Database::restore`]; [`ErrorKind::State`] also where the backups do not hold the moment.
    pub fn restore_at(
        path: impl AsRef<Path>,
        options: Options,
        parts: Vec<&mut dyn Read>,
        backup: &Options,
        moment: Moment,
        progress: &mut dyn FnMut(RestoreProgress),
    ) -> Result<RestoreReport, Error> {
        Self::restore_at_in(Env::file(path), options, parts, backup, moment, progress)
    }

    /// Restores a moment in a world of the caller's.
    ///
    /// # Errors
    /// As [`Database::restore_at`].
    pub fn restore_at_in(
        env: Env,
        options: Options,
        parts: Vec<&mut dyn Read>,
        backup: &Options,
        moment: Moment,
        progress: &mut dyn FnMut(RestoreProgress),
    ) -> Result<RestoreReport, Error> {
        let mut leave = |store: &Store| leave_space(store).map_err(Into::into);
        let at = RestoreAt::new(moment).then(&mut leave);
        let report = blazedb_engine::restore_at(env, options.engine, parts, &backup.engine.key, at, progress);
        let mut report = report.map_err(not_restored)?;
        // The file's own trees are no collections.
        let without = std::mem::take(&mut report.without_history);
        report.without_history =
            without.iter().filter_map(|tree| layout::collection_of(tree)).map(str::to_owned).collect();
        Ok(report)
    }
}

/// Keys that are deleted in one transaction.
const KEYS_MAX: usize = 1000;

/// Forgets the space, and all that is of no use outside it. spec: D-2
pub(crate) fn leave_space(store: &Store) -> Result<(), Error> {
    let view = store.read();
    for name in view.tree_names()? {
        let is_whole = name == layout::PENDING || name == layout::OUTBOX || layout::is_bases_tree(&name);
        let Some(tree) = view.tree(&name)?.filter(|_| is_whole || name == layout::META) else { continue };
        let mut cursor = view.range(tree, ..).filter(|item| {
            is_whole
                || item.as_ref().is_ok_and(|(key, _)| [meta::BINDING, meta::CURSOR, meta::PART].contains(&&key[..]))
        });
        loop {
            let keys = cursor.by_ref().take(KEYS_MAX).collect::<Result<Vec<_>, _>>()?;
            if keys.is_empty() {
                break;
            }
            let mut tx = store.write();
            for (key, _) in keys {
                tx.delete(tree, &key).map_err(not_written)?;
            }
            tx.commit().map_err(not_written)?;
        }
    }
    Ok(())
}

pub(crate) fn not_written(e: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::with(ErrorKind::Storage, "the new file could not be written", e)
}

fn no_backup(e: blazedb_engine::BackupError) -> Error {
    Error::with(ErrorKind::Storage, "the backup was not made", e)
}

pub(crate) fn not_restored(e: blazedb_engine::RestoreError) -> Error {
    use blazedb_engine::RestoreError as E;

    if let E::Create(source) = &e
        && let Some(refused) = refused_options(source)
    {
        return refused;
    }
    let kind = match e {
        E::TargetExists { .. }
        | E::Busy { .. }
        | E::InTheWay { .. }
        | E::LogInTheWay { .. }
        | E::NoBackup
        | E::TooManyParts { .. }
        | E::NotFull { .. }
        | E::NoHistory { .. }
        | E::BeforeHistory { .. }
        | E::AfterBackup { .. }
        | E::WrongOrder { .. } => ErrorKind::State,
        E::NotABackup { .. } | E::CutShort { .. } | E::Damaged { .. } => ErrorKind::Corrupt,
        E::WrongKey { .. }
        | E::KeyMissing { .. }
        | E::NotEncrypted { .. }
        | E::Key { .. }
        | E::UnsupportedVersion { .. } => ErrorKind::Open,
        _ => ErrorKind::Storage,
    };
    Error::with(kind, "no new file was made", e)
}
