//! Keeping a store in order: close, compact, verify, change the key, and say how it is.

use std::io;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::MutexGuard;

use crate::env::{LockOutcome, OpenMode};
use crate::error::{MaintainError, OpenError};
use crate::keys::KeySlot;
use crate::limits::{
    COMPACT_LOG_BYTES_MIN, COMPACT_RATIO, COMPACT_RUNNING_BYTES_MIN, COMPACT_RUNNING_RATIO, GROUP_BYTES_SOFT_MAX,
};
use crate::log::group::{GroupKind, HEADER_BYTES};
use crate::log::redo::CommitEncoder;
use crate::log::replay::{LogEnd, replay};
use crate::log::writer::{AppendError, LogWriter};
use crate::memtable::{Table, TableCursor};
use crate::options::{KdfCost, KeySource};
use crate::store::{Inner, LogAt, Store, TableBuilder, new_file_name, write_both_headers};
use crate::superblock::{LOG_START, Superblock};
use crate::txn::commit::{Head, Outcome, Running};

/// How a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// The newest visible commit.
    pub commit_no: u64,
    /// The newest commit known to be durable.
    pub durable_commit_no: u64,
    /// Commits since opening.
    pub commits: u64,
    /// Groups written since opening.
    pub groups: u64,
    /// Data syncs of groups since opening: one per group that holds a durable commit.
    pub syncs: u64,
    /// Compactions since opening.
    pub compactions: u64,
    /// Groups that opening found in the log.
    pub recovered_groups: u64,
    /// Bytes of the log up to its tail, padding included.
    pub log_bytes: u64,
    /// Bytes of live entries and of old versions that readers may hold: what the ceiling is about.
    pub table_bytes: u64,
    /// The ceiling.
    pub table_bytes_max: u64,
    /// Bytes of live entries: keys, values and what an entry costs beside them.
    pub live_bytes: u64,
    /// Live entries.
    pub entries: u64,
    /// Views and transactions that are open.
    pub readers: u64,
    /// The commit of the oldest of them.
    pub oldest_reader: Option<u64>,
    /// What stopped the store from writing, if anything did.
    pub poisoned: Option<String>,
}

/// How far a verification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Bytes of the log that were read and found right.
    pub done_bytes: u64,
    /// Bytes of the log.
    pub total_bytes: u64,
}

/// What a verification found to be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// The commit it was about.
    pub commit_no: u64,
    /// Groups read.
    pub groups: u64,
    /// Bytes read.
    pub log_bytes: u64,
    /// Entries compared.
    pub entries: u64,
}

/// When a log is worth compacting.
#[derive(Clone, Copy)]
pub(crate) enum CompactWhen {
    /// At the first write and at close, when nobody waits long.
    Idle,
    /// In between.
    Running,
}

impl CompactWhen {
    pub(crate) fn is_due(self, writer: &LogWriter, table: &Table) -> bool {
        let (min, ratio) = match self {
            Self::Idle => (COMPACT_LOG_BYTES_MIN, COMPACT_RATIO),
            Self::Running => (COMPACT_RUNNING_BYTES_MIN, COMPACT_RUNNING_RATIO),
        };
        writer.log_bytes() >= min && writer.log_bytes() / ratio >= table.live_bytes
    }
}

/// How a compaction failed.
enum CompactError {
    /// Before the rename: the old file stands as it was.
    Before(&'static str, io::Error),
    /// At or after the rename: nobody knows which file a crash would leave.
    After(&'static str, io::Error),
}

impl Store {
    /// Returns how the store is.
    pub fn stats(&self) -> Stats {
        let mut head = self.inner.head.lock();
        let oldest = self.inner.oldest_reader();
        let pinned = head.prune(oldest);
        let visible = self.inner.visible.lock();
        let poisoned = match &head.state {
            Running::Poisoned(poison) => Some(format!("{poison}: {}", poison.source)),
            _ => None,
        };
        Stats {
            commit_no: visible.table.commit_no,
            durable_commit_no: visible.log.as_ref().map_or(visible.table.commit_no, |log| log.durable_commit),
            commits: head.commits,
            groups: head.groups,
            syncs: head.syncs,
            compactions: head.compactions,
            recovered_groups: self.inner.recovered.groups,
            log_bytes: visible.log.as_ref().map_or(0, |log| log.tail - LOG_START),
            table_bytes: head.table.live_bytes + pinned,
            table_bytes_max: self.inner.table_bytes_max,
            live_bytes: visible.table.live_bytes,
            entries: visible.table.entries,
            readers: visible.readers.values().map(|&n| n as u64).sum(),
            oldest_reader: visible.readers.first_key_value().map(|(&commit_no, _)| commit_no),
            poisoned,
        }
    }

    /// Reads the whole log again, every checksum and seal, and compares what follows from it with the table.
    /// Readers and writers go on meanwhile; it is about the commit that was visible when it began.
    pub fn verify(&self, progress: &mut dyn FnMut(VerifyProgress)) -> Result<VerifyReport, MaintainError> {
        let (table, log) = {
            let visible = self.inner.visible.lock();
            (Arc::clone(&visible.table), visible.log.clone().ok_or(MaintainError::Closed)?)
        };
        let LogAt { file, keys, header, tail, .. } = log;
        let mut builder = TableBuilder::new(u64::MAX);
        builder.table.commit_no = header.base_commit;
        let mut report = |done_bytes, total_bytes| progress(VerifyProgress { done_bytes, total_bytes });
        let end = replay(&file, &header, &keys, Some(tail), &mut builder, &mut report).map_err(|e| match e {
            OpenError::Corruption(c) => MaintainError::Corruption(c),
            OpenError::Io { during, source } => MaintainError::Io { during, source },
            other => MaintainError::Io { during: "reading the log", source: io::Error::other(other) },
        })?;
        if end.tail != tail || !same_content(&builder.table, &table) {
            return Err(MaintainError::Differs { log: builder.table.entries, table: table.entries });
        }
        Ok(VerifyReport {
            commit_no: table.commit_no,
            groups: end.groups,
            log_bytes: tail - LOG_START,
            entries: table.entries,
        })
    }

    /// Writes the live entries into a new file and puts it in the old one's place. Readers go on; writers wait.
    /// A crash at any point leaves the old file or the new one.
    pub fn compact(&self) -> Result<(), MaintainError> {
        let mut head = self.inner.head.lock();
        let writer = self.inner.take_writer(&mut head)?;
        self.inner.compact_as_leader(&mut head, writer)
    }

    /// Puts a new passphrase or key in the old one's place. The master key stays, so no data is rewritten; what
    /// was written before can still be read by whoever kept a copy of the file and the old passphrase.
    pub fn change_key(&self, key: &KeySource, cost: KdfCost) -> Result<(), MaintainError> {
        let mut head = self.inner.head.lock();
        let mut writer = self.inner.take_writer(&mut head)?;
        let result = {
            let inner = &self.inner;
            inner.without_lock(&mut head, &Outcome::default(), || inner.rewrite_slots(&mut writer, key, cost))
        };
        self.inner.visible.lock().log = Some(LogAt::of(&writer));
        head.writer = Some(writer);
        self.inner.turn.notify_all();
        match result {
            Ok(()) => Ok(()),
            Err(SlotError::NotEncrypted) => Err(MaintainError::NotEncrypted),
            Err(SlotError::Entropy(source)) => Err(MaintainError::Io { during: "drawing random bytes", source }),
            Err(SlotError::Append(
                AppendError::DiskFull { during, source } | AppendError::Broken { during, source },
            )) => Err(self.inner.poison_now(&mut head, during, source)),
        }
    }
}

enum SlotError {
    NotEncrypted,
    Entropy(io::Error),
    Append(AppendError),
}

impl Inner {
    /// Waits until the writer is at home, and takes it: nobody else leads until it is back.
    fn take_writer(&self, head: &mut MutexGuard<'_, Head>) -> Result<LogWriter, MaintainError> {
        loop {
            head.check_maintain()?;
            if let Some(writer) = head.writer.take() {
                return Ok(writer);
            }
            self.turn.wait(head);
        }
    }

    pub(crate) fn flush(&self) -> Result<(), MaintainError> {
        let mut head = self.head.lock();
        let mut writer = self.take_writer(&mut head)?;
        if writer.durable_commit == writer.last_commit {
            head.writer = Some(writer);
            self.turn.notify_all();
            return Ok(());
        }
        let result = self.without_lock(&mut head, &Outcome::default(), || writer.sync());
        head.syncs += 1;
        let log = LogAt::of(&writer);
        head.writer = Some(writer);
        self.turn.notify_all();
        match result {
            Ok(()) => {
                self.visible.lock().log = Some(log);
                Ok(())
            }
            Err(AppendError::DiskFull { during, source } | AppendError::Broken { during, source }) => {
                Err(self.poison_now(&mut head, during, source))
            }
        }
    }

    pub(crate) fn close(&self) -> Result<(), MaintainError> {
        let mut head = self.head.lock();
        let result = match head.check_maintain() {
            Ok(()) => {
                // New commits are refused from here on; those on their way are seen through.
                head.state = Running::Closed;
                while head.has_open_commits() || head.writer.is_none() {
                    self.lead_or_wait(&mut head);
                }
                match &head.state {
                    Running::Poisoned(source) => Err(MaintainError::Poisoned { source: Arc::clone(source) }),
                    _ => {
                        let writer = head.writer.take().expect("at home just now");
                        self.close_file(&mut head, writer)
                    }
                }
            }
            Err(MaintainError::Closed) => return Ok(()),
            Err(MaintainError::ReadOnly) => {
                head.state = Running::Closed;
                Ok(())
            }
            Err(e) => Err(e),
        };
        // A poisoned store's writer goes without a last word to the disk.
        head.writer = None;
        self.turn.notify_all();
        drop(head);
        self.close_feeds();
        result
    }

    fn close_file(&self, head: &mut MutexGuard<'_, Head>, mut writer: LogWriter) -> Result<(), MaintainError> {
        let wrote = head.groups > 0 || head.compactions > 0 || writer.header.durable_floor < writer.last_commit;
        if !wrote {
            return Ok(());
        }
        let mut compacted = Ok(());
        if CompactWhen::Idle.is_due(&writer, &head.table) {
            compacted = self.compact_as_leader(head, writer);
            writer = head.writer.take().expect("a compaction puts a writer back");
            if matches!(head.state, Running::Poisoned(_)) {
                return compacted;
            }
        }
        let result = self.without_lock(head, &Outcome::default(), || {
            if writer.durable_commit < writer.last_commit {
                writer.sync()?;
            }
            writer.cut_reserve()?;
            // From now on a log that ends earlier is known to be damaged. spec: E-9
            let floor = writer.last_commit;
            if writer.header.durable_floor < floor {
                writer.write_header(|h| h.durable_floor = floor)?;
            }
            writer.file.sync_all().map_err(|source| AppendError::Broken { during: "syncing the file", source })?;
            // What a crash inside a compaction may have left; it is ours to remove while we hold the lock.
            let leftover = new_file_name(&self.env.name);
            if self.env.storage.exists(&leftover).unwrap_or(false) {
                let _ = self.env.storage.remove(&leftover);
            }
            Ok(())
        });
        drop(writer);
        match result {
            Ok(()) => compacted,
            Err(AppendError::DiskFull { during, source } | AppendError::Broken { during, source }) => {
                Err(self.poison_now(head, during, source))
            }
        }
    }

    /// Compacts with the writer in hand and puts a writer back, on an error the old one.
    pub(crate) fn compact_as_leader(
        &self,
        head: &mut MutexGuard<'_, Head>,
        writer: LogWriter,
    ) -> Result<(), MaintainError> {
        let table = self.published();
        let result = self.without_lock(head, &Outcome::default(), || self.write_compacted(&writer, &table));
        let result = match result {
            Ok(new) => {
                head.compactions += 1;
                self.visible.lock().log = Some(LogAt::of(&new));
                // The old writer goes, and with it the lock of a file that nobody can find any more.
                head.writer = Some(new);
                head.compact_from = 0;
                Ok(())
            }
            Err(CompactError::Before(during, source)) => {
                head.compact_from = writer.log_bytes() / 4 * 5;
                head.writer = Some(writer);
                Err(MaintainError::Io { during, source })
            }
            Err(CompactError::After(during, source)) => {
                head.writer = Some(writer);
                Err(self.poison_now(head, during, source))
            }
        };
        self.turn.notify_all();
        result
    }

    fn write_compacted(&self, old: &LogWriter, table: &Table) -> Result<LogWriter, CompactError> {
        let before = |during| move |source| CompactError::Before(during, source);
        let new_name = new_file_name(&self.env.name);
        let storage = &self.env.storage;
        let file = storage.open(&new_name, OpenMode::Create).map_err(before("creating the compacted file"))?;
        let whole = (|| {
            if file.try_lock().map_err(before("locking the compacted file"))? == LockOutcome::Held {
                return Err(CompactError::Before("locking the compacted file", io::ErrorKind::WouldBlock.into()));
            }
            file.set_len(0).map_err(before("emptying the compacted file"))?;
            let mut seed = [0; 16];
            self.env.entropy.public(&mut seed).map_err(before("drawing random bytes"))?;
            let header = Superblock {
                base_commit: table.commit_no,
                base_end: LOG_START,
                durable_floor: table.commit_no,
                seed,
                ..old.header.clone()
            };
            let end = LogEnd {
                tail: LOG_START,
                last_tag: seed,
                last_commit: table.commit_no,
                groups: 0,
                durable: table.commit_no,
                unproven_from: LOG_START,
            };
            let mut new =
                LogWriter::new(self.env.clone(), Arc::clone(&file), old.keys.clone(), header, &end, LOG_START);
            file.set_len(LOG_START).map_err(before("sizing the compacted file"))?;
            write_base(&mut new, table).map_err(|e| match e {
                AppendError::DiskFull { during, source } | AppendError::Broken { during, source } => {
                    CompactError::Before(during, source)
                }
            })?;
            new.header.base_end = new.tail;
            let sequence = write_both_headers(&file, &new.header, &new.keys).map_err(before("writing the header"))?;
            new.header.sequence = sequence;
            crate::store::leave_note(&file);
            file.sync_all().map_err(before("syncing the compacted file"))?;
            Ok(new)
        })();
        let new = match whole {
            Ok(new) => new,
            Err(e) => {
                let _ = storage.remove(&new_name);
                return Err(e);
            }
        };
        let after = |during| move |source| CompactError::After(during, source);
        storage.rename(&new_name, &self.env.name).map_err(after("putting the compacted file in place"))?;
        storage.sync_dir().map_err(after("syncing the folder"))?;
        Ok(new)
    }

    fn rewrite_slots(&self, writer: &mut LogWriter, key: &KeySource, cost: KdfCost) -> Result<(), SlotError> {
        let (Some(master), false) = (writer.keys.master(), matches!(key, KeySource::None)) else {
            return Err(SlotError::NotEncrypted);
        };
        let header = &writer.header;
        let slot = KeySlot::wrap(master, key, cost, header.cipher, &header.uuid, &*self.env.entropy)
            .map_err(SlotError::Entropy)?;
        // Both header slots, or the old passphrase would still open the older one.
        for _ in 0..2 {
            writer
                .write_header(|h| h.slots = [slot.clone(), KeySlot::default(), KeySlot::default(), KeySlot::default()])
                .map_err(SlotError::Append)?;
        }
        Ok(())
    }
}

/// Writes all trees as groups of the base, each of about the size of a full group. spec: E-10
fn write_base(writer: &mut LogWriter, table: &Table) -> Result<(), AppendError> {
    let commit_no = table.commit_no;
    let mut batch = Vec::new();
    let mut batch_bytes = 0;
    for tree in 0..table.tree_count() {
        for record in TableCursor::new(table, tree, Bound::Unbounded, Bound::Unbounded) {
            batch_bytes += record.len();
            batch.push((tree, record));
            if batch_bytes >= GROUP_BYTES_SOFT_MAX {
                append_base(writer, &mut batch, commit_no)?;
                batch_bytes = 0;
            }
        }
    }
    if batch.is_empty() { Ok(()) } else { append_base(writer, &mut batch, commit_no) }
}

fn append_base(
    writer: &mut LogWriter,
    batch: &mut Vec<(u32, crate::memtable::Record)>,
    commit_no: u64,
) -> Result<(), AppendError> {
    let mut bytes = vec![0; HEADER_BYTES];
    let mut encoder = CommitEncoder::new(&mut bytes, 0, batch.len());
    for (tree, record) in batch.drain(..) {
        encoder.put(tree, &record, &[]);
    }
    writer.append(&mut bytes, GroupKind::Base, commit_no, 0)
}

/// Same trees, same keys, same values.
fn same_content(a: &Table, b: &Table) -> bool {
    let trees = a.tree_count().max(b.tree_count());
    a.commit_no == b.commit_no
        && (0..trees).all(|tree| {
            let all = |t| TableCursor::new(t, tree, Bound::Unbounded, Bound::Unbounded);
            let (mut x, mut y) = (all(a), all(b));
            loop {
                match (x.next(), y.next()) {
                    (None, None) => return true,
                    (Some(r), Some(s)) if r.key() == s.key() && r.value() == s.value() => {}
                    _ => return false,
                }
            }
        })
}
