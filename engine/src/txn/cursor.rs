//! Keys and values in order, from either end; the ends close in on each other.
//!
//! A cursor survives the move of its view to other layers (see `snapshot`): it finds its place again by key.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::btree::ValueRef;
use crate::error::ReadError;
use crate::pager::PageError;
use crate::snapshot::{Layers, Value, Walk};
use crate::txn::value::ValueReader;
use crate::txn::view::Held;

/// Where a cursor's layers come from.
pub(super) enum Source {
    /// A view, which may be moved to other layers between two steps.
    View(Arc<Held>),
    /// The newest state, inside a serial section.
    Serial(Layers),
}

/// Keys and values of one tree in order, from either end. Keeps its view alive. After an error it ends.
///
/// As an iterator it hands out keys and values that live on their own: a key is copied, a value is a slice of a
/// copied page (about 4 KiB, shared with its neighbours) or of a table. `advance` with `key` and `value` copies
/// and counts nothing, and is the fastest way to walk many rows.
pub struct Cursor {
    source: Source,
    tree: u32,
    version: u64,
    lower: Bound<Vec<u8>>,
    upper: Bound<Vec<u8>>,
    front: Option<Walk>,
    back: Option<Walk>,
    done: bool,
    /// The value at the front where it lies in pages of its own.
    loaded: Option<Bytes>,
}

/// One end of a cursor, while it moves.
struct Ends<'c> {
    tree: u32,
    lower: &'c mut Bound<Vec<u8>>,
    upper: &'c mut Bound<Vec<u8>>,
    front: &'c mut Option<Walk>,
    back: &'c mut Option<Walk>,
}

impl Cursor {
    pub(super) fn new(source: Source, tree: u32, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> Self {
        Self {
            source,
            tree,
            version: 0,
            lower: lower.map(<[u8]>::to_vec),
            upper: upper.map(<[u8]>::to_vec),
            front: None,
            back: None,
            done: false,
            loaded: None,
        }
    }

    /// As `advance`, but a value that lies in pages of its own is not read: `value` is empty for it, `value_len` says
    /// how long it is, and `value_reader` reads it. For walks over keys, or past values of any length.
    pub fn advance_key(&mut self) -> Result<bool, ReadError> {
        self.loaded = None;
        match self.advance_in_leaf() {
            Some(inside) => Ok(inside),
            None => Ok(self.step(false, |_, _| Ok(()))?.is_some()),
        }
    }

    /// Goes on to the next key from the front; `false` at the end. `key` and `value` are there after `true`. A value of
    /// more than `limits::WHOLE_VALUE_BYTES_MAX` is an error; `advance_key` passes it.
    pub fn advance(&mut self) -> Result<bool, ReadError> {
        self.loaded = None;
        match self.advance_in_leaf() {
            Some(true) => {
                if let Some(at) = self.front.as_ref().and_then(Walk::stored_in_leaf) {
                    let loaded = self.load(&at);
                    self.done = loaded.is_err();
                    self.loaded = loaded?;
                }
                return Ok(true);
            }
            Some(false) => return Ok(false),
            None => {}
        }
        let moved = self.step(false, |walk, layers| match walk.value() {
            Some(Value::Stored(at)) => layers.load(&at).map(Some),
            _ => Ok(None),
        })?;
        Ok(match moved {
            Some(loaded) => {
                self.loaded = loaded;
                true
            }
            None => false,
        })
    }

    /// Returns the key that `advance` went to; empty where it did not go to one.
    pub fn key(&self) -> &[u8] {
        self.current().and_then(Walk::key).unwrap_or_default()
    }

    /// Returns the value at that key.
    pub fn value(&self) -> &[u8] {
        match (self.current().and_then(Walk::value), &self.loaded) {
            (Some(Value::Inline(bytes)), _) => bytes,
            (_, Some(bytes)) => bytes,
            _ => &[],
        }
    }

    /// Returns how long the value at that key is.
    pub fn value_len(&self) -> u64 {
        self.current().and_then(Walk::value).map_or(0, |value| value.len())
    }

    /// Returns a reader of the value at that key; `None` where `advance` did not go to one.
    pub fn value_reader(&self) -> Result<Option<ValueReader>, ReadError> {
        match (&self.source, self.current().and_then(Walk::key)) {
            (Source::View(held), Some(key)) => ValueReader::of_view(held, self.tree, key),
            // No caller has such a cursor, only what walks one within the serial section.
            (Source::Serial(_), _) | (_, None) => Ok(None),
        }
    }

    /// Ends it, as an error does.
    pub(super) fn end(&mut self) {
        self.done = true;
    }

    fn current(&self) -> Option<&Walk> {
        self.front.as_ref().filter(|_| !self.done)
    }

    /// Goes on to the next key without a look at the layers, where that is all it takes: most rows of a long walk. `None`:
    /// nothing was done; `false`: it has come to the end.
    #[inline]
    fn advance_in_leaf(&mut self) -> Option<bool> {
        let (Source::View(held), None, false) = (&self.source, &self.back, self.done) else { return None };
        if !held.is_at(self.version) {
            return None;
        }
        let walk = self.front.as_mut()?;
        if !walk.advance_in_leaf() {
            return None;
        }
        let inside = match &self.upper {
            Bound::Unbounded => true,
            upper => is_inside(walk.key()?, as_slice(upper), false),
        };
        self.done = !inside;
        Some(inside)
    }

    /// Reads the value at the front, which lies in pages of its own. The view may have moved since `advance_in_leaf`
    /// looked: then those pages need not be there any more, and the value is looked up where it is now.
    #[cold]
    fn load(&self, at: &ValueRef) -> Result<Option<Bytes>, ReadError> {
        let Source::View(held) = &self.source else { return Ok(None) };
        held.with_version(|layers, now| match self.current().and_then(Walk::key) {
            Some(key) if now != self.version => layers.get(self.tree, key),
            _ => layers.load(at).map(Some),
        })
    }

    /// Moves one end and looks at where it stands; `None` at the end.
    fn step<R>(
        &mut self,
        backward: bool,
        see: impl FnOnce(&Walk, &Layers) -> Result<R, ReadError>,
    ) -> Result<Option<R>, ReadError> {
        if self.done {
            return Ok(None);
        }
        let Self { source, tree, version, lower, upper, front, back, .. } = self;
        let mut ends = Ends { tree: *tree, lower, upper, front, back };
        let moved = match source {
            Source::Serial(layers) => ends.step(layers, backward, see),
            Source::View(held) => held.with_version(|layers, now| {
                if *version != now {
                    ends.find_place(layers)?;
                    *version = now;
                }
                ends.step(layers, backward, see)
            }),
        };
        self.done = !matches!(moved, Ok(Some(_)));
        moved
    }
}

impl Ends<'_> {
    /// The view has other layers now, of the same content: both ends go to where they stood.
    fn find_place(&mut self, layers: &Layers) -> Result<(), PageError> {
        for (walk, backward) in [(&mut *self.front, false), (&mut *self.back, true)] {
            let Some(old) = walk else { continue };
            let at = match old.key() {
                Some(key) => Walk::new(layers, self.tree, Bound::Included(key), backward)?,
                None => continue,
            };
            *walk = Some(at);
        }
        Ok(())
    }

    fn step<R>(
        &mut self,
        layers: &Layers,
        backward: bool,
        see: impl FnOnce(&Walk, &Layers) -> Result<R, ReadError>,
    ) -> Result<Option<R>, ReadError> {
        let (mine, other) = if backward { (&mut *self.back, &*self.front) } else { (&mut *self.front, &*self.back) };
        let walk = match mine {
            Some(walk) => {
                walk.advance(layers)?;
                walk
            }
            none => {
                // From here on both ends move: what the other end has given is out of reach.
                if let Some(given) = other.as_ref().and_then(Walk::key) {
                    let limit = if backward { &mut *self.lower } else { &mut *self.upper };
                    *limit = Bound::Excluded(given.to_vec());
                }
                let from = if backward { as_slice(self.upper) } else { as_slice(self.lower) };
                none.insert(Walk::new(layers, self.tree, from, backward)?)
            }
        };
        let limit = if backward { as_slice(self.lower) } else { as_slice(self.upper) };
        let inside = walk.key().is_some_and(|key| is_inside(key, limit, backward));
        if !inside {
            return Ok(None);
        }
        if let (Some(key), true) = (walk.key(), other.is_some()) {
            let limit = if backward { &mut *self.upper } else { &mut *self.lower };
            *limit = Bound::Excluded(key.to_vec());
        }
        see(walk, layers).map(Some)
    }
}

/// Whether a walk may show a key; `limit` is the end that it goes to.
#[inline]
fn is_inside(key: &[u8], limit: Bound<&[u8]>, backward: bool) -> bool {
    match (limit, backward) {
        (Bound::Unbounded, _) => true,
        (Bound::Included(end), false) => key <= end,
        (Bound::Excluded(end), false) => key < end,
        (Bound::Included(end), true) => key >= end,
        (Bound::Excluded(end), true) => key > end,
    }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

fn copied(walk: &Walk, layers: &Layers) -> Result<(Bytes, Bytes), ReadError> {
    let key = Bytes::copy_from_slice(walk.key().unwrap_or_default());
    Ok((key, walk.value_bytes(layers)?))
}

impl Iterator for Cursor {
    type Item = Result<(Bytes, Bytes), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(false, copied).transpose()
    }
}

impl DoubleEndedIterator for Cursor {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(true, copied).transpose()
    }
}

impl std::iter::FusedIterator for Cursor {}
