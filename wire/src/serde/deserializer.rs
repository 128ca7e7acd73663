//! The Deserializer: a value, owned or encoded, becomes a Rust value.
//!
//! One Deserializer reads from every [`Source`]. Over an encoded source a text or a byte string is lent to the type
//! that asks for it; nothing is copied that the type does not copy.

use std::borrow::Cow;

use serde::de::value::{BorrowedStrDeserializer, SeqDeserializer, StrDeserializer, StringDeserializer};
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};

use super::error::{Fault, SerdeError, SerdeErrorKind};
use super::fields::{FieldDeserializer, RowDeserializer};
use super::native::{self, Native};
use super::source::{Node, Source};
use crate::limits::DEPTH_MAX;
use crate::{Document, Element, RawField, RowRef, Value, VectorRef};

/// Returns what `value` says, as a `T`. spec: J-40
pub fn from_value<T: de::DeserializeOwned>(value: Value) -> Result<T, SerdeError> {
    T::deserialize(ValueDeserializer::new(value, 1)).map_err(Fault::finish)
}

/// Returns what `document` says, as a `T`. spec: J-40
///
/// ```
/// #[derive(serde::Deserialize, Debug, PartialEq)]
/// struct Todo { title: String, due: Option<i64> }
///
/// let document = blazedb_wire::json::parse_document(br#"{"title": "water the plants"}"#)?;
/// let todo: Todo = blazedb_wire::serde::from_document(document)?;
/// assert_eq!(todo, Todo { title: "water the plants".into(), due: None });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn from_document<T: de::DeserializeOwned>(document: Document) -> Result<T, SerdeError> {
    T::deserialize(ValueDeserializer::new(Value::Map(document), 0)).map_err(Fault::finish)
}

/// Returns what `row` says, as a `T` whose `&str` and `&[u8]` borrow from the row's bytes. spec: J-40
pub fn from_row<'de, T: Deserialize<'de>>(row: RowRef<'de>) -> Result<T, SerdeError> {
    T::deserialize(RowDeserializer::new(row)).map_err(Fault::finish)
}

/// Returns what one field of a row says, as a `T` that may borrow from it; paths start at the field. spec: J-40
pub fn from_field<'de, T: Deserialize<'de>>(field: RawField<'de>) -> Result<T, SerdeError> {
    T::deserialize(FieldDeserializer::new(field)).map_err(Fault::finish)
}

/// Deserialises from one value.
pub(super) struct ValueDeserializer<'de, S: Source<'de>> {
    held: Held<'de, S>,
    /// The depth of this value, were it a container.
    depth: usize,
}

/// A value before or after its outermost layer was looked at; a value that nobody asks for is never opened.
enum Held<'de, S: Source<'de>> {
    Closed(S),
    Open(Node<'de, S>),
}

impl<'de, S: Source<'de>> ValueDeserializer<'de, S> {
    pub(super) fn new(source: S, depth: usize) -> Self {
        Self { held: Held::Closed(source), depth }
    }

    fn node(self) -> Node<'de, S> {
        match self.held {
            Held::Closed(source) => source.node(),
            Held::Open(node) => node,
        }
    }
}

/// Returns how an error message names a value.
fn unexpected<'a, 'de, S: Source<'de>>(node: &'a Node<'de, S>) -> Unexpected<'a> {
    match node {
        Node::Null => Unexpected::Other("null"),
        Node::Bool(value) => Unexpected::Bool(*value),
        Node::I64(value) => Unexpected::Signed(*value),
        Node::U64(value) => Unexpected::Unsigned(*value),
        Node::F64(value) => Unexpected::Float(*value),
        Node::Text(value) => Unexpected::Str(value),
        Node::Bytes(_) => Unexpected::Other("bytes"),
        Node::Decimal(_) => Unexpected::Other("a decimal"),
        Node::VectorF32(_) | Node::VectorF64(_) => Unexpected::Other("a vector"),
        Node::Timestamp(_) => Unexpected::Other("a timestamp"),
        Node::Uuid(_) => Unexpected::Other("a UUID"),
        Node::Array(_) => Unexpected::Other("an array"),
        Node::Map(_) => Unexpected::Other("a map"),
    }
}

fn wrong_type<'de, S: Source<'de>, T>(node: &Node<'de, S>, expected: &dyn Expected) -> Result<T, Fault> {
    Err(Fault::invalid_type(unexpected(node), expected))
}

/// Gives the visitor whatever the value is; types that serde lacks in their readable form.
fn visit<'de, S: Source<'de>, V: Visitor<'de>>(
    node: Node<'de, S>,
    depth: usize,
    visitor: V,
) -> Result<V::Value, Fault> {
    match node {
        Node::Null => visitor.visit_unit(),
        Node::Bool(value) => visitor.visit_bool(value),
        Node::I64(value) => visitor.visit_i64(value),
        Node::U64(value) => visitor.visit_u64(value),
        Node::F64(value) => visitor.visit_f64(value),
        Node::Text(Cow::Borrowed(text)) => visitor.visit_borrowed_str(text),
        Node::Text(Cow::Owned(text)) => visitor.visit_string(text),
        Node::Bytes(Cow::Borrowed(bytes)) => visitor.visit_borrowed_bytes(bytes),
        Node::Bytes(Cow::Owned(bytes)) => visitor.visit_byte_buf(bytes),
        Node::Timestamp(timestamp) => visitor.visit_string(native::timestamp_text(timestamp)),
        Node::Uuid(uuid) => visitor.visit_string(uuid.to_string()),
        Node::Decimal(decimal) => visitor.visit_string(decimal.to_string()),
        Node::VectorF32(bytes) => visit_vector::<f32, V>(&bytes, visitor),
        Node::VectorF64(bytes) => visit_vector::<f64, V>(&bytes, visitor),
        Node::Array(items) => {
            let mut access = ItemsAccess { left: items.len(), items, depth: deeper(depth)?, index: 0 };
            let value = visitor.visit_seq(&mut access)?;
            if access.left > 0 {
                let expected = format!("{} items", access.index);
                return Err(Fault::invalid_length(access.index + access.left, &expected.as_str()));
            }
            Ok(value)
        }
        Node::Map(entries) => visitor.visit_map(EntriesAccess { entries, depth: deeper(depth)?, entry: None }),
    }
}

/// Gives the visitor the elements of a vector, for whoever does not know what a vector is.
fn visit_vector<'de, T, V>(bytes: &[u8], visitor: V) -> Result<V::Value, Fault>
where
    T: Element + IntoDeserializer<'de, Fault>,
    V: Visitor<'de>,
{
    let elements = VectorRef::<T>::trusted(bytes).map(|vector| vector.to_vector().0).unwrap_or_default();
    let mut access = SeqDeserializer::new(elements.into_iter());
    let value = visitor.visit_seq(&mut access)?;
    access.end()?;
    Ok(value)
}

/// Goes into a container; returns the depth of its items. A value built by hand may be deeper than one may be.
fn deeper(depth: usize) -> Result<usize, Fault> {
    if depth > DEPTH_MAX {
        return Err(Fault::new(SerdeErrorKind::TooDeep { max: DEPTH_MAX }));
    }
    Ok(depth + 1)
}

/// Forwards each method to the visitor if the value is of one of these types, and refuses it if not.
///
/// Visitors of the standard types take more than their own type: a `String` takes UTF-8 bytes, `&[u8]` takes text, a
/// struct takes an array. A type that changes on the way is what a database must not do.
macro_rules! only {
    ($($method:ident => $node:pat),* $(,)?) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            let depth = self.depth;
            match self.node() {
                node if matches!(node, $node) => visit(node, depth, visitor),
                node => wrong_type(&node, &visitor),
            }
        }
    )*};
}

/// The methods whose kinds a value does not tell apart: each asks for what it is made of.
macro_rules! as_content {
    () => {
        fn deserialize_unit_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Fault> {
            self.deserialize_unit(visitor)
        }

        fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Fault> {
            self.deserialize_seq(visitor)
        }

        fn deserialize_tuple_struct<V: Visitor<'de>>(
            self,
            _name: &'static str,
            _len: usize,
            visitor: V,
        ) -> Result<V::Value, Fault> {
            self.deserialize_seq(visitor)
        }

        #[inline]
        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _name: &'static str,
            _fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Fault> {
            self.deserialize_map(visitor)
        }
    };
}
pub(super) use as_content;

impl<'de, S: Source<'de>> Deserializer<'de> for ValueDeserializer<'de, S> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let depth = self.depth;
        visit(self.node(), depth, visitor)
    }

    only! {
        deserialize_bool => Node::Bool(_),
        deserialize_i8 => Node::I64(_) | Node::U64(_),
        deserialize_i16 => Node::I64(_) | Node::U64(_),
        deserialize_i32 => Node::I64(_) | Node::U64(_),
        deserialize_i64 => Node::I64(_) | Node::U64(_),
        deserialize_i128 => Node::I64(_) | Node::U64(_),
        deserialize_u8 => Node::I64(_) | Node::U64(_),
        deserialize_u16 => Node::I64(_) | Node::U64(_),
        deserialize_u32 => Node::I64(_) | Node::U64(_),
        deserialize_u64 => Node::I64(_) | Node::U64(_),
        deserialize_u128 => Node::I64(_) | Node::U64(_),
        deserialize_char => Node::Text(_),
        deserialize_str => Node::Text(_),
        deserialize_string => Node::Text(_),
        deserialize_identifier => Node::Text(_),
        deserialize_bytes => Node::Bytes(_) | Node::Array(_),
        deserialize_byte_buf => Node::Bytes(_) | Node::Array(_),
        deserialize_unit => Node::Null,
        deserialize_seq => Node::Array(_),
        deserialize_map => Node::Map(_),
    }

    /// An integer becomes a float only if that float is exactly it. spec: J-42
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match exact_float(&self.node(), &visitor)? {
            Number::Integer(integer, float) if float as i128 != integer => inexact(integer.to_string(), "f64"),
            Number::Integer(_, float) | Number::Float(float) => visitor.visit_f64(float),
        }
    }

    /// As [`deserialize_f64`](Self::deserialize_f64), but a float is rounded, as the type asks; only not to infinity.
    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match exact_float(&self.node(), &visitor)? {
            Number::Integer(integer, _) if integer as f32 as i128 != integer => inexact(integer.to_string(), "f32"),
            Number::Float(float) if float.is_finite() && (float as f32).is_infinite() => {
                inexact(float.to_string(), "f32")
            }
            Number::Integer(_, float) | Number::Float(float) => visitor.visit_f32(float as f32),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let depth = self.depth;
        match self.node() {
            Node::Null => visitor.visit_none(),
            node => visitor.visit_some(Self { held: Held::Open(node), depth }),
        }
    }

    as_content!();

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        let depth = self.depth;
        match (name, self.node()) {
            (native::TIMESTAMP, Node::Timestamp(timestamp)) => visitor.visit_i64(timestamp.0),
            (native::UUID, Node::Uuid(uuid)) => visitor.visit_bytes(&uuid.0),
            (native::DECIMAL, Node::Decimal(decimal)) => visitor.visit_bytes(&decimal.pack()),
            (native::TIMESTAMP | native::UUID | native::DECIMAL, node @ Node::Text(_)) => visit(node, depth, visitor),
            (native::TIMESTAMP | native::UUID | native::DECIMAL, node) => wrong_type(&node, &visitor),
            (native::VECTOR_32, Node::VectorF32(bytes)) | (native::VECTOR_64, Node::VectorF64(bytes)) => match bytes {
                Cow::Borrowed(bytes) => visitor.visit_borrowed_bytes(bytes),
                Cow::Owned(bytes) => visitor.visit_byte_buf(bytes),
            },
            (native::VECTOR_32 | native::VECTOR_64, node @ Node::Array(_)) => visit(node, depth, visitor),
            (native::VECTOR_32 | native::VECTOR_64, node) => wrong_type(&node, &visitor),
            (native::VALUE, Node::Timestamp(timestamp)) => visitor.visit_enum(Native::Timestamp(timestamp)),
            (native::VALUE, Node::Uuid(uuid)) => visitor.visit_enum(Native::Uuid(uuid)),
            (native::VALUE, Node::Decimal(decimal)) => visitor.visit_enum(Native::Decimal(decimal)),
            (native::VALUE, Node::VectorF32(bytes)) => visitor.visit_enum(Native::VectorF32(&bytes)),
            (native::VALUE, Node::VectorF64(bytes)) => visitor.visit_enum(Native::VectorF64(&bytes)),
            (native::VALUE, node) => visit(node, depth, visitor),
            (_, node) => visitor.visit_newtype_struct(Self { held: Held::Open(node), depth }),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let depth = self.depth;
        match self.node() {
            Node::Text(Cow::Borrowed(variant)) => visitor.visit_enum(BorrowedStrDeserializer::new(variant)),
            Node::Text(Cow::Owned(variant)) => visitor.visit_enum(StringDeserializer::new(variant)),
            Node::Map(mut entries) => match (entries.next(), entries.next()) {
                (Some((variant, content)), None) => {
                    visitor.visit_enum(ContentAccess { variant, content, depth: deeper(depth)? })
                }
                (None, _) => Err(Fault::invalid_length(0, &"a map of one entry, variant to content")),
                (Some(_), Some(_)) => {
                    Err(Fault::invalid_length(2 + entries.len(), &"a map of one entry, variant to content"))
                }
            },
            node => wrong_type(&node, &"a variant's name, or a map of one entry, variant to content"),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }
}

enum Number {
    /// The integer and the float nearest to it.
    Integer(i128, f64),
    Float(f64),
}

fn exact_float<'de, S: Source<'de>>(node: &Node<'de, S>, expected: &dyn Expected) -> Result<Number, Fault> {
    match *node {
        Node::F64(value) => Ok(Number::Float(value)),
        Node::I64(value) => Ok(Number::Integer(value.into(), value as f64)),
        Node::U64(value) => Ok(Number::Integer(value.into(), value as f64)),
        _ => wrong_type(node, expected),
    }
}

fn inexact<T>(found: String, wanted: &'static str) -> Result<T, Fault> {
    Err(Fault::new(SerdeErrorKind::Inexact { found, wanted }))
}

/// The items of an array, handed out one by one.
struct ItemsAccess<I> {
    items: I,
    depth: usize,
    index: usize,
    left: usize,
}

impl<'de, I> SeqAccess<'de> for ItemsAccess<I>
where
    I: Iterator,
    I::Item: Source<'de>,
{
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(source) = self.items.next() else {
            return Ok(None);
        };
        let value = seed
            .deserialize(ValueDeserializer::new(source, self.depth))
            .map_err(|error| error.prepend_index(self.index))?;
        self.index += 1;
        self.left = self.left.saturating_sub(1);
        Ok(Some(value))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// The entries of a map, handed out one by one.
struct EntriesAccess<'de, E, S> {
    entries: E,
    depth: usize,
    /// The entry whose key was handed out; the key stays for the path of an error.
    entry: Option<(Cow<'de, str>, S)>,
}

impl<'de, E, S> MapAccess<'de> for EntriesAccess<'de, E, S>
where
    E: ExactSizeIterator<Item = (Cow<'de, str>, S)>,
    S: Source<'de>,
{
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((name, source)) = self.entries.next() else {
            return Ok(None);
        };
        let key = seed.deserialize(KeyDeserializer { name: &name }).map_err(|error| error.prepend_key(&name))?;
        self.entry = Some((name, source));
        Ok(Some(key))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Fault> {
        let Some((name, source)) = self.entry.take() else {
            return Err(Fault::custom("a map's value was asked for before its key; call next_key first"));
        };
        seed.deserialize(ValueDeserializer::new(source, self.depth)).map_err(|error| error.prepend_key(&name))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

/// A map key: text, or what its text form says. spec: J-43
pub(super) struct KeyDeserializer<'k, 'de> {
    pub(super) name: &'k Cow<'de, str>,
}

/// Reads a number from its one text form, so that one number is one key.
macro_rules! number_keys {
    ($($method:ident, $visit:ident, $type:ty, $what:literal);* $(;)?) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            match self.name.parse::<$type>() {
                Ok(number) if number.to_string() == **self.name => visitor.$visit(number),
                _ => Err(Fault::invalid_value(Unexpected::Str(self.name), &$what)),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for KeyDeserializer<'_, 'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.name {
            Cow::Borrowed(name) => visitor.visit_borrowed_str(name),
            Cow::Owned(name) => visitor.visit_str(name),
        }
    }

    number_keys! {
        deserialize_i8, visit_i8, i8, "the text of an i8";
        deserialize_i16, visit_i16, i16, "the text of an i16";
        deserialize_i32, visit_i32, i32, "the text of an i32";
        deserialize_i64, visit_i64, i64, "the text of an i64";
        deserialize_i128, visit_i128, i128, "the text of an i128";
        deserialize_u8, visit_u8, u8, "the text of a u8";
        deserialize_u16, visit_u16, u16, "the text of a u16";
        deserialize_u32, visit_u32, u32, "the text of a u32";
        deserialize_u64, visit_u64, u64, "the text of a u64";
        deserialize_u128, visit_u128, u128, "the text of a u128";
        deserialize_bool, visit_bool, bool, "\"true\" or \"false\"";
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let variant: StrDeserializer<'_, Fault> = (**self.name).into_deserializer();
        visitor.visit_enum(variant)
    }

    serde::forward_to_deserialize_any! {
        f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// A variant with content.
struct ContentAccess<'de, S> {
    variant: Cow<'de, str>,
    content: S,
    /// The depth of the content, were it a container.
    depth: usize,
}

impl<'de, S: Source<'de>> EnumAccess<'de> for ContentAccess<'de, S> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        Ok((seed.deserialize(KeyDeserializer { name: &self.variant })?, self))
    }
}

impl<'de, S: Source<'de>> ContentAccess<'de, S> {
    fn read<T>(self, read: impl FnOnce(ValueDeserializer<'de, S>) -> Result<T, Fault>) -> Result<T, Fault> {
        let Self { variant, content, depth } = self;
        read(ValueDeserializer::new(content, depth)).map_err(|error| error.prepend_key(&variant))
    }
}

impl<'de, S: Source<'de>> VariantAccess<'de> for ContentAccess<'de, S> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        self.read(<()>::deserialize)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        self.read(|content| seed.deserialize(content))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Fault> {
        self.read(|content| content.deserialize_seq(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, _fields: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        self.read(|content| content.deserialize_map(visitor))
    }
}
