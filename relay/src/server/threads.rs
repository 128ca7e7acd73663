//! The threads of the log: one appends, the others read. Each answers into the hub's queue.

use std::sync::Arc;
use std::sync::mpsc as blocking;

use blazedb_wire::{ReplicaId, SpaceId};
use parking_lot::Mutex;

use super::handle::HubHandle;
use crate::hub::{ConnId, Input, Unavailable};
use crate::limits::GROUP_BYTES_MAX;
use crate::log::{Append, LogError, Packing, RelayLog};

/// What the log is asked for.
pub(super) enum Read {
    Open { name: Arc<str> },
    Entries { conn: ConnId, space: SpaceId, after_seq: u64, bytes_max: usize, packing: Packing },
    Digests { conn: ConnId, space: SpaceId, replica: ReplicaId, first: u64, last: u64 },
}

/// A relay that cannot reach its log is better dead, since it may be killed at any moment and somebody restarts it, than
/// alive with clients who wait for answers that no thread will give.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a thread of the log panicked: the relay ends, nothing acknowledged is lost");
            std::process::abort();
        }
    }
}

/// The append thread: whatever has gathered goes in under one sync.
pub(super) fn append_all(log: &dyn RelayLog, appends: &blocking::Receiver<Append>, answers: &HubHandle) {
    let _guard = AbortOnPanic;
    while let Ok(first) = appends.recv() {
        let group = gather(first, || appends.try_recv().ok());
        let results = log.append(&group);
        for (append, result) in group.iter().zip(results) {
            if let Err(error) = &result {
                tracing::error!(space = %append.space, %error, "an append failed");
            }
            answers.input(Input::Appended { space: append.space, append: append.id, result });
        }
    }
}

/// Returns the appends that share a sync: the first, and what waits behind it until there are enough bytes.
fn gather(first: Append, mut next: impl FnMut() -> Option<Append>) -> Vec<Append> {
    let mut bytes = bytes_of(&first);
    let mut group = vec![first];
    while bytes < GROUP_BYTES_MAX
        && let Some(append) = next()
    {
        bytes += bytes_of(&append);
        group.push(append);
    }
    group
}

/// What an append puts into the log's transaction, about: a batch of many deletes writes more than it holds.
fn bytes_of(append: &Append) -> usize {
    let lives = append.entries.iter().flat_map(|entry| &entry.lives).map(|change| 128 + change.collection.len());
    append.entries.iter().map(|entry| 512 + entry.frame.len()).chain(lives).sum()
}

/// A reader thread.
pub(super) fn read_all(log: &dyn RelayLog, reads: &Mutex<blocking::Receiver<Read>>, answers: &HubHandle) {
    let unavailable = |error: LogError| {
        tracing::error!(%error, "the log could not be read");
        Unavailable
    };
    let _guard = AbortOnPanic;
    loop {
        // Whoever holds the receiver waits for work; the others wait for the receiver.
        let Ok(read) = reads.lock().recv() else { return };
        let input = match read {
            Read::Open { name } => {
                let result = log.open_space(&name).map_err(unavailable);
                Input::SpaceOpened { name, result }
            }
            Read::Entries { conn, space, after_seq, bytes_max, packing } => {
                let read = log.read(space, after_seq, bytes_max).map(|entries| packing.pack(entries));
                Input::LogRead { conn, result: read.map_err(unavailable) }
            }
            Read::Digests { conn, space, replica, first, last } => {
                let result = log.digests(space, replica, first, last).map_err(unavailable);
                Input::DigestsFound { conn, replica, first, result }
            }
        };
        answers.input(input);
    }
}

#[cfg(test)]
mod tests {
    use blazedb_wire::Hlc;
    use bytes::Bytes;

    use super::*;
    use crate::log::{AppendId, Known, LogEntry};

    fn append(frame: usize) -> Append {
        let entry = LogEntry {
            first_seq: 1,
            last_seq: 1,
            frame: Bytes::from(vec![0; frame]),
            replica: ReplicaId::from_bytes([1; 16]),
            known: Known { counter: 1, digest: [0; 16] },
            lives: Vec::new(),
            newest_stamp: Hlc::default(),
        };
        Append { id: AppendId(1), space: SpaceId::from_bytes([1; 16]), expected_head: 0, entries: vec![entry] }
    }

    #[test]
    fn a_sync_is_shared_up_to_its_bytes() {
        let share = |frame: usize| gather(append(frame), || Some(append(frame))).len();
        // A megabyte and what goes with it: the eighth has fewer than 8 MiB before it.
        assert_eq!(share((1 << 20) - 512), 8);
        assert_eq!(share(8 << 20), 1, "a long one has its own");
        let mut two = [append(10), append(10)].into_iter();
        assert_eq!(gather(append(10), || two.next()).len(), 3, "nobody is waited for");
    }
}
