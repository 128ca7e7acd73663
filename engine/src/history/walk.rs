//! Keys and values in order, as they were at a commit.
//!
//! A walk is one over the present of the layer in which the commit lies, and one over the twin of that layer. Of each key
//! that the twin knows, the first version that was superseded after the commit counts; of all others, the present.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::key::{decode_key, split};
use super::view::{Top, group_key, is_same_key};
use crate::btree::{CellValue, TreeCursor, ValueRef};
use crate::error::ReadError;
use crate::memtable::{Mem, MemCursor, MemValue};
use crate::pager::PageError;
use crate::snapshot::{Layers, Value, Walk};
use crate::txn::view::PastHeld;

/// Entries of one key that are stepped over, before the rest of them are jumped over.
const STEPS: usize = 4;

/// Keys and values of one tree as they were at a commit, in order, from either end. Keeps its view alive. After an error
/// it ends.
pub struct PastCursor {
    held: Arc<PastHeld>,
    tree: u32,
    twin: u32,
    lower: Bound<Vec<u8>>,
    upper: Bound<Vec<u8>>,
    /// The walk of each end, and the version of the layers that it is in.
    front: Option<(PastWalk, u64)>,
    back: Option<(PastWalk, u64)>,
    done: bool,
}

impl PastCursor {
    pub(super) fn new(
        held: &Arc<PastHeld>,
        (tree, twin): (u32, u32),
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
    ) -> Self {
        let (lower, upper) = (lower.map(<[u8]>::to_vec), upper.map(<[u8]>::to_vec));
        Self { held: Arc::clone(held), tree, twin, lower, upper, front: None, back: None, done: false }
    }

    fn step(&mut self, backward: bool) -> Result<Option<(Bytes, Bytes)>, ReadError> {
        if self.done {
            return Ok(None);
        }
        let Self { held, tree, twin, lower, upper, front, back, done } = self;
        let commit_no = held.commit_no;
        let (mine, near, far) = if backward { (back, upper, lower) } else { (front, lower, upper) };
        let found = held.held.with_version(|layers, now| {
            let walk = match mine {
                Some((walk, version)) if *version == now => {
                    walk.advance(layers)?;
                    walk
                }
                mine => {
                    let from = near.as_ref().map(Vec::as_slice);
                    let walk = PastWalk::new(layers, (*tree, *twin), commit_no, from, backward)?;
                    &mut mine.insert((walk, now)).0
                }
            };
            let Some(key) = walk.key().filter(|key| is_inside(key, far, backward)) else { return Ok(None) };
            let key = Bytes::copy_from_slice(key);
            Ok(Some((key, walk.value_bytes(layers)?)))
        });
        *done = !matches!(found, Ok(Some(_)));
        if let Ok(Some((key, _))) = &found {
            // What one end has given is out of reach of both.
            *near = Bound::Excluded(key.to_vec());
        }
        found
    }
}

fn is_inside(key: &[u8], limit: &Bound<Vec<u8>>, backward: bool) -> bool {
    match (limit, backward) {
        (Bound::Unbounded, _) => true,
        (Bound::Included(end), false) => *key <= **end,
        (Bound::Excluded(end), false) => *key < **end,
        (Bound::Included(end), true) => *key >= **end,
        (Bound::Excluded(end), true) => *key > **end,
    }
}

impl Iterator for PastCursor {
    type Item = Result<(Bytes, Bytes), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(false).transpose()
    }
}

impl DoubleEndedIterator for PastCursor {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(true).transpose()
    }
}

impl std::iter::FusedIterator for PastCursor {}

impl std::fmt::Debug for PastCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PastCursor").field("commit_no", &self.held.commit_no).finish_non_exhaustive()
    }
}

/// A walk in one direction.
struct PastWalk {
    backward: bool,
    commit_no: u64,
    tree: u32,
    present: Walk,
    twin: TwinCursor,
    /// The key of the twin's version that counts, where the twin's cursor stands on one.
    past: Option<Vec<u8>>,
    at: At,
}

enum At {
    End,
    Present,
    Past(PastValue),
}

/// The value of a version.
enum PastValue {
    Inline(Bytes),
    Stored(ValueRef),
}

impl PastWalk {
    fn new(
        layers: &Layers,
        (tree, twin): (u32, u32),
        commit_no: u64,
        from: Bound<&[u8]>,
        backward: bool,
    ) -> Result<Self, PageError> {
        let root = Arc::clone(&layers.root);
        let (shown, twin) = match layers.top_of(commit_no) {
            Top::Pages => {
                let twin = TwinCursor::Pages(TreeCursor::new(root.tree(twin)));
                (Layers::of_pages(root, 0, None), twin)
            }
            Top::Table(table, Some(_)) => (layers.clone(), TwinCursor::Table(table.cursor(twin))),
            Top::Table(table, None) => {
                let active = layers.frozen.as_ref().unwrap_or(&layers.active);
                let twin = TwinCursor::Table(table.cursor(twin));
                (Layers { root, frozen: None, active: Arc::clone(active) }, twin)
            }
        };
        let present = Walk::new(&shown, tree, from, backward)?;
        let mut walk = Self { backward, commit_no, tree, present, twin, past: None, at: At::End };
        walk.seek(layers, from)?;
        walk.find_past(layers)?;
        walk.settle(layers)?;
        Ok(walk)
    }

    fn seek(&mut self, layers: &Layers, from: Bound<&[u8]>) -> Result<(), PageError> {
        let behind = |key: &[u8]| {
            let mut group = group_key(key);
            group.extend_from_slice(&[0xff; 8]);
            group
        };
        let (key, excluded) = match (from, self.backward) {
            (Bound::Unbounded, _) => return self.twin.seek(layers, Bound::Unbounded, self.backward),
            (Bound::Included(key), false) => (group_key(key), false),
            (Bound::Excluded(key), false) => (behind(key), true),
            (Bound::Included(key), true) => (behind(key), false),
            (Bound::Excluded(key), true) => (group_key(key), true),
        };
        let bound = if excluded { Bound::Excluded(&key[..]) } else { Bound::Included(&key[..]) };
        self.twin.seek(layers, bound, self.backward)
    }

    /// From an entry of any version, goes to the version of that key, or of the next one, that counts.
    fn find_past(&mut self, layers: &Layers) -> Result<(), PageError> {
        self.past = None;
        let mut steps = 0;
        while let Some(at) = self.twin.key() {
            let broken = || self.twin.broken(layers);
            let (group, until, _) = split(at).ok_or_else(broken)?;
            let is_after = until > self.commit_no;
            if !is_after && !self.backward {
                // The next version of the key may count; those that do not are stepped over, or jumped over.
                if steps < STEPS {
                    steps += 1;
                    self.twin.step(layers, false)?;
                } else {
                    let from = first_after(group, self.commit_no);
                    self.jump(layers, Bound::Included(&from), false)?;
                    steps = 0;
                }
                continue;
            }
            if !is_after {
                // The last version of the key does not count: the present does.
                let group = group.to_vec();
                self.jump(layers, Bound::Excluded(&group), true)?;
                continue;
            }
            let key = decode_key(group).ok_or_else(broken)?;
            if self.backward {
                let from = first_after(group, self.commit_no);
                self.twin.seek(layers, Bound::Included(&from), false)?;
                if !self.twin.key().is_some_and(|found| is_same_key(found, &from)) {
                    return Err(self.twin.broken(layers));
                }
            }
            self.past = Some(key);
            return Ok(());
        }
        Ok(())
    }

    /// Leaves the key that counted.
    fn leave_past(&mut self, layers: &Layers) -> Result<(), PageError> {
        let Some(at) = self.twin.key().map(<[u8]>::to_vec) else { return Ok(()) };
        if self.backward {
            let group = &at[..at.len() - 8];
            self.jump(layers, Bound::Excluded(group), true)?;
            return self.find_past(layers);
        }
        for _ in 0..STEPS {
            self.twin.step(layers, false)?;
            if self.twin.key().is_none_or(|key| !is_same_key(key, &at)) {
                return self.find_past(layers);
            }
        }
        let behind = [&at[..at.len() - 8], &[0xff; 8]].concat();
        self.jump(layers, Bound::Excluded(&behind), false)?;
        self.find_past(layers)
    }

    /// Goes on. Keys of a page that are out of order must not lead back, or the walk would have no end.
    fn jump(&mut self, layers: &Layers, bound: Bound<&[u8]>, backward: bool) -> Result<(), PageError> {
        self.twin.seek(layers, bound, backward)?;
        let goes_on = match (bound, self.twin.key()) {
            (Bound::Included(from) | Bound::Excluded(from), Some(key)) if backward => key <= from,
            (Bound::Included(from) | Bound::Excluded(from), Some(key)) => key >= from,
            (Bound::Unbounded, _) | (_, None) => true,
        };
        if goes_on { Ok(()) } else { Err(self.twin.broken(layers)) }
    }

    fn advance(&mut self, layers: &Layers) -> Result<(), PageError> {
        match self.at {
            At::End => Ok(()),
            At::Present => {
                self.present.advance(layers)?;
                self.settle(layers)
            }
            At::Past(_) => {
                self.pass_past(layers)?;
                self.settle(layers)
            }
        }
    }

    /// Leaves the twin's key, and the present's where it is the same.
    fn pass_past(&mut self, layers: &Layers) -> Result<(), PageError> {
        if self.present.key() == self.past.as_deref() {
            self.present.advance(layers)?;
        }
        self.leave_past(layers)
    }

    /// Finds the nearest key that had a value.
    fn settle(&mut self, layers: &Layers) -> Result<(), PageError> {
        loop {
            let Some(past) = self.past.as_deref() else {
                self.at = if self.present.key().is_some() { At::Present } else { At::End };
                return Ok(());
            };
            if let Some(present) = self.present.key()
                && (if self.backward { present > past } else { present < past })
            {
                self.at = At::Present;
                return Ok(());
            }
            if let Some(value) = self.past_value(layers, past)? {
                self.at = At::Past(value);
                return Ok(());
            }
            self.pass_past(layers)?;
        }
    }

    fn past_value(&self, layers: &Layers, key: &[u8]) -> Result<Option<PastValue>, PageError> {
        match &self.twin {
            TwinCursor::Pages(cursor) => Ok(cursor.entry().and_then(|(twin_key, value)| {
                let (.., is_value) = split(twin_key)?;
                is_value.then(|| match value {
                    CellValue::Inline(_) => PastValue::Inline(cursor.value_bytes()),
                    CellValue::Stored(at) => PastValue::Stored(at),
                })
            })),
            TwinCursor::Table(cursor) => match cursor.entry().and_then(|(_, entry)| entry.past()) {
                Some(past) => Ok(match past.value() {
                    MemValue::Put(_) => Some(PastValue::Inline(past.value_bytes())),
                    MemValue::PutStored(at) => Some(PastValue::Stored(at)),
                    MemValue::Deleted => None,
                }),
                None => {
                    let below: Option<&Mem> = match layers.top_of(self.commit_no) {
                        Top::Table(_, below) => below,
                        Top::Pages => None,
                    };
                    layers.below(below, self.tree, key, |value| match value {
                        Value::Inline(bytes) => PastValue::Inline(Bytes::copy_from_slice(bytes)),
                        Value::Stored(at) => PastValue::Stored(at),
                    })
                }
            },
        }
    }

    fn key(&self) -> Option<&[u8]> {
        match self.at {
            At::End => None,
            At::Present => self.present.key(),
            At::Past(_) => self.past.as_deref(),
        }
    }

    fn value_bytes(&self, layers: &Layers) -> Result<Bytes, ReadError> {
        match &self.at {
            At::End => Ok(Bytes::new()),
            At::Present => self.present.value_bytes(layers),
            At::Past(PastValue::Inline(bytes)) => Ok(bytes.clone()),
            At::Past(PastValue::Stored(at)) => layers.load(at),
        }
    }
}

/// Returns where the versions of a key begin that were superseded after a commit.
fn first_after(group: &[u8], commit_no: u64) -> Vec<u8> {
    [group, &((commit_no + 1) << 1).to_be_bytes()].concat()
}

/// A cursor over a twin, in a table or in pages.
enum TwinCursor {
    Table(MemCursor),
    Pages(TreeCursor),
}

impl TwinCursor {
    fn key(&self) -> Option<&[u8]> {
        match self {
            Self::Table(cursor) => cursor.entry().map(|(key, _)| key),
            Self::Pages(cursor) => cursor.entry().map(|(key, _)| key),
        }
    }

    fn seek(&mut self, layers: &Layers, bound: Bound<&[u8]>, backward: bool) -> Result<(), PageError> {
        match (self, backward) {
            (Self::Table(cursor), false) => cursor.seek(bound),
            (Self::Table(cursor), true) => cursor.seek_back(bound),
            (Self::Pages(cursor), false) => return cursor.seek(&*layers.root, bound),
            (Self::Pages(cursor), true) => return cursor.seek_back(&*layers.root, bound),
        }
        Ok(())
    }

    fn step(&mut self, layers: &Layers, backward: bool) -> Result<(), PageError> {
        match (self, backward) {
            (Self::Table(cursor), false) => cursor.next(),
            (Self::Table(cursor), true) => cursor.prev(),
            (Self::Pages(cursor), false) => return cursor.next(&*layers.root),
            (Self::Pages(cursor), true) => return cursor.prev(&*layers.root),
        }
        Ok(())
    }

    fn broken(&self, layers: &Layers) -> PageError {
        PageError::node(0, layers.root.pages.page_bytes(), "a twin's key is a key and a commit")
    }
}
