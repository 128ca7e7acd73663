//! A world in which something happens before the disk is asked: for tests of what goes on meanwhile.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::{FileIdentity, LockOutcome, OpenMode, Storage, StorageFile};

type Hook<T> = Arc<dyn Fn(T) + Send + Sync>;

/// A storage with hooks before data syncs, and before reads, which are told their offset.
pub struct Hooked {
    storage: Arc<dyn Storage>,
    hooks: Hooks,
}

#[derive(Clone)]
struct Hooks {
    before_sync: Hook<()>,
    before_read: Hook<u64>,
}

impl Hooked {
    /// Data syncs take so much longer, as those of memory cards do.
    pub fn slow_syncs(storage: Arc<dyn Storage>, sync: Duration) -> Self {
        let before_sync = Arc::new(move |()| std::thread::sleep(sync));
        Self { storage, hooks: Hooks { before_sync, before_read: Arc::new(|_| {}) } }
    }

    /// Calls before each read of a file, with its offset.
    pub fn before_reads(storage: Arc<dyn Storage>, before_read: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self { storage, hooks: Hooks { before_sync: Arc::new(|()| {}), before_read: Arc::new(before_read) } }
    }
}

struct HookedFile(Arc<dyn StorageFile>, Hooks);

impl Storage for Hooked {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(HookedFile(self.storage.open(name, mode)?, self.hooks.clone())))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.storage.exists(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.storage.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.storage.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.storage.sync_dir()
    }

    fn is_current(&self, name: &str, file: &dyn StorageFile) -> io::Result<bool> {
        self.storage.is_current(name, file)
    }

    fn describe(&self, name: &str) -> String {
        self.storage.describe(name)
    }
}

impl StorageFile for HookedFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        (self.1.before_read)(offset);
        self.0.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        (self.1.before_sync)(());
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
