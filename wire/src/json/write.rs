//! Values as canonical JSON: one value, one text.
//!
//! Keys ascend by their bytes, nothing stands between tokens, text is raw UTF-8 with the shortest escapes, and a
//! float always shows a `.` or an `e`. What JSON has no type for leaves as text and does not come back by itself:
//! timestamps as RFC 3339, UUIDs with hyphens, bytes as base64, decimals as their digits; and vectors as arrays.

use super::base64::write_base64;
use super::error::{JsonWriteError, JsonWriteErrorKind};
use super::number::write_f64;
use super::path;
use super::rfc3339::write_rfc3339;
use crate::limits::DEPTH_MAX;
use crate::{Decimal, Document, Element, RowRef, Timestamp, Uuid, Value, ValueRef};

/// Appends the canonical JSON of a value; on an error `out` is as it was. spec: J-30
pub fn write_value(value: &Value, out: &mut Vec<u8>) -> Result<(), JsonWriteError> {
    whole(out, |out| value_text(value, 1, out))
}

/// Appends the canonical JSON of a value in its encoded form; on an error `out` is as it was. spec: J-30
pub fn write_value_ref(value: ValueRef<'_>, out: &mut Vec<u8>) -> Result<(), JsonWriteError> {
    whole(out, |out| value_ref_text(value, out))
}

/// Appends the canonical JSON of a document; on an error `out` is as it was. spec: J-30
pub fn write_document(document: &Document, out: &mut Vec<u8>) -> Result<(), JsonWriteError> {
    whole(out, |out| map_text(document.iter(), out, |value, out| value_text(value, 1, out)))
}

/// Appends the canonical JSON of a row, which is that of its document. spec: J-30
pub fn write_row(row: RowRef<'_>, out: &mut Vec<u8>) -> Result<(), JsonWriteError> {
    whole(out, |out| map_text(row.iter(), out, value_ref_text))
}

/// Undoes what a failed write left, and completes the error's path.
fn whole(
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), JsonWriteError>,
) -> Result<(), JsonWriteError> {
    let start = out.len();
    write(out).map_err(|mut error| {
        out.truncate(start);
        path::finish(&mut error.path);
        error
    })
}

fn value_text(value: &Value, depth: usize, out: &mut Vec<u8>) -> Result<(), JsonWriteError> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(value) => write_bool(*value, out),
        Value::I64(value) => out.extend_from_slice(value.to_string().as_bytes()),
        Value::U64(value) => out.extend_from_slice(value.to_string().as_bytes()),
        Value::F64(value) => write_float(*value, out)?,
        Value::Text(value) => write_text(value, out),
        Value::Bytes(value) => write_bytes(value, out),
        Value::Decimal(value) => write_decimal(*value, out),
        Value::Timestamp(value) => write_timestamp(*value, out),
        Value::Uuid(value) => write_uuid(*value, out),
        // A value that was built by hand may be nested as deep as its maker liked.
        Value::Array(_) | Value::Map(_) if depth > DEPTH_MAX => {
            return Err(refused(JsonWriteErrorKind::TooDeep { max: DEPTH_MAX }));
        }
        Value::VectorF32(vector) => vector_text(vector.0.iter().copied(), out)?,
        Value::VectorF64(vector) => vector_text(vector.0.iter().copied(), out)?,
        Value::Array(items) => array_text(items.iter(), out, |item, out| value_text(item, depth + 1, out))?,
        Value::Map(document) => map_text(document.iter(), out, |value, out| value_text(value, depth + 1, out))?,
    }
    Ok(())
}

/// Containers are decoded first: that is linear in their size, where walking them lazily would scan the key table
/// once more for every map inside.
fn value_ref_text(value: ValueRef<'_>, out: &mut Vec<u8>) -> Result<(), JsonWriteError> {
    match value {
        ValueRef::Null => out.extend_from_slice(b"null"),
        ValueRef::Bool(value) => write_bool(value, out),
        ValueRef::I64(value) => out.extend_from_slice(value.to_string().as_bytes()),
        ValueRef::U64(value) => out.extend_from_slice(value.to_string().as_bytes()),
        ValueRef::F64(value) => write_float(value, out)?,
        ValueRef::Text(value) => write_text(value, out),
        ValueRef::Bytes(value) => write_bytes(value, out),
        ValueRef::Decimal(value) => write_decimal(value, out),
        ValueRef::Timestamp(value) => write_timestamp(value, out),
        ValueRef::Uuid(value) => write_uuid(value, out),
        ValueRef::VectorF32(vector) => vector_text(vector.iter(), out)?,
        ValueRef::VectorF64(vector) => vector_text(vector.iter(), out)?,
        ValueRef::Array(_) | ValueRef::Map(_) => value_text(&value.to_value(), 1, out)?,
    }
    Ok(())
}

fn vector_text<T: Element>(elements: impl Iterator<Item = T>, out: &mut Vec<u8>) -> Result<(), JsonWriteError> {
    array_text(elements, out, |element, out| write_float(element.widen(), out))
}

fn array_text<T>(
    items: impl Iterator<Item = T>,
    out: &mut Vec<u8>,
    mut write: impl FnMut(T, &mut Vec<u8>) -> Result<(), JsonWriteError>,
) -> Result<(), JsonWriteError> {
    out.push(b'[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(item, out).map_err(|mut error| {
            path::prepend_index(&mut error.path, index as u64);
            error
        })?;
    }
    out.push(b']');
    Ok(())
}

fn map_text<'n, T>(
    entries: impl Iterator<Item = (&'n str, T)>,
    out: &mut Vec<u8>,
    mut write: impl FnMut(T, &mut Vec<u8>) -> Result<(), JsonWriteError>,
) -> Result<(), JsonWriteError> {
    out.push(b'{');
    for (index, (name, value)) in entries.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_text(name, out);
        out.push(b':');
        write(value, out).map_err(|mut error| {
            path::prepend_key(&mut error.path, name);
            error
        })?;
    }
    out.push(b'}');
    Ok(())
}

fn write_bool(value: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

fn write_float(value: f64, out: &mut Vec<u8>) -> Result<(), JsonWriteError> {
    if !value.is_finite() {
        return Err(refused(JsonWriteErrorKind::NotFinite(value)));
    }
    write_f64(value, out);
    Ok(())
}

fn write_bytes(value: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    write_base64(value, out);
    out.push(b'"');
}

/// As text: a number with a point comes back as a float, and readers round those.
fn write_decimal(value: Decimal, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("\"{value}\"").as_bytes());
}

fn write_timestamp(value: Timestamp, out: &mut Vec<u8>) {
    out.push(b'"');
    write_rfc3339(value.0, out);
    out.push(b'"');
}

fn write_uuid(value: Uuid, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(value.to_string().as_bytes());
    out.push(b'"');
}

fn refused(kind: JsonWriteErrorKind) -> JsonWriteError {
    JsonWriteError { path: String::new(), kind }
}

/// Appends a string with its quotes. spec: J-33
pub(crate) fn write_text(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.reserve(text.len() + 2);
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut plain_from = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let escape = match byte {
            b'"' => b'"',
            b'\\' => b'\\',
            0x08 => b'b',
            0x0c => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x00..0x20 => b'u',
            _ => continue,
        };
        out.extend_from_slice(&bytes[plain_from..at]);
        plain_from = at + 1;
        out.extend_from_slice(&[b'\\', escape]);
        if escape == b'u' {
            out.extend_from_slice(&[b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
    out.extend_from_slice(&bytes[plain_from..]);
    out.push(b'"');
}
