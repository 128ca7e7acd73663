//! Ceilings of the store, each with its unit and its reason. The formats' ceilings are also checked when bytes
//! are read back, before anything is allocated for them.

/// Longest key in bytes. An index key holds a value prefix and a document id; 1 KiB leaves room for both.
pub const KEY_BYTES_MAX: usize = 1024;

/// Longest value in bytes: a row (1 MiB) or a sealed batch (1 MiB + 64 KiB) with its metadata.
pub const VALUE_BYTES_MAX: usize = 2 << 20;

/// Most bytes one write transaction may hold, keys and values together. A load (`Loader`) has no such limit.
pub const TRANSACTION_BYTES_MAX: usize = 32 << 20;

/// Most memory that one write transaction may take: its keys and values, what its savepoints keep of those that were
/// replaced, and `TRANSACTION_ENTRY_BYTES` for each. Values that are given in pieces take up to a sixth more. What it replaced of its own takes no more than as much again, and a
/// megabyte.
pub const TRANSACTION_MEMORY_MAX: usize = 128 << 20;

/// What a key counts in a transaction's memory beside its own bytes and its value's.
pub const TRANSACTION_ENTRY_BYTES: usize = 128;

/// Most memory that the keys and ranges take which a transaction has read and its commit checks. Past it neighbours are
/// put together to ranges: about 35,000 keys are told apart, and no less than half as many ranges.
pub const READ_SET_BYTES_MAX: usize = 4 << 20;

/// How often `Store::retry` runs a transaction at most.
pub const ATTEMPTS_MAX: usize = 1000;

/// Most bytes of keys and values that a reader accepts in one commit: a transaction of the largest size, and the name of
/// every tree there can be. Spans make a commit's encoding much shorter than what it says, so the payload's own length
/// bounds nothing.
pub const COMMIT_BYTES_MAX: usize = TRANSACTION_BYTES_MAX + TREES_MAX * (TREE_NAME_BYTES_MAX + 4);

/// Payload bytes after which an open group takes no further commit: it waits for the next group.
pub const GROUP_BYTES_SOFT_MAX: usize = 1 << 20;

/// Longest group payload a reader accepts. One transaction of the largest size, its framing, and a full group
/// before it.
pub const GROUP_BYTES_MAX: usize = 64 << 20;

/// Most trees in one file; a snapshot of the table copies one pointer per tree.
pub const TREES_MAX: usize = 4096;

/// Longest tree name in bytes: a collection's name (255) and what the facade puts before it.
pub const TREE_NAME_BYTES_MAX: usize = 512;

/// Argon2id memory that a file may ask for, in KiB: 1 GiB. A file is bytes from outside.
pub const KDF_MEMORY_KIB_MAX: u32 = 1 << 20;

/// Argon2id passes that a file may ask for.
pub const KDF_PASSES_MAX: u32 = 64;

/// Argon2id lanes that a file may ask for.
pub const KDF_LANES_MAX: u32 = 16;

/// Seals under one generation's subkey before a new generation is drawn.
pub const SEALS_PER_GENERATION_MAX: u64 = 1 << 26;

/// Bytes of zeros laid ahead of the tail at least, so that commits overwrite and a sync writes no metadata.
pub const RESERVE_BYTES_MIN: u64 = 64 << 10;

/// Bytes of zeros laid ahead of the tail at most.
pub const RESERVE_BYTES_MAX: u64 = 1 << 20;

/// Largest value that lies in pages of its own.
pub const STORED_VALUE_BYTES_MAX: u64 = 1 << 30;

/// Streamed values up to this length are written like values that are put: pages of their own and a sync of the main
/// file are dearer than these bytes in the log.
pub const STREAM_INLINE_BYTES_MAX: usize = 64 << 10;

/// Longest value that `get`, iterators and `Cursor::advance` read whole. Longer ones are streamed: nobody should meet
/// a gigabyte of memory in a walk over keys.
pub const WHOLE_VALUE_BYTES_MAX: u64 = 64 << 20;

/// Bytes of streamed values in the table from which on a checkpoint is due: what they replaced becomes free by it.
pub const STORED_BYTES_PER_CHECKPOINT: u64 = 64 << 20;

/// Sizes a page may have; the first is the default.
pub const PAGE_BYTES: [usize; 3] = [4096, 8192, 16384];

const _: () = assert!(GROUP_BYTES_MAX >= GROUP_BYTES_SOFT_MAX + TRANSACTION_BYTES_MAX + (16 << 20));
const _: () = assert!(TRANSACTION_BYTES_MAX >= 2 * VALUE_BYTES_MAX && TRANSACTION_MEMORY_MAX >= TRANSACTION_BYTES_MAX);
const _: () = assert!(STREAM_INLINE_BYTES_MAX <= VALUE_BYTES_MAX);
const _: () = assert!(VALUE_BYTES_MAX as u64 <= WHOLE_VALUE_BYTES_MAX);
const _: () = assert!(RESERVE_BYTES_MIN.is_multiple_of(4096) && RESERVE_BYTES_MAX.is_multiple_of(4096));
