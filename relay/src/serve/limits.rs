//! Every limit of the network side, in one place, each with its reason (spec: G-11).
//!
//! They bound what a stranger can make the relay hold or do. Worst case of one connection before its token is known:
//! a TLS session (about 40 KiB with the 16 KiB buffer limit), HTTP/2 buffers (24 KiB) and 32 streams of 8 KiB headers
//! each; after it, one connection window of received bytes, one message per stream being put together, and per stream
//! the send buffer and one message.

use std::time::Duration;

use blazedb_wire::grpc::MESSAGE_BYTES_MAX;

/// The limits of [`super::serve`]; the defaults are meant for everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections, handshakes included. At 64 KiB idle each, 2,000 are 128 MiB.
    pub connections_max: usize,
    /// Open connections of one address (one /64 of IPv6): one stranger may not take all. A household or a test on
    /// one machine shares an address.
    pub connections_per_address_max: usize,
    /// TLS handshakes that have their turn at one time; the others wait, accepted and counted. A reconnect storm is the
    /// worst hour of a small machine.
    pub handshakes_max: usize,
    /// ... and of one address: an eighth, so that no stranger has all turns. More of it wait for each other.
    pub handshakes_per_address_max: usize,
    /// How long a turn lasts: an honest handshake is over in two trips, and one that is slower goes on beside the next. With
    /// as many addresses as [`Limits::connections_max`] has room for (31), a stranger's turn comes after 4 s.
    pub handshake_turn_max: Duration,
    /// From accept to the end of the TLS handshake, the wait for its turn included.
    pub handshake_max: Duration,
    /// From the handshake to the first request: hyper waits for ever.
    pub first_request_max: Duration,
    /// A connection without any stream for this long is closed.
    pub idle_max: Duration,
    /// A stream whose client takes nothing of what waits for it is ended after this long: it holds a queue and a send
    /// buffer meanwhile. Twice the keepalive: a network that is away for so long is told by that.
    pub stall_max: Duration,
    /// A stream that was ended from this side and whose client takes nothing more costs its connection after this
    /// long.
    pub close_max: Duration,
    /// How long shutdown waits for connections to end.
    pub shutdown_max: Duration,
    /// Streams of one connection at one time. A session is one stream.
    pub streams_max: u32,
    /// All header fields of a request. The token fits; many one-byte headers that unpack into much memory do not.
    pub header_list_bytes_max: u32,
    /// Header fields of a request: bytes alone do not bound their number.
    pub headers_max: usize,
    /// One message: one frame, 4 MiB and its header.
    pub message_bytes_max: usize,
    /// The message of a health check: the name of a service.
    pub check_bytes_max: usize,
    /// From the headers of a health check to the end of its message: its caller has shown no token.
    pub check_max: Duration,
    /// A stream of health changes ends after this long, and its client asks again: it has shown no token either, and a
    /// connection with a stream is never idle.
    pub watch_max: Duration,
    /// Flow-control window of a stream: what a client may send that the hub has not taken yet.
    pub stream_window_bytes: u32,
    /// Flow-control window of a connection. h2 tolerates tiny DATA frames up to half of it, so a small window would
    /// end honest connections that send tiny messages; a larger one costs memory, hence less on small machines.
    pub connection_window_bytes: u32,
    /// HTTP/2's own default and least: a longer frame makes others on the connection wait.
    pub http2_frame_bytes_max: u32,
    /// Bytes of one stream that hyper may hold because the client takes them slowly.
    pub send_buffer_bytes_max: usize,
    /// Streams that a client opened and reset before we accepted them (Rapid Reset, CVE-2023-44487).
    pub pending_resets_max: usize,
    /// Calls that a client gave up before they were answered, at one go (Rapid Reset in its slow form: each is accepted
    /// before it is reset, so [`Limits::pending_resets_max`] never counts it). A client that leaves a page with many
    /// open calls gives up as many as [`Limits::streams_max`] at once.
    pub give_ups_max: u32,
    /// ... and how many more each second.
    pub give_ups_per_second: u32,
    /// Bytes read from a connection at one go before any token of it was good: pings, settings, window updates and
    /// resets cost us more than they cost a stranger. It holds the headers of as many calls as it may have open.
    pub stranger_bytes_max: u32,
    /// ... and how many more each second; beyond it, the stranger waits. About 3,800 pings, or 500 health checks.
    pub stranger_bytes_per_second: u32,
    /// Streams that we had to reset because the client broke a rule (RUSTSEC-2024-0003; MadeYouReset).
    pub local_error_resets_max: usize,
    /// A ping goes out when nothing has come for this long, or a quarter longer, so that a vanished client is noticed.
    pub keepalive_interval: Duration,
    /// ... and the connection ends when its answer takes longer than this.
    pub keepalive_timeout: Duration,
    /// Plain bytes that rustls may hold for a client that reads slowly; hyper waits beyond it.
    pub tls_buffer_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 2_000,
            connections_per_address_max: 64,
            handshakes_max: 32,
            handshakes_per_address_max: 4,
            handshake_turn_max: Duration::from_secs(1),
            handshake_max: Duration::from_secs(10),
            first_request_max: Duration::from_secs(10),
            idle_max: Duration::from_secs(600),
            stall_max: Duration::from_secs(60),
            close_max: Duration::from_secs(30),
            shutdown_max: Duration::from_secs(5),
            streams_max: 32,
            header_list_bytes_max: 8 * 1024,
            headers_max: 64,
            message_bytes_max: MESSAGE_BYTES_MAX,
            check_bytes_max: 1024,
            check_max: Duration::from_secs(10),
            watch_max: Duration::from_secs(3_600),
            stream_window_bytes: 128 * 1024,
            connection_window_bytes: if cfg!(target_arch = "x86_64") { 1024 * 1024 } else { 256 * 1024 },
            http2_frame_bytes_max: 16 * 1024,
            send_buffer_bytes_max: 64 * 1024,
            pending_resets_max: 50,
            give_ups_max: 100,
            give_ups_per_second: 10,
            stranger_bytes_max: 256 * 1024,
            stranger_bytes_per_second: 64 * 1024,
            local_error_resets_max: 64,
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
            tls_buffer_bytes_max: 16 * 1024,
        }
    }
}

/// How long the accept loop rests after an error that is not the client's (out of file descriptors).
pub(super) const ACCEPT_REST: Duration = Duration::from_millis(100);

/// A stream is closed after this long even if its token lasts longer; it keeps arithmetic on instants in range.
pub(super) const STREAM_AGE_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);
