//! The tables of spec/ whose numbers are constants here, printed from those constants.
//!
//! The words are in this file and the numbers are not: a constant that changes without its document fails, and so does a
//! document that changes without its constant. BLAZE_BLESS=1 writes the tables into the documents.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::batch::columns::field::class;
use crate::batch::{KIND_COLUMNS, KIND_ROWS, op_bits};
use crate::frame::{Codec, HEADER_AT, HEADER_BYTES, MAGIC, VERSION};
use crate::op::{MergeKind, OpKind};
use crate::value::scalar::types;
use crate::{ErrorCode, FrameKind, OpId, ReplicaId, limits};

/// Compares a table with the one in a document: the first that begins with the same line behind `after`.
fn check(file: &str, after: &str, table: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../spec").join(file);
    let text = std::fs::read_to_string(&path).expect("spec/ is complete");
    let first = table.lines().next().expect("a table has a head");
    let from = text.find(after).unwrap_or_else(|| panic!("{file} does not say {after:?}"));
    let start =
        from + text[from..].find(&format!("\n{first}\n")).unwrap_or_else(|| panic!("{file}: no table {first}")) + 1;
    let end = start + text[start..].find("\n\n").map_or(text.len() - start, |end| end + 1);
    if std::env::var_os("BLAZE_BLESS").is_some() {
        let blessed = [&text[..start], table, &text[end..]].concat();
        std::fs::write(&path, blessed).expect("spec/ can be written");
        return;
    }
    assert!(&text[start..end] == table, "{file}: the code says\n{table}\nand the document\n{}", &text[start..end]);
}

/// Prints a table of cells.
fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut out = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(N));
    for row in rows {
        // An empty cell is one space wide.
        let cells = row.map(|cell| if cell.is_empty() { " ".to_owned() } else { format!(" {cell} ") });
        let _ = writeln!(out, "|{}|", cells.join("|"));
    }
    out
}

fn cells<const N: usize>(cells: [&str; N]) -> [String; N] {
    cells.map(str::to_owned)
}

// spec: V-5, V-6
#[test]
fn tags_are_those_of_the_document() {
    let row = |kind: u8, rest: [&str; 3]| {
        let [meaning, info, payload] = rest;
        cells([&format!("{kind:X}"), meaning, info, payload])
    };
    let rows = [
        row(types::SIMPLE, ["null, false, true", "0, 1, 2", "none"]),
        row(types::SMALL, ["integer from -8 to 7", "its low four bits, two's complement", "none"]),
        row(types::INTEGER, ["other integer up to 2^63 - 1", "number of bytes, 1 to 8", "two's complement"]),
        row(types::UNSIGNED, ["integer from 2^63 to 2^64 - 1", "8", "u64"]),
        row(types::FLOAT, ["float", "0: positive zero; 4: 32 bits; 8: 64 bits", "none, 4 or 8 bytes, IEEE 754"]),
        row(
            types::DECIMAL,
            [
                "decimal",
                "places, 0 to 14; 15: a byte says them",
                "places if 15 (1 byte), then the coefficient, two's complement",
            ],
        ),
        row(types::TIMESTAMP, ["timestamp, microseconds", "number of bytes, 0 to 8", "two's complement"]),
        row(types::UUID, ["UUID", "0", "16 bytes, in the order of its text form"]),
        row(types::TEXT, ["text", "0", "UTF-8"]),
        row(types::BYTES, ["bytes", "0", "as they are"]),
        row(types::ARRAY, ["array", "0", "a container, see below"]),
        row(types::MAP, ["map", "0", "a container, see below"]),
        row(types::VECTOR, ["numeric vector", "bytes of an element: 4, 8", "elements, IEEE 754, one behind the other"]),
        cells(["D, E", "mergeable container, extension: reserved", "", ""]),
        cells(["F", "never valid", "", ""]),
    ];
    check("value.md", "## Tags", &table(["Type", "Meaning", "info", "Payload"], rows));
}

// spec: L-1 to L-22
#[test]
fn limits_are_those_of_the_document() {
    let number = |n: usize| match n {
        n if n >= 1 << 20 && n % (1 << 20) != 0 => format!("{} M + {} K", n >> 20, (n % (1 << 20)) >> 10),
        n if n >= 1 << 20 => format!("{} M", n >> 20),
        n if n >= 1 << 18 => format!("{} K", n >> 10),
        n if n >= 1000 => format!("{},{:03}", n / 1000, n % 1000),
        n => n.to_string(),
    };
    let rows = [
        ("depth of containers (V-21)", limits::DEPTH_MAX, "a stack of fixed size is enough"),
        ("names in a shape; fields of a nested map", limits::FIELDS_MAX, "a document is not a table"),
        ("a field name, a key, a collection name", limits::NAME_BYTES_MAX, "one byte says the length"),
        (
            "a row: body and its shape, and the shape it unsets if it does",
            limits::ROW_BYTES_MAX,
            "one operation always fits a batch of its own (L-9)",
        ),
        ("payload of one field", limits::FIELD_BYTES_MAX, "larger values are blobs"),
        ("keys in one key table", limits::TABLE_KEYS_MAX, "bounds a search without an index"),
        ("shapes in one key table", limits::TABLE_SHAPES_MAX, "likewise"),
        (
            "a batch of several operations, before compression",
            limits::BATCH_BYTES_MAX,
            "the memory of the smallest device",
        ),
        (
            "a batch of one operation, before compression",
            limits::BATCH_SINGLE_BYTES_MAX,
            "the largest row with the largest head",
        ),
        ("operations in a batch", limits::BATCH_OPS_MAX, "bounds verdicts and bitmaps"),
        ("shapes in a batch", limits::BATCH_SHAPES_MAX, ""),
        ("collections in a batch", limits::BATCH_COLLECTIONS_MAX, ""),
        ("dependencies in a batch", limits::BATCH_DEPS_MAX, "fits the head under L-9"),
        ("attributes, of an operation and of a batch", limits::ATTRS_BYTES_MAX, "likewise"),
        ("a frame's body", limits::FRAME_BODY_BYTES_MAX, "what HTTP/2 peers accept by default"),
        ("ids in a Hello and in a Welcome", limits::HELLO_REPLICAS_MAX, ""),
        ("text of an Error", limits::ERROR_TEXT_BYTES_MAX, ""),
        (
            "the row batches of a columnar batch, in sum",
            limits::COLUMNS_ROWS_BYTES_MAX,
            "what a reader writes, however short the columns are",
        ),
        ("batches in a columnar batch", limits::COLUMNS_BATCHES_MAX, ""),
        ("entries of a table of a columnar batch", limits::COLUMNS_TABLE_MAX, ""),
        (
            "digits of a decimal, and of them behind the point",
            limits::DECIMAL_DIGITS_MAX,
            "what SQL databases and Arrow hold",
        ),
        (
            "classes in the columns of a columnar batch, in sum over its columns",
            limits::COLUMNS_CLASSES_MAX,
            "each is a stream that a reader has open, for three bytes or so",
        ),
    ];
    let rows = rows
        .iter()
        .zip(1..)
        .map(|((what, most, why), rule)| cells([&format!("**L-{rule}**"), what, &number(*most), why]));
    check("limits.md", "# Limits", &table(["Rule", "What", "Most", "Why"], rows));
}

// spec: F-1, F-2, F-4, F-5, F-6, F-7
#[test]
fn the_header_of_a_frame_is_that_of_the_document() {
    let hex: Vec<String> = MAGIC.iter().map(|byte| format!("{byte:02X}")).collect();
    let magic = format!("\"{}\" ({})", String::from_utf8_lossy(&MAGIC), hex.join(" "));
    let codecs = Codec::ALL.map(|codec| format!("{} {}", codec.number(), format!("{codec:?}").to_lowercase()));
    let what = [
        magic,
        format!("version of the format: {VERSION}"),
        "kind".to_owned(),
        format!("codec of the body: {}", codecs.join(", ")),
        "flags: 0".to_owned(),
        "reserved: 0".to_owned(),
        "length of the body as it is sent, u32".to_owned(),
        format!("CRC-32 of bytes 0 to {} and of the body, u32", HEADER_AT[7] - 1),
    ];
    let ends = HEADER_AT.into_iter().skip(1).chain([HEADER_BYTES]);
    let mut rows: Vec<[String; 3]> = HEADER_AT
        .iter()
        .zip(ends)
        .zip(what)
        .map(|((at, end), what)| [at.to_string(), (end - at).to_string(), what])
        .collect();
    rows.push([HEADER_BYTES.to_string(), String::new(), "body".to_owned()]);
    check("frame.md", "## Header", &table(["Offset", "Bytes", "Is"], rows));
    // Where the header's reader looks is where it says: each byte that is turned is noticed in its place.
    let frame = crate::Frame::Bye.to_bytes();
    for (at, noticed) in [(0, 0), (2, 2), (3, 3), (4, 4), (5, 5), (6, 5), (7, 5), (8, 16), (12, 12)] {
        let mut bytes = frame.to_vec();
        bytes[at] ^= 0x40;
        let error = crate::Frame::decode(bytes.into()).expect_err("a byte was turned");
        assert_eq!(error.offset, noticed, "byte {at}");
    }
}

// spec: F-3, F-8, F-20
#[test]
fn kinds_of_frames_are_those_of_the_document() {
    let rows = FrameKind::ALL.map(|kind| {
        let (from, body) = match kind {
            FrameKind::Hello => ("client", "see below"),
            FrameKind::Welcome => ("relay", "see below"),
            FrameKind::Push => ("client", "batch body (op.md), verbatim"),
            FrameKind::Ack => ("relay", "envelope"),
            FrameKind::Entry => ("relay", "uvarint length of the envelope, envelope, batch body, verbatim"),
            FrameKind::Error => ("both", "see below"),
            FrameKind::Ping => ("both", "nonce, u64"),
            FrameKind::Pong => ("both", "the nonce of the Ping, u64"),
            FrameKind::Bye => ("both", "nothing"),
            FrameKind::DigestRequest => ("client", "uvarint: least sequence number at which the digest may be taken"),
            FrameKind::Digest => ("relay", "uvarint sequence number, digest (32), uvarint number of live documents"),
            FrameKind::Entries => ("relay", "columnar batch (columns.md) with envelopes"),
            FrameKind::Pushes => ("client", "columnar batch without envelopes"),
        };
        cells([&kind.number().to_string(), &format!("{kind:?}"), from, body])
    });
    check("frame.md", "## Bodies", &table(["Kind", "Name", "From", "Body"], rows));
    let compressed: Vec<String> =
        FrameKind::ALL.iter().filter(|kind| kind.may_compress()).map(|kind| format!("{kind:?}")).collect();
    says("frame.md", &format!("Only the bodies of {} may be compressed", and(&compressed)));
    let reserved: Vec<String> = FrameKind::RESERVED.iter().map(|(number, name)| format!("{number} {name}")).collect();
    says("frame.md", &format!("The kinds {} are reserved", and(&reserved)));
}

// spec: F-16
#[test]
fn codes_of_errors_are_those_of_the_document() {
    let all = [
        (ErrorCode::Malformed, "bytes were refused"),
        (ErrorCode::Unauthenticated, "the token is missing, wrong or expired"),
        (ErrorCode::PermissionDenied, "the token does not allow this"),
        (ErrorCode::SpaceMismatch, "the file is bound to another space"),
        (ErrorCode::EpochMismatch, "the cursor belongs to another epoch"),
        (
            ErrorCode::NeedFrom(OpId { replica: ReplicaId::default(), counter: 1 }),
            "operations are missing: send from this one on",
        ),
        (ErrorCode::NameClash, "an operation of this name and another payload is known"),
        (ErrorCode::TooLarge, "above a limit"),
        (ErrorCode::Overloaded, "too much at present"),
        (ErrorCode::Unsupported, "not spoken here"),
        (ErrorCode::Internal, "a failure that is not the other side's"),
        (ErrorCode::ShuttingDown, "the relay is about to stop"),
        (ErrorCode::CursorAhead, "the cursor is above the head"),
    ];
    assert_eq!(all.len() as u64, ErrorCode::NUMBER_MAX, "every code is listed");
    let rows = all.map(|(code, means)| {
        let name = format!("{code:?}");
        let name = name.split('(').next().unwrap_or_default();
        cells([&code.number().to_string(), name, means])
    });
    check("frame.md", "### Error", &table(["Code", "Name", "Means"], rows));
}

// spec: O-1, O-2, B-1
#[test]
fn bits_of_operations_are_those_of_the_document() {
    let bit = |mask: u8| mask.trailing_zeros();
    let kinds = [OpKind::Create, OpKind::Update, OpKind::Delete]
        .map(|kind| format!("{} {}", kind.number(), format!("{kind:?}").to_lowercase()));
    let first = format!(
        "bits {} to {}: kind, {}; bit {}: MORE; bit {}: UNSET; bit {}: ATTRS",
        bit(op_bits::KIND),
        7 - op_bits::KIND.leading_zeros(),
        kinds.join(", "),
        bit(op_bits::MORE),
        bit(op_bits::UNSET),
        bit(op_bits::ATTRS)
    );
    says("op.md", &format!("| {first} | 1 | all |"));
    says("op.md", &format!("| kind of the batch: {KIND_ROWS} rows; {KIND_COLUMNS} is columnar, see columns.md | 1 |"));
    says(
        "op.md",
        &format!(
            "The merge kind MUST be {}. 1 counter, 2 set, 3 list, 4 map, 5 text and {} custom are reserved.",
            MergeKind::Register.number(),
            MergeKind::RESERVED_MAX
        ),
    );
    let spare = [bit(op_bits::SPARE), 7 - op_bits::SPARE.leading_zeros()];
    says("op.md", &format!("Bits {} and {} MUST be zero.", spare[0], spare[1]));
}

// spec: K-9
#[test]
fn classes_of_columns_are_those_of_the_document() {
    let row = |class: u8, values: &str, written: &str| cells([&class.to_string(), values, written]);
    let rows = [
        cells([&format!("{}, {}, {}", class::NULL, class::FALSE, class::TRUE), "null, false, true", "nothing"]),
        row(class::INTEGER, "integers up to 2^63 - 1", "series"),
        row(class::UNSIGNED, "integers from 2^63", "planes of u64"),
        row(class::FLOAT_SHORT, "floats that are decimals", "places (1 byte), series of the mantissas"),
        row(class::FLOAT_32, "other floats of 32 bits (V-10)", "planes, w = 4"),
        row(class::FLOAT_64, "other floats of 64 bits", "planes, w = 8"),
        row(class::TIMESTAMP, "timestamps", "series"),
        row(class::UUID, "UUIDs", "ids"),
        row(class::UUID_TEXT, "text that spells a UUID: 36 characters, lower case, with hyphens", "ids"),
        row(class::TEXT, "other text", "strings"),
        row(class::BYTES, "bytes", "strings"),
        row(class::ARRAY, "arrays: their payloads", "strings"),
        row(class::MAP, "maps: their payloads", "strings"),
        row(class::DECIMAL, "decimals whose coefficient is an i64", "numbers, the places; series of the coefficients"),
        row(
            class::DECIMAL_WIDE,
            "other decimals",
            "numbers, the places; strings, the coefficients as they are in the payload",
        ),
        cells([
            &format!("{}, {}", class::VECTOR_32, class::VECTOR_64),
            "vectors of 4 and of 8 bytes: their payloads",
            "strings",
        ]),
    ];
    check("columns.md", "## Columns", &table(["Class", "Values", "Are written as"], rows));
    says("columns.md", &format!("classes are below {}", class::COUNT));
}

/// Compares a sentence, whose lines may be broken elsewhere.
fn says(file: &str, sentence: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../spec").join(file);
    let text = std::fs::read_to_string(path).expect("spec/ is complete");
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains(sentence), "{file} does not say: {sentence}");
}

/// Joins words as a sentence does.
fn and(words: &[String]) -> String {
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => words.concat(),
    }
}
