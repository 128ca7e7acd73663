//! Admission: what becomes of one batch, decided against one known head.
//!
//! Pure. [`admit`] looks at a verified batch and at what the relay knows of its space and answers with an envelope or a
//! refusal; [`SpaceState::apply`] moves the state over what was admitted. The two are apart so that a decision that still
//! waits for an old digest has changed nothing. The order of the checks is that of spec/relay.md, "Admission".
//!
//! The state is *ahead* of the log by the appends in flight: batches are admitted one upon the other without waiting for
//! the disk, and the append's expected head makes sure that the log took them in exactly this order or not at all.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use blazedb_wire::{Batch, Bitmap, DocumentId, Envelope, Hlc, OpId, OpKind, ReplicaId, SpaceId, Verdict};

use crate::log::{DeadDocuments, Known, LifeChange, PayloadDigest, SpaceInfo};

/// How far above relay time a stamp may be before its transaction is refused: wider than the error of any clock that
/// is set from the network, narrower than what a user would notice as "my edit lost to one from the future".
pub const STAMP_AHEAD_MS_MAX: u64 = 60_000;

/// The relay's time as admission sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmitTime {
    /// Wall clock, milliseconds since 1970.
    pub wall_ms: u64,
    /// Whether it is known to be right; if not, nothing is refused on its account (spec: R-19).
    pub trusted: bool,
}

/// What the relay knows of one space at its newest admitted operation.
#[derive(Clone, Debug)]
pub struct SpaceState {
    id: SpaceId,
    epoch: u32,
    head: u64,
    floor: u64,
    counters: BTreeMap<ReplicaId, Known>,
    dead: DeadDocuments,
    newest_stamp: Hlc,
    /// Relay time is never below this (spec: R-19). It is not raised by what a trusted clock admits, or every batch could
    /// push it 60 s further.
    clock_floor_ms: u64,
}

impl SpaceState {
    /// Starts from what the log holds.
    pub fn new(info: SpaceInfo) -> Self {
        Self {
            id: info.id,
            epoch: info.epoch,
            head: info.head,
            floor: info.floor,
            counters: info.counters,
            dead: info.dead,
            clock_floor_ms: info.newest_stamp.ms(),
            newest_stamp: info.newest_stamp,
        }
    }

    /// Returns the space's identity.
    pub fn id(&self) -> SpaceId {
        self.id
    }

    /// Returns the epoch of its numbers.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Returns the number of the newest admitted operation, durable or not.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Returns the lowest cursor from which the log can be read.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Returns the newest admitted operation of a replica, durable or not.
    pub fn known(&self, replica: ReplicaId) -> Option<Known> {
        self.counters.get(&replica).copied()
    }

    /// Returns the dead documents.
    pub fn dead(&self) -> &DeadDocuments {
        &self.dead
    }

    /// Returns the highest stamp admitted.
    pub fn newest_stamp(&self) -> Hlc {
        self.newest_stamp
    }

    /// Returns relay time in this space (spec: R-19).
    pub fn relay_ms(&self, time: AdmitTime) -> u64 {
        time.wall_ms.max(self.clock_floor_ms)
    }

    /// Moves the state over an admitted batch.
    pub fn apply(&mut self, admitted: &Admitted, time: AdmitTime) {
        debug_assert_eq!(admitted.envelope.first_seq, self.head + 1, "admitted against another head");
        self.head = admitted.envelope.last_seq();
        self.counters.insert(admitted.envelope.replica, admitted.known);
        self.dead.apply(&admitted.lives);
        self.newest_stamp = admitted.newest_stamp;
        if !time.trusted {
            self.clock_floor_ms = self.clock_floor_ms.max(admitted.newest_stamp.ms());
        }
    }
}

/// A batch that is to be logged, and what it changes.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The relay's word on it.
    pub envelope: Envelope,
    /// The author's newest operation afterwards.
    pub known: Known,
    /// Documents that die or come back, in order.
    pub lives: Vec<LifeChange>,
    /// The highest stamp of the space afterwards.
    pub newest_stamp: Hlc,
}

/// What becomes of a batch.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Log it.
    Append(Box<Admitted>),
    /// Every operation is known: acknowledge with this envelope (`first_seq` 0), log nothing.
    AllKnown(Box<Envelope>),
    /// Digests of the author's operations `first..=last` are needed before a repeat can be told from a clash.
    AskDigests {
        /// The first counter wanted.
        first: u64,
        /// The last counter wanted.
        last: u64,
    },
}

/// Why a batch is not logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The batch belongs to another space.
    SpaceMismatch {
        /// The space of the batch.
        given: SpaceId,
        /// The space of the stream.
        here: SpaceId,
    },
    /// Its cursors count in another epoch.
    EpochMismatch {
        /// The epoch of the batch.
        given: u32,
        /// The epoch of the space.
        here: u32,
    },
    /// An operation claims to have seen numbers that were never given out.
    CursorAhead {
        /// The cursor it names.
        cursor: u64,
        /// The head of the space.
        head: u64,
    },
    /// Operations between the known ones and this batch are missing.
    NeedFrom(OpId),
    /// The name is known with another payload.
    NameClash(OpId),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SpaceMismatch { given, here } => {
                write!(f, "the batch belongs to space {given}, this stream to {here}: a file syncs with one space only")
            }
            Self::EpochMismatch { given, here } => {
                write!(f, "the batch counts in epoch {given}, the space is in epoch {here}: start the space again")
            }
            Self::CursorAhead { cursor, head } => write!(
                f,
                "an operation names cursor {cursor}, the head is {head}: the relay was restored from an older state"
            ),
            Self::NeedFrom(op) => {
                write!(f, "operations are missing: send replica {} from counter {}", op.replica, op.counter)
            }
            Self::NameClash(op) => write!(
                f,
                "operation {} of replica {} is known with another payload: two copies of one file wrote under one name; \
                 reopen the file so that it writes under a new one",
                op.counter, op.replica
            ),
        }
    }
}

impl std::error::Error for Refusal {}

/// Decides about one verified batch (spec: ).
///
/// `digest_of(counter)` gives the payload digest under which an operation of the batch's author is known; `None` where it
/// would have to be read from the log first. It is asked only for counters below the author's newest, whose digest the
/// state holds.
pub fn admit(
    state: &SpaceState,
    batch: &Batch,
    time: AdmitTime,
    mut digest_of: impl FnMut(u64) -> Option<PayloadDigest>,
) -> Result<Decision, Refusal> {
    let head = batch.head();
    let replica = head.replica;
    if head.space != state.id {
        return Err(Refusal::SpaceMismatch { given: head.space, here: state.id });
    }
    if head.epoch != state.epoch {
        return Err(Refusal::EpochMismatch { given: head.epoch, here: state.epoch });
    }
    if let Some(cursor) = batch.ops().map(|op| op.cursor).filter(|cursor| *cursor > state.head).max() {
        return Err(Refusal::CursorAhead { cursor, head: state.head });
    }
    let known = state.known(replica);
    let known_counter = known.map_or(0, |known| known.counter);
    if head.first_counter > known_counter + 1 {
        return Err(Refusal::NeedFrom(OpId { replica, counter: known_counter + 1 }));
    }

    let n = batch.len();
    let repeats = usize::try_from(known_counter + 1 - head.first_counter).map_or(n, |known| known.min(n));
    let mut missing: Option<(u64, u64)> = None;
    for i in 0..repeats {
        let counter = head.first_counter + i as u64;
        let expected = match known {
            Some(known) if known.counter == counter => Some(known.digest),
            _ => digest_of(counter),
        };
        match expected {
            Some(digest) if digest == batch.op(i).payload_digest() => {}
            Some(_) => return Err(Refusal::NameClash(OpId { replica, counter })),
            None => missing = Some((missing.map_or(counter, |(first, _)| first), counter)),
        }
    }
    if let Some((first, last)) = missing {
        return Ok(Decision::AskDigests { first, last });
    }

    let relay_ms = state.relay_ms(time);
    let length = u32::try_from(n).expect("a batch holds at most 65536 operations");
    let mut envelope = Envelope {
        epoch: state.epoch,
        first_seq: if repeats == n { 0 } else { state.head + 1 },
        relay_ms,
        replica,
        first_counter: head.first_counter,
        n: length,
        verdicts: Vec::new(),
        absorbed: Bitmap::new(length),
        repeated: Bitmap::new(length),
    };
    for i in 0..repeats {
        envelope.repeated.set(i);
    }

    let mut lives = Lives { state, changes: Vec::new(), here: BTreeMap::new() };
    let mut newest_stamp = state.newest_stamp;
    for range in batch.transactions() {
        let length = u32::try_from(range.len()).expect("a batch holds at most 65536 operations");
        let fresh = range.start.max(repeats)..range.end;
        let newest = fresh.clone().map(|i| batch.op(i).hlc).max();
        let ahead = newest.is_some_and(|hlc| hlc.ms() > relay_ms.saturating_add(STAMP_AHEAD_MS_MAX));
        if ahead && time.trusted {
            envelope.verdicts.push((Verdict::RefusedClock, length));
            continue;
        }
        envelope.verdicts.push((Verdict::Applied, length));
        newest_stamp = newest.map_or(newest_stamp, |hlc| hlc.max(newest_stamp));
        if repeats == n {
            continue;
        }
        for i in fresh {
            let op = batch.op(i);
            let seq = envelope.first_seq + i as u64;
            match (op.kind, lives.died_at(op.collection, op.id)) {
                (OpKind::Delete, None) => lives.change(op.collection, op.id, Some(seq)),
                (OpKind::Update, Some(_)) => envelope.absorbed.set(i),
                (OpKind::Create, Some(died_at)) if op.cursor < died_at => envelope.absorbed.set(i),
                (OpKind::Create, Some(_)) => lives.change(op.collection, op.id, None),
                (OpKind::Delete, Some(_)) | (OpKind::Create | OpKind::Update, None) => {}
            }
        }
    }
    if repeats == n {
        return Ok(Decision::AllKnown(Box::new(envelope)));
    }
    let lives = lives.changes;
    let known = Known { counter: head.first_counter + (n as u64 - 1), digest: batch.op(n - 1).payload_digest() };
    Ok(Decision::Append(Box::new(Admitted { envelope, known, lives, newest_stamp })))
}

/// Deaths as they stand at one operation of a batch: the state's, then what the batch has changed so far.
struct Lives<'a> {
    state: &'a SpaceState,
    changes: Vec<LifeChange>,
    here: BTreeMap<(DocumentId, &'a str), Option<u64>>,
}

impl<'a> Lives<'a> {
    fn died_at(&self, collection: &'a str, id: DocumentId) -> Option<u64> {
        match self.here.get(&(id, collection)) {
            Some(here) => *here,
            None => self.state.dead.get(collection, id),
        }
    }

    fn change(&mut self, collection: &'a Arc<str>, id: DocumentId, died_at: Option<u64>) {
        self.here.insert((id, collection), died_at);
        self.changes.push(LifeChange { collection: collection.clone(), id, died_at });
    }
}
