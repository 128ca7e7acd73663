//! Every ceiling of this crate, each with its unit and its reason.
//!
//! Sizes that leave this process (batch, row, name) are limits of `blazedb_wire` and are not repeated here; what follows
//! bounds memory, waiting and growth on one replica. The table in `spec/session.md` repeats the numbers of the session.

/// Bytes of batch body after which sealing starts the next batch.
///
/// Small batches keep a subscriber's memory and the cost of a retry low; a transaction larger than this still travels
/// whole, up to the batch limit of the wire.
pub const BATCH_TARGET_BYTES: usize = 16 * 1024;

/// Earlier incarnations one batch can name as its dependencies.
///
/// An incarnation is one opening of a file in which something was written. 256 of them without a single contact with
/// the relay is most of a year of daily use; past that the newest are named (see [`seal()`](crate::seal())).
pub const DEPS_MAX: usize = 256;

/// Bytes kept free for the head of a batch when a transaction is measured at commit time.
///
/// [`DEPS_MAX`] dependencies of at most 26 bytes (6,656), attributes (1,024) and the fixed fields (under 128) fit.
pub const BATCH_HEAD_RESERVE_BYTES: usize = 8 * 1024;

const _: () = assert!(BATCH_HEAD_RESERVE_BYTES >= DEPS_MAX * 26 + 1024 + 128);

/// Names a record remembers as unset, newest first.
///
/// A name that was unset keeps its stamp so that an older write of it stays a loser. Without a ceiling a writer that
/// unsets invented names would grow a record for ever; past it the oldest are forgotten, on every replica alike.
pub const UNSET_NAMES_MAX: usize = 256;

/// Milliseconds since 1970 above which an observed stamp does not move our own clock (the year 4199).
///
/// A peer may send any 64-bit stamp. Following it to the end of the range would leave no room to tick.
pub const OBSERVED_MS_MAX: u64 = 1 << 46;

/// Unacknowledged bytes of pushed batches on one connection.
///
/// 1 MiB fills a 100 Mbit/s line with 80 ms of round trip; a batch larger than what is left is sent only into an empty
/// window.
pub const WINDOW_BYTES: usize = 1024 * 1024;

/// Bytes of batches after which no other joins a frame of columns.
///
/// A quarter of the window: the relay can answer the first frame while the others are on their way.
pub const PUSHES_BYTES: usize = 256 * 1024;

/// Bytes of batches below which they are pushed one by one, as rows.
///
/// Columns have some hundred bytes of their own, and what a person just did fits one packet anyway.
pub const PUSHES_BYTES_MIN: usize = 4 * 1024;

// The last one to join may be the largest batch there is.
const _: () = assert!(
    PUSHES_BYTES + blazedb_wire::limits::BATCH_SINGLE_BYTES_MAX <= blazedb_wire::limits::COLUMNS_ROWS_BYTES_MAX
);

/// Milliseconds without a frame from the peer after which a Ping is sent.
pub const PING_AFTER_MS: u64 = 20_000;

/// Milliseconds without a frame from the peer after which the connection counts as dead.
pub const DEAD_AFTER_MS: u64 = 40_000;

const _: () = assert!(PING_AFTER_MS < DEAD_AFTER_MS);

/// Milliseconds: ceiling of the first wait before connecting again.
pub const BACKOFF_FIRST_MS: u64 = 100;

/// Milliseconds: ceiling of every later wait before connecting again.
pub const BACKOFF_MAX_MS: u64 = 30_000;

/// Milliseconds: the longest wait that a relay can ask for with `retry_ms`.
pub const RETRY_MS_MAX: u64 = 600_000;

/// Milliseconds a live connection must last before the backoff starts again from its first step.
///
/// A relay that welcomes and hangs up at once must not be met with a hundred connections a second.
pub const STABLE_AFTER_MS: u64 = 10_000;

/// Answers to the peer's Pings that wait for transmission; older ones are dropped first.
pub const PONGS_MAX: usize = 8;

/// Events that wait for the driver.
///
/// A driver drains events after every call; reaching this means that it does not, and the connection ends.
pub const EVENTS_MAX: usize = 65_536;
