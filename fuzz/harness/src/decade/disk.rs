//! The simulated disk behind a gauge: what it allocates for its files is not the store's memory.

use std::io;
use std::sync::Arc;

use blazedb_engine::env::{FileIdentity, LockOutcome, OpenMode, SimDisk, Storage, StorageFile};
use blazedb_engine::{Env, env::StepClock};

use super::Gauge;

/// A world on the disk whose calls do not count.
pub(super) fn env(disk: &SimDisk, name: &str, gauge: Gauge) -> Env {
    let env = disk.env(name);
    Env { storage: Arc::new(Folder { inner: env.storage, gauge }), ..env }
}

/// The clock of all worlds on the disk.
pub(super) fn clock(disk: &SimDisk) -> Arc<StepClock> {
    Arc::clone(disk.clock())
}

struct Folder {
    inner: Arc<dyn Storage>,
    gauge: Gauge,
}

struct File {
    inner: Arc<dyn StorageFile>,
    gauge: Gauge,
}

impl Storage for Folder {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let inner = self.gauge.aside(|| self.inner.open(name, mode))?;
        Ok(Arc::new(File { inner, gauge: self.gauge }))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.gauge.aside(|| self.inner.exists(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.gauge.aside(|| self.inner.rename(from, to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.gauge.aside(|| self.inner.remove(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.gauge.aside(|| self.inner.sync_dir())
    }

    fn is_current(&self, name: &str, _file: &dyn StorageFile) -> io::Result<bool> {
        // The file is ours, not the disk's; nobody here renames one behind a handle.
        self.exists(name)
    }

    fn describe(&self, name: &str) -> String {
        self.inner.describe(name)
    }
}

impl StorageFile for File {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.gauge.aside(|| self.inner.read_at(offset, buf))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.gauge.aside(|| self.inner.write_at(offset, bytes))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.gauge.aside(|| self.inner.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gauge.aside(|| self.inner.sync_data())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.gauge.aside(|| self.inner.sync_all())
    }

    fn try_lock(&self) -> io::Result<LockOutcome> {
        self.inner.try_lock()
    }

    fn unlock(&self) -> io::Result<()> {
        self.inner.unlock()
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        self.inner.identity()
    }
}
