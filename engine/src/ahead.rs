//! Pages of long values, written while their transaction is open, beside whatever a checkpoint is writing.
//!
//! ```text
//! AheadWriter   takes numbers, seals and writes pages; dropped, it gives all of them back
//! Stored        a whole value that a transaction holds; dropped, it gives its pages back, unless they were kept
//! commit        syncs the file, then logs the reference: no byte of the group is written before that. spec: E-40
//! checkpoint    adopts the pages of the values in its table: from then on they are pages like others
//! ```
//!
//! No header counts these pages as used before a checkpoint has adopted them. A crash leaves them free, but for those
//! of values that the log names, which opening claims (`open::open_space`).
//!
//! Nothing here takes the lock of `Disk`, which a checkpoint holds from beginning to end: numbers come out of the shared
//! `Space`, a moment's lock per 256 KiB. Two things are shared with `Disk` beside it. Syncs go one at a time and none
//! follows a failed one (`sync_file`), as the system tells a failure to one caller only. And a store that is closed is
//! not written to (`enter`): its file may be another's by then.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::btree::ValueRef;
use crate::env::{Entropy, StorageFile};
use crate::keys::{EpochKey, FileKeys};
use crate::pager::{Page, PageBatch, PageError, PageKind, PageRead, PageRef, PageSealer, PageWrite, Pages, Space};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, RwLock, RwLockReadGuard};

/// Bytes of pages that are numbered, and written, at once.
pub(crate) const RUN_BYTES: usize = crate::pager::RUN_BYTES_MAX;

pub(crate) struct Ahead {
    file: Arc<dyn StorageFile>,
    pages: Arc<Pages>,
    keys: FileKeys,
    entropy: Arc<dyn Entropy>,
    space: Arc<Mutex<Space>>,
    /// Sealers that nobody uses now. One for each value would be a page generation for each, and readers keep few of
    /// those ready.
    sealers: Mutex<Vec<PageSealer>>,
    closed: RwLock<bool>,
    sync_failed: Mutex<bool>,
    wrote: AtomicBool,
}

impl Ahead {
    pub(crate) fn new(
        file: Arc<dyn StorageFile>,
        pages: Arc<Pages>,
        keys: FileKeys,
        entropy: Arc<dyn Entropy>,
        space: Arc<Mutex<Space>>,
    ) -> Self {
        Self {
            file,
            pages,
            keys,
            entropy,
            space,
            sealers: Mutex::default(),
            closed: RwLock::new(false),
            sync_failed: Mutex::new(false),
            wrote: AtomicBool::new(false),
        }
    }

    /// Returns the permission to write, which holds up a close; `None` where that has come. Whoever has it must not
    /// take the store's other locks but that of the space.
    pub(crate) fn enter(&self) -> Option<RwLockReadGuard<'_, bool>> {
        Some(self.closed.read()).filter(|closed| !**closed)
    }

    /// Returns when nobody writes any more, and nobody will.
    pub(crate) fn close(&self) {
        *self.closed.write() = true;
    }

    /// Returns whether anything was written ahead, so that the file may be longer than its header says.
    pub(crate) fn wrote(&self) -> bool {
        self.wrote.load(Ordering::Relaxed)
    }

    /// Makes what was written to the main file durable. After a failure it fails for ever.
    pub(crate) fn sync_file(&self) -> io::Result<()> {
        let mut failed = self.sync_failed.lock();
        if *failed {
            return Err(io::Error::other("an earlier sync of this file failed"));
        }
        // Also where it panics.
        *failed = true;
        let synced = self.file.sync_data();
        *failed = synced.is_err();
        synced
    }

    /// Lets keys go that sealers which nobody uses have sealed with.
    pub(crate) fn let_go(&self) {
        self.sealers.lock().iter_mut().for_each(PageSealer::let_go);
    }

    /// Returns a writer for one value.
    pub(crate) fn writer(self: &Arc<Self>) -> AheadWriter {
        let spare = self.sealers.lock().pop();
        let sealer = spare.unwrap_or_else(|| PageSealer::new(self.keys.clone(), Arc::clone(&self.entropy)));
        AheadWriter {
            // As if readers had maps: what is written ahead is not read soon, and not worth a place in the cache.
            batch: Some(PageBatch::new(Arc::clone(&self.pages), Box::new(sealer), true)),
            taken: Taken { ahead: Arc::clone(self), runs: Vec::new(), key: self.keys.take_in_hand() },
            run: 0..0,
        }
    }
}

/// Numbers taken, given back when this goes.
struct Taken {
    ahead: Arc<Ahead>,
    runs: Vec<Range<u64>>,
    /// Held until the commit is seen through, or given up: pages sealed with an older key must not come into the trees
    /// behind the back of a change of the master key.
    key: Arc<EpochKey>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut space = self.ahead.space.lock();
        self.runs.drain(..).for_each(|run| space.give_back(run));
    }
}

/// Writes the pages of one value. Holds one run of them.
pub(crate) struct AheadWriter {
    /// Gone only while this is taken apart.
    batch: Option<PageBatch<Arc<Pages>, Box<PageSealer>>>,
    taken: Taken,
    /// Numbers taken and not used yet.
    run: Range<u64>,
}

impl AheadWriter {
    /// Hands all pages to the file, and gives back the numbers that none of them has.
    pub(crate) fn finish(mut self, at: ValueRef) -> Result<Stored, PageError> {
        if let Some(batch) = &mut self.batch {
            batch.flush()?;
        }
        let unused = std::mem::replace(&mut self.run, 0..0);
        if !unused.is_empty() {
            let last = self.taken.runs.last_mut().expect("unused numbers are the end of the last run");
            last.end = unused.start;
            self.taken.ahead.space.lock().give_back(unused);
        }
        let ahead = Arc::clone(&self.taken.ahead);
        let runs = std::mem::take(&mut self.taken.runs);
        let key = Arc::clone(&self.taken.key);
        Ok(Stored { at, taken: Mutex::new(Taken { ahead, runs, key }) })
    }
}

impl Drop for AheadWriter {
    fn drop(&mut self) {
        if let Some(batch) = self.batch.take() {
            self.taken.ahead.sealers.lock().push(*batch.into_sealer());
        }
    }
}

impl PageRead for AheadWriter {
    fn body_bytes(&self) -> usize {
        self.taken.ahead.pages.body_bytes()
    }

    fn page(&self, at: PageRef, kind: PageKind) -> Result<Page<'_>, PageError> {
        let waiting = self.batch.as_ref().map_or(Ok(None), |batch| batch.waiting(at, kind))?;
        match waiting {
            Some(page) => Ok(page),
            None => self.taken.ahead.pages.read(None, at, kind),
        }
    }
}

impl PageWrite for AheadWriter {
    fn write(&mut self, kind: PageKind, body: &[u8]) -> Result<PageRef, PageError> {
        let ahead = &self.taken.ahead;
        if self.run.is_empty() {
            ahead.wrote.store(true, Ordering::Relaxed);
            self.run = ahead.space.lock().alloc_ahead((RUN_BYTES / ahead.pages.page_bytes()) as u64);
            match self.taken.runs.last_mut() {
                Some(last) if last.end == self.run.start => last.end = self.run.end,
                _ => self.taken.runs.push(self.run.clone()),
            }
        }
        let no = self.run.next().expect("a run is never empty");
        self.batch.as_mut().expect("taken apart only when this is dropped").write(no, kind, body)
    }

    fn release(&mut self, _no: u64) {
        unreachable!("a value's writer releases no page");
    }
}

/// A value whose pages are written. Nobody but its transaction knows of it before the commit.
pub(crate) struct Stored {
    pub(crate) at: ValueRef,
    taken: Mutex<Taken>,
}

impl Stored {
    /// The pages are the table's from here on.
    pub(crate) fn keep(&self) {
        self.taken.lock().runs.clear();
    }

    /// The header in the making will name its pages.
    pub(crate) fn adopt(&self) {
        let taken = self.taken.lock();
        let mut space = taken.ahead.space.lock();
        for no in taken.runs.iter().cloned().flatten() {
            assert!(space.adopt(no), "pages of a value are in use as long as somebody has it");
        }
    }

    /// The header in the making will not be: its pages are the transaction's again.
    pub(crate) fn disown(&self) {
        let taken = self.taken.lock();
        let mut space = taken.ahead.space.lock();
        for no in taken.runs.iter().cloned().flatten() {
            if space.is_named(no) {
                space.lend(no);
            }
        }
    }

    /// Fills `out` with the value's bytes from `offset` on; it must have that many.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), PageError> {
        let ahead = Arc::clone(&self.taken.lock().ahead);
        crate::btree::read_value(&*ahead, &self.at, offset, out)
    }
}

impl PageRead for Ahead {
    fn body_bytes(&self) -> usize {
        self.pages.body_bytes()
    }

    fn page(&self, at: PageRef, kind: PageKind) -> Result<Page<'_>, PageError> {
        self.pages.read(None, at, kind)
    }
}
