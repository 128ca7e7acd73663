//! Vectors that are accepted.

use super::{Vector, What, hex, raw};
use crate::batches::{create, head};
use blazedb_wire::{
    Batch, BatchBuilder, BatchHead, Bitmap, Columns, Document, DocumentId, Envelope, ErrorCode, ErrorFrame, Frame,
    Hello, Hlc, Op, OpId, OpKind, Reads, ReplicaId, Row, Shape, SpaceId, Timestamp, Uuid, Value, Verdict, Welcome,
    encode_value,
};
use bytes::Bytes;

fn vector(what: What, name: &str, spec: &str, bytes: &[u8], says: String) -> Vector {
    Vector { name: name.to_owned(), what, spec: spec.to_owned(), hex: hex(bytes), expected: Ok(says) }
}

fn map<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Map(fields.into_iter().collect())
}

fn decimal(text: &str) -> Value {
    Value::Decimal(text.parse().expect("a decimal"))
}

pub(super) fn values() -> Vec<Vector> {
    let mut out = Vec::new();
    for (name, n) in [("zero", 0), ("one-byte", 127), ("two-bytes", 128), ("ten-bytes", u64::MAX)] {
        let bytes = raw::uvarint(n);
        out.push(vector(What::Uvarint, &format!("uvarint-{name}"), "V-1, V-2", &bytes, n.to_string()));
    }
    let a = |value: Value| map([("a", value)]);
    let two_shapes = Value::Array(vec![
        map([("a", 1.into()), ("b", Value::Null)]),
        map([("a", true.into())]),
        map([("b", "again".into()), ("a", 2.into())]),
        Value::Array(vec![map([])]),
    ]);
    let values: Vec<(&str, &str, Value)> = vec![
        ("null", "V-5", Value::Null),
        ("false", "V-5", false.into()),
        ("true", "V-5", true.into()),
        ("integer-0", "V-8", 0.into()),
        ("integer-7", "V-8", 7.into()),
        ("integer-minus-8", "V-8", Value::I64(-8)),
        ("integer-8", "V-8", 8.into()),
        ("integer-minus-9", "V-8", Value::I64(-9)),
        ("integer-minus-128", "V-8", Value::I64(-128)),
        ("integer-128", "V-8", 128.into()),
        ("integer-three-bytes", "V-8", Value::I64(-8_388_608)),
        ("integer-least", "V-8", Value::I64(i64::MIN)),
        ("integer-greatest-signed", "V-8", Value::I64(i64::MAX)),
        ("integer-least-unsigned", "V-9", Value::U64(1 << 63)),
        ("integer-greatest", "V-9", Value::U64(u64::MAX)),
        ("float-zero", "V-10", Value::F64(0.0)),
        ("float-minus-zero", "V-10", Value::F64(-0.0)),
        ("float-one", "V-10", Value::F64(1.0)),
        ("float-tenth", "V-10", Value::F64(0.1)),
        ("float-tenth-of-32-bits", "V-10", Value::F64(f64::from(0.1f32))),
        ("float-least-subnormal-of-32-bits", "V-10", Value::F64(f64::from(f32::from_bits(1)))),
        ("float-least-subnormal", "V-10", Value::F64(f64::from_bits(1))),
        ("float-minus-infinity", "V-10", Value::F64(f64::NEG_INFINITY)),
        ("float-not-a-number", "V-11", Value::F64(f64::NAN)),
        ("decimal-zero", "V-24", decimal("0")),
        ("decimal-one", "V-24", decimal("1.00")),
        ("decimal-hundred", "V-24", decimal("100")),
        ("decimal-price", "V-24", decimal("12.34")),
        ("decimal-negative", "V-24", decimal("-0.05")),
        ("decimal-of-two-bytes", "V-24", decimal("12.8")),
        ("decimal-of-14-places", "V-24", decimal("0.00000000000001")),
        ("decimal-of-15-places", "V-24", decimal("0.000000000000001")),
        ("decimal-greatest", "V-24, L-21", decimal(&"9".repeat(38))),
        ("decimal-least-negative", "V-24, L-21", decimal(&format!("-0.{}1", "0".repeat(37)))),
        ("decimal-of-most-digits", "V-24, L-21", decimal(&format!("-0.{}", "9".repeat(38)))),
        ("timestamp-zero", "V-12", Timestamp(0).into()),
        ("timestamp-one", "V-12", Timestamp(1).into()),
        ("timestamp-2026", "V-12", Timestamp(1_790_000_000_000_000).into()),
        ("timestamp-before-1970", "V-12", Timestamp(-1).into()),
        ("uuid", "V-7", Uuid(std::array::from_fn(|i| i as u8)).into()),
        ("text-empty", "V-3", "".into()),
        ("text", "V-3", "gr\u{fc}n \u{1f980}".into()),
        ("text-not-normalised", "V-3", "u\u{308}".into()),
        ("bytes-empty", "V-7", Value::Bytes(vec![])),
        ("bytes", "V-7", Value::Bytes(vec![0, 0xff, 0x80])),
        ("array-empty", "V-13", Value::Array(vec![])),
        ("array", "V-13, V-14, V-15", Value::Array(vec![1.into(), "two".into(), Value::Null, "".into(), 300.into()])),
        ("array-in-array", "V-21", Value::Array(vec![Value::Array(vec![Value::Array(vec![])])])),
        ("array-of-two-byte-ends", "V-14", Value::Array(vec!["x".repeat(200).into(), "y".repeat(100).into()])),
        ("vector-32-empty", "V-25", Value::VectorF32(vec![].into())),
        ("vector-64-empty", "V-25", Value::VectorF64(vec![].into())),
        ("vector-32", "V-25", Value::VectorF32(vec![1.0, -0.0, 0.1, f32::NEG_INFINITY].into())),
        ("vector-64", "V-25", Value::VectorF64(vec![1.0, -0.0, 0.1, 5e-324].into())),
        ("vector-32-not-a-number", "V-26", Value::VectorF32(vec![0.0, -f32::NAN].into())),
        ("vector-64-not-a-number", "V-26", Value::VectorF64(vec![0.0, -f64::NAN].into())),
        (
            "vectors-in-array",
            "V-25",
            Value::Array(vec![Value::VectorF32(vec![0.5].into()), decimal("0.5"), 0.5.into()]),
        ),
        ("map-empty", "V-13, V-19", map([])),
        ("map", "V-17, V-18", map([("b", 2.into()), ("a", 1.into()), ("", Value::Null)])),
        ("map-in-map", "V-17, V-20", a(a(map([("b", a(Value::Null))])))),
        ("maps-of-two-shapes", "V-16, V-17, V-18, V-19, V-20", two_shapes),
    ];
    for (name, spec, value) in values {
        let mut bytes = vec![0];
        bytes[0] = encode_value(&value, &mut bytes).expect("small");
        out.push(vector(What::Value, name, spec, &bytes, value.to_string()));
    }
    for (name, names) in [("shape-empty", vec![]), ("shape", vec!["title", "done", "", "\u{e9}t\u{e9}"])] {
        let shape = Shape::new(names).expect("distinct names");
        let mut bytes = Vec::new();
        shape.encode(&mut bytes);
        out.push(vector(What::Shape, name, "V-22", &bytes, shape.to_string()));
    }
    let rows = [
        ("row-empty", map([])),
        ("row-of-one-null", a(Value::Null)),
        ("row-todo", map([("title", "milk".into()), ("done", false.into()), ("tags", Value::Array(vec!["a".into()]))])),
        ("row-of-two-byte-ends", map([("a", "x".repeat(256).into()), ("b", 1.into())])),
    ];
    for (name, document) in rows {
        let Value::Map(fields) = &document else { unreachable!("rows are maps") };
        let row = Row::encode(fields).expect("small");
        let mut bytes = Vec::new();
        row.shape().encode(&mut bytes);
        bytes.extend_from_slice(row.body());
        out.push(vector(What::Row, name, "V-23", &bytes, document.to_string()));
    }
    out
}

fn row<const N: usize>(fields: [(&str, Value); N]) -> Option<Row> {
    Some(Row::encode(&fields.into_iter().collect()).expect("small"))
}

fn batch(head: BatchHead, ops: &[Op]) -> Batch {
    let mut builder = BatchBuilder::new(head);
    assert_eq!(builder.try_push_all(ops), Ok(true));
    Batch::decode(builder.finish().expect("complete")).expect("canonical")
}

/// One operation.
fn smallest() -> Batch {
    batch(head(), &[create(&Document::new())])
}

/// Every kind of operation, two transactions, two collections, shapes used twice.
fn full() -> Batch {
    let base = create(&Document::new());
    let update = Op { kind: OpKind::Update, hlc: Hlc::from_parts(1000, 1), ..base.clone() };
    let ops = [
        Op { set: row([("title", "milk".into()), ("done", false.into())]), more: true, ..base.clone() },
        Op {
            set: row([("done", true.into())]),
            unset: Shape::new(["due", "owner"]).expect("distinct names"),
            attrs: Bytes::from_static(b"\x01me"),
            ..update.clone()
        },
        Op { set: row([]), unset: Shape::new(["done"]).expect("one name"), cursor: 300, ..update.clone() },
        Op { kind: OpKind::Delete, set: None, collection: "people".into(), hlc: Hlc::from_parts(999, 65_535), ..base },
        Op { set: row([("done", false.into())]), cursor: 49, ..update },
    ];
    let deps =
        vec![OpId { replica: ReplicaId([4; 16]), counter: 1 }, OpId { replica: ReplicaId([5; 16]), counter: 300 }];
    batch(BatchHead { deps, attrs: Bytes::from_static(b"\x02"), ..head() }, &ops)
}

fn applied(batch: &Batch) -> Envelope {
    let n = batch.len() as u32;
    Envelope {
        epoch: 1,
        first_seq: 51,
        relay_ms: 1_790_000_000_000,
        replica: batch.head().replica,
        first_counter: batch.head().first_counter,
        n,
        verdicts: batch.transactions().map(|range| (Verdict::Applied, range.len() as u32)).collect(),
        absorbed: Bitmap::new(n),
        repeated: Bitmap::new(n),
    }
}

/// Every verdict and both bits.
fn mixed() -> Envelope {
    let mut envelope = applied(&full());
    envelope.verdicts = vec![
        (Verdict::RefusedClock, 2),
        (Verdict::RefusedPermission, 1),
        (Verdict::RefusedLimit, 1),
        (Verdict::Applied, 1),
    ];
    envelope.absorbed.set(4);
    envelope.repeated.set(0);
    envelope.repeated.set(1);
    envelope
}

pub(super) fn batches() -> Vec<Vector> {
    let mut out = Vec::new();
    let last = batch(
        BatchHead { first_counter: u64::MAX - 1, epoch: u32::MAX, ..head() },
        &[Op { hlc: Hlc(u64::MAX), cursor: u64::MAX, ..create(&Document::new()) }],
    );
    for (name, spec, batch) in [
        ("batch-smallest", "B-1, B-8, O-1", smallest()),
        ("batch-full", "B-3, B-4, B-5, B-6, B-7, B-9, O-4, O-5, O-11", full()),
        ("batch-of-greatest-numbers", "B-2, B-10", last),
    ] {
        out.push(vector(What::Batch, name, spec, batch.bytes(), batch.to_string()));
    }
    let mut known = mixed();
    known.first_seq = 0;
    for (name, spec, envelope) in [
        ("envelope-applied", "F-12", applied(&smallest())),
        ("envelope-mixed", "F-12, F-13", mixed()),
        ("envelope-known-before", "F-14", known),
    ] {
        out.push(vector(What::Envelope, name, spec, &envelope.to_vec(), envelope.to_string()));
    }
    out
}

/// Three batches by two authors: every kind of operation, a gap in the counters, documents and values that return.
fn several() -> Vec<Batch> {
    let base = create(&Document::new());
    let uuid = |n: u8| Value::Uuid(Uuid([n; 16]));
    let spelled = |n: u8| Value::Text(Uuid([n; 16]).to_string());
    let wide = "-1234567890123456789012345678901234567.8";
    // All classes of values, and of numbers both modes and units.
    let classes = [
        [Value::Null, 1.into(), 0.5.into(), Timestamp(1_700_000_000_000_000).into(), "open".into(), uuid(1)],
        [true.into(), 2.into(), 99.99.into(), Timestamp(1_700_000_001_000_000).into(), "open".into(), uuid(2)],
        [false.into(), 3.into(), (-0.0).into(), Timestamp(1_700_000_002_000_000).into(), "shut".into(), uuid(1)],
        [u64::MAX.into(), 4.into(), (1.0 / 3.0).into(), Timestamp(0).into(), spelled(7), spelled(7)],
        [decimal("12.34"), decimal("12.3"), decimal("-12"), decimal(wide), decimal(&wide[1..]), decimal("0.5")],
        [
            Value::VectorF32(vec![0.5].into()),
            Value::VectorF64(vec![0.5, f64::NAN].into()),
            Value::VectorF32(vec![].into()),
            decimal("0.000000000000000001"),
            Value::VectorF32(vec![0.5].into()),
            Value::VectorF64(vec![].into()),
        ],
        [
            Value::Bytes(vec![1, 2]),
            (-5000).into(),
            Value::F64(0.1f32.into()),
            Timestamp(-1_000_000).into(),
            Value::Array(vec![1.into(), "two".into()]),
            map([("a", Value::Null)]),
        ],
    ];
    let op = |index: usize, values: &[Value; 6]| Op {
        set: Some(
            Row::encode(
                &["any", "count", "price", "seen", "state", "who"].into_iter().zip(values.iter().cloned()).collect(),
            )
            .expect("small"),
        ),
        id: DocumentId([index as u8 % 3; 16]),
        hlc: Hlc::from_parts(1_790_000_000_000 + 7 * index as u64, (index % 2) as u16),
        cursor: 40 + index as u64,
        ..base.clone()
    };
    let ops: Vec<Op> = classes.iter().enumerate().map(|(index, values)| op(index, values)).collect();
    let later = BatchHead { first_counter: 20, ..full().head().clone() };
    let other = BatchHead { replica: ReplicaId([4; 16]), first_counter: 1, epoch: 2, ..head() };
    let full_ops: Vec<Op> = full().ops().map(|op| op.to_op()).collect();
    vec![full(), batch(other, &ops), batch(later, &full_ops)]
}

pub(super) fn columns() -> Vec<Vector> {
    let entries: Vec<(Envelope, Batch)> = {
        let mut first = applied(&full());
        first.verdicts = mixed().verdicts;
        first.absorbed = mixed().absorbed;
        first.repeated = mixed().repeated;
        let mut seq = first.first_seq;
        let over = |batch: &Batch| {
            let envelope = Envelope { first_seq: seq, ..applied(batch) };
            seq += batch.len() as u64;
            envelope
        };
        let mut envelopes: Vec<Envelope> = several().iter().map(over).collect();
        envelopes[0] = first;
        // A gap, another epoch.
        envelopes[2].first_seq = 1000;
        envelopes[2].epoch = 2;
        envelopes.into_iter().zip(several()).collect()
    };
    let one = Columns::encode(&[smallest()]);
    let list = [
        ("columns-smallest", "K-1, K-2, K-12", one),
        (
            "columns-of-three-batches",
            "K-3, K-4, K-5, K-6, K-7, K-8, K-9, K-10, K-11, K-13, K-14, K-15",
            Columns::encode(&several()),
        ),
        ("columns-with-envelopes", "K-16", Columns::encode_entries(&entries)),
    ];
    list.map(|(name, spec, bytes)| {
        let bytes = bytes.expect("small");
        let read = Columns::decode(&bytes).expect("what was written is read");
        vector(What::Columns, name, spec, &bytes, read.to_string())
    })
    .into()
}

/// A Push of the batch above, its body an lz4 block of literals alone and of a match: any decoder can be tried on it.
fn lz4_frame() -> Vec<u8> {
    let mut builder = BatchBuilder::new(head());
    let op = create(&[("a", "x".repeat(300))].into_iter().collect());
    assert_eq!(builder.try_push(&op), Ok(true));
    let body = builder.finish().expect("complete");
    let packed = lz4_flex::block::compress(&body);
    raw::frame_with([b'B', b'Z', 0, 3, 2, 0, 0, 0], &[&(body.len() as u32).to_le_bytes()[..], &packed].concat())
}

fn zstd_frame() -> Vec<u8> {
    let body = Columns::encode(&several()).expect("small");
    let packed = zstd::bulk::compress(&body, 3).expect("memory suffices");
    raw::frame_with([b'B', b'Z', 0, 13, 1, 0, 0, 0], &[&(body.len() as u32).to_le_bytes()[..], &packed].concat())
}

pub(super) fn frames() -> Vec<Vector> {
    let space = SpaceId([1; 16]);
    let replicas = vec![ReplicaId([4; 16]), ReplicaId([2; 16])];
    let need = OpId { replica: ReplicaId([2; 16]), counter: 7 };
    let batch = full();
    let list = [
        (
            "hello-unbound",
            "F-9",
            Frame::Hello(Hello {
                protocol: 1,
                space: None,
                epoch: 0,
                cursor: 0,
                reads: Reads::default(),
                replicas: vec![],
            }),
        ),
        (
            "hello",
            "F-9",
            Frame::Hello(Hello { protocol: 1, space: Some(space), epoch: 1, cursor: 300, reads: Reads::ALL, replicas }),
        ),
        (
            "welcome",
            "F-10",
            Frame::Welcome(Welcome {
                protocol: 1,
                space,
                epoch: 1,
                head: 400,
                floor: 0,
                relay_ms: 1_790_000_000_000,
                clock_trusted: true,
                reads: Reads { lz4: false, ..Reads::ALL },
                counters: vec![(ReplicaId([4; 16]), 0), (ReplicaId([2; 16]), 6)],
            }),
        ),
        ("push", "F-8", Frame::Push(batch.clone())),
        ("ack", "F-8", Frame::Ack(mixed())),
        ("entry", "F-15", Frame::Entry { envelope: applied(&batch), batch }),
        ("error", "F-16", Frame::Error(ErrorFrame::fatal(ErrorCode::SpaceMismatch, "another space"))),
        (
            "error-need-from",
            "F-17",
            Frame::Error(ErrorFrame { retry_ms: 1500, ..ErrorFrame::new(ErrorCode::NeedFrom(need), "") }),
        ),
        ("ping", "F-8", Frame::Ping(0x0102_0304_0506_0708)),
        ("pong", "F-8", Frame::Pong(u64::MAX)),
        ("bye", "F-8", Frame::Bye),
        ("digest-request", "F-8", Frame::DigestRequest { min_seq: 128 }),
        ("entries", "F-22", Frame::Entries(vec![(applied(&full()), full())])),
        ("pushes", "F-22", Frame::Pushes(vec![full(), smallest()])),
        ("digest", "F-8", Frame::Digest { seq: 400, digest: std::array::from_fn(|i| i as u8), documents: 12 }),
    ];
    let mut out: Vec<Vector> =
        list.map(|(name, spec, frame)| vector(What::Frame, name, spec, &frame.to_bytes(), frame.to_string())).into();
    for (name, spec, bytes) in
        [("push-lz4", "F-4, F-20, F-21", lz4_frame()), ("pushes-zstd", "F-4, F-20, F-21, F-22", zstd_frame())]
    {
        let frame = Frame::decode(Bytes::from(bytes.clone())).expect("what was written is read");
        out.push(vector(What::Frame, name, spec, &bytes, frame.to_string()));
    }
    out
}
