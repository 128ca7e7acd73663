//! `Store`: one file, open. How it is opened is in `open`, what it does while open in `txn`, `checkpoint` and `maintain`.

use std::sync::Arc;
use std::time::Duration;

use crate::ahead::Ahead;
use crate::background::Background;
use crate::change::ChangeFeed;
use crate::disk::Disk;
use crate::env::{Env, StorageFile};
use crate::error::{CommitError, MaintainError, ReadError, WriteError};
use crate::limits::ATTEMPTS_MAX;
use crate::log::replay::LogEnd;
use crate::open::newest_sequence;
use crate::options::AutoVacuum;
use crate::pager::SpaceCounts;
use crate::readers::Visible;
use crate::rekey::KeyState;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex};
use crate::txn::head::{Head, Running};
use crate::txn::names::Names;
use crate::txn::{ReadView, TreeId, WriteTransaction};

/// An open store. Clones are handles of the same store; the last one to go closes it.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
    // Dropped with the last handle; views and transactions may outlive it.
    pub(crate) _closer: Arc<Closer>,
}

pub(crate) struct Closer(Arc<Inner>);

impl Closer {
    pub(crate) fn of(inner: &Arc<Inner>) -> Arc<Self> {
        Arc::new(Self(Arc::clone(inner)))
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        // Best effort: whoever wants to know calls `close`.
        let _ = self.0.close();
    }
}

pub(crate) struct Inner {
    pub(crate) env: Env,
    pub(crate) path: String,
    pub(crate) config: Config,
    pub(crate) head: Mutex<Head>,
    /// Told whenever the writer comes home, a group is done or a checkpoint has ended.
    pub(crate) turn: Condvar,
    pub(crate) visible: Mutex<Visible>,
    /// The main file's writing side; held for as long as a checkpoint takes. Taken before `head`.
    pub(crate) disk: Mutex<Option<Disk>>,
    /// Its way around that lock, for pages of long values; none where the store is read-only.
    pub(crate) ahead: Option<Arc<Ahead>>,
    pub(crate) background: Background,
    pub(crate) names: Names,
    pub(crate) feed_count: AtomicU32,
    /// Subscriptions that wait for commits on their way.
    pub(crate) subscribing: AtomicU32,
    pub(crate) closed: AtomicBool,
    /// Held while the store is closed: who closes it again waits for that. Taken before `disk`.
    pub(crate) closing: Mutex<()>,
    /// Held while keys are changed: no other lock is while a key's owner is asked for it. Taken before `disk`.
    pub(crate) changing_keys: Mutex<()>,
    /// Views that were ended because they held too much.
    pub(crate) snapshots_ended: AtomicU64,
    /// How the file's pages are spread, as the last checkpoint left them.
    pub(crate) space_counts: Mutex<SpaceCounts>,
    /// The header's keys, as far as anybody may know.
    pub(crate) key_state: Mutex<KeyState>,
    /// One of the two headers could not be read, and nobody has mended it: the store was opened for reading.
    pub(crate) header_damaged: bool,
    /// See `Stats::recovered_surely`.
    pub(crate) recovered_surely: bool,
    pub(crate) recovered: LogEnd,
    /// Of a store that was opened read-only: its file, and the header that it was opened by.
    pub(crate) read_only_of: Option<(Arc<dyn StorageFile>, u64)>,
}

/// What `Options` come to.
#[derive(Clone, Copy)]
pub(crate) struct Config {
    pub(crate) table_bytes: u64,
    /// Payload bytes after which an open group takes no further commit.
    pub(crate) group_bytes: usize,
    pub(crate) log_bytes: u64,
    pub(crate) snapshot_bytes_max: u64,
    pub(crate) auto_vacuum: Option<AutoVacuum>,
}

impl Store {
    /// Returns a view of the newest visible commit. Never waits for a writer.
    pub fn read(&self) -> ReadView {
        ReadView::new(&self.inner)
    }

    /// Begins a transaction on the newest visible commit.
    pub fn write(&self) -> WriteTransaction {
        WriteTransaction::new(&self.inner)
    }

    /// Returns the tree of this name. It comes into being with the first commit that writes to it; the number
    /// stays right as long as the store is open, and for this store alone.
    ///
    /// A name once asked for keeps one of `limits::TREES_MAX` numbers until the store is closed, and for good once
    /// something was written to it: a tree can be emptied, not dropped. So take names from a list that the program
    /// knows, and make what users name a part of keys. `ReadView::tree` looks a name up without taking a number.
    pub fn tree(&self, name: &str) -> Result<TreeId, WriteError> {
        self.inner.names.reserve(name).map(TreeId)
    }

    /// Returns the file's path as a person knows it.
    pub fn path(&self) -> &str {
        &self.inner.path
    }

    /// Returns the world the store lives in.
    pub fn env(&self) -> &Env {
        &self.inner.env
    }

    /// Tells every commit that becomes visible after this call, at most `capacity` behind. A view taken after
    /// this call shows at least everything that the feed does not tell.
    pub fn subscribe(&self, capacity: usize) -> ChangeFeed {
        let mut head = self.inner.head.lock();
        // From here on commits are written down for feeds. Those on their way may not have been: they must pass,
        // or be rolled back, before this feed can promise to miss nothing.
        self.inner.subscribing.fetch_add(1, Ordering::AcqRel);
        let last = head.layers.commit_no();
        while self.inner.published_no() < last && head.layers.commit_no() >= last {
            self.inner.lead_or_wait(&mut head);
        }
        let (feed, weak) = ChangeFeed::new(capacity);
        let mut visible = self.inner.visible.lock();
        if matches!(head.state, Running::Closed)
            && let Some(queue) = weak.upgrade()
        {
            queue.close();
        }
        visible.feeds.push(weak);
        self.inner.feed_count.store(visible.feeds.len() as u32, Ordering::Release);
        self.inner.subscribing.fetch_sub(1, Ordering::AcqRel);
        feed
    }

    /// Runs `body` in a transaction and commits it durably. Where another transaction came first
    /// (`CommitError::Conflict`), `body` runs again, on a new snapshot, up to `limits::ATTEMPTS_MAX` times in all; its
    /// own errors, and all other ones of the commit, end it at once and leave no trace.
    ///
    /// ```
    /// # use blazedb_engine::{CommitError, Env, Options, Store};
    /// # let store = Store::open(Env::memory(1), Options::unencrypted())?;
    /// let counters = store.tree("counters")?;
    /// let count = store.retry(|tx| {
    ///     let count = tx.read_checked(counters, b"visits")?.map_or(0, |bytes| bytes[0]) + 1;
    ///     tx.put(counters, b"visits", &[count])?;
    ///     Ok::<_, CommitError>(count)
    /// })?;
    /// assert_eq!(count, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retry<R, E: From<CommitError>>(
        &self,
        mut body: impl FnMut(&mut WriteTransaction) -> Result<R, E>,
    ) -> Result<R, E> {
        let mut attempt = 1;
        loop {
            let mut tx = self.write();
            let result = body(&mut tx)?;
            match tx.commit() {
                Ok(_) => return Ok(result),
                Err(CommitError::Conflict { .. }) if attempt < ATTEMPTS_MAX => self.wait_for_winner(attempt),
                Err(error) => return Err(error.into()),
            }
            attempt += 1;
        }
    }

    /// After a conflict: waits until whoever won can be seen, so that the next attempt does not lose to the same
    /// commit again. From the fifth attempt in a row on also for a time that chance gives (`Env::entropy`), 20 ms at
    /// most: somebody must get out of the way. `attempt`: the one that failed, from 1.
    pub fn wait_for_winner(&self, attempt: usize) {
        // An error here is an error of the next attempt, too, which reports it.
        let _ = self.flush();
        if attempt > 4 {
            let mut dice = [0; 2];
            // Without randomness all wait alike, which is slower and not wrong.
            let _ = self.inner.env.entropy.public(&mut dice);
            let most_us = 50 << attempt.min(11);
            let us: u64 = most_us * u64::from(u16::from_le_bytes(dice)) / u64::from(u16::MAX);
            crate::sync::thread::sleep(Duration::from_micros(us.min(20_000)));
        }
    }

    /// Makes every commit so far durable, the others too.
    pub fn flush(&self) -> Result<(), MaintainError> {
        self.inner.flush()
    }

    /// Writes everything that was committed into pages, so that the log is not needed for it any more. The store
    /// does this by itself when table or log are full, and when it is closed.
    pub fn checkpoint(&self) -> Result<(), MaintainError> {
        self.inner.flush()?;
        self.inner.checkpoint()
    }

    /// Closes the store: writes everything into pages, leaves one file that is complete by itself, releases its
    /// lock. From then on commits and reads fail with `Closed`, through views that were taken before as well. Closing
    /// again does nothing. Takes as long as writing the table takes, and shortening the file, which is bounded and can be
    /// switched off (`Options::auto_vacuum`).
    pub fn close(&self) -> Result<(), MaintainError> {
        self.inner.close()
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl Inner {
    /// Whether this store was opened read-only and its file has been written to since.
    pub(crate) fn is_overtaken(&self) -> bool {
        self.read_only_of.as_ref().is_some_and(|(file, sequence)| newest_sequence(&**file) != Some(*sequence))
    }

    /// Damage that a reader without the lock meets may be a page that was used again.
    #[cold]
    pub(crate) fn why_unreadable(&self, error: ReadError) -> ReadError {
        match error {
            ReadError::Corruption(_) if self.is_overtaken() => ReadError::Overtaken,
            error => error,
        }
    }

    pub(crate) fn check_tree(&self, tree: TreeId) -> Result<(), ReadError> {
        if self.names.knows(tree.0) { Ok(()) } else { Err(ReadError::UnknownTree(tree)) }
    }
}
