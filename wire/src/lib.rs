//! BlazeBinary: what the bytes mean, on disk and on the wire.
//!
//! ```text
//! Value < Document = Row (Shape + body) < Op < Batch < Envelope + Batch = Entry < Frame
//! ```
//!
//! A value is encoded once, when the application writes it; the body of a [`Row`] is the same bytes in a record, an
//! operation, a frame and the relay's log. The normative text is spec/value.md, spec/op.md, spec/columns.md,
//! spec/frame.md and spec/limits.md; code cites its rules (`spec: V-8`).
//!
//! Invariants: decode(encode(x)) = x, and every accepted byte string is the only encoding of what it says; no decoder
//! allocates before it has checked a length against a limit and against the bytes left; every refusal has an offset;
//! borrowed and owned decoding accept exactly the same bytes; no input makes a decoder panic.
//!
//! `Display` and [`explain`] are for people: what encodings say, and what each of their bytes means.
//!
//! Never here: input and output, a clock, randomness, threads; `unsafe` outside of `text.rs`. Read [`Row`] first, then
//! [`Batch`], then [`Frame`].
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod batch;
mod display;
pub mod envelope;
pub mod error;
pub mod explain;
pub mod frame;
pub mod grpc;
pub mod id;
pub mod json;
pub mod limits;
pub mod op;
pub mod reader;
pub mod row;
pub mod serde;
pub mod shape;
mod small;
#[cfg(test)]
mod tables;
#[cfg(feature = "testing")]
pub mod testing;
mod text;
pub mod time;
pub mod value;
pub mod varint;
pub mod websocket;
pub mod writer;

pub use batch::{Batch, BatchBuilder, BatchHead, Columns};
pub use envelope::{Bitmap, Envelope, Outcome, Verdict};
pub use error::{DecodeError, DecodeErrorKind, EncodeError};
pub use frame::{
    COMPRESS_BYTES_MIN, Codec, ErrorCode, ErrorFrame, Frame, FrameHeader, FrameKind, HEADER_BYTES, Hello,
    PROTOCOL_VERSION, Reads, Welcome, ack_frame, columns_frame, compress_frame, entry_frame, push_frame,
};
pub use id::{DocumentId, Key, OpId, ParseIdError, ReplicaId, SpaceId};
pub use op::{MergeKind, Op, OpKind, OpRef};
pub use reader::Reader;
pub use row::{RawField, Row, RowRef, encode_body};
pub use shape::Shape;
pub use time::{Hlc, Stamp};
pub use value::{
    ArrayRef, Decimal, DecimalError, Document, Element, MapRef, Timestamp, Uuid, Value, ValueIndex, ValueRef, Vector,
    VectorRef, encode_value, validate_body, validate_value,
};
