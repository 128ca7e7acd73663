//! The direct way from a Rust struct to a row, with no document in between.
//!
//! A struct's fields come in the order of their declaration, a row has them by name. So payloads are written one after
//! another as they come, and copied once into their order; which order that is, and the shape, are remembered for each
//! list of names met. What this way does not know (maps inside of fields, enums with content, 128-bit integers) takes
//! the other one through a [`Value`](crate::Value), field by field, and whatever fails is left to that way to explain:
//! both give the same bytes and the same errors.

use std::fmt::{self, Write as _};
use std::ptr;

use bytes::Bytes;
use serde::ser::{self, Impossible, Serialize, Serializer};

use super::error::{SerdeError, SerdeErrorKind};
use super::native;
use super::serializer::{to_document, to_value};
use crate::limits::{DEPTH_MAX, FIELDS_MAX, ROW_BYTES_MAX};
use crate::value::encode_value;
use crate::value::scalar::{self, TAG_ARRAY, TAG_TEXT, check_size};
use crate::value::sequence::{close_sequence, open_sequence, width_for};
use crate::writer::put_uvarint;
use crate::{Decimal, Row, Shape, VectorRef};

/// Kinds of struct that an encoder remembers.
const PLANS_MAX: usize = 64;

/// Memory for payloads that an encoder keeps from one row to the next.
const KEPT_BYTES: usize = 64 << 10;

/// Encodes Rust structs as rows, and keeps what it learns of their types and the memory that it needs.
///
/// A value may be serialised twice, as a derived `Serialize` does not notice.
///
/// ```
/// #[derive(serde::Serialize)]
/// struct Todo { title: String, done: bool }
///
/// let mut encoder = blazedb_wire::serde::RowEncoder::default();
/// let mut body = Vec::new();
/// let shape = encoder.encode(&Todo { title: "water the plants".into(), done: false }, &mut body)?;
/// assert_eq!(shape.names().collect::<Vec<_>>(), ["done", "title"]);
/// # Ok::<(), blazedb_wire::serde::SerdeError>(())
/// ```
#[derive(Default)]
pub struct RowEncoder {
    /// The one used last is the first.
    plans: Vec<Plan>,
    /// Fields in the order of their declaration.
    fields: Vec<Field>,
    parts: Parts,
}

/// What does not depend on the fields' names.
#[derive(Default)]
struct Parts {
    /// Payloads of the fields, one after another.
    heap: Vec<u8>,
    /// Ends of the items of all arrays that are open, innermost last.
    ends: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Field {
    name: &'static str,
    tag: u8,
    /// Where its payload lies in the heap.
    start: usize,
    end: usize,
}

/// How a struct becomes a row.
struct Plan {
    /// In the order of declaration.
    names: Box<[&'static str]>,
    /// Places in `names`, by ascending name.
    order: Box<[u16]>,
    shape: Shape,
}

/// This way ends here; the other one goes on.
#[derive(Debug)]
struct Elsewhere;

impl RowEncoder {
    /// Appends the body of the row that `it` is, which must serialise as a struct or a map, and returns its shape: the
    /// same one for all values with these names. After an error `body` is as it was. spec: J-40
    pub fn encode<T: Serialize + ?Sized>(&mut self, it: &T, body: &mut Vec<u8>) -> Result<Shape, SerdeError> {
        self.fields.clear();
        self.parts.heap.clear();
        self.parts.ends.clear();
        let direct = it.serialize(Whole(&mut *self)).and_then(|()| self.assemble(body));
        if self.parts.heap.capacity() > KEPT_BYTES {
            self.parts.heap = Vec::new();
        }
        match direct {
            Ok(shape) => Ok(shape),
            Err(Elsewhere) => {
                let like = self.plans.first().map(|plan| plan.shape.clone()).unwrap_or_default();
                let row = Row::encode_like(&to_document(it)?, &like)
                    .map_err(|error| SerdeError::new(SerdeErrorKind::Encode(error)).finish())?;
                body.extend_from_slice(row.body());
                Ok(row.shape().clone())
            }
        }
    }

    /// Returns the row that `it` is, which must serialise as a struct or a map. spec: J-40
    pub fn encode_row<T: Serialize + ?Sized>(&mut self, it: &T) -> Result<Row, SerdeError> {
        let mut body = Vec::new();
        let shape = self.encode(it, &mut body)?;
        Ok(Row::trusted(shape, Bytes::from(body)))
    }

    /// Brings the fields into their order.
    fn assemble(&mut self, body: &mut Vec<u8>) -> Result<Shape, Elsewhere> {
        match self.plans.iter().position(|plan| plan.is_of(&self.fields)) {
            Some(0) => {}
            Some(place) => self.plans.swap(0, place),
            None => {
                let plan = Plan::new(&self.fields)?;
                self.plans.truncate(PLANS_MAX - 1);
                self.plans.push(plan);
                let last = self.plans.len() - 1;
                self.plans.swap(0, last);
            }
        }
        let Plan { order, shape, .. } = &self.plans[0];
        let heap_len = self.parts.heap.len();
        if shape.encoded_len() + 1 + 5 * order.len() + heap_len > ROW_BYTES_MAX {
            return Err(Elsewhere);
        }
        // So that a short payload can be copied as a block of fixed size.
        self.parts.heap.resize(heap_len + BLOCK, 0);
        match width_for(heap_len) {
            1 => lay_out::<1>(order, &self.fields, &self.parts.heap, heap_len, body),
            2 => lay_out::<2>(order, &self.fields, &self.parts.heap, heap_len, body),
            _ => lay_out::<4>(order, &self.fields, &self.parts.heap, heap_len, body),
        }
        Ok(shape.clone())
    }
}

/// Payloads up to this length are copied as if they were so long: what is too much is written over.
const BLOCK: usize = 16;

/// Appends a row body whose ends have `W` bytes.
fn lay_out<const W: usize>(order: &[u16], fields: &[Field], heap: &[u8], heap_len: usize, body: &mut Vec<u8>) {
    let Some(but_last) = order.len().checked_sub(1) else { return };
    let start = body.len();
    let heap_at = 1 + order.len() + but_last * W;
    body.resize(start + heap_at + heap_len, 0);
    let (head, out) = body[start..].split_at_mut(heap_at);
    head[0] = W as u8;
    let (tags, ends) = head[1..].split_at_mut(order.len());
    let (ends, _) = ends.as_chunks_mut::<W>();
    let mut end = 0;
    for (i, (&place, tag)) in order.iter().zip(tags).enumerate() {
        let field = fields[usize::from(place)];
        *tag = field.tag;
        let len = field.end - field.start;
        match (heap[field.start..].first_chunk::<BLOCK>(), out[end..].first_chunk_mut::<BLOCK>()) {
            (Some(from), Some(to)) if len <= BLOCK => *to = *from,
            _ => out[end..end + len].copy_from_slice(&heap[field.start..field.end]),
        }
        end += len;
        if let Some(slot) = ends.get_mut(i) {
            slot.copy_from_slice(&(end as u32).to_le_bytes()[..W]);
        }
    }
}

impl Plan {
    fn new(fields: &[Field]) -> Result<Self, Elsewhere> {
        if fields.len() > FIELDS_MAX {
            return Err(Elsewhere);
        }
        let names: Box<[&'static str]> = fields.iter().map(|field| field.name).collect();
        let mut order: Box<[u16]> = (0..names.len() as u16).collect();
        order.sort_unstable_by_key(|&place| names[usize::from(place)]);
        let shape = Shape::new(&names[..]).map_err(|_| Elsewhere)?;
        Ok(Self { names, order, shape })
    }

    /// A type's names are mostly the same bytes in memory, not only equal ones.
    #[inline]
    fn is_of(&self, fields: &[Field]) -> bool {
        self.names.len() == fields.len()
            && self.names.iter().zip(fields).all(|(name, field)| ptr::eq(*name, field.name) || *name == field.name)
    }
}

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this value is encoded through a document")
    }
}

impl std::error::Error for Elsewhere {}

impl ser::Error for Elsewhere {
    fn custom<T: fmt::Display>(_message: T) -> Self {
        Self
    }
}

/// Methods of a Serializer for types that go the other way.
macro_rules! elsewhere {
    ($ok:ty: $($method:ident($($type:ty),*)),* $(,)?) => {$(
        fn $method(self, $(_: $type),*) -> Result<$ok, Elsewhere> {
            Err(Elsewhere)
        }
    )*};
}

/// As [`elsewhere`], for types with content.
macro_rules! elsewhere_with {
    ($ok:ty: $($method:ident($($type:ty),*)),* $(,)?) => {$(
        fn $method<T: Serialize + ?Sized>(self, $(_: $type,)* _value: &T) -> Result<$ok, Elsewhere> {
            Err(Elsewhere)
        }
    )*};
}

/// Takes the whole struct.
struct Whole<'e>(&'e mut RowEncoder);

impl Serializer for Whole<'_> {
    type Ok = ();
    type Error = Elsewhere;
    type SerializeSeq = Impossible<(), Elsewhere>;
    type SerializeTuple = Impossible<(), Elsewhere>;
    type SerializeTupleStruct = Impossible<(), Elsewhere>;
    type SerializeTupleVariant = Impossible<(), Elsewhere>;
    type SerializeMap = Impossible<(), Elsewhere>;
    type SerializeStruct = Self;
    type SerializeStructVariant = Impossible<(), Elsewhere>;

    fn serialize_struct(self, _name: &'static str, _len: usize) -> Result<Self, Elsewhere> {
        Ok(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, it: &T) -> Result<(), Elsewhere> {
        if native::is_native(name) { Err(Elsewhere) } else { it.serialize(self) }
    }

    fn serialize_some<T: Serialize + ?Sized>(self, it: &T) -> Result<(), Elsewhere> {
        it.serialize(self)
    }

    elsewhere! {
        (): serialize_bool(bool), serialize_i8(i8), serialize_i16(i16), serialize_i32(i32), serialize_i64(i64),
        serialize_u8(u8), serialize_u16(u16), serialize_u32(u32), serialize_u64(u64), serialize_f32(f32),
        serialize_f64(f64), serialize_char(char), serialize_str(&str), serialize_bytes(&[u8]), serialize_none(),
        serialize_unit(), serialize_unit_struct(&'static str),
        serialize_unit_variant(&'static str, u32, &'static str),
    }
    elsewhere_with! { (): serialize_newtype_variant(&'static str, u32, &'static str) }
    elsewhere! { Self::SerializeSeq: serialize_seq(Option<usize>) }
    elsewhere! { Self::SerializeTuple: serialize_tuple(usize) }
    elsewhere! { Self::SerializeTupleStruct: serialize_tuple_struct(&'static str, usize) }
    elsewhere! { Self::SerializeTupleVariant: serialize_tuple_variant(&'static str, u32, &'static str, usize) }
    elsewhere! { Self::SerializeMap: serialize_map(Option<usize>) }
    elsewhere! { Self::SerializeStructVariant: serialize_struct_variant(&'static str, u32, &'static str, usize) }
}

impl ser::SerializeStruct for Whole<'_> {
    type Ok = ();
    type Error = Elsewhere;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, it: &T) -> Result<(), Elsewhere> {
        let parts = &mut self.0.parts;
        let start = parts.heap.len();
        let tag = match it.serialize(Payload { parts, depth: 1 }) {
            Ok(tag) => {
                check_size(parts.heap.len() - start).map_err(|_| Elsewhere)?;
                tag
            }
            Err(Elsewhere) => {
                parts.heap.truncate(start);
                parts.ends.clear();
                encode_value(&to_value(it).map_err(|_| Elsewhere)?, &mut parts.heap).map_err(|_| Elsewhere)?
            }
        };
        let end = parts.heap.len();
        self.0.fields.push(Field { name, tag, start, end });
        // Rows are bounded, and so is what a value may make of this memory.
        if end > ROW_BYTES_MAX { Err(Elsewhere) } else { Ok(()) }
    }

    fn end(self) -> Result<(), Elsewhere> {
        Ok(())
    }
}

/// Appends the payload of one value and returns its tag.
struct Payload<'e> {
    parts: &'e mut Parts,
    /// The depth of this value, were it a container.
    depth: usize,
}

impl<'e> Payload<'e> {
    fn array(self, len: usize) -> Result<Items<'e>, Elsewhere> {
        // Each item has a tag of its own, so that an honest length is below this.
        if self.depth > DEPTH_MAX || len > ROW_BYTES_MAX {
            return Err(Elsewhere);
        }
        let heap = &mut self.parts.heap;
        if self.depth == 1 {
            // A key table without keys and shapes.
            heap.extend_from_slice(&[0, 0]);
        }
        put_uvarint(heap, len as u64);
        let (tags_at, heap_at) = open_sequence(len, heap);
        let outer = self.parts.ends.len();
        Ok(Items { parts: self.parts, depth: self.depth + 1, len, tags_at, heap_at, outer })
    }
}

macro_rules! integers {
    ($($method:ident($type:ty)),*) => {$(
        #[inline]
        fn $method(self, value: $type) -> Result<u8, Elsewhere> {
            Ok(scalar::encode_integer(value.into(), &mut self.parts.heap))
        }
    )*};
}

impl<'e> Serializer for Payload<'e> {
    type Ok = u8;
    type Error = Elsewhere;
    type SerializeSeq = Items<'e>;
    type SerializeTuple = Items<'e>;
    type SerializeTupleStruct = Items<'e>;
    type SerializeTupleVariant = Impossible<u8, Elsewhere>;
    type SerializeMap = Impossible<u8, Elsewhere>;
    type SerializeStruct = Impossible<u8, Elsewhere>;
    type SerializeStructVariant = Impossible<u8, Elsewhere>;

    integers!(
        serialize_i8(i8),
        serialize_i16(i16),
        serialize_i32(i32),
        serialize_i64(i64),
        serialize_u8(u8),
        serialize_u16(u16),
        serialize_u32(u32)
    );

    #[inline]
    fn serialize_u64(self, value: u64) -> Result<u8, Elsewhere> {
        Ok(scalar::encode_unsigned(value, &mut self.parts.heap))
    }

    #[inline]
    fn serialize_bool(self, value: bool) -> Result<u8, Elsewhere> {
        Ok(if value { scalar::TAG_TRUE } else { scalar::TAG_FALSE })
    }

    #[inline]
    fn serialize_f32(self, value: f32) -> Result<u8, Elsewhere> {
        Ok(scalar::encode_float(value.into(), &mut self.parts.heap))
    }

    #[inline]
    fn serialize_f64(self, value: f64) -> Result<u8, Elsewhere> {
        Ok(scalar::encode_float(value, &mut self.parts.heap))
    }

    fn serialize_char(self, value: char) -> Result<u8, Elsewhere> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<u8, Elsewhere> {
        check_size(value.len()).map_err(|_| Elsewhere)?;
        self.parts.heap.extend_from_slice(value.as_bytes());
        Ok(TAG_TEXT)
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<u8, Elsewhere> {
        check_size(value.len()).map_err(|_| Elsewhere)?;
        self.parts.heap.extend_from_slice(value);
        Ok(scalar::TAG_BYTES)
    }

    #[inline]
    fn serialize_none(self) -> Result<u8, Elsewhere> {
        Ok(scalar::TAG_NULL)
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, it: &T) -> Result<u8, Elsewhere> {
        it.serialize(self)
    }

    fn serialize_unit(self) -> Result<u8, Elsewhere> {
        Ok(scalar::TAG_NULL)
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<u8, Elsewhere> {
        Ok(scalar::TAG_NULL)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<u8, Elsewhere> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, it: &T) -> Result<u8, Elsewhere> {
        if native::is_native(name) {
            return it.serialize(NativePayload { name, heap: &mut self.parts.heap });
        }
        it.serialize(self)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Items<'e>, Elsewhere> {
        self.array(len.ok_or(Elsewhere)?)
    }

    fn serialize_tuple(self, len: usize) -> Result<Items<'e>, Elsewhere> {
        self.array(len)
    }

    fn serialize_tuple_struct(self, _name: &'static str, len: usize) -> Result<Items<'e>, Elsewhere> {
        self.array(len)
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, it: &T) -> Result<u8, Elsewhere> {
        write!(Utf8(&mut self.parts.heap), "{it}").map_err(|_| Elsewhere)?;
        Ok(TAG_TEXT)
    }

    elsewhere_with! { u8: serialize_newtype_variant(&'static str, u32, &'static str) }
    elsewhere! { Self::SerializeTupleVariant: serialize_tuple_variant(&'static str, u32, &'static str, usize) }
    elsewhere! { Self::SerializeMap: serialize_map(Option<usize>) }
    elsewhere! { Self::SerializeStruct: serialize_struct(&'static str, usize) }
    elsewhere! { Self::SerializeStructVariant: serialize_struct_variant(&'static str, u32, &'static str, usize) }
}

/// Takes text; a display that never ends ends at the limit of a field.
struct Utf8<'h>(&'h mut Vec<u8>);

impl fmt::Write for Utf8<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        if self.0.len() > 2 * ROW_BYTES_MAX { Err(fmt::Error) } else { Ok(()) }
    }
}

/// An array on its way.
struct Items<'e> {
    parts: &'e mut Parts,
    /// The depth of the items, were they containers.
    depth: usize,
    /// How many items are to come in all.
    len: usize,
    tags_at: usize,
    heap_at: usize,
    /// Where the ends of this array begin.
    outer: usize,
}

impl Items<'_> {
    #[inline]
    fn push<T: Serialize + ?Sized>(&mut self, it: &T) -> Result<(), Elsewhere> {
        let at = self.parts.ends.len() - self.outer;
        if at == self.len {
            return Err(Elsewhere);
        }
        let tag = it.serialize(Payload { parts: &mut *self.parts, depth: self.depth })?;
        self.parts.heap[self.tags_at + at] = tag;
        let end = self.parts.heap.len() - self.heap_at;
        if end > ROW_BYTES_MAX {
            return Err(Elsewhere);
        }
        self.parts.ends.push(end as u32);
        Ok(())
    }

    fn finish(self) -> Result<u8, Elsewhere> {
        let Parts { heap, ends } = self.parts;
        if ends.len() - self.outer != self.len {
            return Err(Elsewhere);
        }
        close_sequence(heap, self.heap_at, &ends[self.outer..]);
        ends.truncate(self.outer);
        Ok(TAG_ARRAY)
    }
}

macro_rules! items {
    ($($kind:ident :: $push:ident),*) => {$(
        impl ser::$kind for Items<'_> {
            type Ok = u8;
            type Error = Elsewhere;

            fn $push<T: Serialize + ?Sized>(&mut self, it: &T) -> Result<(), Elsewhere> {
                self.push(it)
            }

            fn end(self) -> Result<u8, Elsewhere> {
                self.finish()
            }
        }
    )*};
}

items!(SerializeSeq::serialize_element, SerializeTuple::serialize_element, SerializeTupleStruct::serialize_field);

/// The content of a type of this crate that serde has no method for.
struct NativePayload<'h> {
    name: &'static str,
    heap: &'h mut Vec<u8>,
}

impl Serializer for NativePayload<'_> {
    type Ok = u8;
    type Error = Elsewhere;
    type SerializeSeq = Impossible<u8, Elsewhere>;
    type SerializeTuple = Impossible<u8, Elsewhere>;
    type SerializeTupleStruct = Impossible<u8, Elsewhere>;
    type SerializeTupleVariant = Impossible<u8, Elsewhere>;
    type SerializeMap = Impossible<u8, Elsewhere>;
    type SerializeStruct = Impossible<u8, Elsewhere>;
    type SerializeStructVariant = Impossible<u8, Elsewhere>;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_i64(self, value: i64) -> Result<u8, Elsewhere> {
        if self.name == native::TIMESTAMP { Ok(scalar::encode_timestamp(value, self.heap)) } else { Err(Elsewhere) }
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<u8, Elsewhere> {
        let tag = match self.name {
            native::BYTES => scalar::TAG_BYTES,
            native::UUID if value.len() == 16 => scalar::TAG_UUID,
            native::DECIMAL => {
                return Decimal::unpack(value).map(|it| scalar::encode_decimal(it, self.heap)).ok_or(Elsewhere);
            }
            native::VECTOR_32 if VectorRef::<f32>::decode(value).is_ok() => scalar::TAG_VECTOR_32,
            native::VECTOR_64 if VectorRef::<f64>::decode(value).is_ok() => scalar::TAG_VECTOR_64,
            _ => return Err(Elsewhere),
        };
        check_size(value.len()).map_err(|_| Elsewhere)?;
        self.heap.extend_from_slice(value);
        Ok(tag)
    }

    elsewhere! {
        u8: serialize_bool(bool), serialize_i8(i8), serialize_i16(i16), serialize_i32(i32), serialize_u8(u8),
        serialize_u16(u16), serialize_u32(u32), serialize_u64(u64), serialize_f32(f32), serialize_f64(f64),
        serialize_char(char), serialize_str(&str), serialize_none(), serialize_unit(),
        serialize_unit_struct(&'static str), serialize_unit_variant(&'static str, u32, &'static str),
    }
    elsewhere_with! {
        u8: serialize_some(), serialize_newtype_struct(&'static str),
        serialize_newtype_variant(&'static str, u32, &'static str),
    }
    elsewhere! { Self::SerializeSeq: serialize_seq(Option<usize>) }
    elsewhere! { Self::SerializeTuple: serialize_tuple(usize) }
    elsewhere! { Self::SerializeTupleStruct: serialize_tuple_struct(&'static str, usize) }
    elsewhere! { Self::SerializeTupleVariant: serialize_tuple_variant(&'static str, u32, &'static str, usize) }
    elsewhere! { Self::SerializeMap: serialize_map(Option<usize>) }
    elsewhere! { Self::SerializeStruct: serialize_struct(&'static str, usize) }
    elsewhere! { Self::SerializeStructVariant: serialize_struct_variant(&'static str, u32, &'static str, usize) }
}
