//! The serial section and the group commit.
//!
//! ```text
//! lock head: check for conflicts -> hook -> ceiling -> number -> append effects to the open group -> apply
//! unlock:    whoever finds the log writer at home takes it and leads: seal, write, one sync, publish, wake;
//!            the others wait for their group; the next group forms while the disk works
//! ```
//!
//! With one thread the caller is always the leader, so no thread of our own is needed. The newest table (`head`)
//! runs ahead of the published one: a hook and the conflict check see commits that are not durable yet, readers
//! never do. If a group fails, what was built on it fails with it.

use std::collections::VecDeque;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::MutexGuard;

use crate::change::{Change, ChangeKind, Commit};
use crate::error::{CommitError, HookError, MaintainError, Poison};
use crate::limits::{GROUP_BYTES_SOFT_MAX, TREES_MAX};
use crate::log::group::{GroupKind, HEADER_BYTES};
use crate::log::redo::CommitEncoder;
use crate::log::writer::{AppendError, LogWriter};
use crate::maintain::CompactWhen;
use crate::memtable::{Table, cost_of};
use crate::store::Inner;
use crate::txn::write_set::{Effect, WriteSet};
use crate::txn::{CATALOGUE, Serial, TreeId, WriteTransaction};

/// What an acknowledged commit has survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A power cut: the log was synced after the commit was written.
    Durable,
    /// The end of this process: the commit was written to the file and not synced. A power cut loses it unless a
    /// durable commit, `Store::flush` or `Store::close` came after it. Order is kept: never does a later commit
    /// survive without it.
    Buffered,
}

/// A commit that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitInfo {
    /// Its number; that of the snapshot where the transaction changed nothing.
    pub commit_no: u64,
    /// Whether the transaction changed anything.
    pub changed: bool,
}

/// What the serial section guards.
pub(crate) struct Head {
    /// The newest table, commits on their way to the disk included.
    pub(crate) table: Arc<Table>,
    open: OpenGroup,
    /// At home when nobody leads.
    pub(crate) writer: Option<LogWriter>,
    pub(crate) state: Running,
    /// Bytes of versions that commits replaced, while a reader may hold them.
    superseded: VecDeque<(u64, u64)>,
    pinned_bytes: u64,
    pub(crate) groups: u64,
    pub(crate) syncs: u64,
    pub(crate) commits: u64,
    pub(crate) compactions: u64,
    /// The log's length before which a compaction that failed is not tried again on the store's own account.
    pub(crate) compact_from: u64,
}

pub(crate) enum Running {
    Yes,
    ReadOnly,
    Closed,
    Poisoned(Arc<Poison>),
}

pub(crate) type Outcome = Arc<OnceLock<Result<(), Failure>>>;

#[derive(Clone)]
pub(crate) enum Failure {
    DiskFull(Arc<Poison>),
    Poisoned(Arc<Poison>),
}

/// Commits that will be sealed together.
struct OpenGroup {
    /// Room for the header, then the payload.
    bytes: Vec<u8>,
    first: u64,
    count: u32,
    sync: bool,
    told: Vec<Commit>,
    outcome: Outcome,
}

impl Default for OpenGroup {
    fn default() -> Self {
        Self {
            bytes: vec![0; HEADER_BYTES],
            first: 0,
            count: 0,
            sync: false,
            told: Vec::new(),
            outcome: Outcome::default(),
        }
    }
}

impl Head {
    pub(crate) fn new(table: Arc<Table>, writer: Option<LogWriter>) -> Self {
        Self {
            table,
            open: OpenGroup::default(),
            state: if writer.is_some() { Running::Yes } else { Running::ReadOnly },
            writer,
            superseded: VecDeque::new(),
            pinned_bytes: 0,
            groups: 0,
            syncs: 0,
            commits: 0,
            compactions: 0,
            compact_from: 0,
        }
    }

    fn check(&self) -> Result<(), CommitError> {
        match &self.state {
            Running::Yes => Ok(()),
            Running::ReadOnly => Err(CommitError::ReadOnly),
            Running::Closed => Err(CommitError::Closed),
            Running::Poisoned(source) => Err(CommitError::Poisoned { source: Arc::clone(source) }),
        }
    }

    pub(crate) fn check_maintain(&self) -> Result<(), MaintainError> {
        match &self.state {
            Running::Yes => Ok(()),
            Running::ReadOnly => Err(MaintainError::ReadOnly),
            Running::Closed => Err(MaintainError::Closed),
            Running::Poisoned(source) => Err(MaintainError::Poisoned { source: Arc::clone(source) }),
        }
    }

    /// Forgets versions that no reader can hold any more.
    pub(crate) fn prune(&mut self, oldest_reader: u64) -> u64 {
        // A reader at commit r holds versions that commits after r replaced.
        while let Some(&(_, bytes)) = self.superseded.front().filter(|(commit_no, _)| *commit_no <= oldest_reader) {
            self.pinned_bytes -= bytes;
            self.superseded.pop_front();
        }
        self.pinned_bytes
    }

    pub(crate) fn has_open_commits(&self) -> bool {
        self.open.count > 0
    }
}

impl Inner {
    pub(crate) fn commit(
        self: &Arc<Self>,
        mut tx: WriteTransaction,
        durability: Durability,
        hook: impl FnOnce(&mut Serial<'_>) -> Result<(), HookError>,
    ) -> Result<CommitInfo, CommitError> {
        let mut head = self.head.lock();
        head.check()?;
        while head.open.bytes.len() > GROUP_BYTES_SOFT_MAX {
            self.lead_or_wait(&mut head);
            head.check()?;
        }
        check_conflicts(&head.table, &tx)?;
        hook(&mut Serial { inner: self, table: &head.table, writes: &mut tx.writes }).map_err(CommitError::Hook)?;
        self.add_catalogue_entries(&head.table, &mut tx.writes)?;
        if tx.writes.effects() == 0 {
            return Ok(CommitInfo { commit_no: tx.view.commit_no(), changed: false });
        }
        self.check_ceiling(&mut head, &tx)?;
        let commit_no = self.apply(&mut head, &tx, durability);
        // The snapshot has done its work; while it lives, what this commit replaces counts as held.
        drop(tx);
        let outcome = Arc::clone(&head.open.outcome);
        let done = loop {
            if let Some(done) = outcome.get() {
                break done.clone();
            }
            self.lead_or_wait(&mut head);
        };
        drop(head);
        match done {
            Ok(()) => Ok(CommitInfo { commit_no, changed: true }),
            Err(Failure::DiskFull(source)) => Err(CommitError::DiskFull { source }),
            Err(Failure::Poisoned(source)) => Err(CommitError::Poisoned { source }),
        }
    }

    /// Every tree that is written must have its name in the catalogue.
    fn add_catalogue_entries(&self, table: &Table, writes: &mut WriteSet) -> Result<(), CommitError> {
        let trees: Vec<u32> = writes.trees.keys().copied().filter(|&t| t != CATALOGUE).collect();
        for tree in trees {
            let name = self.names.name_of(tree).expect("a tree number was given out for a name");
            if table.get(CATALOGUE, name.as_bytes()).is_none() {
                writes.put(CATALOGUE, name.as_bytes(), &[&tree.to_le_bytes()])?;
            }
        }
        Ok(())
    }

    fn check_ceiling(&self, head: &mut Head, tx: &WriteTransaction) -> Result<(), CommitError> {
        let max = self.table_bytes_max;
        if head.table.live_bytes + head.pinned_bytes + tx.writes.cost() <= max {
            return Ok(());
        }
        let pinned = head.prune(self.oldest_reader());
        let mut live = head.table.live_bytes;
        for (tree, record, effect) in tx.writes.iter() {
            live -= head.table.get(tree, record.key()).map_or(0, |slot| cost_of(&slot.record));
            if matches!(effect, Effect::Put { .. }) {
                live += cost_of(record);
            }
        }
        // What makes the table smaller is always taken: it is the way out.
        let used = live + pinned;
        if used <= max || live <= head.table.live_bytes { Ok(()) } else { Err(CommitError::TableFull { used, max }) }
    }

    /// Gives the transaction its number, writes it into the open group and applies it to the newest table.
    fn apply(&self, head: &mut Head, tx: &WriteTransaction, durability: Durability) -> u64 {
        let commit_no = head.table.commit_no + 1;
        let open = &mut head.open;
        if open.count == 0 {
            open.first = commit_no;
        }
        debug_assert_eq!(open.first + u64::from(open.count), commit_no, "commits of a group are consecutive");
        open.count += 1;
        open.sync |= durability == Durability::Durable;
        let mut encoder = CommitEncoder::new(&mut open.bytes, tx.label, tx.writes.effects());
        let table = Arc::make_mut(&mut head.table);
        let mut freed = 0;
        for (tree, record, effect) in tx.writes.iter() {
            match effect {
                Effect::Put { ends } => {
                    encoder.put(tree, record, ends);
                    freed += table.put(tree, record.clone(), commit_no);
                }
                Effect::Delete => {
                    encoder.delete(tree, record.key());
                    freed += table.remove(tree, record.key());
                }
            }
        }
        table.commit_no = commit_no;
        if freed > 0 {
            head.superseded.push_back((commit_no, freed));
            head.pinned_bytes += freed;
        }
        if self.has_feeds() {
            open.told.push(Commit { commit_no, label: tx.label, changes: changes_of(&tx.writes) });
        }
        commit_no
    }

    /// Leads one group if the writer is at home, else waits until something has happened.
    pub(crate) fn lead_or_wait(&self, head: &mut MutexGuard<'_, Head>) {
        match head.writer.take() {
            Some(writer) => self.lead(head, writer),
            None => self.turn.wait(head),
        }
    }

    fn lead(&self, head: &mut MutexGuard<'_, Head>, mut writer: LogWriter) {
        let mut group = mem::take(&mut head.open);
        if group.count == 0 {
            head.writer = Some(writer);
            return;
        }
        let table = Arc::clone(&head.table);
        let first_of_open = head.groups == 0;
        let result = self.without_lock(head, &group.outcome, || {
            writer.append(&mut group.bytes, GroupKind::Commits, group.first, group.count)?;
            if group.sync { writer.sync() } else { Ok(()) }
        });
        match result {
            Ok(()) => {
                head.groups += 1;
                head.syncs += u64::from(group.sync);
                head.commits += u64::from(group.count);
                self.publish(table, &writer, &group.told);
                group.outcome.set(Ok(())).unwrap_or_else(|_| unreachable!("a group is led once"));
                self.turn.notify_all();
                let when = if first_of_open { CompactWhen::Idle } else { CompactWhen::Running };
                if writer.log_bytes() >= head.compact_from && when.is_due(&writer, &head.table) {
                    // An error leaves the old log in use, and the group is done either way.
                    let _ = self.compact_as_leader(head, writer);
                } else {
                    head.writer = Some(writer);
                }
                let oldest = self.oldest_reader();
                head.prune(oldest);
            }
            Err(AppendError::DiskFull { during, source }) => {
                head.writer = Some(writer);
                self.fail(head, &group.outcome, &Failure::DiskFull(Arc::new(Poison { during, source })));
            }
            Err(AppendError::Broken { during, source }) => {
                // The writer stays with the store, unused: it holds the file's lock until the store is closed.
                head.writer = Some(writer);
                self.poison(head, during, source, &group.outcome);
            }
        }
        self.turn.notify_all();
    }

    /// Does I/O with the writer in hand and the serial section open to others. A storage that panics poisons the
    /// store, or whoever waits for the writer would wait for ever.
    pub(crate) fn without_lock<R>(
        &self,
        head: &mut MutexGuard<'_, Head>,
        group: &Outcome,
        io: impl FnOnce() -> R,
    ) -> R {
        match MutexGuard::unlocked(head, || catch_unwind(AssertUnwindSafe(io))) {
            Ok(result) => result,
            Err(panic) => {
                let source = std::io::Error::other("the storage panicked");
                self.poison(head, "using the storage", source, group);
                self.turn.notify_all();
                resume_unwind(panic);
            }
        }
    }

    /// Fails a group and everything that was built on it.
    fn fail(&self, head: &mut Head, group: &Outcome, failure: &Failure) {
        let open = mem::take(&mut head.open);
        for outcome in [group, &open.outcome] {
            let _ = outcome.set(Err(failure.clone()));
        }
        head.table = self.published();
        let published = head.table.commit_no;
        while head.superseded.back().is_some_and(|(commit_no, _)| *commit_no > published) {
            let (_, bytes) = head.superseded.pop_back().expect("looked at just now");
            head.pinned_bytes -= bytes;
        }
    }

    /// Stops all writing for good. A failed sync is never tried again: after it nobody knows what the disk has.
    fn poison(&self, head: &mut Head, during: &'static str, source: std::io::Error, group: &Outcome) {
        let poison = Arc::new(Poison { during, source });
        head.state = Running::Poisoned(Arc::clone(&poison));
        self.fail(head, group, &Failure::Poisoned(poison));
    }

    /// Stops all writing after an error outside a group.
    pub(crate) fn poison_now(&self, head: &mut Head, during: &'static str, source: std::io::Error) -> MaintainError {
        self.poison(head, during, source, &Outcome::default());
        self.turn.notify_all();
        match head.check_maintain() {
            Err(e) => e,
            Ok(()) => unreachable!("poisoned just now"),
        }
    }
}

/// First committer wins, by key. A key that was created and deleted again since the snapshot is as the snapshot
/// saw it and no conflict.
fn check_conflicts(newest: &Table, tx: &WriteTransaction) -> Result<(), CommitError> {
    let snapshot = tx.view.table();
    if newest.commit_no == snapshot.commit_no {
        return Ok(());
    }
    let written = tx.writes.iter().map(|(tree, record, _)| (tree, record.key()));
    let read = tx.checked.iter().map(|(tree, key)| (*tree, &key[..]));
    for (tree, key) in written.chain(read) {
        let moved = match newest.get(tree, key) {
            Some(slot) => slot.commit_no > snapshot.commit_no,
            None => snapshot.get(tree, key).is_some(),
        };
        if moved {
            return Err(CommitError::Conflict { tree: TreeId(tree), key: Bytes::copy_from_slice(key) });
        }
    }
    Ok(())
}

/// Keys are copied: a slice would keep the value alive as long as the feed keeps the news.
fn changes_of(writes: &WriteSet) -> Arc<[Change]> {
    let kind =
        |effect: &Effect| if matches!(effect, Effect::Put { .. }) { ChangeKind::Put } else { ChangeKind::Delete };
    writes
        .iter()
        .filter(|(tree, ..)| *tree != CATALOGUE)
        .map(|(tree, record, effect)| Change {
            tree: TreeId(tree),
            key: Bytes::copy_from_slice(record.key()),
            kind: kind(effect),
        })
        .collect()
}

const _: () = assert!(TREES_MAX < u32::MAX as usize);
