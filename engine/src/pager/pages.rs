//! Reading pages: out of the frame cache, the map, or the file.
//!
//! Encrypted: the cache has opened pages; a miss reads the page into its frame, from the file or the map (`MissFrom`),
//! and opens it there. Without encryption a page in the map is used where it lies, checked at its first
//! use; the cache then holds only what the map does not reach.
//!
//! Whatever the way, the page's proof and kind are compared at each use: they lie in the cache line before the body.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::frames::{FrameStats, Frames, Loaded, PAGE_NO_MAX};
use super::page::{PageOpener, is_the_one, kind_of, proof_of};
use super::{PAGE_BYTES, PAGE_HEADER_BYTES, Page, PageError, PageKind, PageRef, READING};
use crate::env::{FileMap, StorageFile};
use crate::keys::FileKeys;
use crate::superblock::PAGES_START;
use crate::sync::OnceLock;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Where the bytes of an encrypted page that is not in the cache come from.
///
/// In the system's page cache a miss costs 2.7 us by `File` and 1.5 us by `Map`; from the disk, random pages of a
/// 400 MB file, 62 to 85 us and 26 to 34 us, because a fault reads its neighbours as well (2026-11-24, AMD EPYC, 2
/// cores, virtual disk). `File` is the default all the same: those neighbours are read and kept resident whether
/// anybody wants them or not, so the cache's budget says nothing any more about memory, and a disk's read error is an
/// error instead of a signal that ends the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum MissFrom {
    #[default]
    File,
    Map,
}

/// A page that was read by its number alone: its own proof is the only one.
pub(crate) struct AlonePage {
    pub(crate) at: PageRef,
    pub(crate) kind: PageKind,
    /// Header and body.
    pub(crate) page: Vec<u8>,
}

/// The pages of one open file, for readers and for the writer.
pub(crate) struct Pages {
    file: Arc<dyn StorageFile>,
    opener: PageOpener,
    frames: Frames,
    checked: Bits,
    page_bytes: usize,
    miss_from: MissFrom,
    mapped: bool,
}

/// A mapping is made longer than the file, so that it need not be made anew for every page that the file grows by.
/// Bytes behind the end are never looked at.
const MAP_BYTES_MIN: u64 = 64 << 20;

impl Pages {
    /// `cache_bytes` bounds the frame cache; a file without encryption that is read through a map hardly uses it.
    pub(crate) fn new(
        file: Arc<dyn StorageFile>,
        keys: FileKeys,
        page_bytes: usize,
        cache_bytes: usize,
        miss_from: MissFrom,
    ) -> io::Result<Self> {
        assert!(PAGE_BYTES.contains(&page_bytes), "the header's reader refuses other sizes");
        let opener = PageOpener::new(keys);
        let frames = Frames::new(cache_bytes, page_bytes, opener.is_encrypted())?;
        Ok(Self { file, opener, frames, checked: Bits::default(), page_bytes, miss_from, mapped: false })
    }

    /// Says whether `map_to` gives mappings, where the storage can.
    pub(crate) fn with_map(mut self, wanted: bool) -> Self {
        self.mapped = wanted;
        self
    }

    /// Returns a mapping that covers `page_count` pages: the old one where it does, none where none is wanted.
    pub(crate) fn map_to(
        &self,
        page_count: u64,
        old: Option<&Arc<FileMap>>,
    ) -> Result<Option<Arc<FileMap>>, PageError> {
        let bytes = page_count * self.page_bytes as u64;
        if !self.mapped {
            return Ok(None);
        }
        if let Some(grown) = old.and_then(|map| map.grown_to(bytes)) {
            return Ok(Some(Arc::new(grown)));
        }
        match self.file.map(bytes, bytes.next_power_of_two().max(MAP_BYTES_MIN)) {
            None => Ok(None),
            Some(Ok(map)) => Ok(Some(Arc::new(map))),
            Some(Err(source)) => Err(PageError::Io { during: "mapping the file", source }),
        }
    }

    pub(crate) fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    pub(crate) fn body_bytes(&self) -> usize {
        self.page_bytes - PAGE_HEADER_BYTES
    }

    pub(crate) fn keys(&self) -> &FileKeys {
        self.opener.keys()
    }

    /// Lets the key of an epoch go of which no page that anybody can reach is left.
    pub(crate) fn forget_epoch(&self, epoch: u16) {
        self.opener.forget(epoch);
    }

    /// Reads a page that nobody names and opens it, as far as it can be checked by itself; past the cache.
    pub(crate) fn open_alone(&self, no: u64) -> io::Result<Result<AlonePage, &'static str>> {
        let mut page = vec![0; self.page_bytes];
        let offset = no.checked_mul(self.page_bytes as u64).filter(|&at| at >= PAGES_START);
        let Some(offset) = offset else { return Ok(Err("no page has this number")) };
        if self.file.read_at(offset, &mut page)? != page.len() {
            return Ok(Err("the file ends before it"));
        }
        let Some(kind) = kind_of(&page) else { return Ok(Err("there is no such kind of page")) };
        let at = PageRef { no, proof: proof_of(&page) };
        Ok(self.opener.open(&mut page, at, kind).map(|()| AlonePage { at, kind, page }))
    }

    pub(crate) fn cache_stats(&self) -> FrameStats {
        self.frames.stats()
    }

    /// Returns the page that `at` names. Without a map, or where it does not reach, the file is asked.
    #[inline]
    pub(crate) fn read<'p>(
        &'p self,
        map: Option<&'p FileMap>,
        at: PageRef,
        kind: PageKind,
    ) -> Result<Page<'p>, PageError> {
        if let Some(map) = map
            && !self.opener.is_encrypted()
            && let Some(page) = map.range(self.offset(at.no)?, self.page_bytes)
        {
            return self.read_mapped(page, at, kind);
        }
        if at.no <= PAGE_NO_MAX
            && at.no != 0
            && let Some(frame) = self.frames.get(at.no)
        {
            is_the_one(&frame, at, kind).map_err(|rule| self.wrong(at, rule))?;
            return Ok(Page::frame(frame));
        }
        self.read_missing(map, at, kind)
    }

    fn read_mapped<'p>(&'p self, page: &'p [u8], at: PageRef, kind: PageKind) -> Result<Page<'p>, PageError> {
        let check = if self.checked.get(at.no) {
            is_the_one(page, at, kind)
        } else {
            self.opener.check(page, at, kind).inspect(|()| self.checked.set(at.no))
        };
        check.map_err(|rule| self.wrong(at, rule))?;
        Ok(Page::borrowed(&page[PAGE_HEADER_BYTES..]))
    }

    #[cold]
    #[inline(never)]
    fn read_missing<'p>(
        &'p self,
        map: Option<&'p FileMap>,
        at: PageRef,
        kind: PageKind,
    ) -> Result<Page<'p>, PageError> {
        let offset = self.offset(at.no)?;
        let mapped = map.filter(|_| self.miss_from == MissFrom::Map).and_then(|m| m.range(offset, self.page_bytes));
        let loaded = self.frames.get_or_load(at.no, |page| {
            match mapped {
                // Copied before anything is checked: what was checked is what is used, whoever writes to the file.
                Some(bytes) => page.copy_from_slice(bytes),
                None => self.read_file(offset, at, page)?,
            }
            self.opener.open(page, at, kind).map_err(|rule| self.wrong(at, rule))
        })?;
        match loaded {
            // Somebody else may have loaded it meanwhile, by another reference.
            Loaded::Frame(frame) => {
                is_the_one(&frame, at, kind).map_err(|rule| self.wrong(at, rule))?;
                Ok(Page::frame(frame))
            }
            Loaded::Heap(page) => Ok(Page::owned_page(page)),
        }
    }

    fn read_file(&self, offset: u64, at: PageRef, page: &mut [u8]) -> Result<(), PageError> {
        match self.file.read_at(offset, page) {
            Ok(n) if n == page.len() => Ok(()),
            Ok(_) => Err(self.wrong(at, "the file ends before it")),
            Err(source) => Err(PageError::Io { during: READING, source }),
        }
    }

    /// Opens a page that the caller has in sealed form; for pages that wait to be written.
    pub(crate) fn open_copy(&self, sealed: &[u8], at: PageRef, kind: PageKind) -> Result<Page<'_>, PageError> {
        let mut page: Box<[u8]> = sealed.into();
        self.opener.open(&mut page, at, kind).map_err(|rule| self.wrong(at, rule))?;
        Ok(Page::owned_page(page))
    }

    /// Returns the page only if it is in the cache.
    pub(super) fn cached(&self, at: PageRef, kind: PageKind) -> Result<Option<Page<'_>>, PageError> {
        let Some(frame) = self.frames.get(at.no) else { return Ok(None) };
        is_the_one(&frame, at, kind).map_err(|rule| self.wrong(at, rule))?;
        Ok(Some(Page::frame(frame)))
    }

    /// Reads and opens pages whose numbers follow one another into `buffer`, which is as long as they are, headers
    /// included. The cache neither has them nor gets them.
    pub(crate) fn read_row(&self, places: &[PageRef], kind: PageKind, buffer: &mut [u8]) -> Result<(), PageError> {
        let Some(&first) = places.first() else { return Ok(()) };
        self.read_file(self.offset(first.no)?, first, buffer)?;
        for (page, &at) in buffer.chunks_exact_mut(self.page_bytes).zip(places) {
            self.opener.open(page, at, kind).map_err(|rule| self.wrong(at, rule))?;
        }
        Ok(())
    }

    /// The page gets a new content: forgets all that is known of the old one, and keeps the new one where there is
    /// room and the caller asks for it. `mapped`: readers have maps, so that without encryption nobody will look into
    /// the cache.
    pub(super) fn renew(&self, no: u64, sealed: &[u8], body: &[u8], mapped: bool, keep: bool) {
        self.checked.clear(no);
        if !keep || (mapped && !self.opener.is_encrypted()) {
            self.frames.forget(no);
            return;
        }
        self.frames.insert(no, |page| {
            let (header, rest) = page.split_at_mut(PAGE_HEADER_BYTES);
            header.copy_from_slice(&sealed[..PAGE_HEADER_BYTES]);
            rest[..body.len()].copy_from_slice(body);
            rest[body.len()..].fill(0);
        });
    }

    /// Forgets all that is known of pages that the file does not have any more.
    pub(crate) fn forget(&self, numbers: Range<u64>) {
        for no in numbers {
            self.checked.clear(no);
            self.frames.forget(no);
        }
    }

    pub(super) fn write_file(&self, no: u64, sealed: &[u8]) -> Result<(), PageError> {
        self.file
            .write_at(no * self.page_bytes as u64, sealed)
            .map_err(|source| PageError::writing("writing pages", source))
    }

    /// Page numbers come from the disk: those that no file can have are refused before any arithmetic.
    fn offset(&self, no: u64) -> Result<u64, PageError> {
        if no > PAGE_NO_MAX || no < first_page(self.page_bytes) {
            return Err(PageError::page(no, self.page_bytes, "there can be no such page"));
        }
        Ok(no * self.page_bytes as u64)
    }

    #[cold]
    fn wrong(&self, at: PageRef, rule: &'static str) -> PageError {
        PageError::page(at.no, self.page_bytes, rule)
    }
}

/// Returns the number of the first page behind the file's headers.
pub(crate) fn first_page(page_bytes: usize) -> u64 {
    PAGES_START / page_bytes as u64
}

/// One bit per page number, growing without a lock: chunk k has 2^k times as many words as the first.
struct Bits {
    chunks: [OnceLock<Box<[AtomicU64]>>; CHUNKS],
}

/// 64 words, so 4096 pages, in the first chunk.
const FIRST_WORDS_LOG2: u32 = 6;
/// Enough for every page number: 2^36 bits are 2^30 words.
const CHUNKS: usize = 25;

impl Default for Bits {
    fn default() -> Self {
        Self { chunks: [const { OnceLock::new() }; CHUNKS] }
    }
}

impl Bits {
    /// Returns the chunk, the word in it, and the bit in that.
    fn place(no: u64) -> (usize, usize, u64) {
        let word = no / 64 + (1 << FIRST_WORDS_LOG2);
        let top = word.ilog2();
        ((top - FIRST_WORDS_LOG2) as usize, (word - (1 << top)) as usize, 1 << (no % 64))
    }

    #[inline]
    fn get(&self, no: u64) -> bool {
        let (chunk, word, bit) = Self::place(no);
        self.chunks[chunk].get().is_some_and(|c| c[word].load(Ordering::Relaxed) & bit != 0)
    }

    fn set(&self, no: u64) {
        let (chunk, word, bit) = Self::place(no);
        let words = self.chunks[chunk]
            .get_or_init(|| (0..1_usize << (FIRST_WORDS_LOG2 as usize + chunk)).map(|_| AtomicU64::new(0)).collect());
        words[word].fetch_or(bit, Ordering::Relaxed);
    }

    fn clear(&self, no: u64) {
        let (chunk, word, bit) = Self::place(no);
        if let Some(words) = self.chunks[chunk].get() {
            words[word].fetch_and(!bit, Ordering::Relaxed);
        }
    }
}
