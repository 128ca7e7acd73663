//! `Op`: one replicated change of one document.
//!
//! An operation stands by itself: it names its collection, carries its names and values, and says how it merges. In a
//! batch its timestamp, cursor, collection and shapes are relative to the batch head, never to a neighbour, so that
//! single operations can be lifted out.

use crate::error::EncodeError;
use crate::id::{DocumentId, sha256_half};
use crate::limits::{ATTRS_BYTES_MAX, NAME_BYTES_MAX, ROW_BYTES_MAX};
use crate::row::{Row, RowRef};
use crate::shape::Shape;
use crate::time::Hlc;
use crate::value::encode::check_limit;
use crate::writer::put_prefixed;
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OpKind {
    /// Makes a document; only this makes one.
    Create,
    /// Sets and unsets fields of a document.
    Update,
    /// Ends a document.
    Delete,
}

impl OpKind {
    /// Returns the number in the format (spec: O-1).
    pub const fn number(self) -> u8 {
        match self {
            Self::Create => 0,
            Self::Update => 1,
            Self::Delete => 2,
        }
    }
}

/// How the operation's fields merge with others (spec: O-2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MergeKind {
    /// Each field is a register; the last writer wins.
    #[default]
    Register,
}

impl MergeKind {
    /// The greatest number that is reserved for a later kind: counter, set, list, map, text, custom.
    pub(crate) const RESERVED_MAX: u8 = 6;

    /// Returns the number in the format.
    pub const fn number(self) -> u8 {
        match self {
            Self::Register => 0,
        }
    }
}

/// An operation that owns its parts and needs no batch to be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// What it does.
    pub kind: OpKind,
    /// How its fields merge.
    pub merge: MergeKind,
    /// The transaction goes on with the next operation of the batch.
    pub more: bool,
    /// When, as the author's hybrid clock had it.
    pub hlc: Hlc,
    /// How far the author had read the relay's sequence when it wrote this.
    pub cursor: u64,
    /// The collection's name.
    pub collection: Arc<str>,
    /// The document.
    pub id: DocumentId,
    /// Attributes, opaque here.
    pub attrs: Bytes,
    /// The fields it sets; there for creates and updates, not for deletes.
    pub set: Option<Row>,
    /// The names it unsets; empty but for updates.
    pub unset: Shape,
}

/// An operation that borrows from a batch.
#[derive(Clone, Copy)]
pub struct OpRef<'a> {
    /// What it does.
    pub kind: OpKind,
    /// How its fields merge.
    pub merge: MergeKind,
    /// The transaction goes on with the next operation of the batch.
    pub more: bool,
    /// When, as the author's hybrid clock had it.
    pub hlc: Hlc,
    /// How far the author had read the relay's sequence when it wrote this.
    pub cursor: u64,
    /// The collection's name.
    pub collection: &'a Arc<str>,
    /// The document.
    pub id: DocumentId,
    /// Attributes, opaque here.
    pub attrs: &'a [u8],
    /// The fields it sets; there for creates and updates, not for deletes.
    pub set: Option<RowRef<'a>>,
    /// The names it unsets; empty but for updates.
    pub unset: &'a Shape,
    /// The batch these borrow from, so that an owned copy can share it.
    pub(crate) source: Option<&'a Bytes>,
}

impl Op {
    /// Returns the operation, borrowed.
    pub fn as_ref(&self) -> OpRef<'_> {
        OpRef {
            kind: self.kind,
            merge: self.merge,
            more: self.more,
            hlc: self.hlc,
            cursor: self.cursor,
            collection: &self.collection,
            id: self.id,
            attrs: &self.attrs,
            set: self.set.as_ref().map(Row::as_ref),
            unset: &self.unset,
            source: None,
        }
    }

    /// Returns the digest that tells a repeat from another operation of the same name; see `OpRef::payload_digest`.
    pub fn payload_digest(&self) -> [u8; 16] {
        self.as_ref().payload_digest()
    }

    /// Returns about how many bytes the operation adds to a batch that has its shapes and collection already.
    pub fn encoded_len_hint(&self) -> usize {
        32 + self.attrs.len() + self.set.as_ref().map_or(0, |row| row.body().len())
    }

    /// Checks that the parts fit the kind and the limits.
    pub fn check(&self) -> Result<(), EncodeError> {
        // spec: L-3, L-14
        if self.collection.is_empty() {
            return Err(EncodeError::EmptyName);
        }
        check_limit("collection name bytes", self.collection.len(), NAME_BYTES_MAX)?;
        check_limit("attributes bytes", self.attrs.len(), ATTRS_BYTES_MAX)?;
        let bad = |rule| Err(EncodeError::BadOp { rule });
        let Some(row) = &self.set else {
            return match self.kind {
                OpKind::Delete if self.unset.is_empty() => Ok(()),
                OpKind::Delete => bad("O-10"),
                OpKind::Create | OpKind::Update => bad("O-9"),
            };
        };
        match self.kind {
            OpKind::Delete => return bad("O-10"),
            OpKind::Create if !self.unset.is_empty() => return bad("O-4"),
            OpKind::Update if row.is_empty() && self.unset.is_empty() => return bad("O-9"),
            OpKind::Update if row.shape().first_common(&self.unset).is_some() => return bad("O-8"),
            OpKind::Create | OpKind::Update => {}
        }
        check_limit("row bytes", op_weight(row.as_ref(), &self.unset), ROW_BYTES_MAX)
    }
}

/// Returns what counts against the row limit: the row, its names, and the names that are unset (spec: L-4).
pub(crate) fn op_weight(set: RowRef<'_>, unset: &Shape) -> usize {
    let unset = if unset.is_empty() { 0 } else { unset.encoded_len() };
    set.shape().encoded_len() + set.body().len() + unset
}

impl OpRef<'_> {
    /// Returns the operation with parts of its own; row and attributes share the batch's bytes where there is one.
    pub fn to_op(&self) -> Op {
        let lift = |part: &[u8]| self.source.and_then(|source| share(source, part));
        let own = |part: &[u8]| lift(part).unwrap_or_else(|| Bytes::copy_from_slice(part));
        Op {
            kind: self.kind,
            merge: self.merge,
            more: self.more,
            hlc: self.hlc,
            cursor: self.cursor,
            collection: self.collection.clone(),
            id: self.id,
            attrs: own(self.attrs),
            set: self.set.map(|row| Row::trusted(row.shape().clone(), own(row.body()))),
            unset: self.unset.clone(),
        }
    }

    /// Returns the digest of what the author wrote: kind, merge kind, collection, document, attributes, names and
    /// values (spec: O-11).
    ///
    /// Stamp, counter, cursor and the mark of a transaction are left out: they may change until the batch is sealed.
    pub fn payload_digest(&self) -> [u8; 16] {
        let mut head = Vec::with_capacity(64 + self.collection.len() + self.attrs.len());
        head.extend_from_slice(b"BZ-op\0");
        head.push(self.kind.number());
        head.push(self.merge.number());
        put_prefixed(&mut head, self.collection.as_bytes());
        head.extend_from_slice(self.id.as_bytes());
        put_prefixed(&mut head, self.attrs);
        self.set.map_or(&Shape::empty(), |row| row.shape()).encode(&mut head);
        self.unset.encode(&mut head);
        sha256_half(&[&head, self.set.map_or(&[], |row| row.body())])
    }
}

/// Returns the part of `source` that `part` is, without a copy; none if it lies elsewhere.
fn share(source: &Bytes, part: &[u8]) -> Option<Bytes> {
    let at = part.as_ptr().addr().checked_sub(source.as_ptr().addr())?;
    let end = at.checked_add(part.len())?;
    (end <= source.len()).then(|| source.slice(at..end))
}

impl PartialEq for OpRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.merge == other.merge
            && self.more == other.more
            && self.hlc == other.hlc
            && self.cursor == other.cursor
            && self.collection == other.collection
            && self.id == other.id
            && self.attrs == other.attrs
            && self.set == other.set
            && self.unset == other.unset
    }
}

impl Eq for OpRef<'_> {}

impl fmt::Debug for OpRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_op().fmt(f)
    }
}
