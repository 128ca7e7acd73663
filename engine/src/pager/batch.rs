//! Writing pages: sealed as they come, gathered, written in long runs.
//!
//! Pages that follow one another go to the file in one write of up to `RUN_BYTES_MAX`. What still waits is read back
//! from here. A batch that is dropped without `flush` leaves its last run unwritten, which harms nobody: no header
//! names its pages.

use std::ops::{Deref, DerefMut};

use super::page::PageSealer;
use super::pages::Pages;
use super::{PAGE_HEADER_BYTES, Page, PageError, PageKind, PageRef};

/// Bytes written at once. Long enough for a disk or card to run at its sequential speed, short enough that the log's
/// syncs, which wait behind it, stay quick.
pub(crate) const RUN_BYTES_MAX: usize = 256 << 10;

/// One run of pages that waits to be written.
pub(crate) struct PageBatch<P, S> {
    pages: P,
    sealer: S,
    /// Readers have maps of the file.
    mapped: bool,
    /// What is written is kept in the cache, where there is room.
    keeps: bool,
    first: u64,
    /// Whole sealed pages, `first` and on.
    run: Vec<u8>,
    written: u64,
}

impl<P: Deref<Target = Pages>, S: DerefMut<Target = PageSealer>> PageBatch<P, S> {
    pub(crate) fn new(pages: P, sealer: S, mapped: bool) -> Self {
        Self { pages, sealer, mapped, keeps: true, first: 0, run: Vec::new(), written: 0 }
    }

    /// Lets what is written go past the cache.
    pub(crate) fn keep_none(&mut self) {
        self.keeps = false;
    }

    /// Seals one page. Its number must be free for writing: named by no header and no reader.
    pub(crate) fn write(&mut self, no: u64, kind: PageKind, body: &[u8]) -> Result<PageRef, PageError> {
        assert!(body.len() <= self.pages.body_bytes(), "a body of {} bytes does not fit a page", body.len());
        let page_bytes = self.pages.page_bytes();
        let at = match self.place(no) {
            // Written again before it left: its first content was never anywhere.
            Some(at) => at,
            None => {
                if self.run.len() >= RUN_BYTES_MAX || no != self.next() {
                    self.flush()?;
                    self.first = no;
                }
                self.run.resize(self.run.len() + page_bytes, 0);
                self.run.len() - page_bytes
            }
        };
        let page = &mut self.run[at..at + page_bytes];
        page[PAGE_HEADER_BYTES..][..body.len()].copy_from_slice(body);
        page[PAGE_HEADER_BYTES + body.len()..].fill(0);
        let proof =
            self.sealer.seal(page, no, kind).map_err(|source| PageError::Io { during: "drawing a nonce", source })?;
        // A long value is not kept: it would push out what is read again and again.
        self.pages.renew(no, page, body, self.mapped, self.keeps && kind != PageKind::Value);
        self.written += 1;
        Ok(PageRef { no, proof })
    }

    /// Returns a page that waits here; `None` where it does not.
    pub(crate) fn waiting(&self, at: PageRef, kind: PageKind) -> Result<Option<Page<'_>>, PageError> {
        let Some(from) = self.place(at.no) else { return Ok(None) };
        if let Some(page) = self.pages.cached(at, kind)? {
            return Ok(Some(page));
        }
        let sealed = &self.run[from..from + self.pages.page_bytes()];
        self.pages.open_copy(sealed, at, kind).map(Some)
    }

    /// Hands everything to the file; it is durable after the file's next sync.
    pub(crate) fn flush(&mut self) -> Result<(), PageError> {
        if !self.run.is_empty() {
            self.pages.write_file(self.first, &self.run)?;
            self.run.clear();
        }
        Ok(())
    }

    /// Returns the sealer, for the next batch. What waits is forgotten.
    pub(crate) fn into_sealer(self) -> S {
        self.sealer
    }

    /// Returns how many pages were written.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    fn next(&self) -> u64 {
        self.first + (self.run.len() / self.pages.page_bytes()) as u64
    }

    fn place(&self, no: u64) -> Option<usize> {
        (self.first..self.next()).contains(&no).then(|| (no - self.first) as usize * self.pages.page_bytes())
    }
}
