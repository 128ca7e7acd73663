//! Columnar batches that are refused.

use super::raw::{RawColumns, list, prefixed, uvarint};
use super::refused::vector;
use super::{Vector, What};

pub(super) fn columns() -> Vec<Vector> {
    let good = RawColumns::default();
    let refuse = |name: &str, spec: &str, raw: RawColumns, error: &str| {
        let bytes = raw.bytes();
        let found = blazedb_wire::Columns::decode(&bytes).expect_err(name);
        // Where a reader notices depends on how it goes about it.
        vector(What::Columns, name, spec, &bytes, error, found.offset)
    };
    let heads = |at: usize, stream: Vec<u8>| {
        let mut raw = good.clone();
        raw.heads[at] = stream;
        raw
    };
    let ops = |at: usize, stream: Vec<u8>| {
        let mut raw = good.clone();
        raw.ops[at] = stream;
        raw
    };
    let two_names = |shapes: &[u8]| RawColumns {
        names: b"\x02\x01a\x01b".to_vec(),
        shapes: shapes.to_vec(),
        columns: vec![vec![4], vec![4]],
        ..good.clone()
    };
    let series = |mode: u8, numbers: &[u64]| [&[8, mode][..], &list(numbers)].concat();
    let decimals = |places: u8, numbers: &[u64]| [&[0x20, places, 0][..], &list(numbers)].concat();
    let texts = |refs: Vec<u8>, lens: Vec<u8>, text: &[u8]| [&[0x80, 0x10][..], &refs, &lens, &prefixed(text)].concat();
    let entries = |over: [Vec<u8>; 6]| RawColumns { flags: 1, over: over.to_vec(), ..good.clone() };
    let none = || vec![0];
    let series_of = |numbers: &[u64]| [&[0][..], &list(numbers)].concat();
    let exact =
        |places: &[u64], series: &[u8]| RawColumns::of(&[&uvarint(1 << 15), &list(places)[..], series].concat());
    let wide = |digits: &[u8]| {
        let lens = list(&[digits.len() as u64]);
        RawColumns::of(&[&uvarint(1 << 16)[..], &none(), &none(), &lens, &prefixed(digits)].concat())
    };
    let flat = |class: u32, payload: &[u8]| {
        let lens = list(&[payload.len() as u64]);
        RawColumns::of(&[&uvarint(1 << class)[..], &none(), &lens, &prefixed(payload)].concat())
    };
    vec![
        refuse("columns-row-kind", "K-12", RawColumns { kind: 0, ..good.clone() }, "UnknownKind 0"),
        refuse("columns-spare-flag", "K-12", RawColumns { flags: 2, ..good.clone() }, "NotCanonical K-12"),
        refuse("columns-without-batches", "K-12", RawColumns { count: vec![0], ..good.clone() }, "NotCanonical K-12"),
        refuse("columns-trailing", "V-4", RawColumns { after: vec![0], ..good.clone() }, "TrailingBytes 1"),
        refuse(
            "columns-too-many-batches",
            "L-19",
            RawColumns { count: uvarint(4097), ..good.clone() },
            "Limit batches in columns",
        ),
        refuse(
            "columns-too-many-names",
            "L-20",
            RawColumns { names: uvarint(65_537), ..good.clone() },
            "Limit names in columns",
        ),
        refuse("columns-overlong-count", "V-1", RawColumns { count: vec![0x81, 0], ..good.clone() }, "Overlong"),
        // Tables.
        refuse(
            "columns-replica-twice",
            "K-8",
            RawColumns { replicas: [&[2][..], &[0x22; 32]].concat(), ..good.clone() },
            "NotCanonical K-8",
        ),
        refuse(
            "columns-replica-unused",
            "K-11",
            RawColumns { replicas: [&[2][..], &[0x22; 16], &[0x23; 16]].concat(), ..good.clone() },
            "NotCanonical K-11",
        ),
        refuse(
            "columns-name-twice",
            "K-8",
            RawColumns { names: b"\x02\x01a\x01a".to_vec(), ..two_names(&[1, 2, 0, 1]) },
            "NotCanonical K-8",
        ),
        refuse("columns-name-unused", "K-11", two_names(&[1, 1, 0]), "NotCanonical K-11"),
        refuse("columns-name-out-of-order", "K-11", two_names(&[1, 2, 1, 0]), "NotCanonical K-11"),
        refuse("columns-name-unknown", "K-11", two_names(&[1, 1, 2]), "OutOfRange name index"),
        refuse(
            "columns-shape-descends",
            "K-13",
            RawColumns { names: b"\x02\x01b\x01a".to_vec(), ..two_names(&[1, 2, 0, 1]) },
            "Order K-13",
        ),
        refuse(
            "columns-shape-twice",
            "K-8",
            RawColumns { shapes: vec![2, 1, 0, 1, 0], forms: vec![2, 0, 0, 0, 0, 1, 0, 0, 1], ..good.clone() },
            "NotCanonical K-8",
        ),
        refuse(
            "columns-shape-unused",
            "K-11",
            RawColumns { shapes: vec![2, 1, 0, 0], ..good.clone() },
            "NotCanonical K-11",
        ),
        refuse(
            "columns-form-with-more",
            "K-14",
            RawColumns { forms: vec![1, 8, 0, 0, 0], ..good.clone() },
            "NotCanonical K-14",
        ),
        refuse(
            "columns-form-spare-bit",
            "K-14",
            RawColumns { forms: vec![1, 0x40, 0, 0, 0], ..good.clone() },
            "NotCanonical K-14",
        ),
        refuse(
            "columns-form-kind-3",
            "O-1",
            RawColumns { forms: vec![1, 3, 0, 0, 0], ..good.clone() },
            "UnknownKind 3",
        ),
        refuse(
            "columns-form-unset-on-create",
            "O-4",
            RawColumns { forms: vec![1, 0x10, 0, 0, 0, 0], ..good.clone() },
            "NotCanonical O-4",
        ),
        refuse(
            "columns-form-reserved-merge",
            "O-2",
            RawColumns { forms: vec![1, 0, 1, 0, 0], ..good.clone() },
            "ReservedTag 01",
        ),
        refuse(
            "columns-form-twice",
            "K-8",
            RawColumns { forms: vec![2, 0, 0, 0, 0, 0, 0, 0, 0], ..good.clone() },
            "NotCanonical K-8",
        ),
        refuse(
            "columns-form-unused",
            "K-11",
            RawColumns { forms: vec![2, 0, 0, 0, 0, 1, 0, 0, 0], ..good.clone() },
            "NotCanonical K-11",
        ),
        // Streams.
        refuse("columns-stream-of-zeros", "K-2", heads(1, list(&[0])), "NotCanonical K-2"),
        refuse("columns-stream-too-long", "K-1", heads(0, vec![2, 9, 1]), "NotCanonical K-1"),
        refuse("columns-stream-trailing", "K-1", heads(0, vec![3, 2, 1, 1]), "TrailingBytes 1"),
        refuse("columns-stream-too-short", "K-1", RawColumns { count: vec![2], ..good.clone() }, "UnexpectedEnd"),
        refuse("columns-run-of-three", "K-3", heads(0, vec![2, 7, 1]), "NotCanonical K-3"),
        refuse("columns-list-of-nothing", "K-3", heads(0, vec![1, 0]), "NotCanonical K-3"),
        refuse("columns-overlong-number", "V-1", heads(0, vec![3, 2, 0x81, 0]), "Overlong"),
        refuse("columns-batch-without-operations", "B-8", heads(0, none()), "OutOfRange operations in a batch"),
        refuse("columns-too-many-operations", "L-10", heads(0, list(&[65_537])), "Limit operations in columns"),
        refuse("columns-too-many-dependencies", "L-13", heads(4, list(&[1025])), "OutOfRange dependencies"),
        refuse("columns-attributes-left-over", "K-4", heads(8, prefixed(&[1])), "TrailingBytes 1"),
        refuse("columns-more-is-two", "K-4", ops(1, list(&[2])), "OutOfRange bit"),
        refuse("columns-open-transaction", "B-9", ops(1, list(&[1])), "NotCanonical B-9"),
        refuse("columns-milliseconds", "K-15", ops(2, list(&[1 << 49])), "OutOfRange milliseconds"),
        refuse("columns-counter", "K-15", ops(3, list(&[65_536])), "OutOfRange counter of a timestamp"),
        // Dictionaries.
        refuse(
            "columns-document-twice",
            "K-8",
            RawColumns { documents: [none(), prefixed(&[0x33; 32])], ..RawColumns::several(2, &[4]) },
            "NotCanonical K-8",
        ),
        refuse(
            "columns-document-unused",
            "K-8",
            RawColumns { documents: [none(), prefixed(&[[1, 2]; 16].concat())], ..good.clone() },
            "TrailingBytes 16",
        ),
        refuse(
            "columns-document-before-the-first",
            "K-8",
            RawColumns { documents: [list(&[1]), prefixed(&[0x33; 16])], ..good.clone() },
            "OutOfRange reference",
        ),
        refuse(
            "columns-document-cut",
            "K-7",
            RawColumns { documents: [none(), prefixed(&[0x33; 15])], ..good.clone() },
            "NotCanonical K-7",
        ),
        refuse(
            "columns-text-twice",
            "K-8",
            RawColumns::several(2, &texts(none(), list(&[1, 1]), b"xx")),
            "NotCanonical K-8",
        ),
        refuse("columns-text-left-over", "K-8", RawColumns::of(&texts(none(), list(&[1]), b"xy")), "TrailingBytes 1"),
        refuse("columns-text-cut", "K-8", RawColumns::of(&texts(none(), list(&[3]), b"xy")), "UnexpectedEnd"),
        refuse("columns-text-not-utf8", "V-3", RawColumns::of(&texts(none(), list(&[1]), b"\xff")), "Utf8"),
        // Classes.
        refuse("columns-class-unknown", "K-9", RawColumns::of(&uvarint(1 << 19)), "OutOfRange classes"),
        refuse("columns-without-a-class", "K-9", RawColumns::of(&[0]), "NotCanonical K-9"),
        refuse("columns-class-unused", "K-9", RawColumns::of(&[&[6][..], &list(&[2])].concat()), "NotCanonical K-9"),
        refuse(
            "columns-class-not-in-the-mask",
            "K-9",
            RawColumns::of(&[&[6][..], &list(&[3])].concat()),
            "NotCanonical K-9",
        ),
        refuse(
            "columns-unsigned-below-2-63",
            "K-9",
            RawColumns::of(&[&[16, 8][..], &[0xff; 7], &[0x7f]].concat()),
            "NotCanonical K-9",
        ),
        refuse(
            "columns-uuid-as-text",
            "K-9",
            RawColumns::of(&texts(none(), list(&[36]), b"01010101-0101-0101-0101-010101010101")),
            "NotCanonical K-9",
        ),
        refuse("columns-decimal-not-lowest", "K-9, V-24", exact(&[2], &series_of(&[200])), "NotCanonical K-9"),
        refuse(
            "columns-decimal-of-39-places",
            "K-9, L-21",
            exact(&[39], &series_of(&[2])),
            "OutOfRange decimal places",
        ),
        refuse("columns-decimal-places-left-over", "K-1", exact(&[1, 1], &series_of(&[2])), "NotCanonical K-1"),
        refuse("columns-wide-decimal-that-is-not", "K-9", wide(&[1]), "NotCanonical K-9"),
        refuse("columns-wide-decimal-of-39-digits", "K-9", wide(&10i128.pow(38).to_le_bytes()), "NotCanonical K-9"),
        refuse("columns-wide-decimal-of-17-bytes", "K-9", wide(&[1; 17]), "NotCanonical K-9"),
        refuse("columns-vector-cut", "K-17, V-25", flat(17, &[0; 5]), "UnexpectedEnd"),
        refuse("columns-vector-other-nan", "K-17, V-26", flat(18, &[0xff; 8]), "NotCanonical V-26"),
        // Numbers.
        refuse("columns-wrong-mode", "K-5", RawColumns::several(2, &series(1, &[6, 1])), "NotCanonical K-5"),
        refuse("columns-unknown-mode", "K-6", RawColumns::of(&series(6, &[1])), "UnknownKind 6"),
        refuse("columns-wrong-unit", "K-6", RawColumns::of(&series(0, &[2000])), "NotCanonical K-6"),
        refuse(
            "columns-beyond-64-bits",
            "K-6",
            RawColumns::of(&series(2, &[u64::MAX])),
            "OutOfRange number of a series",
        ),
        refuse("columns-decimal-of-too-many-places", "K-10", RawColumns::of(&decimals(2, &[20])), "NotCanonical K-10"),
        refuse("columns-decimal-of-seven-places", "K-10", RawColumns::of(&decimals(7, &[10])), "OutOfRange places"),
        refuse(
            "columns-decimal-too-large",
            "K-10",
            RawColumns::of(&decimals(0, &[(1 << 51) + 2])),
            "NotCanonical K-10",
        ),
        refuse(
            "columns-decimal-as-float",
            "K-10",
            RawColumns::of(&[&[0x40, 4][..], &0.5f32.to_le_bytes()].concat()),
            "NotCanonical K-10",
        ),
        refuse(
            "columns-short-float-as-long",
            "V-10",
            RawColumns::of(&[&[0x80, 1, 8][..], &f64::from(0.1f32).to_le_bytes()].concat()),
            "NotCanonical V-10",
        ),
        // Envelopes.
        refuse(
            "columns-entry-without-number",
            "F-14",
            entries([list(&[2]), list(&[1]), none(), none(), none(), none()]),
            "OutOfRange first sequence number",
        ),
        refuse(
            "columns-verdict-4",
            "K-16",
            entries([list(&[2]), none(), none(), list(&[4]), none(), none()]),
            "OutOfRange verdict",
        ),
        refuse(
            "columns-bit-2",
            "K-4",
            entries([list(&[2]), none(), none(), none(), list(&[2]), none()]),
            "OutOfRange bit",
        ),
        refuse(
            "columns-epoch-of-an-entry",
            "O-17",
            entries([list(&[1 << 33]), none(), none(), none(), none(), none()]),
            "Limit epoch",
        ),
        refuse(
            "columns-verdicts-left-over",
            "K-1",
            entries([list(&[2]), none(), none(), list(&[0, 1]), none(), none()]),
            "NotCanonical K-1",
        ),
    ]
}
