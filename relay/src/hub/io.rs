//! What the hub is told and what it asks for: plain data.

use std::sync::Arc;

use blazedb_wire::{ErrorFrame, ReplicaId, SpaceId};
use bytes::Bytes;

use super::received::Received;
use crate::admit::AdmitTime;
use crate::log::{Append, AppendError, AppendId, Packing, PayloadDigest, SpaceInfo, StoredEntry};

/// Names a connection for as long as the process lives; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// The time of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic milliseconds: timeouts.
    pub mono_ms: u64,
    /// Wall clock in milliseconds since 1970: relay time.
    pub wall_ms: u64,
    /// Whether the wall clock is known to be right.
    pub clock_trusted: bool,
}

impl Now {
    pub(super) fn admit_time(self) -> AdmitTime {
        AdmitTime { wall_ms: self.wall_ms, trusted: self.clock_trusted }
    }
}

/// What a verified bearer token allows; when it ends is the transport's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The name of the space.
    pub space: Arc<str>,
    /// Whom the token was made for.
    pub subject: Arc<str>,
}

/// Ceilings of the hub. Each bounds what one stranger can make the relay hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubLimits {
    /// Bytes queued to one connection before it is marked lagging. 1 MiB: about a second of a slow phone's downlink; more
    /// would only be memory, since the log has the rest.
    pub queue_bytes_max: usize,
    /// Bytes of answers (acks of known batches, pongs, digests, errors) on top of that before the connection is closed: a
    /// client that asks and never reads.
    pub answer_bytes_max: usize,
    /// Bytes one connection may have pushed that are not durable yet, waiting frames included. The longest frame, 4 MiB and
    /// its header: four times the window of a client that keeps to the session's rules.
    pub inflight_bytes_max: usize,
    /// Bytes of one read of the log for a connection that catches up. Half the queue, so that reading and sending overlap.
    pub read_bytes_max: usize,
    /// ... where its share of what is queued is used up and nothing is queued to it: one entry, or a few small ones. So
    /// nobody is kept from getting on by others who take nothing.
    pub read_bytes_min: usize,
    /// Bytes read from the log and queued, of streams with something in common; beyond it they are read for in small steps,
    /// and beyond twice as much a stream that would need more is closed.
    pub queued: Shares,
    /// Memory of batches that are neither durable nor refused, of streams with something in common; beyond it
    /// [`super::Hub::takes`] says no, once the message that goes beyond is in. A batch of deletes takes four times its bytes, and
    /// a whole share of an address is what shares one sync: more would only make others wait for that.
    pub pushed: Shares,
    /// What a space's appends in flight put into the log, the one that goes beyond it whole; then its batches wait for their turn,
    /// and are decided as the log gets on. What is in flight is in order, and whoever pushes there next waits for all of it. Twice
    /// what shares a sync, so that the next one is ready when that has come.
    pub space_bytes_max: usize,
    /// Operations that are decided for one input, the batch with the last of them whole: others have their turn in between.
    pub turn_ops_max: usize,
    /// Pushes of one connection whose place in its stream has not come yet, after which it gets entries instead of acks.
    pub unread_pushes_max: usize,
    /// Spaces held open at once; a connection to one more is told to come back.
    pub spaces_max: usize,
    /// Milliseconds within which Hello must arrive.
    pub hello_ms_max: u64,
    /// Milliseconds of silence after which a connection is closed: three times a client's patience (it pings after 20 s
    /// and gives up after 40 s).
    pub silence_ms_max: u64,
    /// Milliseconds that a space without connections stays in memory.
    pub space_idle_ms: u64,
    /// Milliseconds after which a client may come back when the relay failed.
    pub retry_ms: u64,
    /// Milliseconds after which a client may come back when the log is full: somebody has to make room first.
    pub retry_full_ms: u64,
}

/// A ceiling for what the streams of one connection, of one address, and all of them hold together, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Of one connection.
    pub connection: usize,
    /// Of one address.
    pub address: usize,
    /// Of the relay.
    pub relay: usize,
}

/// Where a stream comes from. Numbers are all that the hub knows of it: whoever has one in common shares a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The address.
    pub address: u64,
    /// The connection; it is of one address.
    pub connection: u64,
}

/// The digest of a space's materialised copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceDigest {
    /// The number up to which the copy has applied the log.
    pub seq: u64,
    /// Its digest.
    pub digest: [u8; 32],
    /// Its live documents.
    pub documents: u64,
}

/// Something happened.
#[derive(Debug)]
pub enum Input {
    /// A client with a valid token opened a stream.
    Connected {
        /// Its name from here on.
        conn: ConnId,
        /// What the token allows.
        access: Access,
        /// Where it comes from.
        origin: Origin,
    },
    /// A message arrived.
    Frame {
        /// From whom.
        conn: ConnId,
        /// The message.
        frame: Received,
    },
    /// Answer to [`Effect::GoOn`]: the connection's turn has come again.
    GoOn {
        /// Whose.
        conn: ConnId,
    },
    /// Bytes that were queued by [`Effect::Send`] have left.
    Sent {
        /// To whom.
        conn: ConnId,
        /// How many.
        bytes: usize,
    },
    /// The client has closed its direction: what it asked is still answered, then the stream ends.
    Finished {
        /// Whose.
        conn: ConnId,
    },
    /// The stream is gone.
    Disconnected {
        /// Whose.
        conn: ConnId,
    },
    /// Answer to [`Effect::OpenSpace`].
    SpaceOpened {
        /// The name that was asked for.
        name: Arc<str>,
        /// What the log holds, or that it could not say.
        result: Result<SpaceInfo, Unavailable>,
    },
    /// Answer to [`Effect::Append`].
    Appended {
        /// The space.
        space: SpaceId,
        /// Which append.
        append: AppendId,
        /// Durable, or not there at all.
        result: Result<(), AppendError>,
    },
    /// Answer to [`Effect::ReadLog`].
    LogRead {
        /// For whom.
        conn: ConnId,
        /// Entries above the number asked for, oldest first.
        result: Result<Vec<StoredEntry>, Unavailable>,
    },
    /// Answer to [`Effect::FindDigests`].
    DigestsFound {
        /// For whom.
        conn: ConnId,
        /// The author that was asked for.
        replica: ReplicaId,
        /// The first counter that was asked for.
        first: u64,
        /// One digest for each operation asked for.
        result: Result<Vec<PayloadDigest>, Unavailable>,
    },
    /// Answer to [`Effect::DigestWanted`]; `None` where no copy is kept.
    DigestReady {
        /// For whom.
        conn: ConnId,
        /// The digest.
        digest: Option<SpaceDigest>,
    },
    /// Time has passed; once a second is often enough.
    Tick,
    /// The relay is going down: finish what is in flight, send everybody away.
    Shutdown,
}

/// The log could not answer; its words went to the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable;

/// Something to do. Effects are carried out in order; those that have an answer come back as an [`Input`].
#[derive(Clone, Debug)]
pub enum Effect {
    /// Read what the log knows of a space; answer with [`Input::SpaceOpened`].
    OpenSpace {
        /// Its name.
        name: Arc<str>,
    },
    /// Append; answer with [`Input::Appended`]. Appends of one space are carried out in the order in which they come;
    /// several, also of several spaces, may share a sync.
    Append(Append),
    /// Read entries; answer with [`Input::LogRead`].
    ReadLog {
        /// For whom.
        conn: ConnId,
        /// The space.
        space: SpaceId,
        /// Numbers above this one.
        after_seq: u64,
        /// Bytes to read, one entry at least.
        bytes_max: usize,
        /// How to pack what was read.
        packing: Packing,
    },
    /// Look up payload digests; answer with [`Input::DigestsFound`].
    FindDigests {
        /// For whom.
        conn: ConnId,
        /// The space.
        space: SpaceId,
        /// The author.
        replica: ReplicaId,
        /// First counter.
        first: u64,
        /// Last counter.
        last: u64,
    },
    /// Queue a frame; report with [`Input::Sent`] when it has left.
    Send {
        /// To whom.
        conn: ConnId,
        /// One whole frame.
        bytes: Bytes,
    },
    /// Send the error, if there is one, and end the stream. The hub has forgotten the connection already.
    Close {
        /// Whose.
        conn: ConnId,
        /// The last word.
        error: Option<ErrorFrame>,
    },
    /// More waits on a connection than is handled at one go; answer with [`Input::GoOn`] once others have had their turn, and
    /// [`super::Hub::may_go_on`] says so.
    GoOn {
        /// Whose.
        conn: ConnId,
    },
    /// The log has grown; the materialised copy may follow when it has time. No answer.
    Materialize {
        /// The space.
        space: SpaceId,
        /// Its epoch.
        epoch: u32,
        /// Its durable head.
        head: u64,
    },
    /// A digest is wanted; answer with [`Input::DigestReady`].
    DigestWanted {
        /// For whom.
        conn: ConnId,
        /// The space.
        space: SpaceId,
        /// Its epoch.
        epoch: u32,
        /// At this number or a later one.
        min_seq: u64,
    },
}

/// Counts that an operator wants to see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubStats {
    /// Connections now.
    pub connections: usize,
    /// Spaces in memory.
    pub spaces: usize,
    /// Appends in flight.
    pub appends_inflight: usize,
    /// Operations made durable since the start.
    pub ops_logged: u64,
    /// Times a connection was marked lagging since the start.
    pub lagged: u64,
    /// Batches that were not logged because an operation's name was taken, since the start.
    pub name_clashes: u64,
}
