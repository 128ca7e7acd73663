//! Microseconds since 1970 as RFC 3339 text in UTC, and back.
//!
//! One instant has one text: `2024-02-29T12:30:00Z`, with exactly six digits of a second's fraction when that is
//! not zero. RFC 3339 stops at the years 0000 and 9999; an i64 of microseconds goes on to about 290,000 years on
//! both sides, and those years are written as ISO 8601 does it, with a sign and six digits (`+010000-01-01T...`).
//! Days are those of the proleptic Gregorian calendar; there are no leap seconds. Reading is as strict as writing,
//! except that any offset from UTC, one to six digits of fraction, and a lower-case `t` or `z` are understood.

const SECOND: i64 = 1_000_000;
const DAY_SECONDS: i64 = 86_400;

/// Appends the text of the instant `micros`.
pub(crate) fn write_rfc3339(micros: i64, out: &mut Vec<u8>) {
    let seconds = micros.div_euclid(SECOND);
    let fraction = micros.rem_euclid(SECOND);
    let (year, month, day) = civil_from_days(seconds.div_euclid(DAY_SECONDS));
    let second = seconds.rem_euclid(DAY_SECONDS);
    let year = if (0..=9999).contains(&year) { format!("{year:04}") } else { format!("{year:+07}") };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    out.extend_from_slice(format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}").as_bytes());
    if fraction != 0 {
        out.extend_from_slice(format!(".{fraction:06}").as_bytes());
    }
    out.push(b'Z');
}

/// Returns the instant that `text` names, or `None` when it names none or one finer than a microsecond.
pub(crate) fn parse_rfc3339(text: &str) -> Option<i64> {
    let mut text = text.as_bytes();
    let year = match text.first()? {
        sign @ (b'+' | b'-') => {
            text = &text[1..];
            let year = digits(&mut text, 6)?;
            if *sign == b'-' { -year } else { year }
        }
        _ => digits(&mut text, 4)?,
    };
    literal(&mut text, b"-")?;
    let month = digits(&mut text, 2)?;
    literal(&mut text, b"-")?;
    let day = digits(&mut text, 2)?;
    literal(&mut text, b"Tt")?;
    let hour = digits(&mut text, 2)?;
    literal(&mut text, b":")?;
    let minute = digits(&mut text, 2)?;
    literal(&mut text, b":")?;
    let second = digits(&mut text, 2)?;
    let mut fraction = 0;
    if text.first() == Some(&b'.') {
        text = &text[1..];
        let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !(1..=6).contains(&count) {
            return None;
        }
        fraction = digits(&mut text, count)? * 10_i64.pow(6 - count as u32);
    }
    let offset = match literal(&mut text, b"Zz+-")? {
        sign @ (b'+' | b'-') => {
            let hours = digits(&mut text, 2)?;
            literal(&mut text, b":")?;
            let minutes = digits(&mut text, 2)?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = hours * 3600 + minutes * 60;
            if sign == b'-' { -offset } else { offset }
        }
        _ => 0,
    };
    let sound = text.is_empty() && (1..=12).contains(&month) && hour < 24 && minute < 60 && second < 60;
    if !sound || !(1..=days_in_month(year, month)).contains(&day) {
        return None;
    }
    let seconds = days_from_civil(year, month, day) * DAY_SECONDS + hour * 3600 + minute * 60 + second - offset;
    // The first instants of all lie before the first whole second of an i64, hence the wider sum.
    i64::try_from(i128::from(seconds) * i128::from(SECOND) + i128::from(fraction)).ok()
}

fn digits(text: &mut &[u8], count: usize) -> Option<i64> {
    let (head, rest) = text.split_at_checked(count)?;
    *text = rest;
    head.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}

fn literal(text: &mut &[u8], any_of: &[u8]) -> Option<u8> {
    let (&byte, rest) = text.split_first()?;
    *text = rest;
    any_of.contains(&byte).then_some(byte)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01, counted in eras of 400 years that begin in March, so that leap days come last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(micros: i64) -> String {
        let mut out = Vec::new();
        write_rfc3339(micros, &mut out);
        String::from_utf8(out).expect("digits and signs")
    }

    #[test]
    fn known_instants() {
        let known = [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00Z"),
            (1_709_209_800_000_001, "2024-02-29T12:30:00.000001Z"),
            (253_402_300_800_000_000, "+010000-01-01T00:00:00Z"),
            (-62_167_219_200_000_000, "0000-01-01T00:00:00Z"),
            (-62_167_219_200_000_001, "-000001-12-31T23:59:59.999999Z"),
            (i64::MAX, "+294247-01-10T04:00:54.775807Z"),
            (i64::MIN, "-290308-12-21T19:59:05.224192Z"),
        ];
        for (micros, wanted) in known {
            assert_eq!(text(micros), wanted);
            assert_eq!(parse_rfc3339(wanted), Some(micros), "{wanted}");
        }
    }

    #[test]
    fn every_day_of_eight_centuries_returns() {
        let mut micros = parse_rfc3339("1599-12-31T23:59:59Z").expect("an instant");
        while micros < parse_rfc3339("2401-01-02T00:00:00Z").expect("an instant") {
            assert_eq!(parse_rfc3339(&text(micros)), Some(micros));
            micros += DAY_SECONDS * SECOND;
        }
    }

    #[test]
    fn offsets_and_short_fractions_are_understood() {
        assert_eq!(parse_rfc3339("1970-01-01T01:30:00+01:30"), Some(0));
        assert_eq!(parse_rfc3339("1969-12-31t23:00:00.5-01:00"), Some(500_000));
    }

    #[test]
    fn everything_else_is_refused() {
        let wrong = [
            "",
            "1970",
            "1970-01-01",
            "1970-01-01 00:00:00Z",
            "1970-01-01T00:00:00",
            "1970-01-01T00:00:00ZZ",
            "1970-13-01T00:00:00Z",
            "1970-02-29T00:00:00Z",
            "1970-01-00T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:60:00Z",
            "1970-01-01T00:00:60Z",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00.1234567Z",
            "1970-01-01T00:00:00+24:00",
            "+999999-01-01T00:00:00Z",
            "1970-01-01T00:00:0xZ",
            "70-01-01T00:00:00Z",
        ];
        for text in wrong {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }
}
