//! `PageWriter`: the pages of a new state, from number to file.
//!
//! It takes page numbers from the `Space` in runs, a lock's moment each, and gives back what it did not use. Dropped
//! without `finish` it gives back everything, as if it had never been: no header names its pages.
//!
//! The checkpoint has one. Whoever writes long values ahead of it (`ahead`) takes numbers out of the same space at the
//! same time, and has a sealer of its own.

use std::collections::BTreeMap;
use std::ops::Range;

use super::batch::{PageBatch, RUN_BYTES_MAX};
use super::page::PageSealer;
use super::pages::Pages;
use super::space::Space;
use super::{Page, PageError, PageKind, PageRead, PageRef, PageWrite};
use crate::env::FileMap;
use crate::sync::Mutex;

pub(crate) struct PageWriter<'w> {
    pages: &'w Pages,
    map: Option<&'w FileMap>,
    space: &'w Mutex<Space>,
    batch: PageBatch<&'w Pages, &'w mut PageSealer>,
    /// Numbers taken and not used yet.
    run: Range<u64>,
    /// All numbers taken: start and end of each run.
    taken: BTreeMap<u64, u64>,
    /// Own pages released again. They stay taken until the end: to write them anew would tear the long runs.
    spare: Vec<u64>,
    /// A number was released that is not in use: some tree names a page twice.
    fault: Option<u64>,
    finished: bool,
}

impl<'w> PageWriter<'w> {
    pub(crate) fn new(
        pages: &'w Pages,
        map: Option<&'w FileMap>,
        space: &'w Mutex<Space>,
        sealer: &'w mut PageSealer,
    ) -> Self {
        Self {
            pages,
            map,
            space,
            batch: PageBatch::new(pages, sealer, map.is_some()),
            run: 0..0,
            taken: BTreeMap::new(),
            spare: Vec::new(),
            fault: None,
            finished: false,
        }
    }

    /// Lets pages go past the cache: they are more than it holds.
    pub(crate) fn past_cache(mut self) -> Self {
        self.batch.keep_none();
        self
    }

    /// Lets `save_space` write the space's own pages anew, whether they have changed or not.
    pub(crate) fn touch_space(&mut self) {
        self.space.lock().touch_all();
    }

    /// Lets `save_space` write those of the space's own pages anew that lie at or above `from`.
    pub(crate) fn touch_space_from(&mut self, from: u64) {
        self.space.lock().touch_from(from);
    }

    /// Writes the space's own pages as the last step of a checkpoint; the header in the making names what this
    /// returns. After an error the caller drops this writer and calls `Space::abort`.
    pub(crate) fn save_space(&mut self) -> Result<PageRef, PageError> {
        // Before any number is given back: another writer may take it at once, and must write after us.
        self.batch.flush()?;
        let space = self.space;
        let mut space = space.lock();
        self.give_back(&mut space)?;
        // The file is as long as its last page in use: what was taken behind that and given back was never written.
        space.trim();
        let batch = &mut self.batch;
        space.save(|no, kind, body| batch.write(no, kind, body))
    }

    /// Hands all pages to the file and keeps them; they are durable after its next sync. Returns how many there are.
    pub(crate) fn finish(mut self) -> Result<u64, PageError> {
        self.batch.flush()?;
        let space = self.space;
        self.give_back(&mut space.lock())?;
        self.finished = true;
        Ok(self.batch.written())
    }

    /// Gives back numbers that were taken and hold nothing.
    fn give_back(&mut self, space: &mut Space) -> Result<(), PageError> {
        for no in std::mem::replace(&mut self.run, 0..0).chain(std::mem::take(&mut self.spare)) {
            if !space.release_now(no) {
                self.fault.get_or_insert(no);
            }
            untake(&mut self.taken, no);
        }
        match self.fault {
            Some(no) => Err(PageError::node(no, self.pages.page_bytes(), "it was released and is not in use")),
            None => Ok(()),
        }
    }

    /// Returns whether this writer has taken the number, and not given it back.
    pub(crate) fn is_own(&self, no: u64) -> bool {
        self.taken.range(..=no).next_back().is_some_and(|(_, &end)| no < end)
    }
}

/// Takes one number out of the runs.
fn untake(taken: &mut BTreeMap<u64, u64>, no: u64) {
    let Some((&start, &end)) = taken.range(..=no).next_back() else { return };
    if no >= end {
        return;
    }
    taken.remove(&start);
    if start < no {
        taken.insert(start, no);
    }
    if no + 1 < end {
        taken.insert(no + 1, end);
    }
}

impl PageRead for PageWriter<'_> {
    fn body_bytes(&self) -> usize {
        self.pages.body_bytes()
    }

    fn page(&self, at: PageRef, kind: PageKind) -> Result<Page<'_>, PageError> {
        match self.batch.waiting(at, kind)? {
            Some(page) => Ok(page),
            None => self.pages.read(self.map, at, kind),
        }
    }
}

impl PageWrite for PageWriter<'_> {
    fn write(&mut self, kind: PageKind, body: &[u8]) -> Result<PageRef, PageError> {
        if self.run.is_empty() {
            self.run = self.space.lock().alloc_run((RUN_BYTES_MAX / self.pages.page_bytes()) as u64);
            match self.taken.range_mut(..self.run.start).next_back() {
                Some((_, end)) if *end == self.run.start => *end = self.run.end,
                _ => {
                    self.taken.insert(self.run.start, self.run.end);
                }
            }
        }
        let no = self.run.next().expect("a run is never empty");
        self.batch.write(no, kind, body)
    }

    fn release(&mut self, no: u64) {
        if self.is_own(no) {
            self.spare.push(no);
        } else if !self.space.lock().release(no) {
            self.fault.get_or_insert(no);
        }
    }
}

impl Drop for PageWriter<'_> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let mut space = self.space.lock();
        for (&start, &end) in &self.taken {
            for no in start..end {
                space.release_now(no);
            }
        }
    }
}
