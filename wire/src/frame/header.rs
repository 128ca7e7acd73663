//! The header of a frame: magic, version, kind, codec, flags, length, checksum.

use super::codec::Codec;
use crate::error::{DecodeError, DecodeErrorKind};
use crate::limits::FRAME_BODY_BYTES_MAX;
use crate::reader::Reader;
use crate::writer::{put_u16, put_u32};

/// Length of a frame's header.
pub const HEADER_BYTES: usize = 16;

/// What every frame begins with.
pub(crate) const MAGIC: [u8; 2] = *b"BZ";
/// The version of the format: 0 until the first release (spec: F-2).
pub(crate) const VERSION: u8 = 0;
/// Where its parts begin: magic, version, kind, codec, flags, reserved, length, checksum.
pub(crate) const HEADER_AT: [usize; 8] = [0, 2, 3, 4, 5, 6, 8, 12];
/// The bytes of the header that the checksum covers.
const COVERED: usize = HEADER_AT[7];

/// What a frame is (spec: F-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A client says where it stands.
    Hello = 1,
    /// The relay says where it stands.
    Welcome = 2,
    /// A client hands in a batch.
    Push = 3,
    /// The relay tells the author what became of its batch.
    Ack = 4,
    /// The relay passes a batch on.
    Entry = 5,
    /// Something is wrong.
    Error = 6,
    /// Are you there?
    Ping = 7,
    /// I am.
    Pong = 8,
    /// The sender is about to close.
    Bye = 9,
    /// Asks for the digest of a space.
    DigestRequest = 10,
    /// The digest of a space.
    Digest = 11,
    /// The relay passes many batches on, in columns.
    Entries = 12,
    /// A client hands in many batches, in columns.
    Pushes = 13,
}

impl FrameKind {
    /// Every kind that is spoken today, by number.
    pub const ALL: [Self; 13] = [
        Self::Hello,
        Self::Welcome,
        Self::Push,
        Self::Ack,
        Self::Entry,
        Self::Error,
        Self::Ping,
        Self::Pong,
        Self::Bye,
        Self::DigestRequest,
        Self::Digest,
        Self::Entries,
        Self::Pushes,
    ];

    /// Numbers that are reserved for kinds to come, with their names.
    pub const RESERVED: [(u8, &'static str); 9] = [
        (32, "SnapshotOffer"),
        (33, "SnapshotChunk"),
        (34, "State"),
        (35, "Gone"),
        (36, "Blob"),
        (37, "Presence"),
        (38, "Sealed"),
        (39, "AuthRefresh"),
        (40, "Signature"),
    ];

    /// Returns the number in the format.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Returns true if a body of this kind may be compressed (spec: F-20): those that carry operations.
    pub const fn may_compress(self) -> bool {
        matches!(self, Self::Push | Self::Entry | Self::Entries | Self::Pushes)
    }

    /// Returns the kind of this number, if it is spoken today.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }
}

/// A header that was checked by itself; its checksum needs the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame is.
    pub kind: FrameKind,
    /// How the body is compressed.
    pub codec: Codec,
    /// Length of the body.
    pub length: u32,
    /// Checksum (CRC-32, IEEE) of the first 12 bytes of the header and of the body.
    pub crc: u32,
}

impl FrameHeader {
    /// Checks a header from outside, apart from its checksum.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        // spec: F-1
        if reader.array()? != MAGIC {
            return Err(DecodeError::new(0, DecodeErrorKind::BadMagic));
        }
        // spec: F-2
        let version = reader.u8()?;
        if version != VERSION {
            return Err(DecodeError::new(2, DecodeErrorKind::BadVersion(version)));
        }
        // spec: F-3
        let number = reader.u8()?;
        let unknown = DecodeErrorKind::UnknownKind { kind: number, rule: "F-3" };
        let kind = FrameKind::from_number(number).ok_or(DecodeError::new(3, unknown))?;
        // spec: F-4
        let number = reader.u8()?;
        // spec: F-20
        let codec = match Codec::from_number(number) {
            Some(codec) if codec == Codec::None || kind.may_compress() => codec,
            _ => return Err(DecodeError::new(4, DecodeErrorKind::Codec(number))),
        };
        // spec: F-5
        if reader.u8()? != 0 || reader.u16()? != 0 {
            return Err(DecodeError::new(5, DecodeErrorKind::NotCanonical("F-5")));
        }
        // spec: F-6, L-15
        let length = reader.u32()?;
        if length as usize > FRAME_BODY_BYTES_MAX {
            let max = FRAME_BODY_BYTES_MAX as u64;
            let kind = DecodeErrorKind::Limit { what: "frame body bytes", given: length.into(), max };
            return Err(DecodeError::new(8, kind));
        }
        Ok(Self { kind, codec, length, crc: reader.u32()? })
    }

    /// Checks that `bytes` are one whole frame with a good checksum.
    pub(super) fn check(bytes: &[u8]) -> Result<Self, DecodeError> {
        let Some((header_bytes, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            let kind = DecodeErrorKind::UnexpectedEnd { wanted: HEADER_BYTES, left: bytes.len() };
            return Err(DecodeError::new(0, kind));
        };
        let header = Self::decode(header_bytes)?;
        // spec: F-6
        let length = header.length as usize;
        if body.len() < length {
            let kind = DecodeErrorKind::UnexpectedEnd { wanted: length, left: body.len() };
            return Err(DecodeError::new(HEADER_BYTES, kind));
        }
        if body.len() > length {
            let kind = DecodeErrorKind::TrailingBytes(body.len() - length);
            return Err(DecodeError::new(HEADER_BYTES + length, kind));
        }
        // spec: F-7
        let computed = checksum(header_bytes, body);
        if computed != header.crc {
            let kind = DecodeErrorKind::Checksum { stored: header.crc, computed };
            return Err(DecodeError::new(COVERED, kind));
        }
        Ok(header)
    }
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header.get(..COVERED).unwrap_or_default());
    hasher.update(body);
    hasher.finalize()
}

/// Appends a header whose length and checksum are still missing; returns where it starts.
pub(super) fn begin(out: &mut Vec<u8>, kind: FrameKind, codec: Codec) -> usize {
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, kind.number(), codec.number(), 0]);
    put_u16(out, 0);
    put_u32(out, 0);
    put_u32(out, 0);
    start
}

/// Writes length and checksum into the header that starts at `start`, for the body that ends here.
pub(super) fn end(out: &mut [u8], start: usize) {
    let (header, body) = out[start..].split_at_mut(HEADER_BYTES);
    header[HEADER_AT[6]..COVERED].copy_from_slice(&(body.len() as u32).to_le_bytes());
    let crc = checksum(header, body);
    header[COVERED..].copy_from_slice(&crc.to_le_bytes());
}
