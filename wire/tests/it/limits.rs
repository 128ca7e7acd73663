//! Limits at their edges: N passes, N + 1 fails, in both directions.

use crate::batches::{create, head};
use blazedb_wire::limits::{
    ATTRS_BYTES_MAX, BATCH_DEPS_MAX, BATCH_SHAPES_MAX, DEPTH_MAX, ERROR_TEXT_BYTES_MAX, FIELD_BYTES_MAX, FIELDS_MAX,
    FRAME_BODY_BYTES_MAX, HELLO_REPLICAS_MAX, NAME_BYTES_MAX, ROW_BYTES_MAX, TABLE_KEYS_MAX, TABLE_SHAPES_MAX,
};
use blazedb_wire::{
    Batch, BatchBuilder, BatchHead, DecodeErrorKind, Document, EncodeError, ErrorCode, ErrorFrame, Frame, FrameHeader,
    HEADER_BYTES, Hello, Op, OpId, OpKind, Reads, ReplicaId, Row, Shape, Value, encode_value, validate_body,
    validate_value,
};
use bytes::Bytes;

fn nested(depth: usize, map: bool) -> Value {
    let mut value = Value::Null;
    for _ in 0..depth {
        value = if map { Value::Map([("k", value)].into_iter().collect()) } else { Value::Array(vec![value]) };
    }
    value
}

// spec: L-1, V-21
#[test]
fn depth() {
    for map in [false, true] {
        let mut payload = Vec::new();
        let tag = encode_value(&nested(DEPTH_MAX, map), &mut payload).expect("at the limit");
        assert_eq!(Value::decode(tag, &payload), Ok(nested(DEPTH_MAX, map)));
        let refused = encode_value(&nested(DEPTH_MAX + 1, map), &mut Vec::new());
        assert_eq!(refused, Err(EncodeError::TooDeep));
    }
    // One array more, put around the deepest by hand.
    let mut node = vec![0];
    for _ in 0..DEPTH_MAX {
        node = [&[1, 1, 0xa0][..], &node].concat();
    }
    let payload = [&[0, 0][..], &node].concat();
    let error = validate_value(0xa0, &payload).expect_err("too deep");
    assert_eq!(error.kind, DecodeErrorKind::TooDeep);
    let shallower = [&[0, 0][..], &node[3..]].concat();
    assert_eq!(validate_value(0xa0, &shallower), Ok(()));
}

// spec: L-1
#[test]
fn depth_far_beyond_the_limit_does_not_recurse() {
    let mut node = vec![0];
    for _ in 0..20_000 {
        node.splice(
            0..0,
            [
                1,
                if node.len() > 0xffff {
                    4
                } else if node.len() > 0xff {
                    2
                } else {
                    1
                },
                0xa0,
            ],
        );
    }
    let payload = [&[0, 0][..], &node].concat();
    let error = validate_value(0xa0, &payload).expect_err("too deep");
    assert_eq!(error.kind, DecodeErrorKind::TooDeep);
}

fn wide(count: usize) -> Document {
    (0..count).map(|n| (format!("{n:05}"), Value::Null)).collect()
}

// spec: L-2
#[test]
fn fields() {
    assert!(Row::encode(&wide(FIELDS_MAX)).is_ok());
    assert!(matches!(Row::encode(&wide(FIELDS_MAX + 1)), Err(EncodeError::Limit { what: "fields", .. })));
    let nested = |count| encode_value(&Value::Map(wide(count)), &mut Vec::new());
    assert!(nested(FIELDS_MAX).is_ok());
    assert!(matches!(nested(FIELDS_MAX + 1), Err(EncodeError::Limit { what: "fields", .. })));
}

// spec: L-3
#[test]
fn names() {
    let named = |len: usize| -> Document { [("n".repeat(len), 1)].into_iter().collect() };
    assert!(Row::encode(&named(NAME_BYTES_MAX)).is_ok());
    assert!(Row::encode(&named(NAME_BYTES_MAX + 1)).is_err());
    let nested = |len| encode_value(&Value::Map(named(len)), &mut Vec::new());
    assert!(nested(NAME_BYTES_MAX).is_ok());
    assert!(matches!(nested(NAME_BYTES_MAX + 1), Err(EncodeError::Limit { what: "key bytes", .. })));
    let collection = |len: usize| {
        let op = Op { collection: "c".repeat(len).into(), ..create(&Document::new()) };
        BatchBuilder::new(head()).try_push(&op)
    };
    assert_eq!(collection(NAME_BYTES_MAX), Ok(true));
    assert!(matches!(collection(NAME_BYTES_MAX + 1), Err(EncodeError::Limit { .. })));
}

// spec: L-4, L-5
#[test]
fn rows_and_fields() {
    let of = |len: usize| Row::encode(&[("a", Value::Text("x".repeat(len)))].into_iter().collect());
    // Shape 3, width and tag 2.
    let row = of(ROW_BYTES_MAX - 5).expect("at the limit");
    assert!(Row::decode(row.shape().clone(), row.body().clone()).is_ok());
    assert!(matches!(of(ROW_BYTES_MAX - 4), Err(EncodeError::Limit { what: "row bytes", .. })));
    let mut longer = row.body().to_vec();
    longer.push(b'x');
    let error = Row::decode(row.shape().clone(), Bytes::from(longer)).expect_err("one byte too long");
    assert!(matches!(error.kind, DecodeErrorKind::Limit { what: "row bytes", .. }));
    let body = vec![0; ROW_BYTES_MAX + 1];
    assert!(matches!(validate_body(1, &body).map_err(|error| error.kind), Err(DecodeErrorKind::Limit { .. })));

    let bytes = |len: usize| encode_value(&Value::Bytes(vec![0; len]), &mut Vec::new());
    assert_eq!(bytes(FIELD_BYTES_MAX), Ok(0x90));
    assert!(matches!(bytes(FIELD_BYTES_MAX + 1), Err(EncodeError::Limit { what: "field bytes", .. })));
    assert_eq!(validate_value(0x90, &vec![0; FIELD_BYTES_MAX]), Ok(()));
    assert!(validate_value(0x90, &vec![0; FIELD_BYTES_MAX + 1]).is_err());
    let parts = Value::Array(vec![Value::Bytes(vec![0; FIELD_BYTES_MAX]), Value::Null]);
    let mut heap = b"kept".to_vec();
    assert!(matches!(encode_value(&parts, &mut heap), Err(EncodeError::Limit { what: "field bytes", .. })));
    assert_eq!(heap, b"kept", "an error leaves the heap as it was");
}

// spec: L-6, L-7
#[test]
fn key_tables() {
    // Maps of 4096 fields each, so that only the number of keys is at its limit.
    let keys = |count: usize| {
        let all: Vec<usize> = (0..count).collect();
        let maps = all
            .chunks(FIELDS_MAX)
            .map(|chunk| Value::Map(chunk.iter().map(|n| (format!("{n:05}"), Value::Null)).collect()));
        Value::Array(maps.collect())
    };
    let mut payload = Vec::new();
    let tag = encode_value(&keys(TABLE_KEYS_MAX), &mut payload).expect("at the limit");
    assert_eq!(Value::decode(tag, &payload), Ok(keys(TABLE_KEYS_MAX)));
    let refused = encode_value(&keys(TABLE_KEYS_MAX + 1), &mut Vec::new());
    assert!(matches!(refused, Err(EncodeError::Limit { what: "keys in a table", .. })));

    // Subsets of 13 names.
    let shapes = |count: usize| {
        let subset = |n: usize| -> Document {
            (0..13).filter(|bit| n >> bit & 1 == 1).map(|bit| (format!("{bit:02}"), Value::Null)).collect()
        };
        Value::Array((0..count).map(|n| Value::Map(subset(n))).collect())
    };
    let mut payload = Vec::new();
    let tag = encode_value(&shapes(TABLE_SHAPES_MAX), &mut payload).expect("at the limit");
    assert_eq!(Value::decode(tag, &payload), Ok(shapes(TABLE_SHAPES_MAX)));
    let refused = encode_value(&shapes(TABLE_SHAPES_MAX + 1), &mut Vec::new());
    assert!(matches!(refused, Err(EncodeError::Limit { what: "shapes in a table", .. })));
}

// spec: L-11
#[test]
fn shapes_in_a_batch() {
    let mut builder = BatchBuilder::new(head());
    for n in 0..BATCH_SHAPES_MAX {
        let op = create(&[(format!("{n}"), 1)].into_iter().collect());
        assert_eq!(builder.try_push(&op), Ok(true), "{n}");
    }
    let one_more = create(&[("one more", 1)].into_iter().collect());
    assert_eq!(builder.try_push(&one_more), Ok(false));
    let again = create(&[("7", 1)].into_iter().collect());
    assert_eq!(builder.try_push(&again), Ok(true), "a shape that is known");
    assert!(Batch::decode(builder.finish().expect("complete")).is_ok());
}

// spec: L-13, L-14
#[test]
fn dependencies_and_attributes() {
    let deps = |count: u32| -> Vec<OpId> {
        let id = |n: u32| {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&n.to_be_bytes());
            ReplicaId(id)
        };
        (0..count).map(|n| OpId { replica: id(n), counter: 1 }).collect()
    };
    let push = |head: BatchHead, attrs: usize| {
        let op = Op { attrs: Bytes::from(vec![0; attrs]), ..create(&Document::new()) };
        BatchBuilder::new(head).try_push(&op)
    };
    let max = BATCH_DEPS_MAX as u32;
    assert_eq!(push(BatchHead { deps: deps(max), ..head() }, 0), Ok(true));
    assert!(push(BatchHead { deps: deps(max + 1), ..head() }, 0).is_err());
    assert_eq!(push(head(), ATTRS_BYTES_MAX), Ok(true));
    assert!(push(head(), ATTRS_BYTES_MAX + 1).is_err());
    assert_eq!(push(BatchHead { attrs: Bytes::from(vec![0; ATTRS_BYTES_MAX]), ..head() }, 0), Ok(true));
    assert!(push(BatchHead { attrs: Bytes::from(vec![0; ATTRS_BYTES_MAX + 1]), ..head() }, 0).is_err());
}

// spec: L-15
#[test]
fn frame_bodies() {
    let header = |length: usize| {
        let mut bytes = *Frame::Bye.to_bytes().first_chunk::<HEADER_BYTES>().expect("a header");
        bytes[8..12].copy_from_slice(&(length as u32).to_le_bytes());
        FrameHeader::decode(&bytes).map_err(|error| error.kind)
    };
    assert_eq!(header(FRAME_BODY_BYTES_MAX).map(|header| header.length as usize), Ok(FRAME_BODY_BYTES_MAX));
    assert!(matches!(header(FRAME_BODY_BYTES_MAX + 1), Err(DecodeErrorKind::Limit { what: "frame body bytes", .. })));
}

// spec: L-16
#[test]
fn replicas_in_a_hello() {
    let hello = |count: usize| {
        let replicas = vec![ReplicaId([5; 16]); count];
        let frame =
            Frame::Hello(Hello { protocol: 1, space: None, epoch: 0, cursor: 0, reads: Reads::default(), replicas });
        Frame::decode(frame.to_bytes()).map_err(|error| error.kind)
    };
    assert!(hello(HELLO_REPLICAS_MAX).is_ok());
    assert!(matches!(hello(HELLO_REPLICAS_MAX + 1), Err(DecodeErrorKind::Limit { what: "replicas in a Hello", .. })));
}

// spec: L-17
#[test]
fn error_texts_are_cut_between_characters() {
    let text = format!("{}\u{e9}", "x".repeat(ERROR_TEXT_BYTES_MAX - 1));
    let frame = Frame::Error(ErrorFrame::fatal(ErrorCode::Malformed, text));
    let Ok(Frame::Error(back)) = Frame::decode(frame.to_bytes()) else { panic!("a cut text is accepted") };
    assert_eq!(back.text, "x".repeat(ERROR_TEXT_BYTES_MAX - 1));
}

/// Naming a large shape costs its sender two bytes; a reader must not pay for all its names each time.
#[test]
fn one_large_shape_can_be_unset_thousands_of_times() {
    let unset = Shape::new((0..FIELDS_MAX).map(|n| format!("{n:05}"))).expect("distinct names");
    let set = Row::encode(&[("a", 1)].into_iter().collect()).expect("small");
    let op = Op { kind: OpKind::Update, set: Some(set), unset, ..create(&Document::new()) };
    let mut builder = BatchBuilder::new(head());
    while builder.try_push(&op) == Ok(true) {}
    assert!(builder.len() > 8000);
    let batch = Batch::decode(builder.finish().expect("complete")).expect("canonical");
    assert!(batch.len() > 8000);
}
