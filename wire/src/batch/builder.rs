//! Writing a batch: operations come one by one or by transactions, and the exact size is known at any time.

use super::{BatchHead, KIND_ROWS, op_bits};
use crate::error::EncodeError;
use crate::limits::{
    ATTRS_BYTES_MAX, BATCH_BYTES_MAX, BATCH_COLLECTIONS_MAX, BATCH_DEPS_MAX, BATCH_OPS_MAX, BATCH_SHAPES_MAX,
    BATCH_SINGLE_BYTES_MAX,
};
use crate::op::Op;
use crate::shape::Shape;
use crate::value::encode::check_limit;
use crate::writer::{prefixed_len, put_prefixed, put_u64, put_uvarint, uvarint_len};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Collects operations of one author and writes them as one batch body.
///
/// The bases of timestamps and cursors are minima over all operations, so that nothing can be written before the last
/// one is known; operations wait half encoded.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    head: BatchHead,
    /// Length of all that the head says before the collections, bases apart.
    head_len: usize,
    ops: Vec<Pending>,
    /// Flags and merge kind, then all that follows the deltas, of all operations.
    parts: Vec<u8>,
    collections: Table<Arc<str>>,
    shapes: Table<Shape>,
    base_hlc: u64,
    base_cursor: u64,
    /// Length of all operations with their lengths, for the present bases.
    ops_len: usize,
}

/// An operation that waits for its bases.
#[derive(Clone, Copy, Debug)]
struct Pending {
    hlc: u64,
    cursor: u64,
    /// Where its part ends in `parts`; it starts where the previous one ends.
    part_end: usize,
    /// Length of the part.
    part_len: usize,
    more: bool,
}

impl Pending {
    /// Returns the length of the operation with its length in front.
    const fn len(&self, base_hlc: u64, base_cursor: u64) -> usize {
        prefixed_len(self.bare_len(base_hlc, base_cursor))
    }

    const fn bare_len(&self, base_hlc: u64, base_cursor: u64) -> usize {
        self.part_len + uvarint_len(self.hlc - base_hlc) + uvarint_len(self.cursor - base_cursor)
    }
}

/// Things numbered in order of first use.
#[derive(Clone, Debug)]
struct Table<T> {
    items: Vec<T>,
    places: BTreeMap<T, u32>,
    /// Length of the encodings of all items.
    bytes_len: usize,
}

impl<T: Ord + Clone> Table<T> {
    const fn new() -> Self {
        Self { items: Vec::new(), places: BTreeMap::new(), bytes_len: 0 }
    }

    /// Returns the place of `item`, which takes `len` bytes if it is new.
    fn place(&mut self, item: &T, len: impl FnOnce() -> usize) -> u32 {
        // Neighbours mostly use the same.
        let last = self.items.len().wrapping_sub(1);
        if self.items.get(last) == Some(item) {
            return last as u32;
        }
        if let Some(&place) = self.places.get(item) {
            return place;
        }
        let place = self.items.len() as u32;
        self.bytes_len += len();
        self.items.push(item.clone());
        self.places.insert(item.clone(), place);
        place
    }

    /// Forgets all items from `len` on.
    fn truncate(&mut self, len: usize, bytes_len: usize) {
        for item in self.items.drain(len..) {
            self.places.remove(&item);
        }
        self.bytes_len = bytes_len;
    }

    fn len(&self) -> usize {
        uvarint_len(self.items.len() as u64) + self.bytes_len
    }
}

/// What to go back to when operations turn out not to fit.
struct Mark {
    ops: usize,
    parts: usize,
    collections: (usize, usize),
    shapes: (usize, usize),
    base_hlc: u64,
    base_cursor: u64,
    ops_len: usize,
}

impl BatchBuilder {
    /// Returns a builder without operations; a bad head is refused by the first push.
    pub fn new(head: BatchHead) -> Self {
        let deps: usize = head.deps.iter().map(|dep| 16 + uvarint_len(dep.counter)).sum();
        let head_len = 1
            + 16
            + 16
            + uvarint_len(head.first_counter)
            + 8
            + uvarint_len(head.epoch.into())
            + uvarint_len(head.deps.len() as u64)
            + deps
            + prefixed_len(head.attrs.len());
        Self {
            head,
            head_len,
            ops: Vec::new(),
            parts: Vec::new(),
            collections: Table::new(),
            shapes: Table::new(),
            base_hlc: u64::MAX,
            base_cursor: u64::MAX,
            ops_len: 0,
        }
    }

    /// Returns the head.
    pub const fn head(&self) -> &BatchHead {
        &self.head
    }

    /// Returns the number of operations.
    pub const fn len(&self) -> usize {
        self.ops.len()
    }

    /// Returns true if there is no operation.
    pub const fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Returns the length of the body that `finish` would write now.
    pub fn bytes_len(&self) -> usize {
        let base_cursor = if self.ops.is_empty() { 0 } else { self.base_cursor };
        self.head_len
            + uvarint_len(base_cursor)
            + self.collections.len()
            + self.shapes.len()
            + uvarint_len(self.ops.len() as u64)
            + self.ops_len
    }

    /// Adds an operation; returns false, with nothing changed, if the batch would grow past its limits.
    ///
    /// An operation that breaks a rule, or that is too large for a batch of its own, is an error.
    pub fn try_push(&mut self, op: &Op) -> Result<bool, EncodeError> {
        self.try_push_all(std::slice::from_ref(op))
    }

    /// Adds all operations or, with nothing changed, none: for transactions, which must not be torn.
    pub fn try_push_all(&mut self, ops: &[Op]) -> Result<bool, EncodeError> {
        if self.ops.is_empty() {
            self.check_head()?;
        }
        for op in ops {
            op.check()?;
        }
        let mark = self.mark();
        for op in ops {
            self.push(op);
            if !self.fits() {
                let alone = self.ops.len() == 1;
                let given = self.bytes_len() as u64;
                self.go_back(&mark);
                if alone {
                    let max = BATCH_SINGLE_BYTES_MAX as u64;
                    return Err(EncodeError::Limit { what: "batch bytes", given, max });
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn check_head(&self) -> Result<(), EncodeError> {
        let head = &self.head;
        let bad = |rule| Err(EncodeError::BadHead { rule });
        if head.first_counter == 0 {
            return bad("B-2");
        }
        if !head.deps.is_sorted_by(|a, b| a.replica < b.replica) || head.deps.iter().any(|dep| dep.counter == 0) {
            return bad("B-3");
        }
        check_limit("dependencies", head.deps.len(), BATCH_DEPS_MAX)?;
        check_limit("attributes bytes", head.attrs.len(), ATTRS_BYTES_MAX)
    }

    fn fits(&self) -> bool {
        let bytes_max = if self.ops.len() > 1 { BATCH_BYTES_MAX } else { BATCH_SINGLE_BYTES_MAX };
        self.ops.len() <= BATCH_OPS_MAX
            && self.collections.items.len() <= BATCH_COLLECTIONS_MAX
            && self.shapes.items.len() <= BATCH_SHAPES_MAX
            && self.head.first_counter <= u64::MAX - self.ops.len() as u64
            && self.bytes_len() <= bytes_max
    }

    /// Adds a checked operation.
    fn push(&mut self, op: &Op) {
        let start = self.parts.len();
        let mut flags = op.kind.number();
        if op.more {
            flags |= op_bits::MORE;
        }
        if !op.unset.is_empty() {
            flags |= op_bits::UNSET;
        }
        if !op.attrs.is_empty() {
            flags |= op_bits::ATTRS;
        }
        self.parts.extend_from_slice(&[flags, op.merge.number()]);
        let collection = self.collections.place(&op.collection, || prefixed_len(op.collection.len()));
        put_uvarint(&mut self.parts, collection.into());
        self.parts.extend_from_slice(op.id.as_bytes());
        if !op.attrs.is_empty() {
            put_prefixed(&mut self.parts, &op.attrs);
        }
        if let Some(row) = &op.set {
            // The set shape counts as used before the unset shape (spec: B-7).
            let shape = self.shapes.place(row.shape(), || row.shape().encoded_len());
            put_uvarint(&mut self.parts, shape.into());
            if !op.unset.is_empty() {
                let shape = self.shapes.place(&op.unset, || op.unset.encoded_len());
                put_uvarint(&mut self.parts, shape.into());
            }
            self.parts.extend_from_slice(row.body());
        }
        let part_end = self.parts.len();
        let op = Pending { hlc: op.hlc.0, cursor: op.cursor, part_end, part_len: part_end - start, more: op.more };
        self.ops.push(op);
        let (base_hlc, base_cursor) = (self.base_hlc.min(op.hlc), self.base_cursor.min(op.cursor));
        if (base_hlc, base_cursor) == (self.base_hlc, self.base_cursor) {
            self.ops_len += op.len(base_hlc, base_cursor);
        } else {
            // Every delta grew.
            (self.base_hlc, self.base_cursor) = (base_hlc, base_cursor);
            self.ops_len = self.ops.iter().map(|op| op.len(base_hlc, base_cursor)).sum();
        }
    }

    fn mark(&self) -> Mark {
        Mark {
            ops: self.ops.len(),
            parts: self.parts.len(),
            collections: (self.collections.items.len(), self.collections.bytes_len),
            shapes: (self.shapes.items.len(), self.shapes.bytes_len),
            base_hlc: self.base_hlc,
            base_cursor: self.base_cursor,
            ops_len: self.ops_len,
        }
    }

    fn go_back(&mut self, mark: &Mark) {
        self.ops.truncate(mark.ops);
        self.parts.truncate(mark.parts);
        self.collections.truncate(mark.collections.0, mark.collections.1);
        self.shapes.truncate(mark.shapes.0, mark.shapes.1);
        self.base_hlc = mark.base_hlc;
        self.base_cursor = mark.base_cursor;
        self.ops_len = mark.ops_len;
    }

    /// Writes the body.
    pub fn finish(self) -> Result<Bytes, EncodeError> {
        match self.ops.last() {
            None => return Err(EncodeError::EmptyBatch),
            Some(last) if last.more => return Err(EncodeError::OpenTransaction),
            Some(_) => {}
        }
        let len = self.bytes_len();
        let mut out = Vec::with_capacity(len);
        out.push(KIND_ROWS);
        out.extend_from_slice(self.head.space.as_bytes());
        out.extend_from_slice(self.head.replica.as_bytes());
        put_uvarint(&mut out, self.head.first_counter);
        put_u64(&mut out, self.base_hlc);
        put_uvarint(&mut out, self.head.epoch.into());
        put_uvarint(&mut out, self.base_cursor);
        put_uvarint(&mut out, self.head.deps.len() as u64);
        for dep in &self.head.deps {
            out.extend_from_slice(dep.replica.as_bytes());
            put_uvarint(&mut out, dep.counter);
        }
        put_prefixed(&mut out, &self.head.attrs);
        put_uvarint(&mut out, self.collections.items.len() as u64);
        for name in &self.collections.items {
            put_prefixed(&mut out, name.as_bytes());
        }
        put_uvarint(&mut out, self.shapes.items.len() as u64);
        for shape in &self.shapes.items {
            shape.encode(&mut out);
        }
        put_uvarint(&mut out, self.ops.len() as u64);
        let mut start = 0;
        for op in &self.ops {
            let part = self.parts.get(start..op.part_end).unwrap_or_default();
            let (flags, rest) = part.split_at(2);
            put_uvarint(&mut out, op.bare_len(self.base_hlc, self.base_cursor) as u64);
            out.extend_from_slice(flags);
            put_uvarint(&mut out, op.hlc - self.base_hlc);
            put_uvarint(&mut out, op.cursor - self.base_cursor);
            out.extend_from_slice(rest);
            start = op.part_end;
        }
        debug_assert_eq!(out.len(), len, "the size was accounted exactly");
        Ok(Bytes::from(out))
    }
}
