//! The serial section and the group commit.
//!
//! ```text
//! lock head: check for conflicts -> hook -> number -> append effects to the open group -> apply to the table
//! unlock:    whoever finds the log writer at home takes it and leads: seal, write, one sync, publish, wake;
//!            the others wait for their group; the next group forms while the disk works
//! ```
//!
//! With one thread the caller is always the leader. Whoever waits for a group is parked and woken for it alone,
//! without a lock: handing the serial section's lock from one woken thread to the next would cost a group of thirty
//! thirty switches in a row. On a fast disk a leader that finds the next group formed leads that one, too, so that the
//! disk does not wait for a thread to wake up; after a few it hands over.
//! The newest layers (`head`) run ahead of the published ones: a hook and the conflict check see commits that are not
//! durable yet, readers never do. If a group fails, what was built on it fails with it.
//!
//! While a checkpoint runs, writers are slowed down evenly (`make_way`, `Pace`).

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::change::{Change, ChangeKind, Commit};
use crate::error::{CommitError, HookError, Poison, WriteError};
use crate::limits::TREES_MAX;
use crate::log::group::HEADER_BYTES;
use crate::log::redo::CommitEncoder;
use crate::log::writer::{AppendError, LogWriter};
use crate::options::{hook_bytes, tables_bytes};
use crate::store::Inner;
use crate::sync::MutexGuard;
use crate::sync::thread::{self, Thread};
use crate::txn::head::{Failure, Head, OpenGroup, Outcome, Running, Shown, Waiting, next_leader};
use crate::txn::pace::{Fill, WAIT_MAX};
use crate::txn::write_set::{Effect, WriteSet};
use crate::txn::{CATALOGUE, Serial, TreeId, WriteTransaction};

/// Groups that one caller leads before it goes home with its own commit.
const GROUPS_IN_A_ROW: usize = 4;

/// How often a leader gives way to others, with nobody new in its group, before it writes: a few microseconds where they
/// have something else to do, and what it takes to wake them where they do not.
const GATHER_YIELDS: u32 = 32;
/// The slower the disk, the dearer a group without them: as many more yields for each millisecond that the last group
/// took, up to so many.
const GATHER_MS_MAX: u64 = 32;

/// Room in the log that a commit without durability finds at least.
const LOG_ROOM_BYTES: u64 = 64 << 10;

/// What an acknowledged commit has survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A power cut: the log was synced after the commit was written. A transaction of more than `Memory::table_bytes`,
    /// 64 bytes for each key and what its hook writes included, streamed values not, goes straight into pages instead, and
    /// is durable whatever was asked for; other commits wait meanwhile.
    Durable,
    /// The end of this process: the commit was written to the file and not synced. A power cut loses it unless a
    /// durable commit, `Store::flush`, a checkpoint or `Store::close` came after it. Order is kept: never does a
    /// later commit survive without it.
    Buffered,
    /// Nothing yet: the commit is in memory, and goes to the file with the next commit of another kind, with
    /// `Store::flush` or `Store::close`, or when so much has gathered as a group may have: an eighth of
    /// `Memory::table_bytes`, a megabyte at most. Whatever ends the
    /// process loses it until then. Order is kept as with `Buffered`.
    None,
}

/// A commit that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitInfo {
    /// Its number; that of the snapshot where the transaction changed nothing.
    pub commit_no: u64,
    /// Whether the transaction changed anything.
    pub changed: bool,
}

impl Inner {
    pub(crate) fn commit(
        self: &Arc<Self>,
        mut tx: WriteTransaction,
        durability: Durability,
        hook: impl FnOnce(&mut Serial<'_>) -> Result<(), HookError>,
    ) -> Result<CommitInfo, CommitError> {
        if self.is_load(&tx) {
            return self.commit_as_load(tx, hook);
        }
        // Before the serial section, and in all kinds of durability: a later commit's sync may make this one survive.
        if tx.writes.has_stored() {
            self.sync_values()?;
        }
        let mut head = self.head.lock();
        head.check()?;
        self.make_way(&mut head, &tx, durability)?;
        self.check_conflicts(&mut head, &tx, |head| {
            head.check()?;
            self.make_way(head, &tx, durability)
        })?;
        hook(&mut Serial { inner: self, layers: &head.layers, writes: &mut tx.writes }).map_err(CommitError::Hook)?;
        self.add_catalogue_entries(&mut head, &mut tx.writes)?;
        if tx.writes.is_empty() {
            return Ok(CommitInfo { commit_no: tx.view.commit_no(), changed: false });
        }
        self.mark_time(&mut head, &mut tx);
        if self.is_load(&tx) || self.has_outgrown(&head, &tx) {
            return self.go_on_as_load(head, &tx);
        }
        // Those that the hook has left.
        let values = tx.writes.stored();
        let commit_no = self.apply(&mut head, &tx, durability);
        if durability == Durability::None && self.show_unwritten(&mut head) {
            drop(head);
            values.iter().for_each(|value| value.keep());
            self.checkpoint_if_due();
            return Ok(CommitInfo { commit_no, changed: true });
        }
        // The snapshot has done its work; while it lives, a checkpoint counts it as a reader.
        drop(tx);
        let done = self.see_through(head);
        // Where the log may have the commit, its pages are spoken for. A full disk leaves no trace of it.
        if !matches!(done, Err(Failure::DiskFull(_))) {
            values.iter().for_each(|value| value.keep());
        }
        match done {
            Ok(()) => {
                self.checkpoint_if_due();
                Ok(CommitInfo { commit_no, changed: true })
            }
            Err(Failure::DiskFull(source)) => {
                self.begin_log_anew();
                Err(CommitError::DiskFull { source })
            }
            Err(Failure::Poisoned(source)) => Err(CommitError::Poisoned { source }),
        }
    }

    /// After a full disk: with what the log holds in pages, its files are there to be written over, and the next commit
    /// finds room without anybody having made any.
    fn begin_log_anew(&self) {
        match self.background.is_running() {
            true => self.background.request(),
            // Its own errors are told where they matter.
            false => self.checkpoint_where(|head| head.writer.as_ref().is_some_and(|writer| !writer.has_room(1))),
        }
    }

    /// Makes the pages of streamed values durable.
    fn sync_values(&self) -> Result<(), CommitError> {
        self.head.lock().check()?;
        let Some(ahead) = &self.ahead else { return Err(CommitError::ReadOnly) };
        let synced = {
            let Some(_open) = ahead.enter() else { return Err(CommitError::Closed) };
            ahead.sync_file()
        };
        synced.map_err(|source| {
            let source = self.poison_with(&mut self.head.lock(), "syncing a value's pages", source);
            CommitError::Poisoned { source }
        })
    }

    /// Waits until the open group is done, leading it if nobody else does.
    fn see_through<'i>(&'i self, mut head: MutexGuard<'i, Head>) -> Result<(), Failure> {
        let outcome = Arc::clone(&head.open.outcome);
        loop {
            if let Some(done) = outcome.get() {
                return done.clone();
            }
            if head.writer.is_some() {
                self.lead_several(&mut head);
                let next = next_leader(&head);
                if let Some(done) = outcome.get() {
                    // Woken behind the lock, which it will want.
                    drop(head);
                    self.turn.notify_all();
                    next.inspect(Thread::unpark);
                    return done.clone();
                }
                next.inspect(Thread::unpark);
                continue;
            }
            if head.open.waiting.0.iter().all(|waiting| waiting.id() != thread::current().id()) {
                head.open.waiting.0.push(thread::current());
            }
            drop(head);
            thread::park();
            if let Some(done) = outcome.get() {
                return done.clone();
            }
            head = self.head.lock();
        }
    }

    /// Leads the open group, and the next ones while they form, some of them. The members of a group are woken while
    /// the lock is open, and the writer still in hand: their next commits find the one free and join the next group.
    fn lead_several(&self, head: &mut MutexGuard<'_, Head>) {
        for led in 0..GROUPS_IN_A_ROW {
            // Beside a slow sync waking a thread is nothing, and a leader that goes home is in the next group itself.
            let is_slow = head.sync_ms > 0;
            let Some(writer) = head.writer.take() else { return };
            if head.open.count == 0 || (led > 0 && is_slow) {
                head.writer = Some(writer);
                return;
            }
            self.gather(head);
            let woken = self.lead(head, writer);
            if let Some(writer) = head.writer.take() {
                MutexGuard::unlocked(head, || drop(woken));
                head.writer = Some(writer);
            }
        }
    }

    /// Lets those come back who were in the group before and have just been told: whoever commits again at once goes
    /// with this group, instead of waiting through its sync for the next one. Without this, callers in a loop fall into
    /// two halves that take turns, and every sync carries one of them. Ends as soon as nobody comes any more; a caller
    /// that is alone does not wait at all.
    fn gather(&self, head: &mut MutexGuard<'_, Head>) {
        let patience = GATHER_YIELDS * (1 + head.sync_ms.min(GATHER_MS_MAX) as u32);
        let mut in_vain = 0;
        while head.open.count < head.company && in_vain < patience {
            let before = head.open.count;
            MutexGuard::unlocked(head, thread::yield_now);
            in_vain = if head.open.count > before { 0 } else { in_vain + 1 };
        }
    }

    /// With the writer at home, wakes whoever may have waited for that.
    pub(crate) fn hand_over(&self, head: &Head) {
        next_leader(head).inspect(Thread::unpark);
        self.turn.notify_all();
    }

    /// Shows the commit that was applied last without writing it, if it is alone with its like: the writer is at
    /// home, so nothing is on its way to the disk, the open group holds only commits that are shown already, and
    /// there is room in the log for all of them.
    fn show_unwritten(&self, head: &mut Head) -> bool {
        let open = &head.open;
        let room = open.bytes.len() as u64;
        let alone = !open.sync && open.shown.count + 1 == open.count;
        let Some(writer) = head.writer.as_ref() else { return false };
        if !alone || room > self.config.group_bytes as u64 || !writer.has_room(room) {
            return false;
        }
        let at = writer.at();
        head.open.shown = Shown { count: open.count, bytes: open.bytes.len() };
        let told = mem::take(&mut head.open.told);
        self.publish(head.layers.clone(), Some(at), &told);
        true
    }

    /// Slows a writer down while a checkpoint runs; lets it wait where tables or log end, for a group that is full, or
    /// for room in the log.
    fn make_way(
        &self,
        head: &mut MutexGuard<'_, Head>,
        tx: &WriteTransaction,
        durability: Durability,
    ) -> Result<(), CommitError> {
        let more = table_share(head, tx);
        let failed_before = head.checkpoints_failed;
        let mut waited = false;
        loop {
            self.wait_for_load(head)?;
            if head.open.bytes.len() > self.config.group_bytes {
                self.lead_or_wait(head);
                continue;
            }
            // Beside commits that are shown already it fails alone where there is no room; they go with the next group.
            if durability == Durability::None || head.has_shown_unwritten() {
                // Twice what it needs now: its hook may add to it.
                let wanted = (head.open.bytes.len() + 2 * tx.writes.bytes()) as u64 + LOG_ROOM_BYTES;
                if head.writer.as_ref().is_some_and(|writer| !writer.has_room(wanted)) {
                    self.make_room(head, wanted)?;
                    continue;
                }
            }
            if self.is_over_budget(head, more) {
                // Here memory and log end: wait until a checkpoint is through, or was tried in vain.
                if head.checkpoints_failed > failed_before {
                    let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
                    let poison = Poison { during: "writing a checkpoint", source };
                    return Err(CommitError::DiskFull { source: Arc::new(poison) });
                }
                if self.background.is_running() {
                    self.background.request();
                    self.turn.wait_for(head, Duration::from_millis(50));
                } else {
                    MutexGuard::unlocked(head, || self.checkpoint_where(|head| self.is_over_budget(head, more)));
                }
                continue;
            }
            if waited || !head.checkpointing || !self.background.is_running() {
                return Ok(());
            }
            // As long as a checkpoint runs: slow writers, never stop them. Others may fill the room meanwhile.
            waited = true;
            let fill = [
                Fill { bytes: head.layers.active.bytes() + more, stop: self.table_pace(head) },
                Fill { bytes: head.log_bytes(), stop: 2 * self.config.log_bytes },
            ];
            let Some(mut wait) = head.pace.wait(self.now(), more, fill) else { return Ok(()) };
            // Not beyond the checkpoint that it waits for.
            while !wait.is_zero() && head.checkpointing {
                let now = wait.min(WAIT_MAX);
                MutexGuard::unlocked(head, || thread::sleep(now));
                wait -= now;
            }
            head.pace.has_waited(more, wait);
        }
    }

    /// Whether a hook has made a transaction so much larger that there is no room for it.
    fn has_outgrown(&self, head: &Head, tx: &WriteTransaction) -> bool {
        let room = self.table_stop(head) + hook_bytes(self.config.table_bytes);
        head.layers.active.bytes() + table_share(head, tx) > room
    }

    /// Returns the time as `Pace` wants it.
    pub(crate) fn now(&self) -> Duration {
        Duration::from_millis(self.env.clock.monotonic_ms())
    }

    /// Returns the bytes of the active table at which writers stop. All tables together take what `tables_bytes` says;
    /// one that is frozen is never so large that there is no room for a whole one beside it.
    fn table_stop(&self, head: &Head) -> u64 {
        let all = tables_bytes(self.config.table_bytes);
        let frozen = head.frozen.as_ref().map_or(0, |frozen| frozen.table.bytes());
        all.saturating_sub(frozen.max(self.config.table_bytes))
    }

    /// Returns the bytes of the active table for which writers are to take as long as the checkpoint that runs: less than
    /// there is memory for, where the next checkpoint is due earlier.
    fn table_pace(&self, head: &Head) -> u64 {
        let full = self.config.table_bytes;
        let from = head.checkpoint_from.min(full);
        let stop = self.table_stop(head);
        let paced = (stop as f64 * (from as f64 / full as f64)) as u64;
        // Where the table had much in it already as the checkpoint began, there is room for some more.
        paced.max(head.pace.table_from() + from / 2).min(stop)
    }

    /// Whether there is no room for a commit that takes so much of the table. An empty table has room for any.
    fn is_over_budget(&self, head: &Head, more: u64) -> bool {
        let active = head.layers.active.bytes();
        let is_full = active + more > self.table_stop(head) && (active > 0 || head.frozen.is_some());
        is_full || head.log_bytes() >= 2 * self.config.log_bytes
    }

    fn make_room(&self, head: &mut MutexGuard<'_, Head>, bytes: u64) -> Result<(), CommitError> {
        let Some(mut writer) = head.writer.take() else { return Ok(()) };
        let room = self.without_lock(head, &Outcome::default(), || writer.ensure_room(bytes));
        head.writer = Some(writer);
        self.hand_over(head);
        match room {
            Ok(()) => Ok(()),
            Err(AppendError::DiskFull { during, source }) => {
                Err(CommitError::DiskFull { source: Arc::new(Poison { during, source }) })
            }
            Err(AppendError::Broken { during, source }) => {
                Err(CommitError::Poisoned { source: self.poison_with(head, during, source) })
            }
        }
    }

    /// Every tree that is written must have its name in the catalogue.
    pub(crate) fn add_catalogue_entries(&self, head: &mut Head, writes: &mut WriteSet) -> Result<(), CommitError> {
        let known = |head: &Head, tree: u32| head.catalogued.get(tree as usize).copied().unwrap_or(false);
        let numbers = writes.trees.iter().map(|(tree, _)| *tree);
        let trees: Vec<u32> = numbers.filter(|&t| t != CATALOGUE && !known(head, t)).collect();
        for tree in trees {
            let Some(name) = self.names.name_of(tree) else { return Err(WriteError::UnknownTree(TreeId(tree)).into()) };
            if head.layers.contains(CATALOGUE, name.as_bytes()).map_err(CommitError::from)? {
                let index = tree as usize;
                if head.catalogued.len() <= index {
                    head.catalogued.resize(index + 1, false);
                }
                head.catalogued[index] = true;
            } else {
                writes.put_name(&name, tree);
            }
        }
        Ok(())
    }

    /// Gives the transaction its number, writes it into the open group and applies it to the newest table.
    fn apply(&self, head: &mut Head, tx: &WriteTransaction, durability: Durability) -> u64 {
        let commit_no = head.layers.commit_no() + 1;
        let open = &mut head.open;
        if open.count == 0 {
            open.first = commit_no;
            open.bytes.resize(HEADER_BYTES, 0);
        }
        debug_assert_eq!(open.first + u64::from(open.count), commit_no, "commits of a group are consecutive");
        open.count += 1;
        open.sync |= durability == Durability::Durable;
        let effects = tx.writes.effects();
        let mut encoder = CommitEncoder::new(&mut open.bytes, tx.label, effects, tx.writes.has_pieces());
        let batch = &mut head.batch;
        batch.reserve(effects, tx.writes.bytes());
        for (tree, record, effect) in tx.writes.iter() {
            match effect {
                Effect::Put { ends } => {
                    encoder.put(tree, record.key(), record.value(), ends);
                    batch.put(tree, record.bytes(), record.key().len());
                }
                Effect::PutStored(stored) => {
                    encoder.put_stored(tree, record.key(), &stored.at);
                    batch.put_stored(tree, record.key(), stored.at);
                }
                Effect::Delete => {
                    encoder.delete(tree, record.key());
                    batch.delete(tree, record.key());
                }
            }
        }
        Arc::make_mut(&mut head.layers.active).apply(commit_no, batch);
        if self.has_feeds() {
            let ledger = head.layers.ledger();
            open.told.push(Commit { commit_no, label: tx.label, changes: changes_of(&tx.writes, ledger) });
        }
        commit_no
    }

    /// Leads one group if the writer is at home, else waits until something has happened.
    pub(crate) fn lead_or_wait(&self, head: &mut MutexGuard<'_, Head>) {
        match head.writer.take() {
            Some(writer) => {
                drop(self.lead(head, writer));
                self.hand_over(head);
            }
            None => self.turn.wait(head),
        }
    }

    /// Writes the open group, and brings the writer home. Returns the group's members, who are woken when that is
    /// dropped.
    #[must_use]
    fn lead(&self, head: &mut MutexGuard<'_, Head>, mut writer: Box<LogWriter>) -> Waiting {
        let mut group = mem::take(&mut head.open);
        if group.count == 0 {
            head.writer = Some(writer);
            return Waiting::default();
        }
        head.open.bytes = mem::take(&mut head.spare);
        let layers = head.layers.clone();
        let begun_ms = group.sync.then(|| self.env.clock.monotonic_ms());
        let result = self.without_lock(head, &group.outcome, || {
            writer.append(&mut group.bytes, group.first, group.count)?;
            if group.sync { writer.sync() } else { Ok(()) }
        });
        match result {
            Ok(()) => {
                head.groups += 1;
                head.syncs += u64::from(group.sync);
                head.commits += u64::from(group.count);
                head.company = group.count + head.open.count;
                if let Some(begun_ms) = begun_ms {
                    head.sync_ms = self.env.clock.monotonic_ms().saturating_sub(begun_ms);
                }
                let at = writer.at();
                self.publish(layers, Some(at), &group.told);
                group.outcome.set(Ok(())).unwrap_or_else(|_| unreachable!("a group is led once"));
                head.writer = Some(writer);
                // One that a large commit has made long is not kept.
                if group.bytes.capacity() <= 2 * self.config.group_bytes {
                    group.bytes.clear();
                    head.spare = mem::take(&mut group.bytes);
                }
            }
            Err(AppendError::DiskFull { during, source }) if group.count > group.shown.count => {
                head.writer = Some(writer);
                self.fail(head, &group.outcome, &Failure::DiskFull(Arc::new(Poison { during, source })));
                // Nothing of the group was written. Those of it that are shown wait for the next one.
                let shown = group.shown;
                if shown.count > 0 {
                    let mut bytes = mem::take(&mut group.bytes);
                    bytes.truncate(shown.bytes);
                    head.open =
                        OpenGroup { bytes, first: group.first, count: shown.count, shown, ..OpenGroup::default() };
                }
            }
            // For those that are shown there was room.
            Err(AppendError::DiskFull { during, source } | AppendError::Broken { during, source }) => {
                // The writer stays with the store, unused: it holds the file's lock until the store is closed.
                head.writer = Some(writer);
                self.poison(head, during, source, &group.outcome);
            }
        }
        self.turn.notify_all();
        mem::take(&mut group.waiting)
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
        let mut layers = (*self.published()).clone();
        // The commits that failed are in leaves that the published table shares, and their numbers are given again.
        if head.layers.commit_no() > layers.commit_no() {
            layers.active = Arc::new(if layers.active.is_empty() {
                layers.active.after(layers.commit_no(), self.config.table_bytes as usize)
            } else {
                head.layers.active.rolled_back_to(&layers.active)
            });
        }
        head.layers = layers;
        head.catalogued.clear();
        head.last_times = None;
    }

    /// Stops all writing for good. A failed sync is never tried again: after it nobody knows what the disk has.
    fn poison(&self, head: &mut Head, during: &'static str, source: std::io::Error, group: &Outcome) {
        let poison = Arc::new(Poison { during, source });
        head.state = Running::Poisoned(Arc::clone(&poison));
        self.fail(head, group, &Failure::Poisoned(poison));
    }

    /// Stops all writing after an error outside a group; returns what is told from now on.
    pub(crate) fn poison_with(&self, head: &mut Head, during: &'static str, source: std::io::Error) -> Arc<Poison> {
        self.poison(head, during, source, &Outcome::default());
        self.turn.notify_all();
        match &head.state {
            Running::Poisoned(poison) => Arc::clone(poison),
            _ => unreachable!("poisoned just now"),
        }
    }
}

/// Returns what a transaction will take of the table, about.
fn table_share(head: &Head, tx: &WriteTransaction) -> u64 {
    // Where history is kept, an entry of a twin for each of a tree.
    let times = 1 + u64::from(head.layers.active.twins().is_some());
    times * tx.writes.table_bytes()
}

/// Keys are copied: a slice would keep the value alive as long as the feed keeps the news.
pub(crate) fn changes_of(writes: &WriteSet, ledger: Option<u32>) -> Arc<[Change]> {
    let kind = |effect: &Effect| if matches!(effect, Effect::Delete) { ChangeKind::Delete } else { ChangeKind::Put };
    writes
        .iter()
        .filter(|(tree, ..)| *tree != CATALOGUE && Some(*tree) != ledger)
        .map(|(tree, record, effect)| Change {
            tree: TreeId(tree),
            key: Bytes::copy_from_slice(record.key()),
            kind: kind(effect),
        })
        .collect()
}

const _: () = assert!(TREES_MAX < u32::MAX as usize);
