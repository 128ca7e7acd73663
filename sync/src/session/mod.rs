//! The client's side of a connection to a relay, as a state machine without I/O.
//!
//! A driver owns the socket, the clock and the file; the session decides. The driver's loop: hand in what happened
//! (`connected`, `handle_frame`, `handle_timeout`, ...), then empty [`Session::poll_event`] and
//! [`Session::poll_transmit`], then sleep until [`Session::poll_timeout`] or the next happening. Rules:
//! spec/session.md.
//!
//! Read [`SessionState`] first (it has the picture), then [`Session`].

mod flow;
#[expect(clippy::module_inception, reason = "the machine itself; its parts stand beside it")]
mod session;
mod state;
mod timer;

use bytes::Bytes;

use blazedb_wire::{Batch, Envelope, ErrorCode, ErrorFrame, Welcome};

pub use self::session::Session;
pub use self::state::SessionState;
pub use self::timer::Backoff;

use crate::error::{PeerMisbehaved, SessionError};
use crate::limits::WINDOW_BYTES;

/// Milliseconds of a clock that never goes back. Where it starts does not matter.
pub type Millis = u64;

/// A place in the outbox: after the operation `counter` of the file's replica number `incarnation`.
///
/// The default is the start. The position of a batch is that of its last operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboxPosition {
    /// Which of the file's replica ids, in the order of their minting.
    pub incarnation: u32,
    /// Counter of the last operation before this place.
    pub counter: u64,
}

/// The outbox, as the session reads it.
pub trait OpSource {
    /// Why the outbox could not be read; the driver knows what to do about it.
    type Error;

    /// Returns the first sealed batch after `after` and its own position, which is greater.
    ///
    /// A batch stays here until its entry or acknowledgement was applied.
    ///
    /// # Errors
    /// Those of whoever keeps the outbox.
    fn batch_after(&self, after: OutboxPosition) -> Result<Option<(OutboxPosition, Bytes)>, Self::Error>;
}

/// What a session can be told at birth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Bytes of pushed batches that may be unanswered; [`WINDOW_BYTES`] by default. Less costs throughput on long lines.
    pub window_bytes: usize,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self { window_bytes: WINDOW_BYTES }
    }
}

/// What the driver has to do or may want to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Open a connection, then call `connected` with a Hello made at that moment, or `disconnected`.
    ConnectNow,
    /// Close the connection. No call of `disconnected` is needed.
    Disconnect {
        /// Why.
        reason: DisconnectReason,
    },
    /// The relay's answer to the Hello: bind, seal and refold, then call `resume`.
    Welcome(Welcome),
    /// The next entry of the log: apply it and move the cursor to its last sequence, in one transaction. The cursor of a
    /// later Hello names entries that are applied whole.
    Entry {
        /// What the relay says about the batch.
        envelope: Envelope,
        /// The batch.
        batch: Batch,
    },
    /// The next entry of the log is a batch of this file: apply it from the outbox, take it out, and move the cursor.
    Ack(Envelope),
    /// The relay refuses for good; nothing happens until `start`.
    Rejected(ErrorFrame),
    /// The relay does not do what was asked (a digest); the connection goes on.
    Unsupported(ErrorFrame),
    /// The answer to `request_digest`.
    Digest {
        /// Sequence at which it was taken.
        seq: u64,
        /// The digest.
        digest: [u8; 32],
        /// Live documents it covers.
        documents: u64,
    },
    /// The session moved.
    StateChanged(SessionState),
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq)]
pub enum DisconnectReason {
    /// The transport failed or was closed; the driver knows more.
    Transport,
    /// The relay broke a rule.
    Misbehaved(PeerMisbehaved),
    /// Nothing was heard for too long.
    Silent,
    /// The relay said Bye.
    Bye,
    /// The relay sent an error that may pass.
    Relay(ErrorCode),
    /// The relay sent an error that does not pass; see [`Event::Rejected`].
    Rejected,
    /// A fault of this side.
    Session(SessionError),
    /// The driver called `stop`.
    Stopped,
}
