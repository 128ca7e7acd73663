//! Sealing: own operations get their final stamps and batch boundaries, once and durably, before a byte of them leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use blazedb_engine::{Durability, WriteTransaction};
use blazedb_sync::SealContext;
use blazedb_wire::{DocumentId, Hlc, Op};

use super::fold::{DOCUMENT_WRITES_MAX, Fold, Pair, TRANSACTION_BYTES_DUE, TRANSACTION_BYTES_FULL};
use super::pending::PendingOp;
use super::{Replica, ReplicaState};
use crate::changes::Origin;
use crate::inner::{CoreTrees, serial_delete, serial_progress, serial_put};
use crate::layout::{self, LocalName, meta};
use crate::{Error, ErrorKind};

/// Operations sealed in one transaction: bounds how long the serial section is held.
const SEAL_OPS_MAX: usize = 8192;

/// Bytes of waiting operations, with the field names that their batches repeat, after which a transaction of the store
/// takes no further one of the user's.
const SEAL_BYTES_MAX: usize = 4 << 20;

// The last transaction to join fits a batch. Batches are of 16 KiB or more but for the one before a large transaction:
// their heads are at most half as much again.
const _: () = assert!(
    (SEAL_BYTES_MAX + blazedb_wire::limits::BATCH_SINGLE_BYTES_MAX) / 2 * 3 + DOCUMENT_WRITES_MAX
        <= TRANSACTION_BYTES_FULL
);

/// The waiting operations of one incarnation that share an epoch.
struct Run {
    number: u32,
    epoch: u32,
    first: u64,
    ops: Vec<Op>,
}

/// What one transaction of sealing writes.
struct Seal {
    names: Vec<LocalName>,
    /// Batches: first counter, last counter, bytes.
    puts: Vec<(LocalName, u64, bytes::Bytes)>,
    /// The newest stamp among them.
    newest: Hlc,
}

/// An operation that gets another stamp when it is sealed: here it has it.
struct Restamp {
    name: LocalName,
    op: PendingOp,
}

impl Restamp {
    fn document(&self) -> (&Arc<str>, DocumentId) {
        (&self.op.op.collection, self.op.op.id)
    }
}

impl Replica {
    /// Seals every committed operation that is not sealed yet; returns how many were.
    ///
    /// `relay_now` is the relay's time in milliseconds if the relay trusts its clock: stamps ahead of it are brought
    /// back to it. After this returns the batches are durable and their bytes never change.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn seal(&self, relay_now: Option<u64>) -> Result<u64, Error> {
        let mut state = self.inner.replica.lock();
        let mut total = 0;
        loop {
            let sealed = self.seal_some(&mut state, relay_now)?;
            if sealed == 0 {
                return Ok(total);
            }
            total += sealed;
        }
    }

    fn seal_some(&self, state: &mut ReplicaState, relay_now: Option<u64>) -> Result<u64, Error> {
        let inner = &*self.inner;
        let Some(binding) = *inner.binding.read() else { return Ok(0) };
        // The view first: whatever operation it shows, its incarnation is there to be read afterwards.
        let view = inner.store.read();
        self.refresh_incarnations(state)?;
        let Some(pending) = view.tree(layout::PENDING)? else { return Ok(0) };
        let mut runs: Vec<Run> = Vec::new();
        let (mut count, mut bytes) = (0, 0);
        for item in view.range(pending, ..) {
            let (key, value) = item?;
            let name = LocalName::from_key(&key)?;
            let PendingOp { op, epoch } = PendingOp::decode(&value, &inner.shapes)?;
            let goes_on = op.more;
            bytes += key.len() + value.len() + op.unset.encoded_len();
            bytes += op.set.as_ref().map_or(0, |row| row.shape().encoded_len());
            match runs.last_mut() {
                Some(run) if run.number == name.incarnation && run.epoch == epoch => run.ops.push(op),
                _ => runs.push(Run { number: name.incarnation, epoch, first: name.counter, ops: vec![op] }),
            }
            count += 1;
            if (count >= SEAL_OPS_MAX || bytes >= SEAL_BYTES_MAX) && !goes_on {
                break;
            }
        }
        if runs.is_empty() {
            return Ok(0);
        }
        let mut progress = layout::Progress::from_stored(layout::read_meta(&view, meta::PROGRESS)?.as_deref())?;
        drop(view);

        let mut puts: Vec<(LocalName, u64, bytes::Bytes)> = Vec::new();
        let mut names = Vec::with_capacity(count);
        let mut restamps: Vec<Restamp> = Vec::new();
        for run in runs {
            let incarnation = state.incarnations.get(&run.number).ok_or_else(|| {
                Error::new(
                    ErrorKind::Corrupt,
                    "the outbox names a replica id that the file does not hold; run `blazedb verify`",
                )
            })?;
            let context = SealContext {
                space: binding.space,
                replica: incarnation.replica,
                epoch: run.epoch,
                deps: &incarnation.deps,
                relay_now,
                max_seen: progress.seen,
                previous: progress.sealed,
            };
            names.extend(
                (0..run.ops.len() as u64).map(|i| LocalName { incarnation: run.number, counter: run.first + i }),
            );
            let sealed = blazedb_sync::seal(run.first, &run.ops, &context)
                .map_err(|e| Error::with(ErrorKind::State, "committed operations cannot be sealed", e))?;
            if let Some(newest) = sealed.stamps.iter().max() {
                progress.sealed = progress.sealed.max(*newest);
            }
            for ((op, stamp), i) in run.ops.into_iter().zip(&sealed.stamps).zip(0..) {
                if op.hlc != *stamp {
                    let name = LocalName { incarnation: run.number, counter: run.first + i };
                    restamps.push(Restamp { name, op: PendingOp { op: Op { hlc: *stamp, ..op }, epoch: run.epoch } });
                }
            }
            for batch in sealed.batches {
                let name = LocalName { incarnation: run.number, counter: batch.first_counter };
                puts.push((name, batch.last_counter, batch.bytes));
            }
        }

        let seal = Seal { names, puts, newest: progress.sealed };
        if !self.put_sealed(state, &seal, &restamps)? {
            // The documents are too much for one transaction beside the batches: they come first, some at a time.
            self.restamp(state, &restamps, seal.newest)?;
            self.put_sealed(state, &seal, &[])?;
        }
        Ok(seal.names.len() as u64)
    }

    /// Moves operations from where they wait to the outbox, as batches, and folds the documents again whose operations
    /// have other stamps now. Returns whether it did: `false` if one transaction does not hold all of it.
    fn put_sealed(&self, state: &mut ReplicaState, seal: &Seal, restamps: &[Restamp]) -> Result<bool, Error> {
        let inner = &*self.inner;
        let mut engine = inner.store.write();
        let core = CoreTrees::open(&mut engine)?;
        let pairs = open_pairs(&mut engine, restamps)?;
        let documents: BTreeSet<(&Arc<str>, DocumentId)> = restamps.iter().map(Restamp::document).collect();
        for (name, last, _) in &seal.puts {
            state.sealed.insert(*name, *last);
        }
        let mut through = None;
        let mut is_full = false;
        let result = inner.commit(engine, Durability::Durable, Origin::Remote, |serial| {
            for name in &seal.names {
                serial_delete(serial, core.pending, &name.key())?;
            }
            for (name, _, bytes) in &seal.puts {
                serial_put(serial, core.outbox, &name.key(), bytes.clone())?;
            }
            for number in &state.spent {
                serial_delete(serial, core.replicas, &number.to_be_bytes())?;
            }
            let mut newest = serial_progress(serial, &core)?;
            newest.sealed = newest.sealed.max(seal.newest);
            newest.clock = newest.clock.max(seal.newest);
            inner.clock.lock().observe(newest.clock);
            serial_put(serial, core.meta, meta::PROGRESS, newest.encode())?;
            let mut fold = Fold::new(inner, &core, state);
            for (collection, id) in documents {
                if serial.bytes() > TRANSACTION_BYTES_FULL {
                    is_full = true;
                    return Err(Error::new(ErrorKind::Limit, "more documents than one transaction holds"));
                }
                fold.refold(serial, pairs[collection], collection, id)?;
            }
            through = fold.shapes_through;
            inner.put_shapes(serial, &core, through)?;
            Ok(fold.into_changes())
        });
        if let Err(e) = result {
            for (name, _, _) in &seal.puts {
                state.sealed.remove(name);
                state.decoded.retain(|(n, _)| n != name);
            }
            return if is_full { Ok(false) } else { Err(e) };
        }
        inner.shapes.mark_durable(through);
        state.spent.clear();
        Ok(true)
    }

    /// Gives waiting operations the stamps that they are going to be sealed with, and folds their documents again, in as
    /// many transactions as it takes. The stamps are provisional still: if this is cut off, the next seal begins anew.
    fn restamp(&self, state: &mut ReplicaState, restamps: &[Restamp], newest: Hlc) -> Result<(), Error> {
        let inner = &*self.inner;
        let mut rest = restamps;
        while !rest.is_empty() {
            let mut engine = inner.store.write();
            let core = CoreTrees::open(&mut engine)?;
            let pairs = open_pairs(&mut engine, rest)?;
            let mut through = None;
            let mut taken = 0;
            inner.commit(engine, Durability::Buffered, Origin::Remote, |serial| {
                // What is written from now on is newer than what is shown then.
                let mut progress = serial_progress(serial, &core)?;
                progress.clock = progress.clock.max(newest);
                inner.clock.lock().observe(progress.clock);
                serial_put(serial, core.meta, meta::PROGRESS, progress.encode())?;
                let mut fold = Fold::new(inner, &core, state);
                for of_one in rest.chunk_by(|a, b| a.document() == b.document()) {
                    for Restamp { name, op } in of_one {
                        serial_put(serial, core.pending, &name.key(), op.encode(&inner.shapes)?)?;
                    }
                    let (collection, id) = of_one[0].document();
                    fold.refold(serial, pairs[collection], collection, id)?;
                    taken += of_one.len();
                    if serial.bytes() > TRANSACTION_BYTES_DUE {
                        break;
                    }
                }
                through = fold.shapes_through;
                inner.put_shapes(serial, &core, through)?;
                Ok(fold.into_changes())
            })?;
            inner.shapes.mark_durable(through);
            rest = &rest[taken..];
        }
        Ok(())
    }
}

fn open_pairs(engine: &mut WriteTransaction, restamps: &[Restamp]) -> Result<BTreeMap<Arc<str>, Pair>, Error> {
    let mut pairs = BTreeMap::new();
    for Restamp { op: PendingOp { op, .. }, .. } in restamps {
        if !pairs.contains_key(&op.collection) {
            pairs.insert(Arc::clone(&op.collection), Pair::open(engine, &op.collection)?);
        }
    }
    Ok(pairs)
}
