//! Limits: every ceiling of the formats, with its unit and its reason (spec/limits.md, L-1 to L-22).
//!
//! A decoder compares an untrusted length with one of these *and* with the bytes that are left before it allocates
//! anything. The sums that tie limits to each other are `const` asserts at the end of this file.

/// Greatest depth of containers: a container that is a top-level field's value has depth 1 (spec: L-1).
///
/// Thirty-two levels are more than real documents use; the bound makes a fixed-size stack enough.
pub const DEPTH_MAX: usize = 32;

/// Most fields of a document, and of one nested map (spec: L-2).
pub const FIELDS_MAX: usize = 4096;

/// Longest field name and longest collection name, in bytes (spec: L-3).
pub const NAME_BYTES_MAX: usize = 255;

/// Largest row: body and encoded shape together, in bytes; so also the largest field (spec: L-4).
///
/// The shape counts because a batch that carries a single operation has to carry its shape too.
pub const ROW_BYTES_MAX: usize = 1 << 20;

/// Largest value of one field, in bytes of payload (spec: L-5).
pub const FIELD_BYTES_MAX: usize = ROW_BYTES_MAX;

/// Most distinct keys in the key table of one container value (spec: L-6).
pub const TABLE_KEYS_MAX: usize = 16_384;

/// Most distinct shapes in the key table of one container value (spec: L-7).
pub const TABLE_SHAPES_MAX: usize = 4096;

/// Largest batch body of several operations, in bytes, inflated (spec: L-8).
///
/// It bounds the memory of the smallest device that takes part.
pub const BATCH_BYTES_MAX: usize = 256 << 10;

/// Largest batch body of one single operation, in bytes (spec: L-9).
pub const BATCH_SINGLE_BYTES_MAX: usize = ROW_BYTES_MAX + (64 << 10);

/// Most operations in one batch (spec: L-10).
pub const BATCH_OPS_MAX: usize = 65_536;

/// Most shapes in one batch (spec: L-11).
pub const BATCH_SHAPES_MAX: usize = 4096;

/// Most collections in one batch (spec: L-12).
pub const BATCH_COLLECTIONS_MAX: usize = 4096;

/// Most dependencies in one batch head (spec: L-13).
pub const BATCH_DEPS_MAX: usize = 1024;

/// Most digits of a decimal, and most of them behind the point (spec: L-21).
///
/// What the decimals of SQL databases and of Arrow hold, and an `i128`.
pub const DECIMAL_DIGITS_MAX: usize = 38;

/// Longest attributes, of an operation or of a batch, in bytes (spec: L-14).
pub const ATTRS_BYTES_MAX: usize = 1024;

/// Largest frame body, in bytes (spec: L-15).
pub const FRAME_BODY_BYTES_MAX: usize = 4 << 20;

/// Most replica ids in a Hello, and so in a Welcome (spec: L-16).
pub const HELLO_REPLICAS_MAX: usize = 4096;

/// Longest text of an Error frame, in bytes (spec: L-17).
pub const ERROR_TEXT_BYTES_MAX: usize = 1024;

/// Most bytes of the row batches that one columnar batch stands for (spec: L-18).
///
/// The largest batch fits; it bounds what a reader writes, however short the columns are.
pub const COLUMNS_ROWS_BYTES_MAX: usize = 2 << 20;

/// Most row batches in one columnar batch (spec: L-19).
pub const COLUMNS_BATCHES_MAX: usize = 4096;

/// Most entries of each table of a columnar batch (spec: L-20).
pub const COLUMNS_TABLE_MAX: usize = 65_536;

/// Most classes of values in the columns of one columnar batch, in sum over its columns (spec: L-22).
///
/// Each is a stream that a reader has open while it writes rows, and costs it some 200 bytes for perhaps three of its own.
/// As many as names: enough for values of one class in each field. What has more travels in rows.
pub const COLUMNS_CLASSES_MAX: usize = 65_536;

// Every batch is short enough to travel in columns.
const _: () = assert!(BATCH_SINGLE_BYTES_MAX <= COLUMNS_ROWS_BYTES_MAX);
// The largest operation fits a batch of its own: head, dependencies, attributes twice, collection name, operation
// header. What is left over is slack for varints.
const _: () = assert!(
    ROW_BYTES_MAX + BATCH_DEPS_MAX * (16 + 10) + 2 * ATTRS_BYTES_MAX + NAME_BYTES_MAX + 256 <= BATCH_SINGLE_BYTES_MAX
);
// An Entry of the largest batch under the largest envelope (a verdict of 6 bytes and two bits per operation) fits a
// frame.
const _: () = assert!(BATCH_SINGLE_BYTES_MAX + BATCH_OPS_MAX * 6 + BATCH_OPS_MAX / 4 + 128 <= FRAME_BODY_BYTES_MAX);
// A Welcome that answers the largest Hello fits a frame.
const _: () = assert!(HELLO_REPLICAS_MAX * (16 + 10) + 128 <= FRAME_BODY_BYTES_MAX);
// A merged row stays below the 4 GiB that its widest ends can say.
const _: () = assert!((FIELDS_MAX as u64) * (FIELD_BYTES_MAX as u64) <= 1 << 32);
