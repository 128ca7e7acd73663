//! Which page numbers are in use. Pure: no I/O, its pages are read and written by what the caller brings.
//!
//! A number is free, used, or pending: released while the header in the making is n, so named by header n - 1 and no
//! longer by n. Pending numbers become free when header n + 1 is durable (then neither of the two headers on disk
//! names them) and no reader has a root older than n. Two bitmaps say it: `used` (may not be handed out) and `named`
//! (the header in the making names it); pending is used and not named, and on disk it counts as free.
//!
//! Pages ahead are used and not named, too: a long value's, written while its transaction is open, and those of a value
//! that only the log names. They become free at once (`give_back`), or named by the header in the making (`adopt`).
//! No header that is written meanwhile counts them as used, so a crash leaves them free unless the log names them.
//!
//! On disk: Space pages of `(body - 16) * 8` bits each, and a chain of SpaceIndex pages that list them.
//!
//! | Space page | SpaceIndex page |
//! |---|---|
//! | 0: which chunk of the bitmap, u64 | 0: number of pages that the file spans, u64 |
//! | 8: bits set, u32; 12: zero, u32 | 8: entries here, u32; 12: which part, u32 |
//! | 16: bits, lowest page first | 16: next part (no, proof), zeros in the last |
//! | | 32: entries (no, proof) |
//!
//! A save writes only chunks that changed since the last one. Their new pages come from the space itself: numbers are
//! taken first, until no further chunk changes by it, then the bits are written.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use super::frames::PAGE_NO_MAX;
use super::pages::first_page;
use super::{PAGE_HEADER_BYTES, PageError, PageKind, PageRead, PageRef};
use crate::superblock::{u32_at, u64_at};

const CHUNK_HEADER_BYTES: usize = 16;
const INDEX_HEADER_BYTES: usize = 32;
const ENTRY_BYTES: usize = 16;
/// Runs shorter than this are passed over while there are longer ones: eight pages are what a disk reads or writes
/// about as fast as one.
const RUN_GOOD: u64 = 8;

#[derive(Clone)]
pub(crate) struct Space {
    page_bytes: usize,
    used: Vec<u64>,
    named: Vec<u64>,
    /// Number of pages that the file spans.
    end: u64,
    /// Free numbers below `end`.
    free: u64,
    /// Numbers of pages ahead.
    ahead: u64,
    /// Where the next search begins.
    cursor: u64,
    /// There may be a run of `RUN_GOOD`: no search has found otherwise since numbers became free.
    long_runs: bool,
    /// Numbers from here on are taken only where there are none below.
    ceiling: u64,
    /// The header in the making.
    current: u64,
    pending: BTreeMap<u64, Vec<u64>>,
    /// Where each chunk of the bitmap lies as last saved, and whether it changed since.
    chunks: Vec<Chunk>,
    index: Vec<u64>,
    root: Option<PageRef>,
    saved_end: u64,
    /// How to undo the save of the header in the making.
    undo: Option<Box<Undo>>,
}

#[derive(Clone, Copy)]
struct Chunk {
    at: Option<PageRef>,
    dirty: bool,
}

#[derive(Clone)]
struct Undo {
    chunks: Vec<Option<PageRef>>,
    index: Vec<u64>,
    root: Option<PageRef>,
    /// Numbers that the save took.
    taken: Vec<u64>,
}

/// How the numbers are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct SpaceCounts {
    pub(crate) end: u64,
    pub(crate) used: u64,
    pub(crate) pending: u64,
    pub(crate) ahead: u64,
    pub(crate) free: u64,
}

impl Space {
    /// The space of a new file, whose first header will be `current`.
    pub(crate) fn new(page_bytes: usize, current: u64) -> Self {
        let mut space = Self {
            page_bytes,
            used: Vec::new(),
            named: Vec::new(),
            end: 0,
            free: 0,
            ahead: 0,
            cursor: first_page(page_bytes),
            long_runs: true,
            ceiling: u64::MAX,
            current,
            pending: BTreeMap::new(),
            chunks: Vec::new(),
            index: Vec::new(),
            root: None,
            saved_end: 0,
            undo: None,
        };
        space.extend(first_page(page_bytes));
        space.take(0..first_page(page_bytes));
        space
    }

    /// Returns the number of pages that the file spans; it may be cut behind them.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn counts(&self) -> SpaceCounts {
        let pending = self.pending.values().map(|p| p.len() as u64).sum();
        let used = self.end - self.free - pending - self.ahead;
        SpaceCounts { end: self.end, used, pending, ahead: self.ahead, free: self.free }
    }

    /// Returns whether the header in the making names this number.
    pub(crate) fn is_named(&self, no: u64) -> bool {
        no < self.end && bit(&self.named, no)
    }

    /// Returns whether nobody uses this number: no header, no reader, no writer.
    pub(crate) fn is_free(&self, no: u64) -> bool {
        no >= self.end || !bit(&self.used, no)
    }

    /// Takes a run of up to `want` numbers, at least one: free ones first, from where the last search ended; where
    /// there are none the file grows.
    pub(crate) fn alloc_run(&mut self, want: u64) -> Range<u64> {
        let run = self.next_run(want);
        self.take(run.clone());
        run
    }

    /// Releases a number that the last header may name. `false`: it is not in use, so two places name it.
    #[must_use]
    pub(crate) fn release(&mut self, no: u64) -> bool {
        if no < first_page(self.page_bytes) || !self.is_named(no) {
            return false;
        }
        clear(&mut self.named, no);
        self.touch(no);
        self.pending.entry(self.current).or_default().push(no);
        true
    }

    /// Releases a number that no header ever named as if that had been under an older header: it is free when no reader
    /// has a root older than that one. `false`: it is not in use.
    #[must_use]
    pub(crate) fn release_under(&mut self, header: u64, no: u64) -> bool {
        debug_assert!(header < self.current, "what the header in the making released may come back");
        if no < first_page(self.page_bytes) || !self.is_named(no) {
            return false;
        }
        clear(&mut self.named, no);
        self.touch(no);
        self.pending.entry(header).or_default().push(no);
        true
    }

    /// Releases a number that no header ever named: it is free at once. `false`: it is not in use.
    pub(crate) fn release_now(&mut self, no: u64) -> bool {
        if no < first_page(self.page_bytes) || !self.is_named(no) {
            return false;
        }
        clear(&mut self.named, no);
        clear(&mut self.used, no);
        self.touch(no);
        self.free += 1;
        true
    }

    /// Makes a number that was taken one that no header will name: a page ahead, until `give_back`. After a crash it is
    /// free.
    pub(crate) fn lend(&mut self, no: u64) {
        assert!(no >= first_page(self.page_bytes) && self.is_named(no), "only what is in use can be lent");
        clear(&mut self.named, no);
        self.touch(no);
        self.ahead += 1;
    }

    /// Takes a run of numbers as `alloc_run` does, for pages ahead.
    pub(crate) fn alloc_ahead(&mut self, want: u64) -> Range<u64> {
        let run = self.next_run(want);
        self.take_ahead(run.clone());
        run
    }

    /// Makes pages ahead free: their transaction is not, or the run was longer than its value.
    pub(crate) fn give_back(&mut self, run: Range<u64>) {
        self.free += run.end - run.start;
        self.ahead -= run.end - run.start;
        self.long_runs = true;
        for no in run {
            assert!(bit(&self.used, no) && !bit(&self.named, no), "only what was taken ahead is given back");
            clear(&mut self.used, no);
        }
    }

    /// Takes a number that the log names and the last header does not: a page ahead. `false`: there can be no such
    /// page, or it is in use.
    #[must_use]
    pub(crate) fn claim(&mut self, no: u64) -> bool {
        if !(first_page(self.page_bytes)..=PAGE_NO_MAX).contains(&no) || (no < self.end && bit(&self.used, no)) {
            return false;
        }
        if no >= self.end {
            self.extend(no + 1);
        }
        self.take_ahead(no..no + 1);
        true
    }

    /// The header in the making will name a page ahead. One that it names already was adopted by a try before this
    /// one, which was given up: nothing but the same checkpoint is written in between. `false`: it is not in use.
    #[must_use]
    pub(crate) fn adopt(&mut self, no: u64) -> bool {
        if no >= self.end || !bit(&self.used, no) {
            return false;
        }
        if !bit(&self.named, no) {
            set(&mut self.named, no);
            self.touch(no);
            self.ahead -= 1;
        }
        true
    }

    /// Returns the number behind the last one that the header in the making names. The file has pages up to there:
    /// what lies behind may be taken and not written yet.
    pub(crate) fn named_end(&self) -> u64 {
        let last = self.named.iter().rposition(|&word| word != 0).expect("the file's own headers are named");
        (last as u64 + 1) * 64 - u64::from(self.named[last].leading_zeros())
    }

    /// Header n is durable: what is released from now on is released under header n + 1.
    pub(crate) fn checkpoint_done(&mut self, n: u64) {
        assert!(n >= self.current, "headers are numbered upwards");
        self.current = n + 1;
        self.undo = None;
        // Lowest first once per checkpoint: the file's tail empties, and can be cut.
        self.cursor = first_page(self.page_bytes);
    }

    /// The header in the making will not be: what was released for it is in use again, and its save never was. The
    /// pages that its writer took are given back by the writer.
    pub(crate) fn abort(&mut self) {
        // The next try looks for room in front: where this one ended there may be none on the disk.
        self.cursor = first_page(self.page_bytes);
        for no in self.pending.remove(&self.current).unwrap_or_default() {
            set(&mut self.named, no);
            self.touch(no);
        }
        if let Some(undo) = self.undo.take() {
            for no in undo.taken {
                self.release_now(no);
            }
            let chunks = self.chunks.len().max(undo.chunks.len());
            self.chunks.resize(chunks, Chunk { at: None, dirty: true });
            for (i, chunk) in self.chunks.iter_mut().enumerate() {
                let at = undo.chunks.get(i).copied().flatten();
                // What the save wrote and cleaned is not what the older page says.
                *chunk = Chunk { at, dirty: chunk.dirty || chunk.at != at };
            }
            self.index = undo.index;
            self.root = undo.root;
            // Whatever the older index says: save again.
            self.saved_end = 0;
        }
    }

    /// Frees what was released under headers that are history: `durable` is the newest durable header, `oldest_root`
    /// the oldest that a reader has (the newest, where nobody reads). Returns how many numbers became free.
    pub(crate) fn reclaim(&mut self, durable: u64, oldest_root: u64) -> u64 {
        let mut freed = 0;
        while let Some(entry) = self.pending.first_entry()
            && *entry.key() < durable
            && *entry.key() <= oldest_root
        {
            for no in entry.remove() {
                clear(&mut self.used, no);
                freed += 1;
            }
        }
        self.free += freed;
        self.long_runs |= freed > 0;
        freed
    }

    /// Returns how many numbers were released for the header in the making.
    pub(crate) fn replaced(&self) -> u64 {
        self.pending.get(&self.current).map_or(0, |released| released.len() as u64)
    }

    /// Returns how many numbers only readers with old roots still hold: no header on disk names them.
    pub(crate) fn held_back(&self, durable: u64) -> u64 {
        self.pending.range(..durable).map(|(_, held)| held.len() as u64).sum()
    }

    /// Returns the numbers of the bitmap's own pages, as last saved or loaded.
    pub(crate) fn own_pages(&self) -> impl Iterator<Item = u64> {
        self.chunks.iter().filter_map(|c| c.at).map(|at| at.no).chain(self.index.iter().copied())
    }

    /// Says from where on numbers are taken only where there are none below: while the pages there move down.
    pub(crate) fn set_ceiling(&mut self, ceiling: Option<u64>) {
        self.ceiling = ceiling.unwrap_or(u64::MAX);
        self.long_runs = true;
    }

    /// Returns how many numbers at or above `from` are in use, pending or taken ahead.
    pub(crate) fn in_use_from(&self, from: u64) -> u64 {
        let word = from / 64;
        let words = self.used.get(word as usize..).unwrap_or_default();
        let all: u64 = words.iter().map(|w| u64::from(w.count_ones())).sum();
        all - words.first().map_or(0, |first| u64::from((first & ((1 << (from % 64)) - 1)).count_ones()))
    }

    /// Returns the lowest number, a multiple of 64, at or above which the header in the making names `pages` at most.
    pub(crate) fn last_named(&self, pages: u64) -> u64 {
        let mut named = 0;
        let above = self.named.iter().rev().take_while(|word| {
            named += u64::from(word.count_ones());
            named <= pages
        });
        (self.named.len() - above.count()) as u64 * 64
    }

    /// Returns how many numbers a reader with this root holds until it ends, and the number behind the last one that is in use
    /// until then: where `trim` would cut.
    pub(crate) fn held_with(&self, root: u64) -> (u64, u64) {
        let held = self.pending.range(root + 1..).map(|(_, held)| held.len() as u64).sum();
        let come_free: HashSet<u64> = self.pending.range(..=root).flat_map(|(_, held)| held.iter().copied()).collect();
        let in_use = |no: &u64| bit(&self.used, *no) && !come_free.contains(no);
        (held, (0..self.end).rev().find(in_use).map_or(0, |last| last + 1))
    }

    /// Lowers `end` to behind the last number in use or pending. Returns it.
    pub(crate) fn trim(&mut self) -> u64 {
        while self.end > first_page(self.page_bytes) && !bit(&self.used, self.end - 1) {
            let word = (self.end - 1) / 64;
            if self.used[word as usize] == 0 && word * 64 >= first_page(self.page_bytes) {
                self.free -= self.end - word * 64;
                self.end = word * 64;
            } else {
                self.end -= 1;
                self.free -= 1;
            }
            self.used.truncate(self.end.div_ceil(64) as usize);
            self.named.truncate(self.end.div_ceil(64) as usize);
        }
        self.cursor = self.cursor.min(self.end);
        self.end
    }

    /// Keeps what the older of the two headers on disk names, should it be needed: those numbers become pending as if
    /// released under the newer one, which was loaded into `self`.
    pub(crate) fn hold(&mut self, older: &Self) {
        assert!(self.current > 0 && self.page_bytes == older.page_bytes, "two headers of one file");
        self.extend(self.end.max(older.end));
        let mut held = Vec::new();
        for (i, (used, named)) in self.used.iter_mut().zip(&older.named).enumerate() {
            let mut only_there = named & !*used;
            *used |= only_there;
            while only_there != 0 {
                held.push(i as u64 * 64 + u64::from(only_there.trailing_zeros()));
                only_there &= only_there - 1;
            }
        }
        self.free -= held.len() as u64;
        self.pending.entry(self.current - 1).or_default().extend(held);
    }

    /// Returns the run that is to be taken next, and goes on behind it.
    fn next_run(&mut self, want: u64) -> Range<u64> {
        assert!(want > 0, "a run has at least one page");
        let run = self.find(want).unwrap_or_else(|| {
            let start = self.end;
            self.extend(start + want);
            start..start + want
        });
        self.cursor = run.end;
        run
    }

    fn find(&mut self, want: u64) -> Option<Range<u64>> {
        if self.free == 0 {
            return None;
        }
        let first = first_page(self.page_bytes);
        let below = self.end.min(self.ceiling);
        if self.long_runs {
            let good = want.min(RUN_GOOD);
            let run = self.scan(self.cursor..below, good, want).or_else(|| self.scan(first..below, good, want));
            if run.is_some() {
                return run;
            }
            self.long_runs = good < RUN_GOOD;
        }
        let run = self.scan(self.cursor..below, 1, want).or_else(|| self.scan(first..below, 1, want));
        run.or_else(|| self.scan(below..self.end, 1, want))
    }

    /// Returns the first `want` or fewer numbers of the first free run of at least `least`.
    fn scan(&self, within: Range<u64>, least: u64, want: u64) -> Option<Range<u64>> {
        let mut at = within.start;
        while at < within.end {
            let start = next_bit(&self.used, at, within.end, false);
            let stop = next_bit(&self.used, start, within.end.min(start + want), true);
            if stop - start >= least {
                return Some(start..stop);
            }
            at = stop;
        }
        None
    }

    fn extend(&mut self, end: u64) {
        self.free += end - self.end;
        self.end = end;
        self.used.resize(end.div_ceil(64) as usize, 0);
        self.named.resize(end.div_ceil(64) as usize, 0);
        self.chunks.resize(self.chunks.len().max(self.chunks_needed()), Chunk { at: None, dirty: true });
    }

    fn take(&mut self, run: Range<u64>) {
        for no in run {
            assert!(!bit(&self.used, no), "a number is handed out once");
            set(&mut self.used, no);
            set(&mut self.named, no);
            self.touch(no);
            self.free -= 1;
        }
    }

    fn take_ahead(&mut self, run: Range<u64>) {
        self.free -= run.end - run.start;
        self.ahead += run.end - run.start;
        for no in run {
            assert!(!bit(&self.used, no), "a number is handed out once");
            set(&mut self.used, no);
        }
    }

    fn touch(&mut self, no: u64) {
        let chunk = (no / self.chunk_pages()) as usize;
        self.chunks[chunk].dirty = true;
    }

    /// The next save writes the whole bitmap anew.
    pub(crate) fn touch_all(&mut self) {
        self.chunks.iter_mut().for_each(|chunk| chunk.dirty = true);
    }

    /// The next save writes those of the bitmap's own pages anew that lie at or above `from`.
    pub(crate) fn touch_from(&mut self, from: u64) {
        self.chunks.iter_mut().for_each(|chunk| chunk.dirty |= chunk.at.is_some_and(|at| at.no >= from));
        if self.index.iter().any(|&no| no >= from)
            && let Some(first) = self.chunks.first_mut()
        {
            // The index is written with whatever chunk is.
            first.dirty = true;
        }
    }

    fn body_bytes(&self) -> usize {
        self.page_bytes - PAGE_HEADER_BYTES
    }

    /// Numbers that one Space page speaks for: a whole number of words.
    fn chunk_pages(&self) -> u64 {
        ((self.body_bytes() - CHUNK_HEADER_BYTES) * 8) as u64
    }

    fn chunks_needed(&self) -> usize {
        self.end.div_ceil(self.chunk_pages()) as usize
    }

    fn index_entries(&self) -> usize {
        (self.body_bytes() - INDEX_HEADER_BYTES) / ENTRY_BYTES
    }

    /// Writes the bitmap as of the header in the making, which will name what this returns. After an error: `abort`.
    pub(crate) fn save(
        &mut self,
        mut write: impl FnMut(u64, PageKind, &[u8]) -> Result<PageRef, PageError>,
    ) -> Result<PageRef, PageError> {
        if let Some(root) = self.root
            && self.saved_end == self.end
            && !self.chunks.iter().any(|c| c.dirty)
        {
            return Ok(root);
        }
        assert!(self.undo.is_none(), "a header is saved once");
        self.undo = Some(Box::new(Undo {
            chunks: self.chunks.iter().map(|c| c.at).collect(),
            index: self.index.clone(),
            root: self.root,
            taken: Vec::new(),
        }));
        let (numbers, index) = self.take_numbers()?;
        self.undo.as_mut().expect("set above").taken = numbers.values().chain(&index).copied().collect();
        let mut body = vec![0; self.body_bytes()];
        for (&chunk, &no) in &numbers {
            self.encode_chunk(chunk, &mut body);
            let at = write(no, PageKind::Space, &body)?;
            self.chunks[chunk] = Chunk { at: Some(at), dirty: false };
        }
        // From the last part to the first, as each names the next.
        let mut next = None;
        for (part, &no) in index.iter().enumerate().rev() {
            self.encode_index(part, next, &mut body);
            next = Some(write(no, PageKind::SpaceIndex, &body)?);
        }
        self.index = index;
        self.root = next;
        self.saved_end = self.end;
        Ok(next.expect("there is at least one part"))
    }

    /// Takes a number for each chunk that changed, and for the index. Taking one may change another chunk, or
    /// lengthen the bitmap; there are finitely many, so this ends.
    fn take_numbers(&mut self) -> Result<(BTreeMap<usize, u64>, Vec<u64>), PageError> {
        for chunk in self.chunks.split_off(self.chunks_needed()) {
            if let Some(at) = chunk.at {
                self.retire(at.no)?;
            }
        }
        for no in std::mem::take(&mut self.index) {
            self.retire(no)?;
        }
        let mut numbers = BTreeMap::new();
        let mut index = Vec::new();
        loop {
            let before = numbers.len() + index.len();
            for chunk in 0..self.chunks.len() {
                if self.chunks[chunk].dirty && !numbers.contains_key(&chunk) {
                    if let Some(at) = self.chunks[chunk].at {
                        self.retire(at.no)?;
                    }
                    numbers.insert(chunk, self.alloc_run(1).start);
                }
            }
            while index.len() < self.chunks.len().div_ceil(self.index_entries()) {
                index.push(self.alloc_run(1).start);
            }
            if numbers.len() + index.len() == before {
                return Ok((numbers, index));
            }
        }
    }

    /// Releases a page of the bitmap itself. That it is in use was so when the bitmap was loaded; in a forged file a tree
    /// may have named it as well, and given it back.
    fn retire(&mut self, no: u64) -> Result<(), PageError> {
        if self.release(no) { Ok(()) } else { Err(PageError::node(no, self.page_bytes, "two have used it")) }
    }

    fn encode_chunk(&self, chunk: usize, body: &mut [u8]) {
        let words = self.chunk_words(chunk);
        let set: u32 = words.iter().map(|w| w.count_ones()).sum();
        body.fill(0);
        body[..8].copy_from_slice(&(chunk as u64).to_le_bytes());
        body[8..12].copy_from_slice(&set.to_le_bytes());
        for (out, word) in body[CHUNK_HEADER_BYTES..].chunks_exact_mut(8).zip(words) {
            out.copy_from_slice(&word.to_le_bytes());
        }
    }

    fn chunk_words(&self, chunk: usize) -> &[u64] {
        let per_chunk = (self.chunk_pages() / 64) as usize;
        let from = chunk * per_chunk;
        &self.named[from..self.named.len().min(from + per_chunk)]
    }

    fn encode_index(&self, part: usize, next: Option<PageRef>, body: &mut [u8]) {
        let per_part = self.index_entries();
        let from = part * per_part;
        let entries = &self.chunks[from..self.chunks.len().min(from + per_part)];
        body.fill(0);
        body[..8].copy_from_slice(&self.end.to_le_bytes());
        body[8..12].copy_from_slice(&(entries.len() as u32).to_le_bytes());
        body[12..16].copy_from_slice(&(part as u32).to_le_bytes());
        if let Some(next) = next {
            put_ref(&mut body[16..32], next);
        }
        for (out, chunk) in body[INDEX_HEADER_BYTES..].chunks_exact_mut(ENTRY_BYTES).zip(entries) {
            put_ref(out, chunk.at.expect("every chunk has been saved"));
        }
    }

    /// Reads the bitmap that header `durable` names. Memory grows with pages read, not with what a page claims.
    pub(crate) fn load<P: PageRead>(pages: &P, root: PageRef, durable: u64) -> Result<Self, PageError> {
        let page_bytes = pages.body_bytes() + PAGE_HEADER_BYTES;
        let mut space = Self::new(page_bytes, durable + 1);
        let first = first_page(page_bytes);
        let broken = |at: PageRef, rule| PageError::node(at.no, page_bytes, rule);
        let mut next = Some(root);
        let mut end = None;
        space.chunks.clear();
        space.used.clear();
        while let Some(at) = next {
            let body = pages.page(at, PageKind::SpaceIndex)?;
            let spans = u64_at(&body, 0);
            if spans < first || spans > PAGE_NO_MAX + 1 || end.is_some_and(|e| e != spans) {
                return Err(broken(at, "the number of pages is out of range"));
            }
            end = Some(spans);
            space.end = spans;
            let left = space.chunks_needed() - space.chunks.len();
            let entries = u32_at(&body, 8) as usize;
            if entries != left.min(space.index_entries()) || u32_at(&body, 12) as usize != space.index.len() {
                return Err(broken(at, "a part of the index is not the one expected"));
            }
            let (used, rest) = body[INDEX_HEADER_BYTES..].split_at(entries * ENTRY_BYTES);
            if rest.iter().any(|&b| b != 0) {
                return Err(broken(at, "there is something behind the entries"));
            }
            for entry in used.chunks_exact(ENTRY_BYTES) {
                space.load_chunk(pages, get_ref(entry))?;
            }
            space.index.push(at.no);
            let follow = get_ref(&body[16..32]);
            next = (left > entries).then_some(follow);
            if next.is_none() && follow != (PageRef { no: 0, proof: 0 }) {
                return Err(broken(at, "the last part of the index names another"));
            }
        }
        if next_bit(&space.used, 0, first, false) != first {
            return Err(broken(root, "the file's own headers are not in use"));
        }
        space.named = space.used.clone();
        let mut own: Vec<u64> = space.chunks.iter().filter_map(|c| c.at).map(|at| at.no).collect();
        own.extend(&space.index);
        own.sort_unstable();
        if own.windows(2).any(|w| w[0] == w[1]) || own.iter().any(|&no| no < first || !space.is_named(no)) {
            return Err(broken(root, "the bitmap's own pages are not in use"));
        }
        let used: u64 = space.used.iter().map(|w| u64::from(w.count_ones())).sum();
        space.free = space.end - used;
        space.root = Some(root);
        space.saved_end = space.end;
        Ok(space)
    }

    fn load_chunk<P: PageRead>(&mut self, pages: &P, at: PageRef) -> Result<(), PageError> {
        let broken = |rule| PageError::node(at.no, self.page_bytes, rule);
        let body = pages.page(at, PageKind::Space)?;
        let chunk = self.chunks.len() as u64;
        if u64_at(&body, 0) != chunk || u32_at(&body, 12) != 0 {
            return Err(broken("it is another part of the bitmap"));
        }
        let here = (self.end - chunk * self.chunk_pages()).min(self.chunk_pages());
        let words = here.div_ceil(64) as usize;
        let (bits, rest) = body[CHUNK_HEADER_BYTES..].split_at(words * 8);
        let before = self.used.len();
        self.used.extend(bits.chunks_exact(8).map(|b| u64_at(b, 0)));
        let set: u32 = self.used[before..].iter().map(|w| w.count_ones()).sum();
        let beyond = if here.is_multiple_of(64) { 0 } else { self.used[self.used.len() - 1] >> (here % 64) };
        if beyond != 0 || rest.iter().any(|&b| b != 0) {
            return Err(broken("a page behind the file's end is in use"));
        }
        if set != u32_at(&body, 8) {
            return Err(broken("the number of bits is not the one it says"));
        }
        self.chunks.push(Chunk { at: Some(at), dirty: false });
        Ok(())
    }
}

#[cfg(any(test, feature = "testing"))]
impl Space {
    /// Reads a bitmap of one page and of one index page, any bytes, and writes it again.
    pub(crate) fn fuzz<P: PageRead>(pages: &P, index: &[u8], chunk: &[u8]) {
        let Ok(space) = Self::load(pages, PageRef { no: u64::from(index[8]), proof: 0 }, 1) else { return };
        let (counts, first) = (space.counts(), first_page(space.page_bytes));
        assert!(counts.used + counts.free == counts.end && counts.used >= first, "numbers are used or free");
        let mut written = vec![0; space.body_bytes()];
        space.encode_index(0, None, &mut written);
        assert!(written == index, "an index is written in one way");
        space.encode_chunk(0, &mut written);
        assert!(written == chunk, "a bitmap is written in one way");
    }
}

fn put_ref(out: &mut [u8], at: PageRef) {
    out[..8].copy_from_slice(&at.no.to_le_bytes());
    out[8..].copy_from_slice(&at.proof.to_le_bytes());
}

fn get_ref(b: &[u8]) -> PageRef {
    PageRef { no: u64_at(b, 0), proof: u64_at(b, 8) }
}

fn bit(bits: &[u64], no: u64) -> bool {
    bits[(no / 64) as usize] >> (no % 64) & 1 != 0
}

fn set(bits: &mut [u64], no: u64) {
    bits[(no / 64) as usize] |= 1 << (no % 64);
}

fn clear(bits: &mut [u64], no: u64) {
    bits[(no / 64) as usize] &= !(1 << (no % 64));
}

/// Returns the first number from `from` on whose bit is `value`, or `end`.
fn next_bit(bits: &[u64], from: u64, end: u64, value: bool) -> u64 {
    let mut at = from;
    while at < end {
        let word = bits[(at / 64) as usize];
        let rest = (if value { word } else { !word }) >> (at % 64);
        if rest != 0 {
            return (at + u64::from(rest.trailing_zeros())).min(end);
        }
        at = (at / 64 + 1) * 64;
    }
    end
}

#[cfg(test)]
mod tests;
