//! `Row`: an encoded document, its names outside and its values inside.
//!
//! Holding a `Row` or a `RowRef` is the proof that its body is valid for its shape. The body is the same bytes
//! wherever the row lies. Reading a field finds two ends and decodes that field alone.

use crate::error::{DecodeError, DecodeErrorKind, EncodeError};
use crate::limits::ROW_BYTES_MAX;
use crate::shape::Shape;
use crate::value::encode::{Encoder, check_limit};
use crate::value::sequence::{Sequence, close_sequence, open_sequence};
use crate::value::validate::validate_body_at;
use crate::value::{Document, Value, ValueIndex, ValueRef};
use bytes::Bytes;
use std::fmt;

/// An encoded document that owns its bytes. Cloning is cheap.
#[derive(Clone, PartialEq, Eq)]
pub struct Row {
    shape: Shape,
    body: Bytes,
}

/// An encoded document, borrowed.
#[derive(Clone, Copy)]
pub struct RowRef<'a> {
    shape: &'a Shape,
    body: &'a [u8],
}

/// Tag and payload of one field, as they lie in the body.
///
/// The order is that of the tag, then of the payload's bytes: what decides between two writes with equal stamps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RawField<'a> {
    /// The tag.
    pub tag: u8,
    /// The payload.
    pub payload: &'a [u8],
}

impl<'a> RawField<'a> {
    /// Reads the field; it must come from a valid row.
    #[inline]
    pub fn value(&self) -> ValueRef<'a> {
        ValueRef::trusted(self.tag, self.payload)
    }

    /// Reads the keys of the field, which must come from a valid row, once for many look-ups.
    pub fn index(&self) -> ValueIndex<'a> {
        ValueIndex::trusted(self.tag, self.payload)
    }
}

impl Row {
    /// Encodes a document.
    pub fn encode(document: &Document) -> Result<Self, EncodeError> {
        Self::encode_like(document, &Shape::empty())
    }

    /// Encodes a document; if it has exactly the names of `like`, shares that shape instead of making one.
    pub fn encode_like(document: &Document, like: &Shape) -> Result<Self, EncodeError> {
        let shape = if like.is_exactly(document.keys()) {
            like.clone()
        } else {
            let names: Vec<&str> = document.keys().collect();
            Shape::from_sorted(&names)?
        };
        let size_hint = |value: &Value| match value {
            Value::Text(text) => text.len() + 2,
            Value::Bytes(bytes) => bytes.len() + 2,
            _ => 10,
        };
        let hint: usize = document.iter().map(|field| size_hint(field.1)).sum();
        // A larger one will be refused; do not reserve for it.
        let mut body = Vec::with_capacity(hint.min(ROW_BYTES_MAX));
        Encoder::default().row(document, &mut body)?;
        check_limit("row bytes", shape.encoded_len() + body.len(), ROW_BYTES_MAX)?;
        Ok(Self { shape, body: Bytes::from(body) })
    }

    /// Checks a row from outside (spec: V-23, L-4).
    pub fn decode(shape: Shape, body: Bytes) -> Result<Self, DecodeError> {
        check_row(&shape, &body, 0)?;
        Ok(Self { shape, body })
    }

    /// Takes a row without checking it, for bytes that were checked before they went into a place that keeps bytes
    /// as they are.
    ///
    /// Over other bytes no getter panics, but fields read as null and encodings made from the row are wrong.
    pub const fn trusted(shape: Shape, body: Bytes) -> Self {
        Self { shape, body }
    }

    /// Assembles a row from fields of valid rows, one for each name of the shape, in its order.
    ///
    /// The result may be larger than `ROW_BYTES_MAX`: a merge of several rows must not fail for its size.
    pub fn from_fields(shape: Shape, fields: &[RawField<'_>]) -> Result<Self, EncodeError> {
        if shape.len() != fields.len() {
            return Err(EncodeError::FieldCount { names: shape.len(), fields: fields.len() });
        }
        let mut body = Vec::new();
        encode_body(fields, &mut body);
        Ok(Self { shape, body: Bytes::from(body) })
    }

    /// Returns the row, borrowed.
    #[inline]
    pub fn as_ref(&self) -> RowRef<'_> {
        RowRef { shape: &self.shape, body: &self.body }
    }

    /// Returns the shape.
    #[inline]
    pub const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Returns the body.
    #[inline]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns the number of fields.
    #[inline]
    pub fn len(&self) -> usize {
        self.shape.len()
    }

    /// Returns true if there is no field.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.shape.is_empty()
    }

    /// Returns the value of a field.
    pub fn get(&self, name: &str) -> Option<ValueRef<'_>> {
        self.as_ref().get(name)
    }

    /// Returns what lies at the end of a path of names; see [`RowRef::get_path`].
    pub fn get_path<'n>(&self, path: impl IntoIterator<Item = &'n str>) -> Option<ValueRef<'_>> {
        self.as_ref().get_path(path)
    }

    /// Returns the document, owned.
    pub fn to_document(&self) -> Document {
        self.as_ref().to_document()
    }
}

impl<'a> RowRef<'a> {
    /// Checks a row from outside (spec: V-23, L-4).
    #[inline]
    pub fn decode(shape: &'a Shape, body: &'a [u8]) -> Result<Self, DecodeError> {
        check_row(shape, body, 0)?;
        Ok(Self { shape, body })
    }

    /// Takes a row without checking it; see `Row::trusted`.
    #[inline]
    pub const fn trusted(shape: &'a Shape, body: &'a [u8]) -> Self {
        Self { shape, body }
    }

    /// Returns the shape.
    #[inline]
    pub const fn shape(&self) -> &'a Shape {
        self.shape
    }

    /// Returns the body.
    #[inline]
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Returns the number of fields.
    #[inline]
    pub fn len(&self) -> usize {
        self.shape.len()
    }

    /// Returns true if there is no field.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.shape.is_empty()
    }

    #[inline]
    pub(crate) fn sequence(&self) -> Sequence<'a> {
        Sequence::trusted(self.shape.len(), self.body, 0).unwrap_or_default()
    }

    /// Returns tag and payload of the field at `index`; past the last field those of null.
    #[inline]
    pub fn field(&self, index: usize) -> RawField<'a> {
        let (tag, payload) = self.sequence().item(index).unwrap_or_default();
        RawField { tag, payload }
    }

    /// Iterates over tags and payloads, by ascending name.
    #[inline]
    pub fn fields(&self) -> impl ExactSizeIterator<Item = RawField<'a>> + use<'a> {
        let mut items = self.sequence().items();
        (0..self.len()).map(move |_| {
            let (tag, payload) = items.next().unwrap_or_default();
            RawField { tag, payload }
        })
    }

    /// Returns the value of the field at `index`, in constant time; past the last field null.
    #[inline]
    pub fn get_index(&self, index: usize) -> ValueRef<'a> {
        let RawField { tag, payload } = self.field(index);
        ValueRef::trusted(tag, payload)
    }

    /// Returns the value of a field: a binary search in the shape, then constant time.
    #[inline]
    pub fn get(&self, name: &str) -> Option<ValueRef<'a>> {
        self.shape.index_of(name).map(|index| self.get_index(index))
    }

    /// Returns tag and payload of a field.
    pub fn raw(&self, name: &str) -> Option<RawField<'a>> {
        self.shape.index_of(name).map(|index| self.field(index))
    }

    /// Returns what lies at the end of a path of names: of a field, then each of a field of the map before it.
    ///
    /// Allocates nothing. The first step is a binary search in the shape, each further one a scan of the keys of that
    /// field's maps; [`RawField::index`] saves that where there are many.
    ///
    /// ```
    /// use blazedb_wire::{Document, Row, Value, ValueRef};
    ///
    /// let map = |name: &str, value: Value| -> Document { [(name, value)].into_iter().collect() };
    /// let row = Row::encode(&map("author", Value::Map(map("name", Value::Text("Ada".to_owned())))))?;
    /// assert!(matches!(row.as_ref().get_path(["author", "name"]), Some(ValueRef::Text("Ada"))));
    /// assert!(row.as_ref().get_path(["author", "born"]).is_none());
    /// # Ok::<(), blazedb_wire::EncodeError>(())
    /// ```
    pub fn get_path<'n>(&self, path: impl IntoIterator<Item = &'n str>) -> Option<ValueRef<'a>> {
        let mut path = path.into_iter();
        self.get(path.next()?)?.get_path(path)
    }

    /// Iterates over names and values, by ascending name.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'a str, ValueRef<'a>)> + use<'a> {
        let mut items = self.sequence().items();
        self.shape.names().map(move |name| {
            let (tag, payload) = items.next().unwrap_or_default();
            (name, ValueRef::trusted(tag, payload))
        })
    }

    /// Returns the document, owned.
    pub fn to_document(&self) -> Document {
        Document::from_sorted(self.iter().map(|(name, value)| (name.to_owned(), value.to_value())).collect())
    }

    /// Returns the row with bytes of its own.
    pub fn to_row(&self) -> Row {
        Row { shape: self.shape.clone(), body: Bytes::copy_from_slice(self.body) }
    }
}

/// Checks body and size of a row that starts at offset `at` (spec: L-4).
pub(crate) fn check_row(shape: &Shape, body: &[u8], at: usize) -> Result<(), DecodeError> {
    let given = shape.encoded_len() + body.len();
    if given > ROW_BYTES_MAX {
        let kind = DecodeErrorKind::Limit { what: "row bytes", given: given as u64, max: ROW_BYTES_MAX as u64 };
        return Err(DecodeError::new(at, kind));
    }
    validate_body_at(shape.len(), body, at)
}

/// Appends the row body made of these fields, which come from valid rows and are not decoded.
pub fn encode_body(fields: &[RawField<'_>], out: &mut Vec<u8>) {
    let heap_len: usize = fields.iter().map(|field| field.payload.len()).sum();
    out.reserve(1 + fields.len() * 5 + heap_len);
    let (tags_at, heap_at) = open_sequence(fields.len(), out);
    let mut ends = Vec::with_capacity(fields.len());
    for (index, field) in fields.iter().enumerate() {
        out[tags_at + index] = field.tag;
        out.extend_from_slice(field.payload);
        // At most 4096 fields of 1 MiB, tied together in limits.rs.
        ends.push((out.len() - heap_at) as u32);
    }
    close_sequence(out, heap_at, &ends);
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

impl fmt::Debug for RowRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl PartialEq for RowRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.shape == other.shape && self.body == other.body
    }
}

impl Eq for RowRef<'_> {}
