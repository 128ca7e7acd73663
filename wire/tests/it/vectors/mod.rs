//! The vectors of spec/vectors: every one through every way of reading it.
//!
//! Good vectors say what the bytes mean in a readable notation and are also written again from it; refused ones name
//! the error and its offset. The files are printed from the lists in `good` and `refused`: BLAZE_BLESS=1 rewrites
//! them, and the diff is what to review.

mod good;
mod notation;
mod raw;
mod refused;
mod refused_columns;

use blazedb_wire::explain::{Encoding, explain, rule};
use blazedb_wire::{
    Batch, Columns, DecodeError, Envelope, Frame, Reader, Row, RowRef, Shape, Value, ValueRef, encode_value, testing,
    validate_body, validate_value,
};
use bytes::Bytes;
use std::fmt::Write as _;
use std::path::PathBuf;

/// What a vector is an encoding of; the word it has in the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// A varint.
    Uvarint,
    /// Tag and payload of a top-level value.
    Value,
    /// A shape.
    Shape,
    /// A shape, then a row body.
    Row,
    /// A batch body.
    Batch,
    /// An envelope.
    Envelope,
    /// A columnar batch.
    Columns,
    /// A frame.
    Frame,
}

const WHATS: [(What, &str); 8] = [
    (What::Uvarint, "uvarint"),
    (What::Value, "value"),
    (What::Shape, "shape"),
    (What::Row, "row"),
    (What::Batch, "batch"),
    (What::Envelope, "envelope"),
    (What::Columns, "columns"),
    (What::Frame, "frame"),
];

struct Vector {
    name: String,
    what: What,
    /// Rules that it is about.
    spec: String,
    hex: String,
    /// What the bytes say, or the error and its offset.
    expected: Result<String, (String, usize)>,
}

/// Name, first line, vectors.
type File = (&'static str, &'static str, fn() -> Vec<Vector>);

const FILES: [File; 8] = [
    ("value.toml", "Values, shapes and rows that are accepted.", good::values),
    ("value-refused.toml", "Values, shapes and rows that are refused.", refused::values),
    ("batch.toml", "Batches and envelopes that are accepted.", good::batches),
    ("batch-refused.toml", "Batches and envelopes that are refused.", refused::batches),
    ("columns.toml", "Columnar batches that are accepted.", good::columns),
    ("columns-refused.toml", "Columnar batches that are refused.", refused_columns::columns),
    ("frame.toml", "Frames that are accepted.", good::frames),
    ("frame-refused.toml", "Frames that are refused.", refused::frames),
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().map(|digit| digit.to_digit(16).expect("vectors are hexadecimal") as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn print(about: &str, vectors: &[Vector]) -> String {
    let mut out = format!("# {about} See spec/vectors/README.md. Printed by the tests: BLAZE_BLESS=1 rewrites it.\n");
    for vector in vectors {
        let what = WHATS.iter().find(|entry| entry.0 == vector.what).expect("every kind is listed").1;
        let _ = write!(out, "\n[[vector]]\nname = \"{}\"\nwhat = \"{what}\"\n", vector.name);
        let _ = writeln!(out, "# spec: {}", vector.spec);
        let _ = writeln!(out, "hex = \"{}\"", vector.hex);
        let _ = match &vector.expected {
            Ok(says) => writeln!(out, "says = '''{says}'''"),
            Err((error, at)) => writeln!(out, "error = \"{error}\"\nat = {at}"),
        };
    }
    out
}

/// Reads the file back with a TOML parser, as a stranger would.
fn parse(text: &str) -> Vec<Vector> {
    let table: toml::Table = text.parse().expect("vector files are TOML");
    let vectors = table["vector"].as_array().expect("a list of vectors");
    let field = |vector: &toml::Value, name: &str| vector[name].as_str().expect("a text").to_owned();
    vectors
        .iter()
        .map(|vector| Vector {
            name: field(vector, "name"),
            what: WHATS.iter().find(|entry| entry.1 == field(vector, "what")).expect("a known kind").0,
            spec: String::new(),
            hex: field(vector, "hex"),
            expected: match vector.get("says") {
                Some(_) => Ok(field(vector, "says")),
                None => Err((field(vector, "error"), vector["at"].as_integer().expect("an offset") as usize)),
            },
        })
        .collect()
}

/// The encodings that are explained.
fn encoding(what: What) -> Option<Encoding> {
    match what {
        What::Value => Some(Encoding::Value),
        What::Row => Some(Encoding::Row),
        What::Batch => Some(Encoding::Batch),
        What::Envelope => Some(Encoding::Envelope),
        What::Columns => Some(Encoding::Columns),
        What::Frame => Some(Encoding::Frame),
        What::Uvarint | What::Shape => None,
    }
}

/// A dump says which rule refused bytes break: one of those that the vector is about, or that of the length.
#[test]
fn what_is_refused_is_said_to_break_the_rule_that_it_breaks() {
    let mut wrong = Vec::new();
    for vector in FILES.into_iter().flat_map(|(_, _, vectors)| vectors()) {
        let (Some(encoding), Err((error, _))) = (encoding(vector.what), &vector.expected) else { continue };
        let bytes = unhex(&vector.hex);
        let found = explain(encoding, &bytes, &mut |_| {}).expect_err("a refused vector");
        let cut_or_trailing = error.starts_with("UnexpectedEnd") || error.starts_with("TrailingBytes");
        let rule = rule(encoding, &found);
        if !cut_or_trailing && !vector.spec.split(", ").any(|listed| listed == rule) {
            wrong.push(format!("{}: {} breaks {rule}, not {}", vector.name, error, vector.spec));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Every byte of every vector has a meaning.
#[test]
fn every_vector_is_explained() {
    for vector in FILES.into_iter().flat_map(|(_, _, vectors)| vectors()) {
        let Some(encoding) = encoding(vector.what) else { continue };
        let bytes = unhex(&vector.hex);
        let which = Encoding::ALL.iter().position(|each| *each == encoding).expect("every encoding is listed");
        testing::fuzz_explain(&[&[which as u8][..], &bytes].concat());
        let mut not_understood = 0;
        let _ = explain(encoding, &bytes, &mut |part| {
            not_understood += usize::from(part.meaning.contains("not understood"));
        });
        assert!(vector.expected.is_err() || not_understood == 0, "{}", vector.name);
    }
}

#[test]
fn vectors_in_spec_hold() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../spec/vectors");
    let bless = std::env::var_os("BLAZE_BLESS").is_some();
    for (file, about, vectors) in FILES {
        let path = folder.join(file);
        let printed = print(about, &vectors());
        if bless {
            std::fs::write(&path, &printed).expect("spec/vectors can be written");
        }
        let there = std::fs::read_to_string(&path).expect("spec/vectors can be read");
        assert!(there == printed, "{file} differs from what the tests print; BLAZE_BLESS=1 rewrites it");
        let vectors = parse(&there);
        for (index, vector) in vectors.iter().enumerate() {
            assert!(vectors[..index].iter().all(|other| other.name != vector.name), "{} twice", vector.name);
            check(file, vector);
        }
    }
}

fn check(file: &str, vector: &Vector) {
    let bytes = unhex(&vector.hex);
    let context = format!("{file}: {}", vector.name);
    match (read(vector.what, &bytes), &vector.expected) {
        (Ok((says, again)), Ok(expected)) => {
            assert_eq!(&says, expected, "{context}");
            assert_eq!(hex(&again), vector.hex, "{context}: written again");
            // A prefix of a varint-free end can be valid by itself only for rows and values, whose ends come from
            // outside.
            if matches!(vector.what, What::Batch | What::Columns | What::Envelope | What::Frame | What::Uvarint) {
                for len in 0..bytes.len() {
                    assert!(read(vector.what, &bytes[..len]).is_err(), "{context}: cut to {len}");
                }
                let longer = [&bytes[..], &[0]].concat();
                assert!(read(vector.what, &longer).is_err(), "{context}: a byte more");
            }
        }
        (Err(error), Err((expected, at))) => {
            assert_eq!((&notation::error(&error), error.offset), (expected, *at), "{context}: {error}");
        }
        (got, expected) => panic!("{context}: got {got:?}, expected {expected:?}"),
    }
}

/// Reads bytes in every way there is; returns what they say and how they are written again.
fn read(what: What, bytes: &[u8]) -> Result<(String, Vec<u8>), DecodeError> {
    let mut again = Vec::new();
    let says = match what {
        What::Uvarint => {
            let mut reader = Reader::new(bytes);
            let n = reader.uvarint()?;
            reader.finish()?;
            blazedb_wire::writer::put_uvarint(&mut again, n);
            n.to_string()
        }
        What::Value => {
            testing::fuzz_value(bytes);
            let (&tag, payload) = bytes.split_first().expect("a tag");
            // Offsets count from the tag.
            let shift = |error: DecodeError| error.shifted(1);
            let valid = validate_value(tag, payload).map_err(shift);
            let borrowed = ValueRef::decode(tag, payload).map(|value| testing::walk(&value)).map_err(shift);
            let owned = Value::decode(tag, payload).map_err(shift);
            assert_eq!(valid, owned.clone().map(|_| ()));
            assert_eq!(borrowed, owned);
            let owned = owned?;
            again.push(0);
            again[0] = encode_value(&owned, &mut again).expect("what was read can be written");
            owned.to_string()
        }
        What::Shape => {
            let mut reader = Reader::new(bytes);
            let shape = Shape::decode(&mut reader)?;
            reader.finish()?;
            shape.encode(&mut again);
            shape.to_string()
        }
        What::Row => {
            testing::fuzz_row(bytes);
            let mut reader = Reader::new(bytes);
            let shape = Shape::decode(&mut reader)?;
            let at = reader.offset();
            let body = reader.rest();
            let shift = |error: DecodeError| error.shifted(at);
            let valid = validate_body(shape.len(), body).map_err(shift);
            let borrowed = RowRef::decode(&shape, body).map(|row| row.to_row()).map_err(shift);
            let owned = Row::decode(shape.clone(), Bytes::copy_from_slice(body)).map_err(shift);
            assert_eq!(valid, owned.clone().map(|_| ()));
            assert_eq!(borrowed, owned);
            let document = owned?.to_document();
            let row = Row::encode(&document).expect("what was read can be written");
            row.shape().encode(&mut again);
            again.extend_from_slice(row.body());
            document.to_string()
        }
        What::Batch => {
            testing::fuzz_batch(bytes);
            let batch = Batch::decode(Bytes::copy_from_slice(bytes))?;
            again.extend_from_slice(&notation::rebuild(&batch));
            batch.to_string()
        }
        What::Envelope => {
            testing::fuzz_envelope(bytes);
            let envelope = Envelope::decode(bytes)?;
            envelope.encode(&mut again);
            envelope.to_string()
        }
        What::Columns => {
            testing::fuzz_columns(bytes);
            let columns = Columns::decode(bytes)?;
            let written = match columns.clone().into_entries() {
                Some(entries) => Columns::encode_entries(&entries),
                None => Columns::encode(columns.batches()),
            };
            again.extend_from_slice(&written.expect("what was read can be written"));
            columns.to_string()
        }
        What::Frame => {
            testing::fuzz_frame(bytes);
            let frame = Frame::decode(Bytes::copy_from_slice(bytes))?;
            match bytes[4] {
                0 => frame.encode(&mut again),
                // Compressors of other versions may write other bytes for one body.
                _ => again.extend_from_slice(bytes),
            }
            frame.to_string()
        }
    };
    Ok((says, again))
}
