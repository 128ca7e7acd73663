//! What lies in a connection of HTTP/2 that no call has taken, and how fast it may become more.
//!
//! h2 keeps DATA that a call has not taken as slices of the memory that it was read into, and that memory lives as long as
//! one slice of it does. The windows bound the slices; what lies between them (headers, pings, frames that nobody knows, DATA
//! of streams that are over) has no window, and a client who mixes little of the one with much of the other has 32 times
//! its window kept. So what comes in is counted beside what calls take. While the body of a call is not read, the
//! connection may bring as much as its window, and then no more than a stranger may ([`super::meter`]): read slowly, not ended, so
//! that what opens the window, or ends the call, still comes through.
//!
//! A body that was found empty is asked again as soon as something has come for it, so until then nothing lies there for it,
//! however much comes for others. What is not asked again, though there may be something, says so ([`Taker::pause`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

/// What the two ends of a connection count: the socket's, and the calls'.
#[derive(Debug, Default)]
pub(super) struct Unread {
    /// Bytes that came in.
    come: AtomicU64,
    /// Bytes of bodies that calls have taken.
    taken: AtomicU64,
    /// For each body what was untaken when it was last known to be empty, or that it is so now.
    bodies: Mutex<Vec<Arc<AtomicU64>>>,
}

/// A body has nothing, and will be asked as soon as it has.
const EMPTY: u64 = u64::MAX;

impl Unread {
    /// Notes that so much has come in.
    pub(super) fn come(&self, bytes: usize) {
        self.come.fetch_add(bytes as u64, Relaxed);
    }

    /// Returns how much came in that no call has taken. Calls run beside the socket: it is what it was a moment ago.
    pub(super) fn untaken(&self) -> u64 {
        let taken = self.taken.load(Relaxed);
        self.come.load(Relaxed).saturating_sub(taken)
    }

    /// Returns what was untaken when nothing lay unread: what has come since may lie there for a body.
    pub(super) fn empty_at(&self) -> u64 {
        let untaken = self.untaken();
        self.bodies.lock().iter().map(|empty_at| empty_at.load(Relaxed)).min().unwrap_or(EMPTY).min(untaken)
    }
}

/// What one body tells its connection.
#[derive(Debug)]
pub(super) struct Taker {
    unread: Arc<Unread>,
    empty_at: Arc<AtomicU64>,
    ended: bool,
}

impl Taker {
    pub(super) fn new(unread: &Arc<Unread>) -> Self {
        let empty_at = Arc::new(AtomicU64::new(unread.untaken()));
        unread.bodies.lock().push(Arc::clone(&empty_at));
        Self { unread: Arc::clone(unread), empty_at, ended: false }
    }

    /// Says that so much was taken; there may be more.
    pub(super) fn took(&self, bytes: usize) {
        self.unread.taken.fetch_add(bytes as u64, Relaxed);
        self.pause();
    }

    /// Says that there is nothing to take, and that the body is asked again once there is.
    pub(super) fn found_nothing(&self) {
        self.empty_at.store(EMPTY, Relaxed);
    }

    /// Says that nobody asks for what comes from now on.
    pub(super) fn pause(&self) {
        if !self.ended && self.empty_at.load(Relaxed) == EMPTY {
            self.empty_at.store(self.unread.untaken(), Relaxed);
        }
    }

    /// Says that there will be nothing more.
    pub(super) fn ended(&mut self) {
        self.ended = true;
        self.found_nothing();
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.unread.bodies.lock().retain(|empty_at| !Arc::ptr_eq(empty_at, &self.empty_at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_come_lies_until_a_body_is_empty_ended_or_gone() {
        let unread = Arc::<Unread>::default();
        let lies = || unread.untaken() - unread.empty_at();
        unread.come(1_000);
        assert_eq!((unread.untaken(), lies()), (1_000, 0), "for nobody");
        let [one, mut two] = [(); 2].map(|()| Taker::new(&unread));
        assert_eq!(lies(), 0, "it came before");
        unread.come(500);
        one.took(300);
        assert_eq!(lies(), 200);
        one.found_nothing();
        assert_eq!(lies(), 200, "it may be the other's");
        two.found_nothing();
        assert_eq!(lies(), 0);
        unread.come(2_000);
        assert_eq!(lies(), 0, "for others: both would have been asked");
        one.took(100);
        unread.come(100);
        assert_eq!(lies(), 100, "it may have more");
        one.found_nothing();
        two.pause();
        unread.come(70);
        assert_eq!(lies(), 70, "nobody asks it");
        two.ended();
        two.pause();
        one.pause();
        unread.come(50);
        assert_eq!(lies(), 50);
        drop(one);
        assert_eq!(lies(), 0);
        drop(two);
        assert!(unread.bodies.lock().is_empty());
    }
}
