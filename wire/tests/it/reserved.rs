//! Numbers that the specification keeps for later: none is taken for something today.

use blazedb_wire::explain::{Encoding, explain};
use blazedb_wire::testing::Gen;
use blazedb_wire::{
    Batch, DecodeErrorKind, Frame, FrameKind, HEADER_BYTES, RowRef, Shape, Value, ValueRef, encode_value,
    validate_value,
};
use bytes::Bytes;

// spec: V-5, V-6
#[test]
fn tags_of_types_to_come_are_refused_wherever_they_stand() {
    let shape = Shape::new(["a"]).expect("one name");
    for tag in 0xd0..=0xff {
        let reserved = DecodeErrorKind::ReservedTag(tag);
        for payload in [&[][..], &[0], &[0; 16], &[0, 1, 0, 0]] {
            assert_eq!(validate_value(tag, payload).map_err(|error| error.kind), Err(reserved));
            assert_eq!(ValueRef::decode(tag, payload).map(|_| ()).map_err(|error| error.kind), Err(reserved));
            let body = [&[1, tag][..], payload].concat();
            assert_eq!(RowRef::decode(&shape, &body).map_err(|error| error.kind), Err(reserved));
            let array = [&[0, 0, 1, 1, tag][..], payload].concat();
            assert_eq!(Value::decode(0xa0, &array).map_err(|error| error.kind), Err(reserved));
        }
    }
    // Every other tag is one of the table or no tag, and nothing else.
    let mut known = 0;
    for tag in 0..0xd0 {
        let found = validate_value(tag, &[0; 40]).map_err(|error| error.kind);
        assert!(!matches!(found, Err(DecodeErrorKind::ReservedTag(_))), "{tag:02x}");
        known += usize::from(!matches!(found, Err(DecodeErrorKind::BadTag(_))));
    }
    // Types 0 to 9, A, B and C, as many infos as the table has.
    assert_eq!(known, 3 + 16 + 8 + 1 + 3 + 16 + 9 + 1 + 1 + 1 + 1 + 1 + 2);
}

/// Returns a batch and where the parts of it are that begin with these words.
fn batch_with(words: &str) -> (Vec<u8>, Vec<usize>) {
    let bytes = Gen::new(3).batch().bytes().to_vec();
    let mut found = Vec::new();
    let outcome = explain(Encoding::Batch, &bytes, &mut |part| {
        if part.meaning.starts_with(words) {
            found.push(part.offset);
        }
    });
    assert_eq!(outcome, Ok(()));
    assert!(!found.is_empty(), "{words}");
    (bytes, found)
}

// spec: O-2
#[test]
fn kinds_of_merging_to_come_are_reserved_and_others_unknown() {
    let (bytes, places) = batch_with("merge kind 0");
    for at in places {
        for merge in 1..=255 {
            let mut bytes = bytes.clone();
            bytes[at] = merge;
            let expected = match merge {
                1..=6 => DecodeErrorKind::ReservedTag(merge),
                _ => DecodeErrorKind::UnknownKind { kind: merge, rule: "O-2" },
            };
            let error = Batch::decode(Bytes::from(bytes)).expect_err("no kind of today");
            assert_eq!((error.offset, error.kind), (at, expected));
        }
    }
}

// spec: B-1
#[test]
fn kinds_of_batches_to_come_are_not_spoken() {
    let (bytes, _) = batch_with("kind of the batch");
    for kind in 1..=255 {
        let mut bytes = bytes.clone();
        bytes[0] = kind;
        let error = Batch::decode(Bytes::from(bytes)).expect_err("no kind of today");
        assert_eq!((error.offset, error.kind), (0, DecodeErrorKind::UnknownKind { kind, rule: "B-1" }));
    }
}

// spec: F-3, F-6, F-19
#[test]
fn kinds_of_frames_to_come_are_told_from_their_header_and_can_be_passed_over() {
    for kind in (0..=255).filter(|&kind| FrameKind::from_number(kind).is_none()) {
        let mut frame = Frame::Ping(7).to_bytes().to_vec();
        frame[3] = kind;
        let error = Frame::decode(Bytes::from(frame.clone())).expect_err("no kind of today");
        assert_eq!((error.offset, error.kind), (3, DecodeErrorKind::UnknownKind { kind, rule: "F-3" }));
        // Its length is where every frame has it, so that a reader can go on behind it.
        let length = u32::from_le_bytes(frame[8..12].try_into().expect("four bytes"));
        assert_eq!(HEADER_BYTES + length as usize, frame.len());
    }
    assert!(FrameKind::RESERVED.iter().all(|(number, _)| FrameKind::from_number(*number).is_none()));
}

/// The generator of this test makes what it says.
#[test]
fn a_value_of_today_has_no_tag_of_tomorrow() {
    for seed in 0..500 {
        let tag = encode_value(&Gen::new(seed).value(3), &mut Vec::new()).expect("within the limits");
        assert!(tag < 0xd0);
    }
}
