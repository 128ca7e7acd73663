//! Tags and payloads of values that are not containers; the only place that reads or writes them.

use super::order::canonical_float;
use super::{Decimal, Timestamp, Uuid, Value, ValueRef, VectorRef};
use crate::error::{DecodeError, DecodeErrorKind, EncodeError};
use crate::limits::FIELD_BYTES_MAX;
use crate::text::{as_text, is_ascii};

/// Numbers of the types: the upper half of a tag byte (spec: V-5, V-6).
pub(crate) mod types {
    pub(crate) const SIMPLE: u8 = 0x0;
    pub(crate) const SMALL: u8 = 0x1;
    pub(crate) const INTEGER: u8 = 0x2;
    pub(crate) const UNSIGNED: u8 = 0x3;
    pub(crate) const FLOAT: u8 = 0x4;
    pub(crate) const DECIMAL: u8 = 0x5;
    pub(crate) const TIMESTAMP: u8 = 0x6;
    pub(crate) const UUID: u8 = 0x7;
    pub(crate) const TEXT: u8 = 0x8;
    pub(crate) const BYTES: u8 = 0x9;
    pub(crate) const ARRAY: u8 = 0xa;
    pub(crate) const MAP: u8 = 0xb;
    pub(crate) const VECTOR: u8 = 0xc;
}

/// The tag of an array.
pub(crate) const TAG_ARRAY: u8 = types::ARRAY << 4;
/// The tag of a map.
pub(crate) const TAG_MAP: u8 = types::MAP << 4;
/// The upper half of the tags of a decimal.
pub(crate) const TAG_DECIMAL: u8 = types::DECIMAL << 4;
/// The tag of a vector of floats of 32 bits.
pub(crate) const TAG_VECTOR_32: u8 = types::VECTOR << 4 | 4;
/// The tag of a vector of floats of 64 bits.
pub(crate) const TAG_VECTOR_64: u8 = types::VECTOR << 4 | 8;
/// The tag of null.
pub(crate) const TAG_NULL: u8 = 0;
/// The tag of false.
pub(crate) const TAG_FALSE: u8 = 1;
/// The tag of true.
pub(crate) const TAG_TRUE: u8 = 2;
/// The tag of an integer that no `i64` holds.
pub(crate) const TAG_UNSIGNED: u8 = types::UNSIGNED << 4 | 8;
const TAG_ZERO: u8 = types::FLOAT << 4;
const TAG_FLOAT_32: u8 = types::FLOAT << 4 | 4;
const TAG_FLOAT_64: u8 = types::FLOAT << 4 | 8;
/// The upper half of the tags of a moment.
pub(crate) const TAG_TIMESTAMP: u8 = types::TIMESTAMP << 4;
/// The tag of a UUID.
pub(crate) const TAG_UUID: u8 = types::UUID << 4;
/// The tag of a text.
pub(crate) const TAG_TEXT: u8 = types::TEXT << 4;
/// The tag of a byte string.
pub(crate) const TAG_BYTES: u8 = types::BYTES << 4;

/// The one NaN (spec: V-11).
const NAN_BITS: u32 = 0x7fc0_0000;

/// Returns how many bytes the two's complement of `value` needs, at least one.
const fn signed_width(value: i64) -> usize {
    let bits = 65 - (value ^ (value >> 63)).leading_zeros() as usize;
    bits.div_ceil(8)
}

/// Reads a two's complement of at most eight bytes: as two halves, which may overlap.
#[inline]
pub(crate) fn signed(payload: &[u8]) -> i64 {
    if let (Some(low), Some(high)) = (payload.first_chunk(), payload.last_chunk()) {
        let high = i64::from(i32::from_le_bytes(*high));
        return high << (8 * (payload.len().min(8) - 4)) | i64::from(u32::from_le_bytes(*low));
    }
    match *payload {
        [] => 0,
        [one] => i64::from(one as i8),
        [low, high] => i64::from(i16::from_le_bytes([low, high])),
        [low, middle, high, ..] => i64::from(i16::from_le_bytes([middle, high])) << 8 | i64::from(low),
    }
}

/// Returns the float as 32 bits if that loses nothing.
fn as_f32(value: f64) -> Option<f32> {
    let narrow = value as f32;
    (f64::from(narrow).to_bits() == value.to_bits()).then_some(narrow)
}

/// Appends the payload of a value that is not a container and returns its tag; none for a container.
pub(crate) fn encode_scalar(value: &Value, out: &mut Vec<u8>) -> Result<Option<u8>, EncodeError> {
    let tag = match value {
        Value::Null => TAG_NULL,
        Value::Bool(false) => TAG_FALSE,
        Value::Bool(true) => TAG_TRUE,
        Value::I64(n) => encode_integer(*n, out),
        Value::U64(n) => encode_unsigned(*n, out),
        Value::F64(x) => encode_float(*x, out),
        Value::Timestamp(Timestamp(micros)) => encode_timestamp(*micros, out),
        Value::Uuid(Uuid(bytes)) => {
            out.extend_from_slice(bytes);
            TAG_UUID
        }
        Value::Text(text) => {
            check_size(text.len())?;
            out.extend_from_slice(text.as_bytes());
            TAG_TEXT
        }
        Value::Bytes(bytes) => {
            check_size(bytes.len())?;
            out.extend_from_slice(bytes);
            TAG_BYTES
        }
        Value::Array(_) | Value::Map(_) => return Ok(None),
        Value::Decimal(_) | Value::VectorF32(_) | Value::VectorF64(_) => encode_seldom(value, out)?,
    };
    Ok(Some(tag))
}

/// Kept out of the way of the others.
#[inline(never)]
fn encode_seldom(value: &Value, out: &mut Vec<u8>) -> Result<u8, EncodeError> {
    Ok(match value {
        Value::Decimal(decimal) => encode_decimal(*decimal, out),
        Value::VectorF32(vector) => {
            check_size(vector.0.len().saturating_mul(4))?;
            vector.encode(out);
            TAG_VECTOR_32
        }
        Value::VectorF64(vector) => {
            check_size(vector.0.len().saturating_mul(8))?;
            vector.encode(out);
            TAG_VECTOR_64
        }
        _ => TAG_NULL,
    })
}

/// Refuses a payload above the limit of one field (spec: L-5).
pub(crate) const fn check_size(len: usize) -> Result<(), EncodeError> {
    if len > FIELD_BYTES_MAX {
        return Err(EncodeError::Limit { what: "field bytes", given: len as u64, max: FIELD_BYTES_MAX as u64 });
    }
    Ok(())
}

/// Returns the tag of an integer, and how many of its bytes are its payload.
#[inline]
pub(crate) fn integer_tag(n: i64) -> (u8, usize) {
    if (-8..=7).contains(&n) {
        return (types::SMALL << 4 | (n as u8 & 0xf), 0);
    }
    let width = signed_width(n);
    (types::INTEGER << 4 | width as u8, width)
}

/// Appends the payload of an integer and returns its tag.
#[inline]
pub(crate) fn encode_integer(n: i64, out: &mut Vec<u8>) -> u8 {
    let (tag, width) = integer_tag(n);
    put_low(n, width, out);
    tag
}

/// Appends the payload of an integer that is not negative and returns its tag.
#[inline]
pub(crate) fn encode_unsigned(n: u64, out: &mut Vec<u8>) -> u8 {
    match i64::try_from(n) {
        Ok(n) => encode_integer(n, out),
        Err(_) => {
            out.extend_from_slice(&n.to_le_bytes());
            TAG_UNSIGNED
        }
    }
}

/// Returns the tag of a moment, and how many of its bytes are its payload.
#[inline]
pub(crate) fn timestamp_tag(micros: i64) -> (u8, usize) {
    let width = if micros == 0 { 0 } else { signed_width(micros) };
    (types::TIMESTAMP << 4 | width as u8, width)
}

/// Appends the payload of a moment and returns its tag.
pub(crate) fn encode_timestamp(micros: i64, out: &mut Vec<u8>) -> u8 {
    let (tag, width) = timestamp_tag(micros);
    put_low(micros, width, out);
    tag
}

/// Appends the payload of a decimal and returns its tag.
pub(crate) fn encode_decimal(decimal: Decimal, out: &mut Vec<u8>) -> u8 {
    TAG_DECIMAL | decimal.encode(out)
}

/// Appends the lowest `width` bytes: eight at once, and takes back what is too much.
#[inline]
fn put_low(n: i64, width: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&n.to_le_bytes());
    out.truncate(out.len() - (8 - width));
}

/// Returns the tag of a float, its bits as they are stored, and how many bytes of them are its payload.
#[inline]
pub(crate) fn float_tag(x: f64) -> (u8, u64, usize) {
    if x.to_bits() == 0 {
        return (TAG_ZERO, 0, 0);
    }
    if x.is_nan() {
        return (TAG_FLOAT_32, NAN_BITS.into(), 4);
    }
    match as_f32(x) {
        Some(narrow) => (TAG_FLOAT_32, narrow.to_bits().into(), 4),
        None => (TAG_FLOAT_64, x.to_bits(), 8),
    }
}

/// Appends the payload of a float and returns its tag.
#[inline]
pub(crate) fn encode_float(x: f64, out: &mut Vec<u8>) -> u8 {
    let (tag, bits, width) = float_tag(x);
    put_low(bits as i64, width, out);
    tag
}

/// Takes a payload of exactly `N` bytes (spec: V-7).
fn exact<const N: usize>(payload: &[u8]) -> Result<[u8; N], DecodeError> {
    exact_len(payload, N)?;
    let mut bytes = [0; N];
    bytes.copy_from_slice(payload);
    Ok(bytes)
}

const fn exact_len(payload: &[u8], wanted: usize) -> Result<(), DecodeError> {
    let len = payload.len();
    if len < wanted {
        return Err(DecodeError::new(0, DecodeErrorKind::UnexpectedEnd { wanted, left: len }));
    }
    if len > wanted {
        return Err(DecodeError::new(wanted, DecodeErrorKind::TrailingBytes(len - wanted)));
    }
    Ok(())
}

pub(crate) const fn not_canonical(rule: &'static str) -> DecodeError {
    DecodeError::new(0, DecodeErrorKind::NotCanonical(rule))
}

/// Returns a valid integer that an `i64` holds; none for other values.
#[inline]
pub(crate) fn trusted_integer(tag: u8, payload: &[u8]) -> Option<i64> {
    match tag {
        0x10..=0x1f => Some(i64::from((tag << 4) as i8 >> 4)),
        0x21..=0x28 => Some(signed(payload)),
        _ => None,
    }
}

/// Returns a valid float; none for other values.
#[inline]
pub(crate) fn trusted_float(tag: u8, payload: &[u8]) -> Option<f64> {
    match tag {
        TAG_ZERO => Some(0.0),
        TAG_FLOAT_32 => payload.try_into().ok().map(|bytes| f64::from(f32::from_le_bytes(bytes))),
        TAG_FLOAT_64 => payload.try_into().ok().map(f64::from_le_bytes),
        _ => None,
    }
}

/// Reads a valid value that is not a container; none for a container. Over other bytes, what makes no sense is null.
#[inline]
pub(crate) fn trusted_scalar(tag: u8, payload: &[u8]) -> Option<ValueRef<'_>> {
    match trusted_common(tag, payload) {
        Some(value) => Some(value),
        None => trusted_seldom(tag, payload),
    }
}

/// Reads a valid value of a common kind; none for others. Always a part of what it is called from: a value in memory
/// costs more than making it does.
#[inline(always)]
pub(crate) fn trusted_common(tag: u8, payload: &[u8]) -> Option<ValueRef<'_>> {
    match tag {
        TAG_TEXT => Some(as_text(payload).map_or(ValueRef::Null, ValueRef::Text)),
        TAG_NULL => Some(ValueRef::Null),
        TAG_FALSE | TAG_TRUE => Some(ValueRef::Bool(tag == TAG_TRUE)),
        TAG_FLOAT_64 => {
            Some(payload.try_into().map_or(ValueRef::Null, |bytes| ValueRef::F64(f64::from_le_bytes(bytes))))
        }
        _ => trusted_integer(tag, payload).map(ValueRef::I64),
    }
}

/// Reads a valid value that [`trusted_common`] does not. The elements of a vector are not looked at again.
pub(crate) fn trusted_seldom(tag: u8, payload: &[u8]) -> Option<ValueRef<'_>> {
    match tag {
        TAG_VECTOR_32 => Some(VectorRef::trusted(payload).map_or(ValueRef::Null, ValueRef::VectorF32)),
        TAG_VECTOR_64 => Some(VectorRef::trusted(payload).map_or(ValueRef::Null, ValueRef::VectorF64)),
        _ => decode_scalar(tag, payload).unwrap_or(Some(ValueRef::Null)),
    }
}

/// Checks a value that is not a container as [`decode_scalar`] does; false for a container.
#[inline]
pub(crate) fn check_scalar(tag: u8, payload: &[u8]) -> Result<bool, DecodeError> {
    if is_plain(tag, payload) {
        return Ok(true);
    }
    match tag {
        TAG_ARRAY | TAG_MAP => Ok(false),
        _ => decode_scalar(tag, payload).map(|_| true),
    }
}

/// In [`PAYLOADS`]: text.
const SOME_TEXT: u8 = 0xff;
/// In [`PAYLOADS`]: whatever has rules that are not looked at in a hurry.
const SOME_OTHER: u8 = 0xfe;

/// What each tag asks of its payload: a length, or one of the two above.
static PAYLOADS: [u8; 256] = {
    let mut payloads = [SOME_OTHER; 256];
    let mut tag = TAG_NULL as usize;
    while tag <= TAG_TRUE as usize {
        payloads[tag] = 0;
        tag += 1;
    }
    let mut info = 0;
    while info < 16 {
        payloads[(types::SMALL << 4 | info) as usize] = 0;
        info += 1;
    }
    let mut width = 1;
    while width <= 8 {
        payloads[(types::INTEGER << 4 | width) as usize] = width;
        width += 1;
    }
    payloads[TAG_ZERO as usize] = 0;
    payloads[TAG_TEXT as usize] = SOME_TEXT;
    payloads
};

/// Whether this is a valid value of a common kind. A value of which it does not say so may be valid too.
#[inline(always)]
pub(crate) fn is_plain(tag: u8, payload: &[u8]) -> bool {
    match PAYLOADS[usize::from(tag)] {
        SOME_TEXT => is_ascii(payload),
        SOME_OTHER => tag == TAG_FLOAT_64 && is_long_float(payload),
        0 => payload.is_empty(),
        width => payload.len() == usize::from(width) && is_shortest(payload),
    }
}

/// Whether a float needs its eight bytes (spec: V-10, V-11).
#[inline]
fn is_long_float(payload: &[u8]) -> bool {
    let Ok(bytes) = payload.try_into() else { return false };
    let x = f64::from_le_bytes(bytes);
    !x.is_nan() && as_f32(x).is_none()
}

/// Whether an integer of one to eight bytes needs them all, and does not fit into a tag (spec: V-8).
#[inline]
fn is_shortest(payload: &[u8]) -> bool {
    match payload {
        [one] => !(-8..=7).contains(&(*one as i8)),
        // The last byte only repeats the sign of the one before.
        [.., before, last] => *last as i8 != *before as i8 >> 7,
        [] => false,
    }
}

/// Reads a value that is not a container; none for a container. Offsets count from the payload.
pub(crate) fn decode_scalar(tag: u8, payload: &[u8]) -> Result<Option<ValueRef<'_>>, DecodeError> {
    let info = tag & 0xf;
    let value = match (tag >> 4, info) {
        (types::SIMPLE, 0..=2) => {
            exact_len(payload, 0)?;
            match info {
                0 => ValueRef::Null,
                _ => ValueRef::Bool(info == 2),
            }
        }
        (types::SMALL, _) => {
            exact_len(payload, 0)?;
            // Sign-extends the lower half of the tag.
            ValueRef::I64(i64::from((info << 4) as i8 >> 4))
        }
        (types::INTEGER, 1..=8) => {
            exact_len(payload, info.into())?;
            let n = signed(payload);
            // spec: V-8
            if signed_width(n) != usize::from(info) || (-8..=7).contains(&n) {
                return Err(not_canonical("V-8"));
            }
            ValueRef::I64(n)
        }
        (types::UNSIGNED, 8) => {
            let n = u64::from_le_bytes(exact(payload)?);
            // spec: V-9
            if i64::try_from(n).is_ok() {
                return Err(not_canonical("V-9"));
            }
            ValueRef::U64(n)
        }
        (types::FLOAT, 0) => {
            exact_len(payload, 0)?;
            ValueRef::F64(0.0)
        }
        (types::FLOAT, 4) => {
            let bits = u32::from_le_bytes(exact(payload)?);
            let narrow = f32::from_bits(bits);
            // spec: V-10, V-11
            if bits == 0 {
                return Err(not_canonical("V-10"));
            }
            if narrow.is_nan() {
                if bits != NAN_BITS {
                    return Err(not_canonical("V-11"));
                }
                ValueRef::F64(canonical_float(f64::NAN))
            } else {
                ValueRef::F64(narrow.into())
            }
        }
        (types::FLOAT, 8) => {
            let x = f64::from_bits(u64::from_le_bytes(exact(payload)?));
            // spec: V-10, V-11
            if x.is_nan() {
                return Err(not_canonical("V-11"));
            }
            if as_f32(x).is_some() {
                return Err(not_canonical("V-10"));
            }
            ValueRef::F64(x)
        }
        (types::DECIMAL, _) => ValueRef::Decimal(Decimal::decode(info, payload)?),
        (types::TIMESTAMP, 0..=8) => {
            exact_len(payload, info.into())?;
            let micros = signed(payload);
            let width = if micros == 0 { 0 } else { signed_width(micros) };
            // spec: V-12
            if width != usize::from(info) {
                return Err(not_canonical("V-12"));
            }
            ValueRef::Timestamp(Timestamp(micros))
        }
        (types::UUID, 0) => ValueRef::Uuid(Uuid(exact(payload)?)),
        (types::TEXT, 0) => match as_text(payload) {
            Ok(text) => ValueRef::Text(text),
            // spec: V-3
            Err(error) => return Err(DecodeError::new(error.valid_up_to(), DecodeErrorKind::Utf8)),
        },
        (types::BYTES, 0) => ValueRef::Bytes(payload),
        (types::ARRAY | types::MAP, 0) => return Ok(None),
        (types::VECTOR, 4) => ValueRef::VectorF32(VectorRef::decode(payload)?),
        (types::VECTOR, 8) => ValueRef::VectorF64(VectorRef::decode(payload)?),
        // spec: V-6
        (0xd..=0xf, _) => return Err(DecodeError::new(0, DecodeErrorKind::ReservedTag(tag))),
        // spec: V-5
        _ => return Err(DecodeError::new(0, DecodeErrorKind::BadTag(tag))),
    };
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: Value, tag: u8, payload: &[u8]) {
        let mut out = Vec::new();
        assert_eq!(encode_scalar(&value, &mut out), Ok(Some(tag)), "{value:?}");
        assert_eq!(out, payload, "{value:?}");
        let decoded = decode_scalar(tag, payload).expect("what was encoded is accepted").expect("a scalar");
        assert_eq!(decoded.to_value(), value);
    }

    // spec: V-5, V-8, V-9, V-10, V-11, V-12
    #[test]
    fn known_answers() {
        check(Value::Null, 0x00, &[]);
        check(Value::Bool(false), 0x01, &[]);
        check(Value::Bool(true), 0x02, &[]);
        check(Value::I64(0), 0x10, &[]);
        check(Value::I64(7), 0x17, &[]);
        check(Value::I64(-8), 0x18, &[]);
        check(Value::I64(-1), 0x1f, &[]);
        check(Value::I64(8), 0x21, &[8]);
        check(Value::I64(-9), 0x21, &[0xf7]);
        check(Value::I64(127), 0x21, &[0x7f]);
        check(Value::I64(128), 0x22, &[0x80, 0]);
        check(Value::I64(-128), 0x21, &[0x80]);
        check(Value::I64(-129), 0x22, &[0x7f, 0xff]);
        check(Value::I64(i64::MIN), 0x28, &[0, 0, 0, 0, 0, 0, 0, 0x80]);
        check(Value::U64(1 << 63), 0x38, &[0, 0, 0, 0, 0, 0, 0, 0x80]);
        check(Value::U64(5), 0x15, &[]);
        check(Value::F64(0.0), 0x40, &[]);
        check(Value::F64(-0.0), 0x44, &[0, 0, 0, 0x80]);
        check(Value::F64(1.5), 0x44, &[0, 0, 0xc0, 0x3f]);
        check(Value::F64(f64::INFINITY), 0x44, &[0, 0, 0x80, 0x7f]);
        check(Value::F64(-f64::NAN), 0x44, &[0, 0, 0xc0, 0x7f]);
        check(Value::F64(0.1), 0x48, &[0x9a, 0x99, 0x99, 0x99, 0x99, 0x99, 0xb9, 0x3f]);
        check(Value::F64(f64::from(f32::from_bits(1))), 0x44, &[1, 0, 0, 0]);
        check(Value::F64(f64::MAX), 0x48, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xef, 0x7f]);
        check(Value::Decimal(Decimal::from(-300)), 0x50, &[0xd4, 0xfe]);
        check(Value::VectorF32(vec![1.5].into()), 0xc4, &[0, 0, 0xc0, 0x3f]);
        check(Value::VectorF64(vec![1.5].into()), 0xc8, &[0, 0, 0, 0, 0, 0, 0xf8, 0x3f]);
        check(Value::Timestamp(Timestamp(0)), 0x60, &[]);
        check(Value::Timestamp(Timestamp(1)), 0x61, &[1]);
        check(Value::Timestamp(Timestamp(-1)), 0x61, &[0xff]);
        check(Value::Timestamp(Timestamp(i64::MAX)), 0x68, &[255, 255, 255, 255, 255, 255, 255, 127]);
    }

    #[test]
    fn every_width_round_trips() {
        for shift in 0..63 {
            for n in [1i64 << shift, (1 << shift) - 1, -(1 << shift), -(1 << shift) - 1] {
                for value in [Value::I64(n), Value::Timestamp(Timestamp(n))] {
                    let mut out = Vec::new();
                    let tag = encode_scalar(&value, &mut out).expect("small").expect("a scalar");
                    let decoded = decode_scalar(tag, &out).expect("canonical").expect("a scalar");
                    assert_eq!(decoded.to_value(), value);
                }
            }
        }
    }

    #[test]
    fn what_is_plain_at_a_glance_is_valid_at_a_closer_look() {
        let bytes = [0x00, 0x07, 0x08, 0x61, 0x7f, 0x80, 0xc0, 0xf0, 0xf7, 0xf8, 0xff];
        let mut payloads = vec![vec![]];
        for len in 1..=9 {
            for (first, last) in bytes.iter().flat_map(|first| bytes.iter().map(move |last| (*first, *last))) {
                for middle in [0x00, 0x61, 0x80, 0xff] {
                    let mut payload = vec![middle; len];
                    (payload[0], payload[len - 1]) = (first, last);
                    payloads.push(payload);
                }
            }
        }
        for tag in 0..=255 {
            for payload in &payloads {
                let valid = matches!(decode_scalar(tag, payload), Ok(Some(_)));
                assert!(valid || !is_plain(tag, payload), "{tag:#x} {payload:x?}");
                // Of these it must know all, or validation is slow.
                if matches!(tag, 0..=2 | 0x10..=0x1f | 0x21..=0x28 | 0x40 | 0x48) {
                    assert_eq!(is_plain(tag, payload), valid, "{tag:#x} {payload:x?}");
                }
            }
        }
    }
}
