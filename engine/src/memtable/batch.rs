//! What one commit puts into a table, before it has its place there.

use bytes::Bytes;

use super::leaf::{Kind, Version, head_of};
use super::segments::Place;
use super::{Mem, OWN_SEGMENT_BYTES_MIN, encode_stored};
use crate::btree::ValueRef;
use crate::log::redo::Effects;

/// A batch that is used again keeps room for so many effects.
const ITEMS_KEPT: usize = 1024;

/// The effects of one commit: each key once.
#[derive(Default)]
pub(crate) struct Batch {
    /// Records one behind the other: the first segment, if there are any.
    pub(super) bytes: Vec<u8>,
    /// Records that are segments of their own.
    pub(super) own: Vec<Bytes>,
    pub(super) items: Vec<Item>,
    /// Bytes of stored values.
    pub(super) stored_bytes: u64,
}

pub(super) struct Item {
    pub(super) tree: u32,
    /// Its segment is counted from the batch's first.
    pub(super) version: Version,
}

impl Batch {
    /// Makes room for this many effects, which have about this many bytes of keys and values.
    pub(crate) fn reserve(&mut self, effects: usize, bytes: usize) {
        self.bytes.reserve_exact(bytes);
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
        let place = Place { segment: 0, at: self.bytes.len() as u32 };
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.item(tree, key, value.len(), place, kind);
    }

    fn own(&mut self, tree: u32, record: Bytes, key_len: usize) {
        let place = Place { segment: 1 + self.own.len() as u32, at: 0 };
        self.item(tree, &record[..key_len], record.len() - key_len, place, Kind::Inline);
        self.own.push(record);
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
