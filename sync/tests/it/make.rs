//! Short ways to make operations.

use blazedb_sync::{DocState, OpContext, Outcome, apply};
use blazedb_wire::{Document, DocumentId, Hlc, MergeKind, Op, OpId, OpKind, ReplicaId, Row, Shape, SpaceId, Value};
use bytes::Bytes;

pub(crate) const DOC: DocumentId = DocumentId([0xD0; 16]);
pub(crate) const SPACE: SpaceId = SpaceId([0x5A; 16]);

pub(crate) fn replica(n: u8) -> ReplicaId {
    ReplicaId([n; 16])
}

pub(crate) fn id(n: u8, counter: u64) -> OpId {
    OpId { replica: replica(n), counter }
}

pub(crate) fn row(fields: &[(&str, Value)]) -> Row {
    let pairs = fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    Row::encode(&Document::from_pairs(pairs).expect("distinct names")).expect("small")
}

pub(crate) fn op(kind: OpKind, hlc: u64, cursor: u64) -> Op {
    Op {
        kind,
        merge: MergeKind::Register,
        more: false,
        hlc: Hlc(hlc),
        cursor,
        collection: "notes".into(),
        id: DOC,
        attrs: Bytes::new(),
        set: (kind != OpKind::Delete).then(|| row(&[])),
        unset: Shape::empty(),
    }
}

pub(crate) fn create(hlc: u64, cursor: u64, fields: &[(&str, Value)]) -> Op {
    Op { set: Some(row(fields)), ..op(OpKind::Create, hlc, cursor) }
}

pub(crate) fn update(hlc: u64, cursor: u64, fields: &[(&str, Value)], unset: &[&str]) -> Op {
    let unset = Shape::new(unset).expect("distinct names");
    Op { set: Some(row(fields)), unset, ..op(OpKind::Update, hlc, cursor) }
}

pub(crate) fn delete(hlc: u64, cursor: u64) -> Op {
    op(OpKind::Delete, hlc, cursor)
}

/// A log of one document under construction: each operation is applied under the next number.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) state: DocState,
    pub(crate) seq: u64,
}

impl Log {
    /// Applies the next operation of replica `author`, whose batch names `deps`.
    pub(crate) fn put(&mut self, author: u8, op: &Op, deps: &[OpId]) -> Outcome {
        self.seq += 1;
        let context = OpContext { op: op.as_ref(), id: id(author, self.seq), seq: self.seq, deps };
        let outcome = apply(&self.state, &context);
        if let Some(state) = &outcome.state {
            self.state = state.clone();
        }
        outcome
    }

    pub(crate) fn text(&self, name: &str) -> Option<Value> {
        self.state.live()?.row.get(name).map(|value| value.to_value())
    }
}

pub(crate) fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}
