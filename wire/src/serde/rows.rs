//! The direct way from a Rust struct to a row, with no document in between.
//!
//! A struct's fields come in the order of their declaration, a row has them by name. So a value is serialised twice: once
//! to learn tag and length of each field, and once to write each payload where it belongs. Numbers are remembered from the
//! first time and arrays are written into a heap then, so that the second time asks for texts and byte strings alone.
//! Which order fields have, and the shape, are remembered for each list of names met. What this way does not know (maps
//! inside of fields, enums with content, 128-bit integers) takes the other one through a [`Value`](crate::Value), field by
//! field, and whatever fails is left to that way to explain: both give the same bytes and the same errors.

use std::ptr;
use std::slice;

use bytes::Bytes;
use serde::ser::{self, Impossible, Serialize, Serializer};

use super::error::{SerdeError, SerdeErrorKind};
use super::heap::{Heap, STEP};
use super::native;
use super::payload::{Elsewhere, Payload, elsewhere, elsewhere_with};
use super::serializer::{to_document, to_value};
use super::sink::{Known, Measure, Sink, Writer};
use crate::limits::{FIELDS_MAX, ROW_BYTES_MAX};
use crate::value::encode_value;
use crate::value::sequence::width_for;
use crate::{Row, Shape};

/// Kinds of struct that an encoder remembers.
const PLANS_MAX: usize = 64;

/// Encodes Rust structs as rows, and keeps what it learns of their types and the memory that it needs.
///
/// A value is serialised twice, as a derived `Serialize` does not notice. One whose names or texts say something else the
/// second time is encoded as it is the third.
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
    /// Payloads of the row on its way that are made of parts, or that went the other way.
    heap: Heap,
    /// The shape of the last row that went the other way.
    other: Shape,
}

/// How a struct becomes a row.
struct Plan {
    /// In the order of declaration.
    fields: Box<[Field]>,
    /// Places in `fields`, by ascending name.
    order: Box<[u16]>,
    shape: Shape,
    /// Length of all heaps of rows that surely fit into one.
    heap_len_max: usize,
}

/// A name, and what is known of its value in the row on its way.
#[derive(Clone, Copy)]
struct Field {
    name: &'static str,
    /// The number whose lowest bytes the payload may be; then where the payload belongs in the heap of the row.
    low_or_start: i64,
    /// Length of the payload.
    len: u32,
    tag: u8,
    known: Known,
}

impl RowEncoder {
    /// Appends the body of the row that `it` is, which must serialise as a struct or a map, and returns its shape: the
    /// same one for all values with these names. After an error `body` is as it was. spec: J-40
    pub fn encode<T: Serialize + ?Sized>(&mut self, it: &T, body: &mut Vec<u8>) -> Result<&Shape, SerdeError> {
        match self.encode_directly(it, body) {
            Ok(()) => Ok(&self.plans[0].shape),
            Err(Elsewhere) => self.encode_otherwise(it, body),
        }
    }

    /// Encodes through a document.
    #[cold]
    #[inline(never)]
    fn encode_otherwise<T: Serialize + ?Sized>(&mut self, it: &T, body: &mut Vec<u8>) -> Result<&Shape, SerdeError> {
        let like = self.plans.first().map(|plan| plan.shape.clone()).unwrap_or_default();
        let row = Row::encode_like(&to_document(it)?, &like)
            .map_err(|error| SerdeError::new(SerdeErrorKind::Encode(error)).finish())?;
        body.extend_from_slice(row.body());
        self.other = row.shape().clone();
        Ok(&self.other)
    }

    /// Returns the row that `it` is, which must serialise as a struct or a map. spec: J-40
    pub fn encode_row<T: Serialize + ?Sized>(&mut self, it: &T) -> Result<Row, SerdeError> {
        let mut body = Vec::new();
        let shape = self.encode(it, &mut body)?.clone();
        Ok(Row::trusted(shape, Bytes::from(body)))
    }

    /// Appends the body of a row whose shape is then that of the first plan.
    fn encode_directly<T: Serialize + ?Sized>(&mut self, it: &T, body: &mut Vec<u8>) -> Result<(), Elsewhere> {
        let heap_len = match self.measure(it) {
            Ok(heap_len) => heap_len,
            // Perhaps for its names: the first plan was a guess.
            Err(Elsewhere) => {
                self.find_plan(it)?;
                self.measure(it)?
            }
        };
        let plan = self.plans.first_mut().ok_or(Elsewhere)?;
        let start = body.len();
        let heap_at = plan.lay_out(heap_len, body)?;
        let heap = body.get_mut(heap_at..).unwrap_or_default();
        let mut writing = Writing { fields: plan.fields.iter(), heap, whole: self.heap.payloads() };
        let written = it.serialize(Whole(&mut writing)).and_then(|()| writing.finish());
        written.inspect_err(|_| body.truncate(start))
    }

    /// Learns tags and lengths of a struct whose names are those of the first plan; returns the length of its heap.
    #[inline]
    fn measure<T: Serialize + ?Sized>(&mut self, it: &T) -> Result<usize, Elsewhere> {
        let plan = self.plans.first_mut().ok_or(Elsewhere)?;
        self.heap.clear();
        let mut measuring = Measuring { fields: plan.fields.iter_mut(), len: 0, heap: &mut self.heap };
        it.serialize(Whole(&mut measuring))?;
        measuring.finish()
    }

    /// Makes the plan for the names of this struct the first, and makes it if there is none.
    #[cold]
    #[inline(never)]
    fn find_plan<T: Serialize + ?Sized>(&mut self, it: &T) -> Result<(), Elsewhere> {
        let mut names = Names(Vec::new());
        it.serialize(Whole(&mut names))?;
        let place = match self.plans.iter().position(|plan| plan.is_of(&names.0)) {
            Some(place) => place,
            None => {
                let plan = Plan::new(&names.0)?;
                self.plans.truncate(PLANS_MAX - 1);
                self.plans.push(plan);
                self.plans.len() - 1
            }
        };
        self.plans.swap(0, place);
        Ok(())
    }
}

impl Plan {
    fn new(names: &[&'static str]) -> Result<Self, Elsewhere> {
        if names.len() > FIELDS_MAX {
            return Err(Elsewhere);
        }
        let mut order: Box<[u16]> = (0..names.len() as u16).collect();
        order.sort_unstable_by_key(|&place| names[usize::from(place)]);
        let shape = Shape::new(names).map_err(|_| Elsewhere)?;
        let fields =
            names.iter().map(|name| Field { name, low_or_start: 0, len: 0, tag: 0, known: Known::Low }).collect();
        let heap_len_max = ROW_BYTES_MAX.saturating_sub(shape.encoded_len() + 1 + 5 * names.len());
        Ok(Self { fields, order, shape, heap_len_max })
    }

    fn is_of(&self, names: &[&'static str]) -> bool {
        self.fields.len() == names.len() && self.fields.iter().zip(names).all(|(field, name)| is_same(field.name, name))
    }

    /// Appends a row body whose longer payloads are still to come, and tells each field where its own belongs; returns
    /// where its heap is.
    fn lay_out(&mut self, heap_len: usize, body: &mut Vec<u8>) -> Result<usize, Elsewhere> {
        if heap_len > self.heap_len_max {
            return Err(Elsewhere);
        }
        Ok(match width_for(heap_len) {
            1 => self.put_head::<1>(heap_len, body),
            2 => self.put_head::<2>(heap_len, body),
            _ => self.put_head::<4>(heap_len, body),
        })
    }

    /// Appends width, tags, ends of `W` bytes, short payloads and room for the others; returns where the heap is.
    #[inline]
    fn put_head<const W: usize>(&mut self, heap_len: usize, body: &mut Vec<u8>) -> usize {
        let (start, count) = (body.len(), self.order.len());
        let Some((&last, but_last)) = self.order.split_last() else { return start };
        let heap_at = start + 1 + count + but_last.len() * W;
        // A step more, as all of a number is written, whatever is known of it: what follows is written over it.
        body.resize(heap_at + heap_len + STEP, 0);
        let (head, heap) = body[start..].split_at_mut(heap_at - start);
        head[0] = W as u8;
        let (tags, ends) = head[1..].split_at_mut(count);
        let mut end = 0u32;
        let mut put = |place: u16, tag: &mut u8| {
            let field = &mut self.fields[usize::from(place)];
            *tag = field.tag;
            let at = end as usize;
            if let Some(room) = heap.get_mut(at..at + STEP).and_then(|room| room.first_chunk_mut()) {
                *room = field.low_or_start.to_le_bytes();
            }
            field.low_or_start = end.into();
            end = end.wrapping_add(field.len);
            end
        };
        if let Some((last_tag, tags)) = tags.split_last_mut() {
            for ((&place, tag), slot) in but_last.iter().zip(tags).zip(ends.as_chunks_mut::<W>().0) {
                slot.copy_from_slice(&put(place, tag).to_le_bytes()[..W]);
            }
            // The last one has no end of its own.
            put(last, last_tag);
        }
        body.truncate(heap_at + heap_len);
        heap_at
    }
}

/// A type's names are mostly the same bytes in memory, not only equal ones.
#[inline(always)]
fn is_same(one: &'static str, other: &'static str) -> bool {
    (ptr::eq(one.as_ptr(), other.as_ptr()) && one.len() == other.len()) || is_equal(one, other)
}

#[cold]
#[inline(never)]
fn is_equal(one: &str, other: &str) -> bool {
    one == other
}

/// Takes a whole struct, once. Borrows what it needs: moving what was just written in parts stalls the processor.
struct Whole<'p, P>(&'p mut P);

/// What is done with each field.
trait Pass {
    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, it: &T) -> Result<(), Elsewhere>;
}

impl<P: Pass> Serializer for Whole<'_, P> {
    type Ok = ();
    type Error = Elsewhere;
    type SerializeSeq = Impossible<(), Elsewhere>;
    type SerializeTuple = Impossible<(), Elsewhere>;
    type SerializeTupleStruct = Impossible<(), Elsewhere>;
    type SerializeTupleVariant = Impossible<(), Elsewhere>;
    type SerializeMap = Impossible<(), Elsewhere>;
    type SerializeStruct = Self;
    type SerializeStructVariant = Impossible<(), Elsewhere>;

    #[inline]
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

impl<P: Pass> ser::SerializeStruct for Whole<'_, P> {
    type Ok = ();
    type Error = Elsewhere;

    #[inline(always)]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, it: &T) -> Result<(), Elsewhere> {
        self.0.field(name, it)
    }

    #[inline]
    fn end(self) -> Result<(), Elsewhere> {
        Ok(())
    }
}

/// What only asks for the names.
struct Names(Vec<&'static str>);

impl Pass for Names {
    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, _it: &T) -> Result<(), Elsewhere> {
        self.0.push(name);
        Ok(())
    }
}

/// The first pass: learns tags and lengths.
struct Measuring<'e> {
    /// The fields that are still to come.
    fields: slice::IterMut<'e, Field>,
    /// Length of the payloads so far that are not in the heap.
    len: usize,
    heap: &'e mut Heap,
}

impl Measuring<'_> {
    /// Returns the length of the row's heap.
    #[inline]
    fn finish(&mut self) -> Result<usize, Elsewhere> {
        let heap_len = self.len.saturating_add(self.heap.at());
        if self.fields.next().is_some() || heap_len > ROW_BYTES_MAX { Err(Elsewhere) } else { Ok(heap_len) }
    }

    /// Encodes a value that goes the other way, as if nothing had come into the heap after `at`; returns its tag.
    #[cold]
    #[inline(never)]
    fn put_other<T: Serialize + ?Sized>(&mut self, it: &T, at: usize) -> Result<u8, Elsewhere> {
        let value = to_value(it).map_err(|_| Elsewhere)?;
        self.heap.give_up(at);
        self.heap.append(|out| encode_value(&value, out))?.map_err(|_| Elsewhere)
    }
}

impl Pass for Measuring<'_> {
    #[inline(always)]
    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, it: &T) -> Result<(), Elsewhere> {
        let Some(field) = self.fields.next() else { return Err(Elsewhere) };
        if !is_same(field.name, name) {
            return Err(Elsewhere);
        }
        let start = self.heap.at();
        let mut measure = Measure::new(self.heap);
        let (tag, mut len, low, known) = match it.serialize(Payload::new(&mut measure)) {
            Ok(tag) => (tag, measure.len, measure.low, measure.known),
            Err(Elsewhere) => (self.put_other(it, start)?, 0, 0, Known::Whole),
        };
        self.len += len;
        if known == Known::Whole {
            len += self.heap.at() - start;
        }
        // If that is not all of the length, the row is too long.
        (field.low_or_start, field.len, field.tag, field.known) = (low, len as u32, tag, known);
        Ok(())
    }
}

/// The second pass: writes.
struct Writing<'e> {
    /// The fields that are still to come.
    fields: slice::Iter<'e, Field>,
    /// The heap of the row.
    heap: &'e mut [u8],
    /// Payloads that are still to come, of those that are whole.
    whole: &'e [u8],
}

impl Writing<'_> {
    #[inline]
    fn finish(&mut self) -> Result<(), Elsewhere> {
        if self.fields.next().is_some() { Err(Elsewhere) } else { Ok(()) }
    }
}

impl Pass for Writing<'_> {
    #[inline(always)]
    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, it: &T) -> Result<(), Elsewhere> {
        let field = self.fields.next().ok_or(Elsewhere)?;
        if field.known == Known::Low {
            return Ok(());
        }
        let (start, len) = (field.low_or_start as usize, field.len as usize);
        let room = self.heap.get_mut(start..).and_then(|room| room.get_mut(..len)).ok_or(Elsewhere)?;
        let mut writer = Writer { left: room };
        let tag = if field.known == Known::Whole {
            writer.put(self.whole.split_off(..len).ok_or(Elsewhere)?)?;
            field.tag
        } else if is_same(field.name, name) {
            it.serialize(Payload::new(&mut writer))?
        } else {
            // A field that is there for some values only, which another thread changes meanwhile. Of what is known nothing is
            // asked again, so its name is the one that it had.
            return Err(Elsewhere);
        };
        // What says something else the second time goes the other way.
        if tag == field.tag && writer.left.is_empty() { Ok(()) } else { Err(Elsewhere) }
    }
}
