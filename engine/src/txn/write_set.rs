//! What a transaction will change: the newest effect per key, in the order in which the log wants it.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::ahead::Stored;
use crate::btree::{EditValue, Edits};
use crate::checkpoint::TreesOfEdits;
use crate::error::WriteError;
use crate::limits::{
    KEY_BYTES_MAX, TRANSACTION_BYTES_MAX, TRANSACTION_ENTRY_BYTES, TRANSACTION_MEMORY_MAX, VALUE_BYTES_MAX,
};
use crate::log::redo::SPAN_BYTES_MIN;
use crate::memtable::head_of;
use crate::pager::PageError;
use crate::txn::CATALOGUE;
use crate::txn::record::Record;

/// Room that short records share.
const ROOM_BYTES: usize = 4096;
/// Records up to this length share room. A record keeps the room alive that it is in, so longer ones have their own.
const SHARING_BYTES_MAX: usize = 512;
/// Room for short records may have so many bytes beside twice those that are in use, until they are moved together.
const ROOM_BYTES_SPARE: usize = 1 << 20;
/// What an entry takes in the table beside its key and value: its place in a leaf that is half full, or more.
const TABLE_ENTRY_BYTES: usize = 64;

/// A record ordered by its key alone.
pub(crate) struct Keyed {
    /// Most comparisons end here.
    head: u64,
    pub(crate) record: Record,
}

pub(crate) enum Effect {
    /// `ends` cut the value into the pieces it was given in; empty when it was given whole.
    Put {
        ends: Box<[u32]>,
    },
    /// The record has no value: it lies in pages already.
    PutStored(Arc<Stored>),
    Delete,
}

pub(crate) type TreeWrites = BTreeMap<Keyed, Effect>;

#[derive(Default)]
pub(crate) struct WriteSet {
    /// By number: most transactions write to one or two.
    pub(crate) trees: Vec<(u32, TreeWrites)>,
    rooms: Rooms,
    bytes: usize,
    /// How many keys there are.
    keys: usize,
    has_pieces: bool,
    /// A value was ever written ahead.
    has_stored: bool,
    /// What writes replaced, oldest first; kept from the first savepoint on.
    journal: Option<Vec<Replaced>>,
    /// Savepoints that are not gone: their numbers, and how long the journal was.
    marks: Vec<(u64, usize)>,
    /// How many savepoints there ever were.
    marks_made: u64,
    /// Bytes of keys and values that the journal keeps.
    journal_bytes: usize,
}

/// Room that short records share. What is in a room stays until nothing of it is in use.
#[derive(Default)]
struct Rooms {
    /// What is left of the newest.
    room: BytesMut,
    /// Bytes of all of them.
    bytes: usize,
}

impl Rooms {
    fn grow(&mut self) {
        self.room = BytesMut::with_capacity(ROOM_BYTES);
        self.bytes += ROOM_BYTES;
    }

    /// Copies what is no longer than a room.
    fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if self.room.capacity() < bytes.len() {
            self.grow();
        }
        self.room.extend_from_slice(bytes);
        self.room.split().freeze()
    }

    /// Copies a record that shares room.
    fn moved(&mut self, record: &Record) -> Record {
        match record.len() <= SHARING_BYTES_MAX {
            true => Record::new(self.copy(record.bytes()), record.key().len()),
            false => record.clone(),
        }
    }
}

struct Replaced {
    tree: u32,
    key: Bytes,
    old: Option<(Record, Effect)>,
}

impl WriteSet {
    pub(crate) fn put(&mut self, tree: u32, key: &[u8], pieces: &[&[u8]]) -> Result<(), WriteError> {
        check_key(key)?;
        let value_len = pieces.iter().map(|p| p.len()).sum();
        if value_len > VALUE_BYTES_MAX {
            return Err(WriteError::ValueTooLong { given: value_len });
        }
        self.room_for(key.len() + value_len)?;
        let ends = ends_of(pieces);
        self.has_pieces |= !ends.is_empty();
        self.insert(tree, key, pieces, Effect::Put { ends });
        Ok(())
    }

    /// Puts a tree's name, for which there is always room: `limits::COMMIT_BYTES_MAX` counts them.
    pub(crate) fn put_name(&mut self, name: &str, tree: u32) {
        self.insert(CATALOGUE, name.as_bytes(), &[&tree.to_le_bytes()], Effect::Put { ends: Box::default() });
    }

    /// Puts what the store itself has to say: a few bytes, for which there is room like for names.
    pub(crate) fn put_own(&mut self, tree: u32, key: &[u8], value: &[u8]) {
        self.insert(tree, key, &[value], Effect::Put { ends: Box::default() });
    }

    /// Deletes what the store itself had to say.
    pub(crate) fn delete_own(&mut self, tree: u32, key: &[u8]) {
        self.insert(tree, key, &[], Effect::Delete);
    }

    /// Makes sure that a key can be put whose value is written ahead.
    pub(crate) fn check_stored(&self, key: &[u8]) -> Result<(), WriteError> {
        check_key(key)?;
        self.room_for(key.len())
    }

    pub(crate) fn put_stored(&mut self, tree: u32, key: &[u8], stored: Arc<Stored>) -> Result<(), WriteError> {
        self.check_stored(key)?;
        self.has_stored = true;
        self.insert(tree, key, &[], Effect::PutStored(stored));
        Ok(())
    }

    /// Returns the values that are written ahead.
    pub(crate) fn stored(&self) -> Vec<Arc<Stored>> {
        let stored = |(.., effect): (u32, &Record, &Effect)| match effect {
            Effect::PutStored(stored) => Some(Arc::clone(stored)),
            Effect::Put { .. } | Effect::Delete => None,
        };
        if self.has_stored { self.iter().filter_map(stored).collect() } else { Vec::new() }
    }

    /// Returns whether any value was ever written ahead.
    pub(crate) fn has_stored(&self) -> bool {
        self.has_stored
    }

    pub(crate) fn delete(&mut self, tree: u32, key: &[u8]) -> Result<(), WriteError> {
        check_key(key)?;
        self.room_for(key.len())?;
        self.insert(tree, key, &[], Effect::Delete);
        Ok(())
    }

    /// Makes sure that a tree is in the catalogue after the commit, though nothing is written to it.
    pub(crate) fn touch(&mut self, tree: u32) {
        self.tree_mut(tree);
    }

    /// Returns what this set says about a key, if anything.
    pub(crate) fn get(&self, tree: u32, key: &[u8]) -> Option<(&Record, &Effect)> {
        self.tree(tree)?.get_key_value(key).map(|(k, e)| (&k.record, e))
    }

    pub(crate) fn range(&self, tree: u32, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> WriteRange<'_> {
        // `BTreeMap::range` panics where the bounds cross; an empty range is what a cursor means by that.
        let crossed = match (lower, upper) {
            (Bound::Included(l), Bound::Included(u)) => l > u,
            (Bound::Included(l) | Bound::Excluded(l), Bound::Excluded(u))
            | (Bound::Excluded(l), Bound::Included(u)) => l >= u,
            _ => false,
        };
        self.tree(tree).filter(|_| !crossed).map(|writes| writes.range::<[u8], _>((lower, upper)))
    }

    /// Returns whether it changes nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.trees.iter().all(|(_, writes)| writes.is_empty())
    }

    pub(crate) fn effects(&self) -> usize {
        self.trees.iter().map(|(_, writes)| writes.len()).sum()
    }

    /// Returns whether any value was ever given in pieces.
    pub(crate) fn has_pieces(&self) -> bool {
        self.has_pieces
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns what the table will take for it, about.
    pub(crate) fn table_bytes(&self) -> u64 {
        (self.bytes + self.keys * TABLE_ENTRY_BYTES) as u64
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Record, &Effect)> {
        self.trees.iter().flat_map(|(tree, writes)| writes.iter().map(move |(k, e)| (*tree, &k.record, e)))
    }

    fn insert(&mut self, tree: u32, key: &[u8], value: &[&[u8]], effect: Effect) {
        let record = self.record(key, value);
        self.bytes += record.len();
        // A long record would stay for its key.
        let is_short = record.len() <= SHARING_BYTES_MAX;
        let journaled =
            self.journal.is_some().then(|| if is_short { record.key_bytes() } else { Bytes::copy_from_slice(key) });
        let writes = self.tree_mut(tree);
        let old = match writes.entry(Keyed::new(record)) {
            Entry::Vacant(place) => {
                place.insert(effect);
                self.keys += 1;
                None
            }
            Entry::Occupied(place) => {
                // A map keeps the key that it has, and with it the old record.
                let (Keyed { record: old, .. }, was) = place.remove_entry();
                self.bytes -= old.len();
                let record = self.record(key, value);
                self.tree_mut(tree).insert(Keyed::new(record), effect);
                Some((old, was))
            }
        };
        if let (Some(journal), Some(key)) = (&mut self.journal, journaled) {
            self.journal_bytes += key.len() + old.as_ref().map_or(0, |(record, _)| record.len());
            journal.push(Replaced { tree, key, old });
        }
    }

    fn record(&mut self, key: &[u8], value: &[&[u8]]) -> Record {
        let len = key.len() + value.iter().map(|part| part.len()).sum::<usize>();
        // The first one is the only one, as a rule.
        if len > SHARING_BYTES_MAX || self.bytes == 0 {
            return Record::from_parts(key, value);
        }
        if self.rooms.room.capacity() < len {
            self.make_room();
        }
        let room = &mut self.rooms.room;
        room.extend_from_slice(key);
        value.iter().for_each(|part| room.extend_from_slice(part));
        Record::new(room.split().freeze(), key.len())
    }

    /// Makes room for short records. Records that were replaced leave gaps in theirs: where those come to more than what
    /// is left, that is moved together, so that a counter that every row writes again does not keep a room for each.
    #[cold]
    fn make_room(&mut self) {
        if self.rooms.bytes > ROOM_BYTES_SPARE + 2 * (self.bytes + self.journal_bytes) {
            let mut rooms = Rooms::default();
            for (_, writes) in &mut self.trees {
                let moved = std::mem::take(writes).into_iter();
                *writes = moved
                    .map(|(Keyed { head, record }, effect)| (Keyed { head, record: rooms.moved(&record) }, effect))
                    .collect();
            }
            for Replaced { key, old, .. } in self.journal.iter_mut().flatten() {
                *key = rooms.copy(key);
                if let Some((record, _)) = old {
                    *record = rooms.moved(record);
                }
            }
            self.rooms = rooms;
        }
        self.rooms.grow();
    }

    /// Returns the number of a savepoint that is made here. The journal begins with the first one.
    pub(crate) fn mark(&mut self) -> u64 {
        let len = self.journal.get_or_insert_default().len();
        match self.marks.last() {
            // Nothing has happened since: it is the same one, so that there are no more of them than writes.
            Some(&(number, at)) if at == len => number,
            _ => {
                self.marks_made += 1;
                self.marks.push((self.marks_made, len));
                self.marks_made
            }
        }
    }

    /// Goes back to a savepoint; where it is gone, to the last one made before it that is not.
    pub(crate) fn roll_back_to(&mut self, number: u64) {
        let kept = self.marks.partition_point(|&(made, _)| made <= number);
        self.marks.truncate(kept);
        let mark = self.marks.last().map_or(0, |&(_, at)| at);
        let undone = self.journal.as_mut().map(|journal| journal.split_off(mark.min(journal.len())));
        for Replaced { tree, key, old } in undone.into_iter().flatten().rev() {
            self.journal_bytes -= key.len() + old.as_ref().map_or(0, |(record, _)| record.len());
            if let Some((new, _)) = self.tree_mut(tree).remove_entry(&key[..]) {
                self.bytes -= new.record.len();
                self.keys -= 1;
            }
            if let Some((record, effect)) = old {
                self.bytes += record.len();
                self.keys += 1;
                self.tree_mut(tree).insert(Keyed::new(record), effect);
            }
        }
    }

    fn tree(&self, tree: u32) -> Option<&TreeWrites> {
        let at = self.trees.binary_search_by_key(&tree, |(number, _)| *number).ok()?;
        Some(&self.trees[at].1)
    }

    fn tree_mut(&mut self, tree: u32) -> &mut TreeWrites {
        let at = self.trees.binary_search_by_key(&tree, |(number, _)| *number).unwrap_or_else(|at| {
            self.trees.insert(at, (tree, TreeWrites::new()));
            at
        });
        &mut self.trees[at].1
    }

    fn room_for(&self, more: usize) -> Result<(), WriteError> {
        let given = self.bytes + more;
        if given > TRANSACTION_BYTES_MAX {
            return Err(WriteError::TransactionTooLarge { given });
        }
        let entries = self.keys + self.journal.as_ref().map_or(0, Vec::len) + 1;
        let given = given + self.journal_bytes + entries * TRANSACTION_ENTRY_BYTES;
        if given > TRANSACTION_MEMORY_MAX { Err(WriteError::TransactionHoldsTooMuch { given }) } else { Ok(()) }
    }
}

/// Where to cut a value for the log. Pieces that are too short to be found again there belong to their neighbour: a cut
/// takes bytes in memory and in the log, and so there is no more than one for every 24 bytes.
fn ends_of(pieces: &[&[u8]]) -> Box<[u32]> {
    if pieces.len() < 2 {
        return Box::default();
    }
    let (mut ends, mut end, mut was_short) = (Vec::new(), 0, false);
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        end += piece.len() as u32;
        let is_short = piece.len() < SPAN_BYTES_MIN;
        if is_short && was_short {
            ends.pop();
        }
        ends.push(end);
        was_short = is_short;
    }
    if ends.len() < 2 { Box::default() } else { ends.into() }
}

/// A write set as edits of pages.
pub(crate) struct SetEdits<'s> {
    trees: std::slice::Iter<'s, (u32, TreeWrites)>,
    writes: std::collections::btree_map::Iter<'s, Keyed, Effect>,
    at: Option<(&'s Keyed, &'s Effect)>,
}

impl<'s> SetEdits<'s> {
    pub(crate) fn new(set: &'s WriteSet) -> Self {
        Self { trees: set.trees.iter(), writes: Default::default(), at: None }
    }
}

impl Edits for SetEdits<'_> {
    fn peek(&self) -> Option<(&[u8], EditValue<'_>)> {
        self.at.map(|(Keyed { record, .. }, effect)| match effect {
            Effect::Put { .. } => (record.key(), EditValue::Put(record.value())),
            Effect::PutStored(stored) => (record.key(), EditValue::PutStored(stored.at)),
            Effect::Delete => (record.key(), EditValue::Delete),
        })
    }

    fn advance(&mut self) -> Result<(), PageError> {
        self.at = self.writes.next();
        Ok(())
    }
}

impl TreesOfEdits for SetEdits<'_> {
    fn next_tree(&mut self) -> Option<u32> {
        let (tree, writes) = self.trees.find(|(_, writes)| !writes.is_empty())?;
        self.writes = writes.iter();
        self.at = self.writes.next();
        Some(*tree)
    }
}

pub(crate) type WriteRange<'a> = Option<std::collections::btree_map::Range<'a, Keyed, Effect>>;

fn check_key(key: &[u8]) -> Result<(), WriteError> {
    if key.len() > KEY_BYTES_MAX { Err(WriteError::KeyTooLong { given: key.len() }) } else { Ok(()) }
}

impl Keyed {
    fn new(record: Record) -> Self {
        Self { head: head_of(record.key()), record }
    }
}

impl Borrow<[u8]> for Keyed {
    fn borrow(&self) -> &[u8] {
        self.record.key()
    }
}

impl PartialEq for Keyed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Keyed {}

impl PartialOrd for Keyed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Keyed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.head.cmp(&other.head).then_with(|| self.record.key().cmp(other.record.key()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of the rooms that are alive: those that a record or the newest room is in.
    fn alive(set: &WriteSet) -> usize {
        let journal = set.journal.iter().flatten();
        let kept =
            journal.flat_map(|r| [Some(r.key.clone()), r.old.as_ref().map(|(record, _)| record.bytes().clone())]);
        let records = set.iter().map(|(_, record, _)| record.bytes().clone()).chain(kept.flatten());
        let rooms: std::collections::BTreeSet<usize> = records
            .filter(|bytes| bytes.len() <= SHARING_BYTES_MAX)
            .map(|bytes| bytes.as_ptr() as usize / ROOM_BYTES)
            .collect();
        // A room lies in two such pieces of the address space, as a rule.
        rooms.len() * ROOM_BYTES / 2
    }

    /// A row, and a sum over all of them, which is written again with each.
    #[test]
    fn what_a_transaction_replaced_keeps_little_memory() {
        for marks in [false, true] {
            let mut set = WriteSet::default();
            for n in 0..20_000_u32 {
                set.put(1, &n.to_be_bytes(), &[b"row"]).unwrap();
                if marks && n % 1_000 == 0 {
                    set.mark();
                }
                for _ in 0..4 {
                    set.put(2, b"sum", &[&[n as u8; 480]]).unwrap();
                }
            }
            let used = set.bytes + set.journal_bytes;
            assert!(set.rooms.bytes <= 2 * used + ROOM_BYTES_SPARE + ROOM_BYTES, "{} of {used}", set.rooms.bytes);
            assert!(alive(&set) <= 2 * used + ROOM_BYTES_SPARE, "{} of {used}", alive(&set));
            for n in 0..20_000_u32 {
                assert_eq!(set.get(1, &n.to_be_bytes()).unwrap().0.value(), b"row");
            }
            assert_eq!(set.get(2, b"sum").unwrap().0.value(), [(19_999_u32 % 256) as u8; 480]);
            if marks {
                set.roll_back_to(1);
                assert_eq!(set.effects(), 1, "the first row was before the mark");
                assert_eq!((set.bytes, set.journal_bytes), (7, 0));
            }
        }
    }

    #[test]
    fn a_savepoint_keeps_no_long_value_for_its_key() {
        let mut set = WriteSet::default();
        set.mark();
        set.put(1, b"k", &[&[1; 1 << 20]]).unwrap();
        let journal = set.journal.as_ref().unwrap();
        let record = set.get(1, b"k").unwrap().0;
        assert_eq!(journal[0].key, record.key());
        let (key, record) = (journal[0].key.as_ptr() as usize, record.bytes().as_ptr() as usize);
        assert!(key.abs_diff(record) >= 1 << 20, "it would stay as long as the savepoint");
        assert!(journal[0].key.is_unique(), "nobody else has a part of it");
    }
}
