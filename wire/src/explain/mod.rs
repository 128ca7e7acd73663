//! What each byte of an encoding means: for people who look at bytes, by `blazedb dump --hex`.
//!
//! Parts come one after another, in the order of the bytes, and cover them all: what is not understood is a part that
//! says so. Nothing is judged here; whether bytes are accepted, the decoders say, which share no code with this but the
//! reader and the scalars. Hostile bytes make odd parts, never a panic; nothing is kept but the table of a container.

mod columns;
mod frames;
mod rule;
mod values;

pub use rule::rule;

use std::fmt::{self, Write as _};

use crate::error::{DecodeError, DecodeErrorKind};
use crate::reader::Reader;
use crate::{Batch, Columns, Envelope, Frame, RowRef, Shape, ValueRef};
use bytes::Bytes;

/// Longest meaning, in characters: one line of a terminal.
const MEANING_CHARS_MAX: usize = 100;

/// A few bytes and what they mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Where they begin.
    pub offset: usize,
    /// The bytes.
    pub bytes: &'a [u8],
    /// How many things they lie in.
    pub depth: usize,
    /// They were compressed: offsets count from the start of the body that was inflated.
    pub inflated: bool,
    /// What they mean.
    pub meaning: String,
}

/// What bytes are an encoding of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// A frame (spec/frame.md).
    Frame,
    /// A batch body (spec/op.md).
    Batch,
    /// An envelope (spec/frame.md).
    Envelope,
    /// A columnar batch (spec/columns.md).
    Columns,
    /// A shape, then a row body (spec/value.md).
    Row,
    /// A tag, then the payload of a top-level value (spec/value.md).
    Value,
}

impl Encoding {
    /// Every encoding.
    pub const ALL: [Self; 6] = [Self::Frame, Self::Batch, Self::Envelope, Self::Columns, Self::Row, Self::Value];
}

/// Calls `sink` with the parts of `bytes`, and returns what the decoder says of them.
pub fn explain(encoding: Encoding, bytes: &[u8], sink: &mut dyn FnMut(Part<'_>)) -> Result<(), DecodeError> {
    Walk::new(bytes, 0, sink).all(|walk| match encoding {
        Encoding::Frame => walk.frame(),
        Encoding::Batch => walk.batch(),
        Encoding::Envelope => walk.envelope(),
        Encoding::Columns => walk.columns(),
        Encoding::Row => {
            let names = walk.shape("shape")?;
            walk.row(&names)
        }
        Encoding::Value => {
            let tag = walk.take(1, |bytes| values::tag_meaning(bytes.first().copied().unwrap_or_default()))?;
            walk.payload(tag.first().copied().unwrap_or_default(), "the value", None, 1)
        }
    });
    verdict(encoding, bytes)
}

/// Returns what the decoder of an encoding says.
fn verdict(encoding: Encoding, bytes: &[u8]) -> Result<(), DecodeError> {
    match encoding {
        Encoding::Frame => Frame::decode(Bytes::copy_from_slice(bytes)).map(drop),
        Encoding::Batch => Batch::decode(Bytes::copy_from_slice(bytes)).map(drop),
        Encoding::Envelope => Envelope::decode(bytes).map(drop),
        Encoding::Columns => Columns::decode(bytes).map(drop),
        Encoding::Row => {
            let mut reader = Reader::new(bytes);
            let shape = Shape::decode(&mut reader)?;
            let at = reader.offset();
            RowRef::decode(&shape, reader.rest()).map(drop).map_err(|error| error.shifted(at))
        }
        Encoding::Value => match bytes.split_first() {
            Some((&tag, payload)) => ValueRef::decode(tag, payload).map(drop).map_err(|error| error.shifted(1)),
            None => Err(DecodeError::new(0, DecodeErrorKind::UnexpectedEnd { wanted: 1, left: 0 })),
        },
    }
}

/// Goes through bytes and tells what it meets.
struct Walk<'a, 's> {
    reader: Reader<'a>,
    depth: usize,
    inflated: bool,
    sink: &'s mut dyn FnMut(Part<'_>),
}

type Step<T = ()> = Result<T, DecodeError>;

impl<'a, 's> Walk<'a, 's> {
    /// Returns a walk through `bytes`, whose first has this offset.
    fn new(bytes: &'a [u8], offset: usize, sink: &'s mut dyn FnMut(Part<'_>)) -> Self {
        Self { reader: Reader::with_offset(bytes, offset), depth: 0, inflated: false, sink }
    }

    /// Takes `count` bytes, which are shown as digits.
    fn hex(&mut self, count: usize, what: &str) -> Result<&'a [u8], DecodeError> {
        self.take(count, |bytes| format!("{what} {}", Short(bytes)))
    }

    /// Takes a number of `count` bytes, the least significant first.
    fn fixed(&mut self, count: usize, what: &str) -> Result<u64, DecodeError> {
        self.take(count, |bytes| format!("{what} {}", number(bytes))).map(number)
    }

    /// Takes `count` bytes as one part.
    fn take(&mut self, count: usize, say: impl FnOnce(&'a [u8]) -> String) -> Result<&'a [u8], DecodeError> {
        let offset = self.reader.offset();
        let bytes = self.reader.bytes(count)?;
        if !bytes.is_empty() {
            let meaning = shortened(say(bytes));
            (self.sink)(Part { offset, bytes, depth: self.depth, inflated: self.inflated, meaning });
        }
        Ok(bytes)
    }

    /// Takes a number of one to ten bytes as one part.
    fn uvarint(&mut self, say: impl FnOnce(u64) -> String) -> Step<u64> {
        let mut ahead = self.reader.clone();
        let n = ahead.uvarint()?;
        self.take(ahead.offset() - self.reader.offset(), |_| say(n))?;
        Ok(n)
    }

    /// Takes a number of things that follow, each of at least one byte; a number that lies ends the walk.
    fn count(&mut self, what: &str) -> Step<usize> {
        let given = self.uvarint(|n| format!("number of {what}: {n}"))?;
        let left = self.reader.left();
        match usize::try_from(given) {
            Ok(count) if count <= left => Ok(count),
            _ => {
                let wanted = usize::try_from(given).unwrap_or(usize::MAX);
                Err(self.reader.fail(DecodeErrorKind::UnexpectedEnd { wanted, left }))
            }
        }
    }

    /// Takes a length and so many bytes as one part.
    fn prefixed(&mut self, say: impl FnOnce(&'a [u8]) -> String) -> Step<&'a [u8]> {
        let mut ahead = self.reader.clone();
        let len = ahead.uvarint()?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let content = ahead.bytes(len)?;
        self.take(ahead.offset() - self.reader.offset(), |_| say(content))?;
        Ok(content)
    }

    /// Goes through the next `count` bytes by themselves: what is wrong in there is told there, and the walk goes on
    /// behind them.
    fn within(
        &mut self,
        count: usize,
        explain: impl FnOnce(&mut Self) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        let offset = self.reader.offset();
        let inner = Reader::with_offset(self.reader.bytes(count)?, offset);
        let outer = std::mem::replace(&mut self.reader, inner);
        self.depth += 1;
        self.all(explain);
        self.depth -= 1;
        self.reader = outer;
        Ok(())
    }

    /// Goes through all that is left.
    fn all(&mut self, explain: impl FnOnce(&mut Self) -> Result<(), DecodeError>) {
        let depth = self.depth;
        let outcome = explain(self);
        // A walk that was cut off was deeper.
        self.depth = depth;
        let left = self.reader.left();
        let _ = self.take(left, |_| match outcome {
            Ok(()) => format!("{left} bytes after the end (V-4)"),
            Err(error) => format!("not understood: {error}"),
        });
    }
}

/// Cuts a meaning to a line, and takes the power out of what a terminal would obey.
fn shortened(meaning: String) -> String {
    let mut out = String::with_capacity(meaning.len().min(MEANING_CHARS_MAX + 3));
    for (index, c) in meaning.chars().enumerate() {
        if index == MEANING_CHARS_MAX {
            out.push_str("...");
            break;
        }
        match c {
            c if c.is_control()
                || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            c => out.push(c),
        }
    }
    out
}

/// A number, the least significant byte first.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte))
}

/// A name in quotes, or what stands in its place.
fn name(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => format!("{text:?}"),
        Err(_) => "bytes that are not UTF-8 (V-3)".to_owned(),
    }
}

/// Bytes in hexadecimal, the first of them.
struct Short<'a>(&'a [u8]);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(32).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        if self.0.len() > 32 { f.write_str("...") } else { Ok(()) }
    }
}
