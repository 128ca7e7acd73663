//! `ValueRef`: a value read where it lies.
//!
//! Nothing is decoded before it is asked for. Over bytes that were not validated the getters still do not panic: what
//! makes no sense reads as null.

use super::scalar::{TAG_ARRAY, TAG_MAP, trusted_common, trusted_scalar, trusted_seldom};
use super::sequence::{Items, Sequence};
use super::table::{Keys, Table, TableIndex, shape_at};
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
            return Self::Array(ArrayRef { source: Source::Bytes(payload), at: 3, len: u32::from(*len) });
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
        Self::node(field, tag, table.raw().len(), &mut Shapes::of(&table)?)
    }

    /// Reads the head of a container's node, which lies at `at` in what there is of the field and ends where that ends.
    fn node(field: &'a [u8], tag: u8, at: usize, shapes: &mut Shapes) -> Option<Self> {
        let mut reader = Reader::with_offset(field.get(at..)?, at);
        let head = reader.uvarint().ok()?;
        let body_at = u32::try_from(reader.offset()).ok()?;
        let (len, shape_at) = if tag == TAG_ARRAY { (head, 0) } else { shapes.find(field, head)? };
        let len = u32::try_from(len).ok()?;
        Sequence::split(len as usize, reader.rest(), 0).ok()?;
        let source = Source::Bytes(field);
        if tag == TAG_ARRAY {
            return Some(Self::Array(ArrayRef { source, at: body_at, len }));
        }
        Some(Self::Map(MapRef { source, at: body_at, shape_at: u32::try_from(shape_at).ok()? }))
    }

    /// Reads an item of a container; `end` is where it ends in the field.
    #[inline(always)]
    fn item(source: Source<'a>, end: usize, item: (u8, &'a [u8]), shapes: &mut Shapes) -> Self {
        let (tag, payload) = item;
        match trusted_common(tag, payload) {
            Some(value) => value,
            None => {
                let (value, passed) = Self::seldom_item(source, end, tag, payload, *shapes);
                *shapes = passed;
                value.unwrap_or(Self::Null)
            }
        }
    }

    #[inline(never)]
    fn seldom_item(
        source: Source<'a>,
        end: usize,
        tag: u8,
        payload: &'a [u8],
        mut shapes: Shapes,
    ) -> (Option<Self>, Shapes) {
        let at = end.checked_sub(payload.len());
        let value = match (tag, source) {
            (TAG_ARRAY | TAG_MAP, Source::Bytes(field)) => {
                field.get(..end).zip(at).and_then(|(field, at)| Self::node(field, tag, at, &mut shapes))
            }
            (TAG_ARRAY | TAG_MAP, Source::Index(index)) => at.and_then(|at| index.node(tag, at, end)),
            _ => trusted_seldom(tag, payload),
        };
        (value, shapes)
    }

    /// Returns what lies at the end of a path of names, each of a field of the map before it; itself for no names.
    ///
    /// Allocates nothing; each step costs what [`MapRef::get`] does.
    pub fn get_path<'n>(&self, path: impl IntoIterator<Item = &'n str>) -> Option<Self> {
        path.into_iter().try_fold(*self, |value, name| match value {
            Self::Map(map) => map.get(name),
            _ => None,
        })
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

/// Where containers of a field find their keys.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// The payload of the field, which begins with a table of keys, up to the end of the container: the table is
    /// scanned for every question.
    Bytes(&'a [u8]),
    /// The payload with its table read.
    Index(&'a ValueIndex<'a>),
}

/// Where the shapes of a key table lie, looked up one after another: a shape that comes again, or behind the one before, is
/// found without beginning anew. Canonical values have their shapes in the order in which they are met first.
///
/// It is copied and not lent to what is called: else a loop over items would keep all it has in memory.
#[derive(Clone, Copy, Default)]
struct Shapes {
    /// Where the first one lies in the field, and how many there are; 0 where nobody has looked.
    begin: u32,
    count: u32,
    /// The shape found last, and where it lies.
    last: u32,
    at: u32,
}

impl Shapes {
    fn of(table: &Table<'_>) -> Option<Self> {
        let begin = u32::try_from(table.shapes_at()).ok()?;
        Some(Self { begin, count: u32::try_from(table.shape_count()).ok()?, last: 0, at: begin })
    }

    /// Returns the number of fields of a shape, and where it says that in the field.
    fn find(&mut self, field: &[u8], shape: u64) -> Option<(u64, usize)> {
        if self.begin == 0 {
            *self = Self::of(&Table::split(field).ok()?.0)?;
        }
        let shape = u32::try_from(shape).ok().filter(|&shape| shape < self.count)?;
        if shape < self.last {
            (self.last, self.at) = (0, self.begin);
        }
        let found = shape_at(field, shape - self.last, self.at as usize)?;
        (self.last, self.at) = (shape, u32::try_from(found.1).ok()?);
        Some(found)
    }
}

/// The value of a field with its keys at hand, so that each look-up in it takes a binary search at most.
///
/// A [`ValueRef`] over bytes alone scans the key table of the field for each map that is opened and for each name. That is
/// the fastest for a few keys, and costs too much where many look-ups go into a value of thousands of keys or shapes.
/// Reading the table once is linear, and allocates where it has more than a few keys.
///
/// ```
/// use blazedb_wire::{Document, Row, Value, ValueRef};
///
/// let item = |n: i64| Value::Map([("n", Value::I64(n)), ("twice", Value::I64(2 * n))].into_iter().collect());
/// let document: Document = [("items", Value::Array((0..1000).map(item).collect()))].into_iter().collect();
/// let row = Row::encode(&document)?;
///
/// let field = row.as_ref().raw("items").expect("there is one");
/// let index = field.index();
/// let ValueRef::Array(items) = index.value() else { panic!("a list") };
/// let sum: i64 = items.iter().filter_map(|item| match item.get_path(["twice"]) {
///     Some(ValueRef::I64(n)) => Some(n),
///     _ => None,
/// }).sum();
/// assert_eq!(sum, 999_000);
/// # Ok::<(), blazedb_wire::EncodeError>(())
/// ```
pub struct ValueIndex<'a> {
    tag: u8,
    /// The payload of the field.
    field: &'a [u8],
    /// Where the node of the field lies in it; the table is before it.
    node_at: usize,
    table: TableIndex<'a>,
}

impl<'a> ValueIndex<'a> {
    /// Reads the key table of a field that was validated before; what makes no sense reads as null.
    pub(crate) fn trusted(tag: u8, field: &'a [u8]) -> Self {
        let mut reader = Reader::new(field);
        let table = match tag {
            TAG_ARRAY | TAG_MAP => TableIndex::read(&mut reader).unwrap_or_default(),
            _ => TableIndex::default(),
        };
        Self { tag, field, node_at: reader.offset(), table }
    }

    /// Returns the value.
    pub fn value(&self) -> ValueRef<'_> {
        match self.tag {
            TAG_ARRAY | TAG_MAP => self.node(self.tag, self.node_at, self.field.len()).unwrap_or(ValueRef::Null),
            tag => ValueRef::trusted(tag, self.field),
        }
    }

    /// Reads the head of the container whose node lies from `at` to `end` in the field.
    fn node(&'a self, tag: u8, at: usize, end: usize) -> Option<ValueRef<'a>> {
        let (head, _) = self.head(at, end)?;
        let len = if tag == TAG_ARRAY { head } else { self.table.shape(head)?.len() };
        self.sequence(len, at, end)?;
        let source = Source::Index(self);
        let (at, end) = (u32::try_from(at).ok()?, u32::try_from(end).ok()?);
        Some(match tag {
            TAG_ARRAY => ValueRef::Array(ArrayRef { source, at, len: end }),
            _ => ValueRef::Map(MapRef { source, at, shape_at: end }),
        })
    }

    /// Returns what a node says first, and where its body starts.
    fn head(&self, at: usize, end: usize) -> Option<(usize, usize)> {
        let mut reader = Reader::with_offset(self.field.get(at..end)?, at);
        Some((usize::try_from(reader.uvarint().ok()?).ok()?, reader.offset()))
    }

    fn sequence(&self, len: usize, at: usize, end: usize) -> Option<Sequence<'a>> {
        let (_, body_at) = self.head(at, end)?;
        Sequence::split(len, self.field.get(body_at..end)?, body_at).ok()
    }

    /// Returns the places of the keys of the map whose node lies here.
    fn places(&self, at: u32, end: u32) -> &[u32] {
        let head = self.head(at as usize, end as usize);
        head.and_then(|(shape, _)| self.table.shape(shape)).unwrap_or_default()
    }
}

impl fmt::Debug for ValueIndex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value().fmt(f)
    }
}

/// Values in order, borrowed.
#[derive(Clone, Copy)]
pub struct ArrayRef<'a> {
    source: Source<'a>,
    /// Where the sequence lies in the field; with an index, where the node does.
    at: u32,
    /// How many items it has; with an index, where it ends.
    len: u32,
}

impl<'a> ArrayRef<'a> {
    /// Returns the number of items.
    #[inline]
    pub fn len(&self) -> usize {
        match self.source {
            Source::Bytes(_) => self.len as usize,
            Source::Index(index) => index.head(self.at as usize, self.len as usize).map_or(0, |(count, _)| count),
        }
    }

    /// Returns true if there is no item.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn items(&self) -> Sequence<'a> {
        let at = self.at as usize;
        let items = match self.source {
            Source::Bytes(field) => field.get(at..).and_then(|body| Sequence::trusted(self.len as usize, body, at)),
            Source::Index(index) => index.sequence(self.len(), at, self.len as usize),
        };
        items.unwrap_or_default()
    }

    /// Returns the item at `index`, in constant time for all but maps, whose shape is looked up: a scan of the key table,
    /// unless there is a [`ValueIndex`].
    pub fn get(&self, index: usize) -> Option<ValueRef<'a>> {
        let items = self.items();
        let item = items.item(index)?;
        Some(ValueRef::item(self.source, items.end_at(index), item, &mut Shapes::default()))
    }

    /// Iterates over the items. Allocates nothing, and scans the key table once where shapes come in its order.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = ValueRef<'a>> + use<'a> {
        ArrayIter { source: self.source, items: self.items().items(), shapes: Shapes::default() }
    }

    fn to_value(self) -> Value {
        match self.source {
            Source::Bytes(field) => TableIndex::read(&mut Reader::new(field))
                .map_or(Value::Null, |table| own_array(&table, &self.items(), 1)),
            Source::Index(index) => own_array(&index.table, &self.items(), 1),
        }
    }
}

/// The items of an array.
struct ArrayIter<'a> {
    source: Source<'a>,
    items: Items<'a>,
    shapes: Shapes,
}

impl<'a> Iterator for ArrayIter<'a> {
    type Item = ValueRef<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<ValueRef<'a>> {
        let item = self.items.next()?;
        Some(ValueRef::item(self.source, self.items.at(), item, &mut self.shapes))
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.items.size_hint()
    }
}

impl ExactSizeIterator for ArrayIter<'_> {}

/// Named values, borrowed.
///
/// Looking up one name costs a scan of the value's key table and no allocation; with a [`ValueIndex`] it is a binary search.
#[derive(Clone, Copy)]
pub struct MapRef<'a> {
    source: Source<'a>,
    /// Where the sequence lies in the field; with an index, where the node does.
    at: u32,
    /// Where the map's shape lies in the field: how many keys, and their places in the table; with an index, where the map
    /// ends.
    shape_at: u32,
}

/// Where the keys of a map stand in the table, by ascending key.
#[derive(Clone)]
enum Places<'a> {
    Bytes(Reader<'a>),
    Index(std::slice::Iter<'a, u32>),
}

impl Iterator for Places<'_> {
    type Item = u64;

    #[inline]
    fn next(&mut self) -> Option<u64> {
        match self {
            Self::Bytes(reader) => reader.uvarint().ok(),
            Self::Index(places) => places.next().map(|&place| place.into()),
        }
    }
}

impl<'a> MapRef<'a> {
    fn shape(field: &'a [u8], shape_at: u32) -> (usize, Reader<'a>) {
        let mut reader = Reader::new(field.get(shape_at as usize..).unwrap_or_default());
        let len = reader.uvarint().ok().and_then(|len| usize::try_from(len).ok()).unwrap_or_default();
        (len, reader)
    }

    /// Returns the number of fields.
    pub fn len(&self) -> usize {
        match self.source {
            Source::Bytes(field) => Self::shape(field, self.shape_at).0,
            Source::Index(index) => index.places(self.at, self.shape_at).len(),
        }
    }

    /// Returns true if there is no field.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn items(&self) -> Sequence<'a> {
        let at = self.at as usize;
        let items = match self.source {
            Source::Bytes(field) => field.get(at..).and_then(|body| Sequence::trusted(self.len(), body, at)),
            Source::Index(index) => index.sequence(self.len(), at, self.shape_at as usize),
        };
        items.unwrap_or_default()
    }

    fn places(&self) -> std::iter::Take<Places<'a>> {
        let (len, places) = match self.source {
            Source::Bytes(field) => {
                let (len, reader) = Self::shape(field, self.shape_at);
                (len, Places::Bytes(reader))
            }
            Source::Index(index) => {
                let places = index.places(self.at, self.shape_at);
                (places.len(), Places::Index(places.iter()))
            }
        };
        places.take(len)
    }

    fn value(&self, index: usize) -> ValueRef<'a> {
        let items = self.items();
        let item = items.item(index);
        item.map_or(ValueRef::Null, |item| {
            ValueRef::item(self.source, items.end_at(index), item, &mut Shapes::default())
        })
    }

    /// Returns the value of a field.
    pub fn get(&self, name: &str) -> Option<ValueRef<'a>> {
        let index = match self.source {
            Source::Bytes(field) => {
                let wanted = Keys::of(field).position(|key| key == name)? as u64;
                self.places().position(|place| place == wanted)?
            }
            Source::Index(index) => {
                let key = |place: &u32| index.table.key(*place).unwrap_or_default();
                index.places(self.at, self.shape_at).binary_search_by(|place| key(place).cmp(name)).ok()?
            }
        };
        Some(self.value(index))
    }

    /// Returns what lies at the end of a path of names, the first of them one of this map; see [`ValueRef::get_path`].
    pub fn get_path<'n>(&self, path: impl IntoIterator<Item = &'n str>) -> Option<ValueRef<'a>> {
        ValueRef::Map(*self).get_path(path)
    }

    /// Returns name and value of the field at `index`, by ascending name; past the last field an empty name and null.
    ///
    /// Costs a scan of the key table, unless there is a [`ValueIndex`]; `iter` is for all fields.
    pub fn get_index(&self, index: usize) -> (&'a str, ValueRef<'a>) {
        let place = match self.source {
            Source::Bytes(_) => self.places().nth(index),
            Source::Index(of) => of.places(self.at, self.shape_at).get(index).map(|&place| place.into()),
        };
        let name = place.and_then(|place| Names::of(self.source, true).get(place));
        name.map_or(("", ValueRef::Null), |name| (name, self.value(index)))
    }

    /// Iterates over names and values, by ascending name.
    ///
    /// Allocates nothing. Keys are found in one scan where the map uses them in the table's order, as the first map of a
    /// value always does, else by scans of a 64th of the table; with a [`ValueIndex`] at once.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'a str, ValueRef<'a>)> + use<'a> {
        let source = self.source;
        let mut names = Names::of(source, self.places().is_sorted());
        let mut places = self.places();
        let mut items = self.items().items();
        let mut shapes = Shapes::default();
        (0..self.len()).map(move |_| {
            let name = places.next().and_then(|place| names.get(place)).unwrap_or_default();
            let item = items.next().unwrap_or_default();
            (name, ValueRef::item(source, items.at(), item, &mut shapes))
        })
    }

    fn to_value(self) -> Value {
        let own = |table: &TableIndex<'_>, places: &[u32]| own_map(table, places, &self.items(), 1);
        match self.source {
            Source::Bytes(field) => {
                let Ok(table) = TableIndex::read(&mut Reader::new(field)) else { return Value::Null };
                let mut places = Vec::with_capacity(self.len());
                places.extend(self.places().map(|place| u32::try_from(place).unwrap_or(u32::MAX)));
                own(&table, &places)
            }
            Source::Index(index) => own(&index.table, index.places(self.at, self.shape_at)),
        }
    }
}

/// Places of a key table from which keys are looked up where they are not in order.
const MARKS: usize = 64;

/// Names by their places in the table.
#[expect(clippy::large_enum_variant, reason = "it lies on the stack of a loop; a box would be an allocation")]
enum Names<'a> {
    Index(&'a TableIndex<'a>),
    /// By ascending place: the next keys, and the place of the first of them.
    Forward(Keys<'a>, usize),
    /// In any order: all keys, and how many bytes of them are before the first, the one `stride` keys behind it, and so on.
    Anyhow {
        all: Keys<'a>,
        stride: usize,
        marks: [u32; MARKS],
    },
}

impl<'a> Names<'a> {
    fn of(source: Source<'a>, forward: bool) -> Self {
        let field = match source {
            Source::Index(index) => return Self::Index(&index.table),
            Source::Bytes(field) => field,
        };
        let all = Keys::of(field);
        if forward {
            return Self::Forward(all, 0);
        }
        let stride = all.left().div_ceil(MARKS).max(1);
        let mut marks = [0; MARKS];
        let mut keys = all;
        for mark in &mut marks {
            *mark = keys.bytes_since(&all) as u32;
            keys.by_ref().take(stride).for_each(drop);
        }
        Self::Anyhow { all, stride, marks }
    }

    fn get(&mut self, place: u64) -> Option<&'a str> {
        let place = usize::try_from(place).ok()?;
        match self {
            Self::Index(table) => table.key(u32::try_from(place).ok()?),
            Self::Forward(keys, next) => {
                let name = keys.nth(place.checked_sub(*next)?);
                *next = place + 1;
                name
            }
            Self::Anyhow { all, stride, marks } => {
                let mark = place / *stride;
                all.skipped(*marks.get(mark)? as usize, mark * *stride).nth(place % *stride)
            }
        }
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
