//! A world whose disk is slow to sync, as memory cards are: for tests of what happens meanwhile.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::{FileIdentity, LockOutcome, OpenMode, Storage, StorageFile};

/// A storage whose data syncs take so much longer.
pub struct SlowSyncs(Arc<dyn Storage>, Duration);

impl SlowSyncs {
    /// Slows down what is given.
    pub fn new(storage: Arc<dyn Storage>, sync: Duration) -> Self {
        Self(storage, sync)
    }
}

struct SlowFile(Arc<dyn StorageFile>, Duration);

impl Storage for SlowSyncs {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(SlowFile(self.0.open(name, mode)?, self.1)))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.0.exists(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir()
    }

    fn is_current(&self, name: &str, file: &dyn StorageFile) -> io::Result<bool> {
        self.0.is_current(name, file)
    }

    fn describe(&self, name: &str) -> String {
        self.0.describe(name)
    }
}

impl StorageFile for SlowFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        std::thread::sleep(self.1);
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn try_lock(&self) -> io::Result<LockOutcome> {
        self.0.try_lock()
    }

    fn unlock(&self) -> io::Result<()> {
        self.0.unlock()
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        self.0.identity()
    }
}
