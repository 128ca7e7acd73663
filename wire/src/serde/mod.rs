//! The serde bridge: Rust types to values and back.
//!
//! [`RowEncoder`] takes a struct straight to a row; [`to_document`] and [`to_value`] take any `Serialize`; [`from_document`] and [`from_value`] give any
//! `Deserialize`; [`from_row`] and [`from_field`] read straight from encoded bytes, so that `&str` and `&[u8]`
//! fields borrow from them. `Value`, `Document`, `Timestamp`, `Uuid`, `Decimal` and `Vector` implement both traits: between this
//! Serializer and this Deserializer they keep their types, in other formats they take a readable form (RFC 3339
//! text, hyphenated text, base64, digits as text, a list of numbers) or, where the format is not for people, a compact one. spec: J-41
//!
//! | Rust | value |
//! |---|---|
//! | `bool`, integers in -2^63 .. 2^64, floats | boolean, integer, float |
//! | `char`, `&str`, `String` | text |
//! | bytes (`serde_bytes` and kin) | bytes; a plain `Vec<u8>` is an array of integers, as serde sees it |
//! | `None`, `()`, unit structs | null; a missing field also reads as `None` |
//! | `Some(x)`, newtype structs | x |
//! | sequences, tuples, tuple structs | array; a `Vec<f32>` too: [`Vector`](crate::Vector) is what is stored flat |
//! | maps, structs | map; keys that are integers, booleans or characters take their text form |
//! | enums | a unit variant is its name; others a map of one entry, name to content |
//!
//! Reading is strict where serde's own defaults are lax: an integer becomes a float only if that float is exactly
//! it, text is never taken for bytes nor bytes for text, an array is never taken for a struct, and a tuple must have
//! the array's length. A float becomes an `f32` by rounding, because that is what the field's type asks for.
//!
//! One place where types do not survive: through `#[serde(flatten)]`, untagged and internally tagged enums serde
//! buffers content in a form of its own that knows no timestamps, UUIDs, decimals and vectors. A field of such a type still
//! reads back from that (by its text, or from a list), but a `Value` there becomes text, or an array.
//!
//! Nor does the strictness: out of that form serde itself makes the fields, by its own defaults. There 2^53 + 1 becomes the `f64`
//! 2^53, 1e300 an infinite `f32`, text becomes bytes, and an array of its fields a struct, without an error. Who must not
//! have that keeps numbers, bytes and structs out of flattened, untagged and internally tagged types, or reads a
//! [`Value`](crate::Value) there and turns it with [`from_value`].

mod deserializer;
mod error;
mod fields;
mod heap;
mod native;
mod payload;
mod rows;
mod serializer;
mod sink;
mod source;

pub use self::deserializer::{from_document, from_field, from_row, from_value};
pub use self::error::{SerdeError, SerdeErrorKind};
pub use self::rows::RowEncoder;
pub use self::serializer::{to_document, to_value};
