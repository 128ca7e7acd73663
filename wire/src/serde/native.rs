//! `Serialize` and `Deserialize` for the value types.
//!
//! serde's data model has no timestamps, UUIDs, decimals and vectors. So each travels as a newtype struct with a name that nobody
//! else uses: our Serializer and Deserializer know the names, every other format sees through a newtype struct to
//! its content, which is text where the format is meant for people and compact where it is not.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    self, Deserialize, Deserializer, EnumAccess, MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::json::{parse_rfc3339, write_base64, write_rfc3339};
use crate::{Decimal, Document, Element, Timestamp, Uuid, Value, Vector, VectorRef};

pub(super) const TIMESTAMP: &str = "$blaze::Timestamp";
pub(super) const UUID: &str = "$blaze::Uuid";
pub(super) const BYTES: &str = "$blaze::Bytes";
pub(super) const DECIMAL: &str = "$blaze::Decimal";
pub(super) const VECTOR_32: &str = "$blaze::VectorF32";
pub(super) const VECTOR_64: &str = "$blaze::VectorF64";
/// Asks our Deserializer for a value with its type, whatever it is; [`NATIVE`] lists what then comes as an enum.
pub(super) const VALUE: &str = "$blaze::Value";

/// Whether a newtype struct of this name is one of ours.
#[inline]
pub(super) fn is_native(name: &str) -> bool {
    // Nobody else's name begins like this, and most do not need to be looked at further.
    name.as_bytes().first() == Some(&b'$') && [TIMESTAMP, UUID, BYTES, DECIMAL, VECTOR_32, VECTOR_64].contains(&name)
}

/// The types that an enum carries to the visitor of a [`Value`], because serde has no method for them.
const NATIVE: &[&str] = &[TIMESTAMP, UUID, DECIMAL, VECTOR_32, VECTOR_64];

/// The name of vectors of one width.
fn vector_name<T: Element>() -> &'static str {
    if T::BYTES == 4 { VECTOR_32 } else { VECTOR_64 }
}

pub(super) fn timestamp_text(timestamp: Timestamp) -> String {
    let mut text = Vec::new();
    write_rfc3339(timestamp.0, &mut text);
    String::from_utf8(text).expect("RFC 3339 text is ASCII")
}

/// The content of a native newtype struct: a readable and a compact form.
enum Body<'a> {
    Timestamp(Timestamp),
    Uuid(Uuid),
    Bytes(&'a [u8]),
    Decimal(Decimal),
    VectorF32(&'a [f32]),
    VectorF64(&'a [f64]),
}

/// The content of a vector: its elements, or their bytes.
struct Elements<'a, T>(&'a [T]);

impl<T: Element + Serialize> Serialize for Elements<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_seq(self.0);
        }
        let mut bytes = Vec::with_capacity(self.0.len() * T::BYTES);
        self.0.iter().for_each(|element| element.write(&mut bytes));
        serializer.serialize_bytes(&bytes)
    }
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self, serializer.is_human_readable()) {
            (Self::Timestamp(timestamp), true) => serializer.serialize_str(&timestamp_text(*timestamp)),
            (Self::Timestamp(timestamp), false) => serializer.serialize_i64(timestamp.0),
            (Self::Uuid(uuid), true) => serializer.collect_str(uuid),
            (Self::Uuid(uuid), false) => serializer.serialize_bytes(&uuid.0),
            (Self::Bytes(bytes), true) => {
                let mut text = Vec::new();
                write_base64(bytes, &mut text);
                serializer.serialize_str(&String::from_utf8_lossy(&text))
            }
            (Self::Bytes(bytes), false) => serializer.serialize_bytes(bytes),
            (Self::Decimal(decimal), true) => serializer.collect_str(decimal),
            (Self::Decimal(decimal), false) => serializer.serialize_bytes(&decimal.pack()),
            (Self::VectorF32(elements), _) => Elements(elements).serialize(serializer),
            (Self::VectorF64(elements), _) => Elements(elements).serialize(serializer),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(TIMESTAMP, &Body::Timestamp(*self))
    }
}

impl Serialize for Uuid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(UUID, &Body::Uuid(*self))
    }
}

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(DECIMAL, &Body::Decimal(*self))
    }
}

impl Serialize for Vector<f32> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(VECTOR_32, &Body::VectorF32(&self.0))
    }
}

impl Serialize for Vector<f64> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(VECTOR_64, &Body::VectorF64(&self.0))
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::I64(value) => serializer.serialize_i64(*value),
            Self::U64(value) => serializer.serialize_u64(*value),
            Self::F64(value) => serializer.serialize_f64(*value),
            Self::Decimal(value) => value.serialize(serializer),
            Self::VectorF32(value) => value.serialize(serializer),
            Self::VectorF64(value) => value.serialize(serializer),
            Self::Text(value) => serializer.serialize_str(value),
            Self::Bytes(value) => serializer.serialize_newtype_struct(BYTES, &Body::Bytes(value)),
            Self::Timestamp(value) => value.serialize(serializer),
            Self::Uuid(value) => value.serialize(serializer),
            Self::Array(items) => serializer.collect_seq(items),
            Self::Map(document) => document.serialize(serializer),
        }
    }
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (name, value) in self.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(TIMESTAMP, TimestampVisitor)
    }
}

struct TimestampVisitor;

impl<'de> Visitor<'de> for TimestampVisitor {
    type Value = Timestamp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a timestamp, or its RFC 3339 text with at most six digits of fraction")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Timestamp, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(self)
        } else {
            deserializer.deserialize_i64(self)
        }
    }

    fn visit_i64<E: de::Error>(self, micros: i64) -> Result<Timestamp, E> {
        Ok(Timestamp(micros))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
        parse_rfc3339(text).map(Timestamp).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

impl<'de> Deserialize<'de> for Uuid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(UUID, UuidVisitor)
    }
}

struct UuidVisitor;

impl<'de> Visitor<'de> for UuidVisitor {
    type Value = Uuid;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a UUID, or its hyphenated text")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Uuid, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(self)
        } else {
            deserializer.deserialize_bytes(self)
        }
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Uuid, E> {
        bytes.try_into().map(Uuid).map_err(|_| E::invalid_length(bytes.len(), &"16 bytes"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Uuid, A::Error> {
        let mut bytes = [0; 16];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = items.next_element()?.ok_or_else(|| de::Error::invalid_length(index, &"16 bytes"))?;
        }
        Ok(Uuid(bytes))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Uuid, E> {
        text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(DECIMAL, DecimalVisitor)
    }
}

struct DecimalVisitor;

impl<'de> Visitor<'de> for DecimalVisitor {
    type Value = Decimal;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a decimal, or its digits as text")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Decimal, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(self)
        } else {
            deserializer.deserialize_bytes(self)
        }
    }

    fn visit_bytes<E: de::Error>(self, packed: &[u8]) -> Result<Decimal, E> {
        Decimal::unpack(packed).ok_or_else(|| E::invalid_value(Unexpected::Bytes(packed), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Decimal, E> {
        text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// Reads a vector from the bytes of its elements, or from a list of numbers.
struct VectorVisitor<T>(PhantomData<T>);

impl<'de, T: Element + Deserialize<'de>> Visitor<'de> for VectorVisitor<T> {
    type Value = Vector<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a vector of floats of {} bits, or a list of numbers", 8 * T::BYTES)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vector<T>, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_seq(self)
        } else {
            deserializer.deserialize_bytes(self)
        }
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vector<T>, E> {
        let vector = VectorRef::trusted(bytes).map(|vector| vector.to_vector());
        vector.ok_or_else(|| E::invalid_length(bytes.len(), &self))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vector<T>, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = items.next_element()? {
            elements.push(element);
        }
        Ok(Vector(elements))
    }
}

impl<'de, T: Element + Deserialize<'de>> Deserialize<'de> for Vector<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(vector_name::<T>(), VectorVisitor(PhantomData))
    }
}

/// Borrows from an encoded vector; from nothing else.
impl<'de: 'a, 'a, T: Element> Deserialize<'de> for VectorRef<'a, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(vector_name::<T>(), BorrowedVectorVisitor(PhantomData))
    }
}

struct BorrowedVectorVisitor<T>(PhantomData<T>);

impl<'de, T: Element> Visitor<'de> for BorrowedVectorVisitor<T> {
    type Value = VectorRef<'de, T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an encoded vector of floats of {} bits, to borrow from", 8 * T::BYTES)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<VectorRef<'de, T>, D::Error> {
        deserializer.deserialize_bytes(self)
    }

    fn visit_borrowed_bytes<E: de::Error>(self, bytes: &'de [u8]) -> Result<VectorRef<'de, T>, E> {
        VectorRef::trusted(bytes).ok_or_else(|| E::invalid_length(bytes.len(), &self))
    }
}

/// Asks for bytes, whatever a type would ask for itself.
struct AsBytes<V>(V);

impl<'de, V: Visitor<'de>> de::DeserializeSeed<'de> for AsBytes<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        deserializer.deserialize_bytes(self.0)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(VALUE, ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    /// How other formats answer; ours calls the method of the value's type at once.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::I64(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::F64(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Value, E> {
        Ok(Value::Bytes(bytes.to_vec()))
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Value, E> {
        Ok(Value::Bytes(bytes))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element()? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        DocumentVisitor.visit_map(map).map(Value::Map)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, native: A) -> Result<Value, A::Error> {
        let (name, content) = native.variant::<Cow<'de, str>>()?;
        match &*name {
            TIMESTAMP => content.newtype_variant::<i64>().map(|micros| Value::Timestamp(Timestamp(micros))),
            UUID => content.newtype_variant::<[u8; 16]>().map(|bytes| Value::Uuid(Uuid(bytes))),
            DECIMAL => content.newtype_variant_seed(AsBytes(DecimalVisitor)).map(Value::Decimal),
            VECTOR_32 => content.newtype_variant_seed(AsBytes(VectorVisitor(PhantomData))).map(Value::VectorF32),
            VECTOR_64 => content.newtype_variant_seed(AsBytes(VectorVisitor(PhantomData))).map(Value::VectorF64),
            other => Err(de::Error::unknown_variant(other, NATIVE)),
        }
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(DocumentVisitor)
    }
}

struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map with text keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
        let mut pairs: Vec<(String, Value)> = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Document::from_pairs(pairs).map_err(de::Error::custom)
    }
}

/// A native type on its way to the visitor of a [`Value`].
pub(super) enum Native<'a> {
    Timestamp(Timestamp),
    Uuid(Uuid),
    Decimal(Decimal),
    /// The elements of a vector as they are stored.
    VectorF32(&'a [u8]),
    VectorF64(&'a [u8]),
}

impl<'de> EnumAccess<'de> for Native<'_> {
    type Error = super::error::Fault;
    type Variant = Self;

    fn variant_seed<V: de::DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Self::Error> {
        let name = match self {
            Self::Timestamp(_) => TIMESTAMP,
            Self::Uuid(_) => UUID,
            Self::Decimal(_) => DECIMAL,
            Self::VectorF32(_) => VECTOR_32,
            Self::VectorF64(_) => VECTOR_64,
        };
        Ok((seed.deserialize(de::value::BorrowedStrDeserializer::<super::error::Fault>::new(name))?, self))
    }
}

impl<'de> VariantAccess<'de> for Native<'_> {
    type Error = super::error::Fault;

    fn newtype_variant_seed<T: de::DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Self::Error> {
        match self {
            Self::Timestamp(timestamp) => seed.deserialize(de::value::I64Deserializer::new(timestamp.0)),
            Self::Uuid(uuid) => seed.deserialize(de::value::SeqDeserializer::new(uuid.0.into_iter())),
            Self::Decimal(decimal) => seed.deserialize(de::value::BytesDeserializer::new(&decimal.pack())),
            Self::VectorF32(bytes) | Self::VectorF64(bytes) => {
                seed.deserialize(de::value::BytesDeserializer::new(bytes))
            }
        }
    }

    fn unit_variant(self) -> Result<(), Self::Error> {
        Err(de::Error::invalid_type(Unexpected::NewtypeVariant, &"a unit variant"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::invalid_type(Unexpected::NewtypeVariant, &visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        Err(de::Error::invalid_type(Unexpected::NewtypeVariant, &visitor))
    }
}
