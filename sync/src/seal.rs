//! Sealing: from operations as they were committed to batches that never change again.
//!
//! Until it is sealed an operation has a final name and payload but a provisional stamp. Sealing fixes the stamps, cuts the
//! operations into batches and encodes them; the caller stores the result durably before a byte of it leaves. From then on
//! the batch is the unit of retry and of forwarding.
//!
//! Invariants: counters are gapless and in order; stamps of one replica strictly ascend with its counters; a transaction is
//! never cut; a batch that was sealed under a trusted relay clock carries no stamp above relay time, unless the log had a
//! greater one already.
//!
//! A transaction that fits no batch cannot be replicated, so it is refused when it is committed: [`TransactionSize`] adds
//! up an upper bound as operations are made. What it admits, [`seal`] can seal.
//!
//! Rules: spec/merge.md, M-19, M-20, M-23 and M-24.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use blazedb_wire::{BatchBuilder, BatchHead, EncodeError, Hlc, Op, OpId, ReplicaId, Shape, SpaceId, limits};
use bytes::Bytes;

use crate::limits::{BATCH_HEAD_RESERVE_BYTES, BATCH_TARGET_BYTES, DEPS_MAX};

/// Bytes of an operation inside a batch besides attributes, row body and tables, at most.
///
/// Length 5, flags and merge kind 2, stamp 10, cursor 10, collection 3, document 16, attribute length 3, shapes 6.
const OP_HEAD_BYTES_MAX: usize = 55;

/// What sealing needs to know of the world.
#[derive(Clone, Copy, Debug)]
pub struct SealContext<'a> {
    /// The space that the file is bound to.
    pub space: SpaceId,
    /// Author of the operations.
    pub replica: ReplicaId,
    /// Epoch that the cursors of the operations belong to.
    pub epoch: u32,
    /// Operations of earlier incarnations of this file that had no number when the first operation here was committed.
    ///
    /// Oldest first. Naming more of them is harmless, naming fewer makes replicas box this file's own work as somebody
    /// else's. Only the last [`DEPS_MAX`] are kept.
    pub deps: &'a [OpId],
    /// The relay's time in milliseconds since 1970, if the relay trusts its clock.
    pub relay_now: Option<u64>,
    /// Greatest stamp seen in the log.
    pub max_seen: Hlc,
    /// Greatest stamp that this file has sealed.
    pub previous: Hlc,
}

/// One sealed batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedBatch {
    /// Counter of its first operation.
    pub first_counter: u64,
    /// Counter of its last operation.
    pub last_counter: u64,
    /// The batch body, as it is stored and pushed.
    pub bytes: Bytes,
}

/// What sealing made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sealed {
    /// The batches, in the order of their counters.
    pub batches: Vec<SealedBatch>,
    /// The final stamp of each operation, in order.
    pub stamps: Vec<Hlc>,
    /// Whether any of them differs from the provisional one: then the documents have to be folded anew.
    pub restamped: bool,
}

/// Why operations could not be sealed.
#[derive(Clone, Debug, PartialEq)]
pub enum SealError {
    /// The last operation says that its transaction goes on.
    TransactionOpen,
    /// A transaction fits no batch.
    TooLarge(TransactionTooLarge),
    /// An operation cannot be encoded.
    Encode(EncodeError),
}

/// A transaction is too large to be replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionTooLarge {
    /// What there is too much of.
    pub what: &'static str,
    /// How much the transaction has, at least.
    pub given: u64,
    /// How much it may have.
    pub max: u64,
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TransactionOpen => f.write_str("the last transaction is incomplete; hand over whole transactions"),
            Self::TooLarge(_) => {
                f.write_str("a committed transaction does not fit a batch; measure transactions before they commit")
            }
            Self::Encode(_) => {
                f.write_str("an operation cannot be encoded; check documents against the limits before they commit")
            }
        }
    }
}

impl std::error::Error for SealError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::TransactionOpen => None,
            Self::TooLarge(error) => Some(error),
            Self::Encode(error) => Some(error),
        }
    }
}

impl fmt::Display for TransactionTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, given, max } = self;
        write!(
            f,
            "the transaction has {given} {what} and can be replicated with at most {max}; split it into smaller ones"
        )
    }
}

impl std::error::Error for TransactionTooLarge {}

impl From<EncodeError> for SealError {
    fn from(error: EncodeError) -> Self {
        Self::Encode(error)
    }
}

/// Seals operations of one replica: `ops` in the order of their counters, the first of them `first_counter`, made of whole
/// transactions.
///
/// The same arguments give the same bytes.
pub fn seal(first_counter: u64, ops: &[Op], context: &SealContext<'_>) -> Result<Sealed, SealError> {
    if ops.last().is_some_and(|op| op.more) {
        return Err(SealError::TransactionOpen);
    }
    let stamps = final_stamps(ops, context);
    let restamped = stamps.iter().zip(ops).any(|(stamp, op)| *stamp != op.hlc);
    let ops: Vec<Op> = ops.iter().zip(&stamps).map(|(op, hlc)| Op { hlc: *hlc, ..op.clone() }).collect();

    let mut cutter = Cutter { context, batches: Vec::new(), first_counter, open: None };
    for transaction in ops.split_inclusive(|op| !op.more) {
        cutter.add(transaction)?;
    }
    cutter.cut()?;
    Ok(Sealed { batches: cutter.batches, stamps, restamped })
}

/// spec: M-23: a stamp from the future of a trusted relay is replaced, the others stay.
fn final_stamps(ops: &[Op], context: &SealContext<'_>) -> Vec<Hlc> {
    let latest = context.relay_now.map(|ms| Hlc::from_parts(ms, u16::MAX));
    let instead = context.relay_now.map_or(Hlc::ZERO, |ms| Hlc::from_parts(ms, 0)).max(context.max_seen.next());
    let mut previous = context.previous;
    let stamp = |op: &Op| {
        let wanted = if latest.is_none_or(|latest| op.hlc <= latest) { op.hlc } else { instead };
        // spec: M-20: program order of one replica, whatever its clock did.
        previous = wanted.max(previous.next());
        previous
    };
    ops.iter().map(stamp).collect()
}

/// Collects whole transactions into batches of about [`BATCH_TARGET_BYTES`].
struct Cutter<'a> {
    context: &'a SealContext<'a>,
    batches: Vec<SealedBatch>,
    /// Counter of the first operation that is in no finished batch.
    first_counter: u64,
    open: Option<BatchBuilder>,
}

impl Cutter<'_> {
    /// Adds a transaction, to the open batch or to a new one.
    fn add(&mut self, transaction: &[Op]) -> Result<(), SealError> {
        // spec: M-24
        if let Some(open) = &mut self.open {
            if open.bytes_len() < BATCH_TARGET_BYTES && open.try_push_all(transaction)? {
                return Ok(());
            }
            self.cut()?;
        }
        let mut builder = self.builder();
        if !builder.try_push_all(transaction)? {
            return Err(SealError::TooLarge(TransactionTooLarge {
                what: "bytes",
                given: transaction.iter().map(op_bytes_max).sum::<usize>() as u64,
                max: (limits::BATCH_BYTES_MAX - BATCH_HEAD_RESERVE_BYTES) as u64,
            }));
        }
        self.open = Some(builder);
        Ok(())
    }

    /// Finishes the batch under construction.
    fn cut(&mut self) -> Result<(), SealError> {
        let Some(builder) = self.open.take() else {
            return Ok(());
        };
        let first_counter = self.first_counter;
        self.first_counter += builder.len() as u64;
        self.batches.push(SealedBatch {
            first_counter,
            last_counter: self.first_counter - 1,
            bytes: builder.finish()?,
        });
        Ok(())
    }

    fn builder(&self) -> BatchBuilder {
        let deps = self.context.deps;
        let mut deps = deps[deps.len().saturating_sub(DEPS_MAX)..].to_vec();
        // The wire wants one entry per replica, ascending; of several the newest operation says all.
        deps.sort_unstable_by(|a, b| (a.replica, b.counter).cmp(&(b.replica, a.counter)));
        deps.dedup_by_key(|dep| dep.replica);
        BatchBuilder::new(BatchHead {
            space: self.context.space,
            replica: self.context.replica,
            first_counter: self.first_counter,
            epoch: self.context.epoch,
            deps,
            attrs: Bytes::new(),
        })
    }
}

/// An upper bound of what an operation takes inside a batch, tables aside.
fn op_bytes_max(op: &Op) -> usize {
    let row = op.set.as_ref().map_or(0, |row| row.body().len());
    OP_HEAD_BYTES_MAX + op.attrs.len() + row
}

/// Adds up what a transaction will take in a batch, while it is being made.
///
/// The sum is an upper bound: stamps, cursors and dependencies are counted at their longest.
#[derive(Clone, Debug, Default)]
pub struct TransactionSize {
    ops: usize,
    bytes: usize,
    collections: BTreeSet<Arc<str>>,
    shapes: BTreeSet<Shape>,
}

impl TransactionSize {
    /// Returns the size of a transaction without operations.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of operations counted.
    pub const fn ops(&self) -> usize {
        self.ops
    }

    /// Returns the bytes counted.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts one more operation; an error, and nothing is counted, when the transaction does not fit a batch with it.
    pub fn add(&mut self, op: &Op) -> Result<(), TransactionTooLarge> {
        // spec: M-19
        let ops = self.ops + 1;
        let mut bytes = self.bytes + op_bytes_max(op);
        let collection = Some(&op.collection).filter(|collection| !self.collections.contains(*collection));
        bytes += collection.map_or(0, |collection| collection.len() + 2);
        let set = op.set.as_ref().map(|row| row.shape()).filter(|shape| !self.shapes.contains(*shape));
        let unset = Some(&op.unset).filter(|shape| set != Some(*shape) && !self.shapes.contains(*shape));
        let shapes = set.into_iter().chain(unset);
        bytes += shapes.clone().map(Shape::encoded_len).sum::<usize>();
        let batch_bytes_max = if ops == 1 { limits::BATCH_SINGLE_BYTES_MAX } else { limits::BATCH_BYTES_MAX };
        for (what, given, max) in [
            ("operations", ops, limits::BATCH_OPS_MAX),
            ("collections", self.collections.len() + usize::from(collection.is_some()), limits::BATCH_COLLECTIONS_MAX),
            ("lists of field names", self.shapes.len() + shapes.clone().count(), limits::BATCH_SHAPES_MAX),
            ("bytes", bytes, batch_bytes_max - BATCH_HEAD_RESERVE_BYTES),
        ] {
            if given > max {
                return Err(TransactionTooLarge { what, given: given as u64, max: max as u64 });
            }
        }
        (self.ops, self.bytes) = (ops, bytes);
        self.collections.extend(collection.cloned());
        self.shapes.extend(shapes.cloned());
        Ok(())
    }
}
