//! Values: what a field can hold.
//!
//! `Value` owns, `ValueRef` borrows from encoded bytes; both see the same domain. Integers are one domain from
//! `i64::MIN` to `u64::MAX`: `U64(5)` and `I64(5)` are the same value. Floats are compared by the bits of their
//! canonical form: every NaN is one value, and -0.0 is not 0.0. Text is never normalised.

mod borrowed;
mod decimal;
mod document;
pub(crate) mod encode;
mod order;
pub(crate) mod scalar;
pub(crate) mod sequence;
pub(crate) mod table;
pub(crate) mod validate;
mod vector;

pub use borrowed::{ArrayRef, MapRef, ValueIndex, ValueRef};
pub use decimal::{Decimal, DecimalError};
pub use document::Document;
pub use encode::encode_value;
pub use validate::{validate_body, validate_value};
pub use vector::{Element, Vector, VectorRef};

use crate::id::{ParseIdError, parse_hex, write_hyphenated};
use std::fmt;
use std::str::FromStr;

/// A value that owns its parts.
#[derive(Clone, Debug, Default)]
pub enum Value {
    /// Nothing, said explicitly.
    #[default]
    Null,
    /// True or false.
    Bool(bool),
    /// An integer from `i64::MIN` to `i64::MAX`.
    I64(i64),
    /// An integer above `i64::MAX`; smaller ones equal, and decode as, `I64`.
    U64(u64),
    /// A binary floating-point number.
    F64(f64),
    /// An exact decimal number.
    Decimal(Decimal),
    /// UTF-8 text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A moment.
    Timestamp(Timestamp),
    /// A UUID.
    Uuid(Uuid),
    /// Values in order.
    Array(Vec<Self>),
    /// Named values.
    Map(Document),
    /// Floats of 32 bits, stored flat.
    VectorF32(Vector<f32>),
    /// Floats of 64 bits, stored flat.
    VectorF64(Vector<f64>),
}

/// A moment: microseconds since 1970-01-01T00:00:00 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// A UUID. Aligned as other values are, so that they are moved as whole words.
#[repr(align(8))]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hyphenated(&self.0, f)
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hyphenated(&self.0, f)
    }
}

impl FromStr for Uuid {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        parse_hex(text).map(Self)
    }
}

macro_rules! from {
    ($($from:ty => |$value:ident| $make:expr),* $(,)?) => {$(
        impl From<$from> for Value {
            fn from($value: $from) -> Self {
                $make
            }
        }
    )*};
}

from! {
    bool => |value| Self::Bool(value),
    i32 => |value| Self::I64(value.into()),
    u32 => |value| Self::I64(value.into()),
    i64 => |value| Self::I64(value),
    u64 => |value| i64::try_from(value).map_or(Self::U64(value), Self::I64),
    f64 => |value| Self::F64(value),
    Decimal => |value| Self::Decimal(value),
    &str => |value| Self::Text(value.to_owned()),
    String => |value| Self::Text(value),
    Vec<u8> => |value| Self::Bytes(value),
    &[u8] => |value| Self::Bytes(value.to_vec()),
    Timestamp => |value| Self::Timestamp(value),
    Uuid => |value| Self::Uuid(value),
    Vec<Self> => |value| Self::Array(value),
    Document => |value| Self::Map(value),
    Vector<f32> => |value| Self::VectorF32(value),
    Vector<f64> => |value| Self::VectorF64(value),
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}
