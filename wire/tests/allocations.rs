//! Allocations, counted: reading allocates nothing, and a length that lies allocates next to nothing.
//!
//! A binary of its own, because the counting allocator is global. Counts are per thread.

use blazedb_wire::testing::Gen;
use blazedb_wire::{
    Batch, BatchBuilder, BatchHead, Codec, Columns, DecodeErrorKind, Document, DocumentId, Frame, FrameKind,
    HEADER_BYTES, Hlc, MergeKind, Op, OpKind, ReplicaId, Row, RowRef, Shape, SpaceId, Value, ValueRef, encode_value,
    push_frame, validate_body, validate_value,
};
use bytes::Bytes;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static BYTES: Cell<usize> = const { Cell::new(0) };
    static CALLS: Cell<usize> = const { Cell::new(0) };
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches a thread-local number alone, which
// does not allocate and has no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = BYTES.try_with(|bytes| bytes.set(bytes.get() + layout.size()));
        let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
        let live =
            LIVE.try_with(|live| live.replace(live.get().wrapping_add(layout.size())).wrapping_add(layout.size()));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.unwrap_or(0))));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = LIVE.try_with(|live| live.set(live.get().wrapping_sub(layout.size())));
        // SAFETY: the caller keeps the contract of `dealloc`, and every block came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Returns how many bytes `work` asks for, freed or not.
fn count<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = BYTES.get();
    let result = work();
    (BYTES.get() - before, result)
}

/// Returns how many times `work` allocates.
fn count_calls<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = CALLS.get();
    let result = work();
    (CALLS.get() - before, result)
}

/// Returns the most bytes that `work` holds at once.
fn peak<T>(work: impl FnOnce() -> T) -> (usize, T) {
    LIVE.set(1 << 40);
    PEAK.set(1 << 40);
    let result = work();
    (PEAK.get() - (1 << 40), result)
}

#[test]
fn the_counter_counts() {
    assert_eq!(peak(|| drop((vec![0u8; 500], vec![0u8; 500]))), (1000, ()));
    assert!(count(|| vec![0u8; 1000]).0 >= 1000);
}

#[test]
fn reading_a_flat_row_allocates_nothing() {
    let document: Document = [
        ("id", Value::I64(1 << 40)),
        ("title", Value::Text("x".repeat(300))),
        ("done", Value::Bool(true)),
        ("weight", Value::F64(0.1)),
        ("price", Value::Decimal("12.34".parse().expect("a decimal"))),
        ("embedding", Value::VectorF32(vec![0.5; 300].into())),
    ]
    .into_iter()
    .collect();
    let row = Row::encode(&document).expect("small");
    let (shape, body) = (row.shape(), row.body());
    assert_eq!(count(|| validate_body(shape.len(), body)), (0, Ok(())));
    let (bytes, sum) = count(|| match row.as_ref().get("embedding") {
        Some(ValueRef::VectorF32(vector)) => vector.iter().sum::<f32>(),
        _ => 0.0,
    });
    assert_eq!((bytes, sum), (0, 150.0));
    let (bytes, title) = count(|| RowRef::decode(shape, body).expect("valid").get("title"));
    assert_eq!(bytes, 0);
    assert!(matches!(title, Some(ValueRef::Text(text)) if text.len() == 300));
}

#[test]
fn reading_one_field_of_a_map_allocates_nothing() {
    let map: Document = (0..40).map(|n| (format!("key{n:02}"), n)).collect();
    let mut payload = Vec::new();
    let tag = encode_value(&Value::Array(vec![map.into()]), &mut payload).expect("small");
    let row = Row::trusted(one_name(), one_field(tag, &payload));
    let (bytes, value) = count(|| match row.as_ref().get_index(0) {
        ValueRef::Array(array) => match array.get(0) {
            Some(ValueRef::Map(map)) => map.get("key17").and_then(|value| match value {
                ValueRef::I64(n) => Some(n),
                _ => None,
            }),
            _ => None,
        },
        _ => None,
    });
    assert_eq!((bytes, value), (0, Some(17)));
}

fn one_name() -> Shape {
    Shape::new(["a"]).expect("one name")
}

fn one_field(tag: u8, payload: &[u8]) -> Bytes {
    let mut body = Vec::new();
    blazedb_wire::encode_body(&[blazedb_wire::RawField { tag, payload }], &mut body);
    Bytes::from(body)
}

/// A count of everything that has a count, each claiming far more than there is.
#[test]
fn lengths_that_lie_allocate_next_to_nothing() {
    const HUGE: [u8; 10] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    let limited = |n: usize| {
        let mut out = Vec::new();
        blazedb_wire::writer::put_uvarint(&mut out, n as u64);
        out
    };
    let head = |counter: &[u8]| [&[0][..], &[1; 32], counter, &[0; 8], &[0], &[0]].concat();
    let one = [1];
    let (huge, max) = (HUGE.to_vec(), limited(4096));
    for claim in [huge, max, limited(65_536), limited(1 << 20)] {
        let values = [
            // Keys, key length, shapes, fields of a shape, items.
            (0xa0, claim.clone()),
            (0xa0, [&[1][..], &claim].concat()),
            (0xa0, [&[0][..], &claim].concat()),
            (0xb0, [&[0, 1][..], &claim].concat()),
            (0xa0, [&[0, 0][..], &claim].concat()),
        ];
        for (tag, payload) in &values {
            let (bytes, result) = count(|| validate_value(*tag, payload));
            assert!(result.is_err());
            assert_eq!(bytes, 0, "{payload:x?}");
        }
        let batches = [
            [&head(&one)[..], &claim].concat(),
            [&head(&one)[..], &[0], &claim].concat(),
            [&head(&one)[..], &[0, 0], &claim].concat(),
            [&head(&one)[..], &[0, 0, 0], &claim].concat(),
            [&head(&one)[..], &[0, 0, 0, 1], &claim].concat(),
            [&head(&one)[..], &[0, 0, 0, 0], &claim].concat(),
            [&head(&one)[..], &[0, 0, 0, 0, 1], &claim, &[0; 22]].concat(),
        ];
        for batch in batches {
            let batch = Bytes::from(batch);
            // A first `clone` of the bytes may allocate their count of owners.
            drop(batch.clone());
            let (bytes, result) = count(|| Batch::decode(batch.clone()));
            assert!(result.is_err());
            assert!(bytes <= 256, "{bytes} for {batch:x?}");
        }
    }
}

#[test]
fn frames_that_lie_allocate_next_to_nothing() {
    for kind in FrameKind::ALL {
        for body in [&[0xff; 40][..], &[1; 40], &[0x80; 3]] {
            let mut bytes = push_frame(body).to_vec();
            bytes[3] = kind.number();
            let mut crc = crc32(&bytes[..12]);
            crc = crc32_go_on(crc, &bytes[HEADER_BYTES..]);
            bytes[12..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
            let bytes = Bytes::from(bytes);
            drop(bytes.clone());
            let (allocated, _) = count(|| Frame::decode(bytes.clone()));
            assert!(allocated <= 1024, "{kind:?}: {allocated}");
        }
    }
}

/// CRC-32 bit by bit: an oracle simpler than the crate.
fn crc32(bytes: &[u8]) -> u32 {
    crc32_go_on(0, bytes)
}

fn crc32_go_on(crc: u32, bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!crc, |mut crc, &byte| {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
        }
        crc
    })
}

// spec: F-7
#[test]
fn the_checksum_is_that_of_the_specification() {
    let frame = Gen::new(1).frame().to_bytes();
    let crc = crc32_go_on(crc32(&frame[..12]), &frame[HEADER_BYTES..]);
    assert_eq!(frame[12..HEADER_BYTES], crc.to_le_bytes());
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}

#[test]
fn decoding_a_batch_allocates_in_proportion_to_it() {
    let mut source = Gen::new(5);
    for _ in 0..50 {
        let bytes = source.batch().bytes().clone();
        let (allocated, batch) = count(|| Batch::decode(bytes.clone()));
        assert!(batch.is_ok());
        assert!(allocated <= 2048 + 16 * bytes.len(), "{allocated} for {}", bytes.len());
    }
}

/// A batch of `ops` operations on two shapes.
fn batch_of(ops: usize) -> Bytes {
    let mut builder = BatchBuilder::new(BatchHead {
        space: SpaceId([1; 16]),
        replica: ReplicaId([2; 16]),
        first_counter: 1,
        epoch: 1,
        deps: vec![],
        attrs: Bytes::new(),
    });
    for index in 0..ops {
        let document: Document = match index % 2 {
            0 => [("count", Value::I64(index as i64)), ("title", Value::Text("milk and more".into()))]
                .into_iter()
                .collect(),
            _ => {
                [("done", Value::Bool(true)), ("price", Value::F64(0.25)), ("seen", Value::Null)].into_iter().collect()
            }
        };
        let op = Op {
            kind: OpKind::Create,
            merge: MergeKind::Register,
            more: false,
            hlc: Hlc::from_parts(1000 + index as u64, 0),
            cursor: 5,
            collection: "todos".into(),
            id: DocumentId([index as u8; 16]),
            attrs: Bytes::new(),
            set: Some(Row::encode(&document).expect("small")),
            unset: Shape::empty(),
        };
        assert_eq!(builder.try_push(&op), Ok(true));
    }
    builder.finish().expect("complete")
}

#[test]
fn decoding_in_place_allocates_nothing_per_operation() {
    let [few, many] = [10, 1000].map(|ops| {
        let bytes = batch_of(ops);
        drop(bytes.clone());
        let (decoding, batch) = count_calls(|| Batch::decode(bytes.clone()).expect("valid"));
        let (reading, fields) = count_calls(|| {
            batch
                .ops()
                .map(|op| op.set.map_or(0, |row| row.iter().map(|(name, _)| name.len().min(1)).sum()))
                .sum::<usize>()
        });
        assert_eq!((reading, fields), (0, ops / 2 * 5));
        decoding
    });
    assert_eq!(few, many, "tables of the head, one list of operations");
}

// spec: L-18
#[test]
fn columns_allocate_in_proportion_to_the_rows_they_stand_for() {
    let mut source = Gen::new(5);
    for _ in 0..50 {
        let batches = source.batches();
        let rows: usize = batches.iter().map(|batch| batch.bytes().len()).sum();
        let bytes = Columns::encode(&batches).expect("small");
        let (allocated, columns) = count(|| Columns::decode(&bytes));
        assert!(columns.is_ok());
        assert!(allocated <= 8192 + 64 * rows, "{allocated} for {rows}");
    }
    // One of each count, claiming far more than there is.
    let head = [&[1, 0][..], &[1; 16]].concat();
    for claim in [&[0xff, 0xff, 3][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]] {
        for tables in 0..6 {
            let bytes = [&head[..], &[0; 6][..tables], claim].concat();
            let (allocated, columns) = count(|| Columns::decode(&bytes));
            assert!(columns.is_err());
            assert!(allocated <= 256, "{allocated} after {tables} tables");
        }
    }
}

// spec: F-21
#[test]
fn a_bomb_allocates_no_more_than_it_names() {
    for (codec, packed) in [
        (Codec::Zstd, zstd::bulk::compress(&vec![0; 64 << 20], 3).expect("memory suffices")),
        (Codec::Lz4, lz4_flex::block::compress(&vec![0; 64 << 20])),
    ] {
        let named = if codec == Codec::Zstd { 100_000 } else { 3 << 20 };
        let mut bytes = push_frame(&[&u32::to_le_bytes(named)[..], &packed].concat()).to_vec();
        bytes[4] = codec.number();
        let crc = crc32_go_on(crc32(&bytes[..12]), &bytes[HEADER_BYTES..]);
        bytes[12..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        let bytes = Bytes::from(bytes);
        let (allocated, frame) = count(|| Frame::decode(bytes.clone()));
        assert!(frame.is_err());
        assert!(allocated <= named as usize + 1024, "{codec:?}: {allocated}");
    }
}

#[test]
fn a_struct_goes_to_a_row_and_back_without_an_allocation_of_its_own() {
    #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
    struct Ticket<'a> {
        title: &'a str,
        priority: i64,
        score: f64,
        done: bool,
        #[serde(with = "tags")]
        tags: [u64; 3],
        at: Option<blazedb_wire::Timestamp>,
    }
    mod tags {
        pub(super) fn serialize<S: serde::Serializer>(tags: &[u64; 3], s: S) -> Result<S::Ok, S::Error> {
            serde::Serialize::serialize(&tags[..], s)
        }
        pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(d: D) -> Result<[u64; 3], D::Error> {
            serde::Deserialize::deserialize(d)
        }
    }
    let ticket = Ticket {
        title: "water the plants",
        priority: 300,
        score: 0.1,
        done: true,
        tags: [1, 20, 300],
        at: Some(blazedb_wire::Timestamp(1_700_000_000_000_000)),
    };
    let mut encoder = blazedb_wire::serde::RowEncoder::default();
    let mut body = Vec::new();
    let shape = encoder.encode(&ticket, &mut body).expect("small").clone();
    body.clear();
    let (bytes, again) = count(|| encoder.encode(&ticket, &mut body).expect("small"));
    assert_eq!((bytes, again), (0, &shape));
    let (bytes, read) = count(|| {
        let row = RowRef::decode(&shape, &body).expect("our own");
        blazedb_wire::serde::from_row::<Ticket<'_>>(row).expect("our own")
    });
    assert_eq!((bytes, &read), (0, &ticket));
}

/// A columnar batch with one operation for every 4,096 names, whose columns all say this.
fn columns_of(names: usize, column: &[u8]) -> Vec<u8> {
    let shapes = names.div_ceil(4096);
    let mut out = [&[1, 0][..], &[7; 16], &[1], &[5; 16], b"\x01\x01c"].concat();
    put_uvarint(&mut out, names as u64);
    (0..names).for_each(|n| out.extend_from_slice(format!("\x05{n:05x}").as_bytes()));
    put_uvarint(&mut out, shapes as u64);
    for shape in 0..shapes {
        let end = names.min((shape + 1) * 4096);
        put_uvarint(&mut out, (end - shape * 4096) as u64);
        (shape * 4096..end).for_each(|n| put_uvarint(&mut out, n as u64));
    }
    put_uvarint(&mut out, shapes as u64);
    for shape in 0..shapes {
        out.extend_from_slice(&[0, 0, 0]);
        put_uvarint(&mut out, shape as u64);
    }
    // As many batches, each of one operation of a form of its own on the same document.
    assert!(shapes > 4, "else runs would be lists");
    put_uvarint(&mut out, shapes as u64);
    let mut put_stream = |groups: &[u64]| {
        let mut bytes = Vec::new();
        groups.iter().for_each(|&n| put_uvarint(&mut bytes, n));
        put_uvarint(&mut out, bytes.len() as u64);
        out.extend_from_slice(&bytes);
    };
    put_stream(&[(shapes as u64) << 1 | 1, 1]);
    (0..8).for_each(|_| put_stream(&[]));
    put_stream(&std::iter::once(2 * shapes as u64).chain(0..shapes as u64).collect::<Vec<_>>());
    (0..6).for_each(|_| put_stream(&[]));
    put_stream(&[2, 0, (shapes as u64 - 1) << 1 | 1, 1]);
    out.push(16);
    out.extend_from_slice(&[9; 16]);
    (0..names).for_each(|_| out.extend_from_slice(column));
    out
}

fn put_uvarint(out: &mut Vec<u8>, mut n: u64) {
    while n > 0x7f {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

// spec: L-22
#[test]
fn columns_of_all_classes_are_refused_before_they_are_opened() {
    // All 19 classes, all streams empty, in 65,536 columns: what 159 KB of a compressed frame say.
    let mut column = Vec::new();
    put_uvarint(&mut column, (1 << 19) - 1);
    column.extend_from_slice(&[0; 1 + 2 + 1 + 3 + 2 + 2 + 4 + 12 + 3 + 4 + 6]);
    let bytes = columns_of(65_536, &column);
    let (peak, refused) = peak(|| Columns::decode(&bytes));
    let limit = DecodeErrorKind::Limit { what: "classes in columns", given: 65_550, max: 65_536 };
    assert_eq!(refused.map(drop).map_err(|error| error.kind), Err(limit));
    assert!(peak < 32 << 20, "{peak}");
}

// spec: L-20, L-22
#[test]
fn the_most_columns_of_the_widest_classes_take_little() {
    // In each of 65,536 fields a text, or 2^64 as a decimal.
    let text = [0x80, 0x10, 0, 0, 0];
    let wide = [&[0x80, 0x80, 4, 0, 0, 2, 2, 9, 9][..], &[0; 8], &[1]].concat();
    for column in [&text[..], &wide] {
        let bytes = columns_of(65_536, column);
        let (peak, columns) = peak(|| Columns::decode(&bytes));
        assert_eq!(columns.map(|columns| columns.batches().len()), Ok(16));
        assert!(peak < 64 << 20, "{peak}");
    }
}

/// A value of many shapes: 4,096 maps of two keys each, in two rounds, the second of which comes from the last to the first.
fn many_shapes() -> Row {
    let map = |n: usize| {
        Value::Map(
            [(format!("{:04}", n * 7919 % 4096), Value::I64(n as i64)), ("x".to_owned(), Value::Null)]
                .into_iter()
                .collect(),
        )
    };
    let maps = (0..4096).chain((0..4096).rev()).map(map).collect();
    Row::encode(&[("maps", Value::Array(maps))].into_iter().collect()).expect("small")
}

#[test]
fn nested_look_ups_allocate_nothing() {
    // The second map has the keys of the first the other way round: they are in the order of the first use.
    let map = |names: [&str; 3]| -> Value {
        Value::Map(names.into_iter().zip(1..).map(|(name, n)| (name, Value::I64(n))).collect())
    };
    let first: Value = map(["m", "n", "o"]);
    let second: Value = map(["a", "n", "z"]);
    let third: Value = map(["a", "m", "z"]);
    let nested: Document =
        [("list", Value::Array(vec![first, second, third])), ("map", map(["n", "o", "z"]))].into_iter().collect();
    let row = Row::encode(&[("top", Value::Map(nested))].into_iter().collect()).expect("small");
    let (bytes, found) = count(|| row.get_path(["top", "map", "z"]).map(|value| matches!(value, ValueRef::I64(3))));
    assert_eq!((bytes, found), (0, Some(true)));
    let all = || {
        let Some(ValueRef::Array(list)) = row.get_path(["top", "list"]) else { panic!("a list") };
        let mut names = 0;
        for map in list.iter() {
            let ValueRef::Map(map) = map else { panic!("a map") };
            names += map.iter().map(|(name, _)| usize::from(name.as_bytes()[0])).sum::<usize>();
            assert!(map.iter().is_sorted_by_key(|(name, _)| name));
            assert!(map.iter().all(
                |(name, value)| matches!((map.get(name), value), (Some(ValueRef::I64(a)), ValueRef::I64(b)) if a == b)
            ));
        }
        names
    };
    let expected = "mnoanzamz".bytes().map(usize::from).sum();
    assert_eq!(count(all), (0, expected));
    // A small index lies on the stack.
    let nested: Document = [("map", map(["n", "o", "z"]))].into_iter().collect();
    let row = Row::encode(&[("top", Value::Map(nested))].into_iter().collect()).expect("small");
    let field = row.as_ref().raw("top").expect("there");
    assert_eq!(count(|| field.index().value().get_path(["map", "z"]).is_some()), (0, true));
}

#[test]
fn look_ups_in_values_of_many_shapes_are_not_quadratic() {
    let row = many_shapes();
    let field = row.as_ref().raw("maps").expect("there");
    let started = std::time::Instant::now();
    let index = field.index();
    let ValueRef::Array(maps) = index.value() else { panic!("a list") };
    let mut sum = 0;
    for round in 0..50 {
        for at in 0..maps.len() {
            let at = (at + round) % maps.len();
            let Some(ValueRef::Map(map)) = maps.get(at) else { panic!("a map") };
            let n = at.min(8191 - at);
            let Some(ValueRef::I64(found)) = map.get(&format!("{:04}", n * 7919 % 4096)) else { panic!("its number") };
            assert_eq!(found, n as i64);
            sum += map.iter().count() + usize::from(map.get_index(1).0 == "x");
        }
    }
    assert_eq!(sum, 50 * 8192 * 3);
    // A scan of the keys for each of these would be 400,000 times 4,000 keys and shapes: many seconds, whatever the build.
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    assert_eq!(index.value().to_value(), field.value().to_value());
    // Without an index, a walk in the order in which they lie goes over the shapes once.
    let started = std::time::Instant::now();
    let ValueRef::Array(maps) = field.value() else { panic!("a list") };
    assert_eq!(maps.iter().take(4096).filter(|map| matches!(map, ValueRef::Map(map) if map.len() == 2)).count(), 4096);
    assert!(started.elapsed().as_millis() < 500, "{:?}", started.elapsed());
}
