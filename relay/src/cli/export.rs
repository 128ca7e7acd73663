//! `blazedb export`: a collection as JSON or as frames of BlazeBinary, sorted by id, one spelling per record.
//!
//! Two files that hold the same documents export the same bytes. A reader that closes the pipe early is not an error.

use std::io::{self, BufWriter, Write};

use blazedb::{Collection, Document, DocumentId};
use blazedb_wire::{
    Batch, BatchBuilder, BatchHead, Columns, EncodeError, Frame, FrameKind, Hlc, MergeKind, Op, OpKind, ReplicaId,
    Shape, SpaceId, columns_frame, json,
};
use bytes::Bytes;

use super::args::{ExportArgs, OutputFormat};
use super::failure::Failure;
use super::open::{self, Intent};
use super::partial::Partial;
use super::target::check_no_database;
use super::ui;
use super::{Outcome, exit};

/// Runs the command.
pub(crate) fn run(args: &ExportArgs) -> Outcome {
    if let Some(path) = &args.output {
        check_no_database(path, &args.db.db)?;
    }
    let (db, _) = open::open(&args.db, Intent::Read)?;
    let names = db.collections().map_err(|e| broken(&e))?;
    if !names.contains(&args.collection) {
        let known = names.iter().map(|name| ui::printable(name, 60)).collect::<Vec<_>>().join(", ");
        return Err(Failure::new(
            format!("{} has no collection {}", args.db.db.display(), ui::printable(&args.collection, 60)),
            if known.is_empty() {
                "import or sync something first".to_owned()
            } else {
                format!("choose one of: {known}")
            },
        ));
    }
    let collection = db.collection::<Document>(&args.collection).map_err(|e| broken(&e))?;
    match &args.output {
        None => {
            let written = write_all(&collection, args, BufWriter::new(io::stdout().lock()));
            match written {
                Err(WriteError::Io(e)) if e.kind() == io::ErrorKind::BrokenPipe => {}
                Err(error) => return Err(error.into_failure("to stdout")),
                Ok(_) => {}
            }
        }
        Some(path) => {
            let partial = Partial::create(path, "export", false)?;
            let written = write_all(&collection, args, BufWriter::new(partial.file()));
            let written = written.and_then(|count| Ok(partial.finish(true).map(|()| count)?));
            let count = written.map_err(|e| e.into_failure(&path.display().to_string()))?;
            ui::say(format_args!("wrote {} to {}", ui::plural(count, "record"), path.display()));
        }
    }
    Ok(exit::DONE)
}

enum WriteError {
    Io(io::Error),
    Db(blazedb::Error),
    Json { id: DocumentId, error: json::JsonWriteError },
    Blaze { id: DocumentId, error: EncodeError },
}

impl WriteError {
    fn into_failure(self, target: &str) -> Failure {
        match self {
            Self::Io(e) => Failure::io(format!("cannot write {target}"), &e),
            Self::Db(e) => broken(&e),
            Self::Json { id, error } => Failure::new(
                format!("document {id} has no JSON form: {error}"),
                "correct this document; JSON has no text for such a value",
            ),
            Self::Blaze { id, error } => Failure::new(
                format!("document {id} does not fit an operation: {error}"),
                "export this collection as JSON, or make that document smaller",
            ),
        }
    }
}

fn broken(error: &blazedb::Error) -> Failure {
    Failure::because("the collection cannot be read", error, "run `blazedb verify` on the file")
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<blazedb::Error> for WriteError {
    fn from(error: blazedb::Error) -> Self {
        Self::Db(error)
    }
}

fn write_all(collection: &Collection<Document>, args: &ExportArgs, mut out: impl Write) -> Result<u64, WriteError> {
    if args.format == OutputFormat::Blaze {
        return write_blaze(collection, &args.collection, out);
    }
    let mut text = Vec::new();
    let mut count = 0;
    for record in collection.rows() {
        let (id, row) = record?;
        text.clear();
        if args.format == OutputFormat::Json {
            text.extend_from_slice(if count == 0 { b"[\n" } else { b",\n" });
        }
        if args.with_id {
            text.extend_from_slice(format!("{{\"id\":\"{id}\",\"record\":").as_bytes());
        }
        json::write_row(row.as_ref(), &mut text).map_err(|error| WriteError::Json { id, error })?;
        if args.with_id {
            text.push(b'}');
        }
        if args.format == OutputFormat::Ndjson {
            text.push(b'\n');
        }
        out.write_all(&text)?;
        count += 1;
    }
    if args.format == OutputFormat::Json {
        out.write_all(if count == 0 { b"[]\n" } else { b"\n]\n" })?;
    }
    out.flush()?;
    Ok(count)
}

/// Bytes of row batches after which a frame of them is written.
const FRAME_ROWS_BYTES: usize = 512 << 10;

/// Writes frames of columns, each document as an operation of nobody that creates it (spec: F-24).
fn write_blaze(collection: &Collection<Document>, name: &str, mut out: impl Write) -> Result<u64, WriteError> {
    let collection_name = name.into();
    let builder = |count: u64| {
        BatchBuilder::new(BatchHead {
            space: SpaceId::default(),
            replica: ReplicaId::default(),
            first_counter: count + 1,
            epoch: 0,
            deps: Vec::new(),
            attrs: Bytes::new(),
        })
    };
    let mut count = 0;
    let mut open = builder(count);
    let mut closed = Vec::new();
    for record in collection.rows() {
        let (id, row) = record?;
        let op = Op {
            kind: OpKind::Create,
            merge: MergeKind::Register,
            more: false,
            hlc: Hlc(0),
            cursor: 0,
            collection: std::sync::Arc::clone(&collection_name),
            id,
            attrs: Bytes::new(),
            set: Some(row),
            unset: Shape::empty(),
        };
        let refused = |error| WriteError::Blaze { id, error };
        if !open.try_push(&op).map_err(refused)? {
            close(&mut closed, std::mem::replace(&mut open, builder(count))).map_err(refused)?;
            if closed.iter().map(|batch| batch.bytes().len()).sum::<usize>() >= FRAME_ROWS_BYTES {
                put_frames(&closed, &mut out)?;
                closed.clear();
            }
            if !open.try_push(&op).map_err(refused)? {
                return Err(refused(EncodeError::EmptyBatch));
            }
        }
        count += 1;
    }
    let refused = |error| WriteError::Blaze { id: DocumentId::default(), error };
    if !open.is_empty() {
        close(&mut closed, open).map_err(refused)?;
        put_frames(&closed, &mut out)?;
    }
    out.write_all(&Frame::Bye.to_bytes())?;
    out.flush()?;
    Ok(count)
}

fn close(closed: &mut Vec<Batch>, open: BatchBuilder) -> Result<(), EncodeError> {
    closed.push(Batch::decode(open.finish()?).expect("what a builder writes is accepted"));
    Ok(())
}

/// Writes batches as one frame or, where they are too many kinds of values for one (spec: L-22), as several.
fn put_frames(batches: &[Batch], out: &mut impl Write) -> Result<(), WriteError> {
    let refused = |error| WriteError::Blaze { id: DocumentId::default(), error };
    match (Columns::encode(batches), batches) {
        (Ok(columns), _) => Ok(out.write_all(&columns_frame(FrameKind::Pushes, &columns))?),
        (Err(EncodeError::Limit { .. }), [batch]) if batch.len() > 1 => {
            put_frames(&halves(batch).map_err(refused)?, out)
        }
        (Err(EncodeError::Limit { .. }), [_, _, ..]) => {
            let (first, second) = batches.split_at(batches.len() / 2);
            put_frames(first, out)?;
            put_frames(second, out)
        }
        (Err(error), _) => Err(refused(error)),
    }
}

/// Two batches of the operations of one, which are no transaction; in the end one operation always fits columns.
fn halves(batch: &Batch) -> Result<[Batch; 2], EncodeError> {
    let half = |range: std::ops::Range<usize>| {
        let first_counter = batch.op_id(range.start).counter;
        let mut builder = BatchBuilder::new(BatchHead { first_counter, ..batch.head().clone() });
        for index in range {
            builder.try_push(&batch.op(index).to_op())?;
        }
        Batch::decode(builder.finish()?).map_err(|_| EncodeError::EmptyBatch)
    };
    let middle = batch.len() / 2;
    Ok([half(0..middle)?, half(middle..batch.len())?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use blazedb::Value;
    use blazedb_wire::limits::COLUMNS_CLASSES_MAX;
    use blazedb_wire::{Decimal, Timestamp, Uuid};

    // spec: F-24, L-22
    #[test]
    fn what_is_too_much_for_one_frame_of_columns_goes_into_several() {
        let names: Vec<String> = (0..4096).map(|n| format!("{n:03x}")).collect();
        let values = [
            Value::Null,
            Value::Bool(false),
            Value::Bool(true),
            Value::I64(0),
            Value::F64(0.0),
            Value::Timestamp(Timestamp(0)),
            Value::Text(String::new()),
            Value::Bytes(Vec::new()),
            Value::Array(Vec::new()),
            Value::Map(Document::new()),
            Value::Decimal(Decimal::new(0, 0).expect("zero")),
            Value::VectorF32(Vec::new().into()),
            Value::VectorF64(Vec::new().into()),
            Value::U64(u64::MAX),
            Value::F64(f64::from(0.3f32)),
            Value::F64(0.1 + 0.2),
            Value::Uuid(Uuid([7; 16])),
        ];
        let op = |id: u8, value: &Value| Op {
            kind: OpKind::Create,
            merge: MergeKind::Register,
            more: false,
            hlc: Hlc(0),
            cursor: 0,
            collection: "c".into(),
            id: DocumentId([id; 16]),
            attrs: Bytes::new(),
            set: Some(
                blazedb_wire::Row::encode(&names.iter().map(|name| (name.clone(), value.clone())).collect())
                    .expect("small"),
            ),
            unset: Shape::empty(),
        };
        assert!(names.len() * values.len() > COLUMNS_CLASSES_MAX);
        let mut batches = Vec::new();
        let mut open = BatchBuilder::new(BatchHead {
            space: SpaceId::default(),
            replica: ReplicaId::default(),
            first_counter: 1,
            epoch: 0,
            deps: Vec::new(),
            attrs: Bytes::new(),
        });
        for (index, value) in values.iter().enumerate() {
            let op = op(index as u8, value);
            if !open.try_push(&op).expect("small") {
                let next = BatchBuilder::new(BatchHead { first_counter: index as u64 + 1, ..open.head().clone() });
                close(&mut batches, std::mem::replace(&mut open, next)).expect("whole");
                assert_eq!(open.try_push(&op), Ok(true));
            }
        }
        close(&mut batches, open).expect("whole");
        assert!(matches!(Columns::encode(&batches), Err(EncodeError::Limit { what: "classes in columns", .. })));
        let mut out = Vec::new();
        assert!(put_frames(&batches, &mut out).is_ok());
        let (mut ids, mut frames, mut at) = (Vec::new(), 0, 0);
        while at < out.len() {
            let header = out[at..].first_chunk().expect("a header");
            let length = blazedb_wire::FrameHeader::decode(header).expect("a frame").length as usize;
            let end = at + blazedb_wire::HEADER_BYTES + length;
            let Ok(Frame::Pushes(found)) = Frame::decode(Bytes::copy_from_slice(&out[at..end])) else {
                panic!("Pushes")
            };
            for batch in &found {
                for (index, op) in batch.ops().enumerate() {
                    assert_eq!(batch.op_id(index).counter, ids.len() as u64 + 1);
                    ids.push(op.id.0[0]);
                }
            }
            (at, frames) = (end, frames + 1);
        }
        assert_eq!(ids, (0..values.len() as u8).collect::<Vec<_>>());
        assert_eq!(frames, 2);
        let [first, second] = halves(&batches[0]).expect("two");
        assert_eq!(first.len() + second.len(), batches[0].len());
        assert_eq!(second.head().first_counter, first.counter_range().end);
    }
}
