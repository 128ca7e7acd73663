//! A leaf of the table: a few entries in two allocations, so that copying it is two copies of memory.
//!
//! `slots` ascend by key; `heap` holds keys and short values in the order in which they came. What an entry leaves
//! behind when it is replaced is dead, and swept out when it is more than what lives.

use std::cmp::Ordering;

use bytes::Bytes;

use super::{MemEntry, MemValue};
use crate::btree::ValueRef;
use crate::pager::PageRef;

/// Entries at most. More make copies dearer, fewer make the tree deeper.
pub(super) const SLOTS_MAX: usize = 24;
/// Live heap bytes from which on a leaf is split, if it has two entries.
const HEAP_BYTES_MAX: usize = 4096;
/// Values from this length on are not in the heap.
pub(super) const BIG_VALUE_BYTES_MIN: usize = 512;
const STORED_BYTES: usize = 25;

#[derive(Clone, Default)]
pub(super) struct Leaf {
    slots: Vec<Slot>,
    heap: Vec<u8>,
    big: Vec<Bytes>,
    big_bytes: usize,
    dead: usize,
}

#[derive(Clone, Copy)]
struct Slot {
    head: u64,
    commit_no: u64,
    at: u32,
    /// Bytes in the heap behind the key; for a big value its place in `big`.
    value: u32,
    key_len: u16,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Inline,
    Big,
    Stored,
    Deleted,
}

/// What is put at a key.
pub(super) enum New<'n> {
    Inline(&'n [u8]),
    Shared(Bytes),
    Stored(ValueRef),
    Deleted,
}

/// The first eight bytes of a key as a number: most comparisons end here. Zero padding keeps the order: where two
/// heads differ, the keys differ the same way.
pub(super) fn head_of(key: &[u8]) -> u64 {
    match key.first_chunk::<8>() {
        Some(first) => u64::from_be_bytes(*first),
        None => {
            let mut first = [0; 8];
            first[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(first)
        }
    }
}

impl Leaf {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns the bytes of memory that this leaf stands for.
    pub(super) fn bytes(&self) -> u64 {
        (size_of::<Self>() + size_of::<Slot>() * self.slots.len() + self.heap.len() + self.big_bytes) as u64
    }

    pub(super) fn find(&self, head: u64, key: &[u8]) -> Result<usize, usize> {
        self.slots.binary_search_by(|slot| self.compare(slot, head, key))
    }

    /// Returns how many entries are below `key`, or at most at it.
    pub(super) fn count_to(&self, head: u64, key: &[u8], with_equal: bool) -> usize {
        self.slots.partition_point(|slot| match self.compare(slot, head, key) {
            Ordering::Less => true,
            Ordering::Equal => with_equal,
            Ordering::Greater => false,
        })
    }

    fn compare(&self, slot: &Slot, head: u64, key: &[u8]) -> Ordering {
        slot.head.cmp(&head).then_with(|| self.key_of(slot).cmp(key))
    }

    fn key_of(&self, slot: &Slot) -> &[u8] {
        &self.heap[slot.at as usize..][..usize::from(slot.key_len)]
    }

    pub(super) fn key(&self, at: usize) -> &[u8] {
        self.key_of(&self.slots[at])
    }

    pub(super) fn entry(&self, at: usize) -> MemEntry<'_> {
        let slot = &self.slots[at];
        let behind = slot.at as usize + usize::from(slot.key_len);
        let value = match slot.kind {
            Kind::Inline => MemValue::Put(&self.heap[behind..behind + slot.value as usize]),
            Kind::Big => MemValue::Put(&self.big[slot.value as usize]),
            Kind::Stored => MemValue::PutStored(decode_stored(&self.heap[behind..behind + STORED_BYTES])),
            Kind::Deleted => MemValue::Deleted,
        };
        let shared = (slot.kind == Kind::Big).then(|| &self.big[slot.value as usize]);
        MemEntry { value, commit_no: slot.commit_no, shared }
    }

    /// Puts an entry; returns the stored value that it replaced, if it replaced one.
    pub(super) fn put(&mut self, head: u64, key: &[u8], new: New<'_>, commit_no: u64) -> Put {
        let found = self.find(head, key);
        let mut stored = None;
        let at = match found {
            Ok(at) => {
                stored = self.drop_value(at);
                at
            }
            Err(at) => {
                let slot = Slot {
                    head,
                    commit_no,
                    at: self.heap.len() as u32,
                    value: 0,
                    key_len: key.len() as u16,
                    kind: Kind::Deleted,
                };
                self.slots.insert(at, slot);
                self.heap.extend_from_slice(key);
                at
            }
        };
        self.set_value(at, found.is_ok(), new, commit_no);
        if self.dead > 256 && self.dead * 2 > self.heap.len() {
            self.sweep();
        }
        Put { is_new: found.is_err(), stored }
    }

    /// Leaves an entry without a value, as a deletion.
    fn drop_value(&mut self, at: usize) -> Option<ValueRef> {
        let stored = match self.entry(at).value {
            MemValue::PutStored(stored) => Some(stored),
            _ => None,
        };
        let slot = &mut self.slots[at];
        match slot.kind {
            Kind::Inline => self.dead += slot.value as usize,
            Kind::Stored => self.dead += STORED_BYTES,
            Kind::Big => {
                let gone = std::mem::take(&mut self.big[slot.value as usize]);
                self.big_bytes -= gone.len();
            }
            Kind::Deleted => {}
        }
        slot.kind = Kind::Deleted;
        slot.value = 0;
        stored
    }

    fn set_value(&mut self, at: usize, replaces: bool, new: New<'_>, commit_no: u64) {
        let slot = &mut self.slots[at];
        slot.commit_no = commit_no;
        let key_len = usize::from(slot.key_len);
        let in_heap = match &new {
            New::Inline(value) if value.len() < BIG_VALUE_BYTES_MIN => Some(value.len()),
            New::Stored(_) => Some(STORED_BYTES),
            _ => None,
        };
        // A value stands behind its key: one that is replaced takes its key along, to the heap's end.
        if replaces && in_heap.is_some_and(|len| len > 0) {
            let from = slot.at as usize;
            slot.at = self.heap.len() as u32;
            self.heap.extend_from_within(from..from + key_len);
            self.dead += key_len;
        }
        match new {
            New::Inline(value) if in_heap.is_some() => {
                self.heap.extend_from_slice(value);
                (slot.kind, slot.value) = (Kind::Inline, value.len() as u32);
            }
            New::Inline(value) => self.set_big(at, Bytes::copy_from_slice(value)),
            New::Shared(value) => {
                debug_assert!(!value.is_empty(), "an empty place in `big` is a free one");
                self.set_big(at, value);
            }
            New::Stored(stored) => {
                self.heap.extend_from_slice(&encode_stored(&stored));
                (slot.kind, slot.value) = (Kind::Stored, STORED_BYTES as u32);
            }
            New::Deleted => {}
        }
    }

    fn set_big(&mut self, at: usize, value: Bytes) {
        self.big_bytes += value.len();
        let place = match self.big.iter().position(Bytes::is_empty) {
            Some(place) => {
                self.big[place] = value;
                place
            }
            None => {
                self.big.push(value);
                self.big.len() - 1
            }
        };
        let slot = &mut self.slots[at];
        (slot.kind, slot.value) = (Kind::Big, place as u32);
    }

    /// Writes the heap anew, without what is dead.
    fn sweep(&mut self) {
        let mut heap = Vec::with_capacity(self.heap.len() - self.dead);
        for slot in &mut self.slots {
            let len = usize::from(slot.key_len) + slot.heap_value_len();
            let from = slot.at as usize;
            slot.at = heap.len() as u32;
            heap.extend_from_slice(&self.heap[from..from + len]);
        }
        self.heap = heap;
        self.dead = 0;
    }

    pub(super) fn is_too_large(&self) -> bool {
        self.slots.len() > SLOTS_MAX || (self.slots.len() > 1 && self.heap.len() - self.dead > HEAP_BYTES_MAX)
    }

    /// Cuts off the right part. Behind an insert at the very end only that one goes, so that ascending keys leave
    /// full leaves.
    pub(super) fn split(&mut self, at_end: bool) -> Self {
        let middle = if at_end { self.slots.len() - 1 } else { self.slots.len() / 2 };
        let mut right = Self::default();
        for mut slot in self.slots.split_off(middle) {
            let len = usize::from(slot.key_len) + slot.heap_value_len();
            let from = slot.at as usize;
            slot.at = right.heap.len() as u32;
            right.heap.extend_from_slice(&self.heap[from..from + len]);
            self.dead += len;
            if slot.kind == Kind::Big {
                let value = std::mem::take(&mut self.big[slot.value as usize]);
                self.big_bytes -= value.len();
                right.big_bytes += value.len();
                slot.value = right.big.len() as u32;
                right.big.push(value);
            }
            right.slots.push(slot);
        }
        if self.big_bytes == 0 {
            self.big.clear();
        }
        self.sweep();
        right
    }
}

/// What `put` did.
pub(super) struct Put {
    pub(super) is_new: bool,
    pub(super) stored: Option<ValueRef>,
}

impl Slot {
    fn heap_value_len(&self) -> usize {
        match self.kind {
            Kind::Inline => self.value as usize,
            Kind::Stored => STORED_BYTES,
            Kind::Big | Kind::Deleted => 0,
        }
    }
}

fn encode_stored(stored: &ValueRef) -> [u8; STORED_BYTES] {
    let mut bytes = [0; STORED_BYTES];
    bytes[..8].copy_from_slice(&stored.len.to_le_bytes());
    bytes[8] = stored.height;
    bytes[9..17].copy_from_slice(&stored.page.no.to_le_bytes());
    bytes[17..].copy_from_slice(&stored.page.proof.to_le_bytes());
    bytes
}

fn decode_stored(bytes: &[u8]) -> ValueRef {
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    ValueRef { len: number(0), height: bytes[8], page: PageRef { no: number(9), proof: number(17) } }
}
