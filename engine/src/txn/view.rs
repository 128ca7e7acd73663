//! Reading at one commit.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::ReadError;
use crate::history::{LEDGER_NAME, decode_names_value};
use crate::snapshot::{Layers, Part, Value};
use crate::store::Inner;
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::txn::cursor::{Cursor, Source};
use crate::txn::value::ValueReader;
use crate::txn::{CATALOGUE, TreeId};

/// The store as it was at one commit; later commits do not change it. Taking one costs about as much as two
/// uncontended locks. It holds pages of the file, and for a short time a table in memory; see
/// `Options::snapshot_bytes_max` for how much an old one may hold.
///
/// A clone is a view of its own: give each thread one, and they share nothing that is written to.
pub struct ReadView {
    held: Arc<Held>,
}

/// What a view holds, and its place in the register of readers.
pub(crate) struct Held {
    inner: Arc<Inner>,
    pub(crate) commit_no: u64,
    pub(crate) since_ms: u64,
    pub(crate) slot: usize,
    layers: RwLock<HeldLayers>,
    /// The version of the layers, without the lock.
    version: AtomicU64,
    /// Keeps the root that it has: checkpoints do not move it to another one that shows the same.
    pub(crate) stays: bool,
}

struct HeldLayers {
    /// `None`: it was too old and too dear.
    layers: Option<Arc<Layers>>,
    /// Goes up by one when the layers are exchanged for others of the same content.
    version: u64,
}

impl Held {
    pub(crate) fn new(inner: &Arc<Inner>, layers: Option<Arc<Layers>>, commit_no: u64, slot: usize) -> Self {
        Self {
            inner: Arc::clone(inner),
            commit_no,
            since_ms: inner.env.clock.monotonic_ms(),
            slot,
            layers: RwLock::new(HeldLayers { layers, version: 0 }),
            version: AtomicU64::new(0),
            stays: false,
        }
    }

    /// One of a root alone, with which it stays.
    pub(crate) fn of_root(inner: &Arc<Inner>, layers: Option<Arc<Layers>>, commit_no: u64, slot: usize) -> Self {
        let mut held = Self::new(inner, layers, commit_no, slot);
        held.stays = true;
        held
    }

    pub(crate) fn check_tree(&self, tree: TreeId) -> Result<(), ReadError> {
        self.inner.check_tree(tree)
    }

    /// Whether the layers are still those of this version. By the time that the caller looks at the answer they may have
    /// been exchanged; what it has of them shows the same commit all the same. Whoever knows that a store was closed, or
    /// this view ended, is told so.
    #[inline]
    pub(super) fn is_at(&self, version: u64) -> bool {
        self.version.load(Ordering::Relaxed) == version
    }

    pub(crate) fn with_version<R>(
        &self,
        read: impl FnOnce(&Layers, u64) -> Result<R, ReadError>,
    ) -> Result<R, ReadError> {
        // Recursive, because a reader's closure may read, too; a writer that waits must not come between.
        let held = self.layers.read_recursive();
        match &held.layers {
            Some(layers) => read(layers, held.version).map_err(|error| self.inner.why_unreadable(error)),
            None if self.inner.is_closed() => Err(ReadError::Closed),
            None => Err(ReadError::SnapshotTooOld { commit_no: self.commit_no }),
        }
    }

    pub(crate) fn with<R>(&self, read: impl FnOnce(&Layers) -> Result<R, ReadError>) -> Result<R, ReadError> {
        self.with_version(|layers, _| read(layers))
    }

    pub(crate) fn layers(&self) -> Option<Arc<Layers>> {
        self.layers.read_recursive().layers.clone()
    }

    /// Does something that needs what this holds, which cannot end meanwhile; `None` where it has.
    pub(crate) fn while_it_lasts<R>(&self, work: impl FnOnce() -> R) -> Option<R> {
        let held = self.layers.read_recursive();
        held.layers.is_some().then(work)
    }

    /// The checkpoint of its root, if it has not ended.
    pub(crate) fn root_checkpoint(&self) -> Option<u64> {
        self.layers.read_recursive().layers.as_ref().map(|layers| layers.root.checkpoint)
    }

    /// Puts layers of the same content in the place of others, `None` to take them away. Gives up where a reader
    /// is in the middle of a long look.
    pub(crate) fn exchange(&self, layers: Option<Arc<Layers>>) -> bool {
        let Some(mut held) = self.layers.try_write_for(Duration::from_millis(20)) else { return false };
        let old = std::mem::replace(&mut held.layers, layers);
        held.version += 1;
        self.version.store(held.version, Ordering::Relaxed);
        drop(held);
        // Freed outside the lock: these may be the last to hold a table.
        drop(old);
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.inner.unregister_reader(self.slot);
    }
}

/// What a view of an older commit holds: a view of a newer one, and the knowledge that it is more than that.
pub(crate) struct PastHeld {
    pub(crate) held: Arc<Held>,
    /// The commit that it shows.
    pub(crate) commit_no: u64,
}

impl Drop for PastHeld {
    fn drop(&mut self) {
        self.held.inner.unregister_past(self.held.slot);
    }
}

impl Clone for ReadView {
    fn clone(&self) -> Self {
        let held = &self.held;
        // Under the lock: one that is ended meanwhile must not leave behind a view that nobody knows yet.
        let shown = held.layers.read_recursive();
        Self { held: held.inner.register_reader_of(shown.layers.clone(), held.commit_no) }
    }
}

impl ReadView {
    pub(crate) fn new(inner: &Arc<Inner>) -> Self {
        Self { held: inner.register_reader() }
    }

    /// The newest commit as a view of the past holds it.
    pub(crate) fn of_past(past: &PastHeld) -> Self {
        Self { held: Arc::clone(&past.held) }
    }

    /// Returns the number of the commit this view shows.
    pub fn commit_no(&self) -> u64 {
        self.held.commit_no
    }

    /// Returns the tree of this name, if it existed at this commit.
    pub fn tree(&self, name: &str) -> Result<Option<TreeId>, ReadError> {
        // Under no name at all stands the ledger of histories, which is nobody's tree. spec: E-41
        if name.is_empty() {
            return Ok(None);
        }
        let found = self.held.with(|layers| {
            let number = layers.with(CATALOGUE, name.as_bytes(), |value| match value {
                Value::Inline(bytes) => decode_names_value(bytes).map(|(number, _)| number),
                Value::Stored(_) => None,
            });
            Ok(number?)
        })?;
        Ok(found.flatten().map(TreeId))
    }

    /// Returns the names of all trees, ascending by bytes.
    pub fn tree_names(&self) -> Result<Vec<String>, ReadError> {
        self.cursor(CATALOGUE, Bound::Unbounded, Bound::Unbounded)
            .filter(|entry| entry.as_ref().is_ok_and(|(name, _)| name != LEDGER_NAME) || entry.is_err())
            .map(|entry| entry.map(|(name, _)| String::from_utf8_lossy(&name).into_owned()))
            .collect()
    }

    /// Returns the value of a key, copied where it lies in a page. `get_with` does not copy. A value of more than
    /// `limits::WHOLE_VALUE_BYTES_MAX` is an error: read it with `value_reader` or `read_value`.
    pub fn get(&self, tree: TreeId, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.held.inner.check_tree(tree)?;
        self.held.with(|layers| layers.get(tree.0, key))
    }

    /// Hands the value of a key to `see` where it lies, and returns what `see` does. Nothing is copied, except
    /// for a value that lies in pages of its own, which is read whole. `see` should be short: it holds a page in
    /// the cache.
    pub fn get_with<R>(&self, tree: TreeId, key: &[u8], see: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, ReadError> {
        self.held.inner.check_tree(tree)?;
        self.held.with(|layers| {
            let mut see = Some(see);
            let seen = layers.with(tree.0, key, |value| match value {
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

    /// Reads a part of a value into `out` and returns how many bytes there were: fewer than asked for only at the
    /// value's end. `None` where the key has no value. A value of a gigabyte is read in pieces like this.
    pub fn read_value(
        &self,
        tree: TreeId,
        key: &[u8],
        offset: u64,
        out: &mut [u8],
    ) -> Result<Option<usize>, ReadError> {
        self.held.inner.check_tree(tree)?;
        self.held.with(|layers| {
            let part = layers.with(tree.0, key, |value| Part::of(value, offset, out.len()))?;
            Ok(part.map(|part| part.read(&layers.root, offset, out)).transpose()?)
        })
    }

    /// Returns a reader of a key's value, from its start; `None` where the key has no value. It keeps this view alive
    /// and reads 64 KiB at a time, whatever the value's length.
    pub fn value_reader(&self, tree: TreeId, key: &[u8]) -> Result<Option<ValueReader>, ReadError> {
        self.held.inner.check_tree(tree)?;
        ValueReader::of_view(&self.held, tree.0, key)
    }

    /// Returns how long a key's value is.
    pub fn value_len(&self, tree: TreeId, key: &[u8]) -> Result<Option<u64>, ReadError> {
        self.held.inner.check_tree(tree)?;
        self.held.with(|layers| {
            let len = layers.with(tree.0, key, |value| value.len());
            Ok(len?)
        })
    }

    /// Returns whether a key has a value.
    pub fn contains(&self, tree: TreeId, key: &[u8]) -> Result<bool, ReadError> {
        self.held.inner.check_tree(tree)?;
        self.held.with(|layers| Ok(layers.contains(tree.0, key)?))
    }

    /// Returns how many keys a tree has. Costs one look-up in pages for every key of the tree that was written since
    /// the last checkpoint: some microseconds each, so up to a good part of a second with `Memory::SERVER`'s table.
    pub fn len(&self, tree: TreeId) -> Result<u64, ReadError> {
        self.held.inner.check_tree(tree)?;
        self.held.with(|layers| Ok(layers.len(tree.0)?))
    }

    /// Returns whether a tree has no keys.
    pub fn is_empty(&self, tree: TreeId) -> Result<bool, ReadError> {
        Ok(!self.range(tree, ..).advance()?)
    }

    /// Walks the keys within bounds, from either end. The cursor keeps this view alive. A tree that this view
    /// does not have yet is empty, and so is one of a number that this store never gave out; the number of another
    /// store's tree is one of this store's, too.
    pub fn range(&self, tree: TreeId, bounds: impl RangeBounds<[u8]>) -> Cursor {
        self.cursor(tree.0, bounds.start_bound(), bounds.end_bound())
    }

    /// Walks the keys that begin with `prefix`.
    pub fn prefix(&self, tree: TreeId, prefix: &[u8]) -> Cursor {
        let end = prefix_end(prefix);
        self.range(tree, (Bound::Included(prefix), end.as_deref().map_or(Bound::Unbounded, Bound::Excluded)))
    }

    pub(crate) fn cursor(&self, tree: u32, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> Cursor {
        Cursor::new(Source::View(Arc::clone(&self.held)), tree, lower, upper)
    }

    pub(crate) fn held(&self) -> &Arc<Held> {
        &self.held
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.held.inner
    }
}

impl std::fmt::Debug for ReadView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadView").field("commit_no", &self.commit_no()).finish_non_exhaustive()
    }
}

/// The first key after all keys that begin with `prefix`; `None` when there is no such key.
pub(crate) fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&b| b != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}
