//! Merging: what an operation does to a document. Pure functions, the same on every client and on the relay.
//!
//! The state of a document is a function of the sequenced log alone (the *base*); what a replica shows is the base with its
//! own operations that have no number yet on top ([`fold()`]). [`settle`] applies an operation of the log with what the
//! relay said about it ([`Fate`]); [`apply`] is the rule beneath both.
//!
//! ```text
//!              create                     update                          delete
//! Absent       born                       boxed: Unknown                  -> Dead
//! Live         winner per field           winner per field                -> Dead, last image boxed if somebody
//!                                         (earlier life: boxed)              edited what the deleter had not seen
//! Dead         sequenced: a new life      sequenced: boxed: Unknown       nothing
//!              own: as the relay will say own: nothing (will be absorbed)
//! ```
//!
//! Nothing that a user wrote is dropped without a trace: what does not get into a document comes back as an
//! [`InboxEntry`]. Which of two writes of one field wins is decided by stamp, then by value, never by arrival.
//! Only operations with a number box anything: an own operation without one is still in the outbox, so nothing of it is
//! lost yet.
//!
//! Rules: spec/merge.md. Read [`OpContext`] first, then [`apply`].

mod diff;
mod fold;
mod inbox;
mod register;
mod tombstone;

use blazedb_wire::{Batch, Op, OpId, OpKind, OpRef, Row, Shape, Stamp};
use bytes::Bytes;

pub use blazedb_wire::envelope::Outcome as Fate;

pub use self::diff::diff;
pub use self::fold::fold;
pub use self::inbox::{BoxReason, InboxEntry, InboxError};
pub use self::tombstone::absorbs;

use crate::record::{DocState, Record, RecordMeta, Tombstone};

/// An operation together with what merging needs to know of where it came from.
#[derive(Clone, Copy, Debug)]
pub struct OpContext<'a> {
    /// What it does.
    pub op: OpRef<'a>,
    /// Its name.
    pub id: OpId,
    /// Its relay sequence; 0 for an own operation that has none yet.
    pub seq: u64,
    /// Unsequenced operations of the author's earlier incarnations that its batch builds on: work of the same hand.
    pub deps: &'a [OpId],
}

/// What an operation did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The new state; `None` when nothing changed.
    pub state: Option<DocState>,
    /// What goes into the conflict inbox.
    pub boxed: Option<InboxEntry>,
    /// Why the operation had no effect, if it had none that anyone could miss. Set for own operations, too, which box
    /// nothing before they are sequenced: a write that is about to get lost can be refused to the application.
    pub lost: Option<BoxReason>,
    /// Whether the author had not seen the newest edit of the document by another hand.
    pub concurrent: bool,
}

impl<'a> OpContext<'a> {
    /// Returns the context of operation `index` of a batch that the relay numbered from `first_seq`.
    ///
    /// # Panics
    ///
    /// If `index` is not below the batch's length, as a slice does.
    pub fn in_batch(batch: &'a Batch, index: usize, first_seq: u64) -> Self {
        let seq = first_seq.saturating_add(index as u64);
        Self { op: batch.op(index), id: batch.op_id(index), seq, deps: &batch.head().deps }
    }

    /// Returns the context of an own operation that has no number yet.
    ///
    /// `deps` names the earlier incarnations of the same file; naming one too many does no harm here.
    pub fn own(op: &'a Op, id: OpId, deps: &'a [OpId]) -> Self {
        Self { op: op.as_ref(), id, seq: 0, deps }
    }

    /// Returns the operation's stamp.
    pub fn stamp(&self) -> Stamp {
        Stamp::new(self.op.hlc, self.id.replica)
    }

    /// Returns whether `tag` is the author or one of its earlier incarnations.
    fn same_hand(&self, tag: u32) -> bool {
        tag == self.id.replica.tag() || self.deps.iter().any(|dep| dep.replica.tag() == tag)
    }

    /// Returns whether the author had not seen the newest edit of the document by another hand.
    ///
    /// An own operation without a number has seen what this replica shows, however late the relay hears of it.
    fn is_concurrent(&self, meta: &RecordMeta) -> bool {
        let foreign_seq = if self.same_hand(meta.last_author) { meta.other_seq } else { meta.last_seq };
        self.seq != 0 && self.op.cursor < foreign_seq
    }
}

/// Applies one operation of the log to the base of its document, as the relay judged it.
///
/// `own` says whether the operation was written by this file: refused work is boxed only there.
pub fn settle(state: &DocState, op: &OpContext<'_>, fate: Fate, own: bool) -> Outcome {
    let (reason, here) = match fate {
        Fate::Applied => return apply(state, op),
        Fate::Absorbed => (BoxReason::Absorbed, true),
        Fate::Refused(_) => (BoxReason::Refused, own),
        Fate::Repeated => return Outcome::default(),
    };
    let boxed = here.then(|| InboxEntry::of_op(op, reason));
    Outcome { boxed, lost: Some(reason), ..Outcome::default() }
}

/// Applies one operation to a document.
///
/// With a sequence, `state` is the base and the operation is one that the relay admitted. Without one (`seq` 0) it is an
/// own operation on top of the current state, and the relay's later verdict is anticipated.
pub fn apply(state: &DocState, op: &OpContext<'_>) -> Outcome {
    match (state, op.op.kind) {
        // spec: M-2
        (DocState::Absent, OpKind::Create) => born(op, false),
        // spec: M-6, M-11: of a sequenced operation the relay has said it, of an own one we say what it will say.
        (DocState::Dead(tombstone), OpKind::Create)
            if op.seq == 0 && absorbs(tombstone, OpKind::Create, op.op.cursor) =>
        {
            lost(op, BoxReason::Absorbed)
        }
        (DocState::Dead(_), OpKind::Create) => born(op, true),
        // spec: M-5
        (DocState::Live(record), OpKind::Create) => edited(record, op),
        (DocState::Live(record), OpKind::Update) if of_earlier_life(&record.meta, op) => {
            lost(op, BoxReason::EarlierLife)
        }
        (DocState::Live(record), OpKind::Update) => edited(record, op),
        (DocState::Dead(_), OpKind::Update) if op.seq == 0 => lost(op, BoxReason::Absorbed),
        // spec: M-7
        (DocState::Absent | DocState::Dead(_), OpKind::Update) => lost(op, BoxReason::Unknown),
        (DocState::Absent, OpKind::Delete) => died(op),
        (DocState::Live(record), OpKind::Delete) => tombstone::delete_live(record, op),
        // spec: M-9
        (DocState::Dead(_), OpKind::Delete) => Outcome::default(),
    }
}

/// An update that was written before the document's present life began, by another hand than the one that began it.
fn of_earlier_life(meta: &RecordMeta, op: &OpContext<'_>) -> bool {
    // spec: M-8
    meta.reborn && op.op.cursor < meta.birth && !op.same_hand(meta.creator)
}

/// The operation does not get into the document.
fn lost(op: &OpContext<'_>, reason: BoxReason) -> Outcome {
    // spec: M-14
    let boxed = (op.seq != 0).then(|| InboxEntry::of_op(op, reason));
    Outcome { boxed, lost: Some(reason), ..Outcome::default() }
}

fn died(op: &OpContext<'_>) -> Outcome {
    let state = DocState::Dead(Tombstone { stamp: op.stamp(), seq: op.seq });
    Outcome { state: Some(state), ..Outcome::default() }
}

fn born(op: &OpContext<'_>, reborn: bool) -> Outcome {
    let author = op.id.replica.tag();
    let meta = RecordMeta {
        row_stamp: op.stamp(),
        exceptions: Vec::new(),
        unset: Vec::new(),
        last_seq: op.seq,
        last_author: author,
        other_seq: 0,
        birth: op.seq,
        reborn,
        creator: author,
    };
    let row = op.op.set.map_or_else(|| Row::trusted(Shape::empty(), Bytes::new()), |set| set.to_row());
    Outcome { state: Some(DocState::Live(Record { meta, row })), ..Outcome::default() }
}

/// A create or an update of a live document: the winner of each field.
fn edited(record: &Record, op: &OpContext<'_>) -> Outcome {
    let concurrent = op.is_concurrent(&record.meta);
    let merged = match register::merge(record, op) {
        Ok(merged) => merged,
        // spec: M-13
        Err(register::TooLarge) => {
            return Outcome { concurrent, ..lost(op, BoxReason::TooLarge) };
        }
    };
    if op.seq == 0 {
        return Outcome { state: merged.map(DocState::Live), ..Outcome::default() };
    }
    let mut next = merged.unwrap_or_else(|| record.clone());
    // spec: M-15: a user's own edit in an earlier opening must not be taken for somebody else's.
    if !op.same_hand(next.meta.last_author) {
        next.meta.other_seq = next.meta.last_seq;
    }
    next.meta.last_author = op.id.replica.tag();
    next.meta.last_seq = op.seq;
    Outcome { state: Some(DocState::Live(next)), concurrent, ..Outcome::default() }
}
