//! What is shown = base + own operations that the log does not have yet: keeping both in step, inside a transaction's
//! serial section (joints P3).

use std::collections::BTreeMap;
use std::sync::Arc;

use blazedb_engine::limits::TRANSACTION_BYTES_MAX;
use blazedb_engine::{Serial, TreeId, WriteTransaction};
use blazedb_sync::{DocState, Fate, OpContext, fold, settle};
use blazedb_wire::{Batch, DocumentId, Op, OpId, limits};
use bytes::Bytes;

use super::ReplicaState;
use super::apply::Applied;
use super::pending::PendingOp;
use crate::changes::{ChangeKind, DocumentChange};
use crate::inner::{CoreTrees, Inner, serial_delete, serial_put};
use crate::layout::{self, Base, Incarnation, LocalName};
use crate::transaction::{decode_state, encode_state};
use crate::{Error, ErrorKind};

/// Bytes that a transaction of the store may hold when another document is put into it, and after it what goes along
/// with all of them: the lists of field names, the marks of the outbox, the clock.
pub(super) const TRANSACTION_BYTES_FULL: usize = 24 << 20;

/// Bytes after which a transaction that may end here does. What comes next may be as large as the rest of it.
pub(super) const TRANSACTION_BYTES_DUE: usize = 8 << 20;

/// Bytes that one document writes at most: what is shown and what the log alone says, each a row and the stamps of 4,096
/// fields and 256 names that were unset, and what is set aside for the inbox, which is as large.
pub(super) const DOCUMENT_WRITES_MAX: usize = 3 * (limits::ROW_BYTES_MAX + (256 << 10));

// Beside a last document there is room for the lists of field names of a batch, and for as much of what other
// transactions have numbered and not written yet.
const _: () = assert!(
    TRANSACTION_BYTES_FULL + DOCUMENT_WRITES_MAX + 4 * limits::BATCH_SINGLE_BYTES_MAX <= TRANSACTION_BYTES_MAX
        && TRANSACTION_BYTES_DUE <= TRANSACTION_BYTES_FULL / 2
);

/// The trees of one collection.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    pub(super) records: TreeId,
    pub(super) bases: TreeId,
}

impl Pair {
    pub(super) fn open(engine: &mut WriteTransaction, collection: &str) -> Result<Self, Error> {
        let mut open = |name: String| {
            engine.tree(&name).map_err(|e| Error::with(ErrorKind::Storage, "a tree could not be opened", e))
        };
        Ok(Self { records: open(layout::records_tree(collection))?, bases: open(layout::bases_tree(collection))? })
    }
}

/// One sequenced operation.
pub(super) struct Step<'a> {
    pub(super) pair: Pair,
    pub(super) op: Op,
    pub(super) id: OpId,
    pub(super) seq: u64,
    pub(super) deps: &'a [OpId],
    pub(super) fate: Fate,
    /// The operation's name in this file's outbox, if it was written here.
    pub(super) own: Option<LocalName>,
}

/// The work of one transaction.
pub(super) struct Fold<'a> {
    inner: &'a Inner,
    core: &'a CoreTrees,
    state: &'a mut ReplicaState,
    pub(super) shapes_through: Option<u32>,
    changes: BTreeMap<(Arc<str>, DocumentId), ChangeKind>,
}

impl<'a> Fold<'a> {
    pub(super) fn new(inner: &'a Inner, core: &'a CoreTrees, state: &'a mut ReplicaState) -> Self {
        Self { inner, core, state, shapes_through: None, changes: BTreeMap::new() }
    }

    /// Returns how far the log is applied, parts of an entry included.
    pub(super) fn part(&self) -> u64 {
        self.state.part
    }

    pub(super) fn into_changes(self) -> Vec<DocumentChange> {
        self.changes.into_iter().map(|((collection, id), kind)| DocumentChange { collection, id, kind }).collect()
    }

    /// Applies one sequenced operation to the document's base and shows the result.
    pub(super) fn step(&mut self, serial: &mut Serial<'_>, step: &Step<'_>, done: &mut Applied) -> Result<(), Error> {
        let key = step.op.id.as_bytes();
        let shown = serial.get(step.pair.records, key)?;
        let stored_base = self.base(serial, step.pair, key)?;
        let had_base = stored_base.is_some();
        let (stored, mut own) = match stored_base {
            Some(base) => (base.state, base.ops),
            None => (shown.clone(), Vec::new()),
        };
        if let Some(name) = step.own {
            own.retain(|n| *n != name);
        }
        let mut base = decode_state(stored.as_ref(), self.inner)?;
        let context = OpContext { seq: step.seq, ..OpContext::own(&step.op, step.id, step.deps) };
        let outcome = settle(&base, &context, step.fate, step.own.is_some());
        if step.fate == Fate::Applied {
            done.applied += 1;
            done.concurrent += u64::from(outcome.concurrent);
        }
        if let Some(entry) = &outcome.boxed {
            done.boxed += 1;
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            serial_put(serial, self.core.inbox, &entry.key(), bytes)?;
        }
        if let Some(state) = outcome.state {
            base = state;
        }
        self.show(serial, step.pair, &step.op.collection, step.op.id, base, own, had_base, shown)
    }

    /// Folds a document again after the stamps of some of its own operations changed.
    pub(super) fn refold(
        &mut self,
        serial: &mut Serial<'_>,
        pair: Pair,
        collection: &Arc<str>,
        id: DocumentId,
    ) -> Result<(), Error> {
        let Some(base) = self.base(serial, pair, id.as_bytes())? else { return Ok(()) };
        let shown = serial.get(pair.records, id.as_bytes())?;
        let state = decode_state(base.state.as_ref(), self.inner)?;
        self.show(serial, pair, collection, id, state, base.ops, true, shown)
    }

    fn base(&self, serial: &Serial<'_>, pair: Pair, key: &[u8]) -> Result<Option<Base>, Error> {
        serial
            .get(pair.bases, key)?
            .map(|bytes| Base::decode(&bytes).map_err(|e| Error::corrupt("a base row", e)))
            .transpose()
    }

    /// Writes base and own operations, and what they make together.
    #[allow(clippy::too_many_arguments, reason = "one document's whole situation, used in two places only")]
    fn show(
        &mut self,
        serial: &mut Serial<'_>,
        pair: Pair,
        collection: &Arc<str>,
        id: DocumentId,
        base: DocState,
        own: Vec<LocalName>,
        had_base: bool,
        shown: Option<Bytes>,
    ) -> Result<(), Error> {
        let key = id.as_bytes();
        let mut ops = Vec::with_capacity(own.len());
        for name in &own {
            ops.push(self.own_op(serial, *name)?);
        }
        let current = fold(&base, ops.iter().map(|(op, id, deps)| OpContext::own(op, *id, deps)));
        if !own.is_empty() {
            let state = match &base {
                DocState::Absent => None,
                state => Some(encode_state(state, self.inner, &mut self.shapes_through)?.into()),
            };
            serial_put(serial, pair.bases, key, Base { state, ops: own }.encode())?;
        } else if had_base {
            serial_delete(serial, pair.bases, key)?;
        }
        let before = decode_state(shown.as_ref(), self.inner)?;
        match &current {
            DocState::Absent => {
                if shown.is_some() {
                    serial_delete(serial, pair.records, key)?;
                }
            }
            state => {
                let bytes = encode_state(state, self.inner, &mut self.shapes_through)?;
                if shown.as_deref() != Some(&bytes[..]) {
                    serial_put(serial, pair.records, key, bytes)?;
                }
            }
        }
        let kind = match (&before, &current) {
            (DocState::Live(a), DocState::Live(b)) if a.row == b.row => return Ok(()),
            (_, DocState::Live(_)) => ChangeKind::Put,
            (DocState::Live(_), _) => ChangeKind::Delete,
            _ => return Ok(()),
        };
        self.changes.insert((Arc::clone(collection), id), kind);
        Ok(())
    }

    /// Returns an own operation of the outbox, sealed or not, with its name and what its incarnation builds on.
    fn own_op(&mut self, serial: &Serial<'_>, name: LocalName) -> Result<(Op, OpId, Vec<OpId>), Error> {
        let incarnation = match self.state.incarnations.get(&name.incarnation) {
            Some(incarnation) => incarnation.clone(),
            // A local commit wrote it after this transaction began.
            None => match serial.get(self.core.replicas, &name.incarnation.to_be_bytes())? {
                Some(bytes) => Incarnation::decode(&bytes).map_err(|e| Error::corrupt("a replica id", e))?,
                None => return Err(lost(name)),
            },
        };
        let op = match serial.get(self.core.pending, &name.key())? {
            Some(bytes) => PendingOp::decode(&bytes, &self.inner.shapes)?.op,
            None => self.sealed_op(serial, name)?,
        };
        Ok((op, OpId { replica: incarnation.replica, counter: name.counter }, incarnation.deps))
    }

    fn sealed_op(&mut self, serial: &Serial<'_>, name: LocalName) -> Result<Op, Error> {
        let (first, last) =
            self.state.sealed.range(..=name).next_back().map(|(n, last)| (*n, *last)).ok_or_else(|| lost(name))?;
        if first.incarnation != name.incarnation || last < name.counter {
            return Err(lost(name));
        }
        let index = (name.counter - first.counter) as usize;
        if let Some((_, batch)) = self.state.decoded.iter().find(|(n, _)| *n == first) {
            return Ok(batch.op(index).to_op());
        }
        let bytes = serial.get(self.core.outbox, &first.key())?.ok_or_else(|| lost(name))?;
        let batch = Batch::decode(bytes).map_err(|e| Error::corrupt("a sealed batch", e))?;
        let op = batch.op(index).to_op();
        self.state.remember(first, batch);
        Ok(op)
    }

    /// Removes from the outbox what the log has now: counters up to `last`. Returns the sealed batches that ended.
    pub(super) fn clear_outbox(
        &mut self,
        serial: &mut Serial<'_>,
        number: u32,
        first: u64,
        last: u64,
    ) -> Result<Vec<LocalName>, Error> {
        let from = LocalName { incarnation: number, counter: 0 };
        let to = LocalName { incarnation: number, counter: last };
        let finished: Vec<LocalName> =
            self.state.sealed.range(from..=to).filter(|(_, end)| **end <= last).map(|(name, _)| *name).collect();
        for name in &finished {
            serial_delete(serial, self.core.outbox, &name.key())?;
        }
        // A copied file can be told of operations that it has not sealed itself: the other copy sent them.
        for counter in first..=last {
            let key = LocalName { incarnation: number, counter }.key();
            if serial.get(self.core.pending, &key)?.is_some() {
                serial_delete(serial, self.core.pending, &key)?;
            }
        }
        if let Some(incarnation) = self.state.incarnations.get(&number)
            && incarnation.acked < last
        {
            let mut incarnation = incarnation.clone();
            incarnation.acked = last;
            serial_put(serial, self.core.replicas, &number.to_be_bytes(), incarnation.encode())?;
        }
        Ok(finished)
    }
}

fn lost(name: LocalName) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("own operation {}:{} is missing from the outbox; run `blazedb verify`", name.incarnation, name.counter),
    )
}
