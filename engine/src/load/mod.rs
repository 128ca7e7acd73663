//! Loads: any number of rows in one commit, past log and table, straight into pages.
//!
//! ```text
//! put      rows gather in an arena; a full one is sorted and becomes a run: pages that no header names
//! merge    runs of one level, when there are many, become one of the next
//! finish   the runs and the arena, merged, are applied to the newest trees; one checkpoint makes them visible and
//!          durable at once (`commit.rs`)
//! ```
//!
//! Memory: the arena, of the size of a table (`ARENA_BYTES_MIN` at least), at the end `FAN_IN` readers of runs per level,
//! about 128 KiB each; whatever is loaded. On the disk the runs take about as many bytes as the rows, but what is merged
//! is written where its runs were.
//!
//! Invariants: until `finish` nobody can see a row, a crash and a drop leave nothing of it; a run's pages are sealed like
//! any other, so no plaintext reaches the disk. Read `Loader`, then `merge::Merge`.

mod arena;
mod commit;
mod merge;
mod run;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use self::arena::{Arena, ArenaRows, Row};
use self::merge::{Merge, Source};
use self::run::{Run, RunReader, RunWriter};
use crate::disk::Disk;
use crate::error::{CommitError, WriteError};
use crate::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::pager::{PageError, Pages, Space};
use crate::store::{Inner, Store};
use crate::sync::Mutex;
use crate::txn::{CommitInfo, TreeId};

/// Bytes of the smallest arena: the longest row fits, and runs are worth the seek.
const ARENA_BYTES_MIN: usize = 4 << 20;
/// Bytes of the largest arena: places in it have 32 bits.
const ARENA_BYTES_MAX: usize = 1 << 30;
const _: () = assert!(ARENA_BYTES_MIN >= KEY_BYTES_MAX + VALUE_BYTES_MAX + 64);

/// Runs of one level that are merged into one.
const FAN_IN: usize = 32;

/// How far the end of a load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// Rows that were merged.
    pub done_rows: u64,
    /// Rows that were given, without those that an arena found to be overwritten.
    pub total_rows: u64,
}

/// A load of any number of rows in any order; of rows with one key the last one counts. `finish` makes them all visible
/// and durable as one commit, over whatever was there. Dropping it aborts it.
///
/// It holds as much memory as a table of the store (`Memory::table_bytes`, 4 MiB at least), and pages of the file,
/// free again afterwards, for what is more than that.
///
/// A load is not checked for conflicts: it comes after all commits before its `finish`. A transaction that began before
/// and commits after it is checked against it. Commits wait while `finish` writes pages, readers do not; a load is for
/// many rows, a transaction for few. Change feeds do not list its rows: they are told that they missed a commit
/// (`FeedEvent::Lagged`).
///
/// ```
/// # use blazedb_engine::{Env, Options, Store};
/// # let store = Store::open(Env::memory(1), Options::raw_key([7; 32]))?;
/// let mut loader = store.loader();
/// let words = loader.tree("words")?;
/// for word in ["delta", "alpha", "charlie"] {
///     loader.put(words, word.as_bytes(), b"")?;
/// }
/// loader.finish()?;
/// assert_eq!(store.read().len(words)?, 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Loader {
    runs: Runs,
    arena: Arena,
    /// Trees that have rows, by number.
    trees: Vec<bool>,
    rows: u64,
    bytes: u64,
}

/// Runs, oldest first. What is left of them when this goes is given back to the file.
struct Runs {
    inner: Arc<Inner>,
    list: Vec<Run>,
}

impl Store {
    /// Begins a load.
    pub fn loader(&self) -> Loader {
        let table_bytes = self.inner.config.table_bytes;
        Loader::new(&self.inner, (table_bytes as usize).clamp(ARENA_BYTES_MIN, ARENA_BYTES_MAX))
    }
}

impl Loader {
    fn new(inner: &Arc<Inner>, arena_bytes: usize) -> Self {
        let inner = Arc::clone(inner);
        Self {
            runs: Runs { inner, list: Vec::new() },
            arena: Arena::new(arena_bytes),
            trees: Vec::new(),
            rows: 0,
            bytes: 0,
        }
    }

    /// Returns the tree of this name; it exists from the load's commit on, if it did not before and gets a row.
    pub fn tree(&mut self, name: &str) -> Result<TreeId, WriteError> {
        self.runs.inner.names.reserve(name).map(TreeId)
    }

    /// Takes a row. After `DiskFull` the load is as it was before this row, and goes on when there is room.
    pub fn put(&mut self, tree: TreeId, key: &[u8], value: &[u8]) -> Result<(), CommitError> {
        if key.len() > KEY_BYTES_MAX {
            return Err(WriteError::KeyTooLong { given: key.len() }.into());
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(WriteError::ValueTooLong { given: value.len() }.into());
        }
        if self.trees.get(tree.0 as usize) != Some(&true) {
            self.begin_tree(tree)?;
        }
        if !self.arena.has_room(key.len() + value.len()) {
            self.write_run()?;
        }
        self.arena.push(Row { tree: tree.0, key, value });
        self.rows += 1;
        self.bytes += (key.len() + value.len()) as u64;
        Ok(())
    }

    /// Returns how many rows were taken.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Returns the bytes of their keys and values.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Commits all rows durably. After an error nothing of them was kept; but see `CommitError::Poisoned`.
    pub fn finish(self) -> Result<CommitInfo, CommitError> {
        self.finish_with(&mut |_| {})
    }

    /// Like `finish`, and says how far it is, in between. `progress` must not use the store. Its panic goes on when the load
    /// has ended, which is not told any more.
    pub fn finish_with(self, progress: &mut dyn FnMut(LoadProgress)) -> Result<CommitInfo, CommitError> {
        let mut panicked = None;
        let done = self.write(&mut |now| {
            if panicked.is_none() {
                panicked = catch_unwind(AssertUnwindSafe(|| progress(now))).err();
            }
        });
        match panicked {
            Some(panic) => resume_unwind(panic),
            None => done,
        }
    }

    fn write(mut self, progress: &mut dyn FnMut(LoadProgress)) -> Result<CommitInfo, CommitError> {
        let inner = Arc::clone(&self.runs.inner);
        if self.rows == 0 {
            return Ok(CommitInfo { commit_no: inner.published_no(), changed: false });
        }
        self.arena.sort();
        let (mut guard, _loading) = inner.begin_load()?;
        let disk = inner.disk_for_load(&mut guard)?;
        let names = inner.names_to_catalogue(&self.trees)?;
        let runs = std::mem::take(&mut self.runs.list);
        let total = runs.iter().map(|run| run.rows).sum::<u64>() + self.arena.len() as u64;
        let arena = &self.arena;
        inner.write_load(disk, None, |load| {
            let mut sources = readers(load.pages, runs, Some(load.space))?;
            sources.push(Source::Arena(ArenaRows::new(arena)));
            load.apply_names(names)?;
            load.apply(&mut Merge::new(sources, total, progress))?;
            load.mark_time(inner.env.clock.wall_ms())
        })
    }

    #[cold]
    fn begin_tree(&mut self, tree: TreeId) -> Result<(), CommitError> {
        self.runs.inner.check_tree(tree).map_err(|_| WriteError::UnknownTree(tree))?;
        let index = tree.0 as usize;
        self.trees.resize(self.trees.len().max(index + 1), false);
        self.trees[index] = true;
        Ok(())
    }

    /// Writes the arena as a run, and merges runs where there are many.
    #[cold]
    fn write_run(&mut self) -> Result<(), CommitError> {
        self.arena.sort();
        let Runs { inner, list } = &mut self.runs;
        let mut guard = inner.disk.lock();
        let disk = inner.disk_for_load(&mut guard)?;
        let written = write_run(disk, &self.arena).map_err(|error| inner.load_failed(error))?;
        self.arena.clear();
        list.push(written);
        while let Some(level) = full_level(list) {
            let from = list.len() - FAN_IN;
            let merged = merge_runs(disk, &list[from..], level + 1).map_err(|error| inner.load_failed(error))?;
            for mut run in list.drain(from..) {
                run.give_back(&mut disk.space.lock());
            }
            list.push(merged);
        }
        Ok(())
    }
}

/// Returns the level of which there are enough runs to merge.
fn full_level(list: &[Run]) -> Option<u8> {
    let level = list.last()?.level;
    (list.iter().rev().take_while(|run| run.level == level).count() >= FAN_IN).then_some(level)
}

fn write_run(disk: &mut Disk, arena: &Arena) -> Result<Run, PageError> {
    let key = disk.keys.take_in_hand();
    let (pages, space) = disk.load_writer(None);
    let mut writer = RunWriter::new(pages, space, key, 0);
    arena.rows().try_for_each(|row| writer.push(row))?;
    writer.finish()
}

/// Merges runs into one. They stay as they are: should there be no room, the load has lost nothing.
fn merge_runs(disk: &mut Disk, runs: &[Run], level: u8) -> Result<Run, PageError> {
    let (pages, key) = (Arc::clone(&disk.pages), disk.keys.take_in_hand());
    let (writer, space) = disk.load_writer(None);
    let mut writer = RunWriter::new(writer, space, key, level);
    let mut progress = |_| {};
    let sources = readers(&pages, runs.to_vec(), None)?;
    let mut merge = Merge::new(sources, 0, &mut progress);
    let mut record = Vec::new();
    while let Some(row) = merge.row() {
        row.write(&mut record);
        writer.push(&record)?;
        merge.next()?;
    }
    drop(merge);
    writer.finish()
}

fn readers<'r>(
    pages: &'r Pages,
    runs: Vec<Run>,
    gives_back: Option<&'r Mutex<Space>>,
) -> Result<Vec<Source<'r>>, PageError> {
    // Made before any of them reads, so that an error gives all of them back.
    let mut readers: Vec<_> = runs.into_iter().map(|run| RunReader::new(pages, run, gives_back)).collect();
    readers.iter_mut().try_for_each(RunReader::begin)?;
    Ok(readers.into_iter().map(Source::Run).collect())
}

impl Drop for Runs {
    fn drop(&mut self) {
        if self.list.is_empty() {
            return;
        }
        // In a store that was closed there is nothing to give back to: no header ever named these pages.
        if let Some(disk) = self.inner.disk.lock().as_mut() {
            self.list.iter_mut().for_each(|run| run.give_back(&mut disk.space.lock()));
        }
    }
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader").field("rows", &self.rows).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
