//! Vectors that are refused, with the error and where it is found.

use super::raw::{RawBatch, RawColumns, RawEnvelope, RawOp, frame, frame_with, prefixed, uvarint};
use super::{Vector, What, hex};
use crate::batches::{create, head};
use crate::columns::of_each_class;
use blazedb_wire::{Batch, BatchBuilder, BatchHead, Columns, Value};

pub(super) fn vector(what: What, name: &str, spec: &str, bytes: &[u8], error: &str, at: usize) -> Vector {
    Vector {
        name: name.to_owned(),
        what,
        spec: spec.to_owned(),
        hex: hex(bytes),
        expected: Err((error.to_owned(), at)),
    }
}

/// What, name, rules, bytes, error, offset.
type Refused<'a> = (What, &'a str, &'a str, &'a [u8], &'a str, usize);

pub(super) fn values() -> Vec<Vector> {
    let list: &[Refused<'_>] = &[
        (What::Uvarint, "uvarint-overlong-zero", "V-1", &[0x80, 0], "Overlong", 0),
        (What::Uvarint, "uvarint-overlong", "V-1", &[0xff, 0x80, 0], "Overlong", 0),
        (What::Uvarint, "uvarint-of-65-bits", "V-2", &[255, 255, 255, 255, 255, 255, 255, 255, 255, 2], "Overlong", 0),
        (What::Uvarint, "uvarint-of-eleven-bytes", "V-2", &[0x80; 11], "Overlong", 0),
        (What::Uvarint, "uvarint-cut", "V-1", &[0x80], "UnexpectedEnd", 0),
        (What::Uvarint, "uvarint-trailing", "V-4", &[1, 0], "TrailingBytes 1", 1),
        // Tags.
        (What::Value, "tag-simple-3", "V-5", &[0x03], "BadTag 03", 1),
        (What::Value, "tag-integer-0", "V-5", &[0x20], "BadTag 20", 1),
        (What::Value, "tag-integer-9", "V-5", &[0x29], "BadTag 29", 1),
        (What::Value, "tag-unsigned-4", "V-5", &[0x34, 0, 0, 0, 0], "BadTag 34", 1),
        (What::Value, "tag-float-2", "V-5", &[0x42, 0, 0], "BadTag 42", 1),
        (What::Value, "tag-timestamp-9", "V-5", &[0x69], "BadTag 69", 1),
        (What::Value, "tag-uuid-1", "V-5", &[0x71], "BadTag 71", 1),
        (What::Value, "tag-text-1", "V-5", &[0x81], "BadTag 81", 1),
        (What::Value, "tag-bytes-1", "V-5", &[0x91], "BadTag 91", 1),
        (What::Value, "tag-array-1", "V-5", &[0xa1, 0, 0, 0], "BadTag a1", 1),
        (What::Value, "tag-map-1", "V-5", &[0xb1, 0, 1, 0, 0], "BadTag b1", 1),
        (What::Value, "tag-vector-0", "V-5", &[0xc0], "BadTag c0", 1),
        (What::Value, "tag-vector-2", "V-5", &[0xc2, 0, 0], "BadTag c2", 1),
        (What::Value, "reserved-container", "V-6", &[0xd1], "ReservedTag d1", 1),
        (What::Value, "reserved-extension", "V-6", &[0xe2], "ReservedTag e2", 1),
        (What::Value, "reserved-last", "V-6", &[0xff], "ReservedTag ff", 1),
        // Scalars.
        (What::Value, "null-with-payload", "V-7", &[0x00, 0], "TrailingBytes 1", 1),
        (What::Value, "small-integer-with-payload", "V-7", &[0x11, 1], "TrailingBytes 1", 1),
        (What::Value, "integer-cut", "V-7", &[0x22, 1], "UnexpectedEnd", 1),
        (What::Value, "integer-too-long", "V-7", &[0x21, 9, 9], "TrailingBytes 1", 2),
        (What::Value, "integer-7-not-small", "V-8", &[0x21, 7], "NotCanonical V-8", 1),
        (What::Value, "integer-minus-8-not-small", "V-8", &[0x21, 0xf8], "NotCanonical V-8", 1),
        (What::Value, "integer-127-wide", "V-8", &[0x22, 0x7f, 0], "NotCanonical V-8", 1),
        (What::Value, "integer-minus-128-wide", "V-8", &[0x22, 0x80, 0xff], "NotCanonical V-8", 1),
        (
            What::Value,
            "unsigned-in-signed-range",
            "V-9",
            &[0x38, 255, 255, 255, 255, 255, 255, 255, 127],
            "NotCanonical V-9",
            1,
        ),
        (What::Value, "unsigned-cut", "V-7", &[0x38, 0, 0, 0, 0, 0, 0, 0x80], "UnexpectedEnd", 1),
        (What::Value, "float-zero-in-four-bytes", "V-10", &[0x44, 0, 0, 0, 0], "NotCanonical V-10", 1),
        (What::Value, "float-zero-in-eight-bytes", "V-10", &[0x48, 0, 0, 0, 0, 0, 0, 0, 0], "NotCanonical V-10", 1),
        (
            What::Value,
            "float-one-in-eight-bytes",
            "V-10",
            &[0x48, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f],
            "NotCanonical V-10",
            1,
        ),
        (What::Value, "float-other-nan", "V-11", &[0x44, 1, 0, 0xc0, 0x7f], "NotCanonical V-11", 1),
        (What::Value, "float-negative-nan", "V-11", &[0x44, 0, 0, 0xc0, 0xff], "NotCanonical V-11", 1),
        (What::Value, "float-wide-nan", "V-11", &[0x48, 0, 0, 0, 0, 0, 0, 0xf8, 0x7f], "NotCanonical V-11", 1),
        (What::Value, "decimal-zero-in-one-byte", "V-24", &[0x50, 0], "NotCanonical V-24", 1),
        (What::Value, "decimal-zero-with-places", "V-24", &[0x52], "NotCanonical V-24", 1),
        (What::Value, "decimal-one-in-two-bytes", "V-24", &[0x50, 1, 0], "NotCanonical V-24", 1),
        (What::Value, "decimal-of-fewer-places", "V-24", &[0x52, 100], "NotCanonical V-24", 1),
        (What::Value, "decimal-places-not-in-the-tag", "V-24", &[0x5f, 14, 1], "NotCanonical V-24", 1),
        (What::Value, "decimal-places-cut", "V-24", &[0x5f], "UnexpectedEnd", 1),
        (What::Value, "decimal-of-39-places", "V-24, L-21", &[0x5f, 39, 1], "Limit decimal places", 1),
        (
            What::Value,
            "decimal-of-17-bytes",
            "V-24, L-21",
            &[0x50, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
            "TrailingBytes 1",
            17,
        ),
        (What::Value, "vector-32-cut", "V-25", &[0xc4, 0, 0, 0x80, 0x3f, 0, 0], "UnexpectedEnd", 5),
        (What::Value, "vector-64-cut", "V-25", &[0xc8, 0, 0, 0x80, 0x3f], "UnexpectedEnd", 1),
        (What::Value, "vector-32-other-nan", "V-26", &[0xc4, 0, 0, 0, 0, 1, 0, 0xc0, 0x7f], "NotCanonical V-26", 5),
        (What::Value, "vector-32-negative-nan", "V-26", &[0xc4, 0, 0, 0xc0, 0xff], "NotCanonical V-26", 1),
        (
            What::Value,
            "vector-64-other-nan",
            "V-26",
            &[0xc8, 0, 0, 0, 0, 0, 0, 0xf0, 0xff, 1, 0, 0, 0, 0, 0, 0xf8, 0x7f],
            "NotCanonical V-26",
            9,
        ),
        (What::Value, "timestamp-zero-in-one-byte", "V-12", &[0x61, 0], "NotCanonical V-12", 1),
        (What::Value, "timestamp-one-in-two-bytes", "V-12", &[0x62, 1, 0], "NotCanonical V-12", 1),
        (What::Value, "uuid-cut", "V-7", &[0x70, 1, 2, 3], "UnexpectedEnd", 1),
        (What::Value, "text-not-utf8", "V-3", &[0x80, b'a', 0xff], "Utf8", 2),
        (What::Value, "text-surrogate", "V-3", &[0x80, 0xed, 0xa0, 0x80], "Utf8", 1),
        (What::Value, "text-overlong-slash", "V-3", &[0x80, 0xc0, 0xaf], "Utf8", 1),
        // Sequences. After the tag: no keys, no shapes, the number of items.
        (What::Value, "array-without-table", "V-16", &[0xa0], "UnexpectedEnd", 1),
        (What::Value, "array-cut-before-items", "V-13", &[0xa0, 0, 0], "UnexpectedEnd", 3),
        (What::Value, "array-empty-with-body", "V-13", &[0xa0, 0, 0, 0, 1], "TrailingBytes 1", 4),
        (What::Value, "array-width-3", "V-14", &[0xa0, 0, 0, 1, 3, 0], "NotCanonical V-14", 4),
        (What::Value, "array-width-0", "V-14", &[0xa0, 0, 0, 1, 0, 0], "NotCanonical V-14", 4),
        (What::Value, "array-width-too-wide", "V-14", &[0xa0, 0, 0, 1, 2, 0], "NotCanonical V-14", 4),
        (What::Value, "array-ends-cut", "V-13", &[0xa0, 0, 0, 3, 1, 0, 0, 0, 0], "UnexpectedEnd", 4),
        (What::Value, "array-more-items-than-bytes", "V-13", &[0xa0, 0, 0, 9, 1, 0], "UnexpectedEnd", 4),
        (What::Value, "array-ends-beyond-heap", "V-15", &[0xa0, 0, 0, 2, 1, 0x80, 0x80, 2, b'x'], "Order V-15", 7),
        (
            What::Value,
            "array-ends-decrease",
            "V-15",
            &[0xa0, 0, 0, 3, 1, 0x80, 0x80, 0x80, 1, 0, b'x'],
            "Order V-15",
            9,
        ),
        (What::Value, "array-item-trailing", "V-7", &[0xa0, 0, 0, 1, 1, 0, 9], "TrailingBytes 1", 6),
        (What::Value, "array-item-refused", "V-8", &[0xa0, 0, 0, 2, 1, 0, 0x21, 0, 7], "NotCanonical V-8", 8),
        // Key tables.
        (What::Value, "table-key-cut", "V-16", &[0xa0, 1, 5, b'a'], "UnexpectedEnd", 3),
        (What::Value, "table-key-not-utf8", "V-3", &[0xb0, 1, 1, 0xff, 1, 1, 0, 0, 1, 0], "Utf8", 3),
        (What::Value, "table-key-unused", "V-17", &[0xa0, 1, 1, b'a', 0, 0], "NotCanonical V-17", 1),
        (
            What::Value,
            "table-keys-in-other-order",
            "V-17",
            &[0xb0, 2, 1, b'b', 1, b'a', 1, 2, 1, 0, 0, 1, 0, 0, 0],
            "NotCanonical V-17",
            8,
        ),
        (
            What::Value,
            "table-key-twice",
            "V-16",
            &[0xa0, 2, 1, b'a', 1, b'a', 2, 1, 0, 1, 1, 2, 1, 0xb0, 0xb0, 3, 0, 1, 0, 1, 1, 0],
            "NotCanonical V-16",
            1,
        ),
        (
            What::Value,
            "table-key-index-too-large",
            "V-17",
            &[0xb0, 1, 1, b'a', 1, 1, 1, 0, 1, 0],
            "OutOfRange key index",
            6,
        ),
        (
            What::Value,
            "table-shape-descends",
            "V-18",
            &[0xb0, 2, 1, b'b', 1, b'a', 1, 2, 0, 1, 0, 1, 0, 0, 0],
            "Order V-18",
            9,
        ),
        (
            What::Value,
            "table-shape-repeats-a-key",
            "V-18",
            &[0xb0, 1, 1, b'a', 1, 2, 0, 0, 0, 1, 0, 0, 0],
            "Order V-18",
            7,
        ),
        (
            What::Value,
            "table-shape-twice",
            "V-19",
            &[0xa0, 0, 2, 0, 0, 2, 1, 0xb0, 0xb0, 1, 0, 1],
            "NotCanonical V-19",
            2,
        ),
        (What::Value, "table-shape-unused", "V-20", &[0xa0, 0, 1, 0, 0], "NotCanonical V-20", 1),
        (
            What::Value,
            "table-shapes-in-other-order",
            "V-20",
            &[0xa0, 1, 1, b'a', 2, 1, 0, 0, 2, 1, 0xb0, 0xb0, 1, 1, 0, 1, 0],
            "NotCanonical V-20",
            13,
        ),
        (What::Value, "map-shape-index-too-large", "V-20", &[0xb0, 0, 1, 0, 1], "OutOfRange shape index", 4),
        (What::Value, "map-without-shapes", "V-20", &[0xb0, 0, 0, 0], "OutOfRange shape index", 3),
        (What::Value, "map-empty-with-body", "V-13", &[0xb0, 0, 1, 0, 0, 1], "TrailingBytes 1", 5),
        // Shapes and rows.
        (What::Shape, "shape-descends", "V-22", b"\x02\x01b\x01a", "Order V-22", 3),
        (What::Shape, "shape-repeats", "V-22", b"\x02\x01a\x01a", "Order V-22", 3),
        (What::Shape, "shape-cut", "V-22", b"\x02\x01a", "UnexpectedEnd", 3),
        (What::Shape, "shape-trailing", "V-4", b"\x01\x01a\x00", "TrailingBytes 1", 3),
        (What::Shape, "shape-of-too-many-names", "L-2", &[0x81, 0x20], "Limit fields", 0),
        (What::Shape, "shape-overlong-count", "V-1", &[0x81, 0x00, 1, b'a'], "Overlong", 0),
        (What::Row, "row-cut", "V-23", b"\x02\x01a\x01b\x01", "UnexpectedEnd", 5),
        (What::Row, "row-without-body", "V-23", b"\x01\x01a", "UnexpectedEnd", 3),
        (What::Row, "row-empty-with-body", "V-23, V-13", b"\x00\x01", "TrailingBytes 1", 1),
        (What::Row, "row-reserved-field", "V-6", b"\x01\x01a\x01\xd0", "ReservedTag d0", 5),
        (What::Row, "row-ends-beyond-heap", "V-15", b"\x02\x01a\x01b\x01\x80\x80\x05x", "Order V-15", 8),
    ];
    let mut out: Vec<Vector> =
        list.iter().map(|(what, name, spec, bytes, error, at)| vector(*what, name, spec, bytes, error, *at)).collect();
    let too_large = [&[0x50][..], &10i128.pow(38).to_le_bytes()].concat();
    out.push(vector(What::Value, "decimal-of-39-digits", "V-24, L-21", &too_large, "Limit decimal digits", 1));
    let mut long_name = vec![1];
    long_name.extend(prefixed(&[b'n'; 256]));
    out.push(vector(What::Shape, "shape-of-too-long-a-name", "L-3", &long_name, "Limit field name bytes", 1));
    let keys = [&[0xb0][..], &uvarint(16_385)].concat();
    out.push(vector(What::Value, "table-of-too-many-keys", "L-6", &keys, "Limit keys in a table", 1));
    let shapes = [&[0xb0, 0][..], &uvarint(4097)].concat();
    out.push(vector(What::Value, "table-of-too-many-shapes", "L-7", &shapes, "Limit shapes in a table", 2));
    // Arrays in arrays, 33 deep.
    let mut node = vec![0];
    for _ in 0..32 {
        node.splice(0..0, [1, 1, 0xa0]);
    }
    let deep = [&[0xa0, 0, 0][..], &node].concat();
    out.push(vector(What::Value, "array-33-deep", "V-21, L-1", &deep, "TooDeep", deep.len() - 1));
    out
}

pub(super) fn batches() -> Vec<Vector> {
    let good = RawBatch::default();
    let (tables, first) = good.offsets();
    let batch = |name, spec, raw: RawBatch, error, at| vector(What::Batch, name, spec, &raw.bytes(), error, at);
    let one = |op: RawOp| RawBatch { ops: vec![op.bytes()], ..RawBatch::default() };
    let op = |name, spec, op: RawOp, error, at| batch(name, spec, one(op), error, first + 1 + at);
    let raw = RawOp::default;
    // Where the parts after the document id start in an operation.
    let rest = 2 + 3 + 16;
    let dep = |id: u8, counter: u8| [&[id; 16][..], &[counter]].concat();
    let deps = |list: &[Vec<u8>]| [&uvarint(list.len() as u64)[..], &list.concat()].concat();
    let two_shapes = b"\x02\x01\x01a\x01\x01b".to_vec();
    let update = |flags: u8, rest: &[u8]| RawOp { flags: 1 | flags, rest: rest.to_vec(), ..raw() };
    let with_shapes = |shapes: &[u8], op: RawOp| RawBatch { shapes: shapes.to_vec(), ..one(op) };
    let shifted = |shapes: &[u8], at: usize| first + 1 + at + shapes.len() - good.shapes.len();
    let mut out = vec![
        batch("batch-columnar", "B-1", RawBatch { kind: 1, ..good.clone() }, "UnknownKind 1", 0),
        batch("batch-unknown-kind", "B-1", RawBatch { kind: 2, ..good.clone() }, "UnknownKind 2", 0),
        batch(
            "batch-counter-zero",
            "B-2",
            RawBatch { first_counter: vec![0], ..good.clone() },
            "OutOfRange first counter",
            33,
        ),
        batch(
            "batch-counter-too-large",
            "B-2",
            RawBatch { first_counter: uvarint(u64::MAX), ..good.clone() },
            "OutOfRange first counter",
            33,
        ),
        batch(
            "batch-counter-overlong",
            "V-1",
            RawBatch { first_counter: vec![0x81, 0], ..good.clone() },
            "Overlong",
            33,
        ),
        batch("batch-epoch-too-large", "O-17", RawBatch { epoch: uvarint(1 << 32), ..good.clone() }, "Limit epoch", 42),
        batch(
            "batch-deps-descend",
            "B-3",
            RawBatch { deps: deps(&[dep(2, 1), dep(1, 1)]), ..good.clone() },
            "Order B-3",
            44 + 1 + 17,
        ),
        batch(
            "batch-dep-twice",
            "B-3",
            RawBatch { deps: deps(&[dep(1, 1), dep(1, 2)]), ..good.clone() },
            "Order B-3",
            44 + 1 + 17,
        ),
        batch(
            "batch-dep-counter-zero",
            "B-3",
            RawBatch { deps: deps(&[dep(1, 0)]), ..good.clone() },
            "OutOfRange dependency counter",
            44 + 1 + 16,
        ),
        batch(
            "batch-too-many-deps",
            "L-13",
            RawBatch { deps: uvarint(1025), ..good.clone() },
            "Limit dependencies",
            44,
        ),
        batch(
            "batch-attributes-too-long",
            "L-14",
            RawBatch { attrs: prefixed(&[0; 1025]), ..good.clone() },
            "Limit attributes bytes",
            45,
        ),
        batch(
            "batch-collection-empty-name",
            "L-3, B-6",
            RawBatch { collections: b"\x01\x00".to_vec(), ..good.clone() },
            "OutOfRange collection name bytes",
            tables + 1,
        ),
        batch(
            "batch-collection-not-utf8",
            "V-3",
            RawBatch { collections: b"\x01\x01\xff".to_vec(), ..good.clone() },
            "Utf8",
            tables + 2,
        ),
        batch(
            "batch-collection-twice",
            "B-6",
            RawBatch { collections: b"\x02\x01c\x01c".to_vec(), ..good.clone() },
            "NotCanonical B-6",
            tables,
        ),
        batch(
            "batch-collection-unused",
            "B-6",
            RawBatch { collections: b"\x02\x01c\x01d".to_vec(), ..good.clone() },
            "NotCanonical B-6",
            0,
        ),
        batch(
            "batch-too-many-collections",
            "L-12",
            RawBatch { collections: uvarint(4097), ..good.clone() },
            "Limit collections in a batch",
            tables,
        ),
        batch(
            "batch-shape-twice",
            "B-7",
            RawBatch { shapes: b"\x02\x01\x01a\x01\x01a".to_vec(), ..good.clone() },
            "NotCanonical B-7",
            tables + 3,
        ),
        batch(
            "batch-shape-unused",
            "B-7",
            RawBatch { shapes: two_shapes.clone(), ..good.clone() },
            "NotCanonical B-7",
            0,
        ),
        batch(
            "batch-too-many-shapes",
            "L-11",
            RawBatch { shapes: uvarint(4097), ..good.clone() },
            "Limit shapes in a batch",
            tables + 3,
        ),
        batch(
            "batch-without-operations",
            "B-8",
            RawBatch { ops: vec![], ..good.clone() },
            "OutOfRange operations in a batch",
            first - 1,
        ),
        batch(
            "batch-too-many-operations",
            "L-10",
            RawBatch { count: Some(uvarint(65_537)), ..good.clone() },
            "Limit operations in a batch",
            first - 1,
        ),
        batch(
            "batch-fewer-operations-than-said",
            "B-12",
            RawBatch { count: Some(vec![2]), ..good.clone() },
            "UnexpectedEnd",
            first,
        ),
        batch(
            "batch-trailing",
            "V-4",
            RawBatch { after: vec![0], ..good.clone() },
            "TrailingBytes 1",
            good.bytes().len(),
        ),
        batch("batch-base-hlc-too-small", "B-4", one(RawOp { hlc: vec![1], ..raw() }), "NotCanonical B-4", 0),
        batch("batch-base-cursor-too-small", "B-5", one(RawOp { cursor: vec![1], ..raw() }), "NotCanonical B-5", 0),
        batch(
            "batch-hlc-overflows",
            "B-10",
            RawBatch { base_hlc: u64::MAX, ..one(RawOp { hlc: vec![1], ..raw() }) },
            "OutOfRange timestamp delta",
            first + 1 + 2,
        ),
        batch(
            "batch-open-transaction",
            "B-9",
            one(RawOp { flags: 8, ..raw() }),
            "NotCanonical B-9",
            good.bytes().len(),
        ),
        // Operations.
        op("op-unknown-kind", "O-1", RawOp { flags: 3, ..raw() }, "UnknownKind 3", 0),
        op("op-spare-bit-6", "O-3", RawOp { flags: 1 << 6, ..raw() }, "NotCanonical O-3", 0),
        op("op-spare-bit-7", "O-3", RawOp { flags: 1 << 7, ..raw() }, "NotCanonical O-3", 0),
        op("op-create-unsets", "O-4", RawOp { flags: 1 << 4, ..raw() }, "NotCanonical O-4", 0),
        op("op-merge-counter", "O-2", RawOp { merge: 1, ..raw() }, "ReservedTag 01", 1),
        op("op-merge-custom", "O-2", RawOp { merge: 6, ..raw() }, "ReservedTag 06", 1),
        op("op-merge-unknown", "O-2", RawOp { merge: 7, ..raw() }, "UnknownKind 7", 1),
        op(
            "op-attributes-empty",
            "O-5",
            RawOp { flags: 1 << 5, rest: vec![0, 0, 1, 2], ..raw() },
            "NotCanonical O-5",
            rest,
        ),
        op(
            "op-collection-index-too-large",
            "O-6",
            RawOp { collection: vec![1], ..raw() },
            "OutOfRange collection index",
            4,
        ),
        op("op-shape-index-too-large", "O-6", RawOp { rest: vec![1, 1, 2], ..raw() }, "OutOfRange shape index", rest),
        op("op-body-refused", "V-23, V-5", RawOp { rest: vec![0, 1, 3], ..raw() }, "BadTag 03", rest + 3),
        op("op-body-cut", "V-23", RawOp { rest: vec![0, 1], ..raw() }, "UnexpectedEnd", rest + 1),
        op("op-delete-with-row", "O-10", RawOp { flags: 2, ..raw() }, "TrailingBytes 3", rest),
        batch(
            "op-update-of-nothing",
            "O-9",
            with_shapes(b"\x01\x00", update(0, &[0])),
            "NotCanonical O-9",
            shifted(b"\x01\x00", rest),
        ),
        batch(
            "op-unset-nothing",
            "O-7",
            with_shapes(b"\x02\x01\x01a\x00", update(16, &[0, 1, 1, 2])),
            "NotCanonical O-7",
            shifted(b"\x02\x01\x01a\x00", rest),
        ),
        batch(
            "op-sets-and-unsets-one-name",
            "O-8",
            with_shapes(b"\x01\x01\x01a", update(16, &[0, 0, 1, 2])),
            "NotCanonical O-8",
            first + 1 + rest,
        ),
        batch(
            "op-shapes-in-other-order",
            "B-7",
            with_shapes(&two_shapes, update(16, &[1, 0, 1, 2])),
            "NotCanonical B-7",
            shifted(&two_shapes, rest),
        ),
    ];
    let other_order =
        RawBatch { collections: b"\x02\x01c\x01d".to_vec(), ..one(RawOp { collection: vec![1], ..raw() }) };
    out.push(batch("batch-collections-in-other-order", "B-6", other_order, "NotCanonical B-6", first + 2 + 1 + 4));

    let envelope =
        |name, spec, raw: RawEnvelope, error, at| vector(What::Envelope, name, spec, &raw.bytes(), error, at);
    let good = RawEnvelope::default();
    let mut damaged = good.bytes();
    damaged[0] ^= 1;
    out.extend([
        vector(What::Envelope, "envelope-damaged", "F-11", &damaged, "Checksum", damaged.len() - 4),
        vector(What::Envelope, "envelope-shorter-than-its-checksum", "F-11", &[0, 0, 0], "UnexpectedEnd", 0),
        envelope(
            "envelope-epoch-too-large",
            "O-17",
            RawEnvelope { epoch: uvarint(1 << 32), ..good.clone() },
            "Limit epoch",
            0,
        ),
        envelope(
            "envelope-numbers-run-out",
            "F-14",
            RawEnvelope { first_seq: uvarint(u64::MAX), ..good.clone() },
            "OutOfRange first sequence number",
            1,
        ),
        envelope(
            "envelope-counter-zero",
            "B-2",
            RawEnvelope { first_counter: vec![0], ..good.clone() },
            "OutOfRange first counter",
            26,
        ),
        envelope(
            "envelope-without-operations",
            "B-8",
            RawEnvelope { n: vec![0], ..good.clone() },
            "OutOfRange operations in a batch",
            27,
        ),
        envelope(
            "envelope-unknown-verdict",
            "F-12",
            RawEnvelope { verdicts: vec![1, 4, 1], ..good.clone() },
            "OutOfRange verdict",
            29,
        ),
        envelope(
            "envelope-empty-transaction",
            "F-12",
            RawEnvelope { verdicts: vec![1, 0, 0], ..good.clone() },
            "OutOfRange operations in a transaction",
            30,
        ),
        envelope(
            "envelope-transactions-too-long",
            "F-12",
            RawEnvelope { verdicts: vec![1, 0, 2], ..good.clone() },
            "OutOfRange operations in a transaction",
            30,
        ),
        envelope(
            "envelope-transactions-too-short",
            "F-12",
            RawEnvelope { n: vec![2], ..good.clone() },
            "NotCanonical F-12",
            31,
        ),
        envelope(
            "envelope-too-many-transactions",
            "F-12",
            RawEnvelope { verdicts: vec![2, 0, 1, 0, 1], ..good.clone() },
            "Limit transactions",
            28,
        ),
        envelope(
            "envelope-absorbed-spare-bit",
            "F-13",
            RawEnvelope { bitmaps: vec![2, 0], ..good.clone() },
            "NotCanonical F-13",
            31,
        ),
        envelope(
            "envelope-repeated-spare-bit",
            "F-13",
            RawEnvelope { bitmaps: vec![0, 0x80], ..good.clone() },
            "NotCanonical F-13",
            32,
        ),
        envelope("envelope-bitmap-cut", "F-13", RawEnvelope { bitmaps: vec![0], ..good.clone() }, "UnexpectedEnd", 32),
        envelope("envelope-trailing", "V-4", RawEnvelope { after: vec![0], ..good }, "TrailingBytes 1", 33),
    ]);
    out
}

pub(super) fn frames() -> Vec<Vector> {
    let list = |name: &str, spec: &str, bytes: Vec<u8>, error: &str, at: usize| {
        vector(What::Frame, name, spec, &bytes, error, at)
    };
    let entry =
        |envelope: &RawEnvelope, batch: &RawBatch| frame(5, &[prefixed(&envelope.bytes()), batch.bytes()].concat());
    let (envelope, batch) = (RawEnvelope::default(), RawBatch::default());
    let hello = |flags: u8, space: u8| [&[1, flags][..], &[space; 16], &[0, 0, 0]].concat();
    let error = |code: &[u8], fatal: u8, text: &[u8]| [code, &[fatal, 0], &prefixed(text)].concat();
    let mut damaged = frame(9, &[]);
    damaged[15] ^= 1;
    let mut longer = frame(9, &[]);
    longer.push(7);
    let mut two_ops = batch.clone();
    two_ops.ops = vec![RawOp { flags: 8, ..RawOp::default() }.bytes(), RawOp::default().bytes()];
    let torn = RawEnvelope { n: vec![2], verdicts: vec![2, 0, 1, 0, 1], ..envelope.clone() };
    let lz4 = |bytes: &[u8]| lz4_flex::block::compress(bytes);
    let packed = |codec: u8, len: u32, body: &[u8]| {
        frame_with([b'B', b'Z', 0, 3, codec, 0, 0, 0], &[&len.to_le_bytes()[..], body].concat())
    };
    let (classes, classes_at) = classes_above_the_limit();
    let envelope_at = 17;
    let batch_at = envelope_at + envelope.bytes().len();
    vec![
        list("frame-empty", "F-6", vec![], "UnexpectedEnd", 0),
        list("frame-magic", "F-1", frame_with(*b"ZB\0\x09\0\0\0\0", &[]), "BadMagic", 0),
        list("frame-version", "F-2", frame_with(*b"BZ\x01\x09\0\0\0\0", &[]), "BadVersion 1", 2),
        list("frame-kind-0", "F-3", frame(0, &[]), "UnknownKind 0", 3),
        list("frame-kind-14", "F-3", frame(14, &[]), "UnknownKind 14", 3),
        list("frame-kind-reserved", "F-3, F-19", frame(32, &[]), "UnknownKind 32", 3),
        list("frame-codec-where-there-is-none", "F-20", frame_with(*b"BZ\0\x09\x01\0\0\0", &[]), "Codec 1", 4),
        list("compressed-to-more", "F-21", packed(2, 3, &lz4(&batch.bytes())), "NotCanonical F-21", 16),
        list("compressed-without-length", "F-21", frame_with(*b"BZ\0\x03\x02\0\0\0", &[1, 2]), "UnexpectedEnd", 16),
        list("compressed-above-the-limit", "F-21, L-15", packed(2, (4 << 20) + 1, &[0]), "Limit frame body bytes", 16),
        list("compressed-rubbish-lz4", "F-21", packed(2, 300, &[0xff; 9]), "Inflate 2", 20),
        list("compressed-rubbish-zstd", "F-21", packed(1, 300, &[0xff; 9]), "Inflate 1", 20),
        list("compressed-longer-than-said", "F-21", packed(2, 299, &lz4(&[7; 300])), "Inflate 2", 20),
        list("compressed-shorter-than-said", "F-21", packed(2, 301, &lz4(&[7; 300])), "Inflate 2", 20),
        list("compressed-columns-of-too-many-classes", "L-22", classes, "Limit classes in columns", classes_at),
        list("compressed-refused-batch", "B-1", packed(2, 300, &lz4(&[7; 300])), "UnknownKind 7", 16),
        list("entries-without-envelopes", "F-22", frame(12, &RawColumns::default().bytes()), "NotCanonical F-22", 17),
        list(
            "pushes-with-envelopes",
            "F-22",
            frame(
                13,
                &RawColumns {
                    flags: 1,
                    over: vec![vec![2, 2, 2], vec![0], vec![0], vec![0], vec![0], vec![0]],
                    ..RawColumns::default()
                }
                .bytes(),
            ),
            "NotCanonical F-22",
            17,
        ),
        list("frame-codec-unknown", "F-4", frame_with(*b"BZ\0\x09\x07\0\0\0", &[]), "Codec 7", 4),
        list("frame-flags", "F-5", frame_with(*b"BZ\0\x09\0\x01\0\0", &[]), "NotCanonical F-5", 5),
        list("frame-reserved", "F-5", frame_with(*b"BZ\0\x09\0\0\0\x01", &[]), "NotCanonical F-5", 5),
        list("frame-checksum", "F-7", damaged, "Checksum", 12),
        list("frame-longer-than-said", "F-6", longer, "TrailingBytes 1", 16),
        list("frame-shorter-than-said", "F-6", frame(7, &[0; 8])[..20].to_vec(), "UnexpectedEnd", 16),
        list("bye-with-body", "F-8", frame(9, &[1]), "TrailingBytes 1", 16),
        list("ping-too-short", "F-8", frame(7, &[0; 7]), "UnexpectedEnd", 16),
        list("pong-too-long", "F-8", frame(8, &[0; 9]), "TrailingBytes 1", 24),
        list("hello-unbound-with-space", "F-9", frame(1, &hello(0, 1)), "NotCanonical F-9", 18),
        list("hello-spare-flag", "F-9", frame(1, &hello(0x11, 1)), "NotCanonical F-9", 17),
        list(
            "hello-too-many-replicas",
            "L-16",
            frame(1, &[&hello(0, 0)[..20], &uvarint(4097)].concat()),
            "Limit replicas in a Hello",
            36,
        ),
        list("hello-trailing", "F-8", frame(1, &[&hello(1, 1)[..], &[0]].concat()), "TrailingBytes 1", 37),
        list(
            "welcome-spare-flag",
            "F-10",
            frame(2, &[&[1][..], &[1; 16], &[0, 0, 0], &[0; 8], &[0x10], &[0]].concat()),
            "NotCanonical F-10",
            44,
        ),
        list(
            "push-refused-batch",
            "B-1",
            frame(3, &RawBatch { kind: 9, ..batch.clone() }.bytes()),
            "UnknownKind 9",
            16,
        ),
        list(
            "ack-trailing",
            "F-8, F-11",
            frame(4, &[&envelope.bytes()[..], &[0]].concat()),
            "Checksum",
            16 + envelope.bytes().len() - 3,
        ),
        list(
            "entry-without-number",
            "F-14",
            entry(&RawEnvelope { first_seq: vec![0], ..envelope.clone() }, &batch),
            "NotCanonical F-14",
            16,
        ),
        list(
            "entry-of-another-counter",
            "F-15",
            entry(&RawEnvelope { first_counter: vec![2], ..envelope.clone() }, &batch),
            "NotCanonical F-15",
            16,
        ),
        list("entry-of-another-length", "F-15", entry(&envelope, &two_ops), "NotCanonical F-15", 16),
        list("entry-of-other-transactions", "F-15", entry(&torn, &two_ops), "NotCanonical F-15", 16),
        list("entry-refused-batch", "B-1", entry(&envelope, &RawBatch { kind: 9, ..batch }), "UnknownKind 9", batch_at),
        list("entry-envelope-longer-than-frame", "F-8", frame(5, &[9, 0]), "UnexpectedEnd", envelope_at),
        list("error-code-0", "F-16", frame(6, &error(&[0], 0, b"")), "OutOfRange error code", 16),
        list("error-code-14", "F-16", frame(6, &error(&[14], 0, b"")), "OutOfRange error code", 16),
        list("error-fatal-2", "F-16", frame(6, &error(&[1], 2, b"")), "NotCanonical F-16", 17),
        list("error-text-too-long", "L-17", frame(6, &error(&[1], 0, &[b'x'; 1025])), "Limit error text bytes", 19),
        list("error-need-from-without-name", "F-17", frame(6, &error(&[6], 0, b"")), "UnexpectedEnd", 20),
        list(
            "error-need-from-zero",
            "F-17",
            frame(6, &[&error(&[6], 0, b"")[..], &[2; 16], &[0]].concat()),
            "OutOfRange counter needed",
            36,
        ),
        list(
            "error-with-name-it-has-not",
            "F-17",
            frame(6, &[&error(&[1], 0, b"")[..], &[2; 16], &[1]].concat()),
            "TrailingBytes 17",
            20,
        ),
        list("digest-cut", "F-8", frame(11, &[&[1][..], &[0; 31]].concat()), "UnexpectedEnd", 17),
    ]
}

/// Pushes in columns, each of whose fields has values of all 19 classes: so much is worth writing down only compressed. With one
/// field less they are good. Returns where the last column begins, too.
fn classes_above_the_limit() -> (Vec<u8>, usize) {
    let (good, _) = columns_of_all_classes(3_449);
    assert!(Columns::decode(&good).is_ok(), "65,531 classes");
    let (body, column_bytes) = columns_of_all_classes(3_450);
    let packed = [&(body.len() as u32).to_le_bytes()[..], &lz4_flex::block::compress(&body)].concat();
    (frame_with([b'B', b'Z', 0, 13, 2, 0, 0, 0], &packed), 16 + body.len() - column_bytes)
}

/// Batches that create a document of so many fields for each class of values, in columns, and how long one column is.
fn columns_of_all_classes(fields: usize) -> (Vec<u8>, usize) {
    let values = of_each_class();
    // As a writer has it, of one field and of two; then there are more of the same.
    let written = |names: &[&str]| {
        let batch = |(n, value): (u64, &Value)| {
            let mut builder = BatchBuilder::new(BatchHead { first_counter: 7 + n, ..head() });
            let document = names.iter().map(|name| ((*name).to_owned(), value.clone())).collect();
            assert_eq!(builder.try_push(&create(&document)), Ok(true));
            Batch::decode(builder.finish().expect("complete")).expect("canonical")
        };
        Columns::encode(&(0..).zip(&values).map(batch).collect::<Vec<_>>()).expect("small").to_vec()
    };
    let (one, two) = (written(&["!!"]), written(&["!!", "!\""]));
    // A name takes three bytes, and its number in the shape one.
    let column = &one[one.len() - (two.len() - one.len() - 4)..];
    assert!(two.ends_with(&[column, column].concat()));
    let tables = b"\x01\x02!!\x01\x01\0";
    let at = one.windows(tables.len()).position(|part| part == tables).expect("names, and the shape");
    let (mut names, mut shape) = (uvarint(fields as u64), [uvarint(1), uvarint(fields as u64)].concat());
    for n in 0..fields {
        names.extend(prefixed(&[b'!' + (n / 90) as u8, b'!' + (n % 90) as u8]));
        shape.extend(uvarint(n as u64));
    }
    let body = [&one[..at], &names, &shape, &one[at + tables.len()..], &column.repeat(fields - 1)].concat();
    (body, column.len())
}
