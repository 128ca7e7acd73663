//! One document of ten fields through nine encodings, in one run: `cargo bench` in benches/codecs/.
//!
//! Every iteration goes over the same [`COUNT`] tickets. All encoders append to memory that is used again, as far as
//! they can be given any. Encodings "without names" have a schema outside and could not carry another record. Peers that
//! cannot validate or read in place decode: JSON, MessagePack, CBOR and BSON have to walk the document for each question.

use std::hint::black_box;

use blazedb_benches::{Ticket, Tickets, operations};
use blazedb_wire::serde::{RowEncoder, from_row};
use blazedb_wire::{Batch, Row, RowRef, Shape, ValueRef};
use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use rkyv::rancor::Error;
use rkyv::util::AlignedVec;
use serde::Deserialize;

/// Tickets per iteration: more than branch predictors learn by heart, less than the first cache holds.
const COUNT: usize = 64;

/// One field of a [`Ticket`]; serde skips the others.
#[derive(Deserialize)]
struct JustPriority {
    priority: i64,
}

/// A [`Ticket`] for the encodings that derive something of their own.
#[derive(Clone, PartialEq, prost::Message, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct Schema {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    title: String,
    #[prost(string, tag = "3")]
    body: String,
    #[prost(string, tag = "4")]
    status: String,
    #[prost(int64, tag = "5")]
    priority: i64,
    #[prost(double, tag = "6")]
    score: f64,
    #[prost(bool, tag = "7")]
    done: bool,
    #[prost(int64, tag = "8")]
    created_ms: i64,
    #[prost(int64, tag = "9")]
    updated_ms: i64,
    #[prost(string, repeated, tag = "10")]
    tags: Vec<String>,
}

fn schema(ticket: &Ticket) -> Schema {
    let Ticket { id, title, body, status, priority, score, done, created_ms, updated_ms, tags } = ticket.clone();
    Schema { id, title, body, status, priority, score, done, created_ms, updated_ms, tags }
}

/// The same tickets in every form.
struct Input {
    tickets: Vec<Ticket>,
    schemas: Vec<Schema>,
    shape: Shape,
    bodies: Vec<Bytes>,
    rows: Vec<Row>,
    json: Vec<Vec<u8>>,
    msgpack: Vec<Vec<u8>>,
    cbor: Vec<Vec<u8>>,
    bson: Vec<Vec<u8>>,
    flex: Vec<Vec<u8>>,
    prost: Vec<Vec<u8>>,
    postcard: Vec<Vec<u8>>,
    rkyv: Vec<AlignedVec>,
}

impl Input {
    fn new() -> Self {
        let tickets: Vec<Ticket> = Tickets::new(1).take(COUNT).collect();
        let schemas: Vec<Schema> = tickets.iter().map(schema).collect();
        let mut encoder = RowEncoder::default();
        let rows: Vec<Row> = tickets.iter().map(|t| encoder.encode_row(t).expect("a ticket fits a row")).collect();
        fn each<T>(tickets: &[T], encode: impl Fn(&T) -> Vec<u8>) -> Vec<Vec<u8>> {
            tickets.iter().map(encode).collect()
        }
        Self {
            shape: rows[0].shape().clone(),
            bodies: rows.iter().map(|row| row.body().clone()).collect(),
            json: each(&tickets, |t| serde_json::to_vec(t).expect("a ticket is JSON")),
            msgpack: each(&tickets, |t| rmp_serde::to_vec_named(t).expect("a ticket is MessagePack")),
            cbor: each(&tickets, |t| {
                let mut out = Vec::new();
                ciborium::into_writer(t, &mut out).expect("a ticket is CBOR");
                out
            }),
            bson: each(&tickets, |t| bson::serialize_to_vec(t).expect("a ticket is BSON")),
            flex: each(&tickets, |t| flexbuffers::to_vec(t).expect("a ticket is FlexBuffers")),
            prost: each(&schemas, Message::encode_to_vec),
            postcard: each(&tickets, |t| postcard::to_stdvec(t).expect("a ticket has a schema")),
            rkyv: schemas.iter().map(|t| rkyv::to_bytes::<Error>(t).expect("a ticket has a schema")).collect(),
            rows,
            schemas,
            tickets,
        }
    }
}

fn case<T>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, items: &[T], mut act: impl FnMut(&T)) {
    group.throughput(Throughput::Elements(items.len() as u64));
    group.bench_function(name, |b| b.iter(|| items.iter().for_each(|item| act(black_box(item)))));
}

fn encode(c: &mut Criterion) {
    let input = Input::new();
    let (tickets, schemas) = (&input.tickets, &input.schemas);
    let mut out = Vec::with_capacity(4096);
    let mut group = c.benchmark_group("encode a struct");
    let mut encoder = RowEncoder::default();
    macro_rules! into_memory {
        ($name:literal, $items:expr, $ticket:ident => $encode:expr) => {
            case(&mut group, $name, $items, |$ticket| {
                out.clear();
                $encode;
                black_box(&out);
            });
        };
    }
    into_memory!("blazedb", tickets, ticket => { black_box(encoder.encode(ticket, &mut out).expect("it did before")); });
    into_memory!("serde_json", tickets, ticket => serde_json::to_writer(&mut out, ticket).expect("it did before"));
    into_memory!("rmp-serde", tickets, ticket => rmp_serde::encode::write_named(&mut out, ticket).expect("it did before"));
    into_memory!("ciborium", tickets, ticket => ciborium::into_writer(ticket, &mut out).expect("it did before"));
    into_memory!("prost, without names", schemas, ticket => ticket.encode(&mut out).expect("it did before"));
    case(&mut group, "bson", tickets, |ticket| {
        black_box(bson::serialize_to_vec(ticket).expect("it did before"));
    });
    let mut flex = flexbuffers::FlexbufferSerializer::new();
    case(&mut group, "flexbuffers", tickets, |ticket| {
        flex.reset();
        serde::Serialize::serialize(ticket, &mut flex).expect("it did before");
        black_box(flex.view());
    });
    let mut room = vec![0; 4096];
    case(&mut group, "postcard, without names", tickets, |ticket| {
        black_box(postcard::to_slice(ticket, &mut room).expect("it did before"));
    });
    let mut aligned: AlignedVec = AlignedVec::new();
    case(&mut group, "rkyv, without names", schemas, |ticket| {
        aligned.clear();
        let bytes = rkyv::api::high::to_bytes_in::<_, Error>(ticket, std::mem::take(&mut aligned));
        aligned = bytes.expect("it did before");
        black_box(&aligned);
    });
    group.finish();
}

fn decode(c: &mut Criterion) {
    let input = Input::new();
    let mut group = c.benchmark_group("decode to a struct");
    macro_rules! owned {
        ($name:literal, $items:expr, $bytes:ident => $decode:expr) => {
            case(&mut group, $name, $items, |$bytes| {
                black_box($decode.expect("it did before"));
            });
        };
    }
    owned!("blazedb, validated before", &input.rows, row => from_row::<Ticket>(row.as_ref()));
    case(&mut group, "blazedb", &input.bodies, |body| {
        let row = RowRef::decode(&input.shape, body).expect("it did before");
        black_box(from_row::<Ticket>(row).expect("it did before"));
    });
    owned!("serde_json", &input.json, bytes => serde_json::from_slice::<Ticket>(bytes));
    owned!("rmp-serde", &input.msgpack, bytes => rmp_serde::from_slice::<Ticket>(bytes));
    owned!("ciborium", &input.cbor, bytes => ciborium::from_reader::<Ticket, _>(&bytes[..]));
    owned!("bson", &input.bson, bytes => bson::deserialize_from_slice::<Ticket>(bytes));
    owned!("flexbuffers", &input.flex, bytes => flexbuffers::from_slice::<Ticket>(bytes));
    owned!("prost, without names", &input.prost, bytes => Schema::decode(&bytes[..]));
    owned!("postcard, without names", &input.postcard, bytes => postcard::from_bytes::<Ticket>(bytes));
    owned!("rkyv, without names", &input.rkyv, bytes => rkyv::from_bytes::<Schema, Error>(bytes));
    group.finish();
}

/// One field by its name, as what it is.
fn priority(row: RowRef<'_>) -> i64 {
    match row.get(black_box("priority")) {
        Some(ValueRef::I64(n)) => n,
        _ => unreachable!("every ticket has an integer there"),
    }
}

/// Looks at all that a field holds, down to the texts of an array, as what it is.
#[inline(always)]
fn look(value: &ValueRef<'_>) {
    match value {
        ValueRef::Array(items) => items.iter().for_each(|item| look_item(&item)),
        item => look_item(item),
    }
}

#[inline(always)]
fn look_item(item: &ValueRef<'_>) {
    match item {
        ValueRef::Text(text) => drop(black_box(*text)),
        ValueRef::I64(n) => drop(black_box(*n)),
        ValueRef::F64(x) => drop(black_box(*x)),
        ValueRef::Bool(is) => drop(black_box(*is)),
        _ => unreachable!("a ticket has no others"),
    }
}

fn read_in_place(c: &mut Criterion) {
    let input = Input::new();
    fn decoded<'a>(shape: &'a Shape, body: &'a Bytes) -> RowRef<'a> {
        RowRef::decode(shape, body).expect("it did before")
    }

    let mut group = c.benchmark_group("validate, and read every field");
    case(&mut group, "blazedb", &input.bodies, |body| {
        decoded(&input.shape, body).iter().for_each(|(name, value)| {
            black_box(name);
            look(&value);
        });
    });
    case(&mut group, "serde_json, decoded", &input.json, |bytes| {
        black_box(serde_json::from_slice::<Ticket>(bytes).expect("it did before"));
    });
    case(&mut group, "rkyv, without names", &input.rkyv, |bytes| {
        let ticket = rkyv::access::<ArchivedSchema, Error>(bytes).expect("it did before");
        black_box((&ticket.id[..], &ticket.title[..], &ticket.body[..], &ticket.status[..]));
        black_box((ticket.priority, ticket.score, ticket.done, ticket.created_ms, ticket.updated_ms));
        ticket.tags.iter().for_each(|tag| {
            black_box(&tag[..]);
        });
    });
    group.finish();

    let mut group = c.benchmark_group("validate");
    case(&mut group, "blazedb", &input.bodies, |body| {
        black_box(decoded(&input.shape, body));
    });
    case(&mut group, "rkyv, without names", &input.rkyv, |bytes| {
        black_box(rkyv::access::<ArchivedSchema, Error>(bytes).expect("it did before"));
    });
    group.finish();

    let mut group = c.benchmark_group("one field");
    case(&mut group, "blazedb, validated before", &input.rows, |row| {
        black_box(priority(row.as_ref()));
    });
    case(&mut group, "blazedb", &input.bodies, |body| {
        black_box(priority(decoded(&input.shape, body)));
    });
    case(&mut group, "rkyv, without names", &input.rkyv, |bytes| {
        black_box(rkyv::access::<ArchivedSchema, Error>(bytes).expect("it did before").priority);
    });
    macro_rules! one {
        ($name:literal, $items:expr, $bytes:ident => $decode:expr) => {
            case(&mut group, $name, $items, |$bytes| {
                black_box($decode.expect("it did before").priority);
            });
        };
    }
    one!("serde_json", &input.json, bytes => serde_json::from_slice::<JustPriority>(bytes));
    one!("rmp-serde", &input.msgpack, bytes => rmp_serde::from_slice::<JustPriority>(bytes));
    one!("ciborium", &input.cbor, bytes => ciborium::from_reader::<JustPriority, _>(&bytes[..]));
    one!("bson", &input.bson, bytes => bson::deserialize_from_slice::<JustPriority>(bytes));
    one!("flexbuffers", &input.flex, bytes => flexbuffers::from_slice::<JustPriority>(bytes));
    group.finish();
}

/// A batch of operations from outside, every value in it checked; beside it the checksum of the frame that brought it.
fn batch(c: &mut Criterion) {
    let batches = operations::row_batches(&operations::changes(1));
    let bodies: Vec<Bytes> = batches.iter().map(|batch| batch.bytes().clone()).collect();
    let mut group = c.benchmark_group("1,000 operations");
    group.throughput(Throughput::Bytes(bodies.iter().map(|body| body.len() as u64).sum()));
    group.bench_function("blazedb, validated", |b| {
        b.iter(|| bodies.iter().for_each(|body| drop(black_box(Batch::decode(body.clone()).expect("it did before")))));
    });
    group.bench_function("their CRC32", |b| {
        b.iter(|| {
            bodies.iter().for_each(|body| {
                black_box(crc32fast::hash(body));
            })
        })
    });
    group.finish();
}

criterion_group!(ticket, encode, decode, read_in_place, batch);
criterion_main!(ticket);
