//! What every handle of one open database shares: the store, the catalogue of shapes, the clock, the identity of this
//! open, and the hub of changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blazedb_engine::{CommitError, Durability, Env, Serial, Store, TreeId, WriteTransaction};
use blazedb_sync::HlcClock;
use blazedb_wire::{Hlc, OpId, ReplicaId};
use parking_lot::{Mutex, RwLock};

use crate::changes::{ChangeHub, Commit, DocumentChange, Origin};
use crate::layout::{self, Binding, Incarnation, Progress, meta};
use crate::replica::ReplicaState;
use crate::shapes::Shapes;
use crate::{Error, ErrorKind};

pub(crate) struct Inner {
    pub(crate) store: Store,
    /// The world that the store lives in: time and chance for stamps and ids.
    pub(crate) env: Env,
    pub(crate) shapes: Shapes,
    pub(crate) clock: Mutex<HlcClock>,
    pub(crate) identity: Mutex<Identity>,
    /// The space of this file; changes once, at the first sync, and only while `writers` is held exclusively.
    pub(crate) binding: RwLock<Option<Binding>>,
    /// Local transactions hold it shared from their first read to their commit; binding holds it alone.
    pub(crate) writers: RwLock<()>,
    pub(crate) replica: Mutex<ReplicaState>,
    pub(crate) changes: ChangeHub,
    /// Order of the serial section: each commit takes a ticket there and publishes when its turn comes.
    tickets: AtomicU64,
    publisher: Mutex<Publisher>,
    /// Called after each local commit: wakes the sync thread.
    pub(crate) on_commit: RwLock<Option<Arc<dyn Fn() + Send + Sync>>>,
}

/// The replica id of this open: minted at its first local write (joints P4).
pub(crate) struct Identity {
    /// Highest incarnation that the file knew when it was opened.
    previous: u32,
    /// Operations of earlier incarnations that were not acknowledged when the file was opened.
    deps: Vec<OpId>,
    current: Option<(u32, Incarnation)>,
}

impl Identity {
    pub(crate) fn new(previous: u32, deps: Vec<OpId>) -> Self {
        Self { previous, deps, current: None }
    }

    /// Returns the incarnation number and replica id of this open, minting them if this is the first write.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`] if the system gives no random bytes.
    pub(crate) fn mint(&mut self, env: &Env) -> Result<(u32, ReplicaId), Error> {
        if let Some((number, incarnation)) = &self.current {
            return Ok((*number, incarnation.replica));
        }
        let mut secret = [0; 32];
        env.entropy.secret(&mut secret).map_err(no_entropy)?;
        let public = ed25519_dalek::SigningKey::from_bytes(&secret).verifying_key();
        let replica = ReplicaId::for_public_key(public.as_bytes());
        let number = self.previous + 1;
        self.current = Some((number, Incarnation { replica, secret, acked: 0, deps: self.deps.clone() }));
        Ok((number, replica))
    }

    pub(crate) fn current(&self) -> Option<(u32, &Incarnation)> {
        self.current.as_ref().map(|(n, i)| (*n, i))
    }
}

pub(crate) fn no_entropy(e: std::io::Error) -> Error {
    Error::with(ErrorKind::Storage, "the system gave no random bytes", e)
}

/// Commits that have ended, kept until every commit before them in the serial section has ended too.
#[derive(Default)]
struct Publisher {
    next: u64,
    waiting: BTreeMap<u64, Option<Commit>>,
}

impl Publisher {
    fn publish_ready(&mut self, hub: &ChangeHub) {
        while let Some(commit) = self.waiting.remove(&self.next) {
            if let Some(commit) = commit {
                hub.publish(&commit);
            }
            self.next += 1;
        }
    }
}

/// Maps an error of a commit to what the caller may do about it.
pub(crate) fn commit_error(e: CommitError) -> Error {
    if matches!(e, CommitError::Conflict { .. }) {
        Error::with(ErrorKind::Conflict, "another transaction changed the same document first; run this one again", e)
    } else {
        Error::with(ErrorKind::Storage, "the transaction was not committed", e)
    }
}

/// The trees that every stamping commit writes.
pub(crate) struct CoreTrees {
    pub(crate) meta: TreeId,
    pub(crate) shapes: TreeId,
    pub(crate) replicas: TreeId,
    pub(crate) pending: TreeId,
    pub(crate) outbox: TreeId,
    pub(crate) inbox: TreeId,
}

impl CoreTrees {
    pub(crate) fn open(tx: &mut WriteTransaction) -> Result<Self, Error> {
        let mut tree =
            |name| tx.tree(name).map_err(|e| Error::with(ErrorKind::Storage, "a tree could not be opened", e));
        Ok(Self {
            meta: tree(layout::META)?,
            shapes: tree(layout::SHAPES)?,
            replicas: tree(layout::REPLICAS)?,
            pending: tree(layout::PENDING)?,
            outbox: tree(layout::OUTBOX)?,
            inbox: tree(layout::INBOX)?,
        })
    }
}

impl Inner {
    pub(crate) fn new(
        store: Store,
        env: Env,
        shapes: Shapes,
        clock: HlcClock,
        identity: Identity,
        binding: Option<Binding>,
        replica: ReplicaState,
    ) -> Self {
        Self {
            store,
            env,
            shapes,
            clock: Mutex::new(clock),
            identity: Mutex::new(identity),
            binding: RwLock::new(binding),
            writers: RwLock::new(()),
            replica: Mutex::new(replica),
            changes: ChangeHub::default(),
            tickets: AtomicU64::new(0),
            publisher: Mutex::new(Publisher::default()),
            on_commit: RwLock::new(None),
        }
    }

    /// Issues the next stamp.
    pub(crate) fn tick(&self) -> Hlc {
        self.clock.lock().tick(self.env.clock.wall_ms())
    }

    /// Waits until the commit that won against a transaction can be seen, so that the next attempt does not run into
    /// it again: the conflict check knows commits that are still on their way to the disk.
    ///
    /// Attempt by attempt a little longer and never in step with others, up to some milliseconds.
    pub(crate) fn wait_for_winner(&self, attempt: usize) {
        self.store.wait_for_winner(attempt);
    }

    /// Writes the catalogue entries that a record refers to and that may not be durable yet.
    pub(crate) fn put_shapes(
        &self,
        serial: &mut Serial<'_>,
        trees: &CoreTrees,
        through: Option<u32>,
    ) -> Result<(), Error> {
        let Some(through) = through else { return Ok(()) };
        for (number, bytes) in self.shapes.not_durable_through(through) {
            serial_put(serial, trees.shapes, &number.to_be_bytes(), bytes)?;
        }
        Ok(())
    }

    /// Commits `tx` with `hook` in the serial section, then publishes the changes that the hook returned, in commit
    /// order. The one door for local and remote changes.
    pub(crate) fn commit(
        &self,
        tx: WriteTransaction,
        durability: Durability,
        origin: Origin,
        hook: impl FnOnce(&mut Serial<'_>) -> Result<Vec<DocumentChange>, Error>,
    ) -> Result<u64, Error> {
        let mut failed = None;
        let mut changes = Vec::new();
        let mut ticket = None;
        let result = tx.commit_with(durability, |serial| match hook(serial) {
            Ok(list) => {
                changes = list;
                ticket = Some(self.tickets.fetch_add(1, Ordering::Relaxed));
                Ok(())
            }
            Err(e) => {
                let text = e.to_string();
                failed = Some(e);
                Err(blazedb_engine::HookError::new(text))
            }
        });
        let done = match (result, failed) {
            (_, Some(e)) => Err(e),
            (Err(e), None) => Err(commit_error(e)),
            (Ok(info), None) => Ok(info),
        };
        if let Some(ticket) = ticket {
            let commit = match &done {
                Ok(info) if !changes.is_empty() => {
                    Some(Commit { commit_no: info.commit_no, origin, changes: changes.into() })
                }
                _ => None,
            };
            let mut publisher = self.publisher.lock();
            publisher.waiting.insert(ticket, commit);
            publisher.publish_ready(&self.changes);
        }
        let info = done?;
        if origin == Origin::Local
            && let Some(wake) = &*self.on_commit.read()
        {
            wake();
        }
        Ok(info.commit_no)
    }
}

/// Reads the clock and counter record in the serial section.
pub(crate) fn serial_progress(serial: &Serial<'_>, trees: &CoreTrees) -> Result<Progress, Error> {
    Progress::from_stored(serial.get(trees.meta, meta::PROGRESS)?.as_deref())
}

pub(crate) fn serial_put(
    serial: &mut Serial<'_>,
    tree: TreeId,
    key: &[u8],
    value: impl AsRef<[u8]>,
) -> Result<(), Error> {
    serial
        .put(tree, key, value.as_ref())
        .map_err(|e| Error::with(ErrorKind::Limit, "a record does not fit the store", e))
}

pub(crate) fn serial_delete(serial: &mut Serial<'_>, tree: TreeId, key: &[u8]) -> Result<(), Error> {
    serial.delete(tree, key).map_err(|e| Error::with(ErrorKind::Storage, "a record could not be removed", e))
}
