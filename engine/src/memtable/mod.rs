//! The newest word on every key since the last checkpoint, deletions included: one B+tree per tree, of many versions.
//!
//! ```text
//! Mem       all trees at one commit: a root per tree. Cloning it copies one pointer per tree.
//! branches  shared by versions, copied before they change (`node`)
//! leaves    shared by versions, added to where they are: each version sees what its commit shows (`leaf`)
//! segments  keys and values, shared by all versions (`segments`)
//! ```
//!
//! Why so, and not a map of version chains behind a lock: a snapshot is one reference count, a reader never takes a
//! lock while it reads, and a commit copies nothing but its own bytes, unless a leaf is full. What later commits
//! replaced stays in its segment until the table goes, which its bytes bound.
//!
//! Only the newest version grows. Where commits are taken back, `rolled_back_to` makes one that has never seen them:
//! their numbers are given again.
//!
//! Invariants: every key is in exactly one leaf of a version, and the newest of its entries that the version's commit
//! shows is the one that holds; `bytes` is the sum of what this version's nodes take, as if it shared none of them, and
//! of all segments.

mod batch;
mod cursor;
mod filter;
mod leaf;
mod node;
mod past;
mod room;
mod segments;

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::btree::ValueRef;
use crate::history::Twins;
use crate::pager::PageRef;
use crate::txn::CATALOGUE;
pub(crate) use batch::{Batch, IntoTable};
pub(crate) use cursor::MemCursor;
use filter::Filter;
pub(crate) use leaf::head_of;
use leaf::{Kind, Leaf, Version};
use node::Node;
use past::{NewPast, decode_past};
use segments::Segments;

/// Records from this length on are segments of their own: shared with the transaction that wrote them, and with whoever
/// reads their values.
pub(crate) const OWN_SEGMENT_BYTES_MIN: usize = 16 << 10;
/// Bytes of a stored value's reference.
const STORED_BYTES: usize = 25;

/// What a table says about a key.
#[derive(Clone, Copy)]
pub(crate) enum MemValue<'m> {
    /// It has this value.
    Put(&'m [u8]),
    /// Its value lies in pages of its own.
    PutStored(ValueRef),
    /// It has none, whatever older layers say.
    Deleted,
}

pub(crate) struct MemEntry<'m> {
    version: Version,
    value: &'m [u8],
    segments: &'m Segments,
}

impl<'m> MemEntry<'m> {
    pub(crate) fn value(&self) -> MemValue<'m> {
        match self.version.kind {
            Kind::Inline => MemValue::Put(self.value),
            Kind::Stored => MemValue::PutStored(decode_stored(self.value)),
            Kind::Deleted | Kind::Past => MemValue::Deleted,
        }
    }

    /// Returns the version that a twin's entry is about; `None` where that lies below this table.
    pub(crate) fn past(&self) -> Option<Self> {
        debug_assert!(self.version.kind == Kind::Past, "only a twin has such entries");
        let version = decode_past(self.value)?;
        let (_, value) = version.record(self.segments);
        Some(Self { version, value, segments: self.segments })
    }

    /// Returns the value, shared with the table where it is a long one; empty where it is stored apart or deleted.
    pub(crate) fn value_bytes(&self) -> Bytes {
        let MemValue::Put(value) = self.value() else { return Bytes::new() };
        let segment = self.segments.segment(self.version.place.segment);
        // A slice of a segment that others are in, too, would keep them all.
        let is_alone = usize::from(self.version.key_len) + value.len() == segment.len();
        if is_alone && segment.len() >= OWN_SEGMENT_BYTES_MIN {
            segment.slice_ref(value)
        } else {
            Bytes::copy_from_slice(value)
        }
    }

    /// Returns the commit that wrote it.
    pub(crate) fn commit_no(&self) -> u64 {
        self.version.commit_no
    }
}

/// All trees at one commit. Of all clones only the newest may grow.
#[derive(Clone)]
pub(crate) struct Mem {
    pub(crate) commit_no: u64,
    trees: Vec<Option<Node>>,
    shared: Arc<Shared>,
    /// The number of the next segment.
    next_segment: u32,
    node_bytes: u64,
    segment_bytes: u64,
    entries: u64,
    /// Stored values that later commits of this table replaced: no page names them.
    superseded: Arc<Vec<ValueRef>>,
    /// Bytes of stored values that were put, superseded ones included.
    stored_bytes: u64,
    /// Of which trees history is kept, as of the commit; none where there never was any.
    twins: Option<Arc<Twins>>,
}

/// What all versions of a table have in common.
struct Shared {
    filter: Option<Filter>,
    segments: Segments,
}

impl Mem {
    /// An empty table that will hold about `budget_bytes`; 0 for one that stays empty.
    pub(crate) fn new(budget_bytes: usize) -> Self {
        let filter = (budget_bytes > 0).then(|| Filter::new(budget_bytes));
        Self {
            commit_no: 0,
            trees: Vec::new(),
            shared: Arc::new(Shared { filter, segments: Segments::default() }),
            next_segment: 0,
            node_bytes: 0,
            segment_bytes: 0,
            entries: 0,
            superseded: Arc::default(),
            stored_bytes: 0,
            twins: None,
        }
    }

    /// The same, as of a commit.
    pub(crate) fn empty_at(commit_no: u64, budget_bytes: usize) -> Self {
        Self { commit_no, ..Self::new(budget_bytes) }
    }

    /// An empty table to come after this one, as of a commit.
    pub(crate) fn after(&self, commit_no: u64, budget_bytes: usize) -> Self {
        Self { twins: self.twins.clone(), ..Self::empty_at(commit_no, budget_bytes) }
    }

    /// The same, of which the trees' history is known.
    pub(crate) fn with_twins(self, twins: Option<Arc<Twins>>) -> Self {
        Self { twins, ..self }
    }

    /// Returns of which trees history is kept; `None` where there never was any.
    pub(crate) fn twins(&self) -> Option<&Arc<Twins>> {
        self.twins.as_ref()
    }

    /// Returns what the table says about a key; `None` where it says nothing.
    pub(crate) fn get(&self, tree: u32, key: &[u8]) -> Option<MemEntry<'_>> {
        let root = self.root(tree)?;
        let Shared { filter, segments } = &*self.shared;
        if let Some(filter) = filter
            && !filter.may_hold(filter::hash(tree, key))
        {
            return None;
        }
        let head = head_of(key);
        let (version, value) = root.leaf_of(segments, head, key).find(segments, self.commit_no, head, key)?;
        Some(MemEntry { version, value, segments })
    }

    /// Applies the next commit, and leaves the batch empty for the one after.
    pub(crate) fn apply(&mut self, commit_no: u64, batch: &mut Batch) {
        let shared = Arc::clone(&self.shared);
        let first = self.next_segment;
        batch.close();
        self.segment_bytes += std::mem::take(&mut batch.unused_bytes);
        for segment in batch.segments.drain(..) {
            self.segment_bytes += segment.len() as u64 + Segments::EACH_BYTES;
            shared.segments.add(self.next_segment, segment);
            self.next_segment += 1;
        }
        let names = batch.items.first().is_some_and(|item| item.tree == CATALOGUE);
        if names || self.twins.is_some() {
            self.apply_with_past(&shared, first, commit_no, batch);
        } else {
            for batch::Item { tree, mut version } in batch.items.drain(..) {
                version.place.segment += first;
                version.commit_no = commit_no;
                self.insert(&shared, tree, &version, Self::note_replaced);
            }
        }
        self.stored_bytes = self.stored_bytes.saturating_add(std::mem::take(&mut batch.stored_bytes));
        self.commit_no = commit_no;
    }

    /// `replaced`: is told the version that this one takes the place of in this table, and its value.
    #[inline]
    fn insert(
        &mut self,
        shared: &Shared,
        tree: u32,
        version: &Version,
        replaced: impl FnOnce(&mut Self, Version, &[u8]),
    ) {
        let segments = &shared.segments;
        let key = version.key(segments);
        let index = tree as usize;
        if index >= self.trees.len() {
            self.trees.resize(index + 1, None);
        }
        let may_be_there = shared.filter.as_ref().is_none_or(|filter| filter.add(filter::hash(tree, key)));
        let Some(root) = &mut self.trees[index] else {
            self.trees[index] = Some(Node::Leaf(Arc::new(Leaf::new(&[*version]))));
            self.node_bytes += Leaf::BYTES;
            self.entries += 1;
            return;
        };
        let leaf = root.leaf_of(segments, version.head, key);
        let old = if may_be_there { leaf.find(segments, u64::MAX, version.head, key) } else { None };
        if !leaf.add(version) {
            let grown = root.insert(segments, key, version);
            self.node_bytes += grown.bytes;
            if let Some(split) = grown.split {
                self.node_bytes += root.grow(split);
            }
        }
        match old {
            None => self.entries += 1,
            Some((old, value)) => replaced(self, old, value),
        }
    }

    /// Notes a stored value that no page will name.
    fn note_replaced(&mut self, old: Version, value: &[u8]) {
        if old.kind == Kind::Stored {
            Arc::make_mut(&mut self.superseded).push(decode_stored(value));
        }
    }

    /// As `apply`, and notes in the twins what the commit supersedes.
    #[cold]
    #[inline(never)]
    fn apply_with_past(&mut self, shared: &Shared, first: u32, commit_no: u64, batch: &mut Batch) {
        let twins = self.twins_after(shared, first, commit_no, &batch.items);
        let mut past = self.twins.clone().map(NewPast::new);
        for batch::Item { tree, mut version } in batch.items.drain(..) {
            version.place.segment += first;
            version.commit_no = commit_no;
            match past.as_mut().and_then(|past| Some((past.twin_of(tree)?, past))) {
                None => self.insert(shared, tree, &version, |table, old, value| table.note_replaced(old, value)),
                Some((twin, past)) => {
                    let mut before = None;
                    self.insert(shared, tree, &version, |_, old, _| before = Some(old));
                    past.add(twin, version.key(&shared.segments), commit_no, before);
                }
            }
        }
        if let Some(past) = past {
            self.insert_past(shared, past);
        }
        if twins.is_some() {
            self.twins = twins;
        }
    }

    /// Returns of which trees history is kept behind a commit that says so; `None` where it says nothing of that.
    fn twins_after(&self, shared: &Shared, first: u32, commit_no: u64, items: &[batch::Item]) -> Option<Arc<Twins>> {
        let mut changed = None;
        for item in items.iter().take_while(|item| item.tree == CATALOGUE) {
            let place = segments::Place { segment: item.version.place.segment + first, ..item.version.place };
            let (key, value) = Version { place, commit_no, ..item.version }.record(&shared.segments);
            // What does not say anything of history is looked at by whoever reads names.
            if Twins::is_about(key, value) {
                let twins = changed.get_or_insert_with(|| self.twins.as_deref().cloned().unwrap_or_default());
                twins.note(key, value);
            }
        }
        changed.map(Arc::new)
    }

    /// Puts what a commit superseded into the twins.
    fn insert_past(&mut self, shared: &Shared, past: NewPast) {
        let Some((bytes, items)) = past.into_segment(self.next_segment) else { return };
        self.segment_bytes += bytes.len() as u64 + Segments::EACH_BYTES;
        shared.segments.add(self.next_segment, bytes);
        self.next_segment += 1;
        for batch::Item { tree, version } in items {
            self.insert(shared, tree, &version, |_, _, _| {});
        }
    }

    /// Returns an older version without what later commits have added since, to go on from: the commits that this one
    /// has beyond it are taken back. Their segments stay and count; so where the older version is empty a new table
    /// takes its place instead, as no checkpoint would ever free it of them.
    pub(crate) fn rolled_back_to(&self, older: &Self) -> Self {
        let as_of = |root: &Option<Node>| root.as_ref().map(|root| root.as_of(older.commit_no));
        Self {
            trees: older.trees.iter().map(as_of).collect(),
            // The segments of what is taken back stay.
            next_segment: self.next_segment,
            segment_bytes: self.segment_bytes,
            ..older.clone()
        }
    }

    /// Returns the bytes of memory that this version's nodes and all segments take; what it shares with other versions
    /// counts in each.
    pub(crate) fn bytes(&self) -> u64 {
        self.node_bytes + self.segment_bytes
    }

    /// Returns the bytes of the filter, which all versions of a table share.
    #[cfg(test)]
    pub(crate) fn filter_bytes(&self) -> usize {
        self.shared.filter.as_ref().map_or(0, Filter::bytes)
    }

    /// Returns how many keys the table says something about.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Returns the numbers of the trees that the table says something about, ascending.
    pub(crate) fn trees(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.trees).filter(|(_, root)| root.is_some()).map(|(tree, _)| tree)
    }

    pub(crate) fn has_tree(&self, tree: u32) -> bool {
        self.root(tree).is_some()
    }

    /// Returns the first number above all trees that the table says something about.
    pub(crate) fn tree_count(&self) -> u32 {
        self.trees.len() as u32
    }

    /// Returns the bytes of stored values that were put into this table, superseded ones included.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// Returns the stored values that keys have. Walks the whole table, unless nothing stored was ever put.
    pub(crate) fn stored(&self) -> impl Iterator<Item = ValueRef> {
        let trees = self.trees().filter(|_| self.stored_bytes > 0);
        trees.flat_map(|tree| {
            let mut cursor = self.cursor(tree);
            cursor.seek(Bound::Unbounded);
            std::iter::from_fn(move || {
                loop {
                    let entry = cursor.entry()?.1;
                    let shown = if entry.version.kind == Kind::Past { entry.past() } else { Some(entry) };
                    let value = match shown.map(|entry| entry.value()) {
                        Some(MemValue::PutStored(at)) => Some(at),
                        Some(MemValue::Put(_) | MemValue::Deleted) | None => None,
                    };
                    cursor.next();
                    if value.is_some() {
                        return value;
                    }
                }
            })
        })
    }

    /// Forgets stored values that no key has any more. After a replay nobody has claimed their pages: they are free.
    pub(crate) fn forget_superseded(&mut self) {
        self.superseded = Arc::default();
    }

    /// Returns stored values that no key has any more.
    pub(crate) fn superseded_stored(&self) -> impl Iterator<Item = ValueRef> {
        self.superseded.iter().copied()
    }

    /// Returns a cursor, which stands at the end until it is sent somewhere.
    pub(crate) fn cursor(&self, tree: u32) -> MemCursor {
        self.cursor_since(tree, 0)
    }

    /// Returns a cursor that shows at least all that commits after `after` have written, and little else.
    pub(crate) fn cursor_since(&self, tree: u32, after: u64) -> MemCursor {
        MemCursor::new(self.root(tree).cloned(), Arc::clone(&self.shared), self.commit_no, after)
    }

    fn root(&self, tree: u32) -> Option<&Node> {
        self.trees.get(tree as usize)?.as_ref()
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

#[cfg(test)]
mod tests;
