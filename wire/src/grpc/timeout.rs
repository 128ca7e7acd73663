//! `grpc-timeout`: one to eight digits and a unit (spec: G-7).

use std::time::Duration;

/// Most digits a timeout may have.
const DIGITS_MAX: usize = 8;
const VALUE_MAX: u128 = 99_999_999;

/// Nanoseconds per unit, finest first.
const UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60 * 1_000_000_000),
    (b'H', 3_600 * 1_000_000_000),
];

/// Reads a `grpc-timeout`; nothing if it is misshapen.
pub fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'n' => Duration::from_nanos(count),
        b'u' => Duration::from_micros(count),
        b'm' => Duration::from_millis(count),
        b'S' => Duration::from_secs(count),
        b'M' => Duration::from_secs(count * 60),
        b'H' => Duration::from_secs(count * 3_600),
        _ => return None,
    })
}

/// Writes a `grpc-timeout` in the finest unit that eight digits can hold, rounded up.
pub fn format_timeout(timeout: Duration) -> String {
    let nanos = timeout.as_nanos();
    for (unit, per) in UNITS {
        let count = nanos.div_ceil(per);
        if count <= VALUE_MAX {
            return format!("{count}{}", char::from(unit));
        }
    }
    format!("{VALUE_MAX}H")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parses() {
        let check = |value: &str, want: Option<Duration>| {
            assert_eq!(parse_timeout(value.as_bytes()), want, "{value}");
        };
        check("1S", Some(Duration::from_secs(1)));
        check("99999999n", Some(Duration::from_nanos(99_999_999)));
        check("7u", Some(Duration::from_micros(7)));
        check("250m", Some(Duration::from_millis(250)));
        check("3M", Some(Duration::from_secs(180)));
        check("99999999H", Some(Duration::from_secs(99_999_999 * 3_600)));
        check("0S", Some(Duration::ZERO));
        for bad in ["", "S", "1", "1s", "100000000S", "-1S", "+1S", " 1S", "1 S", "1.5S"] {
            check(bad, None);
        }
    }

    #[test]
    fn formats() {
        let check = |timeout: Duration, want: &str| assert_eq!(format_timeout(timeout), want);
        check(Duration::ZERO, "0n");
        check(Duration::from_millis(99), "99000000n");
        check(Duration::from_secs(10), "10000000u");
        check(Duration::from_secs(100_000), "100000S");
        check(Duration::MAX, "99999999H");
    }

    proptest! {
        #[test]
        fn never_shorter_and_never_much_longer(nanos in 0u64..u64::MAX) {
            let timeout = Duration::from_nanos(nanos);
            let back = parse_timeout(format_timeout(timeout).as_bytes()).unwrap();
            prop_assert!(back >= timeout);
            // A unit is left only when 99,999,999 of it are too few, and the next is at most 1,000 times as large.
            prop_assert!((back - timeout).as_nanos() * 99_999 <= timeout.as_nanos());
        }
    }
}
