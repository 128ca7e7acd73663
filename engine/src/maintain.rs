//! Keeping a store in order: flush, close, verify, and say how it is.

use std::sync::Arc;

use crate::disk::{Named, verify};
use crate::error::MaintainError;
use crate::log::writer::{AppendError, LogWriter};
use crate::open::headers_hold;
use crate::options::RekeyProgress;
use crate::store::{Inner, Store};
use crate::superblock::Superblock;
use crate::sync::MutexGuard;
use crate::sync::atomic::Ordering;
use crate::txn::head::{Head, Outcome, Running};

/// How a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// The newest visible commit.
    pub commit_no: u64,
    /// The newest commit known to be durable.
    pub durable_commit_no: u64,
    /// The last commit that is in pages; what comes after it is in the log and in memory.
    pub checkpoint_commit_no: u64,
    /// Commits since opening.
    pub commits: u64,
    /// Groups written since opening.
    pub groups: u64,
    /// Data syncs of groups since opening: one per group that holds a durable commit.
    pub syncs: u64,
    /// Checkpoints since opening.
    pub checkpoints: u64,
    /// Checkpoints that found no room on the disk.
    pub checkpoints_failed: u64,
    /// Groups that opening found in the log.
    pub recovered_groups: u64,
    /// False where opening could not see that it found all that was committed: compare with a backup, or with whoever the
    /// store syncs with. So it is where one of the two headers could not be read, or is not what was written there
    /// last, and the log does not show that it reaches what the newest one named: it may be gone, or end too early. And where opening could not look through
    /// all that lies behind the log's end, which it then took for a torn tail: somebody had chosen values that look like
    /// thousands of groups inside of each other, in a store without encryption.
    pub recovered_surely: bool,
    /// Bytes of the log that the next checkpoint makes superfluous, padding included.
    pub log_bytes: u64,
    /// Bytes of all log files, which are written over again and again.
    pub log_file_bytes: u64,
    /// Bytes of the main file's pages, free ones included.
    pub page_file_bytes: u64,
    /// Bytes of pages that nothing uses and that the next checkpoints will.
    pub free_bytes: u64,
    /// Bytes of pages that only old views, or the last two headers, still need.
    pub held_bytes: u64,
    /// Bytes of pages of streamed values that the last checkpoint does not name, as it ended: their transactions were
    /// open, or committed since it began.
    pub ahead_bytes: u64,
    /// Bytes of memory that tables hold, the newest layers' only.
    pub table_bytes: u64,
    /// At which the next checkpoint is due: `Memory::table_bytes`, or less where smaller tables make the file shorter.
    pub table_bytes_max: u64,
    /// Bytes of the page cache that are in use.
    pub cache_bytes: u64,
    /// Pages that were not in the cache when they were asked for.
    pub cache_misses: u64,
    /// Entries in pages; those in tables come on top, or replace them, or take them away.
    pub entries: u64,
    /// Views and transactions that are open.
    pub readers: u64,
    /// The commit of the oldest of them.
    pub oldest_reader: Option<u64>,
    /// For how many milliseconds it has been open.
    pub oldest_reader_ms: u64,
    /// Views that were ended because they held more than `Options::snapshot_bytes_max`.
    pub snapshots_ended: u64,
    /// Milliseconds that writers were slowed down because a checkpoint was behind.
    pub paced_ms: u64,
    /// How far a change of the master key is, if one is under way: begun by `Store::rekey`, here or before the file was
    /// opened, and not ended by `Store::rekey_step` yet.
    pub rekey: Option<RekeyProgress>,
    /// What stopped the store from writing, if anything did.
    pub poisoned: Option<String>,
}

/// How far a verification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Bytes of pages that were read and found right.
    pub done_bytes: u64,
    /// Bytes of pages that are in use.
    pub total_bytes: u64,
}

/// What a verification found to be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// The commit whose pages it was about: the last checkpoint's.
    pub commit_no: u64,
    /// Trees that have entries.
    pub trees: u64,
    /// Pages read.
    pub pages: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Entries found in order.
    pub entries: u64,
    /// Superseded versions, in order as well.
    pub versions: u64,
    /// One of the file's two headers cannot be read, as after a power cut while it was written, or where the disk lost it.
    /// The other one and the log have every commit, unless `recovered_surely` says otherwise. Opening the store for writing
    /// writes it anew, and so does one of the next two checkpoints of whoever has it open.
    pub header_damaged: bool,
    /// What `Stats::recovered_surely` says: where it is false, all that is here is sound, and commits after it may be missing.
    pub recovered_surely: bool,
}

impl Store {
    /// Returns how the store is. Waits for nothing but two short locks.
    pub fn stats(&self) -> Stats {
        let inner = &self.inner;
        let (layers, log, readers) = {
            let visible = inner.visible.lock();
            (Arc::clone(&visible.layers), visible.log, visible.readers())
        };
        let pages = &layers.root.pages;
        let cache = pages.cache_stats();
        let page_bytes = pages.page_bytes() as u64;
        let space = *inner.space_counts.lock();
        let oldest = readers.iter().min_by_key(|r| r.commit_no);
        let rekey = inner.key_state.lock().rekey;
        let now = inner.env.clock.monotonic_ms();
        let head = inner.head.lock();
        let poisoned = match &head.state {
            Running::Poisoned(poison) => Some(format!("{poison}: {}", poison.source)),
            _ => None,
        };
        Stats {
            commit_no: layers.commit_no(),
            durable_commit_no: log.durable_commit,
            checkpoint_commit_no: layers.root.commit_no,
            commits: head.commits,
            groups: head.groups,
            syncs: head.syncs,
            checkpoints: head.checkpoints,
            checkpoints_failed: head.checkpoints_failed,
            recovered_groups: inner.recovered.groups,
            recovered_surely: inner.recovered_surely,
            log_bytes: log.tail,
            log_file_bytes: log.files,
            page_file_bytes: space.end * page_bytes,
            free_bytes: space.free * page_bytes,
            held_bytes: space.pending * page_bytes,
            ahead_bytes: space.ahead * page_bytes,
            table_bytes: layers.table_bytes(),
            table_bytes_max: head.checkpoint_from.min(inner.config.table_bytes),
            cache_bytes: cache.used * page_bytes,
            cache_misses: cache.misses,
            // Numbers from the disk, which only `verify` counts.
            entries: layers.root.trees.iter().skip(1).fold(0, |sum, tree| sum.saturating_add(tree.entries)),
            readers: readers.len() as u64,
            oldest_reader: oldest.map(|r| r.commit_no),
            oldest_reader_ms: oldest.map_or(0, |r| now.saturating_sub(r.since_ms)),
            snapshots_ended: inner.snapshots_ended.load(Ordering::Relaxed),
            paced_ms: head.pace.waited.as_millis() as u64,
            rekey,
            poisoned,
        }
    }

    /// Reads every page of the last checkpoint again, from the disk where it is not in the cache: checksums, seals,
    /// the proofs that parents hold, the order of keys, and that the space knows which pages are used. Readers and
    /// writers go on meanwhile; as a view does, it holds the pages that they replace, and ends with `SnapshotTooOld` where
    /// those are more than `Options::snapshot_bytes_max`. What was committed since is in the log, which opening checks.
    pub fn verify(&self, progress: &mut dyn FnMut(VerifyProgress)) -> Result<VerifyReport, MaintainError> {
        if matches!(self.inner.head.lock().state, Running::Closed) {
            return Err(MaintainError::Closed);
        }
        let kept = self.inner.keep_root().ok_or(MaintainError::Closed)?;
        let root = &kept.root;
        let named = Named {
            trees: &root.trees,
            roots: &root.roots,
            space: root.space,
            checkpoint: root.checkpoint,
            commit_no: root.commit_no,
        };
        let checked = verify(&kept, &named, progress);
        let checked = checked.map(|report| {
            let header_damaged = self.inner.is_header_damaged();
            VerifyReport { header_damaged, recovered_surely: self.inner.recovered_surely, ..report }
        });
        checked.map_err(|error| match error {
            _ if self.inner.is_closed() => MaintainError::Closed,
            _ if kept.has_ended() => MaintainError::SnapshotTooOld { commit_no: root.commit_no },
            MaintainError::Corruption(_) if self.inner.is_overtaken() => MaintainError::Overtaken,
            error => error,
        })
    }
}

impl Inner {
    /// Looks at the headers as they lie on the disk now.
    fn is_header_damaged(&self) -> bool {
        let holds = match (&*self.disk.lock(), &self.read_only_of) {
            (Some(disk), _) => disk.headers_hold(),
            (None, Some((file, _))) => headers_hold(&**file, true),
            (None, None) => true,
        };
        self.header_damaged || !holds
    }

    pub(crate) fn flush(&self) -> Result<(), MaintainError> {
        let mut head = self.head.lock();
        loop {
            let writer = self.take_writer(&mut head)?;
            let open = head.has_open_commits();
            head.writer = Some(writer);
            if !open {
                break;
            }
            self.lead_or_wait(&mut head);
        }
        let mut writer = self.take_writer(&mut head)?;
        if writer.is_durable() {
            head.writer = Some(writer);
            self.hand_over(&head);
            return Ok(());
        }
        let result = self.without_lock(&mut head, &Outcome::default(), || writer.sync());
        head.syncs += 1;
        let log = writer.at();
        head.writer = Some(writer);
        self.hand_over(&head);
        match result {
            Ok(()) => {
                self.visible.lock().log = log;
                Ok(())
            }
            Err(AppendError::DiskFull { during, source } | AppendError::Broken { during, source }) => {
                Err(MaintainError::Poisoned { source: self.poison_with(&mut head, during, source) })
            }
        }
    }

    pub(crate) fn close(&self) -> Result<(), MaintainError> {
        // Whoever closes it again finds it closed, not half closed.
        let _closing = self.closing.lock();
        {
            let mut head = self.head.lock();
            match head.check_maintain() {
                Ok(()) | Err(MaintainError::Poisoned { .. }) => {}
                Err(MaintainError::Closed) => return Ok(()),
                Err(MaintainError::ReadOnly) => {
                    head.state = Running::Closed;
                    drop(head);
                    self.close_views();
                    self.close_feeds();
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
        self.background.stop();
        let folded = self.flush().and_then(|()| self.checkpoint()).and_then(|()| self.shorten());
        let mut guard = self.disk.lock();
        let mut head = self.head.lock();
        let result = match (head.check_maintain(), folded) {
            (Ok(()), folded) => {
                // New commits are refused from here on; those on their way are seen through.
                head.state = Running::Closed;
                if let Some(disk) = guard.as_ref() {
                    disk.ahead().close();
                }
                while head.has_open_commits() || head.writer.is_none() {
                    self.lead_or_wait(&mut head);
                }
                let writer = head.writer.take();
                match (&head.state, writer, guard.as_mut()) {
                    (Running::Poisoned(source), ..) => Err(MaintainError::Poisoned { source: Arc::clone(source) }),
                    (_, Some(writer), Some(disk)) => {
                        let closed = self.close_files(&mut head, writer, disk);
                        folded.and(closed)
                    }
                    _ => folded,
                }
            }
            (Err(MaintainError::Closed), _) => Ok(()),
            (Err(e), _) => Err(e),
        };
        // A poisoned store's writer goes without a last word to the disk.
        head.writer = None;
        let disk = guard.take();
        if let Some(disk) = &disk {
            disk.ahead().close();
        }
        self.turn.notify_all();
        drop(head);
        drop(guard);
        let all_ended = self.close_views();
        self.close_feeds();
        if let (true, Some(disk)) = (all_ended, disk) {
            // Best effort: the lock goes with the last handle of the file in any case.
            let _ = disk.unlock();
        }
        result
    }

    /// With everything in pages: both headers say so, and the log goes, but for a piece that the next open can
    /// write over.
    fn close_files(
        &self,
        head: &mut MutexGuard<'_, Head>,
        mut writer: Box<LogWriter>,
        disk: &mut crate::disk::Disk,
    ) -> Result<(), MaintainError> {
        // Commits that slipped in after the last checkpoint stay in the log, which is as good.
        let all_in_pages = self.published().active.is_empty() && head.frozen.is_none();
        let wrote = head.groups > 0 || head.checkpoints > 0 || !writer.is_durable() || disk.ahead().wrote();
        if !wrote {
            return Ok(());
        }
        let result = self.without_lock(head, &Outcome::default(), || {
            if !writer.is_durable() {
                writer.sync()?;
            }
            let broken = |during| move |source| AppendError::Broken { during, source };
            let floor = writer.last_commit();
            // From now on a log that ends earlier is known to be damaged. spec: E-9
            let page_count = disk.pages_in_file(|space| space.trim()).map_err(broken("reading the file's length"))?;
            // The older header spans the pages that are cut off now. Should the newest be damaged one day, the older
            // one must not be refused for want of them; so where they differ, both say the shorter length.
            let times = if page_count < disk.header.page_count { 2 } else { 1 };
            for _ in 0..times {
                let end = |h: &mut Superblock| (h.durable_floor, h.page_count) = (floor, page_count);
                disk.write_header(end).map_err(broken("writing the header"))?;
            }
            disk.cut().map_err(broken("cutting the file"))?;
            if all_in_pages { writer.fold() } else { Ok(()) }
        });
        match result {
            Ok(()) => Ok(()),
            Err(AppendError::DiskFull { during, source } | AppendError::Broken { during, source }) => {
                Err(MaintainError::Poisoned { source: self.poison_with(head, during, source) })
            }
        }
    }
}
