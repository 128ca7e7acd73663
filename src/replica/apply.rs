//! Applying the relay's log (spec: D-1): one entry, one transaction, in the serial section, so that it never conflicts.
//! An entry is small and the documents that it changes need not be: one that writes more than a transaction of the store
//! holds is applied in parts (spec: D-9), and the cursor follows with the last of them.
//!
//! The entry moves the document's base (its state by the log alone); what is shown is base plus the own operations that
//! remain (joints P3). A document without own operations has no base row: its record is the base.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use blazedb_engine::Durability;
use blazedb_wire::{Batch, Envelope, OpId};

use super::fold::{Fold, Pair, Step, TRANSACTION_BYTES_DUE, TRANSACTION_BYTES_FULL};
use super::{Replica, ReplicaState};
use crate::changes::Origin;
use crate::inner::{CoreTrees, serial_delete, serial_progress, serial_put};
use crate::layout::{self, Incarnation, LocalName, meta};
use crate::{Error, ErrorKind};

/// What applying one entry did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Operations that took effect.
    pub applied: u64,
    /// Operations set aside in the inbox, or documents whose last image was.
    pub boxed: u64,
    /// Operations that did not know of an edit by another replica and were merged with it.
    pub concurrent: u64,
}

/// One entry of the log.
#[derive(Clone, Copy)]
struct Entry<'a> {
    envelope: &'a Envelope,
    batch: &'a Batch,
    /// The incarnation that wrote it, if it is one of this file.
    own: Option<u32>,
}

/// What became of a part of an entry.
enum Part {
    /// It is applied up to this operation, which comes next.
    Through(usize),
    /// Nothing is applied: a transaction of the author's begins here that would not be whole.
    OnlyUntil(usize),
}

impl Replica {
    /// Applies one entry of the relay's log. Entries come in their order, each once; one that was applied before is
    /// skipped.
    ///
    /// The transaction is buffered: an entry that a crash takes is fetched again, because the cursor goes with it. An entry
    /// whose documents are together more than 8 MiB may take several transactions, each with whole ones of its author's;
    /// one of the author's with more than 24 MiB of documents is seen to arrive in parts.
    ///
    /// # Errors
    /// [`ErrorKind::Sync`] for an entry out of order, or of another epoch.
    pub fn apply_entry(&self, envelope: &Envelope, batch: &Batch) -> Result<Applied, Error> {
        let mut state = self.inner.replica.lock();
        let head = batch.head();
        if head.replica != envelope.replica
            || head.first_counter != envelope.first_counter
            || batch.len() != envelope.n as usize
        {
            return Err(Error::new(ErrorKind::Sync, "the relay's envelope and its batch do not belong together"));
        }
        self.apply(&mut state, envelope, batch)
    }

    /// Applies the relay's answer to a batch that this replica sent: the batch itself is in the outbox.
    ///
    /// # Errors
    /// [`ErrorKind::Sync`] for an answer out of order, or to a batch that is not in the outbox.
    pub fn apply_ack(&self, envelope: &Envelope) -> Result<Applied, Error> {
        if envelope.first_seq == 0 {
            // The relay had all of it already; the entries come, or came, with the stream.
            return Ok(Applied::default());
        }
        let mut state = self.inner.replica.lock();
        if envelope.last_seq() <= state.cursor {
            return Ok(Applied::default());
        }
        let number = state.by_replica.get(&envelope.replica).copied();
        let number = match number {
            Some(n) => n,
            None => self.learn_current(&mut state, envelope)?,
        };
        let name = LocalName { incarnation: number, counter: envelope.first_counter };
        let view = self.inner.store.read();
        let stored = match view.tree(layout::OUTBOX)? {
            Some(tree) => view.get(tree, &name.key())?,
            None => None,
        };
        let stored =
            stored.ok_or_else(|| Error::new(ErrorKind::Sync, "the relay acknowledged a batch that was not sent"))?;
        let batch = Batch::decode(stored).map_err(|e| Error::corrupt("a sealed batch", e))?;
        if batch.len() != envelope.n as usize {
            return Err(Error::new(
                ErrorKind::Sync,
                "the relay acknowledged another number of operations than were sent",
            ));
        }
        drop(view);
        self.apply(&mut state, envelope, &batch)
    }

    /// Takes over the incarnation that the first local commit of this open wrote.
    fn learn_current(&self, state: &mut ReplicaState, envelope: &Envelope) -> Result<u32, Error> {
        self.refresh_incarnations(state)?;
        state.by_replica.get(&envelope.replica).copied().ok_or_else(|| {
            Error::new(ErrorKind::Sync, "the relay acknowledged operations of a replica that is not this one")
        })
    }

    /// Reads the incarnation of this open, if a local commit wrote it since the last look.
    pub(super) fn refresh_incarnations(&self, state: &mut ReplicaState) -> Result<(), Error> {
        let current = self.inner.identity.lock().current().map(|(n, _)| n);
        if let Some(number) = current
            && !state.incarnations.contains_key(&number)
        {
            let view = self.inner.store.read();
            if let Some(tree) = view.tree(layout::REPLICAS)?
                && let Some(bytes) = view.get(tree, &number.to_be_bytes())?
            {
                let incarnation = Incarnation::decode(&bytes).map_err(|e| Error::corrupt("a replica id", e))?;
                state.learn(number, incarnation);
            }
        }
        Ok(())
    }

    fn apply(&self, state: &mut ReplicaState, envelope: &Envelope, batch: &Batch) -> Result<Applied, Error> {
        let inner = &*self.inner;
        let binding = *inner.binding.read();
        let Some(binding) = binding else {
            return Err(Error::new(ErrorKind::State, "this file belongs to no space yet"));
        };
        if envelope.epoch != binding.epoch {
            return Err(Error::new(ErrorKind::Sync, "the relay sent an entry of another epoch"));
        }
        if envelope.last_seq() <= state.cursor {
            return Ok(Applied::default());
        }
        if envelope.first_seq != state.cursor + 1 {
            return Err(Error::new(
                ErrorKind::Sync,
                format!("the relay sent sequence {} after {}", envelope.first_seq, state.cursor),
            ));
        }
        self.refresh_incarnations(state)?;
        let own = state.by_replica.get(&envelope.replica).copied();
        let entry = Entry { envelope, batch, own };
        let count = envelope.n as usize;
        let mut done = Applied::default();
        let mut first = (state.part - state.cursor) as usize;
        let mut until = count;
        while first < count {
            match self.apply_part(state, &entry, first..until, &mut done)? {
                Part::Through(next) => (first, until) = (next, count),
                Part::OnlyUntil(end) => until = end,
            }
        }
        Ok(done)
    }

    /// Applies operations of an entry in one transaction: those of the range, or as many of them as it holds.
    fn apply_part(
        &self,
        state: &mut ReplicaState,
        entry: &Entry<'_>,
        range: Range<usize>,
        sum: &mut Applied,
    ) -> Result<Part, Error> {
        let inner = &*self.inner;
        let Entry { envelope, batch, own } = *entry;
        let mut engine = inner.store.write();
        let core = CoreTrees::open(&mut engine)?;
        let mut pairs: BTreeMap<Arc<str>, Pair> = BTreeMap::new();
        for index in range.clone() {
            let collection = batch.op(index).collection;
            if !pairs.contains_key(collection) {
                let pair = Pair::open(&mut engine, collection)?;
                pairs.insert(Arc::clone(collection), pair);
            }
        }
        let mut done = Applied::default();
        let mut finished = Vec::new();
        let mut through = None;
        let mut next = range.start;
        let mut only_until = None;
        let (before, last) = (envelope.first_seq - 1, envelope.first_counter + u64::from(envelope.n) - 1);
        let result = inner.commit(engine, Durability::Buffered, Origin::Remote, |serial| {
            let mut fold = Fold::new(inner, &core, state);
            let mut progress = serial_progress(serial, &core)?;
            let mut transaction = range.start;
            let fates = envelope.outcomes().enumerate().skip(range.start).take(range.len());
            for (index, fate) in fates {
                // A transaction is taken whole, unless it is too much even where it is alone.
                let (bytes, is_first_of_transaction) = (serial.bytes(), index == transaction);
                if bytes > TRANSACTION_BYTES_FULL || bytes > TRANSACTION_BYTES_DUE && is_first_of_transaction {
                    if !is_first_of_transaction && transaction > range.start {
                        only_until = Some(transaction);
                        return Err(Error::new(ErrorKind::Limit, "more documents than one transaction holds"));
                    }
                    break;
                }
                let op = batch.op(index).to_op();
                if !op.more {
                    transaction = index + 1;
                }
                let counter = envelope.first_counter + index as u64;
                progress.seen = progress.seen.max(op.hlc);
                progress.clock = progress.clock.max(op.hlc);
                let step = Step {
                    pair: pairs[&op.collection],
                    id: OpId { replica: envelope.replica, counter },
                    seq: envelope.first_seq + index as u64,
                    deps: &batch.head().deps,
                    fate,
                    own: own.map(|incarnation| LocalName { incarnation, counter }),
                    op,
                };
                fold.step(serial, &step, &mut done)?;
                next = index + 1;
            }
            if next < envelope.n as usize {
                let part = layout::part(before, before + next as u64);
                serial_put(serial, core.meta, meta::PART, part)?;
            } else {
                if let Some(number) = own {
                    finished = fold.clear_outbox(serial, number, envelope.first_counter, last)?;
                }
                serial_put(serial, core.meta, meta::CURSOR, layout::uvarint(envelope.last_seq()))?;
                if fold.part() > before {
                    serial_delete(serial, core.meta, meta::PART)?;
                }
            }
            inner.clock.lock().observe(progress.clock);
            serial_put(serial, core.meta, meta::PROGRESS, progress.encode())?;
            if done.concurrent > 0 {
                let before = layout::read_uvarint(serial.get(core.meta, meta::CONFLICTS)?.as_deref())?;
                serial_put(serial, core.meta, meta::CONFLICTS, layout::uvarint(before + done.concurrent))?;
            }
            through = fold.shapes_through;
            inner.put_shapes(serial, &core, through)?;
            Ok(fold.into_changes())
        });
        if let (Err(_), Some(end)) = (&result, only_until) {
            return Ok(Part::OnlyUntil(end));
        }
        result?;
        inner.shapes.mark_durable(through);
        sum.applied += done.applied;
        sum.boxed += done.boxed;
        sum.concurrent += done.concurrent;
        state.part = before + next as u64;
        if next < envelope.n as usize {
            return Ok(Part::Through(next));
        }
        state.cursor = envelope.last_seq();
        if let Some(number) = own {
            for name in finished {
                state.sealed.remove(&name);
                state.decoded.retain(|(n, _)| *n != name);
            }
            if let Some(incarnation) = state.incarnations.get_mut(&number) {
                incarnation.acked = incarnation.acked.max(last);
            }
        }
        Ok(Part::Through(next))
    }
}
