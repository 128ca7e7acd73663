//! The journal of a run: every call that reached the disk, in order, to be played again on another disk.
//!
//! A workload runs once, on a `Recorder`. A crash point is then a place in the journal: whoever wants the disk as it was
//! there plays the journal up to it, one event at a time, and never runs the workload again. That is what makes ten
//! thousand crash points of one workload cheap.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blazedb_engine::env::{FileIdentity, LockOutcome, OpenMode, SimDisk};
use blazedb_engine::{Env, Storage, StorageFile};

/// Name of the one store on a disk.
pub(crate) const NAME: &str = "torture.blaze";

/// One call. Files are named by the order in which they were opened.
#[derive(Clone)]
pub(crate) enum Event {
    Open { name: String, mode: OpenMode },
    Write { file: usize, offset: u64, bytes: Arc<[u8]> },
    SetLen { file: usize, len: u64 },
    Sync { file: usize },
    Rename { from: String, to: String },
    Remove { name: String },
    SyncDir,
}

/// The calls so far, and the names under which files were opened.
#[derive(Default)]
pub(crate) struct Journal {
    pub(crate) events: Vec<Event>,
    names: Vec<String>,
}

impl Journal {
    fn add(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Returns whether the event is about the main file, not about the log's.
    pub(crate) fn is_main(&self, event: &Event) -> bool {
        match event {
            Event::Write { file, .. } | Event::SetLen { file, .. } | Event::Sync { file } => {
                !self.names[*file].contains("-log.")
            }
            _ => false,
        }
    }
}

/// A disk whose calls are written down.
#[derive(Clone)]
pub(crate) struct Recorder {
    disk: SimDisk,
    journal: Arc<Mutex<Journal>>,
}

impl Recorder {
    pub(crate) fn new(disk: &SimDisk) -> Self {
        Self { disk: disk.clone(), journal: Arc::default() }
    }

    pub(crate) fn env(&self) -> Env {
        Env { storage: Arc::new(self.clone()), ..self.disk.env(NAME) }
    }

    pub(crate) fn journal(&self) -> MutexGuard<'_, Journal> {
        // A panic of a test between two events leaves nothing in half.
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many events there are.
    pub(crate) fn now(&self) -> usize {
        self.journal().events.len()
    }

    pub(crate) fn take(&self) -> Journal {
        std::mem::take(&mut *self.journal())
    }
}

impl Storage for Recorder {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let inner = Storage::open(&self.disk, name, mode)?;
        let mut journal = self.journal();
        journal.names.push(name.to_owned());
        journal.add(Event::Open { name: name.to_owned(), mode });
        let file = journal.names.len() - 1;
        Ok(Arc::new(Recorded { recorder: self.clone(), inner, file }))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.disk.exists(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.journal().add(Event::Rename { from: from.to_owned(), to: to.to_owned() });
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.journal().add(Event::Remove { name: name.to_owned() });
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.journal().add(Event::SyncDir);
        self.disk.sync_dir()
    }

    fn is_current(&self, name: &str, file: &dyn StorageFile) -> io::Result<bool> {
        self.disk.is_current(name, file)
    }

    fn describe(&self, name: &str) -> String {
        self.disk.describe(name)
    }
}

struct Recorded {
    recorder: Recorder,
    inner: Arc<dyn StorageFile>,
    file: usize,
}

impl StorageFile for Recorded {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.recorder.journal().add(Event::Write { file: self.file, offset, bytes: bytes.into() });
        self.inner.write_at(offset, bytes)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.recorder.journal().add(Event::SetLen { file: self.file, len });
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.recorder.journal().add(Event::Sync { file: self.file });
        self.inner.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.recorder.journal().add(Event::Sync { file: self.file });
        self.inner.sync_all()
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

/// Plays a journal on a disk, one event at a time.
pub(crate) struct Player {
    pub(crate) disk: SimDisk,
    files: Vec<Arc<dyn StorageFile>>,
}

impl Player {
    /// `disk` must be as the recorded one was when the recorder was made.
    pub(crate) fn new(disk: SimDisk) -> Self {
        Self { disk, files: Vec::new() }
    }

    /// Does one event. The recorded call succeeded, so this one must.
    pub(crate) fn play(&mut self, event: &Event) -> io::Result<()> {
        match event {
            Event::Open { name, mode } => self.files.push(Storage::open(&self.disk, name, *mode)?),
            Event::Write { file, offset, bytes } => self.files[*file].write_at(*offset, bytes)?,
            Event::SetLen { file, len } => self.files[*file].set_len(*len)?,
            Event::Sync { file } => self.files[*file].sync_data()?,
            Event::Rename { from, to } => self.disk.rename(from, to)?,
            Event::Remove { name } => self.disk.remove(name)?,
            Event::SyncDir => self.disk.sync_dir()?,
        }
        Ok(())
    }
}
