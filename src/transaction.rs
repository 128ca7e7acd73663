//! A local transaction: reads one snapshot, writes documents as operations, commits all of them or none.
//!
//! Every write becomes an operation with a stamp taken at once; the operation's counter is taken in the serial section
//! of the commit (joints P3), so that counters are gapless and follow the order of commits.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use blazedb_engine::{Durability, TreeId, WriteError, WriteTransaction};
use blazedb_sync::{BoxReason, DocState, OpContext, Record, TransactionSize};
use blazedb_wire::serde::RowEncoder;
use blazedb_wire::{Document, DocumentId, Key, MergeKind, Op, OpId, OpKind, ReplicaId, Row, Shape};
use bytes::Bytes;
use parking_lot::RwLockReadGuard;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::changes::{ChangeKind, DocumentChange, Origin};
use crate::inner::{CoreTrees, Inner, serial_progress, serial_put};
use crate::layout::{self, Base, Binding, LocalName, meta};
use crate::replica::pending::PendingOp;
use crate::{Error, ErrorKind, Patch};

/// A transaction that [`crate::Database::transaction`] runs.
pub struct Transaction<'db> {
    draft: RefCell<Draft<'db>>,
}

/// The documents of one collection inside a transaction: reads see the transaction's snapshot and its own writes.
pub struct TransactionCollection<'tx, 'db, T> {
    draft: &'tx RefCell<Draft<'db>>,
    name: Arc<str>,
    of: PhantomData<fn() -> T>,
}

/// Operations of a transaction as they gather.
pub(crate) struct Draft<'db> {
    inner: &'db Inner,
    engine: WriteTransaction,
    core: CoreTrees,
    binding: Option<Binding>,
    cursor: u64,
    author: Option<(u32, ReplicaId)>,
    ops: Vec<Op>,
    /// Where sync is on: what the operations take in a batch.
    size: TransactionSize,
    touched: BTreeMap<(Arc<str>, DocumentId), Touched>,
    trees: BTreeMap<Arc<str>, (TreeId, TreeId)>,
    shapes_through: Option<u32>,
    /// A local setting was written: there is something to commit without any operation.
    set_locals: bool,
    /// Last, so that it is released after everything above.
    _writer: RwLockReadGuard<'db, ()>,
}

struct Touched {
    /// Stored state when the transaction first touched the document.
    before: Option<Bytes>,
    kind: ChangeKind,
    ops: Vec<usize>,
}

/// Says what is too large, the document or the transaction.
fn not_put(e: WriteError) -> Error {
    let text = match e {
        WriteError::TransactionTooLarge { .. } | WriteError::TransactionHoldsTooMuch { .. } => {
            "this write makes the transaction too large; commit what is written so far"
        }
        _ => "the document does not fit the store",
    };
    Error::with(ErrorKind::Limit, text, e)
}

impl<'db> Draft<'db> {
    pub(crate) fn begin(inner: &'db Inner) -> Result<Self, Error> {
        let writer = inner.writers.read_recursive();
        let binding = *inner.binding.read();
        if binding.is_some_and(|b| b.follower) {
            return Err(Error::new(ErrorKind::State, "this copy only follows a relay's log; write to another replica"));
        }
        let mut engine = inner.store.write();
        let core = CoreTrees::open(&mut engine)?;
        let (_, cursor) = layout::read_cursor(|key| Ok(engine.get(core.meta, key)?))?;
        Ok(Self {
            inner,
            engine,
            core,
            binding,
            cursor,
            author: None,
            ops: Vec::new(),
            size: TransactionSize::new(),
            touched: BTreeMap::new(),
            trees: BTreeMap::new(),
            shapes_through: None,
            set_locals: false,
            _writer: writer,
        })
    }

    fn tree(&mut self, collection: &Arc<str>) -> Result<TreeId, Error> {
        if let Some((records, _)) = self.trees.get(collection) {
            return Ok(*records);
        }
        let mut open = |name: String| {
            self.engine.tree(&name).map_err(|e| Error::with(ErrorKind::Storage, "a tree could not be opened", e))
        };
        let pair = (open(layout::records_tree(collection))?, open(layout::bases_tree(collection))?);
        self.trees.insert(Arc::clone(collection), pair);
        Ok(pair.0)
    }

    fn stored(&mut self, collection: &Arc<str>, id: DocumentId) -> Result<Option<Bytes>, Error> {
        let tree = self.tree(collection)?;
        Ok(self.engine.get(tree, id.as_bytes())?)
    }

    pub(crate) fn state(&mut self, collection: &Arc<str>, id: DocumentId) -> Result<DocState, Error> {
        decode_state(self.stored(collection, id)?.as_ref(), self.inner)
    }

    pub(crate) fn row(&mut self, collection: &Arc<str>, id: DocumentId) -> Result<Option<Row>, Error> {
        Ok(match self.state(collection, id)? {
            DocState::Live(record) => Some(record.row),
            DocState::Absent | DocState::Dead(_) => None,
        })
    }

    /// Gives the operation a stamp, applies it to the document as shown, and keeps it for the commit.
    fn write(
        &mut self,
        collection: &Arc<str>,
        id: DocumentId,
        kind: OpKind,
        set: Option<Row>,
        unset: Shape,
    ) -> Result<(), Error> {
        let (_, replica) = match self.author {
            Some(author) => author,
            None => *self.author.insert(self.inner.identity.lock().mint(&self.inner.env)?),
        };
        let hlc = self.inner.tick();
        let op = Op {
            kind,
            merge: MergeKind::Register,
            more: false,
            hlc,
            cursor: self.cursor,
            collection: Arc::clone(collection),
            id,
            attrs: Bytes::new(),
            set,
            unset,
        };
        let before = self.stored(collection, id)?;
        let state = decode_state(before.as_ref(), self.inner)?;
        // The counter is not known before the serial section, and only what the log holds is ever boxed under it.
        let context = OpContext::own(&op, OpId { replica, counter: 0 }, &[]);
        let outcome = blazedb_sync::apply(&state, &context);
        if let Some(reason) = outcome.lost {
            return Err(Error::new(
                ErrorKind::Limit,
                match reason {
                    BoxReason::TooLarge => format!("with this change document {id} would exceed 1 MiB or 4,096 fields"),
                    other => format!("this change of document {id} would have no effect ({other:?})"),
                },
            ));
        }
        // spec: M-19. Told here, where what was written before can still be committed.
        if self.binding.is_some() {
            self.size.add(&op).map_err(|e| {
                Error::with(
                    ErrorKind::Limit,
                    "this write makes the transaction too large; commit what is written so far",
                    e,
                )
            })?;
        }
        let after = outcome.state.unwrap_or(state);
        let tree = self.tree(collection)?;
        let unbound_delete = kind == OpKind::Delete && self.binding.is_none();
        if unbound_delete {
            // Nobody else has seen the document: no tombstone is needed (joints P25).
            self.engine_delete(tree, id)?;
        } else {
            let bytes = encode_state(&after, self.inner, &mut self.shapes_through)?;
            self.engine.put(tree, id.as_bytes(), &bytes).map_err(not_put)?;
        }
        let index = self.ops.len();
        self.ops.push(op);
        let touched = self.touched.entry((Arc::clone(collection), id)).or_insert_with(|| Touched {
            before,
            kind: ChangeKind::Put,
            ops: Vec::new(),
        });
        touched.kind = if kind == OpKind::Delete { ChangeKind::Delete } else { ChangeKind::Put };
        touched.ops.push(index);
        Ok(())
    }

    fn engine_delete(&mut self, tree: TreeId, id: DocumentId) -> Result<(), Error> {
        self.engine
            .delete(tree, id.as_bytes())
            .map_err(|e| Error::with(ErrorKind::Storage, "the document could not be removed", e))
    }

    pub(crate) fn create(&mut self, collection: &Arc<str>, id: DocumentId, row: Row) -> Result<(), Error> {
        match self.state(collection, id)? {
            DocState::Absent => self.write(collection, id, OpKind::Create, Some(row), Shape::empty()),
            DocState::Live(_) => Err(Error::new(
                ErrorKind::Key,
                format!("document {id} of `{collection}` exists already; use replace or update"),
            )),
            DocState::Dead(_) => Err(Error::new(
                ErrorKind::Key,
                format!(
                    "document {id} of `{collection}` was deleted, and a deleted id stays dead; insert under a new id"
                ),
            )),
        }
    }

    /// Returns the id that `key` has now, and whether a document lives there: each delete moves a key on by one
    /// generation (joints P7).
    pub(crate) fn resolve(&mut self, collection: &Arc<str>, key: &Key) -> Result<(DocumentId, bool), Error> {
        for generation in 0..=u32::MAX {
            let id = DocumentId::for_key(collection, key, generation);
            match self.state(collection, id)? {
                DocState::Dead(_) => {}
                DocState::Live(_) => return Ok((id, true)),
                DocState::Absent => return Ok((id, false)),
            }
        }
        Err(Error::new(ErrorKind::Key, "the key was deleted 4,294,967,296 times"))
    }

    pub(crate) fn replace(&mut self, collection: &Arc<str>, id: DocumentId, row: Row) -> Result<bool, Error> {
        let DocState::Live(record) = self.state(collection, id)? else { return Ok(false) };
        if let Some((set, unset)) = blazedb_sync::diff(Some(record.row.as_ref()), &row) {
            self.write(collection, id, OpKind::Update, Some(set), unset)?;
        }
        Ok(true)
    }

    pub(crate) fn update(&mut self, collection: &Arc<str>, id: DocumentId, patch: Patch) -> Result<bool, Error> {
        let fields = patch.into_fields()?;
        if !matches!(self.state(collection, id)?, DocState::Live(_)) {
            return Ok(false);
        }
        if fields.is_empty() {
            return Ok(true);
        }
        let unset = Shape::new(fields.iter().filter(|(_, v)| v.is_none()).map(|(name, _)| name.as_str()))?;
        let set = Document::from_pairs(fields.into_iter().filter_map(|(name, value)| Some((name, value?))))?;
        self.write(collection, id, OpKind::Update, Some(Row::encode(&set)?), unset)?;
        Ok(true)
    }

    pub(crate) fn delete(&mut self, collection: &Arc<str>, id: DocumentId) -> Result<bool, Error> {
        if !matches!(self.state(collection, id)?, DocState::Live(_)) {
            return Ok(false);
        }
        self.write(collection, id, OpKind::Delete, None, Shape::empty())?;
        Ok(true)
    }

    /// Sets or removes a local setting.
    pub(crate) fn set_local(&mut self, name: &str, value: Option<&[u8]>) -> Result<(), Error> {
        let bytes = value.map_or(0, <[u8]>::len);
        if name.is_empty() || name.len() > layout::LOCAL_NAME_BYTES_MAX || bytes > layout::LOCAL_VALUE_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::Limit,
                format!(
                    "a local setting has a name of 1 to {} bytes and a value of at most {} bytes; keep more in a document",
                    layout::LOCAL_NAME_BYTES_MAX,
                    layout::LOCAL_VALUE_BYTES_MAX
                ),
            ));
        }
        let key = meta::local(name);
        self.set_locals = true;
        match value {
            Some(value) => self.engine.put(self.core.meta, &key, value),
            None => self.engine.delete(self.core.meta, &key),
        }
        .map_err(|e| Error::with(ErrorKind::Storage, "the local setting was not taken", e))
    }

    fn commit_locals(self, durability: Durability) -> Result<Option<u64>, Error> {
        let Self { inner, engine, set_locals, _writer, .. } = self;
        if !set_locals {
            return Ok(None);
        }
        inner.commit(engine, durability, Origin::Local, |_| Ok(Vec::new())).map(Some)
    }

    /// Commits; returns the commit number, or `None` if nothing was written.
    pub(crate) fn commit(mut self, durability: Durability) -> Result<Option<u64>, Error> {
        let Some(last) = self.ops.len().checked_sub(1) else { return self.commit_locals(durability) };
        for op in &mut self.ops[..last] {
            op.more = true;
        }
        let Self { inner, engine, core, binding, author, ops, touched, trees, mut shapes_through, _writer, .. } = self;
        let (number, replica) = author.expect("a transaction with operations has minted its author");
        let mut pending = Vec::new();
        if let Some(binding) = binding {
            for op in ops {
                // The catalogue numbers are settled before the serial section, which should stay short.
                if let Some(row) = &op.set {
                    raise(&mut shapes_through, inner.shapes.number(row.shape())?);
                }
                raise(&mut shapes_through, inner.shapes.number(&op.unset)?);
                pending.push(PendingOp { op, epoch: binding.epoch }.encode(&inner.shapes)?);
            }
        }
        let commit_no =
            inner.commit(engine, durability, Origin::Local, |serial| {
                inner.put_shapes(serial, &core, shapes_through)?;
                let mut progress = serial_progress(serial, &core)?;
                if progress.incarnation != number {
                    progress.incarnation = number;
                    progress.counter = 0;
                    let identity = inner.identity.lock();
                    let (_, incarnation) = identity.current().expect("minted by the first write");
                    debug_assert_eq!(incarnation.replica, replica);
                    serial_put(serial, core.replicas, &number.to_be_bytes(), incarnation.encode())?;
                }
                progress.clock = progress.clock.max(inner.clock.lock().last());
                if binding.is_some() {
                    for (index, bytes) in pending.into_iter().enumerate() {
                        let name = LocalName { incarnation: number, counter: progress.counter + 1 + index as u64 };
                        serial_put(serial, core.pending, &name.key(), bytes)?;
                    }
                    for ((collection, id), touched) in &touched {
                        let (_, bases) = trees[collection];
                        let mut base = match serial.get(bases, id.as_bytes())? {
                            Some(bytes) => Base::decode(&bytes).map_err(|e| Error::corrupt("a base row", e))?,
                            None => Base { state: touched.before.clone(), ops: Vec::new() },
                        };
                        base.ops.extend(touched.ops.iter().map(|index| LocalName {
                            incarnation: number,
                            counter: progress.counter + 1 + *index as u64,
                        }));
                        serial_put(serial, bases, id.as_bytes(), base.encode())?;
                    }
                    progress.counter += last as u64 + 1;
                }
                serial_put(serial, core.meta, meta::PROGRESS, progress.encode())?;
                Ok(touched
                    .into_iter()
                    .map(|((collection, id), t)| DocumentChange { collection, id, kind: t.kind })
                    .collect())
            })?;
        inner.shapes.mark_durable(shapes_through);
        Ok(Some(commit_no))
    }
}

pub(crate) fn raise(through: &mut Option<u32>, number: u32) {
    *through = Some(through.map_or(number, |n| n.max(number)));
}

pub(crate) fn decode_state(stored: Option<&Bytes>, inner: &Inner) -> Result<DocState, Error> {
    DocState::decode(stored, &inner.shapes).map_err(|e| Error::corrupt("a document", e))
}

pub(crate) fn encode_state(
    state: &DocState,
    inner: &Inner,
    shapes_through: &mut Option<u32>,
) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    match state {
        DocState::Live(record) => {
            let number = inner.shapes.number(record.row.shape())?;
            raise(shapes_through, number);
            record.encode(number, &mut out);
        }
        DocState::Dead(tombstone) => tombstone.encode(&mut out),
        DocState::Absent => {}
    }
    Ok(out)
}

thread_local! {
    /// Knows the types that this thread writes.
    static ENCODER: RefCell<RowEncoder> = RefCell::default();
}

/// Returns the fields of a document as a row; an error names the field.
pub(crate) fn to_row<T: Serialize>(document: &T) -> Result<Row, Error> {
    let encode = |encoder: &mut RowEncoder| Ok(encoder.encode_row(document)?);
    ENCODER.with(|encoder| match encoder.try_borrow_mut() {
        Ok(mut encoder) => encode(&mut encoder),
        // A type that writes documents while it is serialised.
        Err(_) => encode(&mut RowEncoder::default()),
    })
}

pub(crate) fn from_row<T: DeserializeOwned>(row: &Row) -> Result<T, Error> {
    Ok(blazedb_wire::serde::from_row(row.as_ref())?)
}

pub(crate) fn live(state: DocState) -> Option<Record> {
    match state {
        DocState::Live(record) => Some(record),
        DocState::Absent | DocState::Dead(_) => None,
    }
}

impl<'db> Transaction<'db> {
    pub(crate) fn new(draft: Draft<'db>) -> Self {
        Self { draft: RefCell::new(draft) }
    }

    /// Sets a setting of this file, or removes it: something like an import's resume mark or the last window size. It is
    /// committed with the transaction's documents, and it stays here: it is never sent anywhere.
    ///
    /// # Errors
    /// [`ErrorKind::Limit`] for a name that is empty or longer than 255 bytes, or a value of more than 64 KiB.
    pub fn set_local(&self, name: &str, value: Option<&[u8]>) -> Result<(), Error> {
        self.draft.borrow_mut().set_local(name, value)
    }

    pub(crate) fn into_draft(self) -> Draft<'db> {
        self.draft.into_inner()
    }

    /// Returns the documents of one collection as this transaction sees them.
    ///
    /// # Errors
    /// A name that is empty or longer than 255 bytes.
    pub fn collection<T>(&self, name: &str) -> Result<TransactionCollection<'_, 'db, T>, Error>
    where
        T: Serialize + DeserializeOwned,
    {
        Ok(TransactionCollection { draft: &self.draft, name: crate::collection::checked_name(name)?, of: PhantomData })
    }
}

impl<T: Serialize + DeserializeOwned> TransactionCollection<'_, '_, T> {
    /// Inserts a document under a fresh, time-ordered id.
    ///
    /// # Errors
    /// A document that does not fit the format or its limits.
    pub fn insert(&self, document: &T) -> Result<DocumentId, Error> {
        let row = to_row(document)?;
        let mut draft = self.draft.borrow_mut();
        let id = crate::collection::fresh_id(draft.inner)?;
        draft.create(&self.name, id, row)?;
        Ok(id)
    }

    /// Inserts a document under an id of the caller's choice.
    ///
    /// # Errors
    /// [`ErrorKind::Key`] if a document with that id exists or was deleted.
    pub fn insert_with_id(&self, id: DocumentId, document: &T) -> Result<(), Error> {
        self.draft.borrow_mut().create(&self.name, id, to_row(document)?)
    }

    /// Inserts a document under a key of the caller's choice. The same key on two devices is one document, merged.
    ///
    /// # Errors
    /// [`ErrorKind::Key`] if the key is in use.
    pub fn insert_with_key(&self, key: impl Into<Key>, document: &T) -> Result<DocumentId, Error> {
        let row = to_row(document)?;
        let mut draft = self.draft.borrow_mut();
        match draft.resolve(&self.name, &key.into())? {
            (_, true) => Err(Error::new(
                ErrorKind::Key,
                format!("the key is in use in `{}`; use put_with_key to insert or replace", self.name),
            )),
            (id, false) => draft.create(&self.name, id, row).map(|()| id),
        }
    }

    /// Inserts a document under a key, or replaces the fields of the one that is there.
    ///
    /// # Errors
    /// A document that does not fit the format or its limits.
    pub fn put_with_key(&self, key: impl Into<Key>, document: &T) -> Result<DocumentId, Error> {
        let row = to_row(document)?;
        let mut draft = self.draft.borrow_mut();
        match draft.resolve(&self.name, &key.into())? {
            (id, true) => draft.replace(&self.name, id, row).map(|_| id),
            (id, false) => draft.create(&self.name, id, row).map(|()| id),
        }
    }

    /// Returns a document.
    ///
    /// # Errors
    /// [`ErrorKind::Type`] if it does not fit `T`.
    pub fn get(&self, id: DocumentId) -> Result<Option<T>, Error> {
        self.draft.borrow_mut().row(&self.name, id)?.map(|row| from_row(&row)).transpose()
    }

    /// Returns the document that a key names now.
    ///
    /// # Errors
    /// [`ErrorKind::Type`] if it does not fit `T`.
    pub fn get_by_key(&self, key: impl Into<Key>) -> Result<Option<(DocumentId, T)>, Error> {
        let mut draft = self.draft.borrow_mut();
        let (id, _) = draft.resolve(&self.name, &key.into())?;
        draft.row(&self.name, id)?.map(|row| Ok((id, from_row(&row)?))).transpose()
    }

    /// Writes the fields that the patch names; returns false if there is no such document.
    ///
    /// # Errors
    /// A value that does not fit the format or its limits.
    pub fn update(&self, id: DocumentId, patch: Patch) -> Result<bool, Error> {
        self.draft.borrow_mut().update(&self.name, id, patch)
    }

    /// Replaces a document, writing the fields that differ and removing those that are gone; returns false if there
    /// is no such document.
    ///
    /// # Errors
    /// A document that does not fit the format or its limits.
    pub fn replace(&self, id: DocumentId, document: &T) -> Result<bool, Error> {
        self.draft.borrow_mut().replace(&self.name, id, to_row(document)?)
    }

    /// Deletes a document; returns false if there is no such document.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn delete(&self, id: DocumentId) -> Result<bool, Error> {
        self.draft.borrow_mut().delete(&self.name, id)
    }
}
