//! An own operation between its commit and its seal: payload and name final, stamp provisional (joints P3).
//!
//! Layout, little-endian: `u8` kind and flags | `u64` stamp | `u32` epoch of the cursor | uvarint cursor | collection
//! (length, name) | 16 B document id | uvarint number of the set shape + 1, or 0 | uvarint number of the unset shape |
//! uvarint length of the attributes, attributes | row body. The shape numbers point into the file's catalogue.

use std::sync::Arc;

use blazedb_wire::varint::put_uvarint;
use blazedb_wire::{DecodeError, DecodeErrorKind, DocumentId, Hlc, MergeKind, Op, OpKind, Reader, Row, Shape, limits};
use bytes::Bytes;

use crate::shapes::Shapes;
use crate::{Error, layout};

const MORE: u8 = 1 << 3;

/// An operation that is not sealed yet, with the epoch that its cursor belongs to.
#[derive(Clone, Debug)]
pub(crate) struct PendingOp {
    pub(crate) op: Op,
    pub(crate) epoch: u32,
}

fn kind_code(kind: OpKind) -> u8 {
    match kind {
        OpKind::Create => 0,
        OpKind::Update => 1,
        OpKind::Delete => 2,
    }
}

impl PendingOp {
    pub(crate) fn encode(&self, shapes: &Shapes) -> Result<Vec<u8>, Error> {
        let op = &self.op;
        let body = op.set.as_ref().map_or(&[][..], |row| row.body());
        let mut out = Vec::with_capacity(body.len() + op.collection.len() + 48);
        out.push(kind_code(op.kind) | if op.more { MORE } else { 0 });
        out.extend_from_slice(&op.hlc.0.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        put_uvarint(&mut out, op.cursor);
        put_uvarint(&mut out, op.collection.len() as u64);
        out.extend_from_slice(op.collection.as_bytes());
        out.extend_from_slice(op.id.as_bytes());
        match &op.set {
            Some(row) => put_uvarint(&mut out, u64::from(shapes.number(row.shape())?) + 1),
            None => put_uvarint(&mut out, 0),
        }
        put_uvarint(&mut out, u64::from(shapes.number(&op.unset)?));
        put_uvarint(&mut out, op.attrs.len() as u64);
        out.extend_from_slice(&op.attrs);
        out.extend_from_slice(body);
        Ok(out)
    }

    pub(crate) fn decode(bytes: &Bytes, shapes: &Shapes) -> Result<Self, Error> {
        Self::read(bytes, shapes).map_err(|e| Error::corrupt("an operation of the outbox", e))
    }

    fn read(bytes: &Bytes, shapes: &Shapes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let flags = r.u8()?;
        let kind = match flags & !MORE {
            0 => OpKind::Create,
            1 => OpKind::Update,
            2 => OpKind::Delete,
            other => return Err(r.fail(DecodeErrorKind::BadTag(other))),
        };
        let hlc = Hlc(r.u64()?);
        let epoch = r.u32()?;
        let cursor = r.uvarint()?;
        let collection: Arc<str> = r.str_prefixed(layout::COLLECTION_NAME_BYTES_MAX, "collection name")?.into();
        let id = DocumentId::from_bytes(r.array::<16>()?);
        let shape = |r: &Reader<'_>, number: u64| -> Result<Shape, DecodeError> {
            u32::try_from(number)
                .ok()
                .and_then(|n| shapes.get(n))
                .ok_or_else(|| r.fail(DecodeErrorKind::OutOfRange { what: "shape number", given: number, max: 0 }))
        };
        let set_number = r.uvarint()?;
        let unset_number = r.uvarint()?;
        let unset = shape(&r, unset_number)?;
        let attrs_len = r.uvarint_max(limits::ATTRS_BYTES_MAX as u64, "attributes")? as usize;
        let attrs = Bytes::copy_from_slice(r.bytes(attrs_len)?);
        let body = bytes.slice(bytes.len() - r.left()..);
        let set = if set_number == 0 {
            r.finish()?;
            None
        } else {
            let shape = shape(&r, set_number - 1)?;
            Some(Row::decode(shape, body)?)
        };
        let op = Op {
            kind,
            merge: MergeKind::Register,
            more: flags & MORE != 0,
            hlc,
            cursor,
            collection,
            id,
            attrs,
            set,
            unset,
        };
        Ok(Self { op, epoch })
    }
}
