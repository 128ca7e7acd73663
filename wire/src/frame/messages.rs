//! Bodies of frames that have a shape of their own: Hello, Welcome, Error.

use super::PROTOCOL_VERSION;
use crate::error::{DecodeError, DecodeErrorKind};
use crate::id::{OpId, ReplicaId, SpaceId};
use crate::limits::{ERROR_TEXT_BYTES_MAX, HELLO_REPLICAS_MAX};
use crate::reader::Reader;
use crate::writer::{put_prefixed, put_u64, put_uvarint};

/// What a side can read beside plain frames of single batches; told in Hello and Welcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reads {
    /// Bodies compressed with zstd.
    pub zstd: bool,
    /// Bodies compressed with lz4.
    pub lz4: bool,
    /// Many batches in columns: Entries (a client), Pushes (a relay).
    pub columns: bool,
}

impl Reads {
    /// All that this program reads.
    pub const ALL: Self = Self { zstd: true, lz4: true, columns: true };

    const ZSTD: u8 = 1 << 1;
    const LZ4: u8 = 1 << 2;
    const COLUMNS: u8 = 1 << 3;

    fn bits(self) -> u8 {
        let bit = |there: bool, bit: u8| if there { bit } else { 0 };
        bit(self.zstd, Self::ZSTD) | bit(self.lz4, Self::LZ4) | bit(self.columns, Self::COLUMNS)
    }
}

/// A client says where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The session protocol it speaks.
    pub protocol: u32,
    /// The space it is bound to; none before the first sync.
    pub space: Option<SpaceId>,
    /// The epoch of its cursor.
    pub epoch: u32,
    /// The last number of the relay's sequence that it has applied.
    pub cursor: u64,
    /// What it can read.
    pub reads: Reads,
    /// Its ids with operations that are not acknowledged, in order.
    pub replicas: Vec<ReplicaId>,
}

impl Hello {
    /// Returns what a client says that is bound to no space, has applied nothing and reads what every client reads.
    pub fn first() -> Self {
        Self {
            protocol: PROTOCOL_VERSION,
            space: None,
            epoch: 0,
            cursor: 0,
            reads: Reads::default(),
            replicas: Vec::new(),
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_uvarint(out, self.protocol.into());
        out.push(u8::from(self.space.is_some()) | self.reads.bits());
        out.extend_from_slice(self.space.unwrap_or_default().as_bytes());
        put_uvarint(out, self.epoch.into());
        put_uvarint(out, self.cursor);
        put_uvarint(out, self.replicas.len() as u64);
        for replica in &self.replicas {
            out.extend_from_slice(replica.as_bytes());
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let protocol = reader.uvarint_max(u32::MAX.into(), "protocol")? as u32;
        // spec: F-9
        let (bound, reads) = read_flags(reader, "F-9")?;
        let space_at = reader.offset();
        let space = SpaceId(reader.array()?);
        if !bound && space != SpaceId::default() {
            return Err(DecodeError::new(space_at, DecodeErrorKind::NotCanonical("F-9")));
        }
        let space = bound.then_some(space);
        let epoch = reader.uvarint_max(u32::MAX.into(), "epoch")? as u32;
        let cursor = reader.uvarint()?;
        let count = reader.count(HELLO_REPLICAS_MAX, 16, "replicas in a Hello")?;
        let mut replicas = Vec::with_capacity(count);
        for _ in 0..count {
            replicas.push(ReplicaId(reader.array()?));
        }
        Ok(Self { protocol, space, epoch, cursor, reads, replicas })
    }
}

/// The relay says where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The session protocol it speaks.
    pub protocol: u32,
    /// The space.
    pub space: SpaceId,
    /// The epoch of its sequence.
    pub epoch: u32,
    /// The last number of its sequence.
    pub head: u64,
    /// Entries up to this number are no longer kept one by one.
    pub floor: u64,
    /// Its time, in milliseconds since 1970.
    pub relay_ms: u64,
    /// Whether its clock may correct others.
    pub clock_trusted: bool,
    /// What it can read.
    pub reads: Reads,
    /// For each replica of the Hello, in its order, the highest counter that is known; 0 for an unknown replica.
    pub counters: Vec<(ReplicaId, u64)>,
}

impl Welcome {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_uvarint(out, self.protocol.into());
        out.extend_from_slice(self.space.as_bytes());
        put_uvarint(out, self.epoch.into());
        put_uvarint(out, self.head);
        put_uvarint(out, self.floor);
        put_u64(out, self.relay_ms);
        out.push(u8::from(self.clock_trusted) | self.reads.bits());
        put_uvarint(out, self.counters.len() as u64);
        for (replica, counter) in &self.counters {
            out.extend_from_slice(replica.as_bytes());
            put_uvarint(out, *counter);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let protocol = reader.uvarint_max(u32::MAX.into(), "protocol")? as u32;
        let space = SpaceId(reader.array()?);
        let epoch = reader.uvarint_max(u32::MAX.into(), "epoch")? as u32;
        let head = reader.uvarint()?;
        let floor = reader.uvarint()?;
        let relay_ms = reader.u64()?;
        // spec: F-10
        let (clock_trusted, reads) = read_flags(reader, "F-10")?;
        let count = reader.count(HELLO_REPLICAS_MAX, 17, "replicas in a Welcome")?;
        let mut counters = Vec::with_capacity(count);
        for _ in 0..count {
            counters.push((ReplicaId(reader.array()?), reader.uvarint()?));
        }
        Ok(Self { protocol, space, epoch, head, floor, relay_ms, clock_trusted, reads, counters })
    }
}

/// Reads a byte of flags: a bit of its own, and what the sender can read.
fn read_flags(reader: &mut Reader<'_>, rule: &'static str) -> Result<(bool, Reads), DecodeError> {
    let at = reader.offset();
    let flags = reader.u8()?;
    let has = |bit: u8| flags & bit != 0;
    let reads = Reads { zstd: has(Reads::ZSTD), lz4: has(Reads::LZ4), columns: has(Reads::COLUMNS) };
    if flags & !(reads.bits() | 1) != 0 {
        return Err(DecodeError::new(at, DecodeErrorKind::NotCanonical(rule)));
    }
    Ok((has(1), reads))
}

/// Reads a byte of flags of which only the lowest bit has a meaning.
fn read_flag(reader: &mut Reader<'_>, rule: &'static str) -> Result<bool, DecodeError> {
    let at = reader.offset();
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::new(at, DecodeErrorKind::NotCanonical(rule))),
    }
}

/// What is wrong (spec: F-16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// The other side sent bytes that are refused.
    Malformed,
    /// The token is missing, wrong or expired.
    Unauthenticated,
    /// The token does not allow this.
    PermissionDenied,
    /// The file is bound to another space.
    SpaceMismatch,
    /// The cursor belongs to another epoch.
    EpochMismatch,
    /// Operations are missing: send from this one on.
    NeedFrom(OpId),
    /// An operation with this name and another payload is known.
    NameClash,
    /// Above a limit.
    TooLarge,
    /// Too much at present.
    Overloaded,
    /// Not spoken here.
    Unsupported,
    /// Something failed that is not the other side's fault.
    Internal,
    /// The relay is about to stop.
    ShuttingDown,
    /// The cursor is above the relay's head.
    CursorAhead,
}

impl ErrorCode {
    /// The greatest number.
    pub(crate) const NUMBER_MAX: u64 = 13;

    /// Returns the number in the format.
    pub const fn number(self) -> u8 {
        match self {
            Self::Malformed => 1,
            Self::Unauthenticated => 2,
            Self::PermissionDenied => 3,
            Self::SpaceMismatch => 4,
            Self::EpochMismatch => 5,
            Self::NeedFrom(_) => 6,
            Self::NameClash => 7,
            Self::TooLarge => 8,
            Self::Overloaded => 9,
            Self::Unsupported => 10,
            Self::Internal => 11,
            Self::ShuttingDown => 12,
            Self::CursorAhead => 13,
        }
    }
}

/// Something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorFrame {
    /// What.
    pub code: ErrorCode,
    /// Do not retry without a change.
    pub fatal: bool,
    /// Earliest retry, in milliseconds from now.
    pub retry_ms: u64,
    /// For people; at most `ERROR_TEXT_BYTES_MAX` bytes are sent.
    pub text: String,
}

impl ErrorFrame {
    /// Returns an error after which a retry makes sense at once.
    pub fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self { code, fatal: false, retry_ms: 0, text: text.into() }
    }

    /// Returns an error after which a retry makes no sense.
    pub fn fatal(code: ErrorCode, text: impl Into<String>) -> Self {
        Self { fatal: true, ..Self::new(code, text) }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_uvarint(out, self.code.number().into());
        out.push(self.fatal.into());
        put_uvarint(out, self.retry_ms);
        let end = self.text.floor_char_boundary(ERROR_TEXT_BYTES_MAX);
        put_prefixed(out, self.text.as_bytes().get(..end).unwrap_or_default());
        if let ErrorCode::NeedFrom(id) = self.code {
            out.extend_from_slice(id.replica.as_bytes());
            put_uvarint(out, id.counter);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at = reader.offset();
        let number = reader.uvarint()?;
        let fatal = read_flag(reader, "F-16")?;
        let retry_ms = reader.uvarint()?;
        let text = reader.str_prefixed(ERROR_TEXT_BYTES_MAX, "error text bytes")?.to_owned();
        let code = match number {
            1 => ErrorCode::Malformed,
            2 => ErrorCode::Unauthenticated,
            3 => ErrorCode::PermissionDenied,
            4 => ErrorCode::SpaceMismatch,
            5 => ErrorCode::EpochMismatch,
            // spec: F-17
            6 => {
                let replica = ReplicaId(reader.array()?);
                let at = reader.offset();
                match reader.uvarint()? {
                    0 => {
                        let kind = DecodeErrorKind::OutOfRange { what: "counter needed", given: 0, max: u64::MAX };
                        return Err(DecodeError::new(at, kind));
                    }
                    counter => ErrorCode::NeedFrom(OpId { replica, counter }),
                }
            }
            7 => ErrorCode::NameClash,
            8 => ErrorCode::TooLarge,
            9 => ErrorCode::Overloaded,
            10 => ErrorCode::Unsupported,
            11 => ErrorCode::Internal,
            12 => ErrorCode::ShuttingDown,
            13 => ErrorCode::CursorAhead,
            given => {
                let kind = DecodeErrorKind::OutOfRange { what: "error code", given, max: ErrorCode::NUMBER_MAX };
                return Err(DecodeError::new(at, kind));
            }
        };
        Ok(Self { code, fatal, retry_ms, text })
    }
}
