//! Where the space of a file goes, what a vacuum would give back and what it would cost, and what is worth saying of it.
//!
//! Everything is about the last checkpoint's pages: what came after it is in the log. The walk reads all of them, as a
//! verification does; what a vacuum would do is foretold by the same rules by which it decides (`btree::gain`).

use std::fmt;
use std::ops::Bound;
use std::time::Duration;

use crate::btree::{self, CellValue, TreeCursor};
use crate::env::OpenMode;
use crate::error::MaintainError;
use crate::history;
use crate::log::writer::log_file_names;
use crate::maintain::{Stats, VerifyProgress};
use crate::pager::{PAGE_HEADER_BYTES, PageError, PageRead, Space, first_page};
use crate::readers::KeptRoot;
use crate::store::{Inner, Store};
use crate::txn::CATALOGUE;
use crate::vacuum::{PACKING, STEP_PAGES, ceiling, is_too_much};

/// Where the space of a file goes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Estimate {
    /// The commit whose pages it is about: the last checkpoint's.
    pub commit_no: u64,
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Bytes of the file. What follows, but for `log_bytes`, adds up to it.
    pub file_bytes: u64,
    /// Bytes of the pages that hold what the trees have now.
    pub live_bytes: u64,
    /// Bytes of the pages that hold superseded versions.
    pub history_bytes: u64,
    /// Bytes of headers, and of the pages that say what is where.
    pub overhead_bytes: u64,
    /// Bytes of pages that old views need, or the last two headers, or values that are being written.
    pub held_bytes: u64,
    /// Bytes of pages that nothing uses; what is written next goes there.
    pub free_bytes: u64,
    /// Bytes of the log's files, which lie beside the file.
    pub log_bytes: u64,
    /// Each tree, in the order of names.
    pub trees: Vec<TreeSpace>,
    /// What a vacuum would do.
    pub vacuum: VacuumEstimate,
    /// Views and transactions that are open in this process.
    pub readers: u64,
    /// The commit of the oldest of them.
    pub oldest_reader: Option<u64>,
    /// For how many milliseconds it has been open.
    pub oldest_reader_ms: u64,
    /// Bytes of the file that come free when old views end.
    pub held_by_readers_bytes: u64,
}

/// What one tree takes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeSpace {
    /// Its name.
    pub name: String,
    /// Entries in pages.
    pub entries: u64,
    /// Bytes of their keys and values.
    pub payload_bytes: u64,
    /// Bytes of the pages that hold them.
    pub bytes: u64,
    /// Superseded versions that are kept.
    pub versions: u64,
    /// Bytes of the pages that hold those.
    pub history_bytes: u64,
}

/// What a vacuum would do, as far as that can be said without doing it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VacuumEstimate {
    /// Bytes that the file would be shorter by now: within a twentieth of the file, or 16 pages where that is more. Where a
    /// view of an older state is open this is the free end of the file, and mostly 0: what is moved stays for it as well, and
    /// may take some of that end (more than that twentieth in 9 of 3,000 random stores, and a quarter at worst).
    pub frees_bytes: u64,
    /// The same when the views that are open have ended.
    pub frees_after_readers_bytes: u64,
    /// Bytes that it would write for it, at least: pages that are moved, and leaves that are packed. The ways to them and
    /// headers come on top, which is twice as much where the file is small.
    pub moves_bytes: u64,
    /// Those in pages.
    pub moves_pages: u64,
}

/// Something worth saying; each is a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Advice {
    /// A vacuum is worth it.
    Vacuum(VacuumEstimate),
    /// An old view keeps pages from being used again.
    Reader {
        /// For how many milliseconds it has been open.
        open_ms: u64,
        /// Bytes that come free when it ends.
        held_bytes: u64,
        /// Bytes that a vacuum would give back then and cannot now.
        waits_bytes: u64,
    },
    /// History takes a good part of the file.
    History {
        /// Bytes of it.
        bytes: u64,
        /// Of a hundred of the file.
        percent: u64,
    },
}

/// What is less than this is not worth a sentence.
const WORTH_BYTES: u64 = 128 << 10;
/// And what is less than so many percent of the file.
const WORTH_PERCENT: u64 = 10;
/// History may take so much of a file before it is told.
const HISTORY_PERCENT: u64 = 25;

impl Estimate {
    /// Returns what is worth doing something about, the most useful first. Nothing where all is well.
    pub fn advice(&self) -> Vec<Advice> {
        let is_worth = |bytes: u64| bytes >= WORTH_BYTES && bytes * 100 >= self.file_bytes * WORTH_PERCENT;
        let mut advice = Vec::new();
        let waits_bytes = self.vacuum.frees_after_readers_bytes.saturating_sub(self.vacuum.frees_bytes);
        let waits_bytes = if is_worth(waits_bytes) { waits_bytes } else { 0 };
        // A view that holds little of a long file may still keep a vacuum from all of it.
        if (is_worth(self.held_by_readers_bytes) || waits_bytes > 0) && self.oldest_reader.is_some() {
            let (open_ms, held_bytes) = (self.oldest_reader_ms, self.held_by_readers_bytes);
            advice.push(Advice::Reader { open_ms, held_bytes, waits_bytes });
        }
        if is_worth(self.vacuum.frees_bytes) {
            advice.push(Advice::Vacuum(self.vacuum));
        }
        let percent = self.history_bytes * 100 / self.file_bytes.max(1);
        if percent >= HISTORY_PERCENT && is_worth(self.history_bytes) {
            advice.push(Advice::History { bytes: self.history_bytes, percent });
        }
        advice
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Vacuum(VacuumEstimate { frees_bytes, moves_bytes, .. }) => write!(
                f,
                "{} could be given back to the file system by a vacuum, which would write {}",
                Bytes(frees_bytes),
                Bytes(moves_bytes)
            ),
            Self::Reader { open_ms, held_bytes, waits_bytes } => {
                write!(
                    f,
                    "a reader that has been open for {:.1} s holds {} of the file",
                    Duration::from_millis(open_ms).as_secs_f64(),
                    Bytes(held_bytes)
                )?;
                if waits_bytes > 0 {
                    write!(f, ", and a vacuum cannot give back {} before it ends", Bytes(waits_bytes))?;
                }
                f.write_str("; end it, or take views for shorter")
            }
            Self::History { bytes, percent } => write!(
                f,
                "history takes {}, {percent} % of the file; keeping less of it (Store::set_history) makes room",
                Bytes(bytes)
            ),
        }
    }
}

/// A size for a sentence.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes < 1 << 20 => write!(f, "{} KiB", bytes.div_ceil(1 << 10)),
            bytes => write!(f, "{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        }
    }
}

impl Store {
    /// Says where the space of the file goes, and what a vacuum would give back. Reads every page of the last checkpoint,
    /// as `Store::verify` does, and holds it meanwhile; `progress` is told how far that is.
    pub fn estimate(&self, progress: &mut dyn FnMut(VerifyProgress)) -> Result<Estimate, MaintainError> {
        let kept = self.inner.keep_root().ok_or(MaintainError::Closed)?;
        let root = &kept.root;
        let oldest = self.inner.oldest_root_of_views(&kept);
        // Of the same moment as the root, or a later one.
        let (held_by_readers, end_held, file_len) = {
            let guard = self.inner.disk.lock();
            let (held, end) = match (guard.as_ref(), oldest) {
                (Some(disk), Some(oldest)) => {
                    let (held, end) = disk.space.lock().held_with(oldest);
                    (held, end.max(self.inner.mapped_pages(disk)))
                }
                _ => (0, 0),
            };
            let read_only = self.inner.read_only_of.as_ref().map(|(file, _)| file.len());
            let len = guard.as_ref().map(|disk| disk.file_len()).or(read_only).transpose();
            (held, end, len.map_err(|source| MaintainError::Io { during: "reading the file's length", source })?)
        };
        let stats = self.stats();
        let page_bytes = (kept.body_bytes() + PAGE_HEADER_BYTES) as u64;
        let first = first_page(page_bytes as usize);
        let mut read = || -> Result<_, PageError> {
            let space = root.space.map(|at| Space::load(&kept, at, root.checkpoint)).transpose()?;
            let total = space.as_ref().map_or(0, |space| space.counts().used.saturating_sub(first));
            let mut pages = 0_u64;
            let mut each = |_| {
                pages += 1;
                if pages.is_multiple_of(256) {
                    let total = total.max(pages);
                    progress(VerifyProgress { done_bytes: pages * page_bytes, total_bytes: total * page_bytes });
                }
            };
            let twins = history::check::read_twins(&kept, &root.trees)?.unwrap_or_default();
            let mut trees = Vec::new();
            let (mut live, mut past, mut moved, mut fewer) = (0, 0, 0, 0);
            // Leaves that packing gives up need not be moved any more; a bit for each.
            let mut given_up = vec![0_u64; space.as_ref().map_or(0, |space| space.end().div_ceil(64) as usize)];
            let mut give_up = |no: u64| {
                if let Some(word) = given_up.get_mut((no / 64) as usize) {
                    *word |= 1 << (no % 64);
                }
            };
            for (name, number) in names(&kept, &root.tree(CATALOGUE))? {
                let now = btree::check(&kept, &root.tree(number), &mut each)?;
                let twin = twins.of(number).map_or_else(Default::default, |twin| root.tree(twin.number));
                let then = btree::check(&kept, &twin, &mut each)?;
                for root in [&root.tree(number), &twin] {
                    let gain = btree::gain(&kept, root, PACKING, &mut give_up)?;
                    (moved, fewer) = (moved + gain.packed, fewer + gain.fewer);
                }
                (live, past) = (live + now.pages, past + then.pages);
                trees.push(TreeSpace {
                    name,
                    entries: now.entries,
                    payload_bytes: now.bytes,
                    bytes: now.pages * page_bytes,
                    versions: then.entries,
                    history_bytes: then.pages * page_bytes,
                });
            }
            Ok((space, trees, given_up, live, past, moved, fewer))
        };
        let (space, trees, given_up, live, past, packed, fewer) =
            read().map_err(|error| match MaintainError::from(error) {
                _ if self.inner.is_closed() => MaintainError::Closed,
                _ if kept.has_ended() => MaintainError::SnapshotTooOld { commit_no: root.commit_no },
                MaintainError::Corruption(_) if self.inner.is_overtaken() => MaintainError::Overtaken,
                error => error,
            })?;
        let used = space.as_ref().map_or(first, |space| space.counts().used);
        let all = used.saturating_sub(first) * page_bytes;
        progress(VerifyProgress { done_bytes: all, total_bytes: all });
        let file = (stats.page_file_bytes.max(file_len.unwrap_or(0)) / page_bytes).max(used);
        // What the last headers hold comes free on the way; what views and open values hold does not.
        let ahead = stats.ahead_bytes / page_bytes;
        // A damaged file may name a page for several trees.
        let needed = used.saturating_sub(fewer) + ahead;
        let after_readers = ceiling(needed).min(file);
        // Where a view of an older root is open, what is moved stays where it was as well: nothing but a free end goes.
        let after = if oldest.is_some() { end_held.min(file) } else { after_readers };
        let pages_max = self.inner.config.snapshot_bytes_max / page_bytes;
        let is_held_up = is_too_much(held_by_readers, used, STEP_PAGES, pages_max);
        let moved_from = ceiling(needed + held_by_readers);
        let is_given_up = |no: u64| given_up.get((no / 64) as usize).is_some_and(|word| word & (1 << (no % 64)) != 0);
        let above = space.as_ref().map_or(0, |space| {
            (moved_from..space.end()).filter(|&no| space.is_named(no) && !is_given_up(no)).count() as u64
        });
        let frees = file - after;
        let moves = if after_readers < file && !is_held_up { packed + above } else { 0 };
        let held = (stats.held_bytes / page_bytes + ahead).min(file - used);
        Ok(Estimate {
            commit_no: root.commit_no,
            page_bytes,
            file_bytes: file * page_bytes,
            live_bytes: live * page_bytes,
            history_bytes: past * page_bytes,
            overhead_bytes: used.saturating_sub(live + past) * page_bytes,
            held_bytes: held * page_bytes,
            free_bytes: (file - used - held) * page_bytes,
            log_bytes: self.inner.log_bytes_on_disk(&stats),
            trees,
            vacuum: VacuumEstimate {
                frees_bytes: frees * page_bytes,
                frees_after_readers_bytes: (file - after_readers) * page_bytes,
                moves_bytes: moves * page_bytes,
                moves_pages: moves,
            },
            // This one is not meant.
            readers: stats.readers.saturating_sub(1),
            oldest_reader: stats.oldest_reader.filter(|_| stats.readers > 1),
            oldest_reader_ms: if stats.readers > 1 { stats.oldest_reader_ms } else { 0 },
            held_by_readers_bytes: held_by_readers * page_bytes,
        })
    }
}

impl Inner {
    /// Returns the oldest root that a view keeps, other than the one that is kept for this, and that does not move on with the
    /// next checkpoint: `None` where all do.
    fn oldest_root_of_views(&self, kept: &KeptRoot) -> Option<u64> {
        let (newest, readers) = {
            let visible = self.visible.lock();
            (visible.layers.commit_no(), visible.readers())
        };
        let others = readers.iter().filter(|reader| !kept.is(reader));
        let stay = others.filter(|reader| reader.stays || reader.commit_no < newest);
        stay.filter_map(|reader| reader.root_checkpoint()).min()
    }

    /// Returns the length of the log's files, also for who only reads them.
    fn log_bytes_on_disk(&self, stats: &Stats) -> u64 {
        if self.read_only_of.is_none() {
            return stats.log_file_bytes;
        }
        let len = |name: &String| self.env.storage.open(name, OpenMode::Read).and_then(|file| file.len()).unwrap_or(0);
        log_file_names(&self.env.name).iter().map(len).sum()
    }
}

/// Reads the names of trees, and their numbers.
fn names<P: PageRead>(pages: &P, catalogue: &btree::TreeRoot) -> Result<Vec<(String, u32)>, PageError> {
    let mut names = Vec::new();
    let mut cursor = TreeCursor::new(*catalogue);
    cursor.seek(pages, Bound::Unbounded)?;
    while let Some((name, value)) = cursor.entry() {
        if let CellValue::Inline(value) = value
            && name != history::LEDGER_NAME
            && let Some((number, _)) = history::decode_names_value(value)
        {
            names.push((String::from_utf8_lossy(name).into_owned(), number));
        }
        cursor.next(pages)?;
    }
    Ok(names)
}
