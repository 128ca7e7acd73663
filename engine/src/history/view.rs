//! Reading as of a commit.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;

use super::key::{push_key, seek_key, split};
use super::walk::PastCursor;
use crate::btree::{self, Found, TreeCursor};
use crate::error::ReadError;
use crate::memtable::{Mem, MemEntry, MemValue};
use crate::pager::PageError;
use crate::snapshot::{Layers, Part, Value};
use crate::store::Store;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::txn::view::{PastHeld, prefix_end};
use crate::txn::{TreeId, ValueReader};

/// The store as it was at an earlier commit: of trees whose history is kept.
///
/// It holds what a `ReadView` of the newest commit holds, and ends like one when that is too much.
pub struct PastView {
    held: Arc<PastHeld>,
    /// Tree and twin that were found to reach back far enough: what a view holds does not change.
    checked: AtomicU64,
}

/// A moment of a store's life: one of its commits, or a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Right after this commit.
    Commit(u64),
    /// At this time, in milliseconds since 1970: after the newest commit that is known to be made by then. Times are kept
    /// once a second.
    Time(u64),
}

/// A version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyVersion {
    /// The commit that wrote it; `None` where that was before history, or before the oldest commit that is kept.
    pub from: Option<u64>,
    /// The commit that took its place; `None` for the newest version.
    pub until: Option<u64>,
    /// The value; `None`: there was none.
    pub value: Option<Bytes>,
}

impl Store {
    /// Returns the store as it was at a commit: exactly what a view of that commit showed. Of a tree whose history is not
    /// kept, or not from that commit on, reads say so (`ReadError::HistoryOff`, `ReadError::HistoryGone`). See
    /// `Store::set_history`.
    pub fn as_of(&self, commit_no: u64) -> Result<PastView, ReadError> {
        let held = self.inner.register_past_reader(commit_no);
        let newest = held.held.commit_no;
        if commit_no > newest {
            return Err(ReadError::NoSuchCommit { newest });
        }
        Ok(PastView { held: Arc::new(held), checked: AtomicU64::new(0) })
    }

    /// Returns the store as it was at a time, in milliseconds since 1970: at the newest commit known to be made by then.
    /// Times are kept once a second, of every store with a tree whose history is kept. What a clock says that was set back
    /// counts for times from then to now; when it is where it was, it had been behind, and those commits count as made when
    /// it came back.
    pub fn as_of_time(&self, wall_ms: u64) -> Result<PastView, ReadError> {
        let now = self.inner.env.clock.wall_ms();
        let commit_no = self.read().held().with(|layers| {
            let oldest = layers.active.twins().and_then(|twins| twins.pairs().filter_map(|(_, twin)| twin.since).min());
            let oldest = oldest.ok_or(ReadError::HistoryOff { tree: None })?;
            layers.commit_at(wall_ms, now)?.ok_or(ReadError::HistoryGone { oldest })
        })?;
        self.as_of(commit_no)
    }

    /// Returns when a commit was made, in milliseconds since 1970 and to a second; `None` where that is not known.
    pub fn time_of(&self, commit_no: u64) -> Result<Option<u64>, ReadError> {
        self.read().held().with(|layers| layers.time_of(commit_no))
    }

    /// Returns the versions of a key that are kept, the newest one first.
    pub fn versions(&self, tree: TreeId, key: &[u8]) -> Result<Versions, ReadError> {
        let mut oldest = self.read().commit_no();
        loop {
            // Of the oldest one: what its view holds stays readable, whatever is purged meanwhile.
            let view = self.as_of(oldest)?;
            let reach = view.reach(tree)?;
            if reach.oldest == oldest {
                return Ok(Versions {
                    next: Some((view.held.held.commit_no, None)),
                    key: key.to_vec(),
                    tree,
                    reach,
                    view,
                });
            }
            oldest = reach.oldest;
        }
    }
}

/// Versions of a key, the newest one first.
pub struct Versions {
    view: PastView,
    tree: TreeId,
    key: Vec<u8>,
    reach: Reach,
    /// The commit as of which the next one is there, and the one that took its place.
    next: Option<(u64, Option<u64>)>,
}

impl Iterator for Versions {
    type Item = Result<KeyVersion, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (at, until) = self.next.take()?;
        let Self { view, tree, key, reach, .. } = self;
        let found = view.held.held.with(|layers| {
            let value = layers.past_get(tree.0, reach.twin, at, key)?;
            Ok((value, layers.written(reach.twin, at, key)?))
        });
        match found {
            Ok((value, from)) => {
                let from = from.filter(|&from| from > reach.oldest);
                self.next = from.map(|from| (from - 1, Some(from)));
                Some(Ok(KeyVersion { from, until, value }))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

impl std::fmt::Debug for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Versions").field("tree", &self.tree).finish_non_exhaustive()
    }
}

/// How far back a tree's history reaches.
#[derive(Clone, Copy)]
pub(super) struct Reach {
    pub(super) twin: u32,
    /// The oldest commit whose state is kept.
    pub(super) oldest: u64,
}

impl PastView {
    /// Returns the number of the commit this view shows.
    pub fn commit_no(&self) -> u64 {
        self.held.commit_no
    }

    /// Returns the value of a key at that commit. A value of more than `limits::WHOLE_VALUE_BYTES_MAX` is an error: read
    /// it with `read_value`.
    pub fn get(&self, tree: TreeId, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        let twin = self.twin(tree)?;
        self.held.held.with(|layers| layers.past_get(tree.0, twin, self.held.commit_no, key))
    }

    /// Hands the value of a key to `see` where it lies, and returns what `see` does; see `ReadView::get_with`.
    pub fn get_with<R>(&self, tree: TreeId, key: &[u8], see: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, ReadError> {
        let twin = self.twin(tree)?;
        self.held.held.with(|layers| {
            let mut see = Some(see);
            let seen = layers.past_with(tree.0, twin, self.held.commit_no, key, |value| match value {
                Value::Inline(bytes) => Ok(see.take().map(|see| see(bytes))),
                Value::Stored(at) => Err(at),
            })?;
            match seen {
                None => Ok(None),
                Some(Ok(seen)) => Ok(seen),
                Some(Err(at)) => {
                    let bytes = layers.load(&at)?;
                    Ok(see.take().map(|see| see(&bytes)))
                }
            }
        })
    }

    /// Reads a part of a value into `out`; see `ReadView::read_value`.
    pub fn read_value(
        &self,
        tree: TreeId,
        key: &[u8],
        offset: u64,
        out: &mut [u8],
    ) -> Result<Option<usize>, ReadError> {
        let twin = self.twin(tree)?;
        self.held.held.with(|layers| {
            let see = |value: Value<'_>| Part::of(value, offset, out.len());
            let part = layers.past_with(tree.0, twin, self.held.commit_no, key, see)?;
            Ok(part.map(|part| part.read(&layers.root, offset, out)).transpose()?)
        })
    }

    /// Returns a reader of the value that a key had, from its start; see `ReadView::value_reader`.
    pub fn value_reader(&self, tree: TreeId, key: &[u8]) -> Result<Option<ValueReader>, ReadError> {
        let twin = self.twin(tree)?;
        let past = Some((twin, self.held.commit_no));
        let reader = ValueReader::of_past(&self.held.held, (tree.0, past), key)?;
        Ok(reader.map(|reader| reader.keeping(&self.held)))
    }

    /// Returns how long a key's value was.
    pub fn value_len(&self, tree: TreeId, key: &[u8]) -> Result<Option<u64>, ReadError> {
        let twin = self.twin(tree)?;
        self.held.held.with(|layers| Ok(layers.past_with(tree.0, twin, self.held.commit_no, key, |value| value.len())?))
    }

    /// Returns whether a key had a value.
    pub fn contains(&self, tree: TreeId, key: &[u8]) -> Result<bool, ReadError> {
        Ok(self.value_len(tree, key)?.is_some())
    }

    /// Walks the keys within bounds as they were, from either end.
    pub fn range(&self, tree: TreeId, bounds: impl RangeBounds<[u8]>) -> Result<PastCursor, ReadError> {
        let twin = self.twin(tree)?;
        Ok(PastCursor::new(&self.held, (tree.0, twin), bounds.start_bound(), bounds.end_bound()))
    }

    /// Walks the keys that begin with `prefix`.
    pub fn prefix(&self, tree: TreeId, prefix: &[u8]) -> Result<PastCursor, ReadError> {
        let end = prefix_end(prefix);
        self.range(tree, (Bound::Included(prefix), end.as_deref().map_or(Bound::Unbounded, Bound::Excluded)))
    }

    /// Returns the twin of a tree whose history reaches back to this view's commit.
    #[inline]
    fn twin(&self, tree: TreeId) -> Result<u32, ReadError> {
        let checked = self.checked.load(Ordering::Relaxed);
        if (checked >> 32) as u32 == tree.0 && checked != 0 {
            return Ok(checked as u32);
        }
        let Reach { twin, oldest } = self.reach(tree)?;
        if self.held.commit_no < oldest {
            return Err(ReadError::HistoryGone { oldest });
        }
        self.checked.store(u64::from(tree.0) << 32 | u64::from(twin), Ordering::Relaxed);
        Ok(twin)
    }

    fn reach(&self, tree: TreeId) -> Result<Reach, ReadError> {
        self.held.held.check_tree(tree)?;
        self.held.held.with(|layers| {
            let twin = layers.twin(tree.0).ok_or(ReadError::HistoryOff { tree: Some(tree) })?;
            let oldest = twin.since.unwrap_or(0).max(layers.twin_meta(twin.number)?.floor);
            Ok(Reach { twin: twin.number, oldest })
        })
    }
}

impl std::fmt::Debug for PastView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PastView").field("commit_no", &self.commit_no()).finish_non_exhaustive()
    }
}

/// The layer in which a commit lies; layers above it are of later commits, and what they supersede in it is in their
/// own twins, about which nobody asks.
pub(super) enum Top<'l> {
    /// This table over the other one and the pages.
    Table(&'l Mem, Option<&'l Mem>),
    Pages,
}

fn see_mem<R>(entry: &MemEntry<'_>, see: impl FnOnce(Value<'_>) -> R) -> Option<R> {
    match entry.value() {
        MemValue::Put(bytes) => Some(see(Value::Inline(bytes))),
        MemValue::PutStored(at) => Some(see(Value::Stored(at))),
        MemValue::Deleted => None,
    }
}

impl Layers {
    pub(super) fn top_of(&self, commit_no: u64) -> Top<'_> {
        match &self.frozen {
            Some(frozen) if commit_no >= frozen.commit_no => Top::Table(&self.active, Some(frozen)),
            Some(frozen) if commit_no >= self.root.commit_no => Top::Table(frozen, None),
            None if commit_no >= self.root.commit_no => Top::Table(&self.active, None),
            _ => Top::Pages,
        }
    }

    /// Hands the value that a key had at a commit to `see`.
    pub(crate) fn past_with<R>(
        &self,
        tree: u32,
        twin: u32,
        commit_no: u64,
        key: &[u8],
        see: impl FnOnce(Value<'_>) -> R,
    ) -> Result<Option<R>, PageError> {
        match self.top_of(commit_no) {
            Top::Pages => {
                let from = seek_key(key, commit_no);
                let found = btree::at_or_after(&*self.root, &self.root.tree(twin), &from, |[start, end]| {
                    is_of_key(&from, start, end)
                })?;
                match found {
                    Some((true, Found::Inline(value))) => Ok(Some(see(Value::Inline(&value)))),
                    Some((true, Found::Stored(at))) => Ok(Some(see(Value::Stored(at)))),
                    Some((false, _)) => Ok(None),
                    None => self.below(None, tree, key, see),
                }
            }
            Top::Table(table, below) => {
                let Some(entry) = table.get(tree, key) else { return self.below(below, tree, key, see) };
                if entry.commit_no() <= commit_no {
                    return Ok(see_mem(&entry, see));
                }
                let from = seek_key(key, commit_no);
                let mut cursor = table.cursor(twin);
                cursor.seek(Bound::Included(&*from));
                let past = cursor.entry().filter(|(found, _)| is_same_key(found, &from));
                match past.and_then(|(_, past)| past.past()) {
                    Some(past) => Ok(see_mem(&past, see)),
                    None => self.below(below, tree, key, see),
                }
            }
        }
    }

    /// The same of what lies below a table.
    pub(crate) fn below<R>(
        &self,
        below: Option<&Mem>,
        tree: u32,
        key: &[u8],
        see: impl FnOnce(Value<'_>) -> R,
    ) -> Result<Option<R>, PageError> {
        if let Some(entry) = below.and_then(|table| table.get(tree, key)) {
            return Ok(see_mem(&entry, see));
        }
        Ok(btree::get(&*self.root, &self.root.tree(tree), key)?.map(|found| match found {
            Found::Inline(value) => see(Value::Inline(&value)),
            Found::Stored(at) => see(Value::Stored(at)),
        }))
    }

    fn past_get(&self, tree: u32, twin: u32, commit_no: u64, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        let found = self.past_with(tree, twin, commit_no, key, |value| match value {
            Value::Inline(bytes) => Ok(Bytes::copy_from_slice(bytes)),
            Value::Stored(at) => Err(at),
        })?;
        match found {
            Some(Err(at)) => self.load(&at).map(Some),
            Some(Ok(bytes)) => Ok(Some(bytes)),
            None => Ok(None),
        }
    }

    /// Returns the last commit at or before this one that wrote a key, as far as twins know.
    fn written(&self, twin: u32, commit_no: u64, key: &[u8]) -> Result<Option<u64>, ReadError> {
        let upper = seek_key(key, commit_no);
        for table in [Some(&self.active), self.frozen.as_ref()].into_iter().flatten() {
            let mut cursor = table.cursor(twin);
            cursor.seek_back(Bound::Excluded(&*upper));
            if let Some((found, _)) = cursor.entry().filter(|(found, _)| is_same_key(found, &upper)) {
                return Ok(split(found).map(|(_, until, _)| until));
            }
        }
        let mut cursor = TreeCursor::new(self.root.tree(twin));
        cursor.seek_back(&*self.root, Bound::Excluded(&*upper))?;
        let found = cursor.entry().filter(|(found, _)| is_same_key(found, &upper));
        Ok(found.and_then(|(found, _)| split(found)).map(|(_, until, _)| until))
    }
}

/// Returns whether there was a value, if the key of a twin, in two pieces, is about the same key as this one.
fn is_of_key(one: &[u8], start: &[u8], end: &[u8]) -> Option<bool> {
    let group = one.len() - 8;
    if start.len() + end.len() != one.len() {
        return None;
    }
    // Where a page's common beginning reaches into the commit, it has all of the key.
    let (of_start, of_end) = one[..group].split_at(start.len().min(group));
    if *of_start != start[..of_start.len()] || *of_end != end[..of_end.len()] {
        return None;
    }
    end.last().or(start.last()).map(|last| last & 1 == 1)
}

/// Whether two keys of a twin are about the same key.
pub(super) fn is_same_key(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a[..a.len().saturating_sub(8)] == b[..b.len().saturating_sub(8)]
}

/// Returns the key, in the order of twins, alone.
pub(super) fn group_key(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    push_key(&mut out, key);
    out
}
