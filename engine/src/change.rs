//! What committed transactions altered, told to whoever asked, in commit order.
//!
//! A feed gets a commit after it is visible, and a `Durable` commit after it is durable. A feed that is not read
//! fast enough loses commits, never the store's time: it is told how many it lost, and reads a new `ReadView`.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;

use crate::sync::{Condvar, Mutex};
use crate::txn::TreeId;

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It has a new value.
    Put,
    /// It has no value any more.
    Delete,
}

/// One key that a commit altered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The tree.
    pub tree: TreeId,
    /// The key.
    pub key: Bytes,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// One commit: every key that it wrote or deleted, each once, ascending by tree and key. The catalogue of tree
/// names is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its number.
    pub commit_no: u64,
    /// What `WriteTransaction::label` said.
    pub label: u32,
    /// The changes.
    pub changes: Arc<[Change]>,
}

/// What a feed gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedEvent {
    /// A commit.
    Commit(Commit),
    /// The feed was full, or a load came (`Loader`): this many commits are not told. What follows is newer than all of
    /// them.
    Lagged {
        /// How many.
        missed: u64,
    },
}

/// Commits from the moment of subscribing on. Dropping it unsubscribes.
pub struct ChangeFeed {
    shared: Arc<FeedQueue>,
}

impl std::fmt::Debug for ChangeFeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChangeFeed").field("capacity", &self.shared.capacity).finish_non_exhaustive()
    }
}

pub(crate) struct FeedQueue {
    capacity: usize,
    state: Mutex<Queue>,
    news: Condvar,
}

#[derive(Default)]
struct Queue {
    commits: VecDeque<Commit>,
    missed: u64,
    closed: bool,
}

impl ChangeFeed {
    /// A feed that holds `capacity` commits, at least one, and what the store keeps of it.
    pub(crate) fn new(capacity: usize) -> (Self, Weak<FeedQueue>) {
        let shared = Arc::new(FeedQueue {
            capacity: capacity.max(1),
            state: Mutex::new(Queue::default()),
            news: Condvar::new(),
        });
        let weak = Arc::downgrade(&shared);
        (Self { shared }, weak)
    }

    /// Returns the next event if there is one.
    pub fn try_recv(&self) -> Option<FeedEvent> {
        self.shared.state.lock().take()
    }

    /// Waits for the next event; `None` when the time is up, or the store was closed and everything was told.
    pub fn recv(&self, timeout: Duration) -> Option<FeedEvent> {
        let mut state = self.shared.state.lock();
        if state.is_idle() {
            self.shared.news.wait_while_for(&mut state, |s| s.is_idle(), timeout);
        }
        state.take()
    }

    /// Returns whether the store was closed; what was told before is still there to be taken.
    pub fn is_closed(&self) -> bool {
        self.shared.state.lock().closed
    }
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.commits.is_empty() && self.missed == 0 && !self.closed
    }

    fn take(&mut self) -> Option<FeedEvent> {
        if self.missed > 0 {
            return Some(FeedEvent::Lagged { missed: std::mem::take(&mut self.missed) });
        }
        self.commits.pop_front().map(FeedEvent::Commit)
    }
}

impl FeedQueue {
    pub(crate) fn push(&self, commit: &Commit) {
        let mut state = self.state.lock();
        if state.commits.len() >= self.capacity {
            // All of them go: after a hole the reader starts from a new view, so older news is of no use.
            state.missed += state.commits.len() as u64;
            state.commits.clear();
        }
        if state.missed > 0 && state.commits.is_empty() {
            // The hole grows until its reader comes to see it.
            state.missed += 1;
        } else {
            state.commits.push_back(commit.clone());
        }
        drop(state);
        self.news.notify_all();
    }

    /// Says that there was a commit whose changes nobody can list.
    pub(crate) fn miss(&self) {
        let mut state = self.state.lock();
        state.missed += state.commits.len() as u64 + 1;
        state.commits.clear();
        drop(state);
        self.news.notify_all();
    }

    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.news.notify_all();
    }
}
