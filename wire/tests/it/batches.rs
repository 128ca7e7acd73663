//! What a builder promises: exact sizes, all or nothing, canonical output; and what a batch promises its readers.

use blazedb_wire::limits::{BATCH_BYTES_MAX, BATCH_SINGLE_BYTES_MAX, ROW_BYTES_MAX};
use blazedb_wire::testing::Gen;
use blazedb_wire::{
    Batch, BatchBuilder, BatchHead, Document, DocumentId, EncodeError, Hlc, MergeKind, Op, OpId, OpKind, ReplicaId,
    Row, Shape, SpaceId, Value,
};
use bytes::Bytes;

pub(crate) fn head() -> BatchHead {
    BatchHead {
        space: SpaceId([1; 16]),
        replica: ReplicaId([2; 16]),
        first_counter: 7,
        epoch: 1,
        deps: vec![],
        attrs: Bytes::new(),
    }
}

pub(crate) fn create(document: &Document) -> Op {
    Op {
        kind: OpKind::Create,
        merge: MergeKind::Register,
        more: false,
        hlc: Hlc::from_parts(1000, 0),
        cursor: 50,
        collection: "todos".into(),
        id: DocumentId([3; 16]),
        attrs: Bytes::new(),
        set: Some(Row::encode(document).expect("within the limits")),
        unset: Shape::empty(),
    }
}

/// A create whose row, names included, takes exactly `len` bytes.
pub(crate) fn create_of(len: usize) -> Op {
    // Shape: count, length, one letter; body: width, tag, text.
    let text = "x".repeat(len - 5);
    let op = create(&[("a", Value::Text(text))].into_iter().collect());
    let row = op.set.as_ref().expect("a create has a row");
    assert_eq!(row.shape().encoded_len() + row.body().len(), len);
    op
}

// spec: B-4, B-5, B-6, B-7
#[test]
fn bases_are_minima_and_tables_are_in_order_of_first_use() {
    let mut builder = BatchBuilder::new(head());
    let row = |name: &str| Some(Row::encode(&[(name, 1)].into_iter().collect()).expect("small"));
    let shape = |name: &str| Shape::new([name]).expect("one name");
    let base = create(&Document::new());
    let ops = [
        Op { kind: OpKind::Update, set: row("z"), unset: shape("m"), cursor: 80, ..base.clone() },
        Op { hlc: Hlc::from_parts(10, 5), collection: "b".into(), set: row("m"), ..base.clone() },
        Op { kind: OpKind::Delete, collection: "a".into(), set: None, cursor: 20, ..base.clone() },
        Op { kind: OpKind::Update, set: row("a"), unset: shape("z"), ..base },
    ];
    for op in &ops {
        assert_eq!(builder.try_push(op), Ok(true));
    }
    let len = builder.bytes_len();
    let bytes = builder.finish().expect("complete");
    assert_eq!(bytes.len(), len);
    let batch = Batch::decode(bytes.clone()).expect("canonical");
    assert_eq!(batch.base_hlc(), Hlc::from_parts(10, 5));
    assert_eq!(batch.base_cursor(), 20);
    let back: Vec<Op> = batch.ops().map(|op| op.to_op()).collect();
    assert_eq!(back, ops);
    let at = |needle: &[u8]| bytes.windows(needle.len()).position(|window| window == needle);
    assert!(at(b"\x03\x05todos\x01b\x01a\x03\x01\x01z\x01\x01m\x01\x01a").is_some(), "{bytes:?}");
    assert_eq!(batch.counter_range(), 7..11);
    assert_eq!(batch.op_id(3), OpId { replica: ReplicaId([2; 16]), counter: 10 });
}

// spec: B-11, L-8
#[test]
fn several_operations_fill_a_batch_to_the_last_byte() {
    let mut builder = BatchBuilder::new(head());
    assert_eq!(builder.try_push(&create_of(1000)), Ok(true));
    let before = builder.bytes_len();
    // An operation of the same shape, large enough for the longest varint of its length.
    assert_eq!(builder.try_push(&create_of(100_000)), Ok(true));
    let overhead = builder.bytes_len() - before - 100_000;
    let room = BATCH_BYTES_MAX - builder.bytes_len() - overhead;
    let snapshot = builder.bytes_len();
    assert_eq!(builder.try_push(&create_of(room + 1)), Ok(false));
    assert_eq!((builder.bytes_len(), builder.len()), (snapshot, 2), "nothing changed");
    assert_eq!(builder.try_push(&create_of(room)), Ok(true));
    assert_eq!(builder.bytes_len(), BATCH_BYTES_MAX);
    let bytes = builder.finish().expect("complete");
    assert_eq!(bytes.len(), BATCH_BYTES_MAX);
    assert_eq!(Batch::decode(bytes).map(|batch| batch.len()), Ok(3));
}

// spec: B-11, L-4, L-9
#[test]
fn the_largest_row_fits_a_batch_of_its_own() {
    let op = Op { attrs: Bytes::from(vec![1; 1024]), ..create_of(ROW_BYTES_MAX) };
    let deps = (0u32..1024)
        .map(|n| {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&n.to_be_bytes());
            OpId { replica: ReplicaId(id), counter: u64::MAX }
        })
        .collect();
    let mut builder = BatchBuilder::new(BatchHead { deps, attrs: Bytes::from(vec![2; 1024]), ..head() });
    assert_eq!(builder.try_push(&op), Ok(true));
    assert!(builder.bytes_len() <= BATCH_SINGLE_BYTES_MAX);
    assert_eq!(builder.try_push(&create_of(100)), Ok(false), "a large operation stays alone");
    let batch = Batch::decode(builder.finish().expect("complete")).expect("within the limits");
    assert_eq!(batch.op(0).to_op(), op);
}

// spec: L-4
#[test]
fn names_count_against_the_row() {
    let names: Vec<String> = (0..3000).map(|n| format!("{n:0>250}")).collect();
    let wide: Document = names.iter().map(|name| (name.as_str(), Value::Null)).collect();
    let row = Row::encode(&wide).expect("750 kB of names");
    let unset = Shape::new(names.iter().map(|name| format!("-{name}"))).expect("distinct names");
    let op = Op { kind: OpKind::Update, set: Some(row), unset, ..create(&Document::new()) };
    let refused = BatchBuilder::new(head()).try_push(&op);
    assert!(matches!(refused, Err(EncodeError::Limit { what: "row bytes", .. })), "{refused:?}");
}

#[test]
fn a_transaction_goes_in_whole_or_not_at_all() {
    let mut builder = BatchBuilder::new(head());
    assert_eq!(builder.try_push(&create_of(1000)), Ok(true));
    let before = builder.bytes_len();
    let earlier = Op { hlc: Hlc(1), cursor: 1, collection: "other".into(), more: true, ..create_of(2000) };
    let transaction = [earlier.clone(), create_of(BATCH_BYTES_MAX - 2000)];
    assert_eq!(builder.try_push_all(&transaction), Ok(false));
    assert_eq!((builder.len(), builder.bytes_len()), (1, before), "bases, tables and sizes are as before");
    let fits = [earlier, create_of(2000)];
    assert_eq!(builder.try_push_all(&fits), Ok(true));
    let batch = Batch::decode(builder.finish().expect("complete")).expect("canonical");
    assert_eq!(batch.transactions().collect::<Vec<_>>(), [0..1, 1..3]);
    assert_eq!(batch.base_hlc(), Hlc(1));
}

// spec: B-8, B-9
#[test]
fn a_builder_refuses_to_finish_what_no_reader_takes() {
    assert_eq!(BatchBuilder::new(head()).finish(), Err(EncodeError::EmptyBatch));
    let mut builder = BatchBuilder::new(head());
    let open = Op { more: true, ..create(&Document::new()) };
    assert_eq!(builder.try_push(&open), Ok(true));
    assert_eq!(builder.finish(), Err(EncodeError::OpenTransaction));
}

// spec: B-2, B-3
#[test]
fn a_builder_refuses_bad_heads() {
    let dep = |n: u8, counter| OpId { replica: ReplicaId([n; 16]), counter };
    for (head, rule) in [
        (BatchHead { first_counter: 0, ..head() }, "B-2"),
        (BatchHead { deps: vec![dep(2, 1), dep(1, 1)], ..head() }, "B-3"),
        (BatchHead { deps: vec![dep(1, 1), dep(1, 2)], ..head() }, "B-3"),
        (BatchHead { deps: vec![dep(1, 0)], ..head() }, "B-3"),
    ] {
        let refused = BatchBuilder::new(head).try_push(&create(&Document::new()));
        assert_eq!(refused, Err(EncodeError::BadHead { rule }));
    }
}

// spec: O-4, O-8, O-9, O-10
#[test]
fn a_builder_refuses_bad_operations() {
    let base = create(&[("a", 1)].into_iter().collect());
    let a = Shape::new(["a"]).expect("one name");
    let empty = Some(Row::encode(&Document::new()).expect("small"));
    for (op, rule) in [
        (Op { unset: Shape::new(["b"]).expect("one name"), ..base.clone() }, "O-4"),
        (Op { kind: OpKind::Update, unset: a.clone(), ..base.clone() }, "O-8"),
        (Op { kind: OpKind::Update, set: empty, ..base.clone() }, "O-9"),
        (Op { kind: OpKind::Update, set: None, ..base.clone() }, "O-9"),
        (Op { set: None, ..base.clone() }, "O-9"),
        (Op { kind: OpKind::Delete, ..base.clone() }, "O-10"),
        (Op { kind: OpKind::Delete, set: None, unset: a, ..base.clone() }, "O-10"),
    ] {
        let mut builder = BatchBuilder::new(head());
        assert_eq!(builder.try_push(&op), Err(EncodeError::BadOp { rule }), "{op:?}");
        assert!(builder.is_empty());
    }
    let nameless = Op { collection: "".into(), ..base };
    assert_eq!(BatchBuilder::new(head()).try_push(&nameless), Err(EncodeError::EmptyName));
}

// spec: B-2
#[test]
fn counters_do_not_run_out_within_a_batch() {
    let op = create(&Document::new());
    let mut builder = BatchBuilder::new(BatchHead { first_counter: u64::MAX - 1, ..head() });
    assert_eq!(builder.try_push(&op), Ok(true));
    assert_eq!(builder.try_push(&op), Ok(false));
    let batch = Batch::decode(builder.finish().expect("complete")).expect("canonical");
    assert_eq!(batch.counter_range(), u64::MAX - 1..u64::MAX);
}

#[test]
fn lifted_operations_share_the_bytes_of_the_batch() {
    let mut builder = BatchBuilder::new(head());
    let op = Op { attrs: Bytes::from_static(b"attributes"), ..create_of(500) };
    assert_eq!(builder.try_push(&op), Ok(true));
    let batch = Batch::decode(builder.finish().expect("complete")).expect("canonical");
    let inside = batch.bytes().as_ptr_range();
    let lifted = batch.op(0).to_op();
    let row = lifted.set.as_ref().expect("a create has a row");
    assert!(inside.contains(&row.body().as_ptr()));
    assert!(inside.contains(&lifted.attrs.as_ptr()));
    assert_eq!(lifted, op);
}

#[test]
fn an_envelope_says_what_became_of_each_operation() {
    use blazedb_wire::{Outcome, Verdict};
    let mut source = Gen::new(3);
    let batch = std::iter::repeat_with(|| source.batch()).find(|batch| batch.len() == 5).expect("endless");
    let mut envelope = source.envelope(&batch);
    envelope.first_seq = 100;
    envelope.verdicts = vec![(Verdict::Applied, 2), (Verdict::RefusedClock, 2), (Verdict::Applied, 1)];
    envelope.absorbed = blazedb_wire::Bitmap::new(5);
    envelope.repeated = blazedb_wire::Bitmap::new(5);
    envelope.absorbed.set(1);
    envelope.absorbed.set(2);
    envelope.repeated.set(3);
    let expected = [
        Outcome::Applied,
        Outcome::Absorbed,
        Outcome::Refused(Verdict::RefusedClock),
        Outcome::Repeated,
        Outcome::Applied,
    ];
    assert_eq!(envelope.outcomes().collect::<Vec<_>>(), expected);
    let applied: Vec<bool> = (0..5).map(|index| envelope.applied(index)).collect();
    assert_eq!(applied, [true, false, false, false, true]);
    assert_eq!(envelope.verdict(3), Verdict::RefusedClock);
    assert_eq!((envelope.last_seq(), envelope.seq_of(4)), (104, 104));
    // spec: F-14
    envelope.first_seq = 0;
    assert_eq!((envelope.last_seq(), envelope.seq_of(4)), (0, 0));
    assert!(envelope.outcomes().all(|outcome| outcome == Outcome::Repeated));
}
