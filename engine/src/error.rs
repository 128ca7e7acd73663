//! One error enum per door: opening, reading, writing, committing, verifying.
//!
//! Each variant says who is to blame (the bytes, the caller, another transaction, the disk) and its text says
//! what to do next. Display gives one link of the chain; `source` carries the rest.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::limits;
use crate::pager::PageError;
use crate::superblock::FORMAT_VERSION;
use crate::txn::TreeId;

/// Bytes of the file that cannot be what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// Where in the file.
    pub offset: u64,
    /// What is wrong there.
    pub what: CorruptionKind,
}

/// What is wrong with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorruptionKind {
    /// Both header slots fail their checksum (spec: E-4).
    Headers,
    /// The file ends before its pages begin, or before the end that its header names: it was cut (spec: E-5).
    CutShort,
    /// The header's checksum holds but its authentication does not: somebody wrote it without the key (spec: C-6).
    HeaderAuthentication,
    /// The header's checksum holds but a field is outside its range (spec: E-3).
    HeaderField(&'static str),
    /// A group fails although a later group or the header proves that it was acknowledged (spec: E-9).
    AcknowledgedGroup {
        /// The commit that was expected at this place.
        commit_no: u64,
        /// The commit known to have been durable.
        durable: u64,
    },
    /// A group's seal holds but its content breaks the format (spec: E-12).
    Redo(&'static str),
    /// A page is not the one that should be there: checksum, seal, number, kind, or the proof that its parent holds
    /// (spec: E-32).
    Page {
        /// Its number.
        no: u64,
        /// What fails.
        rule: &'static str,
    },
    /// A page's seal holds but its content breaks the format (spec: E-33).
    Node {
        /// Its number.
        no: u64,
        /// The rule.
        rule: &'static str,
    },
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "damaged at byte {}: ", self.offset)?;
        match self.what {
            CorruptionKind::Headers => f.write_str("both header slots fail their checksum")?,
            CorruptionKind::CutShort => f.write_str("the file ends too early")?,
            CorruptionKind::HeaderAuthentication => f.write_str("the header was changed without the key")?,
            CorruptionKind::HeaderField(name) => write!(f, "the header's field `{name}` is out of range")?,
            CorruptionKind::AcknowledgedGroup { commit_no, durable } => write!(
                f,
                "the log breaks off before commit {commit_no}, although commits up to {durable} were acknowledged (if \
                 you put an older copy of the file here, its -log files are not its own: move them away first)"
            )?,
            CorruptionKind::Redo(rule) => write!(f, "a sealed group breaks the rule: {rule}")?,
            CorruptionKind::Page { no, rule } => write!(f, "page {no} fails: {rule}")?,
            CorruptionKind::Node { no, rule } => write!(f, "page {no} breaks the rule: {rule}")?,
        }
        f.write_str("; keep this file, and restore a backup or sync a new copy from a peer")
    }
}

impl Error for Corruption {}

/// Why a store did not open.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no such file and `Options::create` is false.
    NotFound {
        /// The file.
        path: String,
    },
    /// Another handle has the file open for writing.
    Locked {
        /// The file.
        path: String,
        /// The process that has it, where known.
        pid: Option<u32>,
        /// That process is this one.
        own_process: bool,
    },
    /// No key slot opens with this passphrase or key. Nothing was written.
    WrongKey,
    /// The caller's key provider failed. Nothing was written.
    KeyProvider {
        /// What it said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The file is encrypted and no key was given.
    KeyMissing,
    /// The file is not encrypted, but a key was given.
    NotEncrypted,
    /// The file does not begin like a store.
    NotAStore {
        /// The file.
        path: String,
    },
    /// The file is of a format version this program does not know: a newer program wrote it. Nothing was changed.
    UnsupportedVersion(u16),
    /// `Options` that no store can have; the file was not looked at.
    BadOption {
        /// Which one.
        option: &'static str,
        /// What it says.
        given: u64,
        /// What it may say.
        allowed: &'static str,
    },
    /// The file asks for more than a reader grants, or for something a reader does not know.
    Unsupported {
        /// What it asks for.
        what: &'static str,
        /// The value in the file.
        given: u64,
    },
    /// The commits since the last checkpoint take more memory than these options allow. Nothing was written.
    TooMuchInLog {
        /// What they may take.
        bytes_max: u64,
    },
    /// A name that the store needs is a file's that no store has made (spec: E-5). It was left as it is.
    InTheWay {
        /// That file.
        path: String,
    },
    /// The name is kept for stores in the making, and what bears it may be removed. Nothing was written.
    ReservedName {
        /// How such names end.
        suffix: &'static str,
    },
    /// The bytes are damaged.
    Corruption(Corruption),
    /// The disk failed.
    Io {
        /// What was being done.
        during: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { path } => {
                write!(f, "{path} does not exist; check the path, or allow creating it with Options::create(true)")
            }
            Self::Locked { path, own_process: true, .. } => write!(
                f,
                "{path} is already open for writing in this process; clone the handle that has it instead of opening \
                 it twice, or open it with Options::read_only(true)"
            ),
            Self::Locked { path, pid: Some(pid), .. } => write!(
                f,
                "{path} is open for writing in process {pid}; close it there, or open it here with \
                 Options::read_only(true)"
            ),
            Self::Locked { path, pid: None, .. } => write!(
                f,
                "{path} is open for writing in another process; close it there, or open it here with \
                 Options::read_only(true)"
            ),
            Self::WrongKey => f.write_str("the passphrase or key does not open this file; nothing was changed"),
            Self::KeyProvider { .. } => {
                f.write_str("the key provider failed; nothing was changed, try again when it answers")
            }
            Self::KeyMissing => f.write_str("the file is encrypted; give its passphrase or key"),
            Self::NotEncrypted => {
                f.write_str("the file is not encrypted; open it with Options::unencrypted(), or write its content into a new, encrypted file")
            }
            Self::NotAStore { path } => write!(f, "{path} is not a BlazeDB file; check the path"),
            Self::UnsupportedVersion(v) => write!(
                f,
                "the file has format version {v}, and this program reads version {FORMAT_VERSION}; nothing was changed, open \
                 it with a newer program"
            ),
            Self::BadOption { option, given, allowed } => {
                write!(f, "the options say {option} {given}; it is {allowed}")
            }
            Self::Unsupported { what, given } => write!(
                f,
                "the file asks for {what} {given}, which this program does not grant; use the program that wrote it"
            ),
            Self::TooMuchInLog { bytes_max } => write!(
                f,
                "the commits since the last checkpoint take more than the {bytes_max} bytes of memory that these options \
                 allow; open the file for writing once, which puts them into pages, or with a larger Options::memory"
            ),
            Self::InTheWay { path } => {
                write!(f, "{path} is in the way: the store needs this name, and no store has made that file; move it away")
            }
            Self::ReservedName { suffix } => {
                write!(f, "names that end in {suffix} are those of stores in the making; choose another one")
            }
            Self::Corruption(_) => f.write_str("the file is damaged"),
            Self::Io { during, source } if source.kind() == io::ErrorKind::ReadOnlyFilesystem => write!(
                f,
                "the file lies where nothing can be written, which was tried while {during}; open it with \
                 Options::read_only(true), or copy it and its -log files to where it can be written"
            ),
            Self::Io { during, source } if source.kind() == io::ErrorKind::PermissionDenied => write!(
                f,
                "the system does not allow it, which was tried while {during}; run as the user whose file this is, or give \
                 that right, to its -log files too"
            ),
            Self::Io { during, source } if is_full(source.kind()) => write!(
                f,
                "there is no room on the disk for {during}; make room and open it again, or open it with \
                 Options::read_only(true)"
            ),
            Self::Io { during, .. } => write!(f, "the disk failed while {during}; check it and try again"),
        }
    }
}

/// Whether the disk has no room for what was to be written: none at all, none for this user, or none in one file of this
/// length, which is 4 GiB on a FAT32 card.
pub(crate) fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

impl Error for OpenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Corruption(c) => Some(c),
            Self::Io { source, .. } => Some(source),
            Self::KeyProvider { source } => Some(&**source),
            _ => None,
        }
    }
}

impl From<Corruption> for OpenError {
    fn from(c: Corruption) -> Self {
        Self::Corruption(c)
    }
}

const OVERTAKEN: &str =
    "the file was opened read-only, and has been written to since; open it again to see its newest state";

/// Why a read failed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// This tree was never handed out by this store.
    UnknownTree(TreeId),
    /// The store was closed, and its file may be another's by now.
    Closed,
    /// The view was kept so long that what it holds passed `Options::snapshot_bytes_max`; take a new one.
    SnapshotTooOld {
        /// The commit that it showed.
        commit_no: u64,
    },
    /// The store was opened read-only, and whoever writes the file has meanwhile used pages again that this reader needs.
    Overtaken,
    /// The value is longer than `limits::WHOLE_VALUE_BYTES_MAX`: read it in pieces.
    ValueTooLong {
        /// Its length.
        given: u64,
    },
    /// No history of this tree is kept, or, where none is said, of any tree; see `Store::set_history`.
    HistoryOff {
        /// The tree.
        tree: Option<TreeId>,
    },
    /// The state that was asked for is older than the history that is kept.
    HistoryGone {
        /// The oldest commit whose state can be read.
        oldest: u64,
    },
    /// There is no such commit yet.
    NoSuchCommit {
        /// The newest one.
        newest: u64,
    },
    /// The bytes are damaged.
    Corruption(Corruption),
    /// The disk failed.
    Io {
        /// What was being done.
        during: &'static str,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownTree(tree) => {
                write!(f, "{tree:?} is not a tree of this store; ask this store for it by name")
            }
            Self::Closed => f.write_str("the store is closed; open it again"),
            Self::SnapshotTooOld { commit_no } => write!(
                f,
                "the view of commit {commit_no} was kept too long; take a new one, or open with a larger \
                 Options::snapshot_bytes_max"
            ),
            Self::Overtaken => f.write_str(OVERTAKEN),
            Self::ValueTooLong { given } => {
                write!(f, "a value of {given} bytes is not read at once; read it with ReadView::value_reader")
            }
            Self::HistoryOff { tree: Some(tree) } => {
                write!(f, "no history of {tree:?} is kept; begin with Store::set_history")
            }
            Self::HistoryOff { tree: None } => {
                f.write_str("no history of any tree is kept; begin with Store::set_history")
            }
            Self::HistoryGone { oldest } => {
                write!(f, "history is kept from commit {oldest} on, and what was asked for is older")
            }
            Self::NoSuchCommit { newest } => write!(f, "there is no such commit yet; the newest one is {newest}"),
            Self::Corruption(_) => f.write_str("the file is damaged"),
            Self::Io { during, .. } => write!(f, "the disk failed while {during}; check it and try again"),
        }
    }
}

impl Error for ReadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Corruption(c) => Some(c),
            Self::Io { source, .. } => Some(&**source),
            Self::UnknownTree(_)
            | Self::Closed
            | Self::SnapshotTooOld { .. }
            | Self::Overtaken
            | Self::HistoryOff { .. }
            | Self::HistoryGone { .. }
            | Self::NoSuchCommit { .. }
            | Self::ValueTooLong { .. } => None,
        }
    }
}

impl From<PageError> for ReadError {
    fn from(error: PageError) -> Self {
        match error {
            PageError::Corruption(c) => Self::Corruption(c),
            PageError::DiskFull { during, source } | PageError::Io { during, source } => {
                Self::Io { during, source: Arc::new(source) }
            }
        }
    }
}

impl From<PageError> for OpenError {
    fn from(error: PageError) -> Self {
        match error {
            PageError::Corruption(c) => Self::Corruption(c),
            PageError::DiskFull { during, source } | PageError::Io { during, source } => Self::Io { during, source },
        }
    }
}

impl From<PageError> for CommitError {
    fn from(error: PageError) -> Self {
        Self::Read(error.into())
    }
}

impl From<ReadError> for CommitError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<MaintainError> for CommitError {
    fn from(error: MaintainError) -> Self {
        match error {
            MaintainError::DiskFull { during, source } => {
                Self::DiskFull { source: Arc::new(Poison { during, source }) }
            }
            MaintainError::Poisoned { source } => Self::Poisoned { source },
            MaintainError::Closed => Self::Closed,
            MaintainError::ReadOnly => Self::ReadOnly,
            MaintainError::Corruption(c) => Self::Read(ReadError::Corruption(c)),
            // A checkpoint neither verifies nor changes keys; what it cannot say is passed on as it is.
            other => {
                Self::Read(ReadError::Io { during: "writing a checkpoint", source: Arc::new(io::Error::other(other)) })
            }
        }
    }
}

impl From<PageError> for MaintainError {
    fn from(error: PageError) -> Self {
        match error {
            PageError::Corruption(c) => Self::Corruption(c),
            PageError::DiskFull { during, source } => Self::DiskFull { during, source },
            PageError::Io { during, source } => Self::Io { during, source },
        }
    }
}

/// Why a write was not taken into a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteError {
    /// This tree was never handed out by this store.
    UnknownTree(TreeId),
    /// The key is longer than `limits::KEY_BYTES_MAX`.
    KeyTooLong {
        /// Its length.
        given: usize,
    },
    /// The value is longer than `limits::VALUE_BYTES_MAX`.
    ValueTooLong {
        /// Its length.
        given: usize,
    },
    /// The transaction would hold more than `limits::TRANSACTION_BYTES_MAX`.
    TransactionTooLarge {
        /// What it would hold.
        given: usize,
    },
    /// The transaction would take more memory than `limits::TRANSACTION_MEMORY_MAX`: it has many small keys, or savepoints that
    /// keep much of what it replaced.
    TransactionHoldsTooMuch {
        /// The memory it would take, in bytes.
        given: usize,
    },
    /// The tree's name is empty or longer than `limits::TREE_NAME_BYTES_MAX`.
    TreeName {
        /// Its length.
        given: usize,
    },
    /// The store has `limits::TREES_MAX` trees.
    TooManyTrees,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownTree(tree) => {
                write!(f, "{tree:?} is not a tree of this store; ask this store for it by name")
            }
            Self::KeyTooLong { given } => {
                write!(
                    f,
                    "a key of {given} bytes; keys have at most {} bytes, so hash long ones",
                    limits::KEY_BYTES_MAX
                )
            }
            Self::ValueTooLong { given } => write!(
                f,
                "a value of {given} bytes; values that are put have at most {} bytes, so stream it with put_stream",
                limits::VALUE_BYTES_MAX
            ),
            Self::TransactionHoldsTooMuch { given } => write!(
                f,
                "a transaction takes at most {} bytes of memory, and this one, with what its savepoints keep, would take \
                 {given}; commit in several steps, or use a Loader",
                limits::TRANSACTION_MEMORY_MAX
            ),
            Self::TransactionTooLarge { given } => write!(
                f,
                "a transaction of {given} bytes; it may hold {} bytes, so commit in several steps, or use a Loader",
                limits::TRANSACTION_BYTES_MAX
            ),
            Self::TreeName { given } => {
                write!(f, "a tree name of {given} bytes; names have 1 to {} bytes", limits::TREE_NAME_BYTES_MAX)
            }
            Self::TooManyTrees => {
                write!(f, "the store has {} trees, the most there may be; reuse one", limits::TREES_MAX)
            }
        }
    }
}

impl Error for WriteError {}

/// Why a value was not streamed into a transaction. The transaction is as it was before, and its pages are free
/// again.
#[derive(Debug)]
#[non_exhaustive]
pub enum StreamError {
    /// The tree or key was not taken, or the transaction is full.
    Write(WriteError),
    /// The value is longer than `limits::STORED_VALUE_BYTES_MAX`.
    ValueTooLong {
        /// Its length, as far as it was seen.
        given: u64,
    },
    /// The source ended before it had given as many bytes as were announced.
    SourceEnded {
        /// Bytes announced.
        expected: u64,
        /// Bytes given.
        given: u64,
    },
    /// The source failed.
    Source(io::Error),
    /// An earlier write of this value failed.
    Abandoned,
    /// The disk is full; the store goes on.
    DiskFull {
        /// What was being done.
        during: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A write failed, now or earlier, and the store does not write any more.
    Poisoned {
        /// What failed.
        source: Arc<Poison>,
    },
    /// The store was closed.
    Closed,
    /// The store was opened read-only.
    ReadOnly,
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(_) => f.write_str("the value was refused"),
            Self::ValueTooLong { given } => write!(
                f,
                "a value of {given} bytes; values have at most {} bytes, so split it over several keys",
                limits::STORED_VALUE_BYTES_MAX
            ),
            Self::SourceEnded { expected, given } => {
                write!(f, "the source ended after {given} of {expected} bytes; nothing of it was kept")
            }
            Self::Source(_) => f.write_str("the value's source failed; nothing of it was kept"),
            Self::Abandoned => f.write_str("an earlier write of this value failed; begin it anew"),
            Self::DiskFull { during, .. } => write!(f, "the disk is full while {during}; make room and try again"),
            Self::Poisoned { .. } => f.write_str(
                "the store stopped writing after a disk error; reads go on, reopen the store to see what is durable",
            ),
            Self::Closed => f.write_str("the store is closed; open it again"),
            Self::ReadOnly => f.write_str("the store is open read-only; open it for writing"),
        }
    }
}

impl Error for StreamError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Write(e) => Some(e),
            Self::Source(e) | Self::DiskFull { source: e, .. } => Some(e),
            Self::Poisoned { source } => Some(&**source),
            _ => None,
        }
    }
}

impl From<WriteError> for StreamError {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}

impl From<MaintainError> for StreamError {
    /// For what a store says of its state, which is one of three.
    fn from(error: MaintainError) -> Self {
        match error {
            MaintainError::Poisoned { source } => Self::Poisoned { source },
            MaintainError::ReadOnly => Self::ReadOnly,
            _ => Self::Closed,
        }
    }
}

/// What the hook of `commit_with` says when it refuses.
pub struct HookError(Box<dyn Error + Send + Sync>);

impl HookError {
    /// Wraps any error; `downcast` gives it back.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
    }

    /// Returns the error that was wrapped.
    pub fn into_inner(self) -> Box<dyn Error + Send + Sync> {
        self.0
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for HookError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl fmt::Debug for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What made a store stop writing.
#[derive(Debug)]
pub struct Poison {
    /// What was being done.
    pub during: &'static str,
    /// What the system said.
    pub source: io::Error,
}

impl fmt::Display for Poison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the disk failed while {}", self.during)
    }
}

impl Error for Poison {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// Why a transaction did not commit. Unless the variant says otherwise nothing of it was kept.
#[derive(Debug)]
#[non_exhaustive]
pub enum CommitError {
    /// Another transaction that committed since this one's snapshot wrote the same key. Of a value of more than 2 MiB it
    /// is taken for written, too, that a vacuum or a change of the master key has moved its pages.
    Conflict {
        /// The tree.
        tree: TreeId,
        /// The key.
        key: Bytes,
    },
    /// A page that the conflict check or the catalogue needed could not be read; or the transaction's view was too
    /// old to be checked.
    Read(ReadError),
    /// A write that the hook or the catalogue made was not taken.
    Write(WriteError),
    /// The hook refused.
    Hook(HookError),
    /// The disk is full; nothing was written, and the store goes on.
    DiskFull {
        /// What the system said.
        source: Arc<Poison>,
    },
    /// A write or sync failed, now or earlier. If it failed now, this transaction may or may not be there after
    /// reopening; it was not acknowledged.
    Poisoned {
        /// What failed.
        source: Arc<Poison>,
    },
    /// The store was closed.
    Closed,
    /// The store was opened read-only.
    ReadOnly,
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict { tree, key } => write!(
                f,
                "another transaction wrote key {:?} of {tree:?} first; run this transaction again",
                Printable(key)
            ),
            Self::Read(ReadError::Corruption(_)) => {
                f.write_str("the commit met damage in the file; verify it, and restore a backup")
            }
            Self::Read(ReadError::UnknownTree(_)) => {
                f.write_str("the commit names a tree that this store does not have")
            }
            Self::Read(_) => f.write_str("a read that the commit needed failed; run the transaction again"),
            Self::Write(_) => f.write_str("a write inside the commit was refused"),
            Self::Hook(_) => f.write_str("the commit's hook refused the transaction"),
            Self::DiskFull { .. } => f.write_str("the disk is full; make room and try again"),
            Self::Poisoned { .. } => f.write_str(
                "the store stopped writing after a disk error; reads go on, reopen the store to see what is durable",
            ),
            Self::Closed => f.write_str("the store is closed; open it again"),
            Self::ReadOnly => f.write_str("the store is open read-only; open it for writing"),
        }
    }
}

impl Error for CommitError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Read(e) => Some(e),
            Self::Write(e) => Some(e),
            Self::Hook(e) => Some(&*e.0),
            Self::DiskFull { source } | Self::Poisoned { source } => Some(&**source),
            _ => None,
        }
    }
}

impl From<WriteError> for CommitError {
    fn from(e: WriteError) -> Self {
        Self::Write(e)
    }
}

/// Why maintenance (verify, compact, change of key, close) failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum MaintainError {
    /// The bytes are damaged.
    Corruption(Corruption),
    /// Pages are lost to the file: its space says that they are used, and nothing uses them; or the other way
    /// round, which is worse.
    Space {
        /// A page of which that is so.
        page: u64,
        /// What is wrong with it.
        rule: &'static str,
    },
    /// The disk is full; what could not be written waits in the log, and the store goes on.
    DiskFull {
        /// What was being done.
        during: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The disk failed and the store goes on as before.
    Io {
        /// What was being done.
        during: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A write or sync failed, now or earlier: the store writes no more.
    Poisoned {
        /// What failed.
        source: Arc<Poison>,
    },
    /// What was being read held more of the file than `Options::snapshot_bytes_max`, as others wrote so much meanwhile.
    SnapshotTooOld {
        /// The commit that it showed.
        commit_no: u64,
    },
    /// The store was closed.
    Closed,
    /// The store was opened read-only.
    ReadOnly,
    /// The store was opened read-only, and whoever writes the file has meanwhile used pages again.
    Overtaken,
    /// The file is not encrypted and has no key to change, or a key cannot be taken away.
    NotEncrypted,
    /// No key slot is the one that was meant: none opens with this passphrase or key, or there is none of this number.
    /// Nothing was changed.
    WrongKey,
    /// The caller's key provider failed. Nothing was changed.
    KeyProvider {
        /// What it said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// All key slots are taken.
    TooManyKeys,
    /// The last key cannot be removed: nobody could open the file.
    LastKey,
    /// A change of the master key is under way already.
    RekeyUnderWay,
}

impl fmt::Display for MaintainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corruption(_) => f.write_str("the file is damaged"),
            Self::Space { page, rule } => {
                write!(f, "page {page}: {rule}; nothing is lost, but copy the data into a new file and report this")
            }
            Self::DiskFull { during, .. } => write!(f, "the disk is full while {during}; make room and try again"),
            Self::Io { during, .. } => write!(f, "the disk failed while {during}; nothing was changed, try again"),
            Self::Poisoned { .. } => f.write_str(
                "the store stopped writing after a disk error; reads go on, reopen the store to see what is durable",
            ),
            Self::SnapshotTooOld { commit_no } => write!(
                f,
                "others wrote more meanwhile than commit {commit_no} may be held for; try again while less is written, or \
                 raise Options::snapshot_bytes_max"
            ),
            Self::Closed => f.write_str("the store is closed; open it again"),
            Self::Overtaken => f.write_str(OVERTAKEN),
            Self::ReadOnly => f.write_str("the store is open read-only; open it for writing"),
            Self::NotEncrypted => {
                f.write_str("encryption cannot be added or taken away in place; write the content into a new file")
            }
            Self::WrongKey => f.write_str("this passphrase or key opens no key slot of the file; nothing was changed"),
            Self::KeyProvider { .. } => {
                f.write_str("the key provider failed; nothing was changed, try again when it answers")
            }
            Self::TooManyKeys => f.write_str("a file has four keys at most; remove one first"),
            Self::LastKey => f.write_str("a file has at least one key; add another one first"),
            Self::RekeyUnderWay => {
                f.write_str("the master key is being changed already; end that with Store::rekey_all first")
            }
        }
    }
}

impl Error for MaintainError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Corruption(c) => Some(c),
            Self::DiskFull { source, .. } | Self::Io { source, .. } => Some(source),
            Self::Poisoned { source } => Some(&**source),
            Self::KeyProvider { source } => Some(&**source),
            _ => None,
        }
    }
}

/// A key for a message: text where it is text, else hex; long ones cut.
pub(crate) struct Printable<'a>(pub(crate) &'a [u8]);

impl fmt::Debug for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(64)];
        match std::str::from_utf8(shown) {
            Ok(text) if !text.chars().any(char::is_control) => write!(f, "{text:?}")?,
            _ => {
                f.write_str("0x")?;
                shown.iter().try_for_each(|b| write!(f, "{b:02x}"))?;
            }
        }
        if shown.len() < self.0.len() { f.write_str("..") } else { Ok(()) }
    }
}

/// Returns a name for a message: one line, whatever is in it.
pub(crate) fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
