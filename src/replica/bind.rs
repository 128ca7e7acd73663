//! The first sync of a file: it joins a space, and what it holds becomes operations (joints P25).

use std::collections::BTreeMap;
use std::sync::Arc;

use blazedb_engine::Durability;
use blazedb_sync::{DocState, OpContext};
use blazedb_wire::{Document, Hlc, MergeKind, Op, OpId, OpKind, Row, Shape, encode_body};
use bytes::Bytes;

use super::Replica;
use super::pending::PendingOp;
use crate::changes::Origin;
use crate::inner::{CoreTrees, serial_progress, serial_put};
use crate::layout::{self, Base, Binding, LocalName, meta};
use crate::transaction::{decode_state, encode_state, raise};
use crate::{Error, ErrorKind};

impl Replica {
    /// Binds the file to a space, in one transaction, while no other transaction runs.
    ///
    /// Every live record becomes a create with the record's stamp, and an update for each other stamp that one of its
    /// fields carries: copies of one file that diverged before their first sync meet field by field.
    pub(super) fn bind(&self, binding: Binding) -> Result<(), Error> {
        let inner = &*self.inner;
        let _alone = inner.writers.write();
        if inner.binding.read().is_some() {
            return Err(Error::new(ErrorKind::State, "this file belongs to a space already"));
        }
        let view = inner.store.read();
        let mut engine = inner.store.write();
        let core = CoreTrees::open(&mut engine)?;
        let mut shapes_through = None;
        let mut puts: Vec<(blazedb_engine::TreeId, Vec<u8>, Vec<u8>)> = Vec::new();
        let mut pending = Vec::new();
        let mut author = None;
        for tree_name in view.tree_names() {
            let Some(collection) = layout::collection_of(&tree_name).map(Arc::<str>::from) else { continue };
            let mut open = |name: &str| {
                engine.tree(name).map_err(|e| Error::with(ErrorKind::Storage, "a tree could not be opened", e))
            };
            let records = open(&tree_name)?;
            let bases = open(&layout::bases_tree(&collection))?;
            for item in view.range(records, ..) {
                let (key, value) = item;
                let id = layout::document_id(&key)?;
                let DocState::Live(record) = decode_state(Some(&value), inner)? else { continue };
                let (number, replica) = match author {
                    Some(author) => author,
                    None => *author.insert(inner.identity.lock().mint(&inner.env)?),
                };
                // Fields by stamp; the create carries the oldest, so that it comes first.
                let mut by_stamp: BTreeMap<Hlc, Vec<usize>> = BTreeMap::new();
                let row = &record.row;
                for index in 0..row.shape().len() {
                    by_stamp.entry(record.field_stamp(index).hlc).or_default().push(index);
                }
                if by_stamp.is_empty() {
                    by_stamp.insert(record.meta.row_stamp.hlc, Vec::new());
                }
                let groups = by_stamp.len();
                let mut state = DocState::Absent;
                let mut names = Vec::with_capacity(groups);
                for (position, (hlc, fields)) in by_stamp.into_iter().enumerate() {
                    let op = Op {
                        kind: if position == 0 { OpKind::Create } else { OpKind::Update },
                        merge: MergeKind::Register,
                        more: position + 1 < groups,
                        hlc,
                        cursor: 0,
                        collection: Arc::clone(&collection),
                        id,
                        attrs: Bytes::new(),
                        set: Some(project(row, &fields)?),
                        unset: Shape::empty(),
                    };
                    let id = OpId { replica, counter: pending.len() as u64 + 1 };
                    state = blazedb_sync::fold(&state, [OpContext::own(&op, id, &[])]);
                    if let Some(set) = &op.set {
                        raise(&mut shapes_through, inner.shapes.number(set.shape())?);
                    }
                    raise(&mut shapes_through, inner.shapes.number(&op.unset)?);
                    let name = LocalName { incarnation: number, counter: pending.len() as u64 + 1 };
                    names.push(name);
                    pending.push(PendingOp { op, epoch: binding.epoch }.encode(&inner.shapes)?);
                }
                puts.push((records, key.to_vec(), encode_state(&state, inner, &mut shapes_through)?));
                puts.push((bases, key.to_vec(), Base { state: None, ops: names }.encode()));
            }
        }
        drop(view);
        inner.commit(engine, Durability::Durable, Origin::Remote, |serial| {
            inner.put_shapes(serial, &core, shapes_through)?;
            serial_put(serial, core.meta, meta::BINDING, binding.encode())?;
            let Some((number, _)) = author else { return Ok(Vec::new()) };
            let mut progress = serial_progress(serial, &core)?;
            // Counters of this open start here: a file that is not bound gives out none.
            progress.incarnation = number;
            progress.counter = pending.len() as u64;
            let identity = inner.identity.lock();
            let (_, incarnation) = identity.current().expect("minted above");
            serial_put(serial, core.replicas, &number.to_be_bytes(), incarnation.encode())?;
            for (index, bytes) in pending.into_iter().enumerate() {
                let name = LocalName { incarnation: number, counter: index as u64 + 1 };
                serial_put(serial, core.pending, &name.key(), bytes)?;
            }
            for (tree, key, value) in puts {
                serial_put(serial, tree, &key, value)?;
            }
            serial_put(serial, core.meta, meta::PROGRESS, progress.encode())?;
            Ok(Vec::new())
        })?;
        inner.shapes.mark_durable(shapes_through);
        *inner.binding.write() = Some(binding);
        Ok(())
    }
}

/// Returns the row of some of its fields; their bytes are copied as they are.
fn project(row: &Row, fields: &[usize]) -> Result<Row, Error> {
    if fields.is_empty() {
        return Ok(Row::encode(&Document::new())?);
    }
    let shape = Shape::new(fields.iter().map(|i| row.shape().name(*i)))?;
    let raw: Vec<_> = fields.iter().map(|i| row.as_ref().field(*i)).collect();
    let mut body = Vec::new();
    encode_body(&raw, &mut body);
    Row::decode(shape, body.into()).map_err(|e| Error::corrupt("a document", e))
}
