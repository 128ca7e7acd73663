//! What the sync thread tells the handles: state of the link, head of the log, traffic, the last error.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use blazedb_wire::SpaceId;
use parking_lot::{Condvar, Mutex};

use crate::replica::OutboxCounts;
use crate::transport::Target;
use crate::{Error, ErrorKind};

/// How the connection to a relay is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncState {
    /// Not connected; the next attempt comes by itself.
    #[default]
    Offline,
    /// Connecting, or agreeing with the relay on where to go on.
    Connecting,
    /// Connected; operations flow.
    Online,
    /// The relay refused for good, or the file cannot be used: nothing more will be tried. See
    /// [`SyncStatus::last_error`].
    Stopped,
}

/// A connection in numbers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SyncStatus {
    /// How the connection is doing.
    pub state: SyncState,
    /// The space, once known.
    pub space: Option<SpaceId>,
    /// Epoch of the space's log.
    pub epoch: u32,
    /// Last relay sequence applied here.
    pub cursor: u64,
    /// Newest relay sequence that this replica has heard of.
    pub head: u64,
    /// Own operations that are not sealed yet.
    pub unsent_ops: u64,
    /// Own operations that are sealed and not known to be in the relay's log.
    pub unacked_ops: u64,
    /// Bytes sent, TLS included, since the handle was made.
    pub bytes_sent: u64,
    /// Bytes received, TLS included, since the handle was made.
    pub bytes_received: u64,
    /// Operations merged with an edit that their author had not seen, since the handle was made.
    pub conflicts_merged: u64,
    /// Operations or documents that were put into the inbox, since the handle was made.
    pub boxed: u64,
    /// Times that the connection was established.
    pub connections: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
}

#[derive(Default)]
pub(super) struct Shared {
    link: Mutex<Link>,
    moved: Condvar,
    pub(super) conflicts_merged: AtomicU64,
    pub(super) boxed: AtomicU64,
    /// Set by a commit, cleared by the thread before it seals: many commits make one wake.
    pub(super) committed: AtomicBool,
}

#[derive(Default)]
pub(super) struct Link {
    pub(super) state: SyncState,
    pub(super) space: Option<SpaceId>,
    pub(super) epoch: u32,
    pub(super) head: u64,
    pub(super) connections: u64,
    pub(super) last_error: Option<String>,
    digests: u64,
    digest: Option<(u64, [u8; 32], u64)>,
}

impl Link {
    pub(super) fn digest_after(&self, ticket: u64) -> Option<(u64, [u8; 32], u64)> {
        self.digest.filter(|_| self.digests > ticket)
    }
}

impl Shared {
    /// Changes the link and wakes whoever waits for it.
    pub(super) fn update(&self, change: impl FnOnce(&mut Link)) {
        change(&mut self.link.lock());
        self.moved.notify_all();
    }

    pub(super) fn digest_arrived(&self, digest: (u64, [u8; 32], u64)) {
        self.update(|link| {
            link.digests += 1;
            link.digest = Some(digest);
        });
    }

    pub(super) fn expect_digest(&self) -> u64 {
        self.link.lock().digests
    }

    pub(super) fn status(&self, target: &Target, cursor: u64, outbox: OutboxCounts) -> SyncStatus {
        let link = self.link.lock();
        SyncStatus {
            state: link.state,
            space: link.space,
            epoch: link.epoch,
            cursor,
            head: link.head.max(cursor),
            unsent_ops: outbox.pending_ops,
            unacked_ops: outbox.sealed_ops,
            bytes_sent: target.counters().sent(),
            bytes_received: target.counters().received(),
            conflicts_merged: self.conflicts_merged.load(Ordering::Relaxed),
            boxed: self.boxed.load(Ordering::Relaxed),
            connections: link.connections,
            last_error: link.last_error.clone(),
        }
    }

    /// Waits until `ready` gives something; looks again whenever the link moved.
    pub(super) fn wait<R>(
        &self,
        timeout: Duration,
        mut ready: impl FnMut(&Link) -> Result<Option<R>, Error>,
    ) -> Result<R, Error> {
        let until = Instant::now() + timeout;
        let mut link = self.link.lock();
        loop {
            if let Some(result) = ready(&link)? {
                return Ok(result);
            }
            let said = link.last_error.clone();
            if link.state == SyncState::Stopped {
                return Err(Error::new(ErrorKind::Sync, said.unwrap_or_else(|| "the sync has stopped".into())));
            }
            if Instant::now() >= until {
                let why = said.map_or(String::new(), |e| format!("; the last error was: {e}"));
                return Err(Error::new(
                    ErrorKind::Sync,
                    format!("not in step with the relay after {timeout:.1?} (the link is {:?}){why}", link.state),
                ));
            }
            // Looks again now and then: the outbox moves without the link.
            let nap = (until - Instant::now()).min(Duration::from_millis(50));
            self.moved.wait_for(&mut link, nap);
        }
    }
}
