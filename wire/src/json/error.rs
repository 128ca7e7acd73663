//! What can be wrong with a JSON text, and what can keep a value from becoming one.

use std::fmt;
use std::io;

use super::path;

/// Why a JSON text was not accepted, and where.
///
/// Two kinds of blame: a *malformed* text is not JSON; a *refused* one is JSON that no document can hold without
/// losing something ([`JsonErrorKind::is_malformed`]). Lines and columns count from one, columns in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonError {
    /// The line of the input, from 1.
    pub line: u64,
    /// The byte of that line, from 1.
    pub column: u64,
    /// Where in the value, like `$.items[3].name`; `$` is the whole value, or the whole array of documents.
    pub path: String,
    /// What is wrong.
    pub kind: JsonErrorKind,
    /// Whether the [`Documents`](super::Documents) that gave this error goes on behind it when asked again.
    pub resumable: bool,
}

/// What is wrong with a JSON text.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum JsonErrorKind {
    /// A byte that cannot stand here.
    UnexpectedByte {
        /// The byte.
        found: u8,
        /// What could stand here.
        wanted: &'static str,
    },
    /// The input ends inside a value.
    UnexpectedEnd {
        /// What should have come.
        wanted: &'static str,
    },
    /// A value goes on past the end of its line, in an input of one value a line.
    NewlineInValue,
    /// A comma with nothing behind it.
    TrailingComma,
    /// Something follows the one value or the one array that was the whole input.
    TrailingData,
    /// An unescaped character below U+0020 inside a string.
    ControlCharacter(u8),
    /// A backslash followed by something that is no escape.
    BadEscape(u8),
    /// A number that breaks the grammar.
    BadNumber(&'static str),
    /// The input is UTF-16.
    Utf16,
    /// Behind a refused place the nesting goes deeper than is followed only to skip it.
    SkipTooDeep {
        /// The deepest nesting that is skipped.
        max: usize,
    },
    /// Reading failed.
    Io {
        /// The kind of failure.
        kind: io::ErrorKind,
        /// The reader's own words.
        message: String,
    },
    /// A string holds bytes that are not UTF-8.
    InvalidUtf8,
    /// An escaped half of a surrogate pair without its other half.
    LoneSurrogate(u32),
    /// An object names a key twice.
    DuplicateKey(String),
    /// Containers nested deeper than a value may.
    TooDeep {
        /// The deepest nesting of a field's value.
        max: usize,
    },
    /// Something is larger than a document can hold.
    Limit {
        /// What.
        what: &'static str,
        /// The largest that is accepted.
        max: u64,
    },
    /// A number with a fraction or an exponent that no float holds exactly.
    NumberInexact {
        /// The number as written.
        text: String,
        /// The float that it would become.
        nearest: f64,
    },
    /// An integer outside -2^63 .. 2^64 that is no float either.
    IntegerOutOfRange {
        /// The number as written.
        text: String,
    },
    /// A number larger than every float.
    NumberOutOfRange {
        /// The number as written.
        text: String,
    },
    /// An element that should have been an object.
    NotADocument {
        /// What it is.
        found: &'static str,
    },
}

impl JsonErrorKind {
    /// Returns whether the text is not JSON at all (or could not be read), as against JSON that is refused because
    /// a document cannot hold it.
    ///
    /// Bytes that are not UTF-8 count as refused: the string that holds them still has a certain end.
    pub fn is_malformed(&self) -> bool {
        match self {
            Self::UnexpectedByte { .. }
            | Self::UnexpectedEnd { .. }
            | Self::NewlineInValue
            | Self::TrailingComma
            | Self::TrailingData
            | Self::ControlCharacter(_)
            | Self::BadEscape(_)
            | Self::BadNumber(_)
            | Self::Utf16
            | Self::SkipTooDeep { .. }
            | Self::Io { .. } => true,
            Self::InvalidUtf8
            | Self::LoneSurrogate(_)
            | Self::DuplicateKey(_)
            | Self::TooDeep { .. }
            | Self::Limit { .. }
            | Self::NumberInexact { .. }
            | Self::IntegerOutOfRange { .. }
            | Self::NumberOutOfRange { .. }
            | Self::NotADocument { .. } => false,
        }
    }
}

impl fmt::Display for JsonErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnexpectedByte { found, wanted } => write!(f, "found {} where {wanted} should stand", Shown(*found)),
            Self::UnexpectedEnd { wanted } => write!(f, "the input ends where {wanted} should stand; is the file whole?"),
            Self::NewlineInValue => f.write_str("the value goes on past the end of its line, but this input holds one value a line; write each value on one line, or all of them as one array"),
            Self::TrailingComma => f.write_str("nothing follows the last comma; remove it"),
            Self::TrailingData => f.write_str("something follows the end of the value; remove it, or write one object a line"),
            Self::ControlCharacter(byte) => write!(f, "the control character {} stands bare inside a string; write it as \\u{byte:04x}, or close the string", Shown(*byte)),
            Self::BadEscape(byte) => write!(f, "a backslash and {} are no escape; write \\\\ for a backslash", Shown(*byte)),
            Self::BadNumber(what) => write!(f, "a number is not written as JSON wants it: {what}"),
            Self::Utf16 => f.write_str("the input is UTF-16; convert it to UTF-8"),
            Self::SkipTooDeep { max } => write!(f, "nested past {max} levels, deeper than is followed even to skip it; remove this element"),
            Self::Io { message, .. } => write!(f, "reading failed: {message}"),
            Self::InvalidUtf8 => f.write_str("bytes that are not UTF-8; convert the input to UTF-8"),
            Self::LoneSurrogate(unit) => write!(f, "\\u{unit:04x} is half of a surrogate pair without its other half; write the whole character"),
            Self::DuplicateKey(key) => write!(f, "the key {key:?} occurs twice in one object; rename or remove one"),
            Self::TooDeep { max } => write!(f, "nested deeper than {max} levels; flatten it, or store this part as text"),
            Self::Limit { what, max } => write!(f, "more {what} than the {max} that are accepted; split it"),
            Self::NumberInexact { text, nearest } => write!(f, "the number {text} would become {nearest:?}; write that, or put the number in quotes to keep every digit"),
            Self::IntegerOutOfRange { text } => write!(f, "the integer {text} is outside -2^63 .. 2^64-1; put it in quotes to keep every digit"),
            Self::NumberOutOfRange { text } => write!(f, "the number {text} is larger than every 64-bit float; put it in quotes to keep it"),
            Self::NotADocument { found } => write!(f, "{found} where a document should stand; a document is an object"),
        }
    }
}

impl JsonError {
    pub(super) fn prepend_key(mut self, key: &str) -> Self {
        path::prepend_key(&mut self.path, key);
        self
    }

    pub(super) fn prepend_index(mut self, index: u64) -> Self {
        path::prepend_index(&mut self.path, index);
        self
    }

    pub(super) fn finish(mut self) -> Self {
        path::finish(&mut self.path);
        self
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)?;
        if self.path != "$" {
            write!(f, ", at {}", self.path)?;
        }
        write!(f, ": {}", self.kind)
    }
}

impl std::error::Error for JsonError {}

/// Why a value cannot be written as JSON, and where in it.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonWriteError {
    /// Where in the value, like `$.items[3].name`.
    pub path: String,
    /// What is wrong.
    pub kind: JsonWriteErrorKind,
}

/// Why a value cannot be written as JSON.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum JsonWriteErrorKind {
    /// A float that is not a number, or infinite: JSON has no text for it.
    NotFinite(f64),
    /// Containers nested deeper than a value may; such a value cannot be stored either.
    TooDeep {
        /// The deepest nesting of a field's value.
        max: usize,
    },
}

impl fmt::Display for JsonWriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {}: ", self.path)?;
        match self.kind {
            JsonWriteErrorKind::NotFinite(float) => {
                write!(f, "JSON has no text for the float {float}; set the field to null or to text before the export")
            }
            JsonWriteErrorKind::TooDeep { max } => {
                write!(f, "nested deeper than {max} levels; flatten it, or store this part as text")
            }
        }
    }
}

impl std::error::Error for JsonWriteError {}

/// A byte as a person wants to read it.
struct Shown(u8);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            b'\n' => f.write_str("a newline"),
            b'\t' => f.write_str("a tab"),
            byte @ 0x20..=0x7e => write!(f, "'{}'", char::from(byte)),
            byte => write!(f, "byte 0x{byte:02x}"),
        }
    }
}
