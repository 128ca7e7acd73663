//! From table to pages: the one way by which the main file changes.
//!
//! ```text
//! 1 spill     views older than the last checkpoint get pages of their own, and let their tables go
//! 2 freeze    with the log's writer in hand: the log goes on in its next generation, the table is frozen, commits
//!             go into a new one
//! 3 apply     the frozen table, tree by tree, to the immutable pages of the last checkpoint; new pages only
//! 4 sync      pages
//! 5 header    into the slot that does not hold the newest one; sync
//! 6 settle    newest layers and every view move over to the new root; the frozen table goes
//! 7 reclaim   pages that neither header nor any view can reach are free again
//! ```
//!
//! A load (`load/commit.rs`) is a checkpoint of rows that were in no table, and of a commit that is in no log.
//!
//! Invariants: no page is written that a header, or a view, can reach; a header is written only when everything that
//! it names is durable; what the log's older generation holds stays there until two headers do not need it. A crash
//! anywhere before 5 is done leaves the last checkpoint and the whole log. An error before 5 for want of room leaves
//! the frozen table in its place, to be written by the next try; any other error poisons.

pub(crate) mod due;
mod edits;
mod pages;
mod views;

use std::sync::Arc;

use self::due::Done;
pub(crate) use self::edits::{TREE_ROOT_BYTES, TableEdits, TreesOfEdits};
use self::pages::write_pages;
pub(crate) use self::pages::{LoadPages, NewTrees, adopt_stored, tree_mut, write_load_pages, write_root};
use crate::btree::TreeRoot;
use crate::disk::Disk;
use crate::error::MaintainError;
use crate::limits::STORED_BYTES_PER_CHECKPOINT;
use crate::log::redo;
use crate::log::writer::{AppendError, LogPosition, LogWriter};
use crate::memtable::{IntoTable, Mem};
use crate::pager::PageError;
use crate::rekey::RekeyStep;
use crate::snapshot::{Layers, Root};
use crate::store::Inner;
use crate::sync::MutexGuard;
use crate::txn::head::{Head, Outcome};
use crate::vacuum::VacuumStep;

/// A frozen table, and where the log goes on after it.
#[derive(Clone)]
pub(crate) struct Frozen {
    pub(crate) table: Arc<Mem>,
    pub(crate) then: LogPosition,
}

/// What a checkpoint does beside writing the table, by about so many pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    None,
    /// Goes on with the change of the master key, if one is under way.
    Rekey(u64),
    /// Goes on with a vacuum, if one is under way.
    Vacuum(u64),
    /// Goes on with the end of old versions, though no commit came.
    Purge,
}

/// One step of something that goes on from checkpoint to checkpoint.
pub(crate) enum Step {
    Rekey(RekeyStep),
    Vacuum(VacuumStep),
    /// Every checkpoint takes one.
    Purge,
}

impl Inner {
    /// Writes a checkpoint if tables or log are full, or lets the store's thread do it.
    pub(crate) fn checkpoint_if_due(&self) {
        let due = {
            let head = self.head.lock();
            self.is_due(&head)
        };
        if due {
            if self.background.is_running() {
                self.background.request();
            } else {
                self.checkpoint_where(|head| self.is_due(head));
            }
        }
    }

    /// Writes a checkpoint, unless somebody else has while the caller waited for its turn: many callers see at the same
    /// time that one is due. An error is told where it matters: a full disk to the commits that wait for room, all else
    /// by poison.
    pub(crate) fn checkpoint_where(&self, is_wanted: impl FnOnce(&Head) -> bool) {
        let mut guard = self.disk.lock();
        let is_wanted = is_wanted(&self.head.lock());
        if let Some(disk) = guard.as_mut().filter(|_| is_wanted) {
            let _ = self.checkpoint_on(disk, Work::None);
        }
    }

    fn is_due(&self, head: &Head) -> bool {
        let fill = head.layers.active.bytes();
        !head.checkpointing
            && head.check_maintain().is_ok()
            && (fill >= head.checkpoint_from
                || head.layers.active.stored_bytes() >= STORED_BYTES_PER_CHECKPOINT
                || (head.log_bytes() >= self.config.log_bytes && !head.layers.active.is_empty()))
    }

    /// Writes everything that is published into pages. Commits and readers go on meanwhile.
    pub(crate) fn checkpoint(&self) -> Result<(), MaintainError> {
        self.checkpoint_with(Work::None)
    }

    /// A checkpoint that does something else, too.
    pub(crate) fn checkpoint_with(&self, work: Work) -> Result<(), MaintainError> {
        let mut guard = self.disk.lock();
        let Some(disk) = guard.as_mut() else { return self.head.lock().check_maintain() };
        self.checkpoint_on(disk, work)
    }

    pub(crate) fn checkpoint_on(&self, disk: &mut Disk, work: Work) -> Result<(), MaintainError> {
        self.head.lock().check_maintain()?;
        let _unwinding = PoisonOnPanic { inner: self, was_panicking: std::thread::panicking() };
        // While views are given pages, too, writers are slowed down rather than stopped.
        {
            let mut head = self.head.lock();
            head.checkpointing = true;
            let from = [head.layers.active.bytes(), head.log_bytes()];
            head.pace.begin_views(self.now(), from);
        }
        let spilled = self.spill_old_views(disk);
        // Looked at before the freeze: what was sealed with the old key and committed is in the table that is frozen. A
        // table that was frozen by a try before this one may be older than the new key, and so may the log behind it.
        let may_step = work != Work::None && self.head.lock().frozen.is_none();
        let step = match work {
            Work::Rekey(pages) if may_step => disk.next_rekey_step(pages).map(Step::Rekey),
            Work::Vacuum(pages) if may_step => disk.next_vacuum_step(pages).map(Step::Vacuum),
            Work::Purge => Some(Step::Purge),
            _ => None,
        };
        let sweeps = match (work, &step) {
            (Work::Rekey(pages), Some(Step::Rekey(step))) if step.is_sealed() => Some(pages),
            _ => None,
        };
        let written = spilled.and_then(|()| self.freeze(step.as_ref())).and_then(|frozen| match frozen {
            Some(frozen) => self.write_checkpoint(disk, &frozen, step).map(Some),
            None => Ok(None),
        });
        let mut head = self.head.lock();
        head.checkpointing = false;
        let done = written.as_ref().ok().and_then(|written| written.as_ref().and_then(|(_, done)| *done));
        let full = self.config.table_bytes;
        let from = head.checkpoint_from.min(full);
        head.pace.end(self.now(), done.map(|done| done.table_bytes), from, full);
        let result = match written {
            Ok(None) => Ok(()),
            Ok(Some((root, _))) => {
                let frozen = self.settle(&mut head, &root);
                head.checkpoints += 1;
                head.checkpoint_from = done.map_or(from, |done| due::next(full, from, done));
                drop(head);
                self.move_views(frozen, &root);
                self.reclaim(disk);
                let swept = sweeps.map_or(Ok(()), |pages| self.sweep(disk, pages));
                self.count_rekey(disk);
                self.turn.notify_all();
                return swept;
            }
            Err(CheckpointError::Stopped(error)) => Err(error),
            Err(CheckpointError::Page(PageError::DiskFull { during, source })) => {
                head.checkpoints_failed += 1;
                head.checkpoint_from = head.layers.active.bytes() + self.config.table_bytes / 4;
                Err(MaintainError::DiskFull { during, source })
            }
            Err(CheckpointError::Page(PageError::Io { during, source })) => {
                let source = self.poison_with(&mut head, during, source);
                Err(MaintainError::Poisoned { source })
            }
            Err(CheckpointError::Page(PageError::Corruption(c))) => {
                // What cannot be read cannot be carried over; writing on would only fill the log.
                let source = std::io::Error::other(c.clone());
                self.poison_with(&mut head, "reading pages for a checkpoint", source);
                Err(MaintainError::Corruption(c))
            }
        };
        drop(head);
        self.turn.notify_all();
        result
    }

    /// Waits until the log's writer is at home, and takes it: nobody else leads until it is back.
    pub(crate) fn take_writer(&self, head: &mut MutexGuard<'_, Head>) -> Result<Box<LogWriter>, MaintainError> {
        loop {
            head.check_maintain()?;
            if let Some(writer) = head.writer.take() {
                return Ok(writer);
            }
            self.turn.wait(head);
        }
    }

    /// Step 2. Returns the frozen table, the one of a try before this one where that failed; `None` where there is
    /// nothing to write, unless the checkpoint takes a step: then the log goes on in its next generation all the same; for
    /// a change of the master key in an empty file, and nothing behind that place is sealed with a key of the past.
    fn freeze(&self, step: Option<&Step>) -> Result<Option<Frozen>, CheckpointError> {
        let rekeys = matches!(step, Some(Step::Rekey(_)));
        let mut head = self.head.lock();
        let mut writer = self.take_writer(&mut head)?;
        let frozen = loop {
            if let Some(frozen) = &head.frozen {
                break Some(frozen.clone());
            }
            let published = self.published();
            if published.active.is_empty() && step.is_none() {
                break None;
            }
            // Commits that were shown without being written belong to the frozen table, and their group to the
            // generation that ends here.
            if head.has_shown_unwritten() {
                head.writer = Some(writer);
                self.lead_or_wait(&mut head);
                writer = self.take_writer(&mut head)?;
                continue;
            }
            let switched = self.without_lock(&mut head, &Outcome::default(), || writer.switch_generation(rekeys));
            match switched {
                Ok(then) => break Some(self.freeze_table(&mut head, &published, then)),
                Err(AppendError::DiskFull { during, source }) => {
                    head.writer = Some(writer);
                    self.hand_over(&head);
                    return Err(PageError::DiskFull { during, source }.into());
                }
                Err(AppendError::Broken { during, source }) => {
                    head.writer = Some(writer);
                    return Err(PageError::Io { during, source }.into());
                }
            }
        };
        head.checkpointing = frozen.is_some();
        if let Some(Frozen { table, .. }) = &frozen {
            let from = [head.layers.active.bytes(), writer.log_bytes()];
            head.pace.begin_table(self.now(), table.bytes(), self.config.table_bytes, from);
        }
        head.writer = Some(writer);
        self.hand_over(&head);
        Ok(frozen)
    }

    /// What is published is frozen. Commits that wait in the open group are in the newest table, too: they are
    /// taken over into a new one, out of the group's own bytes.
    fn freeze_table(&self, head: &mut Head, published: &Layers, then: LogPosition) -> Frozen {
        let mut fresh = published.active.after(published.commit_no(), self.config.table_bytes as usize);
        let shown = Arc::new(fresh.clone());
        let (payload, first, count) = head.open_payload();
        if count > 0 {
            redo::decode(payload, first, count, &mut IntoTable::new(&mut fresh))
                .expect("the open group was encoded by this program, in this process");
        }
        let frozen = Frozen { table: Arc::clone(&published.active), then };
        let root = Arc::clone(&published.root);
        head.layers =
            Layers { root: Arc::clone(&root), frozen: Some(Arc::clone(&frozen.table)), active: Arc::new(fresh) };
        head.frozen = Some(frozen.clone());
        self.publish(Layers { root, frozen: Some(Arc::clone(&frozen.table)), active: shown }, None, &[]);
        frozen
    }

    /// Steps 3 to 5.
    fn write_checkpoint(
        &self,
        disk: &mut Disk,
        frozen: &Frozen,
        mut step: Option<Step>,
    ) -> Result<(Arc<Root>, Option<Done>), CheckpointError> {
        let old = Arc::clone(&self.published().root);
        let mut purge = disk.purge.clone();
        let now_ms = self.env.clock.wall_ms();
        let mut written = write_pages(disk, &old, &frozen.table, step.as_mut(), (&mut purge, now_ms));
        written = match written {
            Err(error) if matches!(step, Some(Step::Vacuum(_))) && error.is_unreadable() => {
                // A vacuum reads pages that nobody else may ask for. What it cannot read ends it, not the store.
                disk.give_up();
                disk.end_vacuum(Some(error));
                (step, purge) = (None, disk.purge.clone());
                write_pages(disk, &old, &frozen.table, None, (&mut purge, now_ms))
            }
            written => written,
        };
        let written = match written {
            Ok(written) => written,
            Err(error) => {
                disk.give_up();
                return Err(error.into());
            }
        };
        disk.note_room();
        // What a step has replaced says nothing about the next table.
        let done = step.is_none().then(|| {
            let space = disk.space.lock();
            let entries = |trees: &[TreeRoot]| trees.iter().map(|tree| tree.entries).sum::<u64>();
            Done {
                table_bytes: frozen.table.bytes(),
                rows: frozen.table.entries(),
                new_rows: entries(&written.0).saturating_sub(entries(&old.trees)),
                replaced_pages: space.replaced(),
                used_pages: space.counts().used,
            }
        });
        let root = write_root(&self.env, disk, &old, written, frozen.table.commit_no, frozen.then, 1)?;
        disk.purge = purge;
        match step {
            Some(Step::Rekey(step)) => disk.rekey = Some(step.walk),
            Some(Step::Vacuum(step)) => disk.vacuum = Some(step.vacuum),
            Some(Step::Purge) | None => {}
        }
        Ok((root, done))
    }

    /// Step 6, as far as writers have to wait for it. Returns the table that was frozen, for `move_views`: freeing it
    /// takes a while.
    fn settle(&self, head: &mut MutexGuard<'_, Head>, root: &Arc<Root>) -> Option<Frozen> {
        // With the writer at home no group is on its way that would publish the old root again.
        while head.writer.is_none() && head.check_maintain().is_ok() {
            self.turn.wait(head);
        }
        head.layers.root = Arc::clone(root);
        head.layers.frozen = None;
        let active = Arc::clone(&self.published().active);
        self.publish(Layers { root: Arc::clone(root), frozen: None, active }, None, &[]);
        head.frozen.take()
    }
}

/// A storage that panics in the middle of a checkpoint leaves pages taken and released that no header will name: what
/// is in use is not known any more, and nobody may write on.
struct PoisonOnPanic<'i> {
    inner: &'i Inner,
    /// A store may be closed while its owner unwinds, which is no fault of ours.
    was_panicking: bool,
}

impl Drop for PoisonOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.was_panicking {
            let source = std::io::Error::other("the storage panicked");
            self.inner.poison_with(&mut self.inner.head.lock(), "writing a checkpoint", source);
        }
    }
}

/// Why a checkpoint was not written.
pub(crate) enum CheckpointError {
    /// The store does not write any more, or was never open for it.
    Stopped(MaintainError),
    Page(PageError),
}

impl From<PageError> for CheckpointError {
    fn from(error: PageError) -> Self {
        Self::Page(error)
    }
}

impl From<MaintainError> for CheckpointError {
    fn from(error: MaintainError) -> Self {
        Self::Stopped(error)
    }
}
