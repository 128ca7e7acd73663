//! Errors of the formats: one enum for bytes that are refused, one for values that cannot be written.
//!
//! A `DecodeError` blames the bytes and says where; an `EncodeError` blames the caller. Neither carries free text:
//! rules are named by their ids in spec/.

use std::fmt;

/// Why bytes were refused, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Distance in bytes from the start of what the caller handed in.
    pub offset: usize,
    /// What was wrong there.
    pub kind: DecodeErrorKind,
}

/// What was wrong with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeErrorKind {
    /// The input ends before what it announces.
    UnexpectedEnd {
        /// Bytes that were needed.
        wanted: usize,
        /// Bytes that were there.
        left: usize,
    },
    /// A varint is longer than its value needs, or does not fit 64 bits.
    Overlong,
    /// The same value has another, canonical encoding; names the rule in spec/.
    NotCanonical(&'static str),
    /// A number that spec/ reserves for later and refuses today.
    ReservedTag(u8),
    /// A tag byte that means nothing.
    BadTag(u8),
    /// Text that is not UTF-8.
    Utf8,
    /// Containers are nested deeper than the limit.
    TooDeep,
    /// A length or count is above a limit of spec/limits.md.
    Limit {
        /// The name of the limited thing.
        what: &'static str,
        /// What the input asked for.
        given: u64,
        /// The limit.
        max: u64,
    },
    /// The input goes on after its end, by this many bytes.
    TrailingBytes(usize),
    /// The frame does not begin with "BZ".
    BadMagic,
    /// The frame has a version this program does not speak.
    BadVersion(u8),
    /// A kind (of frame, batch or operation) that is unknown, or reserved and not spoken yet.
    UnknownKind {
        /// Its number.
        kind: u8,
        /// The rule in spec/ that lists the known ones.
        rule: &'static str,
    },
    /// A frame codec that is unknown, or that this kind of frame does not have.
    Codec(u8),
    /// A compressed body that its codec cannot read, or that is longer or shorter than it says.
    Inflate(u8),
    /// The checksum does not match: the bytes were damaged.
    Checksum {
        /// The sum written in the input.
        stored: u32,
        /// The sum of the bytes as they arrived.
        computed: u32,
    },
    /// A number is outside of what its place allows.
    OutOfRange {
        /// The name of the number.
        what: &'static str,
        /// What the input said.
        given: u64,
        /// The greatest allowed.
        max: u64,
    },
    /// Things that must ascend do not; names the rule in spec/.
    Order(&'static str),
}

impl DecodeError {
    /// Returns the error for `kind` at `offset`.
    pub const fn new(offset: usize, kind: DecodeErrorKind) -> Self {
        Self { offset, kind }
    }

    /// Returns the same error as seen by a caller for whom these bytes start at `base`.
    #[must_use]
    pub const fn shifted(self, base: usize) -> Self {
        Self { offset: base.saturating_add(self.offset), kind: self.kind }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}: ", self.offset)?;
        match self.kind {
            DecodeErrorKind::UnexpectedEnd { wanted, left } => {
                write!(f, "input ends early ({wanted} bytes wanted, {left} left); fetch it again whole")
            }
            DecodeErrorKind::Overlong => f.write_str("varint is overlong; its writer does not follow rule V-1"),
            DecodeErrorKind::NotCanonical(rule) => {
                write!(f, "not the canonical encoding; its writer does not follow rule {rule}")
            }
            DecodeErrorKind::ReservedTag(tag) => {
                write!(f, "{tag:#04x} is reserved for a later version; update this program to read it")
            }
            DecodeErrorKind::BadTag(tag) => write!(f, "{tag:#04x} is not a tag; the bytes are damaged or foreign"),
            DecodeErrorKind::Utf8 => f.write_str("text is not UTF-8"),
            DecodeErrorKind::TooDeep => {
                write!(f, "containers are nested deeper than {}", crate::limits::DEPTH_MAX)
            }
            DecodeErrorKind::Limit { what, given, max } => {
                write!(f, "{what}: {given} is above the limit of {max}; split or shrink it")
            }
            DecodeErrorKind::TrailingBytes(count) => write!(f, "{count} bytes follow after the end"),
            DecodeErrorKind::BadMagic => f.write_str("not a frame: it does not begin with \"BZ\""),
            DecodeErrorKind::BadVersion(version) => {
                write!(f, "frame version {version} is not spoken here; update the older side")
            }
            DecodeErrorKind::UnknownKind { kind, .. } => {
                write!(f, "kind {kind} is not spoken here; update this program to read it")
            }
            DecodeErrorKind::Codec(codec) => {
                write!(f, "codec {codec} is not spoken here; send the frame uncompressed")
            }
            DecodeErrorKind::Inflate(codec) => {
                write!(f, "codec {codec} cannot read the body, or not to the length that it names; fetch it again")
            }
            DecodeErrorKind::Checksum { stored, computed } => {
                write!(f, "checksum says {stored:08x}, the bytes give {computed:08x}; fetch them again")
            }
            DecodeErrorKind::OutOfRange { what, given, max } => {
                write!(f, "{what}: {given} is out of range (greatest is {max})")
            }
            DecodeErrorKind::Order(rule) => {
                write!(f, "out of order or twice; its writer does not follow rule {rule}")
            }
        }
    }
}

impl std::error::Error for DecodeError {}

/// Why a value cannot be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// Something is above a limit of spec/limits.md.
    Limit {
        /// The name of the limited thing.
        what: &'static str,
        /// How much there is.
        given: u64,
        /// The limit.
        max: u64,
    },
    /// A name occurs twice.
    Duplicate {
        /// The name.
        name: String,
    },
    /// Containers are nested deeper than the limit.
    TooDeep,
    /// A row was given another number of fields than its shape has names.
    FieldCount {
        /// Names in the shape.
        names: usize,
        /// Fields given.
        fields: usize,
    },
    /// A collection name is empty.
    EmptyName,
    /// A batch without operations.
    EmptyBatch,
    /// The last operation of a batch says that its transaction goes on.
    OpenTransaction,
    /// The parts of an operation do not fit its kind (a create without a row, a delete with one, an update of nothing).
    BadOp {
        /// The rule of spec/op.md that it breaks.
        rule: &'static str,
    },
    /// Batches that cannot share columns.
    BadColumns {
        /// The rule of spec/columns.md that they break.
        rule: &'static str,
    },
    /// A batch head is not well formed.
    BadHead {
        /// The rule of spec/op.md that it breaks.
        rule: &'static str,
    },
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit { what, given, max } => {
                write!(f, "{what}: {given} is above the limit of {max}; split or shrink it")
            }
            Self::Duplicate { name } => write!(f, "the name {name:?} occurs twice; give each field one value"),
            Self::TooDeep => {
                write!(f, "containers are nested deeper than {}; flatten the value", crate::limits::DEPTH_MAX)
            }
            Self::FieldCount { names, fields } => {
                write!(f, "{fields} fields for a shape of {names} names; pass one field for each name")
            }
            Self::EmptyName => f.write_str("a collection name is empty; give it at least one byte"),
            Self::EmptyBatch => f.write_str("the batch has no operation; push one before finishing it"),
            Self::OpenTransaction => {
                f.write_str("the last operation says that its transaction goes on; push the rest of the transaction")
            }
            Self::BadOp { rule } => write!(f, "the operation breaks rule {rule}; see spec/op.md"),
            Self::BadColumns { rule } => write!(f, "the batches break rule {rule}; see spec/columns.md"),
            Self::BadHead { rule } => write!(f, "the batch head breaks rule {rule}; see spec/op.md"),
        }
    }
}

impl std::error::Error for EncodeError {}
