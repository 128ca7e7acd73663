//! Rows to Rust structs, the short way: fields whose types fit are read where they lie.
//!
//! Whatever is not the common case (a map, a value of another type than the field's, an integer for a float, text in
//! the place of a timestamp) is left to the general Deserializer, with its rules and its errors.

use std::borrow::Cow;
use std::rc::Rc;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::deserializer::{KeyDeserializer, ValueDeserializer, as_content};
use super::error::Fault;
use super::native;
use super::source::Encoded;
use crate::limits::DEPTH_MAX;
use crate::text::as_text;
use crate::value::scalar::{
    TAG_ARRAY, TAG_FALSE, TAG_NULL, TAG_TEXT, TAG_TIMESTAMP, TAG_TRUE, TAG_UUID, TAG_VECTOR_32, TAG_VECTOR_64, signed,
    trusted_float, trusted_integer,
};
use crate::value::sequence::{Items, Sequence};
use crate::value::table::TableIndex;
use crate::varint::read_uvarint;
use crate::{RawField, RowRef};

/// The methods for values of other types, and for enums: the long way.
macro_rules! general {
    ($($method:ident),*) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
                self.general().$method(visitor)
            }
        )*

        fn deserialize_enum<V: Visitor<'de>>(
            self,
            name: &'static str,
            variants: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Fault> {
            self.general().deserialize_enum(name, variants, visitor)
        }
    };
}

/// A whole row.
pub(super) struct RowDeserializer<'de> {
    row: RowRef<'de>,
}

impl<'de> RowDeserializer<'de> {
    pub(super) fn new(row: RowRef<'de>) -> Self {
        Self { row }
    }

    fn general(self) -> ValueDeserializer<'de, RowRef<'de>> {
        ValueDeserializer::new(self.row, 0)
    }
}

impl<'de> Deserializer<'de> for RowDeserializer<'de> {
    type Error = Fault;

    general!(
        deserialize_bool,
        deserialize_i8,
        deserialize_i16,
        deserialize_i32,
        deserialize_i64,
        deserialize_i128,
        deserialize_u8,
        deserialize_u16,
        deserialize_u32,
        deserialize_u64,
        deserialize_u128,
        deserialize_f32,
        deserialize_f64,
        deserialize_char,
        deserialize_str,
        deserialize_string,
        deserialize_identifier,
        deserialize_bytes,
        deserialize_byte_buf,
        deserialize_unit,
        deserialize_seq
    );
    as_content!();

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_map(visitor)
    }

    #[inline]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let items = self.row.sequence().items();
        let mut access = FieldsAccess { names: self.row.shape().names(), name: "", items, tag: 0, payload: None };
        // Borrowed: moving what was just written in parts stalls the processor.
        visitor.visit_map(&mut access)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        if native::is_native(name) || name == native::VALUE {
            return self.general().deserialize_newtype_struct(name, visitor);
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }
}

/// The fields of a row, handed out one by one.
struct FieldsAccess<'de, N> {
    names: N,
    items: Items<'de>,
    /// The field whose name was handed out.
    name: &'de str,
    /// Its value, until that is asked for.
    tag: u8,
    payload: Option<&'de [u8]>,
}

impl<'de, N: ExactSizeIterator<Item = &'de str>> MapAccess<'de> for FieldsAccess<'de, N> {
    type Error = Fault;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some(name) = self.names.next() else { return Ok(None) };
        self.name = name;
        let (tag, payload) = self.items.next().unwrap_or_default();
        (self.tag, self.payload) = (tag, Some(payload));
        seed.deserialize(NameDeserializer(name)).map(Some).map_err(|error| error.prepend_key(name))
    }

    #[inline]
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Fault> {
        let Some(payload) = self.payload.take() else {
            return Err(Fault::custom("a map's value was asked for before its key; call next_key first"));
        };
        let field = FieldDeserializer::new(RawField { tag: self.tag, payload });
        seed.deserialize(field).map_err(|error| error.prepend_key(self.name))
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.names.len())
    }
}

/// The name of a field. What is not simply text is left to the general way.
struct NameDeserializer<'de>(&'de str);

/// The methods for keys that are not text.
macro_rules! other_keys {
    ($($method:ident),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            KeyDeserializer { name: &Cow::Borrowed(self.0) }.$method(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for NameDeserializer<'de> {
    type Error = Fault;

    other_keys!(
        deserialize_bool,
        deserialize_i8,
        deserialize_i16,
        deserialize_i32,
        deserialize_i64,
        deserialize_i128,
        deserialize_u8,
        deserialize_u16,
        deserialize_u32,
        deserialize_u64,
        deserialize_u128
    );

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_borrowed_str(self.0)
    }

    #[inline]
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_borrowed_str(self.0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        KeyDeserializer { name: &Cow::Borrowed(self.0) }.deserialize_enum(name, variants, visitor)
    }

    serde::forward_to_deserialize_any! {
        f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct ignored_any
    }
}

/// One field, or an item of a list without maps.
pub(super) struct FieldDeserializer<'de> {
    tag: u8,
    payload: &'de [u8],
    /// Whether a container has a table of keys in front: an item's is that of the list, which is empty.
    table: bool,
    /// The depth of this value, were it a container.
    depth: u8,
}

impl<'de> FieldDeserializer<'de> {
    #[inline]
    pub(super) fn new(field: RawField<'de>) -> Self {
        Self { tag: field.tag, payload: field.payload, table: true, depth: 1 }
    }

    /// The long way.
    #[cold]
    fn general(self) -> ValueDeserializer<'de, Encoded<'de>> {
        let table = (!self.table).then(|| Rc::new(TableIndex::default()));
        ValueDeserializer::new(Encoded::new(self.tag, self.payload, table), self.depth.into())
    }

    /// The text that this is.
    #[inline]
    fn text(&self) -> Option<&'de str> {
        if self.tag == TAG_TEXT { as_text(self.payload).ok() } else { None }
    }

    /// The items of a list without maps.
    #[inline]
    fn list(&self) -> Option<Items<'de>> {
        let node = match self.payload {
            _ if self.tag != TAG_ARRAY || usize::from(self.depth) > DEPTH_MAX => return None,
            [0, 0, node @ ..] if self.table => node,
            _ if self.table => return None,
            node => node,
        };
        let (count, len) = read_uvarint(node).ok()?;
        Sequence::trusted(usize::try_from(count).ok()?, node.get(len..)?, 0).map(Sequence::items)
    }
}

macro_rules! integers {
    ($($method:ident),*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            match trusted_integer(self.tag, self.payload) {
                Some(value) => visitor.visit_i64(value),
                None => self.general().$method(visitor),
            }
        }
    )*};
}

macro_rules! texts {
    ($($method:ident),*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            match self.text() {
                Some(text) => visitor.visit_borrowed_str(text),
                None => self.general().$method(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for FieldDeserializer<'de> {
    type Error = Fault;

    integers!(
        deserialize_i8,
        deserialize_i16,
        deserialize_i32,
        deserialize_i64,
        deserialize_u8,
        deserialize_u16,
        deserialize_u32,
        deserialize_u64
    );
    texts!(deserialize_char, deserialize_str, deserialize_string, deserialize_identifier);
    general!(
        deserialize_any,
        deserialize_i128,
        deserialize_u128,
        deserialize_f32,
        deserialize_bytes,
        deserialize_byte_buf,
        deserialize_unit,
        deserialize_map
    );
    as_content!();

    #[inline]
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.tag {
            TAG_FALSE | TAG_TRUE => visitor.visit_bool(self.tag == TAG_TRUE),
            _ => self.general().deserialize_bool(visitor),
        }
    }

    #[inline]
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match trusted_float(self.tag, self.payload) {
            Some(value) => visitor.visit_f64(value),
            None => self.general().deserialize_f64(visitor),
        }
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.tag == TAG_NULL { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Some(items) = self.list() else { return self.general().deserialize_seq(visitor) };
        let mut access = ListAccess { items, depth: self.depth + 1, index: 0 };
        let value = visitor.visit_seq(&mut access)?;
        if access.items.len() > 0 { Err(access.too_many()) } else { Ok(value) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        match name {
            native::TIMESTAMP if self.tag & 0xf0 == TAG_TIMESTAMP => visitor.visit_i64(signed(self.payload)),
            native::UUID if self.tag == TAG_UUID && self.payload.len() == 16 => visitor.visit_bytes(self.payload),
            native::VECTOR_32 if self.tag == TAG_VECTOR_32 => visitor.visit_borrowed_bytes(self.payload),
            native::VECTOR_64 if self.tag == TAG_VECTOR_64 => visitor.visit_borrowed_bytes(self.payload),
            native::TIMESTAMP
            | native::UUID
            | native::DECIMAL
            | native::VECTOR_32
            | native::VECTOR_64
            | native::VALUE => self.general().deserialize_newtype_struct(name, visitor),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    #[inline]
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }
}

/// The items of a list, handed out one by one.
struct ListAccess<'de> {
    items: Items<'de>,
    depth: u8,
    index: usize,
}

impl ListAccess<'_> {
    #[cold]
    #[inline(never)]
    fn too_many(&self) -> Fault {
        let expected = format!("{} items", self.index);
        Fault::invalid_length(self.index + self.items.len(), &expected.as_str())
    }
}

impl<'de> SeqAccess<'de> for ListAccess<'de> {
    type Error = Fault;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some((tag, payload)) = self.items.next() else { return Ok(None) };
        let item = FieldDeserializer { tag, payload, table: false, depth: self.depth };
        let value = seed.deserialize(item).map_err(|error| error.prepend_index(self.index))?;
        self.index += 1;
        Ok(Some(value))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}
