//! The Serializer: a Rust value becomes a [`Value`].

use std::fmt::{self, Write as _};

use serde::ser::{self, Error as _, Serialize, Serializer};

use super::error::{SerdeError, SerdeErrorKind};
use super::native;
use crate::limits::{DEPTH_MAX, FIELDS_MAX, NAME_BYTES_MAX, ROW_BYTES_MAX};
use crate::{Decimal, Document, Element, EncodeError, Timestamp, Uuid, Value, Vector, VectorRef};

/// Returns the value of `it`. spec: J-40
pub fn to_value<T: Serialize + ?Sized>(it: &T) -> Result<Value, SerdeError> {
    it.serialize(ValueSerializer { depth: 1, readable: true }).map_err(SerdeError::finish)
}

/// Returns the document of `it`, which must serialise as a struct or a map. spec: J-40
///
/// ```
/// #[derive(serde::Serialize)]
/// struct Todo { title: String, done: bool }
///
/// let todo = Todo { title: "water the plants".into(), done: false };
/// let document = blazedb_wire::serde::to_document(&todo)?;
/// assert_eq!(document.get("done"), Some(&blazedb_wire::Value::Bool(false)));
/// # Ok::<(), blazedb_wire::serde::SerdeError>(())
/// ```
pub fn to_document<T: Serialize + ?Sized>(it: &T) -> Result<Document, SerdeError> {
    let value = it.serialize(ValueSerializer { depth: 0, readable: true }).map_err(SerdeError::finish)?;
    let found = match value {
        Value::Map(document) => return Ok(document),
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::I64(_) | Value::U64(_) => "an integer",
        Value::F64(_) => "a float",
        Value::Decimal(_) => "a decimal",
        Value::Text(_) => "a text",
        Value::Bytes(_) => "a byte string",
        Value::Timestamp(_) => "a timestamp",
        Value::Uuid(_) => "a UUID",
        Value::Array(_) => "an array",
        Value::VectorF32(_) | Value::VectorF64(_) => "a vector",
    };
    Err(SerdeError::new(SerdeErrorKind::NotADocument(found)).finish())
}

/// Serialises into a [`Value`].
#[derive(Clone, Copy)]
struct ValueSerializer {
    /// The depth of this value, were it a container.
    depth: usize,
    /// Whether types should write themselves for people. Always, but for the content of our own native types.
    readable: bool,
}

impl ValueSerializer {
    /// Goes into a container.
    fn inside(self) -> Result<Self, SerdeError> {
        if self.depth > DEPTH_MAX {
            return Err(SerdeError::new(SerdeErrorKind::TooDeep { max: DEPTH_MAX }));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    fn entries(self, len: usize) -> Result<EntriesSerializer, SerdeError> {
        // The length is a hint of the type, not a promise; what it allocates ahead is bounded.
        Ok(EntriesSerializer {
            item: self.inside()?,
            variant: None,
            pairs: Vec::with_capacity(len.min(FIELDS_MAX)),
            key: None,
        })
    }

    fn items(self, len: usize) -> Result<ItemsSerializer, SerdeError> {
        Ok(ItemsSerializer { item: self.inside()?, variant: None, items: Vec::with_capacity(len.min(FIELDS_MAX)) })
    }
}

/// Returns the map of one entry that an enum's variant with content is.
fn variant_map(name: &'static str, content: Value) -> Result<Value, SerdeError> {
    map(vec![(name.to_owned(), content)])
}

fn map(pairs: Vec<(String, Value)>) -> Result<Value, SerdeError> {
    let refused = |what, given: usize, max: usize| {
        SerdeError::new(SerdeErrorKind::Encode(EncodeError::Limit { what, given: given as u64, max: max as u64 }))
    };
    if pairs.len() > FIELDS_MAX {
        return Err(refused("fields", pairs.len(), FIELDS_MAX));
    }
    if let Some((name, _)) = pairs.iter().find(|(name, _)| name.len() > NAME_BYTES_MAX) {
        return Err(refused("field name bytes", name.len(), NAME_BYTES_MAX));
    }
    Document::from_pairs(pairs).map(Value::Map).map_err(|error| SerdeError::new(SerdeErrorKind::Encode(error)))
}

/// The elements of a vector from their bytes.
fn vector<T: Element>(bytes: &[u8]) -> Option<Vector<T>> {
    VectorRef::trusted(bytes).map(|vector| vector.to_vector())
}

fn name_taken(name: &str) -> SerdeError {
    ser::Error::custom(format_args!("the name {name} belongs to a type of this crate; rename the struct"))
}

fn integer_out_of_range(number: impl fmt::Display) -> SerdeError {
    SerdeError::new(SerdeErrorKind::IntegerOutOfRange(number.to_string()))
}

impl Serializer for ValueSerializer {
    type Ok = Value;
    type Error = SerdeError;
    type SerializeSeq = ItemsSerializer;
    type SerializeTuple = ItemsSerializer;
    type SerializeTupleStruct = ItemsSerializer;
    type SerializeTupleVariant = ItemsSerializer;
    type SerializeMap = EntriesSerializer;
    type SerializeStruct = EntriesSerializer;
    type SerializeStructVariant = EntriesSerializer;

    fn is_human_readable(&self) -> bool {
        self.readable
    }

    fn serialize_bool(self, value: bool) -> Result<Value, SerdeError> {
        Ok(Value::Bool(value))
    }

    fn serialize_i8(self, value: i8) -> Result<Value, SerdeError> {
        Ok(Value::I64(value.into()))
    }

    fn serialize_i16(self, value: i16) -> Result<Value, SerdeError> {
        Ok(Value::I64(value.into()))
    }

    fn serialize_i32(self, value: i32) -> Result<Value, SerdeError> {
        Ok(Value::I64(value.into()))
    }

    fn serialize_i64(self, value: i64) -> Result<Value, SerdeError> {
        Ok(Value::I64(value))
    }

    fn serialize_i128(self, value: i128) -> Result<Value, SerdeError> {
        match (i64::try_from(value), u64::try_from(value)) {
            (Ok(value), _) => Ok(Value::I64(value)),
            (_, Ok(value)) => Ok(Value::U64(value)),
            _ => Err(integer_out_of_range(value)),
        }
    }

    fn serialize_u8(self, value: u8) -> Result<Value, SerdeError> {
        Ok(Value::I64(value.into()))
    }

    fn serialize_u16(self, value: u16) -> Result<Value, SerdeError> {
        Ok(Value::I64(value.into()))
    }

    fn serialize_u32(self, value: u32) -> Result<Value, SerdeError> {
        Ok(Value::I64(value.into()))
    }

    fn serialize_u64(self, value: u64) -> Result<Value, SerdeError> {
        Ok(Value::from(value))
    }

    fn serialize_u128(self, value: u128) -> Result<Value, SerdeError> {
        u64::try_from(value).map(Value::from).map_err(|_| integer_out_of_range(value))
    }

    fn serialize_f32(self, value: f32) -> Result<Value, SerdeError> {
        Ok(Value::F64(value.into()))
    }

    fn serialize_f64(self, value: f64) -> Result<Value, SerdeError> {
        Ok(Value::F64(value))
    }

    fn serialize_char(self, value: char) -> Result<Value, SerdeError> {
        Ok(Value::Text(value.into()))
    }

    fn serialize_str(self, value: &str) -> Result<Value, SerdeError> {
        Ok(Value::Text(value.to_owned()))
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<Value, SerdeError> {
        Ok(Value::Bytes(value.to_vec()))
    }

    fn serialize_none(self) -> Result<Value, SerdeError> {
        Ok(Value::Null)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Value, SerdeError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<Value, SerdeError> {
        Ok(Value::Null)
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<Value, SerdeError> {
        Ok(Value::Null)
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<Value, SerdeError> {
        Ok(Value::Text(variant.to_owned()))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<Value, SerdeError> {
        if !native::is_native(name) {
            return value.serialize(self);
        }
        let content = value.serialize(Self { readable: false, ..self })?;
        match (name, content) {
            (native::TIMESTAMP, Value::I64(micros)) => Ok(Value::Timestamp(Timestamp(micros))),
            (native::BYTES, Value::Bytes(bytes)) => Ok(Value::Bytes(bytes)),
            (native::UUID, Value::Bytes(bytes)) if bytes.len() == 16 => {
                Ok(Value::Uuid(Uuid(bytes.try_into().expect("the length was just compared"))))
            }
            (native::DECIMAL, Value::Bytes(packed)) => {
                Decimal::unpack(&packed).map(Value::Decimal).ok_or_else(|| name_taken(name))
            }
            (native::VECTOR_32, Value::Bytes(bytes)) => {
                vector(&bytes).map(Value::VectorF32).ok_or_else(|| name_taken(name))
            }
            (native::VECTOR_64, Value::Bytes(bytes)) => {
                vector(&bytes).map(Value::VectorF64).ok_or_else(|| name_taken(name))
            }
            _ => Err(name_taken(name)),
        }
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Value, SerdeError> {
        let content = value.serialize(self.inside()?).map_err(|error| error.prepend_key(variant))?;
        variant_map(variant, content)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<ItemsSerializer, SerdeError> {
        self.items(len.unwrap_or(0))
    }

    fn serialize_tuple(self, len: usize) -> Result<ItemsSerializer, SerdeError> {
        self.items(len)
    }

    fn serialize_tuple_struct(self, _name: &'static str, len: usize) -> Result<ItemsSerializer, SerdeError> {
        self.items(len)
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<ItemsSerializer, SerdeError> {
        let content = self.inside()?.items(len).map_err(|error| error.prepend_key(variant))?;
        Ok(ItemsSerializer { variant: Some(variant), ..content })
    }

    fn serialize_map(self, len: Option<usize>) -> Result<EntriesSerializer, SerdeError> {
        self.entries(len.unwrap_or(0))
    }

    fn serialize_struct(self, _name: &'static str, len: usize) -> Result<EntriesSerializer, SerdeError> {
        self.entries(len)
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<EntriesSerializer, SerdeError> {
        let content = self.inside()?.entries(len).map_err(|error| error.prepend_key(variant))?;
        Ok(EntriesSerializer { variant: Some(variant), ..content })
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<Value, SerdeError> {
        let mut text = Displayed(String::new());
        match write!(text, "{value}") {
            Ok(()) => Ok(Value::Text(text.0)),
            Err(fmt::Error) => {
                Err(SerdeError::custom("a value that is written as its display gave none, or one that is too long"))
            }
        }
    }
}

/// A text on its way; a display that never ends ends at the limit of a row.
struct Displayed(String);

impl fmt::Write for Displayed {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > ROW_BYTES_MAX {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// An array, or a tuple variant, on its way.
struct ItemsSerializer {
    item: ValueSerializer,
    variant: Option<&'static str>,
    items: Vec<Value>,
}

impl ItemsSerializer {
    fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), SerdeError> {
        let item = value.serialize(self.item).map_err(|error| {
            let error = error.prepend_index(self.items.len());
            match self.variant {
                Some(variant) => error.prepend_key(variant),
                None => error,
            }
        })?;
        self.items.push(item);
        Ok(())
    }

    fn finish(self) -> Result<Value, SerdeError> {
        let array = Value::Array(self.items);
        match self.variant {
            Some(variant) => variant_map(variant, array),
            None => Ok(array),
        }
    }
}

macro_rules! items {
    ($($kind:ident :: $push:ident),*) => {$(
        impl ser::$kind for ItemsSerializer {
            type Ok = Value;
            type Error = SerdeError;

            fn $push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), SerdeError> {
                self.push(value)
            }

            fn end(self) -> Result<Value, SerdeError> {
                self.finish()
            }
        }
    )*};
}

items!(
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
);

/// A map, a struct, or a struct variant, on its way.
struct EntriesSerializer {
    item: ValueSerializer,
    variant: Option<&'static str>,
    pairs: Vec<(String, Value)>,
    key: Option<String>,
}

impl EntriesSerializer {
    fn push<T: Serialize + ?Sized>(&mut self, key: String, value: &T) -> Result<(), SerdeError> {
        match value.serialize(self.item) {
            Ok(value) => {
                self.pairs.push((key, value));
                Ok(())
            }
            Err(error) => {
                let error = error.prepend_key(&key);
                Err(self.within_variant(error))
            }
        }
    }

    fn within_variant(&self, error: SerdeError) -> SerdeError {
        match self.variant {
            Some(variant) => error.prepend_key(variant),
            None => error,
        }
    }

    fn finish(mut self) -> Result<Value, SerdeError> {
        let map = map(std::mem::take(&mut self.pairs)).map_err(|error| self.within_variant(error))?;
        match self.variant {
            Some(variant) => variant_map(variant, map),
            None => Ok(map),
        }
    }
}

impl ser::SerializeMap for EntriesSerializer {
    type Ok = Value;
    type Error = SerdeError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), SerdeError> {
        self.key = Some(key.serialize(KeySerializer)?);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), SerdeError> {
        match self.key.take() {
            Some(key) => self.push(key, value),
            None => Err(ser::Error::custom("a map's value was serialised before its key; call serialize_key first")),
        }
    }

    fn end(self) -> Result<Value, SerdeError> {
        self.finish()
    }
}

macro_rules! fields {
    ($($kind:ident),*) => {$(
        impl ser::$kind for EntriesSerializer {
            type Ok = Value;
            type Error = SerdeError;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), SerdeError> {
                self.push(name.to_owned(), value)
            }

            fn end(self) -> Result<Value, SerdeError> {
                self.finish()
            }
        }
    )*};
}

fields!(SerializeStruct, SerializeStructVariant);

/// Serialises a map key into its text. spec: J-43
struct KeySerializer;

fn bad_key<T>(found: &'static str) -> Result<T, SerdeError> {
    Err(SerdeError::new(SerdeErrorKind::KeyType(found)))
}

macro_rules! text_keys {
    ($($method:ident($type:ty)),*) => {$(
        fn $method(self, value: $type) -> Result<String, SerdeError> {
            Ok(value.to_string())
        }
    )*};
}

impl Serializer for KeySerializer {
    type Ok = String;
    type Error = SerdeError;
    type SerializeSeq = ser::Impossible<String, SerdeError>;
    type SerializeTuple = ser::Impossible<String, SerdeError>;
    type SerializeTupleStruct = ser::Impossible<String, SerdeError>;
    type SerializeTupleVariant = ser::Impossible<String, SerdeError>;
    type SerializeMap = ser::Impossible<String, SerdeError>;
    type SerializeStruct = ser::Impossible<String, SerdeError>;
    type SerializeStructVariant = ser::Impossible<String, SerdeError>;

    text_keys!(
        serialize_bool(bool),
        serialize_i8(i8),
        serialize_i16(i16),
        serialize_i32(i32),
        serialize_i64(i64),
        serialize_i128(i128),
        serialize_u8(u8),
        serialize_u16(u16),
        serialize_u32(u32),
        serialize_u64(u64),
        serialize_u128(u128),
        serialize_char(char),
        serialize_str(&str)
    );

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<String, SerdeError> {
        Ok(variant.to_owned())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<String, SerdeError> {
        value.serialize(self)
    }

    fn serialize_f32(self, _value: f32) -> Result<String, SerdeError> {
        bad_key("a float")
    }

    fn serialize_f64(self, _value: f64) -> Result<String, SerdeError> {
        bad_key("a float")
    }

    fn serialize_bytes(self, _value: &[u8]) -> Result<String, SerdeError> {
        bad_key("a byte string")
    }

    fn serialize_none(self) -> Result<String, SerdeError> {
        bad_key("None")
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _value: &T) -> Result<String, SerdeError> {
        bad_key("an Option")
    }

    fn serialize_unit(self) -> Result<String, SerdeError> {
        bad_key("()")
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<String, SerdeError> {
        bad_key("a unit struct")
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _value: &T,
    ) -> Result<String, SerdeError> {
        bad_key("an enum variant with content")
    }

    fn serialize_seq(self, _len: Option<usize>) -> Result<Self::SerializeSeq, SerdeError> {
        bad_key("a sequence")
    }

    fn serialize_tuple(self, _len: usize) -> Result<Self::SerializeTuple, SerdeError> {
        bad_key("a tuple")
    }

    fn serialize_tuple_struct(
        self,
        _name: &'static str,
        _len: usize,
    ) -> Result<Self::SerializeTupleStruct, SerdeError> {
        bad_key("a tuple struct")
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Self::SerializeTupleVariant, SerdeError> {
        bad_key("an enum variant with content")
    }

    fn serialize_map(self, _len: Option<usize>) -> Result<Self::SerializeMap, SerdeError> {
        bad_key("a map")
    }

    fn serialize_struct(self, _name: &'static str, _len: usize) -> Result<Self::SerializeStruct, SerdeError> {
        bad_key("a struct")
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Self::SerializeStructVariant, SerdeError> {
        bad_key("an enum variant with content")
    }
}
