//! Sealing: own operations get their final stamps and batch boundaries, once and durably, before a byte of them leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use blazedb_engine::Durability;
use blazedb_sync::SealContext;
use blazedb_wire::{DocumentId, Op};

use super::fold::{Fold, Pair};
use super::pending::PendingOp;
use super::{Replica, ReplicaState};
use crate::changes::Origin;
use crate::inner::{CoreTrees, serial_delete, serial_progress, serial_put};
use crate::layout::{self, LocalName, meta};
use crate::{Error, ErrorKind};

/// Operations sealed in one transaction: bounds its memory, and how long the serial section is held.
const SEAL_OPS_MAX: usize = 8192;

/// The waiting operations of one incarnation that share an epoch.
struct Run {
    number: u32,
    epoch: u32,
    first: u64,
    ops: Vec<Op>,
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
        let mut count = 0;
        for item in view.range(pending, ..) {
            let (key, value) = item?;
            let name = LocalName::from_key(&key)?;
            let PendingOp { op, epoch } = PendingOp::decode(&value, &inner.shapes)?;
            let goes_on = op.more;
            match runs.last_mut() {
                Some(run) if run.number == name.incarnation && run.epoch == epoch => run.ops.push(op),
                _ => runs.push(Run { number: name.incarnation, epoch, first: name.counter, ops: vec![op] }),
            }
            count += 1;
            if count >= SEAL_OPS_MAX && !goes_on {
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
        let mut restamped: BTreeSet<(Arc<str>, DocumentId)> = BTreeSet::new();
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
            if sealed.restamped {
                restamped.extend(run.ops.iter().map(|op| (Arc::clone(&op.collection), op.id)));
            }
            for batch in sealed.batches {
                let name = LocalName { incarnation: run.number, counter: batch.first_counter };
                puts.push((name, batch.last_counter, batch.bytes));
            }
        }

        let mut engine = inner.store.write();
        let core = CoreTrees::open(&mut engine)?;
        let mut pairs: BTreeMap<Arc<str>, Pair> = BTreeMap::new();
        for (collection, _) in &restamped {
            if !pairs.contains_key(collection) {
                let pair = Pair::open(&mut engine, collection)?;
                pairs.insert(Arc::clone(collection), pair);
            }
        }
        for (name, last, _) in &puts {
            state.sealed.insert(*name, *last);
        }
        let mut through = None;
        let result = inner.commit(engine, Durability::Durable, Origin::Remote, |serial| {
            for name in &names {
                serial_delete(serial, core.pending, &name.key())?;
            }
            for (name, _, bytes) in &puts {
                serial_put(serial, core.outbox, &name.key(), bytes.clone())?;
            }
            for number in &state.spent {
                serial_delete(serial, core.replicas, &number.to_be_bytes())?;
            }
            let mut newest = serial_progress(serial, &core)?;
            newest.sealed = newest.sealed.max(progress.sealed);
            newest.clock = newest.clock.max(progress.sealed);
            inner.clock.lock().observe(newest.clock);
            serial_put(serial, core.meta, meta::PROGRESS, newest.encode())?;
            let mut fold = Fold::new(inner, &core, state);
            for (collection, id) in &restamped {
                fold.refold(serial, pairs[collection], collection, *id)?;
            }
            through = fold.shapes_through;
            inner.put_shapes(serial, &core, through)?;
            Ok(fold.into_changes())
        });
        if let Err(e) = result {
            for (name, _, _) in &puts {
                state.sealed.remove(name);
            }
            return Err(e);
        }
        inner.shapes.mark_durable(through);
        state.spent.clear();
        Ok(names.len() as u64)
    }
}
