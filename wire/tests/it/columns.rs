//! What columns promise: the same batches back, limits, and that nothing gets through that rows would not say.

use crate::batches::{create, create_of, head};
use blazedb_wire::limits::{BATCH_BYTES_MAX, COLUMNS_BATCHES_MAX, COLUMNS_ROWS_BYTES_MAX};
use blazedb_wire::testing::Gen;
use blazedb_wire::{
    Batch, BatchBuilder, BatchHead, COMPRESS_BYTES_MIN, Codec, Columns, DecodeErrorKind, Document, DocumentId,
    EncodeError, Frame, FrameHeader, FrameKind, HEADER_BYTES, Hlc, Op, SpaceId, Value, columns_frame, compress_frame,
};

fn batch_of(head: BatchHead, ops: &[Op]) -> Batch {
    let mut builder = BatchBuilder::new(head);
    assert_eq!(builder.try_push_all(ops), Ok(true));
    Batch::decode(builder.finish().expect("complete")).expect("canonical")
}

// spec: K-16
#[test]
fn batches_and_envelopes_come_back_byte_for_byte() {
    for seed in 0..300 {
        let mut source = Gen::new(seed);
        let batches = source.batches();
        let columns = Columns::decode(&Columns::encode(&batches).expect("small")).expect("accepted");
        assert!(columns.envelopes().is_empty());
        for (batch, back) in batches.iter().zip(columns.batches()) {
            assert_eq!(batch.bytes(), back.bytes());
            let digests = |batch: &Batch| batch.ops().map(|op| (op.hlc, op.payload_digest())).collect::<Vec<_>>();
            assert_eq!(digests(batch), digests(back));
        }
        assert_eq!(columns.batches().len(), batches.len());
        let entries = source.entries();
        let columns = Columns::decode(&Columns::encode_entries(&entries).expect("small")).expect("accepted");
        for ((envelope, _), back) in entries.iter().zip(columns.envelopes()) {
            assert_eq!(envelope.to_vec(), back.to_vec());
        }
        assert_eq!(columns.into_entries(), Some(entries));
    }
}

// spec: K-16
#[test]
fn an_envelope_over_another_batch_is_refused() {
    let mut source = Gen::new(1);
    let mut entries = source.entries();
    entries[0].0.first_counter ^= 1;
    assert_eq!(Columns::encode_entries(&entries), Err(EncodeError::BadColumns { rule: "K-16" }));
}

// spec: K-12, L-19
#[test]
fn what_cannot_share_columns_is_refused() {
    let one = batch_of(head(), &[create(&Document::new())]);
    let other = batch_of(BatchHead { space: SpaceId([9; 16]), ..head() }, &[create(&Document::new())]);
    assert_eq!(Columns::encode(&[]), Err(EncodeError::EmptyBatch));
    assert_eq!(Columns::encode(&[one.clone(), other]), Err(EncodeError::BadColumns { rule: "K-12" }));
    let many = |count: usize| Columns::encode(&vec![one.clone(); count]);
    let most = many(COLUMNS_BATCHES_MAX).expect("at the limit");
    assert_eq!(Columns::decode(&most).map(|columns| columns.batches().len()), Ok(COLUMNS_BATCHES_MAX));
    assert!(matches!(many(COLUMNS_BATCHES_MAX + 1), Err(EncodeError::Limit { what: "batches in columns", .. })));
}

/// A batch whose body takes exactly `len` bytes.
fn batch_of_len(len: usize) -> Batch {
    let probe = batch_of(head(), &[create_of(100_000)]).bytes().len() - 100_000;
    let batch = batch_of(head(), &[create_of(len - probe)]);
    assert_eq!(batch.bytes().len(), len);
    batch
}

// spec: L-18
#[test]
fn rows_of_columns_are_limited_to_the_byte() {
    let mut batches = vec![batch_of_len(BATCH_BYTES_MAX); COLUMNS_ROWS_BYTES_MAX / BATCH_BYTES_MAX];
    let columns = Columns::encode(&batches).expect("at the limit");
    assert!(columns.len() < BATCH_BYTES_MAX + 1000, "the text is there once: {}", columns.len());
    assert_eq!(Columns::decode(&columns).map(|columns| columns.batches().len()), Ok(batches.len()));
    batches[0] = batch_of_len(BATCH_BYTES_MAX + 1);
    assert!(matches!(Columns::encode(&batches), Err(EncodeError::Limit { what: "rows of columns", .. })));
}

// spec: L-18
#[test]
fn a_short_batch_that_stands_for_too_many_rows_is_refused_early() {
    // 65,000 operations that all set a field to one text of 60,000 bytes: 4 GB, said in about 61 KB.
    let text = "x".repeat(60_000);
    let op = |n: u8| Op {
        id: DocumentId([n; 16]),
        hlc: Hlc(0),
        cursor: 0,
        ..create(&[("a", Value::Text(text.clone()))].into_iter().collect())
    };
    let good = Columns::encode(&[batch_of(head(), &[op(1), op(1), op(1)])]).expect("small");
    let at = |needle: &[u8]| good.windows(needle.len()).position(|window| window == needle).expect("there");
    let mut bytes = good.to_vec();
    // References: 0, 1, 1 becomes 0 and a run of ones; so does that of the documents. Operations: 3 becomes 65,000.
    let refs = [4, 6, 0, 1, 1];
    let long = [6, 2, 0, 0xcf, 0xf7, 0x07, 1];
    let last = bytes.windows(5).rposition(|window| window == refs).expect("the references of the text");
    bytes.splice(last..last + 5, long);
    let documents = at(&refs);
    assert!(documents < last);
    bytes.splice(documents..documents + 5, long);
    let count = at(&[2, 2, 3]);
    bytes.splice(count..count + 3, [4, 2, 0xe8, 0xfb, 0x03]);
    let error = Columns::decode(&bytes).expect_err("too much");
    assert!(matches!(error.kind, DecodeErrorKind::Limit { what: "rows of columns", .. }), "{error}");
}

/// A value of each class of the columnar kind.
pub(crate) fn of_each_class() -> [Value; 19] {
    [
        Value::Null,
        Value::Bool(false),
        Value::Bool(true),
        Value::I64(0),
        Value::U64(u64::MAX),
        Value::F64(0.5),
        Value::F64(f64::from(0.1f32)),
        Value::F64(0.1 + 0.2),
        Value::Timestamp(blazedb_wire::Timestamp(0)),
        Value::Uuid(blazedb_wire::Uuid([1; 16])),
        Value::Text("0190a0b0-1234-7abc-8def-0123456789ab".to_owned()),
        Value::Text("text".to_owned()),
        Value::Bytes(vec![1]),
        Value::Array(Vec::new()),
        Value::Map(Document::new()),
        Value::Decimal("0.1".parse().expect("a decimal")),
        Value::Decimal("123456789012345678901234567890".parse().expect("a decimal")),
        Value::VectorF32(vec![1.0].into()),
        Value::VectorF64(vec![1.0].into()),
    ]
}

// spec: L-22
#[test]
fn classes_are_limited_in_sum() {
    // Sixteen of them, 4,096 times each.
    let classes = of_each_class();
    let values = &classes[..16];
    let wide = |value: &Value| -> Document { (0..4096).map(|n| (format!("{n:03x}"), value.clone())).collect() };
    let batch = |document: &Document| batch_of(head(), &[Op { cursor: 0, ..create(document) }]);
    let mut batches: Vec<Batch> = values.iter().map(|value| batch(&wide(value))).collect();
    let columns = Columns::encode(&batches).expect("at the limit");
    assert_eq!(Columns::decode(&columns).map(Columns::into_batches), Ok(batches.clone()));
    let one_more = [("000", Value::VectorF32(Vec::new().into()))].into_iter().collect();
    batches.push(batch(&one_more));
    let refused = Err(EncodeError::Limit { what: "classes in columns", given: 65_537, max: 65_536 });
    assert_eq!(Columns::encode(&batches).map(drop), refused);
}

// spec: K-17
#[test]
fn rows_out_of_columns_are_checked_as_rows() {
    let good = Columns::encode(&[batch_of(head(), &[create(&[("a", "\u{e9}t\u{e9}")].into_iter().collect())])])
        .expect("small");
    let at = good.windows(2).rposition(|window| window == [0xc3, 0xa9]).expect("the text");
    let mut bytes = good.to_vec();
    bytes[at] = 0xff;
    assert_eq!(Columns::decode(&bytes).map_err(|error| error.kind), Err(DecodeErrorKind::Utf8));
}

// spec: F-23
#[test]
fn entries_and_pushes_mean_the_same_one_by_one() {
    let mut source = Gen::new(4);
    let entries = source.entries();
    let frame = columns_frame(FrameKind::Entries, &Columns::encode_entries(&entries).expect("small"));
    let Ok(Frame::Entries(read)) = Frame::decode(frame) else { panic!("an Entries frame") };
    for ((envelope, batch), entry) in entries.iter().zip(read) {
        let one = blazedb_wire::entry_frame(&envelope.to_vec(), batch.bytes());
        assert_eq!(Frame::decode(one), Ok(Frame::Entry { envelope: entry.0, batch: entry.1 }));
    }
    let batches = source.batches();
    let frame = columns_frame(FrameKind::Pushes, &Columns::encode(&batches).expect("small"));
    assert_eq!(Frame::decode(frame), Ok(Frame::Pushes(batches)));
}

// spec: F-20, F-21
#[test]
fn only_what_becomes_smaller_is_compressed() {
    let push = |len: usize| Frame::Push(batch_of(head(), &[create_of(len)])).to_bytes();
    let body = |len: usize| push(len).len() - HEADER_BYTES;
    let over = body(900) - 900;
    for codec in [Codec::Zstd, Codec::Lz4] {
        let short = push(COMPRESS_BYTES_MIN - over - 1);
        assert_eq!(compress_frame(&short, codec), short, "a byte below the threshold");
        let long = push(COMPRESS_BYTES_MIN - over);
        let packed = compress_frame(&long, codec);
        assert!(packed.len() < 200);
        let header = FrameHeader::decode(packed.first_chunk().expect("a header")).expect("good");
        assert_eq!((header.codec, header.kind), (codec, FrameKind::Push));
        assert_eq!(Frame::decode(packed.clone()), Frame::decode(long.clone()));
        assert_eq!(compress_frame(&packed, codec), packed, "once is enough");
        // Any flipped bit is seen by the checksum, before anything is inflated.
        for bit in 0..packed.len() * 8 {
            let mut bytes = packed.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::decode(bytes.into()).is_err(), "bit {bit}");
        }
        let mut source = Gen::new(8);
        let noise =
            create(&[("a", Value::Bytes((0..5000).map(|_| source.u64() as u8).collect()))].into_iter().collect());
        let noise = Frame::Push(batch_of(head(), &[noise])).to_bytes();
        assert_eq!(compress_frame(&noise, codec), noise, "noise does not become smaller");
    }
    assert_eq!(compress_frame(&push(5000), Codec::None), push(5000));
    let long_error =
        Frame::Error(blazedb_wire::ErrorFrame::new(blazedb_wire::ErrorCode::Internal, "x".repeat(1024))).to_bytes();
    assert_eq!(compress_frame(&long_error, Codec::Zstd), long_error, "a kind that is not compressed");
}
