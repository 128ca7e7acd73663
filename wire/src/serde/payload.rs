//! The payload of one value, put into a sink: what measures, or what writes.

use std::fmt::{self, Write as _};

use serde::ser::{self, Impossible, Serialize, Serializer};

use super::heap::{Array, Heap};
use super::native;
use super::sink::Sink;
use crate::limits::{DEPTH_MAX, ROW_BYTES_MAX};
use crate::value::scalar::{self, TAG_ARRAY, TAG_TEXT};
use crate::{Decimal, VectorRef};

/// This way ends here; the other one goes on.
#[derive(Debug)]
pub(super) struct Elsewhere;

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
pub(super) use {elsewhere, elsewhere_with};

/// Appends the payload of one value and returns its tag.
pub(super) struct Payload<'e, S> {
    sink: &'e mut S,
    /// The depth of this value, were it a container.
    depth: usize,
}

impl<'e, S: Sink> Payload<'e, S> {
    /// Starts with the value of a field.
    #[inline]
    pub(super) fn new(sink: &'e mut S) -> Self {
        Self { sink, depth: 1 }
    }

    #[inline]
    fn array(self, len: usize) -> Result<Items<'e>, Elsewhere> {
        // Each item has a tag of its own, so that an honest length is below this.
        if self.depth > DEPTH_MAX || len > ROW_BYTES_MAX {
            return Err(Elsewhere);
        }
        let heap = self.sink.heap()?;
        let array = heap.open(len, self.depth == 1)?;
        Ok(Items { heap, depth: self.depth + 1, len, at: 0, array })
    }

    #[inline]
    fn text(self, text: &str) -> Result<u8, Elsewhere> {
        self.sink.put(text.as_bytes())?;
        Ok(TAG_TEXT)
    }

    #[inline]
    fn integer(self, n: i64) -> Result<u8, Elsewhere> {
        let (tag, width) = scalar::integer_tag(n);
        self.sink.put_low(n, width)?;
        Ok(tag)
    }
}

macro_rules! integers {
    ($($method:ident($type:ty)),*) => {$(
        #[inline]
        fn $method(self, value: $type) -> Result<u8, Elsewhere> {
            self.integer(value.into())
        }
    )*};
}

impl<'e, S: Sink> Serializer for Payload<'e, S> {
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
        match i64::try_from(value) {
            Ok(n) => self.integer(n),
            Err(_) => {
                self.sink.put_low(value as i64, 8)?;
                Ok(scalar::TAG_UNSIGNED)
            }
        }
    }

    #[inline]
    fn serialize_bool(self, value: bool) -> Result<u8, Elsewhere> {
        Ok(if value { scalar::TAG_TRUE } else { scalar::TAG_FALSE })
    }

    #[inline]
    fn serialize_f32(self, value: f32) -> Result<u8, Elsewhere> {
        self.serialize_f64(value.into())
    }

    #[inline]
    fn serialize_f64(self, value: f64) -> Result<u8, Elsewhere> {
        let (tag, bits, width) = scalar::float_tag(value);
        self.sink.put_low(bits as i64, width)?;
        Ok(tag)
    }

    fn serialize_char(self, value: char) -> Result<u8, Elsewhere> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<u8, Elsewhere> {
        self.text(value)
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<u8, Elsewhere> {
        self.sink.put(value)?;
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
            return it.serialize(NativePayload { name, sink: self.sink });
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
        write!(Utf8 { sink: self.sink, len: 0 }, "{it}").map_err(|_| Elsewhere)?;
        Ok(TAG_TEXT)
    }

    elsewhere_with! { u8: serialize_newtype_variant(&'static str, u32, &'static str) }
    elsewhere! { Self::SerializeTupleVariant: serialize_tuple_variant(&'static str, u32, &'static str, usize) }
    elsewhere! { Self::SerializeMap: serialize_map(Option<usize>) }
    elsewhere! { Self::SerializeStruct: serialize_struct(&'static str, usize) }
    elsewhere! { Self::SerializeStructVariant: serialize_struct_variant(&'static str, u32, &'static str, usize) }
}

/// Takes text; a display that never ends ends at the limit of a field.
struct Utf8<'s, S> {
    sink: &'s mut S,
    len: usize,
}

impl<S: Sink> fmt::Write for Utf8<'_, S> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.len += text.len();
        if self.len > ROW_BYTES_MAX {
            return Err(fmt::Error);
        }
        self.sink.put(text.as_bytes()).map_err(|_| fmt::Error)
    }
}

/// An array on its way.
pub(super) struct Items<'e> {
    heap: &'e mut Heap,
    /// The depth of the items, were they containers.
    depth: usize,
    /// How many items are to come in all, and how many came.
    len: usize,
    at: usize,
    array: Array,
}

impl Items<'_> {
    #[inline]
    fn push<T: Serialize + ?Sized>(&mut self, it: &T) -> Result<(), Elsewhere> {
        if self.at == self.len {
            return Err(Elsewhere);
        }
        let tag = it.serialize(Payload { sink: &mut *self.heap, depth: self.depth })?;
        self.heap.close_item(&mut self.array, self.at, tag)?;
        self.at += 1;
        Ok(())
    }

    #[inline]
    fn finish(self) -> Result<u8, Elsewhere> {
        if self.at == self.len { Ok(TAG_ARRAY) } else { Err(Elsewhere) }
    }
}

macro_rules! items {
    ($($kind:ident :: $push:ident),*) => {$(
        impl ser::$kind for Items<'_> {
            type Ok = u8;
            type Error = Elsewhere;

            #[inline]
            fn $push<T: Serialize + ?Sized>(&mut self, it: &T) -> Result<(), Elsewhere> {
                self.push(it)
            }

            #[inline]
            fn end(self) -> Result<u8, Elsewhere> {
                self.finish()
            }
        }
    )*};
}

items!(SerializeSeq::serialize_element, SerializeTuple::serialize_element, SerializeTupleStruct::serialize_field);

/// The content of a type of this crate that serde has no method for.
struct NativePayload<'s, S> {
    name: &'static str,
    sink: &'s mut S,
}

impl<S: Sink> Serializer for NativePayload<'_, S> {
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
        if self.name != native::TIMESTAMP {
            return Err(Elsewhere);
        }
        let (tag, width) = scalar::timestamp_tag(value);
        self.sink.put_low(value, width)?;
        Ok(tag)
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<u8, Elsewhere> {
        let tag = match self.name {
            native::BYTES => scalar::TAG_BYTES,
            native::UUID if value.len() == 16 => scalar::TAG_UUID,
            native::DECIMAL => {
                let decimal = Decimal::unpack(value).ok_or(Elsewhere)?;
                let (places, digits) = decimal.payload();
                places.map_or(Ok(()), |places| self.sink.put(&[places]))?;
                self.sink.put(digits)?;
                return Ok(scalar::TAG_DECIMAL | decimal.info());
            }
            native::VECTOR_32 if VectorRef::<f32>::decode(value).is_ok() => scalar::TAG_VECTOR_32,
            native::VECTOR_64 if VectorRef::<f64>::decode(value).is_ok() => scalar::TAG_VECTOR_64,
            _ => return Err(Elsewhere),
        };
        self.sink.put(value)?;
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
