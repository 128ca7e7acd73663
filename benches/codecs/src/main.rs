//! Prints what a backlog of a thousand operations, and a thousand documents, take in BlazeDB's batches and in other
//! encodings: `cargo run --release` in benches/codecs/. Sizes are the same on every machine.
//!
//! Self-describing encodings carry names with each operation; protobuf, postcard and rkyv have a schema outside, made of
//! the fields of this one collection, and could not carry another. Ids and timestamps are bytes and integers wherever
//! the encoding has them; JSON has text.

use blazedb_benches::operations::{self, Change, Field};
use blazedb_wire::{Batch, Columns};
use serde::Serialize;

/// A byte string, which serde's own arrays are not.
#[derive(Clone, PartialEq)]
struct Id([u8; 16]);

impl Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        if out.is_human_readable() {
            return out.serialize_str(&blazedb_wire::Uuid(self.0).to_string());
        }
        out.serialize_bytes(&self.0)
    }
}

/// The fields of a task; what an operation does not set is left out where the encoding can.
#[derive(Clone, PartialEq, Serialize)]
struct Task {
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<i64>,
}

/// An operation with names, as one sends it in JSON.
#[derive(Clone, PartialEq, Serialize)]
struct Named {
    replica: Id,
    counter: u64,
    ms: u64,
    tick: u16,
    kind: &'static str,
    collection: &'static str,
    id: Id,
    set: Task,
}

/// An operation with a schema outside, with numbers for what repeats.
#[derive(Clone, PartialEq, prost::Message, Serialize, rkyv::Archive, rkyv::Serialize)]
struct Schema {
    #[prost(uint32, tag = "1")]
    author: u32,
    #[prost(uint64, tag = "2")]
    counter: u64,
    #[prost(uint64, tag = "3")]
    ms: u64,
    #[prost(uint32, tag = "4")]
    tick: u32,
    #[prost(bool, tag = "5")]
    insert: bool,
    #[prost(bytes = "vec", tag = "6")]
    id: Vec<u8>,
    #[prost(int64, optional, tag = "7")]
    created_at: Option<i64>,
    #[prost(bool, optional, tag = "8")]
    done: Option<bool>,
    #[prost(double, optional, tag = "9")]
    estimate: Option<f64>,
    #[prost(bytes = "vec", optional, tag = "10")]
    owner: Option<Vec<u8>>,
    #[prost(int64, optional, tag = "11")]
    priority: Option<i64>,
    #[prost(string, optional, tag = "12")]
    project: Option<String>,
    #[prost(string, optional, tag = "13")]
    status: Option<String>,
    #[prost(string, optional, tag = "14")]
    title: Option<String>,
    #[prost(int64, optional, tag = "15")]
    updated_at: Option<i64>,
}

/// A batch with a schema outside.
#[derive(Clone, PartialEq, prost::Message, Serialize, rkyv::Archive, rkyv::Serialize)]
struct SchemaBatch {
    #[prost(string, tag = "1")]
    collection: String,
    #[prost(bytes = "vec", repeated, tag = "2")]
    replicas: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "3")]
    ops: Vec<Schema>,
}

fn task(change: &Change) -> Task {
    let field = |name: &str| change.fields.iter().find(|field| field.0 == name).map(|field| &field.1);
    let time = |name| match field(name) {
        Some(Field::Time(ms)) => Some(*ms),
        _ => None,
    };
    let text = |name| match field(name) {
        Some(Field::Text(text)) => Some(text.clone()),
        _ => None,
    };
    Task {
        created_at: time("created_at"),
        done: matches!(field("done"), Some(Field::Bool(true))).then_some(true).or(field("done").map(|_| false)),
        estimate: if let Some(Field::Float(x)) = field("estimate") { Some(*x) } else { None },
        owner: if let Some(Field::Uuid(id)) = field("owner") { Some(Id(*id)) } else { None },
        priority: if let Some(Field::Int(n)) = field("priority") { Some(*n) } else { None },
        project: text("project"),
        status: text("status"),
        title: text("title"),
        updated_at: time("updated_at"),
    }
}

fn named(change: &Change) -> Named {
    Named {
        replica: Id(operations::author_id(change.author)),
        counter: change.counter,
        ms: change.ms,
        tick: change.tick,
        kind: if change.insert { "create" } else { "update" },
        collection: "tasks",
        id: Id(change.id),
        set: task(change),
    }
}

fn schema(change: &Change) -> Schema {
    let task = task(change);
    Schema {
        author: change.author as u32,
        counter: change.counter,
        ms: change.ms,
        tick: change.tick.into(),
        insert: change.insert,
        id: change.id.to_vec(),
        created_at: task.created_at,
        done: task.done,
        estimate: task.estimate,
        owner: task.owner.map(|id| id.0.to_vec()),
        priority: task.priority,
        project: task.project,
        status: task.status,
        title: task.title,
        updated_at: task.updated_at,
    }
}

/// Encodings of a list that carries its names.
fn self_describing<T: Serialize>(items: &[T]) -> Vec<(&'static str, Vec<u8>)> {
    let mut cbor = Vec::new();
    ciborium::into_writer(items, &mut cbor).expect("memory suffices");
    // BSON has no lists at the top: documents one after another.
    let bson = items.iter().flat_map(|item| bson::serialize_to_vec(item).expect("documents are BSON")).collect();
    vec![
        ("JSON", serde_json::to_vec(items).expect("JSON")),
        ("MessagePack, named", rmp_serde::to_vec_named(items).expect("MessagePack")),
        ("CBOR", cbor),
        ("BSON", bson),
        ("FlexBuffers", flexbuffers::to_vec(items).expect("FlexBuffers")),
    ]
}

fn ours(batches: &[Batch]) -> Vec<(&'static str, Vec<u8>)> {
    let rows = batches.iter().flat_map(|batch| batch.bytes().to_vec()).collect();
    vec![
        ("**BlazeBinary rows**", rows),
        ("**BlazeBinary columns**", Columns::encode(batches).expect("one space").to_vec()),
    ]
}

fn print(title: &str, count: usize, list: &[(&str, Vec<u8>)]) {
    println!("\n### {title}\n\n| encoding | raw | lz4 | zstd-1 | zstd-3 |\n| --- | --- | --- | --- | --- |");
    let each = |bytes: usize| format!("{:.1}", bytes as f64 / count as f64);
    for (name, bytes) in list {
        let zstd = |level| zstd::bulk::compress(bytes, level).expect("memory suffices").len();
        let lz4 = lz4_flex::block::compress(bytes).len();
        println!("| {name} | {} | {} | {} | {} |", each(bytes.len()), each(lz4), each(zstd(1)), each(zstd(3)));
    }
}

fn main() {
    let changes = operations::changes(1);
    let (values, floor) = operations::values_len(&changes);
    let count = changes.len();
    println!("Floor of the operations: values alone {:.1} bytes each,", values as f64 / count as f64);
    println!("with a document id and 8 bytes of stamp {:.1}.", floor as f64 / count as f64);
    let mut list = self_describing(&changes.iter().map(named).collect::<Vec<_>>());
    let batch = SchemaBatch {
        collection: "tasks".to_owned(),
        replicas: (0..operations::AUTHORS).map(|author| operations::author_id(author).to_vec()).collect(),
        ops: changes.iter().map(schema).collect(),
    };
    list.push(("protobuf, schema outside", prost::Message::encode_to_vec(&batch)));
    list.push(("postcard, schema outside", postcard::to_stdvec(&batch).expect("memory suffices")));
    list.push((
        "rkyv, schema outside",
        rkyv::to_bytes::<rkyv::rancor::Error>(&batch).expect("memory suffices").to_vec(),
    ));
    list.extend(ours(&operations::row_batches(&changes)));
    print("1,000 operations, bytes per operation", count, &list);

    let tickets = operations::tickets(1, 1000);
    let mut list = self_describing(&tickets);
    list.push(("postcard, schema outside", postcard::to_stdvec(&tickets).expect("memory suffices")));
    list.extend(ours(&operations::ticket_batches(&tickets)));
    print("1,000 documents of ten fields, bytes per document", tickets.len(), &list);
}
