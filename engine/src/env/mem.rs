//! The world in memory: files in a map, a clock that moves when told, random bytes from a seed.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::{Clock, Entropy, FileIdentity, LockOutcome, OpenMode, Storage, StorageFile};

/// 2026-01-01T00:00:00Z in milliseconds: where a `StepClock` starts.
pub(crate) const STEP_CLOCK_START_MS: u64 = 1_767_225_600_000;

/// A folder in memory; syncing does nothing because nothing survives the process anyway.
#[derive(Default)]
pub struct MemoryStorage {
    files: Mutex<BTreeMap<String, Arc<Content>>>,
    next_id: AtomicU64,
}

#[derive(Default)]
struct Content {
    id: u64,
    bytes: RwLock<Vec<u8>>,
    locked: AtomicBool,
}

struct Handle {
    content: Arc<Content>,
    holds_lock: AtomicBool,
}

impl MemoryStorage {
    /// An empty folder.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Storage for MemoryStorage {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let mut files = self.files.lock();
        let content = match files.get(name) {
            Some(c) => Arc::clone(c),
            None if mode == OpenMode::Create => {
                let id = self.next_id.fetch_add(1, Ordering::Relaxed);
                let c = Arc::new(Content { id, ..Content::default() });
                files.insert(name.to_owned(), Arc::clone(&c));
                c
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(Handle { content, holds_lock: AtomicBool::new(false) }))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        Ok(self.files.lock().contains_key(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files.lock();
        let content = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.lock().remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn is_current(&self, name: &str, file: &dyn StorageFile) -> io::Result<bool> {
        let identity = file.identity()?;
        Ok(self.files.lock().get(name).is_some_and(|c| FileIdentity(0, c.id) == identity))
    }

    fn describe(&self, name: &str) -> String {
        format!("memory:{name}")
    }
}

impl StorageFile for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.content.bytes.read().len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        Ok(read_slice(&self.content.bytes.read(), offset, buf))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        write_slice(&mut self.content.bytes.write(), offset, bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.content.bytes.write().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn try_lock(&self) -> io::Result<LockOutcome> {
        if self.holds_lock.load(Ordering::Acquire) || !self.content.locked.swap(true, Ordering::AcqRel) {
            self.holds_lock.store(true, Ordering::Release);
            return Ok(LockOutcome::Acquired);
        }
        Ok(LockOutcome::Held)
    }

    fn unlock(&self) -> io::Result<()> {
        if self.holds_lock.swap(false, Ordering::AcqRel) {
            self.content.locked.store(false, Ordering::Release);
        }
        Ok(())
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        Ok(FileIdentity(0, self.content.id))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.holds_lock.load(Ordering::Acquire) {
            self.content.locked.store(false, Ordering::Release);
        }
    }
}

/// Copies what there is from `offset` into `buf`.
pub(super) fn read_slice(bytes: &[u8], offset: u64, buf: &mut [u8]) -> usize {
    let from = (offset as usize).min(bytes.len());
    let n = buf.len().min(bytes.len() - from);
    buf[..n].copy_from_slice(&bytes[from..from + n]);
    n
}

/// Writes at `offset`, filling a hole with zeros.
pub(super) fn write_slice(bytes: &mut Vec<u8>, offset: u64, new: &[u8]) {
    let (from, to) = (offset as usize, offset as usize + new.len());
    if bytes.len() < to {
        bytes.resize(to, 0);
    }
    bytes[from..to].copy_from_slice(new);
}

/// A clock that moves when told: both sides share one count of milliseconds until the wall is set apart.
#[derive(Debug)]
pub struct StepClock {
    wall_ms: AtomicU64,
    monotonic_ms: AtomicU64,
}

impl StepClock {
    /// Stands at 2026-01-01T00:00:00Z.
    pub fn new() -> Self {
        Self { wall_ms: AtomicU64::new(STEP_CLOCK_START_MS), monotonic_ms: AtomicU64::new(0) }
    }

    /// Moves both clocks on.
    pub fn advance_ms(&self, by: u64) {
        self.wall_ms.fetch_add(by, Ordering::AcqRel);
        self.monotonic_ms.fetch_add(by, Ordering::AcqRel);
    }

    /// Makes the wall clock jump, forwards or back; the monotonic clock does not notice.
    pub fn set_wall_ms(&self, to: u64) {
        self.wall_ms.store(to, Ordering::Release);
    }
}

impl Default for StepClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for StepClock {
    fn wall_ms(&self) -> u64 {
        self.wall_ms.load(Ordering::Acquire)
    }

    fn monotonic_ms(&self) -> u64 {
        self.monotonic_ms.load(Ordering::Acquire)
    }
}

/// Bytes that follow from a seed (splitmix64), two streams so that public bytes tell nothing about secret ones.
/// For tests and simulations only: anybody who knows the seed knows every key.
#[derive(Debug)]
pub struct SeededEntropy {
    secret: AtomicU64,
    public: AtomicU64,
}

impl SeededEntropy {
    /// Both streams from one seed.
    pub fn new(seed: u64) -> Self {
        Self { secret: AtomicU64::new(mix(seed ^ 0x5EC2_E75E_ED00_0001)), public: AtomicU64::new(mix(seed ^ 0x0B1C)) }
    }
}

impl Entropy for SeededEntropy {
    fn secret(&self, out: &mut [u8]) -> io::Result<()> {
        fill(&self.secret, out);
        Ok(())
    }

    fn public(&self, out: &mut [u8]) -> io::Result<()> {
        fill(&self.public, out);
        Ok(())
    }
}

fn fill(state: &AtomicU64, out: &mut [u8]) {
    for chunk in out.chunks_mut(8) {
        let x = mix(state.fetch_add(GOLDEN, Ordering::Relaxed));
        chunk.copy_from_slice(&x.to_le_bytes()[..chunk.len()]);
    }
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finalizer of splitmix64.
pub(crate) fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
