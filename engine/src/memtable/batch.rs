//! What one commit puts into a table, before it has its place there.

use bytes::Bytes;

use super::leaf::{Kind, Version, head_of};
use super::room::Room;
use super::segments::Place;
use super::{Mem, OWN_SEGMENT_BYTES_MIN, encode_stored};
use crate::btree::ValueRef;
use crate::log::redo::Effects;

/// A batch that is used again keeps room for so many effects.
const ITEMS_KEPT: usize = 1024;

/// The effects of one commit: each key once.
#[derive(Default)]
pub(crate) struct Batch {
    /// Where records lie that are no segments of their own; where there is none, in `bytes`.
    room: Option<Room>,
    bytes: Vec<u8>,
    /// The segment that takes records now.
    open: Option<usize>,
    pub(super) segments: Vec<Bytes>,
    pub(super) items: Vec<Item>,
    /// Bytes of stored values.
    pub(super) stored_bytes: u64,
    /// Bytes of room that can hold nothing.
    pub(super) unused_bytes: u64,
}

pub(super) struct Item {
    pub(super) tree: u32,
    /// Its segment is counted from the batch's first.
    pub(super) version: Version,
}

impl Batch {
    /// One that is used again for commit after commit, into tables that take `tables_bytes` at most, all together, and
    /// `table_bytes` each as a rule.
    pub(crate) fn with_room(table_bytes: usize, tables_bytes: usize) -> Self {
        Self { room: Some(Room::new(table_bytes, tables_bytes)), ..Self::default() }
    }

    /// Makes room for this many effects, which have about this many bytes of keys and values.
    pub(crate) fn reserve(&mut self, effects: usize, bytes: usize) {
        if self.room.is_none() {
            self.bytes.reserve_exact(bytes);
        }
        self.items.shrink_to(ITEMS_KEPT);
        self.items.reserve_exact(effects);
    }

    /// Puts a record, which is a key and a value behind it; a long one is shared, not copied.
    pub(crate) fn put(&mut self, tree: u32, record: &Bytes, key_len: usize) {
        if record.len() < OWN_SEGMENT_BYTES_MIN {
            self.copy(tree, record.split_at(key_len), Kind::Inline);
        } else {
            self.own(tree, record.clone(), key_len);
        }
    }

    /// Puts a value, copying it.
    pub(crate) fn put_copy(&mut self, tree: u32, key: &[u8], value: &[u8]) {
        if key.len() + value.len() < OWN_SEGMENT_BYTES_MIN {
            self.copy(tree, (key, value), Kind::Inline);
        } else {
            self.own(tree, [key, value].concat().into(), key.len());
        }
    }

    /// Puts a value that lies in pages of its own.
    pub(crate) fn put_stored(&mut self, tree: u32, key: &[u8], value: ValueRef) {
        self.stored_bytes = self.stored_bytes.saturating_add(value.len);
        self.copy(tree, (key, &encode_stored(&value)), Kind::Stored);
    }

    /// Notes that a key has no value.
    pub(crate) fn delete(&mut self, tree: u32, key: &[u8]) {
        self.copy(tree, (key, &[]), Kind::Deleted);
    }

    fn copy(&mut self, tree: u32, (key, value): (&[u8], &[u8]), kind: Kind) {
        let len = key.len() + value.len();
        if self.room.as_ref().is_some_and(|room| !room.fits(len)) {
            self.close();
            self.unused_bytes += self.room.as_mut().map_or(0, |room| room.next_chunk(len) as u64);
        }
        let segment = *self.open.get_or_insert_with(|| {
            self.segments.push(Bytes::new());
            self.segments.len() - 1
        });
        let at = match &mut self.room {
            Some(room) => room.add(key, value),
            None => {
                let at = self.bytes.len();
                self.bytes.extend_from_slice(key);
                self.bytes.extend_from_slice(value);
                at
            }
        };
        let place = Place { segment: segment as u32, at: at as u32 };
        self.item(tree, key, value.len(), place, kind);
    }

    fn own(&mut self, tree: u32, record: Bytes, key_len: usize) {
        let place = Place { segment: self.segments.len() as u32, at: 0 };
        self.item(tree, &record[..key_len], record.len() - key_len, place, Kind::Inline);
        self.segments.push(record);
    }

    /// Ends the segment that takes records now.
    pub(super) fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        self.segments[open] = match &mut self.room {
            Some(room) => room.close(),
            // Without the room that records of their own segments did not take.
            None => std::mem::take(&mut self.bytes).into_boxed_slice().into(),
        };
    }

    fn item(&mut self, tree: u32, key: &[u8], value_len: usize, place: Place, kind: Kind) {
        let version = Version {
            head: head_of(key),
            commit_no: 0,
            place,
            value_len: value_len as u32,
            key_len: key.len() as u16,
            kind,
        };
        self.items.push(Item { tree, version });
    }
}

/// Replayed effects go into a table.
pub(crate) struct IntoTable<'t> {
    table: &'t mut Mem,
    commit_no: u64,
    batch: Batch,
}

impl<'t> IntoTable<'t> {
    pub(crate) fn new(table: &'t mut Mem) -> Self {
        Self { table, commit_no: 0, batch: Batch::default() }
    }
}

impl Effects for IntoTable<'_> {
    fn begin_commit(&mut self, commit_no: u64, _label: u32) {
        self.commit_no = commit_no;
    }

    fn put(&mut self, tree: u32, key: &[u8], value: &[u8]) {
        self.batch.put_copy(tree, key, value);
    }

    fn put_stored(&mut self, tree: u32, key: &[u8], at: ValueRef) {
        self.batch.put_stored(tree, key, at);
    }

    fn delete(&mut self, tree: u32, key: &[u8]) {
        self.batch.delete(tree, key);
    }

    fn end_commit(&mut self) {
        self.table.apply(self.commit_no, &mut self.batch);
    }
}
