//! Making a backup: a reader that goes through a view, leaf by leaf. spec: BK-7 to BK-11
//!
//! ```text
//! for each tree, by name
//!   for each leaf of the file's tree: the keys that it is for
//!     the file's leaf is as in the backup before, and no newer table speaks of its keys:  kept, not even read
//!     else:                                                          its rows, out of leaf and tables together
//! ```
//!
//! Under the view's lock no more is done than to copy a leaf's rows; sealing, writing and waiting for the rate limit come
//! after that. Values in pages of their own are read piece by piece.

use std::io::{self, Read, Write};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::BackupId;
use super::error::{BackupError, RestoreError};
use super::format::{BlockReader, BlockWriter, Header, Totals, read_header};
use super::past::{Kept, copy_past};
use super::read::{IndexLeaf, IndexReader, KEPT_RANGE, KEPT_VALUE, ROW, TREE, TREE_END, VALUES_MAX};
use super::read::{KEPT, TIMES, TWIN, index_leaf, index_tree};
use crate::btree::{ValueRef, leaf_of};
use crate::env::Clock;
use crate::error::ReadError;
use crate::history::{Twin, key};
use crate::keys::{EpochKey, KeySlot, SlotKind};
use crate::snapshot::{Layers, Value, Walk};
use crate::store::{Inner, Store};
use crate::txn::view::PastHeld;
use crate::txn::{ReadView, TreeId, ValueReader};

/// Bytes of rows that are copied at once.
pub(super) const PIECE_BYTES: usize = 256 << 10;
/// Bytes of a long value that are read at once.
const VALUE_PIECE_BYTES: usize = 64 << 10;
/// Progress is told after so many bytes of backup.
const TELL_BYTES: u64 = 64 << 10;

/// Long values of the backup before that are remembered for one leaf: a megabyte of them. What is not is given anew.
const KNOWN_MAX: usize = 64 << 10;

/// How a backup is made.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BackupOptions {
    /// Bytes of backup per second at most, so that a disk has time for others; 0 like `None`, the default: as fast as it goes.
    pub bytes_per_second: Option<u64>,
    /// Takes the history of trees along that is kept (`Store::set_history`): then any moment that it reaches back to can be
    /// restored (`restore_at`). Default: no, the present alone. Of which trees history is kept, and how much, goes along
    /// either way, and a restored store keeps it from then on.
    pub history: bool,
}

impl BackupOptions {
    /// Sets `bytes_per_second`.
    pub fn bytes_per_second(mut self, limit: Option<u64>) -> Self {
        self.bytes_per_second = limit;
        self
    }

    /// Sets `history`.
    pub fn history(mut self, history: bool) -> Self {
        self.history = history;
        self
    }
}

/// How far a backup is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackupProgress {
    /// Rows gone past, those kept of the backup before not counted.
    pub rows: u64,
    /// Rows in the file's pages; those that were written lately come on top.
    pub rows_total: u64,
    /// Bytes of the backup so far.
    pub bytes: u64,
}

/// What a backup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupReport {
    /// Its id, random.
    pub id: BackupId,
    /// The backup that it builds on; `None`: it is a full one.
    pub base: Option<BackupId>,
    /// The commit that it shows.
    pub commit_no: u64,
    /// Trees.
    pub trees: u64,
    /// Rows that it has itself.
    pub rows: u64,
    /// Ranges of keys, and single long values, that it keeps of the backup before.
    pub kept: u64,
    /// Its bytes.
    pub bytes: u64,
}

impl Store {
    /// Writes everything that the store shows at this moment to `out`: a full backup. Readers and writers go on; what they
    /// commit meanwhile is not in it. Encrypted if the store is, with the same keys. Put it into place only when this
    /// returns `Ok`: before that it has no end, and a restore refuses it.
    ///
    /// ```
    /// # use blazedb_engine::{BackupOptions, Env, KeySource, Options, Store, restore};
    /// # let store = Store::open(Env::memory(1), Options::raw_key([7; 32]))?;
    /// let mut tx = store.write();
    /// let todos = tx.tree("todos")?;
    /// tx.put(todos, b"1", b"buy milk")?;
    /// tx.commit()?;
    /// let mut backup = Vec::new();
    /// store.backup(&mut backup, &BackupOptions::default(), &mut |_| {})?;
    ///
    /// let key = Options::raw_key([7; 32]).key;
    /// let env = Env::memory(2);
    /// restore(env.clone(), Options::raw_key([8; 32]), vec![&mut &backup[..]], &key, &mut |_| {})?;
    /// let restored = Store::open(env, Options::raw_key([8; 32]))?;
    /// assert_eq!(restored.read().get(restored.tree("todos")?, b"1")?.as_deref(), Some(&b"buy milk"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn backup(
        &self,
        out: &mut dyn Write,
        options: &BackupOptions,
        progress: &mut dyn FnMut(BackupProgress),
    ) -> Result<BackupReport, BackupError> {
        self.inner.back_up(None, out, options, progress)
    }

    /// As `backup`, but writes only what is not in `base`, the last backup of this store: full or an increment itself. To
    /// restore it takes the full one and all increments since. Pages that did not change since are not even read; pages
    /// that a vacuum has moved count as changed.
    pub fn backup_since(
        &self,
        base: &mut dyn Read,
        out: &mut dyn Write,
        options: &BackupOptions,
        progress: &mut dyn FnMut(BackupProgress),
    ) -> Result<BackupReport, BackupError> {
        let refused = |error| BackupError::Base(Box::new(error));
        let (bytes, header) = read_header(base, 0).map_err(refused)?;
        let view = self.read();
        let keys = view.held().layers().ok_or(ReadError::Closed)?.root.pages.keys().clone();
        if header.file != *keys.uuid() {
            return Err(BackupError::OtherStore);
        }
        let key = keys.of(header.epoch).ok_or(BackupError::KeyChanged)?;
        // Numbers of epochs come round; a base of another life of this number fails its authentication.
        let key = EpochKey::new(key.epoch, key.cipher, key.master().cloned());
        let shown = header.commit_no;
        let blocks = BlockReader::with_key(base, bytes, header, key, 0).map_err(refused)?;
        if shown > view.commit_no() {
            return Err(BackupError::Behind { base: shown, newest: view.commit_no() });
        }
        drop(view);
        let base = Base { index: IndexReader::new(blocks), leaf: None, next: None };
        self.inner.back_up(Some(base), out, options, progress)
    }
}

/// The index of the backup before, read along.
struct Base<'b> {
    index: IndexReader<'b>,
    leaf: Option<IndexLeaf>,
    next: Option<IndexLeaf>,
}

impl Base<'_> {
    fn begin(&mut self) -> Result<(), RestoreError> {
        self.leaf = self.index.next()?;
        self.next = self.index.next()?;
        Ok(())
    }

    fn advance(&mut self) -> Result<(), RestoreError> {
        let next = self.index.next()?;
        self.leaf = std::mem::replace(&mut self.next, next);
        Ok(())
    }

    /// Where the leaf ends that it stands on.
    fn high(&self) -> Option<&[u8]> {
        let leaf = self.leaf.as_ref()?;
        self.next.as_ref().filter(|next| next.tree == leaf.tree).map(|next| &next.low[..])
    }

    /// Goes to the leaf that has `key` of `tree`, or the first one behind.
    fn seek(&mut self, tree: &[u8], key: &[u8]) -> Result<(), RestoreError> {
        while let Some(leaf) = &self.leaf {
            let is_before = *leaf.tree < *tree || (*leaf.tree == *tree && self.high().is_some_and(|high| high <= key));
            if !is_before {
                break;
            }
            self.advance()?;
        }
        Ok(())
    }

    /// Reads what is left: a backup without an end is none to build on.
    fn finish(&mut self) -> Result<(), RestoreError> {
        while self.leaf.is_some() || self.next.is_some() {
            self.advance()?;
        }
        Ok(())
    }
}

/// Rows of one leaf, copied.
#[derive(Default)]
pub(super) struct Piece {
    pub(super) rows: Vec<(Vec<u8>, Copied)>,
    /// There are more from here on.
    pub(super) goes_on_after: Option<Vec<u8>>,
}

pub(super) enum Copied {
    Bytes(Vec<u8>),
    Long(ValueRef),
}

/// What is known of a leaf before its rows are read.
struct Leaf {
    low: Vec<u8>,
    high: Option<Vec<u8>>,
    /// `None`: tables speak of its keys, or it is no leaf at all.
    page: Option<(u64, u64)>,
}

/// What rows are taken from.
#[derive(Clone, Copy)]
enum Of {
    Tree(u32),
    /// The ledger: of it, the times of commits.
    Times(u32),
    /// The twin of a tree.
    Past {
        tree: u32,
        twin: u32,
    },
}

impl Of {
    fn number(self) -> u32 {
        match self {
            Self::Tree(number) | Self::Times(number) | Self::Past { twin: number, .. } => number,
        }
    }
}

/// Behind the times of a ledger.
const TIMES_END: [u8; 4] = [0, 0, 0, 1];

/// A tree of which history is kept.
struct KeptTree {
    name: String,
    tree: u32,
    twin: Twin,
}

struct Writer<'w, 'b> {
    view: &'w ReadView,
    base: Option<Base<'b>>,
    out: BlockWriter<'w>,
    totals: Totals,
    rows_total: u64,
    progress: &'w mut dyn FnMut(BackupProgress),
    /// Bytes of the backup when its progress was told last.
    told: u64,
    scratch: Vec<u8>,
    /// A kept range that may go on: its end, if it has one.
    keeping: Option<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Inner {
    fn back_up(
        self: &Arc<Self>,
        base: Option<Base<'_>>,
        out: &mut dyn Write,
        options: &BackupOptions,
        progress: &mut dyn FnMut(BackupProgress),
    ) -> Result<BackupReport, BackupError> {
        // Of history also what may be purged meanwhile stays.
        let past = if options.history { Some(self.hold_all_history()?) } else { None };
        let view = &match &past {
            Some(past) => ReadView::of_past(past),
            None => ReadView::new(self),
        };
        let kept = kept_trees(view)?;
        let keys = view.held().layers().ok_or(ReadError::Closed)?.root.pages.keys().clone();
        let (key, slots) = loop {
            let state = self.key_state.lock();
            // Between the two the master key may have been changed, to its end.
            if let Some(key) = keys.of(state.epoch) {
                // A copy of it, not the key itself: a change of the master key does not wait for a backup.
                break (EpochKey::new(key.epoch, key.cipher, key.master().cloned()), state.wrapped.clone());
            }
        };
        if let Some(base) = &base {
            // A chain is restored with one key: what opened the first of it must open all.
            let header = base.index.header();
            let is_there = |slot: &KeySlot| slot.kind == SlotKind::Empty || slots.contains(slot);
            if header.epoch != key.epoch || !header.slots.iter().all(is_there) {
                return Err(BackupError::KeyChanged);
            }
        }
        let mut id = [0; 16];
        self.env.entropy.public(&mut id).map_err(BackupError::Entropy)?;
        let base_id = base.as_ref().map(|base| (base.index.header().id, base.index.header().commit_no));
        let header = Header {
            cipher: key.cipher,
            epoch: key.epoch,
            file: *keys.uuid(),
            id: BackupId(id),
            base: base_id,
            commit_no: view.commit_no(),
            wall_ms: self.env.clock.wall_ms(),
            slots,
        };
        let mut limit = Limit::new(&*self.env.clock, options.bytes_per_second);
        let mut pace = |written| limit.keep(written);
        // Of trees that have a name, and of the twins that go along.
        let mut rows_total = 0_u64;
        for name in view.tree_names()? {
            if let Some(tree) = view.tree(&name)? {
                let rows = view.held().with(|layers| Ok(layers.root.tree(tree.0).entries))?;
                rows_total = rows_total.saturating_add(rows);
            }
        }
        for kept in kept.iter().filter(|_| options.history) {
            let rows = view.held().with(|layers| Ok(layers.root.tree(kept.twin.number).entries))?;
            rows_total = rows_total.saturating_add(rows);
        }
        let out = BlockWriter::begin(out, &header, key, &mut pace).map_err(BackupError::Output)?;
        let mut writer = Writer {
            view,
            base,
            out,
            totals: Totals::default(),
            rows_total,
            progress,
            told: 0,
            scratch: Vec::new(),
            keeping: None,
        };
        writer.all(&kept, options.history)?;
        let totals = writer.totals;
        // What is said of history is no tree, and none of its rows.
        let trees = view.tree_names()?.len() as u64;
        let rows = totals.rows - kept.len() as u64;
        let bytes = writer.out.finish(&totals).map_err(BackupError::Output)?;
        Ok(BackupReport {
            id: header.id,
            base: base_id.map(|(id, _)| id),
            commit_no: header.commit_no,
            trees,
            rows,
            kept: totals.kept,
            bytes,
        })
    }
}

impl Writer<'_, '_> {
    fn all(&mut self, kept: &[KeptTree], history: bool) -> Result<(), BackupError> {
        if let Some(base) = &mut self.base {
            base.begin().map_err(of_base)?;
        }
        for name in self.view.tree_names()? {
            if let Some(tree) = self.view.tree(&name)? {
                self.tree(name.as_bytes(), Of::Tree(tree.0))?;
            }
        }
        if !kept.is_empty() {
            self.history(kept, history)?;
        }
        if let Some(base) = &mut self.base {
            base.finish().map_err(of_base)?;
        }
        Ok(())
    }

    /// What is kept of which tree, when commits were made, and the twins. Without the versions themselves history begins
    /// with this backup, and its twins are empty: who restores it keeps history of the same trees. spec: BK-13
    fn history(&mut self, kept: &[KeptTree], with_versions: bool) -> Result<(), BackupError> {
        let before = self.begin_tree(&KEPT)?;
        self.index(&[], None, &[])?;
        for kept in kept {
            let mut says = self.view.held().with(|layers| Ok(Kept::of(layers, &kept.twin)?))?;
            if !with_versions {
                says.oldest = self.view.commit_no();
            }
            self.row(kept.name.as_bytes(), &says.encode())?;
        }
        self.end_tree(before)?;
        let ledger = self.view.held().with(|layers| Ok(layers.ledger()))?;
        if let Some(ledger) = ledger.filter(|_| with_versions) {
            self.tree(&TIMES, Of::Times(ledger))?;
        }
        for kept in kept {
            let name = [&TWIN[..], kept.name.as_bytes()].concat();
            if with_versions {
                self.tree(&name, Of::Past { tree: kept.tree, twin: kept.twin.number })?;
            } else {
                let before = self.begin_tree(&name)?;
                self.index(&[], None, &[])?;
                self.end_tree(before)?;
            }
        }
        Ok(())
    }

    /// Returns how many rows were given before.
    fn begin_tree(&mut self, name: &[u8]) -> Result<u64, BackupError> {
        self.scratch.clear();
        self.scratch.push(TREE);
        self.scratch.extend_from_slice(&(name.len() as u16).to_le_bytes());
        self.scratch.extend_from_slice(name);
        self.out.rows(&self.scratch).map_err(BackupError::Output)?;
        self.scratch.clear();
        index_tree(name, &mut self.scratch);
        self.out.index(&self.scratch).map_err(BackupError::Output)?;
        self.totals.trees += 1;
        Ok(self.totals.rows)
    }

    fn end_tree(&mut self, before: u64) -> Result<(), BackupError> {
        self.scratch.clear();
        self.scratch.push(TREE_END);
        self.scratch.extend_from_slice(&(self.totals.rows - before).to_le_bytes());
        self.out.rows(&self.scratch).map_err(BackupError::Output)
    }

    fn tree(&mut self, name: &[u8], of: Of) -> Result<(), BackupError> {
        let before = self.begin_tree(name)?;
        let is_inside = |low: &Vec<u8>| !matches!(of, Of::Times(_)) || **low < TIMES_END[..];
        let mut low = Some(Vec::new());
        while let Some(from) = low.filter(is_inside) {
            let mut leaf = self.view.held().with(|layers| Ok(find_leaf(layers, of.number(), &from)?))?;
            if leaf.high.as_ref().is_none_or(|high| !is_inside(high)) && matches!(of, Of::Times(_)) {
                // It has more than times, or may have when it is looked at again.
                leaf.page = None;
            }
            self.leaf(name, of, &leaf)?;
            low = leaf.high;
        }
        self.end_range()?;
        self.end_tree(before)
    }

    fn leaf(&mut self, name: &[u8], of: Of, leaf: &Leaf) -> Result<(), BackupError> {
        let mut known: Vec<(u64, u64)> = Vec::new();
        if let Some(base) = &mut self.base {
            base.seek(name, &leaf.low).map_err(of_base)?;
            let same = base.leaf.as_ref().filter(|old| {
                *old.tree == *name
                    && leaf.page.is_some()
                    && old.page == leaf.page
                    && old.low == leaf.low
                    && base.high() == leaf.high.as_deref()
            });
            if let Some(old) = same {
                let values = old.values.clone();
                self.index(&leaf.low, leaf.page, &values)?;
                return self.keep(leaf);
            }
            // What the leaf has may lie in several leaves of the backup before.
            while let Some(old) = &base.leaf
                && *old.tree == *name
                && leaf.high.as_ref().is_none_or(|high| old.low < *high)
            {
                if known.len() < KNOWN_MAX {
                    known.extend_from_slice(&old.values);
                }
                if base.high().is_none_or(|end| leaf.high.as_deref().is_some_and(|high| end > high)) {
                    break;
                }
                base.advance().map_err(of_base)?;
            }
            known.sort_unstable();
        }
        self.end_range()?;
        let mut values = Vec::new();
        let mut from = Bound::Included(leaf.low.clone());
        loop {
            let bounds = (from.as_ref().map(|key| &key[..]), leaf.high.as_deref());
            let piece = self.view.held().with(|layers| match of {
                Of::Past { tree, twin } => copy_past(layers, (tree, twin), bounds.0, bounds.1),
                Of::Times(ledger) => {
                    copy(layers, ledger, bounds.0, Some(bounds.1.unwrap_or(&TIMES_END).min(&TIMES_END)))
                }
                Of::Tree(tree) => copy(layers, tree, bounds.0, bounds.1),
            })?;
            for (key, value) in piece.rows {
                match value {
                    Copied::Bytes(bytes) => self.row(&key, &bytes)?,
                    Copied::Long(at) => {
                        let place = (at.page.no, at.page.proof);
                        values.push(place);
                        match known.binary_search(&place) {
                            Ok(_) => self.kept_value(&key, at.len)?,
                            Err(_) => self.long_row(of, &key, at.len)?,
                        }
                    }
                }
            }
            match piece.goes_on_after {
                Some(key) => from = Bound::Excluded(key),
                None => break,
            }
        }
        // A range that only tables fill may have any number: those that are not named are given anew the next time.
        values.truncate(VALUES_MAX);
        self.index(&leaf.low, leaf.page, &values)
    }

    fn index(&mut self, low: &[u8], page: Option<(u64, u64)>, values: &[(u64, u64)]) -> Result<(), BackupError> {
        self.scratch.clear();
        index_leaf(low, page, values, &mut self.scratch);
        self.out.index(&self.scratch).map_err(BackupError::Output)
    }

    /// Keeps a leaf; neighbours become one range.
    fn keep(&mut self, leaf: &Leaf) -> Result<(), BackupError> {
        match &mut self.keeping {
            Some((_, to)) => to.clone_from(&leaf.high),
            None => self.keeping = Some((leaf.low.clone(), leaf.high.clone())),
        }
        Ok(())
    }

    fn end_range(&mut self) -> Result<(), BackupError> {
        let Some((from, to)) = self.keeping.take() else { return Ok(()) };
        let end = to.as_deref().unwrap_or_default();
        self.scratch.clear();
        self.scratch.push(KEPT_RANGE);
        self.scratch.extend_from_slice(&(from.len() as u16).to_le_bytes());
        self.scratch.push(u8::from(to.is_some()));
        self.scratch.extend_from_slice(&(end.len() as u16).to_le_bytes());
        self.scratch.extend_from_slice(&from);
        self.scratch.extend_from_slice(end);
        self.totals.kept += 1;
        self.out.rows(&self.scratch).map_err(BackupError::Output)
    }

    fn head(&mut self, tag: u8, key: &[u8], len: u64) -> Result<(), BackupError> {
        self.scratch.clear();
        self.scratch.push(tag);
        self.scratch.extend_from_slice(&(key.len() as u16).to_le_bytes());
        self.scratch.extend_from_slice(&(len as u32).to_le_bytes());
        self.scratch.extend_from_slice(key);
        self.out.rows(&self.scratch).map_err(BackupError::Output)
    }

    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), BackupError> {
        self.count(key, value.len() as u64);
        self.head(ROW, key, value.len() as u64)?;
        self.out.rows(value).map_err(BackupError::Output)?;
        self.tell();
        Ok(())
    }

    fn kept_value(&mut self, key: &[u8], len: u64) -> Result<(), BackupError> {
        self.totals.kept += 1;
        self.head(KEPT_VALUE, key, len)
    }

    fn long_row(&mut self, of: Of, key: &[u8], len: u64) -> Result<(), BackupError> {
        self.count(key, len);
        self.head(ROW, key, len)?;
        let held = self.view.held();
        let reader = match of {
            Of::Tree(tree) | Of::Times(tree) => ValueReader::of_past(held, (tree, None), key)?,
            Of::Past { tree, twin } => {
                // The version that this commit superseded is what there was before it.
                let past = key::decode(key).map(|found| (found.key, found.until.saturating_sub(1)));
                let (key, before) = past.expect("a copied entry has its form");
                ValueReader::of_past(held, (tree, Some((twin, before))), &key)?
            }
        };
        let mut reader = reader.expect("a view's content does not change");
        let mut piece = vec![0; VALUE_PIECE_BYTES.min(len as usize)];
        let mut left = len;
        while left > 0 {
            let now = left.min(piece.len() as u64) as usize;
            reader.read_exact(&mut piece[..now]).map_err(value_error)?;
            self.out.rows(&piece[..now]).map_err(BackupError::Output)?;
            left -= now as u64;
            self.tell();
        }
        Ok(())
    }

    fn count(&mut self, key: &[u8], len: u64) {
        self.totals.rows += 1;
        self.totals.bytes += key.len() as u64 + len;
    }

    fn tell(&mut self) {
        if self.out.written - self.told < TELL_BYTES {
            return;
        }
        self.told = self.out.written;
        let rows = self.totals.rows;
        (self.progress)(BackupProgress { rows, rows_total: self.rows_total, bytes: self.out.written });
    }
}

impl Inner {
    /// Holds the newest commit, and with it all history that is there.
    fn hold_all_history(self: &Arc<Self>) -> Result<PastHeld, ReadError> {
        let mut oldest = self.published_no();
        loop {
            let past = self.register_past_reader(oldest);
            let reach = past.held.with(|layers| {
                let mut reach = oldest;
                for (_, twin) in layers.active.twins().iter().flat_map(|twins| twins.pairs()) {
                    if twin.since.is_some() {
                        reach = reach.min(Kept::of(layers, &twin)?.oldest);
                    }
                }
                Ok(reach)
            })?;
            // Once more where it reaches back further: between the two it may have been purged.
            if reach >= oldest {
                return Ok(past);
            }
            oldest = reach;
        }
    }
}

/// Trees of which history is kept, by name.
fn kept_trees(view: &ReadView) -> Result<Vec<KeptTree>, ReadError> {
    let mut kept = Vec::new();
    for name in view.tree_names()? {
        if let Some(TreeId(tree)) = view.tree(&name)?
            && let Some(twin) = view.held().with(|layers| Ok(layers.twin(tree)))?
        {
            kept.push(KeptTree { name, tree, twin });
        }
    }
    Ok(kept)
}

fn of_base(error: RestoreError) -> BackupError {
    BackupError::Base(Box::new(error))
}

/// A value's reader wraps what it says.
fn value_error(error: io::Error) -> BackupError {
    match error.downcast::<ReadError>() {
        Ok(error) => BackupError::Read(error),
        Err(error) => BackupError::Read(ReadError::Io { during: "reading a value", source: Arc::new(error) }),
    }
}

fn find_leaf(layers: &Layers, tree: u32, key: &[u8]) -> Result<Leaf, crate::pager::PageError> {
    let place = leaf_of(&*layers.root, &layers.root.tree(tree), key)?;
    let speaks = layers.tables_speak_of(tree, key, place.high.as_deref());
    // Where the view was moved to other pages meanwhile a leaf may begin before: then its page is not what is given here.
    let page = place.page.filter(|_| !speaks && place.low == key).map(|at| (at.no, at.proof));
    Ok(Leaf { low: key.to_vec(), high: place.high, page })
}

/// Copies rows from `from` on and below `high`: about a quarter of a megabyte of them.
fn copy(layers: &Layers, tree: u32, from: Bound<&[u8]>, high: Option<&[u8]>) -> Result<Piece, ReadError> {
    let mut walk = Walk::new(layers, tree, from, false)?;
    let (mut piece, mut bytes) = (Piece::default(), 0);
    while let (Some(key), Some(value)) = (walk.key(), walk.value()) {
        if high.is_some_and(|high| key >= high) {
            break;
        }
        if bytes >= PIECE_BYTES {
            piece.goes_on_after = piece.rows.last().map(|(key, _)| key.clone());
            break;
        }
        bytes += key.len() + 64;
        let copied = match value {
            Value::Inline(inline) => {
                bytes += inline.len();
                Copied::Bytes(inline.to_vec())
            }
            Value::Stored(at) => Copied::Long(at),
        };
        piece.rows.push((key.to_vec(), copied));
        walk.advance(layers)?;
    }
    Ok(piece)
}

/// Keeps a backup to its rate.
struct Limit<'c> {
    clock: &'c dyn Clock,
    since_ms: u64,
    per_second: Option<u64>,
    slept_ms: u64,
}

impl<'c> Limit<'c> {
    fn new(clock: &'c dyn Clock, per_second: Option<u64>) -> Self {
        Self { clock, since_ms: clock.monotonic_ms(), per_second: per_second.filter(|&n| n > 0), slept_ms: 0 }
    }

    /// Waits until so many bytes may have been written. A clock that stands still costs no more than the time it takes.
    fn keep(&mut self, written: u64) {
        let Some(per_second) = self.per_second else { return };
        let due_ms = (u128::from(written) * 1000 / u128::from(per_second)) as u64;
        let passed = self.clock.monotonic_ms().saturating_sub(self.since_ms).max(self.slept_ms);
        let wait = due_ms.saturating_sub(passed);
        if wait > 0 {
            crate::sync::thread::sleep(Duration::from_millis(wait));
            self.slept_ms += wait;
        }
    }
}
