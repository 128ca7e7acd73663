//! Gives space back to the file system, in steps, while readers and writers go on.
//!
//! ```text
//! pack   steps, each of them a checkpoint: leaves that are half empty become fewer ones, tree by tree
//! rest   two checkpoints: what was given up is free, as neither header names it any more; the file is cut
//! move   steps: pages at or above the ceiling are copied to free numbers below it; so is whatever else is written
//! rest   as before
//! ```
//!
//! Moving is repeated where writers took what was free below the ceiling, up to `ROUNDS` times. Nothing of a vacuum is
//! in the file but the pages themselves: after a crash there is none under way, and each of its checkpoints is one as
//! any other.
//!
//! Invariants: the file is cut where nobody needs a page behind, by the same rule by which a page's number is used
//! again (`Space`); a step takes no lock that readers or commits wait for longer than for a checkpoint's; views that
//! hold what is moved do not end for it.

use std::time::Duration;

use crate::background::Pause;
use crate::btree::{self, Packing, Place, TreeRoot, TreesPlace};
use crate::checkpoint::Work;
use crate::disk::Disk;
use crate::error::MaintainError;
use crate::options::{AutoVacuum, VacuumProgress};
use crate::pager::{PageError, PageKind, PageRef, PageWriter};
use crate::store::{Inner, Store};
use crate::sync::thread;

/// Pages of a step of `Store::vacuum`: the log's syncs wait behind those of pages.
pub(crate) const STEP_PAGES: u64 = 128;

/// Where somebody commits, the disk is left to them between two steps for so many times what the step took. A step
/// delays two or three commits by a sync or two of its own, whatever its pages; so many times leave those fewer than one
/// of a hundred. Without a pause the slowest of a hundred commits took seven times what it takes alone, with steps of 12
/// pages as with those of 96; with it 1.0 to 1.3 times (2026-11-28).
const PAUSE: u32 = 8;
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How often pages are moved at most: again where others have taken the room.
const ROUNDS: u8 = 3;

/// Checkpoints after which what one gave up is free.
const RESTS: u8 = 2;

/// Leaves are packed, by whoever asks for a vacuum, where that is of any use; by the store itself where it is of much, and
/// so that the next changes need not cut them all again.
pub(crate) const PACKING: Packing = Packing { gain: 4, fill: 100 };
const PACKING_AUTO: Packing = Packing { gain: 40, fill: 90 };

/// What closing a store moves at most, to shorten its file, and how long that may be without its free pages: whoever moves
/// pages looks at all of them. About a tenth of a second of an SSD.
const CLOSE_MOVED_BYTES_MAX: u64 = 16 << 20;
const CLOSE_READ_BYTES_MAX: u64 = 64 << 20;

/// Checkpoints that must agree that much of the file is of no use, before the store does something about it by itself;
/// and how many it waits for before it tries again where that was in vain.
const AGREE: usize = 4;
const WAIT_AFTER_NOTHING: usize = 64;

/// How far a vacuum is. It moves on when a step's checkpoint is durable.
#[derive(Clone, Debug)]
pub(crate) struct Vacuum {
    stage: Stage,
    packing: Packing,
    /// Free pages that are left below the ceiling, on top of what the steps themselves need.
    spare: u64,
    round: u8,
    ceiling: u64,
    /// Pages of the file when it began.
    from_pages: u64,
    done: u64,
    total: u64,
    is_auto: bool,
    /// Packing ended for want of room.
    disk_was_full: bool,
    /// Groups that the store had committed as the last step ended.
    groups: u64,
}

#[derive(Clone, Debug)]
enum Stage {
    Pack {
        tree: usize,
        key: Vec<u8>,
    },
    Move(TreesPlace),
    /// So many checkpoints to go.
    Rest(u8),
    Done,
}

/// One step, inside a checkpoint.
pub(crate) struct VacuumStep {
    pub(crate) vacuum: Vacuum,
    pub(crate) budget: u64,
}

impl VacuumStep {
    /// Packs or moves pages of trees, as far as the budget goes. Returns whether the rest is to be moved as well.
    pub(crate) fn change_trees(
        &mut self,
        writer: &mut PageWriter<'_>,
        trees: &mut [TreeRoot],
    ) -> Result<bool, PageError> {
        let Vacuum { stage, packing, ceiling, done, .. } = &mut self.vacuum;
        let budget = &mut self.budget;
        let before = *budget;
        match stage {
            Stage::Pack { tree, key } => {
                while *budget > 0
                    && let Some(root) = trees.get_mut(*tree)
                {
                    let next;
                    (*root, next) = btree::pack(writer, root, key, *packing, budget)?;
                    *tree += usize::from(next.is_none());
                    *key = next.unwrap_or_default();
                }
                let is_done = *tree >= trees.len();
                *done += before - *budget;
                if is_done {
                    *stage = Stage::Rest(RESTS);
                }
                Ok(false)
            }
            Stage::Move(at) => {
                let is_done = btree::rewrite_trees(writer, trees, at, budget, &mut lies_above(*ceiling, done))?;
                if is_done {
                    *stage = Stage::Rest(RESTS);
                }
                Ok(true)
            }
            Stage::Rest(left) => {
                *left = left.saturating_sub(1);
                Ok(true)
            }
            Stage::Done => Ok(false),
        }
    }

    /// Moves the tree of roots and the space. Both are small.
    pub(crate) fn move_rest(&mut self, writer: &mut PageWriter<'_>, roots: &mut TreeRoot) -> Result<(), PageError> {
        let ceiling = self.vacuum.ceiling;
        let all = &mut lies_above(ceiling, &mut self.vacuum.done);
        (*roots, _) = btree::rewrite(writer, roots, &Place::default(), &mut u64::MAX.clone(), all)?;
        writer.touch_space_from(ceiling);
        Ok(())
    }
}

/// Says which pages lie at or above a number, and counts those it is asked about.
fn lies_above<'p, 'w>(
    ceiling: u64,
    done: &'p mut u64,
) -> impl FnMut(&PageWriter<'w>, PageRef, PageKind) -> Result<bool, PageError> + use<'p, 'w> {
    move |_, at, _| {
        *done += 1;
        Ok(at.no >= ceiling)
    }
}

/// Free pages of the file at the last checkpoints, when each of them had written its own and freed none: what none of
/// them needed.
#[derive(Debug, Default)]
pub(crate) struct Room {
    last: [u64; AGREE],
    noted: usize,
    /// So many more are to be noted before anything is known.
    wait: usize,
}

impl Room {
    pub(crate) fn note(&mut self, pages: u64) {
        self.last[self.noted % AGREE] = pages;
        self.noted += 1;
        self.wait = self.wait.saturating_sub(1);
    }

    /// Returns how many pages no checkpoint has needed for a while; 0 where that is not known yet.
    fn unneeded(&self) -> u64 {
        if self.noted < AGREE || self.wait > 0 { 0 } else { self.last.into_iter().min().unwrap_or(0) }
    }
}

impl Store {
    /// Makes the file as short as it can be, and tells after each step how far that is: leaves that are half empty are
    /// packed, pages move from the file's end to where there is room, and the end goes back to the file system. Commits
    /// and readers go on meanwhile; each step is a checkpoint that writes about `budget_pages` pages more than it would
    /// (0: 128). While others commit it pauses between steps, for eight times what a step takes, so that fewer than one
    /// commit of a hundred notices; while nobody does it goes on at once. Returns how it ended: what old views and values
    /// on their way need stays, and is told (`VacuumProgress::held_bytes`).
    ///
    /// A file that is overwritten all the time needs free pages, and grows again by those; the store has an eye on what
    /// it does not need by itself, see `Options::auto_vacuum`.
    pub fn vacuum(
        &self,
        budget_pages: u64,
        progress: &mut dyn FnMut(VacuumProgress),
    ) -> Result<VacuumProgress, MaintainError> {
        let budget = if budget_pages == 0 { STEP_PAGES } else { budget_pages };
        loop {
            let (now, pause) = self.inner.vacuum_step(budget)?;
            progress(now);
            if now.finished {
                return Ok(now);
            }
            self.inner.give_way(pause)?;
        }
    }

    /// Takes one step of a vacuum, and begins one where none is under way. Whoever stops in the middle has harmed nothing.
    pub fn vacuum_step(&self, budget_pages: u64) -> Result<VacuumProgress, MaintainError> {
        self.inner.vacuum_step(budget_pages.max(1)).map(|(progress, _)| progress)
    }
}

/// Whether views hold so many pages that a vacuum gives nothing back before they end.
pub(crate) const fn is_too_much(held: u64, used: u64, budget_pages: u64, pages_max: u64) -> bool {
    held > 0 && (held > used / 2 || held.saturating_add(budget_pages.saturating_mul(2)) > pages_max / 4 * 3)
}

impl Inner {
    /// Takes a step for somebody. Returns for how long the disk is to be left to others, too.
    fn vacuum_step(&self, budget_pages: u64) -> Result<(VacuumProgress, Duration), MaintainError> {
        let mut guard = self.disk.lock();
        self.head.lock().check_maintain()?;
        let disk = guard.as_mut().ok_or(MaintainError::Closed)?;
        if disk.vacuum.as_ref().is_none_or(|vacuum| vacuum.is_auto) {
            self.begin_vacuum(disk, None)?;
        }
        let begun = self.now();
        let progress = self.vacuum_on(disk, budget_pages)?;
        Ok((progress, self.pause_since(disk, begun)))
    }

    /// Returns for how long a step that began then leaves the disk to those who commit; zero where nobody does.
    fn pause_since(&self, disk: &mut Disk, begun: Duration) -> Duration {
        let Some(vacuum) = &mut disk.vacuum else { return Duration::ZERO };
        let groups = self.head.lock().groups;
        if std::mem::replace(&mut vacuum.groups, groups) == groups {
            return Duration::ZERO;
        }
        // The clock counts milliseconds.
        let took = self.now().saturating_sub(begun).max(Duration::from_millis(1));
        (took * PAUSE).min(PAUSE_MAX)
    }

    /// Waits so long, or until the store is closed. A world without threads has nobody who commits meanwhile.
    fn give_way(&self, pause: Duration) -> Result<(), MaintainError> {
        let mut left = if self.background.is_running() { pause } else { Duration::ZERO };
        while !left.is_zero() {
            self.head.lock().check_maintain()?;
            let now = left.min(Duration::from_millis(20));
            thread::sleep(now);
            left -= now;
        }
        Ok(())
    }

    /// Begins a vacuum: for somebody who wants one, or by the store itself, with free pages left over.
    fn begin_vacuum(&self, disk: &mut Disk, auto_spare: Option<u64>) -> Result<(), MaintainError> {
        let used = disk.space.lock().counts().used;
        disk.vacuum_error = None;
        disk.vacuum = Some(Vacuum {
            stage: Stage::Pack { tree: 0, key: Vec::new() },
            packing: if auto_spare.is_some() { PACKING_AUTO } else { PACKING },
            spare: auto_spare.unwrap_or(0),
            round: 0,
            ceiling: u64::MAX,
            from_pages: disk.file_pages().map_err(reading_length)?,
            done: 0,
            total: 2 * used,
            is_auto: auto_spare.is_some(),
            disk_was_full: false,
            groups: self.head.lock().groups,
        });
        Ok(())
    }

    /// Takes one step, and what comes after it.
    fn vacuum_on(&self, disk: &mut Disk, budget_pages: u64) -> Result<VacuumProgress, MaintainError> {
        // Views have come to their end since the last checkpoint.
        self.reclaim(disk);
        if self.is_too_much_held(disk, budget_pages) {
            // What is moved now would only be held as well.
            self.set_stage(disk, Stage::Done);
        } else {
            match self.checkpoint_on(disk, Work::Vacuum(budget_pages)) {
                // Packing needs room; moving finds it in the file.
                Err(MaintainError::DiskFull { .. }) if self.is_packing(disk) => {
                    self.set_stage(disk, Stage::Rest(RESTS));
                    if let Some(vacuum) = &mut disk.vacuum {
                        vacuum.disk_was_full = true;
                    }
                }
                result => result?,
            }
        }
        match disk.vacuum_error.take() {
            Some(PageError::Corruption(c)) => return Err(MaintainError::Corruption(c)),
            Some(PageError::Io { during, source } | PageError::DiskFull { during, source }) => {
                return Err(MaintainError::Io { during, source });
            }
            None => {}
        }
        self.go_on(disk)?;
        let progress = self.vacuum_progress(disk)?;
        if progress.finished {
            disk.end_vacuum(None);
        }
        Ok(progress)
    }

    fn is_packing(&self, disk: &Disk) -> bool {
        matches!(disk.vacuum, Some(Vacuum { stage: Stage::Pack { .. }, .. }))
    }

    fn set_stage(&self, disk: &mut Disk, stage: Stage) {
        if let Some(vacuum) = &mut disk.vacuum {
            vacuum.stage = stage;
        }
    }

    /// Whether views hold so much that a step could make one end, or the file is longer for it by a good part already.
    fn is_too_much_held(&self, disk: &Disk, budget_pages: u64) -> bool {
        let space = disk.space.lock();
        let held = space.held_back(disk.header.sequence);
        let pages_max = self.config.snapshot_bytes_max / disk.pages.page_bytes() as u64;
        is_too_much(held, space.counts().used, budget_pages, pages_max)
    }

    /// When everything that was given up is free: cuts the file, and sees what is left to do.
    fn go_on(&self, disk: &mut Disk) -> Result<(), MaintainError> {
        let Some(vacuum) = &disk.vacuum else { return Ok(()) };
        if !matches!(vacuum.stage, Stage::Rest(0) | Stage::Done) {
            return Ok(());
        }
        let mut vacuum = vacuum.clone();
        let cut = disk.cut_tail(self.mapped_pages(disk));
        let mut space = disk.space.lock();
        let counts = space.counts();
        *self.space_counts.lock() = counts;
        cut.map_err(|source| MaintainError::Io { during: "cutting the file", source })?;
        let needed = counts.used + counts.pending + counts.ahead;
        let ceiling = ceiling(needed) + vacuum.spare;
        let above = space.in_use_from(ceiling);
        if matches!(vacuum.stage, Stage::Rest(_)) && vacuum.round < ROUNDS && above > 0 && ceiling < counts.end {
            vacuum.round += 1;
            vacuum.ceiling = ceiling;
            vacuum.stage = Stage::Move(TreesPlace::default());
            vacuum.total = vacuum.total.max(vacuum.done + counts.used);
            space.set_ceiling(Some(ceiling));
        } else {
            vacuum.stage = Stage::Done;
        }
        drop(space);
        disk.vacuum = Some(vacuum);
        Ok(())
    }

    /// Returns how far maps reach that somebody has: of the newest state, and of every view.
    pub(crate) fn mapped_pages(&self, disk: &Disk) -> u64 {
        let (newest, readers) = {
            let visible = self.visible.lock();
            (std::sync::Arc::clone(&visible.layers), visible.readers())
        };
        let held = readers.iter().filter_map(|reader| reader.layers()).chain([newest]);
        let bytes = held.filter_map(|layers| layers.root.map.as_ref().map(|map| map.len() as u64)).max();
        bytes.unwrap_or(0).div_ceil(disk.pages.page_bytes() as u64)
    }

    fn vacuum_progress(&self, disk: &Disk) -> Result<VacuumProgress, MaintainError> {
        let page_bytes = disk.pages.page_bytes() as u64;
        let pages = disk.file_pages().map_err(reading_length)?;
        let space = disk.space.lock();
        let held = space.held_back(disk.header.sequence) + space.counts().ahead;
        drop(space);
        let newest = self.published().root.checkpoint;
        let readers = self.visible.lock().readers();
        let old = readers.iter().filter(|reader| reader.root_checkpoint().is_some_and(|root| root < newest));
        let (from_pages, done, total, finished) = match &disk.vacuum {
            Some(vacuum) => {
                let finished = matches!(vacuum.stage, Stage::Done);
                let total = if finished { vacuum.done } else { vacuum.total.max(vacuum.done + 1) };
                (vacuum.from_pages, vacuum.done, total, finished)
            }
            None => (pages, 0, 0, true),
        };
        Ok(VacuumProgress {
            done,
            total,
            from_bytes: from_pages * page_bytes,
            file_bytes: pages * page_bytes,
            held_bytes: held * page_bytes,
            oldest_reader: old.map(|reader| reader.commit_no).min(),
            disk_was_full: disk.vacuum.as_ref().is_some_and(|vacuum| vacuum.disk_was_full),
            finished,
        })
    }

    /// Shortens the file before it is closed, where that is of use and not dear: nobody needs the room that checkpoints
    /// needed, before the next ones come. Where a view is open, or pages cannot be read or written, the file stays as it is.
    pub(crate) fn shorten(&self) -> Result<(), MaintainError> {
        let Some(AutoVacuum { free_percent, free_bytes }) = self.config.auto_vacuum else { return Ok(()) };
        let mut guard = self.disk.lock();
        // Whoever has only read leaves the file as it was.
        let is_of_use = self.head.lock().checkpoints > 0 && self.visible.lock().readers().is_empty();
        let Some(disk) = guard.as_mut().filter(|_| is_of_use) else { return Ok(()) };
        self.reclaim(disk);
        let page_bytes = disk.pages.page_bytes() as u64;
        let pages = disk.file_pages().map_err(reading_length)?;
        let (shortest, target) = {
            let space = disk.space.lock();
            let counts = space.counts();
            let shortest = ceiling(counts.used + counts.ahead);
            let is_short = counts.used * page_bytes <= CLOSE_READ_BYTES_MAX;
            let moved_max = if is_short { CLOSE_MOVED_BYTES_MAX / page_bytes } else { 0 };
            (shortest, shortest.max(space.last_named(moved_max)))
        };
        let gain = pages.saturating_sub(target);
        // Half of what is waited for while the store is in use, when the next checkpoints need the most of it.
        let is_little = gain * page_bytes < free_bytes || 2 * gain * 100 < pages * u64::from(free_percent);
        if gain == 0 || is_little {
            return Ok(());
        }
        self.begin_vacuum(disk, Some(target - shortest))?;
        // What the last checkpoints gave up comes first; then pages move, once.
        if let Some(vacuum) = &mut disk.vacuum {
            (vacuum.stage, vacuum.round) = (Stage::Rest(RESTS), ROUNDS - 1);
        }
        loop {
            match self.vacuum_on(disk, u64::MAX) {
                Ok(progress) if !progress.finished => {}
                Ok(_) => return Ok(()),
                Err(MaintainError::DiskFull { .. }) => {
                    // It has begun a checkpoint, which needs less room without it.
                    disk.end_vacuum(None);
                    return match self.checkpoint_on(disk, Work::None) {
                        Err(MaintainError::DiskFull { .. }) => Ok(()),
                        result => result,
                    };
                }
                // The store is as sound as it was, or else poisoned, which closing it sees.
                Err(_) => return Ok(()),
            }
        }
    }

    /// What the store does by itself after a checkpoint: a step of a vacuum, where one is under way or due. Returns for
    /// how long it has to leave the disk to others then, if there is more to do.
    pub(crate) fn auto_vacuum(&self) -> Option<Pause> {
        let AutoVacuum { free_percent, free_bytes } = self.config.auto_vacuum?;
        let mut guard = self.disk.lock();
        let disk = guard.as_mut()?;
        self.head.lock().check_maintain().ok()?;
        match &disk.vacuum {
            // Somebody else's.
            Some(vacuum) if !vacuum.is_auto => return None,
            Some(_) => {}
            None => {
                let unneeded = disk.room.unneeded();
                let bytes = unneeded * disk.pages.page_bytes() as u64;
                let pages = disk.file_pages().ok()?;
                if bytes < free_bytes || unneeded * 100 < pages * u64::from(free_percent) || unneeded == 0 {
                    return None;
                }
                // What checkpoints have needed lately they will need again.
                let counts = disk.space.lock().counts();
                let spare = pages.saturating_sub(counts.end - counts.free).saturating_sub(unneeded);
                self.begin_vacuum(disk, Some(spare)).ok()?;
            }
        }
        let begun = self.now();
        let progress = self.vacuum_on(disk, STEP_PAGES);
        match progress {
            Ok(progress) if !progress.finished => {
                let took = self.now().saturating_sub(begun);
                return Some(Pause(self.pause_since(disk, begun).max(took)));
            }
            Ok(VacuumProgress { from_bytes, file_bytes, .. }) => {
                // Something that nobody can foresee holds the file's end: it is not tried again and again.
                let wait = if file_bytes > from_bytes / 8 * 7 { WAIT_AFTER_NOTHING } else { 0 };
                disk.room = Room { wait, ..Room::default() };
            }
            Err(_) => {
                // Told where it matters: by the next commit, or to whoever asks for a vacuum.
                disk.end_vacuum(None);
                disk.room = Room { wait: WAIT_AFTER_NOTHING, ..Room::default() };
            }
        }
        None
    }
}

/// Returns how many pages a file has that was packed, where so many are needed. Steps copy the ways to what they move, three
/// checkpoints' worth, and so do commits that come meanwhile.
pub(crate) fn ceiling(needed: u64) -> u64 {
    needed + needed / 128 + 12
}

fn reading_length(source: std::io::Error) -> MaintainError {
    MaintainError::Io { during: "reading the file's length", source }
}
