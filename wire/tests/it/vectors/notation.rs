//! The readable notation of vectors, described in spec/vectors/README.md: that of `Display`, and names for errors.

use blazedb_wire::{Batch, BatchBuilder, DecodeError, DecodeErrorKind};
use bytes::Bytes;

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
        DecodeErrorKind::UnknownKind { kind, .. } => format!("UnknownKind {kind}"),
        DecodeErrorKind::Codec(codec) => format!("Codec {codec}"),
        DecodeErrorKind::Inflate(codec) => format!("Inflate {codec}"),
        DecodeErrorKind::Checksum { .. } => "Checksum".to_owned(),
        DecodeErrorKind::OutOfRange { what, .. } => format!("OutOfRange {what}"),
        DecodeErrorKind::Order(rule) => format!("Order {rule}"),
    }
}
