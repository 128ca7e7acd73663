//! The frame cache: opened pages in memory, found and pinned with one atomic addition.
//!
//! All frames lie in one slab, touched only as they are used. Each frame has a word: page number (36 bits), heat
//! (2 bits), pins (26 bits). Eight words share a cache line, a set; a page may lie in either of two sets, so that
//! few pages fight for one place while others stand empty. Which frame a word speaks for follows from its position.
//!
//! The life of a word:
//!
//! ```text
//!   EMPTY --claim (no pins)--> LOADING --publish--> page number --forget, or claim for another page--> ...
//! ```
//!
//! The rules that make the slab sound (`slab.rs` has the bytes, and all that is unsafe):
//! - bytes of a frame are read only by who added a pin to the word while it held a page number, and no longer than
//!   that pin stands;
//! - bytes are written only by who turned the word to LOADING, which succeeds only where there are no pins, in one
//!   step with seeing that;
//! - a lookup that pins a word and finds another number in it takes the pin back and touches no bytes. Such stray
//!   pins may stand on any word, so a change of the number never loses pins.
//!
//! A page enters cold and every hit heats it by one, up to 3; the coldest unpinned frame of its two sets makes room.
//! A scan therefore pushes out other pages that came once, and not those in use (as S3-FIFO's small queue does, with
//! one frame in sixteen). Where no cold frame is left, making room cools both sets, else yesterday's hot pages would
//! stay for ever.
//!
//! Plaintext of an encrypted file stays in its frame as long as its page is in the cache: a page that makes room for
//! another is overwritten whole at once, one that is taken out, or does not load, is wiped when its last pin goes, and
//! the dropped cache wipes every frame ever used.

mod slab;

use std::io;

pub(crate) use self::slab::Frame;
use self::slab::{Claim, Slab};
use crate::env::mix;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

const WAYS: usize = 8;
const PINS_BITS: u32 = 26;
const PINS_MASK: u64 = (1 << PINS_BITS) - 1;
/// Past this many pins on one frame a reader gets a copy: the count must never run into the heat.
const PINS_MAX: u64 = 1 << (PINS_BITS - 1);
const HEAT_ONE: u64 = 1 << PINS_BITS;
const HEAT_MASK: u64 = 3 << PINS_BITS;
const NO_SHIFT: u32 = PINS_BITS + 2;
/// Largest page number that a cache (and so a file) can hold: 2^36 pages of 4 KiB are 256 TiB.
pub(crate) const PAGE_NO_MAX: u64 = LOADING - 1;
/// No page has the number 0, where the file's header is.
const EMPTY: u64 = 0;
const LOADING: u64 = (1 << (64 - NO_SHIFT)) - 1;
/// The claimer's own pin keeps other claims away.
const CLAIMED: u64 = LOADING << NO_SHIFT | 1;
/// A word of a frame that was never used is 0; any other empty one is warm, so that dropping knows what to wipe.
const USED: u64 = HEAT_ONE;
/// One in so many evictions cools the two sets that it looked at even where a cold page was found: a scan of four
/// times the cache cools every frame once.
const COOL_EVERY: u64 = 64;
/// Loads of different pages wait for each other only where their numbers fall on one of these.
const LOAD_LOCKS: usize = 64;

#[repr(align(64))]
struct Set([AtomicU64; WAYS]);

/// The cache.
pub(crate) struct Frames {
    sets: Box<[Set]>,
    slab: Slab,
    page_bytes: usize,
    wipe: bool,
    loads: [Mutex<()>; LOAD_LOCKS],
    misses: AtomicU64,
    evictions: AtomicU64,
    bypasses: AtomicU64,
}

/// What happened so far. Hits are not counted: that would make every reader write to one cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FrameStats {
    pub(crate) frames: u64,
    pub(crate) used: u64,
    /// Pages that had to be loaded.
    pub(crate) misses: u64,
    /// Pages that made room for others.
    pub(crate) evictions: u64,
    /// Loads that found every frame pinned and went to the heap.
    pub(crate) bypasses: u64,
}

/// What a load gave.
pub(crate) enum Loaded<'f> {
    Frame(Frame<'f>),
    /// Every frame that the page could take was pinned.
    Heap(Box<[u8]>),
}

impl Frames {
    /// Makes a cache whose frames and words together stay within the budget, but for a least of eight frames.
    /// `wipe`: the pages are secret.
    pub(crate) fn new(budget_bytes: usize, page_bytes: usize, wipe: bool) -> io::Result<Self> {
        assert!(page_bytes.is_multiple_of(4096), "pages are whole blocks");
        let set_bytes = WAYS * page_bytes + size_of::<Set>();
        let count = (budget_bytes / set_bytes).max(1);
        let slab = Slab::new(count * WAYS * page_bytes)?;
        let mut sets = Vec::new();
        sets.try_reserve_exact(count).map_err(|_| io::ErrorKind::OutOfMemory)?;
        sets.extend((0..count).map(|_| Set(Default::default())));
        Ok(Self {
            sets: sets.into(),
            slab,
            page_bytes,
            wipe,
            loads: [const { Mutex::new(()) }; LOAD_LOCKS],
            misses: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
            bypasses: AtomicU64::new(0),
        })
    }

    pub(crate) fn stats(&self) -> FrameStats {
        let words = || self.sets.iter().flat_map(|s| &s.0);
        FrameStats {
            frames: (self.sets.len() * WAYS) as u64,
            used: words().filter(|w| w.load(Ordering::Relaxed) >> NO_SHIFT != EMPTY).count() as u64,
            misses: self.misses.load(Ordering::Relaxed),
            evictions: self.evictions.load(Ordering::Relaxed),
            bypasses: self.bypasses.load(Ordering::Relaxed),
        }
    }

    /// Finds a page and pins it.
    #[inline]
    pub(crate) fn get(&self, no: u64) -> Option<Frame<'_>> {
        debug_assert!(no != EMPTY && no <= PAGE_NO_MAX);
        let [a, b] = self.sets_of(no);
        self.get_in(a, no).or_else(|| self.get_in(b, no))
    }

    #[inline]
    fn get_in(&self, set: usize, no: u64) -> Option<Frame<'_>> {
        for (way, word) in self.sets[set].0.iter().enumerate() {
            let seen = word.load(Ordering::Relaxed);
            if seen >> NO_SHIFT != no {
                continue;
            }
            // A cold page is heated and pinned in one step; where that fails, and on hot pages, only pinned.
            let heated = (seen & HEAT_MASK != HEAT_MASK && seen & PINS_MASK < PINS_MAX)
                .then(|| word.compare_exchange(seen, seen + HEAT_ONE + 1, Ordering::Acquire, Ordering::Relaxed).ok())
                .flatten();
            let before = heated.unwrap_or_else(|| word.fetch_add(1, Ordering::Acquire));
            if before >> NO_SHIFT == no && before & PINS_MASK < PINS_MAX {
                return Some(Frame { frames: self, slot: set * WAYS + way });
            }
            self.unpin(set * WAYS + way);
        }
        None
    }

    /// Takes a pin off. Who takes the last one off a frame whose page was taken out wipes it.
    #[inline]
    fn unpin(&self, slot: usize) {
        let before = self.word(slot).fetch_sub(1, Ordering::Release);
        if before >> NO_SHIFT == EMPTY && self.wipe {
            self.wipe_empty(slot);
        }
    }

    /// Finds a page, or makes room for it and lets `load` fill in its bytes. Two who ask for one page at once load
    /// it once. After an error the page is not in the cache.
    pub(crate) fn get_or_load<E>(
        &self,
        no: u64,
        load: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Loaded<'_>, E> {
        if let Some(frame) = self.get(no) {
            return Ok(Loaded::Frame(frame));
        }
        let _loading = self.loads[Self::load_lock(no)].lock();
        if let Some(frame) = self.get(no) {
            return Ok(Loaded::Frame(frame));
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        match self.claim(no, HEAT_MASK) {
            Some(mut claim) => {
                load(claim.bytes())?;
                Ok(Loaded::Frame(claim.publish(no)))
            }
            None => {
                self.bypasses.fetch_add(1, Ordering::Relaxed);
                let mut page = vec![0; self.page_bytes].into_boxed_slice();
                load(&mut page)?;
                Ok(Loaded::Heap(page))
            }
        }
    }

    /// Puts in a page that was just written, in place of whatever has its number, if there is room that no page in
    /// use has: what is written is often, not always, read next.
    pub(crate) fn insert(&self, no: u64, fill: impl FnOnce(&mut [u8])) {
        let _loading = self.loads[Self::load_lock(no)].lock();
        self.forget_locked(no);
        if let Some(mut claim) = self.claim(no, 0) {
            fill(claim.bytes());
            drop(claim.publish(no));
        }
    }

    /// Takes a page out, before its number gets another content. Who has it pinned keeps the old bytes.
    pub(crate) fn forget(&self, no: u64) {
        let _loading = self.loads[Self::load_lock(no)].lock();
        self.forget_locked(no);
    }

    fn forget_locked(&self, no: u64) {
        for set in self.sets_of(no) {
            for (way, word) in self.sets[set].0.iter().enumerate() {
                // Only who has the number's lock gives a word this number, so one look is enough to know that it is
                // not there; the loop is for pins that come and go.
                let taken_out = word.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |w| {
                    (w >> NO_SHIFT == no).then_some(EMPTY << NO_SHIFT | USED | w & PINS_MASK)
                });
                if self.wipe && taken_out.is_ok() {
                    self.wipe_empty(set * WAYS + way);
                }
            }
        }
    }

    /// Wipes a frame whose page was taken out, if nobody has it pinned: then whoever takes the last pin off does.
    #[cold]
    fn wipe_empty(&self, slot: usize) {
        let empty = EMPTY << NO_SHIFT | USED;
        if self.word(slot).compare_exchange(empty, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            // As a claim that loads nothing.
            drop(Claim { frames: self, slot });
        }
    }

    /// Takes the coldest unpinned frame of the page's two sets, if it is no hotter than `heat_max`. The caller holds
    /// the page's load lock.
    fn claim(&self, no: u64, heat_max: u64) -> Option<Claim<'_>> {
        let sets = self.sets_of(no);
        let vacant =
            |set: usize| self.sets[set].0.iter().filter(|w| w.load(Ordering::Relaxed) >> NO_SHIFT == EMPTY).count();
        let order = if vacant(sets[0]) >= vacant(sets[1]) { sets } else { [sets[1], sets[0]] };
        // Others claim and pin at the same time; who loses a frame that often gives up and reads to the heap.
        for _ in 0..2 * WAYS {
            let turn = self.evictions.load(Ordering::Relaxed) as usize;
            let mut best: Option<(u64, &AtomicU64, u64, usize)> = None;
            for set in order {
                for i in 0..WAYS {
                    // Ties are broken by turns, so that pages which came once leave roughly in their order.
                    let way = (i + turn) % WAYS;
                    let word = &self.sets[set].0[way];
                    let seen = word.load(Ordering::Relaxed);
                    if seen & PINS_MASK != 0 {
                        continue;
                    }
                    let rank = if seen >> NO_SHIFT == EMPTY { 0 } else { 1 + (seen & HEAT_MASK) };
                    if rank <= 1 + heat_max && best.is_none_or(|(r, ..)| rank < r) {
                        best = Some((rank, word, seen, set * WAYS + way));
                    }
                }
            }
            let (rank, word, seen, slot) = best?;
            if word.compare_exchange(seen, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                if rank > 0 {
                    let n = self.evictions.fetch_add(1, Ordering::Relaxed);
                    // A warm page goes only where pages came to stay, in use more than once, and no cold one is
                    // left: then all must prove themselves again. Pages written and never read cool nobody.
                    if rank > 1 || heat_max > 0 && mix(n).is_multiple_of(COOL_EVERY) {
                        self.cool(order);
                    }
                }
                return Some(Claim { frames: self, slot });
            }
        }
        None
    }

    fn cool(&self, sets: [usize; 2]) {
        for word in sets.iter().flat_map(|&s| &self.sets[s].0) {
            let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |w| {
                let number = w >> NO_SHIFT;
                (number != EMPTY && number != LOADING && w & HEAT_MASK != 0).then(|| w - HEAT_ONE)
            });
        }
    }

    #[inline]
    fn sets_of(&self, no: u64) -> [usize; 2] {
        let hash = mix(no);
        let reduce = |h: u64| (((h & 0xFFFF_FFFF) * self.sets.len() as u64) >> 32) as usize;
        [reduce(hash), reduce(hash >> 32)]
    }

    fn load_lock(no: u64) -> usize {
        no as usize % LOAD_LOCKS
    }

    fn word(&self, slot: usize) -> &AtomicU64 {
        &self.sets[slot / WAYS].0[slot % WAYS]
    }
}

#[cfg(test)]
mod tests;
