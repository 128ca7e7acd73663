//! The threads of the log: one appends, the others read. Each answers into the hub's queue.

use std::sync::Arc;
use std::sync::mpsc as blocking;

use blazedb_wire::{ReplicaId, SpaceId};
use parking_lot::Mutex;

use super::appends::Line;
use super::handle::HubHandle;
use crate::hub::{ConnId, Input, Unavailable};
use crate::limits::LOOK_UP_BYTES_MAX;
use crate::log::{Append, AppendError, LogError, Packing, PayloadDigest, RelayLog};

/// What the log is asked for.
pub(super) enum Read {
    Open {
        name: Arc<str>,
    },
    Entries {
        conn: ConnId,
        space: SpaceId,
        after_seq: u64,
        bytes_max: usize,
        packing: Packing,
    },
    /// Those that were found are kept until all are there.
    Digests {
        conn: ConnId,
        space: SpaceId,
        replica: ReplicaId,
        first: u64,
        last: u64,
        found: Vec<PayloadDigest>,
    },
}

impl Read {
    /// Returns for whom that is, if it is for one client.
    pub(super) fn conn(&self) -> Option<ConnId> {
        match self {
            Self::Open { .. } => None,
            Self::Entries { conn, .. } | Self::Digests { conn, .. } => Some(*conn),
        }
    }
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

/// The append thread: what has gathered goes in under one sync, spaces in turns.
pub(super) fn append_all(log: &dyn RelayLog, appends: &blocking::Receiver<Append>, answers: &HubHandle) {
    let _guard = AbortOnPanic;
    let mut line = Line::default();
    loop {
        if line.is_empty() {
            let Ok(append) = appends.recv() else { return };
            line.push(append);
        }
        appends.try_iter().for_each(|append| line.push(append));
        let group = line.group();
        let results = log.append(&group);
        for (append, result) in group.iter().zip(results) {
            match &result {
                Ok(()) => {}
                // Behind one that failed: the hub reads the space again and decides again.
                Err(error @ AppendError::HeadMismatch { .. }) => {
                    tracing::debug!(space = %append.space, %error, "an append came too late");
                }
                Err(error) => {
                    tracing::error!(space = %append.space, %error, "an append failed");
                    if let AppendError::Poisoned { detail } = error {
                        answers.log_is_over(detail);
                    }
                }
            }
            answers.input(Input::Appended { space: append.space, append: append.id, result });
        }
    }
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
                let result = log.open_space(&name).map_err(|error| {
                    if let LogError::Poisoned { detail } = &error {
                        answers.log_is_over(detail);
                    }
                    unavailable(error)
                });
                Input::SpaceOpened { name, result }
            }
            Read::Entries { conn, space, after_seq, bytes_max, packing } => {
                let read = log.read(space, after_seq, bytes_max).map(|entries| packing.pack(entries));
                Input::LogRead { conn, result: read.map_err(unavailable) }
            }
            Read::Digests { conn, space, replica, first, last, mut found } => {
                let next = first + found.len() as u64;
                let result = log.digests(space, replica, next, last, LOOK_UP_BYTES_MAX).map_err(unavailable);
                match result {
                    Ok(more) => {
                        found.extend(more);
                        if first + (found.len() as u64) <= last {
                            // Others have their turn before the rest.
                            answers.read_on(conn, Read::Digests { conn, space, replica, first, last, found });
                            continue;
                        }
                        Input::DigestsFound { conn, replica, first, result: Ok(found) }
                    }
                    Err(error) => Input::DigestsFound { conn, replica, first, result: Err(error) },
                }
            }
        };
        answers.input(input);
    }
}
