//! `ValueRef`: a value read where it lies.
//!
//! Nothing is decoded before it is asked for. Over bytes that were not validated the getters still do not panic: what
//! makes no sense reads as null.

use super::scalar::{TAG_ARRAY, TAG_MAP, trusted_common, trusted_scalar, trusted_seldom};
use super::sequence::{Items, Sequence};
use super::table::{Table, TableIndex};
use super::validate::validate_value;
use super::{Decimal, Document, Timestamp, Uuid, Value, VectorRef};
use crate::error::{DecodeError, DecodeErrorKind};
use crate::limits::DEPTH_MAX;
use crate::reader::Reader;
use std::fmt;

/// A value that borrows from encoded bytes.
// A tag of a whole word: what is copied has no gap that would be copied by itself.
#[repr(u64)]
#[derive(Clone, Copy)]
pub enum ValueRef<'a> {
    /// Nothing, said explicitly.
    Null,
    /// True or false.
    Bool(bool),
    /// An integer from `i64::MIN` to `i64::MAX`.
    I64(i64),
    /// An integer above `i64::MAX`.
    U64(u64),
    /// A binary floating-point number.
    F64(f64),
    /// An exact decimal number.
    Decimal(Decimal),
    /// UTF-8 text.
    Text(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A moment.
    Timestamp(Timestamp),
    /// A UUID.
    Uuid(Uuid),
    /// Values in order.
    Array(ArrayRef<'a>),
    /// Named values.
    Map(MapRef<'a>),
    /// Floats of 32 bits, stored flat.
    VectorF32(VectorRef<'a, f32>),
    /// Floats of 64 bits, stored flat.
    VectorF64(VectorRef<'a, f64>),
}

impl<'a> ValueRef<'a> {
    /// Checks and reads the value of one top-level field from outside.
    pub fn decode(tag: u8, payload: &'a [u8]) -> Result<Self, DecodeError> {
        validate_value(tag, payload)?;
        Ok(Self::trusted(tag, payload))
    }

    /// Reads the value of a top-level field that was validated before.
    #[inline(always)]
    pub(crate) fn trusted(tag: u8, payload: &'a [u8]) -> Self {
        if let Some(value) = trusted_common(tag, payload) {
            return value;
        }
        if let (TAG_ARRAY, [0, 0, len @ 0..0x80, ..]) = (tag, payload) {
            // A short list without maps: an empty table, and a count of one byte.
            return Self::Array(ArrayRef { field: payload, body_at: 3, len: u32::from(*len) });
        }
        Self::seldom(tag, payload).unwrap_or(Self::Null)
    }

    #[inline(never)]
    fn seldom(tag: u8, payload: &'a [u8]) -> Option<Self> {
        match tag {
            TAG_ARRAY | TAG_MAP => Self::open(tag, payload),
            _ => trusted_seldom(tag, payload),
        }
    }

    /// Reads the head of the container that is a field's value.
    fn open(tag: u8, field: &'a [u8]) -> Option<Self> {
        let (table, _) = Table::split(field).ok()?;
        Self::node(field, tag, table.raw().len())
    }

    /// Reads the head of a container's node, which lies at `at` in what there is of the field and ends where that ends.
    fn node(field: &'a [u8], tag: u8, at: usize) -> Option<Self> {
        let mut reader = Reader::with_offset(field.get(at..)?, at);
        let head = reader.uvarint().ok()?;
        let body_at = u32::try_from(reader.offset()).ok()?;
        let (len, shape_at) = if tag == TAG_ARRAY { (head, 0) } else { Table::split(field).ok()?.0.shape(head)? };
        let len = u32::try_from(len).ok()?;
        Sequence::split(len as usize, reader.rest(), 0).ok()?;
        if tag == TAG_ARRAY {
            return Some(Self::Array(ArrayRef { field, body_at, len }));
        }
        Some(Self::Map(MapRef { field, body_at, shape_at: u32::try_from(shape_at).ok()? }))
    }

    /// Reads an item of a container; `end` is where it ends in what there is of the field.
    #[inline(always)]
    fn item(field: &'a [u8], end: usize, item: (u8, &'a [u8])) -> Self {
        let (tag, payload) = item;
        match trusted_common(tag, payload) {
            Some(value) => value,
            None => Self::seldom_item(field, end, tag, payload).unwrap_or(Self::Null),
        }
    }

    #[inline(never)]
    fn seldom_item(field: &'a [u8], end: usize, tag: u8, payload: &'a [u8]) -> Option<Self> {
        match tag {
            TAG_ARRAY | TAG_MAP => Self::node(field.get(..end)?, tag, end.checked_sub(payload.len())?),
            _ => trusted_seldom(tag, payload),
        }
    }

    /// Returns the value with parts of its own.
    pub fn to_value(&self) -> Value {
        match *self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::I64(value) => Value::I64(value),
            Self::U64(value) => Value::U64(value),
            Self::F64(value) => Value::F64(value),
            Self::Decimal(value) => Value::Decimal(value),
            Self::Text(text) => Value::Text(text.to_owned()),
            Self::Bytes(bytes) => Value::Bytes(bytes.to_vec()),
            Self::Timestamp(value) => Value::Timestamp(value),
            Self::Uuid(value) => Value::Uuid(value),
            Self::Array(array) => array.to_value(),
            Self::Map(map) => map.to_value(),
            Self::VectorF32(vector) => Value::VectorF32(vector.to_vector()),
            Self::VectorF64(vector) => Value::VectorF64(vector.to_vector()),
        }
    }

    /// Returns true for null.
    pub const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}

impl Value {
    /// Checks and reads the value of one top-level field from outside.
    pub fn decode(tag: u8, payload: &[u8]) -> Result<Self, DecodeError> {
        ValueRef::decode(tag, payload).map(|value| value.to_value())
    }
}

/// Values in order, borrowed.
#[derive(Clone, Copy)]
pub struct ArrayRef<'a> {
    /// The payload of the field, which begins with a table of keys, up to the end of this array.
    field: &'a [u8],
    /// Where the sequence lies in it, and how many items it has.
    body_at: u32,
    len: u32,
}

impl<'a> ArrayRef<'a> {
    /// Returns the number of items.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Returns true if there is no item.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    fn items(&self) -> Sequence<'a> {
        let at = self.body_at as usize;
        self.field.get(at..).and_then(|body| Sequence::trusted(self.len(), body, at)).unwrap_or_default()
    }

    /// Returns the item at `index`, in constant time for all but maps, whose shape is looked up.
    pub fn get(&self, index: usize) -> Option<ValueRef<'a>> {
        let items = self.items();
        items.item(index).map(|item| ValueRef::item(self.field, items.end_at(index), item))
    }

    /// Iterates over the items.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = ValueRef<'a>> + use<'a> {
        ArrayIter { field: self.field, items: self.items().items() }
    }

    fn to_value(self) -> Value {
        let index = TableIndex::read(&mut Reader::new(self.field));
        index.map_or(Value::Null, |table| own_array(&table, &self.items(), 1))
    }
}

/// The items of an array.
struct ArrayIter<'a> {
    field: &'a [u8],
    items: Items<'a>,
}

impl<'a> Iterator for ArrayIter<'a> {
    type Item = ValueRef<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<ValueRef<'a>> {
        let item = self.items.next()?;
        Some(ValueRef::item(self.field, self.items.at(), item))
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.items.size_hint()
    }
}

impl ExactSizeIterator for ArrayIter<'_> {}

/// Named values, borrowed.
///
/// Looking up one name costs a scan of the value's key table and no allocation. To read all of a large value, owning
/// it with `to_value` is linear.
#[derive(Clone, Copy)]
pub struct MapRef<'a> {
    /// The payload of the field, which begins with a table of keys, up to the end of this map.
    field: &'a [u8],
    /// Where the sequence lies in it.
    body_at: u32,
    /// Where the map's shape lies in it: how many keys, and their places in the table.
    shape_at: u32,
}

impl<'a> MapRef<'a> {
    fn shape(&self) -> Reader<'a> {
        Reader::new(self.field.get(self.shape_at as usize..).unwrap_or_default())
    }

    /// Returns the number of fields.
    pub fn len(&self) -> usize {
        self.shape().uvarint().ok().and_then(|len| usize::try_from(len).ok()).unwrap_or_default()
    }

    /// Returns true if there is no field.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn items(&self) -> Sequence<'a> {
        let at = self.body_at as usize;
        self.field.get(at..).and_then(|body| Sequence::trusted(self.len(), body, at)).unwrap_or_default()
    }

    fn table(&self) -> Table<'a> {
        Table::split(self.field).map(|(table, _)| table).unwrap_or_default()
    }

    fn places(&self) -> impl Iterator<Item = u64> + use<'a> {
        let mut reader = self.shape();
        let len = reader.uvarint().unwrap_or_default();
        (0..len).map_while(move |_| reader.uvarint().ok())
    }

    fn value(&self, index: usize) -> ValueRef<'a> {
        let items = self.items();
        let item = items.item(index);
        item.map_or(ValueRef::Null, |item| ValueRef::item(self.field, items.end_at(index), item))
    }

    /// Returns the value of a field.
    pub fn get(&self, name: &str) -> Option<ValueRef<'a>> {
        let wanted = self.table().find_key(name)?;
        let index = self.places().position(|place| place == wanted)?;
        Some(self.value(index))
    }

    /// Returns name and value of the field at `index`, by ascending name; past the last field an empty name and null.
    pub fn get_index(&self, index: usize) -> (&'a str, ValueRef<'a>) {
        let place = self.places().nth(index).and_then(|place| usize::try_from(place).ok());
        let name = place.and_then(|place| self.table().keys().nth(place));
        name.map_or(("", ValueRef::Null), |name| (name, self.value(index)))
    }

    /// Iterates over names and values, by ascending name.
    ///
    /// Allocates a list of the table's keys, unless this map uses them in the table's order, as the first map of a
    /// value always does.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'a str, ValueRef<'a>)> + use<'a> {
        let map = *self;
        let table = map.table();
        let all: Option<Vec<&str>> = (!map.places().is_sorted()).then(|| table.keys().collect());
        let mut places = map.places();
        let mut keys = table.keys();
        let mut items = map.items().items();
        let mut passed = 0;
        (0..map.len()).map(move |_| {
            let place = places.next().unwrap_or(u64::MAX);
            let name = match &all {
                Some(all) => usize::try_from(place).ok().and_then(|place| all.get(place).copied()),
                None => {
                    let skip = place.saturating_sub(passed);
                    passed = place.saturating_add(1);
                    usize::try_from(skip).ok().and_then(|skip| keys.nth(skip))
                }
            };
            let item = items.next().unwrap_or_default();
            (name.unwrap_or_default(), ValueRef::item(map.field, items.at(), item))
        })
    }

    fn to_value(self) -> Value {
        let Ok(table) = TableIndex::read(&mut Reader::new(self.field)) else { return Value::Null };
        let mut places = Vec::with_capacity(self.len());
        places.extend(self.places().map(|place| u32::try_from(place).unwrap_or(u32::MAX)));
        own_map(&table, &places, &self.items(), 1)
    }
}

/// Owns an item; recursion ends at the depth limit even over bytes that were never validated.
fn own_item(table: &TableIndex<'_>, items: &Sequence<'_>, index: usize, depth: usize) -> Value {
    let Some((tag, payload)) = items.item(index) else { return Value::Null };
    match trusted_scalar(tag, payload) {
        Some(value) => value.to_value(),
        None => own_node(table, tag, payload, depth + 1).unwrap_or(Value::Null),
    }
}

fn own_node(table: &TableIndex<'_>, tag: u8, node: &[u8], depth: usize) -> Result<Value, DecodeError> {
    let mut reader = Reader::new(node);
    if depth > DEPTH_MAX {
        return Err(reader.fail(DecodeErrorKind::TooDeep));
    }
    let head = reader.uvarint()?;
    let head = usize::try_from(head).unwrap_or(usize::MAX);
    if tag == TAG_ARRAY {
        return Ok(own_array(table, &Sequence::split(head, reader.rest(), 0)?, depth));
    }
    let places = table.shape(head).unwrap_or_default();
    Ok(own_map(table, places, &Sequence::split(places.len(), reader.rest(), 0)?, depth))
}

fn own_array(table: &TableIndex<'_>, items: &Sequence<'_>, depth: usize) -> Value {
    Value::Array((0..items.len()).map(|index| own_item(table, items, index, depth)).collect())
}

fn own_map(table: &TableIndex<'_>, places: &[u32], items: &Sequence<'_>, depth: usize) -> Value {
    let fields = places
        .iter()
        .enumerate()
        .map(|(index, &place)| (table.key(place).unwrap_or_default().to_owned(), own_item(table, items, index, depth)));
    Value::Map(Document::from_sorted(fields.collect()))
}

impl fmt::Debug for ValueRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_value().fmt(f)
    }
}

impl fmt::Debug for ArrayRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_value().fmt(f)
    }
}

impl fmt::Debug for MapRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_value().fmt(f)
    }
}
