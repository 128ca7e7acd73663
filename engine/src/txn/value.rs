//! Values as streams: written into a transaction, read from a view, with bounded memory.
//!
//! A value is written into pages while its transaction is open (`ahead`); what the transaction holds is a reference
//! that owns those pages until the commit. A reader asks its view for each piece, so that it meets the end of its view
//! like any other read, and finds its value again where the view was moved to other layers.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use bytes::Bytes;

use crate::ahead::{AheadWriter, RUN_BYTES};
use crate::btree::{self, ValueRef};
use crate::error::{ReadError, StreamError};
use crate::limits::{STORED_VALUE_BYTES_MAX, STREAM_INLINE_BYTES_MAX};
use crate::pager::PageError;
use crate::snapshot::{Layers, Value};
use crate::store::Inner;
use crate::txn::TreeId;
use crate::txn::view::{Held, PastHeld};
use crate::txn::write_set::WriteSet;

/// Bytes that a reader has at hand. The way from the value's top page is walked once for these.
const BUFFER_BYTES: usize = 64 << 10;

/// Takes the bytes of one value, in order; see `WriteTransaction::value_writer`. As an `io::Write` its errors carry a
/// `StreamError`.
pub struct ValueWriter<'t> {
    inner: Arc<Inner>,
    writes: &'t mut WriteSet,
    tree: TreeId,
    key: Vec<u8>,
    len: u64,
    state: State,
}

enum State {
    /// Short as yet: it may be put like other values.
    Short(Vec<u8>),
    Pages(Box<btree::ValueWriter<AheadWriter>>),
    /// A write failed; its pages are given back.
    Abandoned,
}

impl<'t> ValueWriter<'t> {
    pub(super) fn new(
        inner: Arc<Inner>,
        writes: &'t mut WriteSet,
        tree: TreeId,
        key: &[u8],
    ) -> Result<Self, StreamError> {
        inner.head.lock().check_maintain()?;
        Ok(Self { inner, writes, tree, key: key.to_vec(), len: 0, state: State::Short(Vec::new()) })
    }

    /// Returns how many bytes it has taken.
    pub fn taken(&self) -> u64 {
        self.len
    }

    /// Takes the value's next bytes. After an error the value is given up.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        let given = self.len + bytes.len() as u64;
        let state = std::mem::replace(&mut self.state, State::Abandoned);
        if given > STORED_VALUE_BYTES_MAX {
            return Err(StreamError::ValueTooLong { given });
        }
        let mut pages = match state {
            State::Abandoned => return Err(StreamError::Abandoned),
            State::Short(mut short) if given <= STREAM_INLINE_BYTES_MAX as u64 => {
                short.extend_from_slice(bytes);
                (self.state, self.len) = (State::Short(short), given);
                return Ok(());
            }
            State::Short(short) => {
                let Some(ahead) = &self.inner.ahead else { return Err(StreamError::ReadOnly) };
                let mut pages = Box::new(btree::ValueWriter::new(ahead.writer()));
                self.write_pages(|| pages.push(&short))?;
                pages
            }
            State::Pages(pages) => pages,
        };
        for piece in bytes.chunks(RUN_BYTES) {
            self.write_pages(|| pages.push(piece))?;
        }
        (self.state, self.len) = (State::Pages(pages), given);
        Ok(())
    }

    /// Puts the value: its transaction has it from here on.
    pub fn finish(mut self) -> Result<(), StreamError> {
        match std::mem::replace(&mut self.state, State::Abandoned) {
            State::Abandoned => Err(StreamError::Abandoned),
            State::Short(short) => Ok(self.writes.put(self.tree.0, &self.key, &[&short])?),
            State::Pages(pages) => {
                let stored = self.write_pages(|| {
                    let (at, pages) = pages.finish()?;
                    pages.finish(at)
                })?;
                Ok(self.writes.put_stored(self.tree.0, &self.key, Arc::new(stored))?)
            }
        }
    }

    /// Writes pages, unless the store has stopped writing. An error other than a full disk stops it: the file is not
    /// what it was told to be, and nobody knows where.
    fn write_pages<R>(&self, write: impl FnOnce() -> Result<R, PageError>) -> Result<R, StreamError> {
        let inner = &self.inner;
        inner.head.lock().check_maintain()?;
        let Some(ahead) = &inner.ahead else { return Err(StreamError::ReadOnly) };
        let written = {
            let Some(_open) = ahead.enter() else { return Err(StreamError::Closed) };
            write()
        };
        let (during, source) = match written {
            Ok(done) => return Ok(done),
            Err(PageError::DiskFull { during, source }) => return Err(StreamError::DiskFull { during, source }),
            Err(PageError::Io { during, source }) => (during, source),
            Err(PageError::Corruption(c)) => ("reading a page that was written just now", io::Error::other(c)),
        };
        let source = inner.poison_with(&mut inner.head.lock(), during, source);
        Err(StreamError::Poisoned { source })
    }
}

impl Write for ValueWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.push(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error @ StreamError::DiskFull { .. }) => Err(io::Error::new(io::ErrorKind::StorageFull, error)),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Does nothing: the value is written when it is finished, and durable when its transaction is.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl std::fmt::Debug for ValueWriter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ValueWriter").field("tree", &self.tree).field("taken", &self.len).finish_non_exhaustive()
    }
}

/// Reads one value as it is in one view, which it keeps alive; see `ReadView::value_reader`. Its errors carry a
/// `ReadError`: `SnapshotTooOld` and `Closed` where the view has ended.
pub struct ValueReader {
    held: Arc<Held>,
    /// Of a view of the past: what keeps it from being purged.
    _past: Option<Arc<PastHeld>>,
    tree: u32,
    /// Of the past: the tree's twin, and the commit.
    past: Option<(u32, u64)>,
    key: Vec<u8>,
    len: u64,
    /// Where the value lies, in the layers that the view had in this version.
    place: Place,
    version: u64,
    at: u64,
    /// Bytes of the value from `buffer_at` on.
    buffer: Vec<u8>,
    buffer_at: u64,
}

enum Place {
    Inline(Bytes),
    Stored(ValueRef),
}

impl ValueReader {
    pub(super) fn of_view(held: &Arc<Held>, tree: u32, key: &[u8]) -> Result<Option<Self>, ReadError> {
        Self::of_past(held, (tree, None), key)
    }

    /// One of the present, or of a commit, of which the tree's twin tells. The caller has looked at that.
    pub(crate) fn of_past(
        held: &Arc<Held>,
        (tree, past): (u32, Option<(u32, u64)>),
        key: &[u8],
    ) -> Result<Option<Self>, ReadError> {
        let found =
            held.with_version(|layers, version| Ok(find(layers, (tree, past), key)?.map(|place| (place, version))))?;
        Ok(found.map(|(place, version)| Self {
            held: Arc::clone(held),
            _past: None,
            tree,
            past,
            key: key.to_vec(),
            len: match &place {
                Place::Inline(bytes) => bytes.len() as u64,
                Place::Stored(at) => at.len,
            },
            place,
            version,
            at: 0,
            buffer: Vec::new(),
            buffer_at: 0,
        }))
    }

    /// What it reads of the past stays as long as it lives.
    pub(crate) fn keeping(self, past: &Arc<PastHeld>) -> Self {
        Self { _past: Some(Arc::clone(past)), ..self }
    }

    /// Returns how long the value is.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether the value has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `out` with the value's bytes from `offset` on; it has that many.
    fn fill(&mut self, offset: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let Self { held, tree, past, key, place, version, .. } = self;
        if let Place::Inline(bytes) = place {
            out.copy_from_slice(&bytes[offset as usize..][..out.len()]);
            return Ok(());
        }
        held.with_version(|layers, now| {
            if *version != now {
                // Other layers of the same content: they may have the value in other pages.
                *place = find(layers, (*tree, *past), key)?.expect("a view's content does not change");
                *version = now;
            }
            match place {
                Place::Inline(bytes) => out.copy_from_slice(&bytes[offset as usize..][..out.len()]),
                Place::Stored(at) => btree::read_value(&*layers.root, at, offset, out)?,
            }
            Ok(())
        })
    }
}

fn find(layers: &Layers, (tree, past): (u32, Option<(u32, u64)>), key: &[u8]) -> Result<Option<Place>, PageError> {
    let place = |value: Value<'_>| match value {
        Value::Inline(bytes) => Place::Inline(Bytes::copy_from_slice(bytes)),
        Value::Stored(at) => Place::Stored(at),
    };
    match past {
        None => layers.with(tree, key, place),
        Some((twin, commit_no)) => layers.past_with(tree, twin, commit_no, key, place),
    }
}

impl Read for ValueReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.len.saturating_sub(self.at);
        let want = left.min(out.len() as u64) as usize;
        if want == 0 {
            return Ok(0);
        }
        let behind = self.at.checked_sub(self.buffer_at).filter(|&skip| skip < self.buffer.len() as u64);
        let n = match behind {
            Some(skip) => {
                let ready = &self.buffer[skip as usize..];
                let n = ready.len().min(want);
                out[..n].copy_from_slice(&ready[..n]);
                n
            }
            // No more at once than a view may be kept from being moved for.
            None if want >= BUFFER_BYTES => {
                let n = want.min(4 * BUFFER_BYTES);
                self.fill(self.at, &mut out[..n]).map_err(io::Error::other)?;
                n
            }
            None => {
                let mut buffer = std::mem::take(&mut self.buffer);
                buffer.resize(left.min(BUFFER_BYTES as u64) as usize, 0);
                self.fill(self.at, &mut buffer).map_err(io::Error::other)?;
                out[..want].copy_from_slice(&buffer[..want]);
                (self.buffer, self.buffer_at) = (buffer, self.at);
                want
            }
        };
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for ValueReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl std::fmt::Debug for ValueReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ValueReader").field("len", &self.len).field("at", &self.at).finish_non_exhaustive()
    }
}
