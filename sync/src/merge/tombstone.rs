//! Deletes: what they kill, what they absorb, and when the last image of a document is kept.
//!
//! A delete absorbs: what reaches a dead document later does not bring it back, except a create whose author knew of the
//! delete. The relay decides that at admission with [`absorbs`] and says so in its envelope; clients follow the envelope.

use blazedb_wire::OpKind;

use super::{BoxReason, InboxEntry, OpContext, Outcome, died};
use crate::record::{Record, Tombstone};

/// Returns whether an operation of this kind, written at this cursor, is absorbed by a dead document.
///
/// An update always is. A create is unless its author had applied the delete, which makes it a new life. A delete is not: it
/// has no effect and nothing is lost. A tombstone without a sequence is an own delete that the relay has not numbered; its
/// number will exceed every cursor.
pub fn absorbs(tombstone: &Tombstone, kind: OpKind, cursor: u64) -> bool {
    match kind {
        OpKind::Update => true,
        OpKind::Create => tombstone.seq == 0 || cursor < tombstone.seq,
        OpKind::Delete => false,
    }
}

/// Kills a live document. The last image is boxed if it holds an edit that the deleter had not seen.
pub(super) fn delete_live(record: &Record, op: &OpContext<'_>) -> Outcome {
    // spec: M-10
    let concurrent = op.is_concurrent(&record.meta);
    let boxed = concurrent
        .then(|| InboxEntry { row: Some(record.row.clone()), ..InboxEntry::of_op(op, BoxReason::DeletedWhileEdited) });
    Outcome { boxed, concurrent, ..died(op) }
}
