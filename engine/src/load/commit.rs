//! How a load becomes a commit: the serial section is its own, and what it writes are pages and a header.
//!
//! A transaction of more than a table goes the same way, whatever has made it so large.

use std::sync::Arc;

use crate::ahead::Stored;
use crate::change::Commit;
use crate::checkpoint::{LoadPages, Work, due, write_load_pages, write_root};
use crate::disk::Disk;
use crate::error::{CommitError, HookError, Poison, WriteError};
use crate::log::writer::AppendError;
use crate::pager::PageError;
use crate::readers::LogAt;
use crate::snapshot::Layers;
use crate::store::Inner;
use crate::sync::MutexGuard;
use crate::txn::commit::changes_of;
use crate::txn::head::{Head, Outcome};
use crate::txn::names::CatalogueEntry;
use crate::txn::write_set::SetEdits;
use crate::txn::{CATALOGUE, CommitInfo, Serial, TreeId, WriteTransaction};

/// The serial section belongs to a load as long as this lives.
pub(crate) struct Loading<'i>(&'i Inner);

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        let mut head = self.0.head.lock();
        head.loading = false;
        // A load has noted its time in pages, or has not, after all.
        head.last_times = None;
        self.0.hand_over(&head);
    }
}

/// Long values whose pages a header in the making names. They are not given back, also where the storage panics.
struct Adopted(Vec<Arc<Stored>>);

impl Adopted {
    /// No header will name them.
    fn disown(mut self) {
        self.0.drain(..).for_each(|value| value.disown());
    }
}

impl Drop for Adopted {
    fn drop(&mut self) {
        self.0.iter().for_each(|value| value.keep());
    }
}

impl Inner {
    /// Whether a transaction is more than a table holds: it goes straight into pages, which a checkpoint would have to do
    /// right afterwards.
    pub(crate) fn is_load(&self, tx: &WriteTransaction) -> bool {
        tx.writes.table_bytes() > self.config.table_bytes
    }

    pub(crate) fn commit_as_load(
        &self,
        mut tx: WriteTransaction,
        hook: impl FnOnce(&mut Serial<'_>) -> Result<(), HookError>,
    ) -> Result<CommitInfo, CommitError> {
        let (mut guard, _loading) = self.begin_load()?;
        let disk = self.disk_for_load(&mut guard)?;
        let mut head = self.head.lock();
        head.check()?;
        tx.view.inner().check_conflicts(&mut head, &tx, |head| head.check())?;
        hook(&mut Serial { inner: self, layers: &head.layers, writes: &mut tx.writes }).map_err(CommitError::Hook)?;
        self.add_catalogue_entries(&mut head, &mut tx.writes)?;
        drop(head);
        if tx.writes.is_empty() {
            return Ok(CommitInfo { commit_no: tx.view.commit_no(), changed: false });
        }
        self.mark_time(&mut self.head.lock(), &mut tx);
        self.write_set_as_load(disk, &tx)
    }

    /// Writes a transaction into pages. The caller has the serial section to itself.
    fn write_set_as_load(&self, disk: &mut Disk, tx: &WriteTransaction) -> Result<CommitInfo, CommitError> {
        let commit_no = self.published_no() + 1;
        let ledger = self.published().ledger();
        let told =
            self.has_feeds().then(|| Commit { commit_no, label: tx.label, changes: changes_of(&tx.writes, ledger) });
        let values = Adopted(tx.writes.stored());
        let done = self.write_load(disk, told.as_ref(), |load| {
            load.adopt(&values.0);
            load.apply(&mut SetEdits::new(&tx.writes))
        });
        // Of a store that is poisoned it is not known whether a header names them, and nothing is written any more.
        if !matches!(done, Ok(_) | Err(CommitError::Poisoned { .. })) {
            values.disown();
        }
        done
    }

    /// The same where the hook has made it one. What it has read stays the newest state: nobody else commits from here on.
    pub(crate) fn go_on_as_load(
        &self,
        mut head: MutexGuard<'_, Head>,
        tx: &WriteTransaction,
    ) -> Result<CommitInfo, CommitError> {
        let seen = head.layers.commit_no();
        let _loading = self.claim_load(&mut head);
        drop(head);
        let mut guard = self.disk.lock();
        let disk = self.disk_for_load(&mut guard)?;
        self.empty_tables(disk)?;
        if self.published_no() != seen {
            return Err(failed_before());
        }
        self.write_set_as_load(disk, tx)
    }

    /// Returns the disk if the store writes.
    pub(crate) fn disk_for_load<'d>(&self, guard: &'d mut Option<Disk>) -> Result<&'d mut Disk, CommitError> {
        self.head.lock().check()?;
        guard.as_mut().ok_or(CommitError::Closed)
    }

    /// Gives a load the serial section, and the disk: no commit is on its way, none can begin, and all are in pages.
    pub(crate) fn begin_load(&self) -> Result<(MutexGuard<'_, Option<Disk>>, Loading<'_>), CommitError> {
        loop {
            let mut guard = self.disk.lock();
            let disk = self.disk_for_load(&mut guard)?;
            // Most of what is in tables is written while others still commit.
            self.checkpoint_on(disk, Work::None)?;
            let mut head = self.head.lock();
            if head.loading {
                // Somebody whose hook has run waits for the disk.
                drop(guard);
                self.wait_for_load(&mut head)?;
                continue;
            }
            let loading = self.claim_load(&mut head);
            drop(head);
            self.empty_tables(disk)?;
            return Ok((guard, loading));
        }
    }

    /// Keeps others from committing. Nobody else may be loading.
    pub(crate) fn claim_load(&self, head: &mut Head) -> Loading<'_> {
        assert!(!head.loading, "one load at a time has the serial section");
        head.loading = true;
        Loading(self)
    }

    /// Writes all that was committed into pages, while nobody commits.
    pub(crate) fn empty_tables(&self, disk: &mut Disk) -> Result<(), CommitError> {
        let mut head = self.head.lock();
        loop {
            head.check()?;
            if head.writer.is_some() && !head.has_open_commits() {
                break;
            }
            self.lead_or_wait(&mut head);
        }
        drop(head);
        loop {
            // The first one may be the second try of one that found no room, of a table that was frozen before.
            self.checkpoint_on(disk, Work::None)?;
            let newest = self.published();
            if newest.active.is_empty() && newest.frozen.is_none() {
                return Ok(());
            }
        }
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
        let twins = newest.active.twins().cloned();
        let commit_no = newest.commit_no() + 1;
        let mut head = self.head.lock();
        let written = self.without_lock(&mut head, &Outcome::default(), || {
            write_load_pages(disk, &old, (twins.as_deref(), commit_no), rows)
        });
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
        let active = Arc::new(newest.active.after(commit_no, self.config.table_bytes as usize));
        head.layers = Layers { root, frozen: None, active };
        head.commits += 1;
        head.checkpoints += 1;
        let used = disk.space.lock().counts().used;
        head.checkpoint_from = due::first(self.config.table_bytes, used);
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

    pub(crate) fn wait_for_load(&self, head: &mut MutexGuard<'_, Head>) -> Result<(), CommitError> {
        loop {
            head.check()?;
            if !head.loading {
                return Ok(());
            }
            self.turn.wait(head);
        }
    }

    /// Returns catalogue entries for trees that have none, in order; `trees`: by number, which to look at.
    pub(crate) fn names_to_catalogue(&self, trees: &[bool]) -> Result<Vec<CatalogueEntry>, CommitError> {
        let newest = self.published();
        let mut names = Vec::new();
        for (tree, _) in (0_u32..).zip(trees).filter(|(_, has_rows)| **has_rows) {
            let Some(name) = self.names.name_of(tree) else { return Err(WriteError::UnknownTree(TreeId(tree)).into()) };
            if !newest.contains(CATALOGUE, name.as_bytes())? {
                names.push((name, tree.to_le_bytes()));
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// What a hook has seen is gone: commits before its own found no room, and were taken back.
fn failed_before() -> CommitError {
    let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
    CommitError::DiskFull { source: Arc::new(Poison { during: "writing the commits before this one", source }) }
}
