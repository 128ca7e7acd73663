//! `Database`: one encrypted file, opened.

use std::path::Path;
use std::sync::Arc;

use blazedb_engine::{Durability, Env, Estimate, MaintainError, Store, VacuumProgress, VerifyProgress};
use blazedb_sync::{HlcClock, InboxEntry};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::changes::Changes;
use crate::collection::{ATTEMPTS, Collection};
use crate::inner::{Identity, Inner};
use crate::layout::{self, Binding, Progress, meta};
use crate::options::Options;
use crate::replica::{Replica, ReplicaState};
use crate::shapes::Shapes;
use crate::stats::{Stats, StatsProgress};
use crate::transaction::{Draft, Transaction, decode_state};
use crate::{Error, ErrorKind};

/// An open database. Cheap to clone; may be used from many threads at once; needs no runtime of the caller.
///
/// The file is closed when the last clone, and everything made from one, is dropped; [`Database::close`] reports errors
/// of that moment.
#[derive(Clone)]
pub struct Database {
    pub(crate) inner: Arc<Inner>,
}

/// What [`Database::verify`] read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VerifyReport {
    /// What the store found in its file.
    pub store: blazedb_engine::VerifyReport,
    /// Live documents whose every field was read.
    pub documents: u64,
    /// Documents with own operations on top of what the log holds.
    pub bases: u64,
    /// Sealed batches that decode.
    pub batches: u64,
}

impl Database {
    /// Opens a file, creating it if the options say so.
    ///
    /// # Errors
    /// [`ErrorKind::Open`]: the file is locked by another process (the message names it), the key is wrong, the file
    /// is damaged, or a newer version wrote it. [`ErrorKind::Limit`]: `options` say what no database can have.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        Self::open_in(Env::file(path), options)
    }

    /// Opens a database in a world of the caller's: storage, clock and randomness.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub fn open_in(env: Env, options: Options) -> Result<Self, Error> {
        let store = Store::open(env.clone(), options.engine)?;
        let view = store.read();
        let shapes = Shapes::load(&view)?;
        let progress = Progress::from_stored(layout::read_meta(&view, meta::PROGRESS)?.as_deref())?;
        let mut clock = HlcClock::default();
        clock.restore(progress.clock);
        let binding = layout::read_meta(&view, meta::BINDING)?
            .map(|bytes| Binding::decode(&bytes).map_err(|e| Error::corrupt("the file's space", e)))
            .transpose()?;
        let replica = ReplicaState::load(&view)?;
        let identity = Identity::new(progress.incarnation, replica.unacknowledged(&view)?);
        drop(view);
        Ok(Self { inner: Arc::new(Inner::new(store, env, shapes, clock, identity, binding, replica)) })
    }

    /// Returns a collection; it exists as soon as a document is in it.
    ///
    /// # Errors
    /// A name that is empty or longer than 255 bytes.
    pub fn collection<T: Serialize + DeserializeOwned>(&self, name: &str) -> Result<Collection<T>, Error> {
        Collection::new(Arc::clone(&self.inner), name)
    }

    /// Returns the names of the collections that hold documents, ascending.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn collections(&self) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for tree in self.inner.store.read().tree_names()? {
            if let Some(name) = layout::collection_of(&tree)
                && !self.collection::<blazedb_wire::Document>(name)?.is_empty()?
            {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Runs `body` in a transaction: all of its writes are committed, durably, or none. Reads see one snapshot and the
    /// transaction's own writes. If another transaction changed the same document first, `body` runs again on a new
    /// snapshot; an error that `body` returns ends the transaction without a trace.
    ///
    /// # Errors
    /// What `body` returns; [`ErrorKind::Conflict`] after 1,000 attempts; [`ErrorKind::Limit`] if the file syncs and
    /// the transaction does not fit one batch of 256 KiB.
    pub fn transaction<R>(&self, mut body: impl FnMut(&Transaction<'_>) -> Result<R, Error>) -> Result<R, Error> {
        let mut attempt = 1;
        loop {
            let tx = Transaction::new(Draft::begin(&self.inner)?);
            let result = match body(&tx) {
                Ok(result) => result,
                Err(e) if e.is_conflict() && attempt < ATTEMPTS => {
                    attempt += 1;
                    continue;
                }
                Err(e) => return Err(e),
            };
            match tx.into_draft().commit(Durability::Durable) {
                Ok(_) => return Ok(result),
                Err(e) if e.is_conflict() && attempt < ATTEMPTS => {
                    self.inner.wait_for_winner(attempt);
                    attempt += 1;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Returns a setting of this file, as [`Transaction::set_local`] wrote it.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn local(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(layout::read_meta(&self.inner.store.read(), &meta::local(name))?.map(|value| value.to_vec()))
    }

    /// Subscribes to committed changes from now on, local and remote alike, in commit order.
    pub fn changes(&self) -> Changes {
        self.inner.changes.subscribe()
    }

    /// Returns the replication side, for a transport of one's own.
    pub fn replica(&self) -> Replica {
        Replica::new(Arc::clone(&self.inner))
    }

    /// Makes this empty database a read-only copy of a space, fed only through [`Database::replica`].
    ///
    /// # Errors
    /// [`ErrorKind::State`] if it is not empty.
    pub fn follow(&self, space: blazedb_wire::SpaceId, epoch: u32) -> Result<(), Error> {
        self.replica().follow(space, epoch)
    }

    /// Returns the digest of every live document: equal on two replicas exactly if they hold the same documents.
    /// Reads all of them.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn digest(&self) -> Result<[u8; 32], Error> {
        Ok(crate::digest::digest(&self.inner, &self.inner.store.read())?.0)
    }

    /// Returns, of one snapshot: the relay sequence that it stands at, its digest, and how many documents it holds.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn digest_at_cursor(&self) -> Result<(u64, [u8; 32], u64), Error> {
        let view = self.inner.store.read();
        let (_, applied) = layout::read_cursor(|key| layout::read_meta(&view, key))?;
        let (digest, documents) = crate::digest::digest(&self.inner, &view)?;
        Ok((applied, digest, documents))
    }

    /// Returns the database in numbers. Reads all documents.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn stats(&self) -> Result<Stats, Error> {
        self.stats_with(&mut |_| {})
    }

    /// As [`Database::stats`], and tells `progress` how far it is.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn stats_with(&self, progress: &mut dyn FnMut(StatsProgress)) -> Result<Stats, Error> {
        crate::stats::stats(&self.inner, progress)
    }

    /// Whether opening saw that it found all that was committed. False where one of the file's two headers could not be read,
    /// and its log does not show that it reaches what the newest one named: the last commits may be missing. Compare with a
    /// backup, or with whoever this file syncs with. It is said once: whoever opens it for writing writes both headers anew.
    pub fn recovered_surely(&self) -> bool {
        self.inner.store.stats().recovered_surely
    }

    /// Says where the space of the file goes, tree by tree ([`TreeRole::of`](crate::TreeRole::of) says what each is for), what
    /// a vacuum would give back and write, and what is worth doing ([`Estimate::advice`]). Reads the whole file.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], naming what does not hold. [`ErrorKind::Storage`]: it could not be looked at as a whole, because
    /// the disk failed, or so much was written meanwhile that what is being read could not be kept.
    pub fn estimate(&self, progress: &mut dyn FnMut(VerifyProgress)) -> Result<Estimate, Error> {
        self.inner.store.estimate(progress).map_err(|e| {
            let kind = match e {
                MaintainError::Corruption(_) | MaintainError::Space { .. } => ErrorKind::Corrupt,
                _ => ErrorKind::Storage,
            };
            Error::with(kind, "the file could not be measured", e)
        })
    }

    /// Returns what merges set aside: edits that came after a delete, operations that a relay refused, and the last
    /// image of documents that were deleted while somebody else edited them.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn inbox(&self) -> Result<Vec<InboxEntry>, Error> {
        let view = self.inner.store.read();
        let Some(tree) = view.tree(layout::INBOX)? else { return Ok(Vec::new()) };
        view.range(tree, ..)
            .map(|item| {
                let (key, value) = item?;
                InboxEntry::decode(&key, &value).map_err(|e| Error::corrupt("an inbox entry", e))
            })
            .collect()
    }

    /// Reads the whole file and every document of it, and reports the first damage as an error. `progress` is called
    /// with how far that is: the first half of its bytes are pages, the second half what documents are in them.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] or [`ErrorKind::Storage`], naming what does not hold.
    pub fn verify(&self, progress: &mut dyn FnMut(VerifyProgress)) -> Result<VerifyReport, Error> {
        let inner = &self.inner;
        let mut pages = 0;
        let store = inner
            .store
            .verify(&mut |now| {
                pages = now.total_bytes;
                progress(VerifyProgress { total_bytes: 2 * now.total_bytes, ..now });
            })
            .map_err(|e| match e {
                MaintainError::Corruption(_) | MaintainError::Space { .. } => {
                    Error::with(ErrorKind::Corrupt, "the file is damaged; restore a copy", e)
                }
                _ => Error::with(ErrorKind::Storage, "the file was not read as a whole", e),
            })?;
        let view = inner.store.read();
        let mut report = VerifyReport { store, documents: 0, bases: 0, batches: 0 };
        let (mut read, all) = (0_u64, report.store.entries.max(1));
        for name in view.tree_names()? {
            let Some(collection) = layout::collection_of(&name) else { continue };
            let Some(records) = view.tree(&name)? else { continue };
            for item in view.range(records, ..) {
                let (key, value) = item?;
                read += 1;
                if read.is_multiple_of(256) {
                    let of_half = u128::from(pages) * u128::from(read.min(all)) / u128::from(all);
                    progress(VerifyProgress { done_bytes: pages + of_half as u64, total_bytes: 2 * pages });
                }
                layout::document_id(&key)?;
                if matches!(decode_state(Some(&value), inner)?, blazedb_sync::DocState::Live(_)) {
                    report.documents += 1;
                }
            }
            let Some(bases) = view.tree(&layout::bases_tree(collection))? else { continue };
            for item in view.range(bases, ..) {
                let base = layout::Base::decode(&item?.1).map_err(|e| Error::corrupt("a base row", e))?;
                decode_state(base.state.as_ref(), inner)?;
                report.bases += 1;
            }
        }
        if let Some(tree) = view.tree(layout::OUTBOX)? {
            for item in view.range(tree, ..) {
                blazedb_wire::Batch::decode(item?.1).map_err(|e| Error::corrupt("a sealed batch", e))?;
                report.batches += 1;
            }
        }
        self.inbox()?;
        progress(VerifyProgress { done_bytes: 2 * pages, total_bytes: 2 * pages });
        Ok(report)
    }

    /// Makes the file as short as it can be and gives the space back to the file system, in steps, while everything else
    /// goes on; `progress` is told how far it is after each. What open transactions and old views still need stays
    /// ([`VacuumProgress::held_bytes`]); calling it again when they have ended gives that back as well.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn vacuum(&self, progress: &mut dyn FnMut(VacuumProgress)) -> Result<VacuumProgress, Error> {
        let done = self.inner.store.vacuum(0, progress);
        done.map_err(|e| Error::with(ErrorKind::Storage, "the file could not be made shorter; nothing is lost", e))
    }

    /// Closes the file: what was committed is on disk, the log is folded, and the lock is released. Handles that are
    /// still around give errors from then on.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`] if the last writes failed; everything acknowledged before is durable all the same.
    pub fn close(self) -> Result<(), Error> {
        self.inner.changes.close();
        self.inner
            .store
            .close()
            .map_err(|e| Error::with(ErrorKind::Storage, "the database did not close cleanly; open it again", e))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.changes.close();
    }
}
