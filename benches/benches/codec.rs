//! A document of ten fields through BlazeBinary, JSON and MessagePack: encode, validate, read one field, decode.
//!
//! Every iteration goes over the same [`COUNT`] tickets, in the form that the caller has (a struct, or a value without a
//! type). All encoders append to a buffer that is reused, except where a row is asked for: a `Row` owns its bytes.
//! "validate" is what makes bytes from outside fit to be read in place: BlazeBinary checks all of a row once and then
//! reads fields where they lie; JSON and MessagePack have to walk the document again for each question.

use std::hint::black_box;

use blazedb_benches::{Ticket, Tickets};
use blazedb_wire::serde::{RowEncoder, from_row, to_document};
use blazedb_wire::{Document, Row, Shape};
use bytes::Bytes;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Tickets per iteration: more than branch predictors learn by heart, less than the first cache holds.
const COUNT: usize = 64;

/// One field of a [`Ticket`]; serde skips the others.
#[derive(Deserialize)]
struct JustPriority {
    priority: i64,
}

/// The same tickets in every form.
struct Input {
    tickets: Vec<Ticket>,
    documents: Vec<Document>,
    values: Vec<serde_json::Value>,
    shape: Shape,
    bodies: Vec<Bytes>,
    rows: Vec<Row>,
    json: Vec<Vec<u8>>,
    msgpack: Vec<Vec<u8>>,
}

impl Input {
    fn new() -> Self {
        let tickets: Vec<Ticket> = Tickets::new(1).take(COUNT).collect();
        let documents: Vec<Document> =
            tickets.iter().map(|t| to_document(t).expect("a ticket is a document")).collect();
        let rows: Vec<Row> = documents.iter().map(|d| Row::encode(d).expect("a ticket fits a row")).collect();
        Self {
            values: tickets.iter().map(|t| serde_json::to_value(t).expect("a ticket is JSON")).collect(),
            json: tickets.iter().map(|t| serde_json::to_vec(t).expect("a ticket is JSON")).collect(),
            msgpack: tickets.iter().map(|t| rmp_serde::to_vec_named(t).expect("a ticket is MessagePack")).collect(),
            shape: rows[0].shape().clone(),
            bodies: rows.iter().map(|row| row.body().clone()).collect(),
            rows,
            documents,
            tickets,
        }
    }
}

fn case<T>(
    group: &mut BenchmarkGroup<'_, criterion::measurement::WallTime>,
    name: &str,
    items: &[T],
    mut act: impl FnMut(&T),
) {
    group.throughput(Throughput::Elements(items.len() as u64));
    group.bench_function(name, |b| b.iter(|| items.iter().for_each(|item| act(black_box(item)))));
}

fn encode(c: &mut Criterion) {
    let input = Input::new();
    let mut out = Vec::with_capacity(4096);

    let mut group = c.benchmark_group("encode a struct");
    let mut encoder = RowEncoder::default();
    case(&mut group, "blazedb", &input.tickets, |ticket| {
        out.clear();
        black_box(encoder.encode(ticket, &mut out).expect("it did before"));
        black_box(&out);
    });
    case(&mut group, "serde_json", &input.tickets, |ticket| {
        out.clear();
        serde_json::to_writer(&mut out, ticket).expect("it did before");
        black_box(&out);
    });
    case(&mut group, "rmp-serde", &input.tickets, |ticket| {
        out.clear();
        rmp_serde::encode::write_named(&mut out, ticket).expect("it did before");
        black_box(&out);
    });
    group.finish();

    let mut group = c.benchmark_group("encode a document");
    case(&mut group, "blazedb", &input.documents, |document| {
        black_box(Row::encode(document).expect("it did before"));
    });
    case(&mut group, "serde_json", &input.values, |value| {
        out.clear();
        serde_json::to_writer(&mut out, value).expect("it did before");
        black_box(&out);
    });
    case(&mut group, "rmp-serde", &input.values, |value| {
        out.clear();
        rmp_serde::encode::write_named(&mut out, value).expect("it did before");
        black_box(&out);
    });
    group.finish();
}

fn read_in_place(c: &mut Criterion) {
    let input = Input::new();

    let mut group = c.benchmark_group("validate");
    case(&mut group, "blazedb", &input.bodies, |body| {
        black_box(Row::decode(input.shape.clone(), body.clone()).expect("it did before"));
    });
    case(&mut group, "serde_json", &input.json, |json| {
        black_box(serde_json::from_slice::<IgnoredAny>(json).expect("it did before"));
    });
    case(&mut group, "rmp-serde", &input.msgpack, |msgpack| {
        black_box(rmp_serde::from_slice::<IgnoredAny>(msgpack).expect("it did before"));
    });
    group.finish();

    let mut group = c.benchmark_group("one field");
    case(&mut group, "blazedb, validated before", &input.rows, |row| {
        black_box(row.as_ref().get(black_box("priority")));
    });
    case(&mut group, "blazedb, validated now", &input.bodies, |body| {
        let row = Row::decode(input.shape.clone(), body.clone()).expect("it did before");
        black_box(row.as_ref().get(black_box("priority")));
    });
    case(&mut group, "serde_json", &input.json, |json| {
        black_box(serde_json::from_slice::<JustPriority>(json).expect("it did before").priority);
    });
    case(&mut group, "rmp-serde", &input.msgpack, |msgpack| {
        black_box(rmp_serde::from_slice::<JustPriority>(msgpack).expect("it did before").priority);
    });
    group.finish();

    let mut group = c.benchmark_group("every field in place");
    case(&mut group, "blazedb, validated before", &input.rows, |row| {
        row.as_ref().iter().for_each(|field| {
            black_box(field);
        });
    });
    group.finish();
}

fn decode(c: &mut Criterion) {
    let input = Input::new();

    let mut group = c.benchmark_group("decode to a struct");
    case(&mut group, "blazedb, validated before", &input.rows, |row| {
        black_box(from_row::<Ticket>(row.as_ref()).expect("it did before"));
    });
    case(&mut group, "blazedb, validated now", &input.bodies, |body| {
        let row = Row::decode(input.shape.clone(), body.clone()).expect("it did before");
        black_box(from_row::<Ticket>(row.as_ref()).expect("it did before"));
    });
    case(&mut group, "serde_json", &input.json, |json| {
        black_box(serde_json::from_slice::<Ticket>(json).expect("it did before"));
    });
    case(&mut group, "rmp-serde", &input.msgpack, |msgpack| {
        black_box(rmp_serde::from_slice::<Ticket>(msgpack).expect("it did before"));
    });
    group.finish();

    let mut group = c.benchmark_group("decode to a document");
    case(&mut group, "blazedb, validated before", &input.rows, |row| {
        black_box(row.as_ref().to_document());
    });
    case(&mut group, "serde_json", &input.json, |json| {
        black_box(serde_json::from_slice::<serde_json::Value>(json).expect("it did before"));
    });
    case(&mut group, "rmp-serde", &input.msgpack, |msgpack| {
        black_box(rmp_serde::from_slice::<serde_json::Value>(msgpack).expect("it did before"));
    });
    group.finish();
}

criterion_group!(codec, encode, read_in_place, decode);
criterion_main!(codec);
