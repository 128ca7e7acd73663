//! The real world: files of the operating system, its clocks and its random bytes.
//!
//! Linux is what this is tested on. On other systems the code compiles, locks and syncs through the standard
//! library; there a directory may not be syncable, which is then skipped.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

#[cfg(all(unix, target_pointer_width = "64"))]
use super::FileMap;
use super::{Clock, Entropy, FileIdentity, LockOutcome, OpenMode, Storage, StorageFile};

/// A folder of the file system.
///
/// A file of it that is a symbolic link is refused: what belongs to a store lies beside its file, and is found by the
/// file's name.
#[derive(Debug)]
pub struct FileStorage {
    folder: PathBuf,
    /// Why nothing can be opened here.
    refused: Option<&'static str>,
}

impl FileStorage {
    /// The folder itself; it must exist when a file is created in it.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), refused: None }
    }

    /// Splits a path into its folder and the file's name in it. Symbolic links are followed, and a relative path becomes
    /// an absolute one, now: a store opens files for as long as it lives, and however it was found, its log must be.
    pub(crate) fn for_path(path: &Path) -> (Self, String) {
        let refused = |why| (Self { folder: PathBuf::new(), refused: Some(why) }, String::new());
        let real = match path.canonicalize() {
            Ok(real) => real,
            Err(_) if path.is_symlink() => return refused("it is a symbolic link that leads nowhere"),
            Err(_) => {
                let folder = match path.parent() {
                    Some(p) if !p.as_os_str().is_empty() => p,
                    _ => Path::new("."),
                };
                let Some(name) = path.file_name() else { return refused("the path names no file") };
                // Where the folder does not exist either, opening says so.
                let folder = folder.canonicalize().or_else(|_| std::path::absolute(folder));
                folder.unwrap_or_else(|_| PathBuf::from(".")).join(name)
            }
        };
        let (Some(folder), Some(name)) = (real.parent(), real.file_name()) else {
            return refused("the path names no file");
        };
        match name.to_str() {
            Some(name) => (Self::new(folder), name.to_owned()),
            None => refused("the file's name is not UTF-8"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Storage for FileStorage {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let refused = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        if let Some(why) = self.refused {
            return refused(why);
        }
        if self.path(name).is_symlink() {
            return refused("it is a symbolic link; give the path of the file that it leads to");
        }
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::Write => {
                options.write(true);
            }
            OpenMode::Create => {
                options.write(true).create(true).truncate(false);
                #[cfg(unix)]
                std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            }
        }
        Ok(Arc::new(RealFile::new(options.open(self.path(name))?)))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.path(name).try_exists()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        if cfg!(unix) { File::open(&self.folder)?.sync_all() } else { Ok(()) }
    }

    fn is_current(&self, name: &str, file: &dyn StorageFile) -> io::Result<bool> {
        match File::open(self.path(name)) {
            Ok(now) => Ok(RealFile::new(now).identity()? == file.identity()?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn describe(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn process_is_gone(&self, pid: u32) -> bool {
        cfg!(target_os = "linux") && Path::new("/proc/self").exists() && !Path::new(&format!("/proc/{pid}")).exists()
    }
}

struct RealFile {
    file: File,
    /// Who opened it. A process that is forked from that one has everything twice that must be there once: nonces, numbers of
    /// commits, the place where the log goes on.
    process: u32,
    /// Whether this handle has the lock.
    locked: AtomicBool,
}

impl RealFile {
    fn new(file: File) -> Self {
        Self { file, process: std::process::id(), locked: AtomicBool::new(false) }
    }

    /// Returns the file to whoever may change it.
    fn owned(&self) -> io::Result<&File> {
        if self.process == std::process::id() {
            return Ok(&self.file);
        }
        let why = format!(
            "the store was opened by process {}, before this one was forked: open it after a fork",
            self.process
        );
        Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
    }
}

/// A child that another thread starts has all handles for the moment until it is another program, and with them the lock:
/// closing this one alone would not give it up.
impl Drop for RealFile {
    fn drop(&mut self) {
        if *self.locked.get_mut()
            && let Ok(file) = self.owned()
        {
            let _ = file.unlock();
        }
    }
}

impl StorageFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match positioned_read(&self.file, offset + filled as u64, &mut buf[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        positioned_write_all(self.owned()?, offset, bytes)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.owned()?.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.owned()?.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.owned()?.sync_all()
    }

    fn try_lock(&self) -> io::Result<LockOutcome> {
        match self.owned()?.try_lock() {
            Ok(()) => {
                self.locked.store(true, Ordering::Relaxed);
                Ok(LockOutcome::Acquired)
            }
            Err(TryLockError::WouldBlock) => Ok(LockOutcome::Held),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    fn unlock(&self) -> io::Result<()> {
        self.owned()?.unlock()
    }

    #[cfg(unix)]
    fn identity(&self) -> io::Result<FileIdentity> {
        use std::os::unix::fs::MetadataExt;
        let meta = self.file.metadata()?;
        Ok(FileIdentity(meta.dev(), meta.ino()))
    }

    #[cfg(all(unix, target_pointer_width = "64"))]
    fn map(&self, len: u64, room: u64) -> Option<io::Result<FileMap>> {
        Some(FileMap::new(&self.file, len, room))
    }

    // Elsewhere an open file cannot be replaced under its holder, so every handle of a name is the same file.
    #[cfg(not(unix))]
    fn identity(&self) -> io::Result<FileIdentity> {
        Ok(FileIdentity(0, 0))
    }
}

#[cfg(unix)]
fn positioned_read(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buf, offset)
}

#[cfg(unix)]
fn positioned_write_all(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn positioned_read(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buf, offset)
}

#[cfg(windows)]
fn positioned_write_all(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match std::os::windows::fs::FileExt::seek_write(file, &bytes[done..], offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// The system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock whose monotonic side starts at zero now.
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        // A clock before 1970 reads as 1970: an absurd time is told by its value, not by a panic.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    }

    fn monotonic_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

/// The operating system's random bytes, for both kinds.
#[derive(Debug)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn secret(&self, out: &mut [u8]) -> io::Result<()> {
        getrandom::fill(out).map_err(io::Error::other)
    }

    fn public(&self, out: &mut [u8]) -> io::Result<()> {
        getrandom::fill(out).map_err(io::Error::other)
    }
}
