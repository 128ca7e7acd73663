//! The introduction of store and sync: what turns committed operations into sealed batches, and received entries into
//! committed documents. No I/O beyond the store, no clock of its own: whoever carries frames drives it.
//!
//! The relay connection's thread, the relay's materialised copy and the simulated world all drive this one type.
//! Invariants: the outbox is `pending` and `outbox` and nothing else; an own operation leaves it only in the
//! transaction that applies its relay entry; the cursor moves in the same transaction as what it covers.

mod apply;
mod bind;
mod fold;
mod outbox;
pub(crate) mod pending;
mod seal;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use blazedb_engine::ReadView;
use blazedb_sync::{OpSource, OutboxPosition};
use blazedb_wire::{Batch, Hello, OpId, Reads, ReplicaId, Welcome};
use bytes::Bytes;

use crate::inner::Inner;
use crate::layout::{self, Binding, Incarnation, LocalName};
use crate::{Error, ErrorKind};

pub use apply::Applied;
pub use outbox::OutboxCounts;

/// The protocol that this version speaks.
const PROTOCOL: u32 = blazedb_wire::PROTOCOL_VERSION;

/// A database's side of replication, for a transport of one's own; [`crate::Database::enable_sync`] is the ready one.
///
/// The order at each connection is: send [`Replica::hello`]; hand the answer to [`Replica::welcome`]; [`Replica::seal`];
/// then send [`Replica::batch_after`] and apply what arrives, in its order.
#[derive(Clone)]
pub struct Replica {
    inner: Arc<Inner>,
}

/// What the replication side keeps in memory; the store holds all of it as well.
pub(crate) struct ReplicaState {
    /// Every incarnation that may still have operations in the outbox.
    incarnations: BTreeMap<u32, Incarnation>,
    by_replica: HashMap<ReplicaId, u32>,
    /// Sealed batches: first counter to last counter, by incarnation.
    sealed: BTreeMap<LocalName, u64>,
    /// Highest counter that the relay said it has, by incarnation: those batches need no sending.
    known: HashMap<u32, u64>,
    /// Incarnations of earlier opens with nothing in the outbox: the next seal removes them (spec: D-6).
    spent: Vec<u32>,
    /// Sequence of the last entry that is applied whole.
    cursor: u64,
    /// Sequence of the last operation that is applied: more than the cursor while an entry is applied in parts.
    part: u64,
    /// The sealed batches looked at last, decoded.
    decoded: Vec<(LocalName, Batch)>,
}

/// Decoded batches kept while operations are folded again; a batch inflates to at most 256 KiB, or one operation.
const DECODED_BATCHES_MAX: usize = 4;

impl ReplicaState {
    pub(crate) fn load(view: &ReadView) -> Result<Self, Error> {
        let (cursor, part) = layout::read_cursor(|key| layout::read_meta(view, key))?;
        let mut state = Self {
            incarnations: BTreeMap::new(),
            by_replica: HashMap::new(),
            sealed: BTreeMap::new(),
            known: HashMap::new(),
            spent: Vec::new(),
            cursor,
            part,
            decoded: Vec::new(),
        };
        if let Some(tree) = view.tree(layout::REPLICAS)? {
            for item in view.range(tree, ..) {
                let (key, value) = item?;
                let number = <[u8; 4]>::try_from(&key[..])
                    .map(u32::from_be_bytes)
                    .map_err(|_| Error::new(ErrorKind::Corrupt, "a replica's key has the wrong length"))?;
                let incarnation = Incarnation::decode(&value).map_err(|e| Error::corrupt("a replica id", e))?;
                state.learn(number, incarnation);
            }
        }
        if let Some(tree) = view.tree(layout::OUTBOX)? {
            for item in view.range(tree, ..) {
                let (key, value) = item?;
                let name = LocalName::from_key(&key)?;
                let batch = Batch::decode(value).map_err(|e| Error::corrupt("a sealed batch", e))?;
                state.sealed.insert(name, name.counter + batch.len() as u64 - 1);
            }
        }
        let waiting = state.waiting_incarnations(view)?;
        state.spent = state.incarnations.keys().copied().filter(|number| !waiting.contains(number)).collect();
        for number in &state.spent {
            if let Some(incarnation) = state.incarnations.remove(number) {
                state.by_replica.remove(&incarnation.replica);
            }
        }
        Ok(state)
    }

    /// Returns the incarnations that have operations in the outbox, oldest first.
    fn waiting_incarnations(&self, view: &ReadView) -> Result<BTreeSet<u32>, Error> {
        let mut numbers: BTreeSet<u32> = self.sealed.keys().map(|name| name.incarnation).collect();
        if let Some(tree) = view.tree(layout::PENDING)? {
            // One probe per incarnation instead of a walk over everything that waits.
            let mut from = 0u32;
            loop {
                let start = LocalName { incarnation: from, counter: 0 }.key();
                let Some(item) = view.range(tree, (Bound::Included(&start[..]), Bound::Unbounded)).next() else {
                    break;
                };
                let name = LocalName::from_key(&item?.0)?;
                numbers.insert(name.incarnation);
                let Some(next) = name.incarnation.checked_add(1) else { break };
                from = next;
            }
        }
        Ok(numbers)
    }

    /// Forgets what was read of the outbox at the opening: a file that binds now had none that counts.
    fn forget_outbox(&mut self) {
        self.incarnations.clear();
        self.by_replica.clear();
        self.sealed.clear();
        self.decoded.clear();
    }

    fn learn(&mut self, number: u32, incarnation: Incarnation) {
        self.by_replica.insert(incarnation.replica, number);
        self.incarnations.insert(number, incarnation);
    }

    /// Returns the operations that an incarnation born now would build on.
    pub(crate) fn unacknowledged(&self, view: &ReadView) -> Result<Vec<OpId>, Error> {
        let mut last: BTreeMap<u32, u64> = BTreeMap::new();
        for (name, end) in &self.sealed {
            last.insert(name.incarnation, *end);
        }
        if let Some(tree) = view.tree(layout::PENDING)? {
            for item in view.range(tree, ..) {
                let name = LocalName::from_key(&item?.0)?;
                last.insert(name.incarnation, name.counter);
            }
        }
        let mut deps: Vec<OpId> = last
            .into_iter()
            .filter_map(|(n, counter)| Some(OpId { replica: self.incarnations.get(&n)?.replica, counter }))
            .collect();
        deps.sort_by_key(|dep| dep.replica);
        Ok(deps)
    }

    fn remember(&mut self, name: LocalName, batch: Batch) {
        if self.decoded.len() >= DECODED_BATCHES_MAX {
            self.decoded.remove(0);
        }
        self.decoded.push((name, batch));
    }
}

impl Replica {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// Returns the frame body that opens a session: the space, the cursor, and the ids with work in the outbox.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn hello(&self) -> Result<Hello, Error> {
        let state = self.inner.replica.lock();
        let binding = *self.inner.binding.read();
        let view = self.inner.store.read();
        let replicas = state
            .waiting_incarnations(&view)?
            .into_iter()
            .map(|number| Ok(self.incarnation(&state, &view, number)?.replica))
            .collect::<Result<_, Error>>()?;
        Ok(Hello {
            protocol: PROTOCOL,
            space: binding.map(|b| b.space),
            epoch: binding.map_or(0, |b| b.epoch),
            cursor: state.cursor,
            reads: Reads::ALL,
            replicas,
        })
    }

    /// Takes the relay's answer: binds the file at its first sync, checks the space and the epoch, and notes which
    /// operations the relay has already.
    ///
    /// # Errors
    /// [`ErrorKind::Sync`] if this file belongs to another space, or to another life of it.
    pub fn welcome(&self, welcome: &Welcome) -> Result<(), Error> {
        if welcome.protocol != PROTOCOL {
            return Err(Error::new(
                ErrorKind::Sync,
                format!(
                    "the relay speaks protocol {}, this library {PROTOCOL}; update the older one",
                    welcome.protocol
                ),
            ));
        }
        let binding = *self.inner.binding.read();
        match binding {
            None => self.bind(Binding { space: welcome.space, epoch: welcome.epoch, follower: false })?,
            Some(b) if b.space != welcome.space => {
                return Err(Error::new(
                    ErrorKind::Sync,
                    format!(
                        "this file belongs to space {}, the relay offers space {}; sync it with its own relay and space name, \
                         or export and import into a new file",
                        b.space, welcome.space
                    ),
                ));
            }
            Some(b) if b.epoch != welcome.epoch => {
                return Err(Error::new(
                    ErrorKind::Sync,
                    format!(
                        "the relay's log began a new epoch ({}, this file knows {}): the relay was restored from a backup; \
                         keep this file and ask the relay's operator",
                        welcome.epoch, b.epoch
                    ),
                ));
            }
            Some(_) => {}
        }
        let mut state = self.inner.replica.lock();
        state.known.clear();
        for (replica, counter) in &welcome.counters {
            if let Some(number) = state.by_replica.get(replica).copied() {
                state.known.insert(number, *counter);
            }
        }
        Ok(())
    }

    /// Makes this database a read-only copy of a space, fed only by [`Replica::apply_entry`].
    ///
    /// # Errors
    /// [`ErrorKind::State`] if the file holds anything of its own or follows another space.
    pub fn follow(&self, space: blazedb_wire::SpaceId, epoch: u32) -> Result<(), Error> {
        let binding = *self.inner.binding.read();
        match binding {
            Some(b) if b.follower && b.space == space && b.epoch == epoch => Ok(()),
            None if self.inner.store.read().commit_no() == 0 => self.bind(Binding { space, epoch, follower: true }),
            _ => Err(Error::new(ErrorKind::State, "only an empty file can become a follower of a space")),
        }
    }

    /// Returns the last relay sequence that this replica has applied, of entries that it has applied whole.
    pub fn cursor(&self) -> u64 {
        self.inner.replica.lock().cursor
    }

    /// Returns the first sealed batch after `position` that the relay is not known to have.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn batch_after(&self, position: OutboxPosition) -> Result<Option<(OutboxPosition, Bytes)>, Error> {
        let state = self.inner.replica.lock();
        let from = LocalName { incarnation: position.incarnation, counter: position.counter + 1 };
        let next = state
            .sealed
            .range(from..)
            .find(|(name, last)| state.known.get(&name.incarnation).is_none_or(|known| **last > *known));
        let Some((name, last)) = next else { return Ok(None) };
        let view = self.inner.store.read();
        let bytes = match view.tree(layout::OUTBOX)? {
            Some(tree) => view.get(tree, &name.key())?,
            None => None,
        };
        let position = OutboxPosition { incarnation: name.incarnation, counter: *last };
        Ok(bytes.map(|bytes| (position, bytes)))
    }

    /// Returns an incarnation; the one of this open is written by the first local commit, behind this side's back.
    fn incarnation(&self, state: &ReplicaState, view: &ReadView, number: u32) -> Result<Incarnation, Error> {
        if let Some(incarnation) = state.incarnations.get(&number) {
            return Ok(incarnation.clone());
        }
        let stored = match view.tree(layout::REPLICAS)? {
            Some(tree) => view.get(tree, &number.to_be_bytes())?,
            None => None,
        };
        let stored = stored.ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "the outbox names a replica id that the file does not hold")
        })?;
        Incarnation::decode(&stored).map_err(|e| Error::corrupt("a replica id", e))
    }
}

/// Lets the session read the outbox.
impl OpSource for Replica {
    type Error = Error;

    fn batch_after(&self, after: OutboxPosition) -> Result<Option<(OutboxPosition, Bytes)>, Error> {
        Self::batch_after(self, after)
    }
}
