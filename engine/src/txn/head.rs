//! What the serial section guards: the newest state, the group that is forming, and who may go on.

use std::sync::Arc;

use crate::change::Commit;
use crate::checkpoint::Frozen;
use crate::error::{CommitError, MaintainError, Poison};
use crate::history::clock::LastTimes;
use crate::log::group::HEADER_BYTES;
use crate::log::writer::LogWriter;
use crate::memtable::Batch;
use crate::options::tables_bytes;
use crate::snapshot::Layers;
use crate::sync::OnceLock;
use crate::sync::thread::Thread;
use crate::txn::pace::Pace;

/// What the serial section guards.
pub(crate) struct Head {
    /// The newest state, commits on their way to the disk included.
    pub(crate) layers: Layers,
    pub(super) open: OpenGroup,
    /// The buffer of the last group, for the next one.
    pub(super) spare: Vec<u8>,
    /// Empty but while a commit is applied.
    pub(super) batch: Batch,
    /// At home when nobody leads.
    pub(crate) writer: Option<Box<LogWriter>>,
    pub(crate) state: Running,
    /// A table that a checkpoint is writing, or has tried to.
    pub(crate) frozen: Option<Frozen>,
    /// Trees whose names are known to be in the catalogue, by number.
    pub(super) catalogued: Vec<bool>,
    pub(crate) groups: u64,
    pub(crate) syncs: u64,
    pub(crate) commits: u64,
    /// How many commits were in the last group, or waited for it to end.
    pub(super) company: u32,
    /// How many milliseconds the last group took that was synced.
    pub(super) sync_ms: u64,
    pub(crate) checkpoints: u64,
    /// How often a checkpoint was tried and failed for want of room.
    pub(crate) checkpoints_failed: u64,
    /// Bytes of the active table at which the next checkpoint is due.
    pub(crate) checkpoint_from: u64,
    /// A checkpoint is between its freeze and its end.
    pub(crate) checkpointing: bool,
    /// A load has the serial section to itself.
    pub(crate) loading: bool,
    pub(crate) pace: Pace,
    /// The last times that the ledger has; `None`: not known yet.
    pub(crate) last_times: Option<LastTimes>,
}

pub(crate) enum Running {
    Yes,
    ReadOnly,
    Closed,
    Poisoned(Arc<Poison>),
}

pub(crate) type Outcome = Arc<OnceLock<Result<(), Failure>>>;

#[derive(Clone)]
pub(crate) enum Failure {
    DiskFull(Arc<Poison>),
    Poisoned(Arc<Poison>),
}

/// Commits that will be sealed together.
#[derive(Default)]
pub(super) struct OpenGroup {
    /// From the first commit on room for the header, then the payload.
    pub(super) bytes: Vec<u8>,
    pub(super) first: u64,
    pub(super) count: u32,
    pub(super) sync: bool,
    /// Its first commits, which are published already: those without durability.
    pub(super) shown: Shown,
    /// What feeds will be told of the others.
    pub(super) told: Vec<Commit>,
    pub(super) outcome: Outcome,
    /// Whom to wake when it is done; the first leads it if nobody does.
    pub(super) waiting: Waiting,
}

/// How many commits of a group are published before they are written, and where they end in its bytes.
#[derive(Clone, Copy, Default)]
pub(super) struct Shown {
    pub(super) count: u32,
    pub(super) bytes: usize,
}

/// Threads that are woken when this goes, whichever way.
#[derive(Default)]
pub(super) struct Waiting(pub(super) Vec<Thread>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.iter().for_each(Thread::unpark);
    }
}

impl Head {
    pub(crate) fn new(layers: Layers, writer: Option<Box<LogWriter>>, table_bytes: u64, checkpoint_from: u64) -> Self {
        Self {
            layers,
            open: OpenGroup::default(),
            spare: Vec::new(),
            batch: Batch::with_room(table_bytes as usize, tables_bytes(table_bytes) as usize),
            state: if writer.is_some() { Running::Yes } else { Running::ReadOnly },
            writer,
            frozen: None,
            catalogued: Vec::new(),
            groups: 0,
            syncs: 0,
            commits: 0,
            company: 0,
            sync_ms: 0,
            checkpoints: 0,
            checkpoints_failed: 0,
            checkpoint_from,
            checkpointing: false,
            loading: false,
            pace: Pace::default(),
            last_times: None,
        }
    }

    pub(crate) fn check(&self) -> Result<(), CommitError> {
        match &self.state {
            Running::Yes => Ok(()),
            Running::ReadOnly => Err(CommitError::ReadOnly),
            Running::Closed => Err(CommitError::Closed),
            Running::Poisoned(source) => Err(CommitError::Poisoned { source: Arc::clone(source) }),
        }
    }

    pub(crate) fn check_maintain(&self) -> Result<(), MaintainError> {
        match &self.state {
            Running::Yes => Ok(()),
            Running::ReadOnly => Err(MaintainError::ReadOnly),
            Running::Closed => Err(MaintainError::Closed),
            Running::Poisoned(source) => Err(MaintainError::Poisoned { source: Arc::clone(source) }),
        }
    }

    /// Returns the bytes of log that the next checkpoint makes superfluous; 0 while the log's writer is away.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.writer.as_ref().map_or(0, |writer| writer.log_bytes())
    }

    pub(crate) fn has_open_commits(&self) -> bool {
        self.open.count > 0
    }

    /// Returns whether commits of the open group are shown, and not written yet.
    pub(crate) fn has_shown_unwritten(&self) -> bool {
        self.open.shown.count > 0
    }

    /// Returns the payload of the open group and the number of its first commit.
    pub(crate) fn open_payload(&self) -> (&[u8], u64, u32) {
        (self.open.bytes.get(HEADER_BYTES..).unwrap_or_default(), self.open.first, self.open.count)
    }
}

/// Returns whoever waits first, if nobody leads.
pub(super) fn next_leader(head: &Head) -> Option<Thread> {
    head.writer.as_ref().and_then(|_| head.open.waiting.0.first()).cloned()
}
