//! Why a backup was not made, and why a store was not restored.

use std::error::Error;
use std::fmt;
use std::io;

use super::BackupId;
use crate::error::{CommitError, MaintainError, OpenError, ReadError, StreamError, WriteError};

/// Where a backup breaks which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where in it: the beginning of the block.
    pub offset: u64,
    /// What does not hold there.
    pub rule: &'static str,
}

/// Why a backup was not made. What was written of it is no backup: it has no end, and a restore says so.
#[derive(Debug)]
#[non_exhaustive]
pub enum BackupError {
    /// The store could not be read; or, `ReadError::SnapshotTooOld`, the backup took so long that what its view held came
    /// to more than `Options::snapshot_bytes_max`.
    Read(ReadError),
    /// The backup could not be written.
    Output(io::Error),
    /// The backup that this one was to build on was refused.
    Base(Box<RestoreError>),
    /// The backup that this one was to build on is of another store.
    OtherStore,
    /// The backup that this one was to build on shows a later commit than the store has: the store has lost what came last, or
    /// an older copy of its file was put in its place. Not told of where it has made as many commits since.
    Behind {
        /// The commit of that backup.
        base: u64,
        /// The store's newest one.
        newest: u64,
    },
    /// The store's master key, or a key that opened it, was changed or taken away since the backup that this one was to build
    /// on: no one key would open both, and a chain is restored with one.
    KeyChanged,
    /// The system gave no random bytes.
    Entropy(io::Error),
}

impl fmt::Display for BackupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(ReadError::SnapshotTooOld { .. }) => f.write_str(
                "so much was written during the backup that its view was ended; raise its rate limit, open the store with a \
                 larger Options::snapshot_bytes_max, or back up when less is written",
            ),
            Self::Read(ReadError::Overtaken) => f.write_str(
                "the file was opened read-only and its writer has overtaken the backup; try again, or let the process back \
                 it up that has it open for writing",
            ),
            Self::Read(_) => f.write_str("the store could not be read"),
            Self::Output(_) => f.write_str("the backup could not be written; what there is of it is no backup"),
            Self::Base(_) => f.write_str("the backup to build on is of no use; make a full one"),
            Self::OtherStore => f.write_str(
                "the backup to build on is of another store (a restored store is one, too); make a full one",
            ),
            Self::Behind { base, newest } => write!(
                f,
                "the backup to build on shows commit {base}, and the store is at commit {newest}: it has lost what came last, \
                 or is an older copy; keep it, restore that backup under another name, and compare"
            ),
            Self::KeyChanged => {
                f.write_str("a key of the store was changed since the backup to build on; make a full one")
            }
            Self::Entropy(_) => f.write_str("the system gave no random bytes; try again"),
        }
    }
}

impl Error for BackupError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Read(e) => Some(e),
            Self::Output(e) | Self::Entropy(e) => Some(e),
            Self::Base(e) => Some(&**e),
            Self::OtherStore | Self::Behind { .. } | Self::KeyChanged => None,
        }
    }
}

impl From<ReadError> for BackupError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// Why a store was not restored. There is nothing under its name. `part` says which of the given backups it is about,
/// counted from 0.
#[derive(Debug)]
#[non_exhaustive]
pub enum RestoreError {
    /// There is a file of the target's name already.
    TargetExists {
        /// The file.
        path: String,
    },
    /// Another restore, or somebody, has the file that the target is made in.
    Busy {
        /// That file.
        path: String,
    },
    /// Something that is no leftover of a restore lies where the target is made.
    InTheWay {
        /// That file.
        path: String,
    },
    /// What no store has made has a name that the new one needs for its log.
    LogInTheWay {
        /// That file.
        path: String,
    },
    /// No backup was given.
    NoBackup,
    /// More increments than there may be.
    TooManyParts {
        /// How many there may be.
        max: usize,
    },
    /// The bytes do not begin like a backup.
    NotABackup {
        /// Which one.
        part: usize,
    },
    /// A newer program wrote it.
    UnsupportedVersion {
        /// Which one.
        part: usize,
        /// The version that it has.
        version: u16,
    },
    /// The key opens no slot of it.
    WrongKey {
        /// Which one.
        part: usize,
    },
    /// It is encrypted, and no key was given.
    KeyMissing {
        /// Which one.
        part: usize,
    },
    /// It is not encrypted, and a key was given.
    NotEncrypted {
        /// Which one.
        part: usize,
    },
    /// Its key could not be had.
    Key {
        /// Which one.
        part: usize,
        /// Why.
        source: OpenError,
    },
    /// It ends before its end: it was cut, or never finished.
    CutShort {
        /// Which one.
        part: usize,
        /// How long it is.
        offset: u64,
    },
    /// It is not what was written.
    Damaged {
        /// Which one.
        part: usize,
        /// Where, and what does not hold.
        damage: Damage,
    },
    /// The first one is an increment.
    NotFull {
        /// The backup that it builds on.
        base: BackupId,
    },
    /// It does not build on the one before it.
    WrongOrder {
        /// Which one.
        part: usize,
        /// The backup that it builds on; `None`: it is a full one.
        base: Option<BackupId>,
        /// The one that was given before it.
        given: BackupId,
    },
    /// No history is in the backups: they show one moment.
    NoHistory {
        /// That commit.
        newest: u64,
        /// When the last backup was made, in milliseconds since 1970.
        made_ms: u64,
    },
    /// The moment that was asked for lies before the history in the backups.
    BeforeHistory {
        /// The oldest commit that can be restored.
        oldest: u64,
    },
    /// The moment that was asked for lies behind the last backup.
    AfterBackup {
        /// The commit that it shows.
        newest: u64,
        /// When it was made, in milliseconds since 1970.
        made_ms: u64,
    },
    /// It could not be read.
    Input {
        /// Which one.
        part: usize,
        /// What the system said.
        source: io::Error,
    },
    /// The new store could not be made.
    Create(OpenError),
    /// The new store did not take a row.
    Write(Box<dyn Error + Send + Sync>),
    /// The disk failed.
    Io {
        /// What was being done.
        during: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nth = |part: &usize| part + 1;
        match self {
            Self::TargetExists { path } => {
                write!(f, "{path} exists, and nothing is restored over a file; choose another name, or move it away")
            }
            Self::Busy { path } => write!(f, "{path} is in use: another restore to this name is under way"),
            Self::InTheWay { path } => {
                write!(f, "{path} is in the way, and no leftover of a restore; move it away")
            }
            Self::LogInTheWay { path } => {
                write!(
                    f,
                    "{path} is in the way: the new store needs this name, and no store has made that file; move it away"
                )
            }
            Self::NoBackup => f.write_str("no backup was given"),
            Self::TooManyParts { max } => {
                write!(f, "more than {max} backups in a row; restore fewer, and make full ones more often")
            }
            Self::NotABackup { part } => write!(f, "backup {} is no backup of BlazeDB; check the path", nth(part)),
            Self::UnsupportedVersion { part, version } => write!(
                f,
                "backup {} has format version {version}, which this program does not know; restore it with a newer program",
                nth(part)
            ),
            Self::WrongKey { part } => write!(
                f,
                "the passphrase or key does not open backup {}; it is the one that the store had when it was made",
                nth(part)
            ),
            Self::KeyMissing { part } => write!(f, "backup {} is encrypted; give its passphrase or key", nth(part)),
            Self::NotEncrypted { part } => {
                write!(f, "backup {} is not encrypted; say that it is not, instead of giving a key", nth(part))
            }
            Self::Key { part, .. } => write!(f, "the key of backup {} could not be had", nth(part)),
            Self::CutShort { part, offset } => write!(
                f,
                "backup {} ends after {offset} bytes, before its end: it was cut, or never finished; nothing was \
                 restored, use another one",
                nth(part)
            ),
            Self::Damaged { part, damage } => write!(
                f,
                "backup {} is damaged at byte {}, where it does not hold that {}; nothing was restored, use another one",
                nth(part),
                damage.offset,
                damage.rule
            ),
            Self::NotFull { base } => {
                write!(f, "the first backup is an increment; begin with the full one, and give backup {base} before it")
            }
            Self::WrongOrder { part, base: None, given } => write!(
                f,
                "backup {} is a full one, and {given} was given before it; give one full backup and then its \
                 increments in order",
                nth(part)
            ),
            Self::WrongOrder { part, base: Some(base), given } => write!(
                f,
                "backup {} builds on {base}, and {given} was given before it; give them in the order in which they were \
                 made, without a gap",
                nth(part)
            ),
            Self::NoHistory { newest, .. } => write!(
                f,
                "the backups have no history before commit {newest}, so that this is all that can be restored; keep history, \
                 and make backups with BackupOptions::history"
            ),
            Self::BeforeHistory { oldest } => {
                write!(f, "the history in the backups begins with commit {oldest}, and what was asked for is older")
            }
            Self::AfterBackup { newest, .. } => write!(
                f,
                "the last backup shows commit {newest}, and what was asked for came after it; give a later increment too"
            ),
            Self::Input { part, .. } => write!(f, "backup {} could not be read; try again", nth(part)),
            Self::Create(_) => f.write_str("the new store could not be made"),
            Self::Write(_) => f.write_str("the new store could not be written"),
            Self::Io { during, .. } => write!(f, "the disk failed while {during}; check it and try again"),
        }
    }
}

impl Error for RestoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Key { source, .. } | Self::Create(source) => Some(source),
            Self::Input { source, .. } | Self::Io { source, .. } => Some(source),
            Self::Write(source) => Some(&**source),
            _ => None,
        }
    }
}

impl From<CommitError> for RestoreError {
    fn from(error: CommitError) -> Self {
        Self::Write(Box::new(error))
    }
}

impl From<MaintainError> for RestoreError {
    fn from(error: MaintainError) -> Self {
        Self::Write(Box::new(error))
    }
}

impl From<WriteError> for RestoreError {
    fn from(error: WriteError) -> Self {
        Self::Write(Box::new(error))
    }
}

impl From<StreamError> for RestoreError {
    fn from(error: StreamError) -> Self {
        Self::Write(Box::new(error))
    }
}

impl From<ReadError> for RestoreError {
    fn from(error: ReadError) -> Self {
        Self::Write(Box::new(error))
    }
}
