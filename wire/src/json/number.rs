//! Numbers: from JSON text to a value without losing a digit, and from a float to its one text.
//!
//! A text is accepted when it is exactly an integer of the value domain, or when the shortest decimal that names
//! the nearest float equals it as a decimal number. Comparing goes digit by digit over the text, never through
//! big integers: the shortest decimal of a float has at most seventeen digits, so a text with more significant
//! digits than that cannot be equal and needs no arithmetic at all.

use std::fmt;
use std::io::Write;

use super::error::JsonErrorKind;
use crate::Value;

/// No float's shortest form has more significant digits.
const DIGITS_MAX: usize = 17;

/// Returns the value of a number whose text follows the JSON grammar. spec: J-10, J-11, J-12
pub(super) fn number_from_text(text: &str) -> Result<Value, JsonErrorKind> {
    let integer = !text.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E'));
    if integer && text != "-0" {
        if let Ok(number) = text.parse::<i64>() {
            return Ok(Value::I64(number));
        }
        if let Ok(number) = text.parse::<u64>() {
            return Ok(Value::U64(number));
        }
    }
    // The standard library's grammar of floats contains the whole of JSON's; its result is the nearest float.
    let Ok(float) = text.parse::<f64>() else {
        return Err(JsonErrorKind::BadNumber("it does not read as a number"));
    };
    let exact = float.is_finite()
        && Decimal::read(text.as_bytes())
            .is_some_and(|given| given == Decimal::shortest(float) || given == Decimal::shortest_even(float));
    match (exact, integer) {
        (true, _) => Ok(Value::F64(float)),
        (false, true) => Err(JsonErrorKind::IntegerOutOfRange { text: shortened(text) }),
        (false, false) if float.is_finite() => {
            Err(JsonErrorKind::NumberInexact { text: shortened(text), nearest: float })
        }
        (false, false) => Err(JsonErrorKind::NumberOutOfRange { text: shortened(text) }),
    }
}

/// Appends the one text of a finite float; it always holds a `.` or an `e`, so it never reads as an integer.
/// spec: J-31
pub(super) fn write_f64(float: f64, out: &mut Vec<u8>) {
    let decimal = Decimal::shortest_even(float);
    let digits = &decimal.digits[..decimal.len];
    if decimal.negative {
        out.push(b'-');
    }
    if digits.is_empty() {
        out.extend_from_slice(b"0.0");
        return;
    }
    // How many digits stand before the point; zero or less counts the zeros behind it.
    let point = digits.len() as i64 + decimal.exponent;
    match point {
        1..=16 => {
            let point = point as usize;
            if digits.len() > point {
                out.extend_from_slice(&digits[..point]);
                out.push(b'.');
                out.extend_from_slice(&digits[point..]);
            } else {
                out.extend_from_slice(digits);
                out.resize(out.len() + point - digits.len(), b'0');
                out.extend_from_slice(b".0");
            }
        }
        -4..=0 => {
            out.extend_from_slice(b"0.");
            out.resize(out.len() + point.unsigned_abs() as usize, b'0');
            out.extend_from_slice(digits);
        }
        _ => {
            out.push(digits[0]);
            if digits.len() > 1 {
                out.push(b'.');
                out.extend_from_slice(&digits[1..]);
            }
            out.push(b'e');
            out.extend_from_slice((point - 1).to_string().as_bytes());
        }
    }
}

/// A decimal number in normal form: `digits * 10^exponent`, no zero at either end of the digits; zero has none.
#[derive(Debug, PartialEq)]
struct Decimal {
    negative: bool,
    digits: [u8; DIGITS_MAX],
    len: usize,
    exponent: i64,
}

impl Decimal {
    /// Reads a number's text; `None` when it has more significant digits than any float's shortest form.
    fn read(text: &[u8]) -> Option<Self> {
        let mut decimal = Self { negative: false, digits: [0; DIGITS_MAX], len: 0, exponent: 0 };
        let mut zeros_held = 0;
        let mut behind_point = false;
        let mut bytes = text.iter();
        let mut written_exponent = 0;
        while let Some(&byte) = bytes.next() {
            match byte {
                b'-' => decimal.negative = true,
                b'.' => behind_point = true,
                b'e' | b'E' => {
                    written_exponent = read_exponent(bytes.as_slice());
                    break;
                }
                digit => {
                    decimal.exponent -= i64::from(behind_point);
                    if digit == b'0' {
                        zeros_held += usize::from(decimal.len > 0);
                        continue;
                    }
                    let end = decimal.len + zeros_held;
                    if end >= DIGITS_MAX {
                        return None;
                    }
                    decimal.digits[decimal.len..end].fill(b'0');
                    decimal.digits[end] = digit;
                    decimal.len = end + 1;
                    zeros_held = 0;
                }
            }
        }
        if decimal.len == 0 {
            decimal.exponent = 0;
        } else {
            decimal.exponent = (decimal.exponent + zeros_held as i64).saturating_add(written_exponent);
        }
        Some(decimal)
    }

    /// The shortest decimal that reads back as `float`, which must be finite, and of those the nearest; where two are
    /// equally near, the one that the standard library happens to choose.
    fn shortest(float: f64) -> Self {
        Self::print(format_args!("{float:e}"))
    }

    /// As [`shortest`](Self::shortest), but where two are equally near, the one with the even last digit. That is
    /// what JavaScript, Python and serde_json write: for 1888570120608320.25 the text ends in .2, where the
    /// standard library of Rust writes .3.
    fn shortest_even(float: f64) -> Self {
        let shortest = Self::shortest(float);
        // Two decimals of up to 15 digits never share a float, so neither of them can be a second choice.
        if shortest.len <= f64::DIGITS as usize {
            return shortest;
        }
        let digits_behind_first = shortest.len - 1;
        let even = Self::print(format_args!("{float:.digits_behind_first$e}"));
        // Next to a power of two the nearest decimal of that length can belong to the neighbouring float.
        if even.to_f64() == float { even } else { shortest }
    }

    fn print(text: fmt::Arguments<'_>) -> Self {
        let mut buffer = [0; 32];
        let mut rest = &mut buffer[..];
        rest.write_fmt(text).expect("sign, 17 digits, point and exponent fit in 32 bytes");
        let unused = rest.len();
        let used = buffer.len() - unused;
        Self::read(&buffer[..used]).expect("a float's shortest form has at most 17 digits")
    }

    fn to_f64(&self) -> f64 {
        let mut buffer = [0; 48];
        let mut rest = &mut buffer[..];
        let sign = if self.negative { "-" } else { "" };
        let digits = str::from_utf8(&self.digits[..self.len]).expect("digits are ASCII");
        write!(rest, "{sign}0{digits}e{}", self.exponent).expect("sign, 18 digits and exponent fit in 48 bytes");
        let unused = rest.len();
        let used = buffer.len() - unused;
        str::from_utf8(&buffer[..used]).ok().and_then(|text| text.parse().ok()).expect("the text of a number")
    }
}

/// Reads `[+-]digits`, holding on to the far end instead of overflowing.
fn read_exponent(text: &[u8]) -> i64 {
    let negative = text.first() == Some(&b'-');
    let exponent = text
        .iter()
        .filter(|byte| byte.is_ascii_digit())
        .fold(0i64, |sum, digit| sum.saturating_mul(10).saturating_add(i64::from(digit - b'0')));
    if negative { -exponent } else { exponent }
}

/// The head of a number's text, for an error that a person reads.
fn shortened(text: &str) -> String {
    const SHOWN_BYTES_MAX: usize = 48;
    match text.get(..SHOWN_BYTES_MAX) {
        Some(head) if text.len() > SHOWN_BYTES_MAX => format!("{head}..."),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(float: f64) -> String {
        let mut out = Vec::new();
        write_f64(float, &mut out);
        String::from_utf8(out).expect("ascii")
    }

    // spec: J-31
    #[test]
    fn floats_have_one_text() {
        let known = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (100.0, "100.0"),
            (1e15, "1000000000000000.0"),
            (9007199254740993.0, "9007199254740992.0"),
            (1e16, "1e16"),
            (1.2345e17, "1.2345e17"),
            (1e20, "1e20"),
            (1e-5, "0.00001"),
            (1.5e-5, "0.000015"),
            (1e-6, "1e-6"),
            (1.25e-7, "1.25e-7"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e308"),
            (0.30000000000000004, "0.30000000000000004"),
            (123456.789, "123456.789"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
        ];
        for (float, wanted) in known {
            assert_eq!(written(float), wanted);
            let back = wanted.parse::<f64>().expect("a float");
            assert_eq!(back.to_bits(), float.to_bits(), "{wanted}");
        }
    }

    // spec: J-10, J-31
    #[test]
    fn of_two_shortest_forms_both_are_read_and_the_even_one_is_written() {
        let tie = 7_554_280_482_433_281_u64 as f64 / 4.0;
        assert_eq!(format!("{tie:?}"), "1888570120608320.3", "the reason for this test");
        assert_eq!(written(tie), "1888570120608320.2");
        for text in ["1888570120608320.2", "1888570120608320.3"] {
            assert_eq!(number_from_text(text), Ok(Value::F64(tie)));
        }
        for text in ["1888570120608320.1", "1888570120608320.25", "1888570120608320.4"] {
            assert!(number_from_text(text).is_err(), "{text}");
        }
        // 2^-44: the nearest decimal of its length reads as the float below.
        assert_eq!(written(f64::from_bits(0x3d30_0000_0000_0000)), "5.684341886080802e-14");
    }

    #[test]
    fn float_text_agrees_with_serde_json() {
        let mut bits = 1u64;
        for _ in 0..200_000 {
            // A full-period walk over 64 bits: every exponent and many digit counts turn up.
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let float = f64::from_bits(bits);
            let plain = f64::from((bits >> 40) as u32) / 1000.0;
            for float in [float, plain] {
                if float.is_finite() {
                    let text = written(float);
                    assert_eq!(text, serde_json::to_string(&float).expect("finite").replace("e+", "e"));
                    assert_eq!(number_from_text(&text), Ok(Value::F64(float)), "{text}");
                }
            }
        }
    }
}
