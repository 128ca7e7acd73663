//! Limits of the client: every ceiling that is no option of a caller, with its unit and its reason.
//!
//! What a [`super::ClientOptions`] may choose has its default there; what the wire itself bounds (messages, metadata) is in
//! `blazedb_wire::grpc`, and how long to rest between connections in `blazedb_sync::limits`. Together they bound what a
//! server, whoever it is, can make a client hold: for each connection its window and one answer's header fields, for each
//! call one message that is put together and [`SEND_BUFFER_BYTES_MAX`] with [`OUTBOUND_MESSAGES_MAX`] messages that wait.

use std::time::Duration;

use blazedb_wire::grpc::METADATA_BYTES_MAX;

// ---- time ----

/// From the first look-up to the end of the TLS handshake; and again from the request of a session to its answer.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long one address of a name may take where there are others: one that swallows everything would otherwise take the
/// time of all.
pub(super) const ADDRESS_MAX: Duration = Duration::from_secs(3);
/// How long a connection may take to say goodbye after its last call was dropped.
pub(super) const GOODBYE_MAX: Duration = Duration::from_secs(1);
/// How long the answer to a ping may take.
pub(super) const PING_ANSWER_MAX: Duration = Duration::from_secs(20);
/// For so long WebSocket goes first after HTTP/2 had not got through: a device may have left the proxy behind.
pub(super) const DETOUR_MAX: Duration = Duration::from_secs(3_600);
/// A session through which nothing has come in this time goes another way next time: some proxies take a call, and keep
/// its answer until it ends.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Longest deadline of a call, a year: keeps arithmetic on instants in range.
pub(super) const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);

const _: () = assert!(ADDRESS_MAX.as_secs() * 2 < CONNECT_MAX.as_secs(), "a second address has its turn, and a third");

// ---- memory ----

/// Flow-control window of a session's stream: what the relay may send that nobody has taken yet. A home link of 100 Mbit/s
/// and 80 ms holds 1 MB.
pub(super) const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Flow-control window of its connection. Twice the stream's: h2 tolerates tiny frames up to half of it.
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 2 * STREAM_WINDOW_BYTES;
/// Bytes that HTTP/2 may hold of one call before its sender waits.
pub(super) const SEND_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Messages between the caller and HTTP/2. More than one, so that small ones can share a DATA frame.
pub(super) const OUTBOUND_MESSAGES_MAX: usize = 8;
/// Header fields of an answer: metadata, a status and a text of at most 3 KiB.
pub(super) const HEADER_LIST_BYTES_MAX: u32 = 8 * 1024;
/// Header fields of a request, counted as HTTP/2 counts them (each with 32 bytes more): what our relay takes. Others take
/// as much or more.
pub(super) const REQUEST_HEADERS_BYTES_MAX: usize = 8 * 1024;
/// Longest path of a method.
pub(super) const PATH_BYTES_MAX: usize = 1024;
/// Largest answer of a health watch.
pub(super) const HEALTH_BYTES_MAX: usize = 1024;
/// Frames of a WebSocket that wait to be written, and that wait to be taken.
pub(super) const QUEUE_FRAMES_MAX: usize = 8;
/// Ready frames of a WebSocket share a write up to this size: one record of TLS.
pub(super) const PACK_BYTES_MAX: usize = 16 * 1024;
/// The buffer that a WebSocket is read into.
pub(super) const READ_BYTES: usize = 8 * 1024;

const _: () =
    assert!(METADATA_BYTES_MAX < REQUEST_HEADERS_BYTES_MAX && METADATA_BYTES_MAX < HEADER_LIST_BYTES_MAX as usize);

// ---- work ----

/// Most attempts of one call, each of which the server surely did not process.
pub(super) const ATTEMPTS_MAX: u32 = 5;
/// Shorter messages are not worth compressing.
pub(super) const COMPRESS_BYTES_MIN: usize = 256;
