//! Damage: every single flipped bit and every cut of a frame is refused, with an offset inside of the frame.

use blazedb_wire::testing::Gen;
use blazedb_wire::{DecodeErrorKind, Envelope, Frame, FrameHeader, FrameKind, HEADER_BYTES};
use bytes::Bytes;

/// One frame of each kind.
fn frames() -> Vec<Frame> {
    let mut source = Gen::new(7);
    let mut frames = Vec::new();
    for kind in FrameKind::ALL {
        frames.push(std::iter::repeat_with(|| source.frame()).find(|frame| frame.kind() == kind).expect("endless"));
    }
    frames
}

// spec: F-1, F-2, F-3, F-4, F-5, F-6, F-7
#[test]
fn every_flipped_bit_is_refused() {
    for frame in frames() {
        let good = frame.to_bytes();
        assert_eq!(Frame::decode(good.clone()), Ok(frame));
        for bit in 0..good.len() * 8 {
            let mut bytes = good.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let error = Frame::decode(Bytes::from(bytes)).expect_err("a flipped bit is seen");
            assert!(error.offset <= good.len(), "{error}");
            let expected = match bit / 8 {
                0 | 1 => matches!(error.kind, DecodeErrorKind::BadMagic),
                2 => matches!(error.kind, DecodeErrorKind::BadVersion(_)),
                // A kind that is spoken is caught by the checksum.
                3 => matches!(error.kind, DecodeErrorKind::UnknownKind { .. } | DecodeErrorKind::Checksum { .. }),
                // So is a codec, where the kind has one.
                4 => matches!(error.kind, DecodeErrorKind::Codec(_) | DecodeErrorKind::Checksum { .. }),
                5..8 => matches!(error.kind, DecodeErrorKind::NotCanonical("F-5")),
                8..12 => matches!(
                    error.kind,
                    DecodeErrorKind::Limit { .. }
                        | DecodeErrorKind::UnexpectedEnd { .. }
                        | DecodeErrorKind::TrailingBytes(_)
                ),
                _ => matches!(error.kind, DecodeErrorKind::Checksum { .. }),
            };
            assert!(expected, "bit {bit}: {error}");
        }
    }
}

// spec: F-6, F-18, V-4
#[test]
fn every_cut_and_every_extra_byte_is_refused() {
    for frame in frames() {
        let good = frame.to_bytes();
        for len in 0..good.len() {
            let error = Frame::decode(good.slice(..len)).expect_err("a cut is seen");
            assert!(matches!(error.kind, DecodeErrorKind::UnexpectedEnd { .. }), "{len}: {error}");
        }
        let mut longer = good.to_vec();
        longer.push(0);
        let error = Frame::decode(Bytes::from(longer)).expect_err("an extra byte is seen");
        assert_eq!((error.offset, error.kind), (good.len(), DecodeErrorKind::TrailingBytes(1)));
    }
}

// spec: F-11
#[test]
fn every_flipped_bit_of_an_envelope_is_refused() {
    let mut source = Gen::new(11);
    let batch = source.batch();
    let good = source.envelope(&batch).to_vec();
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let error = Envelope::decode(&bytes).expect_err("a flipped bit is seen");
        assert!(matches!(error.kind, DecodeErrorKind::Checksum { .. }));
    }
    for len in 0..good.len() {
        assert!(Envelope::decode(&good[..len]).is_err());
    }
}

#[test]
fn a_header_is_readable_without_its_body() {
    for frame in frames() {
        let bytes = frame.to_bytes();
        let header = bytes.first_chunk::<HEADER_BYTES>().expect("every frame has a header");
        let header = FrameHeader::decode(header).expect("good");
        assert_eq!(header.kind, frame.kind());
        assert_eq!(header.length as usize, bytes.len() - HEADER_BYTES);
    }
}

// spec: F-3, F-19
#[test]
fn reserved_kinds_are_named_and_refused() {
    for (number, name) in FrameKind::RESERVED {
        assert_eq!(FrameKind::from_number(number), None, "{name}");
        let mut bytes = *Frame::Bye.to_bytes().first_chunk::<HEADER_BYTES>().expect("a header");
        bytes[3] = number;
        let error = FrameHeader::decode(&bytes).expect_err("reserved");
        assert_eq!(
            (error.offset, error.kind),
            (3, DecodeErrorKind::UnknownKind { kind: number, rule: "F-3" }),
            "{name}"
        );
    }
}
