//! The first sync of a file: it joins a space, and what it holds becomes operations (joints P25, spec: D-4).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use blazedb_engine::{Durability, ReadView};
use blazedb_sync::{DocState, OpContext, Record};
use blazedb_wire::{Document, DocumentId, Hlc, MergeKind, Op, OpId, OpKind, ReplicaId, Row, Shape, encode_body};
use bytes::Bytes;

use super::Replica;
use super::pending::PendingOp;
use crate::changes::Origin;
use crate::inner::{CoreTrees, Inner, serial_delete, serial_progress, serial_put};
use crate::layout::{self, Base, Binding, LocalName, meta};
use crate::transaction::{decode_state, encode_state, raise};
use crate::{Error, ErrorKind};

/// Bytes of keys and values that one transaction of a binding gathers; far below what a transaction may hold.
const CHUNK_BYTES: usize = 4 << 20;

/// How long a binding waits for transactions that are open, before it lets the connection go and tries again.
const WAIT_FOR_WRITERS: Duration = Duration::from_secs(1);

impl Replica {
    /// Binds the file to a space while no other transaction runs.
    ///
    /// Every live record becomes a create with its oldest stamp, and an update for each other stamp that one of its
    /// fields carries: copies of one file that diverged before their first sync meet field by field. This goes in
    /// chunks; the last one carries the binding. Before that the file is not bound, nobody looks at operations and
    /// base rows, and an attempt that was cut off is cleared away by the next.
    pub(super) fn bind(&self, binding: Binding) -> Result<(), Error> {
        let inner = &*self.inner;
        let Some(_alone) = inner.writers.try_write_for(WAIT_FOR_WRITERS) else {
            return Err(Error::new(ErrorKind::Conflict, "the first sync waits for a transaction that is open"));
        };
        if inner.binding.read().is_some() {
            return Err(Error::new(ErrorKind::State, "this file belongs to a space already"));
        }
        let view = inner.store.read();
        let mut work = Work {
            inner,
            epoch: binding.epoch,
            author: None,
            counter: 0,
            changes: Vec::new(),
            bytes: 0,
            shapes_through: None,
        };
        work.clear(&view)?;
        for tree in view.tree_names()? {
            let (Some(collection), Some(records)) = (layout::collection_of(&tree), view.tree(&tree)?) else { continue };
            let collection: Arc<str> = collection.into();
            for item in view.range(records, ..) {
                let (key, value) = item?;
                if let DocState::Live(record) = decode_state(Some(&value), inner)? {
                    work.record(&collection, layout::document_id(&key)?, &record)?;
                }
            }
        }
        work.commit(Some(binding))?;
        let mut state = inner.replica.lock();
        state.forget_outbox();
        drop(state);
        *inner.binding.write() = Some(binding);
        Ok(())
    }
}

/// A binding under way: what its next chunk writes.
struct Work<'a> {
    inner: &'a Inner,
    epoch: u32,
    author: Option<(u32, ReplicaId)>,
    counter: u64,
    /// Tree, key, and value, or none to remove it.
    changes: Vec<(String, Vec<u8>, Option<Vec<u8>>)>,
    bytes: usize,
    shapes_through: Option<u32>,
}

impl Work<'_> {
    fn change(&mut self, tree: String, key: &[u8], value: Option<Vec<u8>>) -> Result<(), Error> {
        self.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
        self.changes.push((tree, key.to_vec(), value));
        Ok(())
    }

    /// Counts a list of field names that the next chunk may have to write: a row of a few bytes can have a long one.
    fn shape(&mut self, shape: &Shape) -> Result<(), Error> {
        let number = self.inner.shapes.number(shape)?;
        if self.shapes_through.is_none_or(|through| number > through) {
            self.bytes += shape.encoded_len();
        }
        raise(&mut self.shapes_through, number);
        Ok(())
    }

    fn commit_if_full(&mut self) -> Result<(), Error> {
        if self.bytes >= CHUNK_BYTES { self.commit(None) } else { Ok(()) }
    }

    /// Removes what an attempt that was cut off left.
    fn clear(&mut self, view: &ReadView) -> Result<(), Error> {
        for name in view.tree_names()? {
            let Some(tree) = view.tree(&name)?.filter(|_| name == layout::PENDING || layout::is_bases_tree(&name))
            else {
                continue;
            };
            for item in view.range(tree, ..) {
                let (key, _) = item?;
                self.change(name.clone(), &key, None)?;
                self.commit_if_full()?;
            }
        }
        Ok(())
    }

    /// Makes operations of a record. Each is a transaction of its own: the record was not written in one either.
    fn record(&mut self, collection: &Arc<str>, id: DocumentId, record: &Record) -> Result<(), Error> {
        let (number, replica) = match self.author {
            Some(author) => author,
            None => *self.author.insert(self.inner.identity.lock().mint(&self.inner.env)?),
        };
        let row = &record.row;
        // Fields by stamp; the create carries the oldest, so that it comes first.
        let mut by_stamp: BTreeMap<Hlc, Vec<usize>> = BTreeMap::new();
        for index in 0..row.shape().len() {
            by_stamp.entry(record.field_stamp(index).hlc).or_default().push(index);
        }
        if by_stamp.is_empty() {
            by_stamp.insert(record.meta.row_stamp.hlc, Vec::new());
        }
        let mut state = DocState::Absent;
        let mut names = Vec::with_capacity(by_stamp.len());
        for (position, (hlc, fields)) in by_stamp.into_iter().enumerate() {
            let op = Op {
                kind: if position == 0 { OpKind::Create } else { OpKind::Update },
                merge: MergeKind::Register,
                more: false,
                hlc,
                cursor: 0,
                collection: Arc::clone(collection),
                id,
                attrs: Bytes::new(),
                set: Some(project(row, &fields)?),
                unset: Shape::empty(),
            };
            self.counter += 1;
            let op_id = OpId { replica, counter: self.counter };
            state = blazedb_sync::fold(&state, [OpContext::own(&op, op_id, &[])]);
            if let Some(set) = &op.set {
                self.shape(set.shape())?;
            }
            self.shape(&op.unset)?;
            let name = LocalName { incarnation: number, counter: self.counter };
            names.push(name);
            let bytes = PendingOp { op, epoch: self.epoch }.encode(&self.inner.shapes)?;
            self.change(layout::PENDING.to_owned(), &name.key(), Some(bytes))?;
        }
        let shown = encode_state(&state, self.inner, &mut self.shapes_through)?;
        self.change(layout::records_tree(collection), id.as_bytes(), Some(shown))?;
        let base = Base { state: None, ops: names }.encode();
        self.change(layout::bases_tree(collection), id.as_bytes(), Some(base))?;
        self.commit_if_full()
    }

    /// Commits a chunk; the one with the binding is the last, and durable with all before it.
    fn commit(&mut self, binding: Option<Binding>) -> Result<(), Error> {
        let inner = self.inner;
        let mut engine = inner.store.write();
        let core = CoreTrees::open(&mut engine)?;
        let durability = if binding.is_some() { Durability::Durable } else { Durability::Buffered };
        let changes = std::mem::take(&mut self.changes);
        self.bytes = 0;
        inner.commit(engine, durability, Origin::Remote, |serial| {
            inner.put_shapes(serial, &core, self.shapes_through)?;
            for (name, key, value) in changes {
                let tree =
                    serial.tree(&name).map_err(|e| Error::with(ErrorKind::Storage, "a tree could not be opened", e))?;
                match value {
                    Some(value) => serial_put(serial, tree, &key, value)?,
                    None => serial_delete(serial, tree, &key)?,
                }
            }
            if let Some((number, _)) = self.author {
                let mut progress = serial_progress(serial, &core)?;
                progress.incarnation = number;
                progress.counter = self.counter;
                let identity = inner.identity.lock();
                let (_, incarnation) = identity.current().expect("minted by the first record");
                serial_put(serial, core.replicas, &number.to_be_bytes(), incarnation.encode())?;
                serial_put(serial, core.meta, meta::PROGRESS, progress.encode())?;
            }
            if let Some(binding) = binding {
                serial_put(serial, core.meta, meta::BINDING, binding.encode())?;
            }
            Ok(Vec::new())
        })?;
        inner.shapes.mark_durable(self.shapes_through);
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
