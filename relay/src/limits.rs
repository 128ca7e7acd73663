//! Every limit of the relay's wire, in one place, each with its reason (spec: G-11, L-23 to L-26).
//!
//! They bound what a stranger or a member can make the relay hold or do. Worst case of one connection before its token is known:
//! a TLS session (about 40 KiB with the 16 KiB buffer limit), HTTP/2 buffers (24 KiB) and 32 streams of 8 KiB headers
//! each; after it, one connection window of received bytes, one message per stream being put together, and per stream
//! the send buffer and what the memory budgets below leave it.

use std::time::Duration;

use blazedb_wire::HEADER_BYTES;
use blazedb_wire::grpc::MESSAGE_BYTES_MAX;
use blazedb_wire::limits::FRAME_BODY_BYTES_MAX;

use crate::hub::{HubLimits, Shares};

/// Memory that messages share, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// What those of one address may take of it.
    pub address: usize,
    /// What there is.
    pub relay: usize,
}

/// The limits of [`crate::serve`]; the defaults are meant for everybody.
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
    /// How long the answer to an HTTP/1.1 request may take to leave once it is made.
    pub answer_taken_max: Duration,
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
    /// Memory of messages that are coming in, each with its whole length from its beginning on, until they are decoded: ten of the
    /// longest of an address, or 64 connections with 600 KiB each. A connection has no part of its own: of an address that is
    /// full, who holds most in what does not end loses it to who waits ([`Limits::room_grace`]).
    pub coming_bytes: Room,
    /// ... of those that were compressed, once they are inflated: two of the longest of an address.
    pub inflated_bytes: Room,
    /// ... of those that were decoded where they came in and wait for the hub.
    pub decoded_here_bytes: Room,
    /// ... of those that were decoded in turn and wait for the hub: two at their worst of an address, which is 2 MiB of rows and for
    /// each of 65,536 operations where it lies; eight of all.
    pub decoded_in_turn_bytes: Room,
    /// What each message may take beyond these, so that a full relay still hears those who say little.
    pub free_bytes: usize,
    /// How long a message waits for room before others lose what they hold and do not end.
    pub room_grace: Duration,
    /// How long a message waits for room before its stream is refused: where all hold as much, nobody loses it to another.
    pub room_wait_max: Duration,
    /// Messages of one connection that the hub has been given and has not taken: enough that it never waits for its clients,
    /// and at 8 to 16 KiB each, the usual size, a quarter of a megabyte.
    pub frames_per_connection_max: usize,
    /// Messages that are decoded or inflated at one time and take their time over it. One, as on the small machine half of
    /// the cores are for everything else; of a connection and of an address never more than one.
    pub decodes_max: usize,
    /// A message is decoded where it came in up to this length, unless it is compressed or in columns: 64 KiB take less than
    /// 0.1 ms, less than moving them to another thread.
    pub decode_here_bytes_max: usize,
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
    /// Pings of a client of WebSocket that wait for their answer. More at one time make it wait.
    pub websocket_pongs_max: usize,
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
            answer_taken_max: Duration::from_secs(10),
            first_request_max: Duration::from_secs(10),
            idle_max: Duration::from_secs(600),
            stall_max: Duration::from_secs(60),
            close_max: Duration::from_secs(30),
            shutdown_max: Duration::from_secs(5),
            streams_max: 32,
            header_list_bytes_max: 8 * 1024,
            headers_max: 64,
            message_bytes_max: MESSAGE_BYTES_MAX,
            coming_bytes: Room { address: 40 << 20, relay: 160 << 20 },
            inflated_bytes: Room { address: 8 << 20, relay: 32 << 20 },
            decoded_here_bytes: Room { address: 8 << 20, relay: 32 << 20 },
            decoded_in_turn_bytes: Room { address: 16 << 20, relay: 64 << 20 },
            free_bytes: 4 * 1024,
            room_grace: Duration::from_secs(1),
            room_wait_max: Duration::from_secs(10),
            frames_per_connection_max: 16,
            decodes_max: 1,
            decode_here_bytes_max: 64 * 1024,
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
            websocket_pongs_max: 4,
            tls_buffer_bytes_max: 16 * 1024,
        }
    }
}

impl Default for HubLimits {
    fn default() -> Self {
        Self {
            queue_bytes_max: 1 << 20,
            answer_bytes_max: 256 << 10,
            inflight_bytes_max: HEADER_BYTES + FRAME_BODY_BYTES_MAX,
            read_bytes_max: 512 << 10,
            read_bytes_min: 16 << 10,
            queued: Shares { connection: 4 << 20, address: 16 << 20, relay: 128 << 20 },
            pushed: Shares { connection: 4 << 20, address: 8 << 20, relay: 64 << 20 },
            space_bytes_max: 2 * GROUP_BYTES_MAX,
            turn_ops_max: 1_024,
            unread_pushes_max: 16_384,
            spaces_max: 65_536,
            hello_ms_max: 10_000,
            silence_ms_max: 120_000,
            space_idle_ms: 60_000,
            retry_ms: 1_000,
            retry_full_ms: 30_000,
        }
    }
}

/// Inputs that the hub is given before what it wants done is done.
pub(crate) const INPUTS_AT_ONCE: usize = 256;

/// What one address does with the hub, and in it one connection, before the others have their turn, and before the hub hears of
/// anything else: memory of what was said. A handful of usual messages, and less than half a millisecond.
pub(crate) const TURN_BYTES: usize = 64 << 10;

/// Bytes of batches that are looked through at one time for digests: a few milliseconds. The rest waits for its turn.
pub(crate) const LOOK_UP_BYTES_MAX: usize = 512 << 10;

/// Reads of the log that are given to its threads at one time, for each of them; the others wait for their turn.
pub(crate) const READS_AHEAD: usize = 2;

/// How long the accept loop rests after an error that is not the client's (out of file descriptors).
pub(crate) const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Ready frames of WebSocket share a write up to this size: one record of TLS.
pub(crate) const WEBSOCKET_PACK_BYTES_MAX: usize = 16 * 1024;

/// The buffer that WebSocket reads into.
pub(crate) const WEBSOCKET_READ_BYTES: usize = 8 * 1024;

/// Bytes of appends that share one sync at most, the append that goes beyond it whole: beyond this a sync costs more than it is
/// shared by. Of plain entries it is a few milliseconds of work, of deletes, which write most, some 8,000: 10 to 20 ms.
pub(crate) const GROUP_BYTES_MAX: usize = 1 << 20;

/// Entries are packed up to these bytes, so that a client that is slow to read them gets on in steps.
pub(crate) const ENTRIES_PACK_BYTES_MAX: usize = 1 << 20;

/// Fewer bytes of entries than these go as they are.
pub(crate) const ENTRIES_PACK_BYTES_MIN: usize = 4 << 10;

/// A stream is closed after this long even if its token lasts longer; it keeps arithmetic on instants in range.
pub(crate) const STREAM_AGE_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares the numbers of a document with those here: a row of a table begins so, and its next cell is this.
    fn says(file: &str, row: &str, cells: &[String]) {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../spec/").to_owned() + file;
        let text = std::fs::read_to_string(path).expect("spec/ is complete");
        let line = text.lines().find(|line| line.trim_start().starts_with(&format!("| {row} |")));
        let line = line.unwrap_or_else(|| panic!("{file} has no row {row:?}"));
        let given: Vec<&str> = line.split('|').map(str::trim).skip(2).take(cells.len()).collect();
        assert_eq!(given, cells, "{file}: {row}");
    }

    fn bytes(n: usize) -> String {
        match n {
            n if n >= 1 << 20 && n % (1 << 20) == 0 => format!("{} M", n >> 20),
            n if n >= 1 << 10 && n % (1 << 10) == 0 => format!("{} K", n >> 10),
            n => n.to_string(),
        }
    }

    // spec: L-23 to L-26
    #[test]
    fn limits_are_those_of_the_document() {
        let (serving, hub) = (Limits::default(), HubLimits::default());
        let shares = |shares: Shares| [shares.connection, shares.address, shares.relay].map(bytes).to_vec();
        let room = |room: Room| ["-".to_owned(), bytes(room.address), bytes(room.relay)];
        says("limits.md", "messages that are coming in, with their whole length", &room(serving.coming_bytes));
        says("limits.md", "messages that are inflated, until they are decoded", &room(serving.inflated_bytes));
        says("limits.md", "messages decoded where they came in, waiting", &room(serving.decoded_here_bytes));
        says("limits.md", "messages decoded in turn, waiting", &room(serving.decoded_in_turn_bytes));
        says("limits.md", "batches neither durable nor refused, decoded", &shares(hub.pushed));
        says("limits.md", "read from the log and queued to be sent", &shares(hub.queued));
        for (row, number) in [
            ("what a message may take whatever else is held", bytes(serving.free_bytes)),
            ("messages of a connection that the hub has not taken", serving.frames_per_connection_max.to_string()),
            ("messages decoded at one time that may take their time", serving.decodes_max.to_string()),
            ("operations decided before others have their turn", "1,024".to_owned()),
            ("pushed by a call and neither durable nor refused", "4 M + 16".to_owned()),
            ("queued to a call", bytes(hub.queue_bytes_max)),
            ("read from the log at one time, for a call", bytes(hub.read_bytes_max)),
            ("... whose share is used up", bytes(hub.read_bytes_min)),
            ("entries that go as one frame", bytes(ENTRIES_PACK_BYTES_MAX)),
            ("appends that share a sync", bytes(GROUP_BYTES_MAX)),
            ("appends of a space that are not durable", bytes(hub.space_bytes_max)),
            ("window of a call", bytes(serving.stream_window_bytes as usize)),
            ("send buffer of a call", bytes(serving.send_buffer_bytes_max)),
            ("plain bytes that TLS holds", bytes(serving.tls_buffer_bytes_max)),
        ] {
            says("limits.md", row, &[number]);
        }
        assert_eq!((hub.turn_ops_max, hub.inflight_bytes_max), (1_024, (4 << 20) + 16));
        assert_eq!((serving.room_grace, serving.room_wait_max), (Duration::from_secs(1), Duration::from_secs(10)));
    }
}
