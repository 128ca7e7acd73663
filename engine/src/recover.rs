//! What a crash left in the log, back in the store: in a table where it fits into one, in pages where it does not.
//!
//! ```text
//! 1 survey    the whole log is read, up to its end: is it sound, does it fit into a table?
//! 2 pages     where it does not: once more, table by table into pages, and one header at the end
//! ```
//!
//! However long the log is, and whatever memory its writer had, an opening takes no more than the tables that its own
//! options allow, the longest group, and the keys of the long values that the log leaves behind: their pages must be known
//! to be in use before the first page is written. Without spans a log says about as much as it is long; with them it may say
//! hundreds of times as much.
//!
//! Invariants: nothing is written before the whole log is known to be sound; the log stays as it is until a header
//! names what it said, so that a crash anywhere on the way leaves the store as it was found, and the next opening begins
//! anew.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use crate::btree::{TreeRoot, ValueRef};
use crate::checkpoint::{NewTrees, adopt_stored, write_root};
use crate::disk::Disk;
use crate::env::Env;
use crate::error::{Corruption, CorruptionKind, OpenError};
use crate::history::Twins;
use crate::history::take::{Taken, apply_table, note_taken};
use crate::keys::FileKeys;
use crate::limits::TRANSACTION_MEMORY_MAX;
use crate::log::redo::Effects;
use crate::log::replay::{LogEnd, replay};
use crate::log::writer::{AppendError, LogWriter};
use crate::memtable::{Batch, Mem};
use crate::options::{Memory, Options, hook_bytes, tables_bytes};
use crate::pager::{Page, PageError, PageKind, PageRead, PageRef, PageWrite, PageWriter, Space};
use crate::snapshot::{Layers, Root};
use crate::superblock::{PAGES_START, Superblock};
use crate::txn::CATALOGUE;
use crate::txn::names::{Names, NamesError};

/// Bytes of effects that are put into the table at once. A commit may say tens of megabytes.
const BATCH_BYTES: usize = 64 << 10;

/// What an effect takes in a batch beside its bytes.
const EFFECT_BYTES: usize = 64;

/// What is remembered of a stored value, beside its key.
const STORED_BYTES: usize = 128;

/// What a log says beyond its header.
pub(crate) struct Surveyed {
    /// Empty where it does not fit.
    pub(crate) table: Mem,
    pub(crate) fits: bool,
    pub(crate) stored: Stored,
    pub(crate) end: LogEnd,
    /// Of which trees history is kept, as the pages have it.
    pub(crate) twins: Option<Arc<Twins>>,
}

/// Reads the commits after the header's, all of them, and keeps them where they fit into a table. Writes nothing.
pub(crate) fn survey(
    env: &Env,
    header: &Superblock,
    keys: &FileKeys,
    options: &Options,
    twins: Option<Arc<Twins>>,
) -> Result<Surveyed, OpenError> {
    let bytes_max = options.memory.recovery_bytes(options.read_only);
    let stored_bytes_max = if options.read_only { bytes_max } else { options.memory.recovery_stored_bytes() };
    let mut survey = Survey {
        filling: Some(Filling::new(header.commit_no, options.memory, twins.clone())),
        commit_no: header.commit_no,
        recording: Recording::new(twins.clone()),
        stored: Stored::up_to(stored_bytes_max),
        bytes_max,
    };
    let end = replay(env, header, keys, &mut survey)?;
    let Survey { filling, stored, .. } = survey;
    // Nobody but a writer can put into pages what is too much; and what is in pages of its own must be remembered.
    if filling.is_none() && options.read_only {
        return Err(OpenError::TooMuchInLog { bytes_max: bytes_max as u64 });
    }
    if stored.is_incomplete {
        return Err(OpenError::TooMuchInLog { bytes_max: stored_bytes_max as u64 });
    }
    let fits = filling.is_some();
    let mut table =
        filling.map_or_else(|| Mem::empty_at(header.commit_no, 0).with_twins(twins.clone()), |filling| filling.table);
    table.forget_superseded();
    Ok(Surveyed { table, fits, stored, end, twins })
}

/// Reads the commits after a damaged store's header, up to the first damage. Returns them, the last one's number, and the
/// log's end, or why there are no more before it.
pub(crate) fn survey_damaged(
    env: &Env,
    header: &Superblock,
    keys: &FileKeys,
    options: &Options,
) -> (Mem, u64, Result<LogEnd, OpenError>) {
    let bytes_max = options.memory.recovery_bytes(true);
    let mut survey = Survey {
        // The present alone is saved.
        filling: Some(Filling::new(header.commit_no, options.memory, None)),
        commit_no: header.commit_no,
        recording: Recording::new(None),
        stored: Stored::default(),
        bytes_max,
    };
    let end = replay(env, header, keys, &mut survey);
    let Some(mut filling) = survey.filling else {
        let error = OpenError::TooMuchInLog { bytes_max: bytes_max as u64 };
        return (Mem::empty_at(header.commit_no, 0), header.commit_no, Err(error));
    };
    filling.apply();
    filling.table.forget_superseded();
    (filling.table, survey.commit_no, end)
}

impl Memory {
    /// Returns the bytes of table that an opening may take: of a writer, what its tables may take in use, so that it need not
    /// write a page to take back what it has acknowledged, as on a full disk. A reader has no other choice, and may meet
    /// all that a writer with more memory has in tables.
    const fn recovery_bytes(&self, read_only: bool) -> usize {
        let bytes = self.table_bytes as u64;
        if read_only { self.table_bytes.saturating_mul(8) } else { (tables_bytes(bytes) + hook_bytes(bytes)) as usize }
    }

    /// Returns what a writer may take for the long values that a log leaves behind: more than the largest transaction and
    /// full tables name, so that it can open what it wrote.
    const fn recovery_stored_bytes(&self) -> usize {
        2 * (TRANSACTION_MEMORY_MAX + self.recovery_bytes(false))
    }
}

/// A table that effects are put into.
struct Filling {
    table: Mem,
    memory: Memory,
    batch: Batch,
    /// Bytes of the batch.
    waiting: usize,
    commit_no: u64,
}

impl Filling {
    fn new(commit_no: u64, memory: Memory, twins: Option<Arc<Twins>>) -> Self {
        let table = Mem::empty_at(commit_no, memory.table_bytes).with_twins(twins);
        Self { table, memory, batch: Batch::default(), waiting: 0, commit_no }
    }

    fn put(&mut self, tree: u32, key: &[u8], value: &[u8]) {
        self.batch.put_copy(tree, key, value);
        self.waiting += key.len() + value.len() + EFFECT_BYTES;
    }

    fn put_stored(&mut self, tree: u32, key: &[u8], at: ValueRef) {
        self.batch.put_stored(tree, key, at);
        self.waiting += key.len() + EFFECT_BYTES;
    }

    fn delete(&mut self, tree: u32, key: &[u8]) {
        self.batch.delete(tree, key);
        self.waiting += key.len() + EFFECT_BYTES;
    }

    fn is_waiting(&self) -> bool {
        self.waiting >= BATCH_BYTES
    }

    /// Puts what is waiting into the table, which nobody sees yet: it need not be a whole commit.
    fn apply(&mut self) {
        self.table.apply(self.commit_no, &mut self.batch);
        self.waiting = 0;
    }

    /// Returns the table; an empty one takes its place.
    fn take(&mut self) -> Mem {
        let fresh = self.table.after(self.commit_no, self.memory.table_bytes);
        mem::replace(&mut self.table, fresh)
    }
}

/// The stored values that keys have at the log's end, and the commits that put them: their pages are in use. Those that
/// the log replaces again are free, and may have been written over since. spec: E-40
#[derive(Default)]
pub(crate) struct Stored {
    trees: BTreeMap<u32, StoredOfTree>,
    /// Those that the log replaces and history keeps: the commit that put it, and its top page.
    past: BTreeMap<(u64, u64), ValueRef>,
    bytes: usize,
    bytes_max: usize,
    /// There was no room for one. For good, whatever is forgotten later: what is not here would pass for replaced.
    is_incomplete: bool,
}

type StoredOfTree = BTreeMap<Box<[u8]>, (u64, ValueRef)>;

impl Stored {
    fn up_to(bytes_max: usize) -> Self {
        Self { bytes_max, ..Self::default() }
    }

    /// By tree and key.
    pub(crate) fn values(&self) -> impl Iterator<Item = ValueRef> {
        self.trees.values().flat_map(|tree| tree.values()).map(|&(_, at)| at).chain(self.past.values().copied())
    }

    fn put(&mut self, tree: u32, key: &[u8], commit_no: u64, at: ValueRef, is_kept: bool) {
        self.replace(tree, key, is_kept);
        if self.bytes + key.len() + STORED_BYTES > self.bytes_max {
            self.is_incomplete = true;
            return;
        }
        self.bytes += key.len() + STORED_BYTES;
        self.trees.entry(tree).or_default().insert(key.into(), (commit_no, at));
    }

    /// The key has another value now, or none. `is_kept`: history keeps the one that it had.
    fn replace(&mut self, tree: u32, key: &[u8], is_kept: bool) {
        let Some((commit_no, at)) = self.trees.get_mut(&tree).and_then(|keys| keys.remove(key)) else { return };
        if is_kept {
            self.past.insert((commit_no, at.page.no), at);
        } else {
            self.bytes -= key.len() + STORED_BYTES;
        }
    }

    /// Returns whether what this commit put is what the key has at the end, or history keeps it.
    fn stays(&self, tree: u32, key: &[u8], commit_no: u64, at: ValueRef) -> bool {
        let newest = self.trees.get(&tree).and_then(|keys| keys.get(key));
        newest.is_some_and(|&(by, _)| by == commit_no) || self.past.contains_key(&(commit_no, at.page.no))
    }
}

/// Of which trees history is kept, from commit to commit of the log.
struct Recording {
    twins: Option<Arc<Twins>>,
    /// As this commit says, for those after it.
    next: Option<Twins>,
}

impl Recording {
    fn new(twins: Option<Arc<Twins>>) -> Self {
        Self { twins, next: None }
    }

    fn keeps(&self, tree: u32) -> bool {
        self.twins.as_ref().is_some_and(|twins| twins.kept(tree).is_some())
    }

    fn note(&mut self, tree: u32, key: &[u8], value: &[u8]) {
        if tree == CATALOGUE && Twins::is_about(key, value) {
            let now = || self.twins.as_deref().cloned().unwrap_or_default();
            self.next.get_or_insert_with(now).note(key, value);
        }
    }

    fn end_commit(&mut self) {
        if let Some(next) = self.next.take() {
            self.twins = Some(Arc::new(next));
        }
    }
}

/// Keeps what fits.
struct Survey {
    filling: Option<Filling>,
    commit_no: u64,
    recording: Recording,
    stored: Stored,
    bytes_max: usize,
}

impl Survey {
    fn fill(&mut self, put: impl FnOnce(&mut Filling), is_end: bool) {
        let Some(filling) = &mut self.filling else { return };
        put(filling);
        if is_end || filling.is_waiting() {
            filling.apply();
            if filling.table.bytes() > self.bytes_max as u64 {
                self.filling = None;
            }
        }
    }
}

impl Effects for Survey {
    fn begin_commit(&mut self, commit_no: u64, _label: u32) {
        self.commit_no = commit_no;
        self.fill(|filling| filling.commit_no = commit_no, false);
    }

    fn put(&mut self, tree: u32, key: &[u8], value: &[u8]) {
        self.recording.note(tree, key, value);
        self.stored.replace(tree, key, self.recording.keeps(tree));
        self.fill(|filling| filling.put(tree, key, value), false);
    }

    fn put_stored(&mut self, tree: u32, key: &[u8], at: ValueRef) {
        self.stored.put(tree, key, self.commit_no, at, self.recording.keeps(tree));
        self.fill(|filling| filling.put_stored(tree, key, at), false);
    }

    fn delete(&mut self, tree: u32, key: &[u8]) {
        self.stored.replace(tree, key, self.recording.keeps(tree));
        self.fill(|filling| filling.delete(tree, key), false);
    }

    fn end_commit(&mut self) {
        self.recording.end_commit();
        self.fill(|_| {}, true);
    }
}

/// What a recovery has written.
pub(crate) struct Poured {
    pub(crate) root: Arc<Root>,
    /// Of its trees.
    pub(crate) names: Names,
    pub(crate) twins: Option<Arc<Twins>>,
}

/// Where a recovery writes to, and what it knows of the log by now.
pub(crate) struct IntoPages<'r> {
    pub(crate) env: &'r Env,
    pub(crate) header: &'r Superblock,
    pub(crate) memory: Memory,
    pub(crate) stored: &'r Stored,
    pub(crate) end: &'r LogEnd,
    /// As the pages of the header have it.
    pub(crate) twins: Option<Arc<Twins>>,
}

impl IntoPages<'_> {
    /// Writes what the log says into pages and a header that names them, and lets the log go on behind it. Returns the
    /// new root.
    pub(crate) fn write(&self, disk: &mut Disk, old: &Arc<Root>, log: &mut LogWriter) -> Result<Poured, OpenError> {
        let Self { env, header, memory, stored, end, twins } = self;
        let (memory, twins) = (*memory, twins.clone());
        let keys = disk.keys.clone();
        let before = disk.space.lock().clone();
        let mut pouring = Pouring {
            disk,
            old,
            before,
            trees: old.trees.clone(),
            filling: Filling::new(header.commit_no, memory, twins),
            taken: Taken::new(),
            stored,
            bytes_max: memory.recovery_bytes(false),
            error: None,
        };
        let again = replay(env, header, &keys, &mut pouring)?;
        pouring.pour();
        let Pouring { disk, mut trees, error, filling, taken, .. } = pouring;
        let twins = filling.table.twins().cloned();
        if let Some(error) = error {
            return Err(error.into());
        }
        if (again.last_commit, again.at) != (end.last_commit, end.at) {
            let source = std::io::Error::other("the log is not what it was a moment ago");
            return Err(OpenError::Io { during: "reading the log again", source });
        }
        // Before a header names what no opening would take.
        let root = Root {
            checkpoint: old.checkpoint,
            commit_no: end.last_commit,
            trees: trees.clone(),
            roots: TreeRoot::default(),
            space: None,
            pages: Arc::clone(&old.pages),
            map: old.map.clone(),
            history_floor: old.history_floor,
        };
        let names = read_names(&Layers::of_pages(Arc::new(root), 0, None))?;
        let mut writer = disk.writer(old.map.as_deref());
        note_taken(&mut writer, &mut trees, twins.as_deref(), end.last_commit, &taken)?;
        let mut trees = NewTrees::new(trees);
        if let Some(twins) = &twins {
            trees.note_floor(&writer, twins)?;
        }
        let written = trees.finish(writer, old, None)?;
        let then = log.switch_generation(false).map_err(|error| match error {
            AppendError::DiskFull { during, source } | AppendError::Broken { during, source } => {
                OpenError::Io { during, source }
            }
        })?;
        let root = write_root(env, disk, old, written, end.last_commit, then, 1)?;
        let durable = disk.header.sequence;
        // Nobody reads yet.
        disk.space.lock().reclaim(durable, durable);
        Ok(Poured { root, names, twins })
    }
}

/// Reads the names of all trees.
pub(crate) fn read_names(layers: &Layers) -> Result<Names, OpenError> {
    Names::from_catalogue(layers).map_err(|error| match error {
        NamesError::Page(error) => OpenError::from(error),
        NamesError::Rule(rule) => Corruption { offset: PAGES_START, what: CorruptionKind::Redo(rule) }.into(),
    })
}

/// Fills a table and empties it into pages whenever it is full.
struct Pouring<'r> {
    disk: &'r mut Disk,
    old: &'r Arc<Root>,
    /// What was in use before: what a header may name.
    before: Space,
    trees: Vec<TreeRoot>,
    filling: Filling,
    taken: Taken,
    stored: &'r Stored,
    bytes_max: usize,
    error: Option<PageError>,
}

impl Pouring<'_> {
    fn fill(&mut self, put: impl FnOnce(&mut Filling)) {
        if self.error.is_some() {
            return;
        }
        put(&mut self.filling);
        if self.filling.is_waiting() {
            self.apply();
        }
    }

    fn apply(&mut self) {
        self.filling.apply();
        if self.filling.table.bytes() > self.bytes_max as u64 {
            self.pour();
        }
    }

    /// Puts what the table holds into the trees. Their new pages are not named by anything yet.
    fn pour(&mut self) {
        if self.error.is_none()
            && let Err(error) = self.try_pour()
        {
            self.error = Some(error);
        }
    }

    fn try_pour(&mut self) -> Result<(), PageError> {
        let table = self.filling.take();
        adopt_stored(self.disk, self.old, &table)?;
        let space = Arc::clone(&self.disk.space);
        let inner = self.disk.writer(self.old.map.as_deref());
        let mut writer = PourWriter { inner, before: &self.before, outdated: Vec::new() };
        apply_table(&mut writer, &mut self.trees, &table, 0, &mut self.taken)?;
        let PourWriter { inner, outdated, .. } = writer;
        inner.finish()?;
        // Only now: numbers that are given again while a tree is written could still be read under it.
        let mut space = space.lock();
        match outdated.into_iter().find(|&no| !space.release_now(no)) {
            None => Ok(()),
            Some(no) => Err(PageError::node(no, self.old.pages.page_bytes(), "it was released and is not in use")),
        }
    }
}

impl Effects for Pouring<'_> {
    fn begin_commit(&mut self, commit_no: u64, _label: u32) {
        self.fill(|filling| filling.commit_no = commit_no);
    }

    fn put(&mut self, tree: u32, key: &[u8], value: &[u8]) {
        self.fill(|filling| filling.put(tree, key, value));
    }

    fn put_stored(&mut self, tree: u32, key: &[u8], at: ValueRef) {
        // Another effect on this key follows, and these pages may be another value's by now.
        let stays = self.stored.stays(tree, key, self.filling.commit_no, at);
        self.fill(|filling| if stays { filling.put_stored(tree, key, at) } else { filling.delete(tree, key) });
    }

    fn delete(&mut self, tree: u32, key: &[u8]) {
        self.fill(|filling| filling.delete(tree, key));
    }

    fn end_commit(&mut self) {
        if self.error.is_none() {
            self.apply();
        }
    }
}

/// Writes pages of trees that no header names yet. Those that an earlier table of the same recovery has left, and this
/// one replaces, are free when it is done: else the file would grow by every table.
struct PourWriter<'w> {
    inner: PageWriter<'w>,
    before: &'w Space,
    outdated: Vec<u64>,
}

impl PageRead for PourWriter<'_> {
    fn body_bytes(&self) -> usize {
        self.inner.body_bytes()
    }

    fn page(&self, at: PageRef, kind: PageKind) -> Result<Page<'_>, PageError> {
        self.inner.page(at, kind)
    }
}

impl PageWrite for PourWriter<'_> {
    fn write(&mut self, kind: PageKind, body: &[u8]) -> Result<PageRef, PageError> {
        self.inner.write(kind, body)
    }

    fn release(&mut self, no: u64) {
        if self.inner.is_own(no) || self.before.is_named(no) {
            self.inner.release(no);
        } else {
            self.outdated.push(no);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else a value that was not remembered would pass for one that the log has replaced, and be deleted.
    #[test]
    fn what_had_no_room_once_is_missing_for_good() {
        let at = ValueRef { len: 70_000, height: 2, page: PageRef { no: 40, proof: 1 } };
        let mut stored = Stored::up_to(2 * STORED_BYTES + 2);
        stored.put(1, b"a", 1, at, false);
        stored.put(1, b"b", 1, at, false);
        assert!(!stored.is_incomplete, "it has just room");
        stored.put(1, b"a", 2, at, false);
        assert!(!stored.is_incomplete && stored.stays(1, b"a", 2, at), "it takes the place of the one before");
        stored.put(1, b"c", 2, at, false);
        assert!(stored.is_incomplete);
        stored.replace(1, b"a", false);
        stored.replace(1, b"b", false);
        assert!(stored.is_incomplete && !stored.stays(1, b"c", 2, at));
    }
}
