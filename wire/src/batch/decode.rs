//! Reading a batch: one walk that checks everything and leaves a table of where the operations lie.

use super::{Batch, BatchHead, Inner, KIND_ROWS, OpEntry, Span, op_bits};
use crate::error::{DecodeError, DecodeErrorKind};
use crate::id::{DocumentId, OpId, ReplicaId, SpaceId};
use crate::limits::{
    ATTRS_BYTES_MAX, BATCH_BYTES_MAX, BATCH_COLLECTIONS_MAX, BATCH_DEPS_MAX, BATCH_OPS_MAX, BATCH_SHAPES_MAX,
    BATCH_SINGLE_BYTES_MAX, NAME_BYTES_MAX, ROW_BYTES_MAX,
};
use crate::op::{MergeKind, OpKind, op_weight};
use crate::reader::Reader;
use crate::row::{RowRef, check_row};
use crate::shape::Shape;
use crate::small::first_repeat;
use crate::time::Hlc;
use bytes::Bytes;
use std::sync::Arc;

/// The least bytes of an operation with its length: flags, merge kind, two deltas, collection, document.
const OP_BYTES_MIN: usize = 1 + 5 + 16;

/// What is known of a batch while its operations are read.
struct Tables {
    base_hlc: u64,
    base_cursor: u64,
    collections: Vec<Arc<str>>,
    shapes: Vec<Shape>,
    /// Offset of the first byte, for errors.
    at: usize,
    collections_used: usize,
    shapes_used: usize,
    least_hlc_delta: u64,
    least_cursor_delta: u64,
}

fn limit(at: usize, what: &'static str, given: usize, max: usize) -> DecodeError {
    DecodeError::new(at, DecodeErrorKind::Limit { what, given: given as u64, max: max as u64 })
}

pub(super) fn decode(bytes: Bytes, at: usize) -> Result<Batch, DecodeError> {
    // spec: B-11, L-9
    if bytes.len() > BATCH_SINGLE_BYTES_MAX {
        return Err(limit(at, "batch bytes", bytes.len(), BATCH_SINGLE_BYTES_MAX));
    }
    let mut reader = Reader::with_offset(&bytes, at);
    let head_at = reader.offset();
    match reader.u8()? {
        KIND_ROWS => {}
        kind => return Err(DecodeError::new(head_at, DecodeErrorKind::UnknownKind { kind, rule: "B-1" })),
    }
    let space = SpaceId(reader.array()?);
    let replica = ReplicaId(reader.array()?);
    let counter_at = reader.offset();
    let first_counter = reader.uvarint()?;
    let base_hlc = reader.u64()?;
    let epoch = reader.uvarint_max(u32::MAX.into(), "epoch")? as u32;
    let base_cursor = reader.uvarint()?;
    let deps = read_deps(&mut reader)?;
    let attrs_len = reader.count(ATTRS_BYTES_MAX, 1, "attributes bytes")?;
    let attrs_at = reader.offset() - at;
    reader.bytes(attrs_len)?;
    let attrs = bytes.slice(attrs_at..attrs_at + attrs_len);

    let collections_at = reader.offset();
    let count = reader.count(BATCH_COLLECTIONS_MAX, 2, "collections in a batch")?;
    let mut collections = Vec::with_capacity(count);
    for _ in 0..count {
        let name_at = reader.offset();
        let name = reader.str_prefixed(NAME_BYTES_MAX, "collection name bytes")?;
        // spec: L-3
        if name.is_empty() {
            return Err(DecodeError::new(
                name_at,
                DecodeErrorKind::OutOfRange { what: "collection name bytes", given: 0, max: NAME_BYTES_MAX as u64 },
            ));
        }
        collections.push(Arc::from(name));
    }
    // spec: B-6
    if first_repeat(&collections).is_some() {
        return Err(DecodeError::new(collections_at, DecodeErrorKind::NotCanonical("B-6")));
    }

    let shapes_at = reader.offset();
    let count = reader.count(BATCH_SHAPES_MAX, 1, "shapes in a batch")?;
    let mut shapes = Vec::with_capacity(count);
    for _ in 0..count {
        shapes.push(Shape::decode(&mut reader)?);
    }
    // spec: B-7
    if first_repeat(&shapes).is_some() {
        return Err(DecodeError::new(shapes_at, DecodeErrorKind::NotCanonical("B-7")));
    }

    let ops_at = reader.offset();
    let count = reader.count(BATCH_OPS_MAX, OP_BYTES_MIN, "operations in a batch")?;
    // spec: B-8
    if count == 0 {
        let kind = DecodeErrorKind::OutOfRange { what: "operations in a batch", given: 0, max: BATCH_OPS_MAX as u64 };
        return Err(DecodeError::new(ops_at, kind));
    }
    // spec: B-11, L-8
    if count > 1 && bytes.len() > BATCH_BYTES_MAX {
        return Err(limit(at, "batch bytes", bytes.len(), BATCH_BYTES_MAX));
    }
    // spec: B-2
    let counter_max = u64::MAX - count as u64;
    if first_counter == 0 || first_counter > counter_max {
        let kind = DecodeErrorKind::OutOfRange { what: "first counter", given: first_counter, max: counter_max };
        return Err(DecodeError::new(counter_at, kind));
    }
    let mut tables = Tables {
        base_hlc,
        base_cursor,
        collections,
        shapes,
        at,
        collections_used: 0,
        shapes_used: 0,
        least_hlc_delta: u64::MAX,
        least_cursor_delta: u64::MAX,
    };
    let mut ops = Vec::with_capacity(count);
    for _ in 0..count {
        // spec: B-12
        let len = reader.count(BATCH_SINGLE_BYTES_MAX, 1, "operation bytes")?;
        let op_at = reader.offset();
        ops.push(tables.op(Reader::with_offset(reader.bytes(len)?, op_at))?);
    }
    // spec: B-9
    if ops.last().is_some_and(|entry| entry.more) {
        return Err(reader.fail(DecodeErrorKind::NotCanonical("B-9")));
    }
    // spec: V-4
    reader.finish()?;
    tables.finish()?;
    let Tables { collections, shapes, .. } = tables;
    let head = BatchHead { space, replica, first_counter, epoch, deps, attrs };
    let inner = Inner {
        head,
        base_hlc: Hlc(base_hlc),
        base_cursor,
        collections,
        shapes,
        ops,
        nothing: Shape::empty(),
        bytes: bytes.clone(),
    };
    Ok(Batch { inner: Arc::new(inner) })
}

/// Reads the dependencies (spec: B-3, L-13).
fn read_deps(reader: &mut Reader<'_>) -> Result<Vec<OpId>, DecodeError> {
    let count = reader.count(BATCH_DEPS_MAX, 17, "dependencies")?;
    let mut deps: Vec<OpId> = Vec::with_capacity(count);
    for _ in 0..count {
        let at = reader.offset();
        let replica = ReplicaId(reader.array()?);
        if deps.last().is_some_and(|last| last.replica >= replica) {
            return Err(DecodeError::new(at, DecodeErrorKind::Order("B-3")));
        }
        let counter_at = reader.offset();
        let counter = reader.uvarint()?;
        if counter == 0 {
            let kind = DecodeErrorKind::OutOfRange { what: "dependency counter", given: 0, max: u64::MAX };
            return Err(DecodeError::new(counter_at, kind));
        }
        deps.push(OpId { replica, counter });
    }
    Ok(deps)
}

/// Reads a number that is relative to the head (spec: B-10).
fn read_delta(reader: &mut Reader<'_>, base: u64, what: &'static str) -> Result<(u64, u64), DecodeError> {
    let at = reader.offset();
    let delta = reader.uvarint()?;
    match base.checked_add(delta) {
        Some(sum) => Ok((delta, sum)),
        None => Err(DecodeError::new(at, DecodeErrorKind::OutOfRange { what, given: delta, max: u64::MAX - base })),
    }
}

/// Reads an index into a table of the head; `used` counts the entries met so far (spec: O-6).
fn read_index(
    reader: &mut Reader<'_>,
    len: usize,
    used: &mut usize,
    what: &'static str,
    rule: &'static str,
) -> Result<u32, DecodeError> {
    let at = reader.offset();
    let given = reader.uvarint()?;
    let index = usize::try_from(given).unwrap_or(usize::MAX);
    if index >= len {
        let max = (len as u64).saturating_sub(1);
        return Err(DecodeError::new(at, DecodeErrorKind::OutOfRange { what, given, max }));
    }
    // In order of first use: an entry is either one that was met, or the next.
    if index > *used {
        return Err(DecodeError::new(at, DecodeErrorKind::NotCanonical(rule)));
    }
    *used += usize::from(index == *used);
    Ok(index as u32)
}

impl Tables {
    fn op(&mut self, mut reader: Reader<'_>) -> Result<OpEntry, DecodeError> {
        let start = reader.offset();
        let refuse = |rule| Err(DecodeError::new(start, DecodeErrorKind::NotCanonical(rule)));
        let flags = reader.u8()?;
        // spec: O-3
        if flags & op_bits::SPARE != 0 {
            return refuse("O-3");
        }
        // spec: O-1
        let kind = match flags & op_bits::KIND {
            0 => OpKind::Create,
            1 => OpKind::Update,
            2 => OpKind::Delete,
            kind => return Err(DecodeError::new(start, DecodeErrorKind::UnknownKind { kind, rule: "O-1" })),
        };
        // spec: O-4
        let has_unset = flags & op_bits::UNSET != 0;
        if has_unset && kind != OpKind::Update {
            return refuse("O-4");
        }
        // spec: O-2
        match reader.u8()? {
            0 => {}
            merge @ 1..=MergeKind::RESERVED_MAX => {
                return Err(DecodeError::new(start + 1, DecodeErrorKind::ReservedTag(merge)));
            }
            kind => {
                return Err(DecodeError::new(start + 1, DecodeErrorKind::UnknownKind { kind, rule: "O-2" }));
            }
        }
        let (delta, hlc) = read_delta(&mut reader, self.base_hlc, "timestamp delta")?;
        self.least_hlc_delta = self.least_hlc_delta.min(delta);
        let (delta, cursor) = read_delta(&mut reader, self.base_cursor, "cursor delta")?;
        self.least_cursor_delta = self.least_cursor_delta.min(delta);
        let used = &mut self.collections_used;
        let collection = read_index(&mut reader, self.collections.len(), used, "collection index", "B-6")?;
        let id = DocumentId(reader.array()?);
        let attrs = if flags & op_bits::ATTRS != 0 {
            let attrs_at = reader.offset();
            let attrs = reader.bytes_prefixed(ATTRS_BYTES_MAX, "attributes bytes")?;
            // spec: O-5
            if attrs.is_empty() {
                return Err(DecodeError::new(attrs_at, DecodeErrorKind::NotCanonical("O-5")));
            }
            self.span(&reader, attrs.len())
        } else {
            Span::default()
        };
        let mut entry = OpEntry {
            hlc: Hlc(hlc),
            cursor,
            id,
            attrs,
            body: Span::default(),
            collection,
            set: None,
            unset: None,
            kind,
            more: flags & op_bits::MORE != 0,
        };
        if kind == OpKind::Delete {
            // spec: O-10
            reader.finish()?;
        } else {
            self.row(&mut entry, has_unset, reader)?;
        }
        Ok(entry)
    }

    /// Reads what creates and updates have more than deletes.
    fn row(&mut self, entry: &mut OpEntry, has_unset: bool, mut reader: Reader<'_>) -> Result<(), DecodeError> {
        let count = self.shapes.len();
        let at = reader.offset();
        let set = read_index(&mut reader, count, &mut self.shapes_used, "shape index", "B-7")?;
        let unset = match has_unset {
            true => Some(read_index(&mut reader, count, &mut self.shapes_used, "shape index", "B-7")?),
            false => None,
        };
        let nothing = Shape::empty();
        let shape_at = |index: u32| self.shapes.get(index as usize).unwrap_or(&nothing);
        let (set_shape, unset_shape) = (shape_at(set), unset.map_or(&nothing, shape_at));
        // spec: O-7
        if has_unset && unset_shape.is_empty() {
            return Err(DecodeError::new(at, DecodeErrorKind::NotCanonical("O-7")));
        }
        // spec: O-9
        if entry.kind == OpKind::Update && set_shape.is_empty() && unset_shape.is_empty() {
            return Err(DecodeError::new(at, DecodeErrorKind::NotCanonical("O-9")));
        }
        // spec: O-8
        if has_unset && set_shape.first_common(unset_shape).is_some() {
            return Err(DecodeError::new(at, DecodeErrorKind::NotCanonical("O-8")));
        }
        let body_at = reader.offset();
        let body = reader.rest();
        // spec: L-4
        let weight = op_weight(RowRef::trusted(set_shape, body), unset_shape);
        if weight > ROW_BYTES_MAX {
            return Err(limit(body_at, "row bytes", weight, ROW_BYTES_MAX));
        }
        check_row(set_shape, body, body_at)?;
        entry.body = self.span(&reader, body.len());
        entry.set = Some(set);
        entry.unset = unset;
        Ok(())
    }

    /// Returns where the `len` bytes lie that were just read.
    fn span(&self, reader: &Reader<'_>, len: usize) -> Span {
        // A batch is at most 1 MiB and 64 KiB long.
        Span { start: (reader.offset() - self.at - len) as u32, len: len as u32 }
    }

    /// Checks what only all operations together show.
    fn finish(&self) -> Result<(), DecodeError> {
        let refuse = |rule| Err(DecodeError::new(self.at, DecodeErrorKind::NotCanonical(rule)));
        if self.least_hlc_delta != 0 {
            return refuse("B-4");
        }
        if self.least_cursor_delta != 0 {
            return refuse("B-5");
        }
        if self.collections_used != self.collections.len() {
            return refuse("B-6");
        }
        if self.shapes_used != self.shapes.len() {
            return refuse("B-7");
        }
        Ok(())
    }
}
