//! Many copies, one meaning: clocks, merge rules, sealing and the session of BlazeDB.
//!
//! Two questions are answered here, and nothing else:
//!
//! - *What happened?* [`merge`] says what an operation does to a document, [`clock`] and [`seal`](mod@seal) say when an operation
//!   happened and fix its bytes, [`record`] keeps what merging must remember.
//! - *Who has seen it?* [`session`] speaks with a relay until every operation of this copy is in the relay's log and
//!   every entry of the log is in this copy, exactly once.
//!
//! Everything decides and nothing acts: no input or output, no clock, no randomness, no threads, no `unsafe`. Time and seeds
//! are arguments; stores and sockets belong to the caller. The normative text is spec/merge.md and spec/session.md; code and
//! tests cite its rules (`spec: M-3`).
//!
//! Invariants:
//! - S1 the counters of one replica are gapless, and their stamps ascend with them;
//! - S2 merging one field is commutative, associative and idempotent; a document is a function of the log;
//! - S3 an operation of the log takes effect once, in the order of the log;
//! - S4 nothing is sent twice on one connection unless the relay asks for it;
//! - S5 what was received and what was acknowledged never goes backwards;
//! - S6 unanswered bytes, waiting events and remembered names are bounded;
//! - S7 a fault of the peer ends that connection and nothing else.
//!
//! # Two replicas
//!
//! Both edit one document while apart; each puts its operations into one log; both read the log and agree.
//!
//! ```
//! use blazedb_sync::{DocState, HlcClock, OpContext, SealContext, merge, seal};
//! use blazedb_wire::{Batch, Document, DocumentId, Hlc, MergeKind, Op, OpKind, ReplicaId, Row, Shape, SpaceId, Value};
//!
//! fn write(clock: &mut HlcClock, now: u64, kind: OpKind, name: &str, value: &str) -> Op {
//!     let document = Document::from_pairs([(name.to_owned(), Value::Text(value.to_owned()))]).expect("a name once");
//!     Op {
//!         kind,
//!         merge: MergeKind::Register,
//!         more: false,
//!         hlc: clock.tick(now),
//!         cursor: 0,
//!         collection: "notes".into(),
//!         id: DocumentId::from_bytes([7; 16]),
//!         attrs: Default::default(),
//!         set: Some(Row::encode(&document).expect("a short row")),
//!         unset: Shape::empty(),
//!     }
//! }
//!
//! // Two devices insert the same note while offline and give it two titles.
//! let (mut left, mut right) = (HlcClock::new(), HlcClock::new());
//! let left_ops = [write(&mut left, 1_000, OpKind::Create, "title", "Milk"), write(&mut left, 1_001, OpKind::Update, "shop", "corner")];
//! let right_ops = [write(&mut right, 2_000, OpKind::Create, "title", "Oat milk")];
//!
//! // Each seals what it has; the relay appends the batches to its log in whatever order they come.
//! let mut log = Vec::new();
//! for (tag, ops) in [(2, &right_ops[..]), (1, &left_ops[..])] {
//!     let context = SealContext {
//!         space: SpaceId::from_bytes([9; 16]),
//!         replica: ReplicaId::from_bytes([tag; 16]),
//!         epoch: 1,
//!         deps: &[],
//!         relay_now: Some(5_000),
//!         max_seen: Hlc::ZERO,
//!         previous: Hlc::ZERO,
//!     };
//!     log.extend(seal(1, ops, &context).expect("few operations").batches);
//! }
//!
//! // Whoever reads the log gets this document.
//! let mut state = DocState::Absent;
//! let mut next_seq = 1;
//! for entry in &log {
//!     let batch = Batch::decode(entry.bytes.clone()).expect("sealed above");
//!     for index in 0..batch.len() {
//!         let outcome = merge::apply(&state, &OpContext::in_batch(&batch, index, next_seq));
//!         state = outcome.state.unwrap_or(state);
//!     }
//!     next_seq += batch.len() as u64;
//! }
//! let note = state.row().expect("not deleted").to_document();
//! assert_eq!(note.get("title"), Some(&Value::Text("Oat milk".into())), "the later write wins, although it arrived first");
//! assert_eq!(note.get("shop"), Some(&Value::Text("corner".into())), "fields merge one by one");
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod clock;
pub mod error;
pub mod limits;
pub mod merge;
pub mod record;
pub mod seal;
pub mod session;

pub use clock::HlcClock;
pub use error::{PeerMisbehaved, SessionError};
pub use merge::{BoxReason, Fate, InboxEntry, OpContext, Outcome, apply, diff, fold, settle};
pub use record::{DocState, Record, RecordError, RecordMeta, ShapeCatalogue, StoredRow, Tombstone};
pub use seal::{SealContext, SealError, Sealed, SealedBatch, TransactionSize, TransactionTooLarge, seal};
pub use session::{
    Backoff, DisconnectReason, Event, Millis, OpSource, OutboxPosition, Session, SessionConfig, SessionState,
};
