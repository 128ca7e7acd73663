//! The column of one field: the values that all operations of a columnar batch set it to, by class.
//!
//! A class is what values are stored as: integers and timestamps as series, floats that are short decimals as series of
//! integers, text that spells a UUID as its sixteen bytes, text, bytes and containers in dictionaries. Where all values
//! are of one class, the classes are not written.

use super::heap::{Ids, Planes, Strings, put_ids, put_planes, put_strings};
use super::numbers::{Numbers, Series, put_numbers, put_series};
use crate::error::{DecodeError, DecodeErrorKind};
use crate::limits::{COLUMNS_CLASSES_MAX, COLUMNS_TABLE_MAX, DECIMAL_DIGITS_MAX};
use crate::reader::Reader;
use crate::row::RawField;
use crate::value::scalar::{TAG_ARRAY, TAG_MAP, TAG_VECTOR_32, TAG_VECTOR_64, decode_scalar, encode_scalar};
use crate::value::{Decimal, Timestamp, Uuid, Value, ValueRef};
use crate::writer::put_uvarint;

/// Numbers of the classes (spec/columns.md, Classes).
pub(crate) mod class {
    pub(crate) const NULL: u8 = 0;
    pub(crate) const FALSE: u8 = 1;
    pub(crate) const TRUE: u8 = 2;
    pub(crate) const INTEGER: u8 = 3;
    pub(crate) const UNSIGNED: u8 = 4;
    pub(crate) const FLOAT_SHORT: u8 = 5;
    pub(crate) const FLOAT_32: u8 = 6;
    pub(crate) const FLOAT_64: u8 = 7;
    pub(crate) const TIMESTAMP: u8 = 8;
    pub(crate) const UUID: u8 = 9;
    pub(crate) const UUID_TEXT: u8 = 10;
    pub(crate) const TEXT: u8 = 11;
    pub(crate) const BYTES: u8 = 12;
    pub(crate) const ARRAY: u8 = 13;
    pub(crate) const MAP: u8 = 14;
    pub(crate) const DECIMAL: u8 = 15;
    pub(crate) const DECIMAL_WIDE: u8 = 16;
    pub(crate) const VECTOR_32: u8 = 17;
    pub(crate) const VECTOR_64: u8 = 18;
    pub(crate) const COUNT: u8 = 19;
}

const TAG_TEXT: u8 = 0x80;
const TAG_BYTES: u8 = 0x90;
const TAG_UUID: u8 = 0x70;

/// Most places of a decimal (spec: K-10).
const PLACES_MAX: u8 = 6;

/// Greatest mantissa of a decimal. Below 2^50 no two decimals of as many places are one float, and the nearest integer
/// of the float times the power is the mantissa, so that the test below finds it if there is one.
const MANTISSA_MAX: f64 = (1u64 << 50) as f64;

/// More than the places of any decimal (spec: L-21).
const PLACES_BOUND: u64 = DECIMAL_DIGITS_MAX as u64 + 1;

fn ten_to(places: u8) -> f64 {
    [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6][usize::from(places.min(PLACES_MAX))]
}

/// Returns the integer that, divided by ten to the `places`, is exactly this float.
fn mantissa(x: f64, places: u8) -> Option<i64> {
    let power = ten_to(places);
    let nearest = (x * power).round();
    if nearest.is_nan() || nearest.abs() > MANTISSA_MAX {
        return None;
    }
    // By way of the integer, which has one zero: -0.0 is no decimal.
    let mantissa = nearest as i64;
    ((mantissa as f64 / power).to_bits() == x.to_bits()).then_some(mantissa)
}

/// Returns the least number of places in which this float is a decimal.
fn places_of(x: f64) -> Option<u8> {
    (0..=PLACES_MAX).find(|&places| mantissa(x, places).is_some())
}

/// Returns the bytes of a UUID if that is what the text spells, lower case, with hyphens.
fn uuid_of(text: &[u8]) -> Option<[u8; 16]> {
    let text: &[u8; 36] = text.try_into().ok()?;
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut uuid = [0; 16];
    let mut at = 0;
    for (index, slot) in uuid.iter_mut().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            if text[at] != b'-' {
                return None;
            }
            at += 1;
        }
        *slot = digit(text[at])? << 4 | digit(text[at + 1])?;
        at += 2;
    }
    Some(uuid)
}

/// Values that are being collected.
#[derive(Default)]
pub(super) struct ColumnBuilder<'a> {
    classes: Vec<u8>,
    /// The classes so far, all floats as one.
    mask: u32,
    integers: Vec<i64>,
    unsigned: Vec<[u8; 8]>,
    /// All floats; their classes are settled at the end.
    floats: Vec<f64>,
    timestamps: Vec<i64>,
    uuids: Vec<[u8; 16]>,
    uuid_texts: Vec<[u8; 16]>,
    /// Text, bytes, arrays, maps.
    strings: [Vec<&'a [u8]>; 4],
    /// Places and coefficients of decimals; of those whose coefficient is no `i64`, its bytes.
    decimals: (Vec<u64>, Vec<i64>),
    wide_decimals: (Vec<u64>, Vec<&'a [u8]>),
    /// Vectors of 32 and of 64 bits.
    vectors: [Vec<&'a [u8]>; 2],
}

impl<'a> ColumnBuilder<'a> {
    /// Adds the value of a field of a checked row; returns true if it is the first of its class, all floats being one.
    pub(super) fn push(&mut self, field: RawField<'a>) -> bool {
        // A checked row has no other tags.
        let scalar = decode_scalar(field.tag, field.payload).unwrap_or(Some(ValueRef::Null));
        let class = match scalar {
            None => self.string(if field.tag == TAG_ARRAY { class::ARRAY } else { class::MAP }, field.payload),
            Some(ValueRef::Bool(value)) => {
                if value {
                    class::TRUE
                } else {
                    class::FALSE
                }
            }
            Some(ValueRef::I64(n)) => {
                self.integers.push(n);
                class::INTEGER
            }
            Some(ValueRef::U64(n)) => {
                self.unsigned.push(n.to_le_bytes());
                class::UNSIGNED
            }
            Some(ValueRef::F64(x)) => {
                self.floats.push(x);
                class::FLOAT_SHORT
            }
            Some(ValueRef::Timestamp(Timestamp(micros))) => {
                self.timestamps.push(micros);
                class::TIMESTAMP
            }
            Some(ValueRef::Uuid(Uuid(bytes))) => {
                self.uuids.push(bytes);
                class::UUID
            }
            Some(ValueRef::Text(text)) => match uuid_of(text.as_bytes()) {
                Some(uuid) => {
                    self.uuid_texts.push(uuid);
                    class::UUID_TEXT
                }
                None => self.string(class::TEXT, field.payload),
            },
            Some(ValueRef::Bytes(_)) => self.string(class::BYTES, field.payload),
            Some(ValueRef::Decimal(decimal)) => self.decimal(decimal, field.payload),
            Some(ValueRef::VectorF32(vector)) => {
                self.vectors[0].push(vector.as_bytes());
                class::VECTOR_32
            }
            Some(ValueRef::VectorF64(vector)) => {
                self.vectors[1].push(vector.as_bytes());
                class::VECTOR_64
            }
            Some(_) => class::NULL,
        };
        self.classes.push(class);
        let before = self.mask;
        self.mask |= 1 << class;
        self.mask != before
    }

    fn decimal(&mut self, decimal: Decimal, payload: &'a [u8]) -> u8 {
        let places = decimal.places();
        match i64::try_from(decimal.coefficient()) {
            Ok(coefficient) => {
                self.decimals.0.push(places.into());
                self.decimals.1.push(coefficient);
                class::DECIMAL
            }
            Err(_) => {
                self.wide_decimals.0.push(places.into());
                self.wide_decimals.1.push(payload.get(decimal.digits_at()..).unwrap_or_default());
                class::DECIMAL_WIDE
            }
        }
    }

    fn string(&mut self, class: u8, payload: &'a [u8]) -> u8 {
        self.strings[usize::from(class - class::TEXT)].push(payload);
        class
    }

    /// Appends the column; returns the number of its classes.
    pub(super) fn finish(mut self, out: &mut Vec<u8>) -> usize {
        let places = self.floats.iter().filter_map(|&x| places_of(x)).max();
        let (mut decimals, mut floats_32, mut floats_64) = (Vec::new(), Vec::new(), Vec::new());
        let mut floats = self.floats.iter();
        for class in self.classes.iter_mut().filter(|class| **class == class::FLOAT_SHORT) {
            let x = *floats.next().expect("a float for each provisional class");
            if let Some(mantissa) = places.and_then(|places| mantissa(x, places)) {
                decimals.push(mantissa);
                continue;
            }
            let mut payload = Vec::new();
            let tag = encode_scalar(&Value::F64(x), &mut payload);
            debug_assert!(matches!(tag, Ok(Some(_))), "a float is a scalar");
            if let Ok(bytes) = payload.as_slice().try_into() {
                floats_32.push(bytes);
                *class = class::FLOAT_32;
            } else {
                floats_64.push(payload.as_slice().try_into().expect("a float has 0, 4 or 8 bytes, and 0 is a decimal"));
                *class = class::FLOAT_64;
            }
        }
        let mask = self.classes.iter().fold(0u64, |mask, &class| mask | 1 << class);
        put_uvarint(out, mask);
        if mask.count_ones() > 1 {
            put_numbers(out, &self.classes.iter().map(|&class| class.into()).collect::<Vec<u64>>());
        }
        for class in (0..class::COUNT).filter(|class| mask >> class & 1 == 1) {
            match class {
                class::NULL | class::FALSE | class::TRUE => {}
                class::INTEGER => put_series(out, &self.integers),
                class::UNSIGNED => put_planes(out, &self.unsigned),
                class::FLOAT_SHORT => {
                    out.push(places.expect("decimals have places"));
                    put_series(out, &decimals);
                }
                class::FLOAT_32 => put_planes::<4>(out, &floats_32),
                class::FLOAT_64 => put_planes::<8>(out, &floats_64),
                class::TIMESTAMP => put_series(out, &self.timestamps),
                class::UUID => put_ids(out, &self.uuids),
                class::UUID_TEXT => put_ids(out, &self.uuid_texts),
                class::DECIMAL => {
                    put_numbers(out, &self.decimals.0);
                    put_series(out, &self.decimals.1);
                }
                class::DECIMAL_WIDE => {
                    put_numbers(out, &self.wide_decimals.0);
                    put_strings(out, &self.wide_decimals.1);
                }
                class::VECTOR_32 => put_strings(out, &self.vectors[0]),
                class::VECTOR_64 => put_strings(out, &self.vectors[1]),
                _ => put_strings(out, &self.strings[usize::from(class - class::TEXT)]),
            }
        }
        mask.count_ones() as usize
    }
}

/// The values of one class.
enum Values<'a> {
    Nothing,
    Integers(Series<'a>),
    Unsigned(Planes<'a, 8>),
    ShortFloats(u8, Series<'a>),
    Floats32(Planes<'a, 4>),
    Floats64(Planes<'a, 8>),
    Ids(Ids<'a>),
    Strings(Strings<'a>),
    /// Places, coefficients.
    Decimals(Numbers<'a>, Series<'a>),
    WideDecimals(Numbers<'a>, Strings<'a>),
}

/// A column that is being read.
pub(super) struct Column<'a> {
    at: usize,
    mask: u32,
    seen: u32,
    /// None where all values are of one class.
    classes: Option<Numbers<'a>>,
    /// The values of the classes of the mask, ascending.
    values: Vec<Values<'a>>,
    /// Places of the decimals, and those that the floats seen so far ask for.
    places: Option<u8>,
    places_seen: Option<u8>,
}

// What a reader holds for the columns themselves is bounded by this sum (spec: L-20, L-22).
const _: () = assert!(
    COLUMNS_TABLE_MAX * size_of::<Column<'static>>() + COLUMNS_CLASSES_MAX * size_of::<Values<'static>>() <= 20 << 20
);

impl<'a> Column<'a> {
    /// Opens the next column; `classes` counts the classes of all columns so far.
    pub(super) fn read(reader: &mut Reader<'a>, classes: &mut usize) -> Result<Self, DecodeError> {
        let at = reader.offset();
        let given = reader.uvarint()?;
        // spec: K-9
        if given >> class::COUNT != 0 {
            let max = (1 << class::COUNT) - 1;
            return Err(DecodeError::new(at, DecodeErrorKind::OutOfRange { what: "classes", given, max }));
        }
        let mask = given as u32;
        *classes += mask.count_ones() as usize;
        // spec: L-22
        if *classes > COLUMNS_CLASSES_MAX {
            let (given, max) = (*classes as u64, COLUMNS_CLASSES_MAX as u64);
            return Err(DecodeError::new(at, DecodeErrorKind::Limit { what: "classes in columns", given, max }));
        }
        let classes = if mask.count_ones() > 1 { Some(Numbers::read(reader)?) } else { None };
        let mut values = Vec::with_capacity(mask.count_ones() as usize);
        let mut places = None;
        for class in (0..class::COUNT).filter(|class| mask >> class & 1 == 1) {
            let of_class = match class {
                class::NULL | class::FALSE | class::TRUE => Values::Nothing,
                class::INTEGER | class::TIMESTAMP => Values::Integers(Series::read(reader)?),
                class::UNSIGNED => Values::Unsigned(Planes::read(reader)?),
                class::FLOAT_SHORT => {
                    let at = reader.offset();
                    let given = reader.u8()?;
                    // spec: K-10
                    if given > PLACES_MAX {
                        let (given, max) = (given.into(), PLACES_MAX.into());
                        return Err(DecodeError::new(at, DecodeErrorKind::OutOfRange { what: "places", given, max }));
                    }
                    places = Some(given);
                    Values::ShortFloats(given, Series::read(reader)?)
                }
                class::FLOAT_32 => Values::Floats32(Planes::read(reader)?),
                class::FLOAT_64 => Values::Floats64(Planes::read(reader)?),
                class::UUID | class::UUID_TEXT => Values::Ids(Ids::read(reader)?),
                class::DECIMAL => Values::Decimals(Numbers::read(reader)?, Series::read(reader)?),
                class::DECIMAL_WIDE => Values::WideDecimals(Numbers::read(reader)?, Strings::read(reader)?),
                _ => Values::Strings(Strings::read(reader)?),
            };
            values.push(of_class);
        }
        Ok(Self { at, mask, seen: 0, classes, values, places, places_seen: None })
    }

    /// Appends the payload of the next value; returns its tag.
    pub(super) fn next(&mut self, heap: &mut Vec<u8>) -> Result<u8, DecodeError> {
        let class = match &mut self.classes {
            Some(classes) => classes.below(class::COUNT.into(), "class")? as u8,
            // The only class, or 32 where there are no values at all.
            None => self.mask.trailing_zeros() as u8,
        };
        let refuse = |rule| Err(DecodeError::new(self.at, DecodeErrorKind::NotCanonical(rule)));
        // spec: K-9
        let bit = 1u32.checked_shl(class.into()).unwrap_or(0);
        let index = (self.mask & bit.wrapping_sub(1)).count_ones() as usize;
        let Some(values) = self.values.get_mut(index).filter(|_| self.mask & bit != 0) else { return refuse("K-9") };
        self.seen |= bit;
        let value = match values {
            Values::Nothing => return Ok(class),
            Values::Integers(series) if class == class::TIMESTAMP => Value::Timestamp(Timestamp(series.next()?)),
            Values::Integers(series) => Value::I64(series.next()?),
            Values::Unsigned(planes) => {
                let n = u64::from_le_bytes(planes.next()?);
                // spec: K-9
                if i64::try_from(n).is_ok() {
                    return refuse("K-9");
                }
                Value::U64(n)
            }
            Values::ShortFloats(places, series) => {
                let n = series.next()?;
                let x = n as f64 / ten_to(*places);
                // spec: K-10
                if mantissa(x, *places) != Some(n) {
                    return refuse("K-10");
                }
                self.places_seen = self.places_seen.max(places_of(x));
                Value::F64(x)
            }
            Values::Floats32(planes) => {
                let bytes = planes.next()?;
                heap.extend_from_slice(&bytes);
                return self.float(f32::from_le_bytes(bytes).into(), 0x44);
            }
            Values::Floats64(planes) => {
                let bytes = planes.next()?;
                heap.extend_from_slice(&bytes);
                return self.float(f64::from_le_bytes(bytes), 0x48);
            }
            Values::Ids(ids) => {
                let uuid = ids.next()?;
                if class == class::UUID {
                    heap.extend_from_slice(&uuid);
                    return Ok(TAG_UUID);
                }
                Value::Text(Uuid(uuid).to_string())
            }
            Values::Strings(strings) => {
                let string = strings.next()?;
                // spec: K-9
                if class == class::TEXT && uuid_of(string).is_some() {
                    return refuse("K-9");
                }
                heap.extend_from_slice(string);
                return Ok(match class {
                    class::TEXT => TAG_TEXT,
                    class::BYTES => TAG_BYTES,
                    class::ARRAY => TAG_ARRAY,
                    class::MAP => TAG_MAP,
                    class::VECTOR_32 => TAG_VECTOR_32,
                    _ => TAG_VECTOR_64,
                });
            }
            // A number that could be said with fewer places is refused, not mended. spec: K-9
            Values::Decimals(places, series) => {
                let (places, n) = (places.below(PLACES_BOUND, "decimal places")? as u8, series.next()?.into());
                match Decimal::new(n, places) {
                    Ok(decimal) if decimal.coefficient() == n && decimal.places() == places => Value::Decimal(decimal),
                    _ => return refuse("K-9"),
                }
            }
            Values::WideDecimals(places, strings) => {
                let places = places.below(PLACES_BOUND, "decimal places")? as u8;
                match Decimal::from_digits(strings.next()?, places) {
                    Some(decimal) if i64::try_from(decimal.coefficient()).is_err() => Value::Decimal(decimal),
                    _ => return refuse("K-9"),
                }
            }
        };
        match encode_scalar(&value, heap) {
            Ok(Some(tag)) => Ok(tag),
            _ => refuse("K-9"),
        }
    }

    /// Looks at a float that is not stored as a decimal (spec: K-10).
    fn float(&mut self, x: f64, tag: u8) -> Result<u8, DecodeError> {
        if self.places.is_some_and(|places| mantissa(x, places).is_some()) {
            return Err(DecodeError::new(self.at, DecodeErrorKind::NotCanonical("K-10")));
        }
        self.places_seen = self.places_seen.max(places_of(x));
        Ok(tag)
    }

    /// Checks that all was read and that nothing could have been written otherwise.
    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        let refuse = |rule| Err(DecodeError::new(self.at, DecodeErrorKind::NotCanonical(rule)));
        if let Some(classes) = &self.classes {
            classes.finish()?;
        }
        for values in &self.values {
            match values {
                Values::Nothing => {}
                Values::Integers(series) | Values::ShortFloats(_, series) => series.finish()?,
                Values::Decimals(places, series) => {
                    places.finish()?;
                    series.finish()?;
                }
                Values::WideDecimals(places, strings) => {
                    places.finish()?;
                    strings.finish()?;
                }
                Values::Unsigned(planes) | Values::Floats64(planes) => planes.finish()?,
                Values::Floats32(planes) => planes.finish()?,
                Values::Ids(ids) => ids.finish()?,
                Values::Strings(strings) => strings.finish()?,
            }
        }
        // spec: K-9
        if self.seen != self.mask {
            return refuse("K-9");
        }
        // spec: K-10
        if self.places_seen != self.places {
            return refuse("K-10");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: K-10
    #[test]
    fn short_decimals_are_told_from_floats() {
        for (x, places) in [
            (0.0, Some(0)),
            (-3.0, Some(0)),
            (0.1, Some(1)),
            (99.99, Some(2)),
            (-0.000_001, Some(6)),
            (1e15, Some(0)),
            (-0.0, None),
            (1e16, None),
            (0.1 + 0.2, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
            (f64::from(0.1f32), None),
            (1.0 / 3.0, None),
        ] {
            assert_eq!(places_of(x), places, "{x}");
        }
        assert_eq!(mantissa(99.99, 2), Some(9999));
        assert_eq!(mantissa(99.99, 3), Some(99_990));
        assert_eq!(mantissa(99.99, 1), None);
    }

    #[test]
    fn only_the_canonical_spelling_is_a_uuid() {
        let text = "0190a0b0-1234-7abc-8def-0123456789ab";
        let bytes = uuid_of(text.as_bytes()).expect("a UUID");
        assert_eq!(Uuid(bytes).to_string(), text);
        for other in [
            "0190A0b0-1234-7abc-8def-0123456789ab",
            "0190a0b0-1234-7abc-8def-0123456789a",
            "0190a0b001234-7abc-8def-0123456789ab",
        ] {
            assert_eq!(uuid_of(other.as_bytes()), None);
        }
    }
}
