//! The world outside, injected: `Storage`, `Clock`, `Entropy`, bundled in `Env`.
//!
//! Everything the engine knows about disks, time and chance passes through these three traits, so that a
//! simulated disk can crash it at any call and one seed repeats a whole run. Nothing else in this crate opens a
//! file, reads a clock or asks the operating system for random bytes.
//!
//! A `Storage` is a flat folder of named files. What it must promise is small and is what POSIX gives:
//! - `sync_data` returning `Ok` means that every earlier write and length change of that file, by anybody,
//!   survives a power cut;
//! - `rename` replaces its target in one step, and `sync_dir` makes creations, renames and removals survive;
//! - a lock belongs to the open file, goes with it when the file is renamed, and ends when the last handle drops.
//!
//! Read `Env` first; `file.rs` is the real world (`map.rs` its files in memory), `mem.rs` the world in memory, `sim.rs` (feature `testing`) a
//! disk that can fail.

mod file;
#[cfg(any(test, feature = "testing"))]
mod hooked;
mod map;
mod mem;
#[cfg(any(test, feature = "testing"))]
mod sim;

use std::io;
use std::path::Path;
use std::sync::Arc;

pub use file::{FileStorage, OsEntropy, SystemClock};
#[cfg(any(test, feature = "testing"))]
pub use hooked::Hooked;
pub use map::FileMap;
pub(crate) use mem::mix;
pub use mem::{MemoryStorage, SeededEntropy, StepClock};
#[cfg(any(test, feature = "testing"))]
pub use sim::{CallKind, Fault, SimDisk, Survivors};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Existing file, reading only.
    Read,
    /// Existing file, reading and writing.
    Write,
    /// Created when it does not exist, readable and writable by its owner alone (0600 on Unix). Keeps the content
    /// of an existing file.
    Create,
}

/// What asking for a lock gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockOutcome {
    /// The lock is ours until the last handle of this file drops.
    Acquired,
    /// Somebody else has it.
    Held,
}

/// A flat folder of files.
pub trait Storage: Send + Sync {
    /// Opens a file; `NotFound` when the mode does not create it.
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>>;

    /// Returns whether a file of this name exists.
    fn exists(&self, name: &str) -> io::Result<bool>;

    /// Renames `from` to `to`, replacing `to` in one step.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; `NotFound` when there is none.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals so far survive a power cut.
    fn sync_dir(&self) -> io::Result<()>;

    /// Returns whether `name` still names the very file behind this handle. A lock on a file that was replaced
    /// in between protects nothing, so the opener asks after it has locked.
    fn is_current(&self, name: &str, file: &dyn StorageFile) -> io::Result<bool>;

    /// Returns the name as a person knows it: a path, for messages.
    fn describe(&self, name: &str) -> String;

    /// Returns whether a process of this number is known not to run any more. The default knows nothing.
    fn process_is_gone(&self, _pid: u32) -> bool {
        false
    }
}

/// One open file: positioned reads and writes, no cursor.
pub trait StorageFile: Send + Sync {
    /// Returns the length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Returns whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads up to `buf.len()` bytes from `offset`; fewer only at the end of the file.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`, lengthening the file where needed.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts or lengthens (with zeros) the file.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes the file's bytes, and the length needed to read them, survive a power cut.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes the file's bytes and all of its metadata survive a power cut.
    fn sync_all(&self) -> io::Result<()>;

    /// Tries to take the exclusive lock; never waits.
    fn try_lock(&self) -> io::Result<LockOutcome>;

    /// Gives the lock back, if it is held here; it goes with the last handle otherwise.
    fn unlock(&self) -> io::Result<()>;

    /// Returns a number that tells this file from all others of its storage.
    fn identity(&self) -> io::Result<FileIdentity>;

    /// Maps the first `len` bytes for reading; the file must have them. `None`, the default: this storage has no
    /// maps, and readers use `read_at`.
    fn map(&self, _len: u64, _room: u64) -> Option<io::Result<FileMap>> {
        None
    }
}

/// Device and file number, or whatever tells two files of one storage apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity(pub u64, pub u64);

/// The two clocks.
pub trait Clock: Send + Sync {
    /// Returns milliseconds since 1970 UTC, as the machine believes; may jump both ways.
    fn wall_ms(&self) -> u64;

    /// Returns milliseconds since some fixed moment; never goes back.
    fn monotonic_ms(&self) -> u64;
}

/// The two kinds of random bytes. They are separate calls so that bytes which anybody may see are never drawn
/// from the stream that keys come from.
pub trait Entropy: Send + Sync {
    /// Fills `out` with bytes that nobody may guess: keys.
    fn secret(&self, out: &mut [u8]) -> io::Result<()>;

    /// Fills `out` with bytes that must only be unique: salts, nonces, ids.
    fn public(&self, out: &mut [u8]) -> io::Result<()>;
}

/// The world one store lives in.
#[derive(Clone)]
pub struct Env {
    /// The folder.
    pub storage: Arc<dyn Storage>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
    /// The store's file name inside `storage`.
    pub name: String,
    /// Whether a store may have a thread of its own, which writes checkpoints while its callers go on. Without one
    /// a commit that makes a checkpoint due writes it, and one seed repeats one order of calls.
    pub threads: bool,
}

impl Env {
    /// The real world: the file at `path`, the system's clocks, the operating system's random bytes.
    ///
    /// The log lies beside the file under a name of its own (`X-log.0` and so on beside `X`), so they move together,
    /// and symbolic links are followed. A hard link is another name that nobody can follow: reached by it, the file has no
    /// log, and what only the log holds is not seen. Do not make hard links to a store.
    pub fn file(path: impl AsRef<Path>) -> Self {
        let (storage, name) = FileStorage::for_path(path.as_ref());
        Self {
            storage: Arc::new(storage),
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(OsEntropy),
            name,
            threads: true,
        }
    }

    /// A world in memory: files live as long as the `Env` (and its clones), random bytes follow from `seed`, and
    /// the clock is a `StepClock` that stands at 2026-01-01 until somebody moves it.
    ///
    /// Two memory worlds of one seed draw the same bytes, the file's keys and ids included: give different seeds
    /// to stores that will meet.
    pub fn memory(seed: u64) -> Self {
        Self {
            storage: Arc::new(MemoryStorage::new()),
            clock: Arc::new(StepClock::new()),
            entropy: Arc::new(SeededEntropy::new(seed)),
            name: "memory.blaze".into(),
            threads: false,
        }
    }

    /// Returns the store's path as a person knows it.
    pub fn describe(&self) -> String {
        self.storage.describe(&self.name)
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env").field("path", &self.describe()).finish_non_exhaustive()
    }
}
