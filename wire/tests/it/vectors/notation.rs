//! The readable notation of vectors, described in spec/vectors/README.md.

use super::hex;
use blazedb_wire::{
    Batch, BatchBuilder, Bitmap, Columns, DecodeError, DecodeErrorKind, Envelope, ErrorCode, Frame, OpKind, OpRef,
    Reads, Shape, Value,
};
use bytes::Bytes;

fn text(text: &str) -> String {
    serde_json::to_string(text).expect("text is always JSON")
}

fn joined<T>(items: impl Iterator<Item = T>, print: impl Fn(T) -> String) -> String {
    items.map(print).collect::<Vec<_>>().join(", ")
}

pub(super) fn names(shape: &Shape) -> String {
    format!("[{}]", joined(shape.names(), text))
}

pub(super) fn value(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::I64(n) => n.to_string(),
        Value::U64(n) => n.to_string(),
        Value::F64(x) => format!("{x:?}"),
        Value::Decimal(value) => format!("decimal({value})"),
        Value::VectorF32(vector) => format!("f32[{}]", joined(vector.0.iter(), |x| format!("{:?}", f64::from(*x)))),
        Value::VectorF64(vector) => format!("f64[{}]", joined(vector.0.iter(), |x| format!("{x:?}"))),
        Value::Text(value) => text(value),
        Value::Bytes(bytes) => format!("bytes({})", hex(bytes)),
        Value::Timestamp(micros) => format!("timestamp({})", micros.0),
        Value::Uuid(id) => format!("uuid({id})"),
        Value::Array(items) => format!("[{}]", joined(items.iter(), self::value)),
        Value::Map(document) => {
            let field = |(name, value): (&str, &Value)| format!("{}: {}", text(name), self::value(value));
            format!("{{{}}}", joined(document.iter(), field))
        }
    }
}

fn op(op: OpRef<'_>) -> String {
    let kind = match op.kind {
        OpKind::Create => "create",
        OpKind::Update => "update",
        OpKind::Delete => "delete",
    };
    let mut out = format!("{kind} {} {} hlc {} cursor {}", text(op.collection), op.id, op.hlc, op.cursor);
    if !op.attrs.is_empty() {
        out += &format!(" attrs {}", hex(op.attrs));
    }
    if let Some(row) = op.set {
        out += &format!(" set {}", value(&Value::Map(row.to_document())));
    }
    if !op.unset.is_empty() {
        out += &format!(" unset {}", names(op.unset));
    }
    if op.more {
        out += " more";
    }
    out + &format!(" digest {}", hex(&op.payload_digest()))
}

pub(super) fn batch(batch: &Batch) -> String {
    let head = batch.head();
    let deps = joined(head.deps.iter(), |dep| dep.to_string());
    let mut out = format!(
        "space {} replica {} first {} epoch {} deps [{deps}] attrs {:?}",
        head.space,
        head.replica,
        head.first_counter,
        head.epoch,
        hex(&head.attrs)
    );
    for item in batch.ops() {
        out += "\n";
        out += &op(item);
    }
    out
}

fn bits(bitmap: &Bitmap) -> String {
    bitmap.iter().map(|bit| if bit { '1' } else { '0' }).collect()
}

pub(super) fn envelope(envelope: &Envelope) -> String {
    let verdicts = joined(envelope.verdicts.iter(), |(verdict, count)| format!("{} x {count}", verdict.number()));
    format!(
        "epoch {} first_seq {} relay_ms {} replica {} first {} n {} verdicts [{verdicts}] absorbed {} repeated {}",
        envelope.epoch,
        envelope.first_seq,
        envelope.relay_ms,
        envelope.replica,
        envelope.first_counter,
        envelope.n,
        bits(&envelope.absorbed),
        bits(&envelope.repeated)
    )
}

fn joined_lines(first: &str, rest: impl Iterator<Item = String>) -> String {
    std::iter::once(first.to_owned()).chain(rest).collect::<Vec<_>>().join("\n")
}

/// What columns hold: each batch, under its envelope if there are envelopes.
pub(super) fn columns(columns: &Columns) -> String {
    let over = columns.envelopes().iter().map(envelope).chain(std::iter::repeat(String::new()));
    let each = over.zip(columns.batches()).map(|(over, under)| match over.as_str() {
        "" => batch(under),
        over => format!("{over}\n{}", batch(under)),
    });
    joined_lines("columns", each)
}

fn reads(reads: Reads) -> String {
    let all = [(reads.zstd, "zstd"), (reads.lz4, "lz4"), (reads.columns, "columns")];
    joined(all.into_iter().filter(|one| one.0), |one| one.1.to_owned())
}

pub(super) fn frame(frame: &Frame) -> String {
    match frame {
        Frame::Hello(hello) => {
            let space = hello.space.map_or_else(|| "none".to_owned(), |space| space.to_string());
            let replicas = joined(hello.replicas.iter(), |replica| replica.to_string());
            format!(
                "Hello protocol {} space {space} epoch {} cursor {} reads [{}] replicas [{replicas}]",
                hello.protocol,
                hello.epoch,
                hello.cursor,
                reads(hello.reads)
            )
        }
        Frame::Welcome(welcome) => {
            let counters = joined(welcome.counters.iter(), |(replica, counter)| format!("{replica}:{counter}"));
            format!(
                "Welcome protocol {} space {} epoch {} head {} floor {} relay_ms {} clock_trusted {} reads [{}] counters [{counters}]",
                welcome.protocol,
                welcome.space,
                welcome.epoch,
                welcome.head,
                welcome.floor,
                welcome.relay_ms,
                welcome.clock_trusted,
                reads(welcome.reads)
            )
        }
        Frame::Push(pushed) => format!("Push\n{}", batch(pushed)),
        Frame::Ack(acked) => format!("Ack\n{}", envelope(acked)),
        Frame::Entry { envelope: over, batch: under } => format!("Entry\n{}\n{}", envelope(over), batch(under)),
        Frame::Error(error) => {
            let code = match error.code {
                ErrorCode::NeedFrom(from) => format!("NeedFrom({}:{})", from.replica, from.counter),
                code => format!("{code:?}"),
            };
            format!("Error {code} fatal {} retry_ms {} {}", error.fatal, error.retry_ms, text(&error.text))
        }
        Frame::Ping(nonce) => format!("Ping {nonce}"),
        Frame::Pong(nonce) => format!("Pong {nonce}"),
        Frame::Bye => "Bye".to_owned(),
        Frame::DigestRequest { min_seq } => format!("DigestRequest min_seq {min_seq}"),
        Frame::Entries(entries) => {
            joined_lines("Entries", entries.iter().map(|(over, under)| format!("{}\n{}", envelope(over), batch(under))))
        }
        Frame::Pushes(batches) => joined_lines("Pushes", batches.iter().map(batch)),
        Frame::Digest { seq, digest, documents } => {
            format!("Digest seq {seq} digest {} documents {documents}", hex(digest))
        }
    }
}

/// Writes a batch again from its operations.
pub(super) fn rebuild(batch: &Batch) -> Bytes {
    let mut builder = BatchBuilder::new(batch.head().clone());
    for op in batch.ops() {
        assert_eq!(builder.try_push(&op.to_op()), Ok(true), "what was read can be written");
    }
    builder.finish().expect("what was read can be written")
}

pub(super) fn error(error: &DecodeError) -> String {
    match error.kind {
        DecodeErrorKind::UnexpectedEnd { .. } => "UnexpectedEnd".to_owned(),
        DecodeErrorKind::Overlong => "Overlong".to_owned(),
        DecodeErrorKind::NotCanonical(rule) => format!("NotCanonical {rule}"),
        DecodeErrorKind::ReservedTag(tag) => format!("ReservedTag {tag:02x}"),
        DecodeErrorKind::BadTag(tag) => format!("BadTag {tag:02x}"),
        DecodeErrorKind::Utf8 => "Utf8".to_owned(),
        DecodeErrorKind::TooDeep => "TooDeep".to_owned(),
        DecodeErrorKind::Limit { what, .. } => format!("Limit {what}"),
        DecodeErrorKind::TrailingBytes(count) => format!("TrailingBytes {count}"),
        DecodeErrorKind::BadMagic => "BadMagic".to_owned(),
        DecodeErrorKind::BadVersion(version) => format!("BadVersion {version}"),
        DecodeErrorKind::UnknownKind(kind) => format!("UnknownKind {kind}"),
        DecodeErrorKind::Codec(codec) => format!("Codec {codec}"),
        DecodeErrorKind::Inflate(codec) => format!("Inflate {codec}"),
        DecodeErrorKind::Checksum { .. } => "Checksum".to_owned(),
        DecodeErrorKind::OutOfRange { what, .. } => format!("OutOfRange {what}"),
        DecodeErrorKind::Order(rule) => format!("Order {rule}"),
    }
}
