//! Compression of a frame's body.
//!
//! Only frames that carry operations are compressed, and only where that makes them smaller. The inflated length stands
//! in front, so that a reader knows before it inflates whether it wants to: what it allocates is that length, which is
//! limited like any body (spec: L-15), and a body that inflates to more is refused where it passes it.

use super::header::{FrameHeader, HEADER_BYTES, begin, end};
use crate::error::{DecodeError, DecodeErrorKind};
use crate::limits::FRAME_BODY_BYTES_MAX;
use crate::reader::Reader;
use crate::writer::put_u32;
use bytes::Bytes;

/// Bodies of fewer bytes are not worth the time: below, zstd and lz4 save less than a network packet.
pub const COMPRESS_BYTES_MIN: usize = 1024;

/// The level of zstd: on batches level 1 is a tenth larger, and level 9 takes five times as long for a twentieth.
const ZSTD_LEVEL: i32 = 3;

/// How a frame's body is compressed (spec: F-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Codec {
    /// Not at all.
    None = 0,
    /// A zstd frame (RFC 8878).
    Zstd = 1,
    /// An lz4 block.
    Lz4 = 2,
}

impl Codec {
    /// Every codec, by number.
    pub const ALL: [Self; 3] = [Self::None, Self::Zstd, Self::Lz4];

    /// Returns the number in the format.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Returns the codec of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.number() == number)
    }
}

/// Returns the frame with its body compressed, or as it is: if its kind is not compressed, if it is short, or if it
/// would not become a sixteenth shorter.
///
/// Costs, for rows, about 2.5 microseconds per KiB with zstd, 0.8 with lz4. The frame must be one that this program has
/// written, not compressed.
pub fn compress_frame(frame: &Bytes, codec: Codec) -> Bytes {
    let as_it_is = || frame.clone();
    let Some((header, body)) = frame.split_first_chunk::<HEADER_BYTES>() else { return as_it_is() };
    let Ok(FrameHeader { kind, codec: Codec::None, .. }) = FrameHeader::decode(header) else { return as_it_is() };
    if !kind.may_compress() || body.len() < COMPRESS_BYTES_MIN {
        return as_it_is();
    }
    let packed = match codec {
        Codec::None => return as_it_is(),
        Codec::Zstd => zstd::bulk::compress(body, ZSTD_LEVEL).unwrap_or_default(),
        Codec::Lz4 => lz4_flex::block::compress(body),
    };
    // Less than a sixteenth is not worth the reader's time (spec: F-21 asks for a byte).
    if packed.is_empty() || packed.len() + 4 > body.len() - body.len() / 16 {
        return as_it_is();
    }
    let mut out = Vec::with_capacity(HEADER_BYTES + 4 + packed.len());
    let start = begin(&mut out, kind, codec);
    put_u32(&mut out, body.len() as u32);
    out.extend_from_slice(&packed);
    end(&mut out, start);
    Bytes::from(out)
}

/// Returns a checked frame with its body inflated, under the header that it has; nobody looks at that again.
pub(crate) fn inflate(codec: Codec, frame: &[u8]) -> Result<Bytes, DecodeError> {
    let (header, body) = frame.split_at_checked(HEADER_BYTES).unwrap_or_default();
    let mut reader = Reader::with_offset(body, HEADER_BYTES);
    let given = reader.u32()?;
    let len = given as usize;
    // spec: F-21, L-15
    if len > FRAME_BODY_BYTES_MAX {
        let max = FRAME_BODY_BYTES_MAX as u64;
        let kind = DecodeErrorKind::Limit { what: "frame body bytes", given: given.into(), max };
        return Err(DecodeError::new(HEADER_BYTES, kind));
    }
    if len <= body.len() {
        return Err(DecodeError::new(HEADER_BYTES, DecodeErrorKind::NotCanonical("F-21")));
    }
    let refused = DecodeError::new(reader.offset(), DecodeErrorKind::Inflate(codec.number()));
    let mut out = vec![0; HEADER_BYTES + len];
    let (out_header, out_body) = out.split_at_mut(HEADER_BYTES);
    out_header.copy_from_slice(header);
    let packed = reader.rest();
    let inflated = match codec {
        // One frame: by itself it would take any number, and such as are to be skipped.
        Codec::Zstd => (zstd::zstd_safe::find_frame_compressed_size(packed) == Ok(packed.len()))
            .then(|| zstd::bulk::decompress_to_buffer(packed, out_body).ok())
            .flatten(),
        Codec::Lz4 => lz4_flex::block::decompress_into(packed, out_body).ok(),
        Codec::None => None,
    };
    // spec: F-21
    if inflated == Some(len) { Ok(Bytes::from(out)) } else { Err(refused) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: F-21
    #[test]
    fn a_body_is_one_frame_of_zstd() {
        let body = vec![7; 5000];
        let pack = |bytes: &[u8]| zstd::bulk::compress(bytes, ZSTD_LEVEL).unwrap();
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        let inflated = |parts: &[&[u8]]| {
            let len = u32::try_from(body.len()).unwrap().to_le_bytes();
            inflate(Codec::Zstd, &[&[0; HEADER_BYTES], &len[..], &parts.concat()].concat())
        };
        assert_eq!(inflated(&[&pack(&body)]).unwrap()[HEADER_BYTES..], body);
        let halves = [pack(&body[..2500]), pack(&body[2500..])];
        for parts in [[&halves[0][..], &halves[1]], [&skipped, &pack(&body)], [&pack(&body), &skipped]] {
            let error = inflated(&parts).expect_err("more than one frame");
            assert!(matches!(error.kind, DecodeErrorKind::Inflate(_)), "{error}");
        }
    }
}
