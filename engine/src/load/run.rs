//! Runs: sorted rows in pages of the main file that no header names.
//!
//! A run is a row of segments. The pages of a segment hold its rows one behind the other, across the ends of pages; one
//! more page lists them with their proofs. So memory is a few words per segment, about a megabyte of rows, however long
//! the run is. The pages are sealed like all others and lie in no cache. They are lent (`Space::lend`): free for
//! whoever opens the file after a crash, and in use as long as somebody holds the run. A reader gives each segment back
//! as soon as it is read, so that what is merged is written where its runs were.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::arena::Row;
use crate::keys::EpochKey;
use crate::pager::{PAGE_HEADER_BYTES, PageError, PageKind, PageRead, PageRef, PageWrite, PageWriter, Pages, Space};
use crate::sync::Mutex;

/// Bytes of a page's place in a list: number and proof.
const PLACE_BYTES: usize = 16;

/// Bytes read at once. With the rows that they hold, twice this is what a run takes in a merge.
const READ_BYTES: usize = 64 << 10;

/// Sorted rows.
#[derive(Clone)]
pub(super) struct Run {
    segments: VecDeque<Segment>,
    /// Held as long as the run, so that a change of the master key waits for it.
    _key: Arc<EpochKey>,
    /// 0: out of an arena; n: merged from runs of level n - 1.
    pub(super) level: u8,
    pub(super) rows: u64,
}

/// About a megabyte of a run.
#[derive(Clone)]
struct Segment {
    /// The page that lists the others.
    list: PageRef,
    pages: usize,
    /// Bytes of rows; zeros follow in the last page.
    bytes: usize,
    /// All its page numbers, the list's included.
    numbers: Vec<Range<u64>>,
}

impl Segment {
    fn each_number(&self) -> impl Iterator<Item = u64> {
        self.numbers.iter().cloned().flatten()
    }
}

impl Run {
    /// Gives all its pages back.
    pub(super) fn give_back(&mut self, space: &mut Space) {
        self.segments.drain(..).flat_map(|segment| segment.numbers).for_each(|run| space.give_back(run));
    }
}

/// Writes a run. Dropped without `finish` it leaves nothing behind.
pub(super) struct RunWriter<'w> {
    pages: PageWriter<'w>,
    space: &'w Mutex<Space>,
    run: Run,
    /// The page that is being filled.
    body: Vec<u8>,
    /// The segment that is being filled.
    places: Vec<PageRef>,
    bytes: usize,
}

impl<'w> RunWriter<'w> {
    pub(super) fn new(pages: PageWriter<'w>, space: &'w Mutex<Space>, key: Arc<EpochKey>, level: u8) -> Self {
        let run = Run { segments: VecDeque::new(), _key: key, level, rows: 0 };
        Self { pages, space, run, body: Vec::new(), places: Vec::new(), bytes: 0 }
    }

    /// Takes a row as an arena has it.
    pub(super) fn push(&mut self, mut row: &[u8]) -> Result<(), PageError> {
        let full = self.pages.body_bytes();
        self.run.rows += 1;
        while !row.is_empty() {
            let (now, later) = row.split_at(row.len().min(full - self.body.len()));
            self.body.extend_from_slice(now);
            row = later;
            if self.body.len() == full {
                self.end_page()?;
                if (self.places.len() + 1) * PLACE_BYTES > full {
                    self.end_segment()?;
                }
            }
        }
        Ok(())
    }

    fn end_page(&mut self) -> Result<(), PageError> {
        self.bytes += self.body.len();
        self.places.push(self.pages.write(PageKind::Value, &self.body)?);
        self.body.clear();
        Ok(())
    }

    fn end_segment(&mut self) -> Result<(), PageError> {
        for place in &self.places {
            self.body.extend_from_slice(&place.no.to_le_bytes());
            self.body.extend_from_slice(&place.proof.to_le_bytes());
        }
        let list = self.pages.write(PageKind::ValueIndex, &self.body)?;
        self.body.clear();
        let mut numbers: Vec<Range<u64>> = Vec::new();
        for no in self.places.iter().chain([&list]).map(|place| place.no) {
            match numbers.last_mut() {
                Some(last) if last.end == no => last.end += 1,
                _ => numbers.push(no..no + 1),
            }
        }
        let (pages, bytes) = (self.places.len(), std::mem::take(&mut self.bytes));
        self.run.segments.push_back(Segment { list, pages, bytes, numbers });
        self.places.clear();
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Run, PageError> {
        if !self.body.is_empty() {
            self.end_page()?;
        }
        if !self.places.is_empty() {
            self.end_segment()?;
        }
        self.pages.finish()?;
        let mut space = self.space.lock();
        self.run.segments.iter().flat_map(Segment::each_number).for_each(|no| space.lend(no));
        Ok(self.run)
    }
}

/// Reads a run from its first row to its last. One that gives its pages back does so on the way; dropped, all that are
/// left.
pub(super) struct RunReader<'r> {
    pages: &'r Pages,
    gives_back: Option<&'r Mutex<Space>>,
    run: Run,
    /// What is left to be read of the first segment, and its bytes of rows there.
    places: VecDeque<PageRef>,
    left: usize,
    /// Rows that were read, from `at` on; there is one whole row or none.
    rows: Vec<u8>,
    at: usize,
    buffer: Vec<u8>,
}

impl<'r> RunReader<'r> {
    pub(super) fn new(pages: &'r Pages, run: Run, gives_back: Option<&'r Mutex<Space>>) -> Self {
        Self { pages, gives_back, run, places: VecDeque::new(), left: 0, rows: Vec::new(), at: 0, buffer: Vec::new() }
    }

    /// Goes to the first row.
    pub(super) fn begin(&mut self) -> Result<(), PageError> {
        self.fill()
    }

    #[inline]
    pub(super) fn row(&self) -> Option<Row<'_>> {
        Row::parse(&self.rows[self.at..])
    }

    #[inline]
    pub(super) fn advance(&mut self) -> Result<(), PageError> {
        self.at += self.row().map_or(0, |row| row.len());
        if self.row().is_some() { Ok(()) } else { self.fill() }
    }

    /// Reads until there is a whole row, or the run is at its end.
    #[cold]
    fn fill(&mut self) -> Result<(), PageError> {
        self.rows.drain(..self.at);
        self.at = 0;
        while self.row().is_none() {
            if self.places.is_empty() && !self.next_segment()? {
                return if self.rows.is_empty() { Ok(()) } else { Err(self.broken()) };
            }
            self.read()?;
        }
        Ok(())
    }

    /// Reads pages that lie one behind the other.
    fn read(&mut self) -> Result<(), PageError> {
        let page_bytes = self.pages.page_bytes();
        let places = self.places.make_contiguous();
        let most = places.len().min(READ_BYTES / page_bytes);
        let count = (1..most).find(|&i| places[i].no != places[0].no + i as u64).unwrap_or(most);
        self.buffer.resize(count * page_bytes, 0);
        self.pages.read_row(&places[..count], PageKind::Value, &mut self.buffer)?;
        for page in self.buffer.chunks_exact(page_bytes) {
            let body = &page[PAGE_HEADER_BYTES..];
            let n = self.left.min(body.len());
            self.rows.extend_from_slice(&body[..n]);
            self.left -= n;
        }
        self.places.drain(..count);
        if self.places.is_empty() {
            self.end_segment();
        }
        Ok(())
    }

    fn next_segment(&mut self) -> Result<bool, PageError> {
        let Some(segment) = self.run.segments.front() else { return Ok(false) };
        self.buffer.resize(self.pages.page_bytes(), 0);
        self.pages.read_row(&[segment.list], PageKind::ValueIndex, &mut self.buffer)?;
        let list = &self.buffer[PAGE_HEADER_BYTES..][..segment.pages * PLACE_BYTES];
        self.places.extend(list.as_chunks::<PLACE_BYTES>().0.iter().map(|place| {
            let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| place[at + i]));
            PageRef { no: number(0), proof: number(8) }
        }));
        self.left = segment.bytes;
        Ok(true)
    }

    fn end_segment(&mut self) {
        if let (Some(segment), Some(space)) = (self.run.segments.pop_front(), self.gives_back) {
            let mut space = space.lock();
            segment.numbers.iter().cloned().for_each(|run| space.give_back(run));
        }
    }

    #[cold]
    fn broken(&self) -> PageError {
        PageError::node(0, self.pages.page_bytes(), "the rows of a load end with a whole one")
    }
}

impl Drop for RunReader<'_> {
    fn drop(&mut self) {
        if let Some(space) = self.gives_back {
            self.run.give_back(&mut space.lock());
        }
    }
}
