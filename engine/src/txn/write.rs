//! Writing: a view, and changes on top of it that nobody else sees before they are committed.

use std::cmp::Ordering;
use std::io::{self, Read};
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{CommitError, HookError, ReadError, StreamError, WriteError};
use crate::limits::STORED_VALUE_BYTES_MAX;
use crate::snapshot::{Layers, load_value};
use crate::store::Inner;
use crate::sync::Mutex;
use crate::txn::commit::{CommitInfo, Durability};
use crate::txn::cursor::{Cursor, Source};
use crate::txn::reads::Reads;
use crate::txn::record::Record;
use crate::txn::value::ValueWriter;
use crate::txn::view::prefix_end;
use crate::txn::write_set::{Effect, WriteRange, WriteSet};
use crate::txn::{ReadView, TreeId};

/// Bytes that `put_stream` takes from its source at once.
const READ_BYTES: u64 = 64 << 10;

/// An optimistic transaction: it never waits for another one, and may lose to one at its commit. Dropping it
/// aborts it.
///
/// Isolation is snapshot isolation: reads see the commit it began at, and of two transactions that write one key
/// the later committer fails. `serializable` adds what was read to that check.
pub struct WriteTransaction {
    pub(crate) view: ReadView,
    pub(crate) writes: WriteSet,
    /// What the commit checks.
    pub(crate) reads: Mutex<Reads>,
    is_serializable: bool,
    pub(crate) label: u32,
    /// It begins to keep history: its time is to be known.
    pub(crate) marks_time: bool,
}

/// A moment of a transaction to go back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Savepoint(pub(super) u64);

impl WriteTransaction {
    pub(crate) fn new(inner: &Arc<Inner>) -> Self {
        Self {
            view: ReadView::new(inner),
            writes: WriteSet::default(),
            reads: Mutex::default(),
            is_serializable: false,
            label: 0,
            marks_time: false,
        }
    }

    /// Makes this transaction serializable: from here on every key and range that it reads is checked at its
    /// commit, which fails with `Conflict` if another transaction wrote there in between. A range counts as read
    /// from bound to bound, however far its cursor went.
    ///
    /// What was read takes at most `limits::READ_SET_BYTES_MAX` of memory. Past that, keys and ranges that follow one
    /// another count as one range, what lies between them included: then the commit may fail where nothing that was
    /// read has changed, and takes longer, as it looks at whole ranges. It never passes where something has.
    pub fn serializable(&mut self) {
        self.is_serializable = true;
    }

    /// Returns the tree of this name; it exists from the commit of this transaction on, if it did not before.
    pub fn tree(&mut self, name: &str) -> Result<TreeId, WriteError> {
        let number = self.view.inner().names.reserve(name)?;
        self.writes.touch(number);
        Ok(TreeId(number))
    }

    /// Returns the commit this transaction's snapshot shows.
    pub fn snapshot_commit_no(&self) -> u64 {
        self.view.commit_no()
    }

    /// Returns a key's value: this transaction's own, else its snapshot's. As with `ReadView::get`, one of more than
    /// `limits::WHOLE_VALUE_BYTES_MAX` is an error.
    pub fn get(&self, tree: TreeId, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.view.inner().check_tree(tree)?;
        match own(&self.writes, tree, key) {
            Some(value) => value,
            None => {
                self.note_read(tree, key);
                self.view.get(tree, key)
            }
        }
    }

    /// Returns how long a key's value is, own writes included.
    pub fn value_len(&self, tree: TreeId, key: &[u8]) -> Result<Option<u64>, ReadError> {
        self.view.inner().check_tree(tree)?;
        match self.writes.get(tree.0, key) {
            Some((record, Effect::Put { .. })) => Ok(Some(record.value().len() as u64)),
            Some((_, Effect::PutStored(stored))) => Ok(Some(stored.at.len)),
            Some((_, Effect::Delete)) => Ok(None),
            None => {
                self.note_read(tree, key);
                self.view.value_len(tree, key)
            }
        }
    }

    /// Reads a part of a value, own writes included; see `ReadView::read_value`.
    pub fn read_value(
        &self,
        tree: TreeId,
        key: &[u8],
        offset: u64,
        out: &mut [u8],
    ) -> Result<Option<usize>, ReadError> {
        self.view.inner().check_tree(tree)?;
        let part = |len: u64| len.saturating_sub(offset).min(out.len() as u64) as usize;
        match self.writes.get(tree.0, key) {
            Some((record, Effect::Put { .. })) => {
                let count = part(record.value().len() as u64);
                if count > 0 {
                    out[..count].copy_from_slice(&record.value()[offset as usize..][..count]);
                }
                Ok(Some(count))
            }
            Some((_, Effect::PutStored(stored))) => {
                let count = part(stored.at.len);
                if count > 0 {
                    stored.read(offset, &mut out[..count])?;
                }
                Ok(Some(count))
            }
            Some((_, Effect::Delete)) => Ok(None),
            None => {
                self.note_read(tree, key);
                self.view.read_value(tree, key, offset, out)
            }
        }
    }

    fn note_read(&self, tree: TreeId, key: &[u8]) {
        if self.is_serializable {
            self.reads.lock().note_key(tree.0, key);
        }
    }

    /// Like `get`, and the commit fails with `Conflict` if another transaction writes the key in between. Very many of
    /// them become ranges; see `serializable`.
    pub fn read_checked(&mut self, tree: TreeId, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        let value = self.get(tree, key)?;
        self.reads.lock().note_key(tree.0, key);
        Ok(value)
    }

    /// Walks the keys within bounds, own writes included.
    pub fn range(&self, tree: TreeId, bounds: impl RangeBounds<[u8]>) -> TransactionCursor<'_> {
        let (lower, upper) = (bounds.start_bound(), bounds.end_bound());
        if self.is_serializable {
            self.reads.lock().note_range(tree.0, lower, upper);
        }
        TransactionCursor::new(&self.writes, self.view.cursor(tree.0, lower, upper), tree, lower, upper)
    }

    /// Walks the keys that begin with `prefix`, own writes included.
    pub fn prefix(&self, tree: TreeId, prefix: &[u8]) -> TransactionCursor<'_> {
        let end = prefix_end(prefix);
        self.range(tree, (Bound::Included(prefix), end.as_deref().map_or(Bound::Unbounded, Bound::Excluded)))
    }

    /// Puts a value.
    pub fn put(&mut self, tree: TreeId, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        self.put_pieces(tree, key, &[value])
    }

    /// Puts the concatenation of `pieces`. A piece of 48 bytes or more that another value of this transaction
    /// holds as a piece, too, is written to the log once: give the row's bytes as a piece of their own both in
    /// the record and in the operation.
    pub fn put_pieces(&mut self, tree: TreeId, key: &[u8], pieces: &[&[u8]]) -> Result<(), WriteError> {
        self.view.inner().check_tree(tree).map_err(|_| WriteError::UnknownTree(tree))?;
        self.writes.put(tree.0, key, pieces)
    }

    /// Puts a value of `len` bytes, up to `limits::STORED_VALUE_BYTES_MAX`, read from `source`: not a byte more, and
    /// fewer are an error. The value never is in memory as a whole and does not count as this transaction's bytes; see
    /// `value_writer` for what it costs.
    pub fn put_stream(
        &mut self,
        tree: TreeId,
        key: &[u8],
        len: u64,
        source: &mut impl Read,
    ) -> Result<(), StreamError> {
        if len > STORED_VALUE_BYTES_MAX {
            return Err(StreamError::ValueTooLong { given: len });
        }
        let mut writer = self.value_writer(tree, key)?;
        let mut buffer = vec![0; len.min(READ_BYTES) as usize];
        let mut done = 0;
        while done < len {
            let want = (len - done).min(READ_BYTES) as usize;
            match source.read(&mut buffer[..want]) {
                Ok(0) => return Err(StreamError::SourceEnded { expected: len, given: done }),
                Ok(n) => {
                    writer.push(&buffer[..n])?;
                    done += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(StreamError::Source(source)),
            }
        }
        writer.finish()
    }

    /// Returns a writer for a value of any length up to `limits::STORED_VALUE_BYTES_MAX`. The key has the value from
    /// `ValueWriter::finish` on; a writer that is dropped changes nothing.
    ///
    /// A value of up to `limits::STREAM_INLINE_BYTES_MAX` is put like any other. A longer one is written to the file
    /// at once, in pages of its own, beside a checkpoint that may be running; the log gets a reference. It takes about
    /// 320 KiB of memory while it is written, and the commit, of whatever durability, syncs the main file before
    /// anything else: some milliseconds per transaction. Where the transaction does not commit, or overwrites the
    /// value, its pages are free again at once; where there is a savepoint, when the transaction ends.
    pub fn value_writer(&mut self, tree: TreeId, key: &[u8]) -> Result<ValueWriter<'_>, StreamError> {
        let unknown = |_| StreamError::Write(WriteError::UnknownTree(tree));
        self.view.inner().check_tree(tree).map_err(unknown)?;
        self.writes.check_stored(key)?;
        ValueWriter::new(Arc::clone(self.view.inner()), &mut self.writes, tree, key)
    }

    /// Deletes a key; one that has no value is no error.
    pub fn delete(&mut self, tree: TreeId, key: &[u8]) -> Result<(), WriteError> {
        self.view.inner().check_tree(tree).map_err(|_| WriteError::UnknownTree(tree))?;
        self.writes.delete(tree.0, key)
    }

    /// Marks a moment that `roll_back_to` can go back to. From the first savepoint on every write remembers what
    /// it replaced.
    pub fn savepoint(&mut self) -> Savepoint {
        Savepoint(self.writes.mark())
    }

    /// Takes back every put and delete since the savepoint. Savepoints made after it are gone: going back to one of
    /// those, now or later, is the same as going back to this one. With a savepoint of another transaction this goes
    /// back to some moment of this one, or to its beginning.
    pub fn roll_back_to(&mut self, savepoint: Savepoint) {
        self.writes.roll_back_to(savepoint.0);
    }

    /// Sets a number that is logged with the commit and given to the change feed, for its origin for example.
    /// Default 0.
    pub fn label(&mut self, label: u32) {
        self.label = label;
    }

    /// Returns the bytes of keys and values that this transaction holds in memory; of streamed values only the keys.
    pub fn bytes(&self) -> usize {
        self.writes.bytes()
    }

    /// Commits durably: when this returns `Ok`, the commit survives a power cut.
    pub fn commit(self) -> Result<CommitInfo, CommitError> {
        self.commit_with(Durability::Durable, |_| Ok(()))
    }

    /// Commits, calling `hook` in the serial section: no other commit happens between what the hook reads and
    /// this commit. The hook must be short and must not touch the store but through `Serial`. Its error aborts
    /// the transaction and leaves no trace. The commit itself may still fail after the hook returned `Ok`: what
    /// the hook keeps outside the store must be read from the store again then.
    pub fn commit_with(
        self,
        durability: Durability,
        hook: impl FnOnce(&mut Serial<'_>) -> Result<(), HookError>,
    ) -> Result<CommitInfo, CommitError> {
        let inner = Arc::clone(self.view.inner());
        inner.commit(self, durability, hook)
    }
}

impl std::fmt::Debug for WriteTransaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let commit_no = self.view.commit_no();
        f.debug_struct("WriteTransaction").field("snapshot_commit_no", &commit_no).finish_non_exhaustive()
    }
}

/// The serial section of a commit: the newest state, committed or about to be, with this transaction on top.
/// What is written here is part of the transaction and exempt from the conflict check.
pub struct Serial<'a> {
    pub(crate) inner: &'a Inner,
    pub(crate) layers: &'a Layers,
    pub(crate) writes: &'a mut WriteSet,
}

impl Serial<'_> {
    /// Returns the number this commit will have, if it changes anything.
    pub fn commit_no(&self) -> u64 {
        self.layers.commit_no() + 1
    }

    /// Returns the bytes of keys and values that the transaction holds so far, the hook's own among them; see
    /// `limits::TRANSACTION_BYTES_MAX`.
    pub fn bytes(&self) -> usize {
        self.writes.bytes()
    }

    /// Returns the tree of this name; see `WriteTransaction::tree`.
    pub fn tree(&mut self, name: &str) -> Result<TreeId, WriteError> {
        let number = self.inner.names.reserve(name)?;
        self.writes.touch(number);
        Ok(TreeId(number))
    }

    /// Returns a key's newest value.
    pub fn get(&self, tree: TreeId, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.inner.check_tree(tree)?;
        match own(self.writes, tree, key) {
            Some(value) => value,
            None => self.layers.get(tree.0, key),
        }
    }

    /// Walks the newest state within bounds.
    pub fn range(&self, tree: TreeId, bounds: impl RangeBounds<[u8]>) -> TransactionCursor<'_> {
        let (lower, upper) = (bounds.start_bound(), bounds.end_bound());
        let base = Cursor::new(Source::Serial(self.layers.clone()), tree.0, lower, upper);
        TransactionCursor::new(self.writes, base, tree, lower, upper)
    }

    /// Puts a value.
    pub fn put(&mut self, tree: TreeId, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        self.put_pieces(tree, key, &[value])
    }

    /// Puts the concatenation of `pieces`; see `WriteTransaction::put_pieces`.
    pub fn put_pieces(&mut self, tree: TreeId, key: &[u8], pieces: &[&[u8]]) -> Result<(), WriteError> {
        self.inner.check_tree(tree).map_err(|_| WriteError::UnknownTree(tree))?;
        self.writes.put(tree.0, key, pieces)
    }

    /// Deletes a key.
    pub fn delete(&mut self, tree: TreeId, key: &[u8]) -> Result<(), WriteError> {
        self.inner.check_tree(tree).map_err(|_| WriteError::UnknownTree(tree))?;
        self.writes.delete(tree.0, key)
    }
}

/// What a transaction itself says about a key, if anything.
fn own(writes: &WriteSet, tree: TreeId, key: &[u8]) -> Option<Result<Option<Bytes>, ReadError>> {
    writes.get(tree.0, key).map(|(record, effect)| own_value(record, effect))
}

/// The value of a write: none for a deletion. One that is written ahead is read whole.
fn own_value(record: &Record, effect: &Effect) -> Result<Option<Bytes>, ReadError> {
    match effect {
        Effect::Put { .. } => Ok(Some(record.value_bytes())),
        Effect::PutStored(stored) => load_value(stored.at.len, |offset, out| stored.read(offset, out)).map(Some),
        Effect::Delete => Ok(None),
    }
}

type Entry = (Bytes, Bytes);

/// Keys and values of a transaction in order, from either end: its own writes over its snapshot. After an error it
/// ends.
pub struct TransactionCursor<'a> {
    base: Cursor,
    own: WriteRange<'a>,
    base_front: Option<Entry>,
    base_back: Option<Entry>,
    own_front: Option<(&'a Record, &'a Effect)>,
    own_back: Option<(&'a Record, &'a Effect)>,
}

impl<'a> TransactionCursor<'a> {
    fn new(writes: &'a WriteSet, base: Cursor, tree: TreeId, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> Self {
        Self {
            base,
            own: writes.range(tree.0, lower, upper),
            base_front: None,
            base_back: None,
            own_front: None,
            own_back: None,
        }
    }

    fn own_next(&mut self, backward: bool) -> Option<(&'a Record, &'a Effect)> {
        let own = self.own.as_mut()?;
        let next = if backward { own.next_back() } else { own.next() };
        next.map(|(k, e)| (&k.record, e))
    }

    /// Makes sure that both heads of one end are looked at. What the other end has looked at but not given is the
    /// last there is.
    fn look(&mut self, backward: bool) -> Result<(), ReadError> {
        let missing = if backward { self.base_back.is_none() } else { self.base_front.is_none() };
        if missing {
            let next = if backward { self.base.next_back() } else { self.base.next() }.transpose()?;
            let (mine, other) = ends(backward, &mut self.base_front, &mut self.base_back);
            *mine = next.or_else(|| other.take());
        }
        let missing = if backward { self.own_back.is_none() } else { self.own_front.is_none() };
        if missing {
            let next = self.own_next(backward);
            let (mine, other) = ends(backward, &mut self.own_front, &mut self.own_back);
            *mine = next.or_else(|| other.take());
        }
        Ok(())
    }

    fn end_with(&mut self, error: ReadError) -> ReadError {
        self.base.end();
        self.own = None;
        (self.own_front, self.own_back) = (None, None);
        (self.base_front, self.base_back) = (None, None);
        error
    }

    fn step(&mut self, backward: bool) -> Option<Result<Entry, ReadError>> {
        loop {
            if let Err(error) = self.look(backward) {
                return Some(Err(self.end_with(error)));
            }
            let (base, _) = ends(backward, &mut self.base_front, &mut self.base_back);
            let (own, _) = ends(backward, &mut self.own_front, &mut self.own_back);
            let order = match (&*base, &*own) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((key, _)), Some((own, _))) if backward => own.key().cmp(key),
                (Some((key, _)), Some((own, _))) => key[..].cmp(own.key()),
            };
            if order == Ordering::Less {
                return base.take().map(Ok);
            }
            if order == Ordering::Equal {
                *base = None;
            }
            let Some((record, effect)) = own.take() else { continue };
            match own_value(record, effect) {
                Ok(Some(value)) => return Some(Ok((record.key_bytes(), value))),
                Ok(None) => {}
                Err(error) => return Some(Err(self.end_with(error))),
            }
        }
    }
}

/// (mine, the other's) of two ends.
fn ends<'e, T>(backward: bool, front: &'e mut T, back: &'e mut T) -> (&'e mut T, &'e mut T) {
    if backward { (back, front) } else { (front, back) }
}

impl Iterator for TransactionCursor<'_> {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(false)
    }
}

impl DoubleEndedIterator for TransactionCursor<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(true)
    }
}

impl std::iter::FusedIterator for TransactionCursor<'_> {}
