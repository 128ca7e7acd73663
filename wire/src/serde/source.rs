//! What the Deserializer reads from: an owned value, an encoded value, or an encoded row.

use std::borrow::Cow;
use std::iter::Map;
use std::rc::Rc;

use crate::value::scalar::{TAG_ARRAY, trusted_scalar};
use crate::value::sequence::Sequence;
use crate::value::table::{Table, TableIndex};
use crate::{Decimal, Reader, RowRef, Timestamp, Uuid, Value, ValueRef};

/// Something that is one value.
pub(super) trait Source<'de>: Sized {
    /// What its items are.
    type Item: Source<'de>;
    /// The items of an array.
    type Items: ExactSizeIterator<Item = Self::Item>;
    /// The entries of a map, by ascending name.
    type Entries: ExactSizeIterator<Item = (Cow<'de, str>, Self::Item)>;

    fn node(self) -> Node<'de, Self>;
}

/// The outermost layer of a value.
pub(super) enum Node<'de, S: Source<'de>> {
    Null,
    Bool(bool),
    I64(i64),
    U64(u64),
    F64(f64),
    Text(Cow<'de, str>),
    Bytes(Cow<'de, [u8]>),
    Timestamp(Timestamp),
    Uuid(Uuid),
    Array(S::Items),
    Map(S::Entries),
    Decimal(Decimal),
    /// The elements of a vector, as they are stored.
    VectorF32(Cow<'de, [u8]>),
    VectorF64(Cow<'de, [u8]>),
}

impl<'de> Source<'de> for Value {
    type Item = Self;
    type Items = std::vec::IntoIter<Self>;
    type Entries = Map<std::vec::IntoIter<(String, Self)>, fn((String, Self)) -> (Cow<'de, str>, Self)>;

    fn node(self) -> Node<'de, Self> {
        match self {
            Self::Null => Node::Null,
            Self::Bool(value) => Node::Bool(value),
            Self::I64(value) => Node::I64(value),
            Self::U64(value) => Node::U64(value),
            Self::F64(value) => Node::F64(value),
            Self::Text(value) => Node::Text(Cow::Owned(value)),
            Self::Bytes(value) => Node::Bytes(Cow::Owned(value)),
            Self::Timestamp(value) => Node::Timestamp(value),
            Self::Uuid(value) => Node::Uuid(value),
            Self::Decimal(value) => Node::Decimal(value),
            Self::VectorF32(vector) => Node::VectorF32(Cow::Owned(vector.to_le_bytes())),
            Self::VectorF64(vector) => Node::VectorF64(Cow::Owned(vector.to_le_bytes())),
            Self::Array(items) => Node::Array(items.into_iter()),
            Self::Map(document) => {
                fn owned<'de>((name, value): (String, Value)) -> (Cow<'de, str>, Value) {
                    (Cow::Owned(name), value)
                }
                Node::Map(document.into_iter().map(owned as fn(_) -> _))
            }
        }
    }
}

/// A value in its encoded form. It was validated before; over bytes that were not, what makes no sense is null.
///
/// This reads containers through an index over their key table, made once per field and shared by everything inside:
/// `ValueRef` scans the table anew for every map, which is right for looking one thing up, but for reading all of a
/// large value makes a product of the two.
pub(super) struct Encoded<'de> {
    tag: u8,
    payload: &'de [u8],
    /// Of the containers around it; `None` for the value of a field, which brings its own.
    table: Option<Rc<TableIndex<'de>>>,
}

impl<'de> Encoded<'de> {
    pub(super) fn new(tag: u8, payload: &'de [u8], table: Option<Rc<TableIndex<'de>>>) -> Self {
        Self { tag, payload, table }
    }

    fn container(self) -> Option<Node<'de, Self>> {
        let (table, node) = match self.table {
            Some(table) => (table, self.payload),
            None => {
                let (table, node) = Table::split(self.payload).ok()?;
                (Rc::new(TableIndex::read(&mut Reader::new(table.raw())).ok()?), node)
            }
        };
        let mut reader = Reader::new(node);
        let head = usize::try_from(reader.uvarint().ok()?).ok()?;
        if self.tag == TAG_ARRAY {
            let items = Sequence::split(head, reader.rest(), 0).ok()?;
            return Some(Node::Array(EncodedItems { table, items, at: 0 }));
        }
        let items = Sequence::split(table.shape(head)?.len(), reader.rest(), 0).ok()?;
        Some(Node::Map(EncodedEntries { shape: head, items: EncodedItems { table, items, at: 0 } }))
    }
}

impl<'de> Source<'de> for Encoded<'de> {
    type Item = Self;
    type Items = EncodedItems<'de>;
    type Entries = EncodedEntries<'de>;

    fn node(self) -> Node<'de, Self> {
        match trusted_scalar(self.tag, self.payload) {
            Some(ValueRef::Bool(value)) => Node::Bool(value),
            Some(ValueRef::I64(value)) => Node::I64(value),
            Some(ValueRef::U64(value)) => Node::U64(value),
            Some(ValueRef::F64(value)) => Node::F64(value),
            Some(ValueRef::Decimal(value)) => Node::Decimal(value),
            Some(ValueRef::Text(value)) => Node::Text(Cow::Borrowed(value)),
            Some(ValueRef::Bytes(value)) => Node::Bytes(Cow::Borrowed(value)),
            Some(ValueRef::Timestamp(value)) => Node::Timestamp(value),
            Some(ValueRef::Uuid(value)) => Node::Uuid(value),
            Some(ValueRef::VectorF32(vector)) => Node::VectorF32(Cow::Borrowed(vector.as_bytes())),
            Some(ValueRef::VectorF64(vector)) => Node::VectorF64(Cow::Borrowed(vector.as_bytes())),
            None => self.container().unwrap_or(Node::Null),
            Some(ValueRef::Null | ValueRef::Array(_) | ValueRef::Map(_)) => Node::Null,
        }
    }
}

pub(super) struct EncodedItems<'de> {
    table: Rc<TableIndex<'de>>,
    items: Sequence<'de>,
    at: usize,
}

impl<'de> Iterator for EncodedItems<'de> {
    type Item = Encoded<'de>;

    fn next(&mut self) -> Option<Encoded<'de>> {
        let (tag, payload) = self.items.item(self.at)?;
        self.at += 1;
        Some(Encoded { tag, payload, table: Some(Rc::clone(&self.table)) })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.items.len() - self.at;
        (left, Some(left))
    }
}

impl ExactSizeIterator for EncodedItems<'_> {}

pub(super) struct EncodedEntries<'de> {
    shape: usize,
    items: EncodedItems<'de>,
}

impl<'de> Iterator for EncodedEntries<'de> {
    type Item = (Cow<'de, str>, Encoded<'de>);

    fn next(&mut self) -> Option<Self::Item> {
        let table = &self.items.table;
        let place = *table.shape(self.shape)?.get(self.items.at)?;
        let name = table.key(place)?;
        Some((Cow::Borrowed(name), self.items.next()?))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.items.size_hint()
    }
}

impl ExactSizeIterator for EncodedEntries<'_> {}

/// A row: a map whose names lie outside of it.
impl<'de> Source<'de> for RowRef<'de> {
    type Item = Encoded<'de>;
    /// A row is never an array.
    type Items = std::iter::Empty<Encoded<'de>>;
    type Entries = RowEntries<'de>;

    fn node(self) -> Node<'de, Self> {
        Node::Map(RowEntries { row: self, at: 0 })
    }
}

pub(super) struct RowEntries<'de> {
    row: RowRef<'de>,
    at: usize,
}

impl<'de> Iterator for RowEntries<'de> {
    type Item = (Cow<'de, str>, Encoded<'de>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.row.len() {
            return None;
        }
        let at = self.at;
        self.at += 1;
        let field = self.row.field(at);
        Some((Cow::Borrowed(self.row.shape().name(at)), Encoded::new(field.tag, field.payload, None)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.row.len() - self.at;
        (left, Some(left))
    }
}

impl ExactSizeIterator for RowEntries<'_> {}
