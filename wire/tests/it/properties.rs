//! Properties over arbitrary values, over arbitrary bytes, and over valid bytes that were tampered with.
//!
//! The promises themselves are asserted in the bodies of the fuzz targets, so that a fuzzer and this file check the
//! same: decode(encode(x)) = x, encode(decode(b)) = b, borrowed and owned reading accept the same.

use blazedb_wire::testing::{self, Gen};
use blazedb_wire::{Batch, Frame, Row, Shape, Value, ValueRef, encode_value};
use proptest::prelude::*;

/// Encodings of one generated thing of each sort, for the fuzz body that reads it.
type Target = (fn(&mut Gen) -> Vec<u8>, fn(&[u8]));

fn a_value(source: &mut Gen) -> Vec<u8> {
    let value = source.value(4);
    let mut payload = Vec::new();
    let tag = encode_value(&value, &mut payload).expect("generated values are within the limits");
    payload.insert(0, tag);
    payload
}

fn a_row(source: &mut Gen) -> Vec<u8> {
    let row = source.row();
    let mut out = Vec::new();
    row.shape().encode(&mut out);
    out.extend_from_slice(row.body());
    out
}

fn a_batch(source: &mut Gen) -> Vec<u8> {
    source.batch().bytes().to_vec()
}

fn an_envelope(source: &mut Gen) -> Vec<u8> {
    let batch = source.batch();
    let mut out = source.envelope(&batch).to_vec();
    // The fuzz body puts a checksum there.
    out.truncate(out.len() - 4);
    out
}

fn a_frame(source: &mut Gen) -> Vec<u8> {
    source.frame().to_bytes().to_vec()
}

fn some_columns(source: &mut Gen) -> Vec<u8> {
    source.columns().to_vec()
}

const TARGETS: [Target; 10] = [
    (a_value, testing::fuzz_value),
    (a_row, testing::fuzz_row),
    (a_batch, testing::fuzz_batch),
    (an_envelope, testing::fuzz_envelope),
    (a_frame, testing::fuzz_frame),
    (some_columns, testing::fuzz_columns),
    (Gen::compressed, testing::fuzz_compressed),
    (Gen::grpc, testing::fuzz_grpc),
    (Gen::websocket, testing::fuzz_websocket),
    (Gen::explained, testing::fuzz_explain),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn values_round_trip(seed: u64) {
        let value = Gen::new(seed).value(6);
        let mut payload = Vec::new();
        let tag = encode_value(&value, &mut payload).expect("generated values are within the limits");
        prop_assert_eq!(Value::decode(tag, &payload), Ok(value.clone()));
        let borrowed = ValueRef::decode(tag, &payload).expect("canonical");
        prop_assert_eq!(testing::walk(&borrowed), value);
    }

    #[test]
    fn rows_round_trip(seed: u64) {
        let document = Gen::new(seed).document();
        let row = Row::encode(&document).expect("generated documents are within the limits");
        prop_assert_eq!(row.to_document(), document);
        prop_assert_eq!(Row::decode(row.shape().clone(), row.body().clone()), Ok(row));
    }

    #[test]
    fn batches_and_frames_round_trip(seed: u64) {
        let mut source = Gen::new(seed);
        let batch = source.batch();
        prop_assert_eq!(Batch::decode(batch.bytes().clone()), Ok(batch));
        let frame = source.frame();
        prop_assert_eq!(Frame::decode(frame.to_bytes()), Ok(frame));
    }

    #[test]
    fn what_was_encoded_keeps_the_promises(seed: u64) {
        for (make, check) in TARGETS {
            check(&make(&mut Gen::new(seed)));
        }
    }

    #[test]
    fn what_was_tampered_with_keeps_the_promises(seed: u64) {
        for (make, check) in TARGETS {
            let mut source = Gen::new(seed);
            let good = make(&mut source);
            for _ in 0..40 {
                let mut bytes = good.clone();
                for _ in 0..1 + source.below(3) {
                    let at = source.below(bytes.len().max(1));
                    match (source.below(5), bytes.get_mut(at)) {
                        (0, Some(byte)) => *byte ^= 1 << source.below(8),
                        (1, Some(byte)) => *byte = source.u64() as u8,
                        (2, Some(byte)) => *byte = byte.wrapping_add(if source.one_in(2) { 1 } else { 255 }),
                        (3, Some(_)) => {
                            bytes.remove(at);
                        }
                        _ => bytes.insert(at, source.u64() as u8),
                    }
                }
                check(&bytes);
            }
        }
    }

    #[test]
    fn any_bytes_keep_the_promises(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for (_, check) in TARGETS {
            check(&bytes);
        }
    }

    /// Values with arbitrary tags over arbitrary payloads: the tag space is small enough to be hit everywhere.
    #[test]
    fn any_tag_keeps_the_promises(tag: u8, bytes in prop::collection::vec(0u8..12, 0..40)) {
        let mut data = vec![tag];
        data.extend(bytes);
        testing::fuzz_value(&data);
    }

    #[test]
    fn values_of_one_encoding_are_one_value(seed: u64) {
        let mut source = Gen::new(seed);
        let (a, b) = (source.value(2), source.value(2));
        let encode = |value: &Value| {
            let mut payload = Vec::new();
            (encode_value(value, &mut payload).expect("within the limits"), payload)
        };
        prop_assert_eq!(a == b, encode(&a) == encode(&b));
        prop_assert_eq!(a.total_cmp(&b), b.total_cmp(&a).reverse());
    }

    #[test]
    fn shapes_do_not_depend_on_the_order_of_names(seed: u64) {
        let mut source = Gen::new(seed);
        let document = source.document();
        let forward = Shape::new(document.keys());
        let backward = Shape::new(document.keys().rev());
        prop_assert_eq!(forward, backward);
    }
}
