//! Streams of numbers: runs and differences.
//!
//! `Numbers` is the one way in which a sequence of unsigned numbers is written: groups, each a run of one number or a
//! list. `Series` puts signed numbers into it, as they are or as differences, whichever is shorter. Both have one
//! encoding for one sequence, checked while it is read, a number at a time: a run of a billion costs a reader nothing
//! until somebody asks for the numbers.

use crate::error::{DecodeError, DecodeErrorKind};
use crate::limits::FRAME_BODY_BYTES_MAX;
use crate::reader::Reader;
use crate::writer::{put_prefixed, put_uvarint, uvarint_len};

/// From this many equal neighbours on they are written as a run (spec: K-3).
pub(super) const RUN_MIN: u8 = 4;

/// The greatest power of 1,000 by which a series is divided (spec: K-6).
const UNIT_MAX: u8 = 2;

/// Maps small numbers of both signs to small unsigned ones.
pub(super) const fn zigzag(n: i64) -> u64 {
    (n.cast_unsigned() << 1) ^ (n >> 63).cast_unsigned()
}

pub(super) const fn unzigzag(n: u64) -> i64 {
    (n >> 1).cast_signed() ^ -((n & 1).cast_signed())
}

/// Appends length and groups of a stream; nothing but the length if all numbers are zero.
pub(super) fn put_numbers(out: &mut Vec<u8>, numbers: &[u64]) {
    let mut groups = Vec::new();
    if numbers.iter().any(|&number| number != 0) {
        let mut list_at = 0;
        let mut at = 0;
        while let Some(&number) = numbers.get(at) {
            let run = numbers[at..].iter().take_while(|&&next| next == number).count();
            if run >= RUN_MIN.into() {
                put_list(&mut groups, &numbers[list_at..at]);
                put_uvarint(&mut groups, (run as u64) << 1 | 1);
                put_uvarint(&mut groups, number);
                list_at = at + run;
            }
            at += run;
        }
        put_list(&mut groups, &numbers[list_at..]);
    }
    put_prefixed(out, &groups);
}

fn put_list(out: &mut Vec<u8>, list: &[u64]) {
    if !list.is_empty() {
        put_uvarint(out, (list.len() as u64) << 1);
        list.iter().for_each(|&number| put_uvarint(out, number));
    }
}

/// What the group before was.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    None,
    List,
    Run,
}

/// A stream that is being read.
pub(super) struct Numbers<'a> {
    reader: Reader<'a>,
    group: Group,
    /// Numbers left in the present group.
    left: u64,
    last: u64,
    /// How many times `last` came in a row, in lists; less than `RUN_MIN`.
    streak: u8,
    /// A stream of zeros has no bytes (spec: K-2).
    absent: bool,
    any: bool,
}

impl<'a> Numbers<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let len = reader.count(FRAME_BODY_BYTES_MAX, 1, "stream bytes")?;
        let at = reader.offset();
        Ok(Self::new(reader.bytes(len)?, at))
    }

    pub(super) const fn new(bytes: &'a [u8], at: usize) -> Self {
        Self {
            reader: Reader::with_offset(bytes, at),
            group: Group::None,
            left: 0,
            last: 0,
            streak: 0,
            absent: bytes.is_empty(),
            any: false,
        }
    }

    #[inline]
    pub(super) fn next(&mut self) -> Result<u64, DecodeError> {
        if self.absent {
            return Ok(0);
        }
        let refuse = |at, rule| Err(DecodeError::new(at, DecodeErrorKind::NotCanonical(rule)));
        let mut first = false;
        if self.left == 0 {
            let at = self.reader.offset();
            let head = self.reader.uvarint()?;
            self.left = head >> 1;
            first = self.group == Group::Run;
            if head & 1 == 1 {
                let number = self.reader.uvarint()?;
                // spec: K-3
                if self.left < RUN_MIN.into() || (self.group != Group::None && number == self.last) {
                    return refuse(at, "K-3");
                }
                (self.group, self.last) = (Group::Run, number);
                self.any |= number != 0;
            } else {
                // spec: K-3
                if self.left == 0 || self.group == Group::List {
                    return refuse(at, "K-3");
                }
                self.streak = 0;
                self.group = Group::List;
            }
        }
        self.left -= 1;
        if self.group == Group::List {
            let at = self.reader.offset();
            let number = self.reader.uvarint()?;
            // spec: K-3
            if first && number == self.last {
                return refuse(at, "K-3");
            }
            self.streak = if number == self.last { self.streak + 1 } else { 1 };
            if self.streak >= RUN_MIN {
                return refuse(at, "K-3");
            }
            self.last = number;
            self.any |= number != 0;
        }
        Ok(self.last)
    }

    /// Reads a number that must be below `bound`.
    pub(super) fn below(&mut self, bound: u64, what: &'static str) -> Result<u64, DecodeError> {
        let at = self.reader.offset();
        match self.next()? {
            given if given < bound => Ok(given),
            given => {
                let max = bound.saturating_sub(1);
                Err(DecodeError::new(at, DecodeErrorKind::OutOfRange { what, given, max }))
            }
        }
    }

    /// Reads a signed difference to `before`; wraps.
    pub(super) fn step(&mut self, before: u64) -> Result<u64, DecodeError> {
        Ok(before.wrapping_add(unzigzag(self.next()?).cast_unsigned()))
    }

    pub(super) const fn offset(&self) -> usize {
        self.reader.offset()
    }

    /// Checks that the stream has no more numbers (spec: K-1), and that it had to be there (spec: K-2).
    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        if self.left != 0 {
            return Err(self.reader.fail(DecodeErrorKind::NotCanonical("K-1")));
        }
        self.reader.finish()?;
        if !self.absent && !self.any {
            return Err(self.reader.fail(DecodeErrorKind::NotCanonical("K-2")));
        }
        Ok(())
    }
}

const fn power(unit: u8) -> i64 {
    match unit {
        0 => 1,
        1 => 1000,
        _ => 1_000_000,
    }
}

/// Returns the greatest unit that divides `n`, at most `most`.
const fn unit_of(n: i64, most: u8) -> u8 {
    let mut unit = most;
    while unit > 0 && n % power(unit) != 0 {
        unit -= 1;
    }
    unit
}

/// Appends a series: its mode, then the numbers.
pub(super) fn put_series(out: &mut Vec<u8>, series: &[i64]) {
    let unit = series.iter().fold(UNIT_MAX, |unit, &n| unit_of(n, unit));
    let plain: Vec<u64> = series.iter().map(|&n| zigzag(n / power(unit))).collect();
    let mut before = 0i64;
    let steps: Vec<u64> = series
        .iter()
        .map(|&n| {
            let n = n / power(unit);
            let step = n.wrapping_sub(before);
            before = n;
            zigzag(step)
        })
        .collect();
    let len = |numbers: &[u64]| numbers.iter().map(|&number| uvarint_len(number)).sum::<usize>();
    let differences = len(&steps) < len(&plain);
    out.push(unit << 1 | u8::from(differences));
    put_numbers(out, if differences { &steps } else { &plain });
}

/// A series that is being read.
pub(super) struct Series<'a> {
    numbers: Numbers<'a>,
    at: usize,
    differences: bool,
    unit: u8,
    /// The greatest unit that divides all numbers so far.
    unit_seen: u8,
    before: i64,
    /// Lengths of all numbers, written in either way.
    plain_len: u64,
    steps_len: u64,
}

impl<'a> Series<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let at = reader.offset();
        let mode = reader.u8()?;
        if mode >> 1 > UNIT_MAX {
            return Err(DecodeError::new(at, DecodeErrorKind::UnknownKind { kind: mode, rule: "K-6" }));
        }
        Ok(Self {
            numbers: Numbers::read(reader)?,
            at,
            differences: mode & 1 == 1,
            unit: mode >> 1,
            unit_seen: UNIT_MAX,
            before: 0,
            plain_len: 0,
            steps_len: 0,
        })
    }

    pub(super) fn next(&mut self) -> Result<i64, DecodeError> {
        let at = self.numbers.offset();
        let given = unzigzag(self.numbers.next()?);
        let n = if self.differences { self.before.wrapping_add(given) } else { given };
        self.plain_len += uvarint_len(zigzag(n)) as u64;
        self.steps_len += uvarint_len(zigzag(n.wrapping_sub(self.before))) as u64;
        self.before = n;
        let Some(n) = n.checked_mul(power(self.unit)) else {
            let kind = DecodeErrorKind::OutOfRange {
                what: "number of a series",
                given: n.unsigned_abs(),
                max: (i64::MAX / power(self.unit)).unsigned_abs(),
            };
            return Err(DecodeError::new(at, kind));
        };
        self.unit_seen = unit_of(n, self.unit_seen);
        Ok(n)
    }

    /// Checks that nothing is left, and that the mode is the one that a writer has to choose.
    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        self.numbers.finish()?;
        let refuse = |rule| Err(DecodeError::new(self.at, DecodeErrorKind::NotCanonical(rule)));
        // spec: K-6
        if self.unit_seen != self.unit {
            return refuse("K-6");
        }
        // spec: K-5
        if self.differences != (self.steps_len < self.plain_len) {
            return refuse("K-5");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(numbers: &[u64]) -> Vec<u8> {
        let mut out = Vec::new();
        put_numbers(&mut out, numbers);
        let mut stream = Numbers::read(&mut Reader::new(&out)).expect("whole");
        for &number in numbers {
            assert_eq!(stream.next(), Ok(number));
        }
        assert_eq!(stream.finish(), Ok(()));
        out
    }

    // spec: K-2, K-3
    #[test]
    fn runs_are_groups_and_zeros_are_nothing() {
        assert_eq!(round(&[]), [0]);
        assert_eq!(round(&[0; 1000]), [0]);
        assert_eq!(round(&[5, 5, 5]), [4, 6, 5, 5, 5]);
        assert_eq!(round(&[5; 4]), [2, 9, 5]);
        assert_eq!(round(&[1, 5, 5, 5, 5, 2, 2, 2]), [8, 2, 1, 9, 5, 6, 2, 2, 2]);
        assert_eq!(round(&[7, 7, 7, 7, 0, 0, 0, 0]), [4, 9, 7, 9, 0]);
    }

    // spec: K-1, K-2, K-3
    #[test]
    fn other_groups_are_refused() {
        let read = |bytes: &[u8], count: usize| {
            let mut stream = Numbers::new(bytes, 0);
            (0..count).try_for_each(|_| stream.next().map(|_| ()))?;
            stream.finish()
        };
        let refused = |bytes, count, rule| {
            let error = read(bytes, count).expect_err("not canonical");
            assert_eq!(error.kind, DecodeErrorKind::NotCanonical(rule), "{bytes:?}");
        };
        refused(&[7, 5], 3, "K-3");
        refused(&[0], 1, "K-3");
        refused(&[2, 1, 2, 2], 2, "K-3");
        refused(&[9, 5, 9, 5], 8, "K-3");
        refused(&[2, 5, 9, 5], 5, "K-3");
        refused(&[9, 5, 2, 5], 5, "K-3");
        refused(&[8, 5, 5, 5, 5], 4, "K-3");
        refused(&[9, 5], 3, "K-1");
        refused(&[9, 0], 4, "K-2");
        refused(&[2, 0], 1, "K-2");
        assert!(matches!(read(&[2, 1, 1], 1), Err(DecodeError { kind: DecodeErrorKind::TrailingBytes(1), .. })));
        assert!(matches!(read(&[2], 1), Err(DecodeError { kind: DecodeErrorKind::UnexpectedEnd { .. }, .. })));
    }

    fn round_series(series: &[i64]) -> Vec<u8> {
        let mut out = Vec::new();
        put_series(&mut out, series);
        let mut stream = Series::read(&mut Reader::new(&out)).expect("whole");
        for &n in series {
            assert_eq!(stream.next(), Ok(n));
        }
        assert_eq!(stream.finish(), Ok(()), "{series:?}");
        out
    }

    // spec: K-5, K-6
    #[test]
    fn series_take_the_shorter_mode_and_the_greatest_unit() {
        assert_eq!(round_series(&[1000, 1001, 1002])[0], 1);
        assert_eq!(round_series(&[5, -5, 5])[0], 0);
        assert_eq!(round_series(&[5000, -3000])[0], 2);
        assert_eq!(round_series(&[0, 1_700_000_000_000_000, 1_700_000_001_000_000])[0], 5);
        round_series(&[i64::MIN, i64::MAX, 0, i64::MIN]);
        for shift in 0..63 {
            round_series(&[1 << shift, -(1 << shift), (1 << shift) % 977 * 1000]);
        }
        // Wrong unit, wrong mode.
        for (bytes, rule) in [(&[0u8, 3, 2, 0xa0, 0x1f][..], "K-6"), (&[1, 3, 4, 10, 0], "K-5")] {
            let mut stream = Series::read(&mut Reader::new(bytes)).expect("whole");
            while stream.next().is_ok() {}
            assert_eq!(stream.finish().map_err(|error| error.kind), Err(DecodeErrorKind::NotCanonical(rule)));
        }
        assert!(Series::read(&mut Reader::new(&[6, 0])).is_err());
        let mut stream =
            Series::read(&mut Reader::new(&[2, 11, 2, 254, 255, 255, 255, 255, 255, 255, 255, 255, 1])).expect("whole");
        assert!(matches!(stream.next(), Err(DecodeError { kind: DecodeErrorKind::OutOfRange { .. }, .. })));
    }
}
