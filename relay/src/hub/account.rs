//! What streams hold together: those of one connection, of one address, and all.
//!
//! Each stream has an [`Account`]; what is entered there counts in all three sums.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Origin, Shares};

/// One sum. Atomic only because the hub may move between threads; nobody else looks.
#[derive(Debug, Default)]
struct Tally {
    queued: AtomicUsize,
    pushed: AtomicUsize,
}

/// The sums of all addresses and connections that have streams.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    relay: Arc<Tally>,
    addresses: BTreeMap<u64, Arc<Tally>>,
    connections: BTreeMap<u64, Arc<Tally>>,
}

impl Accounts {
    /// Opens the account of a stream.
    pub(super) fn open(&mut self, origin: Origin) -> Account {
        let connection = Arc::clone(self.connections.entry(origin.connection).or_default());
        let address = Arc::clone(self.addresses.entry(origin.address).or_default());
        Account { tallies: [connection, address, Arc::clone(&self.relay)], queued: 0 }
    }

    /// Forgets the sums that nobody counts in any more.
    pub(super) fn tidy(&mut self) {
        for tallies in [&mut self.addresses, &mut self.connections] {
            tallies.retain(|_, tally| Arc::strong_count(tally) > 1);
        }
    }

    /// Says whether what was pushed from there leaves room for more.
    pub(super) fn has_room(&self, origin: Origin, pushed: Shares) -> bool {
        let below = |tally: Option<&Arc<Tally>>, max| tally.is_none_or(|t| t.pushed.load(Ordering::Relaxed) < max);
        below(self.connections.get(&origin.connection), pushed.connection)
            && below(self.addresses.get(&origin.address), pushed.address)
            && below(Some(&self.relay), pushed.relay)
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        let Tally { queued, pushed } = &*self.relay;
        self.addresses.is_empty()
            && self.connections.is_empty()
            && [queued, pushed].iter().all(|sum| sum.load(Ordering::Relaxed) == 0)
    }
}

/// What one stream holds.
#[derive(Debug)]
pub(super) struct Account {
    tallies: [Arc<Tally>; 3],
    queued: usize,
}

impl Account {
    /// Returns the bytes given to the transport that have not left, and those that the log is being asked for.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    pub(super) fn queue(&mut self, bytes: usize) {
        self.queued += bytes;
        for tally in &self.tallies {
            tally.queued.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Of more than was queued, only that counts.
    pub(super) fn unqueue(&mut self, bytes: usize) {
        let bytes = bytes.min(self.queued);
        self.queued -= bytes;
        for tally in &self.tallies {
            tally.queued.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Counts memory of what was pushed, until the result is dropped.
    pub(super) fn hold(&self, memory: usize) -> Hold {
        for tally in &self.tallies {
            tally.pushed.fetch_add(memory, Ordering::Relaxed);
        }
        Hold { tallies: self.tallies.clone(), memory }
    }

    /// Says whether so much more can be queued within the shares, each taken `times` over.
    pub(super) fn has_room(&self, bytes: usize, queued: Shares, times: usize) -> bool {
        let Shares { connection, address, relay } = queued;
        let maxima = [connection, address, relay];
        self.tallies.iter().zip(maxima).all(|(tally, max)| tally.queued.load(Ordering::Relaxed) + bytes <= max * times)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.unqueue(self.queued);
    }
}

/// Memory of something that was pushed. It may outlive its stream: an append goes on when its author has gone.
#[derive(Debug)]
pub(super) struct Hold {
    tallies: [Arc<Tally>; 3],
    memory: usize,
}

impl Drop for Hold {
    fn drop(&mut self) {
        for tally in &self.tallies {
            tally.pushed.fetch_sub(self.memory, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_share_what_they_have_in_common_and_leave_nothing_behind() {
        let mut accounts = Accounts::default();
        let queued = Shares { connection: 10, address: 12, relay: 14 };
        let pushed = Shares { connection: 10, address: 20, relay: 30 };
        let at = |address, connection| Origin { address, connection };
        let mut streams: Vec<Account> =
            [at(1, 1), at(1, 1), at(1, 2), at(2, 3)].into_iter().map(|origin| accounts.open(origin)).collect();
        streams[0].queue(6);
        let first = streams[0].hold(10);
        for (stream, room, what) in [(1, 4, "the connection's"), (2, 6, "the address'"), (3, 8, "the relay's")] {
            let has = |bytes, times| streams[stream].has_room(bytes, queued, times);
            assert!(has(room, 1) && !has(room + 1, 1) && has(room + 1, 2), "{what}");
        }
        assert!(!accounts.has_room(at(1, 1), pushed) && accounts.has_room(at(1, 2), pushed));
        let second = streams[2].hold(10);
        assert!(!accounts.has_room(at(1, 4), pushed) && accounts.has_room(at(2, 3), pushed));
        let third = streams[3].hold(10);
        assert!(!accounts.has_room(at(5, 5), pushed));
        drop(first);
        assert!(accounts.has_room(at(1, 1), pushed));
        streams[0].unqueue(100);
        assert_eq!(streams[0].queued(), 0);
        drop(streams);
        accounts.tidy();
        assert!(!accounts.has_room(at(9, 9), Shares { connection: 1, address: 1, relay: 20 }), "two are still held");
        drop((second, third));
        accounts.tidy();
        assert!(accounts.is_empty());
    }
}
