//! The change stream: what each committed transaction did to documents, local and remote alike.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use blazedb_wire::DocumentId;
use parking_lot::{Condvar, Mutex};

/// Commits that a subscriber may fall behind before it is told that it lagged.
const QUEUE_COMMITS_MAX: usize = 4096;

/// Where a commit came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A transaction of this process.
    Local,
    /// Operations of other replicas, received from the relay.
    Remote,
}

/// What happened to a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was created or its content changed.
    Put,
    /// It is gone.
    Delete,
}

/// One document that a commit altered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentChange {
    /// Name of the collection.
    pub collection: Arc<str>,
    /// The document.
    pub id: DocumentId,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// One committed transaction, as the change stream tells it. Each document occurs once.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The file's own commit number; it rises, with gaps where a commit changed no document.
    pub commit_no: u64,
    /// Who wrote it.
    pub origin: Origin,
    /// The documents that it altered.
    pub changes: Arc<[DocumentChange]>,
}

/// What the change stream yields.
#[derive(Clone, Debug)]
pub enum ChangeEvent {
    /// A committed transaction.
    Commit(Commit),
    /// The subscriber fell too far behind and commits were left out: read the collections again.
    Lagged,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Commit>,
    lagged: bool,
    closed: bool,
}

struct Subscriber {
    queue: Mutex<Queue>,
    wake: Condvar,
}

/// A subscription to committed changes; see [`crate::Database::changes`]. Dropping it ends it.
pub struct Changes {
    subscriber: Arc<Subscriber>,
}

impl Changes {
    /// Returns the next event without waiting.
    pub fn try_recv(&self) -> Option<ChangeEvent> {
        self.subscriber.queue.lock().pop()
    }

    /// Waits for the next event; `None` when `timeout` has passed or the database was closed.
    pub fn recv_timeout(&self, timeout: Duration) -> Option<ChangeEvent> {
        let until = Instant::now() + timeout;
        let mut queue = self.subscriber.queue.lock();
        loop {
            if let Some(event) = queue.pop() {
                return Some(event);
            }
            if queue.closed || self.subscriber.wake.wait_until(&mut queue, until).timed_out() {
                return queue.pop();
            }
        }
    }
}

impl Iterator for Changes {
    type Item = ChangeEvent;

    /// Waits for the next event; ends when the database is closed.
    fn next(&mut self) -> Option<ChangeEvent> {
        let mut queue = self.subscriber.queue.lock();
        loop {
            if let Some(event) = queue.pop() {
                return Some(event);
            }
            if queue.closed {
                return None;
            }
            self.subscriber.wake.wait(&mut queue);
        }
    }
}

impl Queue {
    fn pop(&mut self) -> Option<ChangeEvent> {
        if self.lagged {
            self.lagged = false;
            return Some(ChangeEvent::Lagged);
        }
        self.events.pop_front().map(ChangeEvent::Commit)
    }
}

/// Hands commits to every subscriber, in commit order.
#[derive(Default)]
pub(crate) struct ChangeHub {
    subscribers: Mutex<Vec<Weak<Subscriber>>>,
    closed: AtomicBool,
}

impl ChangeHub {
    pub(crate) fn subscribe(&self) -> Changes {
        let subscriber = Arc::new(Subscriber { queue: Mutex::default(), wake: Condvar::new() });
        let mut subscribers = self.subscribers.lock();
        subscriber.queue.lock().closed = self.closed.load(Ordering::Acquire);
        subscribers.push(Arc::downgrade(&subscriber));
        drop(subscribers);
        Changes { subscriber }
    }

    pub(crate) fn publish(&self, commit: &Commit) {
        self.each(|queue| {
            if queue.events.len() >= QUEUE_COMMITS_MAX {
                queue.events.clear();
                queue.lagged = true;
            }
            if !queue.lagged {
                queue.events.push_back(commit.clone());
            }
        });
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.each(|queue| queue.closed = true);
    }

    fn each(&self, act: impl Fn(&mut Queue)) {
        self.subscribers.lock().retain(|weak| match weak.upgrade() {
            Some(subscriber) => {
                act(&mut subscriber.queue.lock());
                subscriber.wake.notify_all();
                true
            }
            None => false,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(commit_no: u64) -> Commit {
        Commit { commit_no, origin: Origin::Local, changes: Arc::from([]) }
    }

    #[test]
    fn a_slow_subscriber_is_told_that_it_lagged() {
        let hub = ChangeHub::default();
        let changes = hub.subscribe();
        for n in 0..=QUEUE_COMMITS_MAX as u64 {
            hub.publish(&commit(n));
        }
        assert!(matches!(changes.try_recv(), Some(ChangeEvent::Lagged)));
        assert!(changes.try_recv().is_none(), "what came before the lag is not told");
        hub.publish(&commit(7));
        assert!(matches!(changes.try_recv(), Some(ChangeEvent::Commit(c)) if c.commit_no == 7));
    }

    #[test]
    fn closing_ends_the_stream_after_what_is_queued() {
        let hub = ChangeHub::default();
        let changes = hub.subscribe();
        hub.publish(&commit(1));
        hub.close();
        assert_eq!(changes.count(), 1);
        assert_eq!(hub.subscribe().count(), 0, "who comes after the end does not wait for ever");
    }
}
