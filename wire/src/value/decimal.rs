//! `Decimal`: an exact decimal number, such as an amount of money.
//!
//! A decimal is a whole number, the coefficient, divided by a power of ten: 12.34 is 1234 and two places. It is kept in
//! lowest form, so that 1.0 and 1.00 are one value with one encoding. Merging, digests and indexes go by bytes, and two
//! encodings of one number would make two keys of one price. How many zeros a number is shown with is the business of
//! who shows it: `{:.2}` does. There is no negative zero, no infinity and no NaN.

use super::scalar::not_canonical;
use crate::error::{DecodeError, DecodeErrorKind};
use crate::limits::DECIMAL_DIGITS_MAX;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// Least number that has too many digits.
const TOO_LARGE: u128 = 10u128.pow(DECIMAL_DIGITS_MAX as u32);

/// From this many places on, a byte in the payload says how many.
const PLACES_LONG: u8 = 15;

/// An exact decimal number of at most 38 digits, of which at most 38 stand behind the point.
///
/// ```
/// use blazedb_wire::Decimal;
///
/// let price: Decimal = "12.50".parse()?;
/// assert_eq!(price, Decimal::new(125, 1)?);
/// assert_eq!(format!("{price}, {price:.2}"), "12.5, 12.50");
/// # Ok::<(), blazedb_wire::DecimalError>(())
/// ```
// Bytes instead of an i128: aligned to 16, every value would be half again as large. Aligned to 8, as other values are:
// they are moved as whole words.
#[repr(align(8))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Decimal {
    coefficient: [u8; 16],
    places: u8,
}

/// Why there is no such decimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecimalError {
    /// The text is not digits, a minus before them and a point among them.
    Syntax,
    /// More than 38 digits, or more than 38 of them behind the point.
    Range,
}

impl fmt::Display for DecimalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax => f.write_str("not a decimal number, such as -12.34"),
            Self::Range => {
                write!(f, "a decimal has at most {DECIMAL_DIGITS_MAX} digits, and as many places behind the point")
            }
        }
    }
}

impl std::error::Error for DecimalError {}

impl Decimal {
    /// Zero.
    pub const ZERO: Self = Self { coefficient: [0; 16], places: 0 };

    /// Returns `coefficient` divided by ten to the `places`.
    pub fn new(mut coefficient: i128, mut places: u8) -> Result<Self, DecimalError> {
        while places > 0 && coefficient % 10 == 0 {
            (coefficient, places) = if coefficient == 0 { (0, 0) } else { (coefficient / 10, places - 1) };
        }
        // spec: L-21
        if coefficient.unsigned_abs() >= TOO_LARGE || usize::from(places) > DECIMAL_DIGITS_MAX {
            return Err(DecimalError::Range);
        }
        Ok(Self { coefficient: coefficient.to_le_bytes(), places })
    }

    /// Returns the whole number that, divided by ten to the [`places`](Self::places), is this one.
    pub const fn coefficient(&self) -> i128 {
        i128::from_le_bytes(self.coefficient)
    }

    /// Returns how many digits there are behind the point, zeros at the end not counted.
    pub const fn places(&self) -> u8 {
        self.places
    }

    /// Returns how many bytes the coefficient's two's complement needs; zero needs none.
    fn width(&self) -> usize {
        let n = self.coefficient();
        let bits = 129 - (n ^ (n >> 127)).leading_zeros() as usize;
        if n == 0 { 0 } else { bits.div_ceil(8) }
    }

    /// Appends the payload and returns the info of the tag (spec: V-24).
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> u8 {
        let (places, digits) = self.payload();
        out.extend(places);
        out.extend_from_slice(digits);
        self.info()
    }

    /// Returns the payload: the byte that says the places, if there is one, and the coefficient.
    pub(crate) fn payload(&self) -> (Option<u8>, &[u8]) {
        ((self.digits_at() > 0).then_some(self.places), &self.coefficient[..self.width()])
    }

    /// Returns the info of the tag.
    pub(crate) fn info(&self) -> u8 {
        self.places.min(PLACES_LONG)
    }

    /// Checks and reads a payload (spec: V-24, L-21).
    pub(crate) fn decode(info: u8, payload: &[u8]) -> Result<Self, DecodeError> {
        let (places, digits) = match payload.split_first() {
            _ if info < PLACES_LONG => (info, payload),
            Some((&places, digits)) if places >= PLACES_LONG => (places, digits),
            Some(_) => return Err(not_canonical("V-24")),
            None => return Err(DecodeError::new(0, DecodeErrorKind::UnexpectedEnd { wanted: 1, left: 0 })),
        };
        let start = payload.len() - digits.len();
        if digits.len() > 16 {
            return Err(DecodeError::new(start + 16, DecodeErrorKind::TrailingBytes(digits.len() - 16)));
        }
        let limit = |what, given: usize| {
            let (given, max) = (given as u64, DECIMAL_DIGITS_MAX as u64);
            DecodeError::new(0, DecodeErrorKind::Limit { what, given, max })
        };
        if usize::from(places) > DECIMAL_DIGITS_MAX {
            return Err(limit("decimal places", places.into()));
        }
        if Self::extend(digits, places).coefficient().unsigned_abs() >= TOO_LARGE {
            return Err(limit("decimal digits", DECIMAL_DIGITS_MAX + 1));
        }
        Self::from_digits(digits, places).ok_or(not_canonical("V-24"))
    }

    /// Reads a coefficient and its places; none if they are not the shortest, or too large.
    pub(crate) fn from_digits(digits: &[u8], places: u8) -> Option<Self> {
        if digits.len() > 16 {
            return None;
        }
        let coefficient = Self::extend(digits, places).coefficient();
        let is_shortest = |found: &Self| found.places == places && found.width() == digits.len();
        Self::new(coefficient, places).ok().filter(is_shortest)
    }

    /// Returns where the coefficient begins in the payload.
    pub(crate) fn digits_at(&self) -> usize {
        usize::from(self.places >= PLACES_LONG)
    }

    /// Takes at most sixteen bytes of two's complement.
    fn extend(digits: &[u8], places: u8) -> Self {
        let sign = digits.last().map_or(0, |&byte| (byte as i8 >> 7) as u8);
        let mut coefficient = [sign; 16];
        coefficient[..digits.len()].copy_from_slice(digits);
        Self { coefficient, places }
    }

    /// Returns the places, then the coefficient: for formats that are not meant for people.
    pub(crate) fn pack(&self) -> Vec<u8> {
        [&[self.places], &self.coefficient[..self.width()]].concat()
    }

    /// Reads what [`pack`](Self::pack) wrote.
    pub(crate) fn unpack(packed: &[u8]) -> Option<Self> {
        let (&places, digits) = packed.split_first().filter(|(_, digits)| digits.len() <= 16)?;
        Self::new(Self::extend(digits, places).coefficient(), places).ok()
    }

    /// Returns what stands before the point, and what stands behind it as if it had 38 places.
    fn parts(&self) -> (i128, i128) {
        let power = 10i128.pow(self.places.into());
        let behind = self.coefficient() % power;
        (self.coefficient() / power, behind * 10i128.pow(DECIMAL_DIGITS_MAX as u32 - u32::from(self.places)))
    }
}

/// By magnitude.
impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        // Both parts have the sign of the whole.
        self.parts().cmp(&other.parts())
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Digits and, if there are places, a point. A precision adds zeros behind the point; it cuts nothing off.
impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = usize::from(self.places);
        let mut text = format!("{:0>1$}", self.coefficient().unsigned_abs(), places + 1);
        let zeros = f.precision().unwrap_or(0).saturating_sub(places);
        if places + zeros > 0 {
            text.insert(text.len() - places, '.');
            text.extend(std::iter::repeat_n('0', zeros));
        }
        // As a number is padded; a precision means something else there.
        if self.coefficient() < 0 {
            text.insert(0, '-');
        }
        match f.width() {
            Some(width) if text.len() < width => write!(f, "{text:>width$}"),
            _ => f.write_str(&text),
        }
    }
}

impl fmt::Debug for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Digits with at least one before a point and one behind it, with a minus before them if need be; no exponent.
impl FromStr for Decimal {
    type Err = DecimalError;

    fn from_str(text: &str) -> Result<Self, DecimalError> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        let (before, behind) = digits.split_once('.').unwrap_or((digits, "0"));
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(before) || !is_number(behind) {
            return Err(DecimalError::Syntax);
        }
        let behind = behind.trim_end_matches('0');
        let places = u8::try_from(behind.len()).map_err(|_| DecimalError::Range)?;
        let mut sum = 0u128;
        for digit in before.bytes().chain(behind.bytes()) {
            let next = sum.checked_mul(10).and_then(|sum| sum.checked_add((digit - b'0').into()));
            sum = next.filter(|&sum| sum < TOO_LARGE).ok_or(DecimalError::Range)?;
        }
        // Below 10^38, which an i128 holds.
        let sum = sum as i128;
        Self::new(if negative { -sum } else { sum }, places)
    }
}

macro_rules! from {
    ($($from:ty),*) => {$(
        impl From<$from> for Decimal {
            fn from(value: $from) -> Self {
                Self { coefficient: i128::from(value).to_le_bytes(), places: 0 }
            }
        }
    )*};
}

from!(i8, i16, i32, i64, u8, u16, u32, u64);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, tag: u8, payload: &[u8]) {
        let decimal: Decimal = text.parse().expect("a decimal");
        let mut out = Vec::new();
        assert_eq!(0x50 | decimal.encode(&mut out), tag, "{text}");
        assert_eq!(out, payload, "{text}");
        assert_eq!(Decimal::decode(tag & 15, &out), Ok(decimal), "{text}");
        assert_eq!(Decimal::unpack(&decimal.pack()), Some(decimal), "{text}");
        assert_eq!(decimal.to_string().parse(), Ok(decimal), "{text}");
    }

    // spec: V-24
    #[test]
    fn known_answers() {
        check("0", 0x50, &[]);
        check("-0.000", 0x50, &[]);
        check("1", 0x50, &[1]);
        check("1.00", 0x50, &[1]);
        check("10", 0x50, &[10]);
        check("-1", 0x50, &[0xff]);
        check("128", 0x50, &[128, 0]);
        check("12.34", 0x52, &[0xd2, 4]);
        check("-0.05", 0x52, &[0xfb]);
        check("0.00000000000001", 0x5e, &[1]);
        check("0.000000000000001", 0x5f, &[15, 1]);
        check(&format!("0.{}1", "0".repeat(37)), 0x5f, &[38, 1]);
        check(&"9".repeat(38), 0x50, &(TOO_LARGE - 1).to_le_bytes());
        check(&format!("-0.{}", "9".repeat(38)), 0x5f, &[&[38][..], &(1 - TOO_LARGE as i128).to_le_bytes()].concat());
    }

    // spec: L-21
    #[test]
    fn what_is_too_long_or_no_number_is_refused() {
        for text in ["", "-", ".", "1.", ".1", "+1", "1e3", "--1", " 1", "1 ", "0x1", "1,5", "1.2.3", "\u{663}"] {
            assert_eq!(text.parse::<Decimal>(), Err(DecimalError::Syntax), "{text:?}");
        }
        for text in [format!("1{}", "0".repeat(38)), format!("0.{}1", "0".repeat(38)), "7".repeat(300)] {
            assert_eq!(text.parse::<Decimal>(), Err(DecimalError::Range), "{text:?}");
        }
        assert_eq!(format!("1.{}", "0".repeat(300)).parse(), Ok(Decimal::from(1)));
        assert_eq!(Decimal::new(i128::MIN, 0), Err(DecimalError::Range));
        assert_eq!(Decimal::new(0, 255), Ok(Decimal::ZERO));
        assert_eq!(Decimal::new(10, 39), Decimal::new(1, 38));
        assert_eq!(Decimal::new(1, 39), Err(DecimalError::Range));
    }

    #[test]
    fn order_is_that_of_the_numbers() {
        let least = format!("-{}", "9".repeat(38));
        let tiny = format!("0.{}1", "0".repeat(37));
        let ascending = [&least, "-12.5", "-12.05", "-1", "-0.3", "0", &tiny, "0.29", "0.3", "1", "9.99", "10"];
        let numbers = ascending.map(|text| text.parse::<Decimal>().expect("a decimal"));
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    }

    #[test]
    fn precision_adds_zeros_and_cuts_nothing_off() {
        let show = |text: &str| format!("{:.2}", text.parse::<Decimal>().expect("a decimal"));
        assert_eq!([show("1"), show("-0.5"), show("1.005"), show("0")], ["1.00", "-0.50", "1.005", "0.00"]);
        assert_eq!(format!("{:7}", Decimal::from(-12)), "    -12");
    }
}
