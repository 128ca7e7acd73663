//! One space: what is admitted, what of it is durable, who listens.

use std::collections::{BTreeSet, VecDeque};

use blazedb_wire::{Batch, ReplicaId};
use bytes::Bytes;

use super::ConnId;
use super::account::Hold;
use crate::admit::{AdmitTime, Admitted, SpaceState};
use crate::log::{Append, AppendId, LogEntry, PayloadDigest, SpaceInfo, envelope_bytes};

/// A name that somebody asked for.
#[derive(Debug)]
pub(super) enum Slot {
    /// The log is being read; these connections wait.
    Opening {
        /// Who waits.
        conns: BTreeSet<ConnId>,
    },
    /// In memory.
    Open(Box<Space>),
}

impl Slot {
    /// Appends without an answer.
    pub(super) fn inflight(&self) -> usize {
        match self {
            Self::Opening { .. } => 0,
            Self::Open(space) => space.inflight.len(),
        }
    }
}

/// An append without an answer.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) id: AppendId,
    pub(super) author: ConnId,
    /// Bytes that it puts into the log: the space's ledger.
    pub(super) bytes: usize,
    /// Bytes of the frame it came in: the author's ledger.
    pub(super) length: usize,
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
    /// What everybody gets: made once, counted references from here on.
    pub(super) entry: Bytes,
    /// What the author gets.
    pub(super) ack: Bytes,
    /// For the digests of its operations while they are not in the log.
    batch: Batch,
    /// The author replica's newest counter before this append.
    counter_before: u64,
    /// The memory of all this, as it was received.
    _hold: Hold,
}

/// An open space.
#[derive(Debug)]
pub(super) struct Space {
    /// As admitted: ahead of the log by what is in flight.
    pub(super) state: SpaceState,
    /// The number of the newest durable operation.
    pub(super) durable: u64,
    /// In the order of their numbers.
    pub(super) inflight: VecDeque<Pending>,
    /// Ledger: what they put into the log.
    inflight_bytes: usize,
    pub(super) conns: BTreeSet<ConnId>,
    /// When the last connection left.
    pub(super) left_ms: u64,
}

impl Space {
    pub(super) fn new(info: SpaceInfo, conns: BTreeSet<ConnId>) -> Self {
        Self {
            durable: info.head,
            state: SpaceState::new(info),
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            conns,
            left_ms: 0,
        }
    }

    /// Whether nobody would miss it.
    pub(super) fn is_idle(&self) -> bool {
        self.conns.is_empty() && self.inflight.is_empty()
    }

    /// Moves the state over an admitted batch and returns the append that makes it durable.
    pub(super) fn push(
        &mut self,
        id: AppendId,
        author: ConnId,
        (batch, length, hold): (&Batch, usize, Hold),
        admitted: Admitted,
        time: AdmitTime,
    ) -> Append {
        let expected_head = self.state.head();
        let counter_before = self.state.known(admitted.envelope.replica).map_or(0, |known| known.counter);
        self.state.apply(&admitted, time);
        let mut envelope = Vec::new();
        admitted.envelope.encode(&mut envelope);
        let entry = blazedb_wire::entry_frame(&envelope, batch.bytes());
        let (first_seq, last_seq) = (admitted.envelope.first_seq, admitted.envelope.last_seq());
        let replica = admitted.envelope.replica;
        let entries = vec![LogEntry {
            first_seq,
            last_seq,
            frame: entry.clone(),
            replica,
            known: admitted.known,
            lives: admitted.lives,
            newest_stamp: admitted.newest_stamp,
        }];
        let append = Append { id, space: self.state.id(), expected_head, entries };
        let bytes = append.bytes();
        self.inflight_bytes += bytes;
        self.inflight.push_back(Pending {
            id,
            author,
            bytes,
            length,
            first_seq,
            last_seq,
            entry,
            ack: blazedb_wire::ack_frame(&envelope),
            batch: batch.clone(),
            counter_before,
            _hold: hold,
        });
        append
    }

    /// Takes the oldest append out: it is durable.
    pub(super) fn landed(&mut self) -> Option<Pending> {
        let pending = self.inflight.pop_front()?;
        self.inflight_bytes -= pending.bytes;
        self.durable = pending.last_seq;
        Some(pending)
    }

    /// Whether another append may be made before one of those in flight is durable.
    pub(super) fn has_room(&self, bytes_max: usize) -> bool {
        self.inflight_bytes < bytes_max
    }

    /// Returns a replica's highest counter that is durable; 0 if it has none.
    pub(super) fn durable_counter(&self, replica: ReplicaId) -> u64 {
        let mut inflight = self.inflight.iter();
        match inflight.find(|pending| pending.batch.head().replica == replica) {
            Some(pending) => pending.counter_before,
            None => self.state.known(replica).map_or(0, |known| known.counter),
        }
    }

    /// Returns the payload digest of an operation that is in flight.
    pub(super) fn inflight_digest(&self, replica: ReplicaId, counter: u64) -> Option<PayloadDigest> {
        // Where two batches in flight hold it, the second repeats the first.
        let holder = self.inflight.iter().find(|pending| {
            pending.batch.head().replica == replica && pending.batch.counter_range().contains(&counter)
        })?;
        let i = usize::try_from(counter - holder.batch.head().first_counter).ok()?;
        Some(holder.batch.op(i).payload_digest())
    }
}

/// Makes the author's ack out of a logged entry; `None` if the log holds something else than it was given.
pub(super) fn ack_of(entry: &Bytes) -> Option<Bytes> {
    envelope_bytes(entry).map(blazedb_wire::ack_frame)
}
