//! The JSON bridge: JSON text to values and back, without losing anything or else with an error.
//!
//! Inwards, [`Documents`] streams an array of objects, NDJSON, or objects one after another, one element in memory
//! at a time; [`parse_value`] and [`parse_document`] read one value. Outwards, [`write_value`] and its siblings
//! append canonical text. The normative mapping is spec/json.md; code cites its rules (`spec: J-10`).
//!
//! Why a parser of our own: an import has to say where a file is wrong (line, column, path), a number must come in
//! exactly or not at all, duplicate keys and half characters must not pass, and memory must be bounded by the
//! largest element. The usual libraries give up at least two of these. serde_json is the oracle of our tests.
//!
//! Invariants: a document that is accepted writes a text that parses to an equal document; an equal value writes
//! equal text; no input makes this code panic, recurse past [`DEPTH_MAX`](crate::limits::DEPTH_MAX) levels or hold
//! more than one element.
//!
//! Never here: guessing types from text. Timestamps, UUIDs and bytes leave as text and stay text when they return;
//! a typed struct may read them back, see [`serde`](crate::serde).

mod base64;
mod documents;
mod error;
mod input;
mod number;
mod parse;
pub(crate) mod path;
mod rfc3339;
mod write;

#[cfg(any(test, feature = "testing"))]
mod fuzz;

pub(crate) use self::base64::write_base64;
pub(crate) use self::rfc3339::{parse_rfc3339, write_rfc3339};
pub(crate) use self::write::write_text;

pub use self::documents::{Documents, Layout, Parsed};
pub use self::error::{JsonError, JsonErrorKind, JsonWriteError, JsonWriteErrorKind};
#[cfg(feature = "testing")]
pub use self::fuzz::fuzz_json;
pub use self::write::{write_document, write_row, write_value, write_value_ref};

use self::parse::Parser;
use crate::{Document, Value};

/// What a caller may set about reading; the limits of the format itself (depth, names, texts) are in
/// [`limits`](crate::limits).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long one element may be in the input, in bytes, white space included; 8 MiB by default.
    ///
    /// It bounds the memory of a read: two bytes of text can become a value of about 32 bytes. A row of 1 MiB is
    /// rarely more than 3 MiB of JSON. An element that is too long is refused, not cut.
    pub element_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { element_bytes_max: 8 << 20 }
    }
}

/// Reads the one value that `text` holds.
pub fn parse_value(text: &[u8]) -> Result<Value, JsonError> {
    one(text, Parser::top_value)
}

/// Reads the one object that `text` holds.
pub fn parse_document(text: &[u8]) -> Result<Document, JsonError> {
    one(text, Parser::document)
}

fn one<'a, T>(
    text: &'a [u8],
    read: impl FnOnce(&mut Parser<&'a [u8]>) -> Result<T, JsonError>,
) -> Result<T, JsonError> {
    // The caller has the whole text in memory already; it is the only bound there can be.
    let mut parser = Parser::new(text, u64::MAX);
    let whole = || {
        parser.byte_order_mark()?;
        parser.input.skip_space(true)?;
        let value = read(&mut parser)?;
        parser.trailing()?;
        Ok(value)
    };
    whole().map_err(JsonError::finish)
}
