//! Which rule of the specification refused bytes break.

use super::Encoding;
use crate::error::{DecodeError, DecodeErrorKind};

/// Returns the id of the rule in spec/ that bytes break of which their decoder says this.
pub fn rule(encoding: Encoding, error: &DecodeError) -> &'static str {
    let in_row = matches!(encoding, Encoding::Row | Encoding::Value);
    match error.kind {
        DecodeErrorKind::NotCanonical(rule)
        | DecodeErrorKind::Order(rule)
        | DecodeErrorKind::UnknownKind { rule, .. } => rule,
        DecodeErrorKind::Overlong => "V-1",
        // 1 to 6 are kinds of merging, tags of types begin at 16.
        DecodeErrorKind::ReservedTag(0..=15) => "O-2",
        DecodeErrorKind::ReservedTag(_) => "V-6",
        DecodeErrorKind::BadTag(_) => "V-5",
        DecodeErrorKind::Utf8 => "V-3",
        DecodeErrorKind::TooDeep => "V-21",
        DecodeErrorKind::TrailingBytes(_) => "V-4",
        DecodeErrorKind::BadMagic => "F-1",
        DecodeErrorKind::BadVersion(_) => "F-2",
        // Some bodies may not be compressed, others by no other codec.
        DecodeErrorKind::Codec(1 | 2) => "F-20",
        DecodeErrorKind::Codec(_) => "F-4",
        DecodeErrorKind::Inflate(_) => "F-21",
        DecodeErrorKind::Checksum { .. } if encoding == Encoding::Frame && error.offset == 12 => "F-7",
        DecodeErrorKind::Checksum { .. } => "F-11",
        DecodeErrorKind::UnexpectedEnd { .. } => match encoding {
            Encoding::Frame => "F-8",
            Encoding::Batch => "B-12",
            Encoding::Envelope => "F-12",
            Encoding::Columns => "K-4",
            Encoding::Row => "V-23",
            Encoding::Value => "V-7",
        },
        DecodeErrorKind::Limit { what, given, .. } => match what {
            "fields" => "L-2",
            "field name bytes" | "key bytes" | "name bytes" | "collection name bytes" => "L-3",
            "row bytes" => "L-4",
            "field bytes" | "array items" => "L-5",
            "keys in a table" => "L-6",
            "shapes in a table" => "L-7",
            "batch bytes" if given <= crate::limits::BATCH_SINGLE_BYTES_MAX as u64 => "L-8",
            "batch bytes" | "operation bytes" => "L-9",
            "operations in a batch" | "operations in columns" => "L-10",
            "shapes in a batch" => "L-11",
            "collections in a batch" => "L-12",
            "dependencies" => "L-13",
            "attributes bytes" => "L-14",
            "replicas in a Hello" | "replicas in a Welcome" => "L-16",
            "error text bytes" => "L-17",
            "rows of columns" => "L-18",
            "batches in columns" => "L-19",
            "names in columns" | "shapes in columns" | "replicas in columns" | "forms in columns" => "L-20",
            "decimal digits" | "decimal places" => "L-21",
            "classes in columns" => "L-22",
            "epoch" | "protocol" => "O-17",
            "transactions" => "F-12",
            // Bodies, envelopes and streams.
            _ => "L-15",
        },
        DecodeErrorKind::OutOfRange { what, .. } => match what {
            "key index" => "V-17",
            "shape index" if in_row => "V-20",
            "shape index" | "collection index" if encoding != Encoding::Columns => "O-6",
            "first counter" => "B-2",
            "dependency counter" => "B-3",
            "collection name bytes" => "B-6",
            "operations in a batch" => "B-8",
            "timestamp delta" | "cursor delta" => "B-10",
            "first sequence number" => "F-14",
            "verdict" if encoding == Encoding::Columns => "K-16",
            "verdict" | "operations in a transaction" | "transactions" => "F-12",
            "error code" => "F-16",
            "counter needed" => "F-17",
            "bit" => "K-4",
            "dependencies" => "L-13",
            "attributes bytes" => "L-14",
            "decimal places" => "L-21",
            "number of a series" => "K-6",
            "reference" => "K-8",
            "class" | "classes" => "K-9",
            "places" => "K-10",
            "milliseconds" | "counter of a timestamp" => "K-15",
            _ => "K-11",
        },
    }
}
