//! The total order of values: by type, in the order of the type tags, then by value.

use super::Value;
use std::cmp::Ordering;

impl Value {
    /// Returns the rank of the type; all integers share one.
    const fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Bool(_) => 1,
            Self::I64(_) | Self::U64(_) => 2,
            Self::F64(_) => 3,
            Self::Decimal(_) => 4,
            Self::Timestamp(_) => 5,
            Self::Uuid(_) => 6,
            Self::Text(_) => 7,
            Self::Bytes(_) => 8,
            Self::Array(_) => 9,
            Self::Map(_) => 10,
            Self::VectorF32(_) => 11,
            Self::VectorF64(_) => 12,
        }
    }

    /// Compares two values: by type, then by value.
    ///
    /// Types ascend as null, booleans, integers, floats, decimals, timestamps, UUIDs, text, bytes, arrays, maps, vectors
    /// of `f32`, vectors of `f64`. An integer is never compared with a float or a decimal by magnitude: this is the order
    /// of the format, not of a query. NaN is the greatest float and -0.0 is below 0.0. Arrays, maps and vectors compare
    /// item by item, a prefix is less.
    pub fn total_cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::I64(a), Self::I64(b)) => a.cmp(b),
            (Self::U64(a), Self::U64(b)) => a.cmp(b),
            (Self::I64(a), Self::U64(b)) => i128::from(*a).cmp(&i128::from(*b)),
            (Self::U64(a), Self::I64(b)) => i128::from(*a).cmp(&i128::from(*b)),
            (Self::F64(a), Self::F64(b)) => canonical_float(*a).total_cmp(&canonical_float(*b)),
            (Self::Decimal(a), Self::Decimal(b)) => a.cmp(b),
            (Self::Timestamp(a), Self::Timestamp(b)) => a.cmp(b),
            (Self::Uuid(a), Self::Uuid(b)) => a.cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Bytes(a), Self::Bytes(b)) => a.cmp(b),
            (Self::Array(a), Self::Array(b)) => a.cmp(b),
            (Self::Map(a), Self::Map(b)) => a.cmp(b),
            (Self::VectorF32(a), Self::VectorF32(b)) => a.cmp(b),
            (Self::VectorF64(a), Self::VectorF64(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

/// Returns the float with the one NaN that the format knows.
pub(crate) const fn canonical_float(value: f64) -> f64 {
    if value.is_nan() { f64::from_bits(0x7ff8_0000_0000_0000) } else { value }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.total_cmp(other) == Ordering::Equal
    }
}

impl Eq for Value {}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Value {
    fn cmp(&self, other: &Self) -> Ordering {
        self.total_cmp(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_total_and_by_type() {
        let ascending = [
            Value::Null,
            Value::Bool(false),
            Value::Bool(true),
            Value::I64(i64::MIN),
            Value::I64(-1),
            Value::U64(3),
            Value::I64(i64::MAX),
            Value::U64(u64::MAX),
            Value::F64(f64::NEG_INFINITY),
            Value::F64(-0.0),
            Value::F64(0.0),
            Value::F64(f64::INFINITY),
            Value::F64(f64::NAN),
            Value::Decimal(super::super::Decimal::from(-1)),
            Value::Decimal(super::super::Decimal::new(5, 1).expect("small")),
            Value::Timestamp(super::super::Timestamp(-1)),
            Value::Text(String::new()),
            Value::Text("a".into()),
            Value::Bytes(vec![]),
            Value::Array(vec![]),
            Value::Array(vec![Value::Null]),
            Value::Map(super::super::Document::new()),
            Value::VectorF32(super::super::Vector(vec![])),
            Value::VectorF32(super::super::Vector(vec![f32::NAN])),
            Value::VectorF64(super::super::Vector(vec![0.0])),
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(a.cmp(b), i.cmp(&j), "{a:?} {b:?}");
            }
        }
        assert_eq!(Value::U64(7), Value::I64(7));
        assert_eq!(Value::F64(-f64::NAN), Value::F64(f64::NAN));
    }
}
