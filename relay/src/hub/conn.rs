//! One connection: its place in the stream and the ledger of what is held for it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use blazedb_wire::{Batch, Hello, Reads, ReplicaId};
use bytes::Bytes;

use super::account::{Account, Hold};
use super::received::{Received, length_of};
use super::{Access, ConnId, Effect, HubLimits};
use crate::log::PayloadDigest;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing but Hello is allowed.
    BeforeHello,
    /// Welcome is sent; entries flow.
    Streaming,
}

/// What the next frame of a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Nothing.
    Nothing,
    /// Its space is being read.
    Space,
    /// Digests from the log for the batch that is being decided.
    Digests {
        /// Of whose operations.
        replica: ReplicaId,
        /// The counter of the first.
        first: u64,
    },
}

/// A batch that may have to wait for digests before it can be decided.
#[derive(Debug)]
pub(super) struct Deciding {
    pub(super) batch: Batch,
    /// Bytes of the frame it came in.
    pub(super) length: usize,
    /// Digests that the log has given so far, by counter. Kept from question to question: what was in flight at the first
    /// may be in the log at the second.
    pub(super) found: BTreeMap<u64, PayloadDigest>,
    pub(super) hold: Hold,
}

/// A message that came while something was waited for.
#[derive(Debug)]
pub(super) enum Waiting {
    /// As it came.
    Frame(Received, Hold),
    /// A batch out of one that carried many.
    Batch(Batch, Hold),
}

impl Waiting {
    /// What it counts in the ledger: a batch as much as if it had come alone.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Frame(frame, _) => frame.length,
            Self::Batch(batch, _) => length_of(batch),
        }
    }
}

/// State of one connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) access: Access,
    pub(super) phase: Phase,
    pub(super) wait: Wait,
    /// Between Hello and Welcome.
    pub(super) hello: Option<Hello>,
    /// What it can read beside plain frames.
    pub(super) reads: Reads,
    /// The number of the last operation sent.
    pub(super) position: u64,
    /// Its queue is full; it reads from the log once half of it has drained.
    pub(super) lagging: bool,
    /// A read of the log is on its way.
    pub(super) reading: bool,
    /// Bytes that this read was given room for.
    pub(super) reading_bytes: usize,
    /// Its next turn is on its way, and frames wait for it.
    pub(super) goes_on: bool,
    /// A digest is on its way.
    pub(super) digest_wanted: bool,
    /// Frames that came while something was waited for.
    pub(super) waiting: VecDeque<Waiting>,
    /// The batch at the front, while it is undecided.
    pub(super) deciding: Option<Deciding>,
    /// First numbers of its pushes whose place in its stream has not come yet: acks, not entries.
    pub(super) unread_pushes: BTreeSet<u64>,
    /// Frames that must not overtake the stream: each with the number after which it may go.
    owed: VecDeque<(u64, Bytes)>,
    /// Ledger: bytes of `owed`.
    pub(super) owed_bytes: usize,
    /// Ledger: bytes given to the transport that have not left, those of `reading` included.
    pub(super) account: Account,
    /// Ledger: bytes received that are neither durable nor refused.
    pub(super) inflight_bytes: usize,
    /// When it was last heard.
    pub(super) heard_ms: u64,
    /// The number of the last operation that it pushed.
    pub(super) pushed_to: u64,
    /// Its client has closed its direction, or said Bye.
    pub(super) finished: bool,
    /// Its client has said Bye: it wants its answers and no more.
    pub(super) said_bye: bool,
    /// What it then gets at the least: the head as it was when its last frame was decided, or the last of its own.
    pub(super) until: Option<u64>,
}

impl Conn {
    pub(super) fn new(access: Access, account: Account, mono_ms: u64) -> Self {
        Self {
            access,
            phase: Phase::BeforeHello,
            wait: Wait::Nothing,
            hello: None,
            reads: Reads::default(),
            position: 0,
            lagging: false,
            reading: false,
            reading_bytes: 0,
            goes_on: false,
            digest_wanted: false,
            waiting: VecDeque::new(),
            deciding: None,
            unread_pushes: BTreeSet::new(),
            owed: VecDeque::new(),
            owed_bytes: 0,
            account,
            inflight_bytes: 0,
            heard_ms: mono_ms,
            pushed_to: 0,
            finished: false,
            said_bye: false,
            until: None,
        }
    }

    /// Whether a frame may be queued: within the ceilings, or alone, whatever its size.
    pub(super) fn has_room(&self, bytes: usize, limits: &HubLimits) -> bool {
        let queued = self.account.queued();
        queued == 0 || (queued + bytes <= limits.queue_bytes_max && self.account.has_room(bytes, limits.queued, 1))
    }

    /// Whether nothing that was said is left undecided.
    pub(super) fn is_decided(&self) -> bool {
        self.wait == Wait::Nothing && self.waiting.is_empty() && self.deciding.is_none()
    }

    /// Takes no more frames: those that follow a Bye are not looked at.
    pub(super) fn leave(&mut self) {
        (self.finished, self.said_bye) = (true, true);
        let unheard = self.waiting.drain(..).map(|waiting| waiting.len()).sum::<usize>();
        self.inflight_bytes -= unheard;
    }

    /// Queues a frame.
    pub(super) fn send(&mut self, conn: ConnId, bytes: Bytes, out: &mut Vec<Effect>) {
        self.account.queue(bytes.len());
        out.push(Effect::Send { conn, bytes });
    }

    /// Keeps a frame until the stream has passed `after`.
    pub(super) fn owe(&mut self, after: u64, bytes: Bytes) {
        self.owed_bytes += bytes.len();
        self.owed.push_back((after, bytes));
    }

    /// Whether an answer is owed that speaks of numbers above `seq`.
    pub(super) fn owes_beyond(&self, seq: u64) -> bool {
        self.owed.iter().any(|(after, _)| *after > seq)
    }

    /// Sends what was owed up to the position: in the order of the debts, each of which may only hold back later ones.
    pub(super) fn pay(&mut self, conn: ConnId, out: &mut Vec<Effect>) {
        while self.owed.front().is_some_and(|(after, _)| *after <= self.position) {
            let (_, bytes) = self.owed.pop_front().expect("the front was just looked at");
            self.owed_bytes -= bytes.len();
            self.send(conn, bytes, out);
        }
    }
}
