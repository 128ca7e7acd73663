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
//! A load (`write_load`) is a checkpoint of rows that were in no table, and of a commit that is in no log.
//!
//! Invariants: no page is written that a header, or a view, can reach; a header is written only when everything that
//! it names is durable; what the log's older generation holds stays there until two headers do not need it. A crash
//! anywhere before 5 is done leaves the last checkpoint and the whole log. An error before 5 for want of room leaves
//! the frozen table in its place, to be written by the next try; any other error poisons.

use std::collections::HashMap;
use std::sync::Arc;

use crate::btree::{self, EditValue, Edits, TreeRoot, value_pages};
use crate::change::Commit;
use crate::disk::Disk;
use crate::env::Env;
use crate::error::{CommitError, MaintainError, Poison};
use crate::limits::{STORED_BYTES_PER_CHECKPOINT, TREES_MAX};
use crate::log::redo;
use crate::log::writer::{AppendError, LogPosition, LogWriter};
use crate::memtable::{IntoTable, Mem, MemCursor, MemValue};
use crate::pager::{PageError, PageRef, PageWriter, Pages, Space};
use crate::readers::LogAt;
use crate::rekey::RekeyStep;
use crate::snapshot::{Layers, Root};
use crate::store::Inner;
use crate::sync::atomic::Ordering;
use crate::sync::{Mutex, MutexGuard};
use crate::txn::commit::{Head, Outcome};
use crate::txn::names::CatalogueEntry;
use crate::txn::view::Held;
use crate::txn::{CATALOGUE, CommitInfo};
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
}

/// One step of something that goes on from checkpoint to checkpoint.
pub(crate) enum Step {
    Rekey(RekeyStep),
    Vacuum(VacuumStep),
}

/// Edits out of a table.
pub(crate) struct TableEdits {
    cursor: MemCursor,
    /// Commits up to this one are in the pages already.
    after: u64,
}

impl TableEdits {
    pub(crate) fn new(table: &Mem, tree: u32) -> Self {
        Self::after(table, tree, 0)
    }

    /// What commits after this one have changed.
    fn after(table: &Mem, tree: u32, after: u64) -> Self {
        let mut cursor = table.cursor_since(tree, after);
        cursor.seek(std::ops::Bound::Unbounded);
        let mut edits = Self { cursor, after };
        edits.settle();
        edits
    }

    fn settle(&mut self) {
        // Commits count from 1: a checkpoint need not look.
        while self.after > 0 && self.cursor.entry().is_some_and(|(_, entry)| entry.commit_no() <= self.after) {
            self.cursor.next();
        }
    }
}

impl Edits for TableEdits {
    fn peek(&self) -> Option<(&[u8], EditValue<'_>)> {
        self.cursor.entry().map(|(key, entry)| {
            let value = match entry.value() {
                MemValue::Put(bytes) => EditValue::Put(bytes),
                MemValue::PutStored(at) => EditValue::PutStored(at),
                MemValue::Deleted => EditValue::Delete,
            };
            (key, value)
        })
    }

    fn advance(&mut self) -> Result<(), PageError> {
        self.cursor.next();
        self.settle();
        Ok(())
    }
}

/// Edits of many trees, one tree after another in the order of their numbers.
pub(crate) trait TreesOfEdits: Edits {
    /// Goes on to the next tree that has edits; from there on those are given, up to the tree's end.
    fn next_tree(&mut self) -> Option<u32>;
}

/// Edits of the catalogue.
struct NameEdits {
    names: Vec<CatalogueEntry>,
    at: usize,
}

impl Edits for NameEdits {
    fn peek(&self) -> Option<(&[u8], EditValue<'_>)> {
        self.names.get(self.at).map(|(name, tree)| (name.as_bytes(), EditValue::Put(tree)))
    }

    fn advance(&mut self) -> Result<(), PageError> {
        self.at += 1;
        Ok(())
    }
}

/// The serial section belongs to a load as long as this lives.
pub(crate) struct Loading<'i>(&'i Inner);

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        let mut head = self.0.head.lock();
        head.loading = false;
        self.0.hand_over(&head);
    }
}

/// Edits of the tree of roots.
struct RootEdits {
    edits: Vec<([u8; 4], [u8; TREE_ROOT_BYTES])>,
    at: usize,
}

impl Edits for RootEdits {
    fn peek(&self) -> Option<(&[u8], EditValue<'_>)> {
        self.edits.get(self.at).map(|(key, value)| (&key[..], EditValue::Put(value)))
    }

    fn advance(&mut self) -> Result<(), PageError> {
        self.at += 1;
        Ok(())
    }
}

/// Bytes of a tree's root in the tree of roots. spec: E-38
pub(crate) const TREE_ROOT_BYTES: usize = 25;

pub(crate) fn encode_root(root: &TreeRoot) -> [u8; TREE_ROOT_BYTES] {
    let mut bytes = [0; TREE_ROOT_BYTES];
    bytes[0] = root.height;
    if let Some(page) = root.page {
        bytes[1..9].copy_from_slice(&page.no.to_le_bytes());
        bytes[9..17].copy_from_slice(&page.proof.to_le_bytes());
    }
    bytes[17..].copy_from_slice(&root.entries.to_le_bytes());
    bytes
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
            _ => None,
        };
        let sweeps = match (work, &step) {
            (Work::Rekey(pages), Some(Step::Rekey(step))) if step.is_sealed() => Some(pages),
            _ => None,
        };
        let written = spilled.and_then(|()| self.freeze(step.as_ref())).and_then(|frozen| match frozen {
            Some(frozen) => Ok(Some((self.write_checkpoint(disk, &frozen, step)?, frozen.table.bytes()))),
            None => Ok(None),
        });
        let mut head = self.head.lock();
        head.checkpointing = false;
        let bytes = written.as_ref().ok().and_then(|written| written.as_ref().map(|(_, bytes)| *bytes));
        head.pace.end(self.now(), bytes, self.config.table_bytes);
        let result = match written {
            Ok(None) => Ok(()),
            Ok(Some((root, _))) => {
                let frozen = self.settle(&mut head, &root);
                head.checkpoints += 1;
                head.checkpoint_from = self.config.table_bytes;
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
            if head.has_shown_unwritten(published.commit_no()) {
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
        let mut fresh = Mem::empty_at(published.commit_no(), self.config.table_bytes as usize);
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
    ) -> Result<Arc<Root>, CheckpointError> {
        let old = Arc::clone(&self.published().root);
        let written = match write_pages(disk, &old, &frozen.table, step.as_mut()) {
            Ok(written) => written,
            Err(error) => {
                disk.give_up();
                return Err(error.into());
            }
        };
        disk.note_room();
        let root = write_root(&self.env, disk, &old, written, frozen.table.commit_no, frozen.then, 1)?;
        match step {
            Some(Step::Rekey(step)) => disk.rekey = Some(step.walk),
            Some(Step::Vacuum(step)) => disk.vacuum = Some(step.vacuum),
            None => {}
        }
        Ok(root)
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

    /// The rest of step 6: views that hold the table that is in pages now let it go.
    fn move_views(&self, frozen: Option<Frozen>, root: &Arc<Root>) {
        let Some(Frozen { table, .. }) = frozen else { return };
        let mut moved = Moved::default();
        let readers = self.visible.lock().readers();
        for reader in readers {
            let Some(layers) = reader.layers() else { continue };
            let same = if layers.frozen.as_ref().is_some_and(|f| Arc::ptr_eq(f, &table)) {
                Some(Arc::clone(&layers.active))
            } else if layers.commit_no() == root.commit_no && layers.root.checkpoint < root.checkpoint {
                Some(Arc::new(Mem::empty_at(root.commit_no, 0)))
            } else {
                None
            };
            if let Some(active) = same {
                moved.exchange(&reader, &layers, || Layers { root: Arc::clone(root), frozen: None, active });
            }
        }
    }

    /// Returns the disk if the store writes.
    pub(crate) fn disk_for_load<'d>(&self, guard: &'d mut Option<Disk>) -> Result<&'d mut Disk, CommitError> {
        self.head.lock().check()?;
        guard.as_mut().ok_or(CommitError::Closed)
    }

    /// Gives a load the serial section: no commit is on its way, none can begin, and all are in pages.
    pub(crate) fn begin_load(&self, disk: &mut Disk) -> Result<Loading<'_>, CommitError> {
        // Most of what is in tables is written while others still commit.
        self.checkpoint_on(disk, Work::None)?;
        self.head.lock().loading = true;
        let loading = Loading(self);
        let mut head = self.head.lock();
        loop {
            head.check()?;
            if head.writer.is_some() && !head.has_open_commits() {
                break;
            }
            self.lead_or_wait(&mut head);
        }
        drop(head);
        self.checkpoint_on(disk, Work::None)?;
        Ok(loading)
    }

    /// A commit that is a checkpoint: its rows go into pages, its number into the header. The caller has the serial
    /// section to itself (`begin_load`). Steps 3 to 7, with these differences:
    ///
    /// - the log goes on in its next generation only when the pages are written: until then every error leaves all as
    ///   it was;
    /// - the header is written twice. No log holds this commit, so that the older header with its log would show a
    ///   state without it, and could not tell;
    /// - views stay where they are: none shows the new root's state yet.
    ///
    /// `told`: what feeds are told; where there is nothing, that they missed a commit.
    pub(crate) fn write_load(
        &self,
        disk: &mut Disk,
        told: Option<&Commit>,
        rows: impl FnOnce(&mut LoadPages<'_>) -> Result<(), PageError>,
    ) -> Result<CommitInfo, CommitError> {
        let newest = self.published();
        assert!(newest.active.is_empty() && newest.frozen.is_none(), "a load begins when all is in pages");
        let old = Arc::clone(&newest.root);
        let commit_no = newest.commit_no() + 1;
        let mut head = self.head.lock();
        let written = self.without_lock(&mut head, &Outcome::default(), || write_load_pages(disk, &old, rows));
        let written = match written {
            Ok(written) => written,
            Err(error) => {
                drop(head);
                disk.give_up();
                return Err(self.load_failed(error));
            }
        };
        let mut writer = match self.take_writer(&mut head) {
            Ok(writer) => writer,
            Err(error) => {
                drop(head);
                disk.give_up();
                return Err(error.into());
            }
        };
        let root = self.without_lock(&mut head, &Outcome::default(), || {
            let then = writer.switch_generation(false).map_err(|error| match error {
                AppendError::DiskFull { during, source } | AppendError::Broken { during, source } => {
                    PageError::Io { during, source }
                }
            })?;
            write_root(&self.env, disk, &old, written, commit_no, then, 2)
        });
        let at = writer.at();
        head.writer = Some(writer);
        let root = match root {
            Ok(root) => root,
            Err(error) => {
                drop(head);
                return Err(self.load_failed(error));
            }
        };
        if let Some(writer) = &mut head.writer {
            writer.skip_to(commit_no);
        }
        let active = Arc::new(Mem::empty_at(commit_no, self.config.table_bytes as usize));
        head.layers = Layers { root, frozen: None, active };
        head.commits += 1;
        head.checkpoints += 1;
        head.checkpoint_from = self.config.table_bytes;
        let at = LogAt { durable_commit: commit_no, ..at };
        self.publish(head.layers.clone(), Some(at), told.map_or(&[], std::slice::from_ref));
        if told.is_none() {
            self.tell_missed();
        }
        drop(head);
        self.reclaim(disk);
        Ok(CommitInfo { commit_no, changed: true })
    }

    /// Says why a load's pages were not written. What was written belongs to nobody.
    pub(crate) fn load_failed(&self, error: PageError) -> CommitError {
        match error {
            PageError::DiskFull { during, source } => {
                CommitError::DiskFull { source: Arc::new(Poison { during, source }) }
            }
            PageError::Io { during, source } => {
                let source = self.poison_with(&mut self.head.lock(), during, source);
                CommitError::Poisoned { source }
            }
            error @ PageError::Corruption(_) => error.into(),
        }
    }

    /// Step 7, and the end of views that hold too much of the file.
    pub(crate) fn reclaim(&self, disk: &mut Disk) {
        self.hold_within_budget(disk, u64::MAX, 0);
    }

    /// Frees what nobody can reach. Where views hold more than they may, or would with `more_pages`, those of the oldest
    /// root end, all of them, as none of them frees anything alone; then those of the next one, below the root
    /// `spare_from`. Returns how many pages of room there are then.
    fn hold_within_budget(&self, disk: &mut Disk, spare_from: u64, more_pages: u64) -> u64 {
        let pages_max = self.config.snapshot_bytes_max / disk.pages.page_bytes() as u64;
        loop {
            let newest = self.published().root.checkpoint;
            let readers = self.visible.lock().readers();
            // Collected anew each time: a view may have been cloned since.
            let mut oldest = (newest, Vec::new());
            for reader in &readers {
                match reader.root_checkpoint() {
                    Some(checkpoint) if checkpoint < oldest.0 => oldest = (checkpoint, vec![reader]),
                    Some(checkpoint) if checkpoint == oldest.0 => oldest.1.push(reader),
                    _ => {}
                }
            }
            let (oldest, views) = oldest;
            disk.forget_keys(oldest);
            let durable = disk.header.sequence;
            let mut space = disk.space.lock();
            space.reclaim(durable, oldest);
            let held = space.held_back(durable) + more_pages;
            *self.space_counts.lock() = space.counts();
            drop(space);
            if held <= pages_max {
                return pages_max - held;
            }
            if oldest >= newest.min(spare_from) || !views.into_iter().all(|view| self.end_view(view)) {
                return 0;
            }
        }
    }

    /// False: somebody is in the middle of a long look.
    fn end_view(&self, view: &Held) -> bool {
        let ended = view.exchange(None);
        self.snapshots_ended.fetch_add(u64::from(ended), Ordering::Relaxed);
        ended
    }

    /// Step 1. A view that was taken before the last checkpoint's end, and that no root says exactly, holds a table
    /// of its own. It gets pages instead: the same ones that a checkpoint at its commit would have written. No
    /// header names them; they are free again when the view goes, or after a crash.
    ///
    /// Views of one root are written in the order of their commits, each onto the pages of the one before, so that what
    /// they have in common is written once. What does not fit into `snapshot_bytes_max` is not written: first older
    /// views end for it, then those that have no pages yet.
    fn spill_old_views(&self, disk: &mut Disk) -> Result<(), CheckpointError> {
        let newest = self.published();
        let readers = self.visible.lock().readers();
        let mut old: Vec<(Arc<Held>, Arc<Layers>)> = Vec::new();
        for reader in readers {
            let Some(layers) = reader.layers() else { continue };
            let has_tables = !layers.active.is_empty() || layers.frozen.is_some();
            if has_tables && !Arc::ptr_eq(&layers.root, &newest.root) {
                old.push((reader, layers));
            }
        }
        old.sort_by_key(|(_, layers)| (layers.root.checkpoint, layers.commit_no()));
        let mut last: Option<Spilled> = None;
        let (mut room, mut pages) = (0, 0);
        for (reader, layers) in old {
            let base = &layers.root;
            let before = last.take().filter(|last| Arc::ptr_eq(&last.base, base));
            let is_there = before.as_ref().is_some_and(|last| last.root.commit_no == layers.commit_no());
            if before.is_none() {
                room = 0;
            }
            if room == 0 && !is_there && before.as_ref().is_none_or(|last| !last.is_full) {
                room = self.hold_within_budget(disk, base.checkpoint, pages);
            }
            let mut last_root = before.map_or_else(|| Arc::clone(base), |last| last.root);
            let is_full = room == 0 && !is_there;
            if is_full {
                // One that cannot be ended now keeps its table, and is looked at again by the next checkpoint.
                self.end_view(&reader);
                last = Some(Spilled { base: Arc::clone(base), root: last_root, is_full });
                continue;
            }
            if !is_there {
                let (root, written) = self.spill(disk, &layers, &last_root)?;
                last_root = root;
                pages += written;
                room = room.saturating_sub(written);
            }
            let root = last_root;
            let active = Arc::new(Mem::empty_at(root.commit_no, 0));
            reader.exchange(Some(Arc::new(Layers { root: Arc::clone(&root), frozen: None, active })));
            last = Some(Spilled { base: Arc::clone(base), root, is_full });
        }
        Ok(())
    }

    /// Writes what a view's tables say beyond `from`, which is its root, or what was spilled of an older view of that
    /// root. Returns how many pages that took, too.
    fn spill(&self, disk: &mut Disk, layers: &Layers, from: &Arc<Root>) -> Result<(Arc<Root>, u64), CheckpointError> {
        let mut trees = from.trees.clone();
        let mut writer = disk.spill_writer(from.checkpoint + 1, from.map.as_deref());
        for table in layers.frozen.iter().chain([&layers.active]) {
            for tree in table.trees() {
                let root = tree_mut(&mut trees, tree);
                *root = btree::apply(&mut writer, root, &mut TableEdits::after(table, tree, from.commit_no))?;
            }
        }
        let written = writer.finish()?;
        let end = disk.pages_in_file(|space| space.end());
        let end = end.map_err(|source| PageError::Io { during: "reading the file's length", source })?;
        let map = disk.pages.map_to(end, from.map.as_ref())?;
        let root = Root {
            checkpoint: from.checkpoint,
            commit_no: layers.commit_no(),
            trees,
            roots: TreeRoot::default(),
            space: None,
            pages: Arc::clone(&disk.pages),
            map,
        };
        Ok((Arc::new(root), written))
    }
}

/// The pages that a view was given last.
struct Spilled {
    /// The root that it grew from.
    base: Arc<Root>,
    root: Arc<Root>,
    /// There is no room for another one.
    is_full: bool,
}

type Written = (Vec<TreeRoot>, TreeRoot, PageRef);

/// Steps 4 and 5: makes written pages durable, and names them in as many headers as are said.
pub(crate) fn write_root(
    env: &Env,
    disk: &mut Disk,
    old: &Root,
    (trees, roots, space): Written,
    commit_no: u64,
    then: LogPosition,
    headers: usize,
) -> Result<Arc<Root>, PageError> {
    let io = |during| move |source| PageError::Io { during, source };
    disk.sync().map_err(io("syncing pages"))?;
    let page_count = disk.space.lock().named_end();
    let wall_ms = env.clock.wall_ms();
    for _ in 0..headers {
        disk.write_header(|h| {
            h.commit_no = commit_no;
            h.durable_floor = h.durable_floor.max(commit_no);
            h.log = then;
            h.roots = roots;
            h.space = Some(space);
            h.page_count = page_count;
            h.wall_ms = wall_ms;
        })
        .map_err(io("writing the header"))?;
    }
    let map = disk.pages.map_to(page_count, old.map.as_ref())?;
    Ok(Arc::new(Root {
        checkpoint: disk.header.sequence,
        commit_no,
        trees,
        roots,
        space: Some(space),
        pages: Arc::clone(&disk.pages),
        map,
    }))
}

/// Writes the pages of a checkpoint; returns the trees, the tree of their roots, and the space.
fn write_pages(disk: &mut Disk, old: &Arc<Root>, table: &Mem, step: Option<&mut Step>) -> Result<Written, PageError> {
    adopt_stored(disk, old, table)?;
    let mut writer = disk.writer(old.map.as_deref());
    let mut trees = NewTrees::new(old.trees.clone());
    for tree in table.trees() {
        trees.apply(&mut writer, tree, &mut TableEdits::new(table, tree))?;
    }
    for at in table.superseded_stored() {
        btree::release_value(&mut writer, &at)?;
    }
    trees.finish(writer, old, step)
}

/// Writes the pages of a load; as `write_pages`.
fn write_load_pages(
    disk: &mut Disk,
    old: &Arc<Root>,
    rows: impl FnOnce(&mut LoadPages<'_>) -> Result<(), PageError>,
) -> Result<Written, PageError> {
    let pages = Arc::clone(&disk.pages);
    let (writer, space) = disk.load_writer(old.map.as_deref());
    let mut load = LoadPages { pages: &pages, space, writer, trees: NewTrees::new(old.trees.clone()) };
    rows(&mut load)?;
    load.trees.finish(load.writer, old, None)
}

/// The new trees of a load, to which its rows are applied.
pub(crate) struct LoadPages<'w> {
    pub(crate) pages: &'w Pages,
    pub(crate) space: &'w Mutex<Space>,
    writer: PageWriter<'w>,
    trees: NewTrees,
}

impl LoadPages<'_> {
    /// Puts names of trees and their numbers into the catalogue; before any other tree's rows. Names ascend.
    pub(crate) fn apply_names(&mut self, names: Vec<CatalogueEntry>) -> Result<(), PageError> {
        self.trees.apply(&mut self.writer, CATALOGUE, &mut NameEdits { names, at: 0 })
    }

    /// Applies rows, tree by tree.
    pub(crate) fn apply(&mut self, rows: &mut impl TreesOfEdits) -> Result<(), PageError> {
        while let Some(tree) = rows.next_tree() {
            self.trees.apply(&mut self.writer, tree, rows)?;
        }
        Ok(())
    }
}

/// Trees on their way from one root to the next.
pub(crate) struct NewTrees(Vec<TreeRoot>);

impl NewTrees {
    pub(crate) fn new(trees: Vec<TreeRoot>) -> Self {
        Self(trees)
    }

    fn apply(&mut self, writer: &mut PageWriter<'_>, tree: u32, edits: &mut dyn Edits) -> Result<(), PageError> {
        let root = tree_mut(&mut self.0, tree);
        *root = btree::apply(writer, root, edits)?;
        Ok(())
    }

    /// Writes the tree of roots and the space, and before them what a step has to write anew.
    pub(crate) fn finish(
        self,
        mut writer: PageWriter<'_>,
        old: &Root,
        mut step: Option<&mut Step>,
    ) -> Result<Written, PageError> {
        let Self(mut trees) = self;
        debug_assert!(trees.len() <= TREES_MAX + 1, "tree numbers are checked where they are given out");
        let is_last = match &mut step {
            Some(Step::Rekey(step)) => !step.is_sealed() && step.seal_trees(&mut writer, &mut trees)?,
            Some(Step::Vacuum(step)) => step.change_trees(&mut writer, &mut trees)?,
            None => false,
        };
        let before = |tree: usize| old.trees.get(tree).copied().unwrap_or_default();
        let changed = trees.iter().enumerate().filter(|&(tree, root)| *root != before(tree));
        let edits = changed.map(|(tree, root)| ((tree as u32).to_be_bytes(), encode_root(root))).collect();
        let mut roots = btree::apply(&mut writer, &old.roots, &mut RootEdits { edits, at: 0 })?;
        match step.filter(|_| is_last) {
            Some(Step::Rekey(step)) => step.seal_rest(&mut writer, &mut roots)?,
            Some(Step::Vacuum(step)) => step.move_rest(&mut writer, &mut roots)?,
            None => {}
        }
        let space = writer.save_space()?;
        writer.finish()?;
        Ok((trees, roots, space))
    }
}

/// Long values that were written ahead become pages like others: the header in the making names them, and those that
/// the table itself has superseded are released like any that it replaces.
pub(crate) fn adopt_stored(disk: &Disk, old: &Arc<Root>, table: &Mem) -> Result<(), PageError> {
    for at in table.stored().chain(table.superseded_stored()) {
        let mut numbers = Vec::new();
        value_pages(&**old, &at, &mut |no| numbers.push(no))?;
        let mut space = disk.space.lock();
        if let Some(no) = numbers.into_iter().find(|&no| !space.adopt(no)) {
            return Err(PageError::node(no, disk.pages.page_bytes(), "a value of the log names it, and it is free"));
        }
    }
    Ok(())
}

pub(crate) fn tree_mut(trees: &mut Vec<TreeRoot>, tree: u32) -> &mut TreeRoot {
    let index = tree as usize;
    if trees.len() <= index {
        trees.resize(index + 1, TreeRoot::default());
    }
    &mut trees[index]
}

/// Views that share layers go on sharing them.
#[derive(Default)]
struct Moved(HashMap<usize, Arc<Layers>>);

impl Moved {
    fn exchange(&mut self, reader: &Held, old: &Arc<Layers>, new: impl FnOnce() -> Layers) {
        // The address is a name only as long as somebody holds the old layers, and `old` does: the map is filled
        // and asked within one settling, in which each reader that is not moved yet holds its own.
        let new = self.0.entry(Arc::as_ptr(old) as usize).or_insert_with(|| Arc::new(new()));
        reader.exchange(Some(Arc::clone(new)));
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
