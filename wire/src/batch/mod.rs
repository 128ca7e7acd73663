//! `Batch`: operations of one author that travel and are logged together.
//!
//! A batch defines every collection name and every shape that its operations use, so that it means the same wherever
//! it lies. Once sealed its bytes never change: it is the unit of retry and of forwarding. `BatchBuilder` writes,
//! `Batch` is the proof that bytes were checked. `Columns` turns several batches into one that is smaller, and back.

mod builder;
pub(crate) mod columns;
mod decode;

pub use builder::BatchBuilder;
pub use columns::Columns;

use crate::error::DecodeError;
use crate::id::{DocumentId, OpId, ReplicaId, SpaceId};
use crate::op::{MergeKind, OpKind, OpRef};
use crate::row::RowRef;
use crate::shape::Shape;
use crate::time::Hlc;
use bytes::Bytes;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// The number of the row kind, the kind that is sealed and logged (spec: B-1).
pub(crate) const KIND_ROWS: u8 = 0;
/// The number of the columnar kind (spec: K-12).
pub(crate) const KIND_COLUMNS: u8 = 1;

/// Bits of an operation's first byte.
pub(crate) mod op_bits {
    pub(crate) const KIND: u8 = 0b111;
    pub(crate) const MORE: u8 = 1 << 3;
    pub(crate) const UNSET: u8 = 1 << 4;
    pub(crate) const ATTRS: u8 = 1 << 5;
    pub(crate) const SPARE: u8 = 0b1100_0000;
}

/// What a batch says once for all its operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchHead {
    /// The space it belongs to.
    pub space: SpaceId,
    /// The author of all its operations.
    pub replica: ReplicaId,
    /// The counter of the first operation; the others follow.
    pub first_counter: u64,
    /// The epoch of the relay's sequence that the cursors belong to.
    pub epoch: u32,
    /// Operations of the author's earlier incarnations, unsequenced as far as it knows, that this batch builds on;
    /// one for each replica, ascending by replica.
    pub deps: Vec<OpId>,
    /// Attributes, opaque here; empty today.
    pub attrs: Bytes,
}

/// A batch that was checked. Cloning is cheap.
#[derive(Clone)]
pub struct Batch {
    inner: Arc<Inner>,
}

struct Inner {
    head: BatchHead,
    bytes: Bytes,
    base_hlc: Hlc,
    base_cursor: u64,
    collections: Vec<Arc<str>>,
    shapes: Vec<Shape>,
    /// Not empty (spec: B-8).
    ops: Vec<OpEntry>,
    /// What deletes and plain updates unset.
    nothing: Shape,
}

/// Where the parts of an operation lie.
#[derive(Clone, Copy)]
struct OpEntry {
    hlc: Hlc,
    cursor: u64,
    id: DocumentId,
    attrs: Span,
    body: Span,
    collection: u32,
    /// The shape of the row; none for deletes.
    set: Option<u32>,
    unset: Option<u32>,
    kind: OpKind,
    more: bool,
}

/// A piece of the batch's bytes.
#[derive(Clone, Copy, Default)]
struct Span {
    start: u32,
    len: u32,
}

impl Span {
    fn of(self, bytes: &[u8]) -> &[u8] {
        let start = self.start as usize;
        bytes.get(start..start + self.len as usize).unwrap_or_default()
    }
}

impl Batch {
    /// Checks a batch body from outside: structure, canonical form, limits, every operation and every value in it.
    ///
    /// Operations keep borrowing from `bytes`; nothing of them is copied.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        decode::decode(bytes, 0)
    }

    /// Checks a batch body that starts at offset `at` of something larger.
    pub(crate) fn decode_at(bytes: Bytes, at: usize) -> Result<Self, DecodeError> {
        decode::decode(bytes, at)
    }

    /// Returns the head.
    pub fn head(&self) -> &BatchHead {
        &self.inner.head
    }

    /// Returns the earliest timestamp of its operations.
    pub fn base_hlc(&self) -> Hlc {
        self.inner.base_hlc
    }

    /// Returns the least cursor of its operations.
    pub fn base_cursor(&self) -> u64 {
        self.inner.base_cursor
    }

    /// Returns the number of operations, at least one.
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.inner.ops.len()
    }

    /// Returns the operation at `index`, in constant time.
    ///
    /// # Panics
    ///
    /// If `index` is not below `len`, as a slice does.
    pub fn op(&self, index: usize) -> OpRef<'_> {
        self.view(&self.inner.ops[index])
    }

    /// Returns the operation at `index`, if there is one.
    pub fn get(&self, index: usize) -> Option<OpRef<'_>> {
        self.inner.ops.get(index).map(|entry| self.view(entry))
    }

    /// Returns the name of the operation at `index`.
    pub fn op_id(&self, index: usize) -> OpId {
        let head = self.head();
        OpId { replica: head.replica, counter: head.first_counter.saturating_add(index as u64) }
    }

    /// Iterates over the operations.
    pub fn ops(&self) -> impl ExactSizeIterator<Item = OpRef<'_>> + DoubleEndedIterator + Clone {
        self.inner.ops.iter().map(|entry| self.view(entry))
    }

    /// Iterates over the transactions, each a range of operations.
    pub fn transactions(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let ops = &self.inner.ops;
        let mut start = 0;
        std::iter::from_fn(move || {
            let rest = ops.get(start..).filter(|rest| !rest.is_empty())?;
            // The last operation ends its transaction (spec: B-9).
            let len = rest.iter().position(|entry| !entry.more).map_or(rest.len(), |last| last + 1);
            let range = start..start + len;
            start = range.end;
            Some(range)
        })
    }

    /// Returns about how many bytes of memory it takes: those of the batch, and where its operations lie in them.
    pub fn memory_bytes(&self) -> usize {
        self.inner.bytes.len() + self.inner.ops.len() * size_of::<OpEntry>()
    }

    /// Returns the body, as it travels and lies in logs.
    pub fn bytes(&self) -> &Bytes {
        &self.inner.bytes
    }

    /// Returns the counters of its operations.
    pub fn counter_range(&self) -> Range<u64> {
        let first = self.inner.head.first_counter;
        first..first.saturating_add(self.inner.ops.len() as u64)
    }

    fn view<'a>(&'a self, entry: &OpEntry) -> OpRef<'a> {
        let inner = &*self.inner;
        let shape = |index: Option<u32>| index.and_then(|index| inner.shapes.get(index as usize));
        OpRef {
            kind: entry.kind,
            merge: MergeKind::Register,
            more: entry.more,
            hlc: entry.hlc,
            cursor: entry.cursor,
            collection: &inner.collections[entry.collection as usize],
            id: entry.id,
            attrs: entry.attrs.of(&inner.bytes),
            set: shape(entry.set).map(|shape| RowRef::trusted(shape, entry.body.of(&inner.bytes))),
            unset: shape(entry.unset).unwrap_or(&inner.nothing),
            source: Some(&inner.bytes),
        }
    }
}

impl PartialEq for Batch {
    fn eq(&self, other: &Self) -> bool {
        // Canonical: equal bytes say the same, other bytes say something else.
        self.inner.bytes == other.inner.bytes
    }
}

impl Eq for Batch {}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("head", self.head()).field("ops", &self.ops().collect::<Vec<_>>()).finish()
    }
}
