//! Known answers: bytes and hashes worked out apart from the code, with pencil or another program.

use blazedb_wire::{Document, DocumentId, Hlc, Key, MergeKind, Op, OpKind, ReplicaId, Row, Shape, Value, encode_value};
use bytes::Bytes;

fn document(fields: &[(&str, Value)]) -> Document {
    fields.iter().cloned().collect()
}

fn milk() -> Row {
    Row::encode(&document(&[("title", "milk".into()), ("done", true.into())])).expect("small")
}

// spec: V-13, V-14, V-22, V-23
#[test]
fn a_row() {
    let row = milk();
    let mut shape = Vec::new();
    row.shape().encode(&mut shape);
    assert_eq!(shape, b"\x02\x04done\x05title");
    // Width 1; true; text; "done" ends at 0; heap.
    assert_eq!(row.body(), &b"\x01\x02\x80\x00milk"[..]);
    let empty = Row::encode(&Document::new()).expect("small");
    assert!(empty.body().is_empty());
}

// spec: V-16, V-17, V-18, V-19, V-20
#[test]
fn an_array_of_maps() {
    let first = document(&[("b", Value::Null), ("a", 1.into())]);
    let second = document(&[("a", true.into())]);
    let mut payload = Vec::new();
    let tag = encode_value(&Value::Array(vec![first.into(), second.into()]), &mut payload);
    assert_eq!(tag, Ok(0xa0));
    let keys = b"\x02\x01a\x01b";
    let shapes = b"\x02\x02\x00\x01\x01\x00";
    let node = b"\x02\x01\xb0\xb0\x05";
    let maps = b"\x00\x01\x11\x00\x00\x01\x01\x02";
    assert_eq!(payload, [&keys[..], shapes, node, maps].concat());
}

#[test]
fn empty_containers() {
    for (value, tag, expected) in [
        (Value::Array(vec![]), 0xa0, &[0, 0, 0][..]),
        // No key, one shape without keys, shape 0.
        (Value::Map(Document::new()), 0xb0, &[0, 1, 0, 0]),
    ] {
        let mut payload = Vec::new();
        assert_eq!(encode_value(&value, &mut payload), Ok(tag));
        assert_eq!(payload, expected);
        assert_eq!(Value::decode(tag, &payload), Ok(value));
    }
}

// spec: O-12, O-13
#[test]
fn document_ids_of_keys() {
    for (collection, key, generation, hex) in [
        ("todos", Key::from("bob"), 0, "70e5c02471d5a7fec861da6b1838c960"),
        ("todos", Key::from("bob"), 1, "1d8680f7486aa2e800258b6e244e941c"),
        ("todos", Key::I64(42), 0, "a71e2272444738454c1e14537fbc160d"),
        ("todos", Key::U64(42), 0, "a71e2272444738454c1e14537fbc160d"),
        ("todos", Key::I64(-1), 0, "94eee7c196fb0d0c533947f6c1aa185a"),
        ("todos", Key::Bytes(vec![0, 0xff]), 0, "14b173d1d69c9a6ce132b992ef60e718"),
        ("todos", Key::U64(u64::MAX), 0, "0bac3b46e1de19759110eaace455340a"),
        ("\u{e9}t\u{e9}", Key::from(""), 7, "57dfe365c632165b732ac5aa33a10bc5"),
    ] {
        let expected: DocumentId = hex.parse().expect("32 digits");
        assert_eq!(DocumentId::for_key(collection, &key, generation), expected, "{collection} {key:?}");
    }
}

// spec: O-16
#[test]
fn a_replica_id_of_a_public_key() {
    let expected = "f569a86d3c2c8d7dda26b5dbea20bd5c".parse::<ReplicaId>().expect("32 digits");
    assert_eq!(ReplicaId::for_public_key(b"public key"), expected);
}

fn op(kind: OpKind, set: Option<Row>) -> Op {
    Op {
        kind,
        merge: MergeKind::Register,
        more: false,
        hlc: Hlc::from_parts(5, 0),
        cursor: 3,
        collection: "todos".into(),
        id: DocumentId(std::array::from_fn(|i| i as u8)),
        attrs: Bytes::new(),
        set,
        unset: Shape::empty(),
    }
}

fn hex(bytes: [u8; 16]) -> String {
    ReplicaId(bytes).to_string()
}

// spec: O-11
#[test]
fn payload_digests() {
    let create = op(OpKind::Create, Some(milk()));
    assert_eq!(hex(create.payload_digest()), "16918a0ec5653f639591e097a6a8169d");
    let update = Op {
        attrs: Bytes::from_static(b"me"),
        unset: Shape::new(["due"]).expect("one name"),
        ..op(OpKind::Update, Some(Row::encode(&document(&[("done", true.into())])).expect("small")))
    };
    assert_eq!(hex(update.payload_digest()), "f6a6f86e8809dead1d866a65a0e43ac8");
    assert_eq!(hex(op(OpKind::Delete, None).payload_digest()), "8d53011ed4cbec3cf4a56f7fe00fad5e");
}

// spec: O-11
#[test]
fn a_digest_leaves_out_what_sealing_changes_and_nothing_else() {
    let base = op(OpKind::Create, Some(milk()));
    let digest = base.payload_digest();
    for same in
        [Op { hlc: Hlc(9), ..base.clone() }, Op { cursor: 9, ..base.clone() }, Op { more: true, ..base.clone() }]
    {
        assert_eq!(same.payload_digest(), digest);
    }
    for other in [
        Op { kind: OpKind::Update, ..base.clone() },
        Op { collection: "todo".into(), ..base.clone() },
        Op { id: DocumentId([9; 16]), ..base.clone() },
        Op { attrs: Bytes::from_static(b"x"), ..base.clone() },
        Op { unset: Shape::new(["x"]).expect("one name"), ..base.clone() },
        Op { set: Some(Row::encode(&Document::new()).expect("small")), ..base.clone() },
    ] {
        assert_ne!(other.payload_digest(), digest, "{other:?}");
    }
}
